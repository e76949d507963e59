//! The differential test: what the engine computes is what the processor under this test computes.
//!
//! Every instruction form that user mode can run in 64-bit mode is given edge and random operands, run natively in
//! this process and in the engine, and registers, defined flags, memory and faults are compared. Then random
//! sequences. x86-64 Linux hosts only.
//!
//! `SILICON_SEED` repeats a run, `SILICON_CASES` sets the cases a form, `SILICON_FIRST` the first sequence,
//! `SILICON_FORM` runs forms whose name contains it.

mod case;
mod compare;
mod engine;
mod forms;
mod generate;
mod layout;
mod native;
mod operands;
mod segments;
mod sequence;
mod single;
mod values;

use case::{Case, End, Outcome, Window};
use compare::Open;
use engine::Engine;
use fastrand::Rng;
use native::Native;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Fixed addresses and signal handlers belong to one test at a time.
static HOST: Mutex<()> = Mutex::new(());

/// Prepared contents of the window.
const WINDOWS: usize = 16;

/// Both sides, ready to run cases.
pub struct Bench {
    native: Native,
    engine: Engine,
    windows: Vec<Box<Window>>,
    pub seed: u64,
    pub cases: u64,
    _host: MutexGuard<'static, ()>,
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

impl Bench {
    /// `None`, with the reason printed, where the host cannot do it.
    pub fn new(cases: u64) -> Option<Bench> {
        let host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
        let native = match Native::new() {
            Ok(native) => native,
            Err(why) => {
                println!("SKIPPED: {why}");
                return None;
            }
        };
        let seed = setting("SILICON_SEED").unwrap_or(0x5eed);
        let mut rng = Rng::with_seed(seed);
        let windows: Vec<_> = (0..WINDOWS).map(|_| values::window(&mut rng)).collect();
        let mut bench = Bench {
            native,
            engine: Engine::new(),
            windows,
            seed,
            cases: setting("SILICON_CASES").unwrap_or(cases),
            _host: host,
        };
        // The read-only page is that of the first window, for all.
        let first = bench.windows[0].clone();
        bench.native.fill(&first, true);
        let last = layout::PRESENT - 1;
        for window in &mut bench.windows {
            window[last] = first[last];
        }
        println!("SILICON_SEED={seed:#x}, {} cases each", bench.cases);
        Some(bench)
    }

    /// Why there can be no 16- and 32-bit code, if there cannot.
    pub fn no_segments(&self) -> Option<&str> {
        self.native.no_segments.as_deref()
    }

    /// Runs a case on both sides and says what differs.
    pub fn compare(&mut self, case: &Case, open: Open) -> (Outcome, Vec<String>) {
        self.compare_at(case, open, open)
    }

    /// Likewise where other things are left open at a fault than at the end.
    pub fn compare_at(
        &mut self,
        case: &Case,
        at_end: Open,
        at_fault: Open,
    ) -> (Outcome, Vec<String>) {
        let engine = self.run_engine(case);
        let native = self.run_native(case);
        let open = match native.end {
            End::Exit(_) => at_end,
            _ => at_fault,
        };
        let mut found = compare::differences(&native, &engine, open);
        let in_parts = open.parts && matches!(native.end, End::Fault { .. });
        if !open.memory && !in_parts {
            found.extend(self.memory_differences());
        }
        self.clear_code(case);
        (native, found)
    }

    /// Instructions that the last case executed.
    pub fn executed(&self) -> u64 {
        self.engine.executed
    }

    /// Runs a case in the engine only.
    pub fn engine_alone(&mut self, case: &Case) -> End {
        let end = self.run_engine(case).end;
        self.clear_code(case);
        end
    }

    fn run_engine(&mut self, case: &Case) -> Outcome {
        self.engine.fill(&self.windows[case.window]);
        for (at, bytes) in case.code.iter().chain(&case.pokes) {
            self.engine.poke(*at, bytes);
        }
        self.engine.run(case)
    }

    fn run_native(&mut self, case: &Case) -> Outcome {
        self.native.fill(&self.windows[case.window], false);
        for (at, bytes) in case.code.iter().chain(&case.pokes) {
            self.native.poke(*at, bytes);
        }
        self.native.run(case)
    }

    fn pages() -> impl Iterator<Item = u64> {
        let window = layout::present().filter(|page| page.1).map(|page| page.0);
        let code = (layout::CODE..layout::CODE + layout::CODE_BYTES as u64).step_by(layout::PAGE);
        window.chain(code)
    }

    fn memory_differences(&self) -> Vec<String> {
        let mut out = Vec::new();
        for page in Self::pages() {
            let (n, e) = (self.native.page(page), self.engine.page(page));
            if n == e {
                continue;
            }
            let first = n.iter().zip(e).position(|(a, b)| a != b).unwrap_or(0);
            let last = n.iter().zip(e).rposition(|(a, b)| a != b).unwrap_or(0);
            let end = (last + 1).min(first + 32);
            out.push(format!(
                "memory {:x} to {:x}: host {:02x?}, engine {:02x?}",
                page + first as u64,
                page + last as u64,
                &n[first..end],
                &e[first..end]
            ));
        }
        out
    }

    /// Puts INT3 back where the case has had code.
    fn clear_code(&mut self, case: &Case) {
        for (at, bytes) in &case.code {
            let filler = vec![0xcc; bytes.len()];
            self.native.poke(*at, &filler);
            self.engine.poke(*at, &filler);
        }
    }
}
