//! Memory accesses of single elements under a mask: VMASKMOV, VPMASKMOV and the gathers.
//!
//! Elements that the mask does not select are not accessed and cannot fault. A gather that faults has loaded the
//! elements before and cleared their mask, so that it goes on from there (SDM volume 2, VGATHERDPS). Alignment is
//! never checked (#AC).

use super::{Form, Lowered, WIDE, straight};
use crate::cpu::decode::Context;
use crate::cpu::flags::Width;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use iced_x86::Mnemonic;

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    if !form.vex {
        return None;
    }
    macro_rules! masked {
        ($W:ty) => {
            if context.is_memory(0) {
                straight(store::<$W>)
            } else {
                straight(load::<$W>)
            }
        };
    }
    let mnemonic = context.insn.mnemonic();
    match mnemonic {
        M::Vmaskmovps | M::Vpmaskmovd => {
            op.flags |= if form.wide { WIDE } else { 0 };
            masked!(u32)
        }
        M::Vmaskmovpd | M::Vpmaskmovq => {
            op.flags |= if form.wide { WIDE } else { 0 };
            masked!(u64)
        }
        M::Vgatherdps | M::Vpgatherdd => gather::<u32, u32>(context, op),
        M::Vgatherdpd | M::Vpgatherdq => gather::<u32, u64>(context, op),
        M::Vgatherqps | M::Vpgatherqd => gather::<u64, u32>(context, op),
        M::Vgatherqpd | M::Vpgatherqq => gather::<u64, u64>(context, op),
        _ => None,
    }
}

/// Element `n` of a register.
fn element<W: Width>(register: &[u64; 4], n: usize) -> W {
    let bytes: &[u8] = bytemuck::bytes_of(register);
    bytemuck::pod_read_unaligned(&bytes[n * W::BYTES..(n + 1) * W::BYTES])
}

fn set_element<W: Width>(register: &mut [u64; 4], n: usize, value: W) {
    let bytes: &mut [u8] = bytemuck::bytes_of_mut(register);
    bytes[n * W::BYTES..(n + 1) * W::BYTES].copy_from_slice(bytemuck::bytes_of(&value));
}

/// Elements of a register.
fn count<W: Width>(op: &Op) -> usize {
    if op.has(WIDE) {
        32 / W::BYTES
    } else {
        16 / W::BYTES
    }
}

fn load<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let mask = cpu.state.vector[(op.src & 15) as usize].0;
    let mut result = [0; 4];
    for n in 0..count::<W>(op) {
        if element::<W>(&mask, n).sign() {
            let address = cpu.part_address(op, (n * W::BYTES) as u64, W::BYTES, false)?;
            let value = cpu.without_alignment(|cpu| cpu.read::<W>(address))?;
            set_element(&mut result, n, value);
        }
    }
    cpu.state.vector[(op.dst & 15) as usize].0 = result;
    Ok(())
}

fn store<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let mask = cpu.state.vector[(op.src & 15) as usize].0;
    let data = cpu.state.vector[(op.aux & 15) as usize].0;
    let selected = |n: &usize| element::<W>(&mask, *n).sign();
    let mut addresses = [0; 8];
    for n in (0..count::<W>(op)).filter(selected) {
        addresses[n] = cpu.part_address(op, (n * W::BYTES) as u64, W::BYTES, true)?;
        cpu.check_write(addresses[n], W::BYTES)?;
    }
    for n in (0..count::<W>(op)).filter(selected) {
        let value = element::<W>(&data, n);
        cpu.without_alignment(|cpu| cpu.write(addresses[n], value))?;
    }
    Ok(())
}

/// `I`: the width of an index; `W`: that of an element. #UD where two of the three registers are the same.
fn gather<I: Width, W: Width>(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    let index = insn.memory_index();
    let registers = [op.dst & 15, op.aux & 15, index.number() as u8];
    if registers[0] == registers[1] || registers[0] == registers[2] || registers[1] == registers[2]
    {
        return None;
    }
    // As many elements as fit of both kinds: one register may be half full.
    let wide = insn.op0_register().is_ymm() || index.is_ymm();
    let bytes = if wide { 32 } else { 16 };
    op.aux2 = bytes / I::BYTES.max(W::BYTES) as u8;
    straight(gather_elements::<I, W>)
}

fn gather_elements<I: Width, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let index = cpu.state.vector[(op.index & 15) as usize].0;
    let (destination, mask) = ((op.dst & 15) as usize, (op.aux & 15) as usize);
    // All of an element's mask is as its top bit before anything is loaded, those of elements that have no index
    // included; what is beyond the vector length is 0.
    let length = op.aux2 as usize * I::BYTES.max(W::BYTES);
    for n in 0..32 / W::BYTES {
        let sign = n < length / W::BYTES && element::<W>(&cpu.state.vector[mask].0, n).sign();
        let bits = W::from_u64(if sign { !0 } else { 0 });
        set_element(&mut cpu.state.vector[mask].0, n, bits);
    }
    for n in 0..op.aux2 as usize {
        if element::<W>(&cpu.state.vector[mask].0, n).sign() {
            let address = gather_address(cpu, op, element::<I>(&index, n).sext(), W::BYTES)?;
            let value = cpu.without_alignment(|cpu| cpu.read::<W>(address))?;
            set_element(&mut cpu.state.vector[destination].0, n, value);
            cpu.state.vector[destination].0[length / 8..].fill(0);
            set_element(&mut cpu.state.vector[mask].0, n, W::from_u64(0));
        }
    }
    // What is behind the elements is cleared in both registers.
    let used = op.aux2 as usize * W::BYTES;
    for register in [destination, mask] {
        let bytes: &mut [u8; 32] = bytemuck::cast_mut(&mut cpu.state.vector[register].0);
        bytes[used..].fill(0);
    }
    Ok(())
}

fn gather_address(cpu: &mut Cpu, op: &Op, index: u64, bytes: usize) -> Result<u64, Abort> {
    let mut offset = cpu.state.gpr[op.base as usize]
        .wrapping_add(index << op.scale)
        .wrapping_add(op.disp as i64 as u64);
    if op.has(op_flags::ADDRESS32) {
        offset &= 0xffff_ffff;
    }
    cpu.segment_address(op.seg as usize, offset, bytes, false)
}
