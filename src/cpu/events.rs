//! What happens to a processor besides instructions that run on: interrupts, exceptions, system calls, writes of
//! control registers and MSRs, other address spaces. A debugger can ask to be stopped at them, and summaries note them.
//!
//! All of them end a block anyway, so that noticing them costs ordinary code nothing. Not here: CLTS (a write of CR0
//! in the middle of blocks), and what lies outside of the processor (ports, MMIO), which the recording has.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interrupt from outside was delivered (the NMI has vector 2).
    Interrupt {
        /// Which.
        vector: u8,
    },
    /// An exception was delivered, or an INT n.
    Exception {
        /// Which.
        vector: u8,
        /// Error code, for the vectors that have one.
        code: Option<u32>,
        /// For #PF: the linear address.
        address: u64,
    },
    /// MOV to a control register, or LMSW.
    Control {
        /// 0, 2, 3, 4 or 8.
        register: u8,
        /// What was written.
        value: u64,
    },
    /// WRMSR.
    Msr {
        /// Which.
        msr: u32,
        /// What was written.
        value: u64,
    },
    /// SYSCALL, SYSENTER, or INT 0x80 from user mode.
    SystemCall {
        /// RAX; EAX unless by SYSCALL.
        number: u64,
        /// By SYSCALL: the number is one of the 64-bit ABI.
        wide: bool,
    },
    /// SYSRET, SYSEXIT, or an IRET to user mode.
    UserReturn,
    /// CR3 has got another page-table root (the two roots of page-table isolation, one page apart, are one).
    Space {
        /// Guest-physical address of the top page table.
        root: u64,
    },
}

/// A set of events by kind and number: those to stop at, or those that occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSet {
    /// Vectors, one bit each.
    pub interrupts: [u64; 4],
    /// Vectors, one bit each.
    pub exceptions: [u64; 4],
    /// Control registers, one bit each.
    pub controls: u16,
    /// Model-specific registers.
    pub msrs: BTreeSet<u32>,
    /// All model-specific registers.
    pub all_msrs: bool,
    /// Numbers of system calls below 1024, one bit each.
    pub calls: [u64; 16],
    /// System calls with other numbers.
    pub odd_calls: bool,
    /// Returns to user mode.
    pub returns: bool,
    /// Changes of the address space.
    pub spaces: bool,
}

/// CR3 without PCID, and without the bit that tells the two roots of page-table isolation apart.
pub const SPACE_MASK: u64 = 0x000f_ffff_ffff_e000;

fn bit(map: &[u64], n: usize) -> bool {
    map[n / 64] >> (n % 64) & 1 != 0
}

fn set(map: &mut [u64], n: usize) {
    map[n / 64] |= 1 << (n % 64);
}

fn meet(a: &[u64], b: &[u64]) -> bool {
    a.iter().zip(b).any(|(a, b)| a & b != 0)
}

fn join(a: &mut [u64], b: &[u64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
}

impl EventSet {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds an event.
    pub fn add(&mut self, event: &Event) {
        match *event {
            Event::Interrupt { vector } => set(&mut self.interrupts, vector.into()),
            Event::Exception { vector, .. } => set(&mut self.exceptions, vector.into()),
            Event::Control { register, .. } => self.controls |= 1 << (register & 15),
            Event::Msr { msr, .. } => {
                self.msrs.insert(msr);
            }
            Event::SystemCall { number, .. } => self.add_call(number),
            Event::UserReturn => self.returns = true,
            Event::Space { .. } => self.spaces = true,
        }
    }

    /// Adds a system call.
    pub fn add_call(&mut self, number: u64) {
        match usize::try_from(number) {
            Ok(n) if n < 64 * self.calls.len() => set(&mut self.calls, n),
            _ => self.odd_calls = true,
        }
    }

    /// Adds all system calls.
    pub fn add_all_calls(&mut self) {
        self.calls = [!0; 16];
        self.odd_calls = true;
    }

    /// Whether an event is in it.
    pub fn has(&self, event: &Event) -> bool {
        match *event {
            Event::Interrupt { vector } => bit(&self.interrupts, vector.into()),
            Event::Exception { vector, .. } => bit(&self.exceptions, vector.into()),
            Event::Control { register, .. } => self.controls >> (register & 15) & 1 != 0,
            Event::Msr { msr, .. } => self.all_msrs || self.msrs.contains(&msr),
            Event::SystemCall { number, .. } => match usize::try_from(number) {
                Ok(n) if n < 64 * self.calls.len() => bit(&self.calls, n),
                _ => self.odd_calls,
            },
            Event::UserReturn => self.returns,
            Event::Space { .. } => self.spaces,
        }
    }

    /// Whether some event is in both.
    pub fn meets(&self, other: &EventSet) -> bool {
        let msrs = |a: &EventSet, b: &EventSet| a.all_msrs && (b.all_msrs || !b.msrs.is_empty());
        meet(&self.interrupts, &other.interrupts)
            || meet(&self.exceptions, &other.exceptions)
            || self.controls & other.controls != 0
            || msrs(self, other)
            || msrs(other, self)
            || !self.msrs.is_disjoint(&other.msrs)
            || meet(&self.calls, &other.calls)
            || self.odd_calls && other.odd_calls
            || self.returns && other.returns
            || self.spaces && other.spaces
    }

    /// Adds all that another has.
    pub fn extend(&mut self, other: &EventSet) {
        join(&mut self.interrupts, &other.interrupts);
        join(&mut self.exceptions, &other.exceptions);
        self.controls |= other.controls;
        self.msrs.extend(&other.msrs);
        self.all_msrs |= other.all_msrs;
        join(&mut self.calls, &other.calls);
        self.odd_calls |= other.odd_calls;
        self.returns |= other.returns;
        self.spaces |= other.spaces;
    }
}

/// Mnemonics of the exceptions (SDM volume 3, table 6-1).
pub const EXCEPTION_NAMES: [&str; 22] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "", "#TS", "#NP", "#SS", "#GP",
    "#PF", "", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
];

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Event::Interrupt { vector } => write!(f, "interrupt {vector:#x}"),
            Event::Exception {
                vector,
                code,
                address,
            } => {
                write!(f, "exception {vector}")?;
                match EXCEPTION_NAMES.get(usize::from(vector)) {
                    Some(&name) if !name.is_empty() => write!(f, " ({name})")?,
                    _ => {}
                }
                if let Some(code) = code {
                    write!(f, ", error code {code:#x}")?;
                }
                match vector {
                    14 => write!(f, ", address {address:#x}"),
                    _ => Ok(()),
                }
            }
            Event::Control { register, value } => write!(f, "cr{register} = {value:#x}"),
            Event::Msr { msr, value } => write!(f, "WRMSR {msr:#x} = {value:#x}"),
            Event::SystemCall { number, wide } => {
                let abi = if wide { "" } else { " (32-bit)" };
                write!(f, "system call {number}{abi}")
            }
            Event::UserReturn => f.write_str("return to user mode"),
            Event::Space { root } => write!(f, "address space {root:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: [Event; 8] = [
        Event::Interrupt { vector: 0xec },
        Event::Exception {
            vector: 14,
            code: Some(2),
            address: 8,
        },
        Event::Control {
            register: 8,
            value: 1,
        },
        Event::Msr {
            msr: 0xc000_0101,
            value: 0,
        },
        Event::SystemCall {
            number: 1023,
            wide: true,
        },
        Event::SystemCall {
            number: u64::MAX,
            wide: false,
        },
        Event::UserReturn,
        Event::Space { root: 0x2000 },
    ];

    #[test]
    fn a_set_has_what_was_added_and_nothing_else() {
        for (i, added) in EACH.iter().enumerate() {
            let mut one = EventSet::default();
            assert!(one.is_empty());
            one.add(added);
            assert!(!one.is_empty());
            for (j, event) in EACH.iter().enumerate() {
                let mut other = EventSet::default();
                other.add(event);
                assert_eq!(one.has(event), i == j, "{added}: {event}");
                assert_eq!(one.meets(&other), i == j, "{added}: {event}");
                other.extend(&one);
                assert!(other.has(event) && other.has(added));
            }
        }
        let all = EventSet {
            all_msrs: true,
            ..EventSet::default()
        };
        let mut one = EventSet::default();
        assert!(!all.meets(&one));
        one.add(&EACH[3]);
        assert!(all.meets(&one) && one.meets(&all) && all.meets(&all) && all.has(&EACH[3]));
    }
}
