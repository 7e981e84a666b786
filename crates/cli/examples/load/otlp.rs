//! OTLP/HTTP ingest: so many spans over so many connections, as fast as they are answered.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use serde_json::{Value, json};

use crate::http::Connection;
use crate::ids::Random;
use crate::spans::{Body, Factory};
use crate::stats::{latencies, round};

/// Bodies that are encoded once and sent in turn: 110 MB of 500 spans each.
const POOL: usize = 200;

/// Attempts at a request that was refused for want of room.
const ATTEMPTS: u32 = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Otlp {
    /// Where the server listens.
    #[arg(long)]
    pub(crate) server: SocketAddr,
    /// An API key, when the server has keys.
    #[arg(long)]
    pub(crate) key: Option<String>,
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) spans: u64,
    /// Spans a request.
    #[arg(long, default_value_t = 500)]
    pub(crate) batch: usize,
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// At most so many spans a second, over all connections; 0: as many as are answered.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u64,
    /// Write some of the run ids sent, one a line.
    #[arg(long)]
    pub(crate) runs_out: Option<PathBuf>,
}

/// One connection's answers.
#[derive(Default)]
struct Sent {
    /// When an answer came, since the start, and how many spans it acknowledged.
    done: Vec<(Duration, u64)>,
    latencies: Vec<Duration>,
    rejected: u64,
    retried: u64,
    bytes: u64,
    runs: Vec<String>,
}

impl Otlp {
    pub(crate) fn run(&self) -> Result<Value> {
        self.run_until(&AtomicBool::new(false))
    }

    /// Sends until everything is sent, or until told to stop.
    pub(crate) fn run_until(&self, stop: &AtomicBool) -> Result<Value> {
        let mut factory = Factory::new(Random::fresh());
        let requests = self.spans.div_ceil(self.batch as u64);
        let pool = POOL.min(requests as usize).max(self.connections);
        let mut pools: Vec<Vec<Body>> = (0..self.connections).map(|_| Vec::new()).collect();
        for n in 0..pool {
            pools[n % self.connections].push(Body::encode(&factory.request(self.batch)));
        }
        drop(factory);
        let taken = AtomicU64::new(0);
        let begun = Instant::now();
        let sent = std::thread::scope(|scope| -> Result<Vec<Sent>> {
            let threads: Vec<_> = pools
                .into_iter()
                .enumerate()
                .map(|(n, pool)| {
                    let taken = &taken;
                    scope.spawn(move || self.connection(n, pool, requests, taken, begun, stop))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })?;
        self.report(&sent)
    }

    fn connection(
        &self,
        n: usize,
        mut pool: Vec<Body>,
        requests: u64,
        taken: &AtomicU64,
        begun: Instant,
        stop: &AtomicBool,
    ) -> Result<Sent> {
        let mut random = Random::fresh();
        for _ in 0..=n {
            random = Random::new(random.next());
        }
        let mut connection = Connection::new(self.server, self.key.as_deref());
        let mut sent = Sent::default();
        let mut turn = 0;
        loop {
            let number = taken.fetch_add(1, Ordering::Relaxed);
            if number >= requests || stop.load(Ordering::Relaxed) {
                return Ok(sent);
            }
            if self.rate > 0 {
                let due = Duration::from_secs_f64(number as f64 * self.batch as f64 / self.rate as f64);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            let at = turn % pool.len();
            turn += 1;
            let body = &mut pool[at];
            body.renew(&mut random, 1_000_000_000);
            if number.is_multiple_of(20) {
                sent.runs.push(body.run_id());
            }
            let mut attempt = 1;
            let answer = loop {
                let asked = Instant::now();
                let answer = connection.post("/v1/traces", "application/x-protobuf", &body.bytes)?;
                if matches!(answer.status, 429 | 503) && attempt < ATTEMPTS {
                    attempt += 1;
                    sent.retried += 1;
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
                sent.latencies.push(asked.elapsed());
                break answer;
            };
            let text = String::from_utf8_lossy(&answer.body);
            ensure!(answer.status == 200, "{}: {text}", answer.status);
            let partial = ExportTraceServiceResponse::decode(answer.body.as_slice())?.partial_success;
            let rejected = partial.map_or(0, |partial| partial.rejected_spans.unsigned_abs());
            sent.rejected += rejected;
            sent.bytes += body.bytes.len() as u64;
            sent.done.push((begun.elapsed(), body.spans as u64 - rejected));
        }
    }

    fn report(&self, sent: &[Sent]) -> Result<Value> {
        let mut done: Vec<_> = sent.iter().flat_map(|sent| sent.done.iter().copied()).collect();
        done.sort_unstable();
        let acknowledged: u64 = done.iter().map(|(_, spans)| spans).sum();
        let seconds = done.last().map_or(0.0, |(at, _)| at.as_secs_f64());
        let tenths: Vec<f64> = done
            .chunks(done.len().div_ceil(10).max(1))
            .scan(Duration::ZERO, |before, tenth| {
                let end = tenth.last()?.0;
                let spans: u64 = tenth.iter().map(|(_, spans)| spans).sum();
                let rate = spans as f64 / (end.saturating_sub(*before)).as_secs_f64().max(1e-9);
                *before = end;
                Some(round(rate, 0))
            })
            .collect();
        let sum = |of: fn(&Sent) -> u64| sent.iter().map(of).sum::<u64>();
        if let Some(path) = &self.runs_out {
            let runs: Vec<&str> = sent
                .iter()
                .flat_map(|sent| &sent.runs)
                .map(String::as_str)
                .collect();
            std::fs::write(path, runs.join("\n") + "\n")?;
        }
        Ok(json!({
            "spans": acknowledged,
            "seconds": round(seconds, 3),
            "spans_per_sec": round(acknowledged as f64 / seconds.max(1e-9), 0),
            "tenths": tenths,
            "latency_ms": latencies(sent.iter().flat_map(|sent| sent.latencies.iter().copied()).collect()),
            "rejected": sum(|sent| sent.rejected),
            "retried": sum(|sent| sent.retried),
            "body_bytes_per_span": round(sum(|sent| sent.bytes) as f64 / acknowledged.max(1) as f64, 1),
        }))
    }
}
