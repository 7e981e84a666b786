//! `lineage.evidence`, `lineage.deterministic`, `lineage.ai_output`, `lineage.ai_metrics`: a line of an audit log, or
//! what a pipeline posts in its place.
//!
//! The body is the line's object without its `type`, which the kind says. Fields that other programs decide by are
//! checked; every other field is kept as it came, so that what was imported can be read again whole. Of a run, a line
//! is on record once; the second of equal lines of a log is told from the first by how many stood before it.
//!
//! Source: SPEC 9.2; docs/formats.md, "lineage".

use super::rule::{self, RuleBroken};
use super::{BodyError, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::{Header, Identity, Kind, Timestamp};

/// The types of files that evidence may cite.
pub const LINEAGE_TYPES: [&str; 4] = ["csv", "json", "jsonl", "parquet"];

/// How many equal lines stood before a line in its log; the ledger's own field, which no line may bring.
///
/// The last record of a function and the last evidence of an id count. Without it a log of A, B, A would be A, B on
/// record, and B would count.
pub const LINEAGE_COPY: &str = "deponent.copy";

/// Names the run of a line that is posted and has a `run_id` of its own; no line may bring it.
pub const LINEAGE_RUN: &str = "deponent.run";

/// A line of a log as a record.
#[derive(Clone, Debug, PartialEq)]
pub struct LineageRecord {
    kind: Kind,
    fields: Value,
}

/// What a line says to projections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineageFacts {
    /// The id of evidence, or that which a deterministic record names.
    pub evidence_id: Option<String>,
    /// The function of a deterministic record.
    pub function: Option<String>,
}

/// The kind of a line's type.
pub fn lineage_kind(line_type: &str) -> Option<Kind> {
    match line_type {
        "evidence" => Some(Kind::LineageEvidence),
        "deterministic" => Some(Kind::LineageDeterministic),
        "ai_output" => Some(Kind::LineageAiOutput),
        "ai_metrics" => Some(Kind::LineageAiMetrics),
        _ => None,
    }
}

/// The type of a kind's lines.
pub fn lineage_type(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::LineageEvidence => Some("evidence"),
        Kind::LineageDeterministic => Some("deterministic"),
        Kind::LineageAiOutput => Some("ai_output"),
        Kind::LineageAiMetrics => Some("ai_metrics"),
        _ => None,
    }
}

impl LineageRecord {
    /// Of an object's fields.
    ///
    /// # Errors
    /// A field that is decided by breaks its rule.
    pub fn new(kind: Kind, fields: Value) -> Result<Self, RuleBroken> {
        let Value::Object(mut members) = fields else {
            return Err(RuleBroken::new("body", "must be an object"));
        };
        members.retain(|(key, _)| key != "type");
        for own in [LINEAGE_COPY, LINEAGE_RUN] {
            if members.iter().any(|(key, _)| key == own) {
                return Err(RuleBroken::new(own, "is the ledger's own"));
            }
        }
        let mut fields = Value::Object(members);
        // `function_name` is the other spelling of `fn`.
        if kind == Kind::LineageDeterministic
            && is_absent(&fields, "fn")
            && let Some(name) = fields.get("function_name").cloned()
        {
            fields.insert("fn", name);
        }
        check(kind, &fields)?;
        Ok(Self { kind, fields })
    }

    /// Of a line of a log; `None`: its type is no lineage.
    ///
    /// # Errors
    /// Why it is no line.
    pub fn of_line(line: &[u8]) -> Result<Option<Self>, String> {
        let fields = canonical::parse(line, canonical::Limits::default()).map_err(|error| {
            let (_, column) = error.line_and_column(line);
            format!("column {column}: {}", error.reason())
        })?;
        let line_type = match fields.get("type") {
            Some(Value::String(line_type)) => line_type,
            _ if fields.as_object().is_none() => return Err("is no object".to_owned()),
            _ => return Err("has no type".to_owned()),
        };
        match lineage_kind(line_type) {
            None => Ok(None),
            Some(kind) => Self::new(kind, fields)
                .map(Some)
                .map_err(|error| error.to_string()),
        }
    }

    /// When it says that it happened.
    pub fn said_at(&self) -> Option<Timestamp> {
        ["timestamp", "ts", "generated_at"]
            .iter()
            .find_map(|name| Timestamp::parse(self.fields.get(name)?.as_str()?).ok())
    }

    /// The same line where so many equal ones stood before it in its log.
    #[must_use]
    pub fn copy(mut self, before: u32) -> Self {
        if before > 0 {
            self.fields.insert(LINEAGE_COPY, before);
        }
        self
    }

    /// Which of the four.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The fields.
    pub fn fields(&self) -> &Value {
        &self.fields
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        canonical::to_vec(&self.fields)
    }

    /// What it says to projections, the same that [`LineageFacts::read`] finds in the stored bytes.
    pub fn facts(&self) -> LineageFacts {
        LineageFacts::of(self.kind, &self.fields)
    }
}

fn is_absent(fields: &Value, name: &str) -> bool {
    matches!(fields.get(name), None | Some(Value::Null))
}

/// The text of a field; none when it is absent or null.
fn text_of<'a>(fields: &'a Value, name: &'static str) -> Result<Option<&'a str>, RuleBroken> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(RuleBroken::new(name, "must be a text or null")),
    }
}

fn needed<'a>(fields: &'a Value, name: &'static str) -> Result<&'a str, RuleBroken> {
    text_of(fields, name)?.ok_or_else(|| RuleBroken::new(name, "is needed"))
}

fn check(kind: Kind, fields: &Value) -> Result<(), RuleBroken> {
    match kind {
        Kind::LineageEvidence => {
            rule::identifier("id", needed(fields, "id")?)?;
            rule::prose("uri", text_of(fields, "uri")?)?;
            if let Some(word) = text_of(fields, "evidence_type")? {
                rule::word("evidence_type", word, &LINEAGE_TYPES)?;
            }
            hash("hash", fields)?;
        }
        Kind::LineageDeterministic => {
            rule::identifier("fn", needed(fields, "fn")?)?;
            if let Some(id) = text_of(fields, "evidence_id")? {
                rule::identifier("evidence_id", id)?;
            }
            rule::prose("artifact", text_of(fields, "artifact")?)?;
            hash("output_hash", fields)?;
        }
        _ => {}
    }
    Ok(())
}

fn hash(name: &'static str, fields: &Value) -> Result<(), RuleBroken> {
    match text_of(fields, name)? {
        Some(hash) if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Err(RuleBroken::new(name, "must be 64 hex digits"))
        }
        _ => Ok(()),
    }
}

impl LineageFacts {
    fn of(kind: Kind, fields: &Value) -> Self {
        let own = |name| text_of(fields, name).ok().flatten().map(str::to_owned);
        match kind {
            Kind::LineageEvidence => Self {
                evidence_id: own("id"),
                function: None,
            },
            Kind::LineageDeterministic => Self {
                evidence_id: own("evidence_id"),
                function: own("fn"),
            },
            _ => Self::default(),
        }
    }

    pub(crate) fn read(kind: Kind, body: &[u8]) -> Result<Self, BodyError> {
        let fields = canonical::parse(body, canonical::Limits::default())
            .map_err(|error| BodyError::new(kind, error))?;
        Ok(Self::of(kind, &fields))
    }

    pub(crate) fn facets(&self, header: &Header<'_>, out: &mut Vec<String>) {
        let name = lineage_type(header.kind).unwrap_or_default();
        push_facet(out, "lineage", name);
        let of = header.kind == Kind::LineageEvidence;
        if let (true, Some(id)) = (of, &self.evidence_id) {
            push_facet(out, "lineage.evidence", id);
        }
        if let Some(function) = &self.function {
            push_facet(out, "lineage.fn", function);
        }
        if let Some(run) = &header.run {
            push_facet(out, "lineage.run", &run.run_id);
        }
    }
}

/// The identity of a line of a run: its content.
pub fn lineage_identity(kind: Kind, body: &[u8]) -> Identity {
    Identity::lineage(kind, &crate::sha256(body))
}

/// A stored body as the line that it was.
///
/// # Errors
/// It is none.
pub fn lineage_line(kind: Kind, body: &[u8]) -> Result<Vec<u8>, BodyError> {
    let mut fields =
        canonical::parse(body, canonical::Limits::default()).map_err(|error| BodyError::new(kind, error))?;
    if let Value::Object(members) = &mut fields {
        members.retain(|(key, _)| key != LINEAGE_COPY);
    }
    fields.insert("type", text(lineage_type(kind).unwrap_or_default()));
    Ok(canonical::to_vec(&fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Value {
        canonical::parse(text.as_bytes(), canonical::Limits::default()).unwrap()
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let line = r#"{"ts":"2026-01-01T00:00:00Z","type":"evidence","id":"ev-1","evidence_type":"csv","uri":null,"input_row_ids":["a|b"],"timestamp":"2026-01-01T00:00:00Z","more":1.50}"#;
        let record = LineageRecord::new(Kind::LineageEvidence, object(line)).unwrap();
        let body = String::from_utf8(record.encode()).unwrap();
        assert_eq!(
            body,
            r#"{"evidence_type":"csv","id":"ev-1","input_row_ids":["a|b"],"more":1.5,"timestamp":"2026-01-01T00:00:00Z","ts":"2026-01-01T00:00:00Z","uri":null}"#
        );
        assert_eq!(
            LineageFacts::read(record.kind(), body.as_bytes()).unwrap(),
            record.facts()
        );
        let again = lineage_line(record.kind(), body.as_bytes()).unwrap();
        assert_eq!(
            LineageRecord::new(
                Kind::LineageEvidence,
                object(std::str::from_utf8(&again).unwrap())
            )
            .unwrap(),
            record
        );
        let line = r#"{"function_name":"f","evidence_id":"ev-1"}"#;
        let record = LineageRecord::new(Kind::LineageDeterministic, object(line)).unwrap();
        assert_eq!(record.facts().function.as_deref(), Some("f"));
        assert_eq!(
            record.encode(),
            br#"{"evidence_id":"ev-1","fn":"f","function_name":"f"}"#
        );
    }

    #[test]
    fn a_copy_is_a_record_of_its_own_and_the_same_line() {
        let record = LineageRecord::new(Kind::LineageEvidence, object(r#"{"id":"ev-1"}"#)).unwrap();
        assert_eq!(record.clone().copy(0), record);
        let copy = record.clone().copy(2).encode();
        assert_eq!(copy, br#"{"deponent.copy":2,"id":"ev-1"}"#);
        assert_ne!(
            lineage_identity(record.kind(), &copy),
            lineage_identity(record.kind(), &record.encode())
        );
        assert_eq!(
            lineage_line(record.kind(), &copy).unwrap(),
            lineage_line(record.kind(), &record.encode()).unwrap()
        );
        // A line that says so itself would be another's copy.
        let posing = LineageRecord::new(
            Kind::LineageEvidence,
            object(r#"{"deponent.copy":2,"id":"ev-1"}"#),
        );
        assert_eq!(posing.unwrap_err().field, LINEAGE_COPY);
        let elsewhere = LineageRecord::of_line(br#"{"type":"ai_output","deponent.run":"r"}"#);
        assert!(elsewhere.unwrap_err().contains(LINEAGE_RUN));
    }

    #[test]
    fn fields_that_are_decided_by_keep_to_their_rules() {
        for (kind, line, field) in [
            (Kind::LineageEvidence, "{}", "id"),
            (Kind::LineageEvidence, "[]", "body"),
            (Kind::LineageEvidence, r#"{"id":""}"#, "id"),
            (Kind::LineageEvidence, r#"{"id":"e","uri":5}"#, "uri"),
            (
                Kind::LineageEvidence,
                r#"{"id":"e","evidence_type":"xls"}"#,
                "evidence_type",
            ),
            (Kind::LineageEvidence, r#"{"id":"e","hash":"00"}"#, "hash"),
            (Kind::LineageDeterministic, "{}", "fn"),
            (
                Kind::LineageDeterministic,
                r#"{"fn":"f","evidence_id":[]}"#,
                "evidence_id",
            ),
            (
                Kind::LineageDeterministic,
                r#"{"fn":"f","output_hash":"x"}"#,
                "output_hash",
            ),
        ] {
            assert_eq!(
                LineageRecord::new(kind, object(line)).unwrap_err().field,
                field,
                "{line}"
            );
        }
        assert!(LineageRecord::new(Kind::LineageAiOutput, object("{}")).is_ok());
        for kind in [Kind::LineageEvidence, Kind::LineageAiMetrics] {
            assert_eq!(lineage_kind(lineage_type(kind).unwrap()), Some(kind));
        }
    }
}
