//! System instructions: control and debug registers, descriptor tables, MSRs, CPUID, time, HLT, caches and TLB,
//! segment queries, SWAPGS and FS/GS bases.
//!
//! INVLPG and INVPCID have nothing to do but to fault: the TLB is coherent (see `mmu/tlb.rs`).

use super::{Lowered, alone, by_wide_width, ending, straight, width};
use crate::cpu::decode::{Context, Mode};
use crate::cpu::events::{Event, SPACE_MASK};
use crate::cpu::flags::{Width, bits};
use crate::cpu::op::{Flow, Op, op_flags};
use crate::cpu::segment::Descriptor;
use crate::cpu::state::{activity, cr0, cr4, efer, gpr, rights, seg};
use crate::cpu::{Abort, Cpu, vector};
use iced_x86::{Code, Mnemonic, OpKind, Register};

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    match insn.mnemonic() {
        Mnemonic::Mov => move_special(context),
        Mnemonic::Cpuid => straight(cpuid),
        Mnemonic::Rdtsc if context.features.hidden_tsc => alone(rdtsc_hidden),
        Mnemonic::Rdtsc => straight(rdtsc),
        Mnemonic::Rdtscp => straight(rdtscp),
        Mnemonic::Rdpid => straight(rdpid),
        Mnemonic::Rdmsr => alone(rdmsr),
        Mnemonic::Wrmsr => alone(wrmsr),
        Mnemonic::Hlt => ending(hlt),
        Mnemonic::Clts => straight(clts),
        Mnemonic::Lmsw => ending(lmsw),
        Mnemonic::Smsw => by_wide_width!(width(context, 0), W => straight(smsw::<W>)),
        Mnemonic::Invlpg | Mnemonic::Invd | Mnemonic::Wbinvd => straight(privileged_nothing),
        Mnemonic::Invpcid => straight(invpcid),
        Mnemonic::Rdrand | Mnemonic::Rdseed => {
            by_wide_width!(width(context, 0), W => alone(random::<W>))
        }
        // There are no counters.
        Mnemonic::Rdpmc => straight(|cpu: &mut Cpu, _: &Op| cpu.general_protection()),
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => straight(cache_line),
        Mnemonic::Lgdt => {
            op.aux = (insn.code() == Code::Lgdt_m1632_16) as u8;
            straight(load_table::<true>)
        }
        Mnemonic::Lidt => {
            op.aux = (insn.code() == Code::Lidt_m1632_16) as u8;
            straight(load_table::<false>)
        }
        Mnemonic::Sgdt => straight(store_table::<true>),
        Mnemonic::Sidt => straight(store_table::<false>),
        Mnemonic::Lldt => ending(lldt),
        Mnemonic::Ltr => ending(ltr),
        Mnemonic::Sldt => {
            by_wide_width!(width(context, 0), W => straight(store_selector::<true, W>))
        }
        Mnemonic::Str => {
            by_wide_width!(width(context, 0), W => straight(store_selector::<false, W>))
        }
        Mnemonic::Lar => by_wide_width!(width(context, 0), W => straight(lar::<W>)),
        Mnemonic::Lsl => by_wide_width!(width(context, 0), W => straight(lsl::<W>)),
        Mnemonic::Verr => straight(verify::<false>),
        Mnemonic::Verw => straight(verify::<true>),
        Mnemonic::Swapgs => straight(swapgs),
        Mnemonic::Rdfsbase => base_access::<false>(context, op, seg::FS),
        Mnemonic::Rdgsbase => base_access::<false>(context, op, seg::GS),
        Mnemonic::Wrfsbase => base_access::<true>(context, op, seg::FS),
        Mnemonic::Wrgsbase => base_access::<true>(context, op, seg::GS),
        _ => None,
    }
}

impl Cpu {
    /// Raises #GP outside privilege level 0.
    #[inline(always)]
    pub(super) fn privileged(&mut self) -> Result<(), Abort> {
        if self.state.cpl != 0 {
            self.general_protection()
        } else {
            Ok(())
        }
    }

    /// Raises #GP where user-mode instruction prevention forbids a store of a system register.
    fn check_umip(&mut self) -> Result<(), Abort> {
        if self.state.cpl != 0 && self.state.cr4 & cr4::UMIP != 0 {
            self.general_protection()
        } else {
            Ok(())
        }
    }
}

fn privileged_nothing(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    cpu.privileged()
}

/// CLFLUSH and its kin: a load as far as faults go, and no cache to flush.
fn cache_line(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let address = cpu.address(op, 1, false)?;
    cpu.check_read(address)
}

/// INVPCID. The TLB is coherent, so that only its faults are to be seen.
fn invpcid(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.privileged()?;
    let kind = whole(cpu, op.dst);
    if kind > 3 {
        return cpu.general_protection();
    }
    let [low, address] = cpu.load::<[u64; 2]>(op)?;
    let pcid_possible = low & 0xfff == 0 || cpu.state.cr4 & cr4::PCIDE != 0;
    let canonical = ((address << 16) as i64 >> 16) as u64 == address;
    let valid = low >> 12 == 0
        && match kind {
            0 => pcid_possible && canonical,
            1 => pcid_possible,
            _ => true,
        };
    if valid {
        Ok(())
    } else {
        cpu.general_protection()
    }
}

/// RDRAND and RDSEED: there is always a number.
fn random<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let (now, index) = (cpu.tick_of(op), cpu.index);
    cpu.attention = true;
    let value = cpu.world().random(now, index);
    cpu.set_reg::<W>(op.dst, W::from_u64(value));
    cpu.state.flags.set_arithmetic(bits::CF);
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn move_special(context: &Context) -> Option<Lowered> {
    let insn = context.insn;
    let (to, from) = (insn.op0_register(), insn.op1_register());
    if insn.op0_kind() != OpKind::Register || insn.op1_kind() != OpKind::Register {
        return None;
    }
    match () {
        () if to.is_cr() => alone(move_to_control),
        () if from.is_cr() => alone(move_from_control),
        () if to.is_dr() => ending(move_to_debug),
        () if from.is_dr() => straight(move_from_debug),
        () => None,
    }
}

/// A whole register operand; its upper half counts only in 64-bit mode.
fn whole(cpu: &Cpu, offset: u8) -> u64 {
    let value = cpu.reg::<u64>(offset);
    if cpu.mode == Mode::Bits64 {
        value
    } else {
        value & 0xffff_ffff
    }
}

fn move_from_control(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    cpu.privileged()?;
    let value = match op.src {
        0 => cpu.state.cr0,
        2 => cpu.state.cr2,
        3 => cpu.state.cr3,
        4 => cpu.state.cr4,
        8 => {
            let (now, index) = (cpu.tick_of(op), cpu.index);
            cpu.world().tpr_read(now, index)
        }
        _ => return cpu.undefined(),
    };
    if cpu.mode == Mode::Bits64 {
        cpu.set_reg::<u64>(op.dst, value);
    } else {
        cpu.set_reg::<u32>(op.dst, value as u32);
    }
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn move_to_control(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    cpu.privileged()?;
    let value = whole(cpu, op.src);
    let (at, old_cr3) = (cpu.linear_of(op), cpu.state.cr3);
    match op.dst {
        0 => set_cr0(cpu, value)?,
        2 => cpu.state.cr2 = value,
        3 => set_cr3(cpu, value)?,
        4 => set_cr4(cpu, value)?,
        8 => {
            if value > 15 {
                return cpu.general_protection();
            }
            let (now, index) = (cpu.tick_of(op), cpu.index);
            cpu.attention = true;
            cpu.world().tpr_write(now, index, value);
        }
        _ => return cpu.undefined(),
    }
    cpu.advance(op);
    cpu.update_mode();
    let register = op.dst;
    let root = cpu.state.cr3 & SPACE_MASK;
    // Of the two only one can stop a run: the rarer one has the word.
    if (old_cr3 ^ cpu.state.cr3) & SPACE_MASK != 0 {
        cpu.event(at, Event::Space { root });
    }
    cpu.event(at, Event::Control { register, value });
    Ok(Flow::Attention)
}

fn set_cr0(cpu: &mut Cpu, value: u64) -> Result<(), Abort> {
    let known = cr0::PE
        | cr0::MP
        | cr0::EM
        | cr0::TS
        | cr0::ET
        | cr0::NE
        | cr0::WP
        | cr0::AM
        | cr0::NW
        | cr0::CD
        | cr0::PG;
    let new = value & known | cr0::ET;
    let contradicts =
        new & cr0::PG != 0 && new & cr0::PE == 0 || new & cr0::NW != 0 && new & cr0::CD == 0;
    if contradicts || value >> 32 != 0 {
        return cpu.general_protection();
    }
    let old = cpu.state.cr0;
    let mut new_efer = cpu.state.efer;
    if (old ^ new) & cr0::PG != 0 {
        if new & cr0::PG != 0 && cpu.state.efer & efer::LME != 0 {
            if cpu.state.cr4 & cr4::PAE == 0 || cpu.state.seg[seg::CS].rights & rights::L != 0 {
                return cpu.general_protection();
            }
            new_efer |= efer::LMA;
        } else if new & cr0::PG == 0 {
            if cpu.mode == Mode::Bits64 || cpu.state.cr4 & cr4::PCIDE != 0 {
                return cpu.general_protection();
            }
            new_efer &= !efer::LMA;
        }
    }
    let (old_efer, pae) = (cpu.state.efer, cpu.state.cr4 & cr4::PAE != 0);
    cpu.state.cr0 = new;
    cpu.state.efer = new_efer;
    if new & cr0::PG != 0
        && (old ^ new) & (cr0::PG | cr0::CD | cr0::NW) != 0
        && pae
        && new_efer & efer::LMA == 0
    {
        let cr3 = cpu.state.cr3;
        if let Err(abort) = load_pdptes(cpu, cr3) {
            cpu.state.cr0 = old;
            cpu.state.efer = old_efer;
            return Err(abort);
        }
    }
    if (old ^ new) & (cr0::PG | cr0::WP | cr0::PE) != 0 {
        cpu.forget_translations();
    }
    Ok(())
}

/// Loads the page-directory-pointer registers of PAE paging (SDM volume 3, 4.4.1).
fn load_pdptes(cpu: &mut Cpu, cr3: u64) -> Result<(), Abort> {
    let table = cr3 & 0xffff_ffe0;
    let entries: [u64; 4] = std::array::from_fn(|n| cpu.memory.read_u64(table + 8 * n as u64));
    let reserved = !((1u64 << crate::cpu::mmu::walk::PHYSICAL_BITS) - 1) | 0x1e6;
    if entries.iter().any(|e| e & 1 != 0 && e & reserved != 0) {
        return cpu.general_protection();
    }
    cpu.state.pdpte = entries;
    Ok(())
}

/// Loads CR3, and with PAE paging the page-directory-pointer registers.
pub(in crate::cpu) fn set_cr3(cpu: &mut Cpu, value: u64) -> Result<(), Abort> {
    // Bit 63 asks for keeping the TLB where PCIDs are on; nothing is kept or dropped here anyway.
    let keep = if cpu.state.cr4 & cr4::PCIDE != 0 {
        1 << 63
    } else {
        0
    };
    let new = value & !keep;
    if cpu.state.long_mode() && new >> crate::cpu::mmu::walk::PHYSICAL_BITS != 0 {
        return cpu.general_protection();
    }
    if cpu.state.cr0 & cr0::PG != 0 && cpu.state.cr4 & cr4::PAE != 0 && !cpu.state.long_mode() {
        load_pdptes(cpu, new)?;
        cpu.state.cr3 = new;
        cpu.forget_translations();
        return Ok(());
    }
    let old = std::mem::replace(&mut cpu.state.cr3, new);
    if (old ^ new) & !0xfff != 0 {
        cpu.forget_translations();
    }
    Ok(())
}

fn set_cr4(cpu: &mut Cpu, value: u64) -> Result<(), Abort> {
    let mut offered = cr4::TSD
        | cr4::DE
        | cr4::PSE
        | cr4::PAE
        | cr4::MCE
        | cr4::PGE
        | cr4::PCE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT;
    let leaf7 = cpu.model.query(7, 0);
    for (bit, register, flag) in [
        (0, 1, cr4::FSGSBASE),
        (7, 1, cr4::SMEP),
        (20, 1, cr4::SMAP),
        (2, 2, cr4::UMIP),
    ] {
        if leaf7[register] >> bit & 1 != 0 {
            offered |= flag;
        }
    }
    let leaf1 = cpu.model.query(1, 0);
    if leaf1[2] >> 17 & 1 != 0 {
        offered |= cr4::PCIDE;
    }
    if leaf1[2] >> 26 & 1 != 0 {
        offered |= cr4::OSXSAVE;
    }
    let old = cpu.state.cr4;
    let leaves_pae = cpu.state.long_mode() && value & cr4::PAE == 0;
    let bad_pcide = value & cr4::PCIDE != 0
        && old & cr4::PCIDE == 0
        && (!cpu.state.long_mode() || cpu.state.cr3 & 0xfff != 0);
    if value & !offered != 0 || leaves_pae || bad_pcide {
        return cpu.general_protection();
    }
    let paging = cr4::PSE | cr4::PAE | cr4::SMEP | cr4::SMAP;
    let pae_paging =
        cpu.state.cr0 & cr0::PG != 0 && value & cr4::PAE != 0 && !cpu.state.long_mode();
    if pae_paging && (old ^ value) & (paging | cr4::PGE) != 0 {
        let cr3 = cpu.state.cr3;
        load_pdptes(cpu, cr3)?;
    }
    cpu.state.cr4 = value;
    if (old ^ value) & cr4::DE != 0 {
        cpu.update_armed();
    }
    if (old ^ value) & paging != 0 {
        cpu.forget_translations();
    }
    Ok(())
}

fn move_from_debug(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.read_debug_register(op.src)?;
    if cpu.mode == Mode::Bits64 {
        cpu.set_reg::<u64>(op.dst, value);
    } else {
        cpu.set_reg::<u32>(op.dst, value as u32);
    }
    Ok(())
}

fn move_to_debug(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let value = whole(cpu, op.src);
    cpu.write_debug_register(op.dst, value)?;
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn cpuid(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let (leaf, subleaf) = (
        cpu.state.gpr[gpr::RAX] as u32,
        cpu.state.gpr[gpr::RCX] as u32,
    );
    let mut registers = cpu.model.query(leaf, subleaf);
    match leaf {
        // The initial APIC id, and whether XSAVE is switched on.
        1 => {
            registers[1] |= (cpu.index as u32) << 24;
            if cpu.state.cr4 & cr4::OSXSAVE != 0 {
                registers[2] |= 1 << 27;
            }
        }
        0xb => registers[3] = cpu.index as u32,
        // The size of an XSAVE area with what is switched on.
        0xd if subleaf == 0 && registers[0] != 0 => {
            registers[1] = if cpu.state.xcr0 & 4 != 0 { 832 } else { 576 };
        }
        _ => {}
    }
    for (slot, value) in [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX]
        .into_iter()
        .zip(registers)
    {
        cpu.state.gpr[slot] = value as u64;
    }
    Ok(())
}

fn read_clock(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    if cpu.state.cr4 & cr4::TSD != 0 && cpu.state.cpl != 0 {
        return cpu.general_protection();
    }
    let now = cpu.tick_of(op);
    let tsc = cpu.tsc(now);
    cpu.state.gpr[gpr::RAX] = tsc & 0xffff_ffff;
    cpu.state.gpr[gpr::RDX] = tsc >> 32;
    Ok(())
}

fn rdtsc(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    read_clock(cpu, op)
}

/// Where CPUID hides the counter, its values may be no function of the tick: the world is asked by itself.
fn rdtsc_hidden(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    read_clock(cpu, op)?;
    cpu.attention = true;
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn rdtscp(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    read_clock(cpu, op)?;
    cpu.state.gpr[gpr::RCX] = cpu.state.tsc_aux & 0xffff_ffff;
    Ok(())
}

fn rdpid(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.state.tsc_aux;
    cpu.set_reg::<u64>(op.dst, value);
    Ok(())
}

fn rdmsr(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    cpu.privileged()?;
    let value = cpu.read_msr(cpu.state.gpr[gpr::RCX] as u32)?;
    cpu.state.gpr[gpr::RAX] = value & 0xffff_ffff;
    cpu.state.gpr[gpr::RDX] = value >> 32;
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn wrmsr(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    cpu.privileged()?;
    let value = cpu.state.gpr[gpr::RDX] << 32 | cpu.state.gpr[gpr::RAX] & 0xffff_ffff;
    let msr = cpu.state.gpr[gpr::RCX] as u32;
    cpu.write_msr(msr, value)?;
    let at = cpu.linear_of(op);
    cpu.event(at, Event::Msr { msr, value });
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn hlt(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    cpu.privileged()?;
    cpu.advance(op);
    cpu.state.activity = activity::HALTED;
    cpu.attention = true;
    Ok(Flow::Attention)
}

fn clts(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    cpu.privileged()?;
    cpu.state.cr0 &= !cr0::TS;
    Ok(())
}

/// A 16-bit operand, register or memory.
fn operand16(cpu: &mut Cpu, op: &Op) -> Result<u16, Abort> {
    if op.has(op_flags::MEMORY) {
        cpu.load::<u16>(op)
    } else {
        Ok(cpu.reg::<u16>(op.dst))
    }
}

fn lmsw(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    cpu.privileged()?;
    let value = operand16(cpu, op)? as u64 & 15;
    // PE can be set but not cleared.
    let old = cpu.state.cr0;
    let new = old & !(cr0::MP | cr0::EM | cr0::TS) | value;
    let at = cpu.linear_of(op);
    set_cr0(cpu, new)?;
    cpu.advance(op);
    cpu.update_mode();
    cpu.event(
        at,
        Event::Control {
            register: 0,
            value: new,
        },
    );
    Ok(Flow::Attention)
}

fn smsw<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.check_umip()?;
    let value = cpu.state.cr0;
    if op.has(op_flags::MEMORY) {
        return cpu.store(op, value as u16);
    }
    cpu.set_reg(op.dst, W::from_u64(value));
    Ok(())
}

fn load_table<const GDT: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.privileged()?;
    let long = cpu.mode == Mode::Bits64;
    let address = cpu.address(op, if long { 10 } else { 6 }, false)?;
    let limit = cpu.read::<u16>(address)? as u64;
    let at = address.wrapping_add(2);
    let base = if long {
        cpu.read::<u64>(at)?
    } else {
        // The base has 24 bits where the operand size is 16.
        let mask = if op.aux != 0 { 0xff_ffff } else { u32::MAX };
        (cpu.read::<u32>(at)? & mask) as u64
    };
    if long && ((base << 16) as i64 >> 16) as u64 != base {
        return cpu.general_protection();
    }
    let table = if GDT {
        &mut cpu.state.gdtr
    } else {
        &mut cpu.state.idtr
    };
    table.limit = limit;
    table.base = base;
    Ok(())
}

fn store_table<const GDT: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.check_umip()?;
    let long = cpu.mode == Mode::Bits64;
    let bytes = if long { 10 } else { 6 };
    let address = cpu.address(op, bytes, true)?;
    cpu.check_write(address, bytes)?;
    let table = if GDT { cpu.state.gdtr } else { cpu.state.idtr };
    cpu.write::<u16>(address, table.limit as u16)?;
    let at = address.wrapping_add(2);
    if long {
        cpu.write::<u64>(at, table.base)
    } else {
        cpu.write::<u32>(at, table.base as u32)
    }
}

/// Raises #UD where there are no selectors: real and virtual-8086 mode.
fn check_selectors(cpu: &mut Cpu) -> Result<(), Abort> {
    if !cpu.state.protected() || cpu.state.flags.vm86() {
        cpu.undefined()
    } else {
        Ok(())
    }
}

fn lldt(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    check_selectors(cpu)?;
    cpu.privileged()?;
    let selector = operand16(cpu, op)?;
    cpu.load_ldt(selector)?;
    cpu.advance(op);
    Ok(Flow::Indirect)
}

fn ltr(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    check_selectors(cpu)?;
    cpu.privileged()?;
    let selector = operand16(cpu, op)?;
    cpu.load_task_register(selector)?;
    cpu.advance(op);
    Ok(Flow::Indirect)
}

fn store_selector<const LDT: bool, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    check_selectors(cpu)?;
    cpu.check_umip()?;
    let table = if LDT { cpu.state.ldtr } else { cpu.state.tr };
    let selector = table.segment.selector;
    if op.has(op_flags::MEMORY) {
        return cpu.store(op, selector);
    }
    cpu.set_reg(op.dst, W::from_u64(selector as u64));
    Ok(())
}

/// The selector operand of LAR, LSL, VERR, VERW.
fn queried(cpu: &mut Cpu, op: &Op, register: u8) -> Result<u16, Abort> {
    check_selectors(cpu)?;
    if op.has(op_flags::MEMORY) {
        cpu.load::<u16>(op)
    } else {
        Ok(cpu.reg::<u16>(register))
    }
}

/// The descriptor of a selector if it exists and may be seen; page faults pass through.
fn visible(cpu: &mut Cpu, selector: u16) -> Result<Option<Descriptor>, Abort> {
    if selector & 0xfffc == 0 {
        return Ok(None);
    }
    let descriptor = match cpu.descriptor(selector, vector::GP) {
        Ok(descriptor) => descriptor,
        Err(Abort) => {
            let outside = crate::cpu::AbortReason::Fault(crate::cpu::Fault::with_code(
                vector::GP,
                crate::cpu::segment::selector_code(selector),
            ));
            return if cpu.abort == outside {
                Ok(None)
            } else {
                Err(Abort)
            };
        }
    };
    let level = cpu.state.cpl.max((selector & 3) as u8);
    Ok((descriptor.is_conforming() || descriptor.dpl() >= level).then_some(descriptor))
}

fn lar<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let selector = queried(cpu, op, op.src)?;
    let found = visible(cpu, selector)?.filter(|d| {
        let long = cpu.state.long_mode();
        d.is_segment()
            || match d.system_type() {
                2 | 9 | 11 | 12 => true,
                1 | 3 | 4 | 5 => !long,
                _ => false,
            }
    });
    if let Some(descriptor) = &found {
        let value = descriptor.raw >> 32 & 0x00ff_ff00;
        cpu.set_reg(
            op.dst,
            W::from_u64(value & if W::BITS == 16 { 0xff00 } else { u64::MAX }),
        );
    }
    cpu.state.flags.set_zf(found.is_some());
    Ok(())
}

fn lsl<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let selector = queried(cpu, op, op.src)?;
    let found = visible(cpu, selector)?.filter(|d| {
        let long = cpu.state.long_mode();
        d.is_segment()
            || match d.system_type() {
                2 | 9 | 11 => true,
                1 | 3 => !long,
                _ => false,
            }
    });
    if let Some(descriptor) = &found {
        cpu.set_reg(op.dst, W::from_u64(descriptor.limit() as u64));
    }
    cpu.state.flags.set_zf(found.is_some());
    Ok(())
}

fn verify<const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let selector = queried(cpu, op, op.dst)?;
    let found = visible(cpu, selector)?.filter(|d| {
        if WRITE {
            d.is_writable_data()
        } else {
            d.is_segment() && (!d.is_code() || d.rights() & rights::RW != 0)
        }
    });
    cpu.state.flags.set_zf(found.is_some());
    Ok(())
}

fn swapgs(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    if cpu.mode != Mode::Bits64 {
        return cpu.undefined();
    }
    cpu.privileged()?;
    std::mem::swap(
        &mut cpu.state.seg_base[seg::GS],
        &mut cpu.state.kernel_gs_base,
    );
    Ok(())
}

fn base_access<const WRITE: bool>(
    context: &Context,
    op: &mut Op,
    segment: usize,
) -> Option<Lowered> {
    op.aux = segment as u8;
    let wide =
        context.insn.op0_register().size() == 8 && context.insn.op0_register() != Register::None;
    match (WRITE, wide) {
        (false, true) => straight(read_base::<u64>),
        (false, false) => straight(read_base::<u32>),
        (true, true) => straight(write_base::<u64>),
        (true, false) => straight(write_base::<u32>),
    }
}

fn check_fsgsbase(cpu: &mut Cpu) -> Result<(), Abort> {
    if cpu.mode != Mode::Bits64 || cpu.state.cr4 & cr4::FSGSBASE == 0 {
        cpu.undefined()
    } else {
        Ok(())
    }
}

fn read_base<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    check_fsgsbase(cpu)?;
    let base = cpu.state.seg_base[op.aux as usize];
    cpu.set_reg(op.dst, W::from_u64(base));
    Ok(())
}

fn write_base<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    check_fsgsbase(cpu)?;
    let base = cpu.reg::<W>(op.dst).to_u64();
    if ((base << 16) as i64 >> 16) as u64 != base {
        return cpu.general_protection();
    }
    cpu.state.seg_base[op.aux as usize] = base;
    Ok(())
}
