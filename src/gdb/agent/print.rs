//! The format of a `dprintf`, as GDB sends it: that of C's printf, with integers, pointers, characters and strings of
//! the guest. GDB has no floating point here, no `*` and no wide characters.

use super::{Invalid, Subject};
use std::io::Write as _;

/// Bytes of a string argument that are printed at most.
const STRING_BYTES_MAX: usize = 4096;
/// Widths and precisions beyond this print nothing anybody reads.
const WIDTH_MAX: usize = 1024;

/// How one argument is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Conversion {
    left: bool,
    plus: bool,
    space: bool,
    alternative: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    /// Bits of the argument that count.
    bits: u32,
    /// The letter at the end.
    letter: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Argument(Conversion),
}

/// A checked format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pieces: Vec<Piece>,
    arguments: usize,
}

impl Format {
    /// Takes a format with its final NUL apart, and demands so many arguments.
    pub(super) fn new(text: &[u8], arguments: usize) -> Result<Format, Invalid> {
        let wrong = |why: &str| Invalid::Format(why.to_string());
        let Some((0, text)) = text.split_last() else {
            return Err(wrong("not terminated"));
        };
        let text = unescaped(text)?;
        let mut rest = text.as_slice();
        let mut pieces = Vec::new();
        while let Some(at) = rest.iter().position(|&c| c == b'%') {
            push_text(&mut pieces, &rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(b"%") {
                push_text(&mut pieces, b"%");
                rest = after;
                continue;
            }
            pieces.push(Piece::Argument(conversion(&mut rest)?));
        }
        push_text(&mut pieces, rest);
        let count = pieces
            .iter()
            .filter(|piece| matches!(piece, Piece::Argument(_)))
            .count();
        if count != arguments {
            return Err(wrong("the number of arguments differs"));
        }
        Ok(Format { pieces, arguments })
    }

    /// How many arguments it takes.
    pub(super) fn arguments(&self) -> usize {
        self.arguments
    }

    /// Prints until `out` has `limit` bytes.
    pub(super) fn print(
        &self,
        arguments: &[u64],
        subject: &mut dyn Subject,
        limit: usize,
        out: &mut Vec<u8>,
    ) {
        let mut arguments = arguments.iter();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Argument(how) => {
                    let value = arguments.next().copied().unwrap_or(0);
                    how.print(value, subject, out);
                }
            }
            if out.len() >= limit {
                out.truncate(limit);
                return;
            }
        }
    }
}

/// GDB sends the text between the quotes as the user wrote it, escapes and all; these are those that it knows.
fn unescaped(text: &[u8]) -> Result<Vec<u8>, Invalid> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'\\') => b'\\',
            Some(b'"') => b'"',
            Some(b'a') => 0x07,
            Some(b'b') => 0x08,
            Some(b'e') => 0x1b,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 0x0b,
            _ => return Err(Invalid::Format("an unknown escape".into())),
        });
    }
    Ok(out)
}

fn push_text(pieces: &mut Vec<Piece>, text: &[u8]) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(before)) => before.extend_from_slice(text),
        _ => pieces.push(Piece::Text(text.to_vec())),
    }
}

/// Digits at the start, which are taken off.
fn digits(rest: &mut &[u8]) -> usize {
    let mut value = 0usize;
    while let Some((c @ b'0'..=b'9', after)) = rest.split_first() {
        value = (value * 10 + usize::from(c - b'0')).min(WIDTH_MAX);
        *rest = after;
    }
    value
}

/// What follows a `%`, which is taken off.
fn conversion(rest: &mut &[u8]) -> Result<Conversion, Invalid> {
    let mut how = Conversion {
        bits: 32,
        ..Conversion::default()
    };
    while let Some((&c, after)) = rest.split_first() {
        let flag = match c {
            b'-' => &mut how.left,
            b'+' => &mut how.plus,
            b' ' => &mut how.space,
            b'#' => &mut how.alternative,
            b'0' => &mut how.zero,
            _ => break,
        };
        *flag = true;
        *rest = after;
    }
    how.width = digits(rest);
    if let Some(after) = rest.strip_prefix(b".") {
        *rest = after;
        how.precision = Some(digits(rest));
    }
    for (prefix, bits) in [
        (&b"hh"[..], 8),
        (b"h", 16),
        (b"ll", 64),
        (b"l", 64),
        (b"z", 64),
        (b"j", 64),
        (b"t", 64),
    ] {
        if let Some(after) = rest.strip_prefix(prefix) {
            (*rest, how.bits) = (after, bits);
            break;
        }
    }
    let Some((&letter, after)) = rest.split_first() else {
        return Err(Invalid::Format("ends within a conversion".into()));
    };
    *rest = after;
    how.letter = letter;
    match letter {
        b'd' | b'i' | b'u' | b'o' | b'x' | b'X' => {}
        b'c' if how.bits == 32 => {}
        b's' if how.bits == 32 => how.bits = 64,
        b'p' => how.bits = 64,
        _ => {
            return Err(Invalid::Format(format!(
                "%{} is not supported",
                letter.escape_ascii()
            )));
        }
    }
    Ok(how)
}

impl Conversion {
    fn print(&self, value: u64, subject: &mut dyn Subject, out: &mut Vec<u8>) {
        match self.letter {
            b's' => {
                let mut text = string(value, self.precision, subject);
                if value == 0 {
                    text = b"(null)".to_vec();
                }
                self.pad(&[], &text, false, out);
            }
            b'c' => self.pad(&[], &[value as u8], false, out),
            _ => self.print_number(value, out),
        }
    }

    fn print_number(&self, value: u64, out: &mut Vec<u8>) {
        let shift = 64 - self.bits;
        let unsigned = value << shift >> shift;
        let signed = ((value << shift) as i64) >> shift;
        let mut digits = Vec::with_capacity(24);
        let mut sign: &[u8] = b"";
        // Writing to a Vec cannot fail.
        let _ = match self.letter {
            b'd' | b'i' => {
                sign = match () {
                    () if signed < 0 => b"-",
                    () if self.plus => b"+",
                    () if self.space => b" ",
                    () => b"",
                };
                write!(digits, "{}", signed.unsigned_abs())
            }
            b'o' => {
                sign = if self.alternative && unsigned != 0 {
                    b"0"
                } else {
                    b""
                };
                write!(digits, "{unsigned:o}")
            }
            b'x' => {
                sign = if self.alternative && unsigned != 0 {
                    b"0x"
                } else {
                    b""
                };
                write!(digits, "{unsigned:x}")
            }
            b'X' => {
                sign = if self.alternative && unsigned != 0 {
                    b"0X"
                } else {
                    b""
                };
                write!(digits, "{unsigned:X}")
            }
            b'p' => {
                sign = b"0x";
                write!(digits, "{unsigned:x}")
            }
            _ => write!(digits, "{unsigned}"),
        };
        if let Some(precision) = self.precision {
            if precision == 0 && unsigned == 0 {
                digits.clear();
            }
            let missing = precision.saturating_sub(digits.len());
            digits.splice(0..0, std::iter::repeat_n(b'0', missing));
        }
        self.pad(sign, &digits, self.zero && self.precision.is_none(), out);
    }

    /// Fills up to the width: with blanks, or with zeros behind the sign.
    fn pad(&self, sign: &[u8], text: &[u8], zeros: bool, out: &mut Vec<u8>) {
        let missing = self.width.saturating_sub(sign.len() + text.len());
        let fill = |c: u8| std::iter::repeat_n(c, missing);
        if !self.left && !zeros {
            out.extend(fill(b' '));
        }
        out.extend_from_slice(sign);
        if !self.left && zeros {
            out.extend(fill(b'0'));
        }
        out.extend_from_slice(text);
        if self.left {
            out.extend(fill(b' '));
        }
    }
}

/// The guest's string at an address, up to its NUL, its precision or our limit. What cannot be read is said.
fn string(addr: u64, precision: Option<usize>, subject: &mut dyn Subject) -> Vec<u8> {
    let limit = precision.unwrap_or(STRING_BYTES_MAX).min(STRING_BYTES_MAX);
    let mut text = Vec::new();
    while text.len() < limit {
        let mut part = [0; 64];
        let wanted = part.len().min(limit - text.len());
        let read = subject.read(addr.wrapping_add(text.len() as u64), &mut part[..wanted]);
        let part = &part[..read.min(wanted)];
        match part.iter().position(|&c| c == 0) {
            Some(end) => {
                text.extend_from_slice(&part[..end]);
                return text;
            }
            None => text.extend_from_slice(part),
        }
        if part.len() < wanted {
            text.extend_from_slice(b"<cannot be read>");
            return text;
        }
    }
    text
}
