//! `job.event`: a job was created, started, went on, ended.
//!
//! Events of one job are a chain: each holds the hash of the one before it, and a
//! hash over all of its own other fields ([`JobEvent::integrity_hash`]). So a job's
//! events can be checked alone, without the ledger that they stand in
//! ([`crate::job::JobChains`]).
//!
//! Steps and health are `job_progress` events; what they hold stands in `metadata`.
//! Payload and result are not kept, their hashes are. An event is redacted before it is
//! hashed: `redactions` is under its hash, as everything else.
//!
//! Source: SPEC 7.1; docs/formats.md, "job.event".

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::header::words;
use crate::{Header, Kind, Timestamp, redact, unhex};

words! {
    /// What happened to a job.
    JobEventType {
        /// It came to be.
        Created = "job_created",
        /// It waits for its activation window.
        Scheduled = "job_scheduled",
        /// An attempt began.
        Started = "job_started",
        /// It went on: progress, a step, a snapshot of health.
        Progress = "job_progress",
        /// It is done.
        Completed = "job_completed",
        /// An attempt failed.
        Failed = "job_failed",
        /// Another attempt will be made.
        Retried = "job_retried",
        /// Somebody called it off.
        Cancelled = "job_cancelled",
        /// No attempt is left.
        DeadLettered = "job_dead_lettered",
    }
}

impl JobEventType {
    /// Whether nothing follows it.
    pub const fn is_last(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::DeadLettered)
    }
}

/// The body of a `job.event`, without its own hash.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEvent {
    /// Of its own.
    pub event_id: String,
    /// What happened.
    pub event_type: JobEventType,
    /// To which job.
    pub job_id: String,
    /// Whose job.
    pub tenant_id: String,
    /// When.
    pub timestamp: Timestamp,
    /// What the job runs; of `job_created` and `job_started`.
    pub handler: Option<String>,
    /// From 1.
    pub attempt_number: u32,
    /// How long the attempt took.
    pub duration_ms: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
    /// SHA-256 of the canonical payload, of `job_created`.
    pub payload_hash: Option<String>,
    /// SHA-256 of the canonical result, of `job_completed`.
    pub result_hash: Option<String>,
    /// `integrity_hash` of the job's event before.
    pub previous_event_hash: Option<String>,
    /// What else there is to say; an object.
    pub metadata: Value,
    /// The markers of redaction in it, as it says itself: {`count`, `patterns`}; `None`: there are none.
    pub redactions: Option<Value>,
}

impl JobEvent {
    /// Whether ids and texts keep to their rules.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::identifier("job_id", &self.job_id)?;
        rule::identifiers(&[("handler", &self.handler)])?;
        rule::prose("error", self.error.as_deref())?;
        rule::object("metadata", Some(&self.metadata))
    }

    /// Counts the markers of redaction in it. Whoever hashes it has redacted and counted before.
    pub fn count_markers(&mut self) {
        self.redactions = None;
        let tally = redact::tally(&self.to_value());
        let some = tally.get("count").and_then(Value::as_i64) != Some(0);
        self.redactions = some.then_some(tally);
    }

    /// All fields but `integrity_hash`; absent ones are left out.
    pub fn to_value(&self) -> Value {
        let int = |number: u64| Value::Int(i64::try_from(number).unwrap_or(canonical::INTEGER_MAX));
        let mut object = Vec::with_capacity(14);
        put(
            &mut object,
            "attempt_number",
            Some(int(self.attempt_number.into())),
        );
        put(&mut object, "duration_ms", self.duration_ms.map(int));
        put(&mut object, "error", self.error.as_deref().map(text));
        put(&mut object, "event_id", Some(text(&self.event_id)));
        put(&mut object, "event_type", Some(text(self.event_type.as_str())));
        put(&mut object, "handler", self.handler.as_deref().map(text));
        put(&mut object, "job_id", Some(text(&self.job_id)));
        put(&mut object, "metadata", Some(self.metadata.clone()));
        put(
            &mut object,
            "payload_hash",
            self.payload_hash.as_deref().map(text),
        );
        let previous = self.previous_event_hash.as_deref();
        put(&mut object, "previous_event_hash", previous.map(text));
        put(&mut object, redact::MEMBER, self.redactions.clone());
        put(&mut object, "result_hash", self.result_hash.as_deref().map(text));
        put(&mut object, "tenant_id", Some(text(&self.tenant_id)));
        put(&mut object, "timestamp", Some(text(&self.timestamp.to_string())));
        Value::Object(object)
    }

    /// SHA-256 of the canonical form of all the other fields, in hex.
    pub fn integrity_hash(&self) -> String {
        canonical::sha256_hex(&canonical::to_vec(&self.to_value()))
    }

    /// The canonical body, and its `integrity_hash`.
    pub fn encode(&self) -> (Vec<u8>, String) {
        let mut value = self.to_value();
        let hash = canonical::sha256_hex(&canonical::to_vec(&value));
        value.insert("integrity_hash", text(&hash));
        (canonical::to_vec(&value), hash)
    }

    /// Reads a stored body; the other part is the `integrity_hash` as stored, right or wrong.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn read(body: &[u8]) -> Result<(Self, String), BodyError> {
        let wrong = |reason: &str| BodyError::new(Kind::JobEvent, reason);
        let value = canonical::parse(body, canonical::Limits::default())
            .map_err(|error| BodyError::new(Kind::JobEvent, error))?;
        Self::of_value(&value).ok_or_else(|| wrong("a field is missing or of the wrong kind"))
    }

    /// The event of a body's value; unknown members are not taken over, so they break its hash.
    fn of_value(value: &Value) -> Option<(Self, String)> {
        let get = |name: &str| value.get(name).and_then(Value::as_str);
        // Absent or text; anything else is no such body.
        let text = |name: &str| match value.get(name) {
            None => Some(None),
            Some(member) => member.as_str().map(|text| Some(text.to_owned())),
        };
        let event = Self {
            event_id: get("event_id")?.to_owned(),
            event_type: JobEventType::parse(get("event_type")?)?,
            job_id: get("job_id")?.to_owned(),
            tenant_id: get("tenant_id")?.to_owned(),
            timestamp: Timestamp::parse(get("timestamp")?).ok()?,
            handler: text("handler")?,
            attempt_number: u32::try_from(value.get("attempt_number")?.as_i64()?).ok()?,
            duration_ms: match value.get("duration_ms") {
                None => None,
                Some(member) => Some(member.as_u64()?),
            },
            error: text("error")?,
            payload_hash: text("payload_hash")?,
            result_hash: text("result_hash")?,
            previous_event_hash: text("previous_event_hash")?,
            metadata: value
                .get("metadata")
                .filter(|it| it.as_object().is_some())?
                .clone(),
            redactions: value.get(redact::MEMBER).cloned(),
        };
        Some((event, get("integrity_hash")?.to_owned()))
    }

    /// What it says to projections, when `integrity_hash` is its hash.
    pub fn facts(&self, integrity_hash: &str) -> JobEventFacts {
        let created = self.event_type == JobEventType::Created;
        JobEventFacts {
            job_id: self.job_id.clone(),
            event_type: self.event_type,
            handler: self.handler.clone().filter(|_| created),
            contract_id: self
                .metadata
                .get("contract_id")
                .and_then(Value::as_str)
                .filter(|_| created)
                .map(str::to_owned),
            integrity_hash: unhex(integrity_hash.as_bytes()),
            previous_event_hash: self.previous_event_hash.clone(),
            flaw: None,
        }
    }
}

/// What a job's event says to projections and to the check of its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEventFacts {
    /// The job.
    pub job_id: String,
    /// What happened.
    pub event_type: JobEventType,
    /// Of `job_created`.
    pub handler: Option<String>,
    /// Of `job_created`: the contract that it runs under.
    pub contract_id: Option<String>,
    /// Its hash as stored; `None`: no hash.
    pub integrity_hash: Option<[u8; 32]>,
    /// The hash that it names as the one before it.
    pub previous_event_hash: Option<String>,
    /// What is wrong with the event alone.
    pub flaw: Option<&'static str>,
}

impl JobEventFacts {
    pub(crate) fn read(header: &Header<'_>, body: &[u8]) -> Result<Self, BodyError> {
        let (event, stored) = JobEvent::read(body)?;
        // The bytes were written by `encode`: what it would write now must be the same.
        let (again, hash) = event.encode();
        let flaw = if hash != stored {
            Some("integrity_hash is not the hash of the event's other fields")
        } else if again != body {
            Some("the event has members that its hash does not cover")
        } else if event.tenant_id != header.tenant_id {
            Some("the event names another tenant")
        } else {
            None
        };
        Ok(Self {
            flaw,
            ..event.facts(&stored)
        })
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        push_facet(out, "job", &self.job_id);
        if self.event_type == JobEventType::Created {
            out.push("job".to_owned());
            if let Some(handler) = &self.handler {
                push_facet(out, "job.handler", handler);
            }
            if let Some(contract_id) = &self.contract_id {
                push_facet(out, "job.contract", contract_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn event(event_type: JobEventType) -> JobEvent {
        JobEvent {
            event_id: "e1".into(),
            event_type,
            job_id: "j1".into(),
            tenant_id: "t".into(),
            timestamp: Timestamp::parse("2026-11-21T09:30:59.999999Z").unwrap(),
            handler: Some("deploy".into()),
            attempt_number: 1,
            duration_ms: None,
            error: None,
            payload_hash: Some("ab".repeat(32)),
            result_hash: None,
            previous_event_hash: None,
            metadata: Value::object([("contract_id", Value::from("c1"))]),
            redactions: None,
        }
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let created = event(JobEventType::Created);
        let (body, hash) = created.encode();
        assert_eq!(
            String::from_utf8(body.clone()).unwrap(),
            format!(
                r#"{{"attempt_number":1,"event_id":"e1","event_type":"job_created","handler":"deploy","integrity_hash":"{hash}","job_id":"j1","metadata":{{"contract_id":"c1"}},"payload_hash":"{}","tenant_id":"t","timestamp":"2026-11-21T09:30:59.999999Z"}}"#,
                "ab".repeat(32)
            )
        );
        assert_eq!(
            hash,
            "76dd0591fdf1769215037b26b942433bc342fb7345c62e699423453f64bc75ad"
        );
        assert_eq!(JobEvent::read(&body).unwrap(), (created.clone(), hash.clone()));
        assert_eq!(created.integrity_hash(), hash);
    }

    #[test]
    fn every_field_is_under_the_hash() {
        let base = JobEvent {
            duration_ms: Some(5),
            error: Some("boom".into()),
            result_hash: Some("cd".repeat(32)),
            previous_event_hash: Some("ef".repeat(32)),
            redactions: Some(Value::object([("count", 1)])),
            ..event(JobEventType::Completed)
        };
        let (body, hash) = base.encode();
        let value = canonical::parse(&body, canonical::Limits::default()).unwrap();
        for (key, _) in value.as_object().unwrap() {
            let mut changed = value.clone();
            let other = match key.as_str() {
                "attempt_number" | "duration_ms" => Value::Int(77),
                "event_type" => Value::from("job_cancelled"),
                "timestamp" => Value::from("2026-11-21T09:31:00.000000Z"),
                "metadata" => Value::Object(Vec::new()),
                _ => Value::from("other"),
            };
            changed.insert(key.clone(), other);
            let (event, stored) = JobEvent::read(&canonical::to_vec(&changed)).unwrap();
            assert_ne!(event.integrity_hash(), stored, "{key}");
        }
        assert_eq!(base.integrity_hash(), hash);
    }

    #[test]
    fn markers_are_counted_under_the_hash() {
        let mut counted = JobEvent {
            error: Some("mail <REDACTED_EMAIL>".into()),
            metadata: Value::object([("step", Value::from("<REDACTED>"))]),
            ..event(JobEventType::Failed)
        };
        counted.count_markers();
        counted.count_markers();
        let (body, hash) = counted.encode();
        let text = String::from_utf8(body.clone()).unwrap();
        assert!(
            text.contains(r#""redactions":{"count":2,"patterns":["email","field"]}"#),
            "{text}"
        );
        assert_eq!(JobEvent::read(&body).unwrap(), (counted, hash));
        let mut clean = event(JobEventType::Created);
        clean.count_markers();
        assert_eq!(clean, event(JobEventType::Created));
    }

    #[test]
    fn a_job_is_found_by_its_id_and_among_all_by_handler_and_contract() {
        let facets = |event_type| {
            let (event, mut out) = (event(event_type), Vec::new());
            event.facts("").facets(&mut out);
            out
        };
        assert_eq!(
            facets(JobEventType::Created),
            ["job=j1", "job", "job.handler=deploy", "job.contract=c1"]
        );
        assert_eq!(facets(JobEventType::Started), ["job=j1"]);
    }
}
