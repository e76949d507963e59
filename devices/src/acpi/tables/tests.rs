use super::*;

const AT: u64 = 0xe_0000;

fn config(cpus: usize) -> BoardConfig {
    BoardConfig {
        cpus,
        ram_bytes: 256 << 20,
        rtc_epoch_s: 0,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The table at a guest-physical address, checked.
fn table_at(bytes: &[u8], address: u64, signature: &[u8]) -> Vec<u8> {
    let table = &bytes[(address - AT) as usize..];
    assert_eq!(&table[..4], signature);
    let table = &table[..u32_at(table, 4) as usize];
    if signature != b"FACS" {
        assert_eq!(
            table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)),
            0,
            "{signature:?}"
        );
    }
    table.to_vec()
}

#[test]
fn a_guest_finds_every_table_from_the_rsdp() {
    for cpus in [1, 8, MAX_CPUS] {
        let bytes = tables(&config(cpus), AT);
        assert!(bytes.len() < 0x1_0000);
        assert_eq!(&bytes[..8], b"RSD PTR ");
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
        let rsdt = table_at(&bytes, u32_at(&bytes, 16).into(), b"RSDT");
        let xsdt = table_at(&bytes, u64_at(&bytes, 24), b"XSDT");
        assert_eq!((rsdt.len(), xsdt.len()), (36 + 8, 36 + 16));
        for i in 0..2 {
            assert_eq!(
                u64::from(u32_at(&rsdt, 36 + 4 * i)),
                u64_at(&xsdt, 36 + 8 * i)
            );
        }
        let fadt = table_at(&bytes, u64_at(&xsdt, 36), b"FACP");
        assert_eq!(fadt.len(), FADT_BYTES);
        table_at(&bytes, u32_at(&fadt, 36).into(), b"FACS");
        assert_eq!(u64::from(u32_at(&fadt, 40)), u64_at(&fadt, 140));
        assert_eq!((u32_at(&fadt, 36) % 64, u64_at(&fadt, 132)), (0, 0));
        table_at(&bytes, u64_at(&fadt, 140), b"DSDT");
        let madt = table_at(&bytes, u64_at(&xsdt, 44), b"APIC");
        assert_eq!(madt.len(), 44 + 8 * cpus + 12 + 2 * 10 + 6);
    }
}

#[test]
fn fadt_names_the_ports_that_the_board_answers_at() {
    let fadt = fadt(0x1000, 0x2000);
    for (at, port) in [(56, PM1A_EVENT), (64, PM1A_CONTROL), (76, PM_TIMER)] {
        assert_eq!(u32_at(&fadt, at), port.into());
        assert_eq!(
            crate::map::route(port, 1),
            Some((Owner::Pm, port - PM_BASE))
        );
    }
    assert_eq!(u64_at(&fadt, 120), RESET_CONTROL.into());
}

#[test]
fn eisa_ids_are_compressed() {
    assert_eq!(eisa_id("PNP0A03"), 0x030a_d041);
    assert_eq!(eisa_id("PNP0501"), 0x0105_d041);
}

/// Intel's own disassembler reads every table without a complaint, and its compiler takes the DSDT back. Where it is
/// not installed (Debian: acpica-tools) the test says so.
#[test]
fn iasl_reads_them() {
    let present = std::process::Command::new("iasl")
        .arg("-v")
        .output()
        .is_ok();
    if !present {
        eprintln!("skipped: iasl is not installed (package acpica-tools)");
        return;
    }
    let dir = std::env::temp_dir().join(format!("retrovisor-acpi-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory for iasl");
    let parts = [
        ("dsdt", dsdt()),
        ("facp", fadt(0x1000, 0x2000)),
        ("apic", madt(3)),
        ("facs", facs()),
        ("xsdt", table(b"XSDT", 1, &[0; 16])),
    ];
    for (name, bytes) in parts {
        std::fs::write(dir.join(name).with_extension("aml"), bytes).expect("a table for iasl");
        let disassembled = std::process::Command::new("iasl")
            .args(["-d", &format!("{name}.aml")])
            .current_dir(&dir)
            .output()
            .expect("iasl runs");
        let said = String::from_utf8_lossy(&[disassembled.stdout, disassembled.stderr].concat())
            .into_owned();
        assert!(disassembled.status.success(), "{name}: {said}");
        let complains = ["Error", "Warning", "Invalid", "incorrect"]
            .iter()
            .any(|word| said.contains(word));
        assert!(!complains, "{name}: {said}");
    }
    let compiled = std::process::Command::new("iasl")
        .args(["-oa", "-p", "again", "dsdt.dsl"])
        .current_dir(&dir)
        .output()
        .expect("iasl runs");
    let said = String::from_utf8_lossy(&compiled.stdout).into_owned();
    assert!(said.contains("0 Errors, 0 Warnings"), "{said}");
    // The compiler's code is the same as ours, but for the header: its checksum and who made it.
    let again = std::fs::read(dir.join("again.aml")).expect("what iasl compiled");
    assert_eq!(again[HEADER_BYTES..], dsdt()[HEADER_BYTES..]);
    std::fs::remove_dir_all(&dir).expect("the directory goes again");
}
