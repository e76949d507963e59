use super::*;

fn r(ioapic: &mut Ioapic, select: u8) -> u32 {
    let mut out = Effects::default();
    ioapic.write(0, IOREGSEL, 4, select.into(), &mut out);
    ioapic.read(0, IOWIN, 4, &mut out)
}

fn w(ioapic: &mut Ioapic, select: u8, value: u32) -> Vec<Message> {
    let mut out = Effects::default();
    ioapic.write(0, IOREGSEL, 4, select.into(), &mut out);
    ioapic.write(0, IOWIN, 4, value, &mut out);
    out.messages.into()
}

fn line(ioapic: &mut Ioapic, pin: usize, level: bool) -> usize {
    let mut out = Effects::default();
    ioapic.set_line(pin, level, &mut out);
    out.messages.len()
}

fn eoi(ioapic: &mut Ioapic, vector: u8) -> usize {
    let mut out = Effects::default();
    ioapic.end_of_interrupt(vector, &mut out);
    out.messages.len()
}

/// Selects of the low half of a pin's entry.
fn low(pin: u8) -> u8 {
    FIRST_ENTRY + 2 * pin
}

#[test]
fn identification_and_reset_values() {
    let mut io = Ioapic::new();
    assert_eq!(r(&mut io, VERSION), 0x0017_0011);
    w(&mut io, ID, 0xff00_0000);
    assert_eq!(
        (r(&mut io, ID), r(&mut io, ARBITRATION)),
        (0x0f00_0000, 0x0f00_0000)
    );
    for pin in 0..PINS as u8 {
        assert_eq!(
            (r(&mut io, low(pin)), r(&mut io, low(pin) + 1)),
            (0x1_0000, 0)
        );
    }
    assert_eq!(r(&mut io, LAST_ENTRY + 1), 0);
    w(&mut io, low(4), 0xffff_ffff);
    assert_eq!(
        r(&mut io, low(4)),
        0x1_afff,
        "status and remote IRR are read-only"
    );
}

#[test]
fn an_edge_sends_once_and_a_masked_edge_is_lost() {
    let mut io = Ioapic::new();
    assert_eq!(line(&mut io, 4, true), 0);
    assert_eq!(w(&mut io, low(4), 0x34).len(), 0);
    assert_eq!(line(&mut io, 4, false), 0);
    assert_eq!(line(&mut io, 4, true), 1);
    assert_eq!(line(&mut io, 4, true), 0);
}

#[test]
fn the_message_says_where_and_what() {
    let mut io = Ioapic::new();
    w(&mut io, low(9) + 1, 0x0300_0000);
    w(&mut io, low(9), 0x8951);
    let mut out = Effects::default();
    io.set_line(9, true, &mut out);
    let message = Message {
        to: Destination::Logical(3),
        delivery: Delivery::LowestPriority,
        vector: 0x51,
        level: true,
    };
    assert_eq!(out.messages, [message]);
}

#[test]
fn a_level_asks_again_after_its_end_while_it_is_up() {
    let mut io = Ioapic::new();
    w(&mut io, low(9), 0x8051);
    assert_eq!(line(&mut io, 9, true), 1);
    assert_eq!(r(&mut io, low(9)), 0xc051);
    assert_eq!(line(&mut io, 9, false), 0);
    assert_eq!(line(&mut io, 9, true), 0, "remote IRR holds it");
    assert_eq!(eoi(&mut io, 0x50), 0, "somebody else's");
    assert_eq!(eoi(&mut io, 0x51), 1);
    assert_eq!(line(&mut io, 9, false), 0);
    assert_eq!(eoi(&mut io, 0x51), 0);
    assert_eq!(r(&mut io, low(9)), 0x8051);
}

#[test]
fn unmasking_a_level_that_is_up_sends() {
    let mut io = Ioapic::new();
    w(&mut io, low(9), 0x1_8051);
    assert_eq!(line(&mut io, 9, true), 0);
    assert_eq!(w(&mut io, low(9), 0x8051).len(), 1);
    // Mask, switch to edge and back: Linux's way out of a stuck remote IRR.
    w(&mut io, low(9), 0x1_0051);
    assert_eq!(r(&mut io, low(9)), 0x1_0051);
    assert_eq!(w(&mut io, low(9), 0x8051).len(), 1);
}
