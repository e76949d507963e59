//! Recording under KVM as users meet it: the program itself, what it says, what it leaves behind when it is killed or
//! the disk is full, and what becomes of its files.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use retrovisor::record::kvm::Host;
use retrovisor::trace::Recording;
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

fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {said}"))
}

/// Whether there is KVM; else the test is skipped.
fn has_kvm(test: &str) -> bool {
    match Host::open() {
        Ok(_) => true,
        Err(error) => {
            support::skip(test, &error.to_string());
            false
        }
    }
}

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

/// A recording under KVM of a guest of tests/guests, that is about to start.
fn recorder(file: &Path, guest: &str) -> Command {
    let mut command = retrovisor();
    command.arg("--record").arg(file);
    command.arg("--kernel").arg(support::guest(guest));
    command.args(["--memory", "16M", "--accel", "kvm"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Records what a guest does of whom something is typed.
fn record(file: &Path, guest: &str, typed: &[u8]) -> Output {
    let mut command = recorder(file, guest);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed).unwrap();
    finish(child)
}

/// What `info` counts for KVM, by its name.
fn counts(info: &Value) -> Vec<(&str, u64)> {
    let statistics = info["end"]["statistics"].as_object().expect("statistics");
    let counts = statistics.iter().map(|(name, n)| (name.as_str(), n));
    counts
        .map(|(name, n)| (name, n.as_u64().unwrap()))
        .collect()
}

fn count(info: &Value, name: &str) -> u64 {
    let found = counts(info).into_iter().find(|(n, _)| *n == name);
    found.unwrap_or_else(|| panic!("{name} in {info}")).1
}

#[test]
fn a_recording_under_kvm_is_verified_described_and_debugged() {
    let test = "a_recording_under_kvm_is_verified_described_and_debugged";
    if !has_kvm(test) {
        return;
    }
    let directory = support::scratch("kvm-program");
    let file = directory.join("work.rvr");
    let name = file.display().to_string();
    let output = record(&file, "work", b"3m");
    let said = text(&output.stderr);
    // debug-exit with 8.
    assert_eq!(output.status.code(), Some(17), "{said}");
    let sum = text(&output.stdout);
    assert!(u32::from_str_radix(sum.trim(), 16).is_ok(), "{sum:?}");
    assert!(
        said.lines()
            .any(|line| line.contains("KVM: the time-stamp counter")),
        "{said}"
    );
    let recording = Recording::open(&file).unwrap();
    assert!(!recording.config().untimed && recording.torn().is_none());

    let verified = json(&["verify", &name, "--json"]);
    assert_eq!(verified["diverged_at"], Value::Null);
    let played = run(&["play", &name]);
    assert_eq!(text(&played.stdout), sum);
    let info = json(&["info", &name, "--json"]);
    assert_eq!(info["untimed"], false);
    assert_eq!(info["machine"]["accel"], "kvm");
    assert_eq!(count(&info, "interrupts_placed"), 6);
    assert_eq!(count(&info, "resolved_places"), 6);
    assert!(count(&info, "resolved_candidates") >= 6);
    assert_eq!(count(&info, "accesses"), count(&info, "exits_port"));
    let described = text(&run(&["info", &name]).stdout);
    for (name, n) in counts(&info) {
        let row = described.lines().find(|line| line.contains(name));
        let digits: String = row
            .unwrap_or_else(|| panic!("{name} in {described}"))
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        assert_eq!(digits, n.to_string(), "{name}: {described}");
    }
    debug(test, &file);
    fs::remove_dir_all(&directory).unwrap();
}

/// GDB goes to the end of the recording and back through what the interrupts have counted.
fn debug(test: &str, file: &Path) {
    let gdb = match support::gdb() {
        Ok(gdb) => gdb,
        Err(why) => return support::skip(test, &why),
    };
    let mut server = retrovisor()
        .arg(file)
        .args(["--gdb", "127.0.0.1:0", "--at", "end"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .split(" at ")
        .nth(1)
        .and_then(|rest| rest.split(": ").next());
    let mut command = Command::new(gdb);
    command
        .args(["-q", "-nx", "-batch"])
        .arg(support::guest("work"));
    for line in [
        &format!("target remote {}", address.expect("an address")),
        "print *(int *)&ticks",
        "watch *(int *)&ticks",
        "reverse-continue",
        "print $pc > (unsigned long)&tick && $pc < (unsigned long)&finish",
        "reverse-continue",
        "print *(int *)&ticks",
        "delete",
        "break *&tick",
        "continue",
        "print *(int *)&ticks",
    ] {
        command.args(["-ex", line]);
    }
    let output = command.output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    // SAFETY: a plain system call; the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(server.id() as i32, libc::SIGTERM) }, 0);
    finish(server);
    for (n, value) in [(1, 6), (2, 1), (3, 4), (4, 5)] {
        assert!(said.contains(&format!("${n} = {value}\n")), "{n}: {said}");
    }
}

/// Starts a recording of a guest that goes on for ever in ring 3, and waits until it was interrupted there and that is
/// in the file.
fn endless(file: &Path) -> Child {
    let mut command = recorder(file, "work");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"3l").unwrap();
    eventually("the recording's first interrupts", || {
        let recording = Recording::open(file);
        recording.is_ok_and(|recording| {
            let statistics = recording.statistics().unwrap();
            statistics.events.get("stand").is_some_and(|&n| n > 30)
        })
    });
    child
}

fn kill(child: &Child, signal: i32) {
    // SAFETY: a plain system call; the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn a_killed_recorder_leaves_what_the_next_command_makes_a_recording_of() {
    if !has_kvm("a_killed_recorder_leaves_what_the_next_command_makes_a_recording_of") {
        return;
    }
    let directory = support::scratch("kvm-killed");
    let file = directory.join("killed.rvr");
    let name = file.display().to_string();
    let child = endless(&file);
    // While it is recorded nobody may find ticks and put another file in its place.
    let output = run(&["verify", &name]);
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("still being recorded"),
        "{said}"
    );
    kill(&child, libc::SIGKILL);
    assert_eq!(finish(child).status.signal(), Some(libc::SIGKILL));

    let info = json(&["info", &name, "--json"]);
    assert_eq!(
        (&info["untimed"], &info["format"]),
        (&Value::Bool(true), &2.into())
    );
    assert_eq!(info["end"], Value::Null);
    let stands = info["events"]["stand"].as_u64().unwrap();
    let described = text(&run(&["info", &name]).stdout);
    assert!(
        described.contains("accesses (the next command"),
        "{described}"
    );

    let output = run(&["verify", &name, "--json"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("did not get to finding the ticks"), "{said}");
    let verified: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verified["diverged_at"], Value::Null);
    let info = json(&["info", &name, "--json"]);
    assert_eq!(info["untimed"], false);
    assert_eq!(count(&info, "resolved_places"), stands);
    assert!(info["events"]["interrupt"].as_u64().unwrap() > 30);
    assert!(
        info["end_text"].as_str().unwrap().contains("killed"),
        "{info}"
    );
    // Only once.
    assert_eq!(text(&run(&["verify", &name]).stderr), "");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn statistics_are_there_before_ticks_are_found() {
    if !has_kvm("statistics_are_there_before_ticks_are_found") {
        return;
    }
    let directory = support::scratch("kvm-untimed");
    let file = directory.join("work.rvr");
    let name = file.display().to_string();
    // No room for a second file: ticks cannot be found.
    fs::create_dir(directory.join("work.rvr.resolving")).unwrap();
    let output = record(&file, "work", b"0e");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is a directory"), "{said}");
    let info = json(&["info", &name, "--json"]);
    assert_eq!(info["untimed"], true);
    assert_eq!(info["end"]["reason"]["debug_exit"], 8);
    assert_eq!(count(&info, "interrupts_placed"), 6);
    let described = text(&run(&["info", &name]).stdout);
    let row = described
        .lines()
        .find(|line| line.contains("interrupts_placed"));
    assert!(row.is_some_and(|row| row.ends_with(" 6")), "{described}");
    fs::remove_dir(directory.join("work.rvr.resolving")).unwrap();
    assert!(run(&["verify", &name]).status.success());
    let timed = json(&["info", &name, "--json"]);
    for (name, n) in counts(&info) {
        assert_eq!(count(&timed, name), n, "{name}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn signals_end_a_recording_under_kvm_too() {
    if !has_kvm("signals_end_a_recording_under_kvm_too") {
        return;
    }
    let directory = support::scratch("kvm-signal");
    let file = directory.join("signal.rvr");
    let child = endless(&file);
    kill(&child, libc::SIGTERM);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let name = file.display().to_string();
    let verified = json(&["verify", &name, "--json"]);
    assert_eq!(verified["end"]["reason"]["signal"], "SIGTERM");
    assert_eq!(verified["diverged_at"], Value::Null);

    // The second one does not wait for the ticks: they are left to the next command.
    let child = endless(&file);
    kill(&child, libc::SIGTERM);
    let half = directory.join("signal.rvr.resolving");
    eventually("the search for ticks", || half.exists());
    kill(&child, libc::SIGTERM);
    assert_eq!(finish(child).status.signal(), Some(libc::SIGTERM));
    let info = json(&["info", &name, "--json"]);
    assert_eq!(info["untimed"], true);
    assert_eq!(info["end"]["reason"]["signal"], "SIGTERM");
    assert!(run(&["verify", &name]).status.success());
    assert!(!half.exists());
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_full_disk_ends_a_recording_under_kvm_and_loses_nothing() {
    if !has_kvm("a_full_disk_ends_a_recording_under_kvm_and_loses_nothing") {
        return;
    }
    let directory = support::scratch("kvm-full");
    let file = directory.join("full.rvr");
    let mut command = recorder(&file, "echo");
    command.args(["--console", "none"]);
    support::limit_file_size(&mut command, 50_000);
    let output = finish(command.spawn().unwrap());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errors: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("retrovisor: KVM: "))
        .collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(errors[0].contains("cannot write the recording"), "{said}");
    let name = file.display().to_string();
    let verified = json(&["verify", &name, "--json"]);
    assert_eq!(verified["diverged_at"], Value::Null);
    assert!(verified["ticks"].as_u64().unwrap() > 1000, "{verified}");
    assert!(
        verified["events"]["pio_read"].as_u64().unwrap() > 300,
        "{verified}"
    );
    fs::remove_dir_all(&directory).unwrap();
}

/// The recorder where /dev/kvm is something else, by a mount namespace; `None` where there are none for us.
fn with_other_device(prepare: &str, directory: &Path) -> Option<Output> {
    let file: PathBuf = directory.join("never.rvr");
    let kernel = support::guest("hello");
    let arguments = format!(
        "'{}' --record '{}' --kernel '{}' --memory 16M --accel kvm --console none",
        env!("CARGO_BIN_EXE_retrovisor"),
        file.display(),
        kernel.display()
    );
    let script = format!("{prepare} || exit 99\nexec $drop {arguments}");
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    assert!(!file.exists());
    match output.status.code() {
        Some(99) => None,
        // What unshare itself says.
        _ if text(&output.stderr).starts_with("unshare:") => None,
        _ => Some(output),
    }
}

#[test]
fn where_there_is_no_kvm_one_line_says_which_kind_of_no() {
    let test = "where_there_is_no_kvm_one_line_says_which_kind_of_no";
    let directory = support::scratch("kvm-none");
    let locked = directory.join("locked");
    fs::write(&locked, b"").unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let nothing = "mount -t tmpfs none /dev".to_string();
    let forbidden = format!(
        "drop='setpriv --bounding-set=-all --inh-caps=-all'; mount --bind '{}' /dev/kvm",
        locked.display()
    );
    let other = "mount --bind /dev/null /dev/kvm".to_string();
    for (prepare, what) in [
        (nothing, "there is no /dev/kvm on this machine"),
        (forbidden, "/dev/kvm may not be opened by this user"),
        (other, "the host's KVM has no"),
    ] {
        let Some(output) = with_other_device(&prepare, &directory) else {
            support::skip(test, &format!("no mount namespace for «{prepare}»"));
            continue;
        };
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.contains(what) && said.contains("--accel emulate works"),
            "{said}"
        );
        assert!(output.stdout.is_empty());
    }
    fs::remove_dir_all(&directory).unwrap();
}
