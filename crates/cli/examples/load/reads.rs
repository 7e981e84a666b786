//! The nineteen reads over runs that are known to be there, each in turn, one client without pause.
//!
//! It posts one audit event before, so that there is an entry to read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::Connection;
use crate::ids::Random;
use crate::stats::latencies;

#[derive(Debug, clap::Args)]
pub(crate) struct Reads {
    #[arg(long)]
    pub(crate) server: SocketAddr,
    /// An API key, when the server has keys.
    #[arg(long)]
    pub(crate) key: Option<String>,
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Run ids, one a line; without it the newest of the list.
    #[arg(long)]
    pub(crate) runs: Option<PathBuf>,
}

const LIST: &str = "/api/v1/logs/llm-runs";
const SYSTEM: &str = "/api/v1/logs/system";
const AUDIT: &str = "/api/v1/logs/audit";

/// Reads of SPEC 5. Some lists are read in other ways too, whose names begin alike.
const OPERATIONS: usize = 19;
const LIST_AGAIN: &str = "list_";

impl Reads {
    pub(crate) fn run(&self) -> Result<Value> {
        let mut connection = Connection::new(self.server, self.key.as_deref());
        let mut random = Random::fresh();
        let runs = self.known(&mut connection)?;
        ensure!(!runs.is_empty(), "no runs are known");
        let end = Instant::now() + Duration::from_secs_f64(self.seconds);
        let mut all: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        let mut cursor: Option<String> = None;
        let entry = entry(&mut connection)?;
        while Instant::now() < end {
            let run = random.pick(&runs).clone();
            let model = *random.pick(&["gpt-4o", "gpt-4o-mini", "claude-sonnet-4", "gemini-2.5-pro"]);
            let mut reads = vec![
                ("envelope", format!("{LIST}/{run}/envelope")),
                ("trace", format!("{LIST}/{run}/trace")),
                ("replay", format!("{LIST}/{run}/replay")),
                ("list", format!("{LIST}?limit=50")),
                (
                    "list_filtered",
                    format!("{LIST}?limit=50&model={model}&execution_status=SUCCEEDED"),
                ),
                (
                    "list_cursor",
                    match &cursor {
                        Some(cursor) => format!("{LIST}?limit=50&cursor={cursor}"),
                        None => format!("{LIST}?limit=50"),
                    },
                ),
            ];
            for name in ["governance", "export"] {
                reads.push((name, format!("{LIST}/{run}/{name}")));
            }
            for (name, read) in [
                ("system_events", "events"),
                ("system_replay", "replay"),
                ("system_snapshot", "snapshot"),
                ("system_telemetry", "telemetry"),
            ] {
                reads.push((name, format!("{SYSTEM}/{run}/{read}")));
            }
            reads.push(("system", SYSTEM.to_owned()));
            reads.push(("list_system_filtered", format!("{SYSTEM}?severity=ERROR")));
            reads.push(("list_audit_filtered", format!("{AUDIT}?event_type=LimitBreached")));
            reads.push(("system_audit", format!("{SYSTEM}/audit")));
            reads.push(("audit", AUDIT.to_owned()));
            reads.push(("audit_entry", format!("{AUDIT}/entries/{entry}")));
            for (name, read) in [
                ("audit_access", "access"),
                ("audit_authorization", "authorization"),
                ("audit_exports", "exports"),
                ("audit_identity", "identity"),
                ("audit_integrity", "integrity"),
            ] {
                reads.push((name, format!("{AUDIT}/{read}")));
            }
            for (name, path) in reads {
                let asked = Instant::now();
                let answer = connection.get(&path)?;
                all.entry(name).or_default().push(asked.elapsed());
                ensure!(
                    answer.status == 200,
                    "{path}: {}: {}",
                    answer.status,
                    String::from_utf8_lossy(&answer.body)
                );
                if name == "list_cursor" {
                    let page: Value = serde_json::from_slice(&answer.body)?;
                    cursor = page["next_cursor"].as_str().map(str::to_owned);
                }
            }
        }
        let measured = all.keys().filter(|name| !name.starts_with(LIST_AGAIN)).count();
        ensure!(
            measured == OPERATIONS,
            "{measured} of {OPERATIONS} reads were measured"
        );
        let figures: serde_json::Map<String, Value> = all
            .into_iter()
            .map(|(name, all)| (name.to_owned(), latencies(all)))
            .collect();
        Ok(json!({"runs": runs.len(), "latency_ms": figures}))
    }

    pub(crate) fn known(&self, connection: &mut Connection) -> Result<Vec<String>> {
        if let Some(path) = &self.runs {
            return Ok(std::fs::read_to_string(path)?
                .lines()
                .map(str::to_owned)
                .collect());
        }
        let answer = connection.get(&format!("{LIST}?limit=500"))?;
        let page: Value = serde_json::from_slice(&answer.body).context("the list of runs")?;
        let items = page["items"].as_array().context("no items in the list of runs")?;
        Ok(items
            .iter()
            .filter_map(|item| item["run_id"].as_str())
            .map(str::to_owned)
            .collect())
    }
}

/// Makes an audit event, and so an entry to read: a load of spans makes none.
fn entry(connection: &mut Connection) -> Result<String> {
    let event = json!({
        "event_type": "LimitCreated", "entity_type": "LIMIT", "entity_id": "bench", "actor_type": "SYSTEM",
        "after_state": {"spans": 1_000}
    });
    let answer = connection.post(
        "/api/v1/audit-events",
        "application/json",
        &serde_json::to_vec(&event)?,
    )?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 201, "the audit event: {}: {text}", answer.status);
    let answer: Value = serde_json::from_slice(&answer.body)?;
    let entry = answer["entry_id"].as_str();
    Ok(entry.context("no entry_id in the answer")?.to_owned())
}
