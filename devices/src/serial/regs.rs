//! Register bits of the 16550 (PC16550D data sheet, table II "Summary of registers").

/// Offsets. 0 is RBR/THR, or the low half of the divisor while LCR.DLAB is set.
pub const DATA: u16 = 0;
pub const IER: u16 = 1;
pub const IIR_FCR: u16 = 2;
pub const LCR: u16 = 3;
pub const MCR: u16 = 4;
pub const LSR: u16 = 5;
pub const MSR: u16 = 6;
pub const SCR: u16 = 7;

pub const IER_RDA: u8 = 1 << 0;
pub const IER_THRE: u8 = 1 << 1;
pub const IER_LINE: u8 = 1 << 2;
pub const IER_MODEM: u8 = 1 << 3;
pub const IER_WRITABLE: u8 = 0x0f;

pub const IIR_NONE: u8 = 0x01;
pub const IIR_MODEM: u8 = 0x00;
pub const IIR_THRE: u8 = 0x02;
pub const IIR_RDA: u8 = 0x04;
pub const IIR_LINE: u8 = 0x06;
pub const IIR_TIMEOUT: u8 = 0x0c;
pub const IIR_FIFO: u8 = 0xc0;

pub const FCR_ENABLE: u8 = 1 << 0;
pub const FCR_CLEAR_RX: u8 = 1 << 1;
pub const FCR_TRIGGER: u8 = 0xc0;
/// What stays of a write: the clear bits act once.
pub const FCR_STORED: u8 = 0xc9;

pub const LCR_WORD_LENGTH: u8 = 0x03;
pub const LCR_STOP: u8 = 1 << 2;
pub const LCR_PARITY: u8 = 1 << 3;
pub const LCR_DLAB: u8 = 1 << 7;

pub const MCR_DTR: u8 = 1 << 0;
pub const MCR_RTS: u8 = 1 << 1;
pub const MCR_OUT1: u8 = 1 << 2;
pub const MCR_OUT2: u8 = 1 << 3;
pub const MCR_LOOP: u8 = 1 << 4;
pub const MCR_WRITABLE: u8 = 0x1f;

pub const LSR_DR: u8 = 1 << 0;
pub const LSR_OE: u8 = 1 << 1;
pub const LSR_THRE: u8 = 1 << 5;
pub const LSR_TEMT: u8 = 1 << 6;

/// The low four bits of MSR say which of the high four changed; RI's only when it goes away.
pub const MSR_TERI: u8 = 1 << 2;
pub const MSR_CTS: u8 = 1 << 4;
pub const MSR_DSR: u8 = 1 << 5;
pub const MSR_RI: u8 = 1 << 6;
pub const MSR_DCD: u8 = 1 << 7;
