//! The thread that owns the backend.
//!
//! What comes while the backend is at work is its next batch. What it has done and
//! not yet put on disk is synced within a second, also when nothing comes after it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use evidence::Timestamp;
use store::once::{OnceAsk, OnceError, OnceSaid, OnceStore};
use tokio::sync::oneshot;

/// Asks done together, at most: 512 take the embedded backend some 15 ms.
const BATCH_ASKS_MAX: usize = 512;

/// Payload bytes done together, at most: bounds one transaction, and what Redis is sent at once.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long something may be done and not yet on disk, where the backend lets it ([`OnceStore::is_behind`]).
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// Something asked, and where the answer goes.
pub(super) struct Waiting {
    pub(super) ask: OnceAsk,
    pub(super) bytes: usize,
    pub(super) reply: oneshot::Sender<Result<OnceSaid, OnceError>>,
}

/// What the thread is told.
pub(super) enum Task {
    Ask(Waiting),
    Sweep(Timestamp),
    /// Answered when what came before is done; with whether it is on disk.
    Settle(SyncSender<bool>),
}

/// Until nobody is left who could ask.
pub(super) fn work(tasks: &Receiver<Task>, mut backend: Box<dyn OnceStore>, waiting: &AtomicUsize) {
    let mut next = None;
    // What an earlier process left.
    let mut due = backend.is_behind().then(|| Instant::now() + SYNC_AFTER);
    while let Some(task) = next.take().or_else(|| wait(tasks, &mut *backend, &mut due)) {
        match task {
            Task::Ask(first) => next = batch(tasks, &mut *backend, waiting, first),
            Task::Sweep(at) => {
                if let Err(error) = backend.sweep(at) {
                    tracing::debug!(%error, "what is over could not be swept");
                }
            }
            Task::Settle(reply) => {
                // Who waited may have given up.
                let _ = reply.try_send(sync(&mut *backend, &mut due));
            }
        }
        if due.is_none() && backend.is_behind() {
            due = Some(Instant::now() + SYNC_AFTER);
        }
        // Who is always asked never waits.
        if due.is_some_and(|due| due <= Instant::now()) {
            sync(&mut *backend, &mut due);
        }
    }
    sync(&mut *backend, &mut due);
}

/// The next task; syncs when that is due meanwhile. `None`: nobody is left.
fn wait(tasks: &Receiver<Task>, backend: &mut dyn OnceStore, due: &mut Option<Instant>) -> Option<Task> {
    while let Some(at) = *due {
        match tasks.recv_timeout(at.saturating_duration_since(Instant::now())) {
            Ok(task) => return Some(task),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => drop(sync(backend, due)),
        }
    }
    tasks.recv().ok()
}

/// Whether all is on disk now.
fn sync(backend: &mut dyn OnceStore, due: &mut Option<Instant>) -> bool {
    let synced = backend.sync();
    *due = None;
    if let Err(error) = &synced {
        tracing::warn!(%error, "answers that were given are not on disk yet");
        *due = Some(Instant::now() + SYNC_AFTER);
    }
    synced.is_ok()
}

/// Does what is asked, and what came while that waited; gives the task it met that is another.
fn batch(
    tasks: &Receiver<Task>,
    backend: &mut dyn OnceStore,
    waiting: &AtomicUsize,
    first: Waiting,
) -> Option<Task> {
    let (mut asks, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
    let (mut one, mut next) = (Some(first), None);
    while let Some(Waiting {
        ask,
        bytes: size,
        reply,
    }) = one.take()
    {
        asks.push(ask);
        replies.push(reply);
        bytes += size;
        if asks.len() >= BATCH_ASKS_MAX || bytes >= BATCH_BYTES_MAX {
            break;
        }
        match tasks.try_recv() {
            Ok(Task::Ask(waiting)) => one = Some(waiting),
            Ok(other) => next = Some(other),
            Err(_) => {}
        }
    }
    let said = backend.apply(&asks);
    waiting.fetch_sub(bytes, Ordering::AcqRel);
    for (reply, said) in replies.into_iter().zip(said) {
        if let Err(error) = &said {
            tracing::debug!(%error, "a key could not be answered for");
        }
        // The asker may have gone.
        let _ = reply.send(said);
    }
    next
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::once::{LEASE_SECS_DEFAULT, OnOutage, Once, OnceOptions};

    /// Is behind after each act, and notes when it was synced.
    struct Behind {
        left: bool,
        synced: Arc<AtomicBool>,
        fails: u32,
    }

    impl OnceStore for Behind {
        fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
            self.left = true;
            asks.iter().map(|_| Ok(OnceSaid::Read(None))).collect()
        }

        fn sweep(&mut self, _: Timestamp) -> Result<u32, OnceError> {
            Ok(0)
        }

        fn is_behind(&self) -> bool {
            self.left
        }

        fn sync(&mut self) -> Result<(), OnceError> {
            if let Some(fails) = self.fails.checked_sub(1) {
                self.fails = fails;
                return Err(OnceError::Unavailable("on purpose".into()));
            }
            self.left = false;
            self.synced.store(true, Ordering::Release);
            Ok(())
        }
    }

    fn behind(fails: u32) -> (Once, Arc<AtomicBool>) {
        let synced = Arc::<AtomicBool>::default();
        let backend = Behind {
            left: false,
            synced: Arc::clone(&synced),
            fails,
        };
        let options = OnceOptions {
            key_file: PathBuf::new(),
            lease_secs: LEASE_SECS_DEFAULT,
            on_outage: OnOutage::Refuse,
        };
        (Once::new(Box::new(backend), options), synced)
    }

    #[tokio::test]
    async fn what_is_behind_is_synced_when_nothing_comes_after_it_also_after_a_failure() {
        let (once, synced) = behind(1);
        once.answers(Timestamp::MIN).await.unwrap();
        let began = Instant::now();
        while !synced.load(Ordering::Acquire) {
            assert!(began.elapsed() < Duration::from_mins(1), "it is never synced");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn the_way_down_says_what_is_not_on_disk() {
        let (once, synced) = behind(1);
        once.answers(Timestamp::MIN).await.unwrap();
        assert!(!once.settle());
        assert!(!synced.load(Ordering::Acquire));
        assert!(once.settle());
    }

    #[tokio::test]
    async fn the_way_down_waits_for_what_was_asked_and_its_sync() {
        let (once, synced) = behind(0);
        assert!(once.settle(), "nothing was ever asked");
        once.answers(Timestamp::MIN).await.unwrap();
        assert!(once.settle());
        assert!(synced.load(Ordering::Acquire));
    }
}
