//! `get_llm_run_envelope` (O1): the canonical record of one run.

use axum::extract::State;
use axum::response::Response;
use evidence::SourceDomain;
use utoipa::ToSchema;

use super::list::{COMPONENT, RunRecord};
use super::metadata::{LedgerPlace, Metadata};
use crate::api::answer::ReadProblems;
use crate::api::run_steps::{Run, RunParams};
use crate::{ApiError, App, Caller, Path, Query};

/// The record with its metadata.
#[derive(serde::Serialize, ToSchema)]
#[schema(as = LLMRunEnvelopeResult)]
#[allow(dead_code)] // for the document
struct Envelope {
    #[serde(flatten)]
    record: RunRecord,
    metadata: Metadata,
}

/// Reads the record of a run.
#[utoipa::path(
    get, path = "/api/v1/logs/llm-runs/{run_id}/envelope", tag = "logs", operation_id = "get_llm_run_envelope",
    params(("run_id" = String, Path, description = "The run"), RunParams),
    responses((status = 200, description = "The run", body = Envelope), ReadProblems),
)]
pub(super) async fn envelope(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(params): Query<RunParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let mut run = Run::open(ledger, &caller.tenant, "envelope", &run_id, &params)?;
        run.known(ledger)?;
        let mut metadata = Metadata::of_run(&caller.tenant, &run, COMPONENT, SourceDomain::Activity)?;
        let leaf = run.row.started_leaf;
        metadata.ledger = Some(LedgerPlace::of(ledger, &caller.tenant, leaf, run.as_of)?);
        metadata.answer(&RunRecord::new(
            run.started.header()?.id.to_string(),
            &run.row.state,
        ))
    })
    .await
}
