//! Replay over HTTP: what to do about a step, what came out of it, and the report over a replayed run.
//!
//! Between the decision and the result nothing is kept of a step here: its token says all.
//!
//! Source: SPEC 8.3.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use evidence::canonical;
use evidence::record::ReplayBehavior;
use ledger::Body;
use ledger::replay::{
    Begun, Replay, ReplayError, ReplayResult, ReplayStep, ReplayedStep, is_output_hash, replay_report,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, created, ok, raw};
use super::fields;
use super::logs::NoParams;
use super::records::ReceiptView;
use crate::extract::NoBody;
use crate::{ApiError, App, Caller, ExactJsonBody, Path, Query, Received, idempotent};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(begin))
        .routes(routes!(result))
        .routes(routes!(fail))
        .routes(routes!(renew))
        .routes(routes!(report))
}

impl From<ReplayError> for ApiError {
    fn from(error: ReplayError) -> Self {
        let message = error.to_string();
        match error {
            ReplayError::ReplayMismatch {
                step_index,
                expected_hash,
                actual_hash,
            } => Self::conflict("replay_mismatch", message).with(json!({
                "step_index": step_index, "expected_hash": expected_hash, "actual_hash": actual_hash,
            })),
            ReplayError::IdempotencyViolation {
                key,
                expected_hash,
                actual_hash,
            } => Self::conflict("idempotency_violation", message).with(json!({
                "key": key, "expected_hash": expected_hash, "actual_hash": actual_hash,
            })),
            ReplayError::InProgress => {
                let mut error = Self::conflict("replay_in_progress", message);
                error.retry_after_secs = Some(1);
                error
            }
            ReplayError::LeaseLost => Self::conflict("lease_lost", message),
            ReplayError::OutputLost => Self::conflict("output_not_kept", message),
            ReplayError::RunUnknown | ReplayError::TokenUnknown => Self::not_found(),
            ReplayError::OutputTooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "output_too_large", message)
            }
            ReplayError::Full => idempotent::full(message),
            ReplayError::Store(error) => error.into(),
            ReplayError::Body(error) => error.into(),
            ReplayError::Rejected(rejection) => rejection.into(),
            ReplayError::Submit(error) => error.into(),
            ReplayError::Read(error) => error.into(),
        }
    }
}

/// A step that is about to be done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayStep)]
struct StepIn {
    run_id: String,
    #[schema(value_type = u32)]
    step_index: i64,
    /// What makes it the same step again; none or empty: nothing does.
    idempotency_key: Option<String>,
    /// Of its input: a known key with another one is refused.
    input_hash: Option<String>,
    /// `execute` (default), `skip` or `check`.
    replay_behavior: Option<String>,
    /// For `check`: what SHA-256 of the canonical output must be.
    output_hash: Option<String>,
}

impl StepIn {
    fn check(self) -> Result<ReplayStep, ApiError> {
        fields::id("run_id", &self.run_id)?;
        let key = self.idempotency_key.filter(|key| !key.is_empty());
        fields::ids(&[
            ("idempotency_key", &key),
            ("input_hash", &self.input_hash),
            ("output_hash", &self.output_hash),
        ])?;
        if self
            .output_hash
            .as_deref()
            .is_some_and(|hash| !is_output_hash(hash))
        {
            return Err(ApiError::invalid(
                "output_hash",
                "must be 64 lower-case hexadecimal digits",
            ));
        }
        let behavior = match self.replay_behavior.as_deref() {
            None => ReplayBehavior::default(),
            Some(word) => {
                let word = fields::word("replay_behavior", word, &ReplayBehavior::WORDS)?;
                ReplayBehavior::parse(word).unwrap_or_default()
            }
        };
        Ok(ReplayStep {
            run_id: self.run_id,
            step_index: fields::count("step_index", self.step_index)?,
            behavior,
            idempotency_key: key,
            input_hash: self.input_hash,
            output_hash: self.output_hash,
        })
    }
}

/// What to do about a step.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplayDecision)]
struct DecisionOut {
    /// `execute`: run it, and bring what comes out. `use_stored`: the output is here.
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_cache: Option<bool>,
    /// With `execute`: so long nobody else runs it, unless renewed. Absent: nothing is to be renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_secs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReceiptView>)]
    receipt: Option<ReceiptOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<bool>,
    /// Where the result goes: `/api/v1/replay/steps/{token}/result`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// What became of a step.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplayResult)]
#[allow(clippy::struct_excessive_bools)] // members of an answer, each by itself
struct ResultOut {
    checked: bool,
    executed: bool,
    from_cache: bool,
    #[schema(value_type = serde_json::Value)]
    output: Box<RawValue>,
    output_hash: String,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    skipped: bool,
}

impl ResultOut {
    fn of(result: &ReplayResult) -> Result<Self, ApiError> {
        Ok(Self {
            checked: result.checked,
            executed: result.executed,
            from_cache: result.from_cache,
            output: raw(canonical::to_vec(&result.output))?,
            output_hash: result.output_hash.clone(),
            receipt: ReceiptOut(result.placed.receipt),
            skipped: result.skipped,
        })
    }
}

fn replay(app: &App, caller: &Caller) -> Replay {
    let principal = Arc::clone(&caller.principal);
    Replay::new(&app.ledger, &app.once, &caller.tenant, Some(principal))
}

/// Decides about a step of a run: run it, or take the stored output.
#[utoipa::path(
    post, path = "/api/v1/replay/steps", tag = "replay", operation_id = "replay_step", request_body = StepIn,
    responses((status = 200, description = "What to do", body = DecisionOut), WriteProblems),
)]
async fn begin(
    State(app): State<App>,
    caller: Caller,
    ExactJsonBody(body): ExactJsonBody<StepIn>,
) -> Result<Response, ApiError> {
    let replay = replay(&app, &caller);
    // The lease begins now and not with the first byte of a body that came slowly.
    match replay.begin(body.value.check()?, (app.clock)()).await? {
        Begun::Execute(pass) => ok(&DecisionOut {
            action: "execute",
            checked: None,
            executed: None,
            from_cache: None,
            lease_secs: replay.lease_secs(&pass),
            output: None,
            output_hash: None,
            receipt: None,
            skipped: None,
            token: Some(replay.token(&pass)?),
        }),
        Begun::UseStored(result) => ok(&DecisionOut {
            action: "use_stored",
            checked: Some(result.checked),
            executed: Some(result.executed),
            from_cache: Some(result.from_cache),
            lease_secs: None,
            output: Some(raw(canonical::to_vec(&result.output))?),
            output_hash: Some(result.output_hash),
            receipt: Some(ReceiptOut(result.placed.receipt)),
            skipped: Some(result.skipped),
            token: None,
        }),
    }
}

/// What came out of a step that ran.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayOutput)]
struct OutputIn {
    /// Any JSON, null included; at most 4 MiB.
    #[schema(value_type = serde_json::Value)]
    output: Box<RawValue>,
}

/// Why a step has no output.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayFailure)]
struct FailureIn {
    /// Cut to 500 characters.
    error: String,
}

/// Takes what came out of a step. The same again answers the same.
#[utoipa::path(
    post, path = "/api/v1/replay/steps/{token}/result", tag = "replay", operation_id = "replay_result",
    params(("token" = String, Path, description = "Of the decision")), request_body = OutputIn,
    responses((status = 201, description = "The step is done", body = ResultOut),
        (status = 200, description = "It was, with this result", body = ResultOut), WriteProblems),
)]
async fn result(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(token): Path<String>,
    // The stored output is exact; the record of it is redacted as all are.
    ExactJsonBody(body): ExactJsonBody<OutputIn>,
) -> Result<Response, ApiError> {
    let replay = replay(&app, &caller);
    let pass = replay.pass(&token, at)?;
    let output = fields::value("output", &body.value.output)?;
    let result = replay.finish(&pass, output, at).await?;
    created(&result.placed, &ResultOut::of(&result)?)
}

/// The step failed: nothing came out, and it may be tried again at once.
#[utoipa::path(
    post, path = "/api/v1/replay/steps/{token}/fail", tag = "replay", operation_id = "replay_fail",
    params(("token" = String, Path, description = "Of the decision")), request_body = FailureIn,
    responses((status = 204, description = "Its key is free"), WriteProblems),
)]
async fn fail(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(token): Path<String>,
    ExactJsonBody(body): ExactJsonBody<FailureIn>,
) -> Result<Response, ApiError> {
    let replay = replay(&app, &caller);
    let pass = replay.pass(&token, at)?;
    let error = fields::redacted(&caller.tenant, body.value.error);
    replay.fail(&pass, &error, at).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The step still runs: nobody takes it over.
#[utoipa::path(
    post, path = "/api/v1/replay/steps/{token}/renew", tag = "replay", operation_id = "replay_renew",
    params(("token" = String, Path, description = "Of the decision")),
    responses((status = 204, description = "Its lease begins anew"), WriteProblems),
)]
async fn renew(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(token): Path<String>,
    NoBody: NoBody,
) -> Result<Response, ApiError> {
    let replay = replay(&app, &caller);
    let pass = replay.pass(&token, at)?;
    replay.renew(&pass, at).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// One enforcement.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplayedStep)]
struct ReplayedOut {
    behavior: Option<&'static str>,
    checked: Option<bool>,
    expected_hash: Option<String>,
    idempotency_key: Option<String>,
    input_hash: Option<String>,
    /// Of a violation: the input hash that the key is known with.
    known_input_hash: Option<String>,
    leaf_index: u64,
    /// `executed`, `used_stored`, `mismatch` or `violation`; `erased` or `archived` when the record says
    /// nothing any more, and then all but the leaf is null.
    outcome: &'static str,
    output_hash: Option<String>,
    step_index: Option<u32>,
    /// Of a step that ran although its key was known: the hash of what is stored, which its output is held against.
    stored_hash: Option<String>,
}

impl From<ReplayedStep> for ReplayedOut {
    fn from(step: ReplayedStep) -> Self {
        let leaf_index = step.leaf_index;
        match step.enforced {
            Body::Gone(gone) => Self {
                behavior: None,
                checked: None,
                expected_hash: None,
                idempotency_key: None,
                input_hash: None,
                known_input_hash: None,
                leaf_index,
                outcome: gone.as_str(),
                output_hash: None,
                step_index: None,
                stored_hash: None,
            },
            Body::There(enforced) => Self {
                behavior: Some(enforced.behavior.as_str()),
                checked: Some(enforced.checked),
                expected_hash: enforced.expected_hash,
                idempotency_key: enforced.idempotency_key,
                input_hash: enforced.input_hash,
                known_input_hash: enforced.known_input_hash,
                leaf_index,
                outcome: enforced.outcome.as_str(),
                output_hash: enforced.output_hash,
                step_index: Some(enforced.step_index),
                stored_hash: enforced.stored_hash,
            },
        }
    }
}

/// What became of the steps of a replayed run.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplayReport)]
struct ReportOut {
    /// Enforcements whose record is in an archive: each may have diverged.
    archived: u64,
    /// Steps that ran although their key was known, and came to something else than is stored under it.
    differed: u64,
    /// Enforcements whose record is erased: the same as of archived ones.
    erased: u64,
    /// Steps that ran.
    executed: u64,
    /// The first mismatch, violation or output that differs from the stored one, in the order of the ledger.
    first_divergence: Option<ReplayedOut>,
    /// Enforcements that came after the run's seal: of steps that were begun before it.
    late: u64,
    /// Outputs that were compared and agreed.
    matched: u64,
    /// Outputs that were not the expected ones.
    mismatched: u64,
    /// Enforcements whose record says nothing, and none says why: the same again; verification finds it.
    missing: u64,
    run_id: String,
    /// Steps that did not run, because their stored output stood for them.
    skipped: u64,
    /// In the order of the ledger, at most 10,000.
    steps: Vec<ReplayedOut>,
    total: u64,
    /// Keys that were known with another input.
    violated: u64,
}

/// The report over a replayed run: matched, skipped, executed, and where it diverged first.
#[utoipa::path(
    get, path = "/api/v1/replay/runs/{run_id}", tag = "replay", operation_id = "replay_report",
    params(("run_id" = String, Path, description = "The run")),
    responses((status = 200, description = "The report", body = ReportOut), ReadProblems),
)]
async fn report(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let run = ledger.records(&caller.tenant).run(&run_id)?;
        let report = replay_report(ledger.store(), &run.ok_or_else(ApiError::not_found)?)?;
        caller.answered(report.steps.len());
        ok(&ReportOut {
            archived: report.archived,
            differed: report.differed,
            erased: report.erased,
            executed: report.executed,
            first_divergence: report.first_divergence.map(ReplayedOut::from),
            late: report.late,
            matched: report.matched,
            mismatched: report.mismatched,
            missing: report.missing,
            run_id,
            skipped: report.skipped,
            steps: report.steps.into_iter().map(ReplayedOut::from).collect(),
            total: report.total,
            violated: report.violated,
        })
    })
    .await
}
