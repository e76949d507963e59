//! The ACPI tables of the board (ACPI Specification 4.0a, section 5.2): RSDP, RSDT, XSDT, FADT, FACS, MADT, DSDT.
//!
//! They say what is there and no more: two PICs, an IO-APIC, local APICs, the keyboard controller, COM1, the clock,
//! the fixed hardware. No HPET, no VGA, no message-signalled interrupts, no sleep state but S5.

use super::aml::{Aml, eisa_id, io, irq, memory_range, word_range};
use super::pm::SLP_TYP_S5;
use crate::board::BoardConfig;
use crate::map::*;
use crate::rtc::CENTURY;

const OEM_ID: &[u8; 6] = b"RETROV";
const OEM_TABLE_ID: &[u8; 8] = b"RETROVSR";
const CREATOR_ID: &[u8; 4] = b"RVSR";

const HEADER_BYTES: usize = 36;
const RSDP_BYTES: usize = 36;
const FACS_BYTES: usize = 64;
const FADT_BYTES: usize = 244;

/// Makes the bytes of a table add up to 0.
fn set_checksum(table: &mut [u8], at: usize) {
    table[at] = 0;
    table[at] = table.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
}

/// A table with its header (table 5-4).
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::with_capacity(HEADER_BYTES + body.len());
    table.extend(signature);
    table.extend(((HEADER_BYTES + body.len()) as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(OEM_ID);
    table.extend(OEM_TABLE_ID);
    table.extend(1u32.to_le_bytes());
    table.extend(CREATOR_ID);
    table.extend(1u32.to_le_bytes());
    table.extend(body);
    set_checksum(&mut table, 9);
    table
}

/// A generic address of a port (table 5-1).
fn port_address(port: u16, bits: u8, access: u8) -> [u8; 12] {
    let mut address = [0; 12];
    address[..4].copy_from_slice(&[1, bits, 0, access]);
    address[4..6].copy_from_slice(&port.to_le_bytes());
    address
}

/// The fixed description table (table 5-9).
fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    // IA-PC boot architecture: legacy devices, an 8042, no VGA, no MSI.
    const BOOT_ARCH: u16 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3;
    // WBINVD works, C1 everywhere, no sleep button, RTC wake not in fixed space, reset register.
    const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10;
    /// What a write to the reset register has to be.
    const RESET_VALUE: u8 = 0x06;
    let mut fadt = vec![0; FADT_BYTES];
    let mut put = |at: usize, bytes: &[u8]| fadt[at..at + bytes.len()].copy_from_slice(bytes);
    put(36, &(facs as u32).to_le_bytes());
    put(40, &(dsdt as u32).to_le_bytes());
    put(45, &[4]); // preferred profile: enterprise server
    put(46, &u16::from(IRQ_SCI).to_le_bytes());
    put(56, &u32::from(PM1A_EVENT).to_le_bytes());
    put(64, &u32::from(PM1A_CONTROL).to_le_bytes());
    put(76, &u32::from(PM_TIMER).to_le_bytes());
    put(88, &[4, 2, 0, 4]); // lengths of the event, control, PM2 and timer blocks
    put(96, &0xffffu16.to_le_bytes()); // no C2
    put(98, &0xffffu16.to_le_bytes()); // no C3
    put(108, &[CENTURY]);
    put(109, &BOOT_ARCH.to_le_bytes());
    put(112, &FLAGS.to_le_bytes());
    put(116, &port_address(RESET_CONTROL, 8, 1));
    put(128, &[RESET_VALUE]);
    // The 64-bit FACS address (132) stays 0: it is for a FACS above 4 GiB, and a guest would count two.
    put(140, &dsdt.to_le_bytes());
    put(148, &port_address(PM1A_EVENT, 32, 2));
    put(172, &port_address(PM1A_CONTROL, 16, 2));
    put(208, &port_address(PM_TIMER, 32, 3));
    table(b"FACP", 4, &fadt[HEADER_BYTES..])
}

/// The interrupt controllers (section 5.2.12).
fn madt(cpus: usize) -> Vec<u8> {
    const PCAT_COMPATIBLE: u32 = 1;
    const BUS_DEFAULT: u16 = 0;
    const LEVEL_ACTIVE_HIGH: u16 = 0b11 << 2 | 0b01;
    let mut madt = (LAPIC_BASE as u32).to_le_bytes().to_vec();
    madt.extend(PCAT_COMPATIBLE.to_le_bytes());
    for cpu in 0..cpus as u8 {
        madt.extend([0, 8, cpu, cpu, 1, 0, 0, 0]);
    }
    madt.extend([1, 12, 0, 0]);
    madt.extend((IOAPIC_BASE as u32).to_le_bytes());
    madt.extend(0u32.to_le_bytes());
    for (line, gsi, flags) in [
        (IRQ_PIT, GSI_PIT, BUS_DEFAULT),
        (IRQ_SCI, IRQ_SCI.into(), LEVEL_ACTIVE_HIGH),
    ] {
        madt.extend([2, 10, 0, line]);
        madt.extend((gsi as u32).to_le_bytes());
        madt.extend(flags.to_le_bytes());
    }
    // NMI comes in at LINT1 of every processor.
    madt.extend([4, 6, 0xff, 0, 0, 1]);
    table(b"APIC", 3, &madt)
}

/// The differentiated system description: S5, the PCI bus, and the devices behind the ISA bridge.
fn dsdt() -> Vec<u8> {
    let device = |id: &str, uid: u32| {
        Aml::default()
            .name("_HID")
            .integer(eisa_id(id))
            .name("_UID")
            .integer(uid)
    };
    let legacy = |id: &str, resources: &[Vec<u8>]| {
        device(id, 0)
            .name("_STA")
            .integer(0xf)
            .name("_CRS")
            .resources(resources)
    };
    let isa = Aml::default()
        .name("_ADR")
        .integer(0x0001_0000)
        .device("COM1", legacy("PNP0501", &[io(COM1, 8), irq(IRQ_COM1)]))
        .device(
            "KBD0",
            legacy("PNP0303", &[io(0x60, 1), io(0x64, 1), irq(IRQ_KEYBOARD)]),
        )
        .device("RTC0", legacy("PNP0B00", &[io(0x70, 2), irq(IRQ_RTC)]));
    let bridge = [
        word_range(2, 0, 0, 0),
        io(0xcf8, 8),
        word_range(1, 3, 0, 0xcf7),
        word_range(1, 3, 0xd00, 0xffff),
        memory_range(PCI_HOLE.start as u32, IOAPIC_BASE as u32 - 1),
    ];
    let pci = device("PNP0A03", 0)
        .name("_BBN")
        .integer(0)
        .name("_CRS")
        .resources(&bridge)
        // No device on the bus has an interrupt.
        .name("_PRT")
        .package(&[])
        .device("ISA", isa);
    let s5 = u32::from(SLP_TYP_S5);
    let code = Aml::default()
        .name("_S5")
        .package(&[s5, s5, 0, 0])
        .scope("_SB", Aml::default().device("PCI0", pci));
    table(b"DSDT", 2, &code.0)
}

/// The firmware control structure (section 5.2.10): the global lock, which nobody contends for.
fn facs() -> Vec<u8> {
    let mut facs = vec![0; FACS_BYTES];
    facs[..4].copy_from_slice(b"FACS");
    facs[4..8].copy_from_slice(&(FACS_BYTES as u32).to_le_bytes());
    facs[32] = 2;
    facs
}

/// All tables, to be written to guest-physical address `at`, which is a multiple of 64 and below 4 GiB: the RSDP
/// comes first. They take less than 64 KiB.
pub fn tables(cfg: &BoardConfig, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; RSDP_BYTES];
    let mut place = |table: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        let address = at + bytes.len() as u64;
        bytes.extend(table);
        address
    };
    let facs = place(facs());
    let dsdt = place(dsdt());
    let listed = [place(fadt(facs, dsdt)), place(madt(cfg.cpu_count()))];
    let rsdt = place(table(
        b"RSDT",
        1,
        &listed
            .map(|address| (address as u32).to_le_bytes())
            .concat(),
    ));
    let xsdt = place(table(b"XSDT", 1, &listed.map(u64::to_le_bytes).concat()));

    let rsdp = &mut bytes[..RSDP_BYTES];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(OEM_ID);
    rsdp[15] = 2;
    rsdp[16..20].copy_from_slice(&(rsdt as u32).to_le_bytes());
    rsdp[20..24].copy_from_slice(&(RSDP_BYTES as u32).to_le_bytes());
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    set_checksum(&mut rsdp[..20], 8);
    set_checksum(rsdp, 32);
    bytes
}

#[cfg(test)]
mod tests;
