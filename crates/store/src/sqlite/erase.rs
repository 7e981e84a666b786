//! Erasing: bodies go, and what was projected from them; then the file is scrubbed of what they left.
//!
//! The rows are changed in the transaction that writes the record of it ([`SqliteStore::append`]). SQLite overwrites
//! what it deletes (`secure_delete`), but when it once split a page it may have left a copy of a row behind in the
//! other page's free space, which nothing overwrites, and the log holds older pages. So afterwards the file is
//! rewritten, as long as it is small enough for that, and the log is cut to nothing.

use std::fs::File;
use std::io::ErrorKind::NotFound;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{ErrorCode, Transaction};

use super::open::BUSY_TIME;
use super::{SqliteStore, facets, runs, unavailable};
use crate::{Batch, RunRow, Scrubbed, StoreError};

/// Largest database that is rewritten whole after an erasure: 2 to 3 s, in which nothing else is written.
pub const REWRITE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How often the log is tried to be cut: reads are short, a verification's at most a quarter of a second, but for
/// its look at the structure of a table. Five seconds in all, in which others write; then at the next scrub.
const CUT_ATTEMPTS: u32 = 25;

/// The pause between two of them.
const CUT_PAUSE: Duration = Duration::from_millis(200);

/// How far the file is rid of what was erased.
#[derive(Debug, Default)]
pub(super) struct Scrubs {
    /// Erasures that this process began to write.
    erasures: u64,
    /// How many of them the last rewriting covers, and what it was. `None`: what came before is not known.
    rewritten: Option<(u64, Scrubbed)>,
}

/// Erases what a batch says. Its record stands in the same transaction.
pub(super) fn erase(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut stretch = transaction.prepare_cached("DELETE FROM bodies WHERE leaf BETWEEN ?1 AND ?2")?;
    for row in &batch.pruned {
        stretch.execute((row.first.as_i64(), row.last.as_i64()))?;
    }
    let mut body = transaction.prepare_cached("DELETE FROM bodies WHERE leaf = ?1")?;
    let mut record = transaction.prepare_cached(
        "UPDATE run_records SET identity = ?3, step_index = ?4 WHERE run = ?1 AND run_seq = ?2",
    )?;
    // First what lets the bodies go.
    facets::change(transaction, batch.tenant_no, &batch.erased)?;
    for row in &batch.erased {
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

/// Whether a rewriting failed before it touched the file: a reader was in the way, or there was no room, or no folder,
/// for the copy that it begins with.
fn is_of_the_copy(error: &rusqlite::Error) -> bool {
    let code = error
        .sqlite_error()
        .map(|error| (error.code, error.extended_code));
    matches!(
        code,
        Some(
            (
                ErrorCode::DatabaseBusy | ErrorCode::DiskFull | ErrorCode::CannotOpen,
                _
            ) | (_, rusqlite::ffi::SQLITE_IOERR_GETTEMPPATH)
        )
    )
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
        let failed = |error: std::io::Error| format!("cannot write beside the database: {error}");
        let mark = File::create(self.scrub_mark()).map_err(|error| StoreError::Unavailable(failed(error)))?;
        // A sync that failed may succeed the next time without the mark being there.
        mark.sync_all()
            .map_err(|error| StoreError::Refused(failed(error)))?;
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

    fn scrubs(&self) -> MutexGuard<'_, Scrubs> {
        self.scrubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the writer, before an erasure is written.
    pub(super) fn erases(&self) {
        self.scrubs().erasures += 1;
    }

    /// Rids the files of what was erased before. Erasures at once share one rewriting.
    pub(super) fn scrub_now(&self) -> Result<Scrubbed, StoreError> {
        let (through, scrubbed) = self.rewrite()?;
        for attempt in 0..CUT_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(CUT_PAUSE);
            }
            if self.cut_log(through)? {
                return Ok(scrubbed);
            }
        }
        Err(StoreError::Unavailable(
            "a reader keeps the log from being cut".into(),
        ))
    }

    /// Rewrites the file, unless nothing was erased since it was; gives the erasures that are covered.
    fn rewrite(&self) -> Result<(u64, Scrubbed), StoreError> {
        let connection = self.writer();
        let mut scrubs = self.scrubs();
        if let Some((through, scrubbed)) = scrubs.rewritten
            && through == scrubs.erasures
        {
            return Ok((through, scrubbed));
        }
        let number = |name: &str| -> Result<u64, StoreError> {
            let number: i64 = connection
                .pragma_query_value(None, name, |row| row.get(0))
                .map_err(unavailable)?;
            super::as_u64("page_count", number)
        };
        let bytes = number("page_count")?.saturating_mul(number("page_size")?);
        if bytes > REWRITE_BYTES_MAX {
            scrubs.rewritten = Some((scrubs.erasures, Scrubbed::Overwritten));
            return Ok((scrubs.erasures, Scrubbed::Overwritten));
        }
        // What is rewritten goes through a file: in memory it would be twice the database.
        connection
            .pragma_update(None, "temp_store", 1)
            .map_err(unavailable)?;
        let rewritten = connection.execute_batch("VACUUM");
        connection
            .pragma_update(None, "temp_store", 2)
            .map_err(unavailable)?;
        match rewritten {
            Ok(()) => {
                scrubs.rewritten = Some((scrubs.erasures, Scrubbed::Rewritten));
                Ok((scrubs.erasures, Scrubbed::Rewritten))
            }
            Err(error) => {
                scrubs.rewritten = None;
                if is_of_the_copy(&error) {
                    tracing::warn!(%error, "the database was not rewritten after an erasure");
                    return Ok((scrubs.erasures, Scrubbed::Overwritten));
                }
                self.stop(&error);
                Err(unavailable(error))
            }
        }
    }

    /// Carries the log over and cuts it to nothing: its old pages hold what was erased. `false`: a reader is in the
    /// way; nobody waits for him under the writer.
    fn cut_log(&self, through: u64) -> Result<bool, StoreError> {
        let connection = self.writer();
        connection.busy_timeout(Duration::ZERO).map_err(unavailable)?;
        let cut = self.cut(&connection);
        connection.busy_timeout(BUSY_TIME).map_err(unavailable)?;
        match cut {
            Ok(0) => {}
            Ok(_) => return Ok(false),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => return Ok(false),
            Err(error) => {
                self.stop(&error);
                return Err(unavailable(error));
            }
        }
        let scrubs = self.scrubs();
        // Under the writer: no erasure comes in between. One that came since leaves its own mark.
        if scrubs
            .rewritten
            .is_some_and(|(rewritten, _)| rewritten == through)
            && scrubs.erasures == through
        {
            // One that stays has the next start scrub once more.
            if let Err(error) = std::fs::remove_file(self.scrub_mark())
                && error.kind() != NotFound
            {
                tracing::warn!(%error, "the mark of an erasure could not be taken away");
            }
        }
        Ok(true)
    }

    /// A failed write or sync of the file: what follows could be acknowledged and not be there.
    fn stop(&self, error: &rusqlite::Error) {
        tracing::error!(%error, "the database cannot be scrubbed of what was erased: writing stops");
        self.stopped.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Error, ffi};

    use super::*;

    #[test]
    fn only_what_befalls_the_copy_lets_a_failed_rewriting_pass() {
        let failed = |code| is_of_the_copy(&Error::SqliteFailure(ffi::Error::new(code), None));
        for code in [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_FULL,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_IOERR_GETTEMPPATH,
        ] {
            assert!(failed(code), "{code}");
        }
        for code in [
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_CORRUPT,
        ] {
            assert!(!failed(code), "{code}");
        }
    }
}
