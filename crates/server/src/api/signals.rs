//! Signals: something about a capability was allowed or blocked. Each POST is a record of its own.
//!
//! Source: SPEC 7.1.

use axum::extract::State;
use axum::response::Response;
use evidence::facet::facet;
use evidence::record::{GovernanceSignal, SignalDecision};
use evidence::{GivenTime, RecordId, TimesGiven, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, created, ok};
use super::facet_list::{self, DamagedEntry, ListParams};
use super::fields;
use super::jobs::moment;
use super::records::ReceiptView;
use super::run_list::{Filters, given, shown};
use super::run_steps::damaged;
use crate::api::logs::NoParams;
use crate::{ApiError, App, Caller, ExactJsonBody, Path, Query, Received, ids};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(record, list))
        .routes(routes!(get))
}

/// A signal to record.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SignalRecord)]
struct SignalIn {
    /// What it is about, an open word.
    signal_type: String,
    /// The capability that it is about.
    scope: String,
    /// `allow` or `block`.
    decision: String,
    /// The time of receipt when absent, but not before what is on record already.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<GivenTime>,
}

/// A signal.
#[derive(Serialize, ToSchema)]
#[schema(as = Signal)]
struct SignalView {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReceiptView>)]
    receipt: Option<ReceiptOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    record_id: Option<RecordId>,
    scope: String,
    signal_id: String,
    signal_type: String,
}

impl SignalView {
    fn of(signal: GovernanceSignal) -> Self {
        Self {
            at: signal.at,
            decision: signal.decision.as_str(),
            receipt: None,
            record_id: None,
            scope: signal.scope,
            signal_id: signal.signal_id,
            signal_type: signal.signal_type,
        }
    }
}

/// Records a signal.
#[utoipa::path(
    post, path = "/api/v1/signals", tag = "governance", operation_id = "signal_record", request_body = SignalIn,
    responses((status = 201, description = "The signal is in the ledger", body = SignalView), WriteProblems),
)]
async fn record(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    // Names that redaction would change are refused, so they are looked at as they were sent.
    ExactJsonBody(body): ExactJsonBody<SignalIn>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let given = body.value;
        fields::word("decision", &given.decision, &["allow", "block"])?;
        let times = TimesGiven::of([("at", given.at.as_ref())]);
        let signal = GovernanceSignal {
            signal_id: ids::uuid_v7(at),
            signal_type: given.signal_type,
            scope: given.scope,
            decision: SignalDecision::parse(&given.decision)
                .ok_or_else(|| ApiError::invalid("decision", "must be allow or block"))?,
            at: given.at.map_or_else(|| caller.tenant.now(at), |given| given.time),
        };
        let placed = ledger.signal_record(&caller.tenant, &signal, &times, &moment(at))?;
        let view = SignalView {
            receipt: Some(ReceiptOut(placed.receipt)),
            ..SignalView::of(signal)
        };
        created(&placed, &view)
    })
    .await
}

/// Reads a signal.
#[utoipa::path(
    get, path = "/api/v1/signals/{id}", tag = "governance", operation_id = "signal_get",
    params(("id" = String, Path, description = "The signal")),
    responses((status = 200, description = "The signal", body = SignalView), ReadProblems),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(signal_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let (signal, receipt) = ledger
            .signal(&caller.tenant, &signal_id)?
            .ok_or_else(ApiError::not_found)?;
        ok(&SignalView {
            receipt: Some(ReceiptOut(receipt)),
            ..SignalView::of(signal)
        })
    })
    .await
}

/// Which signals.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SignalsQuery {
    /// Those about one capability.
    scope: Option<String>,
    /// Those of one type.
    signal_type: Option<String>,
    /// Most entries of the page, 1 to 500 (50).
    limit: Option<u32>,
    /// Entries passed over, at most 10000.
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only what was in the ledger at this tree size.
    as_of: Option<u64>,
}

/// Signals, the last recorded first.
#[derive(Serialize, ToSchema)]
#[schema(as = SignalPage)]
struct Page {
    as_of: u64,
    /// Entries of the page that cannot be shown. Absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    damaged: Vec<DamagedEntry>,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    items: Vec<SignalView>,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

/// Lists signals, the last recorded first.
#[utoipa::path(
    get, path = "/api/v1/signals", tag = "governance", operation_id = "signals_list", params(SignalsQuery),
    responses((status = 200, description = "Signals, the last recorded first", body = Page), ReadProblems),
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<SignalsQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        let mut facets = Vec::with_capacity(2);
        facets.extend(query.scope.as_deref().map(|scope| facet("signal.scope", scope)));
        facets.extend(
            query
                .signal_type
                .as_deref()
                .map(|word| facet("signal.type", word)),
        );
        if facets.is_empty() {
            facets.push("signal".to_owned());
        }
        let params = ListParams {
            list: "signals",
            facets,
            filters: given(&[
                ("scope", shown(query.scope.as_ref())),
                ("signal_type", shown(query.signal_type.as_ref())),
            ]),
            limit: query.limit,
            offset: query.offset,
            cursor: query.cursor,
            as_of: query.as_of,
        };
        let mut page = facet_list::page(ledger, tenant, params)?;
        let items = page.records(ledger, tenant, |record| {
            let Some(body) = record.body.bytes() else {
                return Ok(None);
            };
            let leaf_index = record.leaf.leaf_index();
            let signal = GovernanceSignal::read(body).map_err(|error| damaged(leaf_index, &error))?;
            let view = SignalView {
                record_id: Some(record.header()?.id),
                ..SignalView::of(signal)
            };
            Ok(Some((view, body.len())))
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
