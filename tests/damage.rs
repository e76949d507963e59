//! Recordings that were cut, flipped, or written by somebody who means no good: opening and replaying them gives one
//! clear line, a shorter run, or a divergence at its tick. Never a panic, a hang, or another run than was recorded.
//!
//! What the reader of the file does with damage is tested in tests/trace; here it is what replay makes of it.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use retrovisor::machine::STATE_VERSION;
use retrovisor::replay::Replayer;
use retrovisor::tick::Tick;
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::{Debuggee, Direction, StopReason, Stops};
use retrovisor::trace::{
    CpuidLeaf, End, Event, MachineConfig, PAGE_BYTES, Recording, State, What, Writer,
};
use support::recording::{Recorded, Snapshot, events, plain, record_guest, run_to, snapshot};

/// Random choices of this program.
const SEED: u64 = 20_250_114;

static NEVER: AtomicBool = AtomicBool::new(false);

/// All that is in a recording, to be changed and written again with right checksums.
struct Parts {
    config: MachineConfig,
    ram: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
    state: State,
    events: Vec<Event>,
    end: End,
}

impl Parts {
    fn of(recording: &Arc<Recording>) -> Parts {
        let mut ram = BTreeMap::new();
        recording
            .ram(|number, page| {
                ram.insert(number, Box::new(*page));
                true
            })
            .unwrap();
        Parts {
            config: recording.config().clone(),
            ram,
            state: recording.state().unwrap(),
            events: events(recording),
            end: recording.end().unwrap().clone(),
        }
    }

    /// Writes the recording, with a frame for every so many events. Gives the lengths that the file had after its
    /// frames, each with the tick up to which it was whole.
    fn write(&self, path: &Path, frame_events: usize) -> Vec<(u64, Tick)> {
        let mut writer = Writer::create(path, &self.config).unwrap();
        let mut ends = vec![(writer.bytes(), 0)];
        writer
            .ram(self.ram.keys().copied(), |number, out| {
                out.copy_from_slice(&self.ram[&number][..]);
            })
            .unwrap();
        ends.push((writer.bytes(), 0));
        writer.state(self.state.version, &self.state.bytes).unwrap();
        ends.push((writer.bytes(), 0));
        for (number, event) in self.events.iter().enumerate() {
            writer.push(event).unwrap();
            if number % frame_events == frame_events - 1 {
                writer.flush(event.tick).unwrap();
                ends.push((writer.bytes(), event.tick));
            }
        }
        writer.flush(self.end.tick).unwrap();
        ends.push((writer.bytes(), self.end.tick));
        writer.finish(&self.end).unwrap();
        ends.push((writer.bytes(), self.end.tick));
        ends
    }

    /// Writes and opens it.
    fn open(&self, path: &Path) -> Arc<Recording> {
        self.write(path, 1000);
        Arc::new(Recording::open(path).unwrap())
    }
}

/// What became of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// It cannot even begin, in one line.
    Refused(String),
    /// It differs from its recording.
    Diverged(Tick, String),
    /// It came to the end of the recording.
    Whole(Tick),
}

/// Replays, checking every digest.
fn replay(recording: &Arc<Recording>) -> Fate {
    let mut replayer = match Replayer::new(recording) {
        Ok(replayer) => replayer,
        Err(error) => return Fate::Refused(one_line(error)),
    };
    while replayer.tick() < replayer.end() {
        if let Err(divergence) = replayer.run_to_digest() {
            assert!(
                divergence.tick <= replayer.end(),
                "diverged behind the end: {divergence}"
            );
            return Fate::Diverged(divergence.tick, divergence.to_string());
        }
    }
    Fate::Whole(replayer.tick())
}

fn one_line(error: impl std::fmt::Display) -> String {
    let line = error.to_string();
    assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
    line
}

/// States at ticks of a recording that is whole.
fn states(
    recording: &Arc<Recording>,
    ticks: impl Iterator<Item = Tick>,
) -> BTreeMap<Tick, Snapshot> {
    let mut ticks: Vec<Tick> = ticks.collect();
    ticks.sort_unstable();
    let mut replayer = plain(recording);
    ticks
        .into_iter()
        .map(|tick| {
            run_to(&mut replayer, tick);
            (tick, snapshot(&replayer.machine))
        })
        .collect()
}

/// Opens a file of which bytes were lost or changed: what can be replayed of it must be what was recorded. Whether
/// something was found to be wrong.
fn check_damaged(path: &Path, truth: &BTreeMap<Tick, Snapshot>, end: Tick) -> bool {
    let recording = match Recording::open(path) {
        Ok(recording) => Arc::new(recording),
        Err(error) => {
            one_line(error);
            return true;
        }
    };
    let last = recording.last_tick();
    match replay(&recording) {
        Fate::Whole(tick) => {
            assert_eq!(tick, last);
            let mut replayer = plain(&recording);
            run_to(&mut replayer, last);
            assert_eq!(
                Some(&snapshot(&replayer.machine)),
                truth.get(&last),
                "another run than was recorded, up to tick {last}"
            );
            assert!(last <= end);
            recording.torn().is_some()
        }
        // A frame that cannot be read says where the file is damaged.
        Fate::Refused(why) => {
            assert!(why.contains("damaged"), "{why}");
            true
        }
        Fate::Diverged(_, why) => {
            assert!(why.contains("damaged"), "{why}");
            true
        }
    }
}

/// A small recording in many frames: the file, the lengths at which frames end, states at their ticks.
struct Framed {
    path: PathBuf,
    ends: Vec<(u64, Tick)>,
    truth: BTreeMap<Tick, Snapshot>,
    whole: Vec<u8>,
    last: Tick,
}

fn framed(test: &str) -> Framed {
    let recorded = record_guest("timer", b"");
    let path = support::scratch(test).join("framed.rvr");
    let ends = Parts::of(&recorded.recording).write(&path, 20);
    assert!(ends.len() > 15, "{} frames", ends.len());
    Framed {
        truth: states(&recorded.recording, ends.iter().map(|end| end.1)),
        whole: fs::read(&path).unwrap(),
        last: recorded.recording.last_tick(),
        path,
        ends,
    }
}

#[test]
fn a_recording_cut_anywhere_is_a_shorter_run_or_a_clear_line() {
    let framed = framed("cut");
    let cut = framed.path.with_file_name("cut.rvr");
    let mut random = fastrand::Rng::with_seed(SEED);
    let near = |end: u64| [end.saturating_sub(1), end, end + 1, end + 63, end + 64];
    let mut lengths: Vec<u64> = framed.ends.iter().flat_map(|end| near(end.0)).collect();
    lengths.extend((0..200).map(|_| random.u64(0..framed.whole.len() as u64)));
    let started = framed.ends[2].0;
    for length in lengths
        .into_iter()
        .filter(|&len| len < framed.whole.len() as u64)
    {
        fs::write(&cut, &framed.whole[..length as usize]).unwrap();
        assert!(
            check_damaged(&cut, &framed.truth, framed.last),
            "cut at {length}: nobody noticed"
        );
        // As soon as the state is there, all whole frames count.
        if length >= started {
            let recording = Recording::open(&cut).unwrap();
            let whole = framed.ends.iter().rfind(|end| end.0 <= length).unwrap();
            assert_eq!(recording.last_tick(), whole.1, "cut at {length}");
        }
    }
    fs::write(&cut, &framed.whole).unwrap();
    assert!(!check_damaged(&cut, &framed.truth, framed.last));
}

#[test]
fn a_recording_with_flipped_bits_is_never_another_run() {
    let framed = framed("flipped");
    let flipped = framed.path.with_file_name("flipped.rvr");
    let mut random = fastrand::Rng::with_seed(SEED + 1);
    // Headers are few bytes among many: they get their share.
    let headers = framed.ends.iter().map(|end| end.0 as usize);
    let mut places: Vec<usize> = headers.map(|at| at + random.usize(0..64)).collect();
    places.extend((0..300).map(|_| random.usize(0..framed.whole.len())));
    for at in places.into_iter().filter(|&at| at < framed.whole.len()) {
        let mut bytes = framed.whole.clone();
        bytes[at] ^= 1 << random.u32(0..8);
        fs::write(&flipped, &bytes).unwrap();
        assert!(
            check_damaged(&flipped, &framed.truth, framed.last),
            "a bit at {at} was changed and nobody noticed"
        );
    }
}

/// A recording of a small guest, taken apart, and a place for what is made of it.
fn taken_apart(name: &str, typed: &str, test: &str) -> (Recorded, PathBuf) {
    let recorded = record_guest(name, typed.as_bytes());
    let path = support::scratch(test).join("changed.rvr");
    (recorded, path)
}

/// Indices of events of which there are many: some of them.
fn some(
    events: &[Event],
    count: usize,
    random: &mut fastrand::Rng,
    wanted: impl Fn(&What) -> bool,
) -> Vec<usize> {
    let all: Vec<usize> = (0..events.len())
        .filter(|&n| wanted(&events[n].what))
        .collect();
    assert!(!all.is_empty());
    (0..count)
        .map(|_| all[random.usize(0..all.len())])
        .collect()
}

fn diverges_at(recording: &Arc<Recording>, ticks: std::ops::RangeInclusive<Tick>, what: &str) {
    match replay(recording) {
        Fate::Diverged(tick, why) => {
            assert!(ticks.contains(&tick), "{what}: not within {ticks:?}: {why}");
            assert!(why.contains(&format!("tick {tick}")), "{what}: {why}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn events_that_are_missing_changed_or_shifted_diverge_where_they_are() {
    let (recorded, path) = taken_apart("timer", "", "changed-events");
    let mut random = fastrand::Rng::with_seed(SEED + 2);
    let last = recorded.recording.last_tick();
    let original = Parts::of(&recorded.recording).events;
    let with = |change: &dyn Fn(&mut Vec<Event>)| {
        let mut parts = Parts::of(&recorded.recording);
        change(&mut parts.events);
        parts.events.sort_by_key(|event| event.tick);
        parts.open(&path)
    };
    let is_read = |what: &What| matches!(what, What::PioRead { .. });
    let is_interrupt = |what: &What| matches!(what, What::Interrupt { .. });
    let answers = |what: &What| is_read(what) || is_interrupt(what);
    for index in some(&original, 25, &mut random, answers) {
        let tick = original[index].tick;
        let dropped = with(&|events| {
            events.remove(index);
        });
        diverges_at(&dropped, tick..=tick, "dropped");
    }
    for index in some(&original, 10, &mut random, is_read) {
        let tick = original[index].tick;
        // The guest waits for bit 5 of the line status: without it, it asks once more.
        let changed = with(&|events| {
            if let What::PioRead { value, .. } = &mut events[index].what {
                *value ^= 0x20;
            }
        });
        diverges_at(&changed, tick + 1..=tick + 8, "another value");
        let changed = with(&|events| {
            if let What::PioRead { port, .. } = &mut events[index].what {
                *port ^= 1;
            }
        });
        diverges_at(&changed, tick..=tick, "another port");
        let changed = with(&|events| {
            if let What::PioRead { size, .. } = &mut events[index].what {
                *size = 2;
            }
        });
        diverges_at(&changed, tick..=tick, "another size");
    }
    for index in some(&original, 10, &mut random, is_interrupt) {
        let tick = original[index].tick;
        for (earlier, later) in [(1, 0), (0, 1), (0, 3), (2, 0)] {
            let shifted = with(&|events| {
                events[index].tick = tick + later - earlier;
            });
            diverges_at(&shifted, tick - earlier..=tick + later, "shifted");
        }
        let changed = with(&|events| events[index].what = What::Interrupt { vector: 77 });
        // There is no such gate: the guest goes down.
        diverges_at(&changed, tick..=tick + 4, "another vector");
        let changed = with(&|events| events[index].what = What::Nmi);
        diverges_at(&changed, tick..=last, "an NMI instead");
    }
}

#[test]
fn digests_name_what_differs() {
    let (recorded, path) = taken_apart("hello", "", "digests");
    let last = recorded.recording.last_tick();
    for (what, change) in [("registers", 0), ("memory", 1), ("output", 2)] {
        let mut parts = Parts::of(&recorded.recording);
        for event in &mut parts.events {
            if let What::Digest(digest) = &mut event.what {
                match change {
                    0 => digest.registers ^= 1,
                    1 => digest.pages ^= 1 << 127,
                    _ => digest.outputs ^= 1 << 40,
                }
            }
        }
        match replay(&parts.open(&path)) {
            Fate::Diverged(tick, why) => {
                assert_eq!(tick, last);
                for other in ["registers", "memory", "output"] {
                    let told = why.lines().next().unwrap().contains(other);
                    assert_eq!(told, other == what, "{why}");
                }
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    // Memory that changes by itself.
    let mut parts = Parts::of(&recorded.recording);
    let what = What::Dma {
        gpa: 0x50_0000,
        bytes: Box::new([1]),
    };
    let tick = last / 2;
    let at = parts.events.partition_point(|event| event.tick < tick);
    parts.events.insert(at, Event { tick, cpu: 0, what });
    match replay(&parts.open(&path)) {
        Fate::Diverged(tick, why) => assert!(tick == last && why.contains("memory"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// Events of every kind with every kind of nonsense in them.
fn nonsense(random: &mut fastrand::Rng) -> What {
    let any = |random: &mut fastrand::Rng| random.u64(..) >> random.u32(0..64);
    match random.u32(0..14) {
        0 => What::Dma {
            gpa: u64::MAX - random.u64(0..100),
            bytes: vec![0xff; random.usize(0..200)].into(),
        },
        1 => What::Dma {
            gpa: any(random),
            bytes: vec![0x5a; random.usize(0..10_000)].into(),
        },
        2 => What::Init,
        3 => What::Sipi {
            vector: random.u8(..),
        },
        4 => What::Switch { to: random.u8(..) },
        5 => What::Nmi,
        6 => What::Interrupt {
            vector: random.u8(..),
        },
        7 => What::Clock {
            tsc_offset: any(random).wrapping_neg(),
        },
        8 => What::Tsc { value: any(random) },
        9 => What::Random { value: any(random) },
        10 => What::TprRead { value: any(random) },
        11 => What::MmioRead {
            gpa: any(random),
            size: [1, 2, 4, 8][random.usize(0..4)],
            value: any(random),
        },
        12 => What::MsrRead {
            msr: random.u32(..),
            value: random.bool().then(|| any(random)),
        },
        _ => What::ConsoleInput {
            bytes: vec![7; random.usize(0..100)].into(),
        },
    }
}

#[test]
fn nonsense_among_the_events_is_a_divergence_and_a_debugger_lives_on() {
    let (recorded, path) = taken_apart("timer", "", "nonsense-events");
    let mut random = fastrand::Rng::with_seed(SEED + 3);
    let last = recorded.recording.last_tick();
    let none = Stops::default();
    let (mut diverged, mut whole) = (0, 0);
    for _ in 0..150 {
        let mut parts = Parts::of(&recorded.recording);
        for _ in 0..random.usize(1..4) {
            let what = nonsense(&mut random);
            let tick = random.u64(0..=last);
            let at = parts.events.partition_point(|event| event.tick < tick);
            parts.events.insert(at, Event { tick, cpu: 0, what });
        }
        let recording = parts.open(&path);
        let fate = replay(&recording);
        match &fate {
            Fate::Diverged(..) => diverged += 1,
            Fate::Whole(_) => whole += 1,
            Fate::Refused(why) => panic!("{why}"),
        }
        // The same under a debugger, which wants to see the place where it went wrong.
        let mut timeline = Timeline::open(recording).unwrap();
        let stop = timeline.run(Direction::Forward, &none, &NEVER);
        let here = timeline.position();
        match stop.reason {
            StopReason::HistoryEnd => assert_eq!(here, last),
            StopReason::Divergence(why) => {
                let Fate::Diverged(tick, _) = fate else {
                    panic!("{fate:?}, but to the debugger: {why}");
                };
                assert!(why.contains("diverges"), "{why}");
                assert!(here <= tick + 1, "at {here}, diverged at {tick}");
            }
            other => panic!("{other:?}"),
        }
        if here > 0 {
            let stop = timeline.reverse_step(0, &none, &NEVER);
            assert_eq!(
                (stop.reason, timeline.position()),
                (StopReason::Stepped, here - 1)
            );
        }
        let stop = timeline.run(Direction::Backward, &none, &NEVER);
        assert_eq!(
            (stop.reason, timeline.position()),
            (StopReason::HistoryStart, 0)
        );
        if let Err(why) = timeline.seek(last, &NEVER) {
            assert!(why.contains("diverges at tick"), "{why}");
        }
        timeline.describe();
        timeline.last_event();
        timeline.guest_time();
    }
    assert!(
        diverged > 50 && whole > 0,
        "{diverged} diverged, {whole} did not"
    );
}

#[test]
fn processor_states_that_cannot_be_are_refused_and_odd_ones_do_no_harm() {
    let (recorded, path) = taken_apart("counter", "", "states");
    let mut random = fastrand::Rng::with_seed(SEED + 4);
    let with = |change: &mut dyn FnMut(&mut State)| {
        let mut parts = Parts::of(&recorded.recording);
        // Enough to go wild in.
        parts.end.tick = parts.end.tick.min(20_000);
        parts.events.retain(|event| event.tick <= parts.end.tick);
        change(&mut parts.state);
        replay(&parts.open(&path))
    };
    for (version, word) in [(STATE_VERSION + 1, "version"), (0, "version")] {
        match with(&mut |state| state.version = version) {
            Fate::Refused(why) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let length = recorded.recording.state().unwrap().bytes.len();
    for wrong in [0, 1, length - 1, length + 1, 2 * length] {
        match with(&mut |state| state.bytes.resize(wrong, 0)) {
            Fate::Refused(why) => assert!(why.contains(&wrong.to_string()), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let (mut refused, mut diverged) = (0, 0);
    for round in 0..600 {
        let fate = with(&mut |state| match round % 3 {
            0 => state.bytes.fill_with_random(&mut random),
            1 => {
                for _ in 0..random.usize(1..20) {
                    let at = random.usize(0..length);
                    state.bytes[at] = random.u8(..);
                }
            }
            _ => {
                let at = random.usize(0..length);
                state.bytes[at] ^= 1 << random.u32(0..8);
            }
        });
        match fate {
            Fate::Refused(_) => refused += 1,
            Fate::Diverged(..) => diverged += 1,
            Fate::Whole(_) => {}
        }
    }
    assert!(
        refused > 10 && diverged > 10,
        "{refused} refused, {diverged} diverged"
    );
}

trait FillWithRandom {
    fn fill_with_random(&mut self, random: &mut fastrand::Rng);
}

impl FillWithRandom for Vec<u8> {
    fn fill_with_random(&mut self, random: &mut fastrand::Rng) {
        random.fill(self);
    }
}

#[test]
fn configurations_that_cannot_be_replayed_are_refused_in_one_line() {
    let (recorded, path) = taken_apart("hello", "", "configurations");
    let with = |change: &dyn Fn(&mut MachineConfig)| {
        let mut parts = Parts::of(&recorded.recording);
        change(&mut parts.config);
        parts.open(&path)
    };
    for (what, recording) in [
        ("processors", with(&|config| config.cpus = 2)),
        ("ns", with(&|config| config.ns_per_tick = 7)),
        // A processor of nobody's, and one with AVX-512.
        ("vendor", with(&|config| config.cpuid.clear())),
        (
            "CPUID leaf 7h.0 EBX bit 16",
            with(&|config| {
                let leaf7 = |leaf: &&mut CpuidLeaf| leaf.leaf == 7;
                config.cpuid.iter_mut().find(leaf7).unwrap().ebx |= 1 << 16;
            }),
        ),
        // Pages of the starting RAM lie behind its end.
        ("RAM", with(&|config| config.ram_bytes = 1 << 20)),
    ] {
        match replay(&recording) {
            Fate::Refused(why) => assert!(why.contains(what), "{why}"),
            other => panic!("{what}: {other:?}"),
        }
        assert!(Timeline::open(recording).is_err());
    }
    // Digests at another distance than is said: the last one is then of other pages, or met all the same.
    for distance in [1, 7, u64::MAX] {
        let recording = with(&|config| config.digest_distance_ticks = distance);
        let last = recording.last_tick();
        match replay(&recording) {
            Fate::Whole(tick) | Fate::Diverged(tick, _) => assert_eq!(tick, last),
            other => panic!("{distance}: {other:?}"),
        }
        let mut timeline = Timeline::open(recording).unwrap();
        timeline.seek(last, &NEVER).unwrap();
        timeline.seek(last / 2, &NEVER).unwrap();
    }
}

/// More RAM than the host has is there all the same, as long as nobody touches it.
#[test]
fn a_recording_of_a_huge_machine_opens_as_quickly_as_any() {
    let (recorded, path) = taken_apart("hello", "", "huge");
    let mut parts = Parts::of(&recorded.recording);
    parts.config.ram_bytes = 1 << 39;
    let recording = parts.open(&path);
    let started = std::time::Instant::now();
    match Timeline::open(recording) {
        Ok(mut timeline) => {
            let end = timeline.end();
            timeline.seek(end, &NEVER).unwrap();
            timeline.seek(0, &NEVER).unwrap();
        }
        // The host may refuse.
        Err(error) => {
            one_line(error);
        }
    }
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn an_end_that_comes_too_late_is_a_divergence() {
    let (recorded, path) = taken_apart("hello", "", "end");
    // The guest halts for good two ticks behind the end.
    for more in [3, 1000, 1 << 62] {
        let mut parts = Parts::of(&recorded.recording);
        let last = parts.end.tick;
        parts.end.tick += more;
        diverges_at(&parts.open(&path), last..=last + more, "a later end");
    }
}

/// Names the file to a process of our own that shall record until it is killed.
const RECORD: &str = "RETROVISOR_TEST_RECORD";

/// No test by itself: what the next one starts, and kills.
#[test]
fn a_recorder_to_be_killed() {
    if let Some(path) = std::env::var_os(RECORD) {
        let elf = fs::read(support::guest("echo")).unwrap();
        let plan = support::recording::plan(&elf, "echo", support::recording::GUEST_RAM);
        // Nobody types: it asks the serial port for ever.
        support::recording::record_plan(&plan, Path::new(&path), b"");
    }
}

#[test]
fn a_recorder_that_was_killed_leaves_a_recording() {
    let path = support::scratch("killed").join("killed.rvr");
    let mut recorder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_recorder_to_be_killed", "--nocapture"])
        .env(RECORD, &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Until something is there, and a little longer.
    let grown = || Recording::open(&path).is_ok_and(|there| there.last_tick() > 1_000_000);
    for _ in 0..600 {
        if grown() || recorder.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(300));
    // SIGKILL on Unix.
    recorder.kill().unwrap();
    recorder.wait().unwrap();
    let recording = Arc::new(Recording::open(&path).unwrap());
    let torn = recording.torn().expect("it has no end");
    assert!(torn.why.contains("killed"), "{}", torn.why);
    assert!(recording.end().is_none());
    let last = recording.last_tick();
    assert!(last > 100_000, "{last}");
    assert_eq!(replay(&recording), Fate::Whole(last));
    let mut timeline = Timeline::open(recording).unwrap();
    let stop = timeline.run(Direction::Forward, &Stops::default(), &NEVER);
    assert_eq!(
        (stop.reason, timeline.position()),
        (StopReason::HistoryEnd, last)
    );
    assert!(timeline.describe().end.contains("killed"));
}
