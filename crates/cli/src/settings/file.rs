//! `deponent.toml` as it is written.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::oidc::OidcTable;
use crate::output::Usage;

/// Longest settings file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) listen: Option<String>,
    pub(super) grpc_listen: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) database_url: Option<String>,
    pub(super) redis_url: Option<String>,
    pub(super) idempotency: IdempotencyTable,
    pub(super) log: Option<String>,
    pub(super) ledger: LedgerTable,
    pub(super) runs: RunsTable,
    pub(super) retention: RetentionTable,
    pub(super) policies: Option<PathBuf>,
    pub(super) rate_limit: Option<u32>,
    pub(super) record: RecordTable,
    pub(super) oidc: OidcTable,
    pub(super) tls: TlsTable,
    pub(super) tlog: TlogTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IdempotencyTable {
    pub(super) on_outage: Option<String>,
    pub(super) lease: Option<String>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) redis_aof: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LedgerTable {
    pub(super) origin: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RunsTable {
    pub(super) seal_after: Option<String>,
    pub(super) abandon_after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RetentionTable {
    pub(super) minimum: Option<String>,
    pub(super) runs: Option<String>,
    pub(super) synthetic: Option<String>,
    pub(super) system: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RecordTable {
    pub(super) reads: Option<String>,
    pub(super) writes: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsTable {
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlogTable {
    pub(super) public: Option<bool>,
}

pub(super) fn read_file(path: &Path) -> Result<File> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if metadata.len() > FILE_BYTES_MAX {
        bail!(Usage(format!(
            "{} is longer than any settings file",
            path.display()
        )));
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text)
        .map_err(|error| anyhow::Error::new(error).context(Usage(path.display().to_string())))
}
