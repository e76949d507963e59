//! The system calls of /dev/kvm that kvm-ioctls does not have.

use kvm_bindings::kvm_interrupt;
use kvm_ioctls::VcpuFd;
use std::io;
use std::os::fd::AsRawFd;

/// KVM_INTERRUPT (KVM API, 4.16): `_IOW(KVMIO, 0x86, struct kvm_interrupt)`.
const KVM_INTERRUPT: libc::c_ulong =
    1 << 30 | (size_of::<kvm_interrupt>() as libc::c_ulong) << 16 | 0xae << 8 | 0x86;

/// Queues a maskable interrupt, which is delivered before the next instruction. Only where KVM said that the processor
/// is ready for one.
pub fn interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let argument = kvm_interrupt { irq: vector.into() };
    // SAFETY: the descriptor is a vCPU's, and the kernel reads four bytes of a structure that lives.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT, &argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
