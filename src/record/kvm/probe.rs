//! What the host's KVM is like, tried in small machines before anything is recorded.

use super::error::KvmError;
use super::vm::{self, Left, Vm};
use crate::cpu::cpuid::CpuModel;
use crate::cpu::state::{Segment, State, cr0, cr4, efer, gpr, seg};
use crate::memory::Memory;
use crate::tick::NS_PER_TICK;
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
fn run(kvm: &kvm_ioctls::Kvm, memory: Memory, mut state: State) -> Result<Tried, KvmError> {
    // SAFETY: the machine is dropped before the memory, which nobody else uses.
    let mut vm = unsafe { Vm::new(kvm, &memory, &vm::common_model(kvm, &CpuModel::native())?)? };
    vm.load(&state, 0)?;
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
