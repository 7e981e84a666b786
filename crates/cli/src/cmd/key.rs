//! `deponent key`: make, list, rotate and revoke API keys of a data folder.

use anyhow::{Result, bail};
use clap::Subcommand;
use evidence::Timestamp;
use evidence::record::Role;
use ledger::admin::{AdminAnswer, AdminRequest, ask_or_run};
use ledger::own::untold;
use serde_json::json;

use super::{DataDir, settled};
use crate::output::{self, Format, Usage};

/// Make, list, rotate and revoke API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; it is shown this once.
    #[command(
        after_help = "Exit codes: 0 made, 64 usage, or no such tenant, 69 the data folder cannot be used"
    )]
    Create {
        /// Whose; `deponent tenant create` makes one.
        #[arg(long)]
        tenant: String,
        /// reader, writer, auditor or admin; operator for tenant _instance.
        #[arg(long, value_parser = role)]
        role: Role,
        /// What people know it by.
        #[arg(long)]
        name: Option<String>,
        /// When it ends by itself, RFC 3339.
        #[arg(long, value_name = "TIME", value_parser = time)]
        expires: Option<Timestamp>,
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// List keys, those that have ended included; never their secrets.
    #[command(
        after_help = "Exit codes: 0 listed, 64 usage, or no such tenant, 69 the data folder cannot be used"
    )]
    List {
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Give a key another secret; the old one is worth nothing at once.
    #[command(
        after_help = "Exit codes: 0 done, 64 usage, or no such key, or a revoked one, 69 the data folder cannot be used"
    )]
    Rotate {
        /// The key's id: what stands between the first and second `_` of a key.
        key_id: String,
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Make a key worth nothing, for ever.
    #[command(
        after_help = "Exit codes: 0 it is revoked, 64 usage, or no such key, 69 the data folder cannot be used"
    )]
    Revoke {
        /// The key's id: what stands between the first and second `_` of a key.
        key_id: String,
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "must be reader, writer, auditor, admin or operator".to_owned())
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| error.to_string())
}

impl KeyCommand {
    pub(crate) fn run(self) -> Result<u8> {
        let (request, data_dir, format) = match self {
            Self::List {
                tenant,
                data_dir,
                format,
            } => return list(tenant.as_deref(), &data_dir, format),
            Self::Create {
                tenant,
                role,
                name,
                expires,
                data_dir,
                format,
            } => {
                if (tenant == ledger::INSTANCE) != (role == Role::Operator) {
                    bail!(Usage(
                        "operator is the one role of tenant _instance, and of no other".into()
                    ));
                }
                let request = AdminRequest::KeyCreate {
                    tenant_id: tenant,
                    role,
                    name,
                    expires_at: expires,
                };
                (request, data_dir, format)
            }
            Self::Rotate {
                key_id,
                data_dir,
                format,
            } => {
                let key_id = id_alone(key_id)?;
                (AdminRequest::KeyRotate { key_id }, data_dir, format)
            }
            Self::Revoke {
                key_id,
                data_dir,
                format,
            } => {
                let key_id = id_alone(key_id)?;
                (AdminRequest::KeyRevoke { key_id }, data_dir, format)
            }
        };
        match ask_or_run(data_dir.existing()?, request, crate::clock::clock(), &mut untold)? {
            AdminAnswer::Key {
                key_id,
                key,
                tenant_id,
                role,
                name,
                created_at,
                expires_at,
                revoked_at,
            } => match format {
                Format::Json => output::json(&json!({
                    "key_id": key_id, "key": key, "tenant_id": tenant_id, "role": role, "name": name,
                    "created_at": created_at, "expires_at": expires_at, "revoked_at": revoked_at,
                }))?,
                Format::Text => match key {
                    Some(key) => {
                        output::line(&key);
                        output::note(format_args!(
                            "key {key_id}: {} of tenant {tenant_id}; this is the only time that it is shown",
                            role.as_str()
                        ));
                    }
                    None => output::line(format_args!("key {key_id} of tenant {tenant_id} is revoked")),
                },
            },
            AdminAnswer::Refused { reason } => bail!(Usage(reason)),
            AdminAnswer::Failed { reason } => bail!(reason),
            _ => bail!("unexpected answer"),
        }
        Ok(0)
    }
}

/// Longest text that is taken for a key's id: an id has 12 characters, the secret behind it 52.
const ID_BYTES_MAX: usize = 32;

/// A whole key is no id, nor is its secret, and neither is said: whoever reads it has the key.
fn id_alone(key_id: String) -> Result<String> {
    if key_id.contains('_') || key_id.len() > ID_BYTES_MAX {
        bail!(Usage(
            "the key's id is needed, not the key itself: what stands between its first and second `_`".into()
        ));
    }
    Ok(key_id)
}

fn list(tenant: Option<&str>, data_dir: &DataDir, format: Format) -> Result<u8> {
    let store = match tenant {
        // One that does not exist has no keys, and is a slip.
        Some(tenant) => data_dir.open(tenant)?.0,
        None => data_dir.open_all()?.0,
    };
    let keys = settled(&store, || Ok(ledger::read_keys(&store)?.list(tenant)))?;
    let at = crate::clock::now();
    if format == Format::Json {
        let rows: Vec<_> = keys
            .iter()
            .map(|key| {
                json!({
                    "key_id": &*key.key_id, "tenant_id": &*key.tenant_id, "role": key.role, "name": key.name,
                    "created_at": key.created_at, "expires_at": key.expires_at,
                    "rotated_at": key.rotated_at, "revoked_at": key.revoked_at,
                })
            })
            .collect();
        output::json(&rows)?;
        return Ok(0);
    }
    for key in keys {
        output::line(format_args!(
            "{:<14} {:<24} {:<8} {:<8} {}",
            key.key_id,
            key.tenant_id,
            key.role.as_str(),
            key.ended(at).unwrap_or("live"),
            key.name.as_deref().unwrap_or_default()
        ));
    }
    Ok(0)
}
