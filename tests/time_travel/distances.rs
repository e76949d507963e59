//! The same answers whatever distance checkpoints have, with the cache and without, after it was made, found again,
//! cut off or damaged.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use retrovisor::tick::Tick;
use retrovisor::timeline::api::{Debuggee, Direction};
use retrovisor::timeline::cache::{CacheOptions, CachePlace};
use retrovisor::timeline::{Opening, Timeline};
use retrovisor::trace::{Recording, What, Writer};

use crate::support::recording::{Recorded, compare_with_forward_run, events, plain, record_guest};
use crate::support::scratch;
use crate::{GUESTS, NEVER, interrupts, look, random, random_stops, scan, search, seek, watchable};

/// A guest with more ticks is not given a checkpoint at each.
const TICKS_MAX: Tick = 30_000;

/// The recording once more, with digests (that it does not have) at another distance.
fn with_distance(recorded: &Recorded, distance: Tick, path: &Path) -> Arc<Recording> {
    let recording = &recorded.recording;
    let mut config = recording.config().clone();
    config.digest_distance_ticks = distance;
    let mut writer = Writer::create(path, &config).unwrap();
    let mut pages = std::collections::BTreeMap::new();
    recording
        .ram(|number, page| {
            pages.insert(number, *page);
            true
        })
        .unwrap();
    writer
        .ram(pages.keys().copied(), |number, out| *out = pages[&number])
        .unwrap();
    let state = recording.state().unwrap();
    writer.state(state.version, &state.bytes).unwrap();
    for event in events(recording) {
        if !matches!(event.what, What::Digest(_)) {
            writer.push(&event).unwrap();
        }
    }
    writer.finish(recording.end().unwrap()).unwrap();
    Arc::new(Recording::open(path).unwrap())
}

/// What was done to the cache before a timeline is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    None,
    Fresh,
    Whole,
    Cut,
    Flipped,
}

fn open(recording: &Arc<Recording>, cache: Cache, random: &mut fastrand::Rng) -> Timeline {
    let options = match cache {
        Cache::None => CacheOptions::default(),
        _ => CacheOptions::beside(),
    };
    if let Some(file) = options.file(recording.path(), recording.config()) {
        match cache {
            Cache::Fresh => {
                let _ = fs::remove_file(&file);
            }
            Cache::Cut | Cache::Flipped => {
                let mut bytes = fs::read(&file).unwrap();
                let at = random.usize(64..bytes.len());
                match cache {
                    Cache::Cut => bytes.truncate(at),
                    _ => bytes[at] ^= 1 << random.u32(0..8),
                }
                fs::write(&file, bytes).unwrap();
            }
            Cache::None | Cache::Whole => {}
        }
    }
    let opening = Opening {
        cache: options,
        ..Opening::default()
    };
    Timeline::open_with(recording.clone(), &opening).unwrap()
}

/// Waits until the first pass is over, and finds nothing wrong.
pub fn finish(timeline: &Timeline) {
    timeline.pass().wait_for(Tick::MAX, || false);
    let progress = timeline.pass().progress();
    assert_eq!(progress.failure, None);
    if let Some(divergence) = progress.divergence {
        panic!("{divergence}");
    }
}

fn check(
    recorded: &Recorded,
    recording: &Arc<Recording>,
    cache: Cache,
    random: &mut fastrand::Rng,
) {
    let interrupts = interrupts(recorded);
    let events = events(recording);
    let mut timeline = open(recording, cache, random);
    let window = (0, timeline.end());
    let (mut instructions, mut data, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..12 {
        seek(&mut timeline, random.u64(0..=window.1));
        instructions.push(timeline.machine().cpu.linear_rip());
        data.extend(watchable(&timeline, random));
        seen.push(look(&timeline, &events, format!("seeking with {cache:?}")));
    }
    for (breakpoints, watchpoints) in [(1, 0), (0, 1), (2, 2)] {
        let stops = random_stops(random, &instructions, &data, breakpoints, watchpoints);
        let mut replayer = plain(recording);
        let hits = scan::by_stepping(&mut replayer, &stops, window.1, &interrupts);
        for position in search::positions(&hits, window, 3, random) {
            for direction in [Direction::Forward, Direction::Backward] {
                search::compare(&mut timeline, &stops, &hits, (position, direction), window);
            }
        }
    }
    let back = window.1.min(40);
    seek(&mut timeline, window.1);
    for _ in 0..back {
        timeline.reverse_step(0, &Default::default(), &NEVER);
        seen.push(look(&timeline, &events, "steps back from the end"));
    }
    finish(&timeline);
    let known = matches!(cache, Cache::Whole);
    let ran = timeline.pass().progress().ran;
    assert!(!known || ran == 0, "{ran} ticks run with a whole cache");
    compare_with_forward_run(recording, seen);
}

#[test]
fn any_distance_with_any_cache_gives_the_same_answers() {
    const TEST: &str = "any_distance_with_any_cache_gives_the_same_answers";
    let mut random = random(TEST);
    let mut every_tick = 0;
    for (name, typed) in GUESTS {
        let recorded = record_guest(name, typed.as_bytes());
        let ticks = recorded.outcome.ticks;
        let usual = recorded.recording.config().digest_distance_ticks;
        for distance in [1, (ticks / 7).max(2), usual, Tick::MAX] {
            if distance == 1 && ticks > TICKS_MAX {
                continue;
            }
            every_tick += u32::from(distance == 1);
            let path = scratch("distances").join("a.rvr");
            let recording = with_distance(&recorded, distance, &path);
            for cache in [
                Cache::None,
                Cache::Fresh,
                Cache::Whole,
                Cache::Cut,
                Cache::Whole,
                Cache::Flipped,
            ] {
                println!("{name}: {ticks} ticks, distance {distance}, {cache:?}");
                check(&recorded, &recording, cache, &mut random);
            }
        }
    }
    assert!(every_tick >= 2, "only {every_tick} guests are small");
}

/// A directory instead of the place beside the recording; and a cache that may not grow.
#[test]
fn a_cache_has_its_place_and_its_greatest_size() {
    let recorded = record_guest("timer", b"");
    let place = scratch("cache-place");
    let recording = with_distance(&recorded, 1000, &place.join("a.rvr"));
    let options = CacheOptions {
        place: CachePlace::Directory(place.join("made")),
        bytes_max: 40_000,
    };
    let file = options.file(recording.path(), recording.config()).unwrap();
    assert_eq!(file.parent(), Some(&*place.join("made")));
    for _ in 0..2 {
        let opening = Opening {
            cache: options.clone(),
            ..Opening::default()
        };
        let mut timeline = Timeline::open_with(recording.clone(), &opening).unwrap();
        finish(&timeline);
        seek(&mut timeline, recording.last_tick());
        drop(timeline);
        let bytes = fs::metadata(&file).unwrap().len();
        assert!((1000..45_000).contains(&bytes), "{bytes} bytes");
    }
    assert!(!place.join("a.rvx").exists());
}
