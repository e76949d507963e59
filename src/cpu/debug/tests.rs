//! Debug exceptions as a handler sees them. Each program runs at full speed, tick by tick, and under a debugger that
//! stops everywhere, and must look the same. What steps and shadows do was compared with a processor (family 6,
//! model 143).

use super::{dr6, dr7};
use crate::cpu::Cpu;
use crate::cpu::flags::bits;
use crate::cpu::run::Exit;
use crate::cpu::state::{State, activity, cr4, efer, gpr};
use crate::cpu::stops::{Stops, WatchKind, Watchpoint};
use crate::cpu::testing::{CODE, DATA, IDT, Quiet, execute, long_mode};
use crate::cpu::vector;

const HANDLER: u64 = 0x3000;
const LOG: u32 = 0x2000;
/// PUSHFQ, set TF, POPFQ; and the same that clears it.
const STEP: [u8; 9] = [0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d];
const STOP: [u8; 9] = [0x9c, 0x81, 0x24, 0x24, 0xff, 0xfe, 0xff, 0xff, 0x9d];
const NOP: u8 = 0x90;

/// A debug exception as its handler finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// RIP in the frame, from the start of the program.
    at: u64,
    rf: bool,
    /// DR6 without the bits that are always 1.
    causes: u64,
}

fn seen(at: u64, rf: bool, causes: u64) -> Seen {
    Seen { at, rf, causes }
}

/// A handler of debug exceptions that writes down what it sees, sets RF in its frame, and returns.
fn install_handler(cpu: &mut Cpu) {
    let [a, b, c, d] = LOG.to_le_bytes();
    let code = [
        &[0x50, 0x53][..],                     // push rax; push rbx
        &[0x48, 0x8b, 0x1c, 0x25, a, b, c, d], // mov rbx, [LOG]
        &[0x48, 0x8b, 0x44, 0x24, 16],         // mov rax, [rsp + 16]
        &[0x48, 0x89, 0x03],                   // mov [rbx], rax
        &[0x48, 0x8b, 0x44, 0x24, 32],         // mov rax, [rsp + 32]
        &[0x48, 0x89, 0x43, 8],                // mov [rbx + 8], rax
        &[0x0f, 0x21, 0xf0],                   // mov rax, dr6
        &[0x48, 0x89, 0x43, 16],               // mov [rbx + 16], rax
        &[0x31, 0xc0, 0x0f, 0x23, 0xf0],       // xor eax, eax; mov dr6, rax
        &[0x48, 0x83, 0xc3, 24],               // add rbx, 24
        &[0x48, 0x89, 0x1c, 0x25, a, b, c, d], // mov [LOG], rbx
        &[0x80, 0x4c, 0x24, 34, 1],            // or byte [rsp + 34], 1
        &[0x5b, 0x58, 0x48, 0xcf],             // pop rbx; pop rax; iretq
    ]
    .concat();
    cpu.memory.write(HANDLER, &code);
    cpu.memory
        .write(LOG as u64, &(LOG as u64 + 8).to_le_bytes());
    let gate = HANDLER & 0xffff | 8 << 16 | 0x8e << 40;
    cpu.memory.write(IDT + 16, &gate.to_le_bytes());
}

/// How a program is run.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    AtOnce,
    ByTicks,
    UnderDebugger,
}

fn run(code: &[u8], setup: impl Fn(&mut State), way: Way) -> (Vec<Seen>, u64, State) {
    let mut cpu = long_mode();
    install_handler(&mut cpu);
    cpu.memory.write(CODE, code);
    cpu.memory.write(CODE + code.len() as u64, &[0xf4]);
    cpu.state.set_rip(CODE);
    setup(&mut cpu.state);
    cpu.state_changed();
    if way == Way::UnderDebugger {
        let watch = Watchpoint {
            address: DATA,
            length: 64,
            kind: WatchKind::Access,
        };
        cpu.set_stops(Stops::new(CODE..CODE + 64, [watch]));
    }
    let mut pass = false;
    for _ in 0..10_000 {
        let until = match way {
            Way::ByTicks => cpu.tick() + 1,
            _ => cpu.tick() + 1000,
        };
        let exit = cpu.run(&mut Quiet, until, pass);
        pass = exit == Exit::Breakpoint;
        if exit == Exit::Ended {
            assert_eq!(cpu.state.activity, activity::HALTED);
            let end = cpu.memory.read_u64(LOG as u64);
            let entries = (end - LOG as u64 - 8) / 24;
            let list = (0..entries).map(|n| {
                let at = |word: u64| cpu.memory.read_u64(LOG as u64 + 8 + 24 * n + 8 * word);
                seen(
                    at(0).wrapping_sub(CODE),
                    at(1) & bits::RF != 0,
                    at(2) & !dr6::FIXED,
                )
            });
            return (list.collect(), cpu.tick(), cpu.state.canonical());
        }
    }
    panic!("the program does not end");
}

/// The debug exceptions of a program, all ways of running it being equal.
fn trace(code: &[u8], setup: impl Fn(&mut State)) -> Vec<Seen> {
    let at_once = run(code, &setup, Way::AtOnce);
    for way in [Way::ByTicks, Way::UnderDebugger] {
        assert!(run(code, &setup, way) == at_once);
    }
    at_once.0
}

/// Where a program is stepped, by RIP after the step.
fn steps(parts: &[&[u8]]) -> Vec<u64> {
    let code = [&STEP[..], &parts.concat(), &STOP].concat();
    let list = trace(&code, |_| {});
    assert!(
        list.iter()
            .all(|s| s.causes == dr6::BS && !s.rf || s.at == 0)
    );
    // The instructions that clear TF are stepped, POPF, too.
    let end = code.len() as u64 - 9;
    let (body, last) = list.split_at(list.len() - 3);
    assert_eq!(
        last.iter().map(|s| s.at - end).collect::<Vec<_>>(),
        [1, 8, 9]
    );
    body.iter().map(|s| s.at - 9).collect()
}

#[test]
fn single_steps_trap_after_each_instruction_but_the_one_that_sets_tf() {
    assert_eq!(steps(&[&[NOP, NOP]]), [1, 2]);
}

#[test]
fn loading_ss_holds_a_step_off_but_not_twice_in_a_row() {
    let (get, set) = ([0x8c, 0xd0], [0x8e, 0xd0]);
    assert_eq!(steps(&[&get, &set, &[NOP, NOP]]), [2, 5, 6]);
    let four = [&get[..], &set, &set, &set, &set, &[NOP, NOP]];
    assert_eq!(steps(&four), [2, 6, 10, 11, 12]);
}

#[test]
fn repetitions_are_stepped_by_iterations_with_rf_set_between_them() {
    // mov ecx, 3; lea rsi, [rsp - 16]; rep lodsb; nop
    let code = [
        &STEP[..],
        &[0xb9, 3, 0, 0, 0, 0x48, 0x8d, 0x74, 0x24, 0xf0],
        &[0xf3, 0xac, NOP],
    ]
    .concat();
    let list = trace(&code, |_| {});
    let expected = [
        (14, false),
        (19, false),
        (19, true),
        (19, true),
        (21, false),
        (22, false),
        // HLT: the trap wakes the processor.
        (23, false),
    ];
    assert_eq!(list[..7], expected.map(|(at, rf)| seen(at, rf, dr6::BS)));
}

#[test]
fn interrupt_instructions_and_int1_are_not_stepped_into() {
    let mut cpu = long_mode();
    let code = [&STEP[..], &[0xcc]].concat();
    assert_eq!(execute(&mut cpu, &code), Some(vector::BP));
    assert_eq!(cpu.state.dr[6], dr6::FIXED);
    assert_eq!(cpu.state.pending_trap, 0);
    // INT1 raises the exception by itself, and nothing is noted.
    let list = trace(&[&STEP[..], &[0xf1], &STOP].concat(), |_| {});
    assert_eq!(list[0], seen(10, false, 0));
    assert_eq!(list[1], seen(11, false, dr6::BS));
}

#[test]
fn sysret_and_syscall_step_by_the_flag_they_leave() {
    // SYSCALL with TF masked: no trap. The target is the HLT behind the program.
    let syscall = [&STEP[..], &[0x0f, 0x05]].concat();
    let setup = |mask: u64| {
        move |s: &mut State| {
            s.efer |= efer::SCE;
            s.star = 8 << 32;
            s.lstar = CODE + 11;
            s.fmask = mask;
        }
    };
    assert_eq!(trace(&syscall, setup(bits::TF)), []);
    let list = trace(&syscall, setup(0));
    assert_eq!(list[0], seen(11, false, dr6::BS));
}

/// DR7 with breakpoint 0 enabled.
fn enable(kind: u64, length: u64) -> u64 {
    1 | kind << 16 | length << 18 | dr7::FIXED
}

#[test]
fn an_instruction_breakpoint_faults_once_before_its_instruction() {
    let code = [NOP, NOP, 0x48, 0xff, 0xc0, NOP]; // inc rax
    let list = trace(&code, |s| {
        s.dr[0] = CODE + 2;
        s.dr[7] = enable(0, 0);
    });
    assert_eq!(list, [seen(2, false, 1)]);
    // Not in the middle of an instruction, not where it is not enabled, not with a length.
    for (at, control) in [(3, enable(0, 0)), (2, dr7::FIXED), (2, enable(0, 1))] {
        let list = trace(&code, |s| {
            s.dr[0] = CODE + at;
            s.dr[7] = control;
        });
        assert_eq!(list, []);
    }
}

#[test]
fn an_instruction_breakpoint_on_a_repetition_hits_once() {
    // lea rdi, [rsp - 64]; mov ecx, 40; rep stosb
    let code = [
        &[0x48, 0x8d, 0x7c, 0x24, 0xc0][..],
        &[0xb9, 40, 0, 0, 0, 0xf3, 0xaa, NOP],
    ]
    .concat();
    let list = trace(&code, |s| {
        s.dr[2] = CODE + 10;
        s.dr[7] = 1 << 4;
    });
    assert_eq!(list, [seen(10, false, 4)]);
}

#[test]
fn an_instruction_breakpoint_behind_a_load_of_ss_does_not_hit() {
    let code = [0x8c, 0xd0, 0x8e, 0xd0, NOP, NOP];
    for (at, expected) in [(4, vec![]), (5, vec![seen(5, false, 1)])] {
        let list = trace(&code, |s| {
            s.dr[0] = CODE + at;
            s.dr[7] = enable(0, 0);
        });
        assert_eq!(list, expected);
    }
}

#[test]
fn data_breakpoints_trap_behind_the_access() {
    // mov [rbx], eax; mov eax, [rbx]; nop, with rbx around the breakpoint.
    let code = [0x89, 0x03, 0x8b, 0x03, NOP];
    for (length, bytes) in [(0u64, 1u64), (1, 2), (2, 8), (3, 4)] {
        for kind in [1, 3] {
            for distance in -5i64..10 {
                // The lowest bits of the address do not count.
                let list = trace(&code, |s| {
                    s.dr[1] = DATA + 16 + (bytes - 1);
                    s.dr[7] = 1 << 3 | kind << 20 | length << 22 | dr7::FIXED;
                    s.gpr[gpr::RBX] = DATA.wrapping_add_signed(16 + distance);
                });
                let hit = distance > -4 && distance < bytes as i64;
                let expected = match (hit, kind) {
                    (false, _) => vec![],
                    (true, 1) => vec![seen(2, false, 2)],
                    (true, _) => vec![seen(2, false, 2), seen(4, false, 2)],
                };
                assert_eq!(list, expected, "{bytes} bytes, {distance}");
            }
        }
    }
}

#[test]
fn a_data_breakpoint_within_a_repetition_traps_behind_its_iteration() {
    // mov ecx, 9; rep stosb
    let code = [0xb9, 9, 0, 0, 0, 0xf3, 0xaa, NOP];
    for (n, expected) in [(3, seen(5, true, 1)), (8, seen(7, false, 1))] {
        let list = trace(&code, |s| {
            s.gpr[gpr::RDI] = DATA;
            s.dr[0] = DATA + n;
            s.dr[7] = enable(1, 0);
        });
        assert_eq!(list, [expected]);
    }
}

#[test]
fn a_data_breakpoint_on_a_load_of_ss_waits_for_the_next_instruction() {
    // mov ss, [rbx]; nop; nop. A null selector is good at level 0.
    let code = [0x8e, 0x13, NOP, NOP];
    let setup = |s: &mut State| {
        s.gpr[gpr::RBX] = DATA;
        s.dr[0] = DATA;
        s.dr[7] = enable(3, 1);
    };
    assert_eq!(trace(&code, setup), [seen(3, false, 1)]);
    // Or for the first of a handler.
    let mut cpu = long_mode();
    setup(&mut cpu.state);
    cpu.state_changed();
    assert_eq!(
        execute(&mut cpu, &[0x8e, 0x13, 0x0f, 0x0b]),
        Some(vector::DB)
    );
    let frame = cpu.memory.read_u64(cpu.state.gpr[gpr::RSP]);
    assert_eq!(frame, 0x6000 + 16 * vector::UD as u64);
}

#[test]
fn a_faulting_instruction_forgets_what_it_hit() {
    // cmpxchg [rbx], eax reads the word; then the store is forbidden: push to an address that is not mapped.
    let mut cpu = long_mode();
    cpu.state.gpr[gpr::RBX] = DATA;
    cpu.state.gpr[gpr::RSP] = 0x18_0000;
    cpu.state.dr[0] = DATA;
    cpu.state.dr[7] = enable(3, 0);
    cpu.state_changed();
    // push [rbx]: the stack is good for the frame behind it, so the fault is delivered on it by an IST.
    let gate = cpu.memory.read_u64(IDT + 16 * 14) | 1 << 32;
    cpu.memory.write(IDT + 16 * 14, &gate.to_le_bytes());
    cpu.state.tr.base = 0x1000;
    cpu.state.tr.segment.limit = 0x67;
    cpu.memory.write(0x1024, &0x7000u64.to_le_bytes());
    assert_eq!(execute(&mut cpu, &[0xff, 0x33]), Some(vector::PF));
    assert_eq!(cpu.state.pending_trap, 0);
    assert_eq!(cpu.state.dr[6] & !dr6::FIXED, 0);
}

#[test]
fn port_breakpoints_need_de() {
    // in al, 0x60; out 0x5f, ax; nop
    let code = [0xe4, 0x60, 0x66, 0xe7, 0x5f, NOP];
    for de in [false, true] {
        let list = trace(&code, |s| {
            s.dr[3] = 0x60;
            s.dr[7] = 1 << 6 | 2 << 28;
            if de {
                s.cr4 |= cr4::DE;
            }
        });
        let expected = if de {
            vec![seen(2, false, 8), seen(5, false, 8)]
        } else {
            vec![]
        };
        assert_eq!(list, expected);
    }
}

#[test]
fn general_detect_faults_on_any_access_and_is_cleared() {
    // mov rax, dr0; nop
    let list = trace(&[0x0f, 0x21, 0xc0, NOP], |s| s.dr[7] = dr7::GD);
    assert_eq!(list, [seen(0, true, dr6::BD)]);
}

#[test]
fn moves_to_debug_registers_keep_what_exists() {
    let mut cpu = long_mode();
    let mut write = |number: u8, value: u64, de: bool| {
        cpu.state.cr4 = cpu.state.cr4 & !cr4::DE | if de { cr4::DE } else { 0 };
        cpu.state.gpr[gpr::RAX] = value;
        let vector = execute(&mut cpu, &[0x0f, 0x23, 0xc0 | number << 3]);
        (vector, cpu.state.dr)
    };
    assert_eq!(write(0, u64::MAX, false).1[0], u64::MAX);
    assert_eq!(write(6, 0xffff_ffff, false).1[6], 0xffff_eff0 | 15);
    assert_eq!(write(4, 0, false).1[6], 0xffff_0ff0);
    assert_eq!(write(5, 0xffff_0000, false).1[7], 0xffff_0400);
    assert_eq!(write(7, 0x0000_d800, false).1[7], 0x400);
    assert_eq!(write(4, 0, true).0, Some(vector::UD));
    assert_eq!(write(6, 1 << 32, false).0, Some(vector::GP));
    assert_eq!(write(7, 1 << 63, false).0, Some(vector::GP));
    // REX.R: there are no more than 8.
    assert_eq!(
        execute(&mut cpu, &[0x44, 0x0f, 0x23, 0xc0]),
        Some(vector::UD)
    );
    assert_eq!(execute(&mut cpu, &[0x0f, 0x21, 0xe0]), None);
}
