//! What a program in ring 3 asks of its processor and the host's KVM does not do: SYSCALL, INT n, CPUID.
//!
//! A KVM that has no hardware virtualization below it runs ring 3 natively and ring 0 by software. The one that this
//! was written on takes a SYSCALL to the address in IA32_LSTAR, but in ring 3, answers INT n with #UD, and CPUID with
//! features that it was told to hide. Probes find that out before anything is recorded ([`super::probe`]). There, the
//! processor gets an LSTAR at which nothing is mapped, so that SYSCALL ends in a page fault; CPUID of ring 3 is made to
//! fault (IA32_MISC_FEATURES_ENABLES, bit 0); and breakpoints at the first instruction of the guest's handlers of #PF,
//! #UD and #GP come out to us, where the program's state is put back and the engine executes the instruction.
//!
//! What such an exception has written on the guest's stack cannot be taken back, since nobody knows what was there: it
//! is recorded as what it is, a write to RAM from outside. CR2 is known: it changes at page faults only, all of which
//! pass by here (and at MOV to CR2, which no known system does outside of saving and restoring it).

use crate::cpu::flags::bits;
use crate::cpu::mmu::walk::{error, walk};
use crate::cpu::state::{Segment, State, efer, gpr, seg};
use crate::memory::{Memory, PAGE_BYTES};

/// The LSTAR that the processor gets: in the part of the upper half that Linux leaves to hypervisors.
pub const NOWHERE: u64 = 0xffff_8000_0000_0f00;
const UNDEFINED: u64 = 6;
const PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
/// The exceptions that are made of what was not executed.
const VECTORS: [u64; 3] = [PAGE_FAULT, UNDEFINED, PROTECTION];

/// What is kept of the guest where its entries are made for it.
#[derive(Default)]
pub struct Entries {
    /// What is made for programs.
    pub made: Made,
    /// IA32_LSTAR as the guest has written it.
    pub lstar: u64,
    /// CR2 as the guest's own page faults have left it.
    pub cr2: u64,
    /// The first instructions of the guest's handlers of these exceptions: where breakpoints are.
    pub handlers: [u64; 3],
}

/// What the host's KVM does not do for programs in ring 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// SYSCALL and INT n.
    pub calls: bool,
    /// CPUID from its table.
    pub cpuid: bool,
}

/// What stood behind a breakpoint.
pub enum Entered {
    /// An exception of the guest's own.
    Rightly,
    /// A program's instruction was not executed: here is its state before, and what the exception wrote where.
    For(Box<Undone>),
}

/// An exception that should not have been, taken back.
pub struct Undone {
    /// The processor in ring 3, before the instruction.
    pub before: State,
    /// Which instruction.
    pub what: Instruction,
    /// Guest-physical addresses and bytes of the frame.
    pub written: Vec<(u64, u64)>,
}

/// An instruction that was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// SYSCALL; RCX and R11 before are lost.
    SystemCall,
    /// INT n.
    Interrupt,
    /// CPUID.
    Cpuid,
}

/// Reads eight bytes at a linear address.
fn read(state: &State, memory: &Memory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    let mut done = 0;
    while done < bytes.len() {
        let at = address.wrapping_add(done as u64);
        let room = PAGE_BYTES - (at as usize & (PAGE_BYTES - 1));
        let part = &mut bytes[done..(done + room).min(8)];
        let physical = walk(state, memory, at).ok()?.physical;
        if memory.read(physical, part) < part.len() {
            return None;
        }
        done += part.len();
    }
    Some(u64::from_le_bytes(bytes))
}

/// The entry point of a gate in 64-bit mode (SDM volume 3, 6.14.1).
fn gate(state: &State, memory: &Memory, vector: u64) -> Option<u64> {
    if state.efer & efer::LMA == 0 || state.idtr.limit < vector * 16 + 15 {
        return None;
    }
    let at = state.idtr.base.wrapping_add(vector * 16);
    let (low, high) = (read(state, memory, at)?, read(state, memory, at + 8)?);
    let present = low >> 47 & 1 != 0;
    present.then_some(low & 0xffff | low >> 32 & 0xffff_0000 | high << 32)
}

/// The guest's handlers of [`VECTORS`] as far as they matter; 0 where there is none (yet).
pub fn handlers(made: Made, state: &State, memory: &Memory) -> [u64; 3] {
    VECTORS.map(|vector| {
        let matters = match vector {
            PROTECTION => made.cpuid,
            _ => made.calls,
        };
        let gate = matters.then(|| gate(state, memory, vector));
        gate.flatten().unwrap_or(0)
    })
}

/// The segment register that a selector gives, as far as 64-bit mode looks at it.
fn segment(state: &State, memory: &Memory, selector: u64) -> Option<Segment> {
    let at = state.gdtr.base.wrapping_add(selector & 0xfff8);
    let descriptor = read(state, memory, at)?;
    Some(Segment {
        limit: u32::MAX,
        rights: (descriptor >> 40) as u16 & 0xf0ff,
        selector: selector as u16,
    })
}

impl Entries {
    /// What the processor, which stands at a breakpoint, came there for.
    pub fn look(&mut self, state: &State, memory: &Memory) -> Entered {
        let undone = match state.rip() {
            rip if rip == self.handlers[0] => self.page_fault(state, memory),
            rip if rip == self.handlers[1] => instruction(state, memory, 0),
            rip if rip == self.handlers[2] => instruction(state, memory, 1),
            _ => None,
        };
        match undone {
            Some(mut undone) => {
                undone.before.cr2 = self.cr2;
                undone.before.lstar = self.lstar;
                Entered::For(Box::new(undone))
            }
            None => {
                self.cr2 = state.cr2;
                Entered::Rightly
            }
        }
    }

    fn page_fault(&self, state: &State, memory: &Memory) -> Option<Undone> {
        if state.cr2 != NOWHERE {
            return None;
        }
        let frame = frame(state, memory, 6)?;
        let by_a_program = frame[0].1 & u64::from(error::U) != 0;
        if frame[1].1 != NOWHERE || !by_a_program {
            return None;
        }
        let mut before = interrupted(state, memory, &frame[1..])?;
        before.set_rip(state.gpr[gpr::RCX].wrapping_sub(2));
        before.flags.set_rflags(state.gpr[gpr::R11] & !bits::RF);
        Some(Undone {
            before,
            what: Instruction::SystemCall,
            written: physical(state, memory, &frame)?,
        })
    }
}

/// INT n that raised #UD, or CPUID that raised #GP, which pushes an error code.
fn instruction(state: &State, memory: &Memory, codes: usize) -> Option<Undone> {
    let frame = frame(state, memory, 5 + codes as u64)?;
    let before = interrupted(state, memory, &frame[codes..])?;
    let opcode = read(state, memory, before.rip())?.to_le_bytes();
    let what = match (codes, opcode) {
        // INT3 and INTO have instructions of their own, which arrive.
        (0, [0xcd, ..]) => Instruction::Interrupt,
        (1, [0x0f, 0xa2, ..]) if frame[0].1 == 0 => Instruction::Cpuid,
        _ => return None,
    };
    Some(Undone {
        before,
        what,
        written: physical(state, memory, &frame)?,
    })
}

/// The words on top of the stack, with their linear addresses.
fn frame(state: &State, memory: &Memory, words: u64) -> Option<Vec<(u64, u64)>> {
    let sp = state.gpr[gpr::RSP];
    let word = |n| {
        let at = sp.wrapping_add(8 * n);
        read(state, memory, at).map(|value| (at, value))
    };
    (0..words).map(word).collect()
}

fn physical(state: &State, memory: &Memory, frame: &[(u64, u64)]) -> Option<Vec<(u64, u64)>> {
    // Frames are aligned (SDM volume 3, 6.14.2): no word crosses a page.
    let place = |&(at, value): &(u64, u64)| {
        let walk = walk(state, memory, at).ok()?;
        Some((walk.physical, value))
    };
    frame.iter().map(place).collect()
}

/// The state that a frame of RIP, CS, RFLAGS, RSP and SS says was interrupted, if that was ring 3.
fn interrupted(state: &State, memory: &Memory, frame: &[(u64, u64)]) -> Option<State> {
    let [rip, cs, rflags, rsp, ss] = [0, 1, 2, 3, 4].map(|n| frame[n].1);
    if cs & 3 != 3 {
        return None;
    }
    let mut before = *state;
    before.seg[seg::CS] = segment(state, memory, cs)?;
    before.seg_base[seg::CS] = 0;
    before.seg[seg::SS] = segment(state, memory, ss)?;
    before.seg_base[seg::SS] = 0;
    before.cpl = 3;
    before.gpr[gpr::RSP] = rsp;
    before.set_rip(rip);
    before.flags.set_rflags(rflags & !bits::RF);
    Some(before)
}
