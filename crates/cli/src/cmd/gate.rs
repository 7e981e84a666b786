//! `deponent gate`: may the change that a job made go on? One question, one exit code.
//!
//! Source: SPEC 7.3, 11.1.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use store::sqlite::SqliteStore;

use super::{InsteadOfServer, settled};
use crate::client::{Client, ServerArgs, refusal, segment};
use crate::output::{self, Format};
use crate::settings::parse_duration;

/// First wait between two looks, doubled up to [`LOOK_EVERY`].
const LOOK_FIRST: Duration = Duration::from_millis(250);

/// Longest wait between two looks: each is a request and a record of it.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Longest `--wait`: no pipeline runs longer than a day.
const WAIT_MAX: Duration = Duration::from_hours(24);

/// Exit codes: SPEC 11.1.
const EXIT_ROLLBACK: u8 = 1;
const EXIT_ESCALATE: u8 = 2;
const EXIT_WAIT: u8 = 3;

/// Ask whether the change that a job made may go on.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 proceed, 1 rollback, 2 escalate, or no such job, 3 wait: there is no verdict yet, 64 usage, \
    69 the server or the data folder cannot be asked"
)]
pub(crate) struct Gate {
    /// The job.
    #[arg(long, value_name = "JOB")]
    job: String,
    /// While there is no verdict, ask again for so long, e.g. 60s.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
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

fn duration(text: &str) -> Result<Duration, String> {
    let micros = parse_duration(text).and_then(|micros| u64::try_from(micros).ok());
    match micros.map(Duration::from_micros) {
        Some(wait) if wait <= WAIT_MAX => Ok(wait),
        Some(_) => Err("must be at most 24h".to_owned()),
        None => Err("is no duration; write e.g. 60s, 5m".to_owned()),
    }
}

/// What the gate said.
enum Said {
    /// Its answer.
    Answer(Value),
    /// There is no such job.
    Unknown,
    /// Nobody could be asked just now.
    NotNow(anyhow::Error),
}

/// The part of the answer that decides.
#[derive(Deserialize)]
struct Decided {
    action: String,
    authorized: bool,
    reason: String,
    verdict: Option<String>,
}

enum Asked {
    Server(Client),
    Folder(Box<SqliteStore>, u32),
}

impl Gate {
    pub(crate) fn run(self) -> Result<u8> {
        let asked = self.asked()?;
        let until = Instant::now() + self.wait.unwrap_or_default();
        let mut pause = LOOK_FIRST;
        loop {
            let said = asked.ask(&self.job)?;
            let left = until.saturating_duration_since(Instant::now());
            let waits = match &said {
                Said::Answer(answer) => answer["action"] == "wait",
                Said::NotNow(_) => true,
                Said::Unknown => false,
            };
            if !waits || left.is_zero() {
                return self.answer(said);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LOOK_EVERY);
        }
    }

    fn asked(&self) -> Result<Asked> {
        let Some(folder) = self.local.given() else {
            return Ok(Asked::Server(self.server.client()?));
        };
        let (store, row) = folder.open(&self.tenant)?;
        Ok(Asked::Folder(Box::new(store), row.tenant_no))
    }

    fn answer(&self, said: Said) -> Result<u8> {
        let answer = match said {
            Said::Answer(answer) => answer,
            Said::Unknown => {
                output::note(format_args!("deponent: there is no job {}", self.job));
                return Ok(EXIT_ESCALATE);
            }
            Said::NotNow(error) => return Err(error),
        };
        let decided: Decided =
            serde_json::from_value(answer.clone()).context("the gate's answer cannot be read")?;
        match self.format {
            Format::Json => output::json(&answer)?,
            Format::Text => {
                let verdict = decided.verdict.as_deref().unwrap_or("no verdict");
                // One line, whatever stands in the reason that a human gave: a second one could be taken for an answer.
                let reason = decided.reason.replace(char::is_control, " ");
                output::line(format_args!("{} ({verdict}): {reason}", decided.action));
            }
        }
        // Authorized is what counts; an action that is not known is nobody's permission.
        Ok(match decided.action.as_str() {
            "proceed" if decided.authorized => 0,
            "rollback" => EXIT_ROLLBACK,
            "wait" => EXIT_WAIT,
            _ => EXIT_ESCALATE,
        })
    }
}

impl Asked {
    fn ask(&self, job_id: &str) -> Result<Said> {
        match self {
            Self::Server(client) => ask_server(client, job_id),
            Self::Folder(store, tenant_no) => settled(store, || ask_folder(store, *tenant_no, job_id)),
        }
    }
}

fn ask_folder(store: &SqliteStore, tenant_no: u32, job_id: &str) -> Result<Said> {
    match ledger::rollout(store, tenant_no, job_id) {
        Ok(read) => Ok(Said::Answer(json!({
            "action": read.action, "authorized": read.authorized, "job_id": job_id,
            "reason": read.reason, "verdict": read.verdict,
            "resolution": read.resolution.map(|resolution| json!({
                "actor_id": resolution.resolution.actor_id,
                "decision": resolution.resolution.decision.as_str(),
                "reason": resolution.resolution.reason,
                "resolved_at": resolution.at,
            })),
        }))),
        Err(ledger::JobError::Unknown) => Ok(Said::Unknown),
        Err(error) => Err(error.into()),
    }
}

fn ask_server(client: &Client, job_id: &str) -> Result<Said> {
    let answer = match client.get(&format!("/api/v1/rollout/{}", segment(job_id))) {
        Ok(answer) => answer,
        Err(error) => return Ok(Said::NotNow(error)),
    };
    match answer.status {
        200 => Ok(Said::Answer(
            serde_json::from_str(&answer.body).context("the server's answer is no JSON")?,
        )),
        404 if is_problem(&answer.body) => Ok(Said::Unknown),
        status @ (429 | 500..) => Ok(Said::NotNow(anyhow!(refusal(status, &detail(&answer.body))))),
        status => bail!(refusal(status, &detail(&answer.body))),
    }
}

/// Whether it is Deponent that says so, and not something in between.
fn is_problem(body: &str) -> bool {
    serde_json::from_str::<Value>(body).is_ok_and(|problem| problem["code"] == "not_found")
}

fn detail(body: &str) -> String {
    let problem = serde_json::from_str::<Value>(body).unwrap_or_default();
    problem["detail"].as_str().unwrap_or("no reason given").to_owned()
}
