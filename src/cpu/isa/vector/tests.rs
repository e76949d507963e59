//! Every instruction form runs on the host and in the engine, on the same operands: all that it can change is compared.
//!
//! The code is assembled into the test itself; its bytes are taken from between two labels.

use crate::cpu::testing::{DATA, Numbers, execute, long_mode};
use crate::cpu::{Cpu, state::gpr};

/// What an instruction finds and leaves: `rdx` holds the address of `memory`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Registers {
    /// Vector registers 0 to 3.
    vector: [[u64; 4]; 4],
    /// MMX registers 0 and 1.
    mm: [u64; 2],
    /// RAX and RCX.
    rax: u64,
    rcx: u64,
    memory: [u64; 8],
    flags: u64,
    mxcsr: u32,
    /// The length of the instruction, as found by the host.
    length: u32,
    code: u64,
}

/// Flags that the instructions here define: all arithmetic ones.
const FLAGS: u64 = 0x8d5;

/// Host code of an instruction between loading and storing all registers. `$load` and `$store` move vector registers.
macro_rules! native {
    ($text:literal, $load:literal, $store:literal) => {
        |registers: &mut Registers| {
            // SAFETY: all registers used are declared, the memory accessed belongs to `registers`, and MXCSR has its
            // default control bits afterwards.
            unsafe {
                std::arch::asm!(
                    concat!($load, "0, [rdi]"),
                    concat!($load, "1, [rdi + 32]"),
                    concat!($load, "2, [rdi + 64]"),
                    concat!($load, "3, [rdi + 96]"),
                    "movq mm0, [rdi + 128]",
                    "movq mm1, [rdi + 136]",
                    "mov rax, [rdi + 144]",
                    "mov rcx, [rdi + 152]",
                    "lea rdx, [rdi + 160]",
                    "ldmxcsr [rdi + 232]",
                    "push qword ptr [rdi + 224]",
                    "popfq",
                    "2:",
                    $text,
                    "3:",
                    "pushfq",
                    "pop qword ptr [rdi + 224]",
                    "stmxcsr [rdi + 232]",
                    "ldmxcsr [rsi]",
                    "mov [rdi + 144], rax",
                    "mov [rdi + 152], rcx",
                    "movq [rdi + 128], mm0",
                    "movq [rdi + 136], mm1",
                    "emms",
                    concat!($store, " [rdi], ", "xmm0"),
                    concat!($store, " [rdi + 32], ", "xmm1"),
                    concat!($store, " [rdi + 64], ", "xmm2"),
                    concat!($store, " [rdi + 96], ", "xmm3"),
                    "lea rax, [rip + 2b]",
                    "lea rcx, [rip + 3b]",
                    "mov [rdi + 240], rax",
                    "sub rcx, rax",
                    "mov [rdi + 236], ecx",
                    in("rdi") registers,
                    in("rsi") &super::float::DEFAULT,
                    out("rax") _, out("rcx") _, out("rdx") _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
                    out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
        }
    };
}

type Native = fn(&mut Registers);

/// Legacy instructions: `(text, code)` pairs.
macro_rules! legacy {
    ($($text:literal)*) => {
        [$(($text, native!($text, "movups xmm", "movups") as Native)),*]
    };
}

/// Loads registers into the engine's processor.
fn put(cpu: &mut Cpu, registers: &Registers) {
    for n in 0..4 {
        cpu.state.vector[n].0 = registers.vector[n];
    }
    for n in 0..2 {
        cpu.set_mm(n, registers.mm[n as usize]);
    }
    cpu.state.gpr[gpr::RAX] = registers.rax;
    cpu.state.gpr[gpr::RCX] = registers.rcx;
    cpu.state.gpr[gpr::RDX] = DATA;
    cpu.state.flags.set_rflags(registers.flags);
    cpu.state.mxcsr = registers.mxcsr;
    cpu.memory
        .write(DATA, bytemuck::cast_slice(&registers.memory));
}

fn get(cpu: &Cpu, registers: &mut Registers) {
    for n in 0..4 {
        registers.vector[n] = cpu.state.vector[n].0;
    }
    for n in 0..2 {
        registers.mm[n as usize] = cpu.mm(n);
    }
    registers.rax = cpu.state.gpr[gpr::RAX];
    registers.rcx = cpu.state.gpr[gpr::RCX];
    registers.flags = cpu.state.rflags() & FLAGS;
    registers.mxcsr = cpu.state.mxcsr;
    cpu.memory
        .read(DATA, bytemuck::cast_slice_mut(&mut registers.memory));
}

/// Words that make instructions show themselves: special numbers of both formats, small integers, noise.
fn word(numbers: &mut Numbers) -> u64 {
    const DOUBLES: [u64; 24] = [
        0,
        1 << 63,
        0x3ff0_0000_0000_0000,
        0xbff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
        0x7ff8_0000_0000_1234,
        0xfff0_0000_0000_0001,
        1,
        0x800f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x4009_21fb_5444_2d18,
        0xc1e0_0000_0020_0000,
        0x41df_ffff_ffc0_0000,
        0x43e0_0000_0000_0000,
        0x3690_0000_0000_0000,
        0x47ef_ffff_f000_0000,
        0x3800_0000_1000_0000,
        0x3fe0_0000_0000_0000,
        0x4004_0000_0000_0000,
        0x380f_ffff_f000_0000,
        0x3fd5_5555_5555_5555,
        0x0018_0000_0000_0000,
    ];
    const SINGLES: [u32; 20] = [
        0,
        1 << 31,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_1234,
        0xff80_0001,
        1,
        0x807f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x4049_0fdb,
        0xcf00_0000,
        0x4eff_ffff,
        0x5f00_0000,
        0x3f00_0000,
        0x4020_0000,
        0x1fc0_0000,
        0x5f80_0001,
    ];
    let choice = numbers.next();
    let mut single = || SINGLES[(numbers.next() % 20) as usize] as u64;
    match choice % 8 {
        0 | 1 => DOUBLES[(choice >> 8) as usize % 24],
        2 | 3 => single() << 32 | single(),
        4 => choice >> 8 & 0x1f,
        5 => (choice >> 16 & 0x00ff_00ff_00ff_00ff) | choice & 0x8000_8000_8000_8000,
        // Doubles and singles of moderate size.
        6 => choice & 0x800f_ffff_ffff_ffff | (0x3f0 + (choice >> 52 & 0x1f)) << 52,
        _ => choice,
    }
}

fn operands(numbers: &mut Numbers) -> Registers {
    // All masked in most cases; rounding, FTZ and DAZ in all combinations.
    const CONTROLS: [u32; 8] = [
        0x1f80, 0x1f80, 0x1f80, 0x3f80, 0x5f80, 0x7f80, 0x9fc0, 0xffc0,
    ];
    let mut registers = Registers {
        vector: [[0; 4]; 4].map(|v| v.map(|_| word(numbers))),
        mm: [word(numbers), word(numbers)],
        rax: word(numbers),
        rcx: word(numbers),
        memory: [0; 8].map(|_| word(numbers)),
        flags: numbers.next() & FLAGS | 2,
        mxcsr: CONTROLS[(numbers.next() % 8) as usize],
        length: 0,
        code: 0,
    };
    if numbers.next() % 4 == 0 {
        registers.vector[1] = registers.vector[0];
    }
    registers
}

/// Runs both and compares. `upper`: whether the host has stored upper halves, too.
fn compare(cases: &[(&str, Native)], rounds: usize, upper: bool) {
    let mut cpu = long_mode();
    let mut numbers = Numbers(1);
    for (text, native) in cases {
        if is_approximation(text) && !host_is_intel() {
            continue;
        }
        for _ in 0..rounds {
            let before = operands(&mut numbers);
            let mut want = before;
            native(&mut want);
            want.flags &= FLAGS;
            // SAFETY: the host has told where the instruction stands.
            let code =
                unsafe { std::slice::from_raw_parts(want.code as *const u8, want.length as usize) };
            put(&mut cpu, &before);
            let fault = execute(&mut cpu, code);
            assert_eq!(fault, None, "{text} ({code:02x?}) on {before:x?}");
            let mut got = want;
            get(&cpu, &mut got);
            if !upper {
                for n in 0..4 {
                    want.vector[n][2..].copy_from_slice(&before.vector[n][2..]);
                }
            }
            assert!(
                got == want,
                "{text} ({code:02x?})\non   {before:x?}\ngot  {got:x?}\nwant {want:x?}"
            );
        }
    }
}

#[test]
fn sse2_and_mmx_do_what_the_host_does() {
    let cases = legacy! {
        "addps xmm0, xmm1"
        "addps xmm0, xmmword ptr [rdx + 16]"
        "addpd xmm0, xmm1"
        "addpd xmm0, xmmword ptr [rdx + 16]"
        "subps xmm0, xmm1"
        "subps xmm0, xmmword ptr [rdx + 16]"
        "subpd xmm0, xmm1"
        "subpd xmm0, xmmword ptr [rdx + 16]"
        "mulps xmm0, xmm1"
        "mulps xmm0, xmmword ptr [rdx + 16]"
        "mulpd xmm0, xmm1"
        "mulpd xmm0, xmmword ptr [rdx + 16]"
        "divps xmm0, xmm1"
        "divps xmm0, xmmword ptr [rdx + 16]"
        "divpd xmm0, xmm1"
        "divpd xmm0, xmmword ptr [rdx + 16]"
        "minps xmm0, xmm1"
        "minps xmm0, xmmword ptr [rdx + 16]"
        "minpd xmm0, xmm1"
        "minpd xmm0, xmmword ptr [rdx + 16]"
        "maxps xmm0, xmm1"
        "maxps xmm0, xmmword ptr [rdx + 16]"
        "maxpd xmm0, xmm1"
        "maxpd xmm0, xmmword ptr [rdx + 16]"
        "sqrtps xmm0, xmm1"
        "sqrtps xmm0, xmmword ptr [rdx + 16]"
        "sqrtpd xmm0, xmm1"
        "sqrtpd xmm0, xmmword ptr [rdx + 16]"
        "andps xmm0, xmm1"
        "andps xmm0, xmmword ptr [rdx + 16]"
        "andpd xmm0, xmm1"
        "andpd xmm0, xmmword ptr [rdx + 16]"
        "andnps xmm0, xmm1"
        "andnps xmm0, xmmword ptr [rdx + 16]"
        "andnpd xmm0, xmm1"
        "andnpd xmm0, xmmword ptr [rdx + 16]"
        "orps xmm0, xmm1"
        "orps xmm0, xmmword ptr [rdx + 16]"
        "orpd xmm0, xmm1"
        "orpd xmm0, xmmword ptr [rdx + 16]"
        "xorps xmm0, xmm1"
        "xorps xmm0, xmmword ptr [rdx + 16]"
        "xorpd xmm0, xmm1"
        "xorpd xmm0, xmmword ptr [rdx + 16]"
        "unpcklps xmm0, xmm1"
        "unpcklps xmm0, xmmword ptr [rdx + 16]"
        "unpcklpd xmm0, xmm1"
        "unpcklpd xmm0, xmmword ptr [rdx + 16]"
        "unpckhps xmm0, xmm1"
        "unpckhps xmm0, xmmword ptr [rdx + 16]"
        "unpckhpd xmm0, xmm1"
        "unpckhpd xmm0, xmmword ptr [rdx + 16]"
        "paddb xmm0, xmm1"
        "paddb xmm0, xmmword ptr [rdx + 16]"
        "paddw xmm0, xmm1"
        "paddw xmm0, xmmword ptr [rdx + 16]"
        "paddd xmm0, xmm1"
        "paddd xmm0, xmmword ptr [rdx + 16]"
        "paddq xmm0, xmm1"
        "paddq xmm0, xmmword ptr [rdx + 16]"
        "psubb xmm0, xmm1"
        "psubb xmm0, xmmword ptr [rdx + 16]"
        "psubw xmm0, xmm1"
        "psubw xmm0, xmmword ptr [rdx + 16]"
        "psubd xmm0, xmm1"
        "psubd xmm0, xmmword ptr [rdx + 16]"
        "psubq xmm0, xmm1"
        "psubq xmm0, xmmword ptr [rdx + 16]"
        "paddsb xmm0, xmm1"
        "paddsb xmm0, xmmword ptr [rdx + 16]"
        "paddsw xmm0, xmm1"
        "paddsw xmm0, xmmword ptr [rdx + 16]"
        "paddusb xmm0, xmm1"
        "paddusb xmm0, xmmword ptr [rdx + 16]"
        "paddusw xmm0, xmm1"
        "paddusw xmm0, xmmword ptr [rdx + 16]"
        "psubsb xmm0, xmm1"
        "psubsb xmm0, xmmword ptr [rdx + 16]"
        "psubsw xmm0, xmm1"
        "psubsw xmm0, xmmword ptr [rdx + 16]"
        "psubusb xmm0, xmm1"
        "psubusb xmm0, xmmword ptr [rdx + 16]"
        "psubusw xmm0, xmm1"
        "psubusw xmm0, xmmword ptr [rdx + 16]"
        "pmullw xmm0, xmm1"
        "pmullw xmm0, xmmword ptr [rdx + 16]"
        "pmulhw xmm0, xmm1"
        "pmulhw xmm0, xmmword ptr [rdx + 16]"
        "pmulhuw xmm0, xmm1"
        "pmulhuw xmm0, xmmword ptr [rdx + 16]"
        "pmuludq xmm0, xmm1"
        "pmuludq xmm0, xmmword ptr [rdx + 16]"
        "pmaddwd xmm0, xmm1"
        "pmaddwd xmm0, xmmword ptr [rdx + 16]"
        "psadbw xmm0, xmm1"
        "psadbw xmm0, xmmword ptr [rdx + 16]"
        "pavgb xmm0, xmm1"
        "pavgb xmm0, xmmword ptr [rdx + 16]"
        "pavgw xmm0, xmm1"
        "pavgw xmm0, xmmword ptr [rdx + 16]"
        "pand xmm0, xmm1"
        "pand xmm0, xmmword ptr [rdx + 16]"
        "pandn xmm0, xmm1"
        "pandn xmm0, xmmword ptr [rdx + 16]"
        "por xmm0, xmm1"
        "por xmm0, xmmword ptr [rdx + 16]"
        "pxor xmm0, xmm1"
        "pxor xmm0, xmmword ptr [rdx + 16]"
        "pcmpeqb xmm0, xmm1"
        "pcmpeqb xmm0, xmmword ptr [rdx + 16]"
        "pcmpeqw xmm0, xmm1"
        "pcmpeqw xmm0, xmmword ptr [rdx + 16]"
        "pcmpeqd xmm0, xmm1"
        "pcmpeqd xmm0, xmmword ptr [rdx + 16]"
        "pcmpgtb xmm0, xmm1"
        "pcmpgtb xmm0, xmmword ptr [rdx + 16]"
        "pcmpgtw xmm0, xmm1"
        "pcmpgtw xmm0, xmmword ptr [rdx + 16]"
        "pcmpgtd xmm0, xmm1"
        "pcmpgtd xmm0, xmmword ptr [rdx + 16]"
        "pminub xmm0, xmm1"
        "pminub xmm0, xmmword ptr [rdx + 16]"
        "pmaxub xmm0, xmm1"
        "pmaxub xmm0, xmmword ptr [rdx + 16]"
        "pminsw xmm0, xmm1"
        "pminsw xmm0, xmmword ptr [rdx + 16]"
        "pmaxsw xmm0, xmm1"
        "pmaxsw xmm0, xmmword ptr [rdx + 16]"
        "psllw xmm0, xmm1"
        "psllw xmm0, xmmword ptr [rdx + 16]"
        "pslld xmm0, xmm1"
        "pslld xmm0, xmmword ptr [rdx + 16]"
        "psllq xmm0, xmm1"
        "psllq xmm0, xmmword ptr [rdx + 16]"
        "psrlw xmm0, xmm1"
        "psrlw xmm0, xmmword ptr [rdx + 16]"
        "psrld xmm0, xmm1"
        "psrld xmm0, xmmword ptr [rdx + 16]"
        "psrlq xmm0, xmm1"
        "psrlq xmm0, xmmword ptr [rdx + 16]"
        "psraw xmm0, xmm1"
        "psraw xmm0, xmmword ptr [rdx + 16]"
        "psrad xmm0, xmm1"
        "psrad xmm0, xmmword ptr [rdx + 16]"
        "packsswb xmm0, xmm1"
        "packsswb xmm0, xmmword ptr [rdx + 16]"
        "packssdw xmm0, xmm1"
        "packssdw xmm0, xmmword ptr [rdx + 16]"
        "packuswb xmm0, xmm1"
        "packuswb xmm0, xmmword ptr [rdx + 16]"
        "punpcklbw xmm0, xmm1"
        "punpcklbw xmm0, xmmword ptr [rdx + 16]"
        "punpcklwd xmm0, xmm1"
        "punpcklwd xmm0, xmmword ptr [rdx + 16]"
        "punpckldq xmm0, xmm1"
        "punpckldq xmm0, xmmword ptr [rdx + 16]"
        "punpcklqdq xmm0, xmm1"
        "punpcklqdq xmm0, xmmword ptr [rdx + 16]"
        "punpckhbw xmm0, xmm1"
        "punpckhbw xmm0, xmmword ptr [rdx + 16]"
        "punpckhwd xmm0, xmm1"
        "punpckhwd xmm0, xmmword ptr [rdx + 16]"
        "punpckhdq xmm0, xmm1"
        "punpckhdq xmm0, xmmword ptr [rdx + 16]"
        "punpckhqdq xmm0, xmm1"
        "punpckhqdq xmm0, xmmword ptr [rdx + 16]"
        "movaps xmm0, xmm1"
        "movaps xmm0, xmmword ptr [rdx + 16]"
        "movapd xmm0, xmm1"
        "movapd xmm0, xmmword ptr [rdx + 16]"
        "movdqa xmm0, xmm1"
        "movdqa xmm0, xmmword ptr [rdx + 16]"
        "movups xmm0, xmm1"
        "movups xmm0, xmmword ptr [rdx + 16]"
        "movupd xmm0, xmm1"
        "movupd xmm0, xmmword ptr [rdx + 16]"
        "movdqu xmm0, xmm1"
        "movdqu xmm0, xmmword ptr [rdx + 16]"
        "cvtdq2ps xmm0, xmm1"
        "cvtdq2ps xmm0, xmmword ptr [rdx + 16]"
        "cvtps2dq xmm0, xmm1"
        "cvtps2dq xmm0, xmmword ptr [rdx + 16]"
        "cvttps2dq xmm0, xmm1"
        "cvttps2dq xmm0, xmmword ptr [rdx + 16]"
        "cvtpd2ps xmm0, xmm1"
        "cvtpd2ps xmm0, xmmword ptr [rdx + 16]"
        "cvtpd2dq xmm0, xmm1"
        "cvtpd2dq xmm0, xmmword ptr [rdx + 16]"
        "cvttpd2dq xmm0, xmm1"
        "cvttpd2dq xmm0, xmmword ptr [rdx + 16]"
        "rcpps xmm0, xmm1"
        "rcpps xmm0, xmmword ptr [rdx + 16]"
        "rsqrtps xmm0, xmm1"
        "rsqrtps xmm0, xmmword ptr [rdx + 16]"
        "addss xmm0, xmm1"
        "addss xmm0, dword ptr [rdx + 20]"
        "subss xmm0, xmm1"
        "subss xmm0, dword ptr [rdx + 20]"
        "mulss xmm0, xmm1"
        "mulss xmm0, dword ptr [rdx + 20]"
        "divss xmm0, xmm1"
        "divss xmm0, dword ptr [rdx + 20]"
        "minss xmm0, xmm1"
        "minss xmm0, dword ptr [rdx + 20]"
        "maxss xmm0, xmm1"
        "maxss xmm0, dword ptr [rdx + 20]"
        "sqrtss xmm0, xmm1"
        "sqrtss xmm0, dword ptr [rdx + 20]"
        "comiss xmm0, xmm1"
        "comiss xmm0, dword ptr [rdx + 20]"
        "ucomiss xmm0, xmm1"
        "ucomiss xmm0, dword ptr [rdx + 20]"
        "movss xmm0, xmm1"
        "movss xmm0, dword ptr [rdx + 20]"
        "cmpss xmm0, xmm1, 0"
        "cmpss xmm0, xmm1, 1"
        "cmpss xmm0, xmm1, 2"
        "cmpss xmm0, xmm1, 3"
        "cmpss xmm0, xmm1, 4"
        "cmpss xmm0, xmm1, 5"
        "cmpss xmm0, xmm1, 6"
        "cmpss xmm0, xmm1, 7"
        "cmpss xmm0, dword ptr [rdx + 3], 2"
        "cvtss2si eax, xmm1"
        "cvttss2si eax, xmm1"
        "cvtsi2ss xmm0, eax"
        "cvtss2si eax, dword ptr [rdx]"
        "cvtsi2ss xmm0, dword ptr [rdx + 8]"
        "cvtss2si rax, xmm1"
        "cvttss2si rax, xmm1"
        "cvtsi2ss xmm0, rax"
        "cvtss2si rax, dword ptr [rdx]"
        "cvtsi2ss xmm0, qword ptr [rdx + 8]"
        "addsd xmm0, xmm1"
        "addsd xmm0, qword ptr [rdx + 20]"
        "subsd xmm0, xmm1"
        "subsd xmm0, qword ptr [rdx + 20]"
        "mulsd xmm0, xmm1"
        "mulsd xmm0, qword ptr [rdx + 20]"
        "divsd xmm0, xmm1"
        "divsd xmm0, qword ptr [rdx + 20]"
        "minsd xmm0, xmm1"
        "minsd xmm0, qword ptr [rdx + 20]"
        "maxsd xmm0, xmm1"
        "maxsd xmm0, qword ptr [rdx + 20]"
        "sqrtsd xmm0, xmm1"
        "sqrtsd xmm0, qword ptr [rdx + 20]"
        "comisd xmm0, xmm1"
        "comisd xmm0, qword ptr [rdx + 20]"
        "ucomisd xmm0, xmm1"
        "ucomisd xmm0, qword ptr [rdx + 20]"
        "movsd xmm0, xmm1"
        "movsd xmm0, qword ptr [rdx + 20]"
        "cmpsd xmm0, xmm1, 0"
        "cmpsd xmm0, xmm1, 1"
        "cmpsd xmm0, xmm1, 2"
        "cmpsd xmm0, xmm1, 3"
        "cmpsd xmm0, xmm1, 4"
        "cmpsd xmm0, xmm1, 5"
        "cmpsd xmm0, xmm1, 6"
        "cmpsd xmm0, xmm1, 7"
        "cmpsd xmm0, qword ptr [rdx + 3], 2"
        "cvtsd2si eax, xmm1"
        "cvttsd2si eax, xmm1"
        "cvtsi2sd xmm0, eax"
        "cvtsd2si eax, qword ptr [rdx]"
        "cvtsi2sd xmm0, dword ptr [rdx + 8]"
        "cvtsd2si rax, xmm1"
        "cvttsd2si rax, xmm1"
        "cvtsi2sd xmm0, rax"
        "cvtsd2si rax, qword ptr [rdx]"
        "cvtsi2sd xmm0, qword ptr [rdx + 8]"
        "rcpss xmm0, xmm1"
        "rsqrtss xmm0, xmm1"
        "rcpss xmm0, dword ptr [rdx]"
        "cvtss2sd xmm0, xmm1"
        "cvtsd2ss xmm0, xmm1"
        "cvtss2sd xmm0, dword ptr [rdx]"
        "cvtsd2ss xmm0, qword ptr [rdx]"
        "cvtps2pd xmm0, xmm1"
        "cvtps2pd xmm0, qword ptr [rdx + 8]"
        "cvtdq2pd xmm0, xmm1"
        "cvtdq2pd xmm0, qword ptr [rdx + 8]"
        "cmpps xmm0, xmm1, 0"
        "cmpps xmm0, xmm1, 1"
        "cmpps xmm0, xmm1, 2"
        "cmpps xmm0, xmm1, 3"
        "cmpps xmm0, xmm1, 4"
        "cmpps xmm0, xmm1, 5"
        "cmpps xmm0, xmm1, 6"
        "cmpps xmm0, xmm1, 7"
        "cmpps xmm0, xmmword ptr [rdx], 1"
        "cmppd xmm0, xmm1, 0"
        "cmppd xmm0, xmm1, 1"
        "cmppd xmm0, xmm1, 2"
        "cmppd xmm0, xmm1, 3"
        "cmppd xmm0, xmm1, 4"
        "cmppd xmm0, xmm1, 5"
        "cmppd xmm0, xmm1, 6"
        "cmppd xmm0, xmm1, 7"
        "cmppd xmm0, xmmword ptr [rdx], 1"
        "psllw xmm0, 0"
        "psllw xmm0, 1"
        "psllw xmm0, 7"
        "psllw xmm0, 15"
        "psllw xmm0, 16"
        "psllw xmm0, 33"
        "psllw xmm0, 64"
        "psllw xmm0, 255"
        "pslld xmm0, 0"
        "pslld xmm0, 1"
        "pslld xmm0, 7"
        "pslld xmm0, 15"
        "pslld xmm0, 16"
        "pslld xmm0, 33"
        "pslld xmm0, 64"
        "pslld xmm0, 255"
        "psllq xmm0, 0"
        "psllq xmm0, 1"
        "psllq xmm0, 7"
        "psllq xmm0, 15"
        "psllq xmm0, 16"
        "psllq xmm0, 33"
        "psllq xmm0, 64"
        "psllq xmm0, 255"
        "psrlw xmm0, 0"
        "psrlw xmm0, 1"
        "psrlw xmm0, 7"
        "psrlw xmm0, 15"
        "psrlw xmm0, 16"
        "psrlw xmm0, 33"
        "psrlw xmm0, 64"
        "psrlw xmm0, 255"
        "psrld xmm0, 0"
        "psrld xmm0, 1"
        "psrld xmm0, 7"
        "psrld xmm0, 15"
        "psrld xmm0, 16"
        "psrld xmm0, 33"
        "psrld xmm0, 64"
        "psrld xmm0, 255"
        "psrlq xmm0, 0"
        "psrlq xmm0, 1"
        "psrlq xmm0, 7"
        "psrlq xmm0, 15"
        "psrlq xmm0, 16"
        "psrlq xmm0, 33"
        "psrlq xmm0, 64"
        "psrlq xmm0, 255"
        "psraw xmm0, 0"
        "psraw xmm0, 1"
        "psraw xmm0, 7"
        "psraw xmm0, 15"
        "psraw xmm0, 16"
        "psraw xmm0, 33"
        "psraw xmm0, 64"
        "psraw xmm0, 255"
        "psrad xmm0, 0"
        "psrad xmm0, 1"
        "psrad xmm0, 7"
        "psrad xmm0, 15"
        "psrad xmm0, 16"
        "psrad xmm0, 33"
        "psrad xmm0, 64"
        "psrad xmm0, 255"
        "pslldq xmm0, 0"
        "pslldq xmm0, 1"
        "pslldq xmm0, 7"
        "pslldq xmm0, 15"
        "pslldq xmm0, 16"
        "pslldq xmm0, 33"
        "pslldq xmm0, 64"
        "pslldq xmm0, 255"
        "psrldq xmm0, 0"
        "psrldq xmm0, 1"
        "psrldq xmm0, 7"
        "psrldq xmm0, 15"
        "psrldq xmm0, 16"
        "psrldq xmm0, 33"
        "psrldq xmm0, 64"
        "psrldq xmm0, 255"
        "psllw mm0, 1"
        "psllw mm0, 17"
        "psllw mm0, 63"
        "pslld mm0, 1"
        "pslld mm0, 17"
        "pslld mm0, 63"
        "psllq mm0, 1"
        "psllq mm0, 17"
        "psllq mm0, 63"
        "psrlw mm0, 1"
        "psrlw mm0, 17"
        "psrlw mm0, 63"
        "psrld mm0, 1"
        "psrld mm0, 17"
        "psrld mm0, 63"
        "psrlq mm0, 1"
        "psrlq mm0, 17"
        "psrlq mm0, 63"
        "psraw mm0, 1"
        "psraw mm0, 17"
        "psraw mm0, 63"
        "psrad mm0, 1"
        "psrad mm0, 17"
        "psrad mm0, 63"
        "pshufd xmm0, xmm1, 27"
        "pshufd xmm0, xmmword ptr [rdx + 32], 27"
        "pshuflw xmm0, xmm1, 27"
        "pshuflw xmm0, xmmword ptr [rdx + 32], 27"
        "pshufhw xmm0, xmm1, 27"
        "pshufhw xmm0, xmmword ptr [rdx + 32], 27"
        "shufps xmm0, xmm1, 27"
        "shufps xmm0, xmmword ptr [rdx + 32], 27"
        "shufpd xmm0, xmm1, 27"
        "shufpd xmm0, xmmword ptr [rdx + 32], 27"
        "pshufw mm0, mm1, 27"
        "pshufw mm0, qword ptr [rdx + 3], 27"
        "pextrw eax, xmm1, 27"
        "pinsrw xmm0, ecx, 27"
        "pinsrw xmm0, word ptr [rdx + 5], 27"
        "pextrw eax, mm1, 27"
        "pinsrw mm0, ecx, 27"
        "pinsrw mm0, word ptr [rdx + 5], 27"
        "pshufd xmm0, xmm1, 228"
        "pshufd xmm0, xmmword ptr [rdx + 32], 228"
        "pshuflw xmm0, xmm1, 228"
        "pshuflw xmm0, xmmword ptr [rdx + 32], 228"
        "pshufhw xmm0, xmm1, 228"
        "pshufhw xmm0, xmmword ptr [rdx + 32], 228"
        "shufps xmm0, xmm1, 228"
        "shufps xmm0, xmmword ptr [rdx + 32], 228"
        "shufpd xmm0, xmm1, 228"
        "shufpd xmm0, xmmword ptr [rdx + 32], 228"
        "pshufw mm0, mm1, 228"
        "pshufw mm0, qword ptr [rdx + 3], 228"
        "pextrw eax, xmm1, 228"
        "pinsrw xmm0, ecx, 228"
        "pinsrw xmm0, word ptr [rdx + 5], 228"
        "pextrw eax, mm1, 228"
        "pinsrw mm0, ecx, 228"
        "pinsrw mm0, word ptr [rdx + 5], 228"
        "pshufd xmm0, xmm1, 147"
        "pshufd xmm0, xmmword ptr [rdx + 32], 147"
        "pshuflw xmm0, xmm1, 147"
        "pshuflw xmm0, xmmword ptr [rdx + 32], 147"
        "pshufhw xmm0, xmm1, 147"
        "pshufhw xmm0, xmmword ptr [rdx + 32], 147"
        "shufps xmm0, xmm1, 147"
        "shufps xmm0, xmmword ptr [rdx + 32], 147"
        "shufpd xmm0, xmm1, 147"
        "shufpd xmm0, xmmword ptr [rdx + 32], 147"
        "pshufw mm0, mm1, 147"
        "pshufw mm0, qword ptr [rdx + 3], 147"
        "pextrw eax, xmm1, 147"
        "pinsrw xmm0, ecx, 147"
        "pinsrw xmm0, word ptr [rdx + 5], 147"
        "pextrw eax, mm1, 147"
        "pinsrw mm0, ecx, 147"
        "pinsrw mm0, word ptr [rdx + 5], 147"
        "movhlps xmm0, xmm1"
        "movlhps xmm0, xmm1"
        "movlps xmm0, qword ptr [rdx + 4]"
        "movlps qword ptr [rdx + 4], xmm0"
        "movlpd xmm0, qword ptr [rdx + 4]"
        "movlpd qword ptr [rdx + 4], xmm0"
        "movhps xmm0, qword ptr [rdx + 4]"
        "movhps qword ptr [rdx + 4], xmm0"
        "movhpd xmm0, qword ptr [rdx + 4]"
        "movhpd qword ptr [rdx + 4], xmm0"
        "movaps xmmword ptr [rdx + 16], xmm1"
        "movapd xmmword ptr [rdx + 16], xmm1"
        "movdqa xmmword ptr [rdx + 16], xmm1"
        "movntps xmmword ptr [rdx + 16], xmm1"
        "movntpd xmmword ptr [rdx + 16], xmm1"
        "movntdq xmmword ptr [rdx + 16], xmm1"
        "movups xmmword ptr [rdx + 7], xmm1"
        "movups xmm1, xmmword ptr [rdx + 7]"
        "movupd xmmword ptr [rdx + 7], xmm1"
        "movupd xmm1, xmmword ptr [rdx + 7]"
        "movdqu xmmword ptr [rdx + 7], xmm1"
        "movdqu xmm1, xmmword ptr [rdx + 7]"
        "movss dword ptr [rdx + 5], xmm1"
        "movsd qword ptr [rdx + 5], xmm1"
        "movq xmm0, xmm1"
        "movq xmm0, qword ptr [rdx + 1]"
        "movq qword ptr [rdx + 1], xmm0"
        "movd xmm0, eax"
        "movd xmm0, dword ptr [rdx + 6]"
        "movd eax, xmm1"
        "movd dword ptr [rdx + 6], xmm1"
        "movq xmm0, rax"
        "movq rax, xmm1"
        "movmskps eax, xmm1"
        "movmskpd eax, xmm1"
        "pmovmskb eax, xmm1"
        "movd mm0, eax"
        "movd eax, mm1"
        "movq mm0, rax"
        "movq rax, mm1"
        "movq mm0, mm1"
        "movq mm0, qword ptr [rdx + 9]"
        "movq qword ptr [rdx + 9], mm1"
        "movd dword ptr [rdx + 9], mm1"
        "movd mm0, dword ptr [rdx + 9]"
        "movntq qword ptr [rdx + 8], mm1"
        "pmovmskb eax, mm1"
        "movq2dq xmm0, mm1"
        "movdq2q mm0, xmm1"
        "cvtpi2ps xmm0, mm1"
        "cvtpi2ps xmm0, qword ptr [rdx]"
        "cvtpi2pd xmm0, mm1"
        "cvtpi2pd xmm0, qword ptr [rdx]"
        "cvtps2pi mm0, xmm1"
        "cvttps2pi mm0, xmm1"
        "cvtpd2pi mm0, xmm1"
        "cvttpd2pi mm0, xmm1"
        "cvtps2pi mm0, qword ptr [rdx + 3]"
        "cvtpd2pi mm0, xmmword ptr [rdx]"
        "paddb mm0, mm1"
        "paddb mm0, qword ptr [rdx + 5]"
        "paddw mm0, mm1"
        "paddw mm0, qword ptr [rdx + 5]"
        "paddd mm0, mm1"
        "paddd mm0, qword ptr [rdx + 5]"
        "paddq mm0, mm1"
        "paddq mm0, qword ptr [rdx + 5]"
        "psubb mm0, mm1"
        "psubb mm0, qword ptr [rdx + 5]"
        "psubw mm0, mm1"
        "psubw mm0, qword ptr [rdx + 5]"
        "psubd mm0, mm1"
        "psubd mm0, qword ptr [rdx + 5]"
        "psubq mm0, mm1"
        "psubq mm0, qword ptr [rdx + 5]"
        "paddsb mm0, mm1"
        "paddsb mm0, qword ptr [rdx + 5]"
        "paddsw mm0, mm1"
        "paddsw mm0, qword ptr [rdx + 5]"
        "paddusb mm0, mm1"
        "paddusb mm0, qword ptr [rdx + 5]"
        "paddusw mm0, mm1"
        "paddusw mm0, qword ptr [rdx + 5]"
        "psubsb mm0, mm1"
        "psubsb mm0, qword ptr [rdx + 5]"
        "psubsw mm0, mm1"
        "psubsw mm0, qword ptr [rdx + 5]"
        "psubusb mm0, mm1"
        "psubusb mm0, qword ptr [rdx + 5]"
        "psubusw mm0, mm1"
        "psubusw mm0, qword ptr [rdx + 5]"
        "pmullw mm0, mm1"
        "pmullw mm0, qword ptr [rdx + 5]"
        "pmulhw mm0, mm1"
        "pmulhw mm0, qword ptr [rdx + 5]"
        "pmulhuw mm0, mm1"
        "pmulhuw mm0, qword ptr [rdx + 5]"
        "pmuludq mm0, mm1"
        "pmuludq mm0, qword ptr [rdx + 5]"
        "pmaddwd mm0, mm1"
        "pmaddwd mm0, qword ptr [rdx + 5]"
        "psadbw mm0, mm1"
        "psadbw mm0, qword ptr [rdx + 5]"
        "pavgb mm0, mm1"
        "pavgb mm0, qword ptr [rdx + 5]"
        "pavgw mm0, mm1"
        "pavgw mm0, qword ptr [rdx + 5]"
        "pand mm0, mm1"
        "pand mm0, qword ptr [rdx + 5]"
        "pandn mm0, mm1"
        "pandn mm0, qword ptr [rdx + 5]"
        "por mm0, mm1"
        "por mm0, qword ptr [rdx + 5]"
        "pxor mm0, mm1"
        "pxor mm0, qword ptr [rdx + 5]"
        "pcmpeqb mm0, mm1"
        "pcmpeqb mm0, qword ptr [rdx + 5]"
        "pcmpeqw mm0, mm1"
        "pcmpeqw mm0, qword ptr [rdx + 5]"
        "pcmpeqd mm0, mm1"
        "pcmpeqd mm0, qword ptr [rdx + 5]"
        "pcmpgtb mm0, mm1"
        "pcmpgtb mm0, qword ptr [rdx + 5]"
        "pcmpgtw mm0, mm1"
        "pcmpgtw mm0, qword ptr [rdx + 5]"
        "pcmpgtd mm0, mm1"
        "pcmpgtd mm0, qword ptr [rdx + 5]"
        "pminub mm0, mm1"
        "pminub mm0, qword ptr [rdx + 5]"
        "pmaxub mm0, mm1"
        "pmaxub mm0, qword ptr [rdx + 5]"
        "pminsw mm0, mm1"
        "pminsw mm0, qword ptr [rdx + 5]"
        "pmaxsw mm0, mm1"
        "pmaxsw mm0, qword ptr [rdx + 5]"
        "psllw mm0, mm1"
        "psllw mm0, qword ptr [rdx + 5]"
        "pslld mm0, mm1"
        "pslld mm0, qword ptr [rdx + 5]"
        "psllq mm0, mm1"
        "psllq mm0, qword ptr [rdx + 5]"
        "psrlw mm0, mm1"
        "psrlw mm0, qword ptr [rdx + 5]"
        "psrld mm0, mm1"
        "psrld mm0, qword ptr [rdx + 5]"
        "psrlq mm0, mm1"
        "psrlq mm0, qword ptr [rdx + 5]"
        "psraw mm0, mm1"
        "psraw mm0, qword ptr [rdx + 5]"
        "psrad mm0, mm1"
        "psrad mm0, qword ptr [rdx + 5]"
        "packsswb mm0, mm1"
        "packsswb mm0, qword ptr [rdx + 5]"
        "packssdw mm0, mm1"
        "packssdw mm0, qword ptr [rdx + 5]"
        "packuswb mm0, mm1"
        "packuswb mm0, qword ptr [rdx + 5]"
        "punpcklbw mm0, mm1"
        "punpcklbw mm0, dword ptr [rdx + 5]"
        "punpcklwd mm0, mm1"
        "punpcklwd mm0, dword ptr [rdx + 5]"
        "punpckldq mm0, mm1"
        "punpckldq mm0, dword ptr [rdx + 5]"
        "punpckhbw mm0, mm1"
        "punpckhbw mm0, qword ptr [rdx + 5]"
        "punpckhwd mm0, mm1"
        "punpckhwd mm0, qword ptr [rdx + 5]"
        "punpckhdq mm0, mm1"
        "punpckhdq mm0, qword ptr [rdx + 5]"
        "stmxcsr dword ptr [rdx + 3]"
    };
    compare(&cases, 200, false);
}

/// RCPPS and its kin are defined as Intel's processors have them: other hosts cannot tell.
fn is_approximation(text: &str) -> bool {
    text.starts_with("rcp") || text.starts_with("rsqrt")
}

fn host_is_intel() -> bool {
    std::arch::x86_64::__cpuid(0).ebx == u32::from_le_bytes(*b"Genu")
}

/// Runs one instruction with SSE registers 0 and 1 set, on a processor prepared by `prepare`.
fn run(code: &[u8], a: u64, b: u64, prepare: impl Fn(&mut Cpu)) -> (Option<u8>, Box<Cpu>) {
    let mut cpu = long_mode();
    cpu.set_xmm(0, [a, 0]);
    cpu.set_xmm(1, [b, 0]);
    cpu.state.gpr[gpr::RDX] = DATA;
    prepare(&mut cpu);
    let fault = execute(&mut cpu, code);
    (fault, cpu)
}

const ADDSD: &[u8] = &[0xf2, 0x0f, 0x58, 0xc1];
const MULSD: &[u8] = &[0xf2, 0x0f, 0x59, 0xc1];
const DIVSD: &[u8] = &[0xf2, 0x0f, 0x5e, 0xc1];
const ONE: u64 = 0x3ff0_0000_0000_0000;
const SMALLEST_NORMAL: u64 = 0x0010_0000_0000_0000;
const HALF: u64 = 0x3fe0_0000_0000_0000;

#[test]
fn unmasked_exceptions_are_raised_and_leave_the_destination_alone() {
    // (code, operands, mask bit cleared, flags afterwards)
    for (code, a, b, unmasked, flags) in [
        (DIVSD, ONE, 0, 4, 4),
        (DIVSD, 0, 0, 1, 1),
        (ADDSD, ONE, 1, 2, 2),
        // 1 / 3 is inexact.
        (DIVSD, ONE, 0x4008_0000_0000_0000, 0x20, 0x20),
        // Exact but tiny: raised only unmasked.
        (MULSD, SMALLEST_NORMAL, HALF, 0x10, 0x10),
        (MULSD, 0x7fe0_0000_0000_0000, 0x7fe0_0000_0000_0000, 8, 0x28),
        // A denormal operand found before the operation hides that the result would be inexact.
        (DIVSD, 1, 0x4008_0000_0000_0000, 2, 2),
    ] {
        let mxcsr = 0x1f80 & !(unmasked << 7);
        let (fault, cpu) = run(code, a, b, |cpu| cpu.state.mxcsr = mxcsr);
        assert_eq!(fault, Some(19), "{a:x} {b:x}");
        assert_eq!(cpu.xmm(0), [a, 0]);
        assert_eq!(cpu.state.mxcsr, mxcsr | flags, "{a:x} {b:x}");
        let (fault, cpu) = run(code, a, b, |cpu| {
            cpu.state.mxcsr = mxcsr;
            cpu.state.cr4 &= !crate::cpu::state::cr4::OSXMMEXCPT;
        });
        assert_eq!(fault, Some(6));
        assert_eq!(cpu.state.mxcsr, mxcsr | flags);
    }
    // Other exceptions than the one that is not masked go their masked way; old flags raise nothing.
    let (fault, cpu) = run(DIVSD, ONE, 0, |cpu| {
        cpu.state.mxcsr = 0x1f80 & !(1 << 7) | 1
    });
    assert_eq!(fault, None);
    assert_eq!(cpu.state.mxcsr, 0x1f80 & !(1 << 7) | 5);
    assert_eq!(cpu.xmm(0)[0], 0x7ff0_0000_0000_0000);
    let (fault, cpu) = run(MULSD, SMALLEST_NORMAL, HALF, |_| {});
    assert_eq!(fault, None);
    assert_eq!(cpu.state.mxcsr, 0x1f80);
    assert_eq!(cpu.xmm(0)[0], SMALLEST_NORMAL >> 1);
}

#[test]
fn control_registers_switch_the_instructions_off() {
    use crate::cpu::state::{cr0, cr4};
    const PADDB_MM: &[u8] = &[0x0f, 0xfc, 0xc1];
    const VADDPS: &[u8] = &[0xc5, 0xf8, 0x58, 0xc1];
    type Change = fn(&mut Cpu);
    let no_osfxsr: Change = |cpu| cpu.state.cr4 &= !cr4::OSFXSR;
    let em: Change = |cpu| cpu.state.cr0 |= cr0::EM;
    let ts: Change = |cpu| cpu.state.cr0 |= cr0::TS;
    let no_osxsave: Change = |cpu| cpu.state.cr4 &= !cr4::OSXSAVE;
    let no_ymm: Change = |cpu| cpu.state.xcr0 = 3;
    let pending: Change = |cpu| cpu.state.x87.status |= 0x80;
    for (code, change, want) in [
        (ADDSD, no_osfxsr, Some(6)),
        (ADDSD, em, Some(6)),
        (ADDSD, ts, Some(7)),
        (ADDSD, no_osxsave, None),
        (ADDSD, pending, None),
        (PADDB_MM, no_osfxsr, None),
        (PADDB_MM, em, Some(6)),
        (PADDB_MM, ts, Some(7)),
        (PADDB_MM, pending, Some(16)),
        (VADDPS, no_osfxsr, None),
        (VADDPS, ts, Some(7)),
        (VADDPS, no_osxsave, Some(6)),
        (VADDPS, no_ymm, Some(6)),
    ] {
        let (fault, _) = run(code, 0, 0, change);
        assert_eq!(fault, want, "{code:02x?}");
    }
}

#[test]
fn misaligned_operands_fault_where_alignment_is_asked_for() {
    // addps, movaps load and store, fxsave: +8. movups, addss: anything.
    for (code, want) in [
        (&[0x0f, 0x58, 0x42, 0x08][..], Some(13)),
        (&[0x0f, 0x28, 0x42, 0x08], Some(13)),
        (&[0x0f, 0x29, 0x42, 0x08], Some(13)),
        (&[0x0f, 0xae, 0x42, 0x08], Some(13)),
        (&[0x0f, 0x10, 0x42, 0x08], None),
        (&[0xf3, 0x0f, 0x58, 0x42, 0x01], None),
        (&[0xc5, 0xf8, 0x58, 0x42, 0x08], None),
        (&[0xc5, 0xf8, 0x28, 0x42, 0x08], Some(13)),
        (&[0xc5, 0xfc, 0x28, 0x42, 0x10], Some(13)),
    ] {
        assert_eq!(run(code, 0, 0, |_| {}).0, want, "{code:02x?}");
    }
}

#[test]
fn masked_stores_touch_only_the_selected_bytes() {
    // maskmovdqu xmm0, xmm1 at rdi, over the end of mapped memory.
    let at = 0xf_fff8;
    let (fault, cpu) = run(
        &[0x66, 0x0f, 0xf7, 0xc1],
        0x8877_6655_4433_2211,
        0x80ff_0000_0000_0080,
        |cpu| cpu.state.gpr[gpr::RDI] = at,
    );
    assert_eq!(fault, None);
    assert_eq!(cpu.memory.read_u64(at), 0x8877_0000_0000_0011);
    let (fault, cpu) = run(&[0x66, 0x0f, 0xf7, 0xc1], 1, 0x80, |cpu| {
        cpu.state.gpr[gpr::RDI] = 0x10_0000
    });
    assert_eq!(fault, Some(14));
    assert_eq!(cpu.state.cr2, 0x10_0000);
}

#[test]
fn fxsave_writes_the_hosts_layout_and_fxrstor_reads_it_back() {
    let mut cpu = long_mode();
    for n in 0..16 {
        cpu.state.vector[n].0 = [n as u64 + 1, !n as u64, 7, 8];
    }
    let x87 = &mut cpu.state.x87;
    for n in 0..8 {
        x87.r[n].mantissa = 1 << 63 | n as u64;
        x87.r[n].sign_exponent = 0x3fff;
    }
    x87.control = 0x37f;
    x87.status = 3 << 11;
    x87.tag = 0xc00f;
    x87.opcode = 0x123;
    x87.ip = 0x1234_5678_9abc;
    x87.data = 0xfedc_ba98;
    cpu.state.mxcsr = 0x9fc1;
    cpu.state.gpr[gpr::RDX] = DATA;
    let before = cpu.state;
    // fxsave64 [rdx]
    assert_eq!(execute(&mut cpu, &[0x48, 0x0f, 0xae, 0x02]), None);
    let mut area = [0u8; 512];
    cpu.memory.read(DATA, &mut area);
    assert_eq!(area[..8], [0x7f, 3, 0, 0x18, 0x7c, 0, 0x23, 1]);
    assert_eq!(area[8..16], 0x1234_5678_9abcu64.to_le_bytes());
    assert_eq!(area[24..32], [0xc1, 0x9f, 0, 0, 0xff, 0xff, 0, 0]);
    // ST(0) is R3.
    assert_eq!(area[32..44], [3, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f, 0, 0]);
    assert_eq!(area[160 + 15 * 16], 16);
    cpu.state.vector = Default::default();
    cpu.state.x87 = bytemuck::Zeroable::zeroed();
    cpu.state.mxcsr = 0x1f80;
    assert_eq!(execute(&mut cpu, &[0x48, 0x0f, 0xae, 0x0a]), None);
    assert_eq!(cpu.state.x87, before.x87);
    assert_eq!(cpu.state.mxcsr, before.mxcsr);
    for n in 0..16 {
        // The upper halves were cleared above, and FXRSTOR leaves them alone.
        assert_eq!(cpu.state.vector[n].0, [n as u64 + 1, !n as u64, 0, 0]);
    }
    // A bit of MXCSR that does not exist.
    cpu.memory.write(DATA + 26, &[1]);
    assert_eq!(execute(&mut cpu, &[0x48, 0x0f, 0xae, 0x0a]), Some(13));
}

#[test]
fn mmx_instructions_take_over_the_x87_registers() {
    let (fault, cpu) = run(&[0x0f, 0xfc, 0xc1], 0, 0, |cpu| {
        cpu.state.x87.status = 5 << 11 | 0x4000;
        cpu.state.x87.tag = 0xffff;
        cpu.set_mm(1, 0x0102_0304_0506_07ff);
        cpu.state.x87.r[0].mantissa = 0x11;
        cpu.state.x87.r[0].sign_exponent = 0x3fff;
    });
    assert_eq!(fault, None);
    assert_eq!(cpu.state.x87.r[0].mantissa, 0x0102_0304_0506_0710);
    assert_eq!(cpu.state.x87.r[0].sign_exponent, 0xffff);
    assert_eq!((cpu.state.x87.tag, cpu.state.x87.status), (0, 0x4000));
    let (fault, cpu) = run(&[0x0f, 0x77], 0, 0, |_| {});
    assert_eq!((fault, cpu.state.x87.tag), (None, 0xffff));
}
