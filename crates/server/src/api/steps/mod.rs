//! Steps of a run: recorded one by one, found again by their idempotency key.
//!
//! Source: SPEC 4.1.

mod step;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::Header;
use evidence::facet::facet;
use evidence::record::StepView;
use ledger::{Body, Ledger, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::Gone;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, created, ok, placed};
use super::records::ReceiptView;
use super::runs::first;
use crate::{ApiError, App, Caller, JsonBody, Path, Query, Received};

pub(crate) use step::{StepIn, StepRun};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(record)).routes(routes!(find))
}

/// A step was recorded.
#[derive(Serialize, ToSchema)]
struct StepRecordedOut<'a> {
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    run_id: &'a str,
    step_index: i64,
    trace_id: &'a str,
}

/// Records a step.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/steps", tag = "runs", operation_id = "step_record",
    params(("run_id" = String, Path, description = "The run")), request_body = StepIn,
    responses(
        (status = 201, description = "The step is in the ledger", body = StepRecordedOut),
        (status = 200, description = "It was, with the same content; the first receipt", body = StepRecordedOut),
        WriteProblems,
    ),
)]
async fn record(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<StepIn>,
) -> Result<Response, ApiError> {
    let run_id: Arc<str> = run_id.into();
    // Trace, correlation and agent stand in the header too; a run's do not change but for an agent or
    // conversation that its spans name later.
    let names = if let Some(names) = app.ledger.run_names_at_hand(&caller.tenant, &run_id) {
        names
    } else {
        let (tenant, run_id) = (Arc::clone(&caller.tenant), Arc::clone(&run_id));
        app.blocking(move |ledger| {
            let names = ledger.run_names(&tenant, &run_id)?;
            names.ok_or_else(ApiError::not_found)
        })
        .await?
    };
    let (step_index, trace_id) = (body.value.index(), Arc::clone(&names.trace_id));
    let draft = {
        let run_id = Arc::clone(&run_id);
        app.packing(caller.tenant.salts(), body.is_large(), move |salts| {
            let of = StepRun {
                run_id: &run_id,
                trace_id: &names.trace_id,
                correlation_id: names.correlation_id.as_ref(),
                agent_id: names.agent_id.as_deref(),
            };
            let (draft, _) = body.value.draft(&of, body.content, at, salts)?;
            Ok(draft)
        })
        .await?
    };
    let outcomes = app.ledger.submit(&caller.tenant, vec![draft], at).await?;
    let first = first(placed(outcomes)?)?;
    let receipt = ReceiptOut(first.receipt);
    created(
        &first,
        &StepRecordedOut {
            receipt,
            run_id: &run_id,
            step_index,
            trace_id: &trace_id,
        },
    )
}

/// Which step.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StepQuery {
    /// The caller's key.
    idempotency_key: String,
}

/// A step found by its key: what an engine needs to know before it acts again.
#[derive(Serialize, ToSchema)]
struct StepFoundOut<'a> {
    /// The step was done, and what it said is in an archive: all that is left is its place.
    archived: bool,
    leaf_index: u64,
    #[schema(value_type = Option<Object>)]
    outcome_data: Option<&'a RawValue>,
    output_hash: Option<&'a str>,
    record_id: String,
    run_id: &'a str,
    /// `archived` when it is.
    status: &'static str,
    /// Null of a span, which is numbered with its run's steps.
    step_index: Option<u32>,
    trace_id: Option<&'a str>,
}

/// Finds the newest step with an idempotency key.
#[utoipa::path(
    get, path = "/api/v1/steps", tag = "runs", operation_id = "step_find",
    params(StepQuery), responses((status = 200, description = "The step", body = StepFoundOut), ReadProblems),
)]
async fn find(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<StepQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        let record = ledger
            .records(tenant)
            .newest(facet("step.key", &query.idempotency_key), None)?
            .ok_or_else(ApiError::not_found)?;
        let header = record.header()?;
        let view = match &record.body {
            Body::There(body) => Some(StepView::read(body).map_err(|error| ApiError::internal(&error))?),
            // It was done, and must not be done again.
            Body::Gone(Gone::Archived) => None,
            // An erased step says nothing any more, its key included.
            Body::Gone(_) => return Err(ApiError::not_found()),
        };
        let step = view.as_ref().map(|view| &view.step);
        ok(&StepFoundOut {
            archived: step.is_none(),
            leaf_index: record.leaf.leaf_index(),
            outcome_data: step.and_then(|step| step.outcome_data),
            output_hash: step.and_then(|step| step.output_hash.as_deref()),
            record_id: header.id.to_string(),
            run_id: header.run.as_ref().map_or("", |run| &run.run_id),
            step_index: match step {
                Some(step) => step.step_index,
                None => given_index(ledger, tenant, &header)?,
            },
            status: step.map_or(Gone::Archived.as_str(), |step| step.status.as_str()),
            trace_id: header.trace_id.as_deref(),
        })
    })
    .await
}

/// The index that was given to a step, from what is projected of it.
fn given_index(ledger: &Ledger, tenant: &Arc<Tenant>, header: &Header<'_>) -> Result<Option<u32>, ApiError> {
    let Some(run) = &header.run else { return Ok(None) };
    let Some(row) = ledger.records(tenant).run(&run.run_id)? else {
        return Ok(None);
    };
    let rows = ledger.store().run_records(row.key, run.run_seq, 1)?;
    Ok(rows.first().and_then(|row| row.step_index))
}
