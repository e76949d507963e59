//! Measures the choices of this crate on real RAM: `cargo run --profile quick --example measure -- IMAGE…`, where
//! the images are dumps of one machine's RAM one after the other (QEMU: `pmemsave`).
//!
//! Prints what chunks of several sizes and levels cost and gain, how fast the store adds and reads, and what a cache
//! costs: of these images, and of a made-up long recording.

use checkpoints::{CacheConfig, Config, PAGE_BYTES, Page, Store};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let images: Vec<Vec<u8>> = std::env::args()
        .skip(1)
        .map(std::fs::read)
        .collect::<Result<_, _>>()?;
    let Some(first) = images.first() else {
        return Err("usage: measure IMAGE…".into());
    };
    let zero = vec![0; first.len()];
    let changed: Vec<Vec<(u64, &Page)>> = std::iter::once((&zero, first))
        .chain(images.iter().zip(&images[1..]))
        .map(|(before, now)| {
            let (before, now) = (before.as_chunks().0, now.as_chunks().0);
            (0u64..)
                .zip(now.iter().zip(before))
                .filter(|(_, (now, before))| now != before)
                .collect::<Vec<_>>()
        })
        .map(|pages| {
            pages
                .into_iter()
                .map(|(number, (now, _))| (number, now))
                .collect()
        })
        .collect();
    let pages: Vec<&Page> = changed.iter().flatten().map(|(_, page)| *page).collect();
    println!("{} images, {} changed pages", images.len(), pages.len());
    chunks("whole", &pages)?;
    let differences = differences(&images);
    chunks("differences", &differences.iter().collect::<Vec<_>>())?;
    for budget_mib in [2048, 64] {
        store(&changed, budget_mib << 20)?;
    }
    cache(
        "of the images",
        changed.iter().map(|pages| pages.iter().copied()),
    )?;
    long_recording(&pages)
}

/// 300 checkpoints: 1 GiB that is touched first, and then 2,000 pages each time, of which all but a few bytes are
/// as they were.
fn long_recording(samples: &[&Page]) -> Result<(), Box<dyn Error>> {
    const TOUCHED: u64 = 262_144;
    let page = |number: u64, tick: u64| {
        let mut page = *samples[(number % samples.len() as u64) as usize];
        page[..8].copy_from_slice(&number.to_le_bytes());
        page[2048..2056].copy_from_slice(&tick.to_le_bytes());
        page
    };
    cache(
        "of a long recording",
        (0..300u64).map(|tick| {
            let count = if tick == 0 { TOUCHED } else { 2000 };
            let pages = (0..count).map(move |i| (tick * 1999 + i * 61) % TOUCHED);
            pages.map(move |number| (number, &*Box::leak(Box::new(page(number, tick)))))
        }),
    )
}

/// Writes a cache, opens it again and restores the last checkpoint.
fn cache<'a, P: Iterator<Item = (u64, &'a Page)>>(
    name: &str,
    checkpoints: impl Iterator<Item = P>,
) -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("measure-{}.rvx", std::process::id()));
    let cache = CacheConfig {
        path: path.clone(),
        identity: [0; 32],
        bytes_max: u64::MAX,
    };
    let config = Config {
        memory_budget_bytes: 512 << 20,
        ..Config::default()
    };
    let (store, _) = Store::with_cache(&config, &cache)?;
    let mut last = 0;
    let (mut adding, mut added) = (Duration::ZERO, 0);
    for (tick, pages) in (0u64..).zip(checkpoints) {
        let pages: Vec<_> = pages.collect();
        let start = Instant::now();
        store.add(
            tick,
            tick.checked_sub(1),
            vec![0; 4096],
            pages.iter().copied(),
        )?;
        store.persist(tick)?;
        adding += start.elapsed();
        added += pages.len();
        last = tick;
    }
    let start = Instant::now();
    store.finish_cache();
    println!(
        "\ncache {name}: {added} pages added in {:.0} ms, finished after {:.0} ms\n{:?}",
        adding.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64() * 1e3,
        store.stats()
    );
    drop(store);
    let start = Instant::now();
    let (store, opened) = Store::with_cache(&config, &cache)?;
    println!(
        "{opened:?} in {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    let numbers = store.pages_at(last)?;
    let start = Instant::now();
    store.read_pages(last, &numbers, |_, _, page| {
        black_box(page);
    })?;
    let took = start.elapsed().as_secs_f64();
    println!(
        "restored {} pages, {:.2} µs/page",
        numbers.len(),
        took * 1e6 / numbers.len() as f64
    );
    std::fs::remove_file(path)?;
    Ok(())
}

/// Every changed page of every image but the first, as its difference to what it was.
fn differences(images: &[Vec<u8>]) -> Vec<Page> {
    let pairs = images.iter().zip(&images[1..]);
    let pages = pairs.flat_map(|(before, now)| before.as_chunks().0.iter().zip(now.as_chunks().0));
    pages
        .filter(|(before, now)| before != now)
        .map(|(before, now): (&Page, &Page)| std::array::from_fn(|i| before[i] ^ now[i]))
        .collect()
}

fn chunks(name: &str, pages: &[&Page]) -> Result<(), Box<dyn Error>> {
    println!("{name}: {} pages", pages.len());
    println!(
        "{:>6} {:>6} {:>10} {:>14} {:>14} {:>12}",
        "level", "pages", "of raw", "µs/page press", "µs/page read", "µs/chunk"
    );
    for level in [-1, 1, 3] {
        for together in [1, 2, 4, 8, 16] {
            let mut compressor = zstd::bulk::Compressor::new(level)?;
            let mut decompressor = zstd::bulk::Decompressor::new()?;
            let raw: Vec<Vec<u8>> = pages
                .chunks(together)
                .map(|pages| pages.concat_pages())
                .collect();
            let start = Instant::now();
            let packed: Vec<Vec<u8>> = raw
                .iter()
                .map(|raw| compressor.compress(raw))
                .collect::<Result<_, _>>()?;
            let press = start.elapsed();
            let mut out = Vec::with_capacity(together * PAGE_BYTES);
            let start = Instant::now();
            for packed in &packed {
                out.clear();
                decompressor.decompress_to_buffer(packed, &mut out)?;
                black_box(&out);
            }
            let read = start.elapsed();
            let bytes: usize = packed.iter().map(Vec::len).sum();
            println!(
                "{level:>6} {together:>6} {:>9.1}% {:>14.2} {:>14.2} {:>12.1}",
                bytes as f64 * 100.0 / (pages.len() * PAGE_BYTES) as f64,
                press.as_secs_f64() * 1e6 / pages.len() as f64,
                read.as_secs_f64() * 1e6 / pages.len() as f64,
                read.as_secs_f64() * 1e6 / packed.len() as f64,
            );
        }
    }
    Ok(())
}

trait ConcatPages {
    fn concat_pages(&self) -> Vec<u8>;
}

impl ConcatPages for [&Page] {
    fn concat_pages(&self) -> Vec<u8> {
        self.iter().flat_map(|page| page.iter().copied()).collect()
    }
}

fn store(changed: &[Vec<(u64, &Page)>], memory_budget_bytes: u64) -> Result<(), Box<dyn Error>> {
    let spill = std::env::temp_dir().join(format!("measure-{}", std::process::id()));
    let store = Store::new(&Config {
        memory_budget_bytes,
        spill: Some(spill),
        ..Config::default()
    })?;
    println!("\nbudget {} MiB", memory_budget_bytes >> 20);
    for (tick, pages) in (0u64..).zip(changed) {
        let start = Instant::now();
        store.add(
            tick,
            tick.checked_sub(1),
            vec![0; 4096],
            pages.iter().copied(),
        )?;
        let took = start.elapsed();
        if !pages.is_empty() {
            println!(
                "add {:>6} pages {:>8.2} µs/page",
                pages.len(),
                took.as_secs_f64() * 1e6 / pages.len() as f64
            );
        }
    }
    let start = Instant::now();
    store.settle();
    println!(
        "settled after {:.0} ms\n{:?}",
        start.elapsed().as_secs_f64() * 1e3,
        store.stats()
    );
    let last = changed.len() as u64 - 1;
    let numbers = store.pages_at(last)?;
    let mut sum = 0u64;
    let start = Instant::now();
    store.read_pages(last, &numbers, |_, _, page| sum += u64::from(page[0]))?;
    let each = |start: Instant, count: usize| start.elapsed().as_secs_f64() * 1e6 / count as f64;
    println!(
        "restore all  {:>8} pages {:.2} µs/page",
        numbers.len(),
        each(start, numbers.len())
    );
    let mut out = [0; PAGE_BYTES];
    for (name, step) in [("in order", 1), ("scattered", 7919)] {
        let start = Instant::now();
        for i in 0..numbers.len() {
            store.page(last, numbers[i * step % numbers.len()], &mut out)?;
            sum += u64::from(out[0]);
        }
        println!(
            "{name:<12} {:>8} pages {:.2} µs/page",
            numbers.len(),
            each(start, numbers.len())
        );
    }
    let start = Instant::now();
    let differing = store.changed_between(last, last / 2)?;
    println!(
        "{} differ from checkpoint {}: found in {:.0} µs",
        differing.len(),
        last / 2,
        each(start, 1)
    );
    black_box(sum);
    Ok(())
}
