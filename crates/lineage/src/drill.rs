//! From the ids that evidence cites to the rows of its file.
//!
//! Ids are compared as bytes, exactly: no case is folded, no space trimmed, no word read as missing. Every row that an
//! id names is found, in the order of the file; ids that name none are told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::Path;

use crate::index::Evidence;
use crate::key::{self, Found, known_key};
use crate::source::{Reading, Remarks, Source, SourceError, SourceType};
use crate::{Row, shown};

/// Ids with which a `|` inside a value is looked for: a megabyte.
const AMBIGUOUS_KEPT: usize = 10_000;

/// Such ids that are noted, each once.
const NOTES_MAX: usize = 100;

/// Why rows cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The file.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Nobody knows which columns make an id; with what was remarked where they were looked for.
    #[error("{}; --key COL[,COL] says which make one", no_columns(.0))]
    NoKey(Remarks),
    /// Of what type the file is.
    #[error("nothing says whether it is csv, json, jsonl or parquet")]
    NoType,
}

/// That no columns hold the ids, or that nobody could tell.
fn no_columns(remarks: &Remarks) -> String {
    match remarks.bad_rows {
        0 => "no columns of it hold the ids".to_owned(),
        bad => format!(
            "could not tell which columns hold the ids: none of the rows that could be read, and {bad} could not"
        ),
    }
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
    let (found, remarks) = key::find(source, &evidence.input_row_ids, reading)?;
    found.map(Key::Found).ok_or(DrillError::NoKey(remarks))
}

struct Cited<'a> {
    places: HashMap<&'a [u8], usize>,
    ids: Vec<&'a str>,
    rows: Vec<u64>,
    shapes: HashMap<usize, Shape>,
    /// Ids with bars that were not kept, as there were too many.
    unlooked: bool,
    notes: Vec<String>,
    /// Those beyond [`NOTES_MAX`].
    more: u64,
}

/// How an id was made of a row's values.
struct Shape {
    /// Where its parts ended in the first row that it named.
    parts: Vec<usize>,
    noted: bool,
}

impl<'a> Cited<'a> {
    fn new(ids: &'a [String]) -> Self {
        let mut cited = Self {
            places: HashMap::with_capacity(ids.len()),
            ids: Vec::with_capacity(ids.len()),
            rows: Vec::new(),
            shapes: HashMap::new(),
            unlooked: false,
            notes: Vec::new(),
            more: 0,
        };
        for id in ids {
            let next = cited.ids.len();
            if let Entry::Vacant(entry) = cited.places.entry(id.as_bytes()) {
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
        if bars < key.len() {
            return;
        }
        let room = self.shapes.len() < AMBIGUOUS_KEPT;
        let parts = || {
            let parts = key.iter().filter_map(|column| Some(row.part(column)?.len()));
            parts.collect::<Vec<usize>>()
        };
        match self.shapes.entry(place) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                if known.noted || known.parts == parts() {
                    return;
                }
                known.noted = true;
                if self.notes.len() == NOTES_MAX {
                    self.more += 1;
                    return;
                }
                let names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
                self.notes.push(format!(
                    "id {:?} names rows whose {} differ: there is a | inside a value",
                    shown(id),
                    shown(&names.join(", "))
                ));
            }
            Entry::Vacant(free) if room => {
                free.insert(Shape {
                    parts: parts(),
                    noted: false,
                });
            }
            Entry::Vacant(_) => self.unlooked = true,
        }
    }

    /// What was noted, and what was not looked at.
    fn into_notes(mut self) -> Vec<String> {
        if self.more > 0 {
            self.notes.push(format!("{} more such ids", self.more));
        }
        if self.unlooked {
            self.notes.push(format!(
                "more than {AMBIGUOUS_KEPT} ids have a | inside a value: of the others it was not asked whether their rows differ"
            ));
        }
        self.notes
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
    drilled.notes = cited.into_notes();
    Ok(drilled)
}
