//! The search for one state: the first, from an access on, that is what the recorder saw.
//!
//! Most states at the recorded RIP are told apart within the run, by general registers and by what told others apart
//! before (`cpu/awaited.rs`). What passes there is compared in full here.

use super::base::Refusal;
use super::{Failure, Resolver, Stop, TICKS_MOST};
use crate::cpu::state::{State, Vector, X87, activity, gpr};
use crate::cpu::stops::Stops;
use crate::machine::compare;
use crate::tick::Tick;
use crate::trace::{PageList, Stand};

/// Ticks that a processor may make in a host nanosecond (a repeated string instruction moves many elements at once).
const TICKS_PER_NS: u64 = 16;
/// Fewer iterations are stopped at, each.
const ITERATIONS_LEAST: u64 = 64;
/// And without any time having passed.
const TICKS_LEAST: u64 = 100_000;

/// The hash of the vector registers, made anew where they changed only.
#[derive(Default)]
struct VectorHash(Option<(Box<VectorRegisters>, u64)>);

type VectorRegisters = (X87, [Vector; 16], u32);

impl VectorHash {
    fn of(&mut self, state: &State) -> u64 {
        if let Some((of, hash)) = &self.0
            && of.1 == state.vector
            && of.0 == state.x87
            && of.2 == state.mxcsr
        {
            return *hash;
        }
        let hash = compare::vector_hash(state);
        self.0 = Some((Box::new((state.x87, state.vector, state.mxcsr)), hash));
        hash
    }
}

/// What is searched.
struct Wanted<'a> {
    stand: &'a Stand,
    /// RAM there, and the whole processor, if the recorder looked.
    list: Option<PageList>,
    state: Option<Box<State>>,
    vector: VectorHash,
    /// What differed first in RAM where registers were right.
    refused: Option<String>,
    /// The row of the list that told the last such state apart.
    last_row: Option<usize>,
}

impl Resolver {
    /// Puts the machine where a stand says: at a tick that is known, or at the first that fits from `floor` on.
    pub(super) fn place(
        &mut self,
        stand: &Stand,
        known: Option<Tick>,
        floor: Tick,
    ) -> Result<(), Failure> {
        self.world.set_target(self.world.accesses() + 1);
        let start = self.machine.tick();
        let first = known.unwrap_or(floor.max(start));
        if first > start && self.go(first)? != Stop::Tick {
            return Err(self.nowhere(stand, None));
        }
        if known.is_some() {
            return Ok(());
        }
        let budget = stand
            .elapsed_ns
            .saturating_mul(TICKS_PER_NS)
            .saturating_add(TICKS_LEAST)
            .min(TICKS_MOST);
        // The last breakpoint stays in the decoded code, where it mostly is the next one, too.
        self.machine.set_stops(Stops::new([stand.linear], []));
        let awaited = compare::awaited(&stand.general, stand.flags);
        self.machine.cpu.set_awaited(Some(awaited));
        let found = self.search(stand, start.saturating_add(budget));
        if let Some(awaited) = self.machine.cpu.awaited() {
            self.found.candidates += awaited.others + awaited.told_apart;
            self.found.wrong += awaited.told_apart;
        }
        self.machine.cpu.set_awaited(None);
        self.machine.cpu.ignore_stops(true);
        found
    }

    /// Runs to the first state that fits, from here on and before tick `last`.
    fn search(&mut self, stand: &Stand, last: Tick) -> Result<(), Failure> {
        let list = self.world.next_list();
        let state = list
            .as_ref()
            .filter(|list| list.state.len() == size_of::<State>())
            .map(|list| Box::new(bytemuck::pod_read_unaligned(&list.state)));
        let mut wanted = Wanted {
            stand,
            list,
            state,
            vector: VectorHash::default(),
            refused: None,
            last_row: None,
        };
        loop {
            if self.machine.cpu.state.rip() == stand.rip {
                self.found.candidates += 1;
                if self.fits(&mut wanted) {
                    return Ok(());
                }
                if self.pass_iterations(stand, last)? {
                    continue;
                }
            }
            match self.go(last)? {
                Stop::Breakpoint => {}
                Stop::Tick | Stop::Access => return Err(self.nowhere(stand, wanted.refused)),
            }
        }
    }

    /// Whether the state is the one that is wanted, as far as can be seen here. If it is not and looked like it,
    /// breakpoints hear why.
    fn fits(&mut self, wanted: &mut Wanted) -> bool {
        let state = &self.machine.cpu.state;
        let stand = wanted.stand;
        if compare::general_of(state) != (stand.general, stand.flags)
            || state.activity != activity::RUNNING
        {
            return false;
        }
        let clue = if wanted.vector.of(state) != stand.vector {
            let recorded = wanted.state.as_deref();
            recorded.and_then(|recorded| compare::vector_clue(recorded, state))
        } else {
            // Where the recorder has looked at RAM, too, a state that fits too early is seen at once.
            let Some(list) = &wanted.list else {
                return true;
            };
            let Some(refusal) = self.refusal(list, wanted.last_row) else {
                return true;
            };
            self.found.wrong += 1;
            let clue = self.base.clue(&self.machine, list, &refusal);
            wanted.last_row = refusal.row;
            wanted.refused.get_or_insert(refusal.what);
            clue
        };
        if let (Some(clue), Some(awaited)) = (clue, self.machine.cpu.awaited_mut()) {
            awaited.add(clue);
        }
        false
    }

    /// What of RAM is not as listed. `last` is the row that differed the last time, which mostly does so again.
    fn refusal(&self, list: &PageList, last: Option<usize>) -> Option<Refusal> {
        if let Some(n) = last
            && let Some(row) = list.pages.get(n)
            && let Err(what) = self.base.compare_page(&self.machine, row)
        {
            return Some(Refusal {
                page: row.page,
                row: Some(n),
                what,
            });
        }
        self.base.compare(&self.machine, list).err()
    }

    /// A repeated string instruction stands at the breakpoint for as many ticks as it counts down, and stops at each.
    /// Goes to the one with the count that is wanted, or past all of them, if nothing else happens in between; gives
    /// whether it did.
    fn pass_iterations(&mut self, stand: &Stand, last: Tick) -> Result<bool, Failure> {
        let cpu = &self.machine.cpu;
        let Some(repeated) = cpu.repeated().filter(|r| !r.accesses_ports) else {
            return Ok(false);
        };
        let count = cpu.state.gpr[gpr::RCX] & repeated.counts;
        let wanted = stand.general[gpr::RCX] & repeated.counts;
        let (rip, start) = (cpu.state.rip(), cpu.tick());
        let (ticks, left, rip_then) = if count > wanted {
            (count - wanted, wanted, rip)
        } else {
            (count, 0, rip.wrapping_add(repeated.bytes))
        };
        let until = start.saturating_add(ticks);
        if ticks < ITERATIONS_LEAST || until > last {
            return Ok(false);
        }
        let Some(mark) = self.base.mark(&self.machine) else {
            return Ok(false);
        };
        let (world, made, digested) = (self.world.position(), self.world.made(), self.digested);
        self.machine.cpu.ignore_stops(true);
        let stop = self.go(until);
        self.machine.cpu.ignore_stops(false);
        // Every tick counted one down: there was no fault, and nothing was left and begun again.
        let state = &self.machine.cpu.state;
        let there = state.rip() == rip_then && state.gpr[gpr::RCX] & repeated.counts == left;
        if stop? == Stop::Tick && there {
            return Ok(true);
        }
        let back = self.base.restore_mark(&mut self.machine, &mark);
        self.world.seek(&world, made);
        self.world.set_target(self.world.accesses() + 1);
        self.digested = digested;
        back.map_err(|error| self.nowhere(stand, Some(error.to_string())))?;
        Ok(false)
    }

    /// No place fits (any more); `refused` is what differed in RAM at the first where registers do.
    fn nowhere(&mut self, stand: &Stand, refused: Option<String>) -> Failure {
        let recorded = format!("something that arrives at RIP {:#x}", stand.rip);
        let replayed = match (self.world.mismatch(), refused) {
            (_, Some(what)) => format!("no such state before its next access (another {what})"),
            (Some(mismatch), None) => format!("no such state before {}", mismatch.replayed),
            (None, None) => "no such state before its next access".to_string(),
        };
        let divergence = self.divergence(recorded, replayed);
        self.failure_of(divergence)
    }
}
