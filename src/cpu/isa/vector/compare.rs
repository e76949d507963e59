//! Floating-point comparison: CMPPS and its kin, COMISS, UCOMISS and theirs.
//!
//! In software: the 32 predicates of AVX are then as those of SSE, and no host instruction is asked.
//! SDM volume 2, CMPPD, table 3-1; volume 1, 11.5.2 for the exceptions.

use super::{Form, Lane, Lowered, V, float, straight, two_sources};
use crate::cpu::decode::Context;
use crate::cpu::flags::bits;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use bytemuck::cast;
use iced_x86::Mnemonic;

/// Invalid operation and denormal operand in MXCSR.
const INVALID: u32 = 1;
const DENORMAL: u32 = 2;
/// Denormal operands count as zeros.
const DENORMALS_ARE_ZEROS: u32 = 1 << 6;

/// How two numbers compare; the values are the bits of [`TRUE_FOR`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Less = 1,
    Equal = 2,
    Greater = 4,
    Unordered = 8,
}

/// For which relations the predicates 0 to 15 hold; 16 to 31 are the same but for signalling.
const TRUE_FOR: [u8; 16] = {
    const L: u8 = Relation::Less as u8;
    const E: u8 = Relation::Equal as u8;
    const G: u8 = Relation::Greater as u8;
    const U: u8 = Relation::Unordered as u8;
    [
        E,             // EQ_OQ
        L,             // LT_OS
        L | E,         // LE_OS
        U,             // UNORD_Q
        L | G | U,     // NEQ_UQ
        E | G | U,     // NLT_US
        G | U,         // NLE_US
        L | E | G,     // ORD_Q
        E | U,         // EQ_UQ
        L | U,         // NGE_US
        L | E | U,     // NGT_US
        0,             // FALSE_OQ
        L | G,         // NEQ_OQ
        E | G,         // GE_OS
        G,             // GT_OS
        L | E | G | U, // TRUE_UQ
    ]
};

/// Whether a predicate raises invalid for quiet NaNs too.
fn signals(predicate: u8) -> bool {
    matches!(predicate & 15, 1 | 2 | 5 | 6 | 9 | 10 | 13 | 14) != (predicate & 16 != 0)
}

/// A format that can be compared by its bits.
trait Number: Copy + bytemuck::Pod + PartialOrd {
    fn is_nan(self) -> bool;
    fn is_signalling(self) -> bool;
    fn is_denormal(self) -> bool;
    fn zero() -> Self;
    fn all_ones(on: bool) -> Self;
}

macro_rules! number {
    ($T:ty, $quiet:expr) => {
        impl Number for $T {
            #[inline(always)]
            fn is_nan(self) -> bool {
                <$T>::is_nan(self)
            }
            fn is_signalling(self) -> bool {
                self.is_nan() && self.to_bits() & $quiet == 0
            }
            #[inline(always)]
            fn is_denormal(self) -> bool {
                self.is_subnormal()
            }
            fn zero() -> Self {
                0.0
            }
            #[inline(always)]
            fn all_ones(on: bool) -> Self {
                <$T>::from_bits(if on { !0 } else { 0 })
            }
        }
    };
}
number!(f32, 1 << 22);
number!(f64, 1 << 51);

/// Compares, and adds the exception flags.
#[inline(always)]
fn relate<T: Number>(mut a: T, mut b: T, signals: bool, mxcsr: &mut u32) -> Relation {
    if a.is_nan() || b.is_nan() {
        if signals || a.is_signalling() || b.is_signalling() {
            *mxcsr |= INVALID;
        }
        return Relation::Unordered;
    }
    if a.is_denormal() || b.is_denormal() {
        if *mxcsr & DENORMALS_ARE_ZEROS == 0 {
            *mxcsr |= DENORMAL;
        } else {
            if a.is_denormal() {
                a = T::zero();
            }
            if b.is_denormal() {
                b = T::zero();
            }
        }
    }
    if a < b {
        Relation::Less
    } else if a > b {
        Relation::Greater
    } else {
        Relation::Equal
    }
}

#[inline(always)]
fn test<T: Number>(a: T, b: T, predicate: u8, mxcsr: &mut u32) -> T {
    let relation = relate(a, b, signals(predicate), mxcsr);
    T::all_ones(TRUE_FOR[(predicate & 15) as usize] & relation as u8 != 0)
}

macro_rules! compare {
    ($name:ident, $T:ty, $count:literal, $bytes:literal) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            const BYTES: usize = $bytes;
            const FLOAT: bool = true;
            #[inline(always)]
            fn apply(a: V, b: V, imm: u8, mxcsr: &mut u32) -> V {
                const N: usize = 16 / size_of::<$T>();
                let (mut r, b): ([$T; N], [$T; N]) = (cast(a), cast(b));
                for n in 0..$count {
                    r[n] = test(r[n], b[n], imm, mxcsr);
                }
                cast(r)
            }
        }
    };
}
compare!(Cmpps, f32, 4, 16);
compare!(Cmppd, f64, 2, 16);
compare!(Cmpss, f32, 1, 4);
compare!(Cmpsd, f64, 1, 8);

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    if !form.vex {
        // Legacy predicates have three bits.
        match context.insn.mnemonic() {
            M::Cmpps | M::Cmppd | M::Cmpss => op.imm &= 7,
            M::Cmpsd if !context.insn.is_string_instruction() => op.imm &= 7,
            _ => {}
        }
    }
    macro_rules! flags {
        ($T:ty, $signals:literal) => {
            if form.vex {
                straight(compare_to_flags::<$T, $signals, true>)
            } else {
                straight(compare_to_flags::<$T, $signals, false>)
            }
        };
    }
    match context.insn.mnemonic() {
        M::Cmpps | M::Vcmpps => two_sources::<Cmpps>(context, op, form),
        M::Cmppd | M::Vcmppd => two_sources::<Cmppd>(context, op, form),
        M::Cmpss | M::Vcmpss => two_sources::<Cmpss>(context, op, form),
        M::Cmpsd | M::Vcmpsd if !context.insn.is_string_instruction() => {
            two_sources::<Cmpsd>(context, op, form)
        }
        M::Comiss | M::Vcomiss => flags!(f32, true),
        M::Ucomiss | M::Vucomiss => flags!(f32, false),
        M::Comisd | M::Vcomisd => flags!(f64, true),
        M::Ucomisd | M::Vucomisd => flags!(f64, false),
        _ => None,
    }
}

fn compare_to_flags<T: Number, const SIGNALS: bool, const VEX: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Abort> {
    if VEX {
        cpu.avx_ready()?;
    } else {
        cpu.sse_ready()?;
    }
    let b = if op.has(op_flags::MEMORY) {
        cpu.load::<T>(op)?
    } else {
        low::<T>(cpu.xmm(op.src))
    };
    let a = low::<T>(cpu.xmm(op.dst));
    let mut mxcsr = float::masked(cpu.state.mxcsr);
    let relation = relate(a, b, SIGNALS, &mut mxcsr);
    float::finish(cpu, mxcsr, None, &[])?;
    cpu.state.flags.set_arithmetic(match relation {
        Relation::Less => bits::CF,
        Relation::Equal => bits::ZF,
        Relation::Greater => 0,
        Relation::Unordered => bits::ZF | bits::PF | bits::CF,
    });
    Ok(())
}

#[inline(always)]
fn low<T: Number>(value: V) -> T {
    bytemuck::pod_read_unaligned(&bytemuck::bytes_of(&value)[..size_of::<T>()])
}
