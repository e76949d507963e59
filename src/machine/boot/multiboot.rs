//! Multiboot 0.6.96 ("Multiboot 1"): what hobby kernels and GRUB's "multiboot" command speak.
//!
//! Loaded: ELF32 and ELF64 by their segments, and any file by the addresses in its header (the "a.out kludge"); ELF64
//! is outside the specification and is done as GRUB does it, entered in 32-bit mode all the same. The entry address
//! may be physical, or one as the kernel sees it, which is then translated by its segment.
//! Handed over: memory sizes, command line, one module (the initrd, right behind the kernel), the memory map, the
//! boot loader's name. Not handed over: drives, APM, symbols, a video mode (there is no screen; a kernel that asks
//! for one is started without). Refused in one line: a header with flags that it says must be understood and that
//! are not known, and Multiboot 2.

use super::elf::ElfImage;
use super::linux::{put_cmdline, put_gdt};
use super::memory_map::EBDA;
use super::plan::Plan;
use super::{BootError, Entry, Image, MemoryMap, Protocol, Request, no_entry, place};

const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at the entry.
const BOOTLOADER_MAGIC: u32 = 0x2bad_b002;
/// The header lies in the first 8 KiB, 4-byte aligned.
const SEARCHED: usize = 8192;

/// Header flags: modules page-aligned, memory information, video mode (bits 0 to 2) are known and granted or ignored.
const KNOWN_REQUIREMENTS: u32 = 0b111;
/// Header flags that must be understood.
const REQUIREMENTS: u32 = 0xffff;
/// The header holds load addresses.
const HAS_ADDRESSES: u32 = 1 << 16;

/// Flags of the information structure.
mod info_flag {
    pub const MEMORY: u32 = 1 << 0;
    pub const COMMAND_LINE: u32 = 1 << 2;
    pub const MODULES: u32 = 1 << 3;
    pub const MEMORY_MAP: u32 = 1 << 6;
    pub const LOADER_NAME: u32 = 1 << 9;
}

/// Byte offsets of the information structure's fields.
mod info_field {
    pub const FLAGS: usize = 0;
    pub const MEM_LOWER: usize = 4;
    pub const MEM_UPPER: usize = 8;
    pub const COMMAND_LINE: usize = 16;
    pub const MODULES_COUNT: usize = 20;
    pub const MODULES_ADDRESS: usize = 24;
    pub const MEMORY_MAP_LENGTH: usize = 44;
    pub const MEMORY_MAP_ADDRESS: usize = 48;
    pub const LOADER_NAME: usize = 64;
    /// Up to the end of the VBE fields.
    pub const SIZE: usize = 88;
}

/// The header as it was found.
pub(super) struct Header {
    offset: usize,
    flags: u32,
    addresses: Option<Addresses>,
}

/// Physical addresses of a kernel that is not loaded by its segments.
struct Addresses {
    header: u32,
    load: u32,
    /// 0: to the end of the file.
    load_end: u32,
    /// 0: nothing to clear.
    bss_end: u32,
    entry: u32,
}

/// Finds the header, if there is one.
pub(super) fn find_header(kernel: &[u8]) -> Option<Header> {
    let head = &kernel[..kernel.len().min(SEARCHED)];
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    for offset in (0..head.len()).step_by(4) {
        let (magic, flags, checksum) = (word(offset)?, word(offset + 4)?, word(offset + 8)?);
        if magic != HEADER_MAGIC || magic.wrapping_add(flags).wrapping_add(checksum) != 0 {
            continue;
        }
        let addresses = if flags & HAS_ADDRESSES != 0 {
            Some(Addresses {
                header: word(offset + 12)?,
                load: word(offset + 16)?,
                load_end: word(offset + 20)?,
                bss_end: word(offset + 24)?,
                entry: word(offset + 28)?,
            })
        } else {
            None
        };
        return Some(Header {
            offset,
            flags,
            addresses,
        });
    }
    None
}

/// Lays out a Multiboot kernel.
pub(super) fn load(request: &Request<'_>, header: &Header) -> Result<Image, BootError> {
    let unknown = header.flags & REQUIREMENTS & !KNOWN_REQUIREMENTS;
    if unknown != 0 {
        return Err(BootError::Unsupported(format!(
            "Multiboot header flags {unknown:#x}, which must be understood"
        )));
    }
    let map = MemoryMap::new(request.layout.ram_bytes);
    let mut plan = Plan::new(&map);
    let (entry, kind) = match &header.addresses {
        Some(addresses) => (
            put_by_addresses(&mut plan, request.kernel, header, addresses)?,
            "plain",
        ),
        None if request.kernel.starts_with(&object::elf::ELFMAG) => {
            put_elf(&mut plan, request.kernel)?
        }
        None => {
            let why = "the image is no ELF file and its Multiboot header gives no load addresses";
            return Err(no_entry(Protocol::Multiboot, why));
        }
    };
    let eip = u32::try_from(entry).map_err(|_| {
        no_entry(
            Protocol::Multiboot,
            format!("its entry {entry:#x} is above 4 GiB"),
        )
    })?;
    let module = match request.initrd {
        Some(bytes) => Some((
            plan.put_behind("the module", bytes)? as u32,
            bytes.len() as u32,
        )),
        None => None,
    };
    put_info(&mut plan, &map, request.cmdline, module)?;
    let segments = put_gdt(&mut plan, false)?;
    let entry = Entry::Protected32 {
        eip,
        eax: BOOTLOADER_MAGIC,
        ebx: place::START_INFO as u32,
        esi: 0,
        esp: place::STACK_TOP as u32,
        segments,
    };
    let description = format!("{kind} kernel, {}", Protocol::Multiboot);
    Ok(Image {
        pages: plan.into_pages(),
        entry,
        protocol: Protocol::Multiboot,
        description,
    })
}

/// Loads by the header's own addresses and gives the entry.
fn put_by_addresses(
    plan: &mut Plan,
    kernel: &[u8],
    header: &Header,
    at: &Addresses,
) -> Result<u64, BootError> {
    let damaged = |why: &str| BootError::Damaged(format!("its Multiboot header {why}"));
    let before = at
        .header
        .checked_sub(at.load)
        .ok_or_else(|| damaged("lies below its own load address"))?;
    let start = header
        .offset
        .checked_sub(before as usize)
        .ok_or_else(|| damaged("loads from before the file"))?;
    let rest = &kernel[start..];
    let bytes = match at.load_end {
        0 => rest,
        end => {
            let len = end
                .checked_sub(at.load)
                .ok_or_else(|| damaged("ends loading below its load address"))?
                as usize;
            rest.get(..len).ok_or(BootError::Truncated {
                what: "the Multiboot kernel",
                need: (start + len) as u64,
                have: kernel.len() as u64,
            })?
        }
    };
    let len = u64::from(at.bss_end.saturating_sub(at.load)).max(bytes.len() as u64);
    plan.put("the kernel", u64::from(at.load), bytes, len)?;
    if at
        .entry
        .checked_sub(at.load)
        .is_none_or(|offset| u64::from(offset) >= len)
    {
        return Err(no_entry(
            Protocol::Multiboot,
            format!("its entry {:#x} is not in what is loaded", at.entry),
        ));
    }
    Ok(u64::from(at.entry))
}

/// Loads the segments of an ELF file and gives its entry and what it is.
fn put_elf(plan: &mut Plan, kernel: &[u8]) -> Result<(u64, &'static str), BootError> {
    let image = ElfImage::parse(kernel)?;
    image.put(plan)?;
    let entry = image.physical_entry().ok_or_else(|| {
        no_entry(
            Protocol::Multiboot,
            format!("its entry {:#x} is not in what is loaded", image.entry),
        )
    })?;
    Ok((
        entry,
        if image.wide {
            "64-bit ELF"
        } else {
            "32-bit ELF"
        },
    ))
}

/// Puts the information structure, the module's entry, the memory map and the strings one behind the other.
fn put_info(
    plan: &mut Plan,
    map: &MemoryMap,
    cmdline: &str,
    module: Option<(u32, u32)>,
) -> Result<(), BootError> {
    let cmdline_at = put_cmdline(plan, cmdline, place::COMMAND_LINE_MAX)? as u32;
    let mut bytes = vec![0; info_field::SIZE];
    let place_of = |bytes: &Vec<u8>| place::START_INFO as u32 + bytes.len() as u32;

    let name_at = place_of(&bytes);
    bytes.extend_from_slice(b"retrovisor\0\0");
    let modules_at = place_of(&bytes);
    if let Some((start, size)) = module {
        // Start, end, string (none: it points to the NUL behind the loader's name), reserved.
        for word in [start, start + size, modules_at - 1, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    let map_at = place_of(&bytes);
    for range in &map.ranges {
        bytes.extend_from_slice(&20_u32.to_le_bytes());
        bytes.extend_from_slice(&range.start.to_le_bytes());
        bytes.extend_from_slice(&range.len.to_le_bytes());
        bytes.extend_from_slice(&(range.kind as u32).to_le_bytes());
    }
    let map_len = place_of(&bytes) - map_at;

    let mut flags = info_flag::MEMORY
        | info_flag::COMMAND_LINE
        | info_flag::MEMORY_MAP
        | info_flag::LOADER_NAME;
    if module.is_some() {
        flags |= info_flag::MODULES;
    }
    let fields = [
        (info_field::FLAGS, flags),
        (info_field::MEM_LOWER, (EBDA >> 10) as u32),
        (
            info_field::MEM_UPPER,
            (map.low_end.saturating_sub(1 << 20) >> 10) as u32,
        ),
        (info_field::COMMAND_LINE, cmdline_at),
        (info_field::MODULES_COUNT, u32::from(module.is_some())),
        (info_field::MODULES_ADDRESS, modules_at),
        (info_field::MEMORY_MAP_LENGTH, map_len),
        (info_field::MEMORY_MAP_ADDRESS, map_at),
        (info_field::LOADER_NAME, name_at),
    ];
    for (offset, value) in fields {
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    plan.put(
        "the Multiboot information",
        place::START_INFO,
        &bytes,
        place::START_INFO_END - place::START_INFO,
    )
}
