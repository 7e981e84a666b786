//! Single records over REST: clients that post a step and wait for its receipt before the next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::Connection;
use crate::ids::{Random, hex};
use crate::stats::{latencies, round};

/// Steps of a run; then the next run begins.
const RUN_STEPS: u64 = 50;

/// Attempts at a request that was refused for want of room.
const ATTEMPTS: u32 = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Rest {
    #[arg(long)]
    pub(crate) server: SocketAddr,
    /// An API key, when the server has keys.
    #[arg(long)]
    pub(crate) key: Option<String>,
    #[arg(long, default_value_t = 64)]
    pub(crate) clients: usize,
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Send a header of this name, with another value in each request.
    #[arg(long)]
    pub(crate) header: Option<String>,
}

#[derive(Default)]
pub(crate) struct Posted {
    records: u64,
    retried: u64,
    latencies: Vec<Duration>,
}

impl Rest {
    pub(crate) fn run(&self) -> Result<Value> {
        let begun = Instant::now();
        let end = begun + Duration::from_secs_f64(self.seconds);
        let posted = std::thread::scope(|scope| -> Result<Vec<Posted>> {
            let clients: Vec<_> = (0..self.clients)
                .map(|n| scope.spawn(move || self.client(n, end)))
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        let records: u64 = posted.iter().map(|posted| posted.records).sum();
        Ok(json!({
            "clients": self.clients,
            "records": records,
            "seconds": round(seconds, 3),
            "records_per_sec": round(records as f64 / seconds, 0),
            "retried": posted.iter().map(|posted| posted.retried).sum::<u64>(),
            "latency_ms": latencies(posted.into_iter().flat_map(|posted| posted.latencies).collect()),
        }))
    }

    fn client(&self, n: usize, end: Instant) -> Result<Posted> {
        let mut connection = Connection::new(self.server, self.key.as_deref());
        let mut random = Random::fresh();
        for _ in 0..n {
            random = Random::new(random.next());
        }
        let mut line = || match &self.header {
            Some(name) => format!("{name}: {}\r\n", hex(&random.bytes::<16>())),
            None => String::new(),
        };
        let mut posted = Posted::default();
        while Instant::now() < end {
            let run = json!({"agent_id": format!("bench-{n}"), "goal": "post steps one by one", "plan": ["search", "answer"]});
            let answer = post(&mut connection, &mut posted, "/api/v1/runs", &line(), &run)?;
            let run_id = answer["run_id"]
                .as_str()
                .context("no run_id in the answer")?
                .to_owned();
            let path = format!("/api/v1/runs/{run_id}/steps");
            for step in 0..RUN_STEPS {
                if Instant::now() >= end {
                    break;
                }
                let body = json!({
                    "step_index": step, "skill_name": "search_documents", "params": {"query": "refund policy", "limit": step},
                    "status": "success", "outcome_category": "SUCCESS", "outcome_code": "OK",
                    "outcome_data": {"hits": 3, "best": "refunds within thirty days"},
                    "cost_cents": 0.5, "duration_ms": 12, "retry_count": 0
                });
                post(&mut connection, &mut posted, &path, &line(), &body)?;
            }
        }
        Ok(posted)
    }
}

/// Posts a record, again while there is no room for it; its receipt must be in the answer.
pub(crate) fn post(
    connection: &mut Connection,
    posted: &mut Posted,
    path: &str,
    line: &str,
    body: &Value,
) -> Result<Value> {
    let body = serde_json::to_vec(body)?;
    for _ in 0..ATTEMPTS {
        let asked = Instant::now();
        let answer = connection.post_with(path, "application/json", line, &body)?;
        if matches!(answer.status, 429 | 503) {
            posted.retried += 1;
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 201, "{path}: {}: {text}", answer.status);
        posted.latencies.push(asked.elapsed());
        let answer: Value = serde_json::from_slice(&answer.body)?;
        ensure!(answer["receipt"]["leaf_index"].is_u64(), "no receipt: {answer}");
        posted.records += 1;
        return Ok(answer);
    }
    anyhow::bail!("{path}: refused {ATTEMPTS} times")
}
