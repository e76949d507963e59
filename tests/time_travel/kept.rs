//! What is kept from one opening of a recording to the next: by the recorder, by passes that were killed, by two
//! servers at the same time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use retrovisor::cli::fill::CacheKeeper;
use retrovisor::record::emulated::record_kept;
use retrovisor::tick::Tick;
use retrovisor::timeline::api::Debuggee;
use retrovisor::timeline::cache::{self, CacheOptions};
use retrovisor::timeline::traveller::Traveller;
use retrovisor::timeline::{Opening, Timeline};
use retrovisor::trace::Recording;

use crate::distances::finish;
use crate::support::recording::{
    GUEST_RAM, LINUX_RAM, Script, Seen, compare_with_forward_run, plan, snapshot,
};
use crate::support::{self, guest, scratch, skip};
use crate::{linux, random, seek};

fn opening() -> Opening {
    Opening {
        cache: CacheOptions::beside(),
        ..Opening::default()
    }
}

fn open(recording: &Arc<Recording>) -> Timeline {
    Timeline::open_with(recording.clone(), &opening()).unwrap()
}

/// Every checkpoint that the cache has is the state at its tick, and running from it to the next digest gives that.
/// How many there are.
pub fn check_cache(recording: &Arc<Recording>) -> usize {
    let options = CacheOptions::beside();
    let opened = cache::open(&options, recording.path(), recording.config()).unwrap();
    let store = Arc::new(opened.store);
    let ticks = store.ticks();
    let distance = recording.config().digest_distance_ticks;
    let blank = || Traveller::blank(recording, &store).unwrap();
    let (mut traveller, mut runner) = (blank(), None);
    let mut seen = Vec::new();
    for &tick in ticks.iter().filter(|&&tick| tick < recording.last_tick()) {
        traveller.restore(tick).unwrap();
        seen.push(Seen {
            tick,
            state: snapshot(&traveller.replayer().machine),
            by: "restoring what the cache has".to_string(),
        });
        if !tick.is_multiple_of(distance) {
            // Where the recording ended once: a digest is of what was written since the one before.
            continue;
        }
        let mut running: Traveller = runner.take().unwrap_or_else(blank);
        running.restore(tick).unwrap();
        let replayer = running.replayer_mut();
        replayer.world.check_digests(true);
        while replayer.world.take_digest(tick).is_some() {}
        if let Err(divergence) = replayer.run_to_digest() {
            panic!("from the checkpoint at {tick}: {divergence}");
        }
        replayer.world.check_digests(false);
        // A digest takes the list of written pages: whoever does not go on from there does not know what to restore.
        let there = replayer.tick();
        runner = ticks.contains(&there).then_some(running);
    }
    if !seen.is_empty() {
        compare_with_forward_run(recording, seen);
    }
    ticks.len()
}

/// Nothing has to be run through again, and what is seen is right.
pub fn check_known(recording: &Arc<Recording>) {
    let mut timeline = open(recording);
    assert_eq!(timeline.take_notes(), [""; 0]);
    finish(&timeline);
    assert_eq!(timeline.pass().progress().ran, 0);
    let end = timeline.end();
    let seen = [end, end / 2, 0, end / 3].map(|tick| {
        seek(&mut timeline, tick);
        let state = snapshot(timeline.machine());
        let by = "seeking in what was kept".to_string();
        Seen { tick, state, by }
    });
    compare_with_forward_run(recording, seen.to_vec());
}

/// A copy of the Debian recording, to be opened with a cache of its own.
fn copy_of_linux(name: &str) -> Result<Arc<Recording>, String> {
    let path = scratch(name).join("debian.rvr");
    fs::copy(&linux()?.path, &path).unwrap();
    Ok(Arc::new(Recording::open(&path).unwrap()))
}

fn retrovisor(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_retrovisor"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn kill_after(mut child: Child, delay: Duration) {
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_server_that_is_killed_during_its_pass_leaves_a_cache_that_is_right() {
    const TEST: &str = "a_server_that_is_killed_during_its_pass_leaves_a_cache_that_is_right";
    let recording = match copy_of_linux("killed-pass") {
        Ok(recording) => recording,
        Err(why) => return skip(TEST, &why),
    };
    let mut random = random(TEST);
    let path = recording.path().to_str().unwrap();
    let mut counts = Vec::new();
    for _ in 0..5 {
        let server = retrovisor(&[path, "--gdb", "127.0.0.1:0"]);
        kill_after(server, Duration::from_millis(random.u64(50..1500)));
        counts.push(check_cache(&recording));
    }
    // Nobody throws away what was there.
    assert!(counts.is_sorted(), "checkpoints after each: {counts:?}");
    assert!(counts[4] > 1, "checkpoints after each: {counts:?}");
    let timeline = open(&recording);
    finish(&timeline);
    let (ran, end) = (timeline.pass().progress().ran, recording.last_tick());
    assert!(ran < end, "{ran} of {end} ticks run again");
    drop(timeline);
    check_known(&recording);
}

#[test]
fn a_cache_damaged_anywhere_is_noticed_and_mended() {
    const TEST: &str = "a_cache_damaged_anywhere_is_noticed_and_mended";
    let recording = match copy_of_linux("damaged-cache") {
        Ok(recording) => recording,
        Err(why) => return skip(TEST, &why),
    };
    let mut random = random(TEST);
    finish(&open(&recording));
    let file = recording.path().with_extension("rvx");
    for _ in 0..3 {
        let mut bytes = fs::read(&file).unwrap();
        // All over the file: records, compressed pages, summaries.
        for _ in 0..20 {
            let at = random.usize(64..bytes.len());
            bytes[at] ^= 0x55;
        }
        fs::write(&file, bytes).unwrap();
        let mut timeline = open(&recording);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let tick = random.u64(0..=timeline.end());
            seek(&mut timeline, tick);
            seen.push(Seen {
                tick,
                state: snapshot(timeline.machine()),
                by: "seeking with a damaged cache".to_string(),
            });
        }
        compare_with_forward_run(&recording, seen);
        // Whoever jumps about has met the damage, or the pass has.
        let end = timeline.end();
        seek(&mut timeline, end);
        timeline.pass().wait_for(Tick::MAX, || false);
    }
}

#[test]
fn two_servers_on_one_recording_do_not_harm_each_other() {
    const TEST: &str = "two_servers_on_one_recording_do_not_harm_each_other";
    let recording = match copy_of_linux("two-servers") {
        Ok(recording) => recording,
        Err(why) => return skip(TEST, &why),
    };
    let mut random = random(TEST);
    let mut seen = Vec::new();
    let mut timelines = [open(&recording), open(&recording)];
    for _ in 0..6 {
        for timeline in &mut timelines {
            let tick = random.u64(0..=timeline.end());
            seek(timeline, tick);
            seen.push(Seen {
                tick,
                state: snapshot(timeline.machine()),
                by: "one of two servers".to_string(),
            });
        }
    }
    timelines.iter().for_each(finish);
    drop(timelines);
    compare_with_forward_run(&recording, seen);
    assert!(check_cache(&recording) > 10);
    check_known(&recording);
}

/// Records a guest into a file, with the cache, as the recording of this number.
fn record_with_cache(name: &str, path: &Path, number: u8) -> Arc<Recording> {
    let elf = fs::read(guest(name)).unwrap();
    let mut plan = plan(&elf, name, GUEST_RAM);
    plan.identity[0] = number;
    plan.ticks_max = Some(50_000_000);
    let mut keeper = CacheKeeper::new(&CacheOptions::beside());
    let console = Box::new(Script::new(b"Hello!q").0);
    record_kept(&plan, path, console, &mut keeper, |_, _, _| {}).unwrap();
    Arc::new(Recording::open(path).unwrap())
}

#[test]
fn a_recording_just_made_is_known() {
    for (name, _) in crate::GUESTS {
        let path = scratch("kept-guest").join("guest.rvr");
        check_known(&record_with_cache(name, &path, 1));
    }
}

#[test]
fn a_linux_recording_just_made_is_known() {
    const TEST: &str = "a_linux_recording_just_made_is_known";
    let linux = match support::linux() {
        Ok(linux) => linux,
        Err(why) => return skip(TEST, &why),
    };
    let path = scratch("kept-linux").join("debian.rvr");
    let (kernel, initrd) = (
        fs::read(&linux.kernel).unwrap(),
        fs::read(&linux.initrd).unwrap(),
    );
    let mut plan = plan(&kernel, "Debian", LINUX_RAM);
    plan.initrd = Some(&initrd);
    plan.cmdline = support::LINUX_CMDLINE.to_string();
    plan.ticks_max = Some(400_000_000);
    let mut keeper = CacheKeeper::new(&CacheOptions::beside());
    let console = Box::new(Script::new(b"").0);
    record_kept(&plan, &path, console, &mut keeper, |_, _, _| {}).unwrap();
    let recording = Arc::new(Recording::open(&path).unwrap());
    let expected = recording
        .last_tick()
        .div_ceil(recording.config().digest_distance_ticks);
    assert_eq!(check_cache(&recording) as u64, expected + 1);
    check_known(&recording);
}

#[test]
fn a_recorder_that_is_killed_leaves_a_cache_that_is_right() {
    const TEST: &str = "a_recorder_that_is_killed_leaves_a_cache_that_is_right";
    let linux = match support::linux() {
        Ok(linux) => linux,
        Err(why) => return skip(TEST, &why),
    };
    let mut random = random(TEST);
    let path = scratch("killed-recorder").join("debian.rvr");
    let text = |path: &PathBuf| path.display().to_string();
    for _ in 0..3 {
        let recorder = retrovisor(&[
            "--record",
            &text(&path),
            "--kernel",
            &text(&linux.kernel),
            "--initrd",
            &text(&linux.initrd),
            "--append",
            support::LINUX_CMDLINE,
            "--console",
            "none",
        ]);
        kill_after(recorder, Duration::from_millis(random.u64(800..2500)));
        let Ok(recording) = Recording::open(&path) else {
            // Killed before there was anything.
            continue;
        };
        let recording = Arc::new(recording);
        let timeline = open(&recording);
        finish(&timeline);
        drop(timeline);
        check_cache(&recording);
        check_known(&recording);
    }
}

#[test]
fn the_cache_of_another_recording_is_replaced_and_what_is_no_cache_is_left_alone() {
    let directory = scratch("stale");
    let path = directory.join("guest.rvr");
    let file = directory.join("guest.rvx");
    let first = record_with_cache("hello", &path, 1);
    check_known(&first);
    let kept = fs::read(&file).unwrap();
    let second = record_with_cache("counter", &path, 2);
    check_known(&second);
    fs::write(&file, &kept).unwrap();
    let mut timeline = open(&second);
    let notes = timeline.take_notes();
    assert!(
        notes.len() == 1 && notes[0].contains("another recording"),
        "{notes:?}"
    );
    finish(&timeline);
    assert_eq!(timeline.pass().progress().ran, second.last_tick());
    drop(timeline);
    check_known(&second);
    let foreign = b"my shopping list";
    fs::write(&file, foreign).unwrap();
    let timeline = open(&second);
    finish(&timeline);
    drop(timeline);
    assert_eq!(fs::read(&file).unwrap(), foreign);
}

/// A recording that grows is known as far as it was.
#[test]
fn the_cache_of_a_recording_that_has_grown_is_used_as_far_as_it_goes() {
    const TEST: &str = "the_cache_of_a_recording_that_has_grown_is_used_as_far_as_it_goes";
    let whole = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let bytes = fs::read(&whole.path).unwrap();
    let path = scratch("grown").join("debian.rvr");
    // Cut within the events, of which there is little: RAM is most of the file.
    let shorter = (1..)
        .map(|n| {
            fs::write(&path, &bytes[..bytes.len() - n * 2000]).unwrap();
            Arc::new(Recording::open(&path).unwrap())
        })
        .find(|shorter| shorter.last_tick() < whole.recording.last_tick() * 2 / 3)
        .unwrap();
    assert!(shorter.last_tick() > 0);
    finish(&open(&shorter));
    check_known(&shorter);
    fs::write(&path, &bytes).unwrap();
    let grown = Arc::new(Recording::open(&path).unwrap());
    let timeline = open(&grown);
    finish(&timeline);
    let ran = timeline.pass().progress().ran;
    let distance = grown.config().digest_distance_ticks;
    let most = grown.last_tick() - shorter.last_tick() + distance;
    assert!((1..=most).contains(&ran), "{ran} ticks run");
    drop(timeline);
    check_cache(&grown);
    check_known(&grown);
}
