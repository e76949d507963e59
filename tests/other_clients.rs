//! Clients other than GDB's prompt, over the toy recording: LLDB, and the GDB/MI commands that Visual Studio Code's C++
//! debugger sends.
//!
//! Skipped, loudly, where there is no such client.

mod support;
mod toy;

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use retrovisor::gdb::Server;
use toy::{DATA, Toy};

/// No scenario takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn serving<T: Send>(toy: &mut Toy, body: impl FnOnce(&str) -> T + Send) -> T {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let address = server.address().unwrap();
    let quit = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let _quit = SetOnDrop(&quit);
            body(&address)
        });
        server.serve(toy, &quit).unwrap();
        client.join().unwrap()
    })
}

/// Runs a client whose commands are in a file, and gives what it prints.
fn run(mut command: Command) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = reader.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() && started.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    let hangs = child.try_wait().unwrap().is_none();
    if hangs {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let text = reader.join().unwrap();
    assert!(!hangs, "the client hangs: {text}");
    text
}

/// Demands that these texts appear in this order.
fn in_order(text: &str, wanted: &[&str]) {
    let mut rest = text;
    for want in wanted {
        match rest.find(want) {
            Some(at) => rest = &rest[at + want.len()..],
            None => panic!("{want:?} is missing (or too early) in:\n{text}"),
        }
    }
}

#[test]
fn lldb_connects_reads_steps_and_continues() {
    const TEST: &str = "lldb_connects_reads_steps_and_continues";
    let found = Command::new("lldb")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        return support::skip(TEST, "no lldb on this machine (package lldb)");
    }
    let directory = support::scratch("lldb");
    let text = serving(&mut Toy::new(1, 1000), |address| {
        let commands = directory.join("commands");
        let memory = format!("memory read --size 1 --count 4 {DATA:#x}\n");
        let lines = [
            &format!("gdb-remote {address}\n"),
            "register read rip rsp cr3 rv_tick\n",
            &memory,
            "thread step-inst\n",
            "register read rax\n",
            "breakpoint set --address 0x401010\n",
            "process continue\n",
            "register read rip rv_tick\n",
            "process continue\n",
            "register read rip rv_tick\n",
            &memory,
            "breakpoint delete --force\n",
            "process continue\n",
            "register read rv_tick\n",
            "process plugin packet send qRcmd,7768656e\n",
            "thread list\n",
            "detach\n",
            "quit\n",
        ];
        std::fs::write(&commands, lines.concat()).unwrap();
        let mut lldb = Command::new("lldb");
        lldb.args(["--no-lldbinit", "-b", "-s"])
            .arg(&commands)
            .stdin(Stdio::null());
        run(lldb)
    });
    in_order(
        &text,
        &[
            "Process 1 stopped",
            "->  0x401000: nopl",
            "rip = 0x0000000000401000",
            "rsp = 0x00000000007ff800",
            "cr3 = 0x0000000001c03000",
            "rv_tick = 0x0000000000000000",
            "0x00600000: 00 00 00 00",
            "stop reason = instruction step into",
            "rax = 0x0000000000000001",
            "stop reason = breakpoint 1.1",
            "rip = 0x0000000000401010",
            "rv_tick = 0x0000000000000004",
            "stop reason = breakpoint 1.1",
            "rip = 0x0000000000401010",
            "rv_tick = 0x000000000000000c",
            "0x00600000: 02 00 00 00",
            "Process 1 stopped",
            "rv_tick = 0x00000000000003e8",
            "response: O7469636b2031303030",
            "thread #1",
            "Process 1 detached",
        ],
    );
}

/// What Visual Studio Code's cppdbg sends when it is used as docs/vscode.md says, back steps included.
#[test]
fn the_commands_of_vs_code_work() {
    const TEST: &str = "the_commands_of_vs_code_work";
    let gdb = match support::gdb() {
        Ok(gdb) => gdb,
        Err(why) => return support::skip(TEST, &why),
    };
    let directory = support::scratch("vscode");
    let script = format!("{}/gdb-scripts/retrovisor.py", env!("CARGO_MANIFEST_DIR"));
    let text = serving(&mut Toy::new(1, 1000), |address| {
        let lines = [
            "1-gdb-set mi-async off",
            "2-interpreter-exec console \"set pagination off\"",
            &format!("3-interpreter-exec console \"source {script}\""),
            &format!("4-target-select remote {address}"),
            "5-list-target-features",
            "6-break-insert *0x401010",
            "7-thread-info",
            "8-exec-continue",
            "9-stack-list-frames",
            "10-data-list-register-names",
            "11-data-list-register-values --skip-unavailable x 0 16",
            "12-data-read-memory-bytes 0x600000 8",
            "13-data-disassemble -s 0x401000 -e 0x401010 -- 2",
            "14-exec-next-instruction",
            "15-exec-step-instruction",
            "16-exec-step-instruction --reverse",
            "17-exec-continue --reverse",
            "18-var-create - * \"$rv_tick\"",
            "19-interpreter-exec console \"rv seek 500\"",
            "20-data-evaluate-expression $rv_tick",
            "21-interpreter-exec console \"rv hits 0x401004 --lines 1\"",
            "22-data-evaluate-expression 6*7",
            "23-target-detach",
            "24-gdb-exit",
        ];
        let commands = directory.join("commands");
        std::fs::write(&commands, lines.join("\n") + "\n").unwrap();
        let mut mi = Command::new(gdb);
        mi.args(["-q", "-nx", "--interpreter=mi"])
            .stdin(std::fs::File::open(commands).unwrap());
        run(mi)
    });
    in_order(
        &text,
        &[
            "4^connected",
            "5^done,features=[",
            "\"reverse\"",
            "6^done,bkpt={number=\"1\"",
            "7^done,threads=[{id=\"1\"",
            "8^running",
            "*stopped,reason=\"breakpoint-hit\"",
            "addr=\"0x0000000000401010\"",
            "9^done,stack=[frame={level=\"0\",addr=\"0x0000000000401010\"",
            "10^done,register-names=[\"rax\",\"rbx\"",
            "11^done,register-values=[{number=\"0\",value=\"0x4\"}",
            "12^done,memory=[{begin=\"0x0000000000600000\"",
            "contents=\"0100000000000000\"",
            "13^done,asm_insns=[",
            "14^running",
            "*stopped,reason=\"end-stepping-range\"",
            "addr=\"0x0000000000401014\"",
            "15^running",
            "addr=\"0x0000000000401018\"",
            "16^running",
            "addr=\"0x0000000000401014\"",
            "17^running",
            "*stopped,reason=\"breakpoint-hit\"",
            "addr=\"0x0000000000401010\"",
            "18^done,name=\"var1\"",
            "value=\"4\"",
            "19^running",
            "*stopped,reason=\"signal-received\"",
            "20^done,value=\"500\"",
            "21^running",
            "125 hits",
            "22^done,value=\"42\"",
            "23^done",
            "24^exit",
        ],
    );
}
