//! XSAVE, XSAVEOPT, XRSTOR, XGETBV, XSETBV for the components x87, SSE and AVX.
//!
//! SDM volume 1, chapter 13. Whether a component is in use is told from its content alone: it is in its initial
//! configuration or not. XSAVEOPT leaves out what is; it does not look for what is unmodified, which depends on more
//! than the state. The compacted format (XSAVEC, XSAVES) is not offered.

use super::state::{self, AREA_WHOLE, MXCSR_MASK};
use super::{Lowered, XCR0_AVX, ending, straight};
use crate::cpu::decode::{Context, Mode};
use crate::cpu::op::{Flow, Op};
use crate::cpu::state::{X87, cr0, cr4, gpr};
use crate::cpu::{Abort, Cpu, vector};
use bytemuck::Zeroable;
use iced_x86::Mnemonic;

/// Components: bits of XCR0.
const X87_STATE: u64 = 1;
const SSE_STATE: u64 = 2;
const AVX_STATE: u64 = 4;
/// Offsets in the area, and its size.
const HEADER: usize = AREA_WHOLE;
const UPPER_HALVES: usize = 576;
const AREA: usize = 832;
/// The parts of the legacy area: x87, MXCSR between them, XMM.
const X87_HEAD: usize = 24;
const X87_REGISTERS: usize = 32;
const XMM: usize = 160;

/// Chooses handlers.
pub fn lower(context: &Context) -> Option<Lowered> {
    use Mnemonic as M;
    match context.insn.mnemonic() {
        M::Xsave => straight(xsave::<false, false>),
        M::Xsave64 => straight(xsave::<true, false>),
        M::Xsaveopt => straight(xsave::<false, true>),
        M::Xsaveopt64 => straight(xsave::<true, true>),
        M::Xrstor => straight(xrstor::<false>),
        M::Xrstor64 => straight(xrstor::<true>),
        M::Xgetbv => straight(xgetbv),
        M::Xsetbv => ending(xsetbv),
        _ => None,
    }
}

/// The components that XCR0 may have: those that CPUID tells.
fn offered(cpu: &Cpu) -> u64 {
    let [low, _, _, high] = cpu.model.query(0xd, 0);
    (u64::from(high) << 32 | u64::from(low)) & (X87_STATE | SSE_STATE | AVX_STATE)
}

fn switched_on(cpu: &mut Cpu) -> Result<(), Abort> {
    if cpu.state.cr4 & cr4::OSXSAVE == 0 {
        return cpu.undefined();
    }
    Ok(())
}

/// EDX:EAX.
fn pair(cpu: &Cpu) -> u64 {
    cpu.state.gpr[gpr::RDX] << 32 | cpu.state.gpr[gpr::RAX] & 0xffff_ffff
}

fn xgetbv(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    switched_on(cpu)?;
    if cpu.state.gpr[gpr::RCX] as u32 != 0 {
        return cpu.general_protection();
    }
    let value = cpu.state.xcr0;
    cpu.state.gpr[gpr::RAX] = value & 0xffff_ffff;
    cpu.state.gpr[gpr::RDX] = value >> 32;
    Ok(())
}

fn xsetbv(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    switched_on(cpu)?;
    cpu.privileged()?;
    let value = pair(cpu);
    let without_sse = value & XCR0_AVX == AVX_STATE;
    let unknown = value & !offered(cpu) != 0;
    if cpu.state.gpr[gpr::RCX] as u32 != 0 || value & X87_STATE == 0 || without_sse || unknown {
        return cpu.general_protection();
    }
    cpu.state.xcr0 = value;
    cpu.advance(op);
    Ok(Flow::Attention)
}

/// The checks of all instructions here, and the address of the area.
fn area_address(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Abort> {
    switched_on(cpu)?;
    if cpu.state.cr0 & cr0::TS != 0 {
        return cpu.raise(vector::NM);
    }
    let address = cpu.part_address(op, 0, 1, write)?;
    cpu.check_canonical(address, 1)?;
    cpu.check_alignment(address, 4)?;
    if address & 63 != 0 {
        return cpu.general_protection();
    }
    Ok(address)
}

/// Faults where the parts of an area would that belong to some components; the header belongs to all.
fn probe(cpu: &mut Cpu, op: &Op, components: u64, write: bool) -> Result<(), Abort> {
    let start = if components == 0 { HEADER } else { 0 };
    let end = if components & AVX_STATE != 0 {
        AREA
    } else {
        UPPER_HALVES
    };
    let address = cpu.part_address(op, start as u64, end - start, write)?;
    state::probe(cpu, address, end - start, write)
}

fn initial_x87() -> X87 {
    X87 {
        control: 0x37f,
        tag: 0xffff,
        ..X87::zeroed()
    }
}

/// Registers that the mode has.
fn register_count(cpu: &Cpu) -> usize {
    if cpu.mode == Mode::Bits64 { 16 } else { 8 }
}

/// The components that are not in their initial configuration: of the registers that the mode has (SDM volume 1, 13.6).
fn in_use(cpu: &Cpu) -> u64 {
    let mut bits = 0;
    if cpu.state.x87 != initial_x87() {
        bits |= X87_STATE;
    }
    for register in &cpu.state.vector[..register_count(cpu)] {
        if register.0[..2] != [0; 2] {
            bits |= SSE_STATE;
        }
        if register.0[2..] != [0; 2] {
            bits |= AVX_STATE;
        }
    }
    bits
}

fn xsave<const LONG: bool, const OPTIMISED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let address = area_address(cpu, op, true)?;
    let wanted = pair(cpu) & cpu.state.xcr0;
    let used = in_use(cpu);
    let written = if OPTIMISED { wanted & used } else { wanted };
    probe(cpu, op, wanted, true)?;
    let old: u64 = cpu.read(address.wrapping_add(HEADER as u64))?;
    let mut area = [0; AREA_WHOLE];
    if written & X87_STATE != 0 {
        state::put_x87(&cpu.state.x87, LONG, &mut area);
        state::write_area(cpu, address, &area[..16])?;
        let rest: [u8; 8] = std::array::from_fn(|n| area[16 + n]);
        cpu.write(address.wrapping_add(16), rest)?;
        let registers = address.wrapping_add(X87_REGISTERS as u64);
        state::write_area(cpu, registers, &area[X87_REGISTERS..XMM])?;
    }
    if wanted & (SSE_STATE | AVX_STATE) != 0 {
        let control = [cpu.state.mxcsr, MXCSR_MASK];
        cpu.write(address.wrapping_add(X87_HEAD as u64), control)?;
    }
    for (component, at, half) in [(SSE_STATE, XMM, 0), (AVX_STATE, UPPER_HALVES, 2)] {
        if written & component != 0 {
            for n in 0..register_count(cpu) {
                let words = cpu.state.vector[n].0;
                let value = [words[half], words[half + 1]];
                cpu.write(address.wrapping_add((at + 16 * n) as u64), value)?;
            }
        }
    }
    let present = old & !wanted | used & wanted;
    cpu.write(address.wrapping_add(HEADER as u64), present)
}

fn xrstor<const LONG: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let address = area_address(cpu, op, false)?;
    let wanted = pair(cpu) & cpu.state.xcr0;
    let [present, compacted, reserved]: [u64; 3] = cpu.read(address.wrapping_add(HEADER as u64))?;
    // Intel's processors look at what they may have to load before the header says that they must not.
    probe(cpu, op, wanted, false)?;
    if present & !cpu.state.xcr0 != 0 || compacted != 0 || reserved != 0 {
        return cpu.general_protection();
    }
    let mut area = [0; AREA_WHOLE];
    let mut upper = [0; AREA - UPPER_HALVES];
    // All is read before anything changes.
    if wanted != 0 {
        state::read_area(cpu, address, &mut area[..XMM])?;
    }
    if wanted & present & SSE_STATE != 0 {
        let end = XMM + 16 * register_count(cpu);
        state::read_area(cpu, address.wrapping_add(XMM as u64), &mut area[XMM..end])?;
    }
    if wanted & present & AVX_STATE != 0 {
        let end = 16 * register_count(cpu);
        let at = address.wrapping_add(UPPER_HALVES as u64);
        state::read_area(cpu, at, &mut upper[..end])?;
    }
    if wanted & (SSE_STATE | AVX_STATE) != 0 {
        let mxcsr = state::quad(&area, X87_HEAD) as u32;
        if mxcsr & !MXCSR_MASK != 0 {
            return cpu.general_protection();
        }
        cpu.state.mxcsr = mxcsr;
    }
    if wanted & X87_STATE != 0 {
        if present & X87_STATE != 0 {
            state::take_x87(&mut cpu.state.x87, LONG, &area);
        } else {
            cpu.state.x87 = initial_x87();
        }
    }
    // Components that are not present are 0 in the buffers, which is their initial configuration.
    for n in 0..register_count(cpu) {
        let words = &mut cpu.state.vector[n].0;
        if wanted & SSE_STATE != 0 {
            let at = XMM + 16 * n;
            words[0] = state::quad(&area, at);
            words[1] = state::quad(&area, at + 8);
        }
        if wanted & AVX_STATE != 0 {
            let lane: [u64; 2] = bytemuck::pod_read_unaligned(&upper[16 * n..16 * n + 16]);
            words[2..].copy_from_slice(&lane);
        }
    }
    Ok(())
}
