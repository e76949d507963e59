//! What must be equal, and how a difference is shown.

use crate::case::{Case, End, Outcome, VectorState};
use crate::operands::decode;
use iced_x86::{Code, FastFormatter, Instruction, Mnemonic, RflagsBits};
use std::arch::x86_64::__cpuid_count;
use std::fmt::Write;
use std::sync::OnceLock;

/// What the manuals leave open after an instruction, and which the comparison therefore leaves out.
#[derive(Clone, Copy, Default)]
pub struct Open {
    /// Arithmetic flags.
    pub flags: u64,
    /// General registers, a bit each.
    pub registers: u32,
    /// Outside 64-bit mode: eight registers, of 32 bits.
    pub legacy: bool,
    /// The result lies in memory and is left open.
    pub memory: bool,
    /// The arithmetic flags in the frame of a fault: Intel's processors restore those from before a repeated
    /// comparison, others do not.
    pub flags_at_fault: bool,
    /// A fault leaves the general registers but RSP open.
    pub loaded_at_fault: bool,
    /// Any fault stands for any other at the same instruction.
    pub either_fault: bool,
    /// The store faults as one: CR2 may be any byte of the page.
    pub page_only: bool,
    /// The operand is accessed in parts whose order is the processor's own: where exactly it faults, and what was
    /// stored before, is left open.
    pub parts: bool,
}

/// iced's flag bits as bits of RFLAGS.
pub fn rflags(bits: u32) -> u64 {
    [
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::AF, 4),
        (RflagsBits::ZF, 6),
        (RflagsBits::SF, 7),
        (RflagsBits::DF, 10),
        (RflagsBits::OF, 11),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .map(|(_, at)| 1 << at)
    .sum()
}

/// What an instruction leaves open.
pub fn open(insn: &Instruction, case: &Case) -> Open {
    let mut open = Open {
        flags: rflags(insn.rflags_undefined()),
        legacy: case.bits < 64,
        ..Open::default()
    };
    let count = case.input.gpr[1] as u32 & 31;
    let repeated = insn.has_rep_prefix() || insn.has_repne_prefix();
    match insn.mnemonic() {
        Mnemonic::Fldenv
        | Mnemonic::Fnstenv
        | Mnemonic::Frstor
        | Mnemonic::Fnsave
        | Mnemonic::Fbstp => {
            open.parts = true;
            open.either_fault = case.bits < 64;
        }
        Mnemonic::Fstp if insn.memory_size() == iced_x86::MemorySize::Float80 => {
            open.parts = true;
            open.either_fault = case.bits < 64;
        }
        Mnemonic::Fbld => open.either_fault = case.bits < 64,
        Mnemonic::Fld if insn.memory_size() == iced_x86::MemorySize::Float80 => {
            open.either_fault = case.bits < 64;
        }
        // Which part of an area is looked at first is the processor's own affair.
        Mnemonic::Fxsave
        | Mnemonic::Fxsave64
        | Mnemonic::Fxrstor
        | Mnemonic::Fxrstor64
        | Mnemonic::Xsave
        | Mnemonic::Xsave64
        | Mnemonic::Xrstor
        | Mnemonic::Xrstor64 => {
            open.page_only = true;
            open.either_fault = case.bits < 64;
        }
        // Intel's processors give the end of one of the selected elements, and not always of the same.
        Mnemonic::Vmaskmovps
        | Mnemonic::Vmaskmovpd
        | Mnemonic::Vpmaskmovd
        | Mnemonic::Vpmaskmovq => {
            open.page_only = insn.op0_kind() == iced_x86::OpKind::Memory;
            // Some elements beyond the segment's limit, others on pages that are not there.
            open.either_fault = case.bits < 64;
        }
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => open.page_only = true,
        // Whether the return address was stored already when the target turns out to be beyond the limit.
        Mnemonic::Call if case.bits < 64 => {
            open.parts = true;
            open.either_fault = true;
        }
        // A far pointer has two parts, too.
        Mnemonic::Les | Mnemonic::Lds | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs
            if case.bits < 64 =>
        {
            open.either_fault = true;
        }
        // Intel's processors load the registers one by one, and have loaded some.
        Mnemonic::Popa | Mnemonic::Popad => open.loaded_at_fault = true,
        // Both operands may fault: which is looked at first is the processor's own affair.
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => {
            open.either_fault = true;
            open.flags_at_fault = repeated;
        }
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => {
            open.flags_at_fault = repeated;
        }
        // Wider than the operand: the SDM leaves the result open, and processors differ.
        Mnemonic::Shld | Mnemonic::Shrd if insn.op1_register().size() == 2 => {
            let by = if insn.op_count() == 3 && insn.op2_kind() != iced_x86::OpKind::Register {
                insn.immediate8() as u32 & 31
            } else {
                count
            };
            if by > 16 {
                open.registers = 1 << insn.op0_register().number();
                open.memory = true;
                open.flags = 0x8d5;
            }
        }
        _ => {}
    }
    open
}

/// CF, PF, AF, ZF, SF, OF.
const ARITHMETIC: u64 = 0x8d5;

/// Where the addresses begin that a program cannot map: the last page of the lower half is one of them.
const LINUX_HALF: u64 = (1 << 47) - 4096;

fn same_end(native: &End, engine: &End, open: Open) -> bool {
    let (
        End::Fault {
            vector,
            code,
            cr2,
            rip,
        },
        End::Fault {
            vector: engine_vector,
            code: engine_code,
            cr2: engine_cr2,
            rip: engine_rip,
        },
    ) = (native, engine)
    else {
        return native == engine;
    };
    if open.either_fault && rip == engine_rip {
        return true;
    }
    // For addresses of its own part Linux says "present" whatever the tables say.
    let hidden = (*vector == 14 && *cr2 >= LINUX_HALF) as u64;
    vector == engine_vector
        && (code ^ engine_code) & !hidden == 0
        && rip == engine_rip
        && (cr2 == engine_cr2 || open.parts || open.page_only && (cr2 ^ engine_cr2) >> 12 == 0)
}

/// A difference, in words; nothing if there is none.
pub fn differences(native: &Outcome, engine: &Outcome, open: Open) -> Vec<String> {
    let mut out = Vec::new();
    if !same_end(&native.end, &engine.end, open) {
        out.push(format!(
            "end: host {}, engine {}",
            end(&native.end),
            end(&engine.end)
        ));
    }
    let (n, e) = (&native.registers, &engine.registers);
    let (count, mask) = if open.legacy {
        (8, 0xffff_ffff)
    } else {
        (16, u64::MAX)
    };
    let loaded = open.loaded_at_fault && matches!(native.end, End::Fault { .. });
    for (i, name) in NAMES.iter().enumerate().take(count) {
        if loaded && i != 4 {
            continue;
        }
        if (n.gpr[i] ^ e.gpr[i]) & mask != 0 && open.registers >> i & 1 == 0 {
            out.push(format!(
                "{name}: host {:016x}, engine {:016x}",
                n.gpr[i], e.gpr[i]
            ));
        }
    }
    let mut flags = !open.flags;
    if open.flags_at_fault && matches!(native.end, End::Fault { .. }) {
        flags &= !ARITHMETIC;
    }
    if (n.rflags ^ e.rflags) & flags != 0 {
        out.push(format!(
            "rflags: host {}, engine {} (left open: {})",
            flag_names(n.rflags),
            flag_names(e.rflags),
            flag_names(open.flags)
        ));
    }
    for (name, n, e) in [
        ("fs base", n.fs_base, e.fs_base),
        ("gs base", n.gs_base, e.gs_base),
    ] {
        if n != e {
            out.push(format!("{name}: host {n:016x}, engine {e:016x}"));
        }
    }
    for (i, name) in ["es", "ss", "ds", "fs", "gs"].iter().enumerate() {
        // Four selectors are null, and which of them it was is lost where the host's kernel switches tasks.
        let null = |selector: u64| if selector < 4 { 0 } else { selector };
        let (n, e) = (null(n.selectors[i]), null(e.selectors[i]));
        if n != e {
            out.push(format!("{name}: host {n:x}, engine {e:x}"));
        }
    }
    vector_differences(&n.vector, &e.vector, &mut out);
    out
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// CPUID leaf 7: FDP_EXCPTN_ONLY.
fn host_notes_exceptions_only() -> bool {
    static NOTES: OnceLock<bool> = OnceLock::new();
    *NOTES.get_or_init(|| __cpuid_count(7, 0).ebx >> 6 & 1 != 0)
}

fn vector_differences(n: &VectorState, e: &VectorState, out: &mut Vec<String>) {
    for i in 0..16 {
        if n.ymm(i) != e.ymm(i) {
            out.push(format!(
                "ymm{i}: host {}\n        engine {}",
                ymm(n.ymm(i)),
                ymm(e.ymm(i))
            ));
        }
    }
    // Where an unmasked exception is raised, PE is the engine's own (docs/undefined.md).
    const PE: u32 = 1 << 5;
    let unmasked = n.mxcsr() & 0x3f & !(n.mxcsr() >> 7) != 0;
    let left_open = if unmasked { PE } else { 0 };
    if (n.mxcsr() ^ e.mxcsr()) & !left_open != 0 {
        out.push(format!(
            "mxcsr: host {:04x}, engine {:04x}",
            n.mxcsr(),
            e.mxcsr()
        ));
    }
    for (name, at) in [("x87 control", 0), ("x87 status", 2)] {
        if n.word(at) != e.word(at) {
            out.push(format!(
                "{name}: host {:04x}, engine {:04x}",
                n.word(at),
                e.word(at)
            ));
        }
    }
    let (host, engine) = (n.quad(8), e.quad(8));
    if canonical(host) != canonical(engine) {
        out.push(format!(
            "x87 instruction pointer: host {host:x}, engine {engine:x}"
        ));
    }
    // The engine is a processor that notes operand and opcode at unmasked exceptions only.
    if host_notes_exceptions_only() {
        let (host, engine) = (n.quad(16), e.quad(16));
        if canonical(host) != canonical(engine) {
            out.push(format!(
                "x87 data pointer: host {host:x}, engine {engine:x}"
            ));
        }
        let (host, engine) = (n.word(6), e.word(6));
        if host != engine {
            out.push(format!("x87 opcode: host {host:x}, engine {engine:x}"));
        }
    }
    if n.0[4] != e.0[4] {
        out.push(format!(
            "x87 registers in use: host {:08b}, engine {:08b}",
            n.0[4], e.0[4]
        ));
    }
    for i in 0..8 {
        if n.st(i) != e.st(i) {
            let (a, b) = (n.st(i), e.st(i));
            out.push(format!(
                "st{i}: host {:04x}:{:016x}, engine {:04x}:{:016x}",
                a.1, a.0, b.1, b.0
            ));
        }
    }
}

/// A pointer as a processor of 48-bit addresses loads it: those with 57 bits keep more of what is not canonical.
fn canonical(pointer: u64) -> u64 {
    ((pointer << 16) as i64 >> 16) as u64
}

fn ymm(value: [u64; 4]) -> String {
    format!(
        "{:016x}_{:016x}_{:016x}_{:016x}",
        value[3], value[2], value[1], value[0]
    )
}

fn end(end: &End) -> String {
    match *end {
        End::Exit(n) => format!("exit {n}"),
        End::Fault {
            vector,
            code,
            cr2,
            rip,
        } => format!("exception {vector} (code {code:#x}, cr2 {cr2:#x}) at {rip:#x}"),
        End::Lost(rip) => format!("still at {rip:#x}"),
    }
}

/// The flags of a value of RFLAGS by name.
pub fn flag_names(rflags: u64) -> String {
    let mut out = String::new();
    for (bit, name) in [
        (11, "O"),
        (10, "D"),
        (7, "S"),
        (6, "Z"),
        (4, "A"),
        (2, "P"),
        (0, "C"),
        (16, "RF"),
        (18, "AC"),
    ] {
        out.push_str(if rflags >> bit & 1 != 0 { name } else { "-" });
    }
    let _ = write!(out, "[{rflags:x}]");
    out
}

/// One readable block: what ran, with which operands, and what differed.
pub fn block(title: &str, case: &Case, differences: &[String]) -> String {
    let mut out = format!("== {title}\n");
    let mut formatter = FastFormatter::new();
    formatter.options_mut().set_use_hex_prefix(true);
    for (address, bytes) in &case.code {
        let mut at = case.pointer(*address);
        let mut rest = &bytes[..];
        let mut shown = 0;
        while !rest.is_empty() && shown < 48 {
            let insn = decode(case.bits, rest, at);
            let mut text = String::new();
            formatter.format(&insn, &mut text);
            let hex: String = rest[..insn.len()]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let _ = writeln!(out, "   {at:x}: {hex:<22} {text}");
            if insn.code() == Code::INVALID {
                break;
            }
            at += insn.len() as u64;
            rest = &rest[insn.len()..];
            shown += 1;
        }
    }
    let input = &case.input;
    for (row, names) in NAMES.chunks(4).enumerate() {
        out.push_str("  ");
        for (i, name) in names.iter().enumerate() {
            let _ = write!(out, " {name}={:016x}", input.gpr[4 * row + i]);
        }
        out.push('\n');
    }
    let _ = writeln!(out, "   es ss ds fs gs: {:x?}", input.selectors);
    let _ = writeln!(
        out,
        "   rflags={} mxcsr={:04x} x87 control={:04x} status={:04x} stepped={} cold={}",
        flag_names(input.rflags),
        input.vector.mxcsr(),
        input.vector.word(0),
        input.vector.word(2),
        case.stepped,
        case.cold
    );
    for (at, bytes) in &case.pokes {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(out, "   memory {at:x}: {hex}");
    }
    if let Some((address, bytes)) = case.code.first() {
        let insn = decode(case.bits, bytes, *address);
        if format!("{:?}", insn.code()).starts_with('F') {
            for n in 0..8 {
                let (significand, top) = input.vector.st(n);
                let _ = writeln!(out, "   st{n}={top:04x}:{significand:016x}");
            }
        }
        for n in 0..insn.op_count() {
            let register = insn.op_register(n);
            if register.is_xmm() || register.is_ymm() {
                let value = ymm(input.vector.ymm(register.number()));
                let _ = writeln!(out, "   ymm{}={value}", register.number());
            }
        }
    }
    for difference in differences {
        let _ = writeln!(out, "   -> {difference}");
    }
    out
}
