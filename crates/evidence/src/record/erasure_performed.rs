//! `erasure.performed`: bodies were erased, by whom, why, and which.
//!
//! It stands in the commit that erases them. Of each it keeps what a repeat of the record is known by (its
//! identity), where a step stood (its index, or the id of its span, by which spans of one start are ordered), that it was
//! a root span which had ended, lest its run be running again, and which step of which incident it was, lest an
//! incident be listed no longer or stand where it stood before: they name the record and say nothing of what was in it.
//! The identity of an environment that came with spans is a hash of its content, and is not kept.
//!
//! Source: SPEC 11.6; docs/formats.md, "erasure.performed".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{BodyError, ErasedIncident, IncidentStep, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::{Identity, Kind, RecordId, hex_string};

/// Most bodies that one request erases: a step has few that hold a hash of it, and a record of this length is
/// 150 KB. More are erased one by one, with `only`.
pub const ERASED_RECORDS_MAX: usize = 1_000;

/// The body of an `erasure.performed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasurePerformed {
    /// The first is the one that was asked for.
    pub erased: Vec<ErasedRecord>,
    /// Bodies that hold an unsalted hash of it were left.
    pub only: bool,
    /// Who asked.
    pub principal: String,
    /// Why.
    pub reason: String,
    /// What redaction took out of the reason.
    pub redactions: Option<Value>,
}

/// A record whose body was erased, and what is kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedRecord {
    /// The record.
    pub record_id: RecordId,
    /// By which it is known again.
    pub identity: Option<Identity>,
    /// Of an incident's event.
    pub incident: Option<ErasedIncident>,
    /// Of a root span that had ended: the end of a run of spans. Erasures of before do not say it.
    pub root_ended: bool,
    /// Of a span.
    pub span_id: Option<[u8; 8]>,
    /// Of a step that was given its index.
    pub step_index: Option<u32>,
}

impl ErasurePerformed {
    /// Whether it keeps to the rules of SPEC 11.6.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::prose_given("reason", &self.reason)?;
        if self.erased.len() > ERASED_RECORDS_MAX {
            let rule = format!("at most {ERASED_RECORDS_MAX} bodies are erased together");
            return Err(RuleBroken::new("only", rule));
        }
        Ok(())
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let erased = self.erased.iter().map(|record| {
            let mut object = Vec::with_capacity(6);
            let identity = record.identity;
            let identity = identity.map(|identity| Value::String(hex_string(identity.as_bytes())));
            put(&mut object, "identity", identity);
            let incident = record.incident.as_ref();
            let event = incident.map(|incident| text(incident.step.as_str()));
            put(&mut object, "incident_event", event);
            let incident_id = incident.map(|incident| text(&incident.incident_id));
            put(&mut object, "incident_id", incident_id);
            put(
                &mut object,
                "record_id",
                Some(Value::String(record.record_id.to_string())),
            );
            let root_ended = record.root_ended.then_some(Value::Bool(true));
            put(&mut object, "root_ended", root_ended);
            let span_id = record.span_id.map(|span_id| Value::String(hex_string(&span_id)));
            put(&mut object, "span_id", span_id);
            put(
                &mut object,
                "step_index",
                record.step_index.map(|index| Value::Int(index.into())),
            );
            Value::Object(object)
        });
        let erased = erased.collect::<Vec<_>>();
        let mut object = Vec::with_capacity(5);
        put(&mut object, "erased", Some(Value::from(erased)));
        put(&mut object, "only", Some(Value::Bool(self.only)));
        put(&mut object, "principal", Some(text(&self.principal)));
        put(&mut object, "reason", Some(text(&self.reason)));
        put(&mut object, "redactions", self.redactions.clone());
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn read(body: &[u8]) -> Result<Self, BodyError> {
        let bad = |reason: &str| BodyError::new(Kind::ErasurePerformed, reason);
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::ErasurePerformed, error))?;
        let erased = wire.erased.into_iter().map(|record| {
            let identity = match record.identity {
                None => None,
                Some(digits) => Some(Identity::from_bytes(
                    bytes_of(&digits).ok_or_else(|| bad("identity"))?,
                )),
            };
            let span_id = match record.span_id {
                None => None,
                Some(digits) => Some(bytes_of(&digits).ok_or_else(|| bad("span_id"))?),
            };
            let incident = match (record.incident_id, record.incident_event) {
                (Some(incident_id), Some(step)) => Some(ErasedIncident { incident_id, step }),
                (None, None) => None,
                (Some(_), None) => return Err(bad("incident_id without incident_event")),
                (None, Some(_)) => return Err(bad("incident_event without incident_id")),
            };
            Ok(ErasedRecord {
                record_id: RecordId::parse(&record.record_id).ok_or_else(|| bad("record_id"))?,
                identity,
                incident,
                root_ended: record.root_ended,
                span_id,
                step_index: record.step_index,
            })
        });
        Ok(Self {
            erased: erased.collect::<Result<_, BodyError>>()?,
            only: wire.only,
            principal: wire.principal,
            reason: wire.reason,
            redactions: None,
        })
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        for record in &self.erased {
            push_facet(out, "erasure", &record.record_id.to_string());
        }
    }
}

fn bytes_of<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N || !digits.is_ascii() {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[derive(Deserialize)]
struct Wire {
    erased: Vec<WireRecord>,
    only: bool,
    principal: String,
    reason: String,
}

#[derive(Deserialize)]
struct WireRecord {
    identity: Option<String>,
    incident_event: Option<IncidentStep>,
    incident_id: Option<String>,
    record_id: String,
    #[serde(default)]
    root_ended: bool,
    span_id: Option<String>,
    step_index: Option<u32>,
}

#[cfg(test)]
mod tests {
    use tlog::LeafIndex;

    use super::*;
    use crate::Timestamp;

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let at = Timestamp::parse("2026-11-21T09:30:00.000001Z").unwrap();
        let record_id = RecordId::new(at, LeafIndex::new(281), 123_456_789).unwrap();
        let erasure = ErasurePerformed {
            erased: vec![
                ErasedRecord {
                    record_id,
                    identity: Some(Identity::step(0)),
                    step_index: Some(0),
                    ..ErasedRecord::unknown(record_id)
                },
                ErasedRecord {
                    incident: Some(ErasedIncident {
                        incident_id: "i1".into(),
                        step: IncidentStep::Opened,
                    }),
                    ..ErasedRecord::unknown(record_id)
                },
                ErasedRecord::unknown(record_id),
                ErasedRecord {
                    root_ended: true,
                    span_id: Some([0, 0, 0, 0, 0, 0, 0x0a, 0xff]),
                    ..ErasedRecord::unknown(record_id)
                },
            ],
            only: false,
            principal: "key:a1".into(),
            reason: "asked for by the person".into(),
            redactions: None,
        };
        erasure.check().unwrap();
        let body = String::from_utf8(erasure.encode()).unwrap();
        let id = record_id.to_string();
        assert_eq!(
            body,
            format!(
                r#"{{"erased":[{{"identity":"186c6ac354c12f183e4768441954a29c","record_id":"{id}","step_index":0}},{{"incident_event":"opened","incident_id":"i1","record_id":"{id}"}},{{"record_id":"{id}"}},{{"record_id":"{id}","root_ended":true,"span_id":"0000000000000aff"}}],"only":false,"principal":"key:a1","reason":"asked for by the person"}}"#
            )
        );
        assert_eq!(ErasurePerformed::read(body.as_bytes()).unwrap(), erasure);
        for half in [r#""incident_event":"opened","#, r#""incident_id":"i1","#] {
            let other = body.replace(half, "");
            assert!(
                other != body && ErasurePerformed::read(other.as_bytes()).is_err(),
                "without {half}"
            );
        }
        assert!(bytes_of::<16>("é186c6ac354c12f183e4768441954a29").is_none());
        assert!(bytes_of::<8>("186c6ac354c12f183e4768441954a29c").is_none());
        let silent = ErasurePerformed {
            reason: String::new(),
            ..erasure
        };
        assert_eq!(silent.check().unwrap_err().field, "reason");
    }
}
