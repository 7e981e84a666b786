//! `deponent replay`: did a replayed run do the same?
//!
//! Source: SPEC 8.3.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, ServerArgs, segment};
use crate::output::{self, Format};

/// The runs part.
const EXIT_DIVERGED: u8 = 1;

/// There is no such run.
const EXIT_UNKNOWN: u8 = 2;

/// Compare a replayed run with the one it replays.
#[derive(Debug, Subcommand)]
pub(crate) enum ReplayCommand {
    /// Name the first step at which two runs part, and what became of the second one's steps.
    ///
    /// Exit codes: 0 they did the same, 1 they part, 2 there is no such run.
    Diff(Diff),
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The run that was first.
    run_a: String,
    /// The run that replays it.
    run_b: String,
    #[command(flatten)]
    server: ServerArgs,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Deserialize)]
struct Compared {
    divergence: Option<Divergence>,
    equal: bool,
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
    total_steps: u64,
}

#[derive(Deserialize)]
struct Report {
    executed: u64,
    matched: u64,
    mismatched: u64,
    skipped: u64,
    total: u64,
    violated: u64,
    first_divergence: Option<Step>,
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
        let client = self.server.client()?;
        let (left, right) = (segment(&self.run_a), segment(&self.run_b));
        let asked = |path: String| ask(&client, &path);
        let Some(compared) = asked(format!("/api/v1/traces/diff?left={left}&right={right}"))? else {
            output::note("deponent: there is no such run");
            return Ok(EXIT_UNKNOWN);
        };
        let Some(report) = asked(format!("/api/v1/replay/runs/{right}"))? else {
            output::note("deponent: there is no such run");
            return Ok(EXIT_UNKNOWN);
        };
        let both: Compared = serde_json::from_value(compared.clone()).context("the answer cannot be read")?;
        let steps: Report = serde_json::from_value(report.clone()).context("the answer cannot be read")?;
        let same = both.equal && steps.first_divergence.is_none();
        match self.format {
            Format::Json => output::json(&json!({ "diff": compared, "equal": same, "replay": report }))?,
            Format::Text => print(&both, &steps),
        }
        Ok(if same { 0 } else { EXIT_DIVERGED })
    }
}

fn print(both: &Compared, steps: &Report) {
    match &both.divergence {
        None => output::line(format_args!(
            "the runs did the same: {} steps",
            both.left.total_steps
        )),
        Some(at) => {
            let place = match (at.step_index, at.position) {
                (Some(index), Some(position)) => {
                    format!("at step {index} ({position} steps before it are the same)")
                }
                _ => format!("in {}", at.field),
            };
            output::line(format_args!("the runs part {place}"));
            output::line(format_args!("  {}: {} | {}", at.field, at.left, at.right));
            output::line(format_args!(
                "  steps: {} | {}",
                both.left.total_steps, both.right.total_steps
            ));
        }
    }
    if steps.total > 0 {
        output::line(format_args!(
            "replay: {} matched, {} skipped, {} executed, {} mismatched, {} violated",
            steps.matched, steps.skipped, steps.executed, steps.mismatched, steps.violated
        ));
    }
    if let Some(step) = &steps.first_divergence {
        let index = step
            .step_index
            .map_or_else(|| "?".into(), |index| index.to_string());
        let outcome = step.outcome.as_deref().unwrap_or("erased");
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
        status => bail!(
            "the server answers {status}: {}",
            body["detail"].as_str().unwrap_or("no reason given")
        ),
    }
}
