//! FNSTENV, FLDENV, FNSAVE, FRSTOR in their four formats: 16 and 32 bits, real and protected mode (SDM volume 1,
//! figures 8-9 to 8-12). 64-bit mode has the formats of protected mode. Selectors are stored as 0 and not loaded, as
//! CPUID says (leaf 7, EBX bit 13).

use crate::cpu::decode::Context;
use crate::cpu::isa::{Lowered, straight};
use crate::cpu::op::Op;
use crate::cpu::state::F80;
use crate::cpu::{Abort, Cpu};
use iced_x86::{MemorySize, Mnemonic};

/// Chooses handlers.
pub fn lower(context: &Context) -> Option<Lowered> {
    let wide = matches!(
        context.insn.memory_size(),
        MemorySize::FpuEnv28 | MemorySize::FpuState108
    );
    match (context.insn.mnemonic(), wide) {
        (Mnemonic::Fnstenv, false) => straight(store_environment::<u16>),
        (Mnemonic::Fnstenv, true) => straight(store_environment::<u32>),
        (Mnemonic::Fldenv, false) => straight(load_environment::<u16>),
        (Mnemonic::Fldenv, true) => straight(load_environment::<u32>),
        (Mnemonic::Fnsave, false) => straight(save::<u16>),
        (Mnemonic::Fnsave, true) => straight(save::<u32>),
        (Mnemonic::Frstor, false) => straight(restore::<u16>),
        (Mnemonic::Frstor, true) => straight(restore::<u32>),
        _ => None,
    }
}

/// A field of the environment: 16 or 32 bits.
trait Field: bytemuck::Pod {
    /// All seven in their order.
    const BYTES: usize = 7 * size_of::<Self>();
    fn encode(cpu: &Cpu) -> [Self; 7];
    fn decode(cpu: &Cpu, fields: [Self; 7]) -> Environment;
}

/// What FLDENV loads.
struct Environment {
    control: u16,
    status: u16,
    tag: u16,
    opcode: u16,
    ip: u64,
    data: u64,
}

impl Field for u16 {
    fn encode(cpu: &Cpu) -> [u16; 7] {
        let x = &cpu.state.x87;
        let (second, last) = if cpu.x87_real_format() {
            let high = |pointer: u64| ((pointer >> 16) as u16) << 12;
            (high(x.ip) | x.opcode, high(x.data))
        } else {
            (0, 0)
        };
        [
            x.control,
            x.status,
            x.full_tag(),
            x.ip as u16,
            second,
            x.data as u16,
            last,
        ]
    }

    fn decode(cpu: &Cpu, [control, status, tag, ip, second, data, last]: [u16; 7]) -> Environment {
        let real = cpu.x87_real_format();
        let high = |field: u16| if real { (field as u64 >> 12) << 16 } else { 0 };
        Environment {
            control,
            status,
            tag,
            opcode: if real { second & 0x7ff } else { 0 },
            ip: ip as u64 | high(second),
            data: data as u64 | high(last),
        }
    }
}

impl Field for u32 {
    fn encode(cpu: &Cpu) -> [u32; 7] {
        let x = &cpu.state.x87;
        // The reserved upper halves are ones.
        let word = |value: u16| 0xffff_0000 | value as u32;
        let [ip, second, data, last] = if cpu.x87_real_format() {
            let high = |pointer: u64| (pointer >> 16 & 0xffff) as u32;
            [
                word(x.ip as u16),
                high(x.ip) << 12 | x.opcode as u32,
                word(x.data as u16),
                high(x.data) << 12,
            ]
        } else {
            [x.ip as u32, (x.opcode as u32) << 16, x.data as u32, word(0)]
        };
        let (control, status, tag) = (word(x.control), word(x.status), word(x.full_tag()));
        [control, status, tag, ip, second, data, last]
    }

    fn decode(cpu: &Cpu, [control, status, tag, ip, second, data, last]: [u32; 7]) -> Environment {
        let real = cpu.x87_real_format();
        let pointer = |low: u32, high: u32| {
            if real {
                (low as u64 & 0xffff) | (high as u64 >> 12 & 0xffff) << 16
            } else {
                low as u64
            }
        };
        let opcode = if real { second } else { second >> 16 };
        Environment {
            control: control as u16,
            status: status as u16,
            tag: tag as u16,
            opcode: opcode as u16 & 0x7ff,
            ip: pointer(ip, second),
            data: pointer(data, last),
        }
    }
}

impl Environment {
    fn install(self, cpu: &mut Cpu) {
        let x = &mut cpu.state.x87;
        x.set_full_tag(self.tag);
        x.opcode = self.opcode;
        x.ip = self.ip;
        x.data = self.data;
        x.code_selector = 0;
        x.data_selector = 0;
        x.set_control(self.control);
        x.set_status(self.status);
    }
}

/// Stores the environment at a linear address that was checked.
fn write_environment<E: Field>(cpu: &mut Cpu, address: u64) -> Result<(), Abort> {
    for (n, field) in E::encode(cpu).into_iter().enumerate() {
        cpu.write(address.wrapping_add((n * size_of::<E>()) as u64), field)?;
    }
    Ok(())
}

fn read_environment<E: Field>(cpu: &mut Cpu, address: u64) -> Result<Environment, Abort> {
    let mut fields = [E::zeroed(); 7];
    for (n, field) in fields.iter_mut().enumerate() {
        *field = cpu.read(address.wrapping_add((n * size_of::<E>()) as u64))?;
    }
    Ok(E::decode(cpu, fields))
}

/// Raises what storing more bytes than one access has would raise.
fn check_store(cpu: &mut Cpu, address: u64, bytes: usize) -> Result<(), Abort> {
    cpu.check_write(address, bytes.min(64))?;
    if bytes > 64 {
        cpu.check_write(address.wrapping_add(64), bytes - 64)?;
    }
    Ok(())
}

/// Afterwards all exceptions are masked.
fn store_environment<E: Field>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_available()?;
    let address = cpu.address(op, E::BYTES, true)?;
    cpu.check_alignment(address, size_of::<E>())?;
    check_store(cpu, address, E::BYTES)?;
    write_environment::<E>(cpu, address)?;
    let control = cpu.state.x87.control | super::status::EXCEPTIONS;
    cpu.state.x87.set_control(control);
    Ok(())
}

fn load_environment<E: Field>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let address = cpu.address(op, E::BYTES, false)?;
    read_environment::<E>(cpu, address)?.install(cpu);
    Ok(())
}

/// The registers follow the environment in the order of the stack.
fn save<E: Field>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_available()?;
    let bytes = E::BYTES + 80;
    let address = cpu.address(op, bytes, true)?;
    cpu.check_alignment(address, size_of::<E>())?;
    check_store(cpu, address, bytes)?;
    write_environment::<E>(cpu, address)?;
    for i in 0..8 {
        let at = address.wrapping_add(E::BYTES as u64 + 10 * i as u64);
        let value = cpu.state.x87.st(i);
        cpu.without_alignment(|cpu| {
            cpu.write(at, value.mantissa)?;
            cpu.write(at.wrapping_add(8), value.sign_exponent as u16)
        })?;
    }
    cpu.state.x87.initialise();
    Ok(())
}

fn restore<E: Field>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let address = cpu.address(op, E::BYTES + 80, false)?;
    let environment = read_environment::<E>(cpu, address)?;
    let mut registers = [F80::default(); 8];
    for (i, register) in registers.iter_mut().enumerate() {
        let at = address.wrapping_add((E::BYTES + 10 * i) as u64);
        let mantissa = cpu.without_alignment(|cpu| cpu.read::<u64>(at))?;
        let sign_exponent = cpu.read::<u16>(at.wrapping_add(8))?;
        *register = F80::new(sign_exponent, mantissa);
    }
    environment.install(cpu);
    for (i, register) in registers.into_iter().enumerate() {
        cpu.state.x87.set_st(i as u8, register);
    }
    let tag = cpu.state.x87.tag;
    cpu.state.x87.set_full_tag(tag);
    Ok(())
}
