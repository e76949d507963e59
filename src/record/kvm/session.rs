//! A run under KVM: enters the guest, answers what it asks, delivers what waits, and writes all of it down.

mod counter;
mod execute;
mod settle;

use super::clock::HostClock;
use super::convert;
use super::error::KvmError;
use super::journal::Journal;
use super::replaced::Replaced;
use super::vm::{Left, Vm};
use crate::cpu::mmu::bus_parts;
use crate::cpu::state::{State, activity, seg};
use crate::cpu::world::{Interrupt, Pending, Wait, World};
use crate::machine::{Machine, compare};
use crate::memory::PAGE_BYTES;
use crate::tick::{GuestNs, Tick};
use crate::trace::{EndReason, PageHash, PageList, Stand, What};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use counter::Held;

/// Where nothing happens by itself, the guest is stopped for them this often.
const QUIET_LIST_PERIOD: Duration = Duration::from_millis(200);
/// The longest stretch in the guest: signals and the console are heard in between.
const SLICE: Duration = Duration::from_millis(20);
/// While an interrupt waits for the guest to take it.
const WAITING_SLICE: Duration = Duration::from_millis(2);

/// Longer lists have no hashes of lines: whoever wrote so many pages is not in a small loop.
const LINES_PAGES_MAX: usize = 64;

/// A machine that runs under KVM.
pub struct Session {
    // Dropped before the machine, whose RAM it uses.
    vm: Vm,
    machine: Machine,
    journal: Journal,
    clock: HostClock,
    /// The processor stands right behind the instruction of the last access.
    at_access: bool,
    /// The processor stands at an access, or where it was placed: the recording knows where that is.
    position_known: bool,
    halted: bool,
    /// The processor has shut down: it has no state worth comparing.
    shut_down: bool,
    /// When it was last known to stand at an access, or was placed.
    placed: Instant,
    listed: Instant,
    list_period: Duration,
    task_priority: u64,
    /// Host time inside of the guest.
    in_guest: Duration,
    /// While it slept.
    waited: Duration,
    began: Instant,
    counts: BTreeMap<&'static str, u64>,
    replaced: Replaced,
    /// The time-stamp counter, where it is held.
    held: Option<Held>,
    /// All pages that were ever listed.
    written: BTreeSet<u32>,
}

impl Session {
    /// A session at the state of `machine`, whose RAM `vm` uses.
    pub fn new(
        mut vm: Vm,
        mut machine: Machine,
        mut journal: Journal,
        clock: HostClock,
        list_period: Duration,
        replaced: Replaced,
        held: Option<Held>,
    ) -> Result<Session, KvmError> {
        if replaced.len() > 0 {
            vm.trap_int3()?;
            replaced.put_all(&mut machine.cpu.memory);
        }
        let task_priority = journal.tpr_read(0, 0);
        vm.load(&machine.cpu.state, task_priority)?;
        vm.follow_handlers(&machine.cpu.memory)?;
        // Nothing is executed by this, but what KVM says of the processor is of that state.
        vm.complete()?;
        if let Some(linear) = journal.live.watch().address() {
            vm.break_at(linear)?;
        }
        let halted = machine.cpu.state.activity == activity::HALTED;
        let now = Instant::now();
        let list_period = match held {
            Some(_) => list_period.min(counter::LIST_PERIOD_MAX),
            None => list_period,
        };
        Ok(Session {
            vm,
            machine,
            journal,
            clock,
            at_access: true,
            position_known: true,
            halted,
            shut_down: false,
            placed: now,
            listed: now,
            list_period,
            task_priority,
            in_guest: Duration::ZERO,
            waited: Duration::ZERO,
            began: now,
            counts: BTreeMap::new(),
            replaced,
            held,
            written: BTreeSet::new(),
        })
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Runs until the live world says that it is over.
    pub fn run(&mut self, progress: &mut dyn FnMut(GuestNs, u64)) -> Result<(), KvmError> {
        let mut dma = Vec::new();
        self.move_counter(self.clock.now());
        if self.journal.records() && self.vm.is_at_moment(self.machine.cpu.linear_rip()) {
            // What began at this instruction does not end there at once.
            self.at_access = false;
            self.execute_one()?;
        }
        loop {
            let now = self.clock.now();
            let pending = self.journal.live.poll(now, 0, &mut dma);
            self.journal.note_typed();
            if self.journal.flush_if_due() {
                progress(self.journal.live.guest_ns(now), self.journal.bytes());
            }
            if self.journal.live.is_over() {
                return self.come_to_rest();
            }
            let waits = self.deliver(pending, now)?;
            if self.journal.live.is_over() {
                continue;
            }
            if self.halted {
                self.wait(now)?;
                continue;
            }
            self.enter(waits, now)?;
        }
    }

    /// Delivers what is pending if the guest can take it now. Gives whether something still waits.
    fn deliver(&mut self, pending: Pending, now: Tick) -> Result<bool, KvmError> {
        if pending.nmi && self.takes_nmi()? {
            self.place()?;
            if let Some(Interrupt::Nmi) = self.journal.live.interrupt(now, 0, false) {
                self.journal.arrival(What::Nmi, now);
                self.vm.nmi()?;
                self.arrived("nmi");
            }
            return Ok(pending.interrupt);
        }
        if !pending.interrupt {
            return Ok(pending.nmi);
        }
        if !self.takes_interrupt()? {
            return Ok(true);
        }
        let at_access = self.at_access;
        self.place()?;
        if let Some(Interrupt::Vector(vector)) = self.journal.live.interrupt(now, 0, true) {
            self.journal.arrival(What::Interrupt { vector }, now);
            self.vm.interrupt(vector)?;
            self.arrived(if at_access {
                "interrupts_at_accesses"
            } else {
                "interrupts_placed"
            });
        }
        Ok(false)
    }

    /// Whether a maskable interrupt would be delivered at once; the processor is settled then.
    fn takes_interrupt(&mut self) -> Result<bool, KvmError> {
        for settled in [false, true] {
            let wakes = self.halted && self.vm.interrupts_on();
            if self.shut_down || !wakes && !self.vm.takes_interrupt() {
                return Ok(false);
            }
            if !settled {
                self.settle()?;
            }
        }
        Ok(!self.journal.live.is_over())
    }

    /// The same for an NMI.
    fn takes_nmi(&mut self) -> Result<bool, KvmError> {
        if !self.vm.takes_nmi()? {
            return Ok(false);
        }
        self.settle()?;
        Ok(!self.shut_down && !self.journal.live.is_over() && self.vm.takes_nmi()?)
    }

    fn arrived(&mut self, what: &'static str) {
        self.count(what);
        self.halted = false;
        self.at_access = false;
        self.position_known = true;
        self.placed = Instant::now();
    }

    /// Writes down where the processor stands, and what RAM is like there, unless the place is clear anyway. Only where
    /// it is settled.
    fn place(&mut self) -> Result<(), KvmError> {
        if self.at_access || !self.journal.records() {
            return Ok(());
        }
        let stand = self.stand()?;
        self.journal.stand(stand);
        self.position_known = true;
        // A state of registers may come many times in a loop; with RAM it does not. Whoever asked for few lists has
        // the tries instead.
        if self.lists_rarely() && self.listed.elapsed() < self.list_period {
            return Ok(());
        }
        self.list()
    }

    fn lists_rarely(&self) -> bool {
        self.list_period > QUIET_LIST_PERIOD
    }

    /// The state at which the processor stands.
    fn stand(&mut self) -> Result<Stand, KvmError> {
        let mut state = self.machine.cpu.state;
        self.vm.store(&self.machine.cpu.memory, &mut state)?;
        Ok(self.stand_of(&state))
    }

    fn stand_of(&self, state: &State) -> Stand {
        let linear = if state.code64() {
            state.rip()
        } else {
            state.seg_base[seg::CS].wrapping_add(state.rip()) & 0xffff_ffff
        };
        let (general, flags) = compare::general_of(state);
        Stand {
            rip: state.rip(),
            linear,
            flags,
            general,
            vector: compare::vector_hash(state),
            elapsed_ns: self.placed.elapsed().as_nanos() as u64,
        }
    }

    /// Writes hashes of what changed in RAM, and the processor's state.
    fn list(&mut self) -> Result<(), KvmError> {
        if !self.journal.records() {
            return Ok(());
        }
        self.count("page_lists");
        let mut pages = self.vm.take_dirty()?;
        pages.extend(self.machine.cpu.take_dirty());
        pages.sort_unstable();
        pages.dedup();
        self.written.extend(&pages);
        let memory = &self.machine.cpu.memory;
        // Whoever looks for this state among millions compares lines.
        let lines = if !self.at_access && pages.len() <= LINES_PAGES_MAX {
            let lines = |&page: &u32| self.seen(page, compare::line_hashes);
            pages.iter().map(lines).collect()
        } else {
            Vec::new()
        };
        let hashes = pages.into_iter().map(|page| {
            let (whole, unmarked) = self.seen(page, compare::page_hashes);
            PageHash {
                page,
                whole,
                unmarked,
            }
        });
        let pages = hashes.collect();
        let mut state = Vec::new();
        if !self.shut_down {
            let mut now = self.machine.cpu.state;
            self.vm.store(memory, &mut now)?;
            state = bytemuck::bytes_of(&now.canonical()).to_vec();
        }
        self.journal.pages(&PageList {
            state,
            pages,
            lines,
        });
        self.listed = Instant::now();
        Ok(())
    }

    /// Looks at a page as the guest sees it.
    fn seen<T>(&self, page: u32, look: impl Fn(&[u8; PAGE_BYTES]) -> T) -> T {
        let memory = &self.machine.cpu.memory;
        let there = memory.page(page as usize);
        let gpa = memory.page_address(page as usize);
        look(self.replaced.page(gpa, there).as_deref().unwrap_or(there))
    }

    /// The guest has halted: waits for what wakes it.
    fn wait(&mut self, now: Tick) -> Result<(), KvmError> {
        let interruptible = self.vm.interrupts_on();
        let live = &mut self.journal.live;
        let waits = Instant::now();
        let wait = self.clock.stopped(|| live.wait(now, 0, interruptible));
        self.waited += waits.elapsed();
        // A deadline that is due is looked at again by the loop.
        if wait == Wait::Ended && !self.journal.live.is_over() {
            self.journal.live.finish(EndReason::Halted);
        }
        Ok(())
    }

    /// Lets the guest run.
    fn enter(&mut self, waits: bool, now: Tick) -> Result<(), KvmError> {
        let task_priority = self.journal.tpr_read(now, 0);
        if task_priority != self.task_priority {
            self.vm.set_task_priority(task_priority);
            self.task_priority = task_priority;
        }
        self.vm.want_window(waits);
        let stop = self.journal.live.next_stop(now);
        let longest = if waits { WAITING_SLICE } else { SLICE };
        self.move_counter(now);
        let left = self.run_guest(self.clock.host_time(stop - now).min(longest))?;
        if left != Left::Breakpoint {
            self.vm.follow_handlers(&self.machine.cpu.memory)?;
        }
        self.handle(left)
    }

    /// Runs the guest until it leaves, or for so long at most.
    fn run_guest(&mut self, longest: Duration) -> Result<Left, KvmError> {
        self.kick_in(longest)?;
        self.at_access = false;
        self.position_known = false;
        let entered = Instant::now();
        let left = self.vm.enter()?;
        self.in_guest += entered.elapsed();
        self.check_counter()?;
        Ok(left)
    }

    /// Does what the guest left for.
    fn handle(&mut self, left: Left) -> Result<(), KvmError> {
        let mut left = left;
        loop {
            let before = self.journal.accesses();
            let completes = self.answer(left)?;
            self.notice_task_priority();
            if !completes {
                return Ok(());
            }
            left = self.vm.complete()?;
            if left == Left::Kicked {
                self.after_access(before)?;
                return Ok(());
            }
        }
    }

    /// The instruction is complete: its access is where the recording can be compared.
    fn after_access(&mut self, before: u64) -> Result<(), KvmError> {
        if self.journal.accesses() == before {
            return Ok(());
        }
        self.leave_finished_repeat(true)?;
        let regs = self.vm.regs()?;
        let hash = compare::general_hash(&convert::general(&regs), regs.rip, regs.rflags);
        self.journal.check(hash);
        self.at_access = true;
        self.position_known = true;
        self.placed = Instant::now();
        if self.listed.elapsed() >= self.list_period && self.vm.is_settled()? {
            self.list()?;
        }
        Ok(())
    }

    /// Answers; gives whether the instruction still has to be completed.
    fn answer(&mut self, left: Left) -> Result<bool, KvmError> {
        let now = self.clock.now();
        match left {
            Left::In { port, size, count } => {
                self.count("exits_port");
                for n in 0..count {
                    let value = self.journal.pio_read(now, 0, port, size);
                    let size = usize::from(size);
                    self.vm.io_data()[n * size..][..size]
                        .copy_from_slice(&value.to_le_bytes()[..size]);
                }
            }
            Left::Out { port, size, count } => {
                self.count("exits_port");
                for n in 0..count {
                    let mut value = [0; 4];
                    let bytes = usize::from(size);
                    value[..bytes].copy_from_slice(&self.vm.io_data()[n * bytes..][..bytes]);
                    self.journal
                        .pio_write(now, 0, port, size, u32::from_le_bytes(value));
                }
            }
            Left::Load { gpa, len } => {
                self.count("exits_mmio");
                for (size, at, offset) in bus_parts(gpa, 0, len) {
                    let value = self.journal.mmio_read(now, 0, at, size as u8);
                    self.vm.mmio_data()[offset..offset + size]
                        .copy_from_slice(&value.to_le_bytes()[..size]);
                }
            }
            Left::Store { gpa, len } => {
                self.count("exits_mmio");
                let data = *self.vm.mmio_data();
                for (size, at, offset) in bus_parts(gpa, 0, len) {
                    let mut value = [0; 8];
                    value[..size].copy_from_slice(&data[offset..offset + size]);
                    self.journal
                        .mmio_write(now, 0, at, size as u8, u64::from_le_bytes(value));
                }
            }
            Left::ReadMsr(msr) => {
                self.count("exits_msr");
                let value = self
                    .machine
                    .cpu
                    .access_msr(&mut self.journal, now, msr, None);
                self.vm.answer_msr(value);
            }
            Left::WriteMsr(msr, value) => {
                self.count("exits_msr");
                let taken = self
                    .machine
                    .cpu
                    .access_msr(&mut self.journal, now, msr, Some(value));
                self.vm.answer_msr(taken);
                if taken.is_some() {
                    self.vm.keep_msr(msr, value);
                }
            }
            other => return self.answer_without_data(other).map(|()| false),
        }
        Ok(true)
    }

    /// What leaves the guest behind an instruction, or without one.
    fn answer_without_data(&mut self, left: Left) -> Result<(), KvmError> {
        match left {
            Left::Halt => {
                self.count("exits_halt");
                self.journal.count_access();
                self.halted = true;
                self.after_access(self.journal.accesses() - 1)
            }
            Left::Shutdown => {
                self.journal.count_access();
                self.shut_down = true;
                self.at_access = true;
                let why = "the processor shut down (an exception while delivering a double fault)";
                self.journal
                    .live
                    .finish(EndReason::TripleFault(why.to_string()));
                Ok(())
            }
            Left::Kicked => {
                self.count("kicks");
                let due = self.listed.elapsed() >= QUIET_LIST_PERIOD.max(self.list_period);
                if (due || self.counter_is_due()) && self.vm.is_settled()? {
                    self.leave_finished_repeat(false)?;
                    self.place()?;
                    self.placed = Instant::now();
                }
                Ok(())
            }
            Left::Window => {
                self.count("windows");
                Ok(())
            }
            Left::TaskPriority => Ok(()),
            Left::NotEmulated => self.execute_one(),
            Left::Breakpoint => self.at_breakpoint(),
            other => {
                self.journal
                    .live
                    .finish(EndReason::Unsupported(format!("{other:?}")));
                Ok(())
            }
        }
    }

    /// The guest may have written CR8 without leaving.
    fn notice_task_priority(&mut self) {
        let there = self.vm.task_priority();
        if there != self.task_priority {
            self.task_priority = there;
            let now = self.clock.now();
            self.journal.tpr_write(now, 0, there);
        }
    }

    /// The run is over: runs on to a point where nothing is half done, and writes what the machine is like there.
    fn come_to_rest(&mut self) -> Result<(), KvmError> {
        while !self.shut_down && !self.vm.is_settled()? {
            self.vm.want_window(false);
            let left = self.run_guest(Duration::from_micros(50))?;
            self.handle(left)?;
        }
        if !self.shut_down && !self.at_access {
            self.leave_finished_repeat(false)?;
        }
        if !self.at_access && self.journal.records() {
            let stand = self.stand()?;
            self.journal.stand(stand);
        }
        self.list()
    }

    /// Takes it apart. The machine has the processor's state, and all pages that are not zero are dirty.
    pub fn finish(self) -> Result<(Machine, Journal, HostClock, BTreeMap<String, u64>), KvmError> {
        let Session {
            mut vm,
            mut machine,
            journal,
            clock,
            counts,
            in_guest,
            waited,
            began,
            replaced,
            halted,
            written,
            ..
        } = self;
        let mut state = machine.cpu.state;
        vm.store(&machine.cpu.memory, &mut state)?;
        let changed = vm.take_dirty()?;
        drop(vm);
        for page in changed.into_iter().chain(written) {
            machine.cpu.memory.mark_dirty(page as usize);
        }
        if halted {
            state.activity = activity::HALTED;
        }
        machine.cpu.state = state;
        replaced.give_all_back(&mut machine.cpu.memory);
        machine.cpu.forget_code();
        machine.cpu.state_changed();
        let named = counts.into_iter().map(|(name, n)| (name.to_string(), n));
        let mut counts: BTreeMap<String, u64> = named.collect();
        let awake = began.elapsed().saturating_sub(waited);
        let outside = awake.saturating_sub(in_guest);
        counts.insert(
            "microseconds_in_guest".to_string(),
            in_guest.as_micros() as u64,
        );
        counts.insert(
            "microseconds_outside".to_string(),
            outside.as_micros() as u64,
        );
        Ok((machine, journal, clock, counts))
    }
}
