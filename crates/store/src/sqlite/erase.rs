//! Erasing: bodies go, and what was projected from them; then the file is scrubbed of what they left.
//!
//! The rows are changed in the transaction that writes the record of it ([`SqliteStore::append`]). SQLite overwrites
//! what it deletes (`secure_delete`), but when it once split a page it may have left a copy of a row behind in the
//! other page's free space, which nothing overwrites, and the log holds older pages. So afterwards the file is
//! rewritten, as long as it is small enough for that, and the log is cut to nothing.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, Transaction};

use super::{SqliteStore, facets, runs, unavailable};
use crate::{Batch, RunRow, Scrubbed, StoreError};

/// Largest database that is rewritten whole after an erasure: 2 to 3 s, in which nothing else is written.
pub const REWRITE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How often the log is tried to be cut, with the wait for its readers before each: reads are short, a
/// verification's at most a quarter of a second.
const CUT_ATTEMPTS: u32 = 3;

/// The pause between two of them.
const CUT_PAUSE: Duration = Duration::from_millis(200);

/// Erases what a batch says. Its record stands in the same transaction.
pub(super) fn erase(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut body = transaction.prepare_cached("DELETE FROM bodies WHERE leaf = ?1")?;
    let mut record = transaction.prepare_cached(
        "UPDATE run_records SET identity = ?3, step_index = ?4 WHERE run = ?1 AND run_seq = ?2",
    )?;
    for row in &batch.erased {
        // First what lets the body go.
        for facet in &row.facets_gained {
            facets::gain(transaction, batch.tenant_no, facet, row.leaf)?;
        }
        for facet in &row.facets_lost {
            facets::lose(transaction, batch.tenant_no, facet, row.leaf)?;
        }
        body.execute([row.leaf.as_i64()])?;
        if let Some(kept) = &row.run_record {
            let identity = kept
                .identity
                .as_ref()
                .map(|identity| identity.as_bytes().as_slice());
            let run_seq = super::as_i64(kept.run_seq);
            record.execute((kept.run.as_i64(), run_seq, identity, kept.step_index))?;
        }
    }
    replace_runs(transaction, &batch.refolded)
}

/// Writes rows anew, also what else never changes in one.
fn replace_runs(transaction: &Transaction<'_>, rows: &[RunRow]) -> rusqlite::Result<()> {
    let mut delete = transaction.prepare_cached("DELETE FROM runs WHERE run = ?1")?;
    for row in rows {
        delete.execute([row.key.as_i64()])?;
    }
    runs::upsert(transaction, rows)
}

impl SqliteStore {
    /// Beside the database while something erased may still stand in it.
    fn scrub_mark(&self) -> PathBuf {
        let mut path = self.path().as_os_str().to_owned();
        path.push("-scrub");
        path.into()
    }

    /// Before an erasure commits: whoever opens the database after a crash scrubs it.
    pub(super) fn mark_for_scrub(&self) -> Result<(), StoreError> {
        let mark = File::create(self.scrub_mark()).and_then(|file| file.sync_all());
        mark.map_err(|error| StoreError::Refused(format!("cannot write beside the database: {error}")))?;
        super::open::sync_folder(self.path())
    }

    /// At the opening and at a clean stop: what a crash or a busy reader left undone.
    pub(super) fn scrub_if_marked(&self) {
        if self.scrub_mark().exists()
            && let Err(error) = self.scrub_now()
        {
            tracing::warn!(%error, "the database was not scrubbed of what was erased; it is tried again");
        }
    }

    pub(super) fn scrub_now(&self) -> Result<Scrubbed, StoreError> {
        let connection = self.writer();
        let number = |name: &str| -> Result<u64, StoreError> {
            let number: i64 = connection
                .pragma_query_value(None, name, |row| row.get(0))
                .map_err(unavailable)?;
            super::as_u64("page_count", number)
        };
        let bytes = number("page_count")?.saturating_mul(number("page_size")?);
        let scrubbed = if bytes > REWRITE_BYTES_MAX {
            Scrubbed::Overwritten
        } else {
            // What is rewritten goes through a file: in memory it would be twice the database.
            connection
                .pragma_update(None, "temp_store", 1)
                .map_err(unavailable)?;
            let rewritten = connection.execute_batch("VACUUM");
            connection
                .pragma_update(None, "temp_store", 2)
                .map_err(unavailable)?;
            match rewritten {
                Ok(()) => Scrubbed::Rewritten,
                Err(error) => {
                    tracing::warn!(%error, "the database was not rewritten after an erasure");
                    Scrubbed::Overwritten
                }
            }
        };
        cut_log(&connection)?;
        drop(connection);
        if scrubbed == Scrubbed::Rewritten || bytes > REWRITE_BYTES_MAX {
            let _ = std::fs::remove_file(self.scrub_mark());
        }
        Ok(scrubbed)
    }
}

/// Carries the log over and cuts it to nothing: its old pages hold what was erased.
fn cut_log(connection: &Connection) -> Result<(), StoreError> {
    for attempt in 0..CUT_ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(CUT_PAUSE);
        }
        let busy: i64 = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(unavailable)?;
        if busy == 0 {
            return Ok(());
        }
    }
    Err(StoreError::Unavailable(
        "a reader keeps the log from being cut".into(),
    ))
}
