//! How the board runs: accesses to their devices, effects to where their wires lead, time to its timers.

use super::Board;
use crate::device::{Delivery, Device, Message};
use crate::lapic::Lapic;
use crate::map::{GSI_PIT, IRQ_PIT, Owner, gsi_of};

/// Deadlines that one jump in time serves one by one. A jump over more of them is one that nobody watches (a
/// processor that takes no interrupts): what is left of it happens at once, each timer once.
const DEADLINES_A_JUMP: usize = 100_000;

impl Board {
    pub(super) fn read_port(&mut self, owner: Owner, reg: u16, size: u8) -> u32 {
        let (now_ns, out) = (self.now_ns, &mut self.out);
        let value = match owner {
            Owner::Open => return super::open_bus(size) as u32,
            Owner::Serial => {
                let value = self.serial.read(now_ns, reg, size, out);
                self.settle_serial();
                return value;
            }
            Owner::Pic => {
                // The timer's line is only followed closely while somebody listens; IRR shows it either way.
                self.pit.advance(now_ns, out);
                self.carry();
                self.pic.read(now_ns, reg, size, &mut self.out)
            }
            Owner::Rtc => self.rtc.read(now_ns, reg, size, out),
            // Reading these moves nothing but, sometimes, a line: their deadlines stay.
            Owner::Pit => {
                return self
                    .settled_read(|board| board.pit.read(now_ns, reg, size, &mut board.out));
            }
            Owner::Pm => {
                return self.settled_read(|board| board.pm.read(now_ns, reg, size, &mut board.out));
            }
            Owner::I8042 => {
                return self
                    .settled_read(|board| board.i8042.read(now_ns, reg, size, &mut board.out));
            }
            Owner::Reset => return self.reset.read(now_ns, reg, size, out),
            Owner::Debug => return self.debug.read(now_ns, reg, size, out),
            Owner::Pci => return self.pci.read(now_ns, reg, size, out),
        };
        self.settle();
        value
    }

    /// A read that has nothing to settle unless it had an effect.
    fn settled_read(&mut self, read: impl FnOnce(&mut Board) -> u32) -> u32 {
        let value = read(self);
        if !self.out.is_quiet() {
            self.settle();
        }
        value
    }

    pub(super) fn write_port(&mut self, owner: Owner, reg: u16, size: u8, value: u32) {
        let (now_ns, out) = (self.now_ns, &mut self.out);
        match owner {
            Owner::Open => return,
            Owner::Serial => {
                self.serial.write(now_ns, reg, size, value, out);
                return self.settle_serial();
            }
            Owner::Pic => {
                self.pit.advance(now_ns, out);
                self.carry();
                self.pic.write(now_ns, reg, size, value, &mut self.out);
            }
            Owner::Pit => self.pit.write(now_ns, reg, size, value, out),
            Owner::I8042 => self.i8042.write(now_ns, reg, size, value, out),
            Owner::Rtc => self.rtc.write(now_ns, reg, size, value, out),
            Owner::Reset => self.reset.write(now_ns, reg, size, value, out),
            Owner::Debug => self.debug.write(now_ns, reg, size, value, out),
            Owner::Pm => self.pm.write(now_ns, reg, size, value, out),
            Owner::Pci => self.pci.write(now_ns, reg, size, value, out),
        }
        self.settle();
    }

    /// Brings the board up to `now_ns` before anything else happens there. A time before the last one is the last one.
    #[inline]
    pub(super) fn catch_up(&mut self, now_ns: u64) {
        if self.deadline_ns.is_some_and(|at| at <= now_ns) {
            self.run_timers(now_ns);
        }
        self.now_ns = self.now_ns.max(now_ns);
    }

    fn run_timers(&mut self, now_ns: u64) {
        for _ in 0..DEADLINES_A_JUMP {
            match self.deadline_ns {
                Some(at) if at <= now_ns => self.run_timers_to(at),
                _ => return,
            }
        }
        self.run_timers_to(now_ns);
    }

    fn run_timers_to(&mut self, at_ns: u64) {
        self.now_ns = self.now_ns.max(at_ns);
        let (now_ns, out) = (self.now_ns, &mut self.out);
        self.pit.advance(now_ns, out);
        self.rtc.advance(now_ns, out);
        self.serial.advance(now_ns, out);
        self.pm.advance(now_ns, out);
        for lapic in &mut self.lapics {
            lapic.advance(now_ns, out);
        }
        self.settle();
    }

    /// After anything: carries effects on and works out anew what is derived from the devices.
    pub(super) fn settle(&mut self) {
        self.carry();
        self.find_pending();
        self.find_deadline();
    }

    /// The same after an access to the serial port, which in most cases moves nothing.
    fn settle_serial(&mut self) {
        if !self.out.is_quiet() {
            return self.settle();
        }
        self.serial_deadline_ns = self.serial.deadline_ns();
        self.deadline_ns = earlier(self.serial_deadline_ns, self.other_deadline_ns);
    }

    /// Carries effects along the wires until all is quiet.
    pub(super) fn carry(&mut self) {
        while !self.out.is_quiet() {
            while let Some((irq, level)) = self.out.lines.pop_front() {
                self.pic.set_line(irq, level);
                if let Some(pin) = gsi_of(irq) {
                    self.ioapic.set_line(pin, level, &mut self.out);
                }
            }
            self.drive_lint0();
            while let Some(message) = self.out.messages.pop_front() {
                self.deliver(&message);
            }
            while let Some(vector) = self.out.eois.pop() {
                self.ioapic.end_of_interrupt(vector, &mut self.out);
            }
        }
        // Acknowledges and writes to the PIC change its output without any effect of their own.
        self.drive_lint0();
        while let Some(message) = self.out.messages.pop_front() {
            self.deliver(&message);
        }
    }

    fn drive_lint0(&mut self) {
        let level = self.pic.interrupt();
        for lapic in &mut self.lapics {
            lapic.set_lint0(level, &mut self.out);
        }
    }

    /// A message on the APIC bus.
    fn deliver(&mut self, message: &Message) {
        if message.delivery == Delivery::LowestPriority {
            let target = self
                .lapics
                .iter_mut()
                .filter(|lapic| lapic.is_addressed(message.to))
                .filter_map(|lapic| lapic.burden().map(|burden| (burden, lapic)))
                .min_by_key(|(burden, _)| *burden);
            if let Some((_, lapic)) = target {
                lapic.receive(message, &mut self.out);
            }
            return;
        }
        for (lapic, inputs) in self.lapics.iter_mut().zip(&mut self.inputs) {
            if !lapic.is_addressed(message.to) {
                continue;
            }
            lapic.receive(message, &mut self.out);
            match message.delivery {
                Delivery::Nmi => inputs.nmi = true,
                Delivery::Init => {
                    inputs.init = true;
                    inputs.startup = None;
                    inputs.nmi = false;
                }
                Delivery::Startup => {
                    inputs.startup.get_or_insert(message.vector);
                }
                Delivery::Fixed | Delivery::LowestPriority => {}
            }
        }
    }

    pub(super) fn find_pending(&mut self) {
        let pic = self.pic.interrupt();
        for (pending, lapic) in self.pending.iter_mut().zip(&self.lapics) {
            *pending = lapic.interrupt() || (pic && lapic.passes_pic());
        }
    }

    pub(super) fn find_deadline(&mut self) {
        let heard = self.pic.is_unmasked(IRQ_PIT) || self.ioapic.is_unmasked(GSI_PIT);
        let pit = if heard { self.pit.deadline_ns() } else { None };
        let lapics = self.lapics.iter().filter_map(Lapic::deadline_ns).min();
        self.other_deadline_ns = [pit, self.rtc.deadline_ns(), self.pm.deadline_ns(), lapics]
            .into_iter()
            .fold(None, earlier);
        self.serial_deadline_ns = self.serial.deadline_ns();
        self.deadline_ns = earlier(self.serial_deadline_ns, self.other_deadline_ns);
    }
}

/// The earlier of two times, either of which may be never.
fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
