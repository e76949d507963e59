//! Travelling through time: whatever way a tick is reached, it is the same tick, and what a search finds is what a
//! run forward through all of history finds.
//!
//! The Debian recording is made once by this program. Random choices come from a seed that is printed and can be
//! given as `RETROVISOR_TEST_SEED`.

#[path = "../support/mod.rs"]
mod support;

mod determinism;
mod distances;
mod events;
mod interrupts;
mod kept;
mod middle;
mod questions;
mod scan;
mod search;
mod states;

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use retrovisor::tick::Tick;
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::{Debuggee, Stops, WatchKind, Watchpoint};
use retrovisor::trace::{Class, Event, What};
use support::recording::{self, Recorded, Seen};

/// Nobody interrupts.
static NEVER: AtomicBool = AtomicBool::new(false);

/// The Debian recording, made once; the reason in one line where it cannot be made.
fn linux() -> Result<&'static Recorded, String> {
    static MADE: OnceLock<Result<Recorded, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let linux = support::linux()?;
        let path = support::scratch("time-travel").join("debian.rvr");
        Ok(recording::record_linux(&linux, &path, |_| {}))
    });
    made.as_ref().map_err(Clone::clone)
}

/// Random numbers for a test, from a seed that is printed.
fn random(test: &str) -> fastrand::Rng {
    let seed = match std::env::var("RETROVISOR_TEST_SEED") {
        Ok(text) => text.parse().expect("RETROVISOR_TEST_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("{test}: RETROVISOR_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Takes down the state at the position, and checks what else is a function of the position alone against the
/// recording's events.
fn look(timeline: &Timeline, events: &[Event], by: impl Into<String>) -> Seen {
    let (tick, by) = (timeline.position(), by.into());
    let before = events.partition_point(|event| event.tick < tick);
    let last = events[..before]
        .iter()
        .rev()
        .find(|event| !matches!(event.what.kind().class(), Class::Note | Class::Check));
    assert_eq!(
        timeline.last_event(),
        last.map(|event| (event.tick, event.what.to_string())),
        "last event before tick {tick} reached by {by}"
    );
    let until = events.partition_point(|event| event.tick <= tick);
    let offset = events[..until]
        .iter()
        .rev()
        .find_map(|event| match event.what {
            What::Clock { tsc_offset } => Some(tsc_offset),
            _ => None,
        });
    assert_eq!(
        timeline.guest_time(),
        tick * 8 + offset.unwrap_or(0),
        "guest time at tick {tick} reached by {by}"
    );
    Seen {
        tick,
        state: recording::snapshot(timeline.machine()),
        by,
    }
}

/// Goes to a tick, which must succeed.
fn seek(timeline: &mut Timeline, tick: Tick) {
    timeline
        .seek(tick, &NEVER)
        .unwrap_or_else(|error| panic!("seek to {tick}: {error}"));
    assert_eq!(timeline.position(), tick);
}

/// Addresses that this position offers to watch: of its stack and what its registers point to.
fn watchable(timeline: &Timeline, random: &mut fastrand::Rng) -> Vec<u64> {
    let registers = timeline.registers(0);
    let mut byte = [0];
    (0..16)
        .map(|n| {
            registers.gpr[n]
                .wrapping_add(random.u64(0..8) * 8)
                .wrapping_sub(24)
        })
        .filter(|&address| timeline.read_virtual(0, address, &mut byte) == 1)
        .collect()
}

/// Random breakpoints and watchpoints out of what some positions offer.
fn random_stops(
    random: &mut fastrand::Rng,
    instructions: &[u64],
    data: &[u64],
    breakpoints: usize,
    watchpoints: usize,
) -> Stops {
    let pick = |random: &mut fastrand::Rng, from: &[u64]| from[random.usize(0..from.len())];
    let mut stops = Stops::default();
    if !instructions.is_empty() {
        stops.breakpoints = (0..breakpoints)
            .map(|_| pick(random, instructions))
            .collect();
    }
    if !data.is_empty() {
        stops.watchpoints = (0..watchpoints)
            .map(|_| Watchpoint {
                addr: pick(random, data),
                len: [1, 2, 4, 8, 8, 64][random.usize(0..6)],
                kind: [WatchKind::Write, WatchKind::Read, WatchKind::Access][random.usize(0..3)],
            })
            .collect();
    }
    stops.breakpoints.sort_unstable();
    stops.breakpoints.dedup();
    stops.watchpoints.sort_unstable();
    stops.watchpoints.dedup();
    stops
}

/// The small guests, with what is typed to them.
const GUESTS: &[(&str, &str)] = &[
    ("hello", ""),
    ("echo", "Hello!q"),
    ("counter", ""),
    ("timer", ""),
    ("debug", ""),
    ("triple_fault", ""),
];

/// Ticks at which an interrupt is delivered instead of an instruction.
fn interrupts(recorded: &Recorded) -> HashSet<Tick> {
    recording::interrupt_ticks(&recorded.recording)
        .into_iter()
        .collect()
}
