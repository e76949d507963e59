//! The user's Ctrl-C: every request comes back soon, at a position that is sound.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use retrovisor::tick::Tick;
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::{Debuggee, Direction, StopReason, Stops, WatchKind, Watchpoint};

use crate::support::recording::{Seen, compare_with_forward_run, events};
use crate::support::skip;
use crate::{NEVER, linux, look, random, seek};

/// How long a request may take from the interrupt on, with the machine that runs the tests under full load. A whole
/// search takes many times as long.
const SOON: Duration = Duration::from_millis(1500);

/// Does something that takes long, and interrupts it after a while: how long it still took.
fn interrupted<T>(
    after: Duration,
    request: impl FnOnce(&AtomicBool) -> T,
) -> (T, Option<Duration>) {
    let interrupt = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            thread::sleep(after);
            // Too late to interrupt anything?
            let late = done.load(Ordering::SeqCst);
            interrupt.store(true, Ordering::SeqCst);
            (!late).then(Instant::now)
        });
        let answer = request(&interrupt);
        let came_back = Instant::now();
        done.store(true, Ordering::SeqCst);
        let set = watcher.join().unwrap();
        (
            answer,
            set.map(|set| came_back.saturating_duration_since(set)),
        )
    })
}

#[test]
fn every_request_is_interrupted_soon_and_leaves_a_sound_state() {
    const TEST: &str = "every_request_is_interrupted_soon_and_leaves_a_sound_state";
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let mut random = random(TEST);
    let events = events(&recorded.recording);
    // Nothing of the first pass is done yet: the worst case for a seek to the end.
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let end = timeline.end();
    let never_hit = Stops {
        breakpoints: vec![0xffff_dead_beef_0001],
        watchpoints: vec![Watchpoint {
            addr: 0xffff_dead_beef_0000,
            len: 8,
            kind: WatchKind::Access,
        }],
        ..Stops::default()
    };
    let mut seen: Vec<Seen> = Vec::new();
    let mut caught = 0;
    let mut check =
        |timeline: &Timeline, from: Tick, to: Tick, took: Option<Duration>, by: &str| {
            let here = timeline.position();
            assert!(
                (from.min(to)..=from.max(to)).contains(&here),
                "{by} from {from} to {to} was interrupted at {here}"
            );
            if let Some(took) = took {
                caught += 1;
                assert!(took < SOON, "{by} came back {took:?} after the interrupt");
            }
            seen.push(look(timeline, &events, by));
        };
    for round in 0..6 {
        let after = Duration::from_millis(random.u64(0..150));
        seek(&mut timeline, 0);
        let (result, took) = interrupted(after, |flag| timeline.seek(end, flag));
        match result {
            Ok(()) => assert_eq!(timeline.position(), end),
            Err(why) => assert_eq!(why, "interrupted"),
        }
        check(&timeline, 0, end, took, "a seek to the end");

        let from = timeline.position();
        let (stop, took) = interrupted(after, |flag| {
            timeline.run(Direction::Forward, &never_hit, flag)
        });
        if timeline.position() < end {
            assert_eq!(stop.reason, StopReason::Interrupted);
        }
        check(&timeline, from, end, took, "a run forward");

        seek(&mut timeline, end / 6 * (round + 1));
        let from = timeline.position();
        let (stop, took) = interrupted(after, |flag| {
            timeline.run(Direction::Backward, &never_hit, flag)
        });
        if timeline.position() > 0 {
            assert_eq!(stop.reason, StopReason::Interrupted);
        }
        check(&timeline, from, 0, took, "a run backward");
        // Work goes on from there.
        let here = timeline.position();
        if here > 0 {
            let stop = timeline.reverse_step(0, &Stops::default(), &NEVER);
            assert_eq!(
                (stop.reason, timeline.position()),
                (StopReason::Stepped, here - 1)
            );
            check(
                &timeline,
                here,
                here - 1,
                None,
                "a step back after an interrupt",
            );
        }
    }
    // What summaries exclude is answered before anybody can interrupt it; the first pass takes longer.
    assert!(
        caught >= 2,
        "only {caught} requests were interrupted at work"
    );
    compare_with_forward_run(&recorded.recording, seen);
}

#[test]
fn a_flag_that_is_set_before_stops_at_once() {
    const TEST: &str = "a_flag_that_is_set_before_stops_at_once";
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let end = timeline.end();
    seek(&mut timeline, end / 3);
    let set = AtomicBool::new(true);
    let started = Instant::now();
    assert!(timeline.seek(end, &set).is_err());
    // Where summaries leave nothing to be run the answer may be there at once; it is then the right one.
    let stops = Stops {
        breakpoints: vec![0xffff_dead_beef_0001],
        watchpoints: Vec::new(),
        ..Stops::default()
    };
    let stop = timeline.run(Direction::Forward, &stops, &set);
    match stop.reason {
        StopReason::HistoryEnd => assert_eq!(timeline.position(), end),
        reason => assert_eq!(reason, StopReason::Interrupted),
    }
    let stop = timeline.run(Direction::Backward, &stops, &set);
    match stop.reason {
        StopReason::HistoryStart => assert_eq!(timeline.position(), 0),
        reason => assert_eq!(reason, StopReason::Interrupted),
    }
    assert!(started.elapsed() < 3 * SOON, "{:?}", started.elapsed());
}
