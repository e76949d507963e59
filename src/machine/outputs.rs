//! The hash of what a machine sends out: part of every digest.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A running hash of what goes out: port and MMIO writes. Recorder and replay compute it alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputHash(pub u64);

impl OutputHash {
    /// Adds a write.
    #[inline]
    pub fn add(&mut self, address: u64, size: u8, value: u64) {
        let mut bytes = [0; 17];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8] = size;
        bytes[9..].copy_from_slice(&value.to_le_bytes());
        self.0 = xxh3_64_with_seed(&bytes, self.0);
    }
}

/// Bit that tells an MMIO address from a port in the output hash.
pub const OUTPUT_MMIO: u64 = 1 << 63;
/// Likewise for an MSR.
pub const OUTPUT_MSR: u64 = 1 << 62;
/// Likewise for CR8.
pub const OUTPUT_TPR: u64 = 1 << 61;
