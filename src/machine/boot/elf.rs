//! ELF kernels: a Linux vmlinux from its 64-bit entry, and whatever has a PVH entry (vmlinux, kernels of one's own).
//!
//! Segments go to their physical addresses (`p_paddr`). PVH: xen/docs/misc/pvh.pandoc, `hvm_start_info` version 1.

use linux_loader::loader::bootparam::setup_header;
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use object::LittleEndian as Le;
use object::elf::{
    ELFCLASS32, ELFCLASS64, ELFDATA2LSB, EM_386, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD,
};
use object::read::elf::{FileHeader, ProgramHeader};
use vm_memory::ByteValued;

use super::linux::{HDRS_MAGIC, Handover, hand_over, put_cmdline, put_gdt};
use super::plan::Plan;
use super::{BootError, Entry, Image, MemoryMap, Protocol, Request, no_entry, place};

/// The ELF note that carries the 32-bit entry, by the name "Xen".
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const START_INFO_MAGIC: u32 = 0x336e_c578;
/// What Linux itself takes (COMMAND_LINE_SIZE - 1); a vmlinux does not say.
const LINUX_CMDLINE_MAX: usize = 2047;

/// A loadable segment.
pub(super) struct Segment<'a> {
    /// Where it goes in physical memory.
    pub physical: u64,
    /// Where the kernel sees it.
    pub linear: u64,
    pub bytes: &'a [u8],
    /// Bytes in memory: what is beyond `bytes` is zero.
    pub len: u64,
}

/// What loading needs of an ELF file.
pub(super) struct ElfImage<'a> {
    pub wide: bool,
    pub entry: u64,
    pub segments: Vec<Segment<'a>>,
    pub pvh_entry: Option<u64>,
}

impl<'a> ElfImage<'a> {
    pub fn parse(file: &'a [u8]) -> Result<ElfImage<'a>, BootError> {
        let ident = file.get(..20).ok_or(BootError::Truncated {
            what: "the ELF header",
            need: 20,
            have: file.len() as u64,
        })?;
        if ident[5] != ELFDATA2LSB.0 {
            return Err(BootError::Unsupported("a big-endian ELF file".to_string()));
        }
        let machine = u16::from_le_bytes([ident[18], ident[19]]);
        match (ident[4], machine) {
            (class, machine) if class == ELFCLASS64.0 && machine == EM_X86_64.0 => {
                Self::of::<FileHeader64<Le>>(file)
            }
            (class, machine) if class == ELFCLASS32.0 && machine == EM_386.0 => {
                Self::of::<FileHeader32<Le>>(file)
            }
            (class, machine) => {
                let what = format!(
                    "an ELF file of class {class} for machine {machine} (x86-64 and i386 are known)"
                );
                Err(BootError::Unsupported(what))
            }
        }
    }

    fn of<H: FileHeader<Endian = Le>>(file: &'a [u8]) -> Result<ElfImage<'a>, BootError> {
        let damaged = |e: object::read::Error| BootError::Damaged(format!("as an ELF file: {e}"));
        let header = H::parse(file).map_err(damaged)?;
        let mut image = ElfImage {
            wide: header.is_class_64(),
            entry: header.e_entry(Le).into(),
            segments: Vec::new(),
            pvh_entry: None,
        };
        for (index, program) in header
            .program_headers(Le, file)
            .map_err(damaged)?
            .iter()
            .enumerate()
        {
            if let Some(notes) = program.notes(Le, file).map_err(damaged)? {
                image.pvh_entry = image.pvh_entry.or(find_pvh_entry(notes).map_err(damaged)?);
            }
            if program.p_type(Le) != PT_LOAD {
                continue;
            }
            let (offset, size) = program.file_range(Le);
            let bytes = program.data(Le, file).map_err(|()| BootError::Truncated {
                what: "an ELF segment",
                need: offset.saturating_add(size),
                have: file.len() as u64,
            })?;
            let len = program.p_memsz(Le).into();
            if size > len {
                let why =
                    format!("ELF segment {index} has {size} bytes in the file and {len} in memory");
                return Err(BootError::Damaged(why));
            }
            let (physical, linear) = (program.p_paddr(Le).into(), program.p_vaddr(Le).into());
            image.segments.push(Segment {
                physical,
                linear,
                bytes,
                len,
            });
        }
        if image.segments.iter().all(|segment| segment.len == 0) {
            return Err(BootError::Damaged(
                "the ELF file has nothing to load".to_string(),
            ));
        }
        Ok(image)
    }

    /// Puts all segments where they belong.
    pub fn put(&self, plan: &mut Plan) -> Result<(), BootError> {
        for (index, segment) in self.segments.iter().enumerate() {
            plan.put(
                &format!("the kernel's segment {index}"),
                segment.physical,
                segment.bytes,
                segment.len,
            )?;
        }
        Ok(())
    }

    /// The entry's physical address: it may be given as the kernel sees it, or as a physical address already.
    pub fn physical_entry(&self) -> Option<u64> {
        let segment = self
            .segments
            .iter()
            .find(|s| self.entry >= s.linear && self.entry - s.linear < s.len);
        match segment {
            Some(segment) => segment.physical.checked_add(self.entry - segment.linear),
            None => self.holds(self.entry).then_some(self.entry),
        }
    }

    /// Whether `address` lies in a segment as it is in physical memory.
    fn holds(&self, address: u64) -> bool {
        self.segments
            .iter()
            .any(|s| address >= s.physical && address - s.physical < s.len)
    }
}

/// Looks for the PVH entry among the notes of one segment.
fn find_pvh_entry<H: FileHeader<Endian = Le>>(
    mut notes: object::read::elf::NoteIterator<'_, H>,
) -> object::read::Result<Option<u64>> {
    while let Some(note) = notes.next()? {
        if note.name() == b"Xen" && note.n_type(Le).0 == XEN_ELFNOTE_PHYS32_ENTRY {
            // 4 bytes, or 8 as Linux has it; a 32-bit entry either way.
            let mut value = [0; 8];
            let len = note.desc().len().min(8);
            value[..len].copy_from_slice(&note.desc()[..len]);
            return Ok(Some(u64::from_le_bytes(value)));
        }
    }
    Ok(None)
}

/// Lays out an ELF file: by its PVH note when it has one, else as a vmlinux.
pub(super) fn load(request: &Request<'_>) -> Result<Image, BootError> {
    let image = ElfImage::parse(request.kernel)?;
    match (request.layout.protocol, image.pvh_entry) {
        (None | Some(Protocol::Pvh), Some(entry)) => load_pvh(request, &image, entry),
        (None | Some(Protocol::Linux64), _) if image.wide => load_vmlinux(request, &image),
        (None, _) => Err(BootError::Unrecognised(
            "a 32-bit ELF file with neither a Multiboot header nor a PVH entry note".to_string(),
        )),
        (Some(protocol @ Protocol::Pvh), _) => Err(no_entry(
            protocol,
            "the ELF file has no note XEN_ELFNOTE_PHYS32_ENTRY",
        )),
        (Some(protocol), _) => Err(no_entry(protocol, "the ELF file has no such entry")),
    }
}

/// A vmlinux: `e_entry` is the physical address of `startup_64`.
fn load_vmlinux(request: &Request<'_>, image: &ElfImage<'_>) -> Result<Image, BootError> {
    if !image.holds(image.entry) {
        let why = format!(
            "its entry {:#x} is not in the memory that it loads",
            image.entry
        );
        return Err(no_entry(Protocol::Linux64, why));
    }
    let map = MemoryMap::new(request.layout.ram_bytes);
    let mut plan = Plan::new(&map);
    image.put(&mut plan)?;
    let initrd = put_initrd(&mut plan, request.initrd)?;
    // There is no setup header in a vmlinux: this is what the kernel looks at in one.
    let header = setup_header {
        boot_flag: 0xaa55,
        header: HDRS_MAGIC,
        version: 0x020c,
        ..Default::default()
    };
    let handover = Handover {
        header,
        entry: image.entry,
        cmdline: request.cmdline,
        cmdline_max: LINUX_CMDLINE_MAX,
        initrd,
        acpi_rsdp: request.layout.acpi_rsdp,
    };
    let entry = hand_over(&mut plan, &map, handover)?;
    let description = format!("64-bit ELF kernel, {}", Protocol::Linux64);
    Ok(Image {
        pages: plan.into_pages(),
        entry,
        protocol: Protocol::Linux64,
        description,
    })
}

/// The initrd at the top of low RAM: start and size.
fn put_initrd(plan: &mut Plan, initrd: Option<&[u8]>) -> Result<Option<(u64, u64)>, BootError> {
    initrd
        .map(|bytes| {
            Ok((
                plan.put_high("the initrd", bytes, u64::MAX)?,
                bytes.len() as u64,
            ))
        })
        .transpose()
}

fn load_pvh(request: &Request<'_>, image: &ElfImage<'_>, entry: u64) -> Result<Image, BootError> {
    let eip = match u32::try_from(entry) {
        Ok(eip) if image.holds(entry) => eip,
        _ => {
            let why = format!("its entry {entry:#x} is not in the memory that it loads");
            return Err(no_entry(Protocol::Pvh, why));
        }
    };
    let map = MemoryMap::new(request.layout.ram_bytes);
    let mut plan = Plan::new(&map);
    image.put(&mut plan)?;
    let initrd = put_initrd(&mut plan, request.initrd)?;
    put_start_info(&mut plan, &map, request, initrd)?;
    let segments = put_gdt(&mut plan, false)?;
    let entry = Entry::Protected32 {
        eip,
        eax: 0,
        ebx: place::START_INFO as u32,
        esi: 0,
        esp: place::STACK_TOP as u32,
        segments,
    };
    let bits = if image.wide { 64 } else { 32 };
    let description = format!("{bits}-bit ELF kernel, {}", Protocol::Pvh);
    Ok(Image {
        pages: plan.into_pages(),
        entry,
        protocol: Protocol::Pvh,
        description,
    })
}

/// Puts hvm_start_info, then the module list, then the memory map.
fn put_start_info(
    plan: &mut Plan,
    map: &MemoryMap,
    request: &Request<'_>,
    initrd: Option<(u64, u64)>,
) -> Result<(), BootError> {
    let modules_at = place::START_INFO + size_of::<hvm_start_info>() as u64;
    let map_at = modules_at + size_of::<hvm_modlist_entry>() as u64;
    let info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { modules_at } else { 0 },
        cmdline_paddr: put_cmdline(plan, request.cmdline, LINUX_CMDLINE_MAX)?,
        rsdp_paddr: request.layout.acpi_rsdp,
        memmap_paddr: map_at,
        memmap_entries: map.ranges.len() as u32,
        ..Default::default()
    };
    let (paddr, size) = initrd.unwrap_or_default();
    let mut bytes = info.as_slice().to_vec();
    bytes.extend_from_slice(
        hvm_modlist_entry {
            paddr,
            size,
            ..Default::default()
        }
        .as_slice(),
    );
    for range in &map.ranges {
        let line = hvm_memmap_table_entry {
            addr: range.start,
            size: range.len,
            type_: range.kind as u32,
            ..Default::default()
        };
        bytes.extend_from_slice(line.as_slice());
    }
    plan.put(
        "the start information",
        place::START_INFO,
        &bytes,
        place::START_INFO_END - place::START_INFO,
    )
}
