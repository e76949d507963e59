//! The board as two tables: where things are in guest-physical memory, and which port belongs to whom.
//!
//! The ACPI tables, the routing of accesses and the owner of the board (for RAM) all read the same constants.

use std::ops::Range;

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// The input clock of the PIT: a third of the colour burst, which is the power management timer's.
pub const PIT_HZ: u64 = 1_193_182;
/// The clock of the ACPI power management timer (ACPI Specification 4.0a, 4.7.2.1).
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// The crystal that local APIC timers count, before their divider: 25 MHz. For CPUID leaf 0x15.
pub const APIC_TIMER_HZ: u64 = 25_000_000;
/// The same as a period, which is exact.
pub const APIC_TIMER_PERIOD_NS: u64 = NS_PER_S / APIC_TIMER_HZ;

/// Local APIC IDs are 8 bits, of which 0xff is broadcast.
pub const MAX_CPUS: usize = 255;

// Guest-physical memory.
//
// 0000_0000  RAM, up to the PCI hole
// c000_0000  PCI hole: nothing answers (all ones), except
// fec0_0000    IO-APIC, one page
// fee0_0000    local APICs, one page, each processor its own
// 1_0000_0000 RAM that did not fit below the hole

/// Legacy video memory and option ROMs: no such device. Whether RAM is there is up to the owner of the board.
pub const LEGACY_HOLE: Range<u64> = 0xa_0000..0x10_0000;
/// Where no RAM is, below 4 GiB.
pub const PCI_HOLE: Range<u64> = 0xc000_0000..0x1_0000_0000;
/// Where RAM goes on.
pub const RAM_ABOVE_4G: u64 = 0x1_0000_0000;
/// The IO-APIC's page.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// The local APIC's page after reset.
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// Size of both.
pub const APIC_BYTES: u64 = 0x1000;

/// The part of RAM that is below the PCI hole, and the part above 4 GiB, as guest-physical ranges.
pub fn ram(ram_bytes: u64) -> [Range<u64>; 2] {
    let below = ram_bytes.min(PCI_HOLE.start);
    [
        0..below,
        RAM_ABOVE_4G..RAM_ABOVE_4G.saturating_add(ram_bytes - below),
    ]
}

// ISA interrupt lines. The PIC has them all; the IO-APIC has them on the pins of the same numbers, except the PIT.

/// Counter 0 of the PIT.
pub const IRQ_PIT: u8 = 0;
/// The keyboard controller's output buffer, filled by the keyboard.
pub const IRQ_KEYBOARD: u8 = 1;
/// The serial port.
pub const IRQ_COM1: u8 = 4;
/// The real-time clock.
pub const IRQ_RTC: u8 = 8;
/// The ACPI interrupt: level-triggered, active high.
pub const IRQ_SCI: u8 = 9;
/// The keyboard controller's output buffer, filled by the auxiliary port.
pub const IRQ_AUX: u8 = 12;
/// The IO-APIC pin of the PIT: pin 0 would be the PIC's output, which goes to LINT0 instead.
pub const GSI_PIT: usize = 2;

/// The IO-APIC pin that an ISA line is wired to; the PIC's cascade (2) has none.
pub const fn gsi_of(irq: u8) -> Option<usize> {
    match irq {
        IRQ_PIT => Some(GSI_PIT),
        2 => None,
        irq => Some(irq as usize),
    }
}

// I/O ports.

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// QEMU's `isa-debug-exit`.
pub const DEBUG_EXIT: u16 = 0xf4;
/// The ACPI power management block.
pub const PM_BASE: u16 = 0x600;
/// PM1a event block: status, then enable, 16 bits each.
pub const PM1A_EVENT: u16 = PM_BASE;
/// PM1a control block, 16 bits.
pub const PM1A_CONTROL: u16 = PM_BASE + 4;
/// The power management timer, 32 bits of which 24 count.
pub const PM_TIMER: u16 = PM_BASE + 8;
/// The reset control register, which is also the ACPI reset register.
pub const RESET_CONTROL: u16 = 0xcf9;

/// Who answers at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: reads give all ones, writes are lost.
    Open,
    Pic,
    Pit,
    I8042,
    Rtc,
    Reset,
    Debug,
    Serial,
    Pm,
    Pci,
}

/// A row of the port map: ports `first` to `last` are registers of `owner`, from `reg` on.
pub(crate) struct Ports {
    pub first: u16,
    pub last: u16,
    pub owner: Owner,
    pub reg: u16,
    /// Sizes (2, 4 or both: 6) of aligned accesses that are taken whole. All others are split into bytes, as an
    /// 8-bit bus does.
    pub wide: u8,
}

const fn row(first: u16, last: u16, owner: Owner, reg: u16) -> Ports {
    Ports {
        first,
        last,
        owner,
        reg,
        wide: 0,
    }
}

const fn wide(first: u16, last: u16, owner: Owner, reg: u16, wide: u8) -> Ports {
    Ports {
        first,
        last,
        owner,
        reg,
        wide,
    }
}

/// All ports of the board. What is not here is open bus: the DMA controllers and their page registers, COM2 to
/// COM4, disks, video.
pub(crate) const PORTS: &[Ports] = &[
    row(0x20, 0x21, Owner::Pic, crate::pic::MASTER_COMMAND),
    row(0x40, 0x43, Owner::Pit, 0),
    row(0x60, 0x60, Owner::I8042, crate::i8042::DATA),
    row(0x61, 0x61, Owner::Pit, crate::pit::PORT_B),
    row(0x64, 0x64, Owner::I8042, crate::i8042::COMMAND),
    row(0x70, 0x71, Owner::Rtc, crate::rtc::INDEX),
    row(0x80, 0x80, Owner::Debug, crate::debug::POST),
    row(0x92, 0x92, Owner::Reset, crate::reset::PORT_92),
    row(0xa0, 0xa1, Owner::Pic, crate::pic::SLAVE_COMMAND),
    wide(
        DEBUG_EXIT,
        DEBUG_EXIT + 3,
        Owner::Debug,
        crate::debug::EXIT,
        2 | 4,
    ),
    row(COM1, COM1 + 7, Owner::Serial, 0),
    row(0x4d0, 0x4d1, Owner::Pic, crate::pic::ELCR1),
    wide(PM_BASE, PM_BASE + 0xb, Owner::Pm, 0, 2 | 4),
    wide(0xcf8, 0xcf8, Owner::Pci, crate::pci::ADDRESS, 4),
    row(
        RESET_CONTROL,
        RESET_CONTROL,
        Owner::Reset,
        crate::reset::PORT_CF9,
    ),
    wide(0xcfc, 0xcff, Owner::Pci, crate::pci::ADDRESS + 4, 2 | 4),
];

/// Ports below this are looked up; the rest is open.
const LOOKED_UP: usize = 0x1000;
const NOBODY: u8 = u8::MAX;

/// The row of each port, worked out from the table when the crate is compiled.
static ROW_OF: [u8; LOOKED_UP] = {
    let mut rows = [NOBODY; LOOKED_UP];
    let mut i = 0;
    while i < PORTS.len() {
        let mut port = PORTS[i].first as usize;
        while port <= PORTS[i].last as usize {
            assert!(rows[port] == NOBODY, "two devices at one port");
            rows[port] = i as u8;
            port += 1;
        }
        i += 1;
    }
    rows
};

/// Who answers an access to this port, and with which register. `None`: the access is to be split into bytes.
#[inline]
pub(crate) fn route(port: u16, size: u8) -> Option<(Owner, u16)> {
    let row = ROW_OF
        .get(usize::from(port))
        .and_then(|&row| PORTS.get(usize::from(row)));
    match row {
        Some(row) if size == 1 => Some((row.owner, row.reg + (port - row.first))),
        Some(row)
            if row.wide & size == size
                && size.is_power_of_two()
                && port.is_multiple_of(size.into()) =>
        {
            Some((row.owner, row.reg + (port - row.first)))
        }
        None if size == 1 => Some((Owner::Open, 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_find_their_owners() {
        assert_eq!(route(0x3fd, 1), Some((Owner::Serial, 5)));
        assert_eq!(route(0x3f8, 2), None);
        assert_eq!(route(0xcf8, 4), Some((Owner::Pci, 0)));
        assert_eq!(route(0xcf8, 2), None, "0xcf9 is somebody else");
        assert_eq!(route(0xcff, 2), None);
        assert_eq!(route(0xcf9, 1), Some((Owner::Reset, 1)));
        assert_eq!(route(0xcfe, 2), Some((Owner::Pci, 6)));
        assert_eq!(route(0x2f8, 1), Some((Owner::Open, 0)), "COM2");
        assert_eq!(route(0x81, 1), Some((Owner::Open, 0)), "DMA page registers");
        assert_eq!(route(0xffff, 1), Some((Owner::Open, 0)));
    }

    #[test]
    fn ram_goes_around_the_hole() {
        assert_eq!(ram(256 << 20), [0..0x1000_0000, RAM_ABOVE_4G..RAM_ABOVE_4G]);
        assert_eq!(ram(4 << 30), [0..0xc000_0000, 0x1_0000_0000..0x1_4000_0000]);
    }
}
