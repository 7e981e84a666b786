//! `audit.event`: what a person, an agent or the system did to policies, limits, incidents and signals.
//!
//! The actor's type stands in the header, and so does the id of an agent or of a
//! system. A human's id stands in the body only, so that it can be erased; to
//! be read alike, every actor's id stands there.
//!
//! Start at [`AuditEvent::check`]. Source: SPEC 5.2; docs/formats.md, "audit.event".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::header::words;
use crate::{ActorType, Header, Kind, SourceDomain};

words! {
    /// What happened.
    AuditEventType {
        /// Needs an after state.
        PolicyRuleCreated = "PolicyRuleCreated",
        /// Needs both states.
        PolicyRuleModified = "PolicyRuleModified",
        /// Needs a before state.
        PolicyRuleRetired = "PolicyRuleRetired",
        /// Mostly by a human.
        PolicyProposalApproved = "PolicyProposalApproved",
        /// Mostly by a human.
        PolicyProposalRejected = "PolicyProposalRejected",
        /// Needs an after state.
        LimitCreated = "LimitCreated",
        /// Needs both states.
        LimitUpdated = "LimitUpdated",
        /// A limit was passed.
        LimitBreached = "LimitBreached",
        /// A limit was lifted for a while.
        LimitOverrideGranted = "LimitOverrideGranted",
        /// It holds again.
        LimitOverrideRevoked = "LimitOverrideRevoked",
        /// Somebody has seen it.
        IncidentAcknowledged = "IncidentAcknowledged",
        /// Its cause is gone.
        IncidentResolved = "IncidentResolved",
        /// Closed by hand.
        IncidentManuallyClosed = "IncidentManuallyClosed",
        /// Of any entity.
        EmergencyOverrideActivated = "EmergencyOverrideActivated",
        /// Of any entity.
        EmergencyOverrideDeactivated = "EmergencyOverrideDeactivated",
        /// Mostly by a human.
        SignalAcknowledged = "SignalAcknowledged",
        /// Mostly by a human.
        SignalSuppressed = "SignalSuppressed",
        /// Passed on to somebody with more say.
        SignalEscalated = "SignalEscalated",
    }
}

words! {
    /// What it happened to.
    AuditEntityType {
        /// A rule of a policy.
        PolicyRule = "POLICY_RULE",
        /// A proposal of a rule.
        PolicyProposal = "POLICY_PROPOSAL",
        /// A limit.
        Limit = "LIMIT",
        /// An incident.
        Incident = "INCIDENT",
        /// A signal.
        Signal = "SIGNAL",
    }
}

/// Which states an event needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum States {
    /// The thing came to be: after.
    After,
    /// It changed: before and after.
    Both,
    /// It went: before.
    Before,
    /// Neither; a single one is the state after.
    Free,
}

impl AuditEventType {
    /// Every event type.
    pub const ALL: [Self; 18] = [
        Self::PolicyRuleCreated,
        Self::PolicyRuleModified,
        Self::PolicyRuleRetired,
        Self::PolicyProposalApproved,
        Self::PolicyProposalRejected,
        Self::LimitCreated,
        Self::LimitUpdated,
        Self::LimitBreached,
        Self::LimitOverrideGranted,
        Self::LimitOverrideRevoked,
        Self::IncidentAcknowledged,
        Self::IncidentResolved,
        Self::IncidentManuallyClosed,
        Self::EmergencyOverrideActivated,
        Self::EmergencyOverrideDeactivated,
        Self::SignalAcknowledged,
        Self::SignalSuppressed,
        Self::SignalEscalated,
    ];

    /// What the event's name says it happened to; `None`: any entity.
    pub const fn entity_type(self) -> Option<AuditEntityType> {
        Some(match self {
            Self::PolicyRuleCreated | Self::PolicyRuleModified | Self::PolicyRuleRetired => {
                AuditEntityType::PolicyRule
            }
            Self::PolicyProposalApproved | Self::PolicyProposalRejected => AuditEntityType::PolicyProposal,
            Self::LimitCreated
            | Self::LimitUpdated
            | Self::LimitBreached
            | Self::LimitOverrideGranted
            | Self::LimitOverrideRevoked => AuditEntityType::Limit,
            Self::IncidentAcknowledged | Self::IncidentResolved | Self::IncidentManuallyClosed => {
                AuditEntityType::Incident
            }
            Self::SignalAcknowledged | Self::SignalSuppressed | Self::SignalEscalated => {
                AuditEntityType::Signal
            }
            Self::EmergencyOverrideActivated | Self::EmergencyOverrideDeactivated => return None,
        })
    }

    /// Who mostly does it.
    pub const fn default_actor(self) -> ActorType {
        match self {
            Self::PolicyProposalApproved
            | Self::PolicyProposalRejected
            | Self::SignalAcknowledged
            | Self::SignalSuppressed => ActorType::Human,
            _ => ActorType::System,
        }
    }

    const fn states(self) -> States {
        match self {
            Self::PolicyRuleCreated | Self::LimitCreated => States::After,
            Self::PolicyRuleModified | Self::LimitUpdated => States::Both,
            Self::PolicyRuleRetired => States::Before,
            _ => States::Free,
        }
    }
}

impl AuditEntityType {
    /// Where such things live.
    pub const fn source_domain(self) -> SourceDomain {
        match self {
            Self::PolicyRule | Self::PolicyProposal | Self::Limit => SourceDomain::Policy,
            Self::Incident | Self::Signal => SourceDomain::Incidents,
        }
    }
}

/// An `audit.event`: its body, and what of it stands in the header.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEvent {
    /// What happened.
    pub event_type: AuditEventType,
    /// What it happened to.
    pub entity_type: AuditEntityType,
    /// Which one.
    pub entity_id: String,
    /// Who did it. Stands in the header.
    pub actor_type: ActorType,
    /// His id; needed of humans and agents.
    pub actor_id: Option<String>,
    /// Why.
    pub action_reason: Option<String>,
    /// What it was before, a JSON object.
    pub before_state: Option<Value>,
    /// What it is now, a JSON object.
    pub after_state: Option<Value>,
    /// The conversation, session or request. Stands in the header.
    pub correlation_id: Option<String>,
}

impl AuditEvent {
    /// By the usual actor, without reason and states.
    pub fn new(event_type: AuditEventType, entity_type: AuditEntityType, entity_id: &str) -> Self {
        Self {
            event_type,
            entity_type,
            entity_id: entity_id.to_owned(),
            actor_type: event_type.default_actor(),
            actor_id: None,
            action_reason: None,
            before_state: None,
            after_state: None,
            correlation_id: None,
        }
    }

    /// Whether it keeps to the rules of SPEC 5.2.
    ///
    /// # Errors
    /// The first rule broken, and the field it is about.
    pub fn check(&self) -> Result<(), RuleBroken> {
        let event = self.event_type.as_str();
        let broken = |field, what: &str| Err(RuleBroken::new(field, format!("{event} {what}")));
        if let Some(entity) = self.event_type.entity_type()
            && entity != self.entity_type
        {
            return broken("entity_type", &format!("is about {}", entity.as_str()));
        }
        rule::identifier("entity_id", &self.entity_id)?;
        if let Some(actor_id) = &self.actor_id {
            rule::name("actor_id", actor_id)?;
        }
        rule::identifiers(&[("correlation_id", &self.correlation_id)])?;
        if self.actor_type != ActorType::System && self.actor_id.is_none() {
            let actor = self.actor_type.as_str();
            return Err(RuleBroken::new("actor_id", format!("{actor} needs one")));
        }
        rule::prose("action_reason", self.action_reason.as_deref())?;
        rule::object("before_state", self.before_state.as_ref())?;
        rule::object("after_state", self.after_state.as_ref())?;
        let (before, after) = (self.before_state.is_some(), self.after_state.is_some());
        match self.event_type.states() {
            States::After | States::Both if !after => broken("after_state", "needs the state after it"),
            States::Before | States::Both if !before => broken("before_state", "needs the state before it"),
            States::Free if before && !after => broken("before_state", "has a single state as after_state"),
            _ => Ok(()),
        }
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(7);
        put(
            &mut object,
            "action_reason",
            self.action_reason.as_deref().map(text),
        );
        put(&mut object, "actor_id", self.actor_id.as_deref().map(text));
        put(&mut object, "after_state", self.after_state.clone());
        put(&mut object, "before_state", self.before_state.clone());
        put(&mut object, "entity_id", Some(text(&self.entity_id)));
        put(&mut object, "entity_type", Some(text(self.entity_type.as_str())));
        put(&mut object, "event_type", Some(text(self.event_type.as_str())));
        canonical::to_vec(&Value::Object(object))
    }

    /// What it says to projections, the same that [`AuditEventFacts::read`] finds in the stored bytes.
    pub fn facts(&self) -> AuditEventFacts {
        let named = |state: &Option<Value>, key| {
            let run = state.as_ref().and_then(|state| state.get(key));
            run.and_then(Value::as_str).map(str::to_owned)
        };
        AuditEventFacts {
            event_type: self.event_type,
            entity_type: self.entity_type,
            entity_id: self.entity_id.clone(),
            runs: distinct([
                named(&self.before_state, "run_id"),
                named(&self.before_state, "source_run_id"),
                named(&self.after_state, "run_id"),
                named(&self.after_state, "source_run_id"),
            ]),
        }
    }
}

fn distinct(runs: [Option<String>; 4]) -> Vec<String> {
    let mut runs: Vec<String> = runs.into_iter().flatten().collect();
    runs.sort_unstable();
    runs.dedup();
    runs
}

/// The component of the events that are changes of a tenant's settings. Only the ledger writes under it.
pub const SETTINGS_COMPONENT: &str = "settings";

/// What an audit event says to projections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEventFacts {
    /// What happened.
    pub event_type: AuditEventType,
    /// What it happened to.
    pub entity_type: AuditEntityType,
    /// The same, by its id.
    pub entity_id: String,
    /// The runs that its states name as `run_id` or `source_run_id`: sorted, each once.
    pub runs: Vec<String>,
}

impl AuditEventFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default)]
            after_state: State,
            #[serde(default)]
            before_state: State,
            entity_id: String,
            entity_type: AuditEntityType,
            event_type: AuditEventType,
        }
        // A state may hold anything under these names; only text names a run.
        #[derive(Default, Deserialize)]
        struct State {
            #[serde(default)]
            run_id: serde_json::Value,
            #[serde(default)]
            source_run_id: serde_json::Value,
        }
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::AuditEvent, error))?;
        let named = |value: serde_json::Value| match value {
            serde_json::Value::String(run) => Some(run),
            _ => None,
        };
        Ok(Self {
            event_type: wire.event_type,
            entity_type: wire.entity_type,
            entity_id: wire.entity_id,
            runs: distinct([
                named(wire.before_state.run_id),
                named(wire.before_state.source_run_id),
                named(wire.after_state.run_id),
                named(wire.after_state.source_run_id),
            ]),
        })
    }

    pub(crate) fn facets(&self, header: &Header<'_>, out: &mut Vec<String>) {
        out.push("audit".to_owned());
        push_facet(out, "audit.event_type", self.event_type.as_str());
        push_facet(out, "audit.entity_type", self.entity_type.as_str());
        push_facet(out, "audit.actor_type", header.actor.kind.as_str());
        for run in &self.runs {
            push_facet(out, "audit.run", run);
        }
        if header.source_component == SETTINGS_COMPONENT {
            push_facet(out, "setting", &self.entity_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(key: &str, value: &str) -> Value {
        Value::object([(key, Value::String(value.into()))])
    }

    fn event(event_type: AuditEventType) -> AuditEvent {
        let entity = event_type.entity_type().unwrap_or(AuditEntityType::Limit);
        AuditEvent {
            actor_type: ActorType::System,
            ..AuditEvent::new(event_type, entity, "e1")
        }
    }

    fn broken(event: &AuditEvent) -> &'static str {
        event.check().unwrap_err().field
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let event = AuditEvent {
            actor_type: ActorType::Human,
            actor_id: Some("ada".into()),
            action_reason: Some("too \"tight\"".into()),
            before_state: Some(Value::object([("max", Value::Int(10))])),
            after_state: Some(Value::object([
                ("source_run_id", Value::String("r1".into())),
                ("max", Value::Int(20)),
            ])),
            correlation_id: Some("c1".into()),
            ..event(AuditEventType::LimitUpdated)
        };
        event.check().unwrap();
        let body = String::from_utf8(event.encode()).unwrap();
        assert_eq!(
            body,
            r#"{"action_reason":"too \"tight\"","actor_id":"ada","after_state":{"max":20,"source_run_id":"r1"},"before_state":{"max":10},"entity_id":"e1","entity_type":"LIMIT","event_type":"LimitUpdated"}"#
        );
        assert_eq!(AuditEventFacts::read(body.as_bytes()).unwrap(), event.facts());
        let least = self::event(AuditEventType::SignalEscalated);
        assert_eq!(
            String::from_utf8(least.encode()).unwrap(),
            r#"{"entity_id":"e1","entity_type":"SIGNAL","event_type":"SignalEscalated"}"#
        );
    }

    #[test]
    fn an_entity_follows_from_the_events_name() {
        let entities = [
            AuditEntityType::PolicyRule,
            AuditEntityType::PolicyProposal,
            AuditEntityType::Limit,
            AuditEntityType::Incident,
            AuditEntityType::Signal,
        ];
        for event_type in AuditEventType::ALL {
            let named = |entity: AuditEntityType| {
                let word = entity.as_str().replace('_', "");
                event_type.as_str().to_uppercase().starts_with(&word)
            };
            let any = event_type.as_str().starts_with("EmergencyOverride");
            for entity_type in entities {
                let event = AuditEvent {
                    entity_type,
                    before_state: Some(state("a", "b")),
                    after_state: Some(state("a", "c")),
                    ..event(event_type)
                };
                if any || named(entity_type) {
                    event.check().unwrap();
                } else {
                    assert_eq!(broken(&event), "entity_type", "{event_type:?} {entity_type:?}");
                }
            }
        }
    }

    #[test]
    fn changes_need_the_states_that_show_them() {
        for event_type in AuditEventType::ALL {
            let name = event_type.as_str();
            let with = |before: bool, after: bool| AuditEvent {
                before_state: before.then(|| state("a", "b")),
                after_state: after.then(|| state("a", "c")),
                ..event(event_type)
            };
            let needs_after = ["Created", "Modified", "Updated"];
            let needs_before = ["Retired", "Modified", "Updated"];
            let needs = |words: [&str; 3]| words.iter().any(|word| name.ends_with(word));
            with(true, true).check().unwrap();
            assert_eq!(with(false, true).check().is_ok(), !needs(needs_before), "{name}");
            assert_eq!(
                with(true, false).check().is_ok(),
                name.ends_with("Retired"),
                "{name}"
            );
            assert_eq!(
                with(false, false).check().is_ok(),
                !needs(needs_before) && !needs(needs_after),
                "{name}"
            );
        }
        let text = AuditEvent {
            after_state: Some(Value::String("on".into())),
            ..event(AuditEventType::LimitCreated)
        };
        assert_eq!(broken(&text), "after_state");
    }

    #[test]
    fn humans_and_agents_need_an_id() {
        for (actor_type, actor_id, field) in [
            (ActorType::Human, None, Some("actor_id")),
            (ActorType::Agent, None, Some("actor_id")),
            (ActorType::Human, Some(""), Some("actor_id")),
            (ActorType::Human, Some(" "), Some("actor_id")),
            (ActorType::System, None, None),
            (ActorType::System, Some("cron"), None),
            (ActorType::Human, Some("ada"), None),
        ] {
            let event = AuditEvent {
                actor_type,
                actor_id: actor_id.map(str::to_owned),
                ..event(AuditEventType::LimitBreached)
            };
            assert_eq!(event.check().err().map(|broken| broken.field), field);
        }
        assert_eq!(
            AuditEvent::new(AuditEventType::SignalSuppressed, AuditEntityType::Signal, "s").actor_type,
            ActorType::Human
        );
    }

    #[test]
    fn both_states_name_runs_under_two_names_each_once() {
        let event = AuditEvent {
            before_state: Some(Value::object([
                ("run_id", Value::String("r2".into())),
                ("source_run_id", Value::Int(7)),
            ])),
            after_state: Some(Value::object([
                ("run_id", Value::String("r1".into())),
                ("source_run_id", Value::String("r2".into())),
            ])),
            ..event(AuditEventType::LimitUpdated)
        };
        assert_eq!(event.facts().runs, ["r1", "r2"]);
        assert_eq!(AuditEventFacts::read(&event.encode()).unwrap(), event.facts());
    }
}
