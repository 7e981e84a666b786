//! Lists of traces: by filters, by root hash.

use axum::extract::State;
use axum::response::Response;
use evidence::{ExecutionStatus, NanoCents, RunState, Timestamp, TraceStatus, hex_string, unhex};
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use store::RunQuery;
use utoipa::{IntoParams, ToSchema};

use crate::api::answer::{Number, ReadProblems, millis, ok};
use crate::api::run_list::{Filters, Page, PageParams, bad, given, page, shown};
use crate::extract::filter_time;
use crate::{ApiError, App, Caller, Path, Query};

/// Which traces.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TraceQuery {
    agent_id: Option<String>,
    /// Lower-case hex.
    root_hash: Option<String>,
    plan_hash: Option<String>,
    seed: Option<i64>,
    /// `running`, `completed`, `failed`, `aborted`; `ended`: it ended, how is erased.
    #[param(value_type = Option<String>)]
    status: Option<TraceStatus>,
    /// Recorded at or after.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Recorded before.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// 1 to 500, 50 when absent.
    limit: Option<u32>,
    /// At most 10,000; go on with `cursor`.
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// The tree size to read at.
    as_of: Option<u64>,
}

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// 1 to 500, 50 when absent.
    limit: Option<u32>,
    /// At most 10,000; go on with `cursor`.
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// The tree size to read at.
    as_of: Option<u64>,
}

/// A trace in a list.
#[derive(Serialize, ToSchema)]
pub(super) struct TraceItem {
    agent_id: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    completed_at: Option<Timestamp>,
    correlation_id: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    execution_status: &'static str,
    failure_count: u32,
    is_synthetic: bool,
    late_count: u32,
    parent_run_id: Option<String>,
    plan_hash: String,
    root_hash: Option<String>,
    run_id: String,
    seed: i64,
    source: String,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    status: &'static str,
    success_count: u32,
    #[schema(value_type = f64)]
    total_cost_cents: Number,
    /// The same in dollars, exact.
    total_cost_usd: String,
    #[schema(value_type = f64)]
    total_duration_ms: Number,
    total_steps: u32,
    trace_id: String,
}

/// A page of traces, newest first.
#[derive(Serialize, ToSchema)]
struct TraceList {
    as_of: u64,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    items: Vec<TraceItem>,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

impl From<RunState> for TraceItem {
    fn from(state: RunState) -> Self {
        Self {
            agent_id: state.agent_id,
            completed_at: state.completed_at,
            correlation_id: state.correlation_id,
            created_at: state.created_at,
            execution_status: state.execution_status.as_str(),
            failure_count: state.failure_count,
            is_synthetic: state.is_synthetic,
            late_count: state.late_count,
            parent_run_id: state.parent_run_id,
            plan_hash: state.plan_hash,
            root_hash: state.root_hash.as_ref().map(hex_string),
            run_id: state.run_id,
            seed: state.seed,
            source: state.source,
            started_at: state.started_at,
            status: state.status.as_str(),
            success_count: state.success_count,
            total_cost_cents: Number(NanoCents::cents(state.cost)),
            total_cost_usd: state.cost.to_usd(),
            total_duration_ms: millis(state.duration_micros),
            total_steps: state.total_steps,
            trace_id: state.trace_id,
        }
    }
}

/// Lists traces.
#[utoipa::path(
    get, path = "/api/v1/traces", tag = "traces", operation_id = "trace_list",
    params(TraceQuery), responses((status = 200, description = "Traces, newest first", body = TraceList), ReadProblems),
)]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<TraceQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let root_hash = asked
            .root_hash
            .as_deref()
            .map(|text| hash("query: root_hash", text))
            .transpose()?;
        let filters = given(&[
            ("agent_id", shown(asked.agent_id.as_ref())),
            ("from", shown(asked.from.as_ref())),
            ("plan_hash", shown(asked.plan_hash.as_ref())),
            ("root_hash", shown(asked.root_hash.as_ref())),
            ("seed", asked.seed.map(Into::into)),
            ("status", asked.status.map(|status| status.as_str().into())),
            ("to", shown(asked.to.as_ref())),
        ]);
        let query = RunQuery {
            agent_id: asked.agent_id,
            root_hash,
            plan_hash: asked.plan_hash,
            seed: asked.seed,
            status: asked.status.map(|status| status.as_str().to_owned()),
            execution_status: asked.status.and_then(execution_status),
            created_after: asked.from,
            created_before: asked.to,
            ..RunQuery::default()
        };
        let params = PageParams {
            limit: asked.limit,
            offset: asked.offset,
            cursor: asked.cursor,
            as_of: asked.as_of,
        };
        answer(ledger, &caller, query, filters, &params)
    })
    .await
}

/// Lists the traces that did the same: those with one root hash.
#[utoipa::path(
    get, path = "/api/v1/traces/by-root-hash/{hash}", tag = "traces", operation_id = "trace_by_root_hash",
    params(("hash" = String, Path, description = "SHA-256, lower-case hex"), PageQuery),
    responses((status = 200, description = "Traces, newest first", body = TraceList), ReadProblems),
)]
pub(super) async fn by_root_hash(
    State(app): State<App>,
    caller: Caller,
    Path(text): Path<String>,
    Query(asked): Query<PageQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let query = RunQuery {
            root_hash: Some(hash("path: hash", &text)?),
            ..RunQuery::default()
        };
        let filters = given(&[("root_hash", Some(text.into()))]);
        let params = PageParams {
            limit: asked.limit,
            offset: asked.offset,
            cursor: asked.cursor,
            as_of: asked.as_of,
        };
        answer(ledger, &caller, query, filters, &params)
    })
    .await
}

fn answer(
    ledger: &Ledger,
    caller: &Caller,
    query: RunQuery,
    filters: Filters,
    params: &PageParams,
) -> Result<Response, ApiError> {
    let Page {
        rows,
        as_of,
        total,
        total_exact,
        has_more,
        next_cursor,
        filters_applied,
    } = page(ledger, &caller.tenant, "traces", query, filters, params)?;
    caller.answered(rows.len());
    let items = rows.into_iter().map(|row| TraceItem::from(row.state)).collect();
    ok(&TraceList {
        as_of,
        filters_applied,
        has_more,
        items,
        next_cursor,
        total,
        total_exact,
    })
}

/// What follows from a status, where one word does: that column has an index, and few runs of many may be
/// running or aborted.
fn execution_status(status: TraceStatus) -> Option<String> {
    let word = match status {
        TraceStatus::Running => ExecutionStatus::Running,
        TraceStatus::Aborted => ExecutionStatus::Aborted,
        TraceStatus::Ended => ExecutionStatus::Ended,
        // A timeout may be either.
        TraceStatus::Completed | TraceStatus::Failed => return None,
    };
    Some(word.as_str().to_owned())
}

fn hash(field: &str, text: &str) -> Result<[u8; 32], ApiError> {
    let hash = unhex(text.as_bytes()).filter(|hash| hex_string(hash) == text);
    hash.ok_or_else(|| bad(format!("{field}: must be 64 lower-case hexadecimal digits")))
}
