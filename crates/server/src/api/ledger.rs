//! The ledger itself: head, leaves, proofs. Reading it is not recorded.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use ledger::{LedgerInfo, Refusal, StoredTree, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tlog::{Hash, LeafIndex, TreeSize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::logs::NoParams;
use crate::error::Problem;
use crate::{ApiError, App, Caller, Path, Query, Verification};

/// Says `rollback_detected` or `damaged` beside what is answered nevertheless.
pub(crate) const LEDGER_STATUS: HeaderName = HeaderName::from_static("deponent-ledger-status");

/// An answer from a ledger that is not written to any more: it says of itself whether it is in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfEndedEpoch;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(head))
        .routes(routes!(leaf))
        .routes(routes!(inclusion))
        .routes(routes!(consistency))
}

/// The head of the tenant's ledger, and how far it is signed and verified.
#[derive(Debug, Serialize, ToSchema)]
struct LedgerHead {
    tenant_id: String,
    /// Leaves in the ledger.
    tree_size: u64,
    /// Root over them, lower-case hex.
    tree_root: String,
    /// Size of the newest signed checkpoint; null before the first.
    checkpoint_size: Option<u64>,
    /// Leaves verified; null while none were.
    verified_size: Option<u64>,
    /// When leaves were last verified as they came, and nothing was wrong with them.
    verified_at: Option<String>,
    /// When the last full scrub ended.
    last_full_scrub_at: Option<String>,
    /// `ok`, `rollback_detected` or `damaged`.
    #[schema(example = "ok")]
    status: &'static str,
    /// What the status means here; absent when ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    status_detail: Option<String>,
    /// The log's origin, first line of its checkpoints.
    origin: String,
    /// 0, then 1 after the first recovery, …
    epoch: u32,
}

/// The status of a ledger as every reader is told it.
pub(crate) fn status_of(
    ledger: &LedgerInfo,
    verification: Option<&Verification>,
) -> (&'static str, Option<String>) {
    let found = verification.and_then(|verification| verification.damaged.clone());
    match (ledger.refusal(), found) {
        (Some(refusal), _) => (word_of(&refusal), Some(refusal.to_string())),
        (None, Some(found)) => ("damaged", Some(found)),
        (None, None) => ("ok", None),
    }
}

fn word_of(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::RolledBack(_) => "rollback_detected",
        Refusal::Damaged(_) => "damaged",
    }
}

/// Says with an answer that the tenant's ledger is refused for writing, if it is: what is read from it must not pass
/// for evidence of a ledger in order, nor be kept. What the handler has said itself, of the epoch that it read, stands.
pub(crate) fn tell_refusal(tenant: &Tenant, response: &mut Response) {
    if response.extensions().get::<OfEndedEpoch>().is_some() {
        return;
    }
    if let Some(refusal) = tenant.refusal() {
        let headers = response.headers_mut();
        let status = HeaderValue::from_static(word_of(&refusal));
        headers.entry(LEDGER_STATUS).or_insert(status);
        if let Some(caching) = headers.get_mut(header::CACHE_CONTROL) {
            *caching = HeaderValue::from_static("no-store");
        }
    }
}

/// The head of the ledger.
#[utoipa::path(get, path = "/api/v1/ledger/head", operation_id = "ledger_head", tag = "ledger",
    responses((status = 200, body = LedgerHead), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn head(
    app: axum::extract::State<App>,
    caller: Caller,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Json<LedgerHead>, ApiError> {
    let ledger = caller.tenant.ledger();
    let verification = app.verification_of(&ledger);
    app.blocking(move |service| {
        let head = service.store().head_read(ledger.row.ledger_no)?;
        let checkpoint = service.store().checkpoint_newest(ledger.row.ledger_no)?;
        let (status, status_detail) = status_of(&ledger, verification.as_ref());
        Ok(Json(LedgerHead {
            tenant_id: caller.tenant.tenant_id.to_string(),
            tree_size: head.size.as_u64(),
            tree_root: head.root.to_hex(),
            checkpoint_size: checkpoint.map(|checkpoint| checkpoint.size.as_u64()),
            verified_size: verification.as_ref().map(|v| v.verified_size),
            verified_at: verification
                .as_ref()
                .and_then(|v| v.verified_at)
                .map(|at| at.to_string()),
            last_full_scrub_at: verification
                .as_ref()
                .and_then(|v| v.last_full_scrub_at)
                .map(|at| at.to_string()),
            status,
            status_detail,
            origin: ledger.row.origin.clone(),
            epoch: ledger.row.epoch,
        }))
    })
    .await
}

/// One leaf: the record header as it is hashed.
#[derive(Debug, Serialize, ToSchema)]
#[allow(clippy::struct_field_names)] // the words of the API
struct Leaf {
    leaf_index: u64,
    /// SHA-256 of 0x00 and the header's bytes, lower-case hex.
    leaf_hash: String,
    record_id: String,
    /// The leaf's bytes.
    #[schema(value_type = Object)]
    header: Box<RawValue>,
}

/// A leaf by its index.
#[utoipa::path(get, path = "/api/v1/ledger/leaves/{index}", operation_id = "ledger_leaf", tag = "ledger",
    params(("index" = u64, Path, description = "0-based")),
    responses((status = 200, body = Leaf),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn leaf(
    app: axum::extract::State<App>,
    caller: Caller,
    Path(index): Path<u64>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Json<Leaf>, ApiError> {
    app.blocking(move |service| {
        let records = service.records(&caller.tenant);
        let ledger_no = caller.tenant.ledger().row.ledger_no;
        if index >= service.store().head_read(ledger_no)?.size.as_u64() {
            return Err(ApiError::not_found());
        }
        let header = records.tree().leaf(index)?;
        let leaf_hash = tlog::leaf_hash(&header).to_hex();
        let record_id = evidence::Header::decode(&header)
            .map_err(|source| ledger::RecordError::Header { leaf: index, source })?
            .id
            .to_string();
        Ok(Json(Leaf {
            leaf_index: index,
            leaf_hash,
            record_id,
            header: raw(header)?,
        }))
    })
    .await
}

/// Stored canonical JSON, to be embedded as it is.
pub(crate) fn raw(bytes: Vec<u8>) -> Result<Box<RawValue>, ApiError> {
    String::from_utf8(bytes)
        .map_err(|error| error.to_string())
        .and_then(|text| RawValue::from_string(text).map_err(|error| error.to_string()))
        .map_err(|error| {
            tracing::error!(%error, "stored evidence is no JSON");
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "damaged",
                "stored evidence is no JSON",
            )
        })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct InclusionQuery {
    /// The leaf to prove.
    leaf_index: u64,
    /// The tree to prove it in; absent: the head.
    tree_size: Option<u64>,
}

/// Proof that a leaf is in the tree.
#[derive(Debug, Serialize, ToSchema)]
struct InclusionProof {
    leaf_index: u64,
    tree_size: u64,
    /// Lower-case hex.
    leaf_hash: String,
    /// Root of the tree of that size, lower-case hex.
    root_hash: String,
    /// Base64, from the leaf's sibling upward.
    hashes: Vec<String>,
}

/// Proves that a leaf is in the tree of a size.
#[utoipa::path(get, path = "/api/v1/ledger/proofs/inclusion", operation_id = "ledger_inclusion", tag = "ledger",
    params(InclusionQuery), responses((status = 200, body = InclusionProof),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn inclusion(
    app: axum::extract::State<App>,
    caller: Caller,
    Query(query): Query<InclusionQuery>,
) -> Result<Json<InclusionProof>, ApiError> {
    app.blocking(move |service| {
        let ledger_no = caller.tenant.ledger().row.ledger_no;
        let head = service.store().head_read(ledger_no)?.size;
        let size = size_within("tree_size", query.tree_size, head)?;
        let index = LeafIndex::new(query.leaf_index);
        if !index.is_in(head) {
            return Err(ApiError::not_found());
        }
        if !index.is_in(size) {
            return Err(bad_size(
                "leaf_index",
                &format!("a tree of {size} leaves has no leaf {index}"),
            ));
        }
        let tree = StoredTree::new(service.store(), ledger_no);
        Ok(Json(InclusionProof {
            leaf_index: query.leaf_index,
            tree_size: size.as_u64(),
            leaf_hash: tlog::leaf_hash(&tree.leaf(query.leaf_index)?).to_hex(),
            root_hash: tree.root(size, head)?.to_hex(),
            hashes: tree.inclusion(index, size)?.iter().map(Hash::to_base64).collect(),
        }))
    })
    .await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ConsistencyQuery {
    /// The older size.
    first: u64,
    /// The newer size; absent: the head.
    second: Option<u64>,
}

/// Proof that the older tree is a prefix of the newer.
#[derive(Debug, Serialize, ToSchema)]
struct ConsistencyProof {
    first: u64,
    second: u64,
    /// Lower-case hex.
    first_root: String,
    /// Lower-case hex.
    second_root: String,
    /// Base64.
    hashes: Vec<String>,
}

/// Proves that the ledger of one size is a prefix of the ledger of another.
#[utoipa::path(get, path = "/api/v1/ledger/proofs/consistency", operation_id = "ledger_consistency", tag = "ledger",
    params(ConsistencyQuery), responses((status = 200, body = ConsistencyProof),
        (status = 400, body = Problem, content_type = "application/problem+json")))]
async fn consistency(
    app: axum::extract::State<App>,
    caller: Caller,
    Query(query): Query<ConsistencyQuery>,
) -> Result<Json<ConsistencyProof>, ApiError> {
    app.blocking(move |service| {
        let ledger_no = caller.tenant.ledger().row.ledger_no;
        let head = service.store().head_read(ledger_no)?.size;
        let second = size_within("second", query.second, head)?;
        let first = size_within("first", Some(query.first), head)?;
        if first > second {
            return Err(bad_size(
                "first",
                &format!("must be at most second, which is {second}"),
            ));
        }
        let tree = StoredTree::new(service.store(), ledger_no);
        Ok(Json(ConsistencyProof {
            first: first.as_u64(),
            second: second.as_u64(),
            first_root: tree.root(first, head)?.to_hex(),
            second_root: tree.root(second, head)?.to_hex(),
            hashes: tree
                .consistency(first, second)?
                .iter()
                .map(Hash::to_base64)
                .collect(),
        }))
    })
    .await
}

fn size_within(name: &str, given: Option<u64>, head: TreeSize) -> Result<TreeSize, ApiError> {
    let size = given.map_or(head, TreeSize::new);
    if size > head {
        Err(bad_size(name, &format!("the ledger has {head} leaves")))
    } else {
        Ok(size)
    }
}

fn bad_size(name: &str, message: &str) -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "bad_parameter",
        format!("query: {name}: {message}"),
    )
}
