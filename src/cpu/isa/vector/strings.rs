//! String comparison, PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM, and CRC32.
//!
//! SDM volume 2, 4.1 (the immediate, and what invalid elements count as).

use super::{Form, Lowered, V, straight};
use crate::cpu::decode::Context;
use crate::cpu::flags::{Width, bits};
use crate::cpu::op::{Op, op_flags};
use crate::cpu::state::gpr;
use crate::cpu::{Abort, Cpu};
use iced_x86::Mnemonic;

/// Chooses handlers.
pub fn lower(context: &Context, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    macro_rules! string {
        ($mask:literal, $explicit:literal, $W:ty) => {
            if form.vex {
                straight(compare_strings::<$mask, $explicit, $W, true>)
            } else {
                straight(compare_strings::<$mask, $explicit, $W, false>)
            }
        };
    }
    match context.insn.mnemonic() {
        M::Pcmpestri | M::Vpcmpestri => string!(false, true, u32),
        M::Pcmpestri64 | M::Vpcmpestri64 => string!(false, true, u64),
        M::Pcmpestrm | M::Vpcmpestrm => string!(true, true, u32),
        M::Pcmpestrm64 | M::Vpcmpestrm64 => string!(true, true, u64),
        M::Pcmpistri | M::Vpcmpistri => string!(false, false, u32),
        M::Pcmpistrm | M::Vpcmpistrm => string!(true, false, u32),
        M::Crc32 => {
            // The width of the destination is that of the addend but for 64 bits: both clear the upper half.
            super::super::by_width!(super::super::width(context, 1), W => straight(crc32::<W>))
        }
        _ => None,
    }
}

/// A string in a register: its elements, sign- or zero-extended, and how many of them count.
struct Text {
    elements: [i32; 16],
    length: usize,
}

/// Elements in a register, by the format in the immediate.
fn capacity(imm: u8) -> usize {
    if imm & 1 != 0 { 8 } else { 16 }
}

impl Text {
    fn new(value: V, imm: u8) -> Text {
        let mut elements = [0; 16];
        let bytes: [u8; 16] = bytemuck::cast(value);
        let words: [u16; 8] = bytemuck::cast(value);
        for (n, element) in elements[..capacity(imm)].iter_mut().enumerate() {
            *element = match imm & 3 {
                0 => bytes[n] as i32,
                1 => words[n] as i32,
                2 => bytes[n] as i8 as i32,
                _ => words[n] as i16 as i32,
            };
        }
        Text {
            elements,
            length: capacity(imm),
        }
    }

    /// Ends before its first zero.
    fn terminated(mut self) -> Text {
        let whole = self.length;
        let zero = self.elements[..whole].iter().position(|&x| x == 0);
        self.length = zero.unwrap_or(whole);
        self
    }

    /// Has the absolute value of a register as its length.
    fn with_length(mut self, length: i64) -> Text {
        self.length = length.unsigned_abs().min(self.length as u64) as usize;
        self
    }

    fn get(&self, n: usize) -> Option<i32> {
        (n < self.length).then(|| self.elements[n])
    }
}

/// The result bits before the polarity: one for each element of the second operand.
fn aggregate(a: &Text, b: &Text, imm: u8) -> u32 {
    let count = capacity(imm);
    let holds = |n: usize| match imm >> 2 & 3 {
        // Equal any.
        0 => b
            .get(n)
            .is_some_and(|x| a.elements[..a.length].contains(&x)),
        // Ranges: pairs of lower and upper bounds.
        1 => b.get(n).is_some_and(|x| {
            (0..count / 2).any(|pair| {
                let (low, high) = (a.get(2 * pair), a.get(2 * pair + 1));
                low.is_some_and(|low| low <= x) && high.is_some_and(|high| x <= high)
            })
        }),
        // Equal each: two ends are equal.
        2 => a.get(n) == b.get(n),
        // Equal ordered: the first operand stands at this place, as far as the register reaches.
        _ => (0..count - n).all(|k| match (a.get(k), b.get(n + k)) {
            (None, _) => true,
            (Some(x), y) => y == Some(x),
        }),
    };
    (0..count).fold(0, |result, n| result | (holds(n) as u32) << n)
}

fn polarised(result: u32, b: &Text, imm: u8) -> u32 {
    let all = (1u32 << capacity(imm)) - 1;
    match imm >> 4 & 3 {
        1 => result ^ all,
        3 => result ^ ((1u32 << b.length) - 1),
        _ => result,
    }
}

/// The result as a mask: bits, or elements of all ones.
fn expanded(result: u32, imm: u8) -> V {
    if imm & 0x40 == 0 {
        return [result as u64, 0];
    }
    let bytes: [u8; 16] = std::array::from_fn(|n| {
        let element = if imm & 1 != 0 { n / 2 } else { n };
        if result >> element & 1 != 0 { 0xff } else { 0 }
    });
    bytemuck::cast(bytes)
}

fn compare_strings<const MASK: bool, const EXPLICIT: bool, W: Width, const VEX: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Abort> {
    if VEX {
        cpu.avx_ready()?;
    } else {
        cpu.sse_ready()?;
    }
    // These operands need not be aligned.
    let second = if op.has(op_flags::MEMORY) {
        cpu.load::<V>(op)?
    } else {
        cpu.xmm(op.src)
    };
    let imm = op.imm as u8;
    let (mut a, mut b) = (Text::new(cpu.xmm(op.dst), imm), Text::new(second, imm));
    if EXPLICIT {
        a = a.with_length(cpu.reg::<W>((gpr::RAX * 8) as u8).sext() as i64);
        b = b.with_length(cpu.reg::<W>((gpr::RDX * 8) as u8).sext() as i64);
    } else {
        a = a.terminated();
        b = b.terminated();
    }
    let count = capacity(imm);
    let result = polarised(aggregate(&a, &b, imm), &b, imm);
    if MASK {
        let mask = expanded(result, imm);
        if VEX {
            cpu.set_ymm(0, mask, [0; 2]);
        } else {
            cpu.set_xmm(0, mask);
        }
    } else {
        let index = match (result, imm & 0x40) {
            (0, _) => count as u32,
            (_, 0) => result.trailing_zeros(),
            _ => 31 - result.leading_zeros(),
        };
        cpu.state.gpr[gpr::RCX] = index as u64;
    }
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    cpu.state.flags.set_arithmetic(
        flag(result != 0, bits::CF)
            | flag(b.length < count, bits::ZF)
            | flag(a.length < count, bits::SF)
            | flag(result & 1 != 0, bits::OF),
    );
    Ok(())
}

/// The Castagnoli polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// One table look-up a byte.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

fn crc32<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let addend = if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)?
    } else {
        cpu.reg::<W>(op.src)
    };
    let mut crc = cpu.reg::<u32>(op.dst);
    for byte in &addend.to_u64().to_le_bytes()[..W::BYTES] {
        crc = crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize];
    }
    cpu.set_reg(op.dst, crc);
    Ok(())
}
