//! Parquet: values become texts as ids have them. What a file asks for is looked at before it is given
//! ([`super::pages`]).

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::basic::Compression;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;

use super::footer;
use super::pages::{Packing, RowGroup};
use super::{PROGRESS_ROWS, Read, Reading, SourceError, Visit};
use crate::row::Cell;
use crate::{Row, SourceFile, hash_file};

/// Values of a column that are held at once.
const BATCH_ROWS: usize = 64;

/// Largest footer: some 100,000 column chunks.
const FOOTER_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Longest decimal: four times the longest that is in use.
const DECIMAL_BYTES_MAX: usize = 128;

/// Most digits of one.
const DECIMAL_DIGITS_MAX: i32 = 320;

/// Most columns.
const COLUMNS_MAX: usize = 16_384;

type Reader = SerializedFileReader<std::fs::File>;

/// Runs the reader of another project over a file of another's making: what it takes badly is this file's fault.
fn guarded<T>(work: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(SourceError::Unreadable(
            "it is damaged: the Parquet reader gave up".to_owned(),
        ))
    })
}

fn unreadable(error: impl std::fmt::Display) -> SourceError {
    SourceError::Unreadable(format!("it cannot be read as Parquet: {error}"))
}

fn open(file: &SourceFile) -> Result<Reader, SourceError> {
    let end = file
        .bytes()
        .checked_sub(8)
        .ok_or_else(|| unreadable("it is too short"))?;
    let tail = file.part(end, 8)?;
    let length = tail.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    if u64::from(length) > FOOTER_BYTES_MAX {
        return Err(unreadable(format!(
            "its footer would have {length} bytes: refused"
        )));
    }
    let start = end
        .checked_sub(u64::from(length))
        .ok_or_else(|| unreadable("its footer would be longer than it"))?;
    let bytes = file.part(start, usize::try_from(length).unwrap_or(0))?;
    footer::look(&bytes).map_err(unreadable)?;
    drop(bytes);
    let reader = SerializedFileReader::new(file.rewound()?).map_err(unreadable)?;
    if reader.metadata().file_metadata().schema_descr().num_columns() > COLUMNS_MAX {
        return Err(unreadable("it has too many columns"));
    }
    Ok(reader)
}

/// The names of the outermost fields.
pub(super) fn columns(file: &SourceFile) -> Result<Vec<String>, SourceError> {
    guarded(|| {
        let reader = open(file)?;
        let schema = reader.metadata().file_metadata().schema();
        Ok(schema
            .get_fields()
            .iter()
            .map(|field| field.name().to_owned())
            .collect())
    })
}

fn look_at_pages(file: &SourceFile, reader: &Reader) -> Result<(), SourceError> {
    for group in reader.metadata().row_groups() {
        let mut held = RowGroup::default();
        for column in group.columns() {
            let described = column.column_descr();
            // One row may hold millions of values, each of them as long as the longest of the dictionary.
            if described.max_rep_level() > 0 {
                return Err(unreadable(format!(
                    "its column {:?} holds lists, which are not read",
                    crate::shown(&described.path().string())
                )));
            }
            if described.type_precision() > DECIMAL_DIGITS_MAX {
                return Err(unreadable("it has decimals of too many digits"));
            }
            let packing = match column.compression() {
                Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) => Packing::Bounded,
                Compression::GZIP(_) => Packing::Gzip,
                other => {
                    return Err(unreadable(format!(
                        "it is packed with {other}; snappy, zstd and gzip are read"
                    )));
                }
            };
            held.column(file, column.byte_range(), packing)
                .map_err(unreadable)?;
        }
    }
    Ok(())
}

pub(super) fn each(
    file: &SourceFile,
    reading: &mut Reading<'_>,
    visit: Visit<'_>,
) -> Result<Read, SourceError> {
    let hash = if reading.hashed {
        Some(hash_file(file, &mut |_| {})?)
    } else {
        None
    };
    guarded(|| {
        let reader = open(file)?;
        look_at_pages(file, &reader)?;
        let all = u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
        let mut read = Read {
            hash,
            ..Read::default()
        };
        let rows = RowIter::from_file(None, &reader).map_err(unreadable)?;
        for row in rows.with_batch_size(BATCH_ROWS) {
            let row = row.map_err(unreadable)?;
            let fields = row.into_columns().into_iter();
            let cells: Result<Vec<Option<Cell>>, SourceError> = fields
                .map(|(_, field)| {
                    if has_long_decimal(&field) {
                        return Err(unreadable("it has decimals of too many digits"));
                    }
                    Ok(cell(field))
                })
                .collect();
            let cells = cells?;
            if !visit(read.rows, &Row::Cells(&cells)).map_err(SourceError::Visit)? {
                break;
            }
            read.rows += 1;
            if read.rows.is_multiple_of(PROGRESS_ROWS) {
                let done = u128::from(file.bytes()) * u128::from(read.rows) / u128::from(all.max(1));
                (reading.progress)(u64::try_from(done).unwrap_or(u64::MAX));
            }
        }
        Ok(read)
    })
}

/// The digits of a number are found by dividing it: twice as long takes four times the time.
fn has_long_decimal(field: &Field) -> bool {
    match field {
        Field::Decimal(decimal) => decimal.data().len() > DECIMAL_BYTES_MAX,
        Field::Group(row) => row.get_column_iter().any(|(_, field)| has_long_decimal(field)),
        _ => false,
    }
}

/// The text of a value as ids have it; `None` is null.
fn cell(field: Field) -> Option<Cell> {
    let json = |text: String| Cell { text, is_json: true };
    let text = |text: String| Cell { text, is_json: false };
    Some(match field {
        Field::Null => return None,
        Field::Str(value) => text(value),
        Field::Bytes(value) => match std::str::from_utf8(value.data()) {
            Ok(value) => text(value.to_owned()),
            Err(_) => text(hex(value.data())),
        },
        Field::Double(value) if value.is_finite() => json(format!("{value:?}")),
        Field::Float(value) if value.is_finite() => json(format!("{value:?}")),
        Field::Double(value) => text(value.to_string()),
        Field::Float(value) => text(value.to_string()),
        number @ (Field::Bool(_)
        | Field::Byte(_)
        | Field::Short(_)
        | Field::Int(_)
        | Field::Long(_)
        | Field::UByte(_)
        | Field::UShort(_)
        | Field::UInt(_)
        | Field::ULong(_)) => json(number.to_string()),
        other => text(other.to_string()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
