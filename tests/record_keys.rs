//! Recordings in parts as the user makes them: keys on a terminal, moments on the command line, and one line for what
//! does not go.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
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

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Waits for something, at most as long as anything takes.
fn eventually(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a reader on another thread has read so far.
type Heard = Arc<Mutex<Vec<u8>>>;

fn listen(mut from: impl Read + Send + 'static) -> Heard {
    let heard = Heard::default();
    let all = heard.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // A terminal whose other end is closed gives an error.
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            all.lock().unwrap().extend_from_slice(&buffer[..n]);
        }
    });
    heard
}

/// The program with its console on a terminal of ours.
struct AtTerminal {
    child: Child,
    keyboard: File,
    screen: Heard,
    notes: Heard,
}

impl AtTerminal {
    fn start(arguments: &[&str]) -> AtTerminal {
        let (mut ours, mut theirs) = (-1, -1);
        let null = std::ptr::null_mut();
        // SAFETY: two places for descriptors, which are ours if it succeeds; nothing else is asked for.
        let (ours, theirs) = unsafe {
            let done = libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast());
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
            (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
        };
        let mut child = retrovisor()
            .args(arguments)
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        AtTerminal {
            notes: listen(child.stderr.take().unwrap()),
            screen: listen(File::from(ours.try_clone().unwrap())),
            keyboard: File::from(ours),
            child,
        }
    }

    fn types(&mut self, bytes: &[u8]) {
        self.keyboard.write_all(bytes).unwrap();
    }

    /// Waits for a text.
    fn hears(heard: &Heard, wanted: &str) {
        eventually(wanted, || text(&heard.lock().unwrap()).contains(wanted));
    }

    fn screen(&self, wanted: &str) {
        AtTerminal::hears(&self.screen, wanted);
    }

    fn notes(&self, wanted: &str) {
        AtTerminal::hears(&self.notes, wanted);
    }

    fn status(&mut self) -> Option<i32> {
        eventually("the end of the program", || {
            self.child.try_wait().unwrap().is_some()
        });
        self.child.wait().unwrap().code()
    }
}

/// A recording is good, and its console says this.
fn check(file: &Path, said: &str) {
    check_only(file);
    let output = run(&["play", &shown(file)]);
    assert_eq!(text(&output.stdout), said);
}

/// A recording is good.
fn check_only(file: &Path) {
    let output = run(&["verify", &shown(file)]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

fn json(file: &Path) -> Value {
    let output = run(&["info", &shown(file), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The keys, with the engine that is asked for.
fn keys(accel: &str, found_later: bool) {
    let directory = support::scratch(&format!("keys-{accel}"));
    let file = directory.join("run.rvr");
    let kernel = support::guest("echo");
    // Nobody has named this one: it is not replaced.
    fs::write(directory.join("run-2.rvr"), b"").unwrap();
    let arguments = ["--record", &shown(&file), "--kernel", &shown(&kernel)];
    let mut at = AtTerminal::start(
        &[
            &arguments[..],
            &["--memory", "32M", "--record-from", "key", "--accel", accel],
        ]
        .concat(),
    );
    at.notes("Ctrl-A h");
    at.types(b"abc");
    at.screen("ABC");
    assert!(!file.exists());
    at.types(b"\x01h");
    for key in [
        "Ctrl-A x",
        "Ctrl-A r",
        "Ctrl-A e",
        "Ctrl-A h",
        "Ctrl-A Ctrl-A",
    ] {
        at.screen(key);
    }
    at.types(b"\x01r");
    at.notes("run.rvr: recording begins");
    at.notes("the user asked for it");
    at.types(b"def\x01\x01");
    at.screen("DEF\u{1}");
    at.types(b"\x01e");
    at.notes("the machine runs on");
    at.types(b"ghi");
    at.screen("GHI");
    at.types(b"\x01r");
    at.notes("run-3.rvr: recording begins");
    at.types(b"jkq");
    assert_eq!(at.status(), Some(3));
    let notes = text(&at.notes.lock().unwrap());
    assert!(notes.contains("next: retrovisor"), "{notes}");
    assert_eq!(notes.contains("found when it has ended"), found_later);
    check(&file, "DEF\u{1}");
    let third = directory.join("run-3.rvr");
    check(&third, "JK");
    assert_eq!(fs::read(directory.join("run-2.rvr")).unwrap(), b"");
    let ends = [&file, &third].map(|file| {
        let recording = Recording::open(file).unwrap();
        recording.end().unwrap().reason.clone()
    });
    assert_eq!(ends, [EndReason::UserQuit, EndReason::DebugExit(1)]);
    let (first, second) = (json(&file), json(&third));
    assert_ne!(first["machine"]["identity"], second["machine"]["identity"]);
    let start = |json: &Value| json["machine"]["start"]["guest_ns"].as_u64().unwrap();
    assert!(start(&first) > 0 && start(&second) > start(&first));
    if !found_later {
        assert!(file.with_extension("rvx").exists());
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn recordings_begin_and_end_by_keys() {
    keys("emulate", false);
}

#[test]
fn recordings_under_kvm_begin_and_end_by_keys() {
    match retrovisor::record::kvm::Host::open() {
        Ok(_) => keys("kvm", true),
        Err(error) => support::skip(
            "recordings_under_kvm_begin_and_end_by_keys",
            &error.to_string(),
        ),
    }
}

#[test]
fn ctrl_a_x_before_there_is_a_recording_says_that_there_is_none() {
    let directory = support::scratch("keys-none");
    let file = directory.join("run.rvr");
    let kernel = support::guest("echo");
    let arguments = ["--record", &shown(&file), "--kernel", &shown(&kernel)];
    let mut at =
        AtTerminal::start(&[&arguments[..], &["--memory", "32M", "--record-from", "key"]].concat());
    at.notes("Ctrl-A h");
    at.types(b"\x01x");
    assert_eq!(at.status(), Some(1));
    at.notes("nothing was recorded");
    at.notes("before Ctrl-A r");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    fs::remove_dir_all(&directory).unwrap();
}

/// Records a guest without anybody at the console.
fn record(file: &Path, guest: &str, more: &[&str]) -> Output {
    let kernel = shown(&support::guest(guest));
    let file = shown(file);
    let arguments = ["--record", &file, "--kernel", &kernel, "--memory", "32M"];
    run(&[&arguments[..], &["--console", "none"], more].concat())
}

#[test]
fn moments_of_the_command_line_begin_and_end_recordings() {
    let directory = support::scratch("moments");
    let file = directory.join("run.rvr");
    let output = record(&file, "hello", &["--record-from", "console:from"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("recording begins at") && said.contains("«from»"),
        "{said}"
    );
    check(&file, " a guest\n");
    let info = text(&run(&["info", &shown(&file)]).stdout);
    assert!(info.contains("the console said «from»"), "{info}");
    let start = json(&file)["machine"]["start"].clone();
    assert_eq!(start["moment"], "the console said «from»");
    // Its cache is of the recording: nothing has to be made anew.
    assert!(file.with_extension("rvx").exists());

    for (guest, more, said) in [
        (
            "timer",
            ["--record-from", "tick", "--record-until", "console:10"],
            "10",
        ),
        (
            "timer",
            [
                "--record-from",
                "port:0x20=0x20",
                "--record-until",
                "port:0xf4",
            ],
            "100 ticks\n",
        ),
        (
            "hello",
            [
                "--record-from",
                "print_string",
                "--record-until",
                "console:h",
            ],
            "h",
        ),
    ] {
        let output = record(&file, guest, &more);
        // What ended by exiting says so; what ended by its moment is as it should be.
        let status = if said == "100 ticks\n" { 9 } else { 0 };
        assert_eq!(
            output.status.code(),
            Some(status),
            "{more:?}: {}",
            text(&output.stderr)
        );
        check(&file, said);
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_function_of_a_linux_without_a_symbol_file_begins_a_recording() {
    const TEST: &str = "a_function_of_a_linux_without_a_symbol_file_begins_a_recording";
    let linux = match support::linux() {
        Ok(linux) => linux,
        Err(why) => return support::skip(TEST, &why),
    };
    let directory = support::scratch("moments-linux");
    let file = directory.join("run.rvr");
    let (kernel, initrd) = (shown(&linux.kernel), shown(&linux.initrd));
    let name = shown(&file);
    let arguments = [
        "--record",
        &name,
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        support::LINUX_CMDLINE,
        "--memory",
        "128M",
        "--console",
        "none",
        "--record-from",
    ];
    // Where the initial process switches the machine off.
    let output = run(&[&arguments[..], &["__x64_sys_reboot"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&run(&["play", &name]).stdout);
    assert!(
        said.contains("Power down") && !said.contains("the guest is up"),
        "{said}"
    );
    let recording = Arc::new(Recording::open(&file).unwrap());
    let start = recording.config().start.clone().unwrap();
    let replayer = retrovisor::replay::Replayer::new(&recording).unwrap();
    let address = replayer.machine.cpu.linear_rip();
    assert_eq!(
        start.moment,
        format!("execution came to __x64_sys_reboot ({address:#x})")
    );
    // The same symbol in the file that is made of the recording's RAM.
    let symbols = directory.join("run.sym");
    run(&["symbols", &name, "-o", &shown(&symbols)]);
    let elf = fs::read(&symbols).unwrap();
    assert_eq!(support::symbol(&elf, "__x64_sys_reboot"), address);
    check_only(&file);

    fs::remove_file(&file).unwrap();
    let output = run(&[&arguments[..], &["no_such_function"]].concat());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("has no such symbol") && said.contains(&linux.version),
        "{said}"
    );
    assert!(!file.exists());
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn what_makes_no_sense_or_never_comes_is_one_line() {
    let directory = support::scratch("moments-bad");
    let file = directory.join("run.rvr");
    let refused = |more: &[&str], status: i32, what: &str| {
        let output = record(&file, "hello", more);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{more:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{more:?}: {said}");
        assert!(said.contains(what), "{more:?}: «{what}» in: {said}");
        assert!(!file.exists(), "{more:?} leaves a file");
    };
    for option in ["--record-from", "--record-until"] {
        for (when, what) in [
            ("console:", "needs the text"),
            ("port:", "a port is a number"),
            ("port:0x10000", "a port is a number"),
            ("port:0x80=", "a port is a number"),
            ("0xzz", "an address is a number"),
            ("consul:x", "console:TEXT, port:NUMBER"),
            ("", "console:TEXT, port:NUMBER"),
        ] {
            refused(&[option, when], 2, what);
        }
        refused(&[option, "no_such_symbol"], 1, "has no such symbol");
    }
    refused(&["--record-from", "key"], 1, "no terminal");
    refused(&["--record-until", "key"], 1, "Ctrl-A e");
    refused(
        &["--record-from", "console:goodbye"],
        1,
        "nothing was recorded: the guest wrote 0x0 to the debug-exit port, before the console said «goodbye»",
    );
    refused(
        &["--record-from", "port:0x1234"],
        1,
        "before the guest wrote to port 0x1234",
    );
    refused(
        &["--record-from", "0x10"],
        1,
        "before execution came to 0x10",
    );
    refused(&["--accel-before", "fast"], 2, "--accel-before");

    // What is in the way is found before the machine runs.
    fs::write(&file, b"my thesis").unwrap();
    let output = record(&file, "hello", &["--record-from", "console:goodbye"]);
    assert!(text(&output.stderr).contains("not overwritten"));
    assert_eq!(fs::read(&file).unwrap(), b"my thesis");
    let nowhere = directory.join("no/such/directory.rvr");
    let output = record(&nowhere, "hello", &["--record-from", "console:goodbye"]);
    assert!(text(&output.stderr).contains("No such file"));
    // A recording that is there is kept as long as no other begins.
    fs::remove_file(&file).unwrap();
    record(&file, "hello", &[]);
    let before = fs::read(&file).unwrap();
    record(&file, "hello", &["--record-from", "console:goodbye"]);
    assert_eq!(fs::read(&file).unwrap(), before);
    fs::remove_dir_all(&directory).unwrap();
}
