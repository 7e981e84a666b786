//! `state.db` as those have it who write entries: a connection of their own, and what they know together of its log.
//!
//! One writes at a time, and the log is carried over and cut by whoever writes.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evidence::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ffi};

use super::act::{hold, sweep};
use crate::once::{OnceError, SWEPT_AT_ONCE, SWEPT_PER_ACT};
use crate::sqlite::open::make_private;
use crate::sqlite::there::There;

/// Acts that write before the log is carried over: near 16 MiB of pages. Who writes meanwhile waits for it.
pub(super) const CARRY_ACTS: usize = 1_000;

/// Bytes of payloads, written or taken away, after which it is carried over too.
pub(super) const CARRY_BYTES: u64 = 8 * 1024 * 1024;

/// Entries whose time is over that one transaction takes away, at most, beside what it writes: [`SWEPT_PER_ACT`] for
/// each of that. They take some 20 ms.
const SWEPT_WITH_OTHERS: u32 = 2 * SWEPT_AT_ONCE;

/// How long another process's write is waited for.
pub(super) const BUSY_MAX: Duration = Duration::from_secs(5);

/// What the log keeps of its length when it begins anew.
const LOG_BYTES_KEPT: i64 = 24 * 1024 * 1024;

/// Page cache. What others write empties it, so it holds what is looked up between two batches of answers.
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
CREATE TABLE IF NOT EXISTS once_files (
  place INTEGER PRIMARY KEY CHECK (place IN (1, 2)), file_id BLOB NOT NULL CHECK (length(file_id) = 16),
  turn INTEGER NOT NULL) STRICT;
";

/// A version before this had one file, named here. Where the table is there that version was the last at work.
const ONE_FILE: &str = "
INSERT OR REPLACE INTO once_files
  SELECT 1, file_id, (SELECT coalesce(max(turn), 0) + 1 FROM once_files) FROM once_answers;
DROP TABLE once_answers;
";

/// What all writers know of the database and its log.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Something could not be written: the kernel may have dropped what came before it as well, and says so once only.
    /// What comes behind it in the log is worth nothing until the log was carried over.
    lost: AtomicBool,
    /// Held by who writes.
    written: Mutex<Written>,
    /// Held by who opens a connection, which may make tables and wait for a disk: one after the other.
    opening: Mutex<()>,
    /// Held for a look: who writes asks each time.
    files: Mutex<Files>,
    /// That they are not there any more is in the log of the server: once is enough.
    told: AtomicBool,
}

/// The database as it was first seen, and its log as it was when it was last opened: it goes with the last connection.
#[derive(Debug, Default)]
struct Files {
    database: Option<There>,
    log: Option<There>,
}

/// Since the log was last carried over: acts that wrote, and the bytes of their payloads.
#[derive(Debug, Default)]
struct Written {
    acts: usize,
    bytes: u64,
}

impl Log {
    /// Whether nothing may be written to the table before [`Table::take_up_log`].
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, unless the database is another than at first: in that one no key is known.
    fn open(&self, path: &Path) -> rusqlite::Result<Connection> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_first()?;
        let connection = open(path)?;
        let (database, log) = (There::at(path.to_owned()).ok(), There::log_of(path).ok());
        let mut files = self.files();
        if files.database.is_none() {
            files.database = database;
        }
        files.log = log;
        drop(files);
        // It may have been replaced while it was opened.
        self.is_first()?;
        Ok(connection)
    }

    /// Whether what is at the path is the database as it was first seen.
    fn is_first(&self) -> rusqlite::Result<()> {
        let files = self.files();
        let gone = files.database.as_ref().filter(|database| database.is_gone());
        gone.map_or(Ok(()), |gone| Err(cannot_open(replaced(gone.path()))))
    }
}

/// What is said of a file that is not there any more: by its name, as clients read it too.
pub(super) fn replaced(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).display();
    format!("{name} was removed or replaced while it was open")
}

/// See the module. The file is opened when it is first needed, and again after a failure.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    connection: Option<Connection>,
    log: Arc<Log>,
}

impl Table {
    pub(super) fn new(path: &Path) -> Self {
        let log = Log::default();
        // Of one that is there what is opened later must be the same.
        log.files().database = There::at(path.to_owned()).ok();
        Self {
            path: path.to_owned(),
            connection: None,
            log: Arc::new(log),
        }
    }

    /// The same with a connection of its own.
    pub(super) fn beside(&self) -> Self {
        Self {
            path: self.path.clone(),
            connection: None,
            log: Arc::clone(&self.log),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) const fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) fn connection(&mut self) -> rusqlite::Result<&Connection> {
        if self.connection.is_none() {
            self.connection = Some(self.log.open(&self.path)?);
        }
        // Just put there.
        self.connection.as_ref().ok_or(rusqlite::Error::InvalidQuery)
    }

    /// Refuses to write where nobody would find it again: the database or its log was removed or replaced.
    pub(super) fn writable(&self) -> Result<(), OnceError> {
        let files = self.log.files();
        // Without a connection the log may have gone with the last one.
        let log = files.log.as_ref().filter(|_| self.is_open());
        let mut both = files.database.iter().chain(log);
        let Some(gone) = both.find(|file| file.is_gone()) else {
            return Ok(());
        };
        let why = replaced(gone.path());
        if !self.log.told.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "{why}: keys are refused until it is put back, or forgotten with what was in it by the next start"
            );
        }
        Err(OnceError::Unavailable(why))
    }

    /// Reads.
    pub(super) fn read<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, OnceError> {
        let read = self.connection().and_then(work);
        read.map_err(|error| self.unavailable(&error))
    }

    /// Writes, durably, and with it takes away what is over at `latest`. What fails is rolled back: its connection is
    /// closed.
    pub(super) fn write<T>(
        &mut self,
        acts: usize,
        latest: Timestamp,
        work: impl FnOnce(&Connection, &Cell<u64>) -> rusqlite::Result<T>,
    ) -> Result<T, OnceError> {
        let log = Arc::clone(&self.log);
        let mut written = log.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.writable()?;
        if log.is_lost() {
            self.take_up(&mut written)?;
        }
        let count = u32::try_from(acts).unwrap_or(u32::MAX);
        let count = count.saturating_mul(SWEPT_PER_ACT).min(SWEPT_WITH_OTHERS);
        let moved = Cell::new(0);
        let done = self.connection().and_then(|connection| {
            run(connection, "BEGIN IMMEDIATE")?;
            let done = work(connection, &moved)?;
            // What is over goes as fast as new ones come.
            let (_, swept) = sweep(connection, latest, count)?;
            run(connection, "COMMIT")?;
            moved.set(moved.get().saturating_add(swept));
            Ok(done)
        });
        match done {
            Ok(done) => {
                written.acts = written.acts.saturating_add(acts);
                written.bytes = written.bytes.saturating_add(moved.get());
                if written.acts >= CARRY_ACTS || written.bytes >= CARRY_BYTES {
                    self.carry(&mut written);
                }
                Ok(done)
            }
            Err(error) => {
                log.lose();
                Err(self.unavailable(&error))
            }
        }
    }

    /// So many acts more, that the caller of [`Table::write`] could not tell before.
    pub(super) fn wrote(&self, acts: usize) {
        let mut written = self.log.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.acts = written.acts.saturating_add(acts);
    }

    /// Takes the log up again after something could not be written or synced: with a write of its own, so that what can
    /// only be read is not taken for mended.
    pub(super) fn take_up_log(&mut self) -> Result<(), OnceError> {
        let log = Arc::clone(&self.log);
        let mut written = log.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_up(&mut written)
    }

    fn take_up(&mut self, written: &mut Written) -> Result<(), OnceError> {
        self.writable()?;
        let touched = self
            .connection()
            .and_then(|connection| hold(connection, 0, "", 0, 0));
        if touched.is_err() || !self.cut(written) {
            self.connection = None;
            let why = "something could not be written, and its log is not carried over yet";
            return Err(OnceError::Unavailable(why.into()));
        }
        self.log.lost.store(false, Ordering::Release);
        Ok(())
    }

    /// Carries the whole log over and cuts it; `false`: somebody reads it, or it could not be done.
    pub(super) fn cut_log(&mut self) -> bool {
        let log = Arc::clone(&self.log);
        let mut written = log.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.cut(&mut written)
    }

    fn cut(&mut self, written: &mut Written) -> bool {
        let busy = self.connection().and_then(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        });
        match &busy {
            Ok(0) => *written = Written::default(),
            Ok(_) => {}
            Err(_) => {
                self.connection = None;
                self.log.lose();
            }
        }
        busy == Ok(0)
    }

    /// Carries the log over as far as nobody reads it. Not left to SQLite, which tells nobody when that fails.
    fn carry(&mut self, written: &mut Written) {
        *written = Written::default();
        let carried = self
            .connection()
            .and_then(|connection| connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
        if let Err(error) = carried {
            tracing::warn!(%error, "the log of state.db could not be carried over");
            self.connection = None;
            self.log.lose();
        }
    }

    /// How long the connection waits for another process.
    pub(super) fn wait_at_most(&self, most: Duration) {
        if let Some(Err(error)) = self.connection.as_ref().map(|one| one.busy_timeout(most)) {
            tracing::debug!(%error, "how long state.db is waited for could not be set");
        }
    }

    /// Whatever is wrong with the connection goes with it.
    fn unavailable(&mut self, error: &dyn std::fmt::Display) -> OnceError {
        self.connection = None;
        OnceError::Unavailable(error.to_string())
    }

    /// Acts and bytes that wait for the log to be carried over.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, u64) {
        let written = self.log.written.lock().unwrap();
        (written.acts, written.bytes)
    }
}

/// Prepared once: parsing it would take as long as a look for a key.
fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn cannot_open(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(why))
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    make_private(path).map_err(|error| cannot_open(error.to_string()))?;
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_MAX)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // Answers and outputs that go leave no bytes behind in the file.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // What `LIMIT ?` is bound to changes no plan here: without this each use parses its statement anew.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
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
    if connection.table_exists(None, "once_answers")? {
        let transaction = connection.transaction()?;
        transaction.execute_batch(ONE_FILE)?;
        transaction.commit()?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_writes_does_not_wait_for_a_connection_that_another_opens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        // Another process has the file to itself: who opens it waits.
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("CREATE TABLE t (x); BEGIN EXCLUSIVE; INSERT INTO t VALUES (1)")
            .unwrap();
        let table = Table::new(&path);
        let mut beside = table.beside();
        let opening = std::thread::spawn(move || beside.connection().map(|_| ()));
        let mut longest = Duration::ZERO;
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(500) {
            let asked = Instant::now();
            table.writable().unwrap();
            longest = longest.max(asked.elapsed());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!opening.is_finished());
        other.execute_batch("COMMIT").unwrap();
        opening.join().unwrap().unwrap();
        // It waited for as long as the other did, before.
        assert!(longest < BUSY_MAX / 2, "{longest:?}");
    }
}
