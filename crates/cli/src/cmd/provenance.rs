//! `deponent provenance`: provenance logs out into files and in again.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use evidence::Timestamp;
use indicatif::{ProgressBar, ProgressStyle};
use ledger::admin::{AdminAnswer, AdminRequest};
use ledger::provenance::file;
use serde_json::json;

use super::work::{self, Unit};
use super::{DataDir, EXIT_UNKNOWN, settled};
use crate::output::{self, Format, Usage};

/// Write provenance logs into files, and make records of such files.
#[derive(Debug, Subcommand)]
pub(crate) enum ProvenanceCommand {
    /// Write one file a day, provenance_YYYY-MM-DD.jsonl, with compressed payloads.
    #[command(
        after_help = "Exit codes: 0 written, 1 written, but bodies are missing and no record says why, 64 usage, or no such tenant, \
        69 a file or the data folder cannot be used"
    )]
    Export {
        /// The folder to write into; files of the same days are replaced.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Whose logs.
        #[arg(long, default_value = "default")]
        tenant: String,
        /// Logs of this time or later, RFC 3339.
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_up)]
        start: Option<Timestamp>,
        /// Logs of this time or before, RFC 3339.
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
        end: Option<Timestamp>,
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Make records of a file of logs.
    ///
    /// Each line needs id, timestamp, both hashes and both payloads. A log whose id and input are on record is passed
    /// over, so an import may be done again; with another output it is refused, and so is an imported log that was erased
    /// since.
    #[command(
        after_help = "Exit codes: 0 every log is on record, 1 a line is no log, a hash is not that of the payload beside it, or a log \
        was refused, 2 it was called off (Ctrl-C) before the end of the file, 64 usage, or no such tenant, 69 the file or \
        the data folder cannot be used"
    )]
    Import {
        /// The file.
        file: PathBuf,
        /// Whose logs they become.
        #[arg(long, default_value = "default")]
        tenant: String,
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

impl ProvenanceCommand {
    pub(crate) fn run(self) -> Result<u8> {
        match self {
            Self::Export {
                out,
                tenant,
                start,
                end,
                data_dir,
                format,
            } => {
                let (store, row) = data_dir.open(&tenant)?;
                let of = (row.tenant_no, tenant.as_str());
                let exported = settled(&store, || {
                    let bar = bar(file::count(&store, row.tenant_no)?);
                    let progress = &mut |looked| bar.set_position(looked);
                    let exported = file::export(&store, of, &out, (start, end), progress)?;
                    bar.finish_and_clear();
                    Ok(exported)
                })?;
                let files: Vec<String> = exported
                    .files
                    .iter()
                    .map(|file| file.display().to_string())
                    .collect();
                match format {
                    Format::Json => output::json(&json!({
                        "archived": exported.archived, "erased": exported.erased, "files": files,
                        "logs": exported.logs, "missing": exported.missing,
                    }))?,
                    Format::Text => {
                        for file in &files {
                            output::line(file);
                        }
                        output::line(format_args!("{} logs in {} files", exported.logs, files.len()));
                        for (gone, what) in [
                            (exported.erased, "erased"),
                            (exported.archived, "archived"),
                            (exported.missing, "missing"),
                        ] {
                            if gone > 0 {
                                output::line(format_args!(
                                    "{gone} more are {what}: their lines say so, without what they held"
                                ));
                            }
                        }
                    }
                }
                if exported.missing > 0 {
                    output::note("deponent: bodies are missing and no record says why; see deponent verify");
                }
                Ok(u8::from(exported.missing > 0))
            }
            Self::Import {
                file,
                tenant,
                data_dir,
                format,
            } => {
                let path = std::path::absolute(&file)?;
                let found =
                    std::fs::metadata(&path).with_context(|| format!("cannot read {}", file.display()))?;
                anyhow::ensure!(found.is_file(), "cannot read {}: it is no file", file.display());
                let request = AdminRequest::ProvenanceImport {
                    tenant_id: tenant,
                    path,
                };
                match work::ask(data_dir.existing()?, request, Unit::Bytes)? {
                    AdminAnswer::ProvenanceImported { imported, job_id } => {
                        for remark in &imported.remarks {
                            output::note(format_args!("deponent: {}: {remark}", file.display()));
                        }
                        match format {
                            Format::Json => {
                                let mut answer = serde_json::to_value(&imported)?;
                                answer["job_id"] = job_id.into();
                                output::json(&answer)?;
                            }
                            Format::Text => output::line(format_args!(
                                "{} logs imported, {} on record already, {} refused, {} redacted, \
                                 {} without their run, {} were erased or archived, {} lines are none, \
                                 of {} logs a hash disagrees",
                                imported.logs,
                                imported.on_record,
                                imported.refused,
                                imported.redacted,
                                imported.without_run,
                                imported.gone,
                                imported.malformed,
                                imported.disagreeing
                            )),
                        }
                        if !imported.complete {
                            output::note("deponent: it was called off before the end of the file");
                            return Ok(EXIT_UNKNOWN);
                        }
                        Ok(u8::from(
                            imported.malformed + imported.disagreeing + imported.refused > 0,
                        ))
                    }
                    AdminAnswer::Refused { reason } => bail!(Usage(reason)),
                    AdminAnswer::Failed { reason } => bail!(reason),
                    other => bail!("unexpected answer: {other:?}"),
                }
            }
        }
    }
}

/// How far an export is, on a terminal.
fn bar(logs: u64) -> ProgressBar {
    /// Below this it is over before a bar is seen.
    const LOGS_MIN: u64 = 10_000;
    if logs < LOGS_MIN {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(logs);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} logs, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar
}
