//! OTLP over gRPC: the three export methods.
//!
//! Messages are taken as bytes: the lowering walks them without building them up,
//! while generated services would first make a tree of 30 times their size. So the
//! framing of a unary call stands here; what a request means is shared with HTTP.
//!
//! Source: gRPC over HTTP/2, <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use tonic::Status;

use crate::api::otlp::{export, received, rpc_code};
use crate::body::{self, Held};
use crate::entry::entry;
use crate::extract::media_type;
use crate::otlp::{Encoding, Signal};
use crate::{ApiError, App, Caller, Limits, Received};

/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The gRPC service.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            post(traces),
        )
        .route(
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            post(logs),
        )
        .route(
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            post(metrics),
        )
        .fallback(unimplemented)
        .layer(from_fn_with_state(app.clone(), entry))
        .layer(from_fn(no_http_1))
        .with_state(app)
}

/// Tells an exporter of OTLP/HTTP that was given this port. Cut off it would try again and again, and never learn why;
/// and the answer of gRPC to an unknown path is 200.
async fn no_http_1(request: Request, next: Next) -> Response {
    if request.version() < Version::HTTP_2 {
        const WHY: &str =
            "this port takes OTLP over gRPC (HTTP/2) alone; OTLP over HTTP goes to the port of --listen\n";
        return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, WHY).into_response();
    }
    next.run(request).await
}

async fn traces(app: State<App>, request: Request) -> Response {
    call(&app, Signal::Traces, request).await
}

async fn logs(app: State<App>, request: Request) -> Response {
    call(&app, Signal::Logs, request).await
}

async fn metrics(app: State<App>, request: Request) -> Response {
    call(&app, Signal::Metrics, request).await
}

async fn unimplemented() -> Response {
    Status::unimplemented("no such method").into_http()
}

async fn call(app: &App, signal: Signal, request: Request) -> Response {
    if !media_type(request.headers())
        .is_some_and(|media| media == "application/grpc" || media == "application/grpc+proto")
    {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let (parts, body) = request.into_parts();
    let handled = async {
        let caller = Caller::of(app, &parts).await?;
        let Received(at) = received(&parts)?;
        let bytes_max = app.limits.body_bytes_max + PREFIX_BYTES;
        let limits = Limits {
            body_bytes_max: bytes_max,
            ..app.limits
        };
        let held = body::receive(&app.budget, &limits, caller.sender(), &HeaderMap::new(), body)
            .await
            .map_err(ApiError::from)?;
        let held = message(held, &parts.headers, app.limits.body_bytes_max)?;
        Ok(export(app, caller, at, signal, Encoding::Protobuf, held).await?)
    };
    match handled.await {
        Ok(answer) => success(&answer.encode(signal, Encoding::Protobuf)),
        Err(Refused(status)) => {
            let mut response: Response = status.into_http();
            response
                .headers_mut()
                .insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
    }
}

struct Refused(Status);

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(Status::new(rpc_code(error.status), error.message))
    }
}

/// The one message of a unary call, without its prefix.
fn message(held: Held, headers: &HeaderMap, bytes_max: usize) -> Result<Held, Refused> {
    let malformed = |what: &str| Refused(Status::invalid_argument(what));
    let Some((prefix, rest)) = held.bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(malformed("the call has no message"));
    };
    let [compressed, length @ ..] = *prefix;
    if usize::try_from(u32::from_be_bytes(length)).ok() != Some(rest.len()) {
        return Err(malformed("the call must have one whole message"));
    }
    let gzip = match compressed {
        0 => false,
        1 if headers.get(ENCODING).is_some_and(|encoding| encoding == "gzip") => true,
        1 => {
            return Err(Refused(Status::unimplemented(
                "messages may be compressed by gzip only",
            )));
        }
        _ => return Err(malformed("not a gRPC message")),
    };
    Ok(held.part(PREFIX_BYTES, gzip, bytes_max))
}

fn success(message: &[u8]) -> Response {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    let trailers = async {
        let mut trailers = HeaderMap::new();
        trailers.insert(STATUS, HeaderValue::from_static("0"));
        Some(Ok::<_, Infallible>(trailers))
    };
    let body = Full::<Bytes>::new(framed.freeze()).with_trailers(trailers);
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
        .headers_mut()
        .insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    response
}
