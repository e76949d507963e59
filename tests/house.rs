//! The house rules that can be checked by reading the sources: which part may know which, what must stay absent from
//! the machine, and how files look. Exceptions are listed here, with their reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The parts of the main crate and what each may name: `use crate::…` goes along these arrows only.
#[rustfmt::skip]
const ARROWS: &[(&str, &[&str])] = &[
    ("tick", &[]),
    ("memory", &[]),
    ("trace", &["tick"]),
    ("cpu", &["memory", "tick"]),
    ("machine", &["cpu", "memory", "tick"]),
    ("replay", &["machine", "cpu", "memory", "trace", "tick"]),
    ("record", &["machine", "cpu", "memory", "trace", "tick"]),
    ("timeline", &["replay", "machine", "cpu", "memory", "trace", "tick"]),
    ("guest", &["timeline", "machine", "cpu", "tick"]),
    ("monitor", &["guest", "timeline", "tick"]),
    ("gdb", &["monitor", "guest", "timeline", "tick"]),
    ("demo", &[]),
    ("cli", &["gdb", "guest", "monitor", "record", "timeline", "replay", "machine", "trace", "demo", "tick"]),
    ("main", &["cli"]),
];

/// Crates that have one place, so that they can be exchanged there.
#[rustfmt::skip]
const PLACES: &[(&str, &[&str])] = &[
    ("gdbstub", &["src/gdb/stub/"]),
    // Boot: linux-loader's structures are written through its traits.
    ("vm_memory", &["src/memory/", "src/machine/boot/"]),
    ("checkpoints", &["src/timeline/", "checkpoints/"]),
    // Replay: the serial line as seen from outside, and where the local APIC is.
    ("devices", &["src/record/", "src/replay/world.rs", "src/replay/resolve/world.rs", "devices/"]),
    ("kvm_ioctls", &["src/record/kvm/"]),
    ("kvm_bindings", &["src/record/kvm/"]),
    // Replay: the instructions in a divergence report. KVM: which of the guest's text to replace.
    ("iced_x86", &["src/cpu/", "src/replay/replayer.rs", "src/record/kvm/replaced.rs"]),
    ("zstd", &["src/trace/", "checkpoints/", "src/demo/"]),
    ("clap", &["src/cli/", "src/main.rs"]),
    ("indicatif", &["src/cli/"]),
    ("cpio", &["src/demo/"]),
];

/// What the inside of a machine must not have: the host's time, threads, files, sockets, randomness.
const PURE: &[&str] = &["src/cpu/", "src/machine/", "src/memory/", "devices/src/"];
const IMPURE: &[&str] = &[
    "std::time",
    "std::thread",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::os",
    "Instant::now",
    "SystemTime",
    "fastrand",
    "getrandom",
    " rand::",
    "RandomState",
    "std::collections::HashMap",
    "std::collections::HashSet",
];

/// Longer files than anybody likes to read, each with its reason.
const LONG: &[(&str, &str)] = &[];
const LINES_MAX: usize = 800;
const COLUMNS_MAX: usize = 120;

/// Names that say nothing about what is in the file.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "misc", "helper", "helpers", "stuff",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All source files with one of these endings: path from the root with `/`, and text.
fn sources(endings: &[&str]) -> BTreeMap<String, String> {
    fn walk(directory: &Path, endings: &[&str], found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                // Built, fetched or hidden: not ours.
                if name != "target" && !name.starts_with('.') {
                    walk(&path, endings, found);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let relative = path.strip_prefix(root()).unwrap();
                found.insert(
                    relative.to_string_lossy().into_owned(),
                    fs::read_to_string(&path).unwrap(),
                );
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root(), endings, &mut found);
    assert!(found.len() >= 3, "the sources are found");
    found
}

/// Whether a file holds tests only.
fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap();
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.starts_with("benches/")
        || path.contains("/examples/")
        || name == "tests.rs"
        || name == "testing.rs"
        || name.ends_with("_tests.rs")
}

/// Code without comments and without the tests at its end.
fn code(text: &str) -> String {
    let without_tests = match text.find("#[cfg(test)]\nmod ") {
        // A declaration has its file elsewhere; a body ends the file.
        Some(at) if text[at..].lines().nth(1).is_some_and(|l| l.ends_with('{')) => &text[..at],
        _ => text,
    };
    without_tests
        .lines()
        .map(|line| match line.find("//") {
            Some(at) if !line[..at].contains('"') => &line[..at],
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Every `name` that follows `prefix` as a path, inside of braces too: `crate::{a::b, c}` names a and c.
fn named_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut start) = (0, true);
            let mut name = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        names.insert(std::mem::take(&mut name));
                        start = true;
                    }
                    c if depth == 0 && start && (c.is_alphanumeric() || c == '_') => name.push(c),
                    c if c.is_whitespace() => {}
                    _ => start = false,
                }
            }
            names.insert(name);
        } else {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            names.insert(rest[..end.unwrap_or(rest.len())].to_string());
        }
    }
    names.remove("");
    names
}

/// The part of the main crate that a file belongs to.
fn part(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    // The demo's guest is a crate of its own, built by build.rs; lib.rs only lists the parts.
    if inside.starts_with("demo/kernel/") || inside == "lib.rs" {
        return None;
    }
    let first = inside.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

fn fail_with(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn parts_know_only_what_their_arrows_point_to() {
    let mut wrong = Vec::new();
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for (path, text) in sources(&[".rs"]) {
        let Some(part) = part(&path) else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == part) else {
            wrong.push(format!("{path}: src/{part} is not in the table"));
            continue;
        };
        let code = if is_test(&path) { text } else { code(&text) };
        let mut names = named_after(&code, "crate::");
        names.extend(named_after(&code, "retrovisor::"));
        for name in names {
            if name == part || !ARROWS.iter().any(|(other, _)| *other == name) {
                continue;
            }
            if allowed.contains(&name.as_str()) {
                used.insert((part.to_string(), name));
            } else {
                wrong.push(format!("{path}: {part} must not know {name}"));
            }
        }
    }
    fail_with("forbidden arrows", &wrong);
    // The reading itself works: these are there for sure.
    for (from, to) in [
        ("gdb", "timeline"),
        ("timeline", "replay"),
        ("cpu", "memory"),
    ] {
        assert!(used.contains(&(from.into(), to.into())), "{from} -> {to}");
    }
}

/// The table is what the architecture says, and has no circle.
#[test]
fn arrows_go_one_way() {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while done.len() < ARROWS.len() {
        let before = done.len();
        for (part, to) in ARROWS {
            if to.iter().all(|other| done.contains(other)) {
                done.insert(part);
            }
        }
        assert!(done.len() > before, "a circle behind {done:?}");
    }
}

#[test]
fn the_other_crates_do_not_know_the_main_crate() {
    let mut wrong = Vec::new();
    for (path, text) in sources(&[".rs", "Cargo.toml"]) {
        let own = path.starts_with("devices/") || path.starts_with("checkpoints/");
        if !own {
            continue;
        }
        let other = match path.starts_with("devices/") {
            true => "checkpoints",
            false => "devices",
        };
        let known = match path.ends_with(".toml") {
            true => text.contains("path = \"..") || text.contains("retrovisor ="),
            false => {
                let code = code(&text);
                !named_after(&code, "retrovisor::").is_empty()
                    || !named_after(&code, &format!("{other}::")).is_empty()
            }
        };
        if known {
            wrong.push(path);
        }
    }
    fail_with("devices and checkpoints stand alone", &wrong);
}

#[test]
fn crates_stay_in_their_places() {
    let mut wrong = Vec::new();
    for (path, text) in sources(&[".rs"]) {
        if is_test(&path) || path == "build.rs" {
            continue;
        }
        let code = code(&text);
        for (name, places) in PLACES {
            let here = !named_after(&code, &format!("{name}::")).is_empty();
            if here && !places.iter().any(|place| path.starts_with(place)) {
                wrong.push(format!("{path}: {name} belongs to {}", places.join(", ")));
            }
        }
    }
    fail_with("a crate outside of its place", &wrong);
}

#[test]
fn nothing_of_the_host_is_inside_the_machine() {
    let mut wrong = Vec::new();
    let mut read = 0;
    for (path, text) in sources(&[".rs"]) {
        if is_test(&path) || !PURE.iter().any(|place| path.starts_with(place)) {
            continue;
        }
        read += 1;
        for (number, line) in code(&text).lines().enumerate() {
            for impure in IMPURE.iter().filter(|impure| line.contains(*impure)) {
                wrong.push(format!("{path}:{}: {impure}", number + 1));
            }
        }
    }
    assert!(read > 50, "{read} files");
    fail_with("host time, threads, files, sockets or randomness", &wrong);
}

#[test]
fn files_say_what_they_are() {
    let mut wrong = Vec::new();
    for (path, text) in sources(&[".rs", ".s", ".py", ".ld", ".gdb"]) {
        let mut lines = text.lines().skip_while(|line| line.starts_with("#!"));
        let first = lines.next().unwrap_or_default();
        let wanted: &[&str] = match path.rsplit('.').next() {
            Some("rs") => &["//! "],
            Some("ld") => &["/* "],
            Some("py") => &["\"\"\"", "# "],
            _ => &["# "],
        };
        // Tests of a module stand beside it, and its head is theirs.
        let tests_of_a_module = path.ends_with("/tests.rs");
        if !tests_of_a_module && !wanted.iter().any(|start| first.starts_with(start)) {
            wrong.push(format!("{path}: begins with {first:?}"));
        }
        let name = path.rsplit('/').next().unwrap();
        let stem = name.split('.').next().unwrap();
        if EMPTY_NAMES.contains(&stem) {
            wrong.push(format!("{path}: a name that says nothing"));
        }
    }
    fail_with("heads and names of files", &wrong);
}

#[test]
fn files_and_lines_can_be_read() {
    let mut wrong = Vec::new();
    let mut long: BTreeSet<&str> = LONG.iter().map(|(path, _)| *path).collect();
    for (path, text) in sources(&[".rs", ".s", ".py"]) {
        let lines = text.lines().count();
        if lines > LINES_MAX && !long.remove(path.as_str()) {
            wrong.push(format!("{path}: {lines} lines"));
        }
        for (number, line) in text.lines().enumerate() {
            // rustfmt leaves strings alone, and so do we; and the lines of tables, each of them a case.
            let free = line.contains('"') || path.starts_with("tests/system/tables/");
            if line.chars().count() > COLUMNS_MAX && !free {
                wrong.push(format!(
                    "{path}:{}: more than {COLUMNS_MAX} columns",
                    number + 1
                ));
            }
            if line.ends_with([' ', '\t']) || line.contains('\r') {
                wrong.push(format!("{path}:{}: blanks at its end", number + 1));
            }
        }
    }
    wrong.extend(
        long.iter()
            .map(|path| format!("{path}: is not too long (any more)")),
    );
    fail_with("too long", &wrong);
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    // In pieces, so that this file does not find itself.
    let unfinished = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let mut wrong = Vec::new();
    for (path, text) in sources(&[".rs"]) {
        for (number, line) in text.lines().enumerate() {
            if unfinished.iter().any(|macro_| line.contains(macro_)) {
                wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    fail_with("unfinished code", &wrong);
}

#[test]
fn every_dependency_has_its_reason_beside_it() {
    let mut wrong = Vec::new();
    for (path, text) in sources(&["Cargo.toml"]) {
        let mut dependencies = false;
        let mut before = "";
        for line in text.lines() {
            if line.starts_with('[') {
                dependencies = line.contains("dependencies");
            } else if dependencies && line.contains('=') {
                // Those of the workspace have theirs in the workspace's table; our own need none.
                let given = line.contains('#')
                    || before.starts_with('#')
                    || line.contains("workspace = true")
                    || line.contains("path = ");
                if !given {
                    wrong.push(format!("{path}: {line}"));
                }
            }
            before = line;
        }
    }
    fail_with("dependencies without a reason", &wrong);
}

/// The readers above read what they should.
#[test]
fn names_are_found_in_every_form() {
    let names = |code: &str| {
        named_after(code, "crate::")
            .into_iter()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(names("use crate::cpu::run::Exit;"), "cpu");
    assert_eq!(names("use crate::{cpu::{self, run}, tick};"), "cpu tick");
    assert_eq!(
        names("let x: &crate::gdb::Server = crate::cli::run();"),
        "cli gdb"
    );
    assert_eq!(names("use mycrate::cpu; x::crate::y;"), "");
    let text = "use a; // crate::gdb\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n";
    assert_eq!(names(&code(text)), "");
    assert_eq!(code("let a = \"//\"; x"), "let a = \"//\"; x");
}
