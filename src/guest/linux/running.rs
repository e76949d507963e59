//! Who runs on a processor at any position of a recording, and which system call it returns from: a few reads of
//! memory with addresses found once, so that it can be asked at every hit of a breakpoint.
//!
//! What is found at one position holds at all others from the set-up of the per-CPU areas on; before that, what is read
//! makes no sense and is taken for nobody. With page-table isolation the kernel's memory is not mapped in user mode:
//! the kernel's half of the pair of page tables is read.

use super::Kernel;
use super::btf::Types;
use super::tasks;
use crate::guest::paging::AddressSpace;
use crate::guest::{Guest, GuestError, Physical};
use crate::timeline::api::Registers;

/// sizeof(struct pt_regs), arch/x86/include/asm/ptrace.h.
const FRAME_BYTES: u64 = 168;
/// Offset of orig_ax in it.
const FRAME_NUMBER: u64 = 120;
/// Offset of ip in it.
const FRAME_RIP: u64 = 128;
/// What may lie between the frame and the top of the stack: nothing, or with FRED (6.9 and later) 16 bytes.
const PADDINGS: [u64; 2] = [0, 16];
/// Behind the last number of any system call, x32 included.
const NUMBER_END: u64 = 0x4000_0400;

/// Where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Linear address of the pointer to the running task.
    current: u64,
    /// Offset of the process number in a task.
    tgid: u64,
    /// Linear address of the variable that holds the top of its kernel stack.
    stack_top: Option<u64>,
}

impl Running {
    /// Finds the places for a processor.
    pub fn of(
        guest: &dyn Guest,
        kernel: &Kernel,
        types: &Types,
        cpu: usize,
    ) -> Result<Running, GuestError> {
        let area = tasks::per_cpu_area(guest, kernel, cpu)?;
        let variable = |name: &str, hot: &str| match kernel.symbols.by_name(name) {
            Some(symbol) => Ok(symbol.address),
            // 6.2 to 6.14.
            None => Ok(kernel
                .symbol("pcpu_hot")?
                .address
                .wrapping_add(types.offset("pcpu_hot", &[hot])?)),
        };
        Ok(Running {
            current: area.wrapping_add(variable("current_task", "current_task")?),
            tgid: types.offset("task_struct", &["tgid"])?,
            stack_top: variable("cpu_current_top_of_stack", "top_of_stack")
                .ok()
                .map(|offset| area.wrapping_add(offset)),
        })
    }

    /// Finds the kernel first.
    pub fn find(guest: &dyn Guest, cpu: usize) -> Result<Running, GuestError> {
        let kernel = Kernel::find(guest)?;
        Running::of(guest, &kernel, &kernel.types()?, cpu)
    }

    /// Number of the process whose task runs; 0 for the idle task.
    pub fn process(&self, ram: &dyn Physical, registers: &Registers) -> Option<u32> {
        let space = AddressSpace::of(registers).ok()?.kernel_half();
        let task = space.read_u64(ram, self.current)?;
        space.read_u32(ram, task.wrapping_add(self.tgid))
    }

    /// Number of the system call from which the processor returns to user mode: just before or just after the return.
    /// `rip` is where it returns to, if that is known. `None`: the return is one of an interrupt or an exception.
    pub fn system_call(
        &self,
        ram: &dyn Physical,
        registers: &Registers,
        rip: Option<u64>,
    ) -> Option<u64> {
        let space = AddressSpace::of(registers).ok()?.kernel_half();
        let top = space.read_u64(ram, self.stack_top?)?;
        PADDINGS
            .into_iter()
            .map(|padding| top.wrapping_sub(FRAME_BYTES + padding))
            .find(|&frame| {
                let saved = space.read_u64(ram, frame.wrapping_add(FRAME_RIP));
                saved.is_some() && rip.is_none_or(|rip| saved == Some(rip))
            })
            .and_then(|frame| space.read_u64(ram, frame.wrapping_add(FRAME_NUMBER)))
            .filter(|&number| number < NUMBER_END)
    }
}
