//! Errors at the edge: RFC 9457 problem+json with a stable `code`.
//!
//! The message is for the client and says what was wrong and where; the cause
//! goes to the log, once, here.

use std::fmt::Display;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use evidence::record::RuleBroken;
use ledger::{KeyError, LoadError, RecordError, Rejection, SettleError, SubmitError, WriteError};
use serde_json::{Value, json};
use store::StoreError;

use crate::codes;

/// Seconds after which a refused request may be sent again: two commits of the largest batch.
const RETRY_AFTER_SECS: u32 = 1;

/// A refusal or failure, as the client sees it.
#[derive(Debug)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people: what was wrong and where.
    pub message: String,
    /// Further members of the problem document.
    pub more: Option<Box<Value>>,
    /// `Retry-After`, seconds.
    pub retry_after_secs: Option<u32>,
}

/// The form of every error: RFC 9457.
#[derive(Debug, utoipa::ToSchema)]
#[allow(dead_code)] // for the document; written by `to_problem`
pub(crate) struct Problem {
    /// `urn:deponent:problem:<code>`
    #[schema(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// Stable, for programs.
    code: String,
    /// For people: what was wrong and where.
    detail: String,
}

impl ApiError {
    /// A refusal.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            more: None,
            retry_after_secs: None,
        }
    }

    /// 400: the request's form is wrong.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    /// 422: the request breaks a rule; `field` says where.
    pub fn invalid(field: &str, message: impl Display) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            format!("{field}: {message}"),
        )
    }

    /// 404, the same for foreign and absent.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "no such resource")
    }

    /// 409.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 503, to be sent again.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        error.retry_after_secs = Some(RETRY_AFTER_SECS);
        error
    }

    /// 500: the cause goes to the log only.
    pub fn internal(cause: &dyn Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "an internal error; the server's log has its cause",
        )
    }

    /// Adds members to the problem document.
    #[must_use]
    pub fn with(mut self, more: Value) -> Self {
        self.more = Some(Box::new(more));
        self
    }

    /// The problem document.
    pub fn to_problem(&self) -> Value {
        let mut problem = json!({
            "type": format!("urn:deponent:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.message,
        });
        if let (Some(problem), Some(Value::Object(more))) = (problem.as_object_mut(), self.more.as_deref()) {
            problem.extend(more.clone());
        }
        problem
    }
}

/// The code of a problem, for layers that see the answer: it is no part of what is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProblemCode(pub(crate) &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        debug_assert!(
            codes::is_known(self.status.as_u16(), self.code),
            "{} `{}` is in no table",
            self.status,
            self.code
        );
        let mut response = (self.status, Json(self.to_problem())).into_response();
        response.extensions_mut().insert(ProblemCode(self.code));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, secs.into());
        }
        response
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::Busy { .. } => Self::unavailable("busy", message),
            SubmitError::Refused(_) => Self::unavailable("ledger_refused", message),
            SubmitError::Stopped(_) => Self::unavailable("writes_stopped", message),
            SubmitError::Unknown(_) => Self::unavailable("outcome_unknown", message),
            SubmitError::Closing => Self::unavailable("closing", message),
        }
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let message = rejection.to_string();
        match rejection {
            Rejection::Conflict(receipt) => {
                Self::conflict("conflict", message).with(json!({ "receipt": receipt }))
            }
            Rejection::Archived(receipt) => {
                Self::conflict("archived", message).with(json!({ "receipt": receipt }))
            }
            Rejection::RunUnknown => Self::not_found(),
            Rejection::RunEnded => Self::conflict("run_ended", message),
            Rejection::RunMoved => Self::unavailable("run_moved", message),
            Rejection::RunSealed => Self::conflict("run_sealed", message),
            Rejection::Redacted => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message),
            Rejection::LeafTooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "header_too_large", message),
            Rejection::Group => Self::conflict("conflict", message),
        }
    }
}

impl From<LoadError> for ApiError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => error.into(),
            LoadError::Record(error) => error.into(),
            error @ LoadError::Body { .. } => {
                tracing::error!(%error, "keys cannot be read");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", error.to_string())
            }
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        let message = error.to_string();
        match error {
            KeyError::TenantUnknown(_) | KeyError::KeyUnknown(_) => Self::not_found(),
            KeyError::Invalid(..) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message),
            KeyError::Revoked => Self::conflict("key_revoked", message),
            KeyError::Expired => Self::conflict("key_expired", message),
            KeyError::TooMany => Self::conflict("too_many_keys", message),
            KeyError::TooOften { wait_micros } => Self {
                retry_after_secs: u32::try_from(wait_micros / 1_000_000 + 1).ok(),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_key_changes", message)
            },
            KeyError::NotRecorded(error) => Self {
                message,
                ..Self::from(*error)
            },
            KeyError::Submit(error) => error.into(),
            KeyError::Rejected(rejection) => rejection.into(),
            KeyError::Body(error) => error.into(),
        }
    }
}

impl From<SettleError> for ApiError {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::RunUnknown => Self::not_found(),
            SettleError::Rejected(rejection) => rejection.into(),
            SettleError::Submit(error) => error.into(),
            SettleError::Read(error) => error.into(),
            SettleError::Body(error) => error.into(),
        }
    }
}

impl From<RuleBroken> for ApiError {
    fn from(error: RuleBroken) -> Self {
        Self::invalid(error.field, error.rule)
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Rule(error) => error.into(),
            WriteError::Body(error) => error.into(),
            WriteError::Rejected(rejection) => rejection.into(),
            WriteError::Read(error) => error.into(),
            WriteError::Submit(error) => error.into(),
        }
    }
}

impl From<ledger::SettingError> for ApiError {
    fn from(error: ledger::SettingError) -> Self {
        match error {
            ledger::SettingError::Rule { field, rule } => Self::invalid(field, rule),
            ledger::SettingError::Read(error) => error.into(),
            ledger::SettingError::Audit(error) => error.into(),
        }
    }
}

impl From<ledger::BodyTooLarge> for ApiError {
    fn from(error: ledger::BodyTooLarge) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", error.to_string())
    }
}

impl From<RecordError> for ApiError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Store(error) | RecordError::Tree(ledger::TreeError::Store(error)) => error.into(),
            damaged => {
                tracing::error!(error = %damaged, "stored evidence cannot be read");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", damaged.to_string())
            }
        }
    }
}

impl From<ledger::TreeError> for ApiError {
    fn from(error: ledger::TreeError) -> Self {
        match error {
            ledger::TreeError::OutOfRange(_) => Self::not_found(),
            other => RecordError::from(other).into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        match error {
            StoreError::Unavailable(_) => {
                Self::unavailable("store_unavailable", "the store cannot answer now")
            }
            StoreError::Damaged { .. } | StoreError::Refused(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", error.to_string())
            }
        }
    }
}
