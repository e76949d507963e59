//! The state of one processor: plain old data, nothing else.
//!
//! All that a processor is made of between two ticks stands in [`State`], so that copying, hashing, comparing and
//! saving it is copying, hashing, comparing and saving bytes: a field cannot be forgotten. What can be derived
//! (TLB, decoded blocks, the pending interrupt) lives in `Cpu` and is rebuilt.
//!
//! Intel SDM volume 1 chapter 3, volume 3 chapter 2.

use super::debug::{pending, shadow};
use super::flags::Flags;
use bytemuck::{Pod, Zeroable};

/// Index of a general register in [`State::gpr`], numbered as instructions encode them.
pub mod gpr {
    #![allow(missing_docs)]
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R11: usize = 11;
    /// Always 0: what an address without base or index adds.
    pub const ZERO: usize = 16;
    /// RIP. While a block runs: where the block starts.
    pub const RIP: usize = 17;
    /// Linear address of a memory operand that was computed the general way; 0 not part of the state.
    pub const ADDRESS: usize = 18;
}

/// Index of a segment register in [`State::seg`], numbered as instructions encode them.
pub mod seg {
    #![allow(missing_docs)]
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
    /// Base always 0: the segment of an address that has none (64-bit mode).
    pub const NONE: usize = 6;
}

/// The hidden part of a segment register but for its base (SDM volume 3, 3.4.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Segment {
    /// Limit in bytes (already scaled by G).
    pub limit: u32,
    /// Bits 40 to 55 of the descriptor: type, S, DPL, P (low byte), AVL, L, D/B, G (bits 12 to 15). 0: unusable.
    pub rights: u16,
    /// The visible selector.
    pub selector: u16,
}

/// Bits of [`Segment::rights`].
pub mod rights {
    #![allow(missing_docs)]
    pub const ACCESSED: u16 = 1 << 0;
    /// Writable (data) or readable (code).
    pub const RW: u16 = 1 << 1;
    /// Expand-down (data) or conforming (code).
    pub const DC: u16 = 1 << 2;
    pub const CODE: u16 = 1 << 3;
    pub const S: u16 = 1 << 4;
    pub const DPL_SHIFT: u16 = 5;
    pub const P: u16 = 1 << 7;
    pub const L: u16 = 1 << 13;
    /// D of a code segment, B of a stack segment.
    pub const DB: u16 = 1 << 14;
    pub const G: u16 = 1 << 15;
}

impl Segment {
    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        ((self.rights >> rights::DPL_SHIFT) & 3) as u8
    }
}

/// GDTR or IDTR.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TableRegister {
    /// Linear address.
    pub base: u64,
    /// Last valid byte.
    pub limit: u64,
}

/// LDTR or TR with its base.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SystemSegment {
    /// Linear address.
    pub base: u64,
    /// Limit, rights, selector.
    pub segment: Segment,
}

/// An 80-bit x87 register.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct F80 {
    /// The significand with its explicit integer bit.
    pub mantissa: u64,
    /// Sign (bit 15) and biased exponent; the upper bits are 0.
    pub sign_exponent: u64,
}

/// The x87 unit (SDM volume 1, chapter 8).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct X87 {
    /// Physical registers R0 to R7 (not ST(i)): ST(i) is `(top + i) & 7`.
    pub r: [F80; 8],
    /// Control word.
    pub control: u16,
    /// Status word, TOP in bits 11 to 13.
    pub status: u16,
    /// Full tag word: two bits a physical register, 3 = empty.
    pub tag: u16,
    /// Last opcode, 11 bits.
    pub opcode: u16,
    /// Last data selector and instruction selector.
    pub data_selector: u16,
    /// Last instruction selector.
    pub code_selector: u16,
    /// Keeps the 64-bit fields aligned.
    pub reserved: u32,
    /// Last instruction pointer.
    pub ip: u64,
    /// Last data pointer.
    pub data: u64,
}

/// A vector register: XMM in words 0 and 1, the upper half of YMM in 2 and 3.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Vector(pub [u64; 4]);

/// What the processor is doing ([`State::activity`]).
pub mod activity {
    /// Executes instructions.
    pub const RUNNING: u8 = 0;
    /// Has executed HLT.
    pub const HALTED: u8 = 1;
    /// Waits for INIT-SIPI (application processors after reset).
    pub const WAIT_FOR_SIPI: u8 = 2;
    /// Has met a triple fault.
    pub const SHUTDOWN: u8 = 3;
}

/// Memory-type range registers: kept, without any effect.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Mtrrs {
    /// IA32_MTRR_PHYSBASE and PHYSMASK pairs.
    pub variable: [u64; 16],
    /// The 11 fixed-range registers in the order of their numbers.
    pub fixed: [u64; 11],
    /// IA32_MTRR_DEF_TYPE.
    pub default_type: u64,
}

/// The whole state of one processor.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct State {
    /// General registers, then slots that addresses are made of (see [`gpr`]).
    pub gpr: [u64; 20],
    /// Arithmetic flags (lazy) and the other bits of RFLAGS.
    pub flags: Flags,
    /// Bases of the segment registers; slot [`seg::NONE`] is always 0.
    pub seg_base: [u64; 8],
    /// The rest of the segment registers.
    pub seg: [Segment; 6],
    /// Aligns the vector registers.
    pub reserved3: [u64; 2],
    /// XMM and YMM.
    pub vector: [Vector; 16],
    /// x87 and MMX.
    pub x87: X87,
    /// SSE control and status.
    pub mxcsr: u32,
    /// IA32_PKRU-like room; 0.
    pub reserved0: u32,
    /// Global descriptor table.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table.
    pub idtr: TableRegister,
    /// Local descriptor table.
    pub ldtr: SystemSegment,
    /// Task register.
    pub tr: SystemSegment,
    /// Control registers.
    pub cr0: u64,
    #[allow(missing_docs)]
    pub cr2: u64,
    #[allow(missing_docs)]
    pub cr3: u64,
    #[allow(missing_docs)]
    pub cr4: u64,
    /// Extended control register 0: what XSAVE covers.
    pub xcr0: u64,
    /// The four page-directory-pointer registers of PAE paging.
    pub pdpte: [u64; 4],
    /// Debug registers; 4 and 5 are unused.
    pub dr: [u64; 8],
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS, ESP, EIP.
    pub sysenter: [u64; 3],
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_TSC_ADJUST: added to what the world says the TSC is.
    pub tsc_adjust: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_SPEC_CTRL: kept, without any effect.
    pub spec_ctrl: u64,
    /// Memory types.
    pub mtrr: Mtrrs,
    /// See [`activity`].
    pub activity: u8,
    /// Current privilege level.
    pub cpl: u8,
    /// What is held off for one instruction: see `cpu::debug::shadow`.
    pub shadow: u8,
    /// An NMI is being handled: further ones wait for IRET.
    pub nmi_blocked: u8,
    /// An NMI waits.
    pub nmi_pending: u8,
    /// Debug traps that wait to be delivered: see `cpu::debug::pending`.
    pub pending_trap: u8,
    /// Keeps the structure free of padding.
    pub reserved1: [u8; 2],
    /// Rest up to a multiple of 32 bytes.
    pub reserved2: [u64; 3],
}

/// CR0 bits.
pub mod cr0 {
    #![allow(missing_docs)]
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits.
pub mod cr4 {
    #![allow(missing_docs)]
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// IA32_EFER bits.
pub mod efer {
    #![allow(missing_docs)]
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

impl State {
    /// The state after power-on or RESET (SDM volume 3, table 10-1), for the bootstrap processor.
    pub fn reset() -> State {
        let mut s = State::zeroed();
        s.gpr[gpr::RIP] = 0xfff0;
        s.gpr[gpr::RDX] = 0x0006_06a0;
        s.flags.set_rflags(2);
        let data = Segment {
            limit: 0xffff,
            rights: 0x93,
            selector: 0,
        };
        s.seg = [data; 6];
        s.seg[seg::CS] = Segment {
            limit: 0xffff,
            rights: 0x9b,
            selector: 0xf000,
        };
        s.seg_base[seg::CS] = 0xffff_0000;
        s.gdtr.limit = 0xffff;
        s.idtr.limit = 0xffff;
        s.ldtr.segment = Segment {
            limit: 0xffff,
            rights: 0x82,
            selector: 0,
        };
        s.tr.segment = Segment {
            limit: 0xffff,
            rights: 0x8b,
            selector: 0,
        };
        s.cr0 = cr0::ET | cr0::NW | cr0::CD;
        s.xcr0 = 1;
        s.dr[6] = 0xffff_0ff0;
        s.dr[7] = 0x400;
        s.x87.control = 0x40;
        s.x87.tag = 0x5555;
        s.mxcsr = 0x1f80;
        s.pat = 0x0007_0406_0007_0406;
        s.misc_enable = 1;
        s
    }

    /// RIP at the boundary of an instruction.
    #[inline(always)]
    pub fn rip(&self) -> u64 {
        self.gpr[gpr::RIP]
    }

    /// Sets RIP.
    #[inline(always)]
    pub fn set_rip(&mut self, rip: u64) {
        self.gpr[gpr::RIP] = rip;
    }

    /// RFLAGS as PUSHFQ would show them.
    pub fn rflags(&self) -> u64 {
        self.flags.rflags()
    }

    /// Whether the processor is in long mode (64-bit or compatibility).
    #[inline(always)]
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// Whether it runs 64-bit code.
    #[inline(always)]
    pub fn code64(&self) -> bool {
        self.long_mode() && self.seg[seg::CS].rights & rights::L != 0
    }

    /// Whether it is in protected mode (with or without paging).
    #[inline(always)]
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// Whether the running task is nested in another (EFLAGS.NT).
    pub fn nt(&self) -> bool {
        self.flags.other() & super::flags::bits::NT != 0
    }

    /// The state with its lazy flags in the one canonical form, so that equal states have equal bytes.
    pub fn canonical(&self) -> State {
        let mut s = *self;
        let rflags = s.flags.rflags();
        s.flags.set_rflags(rflags);
        s.gpr[gpr::ADDRESS] = 0;
        s
    }

    /// Says what is impossible in a state that came from a file, so that nothing derived from it can go wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        match () {
            () if self.cpl > 3 => Err("the privilege level is above 3"),
            () if self.activity > activity::SHUTDOWN => Err("the activity is unknown"),
            () if self.shadow > shadow::STACK => Err("the interrupt shadow is unknown"),
            () if self.pending_trap & !pending::ALL != 0 => Err("the waiting traps are unknown"),
            () if self.cr0 & cr0::PG != 0 && self.cr0 & cr0::PE == 0 => {
                Err("paging is on without protection")
            }
            () => Ok(()),
        }
    }

    /// The mode in words, as a user would say it.
    pub fn mode_name(&self) -> &'static str {
        let cs = &self.seg[seg::CS];
        if !self.protected() {
            "real"
        } else if self.flags.vm86() {
            "virtual-8086"
        } else if self.code64() {
            "64-bit"
        } else if self.long_mode() {
            "compatibility"
        } else if cs.rights & rights::DB != 0 {
            "protected 32-bit"
        } else {
            "protected 16-bit"
        }
    }
}
