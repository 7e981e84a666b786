//! Provenance logs: what went into a model and what came out.
//!
//! Source: SPEC 9.1.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evidence::record::{
    COMMIT_UNKNOWN, PROVENANCE_STATUSES, PROVENANCE_VERSION_DEFAULT, ProvenanceLog, ProvenanceView,
};
use evidence::{GivenTime, TimesGiven, Timestamp, canonical};
use ledger::Tenant;
use ledger::provenance::{DRIFT_BYTES_MAX, PROVENANCE_PAGE_MAX, ProvenanceQuery};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{Gone, LeafKey};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, WriteProblems, json};
use super::fields;
use super::records::{ReceiptView, RedactionsView, epoch_of};
use super::run_list::as_of;
use super::run_steps::damaged;
use crate::extract::{filter_time, limit};
use crate::{ApiError, App, Caller, JsonBody, Query, Received, cursor};

/// Logs of a page unless asked otherwise.
const LIMIT_DEFAULT: u32 = 100;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(log, list))
        .routes(routes!(drift))
}

/// What went in and what came out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProvenanceLog)]
struct LogIn {
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    input: Box<RawValue>,
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    output: Box<RawValue>,
    /// The time of receipt when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    timestamp: Option<GivenTime>,
    /// 0 when absent.
    runtime_ms: Option<i64>,
    /// `success` (default), `error`, `timeout`, `schema_error`.
    status: Option<String>,
    /// `2.0.0` when absent.
    model_version: Option<String>,
    /// `2.0.0` when absent.
    adapter_version: Option<String>,
    /// `unknown` when absent.
    commit_sha: Option<String>,
    /// The run it belongs to; it must be there, and not be sealed.
    run_id: Option<String>,
}

/// A log is on record.
#[derive(Serialize, ToSchema)]
struct LogOut {
    id: String,
    /// SHA-256 of the canonical input as stored.
    input_hash: String,
    output_hash: String,
    /// The first 16 digits of input_hash.
    plan_hash: String,
    receipt: ReceiptView,
    /// What was redacted in the payloads: where the count is not 0, a hash of what was sent is another.
    redactions: RedactionsView,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// Records what went into a model and what came out.
#[utoipa::path(
    post, path = "/api/v1/provenance", tag = "provenance", operation_id = "provenance_log", request_body = LogIn,
    responses((status = 201, description = "The log is in the ledger", body = LogOut), WriteProblems),
)]
async fn log(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<LogIn>,
) -> Result<Response, ApiError> {
    let out = app
        .blocking(move |ledger| {
            let sent = body.value;
            let or = |given: Option<String>, default: &str| given.unwrap_or_else(|| default.to_owned());
            let log = ProvenanceLog {
                id: None,
                input: fields::value("input", &sent.input)?,
                output: fields::value("output", &sent.output)?,
                runtime_ms: sent.runtime_ms.unwrap_or(0),
                status: or(sent.status, PROVENANCE_STATUSES[0]),
                model_version: or(sent.model_version, PROVENANCE_VERSION_DEFAULT),
                adapter_version: or(sent.adapter_version, PROVENANCE_VERSION_DEFAULT),
                commit_sha: or(sent.commit_sha, COMMIT_UNKNOWN),
                times_given: TimesGiven::of([("timestamp", sent.timestamp.as_ref())]),
            };
            let timestamp = sent.timestamp.map_or(at, |given| given.time);
            let tenant = Arc::clone(&caller.tenant);
            let written = ledger.provenance_log(&tenant, log, sent.run_id.as_deref(), timestamp, at)?;
            let redactions = canonical::to_vec(&written.redactions);
            let (input_hash, output_hash) = written.hashes;
            Ok(LogOut {
                id: written.receipt.record_id.to_string(),
                plan_hash: input_hash.get(..16).unwrap_or_default().to_owned(),
                input_hash,
                output_hash,
                receipt: written.receipt.into(),
                redactions: serde_json::from_slice(&redactions).unwrap_or_default(),
                timestamp,
            })
        })
        .await?;
    let text = serde_json::to_vec(&out).map_err(|error| ApiError::internal(&error))?;
    Ok(json(StatusCode::CREATED, text))
}

/// Which logs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogsQuery {
    /// At this time or later.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Timestamp>,
    /// At this time or before.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Timestamp>,
    /// With this input.
    input_hash: Option<String>,
    /// `success`, `error`, `timeout`, `schema_error`.
    status: Option<String>,
    /// Of this run.
    run_id: Option<String>,
    /// By this model.
    model_version: Option<String>,
    /// Most logs of the page, 1 to 500 (100).
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only logs that were in the ledger at this tree size.
    as_of: Option<u64>,
}

/// Over which logs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DriftQuery {
    /// At this time or later.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Timestamp>,
    /// At this time or before.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Timestamp>,
    /// With this input.
    input_hash: Option<String>,
    /// `success`, `error`, `timeout`, `schema_error`.
    status: Option<String>,
    /// Of this run.
    run_id: Option<String>,
    /// By this model.
    model_version: Option<String>,
    /// The tree size to read at.
    #[param(minimum = 0)]
    as_of: Option<u64>,
}

impl From<DriftQuery> for LogsQuery {
    fn from(of: DriftQuery) -> Self {
        Self {
            start: of.start,
            end: of.end,
            input_hash: of.input_hash,
            status: of.status,
            run_id: of.run_id,
            model_version: of.model_version,
            limit: None,
            cursor: None,
            as_of: of.as_of,
        }
    }
}

impl LogsQuery {
    fn query(&self, limit: u32) -> Result<ProvenanceQuery, ApiError> {
        if let Some(status) = &self.status
            && !PROVENANCE_STATUSES.contains(&status.as_str())
        {
            let message = format!("query: status: must be one of {}", PROVENANCE_STATUSES.join(", "));
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", message));
        }
        Ok(ProvenanceQuery {
            start: self.start,
            end: self.end,
            input_hash: self.input_hash.clone(),
            status: self.status.clone(),
            run_id: self.run_id.clone(),
            model_version: self.model_version.clone(),
            limit,
            below: None,
            as_of: None,
        })
    }
}

/// A log, with its payloads as JSON text.
#[derive(Serialize, ToSchema)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct LogView {
    id: String,
    timestamp: String,
    input_hash: Option<String>,
    output_hash: Option<String>,
    /// Canonical JSON text; null when erased, archived or damaged.
    input_json: Option<String>,
    output_json: Option<String>,
    /// False: here payloads are text.
    compressed: bool,
    model_version: Option<String>,
    adapter_version: Option<String>,
    commit_sha: Option<String>,
    runtime_ms: Option<i64>,
    status: Option<String>,
    tenant_id: String,
    run_id: Option<String>,
    /// The first 16 digits of input_hash.
    plan_hash: Option<String>,
    record_id: String,
    /// Which of the tenant's ledgers the leaf is of: 0, and one more after each recovery.
    epoch: u32,
    leaf_index: u64,
    /// Present and true when the body was erased: what it said is null.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    erased: bool,
    /// Present and true when the body was archived: what it said is null here, and in the archive.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    archived: bool,
    /// Present and true when the body that was recorded is not to be had, and no record says why: what it said is null.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    damaged: bool,
}

impl LogView {
    fn of(tenant: &Tenant, record: &ledger::Record) -> Result<Self, ApiError> {
        let header = record.header()?;
        let leaf_index = record.leaf.leaf_index();
        let log = match record.body.bytes() {
            None => None,
            Some(body) => Some(ProvenanceView::read(body).map_err(|error| damaged(leaf_index, &error))?),
        };
        let record_id = header.id.to_string();
        let log = log.as_ref();
        Ok(Self {
            id: log
                .and_then(|log| log.id.clone())
                .unwrap_or_else(|| record_id.clone()),
            timestamp: header.occurred_at.to_string(),
            input_hash: log.map(|log| log.input_hash.to_owned()),
            output_hash: log.map(|log| log.output_hash.to_owned()),
            input_json: log.map(|log| log.input.get().to_owned()),
            output_json: log.map(|log| log.output.get().to_owned()),
            compressed: false,
            model_version: log.map(|log| log.model_version.clone()),
            adapter_version: log.map(|log| log.adapter_version.clone()),
            commit_sha: log.map(|log| log.commit_sha.clone()),
            runtime_ms: log.map(|log| log.runtime_ms),
            status: log.map(|log| log.status.clone()),
            tenant_id: header.tenant_id.to_string(),
            run_id: header.run.as_ref().map(|run| run.run_id.to_string()),
            plan_hash: log.map(|log| log.plan_hash().to_owned()),
            record_id,
            epoch: epoch_of(tenant, record.leaf),
            leaf_index,
            erased: record.body.gone() == Some(Gone::Erased),
            archived: record.body.gone() == Some(Gone::Archived),
            damaged: record.is_damaged(),
        })
    }
}

/// A page of logs.
#[derive(Serialize, ToSchema)]
struct LogsPage {
    items: Vec<LogView>,
    has_more: bool,
    next_cursor: Option<String>,
    /// Tree size that the list was read at.
    as_of: u64,
}

/// Lists provenance logs, newest recorded first.
///
/// A page may be shorter than its limit, even empty, while `has_more` is true: follow `next_cursor`.
#[utoipa::path(
    get, path = "/api/v1/provenance", tag = "provenance", operation_id = "provenance_list", params(LogsQuery),
    responses((status = 200, body = LogsPage), ReadProblems),
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<LogsQuery>,
) -> Result<Response, ApiError> {
    let limit = limit(asked.limit, LIMIT_DEFAULT, PROVENANCE_PAGE_MAX)?;
    let text = app
        .reading(caller.tenant.tenant_no, move |ledger| {
            let tenant = Arc::clone(&caller.tenant);
            let ledger_no = tenant.ledger().row.ledger_no;
            let mut query = asked.query(limit)?;
            let scope = (
                "provenance",
                &*tenant.tenant_id,
                (asked.start, asked.end, &asked.input_hash),
                (&asked.status, &asked.run_id, &asked.model_version),
            );
            let size = match &asked.cursor {
                None => as_of(ledger, &tenant, asked.as_of)?,
                Some(text) => {
                    let (size, (no, leaf)) = cursor::decode::<(u32, u64)>(&scope, ledger_no, text)?;
                    query.below = Some(LeafKey::new(no, leaf));
                    size
                }
            };
            query.as_of = Some(LeafKey::new(ledger_no, size));
            let page = ledger.provenance_find(&tenant, &query)?;
            let next_cursor = page
                .next
                .map(|leaf| cursor::encode(&scope, (ledger_no, size), &(leaf.ledger_no(), leaf.leaf_index())))
                .transpose()?;
            caller.answered(page.records.len());
            let out = LogsPage {
                items: page
                    .records
                    .iter()
                    .map(|record| LogView::of(&tenant, record))
                    .collect::<Result<_, _>>()?,
                has_more: next_cursor.is_some(),
                next_cursor,
                as_of: size,
            };
            serde_json::to_vec(&out).map_err(|error| ApiError::internal(&error))
        })
        .await?;
    Ok(json(StatusCode::OK, text))
}

/// An output of an input that has had several.
#[derive(Serialize, ToSchema)]
struct DriftOut {
    output_hash: String,
    model_version: String,
    adapter_version: String,
    count: u64,
    first_at: String,
    last_at: String,
}

/// An input whose output changed.
#[derive(Serialize, ToSchema)]
struct DriftInput {
    input_hash: String,
    /// The first one first.
    outputs: Vec<DriftOut>,
}

/// What drifted.
#[derive(Serialize, ToSchema)]
struct DriftReport {
    items: Vec<DriftInput>,
    /// Logs that were looked at.
    logs: usize,
    /// Logs that could not be looked at, because they are erased.
    erased: usize,
    /// Because they are archived.
    archived: usize,
    /// Because they are gone, and no record says why; verification finds them.
    missing: usize,
    /// False when some could not be looked at, or when there were more: the newest 100,000 were looked at, or the
    /// newest 256 MiB of them. Ask by input_hash or model_version.
    complete: bool,
    /// Tree size that was read at.
    as_of: u64,
}

/// Inputs whose outputs changed, by version.
#[utoipa::path(
    get, path = "/api/v1/provenance/drift", tag = "provenance", operation_id = "provenance_drift",
    params(DriftQuery), responses((status = 200, body = DriftReport), ReadProblems),
)]
async fn drift(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<DriftQuery>,
) -> Result<Response, ApiError> {
    let asked = LogsQuery::from(asked);
    let text = app
        .reading(caller.tenant.tenant_no, move |ledger| {
            let size = as_of(ledger, &caller.tenant, asked.as_of)?;
            let mut query = asked.query(PROVENANCE_PAGE_MAX)?;
            query.as_of = Some(LeafKey::new(caller.tenant.ledger().row.ledger_no, size));
            let drift = ledger.provenance_drift(&caller.tenant, &query, DRIFT_BYTES_MAX)?;
            caller.answered(drift.logs);
            let output = |output: ledger::provenance::DriftOutput| DriftOut {
                output_hash: output.output_hash,
                model_version: output.model_version,
                adapter_version: output.adapter_version,
                count: output.count,
                first_at: output.between.0.to_string(),
                last_at: output.between.1.to_string(),
            };
            let report = DriftReport {
                items: drift
                    .inputs
                    .into_iter()
                    .map(|(input_hash, outputs)| DriftInput {
                        input_hash,
                        outputs: outputs.into_iter().map(output).collect(),
                    })
                    .collect(),
                logs: drift.logs,
                erased: drift.erased,
                archived: drift.archived,
                missing: drift.missing,
                complete: drift.complete,
                as_of: size,
            };
            serde_json::to_vec(&report).map_err(|error| ApiError::internal(&error))
        })
        .await?;
    Ok(json(StatusCode::OK, text))
}
