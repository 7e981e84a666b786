//! `get_llm_run_export` (O5): in which forms a run can be taken away, and for which profiles it serves.

use axum::extract::State;
use axum::response::Response;
use evidence::{Kind, RunState, SourceDomain};
use serde::Serialize;
use utoipa::ToSchema;

use super::metadata::Metadata;
use crate::api::answer::ReadProblems;
use crate::api::run_steps::{Run, RunParams};
use crate::{ApiError, App, Caller, Path, Query};

const FORMATS: [&str; 4] = ["json", "csv", "pdf", "zip"];

/// What can be exported.
#[derive(Serialize, ToSchema)]
struct RunExport<'a> {
    as_of: u64,
    available_formats: [&'static str; 4],
    /// Of the newest completed export.
    checksum: Option<String>,
    compliance_tags: Vec<&'static str>,
    run_id: &'a str,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = LLMRunExportResult)]
#[allow(dead_code)] // for the document
struct RunExportAnswer<'a> {
    #[serde(flatten)]
    export: RunExport<'a>,
    metadata: Metadata,
}

/// Reads how a run can be exported.
#[utoipa::path(
    get, path = "/api/v1/logs/llm-runs/{run_id}/export", tag = "logs", operation_id = "get_llm_run_export",
    params(("run_id" = String, Path, description = "The run"), RunParams),
    responses((status = 200, description = "Formats and profiles", body = RunExportAnswer), ReadProblems),
)]
pub(super) async fn export(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(params): Query<RunParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let mut run = Run::open(ledger, &caller.tenant, "llm-run-export", &run_id, &params)?;
        run.known(ledger)?;
        let metadata = Metadata::of_run(&caller.tenant, &run, "LogExportService", SourceDomain::Logs)?;
        let model_call =
            run.row.state.first_inference_at.is_some() || run.has(ledger, Kind::EvidenceProvider)?;
        metadata.answer(&RunExport {
            as_of: run.as_of,
            available_formats: FORMATS,
            checksum: None,
            compliance_tags: compliance_tags(&run.row.state, model_call),
            run_id: &run.row.state.run_id,
        })
    })
    .await
}

/// The profiles whose records this run has:
///
/// - `SOC2` (processing integrity, CC7.2): its steps, and the recorded end of its trace, whose root hash
///   says that the steps are all of them;
/// - `ISO42001` (A.6.2.8, event logs of the AI system): steps and a model call with its provider, as a step or as
///   provider evidence alone;
/// - `EU-AI-ACT` (article 12, records over the lifetime): steps, a model call, and the recorded end.
fn compliance_tags(state: &RunState, model_call: bool) -> Vec<&'static str> {
    let steps = state.total_steps + state.late_count > 0;
    let ended = state.settled;
    [
        ("SOC2", steps && ended),
        ("ISO42001", steps && model_call),
        ("EU-AI-ACT", steps && model_call && ended),
    ]
    .into_iter()
    .filter_map(|(tag, holds)| holds.then_some(tag))
    .collect()
}
