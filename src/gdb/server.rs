//! The server: one GDB at a time, one after the other, for as long as the program runs.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::gdb::address::{Listener, Stream};
use crate::gdb::framing::Deframer;
use crate::gdb::inbox::Inbox;
use crate::gdb::session::{Flow, Session};
use crate::timeline::api::Debuggee;

/// How long a reader sleeps before it looks at `quit` and at who is waiting.
const POLL: Duration = Duration::from_millis(20);
/// A client that takes no bytes for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// A second client is not kept waiting longer: the first may just be leaving.
const PATIENCE: Duration = Duration::from_secs(2);

/// A listening server.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
}

impl Server {
    /// Listens; see [`Listener::bind`] for addresses.
    pub fn bind(address: &str) -> io::Result<Self> {
        Ok(Self {
            listener: Listener::bind(address)?,
        })
    }

    /// What to give GDB's `target remote`.
    pub fn address(&self) -> io::Result<String> {
        self.listener.address()
    }

    /// Serves one client after the other until `quit` is set, which is heard at once, whatever is going on. A client
    /// finds the recording where the one before has left it. Fails only when the listening socket does.
    pub fn serve(&self, debuggee: &mut dyn Debuggee, quit: &AtomicBool) -> io::Result<()> {
        let mut waiting = None;
        while !quit.load(Ordering::SeqCst) {
            let next = match waiting.take() {
                Some(stream) => Some(stream),
                None => self.listener.accept()?,
            };
            match next {
                Some(stream) => waiting = self.serve_one(stream, debuggee, quit),
                None => thread::sleep(POLL),
            }
        }
        Ok(())
    }

    /// Serves a client until it leaves; returns the one who came meanwhile.
    fn serve_one(
        &self,
        stream: Stream,
        debuggee: &mut dyn Debuggee,
        quit: &AtomicBool,
    ) -> Option<Stream> {
        log::info!("GDB has connected");
        if let Err(e) = stream.set_up(POLL, WRITE_TIMEOUT) {
            log::warn!("cannot set up the connection: {e}");
            return None;
        }
        let inbox = Inbox::default();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let waiting = self.read(&stream, &inbox, quit);
                inbox.close();
                waiting
            });
            match converse(&stream, &inbox, debuggee) {
                Ok(()) => log::info!("GDB has disconnected"),
                Err(e) => log::info!("GDB is gone: {e}"),
            }
            inbox.close();
            stream.shut_down();
            reader.join().unwrap_or(None)
        })
    }

    /// The reader thread: bytes to events until the connection or the server ends. It also answers the door.
    fn read(&self, mut stream: &Stream, inbox: &Inbox, quit: &AtomicBool) -> Option<Stream> {
        let mut deframer = Deframer::new();
        let mut bytes = [0; 4096];
        let mut waiting: Option<(Stream, Instant)> = None;
        while !quit.load(Ordering::SeqCst) && !inbox.is_closed() {
            self.answer_the_door(&mut waiting);
            if !inbox.has_room(POLL) {
                continue;
            }
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => bytes[..n]
                    .iter()
                    .filter_map(|&b| deframer.push(b))
                    .for_each(|event| inbox.put(event)),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        waiting.map(|(stream, _)| stream)
    }

    /// Takes in one client who waits for the present one to leave, and sends it away when that takes too long: a
    /// connection that is open and silent would leave a second GDB hanging.
    fn answer_the_door(&self, waiting: &mut Option<(Stream, Instant)>) {
        match waiting {
            Some((stream, since)) if since.elapsed() > PATIENCE => {
                log::warn!("a second GDB wants to connect; one at a time");
                stream.shut_down();
                *waiting = None;
            }
            Some(_) => {}
            None => {
                if let Ok(Some(stream)) = self.listener.accept() {
                    *waiting = Some((stream, Instant::now()));
                }
            }
        }
    }
}

/// Answers until there is nothing left to answer.
fn converse(mut stream: &Stream, inbox: &Inbox, debuggee: &mut dyn Debuggee) -> io::Result<()> {
    let mut session = Session::new(debuggee);
    while let Some(event) = inbox.take() {
        if session.event(event, &mut stream, &inbox.interrupt)? == Flow::Over {
            break;
        }
    }
    Ok(())
}
