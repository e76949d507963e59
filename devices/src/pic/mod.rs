//! The pair of 8259A interrupt controllers (Intel 8259A data sheet, order number 231468-003), with the
//! edge/level control registers of a PIIX (Intel 82371SB data sheet, 2.5.8 "ELCR1/ELCR2").
//!
//! Modelled: the initialisation sequence, all of OCW1 to OCW3 (masks, the eight end-of-interrupt and rotation
//! commands, special mask mode, poll), automatic end of interrupt, special fully nested mode, cascading through IR2
//! of the master, spurious interrupts 7 and 15, and that a request in edge mode is withdrawn when its line falls.
//!
//! Deliberately not: MCS-80 call mode (the vector is given as in 8086 mode whatever ICW4 says) and buffered mode,
//! which concern buses that no PC has.

use serde::{Deserialize, Serialize};

use crate::device::{BadState, Device, Effects, ensure};

/// Registers of the pair as the board numbers them: command and data port of the master, of the slave, ELCRs.
pub(crate) const MASTER_COMMAND: u16 = 0;
pub(crate) const MASTER_DATA: u16 = 1;
pub(crate) const SLAVE_COMMAND: u16 = 2;
pub(crate) const SLAVE_DATA: u16 = 3;
pub(crate) const ELCR1: u16 = 4;
pub(crate) const ELCR2: u16 = 5;

/// Input of the master that the slave's INT output is wired to.
const CASCADE: u8 = 2;
/// IRQs 0, 1, 2, 8 and 13 are edge-triggered for good.
const ELCR1_WRITABLE: u8 = 0xf8;
const ELCR2_WRITABLE: u8 = 0xde;

const ICW1: u8 = 1 << 4;
const ICW1_NEEDS_ICW4: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW1_LEVEL: u8 = 1 << 3;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_SPECIAL_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;
const OCW3_POLL: u8 = 1 << 2;
const OCW3_READ: u8 = 1 << 1;
const OCW3_READ_ISR: u8 = 1 << 0;
const OCW3_SPECIAL_MASK_WRITE: u8 = 1 << 6;
const OCW3_SPECIAL_MASK: u8 = 1 << 5;

/// The initialisation word that the data port waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expects {
    /// None: the data port is the interrupt mask.
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chip {
    /// Levels of the eight inputs.
    lines: u8,
    irr: u8,
    isr: u8,
    imr: u8,
    elcr: u8,
    /// Vector of input 0.
    base: u8,
    /// Input of the highest priority.
    first: u8,
    expects: Expects,
    single: bool,
    needs_icw4: bool,
    all_level: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_nested: bool,
    special_mask: bool,
    read_isr: bool,
    poll: bool,
    master: bool,
}

impl Chip {
    fn new(master: bool) -> Chip {
        Chip {
            lines: 0,
            irr: 0,
            isr: 0,
            imr: 0xff,
            elcr: 0,
            base: if master { 0x08 } else { 0x70 },
            first: 0,
            expects: Expects::Mask,
            single: false,
            needs_icw4: true,
            all_level: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_nested: false,
            special_mask: false,
            read_isr: false,
            poll: false,
            master,
        }
    }

    fn level_triggered(&self) -> u8 {
        if self.all_level { 0xff } else { self.elcr }
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        if (self.lines & bit != 0) == level {
            return;
        }
        // Edge or level alike: the rise makes the request, and the line has to stay up until the acknowledge.
        if level {
            self.lines |= bit;
            self.irr |= bit;
        } else {
            self.lines &= !bit;
            self.irr &= !bit;
        }
    }

    /// Position of the highest priority among `bits` in the rotating order; 8 without any.
    fn rank(&self, bits: u8) -> u32 {
        bits.rotate_right(self.first.into()).trailing_zeros()
    }

    fn input_of(&self, rank: u32) -> u8 {
        (self.first + rank as u8) & 7
    }

    /// The input that INT is raised for.
    fn request(&self) -> Option<u8> {
        if self.expects != Expects::Mask {
            return None;
        }
        let rank = self.rank(self.irr & !self.imr);
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_nested && self.master {
            in_service &= !(1 << CASCADE);
        }
        (rank < 8 && rank < self.rank(in_service)).then(|| self.input_of(rank))
    }

    /// The acknowledge cycle: the input served, or 7 where the request has gone meanwhile.
    fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.request() else {
            return 7;
        };
        let bit = 1 << input;
        if self.level_triggered() & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.first = (input + 1) & 7;
        }
        input
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.initialise(value);
        } else if value & OCW3 != 0 {
            self.poll = value & OCW3_POLL != 0;
            if value & OCW3_READ != 0 {
                self.read_isr = value & OCW3_READ_ISR != 0;
            }
            if value & OCW3_SPECIAL_MASK_WRITE != 0 {
                self.special_mask = value & OCW3_SPECIAL_MASK != 0;
            }
        } else {
            self.operate(value >> 5, value & 7);
        }
    }

    /// ICW1: what the data sheet's "Initialization Command Word 1" says happens, a to f.
    fn initialise(&mut self, icw1: u8) {
        self.all_level = icw1 & ICW1_LEVEL != 0;
        self.irr = self.lines & self.level_triggered();
        self.isr = 0;
        self.imr = 0;
        self.first = 0;
        self.special_mask = false;
        self.read_isr = false;
        self.poll = false;
        self.auto_eoi = false;
        self.rotate_on_auto_eoi = false;
        self.special_nested = false;
        self.single = icw1 & ICW1_SINGLE != 0;
        self.needs_icw4 = icw1 & ICW1_NEEDS_ICW4 != 0;
        self.expects = Expects::Icw2;
    }

    /// OCW2: R, SL and EOI together are the command.
    fn operate(&mut self, command: u8, input: u8) {
        let highest = self.rank(self.isr);
        let ended = match command {
            0b001 | 0b101 => (highest < 8).then(|| self.input_of(highest)),
            0b011 | 0b111 => Some(input),
            0b000 | 0b100 => {
                self.rotate_on_auto_eoi = command == 0b100;
                None
            }
            0b110 => {
                self.first = (input + 1) & 7;
                None
            }
            _ => None,
        };
        if let Some(ended) = ended {
            self.isr &= !(1 << ended);
            if command & 0b100 != 0 {
                self.first = (ended + 1) & 7;
            }
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expects = match self.expects {
            Expects::Mask => {
                self.imr = value;
                Expects::Mask
            }
            Expects::Icw2 => {
                self.base = value & 0xf8;
                match (self.single, self.needs_icw4) {
                    (false, _) => Expects::Icw3,
                    (true, true) => Expects::Icw4,
                    (true, false) => Expects::Mask,
                }
            }
            // Where the slave is attached is decided by the board's wires, not by what ICW3 says.
            Expects::Icw3 if self.needs_icw4 => Expects::Icw4,
            Expects::Icw3 => Expects::Mask,
            Expects::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_nested = value & ICW4_SPECIAL_NESTED != 0;
                Expects::Mask
            }
        };
    }

    fn read_command(&mut self) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.request() {
                Some(_) => 0x80 | self.acknowledge(),
                None => 0,
            };
        }
        if self.read_isr { self.isr } else { self.irr }
    }

    fn set_elcr(&mut self, value: u8) {
        self.elcr = value;
        // A line that is level-triggered from now on asks for as long as it is up.
        self.irr |= self.lines & value;
    }

    fn is_sound(&self) -> bool {
        self.first < 8 && self.base & 7 == 0
    }
}

/// The saved state of the pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicState {
    master: Chip,
    slave: Chip,
}

/// Two 8259As, the slave behind input 2 of the master.
pub(crate) struct Pic {
    s: PicState,
}

impl Pic {
    /// As firmware leaves them: initialised for vectors 0x08 and 0x70, all inputs masked, the ACPI interrupt (9)
    /// level-triggered.
    pub fn new() -> Pic {
        let mut slave = Chip::new(false);
        slave.elcr = 1 << 1;
        Pic {
            s: PicState {
                master: Chip::new(true),
                slave,
            },
        }
    }

    /// An interrupt line of the board changes.
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            8..16 => self.s.slave.set_line(irq - 8, level),
            CASCADE => {}
            0..8 => self.s.master.set_line(irq, level),
            _ => {}
        }
        self.cascade();
    }

    /// The INT output to the processor (or to LINT0 of its local APIC).
    pub fn interrupt(&self) -> bool {
        self.s.master.request().is_some()
    }

    /// Whether a rise of this line could get through to INT now or later without anyone writing to the mask.
    pub fn is_unmasked(&self, irq: u8) -> bool {
        let PicState { master, slave } = &self.s;
        match irq {
            8..16 => slave.imr & (1 << (irq - 8)) == 0 && master.imr & (1 << CASCADE) == 0,
            0..8 => master.imr & (1 << irq) == 0,
            _ => false,
        }
    }

    /// The two acknowledge cycles: the vector.
    pub fn acknowledge(&mut self) -> u8 {
        let input = self.s.master.acknowledge();
        if input != CASCADE || self.s.master.single {
            return self.s.master.base | input;
        }
        // The slave's INT falls with the acknowledge, and rises again where more is waiting: an edge.
        self.s.master.set_line(CASCADE, false);
        let slave_input = self.s.slave.acknowledge();
        self.cascade();
        self.s.slave.base | slave_input
    }

    fn cascade(&mut self) {
        let int = self.s.slave.request().is_some();
        self.s.master.set_line(CASCADE, int);
    }
}

impl Device for Pic {
    type State = PicState;

    fn read(&mut self, _now_ns: u64, reg: u16, _size: u8, _out: &mut Effects) -> u32 {
        let PicState { master, slave } = &mut self.s;
        let value = match reg {
            MASTER_COMMAND => master.read_command(),
            MASTER_DATA => master.imr,
            SLAVE_COMMAND => slave.read_command(),
            SLAVE_DATA => slave.imr,
            ELCR1 => master.elcr,
            ELCR2 => slave.elcr,
            _ => 0xff,
        };
        // A poll is an acknowledge.
        self.cascade();
        value.into()
    }

    fn write(&mut self, _now_ns: u64, reg: u16, _size: u8, value: u32, _out: &mut Effects) {
        let PicState { master, slave } = &mut self.s;
        let value = value as u8;
        match reg {
            MASTER_COMMAND => master.write_command(value),
            MASTER_DATA => master.write_data(value),
            SLAVE_COMMAND => slave.write_command(value),
            SLAVE_DATA => slave.write_data(value),
            ELCR1 => master.set_elcr(value & ELCR1_WRITABLE),
            ELCR2 => slave.set_elcr(value & ELCR2_WRITABLE),
            _ => {}
        }
        self.cascade();
    }

    fn save(&self) -> PicState {
        let Pic { s } = self;
        s.clone()
    }

    fn restore(&mut self, state: &PicState) -> Result<(), BadState> {
        let PicState { master, slave } = state;
        ensure(
            master.is_sound() && slave.is_sound(),
            "PIC",
            "priority or vector base out of range",
        )?;
        ensure(
            master.master && !slave.master,
            "PIC",
            "master and slave changed places",
        )?;
        self.s = state.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
