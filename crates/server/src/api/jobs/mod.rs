//! Jobs: created, started, going on, ended; their events, attempts and progress.
//!
//! `mod.rs` has what is done with a job, `act.rs` how that takes its turn, `view.rs` how it is shown, `list.rs` lists
//! and events, `progress.rs` progress as JSON and as server-sent events.
//!
//! Source: SPEC 7.1.

mod act;
mod list;
mod progress;
mod view;

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evidence::Timestamp;
use evidence::canonical::Value;
use evidence::job::{ProgressUpdate, Stage};
use ledger::own::OWN_PREFIX;
use ledger::{JobAct, JobError, JobGuard, Ledger, NewJob};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::act::{Whose, act, done};
use self::view::{JobView, ProgressDone, RetriesView};
use super::answer::{ReadProblems, WriteProblems, canonical, created, json, ok};
use super::fields::{self, Num};
use crate::access::operation::Action;
use crate::api::logs::NoParams;
use crate::extract::Maybe;
use crate::{ApiError, App, Caller, JsonBody, Path, Query, Received, RequestId, ids};

pub(crate) use self::act::{moment, with_job};

/// How long who calls work of Deponent's own off waits for its end: a batch takes a part of a second.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list::list))
        .routes(routes!(get))
        .routes(routes!(start))
        .routes(routes!(progress, progress::get))
        .routes(routes!(step))
        .routes(routes!(health))
        .routes(routes!(complete))
        .routes(routes!(fail))
        .routes(routes!(cancel))
        .routes(routes!(list::events))
        .routes(routes!(retries))
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let message = error.to_string();
        match error {
            JobError::Unknown => Self::not_found(),
            JobError::Stage(stage) => {
                Self::conflict("job_stage", message).with(serde_json::json!({ "stage": stage.as_str() }))
            }
            JobError::Conflict(receipt) => {
                Self::conflict("conflict", message).with(serde_json::json!({ "receipt": receipt }))
            }
            JobError::Full(_) => Self::conflict("job_full", message),
            JobError::Final(verdict) => {
                Self::conflict("verdict_final", message).with(serde_json::json!({ "verdict": verdict }))
            }
            JobError::Busy => Self::unavailable("busy", message),
            JobError::Rule(error) => error.into(),
            JobError::NameRedacted(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "name_redacted", message)
            }
            JobError::Input(field, error) => Self::invalid(field, error),
            JobError::Body(error) => error.into(),
            JobError::Rejected(rejection) => rejection.into(),
            JobError::Submit(error) => error.into(),
            JobError::Read(error) => error.into(),
        }
    }
}

/// A job to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobCreate)]
struct JobIn {
    /// A new UUIDv7 when absent.
    job_id: Option<String>,
    /// What it runs.
    handler: String,
    /// The contract that it runs under; without one nothing judges it.
    contract_id: Option<String>,
    /// Hashed, not kept.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Steps in all, for progress.
    total_steps: Option<i64>,
    /// {strategy, base_delay_seconds, max_delay_seconds, jitter_factor, max_retries, retryable_errors}; absent ones
    /// have the defaults: exponential, 60, 3600, 0.2, 3, [].
    #[schema(value_type = Option<Object>)]
    retry: Option<Box<RawValue>>,
}

/// Nothing.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobStart)]
struct StartIn {}

/// How far a job is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobProgressUpdate)]
struct ProgressIn {
    /// Clamped to 0 to 100; `current_step` wins over it.
    #[schema(value_type = Option<f64>)]
    percentage: Option<Num>,
    /// `starting`, `running` or `completing`; a job ends by its own calls.
    stage: Option<String>,
    message: Option<String>,
    current_step: Option<i64>,
    /// Merged into what was there.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
}

/// A step of a job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobStep)]
struct StepIn {
    step_index: i64,
    /// `COMPLETED`, `FAILED`, `SKIPPED`.
    status: String,
    /// `target`, `step_type`, `handler`, `rollback_action` and whatever else there is to say.
    #[schema(value_type = Option<Object>)]
    output: Option<Box<RawValue>>,
}

/// Snapshots of health.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobHealth)]
struct HealthIn {
    /// Capabilities and their statuses before the job, once a job.
    #[schema(value_type = Option<Object>)]
    before: Option<Box<RawValue>>,
    /// The same after it, once an attempt.
    #[schema(value_type = Option<Object>)]
    after: Option<Box<RawValue>>,
}

/// What came of a job.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobComplete)]
struct CompleteIn {
    /// Hashed, not kept.
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<Box<RawValue>>,
}

/// Why an attempt failed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobFail)]
struct FailIn {
    error: String,
}

/// Why a job is called off.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobCancel)]
struct CancelIn {
    reason: String,
}

/// A value as it was sent; none is null.
fn value_of(field: &str, given: Option<&RawValue>) -> Result<Value, ApiError> {
    Ok(fields::value_opt(field, given)?.unwrap_or_default())
}

/// Creates a job. The same again gives the first receipt.
#[utoipa::path(
    post, path = "/api/v1/jobs", tag = "jobs", operation_id = "job_create", request_body = JobIn,
    responses(
        (status = 201, description = "The job is in the ledger", body = JobView),
        (status = 200, description = "It was, with the same content", body = JobView),
        WriteProblems,
    ),
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<JobIn>,
) -> Result<Response, ApiError> {
    let JsonBody {
        value: given, held, ..
    } = body;
    if given.handler.starts_with(OWN_PREFIX) {
        let rule = format!("names that begin with {OWN_PREFIX} are Deponent's own");
        return Err(ApiError::invalid("handler", rule));
    }
    let total = given.total_steps.map(|total| fields::count("total_steps", total));
    let new = NewJob {
        job_id: given.job_id.unwrap_or_else(|| ids::uuid_v7(at)),
        handler: given.handler,
        contract_id: given.contract_id,
        payload: value_of("payload", given.payload.as_deref())?,
        total_steps: total.transpose()?,
        retry: value_of("retry", given.retry.as_deref())?,
    };
    let job_id = new.job_id.clone();
    act(&app, &caller, job_id, at, JobAct::Create(new), Some(held)).await
}

/// Begins an attempt of a queued job.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/start", tag = "jobs", operation_id = "job_start",
    params(("id" = String, Path, description = "The job")), request_body = StartIn,
    responses((status = 201, description = "The attempt has begun", body = JobView), WriteProblems),
)]
async fn start(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(job_id): Path<String>,
    Maybe { held, .. }: Maybe<StartIn>,
) -> Result<Response, ApiError> {
    act(&app, &caller, job_id, at, JobAct::Start, held).await
}

/// Says how far a job is. Within an attempt it never goes back.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/progress", tag = "jobs", operation_id = "job_progress",
    params(("id" = String, Path, description = "The job")), request_body = ProgressIn,
    responses((status = 201, description = "The progress is in the ledger", body = ProgressDone), WriteProblems),
)]
async fn progress(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(job_id): Path<String>,
    body: JsonBody<ProgressIn>,
) -> Result<Response, ApiError> {
    let JsonBody {
        value: given, held, ..
    } = body;
    let stage = given.stage.as_deref();
    if let Some(stage) = stage {
        fields::word("stage", stage, &["starting", "running", "completing"])?;
    }
    let step = given.current_step.map(|step| fields::count("current_step", step));
    let metadata = fields::value_opt("metadata", given.metadata.as_deref())?;
    if metadata
        .as_ref()
        .is_some_and(|metadata| metadata.as_object().is_none())
    {
        return Err(ApiError::invalid("metadata", "must be an object"));
    }
    let update = ProgressUpdate {
        percentage: given.percentage.map(|percentage| percentage.0),
        stage: stage.and_then(Stage::parse),
        message: given.message,
        current_step: step.transpose()?,
        metadata,
    };
    let act = JobAct::Progress(update);
    let done = done(&app, &caller, job_id, at, act, Some(held), Whose::Callers).await?;
    created(&done.placed, &ProgressDone::of(&done)?)
}

/// Records a step. The same step again gives the first receipt; other content under its index is 409.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/steps", tag = "jobs", operation_id = "job_step",
    params(("id" = String, Path, description = "The job")), request_body = StepIn,
    responses(
        (status = 201, description = "The step is in the ledger", body = JobView),
        (status = 200, description = "It was, with the same content", body = JobView),
        WriteProblems,
    ),
)]
async fn step(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(job_id): Path<String>,
    body: JsonBody<StepIn>,
) -> Result<Response, ApiError> {
    let JsonBody {
        value: given, held, ..
    } = body;
    let step = JobAct::Step {
        step_index: fields::count("step_index", given.step_index)?,
        status: given.status,
        output: value_of("output", given.output.as_deref())?,
    };
    act(&app, &caller, job_id, at, step, Some(held)).await
}

/// Records snapshots of health, before and after.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/health", tag = "jobs", operation_id = "job_health",
    params(("id" = String, Path, description = "The job")), request_body = HealthIn,
    responses(
        (status = 201, description = "The snapshots are in the ledger", body = JobView),
        (status = 200, description = "It was, with the same content", body = JobView),
        WriteProblems,
    ),
)]
async fn health(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(job_id): Path<String>,
    body: JsonBody<HealthIn>,
) -> Result<Response, ApiError> {
    let JsonBody {
        value: given, held, ..
    } = body;
    let health = JobAct::Health {
        before: value_of("before", given.before.as_deref())?,
        after: value_of("after", given.after.as_deref())?,
    };
    act(&app, &caller, job_id, at, health, Some(held)).await
}

/// Completes a job and, under a contract, judges it: the verdict is in the ledger with the end.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/complete", tag = "jobs", operation_id = "job_complete",
    params(("id" = String, Path, description = "The job")), request_body = CompleteIn,
    responses((status = 201, description = "The job is done", body = JobView), WriteProblems),
)]
async fn complete(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(job_id): Path<String>,
    Maybe { value: given, held }: Maybe<CompleteIn>,
) -> Result<Response, ApiError> {
    let result = value_of("result", given.result.as_deref())?;
    act(&app, &caller, job_id, at, JobAct::Complete(result), held).await
}

/// Ends an attempt that failed: the job is queued again or, with no attempt left, has failed and is judged.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/fail", tag = "jobs", operation_id = "job_fail",
    params(("id" = String, Path, description = "The job")), request_body = FailIn,
    responses((status = 201, description = "The attempt has failed", body = JobView), WriteProblems),
)]
async fn fail(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(job_id): Path<String>,
    body: JsonBody<FailIn>,
) -> Result<Response, ApiError> {
    let JsonBody { value, held, .. } = body;
    act(&app, &caller, job_id, at, JobAct::Fail(value.error), Some(held)).await
}

/// Calls a job off. It is not judged.
///
/// Work of Deponent's own takes an admin, and stops between two batches: what it did until then stays.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "job_cancel",
    params(("id" = String, Path, description = "The job")), request_body = CancelIn,
    responses(
        (status = 201, description = "The job is called off", body = JobView),
        (status = 200, description = "Work of Deponent's own is called off", body = JobView),
        (status = 202, description = "It is about to stop: read the job again", body = JobView),
        WriteProblems
    ),
)]
async fn cancel(
    State(app): State<App>,
    caller: Caller,
    request_id: RequestId,
    Received(at): Received,
    Path(job_id): Path<String>,
    body: JsonBody<CancelIn>,
) -> Result<Response, ApiError> {
    let JsonBody { value, held, .. } = body;
    let is_own = |guard: &mut JobGuard, _: &Ledger| {
        let handler = guard.handler().unwrap_or_default();
        Ok(handler.starts_with(OWN_PREFIX))
    };
    if with_job(&app, &caller, job_id.clone(), is_own).await? {
        drop(held);
        caller.may_also(&app, (Action::Manage, "jobs"), &request_id, at)?;
        return cancel_own(&app, &caller, job_id, at, value.reason).await;
    }
    act(
        &app,
        &caller,
        job_id,
        at,
        JobAct::Cancel(value.reason),
        Some(held),
    )
    .await
}

/// Calls work of Deponent's own off, and waits a while for its end.
async fn cancel_own(
    app: &App,
    caller: &Caller,
    job_id: String,
    at: Timestamp,
    reason: String,
) -> Result<Response, ApiError> {
    let mut watch = with_job(app, caller, job_id.clone(), |guard, _| guard.subscribe()).await?;
    if !app.ledger.own_call_off(&caller.tenant, &job_id, &reason)? {
        // The job first and a turn after it, as everywhere: who waited for a job in his turn could wait for ever.
        let act = JobAct::Cancel(reason);
        done(app, caller, job_id.clone(), at, act, None, Whose::Deponents).await?;
    }
    // Whoever waits in vain reads the job again.
    let _ = timeout(CANCEL_WAIT, async { while watch.next().await.is_some() {} }).await;
    let job = with_job(app, caller, job_id, |guard, _| guard.view()).await?;
    let stage = job.progress.stage;
    let view = JobView::of(&caller.tenant, &job)?;
    match stage {
        Stage::Cancelled => ok(&view),
        stage if stage.is_terminal() => Err(JobError::Stage(stage).into()),
        _ => Ok(json(StatusCode::ACCEPTED, canonical(&view)?)),
    }
}

/// Reads a job.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "job_get",
    params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "The job", body = JobView), ReadProblems),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(job_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let tenant = caller.tenant.clone();
    let (job, verdict) = with_job(&app, &caller, job_id, move |guard, ledger| {
        let job = guard.view()?;
        let verdict = match &job.contract_id {
            Some(_) if job.ended_at.is_some() => ledger.job_glance(&tenant, &job.job_id, None)?,
            _ => None,
        };
        Ok((job, verdict))
    })
    .await?;
    let mut view = JobView::of(&caller.tenant, &job)?;
    view.verdict = verdict.and_then(|glance| glance.verdict);
    ok(&view)
}

/// Reads the failed attempts of a job: all of them, kept for ever.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/retries", tag = "jobs", operation_id = "job_retries",
    params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "Failed attempts, oldest first", body = RetriesView), ReadProblems),
)]
async fn retries(
    State(app): State<App>,
    caller: Caller,
    Path(job_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let job = with_job(&app, &caller, job_id, |guard, _| guard.view()).await?;
    caller.answered(job.history.len());
    ok(&RetriesView::of(&job))
}
