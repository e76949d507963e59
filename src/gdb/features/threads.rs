//! Threads, which are the processors: selection (H), life (T), listing (qfThreadInfo), the current one (qC).

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::syntax::{self, Thread};

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[
        ("Hg", select),
        ("Hc", |context, rest| match syntax::thread(rest) {
            // Which thread runs is said by vCont, and for bs by the selected one.
            Some(thread) => existing(context, thread),
            None => Answer::malformed(),
        }),
        ("T", |context, rest| match syntax::thread(rest) {
            Some(thread) => existing(context, thread),
            None => Answer::malformed(),
        }),
        ("qC", current),
        ("qAttached", |_, _| Answer::text("1")),
        ("qfThreadInfo", |_, rest| listing("qfThreadInfo", rest)),
        ("qsThreadInfo", |_, rest| listing("qsThreadInfo", rest)),
    ],
};

fn existing(context: &Context<'_>, thread: Thread) -> Answer {
    match context.cpu_of(thread) {
        Some(_) => Answer::text("OK"),
        None => Answer::error("no such thread"),
    }
}

/// gdbstub is told a thread that exists; "all" and "any" keep the one that is selected.
fn select(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    let Some(thread) = syntax::thread(rest) else {
        return Answer::malformed();
    };
    let Some(cpu) = context.cpu_of(thread) else {
        return Answer::error("no such thread");
    };
    context.selected = cpu;
    Answer::stub(format!("Hg{}", context.thread_id(cpu)))
}

fn current(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    if rest.is_empty() {
        Answer::text(format!("QC{}", context.thread_id(context.selected)))
    } else {
        Answer::empty()
    }
}

fn listing(packet: &str, rest: &[u8]) -> Answer {
    if rest.is_empty() {
        Answer::stub(packet)
    } else {
        Answer::empty()
    }
}
