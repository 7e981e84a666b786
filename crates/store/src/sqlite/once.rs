//! Entries of [`crate::once`] in `state.db`, on a connection of their own.
//!
//! `synchronous=FULL`: a lease that was given is there after power loss, or two
//! could hold it. Acts that come together share a commit. The numbers of entries
//! and bytes of each tenant are kept beside them, so that no act counts rows.

use std::path::{Path, PathBuf};

use evidence::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::once::{
    ENTRIES_PER_TENANT_MAX, FAILED_SECS, Lease, OnceAct, OnceAsk, OnceEntry, OnceError, OnceKey, OnceSaid,
    OnceStatus, OnceStore, PAYLOAD_BYTES_PER_TENANT_MAX, Previous, SWEPT_AT_ONCE, SWEPT_PER_ACT, is_other,
    later,
};

/// Pages in the log before they are carried over: near 4 MiB.
const CHECKPOINT_PAGES: i64 = 1_000;

/// Page cache: the entries of a busy minute.
const CACHE_KIB: i64 = 8 * 1024;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS once (
  id INTEGER PRIMARY KEY, space INTEGER NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, status TEXT NOT NULL,
  hash BLOB, label TEXT, lease BLOB NOT NULL, lease_until INTEGER NOT NULL, created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL, response_hash BLOB, error TEXT, payload_bytes INTEGER NOT NULL, payload BLOB,
  UNIQUE (space, tenant, key)) STRICT;
CREATE INDEX IF NOT EXISTS once_expires ON once (expires_at);
CREATE TABLE IF NOT EXISTS once_held (
  space INTEGER NOT NULL, tenant TEXT NOT NULL, entries INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY (space, tenant)) STRICT, WITHOUT ROWID;
";

/// Columns of an entry, without its payload.
const COLUMNS: &str = "id, status, hash, label, lease, lease_until, created_at, expires_at, response_hash, error, \
                       payload_bytes";

/// The embedded backend. The file is opened when it is first asked, and again after a failure.
#[derive(Debug)]
pub struct SqliteOnce {
    path: PathBuf,
    connection: Option<Connection>,
}

impl SqliteOnce {
    /// Over that `state.db`, which is made when absent.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            connection: None,
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, rusqlite::Error> {
        if self.connection.is_none() {
            self.connection = Some(open(&self.path)?);
        }
        // Just put there.
        self.connection.as_mut().ok_or(rusqlite::Error::InvalidQuery)
    }

    /// The log holds pages as they were before: without this, for the next 4 MiB of writes.
    fn cut_log(&mut self) {
        let busy: Option<i64> = self.connection.as_ref().and_then(|connection| {
            connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
                .ok()
        });
        if busy != Some(0) {
            tracing::warn!(
                "the log of state.db could not be cut after something was forgotten; it is, as it fills"
            );
        }
    }

    fn in_transaction<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, OnceError> {
        let done = (|| {
            let transaction = self
                .connection()?
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let said = work(&transaction)?;
            transaction.commit()?;
            Ok(said)
        })();
        done.map_err(|error: rusqlite::Error| {
            // Whatever is wrong with the connection goes with it.
            self.connection = None;
            OnceError::Unavailable(error.to_string())
        })
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // Answers and outputs that go leave no bytes behind in the file.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    let (mode, synchronous): (String, i64) = (
        connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?,
        connection.pragma_query_value(None, "synchronous", |row| row.get(0))?,
    );
    if mode != "wal" || synchronous < 2 {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "state.db is not durable (journal_mode {mode}, synchronous {synchronous})"
        )));
    }
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

impl OnceStore for SqliteOnce {
    fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
        let all = self.in_transaction(|transaction| {
            let said = asks
                .iter()
                .map(|ask| Act::new(transaction, ask).said())
                .collect::<rusqlite::Result<Vec<_>>>()?;
            // What is over goes as fast as new ones come.
            if let Some(latest) = asks.iter().map(|ask| ask.at).max() {
                let count = u32::try_from(asks.len()).unwrap_or(u32::MAX);
                let count = count.saturating_mul(SWEPT_PER_ACT).min(SWEPT_AT_ONCE);
                sweep(transaction, latest, count)?;
            }
            Ok(said)
        });
        let forgot = |ask: &OnceAsk| matches!(ask.act, OnceAct::Forget { .. });
        if all.is_ok() && asks.iter().any(forgot) {
            self.cut_log();
        }
        match all {
            Ok(said) => said.into_iter().map(Ok).collect(),
            Err(error) => asks.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn sweep(&mut self, at: Timestamp) -> Result<u32, OnceError> {
        self.in_transaction(|transaction| sweep(transaction, at, SWEPT_AT_ONCE))
    }
}

/// A stored entry and its place.
struct Found {
    id: i64,
    entry: OnceEntry,
    payload_bytes: i64,
}

fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    let time = |column: usize| -> rusqlite::Result<Timestamp> {
        let micros: i64 = row.get(column)?;
        Timestamp::from_micros(micros).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, micros))
    };
    let status: String = row.get(1)?;
    Ok(Found {
        id: row.get(0)?,
        entry: OnceEntry {
            status: OnceStatus::of_letter(&status).ok_or(rusqlite::Error::InvalidQuery)?,
            hash: row.get(2)?,
            label: row.get(3)?,
            lease: row.get(4)?,
            lease_until: time(5)?,
            created_at: time(6)?,
            expires_at: time(7)?,
            response_hash: row.get(8)?,
            error: row.get(9)?,
            payload_bytes: u64::try_from(row.get::<_, i64>(10)?).unwrap_or(0),
        },
        payload_bytes: row.get(10)?,
    })
}

/// One act, within the transaction of its batch.
struct Act<'a> {
    transaction: &'a Transaction<'a>,
    key: &'a OnceKey,
    asked: &'a OnceAct,
    at: Timestamp,
}

impl<'a> Act<'a> {
    fn new(transaction: &'a Transaction<'_>, ask: &'a OnceAsk) -> Self {
        Self {
            transaction,
            key: &ask.key,
            asked: &ask.act,
            at: ask.at,
        }
    }

    fn said(&self) -> rusqlite::Result<OnceSaid> {
        let found = self.find()?;
        match self.asked {
            OnceAct::Read => Ok(OnceSaid::Read(found.map(|found| Box::new(found.entry)))),
            OnceAct::Payload => {
                let payload = found.map(|found| self.payload(found.id)).transpose()?;
                Ok(OnceSaid::Payload(payload.flatten()))
            }
            OnceAct::Forget { response_hash } => match found {
                Some(found)
                    if found.entry.status == OnceStatus::Completed
                        && found.entry.response_hash.as_ref() == Some(response_hash) =>
                {
                    self.forget(found)
                }
                _ => Ok(OnceSaid::Unknown),
            },
            OnceAct::Delete => {
                if let Some(found) = found {
                    self.remove(&found)?;
                }
                Ok(OnceSaid::Deleted)
            }
            OnceAct::Check {
                hash,
                label,
                ttl_secs,
                lease_secs,
                lease,
            } => self.check(
                found,
                hash.as_ref(),
                label.as_deref(),
                *ttl_secs,
                *lease_secs,
                lease,
            ),
            OnceAct::Complete {
                lease,
                label,
                response_hash,
                payload,
            } => held(found, lease, |mut found| {
                if found.entry.status == OnceStatus::Completed {
                    let same = found.entry.response_hash == *response_hash;
                    return Ok(same.then_some(found.entry));
                }
                found.entry.response_hash = *response_hash;
                if label.is_some() {
                    found.entry.label.clone_from(label);
                }
                self.finish(found, OnceStatus::Completed, payload.as_deref())
            }),
            OnceAct::Fail { lease, error } => held(found, lease, |mut found| {
                if found.entry.status == OnceStatus::Failed {
                    let same = found.entry.error.as_ref() == Some(error);
                    return Ok(same.then_some(found.entry));
                }
                found.entry.error = Some(error.clone());
                found.entry.expires_at = later(self.at, FAILED_SECS);
                self.finish(found, OnceStatus::Failed, None)
            }),
            OnceAct::Renew { lease, lease_secs } => held(found, lease, |mut found| {
                if found.entry.status != OnceStatus::Pending {
                    return Ok(None);
                }
                found.entry.lease_until = later(self.at, *lease_secs).min(found.entry.expires_at);
                self.transaction
                    .prepare_cached("UPDATE once SET lease_until = ?2 WHERE id = ?1")?
                    .execute((found.id, found.entry.lease_until.as_micros()))?;
                Ok(Some(found.entry))
            }),
        }
    }

    /// The entry, unless its time is over.
    fn find(&self) -> rusqlite::Result<Option<Found>> {
        let found = self
            .transaction
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM once WHERE space = ?1 AND tenant = ?2 AND key = ?3"
            ))?
            .query_row((self.key.space.code(), &*self.key.tenant, &*self.key.key), found)
            .optional()?;
        match found {
            Some(found) if found.entry.expires_at <= self.at => {
                self.remove(&found)?;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    fn check(
        &self,
        found: Option<Found>,
        hash: Option<&[u8; 32]>,
        label: Option<&str>,
        ttl_secs: u32,
        lease_secs: u32,
        lease: &Lease,
    ) -> rusqlite::Result<OnceSaid> {
        let previous = match found {
            None => None,
            Some(found) => {
                let previous = match found.entry.status {
                    OnceStatus::Failed => Some(Previous::Failed),
                    OnceStatus::Pending if found.entry.lease_until <= self.at => Some(Previous::Expired),
                    OnceStatus::Pending | OnceStatus::Completed => None,
                };
                if previous.is_none() {
                    let conflict = is_other(found.entry.hash.as_ref(), hash);
                    return Ok(OnceSaid::Known {
                        entry: Box::new(found.entry),
                        conflict,
                    });
                }
                self.remove(&found)?;
                previous
            }
        };
        if self.held_of()?.0 >= ENTRIES_PER_TENANT_MAX {
            return Ok(OnceSaid::Full);
        }
        let expires_at = later(self.at, ttl_secs);
        let lease_until = later(self.at, lease_secs).min(expires_at);
        self.transaction
            .prepare_cached(
                "INSERT INTO once (space, tenant, key, status, hash, label, lease, lease_until, created_at, \
                 expires_at, payload_bytes) VALUES (?1, ?2, ?3, 'p', ?4, ?5, ?6, ?7, ?8, ?9, 0)",
            )?
            .execute(params![
                self.key.space.code(),
                &*self.key.tenant,
                &*self.key.key,
                hash,
                label,
                lease,
                lease_until.as_micros(),
                self.at.as_micros(),
                expires_at.as_micros(),
            ])?;
        self.hold(1, 0)?;
        Ok(OnceSaid::New {
            previous,
            lease_until,
            expires_at,
        })
    }

    /// Pending becomes something else, once.
    fn finish(
        &self,
        mut found: Found,
        status: OnceStatus,
        payload: Option<&[u8]>,
    ) -> rusqlite::Result<Option<OnceEntry>> {
        if found.entry.status != OnceStatus::Pending {
            return Ok(None);
        }
        found.entry.status = status;
        let bytes = payload.map_or(0, <[u8]>::len);
        // Never done twice, even if what came of it finds no room.
        let room = PAYLOAD_BYTES_PER_TENANT_MAX.saturating_sub(self.held_of()?.1);
        let payload = payload.filter(|_| u64::try_from(bytes).is_ok_and(|bytes| bytes <= room));
        let bytes = payload.map_or(0, |payload| i64::try_from(payload.len()).unwrap_or(i64::MAX));
        let entry = &found.entry;
        self.transaction
            .prepare_cached(
                "UPDATE once SET status = ?2, label = ?3, expires_at = ?4, response_hash = ?5, error = ?6, \
                 payload_bytes = ?7, payload = ?8 WHERE id = ?1",
            )?
            .execute(params![
                found.id,
                status.letter(),
                entry.label,
                entry.expires_at.as_micros(),
                entry.response_hash,
                entry.error,
                bytes,
                payload,
            ])?;
        found.entry.payload_bytes = u64::try_from(bytes).unwrap_or(0);
        if bytes > 0 {
            self.hold(0, bytes)?;
        }
        Ok(Some(found.entry))
    }

    fn payload(&self, id: i64) -> rusqlite::Result<Option<Vec<u8>>> {
        self.transaction
            .prepare_cached("SELECT payload FROM once WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
    }

    fn forget(&self, mut found: Found) -> rusqlite::Result<OnceSaid> {
        self.transaction
            .prepare_cached(
                "UPDATE once SET hash = NULL, label = NULL, response_hash = NULL, payload_bytes = 0, payload = NULL \
                 WHERE id = ?1",
            )?
            .execute([found.id])?;
        self.hold(0, -found.payload_bytes)?;
        let entry = &mut found.entry;
        (entry.hash, entry.label, entry.response_hash) = (None, None, None);
        entry.payload_bytes = 0;
        Ok(OnceSaid::Done(Box::new(found.entry)))
    }

    fn remove(&self, found: &Found) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("DELETE FROM once WHERE id = ?1")?
            .execute([found.id])?;
        self.hold(-1, -found.payload_bytes)
    }

    /// Entries and bytes of the tenant in the space.
    fn held_of(&self) -> rusqlite::Result<(u64, u64)> {
        let held: Option<(i64, i64)> = self
            .transaction
            .prepare_cached("SELECT entries, bytes FROM once_held WHERE space = ?1 AND tenant = ?2")?
            .query_row((self.key.space.code(), &*self.key.tenant), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let (entries, bytes) = held.unwrap_or_default();
        Ok((entries.max(0).unsigned_abs(), bytes.max(0).unsigned_abs()))
    }

    fn hold(&self, entries: i64, bytes: i64) -> rusqlite::Result<()> {
        hold(
            self.transaction,
            self.key.space.code(),
            &self.key.tenant,
            entries,
            bytes,
        )
    }
}

/// Does something for the holder; `None` of it means that the key is done already, in another way.
fn held(
    found: Option<Found>,
    lease: &Lease,
    work: impl FnOnce(Found) -> rusqlite::Result<Option<OnceEntry>>,
) -> rusqlite::Result<OnceSaid> {
    let Some(found) = found else {
        return Ok(OnceSaid::Unknown);
    };
    if found.entry.lease != *lease {
        return Ok(OnceSaid::LeaseLost);
    }
    Ok(work(found)?.map_or(OnceSaid::LeaseLost, |entry| OnceSaid::Done(Box::new(entry))))
}

fn hold(
    transaction: &Transaction<'_>,
    space: u8,
    tenant: &str,
    entries: i64,
    bytes: i64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO once_held VALUES (?1, ?2, ?3, ?4) ON CONFLICT (space, tenant) DO UPDATE SET \
             entries = entries + ?3, bytes = bytes + ?4",
        )?
        .execute((space, tenant, entries, bytes))
        .map(drop)
}

fn sweep(transaction: &Transaction<'_>, at: Timestamp, count: u32) -> rusqlite::Result<u32> {
    let mut over = transaction.prepare_cached(
        "SELECT id, space, tenant, payload_bytes FROM once WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
    )?;
    let rows = over
        .query_map((at.as_micros(), count), |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, u8>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, i64>(3)?,
            ))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut delete = transaction.prepare_cached("DELETE FROM once WHERE id = ?1")?;
    for (id, space, tenant, bytes) in &rows {
        delete.execute([id])?;
        hold(transaction, *space, tenant, -1, -bytes)?;
    }
    Ok(u32::try_from(rows.len()).unwrap_or(u32::MAX))
}
