//! The engine's side: a guest that is nothing but a program at CPL 3 in 64-bit mode, with the same pages at the same
//! linear addresses, and a kernel half that stands still at whatever exception arrives.

use crate::case::{Case, End, Outcome, Registers, VectorState, Window};
use crate::layout::{
    self, CODE, CODE_BYTES, DATA, EXIT_POINTERS, EXITS, FAR_POINTERS, PAGE, READ_ONLY, WRITABLE,
};
use crate::segments::{self, CODE_64};
use retrovisor::cpu::Cpu;
use retrovisor::cpu::cpuid::CpuModel;
use retrovisor::cpu::run::Exit;
use retrovisor::cpu::state::{
    F80, Segment, State, SystemSegment, Vector, X87, cr0, cr4, efer, gpr, seg,
};
use retrovisor::cpu::stops::Stops;
use retrovisor::cpu::world::{Dma, Interrupt, Pending, Wait, World};
use retrovisor::memory::Memory;
use retrovisor::tick::Tick;

/// Linear address of the kernel half: IDT, GDT with TSS, stack, handlers, a page each.
const KERNEL: u64 = 0xffff_8000_0000_0000;
const GDT: u64 = KERNEL + 0x1000;
const TSS: u64 = GDT + 0x800;
const LDT: u64 = GDT + 0xa00;
const STACK: u64 = KERNEL + 0x2000;
const HANDLERS: u64 = KERNEL + 0x3000;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

const KERNEL_CODE: u16 = 0x10;

const JUMP_TO_SELF: [u8; 2] = [0xeb, 0xfe];

/// A world in which nothing ever happens.
struct Nothing {
    dead: Option<String>,
}

impl World for Nothing {
    fn pio_read(&mut self, _: Tick, _: usize, _: u16, _: u8) -> u32 {
        0
    }
    fn pio_write(&mut self, _: Tick, _: usize, _: u16, _: u8, _: u32) {}
    fn mmio_read(&mut self, _: Tick, _: usize, _: u64, _: u8) -> u64 {
        0
    }
    fn mmio_write(&mut self, _: Tick, _: usize, _: u64, _: u8, _: u64) {}
    fn msr_read(&mut self, _: Tick, _: usize, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: Tick, _: usize, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&mut self, now: Tick, _: usize) -> u64 {
        now
    }
    fn random(&mut self, _: Tick, _: usize) -> u64 {
        0
    }
    fn tpr_read(&mut self, _: Tick, _: usize) -> u64 {
        0
    }
    fn tpr_write(&mut self, _: Tick, _: usize, _: u64) {}
    fn next_stop(&mut self, _: Tick) -> Tick {
        Tick::MAX
    }
    fn poll(&mut self, _: Tick, _: usize, _: &mut Vec<Dma>) -> Pending {
        Pending::default()
    }
    fn interrupt(&mut self, _: Tick, _: usize, _: bool) -> Option<Interrupt> {
        None
    }
    fn wait(&mut self, _: Tick, _: usize, _: bool) -> Wait {
        Wait::Ended
    }
    fn ended(&mut self, _: Tick) -> bool {
        self.dead.is_some()
    }
    fn shutdown(&mut self, _: Tick, _: usize, why: &str) {
        self.dead = Some(why.to_string());
    }
}

/// Physical pages in the order they are handed out; page 0 stays unused.
struct Builder {
    memory: Memory,
    next: u64,
    root: u64,
}

impl Builder {
    fn page(&mut self) -> u64 {
        self.next += PAGE as u64;
        self.next
    }

    fn entry(&mut self, table: u64, index: u64, flags: u64) -> u64 {
        let at = table + 8 * index;
        let old = self.memory.read_u64(at);
        if old & PRESENT != 0 {
            return old & 0xf_ffff_f000;
        }
        let page = self.page();
        self.put(at, page | flags);
        page
    }

    fn put(&mut self, at: u64, value: u64) {
        self.memory.write(at, &value.to_le_bytes());
    }

    /// Maps a fresh page and gives its physical address.
    fn map(&mut self, linear: u64, flags: u64) -> u64 {
        let mut table = self.root;
        for level in [39, 30, 21] {
            table = self.entry(table, linear >> level & 511, PRESENT | WRITE | USER);
        }
        let physical = self.page();
        self.put(table + 8 * (linear >> 12 & 511), physical | PRESENT | flags);
        physical
    }
}

/// The engine with its guest.
pub struct Engine {
    cpu: Box<Cpu>,
    /// What every case begins with.
    template: State,
    code: Vec<u64>,
    /// Physical addresses of the window's pages, in the order of `layout::present`.
    window: Vec<u64>,
    stack: u64,
    runs: u64,
    /// Ticks that the last case took.
    pub executed: u64,
}

impl Engine {
    pub fn new() -> Engine {
        let memory = Memory::new(1 << 20).expect("a mebibyte");
        let mut build = Builder {
            memory,
            next: 0,
            root: 0,
        };
        build.root = build.page();
        let code: Vec<u64> = (0..CODE_BYTES / PAGE)
            .map(|n| build.map(CODE + (n * PAGE) as u64, WRITE | USER))
            .collect();
        for &page in &code {
            build.memory.write(page, &[0xcc; PAGE]);
        }
        let pointers = build.map(EXIT_POINTERS, USER | NO_EXECUTE);
        let exits = build.map(EXITS, USER);
        build.memory.write(exits, &[0xcc; PAGE]);
        for n in 0..2 {
            build.put(pointers + 8 * n, EXITS + 16 * n);
            build.memory.write(exits + 16 * n, &JUMP_TO_SELF);
            let far = (EXITS + 16 * n) | (CODE_64 as u64) << 32;
            build.put(pointers + (FAR_POINTERS - EXIT_POINTERS) + 8 * n, far);
        }
        let mut window: Vec<u64> = WRITABLE
            .iter()
            .map(|n| build.map(DATA + n * PAGE as u64, WRITE | USER | NO_EXECUTE))
            .collect();
        window.push(build.map(DATA + READ_ONLY * PAGE as u64, USER | NO_EXECUTE));
        let idt = build.map(KERNEL, WRITE | NO_EXECUTE);
        let gdt = build.map(GDT, WRITE | NO_EXECUTE);
        let stack = build.map(STACK, WRITE | NO_EXECUTE);
        let handlers = build.map(HANDLERS, 0);
        for vector in 0..32u64 {
            let handler = HANDLERS + 16 * vector;
            build.memory.write(handlers + 16 * vector, &JUMP_TO_SELF);
            // A present 64-bit interrupt gate that user mode may call: INT3.
            let low = handler & 0xffff
                | (KERNEL_CODE as u64) << 16
                | 0xee00 << 32
                | (handler >> 16 & 0xffff) << 48;
            build.put(idt + 16 * vector, low);
            build.put(idt + 16 * vector + 8, handler >> 32);
        }
        for (n, descriptor) in (0..).zip(segments::GDT) {
            build.put(gdt + segments::GDT_FIRST + 8 * n, descriptor);
        }
        for (n, entry) in (0..).zip(&segments::LDT) {
            build.put(gdt + (LDT - GDT) + 8 * n, entry.descriptor());
        }
        // The I/O permission map lies beyond the limit: no port is permitted.
        build
            .memory
            .write(gdt + 0x800 + 0x66, &0xffffu16.to_le_bytes());
        // RSP0.
        build.put(gdt + 0x800 + 4, STACK + PAGE as u64);
        let template = template(build.root);
        let mut cpu = Cpu::new(build.memory, CpuModel::native());
        cpu.state = template;
        cpu.state_changed();
        let exits = (0..2).map(|n| EXITS + 16 * n);
        let handlers = (0..32).map(|n| HANDLERS + 16 * n);
        cpu.set_stops(Stops::new(exits.chain(handlers), []));
        Engine {
            cpu,
            template,
            code,
            window,
            stack,
            runs: 0,
            executed: 0,
        }
    }

    /// Sets the content of the window.
    pub fn fill(&mut self, window: &Window) {
        for (n, bytes) in window.iter().enumerate() {
            self.cpu.memory.write(self.window[n], bytes);
        }
    }

    fn physical(&self, address: u64) -> Option<u64> {
        let page = address & !(PAGE as u64 - 1);
        let offset = address - page;
        if (CODE..CODE + CODE_BYTES as u64).contains(&page) {
            return Some(self.code[((page - CODE) / PAGE as u64) as usize] + offset);
        }
        let n = layout::present().position(|(at, writable)| writable && at == page)?;
        Some(self.window[n] + offset)
    }

    /// Places bytes into the window's writable pages or the code pages; others are left alone.
    pub fn poke(&mut self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            if let Some(physical) = self.physical(at) {
                self.cpu.memory.write(physical, std::slice::from_ref(byte));
            }
        }
    }

    /// The bytes of a writable page of the window or of the code.
    pub fn page(&self, address: u64) -> &[u8; PAGE] {
        let physical = self.physical(address).expect("a page of the window");
        let index = self.cpu.memory.page_index(physical).expect("RAM");
        self.cpu.memory.page(index)
    }

    /// Runs what lies in the code pages.
    pub fn run(&mut self, case: &Case) -> Outcome {
        self.runs += 1;
        if self.runs.is_multiple_of(4096) {
            self.cpu.forget_code();
        }
        for &page in &self.code {
            let index = self.cpu.memory.page_index(page).expect("RAM");
            self.cpu.page_replaced(index);
        }
        let cr2 = self.cpu.state.cr2;
        self.cpu.state = loaded(&self.template, case);
        self.cpu.state.cr2 = cr2;
        if case.cold {
            self.cpu.state_changed();
        } else {
            self.cpu.update_mode();
        }
        let mut world = Nothing { dead: None };
        self.cpu.set_tick(0);
        let mut ticks = 0;
        while ticks < case.ticks {
            ticks = if case.stepped { ticks + 1 } else { case.ticks };
            let exit = self.cpu.run(&mut world, ticks, false);
            if self.arrived() {
                break;
            }
            assert_eq!(exit, Exit::Tick, "{:?}", world.dead);
        }
        self.executed = self.cpu.tick();
        self.outcome()
    }

    fn arrived(&self) -> bool {
        let rip = self.cpu.state.rip();
        let here = |base: u64| rip.wrapping_sub(base) < PAGE as u64;
        here(EXITS) || here(HANDLERS)
    }

    fn outcome(&self) -> Outcome {
        let state = &self.cpu.state;
        let rip = state.rip();
        let mut registers = seen(state);
        let end = if rip.wrapping_sub(EXITS) < PAGE as u64 {
            End::Exit((rip - EXITS) / 16)
        } else if rip.wrapping_sub(HANDLERS) < PAGE as u64 {
            let vector = ((rip - HANDLERS) / 16) as u8;
            let rsp = state.gpr[gpr::RSP];
            let word = |n: u64| {
                let at = self.stack + (rsp - STACK) + 8 * n;
                self.cpu.memory.read_u64(at)
            };
            let has_code = matches!(vector, 8 | 10..=14 | 17);
            let frame = has_code as u64;
            registers.gpr[gpr::RSP] = word(frame + 3);
            registers.rflags = word(frame + 2);
            registers.selectors[segments::SS] = word(frame + 4) & 0xffff;
            End::Fault {
                vector,
                code: if has_code { word(0) } else { 0 },
                cr2: if vector == 14 { state.cr2 } else { 0 },
                rip: word(frame),
            }
        } else {
            End::Lost(rip)
        };
        Outcome { end, registers }
    }
}

fn template(root: u64) -> State {
    let mut state = State::reset();
    state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    state.cr3 = root;
    state.cr4 = cr4::PAE
        | cr4::PGE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT
        | cr4::UMIP
        | cr4::FSGSBASE
        | cr4::OSXSAVE
        | cr4::SMEP
        | cr4::SMAP;
    state.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    state.xcr0 = 7;
    state.cpl = 3;
    state.seg_base = [0; 8];
    state.ldtr = SystemSegment {
        base: LDT,
        segment: Segment {
            limit: 8 * segments::LDT.len() as u32 - 1,
            rights: 0x82,
            selector: 0x50,
        },
    };
    state.gdtr.base = GDT;
    state.gdtr.limit = 0x7f;
    state.idtr.base = KERNEL;
    state.idtr.limit = 32 * 16 - 1;
    state.tr = SystemSegment {
        base: TSS,
        segment: Segment {
            limit: 0x67,
            rights: 0x8b,
            selector: 0x40,
        },
    };
    state
}

/// The order of `Registers::selectors`.
const SELECTORS: [usize; 5] = [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS];

/// A loaded segment register.
fn segment(selector: u16) -> Segment {
    let descriptor = segments::descriptor(selector);
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    Segment {
        limit: if descriptor >> 55 & 1 != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        },
        rights: (descriptor >> 40) as u16 & 0xf0ff,
        selector,
    }
}

fn loaded(template: &State, case: &Case) -> State {
    let mut state = *template;
    let input = &case.input;
    state.gpr[..16].copy_from_slice(&input.gpr);
    state.set_rip(case.pointer(case.start));
    state.flags.set_rflags(input.rflags);
    state.seg[seg::CS] = segment(segments::code(case.bits));
    state.seg_base[seg::CS] = case.start - case.pointer(case.start);
    for (register, selector) in SELECTORS.into_iter().zip(input.selectors) {
        state.seg[register] = segment(selector as u16);
        state.seg_base[register] = segments::base(selector as u16);
    }
    state.seg_base[seg::FS] = input.fs_base;
    state.seg_base[seg::GS] = input.gs_base;
    state.mxcsr = input.vector.mxcsr();
    for (n, register) in state.vector.iter_mut().enumerate() {
        *register = Vector(input.vector.ymm(n));
    }
    state.x87 = x87_from(&input.vector);
    state
}

fn x87_from(area: &VectorState) -> X87 {
    let mut x87: X87 = State::reset().x87;
    x87.control = area.word(0);
    x87.status = area.word(2);
    x87.opcode = area.word(6);
    x87.ip = area.quad(8);
    x87.data = area.quad(16);
    x87.tag = 0;
    let top = (x87.status >> 11 & 7) as usize;
    let used = area.0[4];
    for n in 0..8 {
        let (mantissa, sign_exponent) = area.st(n);
        let register = (top + n) & 7;
        x87.r[register] = F80 {
            mantissa,
            sign_exponent: sign_exponent as u64,
        };
        let tag = match (used >> register & 1, sign_exponent & 0x7fff, mantissa) {
            (0, _, _) => 3,
            (_, 0, 0) => 1,
            (_, 0 | 0x7fff, _) => 2,
            (_, _, m) if m >> 63 == 0 => 2,
            _ => 0,
        };
        x87.tag |= tag << (2 * register);
    }
    x87
}

fn seen(state: &State) -> Registers {
    let mut vector = VectorState::initial();
    vector.set_mxcsr(state.mxcsr);
    for (n, register) in state.vector.iter().enumerate() {
        vector.set_ymm(n, register.0);
    }
    let x87 = &state.x87;
    vector.set(0, x87.control.to_le_bytes());
    vector.set(2, x87.status.to_le_bytes());
    vector.set(6, x87.opcode.to_le_bytes());
    vector.set(8, x87.ip.to_le_bytes());
    vector.set(16, x87.data.to_le_bytes());
    let top = (x87.status >> 11 & 7) as usize;
    for n in 0..8 {
        let register = (top + n) & 7;
        let F80 {
            mantissa,
            sign_exponent,
        } = x87.r[register];
        vector.set_st(n, mantissa, sign_exponent as u16);
        if x87.tag >> (2 * register) & 3 != 3 {
            vector.0[4] |= 1 << register;
        }
    }
    let mut general = [0; 16];
    general.copy_from_slice(&state.gpr[..16]);
    Registers {
        gpr: general,
        rflags: state.rflags(),
        fs_base: state.seg_base[seg::FS],
        gs_base: state.seg_base[seg::GS],
        selectors: SELECTORS.map(|register| state.seg[register].selector as u64),
        vector,
    }
}
