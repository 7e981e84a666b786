//! `get_system_replay` (O4): system records within 30 seconds of a run's end.

use axum::extract::State;
use axum::response::Response;
use evidence::{SourceDomain, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::metadata::Metadata;
use super::super::replay::ReplayEvent;
use super::COMPONENT;
use super::window::{Begin, EventParams, Window, in_window, instance_size};
use crate::api::answer::ReadProblems;
use crate::api::run_steps::Run;
use crate::{ApiError, App, Caller, Path, Query};

const READ: &str = "system-replay";

/// The window.
#[derive(Serialize, ToSchema)]
struct SystemReplay<'a> {
    as_of: u64,
    events: Vec<ReplayEvent>,
    /// More than 10,000 are read in pages, in the order in which they were recorded.
    has_more: bool,
    /// The size of the instance's ledger that was read.
    instance_as_of: u64,
    next_cursor: Option<String>,
    run_id: &'a str,
    #[schema(value_type = String, format = DateTime)]
    window_end: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    window_start: Timestamp,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = SystemReplayResult)]
#[allow(dead_code)] // for the document
struct SystemReplayAnswer<'a> {
    #[serde(flatten)]
    replay: SystemReplay<'a>,
    metadata: Metadata,
}

/// Reads the system records of the 60 seconds around a run's end.
#[utoipa::path(
    get, path = "/api/v1/logs/system/{run_id}/replay", tag = "logs", operation_id = "get_system_replay",
    params(("run_id" = String, Path, description = "The run"), EventParams),
    responses((status = 200, description = "Events in time order", body = SystemReplayAnswer), ReadProblems),
)]
pub(super) async fn replay(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(params): Query<EventParams>,
) -> Result<Response, ApiError> {
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let tenant = &caller.tenant;
        let mut run = Run::open(ledger, tenant, READ, &run_id, &params.of_run())?;
        let (inflection, _) = run.stretch(ledger, |run| {
            let state = &run.row.state;
            let inflection = state.completed_at.unwrap_or(state.started_at);
            Ok((inflection, inflection))
        })?;
        let instance_as_of = instance_size(ledger, &run, params.cursor.is_none(), params.instance_as_of)?;
        let window = Window::around(inflection);
        let from = Begin::decode(run.from);
        let page = in_window(ledger, tenant, &run, instance_as_of, window, from)?;
        let next = page
            .next
            .map(|next| run.cursor(tenant, READ, next.encode(), instance_as_of));
        let metadata = Metadata::of_run(tenant, &run, COMPONENT, SourceDomain::System)?;
        caller.answered(page.events.len());
        metadata.answer(&SystemReplay {
            as_of: run.as_of,
            events: page.events.iter().map(ReplayEvent::system).collect(),
            has_more: next.is_some(),
            instance_as_of,
            next_cursor: next.transpose()?,
            run_id: &run.row.state.run_id,
            window_end: window.end,
            window_start: window.start,
        })
    })
    .await
}
