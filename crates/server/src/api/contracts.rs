//! Contracts: what a job may change, and when. Written once, read and listed.
//!
//! Source: SPEC 7.1.

use axum::extract::State;
use axum::response::Response;
use evidence::canonical::{Value, to_vec};
use evidence::facet::facet;
use evidence::record::GovernanceContract;
use evidence::{GivenTime, RecordId, TimesGiven, Timestamp};
use ledger::Record;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, created, ok, raw};
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

/// A contract to record.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ContractRecord)]
struct ContractIn {
    /// A new UUIDv7 when absent.
    contract_id: Option<String>,
    /// Capabilities that a job under it may affect, at most 10000.
    scope: Vec<String>,
    /// What will be changed: an object, or a list of objects, each with `capability_name` or `scope`.
    #[schema(value_type = Option<serde_json::Value>)]
    proposed_changes: Option<Box<RawValue>>,
    /// Not before, inclusive.
    #[schema(value_type = Option<String>, format = DateTime)]
    activation_window_start: Option<GivenTime>,
    /// Not after, inclusive.
    #[schema(value_type = Option<String>, format = DateTime)]
    activation_window_end: Option<GivenTime>,
}

/// A contract.
#[derive(Serialize, ToSchema)]
#[schema(as = Contract)]
struct ContractView<'a> {
    #[schema(value_type = Option<String>, format = DateTime)]
    activation_window_end: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    activation_window_start: Option<Timestamp>,
    contract_id: &'a str,
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<Timestamp>,
    #[schema(value_type = Option<serde_json::Value>)]
    proposed_changes: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReceiptView>)]
    receipt: Option<ReceiptOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    record_id: Option<RecordId>,
    scope: &'a [String],
    tenant_id: &'a str,
}

impl<'a> ContractView<'a> {
    fn of(
        tenant_id: &'a str,
        contract: &'a GovernanceContract,
        created_at: Option<Timestamp>,
    ) -> Result<Self, ApiError> {
        Ok(Self {
            activation_window_end: contract.activation_window_end,
            activation_window_start: contract.activation_window_start,
            contract_id: &contract.contract_id,
            created_at,
            proposed_changes: raw(to_vec(&contract.proposed_changes))?,
            receipt: None,
            record_id: None,
            scope: &contract.scope,
            tenant_id,
        })
    }
}

/// Records a contract. It is never changed: the same again gives the first receipt, anything else under its id is 409.
#[utoipa::path(
    post, path = "/api/v1/contracts", tag = "governance", operation_id = "contract_record", request_body = ContractIn,
    responses(
        (status = 201, description = "The contract is in the ledger", body = ContractView),
        (status = 200, description = "It was, with the same content", body = ContractView),
        WriteProblems,
    ),
)]
async fn record(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    // Names that redaction would change are refused, so they are looked at as they were sent.
    ExactJsonBody(body): ExactJsonBody<ContractIn>,
) -> Result<Response, ApiError> {
    let given = body.value;
    let changes = fields::value_opt("proposed_changes", given.proposed_changes.as_deref())?;
    let times = TimesGiven::of([
        ("activation_window_start", given.activation_window_start.as_ref()),
        ("activation_window_end", given.activation_window_end.as_ref()),
    ]);
    let contract = GovernanceContract {
        contract_id: given.contract_id.unwrap_or_else(|| ids::uuid_v7(at)),
        scope: given.scope,
        proposed_changes: changes.unwrap_or_default(),
        activation_window_start: given.activation_window_start.map(|given| given.time),
        activation_window_end: given.activation_window_end.map(|given| given.time),
    };
    // Waited for here, not on a thread that blocks.
    let guard = app
        .ledger
        .contract_lock(&caller.tenant, &contract.contract_id)
        .await;
    app.blocking(move |ledger| {
        let placed = ledger.contract_record_under(&guard, &caller.tenant, &contract, &times, &moment(at))?;
        // As it is kept, redacted, and with the time of its record. What is erased, or cannot be read now, is not shown; it is
        // on record all the same.
        let (contract, created_at) = if let Ok(Some((kept, _, recorded_at))) =
            ledger.contract(&caller.tenant, &contract.contract_id)
        {
            (kept, Some(recorded_at))
        } else {
            let proposed_changes = Value::Null;
            let unread = GovernanceContract {
                proposed_changes,
                ..contract
            };
            (unread, None)
        };
        let view = ContractView {
            receipt: Some(ReceiptOut(placed.receipt)),
            ..ContractView::of(&caller.tenant.tenant_id, &contract, created_at)?
        };
        created(&placed, &view)
    })
    .await
}

/// Reads a contract.
#[utoipa::path(
    get, path = "/api/v1/contracts/{id}", tag = "governance", operation_id = "contract_get",
    params(("id" = String, Path, description = "The contract")),
    responses((status = 200, description = "The contract", body = ContractView), ReadProblems),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(contract_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let (contract, receipt, recorded_at) = ledger
            .contract(&caller.tenant, &contract_id)?
            .ok_or_else(ApiError::not_found)?;
        ok(&ContractView {
            receipt: Some(ReceiptOut(receipt)),
            ..ContractView::of(&caller.tenant.tenant_id, &contract, Some(recorded_at))?
        })
    })
    .await
}

/// Which contracts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ContractsQuery {
    /// One contract.
    contract_id: Option<String>,
    /// Most entries of the page, 1 to 500 (50).
    limit: Option<u32>,
    /// Entries passed over, at most 10000.
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only what was in the ledger at this tree size.
    as_of: Option<u64>,
}

/// A contract as lists show it: its scope may have ten thousand entries.
#[derive(Serialize, ToSchema)]
#[schema(as = ContractItem)]
struct Item {
    #[schema(value_type = Option<String>, format = DateTime)]
    activation_window_end: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    activation_window_start: Option<Timestamp>,
    contract_id: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String)]
    record_id: RecordId,
    /// How many entries the scope has.
    scope_entries: usize,
}

/// Contracts, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = ContractPage)]
struct Page {
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

/// Lists contracts, the newest first.
#[utoipa::path(
    get, path = "/api/v1/contracts", tag = "governance", operation_id = "contracts_list", params(ContractsQuery),
    responses((status = 200, description = "Contracts, newest first", body = Page), ReadProblems),
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ContractsQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        let facets = vec![match &query.contract_id {
            Some(contract_id) => facet("contract", contract_id),
            None => "contract".to_owned(),
        }];
        let params = ListParams {
            list: "contracts",
            facets,
            filters: given(&[("contract_id", shown(query.contract_id.as_ref()))]),
            limit: query.limit,
            offset: query.offset,
            cursor: query.cursor,
            as_of: query.as_of,
        };
        let mut page = facet_list::page(ledger, tenant, params)?;
        // A contract may be 3 MiB. Its entry has its id of all that.
        let items = page.records(ledger, tenant, |record| {
            Ok(item(record)?.map(|item| {
                let text = item.contract_id.len();
                (item, text)
            }))
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

fn item(record: &Record) -> Result<Option<Item>, ApiError> {
    let Some(body) = record.body.bytes() else {
        return Ok(None);
    };
    let contract =
        GovernanceContract::read(body).map_err(|error| damaged(record.leaf.leaf_index(), &error))?;
    let header = record.header()?;
    Ok(Some(Item {
        activation_window_end: contract.activation_window_end,
        activation_window_start: contract.activation_window_start,
        contract_id: contract.contract_id,
        created_at: header.recorded_at,
        record_id: header.id,
        scope_entries: contract.scope.len(),
    }))
}
