//! Integer arithmetic, logic, comparison and shifts of elements, by portable code that the compiler vectorises.

use super::{Form, Lane, Lowered, V, by_immediate, elementwise, two_sources, zip};
use crate::cpu::decode::Context;
use crate::cpu::op::Op;
use iced_x86::{Mnemonic, OpKind};

elementwise!(Paddb, u8, |a, b| a.wrapping_add(b));
elementwise!(Paddw, u16, |a, b| a.wrapping_add(b));
elementwise!(Paddd, u32, |a, b| a.wrapping_add(b));
elementwise!(Paddq, u64, |a, b| a.wrapping_add(b));
elementwise!(Psubb, u8, |a, b| a.wrapping_sub(b));
elementwise!(Psubw, u16, |a, b| a.wrapping_sub(b));
elementwise!(Psubd, u32, |a, b| a.wrapping_sub(b));
elementwise!(Psubq, u64, |a, b| a.wrapping_sub(b));
elementwise!(Paddsb, i8, |a, b| a.saturating_add(b));
elementwise!(Paddsw, i16, |a, b| a.saturating_add(b));
elementwise!(Paddusb, u8, |a, b| a.saturating_add(b));
elementwise!(Paddusw, u16, |a, b| a.saturating_add(b));
elementwise!(Psubsb, i8, |a, b| a.saturating_sub(b));
elementwise!(Psubsw, i16, |a, b| a.saturating_sub(b));
elementwise!(Psubusb, u8, |a, b| a.saturating_sub(b));
elementwise!(Psubusw, u16, |a, b| a.saturating_sub(b));
elementwise!(Pmullw, u16, |a, b| a.wrapping_mul(b));
elementwise!(Pmulhw, i16, |a, b| ((a as i32 * b as i32) >> 16) as i16);
elementwise!(Pmulhuw, u16, |a, b| ((a as u32 * b as u32) >> 16) as u16);
elementwise!(Pmuludq, u64, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff));
// A word pair stands in each u32; the sum of two products wraps only for four times 8000h.
elementwise!(Pmaddwd, u32, |a, b| {
    let low = a as i16 as i32 * b as i16 as i32;
    let high = (a as i32 >> 16) * (b as i32 >> 16);
    low.wrapping_add(high) as u32
});
elementwise!(Psadbw, u64, |a, b| {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let mut sum = 0;
    for n in 0..8 {
        sum += a[n].abs_diff(b[n]) as u64;
    }
    sum
});
elementwise!(Pavgb, u8, |a, b| ((a as u16 + b as u16 + 1) >> 1) as u8);
elementwise!(Pavgw, u16, |a, b| ((a as u32 + b as u32 + 1) >> 1) as u16);
elementwise!(Pand, u64, |a, b| a & b);
elementwise!(Pandn, u64, |a, b| !a & b);
elementwise!(Por, u64, |a, b| a | b);
elementwise!(Pxor, u64, |a, b| a ^ b);
elementwise!(Pcmpeqb, u8, |a, b| if a == b { !0 } else { 0 });
elementwise!(Pcmpeqw, u16, |a, b| if a == b { !0 } else { 0 });
elementwise!(Pcmpeqd, u32, |a, b| if a == b { !0 } else { 0 });
elementwise!(Pcmpgtb, i8, |a, b| if a > b { -1 } else { 0 });
elementwise!(Pcmpgtw, i16, |a, b| if a > b { -1 } else { 0 });
elementwise!(Pcmpgtd, i32, |a, b| if a > b { -1 } else { 0 });
elementwise!(Pminub, u8, |a, b| a.min(b));
elementwise!(Pmaxub, u8, |a, b| a.max(b));
elementwise!(Pminsw, i16, |a, b| a.min(b));
elementwise!(Pmaxsw, i16, |a, b| a.max(b));

/// Declares shifts of elements by a count: by the low half of the second source, and by the immediate.
macro_rules! shift {
    ($by_lane:ident, $by_immediate:ident, $T:ty, |$a:ident, $count:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $by_lane;
        impl Lane for $by_lane {
            const SHARED: bool = true;
            #[inline(always)]
            fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
                let $count = b[0];
                zip::<$T, { 16 / size_of::<$T>() }>(a, a, |$a, _| $body)
            }
        }
        #[derive(Clone, Copy)]
        struct $by_immediate;
        impl Lane for $by_immediate {
            #[inline(always)]
            fn apply(a: V, _b: V, imm: u8, _mxcsr: &mut u32) -> V {
                let $count = imm as u64;
                zip::<$T, { 16 / size_of::<$T>() }>(a, a, |$a, _| $body)
            }
        }
    };
}

shift!(Psllw, PsllwImm, u16, |a, n| if n < 16 { a << n } else { 0 });
shift!(Pslld, PslldImm, u32, |a, n| if n < 32 { a << n } else { 0 });
shift!(Psllq, PsllqImm, u64, |a, n| if n < 64 { a << n } else { 0 });
shift!(Psrlw, PsrlwImm, u16, |a, n| if n < 16 { a >> n } else { 0 });
shift!(Psrld, PsrldImm, u32, |a, n| if n < 32 { a >> n } else { 0 });
shift!(Psrlq, PsrlqImm, u64, |a, n| if n < 64 { a >> n } else { 0 });
shift!(Psraw, PsrawImm, i16, |a, n| a >> n.min(15));
shift!(Psrad, PsradImm, i32, |a, n| a >> n.min(31));

fn whole(a: V) -> u128 {
    (a[1] as u128) << 64 | a[0] as u128
}

fn halves(a: u128) -> V {
    [a as u64, (a >> 64) as u64]
}

#[derive(Clone, Copy)]
struct Pslldq;
impl Lane for Pslldq {
    fn apply(a: V, _b: V, imm: u8, _mxcsr: &mut u32) -> V {
        halves(whole(a).checked_shl(imm as u32 * 8).unwrap_or(0))
    }
}

#[derive(Clone, Copy)]
struct Psrldq;
impl Lane for Psrldq {
    fn apply(a: V, _b: V, imm: u8, _mxcsr: &mut u32) -> V {
        halves(whole(a).checked_shr(imm as u32 * 8).unwrap_or(0))
    }
}

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    macro_rules! two {
        ($O:ty) => {
            two_sources::<$O>(context, op, form)
        };
    }
    let mnemonic = context.insn.mnemonic();
    match mnemonic {
        M::Paddb | M::Vpaddb => two!(Paddb),
        M::Paddw | M::Vpaddw => two!(Paddw),
        M::Paddd | M::Vpaddd => two!(Paddd),
        M::Paddq | M::Vpaddq => two!(Paddq),
        M::Psubb | M::Vpsubb => two!(Psubb),
        M::Psubw | M::Vpsubw => two!(Psubw),
        M::Psubd | M::Vpsubd => two!(Psubd),
        M::Psubq | M::Vpsubq => two!(Psubq),
        M::Paddsb | M::Vpaddsb => two!(Paddsb),
        M::Paddsw | M::Vpaddsw => two!(Paddsw),
        M::Paddusb | M::Vpaddusb => two!(Paddusb),
        M::Paddusw | M::Vpaddusw => two!(Paddusw),
        M::Psubsb | M::Vpsubsb => two!(Psubsb),
        M::Psubsw | M::Vpsubsw => two!(Psubsw),
        M::Psubusb | M::Vpsubusb => two!(Psubusb),
        M::Psubusw | M::Vpsubusw => two!(Psubusw),
        M::Pmullw | M::Vpmullw => two!(Pmullw),
        M::Pmulhw | M::Vpmulhw => two!(Pmulhw),
        M::Pmulhuw | M::Vpmulhuw => two!(Pmulhuw),
        M::Pmuludq | M::Vpmuludq => two!(Pmuludq),
        M::Pmaddwd | M::Vpmaddwd => two!(Pmaddwd),
        M::Psadbw | M::Vpsadbw => two!(Psadbw),
        M::Pavgb | M::Vpavgb => two!(Pavgb),
        M::Pavgw | M::Vpavgw => two!(Pavgw),
        M::Pand | M::Vpand | M::Andps | M::Vandps | M::Andpd | M::Vandpd => two!(Pand),
        M::Pandn | M::Vpandn | M::Andnps | M::Vandnps | M::Andnpd | M::Vandnpd => two!(Pandn),
        M::Por | M::Vpor | M::Orps | M::Vorps | M::Orpd | M::Vorpd => two!(Por),
        M::Pxor | M::Vpxor | M::Xorps | M::Vxorps | M::Xorpd | M::Vxorpd => two!(Pxor),
        M::Pcmpeqb | M::Vpcmpeqb => two!(Pcmpeqb),
        M::Pcmpeqw | M::Vpcmpeqw => two!(Pcmpeqw),
        M::Pcmpeqd | M::Vpcmpeqd => two!(Pcmpeqd),
        M::Pcmpgtb | M::Vpcmpgtb => two!(Pcmpgtb),
        M::Pcmpgtw | M::Vpcmpgtw => two!(Pcmpgtw),
        M::Pcmpgtd | M::Vpcmpgtd => two!(Pcmpgtd),
        M::Pminub | M::Vpminub => two!(Pminub),
        M::Pmaxub | M::Vpmaxub => two!(Pmaxub),
        M::Pminsw | M::Vpminsw => two!(Pminsw),
        M::Pmaxsw | M::Vpmaxsw => two!(Pmaxsw),
        _ => lower_shift(context, op, form),
    }
}

fn lower_shift(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    let insn = context.insn;
    let by_number = insn.op_count() > 0 && insn.op_kind(insn.op_count() - 1) == OpKind::Immediate8;
    macro_rules! shift {
        ($Lane:ty, $Immediate:ty) => {
            if by_number {
                by_immediate::<$Immediate>(context, op, form)
            } else {
                two_sources::<$Lane>(context, op, form)
            }
        };
    }
    match insn.mnemonic() {
        M::Psllw | M::Vpsllw => shift!(Psllw, PsllwImm),
        M::Pslld | M::Vpslld => shift!(Pslld, PslldImm),
        M::Psllq | M::Vpsllq => shift!(Psllq, PsllqImm),
        M::Psrlw | M::Vpsrlw => shift!(Psrlw, PsrlwImm),
        M::Psrld | M::Vpsrld => shift!(Psrld, PsrldImm),
        M::Psrlq | M::Vpsrlq => shift!(Psrlq, PsrlqImm),
        M::Psraw | M::Vpsraw => shift!(Psraw, PsrawImm),
        M::Psrad | M::Vpsrad => shift!(Psrad, PsradImm),
        M::Pslldq | M::Vpslldq => by_immediate::<Pslldq>(context, op, form),
        M::Psrldq | M::Vpsrldq => by_immediate::<Psrldq>(context, op, form),
        _ => None,
    }
}
