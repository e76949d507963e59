//! Clocks of devices as exact fractions of guest time.
//!
//! A period in whole nanoseconds drifts (838 ns for the PIT is wrong by 114 ppm), so that ticks are always
//! computed from the time since power-on, in 128 bits: no rounding error is ever carried on.

use crate::map::NS_PER_S;

/// A clock of so many ticks a second, whose first tick comes 1/`hz` after power-on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub hz: u64,
}

impl Clock {
    /// Ticks that have passed at `ns`.
    pub fn ticks_at(self, ns: u64) -> u64 {
        saturate(u128::from(ns) * u128::from(self.hz) / u128::from(NS_PER_S))
    }

    /// The first nanosecond at which `ticks` have passed: the inverse of [`Clock::ticks_at`].
    pub fn ns_of(self, ticks: u64) -> u64 {
        saturate((u128::from(ticks) * u128::from(NS_PER_S)).div_ceil(u128::from(self.hz)))
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_begins_at_the_first_nanosecond_that_counts_it() {
        for hz in [1, 32_768, 1_193_182, 3_579_545, 25_000_000, 999_999_937] {
            let clock = Clock { hz };
            for ticks in [1, 2, 3, 1000, 1_193_181, 1_193_182, 10_000_000_019] {
                let ns = clock.ns_of(ticks);
                assert_eq!(clock.ticks_at(ns), ticks, "{hz} Hz, {ticks} ticks");
                assert_eq!(clock.ticks_at(ns - 1), ticks - 1, "{hz} Hz, {ticks} ticks");
            }
        }
    }

    #[test]
    fn a_year_of_seconds_is_a_year_of_ticks() {
        let year_s = 365 * 24 * 3600;
        let clock = Clock { hz: 1_193_182 };
        assert_eq!(clock.ticks_at(year_s * NS_PER_S), year_s * 1_193_182);
    }
}
