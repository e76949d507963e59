//! Conditions of breakpoints over a whole boot, as users type them, in both directions: where GDB stops is where a scan
//! says that evaluates the same predicate in plain Rust. The scan is a run forward from hit to hit, and in some
//! stretches one by single ticks, without the engine's breakpoints.

use std::collections::HashSet;

use retrovisor::cpu::debug::shadow;
use retrovisor::cpu::run::Exit;
use retrovisor::cpu::stops;
use retrovisor::guest::AtPosition;
use retrovisor::guest::linux::Kernel;
use retrovisor::machine::Machine;
use retrovisor::replay::Replayer;
use retrovisor::tick::Tick;
use retrovisor::timeline::api::Debuggee;

use super::support::recording::{Recorded, interrupt_ticks, plain, run_to};
use super::{at_the_end, gdb, prepared, support, told};

/// Ticks of a stretch that is scanned tick by tick.
const STRETCH: Tick = 300_000;
/// Positions from which each scenario is run, beside both ends.
const POSITIONS: usize = 5;

/// What a condition can be about.
struct At<'a>(&'a Machine);

impl At<'_> {
    fn register(&self, n: usize) -> u64 {
        self.0.cpu.state.gpr[n]
    }

    fn rax(&self) -> u64 {
        self.register(0)
    }

    fn rsp(&self) -> u64 {
        self.register(4)
    }

    fn rsi(&self) -> u64 {
        self.register(6)
    }

    fn rdi(&self) -> u64 {
        self.register(7)
    }

    fn flags(&self) -> u64 {
        self.0.cpu.state.rflags()
    }

    /// The bytes at an address of the guest's; `None` where they cannot be read.
    fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut out = [0; N];
        for (n, byte) in out.iter_mut().enumerate() {
            let physical = self.0.cpu.probe(address.wrapping_add(n as u64))?;
            let mut one = [0];
            if self.0.cpu.memory.read(physical, &mut one) != 1 {
                return None;
            }
            *byte = one[0];
        }
        Some(out)
    }

    fn byte(&self, address: u64) -> Option<u8> {
        self.bytes(address).map(|[byte]| byte)
    }

    fn long(&self, address: u64) -> Option<i64> {
        self.bytes(address).map(i64::from_le_bytes)
    }
}

/// Whether a condition holds; `None`: it cannot be evaluated, so that GDB stops and says why.
type Predicate = fn(&At, Tick) -> Option<bool>;

/// A breakpoint: how it is set, where, the condition in GDB's words and in ours.
struct Conditional(&'static str, &'static str, &'static str, Predicate);

/// Breakpoints that are there together, and how many of their hits do not count.
struct Scenario {
    breakpoints: Vec<Conditional>,
    ignore: usize,
}

fn one(command: &'static str, at: &'static str, text: &'static str, holds: Predicate) -> Scenario {
    Scenario {
        breakpoints: vec![Conditional(command, at, text, holds)],
        ignore: 0,
    }
}

fn scenarios() -> Vec<Scenario> {
    vec![
        // Registers; hardware breakpoints have conditions, too.
        one("break", "kfree", "($rdi & 0xff0) == 0x240", |at, _| {
            Some(at.rdi() & 0xff0 == 0x240)
        }),
        one(
            "hbreak",
            "strcmp",
            "(int) $rdi < 0 && ($rsi >> 4) % 7 == -3",
            |at, _| Some((at.rdi() as i32) < 0 && ((at.rsi() as i64) >> 4) % 7 == -3),
        ),
        // A part of a register: GDB has no code for it, and evaluates it itself.
        one(
            "break",
            "kobject_add",
            "($dil & 0x40) == 0 || $eax == 0",
            |at, _| Some(at.rdi() & 0x40 == 0 || at.rax() as u32 == 0),
        ),
        // Memory: who calls, and what is on the stack.
        one(
            "break",
            "kmem_cache_alloc",
            "*(unsigned char *) $rsp % 16 == 3 && *(long *) ($rsp + 8) < 0",
            |at, _| Some(at.byte(at.rsp())? % 16 == 3 && at.long(at.rsp() + 8)? < 0),
        ),
        // What cannot be read stops.
        one("hbreak", "kfree", "*(char *) $rsi == 115", |at, _| {
            Some(at.byte(at.rsi())? == b's')
        }),
        // Flags: interrupts off, and the last result zero.
        one(
            "break",
            "_raw_spin_lock",
            "($eflags & 0x240) == 0x40",
            |at, _| Some(at.flags() & 0x240 == 0x40),
        ),
        // Texts.
        one(
            "break",
            "strcmp",
            "((char *) $rdi)[0] == 'd' && ((char *) $rdi)[1] == 'h' && *(char *) $rsi != 'd'",
            |at, _| {
                let name = at.rdi();
                Some(
                    at.byte(name)? == b'd'
                        && at.byte(name + 1)? == b'h'
                        && at.byte(at.rsi())? != b'd',
                )
            },
        ),
        // The position.
        one(
            "break",
            "_raw_spin_lock",
            "$rv_tick % 1000 < 3",
            |_, tick| Some(tick % 1000 < 3),
        ),
        // Several on one address, of both kinds, and one elsewhere.
        Scenario {
            breakpoints: vec![
                Conditional("break", "kfree", "$rdi % 512 == 0", |at, _| {
                    Some((at.rdi() as i64) % 512 == 0)
                }),
                Conditional("break", "kfree", "$rv_tick % 5000 == 11", |_, tick| {
                    Some(tick % 5000 == 11)
                }),
                Conditional("hbreak", "kfree", "($eflags & 0x200) == 0", |at, _| {
                    Some(at.flags() & 0x200 == 0)
                }),
                Conditional(
                    "hbreak",
                    "do_sys_openat2",
                    "*(char *) $rsi == '/'",
                    |at, _| Some(at.byte(at.rsi())? == b'/'),
                ),
            ],
            ignore: 0,
        },
        Scenario {
            ignore: 3,
            ..one("break", "kmem_cache_alloc", "$rsi == 0xd40", |at, _| {
                Some(at.rsi() == 0xd40)
            })
        },
    ]
}

/// The breakpoints of a scenario with their addresses.
fn placed<'a>(scenario: &'a Scenario, kernel: &Kernel) -> Vec<(u64, &'a Conditional)> {
    let address = |name| kernel.symbol(name).unwrap().address;
    scenario
        .breakpoints
        .iter()
        .map(|one| (address(one.1), one))
        .collect()
}

/// Whether one of the breakpoints here stops.
fn stops_here(machine: &Machine, tick: Tick, breakpoints: &[(u64, &Conditional)]) -> bool {
    let here = machine.cpu.linear_rip();
    breakpoints
        .iter()
        .any(|(address, one)| *address == here && (one.3)(&At(machine), tick) != Some(false))
}

/// All stops of each scenario in the whole recording, and how often their breakpoints are met.
fn by_running(recorded: &Recorded, all: &[Vec<(u64, &Conditional)>]) -> (Vec<Vec<Tick>>, u64) {
    let mut replayer = plain(&recorded.recording);
    let addresses: HashSet<u64> = all.iter().flatten().map(|(address, _)| *address).collect();
    replayer.machine.set_stops(stops::Stops::new(addresses, []));
    let mut found = vec![Vec::new(); all.len()];
    let mut met = 0;
    let end = recorded.recording.last_tick();
    let mut pass = false;
    while replayer.tick() < end {
        pass = matches!(replayer.run(end, pass), Exit::Breakpoint);
        if pass {
            met += 1;
            for (breakpoints, found) in all.iter().zip(&mut found) {
                let tick = replayer.tick();
                if stops_here(&replayer.machine, tick, breakpoints) {
                    found.push(tick);
                }
            }
        }
    }
    (found, met)
}

/// The same by single ticks, in a stretch from where the replay is.
fn by_stepping(
    replayer: &mut Replayer,
    all: &[Vec<(u64, &Conditional)>],
    interrupts: &HashSet<Tick>,
) -> Vec<Vec<Tick>> {
    let mut found = vec![Vec::new(); all.len()];
    for tick in replayer.tick()..replayer.tick() + STRETCH {
        let state = &replayer.machine.cpu.state;
        // What is delivered first leaves the instruction for later.
        let trap = state.pending_trap != 0 && state.shadow != shadow::STACK;
        if !trap && !interrupts.contains(&tick) {
            for (breakpoints, found) in all.iter().zip(&mut found) {
                if stops_here(&replayer.machine, tick, breakpoints) {
                    found.push(tick);
                }
            }
        }
        replayer.run(tick + 1, true);
        assert_eq!(replayer.tick(), tick + 1);
    }
    found
}

/// Where GDB must stop: at the first hit behind those that are ignored.
fn wanted(found: &[Tick], position: Tick, back: bool, ignore: usize, end: Tick) -> Tick {
    if back {
        let before = found.partition_point(|&tick| tick < position);
        let at = before.checked_sub(ignore + 1);
        at.map_or(0, |at| found[at])
    } else {
        let behind = found.partition_point(|&tick| tick <= position);
        found.get(behind + ignore).copied().unwrap_or(end)
    }
}

#[test]
fn conditions_over_a_boot_equal_brute_force() {
    const TEST: &str = "conditions_over_a_boot_equal_brute_force";
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let seed = std::env::var("RETROVISOR_TEST_SEED").map(|text| text.parse().unwrap());
    let seed = seed.unwrap_or_else(|_| fastrand::u64(..));
    println!("{TEST}: RETROVISOR_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut timeline = at_the_end(recorded);
    let end = timeline.end();
    let kernel = Kernel::find(&AtPosition(&timeline)).unwrap();
    let scenarios = scenarios();
    let all: Vec<_> = scenarios.iter().map(|one| placed(one, &kernel)).collect();
    let (found, met) = by_running(recorded, &all);
    println!(
        "{met} hits, of which count {:?}",
        found.iter().map(Vec::len).collect::<Vec<_>>()
    );
    for (found, scenario) in found.iter().zip(&scenarios) {
        let text = scenario.breakpoints[0].2;
        assert!((found.len() as u64) < met);
        assert!(found.len() > 2 * scenario.ignore + 4, "{text}: {found:?}");
    }

    // Stretches around a hit of each.
    let mut starts: Vec<Tick> = found
        .iter()
        .map(|found| {
            let hit = found[random.usize(..found.len())];
            hit.saturating_sub(random.u64(..STRETCH)).min(end - STRETCH)
        })
        .collect();
    starts.sort_unstable();
    let interrupts: HashSet<Tick> = interrupt_ticks(&recorded.recording).into_iter().collect();
    let mut replayer = plain(&recorded.recording);
    for start in starts.into_iter().step_by(2) {
        if replayer.tick() > start {
            continue;
        }
        run_to(&mut replayer, start);
        for (n, stepped) in by_stepping(&mut replayer, &all, &interrupts)
            .iter()
            .enumerate()
        {
            let inside = |tick: &&Tick| (start..start + STRETCH).contains(*tick);
            let ran: Vec<Tick> = found[n].iter().filter(inside).copied().collect();
            assert_eq!(&ran, stepped, "{}", scenarios[n].breakpoints[0].2);
        }
    }

    for ((scenario, placed), found) in scenarios.iter().zip(&all).zip(&found) {
        let mut positions = vec![0, end];
        for _ in 0..POSITIONS {
            let hit = found[random.usize(..found.len())];
            let choice = [hit - 1, hit, hit + 1, random.u64(..end)];
            positions.push(choice[random.usize(..4)]);
        }
        let mut commands = Vec::new();
        for (address, Conditional(command, _, text, _)) in placed {
            commands.push(format!("{command} *{address:#x} if {text}"));
        }
        let mut want = Vec::new();
        for &position in &positions {
            for back in [false, true] {
                commands.push(format!("rv seek {position}"));
                if scenario.ignore > 0 {
                    commands.push(format!("ignore 1 {}", scenario.ignore));
                }
                commands.push(if back { "reverse-continue" } else { "continue" }.to_string());
                commands.push(r#"printf "at %ld\n", $rv_tick"#.to_string());
                want.push(wanted(found, position, back, scenario.ignore, end));
            }
        }
        timeline.seek(end, &super::NEVER).unwrap();
        let text = gdb(&mut timeline, &program, &commands);
        assert_eq!(told(&text, "at "), want, "{text}");
    }
}
