//! qRcmd: the `monitor` commands, which are at home in [`crate::monitor`].

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[("qRcmd,", command)],
};

/// The session runs it, because it may take long and can be interrupted.
fn command(_: &mut Context<'_>, rest: &[u8]) -> Answer {
    match syntax::bytes(rest) {
        Some(line) => Answer::Monitor(String::from_utf8_lossy(&line).into_owned()),
        None => Answer::malformed(),
    }
}
