//! Processes that are measured: their wall time, processor time and what they print.

use crate::{Failure, Guest, ours};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// One measured run of the boot.
#[derive(Clone, Debug)]
pub struct Run {
    /// From the start of the process to the power-off of its guest, in seconds.
    pub wall_s: f64,
    /// User and system time of all its threads, in seconds.
    pub cpu_s: f64,
    /// Instructions as the competitor counts them, where it counts.
    pub instructions: Option<u64>,
    /// The line in which the guest prints its checksum: proof that it did its work. None where nobody listens, but
    /// digests are checked.
    pub checksum: Option<String>,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:7.2} s wall {:7.2} s processor",
            self.wall_s, self.cpu_s
        )?;
        match self.instructions {
            Some(n) => write!(f, "  {n} instructions"),
            None => Ok(()),
        }
    }
}

/// User and system time of all processes that were waited for so far, in seconds. Runs come one after the other, so
/// that the difference over a run is that of its process.
pub fn processor_time() -> Result<f64, Failure> {
    // SAFETY: all of rusage is integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local that lives through the call.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

/// The guest's checksum line in a console's output.
pub fn checksum(console: &Path) -> Result<String, Failure> {
    let output = fs::read(console).map_err(|e| format!("{}: {e}", console.display()))?;
    String::from_utf8_lossy(&output)
        .lines()
        .find(|line| line.trim_end().ends_with("/bin/busybox"))
        .map(|line| line.trim().to_string())
        .ok_or_else(|| {
            format!(
                "the guest printed no checksum of /bin/busybox: see {}",
                console.display()
            )
            .into()
        })
}

/// This program as a child that does one thing.
pub fn command(mode: ours::Mode, guest: &Guest, recording: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--child").arg(mode.argument());
    command.arg("--kernel").arg(&guest.kernel);
    command.arg("--initrd").arg(&guest.initrd);
    command.arg(format!("--append={}", guest.append));
    command.arg(format!("--memory={}", guest.memory_mib));
    command.arg("--recording").arg(recording);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

/// Runs our engine in a process of its own.
pub fn ours(
    mode: ours::Mode,
    guest: &Guest,
    scratch: &Path,
    recording: &Path,
) -> Result<Run, Failure> {
    let console = scratch.join(format!("console-{}.txt", mode.name()));
    let mut command = command(mode, guest, recording)?;
    command.arg("--console").arg(&console);
    let cpu_before = processor_time()?;
    let started = Instant::now();
    let mut child = command.spawn()?;
    let printed = io::read_to_string(child.stdout.take().ok_or("no pipe")?)?;
    let status = child.wait()?;
    let wall_s = started.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("the {} run ended with {status}", mode.name()).into());
    }
    let ticks = printed
        .trim()
        .parse()
        .map_err(|_| format!("the {} run printed {printed:?}", mode.name()))?;
    Ok(Run {
        wall_s,
        cpu_s: processor_time()? - cpu_before,
        instructions: Some(ticks),
        checksum: match mode.speaks() {
            true => Some(checksum(&console)?),
            false => None,
        },
    })
}
