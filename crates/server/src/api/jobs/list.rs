//! Lists of jobs, and the events of one.

use axum::extract::State;
use axum::response::Response;
use evidence::canonical::{Limits, Value, parse};
use evidence::facet::facet;
use evidence::record::JobEvent;
use evidence::{Kind, RecordId, Timestamp};
use ledger::{JobError, Ledger, Record, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{FacetQuery, LeafKey};
use utoipa::{IntoParams, ToSchema};

use crate::api::answer::{ReadProblems, ok, raw};
use crate::api::facet_list::{self, DamagedEntry, ListParams};
use crate::api::run_list::{self, Filters, LIMIT_DEFAULT, LIMIT_MAX, given, shown};
use crate::api::run_steps::damaged;
use crate::{ApiError, App, Caller, Path, Query, cursor, extract};

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobsQuery {
    /// Those that run one handler.
    handler: Option<String>,
    /// Those under one contract.
    contract_id: Option<String>,
    /// Most entries of the page, 1 to 500 (50).
    limit: Option<u32>,
    /// Entries passed over, at most 10000.
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Jobs as they were at this tree size.
    as_of: Option<u64>,
}

/// A job as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = JobItem)]
struct Item {
    /// Of its newest event.
    attempt_number: u32,
    contract_id: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    handler: Option<String>,
    job_id: String,
    /// The stage in capitals, as audits name it.
    job_status: &'static str,
    #[schema(value_type = String)]
    record_id: RecordId,
    stage: &'static str,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// `PASS`, `FAIL`, `INCONCLUSIVE`; null while there is none.
    verdict: Option<String>,
}

/// Jobs, the newest created first.
#[derive(Serialize, ToSchema)]
#[schema(as = JobPage)]
pub(super) struct Page {
    as_of: u64,
    /// Entries of the page that cannot be shown. Absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    damaged: Vec<DamagedEntry>,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    items: Vec<Item>,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

/// Lists jobs, the newest created first.
#[utoipa::path(
    get, path = "/api/v1/jobs", tag = "jobs", operation_id = "jobs_list", params(JobsQuery),
    responses((status = 200, description = "Jobs, the newest created first", body = Page), ReadProblems),
)]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<JobsQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        // Facets of the creation alone: one row a job.
        let mut facets = Vec::with_capacity(2);
        facets.extend(
            query
                .handler
                .as_deref()
                .map(|handler| facet("job.handler", handler)),
        );
        facets.extend(query.contract_id.as_deref().map(|id| facet("job.contract", id)));
        if facets.is_empty() {
            facets.push("job".to_owned());
        }
        let params = ListParams {
            list: "jobs",
            facets,
            filters: given(&[
                ("contract_id", shown(query.contract_id.as_ref())),
                ("handler", shown(query.handler.as_ref())),
            ]),
            limit: query.limit,
            offset: query.offset,
            cursor: query.cursor,
            as_of: query.as_of,
        };
        let mut page = facet_list::page(ledger, tenant, params)?;
        let as_of = LeafKey::new(tenant.ledger().row.ledger_no, page.as_of);
        let records = ledger.records(tenant);
        let items = page.entries(ledger, tenant, |leaf| {
            let item = match records.read(&[leaf])?.pop() {
                Some(record) => item(ledger, tenant, &record, as_of)?,
                None => None,
            };
            // Names alone.
            Ok(item.map(|item| (item, 0)))
        })?;
        caller.answered(items.len());
        ok(&Page {
            as_of: page.as_of,
            damaged: page.damaged,
            filters_applied: page.filters_applied,
            has_more: page.has_more,
            items,
            next_cursor: page.next_cursor,
            total: page.total,
            total_exact: page.total_exact,
        })
    })
    .await
}

fn item(ledger: &Ledger, tenant: &Tenant, record: &Record, as_of: LeafKey) -> Result<Option<Item>, ApiError> {
    let Some(body) = record.body.bytes() else {
        return Ok(None);
    };
    let (created, _) = JobEvent::read(body).map_err(|error| damaged(record.leaf.leaf_index(), &error))?;
    let Some(glance) = ledger.job_glance(tenant, &created.job_id, Some(as_of))? else {
        return Ok(None);
    };
    let contract_id = created.metadata.get("contract_id").and_then(|id| id.as_str());
    Ok(Some(Item {
        attempt_number: glance.attempt_number,
        contract_id: contract_id.map(str::to_owned),
        created_at: created.timestamp,
        handler: created.handler,
        job_id: created.job_id,
        job_status: glance.stage.job_status(),
        record_id: record.header()?.id,
        stage: glance.stage.as_str(),
        updated_at: glance.updated_at,
        verdict: glance.verdict,
    }))
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Most events of the page, 1 to 500 (50).
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only what was in the ledger at this tree size.
    as_of: Option<u64>,
}

/// The events of a job, oldest first: a chain.
#[derive(Serialize, ToSchema)]
#[schema(as = JobEvents)]
pub(super) struct EventPage {
    as_of: u64,
    /// As recorded: `integrity_hash` is SHA-256 of the canonical form of all other members,
    /// `previous_event_hash` that of the event before.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Box<RawValue>>,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    job_id: String,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

/// Lists the events of a job, oldest first.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/events", tag = "jobs", operation_id = "job_events",
    params(("id" = String, Path, description = "The job"), EventsQuery),
    responses((status = 200, description = "The events, oldest first", body = EventPage), ReadProblems),
)]
pub(super) async fn events(
    State(app): State<App>,
    caller: Caller,
    Path(job_id): Path<String>,
    Query(query): Query<EventsQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let events = page(ledger, &caller, job_id, &query)?;
        caller.answered(events.events.len());
        ok(&events)
    })
    .await
}

fn page(
    ledger: &Ledger,
    caller: &Caller,
    job_id: String,
    query: &EventsQuery,
) -> Result<EventPage, ApiError> {
    let tenant = &caller.tenant;
    let limit = extract::limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let mut filters_applied = given(&[("job_id", shown(Some(&job_id)))]);
    filters_applied.insert("tenant_id".into(), (&*tenant.tenant_id).into());
    let scope = ("job-events", &filters_applied);
    let ledger_no = tenant.ledger().row.ledger_no;
    let (as_of, above) = match &query.cursor {
        Some(text) => {
            let (as_of, above) = cursor::decode::<i64>(&scope, ledger_no, text)?;
            if query.as_of.is_some_and(|asked| asked != as_of) {
                return Err(run_list::bad(
                    "query: as_of: the cursor was made at another tree size",
                ));
            }
            (as_of, Some(LeafKey::from_i64(above)))
        }
        None => (run_list::as_of(ledger, tenant, query.as_of)?, None),
    };
    let of_job = |name: &str| FacetQuery {
        facets: vec![facet(name, &job_id)],
        as_of: Some(LeafKey::new(ledger_no, as_of)),
        below: above,
        limit,
        ..FacetQuery::default()
    };
    let store = ledger.store();
    let count = |name| store.facet_count(tenant.tenant_no, &of_job(name), u32::MAX);
    // A verdict and its resolution have the job's facet too, and are no events.
    let (all, judged) = (count("job")?.0, count("job.audit")?.0);
    if all == 0 {
        return Err(JobError::Unknown.into());
    }
    let mut query = of_job("job");
    // By kind too, or those two make a page, empty, after the last.
    query.facets.push(facet("kind", Kind::JobEvent.as_str()));
    let found = store.facet_find(tenant.tenant_no, &query)?;
    let mut events = Vec::with_capacity(found.leaves.len());
    for record in ledger.records(tenant).read(&found.leaves)? {
        if record.is_damaged() {
            return Err(damaged(
                record.leaf.leaf_index(),
                &"its body is missing, and nothing says why",
            ));
        }
        let Some(body) = record.body.bytes() else {
            continue;
        };
        // Bytes that were committed to are JSON; that they are is looked at before they go out.
        let leaf = record.leaf.leaf_index();
        let event = parse(body, Limits::default()).map_err(|error| damaged(leaf, &error.kind()))?;
        // Nobody signs the list that it was found in.
        if event.get("job_id").and_then(Value::as_str) != Some(&*job_id) {
            return Err(damaged(leaf, &"it is of another job than it was found by"));
        }
        events.push(raw(body.to_vec())?);
    }
    let next_cursor = match found.next {
        Some(last) if found.has_more => Some(cursor::encode(&scope, (ledger_no, as_of), &last.as_i64())?),
        _ => None,
    };
    Ok(EventPage {
        as_of,
        events,
        filters_applied,
        has_more: next_cursor.is_some(),
        job_id,
        next_cursor,
        total: all.saturating_sub(judged),
        total_exact: true,
    })
}
