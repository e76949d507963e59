//! The interpreter.

use super::decode::{Binary, Insn};
use super::{Failure, PRINTED_BYTES_MAX, Program, STACK_MAX, STEPS_MAX, Subject};

/// The stack. The program's heights are checked, so that neither end is ever passed; the mask only tells the
/// compiler so.
struct Stack {
    entries: [u64; STACK_MAX + 1],
    height: usize,
}

impl Stack {
    fn push(&mut self, value: u64) {
        debug_assert!(self.height < STACK_MAX);
        self.entries[self.height.min(STACK_MAX)] = value;
        self.height += 1;
    }

    fn pop(&mut self) -> u64 {
        self.height = self.height.saturating_sub(1);
        self.entries[self.height.min(STACK_MAX)]
    }

    /// The n-th entry below the top.
    fn below(&mut self, n: usize) -> &mut u64 {
        let index = self.height.saturating_sub(n + 1).min(STACK_MAX);
        &mut self.entries[index]
    }
}

impl Program {
    /// Evaluates: what lies on top of the stack at the end (`None`: nothing). What it prints is appended to
    /// `printed`.
    pub fn run(
        &self,
        subject: &mut dyn Subject,
        printed: &mut Vec<u8>,
    ) -> Result<Option<u64>, Failure> {
        let mut stack = Stack {
            entries: [0; STACK_MAX + 1],
            height: 0,
        };
        let limit = printed.len() + PRINTED_BYTES_MAX;
        let mut at = 0;
        for _ in 0..STEPS_MAX {
            // Checked: every way ends with `End`.
            let Some(insn) = self.code.get(at) else { break };
            at += 1;
            match insn {
                Insn::End => {
                    return Ok((stack.height > 0).then(|| stack.pop()));
                }
                Insn::Goto(target) => at = *target,
                Insn::IfGoto(target) => {
                    if stack.pop() != 0 {
                        at = *target;
                    }
                }
                Insn::Printf(format) => {
                    let (_function, _channel) = (stack.pop(), stack.pop());
                    let arguments: Vec<u64> =
                        (0..format.arguments()).map(|_| stack.pop()).collect();
                    format.print(&arguments, subject, limit, printed);
                }
                other => execute(other, &mut stack, subject)?,
            }
        }
        Err(Failure::Steps)
    }
}

fn execute(insn: &Insn, stack: &mut Stack, subject: &mut dyn Subject) -> Result<(), Failure> {
    match *insn {
        Insn::Binary(operation) => {
            let b = stack.pop();
            let a = stack.pop();
            stack.push(binary(operation, a, b)?);
        }
        Insn::LogNot => *stack.below(0) = (*stack.below(0) == 0).into(),
        Insn::BitNot => *stack.below(0) = !*stack.below(0),
        Insn::Ext(bits) => {
            let shift = 64 - bits;
            *stack.below(0) = (((*stack.below(0) << shift) as i64) >> shift) as u64;
        }
        Insn::ZeroExt(bits) => *stack.below(0) &= u64::MAX >> (64 - bits),
        Insn::Ref(size) => {
            let addr = *stack.below(0);
            let mut bytes = [0; 8];
            if subject.read(addr, &mut bytes[..size]) < size {
                return Err(Failure::Memory(addr));
            }
            *stack.below(0) = u64::from_le_bytes(bytes);
        }
        Insn::Const(value) => stack.push(value),
        Insn::Reg(number) => {
            let value = subject.register(number);
            stack.push(value.ok_or(Failure::Register(number))?);
        }
        Insn::Dup => {
            let top = *stack.below(0);
            stack.push(top);
        }
        Insn::Pop => {
            stack.pop();
        }
        Insn::Swap => {
            let (a, b) = (*stack.below(1), *stack.below(0));
            (*stack.below(1), *stack.below(0)) = (b, a);
        }
        Insn::Pick(n) => {
            let value = *stack.below(n);
            stack.push(value);
        }
        Insn::Rot => {
            // a b c => c a b, as the manual's table has it.
            let (a, b, c) = (*stack.below(2), *stack.below(1), *stack.below(0));
            *stack.below(2) = c;
            *stack.below(1) = a;
            *stack.below(0) = b;
        }
        Insn::Trace(count) => {
            for _ in 0..count {
                stack.pop();
            }
        }
        // The caller's.
        Insn::End | Insn::Goto(_) | Insn::IfGoto(_) | Insn::Printf(_) => {}
    }
    Ok(())
}

fn binary(operation: Binary, a: u64, b: u64) -> Result<u64, Failure> {
    let divisor = || {
        if b == 0 {
            Err(Failure::Division)
        } else {
            Ok(b)
        }
    };
    // Shifts by 64 and more leave nothing of the number but its sign.
    let shift = u32::try_from(b).unwrap_or(u32::MAX);
    Ok(match operation {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::DivSigned => (a as i64).wrapping_div(divisor()? as i64) as u64,
        Binary::DivUnsigned => a / divisor()?,
        Binary::RemSigned => (a as i64).wrapping_rem(divisor()? as i64) as u64,
        Binary::RemUnsigned => a % divisor()?,
        Binary::Lsh => a.checked_shl(shift).unwrap_or(0),
        Binary::RshSigned => ((a as i64) >> shift.min(63)) as u64,
        Binary::RshUnsigned => a.checked_shr(shift).unwrap_or(0),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Equal => (a == b).into(),
        Binary::LessSigned => ((a as i64) < b as i64).into(),
        Binary::LessUnsigned => (a < b).into(),
    })
}
