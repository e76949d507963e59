//! What a debugger can ask of a recording: the line between the timeline and those who serve it to people.
//!
//! The GDB server and its `monitor` commands know a recording only through [`Debuggee`]. Everything here is
//! plain data: no protocol, no sockets, no engine.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::bookmarks::Bookmarks;
pub use crate::cpu::events::{Event, EventSet};
use crate::tick::{GuestNs, Tick};

/// The registers of one processor as a debugger shows them. Plain values, no lazy flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// In the order of instruction encoding: rax rcx rdx rbx rsp rbp rsi rdi r8 ... r15.
    pub gpr: [u64; 16],
    /// Offset of the next instruction within CS (CS has base 0 in long mode).
    pub rip: u64,
    /// All 64 bits, bit 1 set.
    pub rflags: u64,
    /// Code segment selector.
    pub cs: u16,
    /// Stack segment selector.
    pub ss: u16,
    /// Data segment selector.
    pub ds: u16,
    /// Extra segment selector.
    pub es: u16,
    /// FS selector.
    pub fs: u16,
    /// GS selector.
    pub gs: u16,
    /// Base of FS (IA32_FS_BASE).
    pub fs_base: u64,
    /// Base of GS (IA32_GS_BASE).
    pub gs_base: u64,
    /// What SWAPGS would put into the base of GS (IA32_KERNEL_GS_BASE).
    pub k_gs_base: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 2: the address of the last page fault.
    pub cr2: u64,
    /// Control register 3: the page table root.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Control register 8: the task priority, 0 to 15.
    pub cr8: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// The x87 stack from ST(0) on, each an 80-bit little-endian extended float.
    pub st: [[u8; 10]; 8],
    /// x87 control word.
    pub fctrl: u16,
    /// x87 status word, TOP included.
    pub fstat: u16,
    /// x87 tag word in its full form, two bits a physical register.
    pub ftag: u16,
    /// Segment of the last x87 instruction.
    pub fiseg: u16,
    /// Offset of the last x87 instruction.
    pub fioff: u32,
    /// Segment of the last x87 operand.
    pub foseg: u16,
    /// Offset of the last x87 operand.
    pub fooff: u32,
    /// Opcode of the last x87 instruction, 11 bits.
    pub fop: u16,
    /// XMM0 to XMM15, bit 0 of the value is bit 0 of the register.
    pub xmm: [u128; 16],
    /// SSE control and status.
    pub mxcsr: u32,
    /// Bits 128 to 255 of YMM0 to YMM15.
    pub ymm_high: [u128; 16],
    /// Bases of ES, CS, SS and DS, in this order (0 in 64-bit mode, but for stale ones).
    pub seg_base: [u64; 4],
    /// Limits of ES, CS, SS, DS, FS and GS in bytes, in this order.
    pub seg_limit: [u32; 6],
    /// Global descriptor table.
    pub gdt: Table,
    /// Interrupt descriptor table.
    pub idt: Table,
    /// Local descriptor table.
    pub ldt: Table,
    /// Its selector.
    pub ldtr: u16,
    /// Task state segment.
    pub tss: Table,
    /// Its selector.
    pub tr: u16,
    /// Debug registers; 4 and 5 are not used.
    pub dr: [u64; 8],
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR: where SYSCALL goes.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_SYSENTER_CS, ESP, EIP.
    pub sysenter: [u64; 3],
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// The position.
    pub tick: Tick,
    /// Guest time at the position.
    pub time: GuestNs,
}

/// Where a table that a register points to lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Linear address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u32,
}

/// Which way to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the end of the recording.
    Forward,
    /// Towards its start.
    Backward,
}

/// The accesses that trigger a watchpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatchKind {
    /// Stores.
    Write,
    /// Loads (an instruction fetch is none).
    Read,
    /// Both.
    Access,
}

/// A range of virtual memory whose accesses stop a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watchpoint {
    /// First byte, a virtual address.
    pub addr: u64,
    /// Length in bytes, at least 1. `addr + len` may wrap around.
    pub len: u64,
    /// What triggers it.
    pub kind: WatchKind,
}

/// What a condition can look at: the position as one processor sees it.
pub trait Scene {
    /// A general register, numbered as in [`Registers::gpr`]: what conditions mostly ask for, at a fraction of the
    /// price of all registers.
    fn gpr(&mut self, number: usize) -> u64;
    /// Registers of the processor, but [`Registers::time`] may be missing: it takes longer than all others.
    fn registers(&mut self) -> &Registers;
    /// Guest time.
    fn time(&self) -> GuestNs;
    /// As [`Debuggee::read_virtual`] for the processor.
    fn read_virtual(&self, addr: u64, out: &mut [u8]) -> usize;
    /// As [`Debuggee::read_physical`].
    fn read_physical(&self, addr: u64, out: &mut [u8]) -> usize;
}

/// A position of any debuggee as a scene.
pub struct SceneOf<'a> {
    debuggee: &'a dyn Debuggee,
    cpu: usize,
    registers: Option<Registers>,
}

impl<'a> SceneOf<'a> {
    /// What a processor sees now.
    pub fn new(debuggee: &'a dyn Debuggee, cpu: usize) -> Self {
        Self {
            debuggee,
            cpu,
            registers: None,
        }
    }
}

impl Scene for SceneOf<'_> {
    fn gpr(&mut self, number: usize) -> u64 {
        self.registers().gpr[number]
    }

    fn registers(&mut self) -> &Registers {
        self.registers
            .get_or_insert_with(|| self.debuggee.registers(self.cpu))
    }

    fn time(&self) -> GuestNs {
        self.debuggee.guest_time()
    }

    fn read_virtual(&self, addr: u64, out: &mut [u8]) -> usize {
        let wanted = out.len();
        self.debuggee.read_virtual(self.cpu, addr, out).min(wanted)
    }

    fn read_physical(&self, addr: u64, out: &mut [u8]) -> usize {
        self.debuggee.read_physical(addr, out)
    }
}

/// Decides at each hit of a breakpoint whether it counts. Asked within a run, up to millions of times, and never
/// about anything but the position: the answer must be a function of that.
pub trait Condition: Send + Sync {
    /// Whether a run in this direction stops at a breakpoint that it has met.
    fn holds(&self, addr: u64, direction: Direction, scene: &mut dyn Scene) -> bool;

    /// The same for a watchpoint, looking at the position just after the access in both directions.
    fn watch_holds(&self, _watched: (u64, WatchKind), _scene: &mut dyn Scene) -> bool {
        true
    }

    /// The same for an event, looking at the position just after it in both directions.
    fn event_holds(&self, _event: &Event, _scene: &mut dyn Scene) -> bool {
        true
    }
}

/// A condition or none. Two are equal when they are the same one.
#[derive(Clone, Default)]
pub struct Conditions(pub Option<Arc<dyn Condition>>);

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "some" } else { "none" })
    }
}

impl PartialEq for Conditions {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Conditions {}

/// Where a run stops before history does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Linear addresses of instructions; sorted, without duplicates. Which hits count say the conditions.
    pub breakpoints: Vec<u64>,
    /// Sorted, without duplicates.
    pub watchpoints: Vec<Watchpoint>,
    /// Interrupts, exceptions, system calls and the like.
    pub events: EventSet,
    /// Says which hits count; none: all do.
    pub conditions: Conditions,
}

impl Stops {
    /// Whether a hit of a breakpoint counts.
    pub fn counts(&self, addr: u64, direction: Direction, scene: &mut dyn Scene) -> bool {
        match &self.conditions.0 {
            Some(condition) => condition.holds(addr, direction, scene),
            None => true,
        }
    }

    /// Whether there is nothing to stop at.
    pub fn is_empty(&self) -> bool {
        self.breakpoints.is_empty() && self.watchpoints.is_empty() && self.events.is_empty()
    }
}

/// Why a run or a step came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The instruction at this address is the next one to be executed.
    Breakpoint {
        /// As it stands in [`Stops::breakpoints`].
        addr: u64,
    },
    /// A watched range was accessed: the position is just after the access in a forward run, just before it in
    /// a backward one.
    Watchpoint {
        /// As it stands in [`Watchpoint::addr`].
        addr: u64,
        /// As it stands in [`Watchpoint::kind`].
        kind: WatchKind,
    },
    /// An event happened: the position is just after it in a forward run, just before it in a backward one.
    Event(Event),
    /// The step is done.
    Stepped,
    /// The position is the start of the recording, and the run wanted to go on.
    HistoryStart,
    /// The position is the end of the recording, and the run wanted to go on.
    HistoryEnd,
    /// `interrupt` was set.
    Interrupted,
    /// The replay differs from the recording; in words, one line or more. The position is the last good one.
    Divergence(String),
}

/// The end of a run or a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Why.
    pub reason: StopReason,
    /// The processor that it concerns.
    pub cpu: usize,
}

/// Which of the hits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The first ones.
    First(usize),
    /// The last ones.
    Last(usize),
    /// All of them counted, some of the first and some of the last told.
    All {
        /// So many of the first.
        first: usize,
        /// So many of the last.
        last: usize,
    },
}

/// A question about history: where in it are these stops hit?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is looked for.
    pub stops: Stops,
    /// The first tick that is looked at.
    pub from: Tick,
    /// The first tick that is not looked at any more.
    pub until: Tick,
    /// Which hits.
    pub want: Want,
}

/// A hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The tick that does it: at this position it comes next.
    pub tick: Tick,
    /// Guest time there.
    pub time: GuestNs,
    /// Linear address of the instruction (for an interrupt: of the one interrupted).
    pub rip: u64,
    /// Which stop.
    pub reason: StopReason,
    /// Of a watchpoint's bytes (of the first [`FOUND_BYTES_MAX`] of them): the content before the tick ...
    pub before: Vec<u8>,
    /// ... and after it.
    pub after: Vec<u8>,
}

/// So many bytes of a watchpoint are told.
pub const FOUND_BYTES_MAX: usize = crate::cpu::stops::BEFORE_BYTES;

/// The answer to a [`Question`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// How many hits there are (with [`Want::First`] and [`Want::Last`]: how many are told).
    pub count: u64,
    /// The first hits, in order.
    pub first: Vec<Found>,
    /// The last hits, in order, none of which is in `first`.
    pub last: Vec<Found>,
}

/// What was recorded, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// What the machine is made of: pairs of name and value such as ("memory", "256 MiB"), in order of display.
    pub machine: Vec<(String, String)>,
    /// Events in the recording by kind, in order of display.
    pub events: Vec<(String, u64)>,
    /// Length of the recording in bytes.
    pub bytes: u64,
    /// Number of digests that replay checks.
    pub digests: u64,
    /// Why the recording ended.
    pub end: String,
}

/// A recording at a position that a debugger can move.
///
/// A position `t` (see [`crate::tick`]) is the state before tick `t` happens, from `start()` to `end()`, both
/// included; at `end()` there is nothing left to execute. All answers are functions of the position alone.
///
/// `interrupt` may be set by another thread at any time; a call that takes it looks at it at least every
/// few milliseconds and then comes back at some position between where it was and where it was going.
pub trait Debuggee {
    /// Where the recording stands.
    fn position(&self) -> Tick;
    /// The first position.
    fn start(&self) -> Tick;
    /// The last position.
    fn end(&self) -> Tick;
    /// Guest time here.
    fn guest_time(&self) -> GuestNs;
    /// Number of processors, at least 1; constant.
    fn cpus(&self) -> usize;
    /// The processor that executes the next tick (at the end of history: that executed the last).
    fn current_cpu(&self) -> usize;
    /// Registers of a processor here.
    fn registers(&self, cpu: usize) -> Registers;
    /// Reads from linear address `addr` on through the page tables of `cpu`, without any effect on the guest.
    /// Returns the number of bytes read before the first unmapped one. Must allow `addr + out.len()` to wrap.
    fn read_virtual(&self, cpu: usize, addr: u64, out: &mut [u8]) -> usize;
    /// Reads RAM from guest-physical address `addr` on; returns the number of bytes read before the first that is
    /// not RAM.
    fn read_physical(&self, addr: u64, out: &mut [u8]) -> usize;
    /// Goes to a position. Outside the recording is an error, and so is a divergence on the way; the position is
    /// then the one nearest to the target that can be shown, or unchanged.
    fn seek(&mut self, tick: Tick, interrupt: &AtomicBool) -> Result<(), String>;
    /// Executes up to and including the next tick of `cpu` (other processors may run before it). Breakpoints do not
    /// stop it, watchpoints that the executed ticks hit are reported instead of `Stepped`.
    fn step(&mut self, cpu: usize, stops: &Stops, interrupt: &AtomicBool) -> Stop;
    /// Goes back to before the last tick of `cpu`. Watchpoints that the undone ticks hit are reported instead of
    /// `Stepped`.
    fn reverse_step(&mut self, cpu: usize, stops: &Stops, interrupt: &AtomicBool) -> Stop;
    /// Runs to the next stop strictly after the current position (strictly before it, when backward): a breakpoint at
    /// the current position does not hold the run up, so that calling it again always goes on.
    fn run(&mut self, direction: Direction, stops: &Stops, interrupt: &AtomicBool) -> Stop;
    /// Answers a question about all of history. The position stays. An access that faults and leaves the bytes as they
    /// were is no hit of a watchpoint here: it will be made again.
    fn ask(&mut self, question: &Question, interrupt: &AtomicBool) -> Result<Answers, String>;
    /// The user's bookmarks.
    fn bookmarks(&mut self) -> &mut Bookmarks;
    /// Recorded events around the position, in words: so many before it, and so many from it on.
    fn recorded_events(&self, before: usize, after: usize) -> Vec<(Tick, String)>;
    /// What was recorded.
    fn describe(&self) -> Description;
    /// The mode of a processor here, in words: "real", "protected 32-bit", "long 64-bit" ...
    fn mode(&self, cpu: usize) -> &'static str;
    /// The last recorded event before this position, in words, with its tick.
    fn last_event(&self) -> Option<(Tick, String)>;
}
