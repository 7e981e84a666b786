//! `admin.sock`: how a writing command reaches the process that serves a data folder.
//!
//! While `serve` holds the lock nobody else writes. A command then sends one line
//! of JSON over a socket that only the folder's owner can open, and reads one line
//! back; before it, of long work, lines that say how far it is. Without a serving process
//! the command takes the lock and does the same work itself ([`run`]).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evidence::Timestamp;
use evidence::record::Role;
use serde::{Deserialize, Serialize};

use crate::own::{Clock, ImportedAsJob, OwnBusy, Tell, Told};
use crate::{
    ApiKey, Changer, KeyError, Ledger, NewKey, OpenError, Options, Receipt, RecoverError, Tenant,
    TenantError, no_tenant,
};

/// Longest question: a reason of 1,000 bytes and room.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Longest answer: a hundred remarks on an import of [`REMARK_BYTES_MAX`] each, escaped.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Longest remark on an import over the socket; it may quote the file.
const REMARK_BYTES_MAX: usize = 1_000;

/// How long the server may say nothing before the asker gives up waiting (the work goes on): of long work it says
/// something four times a second.
const ANSWER_TIMEOUT: Duration = Duration::from_hours(1);

/// How long the asker waits for a line before it looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Longest wait for an asker that does not read, before it is taken for gone.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

/// Commands at once: people type them, and each has a thread.
const COMMANDS_MAX: usize = 16;

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
    /// Call off a job of Deponent's own.
    JobCancel {
        /// Whose.
        tenant_id: String,
        /// Which.
        job_id: String,
        /// Why.
        reason: String,
    },
}

impl AdminRequest {
    /// In whose ledger the job of this work stands; `None`: it is none.
    fn tenant_of_job(&self) -> Option<&str> {
        match self {
            Self::ProvenanceImport { tenant_id, .. } | Self::LineageImport { tenant_id, .. } => {
                Some(tenant_id)
            }
            Self::Rebuild => Some(crate::INSTANCE),
            _ => None,
        }
    }
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
        /// Why its ledger is refused for writing, if it is.
        #[serde(default)]
        refused: Option<String>,
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
        /// Its job.
        job_id: String,
    },
    /// How far it is; the answer follows.
    Progress {
        /// Its job.
        job_id: String,
        /// How much is done.
        done: u64,
        /// How much there is to do, as far as is known.
        total: u64,
    },
    /// It stops between two batches.
    CallingOff,
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
        /// Its job.
        job_id: String,
    },
    /// An audit log was read.
    LineageImported {
        /// What became of it.
        imported: crate::lineage::LineageImported,
        /// Its job.
        job_id: String,
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

/// Answers commands until the process ends.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(ledger: Ledger, clock: Clock) -> io::Result<()> {
    let path = socket(ledger.options());
    let named = |error: io::Error| named(&path, &error);
    // The lock is held, so what is there is left over from a process that died.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(named)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
    // One more than there are commands.
    let commands = Arc::new(());
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let (ledger, command) = (ledger.clone(), Arc::clone(&commands));
            let busy = Arc::strong_count(&commands) > COMMANDS_MAX + 1;
            let thread = std::thread::Builder::new().name("command".into());
            let spawned = thread.spawn(move || {
                if let Err(error) = answer(&ledger, &stream, clock, busy) {
                    tracing::warn!(%error, "a command over admin.sock failed");
                }
                drop(command);
            });
            if let Err(error) = spawned {
                tracing::warn!(%error, "a command over admin.sock cannot be begun");
            }
        }
    })?;
    Ok(())
}

fn answer(ledger: &Ledger, stream: &UnixStream, clock: Clock, busy: bool) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(TELL_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    let mut gone = false;
    // Who asked may have gone: the work goes on, and is called off by its job.
    let mut tell = |told: Told<'_>| {
        let progress = AdminAnswer::Progress {
            job_id: told.job_id.to_owned(),
            done: told.done,
            total: told.total,
        };
        gone = gone || say(stream, &progress).is_err();
        ControlFlow::Continue(())
    };
    let answer = match serde_json::from_str(&line) {
        Ok(_) if busy => AdminAnswer::Failed {
            reason: format!("{COMMANDS_MAX} commands are running"),
        },
        Ok(request) => run(ledger, request, clock, &mut tell),
        Err(error) => AdminAnswer::Refused {
            reason: error.to_string(),
        },
    };
    if gone { Ok(()) } else { say(stream, &answer) }
}

fn say(mut stream: &UnixStream, answer: &AdminAnswer) -> io::Result<()> {
    let mut text = serde_json::to_string(answer)?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}

/// Asks the process that serves the folder; `None`: nobody does. What `tell` breaks off is called off.
///
/// # Errors
/// It is there but did not answer.
pub fn ask(options: &Options, request: &AdminRequest, tell: Tell<'_>) -> io::Result<Option<AdminAnswer>> {
    let Some(stream) = send(options, request)? else {
        return Ok(None);
    };
    stream.set_read_timeout(Some(LOOK_EVERY))?;
    let mut lines = Lines {
        reader: BufReader::new(&stream),
        line: Vec::new(),
    };
    let (mut heard, mut told) = (Instant::now(), (String::new(), 0, 0));
    let mut called_off = false;
    loop {
        match lines.next()? {
            None if heard.elapsed() > ANSWER_TIMEOUT => return Err(io::ErrorKind::TimedOut.into()),
            None => {}
            Some(AdminAnswer::Progress { job_id, done, total }) => {
                (heard, told) = (Instant::now(), (job_id, done, total));
            }
            Some(answer) => return Ok(Some(answer)),
        }
        // Before its job is known there is nothing to call off.
        if called_off || told.0.is_empty() {
            continue;
        }
        let now = Told {
            job_id: &told.0,
            done: told.1,
            total: told.2,
        };
        if let (ControlFlow::Break(reason), Some(tenant_id)) = (tell(now), request.tenant_of_job()) {
            called_off = true;
            let cancel = AdminRequest::JobCancel {
                tenant_id: tenant_id.to_owned(),
                job_id: told.0.clone(),
                reason,
            };
            // When it has ended meanwhile its answer says so.
            ask(options, &cancel, &mut crate::own::untold)?;
        }
    }
}

fn send(options: &Options, request: &AdminRequest) -> io::Result<Option<UnixStream>> {
    let Some(mut stream) = connect(&socket(options))? else {
        return Ok(None);
    };
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    Ok(Some(stream))
}

/// Lines of an answer, as they come.
struct Lines<'a> {
    reader: BufReader<&'a UnixStream>,
    line: Vec<u8>,
}

impl Lines<'_> {
    /// The next line; `None`: there is none yet.
    fn next(&mut self) -> io::Result<Option<AdminAnswer>> {
        let room = ANSWER_BYTES_MAX.saturating_sub(self.line.len() as u64);
        match (&mut self.reader).take(room).read_until(b'\n', &mut self.line) {
            // What was read of a line stays until the rest comes.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
            Ok(_) if !self.line.ends_with(b"\n") => {
                let message = "the process that serves the folder ended before it answered; what it did until then stays";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            Ok(_) => {}
        }
        let answer = serde_json::from_slice(&self.line)?;
        self.line.clear();
        Ok(Some(answer))
    }
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
        Err(error) => Err(named(path, &error)),
    }
}

/// The error with the path of the socket that it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    // Said of an address alone: systems keep about 100 bytes for one.
    if error.kind() == io::ErrorKind::InvalidInput {
        let bytes = path.as_os_str().len();
        let detail = format!(
            "{}: {bytes} bytes are too many for the path of a socket; choose a shorter --data-dir",
            path.display()
        );
        return io::Error::new(error.kind(), detail);
    }
    crate::files::named(path, error)
}

/// Does what a command asks, in this process.
pub fn run(ledger: &Ledger, request: AdminRequest, clock: Clock, tell: Tell<'_>) -> AdminAnswer {
    let at = (clock.now)();
    let done = match request {
        AdminRequest::TenantCreate { tenant_id } => ledger.tenant_create(&tenant_id, at).map_or_else(
            |error| Err(not_done(&error, matches!(error, TenantError::Name))),
            |tenant| {
                let ledger = tenant.ledger();
                Ok(AdminAnswer::Tenant {
                    tenant_id,
                    origin: ledger.row.origin.clone(),
                    vkey: ledger.row.vkey.clone(),
                    refused: ledger.refusal().map(|refusal| refusal.to_string()),
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
            .rebuild_job(clock, tell)
            .map(|(records, job_id)| AdminAnswer::Rebuilt {
                records,
                job_id: job_id.to_string(),
            })
            .map_err(|error| not_done(&error, false)),
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
        AdminRequest::ProvenanceImport { tenant_id, path } => {
            with_tenant(ledger, &tenant_id).and_then(|tenant| {
                let done = ledger.provenance_import_job(&tenant, &path, clock, tell);
                let (mut imported, job_id) = imported(done)?;
                cut(&mut imported.remarks);
                Ok(AdminAnswer::ProvenanceImported { imported, job_id })
            })
        }
        AdminRequest::LineageImport { tenant_id, path } => {
            with_tenant(ledger, &tenant_id).and_then(|tenant| {
                let done = ledger.lineage_import_job(&tenant, &path, clock, tell);
                let (mut imported, job_id) = imported(done)?;
                cut(&mut imported.remarks);
                Ok(AdminAnswer::LineageImported { imported, job_id })
            })
        }
        AdminRequest::JobCancel {
            tenant_id,
            job_id,
            reason,
        } => with_tenant(ledger, &tenant_id).and_then(|tenant| {
            let done = ledger.own_cancel(&tenant, &job_id, reason, clock);
            done.map(|()| AdminAnswer::CallingOff)
                .map_err(|error| not_done(&error, false))
        }),
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

fn with_tenant(ledger: &Ledger, tenant_id: &str) -> Result<Arc<Tenant>, NotDone> {
    ledger.tenant(tenant_id).ok_or_else(|| NotDone {
        reason: no_tenant(tenant_id),
        asked_wrongly: true,
    })
}

fn imported<T, E: std::error::Error>(
    done: Result<ImportedAsJob<T, E>, OwnBusy>,
) -> Result<(T, String), NotDone> {
    let done = done.map_err(|error| not_done(&error, false))?;
    let imported = done.result.map_err(|error| not_done(&error, false))?;
    Ok((imported, done.job_id.to_string()))
}

fn cut(remarks: &mut [String]) {
    for remark in remarks {
        remark.truncate(remark.floor_char_boundary(REMARK_BYTES_MAX));
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
pub fn ask_or_run(
    options: Options,
    request: AdminRequest,
    clock: Clock,
    tell: Tell<'_>,
) -> Result<AdminAnswer, OpenError> {
    if let Some(answer) = ask(&options, &request, tell)? {
        return Ok(answer);
    }
    let ledger = Ledger::open(options, (clock.now)())?;
    let answer = run(&ledger, request, clock, tell);
    ledger.close();
    Ok(answer)
}
