//! The first place where two traces differ, by what their root hashes cover.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evidence::hex_string;
use ledger::{Ledger, began_with, trace_diff};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::RunRow;
use utoipa::{IntoParams, ToSchema};

use crate::api::answer::{ReadProblems, ok, raw};
use crate::{ApiError, App, Caller, Query};

/// The two traces, by trace_id or run_id.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DiffQuery {
    left: String,
    right: String,
}

/// Where two traces part.
#[derive(Serialize, ToSchema)]
struct TraceDiff<'a> {
    /// Null when they are equal, as far as they go.
    divergence: Option<Divergence>,
    /// Null when nobody can tell: a run has not ended, or its end is erased, and what both have does not differ.
    equal: Option<bool>,
    left: Side<'a>,
    right: Side<'a>,
}

/// One of the two.
#[derive(Serialize, ToSchema)]
struct Side<'a> {
    /// Null when the run's first body is erased.
    plan_hash: Option<&'a str>,
    root_hash: Option<String>,
    run_id: &'a str,
    /// Null when the run's first body is erased.
    seed: Option<i64>,
    total_steps: usize,
    trace_id: &'a str,
}

/// The first difference.
#[derive(Debug, Serialize, ToSchema)]
struct Divergence {
    /// `plan_hash`, `seed`, `length`, one of the seven hashed fields of a step; or `erased`, `archived`,
    /// `missing`: a step, or without one what a run began with, says nothing any more, and nothing behind it was
    /// compared.
    field: &'static str,
    /// What the left trace has; null also for a step that it has not.
    #[schema(value_type = Option<serde_json::Value>)]
    left: Box<RawValue>,
    /// Of a step: which, counted from 0 in order.
    position: Option<usize>,
    #[schema(value_type = Option<serde_json::Value>)]
    right: Box<RawValue>,
    /// Of a step: its index (the left one's where they differ).
    step_index: Option<u32>,
}

/// Compares two traces.
#[utoipa::path(
    get, path = "/api/v1/traces/diff", tag = "traces", operation_id = "trace_diff",
    params(DiffQuery), responses((status = 200, description = "The first divergence", body = TraceDiff),
        ReadProblems),
)]
pub(super) async fn diff(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<DiffQuery>,
) -> Result<Response, ApiError> {
    app.reading(caller.tenant.tenant_no, move |ledger| {
        answer(ledger, &caller, &query)
    })
    .await
}

fn answer(ledger: &Ledger, caller: &Caller, query: &DiffQuery) -> Result<Response, ApiError> {
    let records = ledger.records(&caller.tenant);
    let run = |id: &str| records.run(id)?.ok_or_else(ApiError::not_found);
    let (left, right) = (run(&query.left)?, run(&query.right)?);
    // Several traces may be one run, and it is runs that are compared.
    if left.key == right.key && query.left != query.right {
        let message = format!("query: left, right: both are of the run {}", left.state.run_id);
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "same_run",
            message,
        ));
    }
    let diff = trace_diff(ledger.store(), &left, &right)?;
    caller.answered(diff.left_steps + diff.right_steps);
    ok(&TraceDiff {
        equal: diff.equal,
        divergence: diff.divergence.map(divergence).transpose()?,
        left: side(&left, diff.left_steps),
        right: side(&right, diff.right_steps),
    })
}

fn divergence(found: ledger::Divergence) -> Result<Divergence, ApiError> {
    let (position, step_index) = found.step.unzip();
    Ok(Divergence {
        field: found.field,
        left: raw(found.left)?,
        position,
        right: raw(found.right)?,
        step_index,
    })
}

fn side(row: &RunRow, total_steps: usize) -> Side<'_> {
    let state = &row.state;
    let (seed, plan_hash) = began_with(row).unzip();
    Side {
        plan_hash,
        root_hash: state.root_hash.as_ref().map(hex_string),
        run_id: &state.run_id,
        seed,
        total_steps,
        trace_id: &state.trace_id,
    }
}
