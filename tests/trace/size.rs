//! How much room events take, and how long they take to write and to read.

use std::time::Instant;

use retrovisor::trace::{Digest, Event, Recording, What};

use crate::sample::{Random, Scratch, config, end, start};

/// Something like the boot of a Linux kernel with a serial console: what dominates its log, with the
/// irregularity that a real one has.
struct Boot {
    random: Random,
    tick: u64,
    tsc_offset: u64,
    next_timer: u64,
    next_digest: u64,
    events: Vec<Event>,
}

impl Boot {
    fn events(count: usize) -> Vec<Event> {
        let mut boot = Self {
            random: Random(61),
            tick: 0,
            tsc_offset: 0,
            next_timer: 0,
            next_digest: 0,
            events: Vec::with_capacity(count),
        };
        while boot.events.len() < count {
            match boot.random.below(100) {
                0..80 => boot.console_line(),
                80..82 => boot.calibration(),
                82..90 => boot.pci_enumeration(),
                90..94 => boot.pm_timer(),
                _ => boot.idle(),
            }
            if boot.tick >= boot.next_timer {
                boot.timer_interrupt();
            }
            if boot.tick >= boot.next_digest {
                boot.digest();
            }
        }
        boot.events
    }

    fn push(&mut self, after: u64, what: What) {
        self.tick += after;
        self.events.push(Event {
            tick: self.tick,
            cpu: 0,
            what,
        });
    }

    /// The status port is read before each character.
    fn console_line(&mut self) {
        self.tick += 3000 + self.random.below(60_000);
        for _ in 0..30 + self.random.below(60) {
            let jitter = if self.random.below(20) == 0 {
                self.random.below(40)
            } else {
                0
            };
            self.push(
                53 + jitter,
                What::PioRead {
                    port: 0x3fd,
                    size: 1,
                    value: 0x60,
                },
            );
        }
    }

    /// Polls the PIT.
    fn calibration(&mut self) {
        for _ in 0..200 {
            self.push(
                9,
                What::PioRead {
                    port: 0x61,
                    size: 1,
                    value: 1,
                },
            );
        }
    }

    fn pci_enumeration(&mut self) {
        for _ in 0..self.random.below(40) {
            let after = 80 + self.random.below(4) * 7;
            let absent = self.random.below(3) > 0;
            let value = if absent {
                u32::MAX
            } else {
                self.random.any() as u32
            };
            self.push(
                after,
                What::PioRead {
                    port: 0xcfc,
                    size: 4,
                    value,
                },
            );
        }
    }

    /// A clock that is read now and then.
    fn pm_timer(&mut self) {
        let after = 2000 + self.random.below(9000);
        let value = ((self.tick + after) * 8 * 3_579_545 / 1_000_000_000) as u32 & 0xff_ffff;
        self.push(
            after,
            What::PioRead {
                port: 0x608,
                size: 4,
                value,
            },
        );
    }

    fn idle(&mut self) {
        self.tsc_offset += 1_000_000 + self.random.below(3_000_000);
        let after = 400 + self.random.below(3000);
        self.push(
            after,
            What::Clock {
                tsc_offset: self.tsc_offset,
            },
        );
        self.next_timer = self.tick;
    }

    fn timer_interrupt(&mut self) {
        self.push(0, What::Interrupt { vector: 0xec });
        let after = 700 + self.random.below(900);
        self.push(
            after,
            What::MsrWrite {
                msr: 0x6e0,
                ok: true,
            },
        );
        self.push(
            30,
            What::MmioRead {
                gpa: 0xfee0_00f0,
                size: 4,
                value: 0x1ff,
            },
        );
        self.next_timer = self.tick + 500_000;
    }

    fn digest(&mut self) {
        let mut wide = || u128::from(self.random.next()) << 64 | u128::from(self.random.next());
        let digest = Digest {
            registers: wide(),
            pages: wide(),
            outputs: wide() as u64,
        };
        self.push(0, What::Digest(Box::new(digest)));
        self.next_digest = self.tick + (1 << 22);
    }
}

/// No two events alike: what the format costs where nothing can be foreseen.
fn irregular_events(count: usize) -> Vec<Event> {
    let mut random = Random(62);
    let mut tick = 0;
    (0..count)
        .map(|_| {
            tick += random.below(4096);
            let what = match random.below(6) {
                0 => What::MsrWrite {
                    msr: 0x6e0,
                    ok: true,
                },
                1 => What::Interrupt {
                    vector: 0x20 + random.below(4) as u8,
                },
                2 => What::MmioRead {
                    gpa: 0xfee0_0000 + random.below(16) * 16,
                    size: 4,
                    value: random.below(1 << 16),
                },
                _ => {
                    let port = 0x3f8 + random.below(8) as u16;
                    What::PioRead {
                        port,
                        size: 1,
                        value: random.below(256) as u32,
                    }
                }
            };
            Event { tick, cpu: 0, what }
        })
        .collect()
}

/// Writes as a recorder does, and gives the file's bytes for each event.
fn bytes_per_event(name: &str, events: &[Event]) -> f64 {
    let scratch = Scratch::new(name);
    let path = scratch.file("a.rvr");
    let mut writer = start(&path, &config(), &[]);
    let began = Instant::now();
    for (index, event) in events.iter().enumerate() {
        writer.push(event).expect("pushed");
        if index % 5000 == 0 {
            writer.flush(event.tick).expect("flushed");
        }
    }
    writer
        .finish(&end(events[events.len() - 1].tick))
        .expect("finished");
    let written = began.elapsed();
    let began = Instant::now();
    let recording = Recording::open(&path).expect("opens");
    let opened = began.elapsed();
    let counts = recording.count_by_kind().expect("counted");
    let read = began.elapsed() - opened;
    assert_eq!(counts.iter().sum::<u64>(), events.len() as u64);
    let of_one = recording.bytes() as f64 / events.len() as f64;
    println!(
        "{name}: {} events, {} bytes, {of_one:.3} an event; {} ns an event to write, compression \
         and sync included, {} ns to read; opened in {} us",
        events.len(),
        recording.bytes(),
        written.as_nanos() / events.len() as u128,
        read.as_nanos() / events.len() as u128,
        opened.as_micros(),
    );
    of_one
}

#[test]
fn a_million_events_of_a_boot_take_less_than_half_a_megabyte() {
    let of_one = bytes_per_event("boot", &Boot::events(1_000_000));
    assert!(of_one < 0.5, "{of_one} bytes an event");
}

#[test]
fn an_event_that_cannot_be_foreseen_takes_less_than_four_bytes() {
    // 12 bits of tick, 4 of site and up to 16 of value are really there.
    let of_one = bytes_per_event("irregular", &irregular_events(300_000));
    assert!(of_one < 4.0, "{of_one} bytes an event");
}
