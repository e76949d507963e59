//! State of the x87, MMX and SSE units: FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, EMMS.
//!
//! SDM volume 1, 10.5.1 (the layout of the area) and volume 2. FXSAVE leaves the reserved bytes behind the XMM
//! registers alone, and outside 64-bit mode those of XMM8 to XMM15, too.

use super::{Lowered, straight};
use crate::cpu::decode::{Context, Mode};
use crate::cpu::op::Op;
use crate::cpu::state::{F80, X87, cr0};
use crate::cpu::{Abort, Cpu, vector};
use iced_x86::Mnemonic;

/// The bits of MXCSR that exist: all of the lower half, DAZ among them.
pub const MXCSR_MASK: u32 = 0xffff;
/// Bytes of the legacy area up to the end of the XMM registers.
const AREA: usize = 416;
/// Its whole size.
pub(super) const AREA_WHOLE: usize = 512;
/// Where the XMM registers begin.
const XMM: usize = 160;

/// Chooses handlers.
pub fn lower(context: &Context) -> Option<Lowered> {
    use Mnemonic as M;
    match context.insn.mnemonic() {
        M::Fxsave => straight(fxsave::<false>),
        M::Fxsave64 => straight(fxsave::<true>),
        M::Fxrstor => straight(fxrstor::<false>),
        M::Fxrstor64 => straight(fxrstor::<true>),
        M::Ldmxcsr => straight(ldmxcsr::<false>),
        M::Vldmxcsr => straight(ldmxcsr::<true>),
        M::Stmxcsr => straight(stmxcsr::<false>),
        M::Vstmxcsr => straight(stmxcsr::<true>),
        M::Emms => straight(emms),
        _ => None,
    }
}

fn ldmxcsr<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    if VEX {
        cpu.avx_ready()?;
    } else {
        cpu.sse_ready()?;
    }
    let value = cpu.load::<u32>(op)?;
    if value & !MXCSR_MASK != 0 {
        return cpu.general_protection();
    }
    cpu.state.mxcsr = value;
    Ok(())
}

fn stmxcsr<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    if VEX {
        cpu.avx_ready()?;
    } else {
        cpu.sse_ready()?;
    }
    let value = cpu.state.mxcsr;
    cpu.store(op, value)
}

fn emms(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    cpu.enter_mmx();
    cpu.state.x87.tag = 0xffff;
    Ok(())
}

/// Writes the x87 part of the area: the first 24 bytes and the registers in the order of the stack.
pub(super) fn put_x87(x87: &X87, long: bool, area: &mut [u8; AREA_WHOLE]) {
    area[0..2].copy_from_slice(&x87.control.to_le_bytes());
    area[2..4].copy_from_slice(&x87.status.to_le_bytes());
    area[4..6].copy_from_slice(&(x87.abridged_tag() as u16).to_le_bytes());
    area[6..8].copy_from_slice(&x87.opcode.to_le_bytes());
    area[8..16].copy_from_slice(&x87.ip.to_le_bytes());
    area[16..24].copy_from_slice(&x87.data.to_le_bytes());
    if !long {
        area[12..16].copy_from_slice(&(x87.code_selector as u32).to_le_bytes());
        area[20..24].copy_from_slice(&(x87.data_selector as u32).to_le_bytes());
    }
    let top = (x87.status >> 11 & 7) as usize;
    for n in 0..8 {
        let register = &x87.r[(top + n) & 7];
        let at = 32 + 16 * n;
        area[at..at + 8].copy_from_slice(&register.mantissa.to_le_bytes());
        area[at + 8..at + 16].copy_from_slice(&(register.sign_exponent & 0xffff).to_le_bytes());
    }
}

fn word(area: &[u8; AREA_WHOLE], at: usize) -> u16 {
    u16::from_le_bytes([area[at], area[at + 1]])
}

pub(super) fn quad(area: &[u8; AREA_WHOLE], at: usize) -> u64 {
    u64::from(word(area, at))
        | u64::from(word(area, at + 2)) << 16
        | u64::from(word(area, at + 4)) << 32
        | u64::from(word(area, at + 6)) << 48
}

fn canonical(pointer: u64) -> u64 {
    ((pointer << 16) as i64 >> 16) as u64
}

/// Reads it back. Bits of the control and status word that do not exist are dropped, and selectors are not loaded, as
/// CPUID says (leaf 7, EBX bit 13).
pub(super) fn take_x87(x87: &mut X87, long: bool, area: &[u8; AREA_WHOLE]) {
    x87.set_control(word(area, 0));
    x87.set_status(word(area, 2));
    x87.opcode = word(area, 6) & 0x7ff;
    // Of 48 bits, as linear addresses are: what is not canonical becomes so.
    x87.ip = canonical(quad(area, 8));
    x87.data = canonical(quad(area, 16));
    x87.code_selector = 0;
    x87.data_selector = 0;
    if !long {
        x87.ip &= 0xffff_ffff;
        x87.data &= 0xffff_ffff;
    }
    let top = (x87.status >> 11 & 7) as usize;
    for n in 0..8 {
        let at = 32 + 16 * n;
        x87.r[(top + n) & 7] = F80 {
            mantissa: quad(area, at),
            sign_exponent: word(area, at + 8) as u64,
        };
    }
    x87.set_from_abridged(area[4]);
}

/// #NM for both bits, unlike SSE instructions; then the alignment.
fn area_address(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Abort> {
    if cpu.state.cr0 & (cr0::EM | cr0::TS) != 0 {
        return cpu.raise(vector::NM);
    }
    let address = cpu.address(op, AREA_WHOLE, write)?;
    cpu.check_canonical(address, 1)?;
    cpu.check_alignment(address, 4)?;
    if address & 15 != 0 {
        return cpu.general_protection();
    }
    Ok(address)
}

/// XMM registers that the mode has.
fn xmm_count(cpu: &Cpu) -> usize {
    if cpu.mode == Mode::Bits64 { 16 } else { 8 }
}

fn fxsave<const LONG: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let address = area_address(cpu, op, true)?;
    let mut area = [0; AREA_WHOLE];
    put_x87(&cpu.state.x87, LONG, &mut area);
    area[24..28].copy_from_slice(&cpu.state.mxcsr.to_le_bytes());
    area[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    let count = xmm_count(cpu);
    for n in 0..count {
        let at = XMM + 16 * n;
        area[at..at + 16].copy_from_slice(bytemuck::bytes_of(&cpu.xmm(n as u8)));
    }
    probe(cpu, address, AREA_WHOLE, true)?;
    write_area(cpu, address, &area[..XMM + 16 * count])
}

/// Faults where any part of an area would, its last byte first, as Intel's processors do.
pub(super) fn probe(cpu: &mut Cpu, address: u64, bytes: usize, write: bool) -> Result<(), Abort> {
    let last = address.wrapping_add(bytes as u64 - 1);
    for at in [last, address] {
        if write {
            cpu.check_write(at, 1)?;
        } else {
            cpu.read::<u8>(at)?;
        }
    }
    Ok(())
}

/// Stores whole pieces of 16 bytes. `probe` has found that they will not fault.
pub(super) fn write_area(cpu: &mut Cpu, address: u64, bytes: &[u8]) -> Result<(), Abort> {
    for (n, piece) in bytes.as_chunks::<16>().0.iter().enumerate() {
        cpu.write(address.wrapping_add(16 * n as u64), *piece)?;
    }
    Ok(())
}

pub(super) fn read_area(cpu: &mut Cpu, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
    for (n, piece) in bytes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        *piece = cpu.read(address.wrapping_add(16 * n as u64))?;
    }
    Ok(())
}

fn fxrstor<const LONG: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let address = area_address(cpu, op, false)?;
    probe(cpu, address, AREA_WHOLE, false)?;
    let mut area = [0; AREA_WHOLE];
    read_area(cpu, address, &mut area[..AREA])?;
    let mxcsr = quad(&area, 24) as u32;
    if mxcsr & !MXCSR_MASK != 0 {
        return cpu.general_protection();
    }
    take_x87(&mut cpu.state.x87, LONG, &area);
    cpu.state.mxcsr = mxcsr;
    for n in 0..xmm_count(cpu) {
        let at = XMM + 16 * n;
        let value = [quad(&area, at), quad(&area, at + 8)];
        cpu.set_xmm(n as u8, value);
    }
    Ok(())
}
