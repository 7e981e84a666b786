//! `admin.sock`: how a writing command reaches the process that serves a data folder.
//!
//! While `serve` holds the lock nobody else writes. A command then sends one line
//! of JSON over a socket that only the folder's owner can open, and reads one line
//! back. Without a serving process the command takes the lock and does the same
//! work itself ([`run`]).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use evidence::Timestamp;
use evidence::record::Role;
use serde::{Deserialize, Serialize};

use crate::{
    ApiKey, Changer, KeyError, Ledger, NewKey, OpenError, Options, Receipt, RecoverError, TenantError,
};

/// Longest question: a reason of 1,000 bytes and room.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Longest answer: a hundred remarks on an import of [`REMARK_BYTES_MAX`] each, escaped.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Longest remark on an import over the socket; it may quote the file.
const REMARK_BYTES_MAX: usize = 1_000;

/// How long a rebuild may take before the asker gives up waiting (the work goes on).
const ANSWER_TIMEOUT: Duration = Duration::from_hours(1);

/// What a command asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum AdminRequest {
    /// Make a tenant.
    TenantCreate {
        /// Its name.
        tenant_id: String,
    },
    /// Start the next epoch of a tenant's ledger.
    Recover {
        /// The tenant.
        tenant_id: String,
        /// Why.
        reason: String,
    },
    /// Make all projections anew.
    Rebuild,
    /// Make an API key.
    KeyCreate {
        /// Whose.
        tenant_id: String,
        /// What it may do.
        role: Role,
        /// For people.
        name: Option<String>,
        /// When it ends by itself.
        expires_at: Option<Timestamp>,
    },
    /// Give an API key another secret.
    KeyRotate {
        /// Which.
        key_id: String,
    },
    /// Make records of a file of provenance logs.
    ProvenanceImport {
        /// Whose they become.
        tenant_id: String,
        /// The file, by its absolute path.
        path: PathBuf,
    },
    /// Make records of an audit log.
    LineageImport {
        /// Whose they become.
        tenant_id: String,
        /// The file, by its absolute path.
        path: PathBuf,
    },
    /// Make an API key worth nothing.
    KeyRevoke {
        /// Which.
        key_id: String,
    },
}

/// What it gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AdminAnswer {
    /// The tenant is there.
    Tenant {
        /// Its name.
        tenant_id: String,
        /// Its origin.
        origin: String,
        /// Its verifier key.
        vkey: String,
    },
    /// The epoch has begun.
    Recovered {
        /// Its origin.
        origin: String,
        /// Its verifier key.
        vkey: String,
        /// Index of its first leaf.
        leaf_index: u64,
    },
    /// The projections are new.
    Rebuilt {
        /// Records that stand in them.
        records: u64,
    },
    /// The API key as it is now.
    Key {
        /// Which.
        key_id: String,
        /// The key itself, when it is new: it is never known again.
        key: Option<String>,
        /// Whose.
        tenant_id: String,
        /// What it may do.
        role: Role,
        /// For people.
        name: Option<String>,
        /// When it came to be.
        created_at: Timestamp,
        /// When it ends by itself.
        expires_at: Option<Timestamp>,
        /// Since when it is worth nothing.
        revoked_at: Option<Timestamp>,
    },
    /// A file of provenance logs was read.
    ProvenanceImported {
        /// What became of it.
        imported: crate::provenance::file::Imported,
    },
    /// An audit log was read.
    LineageImported {
        /// What became of it.
        imported: crate::lineage::LineageImported,
    },
    /// It was not done, for what was asked makes no sense; why.
    Refused {
        /// One line.
        reason: String,
    },
    /// It could not be done.
    Failed {
        /// One line.
        reason: String,
    },
}

/// The socket of a data folder.
pub fn socket(options: &Options) -> PathBuf {
    options.data_dir.join("admin.sock")
}

/// Answers commands until the process ends. `clock` is read once a command.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(ledger: Ledger, clock: fn() -> Timestamp) -> io::Result<()> {
    let path = socket(ledger.options());
    // The lock is held, so what is there is left over from a process that died.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // One at a time: these are rare, and each has the ledger's writer to itself anyway.
            if let Err(error) = answer(&ledger, &stream, clock) {
                tracing::warn!(%error, "a command over admin.sock failed");
            }
        }
    })?;
    Ok(())
}

fn answer(ledger: &Ledger, stream: &UnixStream, clock: fn() -> Timestamp) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => run(ledger, request, clock()),
        Err(error) => AdminAnswer::Refused {
            reason: error.to_string(),
        },
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    let mut stream = stream;
    stream.write_all(text.as_bytes())
}

/// Asks the process that serves the folder; `None`: nobody does.
///
/// # Errors
/// It is there but did not answer.
pub fn ask(options: &Options, request: &AdminRequest) -> io::Result<Option<AdminAnswer>> {
    let Some(mut stream) = connect(&socket(options))? else {
        return Ok(None);
    };
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    Ok(Some(serde_json::from_str(&line)?))
}

fn connect(path: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(path) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Does what a command asks, in this process.
pub fn run(ledger: &Ledger, request: AdminRequest, at: Timestamp) -> AdminAnswer {
    let done = match request {
        AdminRequest::TenantCreate { tenant_id } => ledger.tenant_create(&tenant_id, at).map_or_else(
            |error| Err(not_done(&error, matches!(error, TenantError::Name))),
            |tenant| {
                let ledger = tenant.ledger();
                Ok(AdminAnswer::Tenant {
                    tenant_id,
                    origin: ledger.row.origin.clone(),
                    vkey: ledger.row.vkey.clone(),
                })
            },
        ),
        AdminRequest::Recover { tenant_id, reason } => ledger.recover(&tenant_id, &reason, at).map_or_else(
            |error| Err(not_done(&error, !matches!(error, RecoverError::Tenant(_)))),
            |(Receipt { leaf_index, .. }, origin)| {
                let vkey = ledger
                    .tenant(&tenant_id)
                    .map(|tenant| tenant.ledger().row.vkey.clone());
                Ok(AdminAnswer::Recovered {
                    origin,
                    vkey: vkey.unwrap_or_default(),
                    leaf_index,
                })
            },
        ),
        AdminRequest::Rebuild => ledger
            .rebuild()
            .map(|records| AdminAnswer::Rebuilt { records })
            .map_err(|reason| NotDone {
                reason,
                asked_wrongly: false,
            }),
        AdminRequest::KeyCreate {
            tenant_id,
            role,
            name,
            expires_at,
        } => {
            let new = NewKey {
                tenant_id,
                role,
                name,
                expires_at,
            };
            key_answer(
                ledger
                    .key_create(&new, &Changer::local(), at)
                    .map(|given| (given.key, Some(given.text))),
            )
        }
        AdminRequest::ProvenanceImport { tenant_id, path } => match ledger.tenant(&tenant_id) {
            None => Err(NotDone {
                reason: format!("there is no tenant {tenant_id}"),
                asked_wrongly: true,
            }),
            Some(tenant) => ledger
                .provenance_import(&tenant, &path, at)
                .map(|mut imported| {
                    for remark in &mut imported.remarks {
                        remark.truncate(remark.floor_char_boundary(REMARK_BYTES_MAX));
                    }
                    AdminAnswer::ProvenanceImported { imported }
                })
                .map_err(|error| not_done(&error, false)),
        },
        AdminRequest::LineageImport { tenant_id, path } => match ledger.tenant(&tenant_id) {
            None => Err(NotDone {
                reason: format!("there is no tenant {tenant_id}"),
                asked_wrongly: true,
            }),
            Some(tenant) => ledger
                .lineage_import(&tenant, &path, at)
                .map(|mut imported| {
                    for remark in &mut imported.remarks {
                        remark.truncate(remark.floor_char_boundary(REMARK_BYTES_MAX));
                    }
                    AdminAnswer::LineageImported { imported }
                })
                .map_err(|error| not_done(&error, false)),
        },
        AdminRequest::KeyRotate { key_id } => key_answer(
            ledger
                .key_rotate(None, &key_id, &Changer::local(), at)
                .map(|given| (given.key, Some(given.text))),
        ),
        AdminRequest::KeyRevoke { key_id } => key_answer(
            ledger
                .key_revoke(None, &key_id, &Changer::local(), at)
                .map(|key| (key, None)),
        ),
    };
    match done {
        Ok(answer) => answer,
        Err(NotDone {
            reason,
            asked_wrongly,
        }) if asked_wrongly => AdminAnswer::Refused { reason },
        Err(NotDone { reason, .. }) => AdminAnswer::Failed { reason },
    }
}

/// Why something was not done, and whether that is the asker's fault.
struct NotDone {
    reason: String,
    asked_wrongly: bool,
}

fn not_done(error: &dyn std::error::Error, asked_wrongly: bool) -> NotDone {
    NotDone {
        reason: error.to_string(),
        asked_wrongly,
    }
}

fn key_answer(done: Result<(Arc<ApiKey>, Option<String>), KeyError>) -> Result<AdminAnswer, NotDone> {
    let (key, text) = done.map_err(|error| {
        let asked_wrongly = !matches!(error, KeyError::Submit(_) | KeyError::Body(_));
        not_done(&error, asked_wrongly)
    })?;
    Ok(AdminAnswer::Key {
        key_id: key.key_id.to_string(),
        key: text,
        tenant_id: key.tenant_id.to_string(),
        role: key.role,
        name: key.name.clone(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
    })
}

/// Does it over the socket when the folder is served, else here.
///
/// # Errors
/// The folder cannot be opened, or who serves it did not answer.
pub fn ask_or_run(options: Options, request: AdminRequest, at: Timestamp) -> Result<AdminAnswer, OpenError> {
    if let Some(answer) = ask(&options, &request)? {
        return Ok(answer);
    }
    let ledger = Ledger::open(options, at)?;
    let answer = run(&ledger, request, at);
    ledger.close();
    Ok(answer)
}
