//! Floating-point instructions that SSE3 and SSE4.1 added: ADDSUB, HADD, HSUB, DPPS, DPPD, ROUND.
//!
//! The host need not have them: all but the rounding is made of SSE2's additions and multiplications. DPPS and DPPD
//! raise the unmasked exceptions of each step by itself, products first (SDM volume 2, DPPS).

use super::float::{self, elements, under_mxcsr};
use super::{Elements, Form, Lane, Lowered, V, WIDE, one_source, straight, two_sources};
use crate::cpu::decode::Context;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use bytemuck::cast;
use iced_x86::Mnemonic;

macro_rules! float_lane {
    ($name:ident, $tiny:expr, |$a:ident, $b:ident, $imm:ident, $mxcsr:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            const FLOAT: bool = true;
            const TINY: Option<Elements> = $tiny;
            fn apply($a: V, $b: V, $imm: u8, $mxcsr: &mut u32) -> V {
                $body
            }
        }
    };
}

/// Changes the signs of the even elements, but for NaNs, which an addition would pass on with the wrong sign.
fn even_negated_singles(b: V) -> V {
    let mut b: [f32; 4] = cast(b);
    for n in [0, 2] {
        if !b[n].is_nan() {
            b[n] = -b[n];
        }
    }
    cast(b)
}

float_lane!(Addsubps, elements(4, 4), |a, b, _imm, mxcsr| {
    under_mxcsr!("addps", a, even_negated_singles(b), mxcsr)
});
float_lane!(Addsubpd, elements(8, 2), |a, b, _imm, mxcsr| {
    let low = f64::from_bits(b[0]);
    let negated = if low.is_nan() { b[0] } else { b[0] ^ 1 << 63 };
    under_mxcsr!("addpd", a, [negated, b[1]], mxcsr)
});

/// The even and the odd elements of two lanes.
fn pairs(a: V, b: V) -> (V, V) {
    let (a, b): ([u32; 4], [u32; 4]) = (cast(a), cast(b));
    (
        cast([a[0], a[2], b[0], b[2]]),
        cast([a[1], a[3], b[1], b[3]]),
    )
}

float_lane!(Haddps, elements(4, 4), |a, b, _imm, mxcsr| {
    let (even, odd) = pairs(a, b);
    under_mxcsr!("addps", even, odd, mxcsr)
});
float_lane!(Hsubps, elements(4, 4), |a, b, _imm, mxcsr| {
    let (even, odd) = pairs(a, b);
    under_mxcsr!("subps", even, odd, mxcsr)
});
float_lane!(Haddpd, elements(8, 2), |a, b, _imm, mxcsr| {
    under_mxcsr!("addpd", [a[0], b[0]], [a[1], b[1]], mxcsr)
});
float_lane!(Hsubpd, elements(8, 2), |a, b, _imm, mxcsr| {
    under_mxcsr!("subpd", [a[0], b[0]], [a[1], b[1]], mxcsr)
});

/// Keeps the elements whose bit is set; the others are +0.
fn kept_singles(a: V, bits: u8) -> V {
    let mut a: [u32; 4] = cast(a);
    for (n, x) in a.iter_mut().enumerate() {
        if bits >> n & 1 == 0 {
            *x = 0;
        }
    }
    cast(a)
}

fn kept_doubles(a: V, bits: u8) -> V {
    [0, 1].map(|n| if bits >> n & 1 != 0 { a[n] } else { 0 })
}

/// A dot product: its steps, each of which raises its unmasked exceptions before the next begins.
trait Dot: Copy + 'static {
    /// The multiplication and the additions.
    const STEPS: usize;
    /// Elements of a lane.
    const TINY: Option<Elements>;
    /// What step `n` makes of the sources and the result of the step before.
    fn step(n: usize, a: V, b: V, before: V, imm: u8, mxcsr: &mut u32) -> V;
    /// Keeps the elements that the immediate wants.
    fn kept(value: V, bits: u8) -> V;
}

#[derive(Clone, Copy)]
struct Dpps;
impl Dot for Dpps {
    const STEPS: usize = 3;
    const TINY: Option<Elements> = elements(4, 4);
    fn step(n: usize, a: V, b: V, before: V, imm: u8, mxcsr: &mut u32) -> V {
        match n {
            0 => {
                let (a, b) = (kept_singles(a, imm >> 4), kept_singles(b, imm >> 4));
                under_mxcsr!("mulps", a, b, mxcsr)
            }
            // Every element is added to its neighbour, then the other pair to it: which of two NaNs comes out
            // differs between the elements.
            1 => {
                let swapped = before.map(|x| x.rotate_left(32));
                under_mxcsr!("addps", swapped, before, mxcsr)
            }
            _ => under_mxcsr!("addps", before, [before[1], before[0]], mxcsr),
        }
    }
    fn kept(value: V, bits: u8) -> V {
        kept_singles(value, bits)
    }
}

#[derive(Clone, Copy)]
struct Dppd;
impl Dot for Dppd {
    const STEPS: usize = 2;
    const TINY: Option<Elements> = elements(8, 2);
    fn step(n: usize, a: V, b: V, before: V, imm: u8, mxcsr: &mut u32) -> V {
        if n == 0 {
            let (a, b) = (kept_doubles(a, imm >> 4), kept_doubles(b, imm >> 4));
            return under_mxcsr!("mulpd", a, b, mxcsr);
        }
        under_mxcsr!("addpd", before, [before[1], before[0]], mxcsr)
    }
    fn kept(value: V, bits: u8) -> V {
        kept_doubles(value, bits)
    }
}

fn dot_product<D: Dot>(op: &mut Op, form: Form) -> Option<Lowered> {
    if form.vex {
        op.flags |= if form.wide { WIDE } else { 0 };
        return straight(dot_vex::<D>);
    }
    op.aux = op.src;
    op.src = op.dst;
    straight(dot_legacy::<D>)
}

fn dot_legacy<D: Dot>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let b = if op.has(op_flags::MEMORY) {
        cpu.load_aligned(op)?
    } else {
        cpu.xmm(op.aux)
    };
    let [r] = dot::<D, 1>(cpu, op, [cpu.xmm(op.src)], [b])?;
    cpu.set_xmm(op.dst, r);
    Ok(())
}

fn dot_vex<D: Dot>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let b = cpu.vex_source(op)?;
    let a = [cpu.xmm(op.src), cpu.xmm_upper(op.src)];
    let [low, high] = if op.has(WIDE) {
        dot::<D, 2>(cpu, op, a, b)?
    } else {
        let [low] = dot::<D, 1>(cpu, op, [a[0]], [b[0]])?;
        [low, [0; 2]]
    };
    cpu.set_ymm(op.dst, low, high);
    Ok(())
}

fn dot<D: Dot, const N: usize>(
    cpu: &mut Cpu,
    op: &Op,
    a: [V; N],
    b: [V; N],
) -> Result<[V; N], Abort> {
    let imm = op.imm as u8;
    let mut results = [[0; 2]; N];
    for step in 0..D::STEPS {
        let mut mxcsr = float::masked(cpu.state.mxcsr);
        for (n, result) in results.iter_mut().enumerate() {
            *result = D::step(step, a[n], b[n], *result, imm, &mut mxcsr);
        }
        float::finish(cpu, mxcsr, D::TINY, &results)?;
    }
    Ok(results.map(|result| D::kept(result, imm)))
}

const INVALID: u32 = 1;
const PRECISION: u32 = 1 << 5;
const DENORMALS_ARE_ZEROS: u32 = 1 << 6;

macro_rules! round_function {
    ($name:ident, $T:ty, $quiet:expr) => {
        /// Rounds to an integer: the mode comes from the immediate or from MXCSR, precision is not always reported.
        fn $name(x: $T, imm: u8, mxcsr: &mut u32) -> $T {
            if x.is_nan() {
                if x.to_bits() & $quiet == 0 {
                    *mxcsr |= INVALID;
                }
                return <$T>::from_bits(x.to_bits() | $quiet);
            }
            if x.is_subnormal() && *mxcsr & DENORMALS_ARE_ZEROS != 0 {
                return (0.0 as $T).copysign(x);
            }
            let mode = if imm & 4 != 0 {
                (*mxcsr >> 13) as u8
            } else {
                imm
            };
            let rounded = match mode & 3 {
                0 => x.round_ties_even(),
                1 => x.floor(),
                2 => x.ceil(),
                _ => x.trunc(),
            };
            if rounded != x && imm & 8 == 0 {
                *mxcsr |= PRECISION;
            }
            // A result of zero has the operand's sign.
            rounded.copysign(x)
        }
    };
}
round_function!(rounded_single, f32, 1 << 22);
round_function!(rounded_double, f64, 1 << 51);

float_lane!(Roundps, None, |_a, b, imm, mxcsr| {
    cast(cast::<V, [f32; 4]>(b).map(|x| rounded_single(x, imm, mxcsr)))
});
float_lane!(Roundpd, None, |_a, b, imm, mxcsr| {
    cast(cast::<V, [f64; 2]>(b).map(|x| rounded_double(x, imm, mxcsr)))
});

#[derive(Clone, Copy)]
struct Roundss;
impl Lane for Roundss {
    const BYTES: usize = 4;
    const FLOAT: bool = true;
    fn apply(a: V, b: V, imm: u8, mxcsr: &mut u32) -> V {
        let r = rounded_single(f32::from_bits(b[0] as u32), imm, mxcsr);
        [a[0] & !0xffff_ffff | r.to_bits() as u64, a[1]]
    }
}

#[derive(Clone, Copy)]
struct Roundsd;
impl Lane for Roundsd {
    const BYTES: usize = 8;
    const FLOAT: bool = true;
    fn apply(a: V, b: V, imm: u8, mxcsr: &mut u32) -> V {
        [
            rounded_double(f64::from_bits(b[0]), imm, mxcsr).to_bits(),
            a[1],
        ]
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
    match context.insn.mnemonic() {
        M::Addsubps | M::Vaddsubps => two!(Addsubps),
        M::Addsubpd | M::Vaddsubpd => two!(Addsubpd),
        M::Haddps | M::Vhaddps => two!(Haddps),
        M::Haddpd | M::Vhaddpd => two!(Haddpd),
        M::Hsubps | M::Vhsubps => two!(Hsubps),
        M::Hsubpd | M::Vhsubpd => two!(Hsubpd),
        M::Dpps | M::Vdpps => dot_product::<Dpps>(op, form),
        M::Dppd | M::Vdppd => dot_product::<Dppd>(op, form),
        M::Roundps | M::Vroundps => one_source::<Roundps>(context, op, form),
        M::Roundpd | M::Vroundpd => one_source::<Roundpd>(context, op, form),
        M::Roundss | M::Vroundss => two!(Roundss),
        M::Roundsd | M::Vroundsd => two!(Roundsd),
        _ => None,
    }
}
