//! What a record says whose body is erased: what stands in its header, and what its `erasure.performed` keeps.
//!
//! Writer, rebuild and verification all make projections of such a record from this, so that a column that still
//! says what was in the body is a finding.
//!
//! Source: SPEC 11.6; docs/formats.md, "Erased records".

use super::run_started::RunStartedFacts;
use super::trace_ended::TraceEndedFacts;
use super::{ErasedIncident, ErasedRecord, Facts};
use crate::{Header, Identity, Kind, RecordId, Timestamp};

/// What an erased record says to projections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedFacts {
    /// What it is.
    pub kind: Kind,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// Of a root span that had ended.
    pub root_ended: bool,
    /// Of a step that was given its index.
    pub step_index: Option<u32>,
    /// Of an incident's event.
    pub incident: Option<ErasedIncident>,
    /// By which it is known again.
    pub identity: Option<Identity>,
}

impl Facts {
    /// The facts of an erased record.
    pub fn erased(header: &Header<'_>, kept: &ErasedRecord) -> Self {
        match header.kind {
            Kind::RunStarted => Self::RunStarted(RunStartedFacts::erased(header)),
            Kind::TraceCompleted | Kind::TraceAborted => Self::TraceEnded(TraceEndedFacts::erased(header)),
            kind => Self::Erased(ErasedFacts {
                kind,
                occurred_at: header.occurred_at,
                root_ended: kept.root_ended,
                step_index: kept.step_index,
                incident: kept.incident.clone(),
                identity: kept.identity,
            }),
        }
    }

    /// Whether it is of a step, erased or not.
    pub fn is_step(&self) -> bool {
        match self {
            Self::Step(_) => true,
            Self::Erased(erased) => erased.kind == Kind::TraceStep,
            _ => false,
        }
    }

    /// The index of a step that was given one.
    pub fn step_index(&self) -> Option<u32> {
        match self {
            Self::Step(step) => step.step_index,
            Self::Erased(erased) => erased.step_index,
            _ => None,
        }
    }
}

impl ErasedRecord {
    /// A record of which no more is known than that it is gone.
    pub const fn unknown(record_id: RecordId) -> Self {
        Self {
            record_id,
            identity: None,
            incident: None,
            root_ended: false,
            span_id: None,
            step_index: None,
        }
    }

    /// What is kept of a record when its body is erased.
    pub fn of(header: &Header<'_>, facts: &Facts, body: &[u8]) -> Self {
        // The identity of an environment that spans brought, and that of a line of an audit log, is a hash of its
        // content, without salt.
        let is_content = matches!(facts, Facts::Lineage(_))
            || header.kind == Kind::EvidenceEnvironment
                && Identity::of_record(header, facts, body) != Some(Identity::once(header.kind));
        Self {
            record_id: header.id,
            identity: Identity::of_record(header, facts, body).filter(|_| !is_content),
            incident: match facts {
                Facts::Incident(event) => Some(ErasedIncident::of(event)),
                _ => None,
            },
            root_ended: matches!(facts, Facts::Step(step) if step.root && step.ended_at.is_some()),
            span_id: match facts {
                Facts::Step(step) => step.span.map(|(_, span_id)| span_id),
                _ => None,
            },
            step_index: facts.step_index(),
        }
    }
}

/// Whether a body of that kind may be erased. What others are judged by is kept: keys and settings are the fold of
/// their records, jobs, contracts and signals too (of two that contradict one another one alone would pass), the newest activation of a
/// policy is the one in force, a failure that was erased would better its run's grade, and an erasure or hold
/// that could be erased would be none.
pub fn is_erasable(header: &Header<'_>) -> bool {
    match header.kind {
        Kind::ErasurePerformed
        | Kind::RetentionArchived
        | Kind::HoldPlaced
        | Kind::HoldReleased
        | Kind::LedgerRecovered
        | Kind::KeyRotated
        | Kind::IdentityEvent
        | Kind::EvidenceIntegrity
        | Kind::EvidenceCaptureFailure
        | Kind::JobEvent
        | Kind::GovernanceContract
        | Kind::GovernanceSignal
        | Kind::GovernanceAudit
        | Kind::GovernanceResolution
        | Kind::PolicyActivation
        | Kind::ExportRequested
        | Kind::ExportCompleted => false,
        Kind::AuditEvent => header.source_component != super::SETTINGS_COMPONENT,
        Kind::SystemRecord => {
            !(header.tenant_id == super::system_record::TENANT_LEDGER
                && header.source_component == super::TENANT_COMPONENT)
        }
        _ => true,
    }
}

/// Whether it is the server's word of what verification found. It is not erased either: the ledger is judged by it when
/// `state.db` says otherwise. What callers say in the same words is theirs.
pub fn is_verdict_of_verification(header: &Header<'_>, facts: &Facts) -> bool {
    header.source_component == super::SERVER_COMPONENT
        && matches!(facts, Facts::System(record)
            if [super::VERIFICATION_FAILED, super::VERIFICATION_PASSED].contains(&record.event_type.as_str()))
}
