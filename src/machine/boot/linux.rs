//! What the Linux boot protocol hands to a kernel at its 64-bit entry: the zero page (`struct boot_params`,
//! Documentation/arch/x86/zero-page.rst), the command line, a flat GDT and identity page tables.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};

use vm_memory::ByteValued;

use super::plan::Plan;
use super::{BootError, Entry, MemoryMap, Segments, place};

/// `setup_header.header`: "HdrS".
pub(super) const HDRS_MAGIC: u32 = 0x5372_6448;
/// `type_of_loader` for a boot loader without an assigned number.
pub(super) const LOADER_UNDEFINED: u8 = 0xff;
/// Bytes that the identity page tables map.
const IDENTITY_MAPPED: u64 = 4 << 30;

const GDT_CODE64: u64 = 0x00af_9b00_0000_ffff;
const GDT_CODE32: u64 = 0x00cf_9b00_0000_ffff;
const GDT_DATA: u64 = 0x00cf_9300_0000_ffff;
const GDT_TSS32: u64 = 0x0000_8b00_0000_0067;

/// Puts the flat GDT: null, null, code at 0x10 (Linux's `__BOOT_CS`), data at 0x18 (`__BOOT_DS`), a TSS at 0x20.
pub(super) fn put_gdt(plan: &mut Plan, long_mode: bool) -> Result<Segments, BootError> {
    let code = if long_mode { GDT_CODE64 } else { GDT_CODE32 };
    let table = [0, 0, code, GDT_DATA, GDT_TSS32];
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    plan.put("the descriptor table", place::GDT, &bytes, 0x1000)?;
    Ok(Segments {
        gdt_base: place::GDT,
        gdt_limit: (bytes.len() - 1) as u16,
        cs: 0x10,
        ds: 0x18,
    })
}

/// Puts the command line with its NUL; `max` is what the kernel takes, without the NUL.
pub(super) fn put_cmdline(plan: &mut Plan, cmdline: &str, max: usize) -> Result<u64, BootError> {
    let max = max.min(place::COMMAND_LINE_MAX);
    if cmdline.len() > max {
        return Err(BootError::CommandLineTooLong {
            len: cmdline.len(),
            max,
        });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    plan.put(
        "the command line",
        place::COMMAND_LINE,
        &bytes,
        bytes.len() as u64,
    )?;
    Ok(place::COMMAND_LINE)
}

/// Puts page tables that map the first 4 GiB onto themselves with 2 MiB pages, and gives CR3.
fn put_identity_tables(plan: &mut Plan) -> Result<u64, BootError> {
    const PRESENT_WRITE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let base = place::PAGE_TABLES;
    let directories = IDENTITY_MAPPED >> 30;
    let mut tables = vec![0u64; 512 * (2 + directories as usize)];
    tables[0] = (base + 0x1000) | PRESENT_WRITE;
    for d in 0..directories {
        tables[512 + d as usize] = (base + 0x2000 + d * 0x1000) | PRESENT_WRITE;
    }
    for (page, entry) in tables[1024..].iter_mut().enumerate() {
        *entry = (page as u64) << 21 | LARGE | PRESENT_WRITE;
    }
    let bytes: Vec<u8> = tables
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    plan.put("the page tables", base, &bytes, 0)?;
    Ok(base)
}

/// What is the same for bzImage and vmlinux.
pub(super) struct Handover<'a> {
    pub header: setup_header,
    pub entry: u64,
    pub cmdline: &'a str,
    pub cmdline_max: usize,
    /// Address and size of the initrd.
    pub initrd: Option<(u64, u64)>,
    pub acpi_rsdp: u64,
}

/// Puts everything that the 64-bit entry needs and gives the entry.
pub(super) fn hand_over(
    plan: &mut Plan,
    map: &MemoryMap,
    handover: Handover<'_>,
) -> Result<Entry, BootError> {
    let mut params = boot_params {
        hdr: handover.header,
        acpi_rsdp_addr: handover.acpi_rsdp,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    // All that the protocol places here lies below 4 GiB: the plan knows no other RAM.
    params.hdr.cmd_line_ptr = put_cmdline(plan, handover.cmdline, handover.cmdline_max)? as u32;
    if let Some((start, size)) = handover.initrd {
        params.hdr.ramdisk_image = start as u32;
        params.hdr.ramdisk_size = size as u32;
    }
    let mut table = params.e820_table;
    for (entry, range) in table.iter_mut().zip(&map.ranges) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.len,
            type_: range.kind as u32,
        };
    }
    params.e820_table = table;
    params.e820_entries = map.ranges.len() as u8;
    plan.put(
        "the zero page",
        place::BOOT_PARAMS,
        params.as_slice(),
        0x1000,
    )?;
    Ok(Entry::Long64 {
        rip: handover.entry,
        rsi: place::BOOT_PARAMS,
        rsp: place::STACK_TOP,
        cr3: put_identity_tables(plan)?,
        segments: put_gdt(plan, true)?,
    })
}
