//! Carries the log over into the file, beside the writer.
//!
//! Copying the log's pages and syncing the file takes tens of milliseconds in all, in which the writer can write on: a
//! thread does it by a connection of its own, a little at a time, as a sync of much holds up the writer's own at the disk.
//! SQLite begins the log anew only at a commit that finds all of it carried over, so now and then the writer itself
//! carries what was added since, which is little.
//!
//! SQLite would do it all by itself and keep a failure to itself. But after a failed sync the kernel may have dropped what
//! it could not write, so that trying again succeeds without the data being there: then all writing stops.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};

use super::unavailable;
use crate::StoreError;

/// Pages added to the log after which the thread carries them over: 800 KiB, some 3 ms of the disk.
const CARRY_PAGES: i64 = 200;

/// Pages in the log from which on the writer has it begun anew: near 16 MiB. The fewer, the more often a page that is
/// always written to is copied.
pub(super) const CHECKPOINT_PAGES: i64 = 4_000;

/// Pages from which on the writer waits for no thread: the log is bounded by nothing else.
const OVERDUE_PAGES: i64 = 2 * CHECKPOINT_PAGES;

/// See the module. The thread ends when the writer's connection is closed.
#[derive(Debug)]
pub(super) struct Carrier {
    /// Held while the thread carries: SQLite lets nobody else meanwhile, and nobody wait for it.
    carrying: Arc<Mutex<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Carrier {
    /// Has the log of the database at `path` carried over as `writer` makes it grow, by `connection`.
    pub(super) fn start(
        path: &Path,
        writer: &mut Connection,
        connection: Connection,
        stopped: &Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        let (ask, requests) = mpsc::sync_channel(1);
        let carrying = Arc::<Mutex<()>>::default();
        let carried = Arc::new(AtomicBool::new(false));
        let file = File::open(path)
            .map_err(|error| StoreError::Refused(format!("cannot open {}: {error}", path.display())))?;
        let thread = {
            let (carrying, carried, stopped) =
                (Arc::clone(&carrying), Arc::clone(&carried), Arc::clone(stopped));
            let carry = move || {
                while requests.recv().is_ok() {
                    let _one = lock(&carrying);
                    let copied = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                    stop_if_failed(copied, &stopped);
                    // SQLite syncs only what is all there is: the writer would find everything to be synced.
                    if let Err(error) = file.sync_data() {
                        stop(&error, &stopped);
                    }
                    carried.store(true, Ordering::Release);
                }
            };
            std::thread::Builder::new()
                .name("carrier".into())
                .spawn(carry)
                .map_err(|error| StoreError::Unavailable(format!("no thread: {error}")))?
        };
        let stopped = Arc::clone(stopped);
        let mut asked_at = 0;
        let hook = move |log: &mut Wal, pages: std::ffi::c_int| {
            let pages = i64::from(pages);
            if pages < asked_at {
                // Begun anew.
                asked_at = 0;
            }
            if pages >= OVERDUE_PAGES || pages >= CHECKPOINT_PAGES && carried.swap(false, Ordering::AcqRel) {
                stop_if_failed(log.checkpoint(), &stopped);
            } else if pages - asked_at >= CARRY_PAGES && ask.try_send(()).is_ok() {
                asked_at = pages;
            }
            // The commit itself is durable: its frames are in the log.
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(unavailable)?;
        Ok(Self {
            carrying,
            thread: Some(thread),
        })
    }

    /// Keeps the thread from carrying, once it has done what it does.
    pub(super) fn pause(&self) -> MutexGuard<'_, ()> {
        lock(&self.carrying)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn lock(carrying: &Mutex<()>) -> MutexGuard<'_, ()> {
    carrying.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stop_if_failed(carried: rusqlite::Result<()>, stopped: &AtomicBool) {
    // Busy: the other one is at it.
    if let Err(error) = carried
        && error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy)
    {
        stop(&error, stopped);
    }
}

fn stop(error: &dyn std::fmt::Display, stopped: &AtomicBool) {
    tracing::error!(%error, "the log cannot be carried over into the database");
    stopped.store(true, Ordering::Release);
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
            pages += 10;
            longest = longest.max(
                std::fs::metadata(folder.path().join("some.db-wal"))
                    .unwrap()
                    .len(),
            );
        }
        assert!(pages > 3 * OVERDUE_PAGES, "enough to begin anew a few times");
        // A frame is a page and its head.
        let most = u64::try_from(OVERDUE_PAGES + 100).unwrap() * (4096 + 24);
        assert!(longest < most, "{longest}");
        let cut = {
            let _paused = carrier.pause();
            writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        };
        assert_eq!(cut, Ok(0), "nobody is in the way while it is paused");
        drop(writer);
        drop(carrier); // would wait for ever if its thread did not end
        assert!(!stopped.load(Ordering::Acquire));
        let count: i64 = connect()
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, COMMITS);
    }
}
