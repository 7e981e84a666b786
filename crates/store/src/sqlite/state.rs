//! `state.db`: progress of verification, files of imports that have not ended. Leases and replayed answers lie beside it (`once.rs`).
//!
//! Its loss harms no evidence: what was verified is verified again. But with it go the keys that are kept beside
//! it, and what they stood for may be done again. So it is set aside only when SQLite calls it damaged, and loudly.
//!
//! Nobody has signed what stands in it: findings that are on record in a ledger go before its rows.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use evidence::Timestamp;

use super::open::make_private;
use super::{as_i64, as_u64, damaged, unavailable};
use crate::StoreError;

/// How far a ledger has been verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerProgress {
    /// Leaves that the incremental verification has covered.
    pub verified_size: u64,
    /// When it last ended and had found nothing.
    pub verified_at: Option<Timestamp>,
    /// When everything was last verified.
    pub last_full_scrub_at: Option<Timestamp>,
    /// Findings of the last verification that found any.
    pub findings: u64,
    /// When the first of them was found after there were none.
    pub found_at: Option<Timestamp>,
    /// That there are findings is on record in the ledger, durably, and not yet that there are none any more.
    pub recorded: bool,
}

/// The state database.
#[derive(Debug)]
pub struct StateDb {
    connection: Mutex<Connection>,
}

impl StateDb {
    /// Opens it, making it when absent.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let connection = Connection::open(path).map_err(of_state)?;
        connection
            .pragma_update(None, "journal_mode", "wal")
            .map_err(of_state)?;
        connection
            .pragma_update(None, "synchronous", "normal")
            .map_err(of_state)?;
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS verification (
                   origin TEXT PRIMARY KEY, verified_size INTEGER NOT NULL, verified_at INTEGER,
                   last_full_scrub_at INTEGER, findings INTEGER NOT NULL,
                   found_at INTEGER, recorded INTEGER NOT NULL DEFAULT 0) STRICT;
                 CREATE TABLE IF NOT EXISTS findings (origin TEXT PRIMARY KEY, found TEXT NOT NULL) STRICT;
                 CREATE TABLE IF NOT EXISTS imports (job_id TEXT PRIMARY KEY, path BLOB NOT NULL) STRICT;
                 CREATE TABLE IF NOT EXISTS once_epoch (one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT NOT NULL) STRICT",
            )
            .map_err(of_state)?;
        // Of a file that was made before the mark: what it found is recorded once more.
        for column in ["found_at INTEGER", "recorded INTEGER NOT NULL DEFAULT 0"] {
            let name = column.split(' ').next().unwrap_or_default();
            let there = connection
                .column_exists(None, "verification", name)
                .map_err(of_state)?;
            if !there {
                connection
                    .execute_batch(&format!("ALTER TABLE verification ADD COLUMN {column}"))
                    .map_err(of_state)?;
            }
        }
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    /// The same; one that is damaged is set aside, and another begun. For a server that starts, before anything else
    /// has the file open: who has it open would go on in the one that was set aside.
    ///
    /// # Errors
    /// It cannot be opened for another reason (rights, a full disk, a lock): it may be whole, so it stays.
    pub fn open_or_begin_anew(path: &Path) -> Result<Self, StoreError> {
        match Self::open(path) {
            Err(error @ StoreError::Damaged { .. }) => {
                let aside = set_aside(path).map_err(|error| StoreError::Unavailable(error.to_string()))?;
                tracing::error!(
                    %error,
                    aside = %aside.display(),
                    "state.db is damaged and was set aside: idempotency keys kept in it are forgotten"
                );
                Self::open(path)
            }
            other => other,
        }
    }

    /// How far a ledger has been verified.
    pub fn progress(&self, origin: &str) -> Result<LedgerProgress, StoreError> {
        use rusqlite::OptionalExtension;
        let time = |micros: Option<i64>| micros.and_then(Timestamp::from_micros);
        type Row = (i64, Option<i64>, Option<i64>, i64, Option<i64>, bool);
        let row: Option<Row> = self
            .lock()
            .query_row(
                "SELECT verified_size, verified_at, last_full_scrub_at, findings, found_at, recorded
                 FROM verification WHERE origin = ?1",
                [origin],
                |row| {
                    Ok((
                        row.get(0)?,
                        row.get(1)?,
                        row.get(2)?,
                        row.get(3)?,
                        row.get(4)?,
                        row.get(5)?,
                    ))
                },
            )
            .optional()
            .map_err(|error| damaged("verification", error))?;
        let Some((size, at, scrub, findings, found_at, recorded)) = row else {
            return Ok(LedgerProgress::default());
        };
        Ok(LedgerProgress {
            verified_size: as_u64("verification.verified_size", size)?,
            verified_at: time(at),
            last_full_scrub_at: time(scrub),
            findings: as_u64("verification.findings", findings)?,
            found_at: time(found_at),
            recorded,
        })
    }

    /// Keeps how far a ledger has been verified.
    pub fn progress_set(&self, origin: &str, progress: &LedgerProgress) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO verification
                   (origin, verified_size, verified_at, last_full_scrub_at, findings, found_at, recorded)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (origin) DO UPDATE SET
                 verified_size = ?2, verified_at = ?3, last_full_scrub_at = ?4, findings = ?5, found_at = ?6, recorded = ?7",
                (
                    origin,
                    as_i64(progress.verified_size),
                    progress.verified_at.map(Timestamp::as_micros),
                    progress.last_full_scrub_at.map(Timestamp::as_micros),
                    as_i64(progress.findings),
                    progress.found_at.map(Timestamp::as_micros),
                    progress.recorded,
                ),
            )
            .map(drop)
            .map_err(unavailable)
    }

    /// What was found last in a ledger, as it was kept.
    pub fn found(&self, origin: &str) -> Result<Option<String>, StoreError> {
        use rusqlite::OptionalExtension;
        self.lock()
            .query_row("SELECT found FROM findings WHERE origin = ?1", [origin], |row| {
                row.get(0)
            })
            .optional()
            .map_err(unavailable)
    }

    /// Keeps what was found last in a ledger.
    pub fn found_set(&self, origin: &str, found: &str) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO findings VALUES (?1, ?2) ON CONFLICT (origin) DO UPDATE SET found = ?2",
                (origin, found),
            )
            .map(drop)
            .map_err(unavailable)
    }

    /// Which file the import of a job reads.
    pub fn import_path(&self, job_id: &str) -> Result<Option<PathBuf>, StoreError> {
        use rusqlite::OptionalExtension;
        let path: Option<Vec<u8>> = self
            .lock()
            .query_row("SELECT path FROM imports WHERE job_id = ?1", [job_id], |row| {
                row.get(0)
            })
            .optional()
            .map_err(unavailable)?;
        Ok(path.map(|path| OsString::from_vec(path).into()))
    }

    /// Keeps it while the job has not ended.
    pub fn import_keep(&self, job_id: &str, path: &Path) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO imports VALUES (?1, ?2) ON CONFLICT (job_id) DO UPDATE SET path = ?2",
                (job_id, path.as_os_str().as_bytes()),
            )
            .map(drop)
            .map_err(unavailable)
    }

    /// The job has ended.
    pub fn import_forget(&self, job_id: &str) -> Result<(), StoreError> {
        self.lock()
            .execute("DELETE FROM imports WHERE job_id = ?1", [job_id])
            .map(drop)
            .map_err(unavailable)
    }

    /// The epoch of the Redis that keeps idempotency keys, as it was last seen.
    pub fn once_epoch(&self) -> Result<Option<String>, StoreError> {
        use rusqlite::OptionalExtension;
        self.lock()
            .query_row("SELECT epoch FROM once_epoch", [], |row| row.get(0))
            .optional()
            .map_err(unavailable)
    }

    /// Keeps it.
    pub fn once_epoch_set(&self, epoch: &str) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO once_epoch VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET epoch = ?1",
                [epoch],
            )
            .map(drop)
            .map_err(unavailable)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a file, by its own name.
fn of_state(error: rusqlite::Error) -> StoreError {
    match unavailable(error) {
        StoreError::Damaged { reason, .. } => damaged("state.db", reason),
        other => other,
    }
}

/// Databases that are set aside, at most: whoever has so many has another trouble, and keeps what is there.
const ASIDE_MAX: u32 = 1_000;

/// What belongs to a database, itself the last: its log must never lie beside one that is not its own.
const STATE_FILES: [&str; 5] = ["-wal", "-shm", "-answers", "-answers-2", ""];

/// Moves a database away with its log, index and answers, to a name that nothing has; says which.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let with = |base: &Path, end: &str| {
        let mut name = OsString::from(base);
        name.push(end);
        PathBuf::from(name)
    };
    for number in 1..=ASIDE_MAX {
        let aside = with(path, &format!(".damaged-{number}"));
        if STATE_FILES.iter().any(|end| with(&aside, end).exists()) {
            continue;
        }
        for end in STATE_FILES {
            match std::fs::rename(with(path, end), with(&aside, end)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        return Ok(aside);
    }
    Err(std::io::Error::other(format!(
        "{ASIDE_MAX} damaged databases are set aside already"
    )))
}
