//! How much a run's evidence can carry: judged at any time, sealed once.
//!
//! Source: SPEC 6.3.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evidence::canonical::{self, Value};
use ledger::IntegrityError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, json};
use super::fields::Num;
use super::records::ReceiptView;
use crate::api::logs::NoParams;
use crate::{ApiError, App, Caller, JsonBody, Path, Query, Received, RequestId};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get))
        .routes(routes!(seal))
        .routes(routes!(policy, policy_put))
}

impl From<IntegrityError> for ApiError {
    fn from(error: IntegrityError) -> Self {
        let message = error.to_string();
        match error {
            IntegrityError::RunUnknown => Self::not_found(),
            IntegrityError::RunRunning => Self::conflict("run_running", message),
            IntegrityError::Sealed(receipt) => {
                let receipt = serde_json::to_value(ReceiptOut(receipt)).unwrap_or_default();
                Self::conflict("run_sealed", message).with(serde_json::json!({ "receipt": receipt }))
            }
            IntegrityError::SealGone(_) => Self::new(StatusCode::GONE, "seal_gone", message),
            IntegrityError::Read(error) => error.into(),
            IntegrityError::Rejected(rejection) => rejection.into(),
            IntegrityError::Submit(error) => error.into(),
            IntegrityError::Body(error) => error.into(),
        }
    }
}

/// A run's integrity.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // for the document
struct IntegrityOut {
    /// PENDING, or SEALED.
    state: String,
    /// PASS, WARN, FAIL.
    grade: String,
    /// Observed expected classes by expected classes.
    score: f64,
    /// VALID, DEGRADED, FAILED.
    status: String,
    expected: Vec<String>,
    observed: Vec<String>,
    missing: Vec<String>,
    #[schema(value_type = Object)]
    missing_reasons: (),
    /// Records of each class.
    #[schema(value_type = Object)]
    evidence_counts: (),
    /// The first 500, and the first of each class.
    #[schema(value_type = Vec<Object>)]
    capture_failures: (),
    /// How many there are, when they are more.
    capture_failures_total: Option<u64>,
    #[schema(value_type = Vec<Object>)]
    unresolved_failures: (),
    /// How many there are, when not all are told.
    unresolved_failures_total: Option<u64>,
    has_required_evidence: bool,
    has_capture_failures: bool,
    explanation: String,
    /// Each `pass`, `fail` or `unknown`.
    #[schema(value_type = Object)]
    completeness: (),
    run_id: String,
    /// Steps that came after the end.
    late_count: u32,
    /// Of a sealed run: records before the seal.
    records_count: Option<u64>,
    /// Of a sealed run: SHA-256 over their leaf hashes in order, hex.
    records_digest: Option<String>,
    /// Of the seal.
    receipt: Option<ReceiptView>,
}

fn answer(
    mut answer: Value,
    run_id: &str,
    late: u32,
    receipt: Option<ReceiptOut>,
) -> Result<Vec<u8>, ApiError> {
    answer.insert("run_id", run_id);
    answer.insert("late_count", Value::Int(late.into()));
    if let Some(receipt) = receipt {
        let receipt = serde_json::to_value(receipt).map_err(|error| ApiError::internal(&error))?;
        let receipt = canonical::from_serde(&receipt).map_err(|error| ApiError::internal(&error))?;
        answer.insert("receipt", receipt);
    }
    Ok(canonical::to_vec(&answer))
}

/// How much a run's evidence can carry: as it stands, or as it was sealed.
#[utoipa::path(
    get, path = "/api/v1/runs/{run_id}/integrity", tag = "evidence", operation_id = "run_integrity",
    params(("run_id" = String, Path, description = "The run")),
    responses((status = 200, body = IntegrityOut), ReadProblems),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let text = app
        .blocking(move |ledger| {
            let integrity = ledger.run_integrity(&caller.tenant, &run_id)?;
            answer(
                integrity.answer,
                &run_id,
                integrity.late,
                integrity.seal.map(ReceiptOut),
            )
        })
        .await?;
    Ok(json(StatusCode::OK, text))
}

/// Nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RunSeal)]
struct SealIn {}

/// Closes the evidence of a run that has ended, now instead of after `runs.seal_after`.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/seal", tag = "evidence", operation_id = "run_seal",
    params(("run_id" = String, Path, description = "The run")), request_body = SealIn,
    responses((status = 201, description = "The run is sealed", body = IntegrityOut), WriteProblems),
)]
async fn seal(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    JsonBody { .. }: JsonBody<SealIn>,
) -> Result<Response, ApiError> {
    let text = app
        .blocking(move |ledger| {
            let by = (evidence::ActorType::System, Some(&*caller.principal));
            let (placed, sealed) = ledger.run_seal(&caller.tenant, &run_id, by, at)?;
            answer(sealed, &run_id, 0, Some(ReceiptOut(placed.receipt)))
        })
        .await?;
    Ok(json(StatusCode::CREATED, text))
}

/// How runs are judged.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IntegrityPolicy)]
struct PolicyIn {
    /// The score is the observed part of these; the six classes when absent.
    expected: Option<Vec<String>>,
    /// Least score of PASS; 0.8 when absent.
    #[schema(value_type = Option<f64>)]
    pass_at: Option<Num>,
    /// Without these the grade is FAIL; environment_evidence, traces and trace_steps when absent.
    required: Option<Vec<String>>,
    /// Least score of WARN; 0.5 when absent.
    #[schema(value_type = Option<f64>)]
    warn_at: Option<Num>,
}

impl PolicyIn {
    fn value(self) -> Value {
        let texts = |texts: Vec<String>| Value::from(texts.into_iter().map(Value::from).collect::<Vec<_>>());
        let members = [
            ("expected", self.expected.map(texts)),
            ("pass_at", self.pass_at.map(|number| Value::from(number.0))),
            ("required", self.required.map(texts)),
            ("warn_at", self.warn_at.map(|number| Value::from(number.0))),
        ];
        Value::object(
            members
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        )
    }
}

/// How runs are judged from now on, and the receipt of the change.
#[derive(Serialize, ToSchema)]
#[schema(as = IntegrityPolicyChanged)]
#[allow(dead_code)] // the shape of an answer that is put together from values
struct PolicyOut {
    expected: Vec<String>,
    pass_at: f64,
    receipt: ReceiptView,
    required: Vec<String>,
    warn_at: f64,
}

/// How runs are judged now.
#[utoipa::path(
    get, path = "/api/v1/integrity-policy", tag = "settings", operation_id = "integrity_policy_get",
    responses((status = 200, body = PolicyIn), ReadProblems),
)]
async fn policy(
    State(app): State<App>,
    caller: Caller,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let policy = app
        .blocking(move |ledger| Ok(ledger.integrity_policy(&caller.tenant)?))
        .await?;
    Ok(json(StatusCode::OK, canonical::to_vec(&policy)))
}

/// Changes how runs are judged from now on. Seals stay as they are.
///
/// The whole policy: what is absent has its default. The change is an audit event, whose receipt is answered.
#[utoipa::path(
    put, path = "/api/v1/integrity-policy", tag = "settings", operation_id = "integrity_policy_put",
    request_body = PolicyIn, responses((status = 200, description = "In force", body = PolicyOut), WriteProblems),
)]
async fn policy_put(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    request_id: RequestId,
    body: JsonBody<PolicyIn>,
) -> Result<Response, ApiError> {
    let text = app
        .blocking(move |ledger| {
            let tenant = Arc::clone(&caller.tenant);
            let policy = body.value.value();
            let (mut policy, receipt) =
                ledger.integrity_policy_change(&tenant, &policy, &caller.changer(&request_id), at)?;
            let receipt = serde_json::to_value(ReceiptOut(receipt)).unwrap_or_default();
            policy.insert("receipt", canonical::from_serde(&receipt).unwrap_or_default());
            Ok(canonical::to_vec(&policy))
        })
        .await?;
    Ok(json(StatusCode::OK, text))
}
