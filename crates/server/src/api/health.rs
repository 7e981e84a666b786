//! Whether the server lives, is ready, what it has done, and what it serves.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ledger::status_of;
use crate::{ApiError, App};

/// A store that has not answered by then is not ready: probes give up after a second or more.
const STORE_TIME: Duration = Duration::from_secs(1);

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

/// What is wrong with writing and with the ledgers; empty: nothing.
pub(crate) fn unhealthy(app: &App) -> Vec<String> {
    let stopped = app.ledger.stopped();
    let mut reasons: Vec<String> = stopped
        .map(|stopped| format!("writing has stopped: {stopped}"))
        .into_iter()
        .collect();
    for tenant in app.ledger.tenants() {
        let ledger = tenant.ledger();
        let verification = app.verification_of(&tenant.tenant_id);
        let (status, detail) = status_of(&ledger, verification.as_ref());
        if status != "ok" {
            let detail = detail.unwrap_or_default();
            reasons.push(format!("ledger {}: {detail}", ledger.row.origin));
        }
    }
    reasons
}

/// Store and ledgers are in order.
#[utoipa::path(get, path = "/readyz", tag = "operation",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
async fn readyz(app: State<App>) -> Response {
    let mut reasons = unhealthy(&app);
    if app.draining.load(Ordering::Relaxed) {
        reasons.push("the server is shutting down".to_owned());
    }
    for tenant in app.ledger.tenants() {
        if app
            .verification_of(&tenant.tenant_id)
            .is_none_or(|verification| verification.pending)
        {
            let origin = &tenant.ledger().row.origin;
            reasons.push(format!("ledger {origin}: its first verification has not ended"));
        }
    }
    let read = app.blocking(|service| Ok(service.store().head_read(0)?));
    match timeout(STORE_TIME, read).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => reasons.push(error.message),
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

/// Counters and gauges in Prometheus' text form.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, body = str, content_type = "text/plain")))]
async fn metrics(app: State<App>) -> Result<Response, ApiError> {
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
            page.head("deponent_ledger_leaves", "gauge", "Leaves in a ledger.");
            let tenants = service.tenants();
            for tenant in &tenants {
                let row = &tenant.ledger().row;
                let size = service.store().head_read(row.ledger_no)?.size;
                page.line(&format!(
                    "deponent_ledger_leaves{{origin=\"{}\"}} {size}",
                    row.origin
                ));
            }
            page.head(
                "deponent_ledger_refused",
                "gauge",
                "1 when a ledger is refused for writing.",
            );
            for tenant in &tenants {
                let ledger = tenant.ledger();
                let refused = u8::from(ledger.refusal().is_some());
                page.line(&format!(
                    "deponent_ledger_refused{{origin=\"{}\"}} {refused}",
                    ledger.row.origin
                ));
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
