//! The timeline: the one part that goes backward.

pub mod api;
