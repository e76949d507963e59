//! When a recording begins and ends, as it is typed: a text on the console, a port, an address, a symbol, a key.

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSymbol};
use std::collections::BTreeSet;
use std::str::FromStr;

use crate::guest::OfMachine;
use crate::guest::linux::Kernel;
use crate::machine::Machine;
use crate::record::moment::Moment;
use crate::record::phases::{From, Symbol};

/// A moment on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// All but a symbol is known without the kernel.
    Moment(Moment),
    /// A symbol of the kernel's ELF file.
    Symbol(String),
    /// Ctrl-A r.
    Key,
}

/// What can be typed, for errors.
const FORMS: &str = "console:TEXT, port:NUMBER[=VALUE], an address, a symbol or «key» is needed";

impl FromStr for When {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "key" {
            return Ok(Self::Key);
        }
        if let Some(wanted) = text.strip_prefix("console:") {
            if wanted.is_empty() {
                return Err(
                    "«console:» needs the text that is waited for, as in console:login:".into(),
                );
            }
            return Ok(Self::Moment(Moment::Console(wanted.into())));
        }
        if let Some(wanted) = text.strip_prefix("port:") {
            return port(wanted).map(Self::Moment);
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let linear = number(text).ok_or("an address is a number such as 0xffffffff81000000")?;
            return Ok(Self::Moment(Moment::Address { linear, name: None }));
        }
        // Names of C++ and Rust have colons in pairs.
        let odd = |c: char| c.is_whitespace() || c.is_control();
        if text.is_empty() || text.contains(odd) || text.replace("::", "").contains(':') {
            return Err(FORMS.into());
        }
        Ok(Self::Symbol(text.into()))
    }
}

fn port(text: &str) -> Result<Moment, String> {
    const NEEDED: &str =
        "a port is a number up to 0xffff, with a value or without, as in port:0x80=0x11";
    let (port, value) = match text.split_once('=') {
        Some((port, value)) => (port, Some(value)),
        None => (text, None),
    };
    let port = number(port).and_then(|port| u16::try_from(port).ok());
    let value = match value {
        Some(value) => Some(
            number(value)
                .and_then(|value| u32::try_from(value).ok())
                .ok_or(NEEDED)?,
        ),
        None => None,
    };
    Ok(Moment::Port {
        port: port.ok_or(NEEDED)?,
        value,
    })
}

/// A number, decimal or with 0x.
fn number(text: &str) -> Option<u64> {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => {
            u64::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None if digits.starts_with(|c: char| c.is_ascii_digit()) => digits.parse().ok(),
        None => None,
    }
}

/// From when it is recorded.
pub fn from(when: Option<&When>, kernel: &[u8]) -> Result<From> {
    Ok(match when {
        None => From::PowerOn,
        Some(When::Key) => From::Asked,
        Some(When::Moment(moment)) => From::Moment(moment.clone()),
        Some(When::Symbol(name)) => From::Moment(symbol(kernel, name).context("--record-from")?),
    })
}

/// Until when.
pub fn until(when: Option<&When>, kernel: &[u8]) -> Result<Option<Moment>> {
    Ok(match when {
        None => None,
        Some(When::Key) => bail!("--record-until key: Ctrl-A e always ends a recording"),
        Some(When::Moment(moment)) => Some(moment.clone()),
        Some(When::Symbol(name)) => Some(symbol(kernel, name).context("--record-until")?),
    })
}

/// What did not happen, in words.
pub fn not_yet(from: &From) -> String {
    match from {
        From::PowerOn => "at once".into(),
        From::Asked => "before Ctrl-A r".into(),
        From::Moment(moment) => format!("before {moment}"),
    }
}

/// A symbol of the kernel that is booted; where its file has none, of the Linux that comes to be in RAM.
fn symbol(kernel: &[u8], name: &str) -> Result<Moment> {
    let file = match object::File::parse(kernel) {
        Ok(file) if file.symbols().next().is_some() => file,
        _ => return Ok(Moment::Symbol(name.into())),
    };
    let found: BTreeSet<u64> = file
        .symbols()
        .filter(|symbol| symbol.is_definition() && symbol.name() == Ok(name))
        .map(|symbol| symbol.address())
        .collect();
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(linear), None) => Ok(Moment::Address {
            linear,
            name: Some(name.into()),
        }),
        (Some(one), Some(other)) => {
            bail!(
                "«{name}»: the kernel image has several of this name ({one:#x}, {other:#x}); give an address"
            )
        }
        (None, _) => bail!("«{name}»: the kernel image has no such symbol"),
    }
}

/// Looks for a function of the Linux kernel in a machine's RAM.
pub fn find(machine: &Machine, name: &str) -> Symbol {
    let kernel = match Kernel::find(&OfMachine(machine)) {
        Ok(kernel) => kernel,
        Err(error) => {
            log::debug!("no kernel to look for {name} in: {error}");
            return Symbol::NotYet;
        }
    };
    match kernel.symbols.by_name(name) {
        Some(symbol) if matches!(symbol.kind, b't' | b'T' | b'w' | b'W') => {
            Symbol::At(symbol.address)
        }
        Some(_) => Symbol::Never("in the guest's kernel this is no function".into()),
        None => Symbol::Never(format!(
            "the guest's kernel (Linux {}) has no such symbol",
            kernel.version()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_symbols_is_told_from_one_without_this_one() {
        let name = When::Symbol("start_kernel".into());
        let later = Moment::Symbol("start_kernel".into());
        assert_eq!(
            from(Some(&name), b"a bzImage").unwrap(),
            From::Moment(later)
        );
        // This test's own program has symbols, and Linux's is not among them.
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = format!("{:#}", from(Some(&name), &program).unwrap_err());
        assert!(error.contains("has no such symbol"), "{error}");
    }

    #[test]
    fn what_can_be_typed() {
        let port = |port, value| Ok(When::Moment(Moment::Port { port, value }));
        let address = |linear| Ok(When::Moment(Moment::Address { linear, name: None }));
        assert_eq!("port:0x80".parse(), port(0x80, None));
        assert_eq!("port:244=0x11".parse(), port(244, Some(0x11)));
        assert_eq!("0xffff_8000".parse(), address(0xffff_8000));
        assert_eq!("4096".parse(), address(4096));
        assert_eq!(
            "console: login: ".parse(),
            Ok(When::Moment(Moment::Console(b" login: ".to_vec())))
        );
        assert_eq!(
            "start_kernel".parse(),
            Ok(When::Symbol("start_kernel".into()))
        );
        assert_eq!("a::b".parse(), Ok(When::Symbol("a::b".into())));
        assert_eq!("key".parse(), Ok(When::Key));
        for bad in [
            "",
            " ",
            "console:",
            "port:",
            "port:x",
            "port:0x10000",
            "port:1=",
            "port:1=z",
            "0x",
            "12z",
            "consol:x",
            "port:1=0x100000000",
            "two words",
            "99999999999999999999999",
        ] {
            assert!(bad.parse::<When>().is_err(), "{bad:?}");
        }
    }
}
