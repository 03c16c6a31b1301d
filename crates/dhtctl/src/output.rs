//! How results look: tables for people, JSON for programs, raw for pipes.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use comfy_table::{CellAlignment, Table, TableStyle};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Duration;
use types::NodeId;

/// How results look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Words and tables for people.
    #[default]
    Table,
    /// One JSON value. Bytes that are not UTF-8 stand as `{"base64": "…"}`.
    Json,
    /// Only the result's bytes, with nothing added.
    Raw,
}

/// Writes to stdout. A reader that has gone, as with `| head`, is no error.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Unavailable, format!("cannot write the result: {error}; check where stdout goes")))
        }
        _ => Ok(()),
    }
}

/// Writes a line to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes())
}

/// Stdout for results that come one after another. A reader that has gone ends them, and is no error.
pub(crate) struct Lines {
    stdout: io::BufWriter<io::Stdout>,
}

impl Lines {
    /// Nothing written yet.
    pub(crate) fn new() -> Lines {
        Lines { stdout: io::BufWriter::with_capacity(64 << 10, io::stdout()) }
    }

    /// Writes a line; `false`: nobody reads any more.
    pub(crate) fn line(&mut self, text: &[u8]) -> Result<bool, Failure> {
        let written = self.stdout.write_all(text).and_then(|()| self.stdout.write_all(b"\n"));
        still_read(written)
    }

    /// Lets everything out; `false`: nobody reads any more.
    pub(crate) fn flush(&mut self) -> Result<bool, Failure> {
        still_read(self.stdout.flush())
    }
}

fn still_read(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Failure::new(Exit::Unavailable, format!("cannot write the result: {error}; check where stdout goes")))
        }
    }
}

/// A line for whoever sits in front, beside the result: a closed stderr is no error.
pub(crate) fn note(text: &str) {
    let _unread = writeln!(io::stderr(), "{text}");
}

/// Writes a JSON value to stdout, indented.
pub(crate) fn write_json(value: &Value) -> Result<(), Failure> {
    line(&format!("{value:#}"))
}

/// Bytes in JSON: text where they are UTF-8, marked where not.
pub(crate) fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    }
}

/// Bytes for people: text where it is printable, else base64 with a mark.
pub(crate) fn text_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) => text.to_owned(),
        _ => format!("base64:{}", BASE64_STANDARD.encode(bytes)),
    }
}

/// A table without rules: a header in small letters, columns two spaces apart, numbers to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).force_no_tty();
    table.set_header(header.iter().copied());
    table.add_rows(rows.iter().cloned());
    for (index, column) in table.column_iter_mut().enumerate() {
        let numbers = rows.iter().filter_map(|row| row.get(index)).all(|cell| is_number(cell));
        column.set_padding((2, 0));
        column.set_cell_alignment(if numbers && !rows.is_empty() { CellAlignment::Right } else { CellAlignment::Left });
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn is_number(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains(':') || cell == "–"
}

/// `1 partition`, `3 partitions`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `3.0 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).to_string()
}

/// `1m 12s`, `3s`; what is shorter than a second is `under 1s`.
pub(crate) fn rough(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return "under 1s".to_owned();
    }
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

/// `n1, n2`; nobody is `–`.
pub(crate) fn node_list(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    if names.is_empty() { "–".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against bytes that are mangled on their way through JSON.
    #[test]
    fn bytes_are_text_or_marked() {
        assert_eq!(json_bytes("wörld".as_bytes()), json!("wörld"));
        assert_eq!(json_bytes(b""), json!(""));
        assert_eq!(json_bytes(&[0xff, 0x00]), json!({ "base64": "/wA=" }));
        assert_eq!(text_bytes(b"two\nlines"), "two\nlines");
        assert_eq!(text_bytes(b"\x1b[2J"), "base64:G1sySg==", "no escape sequences on somebody's terminal");
    }

    /// Guards against columns that don't line up.
    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["n1".into(), "127.0.0.1:38000".into(), "9".into()], vec!["n12".into(), "h:1".into(), "170".into()]];
        assert_eq!(
            table(&["node", "address", "keys"], &rows),
            "  node  address          keys\n  n1    127.0.0.1:38000     9\n  n12   h:1               170"
        );
    }
}
