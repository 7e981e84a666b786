//! Printing rows: as CSV, as a JSON array of objects, as a table for people.
//!
//! Cells are handed on as they are. CSV and JSON are written while rows are found; a table, and JSON rows as CSV, need
//! all rows for their columns, and are held up to a bound.

use std::io::{self, Write};

use crate::row::json_text;
use crate::{Row, shown};

/// Rows that are held together.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

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

fn unique(columns: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(columns.len());
    for column in columns {
        let mut name = column.clone();
        let mut count = 1;
        while names.contains(&name) {
            count += 1;
            name = format!("{column} ({count})");
        }
        names.push(name);
    }
    names
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
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the rows are too many to be held for this format; --format json prints them as they are found",
            ));
        }
        self.held.push(cells);
        Ok(())
    }

    fn held_columns(&self) -> Vec<String> {
        if self.columns.is_some() {
            return self.unique.clone();
        }
        let mut columns: Vec<String> = Vec::new();
        for (key, _) in self.held.iter().flatten() {
            if !columns.contains(key) {
                columns.push(key.clone());
            }
        }
        columns
    }

    /// Prints what was held, and the end.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        let columns = self.held_columns();
        match &mut self.out {
            Out::Csv(out) => {
                if self.columns.is_none() && !columns.is_empty() {
                    out.write_record(&columns).map_err(io_error)?;
                    for row in &self.held {
                        out.write_record(columns.iter().map(|column| cell_of(row, column)))
                            .map_err(io_error)?;
                    }
                }
                out.flush()
            }
            Out::Plain(out) if self.format == RowFormat::Json => {
                out.write_all(if self.rows == 0 { b"[]\n" } else { b"\n]\n" })?;
                out.flush()
            }
            Out::Plain(out) => {
                write_table(out, &columns, &self.held)?;
                out.flush()
            }
        }
    }
}

fn cell_of<'a>(row: &'a [(String, Vec<u8>)], column: &str) -> &'a [u8] {
    row.iter()
        .find(|(key, _)| key == column)
        .map_or(&[], |(_, cell)| cell)
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

fn write_table(out: &mut impl Write, columns: &[String], rows: &[Vec<(String, Vec<u8>)>]) -> io::Result<()> {
    let show = |cell: &[u8]| {
        let text = shown(&String::from_utf8_lossy(cell));
        if text.chars().count() <= TABLE_WIDTH_MAX {
            return text;
        }
        text.chars().take(TABLE_WIDTH_MAX - 1).chain(['…']).collect()
    };
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|column| show(column.as_bytes())).collect()];
    lines.extend(
        rows.iter()
            .map(|row| columns.iter().map(|column| show(cell_of(row, column))).collect()),
    );
    let widths: Vec<usize> = (0..columns.len())
        .map(|place| {
            lines
                .iter()
                .filter_map(|line| line.get(place))
                .map(|cell| cell.chars().count())
                .max()
        })
        .map(Option::unwrap_or_default)
        .collect();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
        if number == 0 && !columns.is_empty() {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            writeln!(out, "{}", rules.join("  "))?;
        }
    }
    Ok(())
}
