//! The words of the remote protocol: numbers, hex strings, binary escapes and thread ids ("Overview" and
//! "Packets" of the GDB manual, appendix E).
//!
//! Parsers take exactly what the manual allows and answer `None` for the rest. Nothing here knows a session.

/// A thread id as it stands in a packet, with processors numbered from 0 (threads count from 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// "-1", or a process without a thread.
    All,
    /// "0".
    Any,
    /// One thread.
    Cpu(usize),
}

/// A big-endian hexadecimal number of 1 to 16 digits (leading zeros beyond that are accepted).
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &c| {
        let digit = digit(c)?;
        if value >> 60 != 0 {
            return None;
        }
        Some(value << 4 | u64::from(digit))
    })
}

fn digit(c: u8) -> Option<u8> {
    (c as char).to_digit(16).map(|d| d as u8)
}

/// Two numbers with a comma between them.
pub fn pair(text: &[u8]) -> Option<(u64, u64)> {
    let (a, b) = split(text, b',')?;
    Some((number(a)?, number(b)?))
}

/// What stands before and after the first `at`.
pub fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let i = text.iter().position(|&c| c == at)?;
    Some((&text[..i], &text[i + 1..]))
}

/// "p1.2", "p1", "2", "-1", "0". Processes other than 1 do not exist; 0 and -1 stand for it.
pub fn thread(text: &[u8]) -> Option<Thread> {
    let Some(rest) = text.strip_prefix(b"p") else {
        return plain_thread(text);
    };
    let (process, thread) = match split(rest, b'.') {
        Some((process, thread)) => (process, plain_thread(thread)?),
        None => (rest, Thread::All),
    };
    match process {
        b"-1" | b"0" => Some(thread),
        process if number(process) == Some(1) => Some(thread),
        _ => None,
    }
}

fn plain_thread(text: &[u8]) -> Option<Thread> {
    if text == b"-1" {
        return Some(Thread::All);
    }
    Some(match usize::try_from(number(text)?).ok()? {
        0 => Thread::Any,
        n => Thread::Cpu(n - 1),
    })
}

/// Bytes written as pairs of hex digits.
pub fn bytes(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2)
        .map(|two| Some(digit(two[0])? << 4 | digit(two[1])?))
        .collect()
}

/// Appends bytes as pairs of hex digits.
pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for &b in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    }
}

/// Removes the escapes of binary data: `}` and the byte xor 0x20. `None` when it ends within one.
pub fn unescape(data: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(data.len());
    let mut data = data.iter();
    while let Some(&c) = data.next() {
        out.push(if c == b'}' { data.next()? ^ 0x20 } else { c });
    }
    Some(out)
}

/// Escapes what may not stand in a reply as it is: the frame's own bytes, the escape, and the run-length mark.
pub fn push_escaped(out: &mut Vec<u8>, data: &[u8]) {
    out.reserve(data.len());
    for &c in data {
        match c {
            b'#' | b'$' | b'}' | b'*' => out.extend_from_slice(&[b'}', c ^ 0x20]),
            c => out.push(c),
        }
    }
}

/// An error with words: "E." and the text, which GDB shows where it shows errors of the target at all.
pub fn error(text: &str) -> Vec<u8> {
    let mut out = b"E.".to_vec();
    push_escaped(&mut out, text.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_at_64_bits() {
        assert_eq!(number(b"ffffffffffffffff"), Some(u64::MAX));
        assert_eq!(number(b"0000000000000000001"), Some(1));
        for bad in [&b""[..], b"10000000000000000", b"0x1", b"-1", b"g", b" 1"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn threads_in_both_notations() {
        for (text, want) in [
            (&b"p1.1"[..], Some(Thread::Cpu(0))),
            (b"a", Some(Thread::Cpu(9))),
            (b"p1.-1", Some(Thread::All)),
            (b"p0.0", Some(Thread::Any)),
            (b"p1", Some(Thread::All)),
            (b"-1", Some(Thread::All)),
            (b"p2.1", None),
            (b"p1.", None),
            (b"", None),
            (b"-2", None),
        ] {
            assert_eq!(thread(text), want, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn escapes_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut wire = Vec::new();
        push_escaped(&mut wire, &all);
        assert!(!wire.contains(&b'#') && !wire.contains(&b'$') && !wire.contains(&b'*'));
        assert_eq!(unescape(&wire), Some(all));
        assert_eq!(unescape(b"a}"), None);
    }
}
