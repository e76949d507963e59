//! The program as its users meet it: exit statuses, one line for whatever is wrong, and what is in the files.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use retrovisor::trace::{EndReason, Recording};
use serde_json::Value;

/// Nothing here takes longer on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn retrovisor() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retrovisor"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    retrovisor().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Fails with one line on standard error that says `what`, and nothing on standard output.
fn refuses(arguments: &[&str], what: &str) {
    let output = run(arguments);
    let said = text(&output.stderr);
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "{arguments:?}: {:?}: {said}",
        output.status
    );
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.contains(what), "{arguments:?}: «{what}» in: {said}");
    assert!(
        output.stdout.is_empty(),
        "{arguments:?}: {}",
        text(&output.stdout)
    );
}

/// Records a guest of tests/guests and gives the file and what came of it.
fn record(directory: &Path, guest: &str, more: &[&str]) -> (PathBuf, Output) {
    let file = directory.join(format!("{guest}.rvr"));
    let kernel = support::guest(guest);
    let mut command = retrovisor();
    command
        .arg("--record")
        .arg(&file)
        .arg("--kernel")
        .arg(kernel);
    let output = command
        .args(["--memory", "32M"])
        .args(more)
        .output()
        .unwrap();
    (file, output)
}

fn json(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(arguments);
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!(
            "{arguments:?}: {e}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        )
    });
    (value, output.status.code())
}

fn end_of(file: &Path) -> EndReason {
    let recording = Recording::open(file).unwrap();
    recording.end().expect("it has an end").reason.clone()
}

/// Waits for something, at most as long as anything takes.
fn eventually(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn finish(mut child: Child) -> Output {
    eventually("the end of the program", || {
        child.try_wait().unwrap().is_some()
    });
    child.wait_with_output().unwrap()
}

fn kill(child: &Child, signal: i32) {
    // SAFETY: a plain system call; the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn whatever_is_no_recording_is_refused_in_one_line() {
    let directory = support::scratch("cli-no-recording");
    let path = |name: &str| directory.join(name).display().to_string();
    fs::write(path("empty"), b"").unwrap();
    fs::write(path("foreign"), b"#!/bin/sh\necho hello\n".repeat(100)).unwrap();
    let (recorded, _) = record(&directory, "hello", &["--console", "none"]);
    let mut newer = fs::read(recorded).unwrap();
    newer[8..12].copy_from_slice(&999u32.to_le_bytes());
    // The prefix has its own checksum, which is good in a file from the future.
    let sum = xxhash_rust::xxh3::xxh3_64(&newer[..48]);
    newer[48..56].copy_from_slice(&sum.to_le_bytes());
    fs::write(path("newer"), newer).unwrap();
    for (name, what) in [
        ("missing", "No such file"),
        ("empty", "is empty"),
        ("foreign", "not a retrovisor recording"),
        ("newer", "has format 999"),
        (".", "is a directory"),
    ] {
        let file = path(name);
        for command in ["info", "verify", "play"] {
            refuses(&[command, &file], what);
        }
        refuses(&[&file, "--gdb", "127.0.0.1:0"], what);
    }
    refuses(&["info", "/dev/null"], "not a regular file");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_recording_that_cannot_begin_is_refused_in_one_line_and_leaves_what_was_there() {
    let directory = support::scratch("cli-no-kernel");
    let path = |name: &str| directory.join(name).display().to_string();
    let hello = support::guest("hello").display().to_string();
    fs::write(path("text"), "this is no kernel\n".repeat(50)).unwrap();
    fs::write(path("empty"), b"").unwrap();
    fs::write(path("huge"), vec![1; 40 << 20]).unwrap();
    let file = path("x.rvr");
    let with = |more: &[&str], what: &str| {
        let mut arguments = vec!["--record", &file, "--memory", "32M"];
        arguments.extend(more);
        refuses(&arguments, what);
    };
    with(
        &["--kernel", &path("missing")],
        "missing: cannot read the kernel image",
    );
    with(
        &["--kernel", &path("text")],
        "not a kernel that can be booted",
    );
    with(&["--kernel", &path("empty")], "the kernel image is empty");
    with(&["--kernel", &path(".")], "cannot read the kernel image");
    with(
        &["--kernel", &hello, "--initrd", &path("missing")],
        "cannot read the initrd",
    );
    with(
        &["--kernel", &hello, "--initrd", &path(".")],
        "cannot read the initrd",
    );
    with(&["--kernel", &hello, "--initrd", &path("huge")], "initrd");
    // Whether there is KVM or not.
    with(
        &["--kernel", &hello, "--accel", "kvm", "--ticks", "9"],
        "--accel kvm",
    );
    with(
        &["--kernel", &hello, "--console", &path("no/such/file")],
        "cannot write the console",
    );
    with(
        &["--kernel", &hello, "--console", &file],
        "cannot be the same file",
    );
    with(&["--kernel", &hello, "--for", "-1"], "--for");
    with(&["--kernel", &hello, "--ticks", "many"], "--ticks");
    with(&["--kernel", &hello, "--protocol", "bios"], "--protocol");
    for size in ["0", "1M", "256Q", "4097K", "99999999G", ""] {
        refuses(
            &["--record", &file, "--kernel", &hello, "--memory", size],
            "--memory",
        );
    }
    assert!(!Path::new(&file).exists(), "nothing was recorded");

    fs::write(&file, b"my thesis").unwrap();
    with(&["--kernel", &hello], "not overwritten");
    assert_eq!(fs::read(&file).unwrap(), b"my thesis");
    fs::remove_file(&file).unwrap();
    let unwritable = path("no/such/directory.rvr");
    refuses(
        &["--record", &unwritable, "--kernel", &hello],
        "No such file",
    );
    // A wrong kernel does not cost the recording that is there.
    let (kept, _) = record(&directory, "hello", &["--console", "none"]);
    let before = fs::read(&kept).unwrap();
    refuses(
        &[
            "--record",
            &kept.display().to_string(),
            "--kernel",
            &path("text"),
        ],
        "not a kernel",
    );
    assert_eq!(fs::read(&kept).unwrap(), before);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_command_line_that_makes_no_sense_is_one_line() {
    for (arguments, what) in [
        (&[][..], "nothing to do"),
        (&["--record", "x.rvr"], "--kernel"),
        (&["--kernel", "x"], "--record"),
        (&["a.rvr", "--at", "yesterday"], "--at"),
        (&["--at", "end"], "FILE"),
        (&["info"], "FILE"),
        (&["--record", "a", "--kernel", "k", "--cpu", "v9"], "--cpu"),
        (&["--frobnicate"], "--frobnicate"),
        (
            &["a.rvr", "--record", "b.rvr", "--kernel", "k"],
            "cannot be used with",
        ),
        (
            &[
                "--record", "a", "--kernel", "k", "--for", "1", "--ticks", "1",
            ],
            "cannot be used with",
        ),
    ] {
        refuses(arguments, what);
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn help_has_examples_and_says_what_exit_statuses_mean() {
    let help = text(&run(&["--help"]).stdout);
    for what in ["Examples:", "--record", "verify", "Exit status"] {
        assert!(help.contains(what), "{what}: {help}");
    }
    for command in ["info", "verify", "play", "demo"] {
        assert!(run(&[command, "--help"]).status.success());
    }
    assert!(text(&run(&["--version"]).stdout).starts_with("retrovisor "));
}

#[test]
fn a_guest_is_recorded_described_verified_and_played() {
    let directory = support::scratch("cli-hello");
    let (file, output) = record(&directory, "hello", &["--rtc", "86400"]);
    // debug-exit with 0, as QEMU has it.
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "hello from a guest\n");
    let said = text(&output.stderr);
    assert!(
        said.contains("--at end") && said.contains("next: retrovisor"),
        "{said}"
    );

    let name = file.display().to_string();
    let described = text(&run(&["info", &name]).stdout);
    for what in [
        "PVH",
        "32 MiB",
        "1970-01-02 00:00:00",
        "debug-exit",
        "pio_read",
    ] {
        assert!(described.contains(what), "{what}: {described}");
    }
    let (info, status) = json(&["info", &name, "--json"]);
    assert_eq!(status, Some(0));
    let (verified, status) = json(&["verify", &name, "--json"]);
    assert_eq!(status, Some(0));
    let recording = Recording::open(&file).unwrap();
    for report in [&info, &verified] {
        assert_eq!(report["ticks"], recording.last_tick());
        assert_eq!(report["bytes"], fs::metadata(&file).unwrap().len());
        assert_eq!(report["digests"], report["events"]["digest"]);
        assert!(report["digests"].as_u64().unwrap() >= 1);
        assert!(report["events"]["pio_read"].as_u64().unwrap() > 0);
        assert_eq!(report["end"]["reason"]["debug_exit"], 0);
    }
    assert_eq!(info["machine"]["rtc_epoch_s"], 86400);
    assert_eq!(verified["diverged_at"], Value::Null);
    assert!(verified["ticks_per_second"].as_f64().unwrap() > 0.0);
    assert!(text(&run(&["verify", &name]).stdout).contains("good"));

    let played = run(&["play", &name]);
    assert!(played.status.success(), "{}", text(&played.stderr));
    assert_eq!(played.stdout, output.stdout);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_processor_is_chosen_and_is_in_the_recording() {
    let directory = support::scratch("cli-cpu");
    for (arguments, vendor, model) in [
        (&[][..], "GenuineIntel", "x86-64-v3"),
        (&["--cpu", "x86-64-v1"], "GenuineIntel", "x86-64-v1"),
        (
            &["--cpu", "v2", "--cpu-vendor", "amd"],
            "AuthenticAMD",
            "x86-64-v2",
        ),
    ] {
        let arguments = [&["--console", "none"], arguments].concat();
        let (file, _) = record(&directory, "timer", &arguments);
        let name = file.display().to_string();
        let (info, _) = json(&["info", &name, "--json"]);
        assert_eq!(info["machine"]["cpu_vendor"], vendor);
        assert_eq!(info["machine"]["cpu_model"], model);
        assert!(run(&["verify", &name]).status.success());
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn two_recordings_of_one_boot_differ_in_identity_only() {
    let directory = support::scratch("cli-twice");
    let arguments = ["--console", "none", "--rtc", "1000000000"];
    let (file, _) = record(&directory, "timer", &arguments);
    let name = file.display().to_string();
    let (first, _) = json(&["info", &name, "--json"]);
    record(&directory, "timer", &arguments);
    let (second, _) = json(&["info", &name, "--json"]);
    assert_ne!(first["machine"]["identity"], second["machine"]["identity"]);
    for what in ["ticks", "events", "digests"] {
        assert_eq!(first[what], second[what], "{what}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_guests_exit_status_is_made_as_qemu_makes_it() {
    let directory = support::scratch("cli-status");
    for (guest, status) in [("hello", 1), ("counter", 5), ("timer", 9)] {
        let (file, output) = record(&directory, guest, &["--console", "none"]);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{guest}: {}",
            text(&output.stderr)
        );
        assert_eq!(end_of(&file), EndReason::DebugExit(status as u32 >> 1));
    }
    // A triple fault is the guest's end, not the recorder's failure.
    let (file, output) = record(&directory, "triple_fault", &["--console", "none"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        matches!(end_of(&file), EndReason::TripleFault(_)),
        "{:?}",
        end_of(&file)
    );
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_console_works_in_a_pipe_and_plays_as_it_was() {
    let directory = support::scratch("cli-pipe");
    let file = directory.join("echo.rvr");
    let mut child = retrovisor()
        .arg("--record")
        .arg(&file)
        .arg("--kernel")
        .arg(support::guest("echo"))
        .args(["--memory", "32M"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello, ").unwrap();
    stdin.flush().unwrap();
    // In two pieces, the second when the first has come back.
    let mut head = [0; 7];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut head)
        .unwrap();
    assert_eq!(&head, b"HELLO, ");
    stdin.write_all(b"guest 42 \x01x q").unwrap();
    drop(stdin);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "GUEST 42 \x01X ");
    let played = run(&["play", &file.display().to_string()]);
    assert_eq!(text(&played.stdout), "HELLO, GUEST 42 \x01X ");
    let console = directory.join("console.txt");
    record(
        &directory,
        "hello",
        &["--console", &console.display().to_string()],
    );
    assert_eq!(fs::read(&console).unwrap(), b"hello from a guest\n");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn limits_end_a_recording_exactly_and_are_its_reason() {
    let directory = support::scratch("cli-limits");
    // It waits for input for ever.
    let (file, output) = record(
        &directory,
        "echo",
        &["--console", "none", "--ticks", "1000001"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(Recording::open(&file).unwrap().last_tick(), 1_000_001);
    assert_eq!(end_of(&file), EndReason::Limit("1000001 ticks".into()));

    // It sleeps most of the time: guest time passes without ticks.
    let (file, output) = record(&directory, "timer", &["--console", "none", "--for", "0.05"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let recording = Recording::open(&file).unwrap();
    let end = recording.end().unwrap();
    assert!(
        matches!(&end.reason, EndReason::Limit(what) if what.contains("0.05 s")),
        "{:?}",
        end.reason
    );
    let ns = end.guest_ns.unwrap();
    assert!((50_000_000..50_001_000).contains(&ns), "{ns}");
    assert!(
        run(&["verify", &file.display().to_string()])
            .status
            .success()
    );
    fs::remove_dir_all(&directory).unwrap();
}

/// Starts a recording that would go on for ever, and waits until something is in the file.
fn endless(directory: &Path) -> (PathBuf, Child) {
    let file = directory.join("endless.rvr");
    let _ = fs::remove_file(&file);
    let mut command = retrovisor();
    command
        .arg("--record")
        .arg(&file)
        .arg("--kernel")
        .arg(support::guest("echo"));
    command.args(["--memory", "32M", "--console", "none"]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the recording's first seconds", || {
        Recording::open(&file).is_ok_and(|recording| recording.last_tick() > 1_000_000)
    });
    (file, child)
}

#[test]
fn signals_end_a_recording_and_are_its_reason() {
    let directory = support::scratch("cli-signals");
    for (signal, name) in [
        (libc::SIGINT, "SIGINT"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGHUP, "SIGHUP"),
    ] {
        let (file, child) = endless(&directory);
        kill(&child, signal);
        let output = finish(child);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(end_of(&file), EndReason::Signal(name.into()));
        let (report, status) = json(&["verify", &file.display().to_string(), "--json"]);
        assert_eq!(
            (status, &report["diverged_at"]),
            (Some(0), &Value::Null),
            "{name}"
        );
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_killed_recorder_leaves_a_file_that_opens_and_replays() {
    let directory = support::scratch("cli-sigkill");
    let (file, child) = endless(&directory);
    kill(&child, libc::SIGKILL);
    assert_eq!(finish(child).status.signal(), Some(libc::SIGKILL));
    let name = file.display().to_string();
    let output = run(&["verify", &name, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stderr).lines().count(),
        1,
        "one line says that it is torn"
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["end"], Value::Null);
    assert!(report["ticks"].as_u64().unwrap() > 1_000_000);
    assert!(text(&run(&["info", &name]).stdout).contains("no end"));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_full_disk_ends_a_recording_and_loses_nothing() {
    let directory = support::scratch("cli-full");
    let file = directory.join("full.rvr");
    let kernel = support::guest("echo");
    let mut command = retrovisor();
    command
        .arg("--record")
        .arg(&file)
        .arg("--kernel")
        .arg(&kernel);
    command
        .args(["--memory", "32M", "--console", "none"])
        .stdout(Stdio::null());
    support::limit_file_size(&mut command, 200_000);
    let output = finish(command.stderr(Stdio::piped()).spawn().unwrap());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("cannot write the recording"), "{said}");
    let recording = Recording::open(&file).unwrap();
    assert!(recording.last_tick() > 0);
    let (report, status) = json(&["verify", &file.display().to_string(), "--json"]);
    assert_eq!((status, &report["diverged_at"]), (Some(0), &Value::Null));
    fs::remove_dir_all(&directory).unwrap();
}

/// A server for a recording; its standard output; the address.
fn serve(file: &Path, more: &[&str]) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut child = retrovisor()
        .arg(file)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let address = line
        .split(" at ")
        .nth(1)
        .and_then(|rest| rest.split(": ").next());
    let address = address
        .unwrap_or_else(|| panic!("no address in «{line}»"))
        .to_string();
    (child, lines, address)
}

#[test]
fn a_server_says_where_it_is_and_what_to_type_and_ends_by_a_signal() {
    let directory = support::scratch("cli-serve");
    let (file, _) = record(&directory, "counter", &["--console", "none"]);
    for (signal, at) in [
        (libc::SIGINT, "start"),
        (libc::SIGTERM, "end"),
        (libc::SIGTERM, "1000"),
    ] {
        let (child, mut lines, address) = serve(&file, &["--gdb", "127.0.0.1:0", "--at", at]);
        assert!(!address.ends_with(":0"), "{address}");
        let mut next = String::new();
        lines.read_line(&mut next).unwrap();
        assert!(next.contains(&format!("target remote {address}")), "{next}");
        // A busy port is known at once.
        refuses(&[&file.display().to_string(), "--gdb", &address], "in use");
        kill(&child, signal);
        let output = finish(child);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let socket = directory.join("gdb.sock").display().to_string();
    let (child, _lines, address) = serve(&file, &["--gdb", &format!("unix:{socket}")]);
    assert_eq!(address, socket);
    kill(&child, libc::SIGTERM);
    assert_eq!(finish(child).status.code(), Some(0));
    assert!(
        !Path::new(&socket).exists(),
        "the socket is gone with its server"
    );
    refuses(
        &[&file.display().to_string(), "--gdb", "nowhere"],
        "cannot listen at nowhere",
    );
    refuses(
        &[&file.display().to_string(), "--at", "99999999999"],
        "the recording ends at tick",
    );
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn whoever_stops_reading_does_not_make_it_panic() {
    let directory = support::scratch("cli-closed-pipe");
    let (file, _) = record(&directory, "hello", &["--console", "none"]);
    for arguments in [
        &["info"][..],
        &["play"],
        &["info", "--json"],
        &["verify", "--json"],
    ] {
        let mut command = retrovisor();
        command.arg(arguments[0]).arg(&file).args(&arguments[1..]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = finish(child);
        assert!(
            !text(&output.stderr).contains("panicked"),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_demo_finds_its_culprit() {
    if let Err(why) = support::gdb() {
        return support::skip("the_demo_finds_its_culprit", &why);
    }
    let directory = support::scratch("cli demo");
    let output = retrovisor()
        .arg("demo")
        .arg("--check")
        .arg("--dir")
        .arg(&directory)
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    assert!(
        said.contains("watch demo_kernel::KERNEL.ledger.issued"),
        "{said}"
    );
    let line = retrovisor::demo::own_kernel::culprit_line().unwrap();
    assert!(said.contains(&format!("recorder.rs:{line}")), "{said}");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_linux_demo_finds_who_renamed_the_machine() {
    let name = "the_linux_demo_finds_who_renamed_the_machine";
    if let Err(why) = support::gdb()
        .map(drop)
        .and_then(|()| support::linux().map(drop))
    {
        return support::skip(name, &why);
    }
    let directory = support::scratch("cli-linux-demo");
    // The kernel that the tests have is where the demo looks for one.
    let _ = std::os::unix::fs::symlink(".", support::cache().join("retrovisor"));
    let output = retrovisor()
        .env("XDG_CACHE_HOME", support::cache())
        .args(["demo", "--linux", "--check", "--dir"])
        .arg(&directory)
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    assert!(said.contains("check: GDB has found the culprit"), "{said}");
    fs::remove_dir_all(&directory).unwrap();
}
