//! Carrying out what GDB asked for when it resumed the machine.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::gdb::context::{Context, Plan};
use crate::guest::AtPosition;
use crate::monitor::{self, Armed};
use crate::tick::Tick;
use crate::timeline::api::{Direction, Event, SceneOf, Stop, StopReason, Stops};

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

/// Moves the machine; `console` is given text for the user, at once. An armed seek comes before the plan and replaces
/// it.
pub fn carry_out(
    context: &mut Context<'_>,
    plan: Plan,
    interrupt: &AtomicBool,
    console: &mut dyn FnMut(&[u8]),
) -> Halt {
    if let Some(armed) = context.settings.armed.take() {
        let tick = match armed {
            Armed::Seek(tick) => tick,
            Armed::Ask(line) => match ask(context, &line, interrupt) {
                Some(tick) => tick,
                None => {
                    return Halt::Arrived {
                        cpu: context.selected,
                    };
                }
            },
        };
        if let Err(why) = context.debuggee.seek(tick, interrupt) {
            console(format!("seek to tick {tick}: {why}\n").as_bytes());
        } else if context.debuggee.position() != tick {
            let position = context.debuggee.position();
            console(format!("seek to tick {tick} interrupted at {position}\n").as_bytes());
        }
        context.selected = context.debuggee.current_cpu();
        return Halt::Arrived {
            cpu: context.selected,
        };
    }
    let stops = context.stops();
    let stop = match plan {
        Plan::Continue => run_forward(context, &stops, interrupt, console),
        Plan::ReverseContinue => context.debuggee.run(Direction::Backward, &stops, interrupt),
        Plan::Step { cpu } => context.debuggee.step(cpu, &stops, interrupt),
        Plan::ReverseStep { cpu } => context.debuggee.reverse_step(cpu, &stops, interrupt),
        Plan::StepRange { cpu, start, end } => {
            step_range(context, cpu, start..end, &stops, interrupt, console)
        }
    };
    if let StopReason::Divergence(report) = &stop.reason {
        console(format!("{report}\n").as_bytes());
    }
    context.selected = stop.cpu;
    if let StopReason::Event(event) = &stop.reason {
        tell_event(context, event, stop.cpu, console);
    }
    Halt::Stopped(stop)
}

/// Runs a monitor command that was kept for now. Gives where it wants to go.
fn ask(context: &mut Context<'_>, line: &str, interrupt: &AtomicBool) -> Option<Tick> {
    let mut scope = monitor::Scope {
        debuggee: context.debuggee,
        settings: &mut context.settings,
        interrupt,
    };
    let text = monitor::run(&mut scope, line);
    context.settings.answer = Some(text);
    match context.settings.armed.take() {
        Some(Armed::Seek(tick)) => Some(tick),
        _ => None,
    }
}

/// Says what was caught; GDB has words of its own only for system calls that it wants to catch itself.
fn tell_event(
    context: &mut Context<'_>,
    event: &Event,
    cpu: usize,
    console: &mut dyn FnMut(&[u8]),
) {
    let calls = context.breakpoints.calls.clone();
    context.call = calls.and_then(|calls| {
        let debuggee = &*context.debuggee;
        calls.number(&AtPosition(debuggee), &debuggee.registers(cpu), event, None)
    });
    if context.call.is_none() {
        let number = context.settings.catches.catching(event).unwrap_or(0);
        console(format!("catch {number}: {event}\n").as_bytes());
    }
}

/// Runs the commands of the breakpoints that were met; says whether the run stops.
fn meet(context: &Context<'_>, addr: u64, cpu: usize, console: &mut dyn FnMut(&[u8])) -> bool {
    let mut printed = Vec::new();
    let mut scene = SceneOf::new(&*context.debuggee, cpu);
    let stops = context.breakpoints.meet(addr, &mut scene, &mut printed);
    if !printed.is_empty() {
        console(&printed);
    }
    stops
}

/// Runs to the next stop and prints what breakpoints on the way print.
fn run_forward(
    context: &mut Context<'_>,
    stops: &Stops,
    interrupt: &AtomicBool,
    console: &mut dyn FnMut(&[u8]),
) -> Stop {
    loop {
        let stop = context.debuggee.run(Direction::Forward, stops, interrupt);
        let StopReason::Breakpoint { addr } = stop.reason else {
            return stop;
        };
        if meet(context, addr, stop.cpu, console) {
            return stop;
        }
        if interrupt.load(Ordering::Relaxed) {
            return Stop {
                reason: StopReason::Interrupted,
                cpu: stop.cpu,
            };
        }
    }
}

/// Steps until rip leaves the range, a breakpoint is met or something else stops the step.
fn step_range(
    context: &mut Context<'_>,
    cpu: usize,
    range: Range<u64>,
    stops: &Stops,
    interrupt: &AtomicBool,
    console: &mut dyn FnMut(&[u8]),
) -> Stop {
    loop {
        let stop = context.debuggee.step(cpu, stops, interrupt);
        if stop.reason != StopReason::Stepped {
            return stop;
        }
        let rip = context.debuggee.registers(cpu).rip;
        if !range.contains(&rip) {
            return stop;
        }
        if stops.breakpoints.binary_search(&rip).is_ok() && meet(context, rip, cpu, console) {
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
