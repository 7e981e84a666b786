//! `get_system_telemetry` (O2): measurements that came with a run.
//!
//! What binds a point to a run: `deponent.run.id` of its resource or of itself, an exemplar that names one of the run's
//! traces, or that a service instance of the run measured it while the run lasted (SPEC 4.3).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::facet::facet;
use evidence::{Header, SourceDomain, Timestamp};
use ledger::{Body, Ledger, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use store::{FacetQuery, LeafKey};
use utoipa::ToSchema;

use super::super::metadata::Metadata;
use super::COMPONENT;
use super::surroundings::{duration, recorded_around, surroundings, within};
use super::window::Window;
use crate::api::answer::{GoneCounts, ReadProblems};
use crate::api::facet_list::{DamagedEntry, is_unexplained};
use crate::api::run_steps::{Run, RunParams, damaged};
use crate::{ApiError, App, Caller, Path, Query};

const READ: &str = "system-telemetry";

/// Records looked at for one answer: each holds the points of one export, mostly a few dozen.
const RECORDS_MAX: usize = 500;

/// Points of one answer (SPEC 5), as far as whole records go.
const POINTS_MAX: usize = 10_000;

/// Bodies read for one answer, in bytes; the one that passes it is the last.
const BODIES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// An SDK exports its metrics each minute: what happened in a run's last moments is measured at most that much later.
const EXPORT_MICROS: i64 = 60 * 1_000_000;

/// A measurement.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TelemetryPointResult)]
struct Point {
    #[schema(value_type = Object)]
    attributes: Box<RawValue>,
    /// What binds it to the run: `run` (`deponent.run.id` of resource or point), `trace` (an exemplar's), or `instance`
    /// (measured by a service instance of the run while it ran, or in the minute after).
    bound_by: &'static str,
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
    /// False: the run has more than 1,000 traces or 256 environments, and those are looked at; or an environment that came
    /// with its spans is gone or damaged, and with it which hosts and instances were the run's; or it has gone on since the
    /// first page, is too long to be added up again, and its traces are those of now.
    complete: bool,
    /// Environments of the run, and records of measurements that may be its, that were altered or taken away: what they
    /// said is not among the points. Absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    damaged: Vec<DamagedEntry>,
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
    #[serde(default)]
    instance: Option<String>,
    points: Vec<WirePoint>,
    #[serde(default)]
    run_id: Option<String>,
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

/// What a point's attributes say of runs and traces.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    #[serde(rename = "deponent.run.id")]
    run_id: Value,
    #[serde(rename = "deponent.metric")]
    metric: NamedByMetric,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedByMetric {
    exemplar_trace_ids: Vec<String>,
}

/// What binds measurements to a run.
struct Bound {
    run_id: String,
    traces: BTreeSet<String>,
    instances: BTreeSet<String>,
    /// In which its service instances measure for it.
    window: Window,
    /// All of its traces are among them, and what all of its environments name.
    whole: bool,
    /// Of these environments those that cannot be read.
    damaged: Vec<DamagedEntry>,
}

impl Bound {
    fn of(ledger: &Ledger, tenant: &Arc<Tenant>, run: &mut Run) -> Result<Self, ApiError> {
        let window = duration(ledger, run)?;
        let (traces, all_traces) = run.traces(ledger)?;
        let around = surroundings(ledger, tenant, run)?;
        let end = window.end.checked_add_micros(EXPORT_MICROS);
        Ok(Self {
            run_id: run.row.state.run_id.clone(),
            traces: traces.into_iter().collect(),
            instances: around.instances,
            window: Window {
                end: end.unwrap_or(Timestamp::MAX),
                ..window
            },
            whole: all_traces && around.whole,
            damaged: around.damaged,
        })
    }

    /// By what a point of a record is bound to the run.
    fn binds(&self, header: &Header<'_>, body: &Wire, point: &WirePoint) -> Option<&'static str> {
        // What its attributes say otherwise than as text binds it to nothing.
        let named: Named = serde_json::from_str(point.attributes.get()).unwrap_or_default();
        let run_id = named.run_id.as_str().filter(|run_id| !run_id.is_empty());
        let run_id = run_id.or(body.run_id.as_deref());
        // What names a run is that run's alone, whatever else it was measured with.
        if let Some(run_id) = run_id {
            return (run_id == self.run_id).then_some("run");
        }
        let mut traces = header.trace_id.as_deref().into_iter();
        let mut exemplars = named.metric.exemplar_trace_ids.iter().map(String::as_str);
        if traces.any(|trace| self.traces.contains(trace))
            || exemplars.any(|trace| self.traces.contains(trace))
        {
            return Some("trace");
        }
        let of_instance = body
            .instance
            .as_ref()
            .is_some_and(|instance| self.instances.contains(instance));
        (of_instance && self.window.holds(point.timestamp)).then_some("instance")
    }
}

/// The leaves of records that may be bound to a run.
#[derive(Default)]
struct Leaves {
    /// By name. What only its instance binds is not among them.
    named: BTreeSet<LeafKey>,
    all: BTreeSet<LeafKey>,
    has_more: bool,
}

impl Leaves {
    /// The first [`RECORDS_MAX`] above a leaf.
    fn find(
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        run: &Run,
        bound: &Bound,
        below: Option<LeafKey>,
    ) -> Result<Self, ApiError> {
        let end = LeafKey::new(tenant.ledger().row.ledger_no, run.as_of);
        let query = |facet: String, range: (Option<LeafKey>, LeafKey)| FacetQuery {
            facets: vec![facet],
            below: range.0,
            as_of: Some(range.1),
            limit: u32::try_from(RECORDS_MAX + 1).unwrap_or(u32::MAX),
            ..FacetQuery::default()
        };
        let mut found = Self::default();
        let traces = bound.traces.iter().map(|trace| facet("telemetry.trace", trace));
        for facet in traces.chain([facet("telemetry.run", &bound.run_id)]) {
            let page = ledger
                .store()
                .facet_find(tenant.tenant_no, &query(facet, (below, end)))?;
            found.named.extend(page.leaves);
        }
        found.all.clone_from(&found.named);
        if !bound.instances.is_empty() {
            let stretch = recorded_around(ledger, tenant, bound.window)?;
            for instance in &bound.instances {
                let query = query(
                    facet("telemetry.instance", instance),
                    within((below, end), Some(stretch)),
                );
                found
                    .all
                    .extend(ledger.store().facet_find(tenant.tenant_no, &query)?.leaves);
            }
        }
        found.has_more = found.all.len() > RECORDS_MAX;
        while found.all.len() > RECORDS_MAX {
            found.all.pop_last();
        }
        Ok(found)
    }
}

/// What the records of an answer say.
struct Read {
    points: Vec<Point>,
    gone: GoneCounts,
    /// Of what is gone, that for which no record accounts.
    damaged: Vec<DamagedEntry>,
    /// The record it ends with, the last that was found when that was not too much.
    last: Option<LeafKey>,
}

/// Reads the points that are bound to a run, of the records that may be.
fn read_points(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    bound: &Bound,
    found: &Leaves,
) -> Result<Read, ApiError> {
    let mut read = Read {
        points: Vec::new(),
        gone: GoneCounts::default(),
        damaged: Vec::new(),
        last: found.all.last().copied(),
    };
    let leaves: Vec<LeafKey> = found.all.iter().copied().collect();
    let mut bytes = 0;
    // A record happened when its newest point was measured; older ones of it may be of the run. A record whose newest is
    // older than the run has none.
    let wanted =
        |leaf, header: &Header<'_>| found.named.contains(&leaf) || header.occurred_at >= bound.window.start;
    ledger.records(tenant).each_listed(&leaves, wanted, |record| {
        let leaf = record.leaf;
        let header = record.header()?;
        let body = match &record.body {
            Body::There(body) => body,
            Body::Gone(why) => {
                // Of what only its instance leads to nobody can say any more whose it was. It is told of when it happened
                // while the run lasted; what happened later is mostly another run's.
                if found.named.contains(&leaf) || bound.window.holds(header.occurred_at) {
                    read.gone.count(*why);
                    if is_unexplained(ledger, tenant, &record)? {
                        read.damaged.push(DamagedEntry::of(tenant, &record)?);
                    }
                }
                return Ok::<_, ApiError>(ControlFlow::Continue(()));
            }
        };
        bytes += body.len();
        let mut body: Wire =
            serde_json::from_slice(body).map_err(|error| damaged(leaf.leaf_index(), &error))?;
        for point in std::mem::take(&mut body.points) {
            let Some(bound_by) = bound.binds(&header, &body, &point) else {
                continue;
            };
            read.points.push(Point {
                attributes: point.attributes,
                bound_by,
                leaf_index: leaf.leaf_index(),
                name: point.name,
                source: body.source.clone(),
                timestamp: point.timestamp,
                unit: point.unit,
                value: point.value,
            });
        }
        if read.points.len() >= POINTS_MAX || bytes >= BODIES_BYTES_MAX {
            read.last = Some(leaf);
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(read)
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
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let tenant = &caller.tenant;
        let mut run = Run::open(ledger, tenant, READ, &run_id, &params)?;
        let bound = Bound::of(ledger, tenant, &mut run)?;
        let state = &run.row.state;
        let below = i64::try_from(run.from).ok().filter(|from| *from > 0);
        let found = Leaves::find(ledger, tenant, &run, &bound, below.map(LeafKey::from_i64))?;
        let metadata = Metadata::of_run(tenant, &run, COMPONENT, SourceDomain::System)?;
        let Read {
            mut points,
            gone,
            damaged,
            last,
        } = read_points(ledger, tenant, &bound, &found)?;
        let has_more = found.has_more || last != found.all.last().copied();
        // None was received only where it is known whose instances were the run's.
        let none = points.is_empty() && !has_more && gone == GoneCounts::default();
        if none && bound.whole && bound.damaged.is_empty() && run.from == 0 {
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
        points.sort_by_key(|point| (point.timestamp, point.leaf_index));
        caller.answered(points.len());
        let next = last.filter(|_| has_more).map(LeafKey::as_i64);
        let next = next.and_then(|leaf| u64::try_from(leaf).ok());
        metadata.answer(&Telemetry {
            as_of: run.as_of,
            available_data: ["events", "snapshot", "replay", "telemetry"],
            complete: bound.whole,
            damaged: bound.damaged.into_iter().chain(damaged).collect(),
            gone,
            has_more,
            next_cursor: next.map(|next| run.cursor(tenant, READ, next, 0)).transpose()?,
            run_id: &state.run_id,
            status: "collected",
            total: points.len(),
            points,
        })
    })
    .await
}
