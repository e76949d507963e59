//! `linux_banner`: the line that a kernel begins its log with (init/version.c).

use super::image::Image;

const START: &[u8] = b"Linux version ";
/// The kernel itself never makes a longer one.
const LENGTH_MAX: usize = 1024;

/// The banner at an address, without its line feed.
pub fn at(image: &Image, address: u64) -> Option<String> {
    let bytes = image.at(address)?;
    bytes.starts_with(START).then(|| banner(bytes)).flatten()
}

/// The first banner anywhere: enough to know that this is Linux.
pub fn find(image: &Image) -> Option<String> {
    image.segments.iter().find_map(|segment| {
        memchr::memmem::find_iter(&segment.bytes, START)
            .take(1 << 16)
            .find_map(|at| banner(&segment.bytes[at..]))
    })
}

/// What begins here, if it is a whole banner: a version number, printable, up to a line feed.
fn banner(bytes: &[u8]) -> Option<String> {
    let bytes = &bytes[..bytes.len().min(LENGTH_MAX)];
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = &bytes[..end];
    let good = line.get(START.len())?.is_ascii_digit()
        && line.contains(&b'#')
        && line
            .iter()
            .all(|&byte| byte == b' ' || byte.is_ascii_graphic());
    good.then(|| String::from_utf8_lossy(line).into_owned())
}
