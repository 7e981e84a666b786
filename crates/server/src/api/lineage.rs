//! Lineage: which rows of which files a figure was made from, posted by pipelines that write no audit log.
//!
//! The bodies are those of the log's lines; a line may be posted as it is. Of a run, the same again is the first
//! record, unless it says how many equal lines stand before it in its log.
//!
//! Source: SPEC 9.2.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::record::{LineageRecord, lineage_type};
use evidence::{Kind, Timestamp, canonical};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReceiptOut, WriteProblems, created};
use super::records::{ReceiptView, RedactionsView};
use crate::{ApiError, App, Caller, JsonBody, Received};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(evidence))
        .routes(routes!(deterministic))
        .routes(routes!(ai_output))
        .routes(routes!(ai_metrics))
}

/// Rows of a file were read.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LineageEvidence)]
struct EvidenceIn {
    /// The run it belongs to; it must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
    /// `evidence`, as in a line of a log.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    line_type: Option<String>,
    /// How many equal lines stand before this one in its log: 0 when absent. Another number, another record.
    #[serde(rename = "deponent.copy", skip_serializing_if = "Option::is_none")]
    copies: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    ts: Option<String>,
    /// `ev-` and 32 hex digits; made when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// `csv`, `json`, `jsonl`, `parquet`.
    evidence_type: String,
    /// Where the file is.
    uri: Option<String>,
    /// Which of its rows.
    input_row_ids: Option<Vec<String>>,
    /// The columns that make an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_columns: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    timestamp: Option<String>,
    /// SHA-256 of the file when it was read, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

/// A function ran.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LineageDeterministic)]
struct DeterministicIn {
    /// The run it belongs to; it must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
    /// `deterministic`, as in a line of a log.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    line_type: Option<String>,
    /// How many equal lines stand before this one in its log: 0 when absent. Another number, another record.
    #[serde(rename = "deponent.copy", skip_serializing_if = "Option::is_none")]
    copies: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    ts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Which; `function_name` is the same.
    #[serde(rename = "fn", skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_name: Option<String>,
    /// What it read.
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence_id: Option<String>,
    /// SHA-256 of the artifact's bytes, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    output_hash: Option<String>,
    /// What it was asked for: period, entity.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    params: Option<serde_json::Map<String, serde_json::Value>>,
    /// What it wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row_ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code_hash: Option<String>,
}

/// What a model wrote, or took: `kind`, `artifact`, `tokens`, `cost_usd` and any other field.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = LineageAi)]
struct AiIn {
    /// The run it belongs to; it must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
    /// `ai_output` or `ai_metrics`, as in a line of a log.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    line_type: Option<String>,
    /// How many equal lines stand before this one in its log: 0 when absent. Another number, another record.
    #[serde(rename = "deponent.copy", skip_serializing_if = "Option::is_none")]
    copies: Option<u32>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    fields: serde_json::Map<String, serde_json::Value>,
}

/// A line is on record.
#[derive(Serialize, ToSchema)]
struct LineageOut {
    /// Of evidence, its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    /// What was redacted: where the count is not 0, ids may not be found in files any more.
    redactions: RedactionsView,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
}

/// What was sent, apart from its fields.
struct Sent {
    run_id: Option<String>,
    line_type: Option<String>,
    copies: Option<u32>,
}

/// A body: the fields of a line, which it is serialized to, and what is said about them.
trait LineIn: Serialize + Send + 'static {
    /// What stands beside the fields, taken out of them: it is no part of the line.
    fn sent(&mut self) -> Sent;

    /// The fields that must be times.
    fn times(&self) -> [(&'static str, &Option<String>); 2] {
        [("ts", &None), ("timestamp", &None)]
    }
}

impl LineIn for EvidenceIn {
    fn sent(&mut self) -> Sent {
        Sent {
            run_id: self.run_id.take(),
            line_type: self.line_type.take(),
            copies: self.copies.take(),
        }
    }

    fn times(&self) -> [(&'static str, &Option<String>); 2] {
        [("ts", &self.ts), ("timestamp", &self.timestamp)]
    }
}

impl LineIn for DeterministicIn {
    fn sent(&mut self) -> Sent {
        Sent {
            run_id: self.run_id.take(),
            line_type: self.line_type.take(),
            copies: self.copies.take(),
        }
    }

    fn times(&self) -> [(&'static str, &Option<String>); 2] {
        [("ts", &self.ts), ("timestamp", &self.timestamp)]
    }
}

impl LineIn for AiIn {
    fn sent(&mut self) -> Sent {
        Sent {
            run_id: self.run_id.take(),
            line_type: self.line_type.take(),
            copies: self.copies.take(),
        }
    }
}

async fn write(
    app: App,
    caller: Caller,
    at: Timestamp,
    kind: Kind,
    mut fields: impl LineIn,
) -> Result<Response, ApiError> {
    // Times are kept as they were written, so that a line is the same however it came; they must be times.
    for (field, text) in fields.times() {
        if let Some(Err(error)) = text.as_deref().map(Timestamp::parse) {
            return Err(ApiError::invalid(field, error.to_string()));
        }
    }
    let Sent {
        run_id,
        line_type,
        copies,
    } = fields.sent();
    let named = lineage_type(kind).unwrap_or_default();
    if line_type.is_some_and(|line_type| line_type != named) {
        return Err(ApiError::invalid("type", format!("must be {named}")));
    }
    let (placed, out) = app
        .blocking(move |ledger| {
            let text = serde_json::to_vec(&fields).map_err(|error| ApiError::internal(&error))?;
            let fields = canonical::parse(&text, canonical::Limits::default())
                .map_err(|error| ApiError::invalid("body", error.to_string()))?;
            let record = LineageRecord::new(kind, fields)?;
            let tenant = Arc::clone(&caller.tenant);
            let written =
                ledger.lineage_write(&tenant, &record, run_id.as_deref(), copies.unwrap_or(0), at)?;
            let redactions = canonical::to_vec(&written.redactions);
            let id = record.fields().get("id").and_then(canonical::Value::as_str);
            Ok((
                written.placed,
                LineageOut {
                    id: id.filter(|_| kind == Kind::LineageEvidence).map(str::to_owned),
                    receipt: ReceiptOut(written.placed.receipt),
                    redactions: serde_json::from_slice(&redactions).unwrap_or_default(),
                    run_id,
                },
            ))
        })
        .await?;
    created(&placed, &out)
}

/// Records which rows of a file were read.
#[utoipa::path(
    post, path = "/api/v1/lineage/evidence", tag = "lineage", operation_id = "lineage_evidence",
    request_body = EvidenceIn,
    responses((status = 201, description = "It is in the ledger", body = LineageOut),
        (status = 200, description = "It was, of the same run; the first receipt", body = LineageOut), WriteProblems),
)]
async fn evidence(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<EvidenceIn>,
) -> Result<Response, ApiError> {
    let mut fields = body.value;
    // A caller that names no id asks for one; that of the content makes a repeat the same line.
    if fields.id.is_none() {
        let digest = evidence::hex_string(&body.content);
        fields.id = Some(format!("ev-{}", digest.get(..32).unwrap_or_default()));
    }
    write(app, caller, at, Kind::LineageEvidence, fields).await
}

/// Records that a function ran, what it read and what it wrote.
#[utoipa::path(
    post, path = "/api/v1/lineage/deterministic", tag = "lineage", operation_id = "lineage_deterministic",
    request_body = DeterministicIn,
    responses((status = 201, description = "It is in the ledger", body = LineageOut),
        (status = 200, description = "It was, of the same run; the first receipt", body = LineageOut), WriteProblems),
)]
async fn deterministic(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<DeterministicIn>,
) -> Result<Response, ApiError> {
    write(app, caller, at, Kind::LineageDeterministic, body.value).await
}

/// Records what a model wrote.
#[utoipa::path(
    post, path = "/api/v1/lineage/ai-output", tag = "lineage", operation_id = "lineage_ai_output",
    request_body = AiIn,
    responses((status = 201, description = "It is in the ledger", body = LineageOut),
        (status = 200, description = "It was, of the same run; the first receipt", body = LineageOut), WriteProblems),
)]
async fn ai_output(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<AiIn>,
) -> Result<Response, ApiError> {
    write(app, caller, at, Kind::LineageAiOutput, body.value).await
}

/// Records what a model took.
#[utoipa::path(
    post, path = "/api/v1/lineage/ai-metrics", tag = "lineage", operation_id = "lineage_ai_metrics",
    request_body = AiIn,
    responses((status = 201, description = "It is in the ledger", body = LineageOut),
        (status = 200, description = "It was, of the same run; the first receipt", body = LineageOut), WriteProblems),
)]
async fn ai_metrics(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<AiIn>,
) -> Result<Response, ApiError> {
    write(app, caller, at, Kind::LineageAiMetrics, body.value).await
}
