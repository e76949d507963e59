//! Where KVM and the manual differ: the manual wins, in the table of the case, and here stands why the two need not
//! agree. Some KVMs have no hardware to run guests on and execute level 0 by an emulator and level 3 as programs of
//! their own; their rows count only where [`Quirk::PROBE`] shows that this is one.

use crate::script::Case;

/// A difference that is KVM's.
pub struct Quirk {
    /// Only where KVM runs on no hardware.
    software: bool,
    /// The mode's name ends with this.
    mode: &'static str,
    /// The instruction begins with one of these.
    code: &'static [&'static str],
    /// What is set before contains this.
    before: &'static str,
    pub why: &'static str,
}

const fn row(
    software: bool,
    mode: &'static str,
    code: &'static [&'static str],
    before: &'static str,
    why: &'static str,
) -> Quirk {
    Quirk {
        software,
        mode,
        code,
        before,
        why,
    }
}

#[rustfmt::skip]
const QUIRKS: &[Quirk] = &[
    row(false, "", &["0f 31", "0f 01 f9"], "", "the time-stamp counter is the host's"),
    row(false, "", &["0f 22 e0"], "eax=1", "KVM offers VME, this processor does not"),
    row(false, "", &["0f 22 e0"], "eax=2", "KVM offers PVI, this processor does not"),
    row(false, "", &["0f 00 d"], "", "KVM takes 57 bits for canonical where the host has them"),
    row(false, "", &["0f 01 14", "0f 01 1c", "0f 30"], "8000",
        "KVM takes 57 bits for canonical where the host has them"),
    row(false, "", &["0f 30"], "ecx=277", "KVM takes any memory type"),
    row(true, "l64", &["8e d0"], "eax=0", "a null SS stays usable"),
    row(true, "", &["c8"], "ss=20", "ENTER pushes by the stack's size, not by the operand's"),
    row(true, "v86", &[""], "", "exceptions out of virtual-8086 mode save no data segments"),
    row(true, ".3", &["9a", "ea", "ff 1", "ff 2", "cb", "cf", "48 cf", "cd", "cc", "f1", "0f 05", "0f 34", "0f 01"], "",
        "transfers from level 3 raise #UD"),
    row(true, ".3", &["0f 02", "0f 03", "0f 00"], "", "LAR and its kin raise #UD at level 3"),
    row(true, ".3", &["f4", "fa", "fb", "9c", "9d", "e4", "e5", "ec", "66 e5"], "fl=3", "IOPL is lost at level 3"),
    row(true, ".3", &["9a"], "ss=103", "a far CALL writes a part of its frame before it faults"),
    row(true, ".3", &[""], "tr.limit", "the limit of the task-state segment is not looked at"),
    row(true, ".3", &["e4"], "tr.rights=83", "a 16-bit task-state segment counts as a 32-bit one"),
    row(true, "", &["9a", "66 9a"], "", "a far CALL beyond the limit has set the accessed bit"),
    row(true, "l64", &["cf", "48 cf"], "", "IRET: no 32-bit form, SS may be null, RIP is checked after the return"),
    row(true, "c32", &["cf"], "", "no IRET in compatibility mode"),
    row(true, "", &["0f 0b"], "idt+", "whatever fails during delivery is a double fault"),
    row(true, "", &["0f 00 d"], "eax=7f8", "the upper half of a descriptor may lie behind the limit"),
    row(true, "", &["0f 00 d8"], "", "LTR: error code 0 for the LDT, a 16-bit task-state segment in long mode"),
    row(true, "32", &["0f 01 f8"], "", "SWAPGS outside 64-bit mode"),
    row(true, "real", &["cd 80"], "fl=302", "INT with TF set traps"),
    row(true, "p32", &["0f 22 c0"], "cr4=10", "no 32-bit paging"),
    row(true, "p32", &["0f 22 d8"], "cr0=80000031", "no 32-bit paging"),
    row(true, "l64", &["0f 22 c0"], "rax=18", "reserved bits of CR0 are dropped"),
    row(true, "l64", &["0f 22 e0"], "rax=1", "reserved bits of CR4 are dropped"),
    row(true, "", &["0f 05", "0f 07", "48 0f 07"], "", "SYSCALL and SYSRET go elsewhere"),
];

impl Quirk {
    /// A case that every KVM on hardware gets right.
    pub const PROBE: &str = "p32.3 | 0f 00 e9 | ecx=53 | fl=42";

    /// The row that excuses a difference.
    pub fn of(case: &Case, software: bool) -> Option<&'static Quirk> {
        let mode = case.line.split('|').next().unwrap_or_default().trim();
        QUIRKS.iter().find(|quirk| {
            (software || !quirk.software)
                && mode.ends_with(quirk.mode)
                && quirk.code.iter().any(|code| case.code.starts_with(code))
                && case.before.contains(quirk.before)
        })
    }
}
