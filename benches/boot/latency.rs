//! How long GDB's user waits: reverse-stepi and reverse-continue over the recording of the boot, and what memory the
//! server takes.

use crate::gdb_mi::Gdb;
use crate::packets::Connection;
use crate::report::{self, Results};
use crate::samples::Samples;
use crate::{Failure, Guest, Options, child, conditions, ours};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

pub const STEP_BACK: &str = "-exec-step-instruction --reverse";
const RUN_BACK: &str = "-exec-continue --reverse";
/// Steps in a row, late in the boot.
const STEPS_IN_A_ROW: usize = 50;
/// How often a recording that was just made is opened.
const OPENINGS: usize = 5;
/// `bs` packets one after the other.
const PACKETS_IN_A_ROW: usize = 1000;
/// An address at which nothing is ever executed: a breakpoint there makes a run search all of history.
const NOWHERE: u64 = 0xffff_8000_dead_0000;

/// The server in a process of its own. It ends with this value.
pub struct Server {
    child: Child,
    /// Where it listens, and a line end.
    pub address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(mode: ours::Mode, guest: &Guest, recording: &Path) -> Result<Server, Failure> {
        let child = child::command(mode, guest, recording)?.spawn()?;
        let mut server = Server {
            child,
            address: String::new(),
        };
        let output = server
            .child
            .stdout
            .take()
            .ok_or("no pipe from the server")?;
        BufReader::new(output).read_line(&mut server.address)?;
        if server.address.is_empty() {
            return Err("the server has ended".into());
        }
        Ok(server)
    }

    /// The most memory that it ever had resident, in bytes.
    fn peak_bytes(&self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.trim().parse::<u64>().ok())
            .map(|kib| kib << 10)
            .ok_or_else(|| "no VmHWM in /proc".into())
    }
}

/// Where GDB stands, and where history ends.
pub fn position(gdb: &mut Gdb) -> Result<(u64, u64), Failure> {
    let text = gdb.console("monitor when")?.text;
    let numbers: Vec<u64> = text
        .lines()
        .find(|line| line.starts_with("tick "))
        .map(|line| line.split(' ').filter_map(|n| n.parse().ok()).collect())
        .unwrap_or_default();
    match numbers[..] {
        [here, _, end] => Ok((here, end)),
        _ => Err(format!("`monitor when` answers {text:?}").into()),
    }
}

/// Goes to a tick. Gives how long that took.
pub fn seek(gdb: &mut Gdb, tick: u64) -> Result<Duration, Failure> {
    gdb.console(&format!("monitor seek {tick}"))?;
    let took = gdb.resume("-exec-continue")?.took;
    match position(gdb)?.0 {
        here if here == tick => Ok(took),
        here => Err(format!("a seek to tick {tick} has led to tick {here}").into()),
    }
}

/// One reverse-stepi, which must go back by exactly one tick. In milliseconds.
fn step_back(gdb: &mut Gdb, from: u64) -> Result<f64, Failure> {
    let took = gdb.resume(STEP_BACK)?.took;
    match position(gdb)?.0 {
        here if here + 1 == from => Ok(took.as_secs_f64() * 1e3),
        here => Err(format!("reverse-stepi at tick {from} has led to tick {here}").into()),
    }
}

/// Everything.
pub fn measure(
    program: &PathBuf,
    guest: &Guest,
    recording: &Path,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let opened = Instant::now();
    let server = Server::start(ours::Mode::Serve, guest, recording)?;
    let mut gdb = Gdb::start(program)?;
    gdb.console(&format!("target remote {}", server.address.trim()))?;
    results.figure(
        "first GDB prompt after opening, s",
        opened.elapsed().as_secs_f64(),
    );
    let (_, end) = position(&mut gdb)?;
    first_pass(&mut gdb)?;
    results.figure("first pass done after, s", opened.elapsed().as_secs_f64());
    let guest_bytes = guest.memory_mib << 20;
    let beyond = |peak: u64| (peak as f64 - guest_bytes as f64) / f64::from(1 << 20);
    results.figure(
        "server memory beyond guest RAM after the first pass, MiB",
        beyond(server.peak_bytes()?),
    );
    steps(&mut gdb, end, options, results)?;
    runs(&mut gdb, end, results)?;
    executed_early(&mut gdb, end, results)?;
    let peak = server.peak_bytes()?;
    results.figure(
        "server memory at its peak, guest RAM included, MiB",
        peak as f64 / f64::from(1 << 20),
    );
    results.server_memory(beyond(peak));
    drop((gdb, server));
    let recording = recording.with_file_name("kept.rvr");
    kept(guest, &recording, results)?;
    conditions::measure(program, guest, &recording, results)
}

/// A recording that was just made, with the cache that its recorder has filled: how long until it is there at its
/// end, and the packets of which GDB's reverse-step and reverse-next are made.
fn kept(guest: &Guest, recording: &Path, results: &mut Results) -> Result<(), Failure> {
    results.cache(fs::metadata(recording.with_extension("rvx"))?.len());
    let mut opening = Samples::default();
    let mut last = None;
    for _ in 0..OPENINGS {
        let started = Instant::now();
        let server = Server::start(ours::Mode::ServeKept, guest, recording)?;
        opening.push(started.elapsed().as_secs_f64() * 1e3);
        last = Some(server);
    }
    results.latency(report::OPENING, opening);
    let server = last.ok_or("no server")?;
    let mut connection = Connection::open(server.address.trim())?;
    let mut row = Samples::default();
    for _ in 0..PACKETS_IN_A_ROW {
        let started = Instant::now();
        let answer = connection.ask("bs")?;
        row.push(started.elapsed().as_secs_f64() * 1e3);
        if !answer.starts_with("T05") {
            return Err(format!("`bs` is answered with {answer:?}").into());
        }
    }
    results.latency(report::PACKETS, row);
    Ok(())
}

/// A breakpoint at an instruction of the first tenth of the boot, and reverse-continue from the end.
fn executed_early(gdb: &mut Gdb, end: u64, results: &mut Results) -> Result<(), Failure> {
    let early = end / 12;
    seek(gdb, early)?;
    gdb.console("hbreak *$pc")?;
    let name = "reverse-continue to the $pc of early in the boot";
    let hit = run_back(gdb, end, name, results)?;
    results.figure("that was last executed at tick", hit as f64);
    gdb.console("delete")?;
    match hit {
        hit if hit >= early => Ok(()),
        hit => Err(format!("{name} has missed tick {early}: {hit}").into()),
    }
}

/// Waits until the server has been through the whole recording once.
fn first_pass(gdb: &mut Gdb) -> Result<(), Failure> {
    loop {
        let text = gdb.console("monitor info")?.text;
        if text.contains("whole recording checked") {
            return Ok(());
        }
        if text.contains("diverged") {
            return Err(format!("the replay diverges: {text}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn steps(gdb: &mut Gdb, end: u64, options: &Options, results: &mut Results) -> Result<(), Failure> {
    let mut random = fastrand::Rng::with_seed(options.seed);
    let (mut single, mut seeks) = (Samples::default(), Samples::default());
    for _ in 0..options.positions {
        let tick = random.u64(1..end);
        seeks.push(seek(gdb, tick)?.as_secs_f64() * 1e3);
        single.push(step_back(gdb, tick)?);
    }
    results.latency("seek to a random tick", seeks);
    results.latency("reverse-stepi at random ticks", single);
    let mut row = Samples::default();
    let late = end - end / 100;
    seek(gdb, late)?;
    for n in 0..STEPS_IN_A_ROW as u64 {
        row.push(step_back(gdb, late - n)?);
    }
    results.latency("reverse-stepi in a row, late", row);
    Ok(())
}

/// One reverse-continue from the end. Gives the tick at which it stops.
fn run_back(gdb: &mut Gdb, end: u64, name: &str, results: &mut Results) -> Result<u64, Failure> {
    seek(gdb, end)?;
    let took = gdb.resume(RUN_BACK)?.took;
    let mut samples = Samples::default();
    samples.push(took.as_secs_f64() * 1e3);
    results.latency(name, samples);
    Ok(position(gdb)?.0)
}

/// Runs backward from the end: without breakpoints, to one that is hit halfway, and to one that is never hit.
fn runs(gdb: &mut Gdb, end: u64, results: &mut Results) -> Result<(), Failure> {
    let demand_start = |tick| match tick {
        0 => Ok(()),
        _ => Err(format!(
            "reverse-continue without a hit has led to tick {tick}"
        )),
    };
    demand_start(run_back(
        gdb,
        end,
        "reverse-continue, no breakpoint",
        results,
    )?)?;
    seek(gdb, end / 2)?;
    gdb.console("tbreak *$pc")?;
    let hit = run_back(gdb, end, "reverse-continue to the $pc of half-way", results)?;
    if hit < end / 2 {
        return Err(format!("reverse-continue from the end has missed tick {}", end / 2).into());
    }
    results.figure("it was last executed at tick", hit as f64);
    gdb.console("delete")?;
    gdb.console(&format!("hbreak *{NOWHERE:#x}"))?;
    demand_start(run_back(
        gdb,
        end,
        "reverse-continue, breakpoint never hit",
        results,
    )?)?;
    gdb.console("delete")?;
    Ok(())
}
