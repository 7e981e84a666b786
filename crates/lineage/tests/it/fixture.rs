//! A folder with a log and files, and the questions asked of them.

use std::path::{Path, PathBuf};

use lineage::drill::{DrillError, Drilled, Key, drill, find_key, source_type};
use lineage::source::{Encoding, Reading, Source};
use lineage::{Evidence, Places, RowFormat, RowWriter, SourceFile, Verification};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) struct Folder {
    pub(crate) temp: TempDir,
}

pub(crate) struct Rows {
    pub(crate) drilled: Drilled,
    pub(crate) key: Key,
    pub(crate) numbers: Vec<u64>,
    pub(crate) text: String,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn places(&self) -> Places {
        Places::new(self.temp.path(), Some(&self.path("out")), &[], &[]).unwrap()
    }

    pub(crate) fn verify(&self, log: &Path, required: &[&str], strict: bool) -> Verification {
        let required: Vec<String> = required.iter().map(|name| (*name).to_owned()).collect();
        let log = SourceFile::open(log).unwrap();
        lineage::verify(&log, &self.places(), &required, strict, &mut |_| {}).unwrap()
    }

    /// Verifies lines.
    pub(crate) fn verify_text(&self, log: &str, required: &[&str]) -> Verification {
        let path = self.write("out/audit_t.jsonl", log);
        self.verify(&path, required, false)
    }

    pub(crate) fn drill(
        &self,
        function: &str,
        evidence: &Evidence,
        format: RowFormat,
    ) -> Result<Rows, DrillError> {
        self.drill_as(function, evidence, format, (Encoding::Utf8, b','), None)
    }

    pub(crate) fn drill_as(
        &self,
        function: &str,
        evidence: &Evidence,
        format: RowFormat,
        (encoding, delimiter): (Encoding, u8),
        key: Option<&[&str]>,
    ) -> Result<Rows, DrillError> {
        let file = self.places().open(evidence.uri.as_deref()).unwrap();
        let mut progress = |_| {};
        let mut reading = Reading {
            encoding,
            delimiter,
            hashed: false,
            progress: &mut progress,
        };
        let source = Source::open(&file, source_type(evidence, file.path())?, &reading)?;
        let key = key.map(|key| key.iter().map(|column| (*column).to_owned()).collect());
        let key = find_key(&source, function, evidence, key, &mut reading)?;
        let (mut numbers, mut text) = (Vec::new(), Vec::new());
        let mut writer = RowWriter::new(format, source.columns(), delimiter, &mut text).unwrap();
        let drilled = drill(&source, evidence, &key, &mut reading, &mut |number, row| {
            numbers.push(number);
            writer.row(row)
        })?;
        writer.finish().unwrap();
        Ok(Rows {
            drilled,
            key,
            numbers,
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}

pub(crate) fn cites(uri: &str, ids: &[&str]) -> Evidence {
    Evidence {
        id: "ev-1".into(),
        uri: Some(uri.into()),
        input_row_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..Evidence::default()
    }
}

pub(crate) fn evidence_line(id: &str, ids: Value) -> String {
    format!(
        "{}\n",
        json!({ "type": "evidence", "id": id, "uri": null, "input_row_ids": ids })
    )
}

pub(crate) fn deterministic_line(function: &str, id: &str) -> String {
    format!(
        "{}\n",
        json!({ "type": "deterministic", "fn": function, "evidence_id": id, "output_hash": "0" })
    )
}
