//! The rows of a file: CSV, JSON, JSON Lines, Parquet, one after the other, in bounded memory.
//!
//! What cannot be read as a row is remarked upon with its place and passed over; what makes the whole file unreadable
//! is an error. A file that changes while it is read is one.

mod csv_rows;
mod footer;
mod json_rows;
mod pages;
mod parquet_rows;
mod quotes;
mod thrift;

use std::io;

pub use crate::feed::Encoding;
use crate::feed::{Counters, Feed};
use crate::{Column, Row, SourceFile};

/// Remarks that are kept; all are counted.
const REMARKS_KEPT: usize = 100;

/// Rows between two reports of progress.
const PROGRESS_ROWS: u64 = 4_096;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// Comma-separated, with a header.
    Csv,
    /// An array of objects, also as `items` of an object.
    Json,
    /// An object a line.
    JsonLines,
    /// Parquet.
    Parquet,
}

impl SourceType {
    /// What evidence calls it, or what the name of a file ends with.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// The name that evidence has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::JsonLines => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

/// Why the rows of a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not what it should be, or not readable.
    #[error("{0}")]
    Unreadable(String),
    /// A column is not there.
    #[error("it has no column {missing}; it has {columns}")]
    NoColumn {
        /// Which.
        missing: String,
        /// Those it has.
        columns: String,
    },
    /// A column is there twice.
    #[error("it has the column {0} more than once")]
    ColumnTwice(String),
    /// Somebody writes it.
    #[error("it changed while it was read: what was printed may be of either state")]
    Changed,
    /// The rows cannot be handed on.
    #[error(transparent)]
    Visit(io::Error),
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// What was remarked while rows were read.
#[derive(Clone, Debug, Default)]
pub struct Remarks {
    /// The first of them.
    pub kept: Vec<String>,
    /// How many more.
    pub more: u64,
    /// Rows that could not be read as rows of this file.
    pub bad_rows: u64,
}

impl Remarks {
    fn bad(&mut self, text: String) {
        self.bad_rows += 1;
        self.note(text);
    }

    fn note(&mut self, text: String) {
        if self.kept.len() < REMARKS_KEPT {
            self.kept.push(text);
        } else {
            self.more += 1;
        }
    }
}

/// Options of one reading.
pub struct Reading<'a> {
    /// Of text files.
    pub encoding: Encoding,
    /// Of CSV files.
    pub delimiter: u8,
    /// Compute the hash as well.
    pub hashed: bool,
    /// Called with the bytes read so far.
    pub progress: &'a mut dyn FnMut(u64),
}

/// What one reading gave.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Rows of the file.
    pub rows: u64,
    /// What was remarked.
    pub remarks: Remarks,
    /// SHA-256 of its bytes, hex, if asked for.
    pub hash: Option<String>,
}

/// Called with each row and its number, from 0; `false`: no more.
pub type Visit<'a> = &'a mut dyn FnMut(u64, &Row<'_>) -> io::Result<bool>;

/// A file with rows.
#[derive(Debug)]
pub struct Source<'a> {
    file: &'a SourceFile,
    kind: SourceType,
    columns: Option<Vec<String>>,
}

impl<'a> Source<'a> {
    /// A file of that type. Its header is read.
    ///
    /// # Errors
    /// It is not of the type.
    pub fn open(
        file: &'a SourceFile,
        source_type: SourceType,
        reading: &Reading<'_>,
    ) -> Result<Self, SourceError> {
        let columns = match source_type {
            SourceType::Csv => Some(csv_rows::columns(file, reading)?),
            SourceType::Parquet => Some(parquet_rows::columns(file)?),
            SourceType::Json | SourceType::JsonLines => None,
        };
        Ok(Self {
            file,
            kind: source_type,
            columns,
        })
    }

    /// The columns, in their order; JSON has none.
    pub fn columns(&self) -> Option<&[String]> {
        self.columns.as_deref()
    }

    /// The file.
    pub fn file(&self) -> &SourceFile {
        self.file
    }

    /// Its type.
    pub fn source_type(&self) -> SourceType {
        self.kind
    }

    /// The columns of those names.
    ///
    /// # Errors
    /// One is not there, or there twice.
    pub fn key(&self, names: &[String]) -> Result<Vec<Column>, SourceError> {
        names
            .iter()
            .map(|name| {
                let Some(columns) = &self.columns else {
                    return Ok(Column {
                        name: name.clone(),
                        index: 0,
                    });
                };
                let mut places = columns.iter().enumerate().filter(|(_, column)| *column == name);
                let Some((index, _)) = places.next() else {
                    return Err(SourceError::NoColumn {
                        missing: name.clone(),
                        columns: self.describe_columns(),
                    });
                };
                if places.next().is_some() {
                    return Err(SourceError::ColumnTwice(name.clone()));
                }
                Ok(Column {
                    name: name.clone(),
                    index,
                })
            })
            .collect()
    }

    fn describe_columns(&self) -> String {
        const SHOWN: usize = 20;
        let columns = self.columns.as_deref().unwrap_or_default();
        let mut text = columns
            .iter()
            .take(SHOWN)
            .map(|column| format!("{:?}", crate::shown(column)))
            .collect::<Vec<_>>()
            .join(", ");
        if columns.len() > SHOWN {
            text.push_str(", …");
        }
        if let [only] = columns
            && only.contains(';')
        {
            text.push_str("; are its cells separated by ';'? --delimiter says so");
        }
        text
    }

    /// Reads all rows.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn each(&self, reading: &mut Reading<'_>, visit: Visit<'_>) -> Result<Read, SourceError> {
        let counters = Counters::new(reading.hashed);
        let mut read = match self.kind {
            SourceType::Csv => csv_rows::each(self.file, reading, &counters, visit)?,
            SourceType::Json => json_rows::array(self.file, reading, &counters, visit)?,
            SourceType::JsonLines => json_rows::lines(self.file, reading, &counters, visit)?,
            SourceType::Parquet => parquet_rows::each(self.file, reading, visit)?,
        };
        if read.hash.is_none() {
            read.hash = counters.hash();
        }
        if !self.file.is_unchanged() {
            return Err(SourceError::Changed);
        }
        Ok(read)
    }
}

fn feed(file: &SourceFile, encoding: Encoding, counters: &Counters) -> io::Result<Feed<std::fs::File>> {
    Ok(Feed::new(file.rewound()?, encoding, counters.clone()))
}
