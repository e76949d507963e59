//! Which checkpoints to keep: a pure function.
//!
//! Dense near the position of the user and sparse far away: the gap between two checkpoints may grow in proportion
//! to the distance, so that going back by any amount costs at most a fixed share of that amount, and going back
//! by little costs little.

use crate::Tick;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Chooses the checkpoints to keep so that the sum of their costs is at most `budget`.
///
/// `ticks` are strictly ascending; `costs[i]` is what `ticks[i]` costs, in the unit of `budget`. The answer has
/// one entry a checkpoint, true for those to keep. The first is always kept, even where it alone costs more than
/// the budget: everything can be reached from it.
///
/// Checkpoints are given up one after the other, always the one whose absence leaves the smallest gap in
/// proportion to its distance from `position` (the farther from the position where that is equal). Hence any
/// gap that was made is at most as long as any two neighbouring gaps that lie farther away, taken together.
///
/// # Panics
/// If the slices differ in length.
pub fn keep(ticks: &[Tick], position: Tick, costs: &[u64], budget: u64) -> Vec<bool> {
    assert_eq!(ticks.len(), costs.len(), "one cost a checkpoint");
    let count = ticks.len();
    let mut kept = vec![true; count];
    let mut total: u128 = costs.iter().map(|&cost| u128::from(cost)).sum();
    if total <= u128::from(budget) || count < 2 {
        return kept;
    }
    // A doubly linked list of those still kept. The last one has nobody after it: its gap is taken to end at the
    // position if that lies behind it, and at the last itself otherwise.
    let mut before: Vec<usize> = (0..count).map(|i| i.saturating_sub(1)).collect();
    let mut after: Vec<usize> = (1..=count).collect();
    let score = |before: usize, i: usize, after: usize| {
        let end = if after < count {
            ticks[after]
        } else {
            position.max(ticks[i])
        };
        Score::new(end - ticks[before], ticks[i].abs_diff(position))
    };
    let mut heap: BinaryHeap<Reverse<(Score, usize)>> = (1..count)
        .map(|i| Reverse((score(before[i], i, after[i]), i)))
        .collect();
    while total > u128::from(budget) {
        let Some(Reverse((found, i))) = heap.pop() else {
            break;
        };
        // Entries are not updated when a neighbour goes: scores only ever grow, so a stale one comes up too early
        // and is put back with what it is now.
        let now = score(before[i], i, after[i]);
        if now != found {
            heap.push(Reverse((now, i)));
            continue;
        }
        kept[i] = false;
        total -= u128::from(costs[i]);
        after[before[i]] = after[i];
        if after[i] < count {
            before[after[i]] = before[i];
        }
    }
    kept
}

/// Gap over distance, compared exactly; where equal, what is farther away is smaller.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Score {
    gap: u64,
    distance: u64,
}

impl Score {
    fn new(gap: u64, distance: u64) -> Score {
        // A checkpoint at the position itself has a distance too, or nothing could be compared with it.
        Score {
            gap,
            distance: distance.saturating_add(1),
        }
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Score) -> std::cmp::Ordering {
        let left = u128::from(self.gap) * u128::from(other.distance);
        let right = u128::from(other.gap) * u128::from(self.distance);
        left.cmp(&right).then(other.distance.cmp(&self.distance))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_ticks() -> impl Strategy<Value = (Vec<Tick>, Tick, Vec<u64>, u64)> {
        prop::collection::btree_set(prop_oneof![0..100u64, 0..1_000_000u64, any::<u64>()], 1..80)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>())
            .prop_flat_map(|ticks| {
                let count = ticks.len();
                let last = ticks[count - 1];
                (
                    Just(ticks),
                    prop_oneof![0..=last, any::<u64>()],
                    prop::collection::vec(prop_oneof![0..100u64, Just(u64::MAX)], count),
                    prop_oneof![0..3000u64, any::<u64>()],
                )
            })
    }

    fn chosen<T: Copy>(of: &[T], kept: &[bool]) -> Vec<T> {
        of.iter()
            .zip(kept)
            .filter(|(_, kept)| **kept)
            .map(|(&item, _)| item)
            .collect()
    }

    proptest! {
        #[test]
        fn stays_within_the_budget_and_keeps_the_first((ticks, position, costs, budget) in some_ticks()) {
            let kept = keep(&ticks, position, &costs, budget);
            prop_assert!(kept[0]);
            let total: u128 = chosen(&costs, &kept).iter().map(|&cost| u128::from(cost)).sum();
            prop_assert!(total <= u128::from(budget.max(costs[0])));
        }

        #[test]
        fn what_fits_is_kept_whole((ticks, position, costs, _) in some_ticks()) {
            let costs: Vec<u64> = costs.iter().map(|cost| cost % 100).collect();
            prop_assert!(keep(&ticks, position, &costs, costs.iter().sum()).iter().all(|&kept| kept));
        }

        #[test]
        fn choosing_again_changes_nothing((ticks, position, costs, budget) in some_ticks()) {
            let kept = keep(&ticks, position, &costs, budget);
            let again = keep(&chosen(&ticks, &kept), position, &chosen(&costs, &kept), budget);
            prop_assert!(again.iter().all(|&kept| kept));
        }

        /// Behind the position, of an even row: a gap is no longer than two neighbouring gaps farther away.
        #[test]
        fn density_falls_with_distance(count in 10..300u64, spacing in 1..5000u64, budget in 5..100u64) {
            let ticks: Vec<Tick> = (0..count).map(|i| i * spacing).collect();
            let position = ticks[ticks.len() - 1];
            let kept = keep(&ticks, position, &vec![1; ticks.len()], budget);
            let left = chosen(&ticks, &kept);
            prop_assert_eq!(left.len() as u64, budget.min(count));
            for near in 1..left.len().saturating_sub(1) {
                let gap = left[near + 1] - left[near];
                for far in 1..near {
                    let two = left[far + 1] - left[far - 1];
                    prop_assert!(gap <= two, "gap {gap} after {}, but {two} around {}", left[near], left[far]);
                }
            }
        }
    }

    #[test]
    fn gaps_grow_in_proportion_to_the_distance() {
        let ticks: Vec<Tick> = (0..=100_000).collect();
        let kept = keep(&ticks, 100_000, &vec![1; ticks.len()], 60);
        let left = chosen(&ticks, &kept);
        assert_eq!(left.len(), 60);
        assert_eq!(left[59], 100_000);
        assert_eq!(left[58], 99_999);
        for pair in left.windows(2).skip(1) {
            let distance = 100_000 - pair[1] + 1;
            assert!(
                pair[1] - pair[0] <= distance,
                "a gap from {} to {}",
                pair[0],
                pair[1]
            );
        }
    }

    #[test]
    fn nothing_to_choose_from() {
        assert!(keep(&[], 5, &[], 0).is_empty());
        assert_eq!(keep(&[7], 5, &[100], 0), [true]);
        assert_eq!(keep(&[7, 8], 8, &[100, 1], 0), [true, false]);
    }
}
