//! `deponent lineage import`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::evidence::record::{LINEAGE_COPY, LINEAGE_RUN, LineageRecord, lineage_identity, lineage_type};
use ::evidence::redact::Redactor;
use ::evidence::{Identity, Kind, Timestamp, canonical};
use anyhow::{Context, Result, bail};
use clap::Args;
use ledger::admin::{AdminAnswer, AdminRequest};
use ledger::lineage::LineageImported;
use lineage::{Lines, SourceFile, shown};
use serde_json::{Value, json};

use crate::client::{Answer, Client, ServerArgs, refusal, segment};
use crate::cmd::work::{self, Unit};
use crate::cmd::{DataDir, EXIT_UNKNOWN};
use crate::output::{self, Format, Usage};

/// Make records of an audit log.
///
/// The log becomes a run of the name in its file's name, audit_<run id>.jsonl. A line that is on record is not written
/// again, so that an import may be done again; of a log that has grown the new lines are taken until its run is sealed,
/// half a minute after the first import. They go to the server that --server or DEPONENT_URL names, unless
/// --data-dir says otherwise.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 every line is on record, 1 a line is none, or was refused, 2 it was called off (Ctrl-C) before \
    the end of the log, 64 usage, 69 the log, the data folder or the server cannot be used"
)]
pub(crate) struct Import {
    /// The log.
    file: PathBuf,
    /// Whose records they become; of a server, the key says it.
    #[arg(long, default_value = "default")]
    tenant: String,
    #[command(flatten)]
    data_dir: DataDir,
    #[command(flatten)]
    server: ServerArgs,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl Import {
    pub(super) fn run(self) -> Result<u8> {
        if self.server.is_given() && self.data_dir.is_given() {
            bail!(Usage("--server and --data-dir: one of them".into()));
        }
        let path = std::path::absolute(&self.file)?;
        let log = match SourceFile::open(&path) {
            Ok(log) => log,
            Err(error) => bail!("audit log {}: {error}", self.file.display()),
        };
        let run_id = run_of(&path)?;
        let (imported, job_id) = if !self.data_dir.is_given() && self.server.is_named()? {
            (send(&self.server.client()?, &log, &run_id)?, None)
        } else {
            let request = AdminRequest::LineageImport {
                tenant_id: self.tenant,
                path,
            };
            match work::ask(self.data_dir.existing()?, request, Unit::Bytes)? {
                AdminAnswer::LineageImported { imported, job_id } => (imported, Some(job_id)),
                AdminAnswer::Refused { reason } => bail!(Usage(reason)),
                AdminAnswer::Failed { reason } => bail!(reason),
                other => bail!("unexpected answer: {other:?}"),
            }
        };
        for remark in &imported.remarks {
            output::note(format_args!(
                "deponent: {}: {}",
                self.file.display(),
                shown(remark)
            ));
        }
        match self.format {
            Format::Json => {
                let mut answer = serde_json::to_value(&imported)?;
                if let Some(job_id) = job_id {
                    answer["job_id"] = job_id.into();
                }
                output::json(&answer)?;
            }
            Format::Text => output::line(format_args!(
                "run {}: {} records written, {} were there, {} lines of other types, {} are none, {} were refused",
                imported.run_id,
                imported.written,
                imported.known,
                imported.other,
                imported.malformed,
                imported.refused
            )),
        }
        if !imported.complete {
            output::note("deponent: it was called off before the end of the log");
            return Ok(EXIT_UNKNOWN);
        }
        Ok(u8::from(imported.malformed + imported.refused > 0))
    }
}

/// Most different lines of a log that are sent: as many as the ledger itself imports.
const LINES_MAX: usize = 4_000_000;

/// Lines that a tenant's own patterns make equal, tried one after the other; the built-in rules are known here.
const COPIES_TRIED_MAX: u32 = 1_000;

/// Longest line that is sent: the largest body, and room for what is no part of it. As the ledger's own import.
const LINE_BYTES_MAX: usize = 17 * 1024 * 1024;

/// What tells the lines of a log from one another while they are sent.
#[derive(Default)]
struct Seen {
    /// How often a line came, as the built-in rules of redaction leave it.
    lines: HashMap<Identity, u32>,
    /// Leaves that lines of this log have. One that comes twice is another line's, which the tenant's own patterns
    /// have made equal to this one.
    leaves: HashSet<u64>,
}

impl Seen {
    /// How many lines equal to this one came before it.
    fn copies(&mut self, record: &LineageRecord) -> u32 {
        let body = record.encode();
        let redacted = Redactor::standard().body(record.kind(), &body).ok().flatten();
        let identity = lineage_identity(record.kind(), redacted.as_deref().unwrap_or(&body));
        let count = self.lines.entry(identity).or_default();
        *count += 1;
        *count - 1
    }
}

/// Longest wait for a server that has no room for one request just now, or has had too many of this key.
const ROOM_TIME: Duration = Duration::from_mins(1);

/// Asks until the server has room: a log has more lines than a key may send at once, and what is sent again is known.
fn with_room(ask: impl Fn() -> Result<Answer>) -> Result<Answer> {
    let until = Instant::now() + ROOM_TIME;
    loop {
        let answer = ask()?;
        let pause = answer.retry_after.filter(|_| is_full(&answer));
        let pause = pause.map(|secs| Duration::from_secs(secs.max(1)));
        let in_time = |pause: &Duration| {
            let then = Instant::now().checked_add(*pause);
            then.is_some_and(|then| then <= until)
        };
        match pause.filter(in_time) {
            Some(pause) => std::thread::sleep(pause),
            None => return Ok(answer),
        }
    }
}

/// Whether it is a moment's matter: a ledger that takes nothing is not.
fn is_full(answer: &Answer) -> bool {
    if !matches!(answer.status, 429 | 503) {
        return false;
    }
    let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    problem["code"] == "busy" || problem["code"] == "rate_limited"
}

const fn path_of(kind: Kind) -> &'static str {
    match kind {
        Kind::LineageEvidence => "/api/v1/lineage/evidence",
        Kind::LineageDeterministic => "/api/v1/lineage/deterministic",
        Kind::LineageAiOutput => "/api/v1/lineage/ai-output",
        _ => "/api/v1/lineage/ai-metrics",
    }
}

/// Posts a line that so many equal ones came before, as it is; the ledger's own members say the rest.
fn post(client: &Client, record: &LineageRecord, run_id: &str, copies: u32) -> Result<Answer> {
    let mut body = record.fields().clone();
    body.insert("type", lineage_type(record.kind()).unwrap_or_default());
    body.insert(LINEAGE_RUN, run_id);
    if copies > 0 {
        body.insert(LINEAGE_COPY, copies);
    }
    let body = canonical::to_vec(&body);
    with_room(|| client.post_bytes(path_of(record.kind()), body.clone()))
}

/// The run that a log's file is named after.
fn run_of(path: &Path) -> Result<String> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let run_id = name
        .strip_prefix("audit_")
        .and_then(|rest| rest.strip_suffix(".jsonl"));
    match run_id.filter(|run_id| !run_id.is_empty()) {
        Some(run_id) => Ok(run_id.to_owned()),
        None => bail!(Usage(format!(
            "{} names no run: audit_<run id>.jsonl",
            shown(name)
        ))),
    }
}

/// Posts the lines one by one: a line that was posted before is known, so an import may be done again. What is a line
/// is what the ledger's own import takes for one.
fn send(client: &Client, log: &SourceFile, run_id: &str) -> Result<LineageImported> {
    let mut imported = LineageImported {
        run_id: run_id.to_owned(),
        ..LineageImported::default()
    };
    let bar = super::bar(log.bytes());
    let mut lines = Lines::new(log.rewound()?);
    let mut seen = Seen::default();
    let mut begun = false;
    while let Some(line) = lines
        .next_line()
        .with_context(|| format!("cannot read {}", log.path().display()))?
    {
        let number = line.number;
        bar.set_position(line.offset);
        if seen.lines.len() > LINES_MAX {
            bail!("the log has more than {LINES_MAX} different lines");
        }
        if line.too_long || line.text.len() > LINE_BYTES_MAX {
            imported.malformed(number, "is longer than a record may be");
            continue;
        }
        let record = match LineageRecord::of_line(line.text) {
            Ok(Some(record)) => record,
            Ok(None) => {
                imported.other += 1;
                continue;
            }
            Err(reason) => {
                imported.malformed(number, &reason);
                continue;
            }
        };
        if !begun {
            begin(client, run_id, record.said_at())?;
            begun = true;
        }
        let first = seen.copies(&record);
        for copies in first.. {
            let answer = post(client, &record, run_id, copies)?;
            match answer.status {
                200 | 201 if !seen.leaves.insert(leaf_of(&answer)?) => {
                    if copies - first < COPIES_TRIED_MAX {
                        continue;
                    }
                    imported.refused(number, "redaction makes it equal to too many others");
                }
                201 => imported.written += 1,
                200 => imported.known += 1,
                409 | 413 | 422 => imported.refused(number, &problem(&answer)),
                status => bail!("line {number}: {}", refusal(status, &problem(&answer))),
            }
            break;
        }
    }
    bar.finish_and_clear();
    if imported.written + imported.known > 0 {
        let body = json!({ "status": "completed", "termination_reason": "imported" });
        let path = format!("/api/v1/runs/{}/complete", segment(run_id));
        let answer = with_room(|| client.post(&path, &body))?;
        // Lines of a log that has grown come to a run that has ended.
        if !matches!(answer.status, 200 | 201 | 409) {
            bail!(refusal(answer.status, &problem(&answer)));
        }
    }
    imported.complete = true;
    Ok(imported)
}

fn leaf_of(answer: &Answer) -> Result<u64> {
    let body: Value = serde_json::from_str(&answer.body).context("the server's answer is no JSON")?;
    body["receipt"]["leaf_index"]
        .as_u64()
        .context("the server answered without a receipt")
}

fn begin(client: &Client, run_id: &str, started_at: Option<Timestamp>) -> Result<()> {
    let mut body = json!({ "run_id": run_id, "source": "SYSTEM", "goal": "audit log" });
    if let Some(started_at) = started_at {
        body["started_at"] = json!(started_at.to_string());
    }
    let answer = with_room(|| client.post("/api/v1/runs", &body))?;
    match answer.status {
        // 409: a run of that name was begun otherwise, and takes the lines.
        200 | 201 | 409 => Ok(()),
        status => bail!(refusal(status, &problem(&answer))),
    }
}

fn problem(answer: &Answer) -> String {
    let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let detail = problem["detail"].as_str().or(problem["title"].as_str());
    shown(detail.unwrap_or("no reason"))
}
