use super::*;

struct Kbc {
    kbc: I8042,
    out: Effects,
}

impl Kbc {
    fn new() -> Kbc {
        Kbc {
            kbc: I8042::new(),
            out: Effects::default(),
        }
    }
    fn status(&mut self) -> u8 {
        self.kbc.read(0, COMMAND, 1, &mut self.out) as u8
    }
    fn data(&mut self) -> u8 {
        self.kbc.read(0, DATA, 1, &mut self.out) as u8
    }
    fn command(&mut self, command: u8) -> &mut Kbc {
        self.kbc.write(0, COMMAND, 1, command.into(), &mut self.out);
        self
    }
    fn w(&mut self, data: u8) -> &mut Kbc {
        self.kbc.write(0, DATA, 1, data.into(), &mut self.out);
        self
    }
    /// Everything that can be read now, with the status that was shown for it.
    fn drain(&mut self) -> Vec<(u8, u8)> {
        let mut bytes = Vec::new();
        loop {
            let status = self.status();
            if status & STATUS_OBF == 0 {
                return bytes;
            }
            bytes.push((self.data(), status & (STATUS_AUX | STATUS_TIMEOUT)));
        }
    }
}

#[test]
fn linux_probes_the_controller() {
    let mut k = Kbc::new();
    k.drain();
    let ctr = k.command(0x20).data();
    assert_eq!(ctr, 0x65);
    k.command(0x60)
        .w(ctr & !CTR_KEYBOARD_IRQ | CTR_KEYBOARD_OFF);
    assert_eq!(k.command(0x20).data(), 0x74);
    assert_eq!(k.command(0xaa).data(), 0x55);
    // The auxiliary port's loop, and its enable bit.
    k.command(0xd3).w(0x5a);
    assert_eq!(k.drain(), [(0x5a, STATUS_AUX)]);
    k.command(0xa7);
    assert_eq!(k.command(0x20).data() & CTR_AUX_OFF, CTR_AUX_OFF);
    k.command(0xa8);
    assert_eq!(k.command(0x20).data() & CTR_AUX_OFF, 0);
    assert_eq!(k.command(0xa9).data(), 0);
    assert_eq!(k.status() & (STATUS_OBF | STATUS_SYSTEM), STATUS_SYSTEM);
}

#[test]
fn the_keyboard_answers() {
    let mut k = Kbc::new();
    assert_eq!(k.w(0xff).drain(), [(0xfa, 0), (0xaa, 0)]);
    assert_eq!(
        k.w(0xf2).drain(),
        [(0xfa, 0), (0xab, 0), (0x41, 0)],
        "translated"
    );
    k.command(0x60).w(CTR_KEYBOARD_IRQ);
    assert_eq!(k.w(0xf2).drain(), [(0xfa, 0), (0xab, 0), (0x83, 0)]);
    assert_eq!(k.w(0xed).w(0x07).drain(), [(0xfa, 0), (0xfa, 0)]);
    assert_eq!(k.w(0xf0).w(0).drain(), [(0xfa, 0), (0xfa, 0), (2, 0)]);
    assert_eq!(k.w(0xee).drain(), [(0xee, 0)]);
    assert_eq!(k.w(0xfe).drain(), [(0xee, 0)]);
    assert_eq!(k.w(0x55).drain(), [(0xfe, 0)]);
}

#[test]
fn nothing_is_on_the_auxiliary_port() {
    let mut k = Kbc::new();
    assert_eq!(
        k.command(0xd4).w(0xf2).drain(),
        [(0xfe, STATUS_AUX | STATUS_TIMEOUT)]
    );
}

#[test]
fn each_byte_is_an_edge_on_its_line() {
    let mut k = Kbc::new();
    k.w(0xff);
    k.data();
    k.data();
    let lines: Vec<_> = k.out.lines.drain(..).collect();
    assert_eq!(lines, [(1, true), (1, false), (1, true), (1, false)]);
    k.command(0x60).w(CTR_AUX_IRQ);
    k.command(0xd3).w(1);
    assert_eq!(k.out.lines, [(IRQ_AUX, true)]);
}

#[test]
fn the_reset_line() {
    for reset in [0xfe, 0xf0] {
        let mut k = Kbc::new();
        k.command(reset);
        assert_eq!(
            k.out.power,
            Some(Power::Reset {
                by: ResetBy::KeyboardController
            })
        );
    }
    let mut k = Kbc::new();
    k.command(0xff).command(0xd1).w(0xdf);
    assert_eq!(k.out.power, None);
    assert_eq!(k.command(0xd0).data(), 0xcf);
    k.command(0xd1).w(0xde);
    assert!(k.out.power.is_some());
}

#[test]
fn a_guest_that_never_reads_costs_nothing() {
    let mut k = Kbc::new();
    for _ in 0..1000 {
        k.w(0xff).command(0xaa);
    }
    assert!(k.drain().len() <= QUEUE_BYTES + 1);
}
