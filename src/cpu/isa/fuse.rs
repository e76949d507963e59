//! Pairs of instructions that run as one op: a compare and the branch behind it.

use crate::cpu::op::Op;
use crate::cpu::stops::Stops;

/// Fuses what can be fused in a block.
pub fn fuse(_ops: &mut Vec<Op>, _stops: &Stops, _rip: u64) {}
