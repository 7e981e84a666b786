//! What two parts of the server cost, as ratios: the same load with each and without, in turn.
//!
//! The sides of a round are measured one after the other, in the reverse order in the next, so that a machine that
//! grows slower is slower for both. What counts is the median of the rounds.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::bench::Bench;
use crate::figure::{Figure, below, number_at, shown};
use crate::reads::Reads;
use crate::rest::Rest;
use crate::served::{Server, tenant_with_key};
use crate::stats::round;

/// Rounds of each comparison; of fewer the median says little on a machine that others use.
const ROUNDS: usize = 5;

/// Spans of one side: several seconds at 25,000 a second.
const RECORDING_SPANS_MAX: u64 = 200_000;

/// Seconds of reads that are recorded before either side is measured: some eighty of each, and a page is fifty.
const TRAIL_SECONDS: f64 = 2.0;

/// What no record level leaves on record: allowed reads and writes. What is denied always is.
const RECORDED_NOTHING: [(&str, &str); 2] = [
    ("DEPONENT_RECORD_READS", "none"),
    ("DEPONENT_RECORD_WRITES", "none"),
];

/// The same header to the server's parser, and nothing to the middleware: what differs from none is noise, and
/// the reading of one header line.
const OTHER_HEADER: &str = "x-bench-number";

impl Bench {
    /// Ingest and reads with an API key, with allowed reads and writes on record and without.
    pub(crate) fn recording(&self, figures: &mut Vec<Figure>, raw: &mut Map<String, Value>) -> Result<()> {
        let spans = self.spans.min(RECORDING_SPANS_MAX);
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for turn in 0..ROUNDS {
            let order = if turn.is_multiple_of(2) {
                [true, false]
            } else {
                [false, true]
            };
            for on in order {
                let side = if on { &mut with } else { &mut without };
                side.push(self.recorded(if on { &[] } else { &RECORDED_NOTHING }, spans)?);
            }
        }
        let pairs = || with.iter().zip(&without);
        let lost = pairs()
            .map(|(on, off)| {
                Ok(percent_lost(
                    rate(&on.0, "spans_per_sec")?,
                    rate(&off.0, "spans_per_sec")?,
                ))
            })
            .collect::<Result<Vec<f64>>>()?;
        figures.push(below("recording: ingest lost to it", "%", median(lost), 10.0));
        let names = with[0].1["latency_ms"]
            .as_object()
            .context("no latencies")?
            .keys();
        let mut worst = [(f64::MIN, ""), (f64::MIN, "")];
        for name in names {
            for (worst, share) in worst.iter_mut().zip(["p50", "p99"]) {
                let more = pairs()
                    .map(|(on, off)| {
                        let at = |side: &Value| number_at(&side["latency_ms"][name], share);
                        Ok(at(&on.1)? - at(&off.1)?)
                    })
                    .collect::<Result<Vec<f64>>>()?;
                let more = median(more);
                if more > worst.0 {
                    *worst = (more, name);
                }
            }
        }
        let [(p50, at_p50), (p99, at_p99)] = worst;
        figures.push(below(
            &format!("recording: more of a read, p50 of {at_p50}"),
            "ms",
            p50,
            1.0,
        ));
        // The greatest of twenty-one differences of p99s is as much noise as cost.
        figures.push(shown(
            &format!("recording: more of a read, p99 of {at_p99}"),
            "ms",
            p99,
        ));
        let sides = |side: &[(Value, Value)]| -> Vec<Value> {
            let each = side.iter();
            each.map(|(load, reads)| json!({"load": load, "reads": reads}))
                .collect()
        };
        raw.insert(
            "recording".into(),
            json!({"with": sides(&with), "without": sides(&without)}),
        );
        Ok(())
    }

    /// A new folder with a tenant and a key: its ingest, then its reads with nothing beside them, over a trail that is there.
    fn recorded(&self, settings: &[(&str, &str)], spans: u64) -> Result<(Value, Value)> {
        let data = self.dir.join("recording");
        let _ = std::fs::remove_dir_all(&data);
        let key = tenant_with_key(&self.binary, &data)?;
        let server = Server::start_with(&self.binary, &data, settings)?;
        let runs = self.dir.join("runs-recording.txt");
        let mut otlp = self.otlp(&server, spans, 0);
        otlp.key = Some(key.clone());
        otlp.runs_out = Some(runs.clone());
        let load = otlp.run()?;
        server.stop()?;
        let reads = |settings: &[(&str, &str)], seconds| {
            let server = Server::start_with(&self.binary, &data, settings)?;
            let reads = Reads {
                server: server.address,
                key: Some(key.clone()),
                seconds,
                runs: Some(runs.clone()),
            };
            let reading = reads.run()?;
            server.stop()?;
            Ok::<_, anyhow::Error>(reading)
        };
        // Both sides read full pages of who read what and who was let in: what is told apart is the recording, not that
        // there is more to read.
        reads(&[], TRAIL_SECONDS)?;
        let reading = reads(settings, self.seconds)?;
        std::fs::remove_dir_all(&data)?;
        Ok((load, reading))
    }

    /// POSTs with a new `Idempotency-Key` each, against the same without, by one client and by 64.
    ///
    /// Without the header the middleware looks for it and does nothing else. A server without the middleware
    /// cannot be started, so that side is shown by a header that means nothing.
    pub(crate) fn middleware(&self, figures: &mut Vec<Figure>, raw: &mut Map<String, Value>) -> Result<()> {
        let data = self.dir.join("middleware");
        let _ = std::fs::remove_dir_all(&data);
        let mut rounds = Map::new();
        for clients in [1, 64] {
            let (mut other, mut key, mut turns) = (Vec::new(), Vec::new(), Vec::new());
            for turn in 0..ROUNDS {
                let mut headers = [None, Some(OTHER_HEADER), Some("idempotency-key")];
                if !turn.is_multiple_of(2) {
                    headers.reverse();
                }
                let mut rates = Vec::new();
                for header in headers {
                    rates.push(self.posted(&data, clients, header)?);
                }
                if !turn.is_multiple_of(2) {
                    rates.reverse();
                }
                other.push(percent_lost(rates[1], rates[0]));
                key.push(percent_lost(rates[2], rates[0]));
                turns.push(json!({"plain": rates[0], "other_header": rates[1], "idempotency_key": rates[2]}));
            }
            let title = format!("middleware, {clients} clients: lost to a header without meaning");
            figures.push(shown(&title, "%", median(other)));
            let title = format!("middleware, {clients} clients: lost to a new key each");
            figures.push(below(&title, "%", median(key), 5.0));
            rounds.insert(clients.to_string(), turns.into());
        }
        std::fs::remove_dir_all(&data)?;
        raw.insert("middleware".into(), rounds.into());
        Ok(())
    }

    /// Records a second, by a server of its own: what the one before left to do is not done beside it.
    fn posted(&self, data: &Path, clients: usize, header: Option<&str>) -> Result<f64> {
        let server = Server::start(&self.binary, data)?;
        let rest = Rest {
            server: server.address,
            key: None,
            clients,
            seconds: self.seconds / 2.0,
            header: header.map(str::to_owned),
        };
        let done = rest.run()?;
        server.stop()?;
        rate(&done, "records_per_sec")
    }
}

/// A rate of which a share can be told: none at all is no measurement.
fn rate(of: &Value, name: &str) -> Result<f64> {
    let rate = number_at(of, name)?;
    anyhow::ensure!(rate > 0.0, "nothing was done: {of}");
    Ok(rate)
}

/// How much less is done with something than without it, in percent; below zero: more.
fn percent_lost(with: f64, without: f64) -> f64 {
    round((1.0 - with / without) * 100.0, 2)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}
