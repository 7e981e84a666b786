//! OTLP over HTTP: the three export endpoints.
//!
//! The answer follows the durable commit and is in the request's own encoding,
//! errors included (`google.rpc.Status`). 503 is what exporters send again.
//!
//! In scope: the way of one request, shared with gRPC ([`crate::grpc`]). Out of
//! scope: what a request means ([`crate::otlp`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use evidence::record::{CaptureFailure, EvidenceClass, Facts};
use evidence::{Kind, SourceDomain, Timestamp};
use ledger::{Bind, Draft, Ledger, Tenant};
use prost::Message;
use serde_json::json;
use tokio::time::{Instant, sleep};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::{self, Held};
use crate::extract::media_type;
use crate::otlp::limits::{BODIES_BYTES_MAX, REASONS_MAX};
use crate::otlp::{
    DecodeError, Encoding, ExportAnswer, LogsRequest, Lowered, MetricsRequest, RefusedOfTrace, RefusedSpans,
    Rejections, Signal, TraceRequest, lower_logs, lower_metrics, lower_traces,
};
use crate::tasks::to_its_end;
use crate::{ApiError, App, Caller, Received, bulk};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(traces))
        .routes(routes!(logs))
        .routes(routes!(metrics))
}

/// Takes spans (OTLP/HTTP, protobuf or JSON, gzip or not).
#[utoipa::path(post, path = "/v1/traces", operation_id = "otlp_traces", tag = "otlp",
    request_body(content((serde_json::Value = "application/json"), (Vec<u8> = "application/x-protobuf")),
        description = "ExportTraceServiceRequest"),
    responses((status = 200, description = "ExportTraceServiceResponse; partial_success counts what was refused"),
        (status = 400, description = "google.rpc.Status: not an OTLP request"),
        (status = 413, description = "google.rpc.Status: larger than 16 MiB unpacked"),
        (status = 415, description = "`content_type`: neither protobuf nor JSON"),
        (status = 503, description = "google.rpc.Status: send it again after Retry-After")))]
async fn traces(app: State<App>, request: Request) -> Response {
    http(&app, Signal::Traces, request).await
}

/// Takes log records (OTLP/HTTP, protobuf or JSON, gzip or not).
#[utoipa::path(post, path = "/v1/logs", operation_id = "otlp_logs", tag = "otlp",
    request_body(content((serde_json::Value = "application/json"), (Vec<u8> = "application/x-protobuf")),
        description = "ExportLogsServiceRequest"),
    responses((status = 200, description = "ExportLogsServiceResponse; partial_success counts what was refused"),
        (status = 400, description = "google.rpc.Status: not an OTLP request"),
        (status = 413, description = "google.rpc.Status: larger than 16 MiB unpacked"),
        (status = 415, description = "`content_type`: neither protobuf nor JSON"),
        (status = 503, description = "google.rpc.Status: send it again after Retry-After")))]
async fn logs(app: State<App>, request: Request) -> Response {
    http(&app, Signal::Logs, request).await
}

/// Takes metrics (OTLP/HTTP, protobuf or JSON, gzip or not).
#[utoipa::path(post, path = "/v1/metrics", operation_id = "otlp_metrics", tag = "otlp",
    request_body(content((serde_json::Value = "application/json"), (Vec<u8> = "application/x-protobuf")),
        description = "ExportMetricsServiceRequest"),
    responses((status = 200, description = "ExportMetricsServiceResponse; partial_success counts what was refused"),
        (status = 400, description = "google.rpc.Status: not an OTLP request"),
        (status = 413, description = "google.rpc.Status: larger than 16 MiB unpacked"),
        (status = 415, description = "`content_type`: neither protobuf nor JSON"),
        (status = 503, description = "google.rpc.Status: send it again after Retry-After")))]
async fn metrics(app: State<App>, request: Request) -> Response {
    http(&app, Signal::Metrics, request).await
}

async fn http(app: &App, signal: Signal, request: Request) -> Response {
    let encoding = match media_type(request.headers())
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        Some("application/x-protobuf") => Encoding::Protobuf,
        Some("application/json") => Encoding::Json,
        _ => {
            let message = "the content type must be application/x-protobuf or application/json";
            return ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message)
                .into_response();
        }
    };
    let handled = async {
        let (parts, body) = request.into_parts();
        let caller = Caller::of(app, &parts).await?;
        let Received(at) = received(&parts)?;
        let held = body::receive(&app.budget, &app.limits, caller.sender(), &parts.headers, body).await?;
        export(app, caller, at, signal, encoding, held).await
    };
    match handled.await {
        Ok(answer) => encoded(StatusCode::OK, encoding, answer.encode(signal, encoding)),
        Err(error) => {
            let mut response = encoded(error.status, encoding, status(&error, encoding));
            if let Some(secs) = error.retry_after_secs {
                response.headers_mut().insert(header::RETRY_AFTER, secs.into());
            }
            response
        }
    }
}

/// When the request was received, from the entry layer.
pub(crate) fn received(parts: &axum::http::request::Parts) -> Result<Received, ApiError> {
    parts
        .extensions
        .get::<Received>()
        .copied()
        .ok_or_else(|| ApiError::internal(&"no entry layer"))
}

fn encoded(status: StatusCode, encoding: Encoding, body: Vec<u8>) -> Response {
    let content_type = match encoding {
        Encoding::Protobuf => HeaderValue::from_static("application/x-protobuf"),
        Encoding::Json => HeaderValue::from_static("application/json"),
    };
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        let message = error.to_string();
        match error {
            DecodeError::Malformed(_) => Self::malformed(message),
            DecodeError::TooLarge(_) | DecodeError::TooMany => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
            }
        }
    }
}

/// Unpacks, decodes, lowers, submits, part by part, and says what was refused.
pub(crate) async fn export(
    app: &App,
    caller: Caller,
    at: Timestamp,
    signal: Signal,
    encoding: Encoding,
    held: Held,
) -> Result<ExportAnswer, ApiError> {
    // The body's place in the budget is kept until the answer: the drafts made from a part of it are as large.
    let parts = Parts {
        signal,
        encoding,
        held,
        next: 0,
        bodies_bytes_left: BODIES_BYTES_MAX,
        salts: caller.tenant.salts(),
    };
    let (mut lowered, mut parts, mut more) = bulk::run(move || parts.lower(at)).await?;
    let app = app.clone();
    // A request that has begun is not given up half-way when nobody waits for its answer any more.
    to_its_end(async move {
        let (mut refused, mut missing) = (Rejections::default(), RefusedSpans::default());
        let written = loop {
            if let Err(error) = submit(&app, &caller, at, lowered, &mut refused, &mut missing).await {
                break Err(error);
            }
            if !more {
                break Ok(());
            }
            room(&app.ledger).await;
            match bulk::run(move || parts.lower(at)).await {
                Ok(next) => (lowered, parts, more) = next,
                Err(error) => break Err(error),
            }
        };
        // Only now: the trace of a refused span may come with a later part. When a part failed, of those that are written.
        let noted = note_missing(&app, &caller, missing, at).await;
        written.and(noted).map(|()| ExportAnswer::new(&refused))
    })
    .await
}

/// A request of which some parts were lowered.
struct Parts {
    signal: Signal,
    encoding: Encoding,
    held: Held,
    next: usize,
    bodies_bytes_left: usize,
    salts: ledger::Salts,
}

impl Parts {
    /// Lowers the next part; `true`: there are more.
    fn lower(self, at: Timestamp) -> Result<(Lowered, Self, bool), ApiError> {
        let Self {
            signal,
            encoding,
            held,
            next,
            bodies_bytes_left,
            mut salts,
        } = self;
        let mut held = held.inflate()?;
        macro_rules! lowered {
            ($request:ident, $lower:ident) => {{
                let request = $request::decode(&held.bytes, encoding)?;
                let lowered = $lower(&request.part(next, bodies_bytes_left), at, &mut salts);
                let more = next + 1 < request.parts();
                // What was JSON is read once.
                let protobuf = (more && encoding == Encoding::Json).then(|| request.into_bytes());
                (lowered, more, protobuf)
            }};
        }
        let (lowered, more, protobuf) = match signal {
            Signal::Traces => lowered!(TraceRequest, lower_traces),
            Signal::Logs => lowered!(LogsRequest, lower_logs),
            Signal::Metrics => lowered!(MetricsRequest, lower_metrics),
        };
        if let Some(protobuf) = protobuf {
            held.bytes = protobuf.into();
        } else if !more {
            held.bytes = Bytes::new();
        }
        let rest = Self {
            signal,
            encoding: Encoding::Protobuf,
            held,
            next: next + 1,
            bodies_bytes_left: lowered.bodies_bytes_left,
            salts,
        };
        Ok((lowered, rest, more))
    }
}

/// Longest wait for room in the ledger's queue before the next part of a request.
const ROOM_TIME: Duration = Duration::from_secs(10);

/// How often it is looked.
const ROOM_LOOK: Duration = Duration::from_millis(20);

/// Waits until the ledger's queue has room. A request that has begun is not to be refused half-way: its sender sends all
/// of it again, and log records and points would stand twice.
async fn room(ledger: &Ledger) {
    let until = Instant::now() + ROOM_TIME;
    while !ledger.has_room() && Instant::now() < until {
        sleep(ROOM_LOOK).await;
    }
}

/// Submits a part, and counts and tells what was refused of it; `missing` takes the spans among that.
async fn submit(
    app: &App,
    caller: &Caller,
    at: Timestamp,
    lowered: Lowered,
    refused: &mut Rejections,
    missing: &mut RefusedSpans,
) -> Result<(), ApiError> {
    let Lowered {
        drafts,
        rejected,
        refused: refused_spans,
        bodies_bytes_left: _,
    } = lowered;
    // An environment or failure stands for no item of its own: nobody sent it to be counted.
    let is_item = |kind| !matches!(kind, Kind::EvidenceEnvironment | Kind::EvidenceCaptureFailure);
    let items: Vec<Option<SpanName>> = drafts
        .iter()
        .map(|draft| is_item(draft.kind).then(|| SpanName::of(&draft.facts)))
        .collect();
    let outcomes = app.ledger.submit(&caller.tenant, drafts, at).await?;
    refused.merge(rejected);
    missing.merge(refused_spans);
    for (outcome, item) in outcomes.iter().zip(items) {
        if let (Err(rejection), Some(name)) = (outcome, item) {
            refused.count += 1;
            if let Some((trace_id, span_id)) = name.0 {
                missing.note(
                    trace_id,
                    format!("{:016x}", u64::from_be_bytes(span_id)),
                    rejection,
                );
            }
            if refused.reasons.len() < REASONS_MAX {
                refused.reasons.push(format!("{name}{rejection}"));
            }
        }
    }
    Ok(())
}

/// Traces whose runs are looked up at once, and failures written at once: a batch of the ledger.
const MISSING_CHUNK: usize = 1_000;

/// Tells runs of spans that they sent and that were not taken. Each is told once.
async fn note_missing(
    app: &App,
    caller: &Caller,
    missing: RefusedSpans,
    at: Timestamp,
) -> Result<(), ApiError> {
    if missing.is_empty() {
        return Ok(());
    }
    let tenant = Arc::clone(&caller.tenant);
    app.blocking(move |ledger| write_missing(ledger, &tenant, missing, at))
        .await
}

fn write_missing(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    missing: RefusedSpans,
    at: Timestamp,
) -> Result<(), ApiError> {
    let missing: Vec<([u8; 16], RefusedOfTrace)> = missing.into_traces().collect();
    for traces in missing.chunks(MISSING_CHUNK) {
        let query = store::BatchQuery {
            traces: traces
                .iter()
                .map(|(trace, _)| store::TraceKey::W3c(*trace))
                .collect(),
            ..store::BatchQuery::default()
        };
        let known = ledger.store().batch_lookup(tenant.tenant_no, &query)?;
        let keys: HashMap<_, _> = known.traces.into_iter().map(|row| (row.trace, row.run)).collect();
        let runs: HashMap<_, _> = known.runs.into_iter().map(|row| (row.key, row.state)).collect();
        let mut salts = tenant.salts();
        let mut drafts = Vec::new();
        for (trace_id, of_trace) in traces {
            // Of a trace that is not there nothing is kept: no run, no evidence.
            let key = keys.get(&store::TraceKey::W3c(*trace_id));
            let Some(run) = key.and_then(|key| runs.get(key)) else {
                continue;
            };
            for failure in failures_of(*trace_id, of_trace) {
                drafts.push(missing_draft(&failure, *trace_id, run, at, &mut salts)?);
                if drafts.len() == MISSING_CHUNK {
                    ledger.submit_blocking(tenant, std::mem::take(&mut drafts), at, false)?;
                }
            }
        }
        if !drafts.is_empty() {
            ledger.submit_blocking(tenant, drafts, at, false)?;
        }
    }
    Ok(())
}

/// What is noted of the refused spans of a trace. The same request again notes the same.
fn failures_of(trace_id: [u8; 16], of_trace: &RefusedOfTrace) -> Vec<CaptureFailure> {
    let trace = u128::from_be_bytes(trace_id);
    let noted = |about: &str, message: &str| CaptureFailure::noted(EvidenceClass::TraceSteps, about, message);
    let mut failures: Vec<CaptureFailure> = of_trace
        .told
        .iter()
        .map(|span| {
            let message = format!("the span was refused: {}", span.reason);
            noted(&format!("trace {trace:032x} span {}", span.span_id), &message)
        })
        .collect();
    if let Some((more, span)) = &of_trace.more {
        let message = format!(
            "{more} more spans of the trace were refused, the first: {}",
            span.reason
        );
        failures.push(noted(
            &format!("trace {trace:032x} span {} and others", span.span_id),
            &message,
        ));
    }
    failures
}

fn missing_draft(
    failure: &CaptureFailure,
    trace_id: [u8; 16],
    run: &evidence::RunState,
    at: Timestamp,
    salts: &mut ledger::Salts,
) -> Result<Draft, ApiError> {
    let kind = Kind::EvidenceCaptureFailure;
    let draft = Draft::alone(kind, Facts::Other, &failure.encode(), at, salts)?;
    Ok(Draft {
        bind: Bind::Run(run.run_id.as_str().into()),
        identity: failure.identity(),
        trace_id: Some(format!("{:032x}", u128::from_be_bytes(trace_id)).into()),
        correlation_id: run.correlation_id.as_deref().map(Arc::from),
        source_domain: SourceDomain::Activity,
        source_component: "otlp",
        ..draft
    })
}

/// Which span a refusal is about, by trace and id; nothing for what is no span.
struct SpanName(Option<([u8; 16], [u8; 8])>);

impl SpanName {
    fn of(facts: &Facts) -> Self {
        match facts {
            Facts::Step(step) => Self(step.span),
            _ => Self(None),
        }
    }
}

impl std::fmt::Display for SpanName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some((_, span)) => write!(f, "span {:016x}: ", u64::from_be_bytes(span)),
            None => Ok(()),
        }
    }
}

/// `google.rpc.Status`, as far as OTLP needs it.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn status(error: &ApiError, encoding: Encoding) -> Vec<u8> {
    let code = i32::from(rpc_code(error.status));
    match encoding {
        Encoding::Protobuf => RpcStatus {
            code,
            message: error.message.clone(),
        }
        .encode_to_vec(),
        Encoding::Json => json!({ "code": code, "message": error.message })
            .to_string()
            .into_bytes(),
    }
}

/// The gRPC code that says the same.
pub(crate) fn rpc_code(status: StatusCode) -> tonic::Code {
    use tonic::Code;
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE | StatusCode::UNPROCESSABLE_ENTITY => {
            Code::InvalidArgument
        }
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT => Code::Aborted,
        // Without retry information it is not sent again, which is right: it would be as large.
        StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
        StatusCode::REQUEST_TIMEOUT => Code::Cancelled,
        // Exporters send again what is unavailable, and what is over a rate only when they are told when.
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Code::Unavailable,
        _ => Code::Internal,
    }
}
