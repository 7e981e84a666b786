//! Single records over REST: clients that post a step and wait for its receipt before the next.
//!
//! All clients share a thread. One each would take as much of the machine's two cores to be woken as the server to answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::Head;
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

/// What is needed of an answer: a receipt must be in it.
#[derive(Deserialize)]
struct Posted<'a> {
    #[serde(borrow)]
    run_id: Option<&'a str>,
    #[serde(rename = "receipt")]
    _receipt: Receipt,
}

#[derive(Deserialize)]
struct Receipt {
    #[serde(rename = "leaf_index")]
    _leaf_index: u64,
}

impl Rest {
    pub(crate) fn run(&self) -> Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(tokio::task::LocalSet::new().run_until(self.all()))
    }

    async fn all(&self) -> Result<Value> {
        let begun = Instant::now();
        let end = begun + Duration::from_secs_f64(self.seconds);
        let mut random = Random::fresh();
        let mut clients = tokio::task::JoinSet::new();
        for n in 0..self.clients {
            let client = Client {
                stream: TcpStream::connect(self.server).await?,
                heads: format!("host: {}\r\n", self.server),
                header: self.header.clone(),
                random: Random::new(random.next()),
                read: Vec::new(),
                retried: 0,
                latencies: Vec::new(),
            };
            client.stream.set_nodelay(true)?;
            let key = self.key.clone();
            clients.spawn_local(client.posts(n, key, end));
        }
        let (mut all, mut retried) = (Vec::new(), 0);
        while let Some(client) = clients.join_next().await {
            let (latencies, refused) = client??;
            all.extend(latencies);
            retried += refused;
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(json!({
            "clients": self.clients,
            "records": all.len(),
            "seconds": round(seconds, 3),
            "records_per_sec": round(all.len() as f64 / seconds, 0),
            "retried": retried,
            "latency_ms": latencies(all),
        }))
    }
}

struct Client {
    stream: TcpStream,
    /// Header lines that every request has.
    heads: String,
    header: Option<String>,
    random: Random,
    read: Vec<u8>,
    retried: u64,
    latencies: Vec<Duration>,
}

impl Client {
    /// Runs and their steps until then; gives how long each record took, and how often it was told to try again.
    async fn posts(mut self, n: usize, key: Option<String>, end: Instant) -> Result<(Vec<Duration>, u64)> {
        if let Some(key) = key {
            self.heads += "authorization: Bearer ";
            self.heads += &key;
            self.heads += "\r\n";
        }
        let run = json!({"agent_id": format!("bench-{n}"), "goal": "post steps one by one", "plan": ["search", "answer"]});
        let run = run.to_string();
        while Instant::now() < end {
            let run_id = self
                .post("/api/v1/runs", &run)
                .await?
                .context("no run_id in the answer")?;
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
                self.post(&path, &body.to_string()).await?;
            }
        }
        Ok((self.latencies, self.retried))
    }

    /// Posts a record, again while there is no room for it; gives the run that the answer names.
    async fn post(&mut self, path: &str, body: &str) -> Result<Option<String>> {
        let line = match &self.header {
            Some(name) => format!("{name}: {}\r\n", hex(&self.random.bytes::<16>())),
            None => String::new(),
        };
        let (heads, length) = (&self.heads, body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\n{heads}content-type: application/json\r\n{line}content-length: {length}\r\n\r\n{body}"
        );
        for _ in 0..ATTEMPTS {
            let asked = Instant::now();
            self.stream.write_all(request.as_bytes()).await?;
            let head = loop {
                if let Some(head) = Head::of(&self.read) {
                    break head?;
                }
                self.more().await?;
            };
            ensure!(!head.chunked, "{path}: an answer of unknown length");
            let end = head.end + head.length;
            while self.read.len() < end {
                self.more().await?;
            }
            let text = &self.read[head.end..end];
            if matches!(head.status, 429 | 503) {
                self.retried += 1;
                self.read.clear();
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            let text = String::from_utf8_lossy(text);
            ensure!(head.status == 201, "{path}: {}: {text}", head.status);
            self.latencies.push(asked.elapsed());
            let posted: Posted<'_> =
                serde_json::from_str(&text).with_context(|| format!("no receipt: {text}"))?;
            let run_id = posted.run_id.map(str::to_owned);
            self.read.clear();
            return Ok(run_id);
        }
        bail!("{path}: refused {ATTEMPTS} times")
    }

    async fn more(&mut self) -> Result<()> {
        self.read.reserve(4 * 1024);
        ensure!(
            self.stream.read_buf(&mut self.read).await? > 0,
            "the server closed a connection"
        );
        Ok(())
    }
}
