//! The recorder under KVM: the host's processor runs the guest, with the emulator's devices, and what crosses the line
//! is written down as an untimed recording, of which `replay::resolve` makes one of ticks.
//!
//! ```text
//! session   the loop: enter the guest, answer, deliver interrupts
//! vm        the virtual machine, its exits            convert   the processor's state, both ways
//! journal   what is written                           clock     guest time
//! kick      a timer that makes it leave the guest     ioctl     what kvm-ioctls does not have
//! probe     what this host's KVM does not do         entries   SYSCALL and INT n where it does not
//! replaced  RDTSC in the kernel's text              scaled    or a counter that stands still
//! ```
//!
//! What is synchronous needs its order only. What comes by itself (an interrupt) is written with the state at which it
//! comes: RIP, a hash of the registers, one of the x87 and SSE registers. docs/kvm.md says why that is enough.

mod clock;
mod convert;
mod entries;
mod error;
mod ioctl;
mod journal;
mod kick;
mod probe;
mod replaced;
mod scaled;
mod session;
mod vm;

pub use error::KvmError;

use super::console::Console;
use super::emulated::{self, Plan};
use super::handover::Handover;
use super::live::Live;
use crate::cpu::cpuid::CpuModel;
use crate::cpu::state::efer;
use crate::machine::{Code, Machine, STATE_VERSION};
use crate::tick::{GuestNs, Tick};
use crate::trace::{Accel, EndReason, MachineConfig, Writer};
use clock::HostClock;
use entries::Made;
use journal::Journal;
use probe::Scaling;
use replaced::{Replaced, Wanted};
use session::{Held, Session};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use vm::Vm;

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
    /// Whether the time-stamp counter can be held still.
    scaling: Scaling,
    list_period: Duration,
    /// What programs do not get without our help.
    made: Made,
    /// Which instructions of its kernel's text a guest's kernel may not execute itself.
    wanted: Wanted,
    find_code: Option<Box<FindCode>>,
    note: Option<Box<Note>>,
    breaks_in_programs: bool,
}

/// Hears, in one line each, what people should know.
type Note = dyn Fn(&str);
/// Tells where the functions of the kernel in a machine are.
type FindCode = dyn Fn(&Machine) -> Vec<Code>;

/// Hashes of changed pages are taken this often at accesses; where something arrives by itself, always.
const LIST_PERIOD: Duration = Duration::from_millis(10);

impl Host {
    /// Opens KVM and looks how fast it is.
    pub fn open() -> Result<Host, KvmError> {
        let kvm = vm::open()?;
        let slowdown = probe::slowdown(&kvm)?;
        let cpuid = !probe::keeps_cpuid(&kvm)?;
        let scaling = probe::scaling(&kvm);
        Ok(Host {
            slowdown,
            scaling,
            list_period: LIST_PERIOD,
            made: Made {
                calls: !probe::makes_entries(&kvm)?,
                cpuid,
            },
            wanted: Wanted {
                counter: scaling != Scaling::Exact,
                fxsave: !probe::fxsave_is_exact(&kvm)?,
                cpuid,
            },
            find_code: None,
            note: None,
            breaks_in_programs: probe::breaks_in_programs(&kvm)?,
            kvm,
        })
    }

    /// How often hashes of changed pages are taken. Above a second: no more often even where something arrives by
    /// itself, which is less overhead, and more to try when ticks are found.
    pub fn set_list_period(&mut self, period: Duration) {
        self.list_period = period;
    }

    /// Whoever knows where the kernel's functions are when recording begins: RDTSC is recorded there.
    pub fn set_code(&mut self, find: impl Fn(&Machine) -> Vec<Code> + 'static) {
        self.find_code = Some(Box::new(find));
    }

    /// Whoever shows people, in one line each, what they should know when a recording begins.
    pub fn set_note(&mut self, note: impl Fn(&str) + 'static) {
        self.note = Some(Box::new(note));
    }

    /// The places of RDTSC in a machine's kernel; what people should know of it is told if it is recorded.
    fn replaced(&self, machine: &Machine, recorded: bool) -> Replaced {
        let Some(find) = self
            .find_code
            .as_ref()
            .filter(|_| self.wanted != Wanted::default())
        else {
            return Replaced::default();
        };
        let code = find(machine);
        let long = machine.cpu.state.efer & efer::LMA != 0;
        let replaced = Replaced::find(&machine.cpu.memory, self.wanted, &code, long);
        if let Some(note) = self
            .note
            .as_ref()
            .filter(|_| recorded && self.wanted.counter)
        {
            note(&match (code.len(), replaced.counters()) {
                (0, _) => "KVM: the kernel's functions are not known here, so that RDTSC is not recorded: finding ticks \
                           will fail where it is executed (Linux: record when it runs, --accel-before emulate \
                           --record-from console:TEXT)"
                    .to_string(),
                (functions, 0) => {
                    format!("KVM: the kernel's {functions} functions do not read the time-stamp counter")
                }
                (functions, counters) => format!(
                    "KVM: RDTSC is recorded at {counters} places that were found in {functions} functions of the kernel"
                ),
            });
        }
        replaced
    }

    /// Whether it is noticed that execution comes to an address in ring 3. In ring 0 it always is.
    pub fn breaks_in_programs(&self) -> bool {
        self.breaks_in_programs
    }

    /// The processor of a plan that is the same in the engine and here.
    pub fn model(&self, plan: &Plan) -> Result<CpuModel, KvmError> {
        vm::common_model(&self.kvm, &CpuModel::new(plan.cpu))
    }

    /// In one line, what this host's KVM is like.
    pub fn line(&self) -> String {
        let mut line = format!(
            "KVM: the time-stamp counter is hidden from the guest; RDTSC is recorded {}",
            match self.scaling {
                Scaling::Exact => "everywhere, by a counter that is scaled to stand still",
                Scaling::Missing =>
                    "in the kernel's text, by INT3 (this host cannot scale the counter)",
                Scaling::Unfit =>
                    "in the kernel's text, by INT3 (scaling the counter was tried, and is not exact here)",
            }
        );
        if self.slowdown > 1 {
            line += &format!(
                "; the host's KVM executes the guest's kernel by software, guest time passes {} times slower",
                self.slowdown
            );
        }
        let lacks = [
            (self.made.calls, "SYSCALL and INT n of programs"),
            (self.made.cpuid, "CPUID"),
            (self.wanted.fxsave, "the kernel's FXSAVE"),
        ];
        let names: Vec<&str> = lacks.iter().filter(|l| l.0).map(|l| l.1).collect();
        if !names.is_empty() {
            line += &format!("; the engine executes {}", names.join(", "));
        }
        line
    }
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
    config.counter = host.scaling == Scaling::Exact;
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
    let mut journal = Journal::new(live, writer);
    // Programs are in the lower half, mostly.
    let low = |linear: u64| linear >> 63 == 0;
    if !host.breaks_in_programs
        && journal.live.watch().address().is_some_and(low)
        && let Some(note) = &host.note
    {
        note("KVM: this host's KVM notices an address in ring 0 only, and not in programs");
    }
    let clock = HostClock::new(host.slowdown);
    // SAFETY: the session holds the machine until the virtual one is dropped, and uses its RAM between runs only.
    let mut vm = unsafe { Vm::new(&host.kvm, &machine.cpu.memory, machine.cpu.model())? };
    if host.made != Made::default() {
        vm.make_entries(host.made)?;
    }
    let replaced = host.replaced(&machine, journal.records());
    let places = replaced.len() as u64;
    let held = match host.scaling {
        Scaling::Exact => Some(Held::new(&mut vm)?),
        Scaling::Missing | Scaling::Unfit => None,
    };
    let mut session = Session::new(
        vm,
        machine,
        journal,
        clock,
        host.list_period,
        replaced,
        held,
    )?;
    session.run(progress)?;
    let (mut machine, journal, clock, mut statistics) = session.finish()?;
    statistics.insert("replaced_places".to_string(), places);
    let now = clock.now();
    machine.cpu.set_tick(now);
    Ok(Ran {
        machine,
        journal,
        now,
        statistics,
    })
}
