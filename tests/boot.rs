//! The loader over real kernels, and the guests of tests/guests.

mod support;

use std::fs;

use retrovisor::machine::boot::{Entry, Layout, Protocol, load};

const RAM: u64 = 256 << 20;

fn layout(protocol: Option<Protocol>) -> Layout {
    Layout {
        ram_bytes: RAM,
        acpi_rsdp: 0xe_0000,
        protocol,
    }
}

#[test]
fn a_debian_kernel_is_laid_out_by_both_its_entries() {
    let linux = match support::linux() {
        Ok(linux) => linux,
        Err(why) => return support::skip("a_debian_kernel_is_laid_out_by_both_its_entries", &why),
    };
    let (kernel, initrd) = (
        fs::read(&linux.kernel).unwrap(),
        fs::read(&linux.initrd).unwrap(),
    );
    for protocol in [Protocol::Linux64, Protocol::Linux16] {
        let image = load(
            &kernel,
            Some(&initrd),
            support::LINUX_CMDLINE,
            &layout(Some(protocol)),
        )
        .unwrap();
        assert!(
            image.description.contains(&linux.version),
            "{}",
            image.description
        );
        let (at, _) = image
            .pages
            .iter()
            .find(|(_, bytes)| *bytes == initrd)
            .expect("the initrd is there whole");
        assert_eq!(
            at + (initrd.len() as u64).next_multiple_of(4096),
            RAM,
            "as high as it goes"
        );
    }
    // Each half of it is an error, not half a guest.
    let error = load(&kernel[..kernel.len() / 2], None, "", &layout(None))
        .unwrap_err()
        .to_string();
    assert!(error.contains("cut short"), "{error}");
}

#[test]
fn the_guests_of_assembler_build_and_load() {
    let mut found = 0;
    // These are parts of guests.
    const PARTS: [&str; 2] = ["start", "long"];
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let guest = name.strip_suffix(".s");
        let Some(name) = guest.filter(|name| !PARTS.contains(name)) else {
            continue;
        };
        let elf = fs::read(support::guest(name)).unwrap();
        let image = load(&elf, None, "", &layout(None)).unwrap();
        assert!(
            matches!(
                image.entry,
                Entry::Protected32 {
                    eip: 0x10_0000..,
                    ..
                }
            ),
            "{name}: {:?}",
            image.entry
        );
        found += 1;
    }
    assert!(found >= 5, "{found} guests");
}
