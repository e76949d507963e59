//! Guests recorded under the real KVM, resolved, and replayed by the engine: the console, the ends, and all of RAM.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use retrovisor::machine::Machine;
use retrovisor::machine::compare::{differences, table_pages, unmarked};
use retrovisor::record::emulated::Plan;
use retrovisor::record::kvm::{Host, KvmOutcome, record};
use retrovisor::replay::Replayer;
use retrovisor::replay::resolve::{Resolved, resolve};
use retrovisor::trace::{EndReason, Recording};
use support::recording::{GUEST_RAM, Script, plan};

/// What came of a guest that ran under KVM.
struct Run {
    untimed: PathBuf,
    outcome: KvmOutcome,
    machine: Machine,
    console: Vec<u8>,
}

/// KVM, or the test is skipped.
fn host(test: &str) -> Option<Host> {
    match Host::open() {
        Ok(host) => Some(host),
        Err(error) => {
            support::skip(test, &error.to_string());
            None
        }
    }
}

fn run(host: &Host, plan: &Plan, directory: &Path, typed: &[u8]) -> Run {
    let untimed = directory.join("untimed.rvr");
    let (script, heard) = Script::new(typed);
    let (outcome, machine) = record(host, plan, &untimed, Box::new(script), |_, _| {})
        .unwrap_or_else(|error| panic!("{} is not recorded: {error}", plan.kernel_name));
    let console = heard.lock().unwrap().clone();
    Run {
        untimed,
        outcome,
        machine,
        console,
    }
}

/// Resolves, and replays what comes out with every digest checked: the engine's machine at the end is the real one.
fn check(run: &Run, name: &str) -> Resolved {
    let timed = run.untimed.with_file_name("timed.rvr");
    let recording = Arc::new(Recording::open(&run.untimed).unwrap());
    assert!(recording.config().untimed);
    let found = resolve(&recording, &timed, |_| {})
        .unwrap_or_else(|error| panic!("{name}: {error}\n{:?}", run.outcome));
    let recording = Arc::new(Recording::open(&timed).unwrap());
    assert!(!recording.config().untimed);
    assert_eq!(recording.torn(), None);
    assert_eq!(recording.end().unwrap().reason, run.outcome.reason);
    let mut replayer = Replayer::new(&recording).unwrap();
    replayer.world.collect_console();
    while replayer.tick() < replayer.end() {
        if let Err(divergence) = replayer.run_to_digest() {
            panic!("{name}: {divergence}");
        }
    }
    assert_eq!(
        String::from_utf8_lossy(&replayer.world.take_console()),
        String::from_utf8_lossy(&run.console),
        "{name}: the console"
    );
    compare_machines(&run.machine, &replayer.machine, name, &run.outcome.reason);
    found
}

/// All RAM, and the registers that count.
fn compare_machines(real: &Machine, ours: &Machine, name: &str, reason: &EndReason) {
    let tables = table_pages(&ours.cpu.state, &ours.cpu.memory);
    for page in 0..real.cpu.memory.pages() {
        let (a, b) = (real.cpu.memory.page(page), ours.cpu.memory.page(page));
        assert!(
            a == b || tables.contains(&(page as u32)) && unmarked(a) == unmarked(b),
            "{name}: page {page:#x} differs at the end"
        );
    }
    if !matches!(reason, EndReason::TripleFault(_)) {
        let differing = differences(&real.cpu.state, &ours.cpu.state);
        assert!(differing.is_empty(), "{name}: {differing:?}");
    }
}

fn guest(host: &Host, name: &str, typed: &[u8]) -> (Run, Resolved) {
    let elf = fs::read(support::guest(name)).unwrap();
    let mut plan = plan(&elf, name, GUEST_RAM);
    // Whoever waits for ever is a failure, not a hang.
    plan.guest_ns_max = Some(250_000_000);
    let directory = support::scratch(&format!("kvm-{name}"));
    let run = run(host, &plan, &directory, typed);
    let found = check(&run, name);
    (run, found)
}

#[rustfmt::skip]
const GUESTS: &[(&str, &str, &str, EndReason)] = &[
    ("hello", "", "hello from a guest\n", EndReason::DebugExit(0)),
    ("echo", "q", "", EndReason::DebugExit(1)),
    ("echo", "Hello, machine 17!\nq", "HELLO, MACHINE 17!\n", EndReason::DebugExit(1)),
    ("counter", "", "", EndReason::DebugExit(2)),
    ("timer", "", "100 ticks\n", EndReason::DebugExit(4)),
];

#[test]
fn guests_run_under_kvm_as_in_the_emulator_and_replay_exactly() {
    let Some(host) = host("guests_run_under_kvm_as_in_the_emulator_and_replay_exactly") else {
        return;
    };
    println!("{}", host.clock_line());
    for (name, typed, printed, end) in GUESTS {
        let (run, found) = guest(&host, name, typed.as_bytes());
        println!("{name}: {:?} {found:?}", run.outcome);
        assert_eq!(
            String::from_utf8_lossy(&run.console),
            *printed,
            "{name} with {typed:?}"
        );
        assert_eq!(run.outcome.reason, *end, "{name} with {typed:?}");
    }
}

#[test]
fn a_triple_fault_under_kvm_ends_the_recording() {
    let Some(host) = host("a_triple_fault_under_kvm_ends_the_recording") else {
        return;
    };
    let (run, _) = guest(&host, "triple_fault", b"");
    assert_eq!(run.console, b"going down\n");
    assert!(
        matches!(run.outcome.reason, EndReason::TripleFault(_)),
        "{:?}",
        run.outcome.reason
    );
}

/// Records a guest some times; each run replays exactly. Gives the sums of how resolving went.
fn often(host: &Host, name: &str, typed: &[u8], times: usize, end: EndReason) -> Resolved {
    let mut sum = Resolved::default();
    for n in 0..times {
        let (run, found) = guest(host, name, typed);
        println!("{name} {n}: {:?} {found:?}", run.outcome);
        assert_eq!(run.outcome.reason, end, "{name}");
        assert_eq!(
            run.console.len(),
            9,
            "{:?}",
            String::from_utf8_lossy(&run.console)
        );
        sum.placed += found.placed;
        sum.candidates += found.candidates;
        sum.wrong += found.wrong;
    }
    sum
}

/// How often each guest is recorded.
fn times() -> usize {
    let asked = std::env::var("RETROVISOR_TEST_TIMES").ok();
    asked.and_then(|times| times.parse().ok()).unwrap_or(20)
}

#[test]
fn interrupts_in_a_loop_of_ring_0_are_placed() {
    let Some(mut host) = host("interrupts_in_a_loop_of_ring_0_are_placed") else {
        return;
    };
    let sum = often(&host, "busy", b"h", times(), EndReason::DebugExit(6));
    assert!(sum.placed > 0 && sum.wrong > 0, "{sum:?}");
    // Without looking at RAM, wrong places are noticed by what the handler does.
    host.set_list_period(std::time::Duration::from_secs(3600));
    let sum = often(&host, "busy", b"s", times(), EndReason::DebugExit(6));
    assert!(sum.placed > 0 && sum.wrong > 0, "{sum:?}");
}

#[test]
fn interrupts_in_ring_3_system_calls_and_faults_are_placed() {
    let Some(host) = host("interrupts_in_ring_3_system_calls_and_faults_are_placed") else {
        return;
    };
    let sum = often(&host, "rings", b"", times(), EndReason::DebugExit(7));
    assert!(sum.placed > 0, "{sum:?}");
}
