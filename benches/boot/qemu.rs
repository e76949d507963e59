//! QEMU as the competitor: the same kernel, initramfs, memory and serial console on its `pc` machine.

use crate::child::{Run, checksum, processor_time};
use crate::qmp::Qmp;
use crate::{Failure, Guest};
use serde_json::json;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const PROGRAM: &str = "qemu-system-x86_64";

/// How QEMU runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The translator without instruction counting: as fast as it gets.
    Plain,
    /// `-icount shift=3,rr=record`
    Record,
    /// `-icount shift=3,rr=replay`
    Replay,
}

impl Mode {
    /// As in the results.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Plain => "plain TCG",
            Mode::Record => "rr=record",
            Mode::Replay => "rr=replay",
        }
    }
}

/// QEMU with everything that its runs have in common.
pub struct Qemu {
    arguments: Vec<OsString>,
    scratch: PathBuf,
    /// As it says itself.
    pub version: String,
}

/// A QEMU that runs. It ends with this value.
pub struct Running {
    pub child: Child,
    pub qmp: Qmp,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Qemu {
    /// QEMU on this machine, or why there is none.
    pub fn find(guest: &Guest, scratch: &Path) -> Result<Qemu, String> {
        let output = Command::new(PROGRAM)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("{PROGRAM}: {e} (Debian package qemu-system-x86)"))?;
        let version = String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .to_string();
        let mut arguments: Vec<OsString> = Vec::new();
        // Nothing that asks the host: no network card, no display, and a guest that stops at power-off instead of
        // ending QEMU, so that its instruction count can be asked for.
        for fixed in ["-M", "pc", "-accel", "tcg", "-net", "none"] {
            arguments.push(fixed.into());
        }
        for fixed in ["-display", "none", "-no-reboot", "-no-shutdown"] {
            arguments.push(fixed.into());
        }
        for (option, value) in [("-kernel", &guest.kernel), ("-initrd", &guest.initrd)] {
            arguments.push(option.into());
            arguments.push(value.into());
        }
        arguments.extend(["-append".into(), guest.append.clone().into()]);
        arguments.extend(["-m".into(), format!("{}M", guest.memory_mib).into()]);
        Ok(Qemu {
            arguments,
            scratch: scratch.to_path_buf(),
            version,
        })
    }

    /// The log that `rr=record` writes and `rr=replay` reads.
    pub fn log(&self) -> PathBuf {
        self.scratch.join("qemu.rr")
    }

    /// What the guest prints to.
    pub fn console(&self) -> PathBuf {
        self.scratch.join("console-qemu.txt")
    }

    /// Starts QEMU with these arguments besides the common ones.
    pub fn start(&self, extra: &[OsString]) -> Result<Running, Failure> {
        let socket = self.scratch.join("qmp");
        for stale in [&socket, &self.console()] {
            let _ = fs::remove_file(stale);
        }
        let mut command = Command::new(PROGRAM);
        command.args(&self.arguments).args(extra);
        command
            .arg("-serial")
            .arg(prefixed("file:", &self.console()));
        let mut monitor = prefixed("unix:", &socket);
        monitor.push(",server=on,wait=off");
        command.arg("-qmp").arg(monitor);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let connected = Qmp::connect(&socket, || matches!(child.try_wait(), Ok(None)));
        match connected {
            Ok(qmp) => Ok(Running { child, qmp }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Boots once.
    pub fn run(&self, mode: Mode) -> Result<Run, Failure> {
        let extra = match mode {
            Mode::Plain => Vec::new(),
            Mode::Record => icount("record", &self.log(), ""),
            Mode::Replay => icount("replay", &self.log(), ""),
        };
        let cpu_before = processor_time()?;
        let started = Instant::now();
        let mut running = self.start(&extra)?;
        running.qmp.wait_for("SHUTDOWN")?;
        let wall_s = started.elapsed().as_secs_f64();
        let instructions = match mode {
            Mode::Plain => None,
            _ => running.qmp.instructions()?,
        };
        running.qmp.command("quit", json!({}))?;
        running.child.wait()?;
        Ok(Run {
            wall_s,
            cpu_s: processor_time()? - cpu_before,
            instructions,
            checksum: Some(checksum(&self.console())?),
        })
    }
}

/// The option for recording or replaying into a file.
pub fn icount(mode: &str, log: &Path, more: &str) -> Vec<OsString> {
    let mut value = prefixed(&format!("shift=3,rr={mode},rrfile="), log);
    value.push(more);
    vec!["-icount".into(), value]
}

/// A path behind a prefix; commas, which QEMU's options are separated by, are doubled.
pub fn prefixed(prefix: &str, path: &Path) -> OsString {
    format!("{prefix}{}", path.display().to_string().replace(',', ",,")).into()
}
