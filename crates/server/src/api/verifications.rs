//! Verification on demand: `POST /api/v1/verifications` begins a full one of the caller's tenant, or joins the
//! one that runs.
//!
//! It is a job of the same id, with its progress at `/api/v1/jobs/{id}/progress`. Its outcome stands in
//! `/api/v1/logs/audit/integrity`, and what it finds for the first time is a system record VERIFICATION_FAILED,
//! and that it finds nothing any more VERIFICATION_PASSED.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use evidence::job::Stage;
use evidence::{Finding, Timestamp};
use ledger::{JobAct, JobError};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, WriteProblems};
use super::logs::{FindingOut, NoParams};
use crate::api::answer;
use crate::verifications::{Asked, Outcome};
use crate::{ApiError, App, Caller, JsonBody, Path, Query, Received};

/// How long the asker waits for the outcome: a million records take about that long.
const WAIT: Duration = Duration::from_secs(5);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(begin))
        .routes(routes!(get))
        .routes(routes!(cancel))
}

/// Nothing is asked but that it begins.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VerificationBegin)]
struct BeginIn {}

/// A full verification.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VerificationResult)]
struct VerificationOut {
    /// Errors among the findings.
    anomalies_detected: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
    /// The first hundred.
    findings: Vec<FindingOut>,
    /// The assurance level, as `deponent verify` names it.
    level: Option<&'static str>,
    #[schema(value_type = String, format = DateTime)]
    requested_at: Timestamp,
    /// `running`, `verified`, `tampered`, `cancelled`, or `failed`: the question could not be answered.
    status: &'static str,
    /// Why it failed.
    status_detail: Option<String>,
    tree_root: Option<String>,
    tree_size: Option<u64>,
    /// Also the id of its job.
    verification_id: String,
}

impl VerificationOut {
    fn new(asked: &Asked) -> Self {
        let mut out = Self {
            anomalies_detected: 0,
            finished_at: None,
            findings: Vec::new(),
            level: None,
            requested_at: asked.requested_at,
            status: "running",
            status_detail: None,
            tree_root: None,
            tree_size: None,
            verification_id: asked.id.to_string(),
        };
        match asked.outcome() {
            Outcome::Running => {}
            Outcome::Failed { at, reason } => {
                out.finished_at = Some(at);
                out.status = "failed";
                out.status_detail = Some(reason);
            }
            Outcome::Cancelled { at } => {
                out.finished_at = Some(at);
                out.status = "cancelled";
            }
            Outcome::Ended {
                at,
                tree,
                level,
                errors,
                findings,
            } => {
                out.anomalies_detected = errors;
                out.finished_at = Some(at);
                out.findings = findings.iter().map(|finding: &Finding| finding.into()).collect();
                out.level = Some(level);
                out.status = if errors == 0 { "verified" } else { "tampered" };
                (out.tree_size, out.tree_root) = tree.unzip();
            }
        }
        out
    }

    /// 200 once it has ended, 202 before.
    fn answer(&self) -> Result<Response, ApiError> {
        let status = if self.finished_at.is_some() {
            StatusCode::OK
        } else {
            StatusCode::ACCEPTED
        };
        let mut response = answer::json(status, answer::canonical(self)?);
        let location = format!("/api/v1/verifications/{}", self.verification_id);
        let location = HeaderValue::from_str(&location).map_err(|error| ApiError::internal(&error))?;
        response.headers_mut().insert(header::LOCATION, location);
        Ok(response)
    }
}

/// Verifies the tenant's ledgers in full, now.
#[utoipa::path(
    post, path = "/api/v1/verifications", tag = "ledger", operation_id = "begin_verification",
    request_body = BeginIn,
    responses(
        (status = 200, description = "It has ended", body = VerificationOut),
        (status = 202, description = "It runs: ask again at `Location`", body = VerificationOut),
        WriteProblems
    ),
)]
async fn begin(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<BeginIn>,
) -> Result<Response, ApiError> {
    drop(body);
    let own = app.clone();
    let mut asked = app
        .blocking(move |_| own.verification_begin(&caller.tenant, at))
        .await?;
    // Whoever waits in vain is told where to ask.
    let _ = timeout(WAIT, asked.ended()).await;
    VerificationOut::new(&asked).answer()
}

/// Why a verification is called off.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VerificationCancel)]
struct CancelIn {
    reason: String,
}

/// Calls a verification off. One that has ended is 409.
#[utoipa::path(
    post, path = "/api/v1/verifications/{verification_id}/cancel", tag = "ledger",
    operation_id = "cancel_verification",
    params(("verification_id" = String, Path, description = "As the POST answered")),
    request_body = CancelIn,
    responses(
        (status = 200, description = "It has ended", body = VerificationOut),
        (status = 202, description = "It is about to end: ask again at `Location`", body = VerificationOut),
        WriteProblems
    ),
)]
async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    body: JsonBody<CancelIn>,
) -> Result<Response, ApiError> {
    let JsonBody { value, held, .. } = body;
    JobAct::Cancel(value.reason.clone()).ready(&caller.tenant.rules())?;
    drop(held);
    let mut asked = app
        .verifications
        .find(&caller.tenant, &id)
        .ok_or_else(ApiError::not_found)?;
    let running = matches!(asked.outcome(), Outcome::Running);
    if running {
        // A verification whose job cannot be written stops all the same.
        asked.watch.call_off(value.reason);
        let _ = timeout(WAIT, asked.ended()).await;
    }
    let stage = match asked.outcome() {
        Outcome::Running | Outcome::Cancelled { .. } if running => {
            return VerificationOut::new(&asked).answer();
        }
        Outcome::Running | Outcome::Cancelled { .. } => Stage::Cancelled,
        Outcome::Ended { .. } => Stage::Completed,
        Outcome::Failed { .. } => Stage::Failed,
    };
    Err(JobError::Stage(stage).into())
}

/// Reads a verification that was asked for.
#[utoipa::path(
    get, path = "/api/v1/verifications/{verification_id}", tag = "ledger", operation_id = "get_verification",
    params(("verification_id" = String, Path, description = "As the POST answered")),
    responses(
        (status = 200, description = "How far it is", body = VerificationOut),
        ReadProblems
    ),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let asked = app
        .verifications
        .find(&caller.tenant, &id)
        .ok_or_else(ApiError::not_found)?;
    answer::ok(&VerificationOut::new(&asked))
}
