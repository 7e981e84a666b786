//! `deponent lineage verify`.

use anyhow::{Result, bail};
use clap::Args;
use lineage::VERIFY_REQUIRED;

use super::{LogArgs, PlaceArgs, bar};
use crate::output::{self, Format, Usage};

/// Check that an audit log shows which rows each function read, and how its files are now.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 passed, 1 findings, 64 usage, 69 the log cannot be read")]
pub(crate) struct Verify {
    #[command(flatten)]
    log: LogArgs,
    /// Functions that must be there [default: tb_diagnostics,accruals_check,email_evidence]
    #[arg(long, value_name = "FN", value_delimiter = ',')]
    require: Vec<String>,
    /// Missing and changed files are findings too.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    places: PlaceArgs,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl Verify {
    pub(super) fn run(self) -> Result<u8> {
        let mut required: Vec<String> = Vec::new();
        for name in &self.require {
            if name.is_empty() {
                bail!(Usage("--require: a function without a name".into()));
            }
            if !required.contains(name) {
                required.push(name.clone());
            }
        }
        if required.is_empty() {
            required = VERIFY_REQUIRED.iter().map(|name| (*name).to_owned()).collect();
        }
        let log = self.log.open()?;
        let places = self.places.places(Some(log.path()))?;
        let bar = bar(log.bytes());
        let verification = lineage::verify(&log, &places, &required, self.strict, &mut |done| {
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        match self.format {
            Format::Json => output::json(&verification)?,
            Format::Text => output::text(&verification.text()),
        }
        if self.format == Format::Text {
            for note in &verification.notes {
                output::note(format_args!("note: {}", lineage::shown(note)));
            }
        }
        Ok(u8::from(!verification.passed))
    }
}
