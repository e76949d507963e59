//! What is said to people: lines on standard error, results on standard output.

use std::io::{self, IsTerminal, Write};

use super::progress;

/// One line about what went wrong.
pub fn complain(message: &str) {
    note(&format!("error: {message}"));
}

/// One line about what is going on.
pub fn note(message: &str) {
    let line = format!("retrovisor: {}{}", one_line(message), line_end());
    // If standard error is gone there is nobody to tell.
    let _ = progress::AboveBars.write_all(line.as_bytes());
}

/// How a line on standard error ends: on a terminal that the console may have put into raw mode, a line feed alone
/// would leave the column as it is.
pub fn line_end() -> &'static str {
    if io::stderr().is_terminal() {
        "\r\n"
    } else {
        "\n"
    }
}

/// Results go to standard output, at once; what reads them may be a pipe.
pub fn result(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether an error is that nobody reads the output any more.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// An error with its causes, from the outermost; what a message already says of its cause is not said again.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// Messages are one line, whatever a file name has in it.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' => line.push_str("; "),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

/// A number with its thousands apart: 1 432 987 654.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A word as a shell takes it.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("disk full")
            .context("cannot write x: disk full")
            .context("recording");
        assert_eq!(chain(&error), "recording: cannot write x: disk full");
    }

    #[test]
    fn numbers_and_words() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_432_987), "1 432 987");
        assert_eq!(shell_word("a/b.rvr"), "a/b.rvr");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(one_line("a\nb\x1b[2J\n"), "a; b\\u{1b}[2J");
    }
}
