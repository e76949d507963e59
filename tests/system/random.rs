//! Random descriptors, selectors, gates and stack frames, compared with KVM: segment loads, far jumps, calls and
//! returns, IRET, INT through gates. Each case is made as a line of the tables' language, so that one that differs can
//! be put into a table as it is printed.

use crate::engine::Engine;
use crate::kvm::{Oracle, Tally};
use crate::quirks::Quirk;
use crate::script;
use fastrand::Rng;

const CASES: usize = 6000;
const SOFTWARE_SEED: u64 = 11;
/// Random descriptors stand from here on.
const FIRST: u64 = 0x100;
const SLOTS: u64 = 8;

struct Maker {
    random: Rng,
    /// Without hardware, KVM runs little of outer levels.
    software: bool,
    long: bool,
}

impl Maker {
    fn chance(&mut self, of: u32) -> bool {
        self.random.u32(..of) == 0
    }

    /// A selector: of a random descriptor mostly, of the fixed ones, null, outside, in the LDT.
    fn selector(&mut self) -> u64 {
        let rpl = if self.chance(3) {
            self.random.u64(..4)
        } else {
            0
        };
        let index = match self.random.u32(..16) {
            0 => 0,
            1 => 0x800,
            2 => 0xc,
            3 => 0x14,
            4 => 0x7f8,
            5..=9 => self.random.u64(1..0x15) * 8,
            _ => FIRST + 8 * self.random.u64(..SLOTS),
        };
        index & !3 | index & 4 | rpl
    }

    /// A descriptor: any type, mostly present and of level 0, base 0, a limit that suffices or not.
    fn descriptor(&mut self) -> u64 {
        let mut rights = self.random.u64(..32);
        if !self.chance(3) {
            rights |= 0x10;
        }
        if !self.chance(8) {
            rights |= 0x80;
        }
        if self.chance(3) {
            rights |= self.random.u64(..4) << 5;
        }
        let mut high = self.random.u64(..16);
        if self.long && !self.chance(3) && rights & 0x18 == 0x18 {
            high = 0xa;
        }
        let limit = if self.chance(6) { 0x0_2000 } else { 0xf_ffff };
        limit & 0xffff | rights << 40 | (limit >> 16 & 15) << 48 | high << 52
    }

    /// A call, task, interrupt or trap gate.
    fn gate(&mut self, offset: u64) -> u64 {
        let kinds = [4, 5, 6, 7, 0xc, 0xe, 0xf, 0xe, 0xf, 0xe];
        let mut rights = kinds[self.random.usize(..kinds.len())];
        if !self.chance(10) {
            rights |= 0x80;
        }
        rights |= self.random.u64(..4) << 5;
        let selector = self.selector();
        offset & 0xffff | selector << 16 | rights << 40 | (offset >> 16) << 48
    }

    fn flags(&mut self) -> u64 {
        // Not TF, NT, VM and AC: those are other tests' business, or KVM's weakness.
        let mut mask = 0x20_0ed5;
        if !self.software {
            mask |= 0x4_3000;
        }
        self.random.u64(..) & mask | 2
    }

    fn line(&mut self) -> String {
        let modes = ["p32", "p32", "p16", "l64", "l64", "c32"];
        let mode = modes[self.random.usize(..modes.len())];
        self.long = matches!(mode, "l64" | "c32");
        let mut before = String::new();
        for slot in 0..SLOTS {
            let raw = self.descriptor();
            before += &format!("q[gdt+{:x}]={raw:x} ", FIRST + 8 * slot);
        }
        let code = match self.random.u32(..10) {
            0..=2 => self.load(&mut before),
            3 => self.query(&mut before),
            4..=5 => self.jump(mode, &mut before),
            6..=7 => self.back(mode, &mut before),
            _ => self.interrupt(&mut before),
        };
        format!("{mode} | {code} | {before} | ")
    }

    fn load(&mut self, before: &mut String) -> String {
        *before += &format!("eax={:x}", self.selector());
        let codes = [
            "8e d8", "8e c0", "8e d0", "8e e0", "8e e8", "0f 00 d0", "0f 00 d8",
        ];
        codes[self.random.usize(..codes.len())].to_string()
    }

    fn query(&mut self, before: &mut String) -> String {
        *before += &format!("ecx={:x} eax=5a5a5a5a", self.selector());
        let codes = ["0f 02 c1", "0f 03 c1", "0f 00 e1", "0f 00 e9"];
        codes[self.random.usize(..codes.len())].to_string()
    }

    fn jump(&mut self, mode: &str, before: &mut String) -> String {
        let selector = self.selector();
        *before += &format!("d[data]=12000 w[data+4]={selector:x}");
        let call = self.chance(2);
        match (mode, call) {
            ("l64", false) => "ff 2c 25 00 90 00 00".to_string(),
            ("l64", true) => "ff 1c 25 00 90 00 00".to_string(),
            (_, _) => {
                let first = if call { "9a" } else { "ea" };
                let wide = if mode == "p16" { "66 " } else { "" };
                let (low, high) = (selector & 0xff, selector >> 8);
                format!("{wide}{first} 00 20 01 00 {low:02x} {high:02x}")
            }
        }
    }

    /// RET and IRET.
    fn back(&mut self, mode: &str, before: &mut String) -> String {
        let (cs, ss, flags) = (self.selector(), self.selector(), self.flags());
        let iret = self.chance(2);
        let (size, bytes) = if mode == "l64" { ('q', 8) } else { ('d', 4) };
        let words = if iret {
            vec![0x12000, cs, flags, 0x8c00, ss]
        } else {
            vec![0x12000, cs, 0x8c00, ss]
        };
        for (n, word) in words.into_iter().enumerate() {
            *before += &format!("{size}[sp+{:x}]={word:x} ", n * bytes);
        }
        let prefix = match mode {
            "l64" => "48 ",
            "p16" => "66 ",
            _ => "",
        };
        format!("{prefix}{}", if iret { "cf" } else { "cb" })
    }

    fn interrupt(&mut self, before: &mut String) -> String {
        let at = if self.long { 0x800 } else { 0x400 };
        let gate = self.gate(0x1_4800);
        *before += &format!("q[idt+{at:x}]={gate:x} fl={:x}", self.flags());
        "cd 80".to_string()
    }
}

#[test]
fn random_cases_under_kvm() {
    let mut oracle = match Oracle::new() {
        Ok(oracle) => oracle,
        Err(why) => return crate::support::skip("random_cases_under_kvm", &why),
    };
    let mut engine = Engine::new();
    let software = oracle.is_software(&mut engine);
    // Not all that a KVM without hardware gets wrong is known: there, every run is the same unless a seed is given.
    let given = std::env::var_os("RETROVISOR_TEST_SEED").is_some();
    let seed = if software && !given {
        SOFTWARE_SEED
    } else {
        crate::seed()
    };
    let mut maker = Maker {
        random: Rng::with_seed(seed),
        software,
        long: false,
    };
    let mut tally = Tally::default();
    for _ in 0..CASES {
        let line = maker.line();
        let case = script::cases(&line).next().expect("a case");
        let quirk = Quirk::of(&case, maker.software).map(|quirk| quirk.why);
        tally.compare(&mut engine, &mut oracle, &case.start(), quirk, || {
            line.clone()
        });
    }
    println!("{}", tally.summary());
    assert!(tally.equal() > CASES / 4, "almost nothing was compared");
    tally.finish();
}
