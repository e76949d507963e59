//! Segmentation: descriptors, selectors, limit and type checks (SDM volume 3, chapters 3 and 5).

use super::decode::Mode;
use super::op::{Op, op_flags};
use super::state::{Segment, SystemSegment, rights, seg};
use super::{Abort, Cpu, vector};

/// A descriptor as it lies in a table (8 bytes), and where.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The two words.
    pub raw: u64,
    /// Linear address, for setting the accessed or busy bit.
    pub address: u64,
    /// The selector that named it.
    pub selector: u16,
}

impl Descriptor {
    /// Base address (32 bits).
    pub fn base(&self) -> u64 {
        (self.raw >> 16 & 0xff_ffff) | (self.raw >> 56 & 0xff) << 24
    }

    /// Limit in bytes.
    pub fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.rights() & rights::G != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }

    /// Type, S, DPL, P, AVL, L, D/B, G.
    pub fn rights(&self) -> u16 {
        (self.raw >> 40) as u16 & 0xf0ff
    }

    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        (self.rights() >> rights::DPL_SHIFT & 3) as u8
    }

    /// Present.
    pub fn present(&self) -> bool {
        self.rights() & rights::P != 0
    }

    /// Code or data, not a system descriptor.
    pub fn is_segment(&self) -> bool {
        self.rights() & rights::S != 0
    }

    /// A code segment.
    pub fn is_code(&self) -> bool {
        self.is_segment() && self.rights() & rights::CODE != 0
    }

    /// A data segment that can be written.
    pub fn is_writable_data(&self) -> bool {
        self.is_segment() && !self.is_code() && self.rights() & rights::RW != 0
    }

    /// A conforming code segment.
    pub fn is_conforming(&self) -> bool {
        self.is_code() && self.rights() & rights::DC != 0
    }

    /// Type field of a system descriptor.
    pub fn system_type(&self) -> u8 {
        (self.rights() & 15) as u8
    }

    /// The hidden part of a segment register that this descriptor fills.
    pub fn segment(&self, selector: u16) -> Segment {
        Segment {
            limit: self.limit(),
            rights: self.rights() | rights::ACCESSED,
            selector,
        }
    }
}

impl Cpu {
    /// Linear address of `bytes` bytes at an offset in a segment, with all checks.
    pub(super) fn segment_address(
        &mut self,
        segment: usize,
        offset: u64,
        bytes: usize,
        write: bool,
    ) -> Result<u64, Abort> {
        let base = self.state.seg_base[segment];
        if self.mode == Mode::Bits64 {
            return Ok(base.wrapping_add(offset));
        }
        let Segment { limit, rights, .. } = self.state.seg[segment];
        let fail = if segment == seg::SS {
            vector::SS
        } else {
            vector::GP
        };
        let last = offset.wrapping_add(bytes.max(1) as u64 - 1);
        let limit = limit as u64;
        if self.state.protected() && !self.state.flags.vm86() {
            let code = rights & rights::CODE != 0;
            let permitted = rights & rights::P != 0
                && if write {
                    !code && rights & rights::RW != 0
                } else {
                    !code || rights & rights::RW != 0
                };
            if !permitted {
                return self.raise_code(fail, 0);
            }
            if !code && rights & rights::DC != 0 {
                // Expand-down: valid above the limit.
                let top = if rights & rights::DB != 0 {
                    0xffff_ffff
                } else {
                    0xffff
                };
                if offset <= limit || last > top {
                    return self.raise_code(fail, 0);
                }
                return Ok(base.wrapping_add(offset) & 0xffff_ffff);
            }
        }
        if last > limit && limit < 0xffff_ffff {
            return self.raise_code(fail, 0);
        }
        Ok(base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Linear address of `bytes` bytes within the memory operand, `skip` behind its start, with all checks: for
    /// instructions whose parts are checked by themselves (`decode::prepare_address` leaves them alone).
    pub(super) fn part_address(
        &mut self,
        op: &Op,
        skip: u64,
        bytes: usize,
        write: bool,
    ) -> Result<u64, Abort> {
        let mut offset = self.effective_address(op).wrapping_add(skip);
        if self.mode != Mode::Bits64 {
            let wide = !op.has(op_flags::ADDRESS16);
            offset &= if wide { 0xffff_ffff } else { 0xffff };
        }
        self.segment_address(op.seg as usize, offset, bytes, write)
    }

    /// Raises #GP where RIP lies outside the code segment (not in 64-bit mode).
    pub(super) fn check_code_limit(&mut self, rip: u64) -> Result<(), Abort> {
        if rip > self.state.seg[seg::CS].limit as u64 {
            return self.general_protection();
        }
        Ok(())
    }

    /// Reads the descriptor that a selector names; `fail` with the selector as error code where there is none.
    pub fn descriptor(&mut self, selector: u16, fail: u8) -> Result<Descriptor, Abort> {
        let index = (selector & 0xfff8) as u64;
        let (base, limit) = if selector & 4 == 0 {
            (self.state.gdtr.base, self.state.gdtr.limit)
        } else if self.state.ldtr.segment.rights & rights::P != 0 {
            (self.state.ldtr.base, self.state.ldtr.segment.limit as u64)
        } else {
            return self.raise_code(fail, selector_code(selector));
        };
        if index + 7 > limit {
            return self.raise_code(fail, selector_code(selector));
        }
        let address = base.wrapping_add(index);
        let raw = self.read_system::<u64>(address)?;
        Ok(Descriptor {
            raw,
            address,
            selector,
        })
    }

    /// Sets the accessed bit of a segment descriptor in its table.
    pub fn set_accessed_bit(&mut self, descriptor: &Descriptor) -> Result<(), Abort> {
        if descriptor.rights() & rights::ACCESSED == 0 {
            let byte = (descriptor.raw >> 40) as u8 | rights::ACCESSED as u8;
            self.write_system::<u8>(descriptor.address.wrapping_add(5), byte)?;
        }
        Ok(())
    }

    /// Loads ES, SS, DS, FS or GS as MOV and POP do (SDM volume 2, MOV).
    pub fn load_segment(&mut self, register: usize, selector: u16) -> Result<(), Abort> {
        if !self.state.protected() || self.state.flags.vm86() {
            self.load_segment_real(register, selector);
            return Ok(());
        }
        let code = selector_code(selector);
        if selector & 0xfffc == 0 {
            if register == seg::SS
                && (self.mode != Mode::Bits64
                    || self.state.cpl == 3
                    || selector & 3 != self.state.cpl as u16)
            {
                return self.general_protection();
            }
            self.load_null(register, selector);
            return Ok(());
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let rpl = (selector & 3) as u8;
        if register == seg::SS {
            if rpl != self.state.cpl
                || !descriptor.is_writable_data()
                || descriptor.dpl() != self.state.cpl
            {
                return self.raise_code(vector::GP, code);
            }
            if !descriptor.present() {
                return self.raise_code(vector::SS, code);
            }
        } else {
            let readable = descriptor.is_segment()
                && (!descriptor.is_code() || descriptor.rights() & rights::RW != 0);
            let privileged = descriptor.is_conforming()
                || (rpl <= descriptor.dpl() && self.state.cpl <= descriptor.dpl());
            if !readable || !privileged {
                return self.raise_code(vector::GP, code);
            }
            if !descriptor.present() {
                return self.raise_code(vector::NP, code);
            }
        }
        self.set_accessed_bit(&descriptor)?;
        self.set_segment(register, descriptor.segment(selector), descriptor.base());
        Ok(())
    }

    /// Sets visible and hidden part of a segment register.
    pub fn set_segment(&mut self, register: usize, segment: Segment, base: u64) {
        self.state.seg[register] = segment;
        self.state.seg_base[register] = base;
    }

    /// Loads a null selector. Base and limit of FS and GS stay on AMD's processors, unless CPUID says otherwise.
    pub fn load_null(&mut self, register: usize, selector: u16) {
        if !self.features.null_clears_base && matches!(register, seg::FS | seg::GS) {
            let segment = &mut self.state.seg[register];
            segment.rights = 0;
            segment.selector = selector;
            return;
        }
        self.set_segment(
            register,
            Segment {
                limit: 0,
                rights: 0,
                selector,
            },
            0,
        );
        if register == seg::SS {
            // A null SS in 64-bit mode still carries the privilege level.
            self.state.seg[seg::SS].rights =
                (self.state.cpl as u16) << rights::DPL_SHIFT | rights::DB;
        }
    }

    /// Loads a segment register as in real mode, or as in virtual-8086 mode where VM is set.
    pub(super) fn load_segment_real(&mut self, register: usize, selector: u16) {
        let vm86 = self.state.flags.vm86();
        let segment = &mut self.state.seg[register];
        segment.selector = selector;
        if vm86 {
            segment.limit = 0xffff;
            segment.rights = 0xf3;
        } else if register != seg::CS {
            // Real mode keeps limit and rights: "unreal mode" lives on that.
            segment.rights = segment.rights & rights::DB | 0x93;
            if segment.limit == 0 {
                segment.limit = 0xffff;
            }
        } else {
            segment.rights = segment.rights & rights::DB | 0x9b;
        }
        self.state.seg_base[register] = (selector as u64) << 4;
    }

    /// Loads CS in real or virtual-8086 mode.
    pub fn load_code_real(&mut self, selector: u16) {
        self.load_segment_real(seg::CS, selector);
    }

    /// Reads a system descriptor; 16 bytes in long mode. Gives it with its 64-bit base.
    pub fn system_descriptor(
        &mut self,
        selector: u16,
        fail: u8,
    ) -> Result<(Descriptor, u64), Abort> {
        let descriptor = self.descriptor(selector, fail)?;
        let mut base = descriptor.base();
        if self.state.long_mode() {
            base |= self.descriptor_high(&descriptor, fail)? << 32;
        }
        Ok((descriptor, base))
    }

    /// The upper half of a 16-byte descriptor of long mode.
    pub(super) fn descriptor_high(
        &mut self,
        descriptor: &Descriptor,
        fail: u8,
    ) -> Result<u64, Abort> {
        let limit = if descriptor.selector & 4 == 0 {
            self.state.gdtr.limit
        } else {
            self.state.ldtr.segment.limit as u64
        };
        if (descriptor.selector & 0xfff8) as u64 + 15 > limit {
            return self.raise_code(fail, selector_code(descriptor.selector));
        }
        self.read_system::<u64>(descriptor.address.wrapping_add(8))
    }

    /// Raises #GP where the base of a descriptor that LLDT or LTR loads is no address.
    fn check_base(&mut self, selector: u16, base: u64) -> Result<(), Abort> {
        if self.state.long_mode() && ((base << 16) as i64 >> 16) as u64 != base {
            return self.raise_code(vector::GP, selector_code(selector));
        }
        Ok(())
    }

    /// LLDT.
    pub fn load_ldt(&mut self, selector: u16) -> Result<(), Abort> {
        if selector & 0xfffc == 0 {
            let segment = Segment {
                limit: 0,
                rights: 0,
                selector,
            };
            self.state.ldtr = SystemSegment { base: 0, segment };
            return Ok(());
        }
        if selector & 4 != 0 {
            return self.raise_code(vector::GP, selector_code(selector));
        }
        let (descriptor, base) = self.system_descriptor(selector, vector::GP)?;
        if descriptor.is_segment() || descriptor.system_type() != 2 {
            return self.raise_code(vector::GP, selector_code(selector));
        }
        if !descriptor.present() {
            return self.raise_code(vector::NP, selector_code(selector));
        }
        self.check_base(selector, base)?;
        let segment = Segment {
            limit: descriptor.limit(),
            rights: descriptor.rights(),
            selector,
        };
        self.state.ldtr = SystemSegment { base, segment };
        Ok(())
    }

    /// LTR.
    pub fn load_task_register(&mut self, selector: u16) -> Result<(), Abort> {
        if selector & 0xfffc == 0 {
            return self.general_protection();
        }
        if selector & 4 != 0 {
            return self.raise_code(vector::GP, selector_code(selector));
        }
        let (descriptor, base) = self.system_descriptor(selector, vector::GP)?;
        let available = matches!(descriptor.system_type(), 9)
            || !self.state.long_mode() && descriptor.system_type() == 1;
        if descriptor.is_segment() || !available {
            return self.raise_code(vector::GP, selector_code(selector));
        }
        if !descriptor.present() {
            return self.raise_code(vector::NP, selector_code(selector));
        }
        self.check_base(selector, base)?;
        let busy = (descriptor.raw >> 40) as u8 | 2;
        self.write_system::<u8>(descriptor.address.wrapping_add(5), busy)?;
        let segment = Segment {
            limit: descriptor.limit(),
            rights: descriptor.rights() | 2,
            selector,
        };
        self.state.tr = SystemSegment { base, segment };
        Ok(())
    }
}

/// A selector as an error code: without its RPL.
pub fn selector_code(selector: u16) -> u32 {
    (selector & 0xfffc) as u32
}
