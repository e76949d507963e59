//! The system calls of /dev/kvm that kvm-ioctls does not have.

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr, kvm_interrupt};
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

/// KVM_SET_DEVICE_ATTR and its kin (KVM API, 4.80): `_IOW(KVMIO, number, struct kvm_device_attr)`. On x86 kvm-ioctls
/// has them for devices only.
const fn device_attr(number: libc::c_ulong) -> libc::c_ulong {
    1 << 30 | (size_of::<kvm_device_attr>() as libc::c_ulong) << 16 | 0xae << 8 | number
}

const KVM_SET_DEVICE_ATTR: libc::c_ulong = device_attr(0xe1);
const KVM_GET_DEVICE_ATTR: libc::c_ulong = device_attr(0xe2);
const KVM_HAS_DEVICE_ATTR: libc::c_ulong = device_attr(0xe3);

/// Does something with the attribute KVM_VCPU_TSC_OFFSET of a vCPU (virt/kvm/devices/vcpu.rst of the kernel).
fn tsc_offset_attr(vcpu: &VcpuFd, request: libc::c_ulong, offset: &mut u64) -> io::Result<()> {
    let attr = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: std::ptr::from_mut(offset) as u64,
    };
    // SAFETY: the descriptor is a vCPU's; the kernel reads the structure, and reads or writes the eight bytes that it
    // names. Both live.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &attr) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the offset of the guest's time-stamp counter can be had.
pub fn has_tsc_offset(vcpu: &VcpuFd) -> bool {
    tsc_offset_attr(vcpu, KVM_HAS_DEVICE_ATTR, &mut 0).is_ok()
}

/// What is added to the scaled counter of the host for the guest.
pub fn tsc_offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0;
    tsc_offset_attr(vcpu, KVM_GET_DEVICE_ATTR, &mut offset).map(|()| offset)
}

/// Sets that.
pub fn set_tsc_offset(vcpu: &VcpuFd, mut offset: u64) -> io::Result<()> {
    tsc_offset_attr(vcpu, KVM_SET_DEVICE_ATTR, &mut offset)
}
