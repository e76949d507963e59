//! The ELF file: sections without contents, the symbol table, and sections of debug information.

use crate::guest::GuestError;
use crate::guest::linux::Kernel;
use crate::guest::linux::kallsyms::Symbol;
use object::elf;
use object::write::elf::{FileHeader, SectionHeader, SectionIndex, Sym, Writer};

/// A range of kernel memory that becomes a section.
struct Range {
    name: &'static [u8],
    start: u64,
    end: u64,
    executable: bool,
}

/// The sections that the kernel's memory falls into, by address, without gaps. GDB takes only symbols in executable
/// sections for code.
fn ranges(kernel: &Kernel) -> Vec<Range> {
    let address = |name: &str| kernel.symbols.by_name(name).map(|s| s.address);
    let first = address("_text").or_else(|| kernel.text()).unwrap_or(0);
    let end = address("_end").unwrap_or_else(|| kernel.image.end());
    let end = end.max(first);
    let mut bounds = Vec::new();
    for (name, from, to) in [
        (&b".text"[..], Some(first), address("_etext")),
        (b".init.text", address("_sinittext"), address("_einittext")),
    ] {
        if let (Some(start), Some(end)) = (from, to)
            && start < end
        {
            bounds.push((name, start, end));
        }
    }
    if bounds.is_empty() {
        bounds.push((b".text", first, end));
    }
    bounds.sort_by_key(|&(_, start, _)| start);
    let mut ranges: Vec<Range> = Vec::new();
    let mut at = first;
    let data = [&b".data"[..], b".data.1", b".data.2"];
    for (name, start, end) in bounds {
        if start < at {
            continue;
        }
        if start > at {
            let name = data[ranges.len().min(2)];
            ranges.push(Range {
                name,
                start: at,
                end: start,
                executable: false,
            });
        }
        ranges.push(Range {
            name,
            start,
            end,
            executable: true,
        });
        at = end;
    }
    if at < end {
        ranges.push(Range {
            name: b".bss",
            start: at,
            end,
            executable: false,
        });
    }
    ranges
}

/// A symbol with what the file says of it.
struct Placed<'a> {
    symbol: Symbol<'a>,
    size: u64,
    /// Index into the ranges; none: absolute.
    range: Option<usize>,
}

/// Symbols with their sizes, which kallsyms does not know: up to the next address, but not beyond the section.
fn place<'a>(kernel: &'a Kernel, ranges: &[Range]) -> Vec<Placed<'a>> {
    let mut next = u64::MAX;
    let mut address = u64::MAX;
    let symbols: Vec<Symbol> = kernel.symbols.iter().collect();
    let mut placed: Vec<Placed> = symbols
        .into_iter()
        .rev()
        .map(|symbol| {
            if symbol.address != address {
                next = address;
                address = symbol.address;
            }
            let range = ranges
                .iter()
                .position(|r| (r.start..r.end).contains(&symbol.address));
            let size = range.map_or(0, |n| next.min(ranges[n].end) - symbol.address);
            Placed {
                symbol,
                size,
                range,
            }
        })
        .collect();
    placed.reverse();
    // Local symbols come first in ELF.
    placed.sort_by_key(|placed| !is_local(placed.symbol.kind));
    placed
}

/// In `nm`'s letters, lower case is local, but for weak symbols.
fn is_local(kind: u8) -> bool {
    kind.is_ascii_lowercase() && !matches!(kind, b'w' | b'v' | b'u')
}

fn binding_and_type(placed: &Placed, ranges: &[Range]) -> u8 {
    let kind = placed.symbol.kind;
    let binding = match kind {
        b'w' | b'W' | b'v' | b'V' => elf::STB_WEAK,
        _ if is_local(kind) => elf::STB_LOCAL,
        _ => elf::STB_GLOBAL,
    };
    let what = match placed.range {
        Some(n) if ranges[n].executable => elf::STT_FUNC,
        Some(_) if !kind.eq_ignore_ascii_case(&b'a') => elf::STT_OBJECT,
        _ => elf::STT_NOTYPE,
    };
    binding.0 << 4 | what.0
}

/// Writes the file, with debug sections by name.
pub fn write(kernel: &Kernel, debug: &[(&'static str, Vec<u8>)]) -> Result<Vec<u8>, GuestError> {
    let failed = |why: object::write::Error| GuestError::Writing(why.to_string());
    let ranges = ranges(kernel);
    let placed = place(kernel, &ranges);
    let mut bytes = Vec::new();
    let mut writer = Writer::new(object::Endianness::Little, true, &mut bytes);

    writer.reserve_file_header();
    writer.reserve_null_section_index();
    let sections: Vec<(SectionIndex, _)> = ranges
        .iter()
        .map(|range| {
            let name = writer.add_section_name(range.name);
            (writer.reserve_section_index(), name)
        })
        .collect();
    let mut debug_sections = Vec::new();
    for (name, contents) in debug {
        let id = writer.add_section_name(name.as_bytes());
        writer.reserve_section_index();
        debug_sections.push((id, contents));
    }
    let symtab = writer.reserve_symtab_section_index();
    let strtab = writer.reserve_strtab_section_index();
    let shstrtab = writer.reserve_shstrtab_section_index();
    let _ = (symtab, strtab, shstrtab);
    writer.reserve_null_symbol_index();
    let names: Vec<_> = placed
        .iter()
        .map(|placed| {
            let section = placed.range.map(|n| sections[n].0);
            writer.reserve_symbol_index(section);
            writer.add_string(placed.symbol.name.as_bytes())
        })
        .collect();
    let offsets: Vec<u64> = debug_sections
        .iter()
        .map(|(_, contents)| writer.reserve(contents.len() as u64, 1))
        .collect();
    writer.reserve_symtab();
    writer.reserve_strtab().map_err(failed)?;
    writer.reserve_shstrtab().map_err(failed)?;
    writer.reserve_section_headers();

    writer
        .write_file_header(&FileHeader {
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            e_type: elf::ET_EXEC,
            e_machine: elf::EM_X86_64,
            e_entry: ranges.first().map_or(0, |range| range.start),
            e_flags: elf::FileFlags(0),
        })
        .map_err(failed)?;
    for (_, contents) in &debug_sections {
        writer.write(contents);
    }
    writer.write_null_symbol();
    for (placed, name) in placed.iter().zip(names) {
        let symbol = Sym {
            st_name: writer.string_offset(Some(name)),
            section: placed.range.map(|n| sections[n].0.0),
            st_info: elf::SymbolInfo(binding_and_type(placed, &ranges)),
            st_other: elf::SymbolOther(0),
            st_shndx: match placed.range {
                Some(_) => elf::SHN_UNDEF,
                None => elf::SHN_ABS,
            },
            st_value: placed.symbol.address,
            st_size: placed.size,
        };
        writer.write_symbol(&symbol);
    }
    writer.write_strtab();
    writer.write_shstrtab();
    write_section_headers(
        &mut writer,
        ranges.iter().zip(sections.iter().map(|(_, name)| *name)),
        debug_sections.iter().zip(offsets),
        placed.iter().filter(|p| is_local(p.symbol.kind)).count() as u32 + 1,
    );
    Ok(bytes)
}

fn write_section_headers<'a>(
    writer: &mut Writer,
    ranges: impl Iterator<Item = (&'a Range, object::write::StringId)>,
    debug: impl Iterator<Item = (&'a (object::write::StringId, &'a Vec<u8>), u64)>,
    locals: u32,
) {
    writer.write_null_section_header();
    for (range, name) in ranges {
        let access = if range.executable {
            elf::SHF_EXECINSTR
        } else {
            elf::SHF_WRITE
        };
        let header = SectionHeader {
            sh_name: writer.section_name_offset(Some(name)),
            sh_type: elf::SHT_NOBITS,
            sh_flags: elf::SHF_ALLOC | access,
            sh_addr: range.start,
            sh_offset: 0,
            sh_size: range.end - range.start,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: 1,
            sh_entsize: 0,
        };
        writer.write_section_header(&header);
    }
    for ((name, contents), offset) in debug {
        let header = SectionHeader {
            sh_name: writer.section_name_offset(Some(*name)),
            sh_type: elf::SHT_PROGBITS,
            sh_flags: elf::SectionFlags(0),
            sh_addr: 0,
            sh_offset: offset,
            sh_size: contents.len() as u64,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: 1,
            sh_entsize: 0,
        };
        writer.write_section_header(&header);
    }
    writer.write_symtab_section_header(locals);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
}
