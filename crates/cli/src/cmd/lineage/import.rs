//! `deponent lineage import`.

use std::collections::HashMap;
use std::path::PathBuf;

use ::evidence::record::{LINEAGE_COPY, LineageRecord, lineage_identity};
use ::evidence::{Identity, Kind, canonical};
use anyhow::{Context, Result, bail};
use clap::Args;
use ledger::admin::{AdminAnswer, AdminRequest};
use ledger::lineage::LineageImported;
use lineage::{LineType, Lines, SourceFile, shown};
use serde_json::{Value, json};

use crate::client::{Answer, Client, ServerArgs, segment};
use crate::cmd::work::{self, Unit};
use crate::cmd::{DataDir, EXIT_UNKNOWN};
use crate::output::{self, Format, Usage};

/// Make records of an audit log.
///
/// The log becomes a run of the name in its file's name, audit_<run id>.jsonl. A line that is on record is not written
/// again, so that an import may be done again. They go to the server that --server or DEPONENT_URL names, unless
/// --data-dir says otherwise. Exit code 1: a line is none, or was refused; 2: it was called off (Ctrl-C) before the end
/// of the log.
#[derive(Debug, Args)]
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

/// Remarks that are printed; all are counted.
const REMARKS_MAX: usize = 100;

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
        let (imported, job_id) = if !self.data_dir.is_given() && self.server.is_named()? {
            (send(&self.server.client()?, &log)?, None)
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
            output::note(format_args!("deponent: {}", shown(remark)));
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
                "run {}: {} records written, {} were there, {} lines of other types, {} are none",
                imported.run_id, imported.written, imported.known, imported.other, imported.malformed
            )),
        }
        if !imported.complete {
            output::note("deponent: it was called off before the end of the log");
            return Ok(EXIT_UNKNOWN);
        }
        Ok(u8::from(imported.malformed > 0))
    }
}

/// Most different lines of a log that are sent: as many as the ledger itself imports.
const LINES_MAX: usize = 4_000_000;

/// How many lines equal to this one came before it.
fn copies(seen: &mut HashMap<Identity, u32>, kind: Kind, line: &[u8]) -> u32 {
    let fields = canonical::parse(line, canonical::Limits::default());
    let record = fields
        .ok()
        .and_then(|fields| LineageRecord::new(kind, fields).ok());
    // What is none the server refuses.
    let Some(record) = record else { return 0 };
    let count = seen.entry(lineage_identity(kind, &record.encode())).or_default();
    *count += 1;
    *count - 1
}

/// Posts the lines one by one: a line that was posted before is known, so an import may be done again.
fn send(client: &Client, log: &SourceFile) -> Result<LineageImported> {
    let name = log
        .path()
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let run_id = name
        .strip_prefix("audit_")
        .and_then(|rest| rest.strip_suffix(".jsonl"));
    let Some(run_id) = run_id.filter(|run_id| !run_id.is_empty()) else {
        bail!("{} names no run: audit_<run id>.jsonl", shown(name));
    };
    let mut imported = LineageImported {
        run_id: run_id.to_owned(),
        ..LineageImported::default()
    };
    let bar = super::bar(log.bytes());
    let mut lines = Lines::new(log.rewound()?);
    let mut seen = HashMap::new();
    while let Some(line) = lines
        .next_line()
        .with_context(|| format!("cannot read {}", shown(name)))?
    {
        let number = line.number;
        if seen.len() > LINES_MAX {
            bail!("the log has more than {LINES_MAX} different lines");
        }
        let (path, kind) = match LineType::read(line.text) {
            Ok(LineType::Evidence { .. }) => ("evidence", Kind::LineageEvidence),
            Ok(LineType::Deterministic { .. }) => ("deterministic", Kind::LineageDeterministic),
            Ok(LineType::AiOutput) => ("ai-output", Kind::LineageAiOutput),
            Ok(LineType::AiMetrics) => ("ai-metrics", Kind::LineageAiMetrics),
            Ok(LineType::Other(_)) => {
                imported.other += 1;
                continue;
            }
            Err(reason) => {
                malformed(&mut imported, number, &reason);
                continue;
            }
        };
        let mut body: Value = match serde_json::from_slice(line.text) {
            Ok(body) => body,
            Err(error) => {
                malformed(&mut imported, number, &error.to_string());
                continue;
            }
        };
        if body.get(LINEAGE_COPY).is_some() {
            malformed(
                &mut imported,
                number,
                &format!("{LINEAGE_COPY} is the ledger's own"),
            );
            continue;
        }
        body["run_id"] = json!(run_id);
        match copies(&mut seen, kind, line.text) {
            0 => {}
            before => body[LINEAGE_COPY] = json!(before),
        }
        if imported.written + imported.known == 0 {
            begin(client, run_id)?;
        }
        let answer = client.post(&format!("/api/v1/lineage/{path}"), &body)?;
        match answer.status {
            201 => imported.written += 1,
            200 => imported.known += 1,
            409 | 413 | 422 => malformed(&mut imported, number, &problem(&answer)),
            _ => bail!(
                "line {number}: the server answered {}: {}",
                answer.status,
                problem(&answer)
            ),
        }
        bar.set_position(line.offset);
    }
    bar.finish_and_clear();
    if imported.written > 0 {
        let body = json!({ "status": "completed", "termination_reason": "imported" });
        let answer = client.post(&format!("/api/v1/runs/{}/complete", segment(run_id)), &body)?;
        // Lines of a log that has grown come to a run that has ended.
        if !matches!(answer.status, 200 | 201 | 409) {
            bail!("the server answered {}: {}", answer.status, problem(&answer));
        }
    }
    imported.complete = true;
    Ok(imported)
}

fn malformed(imported: &mut LineageImported, number: u64, reason: &str) {
    imported.malformed += 1;
    if imported.remarks.len() < REMARKS_MAX {
        imported.remarks.push(format!("line {number}: {reason}"));
    }
}

fn begin(client: &Client, run_id: &str) -> Result<()> {
    let body = json!({ "run_id": run_id, "source": "SYSTEM", "goal": "audit log" });
    let answer = client.post("/api/v1/runs", &body)?;
    match answer.status {
        // 409: a run of that name was begun otherwise, and takes the lines.
        200 | 201 | 409 => Ok(()),
        _ => bail!("the server answered {}: {}", answer.status, problem(&answer)),
    }
}

fn problem(answer: &Answer) -> String {
    let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let detail = problem["detail"].as_str().or(problem["title"].as_str());
    shown(detail.unwrap_or("no reason"))
}
