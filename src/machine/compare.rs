//! What of two processors is compared when one of them is real: hashes of registers and pages, and differences by name.
//!
//! Left out: flags that an instruction may leave undefined, the x87 unit's pointers (they depend on the model), and the
//! hidden parts of segment registers that nothing looks at.

use crate::cpu::awaited::{Awaited, Clue, LINE_BYTES, line_hash, line_of};
use crate::cpu::flags::bits;
use crate::cpu::state::{State, cr0, cr4, efer, gpr, rights, seg};
use crate::memory::{Memory, PAGE_BYTES};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_64;

/// Flags that are compared: all but those that an instruction may leave undefined, and RF, which lives for a moment.
const FLAGS: u64 = bits::ALL & !(bits::ARITHMETIC | bits::RF);

/// Hash of the general registers in the order of their encoding, RIP, and RFLAGS.
pub fn general_hash(registers: &[u64; 16], rip: u64, rflags: u64) -> u64 {
    let mut bytes = [0; 18 * 8];
    let words = registers.iter().chain([&rip]);
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes[17 * 8..].copy_from_slice(&(rflags & FLAGS).to_le_bytes());
    xxh3_64(&bytes)
}

/// The same of a processor state.
pub fn general_hash_of(state: &State) -> u64 {
    let registers = std::array::from_fn(|n| state.gpr[n]);
    general_hash(&registers, state.rip(), state.rflags())
}

/// The registers that `general_hash_of` is a hash of, but RIP: the general registers, and the flags that count.
pub fn general_of(state: &State) -> ([u64; 16], u64) {
    (
        std::array::from_fn(|n| state.gpr[n]),
        state.rflags() & FLAGS,
    )
}

/// Lets breakpoints wait for such registers.
pub fn awaited(general: &[u64; 16], flags: u64) -> Awaited {
    Awaited::new(*general, flags, FLAGS)
}

/// Hash of the x87 and SSE registers.
pub fn vector_hash(state: &State) -> u64 {
    let mut bytes = Vec::with_capacity(512);
    for vector in &state.vector {
        for word in &vector.0[..2] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes.extend_from_slice(&state.mxcsr.to_le_bytes());
    bytes.extend_from_slice(&state.x87.control.to_le_bytes());
    bytes.extend_from_slice(&state.x87.status.to_le_bytes());
    for (n, register) in state.x87.r.iter().enumerate() {
        let used = state.x87.tag >> (2 * n) & 3 != 3;
        bytes.push(u8::from(used));
        if used {
            bytes.extend_from_slice(&register.mantissa.to_le_bytes());
            bytes.extend_from_slice(&register.sign_exponent.to_le_bytes());
        }
    }
    xxh3_64(&bytes)
}

/// A word of the x87 and SSE registers that tells `now` from what was recorded, to be found again in other states.
pub fn vector_clue(recorded: &State, now: &State) -> Option<Clue> {
    let start = std::ptr::from_ref(recorded) as usize;
    let word = |at: &u64| Clue::Word(std::ptr::from_ref(at) as usize - start, *at);
    let vectors = recorded.vector.iter().zip(&now.vector);
    let mut halves = vectors.flat_map(|(a, b)| a.0[..2].iter().zip(&b.0[..2]));
    if let Some((was, _)) = halves.find(|(was, is)| was != is) {
        return Some(word(was));
    }
    let registers = recorded.x87.r.iter().zip(&now.x87.r).enumerate();
    registers
        .filter(|(n, _)| recorded.x87.tag >> (2 * n) & 3 != 3)
        .find(|(_, (was, is))| was.mantissa != is.mantissa)
        .map(|(_, (was, _))| word(&was.mantissa))
}

/// Hashes of all lines of a page, without the marks that a processor leaves in page tables.
pub fn line_hashes(page: &[u8; PAGE_BYTES]) -> [u8; PAGE_BYTES / LINE_BYTES] {
    std::array::from_fn(|line| line_hash(line_of(page, line)))
}

/// The first line of a page whose hash is not the one recorded, to be found again in other states.
pub fn line_clue(
    page: usize,
    recorded: &[u8; PAGE_BYTES / LINE_BYTES],
    now: &[u8; PAGE_BYTES],
) -> Option<Clue> {
    let hashes = recorded.iter().enumerate();
    let (line, &hash) = hashes
        .into_iter()
        .find(|&(line, &hash)| line_hash(line_of(now, line)) != hash)?;
    Some(Clue::Line {
        page,
        line: line as u8,
        hash,
    })
}

/// Hash of a page.
pub fn page_hash(page: &[u8; PAGE_BYTES]) -> u64 {
    xxh3_64(page)
}

/// Hash of a page, and of the page without the marks that a processor leaves in page tables.
pub fn page_hashes(page: &[u8; PAGE_BYTES]) -> (u64, u64) {
    (xxh3_64(page), xxh3_64(&unmarked(page)))
}

/// A page with the accessed and dirty bits of everything cleared that looks like a present page-table entry of 8 bytes.
/// (A real processor may set A early, and both late.)
pub fn unmarked(page: &[u8; PAGE_BYTES]) -> [u8; PAGE_BYTES] {
    let mut out = *page;
    for entry in out.chunks_exact_mut(8) {
        if entry[0] & 1 != 0 {
            entry[0] &= !0x60;
        }
    }
    out
}

/// The pages that hold page tables now: those that are reached from CR3.
pub fn table_pages(state: &State, memory: &Memory) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    if state.cr0 & cr0::PG == 0 {
        return found;
    }
    let long = state.efer & efer::LMA != 0;
    let (levels, entry_bytes) = match () {
        () if long => (4, 8),
        () if state.cr4 & cr4::PAE != 0 => (3, 8),
        () => (2, 4),
    };
    let root = state.cr3 & 0x000f_ffff_ffff_f000;
    add_tables(root, levels, entry_bytes, memory, &mut found);
    found
}

fn add_tables(at: u64, level: u32, entry_bytes: usize, memory: &Memory, found: &mut BTreeSet<u32>) {
    let Some(page) = memory.page_index(at) else {
        return;
    };
    if !found.insert(page as u32) || level == 1 {
        return;
    }
    for entry in memory.page(page).chunks_exact(entry_bytes) {
        let mut bytes = [0; 8];
        bytes[..entry_bytes].copy_from_slice(entry);
        let entry = u64::from_le_bytes(bytes);
        // Present, and no large page.
        let large = entry & 0x80 != 0 && level <= 3;
        if entry & 1 != 0 && !large {
            let next = entry & 0x000f_ffff_ffff_f000;
            add_tables(next, level - 1, entry_bytes, memory, found);
        }
    }
}

/// What differs between two processors, by the manual's names; empty where nothing that counts does.
pub fn differences(recorded: &State, replayed: &State) -> Vec<String> {
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
    let mut found = Vec::new();
    let mut compare = |name: &str, a: u64, b: u64| {
        if a != b {
            found.push(format!("{name} {a:#x} against {b:#x}"));
        }
    };
    for (n, name) in NAMES.iter().enumerate() {
        compare(name, recorded.gpr[n], replayed.gpr[n]);
    }
    compare("rip", recorded.gpr[gpr::RIP], replayed.gpr[gpr::RIP]);
    compare(
        "rflags",
        recorded.rflags() & FLAGS,
        replayed.rflags() & FLAGS,
    );
    for (n, name) in SEGMENTS.iter().enumerate() {
        compare(
            name,
            recorded.seg[n].selector.into(),
            replayed.seg[n].selector.into(),
        );
    }
    for (n, name) in [
        (seg::CS, "cs base"),
        (seg::FS, "fs base"),
        (seg::GS, "gs base"),
    ] {
        compare(name, recorded.seg_base[n], replayed.seg_base[n]);
    }
    let code = |state: &State| u64::from(state.seg[seg::CS].rights & (rights::L | rights::DB));
    compare("cs rights", code(recorded), code(replayed));
    compare("cpl", recorded.cpl.into(), replayed.cpl.into());
    let system = |s: &State| {
        [
            ("cr0", s.cr0),
            ("cr2", s.cr2),
            ("cr3", s.cr3),
            ("cr4", s.cr4),
            ("efer", s.efer),
            ("gdtr base", s.gdtr.base),
            ("gdtr limit", s.gdtr.limit),
            ("idtr base", s.idtr.base),
            ("idtr limit", s.idtr.limit),
            ("ldtr", s.ldtr.segment.selector.into()),
            ("tr", s.tr.segment.selector.into()),
            ("tr base", s.tr.base),
            ("star", s.star),
            ("lstar", s.lstar),
            ("cstar", s.cstar),
            ("fmask", s.fmask),
            ("kernel gs base", s.kernel_gs_base),
            ("sysenter cs", s.sysenter[0]),
            ("sysenter esp", s.sysenter[1]),
            ("sysenter eip", s.sysenter[2]),
            ("pat", s.pat),
        ]
    };
    for ((name, a), (_, b)) in system(recorded).into_iter().zip(system(replayed)) {
        compare(name, a, b);
    }
    if vector_hash(recorded) != vector_hash(replayed) {
        for (n, (a, b)) in recorded.vector.iter().zip(&replayed.vector).enumerate() {
            for (word, half) in [(0, "low"), (1, "high")] {
                compare(&format!("xmm{n} {half}"), a.0[word], b.0[word]);
            }
        }
        compare("mxcsr", recorded.mxcsr.into(), replayed.mxcsr.into());
        compare(
            "fcw",
            recorded.x87.control.into(),
            replayed.x87.control.into(),
        );
        compare(
            "fsw",
            recorded.x87.status.into(),
            replayed.x87.status.into(),
        );
        compare(
            "ftw",
            recorded.x87.abridged_tag().into(),
            replayed.x87.abridged_tag().into(),
        );
        for (n, (a, b)) in recorded.x87.r.iter().zip(&replayed.x87.r).enumerate() {
            if recorded.x87.tag >> (2 * n) & 3 != 3 {
                compare(&format!("x87 r{n}"), a.mantissa, b.mantissa);
                compare(
                    &format!("x87 r{n} exponent"),
                    a.sign_exponent,
                    b.sign_exponent,
                );
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_undefined_or_early_does_not_count() {
        let one = State::reset();
        let mut other = one;
        other.flags.set_rflags(one.rflags() | bits::ARITHMETIC);
        other.x87.ip = 7;
        assert_eq!(differences(&one, &other), Vec::<String>::new());
        assert_eq!(general_hash_of(&one), general_hash_of(&other));
        other.gpr[gpr::R11] = 1;
        other.vector[3].0[1] = 2;
        assert_eq!(
            differences(&one, &other),
            ["r11 0x0 against 0x1", "xmm3 high 0x0 against 0x2"]
        );
        assert_ne!(general_hash_of(&one), general_hash_of(&other));
        assert_ne!(vector_hash(&one), vector_hash(&other));

        let mut page = [0; PAGE_BYTES];
        page[8] = 0x07;
        page[16] = 0x06;
        let mut marked = page;
        marked[8] |= 0x60;
        let (a, b) = (page_hashes(&page), page_hashes(&marked));
        assert!(a.0 != b.0 && a.1 == b.1);
        // Not present: no entry.
        marked[16] |= 0x20;
        assert_ne!(page_hashes(&marked).1, a.1);
    }
}
