//! The resolver against recordings that the engine itself makes: so the ticks are known.

use super::world::JournalWorld;
use super::{Resolved, resolve};
use crate::cpu::cpuid::CpuModel;
use crate::cpu::state::gpr;
use crate::cpu::testing::{CODE, DATA, IDT, long_mode};
use crate::cpu::world::Interrupt;
use crate::machine::{Machine, STATE_VERSION, compare};
use crate::replay::Replayer;
use crate::tick::{NS_PER_TICK, Tick};
use crate::trace::{
    Accel, CpuidLeaf, End, EndReason, Event, Identity, MachineConfig, PageHash, PageList,
    Recording, Stand, What, Writer,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Handler of vector 32.
const HANDLER: u64 = 0x6200;
const VECTOR: u8 = 32;

/// A directory that goes away with the test.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Scratch {
        let path =
            std::env::temp_dir().join(format!("retrovisor-resolve-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn config(model: &CpuModel) -> MachineConfig {
    let leaf = |leaf: &crate::cpu::cpuid::Leaf| CpuidLeaf {
        leaf: leaf.leaf,
        subleaf: leaf.subleaf,
        eax: leaf.registers[0],
        ebx: leaf.registers[1],
        ecx: leaf.registers[2],
        edx: leaf.registers[3],
    };
    MachineConfig {
        ram_bytes: 1 << 20,
        cpus: 1,
        cpu_vendor: String::new(),
        cpu_model: String::new(),
        cpuid: model.leaves.iter().map(leaf).collect(),
        rtc_epoch_s: 0,
        kernel: String::new(),
        initrd: None,
        cmdline: String::new(),
        boot_protocol: String::new(),
        accel: Accel::Kvm,
        program: String::new(),
        created_unix_s: 0,
        identity: Identity(*b"0123456789abcdef"),
        digest_distance_ticks: 1 << 16,
        ns_per_tick: NS_PER_TICK,
        untimed: true,
        counter: false,
        start: None,
    }
}

/// What runs, and how it is recorded.
struct Program<'a> {
    code: &'a [u8],
    /// Where interrupts come.
    interrupts: &'a [Tick],
    /// The last tick.
    end: Tick,
    /// Whether RAM is looked at where an interrupt comes.
    lists: bool,
    /// Changes what is written.
    forge: Forge,
}

type Forge = fn(&mut Stand, &mut PageList);

const HONEST: Forge = |_, _| {};

pub(super) fn start(path: &Path, machine: &mut Machine, config: &MachineConfig) -> Writer {
    let mut writer = Writer::create(path, config).unwrap();
    let memory = &machine.cpu.memory;
    let numbers = 0..memory.pages() as u64;
    writer
        .ram(numbers, |number, out| {
            memory.read(number << 12, out);
        })
        .unwrap();
    writer.state(STATE_VERSION, &machine.save()).unwrap();
    machine.cpu.take_dirty();
    writer
}

pub(super) fn finish(mut writer: Writer, tick: Tick) {
    let end = End {
        tick,
        reason: EndReason::PowerOff,
        guest_ns: None,
        wall_ms: 0,
        statistics: Default::default(),
    };
    writer.finish(&end).unwrap();
}

/// Records a program as KVM's recorder would; gives the recording and a hash of RAM at its end.
fn record(scratch: &Scratch, program: &Program) -> (Arc<Recording>, u128) {
    let mut machine = Machine { cpu: long_mode() };
    let cpu = &mut machine.cpu;
    cpu.memory.write(CODE, program.code);
    // Counts, and returns.
    cpu.memory
        .write(HANDLER, &[0xff, 0x05, 0xfa, 0x1f, 0x01, 0x00, 0x48, 0xcf]);
    let gate = HANDLER & 0xffff | 8 << 16 | 0x8e << 40;
    cpu.memory
        .write(IDT + 16 * u64::from(VECTOR), &gate.to_le_bytes());
    cpu.state.idtr.limit = 0x2ff;
    cpu.state.set_rip(CODE);
    cpu.state.flags.set_rflags(0x202);
    cpu.state.gpr[gpr::RBX] = DATA;
    cpu.state_changed();

    let path = scratch.0.join("untimed.rvr");
    // Without events: it lends its world.
    let config = config(&CpuModel::native());
    finish(start(&path, &mut machine, &config), 0);
    let mut world = JournalWorld::new(&Arc::new(Recording::open(&path).unwrap()));
    world.set_target(u64::MAX);
    let mut writer = start(&path, &mut machine, &config);
    let mut push = |what: What| {
        writer
            .push(&Event {
                tick: 0,
                cpu: 0,
                what,
            })
            .unwrap();
    };
    let mut placed = machine.tick();
    for &tick in program.interrupts.iter().chain([&program.end]) {
        machine.run(&mut world, tick, true);
        assert_eq!(machine.tick(), tick);
        let state = &machine.cpu.state;
        let (general, flags) = compare::general_of(state);
        let mut stand = Stand {
            rip: state.rip(),
            linear: machine.cpu.linear_rip(),
            flags,
            general,
            vector: compare::vector_hash(state),
            elapsed_ns: (tick - placed) / 4,
        };
        placed = tick;
        let mut list = PageList {
            state: machine.save(),
            ..PageList::default()
        };
        let at_end = tick == program.end;
        if program.lists || at_end {
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
        }
        (program.forge)(&mut stand, &mut list);
        push(What::Stand(Box::new(stand)));
        if program.lists || at_end {
            list.encode()
                .into_iter()
                .for_each(|bytes| push(What::Pages { bytes }));
        }
        if !at_end {
            push(What::Interrupt { vector: VECTOR });
            world.arm(Interrupt::Vector(VECTOR));
            machine.run(&mut world, tick + 1, true);
            assert!(!world.is_armed(), "no interrupt at tick {tick}");
        }
    }
    finish(writer, 0);
    (
        Arc::new(Recording::open(&path).unwrap()),
        machine.hash_ram(),
    )
}

/// The ticks at which interrupts come in a recording.
fn interrupts(recording: &Arc<Recording>) -> Vec<Tick> {
    let mut cursor = recording.cursor();
    let mut ticks = Vec::new();
    while let Some(event) = cursor.next().unwrap() {
        if matches!(event.what, What::Interrupt { .. }) {
            ticks.push(event.tick);
        }
    }
    ticks
}

/// Records, resolves, and replays.
fn check(name: &str, program: &Program) -> Resolved {
    let scratch = Scratch::new(name);
    let (recording, ram) = record(&scratch, program);
    let timed = scratch.0.join("timed.rvr");
    let found =
        resolve(&recording, &timed, |_| {}).unwrap_or_else(|error| panic!("{name}: {error}"));
    let recording = Arc::new(Recording::open(&timed).unwrap());
    assert_eq!(interrupts(&recording), program.interrupts, "{name}");
    assert_eq!(recording.last_tick(), program.end, "{name}");
    let mut replayer = Replayer::new(&recording).unwrap();
    while replayer.tick() < replayer.end() {
        replayer
            .run_to_digest()
            .unwrap_or_else(|divergence| panic!("{name}: {divergence}"));
    }
    assert_eq!(replayer.machine.hash_ram(), ram, "{name}");
    found
}

/// `inc qword [rbx]; jmp`: every register repeats.
const COUNTS: &[u8] = &[0x48, 0xff, 0x03, 0xeb, 0xfb];

#[test]
fn memory_tells_states_apart_where_registers_repeat() {
    let program = Program {
        code: COUNTS,
        interrupts: &[100_001, 300_000, 300_005, 900_000],
        end: 1_000_000,
        lists: true,
        forge: HONEST,
    };
    let found = check("memory", &program);
    assert!(
        found.candidates > 400_000 && found.wrong > 400_000,
        "{found:?}"
    );
    assert_eq!(found.placed, 5);
}

#[test]
fn without_lists_wrong_places_are_found_later_and_given_up() {
    let program = Program {
        code: COUNTS,
        interrupts: &[101, 3000],
        end: 4000,
        lists: false,
        forge: HONEST,
    };
    // The handler saves nothing that tells; only RAM at the end knows where the interrupts came.
    let scratch = Scratch::new("no-lists");
    let (recording, ram) = record(&scratch, &program);
    let timed = scratch.0.join("timed.rvr");
    let found = resolve(&recording, &timed, |_| {}).unwrap();
    assert!(found.wrong > 0, "{found:?}");
    let recording = Arc::new(Recording::open(&timed).unwrap());
    let mut replayer = Replayer::new(&recording).unwrap();
    while replayer.tick() < replayer.end() {
        replayer.run_to_digest().unwrap();
    }
    assert_eq!(replayer.machine.hash_ram(), ram);
    assert_eq!(recording.last_tick(), program.end);
}

/// `inc byte [rbx]; jnz back; inc qword [rbx+0x2000]; jmp back`: two pages take turns in telling.
#[test]
fn several_lines_tell_together() {
    let code = &[
        0xfe, 0x03, 0x75, 0xfc, 0x48, 0xff, 0x83, 0x00, 0x20, 0x00, 0x00, 0xeb, 0xf3,
    ];
    let program = Program {
        code,
        interrupts: &[77_777, 200_000, 654_321],
        end: 700_000,
        lists: true,
        forge: HONEST,
    };
    let found = check("lines", &program);
    assert!(found.candidates > 200_000, "{found:?}");
}

/// `addsd xmm0, xmm1; jmp`: neither registers nor memory.
#[test]
fn sse_registers_tell_states_apart() {
    let code = &[
        // mov rax, 1.0; movq xmm1, rax
        0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x66, 0x48, 0x0f, 0x6e, 0xc8,
        // addsd xmm0, xmm1; jmp
        0xf2, 0x0f, 0x58, 0xc1, 0xeb, 0xfa,
    ];
    let program = Program {
        code,
        interrupts: &[100_000, 400_001],
        end: 500_000,
        lists: true,
        forge: HONEST,
    };
    let found = check("sse", &program);
    assert!(found.wrong > 100_000, "{found:?}");
}

/// `mov rdi, rbx; mov ecx, 3000; rep stosb; inc rax; jmp`: one address for 3000 ticks, and every other count as well.
#[test]
fn iterations_of_a_repeated_instruction_are_told_apart() {
    let code = &[
        0x48, 0x89, 0xdf, 0xb9, 0xb8, 0x0b, 0x00, 0x00, 0xf3, 0xaa, 0x48, 0xff, 0xc0, 0xeb, 0xf1,
    ];
    let program = Program {
        code,
        interrupts: &[1500, 20_002, 20_006, 20_500, 123_456, 400_002],
        end: 500_000,
        lists: true,
        forge: HONEST,
    };
    let found = check("repeated", &program);
    // A stop for each time that it begins, and one where the count is right, or 64 at its end.
    assert!(found.candidates < 15_000, "{found:?}");
}

/// `mov rdi, rbx; mov ecx, 3000; mov al, 1; xor byte [rbx+500], 1; repne scasb; inc rdx; jmp`: every other time it ends
/// early, and begins again before its count would have been used up.
#[test]
fn a_repeated_instruction_that_ends_early_is_no_trap() {
    let code = &[
        0x48, 0x89, 0xdf, 0xb9, 0xb8, 0x0b, 0x00, 0x00, 0xb0, 0x01, 0x80, 0xb3, 0xf4, 0x01, 0x00,
        0x00, 0x01, 0xf2, 0xae, 0x48, 0xff, 0xc2, 0xeb, 0xe8,
    ];
    let program = Program {
        code,
        interrupts: &[9, 1500, 20_002, 20_006, 23_500, 123_456],
        end: 130_000,
        lists: true,
        forge: |_, _| {},
    };
    check("early", &program);
}

#[test]
fn forged_lists_and_stands_are_divergences() {
    let forgeries: [(&str, Forge); 7] = [
        ("a page that is not there", |_, list| {
            let row = PageHash {
                page: u32::MAX,
                whole: 1,
                unmarked: 2,
            };
            list.pages.insert(0, row);
            list.lines.insert(0, [0; 64]);
        }),
        ("other lines", |_, list| {
            list.pages[0].whole ^= 1;
            list.pages[0].unmarked ^= 1;
            list.lines[0] = [7; 64];
        }),
        ("a page too few", |_, list| {
            list.pages.clear();
            list.lines.clear();
        }),
        ("another time", |stand, _| stand.elapsed_ns = 0),
        ("a time without end", |stand, _| {
            stand.elapsed_ns = u64::MAX;
            stand.vector ^= 1;
        }),
        ("another register", |stand, _| stand.general[5] ^= 1),
        ("a state of no processor", |_, list| list.state.fill(0xff)),
    ];
    for (n, (what, forge)) in forgeries.into_iter().enumerate() {
        let program = Program {
            // Ends by itself: `mov ecx, 100000; inc qword [rbx]; loop; ud2`.
            code: &[
                0xb9, 0xa0, 0x86, 0x01, 0x00, 0x48, 0xff, 0x03, 0xe2, 0xfb, 0x0f, 0x0b,
            ],
            interrupts: &[150_000],
            end: 160_000,
            lists: true,
            forge,
        };
        let scratch = Scratch::new(&format!("forged-{n}"));
        let (recording, _) = record(&scratch, &program);
        let timed = scratch.0.join("timed.rvr");
        let error = match resolve(&recording, &timed, |_| {}) {
            Err(error) => error.to_string(),
            Ok(found) => panic!("{what}: {found:?}"),
        };
        assert!(error.contains("diverges at tick"), "{what}: {error}");
    }
}
