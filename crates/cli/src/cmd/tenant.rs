//! `deponent tenant`: make and list tenants of a data folder.

use anyhow::{Result, bail};
use clap::Subcommand;
use ledger::admin::{AdminAnswer, AdminRequest, ask_or_run};
use ledger::own::untold;
use serde_json::json;
use store::Store;

use super::{DataDir, settled};
use crate::output::{self, Format, Usage};

/// Make and list tenants.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Make a tenant with a ledger and a key of its own; again: nothing happens.
    #[command(after_help = "Exit codes: 0 it is there, 64 usage, 69 the data folder cannot be used")]
    Create {
        /// 1 to 63 characters a-z, 0-9, '.', '_', '-'.
        name: String,
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// List tenants, their ledgers and their verifier keys.
    #[command(after_help = "Exit codes: 0 listed, 64 usage, 69 the data folder cannot be used")]
    List {
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

impl TenantCommand {
    pub(crate) fn run(self) -> Result<u8> {
        match self {
            Self::Create {
                name,
                data_dir,
                format,
            } => {
                if !ledger::is_tenant_name(&name) {
                    bail!(Usage(ledger::TenantError::Name.to_string()));
                }
                let options = data_dir.settings()?.ledger;
                let request = AdminRequest::TenantCreate { tenant_id: name };
                match ask_or_run(options, request, crate::clock::clock(), &mut untold)? {
                    AdminAnswer::Tenant {
                        tenant_id,
                        origin,
                        vkey,
                        refused,
                    } => match format {
                        Format::Json => output::json(&json!({
                            "tenant_id": tenant_id, "origin": origin, "vkey": vkey, "refused": refused,
                        }))?,
                        Format::Text => {
                            output::line(format_args!("tenant {tenant_id}\norigin {origin}\nvkey {vkey}"));
                            if let Some(why) = refused {
                                output::line(format_args!(
                                    "refused for writing: {why}\nif that cannot be mended, the next epoch goes on: \
                                     `deponent ledger recover --tenant {tenant_id}`"
                                ));
                            }
                        }
                    },
                    AdminAnswer::Refused { reason } => bail!(Usage(reason)),
                    AdminAnswer::Failed { reason } => bail!(reason),
                    other => bail!("unexpected answer: {other:?}"),
                }
            }
            Self::List { data_dir, format } => {
                let (store, ledgers) = data_dir.open_all()?;
                let mut rows = Vec::new();
                let heads = settled(&store, || {
                    let heads = ledgers.iter().map(|ledger| store.head_read(ledger.ledger_no));
                    Ok(heads.collect::<Result<Vec<_>, _>>()?)
                })?;
                for (ledger, head) in ledgers.into_iter().zip(heads) {
                    match format {
                        Format::Text => output::line(format_args!(
                            "{:<24} epoch {}  {:>12} leaves  {}",
                            ledger.tenant_id, ledger.epoch, head.size, ledger.vkey
                        )),
                        Format::Json => rows.push(json!({
                            "tenant_id": ledger.tenant_id,
                            "epoch": ledger.epoch,
                            "origin": ledger.origin,
                            "vkey": ledger.vkey,
                            "tree_size": head.size.as_u64(),
                        })),
                    }
                }
                if format == Format::Json {
                    output::json(&rows)?;
                }
            }
        }
        Ok(0)
    }
}
