//! The real GDB in batch mode against a server with the toy recording: what users see.
//!
//! Skipped, loudly, where there is no GDB.

#[path = "gdb_real/conditions.rs"]
mod conditions;
#[path = "gdb_real/questions.rs"]
mod questions;
mod toy;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use retrovisor::gdb::Server;
use toy::{COUNTERS, FOREVER, LOADED, NEEDLE_AT, Toy, VICTIM};

/// No scenario takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn have_gdb() -> bool {
    let found = Command::new("gdb")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !found {
        eprintln!("SKIPPED: gdb is not installed");
    }
    found
}

/// Sets a flag when it goes away, in a panic too: a server must not outlive its client's test.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Serves a toy while `body` runs, which is given the address.
fn serving<T>(toy: &mut Toy, body: impl FnOnce(&str) -> T + Send) -> T
where
    T: Send,
{
    let server = Server::bind("127.0.0.1:0").unwrap();
    let address = server.address().unwrap();
    let quit = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let _quit = SetOnDrop(&quit);
            body(&address)
        });
        server.serve(toy, &quit).unwrap();
        client.join().unwrap()
    })
}

/// Starts GDB with commands; what it prints comes back. Killed when it takes too long.
fn gdb(address: &str, commands: &[&str]) -> String {
    let mut command = Command::new("gdb");
    command.args([
        "-q",
        "-nx",
        "-batch",
        "-ex",
        "set confirm off",
        "-ex",
        "set width 0",
    ]);
    command.arg("-ex").arg(format!("target remote {address}"));
    for line in commands {
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
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let started = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("GDB hangs: {}", reader.join().unwrap());
        }
        thread::sleep(Duration::from_millis(5));
    }
    reader.join().unwrap()
}

/// Runs commands against a toy and demands that these texts appear in this order in what GDB prints.
fn check(toy: &mut Toy, commands: &[&str], wanted: &[&str]) {
    if !have_gdb() {
        return;
    }
    let text = serving(toy, |address| gdb(address, commands));
    let mut rest = text.as_str();
    for want in wanted {
        match rest.find(want) {
            Some(at) => rest = &rest[at + want.len()..],
            None => panic!("{want:?} is missing (or too early) in:\n{text}"),
        }
    }
}

#[test]
fn registers_of_every_group() {
    check(
        &mut Toy::new(1, 100),
        &[
            "info registers",
            "info registers fs_base gs_base",
            "p $xmm0.v16_int8",
            "p $xmm15.uint128",
            "p $st0",
            "p/x $fctrl",
            "p/x $cr3",
            "p $cr0",
            "p $efer",
            "p $eflags",
            "p/x $k_gs_base",
            "p/x $mxcsr",
            "info all-registers",
        ],
        &[
            "rbx            0xb0b",
            "rip            0x401000",
            "cr8            0x7",
            "fs_base        0xf5ba5e00",
            "gs_base        0xffff888000000000",
            "{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}",
            "= 15",
            "= 1.5",
            "= 0x37f",
            "= 0x1c03000",
            "= [ PE MP ET NE WP AM PG ]",
            "= [ SCE LME LMA NXE ]",
            "= [ PF ZF IF IOPL=0 ]",
            "= 0x1234",
            "= 0x1f80",
            "st0            1.5",
            "mxcsr",
        ],
    );
}

/// What few look at does not fill the screen.
#[test]
fn the_registers_fit_a_screen() {
    if !have_gdb() {
        return;
    }
    let text = serving(&mut Toy::new(1, 100), |address| {
        gdb(address, &["info registers"])
    });
    let names: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("rax "))
        .filter_map(|line| line.split(' ').next())
        .take_while(|name| !name.starts_with('['))
        .collect();
    for name in [
        "rip",
        "gs_base",
        "k_gs_base",
        "cr3",
        "efer",
        "msr",
        "rv_tick",
    ] {
        assert!(names.contains(&name), "{name} is missing in:\n{text}");
    }
    assert!(names.len() <= 40, "{} lines:\n{text}", names.len());
}

#[test]
fn system_registers_are_typed() {
    check(
        &mut Toy {
            position: 500,
            ..Toy::new(1, 1000)
        },
        &[
            "p $cr0",
            "p $cr4",
            "p $debug.dr6",
            "p $debug.dr7",
            "p $msr.lstar",
            "p/x $tables.tr.selector",
            "p $ymm0.v4_int64",
            "p $rv_tick",
            "p $rv_time",
            "info registers",
        ],
        &[
            "= [ PE MP ET NE WP AM PG ]",
            "= [ PSE PAE MCE PGE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE SMEP SMAP ]",
            "= [ B0 BS",
            "= [ G0 ",
            "RW0=1 LEN0=3",
            "= (void (*)()) 0x401000",
            "= 0x40",
            "= {506097522914230528, 1084818905618843912, 0, 1}",
            "= 500",
            "= 4000",
            "cr3 ",
            "tables         {{gdt = {base = ",
            "debug          {{dr0 = 0x600d",
            "rv_tick        0x1f4 ",
        ],
    );
}

#[test]
fn steps_in_both_directions() {
    check(
        &mut Toy::new(1, 100),
        &[
            "stepi",
            "stepi",
            "p $rax",
            "reverse-stepi",
            "p $rax",
            "p $pc",
            "stepi 10",
            "p $rax",
        ],
        &[
            "0x0000000000401004",
            "0x0000000000401008",
            "= 2",
            "0x0000000000401004",
            "= 1",
            "0x401004",
            "= 11",
        ],
    );
}

#[test]
fn breakpoints_in_both_directions() {
    check(
        &mut Toy::new(1, 100),
        &[
            "break *0x401010",
            "continue",
            "p $rax",
            "continue",
            "p $rax",
            "reverse-continue",
            "p $rax",
            "hbreak *0x401014",
            "continue",
            "p $rax",
            "delete",
            "continue",
            "p $rax",
        ],
        &[
            "Breakpoint 1, 0x0000000000401010",
            "= 4",
            "Breakpoint 1, ",
            "= 12",
            "Breakpoint 1, ",
            "= 4",
            "Breakpoint 2, 0x0000000000401014",
            "= 5",
            "No more reverse-execution history",
            "= 100",
        ],
    );
}

#[test]
fn the_culprit_is_found_by_watch_and_reverse_continue() {
    let victim = format!("watch *(long*){VICTIM:#x}");
    check(
        &mut Toy {
            position: 5000,
            ..Toy::new(1, 5000)
        },
        &[
            &victim,
            "reverse-continue",
            "monitor when",
            "continue",
            "monitor when",
            "p/x *(long*)0x600200",
        ],
        &[
            "Hardware watchpoint 1",
            "Old value = 2989",
            "New value = 24589",
            "tick 777 of",
            "Old value = 24589",
            "New value = 2989",
            "tick 778 of",
            "= 0xbad",
        ],
    );
}

#[test]
fn read_and_access_watchpoints() {
    let read = format!("rwatch *(long*){LOADED:#x}");
    let access = format!("awatch *(long*){COUNTERS:#x}");
    check(
        &mut Toy::new(1, 1000),
        &[
            &read,
            "continue",
            "monitor when",
            "delete",
            &access,
            "continue",
            "monitor when",
            "reverse-continue",
        ],
        &[
            "Hardware read watchpoint 1",
            "tick 6 of",
            "Hardware access (read/write) watchpoint 2",
            "Old value = 1",
            "New value = 2",
            "tick 12 of",
            "Old value = 2",
            "New value = 1",
        ],
    );
}

#[test]
fn both_ends_of_history_answer_everything() {
    let everything = [
        "reverse-continue",
        "reverse-stepi",
        "x/2i $pc",
        "info registers rip",
        "stepi",
        "p $rax",
        "reverse-stepi",
        "p $rax",
    ];
    let end = [
        "continue",
        "continue",
        "stepi",
        "x/2i $pc",
        "p $rax",
        "reverse-stepi",
        "p $rax",
        "info threads",
    ];
    check(
        &mut Toy::new(1, 50),
        &[&everything[..], &end[..]].concat(),
        &[
            "No more reverse-execution history",
            "No more reverse-execution history",
            "=> 0x401000",
            "0x401000",
            "0x0000000000401004",
            "= 1",
            "0x0000000000401000",
            "= 0",
            "No more reverse-execution history",
            "No more reverse-execution history",
            "No more reverse-execution history",
            "=> 0x401008",
            "= 50",
            "= 49",
            "cpu0",
        ],
    );
}

#[test]
fn threads_are_processors_and_the_chosen_one_steps() {
    check(
        &mut Toy::new(2, 1000),
        &[
            "info threads",
            "thread 2",
            "p $r15",
            "stepi",
            "p $rax",
            "stepi",
            "p $rax",
            "monitor when",
            "reverse-stepi",
            "p $rax",
            "p $r15",
            "monitor when",
            "thread 1",
            "reverse-stepi",
            "p $rax",
            "p $r15",
            "monitor when",
        ],
        &[
            "Thread 1.1 \"cpu0\" (long 64-bit)",
            "Thread 1.2 \"cpu1\"",
            "= 1",
            "= 1",
            "= 2",
            "tick 4 of",
            "= 1",
            "= 1",
            "tick 3 of",
            "= 1",
            "= 0",
            "tick 2 of",
        ],
    );
}

#[test]
fn scheduler_locking_is_no_end_of_the_session() {
    check(
        &mut Toy::new(2, 100),
        &[
            "set scheduler-locking on",
            "stepi",
            "thread 2",
            "stepi",
            "reverse-stepi",
            "continue",
            "p $rax",
            "reverse-continue",
            "p $rax",
        ],
        &[
            "0x0000000000401004",
            "0x0000000000401004",
            "No more reverse",
            "= 50",
            "No more reverse",
            "= 0",
        ],
    );
}

#[test]
fn nothing_can_be_written_and_the_session_goes_on() {
    check(
        &mut Toy::new(1, 100),
        &[
            "set var $rax = 5",
            "p $rax",
            "set var *(int*)0x600000 = 5",
            "p *(int*)0x600000",
            "stepi",
            "p $rax",
        ],
        &["= 0", "= 0", "0x0000000000401004", "= 1"],
    );
    check(
        &mut Toy::new(1, 100),
        &["set var $rax = 5"],
        &["this is a recording: its registers cannot be changed"],
    );
    check(
        &mut Toy::new(1, 100),
        &["set var *(int*)0x600000 = 5"],
        &["Cannot access memory at address 0x600000"],
    );
}

#[test]
fn a_seek_is_an_ordinary_stop() {
    check(
        &mut Toy::new(1, 1000),
        &[
            "break *0x401000",
            "monitor seek 500",
            "continue",
            "p $rax",
            "p $pc",
            "monitor seek end",
            "stepi",
            "p $rax",
            "monitor seek -1",
            "reverse-continue",
            "p $rax",
            "monitor seek start",
            "reverse-stepi",
            "p $rax",
            "monitor seek 50%",
            "continue",
            "p $rax",
            "monitor seek 1001",
            "monitor seek",
        ],
        &[
            "to tick 500 (50.00 %)",
            "= 500",
            "= (void (*)()) 0x401010",
            "= 1000",
            "= 999",
            "= 0",
            "= 500",
            "error: tick 1001 is not in the recording, which goes from 0 to 1000",
            "error: usage: monitor seek",
        ],
    );
}

#[test]
fn find_compare_and_physical_memory() {
    check(
        &mut Toy::new(1, 1000),
        &[
            "find 0x600000, 0x600fff, 'n', 'e', 'e', 'd', 'l', 'e', '#', '$', '}', '*'",
            "find /b 0x600000, +0x1000, 0xee, 0xee",
            "x/2xb 0x401000",
            "maint packet Qqemu.PhyMemMode:1",
            "x/4xb 0x1800",
            "maint packet qqemu.PhyMemMode",
            "maint packet Qqemu.PhyMemMode:0",
            "x/4xb 0x1800",
        ],
        &[
            &format!("{NEEDLE_AT:#x}"),
            "1 pattern found",
            "Pattern not found",
            "0x0f",
            "0x1f",
            "received: \"OK\"",
            "0x6e",
            "0x65",
            "received: \"1\"",
            "received: \"OK\"",
            "Cannot access memory",
        ],
    );
}

#[test]
fn nonsense_from_the_user_ends_nothing() {
    check(
        &mut Toy::new(2, 1000),
        &[
            "maint packet H",
            "maint packet Hg-1",
            "maint packet vCont;t",
            "maint packet qCRC:",
            "maint packet G00",
            "maint packet Z9,1,1",
            "maint packet vCont;s:p1.9",
            "maint packet p999",
            "maint packet m0",
            "maint packet qXfer:features:read:nothing:0,1000",
            "maint packet \u{1}",
            "monitor nonsense",
            "monitor",
            "monitor se",
            "stepi",
            "p $rax",
        ],
        &[
            "error: no command is called",
            "retrovisor's commands",
            "usage: monitor seek",
            "= 1",
        ],
    );
}

#[test]
fn a_divergence_is_told_and_the_session_goes_on() {
    check(
        &mut Toy {
            diverges_at: Some(70),
            ..Toy::new(1, 1000)
        },
        &[
            "continue",
            "p $rax",
            "monitor seek end",
            "continue",
            "p $rax",
            "reverse-stepi",
            "p $rax",
        ],
        &["rax differs", "= 70", "diverged at 70", "= 70", "= 69"],
    );
}

#[test]
fn ctrl_c_stops_in_both_directions() {
    if !have_gdb() {
        return;
    }
    let mut toy = Toy {
        position: FOREVER / 2,
        ..Toy::new(1, FOREVER)
    };
    let text = serving(&mut toy, |address| {
        let mut child = Command::new("gdb")
            .args(["-q", "-nx", "-ex", "set confirm off", "-ex"])
            .arg(format!("target remote {address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        for line in ["continue\n", "reverse-continue\n"] {
            input.write_all(line.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(1500));
            let kill = Command::new("kill")
                .arg("-INT")
                .arg(child.id().to_string())
                .status()
                .unwrap();
            assert!(kill.success());
            thread::sleep(Duration::from_millis(500));
        }
        input.write_all(b"p 6*7\ndetach\nquit\n").unwrap();
        drop(input);
        let mut text = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        child.wait().unwrap();
        text
    });
    assert_eq!(text.matches("SIGINT").count(), 2, "{text}");
    assert!(text.contains("= 42"), "{text}");
}

#[test]
fn the_server_outlives_detach_kill_and_disconnect() {
    if !have_gdb() {
        return;
    }
    let mut toy = Toy::new(1, 1000);
    serving(&mut toy, |address| {
        for (leave, rax) in [("detach", 1), ("kill", 2), ("disconnect", 3), ("quit", 4)] {
            let text = gdb(address, &["stepi", "p $rax", leave]);
            assert!(text.contains(&format!("= {rax}\n")), "{leave}: {text}");
        }
    });
}

#[test]
fn the_script_seeks_in_one_command() {
    let script = format!(
        "source {}/gdb-scripts/retrovisor.py",
        env!("CARGO_MANIFEST_DIR")
    );
    check(
        &mut Toy::new(1, 1000),
        &[
            &script,
            "break *0x401008",
            "rv seek 500",
            "p $rax",
            "rv se -1",
            "p $pc",
            "rv when",
            "rv info",
            "set exec-direction reverse",
            "rv seek start",
            "p $rax",
            "set exec-direction forward",
            "continue",
            "rv seek end",
            "p $rax",
            "rv",
            "help rv seek",
            "rv seek 1001",
            "rv se x",
        ],
        &[
            "Program stopped",
            "= 500",
            "= (void (*)()) 0x40100c",
            "tick 499 of",
            "memory",
            "= 0",
            "Breakpoint 1, 0x0000000000401008",
            "= 1000",
            "retrovisor's commands",
            "usage: rv seek TICK",
            "12.5%",
            "tick 1001 is not in the recording",
            "\"x\" is no place",
        ],
    );
}

#[test]
fn the_scripts_commands_are_completed_once_connected() {
    if !have_gdb() {
        return;
    }
    let script = format!(
        "source {}/gdb-scripts/retrovisor.py",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = serving(&mut Toy::new(1, 1000), |address| {
        let lines =
            format!("{script}\ntarget remote {address}\ncomplete rv s\ncomplete rv \nquit\n");
        let mut child = Command::new("gdb")
            .args(["-q", "-nx", "-ex", "set confirm off"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(lines.as_bytes())
            .unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    });
    for name in ["rv seek", "rv help", "rv info", "rv when"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn the_script_without_a_server_says_so() {
    if !have_gdb() {
        return;
    }
    let script = format!(
        "source {}/gdb-scripts/retrovisor.py",
        env!("CARGO_MANIFEST_DIR")
    );
    let output = Command::new("gdb")
        .args(["-q", "-nx", "-batch", "-ex", &script, "-ex", "rv when"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("not connected: target remote"), "{text}");
}

#[test]
fn extended_remote_is_remote() {
    if !have_gdb() {
        return;
    }
    let text = serving(&mut Toy::new(1, 1000), |address| {
        let again = format!("target extended-remote {address}");
        gdb(
            address,
            &[
                "detach", &again, "stepi", "p $rax", "kill", &again, "stepi", "p $rax",
            ],
        )
    });
    assert!(text.contains("= 1\n") && text.contains("= 2\n"), "{text}");
}
