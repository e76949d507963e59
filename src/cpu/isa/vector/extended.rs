//! Integer instructions that SSSE3, SSE4.1 and SSE4.2 added.

use super::{Form, Lane, Lowered, V, choose, elementwise, one_source, straight, two_sources};
use crate::cpu::decode::Context;
use crate::cpu::flags::bits;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use bytemuck::{Pod, cast};
use iced_x86::Mnemonic;

elementwise!(Pabsb, u8, |_a, b| (b as i8).unsigned_abs());
elementwise!(Pabsw, u16, |_a, b| (b as i16).unsigned_abs());
elementwise!(Pabsd, u32, |_a, b| (b as i32).unsigned_abs());
elementwise!(Psignb, i8, |a, b| a.wrapping_mul(b.signum()));
elementwise!(Psignw, i16, |a, b| a.wrapping_mul(b.signum()));
elementwise!(Psignd, i32, |a, b| a.wrapping_mul(b.signum()));
elementwise!(Pmulhrsw, i16, |a, b| {
    ((((a as i32 * b as i32) >> 14) + 1) >> 1) as i16
});
// Unsigned bytes of the first source times signed ones of the second; two of each stand in an element.
elementwise!(Pmaddubsw, i16, |a, b| {
    let ([a0, a1], [b0, b1]) = (a.to_le_bytes(), b.to_le_bytes());
    let sum = a0 as i32 * b0 as i8 as i32 + a1 as i32 * b1 as i8 as i32;
    sum.clamp(i16::MIN as i32, i16::MAX as i32) as i16
});
elementwise!(Pcmpeqq, u64, |a, b| if a == b { !0 } else { 0 });
elementwise!(Pcmpgtq, i64, |a, b| if a > b { -1 } else { 0 });
elementwise!(Pminsb, i8, |a, b| a.min(b));
elementwise!(Pmaxsb, i8, |a, b| a.max(b));
elementwise!(Pminuw, u16, |a, b| a.min(b));
elementwise!(Pmaxuw, u16, |a, b| a.max(b));
elementwise!(Pminsd, i32, |a, b| a.min(b));
elementwise!(Pmaxsd, i32, |a, b| a.max(b));
elementwise!(Pminud, u32, |a, b| a.min(b));
elementwise!(Pmaxud, u32, |a, b| a.max(b));
elementwise!(Pmulld, u32, |a, b| a.wrapping_mul(b));
elementwise!(Pmuldq, i64, |a, b| a as i32 as i64 * b as i32 as i64);

/// Declares operations on neighbours: the pairs of the first source give the low half of the result.
macro_rules! horizontal {
    ($name:ident, $T:ty, |$a:ident, $b:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            #[inline(always)]
            fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
                const N: usize = 16 / size_of::<$T>();
                let (x, y): ([$T; N], [$T; N]) = (cast(a), cast(b));
                let mut r = x;
                for n in 0..N / 2 {
                    let ($a, $b) = (x[2 * n], x[2 * n + 1]);
                    r[n] = $body;
                    let ($a, $b) = (y[2 * n], y[2 * n + 1]);
                    r[N / 2 + n] = $body;
                }
                cast(r)
            }
            fn apply64(a: u64, b: u64, imm: u8) -> u64 {
                Self::apply([a, b], [0, 0], imm, &mut 0)[0]
            }
        }
    };
}
horizontal!(Phaddw, u16, |a, b| a.wrapping_add(b));
horizontal!(Phaddd, u32, |a, b| a.wrapping_add(b));
horizontal!(Phaddsw, i16, |a, b| a.saturating_add(b));
horizontal!(Phsubw, u16, |a, b| a.wrapping_sub(b));
horizontal!(Phsubd, u32, |a, b| a.wrapping_sub(b));
horizontal!(Phsubsw, i16, |a, b| a.saturating_sub(b));

/// Declares an operation on whole lanes.
macro_rules! lane {
    (
        $name:ident, |$a:ident, $b:ident, $imm:ident| $body:expr
        $(, mmx |$c:ident, $d:ident, $i:ident| $narrow:expr)?
    ) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            #[inline(always)]
            fn apply($a: V, $b: V, $imm: u8, _mxcsr: &mut u32) -> V {
                $body
            }
            $(fn apply64($c: u64, $d: u64, $i: u8) -> u64 {
                $narrow
            })?
        }
    };
}

lane!(
    Pshufb,
    |a, b, _imm| {
        let (a, b): ([u8; 16], [u8; 16]) = (cast(a), cast(b));
        cast(b.map(|n| if n >> 7 != 0 { 0 } else { a[(n & 15) as usize] }))
    },
    mmx | a,
    b,
    _imm | {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        cast(b.map(|n| if n >> 7 != 0 { 0 } else { a[(n & 7) as usize] }))
    }
);

lane!(
    Palignr,
    |a, b, imm| {
        let (mut both, mut r) = ([0u8; 32], [0u8; 16]);
        both[..16].copy_from_slice(bytemuck::bytes_of(&b));
        both[16..].copy_from_slice(bytemuck::bytes_of(&a));
        for (n, byte) in r.iter_mut().enumerate() {
            *byte = both.get(n + imm as usize).copied().unwrap_or(0);
        }
        cast(r)
    },
    mmx | a,
    b,
    imm | {
        let both = (a as u128) << 64 | b as u128;
        both.checked_shr(imm as u32 * 8).unwrap_or(0) as u64
    }
);

lane!(Packusdw, |a, b, _imm| {
    let (a, b): ([i32; 4], [i32; 4]) = (cast(a), cast(b));
    let mut r = [0u16; 8];
    for n in 0..4 {
        r[n] = a[n].clamp(0, 0xffff) as u16;
        r[4 + n] = b[n].clamp(0, 0xffff) as u16;
    }
    cast(r)
});

lane!(Phminposuw, |_a, b, _imm| {
    let words: [u16; 8] = cast(b);
    let (mut index, mut least) = (0, words[0]);
    for (n, &word) in words.iter().enumerate() {
        if word < least {
            (index, least) = (n, word);
        }
    }
    [least as u64 | (index as u64) << 16, 0]
});

/// MPSADBW: sums of absolute differences of a block of four bytes with eight overlapping ones.
#[derive(Clone, Copy)]
struct Mpsadbw;
impl Lane for Mpsadbw {
    const LANE_SHIFT: u32 = 3;
    fn apply(a: V, b: V, imm: u8, _mxcsr: &mut u32) -> V {
        let (a, b): ([u8; 16], [u8; 16]) = (cast(a), cast(b));
        let (from, block) = ((imm >> 2 & 1) as usize * 4, (imm & 3) as usize * 4);
        let mut r = [0u16; 8];
        for (n, sum) in r.iter_mut().enumerate() {
            *sum = (0..4)
                .map(|k| a[from + n + k].abs_diff(b[block + k]) as u16)
                .sum();
        }
        cast(r)
    }
}

/// Takes elements of the second source where the immediate has a bit.
#[inline(always)]
fn blend<T: Pod, const N: usize>(a: V, b: V, imm: u8) -> V {
    let (mut x, y): ([T; N], [T; N]) = (cast(a), cast(b));
    for n in 0..N {
        if imm >> n & 1 != 0 {
            x[n] = y[n];
        }
    }
    cast(x)
}

macro_rules! blend {
    ($name:ident, $T:ty, $shift:literal) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            const LANE_SHIFT: u32 = $shift;
            #[inline(always)]
            fn apply(a: V, b: V, imm: u8, _mxcsr: &mut u32) -> V {
                blend::<$T, { 16 / size_of::<$T>() }>(a, b, imm)
            }
        }
    };
}
blend!(Pblendw, u16, 0);
blend!(Blendps, u32, 4);
blend!(Blendpd, u64, 2);

/// Declares PMOVSX and PMOVZX: elements of the low part, widened.
macro_rules! widen {
    ($name:ident, $From:ty, $To:ty) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            const BYTES: usize = 16 / size_of::<$To>() * size_of::<$From>();
            #[inline(always)]
            fn apply(_a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
                const N: usize = 16 / size_of::<$To>();
                let b: [$From; 16 / size_of::<$From>()] = cast(b);
                let mut r = [0 as $To; N];
                for n in 0..N {
                    r[n] = b[n] as $To;
                }
                cast(r)
            }
        }
    };
}
widen!(Pmovsxbw, i8, i16);
widen!(Pmovsxbd, i8, i32);
widen!(Pmovsxbq, i8, i64);
widen!(Pmovsxwd, i16, i32);
widen!(Pmovsxwq, i16, i64);
widen!(Pmovsxdq, i32, i64);
widen!(Pmovzxbw, u8, u16);
widen!(Pmovzxbd, u8, u32);
widen!(Pmovzxbq, u8, u64);
widen!(Pmovzxwd, u16, u32);
widen!(Pmovzxwq, u16, u64);
widen!(Pmovzxdq, u32, u64);

/// Takes elements of `b` where the top bit of the mask's is set.
trait Select: Copy + 'static {
    fn select(a: V, b: V, mask: V) -> V;
}

macro_rules! select {
    ($name:ident, $T:ty) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Select for $name {
            #[inline(always)]
            fn select(a: V, b: V, mask: V) -> V {
                const N: usize = 16 / size_of::<$T>();
                let (mut x, y, m): ([$T; N], [$T; N], [$T; N]) = (cast(a), cast(b), cast(mask));
                for n in 0..N {
                    if m[n] < 0 {
                        x[n] = y[n];
                    }
                }
                cast(x)
            }
        }
    };
}
select!(Bytes, i8);
select!(Singles, i32);
select!(Doubles, i64);

/// The mask is XMM0 (legacy) or the fourth operand.
fn variable_blend<S: Select>(op: &mut Op, form: Form) -> Option<Lowered> {
    if !form.vex {
        return straight(select_legacy::<S>);
    }
    if form.wide {
        op.flags |= super::WIDE;
    }
    straight(select_vex::<S>)
}

fn select_legacy<S: Select>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let b = if op.has(op_flags::MEMORY) {
        cpu.load_aligned(op)?
    } else {
        cpu.xmm(op.src)
    };
    let r = S::select(cpu.xmm(op.dst), b, cpu.xmm(0));
    cpu.set_xmm(op.dst, r);
    Ok(())
}

fn select_vex<S: Select>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let [low, high] = cpu.vex_source(op)?;
    let r = S::select(cpu.xmm(op.src), low, cpu.xmm(op.aux2));
    let s = if op.has(super::WIDE) {
        S::select(cpu.xmm_upper(op.src), high, cpu.xmm_upper(op.aux2))
    } else {
        [0; 2]
    };
    cpu.set_ymm(op.dst, r, s);
    Ok(())
}

/// PTEST, VTESTPS, VTESTPD: only the bits of `MASK` of each quadword count.
fn test<const MASK: u64>(op: &mut Op, form: Form) -> Option<Lowered> {
    if form.wide {
        op.flags |= super::WIDE;
    }
    op.aux = op.src;
    if form.vex {
        straight(test_vex::<MASK>)
    } else {
        straight(test_legacy)
    }
}

fn set_test_flags(cpu: &mut Cpu, and: u64, and_not: u64) {
    let zf = if and == 0 { bits::ZF } else { 0 };
    let cf = if and_not == 0 { bits::CF } else { 0 };
    cpu.state.flags.set_arithmetic(zf | cf);
}

fn test_legacy(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let b = if op.has(op_flags::MEMORY) {
        cpu.load_aligned(op)?
    } else {
        cpu.xmm(op.aux)
    };
    let a = cpu.xmm(op.dst);
    set_test_flags(cpu, a[0] & b[0] | a[1] & b[1], !a[0] & b[0] | !a[1] & b[1]);
    Ok(())
}

fn test_vex<const MASK: u64>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let [low, high] = cpu.vex_source(op)?;
    let mut a = [cpu.xmm(op.dst), cpu.xmm_upper(op.dst)];
    if !op.has(super::WIDE) {
        a[1] = [0; 2];
    }
    let (mut and, mut and_not) = (0, 0);
    for (a, b) in a.iter().flatten().zip([low, high].iter().flatten()) {
        and |= a & b & MASK;
        and_not |= !a & b & MASK;
    }
    set_test_flags(cpu, and, and_not);
    Ok(())
}

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
        M::Pabsb | M::Vpabsb => one!(Pabsb),
        M::Pabsw | M::Vpabsw => one!(Pabsw),
        M::Pabsd | M::Vpabsd => one!(Pabsd),
        M::Psignb | M::Vpsignb => two!(Psignb),
        M::Psignw | M::Vpsignw => two!(Psignw),
        M::Psignd | M::Vpsignd => two!(Psignd),
        M::Pmulhrsw | M::Vpmulhrsw => two!(Pmulhrsw),
        M::Pmaddubsw | M::Vpmaddubsw => two!(Pmaddubsw),
        M::Phaddw | M::Vphaddw => two!(Phaddw),
        M::Phaddd | M::Vphaddd => two!(Phaddd),
        M::Phaddsw | M::Vphaddsw => two!(Phaddsw),
        M::Phsubw | M::Vphsubw => two!(Phsubw),
        M::Phsubd | M::Vphsubd => two!(Phsubd),
        M::Phsubsw | M::Vphsubsw => two!(Phsubsw),
        M::Pshufb | M::Vpshufb => two!(Pshufb),
        M::Palignr | M::Vpalignr => two!(Palignr),
        M::Pcmpeqq | M::Vpcmpeqq => two!(Pcmpeqq),
        M::Pcmpgtq | M::Vpcmpgtq => two!(Pcmpgtq),
        M::Pminsb | M::Vpminsb => two!(Pminsb),
        M::Pmaxsb | M::Vpmaxsb => two!(Pmaxsb),
        M::Pminuw | M::Vpminuw => two!(Pminuw),
        M::Pmaxuw | M::Vpmaxuw => two!(Pmaxuw),
        M::Pminsd | M::Vpminsd => two!(Pminsd),
        M::Pmaxsd | M::Vpmaxsd => two!(Pmaxsd),
        M::Pminud | M::Vpminud => two!(Pminud),
        M::Pmaxud | M::Vpmaxud => two!(Pmaxud),
        M::Pmulld | M::Vpmulld => two!(Pmulld),
        M::Pmuldq | M::Vpmuldq => two!(Pmuldq),
        M::Packusdw | M::Vpackusdw => two!(Packusdw),
        M::Phminposuw | M::Vphminposuw => one!(Phminposuw),
        M::Mpsadbw | M::Vmpsadbw => two!(Mpsadbw),
        M::Pblendw | M::Vpblendw => two!(Pblendw),
        M::Blendps | M::Vblendps | M::Vpblendd => two!(Blendps),
        M::Blendpd | M::Vblendpd => two!(Blendpd),
        M::Pblendvb | M::Vpblendvb => variable_blend::<Bytes>(op, form),
        M::Blendvps | M::Vblendvps => variable_blend::<Singles>(op, form),
        M::Blendvpd | M::Vblendvpd => variable_blend::<Doubles>(op, form),
        M::Ptest | M::Vptest => test::<{ !0 }>(op, form),
        M::Vtestps => test::<0x8000_0000_8000_0000>(op, form),
        M::Vtestpd => test::<0x8000_0000_0000_0000>(op, form),
        _ => lower_widening(context, op, form),
    }
}

fn lower_widening(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    macro_rules! widen {
        ($O:ty) => {
            widening::<$O>(context, op, form)
        };
    }
    match context.insn.mnemonic() {
        M::Pmovsxbw | M::Vpmovsxbw => widen!(Pmovsxbw),
        M::Pmovsxbd | M::Vpmovsxbd => widen!(Pmovsxbd),
        M::Pmovsxbq | M::Vpmovsxbq => widen!(Pmovsxbq),
        M::Pmovsxwd | M::Vpmovsxwd => widen!(Pmovsxwd),
        M::Pmovsxwq | M::Vpmovsxwq => widen!(Pmovsxwq),
        M::Pmovsxdq | M::Vpmovsxdq => widen!(Pmovsxdq),
        M::Pmovzxbw | M::Vpmovzxbw => widen!(Pmovzxbw),
        M::Pmovzxbd | M::Vpmovzxbd => widen!(Pmovzxbd),
        M::Pmovzxbq | M::Vpmovzxbq => widen!(Pmovzxbq),
        M::Pmovzxwd | M::Vpmovzxwd => widen!(Pmovzxwd),
        M::Pmovzxwq | M::Vpmovzxwq => widen!(Pmovzxwq),
        M::Pmovzxdq | M::Vpmovzxdq => widen!(Pmovzxdq),
        _ => None,
    }
}

/// An operation whose result is wider than its source: with 256 bits, each lane comes from its part of one lane.
pub(super) fn widening<O: Lane>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    op.aux = op.src;
    op.src = op.dst;
    if form.wide {
        straight(widen_vex::<O>)
    } else {
        choose::<O>(context, op, form)
    }
}

pub(super) fn widen_vex<O: Lane>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let b = if op.has(op_flags::MEMORY) {
        cpu.load_part(op, 2 * O::BYTES)?
    } else {
        cpu.xmm(op.aux)
    };
    let whole = (b[1] as u128) << 64 | b[0] as u128;
    let rest = whole >> (8 * O::BYTES);
    let mut mxcsr = super::float::masked(cpu.state.mxcsr);
    let r = O::apply([0; 2], b, 0, &mut mxcsr);
    let s = O::apply([0; 2], [rest as u64, (rest >> 64) as u64], 0, &mut mxcsr);
    if O::FLOAT {
        super::float::finish(cpu, mxcsr, O::TINY, &[r, s])?;
    }
    cpu.set_ymm(op.dst, r, s);
    Ok(())
}
