//! Entries into ring 0 that the host's KVM does not make: SYSCALL and INT n of a program in ring 3.
//!
//! A KVM that has no hardware virtualization below it runs ring 3 natively and ring 0 by software. The one that this was
//! written on takes a SYSCALL to the address in IA32_LSTAR, but in ring 3, and answers INT n with #UD. A probe finds that
//! out before anything is recorded ([`makes_entries`]). There, the processor gets an LSTAR at which nothing is mapped,
//! so that SYSCALL ends in a page fault, and breakpoints at the first instruction of the guest's handlers of #PF and #UD
//! come out to us, where the program's state is put back and the engine executes the instruction.
//!
//! What such an exception has written on the guest's stack cannot be taken back, since nobody knows what was there: it
//! is recorded as what it is, a write to RAM from outside. CR2 is known: it changes at page faults only, all of which
//! pass by here (and at MOV to CR2, which no known system does outside of saving and restoring it).

use super::error::KvmError;
use super::vm::{self, Left, Vm};
use crate::cpu::cpuid::CpuModel;
use crate::cpu::flags::bits;
use crate::cpu::mmu::walk::{error, walk};
use crate::cpu::state::{Segment, State, cr0, cr4, efer, gpr, seg};
use crate::memory::Memory;
use std::time::Duration;

/// The LSTAR that the processor gets: in the part of the upper half that Linux leaves to hypervisors.
pub const NOWHERE: u64 = 0xffff_8000_0000_0f00;
const UNDEFINED: u64 = 6;
const PAGE_FAULT: u64 = 14;

/// What is kept of the guest where its entries are made for it.
#[derive(Default)]
pub struct Entries {
    /// IA32_LSTAR as the guest has written it.
    pub lstar: u64,
    /// CR2 as the guest's own page faults have left it.
    pub cr2: u64,
    /// The first instructions of the guest's handlers of #PF and #UD: where breakpoints are.
    pub handlers: [u64; 2],
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
    /// Whether it is SYSCALL, whose RCX and R11 before are lost.
    pub system_call: bool,
    /// Guest-physical addresses and bytes of the frame.
    pub written: Vec<(u64, u64)>,
}

/// Reads eight bytes at a linear address.
fn read(state: &State, memory: &Memory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    for (n, byte) in bytes.iter_mut().enumerate() {
        let at = walk(state, memory, address.wrapping_add(n as u64)).ok()?;
        let mut one = [0];
        if memory.read(at.physical, &mut one) == 0 {
            return None;
        }
        *byte = one[0];
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

/// The guest's handlers of #PF and #UD; 0 where there is none yet.
pub fn handlers(state: &State, memory: &Memory) -> [u64; 2] {
    [PAGE_FAULT, UNDEFINED].map(|vector| gate(state, memory, vector).unwrap_or(0))
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
            rip if rip == self.handlers[1] => undefined(state, memory),
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
        let fetch = u64::from(error::I | error::U);
        let by_a_program = frame[0].1 & u64::from(error::U) != 0 || frame[0].1 & fetch == fetch;
        if frame[1].1 != NOWHERE || !by_a_program {
            return None;
        }
        let mut before = interrupted(state, memory, &frame[1..])?;
        before.set_rip(state.gpr[gpr::RCX].wrapping_sub(2));
        before
            .flags
            .set_rflags(state.gpr[gpr::R11] & !u64::from(bits::RF));
        Some(Undone {
            before,
            system_call: true,
            written: physical(state, memory, &frame)?,
        })
    }
}

fn undefined(state: &State, memory: &Memory) -> Option<Undone> {
    let frame = frame(state, memory, 5)?;
    let before = interrupted(state, memory, &frame)?;
    // INT n; INT3 and INTO have instructions of their own, which arrive.
    let opcode = read(state, memory, before.rip())?;
    if opcode as u8 != 0xcd {
        return None;
    }
    Some(Undone {
        before,
        system_call: false,
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
    before.flags.set_rflags(rflags & !u64::from(bits::RF));
    Some(before)
}

/// Whether SYSCALL of ring 3 comes to ring 0 under this KVM: tries it.
pub fn makes_entries(kvm: &kvm_ioctls::Kvm) -> Result<bool, KvmError> {
    const CODE: u64 = 0x8000;
    const ENTRY: u64 = 0x9000;
    let mut memory = Memory::new(1 << 20)?;
    // One page of 2 MiB at 0, for all rings.
    memory.write(0x1000, &0x2007u64.to_le_bytes());
    memory.write(0x2000, &0x3007u64.to_le_bytes());
    memory.write(0x3000, &0x87u64.to_le_bytes());
    // syscall; out 0x80, al
    memory.write(CODE, &[0x0f, 0x05]);
    memory.write(ENTRY, &[0xe6, 0x80]);
    // SAFETY: the machine is dropped before the memory, which nobody else uses.
    let mut vm = unsafe { Vm::new(kvm, &memory, &vm::common_model(kvm, &CpuModel::native())?)? };
    let mut state = State::reset();
    let flat = |selector, rights| Segment {
        limit: u32::MAX,
        rights,
        selector,
    };
    state.seg = [flat(0x2b, 0xc0f3); 6];
    state.seg[seg::CS] = flat(0x33, 0xa0fb);
    state.seg_base = Default::default();
    state.cpl = 3;
    state.cr0 = cr0::PG | cr0::PE | cr0::ET | cr0::NE | cr0::WP;
    state.cr3 = 0x1000;
    state.cr4 = cr4::PAE;
    state.efer = efer::LMA | efer::LME | efer::SCE;
    state.star = 0x23 << 48 | 0x10 << 32;
    state.lstar = ENTRY;
    state.fmask = 0x200;
    state.set_rip(CODE);
    state.gpr[gpr::RSP] = 0x7000;
    vm.load(&state, 0)?;
    vm.kick_in(Duration::from_millis(500));
    let left = vm.enter()?;
    vm.store(&memory, &mut state)?;
    log::debug!("SYSCALL of ring 3 left by {left:?} in ring {}", state.cpl);
    Ok(matches!(left, Left::Out { .. }) && state.cpl == 0)
}
