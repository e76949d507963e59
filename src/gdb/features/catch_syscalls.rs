//! QCatchSyscalls: GDB's `catch syscall`. The stop reply names the call as it begins, and as it ends where the
//! guest is a Linux whose memory tells.

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    // gdbstub says so itself.
    supported: "",
    packets: &[("QCatchSyscalls:", catch)],
};

/// More than there are.
const NUMBERS_MAX: usize = 1000;

fn catch(_: &mut Context<'_>, rest: &[u8]) -> Answer {
    let numbers = match rest {
        b"0" | b"1" => return Answer::stub([b"QCatchSyscalls:", rest].concat()),
        [b'1', b';', numbers @ ..] => numbers,
        _ => return Answer::malformed(),
    };
    let mut packet = String::from("QCatchSyscalls:1");
    for (n, word) in numbers.split(|&c| c == b';').enumerate() {
        match syntax::number(word) {
            Some(number) if n < NUMBERS_MAX => packet.push_str(&format!(";{number:x}")),
            _ => return Answer::malformed(),
        }
    }
    Answer::stub(packet)
}
