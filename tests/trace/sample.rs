//! Recordings to test with: machines, events and RAM of every shape, and files whose bytes were changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use retrovisor::trace::{
    Accel, CpuidLeaf, Digest, End, EndReason, Error, Event, Identity, KINDS, Kind, MachineConfig,
    PAGE_BYTES, Recording, Stand, What, Writer,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub const PREFIX_BYTES: usize = 56;

pub const FRAME_HEADER_BYTES: usize = 64;

/// A directory that goes away with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("retrovisor-trace-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Small mostly, with every length of number now and then.
    pub fn any(&mut self) -> u64 {
        let bits = self.below(65);
        if bits == 0 {
            0
        } else {
            self.next() >> (64 - bits)
        }
    }

    pub fn bytes(&mut self, len: usize) -> Box<[u8]> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

pub fn config() -> MachineConfig {
    MachineConfig {
        ram_bytes: 64 << 20,
        cpus: 2,
        cpu_vendor: "GenuineIntel".into(),
        cpu_model: "a model".into(),
        cpuid: vec![CpuidLeaf {
            leaf: 0,
            subleaf: 0,
            eax: 13,
            ebx: 0x756e_6547,
            ecx: 0x6c65_746e,
            edx: 0x4965_6e69,
        }],
        rtc_epoch_s: 1_700_000_000,
        kernel: "vmlinuz".into(),
        initrd: Some("initrd".into()),
        cmdline: "console=ttyS0".into(),
        boot_protocol: "linux64".into(),
        accel: Accel::Emulate,
        program: "0.1.0".into(),
        created_unix_s: 1_800_000_000,
        identity: Identity(*b"0123456789abcdef"),
        digest_distance_ticks: 1 << 22,
        ns_per_tick: 8,
        untimed: false,
        counter: false,
        start: None,
    }
}

pub fn end(tick: u64) -> End {
    End {
        tick,
        reason: EndReason::PowerOff,
        guest_ns: Some(tick * 8),
        wall_ms: 17,
        statistics: Default::default(),
    }
}

/// An event of any kind with any contents.
pub fn random_what(random: &mut Random) -> What {
    let kind = KINDS[random.below(KINDS.len() as u64) as usize].0;
    let size = 1 << random.below(4);
    match kind {
        Kind::PioRead => What::PioRead {
            port: random.any() as u16,
            size,
            value: random.any() as u32,
        },
        Kind::MmioRead => What::MmioRead {
            gpa: random.any(),
            size,
            value: random.any(),
        },
        Kind::MsrRead => {
            let value = (random.below(2) == 0).then(|| random.any());
            What::MsrRead {
                msr: random.any() as u32,
                value,
            }
        }
        Kind::MsrWrite => What::MsrWrite {
            msr: random.any() as u32,
            ok: random.below(2) == 0,
        },
        Kind::Tsc => What::Tsc {
            value: random.any(),
        },
        Kind::Random => What::Random {
            value: random.any(),
        },
        Kind::TprRead => What::TprRead {
            value: random.any(),
        },
        Kind::Clock => What::Clock {
            tsc_offset: random.any(),
        },
        Kind::Interrupt => What::Interrupt {
            vector: random.any() as u8,
        },
        Kind::Nmi => What::Nmi,
        Kind::Dma => {
            let len = random.below(600) as usize;
            What::Dma {
                gpa: random.any(),
                bytes: random.bytes(len),
            }
        }
        Kind::Init => What::Init,
        Kind::Sipi => What::Sipi {
            vector: random.any() as u8,
        },
        Kind::Switch => What::Switch {
            to: random.any() as u8,
        },
        Kind::ConsoleInput => {
            let len = random.below(9) as usize;
            What::ConsoleInput {
                bytes: random.bytes(len),
            }
        }
        Kind::Digest => What::Digest(Box::new(Digest {
            registers: u128::from(random.next()) << 64 | u128::from(random.next()),
            pages: u128::from(random.any()),
            outputs: random.any(),
        })),
        Kind::Check => What::Check {
            registers: random.any(),
        },
        Kind::Stand => What::Stand(Box::new(Stand {
            rip: random.any(),
            linear: random.any(),
            flags: random.any(),
            general: std::array::from_fn(|_| random.any()),
            vector: random.any(),
            elapsed_ns: random.any(),
        })),
        Kind::Pages => {
            let len = random.below(300) as usize;
            What::Pages {
                bytes: random.bytes(len),
            }
        }
        Kind::Counter => What::Counter {
            value: random.any(),
        },
    }
}

pub fn random_events(random: &mut Random, count: usize) -> Vec<Event> {
    let mut tick = 0;
    (0..count)
        .map(|_| {
            tick += random.any() >> 30;
            Event {
                tick,
                cpu: random.below(2) as u8,
                what: random_what(random),
            }
        })
        .collect()
}

pub type Page = [u8; PAGE_BYTES];

/// Page numbers and contents: zero pages, equal ones, and different ones.
pub fn sample_ram() -> Vec<(u64, Page)> {
    let mut random = Random(5);
    let mut pages: Vec<(u64, Page)> = (0..40).map(|number| (number, [0; PAGE_BYTES])).collect();
    for (number, page) in &mut pages {
        match *number % 4 {
            0 => {}
            1 => page.fill(0xcc),
            2 => page[4095] = *number as u8,
            _ => page.iter_mut().for_each(|byte| *byte = random.next() as u8),
        }
    }
    pages.push((0x10_0000, [0xcc; PAGE_BYTES]));
    pages
}

pub fn start(path: &Path, config: &MachineConfig, ram: &[(u64, Page)]) -> Writer {
    let mut writer = Writer::create(path, config).expect("created");
    let page = |number: u64| {
        &ram.iter()
            .find(|page| page.0 == number)
            .expect("a page asked for")
            .1
    };
    writer
        .ram(ram.iter().map(|page| page.0), |number, to| {
            to.copy_from_slice(page(number))
        })
        .expect("RAM");
    writer.state(3, b"the processors").expect("state");
    writer
}

/// Writes `events`, flushing after every `flush` of them.
pub fn record(path: &Path, ram: &[(u64, Page)], events: &[Event], flush: usize) {
    record_as(&config(), path, ram, events, flush);
}

/// The same with another configuration.
pub fn record_as(
    config: &MachineConfig,
    path: &Path,
    ram: &[(u64, Page)],
    events: &[Event],
    flush: usize,
) {
    let mut writer = start(path, config, ram);
    for (index, event) in events.iter().enumerate() {
        writer.push(event).expect("pushed");
        if index % flush == flush - 1 {
            writer.flush(event.tick).expect("flushed");
        }
    }
    assert_eq!(writer.events(), events.len() as u64);
    writer
        .finish(&end(events.last().map_or(0, |event| event.tick)))
        .expect("finished");
    assert_eq!(writer.bytes(), fs::metadata(path).expect("the file").len());
}

/// All that can be read: events up to the first error, and that error.
pub fn read_all(recording: &Arc<Recording>) -> (Vec<Event>, Option<Error>) {
    let mut events = Vec::new();
    let mut cursor = recording.cursor();
    loop {
        match cursor.next() {
            Ok(Some(event)) => events.push(event.clone()),
            Ok(None) => return (events, None),
            Err(error) => return (events, Some(error)),
        }
    }
}

pub fn read_ram(recording: &Recording) -> Result<Vec<(u64, Page)>, Error> {
    let mut pages = Vec::new();
    recording.ram(|number, page| {
        pages.push((number, *page));
        true
    })?;
    pages.sort_unstable_by_key(|page| page.0);
    Ok(pages)
}

pub fn one_line(error: &Error, path: &Path) {
    let text = error.to_string();
    assert!(
        text.starts_with(&path.display().to_string()) && !text.contains('\n') && text.len() < 500,
        "{text}"
    );
}

/// Positions of the frames in a file.
pub fn frame_offsets(file: &[u8]) -> Vec<usize> {
    let mut offset = PREFIX_BYTES + u32_at(file, 12) as usize;
    let mut offsets = Vec::new();
    while offset < file.len() {
        offsets.push(offset);
        offset += FRAME_HEADER_BYTES + u32_at(file, offset + 12) as usize;
    }
    offsets
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A file whose checksums are right again after something in it was changed.
pub fn mend(file: &mut [u8]) {
    let seed = xxh3_64(&config().identity.0);
    let config_end = PREFIX_BYTES + u32_at(file, 12) as usize;
    if let Some(sum) = file.get(PREFIX_BYTES..config_end).map(xxh3_64) {
        file[40..48].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = xxh3_64(&file[..48]);
    file[48..56].copy_from_slice(&sum.to_le_bytes());
    let mut offset = config_end;
    while offset + FRAME_HEADER_BYTES <= file.len() {
        let (header, rest) = file[offset..].split_at_mut(FRAME_HEADER_BYTES);
        let stored = u32_at(header, 12) as usize;
        if let Some(payload) = rest.get(..stored) {
            let sum = xxh3_64_with_seed(payload, seed);
            header[48..56].copy_from_slice(&sum.to_le_bytes());
        }
        let sum = xxh3_64_with_seed(&header[..56], seed);
        header[56..64].copy_from_slice(&sum.to_le_bytes());
        offset += FRAME_HEADER_BYTES + stored;
    }
}
