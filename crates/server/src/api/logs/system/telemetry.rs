//! `get_system_telemetry` (O2): measurements that came with a run.

use axum::extract::State;
use axum::response::Response;
use evidence::{SourceDomain, Timestamp};
use ledger::Body;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{FacetQuery, LeafKey};
use utoipa::ToSchema;

use super::super::metadata::Metadata;
use super::COMPONENT;
use crate::api::answer::{GoneCounts, ReadProblems};
use crate::api::run_steps::{Run, RunParams, damaged};
use crate::{ApiError, App, Caller, Path, Query};

const READ: &str = "system-telemetry";

/// Records of one answer: each holds the points of one export, mostly a few dozen.
const RECORDS_MAX: u32 = 500;

/// Points of one answer (SPEC 5), as far as whole records go.
const POINTS_MAX: usize = 10_000;

/// A measurement.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TelemetryPointResult)]
struct Point {
    #[schema(value_type = Object)]
    attributes: Box<RawValue>,
    leaf_index: u64,
    name: String,
    source: String,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    unit: String,
    /// A number, or an object for histograms and summaries.
    #[schema(value_type = Object)]
    value: Box<RawValue>,
}

/// What was measured.
#[derive(Serialize, ToSchema)]
#[schema(as = TelemetryResult)]
struct Telemetry<'a> {
    as_of: u64,
    available_data: [&'static str; 4],
    /// Records of this answer that say nothing any more: their points are not among these.
    gone: GoneCounts,
    has_more: bool,
    next_cursor: Option<String>,
    points: Vec<Point>,
    run_id: &'a str,
    /// `collected`
    status: &'static str,
    /// Points of this answer; all of the run's unless has_more, or this page is not the first.
    total: usize,
}

/// Nothing was.
#[derive(Serialize, ToSchema)]
#[schema(as = TelemetryStubResult)]
struct TelemetryStub<'a> {
    as_of: u64,
    available_data: [&'static str; 3],
    future_milestone: &'static str,
    reason: &'static str,
    run_id: &'a str,
    /// `telemetry_not_collected`
    status: &'static str,
}

/// Either, with metadata.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code)] // for the document
enum TelemetryAnswer<'a> {
    Collected {
        #[serde(flatten)]
        telemetry: Telemetry<'a>,
        metadata: Metadata,
    },
    NotCollected {
        #[serde(flatten)]
        stub: TelemetryStub<'a>,
        metadata: Metadata,
    },
}

#[derive(Deserialize)]
struct Wire {
    points: Vec<WirePoint>,
    source: String,
}

#[derive(Deserialize)]
struct WirePoint {
    attributes: Box<RawValue>,
    name: String,
    timestamp: Timestamp,
    unit: String,
    value: Box<RawValue>,
}

/// Reads the measurements of a run.
#[utoipa::path(
    get, path = "/api/v1/logs/system/{run_id}/telemetry", tag = "logs", operation_id = "get_system_telemetry",
    params(("run_id" = String, Path, description = "The run"), RunParams),
    responses((status = 200, description = "Measurements, or that there are none", body = TelemetryAnswer), ReadProblems),
)]
pub(super) async fn telemetry(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(params): Query<RunParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        let run = Run::open(ledger, tenant, READ, &run_id, &params)?;
        let state = &run.row.state;
        let ledger_no = tenant.ledger().row.ledger_no;
        let below = i64::try_from(run.from).ok().filter(|from| *from > 0);
        let found = ledger.store().facet_find(
            tenant.tenant_no,
            &FacetQuery {
                facets: vec![evidence::facet::facet("telemetry.run", &state.run_id)],
                as_of: Some(LeafKey::new(ledger_no, run.as_of)),
                below: below.map(LeafKey::from_i64),
                limit: RECORDS_MAX,
                ..FacetQuery::default()
            },
        )?;
        let metadata = Metadata::of_run(tenant, &run, COMPONENT, SourceDomain::System)?;
        if found.leaves.is_empty() && run.from == 0 {
            caller.answered(0);
            return metadata.answer(&TelemetryStub {
                as_of: run.as_of,
                available_data: ["events", "snapshot", "replay"],
                future_milestone: "none",
                reason: "no telemetry received for this run",
                run_id: &state.run_id,
                status: "telemetry_not_collected",
            });
        }
        let mut points: Vec<Point> = Vec::new();
        let mut gone = GoneCounts::default();
        let mut last = None;
        for &leaf in &found.leaves {
            if points.len() >= POINTS_MAX {
                break;
            }
            last = Some(leaf);
            for record in ledger.records(tenant).read(&[leaf])? {
                let body = match &record.body {
                    Body::There(body) => body,
                    Body::Gone(why) => {
                        gone.count(*why);
                        continue;
                    }
                };
                let body: Wire =
                    serde_json::from_slice(body).map_err(|error| damaged(leaf.leaf_index(), &error))?;
                points.extend(body.points.into_iter().map(|point| Point {
                    attributes: point.attributes,
                    leaf_index: leaf.leaf_index(),
                    name: point.name,
                    source: body.source.clone(),
                    timestamp: point.timestamp,
                    unit: point.unit,
                    value: point.value,
                }));
            }
        }
        points.sort_by_key(|point| (point.timestamp, point.leaf_index));
        caller.answered(points.len());
        let has_more = found.has_more || last != found.leaves.last().copied();
        let next = last.filter(|_| has_more).map(LeafKey::as_i64);
        let next = next.and_then(|leaf| u64::try_from(leaf).ok());
        metadata.answer(&Telemetry {
            as_of: run.as_of,
            available_data: ["events", "snapshot", "replay", "telemetry"],
            gone,
            has_more,
            next_cursor: next.map(|next| run.cursor(tenant, READ, next)).transpose()?,
            run_id: &state.run_id,
            status: "collected",
            total: points.len(),
            points,
        })
    })
    .await
}
