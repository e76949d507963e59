//! The recorder under KVM: the host's processor runs the guest, with the emulator's devices, and what crosses the line
//! is written down as an untimed recording, of which `replay::resolve` makes one of ticks.
//!
//! ```text
//! session   the loop: enter the guest, answer, deliver interrupts
//! vm        the virtual machine, its exits            convert   the processor's state, both ways
//! journal   what is written                           clock     guest time
//! kick      a timer that makes it leave the guest     ioctl     what kvm-ioctls does not have
//! ```
//!
//! What is synchronous needs its order only. What comes by itself (an interrupt) is written with the state at which it
//! comes: RIP, a hash of the registers, one of the x87 and SSE registers. docs/kvm.md says why that is enough.

mod clock;
mod convert;
mod error;
mod ioctl;
mod journal;
mod kick;
mod session;
mod vm;

pub use error::KvmError;

use super::console::Console;
use super::emulated::{self, Plan};
use super::handover::Handover;
use super::live::Live;
use crate::cpu::cpuid::CpuModel;
use crate::cpu::state::{State, gpr, seg};
use crate::machine::{Machine, STATE_VERSION};
use crate::memory::Memory;
use crate::tick::{GuestNs, NS_PER_TICK, Tick};
use crate::trace::{Accel, EndReason, MachineConfig, Writer};
use clock::HostClock;
use journal::Journal;
use session::Session;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use vm::{Left, Vm};

/// How a recording under KVM went.
#[derive(Clone, Debug)]
pub struct KvmOutcome {
    /// Why it ended.
    pub reason: EndReason,
    /// Guest time at the end.
    pub guest_ns: GuestNs,
    /// Host time.
    pub wall: Duration,
    /// Counts of what happened, by name.
    pub statistics: BTreeMap<String, u64>,
}

/// What is known of the host's KVM before anything is recorded.
pub struct Host {
    kvm: kvm_ioctls::Kvm,
    slowdown: u32,
    list_period: Duration,
}

/// Hashes of changed pages are taken this often at accesses; where something arrives by itself, always.
const LIST_PERIOD: Duration = Duration::from_millis(10);

impl Host {
    /// Opens KVM and looks how fast it is.
    pub fn open() -> Result<Host, KvmError> {
        let kvm = vm::open()?;
        let slowdown = measure_slowdown(&kvm)?;
        Ok(Host {
            kvm,
            slowdown,
            list_period: LIST_PERIOD,
        })
    }

    /// How often hashes of changed pages are taken. Above a second: no more often even where something arrives by
    /// itself, which is less overhead, and more to try when ticks are found.
    pub fn set_list_period(&mut self, period: Duration) {
        self.list_period = period;
    }

    /// The processor of a plan that is the same in the engine and here.
    pub fn model(&self, plan: &Plan) -> Result<CpuModel, KvmError> {
        vm::common_model(&self.kvm, &CpuModel::new(plan.cpu))
    }

    /// In one line, how the guest's clocks work here.
    pub fn clock_line(&self) -> String {
        let scaling = self.kvm.check_extension(kvm_ioctls::Cap::TscControl);
        let tsc = match scaling {
            true => {
                "the time-stamp counter is hidden (this host could scale it, which is not used)"
            }
            false => "the time-stamp counter is hidden from the guest",
        };
        match self.slowdown {
            1 => format!("KVM: {tsc}"),
            n => format!(
                "KVM: {tsc}; this host's KVM executes the guest's kernel by software, guest time passes {n} times \
                 slower"
            ),
        }
    }
}

/// Nanoseconds an instruction above which guest time is slowed down.
const NS_PER_INSTRUCTION: u64 = NS_PER_TICK;
/// Iterations of the loop that is timed.
const MEASURED: u64 = 4000;

/// It is timed so often; the fastest counts, for others may use the host, too.
const MEASUREMENTS: u32 = 4;

/// Runs a small loop in the privileged mode and times it.
fn measure_slowdown(kvm: &kvm_ioctls::Kvm) -> Result<u32, KvmError> {
    let mut memory = Memory::new(1 << 20)?;
    // loop $; hlt
    memory.write(0x1000, &[0xe2, 0xfe, 0xf4]);
    // SAFETY: the machine is dropped before the memory, which nobody else uses.
    let mut vm = unsafe { Vm::new(kvm, &memory, &vm::common_model(kvm, &CpuModel::native())?)? };
    let mut state = State::reset();
    state.seg[seg::CS].selector = 0;
    state.seg_base[seg::CS] = 0;
    state.gpr[gpr::RCX] = MEASURED;
    state.set_rip(0x1000);
    let mut fastest = Duration::MAX;
    for _ in 0..MEASUREMENTS {
        vm.load(&state, 0)?;
        let start = Instant::now();
        vm.kick_in(Duration::from_secs(1));
        let left = vm.enter()?;
        if left != Left::Halt {
            log::warn!("the measuring loop ended by {left:?}");
        }
        fastest = fastest.min(start.elapsed());
    }
    drop(vm);
    let ns = fastest.as_nanos() as u64 / MEASURED;
    Ok((ns / NS_PER_INSTRUCTION).clamp(1, 1000) as u32)
}

/// Records a run into a file, untimed. `progress` hears guest time and the file's length several times a second. Gives
/// the machine as it was at the end, too.
pub fn record(
    host: &Host,
    plan: &Plan,
    path: &Path,
    console: Box<dyn Console>,
    mut progress: impl FnMut(GuestNs, u64),
) -> Result<(KvmOutcome, Machine), KvmError> {
    let prepared = emulated::prepare_as(plan, host.model(plan)?)?;
    let config = emulated::config(plan, &prepared);
    let mut live = Live::new(prepared.board, console, plan.random);
    live.set_limit(plan.guest_ns_max);
    let guest = Handover {
        machine: prepared.machine,
        live,
    };
    let (guest, outcome) = record_phase(host, guest, path, config, &mut progress)?;
    Ok((outcome, guest.machine))
}

/// Records a phase of a run into a file, untimed, up to where its live world says that it is over. The machine is at
/// a settled point, before and after.
pub(super) fn record_phase(
    host: &Host,
    guest: Handover,
    path: &Path,
    mut config: MachineConfig,
    progress: &mut dyn FnMut(GuestNs, u64),
) -> Result<(Handover, KvmOutcome), KvmError> {
    let Handover { mut machine, live } = guest;
    config.accel = Accel::Kvm;
    config.untimed = true;
    let mut writer = Writer::create(path, &config)?;
    let pages = emulated::write_start(&mut writer, &mut machine, STATE_VERSION)?;
    let started = Instant::now();
    let mut guest = run_session(host, machine, live, Some(writer), progress)?;
    for page in pages {
        guest.machine.cpu.memory.mark_dirty(page as usize);
    }
    let guest_ns = guest.journal.live.guest_ns(guest.now);
    let reason = emulated::end_reason(&guest.journal.live);
    let wall = started.elapsed();
    let mut statistics = guest.statistics;
    statistics.insert("accesses".to_string(), guest.journal.accesses());
    statistics.insert("guest_slowdown".to_string(), host.slowdown.into());
    let wall_ms = wall.as_millis() as u64;
    let live = guest
        .journal
        .finish(reason.clone(), guest_ns, wall_ms, statistics.clone())?;
    let outcome = KvmOutcome {
        reason,
        guest_ns,
        wall,
        statistics,
    };
    let machine = guest.machine;
    Ok((Handover { machine, live }, outcome))
}

/// Runs a phase without recording it, likewise.
pub(super) fn run_phase(
    host: &Host,
    guest: Handover,
    progress: &mut dyn FnMut(GuestNs),
) -> Result<Handover, KvmError> {
    let Handover { machine, live } = guest;
    let guest = run_session(host, machine, live, None, &mut |guest_ns, _| {
        progress(guest_ns)
    })?;
    Ok(Handover {
        machine: guest.machine,
        live: guest.journal.into_live(),
    })
}

/// What a session leaves behind.
struct Ran {
    machine: Machine,
    journal: Journal,
    now: Tick,
    statistics: BTreeMap<String, u64>,
}

fn run_session(
    host: &Host,
    machine: Machine,
    live: Live,
    writer: Option<Writer>,
    progress: &mut dyn FnMut(GuestNs, u64),
) -> Result<Ran, KvmError> {
    let journal = Journal::new(live, writer);
    let clock = HostClock::new(host.slowdown);
    // SAFETY: the session holds the machine until the virtual one is dropped, and uses its RAM between runs only.
    let vm = unsafe { Vm::new(&host.kvm, &machine.cpu.memory, machine.cpu.model())? };
    let mut session = Session::new(vm, machine, journal, clock, host.list_period)?;
    session.run(progress)?;
    let (mut machine, journal, clock, statistics) = session.finish()?;
    let now = clock.now();
    machine.cpu.set_tick(now);
    Ok(Ran {
        machine,
        journal,
        now,
        statistics,
    })
}
