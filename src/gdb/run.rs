//! Carrying out what GDB asked for when it resumed the machine.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::gdb::context::{Context, Plan};
use crate::timeline::api::{Direction, Stop, StopReason};

/// How a resumption ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The timeline stopped.
    Stopped(Stop),
    /// A seek is done (or gave up where it could not go on).
    Arrived {
        /// The processor to look at.
        cpu: usize,
    },
}

impl Halt {
    /// The processor that stopped.
    pub fn cpu(&self) -> usize {
        match self {
            Halt::Stopped(stop) => stop.cpu,
            Halt::Arrived { cpu } => *cpu,
        }
    }
}

/// Moves the machine; `console` is given lines for the user. An armed seek comes before the plan and replaces it.
pub fn carry_out(
    context: &mut Context<'_>,
    plan: Plan,
    interrupt: &AtomicBool,
    console: &mut dyn FnMut(&str),
) -> Halt {
    if let Some(tick) = context.armed.take() {
        if let Err(why) = context.debuggee.seek(tick, interrupt) {
            console(&format!("seek to tick {tick}: {why}\n"));
        } else if context.debuggee.position() != tick {
            console(&format!(
                "seek to tick {tick} interrupted at {}\n",
                context.debuggee.position()
            ));
        }
        context.selected = context.debuggee.current_cpu();
        return Halt::Arrived {
            cpu: context.selected,
        };
    }
    let stops = context.breakpoints.stops();
    let stop = match plan {
        Plan::Continue => context.debuggee.run(Direction::Forward, &stops, interrupt),
        Plan::ReverseContinue => context.debuggee.run(Direction::Backward, &stops, interrupt),
        Plan::Step { cpu } => context.debuggee.step(cpu, &stops, interrupt),
        Plan::ReverseStep { cpu } => context.debuggee.reverse_step(cpu, &stops, interrupt),
        Plan::StepRange { cpu, start, end } => step_range(context, cpu, start, end, interrupt),
    };
    if let StopReason::Divergence(report) = &stop.reason {
        console(report);
        console("\n");
    }
    context.selected = stop.cpu;
    Halt::Stopped(stop)
}

/// Steps until rip leaves the range, a breakpoint is met or something else stops the step.
fn step_range(
    context: &mut Context<'_>,
    cpu: usize,
    start: u64,
    end: u64,
    interrupt: &AtomicBool,
) -> Stop {
    let stops = context.breakpoints.stops();
    loop {
        let stop = context.debuggee.step(cpu, &stops, interrupt);
        if stop.reason != StopReason::Stepped {
            return stop;
        }
        let rip = context.debuggee.registers(cpu).rip;
        if !(start..end).contains(&rip) {
            return stop;
        }
        if stops.breakpoints.binary_search(&rip).is_ok() {
            return Stop {
                reason: StopReason::Breakpoint { addr: rip },
                cpu,
            };
        }
        if interrupt.load(Ordering::Relaxed) {
            return Stop {
                reason: StopReason::Interrupted,
                cpu,
            };
        }
    }
}
