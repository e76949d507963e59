//! Memory: reading in hex (m) and in binary (x, of GDB 16 and later); writing (M, X) is refused.
//!
//! Answered here and not by gdbstub, which would add addresses beyond the end of the address space and go on
//! after an unmapped page.

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::framing::PACKET_BYTES_MAX;
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    supported: "binary-upload+",
    packets: &[
        ("m", hex),
        ("x", binary),
        ("M", |_, _| refused()),
        ("X", |_, _| refused()),
    ],
};

/// What fits into a reply in hex; a debugger that asks for more gets so much and asks again.
const READ_BYTES_MAX: u64 = (PACKET_BYTES_MAX as u64 - 16) / 2;

fn refused() -> Answer {
    Answer::error("this is a recording: its memory cannot be changed")
}

/// The bytes that a packet asks for, up to the first that is not mapped.
fn read(context: &Context<'_>, rest: &[u8]) -> Result<Vec<u8>, Answer> {
    let (addr, length) = syntax::pair(rest).ok_or_else(Answer::malformed)?;
    let mut data = vec![0; length.min(READ_BYTES_MAX) as usize];
    let read = context.read_memory(addr, &mut data);
    if read == 0 && length != 0 {
        return Err(Answer::text("E14"));
    }
    data.truncate(read);
    Ok(data)
}

fn hex(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    match read(context, rest) {
        Ok(data) => {
            let mut reply = Vec::new();
            syntax::push_hex(&mut reply, &data);
            Answer::Reply(reply)
        }
        Err(answer) => answer,
    }
}

fn binary(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    match read(context, rest) {
        Ok(data) => {
            let mut reply = b"b".to_vec();
            syntax::push_escaped(&mut reply, &data);
            Answer::Reply(reply)
        }
        Err(answer) => answer,
    }
}
