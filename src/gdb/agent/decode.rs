//! Bytecode to a program that cannot go wrong.
//!
//! The manual's rule that the stack has one height at each instruction, however it is reached, is what makes the
//! check possible; an expression that breaks it is refused.

use super::print::Format;
use super::{Invalid, STACK_MAX};

/// An operation of one or two numbers, the lower one on the stack first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    DivSigned,
    DivUnsigned,
    RemSigned,
    RemUnsigned,
    Lsh,
    RshSigned,
    RshUnsigned,
    And,
    Or,
    Xor,
    Equal,
    LessSigned,
    LessUnsigned,
}

/// A decoded instruction. Targets of jumps are indices of instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Insn {
    Binary(Binary),
    LogNot,
    BitNot,
    /// Sign extension from so many bits, 1 to 64.
    Ext(u32),
    /// Zero extension, likewise.
    ZeroExt(u32),
    /// Replaces an address by the number of so many bytes that stands there.
    Ref(usize),
    IfGoto(usize),
    Goto(usize),
    Const(u64),
    Reg(usize),
    End,
    Dup,
    Pop,
    Swap,
    Pick(usize),
    Rot,
    /// Collects trace data: takes so many entries off the stack.
    Trace(usize),
    Printf(Format),
}

impl Insn {
    /// Entries that it needs, and by how many the stack is higher afterwards.
    fn effect(&self) -> (usize, isize) {
        match self {
            Insn::Binary(_) => (2, -1),
            Insn::LogNot | Insn::BitNot | Insn::Ext(_) | Insn::ZeroExt(_) | Insn::Ref(_) => (1, 0),
            Insn::IfGoto(_) | Insn::Pop => (1, -1),
            Insn::Goto(_) | Insn::End => (0, 0),
            Insn::Const(_) | Insn::Reg(_) => (0, 1),
            Insn::Dup => (1, 1),
            Insn::Swap => (2, 0),
            Insn::Pick(n) => (n + 1, 1),
            Insn::Rot => (3, 0),
            Insn::Trace(n) => (*n, -(*n as isize)),
            // Function and channel lie on top of the arguments.
            Insn::Printf(format) => {
                let n = format.arguments() + 2;
                (n, -(n as isize))
            }
        }
    }
}

/// A checked expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub(super) code: Vec<Insn>,
}

/// What is read of the bytecode.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Invalid> {
        let end = self.at.checked_add(count);
        let part = end.and_then(|end| self.bytes.get(self.at..end));
        self.at += count;
        part.ok_or(Invalid::CutShort(self.bytes.len()))
    }

    /// A big-endian number.
    fn number(&mut self, bytes: usize) -> Result<u64, Invalid> {
        let part = self.take(bytes)?;
        Ok(part.iter().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    fn width(&mut self) -> Result<u32, Invalid> {
        let at = self.at;
        match self.number(1)? as u8 {
            width @ 1..=64 => Ok(width.into()),
            width => Err(Invalid::Width(at, width)),
        }
    }

    fn printf(&mut self) -> Result<Insn, Invalid> {
        let arguments = self.number(1)? as usize;
        let length = self.number(2)? as usize;
        Format::new(self.take(length)?, arguments).map(Insn::Printf)
    }

    fn insn(&mut self) -> Result<Insn, Invalid> {
        let at = self.at;
        let binary = |operation| Ok(Insn::Binary(operation));
        match self.number(1)? as u8 {
            0x02 => binary(Binary::Add),
            0x03 => binary(Binary::Sub),
            0x04 => binary(Binary::Mul),
            0x05 => binary(Binary::DivSigned),
            0x06 => binary(Binary::DivUnsigned),
            0x07 => binary(Binary::RemSigned),
            0x08 => binary(Binary::RemUnsigned),
            0x09 => binary(Binary::Lsh),
            0x0a => binary(Binary::RshSigned),
            0x0b => binary(Binary::RshUnsigned),
            0x0c => Ok(Insn::Trace(2)),
            0x0d => self.number(1).map(|_| Insn::Trace(0)),
            0x0e => Ok(Insn::LogNot),
            0x0f => binary(Binary::And),
            0x10 => binary(Binary::Or),
            0x11 => binary(Binary::Xor),
            0x12 => Ok(Insn::BitNot),
            0x13 => binary(Binary::Equal),
            0x14 => binary(Binary::LessSigned),
            0x15 => binary(Binary::LessUnsigned),
            0x16 => self.width().map(Insn::Ext),
            0x17 => Ok(Insn::Ref(1)),
            0x18 => Ok(Insn::Ref(2)),
            0x19 => Ok(Insn::Ref(4)),
            0x1a => Ok(Insn::Ref(8)),
            0x01 | 0x1b..=0x1f => Err(Invalid::Unsupported("floating point")),
            0x20 => Ok(Insn::IfGoto(self.number(2)? as usize)),
            0x21 => Ok(Insn::Goto(self.number(2)? as usize)),
            0x22 => self.number(1).map(Insn::Const),
            0x23 => self.number(2).map(Insn::Const),
            0x24 => self.number(4).map(Insn::Const),
            0x25 => self.number(8).map(Insn::Const),
            0x26 => Ok(Insn::Reg(self.number(2)? as usize)),
            0x27 => Ok(Insn::End),
            0x28 => Ok(Insn::Dup),
            0x29 => Ok(Insn::Pop),
            0x2a => self.width().map(Insn::ZeroExt),
            0x2b => Ok(Insn::Swap),
            0x2c..=0x2e => Err(Invalid::Unsupported("a trace state variable")),
            0x2f => Ok(Insn::Trace(2)),
            0x30 => self.number(2).map(|_| Insn::Trace(0)),
            0x32 => Ok(Insn::Pick(self.number(1)? as usize)),
            0x33 => Ok(Insn::Rot),
            0x34 => self.printf(),
            byte => Err(Invalid::Unknown(at, byte)),
        }
    }
}

impl Program {
    /// Decodes and checks.
    pub fn new(bytes: &[u8]) -> Result<Program, Invalid> {
        let mut reader = Reader { bytes, at: 0 };
        let mut code = Vec::new();
        let mut starts = Vec::new();
        while reader.at < bytes.len() {
            starts.push(reader.at);
            code.push(reader.insn()?);
        }
        for insn in &mut code {
            if let Insn::IfGoto(target) | Insn::Goto(target) = insn {
                *target = starts
                    .binary_search(target)
                    .map_err(|_| Invalid::Jump(*target))?;
            }
        }
        check_heights(&code, &starts, bytes.len())?;
        Ok(Program { code })
    }

    /// Whether it prints.
    pub fn prints(&self) -> bool {
        self.code.iter().any(|insn| matches!(insn, Insn::Printf(_)))
    }
}

/// Follows all ways through the program. What no way leads to may be anything.
fn check_heights(code: &[Insn], starts: &[usize], length: usize) -> Result<(), Invalid> {
    let mut heights: Vec<Option<usize>> = vec![None; code.len()];
    let mut open = vec![(0, 0)];
    while let Some((index, height)) = open.pop() {
        let (Some(insn), Some(known)) = (code.get(index), heights.get_mut(index)) else {
            return Err(Invalid::CutShort(length));
        };
        let wrong = Err(Invalid::Stack(starts[index]));
        match *known {
            Some(before) if before == height => continue,
            Some(_) => return wrong,
            None => *known = Some(height),
        }
        let (needs, change) = insn.effect();
        let Some(after) = height.checked_add_signed(change) else {
            return wrong;
        };
        if height < needs || after > STACK_MAX {
            return wrong;
        }
        match insn {
            Insn::End => {}
            Insn::Goto(target) => open.push((*target, after)),
            Insn::IfGoto(target) => open.extend([(*target, after), (index + 1, after)]),
            _ => open.push((index + 1, after)),
        }
    }
    Ok(())
}
