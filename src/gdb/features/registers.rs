//! Registers (g, p) and their description (qXfer:features:read). Writing them (G, P) is refused.

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::registers::ROWS;
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[
        ("g", |_, rest| {
            if rest.is_empty() {
                Answer::stub("g")
            } else {
                Answer::empty()
            }
        }),
        ("p", one),
        ("G", |_, _| refused()),
        ("P", |_, _| refused()),
        ("qXfer:features:read:", description),
    ],
};

fn refused() -> Answer {
    Answer::error("this is a recording: its registers cannot be changed")
}

fn one(_: &mut Context<'_>, rest: &[u8]) -> Answer {
    match syntax::number(rest) {
        Some(number) if number < ROWS.len() as u64 => Answer::stub(format!("p{number:x}")),
        Some(_) => Answer::error("no such register"),
        None => Answer::malformed(),
    }
}

fn description(_: &mut Context<'_>, rest: &[u8]) -> Answer {
    let Some((annex, range)) = syntax::split(rest, b':') else {
        return Answer::malformed();
    };
    let Some((offset, length)) = syntax::pair(range) else {
        return Answer::malformed();
    };
    if annex != b"target.xml" {
        return Answer::text("E00");
    }
    Answer::stub(format!(
        "qXfer:features:read:target.xml:{offset:x},{:x}",
        length.min(0x10000)
    ))
}
