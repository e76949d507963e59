//! What can keep KVM from being used, each in one line.

use crate::memory::MemoryError;
use crate::record::emulated::RecordError;
use crate::trace::Error as TraceError;
use std::io;
use thiserror::Error;

/// Why nothing was recorded under KVM.
#[derive(Debug, Error)]
pub enum KvmError {
    /// No device.
    #[error(
        "there is no /dev/kvm on this machine (no virtualization, or its kernel module is not loaded); \
         --accel emulate works everywhere"
    )]
    Missing,
    /// No right to use it.
    #[error(
        "/dev/kvm may not be opened by this user (it mostly belongs to the group «kvm»); \
         --accel emulate works everywhere"
    )]
    Forbidden,
    /// The host's kernel is too old or has it switched off.
    #[error("the host's KVM has no {0}; --accel emulate works everywhere")]
    Lacks(&'static str),
    /// A system call failed.
    #[error("KVM: {what}: {source}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel or the machine.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The file.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Names what was tried.
pub(super) fn call(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Call {
        what,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}
