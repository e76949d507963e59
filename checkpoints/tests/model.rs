//! The store against the simplest thing that could be right: a list of whole images of RAM.

use checkpoints::{Config, Error, PAGE_BYTES, Page, PageVersion, Store, Tick};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Page numbers used: few, so that versions pile up, and one far away.
const PAGES: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    19,
    20,
    4096,
    1 << 20,
    (1 << 40) + 3,
];

type Image = BTreeMap<u64, Box<Page>>;

/// SplitMix64.
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

    fn page(&mut self) -> Box<Page> {
        let mut page = Box::new([0; PAGE_BYTES]);
        match self.below(6) {
            0 => {}
            1 => page[self.below(4096) as usize] = 1,
            2 => page.fill(self.below(3) as u8),
            3 => page
                .iter_mut()
                .for_each(|byte| *byte = self.0.wrapping_mul(37) as u8 ^ 5),
            4 => (0..64).for_each(|i| page[i * 8] = self.below(256) as u8),
            _ => page.iter_mut().for_each(|byte| *byte = self.next() as u8),
        }
        page
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}

const NO_PAGE: Page = [0; PAGE_BYTES];

fn in_image(image: &Image, page: u64) -> &Page {
    image.get(&page).map_or(&NO_PAGE, |page| page)
}

struct Model {
    store: Store,
    images: BTreeMap<Tick, (Vec<u8>, Image)>,
    random: Random,
}

impl Model {
    fn new(config: &Config, seed: u64) -> Model {
        Model {
            store: Store::new(config).unwrap(),
            images: BTreeMap::new(),
            random: Random(seed),
        }
    }

    fn some_tick(&mut self) -> Option<Tick> {
        let ticks: Vec<Tick> = self.images.keys().copied().collect();
        (!ticks.is_empty()).then(|| self.random.of(&ticks))
    }

    /// Adds a checkpoint at a random place, told by its difference to a random earlier one.
    fn add(&mut self) {
        let end = self.images.keys().next_back().map_or(0, |last| last + 50);
        let tick = if self.random.below(3) == 0 {
            self.random.below(end + 1)
        } else {
            end
        };
        if self.images.contains_key(&tick) {
            self.store
                .add(tick, None, vec![9], [(3, &[7; PAGE_BYTES])])
                .unwrap();
            return;
        }
        let earlier: Vec<Tick> = self.images.range(..tick).map(|(&tick, _)| tick).collect();
        let since = match self.random.below(4) {
            _ if earlier.is_empty() => None,
            0 => None,
            1 => Some(self.random.of(&earlier)),
            _ => earlier.last().copied(),
        };
        let base = since.map_or_else(Image::new, |since| self.images[&since].1.clone());
        let mut image = base.clone();
        let mut listed = Vec::new();
        for page in PAGES {
            match self.random.below(5) {
                0 => {
                    image.insert(page, self.random.page());
                    listed.push(page);
                }
                // Changed a little: told by its difference when it is compressed.
                2 => {
                    let at = self.random.below(4096) as usize;
                    let page_now = image.entry(page).or_insert_with(|| Box::new(NO_PAGE));
                    page_now[at] = page_now[at].wrapping_add(1);
                    listed.push(page);
                }
                // Told as perhaps changed, but not changed.
                1 => listed.push(page),
                _ => {}
            }
        }
        if since.is_none() {
            listed = PAGES.to_vec();
        }
        let state: Vec<u8> = (0..self.random.below(40))
            .map(|_| self.random.next() as u8)
            .collect();
        // One is listed twice, wrong at first.
        let wrong = [0xEE; PAGE_BYTES];
        let first = listed.first().map(|&page| (page, &wrong));
        let pages = first
            .into_iter()
            .chain(listed.iter().map(|&page| (page, in_image(&image, page))));
        self.store.add(tick, since, state.clone(), pages).unwrap();
        self.images.insert(tick, (state, image));
    }

    /// The store may have given up some: never the first, never the one just added.
    fn follow_thinning(&mut self, newest: Option<Tick>) {
        let left = self.store.ticks();
        if let Some(first) = self.images.keys().next() {
            assert!(left.contains(first), "the first has been given up");
        }
        assert!(newest.is_none_or(|newest| left.contains(&newest)));
        self.images.retain(|tick, _| left.contains(tick));
        assert_eq!(left, self.images.keys().copied().collect::<Vec<_>>());
    }

    fn check(&mut self) {
        let Some(tick) = self.some_tick() else { return };
        let (state, image) = &self.images[&tick];
        assert_eq!(self.store.state(tick).unwrap()[..], state[..]);
        let mut out = [1; PAGE_BYTES];
        for page in PAGES {
            let expected = in_image(image, page);
            self.store.page(tick, page, &mut out).unwrap();
            assert!(out == *expected, "page {page} at tick {tick}");
            assert_eq!(
                self.store.version(tick, page).unwrap(),
                PageVersion::of(expected)
            );
        }
        let filled: Vec<u64> = PAGES
            .into_iter()
            .filter(|&page| *in_image(image, page) != NO_PAGE)
            .collect();
        assert_eq!(self.store.pages_at(tick).unwrap(), filled);
        let mut seen = Vec::new();
        let mut asked = PAGES.to_vec();
        asked.push(999);
        let each = |page, version, content: &Page| {
            assert!(
                content == in_image(image, page),
                "page {page} at tick {tick}"
            );
            assert_eq!(version, PageVersion::of(content));
            seen.push(page);
        };
        self.store.read_pages(tick, &asked, each).unwrap();
        seen.sort_unstable();
        asked.sort_unstable();
        assert_eq!(seen, asked);

        let other = self.some_tick().unwrap();
        let (one, two) = (&self.images[&tick].1, &self.images[&other].1);
        let changed: Vec<u64> = PAGES
            .into_iter()
            .filter(|&page| in_image(one, page) != in_image(two, page))
            .collect();
        assert_eq!(self.store.changed_between(tick, other).unwrap(), changed);

        let end = self.images.keys().next_back().unwrap() + 10;
        let any = self.random.below(end);
        assert_eq!(
            self.store.nearest(any),
            self.images.range(..=any).next_back().map(|(&tick, _)| tick)
        );
        assert_eq!(
            self.store.next_after(any),
            self.images.range(any + 1..).next().map(|(&tick, _)| tick)
        );
    }

    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            match self.random.below(8) {
                0..3 => {
                    let before: Vec<Tick> = self.images.keys().copied().collect();
                    self.add();
                    let newest = self
                        .images
                        .keys()
                        .copied()
                        .find(|tick| !before.contains(tick));
                    self.follow_thinning(newest);
                }
                3 => {
                    if let Some(tick) = self.some_tick() {
                        assert!(self.store.remove(tick));
                        assert!(!self.store.remove(tick));
                        self.images.remove(&tick);
                        assert!(
                            matches!(self.store.version(tick, 0), Err(Error::NoCheckpoint(t)) if t == tick)
                        );
                    }
                }
                4 => self.store.settle(),
                5 => self.store.set_position(self.random.below(2000)),
                _ => self.check(),
            }
        }
        // Nothing is left behind when everything goes.
        for tick in self.store.ticks() {
            assert!(self.store.remove(tick));
        }
        self.store.settle();
        let stats = self.store.stats();
        assert_eq!(
            (
                stats.checkpoints,
                stats.versions,
                stats.pages,
                stats.unique_pages
            ),
            (0, 0, 0, 0)
        );
        assert_eq!(
            (stats.raw_bytes, stats.compressed_bytes, stats.spilled_bytes),
            (0, 0, 0)
        );
    }
}

fn scratch_path() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("checkpoints-model-{}-{number}", std::process::id()))
}

fn config(memory_budget_bytes: u64, spill: bool) -> Config {
    Config {
        decoded_bytes: memory_budget_bytes / 16,
        memory_budget_bytes,
        zstd_level: 1,
        spill: spill.then(scratch_path),
    }
}

#[test]
fn with_memory_for_all() {
    for seed in 0..40 {
        Model::new(&config(64 << 20, false), seed).run(300);
    }
}

#[test]
fn with_pages_compressed_at_once() {
    for seed in 100..140 {
        // A quarter of the budget may be raw: a few pages here.
        Model::new(&config(400_000, false), seed).run(300);
    }
}

#[test]
fn with_everything_in_the_scratch_file() {
    let mut spilled = 0;
    for seed in 200..240 {
        let mut model = Model::new(&config(60_000, true), seed);
        for _ in 0..20 {
            model.add();
            model.follow_thinning(None);
        }
        model.store.settle();
        spilled = spilled.max(model.store.stats().spilled_bytes);
        model.run(300);
    }
    assert!(spilled > 0, "nothing ever reached the file");
}

#[test]
fn with_no_memory_at_all() {
    for seed in 300..320 {
        Model::new(&config(0, false), seed).run(200);
        Model::new(&config(0, true), seed).run(200);
    }
}

#[test]
fn thinning_keeps_the_budget() {
    let budget = 4 << 20;
    let store = Store::new(&config(budget, false)).unwrap();
    let mut random = Random(5);
    let mut pages: Vec<Box<Page>> = (0..100).map(|_| Box::new([1; PAGE_BYTES])).collect();
    let mut thinned = false;
    let mut since = None;
    for tick in 0..200 {
        for page in &mut pages {
            page.iter_mut().for_each(|byte| *byte = random.next() as u8);
        }
        let listed = pages
            .iter()
            .enumerate()
            .map(|(number, page)| (number as u64, &**page));
        store.add(tick * 10, since, vec![], listed).unwrap();
        since = Some(tick * 10);
        let ticks = store.ticks();
        assert_eq!((ticks[0], ticks[ticks.len() - 1]), (0, tick * 10));
        // A little more while the background puts pages into chunks: each has an entry in a table.
        assert!(
            store.stats().memory_bytes() <= budget + budget / 100,
            "{:?}",
            store.stats()
        );
        thinned |= ticks.len() < tick as usize;
        let mut out = [0; PAGE_BYTES];
        store.page(tick * 10, 42, &mut out).unwrap();
        assert!(out == *pages[42]);
    }
    assert!(thinned);
    assert!(store.ticks().len() >= 5, "{:?}", store.ticks());
}

#[test]
fn a_pinned_checkpoint_stays() {
    let store = Store::new(&config(0, false)).unwrap();
    let page = [1; PAGE_BYTES];
    store.add(0, None, vec![], [(0, &page)]).unwrap();
    store
        .add(1, Some(0), vec![], [(0, &[2; PAGE_BYTES])])
        .unwrap();
    let pin = store.pin_nearest(1).unwrap();
    for tick in 2..10 {
        store
            .add(
                tick,
                Some(tick - 1),
                vec![],
                [(0, &[tick as u8; PAGE_BYTES])],
            )
            .unwrap();
    }
    assert_eq!(pin.tick(), 1);
    assert_eq!(store.ticks(), [0, 1, 9]);
    assert!(!store.remove(1));
    drop(pin);
    assert!(store.remove(1));
    assert!(store.pin(1).is_none());
}

#[test]
fn what_cannot_be_described_is_refused() {
    let store = Store::new(&config(1 << 20, false)).unwrap();
    let none: [(u64, &Page); 0] = [];
    assert!(matches!(
        store.add(5, Some(3), vec![], none),
        Err(Error::NoCheckpoint(3))
    ));
    assert!(matches!(
        store.add(5, Some(5), vec![], none),
        Err(Error::Order { tick: 5, since: 5 })
    ));
    assert!(store.ticks().is_empty());
}

#[test]
fn equal_pages_are_kept_once() {
    let store = Store::new(&config(64 << 20, false)).unwrap();
    let mut random = Random(1);
    let contents: Vec<Box<Page>> = (0..10)
        .map(|_| Box::new(std::array::from_fn(|_| random.next() as u8)))
        .collect();
    for tick in 0..50u64 {
        let pages = (0..100u64).map(|page| (page, &*contents[((page + tick) % 10) as usize]));
        store.add(tick, tick.checked_sub(1), vec![], pages).unwrap();
    }
    let stats = store.stats();
    assert_eq!(
        (stats.unique_pages, stats.versions, stats.raw_bytes),
        (10, 5000, 10 * 4096)
    );
}

#[test]
fn what_can_be_compressed_is() {
    let store = Store::new(&config(8 << 20, true)).unwrap();
    let mut random = Random(2);
    let pages: Vec<Box<Page>> = (0..4000)
        .map(|_| {
            Box::new(std::array::from_fn(|i| {
                if i % 4 == 0 {
                    random.next() as u8 & 15
                } else {
                    0
                }
            }))
        })
        .collect();
    store
        .add(
            0,
            None,
            vec![],
            pages
                .iter()
                .enumerate()
                .map(|(number, page)| (number as u64, &**page)),
        )
        .unwrap();
    store.settle();
    let stats = store.stats();
    assert_eq!(stats.content_bytes, 4000 * 4096);
    assert!(stats.raw_bytes <= 2 << 20, "{stats:?}");
    let packed = stats.compressed_bytes + stats.spilled_bytes;
    assert!(packed > 0 && packed < stats.content_bytes / 4, "{stats:?}");
}

/// Readers on other threads while pages are added, compressed, spilled and removed.
#[test]
fn readers_see_whole_checkpoints_at_all_times() {
    const NUMBERS: u64 = 64;
    let store = Store::new(&config(1 << 20, true)).unwrap();
    // Every page of a checkpoint says which tick it is of.
    let fill = |tick: Tick, page: u64| -> Box<Page> {
        let mut random = Random(tick * 1000 + page);
        let mut content: Box<Page> = Box::new(std::array::from_fn(|_| random.next() as u8));
        content[..8].copy_from_slice(&tick.to_le_bytes());
        content
    };
    let done = AtomicBool::new(false);
    let read = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (store, done, read) = (&store, &done, &read);
            scope.spawn(move || {
                let mut random = Random(reader);
                let pages: Vec<u64> = (0..NUMBERS).collect();
                while !done.load(Ordering::Relaxed) {
                    let Some(tick) = store.nearest(random.below(400)) else {
                        continue;
                    };
                    let each = |page: u64, _, content: &Page| {
                        let written = u64::from_le_bytes(content[..8].try_into().unwrap());
                        // Even pages change at every checkpoint, odd ones at every tenth.
                        let expected = if page.is_multiple_of(2) {
                            tick
                        } else {
                            tick / 10 * 10
                        };
                        assert_eq!(written, expected, "page {page}");
                    };
                    match store.read_pages(tick, &pages, each) {
                        Ok(()) => read.fetch_add(1, Ordering::Relaxed),
                        Err(Error::NoCheckpoint(_)) => continue,
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
        let mut random = Random(77);
        for tick in 0..400 {
            let listed = (0..NUMBERS).filter(|page| tick % 10 == 0 || page % 2 == 0);
            let pages: Vec<(u64, Box<Page>)> =
                listed.map(|page| (page, fill(tick, page))).collect();
            let pages = pages.iter().map(|(page, content)| (*page, &**content));
            store.add(tick, tick.checked_sub(1), vec![], pages).unwrap();
            if tick > 20 && tick % 3 == 0 {
                store.remove(random.below(tick - 10) + 1);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(read.load(Ordering::Relaxed) > 10);
    assert!(store.stats().spilled_bytes > 0);
}
