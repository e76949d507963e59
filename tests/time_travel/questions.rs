//! Questions about all of history (last-write, writes, first-exec, hits) against a forward scan without checkpoints,
//! summaries and threads.

use std::sync::Arc;

use retrovisor::replay::Replayer;
use retrovisor::tick::Tick;
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::{
    Debuggee, FOUND_BYTES_MAX, Found, Question, StopReason, Stops, Want, WatchKind,
};
use retrovisor::trace::Recording;

use crate::events::exception_entered;
use crate::scan::{self, Hit};
use crate::support::recording::{plain, record_guest, run_to};
use crate::support::skip;
use crate::{GUESTS, NEVER, linux, random, random_stops, seek, watchable};

/// What a question's answer must say of a hit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    tick: Tick,
    time: u64,
    rip: u64,
    reason: StopReason,
    before: Vec<u8>,
    after: Vec<u8>,
}

fn told(found: &Found) -> Told {
    Told {
        tick: found.tick,
        time: found.time,
        rip: found.rip,
        reason: found.reason.clone(),
        before: found.before.clone(),
        after: found.after.clone(),
    }
}

/// The watched bytes as a replay has them; unmapped ones are 0.
fn content(replayer: &Replayer, stops: &Stops) -> Vec<u8> {
    let Some(watched) = stops.watchpoints.first() else {
        return Vec::new();
    };
    let length = watched.len.min(FOUND_BYTES_MAX as u64);
    let cpu = &replayer.machine.cpu;
    let byte = |n: u64| {
        let mut byte = [0];
        if let Some(physical) = cpu.probe(watched.addr.wrapping_add(n)) {
            cpu.memory.read(physical, &mut byte);
        }
        byte[0]
    };
    (0..length).map(byte).collect()
}

/// What is to be told of hits, by going to each of them with a replay that is before the first.
fn tell(replayer: &mut Replayer, stops: &Stops, hits: &[Hit]) -> Vec<Told> {
    let mut all = Vec::new();
    for hit in hits {
        run_to(replayer, hit.before);
        let rip = replayer.machine.cpu.linear_rip();
        let time = replayer.world.guest_time(hit.before);
        let before = content(replayer, stops);
        run_to(replayer, hit.after);
        let after = content(replayer, stops);
        let written = matches!(
            hit.reason,
            StopReason::Watchpoint {
                kind: WatchKind::Write,
                ..
            }
        );
        if written && before == after && exception_entered(&replayer.machine).is_some() {
            // The store faulted.
            continue;
        }
        all.push(Told {
            tick: hit.before,
            time,
            rip,
            reason: hit.reason.clone(),
            before,
            after,
        });
    }
    all
}

/// Asks for all, the first and the last hits of a range, and compares.
fn compare(
    timeline: &mut Timeline,
    stops: &Stops,
    (from, until): (Tick, Tick),
    all: &[Told],
    random: &mut fastrand::Rng,
) {
    let position = timeline.position();
    let inside: Vec<Told> = all
        .iter()
        .filter(|told| (from..until).contains(&told.tick))
        .cloned()
        .collect();
    let few = random.usize(1..5);
    for want in [
        Want::All {
            first: few,
            last: few + 1,
        },
        Want::First(few),
        Want::Last(few),
    ] {
        let question = Question {
            stops: stops.clone(),
            from,
            until,
            want,
        };
        let answers = timeline.ask(&question, &NEVER).unwrap();
        assert_eq!(timeline.position(), position, "asking moves nothing");
        let n = inside.len();
        let (first, last, count) = match want {
            Want::First(few) => (few.min(n), 0, few.min(n)),
            Want::Last(few) => (0, few.min(n), few.min(n)),
            Want::All { first, last } => (first.min(n), last.min(n - first.min(n)), n),
        };
        let context = format!("{want:?} in {from}..{until} of {stops:x?}");
        assert_eq!(answers.count, count as u64, "{context}");
        let got: Vec<Told> = answers.first.iter().map(told).collect();
        assert_eq!(got, inside[..first], "{context}");
        let got: Vec<Told> = answers.last.iter().map(told).collect();
        assert_eq!(got, inside[n - last..], "{context}");
    }
}

#[test]
fn questions_about_small_guests_are_answered_as_a_forward_scan_does() {
    let mut random = random("questions_about_small_guests_are_answered_as_a_forward_scan_does");
    let mut compared = 0;
    for (name, typed) in GUESTS {
        let recorded = record_guest(name, typed.as_bytes());
        let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
        let end = timeline.end();
        for round in 0..4 {
            let (mut instructions, mut data) = (Vec::new(), Vec::new());
            for _ in 0..10 {
                seek(&mut timeline, random.u64(0..=end));
                instructions.push(timeline.machine().cpu.linear_rip());
                data.extend(watchable(&timeline, &mut random));
            }
            let kinds = [(1, 0), (0, 1)][round % 2];
            let stops = random_stops(&mut random, &instructions, &data, kinds.0, kinds.1);
            let hits = scan::by_running(&mut plain(&recorded.recording), &stops, end);
            // Going to each of very many takes too long.
            if hits.len() > 20_000 {
                continue;
            }
            let all = tell(&mut plain(&recorded.recording), &stops, &hits);
            compared += all.len();
            seek(&mut timeline, random.u64(0..=end));
            compare(&mut timeline, &stops, (0, end), &all, &mut random);
            for _ in 0..4 {
                let (a, b) = (random.u64(0..=end), random.u64(0..=end));
                let range = (a.min(b), a.max(b));
                compare(&mut timeline, &stops, range, &all, &mut random);
            }
        }
    }
    assert!(compared > 0, "no question had an answer");
}

/// Stretches of the Debian boot; returns how many hits were compared.
pub fn ask_about_linux(
    recording: &Arc<Recording>,
    timeline: &mut Timeline,
    (start, until): (Tick, Tick),
    random: &mut fastrand::Rng,
) -> usize {
    let (mut instructions, mut data) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        seek(timeline, random.u64(start..until));
        instructions.push(timeline.machine().cpu.linear_rip());
        data.extend(watchable(timeline, random));
    }
    let mut compared = 0;
    for kinds in [(2, 0), (0, 1), (0, 1)] {
        let stops = random_stops(random, &instructions, &data, kinds.0, kinds.1);
        let mut replayer = plain(recording);
        run_to(&mut replayer, start);
        let mut hits = scan::by_running(&mut replayer, &stops, until);
        hits.truncate(2_000);
        let until = hits.get(1_999).map_or(until, |hit| hit.before + 1);
        let mut replayer = plain(recording);
        let all = tell(&mut replayer, &stops, &hits);
        compared += all.len();
        compare(timeline, &stops, (start, until), &all, random);
        let (a, b) = (random.u64(start..=until), random.u64(start..=until));
        compare(timeline, &stops, (a.min(b), a.max(b)), &all, random);
    }
    compared
}

#[test]
fn questions_about_linux_are_answered_as_a_forward_scan_does() {
    const TEST: &str = "questions_about_linux_are_answered_as_a_forward_scan_does";
    const TICKS: Tick = 20_000_000;
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let mut random = random(TEST);
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let end = timeline.end();
    let mut compared = 0;
    // Early, where a plain replay is soon, and anywhere.
    for start in [random.u64(0..end / 8), random.u64(end / 8..end - TICKS)] {
        let range = (start, start + TICKS);
        compared += ask_about_linux(&recorded.recording, &mut timeline, range, &mut random);
    }
    assert!(compared > 10, "only {compared} hits");
}

/// Whoever has had enough gets the machine back where it was.
#[test]
fn an_interrupted_question_leaves_the_position() {
    let recorded = record_guest("counter", b"");
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let end = timeline.end();
    seek(&mut timeline, end / 2);
    let question = Question {
        stops: Stops {
            breakpoints: vec![timeline.machine().cpu.linear_rip()],
            ..Stops::default()
        },
        from: 0,
        until: end,
        want: Want::All { first: 1, last: 1 },
    };
    let impatient = std::sync::atomic::AtomicBool::new(true);
    assert_eq!(
        timeline.ask(&question, &impatient).unwrap_err(),
        "interrupted"
    );
    assert_eq!(timeline.position(), end / 2);
    let answers = timeline.ask(&question, &NEVER).unwrap();
    assert!(answers.count > 0);
    assert_eq!(timeline.position(), end / 2);
}
