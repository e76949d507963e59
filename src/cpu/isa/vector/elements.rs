//! Single elements that go to and come from general registers and memory: PEXTRB to PEXTRQ, PINSRB to PINSRQ,
//! EXTRACTPS, INSERTPS.

use super::{Form, Lowered, V, straight};
use crate::cpu::decode::Context;
use crate::cpu::flags::Width;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use bytemuck::cast;
use iced_x86::Mnemonic;

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    macro_rules! vex {
        ($body:ident $(<$W:ty>)?) => {
            if form.vex {
                straight($body::<$($W,)? true>)
            } else {
                straight($body::<$($W,)? false>)
            }
        };
    }
    match context.insn.mnemonic() {
        M::Pextrw | M::Vpextrw if form.mmx => straight(pextrw_mm),
        M::Pextrb | M::Vpextrb => vex!(extract<u8>),
        M::Pextrw | M::Vpextrw => vex!(extract<u16>),
        M::Pextrd | M::Vpextrd | M::Extractps | M::Vextractps => vex!(extract<u32>),
        M::Pextrq | M::Vpextrq => vex!(extract<u64>),
        M::Pinsrw if form.mmx => straight(pinsrw_mm),
        M::Pinsrb | M::Vpinsrb => {
            first_source(op, form);
            vex!(insert<u8>)
        }
        M::Pinsrw | M::Vpinsrw => {
            first_source(op, form);
            vex!(insert<u16>)
        }
        M::Pinsrd | M::Vpinsrd => {
            first_source(op, form);
            vex!(insert<u32>)
        }
        M::Pinsrq | M::Vpinsrq => {
            first_source(op, form);
            vex!(insert<u64>)
        }
        M::Insertps | M::Vinsertps => {
            first_source(op, form);
            vex!(insertps)
        }
        _ => None,
    }
}

fn first_source(op: &mut Op, form: Form) {
    if !form.vex {
        op.aux = op.src;
        op.src = op.dst;
    }
}

#[inline(always)]
fn ready<const VEX: bool>(cpu: &mut Cpu) -> Result<(), Abort> {
    if VEX {
        cpu.avx_ready()
    } else {
        cpu.sse_ready()
    }
}

fn set<const VEX: bool>(cpu: &mut Cpu, number: u8, value: V) {
    if VEX {
        cpu.set_ymm(number, value, [0; 2]);
    } else {
        cpu.set_xmm(number, value);
    }
}

/// Bit at which the element that the immediate names begins.
fn shift<W: Width>(imm: u64) -> u32 {
    (imm as u32 % (128 / W::BITS)) * W::BITS
}

fn extract<W: Width, const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    ready::<VEX>(cpu)?;
    let value: u128 = cast(cpu.xmm(op.src));
    let element = W::from_u64((value >> shift::<W>(op.imm)) as u64);
    if op.has(op_flags::MEMORY) {
        return cpu.store(op, element);
    }
    cpu.set_reg(op.dst, element.to_u64());
    Ok(())
}

fn insert<W: Width, const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    ready::<VEX>(cpu)?;
    let element = if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)?
    } else {
        cpu.reg::<W>(op.aux)
    };
    let at = shift::<W>(op.imm);
    let mask = (W::from_u64(!0).to_u64() as u128) << at;
    let old: u128 = cast(cpu.xmm(op.src));
    set::<VEX>(
        cpu,
        op.dst,
        cast(old & !mask | (element.to_u64() as u128) << at),
    );
    Ok(())
}

fn insertps<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    ready::<VEX>(cpu)?;
    let imm = op.imm as usize;
    let element = if op.has(op_flags::MEMORY) {
        cpu.load::<u32>(op)?
    } else {
        cast::<V, [u32; 4]>(cpu.xmm(op.aux))[imm >> 6 & 3]
    };
    let mut r: [u32; 4] = cast(cpu.xmm(op.src));
    r[imm >> 4 & 3] = element;
    for (n, x) in r.iter_mut().enumerate() {
        if imm >> n & 1 != 0 {
            *x = 0;
        }
    }
    set::<VEX>(cpu, op.dst, cast(r));
    Ok(())
}

fn pinsrw_mm(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    let word = if op.has(op_flags::MEMORY) {
        cpu.load::<u16>(op)?
    } else {
        cpu.reg::<u16>(op.src)
    };
    cpu.enter_mmx();
    let mut words: [u16; 4] = cast(cpu.mm(op.dst));
    words[(op.imm & 3) as usize] = word;
    cpu.set_mm(op.dst, cast(words));
    Ok(())
}

fn pextrw_mm(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    cpu.enter_mmx();
    let words: [u16; 4] = cast(cpu.mm(op.src));
    cpu.set_reg(op.dst, words[(op.imm & 3) as usize] as u32);
    Ok(())
}
