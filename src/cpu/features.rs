//! The features of the processor: one row each, of which the CPUID tables are made, by which instructions are let in,
//! and against which recordings are checked.
//!
//! SDM volume 2, CPUID; AMD APM volume 3, appendix E; the levels are those of the x86-64 psABI. An instruction whose
//! bit is not in the table raises #UD, as on a processor without it; where the encoding then means something else
//! (LZCNT and TZCNT without their prefix, hints) it means that.

#[cfg(test)]
mod tests;

use super::cpuid::{CpuModel, Level, Vendor};
use iced_x86::{Code, CpuidFeature, DecoderOptions, Instruction};

/// An output register of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Eax = 0,
    Ebx = 1,
    Ecx = 2,
    Edx = 3,
}
use Output::{Eax, Ebx, Ecx, Edx};

/// Which tables have a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offered {
    /// All: what kernels and compilers take for granted, and what only kernels see.
    Always,
    /// From the second level on.
    V2,
    /// From the third level on: its own, and what came with processors of that level.
    V3,
    /// All of Intel's.
    Intel,
    /// All of AMD's.
    Amd,
    /// None; recordings may have it.
    Never,
}

/// A feature bit, and the instructions behind it.
struct Feature {
    name: &'static str,
    leaf: u32,
    subleaf: u32,
    output: Output,
    bit: u32,
    offered: Offered,
    instructions: &'static [CpuidFeature],
}

macro_rules! features {
    ($($name:literal $leaf:literal, $subleaf:literal, $output:ident $bit:literal $offered:ident
        [$($instructions:ident)*];)*) => {
        const FEATURES: &[Feature] = &[$(Feature {
            name: $name,
            leaf: $leaf,
            subleaf: $subleaf,
            output: $output,
            bit: $bit,
            offered: Offered::$offered,
            instructions: &[$(CpuidFeature::$instructions),*],
        }),*];
    };
}

features! {
    "FPU" 1, 0, Edx 0 Always [FPU FPU287 FPU387];
    "DE" 1, 0, Edx 2 Always [];
    "PSE" 1, 0, Edx 3 Always [];
    "TSC" 1, 0, Edx 4 Always [];
    "MSR" 1, 0, Edx 5 Always [MSR];
    "PAE" 1, 0, Edx 6 Always [];
    "MCE" 1, 0, Edx 7 Always [];
    "CX8" 1, 0, Edx 8 Always [CX8];
    "APIC" 1, 0, Edx 9 Always [];
    "SEP" 1, 0, Edx 11 Always [SEP];
    "MTRR" 1, 0, Edx 12 Always [];
    "PGE" 1, 0, Edx 13 Always [];
    "MCA" 1, 0, Edx 14 Always [];
    "CMOV" 1, 0, Edx 15 Always [CMOV];
    "PAT" 1, 0, Edx 16 Always [];
    "PSE36" 1, 0, Edx 17 Always [];
    "CLFLUSH" 1, 0, Edx 19 Always [CLFSH];
    "MMX" 1, 0, Edx 23 Always [MMX];
    "FXSR" 1, 0, Edx 24 Always [FXSR];
    "SSE" 1, 0, Edx 25 Always [SSE];
    "SSE2" 1, 0, Edx 26 Always [SSE2];
    "SSE3" 1, 0, Ecx 0 V2 [SSE3];
    "PCLMULQDQ" 1, 0, Ecx 1 V3 [PCLMULQDQ];
    "SSSE3" 1, 0, Ecx 9 V2 [SSSE3];
    "FMA" 1, 0, Ecx 12 V3 [FMA];
    "CMPXCHG16B" 1, 0, Ecx 13 V2 [CMPXCHG16B];
    "PCID" 1, 0, Ecx 17 Always [];
    "SSE4.1" 1, 0, Ecx 19 V2 [SSE4_1];
    "SSE4.2" 1, 0, Ecx 20 V2 [SSE4_2];
    "X2APIC" 1, 0, Ecx 21 Never [];
    "MOVBE" 1, 0, Ecx 22 V3 [MOVBE];
    "POPCNT" 1, 0, Ecx 23 V2 [POPCNT];
    "TSC_DEADLINE" 1, 0, Ecx 24 Always [];
    "AES" 1, 0, Ecx 25 V3 [AES];
    "XSAVE" 1, 0, Ecx 26 V3 [XSAVE];
    "AVX" 1, 0, Ecx 28 V3 [AVX];
    "F16C" 1, 0, Ecx 29 V3 [F16C];
    "RDRAND" 1, 0, Ecx 30 V3 [RDRAND];
    "HYPERVISOR" 1, 0, Ecx 31 Never [];
    "FSGSBASE" 7, 0, Ebx 0 Always [FSGSBASE];
    "TSC_ADJUST" 7, 0, Ebx 1 Intel [];
    "BMI1" 7, 0, Ebx 3 V3 [BMI1];
    "AVX2" 7, 0, Ebx 5 V3 [AVX2];
    "FDP_EXCPTN_ONLY" 7, 0, Ebx 6 Always [];
    "SMEP" 7, 0, Ebx 7 Always [];
    "BMI2" 7, 0, Ebx 8 V3 [BMI2];
    "INVPCID" 7, 0, Ebx 10 Always [INVPCID];
    "ZERO_FCS_FDS" 7, 0, Ebx 13 Always [];
    "RDSEED" 7, 0, Ebx 18 V3 [RDSEED];
    "ADX" 7, 0, Ebx 19 V3 [ADX];
    "SMAP" 7, 0, Ebx 20 Always [SMAP];
    "CLFLUSHOPT" 7, 0, Ebx 23 V3 [CLFLUSHOPT];
    "CLWB" 7, 0, Ebx 24 V3 [CLWB];
    "SHA" 7, 0, Ebx 29 V3 [SHA];
    "UMIP" 7, 0, Ecx 2 Always [];
    "RDPID" 7, 0, Ecx 22 V3 [RDPID];
    "SPEC_CTRL" 7, 0, Edx 26 Intel [];
    "STIBP" 7, 0, Edx 27 Intel [];
    "ARCH_CAPABILITIES" 7, 0, Edx 29 Intel [];
    "SSBD" 7, 0, Edx 31 Intel [];
    "XSAVEOPT" 0xd, 1, Eax 0 V3 [XSAVEOPT];
    "LAHF64" 0x8000_0001, 0, Ecx 0 V2 [];
    "LZCNT" 0x8000_0001, 0, Ecx 5 V3 [LZCNT];
    "PREFETCHW" 0x8000_0001, 0, Ecx 8 Always [];
    "SYSCALL" 0x8000_0001, 0, Edx 11 Always [SYSCALL];
    "NX" 0x8000_0001, 0, Edx 20 Always [];
    "PDPE1GB" 0x8000_0001, 0, Edx 26 Always [];
    "RDTSCP" 0x8000_0001, 0, Edx 27 Always [RDTSCP];
    "LM" 0x8000_0001, 0, Edx 29 Always [X64];
    "INVARIANT_TSC" 0x8000_0007, 0, Edx 8 Always [];
    "AMD_IBPB" 0x8000_0008, 0, Ebx 12 Amd [];
    "AMD_IBRS" 0x8000_0008, 0, Ebx 14 Amd [];
    "AMD_STIBP" 0x8000_0008, 0, Ebx 15 Amd [];
    "AMD_SSBD" 0x8000_0008, 0, Ebx 24 Amd [];
    "AMD_SSB_NO" 0x8000_0008, 0, Ebx 26 Amd [];
    "LFENCE_SERIALIZING" 0x8000_0021, 0, Eax 2 Amd [];
    "NULL_SEL_CLR_BASE" 0x8000_0021, 0, Eax 6 Never [];
    "SRSO_NO" 0x8000_0021, 0, Eax 29 Amd [];
}

/// Registers that are made of feature bits: any other bit in them is a feature that this version lacks.
const REGISTERS: &[(u32, u32, Output)] = &[
    (1, 0, Ecx),
    (1, 0, Edx),
    (7, 0, Ebx),
    (7, 0, Ecx),
    (7, 0, Edx),
    (7, 1, Eax),
    (7, 1, Ebx),
    (7, 1, Ecx),
    (7, 1, Edx),
    (0xd, 1, Eax),
    (0x8000_0001, 0, Ecx),
    (0x8000_0001, 0, Edx),
    (0x8000_0008, 0, Ebx),
    (0x8000_0021, 0, Eax),
];
/// The bits of leaf 1 EDX that AMD repeats in leaf 8000_0001h.
const REPEATED_EDX: u32 = 0x0183_f3ff;
/// CPUID leaf 8000_0021h EAX: a null selector clears a segment's base.
const NULL_CLEARS_BASE: u32 = 1 << 6;

/// What has no bit: instructions that every processor has had for long.
const WITHOUT_BIT: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL8086_ONLY,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::CPUID,
    CpuidFeature::RDPMC,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    // The bit of the counter says whether it may be relied on; every processor of 64 bits executes RDTSC, and Linux
    // does so without asking. Under KVM the bit is hidden.
    CpuidFeature::TSC,
];

/// Instructions whose encodings do nothing where they are not known.
const HINTS: &[Code] = &[
    Code::Endbr32,
    Code::Endbr64,
    Code::Rdsspd_r32,
    Code::Rdsspq_r64,
    Code::Cldemote_m8,
    Code::Prefetch_m8,
    Code::Prefetchw_m8,
    Code::Prefetchwt1_m8,
    Code::Prefetchreserved3_m8,
    Code::Prefetchreserved4_m8,
    Code::Prefetchreserved5_m8,
    Code::Prefetchreserved6_m8,
    Code::Prefetchreserved7_m8,
    Code::Prefetchit0_m8,
    Code::Prefetchit1_m8,
];

/// The bits of a table of a level and a vendor in a register of CPUID.
pub(super) fn offered(level: Level, vendor: Vendor, leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut registers = [0; 4];
    for feature in FEATURES {
        let has = match feature.offered {
            Offered::Always => true,
            Offered::V2 => level >= Level::V2,
            Offered::V3 => level >= Level::V3,
            Offered::Intel => vendor == Vendor::Intel,
            Offered::Amd => vendor == Vendor::Amd,
            Offered::Never => false,
        };
        if has && (feature.leaf, feature.subleaf) == (leaf, subleaf) {
            registers[feature.output as usize] |= 1 << feature.bit;
        }
    }
    if leaf == 0x8000_0001 && vendor == Vendor::Amd {
        registers[Edx as usize] |= offered(level, vendor, 1, 0)[Edx as usize] & REPEATED_EDX;
    }
    registers
}

/// What a table asks for and this version does not have, in words; empty if it has all.
pub fn missing(model: &CpuModel) -> Vec<String> {
    let mut missing = Vec::new();
    let vendor = model.vendor();
    if vendor.is_none() {
        missing.push(format!("the vendor {:?}", model.vendor_text()));
    }
    for &(leaf, subleaf, output) in REGISTERS {
        let mut known: u32 = FEATURES
            .iter()
            .filter(|f| (f.leaf, f.subleaf, f.output) == (leaf, subleaf, output))
            .fold(0, |bits, f| bits | 1 << f.bit);
        if (leaf, output) == (0x8000_0001, Edx) && vendor == Some(Vendor::Amd) {
            known |= REPEATED_EDX;
        }
        let unknown = model.exact(leaf, subleaf)[output as usize] & !known;
        for bit in (0..32).filter(|bit| unknown >> bit & 1 != 0) {
            let register = ["EAX", "EBX", "ECX", "EDX"][output as usize];
            missing.push(format!(
                "CPUID leaf {leaf:X}h.{subleaf} {register} bit {bit}"
            ));
        }
    }
    missing
}

/// What the decoder and the instructions want to know of a table, without looking for it.
#[derive(Clone, Debug)]
pub struct Features {
    /// Bit n: instructions with the n-th [`CpuidFeature`] are there.
    instructions: [u64; 4],
    /// The decoder's options: what encodings mean.
    pub decoder: u32,
    /// AMD's processors: SYSRET, SYSCALL, SYSENTER and SYSEXIT differ.
    pub amd: bool,
    /// Loading a null selector clears the base and limit of FS and GS.
    pub null_clears_base: bool,
    /// CPUID does not tell of the time-stamp counter.
    pub hidden_tsc: bool,
}

impl Features {
    /// Those of a table.
    pub fn of(model: &CpuModel) -> Features {
        let has = |f: &Feature| model.exact(f.leaf, f.subleaf)[f.output as usize] >> f.bit & 1 != 0;
        let mut instructions = [0; 4];
        let present = FEATURES.iter().filter(|f| has(f));
        for &feature in present.flat_map(|f| f.instructions).chain(WITHOUT_BIT) {
            let number = feature as usize;
            instructions[number / 64] |= 1 << (number % 64);
        }
        let named = |name: &str| FEATURES.iter().any(|f| f.name == name && has(f));
        let mut decoder = DecoderOptions::NO_WBNOINVD;
        for (name, option) in [
            ("BMI1", DecoderOptions::NO_MPFX_0FBC),
            ("LZCNT", DecoderOptions::NO_MPFX_0FBD),
            ("LAHF64", DecoderOptions::NO_LAHF_SAHF_64),
        ] {
            if !named(name) {
                decoder |= option;
            }
        }
        let amd = model.vendor() == Some(Vendor::Amd);
        let clears = model.exact(0x8000_0021, 0)[Eax as usize] & NULL_CLEARS_BASE != 0;
        Features {
            instructions,
            decoder,
            amd,
            null_clears_base: !amd || clears,
            hidden_tsc: !named("TSC"),
        }
    }

    /// Whether the processor has an instruction.
    pub fn allow(&self, insn: &Instruction) -> bool {
        let present = |&feature: &CpuidFeature| {
            let number = feature as usize;
            self.instructions[number / 64] >> (number % 64) & 1 != 0
        };
        insn.cpuid_features().iter().all(present) || HINTS.contains(&insn.code())
    }
}
