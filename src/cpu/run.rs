//! The loop around blocks: budgets, interrupts, single steps, and what leaves them.

use super::blocks::{Block, Key};
use super::debug::{pending, shadow};
use super::events::Event;
use super::flags::bits;
use super::op::Flow;
use super::state::activity;
use super::stops::WatchHit;
use super::world::{Interrupt, Pending, Wait, World};
use super::{Abort, AbortReason, Cpu, Fault, op_flags, vector};
use crate::tick::Tick;

/// Why `run` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The tick asked for is reached.
    Tick,
    /// The world says that the run is over.
    Ended,
    /// A breakpoint stands at the next instruction.
    Breakpoint,
    /// The last tick hit a watchpoint.
    Watchpoint(WatchHit),
    /// The last tick brought an event to stop at.
    Event(Event),
    /// The processor is halted, nothing is pending, and the world wants the caller to look around.
    Idle,
}

impl Cpu {
    /// Runs until a tick, exactly, or until something else stops it.
    ///
    /// `pass_breakpoint` lets the instruction at the current position run although a breakpoint stands there.
    pub fn run(&mut self, world: &mut dyn World, until: Tick, pass_breakpoint: bool) -> Exit {
        self.set_tick(self.tick());
        self.attention = true;
        self.pass_breakpoint = pass_breakpoint.then_some(self.tick());
        if self.blocks.is_full() {
            self.forget_code();
        }
        let exit = self.with_world(world, |cpu| cpu.run_inside(until));
        // No budget is left over: the position alone is kept.
        self.set_tick(self.tick());
        exit
    }

    /// Does something that may ask the world.
    pub(super) fn with_world<T>(
        &mut self,
        world: &mut dyn World,
        act: impl FnOnce(&mut Cpu) -> T,
    ) -> T {
        let pointer: *mut dyn World = world;
        // SAFETY: only the lifetime changes; the pointer is cleared below, while `world` is still borrowed.
        self.world = Some(unsafe {
            std::mem::transmute::<*mut dyn World, *mut (dyn World + 'static)>(pointer)
        });
        let answer = act(self);
        self.world = None;
        answer
    }

    fn run_inside(&mut self, until: Tick) -> Exit {
        let mut pending = Pending::default();
        loop {
            if let Some(hit) = self.watch_hit.take() {
                // One tick is one stop.
                self.event_hit = None;
                return Exit::Watchpoint(hit);
            }
            if let Some(event) = self.event_hit.take() {
                return Exit::Event(event);
            }
            if self.remaining == 0 || self.attention {
                let now = self.tick();
                if self.world().ended(now) {
                    return Exit::Ended;
                }
                if now >= until {
                    return Exit::Tick;
                }
                pending = self.poll(now);
                if self.world().ended(now) {
                    return Exit::Ended;
                }
                let stop = self.world().next_stop(now).min(until).max(now + 1);
                self.stop_at = stop;
                self.remaining = stop - now;
                self.attention = false;
            }
            if self.state.pending_trap != 0
                && self.state.shadow != shadow::STACK
                && self.state.activity <= activity::HALTED
            {
                self.deliver_traps();
                self.remaining -= 1;
                continue;
            }
            if (pending.interrupt || pending.nmi) && self.take_interrupt(pending) {
                continue;
            }
            if self.state.activity != activity::RUNNING {
                let now = self.tick();
                let cpu = self.index;
                self.attention = true;
                let interruptible =
                    self.state.activity == activity::HALTED && self.state.flags.interrupts();
                match self.world().wait(now, cpu, interruptible) {
                    Wait::Wake => continue,
                    Wait::Again => return Exit::Idle,
                    Wait::Ended => return Exit::Ended,
                }
            }
            let flags = self.state.flags.other();
            let alone =
                self.state.shadow != 0 || flags & bits::TF != 0 || self.code_limit_is_near();
            let exit = if alone {
                self.step()
            } else if flags & bits::RF != 0 {
                self.resume()
            } else {
                self.run_blocks()
            };
            if let Some(exit) = exit {
                return exit;
            }
            if self.blocks.is_full() {
                self.forget_code();
            }
        }
    }

    /// Whether blocks could run past the end of the code segment: then each instruction is looked at by itself.
    fn code_limit_is_near(&self) -> bool {
        let limit = self.state.seg[super::state::seg::CS].limit;
        match self.mode {
            super::decode::Mode::Bits64 => false,
            super::decode::Mode::Bits32 => limit != u32::MAX,
            super::decode::Mode::Bits16 => limit < 0xffff,
        }
    }

    fn poll(&mut self, now: Tick) -> Pending {
        let cpu = self.index;
        let mut dma = std::mem::take(&mut self.dma);
        let pending = self.world().poll(now, cpu, &mut dma);
        for write in dma.drain(..) {
            self.dma_write(write.gpa, &write.bytes);
        }
        self.dma = dma;
        pending
    }

    /// Stores of a device: what is no RAM is lost.
    pub fn dma_write(&mut self, gpa: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = gpa.wrapping_add(done as u64);
            let n = (64 - (at & 63) as usize).min(bytes.len() - done);
            if let Some(page) = self.memory.page_index(at) {
                self.write_page(page, (at & 0xfff) as usize, &bytes[done..done + n]);
            }
            done += n;
        }
    }

    /// Delivers what is pending if the processor can take it now.
    fn take_interrupt(&mut self, pending: Pending) -> bool {
        if self.state.shadow != 0 || self.state.activity > activity::HALTED {
            return false;
        }
        let maskable = pending.interrupt && self.state.flags.interrupts();
        let nmi = pending.nmi && self.state.nmi_blocked == 0;
        if !maskable && !nmi {
            return false;
        }
        let now = self.tick();
        let cpu = self.index;
        self.attention = true;
        match self.world().interrupt(now, cpu, maskable) {
            None => false,
            Some(Interrupt::Vector(vector)) => {
                self.deliver_interrupt(vector);
                true
            }
            Some(Interrupt::Nmi) => {
                self.state.nmi_blocked = 1;
                self.deliver_interrupt(vector::NMI);
                true
            }
        }
    }

    fn deliver_interrupt(&mut self, vector: u8) {
        self.state.activity = activity::RUNNING;
        let rip = self.linear_rip();
        self.deliver_external(vector);
        self.event(rip, Event::Interrupt { vector });
        self.remaining -= 1;
    }

    /// The block at RIP, or the fault of fetching it; noted where notes are taken.
    fn find_block(&mut self, single: bool) -> Result<*const Block, Abort> {
        let found = self.find_block_unnoted(single);
        let rip = self.linear_rip();
        if let (Err(_), Some(touched)) = (&found, &mut self.touched) {
            touched.not_fetched.insert(rip >> 12);
        }
        let block = found?;
        if !single && self.mode != super::decode::Mode::Bits64 {
            // SAFETY: just found.
            let last = self.state.rip() + unsafe { (*block).bytes } as u64 - 1;
            if last > self.state.seg[super::state::seg::CS].limit as u64 {
                // Which instruction is the first to lie behind the limit shows when each runs by itself.
                return self.abort_with(AbortReason::NeedsStep);
            }
        }
        if let Some(touched) = &mut self.touched {
            // SAFETY: just found.
            let (key, bytes) = unsafe { ((*block).key, (*block).bytes) };
            touched.blocks.insert((key.physical, bytes));
        }
        Ok(block)
    }

    /// The block at RIP, or the fault of fetching it.
    fn find_block_unnoted(&mut self, single: bool) -> Result<*const Block, Abort> {
        let rip = self.state.rip();
        let linear = self.linear(rip);
        if !single && self.armed.instruction_hits(linear) != 0 {
            // Before all faults of fetching.
            return self.abort_with(AbortReason::Breakpoint);
        }
        if self.mode != super::decode::Mode::Bits64 {
            self.check_code_limit(rip)?;
        }
        if self.tlb.fetch(self.state.cpl == 3, linear).is_none() && self.at_breakpoint() {
            // Before the fetch sets an accessed bit.
            return self.abort_with(AbortReason::Breakpoint);
        }
        let physical = self.translate_fetch(linear)?;
        let key = Key {
            physical,
            mode: self.mode,
            single,
            limited: self.mode != super::decode::Mode::Bits64
                && self.state.seg[super::state::seg::CS].limit != u32::MAX,
        };
        let block = self.block_of(key, rip, linear)?;
        if key.limited {
            // SAFETY: just found.
            let last = rip + unsafe { (*block).bytes } as u64 - 1;
            if last > self.state.seg[super::state::seg::CS].limit as u64 {
                // Up to the limit by single instructions; one that crosses it faults.
                return if single {
                    self.general_protection()
                } else {
                    self.find_block_unnoted(true)
                };
            }
        }
        Ok(block)
    }

    /// The block of a key, from the cache or newly made.
    fn block_of(&mut self, key: Key, rip: u64, linear: u64) -> Result<*const Block, Abort> {
        let single = key.single;
        if let Some(block) = self.blocks.get(&key) {
            // SAFETY: the cache gives live blocks.
            let second = unsafe { (*block).second };
            match second {
                None => {
                    if !single {
                        self.blocks.set_jump(rip, block);
                    }
                    return Ok(block);
                }
                Some(page) => {
                    let next = (linear | 0xfff).wrapping_add(1);
                    if self.translate_fetch(next)? & !0xfff == page {
                        return Ok(block);
                    }
                }
            }
        }
        let block = self.build(key, rip)?;
        // SAFETY: just made.
        if !single && unsafe { (*block).second.is_none() } {
            self.blocks.set_jump(rip, block);
        }
        Ok(block)
    }

    /// The block at RIP by the jump table, or the long way.
    #[inline(always)]
    fn next_block(&mut self) -> Result<*const Block, Abort> {
        let rip = self.state.rip();
        if self.mode == super::decode::Mode::Bits64
            && let Some(physical) = self.tlb.fetch(self.state.cpl == 3, rip)
            && let Some(block) = self.blocks.jump(rip, physical, self.mode)
        {
            return Ok(block);
        }
        self.find_block(false)
    }

    /// Runs blocks until the budget is used up or something wants the caller's attention.
    fn run_blocks(&mut self) -> Option<Exit> {
        let Ok(mut block) = self.next_block() else {
            return self.after_abort(std::ptr::null());
        };
        loop {
            // SAFETY: blocks live until the cache is cleared, which happens only outside of this function.
            let current = unsafe { &*block };
            if current.ticks > self.remaining {
                return if self.remaining == 0 {
                    None
                } else {
                    self.step()
                };
            }
            let start = self.state.rip();
            // SAFETY: a block has at least one op.
            let first = unsafe { &*current.first };
            let flow = (first.handler.get())(self, first);
            match flow {
                Flow::Fallthrough | Flow::Taken => {
                    self.remaining -= current.ticks;
                    let link = &current.links[flow as usize];
                    if !link.get().is_null() {
                        block = link.get();
                        continue;
                    }
                    // Fetching sets accessed bits, which must not happen before its tick.
                    if self.remaining == 0 {
                        return None;
                    }
                    let Ok(next) = self.next_block() else {
                        return self.after_abort(std::ptr::null());
                    };
                    self.link(current, flow, next, start);
                    block = next;
                }
                Flow::Indirect => {
                    self.remaining -= current.ticks;
                    if self.remaining == 0 {
                        return None;
                    }
                    match self.next_block() {
                        Ok(next) => block = next,
                        Err(Abort) => return self.after_abort(std::ptr::null()),
                    }
                }
                Flow::Attention => {
                    self.remaining -= current.ticks;
                    return None;
                }
                Flow::Abort => return self.after_abort(block),
                Flow::Resync => {
                    let op = self.rewind();
                    if op.0 == 0 {
                        self.blocks.forget_jump(start);
                    }
                    return None;
                }
                Flow::Breakpoint => {
                    self.rewind();
                    // The budget is used up before the instruction: something may arrive that comes first.
                    if self.remaining == 0 {
                        return None;
                    }
                    return self.step();
                }
            }
        }
    }

    /// Remembers a successor on the same page, where no mapping can come between.
    fn link(&mut self, from: &Block, flow: Flow, to: *const Block, start: u64) {
        // SAFETY: as in `run_blocks`.
        let target = unsafe { &*to };
        let same_page = (start ^ self.state.rip()) & !0xfff == 0;
        if same_page
            && !from.key.limited
            && from.second.is_none()
            && target.second.is_none()
            && target.key.physical & !0xfff == from.key.physical & !0xfff
        {
            self.blocks.link(from, flow as usize, to);
        }
    }

    /// Puts RIP and the tick to the op that did not run. Gives its distance from the block's start in bytes.
    fn rewind(&mut self) -> (u64, u8) {
        // SAFETY: whoever leaves a block this way has set the op, and blocks live on.
        let op = unsafe { &*self.aborted_op };
        let rip = self.state.rip().wrapping_add(op.offset as u64);
        self.set_rip_masked(rip);
        self.remaining -= op.tick as u64;
        (op.offset as u64, op.flags)
    }

    /// Sets RIP outside of branches: 16-bit code runs on beyond FFFF, too, and into its segment's limit there.
    #[inline(always)]
    pub(super) fn set_rip_masked(&mut self, rip: u64) {
        let rip = match self.mode {
            super::decode::Mode::Bits64 => rip,
            super::decode::Mode::Bits32 | super::decode::Mode::Bits16 => rip & 0xffff_ffff,
        };
        self.state.set_rip(rip);
    }

    /// Whether a breakpoint that counts stands at the next instruction.
    fn at_breakpoint(&self) -> bool {
        !self.stops.is_empty()
            && self.stops.is_breakpoint(self.linear_rip())
            && self.pass_breakpoint != Some(self.tick())
    }

    /// Runs one instruction by itself, where everything is permitted because the tick is exact.
    fn step(&mut self) -> Option<Exit> {
        if self.at_breakpoint() {
            return Some(Exit::Breakpoint);
        }
        let breakpoints = self.instruction_breakpoints();
        if breakpoints != 0 {
            let page = self.linear_rip() >> 12;
            if let Some(touched) = &mut self.touched {
                touched.not_fetched.insert(page);
            }
            return self.fault(Fault::debug(breakpoints as u64));
        }
        self.stepping = true;
        let exit = self.run_single();
        self.stepping = false;
        exit
    }

    /// Runs the instruction that EFLAGS.RF is set for: as in blocks, but without looking at breakpoints.
    fn resume(&mut self) -> Option<Exit> {
        // The debugger's breakpoints hit at every iteration of a repetition.
        if !self.stops.is_empty() && self.stops.is_breakpoint(self.linear_rip()) {
            return self.step();
        }
        self.run_single()
    }

    /// Runs one instruction, which ends what the one before it held off, and gathers the traps of it.
    fn run_single(&mut self) -> Option<Exit> {
        let before = self.state.flags.other();
        let traps = self.state.pending_trap;
        self.after_stack_load = self.state.shadow == shadow::STACK;
        self.step_trap_lost = false;
        self.event_at.0 = self.linear_rip();
        self.state.shadow = 0;
        let Ok(block) = self.find_block(true) else {
            return self.after_abort(std::ptr::null());
        };
        // Instructions find RF clear; IRET and unfinished repetitions set it.
        self.state.flags.set_other(bits::RF, false);
        // SAFETY: as in `run_blocks`.
        let current = unsafe { &*block };
        let first = unsafe { &*current.first };
        if self.mode != super::decode::Mode::Bits64 {
            let last = self.state.rip() + current.bytes as u64 - 1;
            if self.check_code_limit(last).is_err() {
                return self.after_abort(std::ptr::null());
            }
        }
        let flow = (first.handler.get())(self, first);
        self.after_stack_load = false;
        match flow {
            Flow::Fallthrough | Flow::Taken | Flow::Indirect | Flow::Attention => {
                self.remaining -= 1;
            }
            Flow::Abort => {
                if before & bits::RF != 0 {
                    self.state.flags.set_other(bits::RF, true);
                }
                self.state.pending_trap = traps;
                return self.after_abort(block);
            }
            // The instruction has overwritten itself: it has run, and what follows is decoded anew. The op that
            // was not reached is the end of the block.
            Flow::Resync => {
                self.rewind();
            }
            Flow::Breakpoint => unreachable!("blocks of one instruction have no breakpoints"),
        }
        if before & bits::TF != 0 && !self.step_trap_lost {
            self.state.pending_trap |= pending::STEP;
        }
        None
    }

    /// Handles what kept an op, or the fetch of a block (`block` null), from completing.
    fn after_abort(&mut self, block: *const Block) -> Option<Exit> {
        let mut stack_operand = false;
        if !block.is_null() {
            let (_, flags) = self.rewind();
            stack_operand = flags & op_flags::STACK != 0;
        }
        match self.abort {
            AbortReason::NeedsStep => {
                debug_assert!(!self.stepping);
                if self.remaining == 0 {
                    None
                } else {
                    self.step()
                }
            }
            // The debugger's or the guest's.
            AbortReason::Breakpoint => self.step(),
            AbortReason::Fault(fault) => self.fault(fault),
            AbortReason::NotCanonical => {
                let vector = if stack_operand {
                    vector::SS
                } else {
                    vector::GP
                };
                self.fault(Fault::with_code(vector, 0))
            }
        }
    }

    fn fault(&mut self, fault: Fault) -> Option<Exit> {
        if self.remaining == 0 {
            // The fetch of the next block faults, but the budget is used up: it will fault again.
            return None;
        }
        // What the instruction did before it faulted is undone: it accessed nothing.
        self.watch_hit = None;
        self.deliver_fault(fault);
        self.remaining -= 1;
        self.attention = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;
    use crate::cpu::stops::Stops;
    use crate::cpu::testing::{CODE, Quiet, long_mode};

    /// Something may arrive at the tick asked for, and comes before the instruction there.
    #[test]
    fn a_breakpoint_at_the_tick_asked_for_is_not_reported_yet() {
        for before in 0..5 {
            let mut cpu = long_mode();
            cpu.memory.write(CODE, &[0x90; 16]);
            cpu.state.set_rip(CODE);
            cpu.set_stops(Stops::new([CODE + before], []));
            let start = cpu.tick();
            if before > 0 {
                assert_eq!(cpu.run(&mut Quiet, start + before, false), Exit::Tick);
            }
            assert_eq!(cpu.tick(), start + before);
            let exit = cpu.run(&mut Quiet, start + before + 1, false);
            assert_eq!((exit, cpu.tick()), (Exit::Breakpoint, start + before));
        }
    }
}
