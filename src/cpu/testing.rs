//! What tests of instructions need: a processor in 64-bit mode, and a world in which nothing happens.

use super::Cpu;
use super::cpuid::CpuModel;
use super::run::Exit;
use super::state::{Segment, cr0, cr4, efer, gpr, seg};
use super::world::{Dma, Interrupt, Pending, Wait, World};
use crate::memory::Memory;
use crate::tick::Tick;

/// Where [`execute`] puts code.
pub const CODE: u64 = 0x1_0000;
/// Where tests may keep data; the page before and the page behind are mapped, too.
pub const DATA: u64 = 0x2_0000;
/// The page table of the lowest 2 MiB, in which the pages of RAM are present.
pub const PAGE_TABLE: u64 = TABLES + 0x3000;
const TABLES: u64 = 0x8000;
/// Interrupt gates of the 32 exceptions.
pub const IDT: u64 = 0x4000;
const GDT: u64 = 0x5000;
/// Exception handlers: a HLT each, 16 bytes apart, in the order of the vectors.
const HANDLERS: u64 = 0x6000;
const STACK: u64 = 0x7000;
const TASK_STATE: u64 = 0x7000;
const CODE_SELECTOR: u16 = 8;

/// A world without devices: a halted processor ends the run.
pub struct Quiet;

impl World for Quiet {
    fn pio_read(&mut self, _: Tick, _: usize, _: u16, _: u8) -> u32 {
        0
    }
    fn pio_write(&mut self, _: Tick, _: usize, _: u16, _: u8, _: u32) {}
    fn mmio_read(&mut self, _: Tick, _: usize, _: u64, _: u8) -> u64 {
        0
    }
    fn mmio_write(&mut self, _: Tick, _: usize, _: u64, _: u8, _: u64) {}
    fn msr_read(&mut self, _: Tick, _: usize, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: Tick, _: usize, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&mut self, now: Tick, _: usize) -> u64 {
        now
    }
    fn random(&mut self, _: Tick, _: usize) -> u64 {
        0
    }
    fn tpr_read(&mut self, _: Tick, _: usize) -> u64 {
        0
    }
    fn tpr_write(&mut self, _: Tick, _: usize, _: u64) {}
    fn next_stop(&mut self, _: Tick) -> Tick {
        Tick::MAX
    }
    fn poll(&mut self, _: Tick, _: usize, _: &mut Vec<Dma>) -> Pending {
        Pending::default()
    }
    fn interrupt(&mut self, _: Tick, _: usize, _: bool) -> Option<Interrupt> {
        None
    }
    fn wait(&mut self, _: Tick, _: usize, _: bool) -> Wait {
        Wait::Ended
    }
    fn ended(&mut self, _: Tick) -> bool {
        false
    }
    fn shutdown(&mut self, _: Tick, _: usize, why: &str) {
        panic!("the processor shut down: {why}");
    }
}

/// A processor in 64-bit mode at privilege level 0 with SSE and AVX switched on, 1 MiB of RAM mapped one to one, and
/// handlers of all exceptions that halt.
pub fn long_mode() -> Box<Cpu> {
    let mut memory = Memory::new(1 << 20).unwrap();
    // One table of each level; 512 pages are twice the RAM.
    memory.write(TABLES, &((TABLES + 0x1000) | 3).to_le_bytes());
    memory.write(TABLES + 0x1000, &((TABLES + 0x2000) | 3).to_le_bytes());
    memory.write(TABLES + 0x2000, &((TABLES + 0x3000) | 3).to_le_bytes());
    for page in 0..256u64 {
        memory.write(TABLES + 0x3000 + 8 * page, &(page << 12 | 3).to_le_bytes());
    }
    memory.write(
        GDT + CODE_SELECTOR as u64,
        &0x0020_9b00_0000_0000u64.to_le_bytes(),
    );
    for vector in 0..32u64 {
        let handler = HANDLERS + 16 * vector;
        memory.write(handler, &[0xf4]);
        let gate = handler & 0xffff | (CODE_SELECTOR as u64) << 16 | 0x8e << 40;
        memory.write(IDT + 16 * vector, &gate.to_le_bytes());
    }
    let mut cpu = Cpu::new(memory, CpuModel::native());
    let s = &mut cpu.state;
    s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::MP;
    s.cr3 = TABLES;
    s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    s.efer = efer::LME | efer::LMA;
    s.xcr0 = 7;
    s.gdtr.base = GDT;
    s.gdtr.limit = 0xff;
    s.idtr.base = IDT;
    s.idtr.limit = 0x1ff;
    s.seg[seg::CS] = Segment {
        limit: 0xffff_ffff,
        rights: 0x209b,
        selector: CODE_SELECTOR,
    };
    s.seg_base[seg::CS] = 0;
    s.gpr[gpr::RSP] = STACK;
    cpu.state_changed();
    cpu
}

/// Puts a processor in 64-bit mode at privilege level 3, with all of RAM accessible and a stack for exceptions.
pub fn drop_to_user(cpu: &mut Cpu) {
    for table in 0..3 {
        let at = TABLES + 0x1000 * table;
        let entry = cpu.memory.read_u64(at);
        cpu.memory.write(at, &(entry | 4).to_le_bytes());
    }
    for page in 0..256 {
        let at = PAGE_TABLE + 8 * page;
        let entry = cpu.memory.read_u64(at);
        cpu.memory.write(at, &(entry | 4).to_le_bytes());
    }
    cpu.memory.write(TASK_STATE + 4, &STACK.to_le_bytes());
    let s = &mut cpu.state;
    s.tr.base = TASK_STATE;
    s.tr.segment.limit = 0x67;
    s.seg[seg::CS].rights = 0x20fb;
    s.seg[seg::CS].selector = 0x33;
    s.cpl = 3;
    cpu.state_changed();
}

/// Puts a processor into 32-bit protected mode without paging: flat segments, and the same handlers.
pub fn drop_to_protected(cpu: &mut Cpu) {
    cpu.memory
        .write(GDT + 0x10, &0x00cf_9b00_0000_ffffu64.to_le_bytes());
    for vector in 0..32u64 {
        let handler = HANDLERS + 16 * vector;
        let gate = handler | 0x10 << 16 | 0x8e << 40;
        cpu.memory.write(IDT + 8 * vector, &gate.to_le_bytes());
    }
    let flat = |rights, selector| Segment {
        limit: 0xffff_ffff,
        rights,
        selector,
    };
    let s = &mut cpu.state;
    s.cr0 &= !cr0::PG;
    s.efer = 0;
    s.cr4 &= !cr4::PAE;
    s.seg = [flat(0xc093, 0x18); 6];
    s.seg[seg::CS] = flat(0xc09b, 0x10);
    cpu.state_changed();
}

/// Runs code until it halts, and gives the vector of the exception that it ended with, if it did. State and memory are
/// those after the exception was delivered.
pub fn execute(cpu: &mut Cpu, code: &[u8]) -> Option<u8> {
    cpu.memory.write(CODE, code);
    cpu.memory.write(CODE + code.len() as u64, &[0xf4]);
    cpu.forget_code();
    cpu.state.set_rip(CODE);
    cpu.state.activity = super::state::activity::RUNNING;
    let until = cpu.tick() + 100_000;
    assert_eq!(cpu.run(&mut Quiet, until, false), Exit::Ended);
    let rip = cpu.state.rip();
    if rip == CODE + code.len() as u64 + 1 {
        return None;
    }
    assert!(
        (HANDLERS..HANDLERS + 512).contains(&rip),
        "halted at {rip:x}"
    );
    Some(((rip - 1 - HANDLERS) / 16) as u8)
}

/// Runs the one instruction at RIP. Gives the vector of the exception that it raised, if it did.
pub fn step(cpu: &mut Cpu) -> Option<u8> {
    let until = cpu.tick() + 1;
    assert_eq!(cpu.run(&mut Quiet, until, false), Exit::Tick);
    let distance = cpu.state.rip().wrapping_sub(HANDLERS);
    (distance < 512).then_some((distance / 16) as u8)
}

/// Numbers that look random and are the same in every run (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one.
    #[allow(clippy::should_implement_trait)] // without an end, there is no `Option`
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// The next one below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
