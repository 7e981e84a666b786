//! From the ids that evidence cites to the rows of its file.
//!
//! Ids are compared as bytes, exactly: no case is folded, no space trimmed, no word read as missing. Every row that an
//! id names is found, in the order of the file; ids that name none are told.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::index::Evidence;
use crate::key::{self, Found, known_key};
use crate::source::{Reading, Remarks, Source, SourceError, SourceType};
use crate::{Row, shown};

/// Ids with which a `|` inside a value is looked for; each is noted once.
const AMBIGUOUS_KEPT: usize = 100;

/// Why rows cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The file.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Nobody knows which columns make an id.
    #[error("no columns of it hold the ids; --key COL[,COL] says which make one")]
    NoKey,
    /// Of what type the file is.
    #[error("nothing says whether it is csv, json, jsonl or parquet")]
    NoType,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Drilled {
    /// Rows that ids name.
    pub matched: u64,
    /// Rows of the file.
    pub rows: u64,
    /// Different ids.
    pub ids: usize,
    /// Ids without a row, in the order of the evidence.
    pub unmatched: Vec<String>,
    /// What is to be said beside.
    pub notes: Vec<String>,
    /// What was remarked while reading.
    pub remarks: Remarks,
    /// The file is not the one that was read then.
    pub has_changed: bool,
    /// A reader of the output went away.
    pub broke_off: bool,
}

/// The columns of a key, and how they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Said with `--key`.
    Given(Vec<String>),
    /// Of the evidence.
    Recorded(Vec<String>),
    /// Of a known function.
    Known(Vec<String>),
    /// Found from the data.
    Found(Found),
}

impl Key {
    /// The columns.
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Given(columns) | Self::Recorded(columns) | Self::Known(columns) => columns,
            Self::Found(found) => &found.columns,
        }
    }
}

/// The type of a file: what the evidence says, else what its name ends with.
pub fn source_type(evidence: &Evidence, path: &Path) -> Result<SourceType, DrillError> {
    let named = path
        .extension()
        .and_then(|extension| SourceType::parse(extension.to_str()?));
    let said = evidence.evidence_type.as_deref().and_then(SourceType::parse);
    // A JSON Lines file is often called json; the name of the file knows better.
    match (said, named) {
        (Some(SourceType::Json), Some(SourceType::JsonLines)) => Ok(SourceType::JsonLines),
        (Some(known), _) | (None, Some(known)) => Ok(known),
        (None, None) => Err(DrillError::NoType),
    }
}

/// Which columns make the ids.
///
/// # Errors
/// [`DrillError`].
pub fn find_key(
    source: &Source<'_>,
    function: &str,
    evidence: &Evidence,
    given: Option<Vec<String>>,
    reading: &mut Reading<'_>,
) -> Result<Key, DrillError> {
    if let Some(columns) = given {
        return Ok(Key::Given(columns));
    }
    if let Some(columns) = evidence.key_columns.clone().filter(|columns| !columns.is_empty()) {
        return Ok(Key::Recorded(columns));
    }
    if let Some(columns) = known_key(function) {
        return Ok(Key::Known(
            columns.iter().map(|column| (*column).to_owned()).collect(),
        ));
    }
    key::find(source, &evidence.input_row_ids, reading)?
        .map(Key::Found)
        .ok_or(DrillError::NoKey)
}

struct Cited<'a> {
    places: HashMap<&'a [u8], usize>,
    ids: Vec<&'a str>,
    rows: Vec<u64>,
    /// Where the parts of an id ended in the first row that it named.
    shapes: HashMap<usize, Vec<usize>>,
    notes: Vec<String>,
}

impl<'a> Cited<'a> {
    fn new(ids: &'a [String]) -> Self {
        let mut cited = Self {
            places: HashMap::with_capacity(ids.len()),
            ids: Vec::with_capacity(ids.len()),
            rows: Vec::new(),
            shapes: HashMap::new(),
            notes: Vec::new(),
        };
        for id in ids {
            let next = cited.ids.len();
            if let std::collections::hash_map::Entry::Vacant(entry) = cited.places.entry(id.as_bytes()) {
                entry.insert(next);
                cited.ids.push(id);
            }
        }
        cited.rows = vec![0; cited.ids.len()];
        cited
    }

    /// A `|` inside a value makes rows with different values share an id: both are shown, and that it is so.
    fn look_at_shape(&mut self, place: usize, row: &Row<'_>, key: &[crate::Column]) {
        let Some(id) = self.ids.get(place) else { return };
        let bars = id.bytes().filter(|byte| *byte == b'|').count();
        if bars < key.len() || self.shapes.len() >= AMBIGUOUS_KEPT {
            return;
        }
        let shape: Vec<usize> = key
            .iter()
            .filter_map(|column| Some(row.part(column)?.len()))
            .collect();
        match self.shapes.get(&place) {
            None => {
                self.shapes.insert(place, shape);
            }
            Some(known) if *known != shape => {
                self.notes.push(format!(
                    "id {:?} names rows whose {} differ: there is a | inside a value",
                    shown(id),
                    key.iter()
                        .map(|column| column.name.as_str())
                        .collect::<Vec<_>>()
                        .join(", ")
                ));
            }
            Some(_) => {}
        }
    }
}

/// Finds the rows that evidence cites, and hands each on with its number, from 0.
///
/// # Errors
/// [`DrillError`].
pub fn drill(
    source: &Source<'_>,
    evidence: &Evidence,
    key: &Key,
    reading: &mut Reading<'_>,
    visit: &mut dyn FnMut(u64, &Row<'_>) -> io::Result<()>,
) -> Result<Drilled, DrillError> {
    let columns = source.key(key.columns())?;
    let mut cited = Cited::new(&evidence.input_row_ids);
    let mut drilled = Drilled {
        ids: cited.ids.len(),
        ..Drilled::default()
    };
    reading.hashed = evidence.hash.is_some();
    let mut id = Vec::new();
    let read = source.each(reading, &mut |number, row| {
        if !key::id_of(row, &columns, &mut id) {
            return Ok(true);
        }
        let Some(place) = cited.places.get(id.as_slice()).copied() else {
            return Ok(true);
        };
        if let Some(rows) = cited.rows.get_mut(place) {
            *rows += 1;
        }
        cited.look_at_shape(place, row, &columns);
        drilled.matched += 1;
        match visit(number, row) {
            Ok(()) => Ok(true),
            // Whoever read the rows has enough of them.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                drilled.broke_off = true;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    })?;
    drilled.rows = read.rows;
    drilled.remarks = read.remarks;
    drilled.notes = cited.notes;
    drilled.has_changed = match (&evidence.hash, &read.hash) {
        (Some(then), Some(now)) => !then.eq_ignore_ascii_case(now),
        _ => false,
    };
    if !drilled.broke_off {
        drilled.unmatched = cited
            .ids
            .iter()
            .zip(&cited.rows)
            .filter(|(_, rows)| **rows == 0)
            .map(|(id, _)| (*id).to_owned())
            .collect();
    }
    Ok(drilled)
}
