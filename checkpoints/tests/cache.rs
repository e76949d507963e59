//! The cache file: what was written comes back, whatever happened to the file, or does not come back at all.

use checkpoints::{
    CacheConfig, Config, Error, Found, Opened, PAGE_BYTES, Page, PageVersion, Store, Tick,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const PAGES: u64 = 40;

type Image = Vec<Box<Page>>;

/// SplitMix64.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A directory of its own for each test.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("checkpoints-cache-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("recording.rvx")
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn cache(path: &Path) -> CacheConfig {
    CacheConfig {
        path: path.to_path_buf(),
        identity: [7; 32],
        bytes_max: u64::MAX,
    }
}

fn open(path: &Path) -> (Store, Opened) {
    open_with(path, 64 << 20)
}

fn open_with(path: &Path, memory_budget_bytes: u64) -> (Store, Opened) {
    let config = Config {
        memory_budget_bytes,
        decoded_bytes: memory_budget_bytes / 16,
        ..Config::default()
    };
    Store::with_cache(&config, &cache(path)).unwrap()
}

fn opened(found: Found, writable: bool) -> Opened {
    Opened { found, writable }
}

/// A guest that changes some of its pages between checkpoints.
#[derive(Clone)]
struct Guest {
    random: Random,
    ram: Image,
    images: BTreeMap<Tick, Image>,
}

impl Guest {
    fn new(seed: u64) -> Guest {
        let ram = (0..PAGES).map(|_| Box::new([0; PAGE_BYTES])).collect();
        Guest {
            random: Random(seed),
            ram,
            images: BTreeMap::new(),
        }
    }

    /// Goes on to `tick`, and adds a checkpoint there.
    fn run_to(&mut self, store: &Store, tick: Tick) {
        let since = self.images.range(..tick).next_back().map(|(&tick, _)| tick);
        match since {
            Some(since) => self.ram.clone_from(&self.images[&since]),
            None => self.ram.iter_mut().for_each(|page| page.fill(0)),
        }
        let mut changed = Vec::new();
        for page in 0..PAGES {
            let content = &mut self.ram[page as usize];
            match self.random.below(8) {
                0 => content
                    .iter_mut()
                    .for_each(|byte| *byte = self.random.next() as u8),
                1 => content.fill(self.random.below(4) as u8),
                2 | 3 => content[self.random.below(4096) as usize] ^= 0x55,
                _ => continue,
            }
            changed.push(page);
        }
        let pages = changed
            .iter()
            .map(|&page| (page, &*self.ram[page as usize]));
        store
            .add(tick, since, tick.to_le_bytes().to_vec(), pages)
            .unwrap();
        self.images.insert(tick, self.ram.clone());
    }

    /// Compares all that the store has. False if some of it cannot be read.
    fn compare(&self, store: &Store) -> bool {
        let mut whole = true;
        let mut out = [0; PAGE_BYTES];
        for tick in store.ticks() {
            let image = &self.images[&tick];
            assert_eq!(store.state(tick).unwrap()[..], tick.to_le_bytes());
            for page in 0..PAGES {
                let expected = &*image[page as usize];
                assert_eq!(
                    store.version(tick, page).unwrap(),
                    PageVersion::of(expected)
                );
                match store.page(tick, page, &mut out) {
                    Ok(()) => assert!(out == *expected, "page {page} at tick {tick}"),
                    Err(Error::Damaged { .. } | Error::Io { .. }) => whole = false,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        whole
    }
}

/// A finished cache of ten checkpoints and two sections.
fn finished(path: &Path, seed: u64) -> Guest {
    let mut guest = Guest::new(seed);
    let (store, _) = open(path);
    for tick in 0..10 {
        guest.run_to(&store, tick * 100);
        store.persist(tick * 100).unwrap();
        if tick % 5 == 0 {
            assert!(store.put_section(&format!("summary {tick}"), &[tick as u8; 1000]));
        }
    }
    assert!(store.finish_cache());
    assert!((0..10).all(|tick| store.is_persisted(tick * 100)));
    guest
}

#[test]
fn what_was_written_comes_back() {
    let place = Place::new();
    let guest = finished(&place.file(), 1);
    let (store, result) = open(&place.file());
    assert_eq!(result, opened(Found::Whole, true));
    assert_eq!(
        store.ticks(),
        (0..10).map(|tick| tick * 100).collect::<Vec<_>>()
    );
    assert!(guest.compare(&store));
    assert_eq!(store.section_names(), ["summary 0", "summary 5"]);
    assert_eq!(store.section("summary 5").unwrap().unwrap(), [5; 1000]);
    assert_eq!(store.section("summary 6").unwrap(), None);
    let stats = store.stats();
    assert_eq!(
        (stats.raw_bytes, stats.compressed_bytes),
        (0, 0),
        "contents stay in the file"
    );
    assert_eq!(place.names(), ["recording.rvx"]);
}

/// Checkpoints added in any order, some persisted, some removed again; the file opened and gone on with many times.
#[test]
fn any_history_of_a_cache_comes_back() {
    for seed in 0..60 {
        let place = Place::new();
        let mut guest = Guest::new(seed);
        let mut random = Random(seed + 1000);
        let mut in_file: Vec<Tick> = Vec::new();
        for _ in 0..4 {
            let budget = [0, 100_000, 64 << 20][random.below(3) as usize];
            let (store, result) = open_with(&place.file(), budget);
            assert!(result.writable);
            assert!(
                matches!(result.found, Found::Nothing | Found::Whole),
                "{result:?}"
            );
            guest.images.retain(|tick, _| store.ticks().contains(tick));
            assert_eq!(store.ticks(), in_file, "{seed}");
            assert!(guest.compare(&store));
            for _ in 0..random.below(25) {
                let tick = random.below(400);
                match random.below(5) {
                    0 => drop(store.remove(tick)),
                    1 => store.settle(),
                    _ if !store.ticks().contains(&tick) => {
                        // One that is in the file but no longer in the store would come back as it was.
                        if in_file.contains(&tick) {
                            continue;
                        }
                        guest.images.retain(|tick, _| store.ticks().contains(tick));
                        guest.run_to(&store, tick);
                        if random.below(2) == 0 {
                            store.persist(tick).unwrap();
                            // Wanted, written, and perhaps given up after that.
                            assert!(store.finish_cache());
                            in_file.push(tick);
                            in_file.sort_unstable();
                        }
                    }
                    _ => {}
                }
                guest.compare(&store);
            }
            // What the file has and the store gave up is forgotten here: such ticks cannot be compared any more.
            let gone: Vec<Tick> = in_file
                .iter()
                .copied()
                .filter(|tick| !guest.images.contains_key(tick))
                .collect();
            if !gone.is_empty() || in_file.iter().any(|tick| !store.ticks().contains(tick)) {
                break;
            }
            assert!(store.finish_cache());
        }
    }
}

/// Removing checkpoints, in the store, that later ones in the file are told by.
#[test]
fn the_file_keeps_what_the_store_gives_up() {
    let place = Place::new();
    let mut guest = Guest::new(3);
    {
        let (store, _) = open(&place.file());
        for tick in 0..30 {
            guest.run_to(&store, tick);
            if tick % 3 == 0 {
                store.persist(tick).unwrap();
            }
            if tick % 7 == 6 {
                store.finish_cache();
                store.remove(tick - 3);
                store.remove(tick - 4);
                guest.compare(&store);
            }
        }
        assert!(store.finish_cache());
    }
    let (store, result) = open(&place.file());
    assert_eq!(result.found, Found::Whole);
    assert_eq!(
        store.ticks(),
        (0..10).map(|tick| tick * 3).collect::<Vec<_>>()
    );
    assert!(guest.compare(&store));
}

/// The file has a content twice: told by a difference, and later, after the store forgot it, whole.
#[test]
fn a_content_may_be_in_the_file_twice() {
    let place = Place::new();
    let mut random = Random(14);
    let first: Page = std::array::from_fn(|_| random.next() as u8);
    let with = |at: usize| {
        let mut page = first;
        page[at] ^= 1;
        page
    };
    let (second, third) = (with(1), with(2));
    {
        let (store, _) = open(&place.file());
        let add = |tick: Tick, since, page: &Page| {
            store.add(tick, since, vec![], [(0, page)]).unwrap();
            store.persist(tick).unwrap();
            assert!(store.finish_cache());
        };
        add(0, None, &first);
        add(1, Some(0), &second);
        assert!(store.remove(0) && store.remove(1));
        assert_eq!(store.stats().unique_pages, 0);
        add(10, None, &second);
        add(11, Some(10), &third);
    }
    let (store, _) = open(&place.file());
    let mut out = [0; PAGE_BYTES];
    for (tick, expected) in [(0, &first), (1, &second), (10, &second), (11, &third)] {
        store.page(tick, 0, &mut out).unwrap();
        assert!(out == *expected, "tick {tick}");
    }
    assert_eq!(store.stats().unique_pages, 3);
    for tick in store.ticks() {
        assert!(store.remove(tick));
    }
    assert_eq!(store.stats().unique_pages, 0);
}

#[test]
fn contents_leave_memory_once_they_are_in_the_file() {
    let place = Place::new();
    let mut guest = Guest::new(4);
    let (store, _) = open_with(&place.file(), 400_000);
    for tick in 0..60 {
        guest.run_to(&store, tick);
        store.persist(tick).unwrap();
        // On a busy machine the compressor would fall behind, and checkpoints would be given up.
        store.settle();
    }
    assert!(store.finish_cache());
    let stats = store.stats();
    assert_eq!(stats.checkpoints, 60, "none had to be given up: {stats:?}");
    assert!(
        stats.content_bytes > 800_000 && stats.memory_bytes() < 500_000,
        "{stats:?}"
    );
    assert!(guest.compare(&store));
}

#[test]
fn a_cache_that_was_not_finished_is_good_as_far_as_it_got() {
    let place = Place::new();
    let mut guest = Guest::new(5);
    {
        let (store, result) = open(&place.file());
        assert_eq!(result, opened(Found::Nothing, true));
        for tick in 0..5 {
            guest.run_to(&store, tick);
            store.persist(tick).unwrap();
        }
        store.settle();
    }
    let (store, result) = open(&place.file());
    assert_eq!(result, opened(Found::Unfinished, true));
    assert_eq!(store.ticks(), [0, 1, 2, 3, 4]);
    assert!(guest.compare(&store));
}

/// Cut anywhere, it is good up to the cut, and can be gone on with.
#[test]
fn a_cut_cache_is_good_up_to_the_cut() {
    let place = Place::new();
    let finished = finished(&place.file(), 6);
    let whole = std::fs::read(place.file()).unwrap();
    let cut = place.0.join("cut.rvx");
    let mut random = Random(6);
    let mut most = 0;
    for length in (0..80).chain((0..150).map(|_| random.below(whole.len() as u64) as usize)) {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let (store, result) = open(&cut);
        assert!(result.writable, "cut to {length} bytes: {result:?}");
        let expected = match &result.found {
            Found::Nothing => length == 0,
            Found::Stale => length < 64,
            Found::Torn { .. } | Found::Unfinished => length >= 64,
            Found::Whole | Found::Foreign => false,
        };
        assert!(expected, "cut to {length} bytes: {result:?}");
        assert!(finished.compare(&store), "cut to {length} bytes");
        let ticks = store.ticks();
        assert!((0..).zip(&ticks).all(|(i, &tick)| tick == i * 100));
        most = most.max(ticks.len());
        // On top of what is left.
        let mut guest = finished.clone();
        guest.images.retain(|tick, _| ticks.contains(tick));
        guest.run_to(&store, 950);
        store.persist(950).unwrap();
        assert!(store.finish_cache());
        drop(store);
        let (store, result) = open(&cut);
        assert_eq!(result.found, Found::Whole);
        assert_eq!(store.ticks().len(), ticks.len() + 1);
        assert!(guest.compare(&store));
    }
    assert!(most >= 9, "{most}");
}

#[test]
fn flipped_bytes_never_give_a_wrong_page() {
    let place = Place::new();
    let guest = finished(&place.file(), 8);
    let whole = std::fs::read(place.file()).unwrap();
    let bad = place.0.join("bad.rvx");
    let mut random = Random(8);
    let (mut noticed_on_opening, mut noticed_on_reading) = (0, 0);
    for round in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..=round % 3 {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        std::fs::write(&bad, &bytes).unwrap();
        let (store, result) = open(&bad);
        let readable = guest.compare(&store);
        for name in store.section_names() {
            match store.section(&name) {
                Ok(bytes) => {
                    let number: u8 = name["summary ".len()..].parse().unwrap();
                    assert_eq!(bytes.unwrap(), [number; 1000]);
                }
                Err(error) => assert!(matches!(error, Error::Damaged { .. })),
            }
        }
        match result.found {
            Found::Whole | Found::Unfinished if !readable => noticed_on_reading += 1,
            Found::Torn { .. } | Found::Stale | Found::Foreign => noticed_on_opening += 1,
            _ => {}
        }
    }
    assert!(noticed_on_opening > 5, "{noticed_on_opening}");
    assert!(noticed_on_reading > 5, "{noticed_on_reading}");
}

/// Pieces of a good cache put together at random.
#[test]
fn shuffled_pieces_never_give_a_wrong_page() {
    let place = Place::new();
    let guest = finished(&place.file(), 9);
    let whole = std::fs::read(place.file()).unwrap();
    let bad = place.0.join("bad.rvx");
    let mut random = Random(9);
    for _ in 0..200 {
        let mut bytes = whole[..64].to_vec();
        for _ in 0..random.below(12) {
            let from = random.below(whole.len() as u64) as usize;
            let length = random.below(20_000) as usize;
            bytes.extend(&whole[from..(from + length).min(whole.len())]);
        }
        std::fs::write(&bad, &bytes).unwrap();
        let (store, _) = open(&bad);
        guest.compare(&store);
    }
}

#[test]
fn a_damaged_cache_can_be_abandoned() {
    let place = Place::new();
    finished(&place.file(), 10);
    let (store, _) = open(&place.file());
    store.abandon_cache();
    assert!(!place.file().exists());
    assert!(!store.finish_cache());
    let (_, result) = open(&place.file());
    assert_eq!(result, opened(Found::Nothing, true));
    // The file there is another one by now: it is left alone.
    store.abandon_cache();
    assert!(place.file().exists());
}

#[test]
fn a_second_store_reads_what_is_there() {
    let place = Place::new();
    let mut guest = finished(&place.file(), 11);
    let (first, result) = open(&place.file());
    assert!(result.writable);
    let (second, result) = open(&place.file());
    assert_eq!(result, opened(Found::Whole, false));
    assert!(guest.compare(&second));
    assert!(!second.put_section("mine", b"no"));
    second.persist(0).unwrap();
    assert!(!second.finish_cache());
    second.abandon_cache();
    guest.run_to(&first, 1000);
    first.persist(1000).unwrap();
    assert!(first.finish_cache());
    assert!(guest.compare(&second));
    drop((first, second));
    let (third, result) = open(&place.file());
    assert_eq!(result, opened(Found::Whole, true));
    assert_eq!(third.ticks().len(), 11);
    assert!(guest.compare(&third));
}

#[test]
fn the_cache_of_another_recording_is_replaced() {
    let place = Place::new();
    let guest = finished(&place.file(), 12);
    let reader = open(&place.file()).0;
    let other = CacheConfig {
        identity: [8; 32],
        ..cache(&place.file())
    };
    // Somebody has it open for writing: it stays.
    let (store, result) = Store::with_cache(&Config::default(), &other).unwrap();
    assert_eq!(result, opened(Found::Stale, false));
    assert!(store.ticks().is_empty());
    drop((reader, store));
    let before = std::fs::File::open(place.file()).unwrap();
    let (store, result) = Store::with_cache(&Config::default(), &other).unwrap();
    assert_eq!(result, opened(Found::Stale, true));
    assert!(store.ticks().is_empty());
    assert!(store.put_section("new", b"yes"));
    // Who has the old one open keeps it.
    assert!(before.metadata().unwrap().len() > 1000);
    assert_eq!(place.names(), ["recording.rvx"]);
    drop(store);
    assert_eq!(open(&place.file()).1, opened(Found::Stale, true));
    drop(guest);
}

#[test]
fn what_is_no_cache_is_left_alone() {
    let place = Place::new();
    std::fs::write(place.file(), b"the only copy of a thesis").unwrap();
    let (store, result) = open(&place.file());
    assert_eq!(result, opened(Found::Foreign, false));
    store.add(0, None, vec![], [(0, &[1; PAGE_BYTES])]).unwrap();
    store.persist(0).unwrap();
    assert!(!store.finish_cache());
    store.abandon_cache();
    assert_eq!(
        std::fs::read(place.file()).unwrap(),
        b"the only copy of a thesis"
    );
    // A directory, and a file that cannot be made.
    let (_, result) = open(&place.0);
    assert!(!result.writable);
    let (_, result) = open(&place.file().join("beneath a file"));
    assert!(!result.writable);
    assert_eq!(place.names(), ["recording.rvx"]);
}

#[test]
fn a_full_cache_stays_good() {
    let place = Place::new();
    let mut guest = Guest::new(13);
    let limited = CacheConfig {
        bytes_max: 300_000,
        ..cache(&place.file())
    };
    let (store, _) = Store::with_cache(&Config::default(), &limited).unwrap();
    for tick in 0..20 {
        guest.run_to(&store, tick);
        store.persist(tick).unwrap();
    }
    assert!(store.finish_cache());
    assert!(!store.takes_checkpoints());
    assert!(guest.compare(&store));
    drop(store);
    assert!(std::fs::metadata(place.file()).unwrap().len() < 310_000);
    let (store, result) = open(&place.file());
    assert_eq!(result.found, Found::Whole);
    assert!(
        (1..20).contains(&store.ticks().len()),
        "{:?}",
        store.ticks()
    );
    assert!(guest.compare(&store));
}
