//! reverse-stepi in QEMU: restores the only snapshot there is, at the start, and replays up to twice from there.

use crate::Failure;
use crate::gdb_mi::Gdb;
use crate::latency::STEP_BACK;
use crate::qemu::{Qemu, icount, prefixed};
use crate::report::Results;
use crate::samples::Samples;
use serde_json::json;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// How often it is measured.
const STEPS: usize = 3;

/// Records with a snapshot, goes to 99 % of the boot, and steps back.
pub fn measure(
    qemu: &Qemu,
    gdb: &PathBuf,
    scratch: &Path,
    results: &mut Results,
) -> Result<(), Failure> {
    let (image, log) = (scratch.join("snapshots.qcow2"), scratch.join("reverse.rr"));
    fs::write(&image, empty_qcow2())?;
    let mut drive: Vec<OsString> = vec!["-drive".into()];
    let mut value = prefixed("if=none,id=snapshots,format=qcow2,file=", &image);
    value.push("");
    drive.push(value);
    let with = |mode| {
        let mut arguments = drive.clone();
        arguments.extend(icount(mode, &log, ",rrsnapshot=start"));
        arguments
    };
    let mut running = qemu.start(&with("record"))?;
    running.qmp.wait_for("SHUTDOWN")?;
    let length = running.qmp.instructions()?.ok_or("QEMU counts nothing")?;
    running.qmp.command("quit", json!({}))?;
    running.child.wait()?;

    let mut arguments = with("replay");
    // A port that is free now, and most likely still in a moment.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    arguments.extend(["-S".into(), "-gdb".into()]);
    arguments.push(format!("tcp:127.0.0.1:{port}").into());
    let mut running = qemu.start(&arguments)?;
    let late = length - length / 100;
    running
        .qmp
        .command("replay-break", json!({ "icount": late }))?;
    running.qmp.command("cont", json!({}))?;
    running.qmp.wait_for("STOP")?;
    let mut gdb = Gdb::start(gdb)?;
    gdb.console(&format!("target remote 127.0.0.1:{port}"))?;
    let mut steps = Samples::default();
    for n in 1..=STEPS as u64 {
        steps.push(gdb.resume(STEP_BACK)?.took.as_secs_f64() * 1e3);
        match running.qmp.instructions()? {
            Some(here) if here + n == late => {}
            here => return Err(format!("QEMU has stepped back from {late} to {here:?}").into()),
        }
    }
    results.latency("QEMU: reverse-stepi in a row, late", steps);
    Ok(())
}

/// An empty disk of 1 MiB in the qcow2 format, version 2 (docs/interop/qcow2.txt), for the snapshot to live in:
/// header, table of reference counts, its only block, and the table of the disk's clusters, 64 KiB each.
fn empty_qcow2() -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &2u32.to_be_bytes());
    put(20, &16u32.to_be_bytes()); // cluster bits
    put(24, &(1u64 << 20).to_be_bytes()); // size of the disk
    put(36, &1u32.to_be_bytes()); // entries of the cluster table
    put(40, &(3 * CLUSTER as u64).to_be_bytes()); // where it is
    put(48, &(CLUSTER as u64).to_be_bytes()); // where the table of reference counts is
    put(56, &1u32.to_be_bytes()); // its clusters
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..4 {
        put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
    }
    image
}
