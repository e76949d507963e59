//! BTF as DWARF 4 (dwarfstd.org), in one compilation unit: types, functions with their prototypes, per-CPU variables
//! and the best-known others.
//!
//! A per-CPU variable is shown as processor 0 has it: its location is its offset plus `__per_cpu_offset[0]`.

use super::variables::{self, Shape};
use crate::guest::GuestError;
use crate::guest::linux::Kernel;
use crate::guest::linux::btf::{Kind, Type, TypeId, Types};
use gimli::constants as dw;
use gimli::write::{
    Address, AttributeValue, DwarfUnit, EndianVec, Expression, LineProgram, Sections, UnitEntryId,
};
use gimli::{Encoding, Format, LittleEndian};

/// Kernel addresses.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;
/// Members, parameters and values together that are written: each takes some 200 bytes while it is made.
const PARTS_MAX: usize = 2 << 20;
/// Bytes of all names that are written.
const NAMES_MAX: usize = 64 << 20;

/// The debug sections by name.
pub fn sections(
    kernel: &Kernel,
    types: &Types,
) -> Result<Vec<(&'static str, Vec<u8>)>, GuestError> {
    let mut unit = Unit::new(kernel, types);
    unit.all_types()?;
    unit.functions_and_variables();
    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    unit.dwarf
        .write(&mut sections)
        .map_err(|why| GuestError::Writing(why.to_string()))?;
    let mut out = Vec::new();
    let done: Result<(), GuestError> = sections.for_each(|id, section| {
        if !section.slice().is_empty() {
            out.push((id.name(), section.slice().to_vec()));
        }
        Ok(())
    });
    done.map(|()| out)
}

struct Unit<'a> {
    kernel: &'a Kernel,
    types: &'a Types,
    dwarf: DwarfUnit,
    root: UnitEntryId,
    /// The entry of each type; none for what is no type of its own in DWARF.
    entries: Vec<Option<UnitEntryId>>,
    /// Of `unsigned long`, for the bounds of arrays.
    index: UnitEntryId,
    parts: usize,
    names: usize,
}

impl<'a> Unit<'a> {
    fn new(kernel: &'a Kernel, types: &'a Types) -> Unit<'a> {
        let mut dwarf = DwarfUnit::new(Encoding {
            format: Format::Dwarf32,
            version: 4,
            address_size: 8,
        });
        dwarf.unit.line_program = LineProgram::none();
        let root = dwarf.unit.root();
        let index = dwarf.unit.add(root, dw::DW_TAG_base_type);
        let entries = types
            .all()
            .iter()
            .map(|one| has_entry(&one.kind).then(|| dwarf.unit.reserve()))
            .collect();
        let mut unit = Unit {
            kernel,
            types,
            dwarf,
            root,
            entries,
            index,
            parts: 0,
            names: 0,
        };
        unit.text(
            root,
            dw::DW_AT_producer,
            b"retrovisor, from the kernel's BTF",
        );
        unit.text(root, dw::DW_AT_name, b"vmlinux");
        unit.set(
            root,
            dw::DW_AT_language,
            AttributeValue::Language(dw::DW_LANG_C11),
        );
        unit.text(index, dw::DW_AT_name, b"sizetype");
        unit.set(index, dw::DW_AT_byte_size, AttributeValue::Udata(8));
        unit.set(
            index,
            dw::DW_AT_encoding,
            AttributeValue::Encoding(dw::DW_ATE_unsigned),
        );
        unit
    }

    fn set(&mut self, entry: UnitEntryId, name: gimli::DwAt, value: AttributeValue) {
        self.dwarf.unit.get_mut(entry).set(name, value);
    }

    fn text(&mut self, entry: UnitEntryId, name: gimli::DwAt, text: &[u8]) {
        self.names += text.len();
        if !text.is_empty() && self.names <= NAMES_MAX {
            // Names come from NUL-terminated strings, so that there is no NUL in them.
            let id = self.dwarf.strings.add(text);
            self.set(entry, name, AttributeValue::StringRef(id));
        }
    }

    fn name(&mut self, entry: UnitEntryId, name: u32) {
        let types = self.types;
        self.text(entry, dw::DW_AT_name, types.name(name));
    }

    /// The type of something; `void` is none.
    fn of(&mut self, entry: UnitEntryId, mut id: TypeId) {
        // Attributes of types are nothing to GDB.
        for _ in 0..16 {
            match self.types.get(id).kind {
                Kind::Tag(of) => id = of,
                _ => break,
            }
        }
        if let Some(Some(of)) = self.entries.get(id as usize).copied() {
            self.set(entry, dw::DW_AT_type, AttributeValue::UnitRef(of));
        }
    }

    /// Counts parts of types; a hostile kernel can have more than there is memory for.
    fn count(&mut self, parts: usize) -> Result<(), GuestError> {
        self.parts += parts;
        if self.parts > PARTS_MAX || self.names > NAMES_MAX {
            return Err(GuestError::Damaged(
                "type information (BTF)",
                "there is too much of it",
            ));
        }
        Ok(())
    }

    fn all_types(&mut self) -> Result<(), GuestError> {
        let types = self.types;
        for (id, one) in types.all().iter().enumerate() {
            if let Some(entry) = self.entries[id] {
                self.dwarf
                    .unit
                    .add_reserved(entry, self.root, tag(&one.kind));
                self.one(entry, one)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, entry: UnitEntryId, one: &Type) -> Result<(), GuestError> {
        self.count(1)?;
        self.name(entry, one.name);
        match &one.kind {
            &Kind::Int {
                bytes,
                signed,
                boolean,
                character,
            } => {
                // BTF does not mark `char` as a character.
                let character = character
                    || matches!(
                        self.types.name(one.name),
                        b"char" | b"unsigned char" | b"signed char"
                    );
                let encoding = match (boolean, character, signed) {
                    (true, _, _) => dw::DW_ATE_boolean,
                    (_, true, false) if self.types.name(one.name) == b"char" => {
                        dw::DW_ATE_signed_char
                    }
                    (_, true, true) => dw::DW_ATE_signed_char,
                    (_, true, false) => dw::DW_ATE_unsigned_char,
                    (_, _, true) => dw::DW_ATE_signed,
                    _ => dw::DW_ATE_unsigned,
                };
                self.bytes(entry, bytes.into());
                self.set(
                    entry,
                    dw::DW_AT_encoding,
                    AttributeValue::Encoding(encoding),
                );
            }
            &Kind::Float(bytes) => {
                self.bytes(entry, bytes.into());
                self.set(
                    entry,
                    dw::DW_AT_encoding,
                    AttributeValue::Encoding(dw::DW_ATE_float),
                );
            }
            &Kind::Pointer(of) => {
                self.bytes(entry, 8);
                self.of(entry, of);
            }
            &Kind::Array { of, count } => {
                self.of(entry, of);
                let range = self.dwarf.unit.add(entry, dw::DW_TAG_subrange_type);
                let index = self.index;
                self.set(range, dw::DW_AT_type, AttributeValue::UnitRef(index));
                // GDB shows an array without a count as `[]`.
                if count > 0 {
                    self.set(range, dw::DW_AT_count, AttributeValue::Udata(count.into()));
                }
            }
            Kind::Struct { bytes, members, .. } => {
                self.count(members.len())?;
                self.bytes(entry, (*bytes).into());
                for member in members {
                    let part = self.dwarf.unit.add(entry, dw::DW_TAG_member);
                    self.name(part, member.name);
                    self.of(part, member.of);
                    if member.bits == 0 {
                        let at = u64::from(member.bit_offset / 8);
                        self.set(
                            part,
                            dw::DW_AT_data_member_location,
                            AttributeValue::Udata(at),
                        );
                    } else {
                        let at = u64::from(member.bit_offset);
                        self.set(part, dw::DW_AT_data_bit_offset, AttributeValue::Udata(at));
                        self.set(
                            part,
                            dw::DW_AT_bit_size,
                            AttributeValue::Udata(member.bits.into()),
                        );
                    }
                }
            }
            Kind::Enum {
                bytes,
                signed,
                values,
            } => {
                self.count(values.len())?;
                self.bytes(entry, (*bytes).into());
                for &(name, value) in values {
                    let part = self.dwarf.unit.add(entry, dw::DW_TAG_enumerator);
                    self.name(part, name);
                    let value = match signed {
                        true => AttributeValue::Sdata(value as i64),
                        false => AttributeValue::Udata(value),
                    };
                    self.set(part, dw::DW_AT_const_value, value);
                }
            }
            Kind::Forward { .. } => {
                self.set(entry, dw::DW_AT_declaration, AttributeValue::FlagPresent);
            }
            &Kind::Typedef(of) | &Kind::Volatile(of) | &Kind::Const(of) | &Kind::Restrict(of) => {
                self.of(entry, of);
            }
            Kind::Prototype {
                returns,
                parameters,
            } => {
                self.set(entry, dw::DW_AT_prototyped, AttributeValue::FlagPresent);
                self.of(entry, *returns);
                self.parameters(entry, parameters)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn bytes(&mut self, entry: UnitEntryId, bytes: u64) {
        self.set(entry, dw::DW_AT_byte_size, AttributeValue::Udata(bytes));
    }

    fn parameters(
        &mut self,
        entry: UnitEntryId,
        parameters: &[(u32, TypeId)],
    ) -> Result<(), GuestError> {
        self.count(parameters.len())?;
        for (n, &(name, of)) in parameters.iter().enumerate() {
            if name == 0 && of == 0 && n + 1 == parameters.len() {
                self.dwarf
                    .unit
                    .add(entry, dw::DW_TAG_unspecified_parameters);
            } else {
                let part = self.dwarf.unit.add(entry, dw::DW_TAG_formal_parameter);
                self.name(part, name);
                self.of(part, of);
            }
        }
        Ok(())
    }

    fn functions_and_variables(&mut self) {
        let types = self.types;
        let area = self.kernel.symbols.by_name("__per_cpu_offset");
        for one in types.all() {
            if let Kind::Variable(of) = one.kind
                && let Ok(name) = std::str::from_utf8(types.name(one.name))
                && let Some(symbol) = self.kernel.symbols.by_name(name)
            {
                let mut location = Expression::new();
                if symbol.address >= KERNEL_HALF {
                    location.op_addr(Address::Constant(symbol.address));
                } else if let Some(area) = area {
                    location.op_addr(Address::Constant(area.address));
                    location.op_deref();
                    location.op_plus_uconst(symbol.address);
                } else {
                    continue;
                }
                self.variable(name, of, location);
            }
        }
        for &(name, shape, of) in variables::VARIABLES {
            if let Some(symbol) = self.kernel.symbols.by_name(name)
                && let Some(of) = types.by_name(of).or_else(|| self.number(of))
            {
                let mut location = Expression::new();
                location.op_addr(Address::Constant(symbol.address));
                let made = match shape {
                    Shape::Plain => None,
                    Shape::Pointer => Some(dw::DW_TAG_pointer_type),
                    Shape::Array => Some(dw::DW_TAG_array_type),
                };
                let entry = self.variable(name, of, location);
                if let Some(tag) = made {
                    let made = self.made_of(tag, of);
                    self.set(entry, dw::DW_AT_type, AttributeValue::UnitRef(made));
                }
            }
        }
    }

    /// A number by its name.
    fn number(&self, name: &str) -> Option<TypeId> {
        let all = self.types.all();
        let at = all.iter().position(|one| {
            tag(&one.kind) == dw::DW_TAG_base_type && self.types.name(one.name) == name.as_bytes()
        })?;
        TypeId::try_from(at).ok()
    }

    /// A type that is not in BTF: a pointer, or an array without a length.
    fn made_of(&mut self, tag: gimli::DwTag, of: TypeId) -> UnitEntryId {
        let entry = self.dwarf.unit.add(self.root, tag);
        self.of(entry, of);
        if tag == dw::DW_TAG_pointer_type {
            self.bytes(entry, 8);
        } else {
            let range = self.dwarf.unit.add(entry, dw::DW_TAG_subrange_type);
            let index = self.index;
            self.set(range, dw::DW_AT_type, AttributeValue::UnitRef(index));
        }
        entry
    }

    fn variable(&mut self, name: &str, of: TypeId, location: Expression) -> UnitEntryId {
        let entry = self.dwarf.unit.add(self.root, dw::DW_TAG_variable);
        self.text(entry, dw::DW_AT_name, name.as_bytes());
        self.of(entry, of);
        self.set(entry, dw::DW_AT_external, AttributeValue::FlagPresent);
        self.set(entry, dw::DW_AT_location, AttributeValue::Exprloc(location));
        entry
    }
}

/// Whether DWARF has an entry for this kind of type.
fn has_entry(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::Void
            | Kind::Function(_)
            | Kind::Variable(_)
            | Kind::Section(_)
            | Kind::Tag(_)
            | Kind::Remark
    )
}

fn tag(kind: &Kind) -> gimli::DwTag {
    match kind {
        Kind::Pointer(_) => dw::DW_TAG_pointer_type,
        Kind::Array { .. } => dw::DW_TAG_array_type,
        Kind::Struct { union: false, .. } | Kind::Forward { union: false } => {
            dw::DW_TAG_structure_type
        }
        Kind::Struct { union: true, .. } | Kind::Forward { union: true } => dw::DW_TAG_union_type,
        Kind::Enum { .. } => dw::DW_TAG_enumeration_type,
        Kind::Typedef(_) => dw::DW_TAG_typedef,
        Kind::Volatile(_) => dw::DW_TAG_volatile_type,
        Kind::Const(_) => dw::DW_TAG_const_type,
        Kind::Restrict(_) => dw::DW_TAG_restrict_type,
        Kind::Prototype { .. } => dw::DW_TAG_subroutine_type,
        _ => dw::DW_TAG_base_type,
    }
}
