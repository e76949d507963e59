//! System instructions and modes that user mode cannot run: tables of cases, derived from the Intel SDM (volumes 2
//! and 3), one file an instruction group, each run in the engine; the same cases, and random ones, under KVM where
//! there is /dev/kvm.
//!
//! What a line of a table means says `script.rs`; the machine that it starts from is in `machine.rs`.

mod engine;
mod kvm;
mod machine;
mod paging;
mod quirks;
mod random;
mod script;
#[path = "../support/mod.rs"]
mod support;
mod tables;

use engine::{Engine, Ports};
use quirks::Quirk;

/// The seed of random cases, printed: `RETROVISOR_TEST_SEED` repeats a run.
fn seed() -> u64 {
    let given = std::env::var("RETROVISOR_TEST_SEED").ok();
    let seed = given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("RETROVISOR_TEST_SEED={seed}");
    seed
}

/// Runs the cases of a table in the engine, one tick each.
fn check(name: &str, table: &str, failures: &mut Vec<String>) -> usize {
    let mut engine = Engine::new();
    let mut count = 0;
    for case in script::cases(table) {
        let start = case.start();
        let world = || Ports {
            interrupt: case.arrival(),
            ..Ports::default()
        };
        let mut once = world();
        let end = engine.run(&start, 1, &mut once);
        let mut wrong = case.check(&start, &end, once.dead);
        // Until it halts, tick by tick and in whole blocks.
        let (mut steps, mut blocks) = (world(), world());
        let stepped = engine.run(&start, TICKS, &mut steps);
        let whole = engine.run_at_once(&start, TICKS, &mut blocks);
        script::compare(&stepped, &whole, &mut wrong);
        if (steps.dead, &steps.written) != (blocks.dead, &blocks.written) {
            wrong.push("steps and blocks end differently".to_string());
        }
        if !wrong.is_empty() {
            failures.push(format!(
                "{name}: {}\n    {}",
                case.line,
                wrong.join("\n    ")
            ));
        }
        count += 1;
    }
    count
}

#[test]
fn every_case_comes_out_as_the_manual_says() {
    let mut failures = Vec::new();
    let mut count = 0;
    for (name, table) in tables::ALL {
        count += check(name, table, &mut failures);
    }
    let text = failures.join("\n");
    assert!(
        failures.is_empty(),
        "{} of {count} cases are wrong:\n{text}",
        failures.len()
    );
    assert!(count >= 300, "{count} cases");
    println!("{count} cases in {} tables", tables::ALL.len());
}

/// Ticks within which every case halts.
const TICKS: u64 = 40;

#[test]
fn the_same_cases_under_kvm() {
    let mut oracle = match kvm::Oracle::new() {
        Ok(oracle) => oracle,
        Err(why) => return support::skip("the_same_cases_under_kvm", &why),
    };
    let mut engine = Engine::new();
    let software = oracle.is_software(&mut engine);
    let mut tally = kvm::Tally::default();
    for (name, table) in tables::ALL {
        // What arrives from outside has no place in KVM's machine.
        for case in script::cases(table).filter(|case| case.arrival().is_none()) {
            let quirk = Quirk::of(&case, software).map(|quirk| quirk.why);
            let label = || format!("{name}: {}", case.line);
            tally.compare(&mut engine, &mut oracle, &case.start(), quirk, label);
        }
    }
    println!("{}", tally.summary());
    assert!(tally.equal() >= 300, "almost nothing was compared");
    tally.finish();
}
