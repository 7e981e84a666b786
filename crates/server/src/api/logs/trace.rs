//! `get_llm_run_trace` (O2): the steps of a run in order.

use axum::extract::State;
use axum::response::Response;
use evidence::{NanoCents, SourceDomain, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::metadata::Metadata;
use crate::api::answer::{ReadProblems, whole_ms};
use crate::api::run_steps::{PAGE_STEPS_MAX, Run, RunParams, StepRead, each_step};
use crate::{ApiError, App, Caller, Path, Query};

/// Names of the steps of one answer, in bytes; the one that passes it is the page's last. A span's name may be long.
pub(super) const NAMES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A step.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TraceStepResult)]
struct TraceStep {
    /// Rounded half up.
    cost_cents: i64,
    /// Exact.
    cost_usd: String,
    /// Rounded.
    duration_ms: i64,
    /// Recorded after the end of the trace.
    late: bool,
    leaf_index: u64,
    level: &'static str,
    outcome_category: String,
    record_id: String,
    skill_name: String,
    status: &'static str,
    step_index: u32,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// The steps.
#[derive(Serialize, ToSchema)]
struct RunTrace<'a> {
    as_of: u64,
    has_more: bool,
    next_cursor: Option<String>,
    run_id: &'a str,
    steps: Vec<TraceStep>,
    /// All of them, also beyond this page.
    total_steps: usize,
    trace_id: &'a str,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = LLMRunTraceResult)]
#[allow(dead_code)] // for the document
struct RunTraceAnswer<'a> {
    #[serde(flatten)]
    trace: RunTrace<'a>,
    metadata: Metadata,
}

/// Reads the steps of a run.
#[utoipa::path(
    get, path = "/api/v1/logs/llm-runs/{run_id}/trace", tag = "logs", operation_id = "get_llm_run_trace",
    params(("run_id" = String, Path, description = "The run"), RunParams),
    responses((status = 200, description = "The steps in order", body = RunTraceAnswer), ReadProblems),
)]
pub(super) async fn trace(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(params): Query<RunParams>,
) -> Result<Response, ApiError> {
    const READ: &str = "llm-run-trace";
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let tenant = &caller.tenant;
        let run = Run::open(ledger, tenant, READ, &run_id, &params)?;
        let places = run.places(ledger)?;
        let from = usize::try_from(run.from).unwrap_or(usize::MAX).min(places.len());
        let next = places.len().min(from + PAGE_STEPS_MAX);
        let (mut steps, mut bytes) = (Vec::with_capacity(next - from), 0);
        each_step(ledger, tenant, &places[from..next], |step| {
            let step = shown(step);
            bytes += step.skill_name.len() + step.outcome_category.len();
            steps.push(step);
            Ok(bytes < NAMES_BYTES_MAX)
        })?;
        let next = from + steps.len();
        let has_more = next < places.len();
        let next_cursor = if has_more {
            Some(run.cursor(tenant, READ, u64::try_from(next).unwrap_or(u64::MAX), 0)?)
        } else {
            None
        };
        let metadata = Metadata::of_run(tenant, &run, "TraceStore", SourceDomain::Activity)?;
        caller.answered(steps.len());
        metadata.answer(&RunTrace {
            as_of: run.as_of,
            has_more,
            next_cursor,
            run_id: &run.row.state.run_id,
            steps,
            // As everywhere: what came late changes no total.
            total_steps: places.iter().filter(|place| !place.late).count(),
            trace_id: &run.row.state.trace_id,
        })
    })
    .await
}

fn shown(step: &StepRead<'_>) -> TraceStep {
    let place = step.place;
    let view = step.view.as_ref().map(|view| &view.step);
    // Where a body is gone, a word says how.
    let word = view.err().map_or("", |gone| gone.as_str());
    let view = view.ok();
    let cost = view
        .and_then(|view| NanoCents::from_cents(view.cost_cents))
        .unwrap_or_default();
    TraceStep {
        cost_cents: cost.cents_rounded(),
        cost_usd: cost.to_usd(),
        duration_ms: view.map_or(0, |view| whole_ms(view.duration_ms)),
        late: place.late,
        leaf_index: place.leaf.leaf_index(),
        level: view.map_or(word, |view| view.status.level()),
        outcome_category: view.map_or(word, |view| &view.outcome_category).to_owned(),
        record_id: step.header.id.to_string(),
        skill_name: view.map_or(word, |view| &view.skill_name).to_owned(),
        status: view.map_or(word, |view| view.status.as_str()),
        step_index: place.step_index,
        timestamp: place.occurred_at,
    }
}
