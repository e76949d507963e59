//! Makes instructions of a given form with random operands, and registers and memory to go with them.

use crate::case::{Case, Registers, VectorState};
use crate::layout::{self, CODE, DATA, PAGE};
use crate::values;
use fastrand::Rng;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, MemorySize, Mnemonic, OpCodeOperandKind,
    OpKind, Register,
};

/// An instruction that is about to become a case.
pub struct Draft {
    pub insn: Instruction,
    pub input: Registers,
    pub pokes: Vec<(u64, Vec<u8>)>,
    pub ticks: u64,
    /// General registers whose value is decided (by number).
    pinned: u32,
}

/// An address in the low half that is canonical with neither 48 nor 57 bits.
const NOT_CANONICAL: u64 = 0x0123_4567_89ab_cde0;

/// Where a memory operand of `bytes` bytes is to lie.
pub fn target(rng: &mut Rng, bytes: u64) -> u64 {
    let page = PAGE as u64;
    let bytes = bytes.max(1);
    let inside = |rng: &mut Rng| {
        let at = DATA + rng.u64(256..3 * page - 256 - bytes.min(1024));
        if rng.u8(0..3) > 0 {
            at & !(bytes.next_power_of_two().min(64) - 1)
        } else {
            at
        }
    };
    let across = |rng: &mut Rng, edge: u64| edge - rng.u64(0..bytes + 1);
    match rng.u8(0..100) {
        0..=79 => inside(rng),
        80..=82 => across(rng, DATA + page),
        83..=85 => across(rng, DATA + 2 * page),
        // Into the read-only page, out of it, inside it.
        86..=87 => across(rng, DATA + 3 * page),
        88..=89 => across(rng, DATA + 4 * page),
        90..=91 => DATA + 3 * page + rng.u64(0..page - bytes.min(2048)),
        // Where nothing is, or just before.
        92..=93 => across(rng, DATA + 5 * page),
        94..=95 => across(rng, DATA + 6 * page),
        96 => across(rng, DATA),
        97 => DATA + 4 * page + rng.u64(0..page),
        98 => NOT_CANONICAL + rng.u64(0..64),
        // High in the lower half, below the last page, which Linux keeps for itself.
        _ => (1 << 47) - 3 * page + rng.u64(0..page),
    }
}

/// Memory that instructions of unusual operands touch, in bytes.
pub fn operand_bytes(insn: &Instruction) -> u64 {
    match insn.memory_size() {
        MemorySize::Unknown => 8,
        MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte => 512,
        MemorySize::Xsave | MemorySize::Xsave64 => 832,
        size => size.size() as u64,
    }
}

fn general(rng: &mut Rng, base: Register) -> Register {
    base + rng.u32(0..16)
}

fn register(rng: &mut Rng, kind: OpCodeOperandKind) -> Option<Register> {
    use OpCodeOperandKind::*;
    let n8 = |rng: &mut Rng| rng.u32(0..8);
    Some(match kind {
        r8_or_mem | r8_reg | r8_opcode => Register::AL + rng.u32(0..20),
        r16_or_mem | r16_reg | r16_reg_mem | r16_rm | r16_opcode => general(rng, Register::AX),
        r32_or_mem | r32_reg | r32_reg_mem | r32_rm | r32_opcode | r32_vvvv => {
            general(rng, Register::EAX)
        }
        r64_or_mem | r64_reg | r64_reg_mem | r64_rm | r64_opcode | r64_vvvv => {
            general(rng, Register::RAX)
        }
        seg_reg => Register::ES + rng.u32(0..6),
        mm_or_mem | mm_reg | mm_rm => Register::MM0 + n8(rng),
        xmm_or_mem | xmm_reg | xmm_rm | xmm_vvvv | xmm_is4 | xmm_is5 => {
            Register::XMM0 + rng.u32(0..16)
        }
        ymm_or_mem | ymm_reg | ymm_rm | ymm_vvvv | ymm_is4 | ymm_is5 => {
            Register::YMM0 + rng.u32(0..16)
        }
        sti_opcode => Register::ST0 + n8(rng),
        cr_reg => [
            Register::CR0,
            Register::CR2,
            Register::CR3,
            Register::CR4,
            Register::CR8,
        ][rng.usize(0..5)],
        dr_reg => Register::DR0 + n8(rng),
        es => Register::ES,
        cs => Register::CS,
        ss => Register::SS,
        ds => Register::DS,
        fs => Register::FS,
        gs => Register::GS,
        al => Register::AL,
        cl => Register::CL,
        ax => Register::AX,
        dx => Register::DX,
        eax => Register::EAX,
        rax => Register::RAX,
        st0 => Register::ST0,
        _ => return Option::None,
    })
}

fn is_or_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::*;
    matches!(
        kind,
        r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem | mm_or_mem | xmm_or_mem | ymm_or_mem
    )
}

/// Puts a random memory operand into an instruction.
fn set_memory(rng: &mut Rng, insn: &mut Instruction, kind: OpCodeOperandKind, at: u64) {
    use OpCodeOperandKind::*;
    let vsib = match kind {
        mem_vsib32x | mem_vsib64x => Some(Register::XMM0),
        mem_vsib32y | mem_vsib64y => Some(Register::YMM0),
        _ => Option::None,
    };
    if kind == mem_offs {
        insn.set_memory_displ_size(8);
        insn.set_memory_displacement64(at);
    } else {
        let narrow = rng.u8(0..8) == 0 && at >> 32 == 0;
        let base = if narrow { Register::EAX } else { Register::RAX };
        let shape = rng.u8(0..10);
        let low = at < 1 << 31;
        if let Some(index) = vsib {
            insn.set_memory_base(general(rng, base));
            insn.set_memory_index(index + rng.u32(0..16));
            insn.set_memory_index_scale(1 << rng.u32(0..4));
        } else if shape < 2 && low {
            insn.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
        } else if shape < 3 && low {
            insn.set_memory_displacement64(at);
        } else {
            if shape > 3 || !low {
                insn.set_memory_base(general(rng, base));
            }
            if shape > 6 || shape == 3 && low {
                let index = general(rng, base);
                if !matches!(index, Register::RSP | Register::ESP) {
                    insn.set_memory_index(index);
                    insn.set_memory_index_scale(1 << rng.u32(0..4));
                }
            }
        }
        let register = insn.memory_base() != Register::None && !insn.memory_base().is_ip()
            || insn.memory_index() != Register::None;
        let size = if narrow { 4 } else { 8 };
        if !register {
            insn.set_memory_displ_size(size);
            insn.set_memory_displacement64(at);
        } else {
            let displacement = match rng.u8(0..4) {
                0 => 0,
                1 => rng.i8(..) as i64,
                _ => (rng.i32(..) >> rng.u32(0..24)) as i64,
            };
            let no_base = insn.memory_base() == Register::None;
            insn.set_memory_displ_size(if displacement == 0 && !no_base {
                0
            } else {
                size
            });
            insn.set_memory_displacement64(displacement as u64);
        }
    }
    insn.set_segment_prefix(match rng.u8(0..40) {
        0 | 1 => Register::FS,
        2 | 3 => Register::GS,
        // Without effect in 64-bit mode.
        4 => Register::DS,
        5 => Register::SS,
        6 => Register::ES,
        7 => Register::CS,
        _ => Register::None,
    });
}

/// Sets an operand that is neither a register nor memory; `false` if it is of no kind known here.
fn set_immediate(
    rng: &mut Rng,
    insn: &mut Instruction,
    n: u32,
    kind: OpCodeOperandKind,
    branch: u64,
) -> bool {
    use OpCodeOperandKind::*;
    let value = values::integer(rng);
    match kind {
        imm8 => {
            let second = (0..n).any(|i| {
                matches!(
                    insn.op_kind(i),
                    OpKind::Immediate8 | OpKind::Immediate16 | OpKind::Immediate32
                )
            });
            if second {
                insn.set_op_kind(n, OpKind::Immediate8_2nd);
                insn.set_immediate8_2nd(value as u8);
            } else {
                insn.set_op_kind(n, OpKind::Immediate8);
                insn.set_immediate8(value as u8);
            }
        }
        imm8_const_1 => {
            insn.set_op_kind(n, OpKind::Immediate8);
            insn.set_immediate8(1);
        }
        imm8sex16 => {
            insn.set_op_kind(n, OpKind::Immediate8to16);
            insn.set_immediate8to16(value as i8 as i16);
        }
        imm8sex32 => {
            insn.set_op_kind(n, OpKind::Immediate8to32);
            insn.set_immediate8to32(value as i8 as i32);
        }
        imm8sex64 => {
            insn.set_op_kind(n, OpKind::Immediate8to64);
            insn.set_immediate8to64(value as i8 as i64);
        }
        imm16 => {
            insn.set_op_kind(n, OpKind::Immediate16);
            insn.set_immediate16(value as u16);
        }
        imm32 => {
            insn.set_op_kind(n, OpKind::Immediate32);
            insn.set_immediate32(value as u32);
        }
        imm32sex64 => {
            insn.set_op_kind(n, OpKind::Immediate32to64);
            insn.set_immediate32to64(value as i32 as i64);
        }
        imm64 => {
            insn.set_op_kind(n, OpKind::Immediate64);
            insn.set_immediate64(value);
        }
        seg_rSI => insn.set_op_kind(n, string_kind(rng, insn, OpKind::MemorySegRSI)),
        seg_rDI => insn.set_op_kind(n, string_kind(rng, insn, OpKind::MemorySegRDI)),
        es_rDI => insn.set_op_kind(n, string_kind(rng, insn, OpKind::MemoryESRDI)),
        seg_rBX_al => {
            insn.set_op_kind(n, OpKind::Memory);
            let wide = rng.u8(0..4) > 0;
            insn.set_memory_base(if wide { Register::RBX } else { Register::EBX });
            insn.set_memory_index(Register::AL);
            insn.set_memory_index_scale(1);
        }
        br64_1 | br64_4 => {
            insn.set_op_kind(n, OpKind::NearBranch64);
            insn.set_near_branch64(branch);
        }
        _ => return false,
    }
    true
}

/// The kind of an implicit string operand, all of one instruction with the same address size.
fn string_kind(rng: &mut Rng, insn: &Instruction, wide: OpKind) -> OpKind {
    let narrow = match insn.op0_kind() {
        OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI => true,
        OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI => false,
        _ => rng.u8(0..6) == 0,
    };
    match (wide, narrow) {
        (_, false) => wide,
        (OpKind::MemorySegRSI, true) => OpKind::MemorySegESI,
        (OpKind::MemorySegRDI, true) => OpKind::MemorySegEDI,
        (_, true) => OpKind::MemoryESEDI,
    }
}

/// A random instruction of a form; `None` if it has operands of a kind not known here.
pub fn operands(rng: &mut Rng, code: Code, at: u64, branch: u64) -> Option<Instruction> {
    let info = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    for n in 0..info.op_count() {
        let kind = info.op_kind(n);
        if is_memory(kind) || is_or_memory(kind) && rng.bool() {
            insn.set_op_kind(n, OpKind::Memory);
            set_memory(rng, &mut insn, kind, at);
        } else if let Some(register) = register(rng, kind) {
            insn.set_op_kind(n, OpKind::Register);
            insn.set_op_register(n, register);
        } else if !set_immediate(rng, &mut insn, n, kind, branch) {
            return None;
        }
    }
    if insn.op0_kind() == OpKind::Memory && info.can_use_lock_prefix() && rng.bool() {
        insn.set_has_lock_prefix(true);
    }
    if info.can_use_rep_prefix() && rng.u8(0..3) > 0 {
        insn.set_has_rep_prefix(true);
    } else if info.can_use_repne_prefix() && rng.bool() {
        insn.set_has_repne_prefix(true);
    }
    Some(insn)
}

/// The bytes of an instruction and the instruction as decoded from them; `None` if the operands chosen do not go
/// together.
pub fn encode(insn: &Instruction, start: u64) -> Option<(Instruction, Vec<u8>)> {
    let mut encoder = Encoder::new(64);
    encoder.encode(insn, start).ok()?;
    let bytes = encoder.take_buffer();
    let again = decode(&bytes, start);
    (again.code() == insn.code() && again.len() == bytes.len()).then_some((again, bytes))
}

fn is_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::*;
    matches!(
        kind,
        mem | mem_offs | mem_vsib32x | mem_vsib64x | mem_vsib32y | mem_vsib64y
    )
}

/// Whether an instruction with its operand at `at` would lock the bus for two cache lines. Linux traps that and
/// makes the process wait, so that such cases are not run; the same without a lock are.
pub fn splits_lock(insn: &Instruction, at: u64) -> bool {
    let locked = insn.has_lock_prefix()
        || insn.mnemonic() == Mnemonic::Xchg
            && (insn.op0_kind() == OpKind::Memory || insn.op1_kind() == OpKind::Memory);
    locked && at & 63 > 64 - operand_bytes(insn)
}

/// Decodes one instruction as the engine does.
pub fn decode(bytes: &[u8], at: u64) -> Instruction {
    Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode()
}

impl Draft {
    fn pin(&mut self, register: usize, value: u64) {
        self.input.gpr[register] = value;
        self.pinned |= 1 << register;
    }

    fn is_pinned(&self, register: usize) -> bool {
        self.pinned >> register & 1 != 0
    }

    /// Chooses base and index so that the memory operand lies at a linear address. `None` if it cannot be.
    fn aim(&mut self, rng: &mut Rng, at: u64) -> Option<()> {
        let insn = self.insn;
        let base = insn.memory_base();
        let index = insn.memory_index();
        if base.is_ip() || base == Register::None && index == Register::None {
            return Some(());
        }
        let segment = match insn.segment_prefix() {
            Register::FS => self.input.fs_base,
            Register::GS => self.input.gs_base,
            _ => 0,
        };
        let narrow = base.is_gpr32() || index.is_gpr32();
        let mut offset = at
            .wrapping_sub(segment)
            .wrapping_sub(insn.memory_displacement64());
        if narrow && at.wrapping_sub(segment) >> 32 != 0 {
            return None;
        }
        let upper = |rng: &mut Rng| if narrow { rng.u64(..) << 32 } else { 0 };
        let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
        let scale = insn.memory_index_scale() as u64;
        if index.is_xmm() || index.is_ymm() {
            let value = upper(rng) | cut(offset);
            self.pin(base.number(), value);
            return Some(());
        }
        if index != Register::None && index != Register::AL {
            let n = index.number();
            if index == base {
                let value = offset / (scale + 1);
                if value * (scale + 1) != offset || self.is_pinned(n) {
                    return None;
                }
                self.pin(n, upper(rng) | cut(value));
                return Some(());
            }
            let value = match (base, self.is_pinned(n)) {
                (_, true) => self.input.gpr[n],
                (Register::None, false) => offset / scale,
                _ => upper(rng) | cut(values::integer(rng)),
            };
            self.pin(n, value);
            offset = offset.wrapping_sub(value.wrapping_mul(scale));
            if base == Register::None {
                return (cut(offset) == 0).then_some(());
            }
        }
        if index == Register::AL {
            offset = offset.wrapping_sub(self.input.gpr[0] & 0xff);
        }
        let n = base.number();
        if self.is_pinned(n) {
            return None;
        }
        let value = upper(rng) | cut(offset);
        self.pin(n, value);
        Some(())
    }
}

/// Values that the implicit operands of some instructions need to stay within reason.
fn prepare(rng: &mut Rng, draft: &mut Draft, at: u64) -> Option<()> {
    let insn = draft.insn;
    if insn.is_string_instruction() {
        prepare_string(rng, draft);
    }
    if insn.is_stack_instruction() {
        let rsp = match rng.u8(0..10) {
            0 => target(rng, 8),
            _ => (DATA + rng.u64(0x400..0x1c00)) & !if rng.bool() { 7 } else { 0 },
        };
        draft.pin(4, rsp);
        let rbp = match rng.u8(0..10) {
            0 => target(rng, 8),
            _ => DATA + rng.u64(0x400..0x1c00),
        };
        if matches!(insn.mnemonic(), Mnemonic::Enter | Mnemonic::Leave) {
            draft.pin(5, rbp);
        }
        if matches!(insn.mnemonic(), Mnemonic::Popf | Mnemonic::Popfq) {
            // Anything but the trap flag, which would trace the way back.
            let rsp = DATA + rng.u64(0x400..0x1c00);
            draft.pin(4, rsp);
            let flags = rng.u64(..) & !0x100;
            draft.pokes.push((rsp, flags.to_le_bytes().to_vec()));
        }
    }
    match insn.mnemonic() {
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
            if insn.op0_kind() == OpKind::Memory && insn.op1_kind() == OpKind::Register =>
        {
            let n = insn.op1_register().number();
            let far = rng.i64(..) >> 32;
            let near = rng.i64(-3000..3000);
            let mut bit = if rng.u8(0..8) == 0 { far } else { near };
            if insn.has_lock_prefix() {
                // Within the operand, of which is known that it crosses no cache line.
                bit = rng.i64(0..16);
            }
            let upper = match insn.op1_register().size() {
                2 => rng.u64(..) << 16 | bit as u16 as u64,
                4 => rng.u64(..) << 32 | bit as u32 as u64,
                _ => bit as u64,
            };
            draft.pin(n, upper);
        }
        Mnemonic::Div | Mnemonic::Idiv if rng.u8(0..4) > 0 => {
            // Quotients that fit.
            let dividend = values::integer(rng);
            draft.pin(0, dividend);
            draft.pin(
                2,
                match rng.u8(0..3) {
                    0 => (dividend as i64 >> 63) as u64,
                    1 => rng.u64(0..4),
                    _ => 0,
                },
            );
        }
        Mnemonic::Xsave | Mnemonic::Xsave64 | Mnemonic::Xrstor | Mnemonic::Xrstor64 => {
            let components = if rng.bool() { 7 } else { rng.u64(0..8) } | nobody_has(rng);
            let garbage = rng.u64(..) << 32;
            draft.pin(0, components & 0xffff_ffff | garbage);
            draft.pin(2, components >> 32 | garbage);
        }
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => {
            // Whether bytes that the mask leaves out can fault is the processor's own affair.
            draft.pin(7, DATA + rng.u64(0x100..0x2f00));
        }
        _ => {}
    }
    if (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory) {
        let vsib = insn.memory_index();
        if vsib.is_xmm() || vsib.is_ymm() {
            let quads = insn.is_vsib64();
            draft.set_gather_indices(rng, vsib.number(), quads);
        }
        draft.aim(rng, at)?;
    }
    Some(())
}

fn prepare_string(rng: &mut Rng, draft: &mut Draft) {
    let bytes = draft.insn.memory_size().size() as u64;
    let mut count = match rng.u8(0..8) {
        0 => 0,
        1 => rng.u64(0..5000),
        _ => rng.u64(0..40),
    };
    let narrow = (0..draft.insn.op_count()).any(|n| {
        matches!(
            draft.insn.op_kind(n),
            OpKind::MemoryESEDI | OpKind::MemorySegESI | OpKind::MemorySegEDI
        )
    });
    let overlap = rng.u8(0..4) == 0;
    let mut from = target(rng, bytes);
    let mut to = if overlap {
        from.wrapping_add(rng.u64(0..64)).wrapping_sub(32)
    } else {
        target(rng, bytes)
    };
    if narrow {
        let garbage = rng.u64(..) << 32;
        count |= garbage;
        from = from & 0xffff_ffff | garbage;
        to = to & 0xffff_ffff | rng.u64(..) << 32;
    }
    let repeated = draft.insn.has_rep_prefix() || draft.insn.has_repne_prefix();
    if repeated {
        draft.pin(1, count);
    }
    let segment = match draft.insn.segment_prefix() {
        Register::FS => draft.input.fs_base,
        Register::GS => draft.input.gs_base,
        _ => 0,
    };
    draft.pin(6, from.wrapping_sub(segment));
    draft.pin(7, to);
    draft.ticks = 8192;
}

impl Draft {
    /// Small indices, so that gathers stay near the window.
    fn set_gather_indices(&mut self, rng: &mut Rng, register: usize, quads: bool) {
        let mut words = [0u64; 4];
        for word in &mut words {
            let spread = if rng.u8(0..6) == 0 { 4000 } else { 60 };
            *word = if quads {
                rng.i64(-spread..spread) as u64
            } else {
                let half = |rng: &mut Rng| rng.i32(-(spread as i32)..spread as i32) as u32 as u64;
                half(rng) | half(rng) << 32
            };
        }
        self.input.vector.set_ymm(register, words);
    }
}

/// Registers with random content and flags.
pub fn registers(rng: &mut Rng) -> Registers {
    let mut gpr = [0; 16];
    for value in &mut gpr {
        *value = values::integer(rng);
    }
    // CF, PF, AF, ZF, SF, OF and, seldom, DF.
    let mut rflags = 0x202 | rng.u64(..) & 0x8d5;
    if rng.u8(0..4) == 0 {
        rflags |= 0x400;
    }
    Registers {
        gpr,
        rflags,
        // Multiples of a cache line: see `splits_lock`.
        fs_base: DATA + 0x140,
        gs_base: DATA.wrapping_sub(0x10_0000),
        vector: values::vector_registers(rng),
    }
}

/// Whether a form computes with x87 or MMX registers, and whether with those of SSE.
fn units(code: Code) -> (bool, bool) {
    let info = code.op_code();
    let any =
        |wanted: fn(OpCodeOperandKind) -> bool| info.op_kinds().iter().any(|&kind| wanted(kind));
    use OpCodeOperandKind::*;
    let mmx = any(|kind| matches!(kind, mm_or_mem | mm_reg | mm_rm));
    let sse = any(|kind| {
        matches!(
            kind,
            xmm_or_mem | xmm_reg | xmm_rm | xmm_vvvv | ymm_or_mem | ymm_reg | ymm_rm | ymm_vvvv
        )
    });
    let area = is_save_area(code);
    let x87 = info.fwait() || format!("{code:?}").starts_with('F') || code == Code::Wait || area;
    (mmx || x87 || code == Code::Emms, sse)
}

/// A case of a form; `None` when these random choices make none. Gives the instruction as decoded.
pub fn single(rng: &mut Rng, code: Code, windows: usize) -> Option<(Case, Instruction)> {
    let page = PAGE as u64;
    let start = match rng.u8(0..50) {
        // Across the two pages, or into the void behind them.
        0..=3 => CODE + page - rng.u64(1..20),
        4 => CODE + 2 * page - rng.u64(1..16),
        _ => CODE + 0x100 + rng.u64(0..0x100),
    };
    let taken = if rng.bool() {
        start + 40 + rng.u64(0..60)
    } else {
        start - 40 - rng.u64(0..60)
    };
    let mut at = target(rng, code_bytes(code));
    // Displacements can say less than the whole address.
    if code.op_code().op_count() > 0 && rng.u8(0..4) == 0 && at >> 31 != 0 {
        at = DATA + rng.u64(0..0x2000);
    }
    if is_save_area(code) && rng.u8(0..8) > 0 {
        at &= !63;
    }
    let insn = operands(rng, code, at, taken)?;
    let (insn, bytes) = encode(&insn, start)?;
    if splits_lock(&insn, at) {
        return None;
    }
    let mut draft = Draft {
        insn,
        input: registers(rng),
        pokes: Vec::new(),
        ticks: 24,
        pinned: 0,
    };
    let (x87, sse) = units(code);
    if x87 || rng.u8(0..8) == 0 {
        values::x87(rng, &mut draft.input.vector);
    }
    if sse || rng.u8(0..8) == 0 {
        draft.input.vector.set_mxcsr(values::mxcsr(rng));
    }
    prepare(rng, &mut draft, at)?;
    let area = is_save_area(code);
    let popf = matches!(insn.mnemonic(), Mnemonic::Popf | Mnemonic::Popfq);
    if rng.u8(0..4) > 0 && !popf {
        let operand = values::lanes(rng, operand_bytes(&insn).min(64) as usize);
        draft.pokes.push((at, operand));
    }
    if area {
        prepare_save_area(rng, &mut draft, at)?;
    }
    aim_branch(rng, &mut draft, at, taken);
    let mut code_bytes = bytes;
    code_bytes.extend(layout::leave(0));
    let case = Case {
        code: vec![(start, code_bytes), (taken, layout::leave(1).to_vec())],
        start,
        input: draft.input,
        window: rng.usize(0..windows),
        pokes: draft.pokes,
        ticks: draft.ticks,
        stepped: rng.u8(0..4) == 0,
        cold: rng.u8(0..8) == 0,
    };
    Some((case, insn))
}

/// FXSAVE, XSAVE and their kin.
fn is_save_area(code: Code) -> bool {
    matches!(
        code.mnemonic(),
        Mnemonic::Fxsave
            | Mnemonic::Fxsave64
            | Mnemonic::Fxrstor
            | Mnemonic::Fxrstor64
            | Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64
    )
}

/// An area that can be restored, mostly, and only of components that the engine has. (A host may have more, which
/// would be saved and restored if EDX:EAX or the header named them.)
fn prepare_save_area(rng: &mut Rng, draft: &mut Draft, at: u64) -> Option<()> {
    let mut image = VectorState::initial();
    values::x87(rng, &mut image);
    for pointer in [8, 16] {
        image.set(pointer, values::integer(rng).to_le_bytes());
    }
    draft.pokes.push((at, image.0[..24].to_vec()));
    if rng.u8(0..8) > 0 {
        let mxcsr = values::mxcsr(rng);
        draft.pokes.push((at + 24, mxcsr.to_le_bytes().to_vec()));
    }
    if !format!("{:?}", draft.insn.code()).starts_with('X') {
        return Some(());
    }
    if at.wrapping_add(512) / PAGE as u64 == DATA / PAGE as u64 + layout::READ_ONLY {
        // The header would be whatever is there.
        return None;
    }
    let present = if rng.bool() { 7 } else { rng.u64(0..8) } | nobody_has(rng);
    // Bit 63 would say that the area is compacted, which the engine does not offer.
    let some = |rng: &mut Rng| {
        if rng.u8(0..12) == 0 {
            rng.u64(..) >> 1
        } else {
            0
        }
    };
    let header = [present, some(rng), some(rng), some(rng)];
    for (n, word) in (0..).zip(header) {
        let to = at.wrapping_add(512 + 8 * n);
        draft.pokes.push((to, word.to_le_bytes().to_vec()));
    }
    Some(())
}

/// No processor has state component 62 yet.
fn nobody_has(rng: &mut Rng) -> u64 {
    (rng.u8(0..12) == 0) as u64 * (1 << 62)
}

fn code_bytes(code: Code) -> u64 {
    let mut insn = Instruction::default();
    insn.set_code(code);
    insn.set_op0_kind(OpKind::Memory);
    operand_bytes(&insn)
}

/// Lets indirect branches and returns go where something stands.
fn aim_branch(rng: &mut Rng, draft: &mut Draft, at: u64, taken: u64) {
    let insn = draft.insn;
    let to = match rng.u8(0..8) {
        0 => NOT_CANONICAL,
        1 => target(rng, 1),
        _ => taken,
    };
    match insn.mnemonic() {
        Mnemonic::Ret => {
            let rsp = draft.input.gpr[4];
            draft.pokes.push((rsp, to.to_le_bytes().to_vec()));
        }
        Mnemonic::Jmp | Mnemonic::Call if insn.op0_kind() == OpKind::Memory => {
            draft.pokes.push((at, to.to_le_bytes().to_vec()));
        }
        Mnemonic::Jmp | Mnemonic::Call if insn.op0_kind() == OpKind::Register => {
            let n = insn.op0_register().number();
            draft.input.gpr[n] = to;
        }
        _ => {}
    }
}
