//! The cache of a recording: checkpoints and summaries in a file (`.rvx`) that can be deleted at any time.
//!
//! What is derived from a recording is not in it. The file carries the identity of all that it depends on: the
//! recording, and what this program makes of it. Another one is not used but made anew. A recording that has grown
//! since keeps its cache: what was before is still the same, and the pass goes on from there.

use super::summary::{Summaries, Summary};
use super::traveller::TravelError;
use crate::cpu::BEHAVIOUR_VERSION;
use crate::cpu::state::State;
use crate::machine::{Machine, STATE_VERSION};
use crate::memory::PAGE_BYTES;
use crate::replay::{LogPosition, encode_checkpoint};
use crate::tick::Tick;
use crate::trace::{MachineConfig, TRACE_VERSION};
use checkpoints::{CacheConfig, Config, Error, Found, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// The greatest size of a cache unless told otherwise, in bytes: the boot of a Linux takes a fraction of it.
pub const CACHE_BYTES_MAX: u64 = 1 << 30;
/// Memory for checkpoints: with one guest of its own for the first pass, a server of a 256 MiB guest stays within
/// guest RAM plus 512 MiB.
const CHECKPOINT_MEMORY: u64 = 192 << 20;
/// Of these, for pages that were read: who jumps about mostly sees the same ones.
const DECODED_MEMORY: u64 = 64 << 20;
/// Memory for checkpoints on their way from a recorder to the file: what a compressor is behind by.
const FILLER_MEMORY: u64 = 256 << 20;
/// Layout of the sections; part of the identity.
const SECTION_VERSION: u32 = 1;
/// A section of this name is the summary of an interval: start and end follow.
const SUMMARY: &str = "summary";

/// Where the cache of a recording is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CachePlace {
    /// There is none.
    #[default]
    Nowhere,
    /// Beside the recording.
    Beside,
    /// In this directory, which is made.
    Directory(PathBuf),
}

/// Whether there is a cache, where, and how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Where.
    pub place: CachePlace,
    /// Nothing is written beyond this size, in bytes.
    pub bytes_max: u64,
}

impl Default for CacheOptions {
    fn default() -> CacheOptions {
        CacheOptions {
            place: CachePlace::Nowhere,
            bytes_max: CACHE_BYTES_MAX,
        }
    }
}

impl CacheOptions {
    /// The cache beside the recording, of the usual size.
    pub fn beside() -> CacheOptions {
        CacheOptions {
            place: CachePlace::Beside,
            ..CacheOptions::default()
        }
    }

    /// The cache's file, if there is to be one: `boot.rvx` beside `boot.rvr`.
    pub fn file(&self, recording: &Path, config: &MachineConfig) -> Option<PathBuf> {
        let beside = match recording.extension() {
            Some(extension) if extension == "rvr" => recording.with_extension("rvx"),
            _ => {
                let mut name = recording.as_os_str().to_owned();
                name.push(".rvx");
                PathBuf::from(name)
            }
        };
        match &self.place {
            CachePlace::Nowhere => None,
            CachePlace::Beside => Some(beside),
            CachePlace::Directory(directory) => {
                // Recordings of the same name from different places do not take turns in one file.
                let stem = beside.file_stem().unwrap_or_default().to_string_lossy();
                let short: String = config.identity.to_string().chars().take(12).collect();
                Some(directory.join(format!("{stem}-{short}.rvx")))
            }
        }
    }
}

/// Names the recording and whatever else checkpoints and summaries depend on.
fn identity(config: &MachineConfig) -> [u8; 32] {
    let versions = (
        env!("CARGO_PKG_VERSION"),
        TRACE_VERSION,
        STATE_VERSION,
        size_of::<State>() as u64,
        BEHAVIOUR_VERSION,
        SECTION_VERSION,
    );
    let bytes = rmp_serde::to_vec_named(&(versions, config)).expect("plain data is always encoded");
    let mut identity = [0; 32];
    identity[..16].copy_from_slice(&xxh3_128(&bytes).to_le_bytes());
    identity[16..].copy_from_slice(&config.identity.0);
    identity
}

/// A store, and what there is to say about its cache: one line, or none.
pub struct OpenedStore {
    /// With a cache or without.
    pub store: Store,
    /// For the user.
    pub note: Option<String>,
}

/// Opens a store with the cache of a recording. Whatever is wrong with the cache, there is a store.
pub fn open(
    options: &CacheOptions,
    recording: &Path,
    config: &MachineConfig,
) -> Result<OpenedStore, Error> {
    let store_config = Config {
        memory_budget_bytes: CHECKPOINT_MEMORY,
        decoded_bytes: DECODED_MEMORY,
        spill: Some(scratch_path()),
        ..Config::default()
    };
    open_store(&store_config, options, recording, config)
}

fn open_store(
    store_config: &Config,
    options: &CacheOptions,
    recording: &Path,
    config: &MachineConfig,
) -> Result<OpenedStore, Error> {
    let Some(path) = options.file(recording, config) else {
        return Ok(OpenedStore {
            store: Store::new(store_config)?,
            note: None,
        });
    };
    if let CachePlace::Directory(directory) = &options.place
        && let Err(error) = std::fs::create_dir_all(directory)
    {
        // Opening the file in it fails, too; this is why.
        log::debug!("{}: {error}", directory.display());
    }
    let cache = CacheConfig {
        path: path.clone(),
        identity: identity(config),
        bytes_max: options.bytes_max,
    };
    let (store, opened) = Store::with_cache(store_config, &cache)?;
    let name = path.display();
    let note = match opened.found {
        Found::Stale if opened.writable => Some(format!(
            "{name}: the cache of another recording or of another version; it is made anew"
        )),
        Found::Stale => Some(format!(
            "{name}: the cache of another recording or of another version; going on without"
        )),
        Found::Torn { at } if at > 0 => Some(format!(
            "{name}: damaged from byte {at} on; what comes before is used, the rest is made anew"
        )),
        Found::Nothing | Found::Whole | Found::Unfinished | Found::Torn { .. } | Found::Foreign => {
            None
        }
    };
    if !opened.writable && matches!(opened.found, Found::Whole | Found::Unfinished) {
        log::info!("{name}: another process writes it, or it cannot be written; it is only read");
    }
    Ok(OpenedStore { store, note })
}

/// A place for the scratch file, which loses its name as soon as it is open.
fn scratch_path() -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!(
        "retrovisor-{}-{number}.scratch",
        std::process::id()
    ))
}

/// Whether an error means that the cache (or the scratch file) has not what it should have.
pub fn is_damage(error: &TravelError) -> bool {
    matches!(
        error,
        TravelError::Checkpoint(Error::Damaged { .. } | Error::Io { .. })
    )
}

/// Puts the summary of an interval into the cache.
pub fn write_summary(store: &Store, start: Tick, end: Tick, summary: &Summary) {
    if store.takes_checkpoints() {
        store.put_section(&format!("{SUMMARY} {start} {end}"), &summary.encode());
    }
}

/// Takes over the summaries that the cache has of a recording's ticks up to `last`; a killed recorder's cache can be
/// ahead of its recording, and one of a recording that has grown has an interval that was cut short: of two that
/// begin at the same tick the longer one counts. One that cannot be read is made again.
pub fn read_summaries(store: &Store, summaries: &Summaries, last: Tick) {
    let mut known: BTreeMap<Tick, (Tick, String)> = BTreeMap::new();
    for name in store.section_names() {
        let mut words = name.split(' ');
        let numbers = match (words.next(), words.next(), words.next()) {
            (Some(SUMMARY), Some(start), Some(end)) => start.parse().ok().zip(end.parse().ok()),
            _ => None,
        };
        let Some((start, end)) = numbers.filter(|&(_, end)| end <= last) else {
            continue;
        };
        let longest = known.entry(start).or_insert((0, String::new()));
        if end > longest.0 {
            *longest = (end, name);
        }
    }
    for (start, (end, name)) in known {
        match store.section(&name) {
            Ok(Some(bytes)) => {
                if let Some(summary) = Summary::decode(&bytes) {
                    summaries.add(start, end, summary);
                }
            }
            Ok(None) => {}
            Err(error) => log::info!("{error}"),
        }
    }
}

/// Fills the cache of a recording while it is made.
pub struct Filler {
    store: Arc<Store>,
    /// The last checkpoint. None: nothing was kept yet, or nothing more is.
    base: Option<Tick>,
}

impl Filler {
    /// Begins the cache of a recording that has just begun. None: there is to be none, or there cannot be one.
    pub fn new(options: &CacheOptions, recording: &Path, config: &MachineConfig) -> Option<Filler> {
        let store_config = Config {
            memory_budget_bytes: FILLER_MEMORY,
            ..Config::default()
        };
        let opened = open_store(&store_config, options, recording, config);
        let store = match opened {
            Ok(opened) => opened.store,
            Err(error) => {
                log::warn!("{error}; recording without a cache");
                return None;
            }
        };
        store.takes_checkpoints().then(|| Filler {
            store: Arc::new(store),
            base: None,
        })
    }

    /// Keeps the start: `pages` are those of RAM that are not zero.
    pub fn start(&mut self, machine: &mut Machine, pages: &[u32], position: &LogPosition) {
        machine.cpu.take_notes();
        self.add(machine, None, pages, position);
    }

    /// Keeps a later state: `changed` are the pages that differ from the one kept before.
    pub fn keep(&mut self, machine: &mut Machine, changed: &[u32], position: &LogPosition) {
        let Some(base) = self.base.filter(|&base| base < machine.tick()) else {
            return;
        };
        self.add(machine, Some(base), changed, position);
        if let (Some(notes), Some(now)) = (machine.cpu.take_notes(), self.base) {
            write_summary(&self.store, base, now, &Summary::of(*notes));
        }
    }

    fn add(
        &mut self,
        machine: &Machine,
        since: Option<Tick>,
        pages: &[u32],
        position: &LogPosition,
    ) {
        let tick = machine.tick();
        let memory = &machine.cpu.memory;
        let contents: Vec<(u64, &[u8; PAGE_BYTES])> = pages
            .iter()
            .map(|&page| (u64::from(page), memory.page(page as usize)))
            .collect();
        let state = encode_checkpoint(position, &machine.save());
        // Thinned out where the compressor is far behind: the next is told from this one, which is never given up.
        let added = self.store.add(tick, since, state, contents);
        match added.and_then(|()| self.store.persist(tick)) {
            Ok(()) => self.base = Some(tick),
            Err(error) => {
                log::warn!("{error}; the cache ends at tick {}", since.unwrap_or(0));
                self.base = None;
            }
        }
    }

    /// Writes what is left. The cache is whole if the recording is.
    pub fn finish(&mut self) {
        self.store.finish_cache();
    }
}
