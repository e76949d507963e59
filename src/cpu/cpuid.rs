//! What CPUID tells the guest: a table that is part of the recording, not of the engine.
//!
//! A bit is set only where the engine has the instruction and its state. The speculation bits of
//! IA32_ARCH_CAPABILITIES say that the processor is immune, which is true: it does not speculate; kernels then
//! leave their workarounds out.
//!
//! SDM volume 2, CPUID.

use serde::{Deserialize, Serialize};

/// One answer of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input, for leaves that look at it.
    pub subleaf: u32,
    /// EAX, EBX, ECX, EDX.
    pub registers: [u32; 4],
}

/// A processor as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuModel {
    /// All leaves.
    pub leaves: Vec<Leaf>,
}

/// IA32_ARCH_CAPABILITIES: RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO,
/// FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
pub const ARCH_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// The crystal of the APIC timer and the TSC, in Hz; the TSC runs 40 times as fast.
pub const CRYSTAL_HZ: u32 = 25_000_000;

/// Bytes of an XSAVE area with all components.
const XSAVE_AREA_MAX: u32 = 832;

mod feature {
    //! Feature bits of leaf 1, leaf 7 and leaf 8000_0001h that are offered.
    pub const LEAF1_EDX: u32 = 1 << 0 // FPU
        | 1 << 2 // DE
        | 1 << 3 // PSE
        | 1 << 4 // TSC
        | 1 << 5 // MSR
        | 1 << 6 // PAE
        | 1 << 7 // MCE
        | 1 << 8 // CX8
        | 1 << 9 // APIC
        | 1 << 11 // SEP
        | 1 << 12 // MTRR
        | 1 << 13 // PGE
        | 1 << 14 // MCA
        | 1 << 15 // CMOV
        | 1 << 16 // PAT
        | 1 << 17 // PSE-36
        | 1 << 19 // CLFLUSH
        | 1 << 23 // MMX
        | 1 << 24 // FXSR
        | 1 << 25 // SSE
        | 1 << 26; // SSE2
    pub const LEAF1_ECX: u32 = 1 << 0 // SSE3
        | 1 << 1 // PCLMULQDQ
        | 1 << 9 // SSSE3
        | 1 << 13 // CMPXCHG16B
        | 1 << 19 // SSE4.1
        | 1 << 20 // SSE4.2
        | 1 << 22 // MOVBE
        | 1 << 23 // POPCNT
        | 1 << 24 // TSC deadline
        | 1 << 25; // AES
    pub const LEAF7_EBX: u32 = 1 << 0 // FSGSBASE
        | 1 << 1 // TSC_ADJUST
        | 1 << 3 // BMI1
        | 1 << 6 // the x87 data pointer changes with exceptions only
        | 1 << 7 // SMEP
        | 1 << 8 // BMI2
        | 1 << 13 // the x87 selectors read as 0
        | 1 << 19 // ADX
        | 1 << 20 // SMAP
        | 1 << 29; // SHA
    pub const LEAF7_EDX: u32 = 1 << 26 // IBRS, IBPB
        | 1 << 27 // STIBP
        | 1 << 29 // ARCH_CAPABILITIES
        | 1 << 31; // SSBD
    pub const AVX_LEAF1_ECX: u32 = 1 << 12 // FMA
        | 1 << 26 // XSAVE
        | 1 << 28 // AVX
        | 1 << 29; // F16C
    pub const AVX_LEAF7_EBX: u32 = 1 << 5; // AVX2
    pub const EXTENDED1_EDX: u32 = 1 << 11 // SYSCALL
        | 1 << 20 // NX
        | 1 << 26 // 1 GiB pages
        | 1 << 27 // RDTSCP
        | 1 << 29; // long mode
    pub const EXTENDED1_ECX: u32 = 1 << 0 // LAHF in 64-bit mode
        | 1 << 5 // LZCNT
        | 1 << 8; // PREFETCHW
}

/// Family 6, model 143, stepping 8.
const SIGNATURE: u32 = 0x0008_06f8;
const BRAND: &[u8; 48] = b"retrovisor x86-64 processor                    \0";

impl CpuModel {
    /// The processor that this version of the engine is.
    pub fn native() -> CpuModel {
        let mut leaves = Vec::new();
        let mut add = |leaf, subleaf, registers| {
            leaves.push(Leaf {
                leaf,
                subleaf,
                registers,
            })
        };
        let text = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        add(0, 0, [0x16, text(b"Genu"), text(b"ntel"), text(b"ineI")]);
        // CLFLUSH lines of 64 bytes, one logical processor, APIC id 0.
        add(
            1,
            0,
            [
                SIGNATURE,
                8 << 8 | 1 << 16,
                feature::LEAF1_ECX,
                feature::LEAF1_EDX,
            ],
        );
        add(2, 0, [0x00ff_ff01, 0, 0, 0]);
        // Caches: 32 KiB data, 32 KiB instructions, 1 MiB unified; 64-byte lines.
        add(4, 0, [0x0000_0121, 7 << 22 | 63, 63, 0]);
        add(4, 1, [0x0000_0122, 7 << 22 | 63, 63, 0]);
        add(4, 2, [0x0000_0143, 15 << 22 | 63, 1023, 0]);
        add(4, 3, [0; 4]);
        // ARAT: the APIC timer never stops.
        add(6, 0, [1 << 2, 0, 0, 0]);
        add(7, 0, [0, feature::LEAF7_EBX, 0, feature::LEAF7_EDX]);
        add(0xb, 0, [0, 1, 1 << 8, 0]);
        add(0xb, 1, [0, 1, 1 | 2 << 8, 0]);
        add(0x15, 0, [1, 40, CRYSTAL_HZ, 0]);
        add(0x16, 0, [1000, 1000, 25, 0]);
        add(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
        add(
            0x8000_0001,
            0,
            [0, 0, feature::EXTENDED1_ECX, feature::EXTENDED1_EDX],
        );
        for n in 0..3 {
            let words: Vec<u32> = BRAND[n * 16..n * 16 + 16].chunks(4).map(text).collect();
            add(
                0x8000_0002 + n as u32,
                0,
                [words[0], words[1], words[2], words[3]],
            );
        }
        add(0x8000_0006, 0, [0, 0, 0x0400_8040, 0]);
        add(0x8000_0007, 0, [0, 0, 0, 1 << 8]);
        let sizes = super::mmu::walk::PHYSICAL_BITS | 48 << 8;
        add(0x8000_0008, 0, [sizes, 0, 0, 0]);
        CpuModel { leaves }
    }

    /// The same with XSAVE, AVX, AVX2, FMA and F16C.
    pub fn with_avx(mut self) -> CpuModel {
        for leaf in &mut self.leaves {
            match (leaf.leaf, leaf.subleaf) {
                (1, _) => leaf.registers[2] |= feature::AVX_LEAF1_ECX,
                (7, 0) => leaf.registers[1] |= feature::AVX_LEAF7_EBX,
                _ => {}
            }
        }
        let mut add = |subleaf, registers| {
            self.leaves.push(Leaf {
                leaf: 0xd,
                subleaf,
                registers,
            })
        };
        // Components x87, SSE, AVX; the size for what XCR0 has now is filled in by the instruction.
        add(0, [7, 0, XSAVE_AREA_MAX, 0]);
        // XSAVEOPT.
        add(1, [1, 0, 0, 0]);
        // The upper halves of YMM: 256 bytes behind the header.
        add(2, [256, 576, 0, 0]);
        self
    }

    /// The answer to a leaf. Unknown ones give 0, but above the highest basic leaf the highest one answers.
    pub fn query(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let find = |leaf: u32, subleaf: u32| {
            self.leaves
                .iter()
                .find(|l| l.leaf == leaf && l.subleaf == subleaf)
                .map(|l| l.registers)
        };
        let has_subleaves = matches!(leaf, 4 | 7 | 0xb | 0xd);
        let known = find(leaf, if has_subleaves { subleaf } else { 0 });
        let highest = self
            .leaves
            .iter()
            .map(|l| l.leaf)
            .filter(|&l| l < 0x8000_0000)
            .max()
            .unwrap_or(0);
        match known {
            Some(registers) => registers,
            // Topology levels that do not exist answer with their number alone.
            None if leaf == 0xb => [0, 0, subleaf & 0xff, 0],
            None if leaf > highest && leaf < 0x8000_0000 => find(highest, 0).unwrap_or([0; 4]),
            None => [0; 4],
        }
    }

    /// Whether a feature bit of leaf 7 EBX is set.
    pub fn leaf7_ebx(&self, bit: u32) -> bool {
        self.query(7, 0)[1] >> bit & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_leaves_answer_as_the_manual_says() {
        let model = CpuModel::native();
        assert_eq!(model.query(0, 7)[0], 0x16);
        assert_eq!(model.query(0x40, 0), model.query(0x16, 0));
        assert_eq!(model.query(0x8000_0030, 0), [0; 4]);
        assert_eq!(model.query(7, 1), [0; 4]);
    }
}
