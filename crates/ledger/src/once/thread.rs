//! The thread that asks the backend, and who asks it beside the thread.
//!
//! What comes while the backend is at work is its next batch. What it has done and
//! not yet put on disk is synced within a second, also when nothing comes after it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    /// Something was done beside the thread and is not on disk yet.
    Behind,
    /// Answered when what came before is done; with whether it is on disk.
    Settle(SyncSender<bool>),
}

/// Where the backend is asked, by one at a time.
pub(super) struct Desk(Mutex<Asked>);

struct Asked {
    backend: Box<dyn OnceStore>,
    /// Whether the thread knows that the backend is behind.
    told: bool,
}

impl Desk {
    pub(super) fn new(backend: Box<dyn OnceStore>) -> Self {
        Self(Mutex::new(Asked { backend, told: false }))
    }

    /// Asks here and now, if the backend is idle and need not be waited for.
    pub(super) fn at_once(
        &self,
        ask: &OnceAsk,
        thread: &SyncSender<Task>,
    ) -> Option<Result<OnceSaid, OnceError>> {
        // Also after a panic: what it left is the thread's to mend, or nobody's.
        let mut asked = self.0.try_lock().ok()?;
        let said = asked.backend.at_once(ask)?;
        // A full queue is work for the thread, which looks by itself then.
        if asked.backend.is_behind() && !asked.told && thread.try_send(Task::Behind).is_ok() {
            asked.told = true;
        }
        if let Err(error) = &said {
            tracing::debug!(%error, "a key could not be answered for");
        }
        Some(said)
    }

    /// See [`OnceStore::is_shared`].
    pub(super) fn is_shared(&self) -> bool {
        self.wait().backend.is_shared()
    }

    fn wait(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until nobody is left who could ask.
pub(super) fn work(tasks: &Receiver<Task>, desk: &Desk, waiting: &AtomicUsize) {
    let mut next = None;
    // What an earlier process left.
    let mut due = desk.wait().due(None, Instant::now());
    while let Some(task) = next.take().or_else(|| wait(tasks, desk, &mut due)) {
        match task {
            Task::Ask(first) => next = batch(tasks, desk, waiting, first),
            Task::Sweep(at) => {
                if let Err(error) = desk.wait().backend.sweep(at) {
                    tracing::debug!(%error, "what is over could not be swept");
                }
            }
            Task::Behind => {}
            Task::Settle(reply) => {
                // Who waited may have given up.
                let _ = reply.try_send(sync(desk, &mut due));
            }
        }
        due = desk.wait().due(due, Instant::now());
        // Who is always asked never waits.
        if due.is_some_and(|due| due <= Instant::now()) {
            sync(desk, &mut due);
        }
    }
    sync(desk, &mut due);
}

impl Asked {
    /// When to sync, which was due at `due`; `since`: from when on something may be behind.
    fn due(&mut self, due: Option<Instant>, since: Instant) -> Option<Instant> {
        let due = due.or_else(|| self.backend.is_behind().then(|| since + SYNC_AFTER));
        self.told = due.is_some();
        due
    }
}

/// The next task; syncs when that is due meanwhile. `None`: nobody is left.
fn wait(tasks: &Receiver<Task>, desk: &Desk, due: &mut Option<Instant>) -> Option<Task> {
    while let Some(at) = *due {
        match tasks.recv_timeout(at.saturating_duration_since(Instant::now())) {
            Ok(task) => return Some(task),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => drop(sync(desk, due)),
        }
    }
    tasks.recv().ok()
}

/// Whether all that was done before is on disk now. Who asks meanwhile does not wait for the disk.
fn sync(desk: &Desk, due: &mut Option<Instant>) -> bool {
    let since = Instant::now();
    let begun = desk.wait().backend.sync();
    let synced = match begun {
        Ok(Some(file)) => {
            let synced = file.sync_data();
            desk.wait().backend.synced(synced)
        }
        other => other.map(drop),
    };
    if let Err(error) = &synced {
        tracing::warn!(%error, "answers that were given are not on disk yet");
    }
    // What was done meanwhile, or not synced, is due anew.
    *due = desk
        .wait()
        .due(None, if synced.is_ok() { since } else { Instant::now() });
    synced.is_ok()
}

/// Does what is asked, and what came while that waited; gives the task it met that is another.
fn batch(tasks: &Receiver<Task>, desk: &Desk, waiting: &AtomicUsize, first: Waiting) -> Option<Task> {
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
    let said = desk.wait().backend.apply(&asks);
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
    use std::fs::File;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32};
    use std::thread::ThreadId;

    use super::*;
    use crate::once::{LEASE_SECS_DEFAULT, OnOutage, Once, OnceOptions};

    /// Is behind after each act, and notes when it was synced and on which thread it was asked.
    struct Behind {
        left: bool,
        synced: Arc<AtomicBool>,
        asked_on: Arc<Mutex<Vec<ThreadId>>>,
        quick: bool,
        fails: Arc<AtomicU32>,
    }

    impl OnceStore for Behind {
        fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
            self.left = true;
            self.asked_on.lock().unwrap().push(std::thread::current().id());
            asks.iter().map(|_| Ok(OnceSaid::Read(None))).collect()
        }

        fn sweep(&mut self, _: Timestamp) -> Result<u32, OnceError> {
            Ok(0)
        }

        fn at_once(&mut self, ask: &OnceAsk) -> Option<Result<OnceSaid, OnceError>> {
            self.quick
                .then(|| self.apply(std::slice::from_ref(ask)).remove(0))
        }

        fn is_behind(&self) -> bool {
            self.left
        }

        fn sync(&mut self) -> Result<Option<File>, OnceError> {
            let one_less = |left: u32| left.checked_sub(1);
            let left = self
                .fails
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
            if left.is_ok() {
                return Err(OnceError::Unavailable("on purpose".into()));
            }
            self.left = false;
            self.synced.store(true, Ordering::Release);
            Ok(None)
        }
    }

    fn behind(fails: u32) -> (Once, Arc<AtomicBool>) {
        let (once, synced, _) = asked(&Arc::new(AtomicU32::new(fails)), false);
        (once, synced)
    }

    fn asked(fails: &Arc<AtomicU32>, quick: bool) -> (Once, Arc<AtomicBool>, Arc<Mutex<Vec<ThreadId>>>) {
        let (synced, asked_on) = (Arc::<AtomicBool>::default(), Arc::default());
        let backend = Behind {
            left: false,
            synced: Arc::clone(&synced),
            asked_on: Arc::clone(&asked_on),
            quick,
            fails: Arc::clone(fails),
        };
        let options = OnceOptions {
            key_file: PathBuf::new(),
            key_is_named: false,
            lease_secs: LEASE_SECS_DEFAULT,
            on_outage: OnOutage::Refuse,
        };
        (Once::new(Box::new(backend), options), synced, asked_on)
    }

    #[tokio::test]
    async fn what_is_quick_is_asked_by_the_caller_and_synced_by_the_thread() {
        for quick in [true, false] {
            let (once, synced, asked_on) = asked(&Arc::new(AtomicU32::new(1)), quick);
            once.answers(Timestamp::MIN).await.unwrap();
            once.answers(Timestamp::MIN).await.unwrap();
            let here = std::thread::current().id();
            let on = asked_on.lock().unwrap().clone();
            assert_eq!(on.len(), 2);
            assert!(on.iter().all(|&thread| (thread == here) == quick), "{quick}");
            let began = Instant::now();
            while !synced.load(Ordering::Acquire) {
                assert!(began.elapsed() < Duration::from_mins(1), "it is never synced");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
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
        // A slow machine may have tried it once more meanwhile.
        let fails = Arc::new(AtomicU32::new(u32::MAX));
        let (once, synced, _) = asked(&fails, false);
        once.answers(Timestamp::MIN).await.unwrap();
        assert!(!once.settle());
        assert!(!synced.load(Ordering::Acquire));
        fails.store(0, Ordering::Release);
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
