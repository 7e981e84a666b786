//! `system.record`: what happened to the systems around the runs.
//!
//! Source: SPEC 5.3; docs/formats.md, "system.record".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::{Header, Kind};

/// The event type by which a tenant comes to be, in the ledger of `_instance`.
pub const TENANT_CREATED: &str = "TENANT_CREATED";

/// The source component, in the header, of the records that make tenants. Callers cannot choose it.
pub const TENANT_COMPONENT: &str = "ledger";

/// The source component, in the header, of the server's own records. Callers cannot choose it.
pub const SERVER_COMPONENT: &str = "server";

/// The event type of the server's own record that verification found something.
pub const VERIFICATION_FAILED: &str = "VERIFICATION_FAILED";

/// The event type of the server's own record that a full verification found nothing any more.
pub const VERIFICATION_PASSED: &str = "VERIFICATION_PASSED";

/// How grave a system record is (SPEC 5.3), least first.
pub const SEVERITIES: [&str; 5] = ["DEBUG", "INFO", "WARN", "ERROR", "CRITICAL"];

/// Who may have caused a system record (SPEC 5.3).
pub const CAUSES: [&str; 3] = ["SYSTEM", "HUMAN", "AUTOMATION"];

/// The tenant in whose ledger those records stand.
pub(crate) const TENANT_LEDGER: &str = "_instance";

/// The body of a `system.record`. When it happened stands in the header.
#[derive(Clone, Debug, Default)]
pub struct SystemRecord {
    /// An open word, e.g. `ledger`, a service name.
    pub component: String,
    /// An open word in capitals, e.g. `STARTUP`, `LOG`.
    pub event_type: String,
    /// `DEBUG`, `INFO`, `WARN`, `ERROR`, `CRITICAL`.
    pub severity: String,
    /// One line for people.
    pub summary: String,
    /// Anything more, a JSON object.
    pub details: Option<Value>,
    /// Where.
    pub host: Option<String>,
    /// The `service.instance.id` of what it came from, of a log record.
    pub instance: Option<String>,
    /// `SYSTEM`, `HUMAN`, `AUTOMATION`.
    pub caused_by: Option<String>,
    /// The run that it touched.
    pub run_id: Option<String>,
}

impl SystemRecord {
    /// Whether it keeps to the rules of SPEC 5.3. What is lowered from logs keeps to rules of its own.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::identifier("component", &self.component)?;
        rule::identifier("event_type", &self.event_type)?;
        rule::word("severity", &self.severity, &SEVERITIES)?;
        rule::prose_given("summary", &self.summary)?;
        rule::object("details", self.details.as_ref())?;
        rule::identifiers(&[("host", &self.host), ("run_id", &self.run_id)])?;
        self.caused_by
            .as_deref()
            .map_or(Ok(()), |cause| rule::word("caused_by", cause, &CAUSES))
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(8);
        put(&mut object, "caused_by", self.caused_by.as_deref().map(text));
        put(&mut object, "component", Some(text(&self.component)));
        put(&mut object, "details", self.details.clone());
        put(&mut object, "event_type", Some(text(&self.event_type)));
        put(&mut object, "host", self.host.as_deref().map(text));
        put(&mut object, "instance", self.instance.as_deref().map(text));
        put(&mut object, "run_id", self.run_id.as_deref().map(text));
        put(&mut object, "severity", Some(text(&self.severity)));
        put(&mut object, "summary", Some(text(&self.summary)));
        canonical::to_vec(&Value::Object(object))
    }

    /// The facts of this record.
    pub fn facts(&self) -> SystemFacts {
        SystemFacts {
            component: self.component.clone(),
            event_type: self.event_type.clone(),
            severity: self.severity.clone(),
            host: self.host.clone(),
            instance: self.instance.clone(),
            run_id: self.run_id.clone(),
        }
    }
}

/// What a system record says to projections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)] // the fields of `SystemRecord`
pub struct SystemFacts {
    pub component: String,
    pub event_type: String,
    pub severity: String,
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub instance: Option<String>,
    #[serde(default)]
    pub run_id: Option<String>,
}

fn push_minute(header: &Header<'_>, out: &mut Vec<String>) {
    let at = header.occurred_at.to_string();
    push_facet(out, "system.minute", at.get(..MINUTE_CHARS).unwrap_or(&at));
}

/// Characters of a time's text up to its minute.
const MINUTE_CHARS: usize = "2026-11-21T09:30".len();

impl SystemFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::SystemRecord, error))
    }

    pub(crate) fn facets(&self, header: &Header<'_>, out: &mut Vec<String>) {
        // All tenants read the instance's records under this facet: which tenants there are is not theirs to know.
        let makes_tenant = header.tenant_id == TENANT_LEDGER
            && header.source_component == TENANT_COMPONENT
            && self.event_type == TENANT_CREATED;
        if !makes_tenant {
            out.push("system".to_owned());
        }
        push_facet(out, "system.component", &self.component);
        push_facet(out, "system.event_type", &self.event_type);
        push_facet(out, "system.severity", &self.severity);
        if let Some(correlation_id) = &header.correlation_id {
            push_facet(out, "system.correlation", correlation_id);
        }
        if let Some(host) = &self.host {
            push_facet(out, "system.host", host);
        }
        if let Some(instance) = &self.instance {
            push_facet(out, "system.instance", instance);
        }
        if let Some(run_id) = &self.run_id {
            push_facet(out, "system.run", run_id);
        }
        push_minute(header, out);
    }

    /// Of an erased one, which made no tenant.
    pub(crate) fn erased_facets(header: &Header<'_>, out: &mut Vec<String>) {
        out.push("system".to_owned());
        if let Some(correlation_id) = &header.correlation_id {
            push_facet(out, "system.correlation", correlation_id);
        }
        push_minute(header, out);
    }
}

/// The facts of a tenant's creation: `details` of its record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TenantCreated {
    /// The tenant.
    pub tenant_id: String,
    /// Its number in stores, from 1; 0 is `_instance`.
    pub tenant_no: u32,
}

impl TenantCreated {
    /// The record that makes a tenant.
    pub fn to_record(&self) -> SystemRecord {
        SystemRecord {
            component: "ledger".into(),
            event_type: TENANT_CREATED.into(),
            severity: "INFO".into(),
            summary: format!("tenant {} created", self.tenant_id),
            details: Some(Value::Object(vec![
                ("tenant_id".into(), text(&self.tenant_id)),
                ("tenant_no".into(), Value::Int(i64::from(self.tenant_no))),
            ])),
            ..SystemRecord::default()
        }
    }

    /// A record of that event type makes a tenant only where the ledger itself wrote it: what callers
    /// send under the same name stays a record like others, whatever its details.
    pub(crate) fn read(header: &Header<'_>, body: &[u8]) -> Result<Option<Self>, BodyError> {
        if header.tenant_id != TENANT_LEDGER || header.source_component != TENANT_COMPONENT {
            return Ok(None);
        }
        #[derive(Deserialize)]
        struct Wire {
            event_type: String,
        }
        #[derive(Deserialize)]
        struct Details {
            details: TenantCreated,
        }
        let error = |error| BodyError::new(Kind::SystemRecord, error);
        let wire: Wire = serde_json::from_slice(body).map_err(error)?;
        if wire.event_type != TENANT_CREATED {
            return Ok(None);
        }
        serde_json::from_slice::<Details>(body)
            .map(|wire| Some(wire.details))
            .map_err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> SystemRecord {
        SystemRecord {
            component: "scheduler".into(),
            event_type: "STARTUP".into(),
            severity: "INFO".into(),
            summary: "up".into(),
            ..SystemRecord::default()
        }
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let logged = SystemRecord {
            instance: Some("i1".into()),
            ..record()
        };
        assert_eq!(
            String::from_utf8(logged.encode()).unwrap(),
            r#"{"component":"scheduler","event_type":"STARTUP","instance":"i1","severity":"INFO","summary":"up"}"#
        );
        let whole = SystemRecord {
            details: Some(Value::object([("pid", Value::Int(7))])),
            host: Some("h1".into()),
            caused_by: Some("AUTOMATION".into()),
            run_id: Some("r1".into()),
            ..record()
        };
        whole.check().unwrap();
        assert_eq!(
            String::from_utf8(whole.encode()).unwrap(),
            r#"{"caused_by":"AUTOMATION","component":"scheduler","details":{"pid":7},"event_type":"STARTUP","host":"h1","run_id":"r1","severity":"INFO","summary":"up"}"#
        );
    }

    #[test]
    fn words_of_a_posted_record_are_those_of_the_lists() {
        record().check().unwrap();
        for (bad, field) in [
            (
                SystemRecord {
                    severity: "info".into(),
                    ..record()
                },
                "severity",
            ),
            (
                SystemRecord {
                    caused_by: Some("NATURE".into()),
                    ..record()
                },
                "caused_by",
            ),
            (
                SystemRecord {
                    component: String::new(),
                    ..record()
                },
                "component",
            ),
            (
                SystemRecord {
                    event_type: "a\nb".into(),
                    ..record()
                },
                "event_type",
            ),
            (
                SystemRecord {
                    summary: String::new(),
                    ..record()
                },
                "summary",
            ),
            (
                SystemRecord {
                    details: Some(Value::Int(1)),
                    ..record()
                },
                "details",
            ),
        ] {
            assert_eq!(bad.check().unwrap_err().field, field);
        }
    }
}
