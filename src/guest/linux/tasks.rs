//! The task list (include/linux/sched.h), read by the offsets that BTF gives.

use super::Kernel;
use super::btf::Types;
use crate::guest::{Guest, GuestError};

/// A list that is longer goes in a circle: pid_max is 4,194,304 at most, and nobody has as many.
const TASKS_MAX: usize = 65_536;
/// Kernel addresses.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

/// A process: the leader of a group of threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Address of its `struct task_struct`.
    pub address: u64,
    /// Process number.
    pub pid: u32,
    /// Process number of its parent.
    pub parent: u32,
    /// Name, at most 15 characters.
    pub name: String,
    /// As `ps` shows it: R, S, D, T, Z ...
    pub state: char,
    /// Address of its `struct mm_struct`; 0 for a thread of the kernel.
    pub mm: u64,
    /// Linear address of its top page table.
    pub pgd: Option<u64>,
    /// Threads that belong to it, itself included.
    pub threads: usize,
}

/// The offsets that reading tasks needs.
struct Offsets {
    tasks: u64,
    pid: u64,
    tgid: u64,
    comm: u64,
    state: u64,
    exit_state: u64,
    mm: u64,
    pgd: u64,
    real_parent: u64,
    signal: u64,
    nr_threads: u64,
}

impl Offsets {
    fn of(types: &Types) -> Result<Offsets, GuestError> {
        let task = |name: &str| types.offset("task_struct", &[name]);
        Ok(Offsets {
            tasks: task("tasks")?,
            pid: task("pid")?,
            tgid: task("tgid")?,
            comm: task("comm")?,
            // Without the underscores before 5.14.
            state: task("__state").or_else(|_| task("state"))?,
            exit_state: task("exit_state")?,
            mm: task("mm")?,
            pgd: types.offset("mm_struct", &["pgd"])?,
            real_parent: task("real_parent")?,
            signal: task("signal")?,
            nr_threads: types.offset("signal_struct", &["nr_threads"])?,
        })
    }
}

/// All processes, the idle task first.
pub fn list(guest: &dyn Guest, kernel: &Kernel, types: &Types) -> Result<Vec<Task>, GuestError> {
    let offsets = Offsets::of(types)?;
    let first = kernel.symbol("init_task")?.address;
    let mut tasks = Vec::new();
    let mut at = first;
    loop {
        let next = kernel
            .space
            .read_u64(guest, at.wrapping_add(offsets.tasks))
            .ok_or(GuestError::Missing("task list"))?;
        // Before the scheduler is set up there is a list of nothing.
        if next < KERNEL_HALF {
            return Err(GuestError::Missing("task list"));
        }
        tasks.push(read(guest, kernel, &offsets, at).ok_or(GuestError::Missing("task list"))?);
        at = next.wrapping_sub(offsets.tasks);
        if at == first {
            return Ok(tasks);
        }
        if tasks.len() >= TASKS_MAX {
            return Err(GuestError::Damaged("task list", "it does not end"));
        }
    }
}

/// One task by the address of its `struct task_struct`.
pub fn at(
    guest: &dyn Guest,
    kernel: &Kernel,
    types: &Types,
    address: u64,
) -> Result<Task, GuestError> {
    read(guest, kernel, &Offsets::of(types)?, address).ok_or(GuestError::Missing("task"))
}

fn read(guest: &dyn Guest, kernel: &Kernel, offsets: &Offsets, address: u64) -> Option<Task> {
    let space = kernel.space;
    let long = |offset: u64| space.read_u64(guest, address.wrapping_add(offset));
    let int = |offset: u64| space.read_u32(guest, address.wrapping_add(offset));
    let mut name = [0; 16];
    if space.read(guest, address.wrapping_add(offsets.comm), &mut name) < name.len() {
        return None;
    }
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(16);
    let name = name[..end]
        .iter()
        .map(|&byte| match byte {
            b' '..=b'~' => byte as char,
            _ => '?',
        })
        .collect();
    let mm = long(offsets.mm)?;
    let parent = long(offsets.real_parent)?;
    let signal = long(offsets.signal)?;
    Some(Task {
        address,
        pid: int(offsets.pid)?,
        parent: space
            .read_u32(guest, parent.wrapping_add(offsets.tgid))
            .unwrap_or(0),
        name,
        state: state(int(offsets.state)?, int(offsets.exit_state)?),
        mm,
        pgd: (mm != 0)
            .then(|| space.read_u64(guest, mm.wrapping_add(offsets.pgd)))
            .flatten(),
        threads: space
            .read_u32(guest, signal.wrapping_add(offsets.nr_threads))
            .unwrap_or(1) as usize,
    })
}

/// As fs/proc/array.c and `task_state_index` have it.
fn state(state: u32, exit_state: u32) -> char {
    const IDLE: u32 = 0x402;
    const REPORT: u32 = 0x7f;
    if state & IDLE == IDLE {
        return 'I';
    }
    match (state | exit_state) & REPORT {
        0 => 'R',
        bits => ['S', 'D', 'T', 't', 'X', 'Z', 'P'][31 - bits.leading_zeros() as usize],
    }
}

/// Address of the task that a processor runs.
pub fn current(
    guest: &dyn Guest,
    kernel: &Kernel,
    types: &Types,
    cpu: usize,
) -> Result<u64, GuestError> {
    let offset = match kernel.symbols.by_name("current_task") {
        Some(symbol) => symbol.address,
        // 6.2 to 6.14.
        None => kernel
            .symbol("pcpu_hot")?
            .address
            .wrapping_add(types.offset("pcpu_hot", &["current_task"])?),
    };
    let area = per_cpu_area(guest, kernel, cpu)?;
    kernel
        .space
        .read_u64(guest, area.wrapping_add(offset))
        .filter(|&task| task >= KERNEL_HALF)
        .ok_or(GuestError::Missing("current task"))
}

/// What is added to a per-CPU variable's offset.
pub fn per_cpu_area(guest: &dyn Guest, kernel: &Kernel, cpu: usize) -> Result<u64, GuestError> {
    let table = kernel.symbol("__per_cpu_offset")?.address;
    let area = kernel
        .space
        .read_u64(guest, table.wrapping_add(8 * cpu as u64));
    if let Some(area) = area.filter(|&area| area >= KERNEL_HALF) {
        return Ok(area);
    }
    // Before the areas are set up, GS is right: the one that is the kernel's.
    let registers = guest.registers(cpu);
    [registers.gs_base, registers.k_gs_base]
        .into_iter()
        .find(|&base| base >= KERNEL_HALF)
        .ok_or(GuestError::Missing("per-CPU area"))
}
