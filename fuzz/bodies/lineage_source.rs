//! Files that an audit log cites: whatever they hold, rows come out in order and none is invented, what is printed
//! can be read again, and a reader ends.
//!
//! An input is three parts, each ended by a line feed but the last: the type of file (`csv`, `json`, `jsonl`,
//! `parquet`) and the key's columns, separated by commas; the ids, separated by tabs; the file.

use std::io;
use std::path::Path;

use lineage::drill::{DrillError, Drilled, drill, find_key};
use lineage::source::{Encoding, Reading, Source, SourceType};
use lineage::{Evidence, RowFormat, RowWriter, SourceFile};
use serde_json::value::RawValue;

/// Drills, and prints the rows.
fn drilled(
    path: &Path,
    kind: SourceType,
    evidence: &Evidence,
    key: Option<Vec<String>>,
    format: RowFormat,
) -> Result<(Drilled, Vec<u8>), DrillError> {
    let file = SourceFile::open(path).expect("it was just written");
    let mut progress = |_| {};
    let mut reading = Reading {
        encoding: Encoding::Utf8,
        delimiter: b',',
        hashed: false,
        progress: &mut progress,
    };
    let source = Source::open(&file, kind, &reading)?;
    let key = find_key(&source, "f", evidence, key, &mut reading)?;
    let mut out = Vec::new();
    let mut writer = RowWriter::new(format, source.columns(), b',', &mut out)
        .map_err(lineage::source::SourceError::Visit)?;
    let mut last = None;
    let drilled = drill(&source, evidence, &key, &mut reading, &mut |number, row| {
        assert!(last < Some(number), "rows come in the file's order");
        last = Some(number);
        writer.row(row)
    })?;
    writer.finish().map_err(lineage::source::SourceError::Visit)?;
    assert!(drilled.matched <= drilled.rows);
    assert!(drilled.unmatched.len() <= drilled.ids);
    let found = u64::try_from(drilled.ids - drilled.unmatched.len()).expect("ids are few");
    assert!(found <= drilled.matched, "an id that is found has a row");
    assert!(drilled.notes.len() <= 102);
    Ok((drilled, out))
}

pub(crate) fn run(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let (Some(head), Some(ids), Some(bytes)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    let (Ok(head), Ok(ids)) = (std::str::from_utf8(head), std::str::from_utf8(ids)) else {
        return;
    };
    let mut head = head.split(',');
    let Some(kind) = head.next().and_then(SourceType::parse) else {
        return;
    };
    let key: Vec<String> = head.map(str::to_owned).collect();
    let key = (!key.is_empty()).then_some(key);
    let evidence = Evidence {
        input_row_ids: ids.split('\t').map(str::to_owned).collect(),
        ..Evidence::default()
    };
    let folder = tempfile::tempdir().expect("a folder for the file");
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).expect("the file is written");
    for format in [RowFormat::Json, RowFormat::Csv, RowFormat::Table] {
        let Ok((first, out)) = drilled(&path, kind, &evidence, key.clone(), format) else {
            continue;
        };
        match format {
            RowFormat::Json => {
                let rows: Vec<Box<RawValue>> = serde_json::from_slice(&out).expect("an array is printed");
                assert_eq!(rows.len() as u64, first.matched);
            }
            // The rows alone, read as a file, are the same rows. A mark at the beginning is taken off each time.
            RowFormat::Csv
                if kind == SourceType::Csv && key.is_some() && !out.starts_with(b"\xef\xbb\xbf") =>
            {
                std::fs::write(&path, &out).expect("the file is written");
                let (again, same) =
                    drilled(&path, kind, &evidence, key.clone(), format).expect("it was read before");
                assert_eq!((again.matched, again.rows), (first.matched, first.matched));
                assert_eq!(same, out);
                std::fs::write(&path, bytes).expect("the file is written");
            }
            RowFormat::Csv | RowFormat::Table => {}
        }
    }
    // Nothing is asked for by way of an error either: a writer that fails ends the reading.
    let file = SourceFile::open(&path).expect("it was just written");
    let mut progress = |_| {};
    let mut reading = Reading {
        encoding: Encoding::Latin1,
        delimiter: b';',
        hashed: true,
        progress: &mut progress,
    };
    let Ok(source) = Source::open(&file, kind, &reading) else {
        return;
    };
    let mut seen = 0;
    let ended = source.each(&mut reading, &mut |_, _| {
        seen += 1;
        Err(io::Error::other("enough"))
    });
    assert!(seen <= 1 && (seen == 0 || ended.is_err()));
}
