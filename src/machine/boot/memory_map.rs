//! Where RAM lies, and the map of it that every boot protocol hands over (ACPI 6.5, section 15: the E820 map).

/// RAM at 0 ends here at the latest; above lie PCI, the IO-APIC and the local APICs.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// RAM that does not fit below [`LOW_RAM_END`] starts here.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// Start of the extended BIOS data area, the end of conventional memory.
pub(super) const EBDA: u64 = 0x9_fc00;
/// End of the first megabyte: the legacy holes, the ACPI tables, the BIOS.
const LEGACY_END: u64 = 0x10_0000;

/// What a range of guest-physical memory is for; the numbers are those of E820, PVH and Multiboot alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Usable RAM.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
}

/// One line of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    pub kind: RangeKind,
}

/// The whole map, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    pub ranges: Vec<Range>,
    /// End of the RAM at 0.
    pub low_end: u64,
    /// End of the RAM at [`HIGH_RAM_START`]; equal to it when there is none.
    pub high_end: u64,
}

impl MemoryMap {
    /// The map of a machine with `ram_bytes` of RAM (whole pages of it; at least 2 MiB, as [`super::load`] asks).
    pub fn new(ram_bytes: u64) -> MemoryMap {
        // 52 bits are what a physical address can have.
        let ram_bytes = ram_bytes.min((1 << 52) - HIGH_RAM_START) & !0xfff;
        let low_end = ram_bytes.min(LOW_RAM_END);
        let high_end = HIGH_RAM_START + (ram_bytes - low_end);
        let line = |start, end, kind| Range {
            start,
            len: end - start,
            kind,
        };
        let mut ranges = vec![
            line(0, EBDA, RangeKind::Ram),
            line(EBDA, LEGACY_END, RangeKind::Reserved),
            line(LEGACY_END, low_end.max(LEGACY_END), RangeKind::Ram),
        ];
        if high_end > HIGH_RAM_START {
            ranges.push(line(HIGH_RAM_START, high_end, RangeKind::Ram));
        }
        MemoryMap {
            ranges,
            low_end,
            high_end,
        }
    }
}
