//! The fingerprint of a text: what evidence of an activity names a prompt or an answer by.
//!
//! The text is hashed as it is sent and kept nowhere.
//!
//! Source: SPEC 6.1.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{WriteProblems, ok};
use crate::{ApiError, App, Caller, ExactJsonBody};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(fingerprint))
}

/// A text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TextIn {
    text: String,
}

/// Its fingerprint.
#[derive(Serialize, ToSchema)]
struct Fingerprint {
    /// SHA-256 of the UTF-8 text, 64 hex digits.
    fingerprint: String,
    /// `sent`: of the text as it was sent, before any redaction.
    fingerprint_of: &'static str,
}

/// Gives the fingerprint of a text.
#[utoipa::path(
    post, path = "/api/v1/fingerprint", tag = "evidence", operation_id = "fingerprint", request_body = TextIn,
    responses((status = 200, description = "The fingerprint; nothing is kept", body = Fingerprint), WriteProblems),
)]
async fn fingerprint(_caller: Caller, body: ExactJsonBody<TextIn>) -> Result<Response, ApiError> {
    let ExactJsonBody(body) = body;
    ok(&Fingerprint {
        fingerprint: evidence::hex_string(&evidence::sha256(body.value.text.as_bytes())),
        fingerprint_of: "sent",
    })
}
