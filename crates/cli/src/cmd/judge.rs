//! `deponent audit`, `integrity`, `panel`, `retry-plan`: judgement offline, one JSON object in, one out.
//!
//! The rules are those of the crate `audit`; here are files, formats and exit codes. What cannot be judged,
//! a malformed input included, is exit code 2 with a line on stderr and nothing on stdout.

use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use audit::governance::{AuditInput, Verdict, audit_result_to_record};
use audit::integrity::Grade;
use audit::{panel, retry, rollout};
use clap::Args;
use evidence::Timestamp;
use evidence::canonical::{Limits, Value, parse, to_serde};

use crate::output::{self, Format};

/// Longest input: the largest body.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Exit code: could not tell.
const EXIT_UNKNOWN: u8 = 2;

#[derive(Debug, Args)]
struct Input {
    /// The file; `-` is stdin.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

/// Judge a job against its contract, from a file.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, or the input cannot be judged, 64 usage, \
    69 the file cannot be read"
)]
pub(crate) struct Audit {
    #[command(flatten)]
    input: Input,
}

/// Grade how much a run's evidence can carry, from a file.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 PASS or WARN, 1 FAIL, 2 the input cannot be judged, 64 usage, \
    69 the file cannot be read"
)]
pub(crate) struct Integrity {
    #[command(flatten)]
    input: Input,
}

/// Hold a panel against its rules, from a file.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 consistent, 1 not, 2 a rule or the input cannot be evaluated, 64 usage, \
    69 the file cannot be read"
)]
pub(crate) struct Panel {
    #[command(flatten)]
    input: Input,
}

/// Print when failed attempts would be made again, from a file.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 planned, 2 the input cannot be planned, 64 usage, \
    69 the file cannot be read"
)]
pub(crate) struct RetryPlan {
    #[command(flatten)]
    input: Input,
}

impl Audit {
    pub(crate) fn run(self) -> Result<u8> {
        let (began, now) = (Instant::now(), crate::clock::now());
        let bytes = self.input.read()?;
        let input = match parsed(&bytes)
            .and_then(|value| AuditInput::read(&value).map_err(|error| error.to_string()))
        {
            Ok(input) => input,
            Err(error) => return Ok(self.input.unjudged(&error)),
        };
        let mut result = audit::governance::audit(&input, audit_id(now)?, now, 0);
        result.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let decision = rollout::decide(Some(result.verdict), None);
        match self.input.format {
            Format::Json => {
                let mut record = audit_result_to_record(&result);
                record.insert("rollout", decision.to_value());
                print(&record)?;
            }
            Format::Text => {
                output::line(format_args!(
                    "{} {}",
                    result.verdict.as_str(),
                    result.verdict_reason
                ));
                for check in &result.checks {
                    let (id, found) = (check.check_id, check.result.as_str());
                    output::line(format_args!(
                        "  {id} {:<25} {found:<12} {}",
                        check.name, check.reason
                    ));
                }
                output::line(format_args!(
                    "rollout: {}, {}",
                    decision.action.as_str(),
                    decision.reason
                ));
            }
        }
        Ok(match result.verdict {
            Verdict::Pass => 0,
            Verdict::Fail => 1,
            Verdict::Inconclusive => EXIT_UNKNOWN,
        })
    }
}

impl Integrity {
    pub(crate) fn run(self) -> Result<u8> {
        let bytes = self.input.read()?;
        let read = parsed(&bytes)
            .and_then(|value| audit::integrity::read_input(&value).map_err(|error| error.to_string()));
        let (facts, policy) = match read {
            Ok(read) => read,
            Err(error) => return Ok(self.input.unjudged(&error)),
        };
        let judgement = audit::integrity::judge(&facts, &policy);
        match self.input.format {
            Format::Json => print(&judgement.to_value())?,
            Format::Text => {
                output::line(format_args!(
                    "{} {} score {:.2}: {}",
                    judgement.grade.as_str(),
                    judgement.grade.status(),
                    judgement.score,
                    judgement.explanation
                ));
                for class in &judgement.missing {
                    output::line(format_args!("  missing: {}", class.as_str()));
                }
            }
        }
        Ok(u8::from(judgement.grade == Grade::Fail))
    }
}

impl Panel {
    pub(crate) fn run(self) -> Result<u8> {
        let bytes = self.input.read()?;
        // Once alone: it is the parser that knows the place of what is no JSON.
        let read =
            parsed(&bytes).and_then(|_| panel::Panel::parse(&bytes).map_err(|error| error.to_string()));
        let panel = match read {
            Ok(panel) => panel,
            Err(error) => return Ok(self.input.unjudged(&error)),
        };
        let report = match panel::check(&panel) {
            Ok(report) => report,
            Err(error) => return Ok(self.input.unjudged(&error.to_string())),
        };
        match self.input.format {
            Format::Json => print(&report.to_value(&panel.panel_id))?,
            Format::Text => {
                output::line(if report.is_consistent() {
                    "consistent"
                } else {
                    "inconsistent"
                });
                for found in report.violations.iter().chain(&report.warnings) {
                    output::line(format_args!(
                        "  {} {} in {}: expected {}, is {}",
                        found.severity.as_str(),
                        found.rule_id,
                        found.slots.join(", "),
                        found.expected,
                        found.actual
                    ));
                }
            }
        }
        Ok(u8::from(!report.is_consistent()))
    }
}

impl RetryPlan {
    pub(crate) fn run(self) -> Result<u8> {
        let bytes = self.input.read()?;
        let planned = parsed(&bytes).and_then(|value| retry::plan(&value).map_err(|error| error.to_string()));
        let plan = match planned {
            Ok(plan) => plan,
            Err(error) => return Ok(self.input.unjudged(&error)),
        };
        match self.input.format {
            Format::Json => print(&plan)?,
            Format::Text => {
                let json = to_serde(&plan);
                for line in json["plan"].as_array().into_iter().flatten() {
                    let (least, most) = (&line["min_delay_seconds"], &line["max_delay_seconds"]);
                    let attempt = &line["attempt"];
                    output::line(if line["will_retry"] == true {
                        format!("attempt {attempt}: again after {least} to {most} s")
                    } else {
                        format!("attempt {attempt}: not again")
                    });
                }
            }
        }
        Ok(0)
    }
}

impl Input {
    fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if self.file.as_os_str() == "-" {
            std::io::stdin()
                .take(INPUT_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .context("stdin")?;
        } else {
            std::fs::File::open(&self.file)
                .and_then(|file| file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes))
                .with_context(|| format!("cannot read {}", self.file.display()))?;
        }
        anyhow::ensure!(
            u64::try_from(bytes.len()).is_ok_and(|len| len <= INPUT_BYTES_MAX),
            "{}: longer than {INPUT_BYTES_MAX} bytes",
            output::input_name(&self.file)
        );
        Ok(bytes)
    }

    /// Says why there is no answer.
    fn unjudged(&self, reason: &str) -> u8 {
        let reason = reason.replace('\n', " ");
        output::note(format_args!(
            "deponent: {}: {reason}",
            output::input_name(&self.file)
        ));
        EXIT_UNKNOWN
    }
}

fn parsed(bytes: &[u8]) -> Result<Value, String> {
    parse(bytes, Limits::default()).map_err(|error| output::in_text(&error, bytes))
}

fn print(value: &Value) -> Result<()> {
    output::json(&to_serde(value))
}

/// A UUIDv7. Outside of what the verdict rests on.
fn audit_id(now: Timestamp) -> Result<String> {
    let mut random = [0; 10];
    getrandom::fill(&mut random).context("the operating system gives no randomness")?;
    let millis = u64::try_from(now.as_micros() / 1_000).unwrap_or(0);
    Ok(uuid::Builder::from_unix_timestamp_millis(millis, &random)
        .into_uuid()
        .to_string())
}
