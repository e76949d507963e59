//! What can be typed: the command line as clap knows it, and how its values are read.

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

use super::when::When;
use crate::machine::boot::Protocol;
use crate::record::emulated::{Level, Vendor};
use crate::tick::{GuestNs, Tick};
use crate::timeline::cache::{CACHE_BYTES_MAX, CacheOptions, CachePlace};

/// Where a server listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:1234";

const EXAMPLES: &str = "Examples:
  retrovisor demo
      Record a small kernel with a bug in it and find the culprit backwards with GDB.
  retrovisor --record boot.rvr --kernel vmlinuz --initrd initramfs.cpio --append console=ttyS0
      Record a Linux boot. The console is here; Ctrl-A x ends the recording, Ctrl-A h shows help.
  retrovisor --record login.rvr --kernel vmlinuz --initrd initramfs.cpio --record-from console:login:
      Record from where the guest has printed «login:»; until then it only runs.
  retrovisor boot.rvr --at end
      Serve the recording to GDB, from its end: gdb vmlinux -ex 'target remote 127.0.0.1:1234'
  retrovisor --record k.rvr --kernel my-kernel.elf --console none --for 10
      Record ten seconds (of the guest's time) of a kernel of your own.
  retrovisor verify boot.rvr --json
      Replay it and check every digest.

Exit status: 0 if all went well, 1 for what could not be done, 2 for a command line that makes no sense.
A recording whose guest wrote VALUE to the debug-exit port (0xf4) ends with (VALUE << 1 | 1) & 255, as in QEMU.
A file whose name is that of a command is given as ./NAME.";

/// Records whole x86-64 machines and lets GDB run them backwards.
#[derive(Debug, Parser)]
#[command(
    name = "retrovisor",
    version,
    about = "Records whole x86-64 machines and lets GDB run them backwards",
    after_long_help = EXAMPLES,
    after_help = "More, with examples: --help",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct CommandLine {
    /// What to do instead of recording and serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Say more (-vv: even more; -vvv: every packet)
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,

    #[command(flatten)]
    pub record: RecordArguments,

    #[command(flatten)]
    pub serve: ServeArguments,

    #[command(flatten)]
    pub cache: CacheArguments,
}

/// Everything but recording and serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what was recorded: machine, length, events, bytes, digests, how it ended
    Info(FileArguments),
    /// Replay a recording whole and check every digest; exit status 0 or 1
    Verify(FileArguments),
    /// Replay a recording and show the console as it was
    Play {
        /// The recording
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Write the symbols and types of the recorded Linux kernel, found in its RAM, as a file for GDB
    Symbols(SymbolArguments),
    /// Record a kernel that goes wrong, and find out why, backwards
    Demo(DemoArguments),
}

/// A recording, and in which form to talk about it.
#[derive(Args, Debug)]
pub struct FileArguments {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// One JSON object on standard output instead of text
    #[arg(long)]
    pub json: bool,
}

/// Where what was found out about a recording is kept, so that the next opening is quick.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cache of checkpoints (.rvx)")]
pub struct CacheArguments {
    /// Keep it in this directory instead of beside the recording
    #[arg(long, value_name = "DIRECTORY")]
    pub cache: Option<PathBuf>,
    /// Its greatest size [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<Size>,
    /// Neither read nor write one
    #[arg(long, conflicts_with_all = ["cache", "cache_size"])]
    pub no_cache: bool,
}

impl CacheArguments {
    /// As the timeline wants it.
    pub fn options(&self) -> CacheOptions {
        CacheOptions {
            place: match &self.cache {
                _ if self.no_cache => CachePlace::Nowhere,
                Some(directory) => CachePlace::Directory(directory.clone()),
                None => CachePlace::Beside,
            },
            bytes_max: self.cache_size.map_or(CACHE_BYTES_MAX, |size| size.0),
        }
    }
}

/// Whose symbols, and where to.
#[derive(Args, Debug)]
pub struct SymbolArguments {
    #[command(flatten)]
    pub cache: CacheArguments,
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The ELF file to write [default: vmlinux.sym]
    #[arg(short, long, value_name = "ELF")]
    pub output: Option<PathBuf>,
    /// Where to look: start, end, or a tick [default: end]
    #[arg(long, value_name = "WHERE")]
    pub at: Option<Place>,
}

/// What to record.
#[derive(Args, Debug)]
#[command(next_help_heading = "Recording")]
pub struct RecordArguments {
    /// Record into this file; a recording that is there is replaced, anything else is not
    #[arg(long, value_name = "FILE", requires = "kernel", conflicts_with_all = ["file", "gdb", "at"])]
    pub record: Option<PathBuf>,
    /// The kernel: bzImage, vmlinux, an ELF file with a PVH note, or Multiboot 1
    #[arg(long, value_name = "IMAGE", requires = "record")]
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk (for Multiboot: the first module)
    #[arg(long, value_name = "FILE", requires = "record")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(
        long,
        value_name = "TEXT",
        requires = "record",
        allow_hyphen_values = true
    )]
    pub append: Option<String>,
    /// RAM: bytes, or with K, M or G [default: 256M]
    #[arg(long, value_name = "SIZE", requires = "record")]
    pub memory: Option<Size>,
    /// What executes the guest
    #[arg(long, value_name = "HOW", requires = "record")]
    pub accel: Option<Accel>,
    /// When recording begins: console:TEXT, port:N[=VALUE], ADDRESS, SYMBOL or key [default: at power-on]
    ///
    /// Until then the machine runs without being recorded. console:login: is when the guest has printed that, and
    /// port:0x80=0x11 when it has written this value to this port (any value without «=»). An address is a linear
    /// one, a symbol one of the kernel's ELF file: before the first execution of the instruction there. Where that
    /// file has no symbols, they are looked for in RAM, where a Linux kernel has them as soon as it runs. «key» is
    /// Ctrl-A r on the console, which begins a recording earlier than the others, too, and further ones later: FILE-2,
    /// FILE-3. Ctrl-A e ends a recording while the machine runs on.
    #[arg(long, value_name = "WHEN", requires = "record")]
    pub record_from: Option<When>,
    /// When recording ends, and the machine with it: a WHEN as for --record-from
    #[arg(long, value_name = "WHEN", requires = "record")]
    pub record_until: Option<When>,
    /// What executes the guest while it is not recorded [default: what --accel says]
    #[arg(long, value_name = "HOW", requires = "record")]
    pub accel_before: Option<Accel>,
    /// The guest's processor: how much of the instruction set it has [default: x86-64-v3]
    ///
    /// The levels are those of the x86-64 psABI. What only kernels see (PCID, SMEP, SMAP, UMIP, FSGSBASE and the like)
    /// is in all of them. The table that CPUID shows is part of the recording.
    #[arg(long, value_name = "LEVEL", requires = "record")]
    pub cpu: Option<CpuLevel>,
    /// Whose processor it is [default: intel]
    ///
    /// They differ in what CPUID tells, and where kernels notice it: SYSRET to an address that is not canonical, the
    /// base of a segment loaded with a null selector, SYSCALL and SYSENTER in compatibility mode.
    #[arg(long, value_name = "VENDOR", requires = "record")]
    pub cpu_vendor: Option<CpuVendor>,
    /// How the kernel is started, if not the way that its image suggests
    #[arg(long, value_name = "PROTOCOL", requires = "record")]
    pub protocol: Option<ProtocolName>,
    /// End after this much guest time of the recording (8 ns a tick plus the time slept through), in seconds
    #[arg(
        long = "for",
        value_name = "SECONDS",
        requires = "record",
        conflicts_with = "ticks",
        allow_negative_numbers = true
    )]
    pub for_seconds: Option<Seconds>,
    /// End at this tick of the recording
    #[arg(
        long,
        value_name = "N",
        requires = "record",
        allow_negative_numbers = true
    )]
    pub ticks: Option<Tick>,
    /// Where the serial line goes: stdio, none or a file [default: stdio]
    #[arg(long, value_name = "stdio|FILE|none", requires = "record")]
    pub console: Option<ConsoleTarget>,
    /// What the guest's clock shows at power-on, in seconds since 1970 [default: now]
    #[arg(long, value_name = "UNIX_SECONDS", requires = "record")]
    pub rtc: Option<u64>,
}

/// What to serve.
#[derive(Args, Debug)]
#[command(next_help_heading = "Serving")]
pub struct ServeArguments {
    /// The recording to serve to GDB
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where GDB shall connect: HOST:PORT (port 0: any) or unix:PATH [default: 127.0.0.1:1234]
    #[arg(long, value_name = "ADDRESS", requires = "file")]
    pub gdb: Option<String>,
    /// Where in the recording to begin [default: start]
    #[arg(long, value_name = "start|end|TICK", requires = "file")]
    pub at: Option<Place>,
}

/// The demonstration.
#[derive(Args, Debug)]
#[command(
    long_about = "Records a kernel that goes wrong, serves the recording, and shows (with GDB and a terminal: starts) the \
GDB session that finds the culprit by a watchpoint and reverse-continue. The kernel is a small one of our own, with \
its source; with --linux it is Debian's, from /boot or fetched with apt without installing it."
)]
pub struct DemoArguments {
    /// A real Debian kernel and busybox instead of the small kernel
    #[arg(long)]
    pub linux: bool,
    /// Where the recording, the kernel and its sources are put
    #[arg(long, value_name = "DIRECTORY", default_value = "retrovisor-demo")]
    pub dir: PathBuf,
    /// Where GDB shall connect [default: 127.0.0.1:1234, or any free port]
    #[arg(long, value_name = "ADDRESS")]
    pub gdb: Option<String>,
    /// Run the session in GDB without anybody there, and check that it finds the culprit; exit status 0 or 1
    #[arg(long, conflicts_with = "no_gdb")]
    pub check: bool,
    /// Only serve; say what to type in a GDB of your own
    #[arg(long)]
    pub no_gdb: bool,
    #[command(flatten)]
    pub cache: CacheArguments,
}

/// What executes the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// The engine: works everywhere
    Emulate,
    /// The host's processor, through /dev/kvm
    Kvm,
}

/// A level of the instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CpuLevel {
    /// SSE2
    #[value(name = "x86-64-v1", alias = "v1")]
    V1,
    /// SSE4.2, POPCNT, CMPXCHG16B
    #[value(name = "x86-64-v2", alias = "v2")]
    V2,
    /// AVX2, FMA, BMI, MOVBE; and AES, SHA, RDRAND
    #[value(name = "x86-64-v3", alias = "v3")]
    V3,
}

impl From<CpuLevel> for Level {
    fn from(level: CpuLevel) -> Level {
        match level {
            CpuLevel::V1 => Level::V1,
            CpuLevel::V2 => Level::V2,
            CpuLevel::V3 => Level::V3,
        }
    }
}

/// Whose processor the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CpuVendor {
    /// GenuineIntel
    Intel,
    /// AuthenticAMD
    Amd,
}

impl From<CpuVendor> for Vendor {
    fn from(vendor: CpuVendor) -> Vendor {
        match vendor {
            CpuVendor::Intel => Vendor::Intel,
            CpuVendor::Amd => Vendor::Amd,
        }
    }
}

/// A boot protocol by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtocolName {
    /// Linux, 64-bit entry
    Linux64,
    /// Linux, 16-bit entry (bzImage only)
    Linux16,
    /// PVH, 32-bit entry from an ELF note
    Pvh,
    /// Multiboot 1
    Multiboot,
}

impl From<ProtocolName> for Protocol {
    fn from(name: ProtocolName) -> Protocol {
        match name {
            ProtocolName::Linux64 => Protocol::Linux64,
            ProtocolName::Linux16 => Protocol::Linux16,
            ProtocolName::Pvh => Protocol::Pvh,
            ProtocolName::Multiboot => Protocol::Multiboot,
        }
    }
}

/// Where the guest's serial line goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleTarget {
    /// Standard input and output.
    Stdio,
    /// Nowhere, and nothing comes from there.
    None,
    /// Output to a file.
    File(PathBuf),
}

impl FromStr for ConsoleTarget {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "" => return Err("«stdio», «none» or the name of a file is needed".into()),
            "stdio" => Self::Stdio,
            "none" => Self::None,
            name => Self::File(name.into()),
        })
    }
}

/// A position to begin at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Tick 0.
    Start,
    /// The last tick.
    End,
    /// This tick.
    Tick(Tick),
}

impl Place {
    /// The tick, in a recording with this end.
    pub fn tick(self, end: Tick) -> Tick {
        match self {
            Place::Start => 0,
            Place::End => end,
            Place::Tick(tick) => tick,
        }
    }
}

impl FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "start" => Ok(Self::Start),
            "end" => Ok(Self::End),
            number => number
                .replace('_', "")
                .parse()
                .map(Self::Tick)
                .map_err(|_| "«start», «end» or the number of a tick is needed".into()),
        }
    }
}

/// An amount of memory in bytes, a whole number of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Less than that no kernel can use.
const SIZE_MIN: u64 = 2 << 20;
/// What the machine's memory map has room for.
const SIZE_MAX: u64 = crate::trace::limits::RAM_BYTES_MAX;

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            _ => {
                return Err(
                    "a number of bytes is needed, or one with K, M or G, as in 256M".into(),
                );
            }
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| "a number of bytes is needed, or one with K, M or G, as in 256M")?;
        let bytes = number
            .checked_mul(1 << shift)
            .filter(|&bytes| bytes <= SIZE_MAX)
            .ok_or_else(|| format!("more than {} GiB are not possible", SIZE_MAX >> 30))?;
        if bytes < SIZE_MIN {
            return Err("at least 2M are needed".into());
        }
        if bytes % 4096 != 0 {
            return Err("a multiple of 4096 bytes is needed".into());
        }
        Ok(Self(bytes))
    }
}

/// Guest time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub GuestNs);

impl FromStr for Seconds {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let seconds: f64 = text
            .parse()
            .map_err(|_| "a number of seconds is needed, such as 10 or 2.5")?;
        // A century of guest time is beyond anybody's patience and within all arithmetic.
        if !(seconds > 0.0 && seconds <= 3.2e9) {
            return Err("a positive number of seconds is needed".into());
        }
        Ok(Self((seconds * 1e9) as GuestNs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn what_the_help_shows_is_understood() {
        let lines = EXAMPLES
            .lines()
            .filter_map(|line| line.strip_prefix("  retrovisor "));
        let mut count = 0;
        for line in lines {
            let words = std::iter::once("retrovisor").chain(line.split_whitespace());
            CommandLine::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
            count += 1;
        }
        assert_eq!(count, 6);
    }

    #[test]
    fn sizes() {
        assert_eq!("256M".parse(), Ok(Size(256 << 20)));
        assert_eq!("1g".parse(), Ok(Size(1 << 30)));
        assert_eq!("4194304".parse(), Ok(Size(4 << 20)));
        assert_eq!("8192KiB".parse(), Ok(Size(8 << 20)));
        for bad in [
            "",
            "M",
            "-1M",
            "12Q",
            "1.5G",
            "0",
            "1M",
            "4194305",
            "9999999G",
            "99999999999999999999M",
            "１M",
            "256é",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_and_places() {
        assert_eq!("2.5".parse(), Ok(Seconds(2_500_000_000)));
        for bad in ["", "-1", "0", "NaN", "inf", "1e300", "ten"] {
            assert!(bad.parse::<Seconds>().is_err(), "{bad}");
        }
        assert_eq!("1_000".parse(), Ok(Place::Tick(1000)));
        assert_eq!("end".parse(), Ok(Place::End));
        assert!("-1".parse::<Place>().is_err());
    }
}
