//! Segments that both sides have: Linux's own, which programs may load, and an LDT with segments that make limits and
//! bases visible, a stack of 16 bits, and 16-bit code.

use crate::layout::{CODE, DATA};

/// Order of the selectors in `Registers`: that of their encoding, without CS.
pub const ES: usize = 0;
pub const SS: usize = 1;
pub const DS: usize = 2;
pub const FS: usize = 3;
pub const GS: usize = 4;

/// Selectors as Linux has them.
pub const CODE_32: u16 = 0x23;
pub const FLAT: u16 = 0x2b;
pub const CODE_64: u16 = 0x33;
/// Selectors of the LDT.
pub const WINDOW: u16 = 0x07;
pub const READ_ONLY: u16 = 0x0f;
pub const EXPAND_DOWN: u16 = 0x17;
pub const STACK_16: u16 = 0x1f;
pub const CODE_16: u16 = 0x37;
pub const EXPAND_DOWN_16: u16 = 0x3f;

/// A segment for user mode, as `modify_ldt` describes it.
pub struct Entry {
    pub base: u64,
    /// In bytes, or in pages.
    pub limit: u32,
    pub pages: bool,
    /// 0 data, 1 expand-down data, 2 code, 3 conforming code.
    pub contents: u32,
    /// Data that can be written, or code that can be read.
    pub more: bool,
    pub wide: bool,
    pub present: bool,
}

const DATA_SEGMENT: Entry = Entry {
    base: DATA,
    limit: 0x5fff,
    pages: false,
    contents: 0,
    more: true,
    wide: true,
    present: true,
};

/// The LDT, from entry 0.
pub const LDT: [Entry; 8] = [
    DATA_SEGMENT,
    Entry {
        limit: 0xfff,
        more: false,
        ..DATA_SEGMENT
    },
    Entry {
        limit: 0x7ff,
        contents: 1,
        ..DATA_SEGMENT
    },
    Entry {
        wide: false,
        ..DATA_SEGMENT
    },
    Entry {
        present: false,
        ..DATA_SEGMENT
    },
    // Code that cannot be read.
    Entry {
        base: 0,
        limit: 0xf_ffff,
        pages: true,
        contents: 2,
        more: false,
        ..DATA_SEGMENT
    },
    Entry {
        base: CODE,
        limit: 0xffff,
        contents: 2,
        wide: false,
        ..DATA_SEGMENT
    },
    Entry {
        limit: 0x7ff,
        contents: 1,
        wide: false,
        ..DATA_SEGMENT
    },
];

impl Entry {
    /// The descriptor that Linux makes of it: DPL 3, accessed.
    pub fn descriptor(&self) -> u64 {
        let kind = 1 | (self.more as u64) << 1 | (self.contents as u64) << 2;
        let rights = kind | 1 << 4 | 3 << 5 | (self.present as u64) << 7;
        let limit = self.limit as u64;
        limit & 0xffff
            | (self.base & 0xff_ffff) << 16
            | rights << 40
            | (limit >> 16) << 48
            | (self.wide as u64) << 54
            | (self.pages as u64) << 55
            | (self.base >> 24 & 0xff) << 56
    }
}

/// Linux's descriptors from selector 10h on: kernel code and data, 32-bit user code, user data, user code.
pub const GDT_FIRST: u64 = 0x10;
pub const GDT: [u64; 5] = [
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];

/// The descriptor of a selector that programs may load; 0 for others.
pub fn descriptor(selector: u16) -> u64 {
    let index = selector as usize >> 3;
    if selector & 4 != 0 {
        return LDT.get(index).map_or(0, Entry::descriptor);
    }
    index
        .checked_sub(GDT_FIRST as usize >> 3)
        .and_then(|n| GDT.get(n).copied())
        .unwrap_or(0)
}

/// The base of a segment.
pub fn base(selector: u16) -> u64 {
    let descriptor = descriptor(selector);
    descriptor >> 16 & 0xff_ffff | (descriptor >> 56) << 24
}

/// Where code of a size lies in its segment.
pub fn code(bits: u32) -> u16 {
    match bits {
        16 => CODE_16,
        32 => CODE_32,
        _ => CODE_64,
    }
}

/// What may be given to an instruction that takes a selector: good ones, and each kind of bad ones. (Not 1 to 3: null
/// selectors, of which any interrupt makes 0.)
pub const CANDIDATES: [u16; 18] = [
    0,
    FLAT,
    FLAT,
    CODE_32,
    CODE_64,
    0x28,
    0x10,
    0x18,
    0x1b,
    0x63,
    0xfff8,
    WINDOW,
    READ_ONLY,
    EXPAND_DOWN,
    STACK_16,
    0x27,
    0x2f,
    CODE_16,
];
