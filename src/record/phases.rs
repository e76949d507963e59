//! What runs a guest, and from when to when it is recorded.
//!
//! A run is a sequence of phases: one that is not recorded, one that is, and so on. Each is one engine's business (the
//! emulator's or KVM's), from a machine at rest to a machine at rest (`Handover`). Each recording has a tick 0 of its
//! own; guest time goes on through all of them.

use super::console::Console;
use super::emulated::{self, Outcome, Plan, RecordError};
use super::handover::Handover;
use super::keeper::Keeper;
use super::kvm::{self, Host, KvmError};
use super::live::Live;
use super::moment::{Came, Key, Moment, Watch};
use crate::cpu::cpuid::CpuModel;
use crate::machine::Machine;
use crate::tick::{GuestNs, Tick};
use crate::trace::{EndReason, Identity, MachineConfig, Start};
use std::path::PathBuf;
use thiserror::Error;

/// What executes a guest.
#[derive(Clone, Copy)]
pub enum Engine<'a> {
    /// The emulator.
    Emulator,
    /// The host's processor.
    Kvm(&'a Host),
}

/// From when the first recording goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Power-on.
    PowerOn,
    /// This moment, or when the user asks for it before.
    Moment(Moment),
    /// When the user asks for it.
    Asked,
}

/// Whether a machine has a kernel with a symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// There is none yet that could be looked into.
    NotYet,
    /// It is at this linear address.
    At(u64),
    /// There never will be, for this reason.
    Never(String),
}

/// Looks for a symbol in a machine.
pub type FindSymbol = dyn Fn(&Machine, &str) -> Symbol;

/// What runs, and when it is recorded.
pub struct Schedule<'a> {
    /// Runs what is recorded.
    pub recorded: Engine<'a>,
    /// Runs everything else.
    pub unrecorded: Engine<'a>,
    /// When recording begins.
    pub from: From,
    /// When recording and run end, if not by themselves or by the user.
    pub until: Option<Moment>,
    /// Where the symbols of a kernel in RAM are, for [`Moment::Symbol`].
    pub find: Option<&'a FindSymbol>,
}

/// A kernel is looked for in RAM after this much more guest time, and after this share of what has passed.
const LOOK_NS: GuestNs = 20_000_000;
const LOOK_SHARE: GuestNs = 20;

/// Why a run failed.
#[derive(Debug, Error)]
pub enum RunError {
    /// The kernel, the memory, or the file.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Whoever gives names to recordings could not.
    #[error("{0}")]
    NoTake(String),
    /// A symbol is not where it is needed.
    #[error("«{name}»: {why}")]
    NoSymbol {
        /// Which.
        name: String,
        /// And why.
        why: String,
    },
}

/// A recording that is about to begin.
pub struct Take {
    /// The file.
    pub path: PathBuf,
    /// A random number that tells it from all others.
    pub identity: [u8; 16],
    /// When this is, in seconds since 1970.
    pub created_unix_s: u64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Whether it is recorded.
    pub recorded: bool,
    /// Ticks of the recording, where they are counted.
    pub ticks: Option<Tick>,
    /// Guest time since power-on.
    pub guest_ns: GuestNs,
    /// Length of the recording's file.
    pub bytes: u64,
}

/// How a recording ended.
#[derive(Clone, Debug)]
pub struct TakeEnd {
    /// What it is like; without ticks and events where it is untimed.
    pub outcome: Outcome,
    /// It was made under KVM: its ticks are to be found.
    pub untimed: bool,
    /// The machine runs on.
    pub runs_on: bool,
}

/// Who says where recordings go, and looks on.
pub trait Takes {
    /// A recording begins at this guest time: at power-on, or because of what has come.
    fn begin(&mut self, guest_ns: GuestNs, came: Option<&Came>) -> Result<Take, RunError>;
    /// Who keeps states of the emulated machine while the recording is made.
    fn keeper(&mut self) -> Box<dyn Keeper>;
    /// How far it is, several times a second.
    fn progress(&mut self, position: Position);
    /// A recording has ended, and its file is whole.
    fn end(&mut self, take: &Take, end: TakeEnd);
}

/// How a run ended.
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// Recordings that were made.
    pub recordings: u32,
    /// The machine as it was then.
    pub machine: Machine,
}

/// Runs a guest as a schedule says.
pub fn run(
    plan: &Plan,
    schedule: &Schedule,
    console: Box<dyn Console>,
    takes: &mut dyn Takes,
) -> Result<Ended, RunError> {
    let prepared = emulated::prepare_as(plan, model(plan, schedule)?)?;
    let config = emulated::config(plan, &prepared);
    let guest = Handover {
        machine: prepared.machine,
        live: Live::new(prepared.board, console, plan.random),
    };
    Run {
        plan,
        schedule,
        config,
        takes,
        recordings: 0,
    }
    .run(guest)
}

/// The processor that all engines that take part can be.
fn model(plan: &Plan, schedule: &Schedule) -> Result<CpuModel, RunError> {
    match (schedule.recorded, schedule.unrecorded) {
        (Engine::Kvm(host), _) | (_, Engine::Kvm(host)) => Ok(host.model(plan)?),
        (Engine::Emulator, Engine::Emulator) => Ok(CpuModel::new(plan.cpu)),
    }
}

struct Run<'a> {
    plan: &'a Plan<'a>,
    schedule: &'a Schedule<'a>,
    config: MachineConfig,
    takes: &'a mut dyn Takes,
    recordings: u32,
}

/// What a moment is in a machine.
enum Place {
    /// All that is known beforehand, and symbols that were found.
    Known(Option<Moment>),
    /// This symbol cannot be found yet.
    NotYet(String),
}

impl Run<'_> {
    fn run(mut self, mut guest: Handover) -> Result<Ended, RunError> {
        let mut wait = match &self.schedule.from {
            From::PowerOn => None,
            From::Asked => Some(None),
            From::Moment(moment) => Some(Some(moment.clone())),
        };
        loop {
            let mut came = None;
            if let Some(moment) = wait {
                (guest, came) = self.unrecorded(guest, moment)?;
                if let Some(reason) = guest.live.end() {
                    let reason = reason.clone();
                    return Ok(self.ended(reason, guest));
                }
            }
            guest = self.recorded(guest, came)?;
            if !runs_on(&guest.live) {
                let reason = emulated::end_reason(&guest.live);
                return Ok(self.ended(reason, guest));
            }
            wait = Some(None);
        }
    }

    fn ended(&self, reason: EndReason, guest: Handover) -> Ended {
        Ended {
            reason,
            recordings: self.recordings,
            machine: guest.machine,
        }
    }

    /// Runs without recording, up to a moment or to when the user asks for a recording. Gives which it was.
    fn unrecorded(
        &mut self,
        mut guest: Handover,
        moment: Option<Moment>,
    ) -> Result<(Handover, Option<Came>), RunError> {
        loop {
            let now_ns = guest.live.guest_ns(guest.machine.tick());
            let watch = match self.place(&guest.machine, moment.as_ref())? {
                Place::Known(moment) => Watch::new(Some(Key::Begin), moment),
                Place::NotYet(_) => Watch::new(Some(Key::Begin), None)
                    .until(Some(now_ns + LOOK_NS.max(now_ns / LOOK_SHARE))),
            };
            guest = self.unrecorded_phase(guest, watch)?;
            let came = guest.live.came().cloned();
            if guest.live.end().is_none() && came == Some(Came::Look) {
                continue;
            }
            if let Engine::Kvm(_) = self.schedule.recorded {
                guest.live.set_watch(Watch::default());
                guest.settle();
            }
            return Ok((guest, came));
        }
    }

    /// Where a moment is, in a machine.
    fn place(&self, machine: &Machine, moment: Option<&Moment>) -> Result<Place, RunError> {
        let Some(Moment::Symbol(name)) = moment else {
            return Ok(Place::Known(moment.cloned()));
        };
        let found = self.schedule.find.map(|find| find(machine, name));
        match found.unwrap_or(Symbol::NotYet) {
            Symbol::NotYet => Ok(Place::NotYet(name.clone())),
            Symbol::At(linear) => Ok(Place::Known(Some(Moment::Address {
                linear,
                name: Some(name.clone()),
            }))),
            Symbol::Never(why) => Err(RunError::NoSymbol {
                name: name.clone(),
                why,
            }),
        }
    }

    /// A phase that is not recorded.
    fn unrecorded_phase(
        &mut self,
        mut guest: Handover,
        watch: Watch,
    ) -> Result<Handover, RunError> {
        guest.rebase();
        guest.live.set_limit(None);
        guest.live.set_watch(watch);
        let takes = &mut *self.takes;
        let mut progress = |guest_ns| {
            takes.progress(Position {
                recorded: false,
                ticks: None,
                guest_ns,
                bytes: 0,
            });
        };
        Ok(match self.schedule.unrecorded {
            Engine::Emulator => emulated::run_phase(guest, None, &mut progress),
            Engine::Kvm(host) => kvm::run_phase(host, guest, &mut progress)?,
        })
    }

    /// A phase that is recorded, from power-on or from what has come.
    fn recorded(&mut self, mut guest: Handover, came: Option<Came>) -> Result<Handover, RunError> {
        guest.rebase();
        guest.live.set_limit(self.plan.guest_ns_max);
        let until = match self.place(&guest.machine, self.schedule.until.as_ref())? {
            Place::Known(until) => until,
            Place::NotYet(name) => {
                return Err(RunError::NoSymbol {
                    name,
                    why: "no kernel with symbols is in RAM where recording begins".into(),
                });
            }
        };
        guest.live.set_watch(Watch::new(Some(Key::End), until));
        let take = self.takes.begin(guest.live.guest_ns(0), came.as_ref())?;
        let mut config = self.config.clone();
        config.identity = Identity(take.identity);
        config.created_unix_s = take.created_unix_s;
        config.start = came.map(|came| start_of(&mut guest.live, &came));
        self.recordings += 1;
        let takes = &mut *self.takes;
        let (guest, outcome, untimed) = match self.schedule.recorded {
            Engine::Emulator => {
                let max = self.plan.ticks_max;
                let (guest, outcome) = record_emulated(max, guest, &take, &config, takes)?;
                (guest, outcome, false)
            }
            Engine::Kvm(host) => {
                let (guest, outcome) = record_under_kvm(host, guest, &take, config, takes)?;
                (guest, outcome, true)
            }
        };
        let end = TakeEnd {
            outcome,
            untimed,
            runs_on: runs_on(&guest.live),
        };
        self.takes.end(&take, end);
        Ok(guest)
    }
}

/// Whether the machine runs on after a recording: the user asked for no more than the recording's end.
fn runs_on(live: &Live) -> bool {
    live.end().is_none() && live.came() == Some(&Came::Asked)
}

/// What a replay has to know of the outside at tick 0, where the live world is.
fn start_of(live: &mut Live, came: &Came) -> Start {
    let serial = live.console_tap();
    Start {
        guest_ns: live.guest_ns(0),
        serial_divisor: serial.dlab(),
        serial_loopback: serial.looped(),
        task_priority: live.task_priority(),
        moment: came.to_string(),
    }
}

fn record_emulated(
    ticks_max: Option<Tick>,
    guest: Handover,
    take: &Take,
    config: &MachineConfig,
    takes: &mut dyn Takes,
) -> Result<(Handover, Outcome), RunError> {
    let mut keeper = takes.keeper();
    let recorded = emulated::record_phase(
        guest,
        &take.path,
        config,
        ticks_max,
        &mut *keeper,
        &mut |tick, guest_ns, bytes| {
            takes.progress(Position {
                recorded: true,
                ticks: Some(tick),
                guest_ns,
                bytes,
            });
        },
    )?;
    Ok(recorded)
}

fn record_under_kvm(
    host: &Host,
    guest: Handover,
    take: &Take,
    config: MachineConfig,
    takes: &mut dyn Takes,
) -> Result<(Handover, Outcome), RunError> {
    let mut progress = |guest_ns, bytes| {
        takes.progress(Position {
            recorded: true,
            ticks: None,
            guest_ns,
            bytes,
        });
    };
    let (guest, outcome) = kvm::record_phase(host, guest, &take.path, config, &mut progress)?;
    let outcome = Outcome {
        ticks: 0,
        reason: outcome.reason,
        guest_ns: outcome.guest_ns,
        events: 0,
        bytes: std::fs::metadata(&take.path).map_or(0, |m| m.len()),
        wall: outcome.wall,
    };
    Ok((guest, outcome))
}
