//! The first words: qSupported, QStartNoAckMode, vMustReplyEmpty.

use super::{Answer, FEATURES, Feature};
use crate::gdb::context::Context;

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[
        ("qSupported", supported),
        ("QStartNoAckMode", stop_acknowledging),
        ("vMustReplyEmpty", |_, _| Answer::empty()),
    ],
};

/// gdbstub is told only what it knows about, and its reply gets the words of our own features.
fn supported(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    let offered: Vec<&[u8]> = match rest {
        [] => Vec::new(),
        [b':', features @ ..] => features.split(|&c| c == b';').collect(),
        _ => return Answer::empty(),
    };
    context.multiprocess = offered.contains(&&b"multiprocess+"[..]);
    let mut append = String::new();
    for feature in FEATURES
        .iter()
        .filter(|feature| !feature.supported.is_empty())
    {
        append.push(';');
        append.push_str(feature.supported);
    }
    // GDB 16 and later: errors with words are understood everywhere.
    if offered.contains(&&b"error-message+"[..]) {
        append.push_str(";error-message+");
    }
    let sign = if context.multiprocess { '+' } else { '-' };
    let packet = format!("qSupported:multiprocess{sign}").into_bytes();
    Answer::Stub {
        packet,
        append: append.into_bytes(),
    }
}

fn stop_acknowledging(_: &mut Context<'_>, rest: &[u8]) -> Answer {
    if rest.is_empty() {
        Answer::StopAcknowledging
    } else {
        Answer::empty()
    }
}
