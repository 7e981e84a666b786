//! A log read once: the last deterministic record of each function, the last evidence of each id, and what is broken.
//!
//! Lists of row ids are not kept: where a line stands is, and [`Evidence::load`] reads the one that is asked for.

use std::collections::HashMap;
use std::io;

use serde::Deserialize;

use crate::line::{Field, LineType, Numbered};
use crate::lines::Lines;
use crate::{SourceFile, shown};

/// Malformed lines that are named; all are counted.
const MALFORMED_KEPT: usize = 1_000;

/// Evidence ids of one log: some 150 bytes each are held, 1.5 GB at the most.
const EVIDENCE_IDS_MAX: usize = 10_000_000;

/// Functions of one log; a close has some twenty.
const FUNCTIONS_MAX: usize = 100_000;

/// Lines between two reports of progress.
const PROGRESS_LINES: u64 = 4_096;

/// Of what kind `input_row_ids` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowIds {
    /// There are none.
    #[default]
    Absent,
    /// `null`.
    Null,
    /// `[]`.
    Empty,
    /// So many texts, none of them empty.
    Texts(u64),
    /// Texts, one of them empty.
    EmptyText,
    /// A list with something that is no text.
    NotTexts,
    /// No list.
    NoList,
}

impl RowIds {
    /// In words.
    pub fn describe(self) -> String {
        match self {
            Self::Absent => "are absent".to_owned(),
            Self::Null => "are null".to_owned(),
            Self::Empty => "are an empty list".to_owned(),
            Self::Texts(count) => format!("are {count} texts"),
            Self::EmptyText => "hold an empty text".to_owned(),
            Self::NotTexts => "hold something that is no text".to_owned(),
            Self::NoList => "are no list".to_owned(),
        }
    }
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be read.
    #[error("cannot read the audit log: {0}")]
    Io(#[from] io::Error),
    /// Somebody writes it.
    #[error("the audit log changed while it was read: try again")]
    Changed,
    /// More than can be held.
    #[error("the audit log names more than {0}")]
    TooMany(&'static str),
}

/// The last evidence of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvidenceSeen {
    /// Its line.
    pub line: u64,
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: usize,
    /// How often the id was written.
    pub count: u64,
    /// Of what kind its ids are.
    pub rows: RowIds,
    /// Evidence lines before it that are gone.
    gone_before: u64,
}

/// The last deterministic record of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeterministicSeen {
    /// Which.
    pub function: String,
    /// Its line.
    pub line: u64,
    /// How often the function was written.
    pub count: u64,
    /// What it read.
    pub evidence_id: Option<String>,
    /// SHA-256 of the artifact, hex.
    pub output_hash: Option<String>,
    /// What it wrote.
    pub artifact: Option<String>,
    /// Deterministic lines before it that are gone.
    gone_before: u64,
}

/// Lines of one type that stand in the log for what is gone: nobody can tell any more of which function or id each was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoneLines {
    /// All of them.
    pub count: u64,
    /// Those that were erased; the others are archived or missing.
    pub erased: u64,
}

impl GoneLines {
    fn take(&mut self, erased: bool) {
        self.count += 1;
        self.erased += u64::from(erased);
    }

    /// What is said of `what` (deterministic, evidence) when those behind the line that counts may be of the same `name`;
    /// none: nothing is gone behind it.
    fn later(self, before: u64, what: &str, name: &str) -> Option<String> {
        let later = self.count.saturating_sub(before);
        let how = if self.erased == self.count {
            "erased"
        } else {
            "erased, archived or missing"
        };
        (later > 0).then(|| newest_may_be_gone(&later.to_string(), what, how, name))
    }
}

/// What is said where `later` records of a type are gone behind the one that is used: that one may not be the newest.
pub fn newest_may_be_gone(later: &str, what: &str, how: &str, name: &str) -> String {
    let which = if what == "evidence" { "ids" } else { "functions" };
    format!(
        "{later} later {what} records are {how}, of which {which} nobody knows any more: the newest of {} may be among them",
        shown(name)
    )
}

/// What a log holds.
#[derive(Debug, Default)]
pub struct Index {
    /// Lines that are not blank.
    pub lines: u64,
    /// Functions, in the order of their first record.
    pub functions: Vec<DeterministicSeen>,
    places: HashMap<String, usize>,
    evidence: HashMap<Box<str>, EvidenceSeen>,
    /// The first malformed lines.
    pub malformed: Vec<Numbered>,
    /// How many there are.
    pub malformed_count: u64,
    /// Lines of unknown types.
    pub other: u64,
    /// Lines of functions that are gone.
    pub gone_deterministic: GoneLines,
    /// Lines of evidence that are gone.
    pub gone_evidence: GoneLines,
    /// Lines of models that are gone.
    pub gone_other: u64,
}

impl Index {
    /// The last deterministic record of a function.
    pub fn function(&self, name: &str) -> Option<&DeterministicSeen> {
        self.functions.get(*self.places.get(name)?)
    }

    /// The last evidence of an id.
    pub fn evidence(&self, id: &str) -> Option<&EvidenceSeen> {
        self.evidence.get(id)
    }

    /// What is to be said where a later record of a function may be gone, also when none of it is left.
    pub fn gone_behind_function(&self, name: &str) -> Option<String> {
        let before = self.function(name).map_or(0, |seen| seen.gone_before);
        self.gone_deterministic.later(before, "deterministic", name)
    }

    /// The same of evidence.
    pub fn gone_behind_evidence(&self, id: &str) -> Option<String> {
        let before = self.evidence(id).map_or(0, |seen| seen.gone_before);
        self.gone_evidence.later(before, "evidence", id)
    }

    fn take(&mut self, line: u64, at: (u64, usize), read: LineType<'_>) -> Result<(), LogError> {
        match read {
            LineType::Evidence { id, rows } => {
                let seen = EvidenceSeen {
                    line,
                    offset: at.0,
                    bytes: at.1,
                    count: 1,
                    rows,
                    gone_before: self.gone_evidence.count,
                };
                if let Some(known) = self.evidence.get_mut(&*id) {
                    *known = EvidenceSeen {
                        count: known.count + 1,
                        ..seen
                    };
                } else if self.evidence.len() == EVIDENCE_IDS_MAX {
                    return Err(LogError::TooMany("10,000,000 evidence ids"));
                } else {
                    self.evidence.insert(id.into(), seen);
                }
            }
            LineType::Deterministic {
                function,
                evidence_id,
                output_hash,
                artifact,
            } => {
                let place = self.places.get(&*function).copied();
                let seen = DeterministicSeen {
                    function: function.into_owned(),
                    line,
                    count: 1,
                    evidence_id: evidence_id.map(Into::into),
                    output_hash: output_hash.map(Into::into),
                    artifact: artifact.map(Into::into),
                    gone_before: self.gone_deterministic.count,
                };
                let many = self.functions.len();
                if let Some(known) = place.and_then(|place| self.functions.get_mut(place)) {
                    let count = known.count + 1;
                    *known = DeterministicSeen { count, ..seen };
                } else if many == FUNCTIONS_MAX {
                    return Err(LogError::TooMany("100,000 functions"));
                } else {
                    self.places.insert(seen.function.clone(), many);
                    self.functions.push(seen);
                }
            }
            LineType::AiOutput | LineType::AiMetrics => {}
            LineType::Gone { line_type, erased } => match &*line_type {
                "deterministic" => self.gone_deterministic.take(erased),
                "evidence" => self.gone_evidence.take(erased),
                _ => self.gone_other += 1,
            },
            LineType::Other(_) => self.other += 1,
        }
        Ok(())
    }
}

/// Reads a log once.
///
/// # Errors
/// [`LogError`]; a malformed line is none.
pub fn scan(file: &SourceFile, progress: &mut dyn FnMut(u64)) -> Result<Index, LogError> {
    let mut lines = Lines::new(file.rewound()?);
    let mut index = Index::default();
    while let Some(line) = lines.next_line()? {
        index.lines += 1;
        let read = if line.too_long {
            Err("is longer than 64 MiB".to_owned())
        } else {
            LineType::read(line.text)
        };
        match read {
            Ok(read) => index.take(line.number, (line.offset, line.text.len()), read)?,
            Err(reason) => {
                index.malformed_count += 1;
                if index.malformed.len() < MALFORMED_KEPT {
                    index.malformed.push(Numbered {
                        number: line.number,
                        reason: shown(&reason),
                    });
                }
            }
        }
        if index.lines.is_multiple_of(PROGRESS_LINES) {
            progress(lines.offset());
        }
    }
    if !file.is_unchanged() {
        return Err(LogError::Changed);
    }
    Ok(index)
}

/// An evidence line with its ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// `ev-…`.
    pub id: String,
    /// csv, json, jsonl, parquet.
    pub evidence_type: Option<String>,
    /// Where the file was.
    pub uri: Option<String>,
    /// Which of its rows.
    pub input_row_ids: Vec<String>,
    /// The columns that make an id.
    pub key_columns: Option<Vec<String>>,
    /// SHA-256 of the file when it was read, hex.
    pub hash: Option<String>,
}

#[derive(Deserialize)]
struct EvidenceLine<'a> {
    id: String,
    #[serde(borrow, default)]
    evidence_type: Field<'a>,
    #[serde(borrow, default)]
    uri: Field<'a>,
    #[serde(default)]
    input_row_ids: Option<Vec<String>>,
    #[serde(default)]
    key_columns: Option<Vec<String>>,
    #[serde(borrow, default)]
    hash: Field<'a>,
}

/// The fields without the ids.
#[derive(Deserialize)]
struct EvidenceFields<'a> {
    #[serde(borrow, default)]
    uri: Field<'a>,
    #[serde(borrow, default)]
    hash: Field<'a>,
}

impl Evidence {
    /// Reads an evidence line again, its ids included.
    ///
    /// # Errors
    /// It is not there any more, or says something of a wrong type.
    pub fn load(file: &SourceFile, seen: &EvidenceSeen) -> io::Result<Self> {
        let text = file.part(seen.offset, seen.bytes)?;
        Self::read(&text)
    }

    /// Reads an evidence line.
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &[u8]) -> io::Result<Self> {
        let line: EvidenceLine<'_> = serde_json::from_slice(text).map_err(io::Error::other)?;
        let text = |field: Field<'_>| field.text().map(str::to_owned);
        Ok(Self {
            id: line.id,
            evidence_type: text(line.evidence_type),
            uri: text(line.uri),
            input_row_ids: line.input_row_ids.unwrap_or_default(),
            key_columns: line.key_columns,
            hash: text(line.hash),
        })
    }

    /// Where the file was, and its hash then; the ids may be anything.
    pub(crate) fn source(
        file: &SourceFile,
        seen: &EvidenceSeen,
    ) -> io::Result<(Option<String>, Option<String>)> {
        let text = file.part(seen.offset, seen.bytes)?;
        let line: EvidenceFields<'_> = serde_json::from_slice(&text).map_err(io::Error::other)?;
        let text = |field: Field<'_>| field.text().map(str::to_owned);
        Ok((text(line.uri), text(line.hash)))
    }
}
