//! The breakpoints and watchpoints that GDB has set, with the agent expressions that came along.
//!
//! Setting one twice is setting it once, as the protocol demands. Guest memory is never patched: software and
//! hardware breakpoints differ in nothing but the word in the stop reply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::gdb::agent::{Program, Subject};
use crate::gdb::registers::{ROWS, TIME};
use crate::guest::linux::running::Running;
use crate::guest::{InScene, Physical};
use crate::monitor::{Process, Settings};
use crate::timeline::api::{
    Condition, Conditions, Direction, Event, EventSet, Registers, Scene, Stops, WatchKind,
    Watchpoint,
};

/// At most so many of all kinds together: more than anybody sets, and a bound for memory and for the engine.
pub const COUNT_MAX: usize = 10_000;
/// Bytes of expressions at most, of all breakpoints together.
pub const EXPRESSION_BYTES_MAX: usize = 1 << 20;

/// The two packets that set a breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Z0.
    Software,
    /// Z1.
    Hardware,
}

/// Agent expressions of a breakpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expressions {
    /// The breakpoint counts when one of them is not zero, or when there are none. `None`: cannot be evaluated here.
    pub conditions: Vec<Option<Program>>,
    /// Run at each hit that counts. A breakpoint with commands does not stop (GDB's agent-style `dprintf`).
    pub commands: Vec<Program>,
    /// Length of the bytecode.
    pub bytes: usize,
}

/// Registers and memory by their names in the target description.
struct Seen<'a>(&'a mut dyn Scene);

impl Subject for Seen<'_> {
    fn register(&mut self, number: usize) -> Option<u64> {
        if number == TIME {
            return Some(self.0.time());
        }
        let row = ROWS.get(number)?;
        match row.gpr {
            Some(n) => Some(self.0.gpr(n)),
            None => row.integer(self.0.registers()),
        }
    }

    fn read(&mut self, addr: u64, out: &mut [u8]) -> usize {
        self.0.read_virtual(addr, out)
    }
}

impl Expressions {
    fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.commands.is_empty()
    }

    /// Whether a hit counts. What has no value here counts: GDB checks again itself.
    fn hold(&self, seen: &mut Seen<'_>) -> bool {
        let mut nowhere = Vec::new();
        self.conditions.is_empty()
            || self.conditions.iter().any(|condition| match condition {
                Some(program) => !matches!(program.run(seen, &mut nowhere), Ok(Some(0))),
                None => true,
            })
    }
}

/// System calls that GDB wants to catch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Their numbers; `None`: all.
    pub numbers: Option<BTreeSet<u64>>,
    /// How to see from which one the processor returns, where the guest is a Linux that tells.
    pub running: Option<Running>,
}

impl Calls {
    /// The number of the system call that an event begins or ends, if it is one of these. `rip` is where a return has
    /// gone to, if that is known.
    pub fn number(
        &self,
        ram: &dyn Physical,
        registers: &Registers,
        event: &Event,
        rip: Option<u64>,
    ) -> Option<u64> {
        let number = match *event {
            Event::SystemCall { number, wide: true } => number,
            Event::UserReturn => self.running?.system_call(ram, registers, rip)?,
            _ => return None,
        };
        let wanted = self.numbers.as_ref();
        wanted
            .is_none_or(|numbers| numbers.contains(&number))
            .then_some(number)
    }
}

/// Says which hits count.
struct Judge {
    /// The expressions of those breakpoints that have any, by address.
    places: FxHashMap<u64, Vec<Arc<Expressions>>>,
    /// Those of watchpoints.
    watched: BTreeMap<(u64, WatchKind), Option<Program>>,
    /// The process that all is limited to.
    only: Option<Process>,
    /// What `monitor catch` catches ...
    catches: EventSet,
    /// ... and GDB's own `catch syscall`.
    calls: Option<Calls>,
}

impl Judge {
    fn is_needed(&self) -> bool {
        !self.places.is_empty()
            || !self.watched.is_empty()
            || self.only.is_some()
            || self.calls.is_some()
    }

    fn is_in_process(&self, scene: &mut dyn Scene) -> bool {
        let Some(Process { pid, running }) = &self.only else {
            return true;
        };
        let registers = scene.registers().clone();
        running.process(&InScene(scene), &registers) == Some(*pid)
    }
}

impl Condition for Judge {
    fn watch_holds(&self, watched: (u64, WatchKind), scene: &mut dyn Scene) -> bool {
        if !self.is_in_process(scene) {
            return false;
        }
        match self.watched.get(&watched) {
            Some(Some(program)) => {
                !matches!(program.run(&mut Seen(scene), &mut Vec::new()), Ok(Some(0)))
            }
            _ => true,
        }
    }

    fn event_holds(&self, event: &Event, scene: &mut dyn Scene) -> bool {
        // Who runs changes there.
        let switch = matches!(event, Event::Space { .. });
        if !switch && !self.is_in_process(scene) {
            return false;
        }
        if self.catches.has(event) {
            return true;
        }
        let registers = scene.registers().clone();
        let calls = self.calls.as_ref();
        calls.is_some_and(|calls| {
            let rip = Some(registers.rip);
            calls
                .number(&InScene(scene), &registers, event, rip)
                .is_some()
        })
    }

    fn holds(&self, addr: u64, direction: Direction, scene: &mut dyn Scene) -> bool {
        if !self.is_in_process(scene) {
            return false;
        }
        let Some(all) = self.places.get(&addr) else {
            return true;
        };
        let seen = &mut Seen(scene);
        // Nothing is printed on the way back.
        all.iter().any(|expressions| {
            (direction == Direction::Forward || expressions.commands.is_empty())
                && expressions.hold(seen)
        })
    }
}

/// All that is set.
#[derive(Debug, Default)]
pub struct Breakpoints {
    code: BTreeMap<(u64, Kind), Arc<Expressions>>,
    watched: BTreeSet<Watchpoint>,
    /// Of all expressions.
    bytes: usize,
    /// What came with the Z packet that is being handled.
    pub arriving: Expressions,
    /// What GDB's `catch syscall` wants.
    pub calls: Option<Calls>,
}

impl Breakpoints {
    /// Sets a breakpoint, with the expressions in `arriving`. `false` when there are too many.
    pub fn add(&mut self, addr: u64, kind: Kind) -> bool {
        let expressions = std::mem::take(&mut self.arriving);
        let old = self.code.get(&(addr, kind));
        let bytes = self.bytes - old.map_or(0, |old| old.bytes) + expressions.bytes;
        if self.is_full() && old.is_none() || bytes > EXPRESSION_BYTES_MAX {
            return false;
        }
        self.bytes = bytes;
        self.code.insert((addr, kind), Arc::new(expressions));
        true
    }

    /// Takes a breakpoint away, if there is one.
    pub fn remove(&mut self, addr: u64, kind: Kind) {
        if let Some(old) = self.code.remove(&(addr, kind)) {
            self.bytes -= old.bytes;
        }
    }

    /// Sets a watchpoint. `false` when there are too many.
    pub fn watch(&mut self, watchpoint: Watchpoint) -> bool {
        if self.is_full() && !self.watched.contains(&watchpoint) {
            return false;
        }
        self.watched.insert(watchpoint);
        true
    }

    /// Takes a watchpoint away, if there is one.
    pub fn unwatch(&mut self, watchpoint: Watchpoint) {
        self.watched.remove(&watchpoint);
    }

    fn is_full(&self) -> bool {
        self.code.len() + self.watched.len() >= COUNT_MAX
    }

    /// Which kind of breakpoint is at an address; software first.
    pub fn kind_at(&self, addr: u64) -> Option<Kind> {
        self.at(addr).next().map(|(kind, _)| kind)
    }

    /// The breakpoints at an address.
    fn at(&self, addr: u64) -> impl Iterator<Item = (Kind, &Arc<Expressions>)> + Clone {
        self.code
            .range((addr, Kind::Software)..=(addr, Kind::Hardware))
            .map(|(&(_, kind), expressions)| (kind, expressions))
    }

    /// What a forward run that has met a breakpoint does: runs the commands of those that count, whose output goes to
    /// `printed`, and says whether it stops, which it does for any that counts and has no commands.
    pub fn meet(&self, addr: u64, scene: &mut dyn Scene, printed: &mut Vec<u8>) -> bool {
        let seen = &mut Seen(scene);
        let mut stops = false;
        for (_, expressions) in self.at(addr) {
            if !expressions.hold(seen) {
                continue;
            }
            stops |= expressions.commands.is_empty();
            for command in &expressions.commands {
                if let Err(why) = command.run(seen, printed) {
                    printed.extend_from_slice(format!("at {addr:#x}: {why}\n").as_bytes());
                }
            }
        }
        stops
    }

    /// What the timeline is to stop at, together with what monitor commands have set.
    pub fn stops(&self, settings: &Settings) -> Stops {
        let mut breakpoints: Vec<u64> = self.code.keys().map(|&(addr, _)| addr).collect();
        breakpoints.dedup();
        let mut places: FxHashMap<u64, Vec<Arc<Expressions>>> = FxHashMap::default();
        for &addr in &breakpoints {
            let all = self.at(addr).map(|(_, expressions)| expressions);
            if all.clone().all(|expressions| !expressions.is_empty()) {
                places.insert(addr, all.cloned().collect());
            }
        }
        let watched = settings
            .watch_conditions
            .iter()
            .map(|one| ((one.addr, one.kind), Program::new(&one.code).ok()))
            .collect();
        let catches = settings.catches.events();
        let mut events = catches.clone();
        if let Some(calls) = &self.calls {
            match &calls.numbers {
                Some(numbers) => numbers.iter().for_each(|&number| events.add_call(number)),
                None => events.add_all_calls(),
            }
            events.returns |= calls.running.is_some();
        }
        let judge = Judge {
            places,
            watched,
            only: settings.only,
            catches,
            calls: self.calls.clone(),
        };
        let conditions = judge.is_needed().then(|| Arc::new(judge) as Arc<_>);
        Stops {
            breakpoints,
            watchpoints: self.watched.iter().copied().collect(),
            events,
            conditions: Conditions(conditions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_twice_is_setting_once() {
        let mut b = Breakpoints::default();
        let watchpoint = Watchpoint {
            addr: 8,
            len: 4,
            kind: WatchKind::Write,
        };
        for _ in 0..2 {
            assert!(b.add(5, Kind::Hardware) && b.add(5, Kind::Software) && b.watch(watchpoint));
        }
        assert_eq!(
            b.stops(&Settings::default()),
            Stops {
                breakpoints: vec![5],
                watchpoints: vec![watchpoint],
                ..Stops::default()
            }
        );
        assert_eq!(b.kind_at(5), Some(Kind::Software));
        b.remove(5, Kind::Software);
        assert_eq!(b.kind_at(5), Some(Kind::Hardware));
        b.remove(5, Kind::Hardware);
        b.unwatch(watchpoint);
        assert!(b.stops(&Settings::default()).is_empty());
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut b = Breakpoints::default();
        for addr in 0..COUNT_MAX as u64 {
            assert!(b.add(addr, Kind::Software));
        }
        assert!(!b.add(1 << 40, Kind::Software));
        assert!(!b.watch(Watchpoint {
            addr: 0,
            len: 1,
            kind: WatchKind::Read
        }));
        assert!(b.add(7, Kind::Software), "known ones can be set again");
    }
}
