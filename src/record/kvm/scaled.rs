//! A time-stamp counter that stands still while the guest runs, so that RDTSC anywhere reads what the recorder knows.
//!
//! Where the host can scale it (KVM_CAP_TSC_CONTROL), the guest's counter runs at 1 kHz: it is the same for a
//! millisecond (KVM API, 4.55). Before the guest is entered it is set to the wanted value by its offset, which moves it
//! at once and exactly (the kernel's virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET; a write of IA32_TSC may be made
//! something else, for several processors to agree). The offset does not move the moments at which the counter changes
//! ("flips"): these are the host counter's. They are learnt by watching one; a guest leaves before the next, and
//! afterwards the counter must not have changed.
//!
//! A processor's ratio is a fixed-point number, so that a period is not quite a millisecond; it is measured, too.
//! `probe.rs` tries all of it before anybody relies on it.

use super::error::KvmError;
use super::vm::Vm;
use std::time::{Duration, Instant};

/// The guest's counter, in kHz.
const KHZ: u32 = 1;
/// The period of the counter in picoseconds as it should be.
const PERIOD_PS: u64 = 1_000_000_000;
/// A measured period is believed if it is within so many picoseconds of that.
const PERIOD_TOLERANCE_PS: u64 = PERIOD_PS / 100;
/// It is measured over so many flips at least and at most.
const MEASURED_FLIPS: std::ops::RangeInclusive<u64> = 16..=1 << 20;
/// A kick is made so long before the flip: it has to arrive.
const MARGIN_NS: u64 = 100_000;
/// Shorter slices are not worth entering the guest for.
const SLICE_LEAST_NS: u64 = 50_000;
/// A flip is known if it was seen to be between two moments no further apart.
const SEEN_NS: u64 = 20_000;
/// A flip may come earlier or later than expected by so much.
const EXPECTED_NS: u64 = MARGIN_NS / 2;
/// After so long the moments have to be learnt again.
const FRESH_NS: u64 = 20_000_000;
/// Flips are watched for so long before it is given up: somebody else uses the host.
const WATCH_NS: u64 = 20_000_000;
/// The counter is set so often before it is given up.
const TRIES: u32 = 8;
/// A kick has to be armed within this, or it would come too late.
const ARMED_NS: u64 = 20_000;
/// The shortest slice, and the one where nobody knows when the counter changes.
const SLICE_LEAST: Duration = Duration::from_nanos(SLICE_LEAST_NS);

/// The guest's counter as it is seen from outside.
trait Counter {
    /// The host's clock, in nanoseconds.
    fn now(&mut self) -> u64;
    /// What the guest would read.
    fn read(&mut self) -> Result<u64, KvmError>;
    /// Adds to it (wrapping).
    fn shift(&mut self, by: u64) -> Result<(), KvmError>;
}

/// When the counter flips, as far as is known. A count is what the counter would be had it never been shifted.
#[derive(Clone, Copy, Debug)]
struct Phase {
    /// A flip that was seen, and the count that began with it.
    flip_ns: u64,
    count: u64,
    /// An older one, from which the period is measured.
    since_ns: u64,
    since_count: u64,
    period_ps: u64,
}

impl Phase {
    fn new(count: u64, flip_ns: u64) -> Phase {
        Phase {
            flip_ns,
            count,
            since_ns: flip_ns,
            since_count: count,
            period_ps: PERIOD_PS,
        }
    }

    /// A flip was seen.
    fn learn(&mut self, count: u64, flip_ns: u64) {
        (self.count, self.flip_ns) = (count, flip_ns);
        let counts = count.wrapping_sub(self.since_count);
        if counts < *MEASURED_FLIPS.start() {
            return;
        }
        if MEASURED_FLIPS.contains(&counts) {
            let ns = flip_ns.saturating_sub(self.since_ns);
            let period_ps = ns.saturating_mul(1000) / counts;
            if period_ps.abs_diff(PERIOD_PS) <= PERIOD_TOLERANCE_PS {
                self.period_ps = period_ps;
            }
        }
        (self.since_count, self.since_ns) = (count, flip_ns);
    }

    /// Nanoseconds from `now` to the next flip, if the counter was seen at `count` as expected and the phase is fresh.
    fn left(&self, count: u64, now: u64) -> Option<u64> {
        if now.saturating_sub(self.flip_ns) > FRESH_NS {
            return None;
        }
        let counts = count.wrapping_sub(self.count);
        if counts > 2 * FRESH_NS * 1000 / PERIOD_PS {
            return None;
        }
        let begins = self.flip_ns + counts * self.period_ps / 1000;
        let ends = self.flip_ns + (counts + 1) * self.period_ps / 1000;
        let expected = now + EXPECTED_NS >= begins && now <= ends + EXPECTED_NS;
        expected.then(|| ends.saturating_sub(now))
    }
}

/// Holds the counter.
#[derive(Default)]
struct Holder {
    phase: Option<Phase>,
    /// All that it was shifted by.
    shifted: u64,
    /// What it was set to last.
    held: u64,
}

impl Holder {
    /// Sets the counter to `value`. Gives up to when the guest may run, on the counter's clock; `None` if nobody knows.
    fn hold(&mut self, counter: &mut impl Counter, value: u64) -> Result<Option<u64>, KvmError> {
        self.held = value;
        for _ in 0..TRIES {
            let there = counter.read()?;
            if there != value {
                let by = value.wrapping_sub(there);
                counter.shift(by)?;
                self.shifted = self.shifted.wrapping_add(by);
            }
            // Read behind the setting: it may have changed in between.
            let now = counter.now();
            if counter.read()? != value {
                continue;
            }
            let count = value.wrapping_sub(self.shifted);
            match self.phase.and_then(|phase| phase.left(count, now)) {
                Some(left) if left >= MARGIN_NS + SLICE_LEAST_NS => {
                    return Ok(Some(now + (left - MARGIN_NS)));
                }
                _ => {
                    if !self.watch(counter)? {
                        break;
                    }
                }
            }
        }
        let there = counter.read()?;
        counter.shift(value.wrapping_sub(there))?;
        self.shifted = self.shifted.wrapping_add(value.wrapping_sub(there));
        Ok(None)
    }

    /// Whether the counter still is what it was set to. If not, what was learnt is forgotten.
    fn is_held(&mut self, counter: &mut impl Counter) -> Result<bool, KvmError> {
        let held = counter.read()? == self.held;
        if !held {
            self.phase = None;
        }
        Ok(held)
    }

    /// Watches the counter until it flips; gives whether the moment was seen.
    fn watch(&mut self, counter: &mut impl Counter) -> Result<bool, KvmError> {
        let start = counter.now();
        let mut before = start;
        let mut there = counter.read()?;
        loop {
            let now = counter.now();
            let next = counter.read()?;
            let after = counter.now();
            if next == there.wrapping_add(1) && after.saturating_sub(before) <= SEEN_NS {
                let flip = before + (after - before) / 2;
                let count = next.wrapping_sub(self.shifted);
                match &mut self.phase {
                    Some(phase) => phase.learn(count, flip),
                    None => self.phase = Some(Phase::new(count, flip)),
                }
                return Ok(true);
            }
            if after.saturating_sub(start) > WATCH_NS {
                return Ok(false);
            }
            (before, there) = (now, next);
        }
    }
}

/// The counter of a virtual machine.
struct Guest<'a> {
    vm: &'a mut Vm,
    epoch: Instant,
}

impl Counter for Guest<'_> {
    fn now(&mut self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn read(&mut self) -> Result<u64, KvmError> {
        self.vm.tsc()
    }

    fn shift(&mut self, by: u64) -> Result<(), KvmError> {
        self.vm.shift_tsc(by)
    }
}

/// The time-stamp counter of one virtual machine, which is held still.
pub struct Scaled {
    holder: Holder,
    epoch: Instant,
}

impl Scaled {
    /// Makes the counter of a machine slow.
    pub fn new(vm: &mut Vm) -> Result<Scaled, KvmError> {
        vm.scale_tsc(KHZ)?;
        Ok(Scaled {
            holder: Holder::default(),
            epoch: Instant::now(),
        })
    }

    /// Sets the counter to `value`, and a kick before it changes, in so much time at most. Gives whether it is known
    /// when it changes. To be called right before the guest is entered.
    pub fn kick_in(
        &mut self,
        vm: &mut Vm,
        value: u64,
        longest: Duration,
    ) -> Result<bool, KvmError> {
        let start = Instant::now();
        let left = || longest.saturating_sub(start.elapsed()).max(SLICE_LEAST);
        for _ in 0..TRIES {
            let epoch = self.epoch;
            let mut guest = Guest { vm, epoch };
            let Some(until) = self.holder.hold(&mut guest, value)? else {
                break;
            };
            let now = guest.now();
            let steady = Duration::from_nanos(until.saturating_sub(now));
            guest.vm.kick_in(steady.min(left()));
            // Once it is armed nothing can delay it: before, this thread may have been asleep.
            if guest.now() - now <= ARMED_NS {
                return Ok(true);
            }
        }
        vm.kick_in(SLICE_LEAST);
        Ok(false)
    }

    /// Whether the counter still is what it was set to.
    pub fn is_held(&mut self, vm: &mut Vm) -> Result<bool, KvmError> {
        let epoch = self.epoch;
        self.holder.is_held(&mut Guest { vm, epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose clock goes on by a call's time, and now and then by much more.
    struct Host {
        ns: u64,
        call_ns: u64,
        offset: u64,
        /// Picoseconds between flips, and where the first is.
        period_ps: u64,
        first_ns: u64,
        random: u64,
        /// One call of so many takes half a millisecond; 0: none does.
        stalls: u64,
    }

    impl Host {
        fn new(period_ps: u64, stalls: u64) -> Host {
            Host {
                ns: 7_654_321,
                call_ns: 700,
                offset: 0,
                period_ps,
                first_ns: 123_456,
                random: 1,
                stalls,
            }
        }

        fn next(&mut self) -> u64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random
        }

        fn pass(&mut self) {
            self.ns += self.call_ns;
            if self.stalls != 0 && self.next().is_multiple_of(self.stalls) {
                self.ns += 500_000;
            }
        }

        fn value_at(&self, ns: u64) -> u64 {
            let counts = u128::from(ns - self.first_ns) * 1000 / u128::from(self.period_ps);
            (counts as u64).wrapping_add(self.offset)
        }
    }

    impl Counter for Host {
        fn now(&mut self) -> u64 {
            self.pass();
            self.ns
        }

        fn read(&mut self) -> Result<u64, KvmError> {
            self.pass();
            Ok(self.value_at(self.ns))
        }

        fn shift(&mut self, by: u64) -> Result<(), KvmError> {
            self.pass();
            self.offset = self.offset.wrapping_add(by);
            Ok(())
        }
    }

    /// Runs a guest whose slices end by kicks or earlier, now and then after a pause. Gives how many slices there were
    /// in which the counter changed, and the nanoseconds in the guest and in all.
    fn run(host: &mut Host, scaled: &mut Holder, slices: u64) -> (u64, u64, u64) {
        let (mut changed, mut inside) = (0, 0);
        let start = host.ns;
        for n in 0..slices {
            let value = match n % 5 {
                0 => u64::MAX - n,
                _ => n / 7 * 1_000_003,
            };
            let until = scaled.hold(host, value).unwrap().expect("a phase");
            assert_eq!(host.value_at(host.ns), value);
            let longest = until - host.ns;
            assert!(longest >= SLICE_LEAST_NS / 2, "{longest}");
            // The kick takes a while to arrive.
            let ran = match host.next() % 3 {
                0 => host.next() % longest,
                _ => longest + host.next() % 40_000,
            };
            inside += ran;
            host.ns += ran;
            let last = host.value_at(host.ns);
            assert_eq!(
                scaled.is_held(host).unwrap(),
                host.value_at(host.ns) == value
            );
            changed += u64::from(last != value);
            if n % 97 == 0 {
                host.ns += host.next() % 3_000_000_000;
            }
            if n % 11 == 0 {
                host.ns += host.next() % 300_000;
            }
        }
        (changed, inside, host.ns - start)
    }

    #[test]
    fn the_counter_stands_still_in_every_slice() {
        // As it should be; as AMD's 32 bits of fraction make it of 3 GHz; and as a bad clock of the host's does.
        for period_ps in [PERIOD_PS, 1_000_453_000, 999_500_000, 1_004_000_000] {
            let mut host = Host::new(period_ps, 0);
            let mut scaled = Holder::default();
            let (changed, ..) = run(&mut host, &mut scaled, 5000);
            assert_eq!(changed, 0, "a period of {period_ps} ps");
            let measured = scaled.phase.unwrap().period_ps;
            assert!(measured.abs_diff(period_ps) < 1_000_000, "{measured}");
        }
    }

    #[test]
    fn most_of_the_time_is_the_guests() {
        let mut host = Host::new(PERIOD_PS, 0);
        let mut scaled = Holder::default();
        let start = host.ns;
        let mut inside = 0;
        for _ in 0..1000 {
            let until = scaled.hold(&mut host, 17).unwrap().unwrap();
            inside += until - host.ns;
            host.ns = until + 10_000;
            assert!(scaled.is_held(&mut host).unwrap());
        }
        let all = host.ns - start;
        assert!(inside * 100 > all * 80, "{inside} of {all}");
    }

    #[test]
    fn flips_at_another_time_are_noticed_and_learnt() {
        let mut host = Host::new(PERIOD_PS, 0);
        let mut scaled = Holder::default();
        for n in 1..50u64 {
            // As after the host slept, or on a processor whose counter is another.
            host.first_ns += n * 20_000;
            let mut changed = 0;
            for value in 0..30 {
                let until = scaled.hold(&mut host, value).unwrap().unwrap();
                host.ns = until + MARGIN_NS / 4;
                let held = scaled.is_held(&mut host).unwrap();
                assert_eq!(held, host.value_at(host.ns) == value);
                changed += u32::from(!held);
            }
            assert!(changed <= 1, "{changed} with {n}");
        }
    }

    #[test]
    fn a_change_is_noticed() {
        let mut host = Host::new(PERIOD_PS, 0);
        let mut scaled = Holder::default();
        scaled.hold(&mut host, 1 << 40).unwrap().unwrap();
        assert!(scaled.is_held(&mut host).unwrap());
        host.ns += 1_100_000;
        assert!(!scaled.is_held(&mut host).unwrap());
        scaled.hold(&mut host, 1 << 40).unwrap().unwrap();
        assert!(scaled.is_held(&mut host).unwrap());
    }

    #[test]
    fn a_busy_host_is_no_trap() {
        // A call of a hundred takes half a millisecond: it works, slowly, and what was not held is noticed.
        let mut host = Host::new(PERIOD_PS, 100);
        let mut scaled = Holder::default();
        let mut held = 0;
        for n in 0..200 {
            held += u32::from(scaled.hold(&mut host, n).unwrap().is_some());
            host.ns += 100_000;
            let now = host.value_at(host.ns) == n;
            assert!(now || !scaled.is_held(&mut host).unwrap());
        }
        assert!(held > 50, "{held}");
        // Every second call: nothing can be known, and nobody hangs.
        let mut host = Host::new(PERIOD_PS, 2);
        for n in 0..20 {
            scaled.hold(&mut host, n).unwrap();
        }
        // A counter that is not slow at all.
        let mut host = Host::new(1000, 0);
        assert_eq!(scaled.hold(&mut host, 5).unwrap(), None);
    }
}
