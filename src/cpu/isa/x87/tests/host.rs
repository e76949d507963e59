//! Single x87 instructions on the host and on our processor, from the same state.

use crate::cpu::Cpu;
use crate::cpu::flags::bits;
use crate::cpu::state::{F80, X87, gpr};
use crate::cpu::testing::{self, CODE, DATA};
use memmap2::{Mmap, MmapMut};

/// Instructions in a sequence at most.
const INSTRUCTIONS_MAX: usize = 3;
/// Room for the code of one sequence.
const SLOT: usize = 64;
/// Bytes of the memory operand.
pub const OPERAND: usize = 112;
/// Behind the operand stands what the host's AX was.
const DATA_BYTES: usize = OPERAND + 2;

/// What an instruction works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    pub x87: X87,
    pub memory: [u8; OPERAND],
    pub rflags: u64,
    pub ax: u16,
}

/// The area of FXSAVE.
#[repr(C, align(64))]
struct Area([u8; 512]);

/// x87 instructions or short sequences of them, in executable memory of the host and in the memory of our processor,
/// with `[rdx]` as operand.
pub struct Bench {
    instructions: Vec<Vec<u8>>,
    code: Mmap,
    pub cpu: Box<Cpu>,
}

/// The body of the host's function (area in RDI, area out RSI, operand RDX, flags RCX; flags in RAX).
fn host_code(instruction: &[u8]) -> (Vec<u8>, usize) {
    let mut code = vec![0x31, 0xc0]; // xor eax, eax
    code.extend([0x51, 0x9d]); // push rcx; popfq
    code.extend([0x48, 0x0f, 0xae, 0x0f]); // fxrstor64 [rdi]
    let at = code.len();
    code.extend(instruction);
    code.extend([0x48, 0x0f, 0xae, 0x06]); // fxsave64 [rsi]
    code.extend([0x66, 0x89, 0x42, OPERAND as u8]); // mov [rdx+OPERAND], ax
    code.extend([0x9c, 0x58]); // pushfq; pop rax
    code.extend([0xdb, 0xe3, 0xc3]); // fninit; ret
    (code, at)
}

impl Bench {
    pub fn new(instructions: Vec<Vec<u8>>) -> Bench {
        let mut map = MmapMut::map_anon(instructions.len() * SLOT).expect("memory for code");
        let mut cpu = testing::long_mode();
        for (n, instruction) in instructions.iter().enumerate() {
            let (code, _) = host_code(instruction);
            map[n * SLOT..n * SLOT + code.len()].copy_from_slice(&code);
            cpu.memory.write(CODE + (n * SLOT) as u64, instruction);
        }
        Bench {
            instructions,
            code: map.make_exec().expect("executable memory"),
            cpu,
        }
    }

    pub fn instructions(&self) -> &[Vec<u8>] {
        &self.instructions
    }

    /// Runs instruction `n` on the host. The pointers of the result are relative to the instruction and the operand.
    pub fn on_host(&self, n: usize, before: &Situation) -> Situation {
        let input = Area(to_area(&before.x87));
        let mut output = Area([0; 512]);
        let mut data = [0u8; DATA_BYTES];
        data[..OPERAND].copy_from_slice(&before.memory);
        let start = self.code[n * SLOT..].as_ptr();
        // SAFETY: the code was made by `host_code`: it touches its arguments and registers that the callee may
        // change, and leaves the x87 unit as it expects it.
        let rflags = unsafe {
            let function: extern "sysv64" fn(*const Area, *mut Area, *mut u8, u64) -> u64 =
                std::mem::transmute(start);
            function(&input, &mut output, data.as_mut_ptr(), before.rflags)
        };
        let mut x87 = from_area(&output.0);
        let ip = start as u64 + host_code(&[]).1 as u64;
        x87.ip = relative(x87.ip, ip);
        x87.data = relative(x87.data, data.as_ptr() as u64);
        let mut after = *before;
        after.x87 = x87;
        after.memory.copy_from_slice(&data[..OPERAND]);
        after.rflags = rflags & bits::ARITHMETIC;
        after.ax = u16::from_le_bytes([data[OPERAND], data[OPERAND + 1]]);
        after
    }

    /// Runs instruction `n` on our processor.
    pub fn on_ours(&mut self, n: usize, before: &Situation) -> Situation {
        let ip = CODE + (n * SLOT) as u64;
        let cpu = &mut self.cpu;
        cpu.memory.write(DATA, &before.memory);
        let s = &mut cpu.state;
        s.gpr[gpr::RIP] = ip;
        s.gpr[gpr::RDX] = DATA;
        s.gpr[gpr::RAX] = 0;
        s.flags.set_rflags(before.rflags);
        s.x87 = before.x87;
        let name = &self.instructions[n];
        let end = ip + name.len() as u64;
        for _ in 0..INSTRUCTIONS_MAX {
            if cpu.state.rip() != end {
                testing::step(cpu);
            }
        }
        assert_eq!(cpu.state.rip(), end, "{name:02x?}");
        let mut after = *before;
        cpu.memory.read(DATA, &mut after.memory);
        after.x87 = cpu.state.x87;
        after.x87.ip = relative(after.x87.ip, ip);
        after.x87.data = relative(after.x87.data, DATA);
        after.rflags = cpu.state.rflags() & bits::ARITHMETIC;
        after.ax = cpu.state.gpr[gpr::RAX] as u16;
        after
    }
}

/// A pointer relative to where the instruction or its operand is, marked as such; other pointers as they are.
fn relative(pointer: u64, base: u64) -> u64 {
    let distance = pointer.wrapping_sub(base);
    if distance < OPERAND as u64 {
        0x1111_0000_0000_0000 | distance
    } else {
        pointer
    }
}

fn to_area(x: &X87) -> [u8; 512] {
    let mut area = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &x.control.to_le_bytes());
    put(2, &x.status.to_le_bytes());
    put(4, &[x.abridged_tag()]);
    put(6, &x.opcode.to_le_bytes());
    put(8, &x.ip.to_le_bytes());
    put(16, &x.data.to_le_bytes());
    put(24, &0x1f80u32.to_le_bytes());
    for i in 0..8 {
        let value = x.st(i);
        put(32 + 16 * i as usize, &value.mantissa.to_le_bytes());
        put(
            40 + 16 * i as usize,
            &(value.sign_exponent as u16).to_le_bytes(),
        );
    }
    area
}

fn from_area(area: &[u8; 512]) -> X87 {
    let word = |at: usize| u16::from_le_bytes([area[at], area[at + 1]]);
    let quad = |at: usize| u64::from_le_bytes(area[at..at + 8].try_into().expect("8 bytes"));
    let mut x: X87 = bytemuck::Zeroable::zeroed();
    x.control = word(0);
    x.status = word(2);
    x.opcode = word(6);
    x.ip = quad(8);
    x.data = quad(16);
    for i in 0..8 {
        let at = 32 + 16 * i as usize;
        x.set_st(i, F80::new(word(at + 8), quad(at)));
    }
    x.set_from_abridged(area[4]);
    x
}
