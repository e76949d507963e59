//! Who looks on while a recording is made: keeps states of the machine, so that the recording need not be run
//! through again before it can be travelled in.

use crate::machine::Machine;
use crate::tick::Tick;
use crate::trace::MachineConfig;
use devices::ConsoleTap;
use std::path::Path;

/// Where the recording stands when a state is kept: what a replay has to know beside the machine to go on from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Events in the recording so far.
    pub events: u64,
    /// TSC minus ticks times [`crate::tick::NS_PER_TICK`].
    pub tsc_offset: u64,
    /// Hash of all that went out.
    pub outputs: u64,
    /// The serial line as seen from outside.
    pub console: ConsoleTap,
    /// The task priority (CR8) that the guest has set.
    pub task_priority: u8,
}

/// Keeps states of a machine that is being recorded. What it does cannot be seen by the guest.
pub trait Keeper {
    /// The recording has begun: the machine is at its start, and RAM is zero but for `pages` of it.
    fn begin(
        &mut self,
        recording: &Path,
        config: &MachineConfig,
        machine: &mut Machine,
        pages: &[u32],
        standing: &Standing,
    );
    /// A digest was taken: `changed` are the pages written since the one before.
    fn keep(&mut self, machine: &mut Machine, changed: &[u32], standing: &Standing);
    /// The recording is whole, up to this tick.
    fn finish(&mut self, end: Tick);
}

/// Keeps nothing.
pub struct Nothing;

impl Keeper for Nothing {
    fn begin(&mut self, _: &Path, _: &MachineConfig, _: &mut Machine, _: &[u32], _: &Standing) {}
    fn keep(&mut self, _: &mut Machine, _: &[u32], _: &Standing) {}
    fn finish(&mut self, _: Tick) {}
}
