//! What was measured, as a table and as JSON, and the goals.

use crate::child::Run;
use crate::samples::Samples;
use crate::{Failure, Guest, note};
use retrovisor::trace::Recording;
use serde_json::{Value, json};
use std::fmt::{Display, Write};
use std::fs;
use std::path::Path;

/// The runs of one kind.
#[derive(Default)]
struct Series {
    name: &'static str,
    theirs: bool,
    wall_s: Samples,
    cpu_s: Samples,
    instructions: Option<u64>,
}

impl Series {
    /// Million instructions a second of wall time.
    fn speed(&self) -> Option<f64> {
        Some(self.instructions? as f64 / self.wall_s.median()? / 1e6)
    }
}

/// What latencies are called that goals are about.
pub const OPENING: &str = "opening a recording just made at its end";
/// See [`OPENING`].
pub const PACKETS: &str = "`bs` packets in a row, from the end";

/// A goal of the project and where we are.
struct Goal {
    what: &'static str,
    value: Option<f64>,
    at_most: f64,
    unit: &'static str,
}

impl Goal {
    fn met(&self) -> Option<bool> {
        self.value.map(|value| value <= self.at_most)
    }
}

/// A conditional breakpoint over the whole boot.
pub struct Conditional {
    /// Where it is.
    pub name: &'static str,
    /// How often it is met; one of these counts.
    pub hits: u64,
    /// The whole boot with the condition evaluated by the server, in seconds.
    pub by_server_s: f64,
    /// With a breakpoint that is never met.
    pub without_s: f64,
    /// What a hit costs that GDB evaluates.
    pub by_gdb_s_each: f64,
}

impl Conditional {
    /// The whole boot with the condition evaluated by GDB, by calculation.
    fn by_gdb_s(&self) -> f64 {
        self.without_s + self.hits as f64 * self.by_gdb_s_each
    }

    /// How much longer than without it a run takes that has a million hits.
    fn with_a_million(&self) -> f64 {
        1.0 + (self.by_server_s / self.without_s - 1.0) * 1e6 / self.hits as f64
    }
}

/// Everything that was measured.
pub struct Results {
    guest: String,
    competitor: Option<String>,
    series: Vec<Series>,
    figures: Vec<(String, f64)>,
    latencies: Vec<(String, Samples)>,
    skipped: Vec<String>,
    checksum: Option<String>,
    bytes_without_ram: Option<u64>,
    qemu_log_bytes: Option<u64>,
    cache_bytes: Option<u64>,
    server_mib: Option<f64>,
    conditional: Option<Conditional>,
}

impl Results {
    /// Nothing yet.
    pub fn new(guest: &Guest) -> Results {
        Results {
            guest: format!(
                "{}, {} MiB, {:?}",
                guest.name, guest.memory_mib, guest.append
            ),
            competitor: None,
            series: Vec::new(),
            figures: Vec::new(),
            latencies: Vec::new(),
            skipped: Vec::new(),
            checksum: None,
            bytes_without_ram: None,
            qemu_log_bytes: None,
            cache_bytes: None,
            server_mib: None,
            conditional: None,
        }
    }

    /// Which QEMU it is.
    pub fn competitor(&mut self, version: &str) {
        self.competitor = Some(version.to_string());
    }

    /// What was found; or says loudly, here and in the results, what is left out and why.
    pub fn or_skip<T>(&mut self, what: &str, found: Result<T, impl Display>) -> Option<T> {
        found
            .map_err(|why| {
                let line = format!("SKIPPED {what}: {why}");
                note(&line);
                self.skipped.push(line);
            })
            .ok()
    }

    /// Adds a run. All guests must have computed the same.
    pub fn add(&mut self, name: &'static str, theirs: bool, run: Run) -> Result<(), Failure> {
        if let Some(printed) = run.checksum {
            let checksum = self.checksum.get_or_insert(printed.clone());
            if *checksum != printed {
                return Err(format!("{name}: {printed:?} instead of {checksum:?}").into());
            }
        }
        let at = self.series.iter().position(|series| series.name == name);
        let at = at.unwrap_or_else(|| {
            self.series.push(Series {
                name,
                theirs,
                ..Series::default()
            });
            self.series.len() - 1
        });
        let series = &mut self.series[at];
        series.wall_s.push(run.wall_s);
        series.cpu_s.push(run.cpu_s);
        series.instructions = run.instructions;
        Ok(())
    }

    /// Adds the size of the recording, and that of QEMU's log beside it.
    pub fn recording(&mut self, path: &Path) -> Result<(), Failure> {
        let statistics = Recording::open(path)?.statistics()?;
        self.bytes_without_ram = Some(statistics.bytes_without_ram);
        self.figure(
            "recording with the starting RAM, MB",
            statistics.bytes as f64 / 1e6,
        );
        self.figure("events in it", statistics.events_total as f64);
        self.figure("digests among them", statistics.digests as f64);
        let log = path.with_file_name("qemu.rr");
        if self.find("rr=record").is_some() {
            self.qemu_log_bytes = Some(fs::metadata(log)?.len());
        }
        Ok(())
    }

    /// Sets the size of the cache that the recorder has filled.
    pub fn cache(&mut self, bytes: u64) {
        self.cache_bytes = Some(bytes);
    }

    /// Adds a number.
    pub fn figure(&mut self, name: &str, value: f64) {
        self.figures.push((name.to_string(), value));
    }

    /// Adds times that somebody waited, in milliseconds.
    pub fn latency(&mut self, name: &str, samples: Samples) {
        self.latencies.push((name.to_string(), samples));
    }

    /// Sets what a conditional breakpoint costs.
    pub fn conditional(&mut self, measured: Conditional) {
        let Conditional { name, hits, .. } = measured;
        let at = format!("{name}, {hits} hits, one is true:");
        let false_hit_s = (measured.by_server_s - measured.without_s) / hits as f64;
        self.figure(&format!("{at} server, s"), measured.by_server_s);
        self.figure(
            "  the same run with a breakpoint never met, s",
            measured.without_s,
        );
        self.figure("  a hit that does not count, server, us", false_hit_s * 1e6);
        self.figure(
            "  a hit that does not count, GDB, us",
            measured.by_gdb_s_each * 1e6,
        );
        self.figure("  evaluated by GDB, by calculation, s", measured.by_gdb_s());
        self.conditional = Some(measured);
    }

    /// Sets the most memory that the server had beyond the guest's, in MiB.
    pub fn server_memory(&mut self, mib: f64) {
        self.server_mib = Some(mib);
    }

    fn find(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }

    /// How the medians of two kinds of runs compare, by wall and by processor time.
    fn ratio(&self, over: &str, under: &str) -> Option<(f64, f64)> {
        let (over, under) = (self.find(over)?, self.find(under)?);
        Some((
            over.wall_s.median()? / under.wall_s.median()?,
            over.cpu_s.median()? / under.cpu_s.median()?,
        ))
    }

    /// A latency that was measured: its median, or another share.
    fn waited(&self, name: &str, share: Option<f64>) -> Option<f64> {
        let (_, samples) = self.latencies.iter().find(|(known, _)| known == name)?;
        match share {
            None => samples.median(),
            Some(share) => samples.quantile(share),
        }
    }

    /// What the timeline is to reach.
    fn timeline_goals(&self) -> [Goal; 9] {
        let ms = |what, value, at_most| Goal {
            what,
            value,
            at_most,
            unit: " ms",
        };
        let step = "reverse-stepi at random ticks";
        let never = "reverse-continue, breakpoint never hit";
        [
            Goal {
                what: "first pass / replay, processor time",
                value: self.ratio("first pass", "verify").map(|ratio| ratio.1),
                at_most: 1.3,
                unit: "",
            },
            Goal {
                what: "cost of the cache over recording without",
                value: self
                    .ratio("record+cache", "record")
                    .map(|ratio| (ratio.0 - 1.0) * 100.0),
                at_most: 15.0,
                unit: " %",
            },
            Goal {
                what: "the cache",
                value: self.cache_bytes.map(|bytes| bytes as f64 / 1e6),
                at_most: 200.0,
                unit: " MB",
            },
            ms("opening at the end", self.waited(OPENING, None), 300.0),
            ms("reverse-stepi, median", self.waited(step, None), 10.0),
            ms(
                "reverse-stepi, 99th percentile",
                self.waited(step, Some(0.99)),
                60.0,
            ),
            ms("1000 `bs` in a row, each", self.waited(PACKETS, None), 1.0),
            ms(never, self.waited(never, None), 300.0),
            ms(
                "random seeks, median",
                self.waited("seek to a random tick", None),
                30.0,
            ),
        ]
    }

    fn goals(&self) -> Vec<Goal> {
        self.general_goals()
            .into_iter()
            .chain(self.timeline_goals())
            .chain(self.condition_goals())
            .collect()
    }

    /// What conditional breakpoints are to reach.
    fn condition_goals(&self) -> [Goal; 2] {
        let conditional = self.conditional.as_ref();
        [
            Goal {
                what: "a condition, server / evaluated by GDB",
                value: conditional.map(|one| one.by_server_s / one.by_gdb_s()),
                at_most: 0.01,
                unit: "",
            },
            Goal {
                what: "a run with a million false hits / with none",
                value: conditional.map(Conditional::with_a_million),
                at_most: 2.0,
                unit: "",
            },
        ]
    }

    fn general_goals(&self) -> [Goal; 5] {
        let step = self
            .latencies
            .iter()
            .find(|(name, _)| name == "reverse-stepi at random ticks");
        [
            Goal {
                what: "replay, wall time, ours / QEMU rr=replay",
                value: self.ratio("verify", "rr=replay").map(|ratio| ratio.0),
                at_most: 2.0,
                unit: "",
            },
            Goal {
                what: "cost of recording over the unrecorded run",
                value: self
                    .ratio("record", "unrecorded")
                    .map(|ratio| (ratio.0 - 1.0) * 100.0),
                at_most: 15.0,
                unit: " %",
            },
            Goal {
                what: "recording without the starting RAM",
                value: self.bytes_without_ram.map(|bytes| bytes as f64 / 1e6),
                at_most: 2.0,
                unit: " MB",
            },
            Goal {
                what: "memory of the server beyond guest RAM",
                value: self.server_mib,
                at_most: 512.0,
                unit: " MiB",
            },
            Goal {
                what: "reverse-stepi as GDB sees it, median",
                value: step.and_then(|(_, samples)| samples.median()),
                at_most: 100.0,
                unit: " ms",
            },
        ]
    }

    /// Ratios that are worth printing: (what, by wall time, by processor time).
    fn ratios(&self) -> Vec<(&'static str, f64, f64)> {
        [
            ("replay, ours / QEMU rr=replay", "verify", "rr=replay"),
            ("recording, ours / QEMU rr=record", "record", "rr=record"),
            (
                "unrecorded, ours / QEMU plain TCG",
                "unrecorded",
                "plain TCG",
            ),
            ("ours: recording / unrecorded", "record", "unrecorded"),
            (
                "ours: recording with / without cache",
                "record+cache",
                "record",
            ),
            ("ours: first pass / replay", "first pass", "verify"),
            ("ours: replay / unrecorded", "verify", "unrecorded"),
            ("QEMU: rr=record / plain TCG", "rr=record", "plain TCG"),
            ("QEMU: rr=replay / plain TCG", "rr=replay", "plain TCG"),
        ]
        .into_iter()
        .filter_map(|(what, over, under)| {
            self.ratio(over, under).map(|(wall, cpu)| (what, wall, cpu))
        })
        .collect()
    }

    /// Whether every goal was measured and met.
    pub fn all_met(&self) -> bool {
        self.skipped.is_empty() && self.goals().iter().all(|goal| goal.met() == Some(true))
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!("\nguest: {}\n{}\n", self.guest, machine());
        if let Some(version) = &self.competitor {
            out += &format!("QEMU: {version}\n");
        }
        out.push('\n');
        self.write_table(&mut out)
            .expect("a String takes everything");
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{:<24} {:>26} {:>26} {:>15} {:>8}",
            "median (range)", "wall, s", "processor, s", "instructions", "M/s"
        )?;
        for series in &self.series {
            let who = if series.theirs { "QEMU" } else { "retrovisor" };
            let count = series.instructions.map_or("-".into(), |n| n.to_string());
            let speed = series.speed().map_or("-".into(), |s| format!("{s:.0}"));
            let name = format!("{who} {}", series.name);
            let (wall, cpu) = (series.wall_s.to_string(), series.cpu_s.to_string());
            writeln!(
                out,
                "{name:<24} {wall:>26} {cpu:>26} {count:>15} {speed:>8}"
            )?;
        }
        writeln!(out, "\n{:<44} {:>10} {:>10}", "ratio", "wall", "processor")?;
        for (what, wall, cpu) in self.ratios() {
            writeln!(out, "{what:<44} {wall:>10.2} {cpu:>10.2}")?;
        }
        if let (Some(ours), Some(theirs)) = (self.bytes_without_ram, self.qemu_log_bytes) {
            let (ours, theirs) = (ours as f64 / 1e6, theirs as f64 / 1e6);
            writeln!(
                out,
                "recording without RAM / QEMU's log: {ours:.3} MB / {theirs:.3} MB = {:.3}",
                ours / theirs
            )?;
        }
        if !self.latencies.is_empty() {
            writeln!(
                out,
                "\n{:<44} {:>6} {:>10} {:>10} {:>10}",
                "milliseconds, as GDB sees it", "number", "median", "p99", "longest"
            )?;
        }
        for (name, samples) in &self.latencies {
            let at = |share| samples.quantile(share).unwrap_or(f64::NAN);
            let median = samples.median().unwrap_or(f64::NAN);
            writeln!(
                out,
                "{name:<44} {:>6} {median:>10.1} {:>10.1} {:>10.1}",
                samples.len(),
                at(0.99),
                at(1.0)
            )?;
        }
        writeln!(out)?;
        for (name, value) in &self.figures {
            writeln!(out, "{name:<60} {value:>14.1}")?;
        }
        writeln!(out)?;
        for goal in self.goals() {
            let value = goal.value.map_or("not measured".into(), |value| {
                format!(
                    "{value:.*}{}",
                    if goal.at_most < 0.1 { 4 } else { 2 },
                    goal.unit
                )
            });
            let verdict = match goal.met() {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "-",
            };
            let limit = format!("at most {}{}", goal.at_most, goal.unit);
            writeln!(out, "{:<44} {value:>14}  {limit:<16} {verdict}", goal.what)?;
        }
        self.skipped
            .iter()
            .try_for_each(|line| writeln!(out, "{line}"))
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let runs: Vec<Value> = self
            .series
            .iter()
            .map(|series| {
                json!({
                    "who": if series.theirs { "qemu" } else { "retrovisor" },
                    "run": series.name,
                    "wall_s": series.wall_s,
                    "processor_s": series.cpu_s,
                    "instructions": series.instructions,
                    "million_instructions_per_s": series.speed(),
                })
            })
            .collect();
        let ratios: Vec<Value> = self
            .ratios()
            .into_iter()
            .map(|(what, wall, cpu)| json!({ "what": what, "wall": wall, "processor": cpu }))
            .collect();
        let goals: Vec<Value> = self
            .goals()
            .iter()
            .map(|goal| {
                json!({
                    "what": goal.what,
                    "value": goal.value,
                    "at_most": goal.at_most,
                    "unit": goal.unit.trim(),
                    "met": goal.met(),
                })
            })
            .collect();
        let latencies: Vec<Value> = self
            .latencies
            .iter()
            .map(|(what, samples)| json!({ "what": what, "ms": samples, "median_ms": samples.median(), "p99_ms": samples.quantile(0.99) }))
            .collect();
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|(what, value)| json!({ "what": what, "value": value }))
            .collect();
        json!({
            "guest": self.guest,
            "machine": machine(),
            "qemu": self.competitor,
            "runs": runs,
            "ratios": ratios,
            "goals": goals,
            "latencies": latencies,
            "figures": figures,
            "recording_bytes_without_ram": self.bytes_without_ram,
            "qemu_log_bytes": self.qemu_log_bytes,
            "server_mib_beyond_guest_ram": self.server_mib,
            "skipped": self.skipped,
        })
    }
}

/// The machine that all this ran on, and how busy it is.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!("host: {model}, {cores} cores, load {}", load.join(" "))
}
