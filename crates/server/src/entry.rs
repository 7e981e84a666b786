//! The outermost layer: every request passes it first and every answer last.
//!
//! Reads the clock once, gives the request its id, refuses what does not name
//! this host (local mode), turns a panic into an answer, counts and logs.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::metrics::class_of;
use crate::serve::Cut;
use crate::{ApiError, App, Received, RequestId, answers, ids};

/// Given by the client or made here; echoed.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id taken from a client: it stands in records.
const REQUEST_ID_BYTES_MAX: usize = 128;

pub(crate) async fn entry(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let received = (app.clock)();
    let id = match request_id(request.headers()) {
        Some(id) => RequestId(id.into()),
        None => RequestId(ids::uuid_v7(received).into()),
    };
    let class = class_of(request.uri().path());
    let span =
        tracing::info_span!("request", id = %id.0, method = %request.method(), path = request.uri().path());
    request.extensions_mut().insert(Received(received));
    request.extensions_mut().insert(id.clone());
    let cut = request.extensions().get::<Cut>().cloned();
    let is_read = request.method().is_safe();
    let response = match admit(&app, request.uri(), request.headers()) {
        Ok(()) => match caught(next.run(request)).instrument(span.clone()).await {
            Ok(response) => response,
            Err(panic) => span
                .in_scope(|| ApiError::internal(&panic_text(panic.as_ref())))
                .into_response(),
        },
        Err(refusal) => refusal.into_response(),
    };
    let mut response = answers::counted(&app.answers, cut, is_read, response).await;
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    let status = response.status().as_u16();
    app.requests.count(class, status);
    span.in_scope(|| tracing::debug!(status, micros = started.elapsed().as_micros(), "answered"));
    response
}

/// 1 to 128 visible ASCII characters; another one is replaced, not refused.
fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let visible =
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    visible.then_some(id)
}

fn admit(app: &App, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let bytes = uri.path_and_query().map_or(0, |text| text.as_str().len());
    if bytes > app.limits.uri_bytes_max {
        let message = format!(
            "the URI has {bytes} bytes, at most {} are taken",
            app.limits.uri_bytes_max
        );
        return Err(ApiError::new(StatusCode::URI_TOO_LONG, "uri_too_long", message));
    }
    if app.is_local() {
        local_only(uri, headers)
    } else {
        Ok(())
    }
}

/// A page of another site must not reach a server that asks for no key: neither by a name that
/// resolves to this machine (DNS rebinding) nor by a request across origins.
fn local_only(uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let forbidden = |code, message: &str| Err(ApiError::new(StatusCode::FORBIDDEN, code, message));
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        // HTTP/2, or the absolute form, which RFC 9112 puts above the header.
        (Some(authority), ..) => Some(authority.as_str()),
        (None, Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    let Some(host) = host.filter(|host| is_loopback(host)) else {
        return forbidden(
            "foreign_host",
            "in local mode only requests to a loopback host are answered; \
             the first API key (`deponent key create`) ends local mode",
        );
    };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let same = |origin: &HeaderValue| {
        let authority = origin
            .to_str()
            .ok()
            .and_then(|origin| Some(origin.split_once("://")?.1));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    if origins.all(same) {
        return Ok(());
    }
    forbidden(
        "foreign_origin",
        "in local mode requests of other origins are not answered",
    )
}

/// `localhost`, 127.0.0.0/8 or `[::1]`, with any port or none.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => {
            if port.is_empty() || port.parse::<u16>().is_err() {
                return false;
            }
            name
        }
        _ => host,
    };
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return address
            .parse::<std::net::Ipv6Addr>()
            .is_ok_and(|address| address.is_loopback());
    }
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Runs a future to its end or its panic.
pub(crate) async fn caught<T>(future: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(panic) => Poll::Ready(Err(panic)),
        },
    )
    .await
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("of no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_before_or_after_a_pause_is_caught() {
        async fn later() {
            tokio::task::yield_now().await;
            panic!("{}", "later")
        }
        assert_eq!(
            panic_text(
                caught::<()>(async { panic!("at once") })
                    .await
                    .unwrap_err()
                    .as_ref()
            ),
            "panic: at once"
        );
        assert_eq!(
            panic_text(caught(later()).await.unwrap_err().as_ref()),
            "panic: later"
        );
        assert_eq!(caught(async { 7 }).await.unwrap(), 7);
    }

    #[test]
    fn only_loopback_names_are_this_host() {
        for good in [
            "localhost",
            "LOCALHOST:4318",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:4318",
        ] {
            assert!(is_loopback(good), "{good}");
        }
        let bad = [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "128.0.0.1",
            "::1",
            "[::2]",
            "localhost:",
            "localhost:99999",
            "localhost:4318:1",
            "[::1",
            "0.0.0.0",
        ];
        for bad in bad {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
