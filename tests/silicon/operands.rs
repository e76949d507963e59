//! Makes instructions of a given form with random operands, in each of the three code sizes.

use crate::values;
use fastrand::Rng;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, OpCodeOperandKind, OpKind, Register,
};

/// General and vector registers that a mode has.
fn count(bits: u32) -> u32 {
    if bits == 64 { 16 } else { 8 }
}

fn register(rng: &mut Rng, bits: u32, kind: OpCodeOperandKind) -> Option<Register> {
    use OpCodeOperandKind::*;
    let n8 = |rng: &mut Rng| rng.u32(0..8);
    let any = |rng: &mut Rng, first: Register| first + rng.u32(0..count(bits));
    // In iced's order: SPL and the upper ones come last.
    let bytes = if bits == 64 { 20 } else { 8 };
    Some(match kind {
        r8_or_mem | r8_reg | r8_opcode => Register::AL + rng.u32(0..bytes),
        r16_or_mem | r16_reg | r16_reg_mem | r16_rm | r16_opcode => any(rng, Register::AX),
        r32_or_mem | r32_reg | r32_reg_mem | r32_rm | r32_opcode | r32_vvvv => {
            any(rng, Register::EAX)
        }
        r64_or_mem | r64_reg | r64_reg_mem | r64_rm | r64_opcode | r64_vvvv => {
            any(rng, Register::RAX)
        }
        seg_reg => Register::ES + rng.u32(0..6),
        mm_or_mem | mm_reg | mm_rm => Register::MM0 + n8(rng),
        xmm_or_mem | xmm_reg | xmm_rm | xmm_vvvv | xmm_is4 | xmm_is5 => any(rng, Register::XMM0),
        ymm_or_mem | ymm_reg | ymm_rm | ymm_vvvv | ymm_is4 | ymm_is5 => any(rng, Register::YMM0),
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
fn set_memory(rng: &mut Rng, bits: u32, insn: &mut Instruction, kind: OpCodeOperandKind, at: u64) {
    use OpCodeOperandKind::*;
    let vsib = match kind {
        mem_vsib32x | mem_vsib64x => Some(Register::XMM0),
        mem_vsib32y | mem_vsib64y => Some(Register::YMM0),
        _ => Option::None,
    };
    // The other address size than the mode's, sometimes.
    let size = match (bits, rng.u8(0..8) == 0) {
        (64, true) if at >> 32 == 0 && kind != mem_offs => 4,
        (64, _) => 8,
        (32, false) | (16, true) => 4,
        _ if vsib.is_some() => 4,
        _ => 2,
    };
    if kind == mem_offs {
        insn.set_memory_displ_size(size);
        insn.set_memory_displacement64(at);
    } else if size == 2 {
        set_memory_16(rng, insn, at);
    } else {
        set_memory_wide(rng, bits, insn, size, vsib, at);
    }
    let segments = [Register::DS, Register::SS, Register::ES, Register::CS];
    insn.set_segment_prefix(match rng.u8(0..40) {
        0 | 1 => Register::FS,
        2 | 3 => Register::GS,
        // Without effect in 64-bit mode.
        n @ 4..=7 => segments[n as usize - 4],
        _ => Register::None,
    });
}

/// Addresses of 16 bits: SDM volume 2, table 2-1.
fn set_memory_16(rng: &mut Rng, insn: &mut Instruction, at: u64) {
    const PAIRS: [(Register, Register); 9] = [
        (Register::BX, Register::SI),
        (Register::BX, Register::DI),
        (Register::BP, Register::SI),
        (Register::BP, Register::DI),
        (Register::SI, Register::None),
        (Register::DI, Register::None),
        (Register::BP, Register::None),
        (Register::BX, Register::None),
        (Register::None, Register::None),
    ];
    let (base, index) = PAIRS[rng.usize(0..9)];
    insn.set_memory_base(base);
    insn.set_memory_index(index);
    if base == Register::None {
        insn.set_memory_displ_size(2);
        insn.set_memory_displacement64(at & 0xffff);
        return;
    }
    let displacement = match rng.u8(0..3) {
        0 => 0,
        1 => rng.i8(..) as u16,
        _ => rng.u16(..),
    };
    insn.set_memory_displ_size((displacement != 0) as u32 * 2);
    insn.set_memory_displacement64(displacement as u64);
}

fn set_memory_wide(
    rng: &mut Rng,
    bits: u32,
    insn: &mut Instruction,
    size: u32,
    vsib: Option<Register>,
    at: u64,
) {
    let narrow = size == 4;
    let first = if narrow { Register::EAX } else { Register::RAX };
    let general = |rng: &mut Rng| first + rng.u32(0..count(bits));
    let shape = rng.u8(0..10);
    let low = at < 1 << 31 || bits < 64;
    if let Some(index) = vsib {
        insn.set_memory_base(general(rng));
        insn.set_memory_index(index + rng.u32(0..count(bits)));
        insn.set_memory_index_scale(1 << rng.u32(0..4));
    } else if shape < 2 && low && bits == 64 {
        insn.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
    } else if shape < 3 && low {
        insn.set_memory_displacement64(at);
    } else {
        if shape > 3 || !low {
            insn.set_memory_base(general(rng));
        }
        if shape > 6 || shape == 3 && low {
            let index = general(rng);
            if !matches!(index, Register::RSP | Register::ESP) {
                insn.set_memory_index(index);
                insn.set_memory_index_scale(1 << rng.u32(0..4));
            }
        }
    }
    let register = insn.memory_base() != Register::None && !insn.memory_base().is_ip()
        || insn.memory_index() != Register::None;
    if !register {
        insn.set_memory_displ_size(size);
        insn.set_memory_displacement64(at);
        return;
    }
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
    let cut = if bits == 64 { u64::MAX } else { 0xffff_ffff };
    insn.set_memory_displacement64(displacement as u64 & cut);
}

/// Sets an operand that is neither a register nor memory; `false` if it is of no kind known here.
fn set_immediate(
    rng: &mut Rng,
    bits: u32,
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
        seg_rSI => insn.set_op_kind(n, string_kind(rng, bits, insn, OpKind::MemorySegRSI)),
        seg_rDI => insn.set_op_kind(n, string_kind(rng, bits, insn, OpKind::MemorySegRDI)),
        es_rDI => insn.set_op_kind(n, string_kind(rng, bits, insn, OpKind::MemoryESRDI)),
        seg_rBX_al => {
            insn.set_op_kind(n, OpKind::Memory);
            let usual = rng.u8(0..4) > 0;
            insn.set_memory_base(match (bits, usual) {
                (64, true) => Register::RBX,
                (32, true) | (64 | 16, false) => Register::EBX,
                _ => Register::BX,
            });
            insn.set_memory_index(Register::AL);
            insn.set_memory_index_scale(1);
        }
        br64_1 | br64_4 => {
            insn.set_op_kind(n, OpKind::NearBranch64);
            insn.set_near_branch64(branch);
        }
        br32_1 | br32_4 => {
            insn.set_op_kind(n, OpKind::NearBranch32);
            insn.set_near_branch32(branch as u32);
        }
        // With 32 bits: the pointer is cut to 16, where nothing is.
        br16_1 | br16_2 => {
            insn.set_op_kind(n, OpKind::NearBranch16);
            insn.set_near_branch16(branch as u16);
        }
        _ => return false,
    }
    true
}

/// The kind of an implicit string operand, all of one instruction with the same address size.
fn string_kind(rng: &mut Rng, bits: u32, insn: &Instruction, wide: OpKind) -> OpKind {
    use OpKind::*;
    let size = match insn.op0_kind() {
        MemorySegSI | MemoryESDI | MemorySegDI => 16,
        MemorySegESI | MemoryESEDI | MemorySegEDI => 32,
        MemorySegRSI | MemoryESRDI | MemorySegRDI => 64,
        _ if rng.u8(0..6) > 0 => bits,
        _ if bits == 32 => 16,
        _ => 32,
    };
    match (wide, size) {
        (_, 64) => wide,
        (MemorySegRSI, 32) => MemorySegESI,
        (MemorySegRDI, 32) => MemorySegEDI,
        (_, 32) => MemoryESEDI,
        (MemorySegRSI, _) => MemorySegSI,
        (MemorySegRDI, _) => MemorySegDI,
        _ => MemoryESDI,
    }
}

/// A random instruction of a form; `None` if it has operands of a kind not known here.
pub fn operands(rng: &mut Rng, bits: u32, code: Code, at: u64, branch: u64) -> Option<Instruction> {
    let info = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    for n in 0..info.op_count() {
        let kind = info.op_kind(n);
        if is_memory(kind) || is_or_memory(kind) && rng.bool() {
            insn.set_op_kind(n, OpKind::Memory);
            set_memory(rng, bits, &mut insn, kind, at);
        } else if let Some(register) = register(rng, bits, kind) {
            insn.set_op_kind(n, OpKind::Register);
            insn.set_op_register(n, register);
        } else if !set_immediate(rng, bits, &mut insn, n, kind, branch) {
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
pub fn encode(bits: u32, insn: &Instruction, start: u64) -> Option<(Instruction, Vec<u8>)> {
    let mut encoder = Encoder::new(bits);
    encoder.encode(insn, start).ok()?;
    let bytes = encoder.take_buffer();
    let again = decode(bits, &bytes, start);
    (again.code() == insn.code() && again.len() == bytes.len()).then_some((again, bytes))
}

fn is_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::*;
    matches!(
        kind,
        mem | mem_offs | mem_vsib32x | mem_vsib64x | mem_vsib32y | mem_vsib64y
    )
}

/// Decodes one instruction as the engine does.
pub fn decode(bits: u32, bytes: &[u8], at: u64) -> Instruction {
    Decoder::with_ip(bits, bytes, at, DecoderOptions::NONE).decode()
}
