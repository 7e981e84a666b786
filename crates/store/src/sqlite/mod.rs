//! The embedded backend: one SQLite file, one writer, a few readers.
//!
//! WAL with `synchronous=FULL`: a commit is on disk before it returns. Both are
//! read back at the start, and the store refuses to run with less. One process
//! writes (the data folder's lock sees to that); others may read beside it.

mod append;
mod carrier;
mod check;
mod erase;
mod facets;
mod once;
mod open;
mod read;
mod runs;
mod select;
mod state;
mod still;
mod there;
mod verify;

pub use erase::REWRITE_BYTES_MAX;
pub use once::SqliteOnce;
pub use state::{LedgerProgress, StateDb};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use carrier::Carrier;
use rusqlite::Connection;
use still::Still;

use crate::StoreError;

/// Readers at work at once. Reads are short; four keep two cores busy and hold
/// 4 × [`READER_CACHE_KIB`] of memory.
const READERS_MAX: usize = 4;

/// Bytes of a page of a database that is made now; one that is there keeps its own. A body is some 700 bytes, of which half a one is
/// lost at each page's end; what is read is read page by page.
const PAGE_BYTES: i64 = 8 * 1024;

/// Page cache of a reader.
const READER_CACHE_KIB: i64 = 4 * 1024;

/// Page cache of the writer: holds the right edges of all trees of a busy hour.
const WRITER_CACHE_KIB: i64 = 32 * 1024;

/// Page cache of the carrier, which reads none.
const CARRIER_CACHE_KIB: i64 = 64;

/// A SQLite database of ledgers.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// After all connections, for the locks of its file. None of a store that is only read.
    carrier: Option<Carrier>,
    reader_back: Condvar,
    /// Set when a commit's outcome was unknown: nothing is written after that.
    stopped: Arc<AtomicBool>,
    scrubs: Mutex<erase::Scrubs>,
    /// Schema version found and made at the opening, when they differ.
    migrated: Option<(usize, usize)>,
    /// Of one that is read where nothing can be written: how it lay there.
    still: Option<Still>,
}

/// How to open a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Make it when absent, migrate it, write to it.
    ReadWrite,
    /// Read it beside another process; never create or migrate. Where nothing can be written, and nothing is in its log, it
    /// is read without locks ([`SqliteStore::has_moved`]).
    ReadOnly,
}

impl SqliteStore {
    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether writing has stopped after a commit of unknown outcome.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The schema version that the opening found (0: a new file), and the one it left, if it migrated.
    pub const fn migrated(&self) -> Option<(usize, usize)> {
        self.migrated
    }

    /// Whether it was written to while it was read without locks: what was read then says nothing.
    pub fn has_moved(&self) -> bool {
        self.still.as_ref().is_some_and(Still::has_moved)
    }

    /// Why nothing may be written, if nothing may. What is written to a file that is not there any more could be
    /// acknowledged and not be found again.
    fn closed_to_writes(&self) -> Option<String> {
        let Some(gone) = self.carrier.as_ref().and_then(Carrier::gone) else {
            return self.is_stopped().then(|| "writing has stopped".into());
        };
        // Said each time: who writes tries once more, one by one, and reports what he is told last.
        self.stopped.store(true, Ordering::Release);
        let path = gone.display();
        Some(format!("{path} was removed or replaced while it was open"))
    }

    /// Cuts the log to nothing, all of it carried over. 0: done; else somebody is in the way.
    fn cut(&self, writer: &Connection) -> rusqlite::Result<i64> {
        let _paused = self.carrier.as_ref().map(Carrier::pause);
        if self.is_stopped() {
            // What was not synced may be gone: the log is all there is.
            return Ok(1);
        }
        writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        // A panic under the lock rolled its transaction back when it was dropped.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a read in one transaction, so that it sees one state.
    fn read<T>(&self, body: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = loop {
            if let Some(connection) = readers.pop() {
                break connection;
            }
            readers = self
                .reader_back
                .wait(readers)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(readers);
        let result = (|| {
            let transaction = connection.unchecked_transaction().map_err(unavailable)?;
            body(&transaction)
        })();
        self.readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        self.reader_back.notify_one();
        result
    }
}

/// What SQLite's error means to the caller: a file or value that cannot be read is damage, which asking
/// again does not mend.
#[allow(clippy::needless_pass_by_value)] // for map_err
fn unavailable(error: rusqlite::Error) -> StoreError {
    use rusqlite::{Error, ErrorCode};
    let damage = match &error {
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::Utf8Error(..)
        | Error::InvalidColumnType(..) => true,
        // A cell that claims more than a row can have, and a table or column that is gone, stay so too.
        other => {
            matches!(
                other.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig)
            ) || ["no such table", "no such column"]
                .iter()
                .any(|said| other.to_string().starts_with(said))
        }
    };
    if damage {
        damaged("deponent.db", error)
    } else {
        StoreError::Unavailable(error.to_string())
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn damaged(place: &'static str, reason: impl ToString) -> StoreError {
    StoreError::Damaged {
        place,
        reason: reason.to_string(),
    }
}

/// A count or size as SQLite keeps it.
fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count or size as stored; negative ones are damage.
fn as_u64(place: &'static str, number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| damaged(place, "negative"))
}

fn as_u32(place: &'static str, number: i64) -> Result<u32, StoreError> {
    u32::try_from(number).map_err(|_| damaged(place, "out of range"))
}

/// A stored hash or salt. One of another length is read as zeros, which agree with nothing: so verification
/// names its row and goes on, instead of ending there.
fn thirty_two(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().unwrap_or_default()
}

fn hash(bytes: &[u8]) -> tlog::Hash {
    tlog::Hash::from_bytes(thirty_two(bytes))
}
