//! The GDB remote server.
//!
//! The way of a packet: [`server`] reads bytes in a thread of its own and cuts them into events ([`framing`]) for the
//! [`inbox`]; a [`session`] takes them out and gives packets to the [`features`], which answer them or hand them,
//! checked, to gdbstub ([`stub`]); what it wants done with the machine is carried out in [`run`]. The recording is
//! known only as a [`crate::timeline::api::Debuggee`].
//!
//! Rules: nothing that arrives ends a session or the server; every request is answered, at both ends of history too;
//! guest state is never changed.

pub mod address;
pub mod agent;
pub mod breakpoints;
pub mod context;
pub mod features;
pub mod framing;
pub mod inbox;
pub mod registers;
pub mod run;
pub mod server;
pub mod session;
pub mod stub;
pub mod syntax;

pub use server::Server;
pub use session::Session;
