//! bzImage: the Linux boot protocol (Documentation/arch/x86/boot.rst) from its 64-bit and its 16-bit entry.
//!
//! The 64-bit entry needs protocol 2.12 (Linux 3.8), the 16-bit entry 2.02. The 16-bit entry runs the kernel's own
//! setup code over the BIOS of bios.rs; that BIOS has no screen, no disk and no keyboard, so that `vga=ask` and the
//! kernel's EDD probe find nothing. The ACPI tables are found by the kernel's own scan of 0xe0000..0x100000.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::linux::{HDRS_MAGIC, Handover, LOADER_UNDEFINED, hand_over, put_cmdline};
use super::plan::Plan;
use super::{BootError, Entry, Image, MemoryMap, Protocol, Request, bios, no_entry, place};

/// Offset of the setup header in the file.
const HEADER: usize = 0x1f1;
/// `xloadflags`: the kernel has the 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `loadflags`: the protected-mode part is loaded at 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;
/// `loadflags`: `heap_end_ptr` is valid.
const CAN_USE_HEAP: u8 = 1 << 7;
/// End of the real-mode code's segment, stack and heap included; the heap ends 512 bytes below, as the protocol says.
const REAL_MODE_END: u64 = 0xfff0;
/// The 64-bit entry, from the load address.
const ENTRY64: u64 = 0x200;
/// Command line limit of kernels before protocol 2.06.
const OLD_CMDLINE_MAX: u32 = 255;
/// Highest initrd address of kernels before protocol 2.03.
const OLD_INITRD_MAX: u32 = 0x37ff_ffff;

/// Whether the file has the boot sector's signature and the setup header's magic.
pub(super) fn is_bzimage(kernel: &[u8]) -> bool {
    kernel.get(0x1fe..0x200) == Some(&[0x55, 0xaa])
        && kernel.get(0x202..0x206) == Some(&HDRS_MAGIC.to_le_bytes())
}

/// Whether a bzImage is one, but of a 32-bit kernel.
pub(super) fn lacks_entry64(kernel: &[u8]) -> bool {
    BzImage::parse(kernel).is_ok_and(|image| !image.has_entry64())
}

/// A bzImage taken apart.
pub(super) struct BzImage<'a> {
    pub header: setup_header,
    /// The real-mode part, boot sector included.
    pub setup: &'a [u8],
    /// The protected-mode part.
    pub kernel: &'a [u8],
    /// The kernel's own version string.
    pub version: String,
}

impl<'a> BzImage<'a> {
    /// Whether it can be entered in 64-bit mode.
    fn has_entry64(&self) -> bool {
        self.header.version >= 0x020c && self.header.xloadflags & XLF_KERNEL_64 != 0
    }

    pub fn parse(file: &'a [u8]) -> Result<BzImage<'a>, BootError> {
        let have = file.len() as u64;
        let truncated = |what, need| BootError::Truncated { what, need, have };
        // The byte at 0x201 is the target of the short jump at 0x200: the header ends there.
        let header_end = 0x202
            + usize::from(
                *file
                    .get(0x201)
                    .ok_or(truncated("the setup header", 0x202))?,
            );
        let known_end = HEADER + size_of::<setup_header>();
        let header_bytes = file
            .get(HEADER..header_end.min(known_end))
            .ok_or(truncated("the setup header", header_end as u64))?;
        let mut header = setup_header::default();
        header.as_mut_slice()[..header_bytes.len()].copy_from_slice(header_bytes);
        let version = header.version;
        if version < 0x0200 || header.loadflags & LOADED_HIGH == 0 {
            return Err(BootError::Unsupported(
                "a Linux kernel that is no bzImage (zImage or older)".to_string(),
            ));
        }
        if version < 0x0203 {
            header.initrd_addr_max = OLD_INITRD_MAX;
        }
        if version < 0x0206 {
            header.cmdline_size = OLD_CMDLINE_MAX;
        }
        let setup_sectors = if header.setup_sects == 0 {
            4
        } else {
            usize::from(header.setup_sects)
        };
        let setup_len = (setup_sectors + 1) * 512;
        let (setup, kernel) = file
            .split_at_checked(setup_len)
            .ok_or(truncated("the setup code", setup_len as u64))?;
        // `syssize` counts paragraphs of 16 bytes; it is 32 bits wide since 2.04.
        let syssize = if version >= 0x0204 {
            u64::from(header.syssize) * 16
        } else {
            0
        };
        if (kernel.len() as u64) < syssize || kernel.is_empty() {
            return Err(truncated(
                "the compressed kernel",
                setup_len as u64 + syssize.max(1),
            ));
        }
        let version = version_string(file, header.kernel_version);
        Ok(BzImage {
            header,
            setup,
            kernel,
            version,
        })
    }

    /// One line for people.
    pub fn describe(&self, protocol: Protocol) -> String {
        let version = self.header.version;
        let name = if self.version.is_empty() {
            "of unknown version"
        } else {
            &self.version
        };
        format!(
            "Linux {name}, bzImage (boot protocol {}.{:02}), {protocol}",
            version >> 8,
            version & 0xff
        )
    }

    /// Bytes that the kernel needs from its load address until it knows the memory map.
    pub fn init_size(&self) -> u64 {
        u64::from(self.header.init_size).max(self.kernel.len() as u64)
    }
}

/// The text at `kernel_version` + 0x200, up to its first space: "6.1.0-56-cloud-amd64".
fn version_string(file: &[u8], offset: u16) -> String {
    if offset == 0 {
        return String::new();
    }
    let text = file.get(0x200 + usize::from(offset)..).unwrap_or_default();
    let text = text.iter().take(64).take_while(|b| b.is_ascii_graphic());
    text.map(|&b| char::from(b)).collect()
}

/// Where the protected-mode part goes: at the address that the kernel prefers (where it will not have to move
/// itself), or, in a machine too small for that, as low as its alignment allows.
fn load_address(image: &BzImage<'_>, map: &MemoryMap) -> Result<u64, BootError> {
    const ONE_MIB: u64 = 1 << 20;
    let header = &image.header;
    let preferred = header.pref_address;
    let fits = |address: u64| {
        address
            .checked_add(image.init_size())
            .is_some_and(|end| end <= map.low_end)
    };
    if header.relocatable_kernel == 0 || (preferred >= ONE_MIB && fits(preferred)) {
        return Ok(preferred);
    }
    let alignment = u64::from(header.kernel_alignment);
    if !alignment.is_power_of_two() {
        return Err(BootError::Damaged(format!(
            "kernel_alignment {alignment:#x} is no power of two"
        )));
    }
    Ok(alignment.max(ONE_MIB))
}

/// Lays out a bzImage for its 64-bit entry.
pub(super) fn load64(request: &Request<'_>) -> Result<Image, BootError> {
    let image = BzImage::parse(request.kernel)?;
    if !image.has_entry64() {
        let why =
            "it is a 32-bit kernel, or older than boot protocol 2.12; the 16-bit entry may work";
        return Err(no_entry(Protocol::Linux64, why));
    }
    let map = MemoryMap::new(request.layout.ram_bytes);
    let mut plan = Plan::new(&map);
    let address = load_address(&image, &map)?;
    plan.put("the kernel", address, image.kernel, image.init_size())?;
    let initrd = match request.initrd {
        Some(initrd) => {
            let limit = u64::from(image.header.initrd_addr_max) + 1;
            Some((
                plan.put_high("the initrd", initrd, limit)?,
                initrd.len() as u64,
            ))
        }
        None => None,
    };
    let mut header = image.header;
    header.code32_start = address as u32;
    let handover = Handover {
        header,
        entry: address + ENTRY64,
        cmdline: request.cmdline,
        cmdline_max: image.header.cmdline_size as usize,
        initrd,
        acpi_rsdp: request.layout.acpi_rsdp,
    };
    let entry = hand_over(&mut plan, &map, handover)?;
    let description = image.describe(Protocol::Linux64);
    Ok(Image {
        pages: plan.into_pages(),
        entry,
        protocol: Protocol::Linux64,
        description,
    })
}

/// Lays out a bzImage for its 16-bit entry: setup code, its heap and stack in one segment, the BIOS beneath.
pub(super) fn load16(request: &Request<'_>) -> Result<Image, BootError> {
    let image = BzImage::parse(request.kernel)?;
    let header = &image.header;
    if header.version < 0x0202 {
        return Err(no_entry(
            Protocol::Linux16,
            "it is older than boot protocol 2.02",
        ));
    }
    let heap_end = REAL_MODE_END - 0x200;
    if image.setup.len() as u64 > heap_end - 0x1000 {
        return Err(BootError::Damaged(format!(
            "its setup code of {} bytes leaves no stack",
            image.setup.len()
        )));
    }
    let map = MemoryMap::new(request.layout.ram_bytes);
    let mut plan = Plan::new(&map);
    // The setup code is told where the rest is, and moves it where it wants it.
    const LOAD_ADDRESS: u64 = 1 << 20;
    plan.put("the kernel", LOAD_ADDRESS, image.kernel, 0)?;
    let entry = bios::put(&mut plan, &map)?;
    let cmdline = put_cmdline(&mut plan, request.cmdline, header.cmdline_size as usize)?;
    // Keeps the initrd away from where the kernel unpacks itself.
    let unpacked = header.pref_address.saturating_add(image.init_size());
    let initrd = match request.initrd {
        Some(initrd) => {
            let start =
                plan.put_high("the initrd", initrd, u64::from(header.initrd_addr_max) + 1)?;
            if header.version >= 0x020a && start < unpacked {
                return Err(BootError::InitrdTooBig {
                    size: initrd.len() as u64,
                    limit: map.low_end,
                });
            }
            (start as u32, initrd.len() as u32)
        }
        None => (0, 0),
    };

    let mut given = *header;
    given.type_of_loader = LOADER_UNDEFINED;
    given.loadflags |= CAN_USE_HEAP;
    given.heap_end_ptr = (heap_end - 0x200) as u16;
    given.code32_start = LOAD_ADDRESS as u32;
    given.cmd_line_ptr = cmdline as u32;
    (given.ramdisk_image, given.ramdisk_size) = initrd;
    let mut setup = image.setup.to_vec();
    // Only what the kernel has of the header: behind it is code.
    let len = (usize::from(setup[0x201]) + 0x202 - HEADER).min(size_of::<setup_header>());
    setup[HEADER..HEADER + len].copy_from_slice(&given.as_slice()[..len]);
    plan.put("the setup code", place::REAL_MODE, &setup, REAL_MODE_END)?;

    let segment = (place::REAL_MODE >> 4) as u16;
    let (cs, ip) = entry;
    let entry = Entry::Real16 {
        cs,
        ip,
        ds: segment,
        ss: segment,
        sp: heap_end as u16,
    };
    let description = image.describe(Protocol::Linux16);
    Ok(Image {
        pages: plan.into_pages(),
        entry,
        protocol: Protocol::Linux16,
        description,
    })
}
