//! What the host cannot show: exceptions that are delivered, faults in the middle, formats of real mode.

use crate::cpu::isa::x87::registers::status;
use crate::cpu::state::{F80, Segment, cr0, gpr, seg};
use crate::cpu::testing::{CODE, DATA, PAGE_TABLE, Quiet, long_mode, step};
use crate::cpu::{Cpu, vector};

const ONE: F80 = F80::new(0x3fff, 1 << 63);

/// The first address that is not mapped: the end of RAM.
const EDGE: u64 = 0x10_0000;

/// A processor with code, with RDX = DATA, and prepared by `prepare`.
fn processor(code: &[u8], prepare: impl Fn(&mut Cpu)) -> Box<Cpu> {
    let mut cpu = long_mode();
    cpu.memory.write(CODE, code);
    cpu.state.set_rip(CODE);
    cpu.state.gpr[gpr::RDX] = DATA;
    cpu.state.x87.initialise();
    prepare(&mut cpu);
    cpu.state_changed();
    cpu
}

/// The exception that an instruction raises.
fn vector_of(instruction: &[u8], prepare: impl Fn(&mut Cpu)) -> Option<u8> {
    step(&mut processor(instruction, prepare))
}

const WAIT: &[u8] = &[0x9b];
const FADD: &[u8] = &[0xd8, 0xc0];
const FLDCW: &[u8] = &[0xd9, 0x2a];
/// Those that do not wait: FNINIT, FNCLEX, FNSTCW, FNSTSW, FNSTSW AX, FNSTENV, FNSAVE.
const NOT_WAITING: [&[u8]; 7] = [
    &[0xdb, 0xe3],
    &[0xdb, 0xe2],
    &[0xd9, 0x3a],
    &[0xdd, 0x3a],
    &[0xdf, 0xe0],
    &[0xd9, 0x32],
    &[0xdd, 0x32],
];

#[test]
fn a_pending_exception_is_raised_by_what_waits() {
    let pending = |cpu: &mut Cpu| {
        cpu.state.x87.set_control(0x37b);
        cpu.state.x87.set_status(status::ZE);
    };
    for instruction in [WAIT, FADD, FLDCW, &[0xd9, 0xd0], &[0xd9, 0x22]] {
        assert_eq!(
            vector_of(instruction, pending),
            Some(vector::MF),
            "{instruction:02x?}"
        );
    }
    for instruction in NOT_WAITING {
        assert_eq!(vector_of(instruction, pending), None, "{instruction:02x?}");
    }
    // Without CR0.NE nothing reports it.
    let unreported = |cpu: &mut Cpu| {
        pending(cpu);
        cpu.state.cr0 &= !cr0::NE;
    };
    assert_eq!(vector_of(WAIT, unreported), None);
}

#[test]
fn a_division_by_zero_is_reported_at_the_next_instruction_with_its_pointers() {
    // fdiv dword [rdx+4]; fnstsw ax; wait
    let code = [0xd8, 0x72, 0x04, 0xdf, 0xe0, 0x9b];
    let mut cpu = processor(&code, |cpu| {
        cpu.state.x87.push(ONE);
        cpu.state.x87.set_control(0x37b);
    });
    assert_eq!(step(&mut cpu), None);
    let x = cpu.state.x87;
    assert_eq!(x.st(0), ONE);
    assert_eq!((x.ip, x.data, x.opcode), (CODE, DATA + 4, 0x072));
    assert_eq!(step(&mut cpu), None);
    let expected = status::ZE | status::ES | status::B | 7 << status::TOP_SHIFT;
    assert_eq!(cpu.state.gpr[gpr::RAX] as u16, expected);
    assert_eq!(step(&mut cpu), Some(vector::MF));
}

#[test]
fn the_data_pointer_is_an_offset_in_its_segment() {
    // fdiv dword gs:[rdx]; a32 fdiv dword gs:[edx]
    for code in [&[0x65, 0xd8, 0x32][..], &[0x67, 0x65, 0xd8, 0x32]] {
        let mut cpu = processor(code, |cpu| {
            cpu.state.seg_base[seg::GS] = DATA - 0x800;
            cpu.state.gpr[gpr::RDX] = 0x880;
            cpu.state.x87.push(ONE);
            cpu.state.x87.set_control(0x37b);
        });
        assert_eq!(step(&mut cpu), None);
        assert_eq!(cpu.state.x87.data, 0x880);
    }
}

#[test]
fn ts_and_em_make_the_unit_unavailable() {
    for bit in [cr0::TS, cr0::EM] {
        for instruction in NOT_WAITING.into_iter().chain([FADD, FLDCW]) {
            let vector = vector_of(instruction, |cpu| cpu.state.cr0 |= bit);
            assert_eq!(vector, Some(vector::NM), "{instruction:02x?}");
        }
    }
    assert_eq!(vector_of(WAIT, |cpu| cpu.state.cr0 |= cr0::EM), None);
    assert_eq!(
        vector_of(WAIT, |cpu| cpu.state.cr0 |= cr0::TS),
        Some(vector::NM)
    );
    let ts_alone = |cpu: &mut Cpu| {
        cpu.state.cr0 |= cr0::TS;
        cpu.state.cr0 &= !cr0::MP;
    };
    assert_eq!(vector_of(WAIT, ts_alone), None);
}

#[test]
fn a_page_fault_leaves_everything_as_it_was() {
    // fstp m32/m64/m80, fistp m64, fbstp, fnsave, fnstenv, fisttp m64; fld m32/m64/m80, fild m64, fbld, frstor, fldenv
    let stores: &[&[u8]] = &[
        &[0xd9, 0x1a],
        &[0xdd, 0x1a],
        &[0xdb, 0x3a],
        &[0xdf, 0x3a],
        &[0xdf, 0x32],
        &[0xdd, 0x32],
        &[0xd9, 0x32],
        &[0xdd, 0x0a],
    ];
    let loads: &[&[u8]] = &[
        &[0xd9, 0x02],
        &[0xdd, 0x02],
        &[0xdb, 0x2a],
        &[0xdf, 0x2a],
        &[0xdf, 0x22],
        &[0xdd, 0x22],
        &[0xd9, 0x22],
        &[0xd8, 0x02],
    ];
    for instruction in stores.iter().chain(loads) {
        let mut cpu = processor(instruction, |cpu| {
            cpu.memory.write(EDGE - 32, &[0x5a; 32]);
            cpu.state.gpr[gpr::RDX] = EDGE - 2;
            // What is stored is not exact, so that a flag would be raised.
            cpu.state.x87.push(F80::new(0x3ffe, u64::MAX));
            cpu.state.x87.ip = 0x1234;
        });
        let before = cpu.state.x87;
        assert_eq!(step(&mut cpu), Some(vector::PF), "{instruction:02x?}");
        assert_eq!(cpu.state.cr2, EDGE);
        assert_eq!(cpu.state.x87, before, "{instruction:02x?}");
        let mut memory = [0; 32];
        cpu.memory.read(EDGE - 32, &mut memory);
        assert_eq!(memory, [0x5a; 32], "{instruction:02x?}");
    }
}

/// A processor in real mode with its code at CODE and its data at DATA.
fn real_mode(code: &[u8]) -> Box<Cpu> {
    let mut cpu = processor(code, |_| ());
    let s = &mut cpu.state;
    s.cr0 = cr0::ET | cr0::NE;
    s.efer = 0;
    for (n, base) in [(seg::CS, CODE), (seg::DS, DATA), (seg::SS, 0)] {
        s.seg[n] = Segment {
            limit: 0xffff,
            rights: if n == seg::CS { 0x9b } else { 0x93 },
            selector: (base >> 4) as u16,
        };
        s.seg_base[n] = base;
    }
    s.gpr[gpr::RIP] = 0;
    cpu.state_changed();
    cpu
}

#[test]
fn real_mode_environments_hold_linear_addresses() {
    // fdiv dword [0x204] (by 0, unmasked); fnstenv [0x100]; o32 fnstenv [0x120]
    let mut cpu = real_mode(&[
        0xd8, 0x36, 0x04, 0x02, 0xd9, 0x36, 0x00, 0x01, 0x66, 0xd9, 0x36, 0x20, 0x01,
    ]);
    cpu.state.x87.push(ONE);
    cpu.state.x87.set_control(0x37b);
    for _ in 0..3 {
        assert_eq!(step(&mut cpu), None);
    }
    let mut narrow = [0; 14];
    cpu.memory.read(DATA + 0x100, &mut narrow);
    let narrow: Vec<u16> = narrow
        .as_chunks()
        .0
        .iter()
        .map(|&b| u16::from_le_bytes(b))
        .collect();
    // Control, status (ZE, TOP = 7, ES, B), tag, then 10000h with opcode 036h, and 20204h.
    let expected = [0x37b, 0xb884, 0x3fff, 0x0000, 0x1036, 0x0204, 0x2000];
    assert_eq!(narrow, expected);
    let mut wide = [0; 28];
    cpu.memory.read(DATA + 0x120, &mut wide);
    let wide: Vec<u32> = wide
        .as_chunks()
        .0
        .iter()
        .map(|&b| u32::from_le_bytes(b))
        .collect();
    // Now everything is masked.
    let expected = [
        0xffff_037f,
        0xffff_3804,
        0xffff_3fff,
        0xffff_0000,
        0x0000_1036,
        0xffff_0204,
        0x0000_2000,
    ];
    assert_eq!(wide, expected);
}

#[test]
fn real_mode_environments_are_loaded_as_they_were_stored() {
    for prefix in [&[][..], &[0x66][..]] {
        // fldenv [0]; fnstenv [0x100]
        let code = [prefix, &[0xd9, 0x26, 0, 0], prefix, &[0xd9, 0x36, 0, 1]].concat();
        let mut cpu = real_mode(&code);
        let narrow = [0x37f, 0x3800, 0x3fff, 0x4567, 0x3123, 0x89ab, 0x7000u16];
        let wide = [
            0xffff_037f,
            0xffff_3800,
            0xffff_3fff,
            0xffff_4567,
            0x0765_4123,
            0xffff_89ab,
            0x0fed_c000u32,
        ];
        let bytes = if prefix.is_empty() {
            bytemuck::bytes_of(&narrow)
        } else {
            bytemuck::bytes_of(&wide)
        };
        cpu.state.x87.set_st(7, ONE);
        // R7 will be ST(0).
        cpu.state.x87.r[7] = ONE;
        cpu.memory.write(DATA, bytes);
        assert_eq!(step(&mut cpu), None);
        assert_eq!(step(&mut cpu), None);
        let mut stored = vec![0; bytes.len()];
        cpu.memory.read(DATA + 0x100, &mut stored);
        assert_eq!(stored, bytes);
    }
}

#[test]
fn mmio_operands_are_stored_once_the_tick_is_exact() {
    // A block of several instructions, of which the second stores outside of RAM.
    let mut cpu = processor(&[0xd9, 0xe8, 0xdb, 0x3a, 0xd9, 0xee], |cpu| {
        let entry = PAGE_TABLE + 8 * (EDGE >> 12);
        cpu.memory.write(entry, &(EDGE | 3).to_le_bytes());
        cpu.state.gpr[gpr::RDX] = EDGE + 0x100;
    });
    let until = cpu.tick() + 3;
    cpu.run(&mut Quiet, until, false);
    assert_eq!(cpu.state.rip(), CODE + 6);
    assert_eq!(cpu.state.x87.top(), 7);
    assert_eq!(cpu.state.x87.st(0), F80::new(0, 0));
    assert_eq!(cpu.state.x87.abridged_tag(), 0x80);
}
