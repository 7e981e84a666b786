//! What is asked of a key, on its row.

use std::cell::Cell;
use std::sync::Arc;

use evidence::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::answers::Kept;
use crate::once::{
    ENTRIES_PER_TENANT_MAX, FAILED_SECS, Lease, OnceAct, OnceAsk, OnceEntry, OnceKey, OnceSaid, OnceSpace,
    OnceStatus, PAYLOAD_BYTES_PER_TENANT_MAX, Previous, is_other, later,
};

/// Payloads taken away at once: each is written over with zeros, which go through the log.
const SWEPT_BYTES: u64 = 32 * 1024 * 1024;

/// A stored entry and its place.
pub(super) struct Found {
    pub(super) id: i64,
    pub(super) entry: OnceEntry,
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
pub(super) struct Act<'a> {
    transaction: &'a Connection,
    key: &'a OnceKey,
    asked: &'a OnceAct,
    at: Timestamp,
    /// Bytes of payloads that came or went, all acts of the transaction together.
    moved: &'a Cell<u64>,
}

impl<'a> Act<'a> {
    pub(super) const fn new(transaction: &'a Connection, ask: &'a OnceAsk, moved: &'a Cell<u64>) -> Self {
        Self {
            transaction,
            key: &ask.key,
            asked: &ask.act,
            at: ask.at,
            moved,
        }
    }

    pub(super) fn said(&self) -> rusqlite::Result<OnceSaid> {
        let found = self.find()?;
        match self.asked {
            OnceAct::Read => Ok(OnceSaid::Read(found.map(|found| Box::new(found.entry)))),
            OnceAct::Payload => {
                let payload = found
                    .map(|found| payload_of(self.transaction, found.id))
                    .transpose()?;
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
                    self.remove(found.id, found.payload_bytes)?;
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

    /// The entry; one whose time is over goes.
    fn find(&self) -> rusqlite::Result<Option<Found>> {
        let found = find_any(self.transaction, self.key)?;
        match found {
            Some(found) if found.entry.expires_at <= self.at => {
                self.remove(found.id, found.payload_bytes)?;
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
                self.remove(found.id, found.payload_bytes)?;
                previous
            }
        };
        if held_of(self.transaction, self.key.space, &self.key.tenant)?.0 >= ENTRIES_PER_TENANT_MAX {
            return Ok(OnceSaid::Full);
        }
        let entry = pending(
            self.at,
            hash.copied(),
            label.map(str::to_owned),
            ttl_secs,
            lease_secs,
            *lease,
        );
        self.insert(&entry)?;
        let (lease_until, expires_at) = (entry.lease_until, entry.expires_at);
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
        let payload = self.with_room(payload)?;
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

    fn remove(&self, id: i64, payload_bytes: i64) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("DELETE FROM once WHERE id = ?1")?
            .execute([id])?;
        self.hold(-1, -payload_bytes)
    }

    /// A result, unless it finds no room: what is done is never done twice for that.
    fn with_room<'p>(&self, payload: Option<&'p [u8]>) -> rusqlite::Result<Option<&'p [u8]>> {
        let (_, held) = held_of(self.transaction, self.key.space, &self.key.tenant)?;
        let room = PAYLOAD_BYTES_PER_TENANT_MAX.saturating_sub(held);
        Ok(payload.filter(|payload| u64::try_from(payload.len()).is_ok_and(|bytes| bytes <= room)))
    }

    fn insert(&self, entry: &OnceEntry) -> rusqlite::Result<()> {
        insert(self.transaction, self.key, entry, None)?;
        self.hold(1, 0)
    }

    fn hold(&self, entries: i64, bytes: i64) -> rusqlite::Result<()> {
        self.moved
            .set(self.moved.get().saturating_add(bytes.unsigned_abs()));
        hold(
            self.transaction,
            self.key.space.code(),
            &self.key.tenant,
            entries,
            bytes,
        )
    }
}

/// Whatever row the key has.
fn find_any(connection: &Connection, key: &OnceKey) -> rusqlite::Result<Option<Found>> {
    connection
        .prepare_cached(concat!(
            "SELECT id, status, hash, label, lease, lease_until, created_at, expires_at, response_hash, error, ",
            "payload_bytes FROM once WHERE space = ?1 AND tenant = ?2 AND key = ?3"
        ))?
        .query_row((key.space.code(), &*key.tenant, &*key.key), found)
        .optional()
}

/// The entry, unless its time is over.
pub(super) fn find(connection: &Connection, key: &OnceKey, at: Timestamp) -> rusqlite::Result<Option<Found>> {
    let found = find_any(connection, key)?;
    Ok(found.filter(|found| found.entry.expires_at > at))
}

/// The result that is kept in a row.
pub(super) fn payload_of(connection: &Connection, id: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT payload FROM once WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
}

/// Entries and bytes of the tenant in the space.
pub(super) fn held_of(
    connection: &Connection,
    space: OnceSpace,
    tenant: &str,
) -> rusqlite::Result<(u64, u64)> {
    let held: Option<(i64, i64)> = connection
        .prepare_cached("SELECT entries, bytes FROM once_held WHERE space = ?1 AND tenant = ?2")?
        .query_row((space.code(), tenant), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (entries, bytes) = held.unwrap_or_default();
    Ok((entries.max(0).unsigned_abs(), bytes.max(0).unsigned_abs()))
}

/// Puts a row there; `false`: the key has one.
fn insert(
    connection: &Connection,
    key: &OnceKey,
    entry: &OnceEntry,
    payload: Option<&[u8]>,
) -> rusqlite::Result<bool> {
    let inserted = connection
        .prepare_cached(
            "INSERT INTO once (space, tenant, key, status, hash, label, lease, lease_until, created_at, \
             expires_at, response_hash, payload_bytes, payload) VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT (space, tenant, key) DO NOTHING",
        )?
        .execute(params![
            key.space.code(),
            &*key.tenant,
            &*key.key,
            entry.status.letter(),
            entry.hash,
            entry.label,
            entry.lease,
            entry.lease_until.as_micros(),
            entry.created_at.as_micros(),
            entry.expires_at.as_micros(),
            entry.response_hash,
            as_i64(entry.payload_bytes),
            payload,
        ])?;
    Ok(inserted > 0)
}

fn as_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Makes rows of answers. A row that is there already is one whose time is over, that of an older version's process, or
/// the same after a commit whose outcome was not known.
pub(super) fn file(connection: &Connection, answers: &Kept, moved: &Cell<u64>) -> rusqlite::Result<()> {
    for (tenant, all) in answers.by_tenant() {
        let (mut entries, mut bytes) = (0, 0);
        for (key, answer) in all {
            let key = OnceKey {
                space: OnceSpace::Answer,
                tenant: Arc::clone(tenant),
                key: Arc::clone(key),
            };
            let payload = answer.payload.as_deref();
            if !insert(connection, &key, &answer.entry, payload)? {
                let before: i64 = connection
                    .prepare_cached(
                        "DELETE FROM once WHERE space = ?1 AND tenant = ?2 AND key = ?3 RETURNING payload_bytes",
                    )?
                    .query_row((key.space.code(), &*key.tenant, &*key.key), |row| row.get(0))?;
                (entries, bytes) = (entries - 1, bytes - before);
                moved.set(moved.get().saturating_add(before.unsigned_abs()));
                insert(connection, &key, &answer.entry, payload)?;
            }
            (entries, bytes) = (entries + 1, bytes + as_i64(answer.entry.payload_bytes));
            moved.set(moved.get().saturating_add(answer.entry.payload_bytes));
        }
        hold(connection, OnceSpace::Answer.code(), tenant, entries, bytes)?;
    }
    Ok(())
}

/// An entry as it is when it is checked.
pub(super) fn pending(
    at: Timestamp,
    hash: Option<[u8; 32]>,
    label: Option<String>,
    ttl_secs: u32,
    lease_secs: u32,
    lease: Lease,
) -> OnceEntry {
    let expires_at = later(at, ttl_secs);
    OnceEntry {
        status: OnceStatus::Pending,
        hash,
        label,
        lease,
        lease_until: later(at, lease_secs).min(expires_at),
        created_at: at,
        expires_at,
        response_hash: None,
        error: None,
        payload_bytes: 0,
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

pub(super) fn hold(
    transaction: &Connection,
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

/// Takes away what is over; says how many entries, and how many bytes of payloads.
pub(super) fn sweep(transaction: &Connection, at: Timestamp, count: u32) -> rusqlite::Result<(u32, u64)> {
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
    let (mut swept, mut moved) = (0, 0_u64);
    for (id, space, tenant, bytes) in &rows {
        if moved >= SWEPT_BYTES {
            break;
        }
        delete.execute([id])?;
        swept += 1;
        moved = moved.saturating_add(bytes.unsigned_abs());
        hold(transaction, *space, tenant, -1, -bytes)?;
    }
    Ok((swept, moved))
}
