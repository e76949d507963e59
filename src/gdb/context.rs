//! What one GDB session is about: the recording, and what this GDB has chosen and set.

use crate::gdb::breakpoints::Breakpoints;
use crate::gdb::syntax::Thread;
use crate::guest::AtPosition;
use crate::guest::linux::running::Running;
use crate::monitor::Settings;
use crate::tick::Tick;
use crate::timeline::api::{Debuggee, Stops};

/// How GDB wants the machine to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// One step of a processor.
    Step { cpu: usize },
    /// Steps of a processor while its rip is in `start..end`; at least one.
    StepRange { cpu: usize, start: u64, end: u64 },
    /// Forward to the next stop.
    Continue,
    /// One step of a processor, backward.
    ReverseStep { cpu: usize },
    /// Backward to the next stop.
    ReverseContinue,
}

/// A session's state. Position and contents of the recording belong to the debuggee and outlive it.
pub struct Context<'d> {
    /// The recording.
    pub debuggee: &'d mut dyn Debuggee,
    /// Set by Z, removed by z.
    pub breakpoints: Breakpoints,
    /// The processor that GDB looks at: chosen by Hg, or the one of the last stop.
    pub selected: usize,
    /// What monitor commands have set. What they have armed takes the next resumption, whatever it is: GDB learns of a
    /// new position in no other way than by a stop.
    pub settings: Settings,
    /// The system call that the last stop is about.
    pub call: Option<u64>,
    /// The table of `info os` that GDB reads in parts: position and name, and its text.
    pub table: Option<((Tick, Vec<u8>), String)>,
    /// The resumption that GDB asked for just now.
    pub plan: Option<Plan>,
    /// Addresses of memory packets are guest-physical.
    pub physical: bool,
    /// Thread ids are written with a process.
    pub multiprocess: bool,
}

impl<'d> Context<'d> {
    /// The state at the start of a session.
    pub fn new(debuggee: &'d mut dyn Debuggee) -> Self {
        let selected = debuggee.current_cpu();
        Self {
            debuggee,
            breakpoints: Breakpoints::default(),
            selected,
            settings: Settings::default(),
            call: None,
            table: None,
            plan: None,
            physical: false,
            multiprocess: false,
        }
    }

    /// What the machine is to stop at.
    pub fn stops(&mut self) -> Stops {
        let debuggee = &*self.debuggee;
        if let Some(calls) = &mut self.breakpoints.calls
            && calls.running.is_none()
        {
            // Where no Linux is to be seen yet, returns are not told of.
            calls.running = Running::find(&AtPosition(debuggee), self.selected).ok();
        }
        self.breakpoints.stops(&self.settings)
    }

    /// How GDB calls a processor.
    pub fn thread_id(&self, cpu: usize) -> String {
        if self.multiprocess {
            format!("p1.{:x}", cpu + 1)
        } else {
            format!("{:x}", cpu + 1)
        }
    }

    /// The processor that a thread id means, if it exists; all and any mean the selected one.
    pub fn cpu_of(&self, thread: Thread) -> Option<usize> {
        match thread {
            Thread::All | Thread::Any => Some(self.selected),
            Thread::Cpu(cpu) => (cpu < self.debuggee.cpus()).then_some(cpu),
        }
    }

    /// Reads memory of the kind that GDB looks at; returns how many bytes could be read from the start on.
    pub fn read_memory(&self, addr: u64, out: &mut [u8]) -> usize {
        let wanted = out.len();
        let read = match &self.settings.space {
            _ if self.physical => self.debuggee.read_physical(addr, out),
            Some((_, space)) => space.read(&AtPosition(&*self.debuggee), addr, out),
            None => self.debuggee.read_virtual(self.selected, addr, out),
        };
        read.min(wanted)
    }
}
