//! Records by id, run, trace, span and kind, and the proof of each.
//!
//! Records of a run or trace come in ledger order, all others newest first. A
//! page may end before its limit: when its bodies become large, or when many
//! leaves had to be looked through; `has_more` and the cursor say so.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use evidence::{Kind, RecordId, Timestamp};
use ledger::{Ledger, Receipt, Record, StoredTree, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{Gone, LeafKey};
use tlog::{TlogProof, TreeSize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ledger::raw;
use super::records_find::{Filter, Found, Position};
use crate::access::operation::is_audit;
use crate::api::logs::NoParams;
use crate::error::Problem;
use crate::extract::limit;
use crate::{ApiError, App, Caller, Path, Query, cursor};

/// Records of a page unless asked otherwise, and at most.
const LIMIT_DEFAULT: u32 = 50;
/// 500 typical records of 2 KiB are 1 MiB.
const LIMIT_MAX: u32 = 500;

/// Bytes of bodies after which a page ends: with the largest body that follows, 24 MiB.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(proof))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RecordsQuery {
    /// Records of this run.
    run_id: Option<String>,
    /// Records of this trace: 32 hex digits, or `trace_<run_id>`.
    trace_id: Option<String>,
    /// The record of this span, 16 hex digits; needs trace_id.
    span_id: Option<String>,
    /// Records of this kind.
    kind: Option<String>,
    /// Most records of the page, 1 to 500 (50).
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only records that were in the ledger at this tree size.
    as_of: Option<u64>,
}

/// A record as stored.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RecordView {
    /// The leaf's bytes.
    #[schema(value_type = Object)]
    header: Box<RawValue>,
    /// Null when erased, archived or damaged.
    #[schema(value_type = Option<Object>)]
    body: Option<Box<RawValue>>,
    /// Which of the tenant's ledgers the receipt is of: 0, and one more after each recovery.
    epoch: u32,
    receipt: ReceiptView,
    /// What was taken out of the body before it was recorded.
    redactions: RedactionsView,
    /// Present and true when the body was erased; header and proofs stay.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    erased: bool,
    /// Of an erased body: by whom, when, why.
    #[serde(skip_serializing_if = "Option::is_none")]
    erasure: Option<ErasureOf>,
    /// Present and true when the body was archived and pruned; what is projected stays.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    archived: bool,
    /// Present and true when the body that was recorded is not to be had, and no record that can be read says why: what
    /// is stored is another (in lists; a read of the record alone is 500 `damaged` then), or nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
}

/// How a body went.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RecordErasure)]
struct ErasureOf {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Absent for who may not read the audit topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The `erasure.performed`. The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    record_id: Option<String>,
}

/// What the record's writer got.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReceiptView {
    record_id: String,
    leaf_index: u64,
    /// Lower-case hex.
    leaf_hash: String,
    tree_size: u64,
}

/// The markers that stand in a body.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct RedactionsView {
    /// How many.
    count: u64,
    /// Of which patterns: `field` for values under secret names, else `email`, `card_number` …
    patterns: Vec<String>,
}

impl RedactionsView {
    fn of(body: Option<&[u8]>) -> Self {
        #[derive(Deserialize)]
        struct Wire {
            redactions: Option<RedactionsView>,
        }
        body.and_then(|body| serde_json::from_slice::<Wire>(body).ok()?.redactions)
            .unwrap_or_default()
    }
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> Self {
        Self {
            record_id: receipt.record_id.to_string(),
            leaf_index: receipt.leaf_index,
            leaf_hash: receipt.leaf_hash.to_hex(),
            tree_size: receipt.tree_size,
        }
    }
}

impl RecordView {
    /// Who erased a body, and why, is of the audit topic.
    fn of(ledger: &Ledger, tenant: &Arc<Tenant>, record: Record, sees_audit: bool) -> Result<Self, ApiError> {
        let receipt = record.receipt()?.into();
        let gone = record.body.gone();
        let (erased, archived) = (gone == Some(Gone::Erased), gone == Some(Gone::Archived));
        let erasure = if erased {
            ledger.erasure_of(tenant, record.header()?.id)?
        } else {
            None
        };
        // Nobody signs the list of what is erased: without a record that says so it is not.
        let damaged = record.is_damaged() || (erased && erasure.is_none());
        let erasure = match erasure {
            Some((by, said)) => {
                let header = by.header()?;
                Some(ErasureOf {
                    at: header.occurred_at,
                    principal: sees_audit.then_some(said.principal),
                    reason: sees_audit.then_some(said.reason),
                    record_id: sees_audit.then(|| header.id.to_string()),
                })
            }
            None => None,
        };
        let redactions = RedactionsView::of(record.body.bytes());
        let epoch = epoch_of(tenant, record.leaf);
        let (header, body) = (
            raw(record.header)?,
            record.body.into_bytes().map(raw).transpose()?,
        );
        Ok(Self {
            header,
            body,
            epoch,
            receipt,
            redactions,
            // What no record says is not told for it.
            erased: erased && !damaged,
            erasure,
            archived,
            damaged,
        })
    }
}

/// The epoch that a leaf of the tenant is of: a leaf index alone names one in each.
pub(super) fn epoch_of(tenant: &Tenant, leaf: LeafKey) -> u32 {
    let epochs = tenant.epochs();
    let of = epochs
        .iter()
        .find(|epoch| epoch.row.ledger_no == leaf.ledger_no());
    of.map_or(0, |epoch| epoch.row.epoch)
}

/// A page of records.
#[derive(Debug, Serialize, ToSchema)]
struct RecordPage {
    items: Vec<RecordView>,
    has_more: bool,
    next_cursor: Option<String>,
    /// Tree size that the list was read at.
    as_of: u64,
}

/// Lists records.
///
/// Of a run or trace in ledger order, others newest first. A page may be shorter than its limit, even
/// empty, while `has_more` is true: follow `next_cursor`.
#[utoipa::path(get, path = "/api/v1/records", operation_id = "list_records", tag = "records",
    params(RecordsQuery), responses((status = 200, body = RecordPage),
        (status = 400, body = Problem, content_type = "application/problem+json")))]
async fn list(
    app: State<App>,
    caller: Caller,
    Query(query): Query<RecordsQuery>,
) -> Result<Json<RecordPage>, ApiError> {
    let limit = limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let filter = Filter::new(query.run_id, query.trace_id, query.span_id, query.kind.as_deref())?;
    let sees_audit = caller.may_read(&app, "audit");
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let tenant = &caller.tenant;
        let ledger_no = tenant.ledger().row.ledger_no;
        let head = ledger.store().head_read(ledger_no)?.size.as_u64();
        let scope = ("records", &*tenant.tenant_id, filter.scope());
        let (as_of, from) = match &query.cursor {
            None => (query.as_of.unwrap_or(head), None),
            Some(text) => {
                let (as_of, at) = cursor::decode::<Position>(&scope, ledger_no, text)?;
                if query.as_of.is_some_and(|given| given != as_of) {
                    return Err(bad("as_of", "the cursor was given for another tree size"));
                }
                (as_of, Some(at))
            }
        };
        if as_of > head {
            return Err(bad("as_of", &format!("the ledger has {head} leaves")));
        }
        let before = LeafKey::new(ledger_no, as_of);
        let found = filter.find(ledger, tenant, before, from, limit)?;
        let (items, next) = read_page(ledger, tenant, &found, sees_audit)?;
        caller.answered(items.len());
        let next_cursor = next
            .map(|at| cursor::encode(&scope, (ledger_no, as_of), &at))
            .transpose()?;
        Ok(Json(RecordPage {
            items,
            has_more: next_cursor.is_some(),
            next_cursor,
            as_of,
        }))
    })
    .await
}

fn bad(name: &str, message: &str) -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "bad_parameter",
        format!("query: {name}: {message}"),
    )
}

/// Reads the records found, until the page is full by bytes; without those of the audit topic for who may not
/// read that.
fn read_page(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    found: &Found,
    sees_audit: bool,
) -> Result<(Vec<RecordView>, Option<Position>), ApiError> {
    let records = ledger.records(tenant);
    let mut items = Vec::with_capacity(found.leaves.len());
    let mut bytes = 0;
    for (place, &(leaf, after)) in found.leaves.iter().enumerate() {
        // One at a time: a body may be 16 MiB.
        if let Some(record) = records.listed(leaf)? {
            if !sees_audit && is_audit(record.header()?.kind) {
                continue;
            }
            bytes += record.body.bytes().map_or(0, <[u8]>::len);
            items.push(RecordView::of(ledger, tenant, record, sees_audit)?);
        }
        let last = place + 1 == found.leaves.len();
        if bytes > PAGE_BYTES && !last {
            return Ok((items, Some(after)));
        }
    }
    Ok((items, found.next))
}

/// A record by its id.
#[utoipa::path(get, path = "/api/v1/records/{id}", operation_id = "get_record", tag = "records", params(("id" = String, Path, description = "Record id")),
    responses((status = 200, body = RecordView),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn get(
    app: State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Json<RecordView>, ApiError> {
    let id = RecordId::parse(&id).ok_or_else(ApiError::not_found)?;
    let sees_audit = caller.may_read(&app, "audit");
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let record = ledger
            .records(&caller.tenant)
            .get(id)?
            .ok_or_else(ApiError::not_found)?;
        if !sees_audit && is_audit(record.header()?.kind) {
            return Err(ApiError::not_found());
        }
        Ok(Json(RecordView::of(ledger, &caller.tenant, record, sees_audit)?))
    })
    .await
}

/// The proof that a record is in the ledger, to be checked offline (C2SP `.tlog-proof`).
///
/// It leads to the newest checkpoint; if none covers the record yet, one is signed first.
#[utoipa::path(get, path = "/api/v1/records/{id}/proof", operation_id = "get_record_proof", tag = "records", params(("id" = String, Path, description = "Record id")),
    responses((status = 200, body = str, content_type = "text/plain"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn proof(
    app: State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let id = RecordId::parse(&id).ok_or_else(ApiError::not_found)?;
    let sees_audit = caller.may_read(&app, "audit");
    let text = app
        .blocking(move |ledger| {
            let (leaf, kind) = ledger
                .records(&caller.tenant)
                .place(id)?
                .ok_or_else(ApiError::not_found)?;
            // Absent there, absent here: not even that it exists is shown.
            if !sees_audit && is_audit(kind) {
                return Err(ApiError::not_found());
            }
            prove(ledger, &caller.tenant, leaf)
        })
        .await?;
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    let name = format!("attachment; filename=\"{id}.tlog-proof\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok((headers, text).into_response())
}

fn prove(ledger: &Ledger, tenant: &Tenant, leaf: LeafKey) -> Result<String, ApiError> {
    let index = leaf.index();
    let newest = || -> Result<_, ApiError> {
        let newest = ledger.store().checkpoint_newest(leaf.ledger_no())?;
        Ok(newest.filter(|checkpoint| index.is_in(checkpoint.size)))
    };
    let mut checkpoint = newest()?;
    if checkpoint.is_none() && leaf.ledger_no() == tenant.ledger().row.ledger_no {
        ledger.checkpoint_now(tenant);
        checkpoint = newest()?;
    }
    let Some(checkpoint) = checkpoint else {
        let message = "no checkpoint covers this record, and none can be signed now";
        return Err(ApiError::unavailable("no_checkpoint", message));
    };
    let size: TreeSize = checkpoint.size;
    let hashes = StoredTree::new(ledger.store(), leaf.ledger_no()).inclusion(index, size)?;
    Ok(TlogProof {
        extra: None,
        index,
        hashes,
        checkpoint_note: checkpoint.note,
    }
    .encode())
}

/// The kind of that name, else 400.
pub(super) fn kind_of(name: &str) -> Result<Kind, ApiError> {
    Kind::parse(name).ok_or_else(|| bad("kind", "no such kind of record"))
}
