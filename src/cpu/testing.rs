//! A processor in 64-bit mode with a little memory, to run single instructions in unit tests.

use super::Cpu;
use super::cpuid::CpuModel;
use super::run::Exit;
use super::state::{Segment, cr0, cr4, efer, gpr, rights, seg};
use super::world::{Dma, Interrupt, Pending, Wait, World};
use crate::memory::Memory;
use crate::tick::Tick;

/// Bytes of memory, all of it mapped one to one.
pub const MEMORY_BYTES: u64 = 1 << 20;
/// Where tests put code; page tables lie below.
pub const CODE: u64 = 0x1_0000;
/// Where tests put data.
pub const DATA: u64 = 0x8_0000;

/// Linear address of a page behind which there is none.
pub const EDGE: u64 = 0x20_0000;
/// Where that page lies.
pub const EDGE_PHYSICAL: u64 = 0x9_0000;
/// Where exception handlers would be, 16 bytes apart.
pub const HANDLERS: u64 = 0xa_0000;

/// A world in which nothing happens.
pub struct Nothing;

impl World for Nothing {
    fn pio_read(&mut self, _now: Tick, _cpu: usize, _port: u16, _size: u8) -> u32 {
        0
    }
    fn pio_write(&mut self, _now: Tick, _cpu: usize, _port: u16, _size: u8, _value: u32) {}
    fn mmio_read(&mut self, _now: Tick, _cpu: usize, _gpa: u64, _size: u8) -> u64 {
        0
    }
    fn mmio_write(&mut self, _now: Tick, _cpu: usize, _gpa: u64, _size: u8, _value: u64) {}
    fn msr_read(&mut self, _now: Tick, _cpu: usize, _msr: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _now: Tick, _cpu: usize, _msr: u32, _value: u64) -> bool {
        false
    }
    fn tsc(&mut self, now: Tick, _cpu: usize) -> u64 {
        now
    }
    fn random(&mut self, _now: Tick, _cpu: usize) -> u64 {
        0
    }
    fn tpr_read(&mut self, _now: Tick, _cpu: usize) -> u64 {
        0
    }
    fn tpr_write(&mut self, _now: Tick, _cpu: usize, _value: u64) {}
    fn next_stop(&mut self, _now: Tick) -> Tick {
        Tick::MAX
    }
    fn poll(&mut self, _now: Tick, _cpu: usize, _dma: &mut Vec<Dma>) -> Pending {
        Pending::default()
    }
    fn interrupt(&mut self, _now: Tick, _cpu: usize, _maskable: bool) -> Option<Interrupt> {
        None
    }
    fn wait(&mut self, _now: Tick, _cpu: usize, _interruptible: bool) -> Wait {
        Wait::Ended
    }
    fn ended(&mut self, _now: Tick) -> bool {
        false
    }
    fn shutdown(&mut self, _now: Tick, _cpu: usize, _why: &str) {}
}

/// A processor at privilege level 0 in 64-bit mode, RIP at [`CODE`], the stack at the end of memory.
///
/// Exceptions lead to [`HANDLERS`]: see [`vector_taken`]. From [`EDGE`] on, one page is mapped to the memory at
/// [`EDGE_PHYSICAL`], and the next one is not present.
pub fn cpu64() -> Box<Cpu> {
    let memory = Memory::new(MEMORY_BYTES).expect("a small memory");
    let mut cpu = Cpu::new(memory, CpuModel::native());
    // PML4, PDPT, page directory, page table.
    let entries = [
        (0x1000, 0x2003),
        (0x2000, 0x3003),
        (0x3000, 0x83),
        (0x3008, 0x6003),
        (0x6000, EDGE_PHYSICAL | 3),
    ];
    for (at, entry) in entries {
        poke(&mut cpu, at, &u64::to_le_bytes(entry));
    }
    // Code and data segment.
    poke(&mut cpu, 0x5008, &0x0020_9b00_0000_0000u64.to_le_bytes());
    poke(&mut cpu, 0x5010, &0x00cf_9300_0000_ffffu64.to_le_bytes());
    for vector in 0..32u64 {
        let target = HANDLERS + 16 * vector;
        let gate = target & 0xffff | 8 << 16 | 0x8e00 << 32 | (target >> 16) << 48;
        poke(&mut cpu, 0x4000 + 16 * vector, &gate.to_le_bytes());
    }
    let s = &mut cpu.state;
    s.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
    s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    s.cr3 = 0x1000;
    s.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    let segment = |rights, selector| Segment {
        limit: u32::MAX,
        rights,
        selector,
    };
    s.seg = [segment(0xc093, 0x10); 6];
    s.seg[seg::CS] = segment(0x809b | rights::L, 8);
    s.seg_base = [0; 8];
    (s.idtr.base, s.idtr.limit) = (0x4000, 32 * 16 - 1);
    (s.gdtr.base, s.gdtr.limit) = (0x5000, 23);
    s.gpr[gpr::RIP] = CODE;
    s.gpr[gpr::RSP] = MEMORY_BYTES;
    s.x87.initialise();
    cpu.state_changed();
    cpu
}

/// The exception that a processor made by [`cpu64`] has just taken.
pub fn vector_taken(cpu: &Cpu) -> Option<u8> {
    let distance = cpu.state.rip().wrapping_sub(HANDLERS);
    (distance < 32 * 16).then_some((distance / 16) as u8)
}

/// Writes to memory from outside.
pub fn poke(cpu: &mut Cpu, mut at: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let page = cpu.memory.page_index(at).expect("an address in memory");
        let offset = (at & 0xfff) as usize;
        let n = bytes.len().min(4096 - offset);
        // SAFETY: the piece lies within the page.
        unsafe {
            cpu.memory
                .page_host(page)
                .add(offset)
                .copy_from_nonoverlapping(bytes.as_ptr(), n);
        }
        cpu.page_replaced(page);
        bytes = &bytes[n..];
        at += n as u64;
    }
}

/// Reads memory from outside; the piece must not cross a page.
pub fn peek(cpu: &Cpu, at: u64, bytes: &mut [u8]) {
    let page = cpu.memory.page_index(at).expect("an address in memory");
    let offset = (at & 0xfff) as usize;
    bytes.copy_from_slice(&cpu.memory.page(page)[offset..offset + bytes.len()]);
}

/// Runs one instruction at RIP.
pub fn step(cpu: &mut Cpu) {
    let until = cpu.tick() + 1;
    assert_eq!(cpu.run(&mut Nothing, until, false), Exit::Tick);
}
