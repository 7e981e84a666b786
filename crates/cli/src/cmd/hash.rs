//! `deponent hash`: the canonical SHA-256 of JSON, or the fingerprint of raw text.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use evidence::canonical::{self, Limits};

use crate::output::{self, Format};

/// Longest document: the largest body.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Print the canonical SHA-256 of a JSON document, or of raw text.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 hashed, 2 the text has no hash, 64 usage, 69 the file cannot be read")]
pub(crate) struct Hash {
    /// The file; `-` or nothing is stdin.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take the bytes as text instead of JSON: the fingerprint of a prompt or an answer.
    #[arg(long)]
    text: bool,
    /// How to print.
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

impl Hash {
    pub(crate) fn run(self) -> Result<u8> {
        let name = output::input_name(self.file.as_deref().unwrap_or(Path::new("-")));
        let mut bytes = Vec::new();
        match self.file.as_deref().filter(|path| path.as_os_str() != "-") {
            None => std::io::stdin()
                .take(INPUT_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .context("stdin")?,
            Some(path) => std::fs::File::open(path)
                .and_then(|file| file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes))
                .with_context(|| format!("cannot read {}", path.display()))?,
        };
        anyhow::ensure!(
            u64::try_from(bytes.len()).is_ok_and(|len| len <= INPUT_BYTES_MAX),
            "{name}: longer than {INPUT_BYTES_MAX} bytes"
        );
        let hashed = if self.text {
            if std::str::from_utf8(&bytes).is_err() {
                output::note(format_args!("deponent: {name}: the text is not UTF-8"));
                return Ok(2);
            }
            bytes
        } else {
            match canonical::canonicalize(&bytes, Limits::default()) {
                Ok(bytes) => bytes,
                Err(error) => {
                    let wrong = output::in_text(&error, &bytes);
                    output::note(format_args!("deponent: {name}: {wrong}"));
                    return Ok(2);
                }
            }
        };
        let hash = canonical::sha256_hex(&hashed);
        match self.format {
            Format::Text => output::line(hash),
            Format::Json => output::json(&serde_json::json!({ "sha256": hash, "bytes": hashed.len() }))?,
        }
        Ok(0)
    }
}
