//! Moving data: MOV, MOVZX, MOVSX(D), LEA, XCHG, XADD, CMPXCHG(8B/16B), BSWAP, MOVBE, CMOVcc, SETcc, CBW and its
//! kin, XLAT, NOP and hints, segment register moves.
//!
//! SDM volume 2, under the names of the instructions.

use super::{Lowered, by_condition, by_wide_width, by_width, condition, ending, straight, width};
use crate::cpu::decode::Context;
use crate::cpu::flags::Width;
use crate::cpu::op::{Flow, Op, op_flags};
use crate::cpu::state::{gpr, seg};
use crate::cpu::{Abort, Cpu};
use iced_x86::{Code, Mnemonic, OpKind};

const AL: u8 = 0;
const RDX: u8 = (gpr::RDX * 8) as u8;

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    match insn.mnemonic() {
        Mnemonic::Mov => mov(context, op),
        Mnemonic::Movnti => by_width!(width(context, 0), W => straight(store_reg::<W>)),
        Mnemonic::Movzx => extend::<false>(context),
        Mnemonic::Movsx | Mnemonic::Movsxd => extend::<true>(context),
        Mnemonic::Lea => by_wide_width!(width(context, 0), W => straight(lea::<W>)),
        Mnemonic::Xchg => {
            let w = width(context, 0);
            if context.is_memory(0) {
                by_width!(w, W => straight(xchg_mem::<W>))
            } else if context.is_memory(1) {
                op.src = op.dst;
                by_width!(w, W => straight(xchg_mem::<W>))
            } else {
                by_width!(w, W => straight(xchg_reg::<W>))
            }
        }
        Mnemonic::Xadd => by_width!(width(context, 0), W => straight(xadd::<W>)),
        Mnemonic::Cmpxchg => by_width!(width(context, 0), W => straight(cmpxchg::<W>)),
        Mnemonic::Cmpxchg8b => straight(cmpxchg8b),
        Mnemonic::Cmpxchg16b => straight(cmpxchg16b),
        Mnemonic::Bswap => match width(context, 0) {
            2 => straight(bswap16),
            4 => straight(bswap::<u32>),
            _ => straight(bswap::<u64>),
        },
        Mnemonic::Movbe => {
            let w = width(context, 0);
            if context.is_memory(0) {
                by_wide_width!(w, W => straight(movbe_store::<W>))
            } else {
                by_wide_width!(w, W => straight(movbe_load::<W>))
            }
        }
        Mnemonic::Cbw => straight(sign_extend_accumulator::<u8, u16>),
        Mnemonic::Cwde => straight(sign_extend_accumulator::<u16, u32>),
        Mnemonic::Cdqe => straight(sign_extend_accumulator::<u32, u64>),
        Mnemonic::Cwd => straight(sign_to_dx::<u16>),
        Mnemonic::Cdq => straight(sign_to_dx::<u32>),
        Mnemonic::Cqo => straight(sign_to_dx::<u64>),
        Mnemonic::Xlatb => {
            op.seg = crate::cpu::isa::string::source_segment(context);
            straight(xlat)
        }
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Endbr32
        | Mnemonic::Pause
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1
        | Mnemonic::Cldemote
        | Mnemonic::Rdsspd
        | Mnemonic::Rdsspq
        | Mnemonic::Reservednop
        | Mnemonic::Lfence
        | Mnemonic::Sfence
        | Mnemonic::Mfence => straight(nop),
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
            far_pointer(context, op)
        }
        _ if is_cmov(insn.code()) => {
            let w = width(context, 0);
            let cc = condition(context);
            if context.is_memory(1) {
                op.aux = cc;
                by_wide_width!(w, W => straight(cmov_mem::<W>))
            } else {
                by_condition!(cc, CC => by_wide_width!(w, W => straight(cmov_reg::<W, CC>)))
            }
        }
        _ if is_setcc(insn.mnemonic()) => {
            let cc = condition(context);
            if context.is_memory(0) {
                op.aux = cc;
                straight(setcc_mem)
            } else {
                by_condition!(cc, CC => straight(setcc_reg::<CC>))
            }
        }
        _ => None,
    }
}

fn is_cmov(code: Code) -> bool {
    (Code::Cmovo_r16_rm16 as u32..=Code::Cmovg_r64_rm64 as u32).contains(&(code as u32))
}

fn is_setcc(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Seto
            | Mnemonic::Setno
            | Mnemonic::Setb
            | Mnemonic::Setae
            | Mnemonic::Sete
            | Mnemonic::Setne
            | Mnemonic::Setbe
            | Mnemonic::Seta
            | Mnemonic::Sets
            | Mnemonic::Setns
            | Mnemonic::Setp
            | Mnemonic::Setnp
            | Mnemonic::Setl
            | Mnemonic::Setge
            | Mnemonic::Setle
            | Mnemonic::Setg
    )
}

fn mov(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    let (to, from) = (insn.op0_register(), insn.op1_register());
    if to.is_cr() || from.is_cr() || to.is_dr() || from.is_dr() || to.is_tr() || from.is_tr() {
        return None;
    }
    if insn.op0_kind() == OpKind::Register && to.is_segment_register() {
        return mov_to_segment(context, op);
    }
    if insn.op1_kind() == OpKind::Register && from.is_segment_register() {
        return if context.is_memory(0) {
            straight(store_segment)
        } else {
            by_wide_width!(width(context, 0), W => straight(mov_from_segment::<W>))
        };
    }
    let w = width(context, 0);
    let wide_displacement = insn.memory_displ_size() == 8
        && insn.memory_base() == iced_x86::Register::None
        && insn.memory_displacement64() as i64 != insn.memory_displacement64() as i32 as i64;
    match (insn.op0_kind(), insn.op1_kind()) {
        (OpKind::Register, OpKind::Register) => by_width!(w, W => straight(mov_reg::<W>)),
        (OpKind::Register, OpKind::Memory) if wide_displacement => {
            op.imm = insn.memory_displacement64();
            by_width!(w, W => straight(load_absolute::<W>))
        }
        (OpKind::Memory, OpKind::Register) if wide_displacement => {
            op.imm = insn.memory_displacement64();
            by_width!(w, W => straight(store_absolute::<W>))
        }
        (OpKind::Register, OpKind::Memory) => by_width!(w, W => straight(load_reg::<W>)),
        (OpKind::Memory, OpKind::Register) => by_width!(w, W => straight(store_reg::<W>)),
        (OpKind::Memory, _) => by_width!(w, W => straight(store_imm::<W>)),
        _ => by_width!(w, W => straight(mov_imm::<W>)),
    }
}

fn mov_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.reg::<W>(op.src);
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn mov_imm<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.set_reg(op.dst, W::from_u64(op.imm));
    Ok(())
}

fn load_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.load::<W>(op)?;
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn store_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.reg::<W>(op.src);
    cpu.store(op, value)
}

fn store_imm<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.store(op, W::from_u64(op.imm))
}

fn load_absolute<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let address = cpu.state.seg_base[op.seg as usize].wrapping_add(op.imm);
    let value = cpu.read::<W>(address)?;
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn store_absolute<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let address = cpu.state.seg_base[op.seg as usize].wrapping_add(op.imm);
    let value = cpu.reg::<W>(op.src);
    cpu.write(address, value)
}

fn extend<const SIGNED: bool>(context: &Context) -> Option<Lowered> {
    let (to, from) = (width(context, 0), width(context, 1));
    let memory = context.is_memory(1);
    macro_rules! pick {
        ($to:ty, $from:ty) => {
            if memory {
                straight(extend_mem::<$to, $from, SIGNED>)
            } else {
                straight(extend_reg::<$to, $from, SIGNED>)
            }
        };
    }
    match (to, from) {
        (2, 1) => pick!(u16, u8),
        (4, 1) => pick!(u32, u8),
        (8, 1) => pick!(u64, u8),
        (2, 2) => pick!(u16, u16),
        (4, 2) => pick!(u32, u16),
        (8, 2) => pick!(u64, u16),
        (2, 4) => pick!(u16, u32),
        (4, 4) => pick!(u32, u32),
        (8, 4) => pick!(u64, u32),
        _ => None,
    }
}

#[inline(always)]
fn extended<T: Width, F: Width, const SIGNED: bool>(value: F) -> T {
    T::from_u64(if SIGNED { value.sext() } else { value.to_u64() })
}

fn extend_reg<T: Width, F: Width, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.reg::<F>(op.src);
    cpu.set_reg(op.dst, extended::<T, F, SIGNED>(value));
    Ok(())
}

fn extend_mem<T: Width, F: Width, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.load::<F>(op)?;
    cpu.set_reg(op.dst, extended::<T, F, SIGNED>(value));
    Ok(())
}

fn lea<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let address = cpu.effective_address(op);
    cpu.set_reg(op.dst, W::from_u64(address));
    Ok(())
}

fn xchg_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let (a, b) = (cpu.reg::<W>(op.dst), cpu.reg::<W>(op.src));
    cpu.set_reg(op.dst, b);
    cpu.set_reg(op.src, a);
    Ok(())
}

fn xchg_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let new = cpu.reg::<W>(op.src);
    let mut old = new;
    cpu.update::<W>(op, |_, value| {
        old = value;
        new
    })?;
    cpu.set_reg(op.src, old);
    Ok(())
}

fn xadd<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let b = cpu.reg::<W>(op.src);
    let add = |cpu: &mut Cpu, a: W| {
        let r = W::from_u64(a.to_u64().wrapping_add(b.to_u64()));
        cpu.state.flags.set_add(a, b, r);
        r
    };
    if op.has(op_flags::MEMORY) {
        let mut old = b;
        cpu.update::<W>(op, |cpu, a| {
            old = a;
            add(cpu, a)
        })?;
        cpu.set_reg(op.src, old);
    } else {
        let a = cpu.reg::<W>(op.dst);
        let r = add(cpu, a);
        cpu.set_reg(op.src, a);
        cpu.set_reg(op.dst, r);
    }
    Ok(())
}

fn cmpxchg<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let accumulator = cpu.reg::<W>(AL);
    let new = cpu.reg::<W>(op.src);
    let compare = |cpu: &mut Cpu, old: W| {
        let r = W::from_u64(accumulator.to_u64().wrapping_sub(old.to_u64()));
        cpu.state.flags.set_sub(accumulator, old, r);
        old == accumulator
    };
    if op.has(op_flags::MEMORY) {
        // The store happens in both cases: a failed exchange writes the old value back.
        let mut old = accumulator;
        cpu.update::<W>(op, |cpu, value| {
            old = value;
            if compare(cpu, value) { new } else { value }
        })?;
        if old != accumulator {
            cpu.set_reg(AL, old);
        }
    } else {
        let old = cpu.reg::<W>(op.dst);
        if compare(cpu, old) {
            cpu.set_reg(op.dst, new);
        } else {
            cpu.set_reg(AL, old);
        }
    }
    Ok(())
}

fn cmpxchg8b(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let g = &cpu.state.gpr;
    let pair = |high: usize, low: usize| (g[high] & 0xffff_ffff) << 32 | g[low] & 0xffff_ffff;
    let expected = pair(gpr::RDX, gpr::RAX);
    let new = pair(gpr::RCX, gpr::RBX);
    let mut old = 0u64;
    cpu.update::<u64>(op, |_, value| {
        old = value;
        if value == expected { new } else { value }
    })?;
    let equal = old == expected;
    if !equal {
        cpu.set_reg::<u32>(AL, old as u32);
        cpu.set_reg::<u32>(RDX, (old >> 32) as u32);
    }
    cpu.state.flags.set_zf(equal);
    Ok(())
}

fn cmpxchg16b(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let address = cpu.address(op, 16, true)?;
    if address & 15 != 0 {
        return cpu.general_protection();
    }
    let g = &cpu.state.gpr;
    let pair = |high: usize, low: usize| (g[high] as u128) << 64 | g[low] as u128;
    let expected = pair(gpr::RDX, gpr::RAX);
    let new = pair(gpr::RCX, gpr::RBX);
    let (host, old) = cpu.begin_update::<u128>(address)?;
    let equal = old == expected;
    cpu.finish_update(host, address, if equal { new } else { old })?;
    if !equal {
        cpu.state.gpr[gpr::RAX] = old as u64;
        cpu.state.gpr[gpr::RDX] = (old >> 64) as u64;
    }
    cpu.state.flags.set_zf(equal);
    Ok(())
}

fn reversed<W: Width>(value: W) -> W {
    W::from_u64(value.to_u64().swap_bytes() >> (64 - W::BITS))
}

fn bswap<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.reg::<W>(op.dst);
    cpu.set_reg(op.dst, reversed(value));
    Ok(())
}

/// BSWAP of a 16-bit register is undefined; processors clear it.
fn bswap16(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.set_reg::<u16>(op.dst, 0);
    Ok(())
}

fn movbe_load<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.load::<W>(op)?;
    cpu.set_reg(op.dst, reversed(value));
    Ok(())
}

fn movbe_store<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.reg::<W>(op.src);
    cpu.store(op, reversed(value))
}

fn sign_extend_accumulator<F: Width, T: Width>(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let value = cpu.reg::<F>(AL);
    cpu.set_reg(AL, T::from_u64(value.sext()));
    Ok(())
}

fn sign_to_dx<W: Width>(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let value = cpu.reg::<W>(AL);
    cpu.set_reg(RDX, W::from_u64(if value.sign() { u64::MAX } else { 0 }));
    Ok(())
}

fn xlat(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let mut offset = cpu.state.gpr[gpr::RBX].wrapping_add(cpu.state.gpr[gpr::RAX] & 0xff);
    if op.has(op_flags::ADDRESS32) {
        offset &= 0xffff_ffff;
    } else if op.has(op_flags::ADDRESS16) {
        offset &= 0xffff;
    }
    let address = cpu.segment_address(op.seg as usize, offset, 1, false)?;
    let value = cpu.read::<u8>(address)?;
    cpu.set_reg(AL, value);
    Ok(())
}

fn nop(_cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    Ok(())
}

fn cmov_reg<W: Width, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    // A 32-bit destination is zero-extended even when the condition is false.
    let from = if cpu.state.flags.condition::<CC>() {
        op.src
    } else {
        op.dst
    };
    let value = cpu.reg::<W>(from);
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn holds(cpu: &Cpu, cc: u8) -> bool {
    by_condition!(cc, CC => cpu.state.flags.condition::<CC>())
}

fn cmov_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    // The load happens, and may fault, whatever the condition is.
    let loaded = cpu.load::<W>(op)?;
    let value = if holds(cpu, op.aux) {
        loaded
    } else {
        cpu.reg::<W>(op.dst)
    };
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn setcc_reg<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.state.flags.condition::<CC>() as u8;
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn setcc_mem(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = holds(cpu, op.aux) as u8;
    cpu.store(op, value)
}

fn mov_from_segment<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let selector = cpu.state.seg[op.src as usize].selector;
    cpu.set_reg(op.dst, W::from_u64(selector as u64));
    Ok(())
}

fn store_segment(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let selector = cpu.state.seg[op.src as usize].selector;
    cpu.store(op, selector)
}

fn mov_to_segment(context: &Context, op: &mut Op) -> Option<Lowered> {
    match op.dst as usize {
        seg::CS => None,
        _ if context.is_memory(1) => ending(load_segment_mem),
        _ => ending(load_segment_reg),
    }
}

fn load_segment_reg(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let selector = cpu.reg::<u16>(op.src);
    finish_segment_load(cpu, op, selector)
}

fn load_segment_mem(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let selector = cpu.load::<u16>(op)?;
    finish_segment_load(cpu, op, selector)
}

fn finish_segment_load(cpu: &mut Cpu, op: &Op, selector: u16) -> Result<Flow, Abort> {
    cpu.load_segment(op.dst as usize, selector)?;
    if op.dst as usize == seg::SS {
        cpu.hold_off_after_stack_load();
    }
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn far_pointer(context: &Context, op: &mut Op) -> Option<Lowered> {
    op.aux = match context.insn.mnemonic() {
        Mnemonic::Les => seg::ES,
        Mnemonic::Lss => seg::SS,
        Mnemonic::Lds => seg::DS,
        Mnemonic::Lfs => seg::FS,
        _ => seg::GS,
    } as u8;
    by_wide_width!(width(context, 0), W => ending(load_far_pointer::<W>))
}

fn load_far_pointer<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let address = cpu.address(op, W::BYTES + 2, false)?;
    let offset = cpu.read::<W>(address)?;
    let selector = cpu.read::<u16>(address.wrapping_add(W::BYTES as u64))?;
    cpu.load_segment(op.aux as usize, selector)?;
    cpu.set_reg(op.dst, offset);
    cpu.advance(op);
    Ok(Flow::Attention)
}
