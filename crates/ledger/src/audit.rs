//! Audit events: who did what to policies, limits, incidents and signals.
//!
//! One function per event type makes the event with the states that it needs, by
//! its usual actor: nobody writes an event of change that shows no change. Then
//! [`Ledger::audit_record`] checks and records it, or [`draft`] makes it part of a
//! group.
//!
//! ```
//! use evidence::ActorType;
//! use evidence::canonical::Value;
//!
//! let limit = Value::object([("max_cents", Value::Int(500))]);
//! let event = ledger::audit::limit_created("daily-budget", limit);
//! assert_eq!(event.actor_type, ActorType::System);
//! let event = ledger::audit::by_human(event, "ada", "first customer");
//! assert!(event.check().is_ok());
//! ```
//!
//! Source: SPEC 5.2.

use std::sync::Arc;

use evidence::canonical::Value;
use evidence::record::AuditEntityType as Entity;
use evidence::record::AuditEventType as Event;
use evidence::record::{AuditEvent, Facts};
use evidence::{ActorType, Kind, Origin, Timestamp, redact};

use crate::{Draft, Ledger, Receipt, Salts, SubmitError, Tenant, WriteError};

impl Ledger {
    /// Records an audit event. Blocks until it is durable.
    ///
    /// # Errors
    /// [`WriteError`]; then nothing was written, as far as is known.
    pub fn audit_record(
        &self,
        tenant: &Arc<Tenant>,
        event: &AuditEvent,
        at: Timestamp,
    ) -> Result<Receipt, WriteError> {
        let draft = draft(event, at, &mut tenant.salts())?;
        let outcome = self.submit_blocking(tenant, vec![draft], at, false)?.pop();
        Ok(outcome.ok_or(SubmitError::Closing)??.receipt)
    }
}

/// The record of an event that keeps to the rules.
///
/// # Errors
/// [`WriteError::Rule`] or [`WriteError::Body`].
pub fn draft(event: &AuditEvent, at: Timestamp, salts: &mut Salts) -> Result<Draft, WriteError> {
    event.check()?;
    let facts = Facts::Audit(event.facts());
    let draft = Draft::alone(Kind::AuditEvent, facts, &event.encode(), at, salts)?;
    Ok(told(event, draft))
}

/// The same of an event in which all that somebody else wrote was redacted before: the rest are Deponent's own words,
/// which no rule of a tenant changes.
pub(crate) fn draft_clean(event: &AuditEvent, at: Timestamp, salts: &mut Salts) -> Result<Draft, WriteError> {
    event.check()?;
    let facts = Facts::Audit(event.facts());
    let body = redact::counted(event.encode());
    let draft = Draft::alone_clean(Kind::AuditEvent, facts, &body, at, salts)?;
    Ok(told(event, draft))
}

fn told(event: &AuditEvent, draft: Draft) -> Draft {
    Draft {
        correlation_id: event.correlation_id.as_deref().map(Arc::from),
        source_domain: event.entity_type.source_domain(),
        ..draft.by(event.actor_type, event.actor_id.as_deref())
    }
}

impl Draft {
    /// Done by that actor. A human's id does not go into the header (SPEC 2.1).
    pub(crate) fn by(mut self, actor_type: ActorType, actor_id: Option<&str>) -> Self {
        let id = actor_id.filter(|_| actor_type != ActorType::Human);
        self.actor = (actor_type, id.map(Arc::from));
        self.origin = match actor_type {
            ActorType::Human => Origin::Human,
            ActorType::Agent => Origin::Agent,
            ActorType::System => Origin::System,
        };
        self
    }
}

/// The same event, done by a human, with the reason.
#[must_use]
pub fn by_human(event: AuditEvent, actor_id: &str, reason: &str) -> AuditEvent {
    by(event, ActorType::Human, actor_id, reason)
}

/// The same event, done by an agent, with the reason.
#[must_use]
pub fn by_agent(event: AuditEvent, actor_id: &str, reason: &str) -> AuditEvent {
    by(event, ActorType::Agent, actor_id, reason)
}

fn by(event: AuditEvent, actor_type: ActorType, actor_id: &str, reason: &str) -> AuditEvent {
    AuditEvent {
        actor_type,
        actor_id: Some(actor_id.to_owned()),
        action_reason: Some(reason.to_owned()),
        ..event
    }
}

fn after(event: Event, entity: Entity, id: &str, state: Option<Value>) -> AuditEvent {
    AuditEvent {
        after_state: state,
        ..AuditEvent::new(event, entity, id)
    }
}

fn change(event: Event, entity: Entity, id: &str, before: Value, now: Value) -> AuditEvent {
    AuditEvent {
        before_state: Some(before),
        ..after(event, entity, id, Some(now))
    }
}

/// What a human usually does needs his id.
fn human(event: AuditEvent, actor_id: &str) -> AuditEvent {
    AuditEvent {
        actor_id: Some(actor_id.to_owned()),
        ..event
    }
}

/// A rule of a policy came to be.
pub fn policy_rule_created(rule_id: &str, rule_state: Value) -> AuditEvent {
    after(
        Event::PolicyRuleCreated,
        Entity::PolicyRule,
        rule_id,
        Some(rule_state),
    )
}

/// A rule of a policy was changed.
pub fn policy_rule_modified(rule_id: &str, before_state: Value, after_state: Value) -> AuditEvent {
    change(
        Event::PolicyRuleModified,
        Entity::PolicyRule,
        rule_id,
        before_state,
        after_state,
    )
}

/// A rule of a policy holds no more.
pub fn policy_rule_retired(rule_id: &str, rule_state: Value) -> AuditEvent {
    AuditEvent {
        before_state: Some(rule_state),
        ..AuditEvent::new(Event::PolicyRuleRetired, Entity::PolicyRule, rule_id)
    }
}

/// A human approved a proposal.
pub fn policy_proposal_approved(
    proposal_id: &str,
    actor_id: &str,
    proposal_state: Option<Value>,
) -> AuditEvent {
    let event = after(
        Event::PolicyProposalApproved,
        Entity::PolicyProposal,
        proposal_id,
        proposal_state,
    );
    human(event, actor_id)
}

/// A human rejected a proposal.
pub fn policy_proposal_rejected(
    proposal_id: &str,
    actor_id: &str,
    proposal_state: Option<Value>,
) -> AuditEvent {
    let event = after(
        Event::PolicyProposalRejected,
        Entity::PolicyProposal,
        proposal_id,
        proposal_state,
    );
    human(event, actor_id)
}

/// A limit came to be.
pub fn limit_created(limit_id: &str, limit_state: Value) -> AuditEvent {
    after(Event::LimitCreated, Entity::Limit, limit_id, Some(limit_state))
}

/// A limit was changed.
pub fn limit_updated(limit_id: &str, before_state: Value, after_state: Value) -> AuditEvent {
    change(
        Event::LimitUpdated,
        Entity::Limit,
        limit_id,
        before_state,
        after_state,
    )
}

/// A limit was passed.
pub fn limit_breached(limit_id: &str, breach_details: Option<Value>) -> AuditEvent {
    after(Event::LimitBreached, Entity::Limit, limit_id, breach_details)
}

/// A limit was lifted for a while.
pub fn limit_override_granted(limit_id: &str, override_state: Option<Value>) -> AuditEvent {
    after(
        Event::LimitOverrideGranted,
        Entity::Limit,
        limit_id,
        override_state,
    )
}

/// A lifted limit holds again.
pub fn limit_override_revoked(limit_id: &str, override_state: Option<Value>) -> AuditEvent {
    after(
        Event::LimitOverrideRevoked,
        Entity::Limit,
        limit_id,
        override_state,
    )
}

/// Somebody has seen an incident.
pub fn incident_acknowledged(incident_id: &str, before_state: Value, after_state: Value) -> AuditEvent {
    change(
        Event::IncidentAcknowledged,
        Entity::Incident,
        incident_id,
        before_state,
        after_state,
    )
}

/// An incident's cause is gone.
pub fn incident_resolved(incident_id: &str, before_state: Value, after_state: Value) -> AuditEvent {
    change(
        Event::IncidentResolved,
        Entity::Incident,
        incident_id,
        before_state,
        after_state,
    )
}

/// An incident was closed by hand.
pub fn incident_manually_closed(incident_id: &str, before_state: Value, after_state: Value) -> AuditEvent {
    change(
        Event::IncidentManuallyClosed,
        Entity::Incident,
        incident_id,
        before_state,
        after_state,
    )
}

/// Rules are overridden for an entity.
pub fn emergency_override_activated(
    entity_type: Entity,
    entity_id: &str,
    override_state: Option<Value>,
) -> AuditEvent {
    after(
        Event::EmergencyOverrideActivated,
        entity_type,
        entity_id,
        override_state,
    )
}

/// Rules hold for an entity again.
pub fn emergency_override_deactivated(
    entity_type: Entity,
    entity_id: &str,
    override_state: Option<Value>,
) -> AuditEvent {
    after(
        Event::EmergencyOverrideDeactivated,
        entity_type,
        entity_id,
        override_state,
    )
}

/// A human has seen a signal.
pub fn signal_acknowledged(signal_id: &str, actor_id: &str, signal_state: Option<Value>) -> AuditEvent {
    let event = after(Event::SignalAcknowledged, Entity::Signal, signal_id, signal_state);
    human(event, actor_id)
}

/// A human silenced a signal.
pub fn signal_suppressed(signal_id: &str, actor_id: &str, suppressed_until: Option<Value>) -> AuditEvent {
    let event = after(
        Event::SignalSuppressed,
        Entity::Signal,
        signal_id,
        suppressed_until,
    );
    human(event, actor_id)
}

/// A signal was passed on to somebody with more say.
pub fn signal_escalated(signal_id: &str, escalation_context: Option<Value>) -> AuditEvent {
    after(
        Event::SignalEscalated,
        Entity::Signal,
        signal_id,
        escalation_context,
    )
}
