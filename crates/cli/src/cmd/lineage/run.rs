//! `deponent lineage run`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use evidence::Timestamp;
use lineage::engine::{self, ENGINES, ENTITY_ALL, EngineError, Period, Task};
use lineage::shown;
use serde_json::json;

use crate::output::{self, Format, Usage};

/// Run reference engines over a data folder.
///
/// Several engines of one command are one run, and share its audit log.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 done, 2 a file cannot be computed with, 64 usage, 69 a file or folder cannot be used"
)]
pub(crate) struct Run {
    /// tb_diagnostics, accruals_check, email_evidence
    #[arg(required = true, value_name = "FN")]
    functions: Vec<String>,
    /// The data folder.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The month, YYYY-MM.
    #[arg(long, value_name = "YYYY-MM")]
    period: String,
    /// One entity only.
    #[arg(long, value_name = "ENTITY", default_value = ENTITY_ALL)]
    entity: String,
    /// Where artifacts and audit log are written.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// The time of the run, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    now: Option<Timestamp>,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| error.to_string())
}

impl Run {
    pub(super) fn run(self) -> Result<u8> {
        let period = match Period::parse(&self.period) {
            Ok(period) => period,
            Err(error) => bail!(Usage(format!("--period: {error}"))),
        };
        if let Some(unknown) = self
            .functions
            .iter()
            .find(|name| !ENGINES.contains(&name.as_str()))
        {
            let known = ENGINES.join(", ");
            bail!(Usage(format!(
                "there is no engine {}; there are {known}",
                shown(unknown)
            )));
        }
        let now = self.now.unwrap_or_else(crate::clock::now);
        let task = Task {
            data: self.data,
            period,
            entity: self.entity,
        };
        let mut ran = Vec::new();
        for function in &self.functions {
            match engine::run(function, &task, &self.out, now) {
                Ok(one) => ran.push(one),
                Err(error @ EngineError::Data { .. }) => {
                    output::error(&anyhow::Error::new(error).context(function.clone()));
                    return Ok(super::EXIT_UNKNOWN);
                }
                Err(error) => return Err(error.into()),
            }
        }
        match self.format {
            Format::Json => {
                let ran: Vec<serde_json::Value> = ran
                    .iter()
                    .map(|ran| {
                        json!({
                            "fn": ran.function, "artifact": ran.artifact, "output_hash": ran.output_hash,
                            "audit_log": ran.audit_log, "row_ids": ran.row_ids, "summary": ran.summary,
                        })
                    })
                    .collect();
                output::json(&ran)?;
            }
            Format::Text => {
                // As it was typed: whoever reads it is there.
                let shown = |path: &Path| self.out.join(path.file_name().unwrap_or_default());
                for ran in &ran {
                    output::line(format_args!(
                        "{}: {}, {} rows cited",
                        ran.function, ran.summary, ran.row_ids
                    ));
                    output::line(format_args!("  {}", shown(&ran.artifact).display()));
                }
                if let Some(last) = ran.last() {
                    output::line(format_args!("audit log: {}", shown(&last.audit_log).display()));
                }
            }
        }
        Ok(0)
    }
}
