//! That the tables and the engine agree, and how the vendors differ.

use super::super::decode::{Context, Mode, resolve};
use super::super::isa;
use super::*;
use crate::cpu::Cpu;
use crate::cpu::cpuid::{Leaf, Processor};
use crate::cpu::state::{Segment, cr4, efer, gpr, seg};
use crate::cpu::testing::{CODE, execute, long_mode, step};
use crate::cpu::vector;
use iced_x86::Decoder;
use std::collections::BTreeMap;

fn processor(level: Level, vendor: Vendor) -> CpuModel {
    CpuModel::new(Processor { level, vendor })
}

/// Instructions that need no feature but have no handler: they are there to raise #UD.
const UNDEFINED: &[Code] = &[
    Code::Ud0,
    Code::Ud0_r16_rm16,
    Code::Ud0_r32_rm32,
    Code::Ud0_r64_rm64,
    Code::Ud1_r16_rm16,
    Code::Ud1_r32_rm32,
    Code::Ud1_r64_rm64,
    Code::Ud2,
];

/// One encoding of each form in a mode, register and memory operands apart.
fn forms(mode: Mode) -> BTreeMap<(u32, bool), Vec<u8>> {
    let mut heads: Vec<Vec<u8>> = Vec::new();
    for prefixes in [
        &[][..],
        &[0x66],
        &[0xf2],
        &[0xf3],
        &[0x67],
        &[0x66, 0xf2],
        &[0x66, 0xf3],
        &[0x48],
        &[0x66, 0x48],
        &[0xf2, 0x48],
        &[0xf3, 0x48],
    ] {
        for map in [&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]] {
            heads.push([prefixes, map].concat());
        }
    }
    for map in 1..=3u8 {
        for rest in 0..16u8 {
            // W, then vvvv = 15 or 14, then L and pp.
            for inverted in [0x78, 0x70] {
                heads.push(vec![
                    0xc4,
                    0xe0 | map,
                    (rest & 8) << 4 | inverted | rest & 7,
                ]);
            }
        }
    }
    let options = Features::of(&CpuModel::native()).decoder;
    // All register operands, and memory with and without an index.
    let modrms = |m: &u8| *m >= 0xc0 || m & 0xc7 == 3 || m & 0xc7 == 4;
    let mut found = BTreeMap::new();
    let mut insn = Instruction::default();
    for head in heads {
        let mut bytes = [0; 15];
        bytes[..head.len()].copy_from_slice(&head);
        for opcode in 0..=255u8 {
            for modrm in (0..=255u8).filter(modrms) {
                bytes[head.len()..head.len() + 3].copy_from_slice(&[opcode, modrm, 0x1d]);
                Decoder::new(mode as u32, &bytes, options).decode_out(&mut insn);
                if insn.is_invalid() {
                    continue;
                }
                let in_memory = |n| insn.op_kind(n) == iced_x86::OpKind::Memory;
                let memory = (0..insn.op_count()).any(in_memory);
                found
                    .entry((insn.code() as u32, memory))
                    .or_insert_with(|| bytes[..insn.len()].to_vec());
            }
        }
    }
    found
}

#[test]
fn the_engine_has_what_the_table_says_and_the_table_what_the_engine_has() {
    let features = Features::of(&CpuModel::native());
    let mut count = 0;
    let mut wrong = Vec::new();
    for mode in [Mode::Bits16, Mode::Bits32, Mode::Bits64] {
        for (_, bytes) in forms(mode) {
            let insn = Decoder::new(mode as u32, &bytes, features.decoder).decode();
            let context = Context {
                mode,
                insn: &insn,
                bytes: &bytes,
                features: &features,
            };
            let mut op = resolve(&insn, mode, 0, 0);
            let handled = isa::handler(&context, &mut op).is_some();
            let allowed = features.allow(&insn) && !UNDEFINED.contains(&insn.code());
            if handled != allowed {
                wrong.push(format!("{:?} {:?}", insn.code(), insn.cpuid_features()));
            }
            count += handled as usize;
        }
    }
    wrong.dedup();
    assert_eq!(wrong, Vec::<String>::new());
    assert!(count > 4000, "{count} forms");
}

#[test]
fn all_tables_ask_for_what_there_is_only() {
    for vendor in [Vendor::Intel, Vendor::Amd] {
        for level in [Level::V1, Level::V2, Level::V3] {
            let model = processor(level, vendor);
            assert_eq!(missing(&model), Vec::<String>::new());
            assert_eq!(model.vendor(), Some(vendor));
        }
    }
    let mut model = CpuModel::native();
    let leaf7 = |l: &&mut Leaf| l.leaf == 7;
    model.leaves.iter_mut().find(leaf7).unwrap().registers[1] |= 1 << 16; // AVX-512
    model.leaves[0].registers[1] = u32::from_le_bytes(*b"Cyri");
    let text = missing(&model).join(", ");
    assert_eq!(
        text,
        "the vendor \"CyriineIntel\", CPUID leaf 7h.0 EBX bit 16"
    );
}

fn with(level: Level, vendor: Vendor) -> Box<Cpu> {
    let mut cpu = long_mode();
    cpu.set_model(processor(level, vendor));
    cpu
}

#[test]
fn what_a_level_lacks_is_undefined_or_means_what_it_meant_before() {
    // popcnt eax, eax; pshufb xmm0, xmm0; crc32 eax, al; vaddps xmm0, xmm0, xmm0; rdrand eax; movbe eax, [rsp]; andn
    let codes: &[(&[u8], Level)] = &[
        (&[0xf3, 0x0f, 0xb8, 0xc0], Level::V2),
        (&[0x66, 0x0f, 0x38, 0x00, 0xc0], Level::V2),
        (&[0xf2, 0x0f, 0x38, 0xf0, 0xc0], Level::V2),
        (&[0xc5, 0xf8, 0x58, 0xc0], Level::V3),
        (&[0x0f, 0xc7, 0xf0], Level::V3),
        (&[0x0f, 0x38, 0xf0, 0x04, 0x24], Level::V3),
        (&[0xc4, 0xe2, 0x78, 0xf2, 0xc0], Level::V3),
    ];
    for (code, from) in codes {
        for level in [Level::V1, Level::V2, Level::V3] {
            let expected = (level < *from).then_some(vector::UD);
            let mut cpu = with(level, Vendor::Intel);
            assert_eq!(execute(&mut cpu, code), expected, "{code:02x?} {level:?}");
        }
    }
    // LZCNT is BSR, TZCNT of 0 leaves its destination.
    for (level, lzcnt, tzcnt) in [(Level::V2, 4, 7), (Level::V3, 27, 32)] {
        let mut cpu = with(level, Vendor::Intel);
        cpu.state.gpr[gpr::RAX] = 0x10;
        cpu.state.gpr[gpr::RDX] = 7;
        let code = [0xf3, 0x0f, 0xbd, 0xc8, 0xf3, 0x0f, 0xbc, 0xd3];
        assert_eq!(execute(&mut cpu, &code), None);
        assert_eq!(cpu.state.gpr[gpr::RCX], lzcnt);
        assert_eq!(cpu.state.gpr[gpr::RDX], tzcnt);
    }
}

#[test]
fn sysret_to_a_bad_address_faults_before_it_on_intel_and_behind_it_on_amd() {
    for (vendor, expected) in [(Vendor::Intel, Some(vector::GP)), (Vendor::Amd, None)] {
        let mut cpu = with(Level::V3, vendor);
        cpu.state.efer |= efer::SCE;
        cpu.state.gpr[gpr::RCX] = 1 << 63;
        cpu.memory.write(CODE, &[0x48, 0x0f, 0x07]);
        cpu.state.set_rip(CODE);
        cpu.state_changed();
        assert_eq!(step(&mut cpu), expected);
        let after = (cpu.state.cpl, cpu.state.rip());
        assert!(expected.is_some() || after == (3, 1 << 63));
    }
}

#[test]
fn null_selectors_clear_bases_on_intel_and_keep_them_on_amd() {
    for (vendor, base) in [(Vendor::Intel, 0), (Vendor::Amd, 0x1234)] {
        let mut cpu = with(Level::V3, vendor);
        cpu.state.seg_base[seg::FS] = 0x1234;
        cpu.state.seg_base[seg::ES] = 0x1234;
        // xor eax, eax; mov fs, ax; mov es, ax
        assert_eq!(
            execute(&mut cpu, &[0x31, 0xc0, 0x8e, 0xe0, 0x8e, 0xc0]),
            None
        );
        assert_eq!(cpu.state.seg_base[seg::FS], base);
        assert_eq!(cpu.state.seg_base[seg::ES], 0);
    }
}

#[test]
fn system_calls_of_compatibility_mode_are_sysenter_on_intel_and_syscall_on_amd() {
    let run = |vendor, code: &[u8]| {
        let mut cpu = with(Level::V3, vendor);
        let s = &mut cpu.state;
        s.efer |= efer::SCE;
        s.star = 8 << 32;
        s.cstar = 0x2_1000;
        s.lstar = 0x2_2000;
        s.sysenter = [8, 0x7000, 0x2_3000];
        s.seg[seg::CS] = Segment {
            limit: 0xffff_ffff,
            rights: 0xc09b,
            selector: 0x20,
        };
        cpu.memory.write(CODE, code);
        cpu.state.set_rip(CODE);
        cpu.state_changed();
        (step(&mut cpu), cpu.state.rip(), cpu.state.gpr[gpr::RCX])
    };
    let (syscall, sysenter) = ([0x0f, 0x05], [0x0f, 0x34]);
    assert_eq!(run(Vendor::Intel, &syscall).0, Some(vector::UD));
    assert_eq!(run(Vendor::Amd, &syscall), (None, 0x2_1000, CODE + 2));
    assert_eq!(run(Vendor::Intel, &sysenter), (None, 0x2_3000, 0));
    assert_eq!(run(Vendor::Amd, &sysenter).0, Some(vector::UD));
}

#[test]
fn random_numbers_come_with_carry_and_clear_the_other_flags() {
    let mut cpu = long_mode();
    cpu.state.flags.set_rflags(0x8d4);
    cpu.state.gpr[gpr::RAX] = u64::MAX;
    // rdrand ax; rdseed ecx
    assert_eq!(
        execute(&mut cpu, &[0x66, 0x0f, 0xc7, 0xf0, 0x0f, 0xc7, 0xf9]),
        None
    );
    assert_eq!(cpu.state.gpr[gpr::RAX], 0xffff_ffff_ffff_0000);
    assert_eq!(cpu.state.rflags() & 0x8d5, 1);
}

#[test]
fn invpcid_faults_as_the_manual_says() {
    let run = |kind: u64, pcid: u64, address: u64, pcide: bool| {
        let mut cpu = long_mode();
        if pcide {
            cpu.state.cr4 |= cr4::PCIDE;
        }
        cpu.memory.write(0x2_0000, &pcid.to_le_bytes());
        cpu.memory.write(0x2_0008, &address.to_le_bytes());
        cpu.state.gpr[gpr::RAX] = kind;
        cpu.state.gpr[gpr::RBX] = 0x2_0000;
        execute(&mut cpu, &[0x66, 0x0f, 0x38, 0x82, 0x03])
    };
    let gp = Some(vector::GP);
    let bad = 1 << 62;
    for (kind, pcid, address, off, on) in [
        (0, 0, 0x1000, None, None),
        (0, 5, 0x1000, gp, None),
        (0, 0, bad, gp, gp),
        (1, 5, bad, gp, None),
        (1, 0, bad, None, None),
        (2, 5, bad, None, None),
        (3, 0xfff, bad, None, None),
        (3, 0x1000, 0, gp, gp),
        (4, 0, 0, gp, gp),
        (1 << 32, 0, 0, gp, gp),
    ] {
        assert_eq!(run(kind, pcid, address, false), off, "{kind} {pcid}");
        assert_eq!(run(kind, pcid, address, true), on, "{kind} {pcid}");
    }
}

#[test]
fn pcids_are_switched_on_and_off_as_the_manual_says() {
    let gp = Some(vector::GP);
    // mov cr4, rax; mov cr3, rbx; mov cr4, rcx
    let (set4, set3) = ([0x0f, 0x22, 0xe0], [0x0f, 0x22, 0xdb]);
    let mut cpu = long_mode();
    let (on, table) = (cpu.state.cr4 | cr4::PCIDE, cpu.state.cr3);
    cpu.state.gpr[gpr::RBX] = table | 1 << 63;
    assert_eq!(execute(&mut cpu, &set3), gp, "bit 63 without PCIDs");
    let mut cpu = long_mode();
    cpu.state.gpr[gpr::RAX] = on;
    cpu.state.gpr[gpr::RBX] = table | 7;
    assert_eq!(
        execute(&mut cpu, &[set3, set4].concat()),
        gp,
        "a PCID before"
    );
    let mut cpu = long_mode();
    cpu.state.gpr[gpr::RAX] = on;
    cpu.state.gpr[gpr::RBX] = table | 7 | 1 << 63;
    assert_eq!(execute(&mut cpu, &[set4, set3].concat()), None);
    assert_eq!(cpu.state.cr3, table | 7);
    // Paging cannot be switched off, even from compatibility mode.
    cpu.state.seg[seg::CS].rights = 0xc09b;
    cpu.state.gpr[gpr::RAX] = cpu.state.cr0 & 0x7fff_ffff;
    cpu.memory.write(CODE, &[0x0f, 0x22, 0xc0]);
    cpu.forget_code();
    cpu.state.set_rip(CODE);
    cpu.state.activity = 0;
    cpu.state_changed();
    assert_eq!(step(&mut cpu), gp);
}
