//! Writing an audit log: one line a record, with the time at which it was appended.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use evidence::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

/// Why a record was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// It cannot be written.
    #[error("cannot write the audit log: {0}")]
    Io(#[from] io::Error),
    /// It is longer than a line may be.
    #[error("the record is {0} bytes long; a line has 64 MiB at most")]
    TooLong(usize),
    /// It names a member that the log writes.
    #[error("{0} is written by the log itself")]
    Doubled(&'static str),
}

/// Which rows of which file were read (SPEC 9.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvidenceRef {
    /// `ev-` and 32 hexadecimal digits.
    pub id: String,
    /// csv, json, jsonl, parquet.
    pub evidence_type: String,
    /// Where the file is.
    pub uri: Option<String>,
    /// Which of its rows.
    pub input_row_ids: Option<Vec<String>>,
    /// The columns that make an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_columns: Option<Vec<String>>,
    /// When they were read.
    pub timestamp: Timestamp,
    /// SHA-256 of the file when it was read, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// What a function was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Params {
    /// YYYY-MM.
    pub period: String,
    /// One, or ALL.
    pub entity: String,
}

/// A run of a function whose result follows from its input (SPEC 9.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeterministicRun {
    /// Which.
    #[serde(rename = "fn")]
    pub function: String,
    /// What it read; appended before.
    pub evidence_id: String,
    /// SHA-256 of the artifact's bytes, hex.
    pub output_hash: String,
    /// What it was asked for.
    pub params: Params,
    /// What it wrote.
    pub artifact: Option<String>,
    /// Its own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The rows that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_ids: Option<Vec<String>>,
    /// When it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// A hash of the code that ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_hash: Option<String>,
}

/// A record of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// Rows of a file were read.
    Evidence(EvidenceRef),
    /// A function ran.
    Deterministic(DeterministicRun),
    /// A model wrote something: `kind`, `artifact`, and whatever the writer adds.
    AiOutput(Map<String, Value>),
    /// What a model took: `kind`, `tokens`, `cost_usd`, and whatever the writer adds.
    AiMetrics(Map<String, Value>),
}

impl Record {
    /// A member that the log writes itself, which the writer has added.
    fn doubled(&self) -> Option<&'static str> {
        match self {
            Self::Evidence(_) | Self::Deterministic(_) => None,
            Self::AiOutput(fields) | Self::AiMetrics(fields) => {
                ["ts", "type"].into_iter().find(|name| fields.contains_key(*name))
            }
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    ts: Timestamp,
    #[serde(flatten)]
    record: &'a Record,
}

/// A log that is appended to.
#[derive(Debug)]
pub struct AuditLog {
    file: File,
    path: PathBuf,
}

impl AuditLog {
    /// Opens `<out>/audit_<run_id>.jsonl`, and makes it if need be.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(out: &Path, run_id: &str) -> io::Result<Self> {
        std::fs::create_dir_all(out)?;
        let path = out.join(format!("audit_{run_id}.jsonl"));
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)?;
        // A line that a crash cut short stays what it is, a malformed line; the next one must not become part of it.
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { file, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record as one line, at this time.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append(&mut self, record: &Record, at: Timestamp) -> Result<(), AppendError> {
        if let Some(name) = record.doubled() {
            return Err(AppendError::Doubled(name));
        }
        let mut line = serde_json::to_vec(&Line { ts: at, record }).map_err(io::Error::other)?;
        line.push(b'\n');
        if line.len() > crate::lines::LINE_BYTES_MAX {
            return Err(AppendError::TooLong(line.len()));
        }
        // One write: lines of two processes do not mix.
        self.file.write_all(&line)?;
        Ok(())
    }

    /// Waits until what was appended is on disk.
    ///
    /// # Errors
    /// It is not.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_short_stays_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit_20260101T000000Z.jsonl");
        std::fs::write(&path, "{\"type\":").unwrap();
        let mut log = AuditLog::open(folder.path(), "20260101T000000Z").unwrap();
        assert_eq!(log.path(), path);
        let at = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let evidence = Record::Evidence(EvidenceRef {
            id: "ev-1".into(),
            evidence_type: "csv".into(),
            uri: None,
            input_row_ids: Some(vec!["a".into()]),
            key_columns: None,
            timestamp: at,
            hash: None,
        });
        log.append(&evidence, at).unwrap();
        let deterministic = Record::Deterministic(DeterministicRun {
            function: "f".into(),
            evidence_id: "ev-1".into(),
            output_hash: "00".into(),
            params: Params {
                period: "2026-01".into(),
                entity: "ALL".into(),
            },
            ..DeterministicRun::default()
        });
        log.append(&deterministic, at).unwrap();
        log.sync().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                r#"{"type":"#,
                r#"{"ts":"2026-01-01T00:00:00.000000Z","type":"evidence","id":"ev-1","evidence_type":"csv","uri":null,"input_row_ids":["a"],"timestamp":"2026-01-01T00:00:00.000000Z"}"#,
                r#"{"ts":"2026-01-01T00:00:00.000000Z","type":"deterministic","fn":"f","evidence_id":"ev-1","output_hash":"00","params":{"period":"2026-01","entity":"ALL"},"artifact":null}"#,
            ]
        );
        std::os::unix::fs::symlink(&path, folder.path().join("audit_x.jsonl")).unwrap();
        assert!(AuditLog::open(folder.path(), "x").is_err());
    }

    #[test]
    fn each_type_is_written_with_its_fields_and_read_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = AuditLog::open(folder.path(), "r").unwrap();
        let at = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let run = DeterministicRun {
            function: "f".into(),
            evidence_id: "ev-1".into(),
            output_hash: "00".into(),
            id: Some("d1".into()),
            row_ids: Some(vec!["a".into()]),
            timestamp: Some(at),
            code_hash: Some("c".into()),
            ..DeterministicRun::default()
        };
        let fields = |json: Value| json.as_object().unwrap().clone();
        let output = fields(serde_json::json!({ "kind": "flux", "artifact": "a.json", "mine": [1] }));
        let metrics = fields(serde_json::json!({ "kind": "flux", "tokens": 5, "cost_usd": 0.1 }));
        for record in [
            Record::Deterministic(run),
            Record::AiOutput(output),
            Record::AiMetrics(metrics),
        ] {
            log.append(&record, at).unwrap();
        }
        for name in ["ts", "type"] {
            let doubled = Record::AiMetrics(fields(serde_json::json!({ name: "mine" })));
            let refused = log.append(&doubled, at).unwrap_err();
            assert!(matches!(refused, AppendError::Doubled(_)), "{refused}");
        }
        let text = std::fs::read_to_string(log.path()).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                serde_json::json!({ "ts": "2026-01-01T00:00:00.000000Z", "type": "deterministic", "fn": "f", "evidence_id": "ev-1",
                    "output_hash": "00", "params": { "period": "", "entity": "" }, "artifact": null, "id": "d1", "row_ids": ["a"],
                    "timestamp": "2026-01-01T00:00:00.000000Z", "code_hash": "c" }),
                serde_json::json!({ "ts": "2026-01-01T00:00:00.000000Z", "type": "ai_output", "kind": "flux", "artifact": "a.json",
                    "mine": [1] }),
                serde_json::json!({ "ts": "2026-01-01T00:00:00.000000Z", "type": "ai_metrics", "kind": "flux", "tokens": 5,
                    "cost_usd": 0.1 }),
            ]
        );
        let read = |line: &str| format!("{:?}", crate::LineType::read(line.as_bytes()).unwrap());
        let types: Vec<String> = text.lines().map(read).collect();
        assert!(types[0].starts_with("Deterministic"), "{types:?}");
        assert_eq!(types[1..], ["AiOutput", "AiMetrics"]);
    }
}
