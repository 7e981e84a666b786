//! The commands, one file each.

mod gate;
mod hash;
mod idempotency;
mod judge;
mod key;
mod ledger;
mod lineage;
#[cfg(feature = "serve")]
mod openapi;
mod provenance;
mod replay;
#[cfg(feature = "serve")]
mod serve;
mod tenant;
mod verify;
mod work;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use ::ledger::{HighWater, KeyFolder, Refusal, offline_refusal};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use store::sqlite::{Access, SqliteStore};
use store::{LedgerRow, Store};

use crate::output::{self, Usage};
use crate::settings::{Flags, Settings};

/// Exit code: could not tell, or not to the end.
const EXIT_UNKNOWN: u8 = 2;

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the API, OTLP/HTTP and OTLP/gRPC.
    #[cfg(feature = "serve")]
    Serve(serve::Serve),
    /// Recompute everything that is stored, and say what disagrees.
    Verify(verify::Verify),
    /// Show, prove, rebuild or recover a tenant's ledger.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Make and list tenants.
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Make, list, rotate and revoke API keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Write provenance logs into files, and make records of such files.
    #[command(subcommand)]
    Provenance(provenance::ProvenanceCommand),
    /// Find the rows of files that a figure was made from, and check the log that says so.
    #[command(subcommand)]
    Lineage(lineage::LineageCommand),
    /// Look after idempotency keys.
    #[command(subcommand)]
    Idempotency(idempotency::IdempotencyCommand),
    /// Compare a replayed run with the one it replays.
    #[command(subcommand)]
    Replay(replay::ReplayCommand),
    /// Judge a job against its contract, from a file.
    Audit(judge::Audit),
    /// Ask whether the change that a job made may go on.
    Gate(gate::Gate),
    /// Grade how much a run's evidence can carry, from a file.
    Integrity(judge::Integrity),
    /// Hold a panel against its rules, from a file.
    Panel(judge::Panel),
    /// Print when failed attempts would be made again, from a file.
    RetryPlan(judge::RetryPlan),
    /// Print the canonical SHA-256 of a JSON document, or of raw text.
    Hash(hash::Hash),
    /// Print the OpenAPI document.
    #[cfg(feature = "serve")]
    Openapi,
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Does it; gives the exit code.
    pub(crate) fn run(self, clap: &mut clap::Command) -> Result<u8> {
        match self {
            #[cfg(feature = "serve")]
            Self::Serve(serve) => serve.run(),
            Self::Verify(verify) => verify.run(),
            Self::Ledger(ledger) => ledger.run(),
            Self::Tenant(tenant) => tenant.run(),
            Self::Key(key) => key.run(),
            Self::Provenance(provenance) => provenance.run(),
            Self::Lineage(lineage) => lineage.run(),
            Self::Idempotency(idempotency) => idempotency.run(),
            Self::Replay(replay) => replay.run(),
            Self::Audit(audit) => audit.run(),
            Self::Gate(gate) => gate.run(),
            Self::Integrity(integrity) => integrity.run(),
            Self::Panel(panel) => panel.run(),
            Self::RetryPlan(plan) => plan.run(),
            Self::Hash(hash) => hash.run(),
            #[cfg(feature = "serve")]
            Self::Openapi => openapi::run(),
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, clap, "deponent", &mut script);
                output::text(&String::from_utf8_lossy(&script));
                Ok(0)
            }
        }
    }
}

/// Where a local command works.
#[derive(Debug, Args)]
pub(crate) struct DataDir {
    /// The data folder [env: DEPONENT_DATA_DIR; default: deponent-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The settings file [env: DEPONENT_CONFIG; default: deponent.toml when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl DataDir {
    /// Whether a folder was typed.
    fn is_given(&self) -> bool {
        self.data_dir.is_some()
    }

    fn settings(&self) -> Result<Settings> {
        Settings::load(Flags {
            data_dir: self.data_dir.clone(),
            config: self.config.clone(),
            ..Flags::default()
        })
    }

    /// The options of a folder that must be there already.
    fn existing(&self) -> Result<::ledger::Options> {
        let options = self.settings()?.ledger;
        match no_ledger(&options)? {
            None => Ok(options),
            Some(why) => bail!(why),
        }
    }

    /// The database of such a folder, for reading, and the newest ledger of a tenant in it. Whoever reads one that is not
    /// in order is told.
    fn open(&self, tenant: &str) -> Result<(SqliteStore, LedgerRow)> {
        let (store, newest, _) = self.epochs(tenant)?;
        if let Err(error) = self.refusal(&store, &newest) {
            // What is there is read all the same.
            output::note(format_args!("deponent: {}: {error:#}", newest.origin));
        }
        Ok((store, newest))
    }

    /// The same, and the tenant's older ledgers, of which the newest is first.
    fn epochs(&self, tenant: &str) -> Result<(SqliteStore, LedgerRow, Vec<LedgerRow>)> {
        let store = SqliteStore::open(&self.existing()?.database(), Access::ReadOnly)?;
        let mut rows = store.ledgers_list()?;
        rows.retain(|row| row.tenant_id == tenant);
        rows.sort_by_key(|row| std::cmp::Reverse(row.epoch));
        let mut rows = rows.into_iter();
        let newest = rows.next().ok_or_else(|| Usage(::ledger::no_tenant(tenant)))?;
        Ok((store, newest, rows.collect()))
    }

    /// The database, and the ledgers of all tenants in the order in which they were made; of each that is not in order it is
    /// said.
    fn open_all(&self) -> Result<(SqliteStore, Vec<LedgerRow>)> {
        let options = self.existing()?;
        let store = SqliteStore::open(&options.database(), Access::ReadOnly)?;
        let rows = store.ledgers_list()?;
        let signed = Signed::of(&options);
        let mut tenants: BTreeMap<u32, Vec<LedgerRow>> = BTreeMap::new();
        for row in &rows {
            tenants.entry(row.tenant_no).or_default().push(row.clone());
        }
        for mut epochs in tenants.into_values() {
            epochs.sort_by_key(|row| row.epoch);
            for row in &epochs {
                if let Err(error) = signed.refusal(&store, &epochs, row) {
                    output::note(format_args!("deponent: {}: {error:#}", row.origin));
                }
            }
        }
        Ok((store, rows))
    }

    /// Why a ledger is behind, or beside, what was signed of its tenant, and says so: what is read from it must not pass for
    /// evidence of a ledger in order.
    fn refusal(&self, store: &SqliteStore, row: &LedgerRow) -> Result<Option<Refusal>> {
        let options = self.existing()?;
        let mut rows = store.ledgers_list()?;
        rows.retain(|other| other.tenant_no == row.tenant_no);
        rows.sort_by_key(|other| other.epoch);
        Signed::of(&options).refusal(store, &rows, row)
    }
}

/// What is read of a database, if it stayed as it was meanwhile: otherwise neither an answer nor damage that is found means
/// anything.
fn settled<T>(store: &SqliteStore, read: impl FnOnce() -> Result<T>) -> Result<T> {
    let read = read();
    match moved(store) {
        Some(why) => bail!(why),
        None => read,
    }
}

/// Why what was read of a database means nothing, if it was read without locks and written to meanwhile: it may have been
/// a page of before beside one of after.
fn moved(store: &SqliteStore) -> Option<String> {
    store.has_moved().then(|| {
        let path = store.path().display();
        format!(
            "{path} was written to while it was read; it can only be read beside a writer where files can be written beside it"
        )
    })
}

/// Why there is no ledger in a folder, if there is none.
fn no_ledger(options: &::ledger::Options) -> Result<Option<String>> {
    let database = options.database();
    let how = match std::fs::metadata(&database) {
        // As a crash leaves it that came while it was made, or somebody who emptied it.
        Ok(found) if found.is_file() && found.len() == 0 => "empty",
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => "missing",
        // What may not be read is not missing.
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", database.display())),
    };
    Ok(Some(format!(
        "there is no ledger in {}: {} is {how} (--data-dir names another folder)",
        options.data_dir.display(),
        database.display()
    )))
}

/// What a folder's ledgers are held against. Read before a head: a mark never runs ahead of what is committed.
struct Signed {
    /// Or why they cannot be read.
    marks: Result<HighWater, String>,
    keys: KeyFolder,
}

impl Signed {
    fn of(options: &::ledger::Options) -> Self {
        Self {
            marks: HighWater::open(&options.high_water()).map_err(|error| error.to_string()),
            keys: KeyFolder::at(&options.keys()),
        }
    }

    /// Why a ledger is not in order, and says so. `rows` are its tenant's, oldest first.
    fn refusal(&self, store: &SqliteStore, rows: &[LedgerRow], row: &LedgerRow) -> Result<Option<Refusal>> {
        let refusal = match &self.marks {
            Ok(marks) => offline_refusal(store, rows, row, marks, &self.keys)?,
            Err(error) => Some(Refusal::Damaged(error.clone())),
        };
        if let Some(refusal) = &refusal {
            output::note(format_args!("deponent: {}: {refusal}", row.origin));
        }
        Ok(refusal)
    }
}

/// The folder that a command reads in the place of a server.
#[derive(Debug, Args)]
pub(crate) struct InsteadOfServer {
    /// Read this data folder, and ask no server.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["server", "key_file"])]
    data_dir: Option<PathBuf>,
    /// The settings file of the folder, with --data-dir [env: DEPONENT_CONFIG; default: deponent.toml when it is there]
    #[arg(long, value_name = "FILE", requires = "data_dir")]
    config: Option<PathBuf>,
}

impl InsteadOfServer {
    /// The folder, if one was typed.
    fn given(&self) -> Option<DataDir> {
        self.data_dir.as_ref().map(|data_dir| DataDir {
            data_dir: Some(data_dir.clone()),
            config: self.config.clone(),
        })
    }
}
