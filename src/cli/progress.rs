//! Progress bars on standard error, when it is a terminal.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// What lines have to be written above of: the bars of the process.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

/// Standard error, with the bars out of the way while something is written.
pub struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match BARS.get() {
            Some(bars) => bars.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows how far something is, or nothing where nobody looks. Gone when dropped.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Progress towards a known end.
    pub fn towards(total: u64, what: &'static str) -> Progress {
        Progress::new(
            Some(total),
            what,
            "{prefix} [{bar:30}] {percent:>3} % {msg} ({eta} left)",
        )
    }

    /// Progress without a known end.
    pub fn open_ended(what: &'static str) -> Progress {
        Progress::new(None, what, "{spinner} {prefix} {msg}")
    }

    /// Shows nothing.
    pub fn hidden() -> Progress {
        Progress {
            bar: ProgressBar::hidden(),
        }
    }

    fn new(total: Option<u64>, what: &'static str, template: &str) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress::hidden();
        }
        let style = ProgressStyle::with_template(template).expect("a template that is tested");
        let bar = bars().add(match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        });
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar }
    }

    /// How far it is.
    pub fn set(&self, position: u64, message: impl Into<String>) {
        self.bar.set_position(position);
        self.bar.set_message(message.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
