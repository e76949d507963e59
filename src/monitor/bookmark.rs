//! `monitor bookmark` and `monitor goto`.

use std::fmt::Write as _;

use super::{Armed, Command, Completes, Scope, place, share};

pub static BOOKMARK: Command = Command {
    name: "bookmark",
    usage: "bookmark [NAME [PLACE] | --delete NAME | --names]",
    summary: "give the position a name, for `goto` and `seek`; without a name: list them",
    manual: "bookmark                  lists all bookmarks in the order of their ticks\n\
             bookmark NAME             names the position, or another PLACE (see `seek`)\n\
             bookmark --delete NAME    takes a name away\n\
             bookmark --names          only the names, for scripts\n\
             \n\
             Bookmarks are kept in a file beside the recording (boot.rvb beside boot.rvr): they are there\n\
             for the next session, and can be given away with the recording.\n",
    examples: &[
        "bookmark",
        "bookmark before-the-crash",
        "bookmark half 50%",
        "bookmark --names",
    ],
    words: &["--delete", "--names"],
    completes: Completes::Bookmark,
    run: bookmark,
    ..Command::PLAIN
};

pub static GOTO: Command = Command {
    name: "goto",
    usage: "goto BOOKMARK",
    summary: "go to a bookmark (with the next `continue`)",
    manual: "As `seek`, for bookmarks only. With gdb-scripts/retrovisor.py loaded `rv goto NAME` goes at once.\n",
    examples: &["goto before-the-crash"],
    completes: Completes::Bookmark,
    resumes: true,
    run: goto,
    ..Command::PLAIN
};

fn bookmark(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    match args {
        [] => list(scope),
        ["--names"] => {
            let names: Vec<&str> = scope
                .debuggee
                .bookmarks()
                .all()?
                .keys()
                .map(String::as_str)
                .collect();
            Ok(names.join("\n"))
        }
        ["--delete", name] => {
            let tick = scope.debuggee.bookmarks().delete(name)?;
            Ok(format!("{name} (tick {tick}) is no bookmark any more"))
        }
        [name] => set(scope, name, scope.debuggee.position()),
        [name, place] => {
            let tick = place::parse(scope, place)?;
            set(scope, name, tick)
        }
        _ => BOOKMARK.misused(),
    }
}

fn set(scope: &mut Scope<'_>, name: &str, tick: u64) -> Result<String, String> {
    let old = scope.debuggee.bookmarks().set(name, tick)?;
    let mut text = format!("{name} is tick {tick} ({})", share(&*scope.debuggee, tick));
    if let Some(old) = old.filter(|&old| old != tick) {
        let _ = write!(text, "; it was tick {old}");
    }
    Ok(text)
}

fn list(scope: &mut Scope<'_>) -> Result<String, String> {
    let mut all: Vec<(u64, String)> = scope
        .debuggee
        .bookmarks()
        .all()?
        .iter()
        .map(|(name, &tick)| (tick, name.clone()))
        .collect();
    if all.is_empty() {
        return Ok("no bookmarks: `bookmark NAME` makes one".into());
    }
    all.sort_unstable();
    let mut text = String::new();
    for (tick, name) in all {
        let share = share(&*scope.debuggee, tick);
        let here = if tick == scope.debuggee.position() {
            "  (here)"
        } else {
            ""
        };
        let _ = writeln!(text, "{tick:14}  {share:>8}  {name}{here}");
    }
    Ok(text)
}

fn goto(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let [name] = args else {
        return GOTO.misused();
    };
    let tick = scope.debuggee.bookmarks().get(name)?;
    let (start, end) = (scope.debuggee.start(), scope.debuggee.end());
    if !(start..=end).contains(&tick) {
        return Err(format!(
            "{name} is tick {tick}, which is not in the recording"
        ));
    }
    scope.settings.armed = Some(Armed::Seek(tick));
    Ok(format!(
        "to {name}, tick {tick} ({}): type `continue` to go there",
        share(&*scope.debuggee, tick)
    ))
}
