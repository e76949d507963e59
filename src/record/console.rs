//! The console of a recorder: where the guest's serial line goes, and where its input comes from.
//!
//! On a terminal: raw mode, Ctrl-A x ends the run, Ctrl-A r and Ctrl-A e begin and end recordings, Ctrl-A h shows help,
//! Ctrl-A Ctrl-A sends Ctrl-A. In a pipe: bytes as they come. Input is read by a thread of its own, so that the machine
//! never waits for it.

use super::moment::Key;
use crate::trace::EndReason;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// What came from the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Bytes for the guest are waiting.
    Input,
    /// The run shall end, and the recording with it.
    End(EndReason),
    /// A recording shall begin or end, and the machine run on.
    Recording(Key),
}

/// Where the guest's serial line ends.
pub trait Console {
    /// The guest sent bytes.
    fn output(&mut self, bytes: &[u8]);
    /// Looks whether something came, without waiting.
    fn poll(&mut self) -> Option<Command>;
    /// Bytes for the guest that were not yet taken.
    fn input(&mut self) -> &[u8];
    /// The guest took the first bytes.
    fn consume(&mut self, bytes: usize);
    /// Whether somebody sits there, for whom guest time should pass like real time.
    fn is_interactive(&self) -> bool;
    /// Whether nothing will ever come.
    fn input_ended(&self) -> bool;
    /// Waits until something comes, at most so long.
    fn wait(&mut self, at_most: Duration);
    /// Waits likewise and says how long it took.
    fn wait_measured(&mut self, at_most: Duration) -> Duration {
        let start = Instant::now();
        self.wait(at_most);
        start.elapsed()
    }
}

/// The number of the signal that asked for an end; 0 for none.
static SIGNAL: AtomicUsize = AtomicUsize::new(0);

/// Whether there is nothing any more that a signal should end cleanly.
static RECORDED: AtomicBool = AtomicBool::new(false);

/// Makes SIGINT, SIGTERM and SIGHUP end recordings cleanly.
pub fn catch_signals() -> io::Result<()> {
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        // SAFETY: the handler stores a number, or does what signals do by default.
        unsafe {
            signal_hook::low_level::register(signal, move || {
                SIGNAL.store(signal as usize, Ordering::Relaxed);
                if RECORDED.load(Ordering::Relaxed) {
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
            })?;
        }
    }
    Ok(())
}

/// Recording is over: from now on signals end the program.
pub fn release_signals() {
    RECORDED.store(true, Ordering::Relaxed);
}

fn signal_reason() -> Option<EndReason> {
    let name = match SIGNAL.load(Ordering::Relaxed) as i32 {
        0 => return None,
        signal_hook::consts::SIGINT => "SIGINT",
        signal_hook::consts::SIGTERM => "SIGTERM",
        _ => "SIGHUP",
    };
    Some(EndReason::Signal(name.to_string()))
}

/// A console without input: output to a file, or nowhere.
pub struct OutputOnly {
    file: Option<File>,
    failed: bool,
}

impl OutputOnly {
    /// Output to a file, or to nobody.
    pub fn new(file: Option<File>) -> OutputOnly {
        OutputOnly {
            file,
            failed: false,
        }
    }
}

impl Console for OutputOnly {
    fn output(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(bytes)
            && !std::mem::replace(&mut self.failed, true)
        {
            log::warn!("the console cannot be written any further: {error}");
        }
    }
    fn poll(&mut self) -> Option<Command> {
        signal_reason().map(Command::End)
    }
    fn input(&mut self) -> &[u8] {
        &[]
    }
    fn consume(&mut self, _bytes: usize) {}
    fn is_interactive(&self) -> bool {
        false
    }
    fn input_ended(&self) -> bool {
        true
    }
    fn wait(&mut self, at_most: Duration) {
        std::thread::sleep(at_most);
    }
}

/// Byte that starts a command at the terminal.
const CTRL_A: u8 = 1;
const HELP: &str = "\r
Ctrl-A x  end the recording and the machine\r
Ctrl-A e  end the recording; the machine runs on\r
Ctrl-A r  begin a recording\r
Ctrl-A h  this help\r
Ctrl-A Ctrl-A  send Ctrl-A to the guest\r
";

/// Standard input and output: a terminal in raw mode, or a pipe.
pub struct Stdio {
    bytes: Receiver<Vec<u8>>,
    waiting: VecDeque<u8>,
    ended: bool,
    escape: bool,
    quit: bool,
    asked: Option<Key>,
    terminal: Option<RawMode>,
}

impl Stdio {
    /// Takes over standard input and output.
    pub fn new() -> io::Result<Stdio> {
        let terminal = RawMode::enter()?;
        let (sender, bytes) = mpsc::sync_channel(16);
        std::thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                let mut buffer = [0; 1024];
                let mut stdin = io::stdin();
                while let Ok(n) = stdin.read(&mut buffer) {
                    if n == 0 || sender.send(buffer[..n].to_vec()).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Stdio {
            bytes,
            waiting: VecDeque::new(),
            ended: false,
            escape: false,
            quit: false,
            asked: None,
            terminal,
        })
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.terminal.is_none() {
            self.waiting.extend(bytes);
            return;
        }
        for &byte in bytes {
            match (std::mem::take(&mut self.escape), byte) {
                (false, CTRL_A) => self.escape = true,
                (false, _) | (true, CTRL_A) => self.waiting.push_back(byte),
                (true, b'x' | b'X') => self.quit = true,
                (true, b'r' | b'R') => self.asked = Some(Key::Begin),
                (true, b'e' | b'E') => self.asked = Some(Key::End),
                (true, _) => {
                    let mut out = io::stdout().lock();
                    let _ = out.write_all(HELP.as_bytes()).and_then(|()| out.flush());
                }
            }
        }
    }

    fn receive(&mut self) {
        // A bounded queue: what the guest does not read stays in the pipe.
        while self.waiting.len() < 4096 {
            match self.bytes.try_recv() {
                Ok(bytes) => self.take(&bytes),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.ended = true;
                    return;
                }
            }
        }
    }
}

impl Console for Stdio {
    fn output(&mut self, bytes: &[u8]) {
        let mut out = io::stdout().lock();
        // Whoever closes the pipe does not want to see it; the recording goes on.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    fn poll(&mut self) -> Option<Command> {
        self.receive();
        if let Some(reason) = signal_reason() {
            return Some(Command::End(reason));
        }
        if self.quit {
            return Some(Command::End(EndReason::UserQuit));
        }
        if let Some(key) = self.asked.take() {
            return Some(Command::Recording(key));
        }
        (!self.waiting.is_empty()).then_some(Command::Input)
    }

    fn input(&mut self) -> &[u8] {
        self.waiting.make_contiguous()
    }

    fn consume(&mut self, bytes: usize) {
        self.waiting.drain(..bytes);
    }

    fn is_interactive(&self) -> bool {
        self.terminal.is_some()
    }

    fn input_ended(&self) -> bool {
        self.ended && self.waiting.is_empty()
    }

    fn wait(&mut self, at_most: Duration) {
        if !self.waiting.is_empty() {
            return;
        }
        match self.bytes.recv_timeout(at_most) {
            Ok(bytes) => self.take(&bytes),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                std::thread::sleep(at_most);
            }
        }
    }
}

/// The terminal in raw mode, until dropped.
struct RawMode {
    before: libc::termios,
}

impl RawMode {
    /// Raw mode, if both ends are a terminal.
    fn enter() -> io::Result<Option<RawMode>> {
        use std::io::IsTerminal;
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        // SAFETY: plain C calls on a descriptor that is open, with a structure that they fill.
        unsafe {
            let mut before: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(0, &mut before) != 0 {
                return Err(io::Error::last_os_error());
            }
            let mut raw = before;
            libc::cfmakeraw(&mut raw);
            if libc::tcsetattr(0, libc::TCSANOW, &raw) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Some(RawMode { before }))
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::tcsetattr(0, libc::TCSANOW, &self.before) };
    }
}
