//! `deponent replay`: did a replayed run do the same?
//!
//! Source: SPEC 8.3.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use evidence::hex_string;
use ledger::replay::{ReplayedStep, replay_report};
use ledger::{Body, began_with, run_of, trace_diff};
use store::RunRow;
use store::sqlite::SqliteStore;

use super::{DataDir, InsteadOfServer, settled};
use crate::client::{Client, ServerArgs, refusal, segment};
use crate::output::{self, Format, Usage};

/// The runs part.
const EXIT_DIVERGED: u8 = 1;

/// There is no such run, or what it did cannot be read any more, or not yet.
const EXIT_UNKNOWN: u8 = 2;

/// What stands as the field of a divergence where steps could not be compared.
const GONE: [&str; 3] = ["archived", "erased", "missing"];

/// Compare a replayed run with the one it replays.
#[derive(Debug, Subcommand)]
pub(crate) enum ReplayCommand {
    /// Name the first step at which two runs part, and what became of the second one's steps.
    Diff(Diff),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 they did the same, 1 they part, 2 there is no such run, or one has not ended, or what they did \
    is erased or archived, 64 usage, or both names are of one run, 69 the server or the data folder cannot be asked"
)]
pub(crate) struct Diff {
    /// The run that was first.
    run_a: String,
    /// The run that replays it.
    run_b: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    local: InsteadOfServer,
    /// The tenant, with --data-dir; a server knows it by the key.
    #[arg(long, default_value = "default", requires = "data_dir")]
    tenant: String,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Deserialize)]
struct Compared {
    divergence: Option<Divergence>,
    /// Whether the runs did the same; `None`: a root hash is missing, and so is the step that would tell, be it gone or
    /// yet to come.
    equal: Option<bool>,
    left: Side,
    right: Side,
}

#[derive(Deserialize)]
struct Divergence {
    field: String,
    left: Value,
    position: Option<u64>,
    right: Value,
    step_index: Option<u64>,
}

#[derive(Deserialize)]
struct Side {
    root_hash: Option<String>,
    run_id: String,
    total_steps: u64,
}

#[derive(Deserialize)]
struct Report {
    archived: u64,
    differed: u64,
    erased: u64,
    executed: u64,
    // Of a server that is older it is not told.
    #[serde(default)]
    late: u64,
    matched: u64,
    mismatched: u64,
    missing: u64,
    skipped: u64,
    total: u64,
    violated: u64,
    first_divergence: Option<Step>,
}

impl Compared {
    /// The runs of which nothing says that their steps are all there are.
    fn without_root_hash(&self) -> Vec<&str> {
        [&self.left, &self.right]
            .into_iter()
            .filter(|side| side.root_hash.is_none())
            .map(|side| &*side.run_id)
            .collect()
    }
}

impl Report {
    /// Enforcements that say nothing any more.
    fn unreadable(&self) -> u64 {
        self.archived + self.erased + self.missing
    }

    /// Whether all of the run's steps went as they should; `None`: not all can be read, and those that can do.
    fn same(&self) -> Option<bool> {
        match &self.first_divergence {
            Some(_) => Some(false),
            None if self.unreadable() > 0 => None,
            None => Some(true),
        }
    }
}

#[derive(Deserialize)]
struct Step {
    step_index: Option<u64>,
    outcome: Option<String>,
}

impl ReplayCommand {
    pub(crate) fn run(self) -> Result<u8> {
        let Self::Diff(diff) = self;
        diff.run()
    }
}

impl Diff {
    fn run(&self) -> Result<u8> {
        let answered = match self.local.given() {
            Some(folder) => self.of_folder(&folder)?,
            None => self.of_server()?,
        };
        let Some((compared, report)) = answered else {
            output::note("deponent: there is no such run");
            return Ok(EXIT_UNKNOWN);
        };
        let both: Compared = serde_json::from_value(compared.clone()).context("the answer cannot be read")?;
        let steps: Report = serde_json::from_value(report.clone()).context("the answer cannot be read")?;
        // A part in which they differ decides, one that cannot be read leaves it open.
        let same = match (both.equal, steps.same()) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
        match self.format {
            Format::Json => output::json(&json!({
                "diff": compared, "equal": same, "replay": report, "without_root_hash": both.without_root_hash(),
            }))?,
            Format::Text => print(&both, &steps),
        }
        Ok(match same {
            Some(true) => 0,
            Some(false) => EXIT_DIVERGED,
            None => EXIT_UNKNOWN,
        })
    }

    /// The comparison and the report; `None`: there is no such run.
    fn of_server(&self) -> Result<Option<(Value, Value)>> {
        let client = self.server.client()?;
        let (left, right) = (segment(&self.run_a), segment(&self.run_b));
        let Some(compared) = ask(&client, &format!("/api/v1/traces/diff?left={left}&right={right}"))? else {
            return Ok(None);
        };
        let report = ask(&client, &format!("/api/v1/replay/runs/{right}"))?;
        Ok(report.map(|report| (compared, report)))
    }

    /// The same from the database, also beside a server.
    fn of_folder(&self, folder: &DataDir) -> Result<Option<(Value, Value)>> {
        let (store, row) = folder.open(&self.tenant)?;
        settled(&store, || self.of_store(&store, row.tenant_no))
    }

    fn of_store(&self, store: &SqliteStore, tenant_no: u32) -> Result<Option<(Value, Value)>> {
        let run = |id: &str| run_of(store, tenant_no, id);
        let (Some(left), Some(right)) = (run(&self.run_a)?, run(&self.run_b)?) else {
            return Ok(None);
        };
        if left.key == right.key && self.run_a != self.run_b {
            bail!(Usage(format!("{} and {} are one run", self.run_a, self.run_b)));
        }
        let diff = trace_diff(store, &left, &right)?;
        let divergence = diff.divergence.as_ref().map(divergence).transpose()?;
        let compared = json!({
            "divergence": divergence, "equal": diff.equal,
            "left": side(&left, diff.left_steps), "right": side(&right, diff.right_steps),
        });
        let report = replay_report(store, &right)?;
        let steps: Vec<Value> = report.steps.iter().map(replayed).collect();
        let report = json!({
            "archived": report.archived, "differed": report.differed, "erased": report.erased, "executed": report.executed,
            "first_divergence": report.first_divergence.as_ref().map(replayed), "late": report.late, "matched": report.matched,
            "mismatched": report.mismatched, "missing": report.missing, "run_id": self.run_b, "skipped": report.skipped, "steps": steps,
            "total": report.total, "violated": report.violated,
        });
        Ok(Some((compared, report)))
    }
}

fn side(row: &RunRow, total_steps: usize) -> Value {
    let state = &row.state;
    let (seed, plan_hash) = began_with(row).unzip();
    json!({
        "plan_hash": plan_hash, "root_hash": state.root_hash.as_ref().map(hex_string), "run_id": state.run_id,
        "seed": seed, "total_steps": total_steps, "trace_id": state.trace_id,
    })
}

fn divergence(found: &ledger::Divergence) -> Result<Value> {
    let value = |text: &[u8]| serde_json::from_slice::<Value>(text).context("a stored value cannot be read");
    let (position, step_index) = found.step.unzip();
    Ok(json!({
        "field": found.field, "left": value(&found.left)?, "position": position, "right": value(&found.right)?,
        "step_index": step_index,
    }))
}

fn replayed(step: &ReplayedStep) -> Value {
    let (enforced, gone) = match &step.enforced {
        Body::There(enforced) => (Some(enforced), None),
        Body::Gone(gone) => (None, Some(gone.as_str())),
    };
    json!({
        "behavior": enforced.map(|enforced| enforced.behavior.as_str()),
        "checked": enforced.map(|enforced| enforced.checked),
        "expected_hash": enforced.and_then(|enforced| enforced.expected_hash.clone()),
        "idempotency_key": enforced.and_then(|enforced| enforced.idempotency_key.clone()),
        "input_hash": enforced.and_then(|enforced| enforced.input_hash.clone()),
        "known_input_hash": enforced.and_then(|enforced| enforced.known_input_hash.clone()),
        "leaf_index": step.leaf_index,
        "outcome": enforced.map(|enforced| enforced.outcome.as_str()).or(gone),
        "output_hash": enforced.and_then(|enforced| enforced.output_hash.clone()),
        "step_index": enforced.map(|enforced| enforced.step_index),
        "stored_hash": enforced.and_then(|enforced| enforced.stored_hash.clone()),
    })
}

fn print(both: &Compared, steps: &Report) {
    // The shorter of two runs may catch up while it goes on.
    let parted = both.divergence.as_ref();
    match parted.filter(|at| at.field != "length" || both.equal.is_some()) {
        None => {
            for run_id in both.without_root_hash() {
                output::line(format_args!(
                    "whether the runs did the same cannot be told: {run_id} has not ended, or its end is erased"
                ));
            }
            let said = if both.equal.is_some() {
                "the runs did the same"
            } else {
                "they did the same so far"
            };
            let shared = both.left.total_steps.min(both.right.total_steps);
            output::line(match shared {
                1 => format!("{said}: 1 step"),
                _ => format!("{said}: {shared} steps"),
            });
        }
        Some(at) => {
            let place = match (at.step_index, at.position) {
                (Some(index), Some(1)) => format!("at step {index} (1 step before it is the same)"),
                (Some(index), Some(position)) => {
                    format!("at step {index} ({position} steps before it are the same)")
                }
                _ => format!("in {}", at.field),
            };
            if GONE.contains(&&*at.field) {
                let known = if both.equal == Some(false) {
                    "the runs part: their root hashes differ"
                } else {
                    "whether the runs did the same cannot be told"
                };
                let what = if at.position.is_some() {
                    format!("what was done {place}")
                } else {
                    "what a run began with".into()
                };
                output::line(format_args!("{known}; {what} is {}", at.field));
            } else {
                output::line(format_args!("the runs part {place}"));
                output::line(format_args!("  {}: {} | {}", at.field, at.left, at.right));
            }
            output::line(format_args!(
                "  steps: {} | {}",
                both.left.total_steps, both.right.total_steps
            ));
        }
    }
    if steps.total > 0 {
        output::line(format_args!(
            "replay: {} matched, {} skipped, {} executed, {} differed, {} mismatched, {} violated",
            steps.matched, steps.skipped, steps.executed, steps.differed, steps.mismatched, steps.violated
        ));
    }
    if steps.late > 0 {
        output::line(format_args!(
            "replay: {} of {} enforcements came after the run's seal",
            steps.late, steps.total
        ));
    }
    if steps.unreadable() > 0 {
        output::line(format_args!(
            "replay: {} of {} enforcements cannot be read ({} archived, {} erased, {} missing): each may have diverged",
            steps.unreadable(),
            steps.total,
            steps.archived,
            steps.erased,
            steps.missing
        ));
    }
    if let Some(step) = &steps.first_divergence {
        let index = step
            .step_index
            .map_or_else(|| "?".into(), |index| index.to_string());
        let outcome = match step.outcome.as_deref() {
            // What else makes one that ran a divergence.
            Some("executed") => "its output differs from the stored one",
            outcome => outcome.unwrap_or("unknown"),
        };
        output::line(format_args!(
            "replay: first divergence at step {index}: {outcome}"
        ));
    }
}

/// `None`: no such run.
fn ask(client: &Client, path: &str) -> Result<Option<Value>> {
    let answer = client.get(path)?;
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match answer.status {
        200 => Ok(Some(body)),
        404 if body["code"] == "not_found" => Ok(None),
        422 if body["code"] == "same_run" => bail!(Usage(
            body["detail"]
                .as_str()
                .unwrap_or("both names are of one run")
                .to_owned()
        )),
        status => bail!(refusal(
            status,
            body["detail"].as_str().unwrap_or("no reason given")
        )),
    }
}
