//! `retrovisor info`: what was recorded.

use anyhow::Result;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use super::arguments::FileArguments;
use super::output::{self, thousands};
use crate::trace::{MachineConfig, Recording, Start, Statistics};

/// What `--json` says about the machine: the configuration without the CPUID table.
#[derive(Serialize)]
pub struct MachineSummary<'a> {
    ram_bytes: u64,
    cpus: u16,
    cpu_vendor: &'a str,
    cpu_model: &'a str,
    kernel: &'a str,
    initrd: Option<&'a str>,
    cmdline: &'a str,
    boot_protocol: &'a str,
    accel: crate::trace::Accel,
    rtc_epoch_s: u64,
    ns_per_tick: u64,
    digest_distance_ticks: u64,
    program: &'a str,
    created_unix_s: u64,
    identity: String,
    /// Where the outside stood at tick 0; null for a machine that was just switched on.
    start: Option<&'a Start>,
}

impl<'a> From<&'a MachineConfig> for MachineSummary<'a> {
    fn from(config: &'a MachineConfig) -> Self {
        Self {
            ram_bytes: config.ram_bytes,
            cpus: config.cpus,
            cpu_vendor: &config.cpu_vendor,
            cpu_model: &config.cpu_model,
            kernel: &config.kernel,
            initrd: config.initrd.as_deref(),
            cmdline: &config.cmdline,
            boot_protocol: &config.boot_protocol,
            accel: config.accel,
            rtc_epoch_s: config.rtc_epoch_s,
            ns_per_tick: config.ns_per_tick,
            digest_distance_ticks: config.digest_distance_ticks,
            program: &config.program,
            created_unix_s: config.created_unix_s,
            identity: config.identity.to_string(),
            start: config.start.as_ref(),
        }
    }
}

/// The JSON object.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    machine: MachineSummary<'a>,
    /// The ticks of its events have not been found yet: `ticks` counts accesses.
    untimed: bool,
    #[serde(flatten)]
    statistics: &'a Statistics,
    /// How it ended, in words.
    end_text: String,
}

/// Says it.
pub fn run(arguments: &FileArguments) -> Result<ExitCode> {
    let recording = super::open_as_it_is(&arguments.file)?;
    let statistics = recording.statistics()?;
    let text = if arguments.json {
        let report = Report {
            file: arguments.file.display().to_string(),
            machine: recording.config().into(),
            untimed: recording.config().untimed,
            statistics: &statistics,
            end_text: end_text(&recording),
        };
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        describe(&arguments.file, &recording, &statistics)
    };
    output::result(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// How a recording ended, in words.
pub fn end_text(recording: &Recording) -> String {
    match (recording.end(), recording.torn()) {
        (Some(end), _) => end.reason.to_string(),
        (None, Some(torn)) => format!("no end: {}", torn.why),
        (None, None) => "no end".to_string(),
    }
}

/// What was recorded.
fn machine_rows(file: &Path, config: &MachineConfig) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("recording", file.display().to_string()),
        (
            "recorded by",
            format!(
                "retrovisor {} ({}), {}, identity {}",
                config.program,
                config.accel,
                date(config.created_unix_s),
                config.identity
            ),
        ),
        (
            "kernel",
            format!("{} ({})", config.kernel, config.boot_protocol),
        ),
    ];
    if let Some(initrd) = &config.initrd {
        rows.push(("initrd", initrd.clone()));
    }
    if !config.cmdline.is_empty() {
        rows.push(("command line", config.cmdline.clone()));
    }
    rows.push((
        "machine",
        format!(
            "{} MiB of RAM, {} processor{} ({}, {}), clock set to {}",
            config.ram_bytes >> 20,
            config.cpus,
            if config.cpus == 1 { "" } else { "s" },
            config.cpu_vendor,
            config.cpu_model,
            date(config.rtc_epoch_s)
        ),
    ));
    if let Some(start) = &config.start {
        rows.push((
            "start",
            format!(
                "at {:.3} s of guest time: {}",
                start.guest_ns as f64 / 1e9,
                start.moment
            ),
        ));
    }
    rows
}

fn describe(file: &Path, recording: &Recording, statistics: &Statistics) -> String {
    let config = recording.config();
    let mut rows = machine_rows(file, config);
    let start_ns = config.start.as_ref().map_or(0, |start| start.guest_ns);
    let unit = if config.untimed {
        "accesses (the next command that replays it finds its ticks)"
    } else {
        "ticks"
    };
    let mut length = format!("{} {unit}", thousands(statistics.ticks));
    if let Some(end) = &statistics.end {
        if let Some(ns) = end.guest_ns {
            let _ = write!(
                length,
                ", {:.3} s of guest time",
                ns.saturating_sub(start_ns) as f64 / 1e9
            );
        }
        let _ = write!(length, ", recorded in {:.1} s", end.wall_ms as f64 / 1e3);
    }
    rows.push(("length", length));
    rows.push(("end", end_text(recording)));
    rows.push((
        "file",
        format!(
            "{} bytes, {} of them not starting RAM; format {}",
            thousands(statistics.bytes),
            thousands(statistics.bytes_without_ram),
            statistics.format
        ),
    ));
    if let Some(torn) = &statistics.torn {
        rows.push((
            "torn",
            format!(
                "{} bytes can be used, {} are lost",
                thousands(torn.valid_bytes),
                thousands(torn.lost_bytes)
            ),
        ));
    }
    rows.push(("digests", thousands(statistics.digests)));
    rows.push(("events", thousands(statistics.events_total)));
    let mut text = String::new();
    for (name, value) in rows {
        let value: String = value
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        let _ = writeln!(text, "{name:<13} {value}");
    }
    if let Some(end) = &statistics.end
        && !end.statistics.is_empty()
    {
        text += "under KVM\n";
        for (name, count) in &end.statistics {
            let name: String = name.chars().filter(|c| !c.is_control()).collect();
            let _ = writeln!(text, "  {name:<24} {:>13}", thousands(*count));
        }
        let of = |name: &str| end.statistics.get(name).copied().unwrap_or(0);
        let (inside, outside) = (of("microseconds_in_guest"), of("microseconds_outside"));
        if inside > 0 {
            let percent = outside as f64 * 100.0 / inside as f64;
            let _ = writeln!(text, "  {:<24} {percent:>11.1} %", "outside / in guest");
        }
        text += "events by kind\n";
    }
    for (kind, count) in &statistics.events {
        let _ = writeln!(text, "  {kind:<16} {:>13}", thousands(*count));
    }
    text
}

/// A date in UTC, from seconds since 1970 (days to civil date after Howard Hinnant, "chrono-compatible low-level
/// date algorithms").
fn date(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(date(4_102_444_799), "2099-12-31 23:59:59 UTC");
    }
}
