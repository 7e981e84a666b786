//! Evidence about a run, posted by itself: environment (H), activity (B), provider (G), and what could not be captured.
//!
//! No run, no evidence: about a run that is not there (404) or is sealed (409) nothing is kept. Policy decisions
//! are in [`super::policy_decisions`].
//!
//! Source: SPEC 6.1, 6.2.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::canonical;
use evidence::record::{
    ActivityEvidence, CaptureFailure, EnvironmentEvidence, EvidenceClass, ProviderEvidence,
};
use evidence::{GivenTime, TimesGiven, unhex};
use ledger::{CaptureError, ContextMissing, Placed};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReceiptOut, WriteProblems, created, raw};
use super::fields::{self, Num};
use super::records::ReceiptView;
use crate::{ApiError, App, Caller, JsonBody, Path, Received};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(environment))
        .routes(routes!(activity))
        .routes(routes!(provider))
        .routes(routes!(failure))
}

impl From<CaptureError> for ApiError {
    fn from(error: CaptureError) -> Self {
        match error {
            CaptureError::Context { class, run_id, why } => {
                let (mut refusal, message) = match why {
                    ContextMissing::RunUnknown => (
                        Self::not_found(),
                        "no such run: evidence needs the run that it is about",
                    ),
                    ContextMissing::RunSealed => (
                        Self::conflict("", String::new()),
                        "the run is sealed: it takes no more evidence",
                    ),
                };
                refusal.code = "evidence_context_missing";
                refusal.message = message.into();
                refusal.with(json!({ "evidence_class": class.as_str(), "run_id": run_id }))
            }
            CaptureError::Rule(error) => error.into(),
            CaptureError::Body(error) => error.into(),
            CaptureError::Read(error) => error.into(),
            CaptureError::Rejected(rejection) => rejection.into(),
            CaptureError::Submit(error) => error.into(),
        }
    }
}

/// Evidence is on record.
#[derive(Serialize, ToSchema)]
pub(crate) struct EvidenceRecorded {
    pub(crate) evidence_class: &'static str,
    #[schema(value_type = ReceiptView)]
    pub(crate) receipt: ReceiptOut,
    pub(crate) run_id: String,
}

pub(crate) fn recorded(class: EvidenceClass, placed: &Placed, run_id: String) -> Result<Response, ApiError> {
    created(
        placed,
        &EvidenceRecorded {
            evidence_class: class.as_str(),
            receipt: ReceiptOut(placed.receipt),
            run_id,
        },
    )
}

/// What a run ran in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EnvironmentRecord)]
struct EnvironmentIn {
    /// `inline`, `async`, `degraded`, `offline`.
    sdk_mode: String,
    sdk_version: Option<String>,
    /// `prod`, `staging`, `dev`, `sandbox`.
    environment: Option<String>,
    /// True when absent.
    telemetry_enabled: Option<bool>,
    /// `sent`, `dropped`, `buffered`, `unknown`.
    telemetry_delivery_status: Option<String>,
    /// 0 to 1.
    #[schema(value_type = Option<f64>)]
    capture_confidence_score: Option<Num>,
    /// False when absent.
    debug_mode: Option<bool>,
    /// False when absent.
    dry_run: Option<bool>,
}

/// Records what a run ran in, once.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/evidence/environment", tag = "evidence",
    operation_id = "evidence_environment", params(("run_id" = String, Path, description = "The run")),
    request_body = EnvironmentIn,
    responses((status = 201, description = "It is in the ledger", body = EvidenceRecorded),
        (status = 200, description = "It was, with the same content; the first receipt", body = EvidenceRecorded),
        WriteProblems),
)]
async fn environment(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<EnvironmentIn>,
) -> Result<Response, ApiError> {
    let tenant = Arc::clone(&caller.tenant);
    let id = run_id.clone();
    let placed = app
        .blocking(move |ledger| {
            let sent = body.value;
            let environment = EnvironmentEvidence {
                sdk_mode: sent.sdk_mode,
                sdk_version: sent.sdk_version,
                environment: sent.environment,
                telemetry_enabled: sent.telemetry_enabled.unwrap_or(true),
                telemetry_delivery_status: sent.telemetry_delivery_status,
                capture_confidence_score: sent.capture_confidence_score.map(|number| number.0),
                debug_mode: sent.debug_mode.unwrap_or(false),
                dry_run: sent.dry_run.unwrap_or(false),
            };
            Ok(ledger.capture_environment(&tenant, &id, &environment, Some(body.content), at)?)
        })
        .await?;
    recorded(EvidenceClass::Environment, &placed, run_id)
}

/// What went to a model or tool, and what came back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ActivityRecord)]
struct ActivityIn {
    /// 0 to 2147483647.
    step_index: i64,
    /// With the next three: needed of a step's first record.
    skill_id: Option<String>,
    model_name: Option<String>,
    /// SHA-256 of the UTF-8 text, 64 hex digits.
    prompt_fingerprint: Option<String>,
    prompt_token_length: Option<i64>,
    prompt_template_id: Option<String>,
    prompt_template_version: Option<String>,
    /// SHA-256 of the UTF-8 text, 64 hex digits. It and the next two may come later.
    response_fingerprint: Option<String>,
    response_token_length: Option<i64>,
    completion_type: Option<String>,
    sensitivity_class: Option<String>,
    redaction_status: Option<String>,
}

impl ActivityIn {
    fn activity(self) -> Result<ActivityEvidence, ApiError> {
        let print = |field: &str, print: Option<String>| match print {
            None => Ok(None),
            Some(text) => match unhex(text.to_ascii_lowercase().as_bytes()) {
                Some(print) => Ok(Some(print)),
                None => Err(ApiError::invalid(field, "must be 64 hex digits")),
            },
        };
        Ok(ActivityEvidence {
            step_index: fields::count("step_index", self.step_index)?,
            completion: 0,
            skill_id: self.skill_id,
            model_name: self.model_name,
            prompt_fingerprint: print("prompt_fingerprint", self.prompt_fingerprint)?,
            prompt_token_length: self.prompt_token_length,
            prompt_template_id: self.prompt_template_id,
            prompt_template_version: self.prompt_template_version,
            sensitivity_class: self.sensitivity_class,
            redaction_status: self.redaction_status,
            response_fingerprint: print("response_fingerprint", self.response_fingerprint)?,
            response_token_length: self.response_token_length,
            completion_type: self.completion_type,
        })
    }
}

/// An activity is on record.
#[derive(Serialize, ToSchema)]
struct ActivityRecorded {
    /// The activity as it stands.
    #[schema(value_type = ActivityIn)]
    activity: Box<RawValue>,
    evidence_class: &'static str,
    /// Fields that were sent with another value than stands: the first one wins.
    kept: Vec<&'static str>,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    run_id: String,
}

/// Records an activity of a step, or completes the response of it.
///
/// 200 with the first receipt when nothing of it is new.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/evidence/activity", tag = "evidence",
    operation_id = "evidence_activity", params(("run_id" = String, Path, description = "The run")),
    request_body = ActivityIn,
    responses((status = 201, description = "It, or what it adds, is in the ledger", body = ActivityRecorded),
        (status = 200, description = "All of it was; the first receipt", body = ActivityRecorded), WriteProblems),
)]
async fn activity(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<ActivityIn>,
) -> Result<Response, ApiError> {
    let tenant = Arc::clone(&caller.tenant);
    let id = run_id.clone();
    let captured = app
        .blocking(move |ledger| {
            let activity = body.value.activity()?;
            Ok(ledger.capture_activity(&tenant, &id, &activity, at)?)
        })
        .await?;
    let mut standing = captured.activity.to_value();
    standing.remove("completion");
    created(
        &captured.placed,
        &ActivityRecorded {
            activity: raw(canonical::to_vec(&standing))?,
            evidence_class: EvidenceClass::Activity.as_str(),
            kept: captured.kept,
            receipt: ReceiptOut(captured.placed.receipt),
            run_id,
        },
    )
}

/// A provider was asked and answered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProviderRecord)]
struct ProviderIn {
    /// 0 to 2147483647.
    step_index: i64,
    provider_name: String,
    provider_request_id: Option<String>,
    model_name: String,
    model_version: Option<String>,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    cache_read_tokens: Option<i64>,
    cache_creation_tokens: Option<i64>,
    /// input + output when absent.
    total_tokens: Option<i64>,
    api_version: Option<String>,
    #[schema(value_type = Option<f64>)]
    provider_latency_ms: Option<Num>,
    /// 100 to 599.
    provider_http_status: Option<i64>,
    provider_error_code: Option<String>,
    provider_retry_count: Option<i64>,
    #[schema(value_type = Option<String>, format = DateTime)]
    requested_at: Option<GivenTime>,
    #[schema(value_type = Option<String>, format = DateTime)]
    responded_at: Option<GivenTime>,
}

impl ProviderIn {
    fn call(self) -> Result<ProviderEvidence, ApiError> {
        let times_given = TimesGiven::of([
            ("requested_at", self.requested_at.as_ref()),
            ("responded_at", self.responded_at.as_ref()),
        ]);
        Ok(ProviderEvidence {
            step_index: fields::count("step_index", self.step_index)?,
            provider_name: self.provider_name,
            provider_request_id: self.provider_request_id,
            model_name: self.model_name,
            model_version: self.model_version,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cache_read_tokens: self.cache_read_tokens.unwrap_or(0),
            cache_creation_tokens: self.cache_creation_tokens.unwrap_or(0),
            total_tokens: self.total_tokens,
            api_version: self.api_version,
            provider_latency_ms: self.provider_latency_ms.map(|number| number.0),
            provider_http_status: self.provider_http_status,
            provider_error_code: self.provider_error_code,
            provider_retry_count: self.provider_retry_count.unwrap_or(0),
            requested_at: self.requested_at.map(|given| given.time),
            responded_at: self.responded_at.map(|given| given.time),
            times_given,
        })
    }
}

/// Records a provider's call, once a step.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/evidence/provider", tag = "evidence",
    operation_id = "evidence_provider", params(("run_id" = String, Path, description = "The run")),
    request_body = ProviderIn,
    responses((status = 201, description = "It is in the ledger", body = EvidenceRecorded),
        (status = 200, description = "It was, with the same content; the first receipt", body = EvidenceRecorded),
        WriteProblems),
)]
async fn provider(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<ProviderIn>,
) -> Result<Response, ApiError> {
    let tenant = Arc::clone(&caller.tenant);
    let id = run_id.clone();
    let placed = app
        .blocking(move |ledger| {
            let call = body.value.call()?;
            Ok(ledger.capture_provider(&tenant, &id, &call, Some(body.content), at)?)
        })
        .await?;
    recorded(EvidenceClass::Provider, &placed, run_id)
}

/// Evidence that could not be captured.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CaptureFailureRecord)]
struct FailureIn {
    /// `environment_evidence`, `activity_evidence`, `provider_evidence`, `policy_decisions`, `traces`,
    /// `trace_steps`, `integrity_evidence`.
    evidence_class: String,
    /// `capture_failed`, `provider_timeout`, `network_partition`, `database_error`, `pre_attach`, `context_invalid`.
    failure_reason: String,
    /// 500 characters are kept.
    error_message: Option<String>,
    /// `transient`, `permanent`, `superseded`; absent: that of the reason.
    resolution: Option<String>,
}

/// Records that evidence could not be captured. Each POST is a record.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/evidence/failures", tag = "evidence",
    operation_id = "evidence_failure", params(("run_id" = String, Path, description = "The run")),
    request_body = FailureIn,
    responses((status = 201, description = "It is in the ledger", body = EvidenceRecorded), WriteProblems),
)]
async fn failure(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<FailureIn>,
) -> Result<Response, ApiError> {
    let tenant = Arc::clone(&caller.tenant);
    let id = run_id.clone();
    let (class, placed) = app
        .blocking(move |ledger| {
            let sent = body.value;
            let failure = CaptureFailure::of_words(
                &sent.evidence_class,
                &sent.failure_reason,
                sent.resolution.as_deref(),
                sent.error_message.as_deref(),
            )?;
            let placed = ledger.capture_failure(&tenant, &id, &failure, at)?;
            Ok((failure.evidence_class, placed))
        })
        .await?;
    recorded(class, &placed, run_id)
}
