//! The demo kernel as GDB sees it: symbols, lines and sources are where the demo says.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use retrovisor::demo::own_kernel;
use support::recording;

/// Steps back, more than the function has lines.
const BACK: usize = 16;

#[test]
fn gdb_knows_the_victim_and_shows_the_culprit() {
    let gdb = match support::gdb() {
        Ok(gdb) => gdb,
        Err(why) => return support::skip("gdb_knows_the_victim_and_shows_the_culprit", &why),
    };
    // A space, so that quoting is tried too.
    let directory = support::scratch("demo kernel");
    let written = own_kernel::write_to(&directory).unwrap();
    let line = own_kernel::culprit_line().unwrap();
    let (file, text) = own_kernel::CULPRIT;
    let mut command = Command::new(gdb);
    command.args(["-nx", "-batch", "-ex", "set language rust"]);
    let substitute = own_kernel::gdb_session(&written, "localhost:1").remove(0);
    for one in [
        substitute,
        format!("list {file}:{line},{line}"),
        format!("print &{}", own_kernel::VICTIM),
        format!("info scope {file}:{line}"),
    ] {
        command.args(["-ex", &one]);
    }
    let output = command
        .arg(&written.elf)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(said.contains(text), "the culprit's line is shown: {said}");
    assert!(
        said.contains("(*mut u64) 0x"),
        "the victim has an address: {said}"
    );
    for variable in ["index", "slot", "event", "self"] {
        assert!(
            said.contains(&format!("Symbol {variable} is")),
            "{variable} can be looked at: {said}"
        );
    }
}

/// The line of a text in the demo's bank.rs.
fn line_of(source: &str, text: &str) -> usize {
    let found = source.lines().position(|line| line.trim() == text);
    found.unwrap_or_else(|| panic!("{text:?} is not in bank.rs")) + 1
}

/// A place in the session: its tick, whether it is in the function that closes the books, and the line of bank.rs
/// (0 is elsewhere).
type Place = (u64, bool, usize);

/// What `monitor when` (on standard error) and `frame` (on standard output) told, in order.
fn told(output: &str, errors: &str) -> Vec<Place> {
    let ticks = errors.lines().filter_map(|line| {
        let words = line.strip_prefix("tick ")?;
        words.split(' ').next()?.parse().ok()
    });
    let frames = output.lines().filter(|line| line.starts_with("#0 "));
    ticks
        .zip(frames)
        .map(|(tick, frame)| {
            let line = frame.rsplit_once("bank.rs:");
            let line = line.and_then(|(_, number)| number.trim().parse().ok());
            (tick, frame.contains("close_the_books"), line.unwrap_or(0))
        })
        .collect()
}

/// GDB makes reverse-next of `bs`, breakpoints at the starts of functions that were called, and `bc`; reverse-finish
/// likewise. Printing a line is a deep tree of calls.
#[test]
fn reverse_next_steps_over_whole_trees_of_calls_and_reverse_finish_leaves_one() {
    const TEST: &str = "reverse_next_steps_over_whole_trees_of_calls_and_reverse_finish_leaves_one";
    let gdb = match support::gdb() {
        Ok(gdb) => gdb,
        Err(why) => return support::skip(TEST, &why),
    };
    let directory = support::scratch("demo calls");
    let written = own_kernel::write_to(&directory).unwrap();
    let plan = recording::plan(own_kernel::ELF, "demo", own_kernel::RAM_BYTES);
    let recorded = recording::record_plan(&plan, &directory.join("demo.rvr"), b"");
    let source = std::fs::read_to_string(written.sources.join("bank.rs")).unwrap();
    let first = line_of(&source, "let ledger = &kernel().ledger;");
    let last = line_of(&source, "if held != issued {");

    let mut server = Command::new(env!("CARGO_BIN_EXE_retrovisor"))
        .arg(&recorded.path)
        .args(["--at", "end", "--gdb", "127.0.0.1:0"])
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
        .and_then(|rest| rest.split(": ").next())
        .unwrap_or_else(|| panic!("no address in {line:?}"));

    let mut commands = vec![
        "set width 0".to_string(),
        "set confirm off".to_string(),
        "set step-mode off".to_string(),
        own_kernel::gdb_session(&written, address).remove(0),
        format!("target remote {address}"),
    ];
    let look = || ["monitor when".to_string(), "frame".to_string()];
    for stop in [first, last] {
        let run = match stop == first {
            true => "reverse-continue",
            false => "continue",
        };
        commands.extend([format!("tbreak bank.rs:{stop}"), run.to_string()]);
        commands.extend(look());
    }
    for _ in 0..BACK {
        commands.push("reverse-next".to_string());
        commands.extend(look());
    }
    // Into the function that is called behind the first line, and back out of it.
    commands.extend([
        format!("tbreak bank.rs:{}", first + 1),
        "continue".to_string(),
    ]);
    commands.extend(look());
    commands.push("step".to_string());
    commands.extend(look());
    commands.push("reverse-finish".to_string());
    commands.extend(look());
    let mut command = Command::new(gdb);
    command.args(["-nx", "-batch"]).arg(&written.elf);
    for one in &commands {
        command.args(["-ex", one]);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();

    let told = told(&said, &errors);
    assert_eq!(told.len(), BACK + 5, "{said}{errors}");
    let (start, end) = (told[0], told[1]);
    assert_eq!((start.2, end.2), (first, last), "{told:?}");
    // Many thousand instructions lie between the two; going back takes a step a line.
    assert!(end.0 - start.0 > 10_000, "{told:?}");
    let back = &told[1..BACK + 2];
    assert!(
        back.windows(2).all(|pair| pair[1].0 < pair[0].0),
        "{told:?}"
    );
    let at = back.iter().position(|&place| place == start);
    let at = at.unwrap_or_else(|| panic!("the first line's start is not met: {told:?}"));
    assert!(back[..=at].iter().all(|place| place.1), "{told:?}");

    let (call, callee, left) = (told[BACK + 2], told[BACK + 3], told[BACK + 4]);
    assert_eq!((call.1, call.2), (true, first + 1), "{told:?}");
    assert!(callee.0 > call.0 && !callee.1, "{told:?}");
    assert!((call.0..callee.0).contains(&left.0), "{told:?}");
    assert_eq!((left.1, left.2), (true, first + 1), "{told:?}");
}
