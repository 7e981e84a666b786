//! Carries the log over into the file, beside the writer.
//!
//! Copying the log's pages and syncing the file takes tens of milliseconds in all, in which the writer can write on: a
//! thread does it by a connection of its own, a little at a time, as a sync of much holds up the writer's own at the disk.
//! SQLite begins the log anew only at a commit that finds all of it carried over, so now and then the writer itself
//! carries what was added since, which is little.
//!
//! SQLite would do it all by itself and keep a failure to itself. But after a failed sync the kernel may have dropped what
//! it could not write, so that trying again succeeds without the data being there: then all writing stops.

use std::ffi::c_int;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};

use super::there::There;
use super::{PAGE_BYTES, unavailable};
use crate::StoreError;

/// Pages, of [`PAGE_BYTES`] as all here, added to the log after which the thread carries them over: 800 KiB, some 3 ms of the disk.
const CARRY_PAGES: i64 = 100;

/// Pages in the log from which on the writer has it begun anew, as soon as the thread has left little: near 16 MiB. The
/// fewer, the more often a page that is always written to is copied.
const CHECKPOINT_PAGES: i64 = 2_000;

/// What is little.
const LEFT_PAGES_MAX: i64 = 2 * CARRY_PAGES;

/// Pages from which on the writer waits for no thread: the log is bounded by nothing else. Not even by this while a reader
/// holds to a state of before; reads are short, but for a verification's.
const OVERDUE_PAGES: i64 = 2 * CHECKPOINT_PAGES;

/// Bytes that the log keeps when it is begun anew: each page with its frame's head, and the log's.
pub(super) const LOG_KEPT_BYTES: i64 = OVERDUE_PAGES * (PAGE_BYTES + 24) + 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Carrier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// The database, to be synced. It outlives the store's connections: closing it takes away their locks, as POSIX has it,
    /// and another process could then delete the log that is being written.
    _file: Arc<File>,
    /// The database and its log.
    written: [There; 2],
}

#[derive(Debug)]
struct Shared {
    wanted: Mutex<Wanted>,
    asked: Condvar,
    /// Held while the log is carried over: SQLite lets nobody else meanwhile, and nobody wait for it.
    carrying: Mutex<()>,
    /// Pages of the log that are carried over, since it was begun anew.
    carried: AtomicI64,
    /// How many pages of this database are one of [`PAGE_BYTES`]: an older one has smaller ones.
    parts: i64,
    stopped: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Wanted {
    carry: bool,
    end: bool,
}

impl Carrier {
    /// Has the log of the database at `path` carried over as `writer` makes it grow, by `connection`. Both have read it.
    ///
    /// # Errors
    /// The file cannot be opened, it has no log, or there is no thread to be had.
    pub(super) fn start(
        path: &Path,
        writer: &mut Connection,
        connection: Connection,
        stopped: &Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        let refused = |error| StoreError::Refused(format!("cannot open {}: {error}", path.display()));
        let file = Arc::new(File::open(path).map_err(refused)?);
        let written = [
            There::new(path.to_owned(), &file.metadata().map_err(refused)?),
            There::log_of(path).map_err(refused)?,
        ];
        let page_bytes: i64 = writer
            .pragma_query_value(None, "page_size", |row| row.get(0))
            .map_err(unavailable)?;
        let shared = Arc::new(Shared {
            wanted: Mutex::default(),
            asked: Condvar::new(),
            carrying: Mutex::default(),
            carried: AtomicI64::new(0),
            parts: (PAGE_BYTES / page_bytes.max(1)).max(1),
            stopped: Arc::clone(stopped),
        });
        let (of_hook, of_thread, to_sync) = (Arc::clone(&shared), Arc::clone(&shared), Arc::clone(&file));
        let mut asked_at = 0;
        let hook = move |log: &mut Wal, pages: c_int| {
            of_hook.committed(log, i64::from(pages) / of_hook.parts, &mut asked_at);
            // The commit itself is durable: its frames are in the log.
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(unavailable)?;
        let thread = std::thread::Builder::new()
            .name("carrier".into())
            .spawn(move || {
                while of_thread.is_asked() {
                    of_thread.carry(&connection, &to_sync);
                }
            })
            .map_err(|error| StoreError::Unavailable(format!("no thread: {error}")))?;
        Ok(Self {
            shared,
            thread: Some(thread),
            _file: file,
            written,
        })
    }

    /// The path of the database, or of its log, if what is open is not what is there.
    pub(super) fn gone(&self) -> Option<&Path> {
        let gone = self.written.iter().find(|file| file.is_gone())?;
        Some(gone.path())
    }

    /// Keeps the thread from carrying, once it has done what it does.
    pub(super) fn pause(&self) -> MutexGuard<'_, ()> {
        lock(&self.shared.carrying)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        lock(&self.shared.wanted).end = true;
        self.shared.asked.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    /// Waits until the log is to be carried over; `false`: never again.
    fn is_asked(&self) -> bool {
        let mut wanted = lock(&self.wanted);
        while !wanted.carry && !wanted.end {
            wanted = self.asked.wait(wanted).unwrap_or_else(PoisonError::into_inner);
        }
        wanted.carry = false;
        !wanted.end
    }

    fn carry(&self, connection: &Connection, file: &File) {
        let _one = lock(&self.carrying);
        if self.stopped.load(Ordering::Acquire) {
            // What was not synced may be gone: the log is all there is.
            return;
        }
        let copied = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(2));
        // SQLite syncs only when it has carried all there is: else the writer would find everything to be synced.
        if let Err(error) = file.sync_data() {
            self.stop(&error);
        }
        match copied {
            Ok(carried) => self.carried.store(carried / self.parts, Ordering::Release),
            Err(error) => self.stop(&error),
        }
    }

    /// After each commit of the writer.
    fn committed(&self, log: &mut Wal, pages: i64, asked_at: &mut i64) {
        if pages < *asked_at {
            // Begun anew.
            *asked_at = 0;
            self.carried.store(0, Ordering::Release);
        }
        let is_overdue = pages >= OVERDUE_PAGES;
        if is_overdue
            || pages >= CHECKPOINT_PAGES && pages - self.carried.load(Ordering::Acquire) <= LEFT_PAGES_MAX
        {
            let _waited = is_overdue.then(|| lock(&self.carrying));
            match log.checkpoint() {
                // The thread is at it; the next commit tries again.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
                Err(error) => self.stop(&error),
                Ok(()) => {}
            }
        } else if pages - *asked_at >= CARRY_PAGES {
            *asked_at = pages;
            lock(&self.wanted).carry = true;
            self.asked.notify_one();
        }
    }

    fn stop(&self, error: &dyn std::fmt::Display) {
        tracing::error!(%error, "the log cannot be carried over into the database");
        self.stopped.store(true, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_begun_anew_while_the_writer_goes_on() {
        const COMMITS: i64 = 3_000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        let connect = || {
            let connection = Connection::open(&path).unwrap();
            connection.pragma_update(None, "page_size", PAGE_BYTES).unwrap();
            connection.pragma_update(None, "journal_mode", "wal").unwrap();
            connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
            connection
        };
        let (mut writer, stopped) = (connect(), Arc::default());
        writer
            .execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)")
            .unwrap();
        let carrier = Carrier::start(&path, &mut writer, connect(), &stopped).unwrap();
        let (mut pages, mut longest) = (0, 0);
        for n in 0..COMMITS {
            writer
                .execute("INSERT INTO t VALUES (?, zeroblob(40000))", [n])
                .unwrap();
            pages += 5;
            longest = longest.max(
                std::fs::metadata(folder.path().join("some.db-wal"))
                    .unwrap()
                    .len(),
            );
        }
        assert!(pages > 3 * OVERDUE_PAGES, "enough to begin anew a few times");
        // A frame is a page and its head.
        let most = u64::try_from(OVERDUE_PAGES + CHECKPOINT_PAGES).unwrap() * (8_192 + 24);
        assert!(longest < most, "{longest}");
        let cut = {
            let _paused = carrier.pause();
            writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        };
        assert_eq!(cut, Ok(0), "nobody is in the way while it is paused");
        assert_eq!(carrier.gone(), None, "a log that is cut is the same file");
        drop(carrier); // would wait for ever if its thread did not end
        drop(writer);
        assert!(!stopped.load(Ordering::Acquire));
        let count: i64 = connect()
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, COMMITS);
    }
}
