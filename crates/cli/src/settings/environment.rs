//! `DEPONENT_*`: which variables there are, and what of them is a secret.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::brought;
use crate::output::Usage;

/// Longest file of a secret: a hundred times the longest key or address.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Every variable that means something. Others that begin with `DEPONENT_` are refused.
const VARIABLES: [&str; 35] = [
    "DEPONENT_LISTEN",
    "DEPONENT_GRPC_LISTEN",
    "DEPONENT_DATA_DIR",
    "DEPONENT_DATABASE_URL",
    "DEPONENT_REDIS_URL",
    "DEPONENT_REDIS_URL_FILE",
    "DEPONENT_IDEMPOTENCY_ON_OUTAGE",
    "DEPONENT_IDEMPOTENCY_LEASE",
    "DEPONENT_IDEMPOTENCY_KEY_FILE",
    "DEPONENT_IDEMPOTENCY_REDIS_AOF",
    "DEPONENT_CONFIG",
    "DEPONENT_LOG",
    "DEPONENT_LEDGER_ORIGIN",
    "DEPONENT_RUNS_SEAL_AFTER",
    "DEPONENT_RUNS_ABANDON_AFTER",
    "DEPONENT_RETENTION_MINIMUM",
    "DEPONENT_RETENTION_RUNS",
    "DEPONENT_RETENTION_SYNTHETIC",
    "DEPONENT_RETENTION_SYSTEM",
    "DEPONENT_URL",
    "DEPONENT_API_KEY",
    "DEPONENT_API_KEY_FILE",
    "DEPONENT_POLICIES",
    "DEPONENT_RATE_LIMIT",
    "DEPONENT_RECORD_READS",
    "DEPONENT_RECORD_WRITES",
    "DEPONENT_OIDC_ISSUER",
    "DEPONENT_OIDC_AUDIENCE",
    "DEPONENT_OIDC_JWKS",
    "DEPONENT_OIDC_TENANT",
    "DEPONENT_OIDC_TENANT_CLAIM",
    "DEPONENT_OIDC_ROLE_CLAIM",
    "DEPONENT_TLS_CERT",
    "DEPONENT_TLS_KEY",
    "DEPONENT_TLOG_PUBLIC",
];

/// The environment as far as it concerns us. Read here and nowhere else.
pub(super) fn environment() -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("DEPONENT_")) else {
            continue;
        };
        if !VARIABLES.contains(&name) {
            let nearest = VARIABLES.iter().min_by_key(|known| distance(name, known));
            bail!(Usage(format!(
                "unknown environment variable {name}; the nearest that there is: {}",
                nearest.unwrap_or(&"none")
            )));
        }
        let value = value
            .into_string()
            .map_err(|_| Usage(format!("{name} is not UTF-8")))?;
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

/// How many letters must be put in, taken out or changed to make the one of the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (count, letter) in one.bytes().enumerate() {
        // Of the row before, and of this one, each a place behind.
        let (mut diagonal, mut left) = (count, count + 1);
        for (cell, theirs) in row.iter_mut().skip(1).zip(other.bytes()) {
            let changed = diagonal + usize::from(letter != theirs);
            (diagonal, left) = (*cell, changed.min(*cell + 1).min(left + 1));
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// What the environment says to a client of a server.
#[derive(Debug, Default)]
pub(crate) struct ClientEnvironment {
    pub(crate) url: Option<String>,
    api_key: Option<String>,
    api_key_file: Option<String>,
}

impl ClientEnvironment {
    /// The API key, from where it stands.
    pub(crate) fn key(self) -> Result<Option<String>> {
        either(
            ("DEPONENT_API_KEY", self.api_key),
            ("DEPONENT_API_KEY_FILE", self.api_key_file),
        )
    }
}

/// Reads the environment for a client of a server.
pub(crate) fn client_environment() -> Result<ClientEnvironment> {
    let mut found = environment()?;
    Ok(ClientEnvironment {
        url: found.remove("DEPONENT_URL"),
        api_key: found.remove("DEPONENT_API_KEY"),
        api_key_file: found.remove("DEPONENT_API_KEY_FILE"),
    })
}

/// A secret that a variable says, or the file that another one names; by the names of the variables. Beside the other,
/// an empty one counts as none.
pub(super) fn either(said: (&str, Option<String>), file: (&str, Option<String>)) -> Result<Option<String>> {
    match (said.1, file.1.filter(|path| !path.is_empty())) {
        (Some(secret), Some(_)) if !secret.is_empty() => bail!(Usage(format!(
            "{} and {} are both set; unset one of them",
            said.0, file.0
        ))),
        (_, Some(path)) => secret_file(Path::new(&path)).map(Some),
        (secret, None) => Ok(secret),
    }
}

/// A secret that stands in a file of its own. An empty one is refused: it would count as none.
pub(crate) fn secret_file(path: &Path) -> Result<String> {
    let bytes = brought::read(path, SECRET_BYTES_MAX)
        .with_context(|| format!("cannot read {}", path.display()))?
        .ok_or_else(|| Usage(format!("{} is longer than any secret", path.display())))?;
    let text = String::from_utf8(bytes).with_context(|| format!("cannot read {}", path.display()))?;
    let text = text.trim();
    if text.is_empty() {
        bail!(Usage(format!("{} is empty", path.display())));
    }
    Ok(text.to_owned())
}
