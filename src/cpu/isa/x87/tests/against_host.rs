//! Every instruction with a defined result, from random states: all registers, flags, memory must agree.

use super::host::{Bench, OPERAND, Situation};
use super::operands::operand;
use crate::cpu::flags::bits;
use crate::cpu::isa::x87::registers::status;
use crate::cpu::state::{F80, X87};
use crate::cpu::testing::Numbers;
use bytemuck::Zeroable;
use std::collections::BTreeMap;
use std::fmt::Write;

/// All second bytes that iced knows for D8 to DF: 64 register forms each, and the 8 memory forms with `[rdx]`.
fn all_instructions() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for first in 0xd8..=0xdfu8 {
        let forms = (0..8).map(|n| n << 3 | 2).chain(0xc0..=0xff);
        for second in forms {
            let bytes = [first, second];
            let mut decoder = iced_x86::Decoder::new(64, &bytes, 0);
            if !decoder.decode().is_invalid() {
                all.push(bytes.to_vec());
            }
        }
    }
    all
}

fn is_transcendental(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [0xd9, 0xf0 | 0xf1 | 0xf2 | 0xf3 | 0xf9 | 0xfb | 0xfe | 0xff]
    )
}

/// FLDENV, FNSTENV, FRSTOR, FNSAVE: they have pointers in memory, and tests of their own.
fn is_environment(bytes: &[u8]) -> bool {
    matches!(bytes, [0xd9, 0x22 | 0x32] | [0xdd, 0x22 | 0x32])
}

pub fn situation(random: &mut Numbers, masked: bool) -> Situation {
    let mut x87 = X87::zeroed();
    let masks = if masked || random.below(2) == 0 {
        0x3f
    } else {
        random.next() as u16 & 0x3f
    };
    let rounding = random.below(4) as u16;
    let precision = [3, 3, 3, 2, 0, 1][random.below(6) as usize];
    x87.control = 0x40 | masks | precision << 8 | rounding << 10;
    // Flags that are set already are sticky. Unmasked ones would be pending.
    let sticky = random.next() as u16 & random.next() as u16;
    x87.status = sticky & (masks | status::SF | status::CONDITIONS)
        | (random.below(8) as u16) << status::TOP_SHIFT;
    for i in 0..8 {
        x87.set_st(i, operand(random));
    }
    let used = match random.below(4) {
        0 => random.next() as u8,
        1 => 0xff,
        // ST(0) to ST(3) in use, room for pushing.
        _ => 0x0f_u8.rotate_left(x87.top() as u32),
    };
    x87.set_from_abridged(used);
    let mut memory = [0u8; OPERAND];
    fill_operand(random, &mut memory);
    Situation {
        x87,
        memory,
        rflags: random.next() & bits::ARITHMETIC | 2,
        ax: 0,
    }
}

/// A memory operand: an extended number, a random one, or an edge of one of the shorter formats.
fn fill_operand(random: &mut Numbers, memory: &mut [u8; OPERAND]) {
    let n = random.next();
    match random.below(6) {
        0 => {
            let value = operand(random);
            memory[..8].copy_from_slice(&value.mantissa.to_le_bytes());
            memory[8..10].copy_from_slice(&(value.sign_exponent as u16).to_le_bytes());
        }
        1 => memory[..8].copy_from_slice(&n.to_le_bytes()),
        2 => {
            let exponent = [0, 1, 0x7f, 0x80, 0xfe, 0xff][random.below(6) as usize];
            let fraction = [0, 1, 0x7f_ffff, 0x40_0000, 0x3f_ffff, n as u32 & 0x7f_ffff];
            let bits =
                ((n >> 63) as u32) << 31 | exponent << 23 | fraction[random.below(6) as usize];
            memory[..4].copy_from_slice(&bits.to_le_bytes());
        }
        3 => {
            let exponent = [0, 1, 0x3ff, 0x400, 0x7fe, 0x7ff][random.below(6) as usize];
            let ones = (1u64 << 52) - 1;
            let fraction = [0, 1, ones, 1 << 51, ones >> 1, n & ones][random.below(6) as usize];
            let bits = n & 1 << 63 | exponent << 52 | fraction;
            memory[..8].copy_from_slice(&bits.to_le_bytes());
        }
        4 => {
            let small = (n as i8) as i64;
            memory[..8].copy_from_slice(&small.to_le_bytes());
        }
        // Decimal digits.
        _ => {
            for byte in &mut memory[..9] {
                *byte = (random.below(10) | random.below(10) << 4) as u8;
            }
            memory[9] = (n as u8) & 0x80;
        }
    }
}

/// What differs, in words.
fn difference(before: &Situation, host: &Situation, ours: &Situation) -> String {
    let mut text = String::new();
    let (h, o) = (&host.x87, &ours.x87);
    let mut note = |what: &str, host: u64, ours: u64| {
        if host != ours {
            let _ = writeln!(text, "  {what}: host {host:x}, ours {ours:x}");
        }
    };
    note("control", h.control as u64, o.control as u64);
    note("status", h.status as u64, o.status as u64);
    note("tag", h.tag as u64, o.tag as u64);
    note("opcode", h.opcode as u64, o.opcode as u64);
    note("ip", h.ip, o.ip);
    note("data", h.data, o.data);
    for n in 0..8 {
        note("register mantissa", h.r[n].mantissa, o.r[n].mantissa);
        note(
            "register exponent",
            h.r[n].sign_exponent,
            o.r[n].sign_exponent,
        );
    }
    note("rflags", host.rflags, ours.rflags);
    note("ax", host.ax as u64, ours.ax as u64);
    if host.memory != ours.memory {
        let _ = writeln!(
            text,
            "  memory: host {:02x?}, ours {:02x?}",
            &host.memory[..32],
            &ours.memory[..32]
        );
    }
    if !text.is_empty() {
        let x = &before.x87;
        let _ = writeln!(
            text,
            "  before: control {:04x} status {:04x} abridged tag {:02x} memory {:02x?}",
            x.control,
            x.status,
            x.abridged_tag(),
            &before.memory[..10]
        );
        for i in 0..3 {
            let value = x.st(i);
            let _ = writeln!(
                text,
                "    st{i} {:04x} {:016x}",
                value.sign_exponent, value.mantissa
            );
        }
    }
    text
}

/// Compares many situations of each instruction, and tells of the first ones that differ.
fn compare(instructions: Vec<Vec<u8>>, count: usize, masked: bool, forgiving: bool) {
    let mut bench = Bench::new(instructions);
    let mut failures: BTreeMap<Vec<u8>, (usize, String)> = BTreeMap::new();
    let mut random = Numbers(0x87);
    for n in 0..bench.instructions().len() {
        for _ in 0..count {
            let before = situation(&mut random, masked);
            let host = bench.on_host(n, &before);
            let mut ours = bench.on_ours(n, &before);
            if forgiving {
                forgive_last_place(&before, &host, &mut ours);
            }
            let text = difference(&before, &host, &ours);
            if !text.is_empty() {
                let name = bench.instructions()[n].clone();
                failures.entry(name).or_insert((0, text)).0 += 1;
            }
        }
    }
    let report: String = failures
        .iter()
        .map(|(name, (number, text))| {
            format!("{name:02x?}: {number} of {count} differ, the first:\n{text}")
        })
        .collect();
    assert!(
        report.is_empty(),
        "{} instructions:\n{report}",
        failures.len()
    );
}

/// Distance of two numbers in units of the last place; `None` where their signs differ.
fn distance(a: F80, b: F80) -> Option<u64> {
    let order = |x: F80| {
        // Denormals and normals are in one order; the smallest normal has the exponent of denormals plus 1.
        let exponent = x.exponent().max(1) as u128;
        (exponent << 63) + x.mantissa as u128
    };
    let apart = order(a).abs_diff(order(b));
    (a.is_negative() == b.is_negative()).then_some(u64::try_from(apart).unwrap_or(u64::MAX))
}

/// Takes out of `ours` what the SDM leaves open: one unit of the last place of a result that is not exact, and with it
/// the direction of rounding. Beside the smallest and
/// the largest normal number such a unit decides over underflow and overflow.
fn forgive_last_place(before: &Situation, host: &Situation, ours: &mut Situation) {
    if host.x87.status & status::PE == 0 {
        return;
    }
    let edge = |x: F80| {
        let smallest = x.exponent() < 2 && x.mantissa == 1 << 63;
        smallest || x.exponent() == 0x7ffe
    };
    let (b, h) = (&before.x87, &host.x87);
    if (h.status ^ ours.x87.status) & (status::UE | status::OE) != 0
        && [b.st(0), b.st(1), h.st(0), h.st(1)].into_iter().any(edge)
    {
        *ours = *host;
        return;
    }
    let mut near = false;
    for n in 0..8 {
        let (h, o) = (host.x87.r[n], ours.x87.r[n]);
        if h != o && distance(h, o).is_some_and(|units| units <= 1) {
            ours.x87.r[n] = h;
        }
        near |= h != o;
    }
    if near || ours.x87.status & status::PE != 0 {
        ours.x87.status = ours.x87.status & !status::C1 | host.x87.status & status::C1;
    }
    ours.x87.set_full_tag(ours.x87.tag);
}

fn exact_instructions() -> Vec<Vec<u8>> {
    all_instructions()
        .into_iter()
        .filter(|bytes| !is_transcendental(bytes) && !is_environment(bytes))
        .collect()
}

#[test]
fn masked_responses_agree_with_the_host() {
    compare(exact_instructions(), 4000, true, false);
}

#[test]
fn unmasked_responses_agree_with_the_host() {
    compare(exact_instructions(), 4000, false, false);
}

fn transcendental_instructions() -> Vec<Vec<u8>> {
    all_instructions()
        .into_iter()
        .filter(|bytes| is_transcendental(bytes))
        .collect()
}

#[test]
fn transcendental_results_are_within_a_unit_of_the_hosts() {
    compare(transcendental_instructions(), 20_000, true, true);
}

#[test]
fn unmasked_transcendental_responses_agree_with_the_host() {
    compare(transcendental_instructions(), 20_000, false, true);
}

/// All in the sizes of 32 and 16 bits, the loading ones also with FNSTENV behind them.
#[test]
fn environments_agree_with_the_host() {
    let mut forms = Vec::new();
    for prefix in [&[][..], &[0x66][..]] {
        for form in [[0xd9, 0x22], [0xd9, 0x32], [0xdd, 0x22], [0xdd, 0x32]] {
            let instruction = [prefix, &form].concat();
            forms.push(instruction.clone());
            if form[1] == 0x22 {
                forms.push([&instruction[..], &[0xd9, 0x32]].concat());
                forms.push([&instruction[..], &[0x66, 0xd9, 0x32]].concat());
            }
        }
    }
    let mut bench = Bench::new(forms);
    let mut random = Numbers(0x28);
    for n in 0..bench.instructions().len() {
        for _ in 0..2000 {
            let mut before = situation(&mut random, false);
            before.x87.ip = random.next() >> 17;
            before.x87.data = random.next() >> 17;
            before.x87.opcode = random.next() as u16 & 0x7ff;
            for byte in &mut before.memory {
                *byte = random.next() as u8;
            }
            let host = bench.on_host(n, &before);
            let ours = bench.on_ours(n, &before);
            let text = difference(&before, &host, &ours);
            assert!(text.is_empty(), "{:02x?}:\n{text}", bench.instructions()[n]);
        }
    }
}
