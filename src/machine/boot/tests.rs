//! Tests of the loader: small images made here, what is handed over to them, and random damage to them.

use super::*;

const RAM: u64 = 32 << 20;

fn layout(protocol: Option<Protocol>) -> Layout {
    Layout {
        ram_bytes: RAM,
        acpi_rsdp: 0xe_0000,
        protocol,
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A bzImage of protocol 2.15 with `kernel` behind four sectors of setup code.
fn bzimage(kernel: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 5 * 512];
    image[0x1f1] = 4;
    put(&mut image, 0x1f4, &(kernel.len() as u32 / 16).to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS\x0f\x02");
    put(&mut image, 0x20e, &0x100_u16.to_le_bytes());
    image[0x211] = 1; // loaded high
    put(&mut image, 0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(&mut image, 0x230, &0x20_0000_u32.to_le_bytes()); // alignment
    image[0x234] = 1; // relocatable
    put(&mut image, 0x236, &1_u16.to_le_bytes()); // 64-bit entry
    put(&mut image, 0x238, &255_u32.to_le_bytes()); // cmdline_size
    put(&mut image, 0x258, &0x100_0000_u64.to_le_bytes()); // preferred address
    put(&mut image, 0x260, &0x10_0000_u32.to_le_bytes()); // init_size
    put(&mut image, 0x300, b"6.1.0-test (somebody)\0");
    image.extend_from_slice(kernel);
    image
}

/// A segment of a made-up ELF file: type, physical address, address as the kernel sees it, bytes, length in memory.
type Part<'a> = (u32, u64, u64, &'a [u8], u64);

fn elf64(entry: u64, parts: &[Part<'_>]) -> Vec<u8> {
    let mut image = vec![0; 64 + 56 * parts.len()];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &[2, 0, 62, 0, 1]);
    put(&mut image, 24, &entry.to_le_bytes());
    put(&mut image, 32, &64_u64.to_le_bytes());
    put(&mut image, 52, &[64, 0, 56, 0, parts.len() as u8]);
    for (index, (kind, physical, linear, bytes, len)) in parts.iter().enumerate() {
        let at = 64 + 56 * index;
        let offset = image.len() as u64;
        put(&mut image, at, &kind.to_le_bytes());
        for (field, value) in [
            (8, offset),
            (16, *linear),
            (24, *physical),
            (32, bytes.len() as u64),
            (40, *len),
        ] {
            put(&mut image, at + field, &value.to_le_bytes());
        }
        put(&mut image, at + 48, &4_u64.to_le_bytes());
        image.extend_from_slice(bytes);
    }
    image
}

fn elf32(entry: u32, parts: &[Part<'_>]) -> Vec<u8> {
    let mut image = vec![0; 52 + 32 * parts.len()];
    put(&mut image, 0, b"\x7fELF\x01\x01\x01");
    put(&mut image, 16, &[2, 0, 3, 0, 1]);
    put(&mut image, 24, &entry.to_le_bytes());
    put(&mut image, 28, &52_u32.to_le_bytes());
    put(&mut image, 40, &[52, 0, 32, 0, parts.len() as u8]);
    for (index, (kind, physical, linear, bytes, len)) in parts.iter().enumerate() {
        let offset = image.len() as u32;
        let fields = [
            *kind,
            offset,
            *linear as u32,
            *physical as u32,
            bytes.len() as u32,
            *len as u32,
            7,
            4,
        ];
        for (field, value) in fields.iter().enumerate() {
            put(
                &mut image,
                52 + 32 * index + 4 * field,
                &value.to_le_bytes(),
            );
        }
        image.extend_from_slice(bytes);
    }
    image
}

fn pvh_note(entry: u64) -> Vec<u8> {
    let mut note = Vec::new();
    // A note of somebody else's first.
    note.extend_from_slice(&[4, 0, 0, 0, 2, 0, 0, 0, 18, 0, 0, 0]);
    note.extend_from_slice(b"GNU\0ab\0\0");
    note.extend_from_slice(&[4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]);
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&entry.to_le_bytes());
    note
}

fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    let words = [magic, flags, magic.wrapping_add(flags).wrapping_neg()];
    words
        .iter()
        .chain(addresses)
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

/// `len` bytes of the guest's memory as the image leaves it.
fn memory(image: &Image, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (gpa, page) in &image.pages {
        for (offset, byte) in page.iter().enumerate() {
            if let Some(slot) = (gpa + offset as u64)
                .checked_sub(at)
                .and_then(|i| bytes.get_mut(i as usize))
            {
                *slot = *byte;
            }
        }
    }
    bytes
}

fn u32_at(image: &Image, at: u64) -> u32 {
    u32::from_le_bytes(memory(image, at, 4).try_into().unwrap())
}

fn u64_at(image: &Image, at: u64) -> u64 {
    u64::from_le_bytes(memory(image, at, 8).try_into().unwrap())
}

#[test]
fn bzimage_by_its_64_bit_entry() {
    let kernel = bzimage(&[0x90; 4096]);
    let image = load(&kernel, Some(&[7; 5000]), "console=ttyS0", &layout(None)).unwrap();
    let Entry::Long64 {
        rip,
        rsi,
        cr3,
        segments,
        ..
    } = image.entry
    else {
        panic!("{:?}", image.entry)
    };
    assert_eq!(rip, 0x100_0200);
    assert_eq!((segments.cs, segments.ds), (0x10, 0x18));
    assert!(
        image.description.contains("6.1.0-test,"),
        "{}",
        image.description
    );
    // The zero page: header copied, command line, initrd, RSDP, memory map.
    assert_eq!(memory(&image, rsi + 0x202, 4), b"HdrS");
    assert_eq!(memory(&image, rsi + 0x210, 1), [0xff]);
    let cmdline = u32_at(&image, rsi + 0x228);
    assert_eq!(memory(&image, cmdline.into(), 14), b"console=ttyS0\0");
    assert_eq!(
        u32_at(&image, rsi + 0x218),
        0x1ff_e000,
        "as high as RAM allows, at a page"
    );
    assert_eq!(u32_at(&image, rsi + 0x21c), 5000);
    assert_eq!(memory(&image, 0x1ff_e000, 5000), [7; 5000]);
    assert_eq!(u64_at(&image, rsi + 0x70), 0xe_0000);
    assert_eq!(memory(&image, rsi + 0x1e8, 1), [3]);
    let ranges: Vec<_> = (0..3)
        .map(|i| rsi + 0x2d0 + 20 * i)
        .map(|at| (u64_at(&image, at), u64_at(&image, at + 8)))
        .collect();
    assert_eq!(
        ranges,
        [
            (0, 0x9_fc00),
            (0x9_fc00, 0x6_0400),
            (0x10_0000, RAM - 0x10_0000)
        ]
    );
    // Page tables: the first GiB's first and the fourth GiB's last large page.
    let directory = |gib: u64| u64_at(&image, (u64_at(&image, cr3) & !0xfff) + 8 * gib) & !0xfff;
    assert_eq!(u64_at(&image, directory(0)), 0x83);
    assert_eq!(u64_at(&image, directory(3) + 8 * 511), 0xffe0_0083);
}

#[test]
fn bzimage_in_a_small_machine_goes_low_or_is_refused() {
    let kernel = bzimage(&[0x90; 4096]);
    let small = |mib: u64| Layout {
        ram_bytes: mib << 20,
        acpi_rsdp: 0,
        protocol: None,
    };
    let image = load(&kernel, None, "", &small(8)).unwrap();
    assert!(
        matches!(image.entry, Entry::Long64 { rip: 0x20_0200, .. }),
        "{:?}",
        image.entry
    );
    assert!(matches!(
        load(&kernel, None, "", &small(2)),
        Err(BootError::OutsideRam { .. })
    ));
    assert_eq!(
        load(&kernel, None, "", &small(1)).unwrap_err(),
        BootError::RamTooSmall(1 << 20)
    );
    let initrd = vec![0; 8 << 20];
    let too_big = load(&kernel, Some(&initrd), "", &small(8)).unwrap_err();
    assert!(
        matches!(too_big, BootError::InitrdTooBig { .. }),
        "{too_big}"
    );
}

#[test]
fn bzimage_by_its_16_bit_entry() {
    let kernel = bzimage(&[0x90; 4096]);
    let image = load(
        &kernel,
        Some(&[7; 5000]),
        "quiet",
        &layout(Some(Protocol::Linux16)),
    )
    .unwrap();
    let Entry::Real16 { cs, ip, ds, ss, .. } = image.entry else {
        panic!("{:?}", image.entry)
    };
    assert_eq!((ds, ss), (0x1000, 0x1000));
    let bios = u64::from(cs) * 16;
    assert_eq!(
        memory(&image, bios, 2),
        [1, 0],
        "the extended BIOS data area's size in KiB"
    );
    // The last instruction of the BIOS's start is the far jump to the setup code.
    let start = memory(&image, bios + u64::from(ip), 64);
    assert!(
        start
            .windows(5)
            .any(|code| code == [0xea, 0, 0, 0x20, 0x10])
    );
    // INT 15h and the ranges that it tells.
    let vector = u32_at(&image, 4 * 0x15);
    assert_eq!(vector >> 16, u32::from(cs));
    assert_eq!(u64_at(&image, bios + 0x28 + 20), 0x9_fc00);
    // The setup header has been filled in, the code behind it left alone.
    assert_eq!(u32_at(&image, 0x10000 + 0x228), 0x20000);
    assert_eq!(u32_at(&image, 0x10000 + 0x21c), 5000);
    assert_eq!(memory(&image, 0x10000 + 0x300, 10), b"6.1.0-test");
    assert_eq!(memory(&image, 0x10_0000, 16), [0x90; 16]);
}

#[test]
fn every_cut_of_a_bzimage_is_an_error() {
    let kernel = bzimage(&[0x90; 1024]);
    for len in 0..kernel.len() {
        let error = load(&kernel[..len], None, "", &layout(None)).unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn what_a_command_line_may_be() {
    let kernel = bzimage(&[0x90; 1024]);
    assert!(load(&kernel, None, &"x".repeat(255), &layout(None)).is_ok());
    let error = load(&kernel, None, &"x".repeat(256), &layout(None)).unwrap_err();
    assert_eq!(error, BootError::CommandLineTooLong { len: 256, max: 255 });
    assert_eq!(
        load(&kernel, None, "a\0b", &layout(None)).unwrap_err(),
        BootError::CommandLineNul
    );
}

#[test]
fn vmlinux_by_its_64_bit_entry() {
    let kernel = elf64(
        0x20_0010,
        &[(1, 0x20_0000, 0xffff_ffff_8020_0000, &[1; 64], 4096)],
    );
    let image = load(&kernel, Some(&[7; 10]), "quiet", &layout(None)).unwrap();
    assert_eq!(image.protocol, Protocol::Linux64);
    let Entry::Long64 { rip, rsi, .. } = image.entry else {
        panic!("{:?}", image.entry)
    };
    assert_eq!(rip, 0x20_0010);
    assert_eq!(memory(&image, 0x20_0000, 65), [&[1; 64][..], &[0]].concat());
    assert_eq!(memory(&image, rsi + 0x202, 4), b"HdrS");
    assert_eq!(u32_at(&image, rsi + 0x21c), 10);
}

#[test]
fn elf_by_its_pvh_note() {
    let note = pvh_note(0x20_0020);
    let kernel = elf64(
        0x20_0000,
        &[
            (1, 0x20_0000, 0x20_0000, &[1; 64], 4096),
            (4, 0, 0, &note, 0),
        ],
    );
    let image = load(&kernel, Some(&[7; 10]), "quiet", &layout(None)).unwrap();
    assert_eq!(image.protocol, Protocol::Pvh);
    let Entry::Protected32 { eip, ebx, .. } = image.entry else {
        panic!("{:?}", image.entry)
    };
    let info = u64::from(ebx);
    assert_eq!(eip, 0x20_0020);
    assert_eq!(u32_at(&image, info), 0x336e_c578);
    let module = u64_at(&image, info + 16);
    assert_eq!(memory(&image, u64_at(&image, module), 10), [7; 10]);
    assert_eq!(u64_at(&image, module + 8), 10);
    assert_eq!(memory(&image, u64_at(&image, info + 24), 6), b"quiet\0");
    assert_eq!(u64_at(&image, info + 32), 0xe_0000);
    let map = u64_at(&image, info + 40);
    assert_eq!(u32_at(&image, info + 48), 3);
    assert_eq!(
        (u64_at(&image, map + 24), u32_at(&image, map + 24 + 16)),
        (0x9_fc00, 2)
    );
    // The other entry of the same file, when it is asked for.
    let image = load(&kernel, None, "", &layout(Some(Protocol::Linux64))).unwrap();
    assert!(matches!(image.entry, Entry::Long64 { rip: 0x20_0000, .. }));
}

#[test]
fn multiboot_by_the_segments_of_an_elf_file() {
    let mut code = multiboot_header(3, &[]);
    code.resize(64, 0x90);
    let high = 0xc010_0000;
    for kernel in [
        elf32(high + 16, &[(1, 0x10_0000, high.into(), &code, 4096)]),
        elf64(
            (high + 16).into(),
            &[(1, 0x10_0000, high.into(), &code, 4096)],
        ),
    ] {
        let image = load(&kernel, Some(b"module"), "root=x", &layout(None)).unwrap();
        assert_eq!(image.protocol, Protocol::Multiboot);
        let Entry::Protected32 { eip, eax, ebx, .. } = image.entry else {
            panic!("{:?}", image.entry)
        };
        assert_eq!((eip, eax), (0x10_0010, 0x2bad_b002));
        let info = u64::from(ebx);
        assert_eq!(u32_at(&image, info), 0b10_0100_1101);
        assert_eq!(u32_at(&image, info + 4), 639);
        assert_eq!(u32_at(&image, info + 8), 31 * 1024);
        assert_eq!(
            memory(&image, u32_at(&image, info + 16).into(), 7),
            b"root=x\0"
        );
        let module = u64::from(u32_at(&image, info + 24));
        assert_eq!(
            (u32_at(&image, module), u32_at(&image, module + 4)),
            (0x10_1000, 0x10_1006)
        );
        assert_eq!(memory(&image, 0x10_1000, 6), b"module");
        let map = u64::from(u32_at(&image, info + 48));
        assert_eq!(u32_at(&image, info + 44), 3 * 24);
        assert_eq!((u32_at(&image, map), u64_at(&image, map + 4)), (20, 0));
        assert_eq!(
            memory(&image, u32_at(&image, info + 64).into(), 11),
            b"retrovisor\0"
        );
    }
}

#[test]
fn multiboot_by_the_addresses_in_its_header() {
    // 32 bytes of something, the header, code; loaded from 16 bytes before the header.
    let mut kernel = vec![0; 32];
    kernel.extend(multiboot_header(
        1 << 16,
        &[0x10_0010, 0x10_0000, 0x10_0050, 0x10_2000, 0x10_0040],
    ));
    kernel.resize(16 + 0x60, 0xcc);
    let image = load(&kernel, None, "", &layout(None)).unwrap();
    assert!(
        matches!(image.entry, Entry::Protected32 { eip: 0x10_0040, .. }),
        "{:?}",
        image.entry
    );
    assert_eq!(u32_at(&image, 0x10_0010), 0x1bad_b002);
    assert_eq!(memory(&image, 0x10_004f, 2), [0xcc, 0]);
    for (field, value) in [
        (12, 0x0f_0000_u32),
        (20, 0x10_1000),
        (28, 0x20_0000),
        (16, 0x10_0010 - 64),
    ] {
        let mut bad = kernel.clone();
        put(&mut bad, 32 + field, &value.to_le_bytes());
        load(&bad, None, "", &layout(None)).unwrap_err();
    }
}

#[test]
fn what_is_refused_says_why() {
    let said = |kernel: &[u8], protocol| {
        load(kernel, None, "", &layout(protocol))
            .unwrap_err()
            .to_string()
    };
    let text = elf32(0x10_0000, &[(1, 0x10_0000, 0x10_0000, &[0; 64], 64)]);
    let overlapping = [
        (1, 0x20_0000, 0x20_0000, &[1; 64][..], 4096),
        (1, 0x20_0040, 0x20_0040, &[1; 64][..], 64),
    ];
    let mut arm = elf64(0, &[]);
    arm[18] = 183;
    let multiboot2: Vec<u8> = 0xe852_50d6_u32
        .to_le_bytes()
        .iter()
        .chain(&[0; 60])
        .copied()
        .collect();
    for (kernel, protocol, expected) in [
        (vec![], None, "empty"),
        (b"\x1f\x8b\x08\x00".to_vec(), None, "gzip"),
        (
            b"#!/bin/sh".to_vec(),
            None,
            "9 bytes, starting with 23 21 2f 62",
        ),
        (
            text.clone(),
            None,
            "neither a Multiboot header nor a PVH entry note",
        ),
        (text, Some(Protocol::Multiboot), "no Multiboot 1 header"),
        (
            elf64(0x20_0000, &overlapping),
            None,
            "would lie over the kernel's segment 0",
        ),
        (
            elf64(0x20_0000, &[(1, 0x20_0000, 0, &[1; 64], u64::MAX)]),
            None,
            "needs guest memory 0x200000",
        ),
        (
            elf64(0x30_0000, &[(1, 0x20_0000, 0x20_0000, &[1; 64], 64)]),
            None,
            "entry 0x300000 is not in",
        ),
        (elf64(0, &[]), None, "nothing to load"),
        (arm, None, "machine 183"),
        (multiboot2, None, "Multiboot 2"),
        (bzimage(&[0; 64]), Some(Protocol::Pvh), "PVH"),
        (multiboot_header(8, &[]), None, "flags 0x8"),
        (multiboot_header(0, &[]), None, "gives no load addresses"),
    ] {
        let message = said(&kernel, protocol);
        assert!(message.contains(expected), "«{message}» says «{expected}»");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn memory_above_the_hole() {
    let map = MemoryMap::new(5 << 30);
    assert_eq!(
        (map.low_end, map.high_end),
        (LOW_RAM_END, HIGH_RAM_START + (2 << 30))
    );
    assert_eq!(
        map.ranges.last(),
        Some(&Range {
            start: HIGH_RAM_START,
            len: 2 << 30,
            kind: RangeKind::Ram
        })
    );
    let total: u64 = map.ranges.iter().map(|range| range.len).sum();
    assert_eq!(
        total,
        5 << 30,
        "every byte of RAM is in the map, reserved ones too"
    );
    assert!(MemoryMap::new(u64::MAX).high_end <= 1 << 52);
}

/// xorshift64*: what random damage is made of.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

/// Whatever is done to an image: an error, or a layout that keeps every promise of [`Image`].
#[test]
fn damaged_images_never_break_the_loader() {
    let mut code = multiboot_header(3, &[]);
    code.resize(256, 0x90);
    let mut kludge = multiboot_header(
        1 << 16,
        &[0x10_0000, 0x10_0000, 0x10_0050, 0x10_2000, 0x10_0040],
    );
    kludge.resize(128, 0xcc);
    let note = pvh_note(0x20_0020);
    let samples = [
        bzimage(&[0x90; 2048]),
        elf64(
            0x20_0000,
            &[
                (1, 0x20_0000, 0x20_0000, &[1; 64], 4096),
                (4, 0, 0, &note, 0),
            ],
        ),
        elf32(
            0x10_0010,
            &[
                (1, 0x10_0000, 0xc010_0000, &code, 4096),
                (1, 0x20_0000, 0, &[2; 64], 64),
            ],
        ),
        kludge,
    ];
    let protocols = [
        None,
        Some(Protocol::Linux64),
        Some(Protocol::Linux16),
        Some(Protocol::Pvh),
        Some(Protocol::Multiboot),
    ];
    let interesting = [0, 1, 0x7f, 0x80, 0xff];
    let initrd = vec![7; 9000];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut loaded, mut refused) = (0, 0);
    for round in 0..40_000 {
        let mut image = samples[round % samples.len()].clone();
        for _ in 0..random.below(6) {
            // Headers more than the rest.
            let span = if random.below(4) == 0 {
                image.len()
            } else {
                image.len().min(0x270)
            };
            let at = random.below(span);
            let value = if random.below(2) == 0 {
                interesting[random.below(5)]
            } else {
                random.below(256) as u8
            };
            image[at] = value;
        }
        if random.below(8) == 0 {
            image.truncate(random.below(image.len()));
        }
        let layout = Layout {
            ram_bytes: (random.below(40) as u64) << 20,
            acpi_rsdp: 0xe_0000,
            protocol: protocols[random.below(protocols.len())],
        };
        let initrd = (random.below(2) == 0).then_some(&initrd[..random.below(9000)]);
        match load(&image, initrd, "console=ttyS0", &layout) {
            Ok(image) => {
                loaded += 1;
                let mut end = 0;
                for (gpa, bytes) in &image.pages {
                    assert!(
                        *gpa >= end && !bytes.is_empty(),
                        "round {round}: pieces ascend and do not overlap"
                    );
                    end = gpa + bytes.len() as u64;
                }
                assert!(end <= layout.ram_bytes, "round {round}: all lies in RAM");
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains('\n'), "round {round}: {error}");
            }
        }
    }
    assert!(
        loaded > 1000 && refused > 1000,
        "{loaded} loaded and {refused} refused: both happen"
    );
}
