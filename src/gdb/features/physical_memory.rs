//! Guest-physical memory instead of virtual, with QEMU's packets: `maint packet Qqemu.PhyMemMode:1`.

use super::{Answer, Feature};
use crate::gdb::context::Context;

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[("qqemu.PhyMemMode", query), ("Qqemu.PhyMemMode:", set)],
};

fn query(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    match (rest.is_empty(), context.physical) {
        (false, _) => Answer::empty(),
        (true, true) => Answer::text("1"),
        (true, false) => Answer::text("0"),
    }
}

fn set(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    context.physical = match rest {
        b"0" => false,
        b"1" => true,
        _ => return Answer::malformed(),
    };
    Answer::text("OK")
}
