//! `incident.event`: an incident is opened, acknowledged, resolved, closed.
//!
//! What an incident is now is a fold over its events ([`IncidentStatus::after`]).
//! As in `audit.event`, the actor's type stands in the header and his id in the
//! body.
//!
//! Source: SPEC 5.6; docs/formats.md, "incident.event".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::header::words;
use crate::{ActorType, Kind};

words! {
    /// What happens to an incident.
    IncidentStep {
        /// It comes to be.
        Opened = "opened",
        /// Somebody has seen it.
        Acknowledged = "acknowledged",
        /// Its cause is gone.
        Resolved = "resolved",
        /// Nothing follows.
        Closed = "closed",
    }
}

words! {
    /// Where an incident stands.
    IncidentStatus {
        /// Nobody has seen it yet.
        Open = "OPEN",
        /// Somebody has.
        Acknowledged = "ACKNOWLEDGED",
        /// Its cause is gone.
        Resolved = "RESOLVED",
        /// For good.
        Closed = "CLOSED",
    }
}

impl IncidentStatus {
    /// Where it stands after that step; `None`: the step may not follow.
    ///
    /// Each step is taken once, in their order; any but the first may be passed over.
    pub fn after(status: Option<Self>, step: IncidentStep) -> Option<Self> {
        let next = match step {
            IncidentStep::Opened => Self::Open,
            IncidentStep::Acknowledged => Self::Acknowledged,
            IncidentStep::Resolved => Self::Resolved,
            IncidentStep::Closed => Self::Closed,
        };
        let may = match status {
            None => next == Self::Open,
            Some(status) => (status as u8) < next as u8,
        };
        may.then_some(next)
    }
}

/// What an incident is about: the body of `opened`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncidentOpened {
    /// The run that it stems from.
    pub source_run_id: Option<String>,
    /// How bad it is, an open word.
    pub severity: String,
    /// The policy that was violated.
    pub policy_id: Option<String>,
    /// Its name.
    pub policy_name: Option<String>,
    /// How it was violated.
    pub violation_type: Option<String>,
    /// The step that violated it.
    pub violation_step_index: Option<u32>,
    /// For people.
    pub summary: String,
}

/// What somebody does with an incident: the body of the other steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncidentAct {
    /// Who. Stands in the header.
    pub actor_type: ActorType,
    /// His id; needed of humans and agents.
    pub actor_id: Option<String>,
    /// Why.
    pub reason: String,
}

/// The body of an `incident.event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IncidentEvent {
    /// An incident of that id comes to be.
    Opened(String, IncidentOpened),
    /// Something is done with the incident of that id; never [`IncidentStep::Opened`].
    Act(String, IncidentStep, IncidentAct),
}

impl IncidentEvent {
    /// The incident.
    pub fn incident_id(&self) -> &str {
        let (Self::Opened(id, _) | Self::Act(id, ..)) = self;
        id
    }

    /// What happens to it.
    pub fn step(&self) -> IncidentStep {
        match self {
            Self::Opened(..) => IncidentStep::Opened,
            Self::Act(_, step, _) => *step,
        }
    }

    /// Whether it keeps to the rules of SPEC 5.6.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::identifier("incident_id", self.incident_id())?;
        match self {
            Self::Opened(_, opened) => {
                rule::identifier("severity", &opened.severity)?;
                rule::identifiers(&[
                    ("source_run_id", &opened.source_run_id),
                    ("policy_id", &opened.policy_id),
                    ("policy_name", &opened.policy_name),
                    ("violation_type", &opened.violation_type),
                ])?;
                rule::prose_given("summary", &opened.summary)
            }
            Self::Act(_, _, act) => {
                if act.actor_type != ActorType::System && act.actor_id.is_none() {
                    let actor = act.actor_type.as_str();
                    return Err(RuleBroken::new("actor_id", format!("{actor} needs one")));
                }
                if let Some(actor_id) = &act.actor_id {
                    rule::name("actor_id", actor_id)?;
                }
                rule::prose_given("reason", &act.reason)
            }
        }
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(9);
        if let Self::Act(_, _, act) = self {
            put(&mut object, "actor_id", act.actor_id.as_deref().map(text));
        }
        put(&mut object, "event", Some(text(self.step().as_str())));
        put(&mut object, "incident_id", Some(text(self.incident_id())));
        match self {
            Self::Opened(_, opened) => {
                put(&mut object, "policy_id", opened.policy_id.as_deref().map(text));
                put(
                    &mut object,
                    "policy_name",
                    opened.policy_name.as_deref().map(text),
                );
                put(&mut object, "severity", Some(text(&opened.severity)));
                put(
                    &mut object,
                    "source_run_id",
                    opened.source_run_id.as_deref().map(text),
                );
                put(&mut object, "summary", Some(text(&opened.summary)));
                let index = opened.violation_step_index.map(|index| Value::Int(index.into()));
                put(&mut object, "violation_step_index", index);
                put(
                    &mut object,
                    "violation_type",
                    opened.violation_type.as_deref().map(text),
                );
            }
            Self::Act(_, _, act) => put(&mut object, "reason", Some(text(&act.reason))),
        }
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body; the actor's type stands in the header.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn read(actor_type: ActorType, body: &[u8]) -> Result<Self, BodyError> {
        #[derive(Deserialize)]
        struct Wire {
            actor_id: Option<String>,
            event: IncidentStep,
            incident_id: String,
            policy_id: Option<String>,
            policy_name: Option<String>,
            #[serde(default)]
            reason: String,
            #[serde(default)]
            severity: String,
            source_run_id: Option<String>,
            #[serde(default)]
            summary: String,
            violation_step_index: Option<u32>,
            violation_type: Option<String>,
        }
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::IncidentEvent, error))?;
        Ok(if wire.event == IncidentStep::Opened {
            let opened = IncidentOpened {
                source_run_id: wire.source_run_id,
                severity: wire.severity,
                policy_id: wire.policy_id,
                policy_name: wire.policy_name,
                violation_type: wire.violation_type,
                violation_step_index: wire.violation_step_index,
                summary: wire.summary,
            };
            Self::Opened(wire.incident_id, opened)
        } else {
            let act = IncidentAct {
                actor_type,
                actor_id: wire.actor_id,
                reason: wire.reason,
            };
            Self::Act(wire.incident_id, wire.event, act)
        })
    }

    /// What it says to projections.
    pub fn facts(&self) -> IncidentEventFacts {
        IncidentEventFacts {
            incident_id: self.incident_id().to_owned(),
            step: self.step(),
            source_run_id: match self {
                Self::Opened(_, opened) => opened.source_run_id.clone(),
                Self::Act(..) => None,
            },
        }
    }
}

/// What an incident's event says to projections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IncidentEventFacts {
    /// The incident.
    pub incident_id: String,
    /// What happens to it.
    #[serde(rename = "event")]
    pub step: IncidentStep,
    /// Of `opened`: the run that it stems from.
    pub source_run_id: Option<String>,
}

impl IncidentEventFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::IncidentEvent, error))
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        if self.step == IncidentStep::Opened {
            out.push("incident".to_owned());
        }
        push_facet(out, "incident", &self.incident_id);
        if let Some(run) = &self.source_run_id {
            push_facet(out, "incident.run", run);
        }
    }
}

/// What is kept of an incident's event whose body is erased: which step of which incident it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedIncident {
    /// The incident.
    pub incident_id: String,
    /// What happened to it.
    pub step: IncidentStep,
}

impl ErasedIncident {
    pub(crate) fn of(event: &IncidentEventFacts) -> Self {
        Self {
            incident_id: event.incident_id.clone(),
            step: event.step,
        }
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        IncidentEventFacts {
            incident_id: self.incident_id.clone(),
            step: self.step,
            source_run_id: None,
        }
        .facets(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> IncidentEvent {
        let opened = IncidentOpened {
            source_run_id: Some("r1".into()),
            severity: "HIGH".into(),
            policy_id: Some("p1".into()),
            policy_name: Some("Budget".into()),
            violation_type: Some("budget".into()),
            violation_step_index: Some(3),
            summary: "over budget".into(),
        };
        IncidentEvent::Opened("i1".into(), opened)
    }

    fn act(step: IncidentStep) -> IncidentEvent {
        let act = IncidentAct {
            actor_type: ActorType::Human,
            actor_id: Some("ada".into()),
            reason: "seen".into(),
        };
        IncidentEvent::Act("i1".into(), step, act)
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        for (event, bytes) in [
            (
                opened(),
                r#"{"event":"opened","incident_id":"i1","policy_id":"p1","policy_name":"Budget","severity":"HIGH","source_run_id":"r1","summary":"over budget","violation_step_index":3,"violation_type":"budget"}"#,
            ),
            (
                act(IncidentStep::Acknowledged),
                r#"{"actor_id":"ada","event":"acknowledged","incident_id":"i1","reason":"seen"}"#,
            ),
            (
                act(IncidentStep::Closed),
                r#"{"actor_id":"ada","event":"closed","incident_id":"i1","reason":"seen"}"#,
            ),
        ] {
            event.check().unwrap();
            let body = event.encode();
            assert_eq!(String::from_utf8(body.clone()).unwrap(), bytes);
            assert_eq!(IncidentEvent::read(ActorType::Human, &body).unwrap(), event);
            assert_eq!(IncidentEventFacts::read(&body).unwrap(), event.facts());
        }
    }

    #[test]
    fn steps_follow_in_their_order_each_once() {
        use IncidentStep::{Acknowledged, Closed, Opened, Resolved};
        let walk = |steps: &[IncidentStep]| {
            let mut status = None;
            for &step in steps {
                status = Some(IncidentStatus::after(status, step)?);
            }
            status
        };
        assert_eq!(
            walk(&[Opened, Acknowledged, Resolved, Closed]),
            Some(IncidentStatus::Closed)
        );
        assert_eq!(walk(&[Opened, Resolved]), Some(IncidentStatus::Resolved));
        assert_eq!(walk(&[Opened, Closed]), Some(IncidentStatus::Closed));
        for wrong in [
            &[Acknowledged][..],
            &[Opened, Opened],
            &[Opened, Acknowledged, Acknowledged],
            &[Opened, Resolved, Acknowledged],
            &[Opened, Closed, Resolved],
            &[Opened, Closed, Closed],
            &[Opened, Closed, Opened],
        ] {
            assert_eq!(walk(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_incident_is_found_by_its_id_its_run_and_among_all() {
        let facets = |event: &IncidentEvent| {
            let mut out = Vec::new();
            event.facts().facets(&mut out);
            out
        };
        assert_eq!(facets(&opened()), ["incident", "incident=i1", "incident.run=r1"]);
        assert_eq!(facets(&act(IncidentStep::Resolved)), ["incident=i1"]);
        // Erased it is found by its id and among all.
        let mut erased = Vec::new();
        ErasedIncident::of(&opened().facts()).facets(&mut erased);
        assert_eq!(erased, ["incident", "incident=i1"]);
    }

    #[test]
    fn rules_are_named_by_their_field() {
        let anonymous = IncidentAct {
            actor_type: ActorType::Agent,
            actor_id: None,
            reason: "x".into(),
        };
        let silent = IncidentAct {
            actor_type: ActorType::System,
            actor_id: None,
            reason: String::new(),
        };
        for (act, field) in [(anonymous, "actor_id"), (silent, "reason")] {
            let event = IncidentEvent::Act("i1".into(), IncidentStep::Resolved, act);
            assert_eq!(event.check().unwrap_err().field, field);
        }
        let mute = IncidentOpened {
            severity: "LOW".into(),
            ..IncidentOpened::default()
        };
        let mute = IncidentEvent::Opened("i1".into(), mute);
        assert_eq!(mute.check().unwrap_err().field, "summary");
    }
}
