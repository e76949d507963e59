//! Resumption: vCont, the old c and s, and the reverse bc and bs.
//!
//! Signals that come along are dropped: a recording cannot be sent any.

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::syntax::{self, Thread};

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[
        ("vCont?", |_, rest| {
            if rest.is_empty() {
                Answer::stub("vCont?")
            } else {
                Answer::empty()
            }
        }),
        ("vCont;", actions),
        ("c", |_, rest| old("vCont;c".into(), rest)),
        ("C", |_, rest| old_with_signal("vCont;c".into(), rest)),
        ("s", |context, rest| old(step_selected(context), rest)),
        ("S", |context, rest| {
            old_with_signal(step_selected(context), rest)
        }),
        ("bc", |_, rest| {
            if rest.is_empty() {
                Answer::stub("bc")
            } else {
                Answer::empty()
            }
        }),
        ("bs", |_, rest| {
            if rest.is_empty() {
                Answer::stub("bs")
            } else {
                Answer::empty()
            }
        }),
    ],
};

fn step_selected(context: &Context<'_>) -> String {
    format!("vCont;s:{};c", context.thread_id(context.selected))
}

/// The old packets may carry an address to resume at, which would change a register.
fn old(packet: String, rest: &[u8]) -> Answer {
    if rest.is_empty() {
        Answer::stub(packet)
    } else {
        Answer::error("a recording runs as it ran: no address")
    }
}

fn old_with_signal(packet: String, rest: &[u8]) -> Answer {
    match syntax::split(rest, b';') {
        None if syntax::number(rest).is_some() => Answer::stub(packet),
        None => Answer::malformed(),
        Some(_) => old(packet, rest),
    }
}

/// Each action checked and written anew, with a thread that exists or none.
fn actions(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    let mut packet = String::from("vCont");
    for action in rest.split(|&c| c == b';') {
        match canonical(context, action) {
            Ok(action) => packet.push_str(&action),
            Err(answer) => return answer,
        }
    }
    Answer::stub(packet)
}

fn canonical(context: &Context<'_>, action: &[u8]) -> Result<String, Answer> {
    let (what, thread) = match syntax::split(action, b':') {
        Some((what, thread)) => (what, syntax::thread(thread).ok_or_else(Answer::malformed)?),
        None => (action, Thread::All),
    };
    if context.cpu_of(thread).is_none() {
        return Err(Answer::error("no such thread"));
    }
    let signal_ok = |signal| syntax::number(signal).is_some_and(|n| n <= 0xff);
    let (what, steps) = match what {
        b"c" => ("c".to_string(), false),
        b"s" => ("s".to_string(), true),
        [b'C', signal @ ..] if signal_ok(signal) => ("c".to_string(), false),
        [b'S', signal @ ..] if signal_ok(signal) => ("s".to_string(), true),
        [b'r', range @ ..] => {
            let (start, end) = syntax::pair(range).ok_or_else(Answer::malformed)?;
            (format!("r{start:x},{end:x}"), true)
        }
        b"t" => return Err(Answer::error("threads stop and go together")),
        _ => return Err(Answer::malformed()),
    };
    Ok(match thread {
        Thread::Cpu(cpu) => format!(";{what}:{}", context.thread_id(cpu)),
        // Stepping needs one thread; gdbstub takes no step of all.
        _ if steps => format!(";{what}:{}", context.thread_id(context.selected)),
        _ => format!(";{what}"),
    })
}
