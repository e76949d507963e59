//! Debian's 32-bit kernels, with and without PAE: they boot to busybox, do some work, power off, and the recordings
//! replay. Skipped, loudly, where the packages cannot be had.

mod support;

use std::fs;
use std::process::Command;

use retrovisor::demo::initramfs::BENCHMARK_INIT;
use retrovisor::demo::{Flavour, debian_kernel_of, initramfs};
use retrovisor::replay::Replayer;
use retrovisor::trace::{EndReason, What};
use support::recording::{self, events};

/// The kernel's tests of its own ciphers take most of a 32-bit boot.
const CMDLINE: &str = "console=ttyS0 cryptomgr.notests";

fn boot(test: &str, flavour: Flavour) {
    let mut progress = |what: &str| eprintln!("tests: {what}");
    let found = match debian_kernel_of(flavour, &support::cache(), &mut progress) {
        Ok(found) => found,
        Err(why) => return support::skip(test, &why.to_string()),
    };
    let kernel = fs::read(&found.bzimage).unwrap();
    let busybox = fs::read(&found.busybox).unwrap();
    let initrd = initramfs(&busybox, BENCHMARK_INIT, &[]);
    let mut plan = recording::plan(&kernel, test, recording::LINUX_RAM);
    plan.initrd = Some(&initrd);
    plan.cmdline = CMDLINE.to_string();
    plan.guest_ns_max = Some(120_000_000_000);
    let recorded = recording::record_plan(&plan, &support::scratch(test).join("boot.rvr"), b"");
    let text = recorded.text();
    let sum = Command::new("md5sum").arg(&found.busybox).output().unwrap();
    let sum = String::from_utf8_lossy(&sum.stdout)[..32].to_string();
    for wanted in [
        "retrovisor: the guest is up",
        &format!("{} #1 SMP", found.version),
        "i686 GNU/Linux",
        &sum,
    ] {
        assert!(
            text.contains(wanted),
            "{wanted:?} is not in what the guest printed ({}):\n{text}",
            recorded.outcome.reason
        );
    }
    assert_eq!(recorded.outcome.reason, EndReason::PowerOff);
    let mut replayer = Replayer::new(&recorded.recording).unwrap();
    let mut checked = 0;
    while replayer.tick() < replayer.end() {
        if let Err(divergence) = replayer.run_to_digest() {
            panic!("{divergence}");
        }
        checked += 1;
    }
    let digests = events(&recorded.recording)
        .iter()
        .filter(|event| matches!(event.what, What::Digest(_)))
        .count();
    assert_eq!(checked, digests, "every digest is met");
    assert!(digests > 100, "{digests}");
}

#[test]
fn debians_686_kernel_boots_and_replays() {
    boot("debians_686_kernel_boots_and_replays", Flavour::I686);
}

#[test]
fn debians_686_pae_kernel_boots_and_replays() {
    boot("debians_686_pae_kernel_boots_and_replays", Flavour::I686Pae);
}
