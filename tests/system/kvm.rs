//! The same cases under KVM: one virtual machine, set anew for each case, runs until it halts.

use crate::engine::{Engine, Ports, port_value};
use crate::machine::{Machine, RAM};
use crate::quirks::Quirk;
use crate::script::{cases, compare};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, Msrs, kvm_debugregs, kvm_dtable, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use memmap2::MmapMut;
use retrovisor::cpu::state::{Segment, State, activity, gpr, seg};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a case may run before it counts as hung.
const PATIENCE: Duration = Duration::from_millis(1500);

/// MSRs that are part of a case: their numbers and where the state keeps them.
type Place = fn(&mut State) -> &mut u64;
const MSRS: &[(u32, Place)] = &[
    (0x174, |s| &mut s.sysenter[0]),
    (0x175, |s| &mut s.sysenter[1]),
    (0x176, |s| &mut s.sysenter[2]),
    (0x277, |s| &mut s.pat),
    (0xc000_0081, |s| &mut s.star),
    (0xc000_0082, |s| &mut s.lstar),
    (0xc000_0083, |s| &mut s.cstar),
    (0xc000_0084, |s| &mut s.fmask),
    (0xc000_0102, |s| &mut s.kernel_gs_base),
];

/// How a run ended.
pub enum End {
    /// With HLT, or in the middle of things where `limit` exits were used up.
    Halted(Box<Machine>),
    /// With a triple fault.
    Shutdown,
    /// This KVM cannot execute it.
    Cannot(String),
}

struct Virtual {
    vcpu: VcpuFd,
    _vm: VmFd,
}

/// KVM with its one machine.
pub struct Oracle {
    kvm: Kvm,
    memory: MmapMut,
    machine: Option<Virtual>,
    /// Odd while the machine runs.
    beat: Arc<AtomicU64>,
}

extern "C" fn wake(_: libc::c_int) {}

impl Oracle {
    /// The reason where there is no KVM to ask.
    pub fn new() -> Result<Oracle, String> {
        let kvm = Kvm::new().map_err(|e| format!("/dev/kvm: {e}"))?;
        let memory = MmapMut::map_anon(RAM).map_err(|e| e.to_string())?;
        let beat = Arc::new(AtomicU64::new(0));
        watch(beat.clone());
        let mut oracle = Oracle {
            kvm,
            memory,
            machine: None,
            beat,
        };
        oracle.machine = Some(oracle.make().map_err(|e| format!("/dev/kvm: {e}"))?);
        Ok(oracle)
    }

    fn make(&self) -> Result<Virtual, kvm_ioctls::Error> {
        let vm = self.kvm.create_vm()?;
        // Intel's processors without unrestricted guests need it; others do not know the call.
        let _ = vm.set_tss_address(0xfffb_d000);
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: RAM as u64,
            userspace_addr: self.memory.as_ptr() as u64,
        };
        // SAFETY: the mapping is page-aligned and lives as long as the machine.
        unsafe { vm.set_user_memory_region(region)? };
        let vcpu = vm.create_vcpu(0)?;
        let cpuid = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        vcpu.set_cpuid2(&cpuid)?;
        Ok(Virtual { vcpu, _vm: vm })
    }

    /// Whether this KVM has no hardware below it (see `quirks.rs`).
    pub fn is_software(&mut self, engine: &mut Engine) -> bool {
        let case = cases(Quirk::PROBE).next().expect("one case");
        let mut tally = Tally::default();
        tally.compare(engine, self, &case.start(), None, String::new);
        tally.equal == 0
    }

    /// Runs a machine until it halts.
    pub fn run(&mut self, start: &Machine) -> End {
        self.memory.copy_from_slice(&start.ram);
        let mut machine = match self.machine.take().map_or_else(|| self.make(), Ok) {
            Ok(machine) => machine,
            Err(e) => return End::Cannot(format!("no machine: {e}")),
        };
        if let Err(e) = set(&machine.vcpu, &start.state) {
            return End::Cannot(format!("the state is refused: {e}"));
        }
        self.beat.fetch_add(1, Ordering::SeqCst);
        let end = execute(&mut machine.vcpu);
        self.beat.fetch_add(1, Ordering::SeqCst);
        match end {
            Ok(true) => match get(&machine.vcpu, start) {
                Ok(mut found) => {
                    found.ram.copy_from_slice(&self.memory);
                    // A machine that has ended well is used again.
                    self.machine = Some(machine);
                    End::Halted(Box::new(found))
                }
                Err(e) => End::Cannot(format!("the state cannot be read: {e}")),
            },
            Ok(false) => End::Shutdown,
            Err(why) => End::Cannot(why),
        }
    }
}

/// What came of comparing many cases.
#[derive(Default)]
pub struct Tally {
    equal: usize,
    /// What this KVM could not execute, by its reason.
    cannot: BTreeMap<String, usize>,
    /// What KVM gets wrong, by its reason.
    quirks: BTreeMap<&'static str, usize>,
    different: Vec<String>,
}

impl Tally {
    /// Runs a machine in the engine and under KVM until it halts, and compares the two.
    pub fn compare(
        &mut self,
        engine: &mut Engine,
        oracle: &mut Oracle,
        start: &Machine,
        quirk: Option<&'static str>,
        name: impl Fn() -> String,
    ) {
        let mut world = Ports::default();
        let ours = engine.run(start, crate::TICKS, &mut world);
        let mut wrong = Vec::new();
        match oracle.run(start) {
            End::Cannot(why) => {
                *self.cannot.entry(why).or_default() += 1;
                return;
            }
            End::Shutdown if world.dead => {}
            End::Shutdown => wrong.push("KVM shuts down, the engine does not".to_string()),
            End::Halted(_) if world.dead => wrong.push("the engine shuts down".to_string()),
            End::Halted(theirs) => {
                let (mut theirs, mut ours) = (*theirs, ours);
                level(&mut theirs, &mut ours);
                compare(&theirs, &ours, &mut wrong);
            }
        }
        if wrong.is_empty() {
            self.equal += 1;
        } else if let Some(why) = quirk {
            *self.quirks.entry(why).or_default() += 1;
        } else {
            self.different
                .push(format!("{}\n    {}", name(), wrong.join("\n    ")));
        }
    }

    /// How many came out equal.
    pub fn equal(&self) -> usize {
        self.equal
    }

    /// Figures.
    pub fn summary(&self) -> String {
        format!(
            "{} equal, {} different; not executed by this KVM: {:?}; KVM's own: {:#?}",
            self.equal,
            self.different.len(),
            self.cannot,
            self.quirks
        )
    }

    /// Fails where anything differed.
    pub fn finish(self) {
        assert!(
            self.different.is_empty(),
            "the engine differs from KVM:\n{}",
            self.different.join("\n")
        );
    }
}

/// Takes out what both sides may show differently.
fn level(theirs: &mut Machine, ours: &mut Machine) {
    for machine in [theirs, ours] {
        let s = &mut machine.state;
        // Rights and limits in real mode are KVM's own business.
        if !s.protected() {
            for segment in &mut s.seg {
                segment.limit = 0xffff;
                segment.rights = 0x93;
            }
        }
        s.tsc_aux = 0;
    }
}

/// Kicks this thread out of KVM when a case takes too long.
fn watch(beat: Arc<AtomicU64>) {
    // SAFETY: the handler does nothing; it only makes KVM_RUN come back.
    let thread = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = wake as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
        libc::pthread_self()
    };
    let beat = Arc::downgrade(&beat);
    std::thread::spawn(move || {
        let mut last = 0;
        while let Some(now) = beat.upgrade().map(|beat| beat.load(Ordering::SeqCst)) {
            if now == last && now % 2 == 1 {
                // SAFETY: the thread runs a machine at this moment, as the counter says.
                unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
            }
            last = now;
            std::thread::sleep(PATIENCE);
        }
    });
}

/// Runs until HLT (true) or a triple fault (false).
fn execute(vcpu: &mut VcpuFd) -> Result<bool, String> {
    for _ in 0..64 {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Ok(true),
            Ok(VcpuExit::Shutdown) => return Ok(false),
            Ok(VcpuExit::IoIn(port, data)) => {
                let value = port_value(port).to_le_bytes();
                let count = data.len().min(4);
                data[..count].copy_from_slice(&value[..count]);
            }
            Ok(VcpuExit::IoOut(..)) => {}
            Ok(VcpuExit::MmioRead(_, data)) => data.fill(0),
            Ok(VcpuExit::MmioWrite(..)) => {}
            Ok(VcpuExit::InternalError) => return Err("internal error".to_string()),
            Ok(other) => return Err(format!("{other:?}")),
            Err(e) if e.errno() == libc::EINTR => return Err("hangs".to_string()),
            Err(e) if e.errno() == libc::EAGAIN => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    Err("does not end".to_string())
}

fn segment(segment: &Segment, base: u64) -> kvm_segment {
    let bits = |from: u32, count: u32| (segment.rights >> from & ((1 << count) - 1)) as u8;
    kvm_segment {
        base,
        limit: segment.limit,
        selector: segment.selector,
        type_: bits(0, 4),
        s: bits(4, 1),
        dpl: bits(5, 2),
        present: bits(7, 1),
        avl: bits(12, 1),
        l: bits(13, 1),
        db: bits(14, 1),
        g: bits(15, 1),
        unusable: (bits(7, 1) == 0) as u8,
        padding: 0,
    }
}

fn back(found: &kvm_segment) -> (Segment, u64) {
    let rights = if found.unusable != 0 || found.present == 0 {
        0
    } else {
        found.type_ as u16
            | (found.s as u16) << 4
            | (found.dpl as u16) << 5
            | 1 << 7
            | (found.avl as u16) << 12
            | (found.l as u16) << 13
            | (found.db as u16) << 14
            | (found.g as u16) << 15
    };
    let segment = Segment {
        limit: found.limit,
        rights,
        selector: found.selector,
    };
    (segment, found.base)
}

fn set(vcpu: &VcpuFd, state: &State) -> Result<(), kvm_ioctls::Error> {
    vcpu.set_mp_state(kvm_mp_state { mp_state: 0 })?;
    let mut events = vcpu.get_vcpu_events()?;
    events.exception = Default::default();
    events.interrupt = Default::default();
    events.nmi = Default::default();
    vcpu.set_vcpu_events(&events)?;
    let mut sregs = vcpu.get_sregs()?;
    let s = state;
    let place = |n: usize| segment(&s.seg[n], s.seg_base[n]);
    sregs.es = place(seg::ES);
    sregs.cs = place(seg::CS);
    sregs.ss = place(seg::SS);
    sregs.ds = place(seg::DS);
    sregs.fs = place(seg::FS);
    sregs.gs = place(seg::GS);
    sregs.tr = segment(&s.tr.segment, s.tr.base);
    sregs.ldt = segment(&s.ldtr.segment, s.ldtr.base);
    let table = |base, limit: u64| kvm_dtable {
        base,
        limit: limit as u16,
        padding: [0; 3],
    };
    sregs.gdt = table(s.gdtr.base, s.gdtr.limit);
    sregs.idt = table(s.idtr.base, s.idtr.limit);
    (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
    sregs.cr8 = 0;
    sregs.efer = s.efer;
    sregs.interrupt_bitmap = [0; 4];
    vcpu.set_sregs(&sregs)?;
    let g = &s.gpr;
    vcpu.set_regs(&kvm_regs {
        rax: g[gpr::RAX],
        rbx: g[gpr::RBX],
        rcx: g[gpr::RCX],
        rdx: g[gpr::RDX],
        rsi: g[gpr::RSI],
        rdi: g[gpr::RDI],
        rsp: g[gpr::RSP],
        rbp: g[gpr::RBP],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: s.rip(),
        rflags: s.rflags(),
    })?;
    vcpu.set_debug_regs(&kvm_debugregs {
        db: [s.dr[0], s.dr[1], s.dr[2], s.dr[3]],
        dr6: s.dr[6],
        dr7: s.dr[7],
        ..Default::default()
    })?;
    let mut copy = *state;
    let entries: Vec<kvm_msr_entry> = MSRS
        .iter()
        .map(|(index, place)| kvm_msr_entry {
            index: *index,
            data: *place(&mut copy),
            ..Default::default()
        })
        .collect();
    let msrs = Msrs::from_entries(&entries).expect("a handful");
    vcpu.set_msrs(&msrs)?;
    Ok(())
}

fn get(vcpu: &VcpuFd, start: &Machine) -> Result<Machine, kvm_ioctls::Error> {
    let mut machine = start.clone();
    let s = &mut machine.state;
    let (regs, sregs) = (vcpu.get_regs()?, vcpu.get_sregs()?);
    s.gpr[..16].copy_from_slice(&[
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]);
    s.set_rip(regs.rip);
    s.flags.set_rflags(regs.rflags);
    s.activity = activity::HALTED;
    for (n, found) in [
        (seg::ES, sregs.es),
        (seg::CS, sregs.cs),
        (seg::SS, sregs.ss),
        (seg::DS, sregs.ds),
        (seg::FS, sregs.fs),
        (seg::GS, sregs.gs),
    ] {
        (s.seg[n], s.seg_base[n]) = back(&found);
    }
    (s.tr.segment, s.tr.base) = back(&sregs.tr);
    (s.ldtr.segment, s.ldtr.base) = back(&sregs.ldt);
    (s.gdtr.base, s.gdtr.limit) = (sregs.gdt.base, sregs.gdt.limit as u64);
    (s.idtr.base, s.idtr.limit) = (sregs.idt.base, sregs.idt.limit as u64);
    (s.cr0, s.cr2, s.cr3, s.cr4) = (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4);
    s.efer = sregs.efer;
    s.cpl = match () {
        () if !s.protected() => 0,
        () if s.flags.vm86() => 3,
        () => (sregs.cs.selector & 3) as u8,
    };
    let debug = vcpu.get_debug_regs()?;
    (s.dr[6], s.dr[7]) = (debug.dr6, debug.dr7);
    let entries: Vec<kvm_msr_entry> = MSRS
        .iter()
        .map(|(index, _)| kvm_msr_entry {
            index: *index,
            ..Default::default()
        })
        .collect();
    let mut msrs = Msrs::from_entries(&entries).expect("a handful");
    vcpu.get_msrs(&mut msrs)?;
    for ((_, place), entry) in MSRS.iter().zip(msrs.as_slice()) {
        *place(s) = entry.data;
    }
    Ok(machine)
}
