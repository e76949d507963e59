//! Recordings that begin in the middle of a run and end before it does: by what the guest prints, writes and executes,
//! and by the user's keys. What was recorded from the middle is what was recorded whole, from there on.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use retrovisor::cpu::state::{State, activity};
use retrovisor::guest::code::functions;
use retrovisor::machine::Machine;
use retrovisor::machine::compare::{differences, table_pages, unmarked};
use retrovisor::record::emulated::Plan;
use retrovisor::record::kvm::Host;
use retrovisor::record::moment::{Came, Key, Moment};
use retrovisor::record::phases::{Engine, From};
use retrovisor::replay::Replayer;
use retrovisor::replay::resolve::resolve_in_place;
use retrovisor::tick::{NS_PER_TICK, Tick};
use retrovisor::trace::{Accel, EndReason, Recording, What};
use support::phases::{self, Cue, Parted};
use support::recording::{
    GUEST_RAM, LINUX_RAM, events, plain, plan, record_plan, run_to, snapshot,
};
use support::{guest, scratch, skip};

const EMULATED: (Engine, Engine) = (Engine::Emulator, Engine::Emulator);

/// Opens a recording and replays it with every digest checked. Gives the machine at the end, and the console.
fn replay(path: &Path, name: &str) -> (Arc<Recording>, Replayer, String) {
    let recording = Arc::new(Recording::open(path).unwrap());
    assert_eq!(recording.torn(), None, "{name}");
    let mut replayer = Replayer::new(&recording).unwrap();
    replayer.world.collect_console();
    while replayer.tick() < replayer.end() {
        if let Err(divergence) = replayer.run_to_digest() {
            panic!("{name}: {divergence}");
        }
    }
    let left = &events(&recording)[replayer.world.position().event as usize..];
    assert!(
        left.iter()
            .all(|event| matches!(event.what, What::ConsoleInput { .. } | What::Digest(_))),
        "{name}: the replay leaves events over: {left:?}"
    );
    let console = String::from_utf8_lossy(&replayer.world.take_console()).into_owned();
    (recording, replayer, console)
}

/// Every part of an emulated run replays, says what the guest said, and has the states that the whole run has, at
/// several ticks. `whole` is recorded from power-on to the same end.
fn compare_with_whole(parted: &Parted, whole: &Arc<Recording>, name: &str) {
    for (n, part) in parted.parts.iter().enumerate() {
        let name = format!("{name}, part {}", n + 1);
        let (recording, _, console) = replay(&part.path, &name);
        assert_eq!(console, parted.heard(n), "{name}");
        let config = recording.config();
        let start = config.start.clone().expect("it began in the middle");
        assert_eq!(start.moment, part.began.as_ref().unwrap().to_string());
        let length = recording.last_tick();
        let end = recording.end().unwrap();
        // Where in the whole the part is: there are as many ticks behind it, or nobody slept before.
        let offset = match part.end.as_ref().unwrap().runs_on {
            false => whole.last_tick() - length,
            true => start.guest_ns / NS_PER_TICK,
        };
        let (mut there, mut here) = (plain(whole), plain(&recording));
        for tick in [0, 1, 2, 1000, length / 3, length / 2, length - 1, length] {
            if tick < here.tick() || tick > length {
                continue;
            }
            run_to(&mut here, tick);
            run_to(&mut there, offset + tick);
            assert_eq!(
                snapshot(&here.machine),
                snapshot(&there.machine),
                "{name}: tick {tick} of {length}"
            );
            assert_eq!(
                here.world.guest_time(tick),
                there.world.guest_time(offset + tick),
                "{name}: guest time at tick {tick}"
            );
            assert_eq!(
                here.world.task_priority(),
                there.world.task_priority(),
                "{name}: task priority at tick {tick}"
            );
        }
        assert_eq!(
            end.guest_ns,
            Some(there.world.guest_time(offset + length)),
            "{name}"
        );
    }
}

fn console(text: &str) -> From {
    From::Moment(Moment::Console(text.into()))
}

fn port(port: u16, value: Option<u32>) -> From {
    From::Moment(Moment::Port { port, value })
}

fn address(elf: &[u8], name: &str) -> Moment {
    Moment::Address {
        linear: support::symbol(elf, name),
        name: Some(name.into()),
    }
}

/// Runs an emulated guest in parts, and whole, and compares.
fn emulated(name: &str, typed: &str, from: From, cues: &[(Cue, Key)]) -> Parted {
    let elf = fs::read(guest(name)).unwrap();
    let mut plan = plan(&elf, name, GUEST_RAM);
    // Whoever waits for ever is a failure, not a hang.
    plan.guest_ns_max = Some(1_000_000_000);
    let directory = scratch(&format!("from-{name}"));
    let whole = record_plan(&plan, &directory.join("whole.rvr"), typed.as_bytes());
    let what = format!("{name} from {from:?}");
    let parted = phases::run(
        &plan,
        EMULATED,
        (from, None),
        (typed.as_bytes(), cues),
        &directory,
    );
    assert_eq!(parted.ended.reason, whole.outcome.reason, "{what}");
    assert_eq!(parted.console, whole.console, "{what}");
    assert!(!parted.parts.is_empty(), "{what}: nothing was recorded");
    compare_with_whole(&parted, &whole.recording, &what);
    parted
}

#[test]
fn guests_are_recorded_from_a_moment_on() {
    let elf = |name| fs::read(guest(name)).unwrap();
    let at = |guest, name| From::Moment(address(&elf(guest), name));
    let cases = [
        ("echo", "Hello, machine 17!\nq", console("LO, MA")),
        ("echo", "Hello!q", at("echo", "done")),
        ("hello", "", at("hello", "start")),
        ("hello", "", console("hello from a guest\n")),
        ("timer", "", at("timer", "tick")),
        ("timer", "", port(0x20, Some(0x20))),
        ("timer", "", port(0x40, None)),
        ("timer", "", console("1")),
        ("modes", "", console("long\n")),
        ("modes", "", console("task gate")),
        ("debug", "", console("1000 v")),
        ("rings", "", at("rings", "user")),
        ("latch", "", port(0x80, Some(1))),
        ("latch", "", port(0x80, Some(2))),
    ];
    for (name, typed, from) in cases {
        let parted = emulated(name, typed, from.clone(), &[]);
        assert_eq!(parted.ended.recordings, 1);
        let From::Moment(moment) = from else {
            unreachable!()
        };
        assert_eq!(parted.parts[0].began, Some(Came::Moment(moment)));
    }
}

#[test]
fn what_the_outside_was_like_is_known_at_the_start() {
    let parted = emulated("latch", "", port(0x80, Some(1)), &[]);
    let recording = Recording::open(&parted.parts[0].path).unwrap();
    let start = recording.config().start.clone().unwrap();
    assert!(start.serial_divisor && !start.serial_loopback);
    assert_eq!(start.task_priority, 5);
    assert_eq!(parted.heard(0), "seen seen\n");
    let parted = emulated("latch", "", port(0x80, Some(2)), &[]);
    let recording = Recording::open(&parted.parts[0].path).unwrap();
    let start = recording.config().start.clone().unwrap();
    assert!(!start.serial_divisor && start.serial_loopback);
    assert_eq!(parted.heard(0), "seen\n");
}

#[test]
fn a_recording_may_begin_while_the_processor_sleeps() {
    // The timer's guest halts between its interrupts; the console is looked at each time.
    let parted = emulated("timer", "", From::Asked, &[(Cue::Looks(40), Key::Begin)]);
    assert_eq!(parted.parts[0].began, Some(Came::Asked));
    let recording = Recording::open(&parted.parts[0].path).unwrap();
    let state: State = bytemuck::pod_read_unaligned(&recording.state().unwrap().bytes);
    assert_eq!(state.activity, activity::HALTED);
}

#[test]
fn recordings_end_and_begin_at_the_users_keys_while_the_machine_runs_on() {
    let typed = "abcdefghijklmnopqrstuvwxyz".replace('q', "") + "q";
    let cues = [
        (Cue::Heard("C"), Key::Begin),
        // Not while one is made.
        (Cue::Heard("D"), Key::Begin),
        (Cue::Heard("F"), Key::End),
        (Cue::Heard("G"), Key::End),
        (Cue::Heard("J"), Key::Begin),
        (Cue::Heard("M"), Key::End),
        (Cue::Heard("S"), Key::Begin),
    ];
    let parted = emulated("echo", &typed, From::Asked, &cues);
    let reasons: Vec<EndReason> = parted
        .parts
        .iter()
        .map(|part| part.end.as_ref().unwrap().outcome.reason.clone())
        .collect();
    let last = EndReason::DebugExit(1);
    assert_eq!(reasons, [EndReason::UserQuit, EndReason::UserQuit, last]);
    assert_eq!(parted.ended.recordings, 3);
    for (n, (first, later)) in [("D", "F"), ("K", "M"), ("T", "Z")].into_iter().enumerate() {
        let heard = parted.heard(n);
        assert!(heard.starts_with(first) && heard.contains(later), "{heard}");
    }
    // One from power-on is ended likewise.
    let elf = fs::read(guest("echo")).unwrap();
    let plan = plan(&elf, "echo", GUEST_RAM);
    let directory = scratch("from-power-on");
    let parted = phases::run(
        &plan,
        EMULATED,
        (From::PowerOn, None),
        (typed.as_bytes(), &cues[2..5]),
        &directory,
    );
    assert_eq!(parted.parts.len(), 2);
    let (recording, _, heard) = replay(&parted.parts[0].path, "from power-on");
    assert_eq!(recording.config().start, None);
    assert!(heard.starts_with('A') && heard.contains('F'), "{heard}");
    let (recording, _, heard) = replay(&parted.parts[1].path, "after that");
    assert!(recording.config().start.is_some());
    assert!(heard.starts_with('K') && heard.ends_with('Z'), "{heard}");
}

#[test]
fn a_recording_ends_at_a_moment_exactly() {
    let elf = fs::read(guest("timer")).unwrap();
    let plan = plan(&elf, "timer", GUEST_RAM);
    let tick = address(&elf, "tick");
    // Begins at the handler, and ends when it comes there again.
    let directory = scratch("until");
    let from = From::Moment(tick.clone());
    let parted = phases::run(
        &plan,
        EMULATED,
        (from, Some(tick.clone())),
        (b"", &[]),
        &directory,
    );
    let (recording, replayer, _) = replay(&parted.parts[0].path, "until");
    let linear = support::symbol(&elf, "tick");
    assert_eq!(replayer.machine.cpu.linear_rip(), linear);
    assert_eq!(plain(&recording).machine.cpu.linear_rip(), linear);
    assert_eq!(support::recording::interrupt_ticks(&recording).len(), 1);
    let reason = EndReason::Limit(tick.to_string());
    assert_eq!(parted.ended.reason, reason);
    assert_eq!(recording.end().unwrap().reason, reason);

    let until = Moment::Console("100".into());
    let parted = phases::run(
        &plan,
        EMULATED,
        (From::PowerOn, Some(until)),
        (b"", &[]),
        &directory,
    );
    let (_, _, heard) = replay(&parted.parts[0].path, "until a text");
    assert_eq!(heard, "100");
}

#[test]
fn limits_count_from_the_start_of_the_recording() {
    let elf = fs::read(guest("timer")).unwrap();
    let mut plan = plan(&elf, "timer", GUEST_RAM);
    plan.guest_ns_max = Some(20_000_000);
    let directory = scratch("from-limit");
    let from = || port(0x20, Some(0x20));
    let run = |plan: &_| phases::run(plan, EMULATED, (from(), None), (b"", &[]), &directory);
    let parted = run(&plan);
    let (recording, ..) = replay(&parted.parts[0].path, "guest time");
    let start = recording.config().start.as_ref().unwrap().guest_ns;
    let end = recording.end().unwrap();
    let length = end.guest_ns.unwrap() - start;
    assert!((20_000_000..20_001_000).contains(&length), "{length}");
    assert_eq!(
        end.reason,
        EndReason::Limit("0.02 s of guest time".to_string())
    );
    plan.guest_ns_max = None;
    plan.ticks_max = Some(1000);
    let parted = run(&plan);
    let (recording, ..) = replay(&parted.parts[0].path, "ticks");
    assert_eq!(recording.last_tick(), 1000);
}

#[test]
fn what_never_comes_leaves_no_file() {
    let elf = fs::read(guest("hello")).unwrap();
    let plan = plan(&elf, "hello", GUEST_RAM);
    let directory = scratch("from-never");
    let parted = phases::run(
        &plan,
        EMULATED,
        (console("goodbye"), None),
        (b"", &[]),
        &directory,
    );
    assert_eq!(parted.ended.recordings, 0);
    assert_eq!(parted.ended.reason, EndReason::DebugExit(0));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

/// All RAM, and the registers that count.
fn compare_machines(real: &Machine, ours: &Machine, name: &str) {
    let tables = table_pages(&ours.cpu.state, &ours.cpu.memory);
    for page in 0..real.cpu.memory.pages() {
        let (a, b) = (real.cpu.memory.page(page), ours.cpu.memory.page(page));
        assert!(
            a == b || tables.contains(&(page as u32)) && unmarked(a) == unmarked(b),
            "{name}: page {page:#x} differs at the end"
        );
    }
    let differing = differences(&real.cpu.state, &ours.cpu.state);
    assert!(differing.is_empty(), "{name}: {differing:?}");
}

/// The guests that go from one engine to the other: what is typed and printed, how they end, and where they are taken.
fn handed_over() -> Vec<(&'static str, &'static str, &'static str, EndReason, From)> {
    let elf = |name| fs::read(guest(name)).unwrap();
    let at = |guest, name| From::Moment(address(&elf(guest), name));
    let hello = || EndReason::DebugExit(0);
    let echo = || EndReason::DebugExit(1);
    vec![
        (
            "hello",
            "",
            "hello from a guest\n",
            hello(),
            console("from"),
        ),
        (
            "hello",
            "",
            "hello from a guest\n",
            hello(),
            at("hello", "main"),
        ),
        (
            "echo",
            "Hello, 17!\nq",
            "HELLO, 17!\n",
            echo(),
            console("LO,"),
        ),
        ("echo", "Hello!q", "HELLO!", echo(), at("echo", "done")),
        (
            "timer",
            "",
            "100 ticks\n",
            EndReason::DebugExit(4),
            at("timer", "tick"),
        ),
        (
            "timer",
            "",
            "100 ticks\n",
            EndReason::DebugExit(4),
            port(0x20, Some(0x20)),
        ),
        // What these print depends on when their interrupts come.
        ("busy", "h", "", EndReason::DebugExit(6), at("busy", "busy")),
        (
            "busy",
            "s",
            "",
            EndReason::DebugExit(6),
            port(0x20, Some(0x20)),
        ),
    ]
}

/// Runs all of them, recorded by the first engine and before that by the second.
fn hand_over(engines: (Engine, Engine), what: &str) {
    for (name, typed, printed, reason, from) in handed_over() {
        hand_one_over(engines, what, (name, typed, printed, reason, from));
    }
}

fn hand_one_over(
    engines: (Engine, Engine),
    what: &str,
    (name, typed, printed, reason, from): (&str, &str, &str, EndReason, From),
) {
    let elf = fs::read(guest(name)).unwrap();
    let mut plan = plan(&elf, name, GUEST_RAM);
    plan.guest_ns_max = Some(1_000_000_000);
    let directory = scratch(&format!("over-{name}"));
    let name = format!("{name} from {from:?}, {what}");
    let parted = phases::run(
        &plan,
        engines,
        (from, None),
        (typed.as_bytes(), &[]),
        &directory,
    );
    assert_eq!(parted.ended.reason, reason, "{name}");
    assert_eq!(parted.parts.len(), 1, "{name}");
    if !printed.is_empty() {
        assert_eq!(String::from_utf8_lossy(&parted.console), printed, "{name}");
    }
    check_part(&parted, 0, &name);
    let path = &parted.parts[0].path;
    let recording = Arc::new(Recording::open(path).unwrap());
    let (_, replayer, _) = replay(path, &name);
    compare_machines(&parted.ended.machine, &replayer.machine, &name);
    let under_kvm = recording.config().accel == Accel::Kvm;
    assert_eq!(under_kvm, matches!(engines.0, Engine::Kvm(_)), "{name}");
    // Guest time does not go back where an engine takes over, nor later. (Between what arrives from outside, a
    // recording of KVM has but an estimate of it.)
    let start = recording.config().start.as_ref().unwrap().guest_ns;
    let end = recording.end().unwrap().guest_ns.unwrap();
    let clocks = events(&recording).into_iter().filter_map(|event| {
        let What::Clock { tsc_offset } = event.what else {
            return None;
        };
        Some(tsc_offset.wrapping_add(event.tick * NS_PER_TICK))
    });
    let times: Vec<u64> = [start].into_iter().chain(clocks).chain([end]).collect();
    assert!(start > 0 && times.is_sorted(), "{name}: {times:?}");
}

/// Finds the ticks of a part if it has none, replays it, and compares the console.
fn check_part(parted: &Parted, part: usize, name: &str) -> Tick {
    let path = &parted.parts[part].path;
    if parted.parts[part].end.as_ref().unwrap().untimed {
        resolve_in_place(path, |_| {}).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let (recording, _, heard) = replay(path, name);
    assert_eq!(heard, parted.heard(part), "{name}");
    recording.last_tick()
}

fn host(test: &str) -> Option<Host> {
    match Host::open() {
        Ok(host) => Some(host),
        Err(error) => {
            skip(test, &error.to_string());
            None
        }
    }
}

#[test]
fn a_guest_is_handed_over_to_kvm() {
    if let Some(host) = host("a_guest_is_handed_over_to_kvm") {
        hand_over((Engine::Kvm(&host), Engine::Emulator), "emulator to KVM");
    }
}

#[test]
fn a_guest_is_handed_over_from_kvm() {
    if let Some(host) = host("a_guest_is_handed_over_from_kvm") {
        hand_over((Engine::Emulator, Engine::Kvm(&host)), "KVM to emulator");
    }
}

#[test]
fn a_program_under_kvm_is_recorded_from_an_instruction_on() {
    const TEST: &str = "a_program_under_kvm_is_recorded_from_an_instruction_on";
    let Some(host) = host(TEST) else {
        return;
    };
    let elf = fs::read(guest("rings")).unwrap();
    let case = || {
        let from = From::Moment(address(&elf, "user"));
        ("rings", "", "", EndReason::DebugExit(7), from)
    };
    let from_emulator = (Engine::Kvm(&host), Engine::Emulator);
    hand_one_over(from_emulator, "emulator to KVM", case());
    if !host.breaks_in_programs() {
        return skip(TEST, "this host's KVM has no breakpoints in ring 3");
    }
    for recorded in [Engine::Kvm(&host), Engine::Emulator] {
        hand_one_over((recorded, Engine::Kvm(&host)), "from KVM", case());
    }
}

#[test]
fn a_guest_is_recorded_under_kvm_from_the_middle() {
    if let Some(host) = host("a_guest_is_recorded_under_kvm_from_the_middle") {
        hand_over((Engine::Kvm(&host), Engine::Kvm(&host)), "KVM");
    }
}

#[test]
fn a_machine_goes_to_kvm_and_back_as_often_as_the_user_likes() {
    let Some(host) = host("a_machine_goes_to_kvm_and_back_as_often_as_the_user_likes") else {
        return;
    };
    let elf = fs::read(guest("timer")).unwrap();
    let plan = plan(&elf, "timer", GUEST_RAM);
    // While it halts between its interrupts, mostly.
    let keys = [Key::Begin, Key::End, Key::Begin, Key::End, Key::Begin];
    let cues: Vec<(Cue, Key)> = keys.map(|key| (Cue::Looks(15), key)).into();
    let directory = scratch("to-and-fro");
    let engines = (Engine::Kvm(&host), Engine::Emulator);
    let parted = phases::run(
        &plan,
        engines,
        (From::Asked, None),
        (b"", &cues),
        &directory,
    );
    assert_eq!(parted.console, b"100 ticks\n");
    assert_eq!(parted.ended.reason, EndReason::DebugExit(4));
    assert_eq!(parted.parts.len(), 3);
    let mut last = 0;
    for part in 0..3 {
        check_part(&parted, part, &format!("part {part}"));
        let recording = Recording::open(&parted.parts[part].path).unwrap();
        let start = recording.config().start.as_ref().unwrap().guest_ns;
        assert!(start > last, "guest time {start} after {last}");
        last = recording.end().unwrap().guest_ns.unwrap();
    }
}

#[test]
fn a_recording_under_kvm_ends_at_an_instruction() {
    let Some(host) = host("a_recording_under_kvm_ends_at_an_instruction") else {
        return;
    };
    let elf = fs::read(guest("timer")).unwrap();
    let plan = plan(&elf, "timer", GUEST_RAM);
    let tick = address(&elf, "tick");
    let directory = scratch("until-kvm");
    for before in [Engine::Emulator, Engine::Kvm(&host)] {
        let parted = phases::run(
            &plan,
            (Engine::Kvm(&host), before),
            (From::Moment(tick.clone()), Some(tick.clone())),
            (b"", &[]),
            &directory,
        );
        check_part(&parted, 0, "until");
        let (recording, replayer, _) = replay(&parted.parts[0].path, "until");
        let linear = support::symbol(&elf, "tick");
        assert_eq!(plain(&recording).machine.cpu.linear_rip(), linear);
        assert_eq!(replayer.machine.cpu.linear_rip(), linear);
        assert_eq!(support::recording::interrupt_ticks(&recording).len(), 1);
    }
}

/// The Debian kernel's command line where it shall keep away from the time-stamp counter.
const UNDER_KVM: &str = "console=ttyS0 tsc=unstable clocksource=acpi_pm";

#[test]
fn a_linux_booted_in_the_emulator_goes_to_kvm_and_back() {
    const TEST: &str = "a_linux_booted_in_the_emulator_goes_to_kvm_and_back";
    let Some(mut host) = host(TEST) else {
        return;
    };
    let linux = match support::linux() {
        Ok(linux) => linux,
        Err(why) => return skip(TEST, &why),
    };
    let (kernel, initrd) = (
        fs::read(&linux.kernel).unwrap(),
        fs::read(&linux.initrd).unwrap(),
    );
    let image = kernel.clone();
    host.set_code(move |machine| functions(machine, &image));
    let plan = Plan {
        initrd: Some(&initrd),
        cmdline: UNDER_KVM.to_string(),
        ..plan(&kernel, "Debian", LINUX_RAM)
    };
    // Recorded under KVM from the first program on, in the emulator while it prints its version, and again under KVM.
    let cues = [
        (Cue::Heard("the guest is up"), Key::End),
        (Cue::Heard("Linux (none)"), Key::Begin),
    ];
    let directory = scratch("linux-to-and-fro");
    let parted = phases::run(
        &plan,
        (Engine::Kvm(&host), Engine::Emulator),
        (console("Run /init"), None),
        (b"", &cues),
        &directory,
    );
    let heard = String::from_utf8_lossy(&parted.console).into_owned();
    assert_eq!(parted.ended.reason, EndReason::PowerOff, "{heard}");
    if let Some(sum) = &linux.busybox_md5 {
        assert!(heard.contains(sum), "{heard}");
    }
    assert!(!parted.parts.is_empty(), "{heard}");
    let mut last = 0;
    for part in 0..parted.parts.len() {
        let ticks = check_part(&parted, part, &format!("part {part}"));
        assert!(ticks > 0);
        let recording = Recording::open(&parted.parts[part].path).unwrap();
        let start = recording.config().start.as_ref().unwrap().guest_ns;
        assert!(start > last, "guest time {start} after {last}");
        last = recording.end().unwrap().guest_ns.unwrap();
    }
    println!("{} parts", parted.parts.len());
    let (_, replayer, _) = replay(&parted.parts.last().unwrap().path, "the last part");
    compare_machines(&parted.ended.machine, &replayer.machine, "Debian");
}
