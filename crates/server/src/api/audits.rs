//! Verdicts over jobs, their checks and evidence; resolution by a human; the rollout gate.
//!
//! There is no call that makes a verdict: the end of a job does. Source: SPEC 7.2, 7.3.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evidence::Timestamp;
use evidence::canonical::{Value, to_vec};
use evidence::record::ResolutionDecision;
use ledger::{AuditRead, ResolutionRead};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, canonical, created, json, ok, raw};
use super::fields;
use super::jobs::{moment, with_job};
use super::records::ReceiptView;
use crate::api::logs::NoParams;
use crate::{ApiError, App, Caller, ExactJsonBody, JsonBody, Path, Query, Received};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get))
        .routes(routes!(checks))
        .routes(routes!(evidence))
        .routes(routes!(resolve))
        .routes(routes!(rollout))
}

/// What a human decided.
#[derive(Serialize, ToSchema)]
#[schema(as = Resolution)]
struct ResolutionView<'a> {
    actor_id: &'a str,
    /// `proceed` or `stop`.
    decision: &'static str,
    reason: &'a str,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    #[schema(value_type = String, format = DateTime)]
    resolved_at: Timestamp,
}

impl<'a> ResolutionView<'a> {
    fn of(read: &'a ResolutionRead) -> Self {
        Self {
            actor_id: &read.resolution.actor_id,
            decision: read.resolution.decision.as_str(),
            reason: &read.resolution.reason,
            receipt: ReceiptOut(read.receipt),
            resolved_at: read.at,
        }
    }
}

/// A verdict with everything it rests on.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditResult)]
struct AuditView<'a> {
    #[schema(value_type = String)]
    audit_id: Box<RawValue>,
    #[schema(value_type = String, format = DateTime)]
    audited_at: Box<RawValue>,
    #[schema(value_type = String)]
    auditor_version: Box<RawValue>,
    /// All seven, in order.
    #[schema(value_type = Vec<Object>)]
    checks: Box<RawValue>,
    #[schema(value_type = u64)]
    checks_failed: Box<RawValue>,
    #[schema(value_type = u64)]
    checks_inconclusive: Box<RawValue>,
    #[schema(value_type = u64)]
    checks_passed: Box<RawValue>,
    #[schema(value_type = String)]
    contract_id: Box<RawValue>,
    #[schema(value_type = u64)]
    duration_ms: Box<RawValue>,
    /// SHA-256 of the canonical form of what the auditor was given.
    #[schema(value_type = String)]
    evidence_hash: Box<RawValue>,
    #[schema(value_type = Object)]
    evidence_summary: Box<RawValue>,
    #[schema(value_type = Option<Object>)]
    health_snapshot_after: Box<RawValue>,
    #[schema(value_type = Option<Object>)]
    health_snapshot_before: Box<RawValue>,
    #[schema(value_type = String)]
    job_id: Box<RawValue>,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    resolution: Option<ResolutionView<'a>>,
    /// `PASS`, `FAIL`, `INCONCLUSIVE`.
    #[schema(value_type = String)]
    verdict: Box<RawValue>,
    #[schema(value_type = String)]
    verdict_reason: Box<RawValue>,
}

/// A member of a result as it was recorded.
fn member(read: &AuditRead, name: &str) -> Result<Box<RawValue>, ApiError> {
    raw(to_vec(read.result.get(name).unwrap_or(&Value::Null)))
}

/// Entries of a list.
fn rows(of: &Value, name: &str) -> usize {
    match of.get(name) {
        Some(Value::Array(entries)) => entries.len(),
        _ => 0,
    }
}

impl<'a> AuditView<'a> {
    fn of(read: &'a AuditRead) -> Result<Self, ApiError> {
        let member = |name| member(read, name);
        Ok(Self {
            audit_id: member("audit_id")?,
            audited_at: member("audited_at")?,
            auditor_version: member("auditor_version")?,
            checks: member("checks")?,
            checks_failed: member("checks_failed")?,
            checks_inconclusive: member("checks_inconclusive")?,
            checks_passed: member("checks_passed")?,
            contract_id: member("contract_id")?,
            duration_ms: member("duration_ms")?,
            evidence_hash: member("evidence_hash")?,
            evidence_summary: member("evidence_summary")?,
            health_snapshot_after: member("health_snapshot_after")?,
            health_snapshot_before: member("health_snapshot_before")?,
            job_id: member("job_id")?,
            receipt: ReceiptOut(read.receipt),
            resolution: read.resolution.as_ref().map(ResolutionView::of),
            verdict: member("verdict")?,
            verdict_reason: member("verdict_reason")?,
        })
    }
}

/// Reads the verdict over a job. 404 while there is none.
#[utoipa::path(
    get, path = "/api/v1/audits/{job_id}", tag = "governance", operation_id = "audit_get",
    params(("job_id" = String, Path, description = "The job")),
    responses((status = 200, description = "The verdict", body = AuditView), ReadProblems),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(job_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let read = ledger
            .job_audit(&caller.tenant, &job_id)?
            .ok_or_else(ApiError::not_found)?;
        ok(&AuditView::of(&read)?)
    })
    .await
}

/// The seven checks of an audit.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditChecks)]
struct ChecksView {
    #[schema(value_type = String)]
    audit_id: Box<RawValue>,
    /// Each {check_id, name, question, result, reason, evidence}.
    #[schema(value_type = Vec<Object>)]
    checks: Box<RawValue>,
    #[schema(value_type = u64)]
    checks_failed: Box<RawValue>,
    #[schema(value_type = u64)]
    checks_inconclusive: Box<RawValue>,
    #[schema(value_type = u64)]
    checks_passed: Box<RawValue>,
    #[schema(value_type = String)]
    job_id: Box<RawValue>,
    #[schema(value_type = String)]
    verdict: Box<RawValue>,
}

/// Reads the checks of a job's audit.
#[utoipa::path(
    get, path = "/api/v1/audits/{job_id}/checks", tag = "governance", operation_id = "audit_checks",
    params(("job_id" = String, Path, description = "The job")),
    responses((status = 200, description = "The checks", body = ChecksView), ReadProblems),
)]
async fn checks(
    State(app): State<App>,
    caller: Caller,
    Path(job_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let read = ledger
            .job_audit(&caller.tenant, &job_id)?
            .ok_or_else(ApiError::not_found)?;
        let member = |name| member(&read, name);
        caller.answered(rows(&read.result, "checks"));
        ok(&ChecksView {
            audit_id: member("audit_id")?,
            checks: member("checks")?,
            checks_failed: member("checks_failed")?,
            checks_inconclusive: member("checks_inconclusive")?,
            checks_passed: member("checks_passed")?,
            job_id: member("job_id")?,
            verdict: member("verdict")?,
        })
    })
    .await
}

/// What an audit was given, put together again from records.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEvidence)]
struct EvidenceView<'a> {
    audit_id: &'a str,
    /// As `deponent audit` takes it.
    #[schema(value_type = Object)]
    evidence: Box<RawValue>,
    evidence_hash: &'a str,
    /// Whether that is the hash of this evidence.
    evidence_hash_matches: bool,
    job_id: &'a str,
}

/// Reads the frozen evidence of a job's audit: `deponent audit` judges it again.
#[utoipa::path(
    get, path = "/api/v1/audits/{job_id}/evidence", tag = "governance", operation_id = "audit_evidence",
    params(("job_id" = String, Path, description = "The job")),
    responses((status = 200, description = "The evidence", body = EvidenceView), ReadProblems),
)]
async fn evidence(
    State(app): State<App>,
    caller: Caller,
    Path(job_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let permit = app.large_audits.clone().acquire_owned().await;
    let permit = permit.map_err(|error| ApiError::internal(&error))?;
    app.blocking(move |ledger| {
        let _permit = permit;
        let read = ledger.job_audit_evidence(&caller.tenant, &job_id)?;
        caller.answered(read.rows);
        ok(&EvidenceView {
            audit_id: &read.audit_id,
            evidence: raw(read.input)?,
            evidence_hash: &read.evidence_hash,
            evidence_hash_matches: read.matches,
            job_id: &job_id,
        })
    })
    .await
}

/// What a human decides.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AuditResolve)]
struct ResolveIn {
    /// `proceed` or `stop`.
    decision: String,
    /// Who.
    actor_id: String,
    /// Why.
    reason: String,
}

/// Resolves an INCONCLUSIVE verdict, once, by a named human. No other verdict is resolved (409 `verdict_final`).
#[utoipa::path(
    post, path = "/api/v1/audits/{job_id}/resolve", tag = "governance", operation_id = "audit_resolve",
    params(("job_id" = String, Path, description = "The job")), request_body = ResolveIn,
    responses(
        (status = 201, description = "The decision is in the ledger", body = AuditView),
        (status = 200, description = "It was, with the same content", body = AuditView),
        WriteProblems,
    ),
)]
async fn resolve(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(job_id): Path<String>,
    // What is decided is no free text; the reason is redacted where it is written.
    ExactJsonBody(body): ExactJsonBody<ResolveIn>,
) -> Result<Response, ApiError> {
    // Nobody waits for a job with the place of a large body that is parsed.
    let JsonBody {
        value: given,
        held: (_hold, parsing),
        ..
    } = body;
    drop(parsing);
    fields::word("decision", &given.decision, &["proceed", "stop"])?;
    let decision = ResolutionDecision::parse(&given.decision)
        .ok_or_else(|| ApiError::invalid("decision", "must be proceed or stop"))?;
    let (placed, read) = with_job(&app, &caller, job_id, move |guard, _| {
        guard.resolve(decision, &given.actor_id, &given.reason, &moment(at))
    })
    .await?;
    created(&placed, &AuditView::of(&read)?)
}

/// Whether a change may go on.
#[derive(Serialize, ToSchema)]
#[schema(as = Rollout)]
struct RolloutView<'a> {
    /// `proceed`, `rollback`, `escalate`, `wait`.
    action: &'static str,
    authorized: bool,
    job_id: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolution: Option<ResolutionView<'a>>,
    /// `PASS`, `FAIL`, `INCONCLUSIVE`, `PENDING`; null when nothing judges the job.
    verdict: Option<&'a str>,
}

/// Says whether the change that a job made may go on.
#[utoipa::path(
    get, path = "/api/v1/rollout/{job_id}", tag = "governance", operation_id = "rollout",
    params(("job_id" = String, Path, description = "The job")),
    responses((status = 200, description = "The gate's answer", body = RolloutView), ReadProblems),
)]
async fn rollout(
    State(app): State<App>,
    caller: Caller,
    Path(job_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let read = ledger.rollout(&caller.tenant, &job_id)?;
        let view = RolloutView {
            action: read.action,
            authorized: read.authorized,
            job_id: &job_id,
            reason: &read.reason,
            resolution: read.resolution.as_ref().map(ResolutionView::of),
            verdict: read.verdict.as_deref(),
        };
        Ok(json(StatusCode::OK, canonical(&view)?))
    })
    .await
}
