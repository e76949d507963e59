//! qRcmd: the `monitor` commands, which are at home in [`crate::monitor`].

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[("qRcmd,", command)],
};

fn command(_: &mut Context<'_>, rest: &[u8]) -> Answer {
    match syntax::bytes(rest) {
        Some(_) => Answer::stub([b"qRcmd,", rest].concat()),
        None => Answer::malformed(),
    }
}
