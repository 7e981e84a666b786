//! Printing rows: as CSV, as a JSON array of objects, as a table for people.
//!
//! Cells are handed on as they are. CSV and JSON are written while rows are found; a table, and JSON rows as CSV, need
//! all rows for their columns, and are held up to a bound.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use crate::row::json_text;
use crate::{Row, shown};

/// Rows that are held together.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a cell of a table takes at the least, empty ones included.
const CELL_BYTES: usize = 24;

/// Widest column of a table, in characters.
const TABLE_WIDTH_MAX: usize = 60;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// With a header.
    Csv,
    /// An array of objects.
    Json,
    /// For people.
    Table,
}

/// Prints rows.
pub struct RowWriter<W: Write> {
    format: RowFormat,
    columns: Option<Vec<String>>,
    /// The columns' names, no two the same.
    unique: Vec<String>,
    out: Out<W>,
    rows: u64,
    held: Vec<Vec<(String, Vec<u8>)>>,
    held_bytes: usize,
}

enum Out<W: Write> {
    Plain(W),
    Csv(Box<csv::Writer<W>>),
}

/// The names, of which the second `a` is `a (2)`.
fn unique(columns: &[String]) -> Vec<String> {
    let mut names: HashSet<String> = HashSet::with_capacity(columns.len());
    // Of each name, the number up to which it is taken: a thousand equal names are not tried a thousand times each.
    let mut taken: HashMap<&str, usize> = HashMap::new();
    let mut unique = Vec::with_capacity(columns.len());
    for column in columns {
        let mut name = column.clone();
        let count = taken.entry(column).or_insert(1);
        while names.contains(&name) {
            *count += 1;
            name = format!("{column} ({count})");
        }
        names.insert(name.clone());
        unique.push(name);
    }
    unique
}

fn no_text(place: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{place} is not UTF-8 and cannot be printed so; --encoding latin-1 reads it, --format csv prints its bytes"
        ),
    )
}

impl<W: Write> RowWriter<W> {
    /// For rows of a source with these columns, or without fixed ones.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(format: RowFormat, columns: Option<&[String]>, delimiter: u8, out: W) -> io::Result<Self> {
        let mut out = match format {
            RowFormat::Csv => Out::Csv(Box::new(
                csv::WriterBuilder::new()
                    .flexible(true)
                    .delimiter(delimiter)
                    .from_writer(out),
            )),
            RowFormat::Json | RowFormat::Table => Out::Plain(out),
        };
        if let (Out::Csv(out), Some(columns)) = (&mut out, columns) {
            out.write_record(columns).map_err(io_error)?;
        }
        let unique = columns.map(unique).unwrap_or_default();
        Ok(Self {
            format,
            columns: columns.map(<[String]>::to_vec),
            unique,
            out,
            rows: 0,
            held: Vec::new(),
            held_bytes: 0,
        })
    }

    /// Prints one row.
    ///
    /// # Errors
    /// It cannot be written, or not so.
    pub fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.rows += 1;
        match (&mut self.out, row) {
            (Out::Csv(out), Row::Csv(record)) => out.write_byte_record(record).map_err(io_error),
            (Out::Csv(out), Row::Cells(cells)) => {
                let cells = cells
                    .iter()
                    .map(|cell| cell.as_ref().map_or("", |cell| cell.text.as_str()));
                out.write_record(cells).map_err(io_error)
            }
            (Out::Plain(out), row) if self.format == RowFormat::Json => {
                out.write_all(if self.rows == 1 { b"[\n" } else { b",\n" })?;
                write_object(out, row, &self.unique, self.rows)
            }
            (_, row) => self.hold(row),
        }
    }

    fn hold(&mut self, row: &Row<'_>) -> io::Result<()> {
        let place = |index: usize| self.unique.get(index).cloned().unwrap_or_default();
        let cells: Vec<(String, Vec<u8>)> = match row {
            Row::Csv(record) => record
                .iter()
                .enumerate()
                .map(|(index, cell)| (place(index), cell.to_vec()))
                .collect(),
            Row::Cells(cells) => cells
                .iter()
                .enumerate()
                .map(|(index, cell)| {
                    let text = cell.as_ref().map_or("", |cell| cell.text.as_str());
                    (place(index), text.as_bytes().to_vec())
                })
                .collect(),
            Row::Json(row) => row
                .members
                .iter()
                .map(|(key, value)| {
                    let text = json_text(value).map_or_else(
                        || {
                            if value.get() == "null" {
                                String::new()
                            } else {
                                value.get().to_owned()
                            }
                        },
                        std::borrow::Cow::into_owned,
                    );
                    (key.clone().into_owned(), text.into_bytes())
                })
                .collect(),
        };
        self.held_bytes += cells
            .iter()
            .map(|(key, cell)| key.len() + cell.len() + 64)
            .sum::<usize>();
        if self.held_bytes > HELD_BYTES_MAX {
            return Err(too_many());
        }
        self.held.push(cells);
        Ok(())
    }

    /// The columns of all rows, each with its place.
    ///
    /// # Errors
    /// Rows that have little in common make a table that is mostly empty, and far larger than they are.
    fn held_columns(&self) -> io::Result<(Vec<String>, HashMap<String, usize>)> {
        let mut columns = Vec::new();
        let mut places = HashMap::new();
        let fixed = self.unique.iter().filter(|_| self.columns.is_some());
        for key in fixed.chain(self.held.iter().flatten().map(|(key, _)| key)) {
            if !places.contains_key(key) {
                places.insert(key.clone(), columns.len());
                columns.push(key.clone());
            }
        }
        if self.held.len().saturating_mul(columns.len()) > HELD_BYTES_MAX / CELL_BYTES {
            return Err(too_many());
        }
        Ok((columns, places))
    }

    /// Prints what was held, and the end.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        let (columns, places) = self.held_columns()?;
        match &mut self.out {
            Out::Csv(out) => {
                if self.columns.is_none() && !columns.is_empty() {
                    out.write_record(&columns).map_err(io_error)?;
                    for row in &self.held {
                        out.write_record(cells_of(row, &places)).map_err(io_error)?;
                    }
                }
                out.flush()
            }
            Out::Plain(out) if self.format == RowFormat::Json => {
                out.write_all(if self.rows == 0 { b"[]\n" } else { b"\n]\n" })?;
                out.flush()
            }
            Out::Plain(out) => {
                write_table(out, &columns, &places, &self.held)?;
                out.flush()
            }
        }
    }
}

/// A row's cells in the columns' order; of a name that is there twice the first.
fn cells_of<'a>(row: &'a [(String, Vec<u8>)], places: &HashMap<String, usize>) -> Vec<&'a [u8]> {
    let mut cells: Vec<&[u8]> = vec![&[]; places.len()];
    for (key, cell) in row.iter().rev() {
        if let Some(place) = places.get(key).and_then(|place| cells.get_mut(*place)) {
            *place = cell;
        }
    }
    cells
}

fn too_many() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the rows are too many to be held for this format; --format json prints them as they are found",
    )
}

fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

fn write_object(out: &mut impl Write, row: &Row<'_>, columns: &[String], number: u64) -> io::Result<()> {
    if let Row::Json(row) = row {
        return out.write_all(row.text.as_bytes());
    }
    out.write_all(b"{")?;
    let member = |out: &mut dyn Write, index: usize, value: &str| {
        let key = columns.get(index).map_or("", String::as_str);
        write!(
            out,
            "{}{}: {value}",
            if index == 0 { "" } else { ", " },
            serde_json::to_string(key)?
        )
    };
    match row {
        Row::Csv(record) => {
            for (index, cell) in record.iter().enumerate() {
                let text = std::str::from_utf8(cell)
                    .map_err(|_| no_text(&format!("a cell of matched row {number}")))?;
                member(out, index, &serde_json::to_string(text)?)?;
            }
        }
        Row::Cells(cells) => {
            for (index, cell) in cells.iter().enumerate() {
                match cell {
                    None => member(out, index, "null")?,
                    Some(cell) if cell.is_json => member(out, index, &cell.text)?,
                    Some(cell) => member(out, index, &serde_json::to_string(&cell.text)?)?,
                }
            }
        }
        Row::Json(_) => {}
    }
    out.write_all(b"}")
}

fn write_table(
    out: &mut impl Write,
    columns: &[String],
    places: &HashMap<String, usize>,
    rows: &[Vec<(String, Vec<u8>)>],
) -> io::Result<()> {
    let show = |cell: &[u8]| {
        let text = shown(&String::from_utf8_lossy(cell));
        if text.chars().count() <= TABLE_WIDTH_MAX {
            return text;
        }
        text.chars().take(TABLE_WIDTH_MAX - 1).chain(['…']).collect()
    };
    let head: Vec<&[u8]> = columns.iter().map(String::as_bytes).collect();
    // Cells are made twice, for their widths and for the line, instead of all being held.
    let mut widths: Vec<usize> = head.iter().map(|cell| show(cell).chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells_of(row, places)) {
            *width = (*width).max(show(cell).chars().count());
        }
    }
    let mut line = |cells: &[&[u8]]| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| {
            let cell = show(cell);
            format!("{cell}{}", " ".repeat(width.saturating_sub(cell.chars().count())))
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    line(&head)?;
    if !columns.is_empty() {
        let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        line(&rules.iter().map(String::as_bytes).collect::<Vec<_>>())?;
    }
    for row in rows {
        line(&cells_of(row, places))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::JsonRow;

    #[test]
    fn names_are_told_apart_in_one_pass() {
        let names = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|name| (*name).to_owned()).collect();
            unique(&given)
        };
        assert_eq!(names(&["a", "a", "b", "a"]), ["a", "a (2)", "b", "a (3)"]);
        assert_eq!(names(&["a (2)", "a", "a", "a"]), ["a (2)", "a", "a (3)", "a (4)"]);
        assert_eq!(names(&["a", "a", "a (2)"]), ["a", "a (2)", "a (2) (2)"]);
        // Tried one by one, the names of the widest file there may be took hours.
        let same = unique(&vec![String::new(); 16_384]);
        assert_eq!(same.last().map(String::as_str), Some(" (16384)"));
    }

    fn table(rows: &[String], format: RowFormat) -> io::Result<String> {
        let mut out = Vec::new();
        let mut writer = RowWriter::new(format, None, b',', &mut out)?;
        for row in rows {
            writer.row(&Row::Json(&JsonRow::read(row).unwrap()))?;
        }
        writer.finish()?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn rows_with_nothing_in_common_are_refused_before_they_are_a_table() {
        let rows: Vec<String> = (0..5_000).map(|n| format!("{{\"k{n}\":{n}}}")).collect();
        for format in [RowFormat::Table, RowFormat::Csv] {
            let error = table(&rows, format).unwrap_err();
            assert!(error.to_string().contains("too many"), "{error}");
            assert!(table(&rows[..500], format).unwrap().contains("k499"));
        }
    }

    #[test]
    fn a_table_has_the_first_of_two_members() {
        let rows = [
            "{\"a\":1,\"b\":\"xyz\",\"a\":2}".to_owned(),
            "{\"b\":null}".to_owned(),
        ];
        assert_eq!(
            table(&rows, RowFormat::Table).unwrap(),
            "a  b\n-  ---\n1  xyz\n\n"
        );
        assert_eq!(table(&rows, RowFormat::Csv).unwrap(), "a,b\n1,xyz\n,\n");
    }
}
