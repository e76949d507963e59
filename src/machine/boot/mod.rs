//! Loading a kernel: from the bytes of its image to "what lies where in guest RAM, and where it starts".
//!
//! Everything here is a pure function of bytes. Nothing touches guest memory or a processor: the machine copies
//! [`Image::pages`] to RAM and makes the processor's state of [`Entry`].
//!
//! Protocols: the Linux boot protocol (Documentation/arch/x86/boot.rst) from its 64-bit and its 16-bit entry, Xen's
//! PVH direct boot (xen/docs/misc/pvh.pandoc), and Multiboot 0.6.96 ("Multiboot 1").
//! Deliberately not: the 32-bit Linux entry and the EFI handover (the 64-bit entry does what they do), EFI
//! applications, Multiboot 2, a firmware that boots from a disk.

mod bios;
mod bzimage;
mod elf;
mod linux;
mod memory_map;
mod multiboot;
mod plan;

use thiserror::Error;

pub use memory_map::{HIGH_RAM_START, LOW_RAM_END, MemoryMap, Range, RangeKind};

/// Where the loader puts its own structures; all below the first 640 KiB, out of the way of every kernel that
/// keeps to its protocol.
mod place {
    /// Global descriptor table of the entry state (one page).
    pub const GDT: u64 = 0x1000;
    /// hvm_start_info, its modules and memory map; or the Multiboot information and what it points to.
    pub const START_INFO: u64 = 0x2000;
    /// End of the space for [`START_INFO`].
    pub const START_INFO_END: u64 = 0x7000;
    /// Linux `struct boot_params`, the "zero page".
    pub const BOOT_PARAMS: u64 = 0x7000;
    /// Top of a small stack for entries that have one.
    pub const STACK_TOP: u64 = 0x9000;
    /// Identity page tables: PML4, PDPT and four page directories of 2 MiB pages.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// Linux real-mode code and its heap (one segment).
    pub const REAL_MODE: u64 = 0x10000;
    /// The command line, NUL-terminated.
    pub const COMMAND_LINE: u64 = 0x20000;
    /// Longest command line that fits there, without its NUL.
    pub const COMMAND_LINE_MAX: usize = 0xffff;
}

/// What the machine that loads the kernel looks like.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Bytes of RAM: the first [`LOW_RAM_END`] bytes lie at 0, the rest at [`HIGH_RAM_START`].
    pub ram_bytes: u64,
    /// Guest-physical address of the ACPI root pointer, 0 for none. The tables lie within 0xe0000..0x100000.
    pub acpi_rsdp: u64,
    /// The protocol to use; `None` chooses by what the image is.
    pub protocol: Option<Protocol>,
}

/// How a kernel is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Linux's 64-bit entry: bzImage, or the `startup_64` of a vmlinux.
    Linux64,
    /// Linux's 16-bit entry: the real-mode setup code of a bzImage, over a BIOS of our own.
    Linux16,
    /// The 32-bit entry named by an ELF note `XEN_ELFNOTE_PHYS32_ENTRY`.
    Pvh,
    /// Multiboot 1.
    Multiboot,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Linux64 => "64-bit Linux entry",
            Protocol::Linux16 => "16-bit Linux entry",
            Protocol::Pvh => "PVH",
            Protocol::Multiboot => "Multiboot",
        })
    }
}

/// A kernel laid out for a machine.
#[derive(Clone, Debug)]
pub struct Image {
    /// Guest-physical address and bytes of each piece, ascending, none overlapping, all within RAM. RAM that is
    /// in no piece is zero.
    pub pages: Vec<(u64, Vec<u8>)>,
    /// Where and in which state the processor starts.
    pub entry: Entry,
    /// The protocol that was used.
    pub protocol: Protocol,
    /// One line for people: what the kernel is and how it is started.
    pub description: String,
}

/// The flat descriptor table of a protected- or long-mode entry, which the loader has put into RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// GDTR base.
    pub gdt_base: u64,
    /// GDTR limit.
    pub gdt_limit: u16,
    /// Selector of the code segment (base 0, limit 4 GiB; 64-bit in a [`Entry::Long64`]).
    pub cs: u16,
    /// Selector of DS, ES, SS, FS and GS (base 0, limit 4 GiB, writable).
    pub ds: u16,
}

/// The processor's state at the first instruction; interrupts are off, and what is not named here is as after
/// reset. The machine makes its own processor state of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Long mode with paging on: CR0.PE/PG, CR4.PAE, EFER.LME/LMA.
    Long64 {
        rip: u64,
        /// Linux: address of `boot_params`.
        rsi: u64,
        rsp: u64,
        cr3: u64,
        segments: Segments,
    },
    /// Protected mode without paging: CR0.PE only. The task register holds a busy 32-bit TSS (selector 0x20) with
    /// base 0 and limit 0x67 (PVH asks for one).
    Protected32 {
        eip: u32,
        eax: u32,
        ebx: u32,
        esi: u32,
        esp: u32,
        segments: Segments,
    },
    /// Real mode; each segment's base is its selector times 16.
    Real16 {
        cs: u16,
        ip: u16,
        /// DS, ES, FS and GS.
        ds: u16,
        ss: u16,
        sp: u16,
    },
}

/// Why a kernel cannot be loaded. Each is one line that says what is wrong with which part.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BootError {
    #[error("the kernel image is empty")]
    Empty,
    #[error(
        "not a kernel that can be booted ({0}): a bzImage, an x86 ELF file or a Multiboot image is needed"
    )]
    Unrecognised(String),
    #[error("the kernel image is cut short: {what} needs {need} bytes, the file has {have}")]
    Truncated {
        what: &'static str,
        need: u64,
        have: u64,
    },
    #[error("the kernel image is damaged: {0}")]
    Damaged(String),
    #[error("the kernel cannot be started by the protocol «{protocol}»: {why}")]
    NoEntry { protocol: Protocol, why: String },
    #[error("not supported: {0}")]
    Unsupported(String),
    #[error(
        "{what} needs guest memory {start:#x}..{end:#x}, but usable RAM there is {ram_start:#x}..{ram_end:#x}; \
         more --memory may help"
    )]
    OutsideRam {
        what: String,
        start: u64,
        end: u64,
        ram_start: u64,
        ram_end: u64,
    },
    #[error(
        "{what} ({start:#x}..{end:#x}) would lie over {other} ({other_start:#x}..{other_end:#x})"
    )]
    Overlap {
        what: String,
        start: u64,
        end: u64,
        other: String,
        other_start: u64,
        other_end: u64,
    },
    #[error(
        "the initrd ({size} bytes) does not fit in RAM below {limit:#x}; more --memory may help"
    )]
    InitrdTooBig { size: u64, limit: u64 },
    #[error("the command line is {len} bytes long, this kernel takes {max}")]
    CommandLineTooLong { len: usize, max: usize },
    #[error("the command line contains a NUL byte")]
    CommandLineNul,
    #[error("{0} bytes of RAM are too few: at least 2 MiB are needed")]
    RamTooSmall(u64),
}

/// Lays out `kernel`, `initrd` and `cmdline` for the machine that `layout` describes.
///
/// Which protocol is used, unless `layout` asks for one: a bzImage starts at its 64-bit entry; a file with a
/// Multiboot header by Multiboot; an ELF file with the PVH note by PVH; any other 64-bit ELF file is taken for a
/// Linux vmlinux. For Multiboot the initrd is the first module.
pub fn load(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    cmdline: &str,
    layout: &Layout,
) -> Result<Image, BootError> {
    if kernel.is_empty() {
        return Err(BootError::Empty);
    }
    if layout.ram_bytes < 2 << 20 {
        return Err(BootError::RamTooSmall(layout.ram_bytes));
    }
    if cmdline.as_bytes().contains(&0) {
        return Err(BootError::CommandLineNul);
    }
    let request = Request {
        kernel,
        initrd,
        cmdline,
        layout,
    };
    if bzimage::is_bzimage(kernel) {
        return match layout.protocol {
            None if bzimage::lacks_entry64(kernel) => bzimage::load16(&request),
            None | Some(Protocol::Linux64) => bzimage::load64(&request),
            Some(Protocol::Linux16) => bzimage::load16(&request),
            Some(protocol) => Err(no_entry(
                protocol,
                "it is a bzImage; its unpacked vmlinux may have such an entry",
            )),
        };
    }
    if let Some(header) = multiboot::find_header(kernel)
        && matches!(layout.protocol, None | Some(Protocol::Multiboot))
    {
        return multiboot::load(&request, &header);
    }
    if layout.protocol == Some(Protocol::Multiboot) {
        return Err(no_entry(
            Protocol::Multiboot,
            "it has no Multiboot 1 header in its first 8 KiB",
        ));
    }
    if kernel.starts_with(&object::elf::ELFMAG) {
        return elf::load(&request);
    }
    Err(unrecognised(kernel))
}

/// The arguments of [`load`], together.
struct Request<'a> {
    kernel: &'a [u8],
    initrd: Option<&'a [u8]>,
    cmdline: &'a str,
    layout: &'a Layout,
}

fn no_entry(protocol: Protocol, why: impl Into<String>) -> BootError {
    BootError::NoEntry {
        protocol,
        why: why.into(),
    }
}

/// Names what the file is instead, where that is easily seen.
fn unrecognised(kernel: &[u8]) -> BootError {
    const MULTIBOOT2_MAGIC: [u8; 4] = 0xe852_50d6_u32.to_le_bytes();
    let known: [(&[u8], &str); 6] = [
        (b"\x1f\x8b", "it is gzip-compressed"),
        (b"\xfd7zXZ\0", "it is xz-compressed"),
        (b"\x28\xb5\x2f\xfd", "it is zstd-compressed"),
        (b"BZh", "it is bzip2-compressed"),
        (b"!<arch>\n", "it is an archive, such as a Debian package"),
        (b"07070", "it is a cpio archive, such as an initramfs"),
    ];
    if let Some((_, what)) = known.iter().find(|(magic, _)| kernel.starts_with(magic)) {
        return BootError::Unrecognised((*what).to_string());
    }
    let head = &kernel[..kernel.len().min(32 << 10)];
    if head.chunks_exact(8).any(|c| c[..4] == MULTIBOOT2_MAGIC) {
        return BootError::Unsupported(
            "Multiboot 2 (the image has no Multiboot 1 header)".to_string(),
        );
    }
    let start = kernel
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect::<Vec<_>>()
        .join(" ");
    BootError::Unrecognised(format!("{} bytes, starting with {start}", kernel.len()))
}

#[cfg(test)]
mod tests;
