use super::*;

/// 2026-11-21 (a Saturday) 13:59:58.
const EPOCH_S: u64 = 20_778 * 86_400 + 13 * 3600 + 59 * 60 + 58;

struct Clock {
    rtc: Rtc,
    out: Effects,
    now_ns: u64,
}

impl Clock {
    fn new() -> Clock {
        Clock {
            rtc: Rtc::new(EPOCH_S, 256 << 20, 1),
            out: Effects::default(),
            now_ns: 0,
        }
    }
    fn at(&mut self, now_ns: u64) -> &mut Clock {
        self.now_ns = now_ns;
        self.rtc.advance(now_ns, &mut self.out);
        self
    }
    fn r(&mut self, index: u8) -> u8 {
        self.rtc
            .write(self.now_ns, INDEX, 1, index.into(), &mut self.out);
        self.rtc.read(self.now_ns, DATA, 1, &mut self.out) as u8
    }
    fn w(&mut self, index: u8, value: u8) {
        self.rtc
            .write(self.now_ns, INDEX, 1, index.into(), &mut self.out);
        self.rtc
            .write(self.now_ns, DATA, 1, value.into(), &mut self.out);
    }
    fn time(&mut self) -> [u8; 8] {
        TIME.map(|reg| self.r(reg))
    }
    fn lines(&mut self) -> Vec<bool> {
        self.out.lines.drain(..).map(|(_, level)| level).collect()
    }
}

#[test]
fn shows_the_epoch_and_counts_in_bcd() {
    let mut c = Clock::new();
    assert_eq!(c.time(), [0x58, 0x59, 0x13, 7, 0x21, 0x11, 0x26, 0x20]);
    c.at(2 * NS_PER_S - 1);
    assert_eq!(c.time()[..3], [0x59, 0x59, 0x13]);
    c.at(2 * NS_PER_S);
    assert_eq!(c.time()[..3], [0x00, 0x00, 0x14]);
    assert_eq!(c.r(REG_D), 0x80);
}

#[test]
fn binary_and_twelve_hours() {
    let mut c = Clock::new();
    c.w(REG_B, B_BINARY);
    assert_eq!(c.time(), [58, 59, 0x81, 7, 21, 11, 26, 20]);
    c.w(REG_B, 0);
    assert_eq!(c.r(HOURS), 0x81);
    c.at(10 * 3600 * NS_PER_S + 2 * NS_PER_S);
    assert_eq!(c.r(HOURS), 0x12, "midnight is 12 am");
    c.at(22 * 3600 * NS_PER_S + 2 * NS_PER_S);
    assert_eq!(c.r(HOURS), 0x92, "noon is 12 pm");
}

#[test]
fn update_in_progress_is_announced_244_us_ahead() {
    let mut c = Clock::new();
    assert_eq!(c.r(REG_A), 0x26);
    assert_eq!(c.at(NS_PER_S - 244_001).r(REG_A), 0x26);
    assert_eq!(c.at(NS_PER_S - 244_000).r(REG_A), 0xa6);
    assert_eq!(c.at(NS_PER_S).r(REG_A), 0x26);
}

#[test]
fn set_stops_and_starts_the_clock_as_linux_sets_it() {
    let mut c = Clock::new();
    c.at(NS_PER_S / 4);
    c.w(REG_B, B_24_HOURS | B_SET);
    c.w(REG_A, 0x26 | 0x70);
    for (reg, value) in TIME
        .into_iter()
        .zip([0x56, 0x34, 0x12, 3, 0x29, 0x02, 0x24, 0x20])
    {
        c.w(reg, value);
    }
    c.at(10 * NS_PER_S);
    assert_eq!(c.r(SECONDS), 0x56);
    c.w(REG_B, B_24_HOURS);
    c.w(REG_A, 0x26);
    // The divider was let go: the first second ends half a second from now.
    assert_eq!(c.at(10 * NS_PER_S + NS_PER_S / 2 - 1).r(SECONDS), 0x56);
    assert_eq!(
        c.at(10 * NS_PER_S + NS_PER_S / 2).time(),
        [0x57, 0x34, 0x12, 3, 0x29, 0x02, 0x24, 0x20]
    );
    c.at(10 * NS_PER_S + 86_400 * NS_PER_S);
    assert_eq!(c.time()[3..], [4, 0x01, 0x03, 0x24, 0x20]);
}

#[test]
fn setting_keeps_the_phase_of_the_second() {
    let mut c = Clock::new();
    c.at(NS_PER_S * 3 / 4);
    c.w(REG_B, B_24_HOURS | B_SET);
    c.w(REG_B, B_24_HOURS);
    assert_eq!(c.at(NS_PER_S - 1).r(SECONDS), 0x58);
    assert_eq!(c.at(NS_PER_S).r(SECONDS), 0x59);
}

#[test]
fn nonsense_in_the_registers_is_brought_into_range() {
    let mut c = Clock::new();
    c.w(REG_B, B_24_HOURS | B_SET);
    for reg in TIME {
        c.w(reg, 0xff);
    }
    assert_eq!(c.time(), [0xff; 8], "they read back while it stands");
    c.w(REG_B, B_24_HOURS);
    assert_eq!(c.time(), [0x59, 0x59, 0x23, 7, 0x31, 0x12, 0x99, 0x99]);
    c.w(MONTH, 0);
    assert_eq!(c.r(MONTH), 1);
}

#[test]
fn periodic_interrupt_runs_at_its_exact_rate() {
    let mut c = Clock::new();
    c.w(REG_A, 0x26); // 1024 Hz
    c.w(REG_B, B_24_HOURS | PERIODIC);
    let mut count = 0;
    while let Some(at) = c.rtc.deadline_ns().filter(|&at| at <= 3600 * NS_PER_S) {
        c.at(at);
        assert_eq!(c.lines(), [true]);
        assert_eq!(
            c.rtc.deadline_ns(),
            None,
            "the line is up: nothing new to see"
        );
        assert_eq!(c.r(REG_C) & (C_IRQF | PERIODIC), C_IRQF | PERIODIC);
        assert_eq!(c.lines(), [false]);
        count += 1;
    }
    assert_eq!(count, 3600 * 1024);
    for (rate, hz) in [(1, 256), (2, 128), (3, 8192), (15, 2)] {
        c.w(REG_A, 0x20 | rate);
        assert_eq!(c.rtc.periodic_hz(), Some(hz));
    }
}

#[test]
fn update_and_alarm_interrupts() {
    let mut c = Clock::new();
    c.w(REG_B, B_24_HOURS | UPDATE);
    assert_eq!(c.rtc.deadline_ns(), Some(NS_PER_S));
    c.at(NS_PER_S);
    assert_eq!(c.lines(), [true]);
    assert_eq!(c.r(REG_C), C_IRQF | UPDATE | PERIODIC);
    c.lines();
    for (at, value) in [
        (HOURS_ALARM, 0x14),
        (MINUTES_ALARM, 0x01),
        (SECONDS_ALARM, 0x30),
    ] {
        c.w(at as u8, value);
    }
    c.w(REG_B, B_24_HOURS | ALARM);
    assert_eq!(c.rtc.deadline_ns(), Some(92 * NS_PER_S));
    c.at(92 * NS_PER_S - 1);
    assert_eq!(c.lines(), []);
    c.at(92 * NS_PER_S);
    assert_eq!(c.lines(), [true]);
    assert_eq!(c.r(REG_C) & ALARM, ALARM);
    assert_eq!(
        c.rtc.deadline_ns(),
        Some((92 + 86_400) * NS_PER_S),
        "every day"
    );
    c.w(HOURS_ALARM as u8, 0xff);
    assert_eq!(
        c.rtc.deadline_ns(),
        Some((92 + 3_600) * NS_PER_S),
        "every hour"
    );
    c.w(MINUTES_ALARM as u8, 0xc0);
    c.w(SECONDS_ALARM as u8, 0xc0);
    assert_eq!(c.rtc.deadline_ns(), Some(93 * NS_PER_S), "every second");
    c.w(SECONDS_ALARM as u8, 0x77);
    assert_eq!(c.rtc.deadline_ns(), None, "never");
}

#[test]
fn set_clears_the_update_enable() {
    let mut c = Clock::new();
    c.w(REG_B, B_SET | UPDATE | ALARM);
    assert_eq!(c.r(REG_B), B_SET | ALARM);
}

#[test]
fn memory_sizes() {
    let mut c = Clock::new();
    let word = |c: &mut Clock, at| u16::from_le_bytes([c.r(at), c.r(at + 1)]);
    assert_eq!(word(&mut c, 0x15), 640);
    assert_eq!(word(&mut c, 0x17), 65535);
    assert_eq!(word(&mut c, 0x34), (256 - 16) * 16);
    c.rtc = Rtc::new(0, 5 << 30, 4);
    assert_eq!(word(&mut c, 0x5b), 0x8000);
    assert_eq!((word(&mut c, 0x34), c.r(0x5f)), (0xbf00, 3));
    c.w(0x40, 0xa5);
    assert_eq!(c.r(0x40), 0xa5);
    assert_eq!(c.r(0x40 | 0x80), 0xa5, "bit 7 is the NMI mask");
}
