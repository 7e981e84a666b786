//! What all entries of a list share: it stands in the metadata of the list.
//!
//! Ids that only some entries have, or of which they have different ones, stand nowhere.
//!
//! Source: SPEC 5.1 ("Ids only where all items share them").

use std::borrow::Cow;
use std::collections::BTreeSet;

use evidence::{ActorType, Kind};
use serde::Deserialize;
use serde_json::Value;

use super::entries::Entry;
use super::metadata::Metadata;
use crate::ApiError;

/// The id that all items have, if they have one and it is the same.
pub(super) fn same<'a>(mut ids: impl Iterator<Item = Option<&'a String>>) -> Option<String> {
    let first = ids.next()??;
    ids.all(|id| id == Some(first)).then(|| first.clone())
}

/// What an entry names in its body.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    runs: BTreeSet<String>,
    policies: BTreeSet<String>,
    incidents: BTreeSet<String>,
}

impl Named {
    /// Of system records and decisions their own fields, of audit events what they say of what was before and after.
    fn of(kind: Kind, body: &[u8]) -> serde_json::Result<Self> {
        // A state may hold anything under these names; only text names something.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        #[allow(clippy::struct_field_names)] // the names in the body
        struct State {
            incident_id: Value,
            policy_id: Value,
            run_id: Value,
            source_run_id: Value,
        }
        #[derive(Deserialize)]
        struct Audit {
            #[serde(default)]
            after_state: State,
            #[serde(default)]
            before_state: State,
            entity_id: String,
            entity_type: String,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Fields {
            policy_ids: Vec<String>,
            run_id: Option<String>,
        }
        let mut named = Self::default();
        match kind {
            Kind::AuditEvent => {
                let event: Audit = serde_json::from_slice(body)?;
                for state in [&event.after_state, &event.before_state] {
                    let text = |value: &Value| value.as_str().map(str::to_owned);
                    named.runs.extend(text(&state.run_id));
                    named.runs.extend(text(&state.source_run_id));
                    named.policies.extend(text(&state.policy_id));
                    named.incidents.extend(text(&state.incident_id));
                }
                if event.entity_type == "INCIDENT" {
                    named.incidents.insert(event.entity_id);
                }
            }
            Kind::SystemRecord | Kind::AuthorizationDecision => {
                let fields: Fields = serde_json::from_slice(body)?;
                named.runs.extend(fields.run_id);
                named.policies.extend(fields.policy_ids);
            }
            _ => {}
        }
        Ok(named)
    }

    fn keep(&mut self, other: &Self) {
        self.runs.retain(|id| other.runs.contains(id));
        self.policies.retain(|id| other.policies.contains(id));
        self.incidents.retain(|id| other.incidents.contains(id));
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Shared {
    count: u64,
    correlation_id: Option<String>,
    trace_id: Option<String>,
    actor: Option<(ActorType, String)>,
    mixed: bool,
    named: Named,
}

impl Shared {
    pub(super) fn add(&mut self, entry: &Entry, metadata: &mut Metadata) -> Result<(), ApiError> {
        let header = entry.header()?;
        let owned = |text: &Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
        let actor = header
            .actor
            .id
            .as_deref()
            .map(|id| (header.actor.kind, id.to_owned()));
        let named = match entry.bytes() {
            // What is no such body is refused where the entry is read.
            Some(body) => Named::of(header.kind, body).unwrap_or_default(),
            None => Named::default(),
        };
        if self.count == 0 {
            metadata.occurred_at = header.occurred_at;
            metadata.recorded_at = header.recorded_at;
            metadata.origin = header.origin.as_str();
            self.correlation_id = owned(&header.correlation_id);
            self.trace_id = owned(&header.trace_id);
            self.actor = actor;
            self.named = named;
        } else {
            if self.correlation_id != owned(&header.correlation_id) {
                self.correlation_id = None;
            }
            if self.trace_id != owned(&header.trace_id) {
                self.trace_id = None;
            }
            self.mixed |= self.actor != actor;
            self.named.keep(&named);
        }
        self.count += 1;
        Ok(())
    }

    pub(super) fn finish(self, metadata: &mut Metadata) {
        metadata.correlation_id = self.correlation_id;
        metadata.trace_id = self.trace_id;
        // Of several runs that all entries name none is the list's.
        metadata.run_id = match self.named.runs.len() {
            1 => self.named.runs.into_iter().next(),
            _ => None,
        };
        metadata.policy_ids = self.named.policies.into_iter().collect();
        metadata.incident_ids = self.named.incidents.into_iter().collect();
        if let Some((kind, id)) = self.actor.filter(|_| !self.mixed) {
            match kind {
                ActorType::Human => metadata.human_actor_id = Some(id),
                ActorType::Agent => metadata.agent_id = Some(id),
                ActorType::System => metadata.system_id = Some(id),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kind: Kind, body: &str) -> Named {
        Named::of(kind, body.as_bytes()).unwrap()
    }

    #[test]
    fn an_audit_event_names_what_its_states_name_and_the_incident_that_it_is_about() {
        let event = named(
            Kind::AuditEvent,
            r#"{"after_state":{"policy_id":"p","run_id":"r"},"before_state":{"policy_id":7,"source_run_id":"s"},
                "entity_id":"inc-1","entity_type":"INCIDENT","event_type":"IncidentResolved"}"#,
        );
        let set = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(event.runs, set(&["r", "s"]));
        assert_eq!((event.policies, event.incidents), (set(&["p"]), set(&["inc-1"])));
    }

    #[test]
    fn only_what_all_entries_name_is_kept() {
        let mut first = named(Kind::AuthorizationDecision, r#"{"policy_ids":["a","b"]}"#);
        first.keep(&named(Kind::AuthorizationDecision, r#"{"policy_ids":["b","c"]}"#));
        assert_eq!(first.policies.into_iter().collect::<Vec<_>>(), ["b"]);
        let mut run = named(Kind::SystemRecord, r#"{"run_id":"r"}"#);
        run.keep(&named(Kind::SystemRecord, "{}"));
        assert_eq!(run, Named::default());
    }
}
