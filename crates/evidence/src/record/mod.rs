//! The typed bodies of records, one file a kind, and the facts that answers and
//! projections take from them.
//!
//! A body is canonical JSON ([`crate::canonical`]). Each file holds the struct,
//! its canonical form and what is read back from stored bytes. Bodies are
//! versioned by their kind's name, never edited: a field may be added, none may
//! change its meaning.
//!
//! Out of scope: the header ([`crate::header`]) and where a body is kept (store).

mod access_event;
mod activity;
mod audit_event;
mod authorization_decision;
mod capture_failure;
mod environment;
mod erased;
mod erasure_performed;
mod governance_audit;
mod governance_contract;
mod governance_resolution;
mod governance_signal;
mod hold;
mod identity_event;
mod incident_event;
mod job_event;
mod ledger_recovered;
mod lineage;
mod policy_activation;
mod policy_decision;
mod provenance_log;
mod provider_call;
mod replay_enforced;
mod retention_archived;
mod rule;
mod run_completed;
mod run_started;
mod seal;
mod step_evidence;
mod step_facts;
mod system_record;
mod telemetry;
mod trace_ended;
mod trace_step;

pub use access_event::{AccessEvent, AccessEventType};
pub use activity::{ACTIVITY_COMPLETIONS_MAX, ActivityEvidence};
pub use audit_event::{AuditEntityType, AuditEvent, AuditEventFacts, AuditEventType, SETTINGS_COMPONENT};
pub use authorization_decision::{AuthorizationDecision, Decision};
pub use capture_failure::{
    CaptureFailure, ERROR_MESSAGE_CHARS_MAX, EvidenceClass, FailureReason, FailureResolution,
};
pub use environment::{
    ENVIRONMENTS, Environment, EnvironmentEvidence, SDK_MODES, TELEMETRY_DELIVERY, environment_identity,
};
pub use erased::{ErasedFacts, is_erasable, is_verdict_of_verification};
pub use erasure_performed::{ERASED_RECORDS_MAX, ErasedRecord, ErasurePerformed};
pub use governance_audit::{GovernanceAudit, GovernanceAuditFacts};
pub use governance_contract::{CONTRACT_SCOPE_MAX, GovernanceContract, GovernanceContractFacts};
pub use governance_resolution::{GovernanceResolution, ResolutionDecision};
pub use governance_signal::{GovernanceSignal, SignalDecision};
pub use hold::{Hold, HoldScope};
pub use identity_event::{IdentityEvent, IdentityEventType, Role};
pub use incident_event::{
    ErasedIncident, IncidentAct, IncidentEvent, IncidentEventFacts, IncidentOpened, IncidentStatus,
    IncidentStep,
};
pub use job_event::{JobEvent, JobEventFacts, JobEventType};
pub use ledger_recovered::{EpochEnded, LedgerRecovered};
pub use lineage::{
    LINEAGE_COPY, LINEAGE_RUN, LINEAGE_TYPES, LineageFacts, LineageRecord, lineage_identity, lineage_kind,
    lineage_line, lineage_type,
};
pub use policy_activation::{CONFIDENCE_VERSION_DEFAULT, PolicyActivation, PolicyActivationFacts};
pub use policy_decision::{POLICY_DECISIONS, POLICY_RESULTS, PolicyDecisionEvidence};
pub use provenance_log::{
    COMMIT_UNKNOWN, PROVENANCE_STATUSES, PROVENANCE_VERSION_DEFAULT, ProvenanceFacts, ProvenanceLog,
    ProvenanceView,
};
pub use provider_call::ProviderEvidence;
pub(crate) use provider_call::provider_identity;
pub(crate) use replay_enforced::replay_identity;
pub use replay_enforced::{ReplayBehavior, ReplayEnforced, ReplayOutcome};
pub use retention_archived::{ARCHIVED_RECORDS_MAX, RetentionArchived, RetentionClass};
pub use rule::{ENTRIES_MAX, PROSE_BYTES_MAX, RuleBroken, is_blank};
pub use run_completed::{RunCompleted, RunCompletedFacts};
pub use run_started::{RUN_SOURCES, RunStarted, RunStartedFacts, SEED_DEFAULT};
pub use seal::{RunDigest, SealFacts};
pub use step_evidence::{SpanEvidence, StepEvidence};
pub use step_facts::StepFacts;
pub use system_record::{
    CAUSES, SERVER_COMPONENT, SEVERITIES, SystemFacts, SystemRecord, TENANT_COMPONENT, TENANT_CREATED,
    TenantCreated, VERIFICATION_FAILED, VERIFICATION_PASSED,
};
pub use telemetry::{Telemetry, TelemetryFacts, TelemetryPoint};
pub use trace_ended::{TraceEnded, TraceEndedFacts};
pub use trace_step::{
    Activity, Otel, PolicyDecision, Provider, Step, StepStatus, StepView, TraceStep, root_hash, step_hash,
};

use crate::canonical::Value;
use crate::{Header, Kind};

/// Largest body, SPEC 2.1.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why stored bytes are no body of their kind.
#[derive(Debug, thiserror::Error)]
#[error("body is no {kind}: {reason}")]
pub struct BodyError {
    kind: &'static str,
    reason: String,
}

impl BodyError {
    #[allow(clippy::needless_pass_by_value)] // for map_err
    pub(crate) fn new(kind: Kind, reason: impl ToString) -> Self {
        Self {
            kind: kind.as_str(),
            reason: reason.to_string(),
        }
    }
}

/// What one record says to answers and projections, read from its header and body alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Facts {
    /// A run begins.
    RunStarted(RunStartedFacts),
    /// The caller says how a run ended.
    RunCompleted(RunCompletedFacts),
    /// One step or span.
    Step(StepFacts),
    /// A trace is closed: completed, failed or aborted.
    TraceEnded(TraceEndedFacts),
    /// A tenant came to be.
    TenantCreated(TenantCreated),
    /// A credential or principal came, changed or went; somebody signed in or was refused.
    Identity(IdentityEvent),
    /// Something was allowed or denied.
    Authorization(AuthorizationDecision),
    /// Evidence was read or taken away.
    Access(AccessEvent),
    /// Something happened to the systems around the runs.
    System(SystemFacts),
    /// Measurements.
    Telemetry(TelemetryFacts),
    /// Something was done to a policy, limit, incident or signal.
    Audit(AuditEventFacts),
    /// A policy was put into force.
    PolicyActivation(PolicyActivationFacts),
    /// An incident was opened, or something was done with it.
    Incident(IncidentEventFacts),
    /// Something happened to a job.
    Job(JobEventFacts),
    /// What a job may change.
    Contract(GovernanceContractFacts),
    /// Something about a capability was allowed or blocked.
    Signal(GovernanceSignal),
    /// The verdict over a job.
    GovernanceAudit(GovernanceAuditFacts),
    /// A human decided what a verdict left open.
    Resolution(GovernanceResolution),
    /// What went into a model and what came out.
    Provenance(ProvenanceFacts),
    /// A line of an audit log.
    Lineage(LineageFacts),
    /// A run's evidence was judged and closed.
    Seal(SealFacts),
    /// Bodies were erased.
    Erasure(ErasurePerformed),
    /// Bodies were archived and pruned.
    Archived(RetentionArchived),
    /// A hold was placed or released.
    Hold(Hold),
    /// Its body is erased.
    Erased(ErasedFacts),
    /// A record of which projections know the header alone.
    Other,
}

impl Facts {
    /// Reads the facts of a stored record.
    ///
    /// # Errors
    /// The bytes are not a body of the header's kind.
    pub fn read(header: &Header<'_>, body: &[u8]) -> Result<Self, BodyError> {
        Ok(match header.kind {
            Kind::RunStarted => Self::RunStarted(RunStartedFacts::read(header, body)?),
            Kind::RunCompleted => Self::RunCompleted(RunCompletedFacts::read(body)?),
            Kind::TraceStep => Self::Step(StepFacts::read(header, body)?),
            Kind::TraceCompleted | Kind::TraceAborted => {
                Self::TraceEnded(TraceEndedFacts::read(header, body)?)
            }
            Kind::SystemRecord => match TenantCreated::read(header, body)? {
                Some(tenant) => Self::TenantCreated(tenant),
                None => Self::System(SystemFacts::read(body)?),
            },
            Kind::IdentityEvent => Self::Identity(IdentityEvent::read(body)?),
            Kind::AuthorizationDecision => Self::Authorization(AuthorizationDecision::read(body)?),
            Kind::AccessEvent => Self::Access(AccessEvent::read(body)?),
            Kind::SystemTelemetry => Self::Telemetry(TelemetryFacts::read(body)?),
            Kind::ProvenanceLog => Self::Provenance(ProvenanceFacts::read(body)?),
            Kind::LineageEvidence
            | Kind::LineageDeterministic
            | Kind::LineageAiOutput
            | Kind::LineageAiMetrics => Self::Lineage(LineageFacts::read(header.kind, body)?),
            Kind::EvidenceIntegrity => Self::Seal(SealFacts::read(body)?),
            Kind::AuditEvent => Self::Audit(AuditEventFacts::read(body)?),
            Kind::PolicyActivation => Self::PolicyActivation(PolicyActivationFacts::read(body)?),
            Kind::IncidentEvent => Self::Incident(IncidentEventFacts::read(body)?),
            Kind::JobEvent => Self::Job(JobEventFacts::read(header, body)?),
            Kind::GovernanceContract => Self::Contract(GovernanceContractFacts::read(body)?),
            Kind::GovernanceSignal => Self::Signal(GovernanceSignal::read(body)?),
            Kind::GovernanceAudit => Self::GovernanceAudit(GovernanceAuditFacts::read(body)?),
            Kind::GovernanceResolution => Self::Resolution(GovernanceResolution::read(body)?),
            Kind::ErasurePerformed => Self::Erasure(ErasurePerformed::read(body)?),
            Kind::RetentionArchived => Self::Archived(RetentionArchived::read(body)?),
            Kind::HoldPlaced | Kind::HoldReleased => Self::Hold(Hold::read(header, body)?),
            _ => Self::Other,
        })
    }
}

/// A field of an object under construction, left out when absent.
pub(crate) fn put(object: &mut Vec<(String, Value)>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        object.push((key.to_owned(), value));
    }
}

pub(crate) fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}
