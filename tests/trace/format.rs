//! The format itself: what is no recording, what is of another version, and that no change goes unseen.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use retrovisor::trace::{
    Digest, Error, Event, MachineConfig, PAGE_LINES, PageHash, PageList, Recording, Stand, Start,
    TRACE_VERSION, TRACE_VERSION_COUNTER, TRACE_VERSION_NEWEST, TRACE_VERSION_OLDEST,
    TRACE_VERSION_STARTED, TRACE_VERSION_UNTIMED, What,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::sample::{
    FRAME_HEADER_BYTES, PREFIX_BYTES, Scratch, config, end, frame_offsets, mend, one_line,
    read_all, read_ram, record, record_as, sample_ram, u32_at,
};

#[test]
fn what_is_no_recording_is_refused_by_its_own_name() {
    let scratch = Scratch::new("foreign");
    let path = scratch.file("a.rvr");
    record(&path, &[], &[], 1);
    let whole = fs::read(&path).expect("the file");
    let bad = scratch.file("bad.rvr");
    let message = |bytes: &[u8]| {
        fs::write(&bad, bytes).expect("written");
        let error = Recording::open(&bad).expect_err("refused");
        one_line(&error, &bad);
        error.to_string()
    };
    assert!(message(b"").contains("the file is empty"));
    assert!(
        message(b"\x7fELF and so on")
            .contains("not a retrovisor recording (it starts with the bytes 7f 45 4c 46")
    );
    assert!(message(b"x").contains("not a retrovisor recording"));
    assert!(message(&whole[..20]).contains("the header is cut off at byte 20 of 56"));
    assert!(message(&whole[..100]).contains("the header is cut off at byte 100 of"));
    let text_mode = [b"\x89RVR\n\x1a\n", &whole[8..]].concat();
    assert!(message(&text_mode).contains("not a retrovisor recording"));

    let mut newer = whole.clone();
    newer[8..12].copy_from_slice(&(TRACE_VERSION + 6).to_le_bytes());
    newer[16..40].copy_from_slice(b"9.8.7\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    // The rest of a newer format is unknown to us: it may be anything.
    newer[PREFIX_BYTES..].fill(0xee);
    mend(&mut newer);
    let text = message(&newer);
    assert!(
        text.contains(&format!("has format {}", TRACE_VERSION + 6)),
        "{text}"
    );
    assert!(
        text.contains("open it with retrovisor 9.8.7 or later"),
        "{text}"
    );

    let error = Recording::open(&scratch.0).expect_err("a directory");
    assert!(matches!(error, Error::Directory { .. }), "{error}");
    let error = Recording::open("/dev/null").expect_err("a device");
    assert!(matches!(error, Error::NotAFile { .. }), "{error}");
    let error = Recording::open(scratch.file("none.rvr")).expect_err("missing");
    assert!(matches!(error, Error::Open { .. }), "{error}");
    one_line(&error, &scratch.file("none.rvr"));
}

/// One event of every kind of a recording of ticks, and both sides of every choice: what the pinned hash and the stored
/// file hold.
fn format_sample() -> Vec<Event> {
    let digest = Digest {
        registers: u128::MAX - 1,
        pages: 2 << 90,
        outputs: 0x1234_5678_9abc_def0,
    };
    let pio = |port, size, value| What::PioRead { port, size, value };
    let mmio = |gpa, value| What::MmioRead {
        gpa,
        size: 4,
        value,
    };
    let whats = [
        pio(0x3fd, 1, 0x60),
        pio(0x3fd, 1, 0x60),
        pio(0xcfc, 4, u32::MAX),
        mmio(0xfee0_0390, 1_000_000),
        mmio(0xfee0_0390, 999_000),
        What::MsrRead {
            msr: 0x1b,
            value: Some(0xfee0_0900),
        },
        What::MsrRead {
            msr: 0x1c,
            value: None,
        },
        What::MsrWrite {
            msr: 0x6e0,
            ok: true,
        },
        What::MsrWrite {
            msr: 0x6e1,
            ok: false,
        },
        What::Tsc { value: 1 << 40 },
        What::Random { value: u64::MAX },
        What::TprRead { value: 15 },
        What::Clock {
            tsc_offset: 123_456_789,
        },
        What::Clock {
            tsc_offset: 123_456_999,
        },
        What::Interrupt { vector: 0xec },
        What::Nmi,
        What::Dma {
            gpa: 0x10_0000,
            bytes: (*b"from a device").into(),
        },
        What::Init,
        What::Sipi { vector: 0x9a },
        What::Switch { to: 1 },
        What::ConsoleInput {
            bytes: (*b"ls\r").into(),
        },
        What::Digest(Box::new(digest)),
    ];
    (10..)
        .step_by(1000)
        .zip(whats)
        .map(|(tick, what)| Event {
            tick,
            cpu: (tick / 1000 % 2) as u8,
            what,
        })
        .collect()
}

/// The configuration of a recording that has no ticks yet.
fn untimed_config() -> MachineConfig {
    MachineConfig {
        untimed: true,
        ..config()
    }
}

/// The configuration of a recording that begins in the middle of a run. With ticks or without, it is of one version.
fn started_config() -> MachineConfig {
    let start = Start {
        guest_ns: 12_345_678_901,
        serial_divisor: true,
        serial_loopback: false,
        task_priority: 5,
        moment: "the console said «login:»".into(),
    };
    MachineConfig {
        start: Some(start),
        ..config()
    }
}

/// The configuration of a recording without ticks that tells what RDTSC reads.
fn counter_config() -> MachineConfig {
    MachineConfig {
        counter: true,
        ..untimed_config()
    }
}

/// The kind of event that only these have, among others.
fn counter_sample() -> Vec<Event> {
    let mut sample = untimed_sample();
    let last = sample[sample.len() - 1].tick;
    for (tick, value) in [(0, 5), (last, 1 << 40), (last, (1 << 40) + 1_000_000)] {
        let counter = Event {
            tick,
            cpu: 0,
            what: What::Counter { value },
        };
        let at = sample.partition_point(|event| event.tick <= tick);
        sample.insert(at, counter);
    }
    sample
}

/// A list of one page.
fn by_line_rows(page: &PageHash) -> Box<[u8]> {
    let list = PageList {
        state: Vec::new(),
        pages: vec![*page],
        lines: vec![[5; PAGE_LINES]],
    };
    list.encode().remove(0)
}

/// The kinds of event that only recordings without ticks have, among others.
fn untimed_sample() -> Vec<Event> {
    let stand = Stand {
        rip: 0xffff_ffff_8100_0000,
        linear: 0x1234,
        flags: 0x202,
        general: std::array::from_fn(|n| 1 << n << 40),
        vector: 0x1234_5678_9abc_def0,
        elapsed_ns: 4_000_000,
    };
    let page = |page| PageHash {
        page,
        whole: u64::from(page) << 32,
        unmarked: !u64::from(page),
    };
    let whole = PageList {
        state: vec![7; 100],
        pages: (0..100).map(page).collect(),
        lines: Vec::new(),
    };
    let by_line = PageList {
        state: Vec::new(),
        pages: vec![page(3), page(70_000)],
        lines: vec![[9; PAGE_LINES], std::array::from_fn(|n| n as u8)],
    };
    let lists = [whole, by_line].into_iter().flat_map(|list| list.encode());
    // A list that goes on in the next event.
    let mut begun = by_line_rows(&page(1));
    begun[0] |= 1;
    let lists = lists.chain([begun, by_line_rows(&page(2))]);
    let pages = lists.map(|bytes| What::Pages { bytes });
    let mut whats = vec![
        What::PioRead {
            port: 0x3fd,
            size: 1,
            value: 0x60,
        },
        What::Check {
            registers: 0xdead_beef,
        },
        What::Stand(Box::new(stand)),
        What::Clock {
            tsc_offset: 123_456_789,
        },
        What::Interrupt { vector: 0x20 },
    ];
    whats.extend(pages);
    whats.push(What::Check { registers: 1 });
    let ticks = (0..).map(|n| n / 3);
    ticks
        .zip(whats)
        .map(|(tick, what)| Event { tick, cpu: 0, what })
        .collect()
}

/// A hash of what the bytes of a file mean: payloads as they are before compression. How well zstd does is no part of
/// the format.
fn meaning(path: &Path) -> String {
    let file = fs::read(path).expect("the file");
    let offsets = frame_offsets(&file);
    let mut meaning = file[..offsets[0]].to_vec();
    for offset in offsets {
        let header = &file[offset..offset + FRAME_HEADER_BYTES];
        meaning.extend_from_slice(&header[..12]);
        meaning.extend_from_slice(&header[16..48]);
        let stored = &file[offset + FRAME_HEADER_BYTES..][..u32_at(header, 12) as usize];
        meaning.extend_from_slice(
            &zstd::bulk::decompress(stored, u32_at(header, 16) as usize).expect("zstd"),
        );
    }
    format!("{:016x}", xxh3_64(&meaning))
}

#[test]
fn a_change_of_the_format_needs_a_new_version() {
    let scratch = Scratch::new("schema");
    let path = scratch.file("a.rvr");
    record(&path, &sample_ram(), &format_sample(), 15);
    assert_eq!(
        (TRACE_VERSION, meaning(&path)),
        (1, "7ef490262b596516".into()),
        "the bytes of a recording mean something else than before: make TRACE_VERSION one higher, keep reading the \
         old files in tests/formats or refuse them by name, and pin the new hash"
    );
    record_as(
        &untimed_config(),
        &path,
        &sample_ram(),
        &untimed_sample(),
        4,
    );
    assert_eq!(
        (TRACE_VERSION_UNTIMED, meaning(&path)),
        (2, "38217cd7aadc8c8c".into()),
        "the same for recordings without ticks and TRACE_VERSION_UNTIMED"
    );
    record_as(
        &started_config(),
        &path,
        &sample_ram(),
        &format_sample(),
        15,
    );
    assert_eq!(
        (TRACE_VERSION_STARTED, meaning(&path)),
        (3, "eced733a0c77ab86".into()),
        "the same for recordings from the middle of a run and TRACE_VERSION_STARTED"
    );
    record_as(
        &counter_config(),
        &path,
        &sample_ram(),
        &counter_sample(),
        4,
    );
    assert_eq!(
        (TRACE_VERSION_COUNTER, meaning(&path)),
        (4, "46e925eb1ad3594c".into()),
        "the same for recordings that tell what RDTSC reads and TRACE_VERSION_COUNTER"
    );
    let untimed = MachineConfig {
        untimed: true,
        ..started_config()
    };
    record_as(&untimed, &path, &sample_ram(), &untimed_sample(), 4);
    let recording = Recording::open(&path).expect("opened");
    assert_eq!(recording.version(), TRACE_VERSION_STARTED);
    assert_eq!(recording.config(), &untimed);
    let counter = MachineConfig {
        counter: true,
        ..untimed
    };
    record_as(&counter, &path, &sample_ram(), &counter_sample(), 4);
    let recording = Recording::open(&path).expect("opened");
    assert_eq!(recording.version(), TRACE_VERSION_COUNTER);
    assert_eq!(recording.config(), &counter);
}

#[test]
fn recordings_of_every_version_still_open() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
    for (version, config, sample) in [
        (TRACE_VERSION, config(), format_sample()),
        (TRACE_VERSION_UNTIMED, untimed_config(), untimed_sample()),
        (TRACE_VERSION_STARTED, started_config(), format_sample()),
        (TRACE_VERSION_COUNTER, counter_config(), counter_sample()),
    ] {
        let newest = folder.join(format!("v{version}.rvr"));
        if !newest.exists() {
            record_as(&config, &newest, &sample_ram()[..4], &sample, 15);
            panic!(
                "{} was missing and has been made: keep it",
                newest.display()
            );
        }
    }
    let mut seen = [0; TRACE_VERSION_NEWEST as usize + 1];
    for entry in fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let recording = Arc::new(Recording::open(&path).unwrap_or_else(|error| panic!("{error}")));
        let (config, sample) = match recording.version() {
            TRACE_VERSION_UNTIMED => (untimed_config(), untimed_sample()),
            TRACE_VERSION_STARTED => (started_config(), format_sample()),
            TRACE_VERSION_COUNTER => (counter_config(), counter_sample()),
            _ => (config(), format_sample()),
        };
        assert_eq!(recording.config(), &config, "{}", path.display());
        assert_eq!(recording.torn(), None);
        let (events, error) = read_all(&recording);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(events, sample);
        assert_eq!(recording.end(), Some(&end(events[events.len() - 1].tick)));
        assert_eq!(read_ram(&recording).expect("RAM"), sample_ram()[1..4]);
        seen[recording.version() as usize] += 1;
    }
    assert!(
        (TRACE_VERSION_OLDEST..=TRACE_VERSION_NEWEST).all(|version| seen[version as usize] > 0),
        "{seen:?}"
    );
}
