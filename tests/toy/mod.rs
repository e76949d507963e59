//! A recording that is small enough to be known by heart, for tests of everything that stands before a timeline.
//!
//! Its state is a pure function of the tick. Processors take turns, one tick each. Each runs the same loop of
//! [`LOOP`] four-byte instructions from [`CODE`] on; instruction [`STORE`] of the loop adds 1 to the processor's
//! counter (at [`COUNTERS`], 8 bytes a processor), instruction [`LOAD`] reads [`LOADED`], and a single tick,
//! [`CULPRIT_TICK`], overwrites [`VICTIM`].

#![allow(dead_code)] // each test binary uses its part

use std::sync::atomic::{AtomicBool, Ordering};

use retrovisor::tick::{GuestNs, NS_PER_TICK, Tick};
use retrovisor::timeline::api::{
    Answers, Debuggee, Description, Direction, Event, Found, Question, Registers, SceneOf, Stop,
    StopReason, Stops, Want, WatchKind,
};
use retrovisor::timeline::bookmarks::Bookmarks;

pub const CODE: u64 = 0x401000;
pub const DATA: u64 = 0x600000;
pub const STACK: u64 = 0x7ff000;
const PAGE: u64 = 0x1000;
/// Instructions in the loop.
pub const LOOP: u64 = 8;
pub const STORE: u64 = 3;
pub const LOAD: u64 = 5;
pub const COUNTERS: u64 = DATA;
pub const LOADED: u64 = DATA + 0x100;
pub const VICTIM: u64 = DATA + 0x200;
pub const VICTIM_BEFORE: u64 = 0x600d;
pub const VICTIM_AFTER: u64 = 0xbad;
pub const CULPRIT_TICK: Tick = 777;
/// Ticks with an interrupt, a page fault and a system call.
pub const INTERRUPT_TICK: Tick = 300;
pub const FAULT_TICK: Tick = 500;
pub const CALL_TICK: Tick = 600;
/// Somewhere in the data page, for searching.
pub const NEEDLE: &[u8] = b"needle#$}*";
pub const NEEDLE_AT: u64 = DATA + 0x800;
/// A length that no test runs through.
pub const FOREVER: Tick = 1 << 60;

pub struct Toy {
    pub position: Tick,
    pub start: Tick,
    pub end: Tick,
    pub cpus: usize,
    pub diverges_at: Option<Tick>,
    pub bookmarks: Bookmarks,
}

impl Toy {
    pub fn new(cpus: usize, end: Tick) -> Self {
        Self {
            position: 0,
            start: 0,
            end,
            cpus,
            diverges_at: None,
            bookmarks: Bookmarks::default(),
        }
    }

    /// The processor that executes a tick.
    fn cpu_at(&self, tick: Tick) -> usize {
        (tick % self.cpus as u64) as usize
    }

    /// Ticks of a processor before a position.
    fn done(&self, cpu: usize, tick: Tick) -> u64 {
        let n = self.cpus as u64;
        (tick + n - 1 - cpu as u64) / n
    }

    pub fn rip_at(&self, cpu: usize, tick: Tick) -> u64 {
        CODE + 4 * (self.done(cpu, tick) % LOOP)
    }

    pub fn counter_at(&self, cpu: usize, tick: Tick) -> u64 {
        (self.done(cpu, tick) + LOOP - 1 - STORE) / LOOP
    }

    fn data_byte(&self, offset: u64) -> u8 {
        let word = |value: u64| value.to_le_bytes()[(offset % 8) as usize];
        let addr = DATA + offset;
        let counters_end = COUNTERS + 8 * self.cpus as u64;
        match addr {
            _ if addr < counters_end => word(self.counter_at((offset / 8) as usize, self.position)),
            _ if (VICTIM..VICTIM + 8).contains(&addr) => word(if self.position > CULPRIT_TICK {
                VICTIM_AFTER
            } else {
                VICTIM_BEFORE
            }),
            _ if (NEEDLE_AT..NEEDLE_AT + NEEDLE.len() as u64).contains(&addr) => {
                NEEDLE[(addr - NEEDLE_AT) as usize]
            }
            _ => 0,
        }
    }

    fn byte(&self, page: u64, offset: u64) -> Option<u8> {
        match page {
            CODE => Some([0x0f, 0x1f, 0x40, 0x00][(offset % 4) as usize]),
            DATA => Some(self.data_byte(offset)),
            STACK => Some(0),
            _ => None,
        }
    }

    /// The watched access of a tick: address and whether it is a store.
    fn access_at(&self, tick: Tick) -> Option<(u64, bool)> {
        if tick == CULPRIT_TICK {
            return Some((VICTIM, true));
        }
        let cpu = self.cpu_at(tick);
        match self.done(cpu, tick) % LOOP {
            STORE => Some((COUNTERS + 8 * cpu as u64, true)),
            LOAD => Some((LOADED, false)),
            _ => None,
        }
    }

    /// What a tick brings besides its instruction.
    pub fn event_at(&self, tick: Tick) -> Option<Event> {
        match tick {
            INTERRUPT_TICK => Some(Event::Interrupt { vector: 0x20 }),
            FAULT_TICK => Some(Event::Exception {
                vector: 14,
                code: Some(2),
                address: VICTIM,
            }),
            CALL_TICK => Some(Event::SystemCall {
                number: 39,
                wide: true,
            }),
            _ => None,
        }
    }

    fn watched(&self, tick: Tick, stops: &Stops) -> Option<StopReason> {
        if let Some(event) = self.event_at(tick)
            && stops.events.has(&event)
            && stops.conditions.0.as_ref().is_none_or(|condition| {
                condition.event_holds(&event, &mut SceneOf::new(self, self.cpu_at(tick)))
            })
        {
            return Some(StopReason::Event(event));
        }
        let cpu = self.cpu_at(tick);
        let (addr, store) = self.access_at(tick)?;
        let hit = stops.watchpoints.iter().find(|w| {
            let kind = match w.kind {
                WatchKind::Write => store,
                WatchKind::Read => !store,
                WatchKind::Access => true,
            };
            kind && w.addr < addr + 8 && addr < w.addr.saturating_add(w.len)
        })?;
        // A condition looks at what the access has done.
        let after = Toy {
            position: tick + 1,
            ..Toy::new(self.cpus, self.end)
        };
        if let Some(condition) = &stops.conditions.0
            && !condition.watch_holds((hit.addr, hit.kind), &mut SceneOf::new(&after, cpu))
        {
            return None;
        }
        Some(StopReason::Watchpoint {
            addr: hit.addr,
            kind: hit.kind,
        })
    }

    fn at_breakpoint(&self, direction: Direction, stops: &Stops) -> Option<StopReason> {
        let cpu = self.cpu_at(self.position);
        let addr = self.rip_at(cpu, self.position);
        (self.position < self.end
            && stops.breakpoints.binary_search(&addr).is_ok()
            && stops.counts(addr, direction, &mut SceneOf::new(self, cpu)))
        .then_some(StopReason::Breakpoint { addr })
    }

    /// One tick in a direction; `None`: done, with nothing to report.
    fn move_on(&mut self, direction: Direction, stops: &Stops) -> (usize, Option<StopReason>) {
        match direction {
            Direction::Forward if self.position == self.end => {
                (self.current_cpu(), Some(StopReason::HistoryEnd))
            }
            Direction::Forward if self.diverges_at == Some(self.position) => (
                self.current_cpu(),
                Some(StopReason::Divergence("rax differs".into())),
            ),
            Direction::Backward if self.position == self.start => {
                (self.current_cpu(), Some(StopReason::HistoryStart))
            }
            Direction::Forward => {
                let tick = self.position;
                self.position += 1;
                (self.cpu_at(tick), self.watched(tick, stops))
            }
            Direction::Backward => {
                self.position -= 1;
                (
                    self.cpu_at(self.position),
                    self.watched(self.position, stops),
                )
            }
        }
    }

    fn step_cpu(
        &mut self,
        direction: Direction,
        cpu: usize,
        stops: &Stops,
        interrupt: &AtomicBool,
    ) -> Stop {
        loop {
            let (moved, reason) = self.move_on(direction, stops);
            if let Some(reason) = reason {
                return Stop { reason, cpu: moved };
            }
            if moved == cpu {
                return Stop {
                    reason: StopReason::Stepped,
                    cpu,
                };
            }
            if interrupt.load(Ordering::Relaxed) {
                return Stop {
                    reason: StopReason::Interrupted,
                    cpu,
                };
            }
        }
    }
}

/// Fills a buffer up to the first address that has no byte.
fn fill(addr: u64, out: &mut [u8], byte: impl Fn(u64) -> Option<u8>) -> usize {
    for (i, slot) in out.iter_mut().enumerate() {
        match byte(addr.wrapping_add(i as u64)) {
            Some(value) => *slot = value,
            None => return i,
        }
    }
    out.len()
}

impl Debuggee for Toy {
    fn position(&self) -> Tick {
        self.position
    }

    fn start(&self) -> Tick {
        self.start
    }

    fn end(&self) -> Tick {
        self.end
    }

    fn guest_time(&self) -> GuestNs {
        self.position * NS_PER_TICK
    }

    fn cpus(&self) -> usize {
        self.cpus
    }

    fn current_cpu(&self) -> usize {
        let last = self.end.max(self.start + 1) - 1;
        self.cpu_at(self.position.min(last))
    }

    fn registers(&self, cpu: usize) -> Registers {
        let mut r = Registers {
            rip: self.rip_at(cpu, self.position),
            rflags: 0x246,
            cs: 0x33,
            ss: 0x2b,
            fs_base: 0xf5ba5e00 + cpu as u64,
            gs_base: 0xffff_8880_0000_0000,
            k_gs_base: 0x1234,
            cr0: 0x8005_0033,
            cr2: 0xc2c2,
            cr3: 0x1c0_3000,
            cr4: 0x3506f0,
            cr8: 7,
            efer: 0xd01,
            fctrl: 0x37f,
            ftag: 0xffff,
            mxcsr: 0x1f80,
            lstar: CODE,
            tr: 0x40,
            dr: [0x600d, 0, 0, 0, 0, 0, 0xffff_4ff1, 0x000d_0402],
            tick: self.position,
            time: self.position * NS_PER_TICK,
            ..Registers::default()
        };
        r.gpr[0] = self.done(cpu, self.position);
        r.gpr[3] = 0xb0b;
        r.gpr[4] = STACK + 0x800;
        r.gpr[5] = STACK + 0x900;
        r.gpr[15] = cpu as u64;
        // 1.5 as an extended float.
        r.st[0] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0x3f];
        r.xmm[0] = 0x0f0e0d0c_0b0a0908_07060504_03020100;
        r.xmm[15] = 15;
        r.ymm_high[0] = 1 << 64;
        r
    }

    fn read_virtual(&self, _cpu: usize, addr: u64, out: &mut [u8]) -> usize {
        fill(addr, out, |at| self.byte(at / PAGE * PAGE, at % PAGE))
    }

    fn read_physical(&self, addr: u64, out: &mut [u8]) -> usize {
        fill(addr, out, |at| {
            let page = *[CODE, DATA, STACK].get((at / PAGE) as usize)?;
            self.byte(page, at % PAGE)
        })
    }

    fn seek(&mut self, tick: Tick, _interrupt: &AtomicBool) -> Result<(), String> {
        if !(self.start..=self.end).contains(&tick) {
            return Err("outside the recording".into());
        }
        if let Some(bad) = self.diverges_at.filter(|&bad| tick > bad) {
            self.position = bad;
            return Err(format!("diverged at {bad}"));
        }
        self.position = tick;
        Ok(())
    }

    fn step(&mut self, cpu: usize, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        self.step_cpu(Direction::Forward, cpu, stops, interrupt)
    }

    fn reverse_step(&mut self, cpu: usize, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        self.step_cpu(Direction::Backward, cpu, stops, interrupt)
    }

    fn run(&mut self, direction: Direction, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        loop {
            let (moved, reason) = self.move_on(direction, stops);
            if let Some(reason) = reason {
                return Stop { reason, cpu: moved };
            }
            if let Some(reason) = self.at_breakpoint(direction, stops) {
                return Stop {
                    reason,
                    cpu: self.current_cpu(),
                };
            }
            if interrupt.load(Ordering::Relaxed) {
                return Stop {
                    reason: StopReason::Interrupted,
                    cpu: self.current_cpu(),
                };
            }
        }
    }

    fn ask(&mut self, question: &Question, interrupt: &AtomicBool) -> Result<Answers, String> {
        let here = self.position;
        let mut all = Vec::new();
        for tick in question.from..question.until.min(self.end) {
            if interrupt.load(Ordering::Relaxed) {
                self.position = here;
                return Err("interrupted".into());
            }
            self.position = tick;
            let met = self.at_breakpoint(Direction::Forward, &question.stops);
            let Some(reason) = met.or_else(|| self.watched(tick, &question.stops)) else {
                continue;
            };
            let content = |toy: &Toy| match (&reason, question.stops.watchpoints.first()) {
                (StopReason::Watchpoint { .. }, Some(w)) => {
                    let mut bytes = vec![0; w.len as usize];
                    toy.read_virtual(0, w.addr, &mut bytes);
                    bytes
                }
                _ => Vec::new(),
            };
            let before = content(self);
            self.position += 1;
            all.push(Found {
                tick,
                time: tick * NS_PER_TICK,
                rip: self.rip_at(self.cpu_at(tick), tick),
                reason: reason.clone(),
                before,
                after: content(self),
            });
        }
        self.position = here;
        let count = all.len();
        let (first, last) = match question.want {
            Want::First(n) => (n.min(count), 0),
            Want::Last(n) => (0, n.min(count)),
            Want::All { first, last } => (first.min(count), last.min(count - first.min(count))),
        };
        Ok(Answers {
            count: count as u64,
            last: all.split_off(count - last),
            first: all.drain(..first).collect(),
        })
    }

    fn bookmarks(&mut self) -> &mut Bookmarks {
        &mut self.bookmarks
    }

    fn recorded_events(&self, before: usize, after: usize) -> Vec<(Tick, String)> {
        let all = [(10, "interrupt 0x20"), (INTERRUPT_TICK, "interrupt 0x20")];
        let middle = all.partition_point(|event| event.0 < self.position);
        all[middle.saturating_sub(before)..(middle + after).min(all.len())]
            .iter()
            .map(|(tick, text)| (*tick, text.to_string()))
            .collect()
    }

    fn describe(&self) -> Description {
        Description {
            machine: vec![("memory".into(), "12 KiB".into())],
            events: vec![("port reads".into(), 3), ("interrupts".into(), 4)],
            bytes: 4711,
            digests: 5,
            end: "power-off".into(),
        }
    }

    fn mode(&self, _cpu: usize) -> &'static str {
        "long 64-bit"
    }

    fn last_event(&self) -> Option<(Tick, String)> {
        (self.position > 10).then(|| (10, "interrupt 0x20".into()))
    }
}
