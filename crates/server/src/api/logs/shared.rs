//! What all entries of a list share: it stands in the metadata of the list.
//!
//! Ids that only some entries have, or of which they have different ones, stand nowhere.
//!
//! Source: SPEC 5.1 ("Ids only where all items share them").

use std::borrow::Cow;
use std::collections::BTreeSet;

use evidence::ActorType;
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

/// What an entry names in its body: of system records and decisions their own fields, of audit events what they say of
/// what was before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) runs: BTreeSet<String>,
    pub(super) policies: BTreeSet<String>,
    pub(super) incidents: BTreeSet<String>,
}

/// What a state of an audit event names. It may hold anything under these names; only text names something.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_field_names)] // the names in the body
pub(super) struct Names {
    incident_id: Value,
    policy_id: Value,
    run_id: Value,
    source_run_id: Value,
}

impl Named {
    /// Of an audit event with these states about that entity.
    pub(super) fn by_event<'a>(
        states: impl IntoIterator<Item = &'a Names>,
        entity_type: &str,
        entity_id: &str,
    ) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut named = Self::default();
        for state in states {
            named.runs.extend(text(&state.run_id));
            named.runs.extend(text(&state.source_run_id));
            named.policies.extend(text(&state.policy_id));
            named.incidents.extend(text(&state.incident_id));
        }
        if entity_type == "INCIDENT" {
            named.incidents.insert(entity_id.to_owned());
        }
        named
    }

    fn keep(&mut self, other: &Self) {
        self.runs.retain(|id| other.runs.contains(id));
        self.policies.retain(|id| other.policies.contains(id));
        self.incidents.retain(|id| other.incidents.contains(id));
    }
}

/// A record as an answer shows it.
pub(super) trait Item: Sized {
    /// Reads it of its entry.
    fn read(entry: &Entry) -> Result<Self, ApiError>;

    /// What it names, when it names something.
    fn named(&self) -> Named {
        Named::default()
    }

    /// Who did it, where the body says so: a person's id stands nowhere else.
    fn actor_id(&self) -> Option<&str> {
        None
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
    pub(super) fn add(
        &mut self,
        entry: &Entry,
        item: &impl Item,
        metadata: &mut Metadata,
    ) -> Result<(), ApiError> {
        let header = entry.header()?;
        let owned = |text: &Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
        let named = item.named();
        let actor = item.actor_id().or(header.actor.id.as_deref());
        let actor = actor.map(|id| (header.actor.kind, id.to_owned()));
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

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_audit_event_names_what_its_states_name_and_the_incident_that_it_is_about() {
        let state = |text: &str| serde_json::from_str::<Names>(text).unwrap();
        let states = [
            state(r#"{"policy_id":"p","run_id":"r"}"#),
            state(r#"{"max":3,"policy_id":7,"source_run_id":"s"}"#),
        ];
        let event = Named::by_event(&states, "INCIDENT", "inc-1");
        assert_eq!(event.runs, set(&["r", "s"]));
        assert_eq!((event.policies, event.incidents), (set(&["p"]), set(&["inc-1"])));
    }

    #[test]
    fn only_what_all_entries_name_is_kept() {
        let policies = |ids: &[&str]| Named {
            policies: set(ids),
            ..Named::default()
        };
        let mut first = policies(&["a", "b"]);
        first.keep(&policies(&["b", "c"]));
        assert_eq!(first, policies(&["b"]));
        first.keep(&Named::default());
        assert_eq!(first, Named::default());
    }
}
