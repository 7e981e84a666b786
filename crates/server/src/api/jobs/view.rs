//! How jobs, their progress and their attempts are shown.

use evidence::Timestamp;
use evidence::canonical::to_vec;
use evidence::job::{Attempt, Progress};
use ledger::{JobDone, Tenant};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::ApiError;
use crate::api::answer::{Number, ReceiptOut, raw};
use crate::api::records::ReceiptView;

/// How far a job is.
#[derive(Serialize, ToSchema)]
#[schema(as = JobProgress)]
pub(super) struct ProgressView<'a> {
    current_step: u32,
    /// Seconds left, if the rest takes as long as what is done.
    eta_seconds: Option<u64>,
    job_id: &'a str,
    message: Option<&'a str>,
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
    /// 0 to 100.
    #[schema(value_type = f64)]
    percentage: Number,
    /// `queued`, `starting`, `running`, `completing`, `completed`, `failed`, `cancelled`.
    stage: &'static str,
    /// When this attempt began.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    total_steps: Option<u32>,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl<'a> ProgressView<'a> {
    pub(super) fn of(job_id: &'a str, progress: &'a Progress) -> Result<Self, ApiError> {
        Ok(Self {
            current_step: progress.current_step,
            eta_seconds: progress.eta_seconds,
            job_id,
            message: progress.message.as_deref(),
            metadata: raw(to_vec(&progress.metadata))?,
            percentage: Number(progress.percentage),
            stage: progress.stage.as_str(),
            started_at: progress.started_at,
            total_steps: progress.total_steps,
            updated_at: progress.updated_at,
        })
    }
}

/// How far a job is, and the receipt of the record that says so.
#[derive(Serialize, ToSchema)]
#[schema(as = JobProgressDone)]
pub(super) struct ProgressDone<'a> {
    current_step: u32,
    eta_seconds: Option<u64>,
    job_id: &'a str,
    message: Option<&'a str>,
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
    #[schema(value_type = f64)]
    percentage: Number,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    stage: &'static str,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    total_steps: Option<u32>,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl<'a> ProgressDone<'a> {
    pub(super) fn of(done: &'a JobDone) -> Result<Self, ApiError> {
        let view = ProgressView::of(&done.job.job_id, &done.job.progress)?;
        Ok(Self {
            current_step: view.current_step,
            eta_seconds: view.eta_seconds,
            job_id: view.job_id,
            message: view.message,
            metadata: view.metadata,
            percentage: view.percentage,
            receipt: ReceiptOut(done.placed.receipt),
            stage: view.stage,
            started_at: view.started_at,
            total_steps: view.total_steps,
            updated_at: view.updated_at,
        })
    }
}

/// When failed attempts are made again.
#[derive(Serialize, ToSchema)]
#[schema(as = JobRetryPolicy)]
struct PolicyView<'a> {
    #[schema(value_type = f64)]
    base_delay_seconds: Number,
    #[schema(value_type = f64)]
    jitter_factor: Number,
    #[schema(value_type = f64)]
    max_delay_seconds: Number,
    /// Attempts in all.
    max_retries: u32,
    retryable_errors: &'a [String],
    /// `fixed`, `linear`, `exponential`, `fibonacci`.
    strategy: &'static str,
}

impl<'a> PolicyView<'a> {
    fn of(policy: &'a audit::retry::RetryPolicy) -> Self {
        Self {
            base_delay_seconds: Number(policy.base_delay_seconds),
            jitter_factor: Number(policy.jitter_factor),
            max_delay_seconds: Number(policy.max_delay_seconds),
            max_retries: policy.max_retries,
            retryable_errors: &policy.retryable_errors,
            strategy: policy.strategy.as_str(),
        }
    }
}

/// The verdict that this call brought about.
#[derive(Serialize, ToSchema)]
#[schema(as = JobVerdict)]
struct VerdictView<'a> {
    audit_id: &'a str,
    incident_id: Option<&'a str>,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    verdict: &'static str,
}

/// A job.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub(super) struct JobView<'a> {
    /// The current attempt, or the next one, from 1.
    attempt_number: u32,
    /// Of the call that ended a job under a contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<VerdictView<'a>>,
    cancel_reason: Option<&'a str>,
    contract_id: Option<&'a str>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
    handler: &'a str,
    /// The incident that its verdict opened.
    incident_id: Option<&'a str>,
    job_id: &'a str,
    /// The stage in capitals, as audits name it.
    job_status: &'static str,
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    payload_hash: Option<&'a str>,
    progress: ProgressView<'a>,
    /// Of answers to a POST.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReceiptView>)]
    receipt: Option<ReceiptOut>,
    result_hash: Option<&'a str>,
    retry: PolicyView<'a>,
    stage: &'static str,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    /// Of all attempts.
    steps_recorded: u32,
    tenant_id: &'a str,
    /// `PASS`, `FAIL`, `INCONCLUSIVE`; null while there is none.
    pub(super) verdict: Option<String>,
}

impl<'a> JobView<'a> {
    pub(super) fn of(tenant: &'a Tenant, job: &'a ledger::JobView) -> Result<Self, ApiError> {
        let next = job.history.last().and_then(|attempt| attempt.next_attempt_at);
        let waits = job.progress.stage == evidence::job::Stage::Queued;
        Ok(Self {
            attempt_number: job.attempt_number,
            audit: None,
            cancel_reason: job.cancel_reason.as_deref(),
            contract_id: job.contract_id.as_deref(),
            created_at: job.created_at,
            ended_at: job.ended_at,
            handler: &job.handler,
            incident_id: job.incident_id.as_deref(),
            job_id: &job.job_id,
            job_status: job.progress.stage.job_status(),
            next_attempt_at: next.filter(|_| waits),
            payload_hash: job.payload_hash.as_deref(),
            progress: ProgressView::of(&job.job_id, &job.progress)?,
            receipt: None,
            result_hash: job.result_hash.as_deref(),
            retry: PolicyView::of(&job.retry),
            stage: job.progress.stage.as_str(),
            started_at: job.started_at,
            steps_recorded: job.steps_recorded,
            tenant_id: &tenant.tenant_id,
            verdict: None,
        })
    }

    /// After something was done with it.
    pub(super) fn done(tenant: &'a Tenant, done: &'a JobDone) -> Result<Self, ApiError> {
        let audit = done.verdict.as_ref().map(|verdict| VerdictView {
            audit_id: &verdict.audit_id,
            incident_id: verdict.incident_id.as_deref(),
            receipt: ReceiptOut(verdict.receipt),
            verdict: verdict.verdict,
        });
        Ok(Self {
            verdict: audit.as_ref().map(|audit| audit.verdict.to_owned()),
            audit,
            receipt: Some(ReceiptOut(done.placed.receipt)),
            ..Self::of(tenant, &done.job)?
        })
    }
}

/// An attempt that failed.
#[derive(Serialize, ToSchema)]
#[schema(as = JobAttempt)]
struct AttemptView<'a> {
    attempt_number: u32,
    #[schema(value_type = f64)]
    delay_seconds: Number,
    error: &'a str,
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    will_retry: bool,
}

impl<'a> AttemptView<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        Self {
            attempt_number: attempt.attempt_number,
            delay_seconds: Number(attempt.delay_seconds.get()),
            error: &attempt.error,
            next_attempt_at: attempt.next_attempt_at,
            timestamp: attempt.timestamp,
            will_retry: attempt.will_retry,
        }
    }
}

/// The failed attempts of a job, and its policy.
#[derive(Serialize, ToSchema)]
#[schema(as = JobRetries)]
pub(super) struct RetriesView<'a> {
    /// Oldest first.
    history: Vec<AttemptView<'a>>,
    job_id: &'a str,
    retry: PolicyView<'a>,
}

impl<'a> RetriesView<'a> {
    pub(super) fn of(job: &'a ledger::JobView) -> Self {
        Self {
            history: job.history.iter().map(AttemptView::of).collect(),
            job_id: &job.job_id,
            retry: PolicyView::of(&job.retry),
        }
    }
}
