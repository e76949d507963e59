//! What CPUID tells the guest: a table that is part of the recording, not of the engine.
//!
//! A bit is set only where the engine has the instruction and its state: see `features.rs`. The speculation bits of
//! IA32_ARCH_CAPABILITIES say that the processor is immune, which is true: it does not speculate; kernels then
//! leave their workarounds out.
//!
//! SDM volume 2, CPUID.

use super::features;
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

/// Family 6, model 143, stepping 8.
const SIGNATURE_INTEL: u32 = 0x0008_06f8;
/// Family 26, model 68, stepping 0.
const SIGNATURE_AMD: u32 = 0x00b4_0f40;
const BRAND: &[u8; 48] = b"retrovisor x86-64 processor                    \0";

/// How much of the instruction set there is: the levels of the x86-64 psABI. What only kernels see is in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// SSE2.
    V1,
    /// SSE4.2, POPCNT, CMPXCHG16B.
    V2,
    /// AVX2, BMI, FMA, F16C, LZCNT, MOVBE, XSAVE; and AES, PCLMULQDQ, SHA, ADX, RDRAND, RDSEED, RDPID, CLFLUSHOPT,
    /// CLWB.
    V3,
}

impl Level {
    /// Its name in the psABI.
    pub fn name(self) -> &'static str {
        match self {
            Level::V1 => "x86-64-v1",
            Level::V2 => "x86-64-v2",
            Level::V3 => "x86-64-v3",
        }
    }
}

/// Whose processors it behaves like where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
}

impl Vendor {
    /// As CPUID leaf 0 spells it.
    pub fn name(self) -> &'static str {
        match self {
            Vendor::Intel => "GenuineIntel",
            Vendor::Amd => "AuthenticAMD",
        }
    }
}

/// Which processor a machine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// How much of the instruction set it has.
    pub level: Level,
    /// Whose it is.
    pub vendor: Vendor,
}

impl Default for Processor {
    fn default() -> Processor {
        Processor {
            level: Level::V3,
            vendor: Vendor::Intel,
        }
    }
}

fn word(text: &[u8], n: usize) -> u32 {
    u32::from_le_bytes([
        text[4 * n],
        text[4 * n + 1],
        text[4 * n + 2],
        text[4 * n + 3],
    ])
}

/// A table while it is made.
struct Table {
    level: Level,
    vendor: Vendor,
    leaves: Vec<Leaf>,
}

impl Table {
    /// Adds a row: what is given, and the feature bits of its registers.
    fn add(&mut self, leaf: u32, subleaf: u32, registers: [u32; 4]) {
        let bits = features::offered(self.level, self.vendor, leaf, subleaf);
        let registers = std::array::from_fn(|n| registers[n] | bits[n]);
        self.leaves.push(Leaf {
            leaf,
            subleaf,
            registers,
        });
    }

    /// The vendor and the highest leaf, at the start of the basic leaves and (AMD) of the extended ones.
    fn add_vendor(&mut self, leaf: u32, highest: u32) {
        let name = self.vendor.name().as_bytes();
        self.add(
            leaf,
            0,
            [highest, word(name, 0), word(name, 2), word(name, 1)],
        );
    }

    fn add_xsave(&mut self) {
        if self.level < Level::V3 {
            return;
        }
        // Components x87, SSE, AVX; the size for what XCR0 has now is filled in by the instruction.
        self.add(0xd, 0, [7, 0, XSAVE_AREA_MAX, 0]);
        self.add(0xd, 1, [0; 4]);
        // The upper halves of YMM: 256 bytes behind the header.
        self.add(0xd, 2, [256, 576, 0, 0]);
    }

    /// One logical processor with APIC id 0.
    fn add_topology(&mut self) {
        self.add(0xb, 0, [0, 1, 1 << 8, 0]);
        self.add(0xb, 1, [0, 1, 1 | 2 << 8, 0]);
    }

    fn add_brand(&mut self) {
        for n in 0..3 {
            let words = &BRAND[16 * n..16 * n + 16];
            let registers = std::array::from_fn(|k| word(words, k));
            self.add(0x8000_0002 + n as u32, 0, registers);
        }
    }

    fn add_intel(&mut self) {
        self.add_vendor(0, 0x16);
        // CLFLUSH lines of 64 bytes, one logical processor, APIC id 0.
        self.add(1, 0, [SIGNATURE_INTEL, 8 << 8 | 1 << 16, 0, 0]);
        self.add(2, 0, [0x00ff_ff01, 0, 0, 0]);
        // Caches: 32 KiB data, 32 KiB instructions, 1 MiB unified; 64-byte lines.
        self.add(4, 0, [0x0000_0121, 7 << 22 | 63, 63, 0]);
        self.add(4, 1, [0x0000_0122, 7 << 22 | 63, 63, 0]);
        self.add(4, 2, [0x0000_0143, 15 << 22 | 63, 1023, 0]);
        self.add(4, 3, [0; 4]);
        // ARAT: the APIC timer never stops.
        self.add(6, 0, [1 << 2, 0, 0, 0]);
        self.add(7, 0, [0; 4]);
        self.add_topology();
        self.add_xsave();
        self.add(0x15, 0, [1, 40, CRYSTAL_HZ, 0]);
        self.add(0x16, 0, [1000, 1000, 25, 0]);
        self.add(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
        self.add(0x8000_0001, 0, [0; 4]);
        self.add_brand();
        self.add(0x8000_0006, 0, [0, 0, 0x0400_8040, 0]);
        self.add(0x8000_0007, 0, [0; 4]);
        self.add(0x8000_0008, 0, [ADDRESS_SIZES, 0, 0, 0]);
    }

    fn add_amd(&mut self) {
        self.add_vendor(0, 0xd);
        self.add(1, 0, [SIGNATURE_AMD, 8 << 8 | 1 << 16, 0, 0]);
        self.add(6, 0, [1 << 2, 0, 0, 0]);
        self.add(7, 0, [0; 4]);
        self.add_topology();
        self.add_xsave();
        self.add_vendor(0x8000_0000, 0x8000_0021);
        self.add(0x8000_0001, 0, [SIGNATURE_AMD, 0, 0, 0]);
        self.add_brand();
        // Caches as above; what was the TLB's is 0.
        self.add(0x8000_0005, 0, [0, 0, 0x2008_0140, 0x2008_0140]);
        self.add(0x8000_0006, 0, [0, 0, 0x0400_8140, 0]);
        self.add(0x8000_0007, 0, [0; 4]);
        // One core.
        self.add(0x8000_0008, 0, [ADDRESS_SIZES, 0, 0, 0]);
        // Extended APIC id, core and node: all 0, one thread a core.
        self.add(0x8000_001e, 0, [0; 4]);
        self.add(0x8000_0021, 0, [0; 4]);
    }
}

/// Widths of physical and linear addresses.
const ADDRESS_SIZES: u32 = super::mmu::walk::PHYSICAL_BITS | 48 << 8;

impl CpuModel {
    /// The table of a processor.
    pub fn new(processor: Processor) -> CpuModel {
        let Processor { level, vendor } = processor;
        let mut table = Table {
            level,
            vendor,
            leaves: Vec::new(),
        };
        match vendor {
            Vendor::Intel => table.add_intel(),
            Vendor::Amd => table.add_amd(),
        }
        CpuModel {
            leaves: table.leaves,
        }
    }

    /// All that this version of the engine has, on a processor of Intel's.
    pub fn native() -> CpuModel {
        CpuModel::new(Processor::default())
    }

    /// The vendor as leaf 0 spells it.
    pub fn vendor_text(&self) -> String {
        let [_, b, c, d] = self.exact(0, 0);
        let bytes = [b, d, c].map(u32::to_le_bytes).concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The vendor, if it is one that the engine knows.
    pub fn vendor(&self) -> Option<Vendor> {
        let text = self.vendor_text();
        [Vendor::Intel, Vendor::Amd]
            .into_iter()
            .find(|vendor| vendor.name() == text)
    }

    /// A row; zeros where there is none.
    pub fn exact(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let same = |l: &&Leaf| (l.leaf, l.subleaf) == (leaf, subleaf);
        self.leaves
            .iter()
            .find(same)
            .map_or([0; 4], |l| l.registers)
    }

    /// The answer to a leaf. Unknown ones give 0, but Intel's processors answer to basic leaves above the highest with
    /// that one.
    pub fn query(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let find = |leaf: u32, subleaf: u32| {
            self.leaves
                .iter()
                .find(|l| l.leaf == leaf && l.subleaf == subleaf)
                .map(|l| l.registers)
        };
        let has_subleaves = matches!(leaf, 4 | 7 | 0xb | 0xd | 0x8000_001d);
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
            None if leaf > highest && leaf < 0x8000_0000 && self.vendor() != Some(Vendor::Amd) => {
                find(highest, 0).unwrap_or([0; 4])
            }
            None => [0; 4],
        }
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
