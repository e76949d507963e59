//! The machine at the position as a debugger sees it: registers and memory, without any effect on the guest.

use super::api::{Registers, Scene, Table, WatchKind};
use crate::cpu::Cpu;
use crate::cpu::state::{F80, State, seg};
use crate::cpu::stops;
use crate::replay::Replayer;
use crate::tick::GuestNs;

/// The position of a replay, as conditions look at it.
pub struct Here<'a> {
    replayer: &'a Replayer,
    registers: Option<Registers>,
}

impl<'a> Here<'a> {
    /// What there is to see now.
    pub fn new(replayer: &'a Replayer) -> Self {
        Self {
            replayer,
            registers: None,
        }
    }
}

impl Scene for Here<'_> {
    fn gpr(&mut self, number: usize) -> u64 {
        self.replayer.machine.cpu.state.gpr[..16][number]
    }

    fn registers(&mut self) -> &Registers {
        self.registers
            .get_or_insert_with(|| registers(self.replayer))
    }

    fn time(&self) -> GuestNs {
        self.replayer.world.guest_time(self.replayer.tick())
    }

    fn read_virtual(&self, addr: u64, out: &mut [u8]) -> usize {
        read_virtual(&self.replayer.machine.cpu, addr, out)
    }

    fn read_physical(&self, addr: u64, out: &mut [u8]) -> usize {
        self.replayer.machine.cpu.memory.read(addr, out)
    }
}

/// What the engine's kind of watchpoint is called to a debugger.
pub fn watch_kind(kind: stops::WatchKind) -> WatchKind {
    match kind {
        stops::WatchKind::Write => WatchKind::Write,
        stops::WatchKind::Read => WatchKind::Read,
        stops::WatchKind::Access => WatchKind::Access,
    }
}

/// Registers of the processor, without the guest time.
pub fn registers(replayer: &Replayer) -> Registers {
    Registers {
        cr8: replayer.world.task_priority() as u64,
        tick: replayer.tick(),
        ..registers_of(&replayer.machine.cpu.state)
    }
}

/// Registers of a processor's state, which does not know of task priority and time.
pub fn registers_of(s: &State) -> Registers {
    let top = (s.x87.status >> 11 & 7) as usize;
    let selector = |register: usize| s.seg[register].selector;
    Registers {
        gpr: std::array::from_fn(|n| s.gpr[n]),
        rip: s.rip(),
        rflags: s.rflags(),
        cs: selector(seg::CS),
        ss: selector(seg::SS),
        ds: selector(seg::DS),
        es: selector(seg::ES),
        fs: selector(seg::FS),
        gs: selector(seg::GS),
        fs_base: s.seg_base[seg::FS],
        gs_base: s.seg_base[seg::GS],
        k_gs_base: s.kernel_gs_base,
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: 0,
        efer: s.efer,
        st: std::array::from_fn(|n| f80_bytes(&s.x87.r[(top + n) & 7])),
        fctrl: s.x87.control,
        fstat: s.x87.status,
        ftag: s.x87.full_tag(),
        fiseg: s.x87.code_selector,
        fioff: s.x87.ip as u32,
        foseg: s.x87.data_selector,
        fooff: s.x87.data as u32,
        fop: s.x87.opcode,
        xmm: std::array::from_fn(|n| s.vector[n].0[0] as u128 | (s.vector[n].0[1] as u128) << 64),
        mxcsr: s.mxcsr,
        ymm_high: std::array::from_fn(|n| {
            s.vector[n].0[2] as u128 | (s.vector[n].0[3] as u128) << 64
        }),
        seg_base: std::array::from_fn(|n| s.seg_base[n]),
        seg_limit: std::array::from_fn(|n| s.seg[n].limit),
        gdt: table(s.gdtr.base, s.gdtr.limit as u32),
        idt: table(s.idtr.base, s.idtr.limit as u32),
        ldt: table(s.ldtr.base, s.ldtr.segment.limit),
        ldtr: s.ldtr.segment.selector,
        tss: table(s.tr.base, s.tr.segment.limit),
        tr: s.tr.segment.selector,
        dr: s.dr,
        star: s.star,
        lstar: s.lstar,
        cstar: s.cstar,
        fmask: s.fmask,
        sysenter: s.sysenter,
        pat: s.pat,
        misc_enable: s.misc_enable,
        tsc_aux: s.tsc_aux,
        tick: 0,
        time: 0,
    }
}

fn table(base: u64, limit: u32) -> Table {
    Table { base, limit }
}

fn f80_bytes(value: &F80) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&value.mantissa.to_le_bytes());
    bytes[8..].copy_from_slice(&(value.sign_exponent as u16).to_le_bytes());
    bytes
}

/// Reads linear memory page by page; gives the number of bytes before the first that is not mapped.
pub fn read_virtual(cpu: &Cpu, address: u64, out: &mut [u8]) -> usize {
    let mut done = 0;
    while done < out.len() {
        let at = address.wrapping_add(done as u64);
        let Some(physical) = cpu.probe(at) else { break };
        let n = (4096 - (at & 0xfff) as usize).min(out.len() - done);
        let read = cpu.memory.read(physical, &mut out[done..done + n]);
        done += read;
        if read < n {
            break;
        }
    }
    done
}
