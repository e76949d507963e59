//! What is run, and what came of it: the same for both sides.

use crate::layout::{PAGE, PRESENT};
use crate::segments;

/// Bytes of an XSAVE area with x87, SSE and AVX state in the standard format (SDM volume 1, 13.4).
pub const XSAVE_BYTES: usize = 832;

/// x87, MXCSR, XMM and YMM as XSAVE lays them out.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct VectorState(pub [u8; XSAVE_BYTES]);

impl VectorState {
    /// The state after FNINIT and with MXCSR 1F80h, all registers 0.
    pub fn initial() -> VectorState {
        let mut area = VectorState([0; XSAVE_BYTES]);
        area.set(0, 0x37fu16.to_le_bytes());
        area.set_mxcsr(0x1f80);
        // XSTATE_BV: all three components.
        area.0[512] = 7;
        area
    }

    pub fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }

    pub fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("N bytes")
    }

    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(self.get(24))
    }

    pub fn set_mxcsr(&mut self, mxcsr: u32) {
        self.set(24, mxcsr.to_le_bytes());
    }

    pub fn ymm(&self, n: usize) -> [u64; 4] {
        let word = |at| u64::from_le_bytes(self.get(at));
        [
            word(160 + 16 * n),
            word(168 + 16 * n),
            word(576 + 16 * n),
            word(584 + 16 * n),
        ]
    }

    pub fn set_ymm(&mut self, n: usize, value: [u64; 4]) {
        for (i, word) in value.into_iter().enumerate() {
            let at = [160, 168, 576, 584][i] + 16 * n;
            self.set(at, word.to_le_bytes());
        }
    }

    pub fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.get(at))
    }

    pub fn quad(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    /// ST(n): significand, and sign with exponent.
    pub fn st(&self, n: usize) -> (u64, u16) {
        (self.quad(32 + 16 * n), self.word(40 + 16 * n))
    }

    pub fn set_st(&mut self, n: usize, significand: u64, sign_exponent: u16) {
        self.set(32 + 16 * n, significand.to_le_bytes());
        self.set(40 + 16 * n, (sign_exponent as u64).to_le_bytes());
    }
}

/// What a program sees of a processor.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    pub gpr: [u64; 16],
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    /// ES, SS, DS, FS, GS.
    pub selectors: [u64; 5],
    pub vector: VectorState,
}

/// The window's present pages, in the order of `layout::present`.
pub type Window = [[u8; PAGE]; PRESENT];

/// One experiment.
pub struct Case {
    /// Size of the code segment: 16, 32, 64.
    pub bits: u32,
    /// Bytes to place into the code pages; everything else there is INT3.
    pub code: Vec<(u64, Vec<u8>)>,
    /// Linear address to begin at.
    pub start: u64,
    /// Registers to begin with.
    pub input: Registers,
    /// Which of the prepared windows to begin with.
    pub window: usize,
    /// Bytes to place into the window.
    pub pokes: Vec<(u64, Vec<u8>)>,
    /// Ticks within which the engine must come to an end.
    pub ticks: u64,
    /// The engine runs a tick at a time.
    pub stepped: bool,
    /// The engine forgets its translations first.
    pub cold: bool,
}

impl Case {
    /// The instruction pointer of a linear address.
    pub fn pointer(&self, linear: u64) -> u64 {
        linear - segments::base(segments::code(self.bits))
    }
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It left through the pointer of this number.
    Exit(u64),
    /// An exception. `cr2` is 0 for all but page faults.
    Fault {
        vector: u8,
        code: u64,
        cr2: u64,
        rip: u64,
    },
    /// It neither left nor faulted in its time: RIP then.
    Lost(u64),
}

/// What came of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    pub registers: Registers,
}
