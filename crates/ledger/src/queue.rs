//! The queue before the sequencer: bounded, never silently dropping.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use evidence::Timestamp;
use tokio::sync::oneshot;

use crate::erase::Erasing;
use crate::tenant::Tenant;
use crate::{Draft, Outcomes, SubmitError};

/// Most packed bytes that wait. With what handlers hold (64 MiB of bodies in flight, SPEC 11.5) and the
/// stores' caches this keeps the server below 256 MiB.
pub(crate) const QUEUE_BYTES_MAX: usize = 48 * 1024 * 1024;

/// Most drafts that wait: two seconds of the fastest ingest measured.
pub(crate) const QUEUE_RECORDS_MAX: usize = 100_000;

/// Most records committed together. 4,000 records of 1 KiB are near 4 MiB, a transaction of about
/// 60 ms; the queue's next ones wait that long.
pub(crate) const BATCH_RECORDS_MAX: usize = 4_000;

/// Most drafts submitted in one piece, as far as they need not stand or fall together: what a commit can be cut down to.
pub(crate) const PART_RECORDS_MAX: usize = 128;

/// Most records committed together while somebody waits for a commit of his own: some 5 ms.
const PROMPT_RECORDS_MAX: usize = PART_RECORDS_MAX;

/// How long commits stay that small: who reads the audit trail reads on. Each costs 0.4 ms whatever its records.
const PROMPT_FOR: Duration = Duration::from_secs(2);

/// Most packed bytes committed together, whatever the records: bounds the log of one transaction.
pub(crate) const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Drafts of one sender that are placed in order.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) drafts: Vec<Draft>,
    /// When the request was received.
    pub(crate) at: Timestamp,
    /// All or none: the first draft's rejection rejects the others.
    pub(crate) group: bool,
    pub(crate) reply: oneshot::Sender<Result<Outcomes, SubmitError>>,
    pub(crate) bytes: usize,
    /// What its record erases, when that is written.
    pub(crate) erasing: Option<Box<Erasing>>,
}

/// Work for the sequencer besides submissions, done between batches.
pub(crate) type Task = Box<dyn FnOnce(&mut crate::sequencer::Sequencer) + Send>;

#[derive(Default)]
struct State {
    /// Committed by themselves before the others.
    ahead: VecDeque<Submission>,
    /// Until then commits are small: the next one that is ahead waits for the one under way.
    prompt_until: Option<Instant>,
    submissions: VecDeque<Submission>,
    tasks: VecDeque<Task>,
    records: usize,
    bytes: usize,
    closing: bool,
}

#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

/// What the sequencer does next.
pub(crate) enum Next {
    Batch(Vec<Submission>),
    Task(Task),
    /// The deadline came first.
    Deadline,
    /// Nothing waits and nothing will come.
    Closed,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds submissions in a row, or says why not. More than the queue holds is taken when nothing waits.
    pub(crate) fn push(&self, parts: Vec<Submission>) -> Result<(), SubmitError> {
        let mut state = self.lock();
        state.admit(&parts, QUEUE_RECORDS_MAX, QUEUE_BYTES_MAX)?;
        state.submissions.extend(parts);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Adds submissions that are committed before all others and by themselves, however much waits.
    ///
    /// For a few records that must not wait for others' thousands. Only one thread at a time does: that bounds them,
    /// and after each commit of its it is the others' turn.
    pub(crate) fn push_ahead(&self, parts: Vec<Submission>) -> Result<(), SubmitError> {
        let mut state = self.lock();
        state.admit(&parts, usize::MAX, usize::MAX)?;
        state.ahead.extend(parts);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Somebody is about to wait for what is pushed ahead: commits are small from now on, for [`PROMPT_FOR`].
    pub(crate) fn hurry(&self) {
        self.lock().prompt_until = Some(Instant::now() + PROMPT_FOR);
    }

    pub(crate) fn push_task(&self, task: Task) -> bool {
        let mut state = self.lock();
        if state.closing {
            return false;
        }
        state.tasks.push_back(task);
        drop(state);
        self.filled.notify_one();
        true
    }

    /// Nothing more comes in; what waits is still done.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.filled.notify_one();
    }

    /// Nothing waiting will be done: its senders are told by the closed channels.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        let waiting = std::mem::take(&mut *state);
        state.closing = true;
        drop(state);
        // Replies are dropped outside the lock: they wake their senders.
        drop(waiting);
    }

    /// Waits for work, at most until the deadline; without one, for ever.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Next {
        let mut state = self.lock();
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Next::Deadline;
            }
            if let Some(task) = state.tasks.pop_front() {
                return Next::Task(task);
            }
            let batch = state.take_batch(Instant::now());
            if !batch.is_empty() {
                return Next::Batch(batch);
            }
            if state.closing {
                return Next::Closed;
            }
            state = match deadline {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline
                        .saturating_duration_since(Instant::now())
                        .max(Duration::from_millis(1));
                    self.filled
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Records that wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().records
    }
}

impl State {
    fn admit(
        &mut self,
        parts: &[Submission],
        records_max: usize,
        bytes_max: usize,
    ) -> Result<(), SubmitError> {
        if self.closing {
            return Err(SubmitError::Closing);
        }
        let records: usize = parts.iter().map(|part| part.drafts.len()).sum();
        let bytes: usize = parts.iter().map(|part| part.bytes).sum();
        let full = self.bytes + bytes > bytes_max || self.records + records > records_max;
        if full && self.records > 0 {
            return Err(SubmitError::Busy { queued: self.records });
        }
        self.records += records;
        self.bytes += bytes;
        Ok(())
    }

    /// Whole submissions up to the limits of a commit, at least one; none: nothing waits.
    fn take_batch(&mut self, now: Instant) -> Vec<Submission> {
        let prompt = self.prompt_until.is_some_and(|until| now < until);
        let (from, records_max) = if !self.ahead.is_empty() {
            (&mut self.ahead, BATCH_RECORDS_MAX)
        } else if prompt {
            (&mut self.submissions, PROMPT_RECORDS_MAX)
        } else {
            (&mut self.submissions, BATCH_RECORDS_MAX)
        };
        let (mut records, mut bytes) = (0, 0);
        let mut batch = Vec::new();
        while let Some(next) = from.front() {
            let fits = records + next.drafts.len() <= records_max && bytes + next.bytes <= BATCH_BYTES_MAX;
            if !fits && !batch.is_empty() {
                break;
            }
            records += next.drafts.len();
            bytes += next.bytes;
            batch.extend(from.pop_front());
        }
        self.records -= records;
        self.bytes -= bytes;
        batch
    }
}

#[cfg(test)]
mod tests;
