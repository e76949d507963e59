//! qSearch:memory: GDB's `find`, run here instead of fetching the memory.

use memchr::memmem::Finder;

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    supported: "qSearch:memory+",
    packets: &[("qSearch:memory:", search)],
};

/// GDB gives up waiting after some seconds: more than this is not searched in one packet.
const RANGE_BYTES_MAX: u64 = 1 << 30;
/// Read at a time.
const CHUNK_BYTES: usize = 1 << 16;

/// The answer names the first match at or after the start address; GDB asks again from the byte after it.
fn search(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    let parts: Vec<&[u8]> = rest.splitn(3, |&c| c == b';').collect();
    let [addr, length, pattern] = parts[..] else {
        return Answer::malformed();
    };
    let (Some(addr), Some(length), Some(pattern)) = (
        syntax::number(addr),
        syntax::number(length),
        syntax::unescape(pattern),
    ) else {
        return Answer::malformed();
    };
    if pattern.is_empty() {
        return Answer::malformed();
    }
    if length > RANGE_BYTES_MAX {
        return Answer::error("more than 1 GiB to search: use a smaller range");
    }
    match find(context, addr, length, &pattern) {
        Some(found) => Answer::text(format!("1,{found:x}")),
        None => Answer::text("0"),
    }
}

/// Searches up to the first byte that is not mapped.
fn find(context: &Context<'_>, addr: u64, length: u64, pattern: &[u8]) -> Option<u64> {
    let finder = Finder::new(pattern);
    // Bytes at the end of what was read that may begin a match.
    let mut window: Vec<u8> = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    while done < length {
        let wanted = (length - done).min(CHUNK_BYTES as u64) as usize;
        let read = context.read_memory(addr.wrapping_add(done), &mut chunk[..wanted]);
        let window_addr = addr.wrapping_add(done).wrapping_sub(window.len() as u64);
        window.extend_from_slice(&chunk[..read]);
        if let Some(at) = finder.find(&window) {
            return Some(window_addr.wrapping_add(at as u64));
        }
        if read < wanted {
            return None;
        }
        window.drain(..window.len().saturating_sub(pattern.len() - 1));
        done += read as u64;
    }
    None
}
