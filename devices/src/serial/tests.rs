use super::*;
use crate::map::COM1;

struct Port {
    serial: Serial,
    out: Effects,
    now_ns: u64,
}

impl Port {
    fn new() -> Port {
        let mut port = Port {
            serial: Serial::new(4),
            out: Effects::default(),
            now_ns: 0,
        };
        port.w(MCR, MCR_OUT2);
        port
    }
    fn r(&mut self, reg: u16) -> u8 {
        self.serial.read(self.now_ns, reg, 1, &mut self.out) as u8
    }
    fn w(&mut self, reg: u16, value: u8) {
        self.serial
            .write(self.now_ns, reg, 1, value.into(), &mut self.out);
    }
    fn lines(&mut self) -> Vec<bool> {
        self.out.lines.drain(..).map(|(_, level)| level).collect()
    }
    fn receive(&mut self, bytes: &[u8]) -> usize {
        self.serial.receive(self.now_ns, bytes, &mut self.out)
    }
}

#[test]
fn a_written_byte_leaves_at_once_and_the_transmitter_is_empty_again() {
    let mut p = Port::new();
    p.w(DATA, b'x');
    assert_eq!(p.out.console, b"x");
    assert_eq!(p.r(LSR), LSR_THRE | LSR_TEMT);
}

#[test]
fn dlab_reaches_the_divisor_and_not_the_line() {
    let mut p = Port::new();
    p.w(LCR, LCR_DLAB | 3);
    p.w(DATA, 0x34);
    p.w(IER, 0x12);
    assert_eq!((p.r(DATA), p.r(IER)), (0x34, 0x12));
    p.w(LCR, 3);
    assert_eq!(p.r(IER), 0);
    assert!(p.out.console.is_empty());
}

#[test]
fn thre_interrupt_comes_on_enabling_goes_on_reading_iir_and_pulses_on_writing() {
    let mut p = Port::new();
    p.w(IER, IER_THRE);
    assert_eq!(p.lines(), [true]);
    p.w(DATA, 1);
    assert_eq!(
        p.lines(),
        [false, true],
        "an edge for an edge-triggered controller"
    );
    assert_eq!(p.r(IIR_FCR), IIR_THRE);
    assert_eq!(p.lines(), [false]);
    assert_eq!(p.r(IIR_FCR), IIR_NONE);
    // Linux's test for a broken THRE interrupt: off and on again must raise it.
    p.w(IER, 0);
    p.w(IER, IER_THRE);
    assert_eq!(p.r(IIR_FCR), IIR_THRE);
}

#[test]
fn out2_and_loopback_gate_the_line() {
    let mut p = Port::new();
    p.w(MCR, 0);
    p.w(IER, IER_THRE);
    assert_eq!(p.lines(), []);
    p.w(MCR, MCR_OUT2);
    assert_eq!(p.lines(), [true]);
    p.w(MCR, MCR_OUT2 | MCR_LOOP);
    assert_eq!(p.lines(), [false]);
}

#[test]
fn loopback_crosses_lines_and_data_as_linux_tests_it() {
    let mut p = Port::new();
    assert_eq!(p.r(MSR) & 0xf0, 0xb0);
    p.w(MCR, MCR_LOOP | 0x0a);
    assert_eq!(p.r(MSR) & 0xf0, 0x90);
    p.w(DATA, 0x5a);
    assert!(p.out.console.is_empty());
    assert_eq!(p.r(LSR) & LSR_DR, LSR_DR);
    assert_eq!(p.r(DATA), 0x5a);
    assert_eq!(p.receive(b"zz"), 0, "the far end is cut off");
}

#[test]
fn modem_deltas_clear_on_reading_and_ri_counts_only_when_it_ends() {
    let mut p = Port::new();
    p.w(MCR, MCR_LOOP | MCR_RTS | MCR_DTR | MCR_OUT2);
    assert_eq!(
        p.r(MSR),
        0xb0,
        "the same lines, crossed, as before: no change"
    );
    p.w(MCR, MCR_LOOP | MCR_RTS | MCR_DTR | MCR_OUT2 | MCR_OUT1);
    assert_eq!(p.r(MSR), 0xf0);
    p.w(MCR, MCR_LOOP | MCR_DTR | MCR_OUT2);
    assert_eq!(p.r(MSR), 0xa0 | MSR_TERI | 1);
    assert_eq!(p.r(MSR), 0xa0);
}

#[test]
fn fifo_is_detected_and_has_sixteen_places() {
    let mut p = Port::new();
    assert_eq!(p.r(IIR_FCR) & IIR_FIFO, 0);
    assert_eq!(p.receive(b"ab"), 1, "one holding register without the FIFO");
    // A 16750 would show bit 5 for its 64-byte mode.
    p.w(IIR_FCR, FCR_ENABLE | 0x20);
    assert_eq!(p.r(IIR_FCR) >> 5, 6);
    assert_eq!(p.r(LSR) & LSR_DR, 0, "changing the FIFO enable empties it");
    assert_eq!(p.receive(&[7; 40]), 16);
    assert_eq!(p.receive(&[7; 40]), 0);
}

#[test]
fn overrun_in_loopback_is_reported_once() {
    let mut p = Port::new();
    p.w(MCR, MCR_LOOP);
    p.w(DATA, 1);
    p.w(DATA, 2);
    assert_eq!(p.r(LSR) & (LSR_OE | LSR_DR), LSR_OE | LSR_DR);
    assert_eq!(p.r(LSR) & (LSR_OE | LSR_DR), LSR_DR);
    assert_eq!(p.r(DATA), 1);
}

#[test]
fn trigger_level_and_character_timeout() {
    let mut p = Port::new();
    p.w(LCR, LCR_DLAB);
    p.w(DATA, 1);
    p.w(IER, 0);
    p.w(LCR, 3);
    p.w(IIR_FCR, FCR_ENABLE | 0x80);
    p.w(IER, IER_RDA);
    p.now_ns = 1000;
    assert_eq!(p.receive(b"1234567"), 7);
    assert_eq!(p.lines(), [], "the trigger is at eight");
    // 4 characters of 10 bits at 115200 baud: 347,222.2 ns.
    assert_eq!(p.serial.deadline_ns(), Some(1000 + 347_223));
    p.serial.advance(1000 + 347_222, &mut p.out);
    assert_eq!(p.lines(), []);
    p.serial.advance(1000 + 347_223, &mut p.out);
    assert_eq!(p.lines(), [true]);
    assert_eq!(p.serial.deadline_ns(), None);
    assert_eq!(p.r(IIR_FCR), IIR_TIMEOUT | IIR_FIFO);
    p.now_ns = 400_000;
    assert_eq!(p.r(DATA), b'1');
    assert_eq!(p.lines(), [false]);
    assert_eq!(
        p.serial.deadline_ns(),
        Some(400_000 + 347_223),
        "six are left"
    );
    assert_eq!(p.receive(b"89"), 2);
    assert_eq!(p.r(IIR_FCR), IIR_RDA | IIR_FIFO);
}

#[test]
fn the_tap_hears_what_the_port_sends() {
    let mut p = Port::new();
    let mut tap = ConsoleTap::new();
    tap.write(COM1 + MCR, 1, MCR_OUT2.into());
    let mut heard = Vec::new();
    let mut random = crate::contract::Lcg(7);
    for _ in 0..20_000 {
        let (reg, value) = (random.below(8) as u16, random.next() as u8);
        p.w(reg, value);
        heard.extend_from_slice(&tap.write(COM1 + reg, 1, value.into()));
        // One that begins in the middle hears the same from there on.
        assert_eq!(tap, p.serial.tap());
        assert_eq!(tap, ConsoleTap::resume(tap.dlab(), tap.looped()));
    }
    assert!(heard.len() > 500, "{}", heard.len());
    assert_eq!(heard, p.out.console);
}

#[test]
fn the_tap_splits_wide_writes() {
    let mut tap = ConsoleTap::new();
    assert_eq!(&*tap.write(COM1 - 2, 4, 0x0141_ffff), b"A");
    assert_eq!(
        &*tap.write(COM1, 4, 0x8300_0042),
        b"B",
        "LCR comes after the data"
    );
    assert_eq!(&*tap.write(COM1, 1, 0x43), b"");
    assert_eq!(&*tap.write(0xffff, 4, 0), b"");
}
