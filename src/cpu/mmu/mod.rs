//! Access to memory by linear address: the fast way through the TLB, and the slow way that does everything else.
//!
//! Slow is what walks the tables, what crosses a page, what is no RAM, what is watched, and stores to pages with
//! attributes. Accesses that need the world (MMIO) or a debugger (watchpoints) abort the instruction unless it
//! is being stepped alone, where the tick is exact; nothing has happened by then, so that it can run again.

pub mod tables;
#[cfg(test)]
mod tests;
pub mod tlb;
pub mod walk;

use super::decode::Mode;
use super::flags::{Width, bits};
use super::state::{cr0, cr4};
use super::stops::{BEFORE_BYTES, WatchHit, Watchpoint};
use super::{Abort, AbortReason, Cpu, Fault};
use crate::memory::{CODE, DIRTY, PAGE_TABLE, PageIndex};
use tables::Stale;
use tlb::Access;
use walk::{Intent, Walk, error, pte};

/// The longest access of one instruction, in bytes (FXSAVE and XSAVE are made of several).
const ACCESS_MAX: usize = 64;

/// Stands for the linear address of an operand that its segment does not permit. It is not canonical, nor is
/// anything near it, so that an access faults.
pub const REFUSED: u64 = 1 << 62;

/// Whether all upper bits of a 64-bit linear address are alike (SDM volume 1, 3.3.7.1), with four levels of tables.
pub(super) fn canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}

impl Cpu {
    /// Loads from a linear address with the rights of the current privilege level.
    #[inline(always)]
    pub fn read<T: bytemuck::Pod>(&mut self, address: u64) -> Result<T, Abort> {
        match self.tlb.load(self.access, address, size_of::<T>()) {
            // SAFETY: the TLB holds live pages of RAM only, and the access lies within one page.
            Some(host) => Ok(unsafe { host.cast::<T>().read_unaligned() }),
            None => self.read_slow(address, self.access),
        }
    }

    /// Stores to a linear address with the rights of the current privilege level.
    #[inline(always)]
    pub fn write<T: bytemuck::Pod>(&mut self, address: u64, value: T) -> Result<(), Abort> {
        match self.tlb.store(self.access, address, size_of::<T>()) {
            // SAFETY: as in `read`; entries for stores are pages without attributes but `DIRTY`.
            Some(host) => {
                unsafe { host.cast::<T>().write_unaligned(value) };
                Ok(())
            }
            None => self.write_slow(address, value, self.access),
        }
    }

    /// First half of a read-modify-write: checks that the store will succeed, and loads. The first value is the
    /// host address, or null where [`Cpu::finish_update`] must go the slow way.
    #[inline(always)]
    pub(crate) fn begin_update<T: bytemuck::Pod>(
        &mut self,
        address: u64,
    ) -> Result<(*mut T, T), Abort> {
        match self.tlb.store(self.access, address, size_of::<T>()) {
            // SAFETY: as in `read`.
            Some(host) => Ok((host.cast::<T>(), unsafe {
                host.cast::<T>().read_unaligned()
            })),
            None => self.begin_update_slow(address),
        }
    }

    /// Second half of a read-modify-write.
    #[inline(always)]
    pub(crate) fn finish_update<T: bytemuck::Pod>(
        &mut self,
        host: *mut T,
        address: u64,
        value: T,
    ) -> Result<(), Abort> {
        if host.is_null() {
            return self.write_slow(address, value, self.access);
        }
        // SAFETY: `begin_update` gave the address, and nothing has happened to the TLB since.
        unsafe { host.write_unaligned(value) };
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn begin_update_slow<T: bytemuck::Pod>(&mut self, address: u64) -> Result<(*mut T, T), Abort> {
        self.check_canonical(address, size_of::<T>())?;
        self.check_alignment(address, size_of::<T>())?;
        self.check_write(address, size_of::<T>())?;
        Ok((std::ptr::null_mut(), self.read_slow(address, self.access)?))
    }

    /// Raises what a store of `bytes` bytes would raise, without storing.
    pub fn check_write(&mut self, address: u64, bytes: usize) -> Result<(), Abort> {
        if bytes == 0
            || self
                .tlb
                .stores(self.access, address, bytes.min(ACCESS_MAX))
                .is_some()
                && bytes <= ACCESS_MAX
        {
            return Ok(());
        }
        self.check_canonical(address, bytes)?;
        let address = self.wrap(address);
        self.translate(address, Intent::Write, self.access)?;
        let last = address.wrapping_add(bytes as u64 - 1);
        if last & !0xfff != address & !0xfff {
            let next = self.next_page(address);
            self.translate(next, Intent::Write, self.access)?;
        }
        Ok(())
    }

    /// Raises what a load of a byte would raise, without loading.
    pub fn check_read(&mut self, address: u64) -> Result<(), Abort> {
        if self.tlb.load(self.access, address, 1).is_some() {
            return Ok(());
        }
        self.check_canonical(address, 1)?;
        let address = self.wrap(address);
        self.translate(address, Intent::Read, self.access)
            .map(|_| ())
    }

    /// Loads with supervisor rights whatever the privilege level: descriptor tables, task state.
    pub fn read_system<T: bytemuck::Pod>(&mut self, address: u64) -> Result<T, Abort> {
        match self.tlb.load(Access::Supervisor, address, size_of::<T>()) {
            // SAFETY: as in `read`.
            Some(host) => Ok(unsafe { host.cast::<T>().read_unaligned() }),
            None => self.read_slow(address, Access::Supervisor),
        }
    }

    /// Stores with supervisor rights whatever the privilege level.
    pub fn write_system<T: bytemuck::Pod>(&mut self, address: u64, value: T) -> Result<(), Abort> {
        self.write_slow(address, value, Access::Supervisor)
    }

    /// Raises what implicit supervisor accesses to a stretch of memory would raise, without accessing.
    pub(super) fn check_system(
        &mut self,
        address: u64,
        bytes: u64,
        intent: Intent,
    ) -> Result<(), Abort> {
        let address = self.wrap(address);
        let mut done = 0;
        while done < bytes {
            let at = self.wrap(address.wrapping_add(done));
            self.check_canonical(at, 1)?;
            self.translate(at, intent, Access::Supervisor)?;
            done += 0x1000 - (at & 0xfff);
        }
        Ok(())
    }

    /// Where the page behind the one of an address begins: addresses wrap at 4 GiB outside 64-bit mode.
    fn next_page(&self, address: u64) -> u64 {
        let next = (address & !0xfff).wrapping_add(0x1000);
        if self.mode != Mode::Bits64 && next == 1 << 32 {
            return 0;
        }
        self.wrap(next)
    }

    /// Linear addresses wrap at 4 GiB outside IA-32e mode. (Within it, descriptor tables may lie higher.)
    #[inline]
    fn wrap(&self, address: u64) -> u64 {
        if self.state.long_mode() {
            address
        } else {
            address & 0xffff_ffff
        }
    }

    /// Raises #AC where alignment is checked and an access is not aligned to its size. Vectors are not looked at:
    /// what needs alignment there raises #GP.
    #[inline]
    pub(crate) fn check_alignment(&mut self, address: u64, bytes: usize) -> Result<(), Abort> {
        if self.access == Access::UserChecked && bytes <= 8 && address & (bytes as u64 - 1) != 0 {
            return self.raise_code(super::vector::AC, 0);
        }
        Ok(())
    }

    /// Runs accesses whose alignment is not checked, or was checked as a whole.
    #[inline(always)]
    pub(crate) fn without_alignment<R>(&mut self, accesses: impl FnOnce(&mut Cpu) -> R) -> R {
        if self.access != Access::UserChecked {
            return accesses(self);
        }
        self.access = Access::User;
        let result = accesses(self);
        self.access = Access::UserChecked;
        result
    }

    /// [`AbortReason::NotCanonical`] where an access would not stay within the two halves, or was refused before.
    pub fn check_canonical(&mut self, address: u64, bytes: usize) -> Result<(), Abort> {
        let refused = if self.state.long_mode() {
            !canonical(address) || !canonical(address.wrapping_add(bytes as u64 - 1))
        } else {
            address >> 62 == REFUSED >> 62
        };
        if refused {
            return self.abort_with(AbortReason::NotCanonical);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: bytemuck::Pod>(&mut self, address: u64, access: Access) -> Result<T, Abort> {
        let mut value = T::zeroed();
        let bytes = bytemuck::bytes_of_mut(&mut value);
        self.check_canonical(address, bytes.len())?;
        let address = self.wrap(address);
        if access == Access::UserChecked {
            self.check_alignment(address, bytes.len())?;
        }
        self.watch(address, bytes.len(), false)?;
        let first = (0x1000 - (address & 0xfff) as usize).min(bytes.len());
        let physical = self.translate(address, Intent::Read, access)?;
        if first == bytes.len() {
            self.read_physical(physical, bytes)?;
        } else {
            let next = self.next_page(address);
            let second = self.translate(next, Intent::Read, access)?;
            let (head, tail) = bytes.split_at_mut(first);
            self.read_physical(physical, head)?;
            self.read_physical(second, tail)?;
        }
        Ok(value)
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: bytemuck::Pod>(
        &mut self,
        address: u64,
        value: T,
        access: Access,
    ) -> Result<(), Abort> {
        let bytes = bytemuck::bytes_of(&value);
        self.check_canonical(address, bytes.len())?;
        let address = self.wrap(address);
        if access == Access::UserChecked {
            self.check_alignment(address, bytes.len())?;
        }
        self.watch(address, bytes.len(), true)?;
        let first = (0x1000 - (address & 0xfff) as usize).min(bytes.len());
        let physical = self.translate(address, Intent::Write, access)?;
        if first == bytes.len() {
            self.tlb.note_store(address, first);
            return self.write_physical(physical, bytes);
        }
        let next = self.next_page(address);
        let second = self.translate(next, Intent::Write, access)?;
        self.tlb.note_store(address, first);
        self.tlb.note_store(next, bytes.len() - first);
        let (head, tail) = bytes.split_at(first);
        self.write_physical(physical, head)?;
        self.write_physical(second, tail)
    }

    /// Notices a hit watchpoint or data breakpoint: the instruction aborts, or, when stepped over, leaves a note.
    fn watch(&mut self, address: u64, bytes: usize, write: bool) -> Result<(), Abort> {
        let traps = self.armed.data_hits(address, bytes as u64, write);
        if traps != 0 {
            if !self.stepping {
                return self.abort_with(AbortReason::NeedsStep);
            }
            self.state.pending_trap |= traps;
        }
        let last = address.wrapping_add(bytes as u64 - 1);
        if !self.stops.is_watched_page(address) && !self.stops.is_watched_page(last) {
            return Ok(());
        }
        if let Some(watchpoint) = self.stops.watch_hit(address, bytes as u64, write) {
            if !self.stepping {
                return self.abort_with(AbortReason::NeedsStep);
            }
            if self.watch_hit.is_none() {
                self.watch_hit = Some(WatchHit {
                    watchpoint,
                    write,
                    rip: self.event_at.0,
                });
                self.remember_watched(watchpoint);
            }
        }
        Ok(())
    }

    /// Takes down what the bytes of a watchpoint are.
    fn remember_watched(&mut self, watchpoint: Watchpoint) {
        let mut before = [0; BEFORE_BYTES];
        let count = watchpoint.length.min(BEFORE_BYTES as u64) as usize;
        for (n, byte) in before[..count].iter_mut().enumerate() {
            if let Some(physical) = self.probe(watchpoint.address.wrapping_add(n as u64)) {
                self.memory.read(physical, std::slice::from_mut(byte));
            }
        }
        self.watched_before = before;
    }

    /// Translates with all checks, sets accessed and dirty bits, and fills the TLB where it may.
    pub(super) fn translate(
        &mut self,
        address: u64,
        intent: Intent,
        access: Access,
    ) -> Result<u64, Abort> {
        let user = access.is_user();
        let ac = access == Access::SupervisorAc;
        let found = walk::walk(&self.state, &self.memory, address);
        let walk = match found {
            Ok(walk) if walk::permits(&self.state, &walk, intent, user, ac) => walk,
            Ok(_) => return self.page_fault(address, error::P, intent, user),
            Err(miss) => return self.page_fault(address, miss.0, intent, user),
        };
        if let Some(touched) = &mut self.touched {
            let page = address >> 12;
            match intent {
                Intent::Read => touched.read.insert(page),
                // By line, where the store happens.
                Intent::Write => false,
                Intent::Fetch => touched.fetched.insert((page, walk.physical >> 12)),
            };
        }
        let dirty = self.set_accessed(&walk, intent == Intent::Write);
        if let Some(page) = self.memory.page_index(walk.physical) {
            if intent == Intent::Write {
                self.memory.mark_dirty(page);
            }
            self.fill(&walk, address, page, intent, access, dirty);
        }
        Ok(walk.physical)
    }

    fn page_fault(
        &mut self,
        address: u64,
        table_bits: u32,
        intent: Intent,
        user: bool,
    ) -> Result<u64, Abort> {
        let mut code = table_bits;
        if intent == Intent::Write {
            code |= error::W;
        }
        if user {
            code |= error::U;
        }
        let fetch_shown = self.state.cr4 & cr4::SMEP != 0
            || self.state.cr4 & cr4::PAE != 0 && self.state.efer & super::state::efer::NXE != 0;
        if intent == Intent::Fetch && fetch_shown {
            code |= error::I;
        }
        self.abort_with(AbortReason::Fault(Fault::page(address, code)))
    }

    /// Sets the accessed bits, and the dirty bit for a store. Gives whether the dirty bit is set afterwards.
    fn set_accessed(&mut self, walk: &Walk, write: bool) -> bool {
        let mut dirty = walk.depth == 0;
        for (n, step) in walk.steps[..walk.depth].iter().enumerate() {
            let leaf = n + 1 == walk.depth;
            let mut value = step.value | pte::A;
            if leaf && write {
                value |= pte::D;
            }
            if leaf {
                dirty = value & pte::D != 0;
            }
            if value != step.value
                && let Some(page) = self.memory.page_index(step.at)
            {
                self.memory.mark_dirty(page);
                // SAFETY: entries are aligned, so that four or eight bytes at `at` lie within the page. Blocks
                // and TLB entries need no notice: bits that only the walker sets change no translation, and
                // code that is also a page table is dropped below.
                unsafe {
                    let host = self.memory.page_host(page).add((step.at & 0xfff) as usize);
                    host.write(value as u8);
                }
                if self.memory.attributes(page) & CODE != 0 {
                    self.code_written(page, (step.at & 0xfff) as usize, 1);
                }
            }
        }
        dirty
    }

    fn fill(
        &mut self,
        walk: &Walk,
        address: u64,
        page: PageIndex,
        intent: Intent,
        access: Access,
        dirty: bool,
    ) {
        let mut new_tables = std::mem::take(&mut self.new_tables);
        self.tables
            .note(&mut self.memory, walk, address, &mut new_tables);
        for table in new_tables.drain(..) {
            self.tlb.forbid_writes(table);
        }
        self.new_tables = new_tables;
        if intent == Intent::Fetch {
            self.tlb
                .fill_fetch(access.is_user(), address, walk.physical);
            return;
        }
        if access == Access::UserChecked {
            return;
        }
        if self.stops.is_watched_page(address) || self.armed.is_watched_page(address) {
            return;
        }
        let user = access == Access::User;
        let ac = access == Access::SupervisorAc;
        let read = walk::permits(&self.state, walk, Intent::Read, user, ac);
        let write = dirty
            && self.memory.attributes(page) == DIRTY
            && walk::permits(&self.state, walk, Intent::Write, user, ac);
        // Every first load has to come by, to be noted.
        let read = read
            && (self.touched.is_none()
                || intent == Intent::Read
                || self.tlb.reads(access, address));
        let host = self.memory.page_host(page);
        self.tlb.fill(access, address, host, page, read, write);
    }

    /// Loads from one page of the guest-physical address space.
    fn read_physical(&mut self, physical: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        if let Some(page) = self.memory.page_index(physical) {
            let offset = (physical & 0xfff) as usize;
            bytes.copy_from_slice(&self.memory.page(page)[offset..offset + bytes.len()]);
            return Ok(());
        }
        if !self.stepping {
            return self.abort_with(AbortReason::NeedsStep);
        }
        let now = self.tick();
        let cpu = self.index;
        // Parts of at most 8 bytes that do not cross a multiple of 8: what a bus would do.
        let mut done = 0;
        while done < bytes.len() {
            let at = physical + done as u64;
            let n = (8 - (at & 7) as usize).min(bytes.len() - done);
            for (size, at, done) in bus_parts(at, done, n) {
                let value = self.world().mmio_read(now, cpu, at, size as u8);
                bytes[done..done + size].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            done += n;
        }
        self.attention = true;
        Ok(())
    }

    /// Stores to one page of the guest-physical address space.
    fn write_physical(&mut self, physical: u64, bytes: &[u8]) -> Result<(), Abort> {
        if let Some(page) = self.memory.page_index(physical) {
            let offset = (physical & 0xfff) as usize;
            self.write_page(page, offset, bytes);
            return Ok(());
        }
        if !self.stepping {
            return self.abort_with(AbortReason::NeedsStep);
        }
        let now = self.tick();
        let cpu = self.index;
        let mut done = 0;
        while done < bytes.len() {
            let at = physical + done as u64;
            let n = (8 - (at & 7) as usize).min(bytes.len() - done);
            for (size, at, done) in bus_parts(at, done, n) {
                let mut value = [0; 8];
                value[..size].copy_from_slice(&bytes[done..done + size]);
                self.world()
                    .mmio_write(now, cpu, at, size as u8, u64::from_le_bytes(value));
            }
            done += n;
        }
        self.attention = true;
        Ok(())
    }

    /// Stores to RAM and does what the attributes of the page ask for.
    pub(super) fn write_page(&mut self, page: PageIndex, offset: usize, bytes: &[u8]) {
        self.memory.mark_dirty(page);
        let attributes = self.memory.attributes(page);
        let host = self.memory.page_host(page);
        let words = offset & !7..(offset + bytes.len()).next_multiple_of(8);
        let mut old = [0u64; ACCESS_MAX / 8 + 1];
        let count = words.len() / 8;
        let tracked = attributes & PAGE_TABLE != 0;
        if tracked {
            self.copy_words(page, words.start, &mut old[..count]);
        }
        // SAFETY: `offset + bytes.len()` is at most 4,096, as the callers split at pages.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host.add(offset), bytes.len()) };
        if tracked {
            let mut new = [0u64; ACCESS_MAX / 8 + 1];
            self.copy_words(page, words.start, &mut new[..count]);
            let entry_bytes = if self.state.cr4 & cr4::PAE != 0 { 8 } else { 4 };
            let stale =
                self.tables
                    .stale(page, words.start, &old[..count], &new[..count], entry_bytes);
            if !matches!(stale, Stale::Nothing) {
                self.drop_stale(stale, self.memory.page_address(page), words);
            }
        }
        if attributes & CODE != 0 {
            self.code_written(page, offset, bytes.len());
        }
    }

    /// Drops what page-table entries that have changed were the ground of: `words` are the bytes in their page, which
    /// lies at `table`. Code that runs in blocks does not look at translations before it leaves its page: if the
    /// page of the running code is concerned, its blocks end here.
    fn drop_stale(&mut self, stale: Stale, table: u64, words: std::ops::Range<usize>) {
        let rip = self.linear_rip();
        let running = self.tlb.fetch(self.state.cpl == 3, rip);
        match stale {
            Stale::Nothing => {}
            Stale::Pages(pages) => pages.into_iter().for_each(|page| self.tlb.drop_page(page)),
            Stale::All => self.forget_translations(),
        }
        let Some(running) = running else {
            return;
        };
        let changed = table + words.start as u64..table + words.end as u64;
        let concerned = match walk::walk(&self.state, &self.memory, rip) {
            Ok(walk) => walk.steps[..walk.depth]
                .iter()
                .any(|step| changed.contains(&(step.at & !7))),
            Err(_) => true,
        };
        // Otherwise it is known again, so that the next change of its tables is noticed.
        let known = !concerned && self.translate_fetch(rip).is_ok();
        if !known && let Some(page) = self.memory.page_index(running) {
            self.code_written(page, 0, crate::memory::PAGE_BYTES);
        }
    }

    fn copy_words(&self, page: PageIndex, offset: usize, words: &mut [u64]) {
        let bytes = &self.memory.page(page)[offset..offset + words.len() * 8];
        bytemuck::cast_slice_mut::<u64, u8>(words).copy_from_slice(bytes);
    }

    /// Drops all cached translations. Has no effect that a guest could see.
    pub fn forget_translations(&mut self) {
        self.tlb.clear();
        self.tables.clear(&mut self.memory);
    }

    /// The pages written since the last call; from now on writes are noted again.
    pub fn take_dirty(&mut self) -> Vec<u32> {
        self.tlb.forbid_all_writes();
        self.memory.take_dirty()
    }

    /// Recomputes with which rights data is accessed: after changes of CPL, EFLAGS.AC, CR4.SMAP, CR0.AM.
    #[inline]
    pub fn update_access(&mut self) {
        self.access = if self.alignment_checked() {
            Access::UserChecked
        } else if self.state.cpl == 3 {
            Access::User
        } else if self.state.flags.other() & bits::AC != 0 {
            Access::SupervisorAc
        } else {
            Access::Supervisor
        };
    }

    /// Translates a linear address as a debugger would: supervisor rights, no accessed bits, no faults.
    pub fn probe(&self, address: u64) -> Option<u64> {
        // A walk looks at 48 bits only.
        if self.state.long_mode() && !canonical(address) {
            return None;
        }
        walk::walk(&self.state, &self.memory, address)
            .ok()
            .map(|walk| walk.physical)
    }

    /// Fetches where the TLB does not know: gives the guest-physical address or raises the fault.
    pub(super) fn translate_fetch(&mut self, address: u64) -> Result<u64, Abort> {
        let address = self.wrap(address);
        if self.state.long_mode() && !canonical(address) {
            return self.abort_with(AbortReason::Fault(Fault::with_code(super::vector::GP, 0)));
        }
        let user = self.state.cpl == 3;
        if let Some(physical) = self.tlb.fetch(user, address) {
            return Ok(physical);
        }
        let access = if user {
            Access::User
        } else {
            Access::Supervisor
        };
        self.translate(address, Intent::Fetch, access)
    }

    /// Loads a number of a width known at compile time, zero-extended.
    #[inline(always)]
    pub fn read_width<W: Width>(&mut self, address: u64) -> Result<W, Abort> {
        self.read::<W>(address)
    }

    /// Whether alignment is checked now (#AC).
    #[inline(always)]
    pub fn alignment_checked(&self) -> bool {
        self.state.cpl == 3
            && self.state.cr0 & cr0::AM != 0
            && self.state.flags.other() & bits::AC != 0
    }
}

/// Splits `n` bytes at a bus address into naturally sized parts: (size, address, offset in the buffer).
pub fn bus_parts(at: u64, done: usize, n: usize) -> impl Iterator<Item = (usize, u64, usize)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        if offset == n {
            return None;
        }
        let address = at + offset as u64;
        let mut size = 8;
        while size > n - offset || address & (size as u64 - 1) != 0 {
            size /= 2;
        }
        let part = (size, address, done + offset);
        offset += size;
        Some(part)
    })
}
