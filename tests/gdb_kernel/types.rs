//! Types made from the kernel's BTF, as GDB reads them out of our symbol file, against pahole, which reads the BTF of
//! the kernel image itself: size of each structure; place, size and width of each member.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use retrovisor::guest::{AtPosition, symbol_file};

use super::{at_the_end, prepared, support};

/// These must be among what is compared; the last ones have bit fields.
const KNOWN: [&str; 16] = [
    "list_head",
    "mm_struct",
    "vm_area_struct",
    "file",
    "inode",
    "dentry",
    "super_block",
    "page",
    "net_device",
    "module",
    "cred",
    "task_struct",
    "sk_buff",
    "tcphdr",
    "pci_dev",
    "perf_event_attr",
];

/// Prints each structure of a list and what is in it, innermost first as pahole does.
const WALK: &str = r#"
import gdb
COMPOUND = (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION)
def walk(of, base):
    for field in of.fields():
        inner, at = field.type, base + field.bitpos
        while inner.code in (gdb.TYPE_CODE_ARRAY, gdb.TYPE_CODE_PTR):
            at = 0 if inner.code == gdb.TYPE_CODE_PTR else at
            inner = inner.target()
        if inner.code in COMPOUND and not inner.name:
            walk(inner, at)
        print(field.name or "-", base + field.bitpos, field.bitsize, field.type.sizeof)
for name in open(names):
    of = gdb.lookup_type("struct " + name.strip())
    print("struct", name.strip(), of.sizeof)
    walk(of, 0)
"#;

/// A member: its name (`-`: none), its place in bits, its width if it is a bit field, the size of its type in bytes.
type Member = (String, u64, u64, u64);

/// A structure's size and members, and those of what has no name in it.
#[derive(Debug, Default, PartialEq)]
struct Layout {
    size: u64,
    members: Vec<Member>,
}

/// Leaves out `__attribute__((...))`.
fn without_attributes(declaration: &str) -> String {
    let mut rest = declaration;
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once("__attribute__") {
        out += before.trim_end();
        let mut depth = 0;
        let end = after.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        rest = &after[end.map_or(after.len(), |end| end + 1)..];
    }
    out + rest
}

/// The name that a declaration in C declares, and its width if it is a bit field.
fn declared(declaration: &str) -> Option<(String, u64)> {
    let declaration = without_attributes(declaration.strip_suffix(';')?);
    let mut text = declaration.as_str();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if let Some((_, pointer)) = text.split_once("(*") {
        let name = pointer.trim_start_matches(['*', ' ']);
        let name = name.split(|c| !is_word(c)).next()?;
        return Some((name.to_string(), 0));
    }
    let mut width = 0;
    if let Some((before, bits)) = text.rsplit_once(':') {
        width = bits.parse().ok()?;
        text = before;
    }
    let text = text.split('[').next()?.trim_end();
    let name = text.rsplit(|c| !is_word(c)).next()?;
    Some((if name.is_empty() { "-" } else { name }.to_string(), width))
}

/// A line of pahole's that says a member: `DECLARATION /* OFFSET[: BIT] SIZE */`.
fn member(line: &str) -> Option<Member> {
    let (declaration, comment) = line.trim().strip_suffix("*/")?.rsplit_once("/*")?;
    let (place, size) = comment.trim().rsplit_once(' ')?;
    let (offset, bit) = place.split_once(':').unwrap_or((place, "0"));
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (offset, bit, size) = (number(offset)?, number(bit)?, number(size)?);
    let (name, width) = declared(declaration.trim())?;
    Some((name, offset * 8 + bit, width, size))
}

/// What pahole says of all structures. A name that two have is left out: which of them GDB takes is open.
fn by_pahole(kernel: &Path) -> BTreeMap<String, Layout> {
    let output = Command::new("pahole")
        .args(["-F", "btf"])
        .arg(kernel)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut all: BTreeMap<String, Option<Layout>> = BTreeMap::new();
    let mut open: Option<(String, Layout)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("struct ") {
            let name = rest.split(' ').next().unwrap_or_default();
            open = Some((name.to_string(), Layout::default()));
        } else if line.starts_with('}') {
            if let Some((name, layout)) = open.take() {
                let seen = all.contains_key(&name);
                all.insert(name, (!seen).then_some(layout));
            }
        } else if let Some((_, layout)) = &mut open {
            if let Some(size) = line.strip_prefix("\t/* size: ") {
                layout.size = size.split(',').next().unwrap().parse().unwrap();
            } else {
                layout.members.extend(member(line));
            }
        }
    }
    all.into_iter()
        .filter_map(|(name, layout)| Some((name, layout?)))
        .collect()
}

/// What GDB makes of the symbol file.
fn by_gdb(program: &Path, symbols: &Path, names: &Path) -> BTreeMap<String, Layout> {
    let script = names.with_file_name("walk.py");
    fs::write(
        &script,
        format!("names = {:?}\n{WALK}", names.display().to_string()),
    )
    .unwrap();
    let output = Command::new(program)
        .args(["-q", "-nx", "-batch"])
        .arg(symbols)
        .arg("-x")
        .arg(&script)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut all: BTreeMap<String, Layout> = BTreeMap::new();
    let mut open = String::new();
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["struct", name, size] => {
                open = name.to_string();
                all.entry(open.clone()).or_default().size = size.parse().unwrap();
            }
            [name, at, width, size] => {
                let number = |text: &str| text.parse().unwrap();
                let member = (name.to_string(), number(at), number(width), number(size));
                all.get_mut(&open).unwrap().members.push(member);
            }
            _ => panic!(
                "GDB says {line:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
    all
}

#[test]
fn types_are_laid_out_as_pahole_says() {
    const TEST: &str = "types_are_laid_out_as_pahole_says";
    let (recorded, program) = match prepared() {
        Ok(prepared) => prepared,
        Err(why) => return support::skip(TEST, &why),
    };
    let pahole = Command::new("pahole").arg("--version").output();
    if !pahole.is_ok_and(|output| output.status.success()) {
        return support::skip(TEST, "no pahole (Debian package dwarves)");
    }
    let directory = support::scratch("gdb-kernel-types");
    let image = fs::read(support::linux().unwrap().kernel).unwrap();
    let vmlinux = match support::vmlinux::vmlinux(&image) {
        Ok(elf) => elf,
        Err(why) => return support::skip(TEST, &why),
    };
    let kernel = directory.join("vmlinux");
    fs::write(&kernel, vmlinux).unwrap();
    let theirs = by_pahole(&kernel);

    let timeline = at_the_end(recorded);
    let guest = AtPosition(&timeline);
    let symbols = directory.join("symbols");
    fs::write(&symbols, symbol_file::find(&guest).unwrap().elf).unwrap();
    let names: String = theirs.keys().map(|name| format!("{name}\n")).collect();
    let list = directory.join("names");
    fs::write(&list, names).unwrap();
    let ours = by_gdb(&program, &symbols, &list);

    assert!(theirs.len() > 5000, "{} structures", theirs.len());
    for name in KNOWN {
        let layout = theirs.get(name).unwrap_or_else(|| panic!("{name}"));
        assert!(
            layout.size > 0 && layout.members.len() > 1,
            "{name}: {layout:?}"
        );
    }
    for name in &KNOWN[11..] {
        let is_bit_field = |member: &Member| member.2 != 0;
        assert!(theirs[*name].members.iter().any(is_bit_field), "{name}");
    }
    for (name, layout) in &theirs {
        assert_eq!(ours.get(name), Some(layout), "struct {name}: GDB, pahole");
    }
    println!("{} structures compared", theirs.len());
}
