//! Where the functions of the guest's kernel are: out of its own symbol table, or out of the ELF file that it came
//! from.
//!
//! Not found: code that has no symbol there, and that of loadable modules.

use super::linux::Kernel;
use super::{Guest, OfMachine};
use crate::machine::{Code, Machine};
use object::{Object, ObjectSymbol, SymbolKind};

/// Longer functions are not believed.
const FUNCTION_MAX: u64 = 1 << 16;
/// All functions together: the table is the guest's, and disassembling takes time.
const TEXT_MAX: u64 = 128 << 20;

/// The functions of a Linux kernel that runs in the machine, or of the ELF file `kernel` as it is loaded; by address.
pub fn functions(machine: &Machine, kernel: &[u8]) -> Vec<Code> {
    let guest = OfMachine(machine);
    match Kernel::find(&guest) {
        Ok(kernel) => of_linux(&guest, &kernel),
        Err(error) => {
            log::debug!("no functions of Linux: {error}");
            of_file(machine, kernel)
        }
    }
}

fn of_linux(guest: &dyn Guest, kernel: &Kernel) -> Vec<Code> {
    let limit = |name: &str| kernel.symbols.by_name(name).map(|symbol| symbol.address);
    let (Some(first), Some(end)) = (kernel.text(), limit("_etext")) else {
        return Vec::new();
    };
    let mut starts: Vec<u64> = kernel
        .symbols
        .iter()
        .filter(|symbol| matches!(symbol.kind, b't' | b'T' | b'w' | b'W'))
        .map(|symbol| symbol.address)
        .filter(|address| (first..end).contains(address))
        .collect();
    starts.sort_unstable();
    starts.dedup();
    let place = |start: u64, end: u64| {
        let (gpa, room) = kernel.space.translate(guest, start)?;
        let bytes = (end - start).min(FUNCTION_MAX);
        let (last, _) = kernel.space.translate(guest, end - 1)?;
        let whole = bytes <= room || last == gpa + (end - 1 - start);
        whole.then_some(Code {
            address: start,
            gpa,
            bytes,
        })
    };
    let ends = starts.iter().skip(1).copied().chain([end]);
    let mut room = TEXT_MAX;
    starts
        .iter()
        .zip(ends)
        .filter_map(|(&start, end)| place(start, end))
        .take_while(|code| {
            let fits = code.bytes <= room;
            room = room.saturating_sub(code.bytes);
            fits
        })
        .collect()
}

/// Functions of a kernel that was just loaded: linear addresses are physical ones.
fn of_file(machine: &Machine, kernel: &[u8]) -> Vec<Code> {
    let Ok(file) = object::File::parse(kernel) else {
        return Vec::new();
    };
    let mut starts: Vec<(u64, u64)> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .map(|symbol| (symbol.address(), symbol.size()))
        .collect();
    starts.sort_unstable();
    starts.dedup_by_key(|symbol| symbol.0);
    let mut found = Vec::new();
    for (n, &(address, size)) in starts.iter().enumerate() {
        let next = starts.get(n + 1).map_or(u64::MAX, |next| next.0);
        let bytes = (next - address).min(FUNCTION_MAX);
        let bytes = if size > 0 { size.min(bytes) } else { bytes };
        let last = address.saturating_add(bytes - 1);
        let in_ram = |at| machine.cpu.memory.page_index(at).is_some();
        if in_ram(address) && in_ram(last) {
            found.push(Code {
                address,
                gpa: address,
                bytes,
            });
        }
    }
    found
}
