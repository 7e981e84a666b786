//! `deponent ledger`: show, prove, rebuild or recover a tenant's ledger.

use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use evidence::{Header, RecordId};
use ledger::admin::{AdminAnswer, AdminRequest, ask_or_run};
use ledger::own::untold;
use ledger::{Refusal, StoredTree};
use serde_json::json;
use store::sqlite::SqliteStore;
use store::{LedgerRow, Store};
use tlog::{LeafIndex, TlogProof};

use super::work::{self, Unit};
use super::{DataDir, EXIT_UNKNOWN, settled};
use crate::output::{self, Format, Usage};

/// Which ledger of a data folder.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The tenant.
    #[arg(long, default_value = "default")]
    tenant: String,
    #[command(flatten)]
    data_dir: DataDir,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Show, prove, rebuild or recover a tenant's ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Print size and root of the ledger and its newest checkpoint.
    #[command(
        after_help = "Exit codes: 0 printed, 64 usage, or no such tenant, 69 the data folder cannot be used"
    )]
    Head {
        #[command(flatten)]
        which: Which,
    },
    /// Print the .tlog-proof of a record: anyone can check it with the verifier key.
    #[command(
        after_help = "Exit codes: 0 printed, 2 no such record or leaf, or no checkpoint covers it, 64 usage, or no such tenant or \
        epoch, 69 the data folder cannot be used"
    )]
    Proof {
        /// A record id, or a leaf index.
        record: String,
        /// The epoch [default: of an index the newest, of a record id that which has the record]
        #[arg(long, value_name = "EPOCH")]
        epoch: Option<u32>,
        #[command(flatten)]
        which: Which,
    },
    /// Make every projection anew from leaves and bodies. Ctrl-C stops it: the old ones stand.
    #[command(
        after_help = "Exit codes: 0 rebuilt, 64 usage, 69 the data folder cannot be used, or it was called off, 130 called off twice"
    )]
    Rebuild {
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// After a rollback: start the next epoch, with a new key and a first leaf that declares the loss.
    ///
    /// For a ledger that is refused because its database was set back, to a backup for instance. What is there stays, and
    /// is verified by its old key; writing goes on in the next epoch. Once for each tenant that is behind, and for
    /// _instance: `deponent verify` says which.
    #[command(
        after_help = "Exit codes: 0 recovered, 64 usage, or no such tenant, or its ledger is in order, 69 the data folder cannot be used"
    )]
    Recover {
        /// The tenant.
        #[arg(long)]
        tenant: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

impl LedgerCommand {
    pub(crate) fn run(self) -> Result<u8> {
        match self {
            Self::Head { which } => head(&which),
            Self::Proof { record, epoch, which } => proof(&record, epoch, &which),
            Self::Rebuild { data_dir, format } => {
                match work::ask(data_dir.existing()?, AdminRequest::Rebuild, Unit::Leaves)? {
                    AdminAnswer::Rebuilt { records, job_id } => match format {
                        Format::Json => output::json(&json!({ "records": records, "job_id": job_id }))?,
                        Format::Text => output::line(format_args!("rebuilt from {records} records")),
                    },
                    AdminAnswer::Refused { reason } => bail!(Usage(reason)),
                    AdminAnswer::Failed { reason } => bail!(reason),
                    other => bail!("unexpected answer: {other:?}"),
                }
                Ok(0)
            }
            Self::Recover {
                tenant,
                reason,
                data_dir,
                format,
            } => {
                let request = AdminRequest::Recover {
                    tenant_id: tenant,
                    reason,
                };
                match ask_or_run(data_dir.existing()?, request, crate::clock::clock(), &mut untold)? {
                    AdminAnswer::Recovered {
                        origin,
                        vkey,
                        leaf_index,
                    } => match format {
                        Format::Json => output::json(&json!({
                            "origin": origin, "vkey": vkey, "leaf_index": leaf_index,
                        }))?,
                        Format::Text => output::line(format_args!(
                            "recovered: the ledger goes on as {origin}\nvkey {vkey}\nthe loss is declared in leaf {leaf_index}"
                        )),
                    },
                    AdminAnswer::Refused { reason } => bail!(Usage(reason)),
                    AdminAnswer::Failed { reason } => bail!(reason),
                    other => bail!("unexpected answer: {other:?}"),
                }
                Ok(0)
            }
        }
    }
}

fn head(which: &Which) -> Result<u8> {
    let (store, row, _) = which.data_dir.epochs(&which.tenant)?;
    let (refusal, head, checkpoint) = settled(&store, || {
        Ok((
            which.data_dir.refusal(&store, &row)?,
            store.head_read(row.ledger_no)?,
            store.checkpoint_newest(row.ledger_no)?,
        ))
    })?;
    match which.format {
        Format::Json => output::json(&json!({
            "tenant_id": row.tenant_id,
            "origin": row.origin,
            "tree_size": head.size.as_u64(),
            "tree_root": head.root.to_hex(),
            "vkey": row.vkey,
            "checkpoint": checkpoint.as_ref().map(|row| &row.note),
            "checkpoint_size": checkpoint.as_ref().map(|row| row.size.as_u64()),
            "status": status_of(refusal.as_ref()),
            "status_detail": refusal.as_ref().map(Refusal::to_string),
        }))?,
        Format::Text => {
            output::line(format_args!(
                "origin {}\nsize {}\nroot {}\nvkey {}",
                row.origin, head.size, head.root, row.vkey
            ));
            match checkpoint {
                Some(checkpoint) => output::text(&format!("\n{}", checkpoint.note)),
                None => output::line("no checkpoint yet"),
            }
        }
    }
    Ok(0)
}

fn proof(record: &str, epoch: Option<u32>, which: &Which) -> Result<u8> {
    let (index, id) = match (record.parse::<u64>(), RecordId::parse(record)) {
        (Ok(index), _) => (index, None),
        (_, Some(id)) => (id.leaf_index().as_u64(), Some(id)),
        _ => bail!(Usage(format!(
            "{record:?} is neither a record id nor a leaf index"
        ))),
    };
    let (store, newest, older) = which.data_dir.epochs(&which.tenant)?;
    let mut rows = vec![newest];
    rows.extend(older);
    match epoch {
        Some(epoch) => rows.retain(|row| row.epoch == epoch),
        // An index says nothing of which ledger is meant.
        None if id.is_none() => rows.truncate(1),
        None => {}
    }
    if rows.is_empty() {
        bail!(Usage(format!("tenant {} has no such epoch", which.tenant)));
    }
    let proved = match settled(&store, || prove(&store, rows, (index, id), which))? {
        Ok(proved) => proved,
        Err(why) => {
            output::note(format_args!("deponent: {why}"));
            return Ok(EXIT_UNKNOWN);
        }
    };
    let Proved { row, refusal, .. } = &proved;
    let header = Header::decode(&proved.leaf).context("the leaf is no record")?;
    match which.format {
        Format::Json => output::json(&json!({
            "tenant_id": row.tenant_id,
            "origin": row.origin,
            "vkey": row.vkey,
            "record_id": header.id.to_string(),
            "leaf_index": index,
            "leaf_hash": tlog::leaf_hash(&proved.leaf).to_hex(),
            "checkpoint_size": proved.size,
            "proof": proved.text,
            "status": status_of(refusal.as_ref()),
            "status_detail": refusal.as_ref().map(Refusal::to_string),
        }))?,
        Format::Text => std::io::stdout().lock().write_all(proved.text.as_bytes())?,
    }
    Ok(0)
}

/// A leaf and its proof.
struct Proved {
    row: LedgerRow,
    refusal: Option<Refusal>,
    leaf: Vec<u8>,
    /// Of the checkpoint that it is proved under.
    size: u64,
    /// A `.tlog-proof`.
    text: String,
}

/// Proves a leaf of the first of some ledgers that has it; the inner error is an answer.
fn prove(
    store: &SqliteStore,
    rows: Vec<LedgerRow>,
    (index, id): (u64, Option<RecordId>),
    which: &Which,
) -> Result<Result<Proved, String>> {
    let Some((row, leaf)) = leaf_of(store, rows, index, id)? else {
        let what = id.map_or_else(|| format!("leaf {index}"), |id| format!("record {id}"));
        return Ok(Err(format!("tenant {} has no {what}", which.tenant)));
    };
    let refusal = which.data_dir.refusal(store, &row)?;
    let checkpoint = store
        .checkpoint_newest(row.ledger_no)?
        .filter(|checkpoint| index < checkpoint.size.as_u64());
    let Some(checkpoint) = checkpoint else {
        return Ok(Err(format!(
            "no checkpoint covers leaf {index} of {}",
            row.origin
        )));
    };
    let tree = StoredTree::new(store, row.ledger_no);
    let proof = TlogProof {
        extra: None,
        index: LeafIndex::new(index),
        hashes: tree.inclusion(LeafIndex::new(index), checkpoint.size)?,
        checkpoint_note: checkpoint.note,
    };
    Ok(Ok(Proved {
        row,
        refusal,
        leaf,
        size: checkpoint.size.as_u64(),
        text: proof.encode(),
    }))
}

/// The status as the HTTP API has it.
fn status_of(refusal: Option<&Refusal>) -> &'static str {
    match refusal {
        None => "ok",
        Some(Refusal::RolledBack(_)) => "rollback_detected",
        Some(Refusal::Damaged(_)) => "damaged",
    }
}

/// The first of some ledgers that has the leaf, of that record if one is named; and the leaf. A leaf that cannot be read
/// may be another record's: it hides none in an older ledger.
fn leaf_of(
    store: &SqliteStore,
    rows: Vec<LedgerRow>,
    index: u64,
    id: Option<RecordId>,
) -> Result<Option<(LedgerRow, Vec<u8>)>> {
    let mut damage = None;
    for row in rows {
        if index >= store.head_read(row.ledger_no)?.size.as_u64() {
            continue;
        }
        match record_at(store, row.ledger_no, index) {
            Ok((found, leaf)) if id.is_none_or(|id| id == found) => return Ok(Some((row, leaf))),
            Ok(_) => {}
            Err(error) if id.is_some() => damage = damage.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    damage.map_or(Ok(None), Err)
}

/// A leaf's record and its bytes.
fn record_at(store: &SqliteStore, ledger_no: u32, index: u64) -> Result<(RecordId, Vec<u8>)> {
    let leaf = StoredTree::new(store, ledger_no).leaf(index)?;
    let id = Header::decode(&leaf).context("the leaf is no record")?.id;
    Ok((id, leaf))
}
