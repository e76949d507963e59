//! A machine in any mode: tables that make sense, mostly, a state that a guest could bring about, and a program.

use crate::program::Programs;
use fastrand::Rng;
use iced_x86::{Decoder, DecoderOptions, FastFormatter};
use retrovisor::cpu::cpuid::CpuModel;
use retrovisor::cpu::state::{Segment, State, cr0, cr4, efer, rights, seg};
use std::fmt;

const PAGE: u64 = 4096;
const RAM_PAGES: u64 = 256;
/// Page-table pages, by number.
const PML4: u64 = 1;
const PDPT: u64 = 2;
const PD: u64 = 3;
const PT: u64 = 4;
const PD_32: u64 = 5;
const PT_32: u64 = 6;
const PDPT_PAE: u64 = 7;
const GDT: u64 = 8;
const IDT: u64 = 9;
const TSS: u64 = 10;
const LDT: u64 = 11;
const CODE: u64 = 16;

/// How code runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Real,
    Virtual8086,
    Protected(u32),
    Compatibility(u32),
    Long,
}

/// A machine to be run.
pub struct Scene {
    pub ram: Vec<u8>,
    pub state: State,
    pub model: CpuModel,
    /// Size of the code segment.
    pub bits: u32,
    pub program: Vec<u8>,
    /// Seed of the world.
    pub noise: u64,
}

fn put(ram: &mut [u8], at: u64, bytes: &[u8]) {
    let at = at as usize;
    let end = (at + bytes.len()).min(ram.len());
    ram[at..end].copy_from_slice(&bytes[..end - at]);
}

/// Flags of a page-table entry: everything permitted, mostly.
fn entry_flags(rng: &mut Rng) -> u64 {
    let mut flags = 7;
    if rng.u8(0..24) == 0 {
        flags ^= 1 << rng.u8(0..3);
    }
    flags | (rng.u64(0..4) << 5) | (rng.bool() as u64) << 8
}

fn page_tables(rng: &mut Rng, ram: &mut [u8]) {
    let link = |rng: &mut Rng, page: u64| (page * PAGE) | entry_flags(rng) & !0x80;
    for n in [0, 256, 511] {
        let entry = link(rng, PDPT);
        put(ram, PML4 * PAGE + 8 * n, &entry.to_le_bytes());
    }
    for n in 0..4 {
        let entry = link(rng, PD);
        put(ram, PDPT * PAGE + 8 * n, &entry.to_le_bytes());
        put(
            ram,
            PDPT_PAE * PAGE + 8 * n,
            &((PD * PAGE) | 1).to_le_bytes(),
        );
    }
    let entry = link(rng, PT);
    put(ram, PD * PAGE, &entry.to_le_bytes());
    // A large page, a table that is its own, and noise.
    put(ram, PD * PAGE + 8, &0x87u64.to_le_bytes());
    put(ram, PD * PAGE + 16, &((PD * PAGE) | 7).to_le_bytes());
    put(ram, PD * PAGE + 24, &rng.u64(..).to_le_bytes());
    put(ram, PDPT * PAGE + 32, &0x87u64.to_le_bytes());
    let entry = ((PT_32 * PAGE) | entry_flags(rng) & !0x80) as u32;
    put(ram, PD_32 * PAGE, &entry.to_le_bytes());
    put(ram, PD_32 * PAGE + 4, &0x87u32.to_le_bytes());
    put(ram, PD_32 * PAGE + 8, &rng.u32(..).to_le_bytes());
    for n in 0..512 {
        let page = match rng.u8(0..24) {
            0 => rng.u64(0..RAM_PAGES),
            1 => rng.u64(0..1 << 20),
            _ => n,
        };
        let execute = if rng.u8(0..24) == 0 { 1 << 63 } else { 0 };
        let entry = (page * PAGE) | entry_flags(rng);
        put(ram, PT * PAGE + 8 * n, &(entry | execute).to_le_bytes());
        put(ram, PT_32 * PAGE + 4 * n, &(entry as u32).to_le_bytes());
    }
}

/// A descriptor: of a segment, mostly flat, of a system segment, or a gate.
fn descriptor(rng: &mut Rng) -> u64 {
    let privilege = [0, 0, 3, 3, 1][rng.usize(0..5)] << 45;
    let present = if rng.u8(0..12) == 0 { 0 } else { 1 << 47 };
    let size = [0u64, 0, 1 << 54, 1 << 54, 1 << 53][rng.usize(0..5)];
    match rng.u8(0..8) {
        0..=4 => {
            let kind = rng.u64(0..16) << 40 | 1 << 44;
            let base = if rng.u8(0..4) == 0 {
                rng.u64(0..0x4_0000)
            } else {
                0
            };
            let limit = [0xf_ffff, 0xffff, 0xfff, rng.u64(0..0x10_0000)][rng.usize(0..4)];
            let pages = (rng.bool() as u64) << 55;
            limit & 0xffff
                | base << 16
                | kind
                | privilege
                | present
                | (limit >> 16) << 48
                | size
                | pages
        }
        5 => {
            let kind = [1u64, 2, 3, 9, 11][rng.usize(0..5)] << 40;
            let page = [TSS, LDT][rng.usize(0..2)];
            rng.u64(0x20..0x200) | (page * PAGE) << 16 | kind | privilege | present
        }
        6 => gate(rng),
        _ => rng.u64(..),
    }
}

/// A gate to somewhere in the code pages.
fn gate(rng: &mut Rng) -> u64 {
    let kind = [4u64, 5, 6, 7, 12, 14, 14, 15][rng.usize(0..8)] << 40;
    let offset = CODE * PAGE + rng.u64(0..4 * PAGE);
    let selector = rng.u64(0..32) << 3 | rng.u64(0..4);
    let privilege = [0u64, 3][rng.usize(0..2)] << 45;
    offset & 0xffff | selector << 16 | kind | privilege | 1 << 47 | (offset >> 16) << 48
}

fn system_tables(rng: &mut Rng, ram: &mut [u8]) {
    for n in 0..64 {
        for table in [GDT, LDT] {
            let entry = descriptor(rng);
            put(ram, table * PAGE + 8 * n, &entry.to_le_bytes());
        }
    }
    // Some that every scene has: kernel code of each size, data, the same for users.
    let fixed: [u64; 8] = [
        0x00af_9b00_0000_ffff,
        0x00cf_9b00_0000_ffff,
        0x000f_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x000f_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
    ];
    for (n, entry) in (1..).zip(fixed) {
        put(ram, GDT * PAGE + 8 * n, &entry.to_le_bytes());
    }
    for n in 0..512 {
        // In IA-32e mode, every second is the upper half of one.
        let entry = if n % 2 == 1 && rng.bool() {
            0
        } else {
            gate(rng)
        };
        put(ram, IDT * PAGE + 8 * n, &entry.to_le_bytes());
    }
    for n in 0..512 {
        let value = [0, rng.u64(0..RAM_PAGES * PAGE), rng.u64(..)][rng.usize(0..3)];
        put(ram, TSS * PAGE + 8 * n, &value.to_le_bytes());
    }
}

fn mode(rng: &mut Rng) -> Mode {
    let bits = if rng.bool() { 16 } else { 32 };
    match rng.u8(0..12) {
        0 => Mode::Real,
        1 => Mode::Virtual8086,
        2..=4 => Mode::Protected(bits),
        5..=6 => Mode::Compatibility(bits),
        _ => Mode::Long,
    }
}

fn control(rng: &mut Rng, state: &mut State, mode: Mode) {
    let rare = |rng: &mut Rng, bit: u64| if rng.u8(0..12) == 0 { bit } else { 0 };
    let some = |rng: &mut Rng, bit: u64| if rng.bool() { bit } else { 0 };
    let usual = |rng: &mut Rng, bit: u64| if rng.u8(0..12) > 0 { bit } else { 0 };
    state.cr0 = cr0::ET | usual(rng, cr0::NE) | some(rng, cr0::WP) | some(rng, cr0::AM);
    state.cr0 |= some(rng, cr0::MP) | rare(rng, cr0::EM) | rare(rng, cr0::TS);
    state.cr4 = usual(rng, cr4::OSFXSR) | usual(rng, cr4::OSXMMEXCPT) | usual(rng, cr4::OSXSAVE);
    for bit in [
        cr4::VME,
        cr4::PVI,
        cr4::TSD,
        cr4::DE,
        cr4::PSE,
        cr4::PGE,
        cr4::UMIP,
        cr4::FSGSBASE,
    ] {
        state.cr4 |= some(rng, bit);
    }
    state.cr4 |= rare(rng, cr4::SMEP) | rare(rng, cr4::SMAP);
    state.efer = some(rng, efer::SCE) | some(rng, efer::NXE);
    state.xcr0 = [1, 3, 7, 7, 7][rng.usize(0..5)];
    if mode != Mode::Real {
        state.cr0 |= cr0::PE;
    }
    match mode {
        Mode::Real => {}
        Mode::Compatibility(_) | Mode::Long => {
            state.cr0 |= cr0::PG;
            state.cr4 |= cr4::PAE | some(rng, cr4::PCIDE);
            state.efer |= efer::LME | efer::LMA;
            state.cr3 = PML4 * PAGE;
        }
        _ if rng.u8(0..3) == 0 => {}
        _ => {
            state.cr0 |= cr0::PG;
            if rng.bool() {
                state.cr4 |= cr4::PAE;
                state.cr3 = PDPT_PAE * PAGE;
                state.pdpte = [(PD * PAGE) | 1; 4];
            } else {
                state.cr3 = PD_32 * PAGE;
            }
        }
    }
}

fn segments(rng: &mut Rng, state: &mut State, mode: Mode) {
    let level = match mode {
        Mode::Real => 0,
        Mode::Virtual8086 => 3,
        _ => [0, 0, 3][rng.usize(0..3)],
    };
    state.cpl = level;
    for n in 0..6 {
        let selector = rng.u16(0..16) << 3 | rng.u16(0..8);
        let kind = rng.u16(0..16) & !rights::CODE | rights::ACCESSED;
        let flat = rng.u8(0..3) > 0;
        let kind = if flat || n == seg::SS { 3 } else { kind };
        let base = if flat { 0 } else { rng.u64(0..0x2_0000) };
        let limit = [0xffff_ffff, 0xffff, rng.u32(..) >> rng.u32(0..32)][rng.usize(0..3)];
        let size = if rng.bool() {
            rights::DB | rights::G
        } else {
            0
        };
        let mut segment = Segment {
            limit: if flat { 0xffff_ffff } else { limit },
            rights: kind | rights::S | rights::P | (level as u16) << rights::DPL_SHIFT | size,
            selector: selector & !3 | level as u16,
        };
        let mut base = base;
        if matches!(mode, Mode::Real | Mode::Virtual8086) {
            segment.selector = rng.u16(0..0x2000);
            segment.limit = 0xffff;
            segment.rights = if mode == Mode::Real { 0x93 } else { 0xf3 };
            base = (segment.selector as u64) << 4;
        }
        state.seg[n] = segment;
        state.seg_base[n] = base;
    }
    let size = match mode {
        Mode::Long => rights::L,
        Mode::Protected(32) | Mode::Compatibility(32) => rights::DB,
        _ => 0,
    };
    let code = &mut state.seg[seg::CS];
    if !matches!(mode, Mode::Real | Mode::Virtual8086) {
        code.rights = 0x1b | rights::P | rights::G | (level as u16) << rights::DPL_SHIFT | size;
        code.limit = 0xffff_ffff;
        state.seg_base[seg::CS] = 0;
        if size == 0 {
            state.seg_base[seg::CS] = CODE * PAGE;
        }
    } else {
        code.selector = ((CODE * PAGE) >> 4) as u16;
        state.seg_base[seg::CS] = CODE * PAGE;
    }
}

fn tables_and_registers(rng: &mut Rng, state: &mut State) {
    state.gdtr.base = GDT * PAGE;
    state.gdtr.limit = [0x1ff, 0xffff, rng.u64(0..0x400)][rng.usize(0..3)];
    state.idtr.base = IDT * PAGE;
    state.idtr.limit = [0xfff, 0x3ff, rng.u64(0..0x1000)][rng.usize(0..3)];
    state.tr.base = TSS * PAGE;
    state.tr.segment.limit = [0x67, 0x2fff, rng.u32(0..0x200)][rng.usize(0..3)];
    state.tr.segment.rights = [0x8b, 0x83][rng.usize(0..2)];
    state.tr.segment.selector = 0x50;
    state.ldtr.base = LDT * PAGE;
    state.ldtr.segment.limit = 0x1ff;
    for register in &mut state.gpr[..16] {
        *register = match rng.u8(0..6) {
            0 => rng.u64(..),
            1 => rng.u64(..) >> rng.u32(0..64),
            2 => 0xffff_8000_0000_0000 | rng.u64(0..RAM_PAGES * PAGE),
            _ => rng.u64(0..RAM_PAGES * PAGE),
        };
    }
    // ECX counts repetitions: small, mostly.
    if rng.u8(0..4) > 0 {
        state.gpr[1] &= 0xff;
    }
    for vector in &mut state.vector {
        vector.0 = [rng.u64(..), rng.u64(..) >> 40, rng.u64(..), rng.u64(..)];
    }
    state.mxcsr = if rng.u8(0..4) == 0 {
        rng.u32(0..0x1_0000)
    } else {
        0x1f80
    };
    state.x87.control = if rng.u8(0..4) == 0 {
        rng.u16(..) & 0x1f7f | 0x40
    } else {
        0x37f
    };
    state.x87.tag = rng.u16(..);
    for register in &mut state.x87.r {
        register.mantissa = rng.u64(..);
        register.sign_exponent = rng.u64(0..0x1_0000);
    }
    let somewhere = |rng: &mut Rng| CODE * PAGE + rng.u64(0..4 * PAGE);
    state.star = (0x08u64 | 0x1b << 16) << 32 | rng.u64(0..1 << 32);
    state.lstar = somewhere(rng);
    state.cstar = somewhere(rng);
    state.fmask = rng.u64(0..1 << 22);
    state.kernel_gs_base = rng.u64(0..RAM_PAGES * PAGE);
    state.sysenter = [0x08, somewhere(rng), somewhere(rng)];
    state.shadow = rng.u8(0..2);
}

impl Scene {
    pub fn new(rng: &mut Rng, programs: &mut Programs) -> Scene {
        let mode = mode(rng);
        let bits = match mode {
            Mode::Real | Mode::Virtual8086 => 16,
            Mode::Protected(bits) | Mode::Compatibility(bits) => bits,
            Mode::Long => 64,
        };
        let mut ram = vec![0; (RAM_PAGES * PAGE) as usize];
        let data = (32 * PAGE) as usize;
        rng.fill(&mut ram[data..data + 4096]);
        page_tables(rng, &mut ram);
        system_tables(rng, &mut ram);
        let mut state = State::reset();
        control(rng, &mut state, mode);
        segments(rng, &mut state, mode);
        tables_and_registers(rng, &mut state);
        let mut flags = 2 | rng.u64(..) & 0x0024_4ed5;
        if rng.u8(0..8) == 0 {
            // TF, NT, RF, AC and the like.
            flags |= rng.u64(..) & 0x003d_7fd5;
        }
        flags &= !(1 << 17);
        if mode == Mode::Virtual8086 {
            flags |= 1 << 17;
        }
        state.flags.set_rflags(flags);
        let program = programs.make(rng, bits);
        // Close to the end of a page, sometimes.
        let at = CODE * PAGE + [0, 0xf00, 0xff8, rng.u64(0..0x1000)][rng.usize(0..4)];
        put(&mut ram, at, &program);
        // Handlers are code of the same kind.
        for page in CODE + 1..CODE + 4 {
            let other = programs.make(rng, bits);
            put(&mut ram, page * PAGE + 0x400, &other);
        }
        for _ in 0..[0, 0, 4, 40][rng.usize(0..4)] {
            let at = rng.usize(0..ram.len());
            ram[at] = rng.u8(..);
        }
        state.set_rip(at - state.seg_base[seg::CS]);
        Scene {
            ram,
            state,
            model: CpuModel::native(),
            bits,
            program,
            noise: rng.u64(..),
        }
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let state = &self.state;
        writeln!(
            f,
            "{}, level {}, rip {:x}, rflags {:x}, cr0 {:x}, cr4 {:x}, efer {:x}",
            state.mode_name(),
            state.cpl,
            state.rip(),
            state.rflags(),
            state.cr0,
            state.cr4,
            state.efer
        )?;
        let mut formatter = FastFormatter::new();
        let mut decoder = Decoder::new(self.bits, &self.program, DecoderOptions::NONE);
        for _ in 0..40 {
            if !decoder.can_decode() {
                break;
            }
            let insn = decoder.decode();
            let mut text = String::new();
            formatter.format(&insn, &mut text);
            writeln!(f, "   +{:x}: {text}", insn.ip())?;
        }
        Ok(())
    }
}
