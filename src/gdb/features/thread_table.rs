//! qXfer:threads:read: all processors with their names and modes in one packet, for `info threads`.

use std::fmt::Write as _;

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    supported: "qXfer:threads:read+",
    packets: &[("qXfer:threads:read::", read)],
};

fn read(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    let Some((offset, length)) = syntax::pair(rest) else {
        return Answer::malformed();
    };
    let mut xml = String::from("<?xml version=\"1.0\"?>\n<threads>\n");
    for cpu in 0..context.debuggee.cpus() {
        let id = context.thread_id(cpu);
        let mode = context.debuggee.mode(cpu);
        let _ = writeln!(
            xml,
            "<thread id=\"{id}\" core=\"{cpu}\" name=\"cpu{cpu}\">{mode}</thread>"
        );
    }
    xml.push_str("</threads>\n");
    Answer::part(xml.as_bytes(), offset, length)
}
