//! `get_system_events` (O3): system records of a run.

use axum::extract::State;
use axum::response::Response;
use evidence::SourceDomain;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::metadata::Metadata;
use super::surroundings::duration;
use super::window::{EventParams, instance_size, of_run};
use super::{COMPONENT, SystemEvent, SystemRecordOut};
use crate::api::answer::ReadProblems;
use crate::api::facet_list::DamagedEntry;
use crate::api::run_steps::Run;
use crate::{ApiError, App, Caller, Path, Query};

const READ: &str = "system-events";

/// The records, by when they happened.
#[derive(Serialize, ToSchema)]
struct SystemEvents<'a> {
    as_of: u64,
    /// False: the run has more than 1,000 traces or 256 environments, and those are looked at; or an environment that came
    /// with its spans is gone or damaged, and with it which hosts and instances were the run's; or it has gone on since the
    /// first page, is too long to be added up again, and its traces are those of now.
    complete: bool,
    /// Environments of the run that cannot be read: altered or taken away. Absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    damaged: Vec<DamagedEntry>,
    events: Vec<SystemRecordOut>,
    /// More than 10,000 are read in pages, in the order in which they were recorded.
    has_more: bool,
    /// The size of the instance's ledger that was read.
    instance_as_of: u64,
    next_cursor: Option<String>,
    run_id: &'a str,
    /// On this page.
    total_events: usize,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = SystemEventsResult)]
#[allow(dead_code)] // for the document
struct SystemEventsAnswer<'a> {
    #[serde(flatten)]
    events: SystemEvents<'a>,
    metadata: Metadata,
}

/// Reads the system records under the name of a run or one of its traces, or on its hosts or from its service
/// instances while it ran.
#[utoipa::path(
    get, path = "/api/v1/logs/system/{run_id}/events", tag = "logs", operation_id = "get_system_events",
    params(("run_id" = String, Path, description = "The run"), EventParams),
    responses((status = 200, description = "System records, oldest first", body = SystemEventsAnswer), ReadProblems),
)]
pub(super) async fn events(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(params): Query<EventParams>,
) -> Result<Response, ApiError> {
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let tenant = &caller.tenant;
        let mut run = Run::open(ledger, tenant, READ, &run_id, &params.of_run())?;
        let window = duration(ledger, &mut run)?;
        let instance_as_of = instance_size(ledger, &run, params.cursor.is_none(), params.instance_as_of)?;
        let (page, complete, damaged) = of_run(ledger, tenant, &mut run, instance_as_of, window)?;
        let events: Vec<SystemRecordOut> = page.events.into_iter().map(SystemEvent::into_record).collect();
        let next = page
            .next
            .map(|next| run.cursor(tenant, READ, next.encode(), instance_as_of));
        let metadata = Metadata::of_run(tenant, &run, COMPONENT, SourceDomain::System)?;
        caller.answered(events.len());
        metadata.answer(&SystemEvents {
            as_of: run.as_of,
            complete,
            damaged,
            has_more: next.is_some(),
            instance_as_of,
            next_cursor: next.transpose()?,
            run_id: &run.row.state.run_id,
            total_events: events.len(),
            events,
        })
    })
    .await
}
