//! The local APIC of one processor (Intel SDM volume 3, chapter 11 "Advanced Programmable Interrupt Controller").
//!
//! Modelled: all xAPIC registers, IA32_APIC_BASE with the global enable and relocation, software enable, the
//! timer in its three modes, LINT0 and LINT1 with every delivery mode that a PC uses, interprocessor interrupts,
//! priorities, ISR/IRR/TMR, illegal-vector and illegal-register errors.
//!
//! Deliberately not: x2APIC (not offered in CPUID; its bit in IA32_APIC_BASE is refused), SMI, CMCI, the
//! arbitration and remote-read registers of old serial buses. The ID is the processor's index and read-only, as
//! it is on current processors. The TSC that deadlines are compared with is guest time in nanoseconds.

mod regs;
mod timer;

use serde::{Deserialize, Serialize};

use crate::device::{BadState, Delivery, Destination, Device, Effects, Message, ensure};
use crate::map::LAPIC_BASE;
use regs::*;
use timer::Timer;

/// 256 bits: one a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Vectors([u32; 8]);

impl Vectors {
    fn get(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }
    fn set(&mut self, vector: u8, value: bool) {
        let word = &mut self.0[usize::from(vector >> 5)];
        *word = *word & !(1 << (vector & 31)) | u32::from(value) << (vector & 31);
    }
    fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&word| word != 0)?;
        Some((word * 32) as u8 + 31 - self.0[word].leading_zeros() as u8)
    }
    fn word(&self, offset: u16) -> u32 {
        self.0[usize::from(offset >> 4 & 7)]
    }
}

/// The saved state of a local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LapicState {
    base: u64,
    tpr: u8,
    ldr: u8,
    /// The model nibble of DFR.
    dfr: u8,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// ESR as last latched, and the errors since.
    esr: u8,
    errors: u8,
    icr_low: u32,
    icr_high: u32,
    lvt: [u32; LVTS],
    timer: Timer,
    /// The level of LINT0, where the PIC is wired to.
    lint0: bool,
}

/// A local APIC.
pub(crate) struct Lapic {
    cpu: usize,
    s: LapicState,
}

impl Lapic {
    /// After RESET. The boot processor's is handed over by firmware in virtual wire mode (MultiProcessor
    /// Specification 1.4, 3.6.2.2): enabled, LINT0 passes the PIC's interrupts, LINT1 is NMI.
    pub fn new(cpu: usize) -> Lapic {
        let bsp = cpu == 0;
        let base = LAPIC_BASE | BASE_ENABLE | if bsp { BASE_BSP } else { 0 };
        let mut lapic = Lapic {
            cpu,
            s: Lapic::after_reset(base),
        };
        if bsp {
            lapic.s.svr |= SVR_ENABLE;
            lapic.s.lvt[LINT0] = 7 << 8;
            lapic.s.lvt[LINT0 + 1] = 4 << 8;
        }
        lapic
    }

    fn after_reset(base: u64) -> LapicState {
        LapicState {
            base,
            tpr: 0,
            ldr: 0,
            dfr: 0xf,
            svr: 0xff,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr_low: 0,
            icr_high: 0,
            lvt: [LVT_MASKED; LVTS],
            timer: Timer::new(),
            lint0: false,
        }
    }

    /// RESET and INIT (11.4.7.1 and 11.4.7.3): all but IA32_APIC_BASE and the levels of the pins.
    fn reset(&mut self) {
        let lint0 = self.s.lint0;
        self.s = LapicState {
            lint0,
            ..Lapic::after_reset(self.s.base)
        };
    }

    fn hardware_enabled(&self) -> bool {
        self.s.base & BASE_ENABLE != 0
    }

    fn software_enabled(&self) -> bool {
        self.s.svr & SVR_ENABLE != 0
    }

    /// Whether this page of guest-physical memory is the APIC's registers, as its processor sees it.
    pub fn decodes(&self, gpa: u64) -> bool {
        self.hardware_enabled() && gpa & !0xfff == self.s.base & BASE_ADDRESS
    }

    /// Processor priority (11.8.3.1).
    fn ppr(&self) -> u8 {
        let in_service = self.s.isr.highest().unwrap_or(0);
        if self.s.tpr >> 4 >= in_service >> 4 {
            self.s.tpr
        } else {
            in_service & 0xf0
        }
    }

    /// The vector that the processor should be interrupted with now.
    fn deliverable(&self) -> Option<u8> {
        self.s
            .irr
            .highest()
            .filter(|vector| vector >> 4 > self.ppr() >> 4)
    }

    /// Whether the APIC interrupts its processor. Requests that came before a software disable still do (11.4.7.2).
    pub fn interrupt(&self) -> bool {
        self.hardware_enabled() && self.deliverable().is_some()
    }

    /// Whether the PIC's interrupt output goes straight to the processor: through LINT0 as ExtINT, or because there
    /// is no APIC in between.
    pub fn passes_pic(&self) -> bool {
        !self.hardware_enabled() || self.s.lvt[LINT0] & (LVT_MASKED | 7 << 8) == 7 << 8
    }

    /// The acknowledge of an APIC interrupt: its vector goes into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable().filter(|_| self.hardware_enabled())?;
        self.s.irr.set(vector, false);
        self.s.isr.set(vector, true);
        Some(vector)
    }

    /// CR8: bits 7 to 4 of the TPR (10.8.6).
    pub fn cr8(&self) -> u64 {
        u64::from(self.s.tpr >> 4)
    }

    pub fn set_cr8(&mut self, value: u64) {
        self.s.tpr = (value as u8 & 0xf) << 4;
    }

    /// The IA32_APIC_BASE register.
    pub fn base(&self) -> u64 {
        self.s.base
    }

    /// WRMSR of IA32_APIC_BASE. `false`: reserved bits, or x2APIC.
    pub fn set_base(&mut self, value: u64) -> bool {
        // 52 bits are the most that any processor has; the one in front of us may have fewer.
        if value & (BASE_RESERVED_LOW | BASE_X2APIC) != 0 || value >> 52 != 0 {
            return false;
        }
        let was_enabled = self.hardware_enabled();
        self.s.base = value;
        if was_enabled != self.hardware_enabled() {
            self.reset();
        }
        true
    }

    /// RDMSR of IA32_TSC_DEADLINE: zero outside of its mode.
    pub fn tsc_deadline(&mut self, now_ns: u64, out: &mut Effects) -> u64 {
        self.run_timer(now_ns, out);
        if self.in_deadline_mode() {
            self.s.timer.tsc_deadline
        } else {
            0
        }
    }

    /// WRMSR of IA32_TSC_DEADLINE: ignored outside of its mode.
    pub fn set_tsc_deadline(&mut self, now_ns: u64, value: u64, out: &mut Effects) {
        self.run_timer(now_ns, out);
        if self.in_deadline_mode() {
            self.s.timer.tsc_deadline = value;
            self.run_timer(now_ns, out);
        }
    }

    fn in_deadline_mode(&self) -> bool {
        self.s.lvt[TIMER] & LVT_TIMER_MODE == LVT_TIMER_DEADLINE
    }

    fn run_timer(&mut self, now_ns: u64, out: &mut Effects) {
        if self.s.timer.settle(now_ns, self.s.lvt[TIMER]) {
            self.raise_local(TIMER, out);
        }
    }

    /// A local source asks for its interrupt.
    fn raise_local(&mut self, entry: usize, out: &mut Effects) {
        let lvt = self.s.lvt[entry];
        if lvt & LVT_MASKED != 0 {
            return;
        }
        // The timer and the error entry have no delivery mode: its bits read 0, which is fixed.
        match lvt >> 8 & 7 {
            0 => self.accept(lvt as u8, lvt & LVT_LEVEL != 0 && entry == LINT0, out),
            4 => out.messages.push_back(Message {
                to: Destination::Cpu(self.cpu),
                delivery: Delivery::Nmi,
                vector: 0,
                level: false,
            }),
            // ExtINT is a wire (see `passes_pic`), and SMI and INIT have no source here.
            _ => {}
        }
    }

    /// The PIC's interrupt output changes.
    pub fn set_lint0(&mut self, level: bool, out: &mut Effects) {
        let rose = level && !self.s.lint0;
        self.s.lint0 = level;
        if self.s.lvt[LINT0] & LVT_LEVEL == 0 {
            if rose {
                self.raise_local(LINT0, out);
            }
        } else {
            self.level_lint0(out);
        }
    }

    /// A level-triggered fixed LINT0 asks until its interrupt has ended, and again if it is still up then.
    fn level_lint0(&mut self, out: &mut Effects) {
        let lvt = self.s.lvt[LINT0];
        let level_fixed = lvt & (LVT_MASKED | LVT_LEVEL | 7 << 8) == LVT_LEVEL;
        if level_fixed && self.s.lint0 && lvt & LVT_REMOTE_IRR == 0 {
            self.s.lvt[LINT0] |= LVT_REMOTE_IRR;
            self.raise_local(LINT0, out);
        }
    }

    /// A fixed or lowest-priority interrupt arrives.
    fn accept(&mut self, vector: u8, level: bool, out: &mut Effects) {
        if vector < 16 {
            self.error(ESR_RECEIVED_ILLEGAL_VECTOR, out);
            return;
        }
        self.s.irr.set(vector, true);
        self.s.tmr.set(vector, level);
    }

    fn error(&mut self, error: u8, out: &mut Effects) {
        if self.s.errors & error == 0 {
            self.s.errors |= error;
            self.raise_local(ERROR, out);
        }
    }

    /// Whether a message for this destination is for this APIC (11.6.2).
    pub fn is_addressed(&self, to: Destination) -> bool {
        if !self.hardware_enabled() {
            return false;
        }
        match to {
            Destination::All => true,
            Destination::Cpu(cpu) => cpu == self.cpu,
            Destination::AllBut(cpu) => cpu != self.cpu,
            Destination::Physical(id) => id == 0xff || usize::from(id) == self.cpu,
            Destination::Logical(0xff) => true,
            Destination::Logical(mask) if self.s.dfr == 0xf => mask & self.s.ldr != 0,
            Destination::Logical(mask) => {
                mask >> 4 == self.s.ldr >> 4 && mask & self.s.ldr & 0xf != 0
            }
        }
    }

    /// How much a lowest-priority message should avoid this processor; `None` where it cannot go at all.
    pub fn burden(&self) -> Option<u8> {
        self.software_enabled().then(|| self.ppr())
    }

    /// A message arrives. NMI and startup are the processor's business, and INIT is for both.
    pub fn receive(&mut self, message: &Message, out: &mut Effects) {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority if self.software_enabled() => {
                self.accept(message.vector, message.level, out);
            }
            Delivery::Init => self.reset(),
            _ => {}
        }
    }

    /// A write to the low half of ICR sends.
    fn send(&mut self, out: &mut Effects) {
        let icr = self.s.icr_low;
        let to = match icr >> 18 & 3 {
            0 if icr & ICR_LOGICAL != 0 => Destination::Logical((self.s.icr_high >> 24) as u8),
            0 => Destination::Physical((self.s.icr_high >> 24) as u8),
            1 => Destination::Cpu(self.cpu),
            2 => Destination::All,
            _ => Destination::AllBut(self.cpu),
        };
        let Some(delivery) = Delivery::from_bits(icr >> 8) else {
            return;
        };
        let vector = icr as u8;
        match delivery {
            // INIT level de-assert synchronises the arbitration IDs of a serial bus, and nothing else.
            Delivery::Init if icr & (ICR_LEVEL | ICR_ASSERT) == ICR_LEVEL => {}
            Delivery::Fixed | Delivery::LowestPriority if vector < 16 => {
                self.error(ESR_SEND_ILLEGAL_VECTOR, out);
            }
            // The trigger mode of a processor's own message is edge whatever ICR says (table 11-3).
            _ => out.messages.push_back(Message {
                to,
                delivery,
                vector,
                level: false,
            }),
        }
    }

    fn end_of_interrupt(&mut self, out: &mut Effects) {
        let Some(vector) = self.s.isr.highest() else {
            return;
        };
        self.s.isr.set(vector, false);
        if self.s.tmr.get(vector) {
            out.eois.push(vector);
            if self.s.lvt[LINT0] as u8 == vector && self.s.lvt[LINT0] & LVT_REMOTE_IRR != 0 {
                self.s.lvt[LINT0] &= !LVT_REMOTE_IRR;
                self.level_lint0(out);
            }
        }
    }

    fn write_lvt(&mut self, now_ns: u64, entry: usize, value: u32, out: &mut Effects) {
        self.run_timer(now_ns, out);
        let before = self.s.lvt[entry];
        let mut after = value & LVT_WRITABLE[entry] | before & LVT_REMOTE_IRR;
        if after & LVT_LEVEL == 0 {
            after &= !LVT_REMOTE_IRR;
        }
        if !self.software_enabled() {
            after |= LVT_MASKED;
        }
        self.s.lvt[entry] = after;
        match entry {
            TIMER => self.s.timer.change_mode(before, after),
            LINT0 => self.level_lint0(out),
            _ => {}
        }
    }

    fn write_svr(&mut self, value: u32) {
        self.s.svr = value & SVR_WRITABLE;
        if !self.software_enabled() {
            // 11.4.7.2: every LVT entry is masked, and stays so until the APIC is enabled again.
            for lvt in &mut self.s.lvt {
                *lvt |= LVT_MASKED;
            }
        }
    }

    fn lvt_index(reg: u16) -> usize {
        usize::from((reg - LVT_TIMER) >> 4)
    }
}

impl Device for Lapic {
    type State = LapicState;

    /// `reg` is the offset in the page, a multiple of 16.
    fn read(&mut self, now_ns: u64, reg: u16, _size: u8, out: &mut Effects) -> u32 {
        self.run_timer(now_ns, out);
        let s = &self.s;
        match reg {
            ID => (self.cpu as u32) << 24,
            VERSION => VERSION_VALUE,
            TPR => s.tpr.into(),
            APR => 0,
            PPR => self.ppr().into(),
            EOI => 0,
            LDR => u32::from(s.ldr) << 24,
            DFR => u32::from(s.dfr) << 28 | 0x0fff_ffff,
            SVR => s.svr,
            ISR..TMR => s.isr.word(reg),
            TMR..IRR => s.tmr.word(reg),
            IRR..ESR => s.irr.word(reg),
            ESR => s.esr.into(),
            ICR_LOW => s.icr_low,
            ICR_HIGH => s.icr_high,
            LVT_TIMER..=LVT_ERROR => s.lvt[Lapic::lvt_index(reg)],
            TIMER_INITIAL => s.timer.initial,
            TIMER_CURRENT => s.timer.current(now_ns, s.lvt[TIMER]),
            TIMER_DIVIDE => s.timer.divide.into(),
            _ => {
                self.error(ESR_ILLEGAL_REGISTER, out);
                0
            }
        }
    }

    fn write(&mut self, now_ns: u64, reg: u16, _size: u8, value: u32, out: &mut Effects) {
        self.run_timer(now_ns, out);
        match reg {
            TPR => self.s.tpr = value as u8,
            EOI => self.end_of_interrupt(out),
            LDR => self.s.ldr = (value >> 24) as u8,
            DFR => self.s.dfr = (value >> 28) as u8,
            SVR => self.write_svr(value),
            // Writing latches the errors since the last write, and arms the error interrupt again.
            ESR => self.s.esr = std::mem::take(&mut self.s.errors),
            ICR_LOW => {
                self.s.icr_low = value & ICR_WRITABLE;
                self.send(out);
            }
            ICR_HIGH => self.s.icr_high = value & 0xff00_0000,
            LVT_TIMER..=LVT_ERROR => self.write_lvt(now_ns, Lapic::lvt_index(reg), value, out),
            TIMER_INITIAL if !self.in_deadline_mode() => self.s.timer.start(now_ns, value),
            TIMER_DIVIDE => self
                .s
                .timer
                .set_divide(now_ns, value as u8 & 0xb, self.s.lvt[TIMER]),
            ID | VERSION | APR | PPR | TIMER_CURRENT | TIMER_INITIAL | ISR..ESR => {}
            _ => self.error(ESR_ILLEGAL_REGISTER, out),
        }
    }

    fn advance(&mut self, now_ns: u64, out: &mut Effects) {
        self.run_timer(now_ns, out);
    }

    fn deadline_ns(&self) -> Option<u64> {
        let lvt = self.s.lvt[TIMER];
        let vector = lvt as u8;
        // Running out changes nothing while it is masked, or while the last time has not been served.
        let unseen = match vector {
            0..16 => self.s.errors & ESR_RECEIVED_ILLEGAL_VECTOR != 0,
            _ => self.s.irr.get(vector),
        };
        if lvt & LVT_MASKED != 0 || unseen {
            None
        } else {
            self.s.timer.deadline_ns(lvt)
        }
    }

    fn save(&self) -> LapicState {
        let Lapic { cpu: _, s } = self;
        s.clone()
    }

    fn restore(&mut self, state: &LapicState) -> Result<(), BadState> {
        let reserved = state.base & (BASE_RESERVED_LOW | BASE_X2APIC) != 0 || state.base >> 52 != 0;
        ensure(!reserved, "local APIC", "reserved bits in IA32_APIC_BASE")?;
        self.s = state.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
