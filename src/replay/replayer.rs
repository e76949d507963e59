//! A machine in the world of a recording: runs forward from where it is put, and checks digests on the way.

use super::divergence::Divergence;
use super::world::{LogPosition, LogWorld};
use crate::cpu::features;
use crate::cpu::run::Exit;
use crate::machine::{Machine, STATE_VERSION, StateDigest, StateError, model_from_leaves};
use crate::memory::MemoryError;
use crate::tick::{NS_PER_TICK, Tick};
use crate::trace::{Error as TraceError, Recording};
use std::sync::Arc;
use thiserror::Error;

/// Why a recording cannot be replayed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The file.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The starting state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Something that this version does not do.
    #[error("{0}")]
    Unsupported(String),
}

/// A replay.
pub struct Replayer {
    /// The machine.
    pub machine: Machine,
    /// The log.
    pub world: LogWorld,
    recording: Arc<Recording>,
    digest_distance: Tick,
    start_pages: Vec<u32>,
}

impl Replayer {
    /// A replay at the start of a recording.
    pub fn new(recording: &Arc<Recording>) -> Result<Replayer, ReplayError> {
        let mut replayer = Replayer::blank(recording)?;
        let memory = &mut replayer.machine.cpu.memory;
        recording.ram(|number, page| memory.write(number << 12, page) == page.len())?;
        replayer.start_pages = memory.take_dirty();
        let state = recording.state()?;
        replayer.machine.restore(0, state.version, &state.bytes)?;
        Ok(replayer)
    }

    /// A replay with empty RAM and a processor after reset: to be restored before anything else.
    pub fn blank(recording: &Arc<Recording>) -> Result<Replayer, ReplayError> {
        let config = recording.config();
        if config.cpus != 1 {
            return Err(ReplayError::Unsupported(format!(
                "the recording has {} processors; this version replays one",
                config.cpus
            )));
        }
        if config.untimed {
            return Err(ReplayError::Unsupported(
                "the ticks of the recording's events were not found yet".to_string(),
            ));
        }
        if config.ns_per_tick != NS_PER_TICK {
            return Err(ReplayError::Unsupported(format!(
                "the recording has ticks of {} ns; this version replays those of {NS_PER_TICK} ns",
                config.ns_per_tick
            )));
        }
        let model = model_from_leaves(
            config
                .cpuid
                .iter()
                .map(|l| (l.leaf, l.subleaf, [l.eax, l.ebx, l.ecx, l.edx])),
        );
        let missing = features::missing(&model);
        if let Some(first) = missing.first() {
            let more = match missing.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            return Err(ReplayError::Unsupported(format!(
                "the recording's processor has {first}{more}, which this version has not"
            )));
        }
        Ok(Replayer {
            machine: Machine::new(config.ram_bytes, model)?,
            world: LogWorld::new(recording),
            recording: recording.clone(),
            digest_distance: config.digest_distance_ticks.max(1),
            start_pages: Vec::new(),
        })
    }

    /// The recording.
    pub fn recording(&self) -> &Arc<Recording> {
        &self.recording
    }

    /// The pages of RAM that are not zero at the start, in any order.
    pub fn start_pages(&self) -> &[u32] {
        &self.start_pages
    }

    /// The last tick of the recording.
    pub fn end(&self) -> Tick {
        self.recording.last_tick()
    }

    /// The position.
    pub fn tick(&self) -> Tick {
        self.machine.tick()
    }

    /// The next tick after the position at which the recording has a digest (or its end).
    pub fn next_digest(&self) -> Tick {
        (self.tick() / self.digest_distance + 1)
            .saturating_mul(self.digest_distance)
            .min(self.end())
    }

    /// Runs to a tick, exactly, or to what stops it. A divergence shows as [`Exit::Ended`] before the end.
    pub fn run(&mut self, until: Tick, pass_breakpoint: bool) -> Exit {
        let until = until.min(self.end());
        let exit = self.machine.run(&mut self.world, until, pass_breakpoint);
        if self
            .world
            .diverged()
            .is_some_and(|d| d.instructions.is_empty())
        {
            let lines = disassemble(&self.machine);
            self.world.explain(lines);
        }
        exit
    }

    /// Runs to the next digest and checks it. Gives the digest, whose changed pages a checkpoint needs. Only
    /// meaningful when the position is one where digests are taken (or the start).
    pub fn run_to_digest(&mut self) -> Result<StateDigest, Divergence> {
        let until = self.next_digest();
        while self.tick() < until {
            let exit = self.run(until, false);
            if let Some(divergence) = self.world.diverged() {
                return Err(divergence.clone());
            }
            if exit == Exit::Ended && self.tick() < until {
                let now = self.tick();
                self.world.diverge(
                    now,
                    format!("a run to tick {until}"),
                    "come to an end".to_string(),
                );
            }
        }
        self.check_digest()
    }

    /// Checks the digest at the position, if the recording has one there.
    pub fn check_digest(&mut self) -> Result<StateDigest, Divergence> {
        let now = self.tick();
        let state = self.machine.digest();
        while let Some(recorded) = self.world.take_digest(now) {
            let outputs = self.world.outputs();
            let mut differing = Vec::new();
            if recorded.registers != state.registers {
                differing.push("registers");
            }
            if recorded.pages != state.pages {
                differing.push("memory");
            }
            if recorded.outputs != outputs {
                differing.push("output");
            }
            if !differing.is_empty() {
                let what = differing.join(" and ");
                self.world.diverge(
                    now,
                    format!("a digest with other {what}"),
                    format!("its own {what}"),
                );
                let lines = disassemble(&self.machine);
                self.world.explain(lines);
            }
        }
        match self.world.diverged() {
            Some(divergence) => Err(divergence.clone()),
            None => Ok(state),
        }
    }

    /// Processor state and position in the log: what a checkpoint holds beside pages.
    pub fn save(&self) -> Vec<u8> {
        encode_checkpoint(&self.world.position(), &self.machine.save())
    }

    /// Takes over what `save` gave, at its tick. RAM is the caller's business.
    pub fn restore(&mut self, tick: Tick, saved: &[u8]) -> Result<(), ReplayError> {
        let (position, state): (LogPosition, serde_bytes::ByteBuf) = rmp_serde::from_slice(saved)
            .map_err(|error| {
            ReplayError::Unsupported(format!("a checkpoint cannot be read: {error}"))
        })?;
        self.machine.restore(tick, STATE_VERSION, &state)?;
        self.world.seek(&position);
        Ok(())
    }
}

/// What [`Replayer::restore`] takes: a position in the log and a machine's saved state.
pub fn encode_checkpoint(position: &LogPosition, state: &[u8]) -> Vec<u8> {
    rmp_serde::to_vec(&(position, serde_bytes::Bytes::new(state)))
        .expect("plain data is always encoded")
}

/// A few instructions from the position on, for reports.
pub fn disassemble(machine: &Machine) -> Vec<String> {
    use iced_x86::{Decoder, DecoderOptions, FastFormatter, Instruction};
    let bits = machine.cpu.code_bits();
    let linear = machine.cpu.linear_rip();
    let mut bytes = Vec::new();
    while bytes.len() < 64 {
        let at = linear.wrapping_add(bytes.len() as u64);
        let Some(physical) = machine.cpu.probe(at) else {
            break;
        };
        let n = (4096 - (at & 0xfff) as usize).min(64 - bytes.len());
        let mut part = vec![0; n];
        if machine.cpu.memory.read(physical, &mut part) < n {
            break;
        }
        bytes.extend(part);
    }
    let mut decoder = Decoder::with_ip(bits, &bytes, linear, DecoderOptions::NONE);
    let mut formatter = FastFormatter::new();
    let mut lines = Vec::new();
    let mut insn = Instruction::default();
    while decoder.can_decode() && lines.len() < 6 {
        decoder.decode_out(&mut insn);
        if insn.is_invalid() {
            break;
        }
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        lines.push(format!("{:#x}: {text}", insn.ip()));
    }
    lines
}
