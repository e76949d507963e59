//! Each structure and back, by itself and through a real vCPU.

use super::*;
use crate::machine::compare::differences;
use bytemuck::Zeroable;

/// A state of long mode in which every register that is converted has a value of its own.
fn distinct() -> State {
    let mut state = State::reset();
    for (n, register) in state.gpr[..16].iter_mut().enumerate() {
        *register = 0x0101_0101_0101_0101 * (n as u64 + 1);
    }
    state.set_rip(0xffff_ffff_8100_1234);
    state.flags.set_rflags(0x40ed7 & !(1 << 8));
    state.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
    state.cr2 = 0x1234_5678_9abc;
    state.cr3 = 0x2000;
    state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::PGE;
    state.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
    for n in 0..6 {
        state.seg[n] = Segment {
            limit: u32::MAX,
            rights: 0xc093,
            selector: 0x10 + 8 * n as u16,
        };
    }
    state.seg[seg::CS].rights = 0xa09b;
    state.seg_base[seg::FS] = 0x7fff_1234_5000;
    state.seg_base[seg::GS] = 0xffff_8880_0000_1000;
    state.tr = SystemSegment {
        base: 0xffff_fe00_0000_3000,
        segment: Segment {
            limit: 0x206f,
            rights: 0x8b,
            selector: 0x40,
        },
    };
    state.ldtr.segment.rights = 0;
    (state.gdtr.base, state.gdtr.limit) = (0xffff_fe00_0000_1000, 0x7f);
    (state.idtr.base, state.idtr.limit) = (0xffff_fe00_0000_0000, 0xfff);
    (state.star, state.lstar, state.cstar) = (
        0x23_0010_0000_0000,
        0xffff_ffff_8200_0000,
        0xffff_ffff_8200_1000,
    );
    (state.fmask, state.kernel_gs_base) = (0x47700, 0x7f00_0000_2000);
    state.sysenter = [0x10, 0xffff_8880_0000_2000, 0xffff_ffff_8200_2000];
    state.x87.control = 0x37f;
    state.x87.status = 3 << 11;
    for (n, register) in state.x87.r.iter_mut().enumerate() {
        register.mantissa = 1 << 63 | n as u64;
        register.sign_exponent = 0x3fff + n as u64;
    }
    state.x87.set_from_abridged(0b1010_1101);
    state.mxcsr = 0x1fa0;
    for (n, vector) in state.vector.iter_mut().enumerate() {
        vector.0 = [n as u64 + 1, (n as u64) << 40, 0, 0];
    }
    state.dr[0] = 0x1000;
    state
}

#[test]
fn every_structure_converts_both_ways() {
    let memory = Memory::new(1 << 20).unwrap();
    let from = distinct();
    let mut back = State::zeroed();
    put_regs(&regs_of(&from), &mut back);
    put_sregs(&sregs_of(&from, 0), &memory, &mut back);
    put_xsave(&xsave_of(&from), &mut back);
    put_msrs(&msrs_of(&from), &mut back);
    put_debug(&debug_of(&from), &mut back);
    assert_eq!(differences(&from, &back), Vec::<String>::new());
    for n in 0..6 {
        assert_eq!(from.seg[n], back.seg[n], "segment {n}");
    }
    assert_eq!((from.tr, from.dr), (back.tr, back.dr));
    assert_eq!(from.x87.abridged_tag(), back.x87.abridged_tag());
    assert_eq!(from.rflags(), back.rflags());
}

/// What KVM takes it gives back; where there is no KVM the whole-program tests say so.
#[test]
fn a_real_processor_keeps_what_it_is_given() {
    let Ok(kvm) = kvm_ioctls::Kvm::new() else {
        return;
    };
    let memory = Memory::new(1 << 20).unwrap();
    let vm = kvm.create_vm().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let cpuid = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .unwrap();
    vcpu.set_cpuid2(&cpuid).unwrap();
    let from = distinct();
    vcpu.set_sregs(&sregs_of(&from, 0)).unwrap();
    vcpu.set_regs(&regs_of(&from)).unwrap();
    // SAFETY: a whole area; no larger components were asked for.
    unsafe { vcpu.set_xsave(&xsave_of(&from)) }.unwrap();
    let msrs = kvm_bindings::Msrs::from_entries(&msrs_of(&from)).unwrap();
    assert_eq!(vcpu.set_msrs(&msrs).unwrap(), MSRS.len());
    let mut back = State::zeroed();
    put_regs(&vcpu.get_regs().unwrap(), &mut back);
    put_sregs(&vcpu.get_sregs().unwrap(), &memory, &mut back);
    put_xsave(&vcpu.get_xsave().unwrap(), &mut back);
    let mut msrs = kvm_bindings::Msrs::from_entries(&msrs_of(&State::zeroed())).unwrap();
    assert_eq!(vcpu.get_msrs(&mut msrs).unwrap(), MSRS.len());
    put_msrs(msrs.as_slice(), &mut back);
    assert_eq!(differences(&from, &back), Vec::<String>::new());
}
