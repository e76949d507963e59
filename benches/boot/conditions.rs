//! A conditional breakpoint in a hot function of the kernel, true once: evaluated by the server over the whole boot, by
//! GDB over a part of its hits (which would take many minutes otherwise), and the same run with a breakpoint that is
//! never hit.

use crate::gdb_mi::Gdb;
use crate::latency::{Server, position, seek};
use crate::report::{Conditional, Results};
use crate::samples::Samples;
use crate::{Failure, Guest, ours};
use retrovisor::guest::AtPosition;
use retrovisor::guest::linux::Kernel;
use retrovisor::timeline::api::{Debuggee, Question, Stops, Want};
use retrovisor::timeline::cache::CacheOptions;
use retrovisor::timeline::{Opening, Timeline};
use retrovisor::trace::Recording;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Functions of Linux that a boot may call very often; the first with enough calls is taken.
const HOT: [&str; 4] = ["mpihelp_addmul_1", "_raw_spin_lock", "strcmp", "memcpy"];
/// Calls that are enough.
const HITS_MIN: u64 = 100_000;
/// Hits after which GDB's own evaluation is ended.
const HITS_BY_GDB: usize = 5000;
/// How often the whole boot is run through.
const ROUNDS: usize = 3;

/// A hot function.
struct Place {
    name: &'static str,
    address: u64,
    hits: u64,
    /// The first hits.
    first: Vec<u64>,
    last: u64,
}

/// Looks for one.
fn hot_place(recording: &Path) -> Result<Place, Failure> {
    let never = AtomicBool::new(false);
    let recording = Arc::new(Recording::open(recording)?);
    let opening = Opening {
        cache: CacheOptions::beside(),
        near: u64::MAX,
    };
    let mut timeline = Timeline::open_with(recording.clone(), &opening)?;
    timeline.go(recording.last_tick(), &never)?;
    let kernel = Kernel::find(&AtPosition(&timeline))?;
    for name in HOT {
        let Ok(symbol) = kernel.symbol(name) else {
            continue;
        };
        let address = symbol.address;
        let question = Question {
            stops: Stops {
                breakpoints: vec![address],
                ..Stops::default()
            },
            from: 0,
            until: recording.last_tick(),
            want: Want::All {
                first: HITS_BY_GDB,
                last: 1,
            },
        };
        let answers = timeline.ask(&question, &never)?;
        if answers.count >= HITS_MIN
            && let Some(last) = answers.last.last()
        {
            return Ok(Place {
                name,
                address,
                hits: answers.count,
                first: answers.first.iter().map(|found| found.tick).collect(),
                last: last.tick,
            });
        }
    }
    Err(format!("no function of {HOT:?} is called {HITS_MIN} times in this boot").into())
}

/// Continues until a tick, which must be where it stops. In seconds.
fn run_until(gdb: &mut Gdb, tick: u64) -> Result<f64, Failure> {
    let took = gdb.resume("-exec-continue")?.took.as_secs_f64();
    match position(gdb)?.0 {
        here if here == tick => Ok(took),
        here => {
            Err(format!("the condition is true at tick {tick}, and GDB stops at {here}").into())
        }
    }
}

/// Everything.
pub fn measure(
    program: &PathBuf,
    guest: &Guest,
    recording: &Path,
    results: &mut Results,
) -> Result<(), Failure> {
    let Some(place) = results.or_skip("conditional breakpoints", hot_place(recording)) else {
        return Ok(());
    };
    let Place { address, .. } = place;
    let server = Server::start(ours::Mode::ServeKept, guest, recording)?;
    let mut gdb = Gdb::start(program)?;
    gdb.console(&format!("target remote {}", server.address.trim()))?;
    let (_, end) = position(&mut gdb)?;

    let (mut by_server, mut without) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        seek(&mut gdb, 0)?;
        gdb.console(&format!(
            "break *{address:#x} if $rv_tick == {}",
            place.last
        ))?;
        by_server.push(run_until(&mut gdb, place.last)? + run_until(&mut gdb, end)?);
        gdb.console("delete")?;
        // In the middle of its first instruction: never hit, and no reason to leave out what has no hits.
        seek(&mut gdb, 0)?;
        gdb.console(&format!("break *{:#x}", address + 1))?;
        without.push(run_until(&mut gdb, end)?);
        gdb.console("delete")?;
    }

    gdb.console("set breakpoint condition-evaluation host")?;
    let (Some(&first), Some(&last)) = (place.first.first(), place.first.last()) else {
        return Err("no hits".into());
    };
    seek(&mut gdb, first - 1)?;
    gdb.console(&format!("break *{address:#x} if $rv_tick == {last}"))?;
    let took = run_until(&mut gdb, last)?;
    let (Some(by_server), Some(without)) = (by_server.median(), without.median()) else {
        return Err("nothing was measured".into());
    };
    let running = without * (last - first) as f64 / end as f64;
    results.conditional(Conditional {
        name: place.name,
        hits: place.hits,
        by_server_s: by_server,
        without_s: without,
        by_gdb_s_each: (took - running) / place.first.len() as f64,
    });
    Ok(())
}
