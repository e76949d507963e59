//! The same recording is the same run: again, in another process, and recorded again.

use std::process::Command;
use std::sync::Arc;

use retrovisor::replay::Replayer;
use retrovisor::trace::{EndReason, Recording};

use crate::linux;
use crate::support::recording::{events, record_guest, record_linux, snapshot};
use crate::support::{self, skip};

/// Names the recording to a process of our own that shall replay it.
const REPLAY: &str = "RETROVISOR_TEST_REPLAY";
/// What the digests that it prints begin with.
const MARK: &str = "digest-of-replay";

/// Replays a recording from start to end: a line for each digest, and what the serial line got.
fn replay(recording: &Arc<Recording>) -> (Vec<String>, Vec<u8>) {
    let mut replayer = Replayer::new(recording).unwrap();
    replayer.world.collect_console();
    let mut lines = Vec::new();
    while replayer.tick() < replayer.end() {
        let digest = match replayer.run_to_digest() {
            Ok(digest) => digest,
            Err(divergence) => panic!("{divergence}"),
        };
        lines.push(format!(
            "{MARK} {} {:032x} {:032x} {:016x}",
            replayer.tick(),
            digest.registers,
            digest.pages,
            replayer.world.outputs()
        ));
    }
    let last = snapshot(&replayer.machine);
    lines.push(format!("{MARK} {:032x} {:032x}", last.registers, last.ram));
    (lines, replayer.world.take_console())
}

/// No test by itself: what `replays_agree` starts a second time.
#[test]
fn replay_in_a_process_of_its_own() {
    if let Some(path) = std::env::var_os(REPLAY) {
        let recording = Arc::new(Recording::open(path).unwrap());
        for line in replay(&recording).0 {
            println!("{line}");
        }
    }
}

fn replay_elsewhere(recording: &Recording) -> Vec<String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "determinism::replay_in_a_process_of_its_own"])
        .args(["--nocapture", "--test-threads=1"])
        .env(REPLAY, recording.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    // The harness begins a line and does not end it.
    text.lines()
        .filter_map(|line| line.find(MARK).map(|at| line[at..].to_string()))
        .collect()
}

#[test]
fn replays_of_linux_agree_in_one_process_and_in_two() {
    const TEST: &str = "replays_of_linux_agree_in_one_process_and_in_two";
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let (here, console) = replay(&recorded.recording);
    assert_eq!(
        String::from_utf8_lossy(&console),
        recorded.text(),
        "the console replayed is the console recorded"
    );
    assert_eq!(console, recorded.console);
    assert!(here.len() > 100, "{} digests", here.len());
    assert_eq!(here, replay_elsewhere(&recorded.recording));
}

#[test]
fn replays_of_a_small_guest_agree_in_one_process_and_in_two() {
    let recorded = record_guest("timer", b"");
    let (one, _) = replay(&recorded.recording);
    let (two, _) = replay(&recorded.recording);
    assert!(one.len() >= 2);
    assert_eq!(one, two);
    assert_eq!(one, replay_elsewhere(&recorded.recording));
}

/// With the clock chip's date given, nothing of the host is in a recording.
#[test]
fn linux_recorded_twice_is_the_same_event_by_event() {
    const TEST: &str = "linux_recorded_twice_is_the_same_event_by_event";
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let guest = support::linux().expect("it was recorded once already");
    let path = support::scratch("recorded-twice").join("debian.rvr");
    let again = record_linux(&guest, &path, |_| {});
    assert_eq!(again.text(), recorded.text());
    assert_eq!(again.outcome.ticks, recorded.outcome.ticks);
    assert_eq!(again.outcome.guest_ns, recorded.outcome.guest_ns);
    let (one, two) = (events(&recorded.recording), events(&again.recording));
    for (one, two) in one.iter().zip(&two) {
        assert_eq!(one, two);
    }
    assert_eq!(one.len(), two.len());
    let _ = std::fs::remove_dir_all(path.parent().unwrap());
}

/// What the guest does in the first place: nothing else in this program would notice a kernel that panics.
#[test]
fn the_recorded_linux_does_its_work_and_powers_off() {
    const TEST: &str = "the_recorded_linux_does_its_work_and_powers_off";
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let guest = support::linux().expect("it was recorded already");
    let text = recorded.text();
    assert_eq!(recorded.outcome.reason, EndReason::PowerOff, "{text}");
    assert!(
        text.contains(&format!("Linux version {}", guest.version)),
        "{text}"
    );
    for bad in ["Kernel panic", "Oops", "WARNING:", "BUG:", "Call Trace"] {
        assert!(!text.contains(bad), "{bad:?} in:\n{text}");
    }
    if let Some(sum) = guest.busybox_md5 {
        assert!(text.contains(&sum), "no {sum} in:\n{text}");
    }
}
