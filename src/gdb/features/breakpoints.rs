//! Breakpoints and watchpoints: Z and z. Agent expressions that come along are kept with the breakpoint.

use super::{Answer, Feature};
use crate::gdb::agent::Program;
use crate::gdb::breakpoints::Expressions;
use crate::gdb::context::Context;
use crate::gdb::syntax;

pub static FEATURE: Feature = Feature {
    supported: "ConditionalBreakpoints+;BreakpointCommands+",
    packets: &[("Z", insert), ("z", remove)],
};

/// `type,addr,kind`, where the kind of a watchpoint is its length.
fn place(text: &[u8]) -> Option<(u64, u64, u64)> {
    let (kind, rest) = syntax::split(text, b',')?;
    let (addr, length) = syntax::pair(rest)?;
    Some((syntax::number(kind)?, addr, length))
}

fn insert(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    let (head, tail) = syntax::split(rest, b';').unwrap_or((rest, b""));
    let Some((kind, addr, length)) = place(head) else {
        return Answer::malformed();
    };
    let Some(code) = expressions(tail) else {
        return Answer::malformed();
    };
    match kind {
        0 | 1 => match decode(&code) {
            Ok(expressions) => context.breakpoints.arriving = expressions,
            Err(why) => return Answer::error(&why),
        },
        2..=4 if length == 0 => return Answer::error("a watchpoint of no bytes"),
        2..=4 => {}
        _ => return Answer::empty(),
    }
    Answer::stub(format!("Z{kind},{addr:x},{length:x}"))
}

fn remove(_: &mut Context<'_>, rest: &[u8]) -> Answer {
    let (head, _) = syntax::split(rest, b';').unwrap_or((rest, b""));
    match place(head) {
        Some((kind @ 0..=4, addr, length)) => Answer::stub(format!("z{kind},{addr:x},{length:x}")),
        Some(_) => Answer::empty(),
        None => Answer::malformed(),
    }
}

/// The bytecode that came with a breakpoint.
#[derive(Debug, Default, PartialEq, Eq)]
struct Code {
    conditions: Vec<Vec<u8>>,
    commands: Vec<Vec<u8>>,
}

/// `X27,26...X5,...;cmds:1,X3,...`: lists of length and bytecode. (GDB may write a semicolon between them.)
fn expressions(text: &[u8]) -> Option<Code> {
    let mut all = Code::default();
    for part in text.split(|&c| c == b';').filter(|part| !part.is_empty()) {
        match part.strip_prefix(b"cmds:") {
            Some(commands) => {
                let (_persist, list) = syntax::split(commands, b',')?;
                all.commands.extend(bytecodes(list)?);
            }
            None => all.conditions.extend(bytecodes(part)?),
        }
    }
    Some(all)
}

/// A condition that cannot be evaluated is GDB's to decide; what cannot be printed must be told now.
fn decode(code: &Code) -> Result<Expressions, String> {
    let conditions = code.conditions.iter().map(|bytes| {
        Program::new(bytes)
            .inspect_err(|why| log::warn!("GDB has to evaluate a condition: {why}"))
            .ok()
    });
    let commands = code.commands.iter().map(|bytes| {
        Program::new(bytes).map_err(|why| format!("a command cannot be run here: {why}"))
    });
    let all = code.conditions.iter().chain(&code.commands);
    Ok(Expressions {
        conditions: conditions.collect(),
        commands: commands.collect::<Result<_, _>>()?,
        bytes: all.map(Vec::len).sum(),
    })
}

fn bytecodes(mut list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while let Some(rest) = list.strip_prefix(b"X") {
        let (length, rest) = syntax::split(rest, b',')?;
        let digits = usize::try_from(syntax::number(length)?)
            .ok()?
            .checked_mul(2)?;
        all.push(syntax::bytes(rest.get(..digits)?)?);
        list = &rest[digits..];
    }
    list.is_empty().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_both_kinds() {
        let got = expressions(b"X2,2210X1,27;cmds:1,X3,010203").unwrap();
        assert_eq!(got.conditions, [vec![0x22, 0x10], vec![0x27]]);
        assert_eq!(got.commands, [vec![1, 2, 3]]);
        assert_eq!(expressions(b""), Some(Code::default()));
        for bad in [&b"X3,2210"[..], b"Xz,00", b"X2", b"X1,27junk", b"cmds:1"] {
            assert_eq!(expressions(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
