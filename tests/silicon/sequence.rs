//! Random sequences: what one instruction leaves behind for the next. Flags that are computed late or not at all,
//! compares that run together with their branch, blocks that are linked, dropped and decoded anew.
//!
//! Some registers keep a purpose, so that memory operands stay in the window: RBX, RBP, R12, R13 point into it,
//! RSP to a stack in it, RSI and RDI are for string instructions, R14 is a small index, R15 counts rounds. All
//! others hold whatever comes. A flag that an instruction leaves undefined is not read before it is defined again.

use crate::case::{Case, End, Registers};
use crate::compare::{Open, block, rflags};
use crate::forms::{Fate, fate};
use crate::generate::{encode, operands, registers, splits_lock};
use crate::layout::{CODE, DATA, PAGE, leave};
use crate::{Bench, WINDOWS};
use fastrand::Rng;
use iced_x86::{
    Code, EncodingKind, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

const POINTERS: [Register; 4] = [Register::RBX, Register::RBP, Register::R12, Register::R13];

/// Forms that programs are made of; half of all instructions are of these.
const COMMON: &[Mnemonic] = &[
    Mnemonic::Mov,
    Mnemonic::Add,
    Mnemonic::Sub,
    Mnemonic::Cmp,
    Mnemonic::Test,
    Mnemonic::And,
    Mnemonic::Or,
    Mnemonic::Xor,
    Mnemonic::Adc,
    Mnemonic::Sbb,
    Mnemonic::Inc,
    Mnemonic::Dec,
    Mnemonic::Neg,
    Mnemonic::Lea,
    Mnemonic::Movzx,
    Mnemonic::Movsx,
    Mnemonic::Shl,
    Mnemonic::Shr,
    Mnemonic::Sar,
    Mnemonic::Push,
    Mnemonic::Pop,
    Mnemonic::Imul,
];

/// The forms to draw from.
pub struct Pool {
    common: Vec<Code>,
    all: Vec<Code>,
    info: InstructionInfoFactory,
}

/// Whether a form can stand in a sequence.
fn suits(code: Code) -> bool {
    let info = code.op_code();
    let integer = code.encoding() == EncodingKind::Legacy
        && info.op_kinds().iter().all(|kind| {
            let name = format!("{kind:?}");
            !["mm", "st", "cr_", "dr_", "seg_reg", "br"]
                .iter()
                .any(|part| name.contains(part))
        });
    let vex_integer = code.encoding() == EncodingKind::VEX
        && info
            .op_kinds()
            .iter()
            .all(|kind| !format!("{kind:?}").contains("mm_"));
    let name = format!("{code:?}");
    let other = [
        "F", "Wait", "Xsave", "Xrstor", "Ldmxcsr", "Stmxcsr", "VEX_V", "Emms", "Int", "Ud",
        "Enter", "Leave", "Popf", "Wrfs", "Wrgs", "Hlt",
    ];
    fate(code) == Fate::Compare
        && (integer || vex_integer)
        && !other.iter().any(|part| name.starts_with(part))
}

impl Pool {
    pub fn new() -> Pool {
        let all: Vec<Code> = Code::values().filter(|&code| suits(code)).collect();
        let common = all
            .iter()
            .copied()
            .filter(|code| COMMON.contains(&code.mnemonic()))
            .collect();
        Pool {
            common,
            all,
            info: InstructionInfoFactory::new(),
        }
    }
}

/// A branch whose distance is not known yet.
struct Pending {
    /// Where its displacement is stored.
    at: usize,
    wide: bool,
    /// The instruction to go to, by number.
    target: usize,
    /// Flags undefined when it is taken.
    undefined: u64,
}

/// A sequence being made.
struct Maker<'a> {
    rng: &'a mut Rng,
    pool: &'a mut Pool,
    input: &'a Registers,
    start: u64,
    bytes: Vec<u8>,
    count: usize,
    undefined: u64,
    ever_undefined: u64,
    pending: Vec<Pending>,
}

impl Maker<'_> {
    fn here(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn emit(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.count += 1;
        self.land();
    }

    /// Lets branches that end before the next instruction go there.
    fn land(&mut self) {
        let here = self.bytes.len();
        let count = self.count;
        let mut joined = 0;
        let mut left = Vec::new();
        for branch in std::mem::take(&mut self.pending) {
            if branch.target > count {
                left.push(branch);
                continue;
            }
            joined |= branch.undefined;
            let width = if branch.wide { 4 } else { 1 };
            let distance = (here - branch.at - width) as u32;
            self.bytes[branch.at..branch.at + width]
                .copy_from_slice(&distance.to_le_bytes()[..width]);
        }
        self.undefined |= joined;
        self.pending = left;
    }

    fn branch(&mut self) {
        let condition = self.rng.u8(0..16);
        let wide = self.rng.u8(0..4) == 0;
        let needs = [0x800, 1, 0x40, 0x41, 0x80, 4, 0x880, 0x8c0][condition as usize / 2];
        if self.undefined & needs != 0 {
            return;
        }
        let target = self.count + 1 + self.rng.usize(0..4);
        if wide {
            self.bytes.extend([0x0f, 0x80 | condition, 0, 0, 0, 0]);
        } else {
            self.bytes.extend([0x70 | condition, 0]);
        }
        let at = self.bytes.len() - if wide { 4 } else { 1 };
        let undefined = self.undefined;
        self.pending.push(Pending {
            at,
            wide,
            target,
            undefined,
        });
        self.count += 1;
        self.land();
    }

    /// A store into the immediate of an instruction that comes soon.
    fn modify(&mut self) {
        let register = [0u8, 1, 2][self.rng.usize(0..3)];
        let gap = self.rng.usize(0..3);
        let value = self.rng.u8(..);
        // mov byte [rip + distance], value; nops; mov r32, imm32
        let distance = gap as u32 + 1 + 1 + self.rng.u32(0..4);
        let [a, b, c, d] = (distance - 1).to_le_bytes();
        self.emit(&[0xc6, 0x05, a, b, c, d, value]);
        for _ in 0..gap {
            self.emit(&[0x90]);
        }
        let imm = self.rng.u32(..).to_le_bytes();
        self.emit(&[0xb8 | register, imm[0], imm[1], imm[2], imm[3]]);
    }

    /// Keeps memory operands in the window.
    fn tame(&mut self, insn: &mut Instruction) {
        if !(0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory) {
            return;
        }
        insn.set_segment_prefix(Register::None);
        if insn.memory_base().is_ip()
            || insn.memory_base() == Register::None && insn.memory_index() == Register::None
        {
            return;
        }
        let rng = &mut *self.rng;
        if insn.memory_index() == Register::AL {
            insn.set_memory_base(Register::RBX);
            return;
        }
        if insn.mnemonic() == Mnemonic::Lea && rng.bool() {
            return;
        }
        insn.set_memory_base(POINTERS[rng.usize(0..4)]);
        insn.set_memory_index(Register::None);
        insn.set_memory_index_scale(1);
        if rng.u8(0..3) == 0 {
            insn.set_memory_index(Register::R14);
            insn.set_memory_index_scale(1 << rng.u32(0..4));
        }
        let displacement = rng.i64(-0x200..0x200) & if rng.bool() { !7 } else { -1 };
        insn.set_memory_displacement64(displacement as u64);
        insn.set_memory_displ_size(if i8::try_from(displacement).is_ok() {
            1
        } else {
            8
        });
    }

    /// Where a memory operand lies: pointers and index keep their values throughout.
    fn address(&self, insn: &Instruction) -> u64 {
        let value = |register: Register| match register {
            Register::None | Register::RIP | Register::EIP => 0,
            other => self.input.gpr[other.number()],
        };
        let index = value(insn.memory_index()).wrapping_mul(insn.memory_index_scale() as u64);
        value(insn.memory_base())
            .wrapping_add(index)
            .wrapping_add(insn.memory_displacement64())
    }

    /// Whether an instruction keeps the registers' purposes and reads no undefined flag.
    fn permitted(&mut self, insn: &Instruction) -> bool {
        if rflags(insn.rflags_read()) & self.undefined != 0
            || insn.flow_control() != FlowControl::Next
        {
            return false;
        }
        let string = insn.is_string_instruction();
        let bit_string = matches!(
            insn.mnemonic(),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
        ) && insn.op0_kind() == OpKind::Memory
            && insn.op1_kind() == OpKind::Register;
        let narrow_double = matches!(insn.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd)
            && insn.op1_register().is_gpr16();
        let divides = matches!(insn.mnemonic(), Mnemonic::Div | Mnemonic::Idiv);
        if bit_string || narrow_double || divides && self.rng.u8(0..10) > 0 {
            return false;
        }
        if insn.mnemonic() == Mnemonic::Bswap && insn.op0_register().is_gpr16() {
            return false;
        }
        let stack = insn.is_stack_instruction();
        let info = self.pool.info.info(insn);
        info.used_registers().iter().all(|used| {
            let writes = matches!(
                used.access(),
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            );
            !writes
                || match used.register().full_register() {
                    Register::RSP => stack && insn.op0_register().full_register() != Register::RSP,
                    Register::RSI | Register::RDI => string,
                    Register::RBX | Register::RBP => false,
                    Register::R12 | Register::R13 | Register::R14 | Register::R15 => false,
                    _ => true,
                }
        })
    }

    fn instruction(&mut self) {
        let code = if self.rng.bool() {
            self.pool.common[self.rng.usize(0..self.pool.common.len())]
        } else {
            self.pool.all[self.rng.usize(0..self.pool.all.len())]
        };
        let at = DATA + self.rng.u64(0x400..0x2000);
        let Some(mut insn) = operands(self.rng, code, at, self.start) else {
            return;
        };
        self.tame(&mut insn);
        let repeats = insn.has_rep_prefix() || insn.has_repne_prefix();
        let here = self.here() + if repeats { 5 } else { 0 };
        let Some((insn, bytes)) = encode(&insn, here) else {
            return;
        };
        if !self.permitted(&insn) || splits_lock(&insn, self.address(&insn)) {
            return;
        }
        if repeats && insn.is_string_instruction() {
            // mov ecx, a few; no branch comes between.
            let few = self.rng.u8(0..12);
            self.bytes.extend([0xb9, few, 0, 0, 0]);
        } else if repeats {
            return;
        }
        let left_open = rflags(insn.rflags_undefined());
        let conditional = insn.op_count() > 1
            && (0..insn.op_count()).any(|n| {
                insn.op_kind(n) == OpKind::Register && insn.op_register(n) == Register::CL
            })
            || insn.is_string_instruction();
        if !conditional {
            let defined = insn.rflags_written() | insn.rflags_cleared() | insn.rflags_set();
            self.undefined &= !rflags(defined);
        }
        self.undefined |= left_open;
        self.ever_undefined |= self.undefined;
        self.emit(&bytes);
    }
}

/// A sequence and what it leaves open: at its end, and at a fault on the way.
fn make(rng: &mut Rng, pool: &mut Pool) -> (Case, Open, Open) {
    let start = if rng.u8(0..4) == 0 {
        CODE + PAGE as u64 - rng.u64(0..120)
    } else {
        CODE + 0x100 + rng.u64(0..0x40)
    };
    let rounds = if rng.u8(0..3) == 0 { rng.u64(2..5) } else { 1 };
    let wanted = rng.usize(5..30);
    let mut input = registers(rng);
    for n in [3, 5, 12, 13] {
        input.gpr[n] = DATA + rng.u64(0x400..0x2800);
    }
    input.gpr[4] = DATA + 0x800 + rng.u64(0..0x200) * 8;
    input.gpr[6] = DATA + rng.u64(0x800..0x2000);
    input.gpr[7] = DATA + rng.u64(0x800..0x2000);
    input.gpr[14] = rng.u64(0..32);
    input.gpr[15] = rounds;
    let mut maker = Maker {
        rng,
        pool,
        input: &input,
        start,
        bytes: Vec::new(),
        count: 0,
        undefined: 0,
        ever_undefined: 0,
        pending: Vec::new(),
    };
    while maker.count < wanted {
        match maker.rng.u8(0..20) {
            0..=3 => maker.branch(),
            4 if maker.rng.u8(0..4) == 0 => maker.modify(),
            _ => maker.instruction(),
        }
    }
    // Branches that are still open end here.
    for branch in &mut maker.pending {
        branch.target = 0;
    }
    maker.land();
    if rounds > 1 {
        // add r8, r9 (defines all flags); dec r15; jnz to the start
        maker.emit(&[0x4d, 0x01, 0xc8]);
        maker.undefined = 0;
        maker.emit(&[0x49, 0xff, 0xcf]);
        let back = -(maker.bytes.len() as i32 + 6);
        let mut jump = vec![0x0f, 0x85];
        jump.extend(back.to_le_bytes());
        maker.emit(&jump);
    }
    let undefined = maker.undefined;
    let ever = maker.ever_undefined;
    let mut bytes = maker.bytes;
    bytes.extend(leave(0));
    let case = Case {
        code: vec![(start, bytes)],
        start,
        input,
        window: rng.usize(0..WINDOWS),
        pokes: Vec::new(),
        ticks: 4096,
        stepped: rng.u8(0..4) == 0,
        cold: rng.u8(0..8) == 0,
    };
    let open = |flags| Open {
        flags,
        ..Open::default()
    };
    (case, open(undefined), open(ever))
}

#[test]
fn sequences_do_what_they_do_on_the_host() {
    let Some(mut bench) = Bench::new(60_000) else {
        return;
    };
    let mut pool = Pool::new();
    let mut examples = Vec::new();
    let mut completed = 0;
    let mut missing = 0;
    let first = crate::setting("SILICON_FIRST").unwrap_or(0);
    for n in first..first + bench.cases {
        let mut rng = Rng::with_seed(bench.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (case, at_end, at_fault) = make(&mut rng, &mut pool);
        let (outcome, found) = bench.compare_at(&case, at_end, at_fault);
        completed += matches!(outcome.end, End::Exit(_)) as u64;
        if !found.is_empty() && found[0].contains("engine exception 6 ") {
            // The forms by themselves tell what is not there.
            missing += 1;
        } else if !found.is_empty() {
            examples.push(block(&format!("sequence {n}"), &case, &found));
            if examples.len() >= 5 {
                break;
            }
        }
    }
    for example in &examples {
        println!("{example}");
    }
    println!(
        "{} sequences, {completed} without a fault, {missing} with what the engine lacks",
        bench.cases
    );
    assert!(examples.is_empty(), "sequences differ");
}
