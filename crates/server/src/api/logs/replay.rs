//! `get_llm_run_replay` (O4): what happened within 30 seconds of where it turned.
//!
//! Steps and policy decisions of the run and the system records of that time,
//! merged in time order.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::record::StepStatus;
use evidence::{Kind, SourceDomain, Timestamp};
use ledger::{Ledger, StepPlace, Tenant};
use serde::{Deserialize, Serialize};
use store::RunRecordRow;
use utoipa::{IntoParams, ToSchema};

use super::governance::each_decision;
use super::metadata::Metadata;
use super::system::{Begin, SystemEvent, Window, in_window, instance_size};
use crate::api::answer::{GoneCounts, ReadProblems};
use crate::api::run_steps::{PAGE_STEPS_MAX, Run, RunParams, each_step};
use crate::{ApiError, App, Caller, Path, Query};

/// Rows of a run's records looked through at once.
const ROWS_READ: u32 = 10_000;

/// Around what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReplayQuery {
    /// `failure`: the first failed step; the run's end when absent, or none failed.
    #[param(value_type = Option<String>)]
    around: Option<Around>,
    /// `next_cursor` of the answer before.
    cursor: Option<String>,
    /// The tree size to read at; the present one when absent.
    as_of: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Around {
    Failure,
}

/// An event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReplayEventResult)]
pub(super) struct ReplayEvent {
    action: String,
    outcome: String,
    /// `llm`, `policy` or `system`.
    source: &'static str,
    step_index: Option<u32>,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    #[serde(skip)]
    order: (u64, u8),
}

impl ReplayEvent {
    pub(super) fn system(event: &SystemEvent) -> Self {
        let (action, outcome) = event.shown();
        Self {
            action,
            outcome,
            source: "system",
            step_index: None,
            timestamp: event.occurred_at(),
            order: (u64::MAX, 0),
        }
    }
}

/// The window.
#[derive(Serialize, ToSchema)]
struct RunReplay<'a> {
    as_of: u64,
    events: Vec<ReplayEvent>,
    /// Steps and decisions of the window that say nothing any more: what they decided is not among the events.
    gone: GoneCounts,
    has_more: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    inflection_timestamp: Option<Timestamp>,
    next_cursor: Option<String>,
    run_id: &'a str,
    /// False: there are more than 10,000 system records, of which the first recorded are among the events: all are in `GET /logs/system/{run_id}/replay`.
    system_complete: bool,
    #[schema(value_type = String, format = DateTime)]
    window_end: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    window_start: Timestamp,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = LLMRunReplayResult)]
#[allow(dead_code)] // for the document
struct RunReplayAnswer<'a> {
    #[serde(flatten)]
    replay: RunReplay<'a>,
    metadata: Metadata,
}

/// Reads the 60 seconds around a run's end, or its first failure.
#[utoipa::path(
    get, path = "/api/v1/logs/llm-runs/{run_id}/replay", tag = "logs", operation_id = "get_llm_run_replay",
    params(("run_id" = String, Path, description = "The run"), ReplayQuery),
    responses((status = 200, description = "Events in time order", body = RunReplayAnswer), ReadProblems),
)]
pub(super) async fn replay(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(asked): Query<ReplayQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        let read = if asked.around.is_some() {
            "llm-run-replay-failure"
        } else {
            "llm-run-replay"
        };
        let params = RunParams {
            cursor: asked.cursor,
            as_of: asked.as_of,
        };
        let run = Run::open(ledger, tenant, read, &run_id, &params)?;
        let state = &run.row.state;
        let mut places = run.places(ledger, tenant)?;
        let failure = match asked.around {
            Some(Around::Failure) => first_failure(ledger, tenant, &run, &places)?,
            None => None,
        };
        let inflection = failure.or(state.completed_at).unwrap_or(state.started_at);
        let window = Window::around(inflection);
        let (window_start, window_end) = (window.start, window.end);
        let inside = |at: Timestamp| window.holds(at);
        places.retain(|place| inside(place.occurred_at));
        places.sort_by_key(|place| (place.occurred_at, place.run_seq));

        let from = usize::try_from(run.from).unwrap_or(usize::MAX).min(places.len());
        let next = places.len().min(from + PAGE_STEPS_MAX);
        let page = &places[from..next];
        let has_more = next < places.len();
        // A page's decisions are those from its first step's place to the next page's first.
        let begin = (from > 0).then(|| page.first().map(key)).flatten();
        let end = places.get(next).map(key);
        let on_page =
            |at: (Timestamp, u64)| begin.is_none_or(|begin| at >= begin) && end.is_none_or(|end| at < end);
        let mut events = Vec::with_capacity(page.len());
        each_step(ledger, tenant, page, |step| {
            let (action, outcome) = match &step.view {
                Ok(view) => (&*view.step.skill_name, view.step.status.as_str()),
                Err(gone) => (gone.as_str(), gone.as_str()),
            };
            events.push(ReplayEvent {
                action: action.to_owned(),
                outcome: outcome.to_owned(),
                source: "llm",
                step_index: Some(step.place.step_index),
                timestamp: step.place.occurred_at,
                order: (step.place.run_seq, 0),
            });
            Ok(true)
        })?;
        let deciding = deciding_rows(ledger, tenant, &run, |row| {
            inside(row.occurred_at) && on_page((row.occurred_at, row.run_seq))
        })?;
        let index_of = |row: &RunRecordRow| {
            let place = page.binary_search_by_key(&(row.occurred_at, row.run_seq), key);
            place.ok().map(|place| page[place].step_index)
        };
        let gone = each_decision(ledger, tenant, &deciding, |row, decision| {
            events.push(ReplayEvent {
                action: decision.policy_type,
                outcome: decision.decision,
                source: "policy",
                step_index: index_of(row),
                timestamp: row.occurred_at,
                order: (row.run_seq, 1),
            });
        })?;
        let instance_as_of = instance_size(ledger)?;
        let system = in_window(ledger, tenant, &run, instance_as_of, window, Begin::Start)?;
        let system_complete = system.next.is_none();
        events.extend(
            system
                .events
                .iter()
                .filter(|event| on_page((event.occurred_at(), u64::MAX)))
                .map(ReplayEvent::system),
        );
        events.sort_by_key(|event| (event.timestamp, event.order));
        let next_cursor = if has_more {
            Some(run.cursor(tenant, read, u64::try_from(next).unwrap_or(u64::MAX))?)
        } else {
            None
        };
        let metadata = Metadata::of_run(tenant, &run, "ReplayService", SourceDomain::Activity)?;
        caller.answered(events.len());
        metadata.answer(&RunReplay {
            as_of: run.as_of,
            events,
            gone,
            has_more,
            inflection_timestamp: Some(inflection),
            next_cursor,
            run_id: &state.run_id,
            system_complete,
            window_end,
            window_start,
        })
    })
    .await
}

fn key(place: &StepPlace) -> (Timestamp, u64) {
    (place.occurred_at, place.run_seq)
}

/// When the first failed step began, in the order of the steps.
fn first_failure(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    places: &[StepPlace],
) -> Result<Option<Timestamp>, ApiError> {
    let mut first = None;
    if run.row.state.failure_count == 0 {
        return Ok(None);
    }
    each_step(ledger, tenant, places, |step| {
        if step
            .view
            .as_ref()
            .is_ok_and(|view| view.step.status == StepStatus::Failure)
        {
            first = Some(step.place.occurred_at);
        }
        Ok(first.is_none())
    })?;
    Ok(first)
}

/// Rows of the run's records that may hold a decision and are wanted; at most [`PAGE_STEPS_MAX`].
fn deciding_rows(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    wanted: impl Fn(&RunRecordRow) -> bool,
) -> Result<Vec<RunRecordRow>, ApiError> {
    let mut rows = Vec::new();
    let mut from = 0;
    while rows.len() < PAGE_STEPS_MAX {
        let page = ledger.store().run_records(run.row.key, from, ROWS_READ)?;
        let Some(last) = page.last() else { break };
        from = last.run_seq + 1;
        rows.extend(page.into_iter().filter(|row| {
            matches!(row.kind, Kind::TraceStep | Kind::EvidencePolicyDecision)
                && run.sees(tenant, row.leaf)
                && wanted(row)
        }));
    }
    Ok(rows)
}
