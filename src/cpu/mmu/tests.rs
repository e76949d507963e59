//! Alignment checks, compared with a processor (family 6, model 143), and the order of faults of memory operands.

use crate::cpu::flags::bits;
use crate::cpu::state::{cr0, gpr, seg};
use crate::cpu::testing::{CODE, DATA, drop_to_protected, drop_to_user, long_mode, step};
use crate::cpu::vector;

/// Runs one instruction at level 3 with alignment checked, RBX and RDI being an address.
fn checked(code: &[u8], address: u64) -> Option<u8> {
    let mut cpu = long_mode();
    cpu.state.cr0 |= cr0::AM;
    cpu.state.flags.set_other(bits::AC, true);
    cpu.state.x87.tag = 0xffff;
    cpu.state.gpr[gpr::RBX] = address;
    cpu.state.gpr[gpr::RDI] = address;
    cpu.state.gpr[gpr::RSP] = address;
    cpu.state.vector[0].0 = [!0; 4];
    cpu.memory.write(CODE, code);
    cpu.state.set_rip(CODE);
    drop_to_user(&mut cpu);
    step(&mut cpu)
}

#[test]
fn accesses_of_up_to_8_bytes_are_checked() {
    // The code, and to how many bytes its operand must be aligned. XMM0 is all ones, XMM1 is zero.
    let cases: &[(&str, &[u8], u64)] = &[
        ("mov ax, [rbx]", &[0x66, 0x8b, 0x03], 2),
        ("mov rax, [rbx]", &[0x48, 0x8b, 0x03], 8),
        ("mov [rbx], eax", &[0x89, 0x03], 4),
        ("add [rbx], rax", &[0x48, 0x01, 0x03], 8),
        ("push rax", &[0x50], 8),
        ("stosd", &[0xab], 4),
        ("movdqu xmm0, [rbx]", &[0xf3, 0x0f, 0x6f, 0x03], 1),
        ("vmovdqu ymm0, [rbx]", &[0xc5, 0xfe, 0x6f, 0x03], 1),
        ("movsd xmm0, [rbx]", &[0xf2, 0x0f, 0x10, 0x03], 8),
        ("pmovzxbw xmm0, [rbx]", &[0x66, 0x0f, 0x38, 0x30, 0x03], 8),
        ("vcvtph2ps xmm0, [rbx]", &[0xc4, 0xe2, 0x79, 0x13, 0x03], 1),
        (
            "vcvtps2ph [rbx], xmm0, 0",
            &[0xc4, 0xe3, 0x79, 0x1d, 0x03, 0],
            1,
        ),
        (
            "vmaskmovps xmm1, xmm0, [rbx]",
            &[0xc4, 0xe2, 0x79, 0x2c, 0x0b],
            1,
        ),
        (
            "vmaskmovps [rbx], xmm0, xmm1",
            &[0xc4, 0xe2, 0x79, 0x2e, 0x0b],
            1,
        ),
        (
            "vpgatherdd xmm2, [rbx+xmm1], xmm0",
            &[0xc4, 0xe2, 0x79, 0x90, 0x14, 0x0b],
            1,
        ),
        ("maskmovdqu xmm0, xmm1", &[0x66, 0x0f, 0xf7, 0xc1], 8),
        ("fld tbyte [rbx]", &[0xdb, 0x2b], 8),
        ("fnstenv [rbx]", &[0xd9, 0x33], 4),
        ("fnsave [rbx]", &[0xdd, 0x33], 4),
        ("frstor [rbx]", &[0xdd, 0x23], 4),
        ("prefetcht0 [rbx]", &[0x0f, 0x18, 0x0b], 1),
    ];
    for &(text, code, alignment) in cases {
        for offset in [1, 2, 4, 8, 16] {
            let expected = (offset % alignment != 0).then_some(vector::AC);
            let found = checked(code, DATA + 64 + offset);
            assert_eq!(found, expected, "{text} at offset {offset}");
        }
    }
    // fxsave: first #AC, then what every unaligned area raises.
    let fxsave = [0x0f, 0xae, 0x03];
    for (offset, expected) in [(2, Some(vector::AC)), (4, Some(vector::GP)), (16, None)] {
        assert_eq!(checked(&fxsave, DATA + offset), expected);
    }
}

#[test]
fn alignment_comes_after_canonical_addresses_and_before_pages() {
    let load = [0x48, 0x8b, 0x03];
    assert_eq!(checked(&load, 1 << 63 | 1), Some(vector::GP));
    assert_eq!(checked(&load, 0x4000_0001), Some(vector::AC));
    assert_eq!(checked(&load, 0x4000_0000), Some(vector::PF));
}

/// The tables say nothing of the upper bits: what is asked from outside must not see the page of another address.
#[test]
fn a_debugger_sees_nothing_at_addresses_that_are_not_canonical() {
    let cpu = long_mode();
    assert_eq!(cpu.probe(DATA), Some(DATA));
    for bit in 47..64 {
        assert_eq!(cpu.probe(DATA | 1 << bit), None);
    }
}

#[test]
fn alignment_is_checked_at_level_3_with_both_bits_only() {
    for (level3, am, ac) in [
        (false, true, true),
        (true, false, true),
        (true, true, false),
    ] {
        let mut cpu = long_mode();
        if am {
            cpu.state.cr0 |= cr0::AM;
        }
        cpu.state.flags.set_other(bits::AC, ac);
        cpu.state.gpr[gpr::RBX] = DATA + 1;
        cpu.memory.write(CODE, &[0x48, 0x8b, 0x03]);
        cpu.state.set_rip(CODE);
        cpu.state_changed();
        if level3 {
            drop_to_user(&mut cpu);
        }
        assert_eq!(step(&mut cpu), None);
    }
}

#[test]
fn what_keeps_an_instruction_from_starting_comes_before_its_operand() {
    let addps = &[0x0f, 0x58, 0x03][..];
    let movq_mm = &[0x0f, 0x6f, 0x03][..];
    let fld = &[0xd9, 0x03][..];
    let fnstcw = &[0xd9, 0x3b][..];
    let fxsave = &[0x0f, 0xae, 0x03][..];
    let mov = &[0x8b, 0x03][..];
    let (gp, ud, nm, mf) = (vector::GP, vector::UD, vector::NM, vector::MF);
    // The faults with nothing else wrong, with CR0.EM, with CR0.TS, and with an x87 exception pending.
    for (code, expected) in [
        (addps, [gp, ud, nm, gp]),
        (movq_mm, [gp, ud, nm, mf]),
        (fld, [gp, nm, nm, mf]),
        (fnstcw, [gp, nm, nm, gp]),
        (fxsave, [gp, nm, nm, gp]),
        (mov, [gp, gp, gp, gp]),
    ] {
        for (wrong, &expected) in expected.iter().enumerate() {
            // In protected mode the segment is too short, in long mode the address is not canonical.
            for long in [false, true] {
                let mut cpu = long_mode();
                cpu.memory.write(CODE, code);
                cpu.state.set_rip(CODE);
                cpu.state.gpr[gpr::RBX] = if long { 1 << 63 } else { DATA };
                match wrong {
                    1 => cpu.state.cr0 |= cr0::EM,
                    2 => cpu.state.cr0 |= cr0::TS,
                    3 => cpu.state.x87.status |= 0x80,
                    _ => {}
                }
                if !long {
                    drop_to_protected(&mut cpu);
                    cpu.state.seg[seg::DS].limit = 0xfff;
                }
                cpu.state_changed();
                let found = step(&mut cpu);
                assert_eq!(found, Some(expected), "{code:02x?} {wrong} {long}");
            }
        }
    }
}

#[test]
fn a_segment_fault_leaves_nothing_changed() {
    // add [ebx], eax; push [ebx]; pop [ebx]; movs; with DS too short.
    for code in [&[0x01, 0x03][..], &[0xff, 0x33], &[0x8f, 0x03], &[0xa5]] {
        let mut cpu = long_mode();
        cpu.memory.write(CODE, code);
        cpu.state.set_rip(CODE);
        cpu.state.gpr[gpr::RBX] = DATA;
        cpu.state.gpr[gpr::RSI] = DATA;
        drop_to_protected(&mut cpu);
        cpu.state.seg[seg::DS].limit = 0xfff;
        cpu.state_changed();
        let before = cpu.state;
        assert_eq!(step(&mut cpu), Some(vector::GP));
        assert_eq!(cpu.state.gpr[gpr::RSP], before.gpr[gpr::RSP] - 16);
        assert_eq!(cpu.state.gpr[gpr::RSI], DATA);
        assert_eq!(cpu.state.rflags() & 0x8d5, before.rflags() & 0x8d5);
    }
}

#[test]
fn the_x87_data_pointer_is_an_offset_in_protected_mode() {
    // fld dword [ebx + 4] of a denormal, which is not masked; the segment starts at DATA.
    let mut cpu = long_mode();
    cpu.memory.write(CODE, &[0xd9, 0x43, 0x04]);
    cpu.memory.write(DATA + 0x104, &1u32.to_le_bytes());
    cpu.state.set_rip(CODE);
    cpu.state.gpr[gpr::RBX] = 0x100;
    cpu.state.x87.control = 0x37d;
    cpu.state.x87.tag = 0xffff;
    drop_to_protected(&mut cpu);
    cpu.state.seg_base[seg::DS] = DATA;
    cpu.state_changed();
    assert_eq!(step(&mut cpu), None);
    assert_eq!((cpu.state.x87.data, cpu.state.x87.ip), (0x104, CODE));
    // In real mode both are linear.
    cpu.state.x87.status = 0;
    cpu.state.x87.tag = 0xffff;
    cpu.state.cr0 &= !cr0::PE;
    cpu.state.seg[seg::CS].rights = 0x9b;
    cpu.state.seg_base[seg::CS] = CODE - 0x10;
    cpu.state.set_rip(0x10);
    // With a 16-bit address: fld dword [di + 4].
    cpu.memory.write(CODE, &[0xd9, 0x45, 0x04]);
    cpu.forget_code();
    cpu.state.gpr[gpr::RDI] = 0x100;
    cpu.state_changed();
    assert_eq!(step(&mut cpu), None);
    assert_eq!((cpu.state.x87.data, cpu.state.x87.ip), (DATA + 0x104, CODE));
}
