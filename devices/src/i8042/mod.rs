//! The keyboard controller (IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device
//! Controller") with a keyboard on it that is never touched (same book, "Keyboards (101- and 102-Key)").
//!
//! Modelled: all commands of the PS/2 controller, both interrupts, the reset line, the A20 bit (stored: the board
//! never masks address line 20), the keyboard's commands and their answers, an auxiliary port with nothing on it.
//!
//! Deliberately not: keys, scan code sets beyond their number, the time that a byte takes on the wires.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::device::{BadState, Device, Effects, Power, ResetBy, ensure};
use crate::map::{IRQ_AUX, IRQ_KEYBOARD};

/// Registers as the board numbers them: port 0x60 and port 0x64.
pub(crate) const DATA: u16 = 0;
pub(crate) const COMMAND: u16 = 1;

const STATUS_OBF: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_AUX: u8 = 0x20;
const STATUS_TIMEOUT: u8 = 0x40;

/// The controller command byte, which is byte 0 of its RAM.
const CTR_KEYBOARD_IRQ: u8 = 0x01;
const CTR_AUX_IRQ: u8 = 0x02;
const CTR_SYSTEM: u8 = 0x04;
const CTR_KEYBOARD_OFF: u8 = 0x10;
const CTR_AUX_OFF: u8 = 0x20;
const CTR_TRANSLATE: u8 = 0x40;

/// The output port.
const OUT_NOT_RESET: u8 = 0x01;
const OUT_A20: u8 = 0x02;
const OUT_KEYBOARD_IRQ: u8 = 0x10;
const OUT_AUX_IRQ: u8 = 0x20;

const RAM_BYTES: usize = 32;
/// What the keyboard and the controller hold back of their answers; a guest that never reads loses the rest.
const QUEUE_BYTES: usize = 16;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;

/// Where a byte comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    Controller,
    Keyboard,
    Aux,
    /// The controller's own report that nothing answers at the auxiliary port.
    AuxTimeout,
}

impl Source {
    fn is_aux(self) -> bool {
        matches!(self, Source::Aux | Source::AuxTimeout)
    }
}

/// The saved state of controller and keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    ram: [u8; RAM_BYTES],
    output_port: u8,
    /// The self-test has passed since power-on.
    tested: bool,
    /// The last write went to the command port.
    last_was_command: bool,
    /// A controller command that waits for its data byte.
    command: Option<u8>,
    /// The output buffer.
    output: Option<(u8, Source)>,
    waiting: VecDeque<(u8, Source)>,
    keyboard: Keyboard,
    keyboard_line: bool,
    aux_line: bool,
}

/// The keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Keyboard {
    /// A command that waits for its parameter.
    command: Option<u8>,
    scan_set: u8,
    last: u8,
}

impl Keyboard {
    /// The answer to a byte sent to the keyboard.
    fn answer(&mut self, byte: u8) -> Vec<u8> {
        let answer = match self.command.take() {
            Some(0xf0) if byte == 0 => vec![ACK, self.scan_set],
            Some(0xf0) if byte > 3 => vec![RESEND],
            Some(0xf0) => {
                self.scan_set = byte;
                vec![ACK]
            }
            // Indicators and typematic rate change nothing that can be seen.
            Some(_) if byte < 0x80 => vec![ACK],
            // A command byte instead of a parameter ends the command before.
            _ => self.start(byte),
        };
        self.last = *answer.last().unwrap_or(&self.last);
        answer
    }

    fn start(&mut self, byte: u8) -> Vec<u8> {
        match byte {
            0xed | 0xf0 | 0xf3 => {
                self.command = Some(byte);
                vec![ACK]
            }
            0xee => vec![0xee],
            0xf2 => vec![ACK, 0xab, 0x83],
            0xf4..=0xfa => vec![ACK],
            0xfe => vec![self.last],
            0xff => {
                self.scan_set = 2;
                vec![ACK, 0xaa]
            }
            _ => vec![RESEND],
        }
    }
}

/// The controller.
pub(crate) struct I8042 {
    s: I8042State,
}

impl I8042 {
    /// As firmware leaves it: tested, keyboard on and translated to set 1, auxiliary port off.
    pub fn new() -> I8042 {
        let mut ram = [0; RAM_BYTES];
        ram[0] = CTR_KEYBOARD_IRQ | CTR_SYSTEM | CTR_AUX_OFF | CTR_TRANSLATE;
        let s = I8042State {
            ram,
            output_port: 0xcc | OUT_NOT_RESET | OUT_A20,
            tested: true,
            last_was_command: false,
            command: None,
            output: None,
            waiting: VecDeque::new(),
            keyboard: Keyboard {
                command: None,
                scan_set: 2,
                last: 0,
            },
            keyboard_line: false,
            aux_line: false,
        };
        I8042 { s }
    }

    fn status(&self) -> u8 {
        let mut status = STATUS_UNLOCKED;
        match self.s.output {
            Some((_, Source::AuxTimeout)) => status |= STATUS_OBF | STATUS_AUX | STATUS_TIMEOUT,
            Some((_, Source::Aux)) => status |= STATUS_OBF | STATUS_AUX,
            Some(_) => status |= STATUS_OBF,
            None => {}
        }
        if self.s.tested {
            status |= STATUS_SYSTEM;
        }
        if self.s.last_was_command {
            status |= STATUS_COMMAND;
        }
        status
    }

    fn queue(&mut self, byte: u8, source: Source) {
        if self.s.waiting.len() < QUEUE_BYTES {
            self.s.waiting.push_back((byte, source));
        }
    }

    /// Fills the output buffer with the first byte that may come: the controller's own answers first.
    fn fill(&mut self) {
        if self.s.output.is_some() {
            return;
        }
        let ctr = self.s.ram[0];
        let may_come = |source: Source| match source {
            Source::Controller | Source::AuxTimeout => true,
            Source::Keyboard => ctr & CTR_KEYBOARD_OFF == 0,
            Source::Aux => ctr & CTR_AUX_OFF == 0,
        };
        let own = self
            .s
            .waiting
            .iter()
            .position(|&(_, source)| source == Source::Controller);
        let next = own.or_else(|| {
            self.s
                .waiting
                .iter()
                .position(|&(_, source)| may_come(source))
        });
        if let Some((byte, source)) = next.and_then(|at| self.s.waiting.remove(at)) {
            let translate = source == Source::Keyboard && ctr & CTR_TRANSLATE != 0;
            self.s.output = Some((if translate { to_set_1(byte) } else { byte }, source));
        }
    }

    fn drive(&mut self, out: &mut Effects) {
        let ctr = self.s.ram[0];
        let (full, aux) = self
            .s
            .output
            .map_or((false, false), |(_, source)| (true, source.is_aux()));
        let keyboard_line = full && !aux && ctr & CTR_KEYBOARD_IRQ != 0;
        let aux_line = full && aux && ctr & CTR_AUX_IRQ != 0;
        if keyboard_line != self.s.keyboard_line {
            self.s.keyboard_line = keyboard_line;
            out.line(IRQ_KEYBOARD, keyboard_line);
        }
        if aux_line != self.s.aux_line {
            self.s.aux_line = aux_line;
            out.line(IRQ_AUX, aux_line);
        }
    }

    fn write_command(&mut self, command: u8, out: &mut Effects) {
        self.s.command = None;
        match command {
            0x20..=0x3f => self.queue(self.s.ram[usize::from(command & 0x1f)], Source::Controller),
            0x60..=0x7f | 0xd1..=0xd4 => self.s.command = Some(command),
            // No password is installed.
            0xa4 => self.queue(0xf1, Source::Controller),
            0xa7 => self.s.ram[0] |= CTR_AUX_OFF,
            0xa8 => self.s.ram[0] &= !CTR_AUX_OFF,
            // Tests of the two ports: no fault.
            0xa9 | 0xab => self.queue(0x00, Source::Controller),
            0xaa => {
                self.s.tested = true;
                self.queue(0x55, Source::Controller);
            }
            0xad => self.s.ram[0] |= CTR_KEYBOARD_OFF,
            0xae => self.s.ram[0] &= !CTR_KEYBOARD_OFF,
            0xc0 => self.queue(0x80, Source::Controller),
            0xd0 => {
                let irqs = match self.s.output {
                    Some((_, source)) if source.is_aux() => OUT_AUX_IRQ,
                    Some(_) => OUT_KEYBOARD_IRQ,
                    None => 0,
                };
                self.queue(
                    self.s.output_port & !(OUT_KEYBOARD_IRQ | OUT_AUX_IRQ) | irqs,
                    Source::Controller,
                );
            }
            // Pulses those of the output port's low bits that are 0: bit 0 is the processor's reset.
            0xf0..=0xff if command & OUT_NOT_RESET == 0 => {
                out.end(Power::Reset {
                    by: ResetBy::KeyboardController,
                });
            }
            _ => {}
        }
    }

    fn write_data(&mut self, byte: u8, out: &mut Effects) {
        match self.s.command.take() {
            Some(command @ 0x60..=0x7f) => {
                self.s.ram[usize::from(command & 0x1f)] = byte;
                if command == 0x60 {
                    self.s.tested = byte & CTR_SYSTEM != 0;
                }
            }
            Some(0xd1) => {
                self.s.output_port = byte;
                if byte & OUT_NOT_RESET == 0 {
                    out.end(Power::Reset {
                        by: ResetBy::KeyboardController,
                    });
                }
            }
            // As if the keyboard or the auxiliary device had sent it, but even while they are off.
            Some(0xd2) => self.queue(byte, Source::Controller),
            Some(0xd3) => {
                self.s.ram[0] &= !CTR_AUX_OFF;
                self.queue(byte, Source::Aux);
            }
            Some(_) => self.queue(RESEND, Source::AuxTimeout),
            None => {
                // A byte for the keyboard switches it on.
                self.s.ram[0] &= !CTR_KEYBOARD_OFF;
                for answer in self.s.keyboard.answer(byte) {
                    self.queue(answer, Source::Keyboard);
                }
            }
        }
    }
}

/// The controller's translation, for the bytes that this keyboard sends: the second byte of its ID is the only
/// one that it changes.
fn to_set_1(byte: u8) -> u8 {
    match byte {
        0x83 => 0x41,
        0x01 => 0x43,
        0x02 => 0x41,
        0x03 => 0x3f,
        _ => byte,
    }
}

impl Device for I8042 {
    type State = I8042State;

    fn read(&mut self, _now_ns: u64, reg: u16, _size: u8, out: &mut Effects) -> u32 {
        if reg == COMMAND {
            return self.status().into();
        }
        let byte = self.s.output.take().map_or(0, |(byte, _)| byte);
        // The line falls with the read, and rises again with the next byte: an edge.
        self.drive(out);
        self.fill();
        self.drive(out);
        byte.into()
    }

    fn write(&mut self, _now_ns: u64, reg: u16, _size: u8, value: u32, out: &mut Effects) {
        let value = value as u8;
        self.s.last_was_command = reg == COMMAND;
        match reg {
            DATA => self.write_data(value, out),
            _ => self.write_command(value, out),
        }
        self.fill();
        self.drive(out);
    }

    fn save(&self) -> I8042State {
        let I8042 { s } = self;
        s.clone()
    }

    fn restore(&mut self, state: &I8042State) -> Result<(), BadState> {
        ensure(
            state.waiting.len() <= QUEUE_BYTES,
            "keyboard controller",
            "more bytes than its queue holds",
        )?;
        self.s = state.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
