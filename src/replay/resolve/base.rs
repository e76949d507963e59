//! The point that a resolver goes back to: registers, a copy of all RAM, and what was changed since.

use crate::machine::{Machine, STATE_VERSION, StateError, compare};
use crate::memory::{Memory, MemoryError, PAGE_BYTES};
use crate::tick::Tick;
use crate::trace::PageList;
use std::collections::BTreeSet;

/// A copy of a machine that follows it from one proven point to the next.
pub struct Base {
    tick: Tick,
    state: Vec<u8>,
    ram: Memory,
    /// Pages that were dirty at the base: written since the digest before it.
    dirty: Vec<u32>,
    /// Pages written since the base that the machine does not know as dirty any more.
    taken: BTreeSet<u32>,
}

fn copy(from: &Memory, to: &mut Memory, page: u32) {
    let bytes = *from.page(page as usize);
    to.write(from.page_address(page as usize), &bytes);
}

impl Base {
    /// A base at the machine's start, whose RAM was just written and is dirty.
    pub fn new(machine: &mut Machine) -> Result<Base, MemoryError> {
        let mut ram = Memory::new(machine.cpu.memory.bytes())?;
        for page in machine.cpu.take_dirty() {
            copy(&machine.cpu.memory, &mut ram, page);
        }
        ram.take_dirty();
        Ok(Base {
            tick: machine.tick(),
            state: machine.save(),
            ram,
            dirty: Vec::new(),
            taken: BTreeSet::new(),
        })
    }

    /// The machine's dirty pages are about to be taken by a digest.
    pub fn note_dirty(&mut self, machine: &Machine) {
        self.taken.extend(machine.cpu.memory.dirty());
    }

    /// All pages written since the base (and maybe some that were not).
    fn written(&self, machine: &Machine) -> BTreeSet<u32> {
        let mut pages = self.taken.clone();
        pages.extend(machine.cpu.memory.dirty());
        pages
    }

    /// Puts the machine back to the base.
    pub fn restore(&mut self, machine: &mut Machine) -> Result<(), StateError> {
        for page in self.written(machine) {
            machine.replace_page(page as usize, self.ram.page(page as usize));
        }
        machine.restore(self.tick, STATE_VERSION, &self.state)?;
        machine.cpu.take_dirty();
        for &page in &self.dirty {
            machine.cpu.memory.mark_dirty(page as usize);
        }
        self.taken.clear();
        Ok(())
    }

    /// The machine's state now is proven: the base follows.
    pub fn advance(&mut self, machine: &Machine) {
        for page in self.written(machine) {
            copy(&machine.cpu.memory, &mut self.ram, page);
        }
        self.ram.take_dirty();
        self.dirty = machine.cpu.memory.dirty().to_vec();
        self.taken.clear();
        self.tick = machine.tick();
        self.state = machine.save();
    }

    /// Compares RAM with a list of what the recorder saw change since the base. The error says what differs; the
    /// number, in how many pages only marks of page tables do.
    pub fn compare(&self, machine: &Machine, list: &PageList) -> Result<u64, String> {
        let mut written = self.written(machine);
        let mut marks = 0;
        for row in &list.pages {
            if row.page as usize >= machine.cpu.memory.pages() {
                return Err(format!(
                    "page {:#x}, which the machine does not have",
                    row.page
                ));
            }
            written.remove(&row.page);
            let page = machine.cpu.memory.page(row.page as usize);
            let (whole, unmarked) = compare::page_hashes(page);
            if whole == row.whole {
                continue;
            }
            if unmarked != row.unmarked {
                return Err(self.name(row.page, machine));
            }
            marks += 1;
        }
        for page in written {
            let now: &[u8; PAGE_BYTES] = machine.cpu.memory.page(page as usize);
            let before = self.ram.page(page as usize);
            if now == before {
                continue;
            }
            if compare::unmarked(now) != compare::unmarked(before) {
                return Err(format!("{} unchanged", self.name(page, machine)));
            }
            marks += 1;
        }
        Ok(marks)
    }

    fn name(&self, page: u32, machine: &Machine) -> String {
        let gpa = machine.cpu.memory.page_address(page as usize);
        format!("the page at guest-physical address {gpa:#x}")
    }
}
