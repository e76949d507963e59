//! Registers of the local APIC (Intel SDM volume 3, table 11-1), by offset into its page.

pub const ID: u16 = 0x020;
pub const VERSION: u16 = 0x030;
pub const TPR: u16 = 0x080;
pub const APR: u16 = 0x090;
pub const PPR: u16 = 0x0a0;
pub const EOI: u16 = 0x0b0;
pub const LDR: u16 = 0x0d0;
pub const DFR: u16 = 0x0e0;
pub const SVR: u16 = 0x0f0;
pub const ISR: u16 = 0x100;
pub const TMR: u16 = 0x180;
pub const IRR: u16 = 0x200;
pub const ESR: u16 = 0x280;
pub const ICR_LOW: u16 = 0x300;
pub const ICR_HIGH: u16 = 0x310;
pub const LVT_TIMER: u16 = 0x320;
pub const LVT_ERROR: u16 = 0x370;
pub const TIMER_INITIAL: u16 = 0x380;
pub const TIMER_CURRENT: u16 = 0x390;
pub const TIMER_DIVIDE: u16 = 0x3e0;

/// An integrated APIC of version 0x14 with six LVT entries and without EOI broadcast suppression (11.4.8).
pub const VERSION_VALUE: u32 = 0x0005_0014;

pub const SVR_ENABLE: u32 = 1 << 8;
/// Vector, enable, focus checking.
pub const SVR_WRITABLE: u32 = 0x3ff;

/// ESR (figure 11-9).
pub const ESR_SEND_ILLEGAL_VECTOR: u8 = 1 << 5;
pub const ESR_RECEIVED_ILLEGAL_VECTOR: u8 = 1 << 6;
pub const ESR_ILLEGAL_REGISTER: u8 = 1 << 7;

/// ICR (figure 11-12).
pub const ICR_LOGICAL: u32 = 1 << 11;
pub const ICR_ASSERT: u32 = 1 << 14;
pub const ICR_LEVEL: u32 = 1 << 15;
/// All but the delivery status, which is always idle here, and the reserved bits.
pub const ICR_WRITABLE: u32 = 0x000c_cfff;

/// LVT entries (figure 11-8), as indices into the state's array in the order of their offsets from 0x320.
pub const LVTS: usize = 6;
pub const TIMER: usize = 0;
pub const LINT0: usize = 3;
#[cfg(test)]
pub const LINT1: usize = 4;
pub const ERROR: usize = 5;
pub const LVT_MASKED: u32 = 1 << 16;
pub const LVT_LEVEL: u32 = 1 << 15;
pub const LVT_REMOTE_IRR: u32 = 1 << 14;
pub const LVT_TIMER_MODE: u32 = 3 << 17;
pub const LVT_TIMER_PERIODIC: u32 = 1 << 17;
pub const LVT_TIMER_DEADLINE: u32 = 2 << 17;
/// What can be written of each: timer, thermal, performance, LINT0, LINT1, error.
pub const LVT_WRITABLE: [u32; LVTS] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/// IA32_APIC_BASE (figure 11-5).
pub const BASE_BSP: u64 = 1 << 8;
pub const BASE_X2APIC: u64 = 1 << 10;
pub const BASE_ENABLE: u64 = 1 << 11;
pub const BASE_RESERVED_LOW: u64 = 0x2ff;
pub const BASE_ADDRESS: u64 = !0xfff;
