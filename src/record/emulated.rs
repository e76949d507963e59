//! The emulating recorder: the engine runs with live devices, and everything is written down.

use super::console::Console;
use super::handover::Handover;
use super::keeper::{Keeper, Nothing};
use super::live::{Live, Random};
use super::moment::Came;
use super::recorder::Recorder;
use crate::cpu::cpuid::CpuModel;
pub use crate::cpu::cpuid::{Level, Processor, Vendor};
use crate::cpu::run::Exit;
use crate::cpu::stops::Stops;
use crate::machine::{Machine, STATE_VERSION, boot};
use crate::memory::MemoryError;
use crate::tick::{GuestNs, NS_PER_TICK, Tick};
use crate::trace::{
    Accel, CpuidLeaf, EndReason, Error as TraceError, Identity, MachineConfig, Writer,
};
use devices::{Board, BoardConfig};
use std::path::Path;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Ticks between two digests: the distance of checkpoints, too.
pub const DIGEST_DISTANCE: Tick = 1 << 23;
/// Somebody who watches a run that is not recorded hears of it this often.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// Guest-physical address of the ACPI tables.
pub const ACPI_TABLES: u64 = 0xe_0000;

/// What to record.
pub struct Plan<'a> {
    /// The kernel image.
    pub kernel: &'a [u8],
    /// Where it came from, for people.
    pub kernel_name: String,
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Where that came from.
    pub initrd_name: Option<String>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Which processor.
    pub cpu: Processor,
    /// RAM in bytes.
    pub ram_bytes: u64,
    /// Which boot protocol, if not the natural one.
    pub protocol: Option<boot::Protocol>,
    /// Stop at this tick of the recording.
    pub ticks_max: Option<Tick>,
    /// Stop when the recording has so much guest time.
    pub guest_ns_max: Option<GuestNs>,
    /// What the real-time clock shows at power-on, in seconds since 1970.
    pub rtc_epoch_s: u64,
    /// When this is, for the header.
    pub created_unix_s: u64,
    /// Where RDRAND and RDSEED get their numbers.
    pub random: Random,
    /// A random number that tells this recording from all others.
    pub identity: [u8; 16],
}

/// Why nothing was recorded, or not all.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The kernel.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// The memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The file.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// How a recording went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Length.
    pub ticks: Tick,
    /// Why it ended.
    pub reason: EndReason,
    /// Guest time at the end.
    pub guest_ns: GuestNs,
    /// Events written.
    pub events: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Host time.
    pub wall: Duration,
}

/// A machine that is ready to be recorded (or just run).
pub struct Prepared {
    /// Loaded and at its entry.
    pub machine: Machine,
    /// Its devices.
    pub board: Board,
    /// What was loaded, in words.
    pub description: String,
    /// Name of the boot protocol.
    pub protocol: String,
    model: CpuModel,
}

/// Loads the kernel into a new machine.
pub fn prepare(plan: &Plan) -> Result<Prepared, RecordError> {
    prepare_as(plan, CpuModel::new(plan.cpu))
}

/// The same with a processor of somebody's choice.
pub(super) fn prepare_as(plan: &Plan, model: CpuModel) -> Result<Prepared, RecordError> {
    let board_config = BoardConfig {
        cpus: 1,
        ram_bytes: plan.ram_bytes,
        rtc_epoch_s: plan.rtc_epoch_s,
    };
    let mut machine = Machine::new(plan.ram_bytes, model.clone())?;
    let layout = boot::Layout {
        ram_bytes: plan.ram_bytes,
        acpi_rsdp: ACPI_TABLES,
        protocol: plan.protocol,
    };
    let image = boot::load(plan.kernel, plan.initrd, &plan.cmdline, &layout)?;
    machine.load(&image);
    machine.cpu.memory.write(
        ACPI_TABLES,
        &devices::acpi::tables(&board_config, ACPI_TABLES),
    );
    Ok(Prepared {
        machine,
        board: Board::new(&board_config),
        description: image.description,
        protocol: image.protocol.to_string(),
        model,
    })
}

/// What the header of a recording says.
pub(super) fn config(plan: &Plan, prepared: &Prepared) -> MachineConfig {
    MachineConfig {
        ram_bytes: plan.ram_bytes,
        cpus: 1,
        cpu_vendor: prepared.model.vendor_text(),
        cpu_model: plan.cpu.level.name().to_string(),
        cpuid: prepared
            .model
            .leaves
            .iter()
            .map(|l| CpuidLeaf {
                leaf: l.leaf,
                subleaf: l.subleaf,
                eax: l.registers[0],
                ebx: l.registers[1],
                ecx: l.registers[2],
                edx: l.registers[3],
            })
            .collect(),
        rtc_epoch_s: plan.rtc_epoch_s,
        kernel: plan.kernel_name.clone(),
        initrd: plan.initrd_name.clone(),
        cmdline: plan.cmdline.clone(),
        boot_protocol: prepared.protocol.clone(),
        accel: Accel::Emulate,
        program: env!("CARGO_PKG_VERSION").to_string(),
        created_unix_s: plan.created_unix_s,
        identity: Identity(plan.identity),
        digest_distance_ticks: DIGEST_DISTANCE,
        ns_per_tick: NS_PER_TICK,
        untimed: false,
        counter: false,
        start: None,
    }
}

/// Records a run into a file. `progress` hears the position several times a second.
pub fn record(
    plan: &Plan,
    path: &Path,
    console: Box<dyn Console>,
    progress: impl FnMut(Tick, GuestNs, u64),
) -> Result<Outcome, RecordError> {
    record_kept(plan, path, console, &mut Nothing, progress)
}

/// Records a run into a file, and lets somebody keep states of the machine on the way.
pub fn record_kept(
    plan: &Plan,
    path: &Path,
    console: Box<dyn Console>,
    keeper: &mut dyn Keeper,
    mut progress: impl FnMut(Tick, GuestNs, u64),
) -> Result<Outcome, RecordError> {
    let prepared = prepare(plan)?;
    let config = config(plan, &prepared);
    let mut live = Live::new(prepared.board, console, plan.random);
    live.set_limit(plan.guest_ns_max);
    let guest = Handover {
        machine: prepared.machine,
        live,
    };
    let (_, outcome) = record_phase(guest, path, &config, plan.ticks_max, keeper, &mut progress)?;
    Ok(outcome)
}

/// Records a phase of a run into a file, from tick 0 up to where its live world says that it is over.
pub(super) fn record_phase(
    guest: Handover,
    path: &Path,
    config: &MachineConfig,
    ticks_max: Option<Tick>,
    keeper: &mut dyn Keeper,
    progress: &mut dyn FnMut(Tick, GuestNs, u64),
) -> Result<(Handover, Outcome), RecordError> {
    let Handover {
        mut machine,
        mut live,
    } = guest;
    let mut writer = Writer::create(path, config)?;
    let started = Instant::now();
    let pages = write_start(&mut writer, &mut machine, STATE_VERSION)?;
    watch_address(&mut machine, &mut live);
    let mut world = Recorder::new(live, writer);
    let mut written = vec![false; machine.cpu.memory.pages()];
    note_pages(&mut written, &pages);
    keeper.begin(path, config, &mut machine, &pages, &world.standing(0));
    let mut next_digest = DIGEST_DISTANCE;
    // A phase that began at a breakpoint does not end there at once.
    let mut pass = true;
    loop {
        let now = machine.tick();
        if let Some(reason) = limit_reached(ticks_max, now) {
            world.live.finish(reason);
        }
        // Often enough for the file to be at most a fraction of a second behind.
        let slice = now + (1 << 21);
        let until = next_digest.min(ticks_max.unwrap_or(Tick::MAX)).min(slice);
        let exit = machine.run(&mut world, until, std::mem::take(&mut pass));
        let now = machine.tick();
        if world.flush_if_due(now) {
            progress(now, world.live.guest_ns(now), world.bytes());
        }
        match exit {
            Exit::Ended => break,
            Exit::Breakpoint => world.live.watch().reached(),
            Exit::Tick if now == next_digest => {
                let digest = machine.digest();
                world.digest(now, &digest);
                keeper.keep(&mut machine, &digest.changed, &world.standing(now));
                note_pages(&mut written, &digest.changed);
                next_digest += DIGEST_DISTANCE;
            }
            _ => {}
        }
    }
    let ticks = machine.tick();
    let guest_ns = world.live.guest_ns(ticks);
    let reason = end_reason(&world.live);
    let last = machine.digest();
    world.digest(ticks, &last);
    keeper.keep(&mut machine, &last.changed, &world.standing(ticks));
    note_pages(&mut written, &last.changed);
    let wall = started.elapsed();
    let events = world.events();
    let live = world.finish(ticks, reason.clone(), guest_ns, wall.as_millis() as u64)?;
    keeper.finish(ticks);
    machine.cpu.drop_notes();
    machine.set_stops(Stops::default());
    for page in (0..written.len()).filter(|&page| written[page]) {
        machine.cpu.memory.mark_dirty(page);
    }
    let bytes = std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
    let outcome = Outcome {
        ticks,
        reason,
        guest_ns,
        events,
        bytes,
        wall,
    };
    Ok((Handover { machine, live }, outcome))
}

fn note_pages(written: &mut [bool], pages: &[u32]) {
    for &page in pages {
        written[page as usize] = true;
    }
}

/// Runs a phase without recording it, up to where its live world says that it is over.
pub(super) fn run_phase(
    guest: Handover,
    ticks_max: Option<Tick>,
    progress: &mut dyn FnMut(GuestNs),
) -> Handover {
    let Handover {
        mut machine,
        mut live,
    } = guest;
    watch_address(&mut machine, &mut live);
    let mut shown = Instant::now();
    loop {
        let now = machine.tick();
        if let Some(reason) = limit_reached(ticks_max, now) {
            live.finish(reason);
        }
        let until = ticks_max.unwrap_or(Tick::MAX).min(now + DIGEST_DISTANCE);
        match machine.run(&mut live, until, false) {
            Exit::Ended => break,
            Exit::Breakpoint => live.watch().reached(),
            _ => {}
        }
        if shown.elapsed() >= PROGRESS_PERIOD {
            shown = Instant::now();
            progress(live.guest_ns(machine.tick()));
        }
    }
    machine.set_stops(Stops::default());
    Handover { machine, live }
}

/// Lets the engine stop where the live world waits for an address.
fn watch_address(machine: &mut Machine, live: &mut Live) {
    machine.set_stops(Stops::new(live.watch().address(), []));
}

/// Why a phase of a run is over, as its recording says it.
pub(super) fn end_reason(live: &Live) -> EndReason {
    match (live.end(), live.came()) {
        (Some(reason), _) => reason.clone(),
        (None, Some(Came::Moment(moment))) => EndReason::Limit(moment.to_string()),
        (None, Some(Came::Asked)) => EndReason::UserQuit,
        (None, Some(Came::Look) | None) => EndReason::Halted,
    }
}

/// Writes what a machine is at the start of its recording. Gives the pages of RAM that are not zero.
pub(super) fn write_start(
    writer: &mut Writer,
    machine: &mut Machine,
    state_version: u32,
) -> Result<Vec<u32>, TraceError> {
    let memory = &machine.cpu.memory;
    // What loading did not write is zero, and is better not looked at: a page that is read takes memory.
    let mut numbers: Vec<u64> = memory
        .dirty()
        .iter()
        .map(|&page| memory.page_address(page as usize) >> 12)
        .collect();
    numbers.sort_unstable();
    writer.ram(numbers, |number, out| {
        memory.read(number << 12, out);
    })?;
    writer.state(state_version, &machine.save())?;
    Ok(machine.cpu.take_dirty())
}

/// Runs the same guest in the same engine without recording anything: what recording is compared with.
pub fn run_unrecorded(plan: &Plan, console: Box<dyn Console>) -> Result<Outcome, RecordError> {
    let prepared = prepare(plan)?;
    let mut live = Live::new(prepared.board, console, plan.random);
    live.set_limit(plan.guest_ns_max);
    let guest = Handover {
        machine: prepared.machine,
        live,
    };
    let started = Instant::now();
    let guest = run_phase(guest, plan.ticks_max, &mut |_| {});
    let ticks = guest.machine.tick();
    Ok(Outcome {
        ticks,
        reason: end_reason(&guest.live),
        guest_ns: guest.live.guest_ns(ticks),
        events: 0,
        bytes: 0,
        wall: started.elapsed(),
    })
}

fn limit_reached(ticks_max: Option<Tick>, now: Tick) -> Option<EndReason> {
    ticks_max
        .is_some_and(|max| now >= max)
        .then(|| EndReason::Limit(format!("{now} ticks")))
}
