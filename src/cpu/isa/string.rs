//! String instructions: MOVS, STOS, LODS, CMPS, SCAS, with and without repeat prefixes.
//!
//! One iteration is one tick. A repeated instruction is a block of its own and runs as many iterations as the
//! budget allows; MOVS and STOS that go upwards within fast pages are done in bulk, with the ticks counted all
//! the same. State is written back after every iteration, so that a fault finds it as the SDM says.

use super::{Lowered, alone, by_width, straight};
use crate::cpu::decode::{Context, Mode};
use crate::cpu::flags::{Width, bits};
use crate::cpu::op::{Flow, Op, op_flags};
use crate::cpu::state::{gpr, seg};
use crate::cpu::{Abort, Cpu};
use iced_x86::Mnemonic;

const ACCUMULATOR: u8 = 0;

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    macro_rules! string {
        ($operation:ident, $width:literal) => {{
            op.seg = source_segment(context);
            op.aux2 = $width;
            by_width!($width, W => repeated::<$operation, W>(op))
        }};
    }
    match insn.mnemonic() {
        Mnemonic::Movsb => string!(Movs, 1),
        Mnemonic::Movsw => string!(Movs, 2),
        Mnemonic::Movsd if insn.is_string_instruction() => string!(Movs, 4),
        Mnemonic::Movsq => string!(Movs, 8),
        Mnemonic::Stosb => string!(Stos, 1),
        Mnemonic::Stosw => string!(Stos, 2),
        Mnemonic::Stosd => string!(Stos, 4),
        Mnemonic::Stosq => string!(Stos, 8),
        Mnemonic::Lodsb => string!(Lods, 1),
        Mnemonic::Lodsw => string!(Lods, 2),
        Mnemonic::Lodsd => string!(Lods, 4),
        Mnemonic::Lodsq => string!(Lods, 8),
        Mnemonic::Cmpsb => string!(Cmps, 1),
        Mnemonic::Cmpsw => string!(Cmps, 2),
        Mnemonic::Cmpsd if insn.is_string_instruction() => string!(Cmps, 4),
        Mnemonic::Cmpsq => string!(Cmps, 8),
        Mnemonic::Scasb => string!(Scas, 1),
        Mnemonic::Scasw => string!(Scas, 2),
        Mnemonic::Scasd => string!(Scas, 4),
        Mnemonic::Scasq => string!(Scas, 8),
        _ => None,
    }
}

/// Slot of the segment that a string instruction or XLAT reads from: DS or its override.
pub fn source_segment(context: &Context) -> u8 {
    use iced_x86::Register;
    let register = match context.insn.segment_prefix() {
        Register::None => Register::DS,
        other => other,
    };
    if context.mode == Mode::Bits64 && !matches!(register, Register::FS | Register::GS) {
        seg::NONE as u8
    } else {
        register.number() as u8
    }
}

fn repeated<O: StringOperation, W: Width>(op: &Op) -> Option<Lowered> {
    if op.flags & (op_flags::REP | op_flags::REPNE) != 0 {
        alone(repeat::<O, W>)
    } else {
        straight(once::<O, W>)
    }
}

/// What the address size of an instruction lets through.
#[inline(always)]
pub fn address_mask(op: &Op) -> u64 {
    if op.has(op_flags::ADDRESS32) {
        0xffff_ffff
    } else if op.has(op_flags::ADDRESS16) {
        0xffff
    } else {
        u64::MAX
    }
}

impl Cpu {
    /// Linear address of `bytes` bytes at an index register of a string instruction.
    #[inline(always)]
    pub(super) fn string_address(
        &mut self,
        op: &Op,
        register: usize,
        segment: usize,
        bytes: usize,
        write: bool,
    ) -> Result<u64, Abort> {
        let offset = self.state.gpr[register] & address_mask(op);
        if self.mode == Mode::Bits64 {
            // ES has no base in 64-bit mode.
            let base = if segment == seg::ES {
                0
            } else {
                self.state.seg_base[segment]
            };
            return Ok(base.wrapping_add(offset));
        }
        self.segment_address(segment, offset, bytes, write)
    }

    /// Moves an index register by `bytes` in the direction that DF says, within the address size.
    #[inline(always)]
    pub(super) fn string_advance(&mut self, op: &Op, register: usize, bytes: u64) {
        let step = if self.state.flags.df() {
            bytes.wrapping_neg()
        } else {
            bytes
        };
        self.set_counter(op, register, self.state.gpr[register].wrapping_add(step));
    }

    /// Writes a count or index register as the address size says: 32 bits clear the upper half.
    #[inline(always)]
    pub(super) fn set_counter(&mut self, op: &Op, register: usize, value: u64) {
        let mask = address_mask(op);
        let kept = if mask == 0xffff {
            self.state.gpr[register] & !0xffff
        } else {
            0
        };
        self.state.gpr[register] = kept | value & mask;
    }
}

/// One iteration of a string instruction.
trait StringOperation: Copy + 'static {
    /// Whether a repeat prefix looks at ZF.
    const COMPARES: bool = false;
    /// The registers that a repeat prefix cuts to 32 bits with a 32-bit address size, even if nothing is repeated:
    /// what Intel's processors do, where the manuals are silent.
    const CUT: &'static [usize] = &[gpr::RCX];
    /// One iteration.
    fn iterate<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort>;
    /// Several iterations at once where that is quick: how many were done, at most `limit`.
    fn bulk<W: Width>(_cpu: &mut Cpu, _op: &Op, _limit: u64) -> u64 {
        0
    }
}

#[derive(Clone, Copy)]
struct Movs;
impl StringOperation for Movs {
    const CUT: &'static [usize] = &[gpr::RCX, gpr::RSI, gpr::RDI];
    #[inline(always)]
    fn iterate<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
        let from = cpu.string_address(op, gpr::RSI, op.seg as usize, W::BYTES, false)?;
        let value = cpu.read::<W>(from)?;
        let to = cpu.string_address(op, gpr::RDI, seg::ES, W::BYTES, true)?;
        cpu.write(to, value)?;
        cpu.string_advance(op, gpr::RSI, W::BYTES as u64);
        cpu.string_advance(op, gpr::RDI, W::BYTES as u64);
        Ok(())
    }

    fn bulk<W: Width>(cpu: &mut Cpu, op: &Op, limit: u64) -> u64 {
        if !bulk_permitted(cpu, op) {
            return 0;
        }
        let from = cpu.state.seg_base[op.seg as usize].wrapping_add(cpu.state.gpr[gpr::RSI]);
        let to = cpu.state.gpr[gpr::RDI];
        let n = limit
            .min(elements_in_page::<W>(from))
            .min(elements_in_page::<W>(to));
        let bytes = n as usize * W::BYTES;
        if n < 2 {
            return 0;
        }
        let (Some(source), Some(target)) = (
            cpu.tlb.load(cpu.access, from, bytes),
            cpu.tlb.store_bulk(cpu.access, to, bytes),
        ) else {
            return 0;
        };
        let distance = (target as usize).wrapping_sub(source as usize);
        // SAFETY: both ranges lie within one page of RAM each, which the TLB holds.
        unsafe {
            if distance >= bytes {
                // No element is read after it was written.
                std::ptr::copy(source, target, bytes);
            } else {
                // The target runs into what is still to be read: element by element, as the guest sees it.
                for i in 0..n as usize {
                    let value = source.cast::<W>().add(i).read_unaligned();
                    target.cast::<W>().add(i).write_unaligned(value);
                }
            }
        }
        cpu.state.gpr[gpr::RSI] = cpu.state.gpr[gpr::RSI].wrapping_add(bytes as u64);
        cpu.state.gpr[gpr::RDI] = to.wrapping_add(bytes as u64);
        n
    }
}

/// Bulk iterations: upwards, with 64-bit addresses.
fn bulk_permitted(cpu: &Cpu, op: &Op) -> bool {
    cpu.mode == Mode::Bits64
        && !cpu.state.flags.df()
        && op.flags & (op_flags::ADDRESS32 | op_flags::ADDRESS16) == 0
}

/// Whole elements from an address to the end of its page.
fn elements_in_page<W: Width>(address: u64) -> u64 {
    (0x1000 - (address & 0xfff)) / W::BYTES as u64
}

#[derive(Clone, Copy)]
struct Stos;
impl StringOperation for Stos {
    const CUT: &'static [usize] = &[gpr::RCX, gpr::RDI];
    #[inline(always)]
    fn iterate<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
        let value = cpu.reg::<W>(ACCUMULATOR);
        let to = cpu.string_address(op, gpr::RDI, seg::ES, W::BYTES, true)?;
        cpu.write(to, value)?;
        cpu.string_advance(op, gpr::RDI, W::BYTES as u64);
        Ok(())
    }

    fn bulk<W: Width>(cpu: &mut Cpu, op: &Op, limit: u64) -> u64 {
        if !bulk_permitted(cpu, op) {
            return 0;
        }
        let to = cpu.state.gpr[gpr::RDI];
        let n = limit.min(elements_in_page::<W>(to));
        let bytes = n as usize * W::BYTES;
        if n < 2 {
            return 0;
        }
        let Some(target) = cpu.tlb.store_bulk(cpu.access, to, bytes) else {
            return 0;
        };
        let value = cpu.reg::<W>(ACCUMULATOR);
        for i in 0..n as usize {
            // SAFETY: the range lies within one page of RAM, which the TLB holds.
            unsafe { target.cast::<W>().add(i).write_unaligned(value) };
        }
        cpu.state.gpr[gpr::RDI] = to.wrapping_add(bytes as u64);
        n
    }
}

#[derive(Clone, Copy)]
struct Lods;
impl StringOperation for Lods {
    #[inline(always)]
    fn iterate<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
        let from = cpu.string_address(op, gpr::RSI, op.seg as usize, W::BYTES, false)?;
        let value = cpu.read::<W>(from)?;
        cpu.set_reg(ACCUMULATOR, value);
        cpu.string_advance(op, gpr::RSI, W::BYTES as u64);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Cmps;
impl StringOperation for Cmps {
    const COMPARES: bool = true;
    #[inline(always)]
    fn iterate<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
        let from = cpu.string_address(op, gpr::RSI, op.seg as usize, W::BYTES, false)?;
        let a = cpu.read::<W>(from)?;
        let to = cpu.string_address(op, gpr::RDI, seg::ES, W::BYTES, false)?;
        let b = cpu.read::<W>(to)?;
        let r = W::from_u64(a.to_u64().wrapping_sub(b.to_u64()));
        cpu.state.flags.set_sub(a, b, r);
        cpu.string_advance(op, gpr::RSI, W::BYTES as u64);
        cpu.string_advance(op, gpr::RDI, W::BYTES as u64);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Scas;
impl StringOperation for Scas {
    const COMPARES: bool = true;
    #[inline(always)]
    fn iterate<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
        let a = cpu.reg::<W>(ACCUMULATOR);
        let to = cpu.string_address(op, gpr::RDI, seg::ES, W::BYTES, false)?;
        let b = cpu.read::<W>(to)?;
        let r = W::from_u64(a.to_u64().wrapping_sub(b.to_u64()));
        cpu.state.flags.set_sub(a, b, r);
        cpu.string_advance(op, gpr::RDI, W::BYTES as u64);
        Ok(())
    }
}

/// A repeated string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// The bits of RCX that count: as many as the address size has.
    pub counts: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// INS or OUTS.
    pub accesses_ports: bool,
}

impl Cpu {
    /// What stands at RIP, if it is a repeated string instruction that is in memory now.
    pub fn repeated(&self) -> Option<Repeated> {
        let linear = self.linear_rip();
        let mut repeats = false;
        let mut other_address_size = false;
        // Prefixes in any order, and the opcode; no more than an instruction has bytes.
        for n in 0..15 {
            let mut byte = [0];
            let at = self.probe(linear.wrapping_add(n))?;
            if self.memory.read(at, &mut byte) == 0 {
                return None;
            }
            match byte[0] {
                0xf2 | 0xf3 => repeats = true,
                0x67 => other_address_size = true,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x66 | 0xf0 => {}
                0x40..=0x4f if self.mode == Mode::Bits64 => {}
                // INS, OUTS; MOVS, CMPS; STOS, LODS, SCAS.
                opcode @ (0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf) if repeats => {
                    return Some(Repeated {
                        counts: match (self.mode, other_address_size) {
                            (Mode::Bits64, false) => u64::MAX,
                            (Mode::Bits32, true) | (Mode::Bits16, false) => 0xffff,
                            _ => 0xffff_ffff,
                        },
                        bytes: n + 1,
                        accesses_ports: opcode < 0x70,
                    });
                }
                _ => return None,
            }
        }
        None
    }
}

fn once<O: StringOperation, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    O::iterate::<W>(cpu, op)
}

fn repeat<O: StringOperation, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let mask = address_mask(op);
    let mut left = cpu.state.gpr[gpr::RCX] & mask;
    if cpu.mode == Mode::Bits64 && op.has(op_flags::ADDRESS32) {
        for &register in O::CUT {
            cpu.state.gpr[register] &= mask;
        }
    }
    if left == 0 {
        cpu.advance(op);
        return Ok(Flow::Indirect);
    }
    // The block itself accounts for one tick; the others are taken from the budget here.
    let budget = if cpu.stepping { 1 } else { cpu.remaining };
    let mut done = 0;
    let mut finished = false;
    while done < budget && !finished {
        let bulk = O::bulk::<W>(cpu, op, left.min(budget - done));
        if bulk > 0 {
            left -= bulk;
            done += bulk;
        } else {
            if O::iterate::<W>(cpu, op).is_err() {
                // `done` ticks have happened, and the abort is that of the next one.
                cpu.remaining -= done;
                if done > 0 {
                    cpu.state.flags.set_other(bits::RF, true);
                }
                return Err(Abort);
            }
            left -= 1;
            done += 1;
        }
        cpu.set_counter(op, gpr::RCX, left);
        let broken = O::COMPARES && cpu.state.flags.zf() == op.has(op_flags::REPNE);
        finished = left == 0 || broken;
    }
    cpu.remaining -= done - 1;
    if finished {
        cpu.advance(op);
    } else {
        // Until the next iteration: see `cpu/debug.rs`.
        cpu.state.flags.set_other(bits::RF, true);
    }
    Ok(Flow::Indirect)
}
