//! qCRC: GDB's `compare-sections`, which checks that the guest's memory is what the symbol file says.

use crc::{CRC_32_MPEG_2, Crc};

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[("qCRC:", checksum)],
};

/// Polynomial 04c11db7, not reflected, starting with all ones, result not inverted.
static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_MPEG_2);

/// GDB gives up waiting after some seconds.
const RANGE_BYTES_MAX: u64 = 1 << 30;
/// Read at a time.
const CHUNK_BYTES: usize = 1 << 16;

fn checksum(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    let Some((addr, length)) = syntax::pair(rest) else {
        return Answer::malformed();
    };
    if length > RANGE_BYTES_MAX {
        return Answer::error("more than 1 GiB to checksum");
    }
    let mut digest = CRC.digest();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    while done < length {
        let wanted = (length - done).min(CHUNK_BYTES as u64) as usize;
        if context.read_memory(addr.wrapping_add(done), &mut chunk[..wanted]) != wanted {
            return Answer::text("E14");
        }
        digest.update(&chunk[..wanted]);
        done += wanted as u64;
    }
    Answer::text(format!("C{:x}", digest.finalize()))
}
