//! As much of QEMU's machine protocol (docs/interop/qmp-spec) as the benchmark needs: commands, events.

use crate::Failure;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long QEMU may take to open its socket, or a guest to do what is waited for.
const PATIENCE: Duration = Duration::from_secs(900);

/// A connection to QEMU's monitor.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// Events that came while an answer was awaited.
    events: Vec<Value>,
}

impl Qmp {
    /// Connects as soon as the socket is there; `alive` says whether QEMU still runs.
    pub fn connect(socket: &Path, mut alive: impl FnMut() -> bool) -> Result<Qmp, Failure> {
        let started = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if alive() && started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(format!("QEMU does not answer: {error}").into()),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Qmp {
            stream: BufReader::new(stream),
            events: Vec::new(),
        };
        qmp.message()?;
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn message(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err("QEMU has closed its monitor".into()),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }

    /// Sends a command and gives what it returns.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value, Failure> {
        let message = json!({ "execute": name, "arguments": arguments }).to_string() + "\n";
        self.stream.get_mut().write_all(message.as_bytes())?;
        loop {
            let mut answer = self.message()?;
            if let Some(error) = answer.get("error") {
                return Err(format!("QEMU refuses {name}: {error}").into());
            }
            match answer.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => self.events.push(answer),
            }
        }
    }

    /// Waits for an event.
    pub fn wait_for(&mut self, event: &str) -> Result<(), Failure> {
        let is = |message: &Value| message["event"] == event;
        if let Some(at) = self.events.iter().position(is) {
            self.events.drain(..=at);
            return Ok(());
        }
        self.events.clear();
        while !is(&self.message()?) {}
        Ok(())
    }

    /// Instructions so far, in a machine that records or replays.
    pub fn instructions(&mut self) -> Result<Option<u64>, Failure> {
        Ok(self.command("query-replay", json!({}))?["icount"].as_u64())
    }
}
