//! Stops at interrupts, exceptions, system calls and the like, against single ticks: what happens at a tick is read off
//! the instruction that stands there, the guest's own interrupt table, and the log.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use retrovisor::cpu::events::SPACE_MASK;
use retrovisor::cpu::state::{State, gpr};
use retrovisor::machine::Machine;
use retrovisor::replay::Replayer;
use retrovisor::tick::Tick;
use retrovisor::timeline::Timeline;
use retrovisor::timeline::api::{
    Debuggee, Direction, Event, EventSet, Question, StopReason, Stops, Want,
};
use retrovisor::trace::What;

use crate::scan::{Hit, expected};
use crate::support::recording::{self, Recorded, plain, record_guest, run_to};
use crate::support::skip;
use crate::{GUESTS, NEVER, linux, random, seek};

fn read(machine: &Machine, address: u64, out: &mut [u8]) -> usize {
    let mut done = 0;
    while done < out.len() {
        let at = address.wrapping_add(done as u64);
        let Some(physical) = machine.cpu.probe(at) else {
            return done;
        };
        let n = (4096 - (at & 0xfff) as usize).min(out.len() - done);
        let got = machine.cpu.memory.read(physical, &mut out[done..done + n]);
        done += got;
        if got < n {
            return done;
        }
    }
    done
}

fn read_u64(machine: &Machine, address: u64) -> u64 {
    let mut bytes = [0; 8];
    read(machine, address, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// The vector whose handler in the guest's interrupt table is the next instruction, in protected mode.
pub fn exception_entered(machine: &Machine) -> Option<u8> {
    let state = &machine.cpu.state;
    let bytes = if state.long_mode() { 16 } else { 8 };
    let gates = (u64::from(state.idtr.limit as u16) + 1) / bytes;
    (0..gates.min(256)).find_map(|vector| {
        let at = state.idtr.base + vector * bytes;
        let low = read_u64(machine, at);
        let high = if bytes == 16 {
            read_u64(machine, at + 8)
        } else {
            0
        };
        let offset = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        (low >> 47 & 1 != 0 && offset == state.rip()).then_some(vector as u8)
    })
}

fn instruction(machine: &Machine) -> Instruction {
    let mut bytes = [0; 15];
    let rip = machine.cpu.linear_rip();
    let got = read(machine, rip, &mut bytes);
    let bits = if machine.cpu.state.code64() { 64 } else { 32 };
    Decoder::with_ip(bits, &bytes[..got], rip, DecoderOptions::NONE).decode()
}

fn number_of(register: Register) -> Option<u8> {
    Some(match register {
        Register::CR0 => 0,
        Register::CR2 => 2,
        Register::CR3 => 3,
        Register::CR4 => 4,
        Register::CR8 => 8,
        _ => return None,
    })
}

/// What an instruction has brought that did not fault.
fn brought(insn: &Instruction, before: &State, after: &State) -> Option<Event> {
    match insn.mnemonic() {
        Mnemonic::Syscall => Some(Event::SystemCall {
            number: before.gpr[gpr::RAX],
            wide: true,
        }),
        Mnemonic::Sysret | Mnemonic::Sysretq | Mnemonic::Sysexit | Mnemonic::Sysexitq => {
            Some(Event::UserReturn)
        }
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
            (before.cpl != 3 && after.cpl == 3).then_some(Event::UserReturn)
        }
        Mnemonic::Wrmsr => Some(Event::Msr {
            msr: before.gpr[gpr::RCX] as u32,
            value: before.gpr[gpr::RDX] << 32 | before.gpr[gpr::RAX] & 0xffff_ffff,
        }),
        Mnemonic::Mov if insn.op0_kind() == OpKind::Register => {
            let register = number_of(insn.op0_register())?;
            if (before.cr3 ^ after.cr3) & SPACE_MASK != 0 {
                return Some(Event::Space {
                    root: after.cr3 & SPACE_MASK,
                });
            }
            let from = insn.op1_register().full_register();
            let value = before.gpr[from as usize - Register::RAX as usize];
            Some(Event::Control { register, value })
        }
        _ => None,
    }
}

/// What happens at each tick of a stretch, with the instruction's address, by single ticks in a plain replay.
fn by_stepping(
    replayer: &mut Replayer,
    until: Tick,
    interrupts: &HashMap<Tick, u8>,
) -> Vec<(Tick, u64, Event)> {
    let mut all = Vec::new();
    while replayer.tick() < until {
        let now = replayer.tick();
        let before = replayer.machine.cpu.state;
        let at = replayer.machine.cpu.linear_rip();
        let insn = instruction(&replayer.machine);
        replayer.run(now + 1, true);
        assert_eq!(replayer.tick(), now + 1);
        let after = &replayer.machine.cpu.state;
        let software = matches!(
            insn.mnemonic(),
            Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Int1 | Mnemonic::Into
        );
        // A branch may lead to a handler's address; none of Linux's or ours does.
        let led_there = [insn.next_ip(), insn.near_branch_target()];
        let entered = (after.rip() != before.rip() && !led_there.contains(&after.rip()))
            .then(|| exception_entered(&replayer.machine))
            .flatten();
        let event = match (interrupts.get(&now), entered) {
            (Some(&vector), _) => Some(Event::Interrupt { vector }),
            (None, Some(vector)) => {
                let coded = !software && matches!(vector, 8 | 10..=14 | 17);
                let code = coded.then(|| read_u64(&replayer.machine, after.gpr[gpr::RSP]) as u32);
                let address = if vector == 14 && !software {
                    after.cr2
                } else {
                    0
                };
                Some(match vector {
                    0x80 if before.cpl == 3 => Event::SystemCall {
                        number: before.gpr[gpr::RAX] & 0xffff_ffff,
                        wide: false,
                    },
                    _ => Event::Exception {
                        vector,
                        code,
                        address,
                    },
                })
            }
            (None, None) => brought(&insn, &before, after),
        };
        all.extend(event.map(|event| (now, at, event)));
    }
    all
}

fn vectors(recorded: &Recorded) -> HashMap<Tick, u8> {
    recording::events(&recorded.recording)
        .iter()
        .filter_map(|event| match event.what {
            What::Interrupt { vector } => Some((event.tick, vector)),
            What::Nmi => Some((event.tick, 2)),
            _ => None,
        })
        .collect()
}

/// All there is to catch.
fn everything() -> EventSet {
    let mut all = EventSet {
        interrupts: [!0; 4],
        exceptions: [!0; 4],
        controls: !0,
        all_msrs: true,
        returns: true,
        spaces: true,
        ..EventSet::default()
    };
    all.add_all_calls();
    all
}

/// A set of some of these events, and perhaps of others of a kind.
fn some_of(all: &[(Tick, u64, Event)], random: &mut fastrand::Rng) -> EventSet {
    let mut set = EventSet::default();
    for _ in 0..random.usize(1..4) {
        match random.choice(all) {
            Some((_, _, event)) => set.add(event),
            None => set.exceptions = [!0; 4],
        }
    }
    set
}

/// Compares what the timeline says of a stretch with what single ticks say. Gives how many events there were.
fn compare(
    timeline: &mut Timeline,
    replayer: &mut Replayer,
    (from, until): (Tick, Tick),
    interrupts: &HashMap<Tick, u8>,
    random: &mut fastrand::Rng,
) -> usize {
    let all = by_stepping(replayer, until, interrupts);
    let question = Question {
        stops: Stops {
            events: everything(),
            ..Stops::default()
        },
        from,
        until,
        want: Want::All {
            first: usize::MAX,
            last: 0,
        },
    };
    let answers = timeline.ask(&question, &NEVER).unwrap();
    let got: Vec<(Tick, u64, Event)> = answers
        .first
        .iter()
        .map(|found| match found.reason {
            StopReason::Event(event) => (found.tick, found.rip, event),
            ref other => panic!("{other:?}"),
        })
        .collect();
    for (got, want) in got.iter().zip(&all) {
        assert_eq!(got, want, "{} for {}", got.2, want.2);
    }
    assert_eq!(got.len(), all.len());
    for _ in 0..8 {
        let stops = Stops {
            events: some_of(&all, random),
            ..Stops::default()
        };
        let hits: Vec<Hit> = all
            .iter()
            .filter(|(_, _, event)| stops.events.has(event))
            .map(|&(tick, _, event)| Hit {
                before: tick,
                after: tick + 1,
                reason: StopReason::Event(event),
            })
            .collect();
        let position = match random.choice(&hits) {
            Some(hit) if random.bool() => hit.before + random.u64(0..2),
            _ => random.u64(from..=until),
        };
        for direction in [Direction::Forward, Direction::Backward] {
            let Some((there, reason)) = expected(&hits, position, direction) else {
                continue;
            };
            // Outside of the stretch nothing is known.
            if there > until || position < from {
                continue;
            }
            seek(timeline, position);
            let stop = timeline.run(direction, &stops, &NEVER);
            assert_eq!(
                (timeline.position(), &stop.reason),
                (there, reason),
                "{direction:?} from {position}"
            );
        }
    }
    all.len()
}

#[test]
fn events_of_small_guests_are_those_of_single_ticks() {
    let mut random = random("events_of_small_guests_are_those_of_single_ticks");
    let mut seen = 0;
    for (name, typed) in GUESTS {
        let recorded = record_guest(name, typed.as_bytes());
        let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
        let end = timeline.end();
        let mut replayer = plain(&recorded.recording);
        // The last tick of some is a triple fault.
        let range = (0, end.min(1_000_000) - 1);
        let vectors = vectors(&recorded);
        seen += compare(&mut timeline, &mut replayer, range, &vectors, &mut random);
    }
    assert!(seen >= 100, "only {seen} events");
}

#[test]
fn events_of_linux_are_those_of_single_ticks() {
    const TEST: &str = "events_of_linux_are_those_of_single_ticks";
    const TICKS: Tick = 150_000;
    let recorded = match linux() {
        Ok(recorded) => recorded,
        Err(why) => return skip(TEST, &why),
    };
    let mut random = random(TEST);
    let vectors = vectors(recorded);
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let end = timeline.end();
    // Programs run near the end; interrupts come everywhere.
    let mut starts: Vec<Tick> = (0..2).map(|_| random.u64(end / 2..end - TICKS)).collect();
    let mut events = EventSet::default();
    events.add_all_calls();
    let question = Question {
        stops: Stops {
            events,
            ..Stops::default()
        },
        from: 0,
        until: end,
        want: Want::All {
            first: 100_000,
            last: 0,
        },
    };
    let calls = timeline.ask(&question, &NEVER).unwrap().first;
    assert!(calls.len() > 50, "only {} system calls", calls.len());
    starts.extend((0..4).map(|_| calls[random.usize(0..calls.len())].tick - TICKS / 2));
    let ticks: Vec<Tick> = vectors.keys().copied().collect();
    starts.push(ticks[random.usize(0..ticks.len())].min(end - TICKS));
    starts.sort_unstable();
    let mut replayer = plain(&recorded.recording);
    let mut seen = 0;
    for start in starts {
        if start < replayer.tick() {
            continue;
        }
        run_to(&mut replayer, start);
        let range = (start, start + TICKS);
        if range.1 < end {
            seen += compare(&mut timeline, &mut replayer, range, &vectors, &mut random);
        }
    }
    assert!(seen >= 20, "only {seen} events");
}

/// Kinds that never occur are looked for in all of history, and the ends are reached.
#[test]
fn a_search_for_no_event_ends_at_the_ends() {
    let recorded = record_guest("counter", b"");
    let mut timeline = Timeline::open(recorded.recording.clone()).unwrap();
    let end = timeline.end();
    let mut stops = Stops::default();
    stops.events.add_call(1000);
    let stop = timeline.run(Direction::Forward, &stops, &NEVER);
    assert_eq!(
        (timeline.position(), stop.reason),
        (end, StopReason::HistoryEnd)
    );
    let stop = timeline.run(Direction::Backward, &stops, &NEVER);
    assert_eq!(
        (timeline.position(), stop.reason),
        (0, StopReason::HistoryStart)
    );
}
