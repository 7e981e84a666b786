//! Lineage: which rows of which files a figure was made from, posted by pipelines that write no audit log; and the log of a
//! run, read back (`log`).
//!
//! The bodies are those of the log's lines. One with a `type` is a line as it was written, and is taken as an import
//! takes it: other fields are kept. One without is a request, whose unknown fields are refused. Of a run, the same again is the first
//! record, unless it says how many equal lines stand before it in its log.
//!
//! Source: SPEC 9.2.

mod log;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::canonical::{self, Value};
use evidence::record::{LINEAGE_COPY, LINEAGE_RUN, LineageRecord, lineage_type};
use evidence::redact::Redactor;
use evidence::{Kind, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReceiptOut, WriteProblems, created};
use super::records::{ReceiptView, RedactionsView};
use crate::{ApiError, App, Caller, ExactJsonBody, Received};

pub(crate) use log::STREAMS_MAX as LOGS_MAX;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(evidence))
        .routes(routes!(deterministic))
        .routes(routes!(ai_output))
        .routes(routes!(ai_metrics))
        .routes(routes!(log::get))
}

/// Rows of a file were read.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code)] // the form of a request, and its document: what is kept is the request itself
#[schema(as = LineageEvidence)]
struct EvidenceIn {
    /// The run it belongs to; it must be there.
    run_id: Option<String>,
    /// `evidence`: the body is a line of a log as it was written. Then its other fields are kept, and none but those
    /// that other programs decide by must be of these types; without it a field that is not named here is refused.
    #[serde(rename = "type")]
    line_type: Option<String>,
    /// How many equal lines stand before this one in its log: 0 when absent. Another number, another record.
    #[serde(rename = "deponent.copy")]
    copies: Option<u32>,
    /// The run it belongs to, of a line that has a `run_id` of its own, which it keeps.
    #[serde(rename = "deponent.run")]
    run: Option<String>,
    #[schema(format = DateTime)]
    ts: Option<String>,
    /// `ev-` and 32 hex digits; made when absent.
    id: Option<String>,
    /// `csv`, `json`, `jsonl`, `parquet`.
    evidence_type: String,
    /// Where the file is.
    uri: Option<String>,
    /// Which of its rows.
    input_row_ids: Option<Vec<String>>,
    /// The columns that make an id.
    key_columns: Option<Vec<String>>,
    #[schema(format = DateTime)]
    timestamp: Option<String>,
    /// SHA-256 of the file when it was read, 64 hex digits.
    hash: Option<String>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    other: serde_json::Map<String, serde_json::Value>,
}

/// A function ran.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code)] // the form of a request, and its document: what is kept is the request itself
#[schema(as = LineageDeterministic)]
struct DeterministicIn {
    /// The run it belongs to; it must be there.
    run_id: Option<String>,
    /// `deterministic`: the body is a line of a log as it was written. Then its other fields are kept, and none but those
    /// that other programs decide by must be of these types; without it a field that is not named here is refused.
    #[serde(rename = "type")]
    line_type: Option<String>,
    /// How many equal lines stand before this one in its log: 0 when absent. Another number, another record.
    #[serde(rename = "deponent.copy")]
    copies: Option<u32>,
    /// The run it belongs to, of a line that has a `run_id` of its own, which it keeps.
    #[serde(rename = "deponent.run")]
    run: Option<String>,
    #[schema(format = DateTime)]
    ts: Option<String>,
    id: Option<String>,
    /// Which; `function_name` is the same.
    #[serde(rename = "fn")]
    function: Option<String>,
    function_name: Option<String>,
    /// What it read.
    evidence_id: Option<String>,
    /// SHA-256 of the artifact's bytes, 64 hex digits.
    output_hash: Option<String>,
    /// What it was asked for: period, entity.
    #[schema(value_type = Option<Object>)]
    params: Option<serde_json::Map<String, serde_json::Value>>,
    /// What it wrote.
    artifact: Option<String>,
    row_ids: Option<Vec<String>>,
    #[schema(format = DateTime)]
    timestamp: Option<String>,
    code_hash: Option<String>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    other: serde_json::Map<String, serde_json::Value>,
}

/// What a model wrote, or took: `kind`, `artifact`, `tokens`, `cost_usd` and any other field.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code)] // the form of a request, and its document: what is kept is the request itself
#[schema(as = LineageAi)]
struct AiIn {
    /// The run it belongs to; it must be there.
    run_id: Option<String>,
    /// `ai_output` or `ai_metrics`, as in a line of a log.
    #[serde(rename = "type")]
    line_type: Option<String>,
    /// How many equal lines stand before this one in its log: 0 when absent. Another number, another record.
    #[serde(rename = "deponent.copy")]
    copies: Option<u32>,
    /// The run it belongs to, of a line that has a `run_id` of its own, which it keeps.
    #[serde(rename = "deponent.run")]
    run: Option<String>,
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
    copies: Option<u32>,
}

/// A request that is no line: the fields of one, and what is said about them.
trait LineIn: DeserializeOwned {
    /// The fields that must be times.
    fn times(&self) -> [(&'static str, &Option<String>); 2] {
        [("ts", &None), ("timestamp", &None)]
    }

    /// A field that a request may not have.
    fn unknown(&self) -> Option<&str> {
        None
    }

    /// Makes the fields of a request those of a line: an optional field that is null is absent.
    fn complete(_fields: &mut Value) {}
}

impl LineIn for EvidenceIn {
    fn times(&self) -> [(&'static str, &Option<String>); 2] {
        [("ts", &self.ts), ("timestamp", &self.timestamp)]
    }

    fn unknown(&self) -> Option<&str> {
        self.other.keys().next().map(String::as_str)
    }

    fn complete(fields: &mut Value) {
        without_nulls(fields);
        // A line of evidence says of both that it names none.
        for name in ["input_row_ids", "uri"] {
            if fields.get(name).is_none() {
                fields.insert(name, Value::Null);
            }
        }
    }
}

impl LineIn for DeterministicIn {
    fn times(&self) -> [(&'static str, &Option<String>); 2] {
        [("ts", &self.ts), ("timestamp", &self.timestamp)]
    }

    fn unknown(&self) -> Option<&str> {
        self.other.keys().next().map(String::as_str)
    }

    fn complete(fields: &mut Value) {
        without_nulls(fields);
    }
}

/// What a model wrote or took has any fields, nulls too.
impl LineIn for AiIn {}

fn without_nulls(fields: &mut Value) {
    if let Value::Object(members) = fields {
        members.retain(|(_, value)| *value != Value::Null);
    }
}

fn invalid(error: &impl ToString) -> ApiError {
    ApiError::invalid("body", error.to_string())
}

/// A body of canonical JSON as the fields of a line, and what is said about them.
fn fields_of<T: LineIn>(kind: Kind, text: &str, rules: &Redactor) -> Result<(Value, Sent), ApiError> {
    let mut fields =
        canonical::parse(text.as_bytes(), canonical::Limits::default()).map_err(|error| invalid(&error))?;
    let is_line = fields.get("type").is_some_and(|named| *named != Value::Null);
    if !is_line {
        check::<T>(text)?;
        T::complete(&mut fields);
    }
    let Value::Object(members) = &mut fields else {
        return Err(ApiError::invalid("body", "must be an object"));
    };
    let sent = said_about(kind, members)?;
    // A caller that names no id asks for one; that of the content makes a repeat the same line.
    if !is_line && kind == Kind::LineageEvidence && fields.get("id").is_none() {
        let text = canonical::to_vec(&fields);
        let redacted = rules.body(kind, &text).map_err(|error| invalid(&error))?;
        let digest = canonical::sha256_hex(redacted.as_deref().unwrap_or(&text));
        fields.insert("id", format!("ev-{}", digest.get(..32).unwrap_or_default()));
    }
    Ok((fields, sent))
}

/// Holds a request against the form of its kind, so that a misspelt field is told by its name.
fn check<T: LineIn>(text: &str) -> Result<(), ApiError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let request: T = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner().to_string();
        let cause = cause.split(" at line ").next().unwrap_or_default().to_owned();
        ApiError::invalid(if path == "." { "body" } else { &path }, cause)
    })?;
    if let Some(field) = request.unknown() {
        return Err(ApiError::invalid(field, "is unknown"));
    }
    // Times are kept as they were written, so that a line is the same however it came; they must be times.
    for (field, text) in request.times() {
        if let Some(Err(error)) = text.as_deref().map(Timestamp::parse) {
            return Err(ApiError::invalid(field, error.to_string()));
        }
    }
    Ok(())
}

/// Takes what is said about a line out of it. Its own `run_id` stays where the run is named otherwise.
fn said_about(kind: Kind, members: &mut Vec<(String, Value)>) -> Result<Sent, ApiError> {
    let mut take = |name: &str| {
        let place = members.iter().position(|(member, _)| member == name)?;
        Some(members.remove(place).1).filter(|value| *value != Value::Null)
    };
    let named = lineage_type(kind).unwrap_or_default();
    if take("type").is_some_and(|said| said.as_str() != Some(named)) {
        return Err(ApiError::invalid("type", format!("must be {named}")));
    }
    let copies = match take(LINEAGE_COPY) {
        None => None,
        Some(Value::Int(copies)) => Some(
            u32::try_from(copies).map_err(|_| ApiError::invalid(LINEAGE_COPY, "must be a 32-bit number"))?,
        ),
        Some(_) => return Err(ApiError::invalid(LINEAGE_COPY, "must be a number")),
    };
    let (field, run_id) = match take(LINEAGE_RUN) {
        Some(run_id) => (LINEAGE_RUN, Some(run_id)),
        None => ("run_id", take("run_id")),
    };
    let run_id = match run_id {
        None => None,
        Some(Value::String(run_id)) => Some(run_id),
        Some(_) => return Err(ApiError::invalid(field, "must be a text")),
    };
    Ok(Sent { run_id, copies })
}

async fn write<T: LineIn>(
    app: App,
    caller: Caller,
    at: Timestamp,
    kind: Kind,
    // Not redacted: the rules for lines are others than those for requests, and the ledger has them.
    ExactJsonBody(body): ExactJsonBody<Box<RawValue>>,
) -> Result<Response, ApiError> {
    let (placed, out) = app
        .blocking(move |ledger| {
            let tenant = Arc::clone(&caller.tenant);
            let (fields, Sent { run_id, copies }) = fields_of::<T>(kind, body.value.get(), &tenant.rules())?;
            let record = LineageRecord::new(kind, fields)?;
            let written =
                ledger.lineage_write(&tenant, &record, run_id.as_deref(), copies.unwrap_or(0), at)?;
            let redactions = canonical::to_vec(&written.redactions);
            let id = record.fields().get("id").and_then(Value::as_str);
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
    body: ExactJsonBody<Box<RawValue>>,
) -> Result<Response, ApiError> {
    write::<EvidenceIn>(app, caller, at, Kind::LineageEvidence, body).await
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
    body: ExactJsonBody<Box<RawValue>>,
) -> Result<Response, ApiError> {
    write::<DeterministicIn>(app, caller, at, Kind::LineageDeterministic, body).await
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
    body: ExactJsonBody<Box<RawValue>>,
) -> Result<Response, ApiError> {
    write::<AiIn>(app, caller, at, Kind::LineageAiOutput, body).await
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
    body: ExactJsonBody<Box<RawValue>>,
) -> Result<Response, ApiError> {
    write::<AiIn>(app, caller, at, Kind::LineageAiMetrics, body).await
}
