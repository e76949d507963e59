//! Makes instructions of a given form with random operands, and registers and memory to go with them.

use crate::case::{Case, Registers, VectorState};
use crate::layout::{self, CODE, DATA, PAGE};
use crate::operands::{encode, operands};
use crate::segments::{self, CANDIDATES, DS, ES, FS, GS, SS};
use crate::values;
use fastrand::Rng;
use iced_x86::{Code, Instruction, MemorySize, Mnemonic, OpCodeOperandKind, OpKind, Register};

/// An instruction that is about to become a case.
pub struct Draft {
    /// Size of the code segment.
    bits: u32,
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

/// Whether an instruction with its operand at `at` would lock the bus for two cache lines. Linux traps that and
/// makes the process wait, so that such cases are not run; the same without a lock are.
pub fn splits_lock(insn: &Instruction, at: u64) -> bool {
    let locked = insn.has_lock_prefix()
        || insn.mnemonic() == Mnemonic::Xchg
            && (insn.op0_kind() == OpKind::Memory || insn.op1_kind() == OpKind::Memory);
    locked && at & 63 > 64 - operand_bytes(insn)
}

impl Draft {
    fn pin(&mut self, register: usize, value: u64) {
        self.input.gpr[register] = value;
        self.pinned |= 1 << register;
    }

    fn is_pinned(&self, register: usize) -> bool {
        self.pinned >> register & 1 != 0
    }

    /// Where a segment begins.
    fn segment_base(&self, register: Register) -> u64 {
        let n = match register {
            Register::FS => return self.input.fs_base,
            Register::GS => return self.input.gs_base,
            _ if self.bits == 64 => return 0,
            Register::CS => return segments::base(segments::code(self.bits)),
            Register::ES => ES,
            Register::SS => SS,
            _ => DS,
        };
        segments::base(self.input.selectors[n] as u16)
    }

    /// The bits of a stack pointer that count.
    fn stack_mask(&self) -> u64 {
        let wide = segments::descriptor(self.input.selectors[SS] as u16) >> 54 & 1 != 0;
        match (self.bits, wide) {
            (64, _) => u64::MAX,
            (_, true) => 0xffff_ffff,
            (_, false) => 0xffff,
        }
    }

    /// Points RSP or RBP (by number) at a linear address.
    fn pin_stack(&mut self, rng: &mut Rng, register: usize, linear: u64) {
        let mask = self.stack_mask();
        let offset = linear.wrapping_sub(self.segment_base(Register::SS));
        let garbage = if self.bits == 64 { 0 } else { rng.u64(..) };
        self.pin(register, offset & mask | garbage & !mask);
    }

    /// Where RSP points.
    fn stack_top(&self) -> u64 {
        let offset = self.input.gpr[4] & self.stack_mask();
        self.segment_base(Register::SS).wrapping_add(offset)
    }

    /// Chooses base and index so that the memory operand lies at a linear address. `None` if it cannot be.
    fn aim(&mut self, rng: &mut Rng, at: u64) -> Option<()> {
        let insn = self.insn;
        let base = insn.memory_base();
        let index = insn.memory_index();
        if base.is_ip() || base == Register::None && index == Register::None {
            return Some(());
        }
        let segment = self.segment_base(insn.memory_segment());
        let size =
            if index == Register::AL || index.is_xmm() || index.is_ymm() || index == Register::None
            {
                base.size()
            } else {
                index.size()
            };
        let mask = u64::MAX >> (64 - 8 * size as u32);
        let mut offset = at.wrapping_sub(segment);
        if self.bits < 64 {
            offset &= 0xffff_ffff;
        }
        if offset & !mask != 0 {
            return None;
        }
        offset = offset.wrapping_sub(insn.memory_displacement64());
        let upper = |rng: &mut Rng| if size == 8 { 0 } else { rng.u64(..) & !mask };
        let cut = |value: u64| value & mask;
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
        draft.pin_stack(rng, 4, rsp);
        let rbp = match rng.u8(0..10) {
            0 => target(rng, 8),
            _ => DATA + rng.u64(0x400..0x1c00),
        };
        if matches!(insn.mnemonic(), Mnemonic::Enter | Mnemonic::Leave) {
            draft.pin_stack(rng, 5, rbp);
        }
        if is_popf(&insn) {
            // Anything but the trap flag, which would trace the way back.
            let rsp = DATA + rng.u64(0x400..0x1c00);
            draft.pin_stack(rng, 4, rsp);
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
            let linear = DATA + rng.u64(0x100..0x2f00);
            let offset = linear.wrapping_sub(draft.segment_base(insn.memory_segment()));
            let mask = match insn.op0_kind() {
                OpKind::MemorySegDI => 0xffff,
                OpKind::MemorySegEDI => 0xffff_ffff,
                _ => u64::MAX,
            };
            if offset & !mask & 0xffff_ffff != 0 {
                return None;
            }
            draft.pin(7, offset);
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
    let tiny = (0..draft.insn.op_count()).any(|n| {
        matches!(
            draft.insn.op_kind(n),
            OpKind::MemoryESDI | OpKind::MemorySegSI | OpKind::MemorySegDI
        )
    });
    let overlap = rng.u8(0..4) == 0;
    let mut from = target(rng, bytes);
    let mut to = if overlap {
        from.wrapping_add(rng.u64(0..64)).wrapping_sub(32)
    } else {
        target(rng, bytes)
    };
    // Strings in ES have no other segment.
    let source = match draft.insn.segment_prefix() {
        Register::None => Register::DS,
        other => other,
    };
    from = from.wrapping_sub(draft.segment_base(source));
    to = to.wrapping_sub(draft.segment_base(Register::ES));
    let mask = match (tiny, narrow) {
        (true, _) => 0xffff,
        (_, true) => 0xffff_ffff,
        _ => u64::MAX,
    };
    let garbage = rng.u64(..) & !mask;
    count = count & mask | garbage;
    from = from & mask | garbage;
    to = to & mask | rng.u64(..) & !mask;
    let repeated = draft.insn.has_rep_prefix() || draft.insn.has_repne_prefix();
    if repeated {
        draft.pin(1, count);
    }
    draft.pin(6, from);
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

/// POPF in all its sizes: TF must not come of it.
fn is_popf(insn: &Instruction) -> bool {
    use Mnemonic::{Popf, Popfd, Popfq};
    matches!(insn.mnemonic(), Popf | Popfd | Popfq)
}

/// Selectors for 16- and 32-bit code: mostly flat ones and those of the window.
fn selectors(rng: &mut Rng) -> [u64; 5] {
    use segments::{EXPAND_DOWN, EXPAND_DOWN_16, FLAT, READ_ONLY, STACK_16, WINDOW};
    let mut data = || match rng.u8(0..20) {
        0..=9 => FLAT,
        10..=15 => WINDOW,
        16 => READ_ONLY,
        17 => EXPAND_DOWN,
        18 => EXPAND_DOWN_16,
        _ => 0,
    } as u64;
    let [es, ds, fs, gs] = [data(), data(), data(), data()];
    let ss = match rng.u8(0..20) {
        0..=11 => FLAT,
        12..=15 => STACK_16,
        16..=17 => WINDOW,
        18 => EXPAND_DOWN,
        _ => EXPAND_DOWN_16,
    };
    [es, ss as u64, ds, fs, gs]
}

/// What `registers` gives, for code of a size.
fn registers_of(rng: &mut Rng, bits: u32) -> Registers {
    let mut input = registers(rng);
    if bits < 64 {
        input.selectors = selectors(rng);
        input.fs_base = segments::base(input.selectors[FS] as u16);
        input.gs_base = segments::base(input.selectors[GS] as u16);
    }
    input
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
        selectors: [0, segments::FLAT as u64, 0, 0, 0],
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
pub fn single(rng: &mut Rng, bits: u32, code: Code, windows: usize) -> Option<(Case, Instruction)> {
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
    if bits < 64 && at >> 32 != 0 {
        // Up to the end of the address space, and around it.
        at = (1 << 32) - rng.u64(1..32);
    }
    let mut draft = Draft {
        bits,
        insn: Instruction::default(),
        input: registers_of(rng, bits),
        pokes: Vec::new(),
        ticks: 24,
        pinned: 0,
    };
    let ip = |linear: u64| linear - segments::base(segments::code(bits));
    let mut insn = operands(rng, bits, code, at, ip(taken))?;
    let absolute = insn.memory_base() == Register::None && insn.memory_index() == Register::None;
    if bits < 64 && absolute && (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory) {
        let offset = at.wrapping_sub(draft.segment_base(insn.memory_segment())) & 0xffff_ffff;
        if insn.memory_displ_size() == 2 && offset > 0xffff {
            return None;
        }
        insn.set_memory_displacement64(offset);
    }
    let (insn, bytes) = encode(bits, &insn, ip(start))?;
    if splits_lock(&insn, at) {
        return None;
    }
    draft.insn = insn;
    let (x87, sse) = units(code);
    if x87 || rng.u8(0..8) == 0 {
        values::x87(rng, &mut draft.input.vector);
    }
    if sse || rng.u8(0..8) == 0 {
        draft.input.vector.set_mxcsr(values::mxcsr(rng));
    }
    prepare(rng, &mut draft, at)?;
    let area = is_save_area(code);
    let popf = is_popf(&insn);
    if rng.u8(0..4) > 0 && !popf {
        let operand = values::lanes(rng, operand_bytes(&insn).min(64) as usize);
        draft.pokes.push((at, operand));
    }
    if area {
        prepare_save_area(rng, &mut draft, at)?;
    }
    aim_branch(rng, &mut draft, at, ip(taken));
    aim_selector(rng, &mut draft, at)?;
    let mut code_bytes = bytes;
    code_bytes.extend(layout::leave(bits, 0));
    if bits < 64 {
        for value in &mut draft.input.gpr {
            *value &= 0xffff_ffff;
        }
    }
    let case = Case {
        bits,
        code: vec![(start, code_bytes), (taken, layout::leave(bits, 1))],
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
    if is_read_only(at.wrapping_add(512)) {
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
    let mut to = match rng.u8(0..8) {
        0 => NOT_CANONICAL,
        1 => target(rng, 1),
        _ => taken,
    };
    if draft.bits < 64 {
        // Without what is beyond the pointer's size.
        to &= 0xffff_ffff;
    }
    match insn.mnemonic() {
        Mnemonic::Ret => {
            let rsp = draft.stack_top();
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

/// Gives instructions that take a selector one of which is known what it means.
fn aim_selector(rng: &mut Rng, draft: &mut Draft, at: u64) -> Option<()> {
    use Mnemonic::{Arpl, Lar, Lds, Les, Lfs, Lgs, Lsl, Lss, Mov, Pop, Verr, Verw};
    let insn = draft.insn;
    let selector = CANDIDATES[rng.usize(0..CANDIDATES.len())];
    let place = |n: u32, skip: u64| (insn.op_kind(n), insn.op_register(n), at.wrapping_add(skip));
    let (kind, register, address) = match insn.mnemonic() {
        Mov if insn.op0_register().is_segment_register() => place(1, 0),
        Lar | Lsl => place(1, 0),
        Verr | Verw => place(0, 0),
        Arpl => place(0, 0),
        Lds | Les | Lfs | Lgs | Lss => place(1, insn.op0_register().size() as u64),
        Pop if insn.op0_register().is_segment_register() => {
            (OpKind::Memory, Register::None, draft.stack_top())
        }
        _ => return Some(()),
    };
    if kind == OpKind::Register {
        let value = &mut draft.input.gpr[register.number()];
        *value = *value & !0xffff | selector as u64;
    } else {
        if [address, address.wrapping_add(1)]
            .map(is_read_only)
            .contains(&true)
        {
            // It would be whatever is there, which may mean something to the host only.
            return None;
        }
        draft.pokes.push((address, selector.to_le_bytes().to_vec()));
    }
    Some(())
}

fn is_read_only(address: u64) -> bool {
    address / PAGE as u64 == DATA / PAGE as u64 + layout::READ_ONLY
}
