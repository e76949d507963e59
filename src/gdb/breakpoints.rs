//! The breakpoints and watchpoints that GDB has set, with the agent expressions that came along.
//!
//! Setting one twice is setting it once, as the protocol demands. Guest memory is never patched: software and
//! hardware breakpoints differ in nothing but the word in the stop reply.

use std::collections::{BTreeMap, BTreeSet};

use crate::timeline::api::{Stops, Watchpoint};

/// At most so many of all kinds together: more than anybody sets, and a bound for memory and for the engine.
pub const COUNT_MAX: usize = 10_000;

/// The two packets that set a breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Z0.
    Software,
    /// Z1.
    Hardware,
}

/// Agent expressions of a breakpoint (GDB manual, appendix F), undecoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expressions {
    /// The breakpoint stops when one of them is not zero, or when there are none.
    pub conditions: Vec<Vec<u8>>,
    /// Run at each hit.
    pub commands: Vec<Vec<u8>>,
}

/// All that is set.
#[derive(Debug, Default)]
pub struct Breakpoints {
    code: BTreeMap<(u64, Kind), Expressions>,
    watched: BTreeSet<Watchpoint>,
    /// What came with the Z packet that is being handled.
    pub arriving: Expressions,
}

impl Breakpoints {
    /// Sets a breakpoint, with the expressions in `arriving`. `false` when there are too many.
    pub fn add(&mut self, addr: u64, kind: Kind) -> bool {
        let expressions = std::mem::take(&mut self.arriving);
        if self.is_full() && !self.code.contains_key(&(addr, kind)) {
            return false;
        }
        self.code.insert((addr, kind), expressions);
        true
    }

    /// Takes a breakpoint away, if there is one.
    pub fn remove(&mut self, addr: u64, kind: Kind) {
        self.code.remove(&(addr, kind));
    }

    /// Sets a watchpoint. `false` when there are too many.
    pub fn watch(&mut self, watchpoint: Watchpoint) -> bool {
        if self.is_full() && !self.watched.contains(&watchpoint) {
            return false;
        }
        self.watched.insert(watchpoint);
        true
    }

    /// Takes a watchpoint away, if there is one.
    pub fn unwatch(&mut self, watchpoint: Watchpoint) {
        self.watched.remove(&watchpoint);
    }

    fn is_full(&self) -> bool {
        self.code.len() + self.watched.len() >= COUNT_MAX
    }

    /// Which kind of breakpoint is at an address; software first.
    pub fn kind_at(&self, addr: u64) -> Option<Kind> {
        self.at(addr).next().map(|(kind, _)| kind)
    }

    /// The breakpoints at an address.
    pub fn at(&self, addr: u64) -> impl Iterator<Item = (Kind, &Expressions)> {
        self.code
            .range((addr, Kind::Software)..=(addr, Kind::Hardware))
            .map(|(&(_, kind), expressions)| (kind, expressions))
    }

    /// What the timeline is to stop at.
    pub fn stops(&self) -> Stops {
        let mut breakpoints: Vec<u64> = self.code.keys().map(|&(addr, _)| addr).collect();
        breakpoints.dedup();
        Stops {
            breakpoints,
            watchpoints: self.watched.iter().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::api::WatchKind;

    #[test]
    fn setting_twice_is_setting_once() {
        let mut b = Breakpoints::default();
        let watchpoint = Watchpoint {
            addr: 8,
            len: 4,
            kind: WatchKind::Write,
        };
        for _ in 0..2 {
            assert!(b.add(5, Kind::Hardware) && b.add(5, Kind::Software) && b.watch(watchpoint));
        }
        assert_eq!(
            b.stops(),
            Stops {
                breakpoints: vec![5],
                watchpoints: vec![watchpoint]
            }
        );
        assert_eq!(b.kind_at(5), Some(Kind::Software));
        b.remove(5, Kind::Software);
        assert_eq!(b.kind_at(5), Some(Kind::Hardware));
        b.remove(5, Kind::Hardware);
        b.unwatch(watchpoint);
        assert!(b.stops().is_empty());
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut b = Breakpoints::default();
        for addr in 0..COUNT_MAX as u64 {
            assert!(b.add(addr, Kind::Software));
        }
        assert!(!b.add(1 << 40, Kind::Software));
        assert!(!b.watch(Watchpoint {
            addr: 0,
            len: 1,
            kind: WatchKind::Read
        }));
        assert!(b.add(7, Kind::Software), "known ones can be set again");
    }
}
