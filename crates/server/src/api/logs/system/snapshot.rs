//! `get_system_snapshot` (O1): what a run ran in.

use axum::extract::State;
use axum::response::Response;
use evidence::{Header, Kind, SourceDomain, Timestamp};
use ledger::{Body, Record};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::super::metadata::{LedgerPlace, Metadata};
use super::COMPONENT;
use super::surroundings::environments;
use crate::api::answer::{self, ReadProblems};
use crate::api::run_steps::{Run, RunParams, damaged};
use crate::{ApiError, App, Caller, Path, Query};

/// The environment of a run.
#[derive(Serialize, ToSchema)]
struct SystemSnapshot<'a> {
    as_of: u64,
    component: &'static str,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The environment evidence; of several the first.
    #[schema(value_type = Option<Object>)]
    details: Option<Box<RawValue>>,
    /// The records that say it: one for each resource that took part.
    environment_ids: Vec<String>,
    /// False: there are more than 256, of which the first are named.
    environments_complete: bool,
    event_type: &'static str,
    run_id: &'a str,
    severity: &'static str,
    summary: &'static str,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = SystemSnapshotResult)]
#[allow(dead_code)] // for the document
struct SystemSnapshotAnswer<'a> {
    #[serde(flatten)]
    snapshot: SystemSnapshot<'a>,
    metadata: Metadata,
}

/// Reads the environment of a run.
#[utoipa::path(
    get, path = "/api/v1/logs/system/{run_id}/snapshot", tag = "logs", operation_id = "get_system_snapshot",
    params(("run_id" = String, Path, description = "The run"), RunParams),
    responses((status = 200, description = "The environment", body = SystemSnapshotAnswer), ReadProblems),
)]
pub(super) async fn snapshot(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(params): Query<RunParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        let mut run = Run::open(ledger, tenant, "system-snapshot", &run_id, &params)?;
        let found = environments(ledger, &run)?;
        if found.leaves.is_empty() {
            run.known(ledger)?;
        }
        let records = ledger.records(tenant);
        let ids = records.headers(&found.leaves)?;
        let first: Option<Record> = records.read(&found.leaves[..found.leaves.len().min(1)])?.pop();
        let mut metadata = Metadata::of_run(tenant, &run, COMPONENT, SourceDomain::System)?;
        let mut snapshot = SystemSnapshot {
            as_of: run.as_of,
            component: "environment",
            created_at: run.row.state.started_at,
            details: None,
            environment_ids: Vec::with_capacity(ids.len()),
            environments_complete: found.whole,
            event_type: "SNAPSHOT",
            run_id: &run.row.state.run_id,
            severity: "INFO",
            summary: "no environment evidence was recorded",
        };
        for (leaf, header) in found.leaves.iter().zip(&ids) {
            let header = Header::decode(header).map_err(|error| damaged(leaf.leaf_index(), &error))?;
            debug_assert_eq!(header.kind, Kind::EvidenceEnvironment);
            snapshot.environment_ids.push(header.id.to_string());
        }
        if let Some(first) = &first {
            let header = first.header()?;
            snapshot.created_at = header.recorded_at;
            snapshot.summary = "the environment of the run, as recorded";
            snapshot.details = Some(answer::raw(match &first.body {
                Body::There(body) => body.clone(),
                Body::Gone(gone) => {
                    let note = format!("the environment evidence is {}", gone.as_str());
                    serde_json::json!({ "note": note }).to_string().into_bytes()
                }
            })?);
            metadata.occurred_at = header.occurred_at;
            metadata.recorded_at = header.recorded_at;
            metadata.origin = header.origin.as_str();
            metadata.ledger = Some(LedgerPlace::of(ledger, tenant, first.leaf, run.as_of)?);
        } else {
            let note = br#"{"note":"no environment evidence was recorded for this run"}"#;
            snapshot.details = Some(answer::raw(note.to_vec())?);
        }
        metadata.answer(&snapshot)
    })
    .await
}
