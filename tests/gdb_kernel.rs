//! The real GDB over a whole boot of the Debian kernel with KASLR on: sessions as expected transcripts
//! (`tests/transcripts/*.txt`), and what they say of ticks against a forward scan.
//!
//! A transcript is what a user sees: `(gdb) COMMAND`, then what comes. In it `{hex}` and `{n}` stand for a number,
//! `{any}` for the rest of a line, `{NAME=hex}` and `{NAME=n}` give a number a name that it must have again at
//! `{NAME}` (in commands, too), and a line of `...` stands for any lines. What a `#` begins is a comment.
//!
//! Skipped, loudly, where there is no GDB or no kernel to be had.

#[path = "gdb_kernel/conditions.rs"]
mod conditions;
#[path = "time_travel/scan.rs"]
#[allow(dead_code)] // the slow way of it
mod scan;
mod support;
#[path = "gdb_kernel/types.rs"]
mod types;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use retrovisor::gdb::Server;
use retrovisor::guest::AtPosition;
use retrovisor::guest::linux::Kernel;
use retrovisor::guest::symbol_file;
use retrovisor::tick::Tick;
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::{Debuggee, Event, EventSet, Question, StopReason, Stops, Want};
use support::recording::{Recorded, plain, record_linux};

/// No scenario takes longer.
const PATIENCE: Duration = Duration::from_secs(180);

static NEVER: AtomicBool = AtomicBool::new(false);

/// The recording, and where GDB is; the reason in one line where one of them is missing.
fn prepared() -> Result<(&'static Recorded, PathBuf), String> {
    static MADE: OnceLock<Result<Recorded, String>> = OnceLock::new();
    let gdb = support::gdb()?;
    let made = MADE.get_or_init(|| {
        let linux = support::linux()?;
        let path = support::scratch("gdb-kernel").join("debian.rvr");
        Ok(record_linux(&linux, &path, |_| {}))
    });
    made.as_ref()
        .map(|recorded| (recorded, gdb))
        .map_err(Clone::clone)
}

/// A timeline at the end of the recording, all of which has been looked at.
fn at_the_end(recorded: &Recorded) -> Timeline {
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let end = timeline.end();
    timeline.pass().wait_for(end, || false);
    timeline.seek(end, &NEVER).unwrap();
    timeline
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs GDB with commands over a timeline; before what each prints comes a line with the command.
fn gdb(timeline: &mut Timeline, program: &Path, commands: &[String]) -> String {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let address = server.address().unwrap();
    let quit = AtomicBool::new(false);
    let mut command = Command::new(program);
    command.args(["-q", "-nx", "-batch"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("gdb-scripts/retrovisor.py");
    for line in [
        "set confirm off".to_string(),
        "set width 0".into(),
        format!("target remote {address}"),
        format!("source {}", script.display()),
    ] {
        command.arg("-ex").arg(line);
    }
    for line in commands {
        let shown = line.replace('\\', "\\\\");
        command.arg("-ex").arg(format!("echo (gdb) {shown}\\n"));
        command.arg("-ex").arg(line);
    }
    // One pipe for both, so that the order is what a user sees.
    let (mut reader, writer) = std::io::pipe().unwrap();
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().unwrap())
        .stderr(writer);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let _quit = SetOnDrop(&quit);
            let mut child = command.spawn().unwrap();
            drop(command);
            let reader = thread::spawn(move || {
                let mut text = Vec::new();
                let _ = reader.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            });
            let started = Instant::now();
            while child.try_wait().unwrap().is_none() && started.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(5));
            }
            let hangs = child.try_wait().unwrap().is_none();
            if hangs {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            let text = reader.join().unwrap();
            assert!(!hangs, "GDB hangs: {text}");
            text
        });
        server.serve(timeline, &quit).unwrap();
        client.join().unwrap()
    })
}

/// Numbers that a transcript has named.
type Names = BTreeMap<String, String>;

/// The length of the number at the begin of a text.
fn number_length(text: &str, kind: &str) -> usize {
    let prefix = if kind == "hex" && text.starts_with("0x") {
        2
    } else {
        0
    };
    let digit = |c: char| match kind {
        "hex" => c.is_ascii_hexdigit(),
        _ => c.is_ascii_digit(),
    };
    let digits = text[prefix..].chars().take_while(|&c| digit(c)).count();
    if digits == 0 { 0 } else { prefix + digits }
}

/// Whether a line is what a pattern says; names it contains are taken down.
fn line_matches(mut pattern: &str, mut line: &str, names: &mut Names) -> bool {
    loop {
        let Some(at) = pattern.find('{') else {
            return pattern.trim_end() == line.trim_end();
        };
        if !line.starts_with(&pattern[..at]) {
            return false;
        }
        line = &line[at..];
        let end = at + pattern[at..].find('}').expect("a } in the transcript");
        let word = &pattern[at + 1..end];
        pattern = &pattern[end + 1..];
        if word == "any" {
            // Up to what comes next.
            let next = &pattern[..pattern.find('{').unwrap_or(pattern.len())];
            match line.find(next) {
                Some(skip) if !next.is_empty() => line = &line[skip..],
                _ => return next.is_empty(),
            }
            continue;
        }
        let (name, kind) = word.split_once('=').unwrap_or(("", word));
        let length = match (kind, names.get(kind)) {
            ("hex" | "n", _) => number_length(line, kind),
            (_, Some(value)) if line.starts_with(value.as_str()) => value.len(),
            _ => return false,
        };
        if length == 0 {
            return false;
        }
        if !name.is_empty() {
            names.insert(name.into(), line[..length].into());
        }
        line = &line[length..];
    }
}

/// Whether lines are what patterns say, with `...` for any lines.
fn lines_match(patterns: &[&str], lines: &[&str], names: &mut Names) -> bool {
    match (patterns, lines) {
        ([], rest) => rest.iter().all(|line| line.trim().is_empty()),
        (["...", patterns @ ..], _) => (0..=lines.len()).any(|skip| {
            let mut tried = names.clone();
            let matches = lines_match(patterns, &lines[skip..], &mut tried);
            if matches {
                *names = tried;
            }
            matches
        }),
        ([pattern, patterns @ ..], [line, lines @ ..]) => {
            line_matches(pattern, line, names) && lines_match(patterns, lines, names)
        }
        ([pattern, patterns @ ..], []) => {
            pattern.trim().is_empty() && lines_match(patterns, lines, names)
        }
    }
}

/// Parts of a session or a transcript: a command and the lines behind it.
fn parts(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match (line.strip_prefix("(gdb) "), all.last_mut()) {
            (Some(command), _) => all.push((command, Vec::new())),
            // What GDB says of itself comes before the first command.
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => {}
        }
    }
    all
}

/// Runs a transcript. Numbers that have names in commands are known from the start.
fn hold(timeline: &mut Timeline, program: &Path, file: &str, known: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/transcripts")
        .join(file);
    let mut transcript = fs::read_to_string(&path).unwrap();
    for (name, value) in known {
        transcript = transcript.replace(&format!("{{{name}}}"), value);
    }
    let wanted = parts(&transcript);
    assert!(wanted.len() > 3, "{file}");
    let commands: Vec<String> = wanted.iter().map(|(c, _)| c.to_string()).collect();
    let text = gdb(timeline, program, &commands);
    // What GDB says of its own end is no command's.
    let text = text.replace("[Inferior 1 (process 1) detached]\n", "");
    let got = parts(&text);
    let mut names = Names::new();
    for ((command, wanted), (_, got)) in wanted.iter().zip(&got) {
        let trimmed = |lines: &[&str]| lines.join("\n").trim().to_string();
        let (want, have) = (trimmed(wanted), trimmed(got));
        let (want, have): (Vec<&str>, Vec<&str>) = (want.lines().collect(), have.lines().collect());
        assert!(
            lines_match(&want, &have, &mut names),
            "{file}: after `{command}` came\n{}\nand not\n{}\nin:\n{text}",
            have.join("\n"),
            want.join("\n"),
        );
    }
    assert_eq!(got.len(), wanted.len(), "{text}");
}

/// A file with the kernel's symbols where they were linked, as a vmlinux has them: `symbol_file`'s, moved back.
fn as_linked(timeline: &Timeline, path: &Path) -> u64 {
    let kernel = Kernel::find(&AtPosition(timeline)).unwrap();
    let offset = kernel.kaslr_offset().unwrap();
    let mut elf = symbol_file::make(&kernel, None).unwrap();
    let u64_at = |elf: &[u8], at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let table = u64_at(&elf, 0x28) as usize;
    let count = usize::from(u16::from_le_bytes(elf[0x3c..0x3e].try_into().unwrap()));
    let mut places = Vec::new();
    for n in 0..count {
        let header = table + n * 64;
        let kind = u32::from_le_bytes(elf[header + 4..header + 8].try_into().unwrap());
        places.push(header + 16);
        // The symbol table.
        if kind == 2 {
            let (start, size) = (u64_at(&elf, header + 24), u64_at(&elf, header + 32));
            places.extend((start..start + size).step_by(24).map(|at| at as usize + 8));
        }
    }
    for at in places {
        let value = u64_at(&elf, at);
        if value >= 0xffff_ffff_8000_0000 {
            elf[at..at + 8].copy_from_slice(&(value - offset).to_le_bytes());
        }
    }
    fs::write(path, elf).unwrap();
    offset
}

#[test]
fn kernel_sessions_are_as_their_transcripts_say() {
    const TEST: &str = "kernel_sessions_are_as_their_transcripts_say";
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let mut timeline = at_the_end(recorded);
    let directory = support::scratch("gdb-kernel-vmlinux");
    let vmlinux = directory.join("vmlinux");
    let offset = as_linked(&timeline, &vmlinux);
    assert_ne!(offset, 0, "KASLR is on");
    let known = [
        ("vmlinux", vmlinux.display().to_string()),
        ("offset", format!("{offset:#x}")),
        ("end", timeline.end().to_string()),
    ];
    for file in ["kernel.txt", "system_calls.txt", "processes.txt"] {
        let end = timeline.end();
        timeline.seek(end, &NEVER).unwrap();
        hold(&mut timeline, &program, file, &known);
    }
}

/// All numbers that `printf "NAME %ld\n"` has printed.
fn told(text: &str, name: &str) -> Vec<Tick> {
    text.lines()
        .filter_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .collect()
}

/// GDB's `catch syscall` stops at all calls of a number and their returns, in both directions; the calls are those of a
/// forward scan, and each return follows its call.
#[test]
fn system_calls_are_caught_as_they_happen() {
    const TEST: &str = "system_calls_are_caught_as_they_happen";
    /// openat in the 64-bit ABI.
    const OPENAT: u64 = 257;
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let mut replayer = plain(&recorded.recording);
    let mut events = EventSet::default();
    events.add_call(OPENAT);
    let end = recorded.recording.last_tick();
    let stops = retrovisor::cpu::stops::Stops::default().with_events(events.clone());
    replayer.machine.set_stops(stops);
    let mut calls = Vec::new();
    while replayer.tick() < end {
        if let retrovisor::cpu::run::Exit::Event(Event::SystemCall { number, .. }) =
            replayer.run(end, false)
        {
            assert_eq!(number, OPENAT);
            calls.push(replayer.tick());
        }
    }
    assert!(calls.len() >= 3, "{calls:?}");
    let mut timeline = at_the_end(recorded);
    let print = || r#"printf "at %ld\n", $rv_tick"#.to_string();
    let mut commands = vec!["rv seek start".to_string(), "catch syscall openat".into()];
    for direction in ["continue", "reverse-continue"] {
        for _ in 0..2 * calls.len() + 1 {
            commands.extend([direction.into(), print()]);
        }
    }
    // Returns are told of where the kernel can be seen.
    commands[0] = format!("rv seek {}", calls[0] - 1000);
    let text = gdb(&mut timeline, &program, &commands);
    let ticks = told(&text, "at ");
    let (forward, backward) = ticks.split_at(2 * calls.len() + 1);
    let entries: Vec<Tick> = forward[..2 * calls.len()]
        .iter()
        .step_by(2)
        .copied()
        .collect();
    assert_eq!(entries, calls, "{text}");
    assert_eq!(forward.last(), Some(&end), "{text}");
    for (n, pair) in forward[..2 * calls.len()].chunks(2).enumerate() {
        let next = calls.get(n + 1).copied().unwrap_or(end);
        assert!(pair[0] < pair[1] && pair[1] < next, "{text}");
    }
    // Back, each stop is one tick earlier: before what it stops for.
    let back: Vec<Tick> = backward[..2 * calls.len()]
        .iter()
        .rev()
        .map(|tick| tick + 1)
        .collect();
    assert_eq!(back, forward[..2 * calls.len()], "{text}");
    let count = |what: &str| text.matches(what).count();
    assert_eq!(count("(call to syscall openat)"), 2 * calls.len(), "{text}");
    assert_eq!(
        count("(returned from syscall openat)"),
        2 * calls.len(),
        "{text}"
    );
}

/// A breakpoint in a process stops at those of all hits at which the process runs, in both directions.
#[test]
fn a_breakpoint_in_a_process_stops_nowhere_else() {
    const TEST: &str = "a_breakpoint_in_a_process_stops_nowhere_else";
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let mut timeline = at_the_end(recorded);
    let kernel = Kernel::find(&AtPosition(&timeline)).unwrap();
    let types = kernel.types().unwrap();
    let address = kernel.symbol("do_sys_openat2").unwrap().address;
    let question = Question {
        stops: Stops {
            breakpoints: vec![address],
            ..Stops::default()
        },
        from: 0,
        until: timeline.end(),
        want: Want::All {
            first: 1000,
            last: 0,
        },
    };
    let hits = timeline.ask(&question, &NEVER).unwrap().first;
    // Who runs at each, by the task list's own reader.
    let mut by_process: BTreeMap<u32, Vec<Tick>> = BTreeMap::new();
    for found in &hits {
        assert!(matches!(found.reason, StopReason::Breakpoint { .. }));
        timeline.seek(found.tick, &NEVER).unwrap();
        let guest = AtPosition(&timeline);
        let here = Kernel::find(&guest).unwrap();
        let task = retrovisor::guest::linux::tasks::current(&guest, &here, &types, 0).unwrap();
        let task = retrovisor::guest::linux::tasks::at(&guest, &here, &types, task).unwrap();
        by_process.entry(task.pid).or_default().push(found.tick);
    }
    assert!(by_process.len() >= 2, "{by_process:?}");
    let (pid, ticks) = by_process
        .iter()
        .max_by_key(|(_, ticks)| ticks.len())
        .unwrap();
    let mut commands = vec![
        format!("break *{address:#x}"),
        format!("rv break-in {pid}"),
        "rv seek start".into(),
    ];
    for direction in ["continue", "reverse-continue"] {
        for _ in 0..ticks.len() + 1 {
            commands.extend([
                direction.into(),
                r#"printf "at %ld\n", $rv_tick"#.to_string(),
            ]);
        }
    }
    let end = timeline.end();
    timeline.seek(end, &NEVER).unwrap();
    let text = gdb(&mut timeline, &program, &commands);
    let back = ticks.iter().rev();
    let wanted: Vec<Tick> = ticks
        .iter()
        .chain(&[end])
        .chain(back)
        .chain(&[0])
        .copied()
        .collect();
    assert_eq!(told(&text, "at "), wanted, "{text}");
}
