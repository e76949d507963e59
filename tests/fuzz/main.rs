//! Random programs on random machines: no bytes may make the processor panic, hang, reach outside guest memory, or
//! run differently when its caches are dropped on the way. And random agent expressions.
//!
//! The stable toolchain's replacement for `cargo fuzz`: programs are random bytes, valid instructions, and mutations of
//! programs that ran for long. Each runs twice, once as a whole and once tick by tick while translations and decoded
//! code are forgotten at random; both must leave the same machine. Packets of GDB are treated likewise in
//! tests/gdb_protocol.rs, recordings in tests/trace and tests/damage.rs.
//!
//! `RETROVISOR_TEST_SEED` repeats a run, `FUZZ_FIRST` begins at a round of it, `FUZZ_SECONDS` says for how long (20).
//! `cargo test --profile fuzz --test fuzz` checks overflows and debug assertions, too: those find accesses
//! outside of what a pointer belongs to.

mod agent;
mod program;
mod scene;
mod world;

use fastrand::Rng;
use program::Programs;
use retrovisor::cpu::Cpu;
use retrovisor::cpu::run::Exit;
use retrovisor::memory::Memory;
use scene::Scene;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use world::Noise;

/// Ticks of a program.
const TICKS: u64 = 300;
/// Rounds that one set of programs to be mutated lasts for.
const EPOCH: u64 = 500;
/// A round that takes longer hangs.
const HANG: Duration = Duration::from_secs(60);

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// Seed, first round, and when to end.
fn plan(name: &str, share: u64) -> (u64, u64, Instant) {
    let seed = setting("RETROVISOR_TEST_SEED").unwrap_or_else(|| fastrand::u64(..) >> 1);
    let first = setting("FUZZ_FIRST").unwrap_or(0);
    let seconds = setting("FUZZ_SECONDS").unwrap_or(20);
    println!("{name}: RETROVISOR_TEST_SEED={seed}, {seconds} seconds");
    let end = Instant::now() + Duration::from_millis(seconds * 1000 * share / 100);
    (seed, first, end)
}

fn rng_of(seed: u64, round: u64) -> Rng {
    Rng::with_seed(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

static ROUND: AtomicU64 = AtomicU64::new(0);

/// Ends the process where a round does not come to an end.
fn watch_for_hangs(seed: u64) {
    std::thread::spawn(move || {
        let mut last = (ROUND.load(Ordering::Relaxed), Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let round = ROUND.load(Ordering::Relaxed);
            if round != last.0 {
                last = (round, Instant::now());
            } else if last.1.elapsed() > HANG {
                eprintln!("hangs: RETROVISOR_TEST_SEED={seed} FUZZ_FIRST={round}");
                std::process::abort();
            }
        }
    });
}

/// What a run leaves.
struct Left {
    cpu: Box<Cpu>,
    exit: Exit,
    outputs: u64,
}

/// Runs a scene: at once, or tick by tick with `forget` deciding what is dropped before each.
fn run(scene: &Scene, ticks: u64, mut forget: Option<Rng>) -> Left {
    let mut memory = Memory::new(scene.ram.len() as u64).expect("RAM");
    memory.write(0, &scene.ram);
    let mut cpu = Cpu::new(memory, scene.model.clone());
    cpu.state = scene.state;
    cpu.state_changed();
    cpu.set_tick(0);
    let mut world = Noise::new(scene.noise, scene.ram.len() as u64);
    let mut exit = Exit::Tick;
    match &mut forget {
        None => exit = cpu.run(&mut world, ticks, false),
        Some(rng) => {
            while cpu.tick() < ticks && exit == Exit::Tick {
                match rng.u8(0..16) {
                    0 => cpu.forget_translations(),
                    1 => cpu.forget_code(),
                    _ => {}
                }
                let until = cpu.tick() + 1;
                exit = cpu.run(&mut world, until, false);
            }
        }
    }
    Left {
        cpu,
        exit,
        outputs: world.outputs,
    }
}

/// Says where two runs differ.
fn difference(a: &Left, b: &Left) -> Option<String> {
    if (a.exit, a.cpu.tick(), a.outputs) != (b.exit, b.cpu.tick(), b.outputs) {
        return Some(format!(
            "at once {:?} at {} (outputs {:x}), by ticks {:?} at {} (outputs {:x})",
            a.exit,
            a.cpu.tick(),
            a.outputs,
            b.exit,
            b.cpu.tick(),
            b.outputs
        ));
    }
    let (x, y) = (a.cpu.state.canonical(), b.cpu.state.canonical());
    if x != y {
        let (x, y) = (format!("{x:#x?}"), format!("{y:#x?}"));
        let lines: Vec<String> = x
            .lines()
            .zip(y.lines())
            .filter(|(x, y)| x != y)
            .map(|(x, y)| format!("at once {}, by ticks {}", x.trim(), y.trim()))
            .collect();
        return Some(format!("state: {}", lines.join("; ")));
    }
    let page = (0..a.cpu.memory.pages()).find(|&n| a.cpu.memory.page(n) != b.cpu.memory.page(n))?;
    let (x, y) = (a.cpu.memory.page(page), b.cpu.memory.page(page));
    let at = x.iter().zip(y).position(|(x, y)| x != y)?;
    Some(format!(
        "memory {:x}: at once {:02x}, by ticks {:02x}",
        page * 4096 + at,
        x[at],
        y[at]
    ))
}

/// Where two runs begin to differ.
fn first_difference(scene: &Scene, fresh: &Rng) -> String {
    (1..=TICKS)
        .find_map(|ticks| {
            let whole = run(scene, ticks, None);
            let by_ticks = run(scene, ticks, Some(fresh.clone()));
            let found = difference(&whole, &by_ticks)?;
            let before = run(scene, ticks - 1, None).cpu.state;
            Some(format!(
                "at tick {ticks}, from rip {:x} ({}): {found}",
                before.rip(),
                before.mode_name()
            ))
        })
        .unwrap_or_else(|| "only at the end".to_string())
}

#[test]
fn no_program_panics_hangs_or_depends_on_caches() {
    let (seed, first, end) = plan("programs", 100);
    watch_for_hangs(seed);
    let mut programs = Programs::new();
    let mut ticks = 0;
    let mut modes = std::collections::BTreeMap::<&str, u64>::new();
    // Programs to be mutated are forgotten every so often, so that a round can be repeated without all before it.
    let mut round = first - first % EPOCH;
    let mut begun = 0;
    while Instant::now() < end {
        if round.is_multiple_of(EPOCH) {
            programs = Programs::new();
        }
        ROUND.store(round, Ordering::Relaxed);
        let mut rng = rng_of(seed, round);
        let scene = Scene::new(&mut rng, &mut programs);
        let fresh = rng.fork();
        let done = catch_unwind(AssertUnwindSafe(|| {
            let whole = run(&scene, TICKS, None);
            let by_ticks = run(&scene, TICKS, Some(fresh.clone()));
            let found = difference(&whole, &by_ticks).map(|_| first_difference(&scene, &fresh));
            (whole.cpu.tick(), whole.exit, found)
        }));
        let (ran, exit, found) = match done {
            Ok(done) => done,
            Err(panic) => {
                println!("panics: RETROVISOR_TEST_SEED={seed} FUZZ_FIRST={round}\n{scene}");
                std::panic::resume_unwind(panic);
            }
        };
        if let Some(found) = found {
            panic!("RETROVISOR_TEST_SEED={seed} FUZZ_FIRST={round}\n{scene}\n{found}");
        }
        begun += 1;
        ticks += ran;
        *modes.entry(scene.state.mode_name()).or_default() += 1;
        if exit == Exit::Tick {
            programs.keep(&mut rng, scene.bits, scene.program);
        }
        round += 1;
    }
    println!("{begun} rounds, {ticks} ticks, {modes:?}");
    assert!(begun > 0);
}

#[test]
fn no_agent_expression_panics_or_hangs() {
    let (seed, first, end) = plan("expressions", 25);
    let mut round = first;
    let mut valid = 0;
    while Instant::now() < end {
        let mut rng = rng_of(seed, round);
        valid += agent::round(&mut rng) as u64;
        round += 1;
    }
    println!("{} expressions, {valid} valid", round - first);
    assert!(valid > 0);
}
