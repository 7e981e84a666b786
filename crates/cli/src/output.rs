//! Everything that is printed: answers on stdout, errors on stderr, one line each.
#![allow(clippy::print_stdout)] // this is where stdout is written

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use clap::ValueEnum;
use evidence::canonical::JsonError;
use serde::Serialize;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What was typed makes no sense: exit code 64.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Why stdout took no more: a key that is shown once, or a report, may be lost with it.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// Notes why a write failed; a reader that has gone (a closed pipe) has what it wanted.
fn noted<T>(written: io::Result<T>) -> io::Result<T> {
    if let Err(error) = &written
        && !matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted
        )
    {
        // Those after the first fail of the same.
        let _ = UNWRITTEN.set(error.to_string());
    }
    written
}

/// Why what was printed has not all been written, if it has not.
pub(crate) fn unwritten() -> Option<&'static str> {
    let _ = noted(io::stdout().lock().flush());
    UNWRITTEN.get().map(String::as_str)
}

/// Prints one line.
pub(crate) fn line(text: impl Display) {
    let _ = noted(writeln!(io::stdout().lock(), "{text}"));
}

/// Prints text as it is.
pub(crate) fn text(text: &str) {
    let _ = noted(io::stdout().lock().write_all(text.as_bytes()));
}

/// Stdout, whose failed writes are noted.
struct Stdout(io::StdoutLock<'static>);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        noted(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        noted(self.0.flush())
    }
}

/// Where rows are written that are too many for one text.
pub(crate) fn stdout() -> impl Write {
    io::BufWriter::with_capacity(128 * 1024, Stdout(io::stdout().lock()))
}

/// Prints an answer as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints an error and its causes on one line of stderr.
pub(crate) fn error(error: &anyhow::Error) {
    let text = format!("{error:#}").replace('\n', " ");
    let _ = writeln!(io::stderr().lock(), "deponent: {text}");
}

/// A file that is read, as it was typed.
pub(crate) fn input_name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "stdin".to_owned();
    }
    path.display().to_string()
}

/// What is wrong with a JSON text, and where in it.
pub(crate) fn in_text(error: &JsonError, text: &[u8]) -> String {
    let (line, column) = error.line_and_column(text);
    format!("line {line}, column {column}: {}", error.reason())
}

/// Prints a remark on stderr.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
