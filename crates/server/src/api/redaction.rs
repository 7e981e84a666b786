//! What a tenant redacts beside the built-in rules, and which of those it does without.
//!
//! Each change is an audit event. It is in force for every request that comes after the answer.
//!
//! Source: SPEC 6.4.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::canonical::Value;
use evidence::redact::{Pattern, RedactionSettings};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, ok};
use super::records::ReceiptView;
use crate::api::logs::NoParams;
use crate::{ApiError, App, Caller, ExactJsonBody, Query, Received, RequestId};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get, put))
}

/// A pattern over free text.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RedactionPattern)]
struct PatternIn {
    /// `[a-z][a-z0-9_]*`, at most 32 bytes. In capitals it stands in the marker.
    name: String,
    /// A regular expression of the Rust crate `regex`, at most 500 bytes.
    pattern: String,
}

/// What is redacted beside the built-in rules.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RedactionSettings)]
struct SettingsIn {
    /// Field names under which values are replaced whole; at most 200.
    fields: Option<Vec<String>>,
    /// Built-in patterns that are not applied.
    off: Option<Vec<String>>,
    /// Patterns over free text; at most 20.
    patterns: Option<Vec<PatternIn>>,
}

impl SettingsIn {
    fn check(self) -> Result<RedactionSettings, ApiError> {
        let texts = |texts: Option<Vec<String>>| {
            let texts = texts.unwrap_or_default().into_iter();
            Value::from(texts.map(Value::from).collect::<Vec<_>>())
        };
        let patterns: Vec<Value> = self
            .patterns
            .unwrap_or_default()
            .into_iter()
            .map(|own| Value::object([("name", own.name), ("pattern", own.pattern)]))
            .collect();
        let value = Value::object([
            ("fields", texts(self.fields)),
            ("off", texts(self.off)),
            ("patterns", Value::from(patterns)),
        ]);
        RedactionSettings::read(&value).map_err(|error| ApiError::invalid(error.field, error.rule))
    }
}

/// The settings in force.
#[derive(Serialize, ToSchema)]
struct RedactionOut {
    /// The built-in patterns.
    built_in: Vec<&'static str>,
    fields: Vec<String>,
    off: Vec<&'static str>,
    patterns: Vec<PatternIn>,
    /// Of the audit event that a change is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReceiptView>)]
    receipt: Option<ReceiptOut>,
}

impl RedactionOut {
    fn of(settings: RedactionSettings, receipt: Option<ReceiptOut>) -> Self {
        Self {
            built_in: Pattern::ALL.iter().map(|pattern| pattern.as_str()).collect(),
            fields: settings.fields,
            off: settings.off.iter().map(|pattern| pattern.as_str()).collect(),
            patterns: settings
                .patterns
                .into_iter()
                .map(|own| PatternIn {
                    name: own.name,
                    pattern: own.pattern,
                })
                .collect(),
            receipt,
        }
    }
}

/// What is redacted.
#[utoipa::path(
    get, path = "/api/v1/redaction", tag = "settings", operation_id = "redaction_get",
    responses((status = 200, body = RedactionOut), ReadProblems),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let settings = app
        .blocking(move |ledger| Ok(ledger.redaction(&caller.tenant)?))
        .await?;
    ok(&RedactionOut::of(settings, None))
}

/// Changes what is redacted.
///
/// The whole settings: what is absent is empty. The change is an audit event.
#[utoipa::path(
    put, path = "/api/v1/redaction", tag = "settings", operation_id = "redaction_put", request_body = SettingsIn,
    responses((status = 200, description = "In force", body = RedactionOut), WriteProblems),
)]
async fn put(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    request_id: RequestId,
    // A pattern may look like what it finds.
    ExactJsonBody(body): ExactJsonBody<SettingsIn>,
) -> Result<Response, ApiError> {
    let (settings, receipt) = app
        .blocking(move |ledger| {
            let settings = body.value.check()?;
            let tenant = Arc::clone(&caller.tenant);
            let receipt = ledger.redaction_change(&tenant, &settings, &caller.changer(&request_id), at)?;
            Ok((settings, receipt))
        })
        .await?;
    ok(&RedactionOut::of(settings, Some(ReceiptOut(receipt))))
}
