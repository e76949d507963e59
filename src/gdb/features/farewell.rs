//! The end of a session: D (detach), k and vKill. The server and the recording's position live on.

use super::{Answer, Feature};

pub static FEATURE: Feature = Feature {
    supported: "",
    packets: &[
        ("D", |_, rest| match rest {
            [] | [b';', ..] => Answer::Farewell(Some(b"OK".to_vec())),
            _ => Answer::empty(),
        }),
        ("k", |_, rest| {
            if rest.is_empty() {
                Answer::Farewell(None)
            } else {
                Answer::empty()
            }
        }),
        ("vKill;", |_, _| Answer::Farewell(Some(b"OK".to_vec()))),
    ],
};
