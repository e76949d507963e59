//! Loaded modules (include/linux/module.h): the kernel's list `modules`, read by the offsets that BTF gives.

use super::Kernel;
use super::btf::Types;
use crate::guest::{Guest, GuestError};

/// A list that is longer goes in a circle.
const MODULES_MAX: usize = 4096;
/// More sections than any module has.
const SECTIONS_MAX: u64 = 256;
/// Room for names: MODULE_NAME_LEN is 56.
const NAME_BYTES: usize = 64;

/// A module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, as `lsmod` shows it.
    pub name: String,
    /// Address of its `struct module`.
    pub address: u64,
    /// Where its code is.
    pub text: u64,
    /// Length of that in bytes.
    pub text_bytes: u64,
    /// As in `/sys/module/NAME/sections`: name and address. Empty where the kernel does not keep them.
    pub sections: Vec<(String, u64)>,
}

/// All modules that are loaded, the newest first.
pub fn list(guest: &dyn Guest, kernel: &Kernel, types: &Types) -> Result<Vec<Module>, GuestError> {
    let head = kernel.symbol("modules")?.address;
    let link = types.offset("module", &["list"])?;
    let mut found = Vec::new();
    let mut at = kernel.space.read_u64(guest, head);
    while let Some(next) = at {
        if next == head {
            return Ok(found);
        }
        if found.len() >= MODULES_MAX {
            return Err(GuestError::Damaged("list of modules", "it does not end"));
        }
        found.push(read(guest, kernel, types, next.wrapping_sub(link))?);
        at = kernel.space.read_u64(guest, next);
    }
    Err(GuestError::Missing("list of modules"))
}

fn read(
    guest: &dyn Guest,
    kernel: &Kernel,
    types: &Types,
    address: u64,
) -> Result<Module, GuestError> {
    let field = |path: &[&str]| types.offset("module", path);
    // Until 6.3 there is one block of memory for all that stays; since then one for each kind, the code first.
    let (text, size) = match field(&["core_layout"]) {
        Ok(layout) => (
            layout.wrapping_add(types.offset("module_layout", &["base"])?),
            layout.wrapping_add(types.offset("module_layout", &["text_size"])?),
        ),
        Err(_) => {
            let memory = field(&["mem"])?;
            (
                memory.wrapping_add(types.offset("module_memory", &["base"])?),
                memory.wrapping_add(types.offset("module_memory", &["size"])?),
            )
        }
    };
    let long = |offset: u64| kernel.space.read_u64(guest, address.wrapping_add(offset));
    let missing = GuestError::Missing("list of modules");
    Ok(Module {
        name: name(guest, kernel, address.wrapping_add(field(&["name"])?))
            .ok_or(missing.clone())?,
        address,
        text: long(text).ok_or(missing.clone())?,
        text_bytes: kernel
            .space
            .read_u32(guest, address.wrapping_add(size))
            .ok_or(missing)?
            .into(),
        sections: sections(guest, kernel, types, address).unwrap_or_default(),
    })
}

/// The sections, where the kernel keeps them for sysfs (kernel/module/sysfs.c).
fn sections(
    guest: &dyn Guest,
    kernel: &Kernel,
    types: &Types,
    module: u64,
) -> Option<Vec<(String, u64)>> {
    let long = |at: u64| kernel.space.read_u64(guest, at);
    let attributes = long(module.wrapping_add(types.offset("module", &["sect_attrs"]).ok()?))?;
    if attributes == 0 {
        return None;
    }
    let first = attributes.wrapping_add(types.offset("module_sect_attrs", &["attrs"]).ok()?);
    let count = attributes.wrapping_add(types.offset("module_sect_attrs", &["nsections"]).ok()?);
    let count = u64::from(kernel.space.read_u32(guest, count)?).min(SECTIONS_MAX);
    let size = types.size(types.by_name("module_sect_attr")?)?;
    let value = types.offset("module_sect_attr", &["address"]).ok()?;
    let label = types
        .offset("module_sect_attr", &["battr", "attr", "name"])
        .ok()?;
    (0..count)
        .map(|n| {
            let one = first.wrapping_add(n * size);
            let name = name(guest, kernel, long(one.wrapping_add(label))?)?;
            Some((name, long(one.wrapping_add(value))?))
        })
        .collect()
}

fn name(guest: &dyn Guest, kernel: &Kernel, address: u64) -> Option<String> {
    let mut bytes = [0; NAME_BYTES];
    let read = kernel.space.read(guest, address, &mut bytes);
    let end = bytes[..read].iter().position(|&byte| byte == 0)?;
    let shown = |&byte: &u8| match byte {
        b'!'..=b'~' => byte as char,
        _ => '?',
    };
    Some(bytes[..end].iter().map(shown).collect())
}
