//! Debug registers: the guest's own breakpoints and single steps (SDM volume 3, chapter 18).
//!
//! What DR0 to DR3 and DR7 arm is looked up where the debugger's stops are (`stops.rs`): when a block is made, and
//! when a translation is cached. So a guest that has nothing armed pays nothing. Instruction breakpoints are faults:
//! they are found before the instruction, and EFLAGS.RF lets it run. Data and port breakpoints and single steps are
//! traps: they gather in `State::pending_trap` while the instruction runs by itself, and are delivered after it.
//!
//! EFLAGS.RF is set between the iterations of a repeated instruction: what interrupts it then pushes RF set, as
//! the manual wants it, and its instruction breakpoint does not hit again.
//!
//! Not modelled: branch traps (BTF) and branch records, bus-lock traps, RTM; CPUID offers none of them.

#[cfg(test)]
mod tests;

use super::decode::Mode;
use super::flags::bits;
use super::state::{State, activity, cr4};
use super::{Cpu, Fault, vector};

/// DR6: why a debug exception was raised.
pub mod dr6 {
    /// B0 to B3: the breakpoint's condition was met.
    pub const BREAKPOINTS: u64 = 15;
    /// The next instruction accesses a debug register, and DR7.GD was set.
    pub const BD: u64 = 1 << 13;
    /// Single step.
    pub const BS: u64 = 1 << 14;
    /// Task switch to a task whose T flag is set.
    pub const BT: u64 = 1 << 15;
    /// Bits that can be written; the other bits of the low half but 12 are always 1.
    pub const WRITABLE: u64 = BREAKPOINTS | BD | BS | BT;
    /// Bits that are always 1.
    pub const FIXED: u64 = 0xffff_0ff0;
}

/// DR7: what is armed.
pub mod dr7 {
    /// Accesses to debug registers fault.
    pub const GD: u64 = 1 << 13;
    /// Bits that can be written: L and G, LE, GE, GD, R/W and LEN.
    pub const WRITABLE: u64 = 0xffff_23ff;
    /// Bits that are always 1.
    pub const FIXED: u64 = 1 << 10;
}

/// Bits of [`State::pending_trap`]; 0 to 3 are those of DR6.
pub mod pending {
    /// A single step.
    pub const STEP: u8 = 1 << 4;
    /// A task switch to a task whose T flag is set.
    pub const TASK: u8 = 1 << 5;
    /// All that exist.
    pub const ALL: u8 = 63;
}

/// Values of [`State::shadow`]: what the instruction before holds off until the next one has run.
pub mod shadow {
    /// After STI: interrupts.
    pub const STI: u8 = 1;
    /// After MOV SS and POP SS: interrupts, instruction breakpoints, and traps (SDM volume 3, 6.8.3).
    pub const STACK: u8 = 2;
}

/// Marked offsets in blocks, above which those no longer in use are unmarked.
const MARKS_MAX: usize = 64;

/// What a breakpoint looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Instruction,
    Write,
    Port,
    Access,
}

/// An enabled breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    /// Linear address or port, aligned to the length.
    address: u64,
    bytes: u64,
    kind: Kind,
}

impl Point {
    fn overlaps(&self, address: u64, bytes: u64) -> bool {
        // Distances instead of sums: nothing wraps.
        address.wrapping_sub(self.address) < self.bytes
            || self.address.wrapping_sub(address) < bytes
    }
}

/// What the debug registers arm: derived from the state.
#[derive(Debug, Default)]
pub struct Armed {
    points: [Option<Point>; 4],
    /// Some breakpoint is one of instructions, of data, of ports.
    instructions: bool,
    data: bool,
    ports: bool,
    /// Offsets in a page at which blocks have marks: those of the instruction breakpoints, and old ones.
    marks: Vec<u16>,
}

impl Armed {
    fn hits(&self, met: impl Fn(&Point) -> bool) -> u8 {
        let mut hits = 0;
        for (n, point) in self.points.iter().enumerate() {
            if point.as_ref().is_some_and(&met) {
                hits |= 1 << n;
            }
        }
        hits
    }

    /// The instruction breakpoints at a linear address, as bits of DR6.
    #[inline]
    pub fn instruction_hits(&self, address: u64) -> u8 {
        if !self.instructions {
            return 0;
        }
        self.hits(|p| p.kind == Kind::Instruction && p.address == address)
    }

    /// Whether an instruction at this offset in its page gets a mark in its block.
    #[inline]
    pub fn has_offset(&self, offset: u16) -> bool {
        !self.marks.is_empty() && self.marks.contains(&offset)
    }

    /// Whether accesses to a linear page must be looked at.
    #[inline]
    pub fn is_watched_page(&self, address: u64) -> bool {
        self.data
            && self
                .points
                .iter()
                .flatten()
                .any(|p| p.is_data() && p.address >> 12 == address >> 12)
    }

    /// The data breakpoints that an access hits, as bits of DR6.
    #[inline]
    pub fn data_hits(&self, address: u64, bytes: u64, write: bool) -> u8 {
        if !self.data {
            return 0;
        }
        self.hits(|p| {
            (p.kind == Kind::Access || p.kind == Kind::Write && write) && p.overlaps(address, bytes)
        })
    }

    fn port_hits(&self, port: u16, bytes: u8) -> u8 {
        self.hits(|p| p.kind == Kind::Port && p.overlaps(port as u64, bytes as u64))
    }

    /// Offsets of the instruction breakpoints.
    fn offsets(&self) -> Vec<u16> {
        let instructions = |p: &&Point| p.kind == Kind::Instruction;
        let points = self.points.iter().flatten().filter(instructions);
        points.map(|p| (p.address & 0xfff) as u16).collect()
    }
}

impl Point {
    fn is_data(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Access)
    }

    /// Breakpoint `n` of a state, if it is enabled. Instruction breakpoints with a length, and those of ports without
    /// CR4.DE, are undefined: they never hit.
    fn armed(state: &State, n: usize) -> Option<Point> {
        let control = state.dr[7];
        if control >> (2 * n) & 3 == 0 {
            return None;
        }
        let bytes: u64 = match control >> (18 + 4 * n) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        let kind = match control >> (16 + 4 * n) & 3 {
            0 if bytes == 1 => Kind::Instruction,
            1 => Kind::Write,
            2 if state.cr4 & cr4::DE != 0 => Kind::Port,
            3 => Kind::Access,
            _ => return None,
        };
        let address = state.dr[n] & !(bytes - 1);
        Some(Point {
            address,
            bytes,
            kind,
        })
    }
}

impl Cpu {
    /// Recomputes what the debug registers arm: after changes of DR0 to DR3, DR7 and CR4.DE.
    pub(super) fn update_armed(&mut self) {
        let points = std::array::from_fn(|n| Point::armed(&self.state, n));
        if points == self.armed.points {
            return;
        }
        let any = |kind: Kind| points.iter().flatten().any(|p: &Point| p.kind == kind);
        let data = any(Kind::Write) || any(Kind::Access);
        let watched = data || self.armed.data;
        self.armed.instructions = any(Kind::Instruction);
        self.armed.ports = any(Kind::Port);
        self.armed.data = data;
        self.armed.points = points;
        if watched {
            self.forget_translations();
        }
        let wanted = self.armed.offsets();
        let missing = |offset: &&u16| !self.armed.marks.contains(offset);
        let mut changed: Vec<u16> = wanted.iter().filter(missing).copied().collect();
        // A mark costs little, and systems arm the same breakpoints again at every switch of processes.
        if self.armed.marks.len() + changed.len() > MARKS_MAX {
            changed.extend(self.armed.marks.iter().filter(|old| !wanted.contains(old)));
            self.armed.marks = wanted;
        } else {
            self.armed.marks.extend_from_slice(&changed);
        }
        self.blocks.drop_offsets(&mut self.memory, &changed);
    }

    /// The instruction breakpoints that hit at the next instruction: none where RF is set or SS was just loaded.
    pub(super) fn instruction_breakpoints(&self) -> u8 {
        let suppressed =
            self.state.flags.other() & bits::RF != 0 || self.state.shadow == shadow::STACK;
        if suppressed {
            0
        } else {
            self.armed.instruction_hits(self.linear_rip())
        }
    }

    /// Notes the port breakpoints that an access hits.
    pub(super) fn watch_port(&mut self, port: u16, bytes: u8) {
        if self.armed.ports {
            self.state.pending_trap |= self.armed.port_hits(port, bytes);
        }
    }

    /// What MOV SS and POP SS hold off. Not if the instruction before was one, too.
    pub(super) fn hold_off_after_stack_load(&mut self) {
        if !self.after_stack_load {
            self.state.shadow = shadow::STACK;
            self.step_trap_lost = true;
        }
    }

    /// Raises the debug exception of traps that wait.
    pub(super) fn deliver_traps(&mut self) {
        let traps = std::mem::take(&mut self.state.pending_trap);
        self.state.activity = activity::RUNNING;
        let mut causes = traps as u64 & dr6::BREAKPOINTS;
        if traps & pending::STEP != 0 {
            causes |= dr6::BS;
        }
        if traps & pending::TASK != 0 {
            causes |= dr6::BT;
        }
        self.deliver_fault(Fault::debug(causes));
    }

    /// What entering the handler of a debug exception does to the debug registers. BS and its kin stay until the
    /// handler clears them; B0 to B3 are those of the last exception.
    pub(super) fn note_debug_exception(&mut self, causes: u64) {
        self.state.dr[6] = self.state.dr[6] & !dr6::BREAKPOINTS | causes;
        self.state.dr[7] &= !dr7::GD;
    }

    /// MOV from a debug register.
    pub(super) fn read_debug_register(&mut self, number: u8) -> Result<u64, super::Abort> {
        let register = self.check_debug_register(number)?;
        Ok(self.state.dr[register])
    }

    /// MOV to a debug register.
    pub(super) fn write_debug_register(
        &mut self,
        number: u8,
        value: u64,
    ) -> Result<(), super::Abort> {
        let register = self.check_debug_register(number)?;
        if register >= 6 && value >> 32 != 0 {
            return self.general_protection();
        }
        self.state.dr[register] = match register {
            6 => value & dr6::WRITABLE | dr6::FIXED,
            7 => value & dr7::WRITABLE | dr7::FIXED,
            _ if self.mode == Mode::Bits64 => value,
            _ => value & 0xffff_ffff,
        };
        self.update_armed();
        Ok(())
    }

    /// The register that an encoding names: 4 and 5 are 6 and 7 unless CR4.DE says #UD. Raises what an access to it
    /// raises.
    fn check_debug_register(&mut self, number: u8) -> Result<usize, super::Abort> {
        let register = match number {
            4 | 5 if self.state.cr4 & cr4::DE != 0 => return self.undefined(),
            4 | 5 => number as usize + 2,
            0..=7 => number as usize,
            _ => return self.undefined(),
        };
        if self.state.cpl != 0 {
            return self.general_protection();
        }
        if self.state.dr[7] & dr7::GD != 0 {
            return self.abort_with(super::AbortReason::Fault(Fault::debug(dr6::BD)));
        }
        Ok(register)
    }
}

impl Fault {
    /// A debug exception with its causes, which go to DR6.
    pub fn debug(causes: u64) -> Fault {
        Fault {
            vector: vector::DB,
            code: None,
            address: causes,
        }
    }
}
