//! Events of one frame as columns of bytes, which zstd compresses far better than rows.
//!
//! An event is split into its **site** (kind, processor, address, access size: few of them, named by a number in the
//! order of their first use), the ticks since the event before, and a value. The value is predicted to be what the
//! site gave last (a status port mostly is), so that the usual event is two or three bytes before compression.
//!
//! ```text
//! sites    kind u8, cpu u8, size u8, address varint
//! codes    varint: site << 2 | how the value is given (SAME, RAW, DELTA)
//! ticks    varint: ticks since the event before; the first is the frame's first tick and stands as 0
//! values   varint: nothing, the value, or its zigzag difference to the site's last; then a length for blobs
//! blobs    bytes of DMA, console input and page lists
//! digests  40 bytes each, of digests and of stands
//! ```
//!
//! A frame stands alone: no column refers to another frame.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::tick::Tick;

use super::columns::{Column, put_varint, unzigzag, zigzag};
use super::events::{Digest, Event, Kind, Stand, What};
use super::limits;

const SAME: u64 = 0;
const RAW: u64 = 1;
const DELTA: u64 = 2;
const DIGEST_BYTES: usize = 40;

/// The columns, as MessagePack array of byte strings.
#[derive(Serialize, Deserialize)]
struct Columns<'a> {
    #[serde(with = "serde_bytes")]
    sites: &'a [u8],
    #[serde(with = "serde_bytes")]
    codes: &'a [u8],
    #[serde(with = "serde_bytes")]
    ticks: &'a [u8],
    #[serde(with = "serde_bytes")]
    values: &'a [u8],
    #[serde(with = "serde_bytes")]
    blobs: &'a [u8],
    #[serde(with = "serde_bytes")]
    digests: &'a [u8],
}

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Site {
    address: u64,
    kind: Kind,
    cpu: u8,
    size: u8,
}

/// Splits an event into its site and its value. Blobs and digests go to their own columns.
fn split(event: &Event) -> (Site, u64) {
    let (size, address, value) = match event.what {
        What::PioRead { port, size, value } => (size, u64::from(port), u64::from(value)),
        What::MmioRead { gpa, size, value } => (size, gpa, value),
        What::MsrRead { msr, value } => (
            u8::from(value.is_none()),
            u64::from(msr),
            value.unwrap_or(0),
        ),
        What::MsrWrite { msr, ok } => (u8::from(ok), u64::from(msr), 0),
        What::Tsc { value } | What::Random { value } | What::TprRead { value } => (0, 0, value),
        What::Counter { value } => (0, 0, value),
        What::Clock { tsc_offset } => (0, 0, tsc_offset),
        What::Interrupt { vector } | What::Sipi { vector } => (0, 0, u64::from(vector)),
        What::Nmi | What::Init | What::Digest(_) => (0, 0, 0),
        What::Dma { gpa, .. } => (0, 0, gpa),
        What::Switch { to } => (0, 0, u64::from(to)),
        What::ConsoleInput { .. } | What::Stand(_) | What::Pages { .. } => (0, 0, 0),
        What::Check { registers } => (0, 0, registers),
    };
    (
        Site {
            address,
            kind: event.what.kind(),
            cpu: event.cpu,
            size,
        },
        value,
    )
}

/// Collects events until a frame is made of them.
#[derive(Default)]
pub(super) struct Encoder {
    sites: Vec<u8>,
    codes: Vec<u8>,
    ticks: Vec<u8>,
    values: Vec<u8>,
    blobs: Vec<u8>,
    digests: Vec<u8>,
    numbers: FxHashMap<Site, u32>,
    /// The site of the event before, with its number: loops that poll a port need no look-up.
    recent: Option<(Site, u32)>,
    /// The last value of each site.
    last: Vec<u64>,
    count: usize,
    first_tick: Tick,
    last_tick: Tick,
}

impl Encoder {
    pub fn count(&self) -> usize {
        self.count
    }

    /// Tick of the first event.
    pub fn first_tick(&self) -> Tick {
        self.first_tick
    }

    /// Whether it is time to make a frame.
    pub fn full(&self) -> bool {
        self.count >= limits::FRAME_EVENTS || self.blobs.len() >= limits::FRAME_BLOB_BYTES
    }

    #[inline]
    fn number(&mut self, site: Site) -> u32 {
        if let Some((recent, number)) = self.recent
            && recent == site
        {
            return number;
        }
        let number = match self.numbers.get(&site) {
            Some(&number) => number,
            None => self.add_site(site),
        };
        self.recent = Some((site, number));
        number
    }

    #[cold]
    fn add_site(&mut self, site: Site) -> u32 {
        let number = self.last.len() as u32;
        self.sites
            .extend_from_slice(&[site.kind as u8, site.cpu, site.size]);
        put_varint(&mut self.sites, site.address);
        self.last.push(0);
        self.numbers.insert(site, number);
        number
    }

    /// Adds an event. The caller has seen to the order of ticks and to the length of blobs.
    #[inline]
    pub fn push(&mut self, event: &Event) {
        if self.count == 0 {
            self.first_tick = event.tick;
            self.last_tick = event.tick;
        }
        put_varint(&mut self.ticks, event.tick - self.last_tick);
        self.last_tick = event.tick;
        self.count += 1;

        let (site, value) = split(event);
        let number = self.number(site);
        let last = std::mem::replace(&mut self.last[number as usize], value);
        let delta = zigzag(value, last);
        let (how, code) = match (value == last, delta < value) {
            (true, _) => (SAME, None),
            (false, false) => (RAW, Some(value)),
            (false, true) => (DELTA, Some(delta)),
        };
        put_varint(&mut self.codes, u64::from(number) << 2 | how);
        if let Some(code) = code {
            put_varint(&mut self.values, code);
        }
        match &event.what {
            What::Dma { bytes, .. } | What::ConsoleInput { bytes } | What::Pages { bytes } => {
                put_varint(&mut self.values, bytes.len() as u64);
                self.blobs.extend_from_slice(bytes);
            }
            What::Stand(stand) => self.digests.extend_from_slice(&stand.to_bytes()),
            What::Digest(digest) => {
                self.digests
                    .extend_from_slice(&digest.registers.to_le_bytes());
                self.digests.extend_from_slice(&digest.pages.to_le_bytes());
                self.digests
                    .extend_from_slice(&digest.outputs.to_le_bytes());
            }
            _ => {}
        }
    }

    /// The payload of the frame, uncompressed. The encoder is empty afterwards.
    pub fn take(&mut self) -> Vec<u8> {
        let Self {
            sites,
            codes,
            ticks,
            values,
            blobs,
            digests,
            ..
        } = &*self;
        let columns = Columns {
            sites,
            codes,
            ticks,
            values,
            blobs,
            digests,
        };
        let payload =
            rmp_serde::to_vec(&columns).expect("byte strings in memory are always encoded");
        for column in [
            &mut self.sites,
            &mut self.codes,
            &mut self.ticks,
            &mut self.values,
            &mut self.blobs,
            &mut self.digests,
        ] {
            column.clear();
        }
        self.numbers.clear();
        self.recent = None;
        self.last.clear();
        self.count = 0;
        payload
    }
}

fn read_digest(column: &mut Column<'_>) -> Result<Digest, String> {
    let bytes = column.take(DIGEST_BYTES)?;
    let wide =
        |at: usize| u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"));
    let outputs = u64::from_le_bytes(bytes[32..].try_into().expect("eight bytes"));
    Ok(Digest {
        registers: wide(0),
        pages: wide(16),
        outputs,
    })
}

/// What a frame's header says about the events in it.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    pub events: usize,
    pub first_tick: Tick,
    pub mark: Tick,
    pub cpus: u16,
}

/// The events of a frame. The error says in words what is wrong.
pub(super) fn decode(payload: &[u8], expected: Expected) -> Result<Vec<Event>, String> {
    let columns: Columns<'_> = rmp_serde::from_slice(payload)
        .map_err(|error| format!("the frame's columns make no sense ({error})"))?;
    let sites = decode_sites(columns.sites, expected)?;
    let mut last = vec![0; sites.len()];
    let [mut codes, mut ticks, mut values, mut blobs, mut digests] = [
        Column::new("codes", columns.codes),
        Column::new("ticks", columns.ticks),
        Column::new("values", columns.values),
        Column::new("blobs", columns.blobs),
        Column::new("digests", columns.digests),
    ];
    let mut events = Vec::with_capacity(expected.events);
    let mut tick = expected.first_tick;
    for _ in 0..expected.events {
        let passed = ticks.varint()?;
        tick = tick
            .checked_add(passed)
            .filter(|&tick| tick <= expected.mark)
            .ok_or("a tick is beyond the mark")?;
        let code = codes.varint()?;
        let number = usize::try_from(code >> 2).unwrap_or(usize::MAX);
        let (&site, last) = sites
            .get(number)
            .zip(last.get_mut(number))
            .ok_or("an event without a site")?;
        let value = match code & 3 {
            SAME => *last,
            RAW => values.varint()?,
            DELTA => unzigzag(values.varint()?, *last),
            _ => return Err("a value that is given in an unknown way".into()),
        };
        *last = value;
        let what = join(site, value, &mut values, &mut blobs, &mut digests)?;
        events.push(Event {
            tick,
            cpu: site.cpu,
            what,
        });
    }
    for column in [codes, ticks, values, blobs, digests] {
        column.finish()?;
    }
    Ok(events)
}

fn decode_sites(column: &[u8], expected: Expected) -> Result<Vec<Site>, String> {
    let mut column = Column::new("sites", column);
    let mut sites = Vec::new();
    while !column.is_empty() {
        if sites.len() == expected.events {
            return Err("more sites than events".into());
        }
        let number = column.byte()?;
        let kind = Kind::from_number(number)
            .ok_or_else(|| format!("an event of the unknown kind {number}"))?;
        let cpu = column.byte()?;
        if u16::from(cpu) >= expected.cpus {
            return Err(format!(
                "an event of processor {cpu}, where there are {}",
                expected.cpus
            ));
        }
        let size = column.byte()?;
        sites.push(Site {
            address: column.varint()?,
            kind,
            cpu,
            size,
        });
    }
    Ok(sites)
}

/// The inverse of `split`.
fn join(
    site: Site,
    value: u64,
    values: &mut Column<'_>,
    blobs: &mut Column<'_>,
    digests: &mut Column<'_>,
) -> Result<What, String> {
    let Site {
        address,
        kind,
        cpu: _,
        size,
    } = site;
    let too_large = |_| format!("a number of an event of kind {} is too large", kind.name());
    Ok(match kind {
        Kind::PioRead => What::PioRead {
            port: u16::try_from(address).map_err(too_large)?,
            size,
            value: u32::try_from(value).map_err(too_large)?,
        },
        Kind::MmioRead => What::MmioRead {
            gpa: address,
            size,
            value,
        },
        Kind::MsrRead => What::MsrRead {
            msr: u32::try_from(address).map_err(too_large)?,
            value: (size == 0).then_some(value),
        },
        Kind::MsrWrite => What::MsrWrite {
            msr: u32::try_from(address).map_err(too_large)?,
            ok: size != 0,
        },
        Kind::Tsc => What::Tsc { value },
        Kind::Random => What::Random { value },
        Kind::TprRead => What::TprRead { value },
        Kind::Clock => What::Clock { tsc_offset: value },
        Kind::Interrupt => What::Interrupt {
            vector: u8::try_from(value).map_err(too_large)?,
        },
        Kind::Nmi => What::Nmi,
        Kind::Dma => What::Dma {
            gpa: value,
            bytes: blobs.blob(values.varint()?)?,
        },
        Kind::Init => What::Init,
        Kind::Sipi => What::Sipi {
            vector: u8::try_from(value).map_err(too_large)?,
        },
        Kind::Switch => What::Switch {
            to: u8::try_from(value).map_err(too_large)?,
        },
        Kind::ConsoleInput => What::ConsoleInput {
            bytes: blobs.blob(values.varint()?)?,
        },
        Kind::Digest => What::Digest(Box::new(read_digest(digests)?)),
        Kind::Check => What::Check { registers: value },
        Kind::Stand => {
            let bytes = digests.take(Stand::BYTES)?;
            What::Stand(Box::new(Stand::from_bytes(
                bytes.try_into().expect("as many"),
            )))
        }
        Kind::Pages => What::Pages {
            bytes: blobs.blob(values.varint()?)?,
        },
        Kind::Counter => What::Counter { value },
    })
}
