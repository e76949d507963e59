//! The real GDB in batch mode over a recording of the Debian kernel, as a user sits at it: what it shows is compared
//! with a replay that knows no debugger.
//!
//! Skipped, loudly, where there is no GDB or no kernel to be had.

#[path = "time_travel/scan.rs"]
#[allow(dead_code)] // the slow way of it
mod scan;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use retrovisor::cpu::state::gpr;
use retrovisor::gdb::Server;
use retrovisor::replay::Replayer;
use retrovisor::tick::Tick;
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::{Debuggee, Direction, Stops, WatchKind, Watchpoint};
use scan::{Hit, expected};
use support::recording::{Recorded, plain, record_guest, record_linux, run_to};

/// No scenario takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// The boot is recorded up to here: well into the kernel's own initialisation.
const TICKS: Tick = 500_000_000;
/// Behind this the kernel has decompressed itself and runs where it was linked to run.
const KERNEL_RUNS: Tick = 250_000_000;
/// Random choices of this program.
const SEED: u64 = 20_240_607;

/// The recording, and where GDB is; the reason in one line where one of them is missing.
fn prepared() -> Result<(&'static Recorded, std::path::PathBuf), String> {
    static MADE: OnceLock<Result<Recorded, String>> = OnceLock::new();
    let gdb = support::gdb()?;
    let made = MADE.get_or_init(|| {
        let linux = support::linux()?;
        let path = support::scratch("gdb-linux").join("debian.rvr");
        Ok(record_linux(&linux, &path, |plan| {
            plan.ticks_max = Some(TICKS);
        }))
    });
    made.as_ref()
        .map(|recorded| (recorded, gdb))
        .map_err(Clone::clone)
}

/// Sets a flag when it goes away, in a panic too: a server must not outlive its client's test.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Serves the recording from a tick on while `body` runs, which is given the address.
fn serving<T: Send>(recorded: &Recorded, at: Tick, body: impl FnOnce(&str) -> T + Send) -> T {
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    timeline.seek(at, &AtomicBool::new(false)).unwrap();
    let server = Server::bind("127.0.0.1:0").unwrap();
    let address = server.address().unwrap();
    let quit = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let _quit = SetOnDrop(&quit);
            body(&address)
        });
        server.serve(&mut timeline, &quit).unwrap();
        client.join().unwrap()
    })
}

/// Waits until GDB has ended, and kills it when it takes too long.
fn wait_for(child: &mut Child) -> Result<(), ()> {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Runs GDB with commands from a tick on, and gives what it prints.
fn gdb(recorded: &Recorded, program: &std::path::Path, at: Tick, commands: &[String]) -> String {
    serving(recorded, at, |address| {
        let mut command = Command::new(program);
        command.args(["-q", "-nx", "-batch"]);
        for line in [
            "set confirm off",
            "set width 0",
            "set architecture i386:x86-64",
            &format!("target remote {address}"),
        ]
        .into_iter()
        .chain(commands.iter().map(String::as_str))
        {
            command.arg("-ex").arg(line);
        }
        // One pipe for both, so that the order is what a user sees.
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        drop(command);
        let reader = thread::spawn(move || {
            let mut text = String::new();
            let _ = reader.read_to_string(&mut text);
            text
        });
        let ended = wait_for(&mut child);
        let text = reader.join().unwrap();
        assert!(ended.is_ok(), "GDB hangs: {text}");
        text
    })
}

/// Demands that these texts appear in this order.
fn in_order(text: &str, wanted: &[String]) {
    let mut rest = text;
    for want in wanted {
        match rest.find(want.as_str()) {
            Some(at) => rest = &rest[at + want.len()..],
            None => panic!("{want:?} is missing (or too early) in:\n{text}"),
        }
    }
}

/// All ticks that `monitor when` printed, in order.
fn ticks_told(text: &str) -> Vec<Tick> {
    text.lines()
        .filter_map(|line| line.strip_prefix("tick ")?.split(' ').next()?.parse().ok())
        .collect()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

/// Eight bytes of linear memory by the guest's page tables, as a replay without a debugger sees them.
fn memory(replayer: &Replayer, address: u64) -> Option<u64> {
    let cpu = &replayer.machine.cpu;
    let mut bytes = [0; 8];
    let physical = cpu.probe(address)?;
    (cpu.memory.read(physical, &mut bytes) == 8).then(|| u64::from_le_bytes(bytes))
}

/// A replay at a tick at which the kernel itself runs, at or behind `from`.
fn in_the_kernel(recorded: &Recorded, from: Tick) -> Replayer {
    let mut replayer = plain(&recorded.recording);
    run_to(&mut replayer, from);
    while replayer.machine.cpu.linear_rip() < 0xffff_ffff_8000_0000 {
        let next = replayer.tick() + 10_007;
        assert!(next < TICKS, "the kernel never runs behind tick {from}");
        run_to(&mut replayer, next);
    }
    replayer
}

#[test]
fn registers_and_kernel_memory_are_those_of_the_tick() {
    const TEST: &str = "registers_and_kernel_memory_are_those_of_the_tick";
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let mut random = fastrand::Rng::with_seed(SEED);
    let (mut commands, mut wanted) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let replayer = in_the_kernel(recorded, random.u64(KERNEL_RUNS..TICKS - 10_000_000));
        let (tick, state) = (replayer.tick(), &replayer.machine.cpu.state);
        let (rip, rsp) = (replayer.machine.cpu.linear_rip(), state.gpr[gpr::RSP]);
        commands.extend(strings(&[
            "continue",
            "monitor when",
            "p/x $rip",
            "p/x $rsp",
        ]));
        commands.insert(commands.len() - 4, format!("monitor seek {tick}"));
        commands.extend(strings(&["p/x $cr3", "p/x $gs_base", "p/x $efer"]));
        commands.extend([
            format!("x/gx {:#x}", rsp & !7),
            format!("x/gx {:#x}", rip & !7),
        ]);
        wanted.extend([
            format!("tick {tick} of 0 to {TICKS}"),
            format!("= {rip:#x}"),
            format!("= {rsp:#x}"),
            format!("= {:#x}", state.cr3),
            format!("= {:#x}", state.seg_base[retrovisor::cpu::state::seg::GS]),
            format!("= {:#x}", state.efer),
        ]);
        for address in [rsp & !7, rip & !7] {
            let value = memory(&replayer, address).expect("stack and code are mapped");
            wanted.push(format!("{address:#x}:\t{value:#018x}"));
        }
    }
    // An address that is nowhere, and a register that may not be written.
    commands.extend(strings(&[
        "x/gx 0xdead00000000",
        "set $rax = 1",
        "monitor info",
    ]));
    wanted.extend(strings(&[
        "Cannot access memory at address 0xdead00000000",
        "Debian",
    ]));
    in_order(&gdb(recorded, &program, 0, &commands), &wanted);
}

#[test]
fn steps_lead_there_and_back_and_both_ends_answer() {
    const TEST: &str = "steps_lead_there_and_back_and_both_ends_answer";
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let end_of_history = "No more reverse-execution history";
    let commands = strings(&[
        "reverse-stepi",
        "reverse-continue",
        "stepi",
        "monitor when",
        "stepi 99",
        "monitor when",
        "reverse-stepi 40",
        "monitor when",
        "monitor seek end",
        "continue",
        "monitor when",
        "stepi",
        "continue",
        "reverse-stepi 3",
        "monitor when",
        "continue",
        "monitor when",
        "reverse-continue",
        "monitor when",
        "p 6*7",
    ]);
    let text = gdb(recorded, &program, 0, &commands);
    assert_eq!(
        ticks_told(&text),
        [1, 100, 60, TICKS, TICKS - 3, TICKS, 0],
        "{text}"
    );
    assert_eq!(text.matches(end_of_history).count(), 6, "{text}");
    assert!(text.contains("= 42"), "{text}");
}

/// `break`, `continue` and `reverse-continue` against a forward scan.
#[test]
fn breakpoints_stop_where_a_forward_scan_says() {
    const TEST: &str = "breakpoints_stop_where_a_forward_scan_says";
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let mut random = fastrand::Rng::with_seed(SEED + 1);
    let mut compared = 0;
    for _ in 0..2 {
        let start = in_the_kernel(recorded, random.u64(KERNEL_RUNS..TICKS - 60_000_000)).tick();
        let addr = in_the_kernel(recorded, start + 1_000_000)
            .machine
            .cpu
            .linear_rip();
        let stops = Stops {
            breakpoints: vec![addr],
            watchpoints: Vec::new(),
            ..Stops::default()
        };
        let mut replayer = plain(&recorded.recording);
        run_to(&mut replayer, start);
        let hits = scan::by_running(&mut replayer, &stops, start + 30_000_000);
        let mut position = start;
        let mut wanted = Vec::new();
        let mut commands = vec![format!("break *{addr:#x}")];
        for command in ["continue", "continue", "reverse-continue", "continue"] {
            let direction = match command {
                "continue" => Direction::Forward,
                _ => Direction::Backward,
            };
            let Some((there, _)) = expected(&hits, position, direction) else {
                break;
            };
            position = there;
            wanted.push(there);
            commands.extend(strings(&[command, "monitor when"]));
        }
        let text = gdb(recorded, &program, start, &commands);
        assert_eq!(ticks_told(&text), wanted, "{commands:?}:\n{text}");
        assert_eq!(
            text.matches("Breakpoint 1, ").count(),
            wanted.len(),
            "{text}"
        );
        compared += wanted.len();
    }
    assert!(compared >= 4, "only {compared} stops");
}

/// A condition on a register and on memory, met 100,000 times, in both directions against a scan that evaluates it
/// itself at each hit. The position is asked by its register.
#[test]
fn conditions_hold_where_a_scan_of_the_counter_guest_says() {
    const TEST: &str = "conditions_hold_where_a_scan_of_the_counter_guest_says";
    let program = match support::gdb() {
        Ok(program) => program,
        Err(why) => return support::skip(TEST, &why),
    };
    let recorded = record_guest("counter", b"");
    let elf = std::fs::read(support::guest("counter")).unwrap();
    let (count, counter) = (
        support::symbol(&elf, "count"),
        support::symbol(&elf, "counter"),
    );
    let stops = Stops {
        breakpoints: vec![count],
        ..Stops::default()
    };
    let end = recorded.recording.last_tick();
    let all = scan::by_running(&mut plain(&recorded.recording), &stops, end);
    assert_eq!(all.len(), 100_000);
    let mut replayer = plain(&recorded.recording);
    let mut wanted = Vec::new();
    for hit in &all {
        run_to(&mut replayer, hit.after);
        let counted = memory(&replayer, counter).unwrap() as u32;
        if replayer.machine.cpu.state.gpr[gpr::RCX] % 10_000 == 7 && counted > 30_000 {
            wanted.push(hit.after);
        }
    }
    assert_eq!(wanted.len(), 7, "{wanted:?}");
    let mut commands = vec![format!(
        "break *{count:#x} if $rcx % 10000 == 7 && *(unsigned*){counter:#x} > 30000"
    )];
    for command in ["continue", "reverse-continue"] {
        for _ in &wanted {
            commands.extend([command.to_string(), "printf \"at %ld\\n\", $rv_tick".into()]);
        }
        commands.push(command.to_string());
    }
    let text = gdb(&recorded, &program, 0, &commands);
    let stopped: Vec<Tick> = text
        .lines()
        .filter_map(|line| line.strip_prefix("at ")?.parse().ok())
        .collect();
    let back = wanted.iter().rev();
    let both: Vec<Tick> = wanted.iter().chain(back).copied().collect();
    assert_eq!(stopped, both, "{text}");
    assert_eq!(
        text.matches("No more reverse-execution history").count(),
        2,
        "{text}"
    );
}

/// The writes among the hits that change the watched value, which are those that GDB's `watch` tells of.
fn changes(recorded: &Recorded, watched: Watchpoint, from: Tick, hits: &[Hit]) -> Vec<Hit> {
    let mut replayer = plain(&recorded.recording);
    run_to(&mut replayer, from);
    let mut value = memory(&replayer, watched.addr);
    let mut changes = Vec::new();
    for hit in hits {
        run_to(&mut replayer, hit.after);
        let now = memory(&replayer, watched.addr);
        if now != value {
            changes.push(hit.clone());
        }
        value = now;
    }
    changes
}

/// The question that the whole program is there for: who wrote this?
#[test]
fn a_watchpoint_going_backwards_finds_the_last_writer() {
    const TEST: &str = "a_watchpoint_going_backwards_finds_the_last_writer";
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let mut random = fastrand::Rng::with_seed(SEED + 2);
    let mut compared = 0;
    for _ in 0..2 {
        let replayer = in_the_kernel(recorded, random.u64(KERNEL_RUNS..TICKS - 60_000_000));
        let start = replayer.tick();
        let watched = Watchpoint {
            addr: (replayer.machine.cpu.state.gpr[gpr::RSP] & !7) - 8,
            len: 8,
            kind: WatchKind::Write,
        };
        let stops = Stops {
            breakpoints: Vec::new(),
            watchpoints: vec![watched],
            ..Stops::default()
        };
        let mut replayer = plain(&recorded.recording);
        run_to(&mut replayer, start);
        let end = start + 2_000_000;
        let hits = scan::by_running(&mut replayer, &stops, end);
        let changes = changes(recorded, watched, start, &hits);
        let mut commands = vec![format!("watch *(unsigned long *) {:#x}", watched.addr)];
        let (mut wanted, mut position) = (Vec::new(), end);
        for _ in 0..3 {
            if let Some((there, _)) = expected(&changes, position, Direction::Backward) {
                wanted.push(there);
                position = there;
                commands.extend(strings(&["reverse-continue", "monitor when"]));
            }
        }
        let text = gdb(recorded, &program, end, &commands);
        assert_eq!(ticks_told(&text), wanted, "{commands:?}:\n{text}");
        compared += wanted.len();
    }
    assert!(compared >= 2, "only {compared} stops");
}

#[test]
fn ctrl_c_stops_a_search_through_all_of_the_boot() {
    const TEST: &str = "ctrl_c_stops_a_search_through_all_of_the_boot";
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let (text, took) = serving(recorded, TICKS, |address| {
        // One pipe for both, so that the order is what a user sees.
        let (mut output, writer) = std::io::pipe().unwrap();
        let mut child = Command::new(&program)
            .args(["-q", "-nx", "-ex", "set confirm off"])
            .args(["-ex", "set architecture i386:x86-64"])
            .arg("-ex")
            .arg(format!("target remote {address}"))
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // The first byte of the processor's own data: nobody uses it, but it lies beside the stack canary, on a page
        // that no summary excludes.
        input
            .write_all(
                b"set $own = $gs_base ? $gs_base : $k_gs_base\nawatch *(char*)$own\np 100+11\n",
            )
            .unwrap();
        let mut text = read_until(&mut output, "= 111");
        input.write_all(b"reverse-continue\n").unwrap();
        thread::sleep(Duration::from_millis(600));
        let asked = Instant::now();
        let killed = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        assert!(killed.unwrap().success());
        input
            .write_all(b"monitor when\nreverse-stepi\np 6*7\ndetach\nquit\n")
            .unwrap();
        drop(input);
        text += &read_until(&mut output, "= 42");
        let took = asked.elapsed();
        let _ = output.read_to_string(&mut text);
        let _ = wait_for(&mut child);
        (text, took)
    });
    assert!(text.contains("SIGINT"), "{text}");
    let told = ticks_told(&text.replace("(gdb) ", "\n"));
    assert!(
        matches!(told[..], [tick] if 0 < tick && tick <= TICKS),
        "{told:?} in {text}"
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// Reads until a text was read or there is no more.
fn read_until(from: &mut impl Read, wanted: &str) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).unwrap_or(0) == 1 {
        bytes.push(byte[0]);
        if bytes.ends_with(wanted.as_bytes()) {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A client that speaks the protocol itself.
struct Client {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Client {
    fn connect(address: &str) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        Client {
            stream,
            pending: Vec::new(),
        }
    }

    fn send(&mut self, packet: &[u8]) {
        let sum = packet.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let frame = [b"$", packet, format!("#{sum:02x}").as_bytes()].concat();
        self.stream.write_all(&frame).unwrap();
    }

    /// The next answer that is not console output. Interrupts the machine when it does not come soon.
    fn answer(&mut self, to: &[u8]) -> Vec<u8> {
        let started = Instant::now();
        let mut interrupted = false;
        loop {
            if let Some(answer) = self.take_packet() {
                if answer.first() != Some(&b'O') || answer == b"OK" {
                    return answer;
                }
                continue;
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => panic!("{} ended the session", to.escape_ascii()),
                Ok(n) => self.pending.extend_from_slice(&bytes[..n]),
                Err(_) if started.elapsed() > Duration::from_secs(20) => {
                    panic!("{} gets no answer", to.escape_ascii())
                }
                Err(_) if !interrupted && started.elapsed() > Duration::from_millis(200) => {
                    self.stream.write_all(&[3]).unwrap();
                    interrupted = true;
                }
                Err(_) => {}
            }
        }
    }

    fn take_packet(&mut self) -> Option<Vec<u8>> {
        let start = self.pending.iter().position(|&b| b == b'$')?;
        let length = self.pending[start..].iter().position(|&b| b == b'#')?;
        if self.pending.len() < start + length + 3 {
            return None;
        }
        let packet = self.pending[start + 1..start + length].to_vec();
        self.pending.drain(..start + length + 3);
        self.stream.write_all(b"+").unwrap();
        Some(packet)
    }
}

/// What GDB may send; the random packets are these with bytes changed.
const PACKETS: &[&str] = &[
    "g",
    "G00",
    "p10",
    "P10=0000000000000000",
    "mffffffff81000000,40",
    "m0,ffffffffffffffff",
    "M0,1:00",
    "X0,1:0",
    "?",
    "s",
    "c",
    "bs",
    "bc",
    "vCont?",
    "vCont;s:1",
    "vCont;c",
    "vCont;r0,ffffffffffffffff:1",
    "Z0,ffffffff81000000,1",
    "z0,ffffffff81000000,1",
    "Z2,ffffffff82000000,8",
    "z2,ffffffff82000000,8",
    "Z4,0,ffffffffffffffff",
    "z4,0,ffffffffffffffff",
    "qRcmd,7768656e",
    "qRcmd,7365656b20353025",
    "qRcmd,",
    "qXfer:features:read:target.xml:0,ffb",
    "qXfer:threads:read::0,ffb",
    "qSupported:multiprocess+",
    "qSearch:memory:ffff888000000000;1000;abcd",
    "qCRC:ffffffff81000000,1000",
    "Hg1",
    "T1",
    "qfThreadInfo",
    "!",
    "",
];

#[test]
fn a_thousand_random_packets_end_no_session() {
    const TEST: &str = "a_thousand_random_packets_end_no_session";
    let recorded = match prepared() {
        Ok((recorded, _)) => recorded,
        Err(why) => return support::skip(TEST, &why),
    };
    let mut random = fastrand::Rng::with_seed(SEED + 3);
    serving(recorded, TICKS / 2, |address| {
        let mut client = Client::connect(address);
        for _ in 0..1000 {
            let mut packet = random.choice(PACKETS).unwrap().as_bytes().to_vec();
            for _ in 0..random.usize(0..3) {
                let byte = match random.bool() {
                    true => b"0123456789abcdef,;:-=svcg"[random.usize(0..25)],
                    false => random.u8(..),
                };
                match packet.len() {
                    0 => packet.push(byte),
                    len => {
                        let at = random.usize(0..len);
                        match random.bool() {
                            true => packet[at] = byte,
                            false => packet.insert(at, byte),
                        }
                    }
                }
            }
            // What frames packets, and what asks for the end of the session, is another test's.
            packet.retain(|byte| !matches!(byte, b'$' | b'#' | b'}' | 3));
            let ends = packet.starts_with(b"k")
                || packet.starts_with(b"D")
                || packet.starts_with(b"vK")
                || packet.starts_with(b"R")
                || packet.starts_with(b"r");
            if ends {
                continue;
            }
            client.send(&packet);
            client.answer(&packet);
        }
        // It is as good as new.
        client.send(b"g");
        let registers = client.answer(b"g");
        assert!(registers.len() > 1000, "{}", registers.escape_ascii());
        client.send(b"qRcmd,7768656e");
        client.answer(b"qRcmd,7768656e");
    });
}
