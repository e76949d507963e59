//! Random sequences: what one instruction leaves behind for the next. Flags that are computed late or not at all,
//! compares that run together with their branch, blocks that are linked, dropped and decoded anew.
//!
//! Some registers keep a purpose, so that memory operands stay in the window: RBX, RBP, R12, R13 point into it,
//! RSP to a stack in it, RSI and RDI are for string instructions, R14 is a small index, R15 counts rounds. All
//! others hold whatever comes. A flag that an instruction leaves undefined is not read before it is defined again.

use crate::case::{Case, End, Registers};
use crate::compare::{Open, block, rflags};
use crate::forms::{Fate, fate};
use crate::generate::{registers, splits_lock};
use crate::layout::{CODE, DATA, PAGE, leave};
use crate::operands::{encode, operands};
use crate::{Bench, WINDOWS};
use fastrand::Rng;
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use std::collections::BTreeMap;

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
    integer: Vec<Code>,
    vector: Vec<Code>,
    x87: Vec<Code>,
    info: InstructionInfoFactory,
}

/// What a form works on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Vector,
    X87,
}

/// Forms that end a sequence or make its state random: those that want an operating system, transfer control,
/// load control words, or store what differs between processors (pointers of the x87 unit).
const UNSUITABLE: &[&str] = &[
    "Wait",
    "Xsave",
    "Xrstor",
    "Fxsave",
    "Fxrstor",
    "Ldmxcsr",
    "VEX_Vldmxcsr",
    "Int",
    "Ud",
    "Enter",
    "Leave",
    "Popf",
    "Wrfs",
    "Wrgs",
    "Hlt",
    "In_",
    "Ins",
    "Out",
    "Cli",
    "Sti",
    "Clac",
    "Stac",
    "Fldcw",
    "Fldenv",
    "Frstor",
    "Fnsave",
    "Fnstenv",
    "Maskmov",
    "VEX_Vmaskmov",
    "VEX_Vpmaskmov",
    "Iret",
    "Clts",
    "Invd",
    "Wbinvd",
    "Lgdt",
    "Lidt",
    "Lldt",
    "Lmsw",
    "Ltr",
    "Mov_r64_cr",
    "Mov_cr",
    "Mov_r64_dr",
    "Mov_dr",
    "Rdmsr",
    "Wrmsr",
    "Swapgs",
    "Sysret",
    "Sysexit",
    "Xsetbv",
    "Rsm",
];

/// Whether a form can stand in a sequence, and among which.
fn kind(code: Code) -> Option<Kind> {
    let info = code.op_code();
    let name = format!("{code:?}");
    let refused = UNSUITABLE.iter().any(|part| name.starts_with(part));
    let has = |part: &str| {
        info.op_kinds()
            .iter()
            .any(|kind| format!("{kind:?}").contains(part))
    };
    let one_level = !info.cpl3() || info.is_privileged();
    if refused || one_level || fate(code, 64) != Fate::Compare {
        return None;
    }
    if ["cr_", "dr_", "seg_reg", "br", "vsib", "fs", "gs"]
        .iter()
        .any(|part| has(part))
    {
        return None;
    }
    Some(match () {
        _ if name.starts_with('F') => Kind::X87,
        _ if has("mm_") || name.starts_with("VEX_V") || name == "Emms" => Kind::Vector,
        _ => Kind::Integer,
    })
}

fn is_common(code: Code) -> bool {
    let name = format!("{:?}", code.mnemonic());
    COMMON.contains(&code.mnemonic()) || name.starts_with("Set") || name.starts_with("Cmov")
}

impl Pool {
    pub fn new() -> Pool {
        let of = |wanted| Code::values().filter(move |&code| kind(code) == Some(wanted));
        Pool {
            common: of(Kind::Integer).filter(|&code| is_common(code)).collect(),
            integer: of(Kind::Integer).collect(),
            vector: of(Kind::Vector).collect(),
            x87: of(Kind::X87).collect(),
            info: InstructionInfoFactory::new(),
        }
    }

    /// A form: half of them common ones.
    fn draw(&self, rng: &mut Rng) -> Code {
        let forms = match rng.u8(0..20) {
            0..=9 => &self.common,
            10..=13 => &self.integer,
            14..=17 => &self.vector,
            _ => &self.x87,
        };
        forms[rng.usize(0..forms.len())]
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
        if wide {
            self.bytes.extend([0x0f, 0x80 | condition, 0, 0, 0, 0]);
        } else {
            self.bytes.extend([0x70 | condition, 0]);
        }
        self.pend(wide);
    }

    /// JRCXZ and LOOP, JMP, CALL, a jump through a register, a return.
    fn jump(&mut self) {
        match self.rng.u8(0..6) {
            0 => {
                let opcode = self.rng.u8(0xe0..0xe4);
                // LOOPNE and LOOPE read ZF.
                if opcode < 0xe2 && self.undefined & 0x40 != 0 {
                    return;
                }
                self.bytes.extend([opcode, 0]);
                return self.pend(false);
            }
            1 => {
                self.bytes.extend([0xeb, 0]);
                return self.pend(false);
            }
            2 => self.bytes.push(0xe9),
            3 => self.bytes.push(0xe8),
            // lea r8, [rip + 3]; jmp r8: to what follows.
            4 => {
                return self.emit(&[0x4c, 0x8d, 0x05, 3, 0, 0, 0, 0x41, 0xff, 0xe0]);
            }
            // lea r8, [rip + 3]; push r8; ret
            _ => {
                return self.emit(&[0x4c, 0x8d, 0x05, 3, 0, 0, 0, 0x41, 0x50, 0xc3]);
            }
        }
        self.bytes.extend([0; 4]);
        self.pend(true);
    }

    /// Notes the branch just made, so that it is completed where it lands.
    fn pend(&mut self, wide: bool) {
        let target = self.count + 1 + self.rng.usize(0..4);
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
        let vector = insn.memory_size().size() >= 16;
        if rng.u8(0..3) == 0 && !vector {
            insn.set_memory_index(Register::R14);
            insn.set_memory_index_scale(1 << rng.u32(0..4));
        }
        let aligned = if vector { !31 } else { !7 };
        let exact = if vector {
            rng.u8(0..16) > 0
        } else {
            rng.bool()
        };
        let displacement = rng.i64(-0x200..0x200) & if exact { aligned } else { -1 };
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
        let code = self.pool.draw(self.rng);
        let at =
            (DATA + self.rng.u64(0x400..0x2000)) & if self.rng.u8(0..4) > 0 { !63 } else { !0 };
        let Some(mut insn) = operands(self.rng, 64, code, at, self.start) else {
            return;
        };
        self.tame(&mut insn);
        let repeats = insn.has_rep_prefix() || insn.has_repne_prefix();
        let here = self.here() + if repeats { 5 } else { 0 };
        let Some((insn, bytes)) = encode(64, &insn, here) else {
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
    let wanted = rng.usize(10..60);
    let mut input = registers(rng);
    for n in [3, 5, 12, 13] {
        input.gpr[n] = (DATA + rng.u64(0x400..0x2800)) & !63;
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
            0..=2 => maker.branch(),
            3 => maker.jump(),
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
    bytes.extend(leave(64, 0));
    let case = Case {
        bits: 64,
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
    let mut executed = 0;
    let mut ends: BTreeMap<u8, u64> = BTreeMap::new();
    let first = crate::setting("SILICON_FIRST").unwrap_or(0);
    for n in first..first + bench.cases {
        let mut rng = Rng::with_seed(bench.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (case, at_end, at_fault) = make(&mut rng, &mut pool);
        let (outcome, found) = bench.compare_at(&case, at_end, at_fault);
        executed += bench.executed();
        match outcome.end {
            End::Fault { vector, .. } => *ends.entry(vector).or_default() += 1,
            _ => completed += 1,
        }
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
        "{} sequences, {completed} without a fault, {missing} with what the engine lacks; mean length {}.{}",
        bench.cases,
        executed / bench.cases,
        executed * 10 / bench.cases % 10,
    );
    println!("faults by vector: {ends:?}");
    // Sequences that end after a few instructions would prove nothing that single ones do not.
    assert!(executed >= 20 * bench.cases, "sequences are cut short");
    assert_eq!(missing, 0, "sequences meet what the engine lacks");
    assert!(examples.is_empty(), "sequences differ");
}
