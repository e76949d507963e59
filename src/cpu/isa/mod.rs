//! The instructions, one file a group: which handler an instruction gets, and right below it what it does.
//!
//! Each group has a `lower` that knows its mnemonics; [`lower`] asks them in turn, once for each instruction that is
//! decoded. To add an instruction: a line in its group's `lower`, its body below, a case in the tests.

mod alu;
mod bcd;
mod bit;
mod branch;
mod far;
mod flag;
mod fuse;
mod io;
mod muldiv;
mod shift;
mod stack;
mod string;
pub(in crate::cpu) mod system;
mod transfer;
mod vector;
pub(in crate::cpu) mod x87;

pub use fuse::fuse;

use super::decode::Context;
use super::op::{self, Flow, Handler, Op};
use super::{Abort, Cpu};
use iced_x86::{EncodingKind, Mnemonic, OpKind};
use std::sync::atomic::{AtomicBool, Ordering};

/// How an instruction takes part in a block.
#[derive(Clone, Copy)]
pub enum Lowered {
    /// The next instruction follows.
    Straight(Handler),
    /// Ends the block.
    Ending(Handler),
    /// Ends the block and needs one of its own: the number of ticks varies, or the exact tick matters to the world.
    Alone(Handler),
}

/// An instruction body that the next instruction follows.
pub fn straight<F: Fn(&mut Cpu, &Op) -> Result<(), Abort> + Copy>(body: F) -> Option<Lowered> {
    Some(Lowered::Straight(op::straight(body)))
}

/// An instruction body that ends its block.
pub fn ending<F: Fn(&mut Cpu, &Op) -> Result<Flow, Abort> + Copy>(body: F) -> Option<Lowered> {
    Some(Lowered::Ending(op::ending(body)))
}

/// An instruction body that is a block.
pub fn alone<F: Fn(&mut Cpu, &Op) -> Result<Flow, Abort> + Copy>(body: F) -> Option<Lowered> {
    Some(Lowered::Alone(op::ending(body)))
}

/// Picks the instance of a generic body for an operand width in bytes.
macro_rules! by_width {
    ($width:expr, $W:ident => $body:expr) => {
        match $width {
            1 => {
                type $W = u8;
                $body
            }
            2 => {
                type $W = u16;
                $body
            }
            4 => {
                type $W = u32;
                $body
            }
            _ => {
                type $W = u64;
                $body
            }
        }
    };
}
/// Likewise for instructions without an 8-bit form.
macro_rules! by_wide_width {
    ($width:expr, $W:ident => $body:expr) => {
        match $width {
            2 => {
                type $W = u16;
                $body
            }
            4 => {
                type $W = u32;
                $body
            }
            _ => {
                type $W = u64;
                $body
            }
        }
    };
}
/// Picks the instance of a body that is generic over a condition code.
macro_rules! by_condition {
    ($condition:expr, $CC:ident => $body:expr) => {
        match $condition & 15 {
            0 => {
                const $CC: u8 = 0;
                $body
            }
            1 => {
                const $CC: u8 = 1;
                $body
            }
            2 => {
                const $CC: u8 = 2;
                $body
            }
            3 => {
                const $CC: u8 = 3;
                $body
            }
            4 => {
                const $CC: u8 = 4;
                $body
            }
            5 => {
                const $CC: u8 = 5;
                $body
            }
            6 => {
                const $CC: u8 = 6;
                $body
            }
            7 => {
                const $CC: u8 = 7;
                $body
            }
            8 => {
                const $CC: u8 = 8;
                $body
            }
            9 => {
                const $CC: u8 = 9;
                $body
            }
            10 => {
                const $CC: u8 = 10;
                $body
            }
            11 => {
                const $CC: u8 = 11;
                $body
            }
            12 => {
                const $CC: u8 = 12;
                $body
            }
            13 => {
                const $CC: u8 = 13;
                $body
            }
            14 => {
                const $CC: u8 = 14;
                $body
            }
            _ => {
                const $CC: u8 = 15;
                $body
            }
        }
    };
}
pub(crate) use {by_condition, by_wide_width, by_width};

/// Width in bytes of an operand.
pub fn width(context: &Context, operand: u32) -> usize {
    match context.insn.op_kind(operand) {
        OpKind::Register => context.insn.op_register(operand).size(),
        OpKind::Memory
        | OpKind::MemorySegSI
        | OpKind::MemorySegESI
        | OpKind::MemorySegRSI
        | OpKind::MemorySegDI
        | OpKind::MemorySegEDI
        | OpKind::MemorySegRDI
        | OpKind::MemoryESDI
        | OpKind::MemoryESEDI
        | OpKind::MemoryESRDI => context.insn.memory_size().size(),
        _ => 0,
    }
}

/// The encoding of a condition: iced numbers them from 1 in the order of the manual.
pub fn condition(context: &Context) -> u8 {
    (context.insn.condition_code() as u8).wrapping_sub(1)
}

type Group = fn(&Context, &mut Op) -> Option<Lowered>;

const GROUPS: &[Group] = &[
    transfer::lower,
    alu::lower,
    branch::lower,
    stack::lower,
    shift::lower,
    bit::lower,
    muldiv::lower,
    string::lower,
    flag::lower,
    far::lower,
    system::lower,
    io::lower,
    vector::lower,
    bcd::lower,
    x87::lower,
];

/// The handler of an instruction; #UD for what the processor does not have.
pub fn lower(context: &Context, op: &mut Op) -> Lowered {
    if context.insn.is_invalid() {
        return Lowered::Ending(op::ending(undefined));
    }
    // AMD's XOP has instructions of the same names.
    let encoded = matches!(
        context.insn.encoding(),
        EncodingKind::Legacy | EncodingKind::VEX
    );
    let allowed = encoded && context.features.allow(context.insn);
    allowed
        .then(|| handler(context, op))
        .flatten()
        .unwrap_or_else(|| {
            note_unsupported(context);
            Lowered::Ending(op::ending(undefined))
        })
}

/// The handler of an instruction that the engine has.
pub fn handler(context: &Context, op: &mut Op) -> Option<Lowered> {
    GROUPS.iter().find_map(|group| group(context, op))
}

fn undefined(cpu: &mut Cpu, _op: &Op) -> Result<Flow, Abort> {
    cpu.undefined()
}

/// Says once for each kind of instruction that it is not there: a guest that heeds CPUID never gets here.
fn note_unsupported(context: &Context) {
    static SEEN: [AtomicBool; 2048] = [const { AtomicBool::new(false) }; 2048];
    let mnemonic = context.insn.mnemonic();
    if matches!(mnemonic, Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2) {
        return;
    }
    let seen = SEEN
        .get(mnemonic as usize)
        .is_some_and(|seen| seen.swap(true, Ordering::Relaxed));
    if !seen {
        log::warn!(
            "the guest met an instruction that this processor does not have: {mnemonic:?} (#UD)"
        );
    }
}
