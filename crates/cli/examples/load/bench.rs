//! Every figure against a server of its own on a folder of its own, in one table.
//!
//! Limits that depend on the machine are measured here too, in the same run, and given as ratios.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::figure::{Figure, at_least, below, number, number_at, shown};
use crate::http::Connection;
use crate::otlp::Otlp;
use crate::reads::Reads;
use crate::rest::Rest;
use crate::served::Server;
use crate::stats::round;
use crate::{beside, disk, peers};

/// Spans of the peers: enough for a steady rate, a tenth of the time of the server's own.
const PEER_SPANS: u64 = 100_000;

/// How much faster a peer may be on one side of the ingest before its ratio is called into question.
const PEERS_MOVED: f64 = 1.5;

/// Turns of probe and load in the ratio to the disk, and seconds of each probe. The sync rate of a shared
/// disk has been seen to change thirtyfold within a minute, so the two are measured side by side.
const TURNS: u32 = 12;
const PROBE_SECS: f64 = 0.4;

/// A turn counts when the probes on both sides of it agree within this factor.
const DISK_STEADY: f64 = 1.5;

/// Fewer turns that count are no measurement, and neither are such whose middle half spreads further than
/// the factor: then the disk moved within them.
const TURNS_MIN: usize = 6;
const SPREAD_MAX: f64 = 2.0;

/// One client that waits for each receipt cannot be faster than the disk syncs, but for the noise of short
/// turns. Above this the two did not see the same disk.
const RATIO_MAX: f64 = 1.3;

/// Spans a second while reads are measured: what the server has to take at least. At full speed the load
/// generator leaves the reader no core, and the figure would be the scheduler's.
const READS_INGEST: u64 = 25_000;

/// How much slower a read may be on a larger ledger.
const SIZES_RATIO_MAX: f64 = 1.2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Ingest,
    Rest,
    Verify,
    Reads,
    Start,
    /// What authorization and access recording cost.
    Recording,
    /// What an `Idempotency-Key` costs.
    Middleware,
    All,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    #[arg(value_enum, default_value = "all")]
    part: Part,
    /// The server's program.
    #[arg(long)]
    pub(crate) binary: PathBuf,
    /// An empty folder; the data and bench-results.json stay in it.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Spans sent for ingest, verify, start and reads.
    #[arg(long, visible_alias = "records", default_value_t = 1_000_000)]
    pub(crate) spans: u64,
    /// Reads: measure them at so many spans too, a smaller number, and compare.
    #[arg(long)]
    compare: Option<u64>,
    /// Seconds of each REST and reads measurement.
    #[arg(long, default_value_t = 8.0)]
    pub(crate) seconds: f64,
    /// Exit 1 when a figure is missed.
    #[arg(long)]
    strict: bool,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<i32> {
        std::fs::create_dir_all(&self.dir)?;
        let mut figures = Vec::new();
        let mut raw = Map::new();
        let mut failed = false;
        for part in [
            Part::Ingest,
            Part::Start,
            Part::Verify,
            Part::Reads,
            Part::Rest,
            Part::Recording,
            Part::Middleware,
        ] {
            if self.part != part && self.part != Part::All {
                continue;
            }
            eprintln!("bench: {part:?} …");
            let measured = match part {
                Part::Ingest => self.ingest(&mut figures, &mut raw),
                Part::Start => self.starting(&mut figures, &mut raw),
                Part::Verify => self.verify(&mut figures, &mut raw),
                Part::Reads => self.reads(&mut figures, &mut raw),
                Part::Rest => self.rest(&mut figures, &mut raw),
                Part::Recording => self.recording(&mut figures, &mut raw),
                Part::Middleware => self.middleware(&mut figures, &mut raw),
                Part::All => Ok(()),
            };
            if let Err(error) = measured {
                eprintln!("bench: {part:?} could not be measured: {error:#}");
                raw.insert(
                    format!("{part:?}").to_lowercase(),
                    json!({"error": format!("{error:#}")}),
                );
                failed = true;
            }
        }
        println!("{:<58} {:>12} {:>12} {:>7}", "figure", "value", "target", "ratio");
        let mut missed = failed;
        for figure in &figures {
            missed |= !figure.held();
            println!("{}", figure.line());
        }
        if failed {
            println!("NOT MEASURED: see above");
        }
        let rows: Vec<Value> = figures
            .iter()
            .map(|f| json!({"figure": f.name, "unit": f.unit, "value": f.value, "target": f.target, "held": f.held()}))
            .collect();
        let results = self.dir.join("bench-results.json");
        std::fs::write(
            &results,
            serde_json::to_vec_pretty(&json!({"figures": rows, "raw": raw}))?,
        )?;
        println!("{}", results.display());
        Ok(i32::from(
            missed && (self.strict || (failed && figures.is_empty())),
        ))
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A folder of `spans` spans, made when no earlier part made it.
    fn filled(&self) -> Result<PathBuf> {
        let data = self.data();
        if !data.exists() {
            let server = Server::start(&self.binary, &data)?;
            self.otlp(&server, self.spans, 0).run()?;
            server.stop()?;
        }
        Ok(data)
    }

    pub(crate) fn otlp(&self, server: &Server, spans: u64, rate: u64) -> Otlp {
        let runs_out = Some(self.dir.join("runs.txt"));
        Otlp {
            server: server.address,
            key: None,
            spans,
            batch: 500,
            connections: 4,
            rate,
            runs_out,
        }
    }

    fn ingest(&self, figures: &mut Vec<Figure>, raw: &mut Map<String, Value>) -> Result<()> {
        let data = self.data();
        let _ = std::fs::remove_dir_all(&data);
        // On both sides of the ingest: a machine that others use is not the same one minutes later.
        let peers = || {
            Ok::<_, anyhow::Error>((
                peers::plain(PEER_SPANS, &self.dir)?,
                peers::raw(PEER_SPANS, &self.dir)?,
            ))
        };
        let before = peers()?;
        let server = Server::start(&self.binary, &data)?;
        let load = self.otlp(&server, self.spans, 0).run()?;
        let memory = server.memory_peak()?;
        server.stop()?;
        let after = peers()?;
        let mean = |a: &Value, b: &Value| -> Result<f64> {
            let (a, b) = (number_at(a, "spans_per_sec")?, number_at(b, "spans_per_sec")?);
            if a.max(b) > PEERS_MOVED * a.min(b) {
                eprintln!(
                    "bench: a peer did {a:.0} spans/s before the ingest and {b:.0} after: its ratio says little"
                );
            }
            Ok(f64::midpoint(a, b))
        };
        let (plain, inserts) = (mean(&before.0, &after.0)?, mean(&before.1, &after.1)?);
        let bytes = folder_bytes(&data)?;
        let spans = number_at(&load, "spans")?;
        let rate = number_at(&load, "spans_per_sec")?;
        let tenths = load["tenths"].as_array().context("no tenths")?;
        let tenth = |n: usize| tenths.get(n).and_then(Value::as_f64).unwrap_or(0.0);
        figures.extend([
            at_least("OTLP ingest, acknowledged on disk", "spans/s", rate, 25_000.0),
            at_least(
                "… last tenth against the first",
                "×",
                tenth(tenths.len() - 1) / tenth(0),
                0.70,
            ),
            below(
                "… p99 of a request of 500",
                "ms",
                number_at(&load["latency_ms"], "p99")?,
                250.0,
            ),
            // What the ratios come to is for the reader to judge.
            shown(
                "… against plain decode, canonicalise, hash, insert",
                "×",
                rate / plain,
            ),
            shown("… against raw inserts of the same bytes", "×", rate / inserts),
            below("… spans refused", "spans", number_at(&load, "rejected")?, 1.0),
            below(
                "server's memory at its highest",
                "MiB",
                memory as f64 / f64::from(1 << 20),
                256.0,
            ),
            below(
                "disk, everything in the folder",
                "B/span",
                bytes as f64 / spans,
                1_200.0,
            ),
        ]);
        raw.insert(
            "ingest".into(),
            json!({"load": load, "peers_before": before, "peers_after": after, "memory": memory, "bytes": bytes}),
        );
        Ok(())
    }

    /// From starting the process to the first 200 of a POST.
    fn starting(&self, figures: &mut Vec<Figure>, raw: &mut Map<String, Value>) -> Result<()> {
        let data = self.filled()?;
        let body = crate::spans::Factory::new(crate::ids::Random::fresh()).request(1);
        let mut all = Vec::new();
        for _ in 0..5 {
            let mut body = crate::spans::Body::encode(&body);
            body.renew(&mut crate::ids::Random::fresh(), 1_000_000);
            let begun = Instant::now();
            let server = Server::start(&self.binary, &data)?;
            let mut connection = Connection::new(server.address, None);
            let status = connection
                .post("/v1/traces", "application/x-protobuf", &body.bytes)?
                .status;
            ensure!(status == 200, "the first request was answered {status}");
            all.push(round(begun.elapsed().as_secs_f64() * 1e3, 1));
            server.stop()?;
        }
        let worst = all.iter().copied().fold(0.0, f64::max);
        figures.push(below(
            "start to the first acknowledged POST, worst of 5",
            "ms",
            worst,
            300.0,
        ));
        raw.insert("start".into(), json!({"ms": all}));
        Ok(())
    }

    fn verify(&self, figures: &mut Vec<Figure>, raw: &mut Map<String, Value>) -> Result<()> {
        let data = self.filled()?;
        for (name, more, target) in [
            ("everything", &[][..], 250_000.0),
            ("--only ledger", &["--only", "ledger"], 500_000.0),
        ] {
            let begun = Instant::now();
            let done = Command::new(&self.binary)
                .args(["verify", "--format", "json", "--data-dir"])
                .arg(&data)
                .args(more)
                .stderr(Stdio::null())
                .output()?;
            let seconds = begun.elapsed().as_secs_f64();
            ensure!(done.status.success(), "verify ended with {}", done.status);
            let report: Value = serde_json::from_slice(&done.stdout)?;
            let leaves = leaves_of(&report).context("no sizes in the report")?;
            figures.push(at_least(
                &format!("verify, {name}"),
                "leaves/s",
                leaves / seconds,
                target,
            ));
            raw.insert(
                format!("verify {name}"),
                json!({"seconds": seconds, "leaves": leaves}),
            );
        }
        Ok(())
    }

    fn reads(&self, figures: &mut Vec<Figure>, raw: &mut Map<String, Value>) -> Result<()> {
        // The small one first: a folder that an earlier part made is the large one, with its own list of runs.
        let fewer = self.compare.map(|spans| self.reads_of_fewer(spans)).transpose()?;
        let data = self.filled()?;
        let (reading, load, memory) = self.read_while_ingesting(&data, self.spans, "runs.txt")?;
        // Less than was to come means that the machine had no room for the reads either.
        figures.push(at_least(
            "ingest meanwhile",
            "spans/s",
            number_at(&load, "spans_per_sec")?,
            READS_INGEST as f64 * 0.95,
        ));
        for (name, latency) in reading["latency_ms"].as_object().context("no latencies")? {
            let p99 = number_at(latency, "p99")?;
            let title = format!("read while ingest runs: {name}, p99");
            figures.push(below(&title, "ms", p99, 10.0));
            if let Some((small, _)) = &fewer {
                let less = number_at(&small["latency_ms"][name], "p99")?;
                let title = format!(
                    "… against {} spans: {name}",
                    number(self.compare.unwrap_or(0) as f64)
                );
                figures.push(below(&title, "×", p99 / less, SIZES_RATIO_MAX));
            }
        }
        figures.push(below(
            "server's memory, ingest and reads",
            "MiB",
            memory as f64 / f64::from(1 << 20),
            256.0,
        ));
        if let Some((small, load)) = fewer {
            raw.insert("reads_of_fewer".into(), json!({"reads": small, "load": load}));
        }
        raw.insert(
            "reads".into(),
            json!({"reads": reading, "load": load, "memory": memory}),
        );
        Ok(())
    }

    /// The reads over a folder of fewer spans, which goes again.
    fn reads_of_fewer(&self, spans: u64) -> Result<(Value, Value)> {
        ensure!(spans < self.spans, "--compare takes fewer spans than --spans");
        let data = self.dir.join("fewer");
        let _ = std::fs::remove_dir_all(&data);
        let server = Server::start(&self.binary, &data)?;
        let mut otlp = self.otlp(&server, spans, 0);
        otlp.runs_out = Some(self.dir.join("runs-fewer.txt"));
        otlp.run()?;
        server.stop()?;
        let (reading, load, _) = self.read_while_ingesting(&data, spans, "runs-fewer.txt")?;
        std::fs::remove_dir_all(&data)?;
        Ok((reading, load))
    }

    /// Latencies of the reads, the load beside them, and the server's memory. Beside the spans there are system records,
    /// points and audit entries, loaded before.
    fn read_while_ingesting(&self, data: &Path, spans: u64, runs: &str) -> Result<(Value, Value, u64)> {
        let server = Server::start(&self.binary, data)?;
        let reads = Reads {
            server: server.address,
            key: None,
            seconds: self.seconds,
            runs: Some(self.dir.join(runs)),
        };
        let known = reads.known(&mut Connection::new(server.address, None))?;
        let beside = beside::load(server.address, spans, &known)?;
        println!(
            "reads of {} spans, and beside them {beside}",
            number(spans as f64)
        );
        let stop = AtomicBool::new(false);
        let mut otlp = self.otlp(&server, u64::MAX / 2, READS_INGEST);
        otlp.runs_out = None;
        let (reading, load) = std::thread::scope(|scope| {
            let load = scope.spawn(|| otlp.run_until(&stop));
            // Not before the bodies are made and the first are sent.
            std::thread::sleep(Duration::from_secs(3));
            let reading = reads.run();
            stop.store(true, Ordering::Relaxed);
            (reading, load.join().unwrap())
        });
        let (mut reading, load) = (reading?, load?);
        reading["beside"] = beside;
        let memory = server.memory_peak()?;
        server.stop()?;
        Ok((reading, load, memory))
    }

    fn rest(&self, figures: &mut Vec<Figure>, raw: &mut Map<String, Value>) -> Result<()> {
        let data = self.dir.join("rest");
        let _ = std::fs::remove_dir_all(&data);
        let server = Server::start(&self.binary, &data)?;
        let turn_secs = self.seconds / f64::from(TURNS);
        let mut rest = Rest {
            server: server.address,
            key: None,
            clients: 1,
            seconds: turn_secs,
            header: None,
        };
        let (mut turns, mut ratios, mut steady_syncs) = (Vec::new(), Vec::new(), Vec::new());
        let syncs = || number_at(&disk::fdatasync(PROBE_SECS, &self.dir)?, "writes_per_sec");
        let mut before = syncs()?;
        for _ in 0..TURNS {
            let records = number_at(&rest.run()?, "records_per_sec")?;
            let after = syncs()?;
            if before.max(after) <= DISK_STEADY * before.min(after) {
                ratios.push(round(records / f64::midpoint(before, after), 3));
                steady_syncs.push(f64::midpoint(before, after));
            }
            turns.push(json!({"syncs_before": before, "records": records, "syncs_after": after}));
            before = after;
        }
        ratios.sort_unstable_by(f64::total_cmp);
        steady_syncs.sort_unstable_by(f64::total_cmp);
        (rest.clients, rest.seconds) = (64, self.seconds);
        let many = rest.run()?;
        let memory = server.memory_peak()?;
        server.stop()?;
        figures.extend([
            at_least(
                "REST, 64 clients",
                "records/s",
                number_at(&many, "records_per_sec")?,
                15_000.0,
            ),
            below(
                "server's memory, REST",
                "MiB",
                memory as f64 / f64::from(1 << 20),
                256.0,
            ),
        ]);
        let one = json!({"turns": turns, "ratios": ratios});
        raw.insert(
            "rest_measured".into(),
            json!({"one": one, "many": many, "memory": memory}),
        );
        ensure!(
            ratios.len() >= TURNS_MIN,
            "one client against the disk: the sync rate was steady in {} of {TURNS} turns only",
            ratios.len()
        );
        let at = |quarter: usize| ratios[(ratios.len() * quarter / 4).min(ratios.len() - 1)];
        let (low, median, high) = (at(1), at(2), at(3));
        ensure!(
            median <= RATIO_MAX && high <= SPREAD_MAX * low,
            "one client against the disk: {low} to {high} of its sync rate; they did not see the same disk"
        );
        let name = format!(
            "REST, 1 client, against {:.0} fdatasync/s",
            steady_syncs[steady_syncs.len() / 2]
        );
        figures.push(at_least(&name, "×", median, 0.5));
        Ok(())
    }
}

/// Leaves of all ledgers in a verification's report.
fn leaves_of(report: &Value) -> Option<f64> {
    let ledgers = report["ledgers"].as_array()?;
    let sizes = ledgers
        .iter()
        .map(|ledger| ledger["tree_size"].as_f64().or_else(|| ledger["leaves"].as_f64()));
    sizes.sum()
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            folder_bytes(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}
