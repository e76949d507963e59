//! The machine that every case starts from: 1 MiB of RAM with descriptor tables, a task-state segment, a stack for each
//! privilege level and handlers that halt, and the processor in one of its modes.
//!
//! ```text
//! 0000 interrupt vectors of real mode   4000 handlers: HLT each, 16 bytes apart   10000 code
//! 1000 GDT    1800 LDT                  5000 stacks of levels 0 to 3, a page each 20000 page tables
//! 2000 IDT    3000 TSS                  9000 data
//! ```

use retrovisor::cpu::state::{Segment, State, SystemSegment, activity, cr0, cr4, efer, gpr, seg};

pub const RAM: usize = 1 << 20;
pub const GDT: u64 = 0x1000;
pub const LDT: u64 = 0x1800;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
pub const HANDLERS: u64 = 0x4000;
pub const STACKS: u64 = 0x5000;
pub const DATA: u64 = 0x9000;
pub const CODE: u64 = 0x1_0000;
pub const TABLES: u64 = 0x2_0000;

/// The descriptors that are always there; cases put their own at 100 and above.
#[rustfmt::skip]
const DESCRIPTORS: &[(u64, u64)] = &[
    (0x08, 0x00cf_9b00_0000_ffff), (0x10, 0x00cf_9300_0000_ffff), // level 0, 32 bits
    (0x18, 0x0000_9b01_0000_ffff), (0x20, 0x0000_9300_0000_ffff), // level 0, 16 bits
    (0x28, 0x0000_8b00_3000_010f),                                // the TSS
    (0x38, 0x0000_8200_1800_07ff),                                // the LDT
    (0x48, 0x00cf_fb00_0000_ffff), (0x50, 0x00cf_f300_0000_ffff), // level 3, 32 bits
    (0x58, 0x00af_9b00_0000_ffff), (0x60, 0x00af_fb00_0000_ffff), // levels 0 and 3, 64 bits
    (0x68, 0x0000_fb01_0000_ffff), (0x70, 0x0000_f300_0000_ffff), // level 3, 16 bits
    (0x78, 0x00cf_bb00_0000_ffff), (0x80, 0x00cf_b300_0000_ffff), // level 1
    (0x88, 0x00cf_db00_0000_ffff), (0x90, 0x00cf_d300_0000_ffff), // level 2
    (0x98, 0x00cf_9f00_0000_ffff), (0xa0, 0x00cf_ff00_0000_ffff), // conforming, levels 0 and 3
];

/// A processor mode, by the name that cases give it: `real`, `v86`, `p16`, `p32`, `c32` (compatibility), `l64`, and
/// behind a dot the privilege level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    pub kind: Kind,
    pub cpl: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Real,
    Vm86,
    Protected16,
    Protected32,
    Compatibility,
    Long,
}

impl Mode {
    pub fn parse(name: &str) -> Mode {
        let (kind, level) = name.split_once('.').unwrap_or((name, "0"));
        let kind = match kind {
            "real" => Kind::Real,
            "v86" => Kind::Vm86,
            "p16" => Kind::Protected16,
            "p32" => Kind::Protected32,
            "c32" => Kind::Compatibility,
            "l64" => Kind::Long,
            _ => panic!("{name} is no mode"),
        };
        let cpl = if kind == Kind::Vm86 {
            3
        } else {
            level.parse().expect("a privilege level")
        };
        Mode { kind, cpl }
    }

    pub fn long(self) -> bool {
        matches!(self.kind, Kind::Compatibility | Kind::Long)
    }

    /// Segments are selectors times 16.
    pub fn paragraphs(self) -> bool {
        matches!(self.kind, Kind::Real | Kind::Vm86)
    }

    fn segments(self) -> (u16, u16) {
        match (self.kind, self.cpl) {
            (Kind::Real | Kind::Vm86, _) => (0x1000, 0),
            (Kind::Protected16, 0) => (0x18, 0x20),
            (Kind::Protected16, _) => (0x6b, 0x73),
            (Kind::Long, 0) => (0x58, 0x10),
            (Kind::Long, _) => (0x63, 0x53),
            (_, 0) => (0x08, 0x10),
            (_, 1) => (0x79, 0x81),
            (_, 2) => (0x8a, 0x92),
            (_, _) => (0x4b, 0x53),
        }
    }
}

/// RAM and processor, before or after a case.
#[derive(Clone)]
pub struct Machine {
    pub mode: Mode,
    pub state: State,
    pub ram: Vec<u8>,
}

impl Machine {
    pub fn new(mode: Mode) -> Machine {
        let mut machine = Machine {
            mode,
            state: State::reset(),
            ram: vec![0; RAM],
        };
        machine.lay_out();
        machine.set_up();
        machine
    }

    pub fn put(&mut self, at: u64, bytes: usize, value: u64) {
        let at = at as usize;
        self.ram[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    pub fn get(&self, at: u64, bytes: usize) -> u64 {
        let mut value = [0; 8];
        let at = at as usize;
        value[..bytes].copy_from_slice(&self.ram[at..at + bytes]);
        u64::from_le_bytes(value)
    }

    fn lay_out(&mut self) {
        for &(at, value) in DESCRIPTORS {
            self.put(GDT + at, 8, value);
        }
        self.put(LDT + 8, 8, 0x00cf_9300_0000_ffff);
        self.put(LDT + 0x10, 8, 0x00cf_fb00_0000_ffff);
        for vector in 0..256u64 {
            let handler = HANDLERS + 16 * vector;
            self.put(handler, 1, 0xf4);
            self.put(4 * vector, 4, ((HANDLERS / 16) << 16) | (16 * vector));
            if self.mode.long() {
                self.put(IDT + 16 * vector, 8, 0xee00 << 32 | 0x58 << 16 | handler);
            } else {
                self.put(IDT + 8 * vector, 8, 0xee00 << 32 | 0x08 << 16 | handler);
            }
        }
        let stack = |level: u64| STACKS + 0x1000 * (level + 1);
        if self.mode.long() {
            for level in 0..3 {
                self.put(TSS + 4 + 8 * level, 8, stack(level));
            }
            self.put(TSS + 0x24, 8, stack(0) - 0x200);
        } else {
            for (level, ss) in [(0, 0x10), (1, 0x81), (2, 0x92)] {
                self.put(TSS + 4 + 8 * level, 4, stack(level));
                self.put(TSS + 8 + 8 * level, 4, ss);
            }
        }
        self.put(TSS + 0x66, 2, 0x68);
        self.ram[TSS as usize + 0x68..TSS as usize + 0x110].fill(0xff);
        // 4-level tables: the lowest 2 MiB, user and writable, accessed and dirty.
        self.put(TABLES, 8, (TABLES + 0x1000) | 0x27);
        self.put(TABLES + 0x1000, 8, (TABLES + 0x2000) | 0x27);
        self.put(TABLES + 0x2000, 8, 0xe7);
        // What follows the instruction halts, or faults at outer levels.
        self.ram[CODE as usize..CODE as usize + 0x8000].fill(0xf4);
    }

    fn set_up(&mut self) {
        let mode = self.mode;
        let (cs, data) = mode.segments();
        let s = &mut self.state;
        s.cr0 = cr0::ET | cr0::NE;
        s.gpr[gpr::RDX] = 0;
        s.gpr[gpr::RSP] = STACKS + 0xc00 + 0x1000 * mode.cpl as u64;
        s.flags.set_rflags(2);
        s.activity = activity::RUNNING;
        s.set_rip(if cs & 0xf000 != 0 || mode.kind == Kind::Protected16 {
            0
        } else {
            CODE
        });
        if mode.kind != Kind::Real {
            s.cr0 |= cr0::PE;
            s.gdtr.base = GDT;
            s.gdtr.limit = 0x7ff;
            s.idtr.base = IDT;
            s.idtr.limit = if mode.long() { 0xfff } else { 0x7ff };
            s.cpl = mode.cpl;
        } else {
            s.idtr.limit = 0x3ff;
        }
        if mode.kind == Kind::Vm86 {
            s.flags.set_rflags(0x2_0002);
        }
        if mode.long() {
            s.cr0 |= cr0::PG;
            s.cr3 = TABLES;
            s.cr4 = cr4::PAE;
            s.efer = efer::LME | efer::LMA | efer::SCE;
        }
        if mode.kind != Kind::Real {
            self.load("tr", 0x28);
            self.load("ldtr", 0x38);
        }
        for name in ["es", "ss", "ds", "fs", "gs"] {
            self.load(name, data);
        }
        self.load("cs", cs);
    }

    /// What a segment register holds that was loaded with a selector: by the tables in RAM, or times 16.
    pub fn loaded(&self, name: &str, selector: u16) -> (Segment, u64) {
        if self.mode.paragraphs() && !matches!(name, "tr" | "ldtr") {
            let rights = match (self.mode.kind, name) {
                (Kind::Vm86, _) => 0xf3,
                (_, "cs") => 0x9b,
                _ => 0x93,
            };
            let segment = Segment {
                limit: 0xffff,
                rights,
                selector,
            };
            return (segment, (selector as u64) << 4);
        }
        if selector & 0xfffc == 0 {
            let segment = Segment {
                limit: 0,
                rights: 0,
                selector,
            };
            return (segment, 0);
        }
        let table = if selector & 4 != 0 { LDT } else { GDT };
        let at = table + (selector & 0xfff8) as u64;
        let raw = self.get(at, 8);
        let mut base = raw >> 16 & 0xff_ffff | raw >> 56 << 24;
        let mut limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
        let rights = (raw >> 40) as u16 & 0xf0ff;
        if rights & 0x8000 != 0 {
            limit = limit << 12 | 0xfff;
        }
        if matches!(name, "tr" | "ldtr") && self.mode.long() {
            base |= self.get(at + 8, 8) << 32;
        }
        let segment = Segment {
            limit,
            rights,
            selector,
        };
        (segment, base)
    }

    /// Loads a segment register without any check.
    pub fn load(&mut self, name: &str, selector: u16) {
        let (segment, base) = self.loaded(name, selector);
        match name {
            "tr" => self.state.tr = SystemSegment { base, segment },
            "ldtr" => self.state.ldtr = SystemSegment { base, segment },
            _ => {
                let register = register(name).expect("a segment register");
                self.state.seg[register] = segment;
                self.state.seg_base[register] = base;
            }
        }
    }
}

/// The number of a segment register.
pub fn register(name: &str) -> Option<usize> {
    Some(match name {
        "es" => seg::ES,
        "cs" => seg::CS,
        "ss" => seg::SS,
        "ds" => seg::DS,
        "fs" => seg::FS,
        "gs" => seg::GS,
        _ => return None,
    })
}
