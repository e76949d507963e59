//! The header of a recording: which machine was recorded, by what, in which format. Readable alone.
//!
//! ```text
//! 0   magic            8 bytes, with a non-ASCII byte and line ends so that a transfer as text is noticed
//! 8   format version   u32
//! 12  configuration    u32, its length in bytes
//! 16  writer           24 bytes, version of the program in ASCII, padded with zeros
//! 40  checksum         u64, xxh3-64 of the configuration
//! 48  checksum         u64, xxh3-64 of bytes 0 to 47
//! 56  configuration    MessagePack map
//! ```
//!
//! All numbers are little-endian. The first 56 bytes mean the same in every version, so that any version can say
//! which one a file needs.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

use super::error::Error;
use super::{
    TRACE_VERSION, TRACE_VERSION_COUNTER, TRACE_VERSION_NEWEST, TRACE_VERSION_OLDEST,
    TRACE_VERSION_STARTED, TRACE_VERSION_UNTIMED, limits,
};

pub(super) const MAGIC: [u8; 8] = *b"\x89RVR\r\n\x1a\n";
pub(super) const PREFIX_BYTES: usize = 56;
const PROGRAM_BYTES: usize = 24;

/// What identifies a recording: 16 random bytes. What is derived from a recording carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(pub [u8; 16]);

impl Identity {
    /// Seed of the checksums of the frames: a frame that belongs to another recording is not taken for ours.
    pub(super) fn seed(self) -> u64 {
        xxh3_64(&self.0)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_bytes::ByteArray::<16>::deserialize(deserializer)
            .map(|bytes| Self(bytes.into_array()))
    }
}

/// What recorded the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// The engine, with live devices.
    Emulate,
    /// The host's processor, through KVM.
    Kvm,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Emulate => "emulate",
            Self::Kvm => "kvm",
        })
    }
}

/// A row of the CPUID table: what CPUID answers for `leaf` in EAX and `subleaf` in ECX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the registers have the manual's names
pub struct CpuidLeaf {
    pub leaf: u32,
    pub subleaf: u32,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// Where the outside of a machine stood when its recording began in the middle of a run: what a replay cannot see in
/// RAM and processors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Guest time at tick 0 in nanoseconds since power-on: what the time-stamp counter is ahead of the ticks by.
    pub guest_ns: u64,
    /// The first serial port's divisor latch is switched in (LCR.DLAB).
    pub serial_divisor: bool,
    /// The first serial port loops back (MCR, bit 4).
    pub serial_loopback: bool,
    /// The task priority (CR8), 0 to 15.
    pub task_priority: u8,
    /// Which moment it was, for people.
    pub moment: String,
}

/// The machine that was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Guest RAM in bytes, a multiple of the page size.
    pub ram_bytes: u64,
    /// Number of processors, from 1.
    pub cpus: u16,
    /// The processor's vendor, as CPUID leaf 0 spells it.
    pub cpu_vendor: String,
    /// The processor's model, for people.
    pub cpu_model: String,
    /// What CPUID answers.
    pub cpuid: Vec<CpuidLeaf>,
    /// Date of the guest's clock chip at power-on, in seconds since 1970 UTC.
    pub rtc_epoch_s: u64,
    /// Path of the kernel image, for people: replay does not need it.
    pub kernel: String,
    /// Path of the initial RAM disk, if there was one, for people.
    #[serde(default)]
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub cmdline: String,
    /// The boot protocol, for people.
    pub boot_protocol: String,
    /// What recorded it.
    pub accel: Accel,
    /// Version of the program that recorded it.
    pub program: String,
    /// When recording began, in seconds since 1970 UTC.
    pub created_unix_s: u64,
    /// Random, from the caller.
    pub identity: Identity,
    /// Ticks between two digests.
    pub digest_distance_ticks: u64,
    /// Length of a tick in guest nanoseconds.
    pub ns_per_tick: u64,
    /// Whether events are told by accesses instead of ticks: see the head of `trace`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untimed: bool,
    /// Untimed recordings: what RDTSC reads between accesses is told by [`super::What::Counter`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counter: bool,
    /// Where the outside stood at tick 0; `None` for a machine that was just switched on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

impl MachineConfig {
    /// What is impossible about it, in words: both writer and reader refuse it.
    fn impossible(&self) -> Option<String> {
        if self.ram_bytes == 0 || self.ram_bytes > limits::RAM_BYTES_MAX {
            return Some(format!(
                "RAM of {} bytes, where 1 to {} are possible",
                self.ram_bytes,
                limits::RAM_BYTES_MAX
            ));
        }
        if !self.ram_bytes.is_multiple_of(super::PAGE_BYTES as u64) {
            return Some(format!(
                "RAM of {} bytes, which is no whole number of pages",
                self.ram_bytes
            ));
        }
        if self.cpus == 0 || self.cpus > limits::CPUS_MAX {
            return Some(format!(
                "{} processors, where 1 to {} are possible",
                self.cpus,
                limits::CPUS_MAX
            ));
        }
        if self.cpuid.len() > limits::CPUID_ROWS_MAX {
            return Some(format!(
                "{} CPUID rows, where {} are possible",
                self.cpuid.len(),
                limits::CPUID_ROWS_MAX
            ));
        }
        if self.ns_per_tick == 0 || self.digest_distance_ticks == 0 {
            return Some("a tick or a digest distance of length 0".into());
        }
        if self.counter && !self.untimed {
            return Some("ticks, and a counter that is told between accesses".into());
        }
        if let Some(start) = &self.start
            && start.task_priority > 15
        {
            return Some(format!("a task priority of {}", start.task_priority));
        }
        None
    }

    /// The header's bytes. The error says in words what cannot be written.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        if let Some(what) = self.impossible() {
            return Err(what);
        }
        let config = rmp_serde::to_vec_named(self).map_err(|error| error.to_string())?;
        if config.len() > limits::CONFIG_BYTES_MAX {
            return Err(format!(
                "a configuration of {} bytes, more than {}",
                config.len(),
                limits::CONFIG_BYTES_MAX
            ));
        }
        let mut header = Vec::with_capacity(PREFIX_BYTES + config.len());
        header.extend_from_slice(&MAGIC);
        let version = match (&self.start, self.untimed) {
            _ if self.counter => TRACE_VERSION_COUNTER,
            (Some(_), _) => TRACE_VERSION_STARTED,
            (None, true) => TRACE_VERSION_UNTIMED,
            (None, false) => TRACE_VERSION,
        };
        header.extend_from_slice(&version.to_le_bytes());
        header.extend_from_slice(&(config.len() as u32).to_le_bytes());
        let mut program = [0; PROGRAM_BYTES];
        for (to, from) in program
            .iter_mut()
            .zip(self.program.bytes().filter(u8::is_ascii_graphic))
        {
            *to = from;
        }
        header.extend_from_slice(&program);
        header.extend_from_slice(&xxh3_64(&config).to_le_bytes());
        let sum = xxh3_64(&header);
        header.extend_from_slice(&sum.to_le_bytes());
        header.extend_from_slice(&config);
        Ok(header)
    }

    /// The configuration from its bytes, after their checksum was found right.
    fn decode(path: &Path, config: &[u8]) -> Result<Self, Error> {
        let damaged = |what| Error::HeaderDamaged {
            path: path.into(),
            offset: PREFIX_BYTES as u64,
            what,
        };
        let config: Self = rmp_serde::from_slice(config)
            .map_err(|error| damaged(format!("the configuration makes no sense ({error})")))?;
        match config.impossible() {
            Some(what) => Err(damaged(format!("it describes a machine with {what}"))),
            None => Ok(config),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads the header: the format version, the configuration, and the length of both in bytes. `read` gets an offset
/// and a length and gives those bytes, fewer where the file (of `len` bytes) ends.
pub(super) fn read_header(
    path: &Path,
    len: u64,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, Error>,
) -> Result<(u32, MachineConfig, u64), Error> {
    let prefix = read(0, PREFIX_BYTES)?;
    if prefix.is_empty() {
        return Err(Error::Empty { path: path.into() });
    }
    let known = prefix.len().min(MAGIC.len());
    if prefix[..known] != MAGIC[..known] {
        return Err(Error::Foreign {
            path: path.into(),
            found: first_bytes(&prefix),
        });
    }
    if prefix.len() < PREFIX_BYTES {
        return Err(Error::HeaderCut {
            path: path.into(),
            have: len,
            need: PREFIX_BYTES as u64,
        });
    }
    let damaged = |offset, what: &str| Error::HeaderDamaged {
        path: path.into(),
        offset,
        what: what.into(),
    };
    if xxh3_64(&prefix[..48]) != u64_at(&prefix, 48) {
        return Err(damaged(0, "its checksum is wrong"));
    }
    let version = u32_at(&prefix, 8);
    if !(TRACE_VERSION_OLDEST..=TRACE_VERSION_NEWEST).contains(&version) {
        let program = prefix[16..40]
            .iter()
            .take_while(|byte| byte.is_ascii_graphic())
            .map(|&byte| char::from(byte));
        return Err(Error::Version {
            path: path.into(),
            version,
            program: program.collect(),
            oldest: TRACE_VERSION_OLDEST,
            newest: TRACE_VERSION_NEWEST,
        });
    }
    let config_len = u32_at(&prefix, 12) as usize;
    if config_len > limits::CONFIG_BYTES_MAX {
        return Err(damaged(
            12,
            &format!("a configuration of {config_len} bytes is longer than any"),
        ));
    }
    let need = (PREFIX_BYTES + config_len) as u64;
    if len < need {
        return Err(Error::HeaderCut {
            path: path.into(),
            have: len,
            need,
        });
    }
    let config = read(PREFIX_BYTES as u64, config_len)?;
    if config.len() != config_len || xxh3_64(&config) != u64_at(&prefix, 40) {
        return Err(damaged(
            PREFIX_BYTES as u64,
            "the checksum of the configuration is wrong",
        ));
    }
    Ok((version, MachineConfig::decode(path, &config)?, need))
}

/// The first bytes of a foreign file, for its error.
fn first_bytes(bytes: &[u8]) -> String {
    let text: Vec<String> = bytes
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("the bytes {}", text.join(" "))
}
