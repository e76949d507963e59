//! What the host's KVM is like, tried in small machines before anything is recorded.

use super::error::KvmError;
use super::scaled::Scaled;
use super::vm::{self, Left, Vm};
use crate::cpu::cpuid::CpuModel;
use crate::cpu::state::{Segment, State, cr0, cr4, efer, gpr, seg};
use crate::memory::Memory;
use crate::tick::NS_PER_TICK;
use kvm_bindings::KVM_CAP_TSC_CONTROL;
use std::time::{Duration, Instant};

/// Nanoseconds an instruction above which guest time is slowed down.
const NS_PER_INSTRUCTION: u64 = NS_PER_TICK;
/// Iterations of the loop that is timed.
const MEASURED: u64 = 4000;
/// It is timed so often; the fastest counts, for others may use the host, too.
const MEASUREMENTS: u32 = 4;
/// Where the code of a probe is.
const CODE: u64 = 0x8000;
/// And where SYSCALL leads.
const ENTRY: u64 = 0x9000;

/// What a machine that ran for a moment was like at its end.
struct Tried {
    memory: Memory,
    state: State,
    left: Left,
    took: Duration,
}

/// Runs a state with the machine's memory until it leaves the guest.
fn run(kvm: &kvm_ioctls::Kvm, memory: Memory, state: State) -> Result<Tried, KvmError> {
    run_to(kvm, memory, state, None)
}

/// The same, or until the instruction at an address comes next.
fn run_to(
    kvm: &kvm_ioctls::Kvm,
    memory: Memory,
    mut state: State,
    address: Option<u64>,
) -> Result<Tried, KvmError> {
    // SAFETY: the machine is dropped before the memory, which nobody else uses.
    let mut vm = unsafe { Vm::new(kvm, &memory, &vm::common_model(kvm, &CpuModel::native())?)? };
    vm.load(&state, 0)?;
    if let Some(address) = address {
        vm.break_at(address)?;
    }
    let start = Instant::now();
    vm.kick_in(Duration::from_secs(1));
    let left = vm.enter()?;
    let took = start.elapsed();
    vm.store(&memory, &mut state)?;
    drop(vm);
    Ok(Tried {
        memory,
        state,
        left,
        took,
    })
}

/// How many times slower than the emulator the guest's kernel is executed; 1 where it is faster.
pub fn slowdown(kvm: &kvm_ioctls::Kvm) -> Result<u32, KvmError> {
    let mut fastest = Duration::MAX;
    for _ in 0..MEASUREMENTS {
        let mut memory = Memory::new(1 << 20)?;
        // loop $; hlt
        memory.write(CODE, &[0xe2, 0xfe, 0xf4]);
        let mut state = State::reset();
        state.seg[seg::CS].selector = 0;
        state.seg_base[seg::CS] = 0;
        state.gpr[gpr::RCX] = MEASURED;
        state.set_rip(CODE);
        let tried = run(kvm, memory, state)?;
        if tried.left != Left::Halt {
            log::warn!("the measuring loop ended by {:?}", tried.left);
        }
        fastest = fastest.min(tried.took);
    }
    let ns = fastest.as_nanos() as u64 / MEASURED;
    Ok((ns / NS_PER_INSTRUCTION).clamp(1, 1000) as u32)
}

/// A state of 64-bit mode at [`CODE`] in a ring, with the first 2 MiB mapped for all rings, and the memory for it.
fn long_mode(ring: u16) -> Result<(Memory, State), KvmError> {
    let mut memory = Memory::new(1 << 20)?;
    memory.write(0x1000, &0x2007u64.to_le_bytes());
    memory.write(0x2000, &0x3007u64.to_le_bytes());
    memory.write(0x3000, &0x87u64.to_le_bytes());
    let mut state = State::reset();
    let flat = |selector, rights| Segment {
        limit: u32::MAX,
        rights: rights | ring << 5,
        selector: selector | ring,
    };
    state.seg = [flat(0x28, 0xc093); 6];
    state.seg[seg::CS] = flat(0x30, 0xa09b);
    state.seg_base = Default::default();
    state.cpl = ring as u8;
    state.cr0 = cr0::PG | cr0::PE | cr0::ET | cr0::NE | cr0::WP;
    state.cr3 = 0x1000;
    state.cr4 = cr4::PAE | cr4::OSFXSR;
    state.efer = efer::LMA | efer::LME | efer::SCE;
    state.gpr[gpr::RSP] = 0x7000;
    state.set_rip(CODE);
    Ok((memory, state))
}

/// Whether SYSCALL of ring 3 comes to ring 0.
pub fn makes_entries(kvm: &kvm_ioctls::Kvm) -> Result<bool, KvmError> {
    let (mut memory, mut state) = long_mode(3)?;
    // syscall; there: out 0x80, al
    memory.write(CODE, &[0x0f, 0x05]);
    memory.write(ENTRY, &[0xe6, 0x80]);
    state.star = 0x23 << 48 | 0x10 << 32;
    state.lstar = ENTRY;
    state.fmask = 0x200;
    let tried = run(kvm, memory, state)?;
    let ring = tried.state.cpl;
    log::debug!("SYSCALL of ring 3 left by {:?} in ring {ring}", tried.left);
    Ok(matches!(tried.left, Left::Out { .. }) && ring == 0)
}

/// Whether a breakpoint of ours is noticed in ring 3.
pub fn breaks_in_programs(kvm: &kvm_ioctls::Kvm) -> Result<bool, KvmError> {
    let (mut memory, state) = long_mode(3)?;
    // Twice nop; then out 0x80, al, which nobody here may and nothing handles.
    memory.write(CODE, &[0x90, 0x90, 0xe6, 0x80]);
    let tried = run_to(kvm, memory, state, Some(CODE + 1))?;
    log::debug!("A breakpoint in ring 3 left by {:?}", tried.left);
    Ok(tried.left == Left::Breakpoint && tried.state.rip() == CODE + 1)
}

/// Whether FXSAVE of ring 0 writes what processors do, which leave the last 96 bytes alone (SDM volume 1, 10.5.1).
pub fn fxsave_is_exact(kvm: &kvm_ioctls::Kvm) -> Result<bool, KvmError> {
    const AREA: u64 = 0x6000;
    const WRITTEN: usize = 416;
    let (mut memory, mut state) = long_mode(0)?;
    // fxsave64 [rbx]; out 0x80, al
    memory.write(CODE, &[0x48, 0x0f, 0xae, 0x03, 0xe6, 0x80]);
    memory.write(AREA, &[0xa5; 512]);
    state.gpr[gpr::RBX] = AREA;
    let tried = run(kvm, memory, state)?;
    let mut area = [0; 512];
    tried.memory.read(AREA, &mut area);
    log::debug!("FXSAVE of ring 0 left by {:?}", tried.left);
    Ok(matches!(tried.left, Left::Out { .. }) && area[WRITTEN..] == [0xa5; 96])
}

/// Whether CPUID shows what the table says and no more.
pub fn keeps_cpuid(kvm: &kvm_ioctls::Kvm) -> Result<bool, KvmError> {
    let memory = Memory::new(1 << 20)?;
    let model = vm::common_model(kvm, &CpuModel::native())?;
    // SAFETY: the machine is dropped before the memory, which nobody else uses.
    let vm = unsafe { Vm::new(kvm, &memory, &model)? };
    vm.keeps_cpuid(&model)
}

/// Whether the guest's time-stamp counter can be held still by scaling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// The host does not offer it.
    Missing,
    /// It does, and it was tried, and did not do what is needed.
    Unfit,
    /// Every value that was read was the one that was set.
    Exact,
}

/// Reads the counter again and again, and halts as soon as it is not RBX; counts in RCX.
const READER: [u8; 18] = [
    0x0f, 0x31, // again: rdtsc
    0x48, 0xc1, 0xe2, 0x20, // shl rdx, 32
    0x48, 0x09, 0xd0, // or rax, rdx
    0x48, 0xff, 0xc1, // inc rcx
    0x48, 0x39, 0xd8, // cmp rax, rbx
    0x74, 0xef, // je again
    0xf4, // hlt: #GP in ring 3, and no table of handlers
];
/// What a guest's counter is held at, one after the other.
const HELD: [u64; 6] = [1, 0xffff_ffff, 1 << 32, 0, u64::MAX, 0x1234_5678_9abc_def0];
/// Each value is tried so often: somebody else may use the host.
const TRIES: u32 = 20;
/// The counter does not stand still for so long.
const TOO_LONG: Duration = Duration::from_millis(4);

/// Tries whether the counter can be held still.
pub fn scaling(kvm: &kvm_ioctls::Kvm) -> Scaling {
    if kvm.check_extension_raw(KVM_CAP_TSC_CONTROL.into()) <= 0 {
        return Scaling::Missing;
    }
    for ring in [0, 3] {
        match holds_counter(kvm, ring) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                log::info!("the scaled time-stamp counter in ring {ring}: {why}");
                return Scaling::Unfit;
            }
            Err(error) => {
                log::info!("the scaled time-stamp counter in ring {ring}: {error}");
                return Scaling::Unfit;
            }
        }
    }
    Scaling::Exact
}

/// Memory, and a machine that is about to execute [`READER`] in a ring, which must be dropped first.
fn reader(kvm: &kvm_ioctls::Kvm, ring: u16) -> Result<(Memory, Vm), KvmError> {
    let (mut memory, state) = long_mode(ring)?;
    memory.write(CODE, &READER);
    // SAFETY: both are given to somebody who drops the machine first; nobody else uses the memory.
    let mut vm = unsafe { Vm::new(kvm, &memory, &vm::common_model(kvm, &CpuModel::native())?)? };
    vm.load(&state, 0)?;
    Ok((memory, vm))
}

/// Whether a guest reads what is set, and whether a change is noticed. The error says what is wrong.
fn holds_counter(kvm: &kvm_ioctls::Kvm, ring: u16) -> Result<Result<(), String>, KvmError> {
    let (_memory, mut vm) = reader(kvm, ring)?;
    let mut scaled = Scaled::new(&mut vm)?;
    let mut tries = TRIES * HELD.len() as u32;
    for value in HELD {
        loop {
            tries -= 1;
            if tries == 0 {
                return Ok(Err("the host is too busy".to_string()));
            }
            vm.change_regs(|regs| (regs.rip, regs.rbx, regs.rcx) = (CODE, value, 0))?;
            let known = scaled.kick_in(&mut vm, value, Duration::from_millis(1))?;
            let left = vm.enter()?;
            let held = scaled.is_held(&mut vm)?;
            let reads = vm.regs()?.rcx;
            match (left, held) {
                (Left::Kicked, true) if known && reads > 0 => break,
                (Left::Kicked, _) => {}
                (left, held) => {
                    let still = if held { "still" } else { "not" };
                    return Ok(Err(format!(
                        "read {reads} used another value than {value:#x}, where the counter {still} was held: {left:?}"
                    )));
                }
            }
        }
    }
    scaled.kick_in(&mut vm, HELD[0], TOO_LONG)?;
    vm.change_regs(|regs| (regs.rip, regs.rbx, regs.rcx) = (CODE, HELD[0], 0))?;
    vm.kick_in(TOO_LONG);
    let left = vm.enter()?;
    let noticed = left != Left::Kicked && !scaled.is_held(&mut vm)?;
    Ok(match noticed {
        true => Ok(()),
        false => Err(format!("a change was not noticed: {left:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_reads_until_the_counter_changes() {
        let kvm = match vm::open() {
            Ok(kvm) => kvm,
            Err(error) => {
                eprintln!("SKIPPED: the_reader_reads_until_the_counter_changes: {error}");
                return;
            }
        };
        for (ring, end) in [(0, Left::Halt), (3, Left::Shutdown)] {
            let (_memory, mut vm) = reader(&kvm, ring).unwrap();
            // Not what it is: nothing scales it here.
            vm.change_regs(|regs| (regs.rbx, regs.rcx) = (7, 0))
                .unwrap();
            vm.kick_in(Duration::from_secs(1));
            assert_eq!(vm.enter().unwrap(), end, "ring {ring}");
        }
        assert_eq!(
            scaling(&kvm) == Scaling::Missing,
            kvm.check_extension_raw(KVM_CAP_TSC_CONTROL.into()) <= 0
        );
    }
}
