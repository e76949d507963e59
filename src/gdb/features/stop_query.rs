//! `?`: why the machine is stopped, asked when GDB connects. gdbstub would name the first thread, whichever runs.

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::registers::{EXPEDITED, ROWS};
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[("?", why)],
};

fn why(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    if !rest.is_empty() {
        return Answer::empty();
    }
    let registers = context.debuggee.registers(context.selected);
    let mut reply = format!("T05thread:{};", context.thread_id(context.selected)).into_bytes();
    for number in EXPEDITED {
        reply.extend_from_slice(format!("{number:02x}:").as_bytes());
        syntax::push_hex(&mut reply, &ROWS[number].bytes(&registers));
        reply.push(b';');
    }
    Answer::Reply(reply)
}
