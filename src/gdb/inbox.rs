//! The queue between the thread that reads a connection and the one that answers: while the machine runs, nobody
//! but the reader hears the user's Ctrl-C.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::gdb::framing::Event;

/// Bytes of packets that may wait. A client that sends on regardless is read no further until they are answered.
const WAITING_BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
    /// Events taken out so far, and put in.
    taken: u64,
    put: u64,
    /// How many events stood before the last interrupt.
    interrupted_after: Option<u64>,
    closed: bool,
}

/// Shared by the two threads of a connection.
#[derive(Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Looked at by a running machine.
    pub interrupt: AtomicBool,
}

impl Inbox {
    /// Puts an event in. An interrupt is not queued: it concerns the packet before it, and is dropped if that one is
    /// answered before the machine runs.
    pub fn put(&self, event: Event) {
        let mut queue = self.queue.lock();
        if event == Event::Interrupt {
            queue.interrupted_after = Some(queue.put);
            self.interrupt.store(true, Ordering::SeqCst);
            return;
        }
        queue.put += 1;
        queue.bytes += size(&event);
        queue.events.push_back(event);
        self.changed.notify_all();
    }

    /// Waits until there is room for more, or for `at_most`; says whether there is.
    pub fn has_room(&self, at_most: Duration) -> bool {
        let mut queue = self.queue.lock();
        if queue.bytes > WAITING_BYTES_MAX {
            self.changed.wait_for(&mut queue, at_most);
        }
        queue.bytes <= WAITING_BYTES_MAX
    }

    /// Takes the next event out and sets `interrupt` to whether the user's Ctrl-C came after it. `None`: the
    /// connection is closed and all is answered.
    pub fn take(&self) -> Option<Event> {
        let mut queue = self.queue.lock();
        while queue.events.is_empty() && !queue.closed {
            self.changed.wait(&mut queue);
        }
        let event = queue.events.pop_front()?;
        queue.bytes -= size(&event);
        queue.taken += 1;
        let late = queue
            .interrupted_after
            .is_some_and(|after| after >= queue.taken);
        self.interrupt.store(late || queue.closed, Ordering::SeqCst);
        self.changed.notify_all();
        Some(event)
    }

    /// Nothing more will come; a running machine stops.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        self.interrupt.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }
}

fn size(event: &Event) -> usize {
    match event {
        Event::Packet(body) => body.len() + size_of::<Event>(),
        _ => size_of::<Event>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(text: &str) -> Event {
        Event::Packet(text.as_bytes().to_vec())
    }

    #[test]
    fn an_interrupt_concerns_the_packet_before_it() {
        let inbox = Inbox::default();
        inbox.put(packet("g"));
        inbox.put(packet("vCont;c"));
        inbox.put(Event::Interrupt);
        inbox.take();
        assert!(
            inbox.interrupt.load(Ordering::SeqCst),
            "it is pending all the while"
        );
        inbox.take();
        assert!(
            inbox.interrupt.load(Ordering::SeqCst),
            "sent in one go with the packet that runs"
        );
        inbox.put(packet("vCont;c"));
        inbox.take();
        assert!(!inbox.interrupt.load(Ordering::SeqCst), "used up");
        inbox.put(Event::Interrupt);
        assert!(
            inbox.interrupt.load(Ordering::SeqCst),
            "heard while it runs"
        );
    }

    #[test]
    fn what_waits_is_bounded_and_what_came_is_answered() {
        let inbox = Inbox::default();
        while inbox.has_room(Duration::ZERO) {
            inbox.put(packet(&"x".repeat(100_000)));
        }
        assert!(inbox.queue.lock().bytes < 2 * WAITING_BYTES_MAX);
        inbox.close();
        let mut count = 0;
        while inbox.take().is_some() {
            count += 1;
        }
        assert!(count > 10 && inbox.has_room(Duration::ZERO));
    }
}
