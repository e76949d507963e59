//! The brute force that answers of the timeline are compared with: every stop in a stretch of history, found by
//! running forward once, without checkpoints.

use std::collections::HashSet;

use retrovisor::cpu::debug::shadow;
use retrovisor::cpu::run::Exit;
use retrovisor::cpu::stops as engine;
use retrovisor::machine::Machine;
use retrovisor::replay::Replayer;
use retrovisor::tick::Tick;
use retrovisor::timeline::api::{Direction, StopReason, Stops, WatchKind, Watchpoint};

/// A stop somewhere in history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Where a backward run stops for it.
    pub before: Tick,
    /// Where a forward run stops for it.
    pub after: Tick,
    pub reason: StopReason,
}

/// A debugger's stops as the engine takes them.
fn engine_stops(breakpoints: &[u64], watchpoints: &[Watchpoint]) -> engine::Stops {
    let kind = |kind| match kind {
        WatchKind::Write => engine::WatchKind::Write,
        WatchKind::Read => engine::WatchKind::Read,
        WatchKind::Access => engine::WatchKind::Access,
    };
    let watchpoints = watchpoints.iter().map(|w| engine::Watchpoint {
        address: w.addr,
        length: w.len,
        kind: kind(w.kind),
    });
    engine::Stops::new(breakpoints.iter().copied(), watchpoints)
}

fn watch_reason(hit: &engine::WatchHit) -> StopReason {
    StopReason::Watchpoint {
        addr: hit.watchpoint.address,
        kind: match hit.watchpoint.kind {
            engine::WatchKind::Write => WatchKind::Write,
            engine::WatchKind::Read => WatchKind::Read,
            engine::WatchKind::Access => WatchKind::Access,
        },
    }
}

/// All stops from where the replay is up to a tick, found by the engine at full speed.
pub fn by_running(replayer: &mut Replayer, stops: &Stops, until: Tick) -> Vec<Hit> {
    let stops = engine_stops(&stops.breakpoints, &stops.watchpoints);
    replayer.machine.set_stops(stops);
    let mut hits = Vec::new();
    let mut pass = false;
    while replayer.tick() < until {
        let exit = replayer.run(until, pass);
        let now = replayer.tick();
        pass = false;
        match exit {
            Exit::Breakpoint => {
                pass = true;
                hits.push(Hit {
                    before: now,
                    after: now,
                    reason: StopReason::Breakpoint {
                        addr: replayer.machine.cpu.linear_rip(),
                    },
                });
            }
            Exit::Watchpoint(hit) => hits.push(Hit {
                before: now - 1,
                after: now,
                reason: watch_reason(&hit),
            }),
            _ => assert!(now >= until, "{exit:?} at {now} before {until}"),
        }
    }
    replayer.machine.set_stops(engine::Stops::default());
    hits
}

/// The bytes that watchpoints are on, as far as they are mapped.
fn watched_bytes(machine: &Machine, watchpoints: &[Watchpoint]) -> Vec<Option<u8>> {
    let byte = |address: u64| {
        let mut byte = [0];
        let physical = machine.cpu.probe(address)?;
        (machine.cpu.memory.read(physical, &mut byte) == 1).then_some(byte[0])
    };
    watchpoints
        .iter()
        .filter(|w| w.kind != WatchKind::Read)
        .flat_map(|w| (0..w.len).map(|n| byte(w.addr.wrapping_add(n))))
        .collect()
}

/// The same by single ticks: breakpoints by looking at every instruction's address, without the engine's
/// breakpoints; watchpoints by the engine, but a byte that changes without a hit is a failure.
/// `interrupts` are the ticks at which no instruction is executed.
pub fn by_stepping(
    replayer: &mut Replayer,
    stops: &Stops,
    until: Tick,
    interrupts: &HashSet<Tick>,
) -> Vec<Hit> {
    replayer
        .machine
        .set_stops(engine_stops(&[], &stops.watchpoints));
    let mut hits = Vec::new();
    let mut content = watched_bytes(&replayer.machine, &stops.watchpoints);
    while replayer.tick() < until {
        let now = replayer.tick();
        let addr = replayer.machine.cpu.linear_rip();
        // A trap that waits (a single step, a data breakpoint of the guest's own) is delivered first.
        let state = &replayer.machine.cpu.state;
        let trap = state.pending_trap != 0 && state.shadow != shadow::STACK;
        if stops.breakpoints.contains(&addr) && !interrupts.contains(&now) && !trap {
            hits.push(Hit {
                before: now,
                after: now,
                reason: StopReason::Breakpoint { addr },
            });
        }
        let exit = replayer.run(now + 1, true);
        assert_eq!(replayer.tick(), now + 1, "{exit:?}");
        let changed = watched_bytes(&replayer.machine, &stops.watchpoints);
        if let Exit::Watchpoint(hit) = exit {
            hits.push(Hit {
                before: now,
                after: now + 1,
                reason: watch_reason(&hit),
            });
        } else {
            assert_eq!(content, changed, "a change at tick {now} that nobody saw");
        }
        content = changed;
    }
    replayer.machine.set_stops(engine::Stops::default());
    hits
}

/// Where a run from a position stops according to the hits, and why. `None`: at none of them.
pub fn expected(hits: &[Hit], position: Tick, direction: Direction) -> Option<(Tick, &StopReason)> {
    match direction {
        // Of two at one position, the access happened before the instruction is met.
        Direction::Forward => hits
            .iter()
            .filter(|hit| hit.after > position)
            .min_by_key(|hit| (hit.after, hit.before))
            .map(|hit| (hit.after, &hit.reason)),
        // Of two at one position, the access is met first when going back.
        Direction::Backward => hits
            .iter()
            .filter(|hit| hit.before < position)
            .max_by_key(|hit| (hit.before, hit.after))
            .map(|hit| (hit.before, &hit.reason)),
    }
}
