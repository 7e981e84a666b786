//! `access.event`: who read or took away which evidence.
//!
//! Source: SPEC 5.4; docs/formats.md, "access.event".

use serde::Deserialize;

use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::header::words;
use crate::{Kind, Timestamp};

words! {
    /// How evidence was had.
    AccessEventType {
        /// Read.
        Read = "evidence.read",
        /// Downloaded.
        Exported = "evidence.exported",
    }
}

/// The body of an `access.event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessEvent {
    /// How many accesses stand here, at least 1.
    pub count: u64,
    /// Read or taken away.
    pub event_type: AccessEventType,
    /// What the request asked for by query, name and value, by rising name.
    pub filters: Vec<(String, String)>,
    /// The operation, e.g. `get_llm_run_trace`.
    pub operation: String,
    /// Who.
    pub principal: String,
    /// The request; absent when several stand here.
    pub request_id: Option<String>,
    /// The request's path; absent when several stand here.
    pub resource: Option<String>,
    /// Rows that were answered with.
    pub row_count: u64,
    /// When several stand here: the first of them; the last is the header's `occurred_at`.
    pub since: Option<Timestamp>,
}

impl AccessEvent {
    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let int = |n: u64| Value::Int(i64::try_from(n).unwrap_or(canonical::INTEGER_MAX));
        let mut object = Vec::with_capacity(9);
        put(&mut object, "count", Some(int(self.count)));
        put(&mut object, "event_type", Some(text(self.event_type.as_str())));
        let filters = self
            .filters
            .iter()
            .map(|(name, value)| (name.as_str(), text(value)));
        put(&mut object, "filters", Some(Value::object(filters)));
        put(&mut object, "operation", Some(text(&self.operation)));
        put(&mut object, "principal", Some(text(&self.principal)));
        put(&mut object, "request_id", self.request_id.as_deref().map(text));
        put(&mut object, "resource", self.resource.as_deref().map(text));
        put(&mut object, "row_count", Some(int(self.row_count)));
        put(&mut object, "since", self.since.map(|at| text(&at.to_string())));
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no body of this kind.
    pub fn read(body: &[u8]) -> Result<Self, BodyError> {
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::AccessEvent, error))?;
        Ok(Self {
            count: wire.count,
            event_type: wire.event_type,
            filters: wire.filters.into_iter().collect(),
            operation: wire.operation,
            principal: wire.principal,
            request_id: wire.request_id,
            resource: wire.resource,
            row_count: wire.row_count,
            since: wire.since,
        })
    }

    /// By which lists find it.
    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        out.push("access".into());
        push_facet(out, "access.event_type", self.event_type.as_str());
        push_facet(out, "access.operation", &self.operation);
        push_facet(out, "access.principal", &self.principal);
    }
}

#[derive(Deserialize)]
struct Wire {
    count: u64,
    event_type: AccessEventType,
    filters: std::collections::BTreeMap<String, String>,
    operation: String,
    principal: String,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default)]
    resource: Option<String>,
    row_count: u64,
    #[serde(default)]
    since: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_these_for_ever() {
        let event = AccessEvent {
            count: 1,
            event_type: AccessEventType::Read,
            filters: vec![("limit".into(), "5".into()), ("model".into(), "m".into())],
            operation: "list_llm_run_records".into(),
            principal: "key:k3y".into(),
            request_id: Some("r-1".into()),
            resource: Some("/api/v1/logs/llm-runs".into()),
            row_count: 5,
            since: None,
        };
        let bytes = event.encode();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"count":1,"event_type":"evidence.read","filters":{"limit":"5","model":"m"},"operation":"list_llm_run_records","principal":"key:k3y","request_id":"r-1","resource":"/api/v1/logs/llm-runs","row_count":5}"#
        );
        assert!(canonical::is_canonical(&bytes));
        assert_eq!(AccessEvent::read(&bytes).unwrap(), event);
        let mut facets = Vec::new();
        event.facets(&mut facets);
        assert_eq!(
            facets,
            [
                "access",
                "access.event_type=evidence.read",
                "access.operation=list_llm_run_records",
                "access.principal=key:k3y"
            ]
        );
    }
}
