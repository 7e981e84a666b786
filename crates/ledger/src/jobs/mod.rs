//! Jobs: contracts, the life of a job, its progress, its audit, the gate.
//!
//! What a job is now is the fold of its records ([`evidence::job::JobState`]), which
//! its facet finds. The fold of jobs in use is held in memory, within a bound; one
//! that is not held is folded again. Who acts on a job holds its lock from the
//! decision until the commit has answered, so of two clients who complete it at once
//! one is told that it is done: there is one verdict. Jobs do not wait for each other,
//! and the sequencer commits those that act at once together.
//!
//! The event that ends a job, its verdict, and the incident of a FAIL are one group:
//! all are in the ledger, or none. So no crash leaves a job that ended without verdict.
//!
//! Out of scope: judging (audit), HTTP (server), the clock and the die, which are
//! arguments ([`Moment`]).
//!
//! Start at [`JobAct`] in `act.rs`. Source: SPEC 7.

mod act;
mod audits;
mod contracts;
mod life;
mod slots;
mod turn;

use audit::InputError;
use audit::retry::RetryPolicy;
use evidence::Timestamp;
use evidence::canonical::Value;
use evidence::job::{Attempt, JobState, Progress, Stage};
use evidence::record::RuleBroken;

pub use act::{JobAct, NewJob, ReadyAct};
pub use audits::{AuditRead, EvidenceRead, JobGlance, ResolutionRead, RolloutRead, rollout};
pub(crate) use slots::Jobs;
pub use slots::{ContractGuard, JobGuard, ProgressWatch};
pub use turn::{Next as JobNext, Turn as JobTurn};

use crate::{BodyTooLarge, IncidentError, Placed, Receipt, RecordError, Rejection, SubmitError, WriteError};

/// Most steps of a job. An audit reads twice as many; with [`JOB_BYTES_MAX`] each may say some 70 bytes.
pub const JOB_STEPS_MAX: u32 = 50_000;

/// Most events of a job: every step, and as many words of progress. Folding them anew takes seconds.
pub const JOB_EVENTS_MAX: u64 = 200_000;

/// Most that the steps and snapshots of one job may say: 10,000 steps of 800 bytes. An audit holds it ten times over.
pub const JOB_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest output of a step: a diff or a plan, not a log file.
pub const STEP_BYTES_MAX: usize = 64 * 1024;

/// Longest target of a step and name of a capability, as an entry of a contract's scope. A verdict lists them: so it
/// always fits a body.
pub const TARGET_BYTES_MAX: usize = evidence::IDENTIFIER_BYTES_MAX;

/// Largest snapshot of health: 10,000 capabilities with names of 90 bytes.
pub const HEALTH_BYTES_MAX: usize = 1024 * 1024;

/// Most values in a snapshot of health: 10,000 capabilities of five. As values they take some 5 MiB.
pub const HEALTH_NODES_MAX: usize = 50_000;

/// Deepest nesting of what a client says of a job: with what an event puts around it, it stays within the 128 levels
/// that are read back.
pub const JOB_DEPTH_MAX: usize = 120;

/// Most that progress may carry beside itself, merged.
pub const PROGRESS_METADATA_BYTES_MAX: usize = 64 * 1024;

/// Longest error of an attempt and message of progress: each is kept with the job as long as it lives.
pub const JOB_TEXT_BYTES_MAX: usize = 4 * 1024;

/// Most attempts of a job: each stays in its history.
pub const JOB_ATTEMPTS_MAX: u32 = 1_000;

/// When something is done, and by what chance.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Now.
    pub at: Timestamp,
    /// From [0, 1): lengthens the wait before another attempt.
    pub draw: f64,
    /// Makes an id that was never made before.
    pub new_id: fn(Timestamp) -> String,
}

/// Why nothing was done with a job, contract or verdict.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// There is none of that id.
    #[error("no such job")]
    Unknown,
    /// Where the job stands it cannot be done.
    #[error("the job is {}", .0.as_str())]
    Stage(Stage),
    /// The id is taken by other content; the first stays.
    #[error("it is recorded with other content, at leaf {}", .0.leaf_index)]
    Conflict(Receipt),
    /// The job holds as much as it may.
    #[error("{0}")]
    Full(&'static str),
    /// A verdict that no human decides.
    #[error("the verdict is {0}; only INCONCLUSIVE is resolved by a human")]
    Final(String),
    /// Too many wait for the same job.
    #[error("too many requests wait for this job")]
    Busy,
    /// A rule of SPEC 7 is broken.
    #[error(transparent)]
    Rule(#[from] RuleBroken),
    /// A name that is judged by and that redaction would change, so that two names could become one; where it stands.
    #[error(
        "{0}: the tenant's rules of redaction would change this name, and it is judged by; use an identifier without \
         personal data"
    )]
    NameRedacted(String),
    /// A value that no audit could judge, and the field it is in.
    #[error("{0}: {1}")]
    Input(&'static str, InputError),
    /// The body is too large.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
    /// The ledger refused the record.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nothing was written, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Records cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
}

impl From<WriteError> for JobError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Rule(error) => error.into(),
            WriteError::Body(error) => error.into(),
            WriteError::Rejected(error) => error.into(),
            WriteError::Read(error) => error.into(),
            WriteError::Submit(error) => error.into(),
        }
    }
}

impl From<IncidentError> for JobError {
    fn from(error: IncidentError) -> Self {
        match error {
            IncidentError::Rule(error) => error.into(),
            IncidentError::Body(error) => error.into(),
            IncidentError::Rejected(error) => error.into(),
            IncidentError::Submit(error) => error.into(),
            IncidentError::Read(error) => error.into(),
            // An incident that is opened is new.
            IncidentError::Unknown | IncidentError::Step { .. } => Self::Unknown,
        }
    }
}

impl From<store::StoreError> for JobError {
    fn from(error: store::StoreError) -> Self {
        Self::Read(error.into())
    }
}

/// A job as it is shown: its state without what its steps said.
#[derive(Clone, Debug)]
pub struct JobView {
    /// The job.
    pub job_id: String,
    /// What it runs.
    pub handler: String,
    /// The contract that it runs under.
    pub contract_id: Option<String>,
    /// SHA-256 of the canonical payload.
    pub payload_hash: Option<String>,
    /// SHA-256 of the canonical result.
    pub result_hash: Option<String>,
    /// When failed attempts are made again.
    pub retry: RetryPolicy,
    /// How far it is, and its stage.
    pub progress: Progress,
    /// The current attempt, or the next one.
    pub attempt_number: u32,
    /// Steps recorded, of all attempts.
    pub steps_recorded: u32,
    /// Attempts that failed.
    pub history: Vec<Attempt>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the first attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended for good.
    pub ended_at: Option<Timestamp>,
    /// Why it was cancelled.
    pub cancel_reason: Option<String>,
    /// The incident that its verdict opened.
    pub incident_id: Option<String>,
}

impl JobView {
    fn of(state: &JobState) -> Self {
        Self {
            job_id: state.job_id.clone(),
            handler: state.handler.clone(),
            contract_id: state.contract_id.clone(),
            payload_hash: state.payload_hash.clone(),
            result_hash: state.result_hash.clone(),
            retry: policy_of(&state.retry),
            progress: state.progress.clone(),
            attempt_number: state.attempt_number,
            steps_recorded: state.steps_total,
            history: state.history.clone(),
            created_at: state.created_at,
            started_at: state.started_at,
            ended_at: state.ended_at,
            cancel_reason: state.cancel_reason.clone(),
            incident_id: state.incident_id.clone(),
        }
    }
}

/// The policy of a job; what was taken was looked at before.
fn policy_of(retry: &Value) -> RetryPolicy {
    if retry.is_null() {
        return RetryPolicy::default();
    }
    RetryPolicy::read(retry).unwrap_or_default()
}

/// What was done with a job.
#[derive(Clone, Debug)]
pub struct JobDone {
    /// Of the event; of the first one, when the same was recorded before.
    pub placed: Placed,
    /// The job now.
    pub job: JobView,
    /// The verdict, when this ended it.
    pub verdict: Option<JobVerdict>,
}

/// A verdict that was given now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobVerdict {
    /// The audit.
    pub audit_id: String,
    /// PASS, FAIL, INCONCLUSIVE.
    pub verdict: &'static str,
    /// Of its record.
    pub receipt: Receipt,
    /// The incident that it opened.
    pub incident_id: Option<String>,
}
