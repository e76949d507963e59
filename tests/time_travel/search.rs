//! `continue` and `reverse-continue` against brute force.

use std::collections::HashSet;

use retrovisor::tick::Tick;
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::{Debuggee, Direction, StopReason, Stops, WatchKind, Watchpoint};

use crate::scan::{self, Hit, expected};
use crate::support::recording::{self, plain, record_guest, run_to};
use crate::support::skip;
use crate::{GUESTS, NEVER, interrupts, linux, random, random_stops, seek, watchable};

/// Runs from a position and compares with the hits, which are all of `window`. Whether there was something to find.
pub fn compare(
    timeline: &mut Timeline,
    stops: &Stops,
    hits: &[Hit],
    (position, direction): (Tick, Direction),
    window: (Tick, Tick),
) -> bool {
    let whole = window == (0, timeline.end());
    let (there, reason) = match (expected(hits, position, direction), direction) {
        (Some((tick, reason)), _) => (tick, reason.clone()),
        (None, _) if !whole => return false,
        (None, Direction::Forward) => (timeline.end(), StopReason::HistoryEnd),
        (None, Direction::Backward) => (0, StopReason::HistoryStart),
    };
    seek(timeline, position);
    let stop = timeline.run(direction, stops, &NEVER);
    assert_eq!(
        (timeline.position(), &stop.reason),
        (there, &reason),
        "{direction:?} from {position} with {stops:x?}"
    );
    true
}

/// Positions to start from: random ones, and where something happens.
pub fn positions(
    hits: &[Hit],
    (from, until): (Tick, Tick),
    count: usize,
    random: &mut fastrand::Rng,
) -> Vec<Tick> {
    let mut positions = vec![from, until];
    positions.extend((0..count).map(|_| random.u64(from..=until)));
    for _ in 0..count {
        if let Some(hit) = random.choice(hits) {
            let near = [
                hit.before.saturating_sub(1),
                hit.before,
                hit.after,
                hit.after + 1,
            ];
            positions.push(near[random.usize(0..4)].clamp(from, until));
        }
    }
    positions
}

#[test]
fn searches_in_small_guests_find_what_single_ticks_find() {
    let mut random = random("searches_in_small_guests_find_what_single_ticks_find");
    for (name, typed) in GUESTS {
        let recorded = record_guest(name, typed.as_bytes());
        let interrupts = interrupts(&recorded);
        let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
        let window = (0, timeline.end());
        let (mut instructions, mut data) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            seek(&mut timeline, random.u64(0..=window.1));
            instructions.push(timeline.machine().cpu.linear_rip());
            data.extend(watchable(&timeline, &mut random));
        }
        for round in 0..6 {
            let (breakpoints, watchpoints) = [(1, 0), (0, 1), (2, 2)][round % 3];
            let stops = random_stops(&mut random, &instructions, &data, breakpoints, watchpoints);
            let mut replayer = plain(&recorded.recording);
            let hits = scan::by_stepping(&mut replayer, &stops, window.1, &interrupts);
            let mut replayer = plain(&recorded.recording);
            assert_eq!(
                scan::by_running(&mut replayer, &stops, window.1),
                hits,
                "{name}: full speed and single ticks differ with {stops:x?}"
            );
            for position in positions(&hits, window, 8, &mut random) {
                for direction in [Direction::Forward, Direction::Backward] {
                    compare(&mut timeline, &stops, &hits, (position, direction), window);
                }
            }
        }
    }
}

/// Every hit of a guest's history, one `continue` after the other, and all the way back.
#[test]
fn the_timer_guest_is_walked_from_hit_to_hit_in_both_directions() {
    let recorded = record_guest("timer", b"");
    let elf = std::fs::read(crate::support::guest("timer")).unwrap();
    let symbol = |name| crate::support::symbol(&elf, name);
    let stops = Stops {
        breakpoints: vec![symbol("tick")],
        watchpoints: vec![Watchpoint {
            addr: symbol("ticks"),
            len: 4,
            kind: WatchKind::Write,
        }],
        ..Stops::default()
    };
    let mut replayer = plain(&recorded.recording);
    let end = recorded.recording.last_tick();
    let hits = scan::by_stepping(&mut replayer, &stops, end, &interrupts(&recorded));
    // The handler runs a hundred times and writes once each time.
    assert!((200..=202).contains(&hits.len()), "{} hits", hits.len());
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    for hit in &hits {
        let stop = timeline.run(Direction::Forward, &stops, &NEVER);
        assert_eq!(
            (timeline.position(), &stop.reason),
            (hit.after, &hit.reason)
        );
    }
    let stop = timeline.run(Direction::Forward, &stops, &NEVER);
    assert_eq!(
        (timeline.position(), stop.reason),
        (end, StopReason::HistoryEnd)
    );
    for hit in hits.iter().rev() {
        let stop = timeline.run(Direction::Backward, &stops, &NEVER);
        assert_eq!(
            (timeline.position(), &stop.reason),
            (hit.before, &hit.reason)
        );
    }
    let stop = timeline.run(Direction::Backward, &stops, &NEVER);
    assert_eq!(
        (timeline.position(), stop.reason),
        (0, StopReason::HistoryStart)
    );
}

/// A stretch of the Debian boot: what is to be looked for in it, and all there is of that.
struct Window {
    range: (Tick, Tick),
    searches: Vec<(Stops, Vec<Hit>)>,
}

/// Stretches of the Debian boot, each scanned by one plain run a set of stops. The timeline serves only to choose what
/// is worth looking for.
fn windows(
    recorded: &recording::Recorded,
    timeline: &mut Timeline,
    (count, ticks): (usize, Tick),
    random: &mut fastrand::Rng,
) -> Vec<Window> {
    let end = recorded.recording.last_tick();
    let mut starts: Vec<Tick> = (0..count).map(|_| random.u64(0..=end - ticks)).collect();
    starts.sort_unstable();
    let mut replayer = plain(&recorded.recording);
    let mut windows = Vec::new();
    for start in starts {
        let range = (start, start + ticks);
        let (mut instructions, mut data) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            seek(timeline, random.u64(range.0..range.1));
            instructions.push(timeline.machine().cpu.linear_rip());
            data.extend(watchable(timeline, random));
        }
        if replayer.tick() > start {
            // The last window reached into this one.
            replayer = plain(&recorded.recording);
        }
        run_to(&mut replayer, start);
        let state = replayer.save();
        let ram = ram(&replayer);
        let mut searches = Vec::new();
        for (breakpoints, watchpoints) in [(2, 0), (0, 2), (1, 2)] {
            let stops = random_stops(random, &instructions, &data, breakpoints, watchpoints);
            let hits = scan::by_running(&mut replayer, &stops, range.1);
            searches.push((stops, hits));
            put_back(&mut replayer, start, &state, &ram);
        }
        windows.push(Window { range, searches });
    }
    windows
}

/// All RAM of a replay.
fn ram(replayer: &retrovisor::replay::Replayer) -> Vec<u8> {
    let memory = &replayer.machine.cpu.memory;
    (0..memory.pages())
        .flat_map(|page| *memory.page(page))
        .collect()
}

/// Puts a replay back to where `state` and `ram` were taken.
fn put_back(replayer: &mut retrovisor::replay::Replayer, tick: Tick, state: &[u8], ram: &[u8]) {
    for page in 0..replayer.machine.cpu.memory.pages() {
        let content: &[u8; 4096] = ram[page * 4096..][..4096].try_into().unwrap();
        if replayer.machine.cpu.memory.page(page) != content {
            replayer.machine.replace_page(page, content);
        }
    }
    replayer.restore(tick, state).unwrap();
}

#[test]
fn searches_in_linux_find_what_a_forward_scan_finds() {
    const TEST: &str = "searches_in_linux_find_what_a_forward_scan_finds";
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let mut random = random(TEST);
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let mut found = 0;
    for window in windows(recorded, &mut timeline, (4, 25_000_000), &mut random) {
        for (stops, hits) in &window.searches {
            for position in positions(hits, window.range, 4, &mut random) {
                for direction in [Direction::Forward, Direction::Backward] {
                    let from = (position, direction);
                    found += compare(&mut timeline, stops, hits, from, window.range) as usize;
                }
            }
        }
    }
    assert!(found >= 50, "only {found} searches had something to find");
}

/// The same where the engine's own stops are not trusted: short stretches, tick by tick.
#[test]
fn searches_in_linux_find_what_single_ticks_find() {
    const TEST: &str = "searches_in_linux_find_what_single_ticks_find";
    const TICKS: Tick = 200_000;
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let mut random = random(TEST);
    let interrupts: HashSet<Tick> = interrupts(recorded);
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let end = timeline.end();
    let mut starts: Vec<Tick> = (0..6).map(|_| random.u64(0..=end - TICKS)).collect();
    // Where interrupts come, things go wrong first.
    for _ in 0..4 {
        let at = recording::interrupt_ticks(&recorded.recording);
        starts.push(
            at[random.usize(0..at.len())]
                .saturating_sub(TICKS / 2)
                .min(end - TICKS),
        );
    }
    starts.sort_unstable();
    let mut replayer = plain(&recorded.recording);
    for start in starts {
        let range = (start, start + TICKS);
        let (mut instructions, mut data) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            seek(&mut timeline, random.u64(range.0..range.1));
            instructions.push(timeline.machine().cpu.linear_rip());
            data.extend(watchable(&timeline, &mut random));
        }
        let stops = random_stops(&mut random, &instructions, &data, 2, 2);
        if replayer.tick() > start {
            continue;
        }
        run_to(&mut replayer, start);
        let hits = scan::by_stepping(&mut replayer, &stops, range.1, &interrupts);
        for position in positions(&hits, range, 6, &mut random) {
            for direction in [Direction::Forward, Direction::Backward] {
                compare(&mut timeline, &stops, &hits, (position, direction), range);
            }
        }
    }
}

/// What is nowhere in history is looked for in all of it.
#[test]
fn a_search_for_nothing_ends_at_the_ends_of_linux() {
    const TEST: &str = "a_search_for_nothing_ends_at_the_ends_of_linux";
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let stops = Stops {
        breakpoints: vec![0xffff_dead_beef_0001],
        watchpoints: Vec::new(),
        ..Stops::default()
    };
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let end = timeline.end();
    let stop = timeline.run(Direction::Forward, &stops, &NEVER);
    assert_eq!(
        (timeline.position(), stop.reason),
        (end, StopReason::HistoryEnd)
    );
    let stop = timeline.run(Direction::Backward, &stops, &NEVER);
    assert_eq!(
        (timeline.position(), stop.reason),
        (0, StopReason::HistoryStart)
    );
}
