//! Guests recorded under the real KVM, resolved, and replayed by the engine: the console, the ends, and all of RAM.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use retrovisor::guest::code::functions;
use retrovisor::machine::Machine;
use retrovisor::machine::compare::{differences, table_pages, unmarked};
use retrovisor::record::emulated::Plan;
use retrovisor::record::kvm::{Host, KvmOutcome, record};
use retrovisor::replay::resolve::{ResolveError, Resolved, resolve};
use retrovisor::replay::{Divergence, Replayer};
use retrovisor::trace::{EndReason, Event, Recording, What, Writer};
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
    let started = std::time::Instant::now();
    let found = resolve(&recording, &timed, |_| {})
        .unwrap_or_else(|error| panic!("{name}: {error}\n{:?}", run.outcome));
    println!("{name}: resolved in {:?}", started.elapsed());
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
    let line = host.line();
    println!("{line}");
    assert!(
        line.contains("by INT3") || line.contains("by a counter that is scaled"),
        "{line}"
    );
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
        let text = String::from_utf8_lossy(&run.console).into_owned();
        assert!(u32::from_str_radix(text.trim(), 16).is_ok(), "{text:?}");
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
fn interrupts_in_ring_3_and_faults_are_placed() {
    let Some(host) = host("interrupts_in_ring_3_and_faults_are_placed") else {
        return;
    };
    let sum = often(&host, "rings", b"", times(), EndReason::DebugExit(7));
    assert!(sum.placed > 0 && sum.wrong > 0, "{sum:?}");
}

/// What `work.s` does, in both rings (HLT in one).
#[test]
fn work_of_all_kinds_is_interrupted_and_placed() {
    let Some(host) = host("work_of_all_kinds_is_interrupted_and_placed") else {
        return;
    };
    let only = std::env::var("RETROVISOR_TEST_WORK").ok();
    for work in [
        "0m", "3m", "0s", "3s", "0f", "3f", "0c", "3c", "0p", "3p", "0e", "3e", "0h",
    ] {
        if only.as_ref().is_some_and(|only| only != work) {
            continue;
        }
        let started = std::time::Instant::now();
        let sum = often(
            &host,
            "work",
            work.as_bytes(),
            times(),
            EndReason::DebugExit(8),
        );
        println!("work {work}: {sum:?} in {:?}", started.elapsed());
        // Whoever halts is woken at an access, and ports are little else.
        let accesses = work.ends_with(['h', 'p']);
        assert!(sum.placed > 0 || accesses, "{work}: {sum:?}");
    }
}

#[test]
fn system_calls_and_interrupt_instructions_of_ring_3_are_made() {
    let Some(host) = host("system_calls_and_interrupt_instructions_of_ring_3_are_made") else {
        return;
    };
    let sum = often(&host, "calls", b"", times(), EndReason::DebugExit(8));
    assert!(sum.placed > 0, "{sum:?}");
}

#[test]
fn reads_of_the_time_stamp_counter_are_recorded() {
    let Some(mut host) = host("reads_of_the_time_stamp_counter_are_recorded") else {
        return;
    };
    let elf = fs::read(support::guest("tsc")).unwrap();
    host.set_code(move |machine| functions(machine, &elf));
    often(&host, "tsc", b"", times(), EndReason::DebugExit(9));
    // A kernel whose code nobody knows reads the host's counter: that is found out, and where.
    host.set_code(|_| Vec::new());
    let elf = fs::read(support::guest("tsc")).unwrap();
    let directory = support::scratch("kvm-tsc-unknown");
    let run = run(&host, &plan(&elf, "tsc", GUEST_RAM), &directory, b"");
    let recording = Arc::new(Recording::open(&run.untimed).unwrap());
    let divergence = diverges(&recording, &directory);
    assert!(
        divergence.to_string().contains("time-stamp counter"),
        "{divergence}"
    );
}

/// The same recording with other events.
fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut Vec<Event>)) -> Arc<Recording> {
    let recording = Arc::new(Recording::open(from).unwrap());
    let mut events = support::recording::events(&recording);
    change(&mut events);
    let mut writer = Writer::create(to, recording.config()).unwrap();
    let mut pages = BTreeMap::new();
    recording
        .ram(|number, page| {
            pages.insert(number, page.to_vec());
            true
        })
        .unwrap();
    let numbers: Vec<u64> = pages.keys().copied().collect();
    writer
        .ram(numbers, |number, out| out.copy_from_slice(&pages[&number]))
        .unwrap();
    let state = recording.state().unwrap();
    writer.state(state.version, &state.bytes).unwrap();
    for event in &events {
        writer.push(event).unwrap();
    }
    writer.finish(recording.end().unwrap()).unwrap();
    Arc::new(Recording::open(to).unwrap())
}

/// What the resolver says of an untimed recording that is not what the machine did.
fn diverges(recording: &Arc<Recording>, directory: &Path) -> Divergence {
    match resolve(recording, &directory.join("bad-timed.rvr"), |_| {}) {
        Err(ResolveError::Diverged(divergence)) => *divergence,
        other => panic!("resolved as {other:?}"),
    }
}

/// What a replay says of a recording of ticks.
fn replay_diverges(recording: &Arc<Recording>) -> Divergence {
    let mut replayer = Replayer::new(recording).unwrap();
    while replayer.tick() < replayer.end() {
        if let Err(divergence) = replayer.run_to_digest() {
            return divergence;
        }
    }
    panic!("the replay notices nothing");
}

#[test]
fn what_was_dropped_changed_or_shifted_is_reported_at_its_tick() {
    let Some(host) = host("what_was_dropped_changed_or_shifted_is_reported_at_its_tick") else {
        return;
    };
    let (run, _) = guest(&host, "timer", b"");
    let directory = run.untimed.parent().unwrap();
    let (timed, bad) = (directory.join("timed.rvr"), directory.join("bad.rvr"));
    let ticks = support::recording::interrupt_ticks(&Arc::new(Recording::open(&timed).unwrap()));
    let nth = 50;
    let interrupt = |event: &Event| matches!(event.what, What::Interrupt { .. });
    let place = |events: &[Event]| {
        let (at, _) = events
            .iter()
            .enumerate()
            .filter(|(_, e)| interrupt(e))
            .nth(nth)
            .unwrap();
        at
    };

    // Before ticks are known. The guest halts until each interrupt: without one it waits there for ever.
    let recording = rewrite(&run.untimed, &bad, |events| {
        let at = place(events);
        events.remove(at);
    });
    assert_eq!(diverges(&recording, directory).tick, ticks[nth]);
    // Another vector: its handler does not exist.
    let recording = rewrite(&run.untimed, &bad, |events| {
        let at = place(events);
        events[at].what = What::Interrupt { vector: 33 };
    });
    assert!(diverges(&recording, directory).tick >= ticks[nth]);
    // An access later: there the processor has other registers, or cannot take it.
    let recording = rewrite(&run.untimed, &bad, |events| {
        let at = place(events);
        let event = events.remove(at);
        let next = events[at..]
            .iter()
            .position(|e| e.tick > event.tick)
            .unwrap()
            + at;
        let tick = events[next].tick;
        events.insert(next, Event { tick, ..event });
    });
    let found = diverges(&recording, directory).tick;
    assert!(
        (ticks[nth]..=ticks[nth] + 1).contains(&found),
        "{found} {}",
        ticks[nth]
    );

    // And with ticks.
    let recording = rewrite(&timed, &bad, |events| {
        let at = place(events);
        events.remove(at);
    });
    assert_eq!(replay_diverges(&recording).tick, ticks[nth]);
    for by in [1, 2] {
        let recording = rewrite(&timed, &bad, |events| {
            let at = place(events);
            let mut event = events.remove(at);
            event.tick += by;
            let next = events[at..]
                .iter()
                .position(|e| e.tick > event.tick)
                .unwrap()
                + at;
            events.insert(next, event);
        });
        assert_eq!(replay_diverges(&recording).tick, ticks[nth]);
    }
}

#[test]
fn a_changed_value_is_reported_behind_the_access_that_it_answered() {
    let Some(host) = host("a_changed_value_is_reported_behind_the_access_that_it_answered") else {
        return;
    };
    let (run, _) = guest(&host, "echo", b"Hi!q");
    let directory = run.untimed.parent().unwrap();
    let timed = Arc::new(Recording::open(directory.join("timed.rvr")).unwrap());
    let answer = |event: &&mut Event| matches!(event.what, What::PioRead { port: 0x3f8, .. });
    let tick = support::recording::events(&timed)
        .iter_mut()
        .find(answer)
        .unwrap()
        .tick;
    let recording = rewrite(&run.untimed, &directory.join("bad.rvr"), |events| {
        let event = events.iter_mut().find(answer).unwrap();
        if let What::PioRead { value, .. } = &mut event.what {
            *value ^= 1;
        }
    });
    assert_eq!(diverges(&recording, directory).tick, tick + 1);
    // A state that never was: nothing fits it.
    let (run, _) = guest(&host, "busy", b"h");
    let directory = run.untimed.parent().unwrap();
    let recording = rewrite(&run.untimed, &directory.join("bad.rvr"), |events| {
        let stands = events.iter_mut().filter_map(|event| match &mut event.what {
            What::Stand(stand) => Some(stand),
            _ => None,
        });
        stands.into_iter().nth(30).unwrap().general[3] ^= 1;
    });
    let ticks = support::recording::interrupt_ticks(&Arc::new(
        Recording::open(directory.join("timed.rvr")).unwrap(),
    ));
    let found = diverges(&recording, directory).tick;
    assert!(found > ticks[29], "{found} {}", ticks[29]);
}
