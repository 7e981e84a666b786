//! What stands beside the spans when reads are measured: system records, measurements, audit entries.
//!
//! A ledger of spans alone has nothing in the system and audit topics, and a read of nothing is fast. So a fixed share
//! of the number of spans is loaded before, of whatever size the ledger is: of the runs that are read each has about
//! fifty records of every sort, and a minute has fifty of the system's, as many as a page.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::http::Connection;
use crate::ids::now_nanos;

/// Spans for one log record, one point of a metric, one audit event, and one record of an operator.
const SPANS_PER_LOG: u64 = 10;
const SPANS_PER_POINT: u64 = 10;
const SPANS_PER_AUDIT: u64 = 100;
const SPANS_PER_SYSTEM: u64 = 1_000;

/// Log records, and points, of one request.
const REQUEST_LOGS: u64 = 500;
const REQUEST_POINTS: u64 = 50;

/// One in so many log records, requests of metrics, and audit events names a run that is read.
const LOGS_PER_NAMED: u64 = 20;
const REQUESTS_PER_NAMED: u64 = 10;
const AUDITS_PER_NAMED: u64 = 2;

/// Between two log records: fifty a minute, back from now.
const LOG_NANOS: u64 = 1_200_000_000;

/// Clients that post events, each waiting for its receipt.
const CLIENTS: u64 = 32;

/// Attempts at a request that was refused for want of room.
const ATTEMPTS: u32 = 20;

const EVENTS: [(&str, &str); 4] = [
    ("LimitBreached", "LIMIT"),
    ("LimitUpdated", "LIMIT"),
    ("PolicyRuleModified", "POLICY_RULE"),
    ("IncidentAcknowledged", "INCIDENT"),
];

/// Loads what belongs beside so many spans, of which these are runs. Gives how many of each.
pub(crate) fn load(server: SocketAddr, spans: u64, runs: &[String]) -> Result<Value> {
    ensure!(!runs.is_empty(), "no runs are known");
    let logs = spans / SPANS_PER_LOG;
    let points = spans / SPANS_PER_POINT / REQUEST_POINTS * REQUEST_POINTS;
    let (audits, systems) = (spans / SPANS_PER_AUDIT, spans / SPANS_PER_SYSTEM);
    let mut connection = Connection::new(server, None);
    let (now, mut first) = (now_nanos(), 0);
    while first < logs {
        let end = logs.min(first + REQUEST_LOGS);
        export(&mut connection, "/v1/logs", &logs_of(first..end, now, runs))?;
        first = end;
    }
    for request in 0..points / REQUEST_POINTS {
        export(&mut connection, "/v1/metrics", &points_of(request, now, runs))?;
    }
    each(audits, server, "/api/v1/audit-events", |n| audit(n, runs))?;
    each(systems, server, "/api/v1/system-records", |n| {
        json!({"component": "scheduler", "event_type": "DEPLOY", "severity": "INFO", "summary": format!("release {n}"),
            "details": {"release": n, "by": "bench"}})
    })?;
    Ok(json!({"system_records": logs + systems, "points": points, "audit_entries": audits}))
}

fn run_of(number: u64, runs: &[String]) -> &str {
    &runs[number as usize % runs.len()]
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn logs_of(numbers: std::ops::Range<u64>, now: u64, runs: &[String]) -> Value {
    let records: Vec<Value> = numbers
        .map(|n| {
            let (severity, word) = if n.is_multiple_of(25) { (17, "ERROR") } else { (9, "INFO") };
            let mut record = json!({
                "timeUnixNano": (now - n * LOG_NANOS).to_string(), "severityNumber": severity, "severityText": word,
                "body": {"stringValue": format!("request {n} was served from the cache of the second shelf")},
                "attributes": [text("http.route", "/orders/{id}"), text("thread.name", "worker-3")],
            });
            if n.is_multiple_of(LOGS_PER_NAMED) {
                record["traceId"] = json!(run_of(n / LOGS_PER_NAMED, runs));
            }
            record
        })
        .collect();
    let resource =
        json!({"attributes": [text("service.name", "orders"), text("service.instance.id", "inst-1")]});
    json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]})
}

/// A stock exporter's request of a minute: of the agents' instance, or of one run.
fn points_of(request: u64, now: u64, runs: &[String]) -> Value {
    let at = now - request * REQUEST_POINTS * LOG_NANOS;
    let points: Vec<Value> = (0..REQUEST_POINTS)
        .map(|n| {
            json!({"timeUnixNano": at.to_string(), "asInt": (request + n).to_string(),
                "attributes": [text("pool", &format!("pool-{n}"))]})
        })
        .collect();
    let mut attributes = vec![
        text("service.name", "bench-agents"),
        text("service.instance.id", "inst-0"),
    ];
    if request.is_multiple_of(REQUESTS_PER_NAMED) {
        attributes.push(text(
            "deponent.run.id",
            run_of(request / REQUESTS_PER_NAMED, runs),
        ));
    }
    let metric = json!({"name": "queue.length", "unit": "{item}", "gauge": {"dataPoints": points}});
    json!({"resourceMetrics": [{"resource": {"attributes": attributes}, "scopeMetrics": [{"metrics": [metric]}]}]})
}

fn audit(n: u64, runs: &[String]) -> Value {
    let (event_type, entity_type) = EVENTS[n as usize % EVENTS.len()];
    let mut after = json!({"limit": n, "policy_id": "budget"});
    if n.is_multiple_of(AUDITS_PER_NAMED) {
        after["run_id"] = json!(run_of(n / AUDITS_PER_NAMED, runs));
    }
    json!({"event_type": event_type, "entity_type": entity_type, "entity_id": format!("e-{}", n % 100),
        "actor_type": "HUMAN", "actor_id": "ada", "action_reason": "the budget of the month was spent early",
        "before_state": {"limit": n + 1}, "after_state": after})
}

/// Sends an export, of which nothing may be refused.
fn export(connection: &mut Connection, path: &str, body: &Value) -> Result<()> {
    let answer = connection.post(path, "application/json", &serde_json::to_vec(body)?)?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(
        answer.status == 200 && text == "{}",
        "{path}: {}: {text}",
        answer.status
    );
    Ok(())
}

/// Posts a record, again while there is no room for it.
fn post(connection: &mut Connection, path: &str, body: &Value) -> Result<()> {
    let body = serde_json::to_vec(body)?;
    for _ in 0..ATTEMPTS {
        let answer = connection.post(path, "application/json", &body)?;
        if matches!(answer.status, 429 | 503) {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 201, "{path}: {}: {text}", answer.status);
        return Ok(());
    }
    bail!("{path}: refused {ATTEMPTS} times")
}

/// Posts so many, by several clients.
fn each(count: u64, server: SocketAddr, path: &str, body: impl Fn(u64) -> Value + Sync) -> Result<()> {
    let taken = AtomicU64::new(0);
    let client = || -> Result<()> {
        let mut connection = Connection::new(server, None);
        loop {
            let n = taken.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return Ok(());
            }
            post(&mut connection, path, &body(n))?;
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().unwrap())
    })
}
