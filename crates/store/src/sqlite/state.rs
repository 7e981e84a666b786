//! `state.db`: progress of verification. Leases and replayed answers lie beside it (`once.rs`).
//!
//! Its loss harms no evidence: what is lost is done again.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use evidence::Timestamp;

use super::{as_i64, as_u64, damaged, unavailable};
use crate::StoreError;

/// How far a ledger has been verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerProgress {
    /// Leaves that the incremental verification has covered.
    pub verified_size: u64,
    /// When it last ended.
    pub verified_at: Option<Timestamp>,
    /// When everything was last verified.
    pub last_full_scrub_at: Option<Timestamp>,
    /// Findings of the last verification that found any.
    pub findings: u64,
}

/// The state database.
#[derive(Debug)]
pub struct StateDb {
    connection: Mutex<Connection>,
}

impl StateDb {
    /// Opens it, making it when absent.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path).map_err(unavailable)?;
        connection
            .pragma_update(None, "journal_mode", "wal")
            .map_err(unavailable)?;
        connection
            .pragma_update(None, "synchronous", "normal")
            .map_err(unavailable)?;
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS verification (
                   origin TEXT PRIMARY KEY, verified_size INTEGER NOT NULL, verified_at INTEGER,
                   last_full_scrub_at INTEGER, findings INTEGER NOT NULL) STRICT;
                 CREATE TABLE IF NOT EXISTS once_epoch (one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT NOT NULL) STRICT",
            )
            .map_err(unavailable)?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    /// The same; one that cannot be read is set aside, and another begun.
    pub fn open_or_begin_anew(path: &Path) -> Result<Self, StoreError> {
        Self::open(path).or_else(|error| {
            tracing::warn!(%error, "state.db cannot be read: it is set aside and begins anew");
            let aside = path.with_extension("db.damaged");
            std::fs::rename(path, aside).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            Self::open(path)
        })
    }

    /// How far a ledger has been verified.
    pub fn progress(&self, origin: &str) -> Result<LedgerProgress, StoreError> {
        use rusqlite::OptionalExtension;
        let time = |micros: Option<i64>| micros.and_then(Timestamp::from_micros);
        let row: Option<(i64, Option<i64>, Option<i64>, i64)> = self
            .lock()
            .query_row(
                "SELECT verified_size, verified_at, last_full_scrub_at, findings FROM verification WHERE origin = ?1",
                [origin],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .optional()
            .map_err(|error| damaged("verification", error))?;
        let Some((size, at, scrub, findings)) = row else {
            return Ok(LedgerProgress::default());
        };
        Ok(LedgerProgress {
            verified_size: as_u64("verification.verified_size", size)?,
            verified_at: time(at),
            last_full_scrub_at: time(scrub),
            findings: as_u64("verification.findings", findings)?,
        })
    }

    /// Keeps how far a ledger has been verified.
    pub fn progress_set(&self, origin: &str, progress: &LedgerProgress) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO verification VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (origin) DO UPDATE SET
                 verified_size = ?2, verified_at = ?3, last_full_scrub_at = ?4, findings = ?5",
                (
                    origin,
                    as_i64(progress.verified_size),
                    progress.verified_at.map(Timestamp::as_micros),
                    progress.last_full_scrub_at.map(Timestamp::as_micros),
                    as_i64(progress.findings),
                ),
            )
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
