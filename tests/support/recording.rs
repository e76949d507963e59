//! Recordings made in the test run, and what tests compare: states at ticks, checked by one plain forward run.

use retrovisor::cpu::cpuid::Processor;
use retrovisor::record::live::Random;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retrovisor::cpu::run::Exit;
use retrovisor::machine::Machine;
use retrovisor::machine::boot::Protocol;
use retrovisor::record::console::{Command, Console};
use retrovisor::record::emulated::{Outcome, Plan, record};
use retrovisor::replay::Replayer;
use retrovisor::tick::Tick;
use retrovisor::trace::{Cursor, Event, Recording, What};
use xxhash_rust::xxh3::xxh3_128;

use super::{LINUX_CMDLINE, Linux, guest, scratch};

/// RAM of the guests of assembler.
pub const GUEST_RAM: u64 = 16 << 20;
/// RAM of the Debian guest: less than users give it, since every state that is compared hashes all of it.
pub const LINUX_RAM: u64 = 128 << 20;

/// A console that types what it is told and keeps what it hears. No host time in it: runs are reproducible.
pub struct Script {
    typed: Vec<u8>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Script {
    /// Types these bytes as fast as the guest takes them. The second value is what the guest sends.
    pub fn new(typed: &[u8]) -> (Script, Arc<Mutex<Vec<u8>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let script = Script {
            typed: typed.to_vec(),
            heard: heard.clone(),
        };
        (script, heard)
    }
}

impl Console for Script {
    fn output(&mut self, bytes: &[u8]) {
        self.heard.lock().unwrap().extend_from_slice(bytes);
    }
    fn poll(&mut self) -> Option<Command> {
        (!self.typed.is_empty()).then_some(Command::Input)
    }
    fn input(&mut self) -> &[u8] {
        &self.typed
    }
    fn consume(&mut self, bytes: usize) {
        self.typed.drain(..bytes);
    }
    fn is_interactive(&self) -> bool {
        false
    }
    fn input_ended(&self) -> bool {
        self.typed.is_empty()
    }
    fn wait(&mut self, at_most: Duration) {
        std::thread::sleep(at_most);
    }
}

/// A recording that was just made.
pub struct Recorded {
    pub path: PathBuf,
    /// What the guest sent to its serial line while it was recorded.
    pub console: Vec<u8>,
    pub outcome: Outcome,
    pub recording: Arc<Recording>,
}

impl Recorded {
    /// What the guest sent, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }
}

/// A plan for a kernel image, with everything that could differ between two runs fixed.
pub fn plan<'a>(kernel: &'a [u8], name: &str, ram_bytes: u64) -> Plan<'a> {
    Plan {
        kernel,
        kernel_name: name.to_string(),
        initrd: None,
        initrd_name: None,
        cmdline: String::new(),
        ram_bytes,
        cpu: Processor::default(),
        protocol: None,
        ticks_max: None,
        guest_ns_max: None,
        rtc_epoch_s: 1_700_000_000,
        created_unix_s: 1_700_000_000,
        random: Random::Seeded(1),
        identity: *b"a test recording",
    }
}

/// Records a plan.
pub fn record_plan(plan: &Plan, path: &Path, typed: &[u8]) -> Recorded {
    let (script, heard) = Script::new(typed);
    let outcome = record(plan, path, Box::new(script), |_, _, _| {})
        .unwrap_or_else(|error| panic!("{} is not recorded: {error}", plan.kernel_name));
    let recording = Recording::open(path)
        .unwrap_or_else(|error| panic!("{} does not open: {error}", path.display()));
    let console = heard.lock().unwrap().clone();
    Recorded {
        path: path.into(),
        console,
        outcome,
        recording: Arc::new(recording),
    }
}

/// Records a guest of tests/guests.
pub fn record_guest(name: &str, typed: &[u8]) -> Recorded {
    let elf = fs::read(guest(name)).unwrap();
    let mut plan = plan(&elf, name, GUEST_RAM);
    // Whoever waits for ever is a failure, not a hang.
    plan.ticks_max = Some(50_000_000);
    let directory = scratch(&format!("recording-{name}"));
    record_plan(&plan, &directory.join(format!("{name}.rvr")), typed)
}

/// Records the Debian guest.
pub fn record_linux(linux: &Linux, path: &Path, change: impl FnOnce(&mut Plan)) -> Recorded {
    let (kernel, initrd) = (
        fs::read(&linux.kernel).unwrap(),
        fs::read(&linux.initrd).unwrap(),
    );
    let mut plan = plan(&kernel, "Debian", LINUX_RAM);
    plan.initrd = Some(&initrd);
    plan.cmdline = LINUX_CMDLINE.to_string();
    plan.protocol = Some(Protocol::Linux64);
    // Several times what it takes.
    plan.ticks_max = Some(20_000_000_000);
    change(&mut plan);
    record_plan(&plan, path, b"")
}

/// All that a machine is: a hash of its registers (every field of the saved state) and one of all its RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Snapshot {
    pub registers: u128,
    pub ram: u128,
}

/// The state of a machine.
pub fn snapshot(machine: &Machine) -> Snapshot {
    Snapshot {
        registers: xxh3_128(&machine.save()),
        ram: machine.hash_ram(),
    }
}

/// A replay without checkpoints at the start of a recording, which is not asked to compare digests.
pub fn plain(recording: &Arc<Recording>) -> Replayer {
    let mut replayer = Replayer::new(recording).expect("what was recorded is replayed");
    replayer.world.check_digests(false);
    replayer
}

/// Runs a plain replay to a tick.
pub fn run_to(replayer: &mut Replayer, tick: Tick) {
    while replayer.tick() < tick {
        let exit = replayer.run(tick, true);
        if let Some(divergence) = replayer.world.diverged() {
            panic!("{divergence}");
        }
        let at = replayer.tick();
        assert!(
            exit != Exit::Ended || at >= tick,
            "the replay ends at tick {at}, on the way to {tick}"
        );
    }
    assert_eq!(replayer.tick(), tick, "a run stops exactly where it shall");
}

/// Something that was seen at a tick, to be compared with a plain forward run.
#[derive(Clone, Debug)]
pub struct Seen {
    pub tick: Tick,
    pub state: Snapshot,
    /// How the tick was reached, in words.
    pub by: String,
}

/// Compares everything that was seen with one run forward from the start, without checkpoints.
pub fn compare_with_forward_run(recording: &Arc<Recording>, mut seen: Vec<Seen>) {
    assert!(!seen.is_empty(), "nothing to compare");
    seen.sort_by_key(|s| s.tick);
    let mut replayer = plain(recording);
    let mut now: Option<(Tick, Snapshot)> = None;
    for s in &seen {
        if now.is_none_or(|(tick, _)| tick != s.tick) {
            run_to(&mut replayer, s.tick);
            now = Some((s.tick, snapshot(&replayer.machine)));
        }
        let (_, forward) = now.unwrap();
        let differs = match (
            forward.registers == s.state.registers,
            forward.ram == s.state.ram,
        ) {
            (true, true) => continue,
            (false, true) => "registers",
            (true, false) => "memory",
            (false, false) => "registers and memory",
        };
        panic!(
            "other {differs} at tick {} reached by {} than by running forward from the start",
            s.tick, s.by
        );
    }
}

/// All events of a recording.
pub fn events(recording: &Arc<Recording>) -> Vec<Event> {
    let mut cursor: Cursor = recording.cursor();
    let mut events = Vec::new();
    while let Some(event) = cursor.next().expect("a sound recording") {
        events.push(event.clone());
    }
    events
}

/// The ticks at which an interrupt is delivered instead of an instruction, ascending.
pub fn interrupt_ticks(recording: &Arc<Recording>) -> Vec<Tick> {
    let events = events(recording);
    let arrives = |what: &What| matches!(what, What::Interrupt { .. } | What::Nmi);
    let interrupts = events.iter().filter(|event| arrives(&event.what));
    interrupts.map(|event| event.tick).collect()
}
