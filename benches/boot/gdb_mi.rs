//! GDB through its machine interface, so that a command can be timed from its line to the prompt behind its answer.

use crate::Failure;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A GDB that knows x86-64: `$GDB`, else `gdb`, else `gdb-multiarch`; or why there is none.
pub fn find() -> Result<PathBuf, String> {
    let named = std::env::var_os("GDB").map(PathBuf::from);
    named
        .into_iter()
        .chain(["gdb".into(), "gdb-multiarch".into()])
        .find(|program| {
            let mut command = Command::new(program);
            command.args(["-nx", "-batch", "-ex", "set architecture i386:x86-64"]);
            command.stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
        .ok_or_else(|| "no gdb that knows x86-64 (Debian package gdb)".to_string())
}

/// A GDB at work. It ends with this value.
pub struct Gdb {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// From the command to the prompt.
    pub took: Duration,
    /// What was printed, of GDB and of the target.
    pub text: String,
    /// The line that says where and why the program stopped.
    pub stopped: String,
}

impl Gdb {
    /// Starts GDB without any target.
    pub fn start(program: &PathBuf) -> Result<Gdb, Failure> {
        let mut child = Command::new(program)
            .args(["-nx", "-q", "-i=mi2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take().ok_or("no pipe to GDB")?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe from GDB")?);
        let mut gdb = Gdb {
            child,
            input,
            output,
        };
        gdb.until_prompt(&mut Answer::default(), false)?;
        for setting in [
            "set confirm off",
            "set pagination off",
            "set tcp connect-timeout 60",
            "set remotetimeout 600",
            "set architecture i386:x86-64",
        ] {
            gdb.console(setting)?;
        }
        Ok(gdb)
    }

    /// A command line of GDB's own, such as `monitor when`.
    pub fn console(&mut self, command: &str) -> Result<Answer, Failure> {
        let quoted = command.replace('\\', "\\\\").replace('"', "\\\"");
        self.send(&format!("-interpreter-exec console \"{quoted}\""), false)
    }

    /// A machine interface command that resumes the target: waits until it has stopped.
    pub fn resume(&mut self, command: &str) -> Result<Answer, Failure> {
        self.send(command, true)
    }

    fn send(&mut self, command: &str, resumes: bool) -> Result<Answer, Failure> {
        let mut answer = Answer::default();
        let started = Instant::now();
        self.input.write_all(format!("{command}\n").as_bytes())?;
        self.until_prompt(&mut answer, resumes)
            .map_err(|error| format!("GDB, {command}: {error}"))?;
        answer.took = started.elapsed();
        Ok(answer)
    }

    /// Reads to the next prompt; to that behind the stop, if the target was resumed.
    fn until_prompt(&mut self, answer: &mut Answer, resumes: bool) -> Result<(), Failure> {
        let mut error: Option<String> = None;
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                return Err("GDB has ended".into());
            }
            let line = line.trim_end();
            if line == "(gdb)" {
                if let Some(error) = error {
                    return Err(error.to_string().into());
                }
                if !resumes || !answer.stopped.is_empty() {
                    return Ok(());
                }
            } else if let Some(text) = line.strip_prefix(['~', '@']) {
                answer.text += &unquoted(text);
            } else if line.starts_with("*stopped") {
                answer.stopped = line.to_string();
            } else if let Some(text) = line.strip_prefix("^error") {
                error = Some(text.to_string());
            }
        }
    }
}

/// A string of the machine interface without its quotes and escapes.
fn unquoted(text: &str) -> String {
    let inner = text.trim_matches('"');
    inner
        .replace("\\n", "\n")
        .replace("\\\"", "\"")
        .replace("\\t", "\t")
}
