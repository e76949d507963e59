//! Permutations: packs, unpacks, shuffles.

use super::{Form, Lane, Lowered, V, one_source, two_sources};
use crate::cpu::decode::Context;
use crate::cpu::op::Op;
use bytemuck::cast;
use iced_x86::Mnemonic;

/// Declares packs with saturation of elements into half their size: first source into the low half.
macro_rules! pack {
    ($name:ident, $From:ty, $To:ty) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            #[inline(always)]
            fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
                const N: usize = 16 / size_of::<$From>();
                let (a, b): ([$From; N], [$From; N]) = (cast(a), cast(b));
                let mut r = [0 as $To; 2 * N];
                for n in 0..N {
                    r[n] = a[n].clamp(<$To>::MIN as $From, <$To>::MAX as $From) as $To;
                    r[N + n] = b[n].clamp(<$To>::MIN as $From, <$To>::MAX as $From) as $To;
                }
                cast(r)
            }
            fn apply64(a: u64, b: u64, imm: u8) -> u64 {
                Self::apply([a, b], [0, 0], imm, &mut 0)[0]
            }
        }
    };
}
pack!(Packsswb, i16, i8);
pack!(Packuswb, i16, u8);
pack!(Packssdw, i32, i16);

/// Declares the interleavings of the low and the high halves of two lanes.
macro_rules! unpack {
    ($low:ident, $high:ident, $T:ty) => {
        #[derive(Clone, Copy)]
        struct $low;
        impl Lane for $low {
            #[inline(always)]
            fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
                interleave::<$T, { 16 / size_of::<$T>() }>(a, b, 0)
            }
        }
        #[derive(Clone, Copy)]
        struct $high;
        impl Lane for $high {
            #[inline(always)]
            fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
                const N: usize = 16 / size_of::<$T>();
                interleave::<$T, N>(a, b, N / 2)
            }
            fn apply64(a: u64, b: u64, _imm: u8) -> u64 {
                // The high quarters, where interleaving all of the operands puts them.
                interleave::<$T, { 16 / size_of::<$T>() }>([a, 0], [b, 0], 0)[1]
            }
        }
    };
}

#[inline(always)]
fn interleave<T: bytemuck::Pod, const N: usize>(a: V, b: V, from: usize) -> V {
    let (a, b): ([T; N], [T; N]) = (cast(a), cast(b));
    let mut r = a;
    for n in 0..N / 2 {
        r[2 * n] = a[from + n];
        r[2 * n + 1] = b[from + n];
    }
    cast(r)
}
unpack!(Punpcklbw, Punpckhbw, u8);
unpack!(Punpcklwd, Punpckhwd, u16);
unpack!(Punpckldq, Punpckhdq, u32);
unpack!(Punpcklqdq, Punpckhqdq, u64);

/// Declares an operation with an immediate.
macro_rules! immediate {
    ($name:ident, shift $shift:literal, |$a:ident, $b:ident, $imm:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name;
        impl Lane for $name {
            const LANE_SHIFT: u32 = $shift;
            #[inline(always)]
            fn apply($a: V, $b: V, imm: u8, _mxcsr: &mut u32) -> V {
                let $imm = imm as usize;
                $body
            }
        }
    };
}

/// Four of the four words in a quadword, two bits of the immediate each.
#[inline(always)]
fn shuffle_words(a: u64, imm: usize) -> u64 {
    let a: [u16; 4] = cast(a);
    cast([0, 2, 4, 6].map(|shift| a[imm >> shift & 3]))
}

immediate!(Pshufd, shift 0, |_a, b, imm| {
    let b: [u32; 4] = cast(b);
    cast([0, 2, 4, 6].map(|shift| b[imm >> shift & 3]))
});
immediate!(Pshuflw, shift 0, |_a, b, imm| [shuffle_words(b[0], imm), b[1]]);
immediate!(Pshufhw, shift 0, |_a, b, imm| [b[0], shuffle_words(b[1], imm)]);
immediate!(Pshufw, shift 0, |_a, b, imm| [shuffle_words(b[0], imm), 0]);
immediate!(Shufps, shift 0, |a, b, imm| {
    let (a, b): ([u32; 4], [u32; 4]) = (cast(a), cast(b));
    cast([a[imm & 3], a[imm >> 2 & 3], b[imm >> 4 & 3], b[imm >> 6 & 3]])
});
immediate!(Shufpd, shift 2, |a, b, imm| [a[imm & 1], b[imm >> 1 & 1]]);

#[derive(Clone, Copy)]
struct Movddup;
impl Lane for Movddup {
    const BYTES: usize = 8;
    #[inline(always)]
    fn apply(_a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
        [b[0], b[0]]
    }
}
immediate!(Movsldup, shift 0, |_a, b, _imm| b.map(|x| x & 0xffff_ffff | x << 32));
immediate!(Movshdup, shift 0, |_a, b, _imm| b.map(|x| x & !0xffff_ffff | x >> 32));

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    macro_rules! two {
        ($O:ty) => {
            two_sources::<$O>(context, op, form)
        };
    }
    macro_rules! one {
        ($O:ty) => {
            one_source::<$O>(context, op, form)
        };
    }
    match context.insn.mnemonic() {
        M::Packsswb | M::Vpacksswb => two!(Packsswb),
        M::Packssdw | M::Vpackssdw => two!(Packssdw),
        M::Packuswb | M::Vpackuswb => two!(Packuswb),
        M::Punpcklbw | M::Vpunpcklbw => two!(Punpcklbw),
        M::Punpcklwd | M::Vpunpcklwd => two!(Punpcklwd),
        M::Punpckldq | M::Vpunpckldq | M::Unpcklps | M::Vunpcklps => two!(Punpckldq),
        M::Punpcklqdq | M::Vpunpcklqdq | M::Unpcklpd | M::Vunpcklpd => two!(Punpcklqdq),
        M::Punpckhbw | M::Vpunpckhbw => two!(Punpckhbw),
        M::Punpckhwd | M::Vpunpckhwd => two!(Punpckhwd),
        M::Punpckhdq | M::Vpunpckhdq | M::Unpckhps | M::Vunpckhps => two!(Punpckhdq),
        M::Punpckhqdq | M::Vpunpckhqdq | M::Unpckhpd | M::Vunpckhpd => two!(Punpckhqdq),
        M::Pshufd | M::Vpshufd => one!(Pshufd),
        M::Pshuflw | M::Vpshuflw => one!(Pshuflw),
        M::Pshufhw | M::Vpshufhw => one!(Pshufhw),
        M::Pshufw => one!(Pshufw),
        M::Movddup | M::Vmovddup if !form.wide => one!(Movddup),
        M::Movsldup | M::Vmovsldup => one!(Movsldup),
        M::Movshdup | M::Vmovshdup => one!(Movshdup),
        M::Shufps | M::Vshufps => two!(Shufps),
        M::Shufpd | M::Vshufpd => two!(Shufpd),
        _ => None,
    }
}
