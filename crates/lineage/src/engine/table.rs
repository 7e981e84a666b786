//! The CSV files of a data folder, read strictly: an engine computes nothing from what it had to guess.

use std::path::{Path, PathBuf};

use super::money::Money;
use super::{EngineError, Input, is_date};
use crate::source::{Encoding, Reading, Source, SourceType};
use crate::{Column, OpenError, Row, SourceFile, hash_file};

/// Rows of a file that are held by an engine: accounts of a month, some 300 bytes each.
const ROWS_MAX: u64 = 5_000_000;

/// A file of the data folder, opened.
pub(super) fn open(data: &Path, name: &str) -> Result<SourceFile, EngineError> {
    let path = data.join(name);
    let absolute = path
        .canonicalize()
        .map_err(|error| EngineError::data(&path, OpenError::from(error)))?;
    // The folder may be reached through links; the file itself may be none, so that its hash is of what is named.
    SourceFile::open(&path).map_err(|error| EngineError::data(&path, error))?;
    SourceFile::open(&absolute).map_err(|error| EngineError::data(&path, error))
}

/// What is said of a file in an artifact: its name in the folder, so that the bytes do not depend on where that is.
pub(super) fn input(file: &SourceFile, name: &str) -> Result<Input, EngineError> {
    Ok(Input {
        file: name.to_owned(),
        sha256: hash_file(file, &mut |_| {}).map_err(|error| EngineError::data(file.path(), error))?,
    })
}

/// A row's cells, by the order of the columns asked for; the last ones may be absent.
pub(super) struct Cells<'a> {
    row: &'a Row<'a>,
    columns: &'a [Option<Column>],
    path: &'a Path,
    number: u64,
}

impl Cells<'_> {
    /// What is wrong with a cell, with its row.
    pub(super) fn error(&self, column: usize, reason: &str) -> EngineError {
        let name = self
            .columns
            .get(column)
            .and_then(Option::as_ref)
            .map_or("", |column| column.name.as_str());
        EngineError::data(self.path, format!("row {}, {name}: {reason}", self.number + 1))
    }

    /// The text of a cell; empty where the file has no such column or the row is short.
    pub(super) fn text(&self, column: usize) -> Result<String, EngineError> {
        let Some(Some(known)) = self.columns.get(column) else {
            return Ok(String::new());
        };
        let bytes = self.row.part(known).unwrap_or_default();
        String::from_utf8(bytes.into_owned()).map_err(|_| self.error(column, "is not UTF-8"))
    }

    /// The same, where it may not be empty.
    pub(super) fn filled(&self, column: usize) -> Result<String, EngineError> {
        let text = self.text(column)?;
        if text.is_empty() {
            return Err(self.error(column, "is empty"));
        }
        Ok(text)
    }

    /// A month, a day or a time: [`is_date`].
    pub(super) fn date(&self, column: usize) -> Result<String, EngineError> {
        let text = self.filled(column)?;
        if !is_date(&text) {
            let reason = format!("{:?} is no date: YYYY-MM or YYYY-MM-DD", crate::shown(&text));
            return Err(self.error(column, &reason));
        }
        Ok(text)
    }

    /// An amount.
    pub(super) fn money(&self, column: usize) -> Result<Money, EngineError> {
        Money::parse(&self.text(column)?).map_err(|reason| self.error(column, &reason))
    }
}

/// Calls `each` with every row. Of `columns`, those written `name?` may be absent; `a/b` is the first of them that is
/// there.
pub(super) fn each_row(
    file: &SourceFile,
    columns: &[&str],
    mut each: impl FnMut(&Cells<'_>) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let wrong = |reason: &dyn std::fmt::Display| EngineError::data(file.path(), reason);
    let mut progress = |_| {};
    let mut reading = Reading {
        encoding: Encoding::Utf8,
        delimiter: b',',
        hashed: false,
        progress: &mut progress,
    };
    let source = Source::open(file, SourceType::Csv, &reading).map_err(|error| wrong(&error))?;
    let mut key: Vec<Option<Column>> = Vec::with_capacity(columns.len());
    for wanted in columns {
        let names = wanted.trim_end_matches('?');
        let found = names.split('/').find(|name| {
            source
                .columns()
                .unwrap_or_default()
                .iter()
                .any(|known| known == name)
        });
        let column = match (found, wanted.ends_with('?')) {
            (None, true) => None,
            (name, _) => {
                let name = name.unwrap_or(names).to_owned();
                source.key(&[name]).map_err(|error| wrong(&error))?.pop()
            }
        };
        key.push(column);
    }
    let mut failed = None;
    let read = source.each(&mut reading, &mut |number, row| {
        let cells = Cells {
            row,
            columns: &key,
            path: file.path(),
            number,
        };
        let result = if number == ROWS_MAX {
            Err(EngineError::data(file.path(), "it has more than 5,000,000 rows"))
        } else {
            each(&cells)
        };
        match result {
            Ok(()) => Ok(true),
            Err(error) => {
                failed = Some(error);
                Ok(false)
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    match read.map_err(|error| wrong(&error))?.remarks.kept.first() {
        Some(remark) => Err(wrong(remark)),
        None => Ok(()),
    }
}

/// The trial balance of a period: with a dash in its name, or an underscore.
pub(super) fn trial_balance(data: &Path, period: &str) -> Result<(SourceFile, String), EngineError> {
    let name = format!("trial_balance_{period}.csv");
    let other = format!("trial_balance_{}.csv", period.replace('-', "_"));
    if !data.join(&name).exists() && data.join(&other).exists() {
        return Ok((open(data, &other)?, other));
    }
    Ok((open(data, &name)?, name))
}

/// Where a file is, for the log.
pub(super) fn place(file: &SourceFile) -> PathBuf {
    file.path().to_owned()
}
