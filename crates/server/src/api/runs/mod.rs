//! Runs: started, completed, aborted.
//!
//! Each request becomes one record (the end of a run two). What "the same
//! content again" means is what was sent, before defaults.
//!
//! Source: SPEC 4.1.

mod end;
mod start;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::Timestamp;
use ledger::{EndRun, Ledger, Placed, Tenant};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReceiptOut, WriteProblems, created, placed};
use super::records::ReceiptView;
use crate::{ApiError, App, Caller, JsonBody, Path, Received};

pub(crate) use end::{AbortIn, EndIn};
pub(crate) use start::{RunIn, RunNames};

/// Stands in the header of what comes by REST.
pub(crate) const COMPONENT: &str = "api";

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(complete))
        .routes(routes!(abort))
}

/// A run was started.
#[derive(Serialize, ToSchema)]
struct RunStartedOut<'a> {
    correlation_id: &'a str,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    run_id: &'a str,
    /// Never re-derived by callers.
    trace_id: &'a str,
}

/// A run has ended.
#[derive(Serialize, ToSchema)]
struct RunEndedOut {
    execution_status: &'static str,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    /// SPEC 4.2, lower-case hex.
    root_hash: Option<String>,
    run_id: String,
    status: &'static str,
    trace_id: String,
}

/// Starts a run.
#[utoipa::path(
    post, path = "/api/v1/runs", tag = "runs", operation_id = "run_start", request_body = RunIn,
    responses(
        (status = 201, description = "The run is in the ledger", body = RunStartedOut),
        (status = 200, description = "It was, with the same content; the first receipt", body = RunStartedOut),
        WriteProblems,
    ),
)]
async fn start(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<RunIn>,
) -> Result<Response, ApiError> {
    let (draft, names) = app
        .packing(caller.tenant.salts(), body.is_large(), move |salts| {
            let names = body.value.names(at)?;
            let started = body.value.check()?;
            Ok((
                body.value.draft(&names, &started, body.content, at, salts)?,
                names,
            ))
        })
        .await?;
    // Its steps come next.
    app.ledger.expect_run(&caller.tenant, &names.run_id);
    let outcomes = app.ledger.submit(&caller.tenant, vec![draft], at).await?;
    let first = first(placed(outcomes)?)?;
    let names = on_record(&app, &caller.tenant, &first, names).await?;
    let RunNames {
        run_id,
        trace_id,
        correlation_id,
    } = &names;
    created(
        &first,
        &RunStartedOut {
            correlation_id,
            receipt: ReceiptOut(first.receipt),
            run_id,
            trace_id,
        },
    )
}

/// The receipt of a submission of one.
pub(crate) fn first(placed: Vec<Placed>) -> Result<Placed, ApiError> {
    placed
        .into_iter()
        .next()
        .ok_or_else(|| ApiError::internal(&"a submission without outcome"))
}

/// The names under which the run stands. They are those that were sent, unless it was there: once its first record is
/// erased, whatever is sent counts as the same.
pub(crate) async fn on_record(
    app: &App,
    tenant: &Arc<Tenant>,
    first: &Placed,
    sent: RunNames,
) -> Result<RunNames, ApiError> {
    if first.fresh {
        return Ok(sent);
    }
    let (tenant, run_id) = (Arc::clone(tenant), Arc::clone(&sent.run_id));
    let names = app
        .blocking(move |ledger| ledger.run_names(&tenant, &run_id).map_err(ApiError::from))
        .await?;
    let Some(names) = names else {
        return Ok(sent);
    };
    Ok(RunNames {
        correlation_id: names.correlation_id.unwrap_or_else(|| Arc::clone(&sent.run_id)),
        trace_id: names.trace_id,
        run_id: sent.run_id,
    })
}

/// Completes a run, well or not.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/complete", tag = "runs", operation_id = "run_complete",
    params(("run_id" = String, Path, description = "The run")), request_body = EndIn,
    responses(
        (status = 201, description = "The run has ended", body = RunEndedOut),
        (status = 200, description = "It had, with the same content; the first receipt", body = RunEndedOut),
        WriteProblems,
    ),
)]
async fn complete(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<EndIn>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let how = EndRun::Completed(body.value.check(at)?, body.content);
        end(ledger, &caller.tenant, &run_id, &how, at)
    })
    .await
}

/// Aborts a run.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/abort", tag = "runs", operation_id = "run_abort",
    params(("run_id" = String, Path, description = "The run")), request_body = AbortIn,
    responses(
        (status = 201, description = "The run has ended", body = RunEndedOut),
        (status = 200, description = "It had, for the same reason; the first receipt", body = RunEndedOut),
        WriteProblems,
    ),
)]
async fn abort(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<AbortIn>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let how = EndRun::Aborted(body.value.check()?.to_owned(), body.content);
        end(ledger, &caller.tenant, &run_id, &how, at)
    })
    .await
}

fn end(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run_id: &str,
    how: &EndRun,
    at: Timestamp,
) -> Result<Response, ApiError> {
    let placed = ledger.end_run(tenant, run_id, how, at)?;
    let run = ledger
        .store()
        .run_find(tenant.tenant_no, run_id)?
        .ok_or_else(ApiError::not_found)?;
    let state = run.state;
    created(
        &placed,
        &RunEndedOut {
            execution_status: state.execution_status.as_str(),
            receipt: ReceiptOut(placed.receipt),
            root_hash: state.root_hash.as_ref().map(evidence::hex_string),
            run_id: state.run_id,
            status: state.status.as_str(),
            trace_id: state.trace_id,
        },
    )
}
