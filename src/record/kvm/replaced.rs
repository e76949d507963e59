//! Instructions of the guest kernel's text in whose places INT3 stands, so that the engine executes them.
//!
//! RDTSC and RDTSCP, which a stock KVM cannot trap, unless the counter is held (`scaled.rs`): the world's counter
//! answers, which is an event. Where the host's KVM executes ring 0 by software, also FXSAVE, if it writes more than
//! processors do, and CPUID, if it shows features that it was told to hide.
//!
//! They are found by disassembling functions that somebody has named, not by a search for bytes. RAM is hashed,
//! recorded and given back as if nothing had been replaced. RDTSC at a place that nobody named reads the host's
//! counter, and finding ticks says at which instruction.

use crate::machine::Code;
use crate::memory::{Memory, PAGE_BYTES};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use std::collections::BTreeMap;

const INT3: u8 = 0xcc;

/// The places where INT3 stands, or could.
#[derive(Default)]
pub struct Replaced {
    /// Guest-physical address and the byte that was there.
    places: BTreeMap<u64, u8>,
    counters: usize,
}

/// What is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// RDTSC and RDTSCP.
    pub counter: bool,
    /// FXSAVE.
    pub fxsave: bool,
    /// CPUID.
    pub cpuid: bool,
}

impl Wanted {
    fn has(self, mnemonic: Mnemonic) -> bool {
        match mnemonic {
            Mnemonic::Rdtsc | Mnemonic::Rdtscp => self.counter,
            Mnemonic::Fxsave | Mnemonic::Fxsave64 => self.fxsave,
            Mnemonic::Cpuid => self.cpuid,
            _ => false,
        }
    }
}

/// Offsets of wanted instructions in a function, in code of so many bits.
fn offsets(wanted: Wanted, code: &[u8], address: u64, bits: u32) -> BTreeMap<u64, Mnemonic> {
    let decoder = Decoder::with_ip(bits, code, address, DecoderOptions::NONE);
    decoder
        .into_iter()
        .filter(|i| wanted.has(i.mnemonic()))
        .map(|i| (i.ip().wrapping_sub(address), i.mnemonic()))
        .collect()
}

impl Replaced {
    /// Finds the places in functions. `long`: the code is known to be 64-bit code; otherwise only what is an
    /// instruction in 32-bit code, too, is taken.
    pub fn find(memory: &Memory, wanted: Wanted, functions: &[Code], long: bool) -> Replaced {
        let mut all = Replaced::default();
        let mut code = Vec::new();
        for function in functions {
            code.resize(function.bytes as usize, 0);
            let read = memory.read(function.gpa, &mut code);
            let code = &code[..read];
            let mut found = offsets(wanted, code, function.address, 64);
            if !long {
                let also = offsets(wanted, code, function.address, 32);
                found.retain(|offset, mnemonic| also.get(offset) == Some(mnemonic));
            }
            for (offset, mnemonic) in found {
                all.places
                    .insert(function.gpa + offset, code[offset as usize]);
                all.counters += usize::from(matches!(mnemonic, Mnemonic::Rdtsc | Mnemonic::Rdtscp));
            }
        }
        all
    }

    /// How many of them read the time-stamp counter.
    pub fn counters(&self) -> usize {
        self.counters
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether INT3 stands there for an instruction.
    pub fn stands_at(&self, memory: &Memory, gpa: u64) -> bool {
        let mut now = [0];
        self.places.contains_key(&gpa) && memory.read(gpa, &mut now) == 1 && now[0] == INT3
    }

    /// Puts INT3 at all of them.
    pub fn put_all(&self, memory: &mut Memory) {
        for &gpa in self.places.keys() {
            self.put(memory, gpa);
        }
    }

    /// Puts INT3 at one.
    pub fn put(&self, memory: &mut Memory, gpa: u64) {
        memory.write(gpa, &[INT3]);
    }

    /// Gives one back, unless the guest has written something else there.
    pub fn give_back(&self, memory: &mut Memory, gpa: u64) {
        if self.stands_at(memory, gpa) {
            memory.write(gpa, &[self.places[&gpa]]);
        }
    }

    /// Gives all back.
    pub fn give_all_back(&self, memory: &mut Memory) {
        for &gpa in self.places.keys() {
            self.give_back(memory, gpa);
        }
    }

    /// A page as the guest should see it, where that is not what is there.
    pub fn page(&self, gpa: u64, there: &[u8; PAGE_BYTES]) -> Option<Box<[u8; PAGE_BYTES]>> {
        let mut page: Option<Box<[u8; PAGE_BYTES]>> = None;
        for (&at, &byte) in self.places.range(gpa..gpa + PAGE_BYTES as u64) {
            let offset = (at - gpa) as usize;
            if there[offset] == INT3 {
                page.get_or_insert_with(|| Box::new(*there))[offset] = byte;
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_replaced_and_bytes_in_others_are_not() {
        let mut memory = Memory::new(1 << 20).unwrap();
        // mov eax, 0x310f; rdtsc; rdtscp; fxsave [rax]; ret; int3 of the guest's own; cpuid
        let code = [
            0xb8, 0x0f, 0x31, 0, 0, 0x0f, 0x31, 0x0f, 0x01, 0xf9, 0x0f, 0xae, 0, 0xc3, 0xcc, 0x0f,
            0xa2,
        ];
        memory.write(0x5ffa, &code);
        let function = Code {
            address: 0xffff_ffff_8100_0ffa,
            gpa: 0x5ffa,
            bytes: code.len() as u64,
        };
        let places = |wanted, long| -> Vec<u64> {
            let found = Replaced::find(&memory, wanted, &[function], long);
            found.places.keys().copied().collect()
        };
        let counter = Wanted {
            counter: true,
            ..Wanted::default()
        };
        for long in [true, false] {
            assert_eq!(places(Wanted::default(), long), [0; 0]);
            assert_eq!(places(counter, long), [0x5fff, 0x6001]);
            let all = Wanted {
                counter: true,
                fxsave: true,
                cpuid: true,
            };
            assert_eq!(places(all, long), [0x5fff, 0x6001, 0x6004, 0x6009]);
        }
        let replaced = Replaced::find(&memory, counter, &[function], true);
        replaced.put_all(&mut memory);
        let page = |memory: &Memory, gpa: u64| *memory.page(memory.page_index(gpa).unwrap());
        let there = page(&memory, 0x6000);
        assert_eq!(there[..5], [0x31, 0xcc, 0x01, 0xf9, 0x0f]);
        let seen = replaced.page(0x6000, &there).unwrap();
        assert_eq!(seen[..11], code[6..]);
        assert!(replaced.page(0x7000, &page(&memory, 0x7000)).is_none());
        replaced.give_all_back(&mut memory);
        let mut now = [0; 17];
        memory.read(0x5ffa, &mut now);
        assert_eq!(now, code);
    }
}
