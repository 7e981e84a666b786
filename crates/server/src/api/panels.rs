//! Panels: does what is shown contradict itself? Nothing is read and nothing recorded.
//!
//! Source: SPEC 7.4.

use audit::panel::{Panel, check};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evidence::canonical::to_vec;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{WriteProblems, json};
use crate::{ApiError, App, Caller, ExactJsonBody};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(panel_check))
}

/// A panel to check.
#[derive(ToSchema)]
#[schema(as = PanelCheck)]
#[allow(dead_code)] // for the document
struct PanelIn {
    panel_id: String,
    /// Each {slot_id, signals}.
    #[schema(value_type = Vec<Object>)]
    slots: Vec<()>,
    /// Each {id, name, signal_a, signal_b, condition, severity?}; the built-in ones when absent.
    #[schema(value_type = Option<Vec<Object>>)]
    rules: Option<Vec<()>>,
}

/// Whether a panel contradicts itself.
#[derive(ToSchema)]
#[schema(as = PanelReport)]
#[allow(dead_code)] // for the document
struct PanelOut {
    is_consistent: bool,
    panel_id: String,
    /// Each {rule_id, rule_name, slots, expected, actual, severity}.
    #[schema(value_type = Vec<Object>)]
    violations: Vec<()>,
    #[schema(value_type = Vec<Object>)]
    warnings: Vec<()>,
}

/// Checks a panel against its rules. What cannot be evaluated is 422, never a pass.
#[utoipa::path(
    post, path = "/api/v1/panels/check", tag = "governance", operation_id = "panel_check", request_body = PanelIn,
    responses((status = 200, description = "What was found", body = PanelOut), WriteProblems),
)]
async fn panel_check(
    State(app): State<App>,
    _: Caller,
    // Nothing of it is kept, and two values that differ in a secret are two values.
    ExactJsonBody(body): ExactJsonBody<Box<RawValue>>,
) -> Result<Response, ApiError> {
    app.blocking(move |_| {
        let refused = |message: String| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message);
        let panel = Panel::parse(body.value.get().as_bytes()).map_err(|error| refused(error.to_string()))?;
        let report = check(&panel).map_err(|error| refused(error.to_string()))?;
        Ok(json(StatusCode::OK, to_vec(&report.to_value(&panel.panel_id))))
    })
    .await
}
