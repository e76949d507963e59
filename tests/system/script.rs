//! The language of the cases, one line each:
//!
//! ```text
//! mode | bytes of the instruction | what is set before | what has changed after
//! ```
//!
//! Numbers are hexadecimal. Before and after are words `place=value`: registers (`eax`, `fl` for the flags, `cr0`,
//! `gdtr.limit`, `lstar` …), segment registers by selector (`ds=10`, with what the tables say) or by part
//! (`ds.base=0`), and memory (`b[…]`, `w[…]`, `d[…]`, `q[…]`) at a number, a name (gdt, ldt, idt, tss, data, code,
//! sp: where the stack pointer points) or both (`q[gdt+100]`).
//!
//! After the instruction all is as before but what the case names and RIP, which stands behind the instruction; any
//! byte of RAM that has changed and is not named is a failure. `#gp(18)` says that the instruction faults with that
//! error code: the frame of the handler is checked whole, nothing else may have changed but the stack of level 0.
//! `int=80` says that this handler was entered with RIP behind the instruction, `irq=80` with RIP at it; `halt` and
//! `shutdown` say so. `irq=80` and `nmi=2` before make an interrupt wait from outside.

use crate::machine::{self, CODE, HANDLERS, Kind, Machine, Mode, STACKS};
use retrovisor::cpu::state::{Segment, State, activity, gpr, seg};
use retrovisor::cpu::world::Interrupt;

/// What arrives from outside before the instruction: `irq=80` or `nmi=2` among the words before.
fn arrival(word: &str) -> Option<Interrupt> {
    match word.split_once('=')? {
        ("irq", vector) => Some(Interrupt::Vector(hex(vector) as u8)),
        ("nmi", _) => Some(Interrupt::Nmi),
        _ => None,
    }
}

/// One case.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub line: &'a str,
    pub mode: Mode,
    pub code: &'a str,
    pub before: &'a str,
    pub after: &'a str,
}

/// The cases of a table; `#` in the first column begins a comment.
pub fn cases(table: &str) -> impl Iterator<Item = Case<'_>> {
    let lines = table.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("# "))
        .map(|line| {
            let columns: Vec<&str> = line.split('|').map(str::trim).collect();
            let [mode, code, before, after] = columns[..] else {
                panic!("not four columns: {line}");
            };
            Case {
                line,
                mode: Mode::parse(mode),
                code,
                before,
                after,
            }
        })
}

fn hex(text: &str) -> u64 {
    let clean = text.replace('_', "");
    u64::from_str_radix(&clean, 16).unwrap_or_else(|_| panic!("{text:?} is no number"))
}

impl Case<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        self.code
            .split_whitespace()
            .map(|byte| hex(byte) as u8)
            .collect()
    }

    /// What arrives before the instruction.
    pub fn arrival(&self) -> Option<Interrupt> {
        self.before.split_whitespace().find_map(arrival)
    }

    /// The machine that the case starts with.
    pub fn start(&self) -> Machine {
        let mut machine = Machine::new(self.mode);
        let code = self.bytes();
        machine.ram[CODE as usize..CODE as usize + code.len()].copy_from_slice(&code);
        // Plain registers first, then memory, then what is loaded from memory.
        let words: Vec<(&str, u64)> = self
            .before
            .split_whitespace()
            .filter(|word| arrival(word).is_none())
            .map(assignment)
            .collect();
        let selector = |place: &str| machine::register(place).is_some() || is_system(place);
        for &(place, value) in &words {
            if !place.contains('[') && !selector(place) && !place.contains('.') {
                *slot(&mut machine.state, place) = value;
                if place == "fl" {
                    let value = machine.state.gpr[gpr::ADDRESS];
                    machine.state.gpr[gpr::ADDRESS] = 0;
                    machine.state.flags.set_rflags(value);
                }
            }
        }
        for &(place, value) in &words {
            if place.contains('[') {
                let (at, bytes) = memory(&machine, place);
                machine.put(at, bytes, value);
            }
        }
        for &(place, value) in &words {
            if selector(place) {
                machine.load(place, value as u16);
            }
        }
        for &(place, value) in &words {
            if place.contains('.') && !place.contains('[') {
                set_part(&mut machine.state, place, value);
            }
        }
        machine
    }

    /// Compares what came out with what the case says. Gives all differences.
    pub fn check(&self, start: &Machine, end: &Machine, shutdown: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let words: Vec<&str> = self.after.split_whitespace().collect();
        if words.contains(&"shutdown") {
            if !shutdown {
                wrong.push("no shutdown".to_string());
            }
            return wrong;
        }
        if shutdown {
            return vec!["shutdown".to_string()];
        }
        let mut wanted = start.clone();
        wanted.state = wanted.state.canonical();
        let length = self.bytes().len() as u64;
        let event = words.iter().find_map(|word| Event::parse(word));
        if let Some(event) = &event {
            event.apply(start, &mut wanted, length, end, &mut wrong);
        } else {
            let rip = start.state.rip() + length;
            wanted.state.set_rip(rip);
        }
        for word in words {
            match word {
                "halt" => wanted.state.activity = activity::HALTED,
                _ if Event::parse(word).is_some() => {}
                _ => self.expect(word, &mut wanted, end, &mut wrong),
            }
        }
        compare(&wanted, end, &mut wrong);
        wrong
    }

    fn expect(&self, word: &str, wanted: &mut Machine, end: &Machine, wrong: &mut Vec<String>) {
        let (place, value) = assignment(word);
        if place.contains('[') {
            let (at, bytes) = memory(end, place);
            let found = end.get(at, bytes);
            if found != value {
                wrong.push(format!("{place} is {found:x}, not {value:x}"));
            }
            wanted.put(at, bytes, found);
        } else if place == "CPL" {
            wanted.state.cpl = value as u8;
        } else if let Some(register) = machine::register(place) {
            let (segment, base) = end_segment(wanted, end, place, value as u16);
            wanted.state.seg[register] = segment;
            wanted.state.seg_base[register] = base;
            if place == "cs" {
                let vm86 = end.state.flags.vm86();
                let level = if vm86 { 3 } else { value as u8 & 3 };
                wanted.state.cpl = if end.state.protected() { level } else { 0 };
            }
        } else if is_system(place) {
            let (mut segment, base) = end.loaded(place, value as u16);
            if place == "tr" {
                segment.rights |= 2;
            }
            let table = if place == "tr" {
                &mut wanted.state.tr
            } else {
                &mut wanted.state.ldtr
            };
            table.segment = segment;
            table.base = base;
        } else if place.contains('.') {
            set_part(&mut wanted.state, place, value);
        } else if place == "fl" {
            wanted.state.flags.set_rflags(value);
        } else {
            *slot(&mut wanted.state, place) = value;
        }
    }
}

/// A segment register as a case expects it: in the mode that the case ends in.
fn end_segment(wanted: &Machine, end: &Machine, place: &str, selector: u16) -> (Segment, u64) {
    let mut tables = end.clone();
    if end.state.flags.vm86() {
        tables.mode.kind = Kind::Vm86;
    } else if tables.mode.kind == Kind::Vm86 {
        tables.mode.kind = Kind::Protected32;
    }
    let (mut segment, mut base) = tables.loaded(place, selector);
    let long_code = place == "cs" && wanted.mode.long() && segment.rights & 0x2000 != 0;
    if long_code {
        base = 0;
    }
    if segment.rights != 0 && segment.rights & 0x10 != 0 {
        segment.rights |= 1;
    }
    (segment, base)
}

fn is_system(place: &str) -> bool {
    matches!(place, "tr" | "ldtr")
}

fn assignment(word: &str) -> (&str, u64) {
    let (place, value) = word
        .split_once('=')
        .unwrap_or_else(|| panic!("{word:?} is no assignment"));
    (place, hex(value))
}

/// Address and size of a memory place.
fn memory(machine: &Machine, place: &str) -> (u64, usize) {
    let bytes = match place.as_bytes()[0] {
        b'b' => 1,
        b'w' => 2,
        b'd' => 4,
        b'q' => 8,
        _ => panic!("{place} has no size"),
    };
    let inside = place[1..].trim_start_matches('[').trim_end_matches(']');
    let (name, offset) = inside.split_once('+').unwrap_or((inside, "0"));
    let base = match name {
        "gdt" => machine::GDT,
        "ldt" => machine::LDT,
        "idt" => machine::IDT,
        "tss" => machine::TSS,
        "data" => machine::DATA,
        "code" => machine::CODE,
        "sp" => machine.state.gpr[gpr::RSP],
        number => hex(number),
    };
    (base + hex(offset), bytes)
}

/// A register of one number. The flags stand in the scratch slot until they are taken from there.
fn slot<'a>(state: &'a mut State, name: &str) -> &'a mut u64 {
    let general = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    let short = name.trim_start_matches(['e', 'r']);
    if name != "efer"
        && let Some(n) = general.iter().position(|&g| g == short || g == name)
    {
        return &mut state.gpr[n];
    }
    if let Some(n) = name.strip_prefix('r').and_then(|n| n.parse::<usize>().ok()) {
        return &mut state.gpr[n];
    }
    match name {
        "fl" => &mut state.gpr[gpr::ADDRESS],
        "rip" | "eip" => &mut state.gpr[gpr::RIP],
        "cr0" => &mut state.cr0,
        "cr2" => &mut state.cr2,
        "cr3" => &mut state.cr3,
        "cr4" => &mut state.cr4,
        "efer" => &mut state.efer,
        "star" => &mut state.star,
        "lstar" => &mut state.lstar,
        "cstar" => &mut state.cstar,
        "fmask" => &mut state.fmask,
        "kernel_gs" => &mut state.kernel_gs_base,
        "sysenter_cs" => &mut state.sysenter[0],
        "sysenter_esp" => &mut state.sysenter[1],
        "sysenter_eip" => &mut state.sysenter[2],
        "pat" => &mut state.pat,
        "tsc_aux" => &mut state.tsc_aux,
        "pdpte0" => &mut state.pdpte[0],
        "dr6" => &mut state.dr[6],
        "dr7" => &mut state.dr[7],
        _ => panic!("{name} is no register"),
    }
}

/// One part of a segment or table register.
fn set_part(state: &mut State, place: &str, value: u64) {
    let (name, part) = place.split_once('.').expect("a part");
    if name == "gdtr" || name == "idtr" {
        let table = if name == "gdtr" {
            &mut state.gdtr
        } else {
            &mut state.idtr
        };
        match part {
            "base" => table.base = value,
            "limit" => table.limit = value,
            _ => panic!("{place}"),
        }
        return;
    }
    let (segment, base) = match name {
        "tr" => (&mut state.tr.segment, &mut state.tr.base),
        "ldtr" => (&mut state.ldtr.segment, &mut state.ldtr.base),
        _ => {
            let n = machine::register(name).unwrap_or_else(|| panic!("{place}"));
            (&mut state.seg[n], &mut state.seg_base[n])
        }
    };
    match part {
        "base" => *base = value,
        "limit" => segment.limit = value as u32,
        "rights" => segment.rights = value as u16,
        "sel" => segment.selector = value as u16,
        _ => panic!("{place}"),
    }
}

/// An event that a case expects to be delivered through the standard gates.
struct Event {
    vector: u8,
    code: Option<u64>,
    /// The frame's RIP is behind the instruction.
    trap: bool,
}

impl Event {
    fn parse(word: &str) -> Option<Event> {
        for (prefix, trap) in [("int=", true), ("irq=", false)] {
            if let Some(vector) = word.strip_prefix(prefix) {
                return Some(Event {
                    vector: hex(vector) as u8,
                    code: None,
                    trap,
                });
            }
        }
        let fault = word.strip_prefix('#')?;
        let (name, code) = match fault.split_once('(') {
            Some((name, code)) => (name, Some(hex(code.trim_end_matches(')')))),
            None => (fault, None),
        };
        let names = [
            (0, "de"),
            (1, "db"),
            (3, "bp"),
            (4, "of"),
            (5, "br"),
            (6, "ud"),
            (7, "nm"),
            (8, "df"),
            (10, "ts"),
            (11, "np"),
            (12, "ss"),
            (13, "gp"),
            (14, "pf"),
            (16, "mf"),
            (17, "ac"),
            (19, "xm"),
        ];
        let known = names.iter().find(|(_, n)| *n == name);
        let &(vector, _) = known.unwrap_or_else(|| panic!("{word} is no exception"));
        Some(Event {
            vector,
            code,
            trap: false,
        })
    }

    /// What the delivery changes, and whether the frame is right.
    fn apply(
        &self,
        start: &Machine,
        wanted: &mut Machine,
        length: u64,
        end: &Machine,
        wrong: &mut Vec<String>,
    ) {
        let mode = start.mode;
        let old = start.state;
        let rip = old.rip() + if self.trap { length } else { 0 };
        let sel = |n: usize| old.seg[n].selector as u64;
        let mut frame = Vec::new();
        if mode.kind != Kind::Real {
            frame.extend(self.code);
        }
        frame.extend([rip, sel(seg::CS), old.rflags()]);
        let inner = mode.cpl != 0;
        if inner || mode.long() {
            frame.extend([old.gpr[gpr::RSP], sel(seg::SS)]);
        }
        if mode.kind == Kind::Vm86 {
            frame.extend([sel(seg::ES), sel(seg::DS), sel(seg::FS), sel(seg::GS)]);
        }
        let bytes = match mode.kind {
            Kind::Real => 2,
            Kind::Compatibility | Kind::Long => 8,
            _ => 4,
        };
        let top = if inner {
            STACKS + 0x1000
        } else if mode.long() {
            old.gpr[gpr::RSP] & !15
        } else {
            old.gpr[gpr::RSP]
        };
        let sp = top - (frame.len() * bytes) as u64;
        let names = if self.code.is_some() && mode.kind != Kind::Real {
            "error code, RIP, CS, RFLAGS, RSP, SS, ES, DS, FS, GS"
        } else {
            "RIP, CS, RFLAGS, RSP, SS, ES, DS, FS, GS"
        };
        let found: Vec<u64> = (0..frame.len())
            .map(|n| end.get(sp + (n * bytes) as u64, bytes))
            .collect();
        let rf = 1 << 16;
        let mask = |words: &[u64]| words.iter().map(|w| w & !rf).collect::<Vec<_>>();
        if mask(&found) != mask(&frame) {
            wrong.push(format!("the frame is {found:x?}, not {frame:x?} ({names})"));
        }
        // The stack of the handler was compared; below it nothing counts.
        let page = (STACKS as usize)..(STACKS as usize + 0x1000);
        wanted.ram[page.clone()].copy_from_slice(&end.ram[page]);
        self.enter(wanted, sp);
    }

    fn enter(&self, wanted: &mut Machine, sp: u64) {
        let mode = wanted.mode;
        let s = &mut wanted.state;
        s.gpr[gpr::RSP] = sp;
        let rflags = s.rflags() & !(0x2_4300 | 1 << 16);
        if mode.kind == Kind::Real {
            s.flags.set_rflags(rflags & !(1 << 18));
            s.set_rip(16 * self.vector as u64);
            wanted.load("cs", (HANDLERS / 16) as u16);
            return;
        }
        // Interrupt gates clear IF, TF, NT, RF and VM.
        s.flags.set_rflags(rflags);
        s.set_rip(HANDLERS + 16 * self.vector as u64);
        s.cpl = 0;
        let null = |selector| Segment {
            limit: 0,
            rights: 0,
            selector,
        };
        if mode.kind == Kind::Vm86 {
            for n in [seg::ES, seg::DS, seg::FS, seg::GS] {
                s.seg[n] = null(0);
                s.seg_base[n] = 0;
            }
        }
        let vm86 = mode.kind == Kind::Vm86;
        if vm86 {
            wanted.mode.kind = Kind::Protected32;
        }
        wanted.load("cs", if mode.long() { 0x58 } else { 0x08 });
        if mode.cpl != 0 {
            wanted.load("ss", if mode.long() { 0 } else { 0x10 });
        }
        wanted.mode = mode;
    }
}

/// All differences of two machines.
pub fn compare(wanted: &Machine, found: &Machine, wrong: &mut Vec<String>) {
    let (a, b) = (fields(&wanted.state), fields(&found.state));
    for ((name, wanted), (_, found)) in a.iter().zip(&b) {
        if wanted != found {
            wrong.push(format!("{name} is {found:x}, not {wanted:x}"));
        }
    }
    let mut shown = 0;
    for (at, (wanted, found)) in wanted.ram.iter().zip(&found.ram).enumerate() {
        if wanted != found && shown < 12 {
            wrong.push(format!("byte {at:x} is {found:x}, not {wanted:x}"));
            shown += 1;
        }
    }
}

/// The state as named numbers; what cannot be used in a segment register is left out.
pub fn fields(state: &State) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: u64| all.push((name.to_string(), value));
    let names = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    for (name, &value) in names.iter().zip(&state.gpr) {
        add(name, value);
    }
    add("rip", state.rip());
    add("flags", state.rflags() & !(1 << 16));
    add("cpl", state.cpl as u64);
    add("activity", state.activity as u64);
    for (name, value) in [
        ("cr0", state.cr0),
        ("cr2", state.cr2),
        ("cr3", state.cr3),
        ("cr4", state.cr4),
        ("efer", state.efer),
        ("star", state.star),
        ("lstar", state.lstar),
        ("cstar", state.cstar),
        ("fmask", state.fmask),
        ("kernel_gs", state.kernel_gs_base),
        ("sysenter_cs", state.sysenter[0]),
        ("sysenter_esp", state.sysenter[1]),
        ("sysenter_eip", state.sysenter[2]),
        ("pat", state.pat),
        ("tsc_aux", state.tsc_aux),
        ("dr6", state.dr[6]),
        ("dr7", state.dr[7]),
        ("gdtr.base", state.gdtr.base),
        ("gdtr.limit", state.gdtr.limit),
        ("idtr.base", state.idtr.base),
        ("idtr.limit", state.idtr.limit),
    ] {
        add(name, value);
    }
    let mut segment = |name: &str, segment: Segment, base: u64| {
        add(name, segment.selector as u64);
        let usable = segment.rights & 0x80 != 0;
        add(&format!("{name} usable"), usable as u64);
        // FS and GS keep a base of their own in long mode.
        if usable || matches!(name, "fs" | "gs") {
            add(&format!("{name}.base"), base);
        } else {
            add(&format!("{name}.base"), 0);
        }
        let (limit, rights) = if usable {
            (segment.limit as u64, segment.rights as u64)
        } else {
            (0, 0)
        };
        add(&format!("{name}.limit"), limit);
        add(&format!("{name}.rights"), rights);
    };
    for (name, n) in [
        ("es", seg::ES),
        ("cs", seg::CS),
        ("ss", seg::SS),
        ("ds", seg::DS),
        ("fs", seg::FS),
        ("gs", seg::GS),
    ] {
        segment(name, state.seg[n], state.seg_base[n]);
    }
    segment("ldtr", state.ldtr.segment, state.ldtr.base);
    segment("tr", state.tr.segment, state.tr.base);
    all
}
