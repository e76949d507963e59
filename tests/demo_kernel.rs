//! The demo kernel as GDB sees it: symbols, lines and sources are where the demo says.

mod support;

use std::process::{Command, Stdio};

use retrovisor::demo::own_kernel;

#[test]
fn gdb_knows_the_victim_and_shows_the_culprit() {
    let gdb = match support::gdb() {
        Ok(gdb) => gdb,
        Err(why) => return support::skip("gdb_knows_the_victim_and_shows_the_culprit", &why),
    };
    // A space, so that quoting is tried too.
    let directory = support::scratch("demo kernel");
    let written = own_kernel::write_to(&directory).unwrap();
    let line = own_kernel::culprit_line().unwrap();
    let (file, text) = own_kernel::CULPRIT;
    let mut command = Command::new(gdb);
    command.args(["-nx", "-batch", "-ex", "set language rust"]);
    let substitute = own_kernel::gdb_session(&written, "localhost:1").remove(0);
    for one in [
        substitute,
        format!("list {file}:{line},{line}"),
        format!("print &{}", own_kernel::VICTIM),
        format!("info scope {file}:{line}"),
    ] {
        command.args(["-ex", &one]);
    }
    let output = command
        .arg(&written.elf)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(said.contains(text), "the culprit's line is shown: {said}");
    assert!(
        said.contains("(*mut u64) 0x"),
        "the victim has an address: {said}"
    );
    for variable in ["index", "slot", "event", "self"] {
        assert!(
            said.contains(&format!("Symbol {variable} is")),
            "{variable} can be looked at: {said}"
        );
    }
}
