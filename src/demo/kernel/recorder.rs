//! The flight recorder: the last few things that happened, kept for the day of a panic.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::scheduler;

/// Events that are kept.
pub const EVENTS: usize = 128;

/// What happened.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum What {
    Tick = 1,
    Switch,
    DayFilled,
    Transfer,
    Refused,
    DayClosed,
    Panic,
}

/// When, in which task, what, and a check of these by which the reader of a memory dump knows a slot that was never
/// filled: 32, 8, 8 and 16 bits.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Event(u64);

impl Event {
    const NOTHING: Event = Event(0);

    /// An event of now, in the task that runs.
    fn new(what: What) -> Event {
        let body = (scheduler::now() as u32 as u64) << 16
            | (scheduler::current() as u64) << 8
            | what as u64;
        let check = body ^ body >> 16 ^ body >> 32 ^ 0x5a5a;
        Event(body << 16 | check & 0xffff)
    }
}

/// A ring: when it is full, the oldest event gives way.
#[repr(C)]
pub struct Recorder {
    next: AtomicUsize,
    events: UnsafeCell<[Event; EVENTS]>,
}

// SAFETY: every slot is claimed by exactly one writer.
unsafe impl Sync for Recorder {}

impl Recorder {
    pub const fn new() -> Recorder {
        Recorder {
            next: AtomicUsize::new(0),
            events: UnsafeCell::new([Event::NOTHING; EVENTS]),
        }
    }

    /// Notes that something happened. Tasks and interrupt handlers call this at any time and need no lock: a slot is
    /// claimed by one atomic addition, so that no two writers ever get the same one.
    pub fn note(&self, what: What) {
        if self.next.load(Ordering::Relaxed) >= EVENTS {
            self.next.store(0, Ordering::Relaxed);
        }
        let event = Event::new(what);
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let slot = self.events.get().cast::<Event>().wrapping_add(index);
        // SAFETY: the index was checked, and the slot is ours alone.
        unsafe { *slot = event };
    }
}
