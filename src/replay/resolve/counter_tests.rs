//! The resolver against recordings that tell what RDTSC reads between accesses, made by the engine: so the ticks of all
//! reads are known.

use super::tests::{Scratch, config, finish, start};
use super::{ResolveError, Resolver, resolve};
use crate::cpu::Cpu;
use crate::cpu::cpuid::CpuModel;
use crate::cpu::run::Exit;
use crate::cpu::state::gpr;
use crate::cpu::testing::{CODE, DATA, long_mode};
use crate::cpu::world::{Dma, Interrupt, Pending, Wait, World};
use crate::machine::{Machine, compare};
use crate::replay::Replayer;
use crate::tick::Tick;
use crate::trace::{Event, PageHash, PageList, Recording, Stand, What};
use std::path::Path;
use std::sync::Arc;

/// A world with one port, and a counter that stands still until somebody sets it.
#[derive(Default)]
struct Outside {
    counter: u64,
    reads: Vec<(Tick, u64)>,
    accesses: u64,
    /// An access was made: the run is over behind it.
    over: bool,
    events: Vec<Event>,
}

impl Outside {
    fn push(&mut self, what: What) {
        self.events.push(Event {
            tick: self.accesses,
            cpu: 0,
            what,
        });
    }

    fn set_counter(&mut self, value: u64) {
        self.counter = value;
        self.push(What::Counter { value });
    }
}

impl World for Outside {
    fn pio_read(&mut self, _: Tick, _: usize, port: u16, size: u8) -> u32 {
        let value = (self.accesses * 7) as u32 & 0xff;
        self.push(What::PioRead { port, size, value });
        self.accesses += 1;
        self.over = true;
        value
    }
    fn pio_write(&mut self, _: Tick, _: usize, _: u16, _: u8, _: u32) {}
    fn mmio_read(&mut self, _: Tick, _: usize, _: u64, _: u8) -> u64 {
        0
    }
    fn mmio_write(&mut self, _: Tick, _: usize, _: u64, _: u8, _: u64) {}
    fn msr_read(&mut self, _: Tick, _: usize, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: Tick, _: usize, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&mut self, now: Tick, _: usize) -> u64 {
        self.reads.push((now, self.counter));
        self.counter
    }
    fn random(&mut self, _: Tick, _: usize) -> u64 {
        0
    }
    fn tpr_read(&mut self, _: Tick, _: usize) -> u64 {
        0
    }
    fn tpr_write(&mut self, _: Tick, _: usize, _: u64) {}
    fn next_stop(&mut self, _: Tick) -> Tick {
        Tick::MAX
    }
    fn poll(&mut self, _: Tick, _: usize, _: &mut Vec<Dma>) -> Pending {
        Pending::default()
    }
    fn interrupt(&mut self, _: Tick, _: usize, _: bool) -> Option<Interrupt> {
        None
    }
    fn wait(&mut self, _: Tick, _: usize, _: bool) -> Wait {
        Wait::Ended
    }
    fn ended(&mut self, _: Tick) -> bool {
        self.over
    }
    fn shutdown(&mut self, _: Tick, _: usize, why: &str) {
        panic!("the processor shut down: {why}");
    }
}

/// What runs.
struct Program<'a> {
    code: &'a [u8],
    /// Where the guest is placed for its counter to go on.
    stands: &'a [Tick],
    end: Tick,
    /// Whether RAM is looked at there.
    lists: bool,
}

/// What was recorded, and what is true of it.
struct Truth {
    reads: Vec<(Tick, u64)>,
    end: Tick,
    ram: u128,
}

/// The processor without a counter in CPUID.
fn model() -> CpuModel {
    let mut model = CpuModel::native();
    for leaf in &mut model.leaves {
        if leaf.leaf == 1 {
            leaf.registers[3] &= !(1 << 4);
        }
    }
    model
}

fn machine(code: &[u8]) -> Machine {
    let known = long_mode();
    let state = known.state;
    let mut cpu = Cpu::new(known.memory, model());
    cpu.memory.write(CODE, code);
    cpu.state = state;
    cpu.state.set_rip(CODE);
    cpu.state.gpr[gpr::RBX] = DATA;
    cpu.state_changed();
    Machine { cpu }
}

fn list(machine: &mut Machine) -> PageList {
    let mut list = PageList {
        state: machine.save(),
        ..PageList::default()
    };
    let mut pages = machine.cpu.take_dirty();
    pages.sort_unstable();
    for page in pages {
        let bytes = machine.cpu.memory.page(page as usize);
        let (whole, unmarked) = compare::page_hashes(bytes);
        list.pages.push(PageHash {
            page,
            whole,
            unmarked,
        });
        list.lines.push(compare::line_hashes(bytes));
    }
    list
}

/// Writes a recording of a program as KVM's recorder does where it holds the counter. `forge` changes its events.
fn record(path: &Path, program: &Program, forge: impl Fn(&mut Vec<Event>)) -> Truth {
    let mut machine = machine(program.code);
    let mut config = config(&model());
    config.counter = true;
    let mut writer = start(path, &mut machine, &config);
    let mut outside = Outside::default();
    let step = 1_000_003;
    outside.set_counter(1 << 40);
    let mut placed = 0;
    for &tick in program.stands.iter().chain([&program.end]) {
        while machine.run(&mut outside, tick, true) == Exit::Ended {
            outside.over = false;
            placed = machine.tick();
            let registers = compare::general_hash_of(&machine.cpu.state) & 0xffff_ffff;
            outside.push(What::Check { registers });
            outside.set_counter(outside.counter + step);
        }
        assert_eq!(machine.tick(), tick);
        let state = &machine.cpu.state;
        let (general, flags) = compare::general_of(state);
        let stand = Stand {
            rip: state.rip(),
            linear: machine.cpu.linear_rip(),
            flags,
            general,
            vector: compare::vector_hash(state),
            elapsed_ns: tick - placed,
        };
        placed = tick;
        outside.push(What::Stand(Box::new(stand)));
        if program.lists || tick == program.end {
            let list = list(&mut machine).encode();
            list.into_iter()
                .for_each(|bytes| outside.push(What::Pages { bytes }));
        }
        outside.set_counter(outside.counter + step);
    }
    forge(&mut outside.events);
    for event in &outside.events {
        writer.push(event).unwrap();
    }
    finish(writer, outside.accesses);
    Truth {
        reads: outside.reads,
        end: program.end,
        ram: machine.hash_ram(),
    }
}

/// Resolves a recording, replays it, and compares with what is true.
fn check(name: &str, program: &Program) -> super::Resolved {
    let scratch = Scratch::new(name);
    let untimed = scratch.0.join("untimed.rvr");
    let truth = record(&untimed, program, |_| {});
    let recording = Arc::new(Recording::open(&untimed).unwrap());
    let timed = scratch.0.join("timed.rvr");
    let found = resolve(&recording, &timed, |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let recording = Arc::new(Recording::open(&timed).unwrap());
    assert!(!recording.config().counter && !recording.config().untimed);
    assert_eq!(recording.last_tick(), truth.end);
    let mut cursor = recording.cursor();
    let mut reads = Vec::new();
    while let Some(event) = cursor.next().unwrap() {
        assert!(!matches!(event.what, What::Counter { .. }));
        if let What::Tsc { value } = event.what {
            reads.push((event.tick, value));
        }
    }
    assert_eq!(reads.len(), truth.reads.len());
    assert!(reads == truth.reads, "{name}: other reads than recorded");
    let mut replayer = Replayer::new(&recording).unwrap();
    while replayer.tick() < replayer.end() {
        replayer
            .run_to_digest()
            .unwrap_or_else(|divergence| panic!("{name}: {divergence}"));
    }
    assert_eq!(replayer.machine.hash_ram(), truth.ram);
    found
}

/// Reads the counter once behind each access, and in a loop between them; registers and RAM keep what was read.
#[rustfmt::skip]
const READS: &[u8] = &[
    0xe4, 0x60, // again: in al, 0x60
    0x0f, 0x31, // rdtsc
    0x48, 0x01, 0x03, // add [rbx], rax
    0xb9, 0xc8, 0, 0, 0, // mov ecx, 200
    0x0f, 0x31, // spin: rdtsc
    0x31, 0x43, 0x08, // xor [rbx+8], eax
    0x41, 0x01, 0xc0, // add r8d, eax
    0xe2, 0xf6, // loop spin
    0xeb, 0xe8, // jmp again
];

/// Whose registers are the same each time: `inc qword [rbx]; rdtsc; add [rbx+8], rax; xor eax, eax; xor edx, edx; jmp`.
const REPEATS: &[u8] = &[
    0x48, 0xff, 0x03, 0x0f, 0x31, 0x48, 0x01, 0x43, 0x08, 0x31, 0xc0, 0x31, 0xd2, 0xeb, 0xf1,
];

#[test]
fn the_counter_goes_on_at_accesses_and_at_stands() {
    let program = Program {
        code: READS,
        stands: &[333, 334, 1500, 70_000, 70_001],
        end: 150_000,
        lists: true,
    };
    let found = check("counter", &program);
    assert_eq!(found.placed, 6);
}

#[test]
fn the_counter_goes_on_in_a_loop_without_accesses() {
    let program = Program {
        code: REPEATS,
        stands: &[60_001, 120_000, 200_004],
        end: 250_000,
        lists: true,
    };
    let found = check("counter-loop", &program);
    assert!(found.wrong > 10_000, "{found:?}");
}

/// The same a hundred times; then registers keep the sum, and an access follows.
#[rustfmt::skip]
const SUMS: &[u8] = &[
    0x48, 0xff, 0x03, // again: inc qword [rbx]
    0x0f, 0x31, // rdtsc
    0x48, 0x01, 0x43, 0x08, // add [rbx+8], rax
    0x31, 0xc0, // xor eax, eax
    0x31, 0xd2, // xor edx, edx
    0x83, 0x3b, 100, // cmp dword [rbx], 100
    0x72, 0xee, // jb again
    0x48, 0x8b, 0x43, 0x08, // mov rax, [rbx+8]
    0xe4, 0x60, // in al, 0x60
];

#[test]
fn the_counter_goes_back_with_a_place_that_was_wrong() {
    let program = Program {
        code: SUMS,
        stands: &[7 * 20],
        end: 702,
        lists: false,
    };
    let found = check("counter-back", &program);
    // It fits at the beginning of each of the nineteen rounds before (the first has another EDX); the sum at the
    // access tells.
    assert_eq!(found.wrong, 19, "{found:?}");
}

fn error_of(name: &str, forge: impl Fn(&mut Vec<Event>)) -> String {
    let scratch = Scratch::new(name);
    let untimed = scratch.0.join("untimed.rvr");
    let program = Program {
        code: READS,
        stands: &[1900],
        end: 20_000,
        lists: true,
    };
    record(&untimed, &program, forge);
    let recording = Arc::new(Recording::open(&untimed).unwrap());
    match resolve(&recording, &scratch.0.join("timed.rvr"), |_| {}) {
        Err(error @ ResolveError::Diverged(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn counters(events: &mut [Event]) -> impl Iterator<Item = &mut Event> {
    let is_counter = |event: &&mut Event| matches!(event.what, What::Counter { .. });
    events.iter_mut().filter(is_counter)
}

#[test]
fn a_wrong_value_diverges_at_the_next_check() {
    // The one behind access 1: what was read is in R8 at access 2.
    let error = error_of("counter-forged", |events| {
        let forged = counters(events).nth(1).unwrap();
        assert_eq!(forged.tick, 1);
        let What::Counter { value } = &mut forged.what else {
            unreachable!();
        };
        *value += 1;
    });
    assert!(error.contains("other registers after access 2"), "{error}");
    // At the stand: no state fits any more, or the check behind it fails.
    let error = error_of("counter-forged-stand", |events| {
        let at = events
            .iter()
            .position(|event| matches!(event.what, What::Stand(_)))
            .unwrap();
        let forged = counters(&mut events[at..]).next().unwrap();
        forged.what = What::Counter { value: 5 };
    });
    assert!(error.contains("other registers after access"), "{error}");
}

#[test]
fn a_read_before_the_counter_was_set_diverges() {
    let error = error_of("counter-none", |events| {
        events.retain(|event| !matches!(event.what, What::Counter { .. }));
    });
    assert!(error.contains("did not see"), "{error}");
}

#[test]
fn endless_reads_do_not_fill_memory() {
    let scratch = Scratch::new("counter-endless");
    let untimed = scratch.0.join("untimed.rvr");
    let program = Program {
        code: REPEATS,
        stands: &[],
        end: 60_000,
        lists: true,
    };
    record(&untimed, &program, |_| {});
    let recording = Arc::new(Recording::open(&untimed).unwrap());
    let mut resolver = Resolver::new(&recording, &scratch.0.join("timed.rvr")).unwrap();
    resolver.world.set_timed_max(5000);
    let error = match resolver.stretch() {
        Err(error) => error.to_string(),
        Ok(_) => panic!("ten thousand reads are kept"),
    };
    // A round is six ticks; the 5001st read is the second of its round.
    assert!(error.contains("diverges at tick 30002"), "{error}");
    assert!(resolver.world.made() <= 5001);
}
