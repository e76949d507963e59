//! The board: which device answers where, and which line goes where.
//!
//! Ports are routed by the table in `map`. Interrupt lines go to the PIC and to the IO-APIC; the PIC's output goes to
//! LINT0 of every local APIC; interrupt messages go to the local APICs that they are addressed to. Devices do not
//! know of each other: they leave what they do in `Effects`, and the board carries it on until all is quiet.
//!
//! State lives in the devices. What the board itself keeps is either an output that nobody has taken yet, or derived
//! from the devices (which processors have an interrupt, what the next deadline is) and made anew after a restore.

mod wiring;

use serde::{Deserialize, Serialize};

use crate::acpi::pm::{Pm, PmState};
use crate::debug::{Debug, DebugState};
use crate::device::{BadState, Device, Effects, Power, ensure};
use crate::i8042::{I8042, I8042State};
use crate::ioapic::{Ioapic, IoapicState};
use crate::lapic::{Lapic, LapicState};
use crate::map::*;
use crate::pci::{Pci, PciState};
use crate::pic::{Pic, PicState};
use crate::pit::{Pit, PitState};
use crate::reset::{Reset, ResetState};
use crate::rtc::{Rtc, RtcState};
use crate::serial::{ConsoleTap, Serial, SerialState};

const IA32_APIC_BASE: u32 = 0x1b;
const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// What the board has to know of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardConfig {
    /// Processors: 1 to [`MAX_CPUS`]; other numbers are brought into that range.
    pub cpus: usize,
    /// RAM in bytes, which goes around the PCI hole as [`ram`] says.
    pub ram_bytes: u64,
    /// What the real-time clock shows at power-on, in seconds since 1970 (UTC).
    pub rtc_epoch_s: u64,
}

impl BoardConfig {
    pub(crate) fn cpu_count(&self) -> usize {
        self.cpus.clamp(1, MAX_CPUS)
    }
}

/// What one processor tells another through the local APICs, and what its execution unit has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ipi {
    /// Reset to the INIT state, and wait for `Startup`.
    Init {
        /// Whom it is for.
        cpu: usize,
    },
    /// Start in real mode at `vector` × 4096, if waiting.
    Startup {
        /// Whom it is for.
        cpu: usize,
        /// The page in the first MiB to start at.
        vector: u8,
    },
}

/// What one processor has not taken yet. A second INIT or startup before that is the same as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct CpuInputs {
    nmi: bool,
    init: bool,
    startup: Option<u8>,
}

/// The saved state of a whole board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardState {
    config: BoardConfig,
    now_ns: u64,
    serial: SerialState,
    pic: PicState,
    pit: PitState,
    lapics: Vec<LapicState>,
    ioapic: IoapicState,
    rtc: RtcState,
    i8042: I8042State,
    pci: PciState,
    pm: PmState,
    reset: ResetState,
    debug: DebugState,
    inputs: Vec<CpuInputs>,
    console: Vec<u8>,
    power: Option<Power>,
}

/// The board of a PC.
pub struct Board {
    config: BoardConfig,
    now_ns: u64,

    serial: Serial,
    pic: Pic,
    pit: Pit,
    lapics: Vec<Lapic>,
    ioapic: Ioapic,
    rtc: Rtc,
    i8042: I8042,
    pci: Pci,
    pm: Pm,
    reset: Reset,
    debug: Debug,

    inputs: Vec<CpuInputs>,
    /// Outputs that nobody has taken yet (console, power); the rest of it is empty between calls.
    out: Effects,

    /// Derived: whether each processor has an interrupt.
    pending: Vec<bool>,
    /// Derived: the deadlines of the serial port, of everything else, and the earlier of both.
    serial_deadline_ns: Option<u64>,
    other_deadline_ns: Option<u64>,
    deadline_ns: Option<u64>,
}

/// All ones, `size` bytes wide: what an access reads that nobody answers.
fn open_bus(size: u8) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * size)) - 1
    }
}

impl Board {
    /// The board as firmware hands it over to a boot loader at time 0.
    pub fn new(config: &BoardConfig) -> Board {
        let cpus = config.cpu_count();
        let config = BoardConfig { cpus, ..*config };
        let mut board = Board {
            config,
            now_ns: 0,
            serial: Serial::new(IRQ_COM1),
            pic: Pic::new(),
            pit: Pit::new(),
            lapics: (0..cpus).map(Lapic::new).collect(),
            ioapic: Ioapic::new(),
            rtc: Rtc::new(config.rtc_epoch_s, config.ram_bytes, cpus),
            i8042: I8042::new(),
            pci: Pci::new(),
            pm: Pm::new(),
            reset: Reset::new(),
            debug: Debug::default(),
            inputs: vec![CpuInputs::default(); cpus],
            out: Effects::default(),
            pending: vec![false; cpus],
            serial_deadline_ns: None,
            other_deadline_ns: None,
            deadline_ns: None,
        };
        board.out.line(IRQ_PIT, board.pit.line());
        board.settle();
        board
    }

    /// The configuration, with the number of processors brought into range.
    pub fn config(&self) -> &BoardConfig {
        &self.config
    }

    /// IN of 1, 2 or 4 bytes; the value is zero-extended. Ports that nobody has read all ones. Which processor asks
    /// makes no difference here.
    pub fn pio_read(&mut self, now_ns: u64, _cpu: usize, port: u16, size: u8) -> u32 {
        self.catch_up(now_ns);
        if let Some((owner, reg)) = route(port, size) {
            return self.read_port(owner, reg, size);
        }
        // The bus splits the access into bytes at ascending ports; above the last port nobody answers.
        let mut value = 0;
        for i in 0..u16::from(size.min(4)) {
            let byte = match port.checked_add(i).and_then(|port| route(port, 1)) {
                Some((owner, reg)) => self.read_port(owner, reg, 1),
                None => 0xff,
            };
            value |= byte << (8 * i);
        }
        value
    }

    /// OUT of 1, 2 or 4 bytes.
    pub fn pio_write(&mut self, now_ns: u64, _cpu: usize, port: u16, size: u8, value: u32) {
        self.catch_up(now_ns);
        if let Some((owner, reg)) = route(port, size) {
            return self.write_port(owner, reg, size, value & open_bus(size) as u32);
        }
        for (i, byte) in value
            .to_le_bytes()
            .into_iter()
            .enumerate()
            .take(usize::from(size))
        {
            if let Some((owner, reg)) = port.checked_add(i as u16).and_then(|port| route(port, 1)) {
                self.write_port(owner, reg, 1, byte.into());
            }
        }
    }

    /// A load of 1, 2, 4 or 8 bytes from guest-physical memory that is not RAM. Where nobody answers, all ones.
    pub fn mmio_read(&mut self, now_ns: u64, cpu: usize, gpa: u64, size: u8) -> u64 {
        self.catch_up(now_ns);
        // Registers are 32 bits wide and 16 bytes apart; what lies between reads 0.
        let (reg, skip) = ((gpa & 0xff0) as u16, gpa & 0xf);
        let Some(lapic) = self.lapics.get_mut(cpu) else {
            return open_bus(size);
        };
        let value = if lapic.decodes(gpa) {
            lapic.read(self.now_ns, reg, 4, &mut self.out)
        } else if gpa & !0xfff == IOAPIC_BASE {
            self.ioapic.read(self.now_ns, reg & 0xff, 4, &mut self.out)
        } else {
            return open_bus(size);
        };
        self.settle();
        u64::from(value).checked_shr(8 * skip as u32).unwrap_or(0) & open_bus(size)
    }

    /// A store of 1, 2, 4 or 8 bytes to guest-physical memory that is not RAM.
    ///
    /// The APICs take aligned stores of 32 bits and the lower half of 64 bits (Intel SDM volume 3, 11.4.1: others are
    /// undefined; here they are lost); the IO-APIC's index takes a byte as well.
    pub fn mmio_write(&mut self, now_ns: u64, cpu: usize, gpa: u64, size: u8, value: u64) {
        self.catch_up(now_ns);
        let Some(lapic) = self.lapics.get_mut(cpu) else {
            return;
        };
        let reg = (gpa & 0xfff) as u16;
        if lapic.decodes(gpa) {
            if reg & 0xf == 0 && size >= 4 {
                lapic.write(self.now_ns, reg, 4, value as u32, &mut self.out);
            }
        } else if gpa & !0xfff == IOAPIC_BASE {
            self.pit.advance(self.now_ns, &mut self.out);
            self.carry();
            let reg = reg & 0xff;
            if reg == crate::ioapic::IOREGSEL || (reg == crate::ioapic::IOWIN && size >= 4) {
                self.ioapic
                    .write(self.now_ns, reg, 4, value as u32, &mut self.out);
            }
        }
        self.settle();
    }

    /// RDMSR of a register that lives on the board: IA32_APIC_BASE, IA32_TSC_DEADLINE. `None`: no such register.
    pub fn msr_read(&mut self, now_ns: u64, cpu: usize, msr: u32) -> Option<u64> {
        self.catch_up(now_ns);
        let lapic = self.lapics.get_mut(cpu)?;
        let value = match msr {
            IA32_APIC_BASE => lapic.base(),
            IA32_TSC_DEADLINE => lapic.tsc_deadline(self.now_ns, &mut self.out),
            _ => return None,
        };
        self.settle();
        Some(value)
    }

    /// WRMSR of such a register. `false`: no such register, or a value that it refuses.
    pub fn msr_write(&mut self, now_ns: u64, cpu: usize, msr: u32, value: u64) -> bool {
        self.catch_up(now_ns);
        let Some(lapic) = self.lapics.get_mut(cpu) else {
            return false;
        };
        let taken = match msr {
            IA32_APIC_BASE => lapic.set_base(value),
            IA32_TSC_DEADLINE => {
                lapic.set_tsc_deadline(self.now_ns, value, &mut self.out);
                true
            }
            _ => false,
        };
        self.settle();
        taken
    }

    /// MOV from CR8: 0 to 15.
    pub fn tpr_read(&mut self, cpu: usize) -> u64 {
        self.lapics.get(cpu).map_or(0, Lapic::cr8)
    }

    /// MOV to CR8.
    pub fn tpr_write(&mut self, now_ns: u64, cpu: usize, value: u64) {
        self.catch_up(now_ns);
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            lapic.set_cr8(value);
            self.find_pending();
        }
    }

    /// Brings the board up to `now_ns`: all timers that ran out meanwhile take effect, in order.
    pub fn advance(&mut self, now_ns: u64) {
        self.catch_up(now_ns);
    }

    /// The next guest time at which a device changes an interrupt line by itself, or sends an interrupt. `None`:
    /// nothing will ever happen without somebody doing something.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.deadline_ns
    }

    /// Whether a maskable interrupt waits for this processor.
    pub fn interrupt_pending(&self, cpu: usize) -> bool {
        self.pending.get(cpu).copied().unwrap_or(false)
    }

    /// The acknowledge cycle: the vector, or `None` where nothing waits any more.
    pub fn acknowledge(&mut self, now_ns: u64, cpu: usize) -> Option<u8> {
        self.catch_up(now_ns);
        if !self.interrupt_pending(cpu) {
            return None;
        }
        let vector = match self.lapics.get_mut(cpu)?.acknowledge() {
            Some(vector) => vector,
            None => self.pic.acknowledge(),
        };
        self.settle();
        Some(vector)
    }

    /// Whether a non-maskable interrupt waits for this processor.
    pub fn nmi_pending(&self, cpu: usize) -> bool {
        self.inputs.get(cpu).is_some_and(|inputs| inputs.nmi)
    }

    /// Takes it: whether there was one.
    pub fn take_nmi(&mut self, cpu: usize) -> bool {
        self.inputs
            .get_mut(cpu)
            .is_some_and(|inputs| std::mem::take(&mut inputs.nmi))
    }

    /// INIT and startup messages since the last call, in the order of processors.
    pub fn take_ipis(&mut self) -> Vec<Ipi> {
        let mut ipis = Vec::new();
        for (cpu, inputs) in self.inputs.iter_mut().enumerate() {
            if std::mem::take(&mut inputs.init) {
                ipis.push(Ipi::Init { cpu });
            }
            if let Some(vector) = inputs.startup.take() {
                ipis.push(Ipi::Startup { cpu, vector });
            }
        }
        ipis
    }

    /// Bytes that the guest has sent over COM1 since the last call.
    pub fn console_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.console)
    }

    /// Follows COM1 from here on without the board.
    pub fn console_tap(&self) -> ConsoleTap {
        self.serial.tap()
    }

    /// Bytes arrive at COM1: how many it took. The rest should be offered again later.
    pub fn console_input(&mut self, now_ns: u64, bytes: &[u8]) -> usize {
        self.catch_up(now_ns);
        let taken = self.serial.receive(self.now_ns, bytes, &mut self.out);
        self.settle();
        taken
    }

    /// Somebody presses the power button of the machine.
    pub fn press_power_button(&mut self, now_ns: u64) {
        self.catch_up(now_ns);
        self.pm.press_power_button(&mut self.out);
        self.settle();
    }

    /// How the guest ended the machine, if it did: once.
    pub fn take_power(&mut self) -> Option<Power> {
        self.out.power.take()
    }

    /// The state, complete and without changing anything.
    pub fn save(&self) -> BoardState {
        let Board {
            config,
            now_ns,
            serial,
            pic,
            pit,
            lapics,
            ioapic,
            rtc,
            i8042,
            pci,
            pm,
            reset,
            debug,
            inputs,
            out,
            // Derived.
            pending: _,
            serial_deadline_ns: _,
            other_deadline_ns: _,
            deadline_ns: _,
        } = self;
        let Effects {
            lines,
            messages,
            eois,
            console,
            power,
        } = out;
        assert!(
            lines.is_empty() && messages.is_empty() && eois.is_empty(),
            "effects are carried within a call"
        );
        BoardState {
            config: *config,
            now_ns: *now_ns,
            serial: serial.save(),
            pic: pic.save(),
            pit: pit.save(),
            lapics: lapics.iter().map(Lapic::save).collect(),
            ioapic: ioapic.save(),
            rtc: rtc.save(),
            i8042: i8042.save(),
            pci: pci.save(),
            pm: pm.save(),
            reset: reset.save(),
            debug: debug.save(),
            inputs: inputs.clone(),
            console: console.clone(),
            power: *power,
        }
    }

    /// Takes a state over, of whatever configuration. Nothing happens by it: no line moves, no timer is armed that
    /// was not. A state that no board can have been in is refused, and the board stays as it was.
    pub fn restore(&mut self, state: BoardState) -> Result<(), BadState> {
        let mut board = Board::new(&state.config);
        let BoardState {
            config,
            now_ns,
            serial,
            pic,
            pit,
            lapics,
            ioapic,
            rtc,
            i8042,
            pci,
            pm,
            reset,
            debug,
            inputs,
            console,
            power,
        } = state;
        let cpus = board.config.cpus;
        ensure(
            config == board.config,
            "board",
            "a number of processors out of range",
        )?;
        ensure(
            lapics.len() == cpus && inputs.len() == cpus,
            "board",
            "not one local APIC a processor",
        )?;
        board.now_ns = now_ns;
        board.serial.restore(&serial)?;
        board.pic.restore(&pic)?;
        board.pit.restore(&pit)?;
        for (lapic, state) in board.lapics.iter_mut().zip(&lapics) {
            lapic.restore(state)?;
        }
        board.ioapic.restore(&ioapic)?;
        board.rtc.restore(&rtc)?;
        board.i8042.restore(&i8042)?;
        board.pci.restore(&pci)?;
        board.pm.restore(&pm)?;
        board.reset.restore(&reset)?;
        board.debug.restore(&debug)?;
        board.inputs = inputs;
        board.out.console = console;
        board.out.power = power;
        board.find_pending();
        board.find_deadline();
        *self = board;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
