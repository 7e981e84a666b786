//! `list_llm_run_records`: runs, newest first.

use axum::extract::State;
use axum::response::Response;
use evidence::{ExecutionStatus, Header, RunState, SourceDomain, Timestamp};
use serde::{Deserialize, Serialize};
use store::{LeafKey, RunQuery};
use utoipa::{IntoParams, ToSchema};

use super::metadata::Metadata;
use super::shared::same;
use crate::api::answer::ReadProblems;
use crate::api::run_list::{Filters, Page, PageParams, given, page, shown};
use crate::api::run_steps::damaged;
use crate::extract::filter_time;
use crate::{ApiError, App, Caller, Query, Received};

/// What all items of a page share.
pub(super) const COMPONENT: &str = "LLMRunRecordStore";

/// Which runs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    run_id: Option<String>,
    provider: Option<String>,
    model: Option<String>,
    /// `RUNNING`, `SUCCEEDED`, `FAILED`, `ABORTED`, `TIMEOUT`; `ENDED`: it ended, how is erased.
    #[param(value_type = Option<String>)]
    execution_status: Option<ExecutionStatus>,
    is_synthetic: Option<bool>,
    /// Inclusive.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Exclusive.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// 1 to 500, 50 when absent.
    limit: Option<u32>,
    /// At most 10,000; go on with `cursor`.
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// The tree size to read at.
    as_of: Option<u64>,
}

/// The canonical record of a run.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = LLMRunRecordResult)]
pub(super) struct RunRecord {
    #[schema(value_type = Option<String>, format = DateTime)]
    completed_at: Option<Timestamp>,
    /// Rounded half up.
    cost_cents: i64,
    /// Exact.
    cost_usd: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    execution_status: &'static str,
    /// The record id of its run.started.
    id: String,
    input_tokens: i64,
    is_synthetic: bool,
    model: String,
    output_tokens: i64,
    provider: String,
    run_id: String,
    source: String,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    trace_id: Option<String>,
}

/// A page of runs.
#[derive(Serialize, ToSchema)]
struct RunRecords {
    as_of: u64,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    items: Vec<RunRecord>,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

/// The same with metadata.
#[derive(ToSchema)]
#[schema(as = LLMRunRecordsResult)]
#[allow(dead_code)] // for the document
struct RunRecordsAnswer {
    as_of: u64,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    items: Vec<RunRecord>,
    metadata: Metadata,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

impl RunRecord {
    pub(super) fn new(id: String, state: &RunState) -> Self {
        let unknown = |name: &Option<String>| name.clone().unwrap_or_else(|| "unknown".into());
        Self {
            completed_at: state.completed_at,
            cost_cents: state.cost.cents_rounded(),
            cost_usd: state.cost.to_usd(),
            created_at: state.created_at,
            execution_status: state.execution_status.as_str(),
            id,
            input_tokens: state.input_tokens,
            is_synthetic: state.is_synthetic,
            model: unknown(&state.model),
            output_tokens: state.output_tokens,
            provider: unknown(&state.provider),
            run_id: state.run_id.clone(),
            source: state.source.clone(),
            started_at: state.started_at,
            trace_id: Some(state.trace_id.clone()),
        }
    }
}

/// Lists runs.
#[utoipa::path(
    get, path = "/api/v1/logs/llm-runs", tag = "logs", operation_id = "list_llm_run_records",
    params(ListQuery), responses((status = 200, description = "Runs, newest first", body = RunRecordsAnswer), ReadProblems),
)]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Query(asked): Query<ListQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        let filters = given(&[
            ("created_after", shown(asked.created_after.as_ref())),
            ("created_before", shown(asked.created_before.as_ref())),
            (
                "execution_status",
                asked.execution_status.map(|status| status.as_str().into()),
            ),
            ("is_synthetic", asked.is_synthetic.map(Into::into)),
            ("model", shown(asked.model.as_ref())),
            ("provider", shown(asked.provider.as_ref())),
            ("run_id", shown(asked.run_id.as_ref())),
        ]);
        let query = RunQuery {
            run_id: asked.run_id,
            provider: asked.provider,
            model: asked.model,
            execution_status: asked.execution_status.map(|status| status.as_str().to_owned()),
            is_synthetic: asked.is_synthetic,
            created_after: asked.created_after,
            created_before: asked.created_before,
            ..RunQuery::default()
        };
        let params = PageParams {
            limit: asked.limit,
            offset: asked.offset,
            cursor: asked.cursor,
            as_of: asked.as_of,
        };
        let Page {
            rows,
            as_of,
            total,
            total_exact,
            has_more,
            next_cursor,
            filters_applied,
        } = page(ledger, tenant, "llm-runs", query, filters, &params)?;
        let leaves: Vec<LeafKey> = rows.iter().map(|row| row.started_leaf).collect();
        let headers = ledger.records(tenant).headers(&leaves)?;
        let mut metadata = Metadata::new(tenant, COMPONENT, SourceDomain::Activity, at);
        let mut items = Vec::with_capacity(rows.len());
        for (place, (row, header)) in rows.iter().zip(&headers).enumerate() {
            let header =
                Header::decode(header).map_err(|error| damaged(row.started_leaf.leaf_index(), &error))?;
            if place == 0 {
                metadata.occurred_at = row.state.started_at;
                metadata.recorded_at = row.state.created_at;
                metadata.origin = header.origin.as_str();
            }
            items.push(RunRecord::new(header.id.to_string(), &row.state));
        }
        let states = || rows.iter().map(|row| &row.state);
        metadata.run_id = same(states().map(|state| Some(&state.run_id)));
        metadata.trace_id = same(states().map(|state| Some(&state.trace_id)));
        metadata.agent_id = same(states().map(|state| state.agent_id.as_ref()));
        metadata.correlation_id = same(states().map(|state| state.correlation_id.as_ref()));
        caller.answered(items.len());
        metadata.answer(&RunRecords {
            as_of,
            filters_applied,
            has_more,
            items,
            next_cursor,
            total,
            total_exact,
        })
    })
    .await
}
