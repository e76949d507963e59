//! FXSAVE, XSAVE and their inverses.

use crate::cpu::Cpu;
use crate::cpu::cpuid::{CpuModel, Level, Processor, Vendor};
use crate::cpu::state::{cr4, gpr};
use crate::cpu::testing::{DATA, execute, long_mode};

const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x22];
const XSAVEOPT64: &[u8] = &[0x48, 0x0f, 0xae, 0x32];
const XRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x2a];
const XGETBV: &[u8] = &[0x0f, 0x01, 0xd0];
const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
const CPUID: &[u8] = &[0x0f, 0xa2];

/// A processor with AVX and something in all registers; RDX and RAX select `components`, RBX holds [`DATA`].
fn filled(components: u64) -> Box<Cpu> {
    let mut cpu = long_mode();
    cpu.set_model(CpuModel::native());
    for n in 0..16 {
        cpu.state.vector[n].0 = [n as u64 + 1, !n as u64, 100 + n as u64, 200 + n as u64];
    }
    cpu.state.x87.control = 0x27f;
    cpu.state.x87.tag = 0xffff;
    cpu.state.mxcsr = 0x9fc1;
    select(&mut cpu, components);
    cpu
}

fn select(cpu: &mut Cpu, components: u64) {
    cpu.state.gpr[gpr::RAX] = components;
    cpu.state.gpr[gpr::RDX] = 0;
}

/// The code with RBX instead of RDX as the address.
fn at_rbx(code: &[u8]) -> Vec<u8> {
    let mut code = code.to_vec();
    code[3] |= 1;
    code
}

fn run(cpu: &mut Cpu, code: &[u8]) -> Option<u8> {
    cpu.state.gpr[gpr::RBX] = DATA;
    execute(cpu, &at_rbx(code))
}

fn header(cpu: &Cpu) -> u64 {
    cpu.memory.read_u64(DATA + 512)
}

#[test]
fn xsave_and_xrstor_carry_the_selected_components() {
    let mut cpu = filled(7);
    let before = cpu.state;
    assert_eq!(run(&mut cpu, XSAVE64), None);
    assert_eq!(header(&cpu), 7);
    assert_eq!(cpu.memory.read_u64(DATA + 160 + 16 * 3), 4);
    assert_eq!(cpu.memory.read_u64(DATA + 576 + 16 * 15), 115);
    assert_eq!(cpu.memory.read_u64(DATA + 24), 0xffff_0000_9fc1);
    // Only the upper halves.
    cpu.state.vector = Default::default();
    cpu.state.mxcsr = 0x1f80;
    select(&mut cpu, 4);
    assert_eq!(run(&mut cpu, XRSTOR64), None);
    assert_eq!(cpu.state.vector[5].0, [0, 0, 105, 205]);
    assert_eq!(cpu.state.mxcsr, 0x9fc1);
    select(&mut cpu, 3);
    assert_eq!(run(&mut cpu, XRSTOR64), None);
    assert_eq!(cpu.state.vector, before.vector);
    assert_eq!(cpu.state.x87, before.x87);
    // What the header does not have is put to its initial configuration; MXCSR is loaded all the same.
    cpu.memory.write(DATA + 512, &[2]);
    select(&mut cpu, 7);
    assert_eq!(run(&mut cpu, XRSTOR64), None);
    assert_eq!(cpu.state.vector[5].0, [6, !5, 0, 0]);
    assert_eq!(cpu.state.x87.control, 0x37f);
    assert_eq!(cpu.state.mxcsr, 0x9fc1);
}

#[test]
fn what_is_in_its_initial_configuration_is_told_and_left_out() {
    let mut cpu = filled(7);
    for register in &mut cpu.state.vector {
        register.0[2..].fill(0);
    }
    cpu.memory.write(DATA + 576, &[0xee; 8]);
    // A component that is not asked for keeps its bit.
    cpu.memory.write(DATA + 512, &[4]);
    select(&mut cpu, 3);
    assert_eq!(run(&mut cpu, XSAVEOPT64), None);
    assert_eq!(header(&cpu), 7);
    select(&mut cpu, 7);
    assert_eq!(run(&mut cpu, XSAVEOPT64), None);
    assert_eq!(header(&cpu), 3);
    assert_eq!(cpu.memory.read_u64(DATA + 576), 0xeeee_eeee_eeee_eeee);
    assert_eq!(run(&mut cpu, XSAVE64), None);
    assert_eq!(header(&cpu), 3);
    assert_eq!(cpu.memory.read_u64(DATA + 576), 0);
}

#[test]
fn bad_areas_and_registers_fault() {
    let restore = |change: fn(&mut Cpu)| {
        let mut cpu = filled(7);
        assert_eq!(run(&mut cpu, XSAVE64), None);
        change(&mut cpu);
        let vector = cpu.state.vector;
        let fault = run(&mut cpu, XRSTOR64);
        assert!(fault.is_none() || cpu.state.vector == vector);
        fault
    };
    assert_eq!(restore(|_| {}), None);
    // Header: an unknown component, the compacted format, a reserved word; then MXCSR.
    assert_eq!(
        restore(|cpu| _ = cpu.memory.write(DATA + 512, &[15])),
        Some(13)
    );
    assert_eq!(
        restore(|cpu| _ = cpu.memory.write(DATA + 527, &[0x80])),
        Some(13)
    );
    assert_eq!(
        restore(|cpu| _ = cpu.memory.write(DATA + 528, &[1])),
        Some(13)
    );
    assert_eq!(
        restore(|cpu| _ = cpu.memory.write(DATA + 26, &[1])),
        Some(13)
    );
    assert_eq!(restore(|cpu| cpu.state.xcr0 = 3), Some(13));
    assert_eq!(restore(|cpu| cpu.state.cr4 &= !cr4::OSXSAVE), Some(6));
    assert_eq!(restore(|cpu| cpu.state.cr0 |= 8), Some(7));
    let mut cpu = filled(7);
    cpu.state.gpr[gpr::RBX] = DATA + 16;
    assert_eq!(execute(&mut cpu, &at_rbx(XSAVE64)), Some(13));
}

#[test]
fn xcr0_takes_only_what_is_there() {
    for (value, want) in [(1, None), (3, None), (7, None)] {
        let mut cpu = filled(value);
        cpu.state.gpr[gpr::RCX] = 0;
        assert_eq!(execute(&mut cpu, XSETBV), want);
        assert_eq!(cpu.state.xcr0, value);
        cpu.state.gpr[gpr::RAX] = 0;
        assert_eq!(execute(&mut cpu, XGETBV), None);
        assert_eq!(cpu.state.gpr[gpr::RAX], value);
        cpu.state.gpr[gpr::RAX] = 0xd;
        assert_eq!(execute(&mut cpu, CPUID), None);
        let size = if value == 7 { 832 } else { 576 };
        assert_eq!(cpu.state.gpr[gpr::RBX], size);
    }
    for value in [0, 2, 5, 6, 15] {
        let mut cpu = filled(value);
        cpu.state.gpr[gpr::RCX] = 0;
        assert_eq!(execute(&mut cpu, XSETBV), Some(13), "{value}");
        assert_eq!(cpu.state.xcr0, 7);
    }
    let mut cpu = filled(7);
    cpu.state.gpr[gpr::RCX] = 1;
    assert_eq!(execute(&mut cpu, XGETBV), Some(13));
    // A processor without AVX.
    let mut cpu = filled(7);
    cpu.state.gpr[gpr::RCX] = 0;
    cpu.set_model(CpuModel::new(Processor {
        level: Level::V2,
        vendor: Vendor::Intel,
    }));
    assert_eq!(execute(&mut cpu, XSETBV), Some(6));
}

#[test]
fn fxsave_writes_the_layout_of_the_manual_and_fxrstor_reads_it_back() {
    let mut cpu = long_mode();
    for n in 0..16 {
        cpu.state.vector[n].0 = [n as u64 + 1, !n as u64, 7, 8];
    }
    let x87 = &mut cpu.state.x87;
    for n in 0..8 {
        x87.r[n].mantissa = 1 << 63 | n as u64;
        x87.r[n].sign_exponent = 0x3fff;
    }
    x87.control = 0x37f;
    x87.status = 3 << 11;
    x87.tag = 0xc00f;
    x87.opcode = 0x123;
    x87.ip = 0x1234_5678_9abc;
    x87.data = 0xfedc_ba98;
    cpu.state.mxcsr = 0x9fc1;
    cpu.state.gpr[gpr::RDX] = DATA;
    let before = cpu.state;
    // fxsave64 [rdx]
    assert_eq!(execute(&mut cpu, &[0x48, 0x0f, 0xae, 0x02]), None);
    let mut area = [0u8; 512];
    cpu.memory.read(DATA, &mut area);
    assert_eq!(area[..8], [0x7f, 3, 0, 0x18, 0x7c, 0, 0x23, 1]);
    assert_eq!(area[8..16], 0x1234_5678_9abcu64.to_le_bytes());
    assert_eq!(area[24..32], [0xc1, 0x9f, 0, 0, 0xff, 0xff, 0, 0]);
    // ST(0) is R3.
    assert_eq!(area[32..44], [3, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f, 0, 0]);
    assert_eq!(area[160 + 15 * 16], 16);
    cpu.state.vector = Default::default();
    cpu.state.x87 = bytemuck::Zeroable::zeroed();
    cpu.state.mxcsr = 0x1f80;
    assert_eq!(execute(&mut cpu, &[0x48, 0x0f, 0xae, 0x0a]), None);
    assert_eq!(cpu.state.x87, before.x87);
    assert_eq!(cpu.state.mxcsr, before.mxcsr);
    for n in 0..16 {
        // The upper halves were cleared above, and FXRSTOR leaves them alone.
        assert_eq!(cpu.state.vector[n].0, [n as u64 + 1, !n as u64, 0, 0]);
    }
    // A bit of MXCSR that does not exist.
    cpu.memory.write(DATA + 26, &[1]);
    assert_eq!(execute(&mut cpu, &[0x48, 0x0f, 0xae, 0x0a]), Some(13));
}
