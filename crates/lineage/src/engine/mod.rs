//! Three reference engines of a monthly close: what they compute, and the lineage they leave.
//!
//! An engine reads a data folder, writes an artifact, and appends to the audit log first the evidence (which rows of
//! which file, and its SHA-256), then the deterministic record that names it. The same input gives the same bytes;
//! only `generated_at` and the names of files come from outside. Money is decimal from the file to the artifact.
//!
//! Source: SPEC 9.2 and the issue that lists the three.

mod accruals;
mod email;
mod money;
mod table;
mod tb;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use evidence::Timestamp;
use serde::Serialize;

use crate::audit_log::{AppendError, AuditLog, DeterministicRun, EvidenceRef, Params, Record};
use crate::shown;

/// The engines' names, in the order in which a close runs them.
pub const ENGINES: [&str; 3] = ["tb_diagnostics", "accruals_check", "email_evidence"];

/// The entity that stands for every one.
pub const ENTITY_ALL: &str = "ALL";

/// Why an engine did not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such engine.
    #[error("there is no engine {0}")]
    Unknown(String),
    /// A period is YYYY-MM.
    #[error("{0:?} is no period: YYYY-MM")]
    Period(String),
    /// A file of the data folder.
    #[error("{file}: {reason}")]
    Data {
        /// Which.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The artifact cannot be written.
    #[error("cannot write {0}: {1}")]
    Artifact(String, io::Error),
    /// The audit log cannot be written.
    #[error(transparent)]
    Log(#[from] AppendError),
}

impl EngineError {
    fn data(file: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Data {
            file: shown(&file.display().to_string()),
            reason: reason.to_string(),
        }
    }
}

/// A month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    text: String,
    next: String,
}

impl Period {
    /// Reads YYYY-MM.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, EngineError> {
        let bad = || EngineError::Period(shown(text));
        let (year, month) = text.split_once('-').ok_or_else(bad)?;
        let digits =
            |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(year, 4) || !digits(month, 2) {
            return Err(bad());
        }
        let (year, month): (u32, u32) = (
            year.parse().map_err(|_| bad())?,
            month.parse().map_err(|_| bad())?,
        );
        let next = match month {
            1..=11 => format!("{year:04}-{:02}", month + 1),
            12 if year < 9999 => format!("{:04}-01", year + 1),
            _ => return Err(bad()),
        };
        Ok(Self {
            text: text.to_owned(),
            next,
        })
    }

    /// YYYY-MM.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The month after.
    pub fn next(&self) -> &str {
        &self.next
    }

    /// Whether a date or time, as text, lies in it.
    fn holds(&self, date: &str) -> bool {
        date.strip_prefix(self.text.as_str())
            .is_some_and(|rest| rest.starts_with('-'))
    }

    /// Whether a date or time, as text, lies in the month after.
    fn is_followed_by(&self, date: &str) -> bool {
        date.strip_prefix(self.next.as_str())
            .is_some_and(|rest| rest.starts_with('-'))
    }

    /// Whether a date or time, as text, lies on the first day after it.
    fn ends_before(&self, date: &str) -> bool {
        let day = date.get(..10).unwrap_or_default();
        day.strip_prefix(self.next.as_str()) == Some("-01")
    }
}

/// Whether a text is a month (`YYYY-MM`), a day (`YYYY-MM-DD`), or a time on a day. What is none may lie in any period.
fn is_date(text: &str) -> bool {
    let Some((day, time)) = text.split_at_checked(10) else {
        return Period::parse(text).is_ok();
    };
    let whole = |time: &str| Timestamp::parse(&format!("{day}T{time}")).is_ok();
    match time.strip_prefix(['T', 't', ' ']) {
        None => time.is_empty() && whole("00:00:00Z"),
        // Seconds and the offset may be left out.
        Some(time) => [time.to_owned(), format!("{time}Z"), format!("{time}:00Z")]
            .iter()
            .any(|time| whole(time)),
    }
}

/// What an engine is asked for.
#[derive(Clone, Debug)]
pub struct Task {
    /// The data folder.
    pub data: PathBuf,
    /// Which month.
    pub period: Period,
    /// One entity, or [`ENTITY_ALL`].
    pub entity: String,
}

impl Task {
    fn takes(&self, entity: &str) -> bool {
        self.entity == ENTITY_ALL || self.entity == entity
    }
}

/// What an engine did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Which.
    pub function: String,
    /// What it wrote.
    pub artifact: PathBuf,
    /// SHA-256 of it, hex.
    pub output_hash: String,
    /// The log.
    pub audit_log: PathBuf,
    /// Rows it cites.
    pub row_ids: usize,
    /// In a few words.
    pub summary: String,
}

/// What an engine computed, before anything is written.
struct Computed {
    evidence_type: &'static str,
    source: PathBuf,
    source_hash: String,
    key_columns: &'static [&'static str],
    row_ids: Vec<String>,
    artifact: Vec<u8>,
    summary: String,
}

/// A file that went in.
#[derive(Clone, Debug, Serialize)]
struct Input {
    file: String,
    sha256: String,
}

/// The id of a run that began then: `YYYYMMDDTHHMMSSZ`.
pub fn run_id(now: Timestamp) -> String {
    let text = now.to_string();
    let digits: String = text
        .chars()
        .take(19)
        .filter(|c| c.is_ascii_digit() || *c == 'T')
        .collect();
    format!("{digits}Z")
}

/// Runs an engine: the artifact `<out>/<fn>_<run_id>.json`, then two lines of `<out>/audit_<run_id>.jsonl`.
///
/// # Errors
/// [`EngineError`]; the log is written last, and not at all when something before it fails.
pub fn run(function: &str, task: &Task, out: &Path, now: Timestamp) -> Result<Ran, EngineError> {
    let computed = match function {
        "tb_diagnostics" => tb::compute(task, now)?,
        "accruals_check" => accruals::compute(task, now)?,
        "email_evidence" => email::compute(task, now)?,
        _ => return Err(EngineError::Unknown(shown(function))),
    };
    let run_id = run_id(now);
    let failed = |path: &Path| {
        let path = shown(&path.display().to_string());
        move |error| EngineError::Artifact(path, error)
    };
    std::fs::create_dir_all(out).map_err(failed(out))?;
    let out = out.canonicalize().map_err(failed(out))?;
    let artifact = out.join(format!("{function}_{run_id}.json"));
    write_whole(&artifact, &computed.artifact).map_err(failed(&artifact))?;
    let output_hash = evidence::hex_string(&evidence::sha256(&computed.artifact));
    let mut log = AuditLog::open(&out, &run_id).map_err(AppendError::from)?;
    // The same run of the same function over the same file is the same evidence.
    let identity = format!(
        "{run_id}\n{function}\n{}\n{}\n{}",
        computed.source_hash,
        task.period.as_str(),
        task.entity
    );
    let digest = evidence::hex_string(&evidence::sha256(identity.as_bytes()));
    let evidence_id = format!("ev-{}", digest.get(..32).unwrap_or_default());
    let row_ids = computed.row_ids.len();
    let evidence = Record::Evidence(EvidenceRef {
        id: evidence_id.clone(),
        evidence_type: computed.evidence_type.to_owned(),
        uri: Some(computed.source.display().to_string()),
        input_row_ids: Some(computed.row_ids),
        key_columns: Some(
            computed
                .key_columns
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
        ),
        timestamp: now,
        hash: Some(computed.source_hash),
    });
    log.append(&evidence, now)?;
    let deterministic = Record::Deterministic(DeterministicRun {
        function: function.to_owned(),
        evidence_id,
        output_hash: output_hash.clone(),
        params: Params {
            period: task.period.as_str().to_owned(),
            entity: task.entity.clone(),
        },
        artifact: Some(artifact.display().to_string()),
        ..DeterministicRun::default()
    });
    log.append(&deterministic, now)?;
    log.sync().map_err(AppendError::from)?;
    Ok(Ran {
        function: function.to_owned(),
        artifact,
        output_hash,
        audit_log: log.path().to_owned(),
        row_ids,
        summary: computed.summary,
    })
}

/// Writes aside, and renames: a reader sees the old bytes or the new ones.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("json.new");
    let mut file = std::fs::File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&aside, path)
}

fn artifact_bytes(artifact: &impl Serialize, file: &Path) -> Result<Vec<u8>, EngineError> {
    let mut bytes = serde_json::to_vec_pretty(artifact).map_err(|error| EngineError::data(file, error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_knows_the_month_after() {
        let period = Period::parse("2025-12").unwrap();
        assert_eq!(period.next(), "2026-01");
        assert!(period.holds("2025-12-31") && !period.holds("2025-12") && !period.holds("2025-123"));
        assert!(period.is_followed_by("2026-01-31T00:00:00Z") && !period.is_followed_by("2026-02-01"));
        assert!(period.ends_before("2026-01-01T23:00:00Z") && !period.ends_before("2026-01-02"));
        for text in [
            "2025", "2025-13", "2025-00", "25-01", "2025-1", "9999-12", "2025-0a", "", "ALL",
        ] {
            assert!(Period::parse(text).is_err(), "{text}");
        }
        let now = Timestamp::parse("2026-03-04T05:06:07.89Z").unwrap();
        assert_eq!(run_id(now), "20260304T050607Z");
    }

    #[test]
    fn a_date_begins_with_its_month() {
        for text in [
            "2026-01",
            "2026-01-31",
            "2026-01-31T10:00:00Z",
            "2026-01-31T10:00:00.5+01:00",
            "2026-01-31 10:00:00",
            "2026-01-31T10:00",
        ] {
            assert!(is_date(text), "{text}");
        }
        for text in [
            "",
            "2026",
            "2026-13",
            "2026-02-30",
            "2026/01/31",
            "31.01.2026",
            "01/31/2026",
            "2026-1-31",
            "2026-01-31x",
            "2026-01-31T",
            "2026-01-31 noon",
            "46053",
            "January 2026",
            "2026-01-3\u{661}",
        ] {
            assert!(!is_date(text), "{text}");
        }
    }
}
