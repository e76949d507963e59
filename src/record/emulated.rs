//! The emulating recorder: the engine runs with live devices, and everything is written down.

use super::console::Console;
use super::keeper::{Keeper, Nothing};
use super::live::{Live, Random};
use super::recorder::Recorder;
use crate::cpu::cpuid::CpuModel;
pub use crate::cpu::cpuid::{Level, Processor, Vendor};
use crate::cpu::run::Exit;
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
    /// Stop at this tick.
    pub ticks_max: Option<Tick>,
    /// Stop at this guest time.
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
    let mut prepared = prepare(plan)?;
    let config = config(plan, &prepared);
    let mut writer = Writer::create(path, &config)?;
    let started = Instant::now();
    let machine = &mut prepared.machine;
    let pages = write_start(&mut writer, machine, STATE_VERSION)?;
    keeper.begin(path, &config, machine, &pages);
    let mut world = Recorder::new(live(plan, prepared.board, console), writer);
    let mut next_digest = DIGEST_DISTANCE;
    loop {
        let now = machine.tick();
        if let Some(reason) = limit_reached(plan, now) {
            world.live.finish(reason);
        }
        // Often enough for the file to be at most a fraction of a second behind.
        let slice = now + (1 << 21);
        let until = next_digest
            .min(plan.ticks_max.unwrap_or(Tick::MAX))
            .min(slice);
        let exit = machine.run(&mut world, until, false);
        let now = machine.tick();
        if world.flush_if_due(now) {
            progress(now, world.live.guest_ns(now), world.bytes());
        }
        match exit {
            Exit::Ended => break,
            Exit::Tick if now == next_digest => {
                let digest = machine.digest();
                world.digest(now, &digest);
                keeper.keep(machine, &digest.changed, &world.standing(now));
                next_digest += DIGEST_DISTANCE;
            }
            _ => {}
        }
    }
    let ticks = machine.tick();
    let guest_ns = world.live.guest_ns(ticks);
    let reason = world.live.end().cloned().unwrap_or(EndReason::Halted);
    let last = machine.digest();
    world.digest(ticks, &last);
    keeper.keep(machine, &last.changed, &world.standing(ticks));
    let wall = started.elapsed();
    let events = world.events();
    world.finish(ticks, reason.clone(), guest_ns, wall.as_millis() as u64)?;
    keeper.finish(ticks);
    let bytes = std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
    Ok(Outcome {
        ticks,
        reason,
        guest_ns,
        events,
        bytes,
        wall,
    })
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
    let mut prepared = prepare(plan)?;
    let started = Instant::now();
    let mut live = live(plan, prepared.board, console);
    let machine = &mut prepared.machine;
    loop {
        let now = machine.tick();
        if let Some(reason) = limit_reached(plan, now) {
            live.finish(reason);
        }
        let until = plan
            .ticks_max
            .unwrap_or(Tick::MAX)
            .min(now + DIGEST_DISTANCE);
        if machine.run(&mut live, until, false) == Exit::Ended {
            break;
        }
    }
    let ticks = machine.tick();
    let reason = live.end().cloned().unwrap_or(EndReason::Halted);
    Ok(Outcome {
        ticks,
        reason,
        guest_ns: live.guest_ns(ticks),
        events: 0,
        bytes: 0,
        wall: started.elapsed(),
    })
}

/// The live world with its limit of guest time; the limit of ticks is where the machine is run to.
pub(super) fn live(plan: &Plan, board: Board, console: Box<dyn Console>) -> Live {
    let mut live = Live::new(board, console, plan.random);
    if let Some(guest_ns) = plan.guest_ns_max {
        live.set_limit(guest_ns);
    }
    live
}

fn limit_reached(plan: &Plan, now: Tick) -> Option<EndReason> {
    plan.ticks_max
        .is_some_and(|max| now >= max)
        .then(|| EndReason::Limit(format!("{now} ticks")))
}
