//! Conditions of breakpoints and `dprintf` as users type them, evaluated in the server.

use std::sync::atomic::AtomicBool;

use retrovisor::timeline::api::{Debuggee, Registers};

use super::toy::{COUNTERS, NEEDLE_AT, Toy};
use super::{check, gdb, have_gdb, serving};

/// All positions of the toy at which a breakpoint's condition holds, found by looking at each.
fn brute_force(toy: &mut Toy, rip: u64, condition: impl Fn(&Registers) -> bool) -> Vec<u64> {
    let interrupt = AtomicBool::new(false);
    let mut all = Vec::new();
    for tick in toy.start()..toy.end() {
        toy.seek(tick, &interrupt).unwrap();
        let registers = toy.registers(toy.current_cpu());
        if registers.rip == rip && condition(&registers) {
            all.push(tick);
        }
    }
    toy.seek(toy.start(), &interrupt).unwrap();
    all
}

#[test]
fn conditions_in_both_directions_equal_brute_force() {
    let mut toy = Toy::new(2, 3000);
    let hits = brute_force(&mut toy, 0x401010, |r| {
        r.gpr[15] == 1 && r.gpr[0] % 7 == 3 && (r.gpr[0] + 4) / 8 > 20
    });
    assert!(hits.len() > 10, "{hits:?}");
    let condition = format!(
        "break *0x401010 if $r15 == 1 && $rax % 7 == 3 && *(long*){:#x} > 20",
        COUNTERS + 8
    );
    let mut commands = vec![condition];
    let mut wanted = Vec::new();
    for (command, hits) in [
        ("continue", hits.clone()),
        ("reverse-continue", hits.iter().rev().copied().collect()),
    ] {
        for hit in hits {
            commands.extend([command.to_string(), "p $rv_tick".to_string()]);
            wanted.push(format!(" = {hit}\n"));
        }
        commands.push(command.to_string());
        wanted.push("No more reverse-execution history".to_string());
    }
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    check(&mut toy, &commands, &wanted);
}

#[test]
fn conditions_ignore_counts_and_hit_counts() {
    check(
        &mut Toy::new(1, 1000),
        &[
            "set debug remote 1",
            "break *0x401010 if $rax > 100",
            "hbreak *0x401010 if $rax == 60",
            "ignore 1 3",
            "continue",
            "p $rax",
            "continue",
            "set debug remote 0",
            "p $rax",
            "info breakpoints",
            // Floating point cannot be evaluated here; GDB does it.
            "delete",
            "break *0x401014 if $st0 > 1.25 && $rax == 805",
            "continue",
            "p $rax",
        ],
        &[
            ",1;X",
            "Breakpoint 2, ",
            "= 60",
            "Breakpoint 1, ",
            "= 132",
            "breakpoint already hit 4 times",
            "breakpoint already hit 1 time",
            "Breakpoint 3, ",
            "= 805",
        ],
    );
}

#[test]
fn dprintf_prints_without_stopping() {
    if !have_gdb() {
        return;
    }
    let mut toy = Toy::new(1, 1000);
    let text = serving(&mut toy, |address| {
        let texts = format!(
            "dprintf *0x401010,\"<%d %5ld %s>\\n\", $rax, *(long*){COUNTERS:#x}, (char*){NEEDLE_AT:#x}"
        );
        gdb(
            address,
            &[
                "set dprintf-style agent",
                &texts,
                "dprintf *0x401008,\"here\\n\"",
                "condition 2 $rax == 42",
                "break *0x401014 if $rax > 90",
                "continue",
                "echo now-back\\n",
                "reverse-continue",
                "echo at-start\\n",
                "set debug remote 1",
                "continue",
            ],
        )
    });
    let (forward, rest) = text
        .split_once("now-back")
        .unwrap_or_else(|| panic!("{text}"));
    let (back, again) = rest
        .split_once("at-start")
        .unwrap_or_else(|| panic!("{text}"));
    let mut rest = forward;
    for rax in (4..93).step_by(8) {
        let want = format!("<{rax} {:5} needle#$}}*>\n", rax / 8 + 1);
        let at = rest
            .find(&want)
            .unwrap_or_else(|| panic!("{want:?} is missing in:\n{text}"));
        rest = &rest[at + want.len()..];
    }
    assert_eq!(forward.matches("here\n").count(), 1, "{text}");
    assert!(rest.contains("Breakpoint 3, 0x0000000000401014"), "{text}");
    assert!(
        back.contains("No more reverse-execution history") && !back.contains('<'),
        "{text}"
    );
    // One resumption, all texts, one stop.
    assert_eq!(
        again.matches("Sending packet: $vCont;c").count(),
        1,
        "{text}"
    );
    assert!(again.contains("Breakpoint 3, "), "{text}");
}
