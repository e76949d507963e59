//! An ELF file of nothing but symbols, for GDB: Debian's kernels come without, and KASLR moves them; but a running
//! kernel names its own symbols in /proc/kallsyms.
//!
//! ELF-64 Object File Format, version 1.5; sections: text, data (both without contents), symbol and string tables.

/// A symbol, where it really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Where it begins, a virtual address.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Code, as opposed to data.
    pub code: bool,
}

/// Finds symbols in text that has pieces of /proc/kallsyms in it, such as what `grep -A1` makes: a symbol's length is
/// known from the line behind it. Other lines are passed over.
pub fn from_kallsyms(text: &str) -> Vec<Symbol> {
    let rows: Vec<Option<(u64, char, &str)>> = text.lines().map(|line| row(line.trim())).collect();
    let mut symbols: Vec<Symbol> = Vec::new();
    for pair in rows.windows(2) {
        let (Some((address, kind, name)), Some((next, ..))) = (pair[0], pair[1]) else {
            continue;
        };
        if address >= KERNEL_SPACE && next >= address {
            symbols.push(Symbol {
                name: name.to_string(),
                address,
                size: next - address,
                code: "tTwW".contains(kind),
            });
        }
    }
    symbols.sort_by(|a, b| a.address.cmp(&b.address).then(a.name.cmp(&b.name)));
    symbols.dedup();
    symbols
}

/// Addresses of the kernel are above this; the others in the list are offsets within a processor's data.
const KERNEL_SPACE: u64 = 0xffff_8000_0000_0000;

/// A line of /proc/kallsyms: address, kind, name; a module's name is no part of it.
fn row(line: &str) -> Option<(u64, char, &str)> {
    let mut words = line.split_whitespace();
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    let mut kinds = kind.chars();
    let kind = kinds.next().filter(char::is_ascii_alphabetic)?;
    if address.len() != 16 || kinds.next().is_some() || words.next().is_some() {
        return None;
    }
    Some((u64::from_str_radix(address, 16).ok()?, kind, name))
}

/// The address of a symbol.
pub fn address_of(symbols: &[Symbol], name: &str) -> Option<u64> {
    symbols
        .iter()
        .find(|symbol| symbol.name == name)
        .map(|symbol| symbol.address)
}

const HEADER_BYTES: usize = 64;
const SECTION_BYTES: usize = 64;
const TEXT: u16 = 1;
const DATA: u16 = 2;
const SECTION_NAMES: &[u8] = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0";

/// The file: `text` and `data` are the ranges of addresses (first, behind the last) that symbols lie in.
pub fn elf(symbols: &[Symbol], text: (u64, u64), data: (u64, u64)) -> Vec<u8> {
    let mut names = vec![0];
    let mut table = vec![0; 24];
    for symbol in symbols {
        let (kind, section) = if symbol.code { (2, TEXT) } else { (1, DATA) };
        table.extend((names.len() as u32).to_le_bytes());
        // Global, a function or an object; default visibility.
        table.extend([1 << 4 | kind, 0]);
        table.extend(section.to_le_bytes());
        table.extend(symbol.address.to_le_bytes());
        table.extend(symbol.size.to_le_bytes());
        names.extend(symbol.name.bytes());
        names.push(0);
    }
    let symtab_at = HEADER_BYTES;
    let strtab_at = symtab_at + table.len();
    let shstrtab_at = strtab_at + names.len();
    let sections_at = (shstrtab_at + SECTION_NAMES.len()).next_multiple_of(8);

    let mut file = Vec::with_capacity(sections_at + 6 * SECTION_BYTES);
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(2u16.to_le_bytes()); // an executable: addresses are final
    file.extend(62u16.to_le_bytes()); // x86-64
    file.extend(1u32.to_le_bytes());
    file.extend(text.0.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend((sections_at as u64).to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for number in [HEADER_BYTES as u16, 56, 0, SECTION_BYTES as u16, 6, 5] {
        file.extend(number.to_le_bytes());
    }
    file.extend(&table);
    file.extend(&names);
    file.extend(SECTION_NAMES);
    file.resize(sections_at, 0);

    let size = |range: (u64, u64)| range.1.saturating_sub(range.0);
    let mut section =
        |name: &[u8], kind: u32, numbers: [u64; 4], link: u32, info: u32, entry: u64| {
            let found = SECTION_NAMES.windows(name.len()).position(|at| at == name);
            file.extend((found.unwrap_or(0) as u32).to_le_bytes());
            file.extend(kind.to_le_bytes());
            numbers.iter().for_each(|n| file.extend(n.to_le_bytes()));
            file.extend(link.to_le_bytes());
            file.extend(info.to_le_bytes());
            file.extend(16u64.to_le_bytes());
            file.extend(entry.to_le_bytes());
        };
    // Flags: 1 write, 2 allocated, 4 code. Kinds: 2 symbols, 3 strings, 8 without contents.
    let at = |offset: usize, len: usize| [0, 0, offset as u64, len as u64];
    section(b"\0", 0, [0; 4], 0, 0, 0);
    section(
        b".text\0",
        8,
        [6, text.0, HEADER_BYTES as u64, size(text)],
        0,
        0,
        0,
    );
    section(
        b".data\0",
        8,
        [3, data.0, HEADER_BYTES as u64, size(data)],
        0,
        0,
        0,
    );
    section(b".symtab\0", 2, at(symtab_at, table.len()), 4, 1, 24);
    section(b".strtab\0", 3, at(strtab_at, names.len()), 0, 0, 0);
    section(
        b".shstrtab\0",
        3,
        at(shstrtab_at, SECTION_NAMES.len()),
        0,
        0,
        0,
    );
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object, ObjectSymbol};

    const KALLSYMS: &str = "hello\n\
        000000000001fb80 A current_task\r\n\
        000000000001fb88 A next\n\
        ffffffff92000000 T _text\n\
        ffffffff92000040 T secondary_startup_64\n\
        --\n\
        ffffffff920b18f0 T __x64_sys_sethostname\n\
        ffffffff920b1910 t other [module]\n\
        --\n\
        ffffffff93bf9b60 D init_uts_ns\n\
        ffffffff93bf9d00 D after";

    #[test]
    fn a_symbol_is_as_long_as_the_next_is_away() {
        let symbols = from_kallsyms(KALLSYMS);
        let found: Vec<_> = symbols
            .iter()
            .map(|s| (s.name.as_str(), s.size, s.code))
            .collect();
        assert_eq!(
            found,
            [("_text", 0x40, true), ("init_uts_ns", 0x1a0, false)]
        );
        assert_eq!(address_of(&symbols, "_text"), Some(0xffff_ffff_9200_0000));
    }

    #[test]
    fn an_independent_reader_finds_them() {
        let symbols = from_kallsyms(KALLSYMS);
        let (text, data) = (
            (0xffff_ffff_9200_0000, 0xffff_ffff_92e0_0000),
            (0xffff_ffff_92e0_0000, u64::MAX),
        );
        let bytes = elf(&symbols, text, data);
        let file = object::File::parse(&*bytes).unwrap();
        let found: Vec<_> = file
            .symbols()
            .map(|s| (s.name().unwrap().to_string(), s.address(), s.size()))
            .collect();
        let expected: Vec<_> = symbols
            .iter()
            .map(|s| (s.name.clone(), s.address, s.size))
            .collect();
        assert_eq!(found, expected);
    }
}
