//! A state that breakpoints wait for. Where the processor comes to a breakpoint with another state, it goes on within
//! the run: tens of millions of hits a second, where leaving the run at each makes less than one.
//!
//! What is compared is a first sieve: general registers, and a few clues that told states apart before. Whoever waits
//! compares the rest at the hits that are left. The sieve is asked in blocks only; where a breakpoint is met on
//! another way (single steps, a page fetched for the first time, repeated string instructions, which are many ticks at
//! one address), the run stops whatever the state is.

use super::state::State;
use crate::memory::{Memory, PAGE_BYTES, PageIndex};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes in a line: pages are compared by them.
pub const LINE_BYTES: usize = 64;
/// Clues that are kept: the newest.
const CLUES_MAX: usize = 4;

/// Something that is so in the awaited state and was not in another one with the same registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clue {
    /// Eight bytes of [`State`], natively: at this offset, with this value.
    Word(usize, u64),
    /// [`line_hash`] of a line of RAM.
    Line {
        /// The page, which the machine has.
        page: PageIndex,
        /// Number of the line in it, 0 to 63.
        line: u8,
        /// Its hash.
        hash: u8,
    },
}

impl Clue {
    /// Whether it is so.
    #[inline]
    fn is_found(&self, state: &State, memory: &Memory) -> bool {
        match *self {
            Clue::Word(offset, value) => {
                let bytes = bytemuck::bytes_of(state).get(offset..offset + 8);
                bytes.is_some_and(|bytes| bytes == value.to_ne_bytes())
            }
            Clue::Line { page, line, hash } => {
                line_hash(line_of(memory.page(page), line.into())) == hash
            }
        }
    }
}

/// A line of a page, by its number.
#[inline]
pub fn line_of(page: &[u8; PAGE_BYTES], line: usize) -> &[u8; LINE_BYTES] {
    page[line * LINE_BYTES..][..LINE_BYTES]
        .try_into()
        .expect("so many bytes")
}

/// A hash of a line of RAM, without accessed and dirty bits of whatever looks like a present page-table entry of 8
/// bytes. Part of the format of recordings.
#[inline]
pub fn line_hash(line: &[u8; LINE_BYTES]) -> u8 {
    let mut bytes = *line;
    for entry in bytes.chunks_exact_mut(8) {
        // Without a branch: what is in a line is not to be predicted.
        entry[0] &= !((entry[0] & 1) * 0x60);
    }
    xxh3_64(&bytes) as u8
}

/// What is waited for, and how many states were something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// The general registers in the order of their encoding.
    registers: [u64; 16],
    /// RFLAGS, as far as `flags_mask` says; no arithmetic flags.
    flags: u64,
    flags_mask: u64,
    clues: Vec<Clue>,
    /// States with other registers.
    pub others: u64,
    /// States with these registers that a clue told apart.
    pub told_apart: u64,
}

impl Awaited {
    /// Waits for these registers. Arithmetic flags are not compared, whatever `flags_mask` says.
    pub fn new(registers: [u64; 16], flags: u64, flags_mask: u64) -> Awaited {
        let flags_mask = flags_mask & !super::flags::bits::ARITHMETIC;
        Awaited {
            registers,
            flags: flags & flags_mask,
            flags_mask,
            clues: Vec::new(),
            others: 0,
            told_apart: 0,
        }
    }

    /// Has a clue looked at from now on, before those that there are.
    pub fn add(&mut self, clue: Clue) {
        self.clues.retain(|&old| old != clue);
        self.clues.insert(0, clue);
        self.clues.truncate(CLUES_MAX);
    }

    /// Whether a state may be the one; counts those that are not.
    #[inline]
    pub(super) fn may_be(&mut self, state: &State, memory: &Memory) -> bool {
        let differs = |(a, b): (&u64, &u64)| a ^ b;
        let registers = self.registers.iter().zip(&state.gpr).map(differs);
        let flags = (self.flags ^ state.flags.other()) & self.flags_mask;
        if registers.fold(flags, |all, one| all | one) != 0 {
            self.others += 1;
            return false;
        }
        let found = self.clues.iter().all(|clue| clue.is_found(state, memory));
        self.told_apart += u64::from(!found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::flags::bits;
    use crate::cpu::run::Exit;
    use crate::cpu::state::gpr;
    use crate::cpu::stops::Stops;
    use crate::cpu::testing::{CODE, Quiet, long_mode};

    /// Not to be changed: recordings hold it.
    #[test]
    fn the_hash_of_a_line_knows_no_marks() {
        let mut line: [u8; LINE_BYTES] = std::array::from_fn(|n| n as u8);
        assert_eq!(line_hash(&line), xxh3_64(&line) as u8);
        line[16] = 0x01;
        let unmarked = line_hash(&line);
        line[16] = 0x61;
        assert_eq!(line_hash(&line), unmarked);
        line[16] = 0x60;
        let not_present = line_hash(&line);
        line[16] = 0x00;
        assert_ne!(line_hash(&line), not_present);
    }

    /// `again: inc rax; inc qword [rbx]; jmp again`, with the breakpoint at the second instruction.
    #[test]
    fn a_breakpoint_waits_for_registers_and_ram() {
        let mut cpu = long_mode();
        let data = CODE + 0x1000;
        let code = [0x48, 0xff, 0xc0, 0x48, 0xff, 0x03, 0xeb, 0xf8];
        cpu.memory.write(CODE, &code);
        cpu.state.set_rip(CODE);
        cpu.state.gpr[gpr::RBX] = data;
        let start = cpu.tick();
        cpu.set_stops(Stops::new([CODE + 3], []));
        let mut registers: [u64; 16] = std::array::from_fn(|n| cpu.state.gpr[n]);
        registers[gpr::RAX] = 1000;
        let flags = cpu.state.rflags();
        cpu.set_awaited(Some(Awaited::new(registers, flags, bits::ALL)));
        // The first fetch of the page stops at nothing, the mark in the block asks.
        let exit = cpu.run(&mut Quiet, start + 1_000_000, true);
        assert_eq!(exit, Exit::Breakpoint);
        assert_eq!(cpu.tick(), start + 999 * 3 + 1);
        assert_eq!(cpu.state.gpr[gpr::RAX], 1000);
        assert_eq!(cpu.awaited().unwrap().others, 999);

        // Other flags never come.
        let other = Awaited::new(registers, flags ^ bits::IF, bits::ALL);
        cpu.state.gpr[gpr::RAX] = 990;
        cpu.set_awaited(Some(other));
        assert_eq!(cpu.run(&mut Quiet, start + 10_000, true), Exit::Tick);

        // Registers that repeat: only RAM tells.
        cpu.memory.write(CODE, &[0x90; 3]);
        cpu.forget_code();
        let page = cpu.memory.page_index(data).unwrap();
        let mut line = *line_of(cpu.memory.page(page), (data as usize & 0xfff) / LINE_BYTES);
        let now = u64::from_le_bytes(line[..8].try_into().unwrap());
        line[..8].copy_from_slice(&(now + 77).to_le_bytes());
        let registers = std::array::from_fn(|n| cpu.state.gpr[n]);
        let mut awaited = Awaited::new(registers, flags, bits::ALL);
        awaited.add(Clue::Line {
            page,
            line: (data as usize & 0xfff) as u8 / LINE_BYTES as u8,
            hash: line_hash(&line),
        });
        cpu.set_awaited(Some(awaited));
        let mut hits = 0;
        while cpu.run(&mut Quiet, start + 100_000, true) == Exit::Breakpoint {
            hits += 1;
            let page = cpu.memory.page(page);
            if line_of(page, (data as usize & 0xfff) / LINE_BYTES) == &line {
                break;
            }
        }
        let apart = cpu.awaited().unwrap().told_apart;
        assert!((1..5).contains(&hits) && apart >= 70, "{hits} {apart}");
        cpu.set_awaited(None);
        let here = cpu.tick();
        assert_eq!(cpu.run(&mut Quiet, here + 10, true), Exit::Breakpoint);
        assert_eq!(cpu.tick(), here + 5);
    }

    /// A repeated instruction is many ticks at one address: whoever waits is asked at all of them.
    #[test]
    fn repeated_instructions_stop_whatever_the_state_is() {
        let mut cpu = long_mode();
        cpu.memory.write(CODE, &[0xf3, 0xaa, 0x90, 0xeb, 0xfb]);
        cpu.state.set_rip(CODE + 2);
        cpu.state.gpr[gpr::RDI] = CODE + 0x1000;
        cpu.state.gpr[gpr::RCX] = 5;
        let start = cpu.tick();
        cpu.set_stops(Stops::new([CODE], []));
        cpu.set_awaited(Some(Awaited::new([7; 16], 0, 0)));
        let exit = cpu.run(&mut Quiet, start + 100, true);
        assert_eq!((exit, cpu.tick()), (Exit::Breakpoint, start + 2));
    }
}
