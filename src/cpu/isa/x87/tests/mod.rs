//! The host's x87 unit is the oracle for everything that IEEE 754 and the SDM define.

#[cfg(target_arch = "x86_64")]
mod against_host;
mod golden;
#[cfg(target_arch = "x86_64")]
mod host;
#[cfg(target_arch = "x86_64")]
mod operands;
mod responses;
