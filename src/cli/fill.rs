//! Fills a recording's cache while it is made: what the recorder shows goes to the timeline's filler.

use crate::machine::Machine;
use crate::record::keeper::{Keeper, Standing};
use crate::replay::LogPosition;
use crate::tick::Tick;
use crate::timeline::cache::{CacheOptions, Filler};
use crate::trace::MachineConfig;
use std::path::Path;

/// The keeper that fills the cache.
pub struct CacheKeeper {
    options: CacheOptions,
    filler: Option<Filler>,
}

impl CacheKeeper {
    /// For the recording that is about to begin.
    pub fn new(options: &CacheOptions) -> CacheKeeper {
        CacheKeeper {
            options: options.clone(),
            filler: None,
        }
    }
}

fn position(standing: &Standing) -> LogPosition {
    let Standing {
        events,
        tsc_offset,
        outputs,
        console,
        task_priority,
    } = *standing;
    LogPosition {
        event: events,
        tsc_offset,
        outputs,
        console,
        task_priority,
    }
}

impl Keeper for CacheKeeper {
    fn begin(
        &mut self,
        recording: &Path,
        config: &MachineConfig,
        machine: &mut Machine,
        pages: &[u32],
        standing: &Standing,
    ) {
        self.filler = Filler::new(&self.options, recording, config);
        if let Some(filler) = &mut self.filler {
            filler.start(machine, pages, &position(standing));
        }
    }

    fn keep(&mut self, machine: &mut Machine, changed: &[u32], standing: &Standing) {
        if let Some(filler) = &mut self.filler {
            filler.keep(machine, changed, &position(standing));
        }
    }

    fn finish(&mut self, _end: Tick) {
        if let Some(filler) = &mut self.filler {
            filler.finish();
        }
    }
}
