//! The registers that GDB is shown: one table, of which the target description (target.xml), the layout of the
//! `g` packet and the numbers of `p` and of stop replies are all made.
//!
//! Names and order follow GDB's own features/i386/64bit-*.xml up to AVX, and QEMU's names after them (kernel scripts
//! rely on `$cr3`, `$gs_base`, `$k_gs_base`). A register's number is its row. The operating system is called Linux
//! whatever the guest is: GDB's `catch syscall` wants it so. Last come the position and the guest time, so that
//! conditions can be about them.
//!
//! `info registers` is to fit a screen. GDB's x86 code goes neither by the groups of a description nor by types
//! (`maint print register-groups`): whatever it does not know by number is general. Under Linux it hides what it knows
//! as fs_base and gs_base of the feature "segments"; so ours are of a feature of our own, as QEMU's are. And what few
//! look at is gathered into four compound registers (`$msr.lstar`, `$tables.gdt.base`). Each is a union of its parts
//! with a vector (`_`, their first byte): what has vectors is printed once and not twice. The parts are in a field
//! without a name, through which GDB looks as C does. LLDB takes types by how their names begin; these begin with "vec".

use std::fmt::Write as _;
use std::sync::LazyLock;

use crate::timeline::api::Registers;

/// A feature of the target description, with the types that it defines.
struct Feature {
    name: &'static str,
    types: &'static str,
}

/// One register.
pub struct Row {
    /// As the user writes it after a `$`.
    pub name: &'static str,
    /// Size on the wire, a multiple of 8.
    pub bits: usize,
    /// GDB's type.
    kind: &'static str,
    /// GDB's register group, where it is not the one that the type implies.
    group: Option<&'static str>,
    feature: &'static Feature,
    /// Which general register it is, in the order of instruction encoding.
    pub gpr: Option<usize>,
    value: Value,
}

/// Where a register's value comes from.
enum Value {
    /// The low bits count.
    Whole(fn(&Registers) -> u128),
    /// One after the other, without gaps.
    Parts(&'static [Part]),
}

/// A part of a compound register.
struct Part {
    name: &'static str,
    /// Size on the wire, a multiple of 8.
    bits: usize,
    /// GDB's type.
    kind: &'static str,
    /// The low bits count.
    get: fn(&Registers) -> u128,
}

static CORE: Feature = Feature {
    name: "org.gnu.gdb.i386.core",
    types: r#"<flags id="i386_eflags" size="4">
<field name="CF" start="0" end="0"/><field name="" start="1" end="1"/><field name="PF" start="2" end="2"/>
<field name="AF" start="4" end="4"/><field name="ZF" start="6" end="6"/><field name="SF" start="7" end="7"/>
<field name="TF" start="8" end="8"/><field name="IF" start="9" end="9"/><field name="DF" start="10" end="10"/>
<field name="OF" start="11" end="11"/><field name="IOPL" start="12" end="13"/><field name="NT" start="14" end="14"/>
<field name="RF" start="16" end="16"/><field name="VM" start="17" end="17"/><field name="AC" start="18" end="18"/>
<field name="VIF" start="19" end="19"/><field name="VIP" start="20" end="20"/><field name="ID" start="21" end="21"/>
</flags>
"#,
};
static LINUX: Feature = Feature {
    name: "org.gnu.gdb.i386.linux",
    types: "",
};
static SSE: Feature = Feature {
    name: "org.gnu.gdb.i386.sse",
    types: r#"<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>
<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/>
<field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>
<flags id="i386_mxcsr" size="4">
<field name="IE" start="0" end="0"/><field name="DE" start="1" end="1"/><field name="ZE" start="2" end="2"/>
<field name="OE" start="3" end="3"/><field name="UE" start="4" end="4"/><field name="PE" start="5" end="5"/>
<field name="DAZ" start="6" end="6"/><field name="IM" start="7" end="7"/><field name="DM" start="8" end="8"/>
<field name="ZM" start="9" end="9"/><field name="OM" start="10" end="10"/><field name="UM" start="11" end="11"/>
<field name="PM" start="12" end="12"/><field name="RC" start="13" end="14"/><field name="FZ" start="15" end="15"/>
</flags>
"#,
};
static AVX: Feature = Feature {
    name: "org.gnu.gdb.i386.avx",
    types: "",
};
static SYSTEM: Feature = Feature {
    name: "org.retrovisor.x86.system",
    types: r#"<flags id="x86_cr0" size="8">
<field name="PE" start="0" end="0"/><field name="MP" start="1" end="1"/><field name="EM" start="2" end="2"/>
<field name="TS" start="3" end="3"/><field name="ET" start="4" end="4"/><field name="NE" start="5" end="5"/>
<field name="WP" start="16" end="16"/><field name="AM" start="18" end="18"/><field name="NW" start="29" end="29"/>
<field name="CD" start="30" end="30"/><field name="PG" start="31" end="31"/></flags>
<flags id="x86_cr4" size="8">
<field name="VME" start="0" end="0"/><field name="PVI" start="1" end="1"/><field name="TSD" start="2" end="2"/>
<field name="DE" start="3" end="3"/><field name="PSE" start="4" end="4"/><field name="PAE" start="5" end="5"/>
<field name="MCE" start="6" end="6"/><field name="PGE" start="7" end="7"/><field name="PCE" start="8" end="8"/>
<field name="OSFXSR" start="9" end="9"/><field name="OSXMMEXCPT" start="10" end="10"/>
<field name="UMIP" start="11" end="11"/><field name="LA57" start="12" end="12"/><field name="VMXE" start="13" end="13"/>
<field name="SMXE" start="14" end="14"/><field name="FSGSBASE" start="16" end="16"/>
<field name="PCIDE" start="17" end="17"/><field name="OSXSAVE" start="18" end="18"/>
<field name="SMEP" start="20" end="20"/><field name="SMAP" start="21" end="21"/><field name="PKE" start="22" end="22"/>
</flags>
<flags id="x86_efer" size="8">
<field name="SCE" start="0" end="0"/><field name="LME" start="8" end="8"/><field name="LMA" start="10" end="10"/>
<field name="NXE" start="11" end="11"/></flags>
<flags id="x86_dr6" size="8">
<field name="B0" start="0" end="0"/><field name="B1" start="1" end="1"/><field name="B2" start="2" end="2"/>
<field name="B3" start="3" end="3"/><field name="BD" start="13" end="13"/><field name="BS" start="14" end="14"/>
<field name="BT" start="15" end="15"/></flags>
<flags id="x86_dr7" size="8">
<field name="L0" start="0" end="0"/><field name="G0" start="1" end="1"/><field name="L1" start="2" end="2"/>
<field name="G1" start="3" end="3"/><field name="L2" start="4" end="4"/><field name="G2" start="5" end="5"/>
<field name="L3" start="6" end="6"/><field name="G3" start="7" end="7"/><field name="LE" start="8" end="8"/>
<field name="GE" start="9" end="9"/><field name="GD" start="13" end="13"/>
<field name="RW0" start="16" end="17"/><field name="LEN0" start="18" end="19"/>
<field name="RW1" start="20" end="21"/><field name="LEN1" start="22" end="23"/>
<field name="RW2" start="24" end="25"/><field name="LEN2" start="26" end="27"/>
<field name="RW3" start="28" end="29"/><field name="LEN3" start="30" end="31"/></flags>
<struct id="x86_span"><field name="base" type="data_ptr"/><field name="limit" type="uint32"/></struct>
<struct id="x86_table"><field name="base" type="data_ptr"/><field name="limit" type="uint32"/>
<field name="selector" type="uint32"/></struct>
"#,
};
static POSITION: Feature = Feature {
    name: "org.retrovisor.position",
    types: "",
};

const fn row(
    feature: &'static Feature,
    name: &'static str,
    bits: usize,
    kind: &'static str,
    get: fn(&Registers) -> u128,
) -> Row {
    Row {
        name,
        bits,
        kind,
        group: None,
        feature,
        gpr: None,
        value: Value::Whole(get),
    }
}

/// An x87 control register: GDB keeps 32 bits for each and groups them with the stack.
const fn x87(name: &'static str, get: fn(&Registers) -> u128) -> Row {
    Row {
        name,
        bits: 32,
        kind: "int",
        group: Some("float"),
        feature: &CORE,
        gpr: None,
        value: Value::Whole(get),
    }
}

/// A compound register, which few look at. Its type is made of its parts.
const fn compound(name: &'static str, kind: &'static str, parts: &'static [Part]) -> Row {
    let mut bits = 0;
    let mut n = 0;
    while n < parts.len() {
        bits += parts[n].bits;
        n += 1;
    }
    Row {
        name,
        bits,
        kind,
        group: Some("system"),
        feature: &SYSTEM,
        gpr: None,
        value: Value::Parts(parts),
    }
}

const fn part(
    name: &'static str,
    bits: usize,
    kind: &'static str,
    get: fn(&Registers) -> u128,
) -> Part {
    Part {
        name,
        bits,
        kind,
        get,
    }
}

/// The hidden part of a segment register.
const fn segment(name: &'static str, get: fn(&Registers) -> u128) -> Part {
    part(name, 96, "x86_span", get)
}

/// A base and a limit as `x86_span` has them.
fn span(base: u64, limit: u32) -> u128 {
    u128::from(limit) << 64 | u128::from(base)
}

/// A number of 64 bits.
macro_rules! number {
    ($name:literal, $kind:literal, $get:expr) => {
        part($name, 64, $kind, |r| {
            let get: fn(&Registers) -> u64 = $get;
            get(r).into()
        })
    };
}

macro_rules! stack {
    ($name:literal, $i:literal) => {
        row(&CORE, $name, 80, "i387_ext", |r| {
            let mut value = [0; 16];
            value[..10].copy_from_slice(&r.st[$i]);
            u128::from_le_bytes(value)
        })
    };
}

macro_rules! xmm {
    ($name:literal, $i:literal) => {
        row(&SSE, $name, 128, "vec128", |r| r.xmm[$i])
    };
}

macro_rules! ymm_high {
    ($name:literal, $i:literal) => {
        row(&AVX, $name, 128, "uint128", |r| r.ymm_high[$i])
    };
}

/// Index into [`Registers::gpr`]: registers are numbered otherwise in instructions than in GDB.
macro_rules! gpr {
    ($name:literal, $i:literal, $kind:literal) => {
        Row {
            gpr: Some($i),
            ..row(&CORE, $name, 64, $kind, |r| r.gpr[$i].into())
        }
    };
}

/// All registers in the order of the wire.
pub static ROWS: [Row; 89] = [
    gpr!("rax", 0, "int64"),
    gpr!("rbx", 3, "int64"),
    gpr!("rcx", 1, "int64"),
    gpr!("rdx", 2, "int64"),
    gpr!("rsi", 6, "int64"),
    gpr!("rdi", 7, "int64"),
    gpr!("rbp", 5, "data_ptr"),
    gpr!("rsp", 4, "data_ptr"),
    gpr!("r8", 8, "int64"),
    gpr!("r9", 9, "int64"),
    gpr!("r10", 10, "int64"),
    gpr!("r11", 11, "int64"),
    gpr!("r12", 12, "int64"),
    gpr!("r13", 13, "int64"),
    gpr!("r14", 14, "int64"),
    gpr!("r15", 15, "int64"),
    row(&CORE, "rip", 64, "code_ptr", |r| r.rip.into()),
    row(&CORE, "eflags", 32, "i386_eflags", |r| r.rflags.into()),
    row(&CORE, "cs", 32, "int32", |r| r.cs.into()),
    row(&CORE, "ss", 32, "int32", |r| r.ss.into()),
    row(&CORE, "ds", 32, "int32", |r| r.ds.into()),
    row(&CORE, "es", 32, "int32", |r| r.es.into()),
    row(&CORE, "fs", 32, "int32", |r| r.fs.into()),
    row(&CORE, "gs", 32, "int32", |r| r.gs.into()),
    stack!("st0", 0),
    stack!("st1", 1),
    stack!("st2", 2),
    stack!("st3", 3),
    stack!("st4", 4),
    stack!("st5", 5),
    stack!("st6", 6),
    stack!("st7", 7),
    x87("fctrl", |r| r.fctrl.into()),
    x87("fstat", |r| r.fstat.into()),
    x87("ftag", |r| r.ftag.into()),
    x87("fiseg", |r| r.fiseg.into()),
    x87("fioff", |r| r.fioff.into()),
    x87("foseg", |r| r.foseg.into()),
    x87("fooff", |r| r.fooff.into()),
    x87("fop", |r| r.fop.into()),
    xmm!("xmm0", 0),
    xmm!("xmm1", 1),
    xmm!("xmm2", 2),
    xmm!("xmm3", 3),
    xmm!("xmm4", 4),
    xmm!("xmm5", 5),
    xmm!("xmm6", 6),
    xmm!("xmm7", 7),
    xmm!("xmm8", 8),
    xmm!("xmm9", 9),
    xmm!("xmm10", 10),
    xmm!("xmm11", 11),
    xmm!("xmm12", 12),
    xmm!("xmm13", 13),
    xmm!("xmm14", 14),
    xmm!("xmm15", 15),
    row(&SSE, "mxcsr", 32, "i386_mxcsr", |r| r.mxcsr.into()),
    ymm_high!("ymm0h", 0),
    ymm_high!("ymm1h", 1),
    ymm_high!("ymm2h", 2),
    ymm_high!("ymm3h", 3),
    ymm_high!("ymm4h", 4),
    ymm_high!("ymm5h", 5),
    ymm_high!("ymm6h", 6),
    ymm_high!("ymm7h", 7),
    ymm_high!("ymm8h", 8),
    ymm_high!("ymm9h", 9),
    ymm_high!("ymm10h", 10),
    ymm_high!("ymm11h", 11),
    ymm_high!("ymm12h", 12),
    ymm_high!("ymm13h", 13),
    ymm_high!("ymm14h", 14),
    ymm_high!("ymm15h", 15),
    row(&SYSTEM, "fs_base", 64, "int64", |r| r.fs_base.into()),
    row(&SYSTEM, "gs_base", 64, "int64", |r| r.gs_base.into()),
    row(&SYSTEM, "k_gs_base", 64, "int64", |r| r.k_gs_base.into()),
    row(&SYSTEM, "cr0", 64, "x86_cr0", |r| r.cr0.into()),
    row(&SYSTEM, "cr2", 64, "int64", |r| r.cr2.into()),
    row(&SYSTEM, "cr3", 64, "int64", |r| r.cr3.into()),
    row(&SYSTEM, "cr4", 64, "x86_cr4", |r| r.cr4.into()),
    row(&SYSTEM, "cr8", 64, "int64", |r| r.cr8.into()),
    row(&SYSTEM, "efer", 64, "x86_efer", |r| r.efer.into()),
    compound(
        "segments",
        "vec_segments",
        &[
            segment("es", |r| span(r.seg_base[0], r.seg_limit[0])),
            segment("cs", |r| span(r.seg_base[1], r.seg_limit[1])),
            segment("ss", |r| span(r.seg_base[2], r.seg_limit[2])),
            segment("ds", |r| span(r.seg_base[3], r.seg_limit[3])),
            segment("fs", |r| span(r.fs_base, r.seg_limit[4])),
            segment("gs", |r| span(r.gs_base, r.seg_limit[5])),
        ],
    ),
    compound(
        "tables",
        "vec_tables",
        &[
            part("gdt", 96, "x86_span", |r| span(r.gdt.base, r.gdt.limit)),
            part("idt", 96, "x86_span", |r| span(r.idt.base, r.idt.limit)),
            part("ldt", 128, "x86_table", |r| {
                u128::from(r.ldtr) << 96 | span(r.ldt.base, r.ldt.limit)
            }),
            part("tr", 128, "x86_table", |r| {
                u128::from(r.tr) << 96 | span(r.tss.base, r.tss.limit)
            }),
        ],
    ),
    compound(
        "debug",
        "vec_debug",
        &[
            number!("dr0", "data_ptr", |r| r.dr[0]),
            number!("dr1", "data_ptr", |r| r.dr[1]),
            number!("dr2", "data_ptr", |r| r.dr[2]),
            number!("dr3", "data_ptr", |r| r.dr[3]),
            number!("dr6", "x86_dr6", |r| r.dr[6]),
            number!("dr7", "x86_dr7", |r| r.dr[7]),
        ],
    ),
    compound(
        "msr",
        "vec_msr",
        &[
            number!("star", "uint64", |r| r.star),
            number!("lstar", "code_ptr", |r| r.lstar),
            number!("cstar", "code_ptr", |r| r.cstar),
            number!("fmask", "uint64", |r| r.fmask),
            number!("sysenter_cs", "uint64", |r| r.sysenter[0]),
            number!("sysenter_esp", "data_ptr", |r| r.sysenter[1]),
            number!("sysenter_eip", "code_ptr", |r| r.sysenter[2]),
            number!("pat", "uint64", |r| r.pat),
            number!("misc_enable", "uint64", |r| r.misc_enable),
            number!("tsc_aux", "uint64", |r| r.tsc_aux),
        ],
    ),
    row(&POSITION, "rv_tick", 64, "uint64", |r| r.tick.into()),
    row(&POSITION, "rv_time", 64, "uint64", |r| r.time.into()),
    // No register of the machine's: GDB refuses `catch syscall` without it. -1 says that no call is to be restarted.
    row(&LINUX, "orig_rax", 64, "int64", |_| u128::MAX),
];

/// Number of the guest time.
pub const TIME: usize = ROWS.len() - 2;

/// Registers that every stop reply carries, so that stepping needs no `g`: rip, rsp and rbp by number.
pub const EXPEDITED: [usize; 3] = [16, 7, 6];

impl Row {
    /// The value, if it is one number that fits into 64 bits.
    pub fn integer(&self, registers: &Registers) -> Option<u64> {
        match self.value {
            Value::Whole(get) if self.bits <= 64 => {
                Some(get(registers) as u64 & (u64::MAX >> (64 - self.bits)))
            }
            _ => None,
        }
    }

    /// The bytes on the wire, in target order (little endian).
    pub fn bytes(&self, registers: &Registers) -> Vec<u8> {
        match self.value {
            Value::Whole(get) => get(registers).to_le_bytes()[..self.bits / 8].to_vec(),
            Value::Parts(parts) => parts
                .iter()
                .flat_map(|part| {
                    (part.get)(registers)
                        .to_le_bytes()
                        .into_iter()
                        .take(part.bits / 8)
                })
                .collect(),
        }
    }

    /// The definition of a compound register's type.
    fn describe_type(&self, xml: &mut String) {
        let Value::Parts(parts) = self.value else {
            return;
        };
        let kind = self.kind;
        let _ = write!(xml, "<struct id=\"{kind}_parts\">");
        for Part { name, kind, .. } in parts {
            let _ = write!(xml, "<field name=\"{name}\" type=\"{kind}\"/>");
        }
        let _ = writeln!(
            xml,
            "</struct>\n<vector id=\"{kind}_first\" type=\"uint8\" count=\"1\"/>\n<union id=\"{kind}\">\
             <field name=\"\" type=\"{kind}_parts\"/><field name=\"_\" type=\"{kind}_first\"/></union>"
        );
    }
}

/// The reply to `g`, before it is written in hex.
pub fn all_bytes(registers: &Registers) -> Vec<u8> {
    ROWS.iter().flat_map(|row| row.bytes(registers)).collect()
}

/// The target description.
pub fn target_xml() -> &'static str {
    static XML: LazyLock<String> = LazyLock::new(|| {
        let mut xml = String::from(
            "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n\
             <architecture>i386:x86-64</architecture>\n<osabi>GNU/Linux</osabi>\n",
        );
        let mut open: Option<&Feature> = None;
        for row in &ROWS {
            if open.is_none_or(|f| !std::ptr::eq(f, row.feature)) {
                if open.is_some() {
                    xml.push_str("</feature>\n");
                }
                let _ = write!(
                    xml,
                    "<feature name=\"{}\">\n{}",
                    row.feature.name, row.feature.types
                );
                open = Some(row.feature);
            }
            row.describe_type(&mut xml);
            let _ = write!(
                xml,
                "<reg name=\"{}\" bitsize=\"{}\" type=\"{}\"",
                row.name, row.bits, row.kind
            );
            if let Some(group) = row.group {
                let _ = write!(xml, " group=\"{group}\"");
            }
            xml.push_str("/>\n");
        }
        xml.push_str("</feature>\n</target>\n");
        xml
    });
    &XML
}

#[cfg(test)]
mod tests {
    use super::*;
    use gdbstub::arch::Registers as _;

    /// Every register different from every other, so that no two can be swapped unseen.
    fn distinct() -> Registers {
        let mut r = Registers {
            rip: 0x1000_0000_0001,
            rflags: 0x246,
            cs: 0x10,
            ss: 0x18,
            ds: 0x2b,
            es: 0x33,
            fs: 0x3b,
            gs: 0x43,
            fctrl: 0x37f,
            fstat: 0x3801,
            ftag: 0xfffe,
            fiseg: 0x11,
            fioff: 0x2222_3333,
            foseg: 0x44,
            fooff: 0x5555_6666,
            fop: 0x7ff,
            mxcsr: 0x1f80,
            ..Registers::default()
        };
        for i in 0..16 {
            r.gpr[i] = 0x1111_0000_0000_0000 + i as u64;
            r.xmm[i] = (0x2222u128 << 112) + i as u128;
        }
        for i in 0..8 {
            r.st[i] = [i as u8 + 1; 10];
        }
        r
    }

    #[test]
    fn the_common_part_is_laid_out_as_gdbstub_arch_does() {
        let ours = distinct();
        let gpr = ours.gpr;
        let theirs = gdbstub_arch::x86::reg::X86_64CoreRegs {
            regs: [
                gpr[0], gpr[3], gpr[1], gpr[2], gpr[6], gpr[7], gpr[5], gpr[4], gpr[8], gpr[9],
                gpr[10], gpr[11], gpr[12], gpr[13], gpr[14], gpr[15],
            ],
            eflags: ours.rflags as u32,
            rip: ours.rip,
            segments: gdbstub_arch::x86::reg::X86SegmentRegs {
                cs: 0x10,
                ss: 0x18,
                ds: 0x2b,
                es: 0x33,
                fs: 0x3b,
                gs: 0x43,
            },
            st: ours.st,
            fpu: gdbstub_arch::x86::reg::X87FpuInternalRegs {
                fctrl: 0x37f,
                fstat: 0x3801,
                ftag: 0xfffe,
                fiseg: 0x11,
                fioff: 0x2222_3333,
                foseg: 0x44,
                fooff: 0x5555_6666,
                fop: 0x7ff,
            },
            xmm: ours.xmm,
            mxcsr: 0x1f80,
        };
        let mut want = Vec::new();
        theirs.gdb_serialize(|b| want.push(b.unwrap()));
        let got = all_bytes(&ours);
        assert_eq!(got[..want.len()], want);
        let after: usize = ROWS
            .iter()
            .skip_while(|r| r.name != "ymm0h")
            .map(|r| r.bits / 8)
            .sum();
        assert_eq!(got.len(), want.len() + after);
    }

    #[test]
    fn names_are_unique_and_expedited_ones_are_meant() {
        for (i, row) in ROWS.iter().enumerate() {
            assert!(
                ROWS[..i].iter().all(|r| r.name != row.name),
                "{} twice",
                row.name
            );
            assert_eq!(row.bits % 8, 0);
        }
        let all = distinct();
        let general = ROWS.iter().filter(|row| row.gpr.is_some());
        assert_eq!(general.clone().count(), 16);
        for row in general {
            assert_eq!(
                row.integer(&all),
                row.gpr.map(|n| all.gpr[n]),
                "{}",
                row.name
            );
        }
        assert_eq!(ROWS[TIME].name, "rv_time");
        assert_eq!(EXPEDITED.map(|i| ROWS[i].name), ["rip", "rsp", "rbp"]);
    }
}
