//! A Linux that is recorded from the middle of its boot: every state, every answer, and the cache that its recorder
//! has filled.

use std::fs;
use std::sync::Arc;

use retrovisor::machine::boot::Protocol;
use retrovisor::record::emulated::Plan;
use retrovisor::record::moment::Moment;
use retrovisor::record::phases::{Engine, From};
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::Debuggee;
use retrovisor::trace::{EndReason, Recording};

use crate::kept::{check_cache, check_known};
use crate::questions::ask_about_linux;
use crate::support::recording::{LINUX_RAM, plain, plan, run_to, snapshot};
use crate::support::{self, phases, scratch, skip};
use crate::{linux, random};

#[test]
fn a_linux_recorded_from_the_middle_is_the_end_of_one_recorded_whole() {
    const TEST: &str = "a_linux_recorded_from_the_middle_is_the_end_of_one_recorded_whole";
    let (whole, linux) = match (linux(), support::linux()) {
        (Ok(whole), Ok(linux)) => (&whole.recording, linux),
        (Err(why), _) | (_, Err(why)) => return skip(TEST, &why),
    };
    let (kernel, initrd) = (
        fs::read(&linux.kernel).unwrap(),
        fs::read(&linux.initrd).unwrap(),
    );
    let plan = Plan {
        initrd: Some(&initrd),
        cmdline: support::LINUX_CMDLINE.to_string(),
        protocol: Some(Protocol::Linux64),
        ..plan(&kernel, "Debian", LINUX_RAM)
    };
    let from = From::Moment(Moment::Console("Run /init".into()));
    let engines = (Engine::Emulator, Engine::Emulator);
    let directory = scratch("middle");
    let parted = phases::run(&plan, engines, (from, None), (b"", &[]), &directory);
    assert_eq!(parted.ended.reason, EndReason::PowerOff);
    let recording = Arc::new(Recording::open(&parted.parts[0].path).unwrap());
    let distance = recording.config().digest_distance_ticks;
    let length = recording.last_tick();
    assert_eq!(
        check_cache(&recording) as u64,
        length.div_ceil(distance) + 1
    );
    check_known(&recording);

    let offset = whole.last_tick() - length;
    let (mut there, mut here) = (plain(whole), plain(&recording));
    here.world.collect_console();
    for tick in [0, 1, distance, length / 2, length] {
        run_to(&mut here, tick);
        run_to(&mut there, offset + tick);
        assert_eq!(
            snapshot(&here.machine),
            snapshot(&there.machine),
            "tick {tick} of {length}"
        );
        assert_eq!(
            here.world.guest_time(tick),
            there.world.guest_time(offset + tick),
            "guest time at tick {tick}"
        );
    }
    let heard = String::from_utf8_lossy(&here.world.take_console()).into_owned();
    assert_eq!(heard, parted.heard(0));
    assert!(heard.contains("Power down"), "{heard}");

    let mut random = random(TEST);
    let mut timeline = Timeline::open(recording.clone()).unwrap();
    assert_eq!(timeline.guest_time(), here_starts_at(&recording));
    let mut compared = 0;
    for _ in 0..3 {
        let start = random.u64(0..length / 2);
        let range = (start, start + length / 3);
        compared += ask_about_linux(&recording, &mut timeline, range, &mut random);
    }
    compared += ask_about_linux(&recording, &mut timeline, (0, length), &mut random);
    assert!(compared > 10, "only {compared} hits");
}

/// Guest time at tick 0.
fn here_starts_at(recording: &Recording) -> u64 {
    let start = recording.config().start.as_ref();
    start.expect("it began in the middle").guest_ns
}
