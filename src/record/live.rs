//! The live world: the board's devices, and a clock that is derived from the tick.
//!
//! Guest time is eight nanoseconds a tick plus what the machine slept through. Sleep is skipped, or, when somebody
//! sits at the console, slept.

use super::console::{Command, Console};
use super::moment::{Came, Watch};
use crate::cpu::world::{Dma, Interrupt, Pending, Wait, World};
use crate::tick::{GuestNs, NS_PER_TICK, Tick};
use crate::trace::EndReason;
use devices::{Board, ConsoleTap, Power, ResetBy};
use std::time::Duration;

/// The console and the user's signals are looked at this often: a millisecond of guest time.
const POLL_TICKS: Tick = 125_000;
/// The longest sleep in one piece: signals are heard in between.
const NAP: Duration = Duration::from_millis(20);

/// Where the guest's random numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Random {
    /// The host's system.
    System,
    /// A seed, the same numbers in every run: for tests and measurements, not for guests with secrets.
    Seeded(u64),
}

/// The next number of a seed (splitmix64).
fn next_number(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Devices, clock and console.
pub struct Live {
    board: Board,
    console: Box<dyn Console>,
    /// Guest time that passed without ticks.
    skipped_ns: GuestNs,
    /// Changes of `skipped_ns`, for the recorder.
    clock_changed: bool,
    end: Option<EndReason>,
    /// Bytes typed that the serial port had no room for yet.
    typed: Vec<u8>,
    next_poll: Tick,
    /// The run ends when guest time comes to this.
    limit_ns: GuestNs,
    /// The limit as the user gave it.
    limit_length_ns: GuestNs,
    random: Random,
    watch: Watch,
}

impl Live {
    /// A world of these devices, at tick 0.
    pub fn new(board: Board, console: Box<dyn Console>, random: Random) -> Live {
        Live {
            board,
            console,
            skipped_ns: 0,
            clock_changed: false,
            end: None,
            typed: Vec::new(),
            next_poll: 0,
            limit_ns: GuestNs::MAX,
            limit_length_ns: GuestNs::MAX,
            random,
            watch: Watch::default(),
        }
    }

    /// Ends the run when so much guest time has passed since tick 0, awake or asleep.
    pub fn set_limit(&mut self, length: Option<GuestNs>) {
        self.limit_length_ns = length.unwrap_or(GuestNs::MAX);
        self.limit_ns = self.guest_ns(0).saturating_add(self.limit_length_ns);
    }

    /// Waits for a moment: when it has come the machine is left as at the end of the run.
    pub fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// What the machine is watched for.
    pub fn watch(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// The moment that was waited for, if it has come.
    pub fn came(&self) -> Option<&Came> {
        self.watch.came()
    }

    /// Whether the run is over, or this phase of it.
    pub fn is_over(&self) -> bool {
        self.end.is_some() || self.watch.came().is_some()
    }

    /// Makes tick `now` tick 0. Guest time goes on.
    pub fn rebase(&mut self, now: Tick) {
        self.skipped_ns = self.guest_ns(now);
        self.next_poll = self.next_poll.saturating_sub(now);
        self.clock_changed = false;
        self.typed.clear();
    }

    /// Follows the serial line from here on without the board.
    pub fn console_tap(&self) -> ConsoleTap {
        self.board.console_tap()
    }

    /// The task priority (CR8).
    pub fn task_priority(&mut self) -> u8 {
        self.board.tpr_read(0) as u8 & 15
    }

    /// Whether the limit is reached, in which case the run is over.
    fn out_of_time(&mut self, now_ns: GuestNs) -> bool {
        let out = now_ns >= self.limit_ns;
        if out {
            let seconds = self.limit_length_ns as f64 / 1e9;
            self.finish(EndReason::Limit(format!("{seconds} s of guest time")));
        }
        out
    }

    /// Guest time at a tick.
    pub fn guest_ns(&self, now: Tick) -> GuestNs {
        now * NS_PER_TICK + self.skipped_ns
    }

    /// Why the run is over, if it is.
    pub fn end(&self) -> Option<&EndReason> {
        self.end.as_ref()
    }

    /// Ends the run for a reason from outside of the machine.
    pub fn finish(&mut self, reason: EndReason) {
        self.end.get_or_insert(reason);
    }

    /// The offset between TSC and ticks, if it changed since the last call.
    pub fn take_clock_change(&mut self) -> Option<u64> {
        std::mem::take(&mut self.clock_changed).then_some(self.skipped_ns)
    }

    /// What the user typed and the serial port took since the last call.
    pub fn take_typed(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.typed)
    }

    /// Looks at what an access may have done: output, power.
    fn after_access(&mut self) {
        let output = self.board.console_output();
        if !output.is_empty() {
            self.console.output(&output);
            self.watch.heard(&output);
        }
        if let Some(power) = self.board.take_power() {
            self.finish(match power {
                Power::PowerOff => EndReason::PowerOff,
                Power::Reset { by } => EndReason::Reset(reset_name(by)),
                Power::DebugExit(value) => EndReason::DebugExit(value),
            });
        }
    }

    fn poll_console(&mut self, now_ns: GuestNs) {
        match self.console.poll() {
            Some(Command::End(reason)) => self.finish(reason),
            Some(Command::Recording(key)) => self.watch.asked(key),
            Some(Command::Input) | None => {}
        }
        let waiting = self.console.input();
        if !waiting.is_empty() {
            let taken = self.board.console_input(now_ns, waiting);
            self.typed.extend_from_slice(&waiting[..taken]);
            self.console.consume(taken);
        }
    }
}

fn reset_name(by: ResetBy) -> String {
    by.to_string()
}

impl World for Live {
    fn pio_read(&mut self, now: Tick, cpu: usize, port: u16, size: u8) -> u32 {
        let value = self.board.pio_read(self.guest_ns(now), cpu, port, size);
        self.after_access();
        value
    }

    fn pio_write(&mut self, now: Tick, cpu: usize, port: u16, size: u8, value: u32) {
        self.board
            .pio_write(self.guest_ns(now), cpu, port, size, value);
        self.watch.wrote(port, size, value);
        self.after_access();
    }

    fn mmio_read(&mut self, now: Tick, cpu: usize, gpa: u64, size: u8) -> u64 {
        self.board.mmio_read(self.guest_ns(now), cpu, gpa, size)
    }

    fn mmio_write(&mut self, now: Tick, cpu: usize, gpa: u64, size: u8, value: u64) {
        self.board
            .mmio_write(self.guest_ns(now), cpu, gpa, size, value);
        self.after_access();
    }

    fn msr_read(&mut self, now: Tick, cpu: usize, msr: u32) -> Option<u64> {
        self.board.msr_read(self.guest_ns(now), cpu, msr)
    }

    fn msr_write(&mut self, now: Tick, cpu: usize, msr: u32, value: u64) -> bool {
        self.board.msr_write(self.guest_ns(now), cpu, msr, value)
    }

    fn tsc(&mut self, now: Tick, _cpu: usize) -> u64 {
        // 1 GHz: a count is a nanosecond.
        self.guest_ns(now)
    }

    fn random(&mut self, _now: Tick, _cpu: usize) -> u64 {
        let number = match &mut self.random {
            Random::System => getrandom::u64(),
            Random::Seeded(state) => Ok(next_number(state)),
        };
        match number {
            Ok(number) => number,
            Err(error) => {
                self.finish(EndReason::Unsupported(format!(
                    "the guest asks for a random number, and the system gives none: {error}"
                )));
                0
            }
        }
    }

    fn tpr_read(&mut self, _now: Tick, cpu: usize) -> u64 {
        self.board.tpr_read(cpu)
    }

    fn tpr_write(&mut self, now: Tick, cpu: usize, value: u64) {
        self.board.tpr_write(self.guest_ns(now), cpu, value);
    }

    fn next_stop(&mut self, now: Tick) -> Tick {
        let deadline = self.board.next_deadline_ns().unwrap_or(GuestNs::MAX);
        let ns = deadline.min(self.limit_ns).saturating_sub(self.skipped_ns);
        self.next_poll.min(ns.div_ceil(NS_PER_TICK)).max(now + 1)
    }

    fn poll(&mut self, now: Tick, cpu: usize, _dma: &mut Vec<Dma>) -> Pending {
        let now_ns = self.guest_ns(now);
        self.board.advance(now_ns);
        self.out_of_time(now_ns);
        if now >= self.next_poll {
            self.next_poll = now + POLL_TICKS;
            self.poll_console(now_ns);
            self.watch.passed(now_ns);
        }
        Pending {
            interrupt: self.board.interrupt_pending(cpu),
            nmi: self.board.nmi_pending(cpu),
        }
    }

    fn interrupt(&mut self, now: Tick, cpu: usize, maskable: bool) -> Option<Interrupt> {
        if self.board.take_nmi(cpu) {
            return Some(Interrupt::Nmi);
        }
        if !maskable {
            return None;
        }
        self.board
            .acknowledge(self.guest_ns(now), cpu)
            .map(Interrupt::Vector)
    }

    fn wait(&mut self, now: Tick, cpu: usize, interruptible: bool) -> Wait {
        if self.is_over() {
            return Wait::Ended;
        }
        if !interruptible && !self.board.nmi_pending(cpu) {
            self.finish(EndReason::Halted);
            return Wait::Ended;
        }
        let now_ns = self.guest_ns(now);
        if self.out_of_time(now_ns) {
            return Wait::Ended;
        }
        self.poll_console(now_ns);
        self.watch.passed(now_ns);
        if self.is_over() {
            return Wait::Ended;
        }
        if self.board.interrupt_pending(cpu) {
            return Wait::Wake;
        }
        let deadline = self.board.next_deadline_ns();
        match (deadline, self.console.is_interactive()) {
            (None, false) if self.console.input_ended() => {
                self.finish(EndReason::Halted);
                return Wait::Ended;
            }
            (None, _) => self.console.wait(NAP),
            (Some(deadline), interactive) => {
                let mut target = deadline.min(self.limit_ns).max(now_ns + 1);
                if interactive {
                    // Real time passes: as much guest time as was really slept.
                    let sleep = Duration::from_nanos(target - now_ns).min(NAP);
                    let slept = self.console.wait_measured(sleep);
                    target = target.min(now_ns + (slept.as_nanos() as u64).max(1));
                }
                self.skipped_ns += target - now_ns;
                self.clock_changed = true;
                self.board.advance(target);
            }
        }
        if self.board.interrupt_pending(cpu) {
            Wait::Wake
        } else {
            Wait::Again
        }
    }

    fn ended(&mut self, _now: Tick) -> bool {
        self.is_over()
    }

    fn shutdown(&mut self, _now: Tick, _cpu: usize, why: &str) {
        self.finish(EndReason::TripleFault(why.to_string()));
    }
}
