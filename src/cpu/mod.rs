//! The x86-64 processor: executes the guest's instructions, exactly and deterministically.
//!
//! ```text
//! state   what a processor is                  mmu    linear addresses to RAM
//! decode  bytes to blocks of ops               isa    one file an instruction group
//! blocks  the cache of decoded blocks          exceptions  delivery of events, far control transfers
//! run     the loop around blocks, interrupts,    transfer, task, vm86  call gates, task switches, virtual-8086
//!         budgets
//! world   the only door to the outside
//! ```
//!
//! Nothing here knows the host's time, threads or files. Reverse execution does not exist here.

pub mod awaited;
pub mod blocks;
pub mod cpuid;
pub mod debug;
pub mod decode;
pub mod events;
pub mod exceptions;
pub mod features;
pub mod flags;
pub mod isa;
pub mod mmu;
pub mod msr;
pub mod op;
pub mod run;
pub mod segment;
pub mod state;
pub mod stops;
mod task;
#[cfg(test)]
pub mod testing;
pub mod touched;
mod transfer;
mod vm86;
pub mod world;

use crate::memory::Memory;
use crate::tick::Tick;
use awaited::Awaited;
use blocks::Blocks;
use cpuid::CpuModel;
use debug::Armed;
use events::Event;
use features::Features;
use flags::Width;
use mmu::tables::Tables;
use mmu::tlb::{Access, Tlb};
use op::{Op, op_flags};
use state::{State, gpr, rights, seg};
use stops::{Stops, WatchHit};
use touched::Touched;
use world::{Dma, World};

/// Version of what executing means: which tick comes when, and what it does to the state. To be raised with every
/// change of that, so that states kept from before are not taken for what this program would compute. (The layout of
/// the state has a version of its own.)
pub const BEHAVIOUR_VERSION: u32 = 2;

/// An instruction could not complete; [`Cpu::abort`] holds the reason. It has changed nothing but what the SDM says
/// a faulting instruction may have changed, so that it can run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort;

/// Why an instruction did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// It raised an exception.
    Fault(Fault),
    /// A memory operand has an address that is not canonical: #SS if its segment is SS, else #GP.
    NotCanonical,
    /// It touches what is not RAM, or a watchpoint: run it again alone.
    NeedsStep,
    /// A breakpoint stands at the instruction that was about to be fetched.
    Breakpoint,
}

/// Exception vectors (SDM volume 3, table 6-1).
pub mod vector {
    #![allow(missing_docs)]
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// An exception that an instruction raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub code: Option<u32>,
    /// For #PF: the linear address, which goes to CR2. For #DB: the causes, which go to DR6.
    pub address: u64,
}

impl Fault {
    /// An exception without error code.
    pub fn plain(vector: u8) -> Fault {
        Fault {
            vector,
            code: None,
            address: 0,
        }
    }

    /// An exception with error code.
    pub fn with_code(vector: u8, code: u32) -> Fault {
        Fault {
            vector,
            code: Some(code),
            address: 0,
        }
    }

    /// A page fault.
    pub fn page(address: u64, code: u32) -> Fault {
        Fault {
            vector: vector::PF,
            code: Some(code),
            address,
        }
    }
}

/// One processor with the memory it works on, ready to run.
///
/// Everything but `state`, `memory` and the debugger's `stops` is derived or belongs to the instruction that runs.
pub struct Cpu {
    /// What the processor is.
    pub state: State,
    /// With which rights data is accessed now (derived from the state).
    access: Access,
    /// Instruction length mode: see [`decode::Mode`] (derived).
    mode: decode::Mode,
    /// Runs one instruction at an exact tick: MMIO and watchpoints may happen.
    stepping: bool,
    /// Ask the world before the next instruction.
    attention: bool,
    /// Ticks from the start of the running block to `stop_at`.
    remaining: u64,
    /// The tick at which control must come back to the run loop.
    stop_at: Tick,
    /// Why the last abort.
    abort: AbortReason,
    /// The op that did not complete.
    aborted_op: *const Op,
    /// Number of this processor.
    pub index: usize,
    /// The watchpoint that the instruction just stepped has hit.
    watch_hit: Option<WatchHit>,
    /// What the watched bytes were before that, as far as there is room and they were mapped.
    watched_before: [u8; stops::BEFORE_BYTES],
    /// The event that a debugger wants to stop at and that the last tick has brought.
    event_hit: Option<Event>,
    /// Linear address of the instruction that runs alone, is interrupted, or has brought the last event; and the
    /// position after the last exception.
    event_at: (u64, Tick),
    /// The tick at which breakpoints are not looked at: where a debugger goes on from.
    pass_breakpoint: Option<Tick>,
    /// Guest RAM.
    pub memory: Memory,
    /// What a debugger wants.
    stops: Stops,
    /// The state that breakpoints wait for, if they wait for one.
    awaited: Option<Box<Awaited>>,
    /// What the guest's debug registers arm (derived).
    armed: Armed,
    /// The instruction that runs by itself comes after one that loaded SS.
    after_stack_load: bool,
    /// The instruction that runs by itself raises no single-step trap, although TF was set before it.
    step_trap_lost: bool,
    /// What CPUID says.
    model: CpuModel,
    /// What follows from that (derived).
    features: Features,
    blocks: Blocks,
    tables: Tables,
    new_tables: Vec<usize>,
    /// Set while `run` runs.
    world: Option<*mut (dyn World + 'static)>,
    dma: Vec<Dma>,
    /// Notes of what is touched, if somebody wants them.
    touched: Option<Box<Touched>>,
    tlb: Tlb,
}

// SAFETY: the raw pointers point into the processor's own blocks, or are set and used inside one `run` call.
unsafe impl Send for Cpu {}

impl Cpu {
    /// A processor after reset.
    pub fn new(memory: Memory, model: CpuModel) -> Box<Cpu> {
        let mut cpu = Box::new(Cpu {
            state: State::reset(),
            access: Access::Supervisor,
            mode: decode::Mode::Bits16,
            stepping: false,
            attention: true,
            remaining: 0,
            stop_at: 0,
            abort: AbortReason::NeedsStep,
            aborted_op: std::ptr::null(),
            index: 0,
            watch_hit: None,
            watched_before: [0; stops::BEFORE_BYTES],
            event_hit: None,
            event_at: (0, 0),
            pass_breakpoint: None,
            memory,
            stops: Stops::default(),
            awaited: None,
            armed: Armed::default(),
            after_stack_load: false,
            step_trap_lost: false,
            features: Features::of(&model),
            model,
            blocks: Blocks::new(),
            tables: Tables::default(),
            new_tables: Vec::new(),
            world: None,
            dma: Vec::new(),
            touched: None,
            tlb: Tlb::new(),
        });
        cpu.state_changed();
        cpu
    }

    /// The processor's CPUID table.
    pub fn model(&self) -> &CpuModel {
        &self.model
    }

    /// Makes it another processor.
    pub fn set_model(&mut self, model: CpuModel) {
        self.features = Features::of(&model);
        self.model = model;
        self.forget_code();
    }

    /// The current tick, at a boundary of instructions (or of the op that runs alone).
    #[inline(always)]
    pub fn tick(&self) -> Tick {
        self.stop_at - self.remaining
    }

    /// The tick of an op of the running block.
    #[inline(always)]
    pub fn tick_of(&self, op: &Op) -> Tick {
        self.tick() + op.tick as u64
    }

    /// Sets the position in time (after loading a state).
    pub fn set_tick(&mut self, tick: Tick) {
        self.stop_at = tick;
        self.remaining = 0;
    }

    /// Recomputes what is derived from the state: call after it was set from outside.
    pub fn state_changed(&mut self) {
        self.state.gpr[gpr::ZERO] = 0;
        self.state.seg_base[seg::NONE] = 0;
        self.forget_translations();
        self.update_mode();
        self.update_armed();
        self.attention = true;
    }

    /// Recomputes instruction length mode and access rights: after far transfers and changes of control registers.
    pub fn update_mode(&mut self) {
        self.mode = if self.state.code64() {
            decode::Mode::Bits64
        } else if self.state.seg[seg::CS].rights & rights::DB != 0 && self.state.protected() {
            decode::Mode::Bits32
        } else if self.state.seg[seg::CS].rights & rights::DB != 0 {
            // Unreal mode: the D bit stays in force until CS is loaded.
            decode::Mode::Bits32
        } else {
            decode::Mode::Bits16
        };
        self.update_access();
    }

    /// Replaces what a debugger wants to stop at.
    pub fn set_stops(&mut self, stops: Stops) {
        if self.stops == stops {
            return;
        }
        let old = std::mem::replace(&mut self.stops, stops);
        if old.breakpoints() != self.stops.breakpoints() {
            let changed: Vec<u16> = old
                .offsets()
                .symmetric_difference(self.stops.offsets())
                .copied()
                .collect();
            self.blocks.drop_offsets(&mut self.memory, &changed);
        }
        if old.watchpoints() != self.stops.watchpoints() {
            self.forget_translations();
        }
    }

    /// Lets breakpoints wait for a state, or for none: see [`Awaited`].
    pub fn set_awaited(&mut self, awaited: Option<Awaited>) {
        self.awaited = awaited.map(Box::new);
    }

    /// What breakpoints wait for.
    pub fn awaited(&self) -> Option<&Awaited> {
        self.awaited.as_deref()
    }

    /// The same, to add clues.
    pub fn awaited_mut(&mut self) -> Option<&mut Awaited> {
        self.awaited.as_deref_mut()
    }

    /// Notices an event: the instruction (or delivery) that brings it is complete but for its tick.
    #[cold]
    #[inline(never)]
    fn event(&mut self, rip: u64, event: Event) {
        if let Some(touched) = &mut self.touched {
            touched.events.add(&event);
        }
        if self.event_hit.is_none() && self.stops.catches(&event) {
            self.event_hit = Some(event);
            self.event_at.0 = rip;
        }
    }

    /// The instruction at which the event of the last [`run::Exit::Event`] happened: its own, or the one interrupted.
    pub fn event_rip(&self) -> u64 {
        self.event_at.0
    }

    /// Whether the tick before the position delivered an exception.
    pub fn has_faulted(&self) -> bool {
        self.event_at.1 == self.tick()
    }

    /// What the bytes of the watchpoint in the last [`run::Exit::Watchpoint`] were before its tick: the first ones.
    pub fn watched_before(&self) -> &[u8; stops::BEFORE_BYTES] {
        &self.watched_before
    }

    /// Runs past all stops, without forgetting them.
    pub fn ignore_stops(&mut self, ignore: bool) {
        self.stops.ignored = ignore;
    }

    /// What the debugger wants to stop at.
    pub fn stops(&self) -> &Stops {
        &self.stops
    }

    /// Linear address of an op of the running block.
    fn linear_of(&self, op: &Op) -> u64 {
        self.linear(self.state.rip().wrapping_add(op.offset as u64))
    }

    /// Size of code in bits: 16, 32 or 64.
    pub fn code_bits(&self) -> u32 {
        self.mode as u32
    }

    /// RIP as a linear address.
    #[inline(always)]
    fn linear(&self, rip: u64) -> u64 {
        if self.mode == decode::Mode::Bits64 {
            rip
        } else {
            self.state.seg_base[seg::CS].wrapping_add(rip) & 0xffff_ffff
        }
    }

    /// Linear address of the next instruction.
    pub fn linear_rip(&self) -> u64 {
        self.linear(self.state.rip())
    }

    /// The world, while running.
    #[inline]
    fn world(&mut self) -> &mut dyn World {
        let world = self.world.expect("instructions run inside `run`");
        // SAFETY: `run` sets the pointer from a `&mut` that it holds until it has cleared it.
        unsafe { &mut *world }
    }

    #[cold]
    #[inline(never)]
    fn abort_with<T>(&mut self, reason: AbortReason) -> Result<T, Abort> {
        self.abort = reason;
        Err(Abort)
    }

    /// Raises an exception without error code.
    #[cold]
    pub fn raise<T>(&mut self, vector: u8) -> Result<T, Abort> {
        self.abort_with(AbortReason::Fault(Fault::plain(vector)))
    }

    /// Raises an exception with an error code.
    #[cold]
    pub fn raise_code<T>(&mut self, vector: u8, code: u32) -> Result<T, Abort> {
        self.abort_with(AbortReason::Fault(Fault::with_code(vector, code)))
    }

    /// #GP(0).
    #[cold]
    pub fn general_protection<T>(&mut self) -> Result<T, Abort> {
        self.raise_code(vector::GP, 0)
    }

    /// #UD.
    #[cold]
    pub fn undefined<T>(&mut self) -> Result<T, Abort> {
        self.raise(vector::UD)
    }

    /// A general register operand by its byte offset (`Op::dst` and the like).
    #[inline(always)]
    pub fn reg<W: Width>(&self, offset: u8) -> W {
        debug_assert!(offset as usize + W::BYTES <= size_of_val(&self.state.gpr));
        // SAFETY: the decoder makes offsets of the 18 slots only. The host is little-endian (checked in `decode`).
        unsafe {
            self.state
                .gpr
                .as_ptr()
                .cast::<u8>()
                .add(offset as usize)
                .cast::<W>()
                .read_unaligned()
        }
    }

    /// Sets a general register operand; 32-bit operands clear the upper half.
    #[inline(always)]
    pub fn set_reg<W: Width>(&mut self, offset: u8, value: W) {
        debug_assert!(offset as usize + 8 <= size_of_val(&self.state.gpr) || W::BYTES < 4);
        // SAFETY: as in `reg`; offsets of 32-bit operands are multiples of 8.
        unsafe {
            let at = self
                .state
                .gpr
                .as_mut_ptr()
                .cast::<u8>()
                .add(offset as usize);
            if W::BITS == 32 {
                at.cast::<u64>().write_unaligned(value.to_u64());
            } else {
                at.cast::<W>().write_unaligned(value);
            }
        }
    }

    /// Offset part of the address of the memory operand, 64-bit address size.
    #[inline(always)]
    fn offset64(&self, op: &Op) -> u64 {
        let gpr = &self.state.gpr;
        debug_assert!(op.base < 20 && op.index < 20);
        // SAFETY: the decoder makes slots below 20 only.
        unsafe {
            gpr.get_unchecked(op.base as usize)
                .wrapping_add(gpr.get_unchecked(op.index as usize) << (op.scale & 3))
                .wrapping_add(op.disp as i64 as u64)
        }
    }

    /// Linear address of the memory operand. (Segment checks, where there are any, were done by an op before: see
    /// `decode::prepare_address`. What the access is does not matter then.)
    #[inline(always)]
    pub fn address(&mut self, op: &Op, _bytes: usize, _write: bool) -> Result<u64, Abort> {
        debug_assert!(op.seg < 8);
        // SAFETY: the decoder makes slots below 7 only.
        let base = unsafe { *self.state.seg_base.get_unchecked(op.seg as usize) };
        Ok(base.wrapping_add(self.offset64(op)))
    }

    /// The effective address (the offset in its segment), cut to the address size: LEA.
    #[inline(always)]
    pub fn effective_address(&self, op: &Op) -> u64 {
        let mut offset = self.offset64(op);
        if op.flags & op_flags::SLOW_ADDRESS != 0 {
            if op.base as usize == gpr::RIP {
                offset = offset.wrapping_add(op.len as u64);
            }
            if op.has(op_flags::ADDRESS32) {
                offset &= 0xffff_ffff;
            } else if op.has(op_flags::ADDRESS16) {
                offset &= 0xffff;
            }
        }
        offset
    }

    /// Loads the memory operand.
    #[inline(always)]
    pub fn load<T: bytemuck::Pod>(&mut self, op: &Op) -> Result<T, Abort> {
        let address = self.address(op, size_of::<T>(), false)?;
        self.read(address)
    }

    /// Stores to the memory operand.
    #[inline(always)]
    pub fn store<T: bytemuck::Pod>(&mut self, op: &Op, value: T) -> Result<(), Abort> {
        let address = self.address(op, size_of::<T>(), true)?;
        self.write(address, value)
    }

    /// Loads the memory operand, computes, and stores: what LOCK prefixes make atomic is so anyway.
    #[inline(always)]
    pub fn update<T: bytemuck::Pod>(
        &mut self,
        op: &Op,
        f: impl FnOnce(&mut Cpu, T) -> T,
    ) -> Result<(), Abort> {
        let address = self.address(op, size_of::<T>(), true)?;
        let (host, old) = self.begin_update::<T>(address)?;
        // The store is known to succeed, or to abort before anything has changed: flags that `f` sets are
        // restored where the slow way still has to be taken.
        if host.is_null() {
            let flags = self.state.flags;
            let new = f(self, old);
            return self
                .write(address, new)
                .inspect_err(|_| self.state.flags = flags);
        }
        let new = f(self, old);
        self.finish_update(host, address, new)
    }

    /// Stack pointer for an access `below` bytes under it, as a linear address, and the new value of RSP.
    #[inline(always)]
    fn stack(&mut self, below: i64, bytes: usize, write: bool) -> Result<(u64, u64), Abort> {
        let rsp = self.state.gpr[gpr::RSP];
        if self.mode == decode::Mode::Bits64 {
            let new = rsp.wrapping_sub(below as u64);
            return Ok((new, new));
        }
        self.stack_legacy(rsp, below, bytes, write)
    }

    #[cold]
    #[inline(never)]
    fn stack_legacy(
        &mut self,
        rsp: u64,
        below: i64,
        bytes: usize,
        write: bool,
    ) -> Result<(u64, u64), Abort> {
        let mask = if self.state.seg[seg::SS].rights & rights::DB != 0 {
            0xffff_ffff
        } else {
            0xffff
        };
        let offset = rsp.wrapping_sub(below as u64) & mask;
        let address = self.segment_address(seg::SS, offset, bytes, write)?;
        Ok((address, rsp & !mask | offset))
    }

    /// Pushes; RSP changes only when the store has succeeded.
    #[inline(always)]
    pub fn push<W: Width>(&mut self, value: W) -> Result<(), Abort> {
        let (address, rsp) = self.stack(W::BYTES as i64, W::BYTES, true)?;
        self.write(address, value)
            .inspect_err(|_| self.aborted_on_stack())?;
        self.state.gpr[gpr::RSP] = rsp;
        Ok(())
    }

    /// The access that has just failed went through the stack pointer: a bad address is #SS then.
    #[cold]
    fn aborted_on_stack(&mut self) {
        if self.abort == AbortReason::NotCanonical {
            self.abort = AbortReason::Fault(Fault::with_code(vector::SS, 0));
        }
    }

    /// The value `skip` bytes above the top of the stack.
    #[inline(always)]
    pub fn peek<W: Width>(&mut self, skip: u64) -> Result<W, Abort> {
        let (address, _) = self.stack(-(skip as i64), W::BYTES, false)?;
        self.read(address).inspect_err(|_| self.aborted_on_stack())
    }

    /// Moves RSP up by `bytes`, within the stack's address size.
    #[inline(always)]
    pub fn release(&mut self, bytes: u64) {
        let rsp = self.state.gpr[gpr::RSP];
        let new = rsp.wrapping_add(bytes);
        self.state.gpr[gpr::RSP] = if self.mode == decode::Mode::Bits64 {
            new
        } else if self.state.seg[seg::SS].rights & rights::DB != 0 {
            new & 0xffff_ffff
        } else {
            rsp & !0xffff | new & 0xffff
        };
    }

    /// Drops decoded code that a store has overwritten.
    #[cold]
    fn code_written(&mut self, page: usize, offset: usize, bytes: usize) {
        self.blocks.written(&mut self.memory, page, offset, bytes);
    }

    /// Begins to take notes of what is touched. Gives those taken so far.
    pub fn take_notes(&mut self) -> Option<Box<Touched>> {
        let written = self.tlb.take_stored();
        self.tables.clear(&mut self.memory);
        self.blocks.forget_ways();
        let mut touched = self.touched.replace(Box::default())?;
        touched.written = written.unwrap_or_default();
        Some(touched)
    }

    /// Takes no notes any more.
    pub fn drop_notes(&mut self) {
        if self.touched.is_some() {
            self.touched = None;
            self.tlb.drop_stored();
        }
    }

    /// Forgets all decoded code, for RAM that was changed from outside.
    pub fn forget_code(&mut self) {
        self.blocks.clear(&mut self.memory);
    }

    /// The page of RAM was replaced from outside (a checkpoint was restored, a device wrote): drops what was
    /// derived from its old content. Translations must be forgotten separately.
    pub fn page_replaced(&mut self, page: usize) {
        self.blocks.written(&mut self.memory, page, 0, 4096);
    }
}
