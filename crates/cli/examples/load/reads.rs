//! Reads over runs that are known to be there, each endpoint in turn, one client without pause.

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
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Run ids, one a line; without it the newest of the list.
    #[arg(long)]
    pub(crate) runs: Option<PathBuf>,
}

const LIST: &str = "/api/v1/logs/llm-runs";

impl Reads {
    pub(crate) fn run(&self) -> Result<Value> {
        let mut connection = Connection::new(self.server);
        let mut random = Random::fresh();
        let runs = self.known(&mut connection)?;
        ensure!(!runs.is_empty(), "no runs are known");
        let end = Instant::now() + Duration::from_secs_f64(self.seconds);
        let mut all: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        let mut cursor: Option<String> = None;
        while Instant::now() < end {
            let run = random.pick(&runs).clone();
            let model = *random.pick(&["gpt-4o", "gpt-4o-mini", "claude-sonnet-4", "gemini-2.5-pro"]);
            let reads = [
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
        let figures: serde_json::Map<String, Value> = all
            .into_iter()
            .map(|(name, all)| (name.to_owned(), latencies(all)))
            .collect();
        Ok(json!({"runs": runs.len(), "latency_ms": figures}))
    }

    fn known(&self, connection: &mut Connection) -> Result<Vec<String>> {
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
