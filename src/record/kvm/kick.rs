//! A timer that makes the processor leave the guest: a signal to the thread that runs it.
//!
//! The signal may come just before KVM_RUN, which would not notice it. So its handler also sets `immediate_exit`, which
//! KVM_RUN looks at when it begins. Whoever enters the guest clears that first and looks at the clock afterwards.

use super::error::KvmError;
use std::cell::Cell;
use std::io;
use std::sync::Once;
use std::time::Duration;

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs. No destructor and no initialisation: a handler may read it.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(std::ptr::null_mut()) };
}

/// A real-time signal that nobody else here uses.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 4
}

extern "C" fn kicked(_signal: libc::c_int) {
    let place = IMMEDIATE_EXIT.get();
    if !place.is_null() {
        // SAFETY: `Kicker` keeps the pointer null unless the vCPU it was made for lives.
        unsafe { place.write_volatile(1) };
    }
}

/// The timer of the thread that made it.
pub struct Kicker {
    timer: libc::timer_t,
}

impl Kicker {
    /// A timer that sets `immediate_exit` of a vCPU and interrupts KVM_RUN in this thread.
    ///
    /// # Safety
    /// The pointer must stay valid until the kicker is dropped, which must happen in this thread.
    pub unsafe fn new(immediate_exit: *mut u8) -> Result<Kicker, KvmError> {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            // SAFETY: a zeroed sigaction is one without flags and mask, and the handler writes one byte only.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = kicked as *const () as usize;
                libc::sigaction(signal(), &action, std::ptr::null_mut());
            }
        });
        let failed = |what| KvmError::Call {
            what,
            source: io::Error::last_os_error(),
        };
        IMMEDIATE_EXIT.set(immediate_exit);
        // SAFETY: plain C calls with structures that live as long as they are looked at.
        let timer = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal();
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = std::mem::zeroed();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) != 0 {
                return Err(failed("a timer for the guest's time slices"));
            }
            timer
        };
        Ok(Kicker { timer })
    }

    /// Kicks once, after so long.
    pub fn arm(&self, after: Duration) {
        let after = after.max(Duration::from_micros(1));
        // SAFETY: the timer is ours, and the structure lives.
        unsafe {
            let mut spec: libc::itimerspec = std::mem::zeroed();
            spec.it_value.tv_sec = after.as_secs() as libc::time_t;
            spec.it_value.tv_nsec = after.subsec_nanos().into();
            libc::timer_settime(self.timer, 0, &spec, std::ptr::null_mut());
        }
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        // SAFETY: the timer is ours.
        unsafe { libc::timer_delete(self.timer) };
        IMMEDIATE_EXIT.set(std::ptr::null_mut());
    }
}
