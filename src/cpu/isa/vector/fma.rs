//! FMA: VFMADD, VFMSUB, VFNMADD, VFNMSUB, VFMADDSUB and VFMSUBADD in their three operand orders.
//!
//! The host's FMA computes where it has one; elsewhere `fused` does, with the same bits (see the tests).

use super::fused::{DOUBLE, SINGLE, multiply_add};
use super::{Elements, Form, Lowered, V, WIDE, float, straight};
use crate::cpu::decode::Context;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use bytemuck::cast;
use iced_x86::Mnemonic;

/// The elements that are computed.
trait Kind: Copy + 'static {
    const SINGLE: bool;
    const SCALAR: bool;
}

macro_rules! kind {
    ($name:ident, $single:literal, $scalar:literal) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Kind for $name {
            const SINGLE: bool = $single;
            const SCALAR: bool = $scalar;
        }
    };
}
kind!(Ps, true, false);
kind!(Pd, false, false);
kind!(Ss, true, true);
kind!(Sd, false, true);

/// Bits of the control in `Op::imm`: which signs change, for elements with even and odd numbers.
const NEGATE_PRODUCT: u8 = 1;
const NEGATE_EVEN: u8 = 2;
const NEGATE_ODD: u8 = 4;
/// The order of operands stands above: 132, 213, 231 as 0, 1, 2.
const ORDER_SHIFT: u32 = 4;

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    if !form.vex {
        return None;
    }
    /// All mnemonics of an operation, with its signs.
    macro_rules! operations {
        ($($signs:expr => $($name:ident $kind:ident $order:literal),*;)*) => {
            match context.insn.mnemonic() {
                $($(M::$name => {
                    op.imm = ($signs | $order << ORDER_SHIFT) as u64;
                    op.flags |= if form.wide { WIDE } else { 0 };
                    straight(fused::<$kind>)
                })*)*
                _ => None,
            }
        };
    }
    operations! {
        0 =>
            Vfmadd132ps Ps 0, Vfmadd213ps Ps 1, Vfmadd231ps Ps 2,
            Vfmadd132pd Pd 0, Vfmadd213pd Pd 1, Vfmadd231pd Pd 2,
            Vfmadd132ss Ss 0, Vfmadd213ss Ss 1, Vfmadd231ss Ss 2,
            Vfmadd132sd Sd 0, Vfmadd213sd Sd 1, Vfmadd231sd Sd 2;
        NEGATE_EVEN | NEGATE_ODD =>
            Vfmsub132ps Ps 0, Vfmsub213ps Ps 1, Vfmsub231ps Ps 2,
            Vfmsub132pd Pd 0, Vfmsub213pd Pd 1, Vfmsub231pd Pd 2,
            Vfmsub132ss Ss 0, Vfmsub213ss Ss 1, Vfmsub231ss Ss 2,
            Vfmsub132sd Sd 0, Vfmsub213sd Sd 1, Vfmsub231sd Sd 2;
        NEGATE_PRODUCT =>
            Vfnmadd132ps Ps 0, Vfnmadd213ps Ps 1, Vfnmadd231ps Ps 2,
            Vfnmadd132pd Pd 0, Vfnmadd213pd Pd 1, Vfnmadd231pd Pd 2,
            Vfnmadd132ss Ss 0, Vfnmadd213ss Ss 1, Vfnmadd231ss Ss 2,
            Vfnmadd132sd Sd 0, Vfnmadd213sd Sd 1, Vfnmadd231sd Sd 2;
        NEGATE_PRODUCT | NEGATE_EVEN | NEGATE_ODD =>
            Vfnmsub132ps Ps 0, Vfnmsub213ps Ps 1, Vfnmsub231ps Ps 2,
            Vfnmsub132pd Pd 0, Vfnmsub213pd Pd 1, Vfnmsub231pd Pd 2,
            Vfnmsub132ss Ss 0, Vfnmsub213ss Ss 1, Vfnmsub231ss Ss 2,
            Vfnmsub132sd Sd 0, Vfnmsub213sd Sd 1, Vfnmsub231sd Sd 2;
        NEGATE_EVEN =>
            Vfmaddsub132ps Ps 0, Vfmaddsub213ps Ps 1, Vfmaddsub231ps Ps 2,
            Vfmaddsub132pd Pd 0, Vfmaddsub213pd Pd 1, Vfmaddsub231pd Pd 2;
        NEGATE_ODD =>
            Vfmsubadd132ps Ps 0, Vfmsubadd213ps Ps 1, Vfmsubadd231ps Ps 2,
            Vfmsubadd132pd Pd 0, Vfmsubadd213pd Pd 1, Vfmsubadd231pd Pd 2;
    }
}

fn fused<K: Kind>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let third = match (K::SCALAR, K::SINGLE, op.has(op_flags::MEMORY)) {
        (true, true, true) => [cpu.load_part(op, 4)?, [0; 2]],
        (true, false, true) => [cpu.load_part(op, 8)?, [0; 2]],
        _ => cpu.vex_source(op)?,
    };
    let first = [cpu.xmm(op.dst), cpu.xmm_upper(op.dst)];
    let second = [cpu.xmm(op.src), cpu.xmm_upper(op.src)];
    let control = op.imm as u8;
    let mut mxcsr = float::masked(cpu.state.mxcsr);
    let mut result = [[0; 2]; 2];
    let lanes = if op.has(WIDE) { 2 } else { 1 };
    for n in 0..lanes {
        result[n] = lane::<K>([first[n], second[n], third[n]], control, &mut mxcsr);
    }
    let elements = Elements {
        bytes: if K::SINGLE { 4 } else { 8 },
        count: match (K::SCALAR, K::SINGLE) {
            (true, _) => 1,
            (_, true) => 4,
            _ => 2,
        },
    };
    float::finish(cpu, mxcsr, Some(elements), &result[..lanes])?;
    cpu.set_ymm(op.dst, result[0], result[1]);
    Ok(())
}

fn lane<K: Kind>(operands: [V; 3], control: u8, mxcsr: &mut u32) -> V {
    if std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the host has the instructions.
        unsafe { by_host::<K>(operands, control, mxcsr) }
    } else {
        in_software::<K>(operands, control, mxcsr)
    }
}

/// Factors and addend from the operands in the order of the instruction.
fn roles<T: Copy>([x, y, z]: [T; 3], control: u8) -> [T; 3] {
    match control >> ORDER_SHIFT {
        0 => [x, z, y],
        1 => [y, x, z],
        _ => [y, z, x],
    }
}

fn in_software<K: Kind>(operands: [V; 3], control: u8, mxcsr: &mut u32) -> V {
    let element = |mxcsr: &mut u32, n: usize, operands: [u64; 3]| {
        let negate = if n & 1 == 0 { NEGATE_EVEN } else { NEGATE_ODD };
        multiply_add(
            if K::SINGLE { SINGLE } else { DOUBLE },
            roles(operands, control),
            control & NEGATE_PRODUCT != 0,
            control & negate != 0,
            roles(operands, control),
            mxcsr,
        )
    };
    if K::SINGLE {
        let [x, y, z]: [[u32; 4]; 3] = operands.map(cast);
        let mut r = x;
        for n in 0..if K::SCALAR { 1 } else { 4 } {
            r[n] = element(mxcsr, n, [x[n], y[n], z[n]].map(u64::from)) as u32;
        }
        cast(r)
    } else {
        let [x, y, z] = operands;
        let mut r = x;
        for n in 0..if K::SCALAR { 1 } else { 2 } {
            r[n] = element(mxcsr, n, [x[n], y[n], z[n]]);
        }
        r
    }
}

/// Changes the signs of the elements that `even` and `odd` name, but for NaNs.
fn negated<K: Kind>(value: V, even: bool, odd: bool) -> V {
    if K::SINGLE {
        let mut x: [f32; 4] = cast(value);
        for (n, x) in x.iter_mut().enumerate() {
            let on = if n & 1 == 0 { even } else { odd };
            if on && !x.is_nan() {
                *x = -*x;
            }
        }
        cast(x)
    } else {
        let mut x: [f64; 2] = cast(value);
        for (n, x) in x.iter_mut().enumerate() {
            let on = if n & 1 == 0 { even } else { odd };
            if on && !x.is_nan() {
                *x = -*x;
            }
        }
        cast(x)
    }
}

/// `a * b + c` with the signs changed beforehand: that is exact.
///
/// # Safety
/// The host must have FMA.
unsafe fn by_host<K: Kind>(operands: [V; 3], control: u8, mxcsr: &mut u32) -> V {
    use std::arch::x86_64::__m128i;
    let [a, b, c] = roles(operands, control);
    let product = control & NEGATE_PRODUCT != 0;
    let b = negated::<K>(b, product, product);
    let c = negated::<K>(c, control & NEGATE_EVEN != 0, control & NEGATE_ODD != 0);
    // SAFETY: any 16 bytes are an `__m128i`.
    let [a, b, c] = [a, b, c].map(|x| unsafe { std::mem::transmute::<V, __m128i>(x) });
    macro_rules! host {
        ($instruction:literal) => {{
            let r = float::on_host!(
                mxcsr,
                b,
                [concat!($instruction, " {r}, {a}, {c}")],
                [inout(xmm_reg)],
                [a = in(xmm_reg) a, c = in(xmm_reg) c,]
            );
            // SAFETY: as above.
            unsafe { std::mem::transmute::<__m128i, V>(r) }
        }};
    }
    // 213 multiplies its second operand with its first: NaNs see that order.
    let r = match (K::SINGLE, K::SCALAR) {
        (true, false) => host!("vfmadd213ps"),
        (false, false) => host!("vfmadd213pd"),
        (true, true) => host!("vfmadd213ss"),
        (false, true) => host!("vfmadd213sd"),
    };
    // The upper elements of a scalar operation are those of the destination, whichever role that has.
    let kept = operands[0];
    match (K::SINGLE, K::SCALAR) {
        (_, false) => r,
        (true, true) => [kept[0] & !0xffff_ffff | r[0] & 0xffff_ffff, kept[1]],
        (false, true) => [r[0], kept[1]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::Numbers;

    /// Numbers whose sums and products come close to each other, to zero and to the ends of the format.
    fn operand(numbers: &mut Numbers, single: bool) -> u64 {
        let x = numbers.next();
        let (fraction, top) = if single { (23, 0xff) } else { (52, 0x7ff) };
        let bias = top / 2;
        let exponent = match x >> 59 {
            0 => 0,
            1 => top,
            2..=5 => x >> 40 & 3,
            6..=8 => top - 1 - (x >> 40 & 3),
            9..=12 => bias / 2 + (x >> 40 & 31),
            13..=16 => bias + bias / 2 - (x >> 40 & 31),
            _ => bias - 4 + (x >> 40 & 7),
        };
        let mask = (1u64 << fraction) - 1;
        let f = numbers.next();
        let f = match f >> 60 {
            0..=3 => 0,
            4 => mask,
            5..=7 => f & 7,
            8..=10 => f & mask & !(mask >> 3),
            _ => f & mask,
        };
        (x & 1) << (fraction + if single { 8 } else { 11 }) | exponent << fraction | f
    }

    fn check<K: Kind>(single: bool) {
        let mut numbers = Numbers(7);
        for round in 0..300_000 {
            let mut operands = [[0u64; 2]; 3];
            for x in operands.iter_mut().flatten() {
                *x = operand(&mut numbers, single);
                if single {
                    *x |= operand(&mut numbers, true) << 32;
                }
            }
            if round % 8 == 0 {
                operands[2] = operands[0];
            }
            let control = (numbers.next() & 7) as u8 | ((round % 3) << ORDER_SHIFT) as u8;
            let mxcsr = 0x1f80 | (numbers.next() as u32 & 0xe040);
            let (mut want, mut got) = (mxcsr, mxcsr);
            // SAFETY: the caller has asked the host.
            let host = unsafe { by_host::<K>(operands, control, &mut want) };
            let soft = in_software::<K>(operands, control, &mut got);
            assert_eq!(
                (soft, got),
                (host, want),
                "{operands:x?} control {control:x} mxcsr {mxcsr:x}: {soft:x?} {got:x} instead of {host:x?} {want:x}"
            );
        }
    }

    #[test]
    fn software_and_host_give_the_same_bits() {
        if std::arch::is_x86_feature_detected!("fma") {
            check::<Ps>(true);
            check::<Pd>(false);
            check::<Ss>(true);
            check::<Sd>(false);
        }
    }
}
