//! Page-table permissions: every combination of P, R/W, U/S and NX at each level, of the control bits, privilege level
//! and kind of access, against a plain restatement of the SDM's rules (volume 3, 4.6 and 4.7): fault or not, error
//! code, CR2, accessed and dirty bits.
//!
//! The tables under test lead from one linear address to the data page. Code, handlers and stacks lie in the lowest
//! MiB, which is mapped by 4 KiB pages for the supervisor; code of level 3 has a page of its own.

use crate::engine::{Engine, Ports};
use crate::kvm::{Oracle, Tally};
use crate::machine::{DATA, HANDLERS, Machine, Mode, RAM};
use fastrand::Rng;
use retrovisor::cpu::Cpu;
use retrovisor::cpu::cpuid::CpuModel;
use retrovisor::cpu::state::{State, cr0, cr4, efer, gpr};
use retrovisor::memory::Memory;

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const NX: u64 = 1 << 63;
const AC: u64 = 1 << 18;

/// Code of level 3 and of level 0.
const USER_CODE: u64 = 0x1_1000;
const KERNEL_CODE: u64 = 0x1_2000;
/// The root, the tables of the lowest MiB below it, and those under test.
const ROOT: u64 = 0x2_0000;
const LOW: u64 = 0x2_1000;
const TESTED: u64 = 0x2_8000;

/// A kind of paging with the size of the page under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paging {
    Level4(Leaf),
    Pae(Leaf),
    Legacy(Leaf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    Small,
    Large,
    Huge,
}

impl Paging {
    /// Levels with permission bits: the page-directory-pointer registers of PAE paging have none.
    fn levels(self) -> usize {
        match self {
            Paging::Level4(Leaf::Small) => 4,
            Paging::Level4(Leaf::Large) => 3,
            Paging::Level4(Leaf::Huge) | Paging::Pae(Leaf::Small) | Paging::Legacy(Leaf::Small) => {
                2
            }
            Paging::Pae(_) | Paging::Legacy(_) => 1,
        }
    }

    fn wide(self) -> bool {
        !matches!(self, Paging::Legacy(_))
    }

    /// The linear address that the tables under test translate to the data page.
    fn address(self) -> u64 {
        DATA + match self {
            Paging::Level4(Leaf::Small) => 1 << 39 | 1 << 30 | 1 << 21,
            Paging::Level4(Leaf::Large) => 1 << 39 | 1 << 30 | 1 << 21,
            Paging::Level4(Leaf::Huge) => 1 << 39 | 1 << 30,
            Paging::Pae(_) => 1 << 30 | 1 << 21,
            Paging::Legacy(_) => 3 << 22,
        }
    }

    /// Where the entry of a level stands.
    fn entry(self, level: usize) -> u64 {
        let address = self.address();
        let bytes = if self.wide() { 8 } else { 4 };
        let (top, bits) = match self {
            Paging::Level4(_) => (39, 9),
            Paging::Pae(_) => (21, 9),
            Paging::Legacy(_) => (22, 10),
        };
        let shift = top - bits * level as u32;
        let table = match (self, level) {
            (Paging::Level4(_) | Paging::Legacy(_), 0) => ROOT,
            _ => TESTED + 0x1000 * level as u64,
        };
        table + (address >> shift & ((1 << bits) - 1)) * bytes
    }

    /// The entry of a level without its permission bits.
    fn target(self, level: usize) -> u64 {
        if level + 1 < self.levels() {
            return TESTED + 0x1000 * (level as u64 + 1);
        }
        match self {
            Paging::Level4(Leaf::Small)
            | Paging::Pae(Leaf::Small)
            | Paging::Legacy(Leaf::Small) => DATA,
            _ => PS,
        }
    }

    /// Bits that must be 0 at a level, without NX.
    fn reserved(self, level: usize) -> u64 {
        let leaf = level + 1 == self.levels();
        let high = ((1 << 52) - 1) & !((1u64 << 40) - 1);
        match self {
            Paging::Legacy(Leaf::Small) => 0,
            Paging::Legacy(_) => 1 << 21,
            Paging::Pae(Leaf::Small) => high | 0x7ff << 52,
            Paging::Pae(_) => high | 0x7ff << 52 | 0x1f_e000,
            Paging::Level4(_) if level == 0 => high | PS,
            Paging::Level4(Leaf::Large) if leaf => high | 0x1f_e000,
            Paging::Level4(Leaf::Huge) if leaf => high | 0x3fff_e000,
            Paging::Level4(_) => high,
        }
    }
}

/// Control bits and privilege level.
#[derive(Clone, Copy, Debug)]
struct Control {
    wp: bool,
    smep: bool,
    smap: bool,
    ac: bool,
    nxe: bool,
    user: bool,
}

impl Control {
    fn all() -> impl Iterator<Item = Control> {
        (0..64u32).map(Control::from_bits)
    }

    fn from_bits(bits: u32) -> Control {
        let bit = |n: u32| bits >> n & 1 != 0;
        Control {
            wp: bit(0),
            smep: bit(1),
            smap: bit(2),
            ac: bit(3),
            nxe: bit(4),
            user: bit(5),
        }
    }
}

/// Read, write and fetch by an instruction; a descriptor read, and one whose accessed bit is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Fetch,
    ImplicitRead,
    ImplicitWrite,
}

const ACCESSES: [Access; 5] = [
    Access::Read,
    Access::Write,
    Access::Fetch,
    Access::ImplicitRead,
    Access::ImplicitWrite,
];

/// What the SDM says of an access: the error code if it faults, and the entries afterwards.
fn rules(
    paging: Paging,
    entries: &[u64],
    control: Control,
    access: Access,
) -> (Option<u64>, Vec<u64>) {
    let implicit = matches!(access, Access::ImplicitRead | Access::ImplicitWrite);
    // The descriptor is read before it is written: what forbids reading is reported as a read.
    if access == Access::ImplicitWrite {
        let (fault, read) = rules(paging, entries, control, Access::ImplicitRead);
        if fault.is_some() {
            return (fault, read);
        }
        let (fault, after) = outcome(paging, entries, control, true, false, implicit);
        // A read that succeeded has left its accessed bits.
        return if fault.is_some() {
            (fault, read)
        } else {
            (None, after)
        };
    }
    let write = access == Access::Write;
    outcome(
        paging,
        entries,
        control,
        write,
        access == Access::Fetch,
        implicit,
    )
}

fn outcome(
    paging: Paging,
    entries: &[u64],
    control: Control,
    write: bool,
    fetch: bool,
    implicit: bool,
) -> (Option<u64>, Vec<u64>) {
    // An access is a user-mode access if CPL is 3 and it is not an implicit one (4.6).
    let user_access = control.user && !implicit;
    let nx_exists = paging.wide() && control.nxe;
    let mut code = 0;
    if write {
        code |= 2;
    }
    if user_access {
        code |= 4;
    }
    // Bit 4 is set for fetches where SMEP is on, or PAE (or 4-level) paging has NXE on (4.7).
    if fetch && (control.smep || nx_exists) {
        code |= 0x10;
    }
    let unchanged = entries.to_vec();
    for (level, &entry) in entries.iter().enumerate() {
        if entry & P == 0 {
            return (Some(code), unchanged);
        }
        let mut reserved = paging.reserved(level);
        if paging.wide() && !control.nxe {
            reserved |= NX;
        }
        if entry & reserved != 0 {
            return (Some(code | 1 | 8), unchanged);
        }
    }
    let user_page = entries.iter().all(|e| e & US != 0);
    let writable = entries.iter().all(|e| e & RW != 0);
    let no_execute = nx_exists && entries.iter().any(|e| e & NX != 0);
    // 4.6.1, in its order: supervisor-mode accesses, then user-mode accesses.
    let permitted = if user_access {
        user_page && (!write || writable) && !(fetch && no_execute)
    } else if fetch {
        !(no_execute || user_page && control.smep)
    } else {
        let access_prevented = user_page && control.smap && (implicit || !control.ac);
        !access_prevented && (!write || writable || !control.wp)
    };
    if !permitted {
        return (Some(code | 1), unchanged);
    }
    let mut after = unchanged;
    for entry in &mut after {
        *entry |= A;
    }
    if write && let Some(leaf) = after.last_mut() {
        *leaf |= D;
    }
    (None, after)
}

/// The machine with its low mappings; the tables under test are empty.
fn base(paging: Paging, user: bool) -> Machine {
    let long = matches!(paging, Paging::Level4(_));
    let name = match (long, user) {
        (true, false) => "l64.0",
        (true, true) => "l64.3",
        (false, false) => "p32.0",
        (false, true) => "p32.3",
    };
    let mut machine = Machine::new(Mode::parse(name));
    machine.ram[ROOT as usize..0x3_0000].fill(0);
    let path = P | RW | US | A;
    let (leaves, bytes) = match paging {
        Paging::Level4(_) => {
            machine.put(ROOT, 8, LOW | path);
            machine.put(LOW, 8, (LOW + 0x1000) | path);
            machine.put(LOW + 0x1000, 8, (LOW + 0x2000) | path);
            (LOW + 0x2000, 8)
        }
        Paging::Pae(_) => {
            machine.put(LOW, 8, (LOW + 0x1000) | path);
            machine.state.pdpte = [LOW | P, TESTED | P, 0, 0];
            for (n, entry) in machine.state.pdpte.into_iter().enumerate() {
                machine.put(ROOT + 8 * n as u64, 8, entry);
            }
            (LOW + 0x1000, 8)
        }
        Paging::Legacy(_) => {
            machine.put(ROOT, 4, LOW | path);
            (LOW, 4)
        }
    };
    for page in 0..256u64 {
        let user = if page == USER_CODE >> 12 { US } else { 0 };
        machine.put(
            leaves + page * bytes,
            bytes as usize,
            page << 12 | P | RW | A | D | user,
        );
    }
    let s = &mut machine.state;
    s.cr3 = ROOT;
    s.cr0 |= cr0::PG;
    s.cr4 = match paging {
        Paging::Legacy(_) => cr4::PSE,
        _ => cr4::PAE,
    };
    machine
}

/// Offset in the page of what an access touches; selectors 4 and Ch of an LDT that lies in the page name the first two.
fn offset(access: Access) -> u64 {
    match access {
        Access::ImplicitRead => 0,
        Access::ImplicitWrite => 8,
        Access::Fetch => 0x20,
        Access::Read | Access::Write => 0x30,
    }
}

/// Where the instruction of an access stands in the pages of code.
fn place(access: Access) -> u64 {
    0x40 * ACCESSES.iter().position(|&a| a == access).unwrap_or(0) as u64
}

/// Puts code, descriptors and a byte to read where they belong.
fn fill(machine: &mut Machine) {
    for page in [USER_CODE, KERNEL_CODE] {
        machine.ram[page as usize..page as usize + 0x1000].fill(0xf4);
        for access in ACCESSES {
            let code: &[u8] = match access {
                Access::Read => &[0x8a, 0x07],
                Access::Write => &[0x88, 0x07],
                Access::Fetch => &[],
                // LAR EAX, EDI and MOV DS, EDI.
                Access::ImplicitRead => &[0x0f, 0x02, 0xc7],
                Access::ImplicitWrite => &[0x8e, 0xdf],
            };
            let at = (page + place(access)) as usize;
            machine.ram[at..at + code.len()].copy_from_slice(code);
        }
    }
    machine.put(DATA, 8, 0x00cf_f300_0000_ffff);
    machine.put(DATA + 8, 8, 0x00cf_f200_0000_ffff);
    machine.put(DATA + 0x20, 8, 0xf4f4_f4f4_f4f4_f490);
    machine.put(DATA + 0x30, 8, 0x5a);
}

/// Makes an access the next instruction. Gives where RIP is after it.
fn prepare(state: &mut State, paging: Paging, control: Control, access: Access) -> u64 {
    let target = paging.address() + offset(access);
    let code = if control.user { USER_CODE } else { KERNEL_CODE };
    let (rip, length) = match access {
        Access::Fetch => (target, 1),
        Access::ImplicitRead => (code + place(access), 3),
        _ => (code + place(access), 2),
    };
    state.set_rip(rip);
    let set = |register: &mut u64, bit: u64, on: bool| {
        *register = *register & !bit | if on { bit } else { 0 };
    };
    set(&mut state.cr0, cr0::WP, control.wp);
    set(&mut state.cr4, cr4::SMEP, control.smep);
    set(&mut state.cr4, cr4::SMAP, control.smap);
    set(&mut state.efer, efer::NXE, control.nxe);
    state.flags.set_rflags(2 | if control.ac { AC } else { 0 });
    state.ldtr.base = paging.address();
    state.gpr[gpr::RAX] = 0;
    state.gpr[gpr::RDI] = match access {
        Access::ImplicitRead => 4,
        Access::ImplicitWrite => 0xc,
        _ => target,
    };
    rip + length
}

fn permission(bits: u64, wide: bool) -> u64 {
    let nx = if wide && bits & 8 != 0 { NX } else { 0 };
    bits & (P | RW | US) | nx
}

/// The entries of a combination: four bits a level.
fn entries(paging: Paging, mut combination: u64) -> Vec<u64> {
    (0..paging.levels())
        .map(|level| {
            let bits = permission(combination & 15, paging.wide());
            combination >>= 4;
            paging.target(level) | bits
        })
        .collect()
}

/// The engine with one kind of paging, for very many runs.
struct Fast {
    cpu: Box<Cpu>,
    paging: Paging,
    /// For levels 0 and 3.
    starts: [State; 2],
    runs: usize,
}

impl Fast {
    fn new(paging: Paging) -> Fast {
        let machines = [false, true].map(|user| {
            let mut machine = base(paging, user);
            fill(&mut machine);
            machine
        });
        let memory = Memory::new(RAM as u64).expect("a mebibyte");
        let mut cpu = Cpu::new(memory, CpuModel::native());
        cpu.memory.write(0, &machines[0].ram);
        Fast {
            cpu,
            paging,
            starts: machines.map(|machine| machine.state),
            runs: 0,
        }
    }

    /// One access with one set of entries.
    fn check(&mut self, entries: &[u64], control: Control, access: Access) {
        let paging = self.paging;
        let bytes = if paging.wide() { 8 } else { 4 };
        for (level, entry) in entries.iter().enumerate() {
            let at = paging.entry(level);
            self.cpu.memory.write(at, &entry.to_le_bytes()[..bytes]);
        }
        self.cpu.memory.write(DATA + 13, &[0xf2]);
        let mut state = self.starts[control.user as usize];
        let next = prepare(&mut state, paging, control, access);
        self.cpu.state = state;
        self.cpu.state_changed();
        self.cpu.set_tick(0);
        let mut world = Ports::default();
        self.cpu.run(&mut world, 1, false);
        self.runs += 1;
        let (fault, after) = rules(paging, entries, control, access);
        let found: Vec<u64> = (0..entries.len())
            .map(|level| {
                let mut value = [0; 8];
                let at = paging.entry(level);
                self.cpu.memory.read(at, &mut value[..bytes]);
                u64::from_le_bytes(value)
            })
            .collect();
        let state = &self.cpu.state;
        let came = if state.rip() == next {
            None
        } else if state.rip() == HANDLERS + 14 * 16 {
            Some(self.cpu.memory.read_u64(state.gpr[gpr::RSP]) & 0xffff_ffff)
        } else {
            Some(u64::MAX)
        };
        // The accessed bit of a descriptor is set by a store to its byte 5.
        let stored = access == Access::ImplicitWrite && fault.is_some_and(|code| code & 2 != 0);
        let skip = if stored { 5 } else { 0 };
        let address = fault.map(|_| paging.address() + offset(access) + skip);
        let cr2 = came.map(|_| state.cr2);
        assert!(
            (came, &found, cr2) == (fault, &after, address),
            "{paging:?} {entries:x?} {control:?} {access:?}: fault {came:x?}, entries {found:x?}, CR2 {cr2:x?}; \
             should be {fault:x?}, {after:x?}, {address:x?}"
        );
    }
}

const EXHAUSTIVE: [Paging; 6] = [
    Paging::Level4(Leaf::Large),
    Paging::Level4(Leaf::Huge),
    Paging::Pae(Leaf::Small),
    Paging::Pae(Leaf::Large),
    Paging::Legacy(Leaf::Small),
    Paging::Legacy(Leaf::Large),
];

#[test]
fn permissions_are_as_the_manual_says() {
    let seed = crate::seed();
    let mut random = Rng::with_seed(seed);
    let mut runs = 0;
    for paging in EXHAUSTIVE {
        let mut fast = Fast::new(paging);
        for combination in 0..1u64 << (4 * paging.levels()) {
            let entries = entries(paging, combination);
            // 32-bit entries have no NX.
            if !paging.wide() && combination & 0x8888 != 0 {
                continue;
            }
            for control in Control::all() {
                for access in ACCESSES {
                    fast.check(&entries, control, access);
                }
            }
        }
        runs += fast.runs;
    }
    // Four levels have 65,536 combinations: each with a few random controls and accesses.
    let mut fast = Fast::new(Paging::Level4(Leaf::Small));
    for combination in 0..1u64 << 16 {
        let entries = entries(fast.paging, combination);
        for _ in 0..4 {
            let control = Control::from_bits(random.u32(..64));
            fast.check(&entries, control, ACCESSES[random.usize(..5)]);
        }
        // Those that permit something are few.
        let open = entries.iter().all(|entry| entry & P != 0);
        if open && combination & 0x8888 == 0 {
            for control in Control::all() {
                for access in ACCESSES {
                    fast.check(&entries, control, access);
                }
            }
        }
    }
    runs += fast.runs;
    println!("{runs} accesses");
    assert!(runs > 500_000, "{runs}");
}

#[test]
fn every_reserved_bit_faults() {
    for paging in EXHAUSTIVE.into_iter().chain([Paging::Level4(Leaf::Small)]) {
        let mut fast = Fast::new(paging);
        let open = entries(paging, 0x7777);
        for level in 0..paging.levels() {
            for bit in 0..if paging.wide() { 64 } else { 32 } {
                let mut entries = open.clone();
                entries[level] ^= 1 << bit;
                // Address bits lead elsewhere, PS makes another page size of it.
                let reserved = paging.reserved(level) | if paging.wide() { NX } else { 0 };
                if reserved >> bit & 1 == 0 {
                    continue;
                }
                for control in Control::all() {
                    for access in ACCESSES {
                        fast.check(&entries, control, access);
                    }
                }
                // Not present goes first.
                entries[level] &= !P;
                fast.check(&entries, Control::from_bits(0), Access::Read);
            }
        }
    }
}

/// The same under KVM: 4-level paging, as it is what every KVM has.
#[test]
fn random_permissions_under_kvm() {
    let mut oracle = match Oracle::new() {
        Ok(oracle) => oracle,
        Err(why) => return crate::support::skip("random_permissions_under_kvm", &why),
    };
    let mut random = Rng::with_seed(crate::seed());
    let mut engine = Engine::new();
    let software = oracle.is_software(&mut engine);
    let mut tally = Tally::default();
    for _ in 0..1500 {
        let sizes = [Leaf::Small, Leaf::Large, Leaf::Huge];
        // Without hardware, KVM has no 1 GiB pages, no EFLAGS.AC, always NXE, and runs level 3 as a program of the
        // host.
        let leaf = sizes[random.usize(..if software { 2 } else { 3 })];
        let paging = Paging::Level4(leaf);
        let mut control = Control::from_bits(random.u32(..64));
        if software {
            (control.user, control.ac, control.nxe) = (false, false, true);
        }
        let access = ACCESSES[random.usize(..if software { 3 } else { 5 })];
        // Mostly open, so that not everything faults at the first level.
        let combination = (0..4).fold(0, |all, level| {
            let bits = if random.u8(..4) > 0 {
                7
            } else {
                random.u64(..16)
            };
            all | bits << (4 * level)
        });
        let entries = entries(paging, combination);
        let mut start = base(paging, control.user);
        fill(&mut start);
        for (level, &entry) in entries.iter().enumerate() {
            start.put(paging.entry(level), 8, entry);
        }
        prepare(&mut start.state, paging, control, access);
        let label = || format!("{paging:?} {entries:x?} {control:?} {access:?}");
        tally.compare(&mut engine, &mut oracle, &start, None, label);
    }
    println!("{}", tally.summary());
    tally.finish();
}
