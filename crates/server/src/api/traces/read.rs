//! One trace, whole: what the run said of itself, its steps in order, totals.
//!
//! Steps are written into the answer one at a time as they are read; a page ends
//! at [`PAGE_STEPS_MAX`] steps or [`PAGE_BYTES_MAX`], whichever comes first.

use axum::extract::State;
use axum::response::Response;
use evidence::{Kind, NanoCents, Timestamp, hex_string};
use ledger::{Ledger, StepPlace};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::Gone;
use utoipa::ToSchema;

use super::step::{TraceStepOut, shown};
use crate::api::answer::{Number, ReadProblems, millis, ok, raw};
use crate::api::run_steps::{PAGE_STEPS_MAX, Run, RunParams, damaged, each_step, once};
use crate::{ApiError, App, Caller, Path, Query};

/// The steps of an answer end after the one that passes this: with the largest body (16 MiB) an answer stays
/// within what a request may be, twice.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A trace with its steps.
#[derive(Serialize, ToSchema)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct TraceOut<'a> {
    /// Why it was aborted.
    abort_reason: Option<String>,
    agent_id: Option<&'a str>,
    /// The run's first body is in an archive: plan, goal and the like are there.
    archived: bool,
    as_of: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    completed_at: Option<Timestamp>,
    correlation_id: Option<&'a str>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    declared_steps: Option<u32>,
    /// The run's first body is erased: plan, goal and the like.
    erased: bool,
    execution_status: &'static str,
    failure_count: u32,
    frozen_timestamp: Option<&'a str>,
    goal: Option<String>,
    has_more: bool,
    incident_id: Option<String>,
    input_tokens: i64,
    is_synthetic: bool,
    /// Spans that came after the end of the trace was recorded.
    late_count: u32,
    leaf_index: u64,
    #[schema(value_type = Option<Object>)]
    metadata: Option<&'a RawValue>,
    model: &'a str,
    next_cursor: Option<String>,
    output_tokens: i64,
    parent_run_id: Option<&'a str>,
    /// Null when the run's first body is erased or archived.
    #[schema(value_type = Option<Vec<Object>>)]
    plan: Option<&'a RawValue>,
    plan_hash: &'a str,
    policy_snapshot_id: Option<String>,
    provider: &'a str,
    record_id: String,
    replay_artifact_version: Option<String>,
    replay_attempt_id: Option<String>,
    replay_mode: Option<String>,
    /// Null until the end of the trace is recorded.
    root_hash: Option<String>,
    run_id: &'a str,
    seed: i64,
    source: &'a str,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    status: &'static str,
    #[schema(value_type = Vec<TraceStepOut>)]
    steps: Box<RawValue>,
    success_count: u32,
    synthetic_scenario_id: Option<String>,
    tenant_id: &'a str,
    termination_reason: Option<String>,
    #[schema(value_type = f64)]
    total_cost_cents: Number,
    total_cost_usd: String,
    #[schema(value_type = f64)]
    total_duration_ms: Number,
    total_steps: u32,
    /// The tree size that status, totals and whatever else the run adds up to are of: `as_of`, but on a page after the
    /// first of a run that has gone on since and had more than 10,000 records.
    totals_as_of: u64,
    trace_id: &'a str,
}

/// What is shown of a stored `run.started`.
#[derive(Default, Deserialize)]
struct StartedView<'a> {
    #[serde(default)]
    frozen_timestamp: Option<&'a str>,
    #[serde(default)]
    goal: Option<String>,
    #[serde(default)]
    incident_id: Option<String>,
    #[serde(borrow, default)]
    plan: Option<&'a RawValue>,
    #[serde(default)]
    policy_snapshot_id: Option<String>,
    #[serde(default)]
    replay_artifact_version: Option<String>,
    #[serde(default)]
    replay_attempt_id: Option<String>,
    #[serde(default)]
    replay_mode: Option<String>,
    #[serde(default)]
    synthetic_scenario_id: Option<String>,
}

/// What is shown of a stored `run.completed`, and of the end of a trace.
#[derive(Default, Deserialize)]
struct EndView<'a> {
    #[serde(default)]
    declared_steps: Option<u32>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    termination_reason: Option<String>,
}

/// Reads a trace, by its id or its run's.
#[utoipa::path(
    get, path = "/api/v1/traces/{id}", tag = "traces", operation_id = "trace_read",
    params(("id" = String, Path, description = "trace_id or run_id"), RunParams),
    responses((status = 200, description = "The trace; above 10,000 steps in pages", body = TraceOut), ReadProblems),
)]
pub(super) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Query(params): Query<RunParams>,
) -> Result<Response, ApiError> {
    app.reading(caller.tenant.tenant_no, move |ledger| {
        answer(ledger, &caller, &id, &params)
    })
    .await
}

fn answer(ledger: &Ledger, caller: &Caller, id: &str, params: &RunParams) -> Result<Response, ApiError> {
    const READ: &str = "trace";
    let tenant = &caller.tenant;
    let mut run = Run::open(ledger, tenant, READ, id, params)?;
    if params.cursor.is_none() {
        run.known(ledger)?;
    }
    // A run that goes on while it is paged: its steps are those of the first page's tree, its totals may be of now.
    let (state, totals_as_of) = run.totals(ledger)?;
    let state = state.clone();
    let started_leaf = run.row.started_leaf;
    let gone = run.started.body.gone();
    let started_bytes = run.started.body.bytes().unwrap_or(b"{}");
    let started: StartedView<'_> =
        serde_json::from_slice(started_bytes).map_err(|error| damaged(started_leaf.leaf_index(), &error))?;
    let mut ends = Vec::with_capacity(2);
    for kind in [Kind::RunCompleted, Kind::TraceCompleted] {
        let Some(leaf) = once(ledger, &run.row, kind)?.filter(|leaf| run.sees(*leaf)) else {
            continue;
        };
        let record = ledger.records(tenant).read(&[leaf])?.pop();
        ends.push((
            leaf,
            record
                .and_then(|record| record.body.into_bytes())
                .unwrap_or_else(|| b"{}".to_vec()),
        ));
    }
    let mut end = EndView::default();
    for (leaf, body) in &ends {
        let view: EndView<'_> =
            serde_json::from_slice(body).map_err(|error| damaged(leaf.leaf_index(), &error))?;
        end.declared_steps = end.declared_steps.or(view.declared_steps);
        end.metadata = end.metadata.or(view.metadata);
        end.reason = end.reason.or(view.reason);
        end.termination_reason = end.termination_reason.or(view.termination_reason);
    }

    let places = run.places(ledger)?;
    let from = usize::try_from(run.from).unwrap_or(usize::MAX).min(places.len());
    let (steps, written) = write_steps(ledger, caller, &places[from..])?;
    let next = from + written;
    let has_more = next < places.len();
    let next_cursor = if has_more {
        Some(run.cursor(tenant, READ, u64::try_from(next).unwrap_or(u64::MAX), 0)?)
    } else {
        None
    };
    caller.answered(written);
    ok(&TraceOut {
        abort_reason: end.reason,
        agent_id: state.agent_id.as_deref(),
        archived: gone == Some(Gone::Archived),
        as_of: run.as_of,
        completed_at: state.completed_at,
        correlation_id: state.correlation_id.as_deref(),
        created_at: state.created_at,
        declared_steps: end.declared_steps,
        erased: gone == Some(Gone::Erased),
        execution_status: state.execution_status.as_str(),
        failure_count: state.failure_count,
        frozen_timestamp: started.frozen_timestamp,
        goal: started.goal,
        has_more,
        incident_id: started.incident_id,
        input_tokens: state.input_tokens,
        is_synthetic: state.is_synthetic,
        late_count: state.late_count,
        leaf_index: started_leaf.leaf_index(),
        metadata: end.metadata,
        model: state.model.as_deref().unwrap_or("unknown"),
        next_cursor,
        output_tokens: state.output_tokens,
        parent_run_id: state.parent_run_id.as_deref(),
        plan: started.plan,
        plan_hash: &state.plan_hash,
        policy_snapshot_id: started.policy_snapshot_id,
        provider: state.provider.as_deref().unwrap_or("unknown"),
        record_id: run.started.header()?.id.to_string(),
        replay_artifact_version: started.replay_artifact_version,
        replay_attempt_id: started.replay_attempt_id,
        replay_mode: started.replay_mode,
        root_hash: state.root_hash.as_ref().map(hex_string),
        run_id: &state.run_id,
        seed: state.seed,
        source: &state.source,
        started_at: state.started_at,
        status: state.status.as_str(),
        steps: raw(steps)?,
        success_count: state.success_count,
        synthetic_scenario_id: started.synthetic_scenario_id,
        tenant_id: &tenant.tenant_id,
        termination_reason: end.termination_reason,
        total_cost_cents: Number(NanoCents::cents(state.cost)),
        total_cost_usd: state.cost.to_usd(),
        total_duration_ms: millis(state.duration_micros),
        total_steps: state.total_steps,
        totals_as_of,
        trace_id: &state.trace_id,
    })
}

/// The steps as a JSON array, and how many of them fit.
fn write_steps(ledger: &Ledger, caller: &Caller, places: &[StepPlace]) -> Result<(Vec<u8>, usize), ApiError> {
    let mut out = Vec::from(b"[");
    let mut written = 0;
    let page = &places[..places.len().min(PAGE_STEPS_MAX)];
    each_step(ledger, &caller.tenant, page, |step| {
        if written > 0 {
            out.push(b',');
        }
        let shown = shown(
            step.place,
            step.header.id.to_string(),
            step.view.as_ref().map_err(|gone| *gone),
        );
        serde_json::to_writer(&mut out, &shown).map_err(|error| ApiError::internal(&error))?;
        written += 1;
        Ok(out.len() < PAGE_BYTES_MAX)
    })?;
    out.push(b']');
    Ok((out, written))
}
