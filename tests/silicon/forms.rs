//! Which instruction forms there are, which of them are compared, and why the others are not.

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic};

/// What becomes of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Run on both sides and compared.
    Compare,
    /// Intel's processors do not have it in this mode.
    OtherMode,
    /// Not compared; the reason.
    Excluded(&'static str),
    /// It belongs to a feature that x86-64-v3 does not contain.
    BeyondLevel(CpuidFeature),
    /// The host does not have the feature.
    HostLacks(CpuidFeature),
}

/// Whether the host has a feature that the engine may have; `None` for features beyond x86-64-v3.
fn host_has(feature: CpuidFeature) -> Option<bool> {
    use CpuidFeature::*;
    use std::is_x86_feature_detected as detected;
    Some(match feature {
        INTEL8086 | INTEL186 | INTEL286 | INTEL386 | INTEL486 | X64 | CPUID | CMOV | FPU
        | FPU287 | FPU387 | FPU287XL_ONLY | FPU387SL_ONLY | MULTIBYTENOP | PAUSE | RDPMC | MSR
        | TSC | CX8 | SYSCALL | SEP | CLFSH | PREFETCHW | PREFETCHWT1 | PREFETCHITI | FSGSBASE
        | SMAP | IA64 => true,
        MMX => detected!("mmx"),
        SSE => detected!("sse"),
        SSE2 => detected!("sse2"),
        SSE3 => detected!("sse3"),
        SSSE3 => detected!("ssse3"),
        SSE4_1 => detected!("sse4.1"),
        SSE4_2 => detected!("sse4.2"),
        AVX => detected!("avx"),
        AVX2 => detected!("avx2"),
        FMA => detected!("fma"),
        F16C => detected!("f16c"),
        BMI1 => detected!("bmi1"),
        BMI2 => detected!("bmi2"),
        ADX => detected!("adx"),
        LZCNT => detected!("lzcnt"),
        POPCNT => detected!("popcnt"),
        MOVBE => detected!("movbe"),
        CMPXCHG16B => detected!("cmpxchg16b"),
        AES => detected!("aes"),
        PCLMULQDQ => detected!("pclmulqdq"),
        SHA => detected!("sha"),
        FXSR => detected!("fxsr"),
        XSAVE => detected!("xsave"),
        XSAVEOPT => detected!("xsaveopt"),
        RDRAND => detected!("rdrand"),
        RDSEED => detected!("rdseed"),
        // CPUID leaf 7.
        CLWB => std::arch::x86_64::__cpuid_count(7, 0).ebx >> 24 & 1 != 0,
        CLFLUSHOPT | RDTSCP | RDPID | INVPCID | CET_IBT => true,
        // Hints, and what does nothing or is undefined while shadow stacks are off.
        CLDEMOTE | CET_SS => true,
        _ => return None,
    })
}

/// Forms that are not compared although both sides have them.
fn excluded(code: Code) -> Option<&'static str> {
    let info = code.op_code();
    if matches!(
        code,
        Code::Retfw
            | Code::Retfd
            | Code::Retfq
            | Code::Retfw_imm16
            | Code::Retfd_imm16
            | Code::Retfq_imm16
            | Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
            | Code::Jmp_ptr1616
            | Code::Jmp_ptr1632
            | Code::Call_ptr1616
            | Code::Call_ptr1632
    ) {
        return Some("far transfer: depends on the kernel's descriptor tables");
    }
    if info.fwait() {
        return Some("WAIT and another instruction, which are compared each");
    }
    Some(match code.mnemonic() {
        Mnemonic::Cpuid | Mnemonic::Xgetbv => "tells one processor from another",
        Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdpmc => "reads a clock or a counter",
        Mnemonic::Rdrand | Mnemonic::Rdseed => "random",
        Mnemonic::F2xm1
        | Mnemonic::Fyl2x
        | Mnemonic::Fyl2xp1
        | Mnemonic::Fpatan
        | Mnemonic::Fptan
        | Mnemonic::Fsin
        | Mnemonic::Fcos
        | Mnemonic::Fsincos => {
            "transcendental: differs between processors, defined by the engine (docs/undefined.md); its own tests \
             hold it within a unit of the host's"
        }
        Mnemonic::Finit
        | Mnemonic::Fclex
        | Mnemonic::Fstcw
        | Mnemonic::Fstsw
        | Mnemonic::Fstenv
        | Mnemonic::Fsave
        | Mnemonic::Feni
        | Mnemonic::Fdisi
        | Mnemonic::Fsetpm => "two instructions: WAIT, and the form without it, both compared",
        Mnemonic::Rdpid => "reads the number of the host's processor",
        Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Int => "enters the kernel",
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
            "far transfer: depends on the kernel's descriptor tables"
        }
        Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw => {
            "the host's kernel emulates it (UMIP)"
        }
        Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64 => {
            "may leave out what the processor knows to be unchanged"
        }
        _ => return None,
    })
}

/// What becomes of a form.
pub fn fate(code: Code, bits: u32) -> Fate {
    let info = code.op_code();
    let decoded = match bits {
        16 => info.intel_decoder16(),
        32 => info.intel_decoder32(),
        _ => info.intel_decoder64(),
    };
    if !info.is_instruction() || !decoded || info.decoder_option() != 0 {
        return Fate::OtherMode;
    }
    let features = code.cpuid_features();
    let level = |feature: &&CpuidFeature| host_has(**feature).is_none();
    if let Some(feature) = features.iter().find(level) {
        return Fate::BeyondLevel(*feature);
    }
    if !matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return Fate::BeyondLevel(features[0]);
    }
    if let Some(why) = excluded(code) {
        return Fate::Excluded(why);
    }
    let lacks = |feature: &&CpuidFeature| host_has(**feature) == Some(false);
    match features.iter().find(lacks) {
        Some(feature) => Fate::HostLacks(*feature),
        None => Fate::Compare,
    }
}
