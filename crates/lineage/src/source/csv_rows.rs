//! CSV as RFC 4180 has it: a header, quotes, any line end. Cells are bytes and stay what they are.

use std::io::Read as _;

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::quotes::Quotes;
use super::{PROGRESS_ROWS, Read, Reading, SourceError, Visit, feed};
use crate::feed::{Counters, Feed};
use crate::{Row, SourceFile};

/// Most columns of a file.
const COLUMNS_MAX: usize = 16_384;

/// The bytes of a file on their way to the parser.
type Bytes = Quotes<Feed<std::fs::File>>;

fn reader(
    file: &SourceFile,
    reading: &Reading<'_>,
    counters: &Counters,
) -> Result<Reader<Bytes>, SourceError> {
    Ok(ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(reading.delimiter)
        .buffer_capacity(128 * 1024)
        .from_reader(Quotes::new(
            feed(file, reading.encoding, counters)?,
            reading.delimiter,
        )))
}

fn unreadable(error: csv::Error) -> SourceError {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        other => SourceError::Unreadable(format!("{other:?}")),
    }
}

/// The names in the header.
pub(super) fn columns(file: &SourceFile, reading: &Reading<'_>) -> Result<Vec<String>, SourceError> {
    let mut reader = reader(file, reading, &Counters::default())?;
    let mut header = ByteRecord::new();
    if !reader.read_byte_record(&mut header).map_err(unreadable)? {
        return Err(SourceError::Unreadable(
            "it is empty: it has no header".to_owned(),
        ));
    }
    if reader.get_ref().is_open_at_end() {
        return Err(SourceError::Unreadable(
            "its header has a quote that is never closed".to_owned(),
        ));
    }
    if header.len() > COLUMNS_MAX {
        return Err(SourceError::Unreadable(format!(
            "it has {} columns",
            header.len()
        )));
    }
    header
        .iter()
        .map(|name| {
            String::from_utf8(name.to_vec()).map_err(|_| {
                SourceError::Unreadable("its header is not UTF-8; --encoding latin-1 reads it".to_owned())
            })
        })
        .collect()
}

pub(super) fn each(
    file: &SourceFile,
    reading: &mut Reading<'_>,
    counters: &Counters,
    visit: Visit<'_>,
) -> Result<Read, SourceError> {
    let mut reader = reader(file, reading, counters)?;
    let mut record = ByteRecord::new();
    let mut read = Read::default();
    if !reader.read_byte_record(&mut record).map_err(unreadable)? {
        return Err(SourceError::Unreadable(
            "it is empty: it has no header".to_owned(),
        ));
    }
    let columns = record.len();
    while reader.read_byte_record(&mut record).map_err(unreadable)? {
        counters.row_ended();
        let line = record.position().map_or(0, csv::Position::line);
        if reader.get_ref().is_open_at_end() {
            read.remarks.bad(format!(
                "the row of line {line} has a quote that is never closed: neither it nor what follows is looked at"
            ));
        } else if record.len() > columns {
            // Which of the cells is which is not known.
            read.remarks.bad(format!(
                "line {line} has {} cells, the header has {columns}: not looked at",
                record.len()
            ));
        } else if !visit(read.rows, &Row::Csv(&record)).map_err(SourceError::Visit)? {
            drain(reader)?;
            return Ok(read);
        }
        read.rows += 1;
        if read.rows.is_multiple_of(PROGRESS_ROWS) {
            (reading.progress)(counters.read.get());
        }
    }
    Ok(read)
}

/// The rest is read for the hash alone, if there is one.
fn drain(reader: Reader<Bytes>) -> Result<(), SourceError> {
    let mut rest = reader.into_inner().into_inner();
    let mut chunk = vec![0; 64 * 1024];
    rest.unbounded();
    while rest.read(&mut chunk)? > 0 {}
    Ok(())
}
