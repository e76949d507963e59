//! The timeline as what a debugger talks to.

use super::api::{
    Answers, Debuggee, Description, Direction, Question, Registers, Stop, StopReason, Stops,
};
use super::bookmarks::Bookmarks;
use super::questions;
use super::{Timeline, engine_stops, reason_of, search, stop, view};
use crate::cpu::run::Exit;
use crate::tick::{GuestNs, Tick};
use crate::trace::KINDS;
use std::sync::atomic::AtomicBool;

impl Debuggee for Timeline {
    fn position(&self) -> Tick {
        self.travellers[0].tick()
    }

    fn start(&self) -> Tick {
        0
    }

    fn end(&self) -> Tick {
        self.travellers[0].end()
    }

    fn guest_time(&self) -> GuestNs {
        self.travellers[0]
            .replayer()
            .world
            .guest_time(self.position())
    }

    fn cpus(&self) -> usize {
        self.machine().cpus()
    }

    fn current_cpu(&self) -> usize {
        0
    }

    fn registers(&self, _cpu: usize) -> Registers {
        Registers {
            time: self.guest_time(),
            ..view::registers(self.travellers[0].replayer())
        }
    }

    fn read_virtual(&self, _cpu: usize, addr: u64, out: &mut [u8]) -> usize {
        view::read_virtual(&self.machine().cpu, addr, out)
    }

    fn read_physical(&self, addr: u64, out: &mut [u8]) -> usize {
        self.machine().cpu.memory.read(addr, out)
    }

    fn seek(&mut self, tick: Tick, interrupt: &AtomicBool) -> Result<(), String> {
        if tick > self.end() {
            return Err(format!(
                "tick {tick} is behind the end of the recording, {}",
                self.end()
            ));
        }
        self.go(tick, interrupt).map_err(|error| error.to_string())
    }

    fn step(&mut self, _cpu: usize, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        if self.position() >= self.end() {
            return stop(StopReason::HistoryEnd);
        }
        self.travellers[0].set_stops(engine_stops(stops));
        let next = self.position() + 1;
        match self.travellers[0].run(next, true, interrupt) {
            Ok(Exit::Watchpoint(hit)) => stop(search::watch_reason(&hit)),
            Ok(Exit::Event(event)) => stop(StopReason::Event(event)),
            Ok(_) => stop(StopReason::Stepped),
            Err(error) => stop(reason_of(error)),
        }
    }

    fn reverse_step(&mut self, cpu: usize, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        let here = self.position();
        if here == 0 {
            return stop(StopReason::HistoryStart);
        }
        if let Err(error) = self.go(here - 1, interrupt) {
            return stop(reason_of(error));
        }
        if stops.watchpoints.is_empty() && stops.events.is_empty() {
            return stop(StopReason::Stepped);
        }
        // Which watchpoints and events the undone tick hits is seen by doing it once more.
        let watched = Stops {
            breakpoints: Vec::new(),
            ..stops.clone()
        };
        let done = self.step(cpu, &watched, interrupt);
        match self.go(here - 1, interrupt) {
            Ok(()) => done,
            Err(error) => stop(reason_of(error)),
        }
    }

    fn run(&mut self, direction: Direction, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        match direction {
            Direction::Forward => self.run_forward(stops, interrupt),
            Direction::Backward => self.run_backward(stops, interrupt),
        }
    }

    fn ask(&mut self, question: &Question, interrupt: &AtomicBool) -> Result<Answers, String> {
        self.healing(interrupt, |timeline| timeline.answer(question, interrupt))
            .map_err(|error| error.to_string())
    }

    fn bookmarks(&mut self) -> &mut Bookmarks {
        &mut self.bookmarks
    }

    fn recorded_events(&self, before: usize, after: usize) -> Vec<(Tick, String)> {
        questions::recorded(&self.recording, self.position(), before, after)
    }

    fn describe(&self) -> Description {
        let config = self.recording.config();
        let counts = self.recording.count_by_kind().unwrap_or([0; KINDS.len()]);
        let events: Vec<(String, u64)> = KINDS
            .iter()
            .zip(counts)
            .filter(|(_, n)| *n > 0)
            .map(|(row, n)| (row.1.to_string(), n))
            .collect();
        let digests = events
            .iter()
            .find(|(name, _)| name == "digest")
            .map_or(0, |(_, n)| *n);
        let pass = self.pass.progress();
        let progress = match (&pass.divergence, pass.finished) {
            (Some(divergence), _) => format!("diverged at tick {}", divergence.tick),
            (None, true) => "whole recording checked".to_string(),
            (None, false) => format!("checked up to tick {}", pass.reached),
        };
        let text = |name: &str, value: String| (name.to_string(), value);
        Description {
            machine: vec![
                text("kernel", config.kernel.clone()),
                text("command line", config.cmdline.clone()),
                text("memory", format!("{} MiB", config.ram_bytes >> 20)),
                text(
                    "recorded by",
                    format!("retrovisor {} ({:?})", config.program, config.accel),
                ),
                text("first pass", progress),
                text("checkpoints", self.store.stats().checkpoints.to_string()),
            ],
            events,
            bytes: self.recording.bytes(),
            digests,
            end: match (self.recording.end(), self.recording.torn()) {
                (Some(end), _) => end.reason.to_string(),
                (None, Some(torn)) => format!("torn: {}", torn.why),
                (None, None) => "the recorder was killed".to_string(),
            },
        }
    }

    fn mode(&self, _cpu: usize) -> &'static str {
        self.machine().cpu.state.mode_name()
    }

    fn last_event(&self) -> Option<(Tick, String)> {
        self.travellers[0]
            .replayer()
            .world
            .last_event(self.position())
    }
}
