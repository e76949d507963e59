//! Code: random bytes, instructions that exist, and mutations of what ran well before.

use fastrand::Rng;
use iced_x86::{Code, Decoder, DecoderOptions, EncodingKind, MandatoryPrefix, OpCodeTableKind};

/// Bytes of a program.
const BYTES: usize = 600;
/// Programs kept for each code size.
const KEPT: usize = 200;

/// What programs are made of.
pub struct Programs {
    forms: Vec<Code>,
    /// For 16, 32 and 64 bits.
    kept: [Vec<Vec<u8>>; 3],
}

impl Programs {
    pub fn new() -> Programs {
        Programs {
            forms: Code::values()
                .filter(|code| {
                    code.op_code().is_instruction()
                        && matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
                })
                .collect(),
            kept: [vec![], vec![], vec![]],
        }
    }

    /// Remembers a program to be mutated.
    pub fn keep(&mut self, rng: &mut Rng, bits: u32, program: Vec<u8>) {
        let kept = &mut self.kept[bits as usize / 32];
        if kept.len() < KEPT {
            kept.push(program);
        } else if rng.u8(0..8) == 0 {
            kept[rng.usize(0..KEPT)] = program;
        }
    }

    /// A program.
    pub fn make(&self, rng: &mut Rng, bits: u32) -> Vec<u8> {
        let kept = &self.kept[bits as usize / 32];
        match rng.u8(0..10) {
            0 => (0..BYTES).map(|_| rng.u8(..)).collect(),
            1..=3 if !kept.is_empty() => mutated(rng, kept),
            _ => {
                let mut out = Vec::new();
                while out.len() < BYTES {
                    out.extend(self.instruction(rng, bits));
                }
                out
            }
        }
    }

    /// The bytes of an instruction that some processor has, mostly.
    fn instruction(&self, rng: &mut Rng, bits: u32) -> Vec<u8> {
        let code = self.forms[rng.usize(0..self.forms.len())];
        let info = code.op_code();
        let mut bytes = Vec::new();
        for prefix in [
            0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65,
        ] {
            if rng.u8(0..24) == 0 {
                bytes.push(prefix);
            }
        }
        let map = match info.table() {
            OpCodeTableKind::Normal => 0,
            OpCodeTableKind::T0F => 1,
            OpCodeTableKind::T0F38 => 2,
            _ => 3,
        };
        let mandatory = match info.mandatory_prefix() {
            MandatoryPrefix::P66 => 1,
            MandatoryPrefix::PF3 => 2,
            MandatoryPrefix::PF2 => 3,
            _ => 0,
        };
        if code.encoding() == EncodingKind::VEX {
            let upper = if bits == 64 { rng.u8(..) & 0xe0 } else { 0xe0 };
            let third = rng.u8(..) & 0xfc | mandatory;
            bytes.extend([0xc4, upper | map, third]);
        } else {
            if mandatory > 0 {
                bytes.push([0x66, 0xf3, 0xf2][mandatory as usize - 1]);
            }
            if bits == 64 && rng.u8(0..3) == 0 {
                bytes.push(0x40 | rng.u8(0..16));
            }
            bytes.extend_from_slice([&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]][map as usize]);
        }
        let opcode = info.op_code();
        if info.op_code_len() == 2 {
            bytes.push((opcode >> 8) as u8);
        }
        bytes.push(opcode as u8);
        if info.op_code_len() < 2 {
            let mut modrm = rng.u8(..);
            if info.group_index() >= 0 {
                modrm = modrm & 0xc7 | (info.group_index() as u8) << 3;
            }
            bytes.push(modrm);
        }
        // Small displacements and immediates, mostly.
        for n in 0..12 {
            let byte = rng.u8(..);
            bytes.push(if n % 4 < 2 || rng.u8(0..3) == 0 {
                byte
            } else {
                0
            });
        }
        bytes.truncate(15);
        let length = Decoder::new(bits, &bytes, DecoderOptions::NONE)
            .decode()
            .len();
        bytes.truncate(length.max(1));
        bytes
    }
}

fn mutated(rng: &mut Rng, kept: &[Vec<u8>]) -> Vec<u8> {
    let mut out = kept[rng.usize(0..kept.len())].clone();
    for _ in 0..rng.usize(1..12) {
        let at = rng.usize(0..out.len());
        match rng.u8(0..4) {
            0 => out[at] = rng.u8(..),
            1 => out[at] ^= 1 << rng.u8(0..8),
            2 => {
                out.remove(at);
                out.push(0x90);
            }
            _ => {
                let other = &kept[rng.usize(0..kept.len())];
                let from = rng.usize(0..other.len());
                let length = rng.usize(1..40).min(other.len() - from).min(out.len() - at);
                out[at..at + length].copy_from_slice(&other[from..from + length]);
            }
        }
    }
    out
}
