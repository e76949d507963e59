//! gdbstub's view of a session: the traits that it asks its target for.
//!
//! Resumption only notes a [`Plan`]; the session carries it out. Writing is refused.

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadResumeOps, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps,
    MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::reverse_exec::{
    ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps,
};
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind as StubWatchKind,
};
use gdbstub::target::ext::catch_syscalls::{CatchSyscalls, CatchSyscallsOps, SyscallNumbers};
use gdbstub::target::{Target, TargetError, TargetResult};

use crate::gdb::breakpoints::{Calls, Kind};
use crate::gdb::context::{Context, Plan};
use crate::gdb::registers::ROWS;
use crate::timeline::api::{WatchKind, Watchpoint};

use super::arch::{Register, RegisterFile, X86};

/// Never happens: nothing here can fail for good.
type Fatal = &'static str;

/// EINVAL.
const NO_SUCH_THREAD: u8 = 22;
/// EROFS.
const READ_ONLY: u8 = 30;

impl Context<'_> {
    fn cpu_of_tid(&self, tid: Tid) -> Result<usize, TargetError<Fatal>> {
        let cpu = tid.get() - 1;
        if cpu < self.debuggee.cpus() {
            Ok(cpu)
        } else {
            Err(TargetError::Errno(NO_SUCH_THREAD))
        }
    }
}

impl Target for Context<'_> {
    type Arch = X86;
    type Error = Fatal;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Fatal> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_catch_syscalls(&mut self) -> Option<CatchSyscallsOps<'_, Self>> {
        Some(self)
    }

    /// Replies stay readable in a packet log, and features can add to them.
    fn use_rle(&self) -> bool {
        false
    }

    fn use_fork_stop_reason(&self) -> bool {
        false
    }

    fn use_vfork_stop_reason(&self) -> bool {
        false
    }

    fn use_vforkdone_stop_reason(&self) -> bool {
        false
    }
}

impl MultiThreadBase for Context<'_> {
    fn read_registers(&mut self, regs: &mut RegisterFile, tid: Tid) -> TargetResult<(), Self> {
        regs.0 = self.debuggee.registers(self.cpu_of_tid(tid)?);
        Ok(())
    }

    fn write_registers(&mut self, _regs: &RegisterFile, _tid: Tid) -> TargetResult<(), Self> {
        Err(TargetError::Errno(READ_ONLY))
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, addr: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let cpu = self.cpu_of_tid(tid)?;
        Ok(self.debuggee.read_virtual(cpu, addr, data).min(data.len()))
    }

    fn write_addrs(&mut self, _addr: u64, _data: &[u8], _tid: Tid) -> TargetResult<(), Self> {
        Err(TargetError::Errno(READ_ONLY))
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), Fatal> {
        (0..self.debuggee.cpus()).for_each(|cpu| active(super::tid(cpu)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Context<'_> {
    fn read_register(
        &mut self,
        tid: Tid,
        reg: Register,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let registers = self.debuggee.registers(self.cpu_of_tid(tid)?);
        let row = ROWS.get(reg.0).ok_or(TargetError::NonFatal)?;
        let bytes = row.bytes(&registers);
        buf.get_mut(..bytes.len())
            .ok_or(TargetError::NonFatal)?
            .copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(&mut self, _tid: Tid, _reg: Register, _val: &[u8]) -> TargetResult<(), Self> {
        Err(TargetError::Errno(READ_ONLY))
    }
}

impl MultiThreadResume for Context<'_> {
    fn resume(&mut self) -> Result<(), Fatal> {
        self.plan.get_or_insert(Plan::Continue);
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Fatal> {
        self.plan = None;
        Ok(())
    }

    /// A recording runs every processor as it ran, so that continuing one is continuing all.
    fn set_resume_action_continue(
        &mut self,
        _tid: Tid,
        _signal: Option<Signal>,
    ) -> Result<(), Fatal> {
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, Tid, Self>> {
        Some(self)
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, Tid, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Context<'_> {
    fn set_resume_action_step(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Fatal> {
        self.plan.get_or_insert(Plan::Step { cpu: tid.get() - 1 });
        Ok(())
    }
}

impl MultiThreadRangeStepping for Context<'_> {
    fn set_resume_action_range_step(
        &mut self,
        tid: Tid,
        start: u64,
        end: u64,
    ) -> Result<(), Fatal> {
        self.plan.get_or_insert(Plan::StepRange {
            cpu: tid.get() - 1,
            start,
            end,
        });
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Context<'_> {
    /// Accepted (without it `set scheduler-locking on` would end the session) and without effect: see
    /// `set_resume_action_continue`.
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Fatal> {
        Ok(())
    }
}

impl ReverseStep<Tid> for Context<'_> {
    /// `bs` names no thread, and GDB sets the one that gdbstub would take only once: the user's choice is what GDB
    /// looks at.
    fn reverse_step(&mut self, _tid: Tid) -> Result<(), Fatal> {
        self.plan = Some(Plan::ReverseStep { cpu: self.selected });
        Ok(())
    }
}

impl ReverseCont<Tid> for Context<'_> {
    fn reverse_cont(&mut self) -> Result<(), Fatal> {
        self.plan = Some(Plan::ReverseContinue);
        Ok(())
    }
}

impl Breakpoints for Context<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Context<'_> {
    fn add_sw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.add(addr, Kind::Software))
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.breakpoints.remove(addr, Kind::Software);
        Ok(true)
    }
}

impl HwBreakpoint for Context<'_> {
    fn add_hw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.add(addr, Kind::Hardware))
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.breakpoints.remove(addr, Kind::Hardware);
        Ok(true)
    }
}

fn watchpoint(addr: u64, len: u64, kind: StubWatchKind) -> Watchpoint {
    let kind = match kind {
        StubWatchKind::Write => WatchKind::Write,
        StubWatchKind::Read => WatchKind::Read,
        StubWatchKind::ReadWrite => WatchKind::Access,
    };
    Watchpoint { addr, len, kind }
}

impl HwWatchpoint for Context<'_> {
    fn add_hw_watchpoint(
        &mut self,
        addr: u64,
        len: u64,
        kind: StubWatchKind,
    ) -> TargetResult<bool, Self> {
        Ok(len > 0 && self.breakpoints.watch(watchpoint(addr, len, kind)))
    }

    fn remove_hw_watchpoint(
        &mut self,
        addr: u64,
        len: u64,
        kind: StubWatchKind,
    ) -> TargetResult<bool, Self> {
        self.breakpoints.unwatch(watchpoint(addr, len, kind));
        Ok(true)
    }
}

impl CatchSyscalls for Context<'_> {
    fn enable_catch_syscalls(
        &mut self,
        filter: Option<SyscallNumbers<'_, u64>>,
    ) -> TargetResult<(), Self> {
        self.breakpoints.calls = Some(Calls {
            numbers: filter.map(|numbers| numbers.collect()),
            running: None,
        });
        Ok(())
    }

    fn disable_catch_syscalls(&mut self) -> TargetResult<(), Self> {
        self.breakpoints.calls = None;
        Ok(())
    }
}
