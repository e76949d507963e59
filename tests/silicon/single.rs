//! Every form by itself.

use crate::case::End;
use crate::compare::{block, open};
use crate::forms::{Fate, fate};
use crate::generate::single;
use crate::{Bench, WINDOWS};
use fastrand::Rng;
use iced_x86::Code;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

/// After so many differing cases a form is given up: they will have one cause.
const ENOUGH: u64 = 3;

#[derive(Default)]
struct Tally {
    /// Cases that ran on both sides.
    compared: u64,
    /// Those of them that ended without a fault.
    completed: u64,
    different: u64,
    /// Cases that the host runs and the engine answers with #UD.
    missing: u64,
    example: Option<String>,
}

fn rng_of(seed: u64, bits: u32, code: Code, n: u64) -> Rng {
    let mut hasher = DefaultHasher::new();
    (seed, bits, format!("{code:?}"), n).hash(&mut hasher);
    Rng::with_seed(hasher.finish())
}

fn is_undefined(end: &End) -> bool {
    matches!(end, End::Fault { vector: 6, .. })
}

fn try_form(bench: &mut Bench, bits: u32, code: Code) -> Tally {
    let mut tally = Tally::default();
    let mut n = 0;
    while tally.compared < bench.cases && n < 4 * bench.cases + 200 {
        n += 1;
        let mut rng = rng_of(bench.seed, bits, code, n);
        let Some((case, insn)) = single(&mut rng, bits, code, WINDOWS) else {
            continue;
        };
        let (outcome, found) = bench.compare(&case, open(&insn, &case));
        tally.compared += 1;
        tally.completed += matches!(outcome.end, End::Exit(_)) as u64;
        if found.is_empty() {
            continue;
        }
        if found[0].contains("engine exception 6 ") && !is_undefined(&outcome.end) {
            tally.missing += 1;
            if tally.missing > 8 {
                break;
            }
            continue;
        }
        tally.different += 1;
        if tally.example.is_none() {
            let title = format!("{code:?}, {bits}-bit code, case {n}");
            tally.example = Some(block(&title, &case, &found));
        }
        if tally.different >= ENOUGH {
            break;
        }
    }
    tally
}

#[test]
fn every_form_does_what_the_host_does() {
    try_all(64);
}

#[test]
fn every_form_of_32_bit_code_does_what_the_host_does() {
    try_all(32);
}

#[test]
fn every_form_of_16_bit_code_does_what_the_host_does() {
    try_all(16);
}

/// Whether the engine executes a form that is not compared because it belongs to a higher level.
fn runs_in_engine(bench: &mut Bench, bits: u32, code: Code) -> bool {
    (0..40).any(|n| {
        let mut rng = rng_of(bench.seed, bits, code, n);
        single(&mut rng, bits, code, WINDOWS)
            .is_some_and(|(case, _)| matches!(bench.engine_alone(&case), End::Exit(_)))
    })
}

fn try_all(bits: u32) {
    let Some(mut bench) = Bench::new(400) else {
        return;
    };
    if let (true, Some(why)) = (bits < 64, bench.no_segments()) {
        println!("SKIPPED: {bits}-bit code: {why}");
        return;
    }
    let only = std::env::var("SILICON_FORM").ok();
    let mut skipped: BTreeMap<String, Vec<Code>> = BTreeMap::new();
    let mut tallies = Vec::new();
    for code in Code::values() {
        if only
            .as_ref()
            .is_some_and(|part| !format!("{code:?}").contains(part))
        {
            continue;
        }
        let why = match fate(code, bits) {
            Fate::Compare => {
                tallies.push((code, try_form(&mut bench, bits, code)));
                continue;
            }
            Fate::OtherMode => continue,
            Fate::Excluded(why) => format!("excluded: {why}"),
            Fate::BeyondLevel(feature) => {
                if runs_in_engine(&mut bench, bits, code) {
                    tallies.push((code, Tally::default()));
                }
                format!("beyond x86-64-v3: {feature:?}")
            }
            Fate::HostLacks(feature) => format!("SKIPPED, the host lacks {feature:?}"),
        };
        skipped.entry(why).or_default().push(code);
    }
    report(bits, &tallies, &skipped);
}

fn report(bits: u32, tallies: &[(Code, Tally)], skipped: &BTreeMap<String, Vec<Code>>) {
    let mut list = String::new();
    let mut missing = Vec::new();
    let mut never = Vec::new();
    let mut differing = Vec::new();
    for (code, tally) in tallies {
        let _ = writeln!(
            list,
            "{code:?}: {} compared, {} of them without a fault",
            tally.compared, tally.completed
        );
        if tally.missing > 0 {
            missing.push(format!("{code:?}"));
        } else if tally.compared == 0 {
            never.push(format!("{code:?}"));
        }
        if tally.different > 0 {
            differing.push(format!("{code:?}"));
            println!("{}", tally.example.as_deref().unwrap_or(""));
        }
    }
    for (why, codes) in skipped {
        let _ = writeln!(list, "{why}: {codes:?}");
    }
    let cases: u64 = tallies.iter().map(|(_, tally)| tally.compared).sum();
    println!(
        "{bits}-bit code: {} forms, {cases} cases; {} forms differ, {} are not in the engine",
        tallies.len(),
        differing.len(),
        missing.len()
    );
    for (why, codes) in skipped.iter().filter(|(why, _)| !why.starts_with("beyond")) {
        println!("{} forms: {why}", codes.len());
        if why.starts_with("SKIPPED") {
            println!("SKIPPED: {codes:?}");
        }
    }
    let _ = writeln!(list, "not in the engine: {}", missing.join(" "));
    let path = format!(
        "{}/silicon-coverage-{bits}.txt",
        env!("CARGO_TARGET_TMPDIR")
    );
    std::fs::write(&path, list).expect("the target directory can be written");
    println!("coverage list: {path}");
    assert!(
        missing.is_empty(),
        "not in the engine: {}",
        missing.join(" ")
    );
    assert!(never.is_empty(), "never compared: {}", never.join(" "));
    assert!(differing.is_empty(), "differ: {}", differing.join(" "));
}
