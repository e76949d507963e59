//! qXfer:osdata:read: the tables of `info os`, read in the guest's memory at the position.

use std::fmt::Write as _;

use super::{Answer, Feature};
use crate::gdb::context::Context;
use crate::gdb::syntax;
use crate::guest::linux::{Kernel, modules, tasks};
use crate::guest::{AtPosition, GuestError};

pub static FEATURE: Feature = Feature {
    supported: "qXfer:osdata:read+",
    packets: &[("qXfer:osdata:read:", read)],
};

/// A row: names and values of its columns.
type Row = Vec<(&'static str, String)>;

/// A table: its name, what it is, and how its rows come about.
type Table = (
    &'static str,
    &'static str,
    fn(&Context<'_>) -> Result<Vec<Row>, GuestError>,
);

static TABLES: &[Table] = &[
    ("processes", "Processes of the guest", processes),
    ("modules", "Modules of the guest's kernel", loaded_modules),
];

fn read(context: &mut Context<'_>, rest: &[u8]) -> Answer {
    let Some((name, range)) = syntax::split(rest, b':') else {
        return Answer::malformed();
    };
    let Some((offset, length)) = syntax::pair(range) else {
        return Answer::malformed();
    };
    // GDB reads a table in parts: one that was made for the first part serves the others.
    let key = (context.debuggee.position(), name.to_vec());
    if offset == 0 || context.table.as_ref().is_none_or(|(of, _)| *of != key) {
        let rows = match TABLES.iter().find(|table| table.0.as_bytes() == name) {
            Some((_, _, rows)) => match rows(context) {
                Ok(rows) => rows,
                Err(why) => return Answer::error(&why.to_string()),
            },
            None if name.is_empty() => list(),
            None => return Answer::error("there is no such table"),
        };
        let kind = if name.is_empty() { b"types" } else { name };
        context.table = Some((key, xml(&String::from_utf8_lossy(kind), &rows)));
    }
    let xml = context.table.as_ref().map_or("", |(_, xml)| xml);
    Answer::part(xml.as_bytes(), offset, length)
}

/// The tables that there are.
fn list() -> Vec<Row> {
    TABLES
        .iter()
        .map(|(name, what, _)| {
            vec![
                ("Type", name.to_string()),
                ("Description", what.to_string()),
                ("Title", name.to_string()),
            ]
        })
        .collect()
}

fn xml(kind: &str, rows: &[Row]) -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE osdata SYSTEM \"osdata.dtd\">\n<osdata type=\"{kind}\">\n"
    );
    for row in rows {
        xml.push_str("<item>");
        for (name, value) in row {
            let _ = write!(xml, "<column name=\"{name}\">");
            for c in value.chars() {
                match c {
                    '<' => xml.push_str("&lt;"),
                    '>' => xml.push_str("&gt;"),
                    '&' => xml.push_str("&amp;"),
                    c => xml.push(c),
                }
            }
            xml.push_str("</column>");
        }
        xml.push_str("</item>\n");
    }
    xml.push_str("</osdata>\n");
    xml
}

fn processes(context: &Context<'_>) -> Result<Vec<Row>, GuestError> {
    let guest = AtPosition(&*context.debuggee);
    let kernel = Kernel::find(&guest)?;
    let types = kernel.types()?;
    let running = tasks::current(&guest, &kernel, &types, context.selected).ok();
    let all = tasks::list(&guest, &kernel, &types)?;
    let row = |task: tasks::Task| {
        let name = match task.mm {
            0 => format!("[{}]", task.name),
            _ => task.name,
        };
        let runs = if running == Some(task.address) {
            "yes"
        } else {
            ""
        };
        vec![
            ("pid", task.pid.to_string()),
            ("parent", task.parent.to_string()),
            ("state", task.state.to_string()),
            ("threads", task.threads.to_string()),
            ("runs", runs.to_string()),
            ("task", format!("{:#x}", task.address)),
            ("command", name),
        ]
    };
    Ok(all.into_iter().map(row).collect())
}

fn loaded_modules(context: &Context<'_>) -> Result<Vec<Row>, GuestError> {
    let guest = AtPosition(&*context.debuggee);
    let kernel = Kernel::find(&guest)?;
    let all = modules::list(&guest, &kernel, &kernel.types()?)?;
    let row = |module: modules::Module| {
        vec![
            ("name", module.name),
            ("code", format!("{:#x}", module.text)),
            ("bytes", module.text_bytes.to_string()),
            ("module", format!("{:#x}", module.address)),
        ]
    };
    Ok(all.into_iter().map(row).collect())
}
