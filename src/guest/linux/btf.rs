//! BTF, the kernel's own description of its types (Documentation/bpf/btf.rst), found by its header and parsed.
//!
//! It stands in rodata (section `.BTF`) of kernels with CONFIG_DEBUG_INFO_BTF. Type 0 is `void`; types refer to each
//! other by number, forward, too.

use super::image::Image;
use crate::guest::GuestError;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64;

const WHAT: &str = "type information (BTF)";
/// Magic number, version 1, no flags, header of 24 bytes.
const HEADER: [u8; 8] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
/// More types are not believed: kernels have 100,000 to 200,000.
const TYPES_MAX: usize = 1 << 20;
/// Longer type information is not believed.
const BYTES_MAX: usize = 32 << 20;
/// Members that are looked through for one name.
const MEMBERS_MAX: usize = 100_000;
/// Modifiers and arrays in each other that are followed at most.
const DEPTH_MAX: usize = 64;

/// Number of a type; 0 is `void`.
pub type TypeId = u32;

/// A member of a structure or union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Offset of its name in the strings.
    pub name: u32,
    /// Its type.
    pub of: TypeId,
    /// Bits from the start of the structure.
    pub bit_offset: u32,
    /// Width of a bit field, 0 for other members.
    pub bits: u8,
}

/// What a type is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Int {
        /// In bytes.
        bytes: u32,
        /// Two's complement.
        signed: bool,
        /// A truth value.
        boolean: bool,
        /// A character.
        character: bool,
    },
    /// A pointer.
    Pointer(TypeId),
    /// An array.
    Array {
        /// Type of its elements.
        of: TypeId,
        /// How many.
        count: u32,
    },
    /// A structure, or a union.
    Struct {
        /// All members at offset 0.
        union: bool,
        /// In bytes.
        bytes: u32,
        /// In the order of declaration.
        members: Vec<Member>,
    },
    /// An enumeration: names and values.
    Enum {
        /// In bytes.
        bytes: u32,
        /// Whether values are signed.
        signed: bool,
        /// Offset of the name, value.
        values: Vec<(u32, u64)>,
    },
    /// Declared, but not defined.
    Forward {
        /// A union.
        union: bool,
    },
    /// Another name.
    Typedef(TypeId),
    /// `volatile`.
    Volatile(TypeId),
    /// `const`.
    Const(TypeId),
    /// `restrict`.
    Restrict(TypeId),
    /// A function of a prototype.
    Function(TypeId),
    /// A prototype; a last parameter of type 0 without a name stands for "...".
    Prototype {
        /// What is returned.
        returns: TypeId,
        /// Offset of the name, type.
        parameters: Vec<(u32, TypeId)>,
    },
    /// A variable (of the kernel: per-CPU ones only).
    Variable(TypeId),
    /// A section, with the variables in it.
    Section(Vec<TypeId>),
    /// A floating-point number, in bytes.
    Float(u32),
    /// An attribute of the type.
    Tag(TypeId),
    /// An attribute of a declaration: nothing of interest here.
    Remark,
    /// `void`.
    Void,
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Offset of its name in the strings; 0 is none.
    pub name: u32,
    /// What it is.
    pub kind: Kind,
}

/// All types of a kernel.
pub struct Types {
    types: Vec<Type>,
    strings: Vec<u8>,
    /// Structures and unions by the hash of their name.
    structs: FxHashMap<u64, TypeId>,
}

/// Finds the kernel's types: the largest information that parses, for there may be copies of others.
pub fn find(image: &Image) -> Result<Types, GuestError> {
    // A hostile guest can have many headers; the kernel has one.
    let headers = image.segments.iter().flat_map(|segment| {
        memchr::memmem::find_iter(&segment.bytes, &HEADER).map(|at| &segment.bytes[at..])
    });
    headers
        .take(16)
        .filter_map(parse)
        .max_by_key(|types| types.types.len())
        .ok_or(GuestError::Missing(WHAT))
}

/// Numbers one after the other.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*word))
    }

    /// `count` records, if there are as many: so that a count alone makes no memory.
    fn records<T>(
        &mut self,
        count: u32,
        bytes: usize,
        mut record: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        if count as usize * bytes > self.0.len() {
            return None;
        }
        (0..count).map(|_| record(self)).collect()
    }
}

/// Parses type information that begins with its header and may be followed by anything.
pub fn parse(bytes: &[u8]) -> Option<Types> {
    let mut header = Words(bytes.strip_prefix(&HEADER)?);
    let [type_at, type_bytes, string_at, string_bytes] = [
        header.next()?,
        header.next()?,
        header.next()?,
        header.next()?,
    ]
    .map(|n| n as usize);
    if type_bytes.max(string_bytes) > BYTES_MAX {
        return None;
    }
    let body = &bytes[24..];
    let strings = body.get(string_at..string_at.checked_add(string_bytes)?)?;
    if strings.first() != Some(&0) || strings.last() != Some(&0) {
        return None;
    }
    let mut words = Words(body.get(type_at..type_at.checked_add(type_bytes)?)?);
    let mut types = vec![Type {
        name: 0,
        kind: Kind::Void,
    }];
    while !words.0.is_empty() {
        if types.len() >= TYPES_MAX {
            return None;
        }
        types.push(one(&mut words)?);
    }
    let mut structs = FxHashMap::default();
    for (id, one) in types.iter().enumerate() {
        if let Kind::Struct { .. } = one.kind
            && one.name != 0
        {
            let name = xxh3_64(string(strings, one.name));
            structs.entry(name).or_insert(id as TypeId);
        }
    }
    Some(Types {
        types,
        strings: strings.to_vec(),
        structs,
    })
}

fn one(words: &mut Words) -> Option<Type> {
    let name = words.next()?;
    let info = words.next()?;
    // A size or a type, depending on the kind.
    let third = words.next()?;
    let count = info & 0xffff;
    let flag = info >> 31 != 0;
    let kind = match info >> 24 & 31 {
        1 => {
            let encoding = words.next()? >> 24;
            Kind::Int {
                bytes: third,
                signed: encoding & 1 != 0,
                character: encoding & 2 != 0,
                boolean: encoding & 4 != 0,
            }
        }
        2 => Kind::Pointer(third),
        3 => {
            let of = words.next()?;
            let _index = words.next()?;
            Kind::Array {
                of,
                count: words.next()?,
            }
        }
        kind @ (4 | 5) => Kind::Struct {
            union: kind == 5,
            bytes: third,
            members: words.records(count, 12, |words| {
                let (name, of, offset) = (words.next()?, words.next()?, words.next()?);
                Some(Member {
                    name,
                    of,
                    bit_offset: if flag { offset & 0xff_ffff } else { offset },
                    bits: if flag { (offset >> 24) as u8 } else { 0 },
                })
            })?,
        },
        6 => Kind::Enum {
            bytes: third,
            signed: flag,
            values: words.records(count, 8, |words| {
                let (name, value) = (words.next()?, words.next()?);
                let value = if flag {
                    value as i32 as u64
                } else {
                    value.into()
                };
                Some((name, value))
            })?,
        },
        7 => Kind::Forward { union: flag },
        8 => Kind::Typedef(third),
        9 => Kind::Volatile(third),
        10 => Kind::Const(third),
        11 => Kind::Restrict(third),
        12 => Kind::Function(third),
        13 => Kind::Prototype {
            returns: third,
            parameters: words.records(count, 8, |words| Some((words.next()?, words.next()?)))?,
        },
        14 => {
            let _linkage = words.next()?;
            Kind::Variable(third)
        }
        15 => Kind::Section(words.records(count, 12, |words| {
            let variable = words.next()?;
            let (_offset, _bytes) = (words.next()?, words.next()?);
            Some(variable)
        })?),
        16 => Kind::Float(third),
        17 => {
            let _component = words.next()?;
            Kind::Remark
        }
        18 => Kind::Tag(third),
        19 => Kind::Enum {
            bytes: third,
            signed: flag,
            values: words.records(count, 12, |words| {
                let (name, low, high) = (words.next()?, words.next()?, words.next()?);
                Some((name, u64::from(low) | u64::from(high) << 32))
            })?,
        },
        _ => return None,
    };
    Some(Type { name, kind })
}

fn string(strings: &[u8], at: u32) -> &[u8] {
    let rest = strings.get(at as usize..).unwrap_or(&[]);
    &rest[..memchr::memchr(0, rest).unwrap_or(rest.len()).min(1024)]
}

impl Types {
    /// All types by number, `void` first.
    pub fn all(&self) -> &[Type] {
        &self.types
    }

    /// A type; `void` where there is none of this number.
    pub fn get(&self, id: TypeId) -> &Type {
        self.types.get(id as usize).unwrap_or(&self.types[0])
    }

    /// A name by its offset.
    pub fn name(&self, at: u32) -> &[u8] {
        string(&self.strings, at)
    }

    /// A structure or union by its name.
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        let named = |id: &TypeId| {
            let one = self.get(*id);
            matches!(one.kind, Kind::Struct { .. }) && self.name(one.name) == name.as_bytes()
        };
        let first = *self.structs.get(&xxh3_64(name.as_bytes()))?;
        // Two names with one hash: hardly ever, so that a search is good enough.
        match named(&first) {
            true => Some(first),
            false => (0..self.types.len() as TypeId).find(named),
        }
    }

    /// The type without typedefs and qualifiers.
    pub fn bare(&self, mut id: TypeId) -> TypeId {
        for _ in 0..DEPTH_MAX {
            id = match self.get(id).kind {
                Kind::Typedef(of)
                | Kind::Volatile(of)
                | Kind::Const(of)
                | Kind::Restrict(of)
                | Kind::Tag(of) => of,
                _ => return id,
            };
        }
        0
    }

    /// Size in bytes, of what has one.
    pub fn size(&self, id: TypeId) -> Option<u64> {
        let mut id = id;
        let mut factor = 1u64;
        for _ in 0..DEPTH_MAX {
            id = self.bare(id);
            let one = match self.get(id).kind {
                Kind::Int { bytes, .. }
                | Kind::Struct { bytes, .. }
                | Kind::Enum { bytes, .. }
                | Kind::Float(bytes) => bytes.into(),
                Kind::Pointer(_) => 8,
                Kind::Array { of, count } => {
                    factor = factor.checked_mul(count.into())?;
                    id = of;
                    continue;
                }
                _ => return None,
            };
            return factor.checked_mul(one);
        }
        None
    }

    /// Offset in bytes, and type, of a member of a structure, looked for in unnamed members, too.
    pub fn member(&self, of: TypeId, name: &str) -> Option<(u64, TypeId)> {
        // (structure, its offset): what is left to be looked through.
        let mut left = vec![(of, 0u64)];
        let mut looked = 0;
        while let Some((id, base)) = left.pop() {
            let Kind::Struct { members, .. } = &self.get(self.bare(id)).kind else {
                continue;
            };
            for member in members {
                looked += 1;
                if looked > MEMBERS_MAX {
                    return None;
                }
                let offset = base + u64::from(member.bit_offset / 8);
                if self.name(member.name) == name.as_bytes() {
                    return Some((offset, member.of));
                }
                if member.name == 0 && left.len() < 1000 {
                    left.push((member.of, offset));
                }
            }
        }
        None
    }

    /// Offset in bytes of a member by its path: `offset("task_struct", &["thread", "sp"])`.
    pub fn offset(&self, of: &str, path: &[&str]) -> Result<u64, GuestError> {
        let missing =
            || GuestError::NoSuch(format!("struct {of} with a member {}", path.join(".")));
        let mut id = self.by_name(of).ok_or_else(missing)?;
        let mut offset = 0;
        for name in path {
            let (at, inner) = self.member(id, name).ok_or_else(missing)?;
            offset += at;
            id = inner;
        }
        Ok(offset)
    }
}
