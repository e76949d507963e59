//! The engine's processor state as KVM's structures, and back (KVM API, 4.11 to 4.23).
//!
//! Not in KVM's structures and left alone here: memory-type ranges, IA32_MISC_ENABLE, IA32_SPEC_CTRL, IA32_TSC_ADJUST
//! (the guest's accesses to them come to us), the last x87 selectors, and whether the processor halts.

use crate::cpu::state::{
    F80, Segment, State, SystemSegment, activity, cr0, cr4, efer, gpr, rights, seg,
};
use crate::memory::Memory;
use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xsave,
};

/// IA32_APIC_BASE: at its place, enabled, bootstrap processor.
const APIC_BASE: u64 = 0xfee0_0900;

/// General registers in the order in which instructions encode them.
pub fn general(regs: &kvm_regs) -> [u64; 16] {
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

/// General registers, RIP, RFLAGS.
pub fn regs_of(state: &State) -> kvm_regs {
    let g = &state.gpr;
    kvm_regs {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: state.rip(),
        rflags: state.rflags(),
    }
}

/// The inverse of `regs_of`.
pub fn put_regs(regs: &kvm_regs, state: &mut State) {
    state.gpr[..16].copy_from_slice(&general(regs));
    state.gpr[gpr::RIP] = regs.rip;
    state.flags.set_rflags(regs.rflags);
}

fn segment_of(segment: &Segment, base: u64) -> kvm_segment {
    let bit = |bit: u16| u8::from(segment.rights & bit != 0);
    kvm_segment {
        base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.rights & 15) as u8,
        present: bit(rights::P),
        dpl: segment.dpl(),
        db: bit(rights::DB),
        s: bit(rights::S),
        l: bit(rights::L),
        g: bit(rights::G),
        avl: bit(1 << 12),
        unusable: u8::from(segment.rights == 0),
        padding: 0,
    }
}

fn segment_from(segment: &kvm_segment) -> Segment {
    let bit = |on: u8, bit: u16| if on != 0 { bit } else { 0 };
    let rights = u16::from(segment.type_ & 15)
        | bit(segment.s, rights::S)
        | u16::from(segment.dpl & 3) << rights::DPL_SHIFT
        | bit(segment.present, rights::P)
        | bit(segment.avl, 1 << 12)
        | bit(segment.l, rights::L)
        | bit(segment.db, rights::DB)
        | bit(segment.g, rights::G);
    Segment {
        limit: segment.limit,
        rights: if segment.unusable != 0 { 0 } else { rights },
        selector: segment.selector,
    }
}

/// Segment, control and table registers.
pub fn sregs_of(state: &State, task_priority: u64) -> kvm_sregs {
    let segment = |n: usize| segment_of(&state.seg[n], state.seg_base[n]);
    let table = |base, limit: u64| kvm_dtable {
        base,
        limit: limit as u16,
        padding: [0; 3],
    };
    kvm_sregs {
        cs: segment(seg::CS),
        ds: segment(seg::DS),
        es: segment(seg::ES),
        fs: segment(seg::FS),
        gs: segment(seg::GS),
        ss: segment(seg::SS),
        tr: segment_of(&state.tr.segment, state.tr.base),
        ldt: segment_of(&state.ldtr.segment, state.ldtr.base),
        gdt: table(state.gdtr.base, state.gdtr.limit),
        idt: table(state.idtr.base, state.idtr.limit),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: task_priority,
        efer: state.efer,
        apic_base: APIC_BASE,
        interrupt_bitmap: [0; 4],
    }
}

/// The inverse of `sregs_of`; the privilege level comes from it and from RFLAGS, which must be there already. The
/// directory pointers of PAE paging are read where CR3 says.
pub fn put_sregs(sregs: &kvm_sregs, memory: &Memory, state: &mut State) {
    let segments = [
        (seg::CS, &sregs.cs),
        (seg::DS, &sregs.ds),
        (seg::ES, &sregs.es),
        (seg::FS, &sregs.fs),
        (seg::GS, &sregs.gs),
        (seg::SS, &sregs.ss),
    ];
    for (n, segment) in segments {
        state.seg[n] = segment_from(segment);
        state.seg_base[n] = segment.base;
    }
    state.tr = SystemSegment {
        base: sregs.tr.base,
        segment: segment_from(&sregs.tr),
    };
    state.ldtr = SystemSegment {
        base: sregs.ldt.base,
        segment: segment_from(&sregs.ldt),
    };
    (state.gdtr.base, state.gdtr.limit) = (sregs.gdt.base, sregs.gdt.limit.into());
    (state.idtr.base, state.idtr.limit) = (sregs.idt.base, sregs.idt.limit.into());
    state.cr0 = sregs.cr0;
    state.cr2 = sregs.cr2;
    state.cr3 = sregs.cr3;
    state.cr4 = sregs.cr4;
    state.efer = sregs.efer;
    state.cpl = match () {
        () if state.cr0 & cr0::PE == 0 => 0,
        () if state.flags.vm86() => 3,
        () => sregs.ss.dpl & 3,
    };
    let pae = state.cr0 & cr0::PG != 0 && state.cr4 & cr4::PAE != 0 && state.efer & efer::LMA == 0;
    if pae {
        for (n, entry) in state.pdpte.iter_mut().enumerate() {
            *entry = memory.read_u64((sregs.cr3 & 0xffff_ffe0) + 8 * n as u64);
        }
    }
}

/// Places in an XSAVE area (SDM volume 1, 13.4): the legacy region is FXSAVE's, then comes the header.
mod area {
    pub const CONTROL: usize = 0;
    pub const STATUS: usize = 2;
    pub const TAG: usize = 4;
    pub const OPCODE: usize = 6;
    pub const IP: usize = 8;
    pub const DATA: usize = 16;
    pub const MXCSR: usize = 24;
    pub const X87: usize = 32;
    pub const XMM: usize = 160;
    pub const XSTATE_BV: usize = 512;
    /// x87 and SSE.
    pub const COMPONENTS: u64 = 3;
    pub const BYTES: usize = 4096;
}

/// x87 and SSE registers, as KVM_SET_XSAVE wants them. (KVM_SET_FPU leaves MXCSR out.)
pub fn xsave_of(state: &State) -> kvm_xsave {
    let mut out = [0u8; area::BYTES];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let x87 = &state.x87;
    put(area::CONTROL, &x87.control.to_le_bytes());
    put(area::STATUS, &x87.status.to_le_bytes());
    put(area::TAG, &[x87.abridged_tag()]);
    put(area::OPCODE, &x87.opcode.to_le_bytes());
    put(area::IP, &x87.ip.to_le_bytes());
    put(area::DATA, &x87.data.to_le_bytes());
    put(area::MXCSR, &state.mxcsr.to_le_bytes());
    let top = usize::from(x87.status >> 11 & 7);
    for n in 0..8 {
        let register = &x87.r[(top + n) & 7];
        put(area::X87 + 16 * n, &register.mantissa.to_le_bytes());
        put(
            area::X87 + 16 * n + 8,
            &(register.sign_exponent as u16).to_le_bytes(),
        );
    }
    for (n, vector) in state.vector.iter().enumerate() {
        put(area::XMM + 16 * n, &vector.0[0].to_le_bytes());
        put(area::XMM + 16 * n + 8, &vector.0[1].to_le_bytes());
    }
    put(area::XSTATE_BV, &area::COMPONENTS.to_le_bytes());
    let mut xsave = kvm_xsave::default();
    for (word, bytes) in xsave.region.iter_mut().zip(out.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    }
    xsave
}

/// The inverse of `xsave_of`.
pub fn put_xsave(xsave: &kvm_xsave, state: &mut State) {
    let bytes: Vec<u8> = xsave
        .region
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let x87 = &mut state.x87;
    x87.control = short(area::CONTROL);
    x87.status = short(area::STATUS);
    x87.opcode = short(area::OPCODE);
    x87.ip = long(area::IP);
    x87.data = long(area::DATA);
    let top = usize::from(x87.status >> 11 & 7);
    for n in 0..8 {
        x87.r[(top + n) & 7] = F80 {
            mantissa: long(area::X87 + 16 * n),
            sign_exponent: short(area::X87 + 16 * n + 8).into(),
        };
    }
    x87.set_from_abridged(bytes[area::TAG]);
    for (n, vector) in state.vector.iter_mut().enumerate() {
        vector.0[0] = long(area::XMM + 16 * n);
        vector.0[1] = long(area::XMM + 16 * n + 8);
    }
    state.mxcsr = long(area::MXCSR) as u32;
}

/// Debug registers.
pub fn debug_of(state: &State) -> kvm_debugregs {
    kvm_debugregs {
        db: [state.dr[0], state.dr[1], state.dr[2], state.dr[3]],
        dr6: state.dr[6],
        dr7: state.dr[7],
        ..kvm_debugregs::default()
    }
}

/// The inverse of `debug_of`.
pub fn put_debug(debug: &kvm_debugregs, state: &mut State) {
    state.dr[..4].copy_from_slice(&debug.db);
    state.dr[6] = debug.dr6;
    state.dr[7] = debug.dr7;
}

/// The registers of [`msrs_of`], in its order.
const MSRS: [u32; 9] = {
    use crate::cpu::msr::index::*;
    [
        STAR,
        LSTAR,
        CSTAR,
        FMASK,
        KERNEL_GS_BASE,
        SYSENTER_CS,
        SYSENTER_ESP,
        SYSENTER_EIP,
        PAT,
    ]
};

/// What KVM and the engine treat alike: the guest's RDMSR and WRMSR of these need no exit.
pub fn shared_msrs() -> impl Iterator<Item = u32> {
    use crate::cpu::msr::index::{EFER, FS_BASE, GS_BASE};
    MSRS.into_iter().chain([EFER, FS_BASE, GS_BASE])
}

/// Model-specific registers that are no part of other structures.
pub fn msrs_of(state: &State) -> [kvm_msr_entry; 9] {
    let values = [
        state.star,
        state.lstar,
        state.cstar,
        state.fmask,
        state.kernel_gs_base,
        state.sysenter[0],
        state.sysenter[1],
        state.sysenter[2],
        state.pat,
    ];
    std::array::from_fn(|n| kvm_msr_entry {
        index: MSRS[n],
        data: values[n],
        ..kvm_msr_entry::default()
    })
}

/// The inverse of `msrs_of`.
pub fn put_msrs(entries: &[kvm_msr_entry], state: &mut State) {
    let places = [
        &mut state.star,
        &mut state.lstar,
        &mut state.cstar,
        &mut state.fmask,
        &mut state.kernel_gs_base,
    ];
    for (place, entry) in places.into_iter().zip(entries) {
        *place = entry.data;
    }
    for (place, entry) in state.sysenter.iter_mut().zip(entries.iter().skip(5)) {
        *place = entry.data;
    }
    if let Some(entry) = entries.get(8) {
        state.pat = entry.data;
    }
}

/// What is not in KVM's structures but follows from where it runs.
pub fn runs(state: &mut State, shadow: bool, nmi_blocked: bool) {
    state.activity = activity::RUNNING;
    state.shadow = shadow.into();
    state.nmi_blocked = nmi_blocked.into();
    state.nmi_pending = 0;
    state.pending_trap = 0;
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
