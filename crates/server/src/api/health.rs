//! Whether the server lives, is ready, what it has done, and what it serves.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use evidence::Timestamp;
use evidence::record::Role;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ledger::status_of;
use crate::caller::bearer;
use crate::{ApiError, App, Received};

/// A store that has not answered by then is not ready. On a busy disk a read of a healthy one may take a second or two; a
/// probe that gives up earlier has its own say.
const STORE_TIME: Duration = Duration::from_secs(5);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(docs))
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, body = str)))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether requests are served, and if not, why.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness {
    /// `ready` or `not_ready`.
    status: &'static str,
    /// Empty when ready.
    reasons: Vec<String>,
}

/// Something that is wrong: its class for everybody, what exactly for the log, because that names tenants and paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wrong {
    pub(crate) class: &'static str,
    pub(crate) detail: String,
}

/// What is wrong with writing and with the ledgers; empty: nothing.
pub(crate) fn unhealthy(app: &App) -> Vec<Wrong> {
    let stopped = app.ledger.stopped().map(|detail| Wrong {
        class: WRITING_STOPPED,
        detail: format!("{detail}; once the cause is mended, start the server again"),
    });
    let mut wrong: Vec<Wrong> = stopped.into_iter().collect();
    for tenant in app.ledger.tenants() {
        let ledger = tenant.ledger();
        let verification = app.verification_of(&ledger);
        let (status, detail) = status_of(&ledger, verification.as_ref());
        if status != "ok" {
            let detail = detail.unwrap_or_default();
            wrong.push(Wrong {
                class: status,
                detail: format!("ledger {}: {detail}", ledger.row.origin),
            });
        }
    }
    wrong
}

/// A class of what is wrong that is no ledger's.
const WRITING_STOPPED: &str = "writing has stopped";

/// Store and ledgers are in order. Says what is wrong and how often, not with whom: that stands in the log.
#[utoipa::path(get, path = "/readyz", tag = "operation",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
async fn readyz(app: State<App>) -> Response {
    let mut reasons = Vec::new();
    let mut ledgers: BTreeMap<&str, usize> = BTreeMap::new();
    for wrong in unhealthy(&app) {
        if wrong.class == WRITING_STOPPED {
            reasons.push(wrong.class.to_owned());
        } else {
            *ledgers.entry(wrong.class).or_default() += 1;
        }
    }
    let pending = app.ledger.tenants().into_iter().filter(|tenant| {
        let verification = app.verification_of(&tenant.ledger());
        verification.is_none_or(|verification| verification.pending)
    });
    match pending.count() {
        0 => {}
        count => *ledgers.entry("the first verification has not ended").or_default() += count,
    }
    reasons.extend(ledgers.iter().map(|(class, count)| match count {
        1 => format!("1 ledger: {class}"),
        count => format!("{count} ledgers: {class}"),
    }));
    if app.draining.load(Ordering::Relaxed) {
        reasons.push("the server is shutting down".to_owned());
    }
    let read = app.blocking(|service| Ok(service.store().head_read(0)?));
    match timeout(STORE_TIME, read).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = error.message, "the store cannot answer");
            reasons.push("the store cannot answer".to_owned());
        }
        Err(_) => reasons.push(format!(
            "the store has not answered within {} s",
            STORE_TIME.as_secs()
        )),
    }
    let (code, status) = if reasons.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    (code, Json(Readiness { status, reasons })).into_response()
}

/// Counters and gauges in Prometheus' text form. Series of single ledgers, which name tenants, only for an operator's key.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, body = str, content_type = "text/plain")))]
async fn metrics(app: State<App>, Received(at): Received, headers: HeaderMap) -> Result<Response, ApiError> {
    let names_tenants = is_operator(&app, &headers, at);
    let requests = app.requests.read();
    let (free, bodies_max) = (app.budget.free_bytes(), app.limits.bodies_in_flight_bytes_max);
    let text = app
        .blocking(move |service| {
            let counts = service.counts();
            let mut page = Page(String::with_capacity(4_096));
            let seconds = Duration::from_micros(counts.commit_micros).as_secs_f64();
            page.one(
                "deponent_records_total",
                "counter",
                "Records made durable.",
                counts.records,
            );
            page.one(
                "deponent_commits_total",
                "counter",
                "Transactions that carried them.",
                counts.commits,
            );
            page.one(
                "deponent_commit_seconds_total",
                "counter",
                "Time spent in those transactions.",
                seconds,
            );
            page.one(
                "deponent_checkpoints_total",
                "counter",
                "Checkpoints signed.",
                counts.checkpoints,
            );
            page.one(
                "deponent_busy_total",
                "counter",
                "Submissions refused for a full queue.",
                counts.refused,
            );
            page.one(
                "deponent_queue_records",
                "gauge",
                "Records waiting to be sequenced.",
                service.queue_depth(),
            );
            page.one(
                "deponent_disk_bytes",
                "gauge",
                "The database on disk.",
                service.store().disk_bytes(),
            );
            let in_flight = bodies_max.saturating_sub(free);
            page.one(
                "deponent_bodies_bytes",
                "gauge",
                "Request bodies in flight.",
                in_flight,
            );
            if let Some(bytes) = resident_bytes() {
                page.one(
                    "process_resident_memory_bytes",
                    "gauge",
                    "Resident memory.",
                    bytes,
                );
            }
            let stopped = u8::from(service.stopped().is_some());
            page.one(
                "deponent_stopped",
                "gauge",
                "1 when nothing is written any more.",
                stopped,
            );
            let tenants = service.tenants();
            let mut ledgers = Vec::with_capacity(tenants.len());
            for tenant in &tenants {
                let ledger = tenant.ledger();
                let size = service.store().head_read(ledger.row.ledger_no)?.size.as_u64();
                let refused = ledger.refusal().is_some();
                ledgers.push((ledger.row.origin.clone(), size, refused));
            }
            let leaves: u64 = ledgers.iter().map(|(_, size, _)| size).sum();
            page.one(
                "deponent_ledgers",
                "gauge",
                "Ledgers that are written to.",
                ledgers.len(),
            );
            page.one("deponent_leaves", "gauge", "Leaves in them.", leaves);
            let refused = ledgers.iter().filter(|(_, _, refused)| *refused).count();
            page.one(
                "deponent_ledgers_refused",
                "gauge",
                "Ledgers that are refused for writing.",
                refused,
            );
            if names_tenants {
                page.head("deponent_ledger_leaves", "gauge", "Leaves in a ledger.");
                for (origin, size, _) in &ledgers {
                    let origin = label(origin);
                    page.line(&format!("deponent_ledger_leaves{{origin=\"{origin}\"}} {size}"));
                }
                page.head(
                    "deponent_ledger_refused",
                    "gauge",
                    "1 when a ledger is refused for writing.",
                );
                for (origin, _, refused) in &ledgers {
                    let (origin, refused) = (label(origin), u8::from(*refused));
                    page.line(&format!(
                        "deponent_ledger_refused{{origin=\"{origin}\"}} {refused}"
                    ));
                }
            }
            page.head("deponent_requests_total", "counter", "Requests answered.");
            for ((class, status), count) in requests {
                page.line(&format!(
                    "deponent_requests_total{{class=\"{class}\",status=\"{status}\"}} {count}"
                ));
            }
            Ok(page.0)
        })
        .await?;
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// Whether an operator asks. The page is everybody's, so a key that is none is no error, and nothing is noted.
fn is_operator(app: &App, headers: &HeaderMap, at: Timestamp) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let key = given
        .and_then(bearer)
        .and_then(|token| app.ledger.api_keys().check(token, at).ok());
    app.is_local() || key.is_some_and(|key| key.role == Role::Operator)
}

/// The value of a label between its quotes. One that ended them would make the whole page unreadable; an origin has no
/// line ends.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"")
}

/// A page of metrics.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }
}

/// Resident memory, from the line of `/proc/self/status` that is in kB whatever the page size; `None` elsewhere.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1_024)
}

/// The documentation page: reads `/api/openapi.json` and nothing else.
#[utoipa::path(get, path = "/api/docs", tag = "operation", responses((status = 200, body = str, content_type = "text/html")))]
async fn docs() -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                          connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let policy: (HeaderName, &str) = (header::CONTENT_SECURITY_POLICY, POLICY);
    ([policy], Html(include_str!("docs.html")))
}

/// This document. Served by the router, which holds it.
#[utoipa::path(get, path = "/api/openapi.json", tag = "operation", responses((status = 200, body = Object)))]
#[allow(dead_code)] // for the document
pub(crate) fn openapi_json() {}

/// The OpenAPI document, written once.
#[derive(Clone, Debug)]
pub(crate) struct Document(Bytes);

impl Document {
    pub(crate) fn new(document: &utoipa::openapi::OpenApi) -> Self {
        Self(document.to_pretty_json().unwrap_or_default().into())
    }
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn an_origin_ends_no_label() {
        assert_eq!(label("deponent.local/acme"), "deponent.local/acme");
        assert_eq!(label(r#"a"b\c"#), r#"a\"b\\c"#);
    }
}
