//! Audit events about a run, as its governance read shows them.
//!
//! Which events are about a run stands in their states, as `run_id` or `source_run_id`; a facet finds them.

use std::ops::ControlFlow;
use std::sync::Arc;

use evidence::Timestamp;
use evidence::facet::facet;
use ledger::{Ledger, Record, Tenant};
use serde::Deserialize;
use store::{FacetQuery, Gone, LeafKey};

use super::governance::{EVENTS_BYTES_MAX, EVENTS_MAX, GovernanceEvent};
use crate::ApiError;
use crate::api::run_steps::{Run, damaged};

/// What an event may be about to be shown here (SPEC 5).
const ENTITIES: [&str; 4] = ["INCIDENT", "LIMIT", "POLICY_PROPOSAL", "POLICY_RULE"];

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    action_reason: Option<String>,
    #[serde(default)]
    after_state: State,
    #[serde(default)]
    before_state: State,
    entity_id: String,
    entity_type: String,
    event_type: String,
}

/// A state may hold anything under these names; only text names something.
#[derive(Default, Deserialize)]
struct State {
    #[serde(default)]
    policy_id: serde_json::Value,
    #[serde(default)]
    rule_id: serde_json::Value,
}

impl Body {
    fn named(&self, pick: impl Fn(&State) -> &serde_json::Value) -> Option<String> {
        let text = |state| pick(state).as_str().map(str::to_owned);
        text(&self.after_state).or_else(|| text(&self.before_state))
    }
}

/// Audit events about a run.
pub(super) struct AboutRun {
    /// In the order in which they were recorded.
    pub(super) events: Vec<GovernanceEvent>,
    /// Of those that say nothing any more when they happened, and how their bodies went. About what they were, nobody
    /// can say; erased ones are found no more.
    pub(super) gone: Vec<(Timestamp, Gone)>,
    /// The last leaf that was looked at, when there are more.
    pub(super) next: Option<LeafKey>,
}

/// The audit events about a run recorded after the leaf `after` and before the leaf `before`, of [`EVENTS_MAX`] leaves
/// and [`EVENTS_BYTES_MAX`] at most.
pub(super) fn about_run(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    after: Option<LeafKey>,
    before: LeafKey,
) -> Result<AboutRun, ApiError> {
    let query = FacetQuery {
        facets: vec![facet("audit.run", &run.row.state.run_id)],
        as_of: Some(before),
        below: after,
        limit: EVENTS_MAX,
        ..FacetQuery::default()
    };
    let found = ledger.store().facet_find(tenant.tenant_no, &query)?;
    let mut next = found.next.filter(|_| found.has_more);
    let (mut events, mut gone, mut bytes) = (Vec::with_capacity(found.leaves.len()), Vec::new(), 0);
    ledger.records(tenant).each(&found.leaves, |record| {
        if let Some(why) = record.body.gone() {
            gone.push((record.header()?.occurred_at, why));
        } else if let Some(event) = shown(&record)? {
            bytes += event.bytes();
            events.push(event);
        }
        if bytes > EVENTS_BYTES_MAX && found.leaves.last() != Some(&record.leaf) {
            next = Some(record.leaf);
            return Ok(ControlFlow::Break(()));
        }
        Ok::<_, ApiError>(ControlFlow::Continue(()))
    })?;
    Ok(AboutRun { events, gone, next })
}

/// An event as it is shown; `None`: it is about something else, or says nothing any more.
fn shown(record: &Record) -> Result<Option<GovernanceEvent>, ApiError> {
    let leaf_index = record.leaf.leaf_index();
    let Some(body) = record.body.bytes() else {
        return Ok(None);
    };
    let body: Body = serde_json::from_slice(body).map_err(|error| damaged(leaf_index, &error))?;
    let Some(entity_type) = ENTITIES.into_iter().find(|entity| *entity == body.entity_type) else {
        return Ok(None);
    };
    let is_rule = entity_type == "POLICY_RULE";
    let rule_id = body.named(|state| &state.rule_id);
    let incident_id = (entity_type == "INCIDENT").then(|| body.entity_id.clone());
    Ok(Some(GovernanceEvent {
        decision: last_word(&body.event_type),
        policy_id: body.named(|state| &state.policy_id),
        rule_id: rule_id.or_else(|| is_rule.then(|| body.entity_id.clone())),
        decision_reason: body.action_reason,
        entity_id: body.entity_id,
        entity_type,
        event_type: body.event_type,
        leaf_index,
        timestamp: record.header()?.occurred_at,
        incident_id,
    }))
}

/// `LimitOverrideGranted` says `GRANTED`.
fn last_word(event_type: &str) -> String {
    let begin = event_type
        .rfind(|letter: char| letter.is_ascii_uppercase())
        .unwrap_or(0);
    event_type[begin..].to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::last_word;

    #[test]
    fn a_decision_is_the_last_word_in_capitals() {
        for (event_type, decision) in [
            ("LimitOverrideGranted", "GRANTED"),
            ("IncidentManuallyClosed", "CLOSED"),
            ("x", "X"),
            ("", ""),
        ] {
            assert_eq!(last_word(event_type), decision);
        }
    }
}
