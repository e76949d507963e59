//! Questions about history, bookmarks, catches and conditions of watchpoints, as users type them with `rv`.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::toy::{
    CALL_TICK, COUNTERS, CULPRIT_TICK, FAULT_TICK, FOREVER, INTERRUPT_TICK, Toy, VICTIM,
};
use super::{check, gdb, have_gdb, serving};

fn script() -> String {
    format!(
        "source {}/gdb-scripts/retrovisor.py",
        env!("CARGO_MANIFEST_DIR")
    )
}

#[test]
fn who_wrote_it_and_when_was_it_executed() {
    let mut toy = Toy::new(1, 1000);
    toy.position = 900;
    let victim = format!("rv last-write {VICTIM:#x}");
    let go = format!("rv last-write (long*){VICTIM:#x} --go");
    let cast = format!("rv writes *(int*){COUNTERS:#x} --lines 2 between 10% here");
    let culprit =
        format!("tick {CULPRIT_TICK} (77.70 %, 0.000006216 s): pc 0x401004 0x600d -> 0xbad");
    check(
        &mut toy,
        &[
            &script(),
            "break *0x401008",
            &victim,
            "p $rax",
            &go,
            "p $rax",
            "stepi",
            &format!("p *(long*){VICTIM:#x}"),
            &cast,
            "rv hits 0x401008 --lines 1",
            "rv hits 0x500000",
            "rv first-exec 0x40101c",
            "rv first-exec 0x40101c --go between 100 end",
            "p $rax",
            "rv last-write nonsense",
            "rv writes 0x600000,0",
            "rv hits 0x401000 between 10",
        ],
        &[
            &culprit,
            "= 900",
            &culprit,
            "= 777",
            "= 2989",
            // Writes of the counter at ticks 3, 11, ...: those in 100..778.
            "84 writes",
            "TICK     SHARE        GUEST TIME  PC                  OLD -> NEW",
            "           107   10.70 %     0.000000856 s  0x000000000040100c  0xd -> 0xe",
            "(80 more)",
            "           771   77.10 %     0.000006168 s  0x000000000040100c  0x60 -> 0x61",
            "125 hits",
            "             2    0.20 %",
            "(123 more)",
            "           994   99.40 %",
            "0 hits",
            "tick 7 (0.70 %, 0.000000056 s): 0x40101c is executed",
            "tick 103 (10.30 %, 0.000000824 s): 0x40101c is executed",
            "= 103",
            "No symbol table is loaded",
            "\"0\" is no length in bytes",
            "`between` takes two places",
        ],
    );
}

#[test]
fn bookmarks_are_set_listed_and_gone_to() {
    check(
        &mut Toy::new(1, 1000),
        &[
            &script(),
            "rv bookmark",
            "rv bookmark culprit 777",
            "rv seek 250",
            "rv bookmark quarter",
            "rv bookmark",
            "rv goto culprit",
            "p $rax",
            "rv seek quarter",
            "p $rax",
            "rv timeline 0x401000",
            "rv bookmark --delete culprit",
            "rv goto culprit",
            "rv bookmark 12",
            "rv events 2",
            "complete rv goto ",
        ],
        &[
            "no bookmarks",
            "culprit is tick 777 (77.70 %)",
            "quarter is tick 250",
            "25.00 %  quarter  (here)",
            "77.70 %  culprit",
            "= 777",
            "= 250",
            "# 125 hits of 0x401000",
            "[########",
            "^ tick 250 (25.00 %",
            "a tick 250 (25.00 %) quarter",
            "b tick 777 (77.70 %) culprit",
            "is no bookmark any more",
            "there is no bookmark \"culprit\"",
            "a bookmark's name is a letter",
            "10  interrupt 0x20",
            "--- here: tick 250 (25.00 %) ---",
            &format!("{INTERRUPT_TICK}  interrupt 0x20"),
            &format!("{FAULT_TICK}  exception 14 (#PF), error code 0x2"),
            "rv goto quarter",
        ],
    );
}

#[test]
fn catches_stop_in_both_directions() {
    check(
        &mut Toy::new(1, 1000),
        &[
            &script(),
            "rv catch",
            "rv catch interrupt",
            "rv catch exception 14 13",
            "monitor catch exception 300",
            "monitor catch rain",
            "rv catch",
            "continue",
            "p $rax",
            "continue",
            "p $rax",
            "reverse-continue",
            "p $rax",
            "reverse-continue",
            "p $rax",
            "rv catch --delete 1",
            "reverse-continue",
            "rv catch --delete",
            "catch syscall 39",
            "continue",
            "p $rax",
            "continue",
            "reverse-continue",
            "p $rax",
            "catch syscall 40",
            "delete 1",
            "reverse-continue",
        ],
        &[
            "nothing is caught",
            "catch 1: interrupt",
            "catch 2: exception 14 13",
            "\"300\" is no exception number",
            "\"rain\" cannot be caught",
            "  1  interrupt\n  2  exception 14 13",
            "catch 1: interrupt 0x20",
            &format!("= {}", INTERRUPT_TICK + 1),
            "catch 2: exception 14 (#PF), error code 0x2, address 0x600200",
            &format!("= {}", FAULT_TICK + 1),
            "catch 2: exception 14",
            &format!("= {FAULT_TICK}"),
            "catch 1: interrupt 0x20",
            &format!("= {INTERRUPT_TICK}"),
            "No more reverse-execution history",
            "nothing is caught any more",
            "Catchpoint 1 (syscall",
            "Catchpoint 1 (call to syscall",
            &format!("= {}", CALL_TICK + 1),
            "No more reverse-execution history",
            "Catchpoint 1 (call to syscall",
            &format!("= {CALL_TICK}"),
            "Catchpoint 2 (syscall",
            "No more reverse-execution history",
        ],
    );
}

#[test]
fn a_watchpoint_has_a_condition_that_the_server_evaluates() {
    let mut toy = Toy::new(1, 10_000);
    let watch =
        format!("rv watch *(long*){COUNTERS:#x} if *(long*){COUNTERS:#x} % 500 == 7 && $rax > 10");
    check(
        &mut toy,
        &[
            &script(),
            &watch,
            "monitor watch-if",
            "continue",
            "continue",
            "continue",
            "continue",
            "reverse-continue",
            "reverse-continue",
            "rv watch $rax if 1",
            "rv watch",
            "delete 1",
            "monitor watch-if",
        ],
        &[
            "Hardware watchpoint 1",
            "1 conditions",
            "Old value = 0\nNew value = 7",
            "Old value = 7\nNew value = 507",
            "Old value = 507\nNew value = 1007",
            "No more reverse-execution history",
            "Old value = 1007\nNew value = 1006",
            "Old value = 1006\nNew value = 506",
            "$rax is nothing in memory",
            "usage: rv watch",
            "0 conditions",
        ],
    );
}

/// Every example of every command runs as `rv` and as `monitor`, and its help is GDB's.
#[test]
fn the_examples_in_the_help_can_be_typed() {
    if !have_gdb() {
        return;
    }
    let text = serving(&mut Toy::new(1, 1000), |address| {
        let path = std::env::temp_dir().join(format!("rv-examples-{}.py", std::process::id()));
        let lines = "\
import gdb
from retrovisor_commands import TABLE
TABLE.refresh()
for command in TABLE.commands.values():
    text = gdb.execute('help rv ' + command['name'], to_string=True)
    for example in command['examples']:
        assert '  rv ' + example in text, example
        for how in ('monitor ', 'rv '):
            try:
                gdb.execute(how + example, to_string=True)
            except gdb.error as error:
                assert 'usage:' not in str(error), example
        print('fine: ' + example)
";
        std::fs::write(&path, lines).unwrap();
        let source = format!("source {}", path.display());
        let text = gdb(address, &[&script(), &source]);
        std::fs::remove_file(path).unwrap();
        text
    });
    assert!(!text.contains("Error"), "{text}");
    assert!(text.matches("fine: ").count() > 30, "{text}");
}

#[test]
fn ctrl_c_ends_a_question() {
    if !have_gdb() {
        return;
    }
    let mut toy = Toy {
        position: FOREVER / 2,
        ..Toy::new(1, FOREVER)
    };
    let text = serving(&mut toy, |address| {
        let mut child = Command::new("gdb")
            .args([
                "-q",
                "-nx",
                "-ex",
                "set confirm off",
                "-ex",
                &script(),
                "-ex",
            ])
            .arg(format!("target remote {address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"rv hits 0x500000\n").unwrap();
        thread::sleep(Duration::from_millis(1500));
        let interrupted = Instant::now();
        let kill = Command::new("kill")
            .arg("-INT")
            .arg(child.id().to_string())
            .status()
            .unwrap();
        assert!(kill.success());
        input.write_all(b"p 6*7\nrv when\ndetach\nquit\n").unwrap();
        drop(input);
        let mut text = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        child.wait().unwrap();
        assert!(interrupted.elapsed() < Duration::from_secs(20), "{text}");
        text
    });
    assert!(text.contains("= 42"), "{text}");
    assert!(text.contains(&format!("tick {} of", FOREVER / 2)), "{text}");
}
