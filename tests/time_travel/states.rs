//! The state at a tick does not depend on the way by which the tick is reached.

use std::sync::Arc;

use retrovisor::tick::Tick;
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::{Debuggee, Direction, StopReason, Stops};
use retrovisor::trace::{Class, Event, Recording};

use crate::support::recording::{Seen, compare_with_forward_run, events, record_guest};
use crate::support::skip;
use crate::{GUESTS, NEVER, linux, look, random, random_stops, seek, watchable};

/// Random ticks of a recording; among them both ends, the neighbourhood of digests, and ticks at which something
/// arrived.
fn random_ticks(
    recording: &Recording,
    events: &[Event],
    count: usize,
    random: &mut fastrand::Rng,
) -> Vec<Tick> {
    let (end, digest) = (
        recording.last_tick(),
        recording.config().digest_distance_ticks,
    );
    let mut ticks = vec![0, 1, end - 1, end];
    for at in [digest, end / 2 / digest * digest] {
        ticks.extend([at.saturating_sub(1), at, at + 1].map(|tick| tick.min(end)));
    }
    let arrivals: Vec<Tick> = events
        .iter()
        .filter(|event| event.what.kind().class() == Class::Arrival)
        .map(|event| event.tick)
        .collect();
    for _ in 0..count / 10 {
        if let Some(&tick) = random.choice(&arrivals) {
            ticks.extend([tick, (tick + 1).min(end)]);
        }
    }
    while ticks.len() < count {
        ticks.push(random.u64(0..=end));
    }
    random.shuffle(&mut ticks);
    ticks
}

/// Steps back from a few ticks behind, and there once forward and back again.
fn by_stepping_back(
    timeline: &mut Timeline,
    tick: Tick,
    events: &[Event],
    random: &mut fastrand::Rng,
    seen: &mut Vec<Seen>,
) {
    let back = random.u64(1..=4).min(timeline.end() - tick);
    seek(timeline, tick + back);
    let none = Stops::default();
    for _ in 0..back {
        let stop = timeline.reverse_step(0, &none, &NEVER);
        assert_eq!(stop.reason, StopReason::Stepped);
    }
    assert_eq!(timeline.position(), tick, "{back} steps back");
    seen.push(look(timeline, events, format!("{back} steps back")));
    if tick > 0 && random.bool() {
        assert_eq!(
            timeline.reverse_step(0, &none, &NEVER).reason,
            StopReason::Stepped
        );
        assert_eq!(timeline.step(0, &none, &NEVER).reason, StopReason::Stepped);
        assert_eq!(timeline.position(), tick);
        seen.push(look(timeline, events, "a step back and one forward"));
    }
}

fn every_way(recording: &Arc<Recording>, count: usize, random: &mut fastrand::Rng) {
    let events = events(recording);
    let mut timeline = Timeline::open(recording.clone()).unwrap();
    let mut ticks = random_ticks(recording, &events, count, random);
    let mut seen = Vec::new();
    for &tick in &ticks {
        seek(&mut timeline, tick);
        seen.push(look(&timeline, &events, "seeking"));
    }
    random.shuffle(&mut ticks);
    for &tick in &ticks {
        by_stepping_back(&mut timeline, tick, &events, random, &mut seen);
    }
    assert_eq!(timeline.pass().progress().failure, None);
    assert!(timeline.pass().progress().divergence.is_none());
    compare_with_forward_run(recording, seen);
}

#[test]
fn a_tick_of_linux_is_the_same_by_every_way() {
    const TEST: &str = "a_tick_of_linux_is_the_same_by_every_way";
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    every_way(&recorded.recording, 200, &mut random(TEST));
}

#[test]
fn a_tick_of_a_small_guest_is_the_same_by_every_way() {
    let mut random = random("a_tick_of_a_small_guest_is_the_same_by_every_way");
    for (name, typed) in GUESTS {
        let recorded = record_guest(name, typed.as_bytes());
        every_way(&recorded.recording, 60, &mut random);
    }
}

/// A debugger that does anything in any order: everything that it sees is compared afterwards.
fn stress(
    recording: &Arc<Recording>,
    requests: usize,
    leap_max: Tick,
    random: &mut fastrand::Rng,
) -> Vec<Seen> {
    let events = events(recording);
    let mut timeline = Timeline::open(recording.clone()).unwrap();
    let end = timeline.end();
    let none = Stops::default();
    let (mut instructions, mut data) = (Vec::new(), Vec::new());
    let mut seen = Vec::new();
    for _ in 0..requests {
        let here = timeline.position();
        let by = match random.u32(0..10) {
            0 => {
                seek(&mut timeline, random.u64(0..=end));
                "a long seek".to_string()
            }
            1 | 2 => {
                let tick = (here + random.u64(0..=2 * leap_max)).saturating_sub(leap_max);
                seek(&mut timeline, tick.min(end));
                format!("a short seek from {here}")
            }
            3 | 4 => {
                let stop = timeline.step(0, &none, &NEVER);
                let (there, reason) = match here < end {
                    true => (here + 1, StopReason::Stepped),
                    false => (end, StopReason::HistoryEnd),
                };
                assert_eq!((timeline.position(), stop.reason), (there, reason));
                "a step".to_string()
            }
            5..=7 => {
                let stop = timeline.reverse_step(0, &none, &NEVER);
                let (there, reason) = match here {
                    0 => (0, StopReason::HistoryStart),
                    _ => (here - 1, StopReason::Stepped),
                };
                assert_eq!((timeline.position(), stop.reason), (there, reason));
                "a step back".to_string()
            }
            _ if instructions.is_empty() => continue,
            n => {
                let kinds = (random.usize(0..3), random.usize(0..2));
                let stops = random_stops(random, &instructions, &data, kinds.0, kinds.1);
                if stops.is_empty() {
                    continue;
                }
                let direction = match n {
                    8 => Direction::Forward,
                    _ => Direction::Backward,
                };
                let stop = timeline.run(direction, &stops, &NEVER);
                check_stop(&timeline, here, direction, &stops, &stop.reason);
                format!("{direction:?} from {here} with {stops:x?}")
            }
        };
        instructions.push(timeline.machine().cpu.linear_rip());
        data.extend(watchable(&timeline, random));
        // What was seen last is likely to be met again soon.
        if instructions.len() > 8 {
            instructions.remove(0);
        }
        data.drain(..data.len().saturating_sub(24));
        seen.push(look(&timeline, &events, by));
    }
    seen
}

/// What holds of every stop, wherever it is.
fn check_stop(
    timeline: &Timeline,
    from: Tick,
    direction: Direction,
    stops: &Stops,
    reason: &StopReason,
) {
    let here = timeline.position();
    match reason {
        StopReason::Breakpoint { addr } => {
            assert!(stops.breakpoints.contains(addr));
            assert_eq!(timeline.machine().cpu.linear_rip(), *addr);
        }
        StopReason::Watchpoint { addr, kind } => assert!(
            stops
                .watchpoints
                .iter()
                .any(|w| w.addr == *addr && w.kind == *kind)
        ),
        StopReason::HistoryStart => assert_eq!((here, direction), (0, Direction::Backward)),
        StopReason::HistoryEnd => {
            assert_eq!((here, direction), (timeline.end(), Direction::Forward));
        }
        other => panic!("{other:?}"),
    }
    match direction {
        Direction::Forward => assert!(here > from || here == timeline.end()),
        Direction::Backward => assert!(here < from || here == 0),
    }
}

#[test]
fn any_requests_in_any_order_lead_to_the_same_states_in_linux() {
    const TEST: &str = "any_requests_in_any_order_lead_to_the_same_states_in_linux";
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let seen = stress(&recorded.recording, 200, 2_000_000, &mut random(TEST));
    compare_with_forward_run(&recorded.recording, seen);
}

#[test]
fn any_requests_in_any_order_lead_to_the_same_states_in_small_guests() {
    let mut random = random("any_requests_in_any_order_lead_to_the_same_states_in_small_guests");
    for (name, typed) in GUESTS {
        let recorded = record_guest(name, typed.as_bytes());
        let seen = stress(&recorded.recording, 200, 300, &mut random);
        compare_with_forward_run(&recorded.recording, seen);
    }
}

#[test]
fn positions_outside_of_history_are_refused_and_both_ends_answer() {
    let recorded = record_guest("counter", b"");
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let (end, none) = (timeline.end(), Stops::default());
    assert_eq!((timeline.start(), end), (0, recorded.outcome.ticks));
    for tick in [end + 1, u64::MAX] {
        let error = timeline.seek(tick, &NEVER).unwrap_err();
        assert!(error.contains(&end.to_string()), "{error}");
        assert_eq!(timeline.position(), 0);
    }
    for _ in 0..2 {
        let stop = timeline.reverse_step(0, &none, &NEVER);
        assert_eq!(stop.reason, StopReason::HistoryStart);
        let stop = timeline.run(Direction::Backward, &none, &NEVER);
        assert_eq!(
            (stop.reason, timeline.position()),
            (StopReason::HistoryStart, 0)
        );
    }
    for _ in 0..2 {
        let stop = timeline.run(Direction::Forward, &none, &NEVER);
        assert_eq!(
            (stop.reason, timeline.position()),
            (StopReason::HistoryEnd, end)
        );
        let stop = timeline.step(0, &none, &NEVER);
        assert_eq!(stop.reason, StopReason::HistoryEnd);
    }
    let stop = timeline.reverse_step(0, &none, &NEVER);
    assert_eq!(
        (stop.reason, timeline.position()),
        (StopReason::Stepped, end - 1)
    );
}
