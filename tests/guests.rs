//! The guests of tests/guests, and a Debian kernel by each of its entries, from the recorder through to replay: what
//! they print, how they end, and that the replay is the recording.

mod support;

use std::fs;
use std::sync::Arc;

use retrovisor::machine::boot::Protocol;
use retrovisor::replay::Replayer;
use retrovisor::tick::Tick;
use retrovisor::trace::{EndReason, Event, Recording, What};
use support::recording::{self, Recorded, compare_with_forward_run, events, record_guest};

/// A recording replayed with every digest checked: the console, and how many digests there were.
fn replay(recording: &Arc<Recording>) -> (Vec<u8>, usize) {
    let mut replayer = Replayer::new(recording).unwrap();
    replayer.world.collect_console();
    let mut checked = 0;
    while replayer.tick() < replayer.end() {
        if let Err(divergence) = replayer.run_to_digest() {
            panic!("{divergence}");
        }
        checked += 1;
    }
    // A recording without a single tick has a digest, too.
    if replayer.end() == 0 {
        replayer.check_digest().unwrap();
        checked += 1;
    }
    let left = &events(recording)[replayer.world.position().event as usize..];
    assert!(
        left.iter()
            .all(|event| matches!(event.what, What::ConsoleInput { .. })),
        "the replay leaves events of the recording over: {left:?}"
    );
    (replayer.world.take_console(), checked)
}

/// What must hold of every recording, whatever was recorded.
fn check(recorded: &Recorded) {
    let Recorded {
        recording, outcome, ..
    } = recorded;
    let end = recording.end().expect("the recorder wrote an end");
    assert_eq!(recording.torn(), None);
    assert_eq!(
        (end.tick, &end.reason),
        (outcome.ticks, &outcome.reason),
        "the file says what the recorder said"
    );
    assert_eq!(recording.last_tick(), outcome.ticks);
    assert_eq!(end.guest_ns, Some(outcome.guest_ns));
    assert_eq!(recording.events(), outcome.events);
    assert_eq!(
        fs::metadata(&recorded.path).unwrap().len(),
        outcome.bytes,
        "the size is that of the file"
    );
    let digests = events(recording)
        .iter()
        .filter(|event| matches!(event.what, What::Digest(_)))
        .count();
    let (console, checked) = replay(recording);
    assert_eq!(checked, digests, "every digest is met");
    assert_eq!(
        String::from_utf8_lossy(&console),
        String::from_utf8_lossy(&recorded.console),
        "the console replayed is the console recorded"
    );
    assert_eq!(console, recorded.console);
}

/// The modes in which a software interrupt, an exception and timer interrupts all came.
const MODES: &str = "protected 32-bit
protected 32-bit, level 3
task gate
long
long, level 3
compatibility
protected 16-bit
real
virtual-8086
virtual-8086, IOPL 0
";

/// A guest, what is typed, what it prints, and how it ends.
#[rustfmt::skip]
const GUESTS: &[(&str, &str, &str, EndReason)] = &[
    ("hello", "", "hello from a guest\n", EndReason::DebugExit(0)),
    ("echo", "q", "", EndReason::DebugExit(1)),
    ("echo", "Hello, machine 17!\nq", "HELLO, MACHINE 17!\n", EndReason::DebugExit(1)),
    // More than the serial port's queue holds.
    ("echo", "the quick-witted fox jumps over sixteen lazy bytes of a queueq", "THE ",
        EndReason::DebugExit(1)),
    ("counter", "", "", EndReason::DebugExit(2)),
    ("timer", "", "100 ticks\n", EndReason::DebugExit(4)),
    ("debug", "", "1000 visits, 1000 changes, 13 steps\n", EndReason::DebugExit(5)),
    ("modes", "", MODES, EndReason::DebugExit(6)),
];

#[test]
fn guests_print_and_end_as_they_should() {
    for (name, typed, printed, end) in GUESTS {
        let recorded = record_guest(name, typed.as_bytes());
        assert_eq!(recorded.text(), *printed, "{name} with {typed:?}");
        assert_eq!(recorded.outcome.reason, *end, "{name} with {typed:?}");
        check(&recorded);
        if !typed.is_empty() {
            let noted: Vec<u8> = events(&recorded.recording)
                .iter()
                .filter_map(|event| match &event.what {
                    What::ConsoleInput { bytes } => Some(bytes.to_vec()),
                    _ => None,
                })
                .flatten()
                .collect();
            // Up to the byte that ended it.
            let last = typed.find('q').unwrap() + 1;
            assert!(
                noted.starts_with(&typed.as_bytes()[..last]),
                "{name}: the recording notes {:?}",
                noted.escape_ascii().to_string()
            );
        }
    }
}

#[test]
fn a_triple_fault_ends_a_recording_with_its_reason() {
    let recorded = record_guest("triple_fault", b"");
    assert_eq!(recorded.text(), "going down\n");
    let EndReason::TripleFault(why) = &recorded.outcome.reason else {
        panic!("{:?}", recorded.outcome.reason);
    };
    assert!(!why.is_empty());
    check(&recorded);
}

#[test]
fn the_timer_interrupts_a_hundred_times_and_time_passes_while_the_guest_halts() {
    let recorded = record_guest("timer", b"");
    let interrupts = events(&recorded.recording)
        .iter()
        .filter(|event| matches!(event.what, What::Interrupt { vector: 32 }))
        .count();
    assert!((100..=101).contains(&interrupts), "{interrupts}");
    // 100 periods of 1193 counts of 1.193182 MHz: 99.985 ms. Almost no ticks in it.
    let ms = recorded.outcome.guest_ns as f64 / 1e6;
    assert!((98.0..103.0).contains(&ms), "{ms} ms");
    assert!(recorded.outcome.ticks < 20_000);
}

/// What RDRAND gives is in the recording, and only there.
#[test]
fn random_numbers_are_events_and_come_again() {
    let recorded = record_guest("debug", b"");
    let random = |event: &Event| match event.what {
        What::Random { value } => Some(value),
        _ => None,
    };
    let numbers: Vec<u64> = events(&recorded.recording)
        .iter()
        .filter_map(random)
        .collect();
    assert_eq!(numbers.len(), 1000);
    let mixed = numbers.iter().fold(0, |mixed, &n| mixed ^ n as u32);
    let mut replayer = Replayer::new(&recorded.recording).unwrap();
    while replayer.tick() < replayer.end() {
        replayer.run_to_digest().unwrap();
    }
    let elf = fs::read(support::guest("debug")).unwrap();
    let at = support::symbol(&elf, "mixed");
    let found = replayer.machine.cpu.memory.read_u64(at & !7) >> (8 * (at & 7));
    assert_eq!(found as u32, mixed);
}

#[test]
fn a_recording_made_twice_is_the_same() {
    for (name, typed, ..) in GUESTS {
        let [one, two] = [0, 1].map(|_| record_guest(name, typed.as_bytes()));
        assert_eq!(events(&one.recording), events(&two.recording), "{name}");
        assert_eq!(one.outcome.guest_ns, two.outcome.guest_ns, "{name}");
    }
}

/// Limits end a recording exactly where they are set, and its replay ends there, too.
#[test]
fn a_limit_ends_a_recording_at_its_tick() {
    let elf = fs::read(support::guest("counter")).unwrap();
    let directory = support::scratch("limits");
    for ticks in [0, 1, 2, 3, 1000, 54_321] {
        let mut plan = recording::plan(&elf, "counter", recording::GUEST_RAM);
        plan.ticks_max = Some(ticks);
        let recorded = recording::record_plan(&plan, &directory.join(format!("{ticks}.rvr")), b"");
        assert_eq!(recorded.outcome.ticks, ticks);
        assert_eq!(
            recorded.outcome.reason,
            EndReason::Limit(format!("{ticks} ticks"))
        );
        check(&recorded);
    }
}

/// Records the Debian guest from an entry until it has run some ticks, and replays that.
fn boot(test: &str, entry: Option<Protocol>, kernel: &[u8], name: &str, wanted: &[&str]) {
    const TICKS: Tick = 150_000_000;
    let linux = support::linux().expect("asked before");
    let initrd = fs::read(&linux.initrd).unwrap();
    let mut plan = recording::plan(kernel, name, recording::LINUX_RAM);
    plan.initrd = Some(&initrd);
    // What is printed comes out at once.
    plan.cmdline = "console=ttyS0 earlyprintk=serial,ttyS0,115200".to_string();
    plan.protocol = entry;
    plan.ticks_max = Some(TICKS);
    let path = support::scratch(test).join("boot.rvr");
    let recorded = recording::record_plan(&plan, &path, b"");
    let text = recorded.text();
    for want in wanted {
        assert!(
            text.contains(want),
            "{want:?} is not in what the guest printed within {TICKS} ticks ({}):\n{text}",
            recorded.outcome.reason
        );
    }
    assert_eq!(
        recorded.outcome.reason,
        EndReason::Limit(format!("{TICKS} ticks"))
    );
    check(&recorded);
}

#[test]
fn a_debian_kernel_starts_from_its_16_bit_entry() {
    const TEST: &str = "a_debian_kernel_starts_from_its_16_bit_entry";
    let linux = match support::linux() {
        Ok(linux) => linux,
        Err(why) => return support::skip(TEST, &why),
    };
    let kernel = fs::read(&linux.kernel).unwrap();
    let version = format!("Linux version {}", linux.version);
    boot(
        TEST,
        Some(Protocol::Linux16),
        &kernel,
        "Debian, 16-bit entry",
        // The memory map comes from the BIOS, which only the 16-bit entry asks.
        &[&version, "BIOS-e820", "Command line: console=ttyS0"],
    );
}

#[test]
fn a_debian_kernel_starts_from_its_pvh_entry() {
    const TEST: &str = "a_debian_kernel_starts_from_its_pvh_entry";
    let linux = match support::linux() {
        Ok(linux) => linux,
        Err(why) => return support::skip(TEST, &why),
    };
    let bzimage = fs::read(&linux.kernel).unwrap();
    let vmlinux = match support::vmlinux::vmlinux(&bzimage) {
        Ok(vmlinux) => vmlinux,
        Err(why) => return support::skip(TEST, &why),
    };
    let version = format!("Linux version {}", linux.version);
    boot(
        TEST,
        Some(Protocol::Pvh),
        &vmlinux,
        "Debian, PVH entry",
        &[&version, "Command line: console=ttyS0"],
    );
}

#[test]
fn states_of_small_guests_are_those_of_a_forward_run() {
    for (name, typed, ..) in GUESTS {
        let recorded = record_guest(name, typed.as_bytes());
        let mut replayer = recording::plain(&recorded.recording);
        let mut seen = Vec::new();
        // By single ticks at first, then in leaps of odd lengths.
        while replayer.tick() < replayer.end() {
            let leap = replayer.tick() / 16 + 1;
            let next = (replayer.tick() + leap).min(replayer.end());
            recording::run_to(&mut replayer, next);
            seen.push(recording::Seen {
                tick: next,
                state: recording::snapshot(&replayer.machine),
                by: format!("steps of {leap} ticks"),
            });
        }
        // The other way round every tick is reached in one leap from the one before it.
        seen.retain(|s| s.tick % 7 == 0 || s.tick == recorded.outcome.ticks);
        compare_with_forward_run(&recorded.recording, seen);
    }
}
