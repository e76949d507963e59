//! Guests to show and to test retrovisor with: a Debian kernel with a busybox initramfs, made without root and
//! without installing anything, and a small kernel of our own with a planted bug.

pub mod debian;
pub mod initramfs;
pub mod own_kernel;
pub mod symbols;

pub use debian::{DebianKernel, Flavour, debian_kernel, debian_kernel_of};
pub use initramfs::initramfs;
