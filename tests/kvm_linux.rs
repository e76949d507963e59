//! Debian's kernel, booted in the emulator, runs a busybox workload under the real KVM, and goes on in the emulator.

mod support;

use std::fs;
use std::sync::Arc;

use retrovisor::demo::{debian_kernel, initramfs};
use retrovisor::guest::code::functions;
use retrovisor::machine::boot::Protocol;
use retrovisor::record::kvm::Host;
use retrovisor::record::moment::{Key, Moment};
use retrovisor::record::phases::{Engine, From};
use retrovisor::replay::Replayer;
use retrovisor::replay::resolve::resolve_in_place;
use retrovisor::trace::{EndReason, Recording};
use support::phases::{self, Cue};
use support::recording::{LINUX_RAM, plan, record_plan};
use support::{LINUX_CMDLINE, scratch, skip};

/// Processes, pipes, signals, page faults, x87 and SSE, files; nothing that shows the time.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo BEGIN
trap 'echo caught' USR1
kill -USR1 $$
for i in 1 2 3; do (echo $i | md5sum) & done; wait
seq 1 500 | sort -r | sed 's/1/one/' | tr a-z A-Z | sha256sum
awk 'BEGIN { for (i = 1; i < 3000; i++) s += i / 7; printf \"%.9f\\n\", s }'
head -c 50000 /bin/busybox | gzip | gunzip | md5sum
sh -c 'kill -SEGV $$'; echo status $?
find /bin | sort | md5sum
echo HALF
seq 1 200 | md5sum
echo END
poweroff -f
";

/// What the guest says of its work, in the order of words: what runs at the same time comes in any order.
fn work(console: &[u8]) -> Vec<String> {
    let console = String::from_utf8_lossy(console).replace('\r', "");
    let (_, rest) = console.split_once("BEGIN\n").expect(&console);
    let (work, _) = rest.split_once("END\n").expect(&console);
    let mut lines: Vec<String> = work.lines().map(str::to_string).collect();
    lines.sort();
    lines
}

#[test]
fn a_linux_is_handed_to_kvm_and_back_and_what_it_did_there_replays_exactly() {
    let name = "a_linux_is_handed_to_kvm_and_back_and_what_it_did_there_replays_exactly";
    let mut host = match Host::open() {
        Ok(host) => host,
        Err(error) => return skip(name, &error.to_string()),
    };
    let debian = match debian_kernel(&support::cache(), &mut |_| {}) {
        Ok(debian) => debian,
        Err(error) => return skip(name, &error.to_string()),
    };
    let kernel = fs::read(&debian.bzimage).unwrap();
    let busybox = fs::read(&debian.busybox).unwrap();
    let initrd = initramfs(&busybox, INIT, &[]);
    let mut plan = plan(&kernel, "Debian", LINUX_RAM);
    plan.initrd = Some(&initrd);
    plan.cmdline = LINUX_CMDLINE.to_string();
    plan.protocol = Some(Protocol::Linux64);
    let directory = scratch("kvm-linux");
    // The order in which three processes print is the scheduler's business; all else must be the same.
    let emulated = record_plan(&plan, &directory.join("emulated.rvr"), b"");
    let wanted = work(&emulated.console);

    println!("{}", host.line());
    let image = kernel.clone();
    host.set_code(move |machine| functions(machine, &image));
    let parted = phases::run(
        &plan,
        (Engine::Kvm(&host), Engine::Emulator),
        (From::Moment(Moment::Console("BEGIN".into())), None),
        (b"", &[(Cue::Heard("HALF"), Key::End)]),
        &directory,
    );
    assert_eq!(parted.ended.reason, EndReason::PowerOff);
    assert_eq!(work(&parted.console), wanted);
    let part = &parted.parts[0];
    assert!(part.end.as_ref().unwrap().untimed);
    let found = resolve_in_place(&part.path, |_| {}).unwrap_or_else(|error| panic!("{error}"));
    println!("{found:?}");
    let recording = Arc::new(Recording::open(&part.path).unwrap());
    let statistics = &recording.end().unwrap().statistics;
    println!("{statistics:?}");
    assert!(found.ticks > 10_000_000 && found.placed > 10, "{found:?}");
    assert!(statistics["replaced_places"] > 0, "{statistics:?}");
    let mut replayer = Replayer::new(&recording).unwrap();
    replayer.world.collect_console();
    while replayer.tick() < replayer.end() {
        if let Err(divergence) = replayer.run_to_digest() {
            panic!("{divergence}");
        }
    }
    let console = String::from_utf8_lossy(&replayer.world.take_console()).into_owned();
    assert_eq!(console, parted.heard(0));
}
