//! A run's audit log, given back from its records.
//!
//! Lines come in the order in which they were recorded, each as canonical JSON: what was imported is given back by its
//! value. A record whose body is gone has a line too, of a type of its own that readers of logs pass over, so that the
//! place and the reason are not lost. Pages are bounded, so that a log of any length is handed on piece by piece.
//!
//! Out of scope: files (`cli`) and HTTP (`server`).
//!
//! Source: SPEC 9.2; docs/lineage.md, "Back out of the ledger".

use std::ops::ControlFlow;

use evidence::canonical::{self, Limits, Value};
use evidence::record::{lineage_kind, lineage_line, lineage_type};
use evidence::{Kind, redact};
use serde::Serialize;
use store::{RunKey, Store};

use crate::{Body, Record, RecordError, records};

/// The type of a line that stands for a record whose body is gone.
pub const LINEAGE_GONE: &str = "deponent.gone";

/// Records of a run looked at for a page: a block under load, and two reads of a database.
const PAGE_RECORDS: u32 = 256;

/// Bytes of lines after which a page ends; with the longest line, 17 MiB.
const PAGE_BYTES: usize = 1024 * 1024;

/// What a line of ours is read with: it was a body, which is bounded, and has one member more.
const LIMITS: Limits = Limits {
    depth_max: canonical::DEPTH_CEILING,
    nodes_max: u32::MAX,
};

/// A piece of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// Whole lines, each with its end; none where the records looked at are no lines.
    pub lines: Vec<u8>,
    /// The record of the run at which the next page begins.
    pub next: u64,
}

/// What the lines of a log are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogTally {
    /// Lines of models' metrics.
    pub ai_metrics: u64,
    /// Lines of models' outputs.
    pub ai_output: u64,
    /// Lines that stand for a record whose body is in an archive.
    pub archived: u64,
    /// Lines of functions.
    pub deterministic: u64,
    /// Lines that stand for a record whose body is erased.
    pub erased: u64,
    /// Lines of evidence.
    pub evidence: u64,
    /// Lines that stand for a record whose body is not there, and nothing on record says why.
    pub missing: u64,
    /// Lines in which a marker stands where redaction took something out.
    pub redacted: u64,
}

/// The lines of a run from its record `from` on, of those before `until`.
///
/// # Errors
/// A record cannot be read.
pub fn log_page(store: &dyn Store, run: RunKey, from: u64, until: u64) -> Result<LogPage, RecordError> {
    let mut rows = store.run_records(run, from, PAGE_RECORDS)?;
    rows.retain(|row| row.run_seq < until);
    let Some(last) = rows.last() else {
        return Ok(LogPage {
            lines: Vec::new(),
            next: until,
        });
    };
    let mut page = LogPage {
        lines: Vec::new(),
        next: last.run_seq + 1,
    };
    rows.retain(|row| lineage_type(row.kind).is_some());
    let leaves: Vec<_> = rows.iter().map(|row| row.leaf).collect();
    let mut rows = rows.iter();
    records::each(store, &leaves, |record| {
        let row = rows.next();
        if let Some(line) = line_of(&record)? {
            page.lines.extend(line);
            page.lines.push(b'\n');
        }
        if page.lines.len() < PAGE_BYTES {
            return Ok(ControlFlow::Continue(()));
        }
        page.next = row.map_or(page.next, |row| row.run_seq + 1);
        Ok::<_, RecordError>(ControlFlow::Break(()))
    })?;
    Ok(page)
}

/// The line of a record; `None`: by its header it has none.
fn line_of(record: &Record) -> Result<Option<Vec<u8>>, RecordError> {
    let header = record.header()?;
    let Some(line_type) = lineage_type(header.kind) else {
        return Ok(None);
    };
    let gone = match &record.body {
        Body::There(body) => {
            let line = lineage_line(header.kind, body).map_err(|error| RecordError::Body {
                leaf: record.leaf.leaf_index(),
                reason: error.to_string(),
            })?;
            return Ok(Some(line));
        }
        Body::Gone(gone) => *gone,
    };
    let mut line = Value::object([
        ("line_type", Value::from(line_type)),
        ("record_id", Value::from(header.id.to_string())),
        ("ts", Value::from(header.occurred_at.to_string())),
        ("type", Value::from(LINEAGE_GONE)),
    ]);
    line.insert(gone.as_str(), true);
    Ok(Some(canonical::to_vec(&line)))
}

impl LogTally {
    /// Counts a line of [`log_page`].
    ///
    /// # Errors
    /// It is none, and why.
    pub fn count(&mut self, line: &[u8]) -> Result<(), String> {
        // Most lines have no marker, which costs less to see than to look for in each of their texts.
        let marked = std::str::from_utf8(line).is_ok_and(|text| text.contains(redact::MARKER));
        let line = canonical::parse(line, LIMITS).map_err(|error| error.to_string())?;
        let line_type = line
            .get("type")
            .and_then(Value::as_str)
            .ok_or("a line has no type")?;
        if line_type == LINEAGE_GONE {
            let is = |why: &str| line.get(why) == Some(&Value::Bool(true));
            let count = if is("erased") {
                &mut self.erased
            } else if is("archived") {
                &mut self.archived
            } else if is("missing") {
                &mut self.missing
            } else {
                return Err("a line of what is gone does not say how it went".to_owned());
            };
            *count += 1;
            return Ok(());
        }
        *match lineage_kind(line_type) {
            Some(Kind::LineageEvidence) => &mut self.evidence,
            Some(Kind::LineageDeterministic) => &mut self.deterministic,
            Some(Kind::LineageAiOutput) => &mut self.ai_output,
            Some(Kind::LineageAiMetrics) => &mut self.ai_metrics,
            _ => return Err(format!("{line_type:?} is no type of an audit log's lines")),
        } += 1;
        if marked {
            let markers = redact::tally(&line);
            self.redacted += u64::from(markers.get("count").and_then(Value::as_u64).unwrap_or(0) > 0);
        }
        Ok(())
    }

    /// Lines that are those of a log.
    pub fn lines(&self) -> u64 {
        self.evidence + self.deterministic + self.ai_output + self.ai_metrics
    }

    /// Lines that stand for what is gone.
    pub fn gone(&self) -> u64 {
        self.erased + self.archived + self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_as_what_it_says_and_what_is_none_is_told() {
        let mut tally = LogTally::default();
        for line in [
            r#"{"id":"e","type":"evidence"}"#,
            r#"{"fn":"f","type":"deterministic"}"#,
            r#"{"by":"<REDACTED_EMAIL>","type":"ai_output"}"#,
            r#"{"type":"ai_metrics"}"#,
            r#"{"erased":true,"type":"deponent.gone"}"#,
            r#"{"archived":true,"type":"deponent.gone"}"#,
            r#"{"missing":true,"type":"deponent.gone"}"#,
        ] {
            tally.count(line.as_bytes()).unwrap();
        }
        assert_eq!((tally.lines(), tally.gone(), tally.redacted), (4, 3, 1));
        for line in [
            "",
            "[]",
            "{}",
            r#"{"type":"note"}"#,
            r#"{"type":"deponent.gone"}"#,
        ] {
            tally.count(line.as_bytes()).unwrap_err();
        }
        assert_eq!((tally.lines(), tally.gone()), (4, 3));
    }
}
