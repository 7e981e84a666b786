//! `deponent lineage import`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use ledger::admin::{AdminAnswer, AdminRequest, ask_or_run};
use lineage::SourceFile;

use crate::cmd::DataDir;
use crate::output::{self, Format, Usage};

/// Make records of an audit log.
///
/// The log becomes a run of the name in its file's name, audit_<run id>.jsonl. The same line twice is one record, so
/// that an import may be done again. Exit code 1: a line is none, or was refused.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The log.
    file: PathBuf,
    /// Whose records they become.
    #[arg(long, default_value = "default")]
    tenant: String,
    #[command(flatten)]
    data_dir: DataDir,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl Import {
    pub(super) fn run(self) -> Result<u8> {
        let path = std::path::absolute(&self.file)?;
        if let Err(error) = SourceFile::open(&path) {
            bail!("audit log {}: {error}", self.file.display());
        }
        let request = AdminRequest::LineageImport {
            tenant_id: self.tenant,
            path,
        };
        match ask_or_run(self.data_dir.existing()?, request, crate::clock::now())? {
            AdminAnswer::LineageImported { imported } => {
                for remark in &imported.remarks {
                    output::note(format_args!("deponent: {}", lineage::shown(remark)));
                }
                match self.format {
                    Format::Json => output::json(&imported)?,
                    Format::Text => output::line(format_args!(
                        "run {}: {} records written, {} were there, {} lines of other types, {} are none",
                        imported.run_id, imported.written, imported.known, imported.other, imported.malformed
                    )),
                }
                Ok(u8::from(imported.malformed > 0))
            }
            AdminAnswer::Refused { reason } => bail!(Usage(reason)),
            AdminAnswer::Failed { reason } => bail!(reason),
            other => bail!("unexpected answer: {other:?}"),
        }
    }
}
