//! Floating-point arithmetic: ADD, SUB, MUL, DIV, MIN, MAX, SQRT, packed and scalar, single and double.
//!
//! The host's own SSE2 instructions compute, with the guest's rounding, DAZ and FTZ loaded and all exceptions
//! masked; the flags that they raise are the guest's. IEEE 754 and the SDM leave them no freedom, NaNs included.
//! An exception that the guest has unmasked is found afterwards in the flags, before anything is written
//! (SDM volume 1, 11.5.2 to 11.5.4).

use super::{Elements, Form, Lowered, V, one_source, two_sources};
use crate::cpu::decode::Context;
use crate::cpu::op::Op;
use crate::cpu::state::cr4;
use crate::cpu::{Abort, Cpu, vector};
use iced_x86::Mnemonic;

/// The exception flags of MXCSR.
pub const FLAGS: u32 = 0x3f;
/// Its mask bits, seven places above.
const MASKS: u32 = FLAGS << 7;
/// Flags of the exceptions that are found before the operation: invalid, denormal, divide by zero.
const BEFORE: u32 = 7;
const UNDERFLOW: u32 = 1 << 4;
/// Flush to zero, which counts only while underflow is masked.
const FLUSH: u32 = 1 << 15;
/// What MXCSR is after reset, and always while Rust code runs.
pub const DEFAULT: u32 = 0x1f80;

/// The guest's MXCSR for an operation: exceptions masked, flags kept only where they need not be told from new ones.
#[inline(always)]
pub fn masked(mxcsr: u32) -> u32 {
    if mxcsr & MASKS == MASKS {
        return mxcsr;
    }
    let flush = if mxcsr & UNDERFLOW << 7 == 0 {
        FLUSH
    } else {
        0
    };
    mxcsr & !FLAGS & !flush | MASKS
}

/// Takes over the flags of an operation, and raises the exception that is not masked.
#[inline(always)]
pub fn finish(
    cpu: &mut Cpu,
    mxcsr: u32,
    tiny: Option<Elements>,
    results: &[V],
) -> Result<(), Abort> {
    if cpu.state.mxcsr & MASKS == MASKS {
        cpu.state.mxcsr = mxcsr;
        return Ok(());
    }
    finish_unmasked(cpu, mxcsr & FLAGS, tiny, results)
}

#[cold]
#[inline(never)]
fn finish_unmasked(
    cpu: &mut Cpu,
    mut flags: u32,
    tiny: Option<Elements>,
    results: &[V],
) -> Result<(), Abort> {
    let enabled = !(cpu.state.mxcsr >> 7) & FLAGS;
    // Unmasked, underflow is raised by a tiny result even if it is exact.
    if enabled & UNDERFLOW != 0
        && let Some(elements) = tiny
        && results.iter().any(|&result| has_denormal(result, elements))
    {
        flags |= UNDERFLOW;
    }
    if flags & enabled & BEFORE != 0 {
        flags &= BEFORE;
    }
    cpu.state.mxcsr |= flags;
    if flags & enabled == 0 {
        return Ok(());
    }
    if cpu.state.cr4 & cr4::OSXMMEXCPT == 0 {
        return cpu.undefined();
    }
    cpu.raise(vector::XM)
}

fn has_denormal(value: V, elements: Elements) -> bool {
    if elements.bytes == 4 {
        let x: [f32; 4] = bytemuck::cast(value);
        x[..elements.count].iter().any(|x| x.is_subnormal())
    } else {
        let x: [f64; 2] = bytemuck::cast(value);
        x[..elements.count].iter().any(|x| x.is_subnormal())
    }
}

/// Runs a host instruction `insn destination, source` under an MXCSR value.
///
/// Loading MXCSR costs several times what an addition does. Under the default control bits it is left out where
/// that makes no difference: the flags of the host only accumulate, so if after the operation they are no more than
/// what the guest has already, then the operation has raised nothing new. Otherwise it runs again, under the guest's
/// flags, which the host then has, too.
macro_rules! under_mxcsr {
    ($instruction:literal, $a:expr, $b:expr, $mxcsr:expr) => {{
        use std::arch::x86_64::__m128i;
        // SAFETY: any 16 bytes are an `__m128i`.
        let (a, b) = unsafe {
            (
                std::mem::transmute::<super::V, __m128i>($a),
                std::mem::transmute::<super::V, __m128i>($b),
            )
        };
        let mxcsr: &mut u32 = $mxcsr;
        let r = super::float::on_host!(
            mxcsr,
            a,
            [concat!($instruction, " {r}, {b}")],
            [inout(xmm_reg)],
            [b = in(xmm_reg) b,]
        );
        // SAFETY: as above.
        unsafe { std::mem::transmute::<__m128i, super::V>(r) }
    }};
}
pub(super) use under_mxcsr;

/// The way described at `under_mxcsr`, for any operands: `{r}` is what the instruction changes.
macro_rules! on_host {
    ($mxcsr:ident, $start:expr, [$text:expr], [$($class:tt)*], [$($operands:tt)*]) => {
        'done: {
            let start = $start;
            if *$mxcsr & 0xffc0 == super::float::DEFAULT {
                let (mut r, mut after) = (start, 0u32);
                // SAFETY: the host has the instruction: it is of SSE2, or the caller has asked. MXCSR keeps its control
                // bits.
                unsafe {
                    std::arch::asm!(
                        $text,
                        "stmxcsr [{m}]",
                        r = $($class)* r,
                        m = in(reg) &mut after,
                        $($operands)*
                        options(nostack)
                    );
                }
                if after & super::float::FLAGS & !*$mxcsr == 0 {
                    break 'done r;
                }
            }
            let mut r = start;
            // SAFETY: as above; MXCSR has its default control bits afterwards.
            unsafe {
                std::arch::asm!(
                    "ldmxcsr [{m}]",
                    $text,
                    "stmxcsr [{m}]",
                    // Keeps the flags: see `under_mxcsr`.
                    "mov {t:e}, [{m}]",
                    "and {t:e}, 0x3f",
                    "or {t:e}, 0x1f80",
                    "push {t}",
                    "ldmxcsr [rsp]",
                    "pop {t}",
                    r = $($class)* r,
                    m = in(reg) &mut *$mxcsr,
                    t = out(reg) _,
                    $($operands)*
                );
            }
            r
        }
    };
}
pub(super) use on_host;

/// Declares a floating-point [`Lane`] operation: `name "instruction" bytes of the source, tiny elements`.
macro_rules! float_lane {
    ($($name:ident $instruction:literal $bytes:literal $tiny:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl super::Lane for $name {
            const BYTES: usize = $bytes;
            const FLOAT: bool = true;
            const TINY: Option<super::Elements> = $tiny;
            #[inline(always)]
            fn apply(a: super::V, b: super::V, _imm: u8, mxcsr: &mut u32) -> super::V {
                super::float::under_mxcsr!($instruction, a, b, mxcsr)
            }
        }
    )*};
}
pub(super) use float_lane;

pub const fn elements(bytes: usize, count: usize) -> Option<Elements> {
    Some(Elements { bytes, count })
}

float_lane! {
    Addps "addps" 16 elements(4, 4);
    Addpd "addpd" 16 elements(8, 2);
    Addss "addss" 4 elements(4, 1);
    Addsd "addsd" 8 elements(8, 1);
    Subps "subps" 16 elements(4, 4);
    Subpd "subpd" 16 elements(8, 2);
    Subss "subss" 4 elements(4, 1);
    Subsd "subsd" 8 elements(8, 1);
    Mulps "mulps" 16 elements(4, 4);
    Mulpd "mulpd" 16 elements(8, 2);
    Mulss "mulss" 4 elements(4, 1);
    Mulsd "mulsd" 8 elements(8, 1);
    Divps "divps" 16 elements(4, 4);
    Divpd "divpd" 16 elements(8, 2);
    Divss "divss" 4 elements(4, 1);
    Divsd "divsd" 8 elements(8, 1);
    Minps "minps" 16 None;
    Minpd "minpd" 16 None;
    Minss "minss" 4 None;
    Minsd "minsd" 8 None;
    Maxps "maxps" 16 None;
    Maxpd "maxpd" 16 None;
    Maxss "maxss" 4 None;
    Maxsd "maxsd" 8 None;
    Sqrtps "sqrtps" 16 None;
    Sqrtpd "sqrtpd" 16 None;
    Sqrtss "sqrtss" 4 None;
    Sqrtsd "sqrtsd" 8 None;
}

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    macro_rules! two {
        ($O:ty) => {
            two_sources::<$O>(context, op, form)
        };
    }
    match context.insn.mnemonic() {
        Mnemonic::Addps | Mnemonic::Vaddps => two!(Addps),
        Mnemonic::Addpd | Mnemonic::Vaddpd => two!(Addpd),
        Mnemonic::Addss | Mnemonic::Vaddss => two!(Addss),
        Mnemonic::Addsd | Mnemonic::Vaddsd => two!(Addsd),
        Mnemonic::Subps | Mnemonic::Vsubps => two!(Subps),
        Mnemonic::Subpd | Mnemonic::Vsubpd => two!(Subpd),
        Mnemonic::Subss | Mnemonic::Vsubss => two!(Subss),
        Mnemonic::Subsd | Mnemonic::Vsubsd => two!(Subsd),
        Mnemonic::Mulps | Mnemonic::Vmulps => two!(Mulps),
        Mnemonic::Mulpd | Mnemonic::Vmulpd => two!(Mulpd),
        Mnemonic::Mulss | Mnemonic::Vmulss => two!(Mulss),
        Mnemonic::Mulsd | Mnemonic::Vmulsd => two!(Mulsd),
        Mnemonic::Divps | Mnemonic::Vdivps => two!(Divps),
        Mnemonic::Divpd | Mnemonic::Vdivpd => two!(Divpd),
        Mnemonic::Divss | Mnemonic::Vdivss => two!(Divss),
        Mnemonic::Divsd | Mnemonic::Vdivsd => two!(Divsd),
        Mnemonic::Minps | Mnemonic::Vminps => two!(Minps),
        Mnemonic::Minpd | Mnemonic::Vminpd => two!(Minpd),
        Mnemonic::Minss | Mnemonic::Vminss => two!(Minss),
        Mnemonic::Minsd | Mnemonic::Vminsd => two!(Minsd),
        Mnemonic::Maxps | Mnemonic::Vmaxps => two!(Maxps),
        Mnemonic::Maxpd | Mnemonic::Vmaxpd => two!(Maxpd),
        Mnemonic::Maxss | Mnemonic::Vmaxss => two!(Maxss),
        Mnemonic::Maxsd | Mnemonic::Vmaxsd => two!(Maxsd),
        Mnemonic::Sqrtps | Mnemonic::Vsqrtps => one_source::<Sqrtps>(context, op, form),
        Mnemonic::Sqrtpd | Mnemonic::Vsqrtpd => one_source::<Sqrtpd>(context, op, form),
        Mnemonic::Sqrtss | Mnemonic::Vsqrtss => two!(Sqrtss),
        Mnemonic::Sqrtsd | Mnemonic::Vsqrtsd => two!(Sqrtsd),
        _ => None,
    }
}
