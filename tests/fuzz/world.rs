//! A world of noise that is a function of the tick alone: whoever asks when, and how often, hears the same.

use retrovisor::cpu::world::{Dma, Interrupt, Pending, Wait, World};
use retrovisor::tick::Tick;

/// Ticks between which nothing new happens.
const PERIOD: u64 = 32;

/// See the head.
pub struct Noise {
    seed: u64,
    ram: u64,
    /// The last period whose interrupt was taken, or whose DMA has landed, plus 1.
    taken: u64,
    landed: u64,
    over: bool,
    /// A hash of all that went out.
    pub outputs: u64,
}

fn mixed(a: u64, b: u64) -> u64 {
    let mut z = (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Noise {
    pub fn new(seed: u64, ram: u64) -> Noise {
        Noise {
            seed,
            ram,
            taken: 0,
            landed: 0,
            over: false,
            outputs: 0,
        }
    }

    fn at(&self, now: Tick, what: u64) -> u64 {
        mixed(mixed(self.seed, now), what)
    }

    fn note(&mut self, now: Tick, what: u64, value: u64) {
        self.outputs = mixed(mixed(self.outputs, now), mixed(what, value));
    }

    fn pending(&self, now: Tick) -> Pending {
        let period = now / PERIOD;
        let noise = self.at(period, 1);
        let fresh = self.taken <= period && period > 0;
        Pending {
            interrupt: fresh && noise & 3 == 0,
            nmi: fresh && noise & 63 == 1,
        }
    }
}

impl World for Noise {
    fn pio_read(&mut self, now: Tick, _: usize, port: u16, _: u8) -> u32 {
        self.at(now, port as u64) as u32
    }
    fn pio_write(&mut self, now: Tick, _: usize, port: u16, size: u8, value: u32) {
        self.note(now, port as u64 | (size as u64) << 32, value as u64);
    }
    fn mmio_read(&mut self, now: Tick, _: usize, gpa: u64, _: u8) -> u64 {
        assert!(gpa >= self.ram, "{gpa:x} is RAM");
        self.at(now, gpa)
    }
    fn mmio_write(&mut self, now: Tick, _: usize, gpa: u64, _: u8, value: u64) {
        assert!(gpa >= self.ram, "{gpa:x} is RAM");
        self.note(now, gpa, value);
    }
    fn msr_read(&mut self, now: Tick, _: usize, msr: u32) -> Option<u64> {
        (msr & 1 == 0).then(|| self.at(now, msr as u64))
    }
    fn msr_write(&mut self, now: Tick, _: usize, msr: u32, value: u64) -> bool {
        self.note(now, msr as u64, value);
        msr & 1 == 0
    }
    fn tsc(&mut self, now: Tick, _: usize) -> u64 {
        now
    }
    fn random(&mut self, now: Tick, _: usize) -> u64 {
        self.at(now, 2)
    }
    fn tpr_read(&mut self, now: Tick, _: usize) -> u64 {
        self.at(now, 3) & 15
    }
    fn tpr_write(&mut self, now: Tick, _: usize, value: u64) {
        self.note(now, 3, value);
    }
    fn next_stop(&mut self, now: Tick) -> Tick {
        (now / PERIOD + 1) * PERIOD
    }
    fn poll(&mut self, now: Tick, _: usize, dma: &mut Vec<Dma>) -> Pending {
        let period = now / PERIOD;
        let noise = self.at(period, 4);
        if now == period * PERIOD && self.landed <= period && noise & 7 == 0 {
            self.landed = period + 1;
            let bytes = noise.to_le_bytes()[..(noise >> 3 & 7) as usize + 1].to_vec();
            let gpa = (noise >> 8) % (self.ram - 8);
            dma.push(Dma { gpa, bytes });
        }
        self.pending(now)
    }
    fn interrupt(&mut self, now: Tick, _: usize, maskable: bool) -> Option<Interrupt> {
        let pending = self.pending(now);
        let period = now / PERIOD;
        if pending.nmi {
            self.taken = period + 1;
            return Some(Interrupt::Nmi);
        }
        if pending.interrupt && maskable {
            self.taken = period + 1;
            return Some(Interrupt::Vector(16 + (self.at(period, 5) % 240) as u8));
        }
        None
    }
    fn wait(&mut self, _: Tick, _: usize, _: bool) -> Wait {
        self.over = true;
        Wait::Ended
    }
    fn ended(&mut self, _: Tick) -> bool {
        self.over
    }
    fn shutdown(&mut self, _: Tick, _: usize, _: &str) {
        self.over = true;
    }
}
