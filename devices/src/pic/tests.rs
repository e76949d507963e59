use super::*;

fn r(pic: &mut Pic, reg: u16) -> u8 {
    pic.read(0, reg, 1, &mut Effects::default()) as u8
}

fn w(pic: &mut Pic, reg: u16, values: &[u8]) {
    for &value in values {
        pic.write(0, reg, 1, value.into(), &mut Effects::default());
    }
}

/// Initialised as Linux does it: vectors 0x30 and 0x38, normal end of interrupt, nothing masked.
fn linux() -> Pic {
    let mut pic = Pic::new();
    initialise(&mut pic, 0x01, 0x01);
    pic
}

fn initialise(pic: &mut Pic, master_icw4: u8, slave_icw4: u8) {
    w(pic, MASTER_COMMAND, &[0x11]);
    w(pic, MASTER_DATA, &[0x30, 0x04, master_icw4]);
    w(pic, SLAVE_COMMAND, &[0x11]);
    w(pic, SLAVE_DATA, &[0x38, 0x02, slave_icw4]);
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_line(irq, false);
    pic.set_line(irq, true);
}

#[test]
fn firmware_leaves_everything_masked() {
    let mut pic = Pic::new();
    assert_eq!(
        (r(&mut pic, MASTER_DATA), r(&mut pic, SLAVE_DATA)),
        (0xff, 0xff)
    );
    for irq in 0..16 {
        pic.set_line(irq, true);
    }
    assert!(!pic.interrupt());
    // Linux's probe: the mask must read back.
    w(&mut pic, MASTER_DATA, &[0xfb]);
    assert_eq!(r(&mut pic, MASTER_DATA), 0xfb);
}

#[test]
fn priorities_nest_and_eoi_lets_the_next_one_through() {
    let mut pic = linux();
    pulse(&mut pic, 4);
    pulse(&mut pic, 6);
    assert_eq!(pic.acknowledge(), 0x34);
    assert!(!pic.interrupt(), "6 is below 4, which is in service");
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x31);
    w(&mut pic, MASTER_COMMAND, &[0x0b]);
    assert_eq!(r(&mut pic, MASTER_COMMAND), 0x12);
    w(&mut pic, MASTER_COMMAND, &[0x20]);
    assert_eq!(
        r(&mut pic, MASTER_COMMAND),
        0x10,
        "non-specific EOI ends the highest"
    );
    assert!(!pic.interrupt());
    w(&mut pic, MASTER_COMMAND, &[0x64]);
    assert_eq!(pic.acknowledge(), 0x36);
}

#[test]
fn cascaded_interrupt_needs_both_eois() {
    let mut pic = linux();
    pulse(&mut pic, 12);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x3c, "the slave sits at 2, above 3");
    assert!(!pic.interrupt());
    w(&mut pic, SLAVE_COMMAND, &[0x20]);
    pulse(&mut pic, 9);
    assert!(!pic.interrupt(), "2 is still in service at the master");
    w(&mut pic, MASTER_COMMAND, &[0x20]);
    assert_eq!(pic.acknowledge(), 0x39);
}

#[test]
fn a_request_that_goes_away_is_withdrawn_and_gives_the_spurious_vector() {
    let mut pic = linux();
    pulse(&mut pic, 5);
    assert!(pic.interrupt());
    pic.set_line(5, false);
    assert!(!pic.interrupt());
    assert_eq!(pic.acknowledge(), 0x37);
    w(&mut pic, MASTER_COMMAND, &[0x0b]);
    assert_eq!(
        r(&mut pic, MASTER_COMMAND),
        0,
        "a spurious interrupt is not in service"
    );
}

#[test]
fn edge_asks_once_and_level_as_long_as_it_is_up() {
    let mut pic = linux();
    w(&mut pic, ELCR1, &[0xff]);
    assert_eq!(
        r(&mut pic, ELCR1),
        0xf8,
        "0 to 2 are edge-triggered for good"
    );
    w(&mut pic, ELCR1, &[0x20]);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x34);
    w(&mut pic, MASTER_COMMAND, &[0x20]);
    assert!(!pic.interrupt());
    pic.set_line(5, true);
    for _ in 0..3 {
        assert_eq!(pic.acknowledge(), 0x35);
        w(&mut pic, MASTER_COMMAND, &[0x20]);
    }
    pic.set_line(5, false);
    assert!(!pic.interrupt());
}

#[test]
fn initialising_forgets_edges_and_the_mask() {
    let mut pic = linux();
    pic.set_line(4, true);
    initialise(&mut pic, 0x01, 0x01);
    assert_eq!(r(&mut pic, MASTER_DATA), 0);
    assert!(!pic.interrupt(), "it takes a new edge");
    pulse(&mut pic, 4);
    assert!(pic.interrupt());
    w(&mut pic, MASTER_COMMAND, &[0x11]);
    pulse(&mut pic, 1);
    assert!(!pic.interrupt(), "no INT in the middle of initialisation");
}

#[test]
fn automatic_eoi_and_its_rotation() {
    let mut pic = linux();
    initialise(&mut pic, 0x03, 0x03);
    pulse(&mut pic, 4);
    pulse(&mut pic, 5);
    assert_eq!((pic.acknowledge(), pic.acknowledge()), (0x34, 0x35));
    // A slave that ends by itself and has more waiting must make a new edge at the master.
    pulse(&mut pic, 10);
    pulse(&mut pic, 11);
    assert_eq!((pic.acknowledge(), pic.acknowledge()), (0x3a, 0x3b));
    assert!(!pic.interrupt());
    w(&mut pic, MASTER_COMMAND, &[0x80]);
    pulse(&mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x34);
    pulse(&mut pic, 4);
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x35, "4 has become the lowest");
}

#[test]
fn rotation_and_set_priority() {
    let mut pic = linux();
    w(&mut pic, MASTER_COMMAND, &[0xc0 | 4]);
    pulse(&mut pic, 0);
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x35);
    w(&mut pic, MASTER_COMMAND, &[0xa0]);
    pulse(&mut pic, 5);
    pulse(&mut pic, 6);
    assert_eq!(
        pic.acknowledge(),
        0x36,
        "rotate on EOI: 5 is the lowest now"
    );
    w(&mut pic, MASTER_COMMAND, &[0xe0 | 6]);
    assert_eq!(pic.acknowledge(), 0x30);
}

#[test]
fn special_mask_mode_lets_lower_ones_through() {
    let mut pic = linux();
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x33);
    pulse(&mut pic, 6);
    assert!(!pic.interrupt());
    w(&mut pic, MASTER_DATA, &[0x08]);
    w(&mut pic, MASTER_COMMAND, &[0x68]);
    assert_eq!(pic.acknowledge(), 0x36);
    w(&mut pic, MASTER_COMMAND, &[0x48]);
    pulse(&mut pic, 5);
    assert!(!pic.interrupt());
}

#[test]
fn special_fully_nested_mode_lets_the_slave_interrupt_itself() {
    let mut pic = linux();
    initialise(&mut pic, 0x11, 0x01);
    pulse(&mut pic, 12);
    assert_eq!(pic.acknowledge(), 0x3c);
    pulse(&mut pic, 14);
    assert!(!pic.interrupt());
    pulse(&mut pic, 9);
    assert_eq!(pic.acknowledge(), 0x39);
}

#[test]
fn poll_acknowledges() {
    let mut pic = linux();
    w(&mut pic, MASTER_COMMAND, &[0x0c]);
    assert_eq!(r(&mut pic, MASTER_COMMAND), 0);
    pulse(&mut pic, 6);
    w(&mut pic, MASTER_COMMAND, &[0x0c]);
    assert_eq!(r(&mut pic, MASTER_COMMAND), 0x86);
    assert!(!pic.interrupt());
    assert_eq!(
        r(&mut pic, MASTER_COMMAND),
        0,
        "the poll was for one read; now it is IRR"
    );
}

#[test]
fn spurious_interrupt_of_the_slave_leaves_the_master_in_service() {
    let mut pic = linux();
    // A slave's request that is withdrawn between the cycles: its INT is up, its IRR empty.
    pic.s.master.set_line(CASCADE, true);
    assert_eq!(pic.acknowledge(), 0x3f);
    w(&mut pic, MASTER_COMMAND, &[0x0b]);
    assert_eq!(r(&mut pic, MASTER_COMMAND), 1 << CASCADE);
}
