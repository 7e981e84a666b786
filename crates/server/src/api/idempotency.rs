//! Idempotency keys that callers check themselves, before they do what must be done once.
//!
//! A check that answers `new` gives a lease; who has it completes or fails the key.
//! None of it is evidence, and nothing of it is in the ledger.
//!
//! Source: SPEC 8.1.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use evidence::{Timestamp, hex_string, sha256};
use ledger::once::{
    Check, Checked, KeyRefusal, Lease, OnceEntry, OnceKey, OnceSpace, TTL_SECS_DEFAULT, TTL_SECS_MAX,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, WriteProblems, ok};
use super::fields;
use super::logs::NoParams;
use crate::idempotent::passed;
use crate::{ApiError, App, Caller, ExactJsonBody, Path, Query, Received};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(check))
        .routes(routes!(complete))
        .routes(routes!(fail))
        .routes(routes!(renew))
        .routes(routes!(get, delete))
}

/// Something that is to be done once.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IdempotencyCheck)]
struct CheckIn {
    /// What is to be done, any JSON: its hash is kept, not it.
    #[schema(value_type = serde_json::Value)]
    request: Box<RawValue>,
    /// Kept with the key.
    trace_id: Option<String>,
    /// How long the key lives, 1 to 2592000 seconds (86400).
    ttl_seconds: Option<i64>,
}

/// What is known of the key.
#[derive(Serialize, ToSchema)]
#[schema(as = IdempotencyChecked)]
struct CheckedOut {
    /// True when the store could not answer and the operator lets such checks pass. There is no lease then.
    #[serde(skip_serializing_if = "Option::is_none")]
    bypassed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    is_conflict: bool,
    is_duplicate: bool,
    is_new: bool,
    /// Shown to complete, fail or renew the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    /// Who does not renew it until then is taken to be dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    lease_until: Option<Timestamp>,
    /// `expired` or `failed`: who held the key before.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<&'static str>,
    /// `new`, `duplicate` or `conflict`.
    result: &'static str,
    /// Of a key that is known: `pending` or `completed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    stored_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_trace_id: Option<String>,
}

impl CheckedOut {
    fn of(checked: Checked, hash: &[u8; 32]) -> Self {
        let out = Self {
            bypassed: None,
            expires_at: None,
            is_conflict: checked.is_conflict(),
            is_duplicate: checked.is_duplicate(),
            is_new: checked.is_new(),
            lease: None,
            lease_until: None,
            previous: None,
            result: "new",
            status: None,
            stored_hash: hex_string(hash),
            stored_trace_id: None,
        };
        match checked {
            Checked::New {
                lease,
                previous,
                lease_until,
                expires_at,
            } => Self {
                expires_at: Some(expires_at),
                lease: Some(lease_text(&lease)),
                lease_until: Some(lease_until),
                previous: previous.map(ledger::once::Previous::as_str),
                ..out
            },
            Checked::Duplicate(entry) | Checked::Conflict(entry) => Self {
                expires_at: Some(entry.expires_at),
                result: if out.is_conflict { "conflict" } else { "duplicate" },
                status: Some(entry.status.as_str()),
                stored_hash: entry.hash.as_ref().map_or_else(String::new, hex_string),
                stored_trace_id: entry.label,
                ..out
            },
        }
    }
}

/// There is a result.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IdempotencyComplete)]
struct CompleteIn {
    /// Of the check.
    lease: String,
    trace_id: Option<String>,
    /// The result, any JSON: its hash is kept, not it.
    #[schema(value_type = Option<serde_json::Value>)]
    response: Option<Box<RawValue>>,
}

/// There will be no result.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IdempotencyFail)]
struct FailIn {
    /// Why; cut to 500 characters.
    error: String,
    /// Of the check.
    lease: String,
}

/// The holder lives.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IdempotencyRenew)]
struct RenewIn {
    /// Of the check.
    lease: String,
}

/// Where a key stands.
#[derive(Serialize, ToSchema)]
#[schema(as = IdempotencyKey)]
struct KeyOut {
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    hash: String,
    /// Of a pending key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    lease_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_hash: Option<String>,
    /// `pending`, `completed` or `failed`.
    status: &'static str,
    tenant_id: String,
    trace_id: Option<String>,
}

impl KeyOut {
    fn of(entry: OnceEntry, caller: &Caller) -> Self {
        let pending = entry.status == ledger::once::OnceStatus::Pending;
        Self {
            created_at: entry.created_at,
            error: entry.error,
            expires_at: entry.expires_at,
            hash: entry.hash.as_ref().map_or_else(String::new, hex_string),
            lease_until: pending.then_some(entry.lease_until),
            response_hash: entry.response_hash.as_ref().map(hex_string),
            status: entry.status.as_str(),
            tenant_id: caller.tenant.tenant_id.to_string(),
            trace_id: entry.label,
        }
    }
}

fn key_of(caller: &Caller, key: &str) -> Result<OnceKey, ApiError> {
    fields::id("key", key)?;
    Ok(OnceKey {
        space: OnceSpace::Key,
        tenant: std::sync::Arc::clone(&caller.tenant.tenant_id),
        key: key.into(),
    })
}

/// 32 hex digits.
fn lease_text(lease: &Lease) -> String {
    format!("{:032x}", u128::from_be_bytes(*lease))
}

fn lease_of(text: &str) -> Result<Lease, ApiError> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lease = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    lease
        .map(u128::to_be_bytes)
        .ok_or_else(|| ApiError::invalid("lease", "must be the lease of a check"))
}

/// Is the key new? Then whoever asks holds it.
///
/// Of all that ask at once exactly one is answered `new`.
#[utoipa::path(
    post, path = "/api/v1/idempotency/{key}/check", tag = "idempotency", operation_id = "idempotency_check",
    params(("key" = String, Path, description = "The key, 1 to 256 bytes")), request_body = CheckIn,
    responses((status = 200, description = "New, duplicate or conflict", body = CheckedOut), WriteProblems),
)]
async fn check(
    State(app): State<App>,
    caller: Caller,
    Path(key): Path<String>,
    // Two requests that differ in a secret are two requests.
    ExactJsonBody(body): ExactJsonBody<CheckIn>,
) -> Result<Response, ApiError> {
    let place = key_of(&caller, &key)?;
    let CheckIn {
        request,
        trace_id,
        ttl_seconds,
    } = body.value;
    fields::ids(&[("trace_id", &trace_id)])?;
    let ttl_secs = match ttl_seconds {
        None => TTL_SECS_DEFAULT,
        Some(secs) => u32::try_from(secs)
            .ok()
            .filter(|secs| (1..=TTL_SECS_MAX).contains(secs))
            .ok_or_else(|| ApiError::invalid("ttl_seconds", format_args!("must be 1 to {TTL_SECS_MAX}")))?,
    };
    let hash = sha256(request.get().as_bytes());
    // The lease begins now and not with the first byte of a body that came slowly.
    let at = (app.clock)();
    let check = Check {
        hash: Some(hash),
        label: trace_id,
        ttl_secs,
    };
    match app.once.check(&place, check, at).await {
        Ok(checked) => ok(&CheckedOut::of(checked, &hash)),
        Err(KeyRefusal::Backend(error)) => {
            passed(&app, &caller, error, "idempotency_check", &key, &hash, at).await?;
            ok(&CheckedOut {
                bypassed: Some(true),
                expires_at: None,
                is_conflict: false,
                is_duplicate: false,
                is_new: true,
                lease: None,
                lease_until: None,
                previous: None,
                result: "new",
                status: None,
                stored_hash: hex_string(&hash),
                stored_trace_id: None,
            })
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// There is a result: the key is completed, for good.
#[utoipa::path(
    post, path = "/api/v1/idempotency/{key}/complete", tag = "idempotency", operation_id = "idempotency_complete",
    params(("key" = String, Path, description = "The key")), request_body = CompleteIn,
    responses((status = 200, description = "Completed", body = KeyOut), WriteProblems),
)]
async fn complete(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(key): Path<String>,
    ExactJsonBody(body): ExactJsonBody<CompleteIn>,
) -> Result<Response, ApiError> {
    let place = key_of(&caller, &key)?;
    let CompleteIn {
        lease,
        trace_id,
        response,
    } = body.value;
    fields::ids(&[("trace_id", &trace_id)])?;
    let hash = response.map(|response| sha256(response.get().as_bytes()));
    let entry = app
        .once
        .complete(&place, lease_of(&lease)?, trace_id, hash, None, at)
        .await?;
    ok(&KeyOut::of(entry, &caller))
}

/// There will be no result: the key may be tried again.
#[utoipa::path(
    post, path = "/api/v1/idempotency/{key}/fail", tag = "idempotency", operation_id = "idempotency_fail",
    params(("key" = String, Path, description = "The key")), request_body = FailIn,
    responses((status = 200, description = "Failed", body = KeyOut), WriteProblems),
)]
async fn fail(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(key): Path<String>,
    ExactJsonBody(body): ExactJsonBody<FailIn>,
) -> Result<Response, ApiError> {
    let place = key_of(&caller, &key)?;
    let lease = lease_of(&body.value.lease)?;
    let error = fields::redacted(&caller.tenant, body.value.error);
    let entry = app.once.fail(&place, lease, &error, at).await?;
    ok(&KeyOut::of(entry, &caller))
}

/// The holder lives: its lease begins anew.
#[utoipa::path(
    post, path = "/api/v1/idempotency/{key}/renew", tag = "idempotency", operation_id = "idempotency_renew",
    params(("key" = String, Path, description = "The key")), request_body = RenewIn,
    responses((status = 200, description = "Renewed", body = KeyOut), WriteProblems),
)]
async fn renew(
    State(app): State<App>,
    caller: Caller,
    Path(key): Path<String>,
    ExactJsonBody(body): ExactJsonBody<RenewIn>,
) -> Result<Response, ApiError> {
    let place = key_of(&caller, &key)?;
    // From now, as at the check.
    let at = (app.clock)();
    let entry = app.once.renew(&place, lease_of(&body.value.lease)?, at).await?;
    ok(&KeyOut::of(entry, &caller))
}

/// Where a key stands.
#[utoipa::path(
    get, path = "/api/v1/idempotency/{key}", tag = "idempotency", operation_id = "idempotency_get",
    params(("key" = String, Path, description = "The key")),
    responses((status = 200, description = "The key", body = KeyOut), ReadProblems),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(key): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    // What cannot be a key is none.
    let place = key_of(&caller, &key).map_err(|_| ApiError::not_found())?;
    let entry = app.once.read(&place, at).await?;
    let entry = entry.ok_or_else(ApiError::not_found)?;
    ok(&KeyOut::of(entry, &caller))
}

/// Forgets a key: the next check is new. Who holds it has lost it.
#[utoipa::path(
    delete, path = "/api/v1/idempotency/{key}", tag = "idempotency", operation_id = "idempotency_delete",
    params(("key" = String, Path, description = "The key")),
    responses((status = 204, description = "It is not there"), ReadProblems),
)]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(key): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    if let Ok(place) = key_of(&caller, &key) {
        app.once.delete(&place, at).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
