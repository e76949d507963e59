//! Tasks, taken in turns by the timer. The interrupted task's registers are a `Frame` on the interrupt stack: a
//! switch puts them away and puts the next task's frame in their place.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::interrupts::{self, Frame};
use crate::kernel;
use crate::recorder::What;

const TASKS: usize = 8;
const STACK_BYTES: usize = 16384;
/// Timer interrupts that a task may run before the next one gets its turn.
const SLICE: u64 = 4;

#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);

#[derive(Clone, Copy)]
struct Task {
    name: &'static str,
    frame: Frame,
    /// The task sleeps until this many timer interrupts have happened.
    wake_at: u64,
}

const NO_FRAME: Frame = Frame {
    vectors: [0; 512],
    general: [0; 15],
    vector: 0,
    error: 0,
    rip: 0,
    cs: 0,
    rflags: 0,
    rsp: 0,
    ss: 0,
};
const NO_TASK: Task = Task {
    name: "idle",
    frame: NO_FRAME,
    wake_at: 0,
};

/// Task 0 is the idle task.
static mut TASK: [Task; TASKS] = [NO_TASK; TASKS];
static mut STACKS: [Stack; TASKS] = [const { Stack([0; STACK_BYTES]) }; TASKS];
static COUNT: AtomicUsize = AtomicUsize::new(1);
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static NOW: AtomicU64 = AtomicU64::new(0);
static SWITCHES: AtomicU64 = AtomicU64::new(0);

/// Timer interrupts since the start.
pub fn now() -> u64 {
    NOW.load(Ordering::Relaxed)
}

/// Task switches since the start.
pub fn switches() -> u64 {
    SWITCHES.load(Ordering::Relaxed)
}

/// Number of the task that runs.
pub fn current() -> usize {
    CURRENT.load(Ordering::Relaxed)
}

/// Name of the task that runs.
pub fn current_name() -> &'static str {
    // SAFETY: names are set before the first switch.
    unsafe { TASK[current()].name }
}

/// Makes a task that starts at `body`.
pub fn spawn(name: &'static str, body: fn() -> !) {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    assert!(number < TASKS, "too many tasks");
    let mut frame = NO_FRAME;
    frame.vectors[0..2].copy_from_slice(&0x037f_u16.to_le_bytes()); // x87 control word
    frame.vectors[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes()); // MXCSR
    frame.rip = body as usize as u64;
    frame.cs = 0x08;
    frame.ss = 0x10;
    frame.rflags = 0x202;
    // SAFETY: nothing runs yet but this.
    unsafe {
        // As a call would leave it: the stack 8 bytes below a multiple of 16.
        frame.rsp = (&raw const STACKS[number]) as u64 + STACK_BYTES as u64 - 8;
        TASK[number] = Task {
            name,
            frame,
            wake_at: 0,
        };
    }
}

/// Starts taking turns; what called this is the idle task.
pub fn run() -> ! {
    loop {
        // SAFETY: an idle processor waits for interrupts.
        unsafe { asm!("sti", "hlt", options(nomem, nostack)) }
        yield_now();
    }
}

/// Lets the other tasks have their turns.
pub fn yield_now() {
    // SAFETY: the interrupt gives back all registers.
    unsafe { asm!("int 0x80") }
}

/// Sleeps for `ticks` timer interrupts.
pub fn sleep(ticks: u64) {
    interrupts::without(|| {
        // SAFETY: interrupts are off, so that the entry is not in use.
        unsafe { TASK[current()].wake_at = now() + ticks }
    });
    yield_now();
}

/// The timer's interrupt.
pub fn tick(frame: &mut Frame) {
    let now = NOW.fetch_add(1, Ordering::Relaxed) + 1;
    kernel().recorder.note(What::Tick);
    if now % SLICE == 0 {
        switch(frame);
    }
}

/// Puts the frame of the next task that does not sleep in the place of `frame`.
pub fn switch(frame: &mut Frame) {
    let old = current();
    let count = COUNT.load(Ordering::Relaxed);
    let now = now();
    // SAFETY: interrupts are off here; the tasks table is touched with interrupts off only.
    unsafe {
        let awake = |number: &usize| *number != 0 && TASK[*number].wake_at <= now;
        let new = (old + 1..count)
            .chain(1..=old.min(count - 1))
            .find(awake)
            .unwrap_or(0);
        if new != old {
            kernel().recorder.note(What::Switch);
            SWITCHES.fetch_add(1, Ordering::Relaxed);
            TASK[old].frame = *frame;
            *frame = TASK[new].frame;
            CURRENT.store(new, Ordering::Relaxed);
        }
    }
}
