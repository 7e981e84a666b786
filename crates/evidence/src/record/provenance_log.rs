//! `provenance.log`: what went into a model and what came out, found again by the hash of either.
//!
//! Payloads stand in it whole, as JSON; the body is kept compressed as all are. Hashes are over payloads as they
//! stand here, which is after redaction.
//!
//! Source: SPEC 9.1; docs/formats.md, "provenance.log".

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::time::{TIMES_GIVEN, TimesGiven};
use crate::{Header, Identity, Kind, hex_string, sha256};

/// How a call may have ended (SPEC 9.1).
pub const PROVENANCE_STATUSES: [&str; 4] = ["success", "error", "timeout", "schema_error"];

/// The version that logs have which name none.
pub const PROVENANCE_VERSION_DEFAULT: &str = "2.0.0";

/// The commit of logs that name none.
pub const COMMIT_UNKNOWN: &str = "unknown";

/// The body of a `provenance.log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenanceLog {
    /// The id that an imported log had; else it is that of its record.
    pub id: Option<String>,
    /// What went in.
    pub input: Value,
    /// What came out.
    pub output: Value,
    /// Milliseconds.
    pub runtime_ms: i64,
    /// One of [`PROVENANCE_STATUSES`].
    pub status: String,
    /// Of the model.
    pub model_version: String,
    /// Of what stands between caller and model.
    pub adapter_version: String,
    /// Of the caller's code.
    pub commit_sha: String,
    /// Its time as given, where it says more than the header.
    pub times_given: TimesGiven,
}

impl ProvenanceLog {
    /// A log with nothing but its payloads.
    pub fn new(input: Value, output: Value) -> Self {
        Self {
            id: None,
            input,
            output,
            runtime_ms: 0,
            status: "success".to_owned(),
            model_version: PROVENANCE_VERSION_DEFAULT.to_owned(),
            adapter_version: PROVENANCE_VERSION_DEFAULT.to_owned(),
            commit_sha: COMMIT_UNKNOWN.to_owned(),
            times_given: TimesGiven::default(),
        }
    }

    /// Whether it keeps to the rules of SPEC 9.1.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::identifiers(&[("id", &self.id)])?;
        rule::counts(&[("runtime_ms", Some(self.runtime_ms))])?;
        rule::word("status", &self.status, &PROVENANCE_STATUSES)?;
        for (field, word) in [
            ("model_version", &self.model_version),
            ("adapter_version", &self.adapter_version),
            ("commit_sha", &self.commit_sha),
        ] {
            rule::identifier(field, word)?;
        }
        Ok(())
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let hash = |value: &Value| Value::from(hex_string(&sha256(&canonical::to_vec(value))));
        let mut object = Vec::with_capacity(11);
        put(&mut object, "adapter_version", Some(text(&self.adapter_version)));
        put(&mut object, "commit_sha", Some(text(&self.commit_sha)));
        put(&mut object, "id", self.id.as_deref().map(text));
        put(&mut object, "input", Some(self.input.clone()));
        put(&mut object, "input_hash", Some(hash(&self.input)));
        put(&mut object, "model_version", Some(text(&self.model_version)));
        put(&mut object, "output", Some(self.output.clone()));
        put(&mut object, "output_hash", Some(hash(&self.output)));
        put(&mut object, "runtime_ms", Some(Value::from(self.runtime_ms)));
        put(&mut object, "status", Some(text(&self.status)));
        put(&mut object, TIMES_GIVEN, self.times_given.to_value());
        canonical::to_vec(&Value::Object(object))
    }

    /// What it says to projections, the same that [`ProvenanceFacts::read`] finds in the stored bytes.
    pub fn facts(&self) -> ProvenanceFacts {
        ProvenanceFacts {
            id: self.id.clone(),
            input_hash: hex_string(&sha256(&canonical::to_vec(&self.input))),
            model_version: self.model_version.clone(),
            status: self.status.clone(),
        }
    }
}

/// What a log says to projections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ProvenanceFacts {
    /// Of an imported one.
    pub id: Option<String>,
    /// SHA-256 of the canonical input, hex.
    pub input_hash: String,
    /// Of the model.
    pub model_version: String,
    /// How the call ended.
    pub status: String,
}

impl ProvenanceFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::ProvenanceLog, error))
    }

    /// Of an imported one: by what an erased one is known again.
    pub fn identity(&self) -> Option<Identity> {
        let id = self.id.as_deref()?;
        Some(Identity::imported_log(id, &self.input_hash))
    }

    pub(crate) fn facets(&self, header: &Header<'_>, out: &mut Vec<String>) {
        out.push("provenance".to_owned());
        // The others are found by their record's id.
        if let Some(id) = &self.id {
            push_facet(out, "provenance.id", id);
        }
        push_facet(out, "provenance.input", &self.input_hash);
        push_facet(out, "provenance.model", &self.model_version);
        push_facet(out, "provenance.status", &self.status);
        if let Some(run) = &header.run {
            push_facet(out, "provenance.run", &run.run_id);
        }
    }
}

/// A stored log, its payloads as the canonical JSON that they are.
#[derive(Debug, Deserialize)]
pub struct ProvenanceView<'a> {
    /// Of an imported one.
    pub id: Option<String>,
    /// What went in.
    #[serde(borrow)]
    pub input: &'a RawValue,
    /// SHA-256 of it, hex.
    pub input_hash: &'a str,
    /// What came out.
    #[serde(borrow)]
    pub output: &'a RawValue,
    /// SHA-256 of it, hex.
    pub output_hash: &'a str,
    /// Milliseconds.
    pub runtime_ms: i64,
    /// How the call ended.
    pub status: String,
    /// Of the model.
    pub model_version: String,
    /// Of what stands between caller and model.
    pub adapter_version: String,
    /// Of the caller's code.
    pub commit_sha: String,
    /// Its times as given, by member, where they say more than the header.
    #[serde(default)]
    pub times_given: BTreeMap<String, String>,
}

impl<'a> ProvenanceView<'a> {
    /// Reads a stored body.
    ///
    /// # Errors
    /// It is none.
    pub fn read(body: &'a [u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::ProvenanceLog, error))
    }

    /// The first 16 digits of the input's hash, and another thing than the plan hash of a run.
    pub fn plan_hash(&self) -> &'a str {
        self.input_hash.get(..16).unwrap_or(self.input_hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let log = ProvenanceLog {
            id: Some("p1".into()),
            ..ProvenanceLog::new(Value::object([("a", Value::Int(1))]), Value::Null)
        };
        log.check().unwrap();
        let body = String::from_utf8(log.encode()).unwrap();
        let input = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862";
        let output = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b";
        assert_eq!(
            body,
            format!(
                r#"{{"adapter_version":"2.0.0","commit_sha":"unknown","id":"p1","input":{{"a":1}},"input_hash":"{input}","model_version":"2.0.0","output":null,"output_hash":"{output}","runtime_ms":0,"status":"success"}}"#
            )
        );
        assert_eq!(ProvenanceFacts::read(body.as_bytes()).unwrap(), log.facts());
        let view = ProvenanceView::read(body.as_bytes()).unwrap();
        assert_eq!((view.input.get(), view.plan_hash()), (r#"{"a":1}"#, &input[..16]));
        let bad = ProvenanceLog {
            status: "fine".into(),
            ..log
        };
        assert_eq!(bad.check().unwrap_err().field, "status");
    }
}
