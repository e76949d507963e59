//! A virtual machine of KVM with one processor: RAM is the machine's own, and everything else comes out to us.
//!
//! No interrupt controller in the kernel, so that the processor leaves the guest at its own instructions only (and at
//! kicks). CPUID answers from the recording's table; filtered MSRs leave. KVM API, 4.1 to 4.35, 4.97, 5, 7.21, 7.22.

use super::convert;
use super::entries::{self, Entered, Entries, Made};
use super::error::{KvmError, call};
use super::ioctl;
use super::kick::Kicker;
use crate::cpu::cpuid::{CpuModel, Leaf};
use crate::cpu::debug::dr7;
use crate::cpu::msr::index::{LSTAR, TSC};
use crate::cpu::state::State;
use crate::memory::{HIGH_RAM, Memory, PAGE_BYTES, PCI_HOLE};
use kvm_bindings::*;
use kvm_ioctls::{
    Cap, Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, SyncReg, VcpuFd, VmFd,
};
use std::time::Duration;

/// Where KVM may put three pages of its own on Intel processors that need them: in the hole, away from all devices.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// MSR_PLATFORM_INFO and MSR_MISC_FEATURES_ENABLES of KVM, which lets CPUID of ring 3 raise #GP (SDM volume 4).
const PLATFORM_INFO: u32 = 0xce;
const CPUID_FAULTING: u64 = 1 << 31;
const MISC_FEATURES_ENABLES: u32 = 0x140;

/// Why the processor left the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// IN: `count` values of `size` bytes are wanted in [`Vm::io_data`].
    In { port: u16, size: u8, count: usize },
    /// OUT: they are there.
    Out { port: u16, size: u8, count: usize },
    /// A load of so many bytes that are wanted in [`Vm::mmio_data`].
    Load { gpa: u64, len: usize },
    /// A store: they are there.
    Store { gpa: u64, len: usize },
    /// HLT; RIP is behind it.
    Halt,
    /// Triple fault.
    Shutdown,
    /// RDMSR of a register that is ours.
    ReadMsr(u32),
    /// WRMSR of such a register.
    WriteMsr(u32, u64),
    /// The guest can take an interrupt now.
    Window,
    /// A kick, or what looks like one.
    Kicked,
    /// The guest changed CR8.
    TaskPriority,
    /// An instruction that KVM cannot execute.
    NotEmulated,
    /// An instruction with one of our breakpoints comes next, or an INT3.
    Breakpoint,
    /// Something that should not be.
    Other(String),
}

/// The machine.
pub struct Vm {
    // Dropped in this order: the kicker points into the vCPU's mapping.
    kicker: Kicker,
    vcpu: VcpuFd,
    vm: VmFd,
    slots: Vec<(u32, u64, usize)>,
    sync: bool,
    /// Where programs' entries into ring 0 are made by us.
    entries: Option<Entries>,
    /// INT3 comes out to us.
    int3: bool,
    /// Linear address of an instruction that somebody waits for.
    moment: Option<u64>,
}

/// Opens /dev/kvm, or says in one line why that does not go.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Forbidden,
        _ => call("cannot open /dev/kvm")(error),
    })?;
    for (cap, name) in [
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
        (Cap::Xsave, "KVM_CAP_XSAVE"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Lacks(name));
        }
    }
    if kvm.check_extension_raw(KVM_CAP_X86_MSR_FILTER.into()) <= 0 {
        return Err(KvmError::Lacks("KVM_CAP_X86_MSR_FILTER"));
    }
    Ok(kvm)
}

/// The processor that both the host and the engine are: the engine's table without what the host lacks, and without
/// what cannot be recorded here.
pub fn common_model(kvm: &Kvm, engine: &CpuModel) -> Result<CpuModel, KvmError> {
    let host = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(call("the host's CPUID"))?;
    let host_leaf = |leaf: u32, subleaf: u32| {
        let found = host
            .as_slice()
            .iter()
            .find(|e| e.function == leaf && e.index == subleaf);
        found.map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
    };
    // Not KVM's to offer, but harmless: the local APIC and its marks are ours.
    let ours = |leaf: u32, register: usize| match (leaf, register) {
        (1, 3) => 1 << 9,
        _ => 0,
    };
    // TSC-deadline timer, TSC, TSC_ADJUST and RDTSCP; RDRAND and RDSEED, which nothing traps; and XSAVE with all that
    // needs it: what it stores depends on how a processor tracks what was modified.
    let hidden = |leaf: u32, register: usize| match (leaf, register) {
        (1, 2) => 1 << 24 | 1 << 30 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 12 | 1 << 29,
        (1, 3) => 1 << 4,
        (7, 1) => 1 << 1 | 1 << 18 | 1 << 5,
        (0x8000_0001, 3) => 1 << 27,
        _ => 0,
    };
    let keep = |leaf: &Leaf| {
        let mut registers = leaf.registers;
        let features: &[usize] = match (leaf.leaf, leaf.subleaf) {
            (1, _) | (0x8000_0001, _) => &[2, 3],
            (7, 0) => &[1, 2],
            _ => &[],
        };
        let there = host_leaf(leaf.leaf, leaf.subleaf);
        for &n in features {
            registers[n] &= (there[n] | ours(leaf.leaf, n)) & !hidden(leaf.leaf, n);
        }
        match leaf.leaf {
            0xd | 0x15 | 0x16 => registers = [0; 4],
            0x8000_0007 => registers[3] = 0,
            _ => {}
        }
        Leaf { registers, ..*leaf }
    };
    Ok(CpuModel {
        leaves: engine.leaves.iter().map(keep).collect(),
    })
}

fn cpuid_table(model: &CpuModel) -> Result<CpuId, KvmError> {
    let entries: Vec<kvm_cpuid_entry2> = model
        .leaves
        .iter()
        .map(|l| kvm_cpuid_entry2 {
            function: l.leaf,
            index: l.subleaf,
            flags: if matches!(l.leaf, 4 | 7 | 0xb | 0xd) {
                KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            } else {
                0
            },
            eax: l.registers[0],
            ebx: l.registers[1],
            ecx: l.registers[2],
            edx: l.registers[3],
            ..kvm_cpuid_entry2::default()
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|_| KvmError::Lacks("room for the CPUID table"))
}

/// Everything but what KVM and the engine treat alike leaves the guest, and one more if asked.
fn filter_msrs(vm: &VmFd, ours: Option<u32>) -> Result<(), KvmError> {
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [
            (KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL)
                .into(),
            0,
            0,
            0,
        ],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&cap).map_err(call("exits for MSRs"))?;
    // Two ranges hold all that is let through; a bit is 1 for what is.
    let mut low = [0u8; 0x400 / 8];
    let mut high = [0u8; 0x400 / 8];
    for msr in convert::shared_msrs().filter(|&msr| Some(msr) != ours) {
        let (map, n) = if msr < 0x400 {
            (&mut low, msr)
        } else {
            (&mut high, msr - 0xc000_0000)
        };
        map[n as usize / 8] |= 1 << (n % 8);
    }
    let flags = MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE;
    let range = |base, bitmap| MsrFilterRange {
        flags,
        base,
        msr_count: 0x400,
        bitmap,
    };
    vm.set_msr_filter(
        MsrFilterDefaultAction::DENY,
        &[range(0, &low[..]), range(0xc000_0000, &high[..])],
    )
    .map_err(call("the MSR filter"))
}

impl Vm {
    /// Whether the processor answers CPUID from the table, and not with more features.
    pub fn keeps_cpuid(&self, model: &CpuModel) -> Result<bool, KvmError> {
        let there = self
            .vcpu
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(call("the CPUID table"))?;
        // OSXSAVE and OSPKE follow CR4.
        let dynamic = |leaf: &Leaf, register: usize| match (leaf.leaf, register) {
            (1, 2) => 1 << 27,
            (7, 2) => 1 << 4,
            _ => 0,
        };
        let keeps = |leaf: &&Leaf| {
            let found = there
                .as_slice()
                .iter()
                .find(|e| e.function == leaf.leaf && e.index == leaf.subleaf);
            let there = found.map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx]);
            (0..4).all(|n| (there[n] ^ leaf.registers[n]) & !dynamic(leaf, n) == 0)
        };
        Ok(model.leaves.iter().all(|leaf| keeps(&leaf)))
    }

    /// A machine with the RAM of `memory`, which must outlive it, and a processor as `model` says.
    ///
    /// # Safety
    /// While the processor runs, nobody else may use the RAM; `memory` must live as long as this.
    pub unsafe fn new(kvm: &Kvm, memory: &Memory, model: &CpuModel) -> Result<Vm, KvmError> {
        let vm = kvm.create_vm().map_err(call("cannot make a machine"))?;
        // Where the host does not need it, it may refuse.
        let _ = vm.set_tss_address(TSS_ADDRESS);
        filter_msrs(&vm, None)?;
        let mut slots = Vec::new();
        let low = memory.bytes().min(PCI_HOLE);
        let mut parts = vec![(0, low, 0)];
        if memory.bytes() > low {
            parts.push((
                HIGH_RAM,
                memory.bytes() - low,
                (low / PAGE_BYTES as u64) as usize,
            ));
        }
        for (slot, (gpa, bytes, first_page)) in (0..).zip(parts) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: KVM_MEM_LOG_DIRTY_PAGES,
                guest_phys_addr: gpa,
                memory_size: bytes,
                userspace_addr: memory.page_host(first_page) as u64,
            };
            // SAFETY: the caller keeps the mapping alive.
            unsafe { vm.set_user_memory_region(region) }.map_err(call("the guest's RAM"))?;
            slots.push((slot, bytes, first_page));
        }
        let mut vcpu = vm.create_vcpu(0).map_err(call("cannot make a processor"))?;
        vcpu.set_cpuid2(&cpuid_table(model)?)
            .map_err(call("the CPUID table"))?;
        let wanted = KVM_SYNC_X86_REGS as i32;
        let sync = kvm.check_extension_int(Cap::SyncRegs) & wanted == wanted;
        if sync {
            vcpu.set_sync_valid_reg(SyncReg::Register);
        }
        let immediate_exit: *mut u8 = &mut vcpu.get_kvm_run().immediate_exit;
        // SAFETY: the mapping of the vCPU lives as long as the descriptor, which is dropped after the kicker.
        let kicker = unsafe { Kicker::new(immediate_exit)? };
        Ok(Vm {
            kicker,
            vcpu,
            vm,
            slots,
            sync,
            entries: None,
            int3: false,
            moment: None,
        })
    }

    /// What KVM does not do for programs is made by us. Before the first [`Vm::load`].
    pub fn make_entries(&mut self, made: Made) -> Result<(), KvmError> {
        self.entries = Some(Entries {
            made,
            ..Entries::default()
        });
        if made.calls {
            filter_msrs(&self.vm, Some(LSTAR))?;
        }
        if made.cpuid {
            let entry = |index, data| kvm_msr_entry {
                index,
                data,
                ..kvm_msr_entry::default()
            };
            let msrs = [
                entry(PLATFORM_INFO, CPUID_FAULTING),
                entry(MISC_FEATURES_ENABLES, 1),
            ];
            let msrs = Msrs::from_entries(&msrs).map_err(|_| KvmError::Lacks("room for MSRs"))?;
            let set = self.vcpu.set_msrs(&msrs).map_err(call("CPUID faulting"))?;
            if set != 2 {
                return Err(KvmError::Lacks("faulting CPUID, nor hidden features"));
            }
        }
        Ok(())
    }

    /// Lets breakpoints follow the guest's handlers, where entries are made by us.
    pub fn follow_handlers(&mut self, memory: &Memory) -> Result<(), KvmError> {
        let Some(Entries { made, .. }) = self.entries else {
            return Ok(());
        };
        let failed = call("cannot read the processor's state");
        let mut state = State::reset();
        let sregs = self.vcpu.get_sregs().map_err(&failed)?;
        convert::put_sregs(&sregs, memory, &mut state);
        self.set_breakpoints(entries::handlers(made, &state, memory))
    }

    /// INT3 comes out to us. Before the first [`Vm::load`].
    pub fn trap_int3(&mut self) -> Result<(), KvmError> {
        self.int3 = true;
        self.debug()
    }

    fn set_breakpoints(&mut self, handlers: [u64; 3]) -> Result<(), KvmError> {
        match &mut self.entries {
            Some(entries) if entries.handlers != handlers => entries.handlers = handlers,
            _ => return Ok(()),
        }
        self.debug()
    }

    /// Sets what stops the guest.
    fn debug(&mut self) -> Result<(), KvmError> {
        let mut debug = kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE,
            ..kvm_guest_debug::default()
        };
        if self.int3 {
            debug.control |= KVM_GUESTDBG_USE_SW_BP;
        }
        let handlers = self.entries.as_ref().map_or([0; 3], |e| e.handlers);
        let at = handlers
            .into_iter()
            .filter(|&at| at != 0)
            .chain(self.moment);
        for (n, address) in at.enumerate() {
            debug.control |= KVM_GUESTDBG_USE_HW_BP;
            debug.arch.debugreg[n] = address;
            // Local and global enable; a length and a kind of 0 are an instruction.
            debug.arch.debugreg[7] |= dr7::FIXED | 3 << (2 * n);
        }
        self.vcpu
            .set_guest_debug(&debug)
            .map_err(call("no breakpoint can be set in the guest"))
    }

    /// What the processor came to a breakpoint for; `state` is how it stands there.
    pub fn entered(&mut self, state: &State, memory: &Memory) -> Entered {
        match &mut self.entries {
            Some(entries) => entries.look(state, memory),
            None => Entered::Rightly,
        }
    }

    /// The guest has written IA32_LSTAR, which is kept for it.
    pub fn keep_msr(&mut self, msr: u32, value: u64) {
        if let Some(entries) = &mut self.entries
            && msr == LSTAR
        {
            entries.lstar = value;
        }
    }

    /// Whether the processor stands between an instruction of a program and the breakpoint that it comes to for it.
    fn is_half_way(&self) -> bool {
        let Some(entries) = &self.entries else {
            return false;
        };
        self.regs()
            .is_ok_and(|regs| regs.rip == entries::NOWHERE || entries.handlers.contains(&regs.rip))
    }

    /// Puts a state into the processor.
    pub fn load(&mut self, state: &State, task_priority: u64) -> Result<(), KvmError> {
        let mut there = *state;
        if let Some(entries) = &mut self.entries {
            (entries.lstar, entries.cr2) = (state.lstar, state.cr2);
            if entries.made.calls {
                there.lstar = entries::NOWHERE;
            }
        }
        self.load_as(&there, task_priority)
    }

    fn load_as(&mut self, state: &State, task_priority: u64) -> Result<(), KvmError> {
        let failed = call("cannot set the processor's state");
        self.vcpu
            .set_sregs(&convert::sregs_of(state, task_priority))
            .map_err(&failed)?;
        self.vcpu
            .set_regs(&convert::regs_of(state))
            .map_err(&failed)?;
        // SAFETY: a whole area of 4 KiB; no larger components were asked for.
        unsafe { self.vcpu.set_xsave(&convert::xsave_of(state)) }.map_err(&failed)?;
        self.vcpu
            .set_debug_regs(&convert::debug_of(state))
            .map_err(&failed)?;
        let msrs = Msrs::from_entries(&convert::msrs_of(state))
            .map_err(|_| KvmError::Lacks("room for MSRs"))?;
        self.vcpu.set_msrs(&msrs).map_err(&failed)?;
        let mut events = self.vcpu.get_vcpu_events().map_err(&failed)?;
        events.interrupt.shadow = if state.shadow != 0 {
            KVM_X86_SHADOW_INT_STI as u8
        } else {
            0
        };
        events.nmi.masked = state.nmi_blocked;
        events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
        self.vcpu.set_vcpu_events(&events).map_err(&failed)?;
        let run = self.vcpu.get_kvm_run();
        run.cr8 = task_priority;
        // As after an exit: whoever asks next has not entered the guest in between.
        run.if_flag = state.flags.interrupts().into();
        run.ready_for_interrupt_injection = (state.flags.interrupts() && state.shadow == 0).into();
        // What `sync_regs` holds is older than this.
        if self.sync {
            *self.vcpu.sync_regs_mut() = kvm_sync_regs {
                regs: convert::regs_of(state),
                ..self.vcpu.sync_regs()
            };
        }
        Ok(())
    }

    /// Takes the processor's state over into what there is.
    pub fn store(&mut self, memory: &Memory, state: &mut State) -> Result<(), KvmError> {
        let failed = call("cannot read the processor's state");
        convert::put_regs(&self.vcpu.get_regs().map_err(&failed)?, state);
        convert::put_sregs(&self.vcpu.get_sregs().map_err(&failed)?, memory, state);
        convert::put_xsave(&self.vcpu.get_xsave().map_err(&failed)?, state);
        convert::put_debug(&self.vcpu.get_debug_regs().map_err(&failed)?, state);
        let mut msrs = Msrs::from_entries(&convert::msrs_of(state))
            .map_err(|_| KvmError::Lacks("room for MSRs"))?;
        self.vcpu.get_msrs(&mut msrs).map_err(&failed)?;
        convert::put_msrs(msrs.as_slice(), state);
        let events = self.vcpu.get_vcpu_events().map_err(&failed)?;
        convert::runs(state, events.interrupt.shadow != 0, events.nmi.masked != 0);
        if let Some(entries) = &self.entries
            && entries.made.calls
        {
            state.lstar = entries.lstar;
        }
        Ok(())
    }

    /// General registers, RIP and RFLAGS, as of the last exit.
    pub fn regs(&self) -> Result<kvm_regs, KvmError> {
        if self.sync {
            return Ok(self.vcpu.sync_regs().regs);
        }
        self.vcpu
            .get_regs()
            .map_err(call("cannot read the processor's registers"))
    }

    /// Leaves the guest before the instruction at a linear address, by a debug register that the guest does not see
    /// (KVM API, 4.87).
    pub fn break_at(&mut self, linear: u64) -> Result<(), KvmError> {
        self.moment = Some(linear);
        self.debug()
    }

    /// Whether that is where the processor stands.
    pub fn is_at_moment(&self, linear: u64) -> bool {
        self.moment == Some(linear)
    }

    /// Whether nothing is half done: no event on its way into the guest.
    pub fn is_settled(&self) -> Result<bool, KvmError> {
        let events = self
            .vcpu
            .get_vcpu_events()
            .map_err(call("cannot read what is pending"))?;
        let exception = events.exception.injected | events.exception.pending;
        let other = events.interrupt.injected | events.nmi.injected | events.nmi.pending;
        Ok(exception | other == 0 && !self.is_half_way())
    }

    /// Whether an NMI would be delivered at once.
    pub fn takes_nmi(&self) -> Result<bool, KvmError> {
        let events = self
            .vcpu
            .get_vcpu_events()
            .map_err(call("cannot read what is pending"))?;
        Ok(events.nmi.masked == 0 && events.interrupt.shadow == 0 && self.is_settled()?)
    }

    /// Whether a maskable interrupt would be.
    pub fn takes_interrupt(&mut self) -> bool {
        self.vcpu.get_kvm_run().ready_for_interrupt_injection != 0 && !self.is_half_way()
    }

    /// RFLAGS.IF.
    pub fn interrupts_on(&mut self) -> bool {
        self.vcpu.get_kvm_run().if_flag != 0
    }

    /// Gives it an interrupt.
    pub fn interrupt(&mut self, vector: u8) -> Result<(), KvmError> {
        let done = ioctl::interrupt(&self.vcpu, vector);
        done.map_err(|source| KvmError::Call {
            what: "cannot deliver an interrupt",
            source,
        })
    }

    /// Gives it a non-maskable interrupt.
    pub fn nmi(&mut self) -> Result<(), KvmError> {
        self.vcpu
            .nmi()
            .map_err(call("cannot deliver a non-maskable interrupt"))
    }

    /// Asks for an exit as soon as the guest can take an interrupt.
    pub fn want_window(&mut self, wanted: bool) {
        self.vcpu.get_kvm_run().request_interrupt_window = wanted.into();
    }

    /// CR8 as the guest has it.
    pub fn task_priority(&mut self) -> u64 {
        self.vcpu.get_kvm_run().cr8
    }

    /// CR8 as the guest shall find it.
    pub fn set_task_priority(&mut self, value: u64) {
        self.vcpu.get_kvm_run().cr8 = value;
    }

    /// A kick in so much time. A kick that came before is forgotten: look at the clock afterwards.
    pub fn kick_in(&mut self, after: Duration) {
        // SAFETY: the byte is ours; the handler of the signal writes it in this very thread.
        unsafe { std::ptr::write_volatile(&mut self.vcpu.get_kvm_run().immediate_exit, 0) };
        self.kicker.arm(after);
    }

    /// Completes the instruction that left the guest last, and runs no other.
    pub fn complete(&mut self) -> Result<Left, KvmError> {
        self.vcpu.set_kvm_immediate_exit(1);
        let left = self.enter();
        self.vcpu.set_kvm_immediate_exit(0);
        left
    }

    /// Runs the guest until it leaves.
    pub fn enter(&mut self) -> Result<Left, KvmError> {
        match self.vcpu.run().map(|_| ()) {
            Ok(()) => {}
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                return Ok(Left::Kicked);
            }
            Err(error) => return Err(call("the processor does not run")(error)),
        }
        let run = self.vcpu.get_kvm_run();
        // SAFETY: the exit's reason says which part of the union is filled in.
        Ok(unsafe {
            match run.exit_reason {
                KVM_EXIT_IO => {
                    let io = run.__bindgen_anon_1.io;
                    let (port, size, count) = (io.port, io.size, io.count as usize);
                    if u32::from(io.direction) == KVM_EXIT_IO_IN {
                        Left::In { port, size, count }
                    } else {
                        Left::Out { port, size, count }
                    }
                }
                KVM_EXIT_MMIO => {
                    let mmio = run.__bindgen_anon_1.mmio;
                    let (gpa, len) = (mmio.phys_addr, (mmio.len as usize).min(8));
                    if mmio.is_write != 0 {
                        Left::Store { gpa, len }
                    } else {
                        Left::Load { gpa, len }
                    }
                }
                KVM_EXIT_HLT => Left::Halt,
                KVM_EXIT_SHUTDOWN => Left::Shutdown,
                KVM_EXIT_X86_RDMSR => Left::ReadMsr(run.__bindgen_anon_1.msr.index),
                KVM_EXIT_X86_WRMSR => {
                    let msr = run.__bindgen_anon_1.msr;
                    Left::WriteMsr(msr.index, msr.data)
                }
                KVM_EXIT_IRQ_WINDOW_OPEN => Left::Window,
                KVM_EXIT_INTR => Left::Kicked,
                KVM_EXIT_DEBUG => Left::Breakpoint,
                KVM_EXIT_SET_TPR => Left::TaskPriority,
                KVM_EXIT_INTERNAL_ERROR => {
                    let internal = run.__bindgen_anon_1.internal;
                    if internal.suberror == KVM_INTERNAL_ERROR_EMULATION {
                        Left::NotEmulated
                    } else {
                        Left::Other(format!("internal error {} of KVM", internal.suberror))
                    }
                }
                other => Left::Other(format!("exit {other} of KVM")),
            }
        })
    }

    /// The bytes of the port access that left the guest.
    pub fn io_data(&mut self) -> &mut [u8] {
        let run: *mut kvm_run = self.vcpu.get_kvm_run();
        // SAFETY: the kernel says where in the mapping of the vCPU they are, and how many; called after such an exit.
        unsafe {
            let io = (*run).__bindgen_anon_1.io;
            let start = run.cast::<u8>().add(io.data_offset as usize);
            std::slice::from_raw_parts_mut(start, io.count as usize * usize::from(io.size))
        }
    }

    /// The bytes of the access to memory that is no RAM.
    pub fn mmio_data(&mut self) -> &mut [u8; 8] {
        // SAFETY: plain bytes, whatever the exit was.
        unsafe { &mut self.vcpu.get_kvm_run().__bindgen_anon_1.mmio.data }
    }

    /// Answers an MSR access. `None`: #GP.
    pub fn answer_msr(&mut self, value: Option<u64>) {
        // SAFETY: plain numbers; called after such an exit.
        let msr = unsafe { &mut self.vcpu.get_kvm_run().__bindgen_anon_1.msr };
        msr.error = value.is_none().into();
        if let Some(value) = value {
            msr.data = value;
        }
    }

    /// Page numbers that the guest wrote since the last call, ascending.
    pub fn take_dirty(&mut self) -> Result<Vec<u32>, KvmError> {
        let mut pages = Vec::new();
        for &(slot, bytes, first_page) in &self.slots {
            let log = self
                .vm
                .get_dirty_log(slot, bytes as usize)
                .map_err(call("the log of written pages"))?;
            for (n, mut word) in log.into_iter().enumerate() {
                while word != 0 {
                    pages.push((first_page + n * 64) as u32 + word.trailing_zeros());
                    word &= word - 1;
                }
            }
        }
        Ok(pages)
    }

    /// Lets the guest's time-stamp counter run at so many kHz, which is slower than the host's. Refused where the
    /// host's KVM cannot scale it, or not set it exactly.
    pub fn scale_tsc(&mut self, khz: u32) -> Result<(), KvmError> {
        if !ioctl::has_tsc_offset(&self.vcpu) {
            return Err(KvmError::Lacks("KVM_VCPU_TSC_OFFSET"));
        }
        let set = self.vcpu.set_tsc_khz(khz);
        set.map_err(call("cannot scale the time-stamp counter"))
    }

    /// The time-stamp counter as the guest would read it now.
    pub fn tsc(&mut self) -> Result<u64, KvmError> {
        let entry = kvm_msr_entry {
            index: TSC,
            ..kvm_msr_entry::default()
        };
        let mut msrs =
            Msrs::from_entries(&[entry]).map_err(|_| KvmError::Lacks("room for MSRs"))?;
        let read = self.vcpu.get_msrs(&mut msrs);
        match read.map_err(call("cannot read the time-stamp counter"))? {
            1 => Ok(msrs.as_slice()[0].data),
            _ => Err(KvmError::Lacks("a time-stamp counter")),
        }
    }

    /// Adds to it (wrapping), exactly.
    pub fn shift_tsc(&mut self, by: u64) -> Result<(), KvmError> {
        let offset = ioctl::tsc_offset(&self.vcpu);
        let set = offset.and_then(|o| ioctl::set_tsc_offset(&self.vcpu, o.wrapping_add(by)));
        set.map_err(|source| KvmError::Call {
            what: "cannot set the time-stamp counter",
            source,
        })
    }

    /// Changes general registers, RIP and RFLAGS.
    pub fn change_regs(&mut self, change: impl FnOnce(&mut kvm_regs)) -> Result<(), KvmError> {
        let mut regs = self.regs()?;
        change(&mut regs);
        if self.sync {
            self.vcpu.sync_regs_mut().regs = regs;
        }
        let set = self.vcpu.set_regs(&regs);
        set.map_err(call("cannot set the processor's registers"))
    }
}
