//! Model-specific registers: RDMSR and WRMSR (SDM volume 4).
//!
//! What belongs to the interrupt controller or a clock outside is asked of the world. An MSR that does not exist
//! raises #GP, as kernels expect when they probe.

use super::cpuid::ARCH_CAPABILITIES;
use super::mmu::canonical;
use super::state::{cr0, efer, seg};
use super::world::World;
use super::{Abort, Cpu};
use crate::tick::Tick;

/// Numbers of the registers that the processor has.
pub mod index {
    #![allow(missing_docs)]
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_UPDT_TRIG: u32 = 0x79;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const MTRRCAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const MTRR_PHYSBASE0: u32 = 0x200;
    pub const MTRR_PHYSMASK7: u32 = 0x20f;
    pub const MTRR_FIX64K: u32 = 0x250;
    pub const MTRR_FIX16K_80000: u32 = 0x258;
    pub const MTRR_FIX16K_A0000: u32 = 0x259;
    pub const MTRR_FIX4K_FIRST: u32 = 0x268;
    pub const MTRR_FIX4K_LAST: u32 = 0x26f;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC_FIRST: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8ff;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const AMD_SYSCFG: u32 = 0xc001_0010;
    pub const AMD_HWCR: u32 = 0xc001_0015;
    pub const AMD_NB_CFG: u32 = 0xc001_001f;
}
use index::*;

/// AMD's HWCR: the TSC counts with the frequency of P-state 0.
const HWCR_VALUE: u64 = 1 << 24;

/// Eight variable ranges, fixed ranges, write combining.
const MTRRCAP_VALUE: u64 = 0x508;

/// Slot of a fixed-range MTRR.
fn fixed_slot(msr: u32) -> Option<usize> {
    match msr {
        MTRR_FIX64K => Some(0),
        MTRR_FIX16K_80000 => Some(1),
        MTRR_FIX16K_A0000 => Some(2),
        MTRR_FIX4K_FIRST..=MTRR_FIX4K_LAST => Some((msr - MTRR_FIX4K_FIRST) as usize + 3),
        _ => None,
    }
}

/// Whether all eight bytes are memory types.
fn valid_types(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|t| matches!(t, 0 | 1 | 4 | 5 | 6))
}

impl Cpu {
    /// RDMSR (`write` is `None`) or WRMSR for a processor whose instructions run elsewhere: on hardware that left
    /// this register to us. `None`: #GP.
    pub fn access_msr(
        &mut self,
        world: &mut dyn World,
        now: Tick,
        msr: u32,
        write: Option<u64>,
    ) -> Option<u64> {
        self.set_tick(now);
        self.with_world(world, |cpu| match write {
            None => cpu.read_msr(msr),
            Some(value) => cpu.write_msr(msr, value).map(|()| value),
        })
        .ok()
    }

    /// The time-stamp counter as RDTSC shows it, at a tick.
    pub(super) fn tsc(&mut self, now: Tick) -> u64 {
        let cpu = self.index;
        self.world()
            .tsc(now, cpu)
            .wrapping_add(self.state.tsc_adjust)
    }

    /// Whether the processor of this vendor has a register (AMD: APM volume 2, appendix A).
    fn has_msr(&self, msr: u32) -> bool {
        let leaf7 = self.model.exact(7, 0);
        match msr {
            AMD_SYSCFG | AMD_HWCR | AMD_NB_CFG => self.features.amd,
            PLATFORM_ID | FEATURE_CONTROL | MISC_ENABLE | BIOS_UPDT_TRIG => !self.features.amd,
            TSC_ADJUST => leaf7[1] >> 1 & 1 != 0,
            index::ARCH_CAPABILITIES => leaf7[3] >> 29 & 1 != 0,
            _ => true,
        }
    }

    /// RDMSR at the current tick.
    pub(super) fn read_msr(&mut self, msr: u32) -> Result<u64, Abort> {
        if !self.has_msr(msr) {
            return self.general_protection();
        }
        let s = &self.state;
        let value = match msr {
            TSC => {
                let now = self.tick();
                self.tsc(now)
            }
            APIC_BASE | TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST => {
                let (now, cpu) = (self.tick(), self.index);
                self.attention = true;
                return match self.world().msr_read(now, cpu, msr) {
                    Some(value) => Ok(value),
                    None => self.general_protection(),
                };
            }
            PLATFORM_ID | BIOS_SIGN_ID | MCG_CAP | MCG_STATUS | AMD_SYSCFG | AMD_NB_CFG => 0,
            AMD_HWCR => HWCR_VALUE,
            // Locked, virtualisation off.
            FEATURE_CONTROL => 1,
            TSC_ADJUST => s.tsc_adjust,
            SPEC_CTRL => s.spec_ctrl,
            MTRRCAP => MTRRCAP_VALUE,
            index::ARCH_CAPABILITIES => ARCH_CAPABILITIES,
            SYSENTER_CS..=SYSENTER_EIP => s.sysenter[(msr - SYSENTER_CS) as usize],
            MISC_ENABLE => s.misc_enable,
            MTRR_PHYSBASE0..=MTRR_PHYSMASK7 => s.mtrr.variable[(msr - MTRR_PHYSBASE0) as usize],
            PAT => s.pat,
            MTRR_DEF_TYPE => s.mtrr.default_type,
            EFER => s.efer,
            STAR => s.star,
            LSTAR => s.lstar,
            CSTAR => s.cstar,
            FMASK => s.fmask,
            FS_BASE => s.seg_base[seg::FS],
            GS_BASE => s.seg_base[seg::GS],
            KERNEL_GS_BASE => s.kernel_gs_base,
            TSC_AUX => s.tsc_aux,
            _ => match fixed_slot(msr) {
                Some(slot) => s.mtrr.fixed[slot],
                None => {
                    log::debug!("RDMSR of {msr:#x}, which does not exist: #GP");
                    return self.general_protection();
                }
            },
        };
        Ok(value)
    }

    /// WRMSR at the current tick.
    pub(super) fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), Abort> {
        let valid = match msr {
            _ if !self.has_msr(msr) => false,
            TSC => {
                let now = self.tick();
                let old = self.tsc(now);
                self.state.tsc_adjust = self.state.tsc_adjust.wrapping_add(value.wrapping_sub(old));
                true
            }
            APIC_BASE | TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST => {
                let (now, cpu) = (self.tick(), self.index);
                self.attention = true;
                self.world().msr_write(now, cpu, msr, value)
            }
            EFER => return self.write_efer(value),
            LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE | SYSENTER_ESP | SYSENTER_EIP
                if !canonical(value) =>
            {
                false
            }
            PAT => {
                let types = value.to_le_bytes();
                let valid = types.iter().all(|t| matches!(t, 0 | 1 | 4..=7));
                if valid {
                    self.state.pat = value;
                }
                valid
            }
            MTRR_DEF_TYPE => {
                let valid = value & !0xcff == 0 && matches!(value & 0xff, 0 | 1 | 4..=6);
                if valid {
                    self.state.mtrr.default_type = value;
                }
                valid
            }
            TSC_AUX if value >> 32 != 0 => false,
            _ => self.write_plain_msr(msr, value),
        };
        if valid {
            return Ok(());
        }
        log::debug!("WRMSR of {value:#x} to {msr:#x} is not possible: #GP");
        self.general_protection()
    }

    /// Registers that keep what is written.
    fn write_plain_msr(&mut self, msr: u32, value: u64) -> bool {
        let s = &mut self.state;
        let place = match msr {
            TSC_ADJUST => &mut s.tsc_adjust,
            SPEC_CTRL => &mut s.spec_ctrl,
            SYSENTER_CS..=SYSENTER_EIP => &mut s.sysenter[(msr - SYSENTER_CS) as usize],
            MISC_ENABLE => &mut s.misc_enable,
            MTRR_PHYSBASE0..=MTRR_PHYSMASK7 => {
                &mut s.mtrr.variable[(msr - MTRR_PHYSBASE0) as usize]
            }
            STAR => &mut s.star,
            LSTAR => &mut s.lstar,
            CSTAR => &mut s.cstar,
            FMASK => &mut s.fmask,
            TSC_AUX => &mut s.tsc_aux,
            FS_BASE => &mut s.seg_base[seg::FS],
            GS_BASE => &mut s.seg_base[seg::GS],
            KERNEL_GS_BASE => &mut s.kernel_gs_base,
            // Commands without effect here: no predictor to flush, no microcode to load.
            // AMD's northbridge has nothing to configure.
            PRED_CMD | BIOS_UPDT_TRIG | BIOS_SIGN_ID | MCG_STATUS | AMD_NB_CFG => return true,
            AMD_HWCR => return value == HWCR_VALUE,
            AMD_SYSCFG => return value == 0,
            _ => match fixed_slot(msr) {
                Some(slot) if valid_types(value) => &mut s.mtrr.fixed[slot],
                _ => return false,
            },
        };
        *place = value;
        true
    }

    fn write_efer(&mut self, value: u64) -> Result<(), Abort> {
        let offered = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        let paging = self.state.cr0 & cr0::PG != 0;
        let changes_lme = (value ^ self.state.efer) & efer::LME != 0;
        if value & !offered != 0 || paging && changes_lme {
            return self.general_protection();
        }
        // LMA is read-only.
        let new = value & !efer::LMA | self.state.efer & efer::LMA;
        if new != self.state.efer {
            self.state.efer = new;
            self.forget_translations();
        }
        Ok(())
    }
}
