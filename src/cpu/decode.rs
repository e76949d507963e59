//! From bytes to blocks: iced-x86 decodes, the instruction groups in `isa` choose handlers, once a block.

use super::blocks::{Block, Key};
use super::features::Features;
use super::isa::{self, Lowered};
use super::mmu;
use super::op::{self, Op, op_flags};
use super::state::{gpr, seg};
use super::{Abort, Cpu};
use iced_x86::{Decoder, Instruction, Mnemonic, OpKind, Register};
use std::cell::Cell;

const _: () = assert!(
    cfg!(target_endian = "little"),
    "register operands are addressed by byte"
);

/// Instructions in a block at most. Offsets in a block are bytes: 15 * 16 < 256.
const INSTRUCTIONS_MAX: usize = 32;
/// A block ends before an instruction that would start at or behind this offset.
const OFFSET_MAX: usize = 224;
/// The longest instruction.
const LENGTH_MAX: usize = 15;

/// Default sizes of operands and addresses: from CS and EFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Real mode, virtual-8086 mode, 16-bit segments.
    Bits16 = 16,
    /// 32-bit segments.
    Bits32 = 32,
    /// 64-bit mode.
    Bits64 = 64,
}

/// What the instruction groups need to know of where an instruction stands.
pub struct Context<'a> {
    /// Default sizes.
    pub mode: Mode,
    /// The instruction.
    pub insn: &'a Instruction,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What the processor has.
    pub features: &'a Features,
}

impl Context<'_> {
    /// Whether an operand is in memory.
    pub fn is_memory(&self, operand: u32) -> bool {
        self.insn.op_kind(operand) == OpKind::Memory
    }
}

/// Byte offset of a general register in `State::gpr`; for other registers their number.
pub fn register_slot(register: Register) -> u8 {
    let number = register.number() as u8;
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => (number - 4) * 8 + 1,
        // iced numbers the byte registers in one row, AH to BH among them.
        _ if register.is_gpr() => register.full_register().number() as u8 * 8,
        _ => number,
    }
}

fn address_slot(register: Register) -> u8 {
    match register {
        Register::None => gpr::ZERO as u8,
        Register::RIP | Register::EIP => gpr::RIP as u8,
        other => other.number() as u8,
    }
}

fn resolve_memory(op: &mut Op, insn: &Instruction, mode: Mode, offset: u64) {
    let base = insn.memory_base();
    let index = insn.memory_index();
    op.base = address_slot(base);
    op.index = address_slot(index);
    op.scale = insn.memory_index_scale().trailing_zeros() as u8;
    let mut displacement = insn.memory_displacement64() as i64;
    let rip_relative = matches!(base, Register::RIP | Register::EIP);
    let narrow = |r: Register| r.is_gpr32() || r == Register::EIP;
    if mode == Mode::Bits64 {
        if rip_relative {
            // iced has added the address of the next instruction, which counts from the start of the block.
            if base == Register::EIP || i32::try_from(displacement).is_err() {
                displacement -= (offset as i64) + insn.len() as i64;
                displacement += offset as i64;
                op.flags |= op_flags::SLOW_ADDRESS;
            }
        }
        let no_register = base == Register::None && index == Register::None;
        if narrow(base)
            || narrow(index)
            || no_register && insn.memory_displ_size() == 4 && has_address_prefix(insn)
        {
            op.flags |= op_flags::SLOW_ADDRESS | op_flags::ADDRESS32;
        }
    } else {
        op.flags |= op_flags::SLOW_ADDRESS;
        let wide = narrow(base) || narrow(index) || insn.memory_displ_size() == 4;
        op.flags |= if wide {
            op_flags::ADDRESS32
        } else {
            op_flags::ADDRESS16
        };
    }
    op.disp = displacement as i32;
}

/// Whether an absolute 32-bit address in 64-bit mode is cut to 32 bits rather than sign-extended.
fn has_address_prefix(insn: &Instruction) -> bool {
    // iced sign-extends without the prefix and zero-extends with it.
    insn.memory_displacement64() >> 31 == 1
}

fn resolve_segment(op: &mut Op, insn: &Instruction, mode: Mode) {
    let register = insn.memory_segment();
    // 64-bit mode ignores overrides by ES, CS, SS and DS in this too.
    let on_stack = if mode == Mode::Bits64 && !matches!(register, Register::FS | Register::GS) {
        use Register::{EBP, ESP, RBP, RSP};
        matches!(insn.memory_base(), RSP | RBP | ESP | EBP)
    } else {
        register == Register::SS
    };
    if on_stack {
        op.flags |= op_flags::STACK;
    }
    let number = register.number() as u8;
    op.seg = if mode == Mode::Bits64 && !matches!(register, Register::FS | Register::GS) {
        seg::NONE as u8
    } else {
        number
    };
}

/// An op with the operands of an instruction; the handler is still missing.
pub fn resolve(insn: &Instruction, mode: Mode, offset: u64, tick: u64) -> Op {
    let mut op = Op {
        handler: Cell::new(op::resync),
        imm: 0,
        disp: 0,
        base: gpr::ZERO as u8,
        index: gpr::ZERO as u8,
        scale: 0,
        seg: seg::NONE as u8,
        dst: 0,
        src: 0,
        len: insn.len() as u8,
        offset: offset as u8,
        tick: tick as u8,
        flags: 0,
        aux: 0,
        aux2: 0,
    };
    let mut immediates = 0;
    for n in 0..insn.op_count() {
        match insn.op_kind(n) {
            OpKind::Register => {
                let slot = register_slot(insn.op_register(n));
                match n {
                    0 => op.dst = slot,
                    1 => op.src = slot,
                    2 => op.aux = slot,
                    _ => op.aux2 = slot,
                }
            }
            OpKind::Memory => {
                op.flags |= op_flags::MEMORY;
                resolve_memory(&mut op, insn, mode, offset);
                resolve_segment(&mut op, insn, mode);
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                // Distance from the start of the block: iced decodes as if that were address 0.
                op.imm = insn.near_branch_target();
                if mode != Mode::Bits64 {
                    op.imm = op.imm as i32 as i64 as u64;
                }
            }
            OpKind::FarBranch16 | OpKind::FarBranch32 => {
                op.imm = insn.far_branch32() as u64 | (insn.far_branch_selector() as u64) << 32;
                if insn.op_kind(n) == OpKind::FarBranch16 {
                    op.imm = insn.far_branch16() as u64 | (insn.far_branch_selector() as u64) << 32;
                }
            }
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => {
                op.flags |= op_flags::ADDRESS16;
                resolve_segment(&mut op, insn, mode);
            }
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => {
                op.flags |= op_flags::ADDRESS32;
                resolve_segment(&mut op, insn, mode);
            }
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => {
                resolve_segment(&mut op, insn, mode);
            }
            _ => {
                if immediates == 0 {
                    op.imm = insn.immediate(n);
                } else {
                    op.aux2 = insn.immediate(n) as u8;
                }
                immediates += 1;
            }
        }
    }
    if insn.has_rep_prefix() {
        op.flags |= op_flags::REP;
    }
    if insn.has_repne_prefix() {
        op.flags |= op_flags::REPNE;
    }
    if insn.has_lock_prefix() {
        op.flags |= op_flags::LOCK;
    }
    op
}

/// Copies of the bytes from an address on, at most one instruction long, over a page break if that is mapped.
struct Straddle {
    bytes: [u8; LENGTH_MAX],
    available: usize,
    second: Option<u64>,
}

impl Cpu {
    /// Makes the block that starts at an address. Raises the fault of fetching its first instruction.
    pub(super) fn build(&mut self, key: Key, rip: u64) -> Result<*const Block, Abort> {
        let Some(page) = self.memory.page_index(key.physical) else {
            // Nothing answers on the bus: all ones, which is no instruction.
            return self.undefined();
        };
        let start = (key.physical & 0xfff) as usize;
        let mut bytes = [0u8; 256 + LENGTH_MAX];
        let in_page = (4096 - start).min(bytes.len());
        bytes[..in_page].copy_from_slice(&self.memory.page(page)[start..start + in_page]);
        let mut decoder =
            Decoder::with_ip(key.mode as u32, &bytes[..in_page], 0, self.features.decoder);
        let mut ops: Vec<Op> = Vec::with_capacity(8);
        let mut ticks = 0u64;
        let mut offset = 0usize;
        let mut insn = Instruction::default();
        let mut ended = false;
        let mut previous = None;
        let limit = if key.single { 1 } else { INSTRUCTIONS_MAX };
        while ticks < limit as u64 && offset < OFFSET_MAX {
            if decoder.set_position(offset).is_err() {
                break;
            }
            decoder.set_ip(offset as u64);
            if in_page - offset < LENGTH_MAX && start + in_page == 4096 {
                // Close to the end of the page: the instruction may go on behind it.
                decoder.decode_out(&mut insn);
                if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes || offset == in_page
                {
                    if ops.is_empty() {
                        return self.build_straddling(key, rip, &bytes[..in_page]);
                    }
                    break;
                }
            } else {
                decoder.decode_out(&mut insn);
            }
            let instruction_rip = self.linear(rip.wrapping_add(offset as u64));
            let stop = !key.single && self.has_mark(instruction_rip);
            if stop {
                let stop = resolve(&insn, key.mode, offset as u64, ticks);
                stop.handler.set(op::breakpoint);
                ops.push(stop);
            }
            let mut op = resolve(&insn, key.mode, offset as u64, ticks);
            let prepare = prepare_address(&insn, &mut op);
            match isa::lower(
                &Context {
                    mode: key.mode,
                    insn: &insn,
                    bytes: &bytes[offset..offset + insn.len()],
                    features: &self.features,
                },
                &mut op,
            ) {
                Lowered::Straight(handler) => op.handler.set(handler),
                Lowered::Ending(handler) => {
                    op.handler.set(handler);
                    ended = true;
                }
                Lowered::Alone(handler) => {
                    if ticks > 0 {
                        break;
                    }
                    op.handler.set(handler);
                    ended = true;
                }
            }
            ops.extend(prepare);
            let fused = match (&previous, ops.last()) {
                (Some(before), Some(last)) if key.mode == Mode::Bits64 && !stop => {
                    isa::fuse(before, last, &insn, &op)
                }
                _ => None,
            };
            match fused {
                Some(fused) => *ops.last_mut().expect("the compare is there") = fused,
                None => ops.push(op),
            }
            previous = Some(insn);
            ticks += 1;
            offset += insn.len();
            if ended {
                break;
            }
        }
        if !ended {
            ops.push(end_op(offset, ticks));
        }
        Ok(self.insert_block(Block::new(key, ticks, offset as u32, None, ops)))
    }

    /// Whether a breakpoint of the debugger or the guest may stand at a linear address.
    fn has_mark(&self, address: u64) -> bool {
        let offset = (address & 0xfff) as u16;
        self.stops.has_offset(offset) || self.armed.has_offset(offset)
    }

    fn insert_block(&mut self, block: Block) -> *const Block {
        let first = self.memory.page_index(block.key.physical);
        let second = block
            .second
            .and_then(|physical| self.memory.page_index(physical));
        let block = self.blocks.insert(&mut self.memory, block);
        for page in [first, second].into_iter().flatten() {
            self.tlb.forbid_writes(page);
        }
        block
    }

    /// A block of the one instruction that crosses the end of its page.
    fn build_straddling(&mut self, key: Key, rip: u64, head: &[u8]) -> Result<*const Block, Abort> {
        let straddle = self.fetch_straddling(rip, head)?;
        let bytes = &straddle.bytes[..straddle.available];
        let mut decoder = Decoder::with_ip(key.mode as u32, bytes, 0, self.features.decoder);
        let insn = decoder.decode();
        if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
            // More than 15 bytes.
            return self.general_protection();
        }
        let mut ops = Vec::with_capacity(3);
        let linear = self.linear(rip);
        if !key.single && self.has_mark(linear) {
            let stop = resolve(&insn, key.mode, 0, 0);
            stop.handler.set(op::breakpoint);
            ops.push(stop);
        }
        let mut op = resolve(&insn, key.mode, 0, 0);
        let prepare = prepare_address(&insn, &mut op);
        let (handler, ended) = match isa::lower(
            &Context {
                mode: key.mode,
                insn: &insn,
                bytes: &bytes[..insn.len()],
                features: &self.features,
            },
            &mut op,
        ) {
            Lowered::Straight(handler) => (handler, false),
            Lowered::Ending(handler) | Lowered::Alone(handler) => (handler, true),
        };
        op.handler.set(handler);
        ops.extend(prepare);
        ops.push(op);
        if !ended {
            ops.push(end_op(insn.len(), 1));
        }
        Ok(self.insert_block(Block::new(key, 1, insn.len() as u32, straddle.second, ops)))
    }

    fn fetch_straddling(&mut self, rip: u64, head: &[u8]) -> Result<Straddle, Abort> {
        let mut bytes = [0; LENGTH_MAX];
        let first = head.len().min(LENGTH_MAX);
        bytes[..first].copy_from_slice(&head[..first]);
        let next = self.linear(rip.wrapping_add(first as u64));
        let second = self.translate_fetch(next)?;
        let rest = LENGTH_MAX - first;
        let available = match self.memory.page_index(second) {
            Some(page) => {
                bytes[first..].copy_from_slice(&self.memory.page(page)[..rest]);
                LENGTH_MAX
            }
            None => {
                bytes[first..].fill(0xff);
                LENGTH_MAX
            }
        };
        Ok(Straddle {
            bytes,
            available,
            second: Some(second & !0xfff),
        })
    }
}

/// Where the address of a memory operand needs the general path, an op that goes before the instruction, checks the
/// access against its segment, and leaves the linear address in a slot that the instruction then uses as its base.
/// Instructions themselves so know only the fast way. An access that the segment does not permit gets an address that
/// faults when it is used, because other exceptions of the instruction come first, and it may not access at all.
fn prepare_address(insn: &Instruction, op: &mut Op) -> Option<Op> {
    if !op.has(op_flags::SLOW_ADDRESS | op_flags::MEMORY) {
        return None;
    }
    let mut factory = iced_x86::InstructionInfoFactory::new();
    let access = factory
        .info(insn)
        .used_memory()
        .iter()
        .map(|memory| memory.access())
        .collect::<Vec<_>>();
    use iced_x86::OpAccess;
    let touches = access
        .iter()
        .any(|a| !matches!(a, OpAccess::None | OpAccess::NoMemAccess));
    let bit_string = matches!(
        insn.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    ) && insn.op1_kind() == OpKind::Register;
    // These compute their addresses themselves, too.
    let own = matches!(
        insn.mnemonic(),
        Mnemonic::Xlatb
            | Mnemonic::Arpl
            | Mnemonic::Bound
            | Mnemonic::Vmaskmovps
            | Mnemonic::Vmaskmovpd
            | Mnemonic::Vpmaskmovd
            | Mnemonic::Vpmaskmovq
            | Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsaveopt64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64
    );
    // A gather has as many addresses as elements, and computes them itself.
    let gather = insn.memory_index().is_xmm() || insn.memory_index().is_ymm();
    if !touches || bit_string || gather || own {
        return None;
    }
    let stores = (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory)
        && matches!(
            factory.info(insn).op_access(memory_operand(insn)),
            OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
        );
    let mut prepare = Op {
        handler: Cell::new(op::straight(compute_address)),
        ..op.copy()
    };
    prepare.imm = insn.memory_size().size().max(1) as u64;
    prepare.aux = stores as u8;
    if insn.mnemonic() == Mnemonic::Pop && insn.memory_base().full_register() == Register::RSP {
        // The address counts from the stack pointer after the pop.
        prepare.disp = prepare.disp.wrapping_add(insn.memory_size().size() as i32);
    }
    op.base = gpr::ADDRESS as u8;
    op.index = gpr::ZERO as u8;
    op.disp = 0;
    op.seg = seg::NONE as u8;
    Some(prepare)
}

/// Which operand is in memory.
fn memory_operand(insn: &Instruction) -> u32 {
    (0..insn.op_count())
        .find(|&n| insn.op_kind(n) == OpKind::Memory)
        .unwrap_or(0)
}

fn compute_address(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let offset = cpu.effective_address(op);
    let found = cpu.segment_address(op.seg as usize, offset, op.imm as usize, op.aux != 0);
    cpu.state.gpr[gpr::ADDRESS] = found.unwrap_or_else(|_| {
        let base = cpu.state.seg_base[op.seg as usize];
        mmu::REFUSED | base.wrapping_add(offset) & 0xffff_ffff
    });
    Ok(())
}

/// The op that leaves a block which no branch ends.
fn end_op(offset: usize, ticks: u64) -> Op {
    let mut op = resolve(&Instruction::default(), Mode::Bits64, offset as u64, ticks);
    op.len = 0;
    op.handler.set(op::block_end);
    op
}
