use super::*;
use crate::map::NS_PER_S;

/// A timer that is driven by clock numbers.
struct Timer {
    pit: Pit,
    out: Effects,
    clock: u64,
}

impl Timer {
    fn new() -> Timer {
        Timer {
            pit: Pit::new(),
            out: Effects::default(),
            clock: 0,
        }
    }
    fn ns(&self) -> u64 {
        CLOCK.ns_of(self.clock)
    }
    fn at(&mut self, clock: u64) -> &mut Timer {
        self.clock = clock;
        self.pit.advance(self.ns(), &mut self.out);
        self
    }
    fn w(&mut self, reg: u16, values: &[u8]) -> &mut Timer {
        for &value in values {
            self.pit
                .write(self.ns(), reg, 1, value.into(), &mut self.out);
        }
        self
    }
    fn r(&mut self, reg: u16) -> u8 {
        self.pit.read(self.ns(), reg, 1, &mut self.out) as u8
    }
    /// Counter 2's count through the latch.
    fn count2(&mut self) -> u16 {
        self.w(CONTROL, &[0x80]);
        u16::from_le_bytes([self.r(2), self.r(2)])
    }
    fn out2(&mut self) -> bool {
        self.r(PORT_B) & PORT_B_OUT2 != 0
    }
    fn lines(&mut self) -> Vec<bool> {
        self.out.lines.drain(..).map(|(_, level)| level).collect()
    }
    /// OUT of counter 2 over clocks, as a waveform.
    fn wave(&mut self, clocks: std::ops::Range<u64>) -> String {
        clocks
            .map(|clock| if self.at(clock).out2() { '-' } else { '_' })
            .collect()
    }
}

#[test]
fn mode_0_counts_down_once_and_n_plus_one_clocks_after_the_write_out_rises() {
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb0]).at(100).w(2, &[4, 0]);
    assert_eq!(t.wave(100..108), "_____---");
    t.w(CONTROL, &[0xb0]).at(200).w(2, &[0x34, 0x12]);
    assert_eq!(t.at(201).count2(), 0x1234);
    assert_eq!(t.at(202).count2(), 0x1233);
    assert_eq!(t.at(201 + 0x1234).count2(), 0);
    assert_eq!(t.at(202 + 0x1234).count2(), 0xffff, "it goes on counting");
    assert!(t.out2());
    t.w(2, &[1]);
    assert!(!t.out2(), "the first byte of a new count drops OUT");
}

#[test]
fn mode_0_is_held_by_its_gate() {
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb0]).w(2, &[100, 0]);
    t.at(11).w(PORT_B, &[0]);
    assert_eq!(t.count2(), 90);
    assert_eq!(t.at(500).count2(), 90);
    t.w(PORT_B, &[1]);
    assert!(!t.at(589).out2());
    assert!(t.at(590).out2());
}

#[test]
fn mode_1_is_a_one_shot_of_the_gate() {
    let mut t = Timer::new();
    t.w(CONTROL, &[0xb2]).w(2, &[3, 0]);
    assert!(t.at(50).out2(), "no trigger yet");
    t.w(PORT_B, &[1]);
    assert_eq!(t.wave(50..56), "-___--");
    t.w(PORT_B, &[0]).w(PORT_B, &[1]);
    assert_eq!(t.wave(56..61), "___--", "retriggered");
}

#[test]
fn mode_2_is_low_for_one_clock_in_n() {
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb4]).w(2, &[4, 0]);
    assert_eq!(t.wave(0..13), "----_---_---_");
    assert_eq!(t.at(13).count2(), 4);
    assert_eq!(t.at(14).count2(), 3);
    // A new count waits for the end of the period.
    t.w(2, &[2, 0]);
    assert_eq!(t.wave(14..22), "--_-_-_-");
    t.w(PORT_B, &[0]);
    assert_eq!(t.wave(22..26), "----", "no gate, no pulses");
    t.w(PORT_B, &[1]);
    assert_eq!(
        t.wave(26..31),
        "-_-_-",
        "a whole period from the gate's rise at 25"
    );
}

#[test]
fn mode_3_is_a_square_wave_with_the_longer_half_high() {
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb6]).w(2, &[4, 0]);
    assert_eq!(t.wave(0..11), "---__--__--");
    assert_eq!(t.at(13).count2(), 4);
    assert_eq!(t.at(14).count2(), 2);
    assert_eq!(t.at(15).count2(), 4);
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb6]).w(2, &[5, 0]);
    assert_eq!(t.wave(0..12), "----__---__-");
}

#[test]
fn mode_3_takes_a_new_count_at_the_end_of_the_half() {
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb6]).w(2, &[8, 0]);
    // High at 1 to 4; the low half that follows is already the new count's.
    t.at(2).w(2, &[4, 0]);
    assert_eq!(t.wave(2..13), "---__--__--");
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb6]).w(2, &[8, 0]);
    t.at(6).w(2, &[4, 0]);
    assert_eq!(t.wave(6..15), "___--__--");
}

#[test]
fn modes_4_and_5_strobe_once() {
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb8]).w(2, &[3, 0]);
    assert_eq!(t.wave(0..8), "----_---");
    let mut t = Timer::new();
    t.w(CONTROL, &[0xba]).w(2, &[3, 0]);
    assert!(t.at(9).out2());
    t.w(PORT_B, &[1]);
    assert_eq!(t.wave(9..16), "----_--");
}

#[test]
fn bcd_counts_in_decimal() {
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb1]).w(2, &[0x00, 0x10]);
    assert_eq!(t.at(2).count2(), 0x0999);
    assert_eq!(t.at(1002).count2(), 0x9999);
}

#[test]
fn read_back_latches_status_before_count() {
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb4]);
    t.w(CONTROL, &[0xe8]);
    assert_eq!(t.r(2), 0x80 | 0x40 | 0x34, "nothing loaded: null count");
    t.w(2, &[0x10, 0]);
    t.at(5).w(CONTROL, &[0xc8]);
    t.at(9);
    assert_eq!((t.r(2), t.r(2), t.r(2)), (0x80 | 0x34, 12, 0));
    t.w(CONTROL, &[0x80]).at(10).w(CONTROL, &[0x80]);
    assert_eq!(t.r(2), 8, "the second latch is ignored");
}

#[test]
fn single_byte_access_modes() {
    let mut t = Timer::new();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xa0]).w(2, &[0x12]);
    assert_eq!((t.at(1).r(2), t.r(2)), (0x12, 0x12));
    t.w(CONTROL, &[0x90]).w(2, &[0x12]);
    assert_eq!(t.at(2).r(2), 0x12);
}

#[test]
fn irq0_follows_counter_0_and_missed_pulses_are_one_edge() {
    let mut t = Timer::new();
    t.w(CONTROL, &[0x34]);
    t.w(0, &[0xa9, 0x04]); // 1193: about a millisecond
    assert_eq!(t.lines(), []);
    let deadline = t.pit.deadline_ns().expect("the first low clock");
    assert_eq!(deadline, CLOCK.ns_of(1193));
    t.at(1192);
    assert_eq!(t.lines(), []);
    t.at(1193);
    assert_eq!(t.lines(), [false]);
    t.at(1194);
    assert_eq!(t.lines(), [true]);
    t.at(1194 + 1193 * 1000);
    assert_eq!(t.lines(), [false, true]);
    // One-shot by mode 4, as Linux's clock event device does it.
    t.w(CONTROL, &[0x38]);
    assert_eq!(t.pit.deadline_ns(), None);
    t.w(0, &[10, 0]);
    let clock = t.clock;
    t.at(clock + 100);
    assert_eq!(t.lines(), [false, true]);
    assert_eq!(t.pit.deadline_ns(), None);
}

#[test]
fn hours_of_ticks_do_not_drift() {
    // 11932 clocks are not a whole number of nanoseconds. Following deadlines for hours must give exactly as
    // many rising edges as the fraction says.
    let mut t = Timer::new();
    t.w(CONTROL, &[0x34]).w(0, &[0x9c, 0x2e]);
    let hours_ns = 3 * 3600 * NS_PER_S;
    let mut rises = 0u64;
    while let Some(at) = t.pit.deadline_ns().filter(|&at| at <= hours_ns) {
        t.pit.advance(at, &mut t.out);
        rises += t.out.lines.drain(..).filter(|&(_, level)| level).count() as u64;
    }
    let clocks = u128::from(hours_ns) * u128::from(PIT_HZ) / u128::from(NS_PER_S);
    assert_eq!(u128::from(rises), (clocks - 1) / 11932);
}

#[test]
fn linux_calibrates_against_counter_2() {
    // pit_calibrate_tsc: mode 0 on counter 2, wait for OUT2 in port 0x61, 50 ms.
    let mut t = Timer::new();
    let latch = (PIT_HZ / 20) as u16;
    let [low, high] = latch.to_le_bytes();
    t.w(PORT_B, &[1]).w(CONTROL, &[0xb0]).w(2, &[low, high]);
    let mut now_ns = 0;
    while t.pit.read(now_ns, PORT_B, 1, &mut t.out) as u8 & PORT_B_OUT2 == 0 {
        now_ns += 8;
    }
    assert!(now_ns.abs_diff(50_000_000) < 2000, "{now_ns}");
}
