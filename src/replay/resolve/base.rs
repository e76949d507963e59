//! The point that a resolver goes back to: registers, a copy of all RAM, and what was changed since.

use crate::cpu::awaited::Clue;
use crate::machine::{Machine, STATE_VERSION, StateError, compare};
use crate::memory::{Memory, MemoryError, PAGE_BYTES, PAGE_TABLE};
use crate::tick::Tick;
use crate::trace::{PageHash, PageList};
use std::collections::{BTreeMap, BTreeSet};

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

/// What of RAM differs from a list.
pub struct Refusal {
    /// The first page that does.
    pub page: u32,
    /// Its row in the list; `None` for a page that is not there because it should be as it was at the base.
    pub row: Option<usize>,
    /// In words.
    pub what: String,
}

/// Pages beyond which no mark is made.
const MARK_PAGES_MAX: usize = 128;

/// A machine between two bases.
pub struct Mark {
    tick: Tick,
    state: Vec<u8>,
    /// All pages written since the base.
    pages: BTreeMap<u32, Box<[u8; PAGE_BYTES]>>,
    dirty: Vec<u32>,
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

    /// The machine as it is now, to go back to without running from the base; `None` where that is too much to keep.
    pub fn mark(&self, machine: &Machine) -> Option<Mark> {
        let written = self.written(machine);
        if written.len() > MARK_PAGES_MAX {
            return None;
        }
        let pages = written
            .iter()
            .map(|&page| (page, Box::new(*machine.cpu.memory.page(page as usize))));
        Some(Mark {
            tick: machine.tick(),
            state: machine.save(),
            pages: pages.collect(),
            dirty: machine.cpu.memory.dirty().to_vec(),
            taken: self.taken.clone(),
        })
    }

    /// Puts the machine back to a mark that was made since the base.
    pub fn restore_mark(&mut self, machine: &mut Machine, mark: &Mark) -> Result<(), StateError> {
        for page in self.written(machine) {
            let bytes = match mark.pages.get(&page) {
                Some(bytes) => bytes,
                None => self.ram.page(page as usize),
            };
            machine.replace_page(page as usize, bytes);
        }
        machine.restore(mark.tick, STATE_VERSION, &mark.state)?;
        machine.cpu.take_dirty();
        for &page in &mark.dirty {
            machine.cpu.memory.mark_dirty(page as usize);
        }
        self.taken = mark.taken.clone();
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

    /// Compares a page with what the recorder saw. The number is 1 where only marks of page tables differ.
    pub fn compare_page(&self, machine: &Machine, row: &PageHash) -> Result<u64, String> {
        if row.page as usize >= machine.cpu.memory.pages() {
            return Err(format!(
                "page {:#x}, which the machine does not have",
                row.page
            ));
        }
        let page = machine.cpu.memory.page(row.page as usize);
        if compare::page_hash(page) == row.whole {
            return Ok(0);
        }
        let (_, unmarked) = compare::page_hashes(page);
        if unmarked == row.unmarked && self.is_table(machine, row.page) {
            return Ok(1);
        }
        Err(self.name(row.page, machine))
    }

    /// Compares RAM with a list of what the recorder saw change since the base. The number says in how many pages only
    /// marks of page tables differ.
    pub fn compare(&self, machine: &Machine, list: &PageList) -> Result<u64, Refusal> {
        let mut written = self.written(machine);
        let mut marks = 0;
        for (n, row) in list.pages.iter().enumerate() {
            written.remove(&row.page);
            marks += self.compare_page(machine, row).map_err(|what| Refusal {
                page: row.page,
                row: Some(n),
                what,
            })?;
        }
        for page in written {
            let now: &[u8; PAGE_BYTES] = machine.cpu.memory.page(page as usize);
            let before = self.ram.page(page as usize);
            if now == before {
                continue;
            }
            let marks_only = compare::unmarked(now) == compare::unmarked(before);
            if !marks_only || !self.is_table(machine, page) {
                let what = format!("{} unchanged", self.name(page, machine));
                return Err(Refusal {
                    page,
                    row: None,
                    what,
                });
            }
            marks += 1;
        }
        Ok(marks)
    }

    /// What in a page of RAM as it is now tells it from the page that `refusal` wanted, where that is known by lines.
    pub fn clue(&self, machine: &Machine, list: &PageList, refusal: &Refusal) -> Option<Clue> {
        let page = refusal.page as usize;
        if page >= self.ram.pages() {
            return None;
        }
        let wanted = match refusal.row {
            Some(row) => *list.lines.get(row)?,
            None => compare::line_hashes(self.ram.page(page)),
        };
        compare::line_clue(page, &wanted, machine.cpu.memory.page(page))
    }

    /// Whether a page holds page tables, where marks may differ.
    fn is_table(&self, machine: &Machine, page: u32) -> bool {
        let memory = &machine.cpu.memory;
        memory.attributes(page as usize) & PAGE_TABLE != 0
            || compare::table_pages(&machine.cpu.state, memory).contains(&page)
    }

    fn name(&self, page: u32, machine: &Machine) -> String {
        let gpa = machine.cpu.memory.page_address(page as usize);
        format!("the page at guest-physical address {gpa:#x}")
    }
}
