//! Every instruction form runs on the host and in the engine, on the same operands: all that it can change is compared.
//!
//! The code is assembled into the test itself, where it is called, and from where its bytes are copied.

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
    reserved: u32,
}

/// Flags that the instructions here define: all arithmetic ones.
const FLAGS: u64 = 0x8d5;

/// The bytes of instructions that are assembled into the test, with a `ret` behind them.
macro_rules! assembled {
    ($text:expr) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: the instructions are jumped over.
        unsafe {
            std::arch::asm!(
                "jmp 4f",
                "2:",
                $text,
                "3:",
                "ret",
                "4:",
                "lea {start}, [rip + 2b]",
                "lea {end}, [rip + 3b]",
                start = out(reg) start,
                end = out(reg) end,
                options(nomem, nostack, preserves_flags)
            );
            std::slice::from_raw_parts(start, end.offset_from(start) as usize)
        }
    }};
}

type Case = (&'static str, &'static [u8]);

/// Declares a function that loads all registers, calls assembled code, and stores them.
macro_rules! trampoline {
    ($name:ident, $move:literal, $register:literal) => {
        fn $name(registers: &mut Registers, code: &[u8]) {
            // SAFETY: `code` is from `assembled`; all registers that the tests use are declared, the memory accessed
            // belongs to `registers`, and MXCSR has its default control bits afterwards.
            unsafe {
                std::arch::asm!(
                    concat!($move, " ", $register, "0, [rdi]"),
                    concat!($move, " ", $register, "1, [rdi + 32]"),
                    concat!($move, " ", $register, "2, [rdi + 64]"),
                    concat!($move, " ", $register, "3, [rdi + 96]"),
                    "movq mm0, [rdi + 128]",
                    "movq mm1, [rdi + 136]",
                    "mov rax, [rdi + 144]",
                    "mov rcx, [rdi + 152]",
                    "lea rdx, [rdi + 160]",
                    "ldmxcsr [rdi + 232]",
                    "push qword ptr [rdi + 224]",
                    "popfq",
                    "call r9",
                    "pushfq",
                    "pop qword ptr [rdi + 224]",
                    "stmxcsr [rdi + 232]",
                    "ldmxcsr [rsi]",
                    "mov [rdi + 144], rax",
                    "mov [rdi + 152], rcx",
                    "movq [rdi + 128], mm0",
                    "movq [rdi + 136], mm1",
                    "emms",
                    concat!($move, " [rdi], ", $register, "0"),
                    concat!($move, " [rdi + 32], ", $register, "1"),
                    concat!($move, " [rdi + 64], ", $register, "2"),
                    concat!($move, " [rdi + 96], ", $register, "3"),
                    in("rdi") registers,
                    in("rsi") &super::float::DEFAULT,
                    in("r9") code.as_ptr(),
                    clobber_abi("sysv64"),
                );
            }
        }
    };
}
trampoline!(run_legacy, "movups", "xmm");
trampoline!(run_vex, "vmovups", "ymm");

/// `(text, code)` of instructions.
macro_rules! cases {
    ($($text:literal)*) => {
        [$(($text, assembled!($text))),*]
    };
}

/// Comparisons of strings with explicit lengths of -8 to 27, for each of the immediates.
macro_rules! explicit {
    ($instruction:literal $operands:literal: $($imm:literal)*) => {
        [$((
            concat!($instruction, $operands, $imm),
            assembled!(concat!(
                "mov r8, rdx; mov edx, ecx; and edx, 31; sub edx, 8; and eax, 31; sub eax, 4; ",
                $instruction, $operands, $imm
            ))
        )),*]
    };
}

// Behind the macros, which they use.
mod legacy;
mod saving;
mod vex;

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
        reserved: 0,
    };
    if numbers.next() & 3 == 0 {
        registers.vector[1] = registers.vector[0];
    }
    registers
}

/// Runs legacy instructions on the host and in the engine, and compares; the host's upper halves are not looked at.
fn compare_legacy(cases: &[Case], rounds: usize) {
    compare(cases, rounds, |registers, code| {
        let before = *registers;
        run_legacy(registers, code);
        for n in 0..4 {
            registers.vector[n][2..].copy_from_slice(&before.vector[n][2..]);
        }
    });
}

/// Likewise for VEX-encoded ones.
fn compare_vex(cases: &[Case], rounds: usize) {
    compare(cases, rounds, run_vex);
}

fn compare(cases: &[Case], rounds: usize, host: impl Fn(&mut Registers, &[u8])) {
    let mut cpu = long_mode();
    let mut numbers = Numbers(1);
    for &(text, code) in cases {
        if is_vendors(text) && !host_is_intel() {
            continue;
        }
        for _ in 0..rounds {
            let before = operands(&mut numbers);
            let mut want = before;
            host(&mut want, code);
            want.flags &= FLAGS;
            put(&mut cpu, &before);
            let fault = execute(&mut cpu, code);
            assert_eq!(fault, None, "{text} ({code:02x?}) on {before:x?}");
            let mut got = want;
            get(&cpu, &mut got);
            assert!(
                got == want,
                "{text} ({code:02x?})\non   {before:x?}\ngot  {got:x?}\nwant {want:x?}"
            );
        }
    }
}

/// RCPPS and its kin, and which NaN a dot product passes on, are defined as Intel's processors have them: other hosts
/// cannot tell.
fn is_vendors(text: &str) -> bool {
    ["rcp", "rsqrt", "dpp"]
        .iter()
        .any(|name| text.contains(name))
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
fn gathers_take_address_sizes_and_go_on_after_faults() {
    // vpgatherdd xmm0, [rdx + xmm1*4], xmm2, then the same with a 32-bit address.
    for code in [
        &[0xc4, 0xe2, 0x69, 0x90, 0x04, 0x8a][..],
        &[0x67, 0xc4, 0xe2, 0x69, 0x90, 0x04, 0x8a],
    ] {
        let upper = if code[0] == 0x67 { 0x5555 << 32 } else { 0 };
        let prepare = |cpu: &mut Cpu| {
            cpu.state.gpr[gpr::RDX] = DATA | upper;
            cpu.memory.write(DATA, &[1, 0, 0, 0, 2, 0, 0, 0, 3]);
            cpu.set_xmm(0, [!0, !0]);
            cpu.set_xmm(2, [1 << 63 | 1 << 31, 1 << 31]);
        };
        let (fault, cpu) = run(code, 0, 0, |cpu| {
            prepare(cpu);
            cpu.set_xmm(1, [1, 2]);
        });
        assert_eq!(fault, None);
        // Elements 1, 0, 2 of memory; the last one is masked out.
        assert_eq!(cpu.xmm(0), [1 << 32 | 2, 0xffff_ffff_0000_0003]);
        assert_eq!(cpu.xmm(2), [0, 0]);
        // Element 1 is at the end of RAM.
        let (fault, cpu) = run(code, 0, 0, |cpu| {
            prepare(cpu);
            cpu.set_xmm(1, [((0x10_0000 - DATA) / 4) << 32, 2]);
        });
        assert_eq!((fault, cpu.state.cr2), (Some(14), 0x10_0000));
        assert_eq!(cpu.xmm(0), [0xffff_ffff_0000_0001, !0]);
        assert_eq!(cpu.xmm(2), [0xffff_ffff_0000_0000, 0xffff_ffff]);
    }
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
