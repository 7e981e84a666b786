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

/// Most records committed together while somebody waits for a commit of his own: some 3 ms. Of a larger request, one such
/// part is committed after the other.
const PROMPT_RECORDS_MAX: usize = 64;

/// Of their packed bytes: records of 4 KiB are few.
const PROMPT_BYTES_MAX: usize = 256 * 1024;

/// How long commits stay that small: who reads the audit trail reads on.
const PROMPT_FOR: Duration = Duration::from_secs(2);

/// Records waiting from which on nobody has commits kept small: each costs some 0.4 ms whatever it carries, and no sender is
/// to be refused for a reader's sake.
const PROMPT_WAITING_MAX: usize = QUEUE_RECORDS_MAX / 4;

/// Of their packed bytes.
const PROMPT_WAITING_BYTES_MAX: usize = QUEUE_BYTES_MAX / 4;

/// Most packed bytes committed together, whatever the records: bounds the log of one transaction.
pub(crate) const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Drafts of one sender that are placed in order.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) tenant: Arc<Tenant>,
    /// A queue itself: a large one is taken in parts.
    pub(crate) drafts: VecDeque<Draft>,
    /// When the request was received.
    pub(crate) at: Timestamp,
    /// All or none: what rejects one rejects the others.
    pub(crate) group: bool,
    pub(crate) reply: Reply,
    pub(crate) bytes: usize,
    /// What its record erases, when that is written.
    pub(crate) erasing: Option<Box<Erasing>>,
}

/// What becomes of a submission.
pub(crate) type Answer = oneshot::Receiver<Result<Outcomes, SubmitError>>;

/// Who waits for what becomes of a submission.
#[derive(Debug)]
pub(crate) struct Reply {
    to: oneshot::Sender<Result<Outcomes, SubmitError>>,
    /// Of the parts that were cut off and committed.
    done: Outcomes,
    /// What becomes of the part that was cut off last.
    part: Option<Answer>,
}

impl Reply {
    pub(crate) fn new() -> (Self, Answer) {
        let (to, answer) = oneshot::channel();
        let (done, part) = (Vec::new(), None);
        (Self { to, done, part }, answer)
    }

    /// Takes in what became of the part before, which was committed by now. Where it failed, nothing after it is written.
    fn settle(&mut self) -> Result<(), SubmitError> {
        let Some(mut part) = self.part.take() else {
            return Ok(());
        };
        let lost = |_| {
            Err(SubmitError::Unknown(
                "a part of the request was not answered".into(),
            ))
        };
        self.done.extend(part.try_recv().unwrap_or_else(lost)?);
        Ok(())
    }

    /// Answers with what became of all parts, in order.
    pub(crate) fn send(self, answer: Result<Outcomes, SubmitError>) {
        let Self { to, mut done, .. } = self;
        let answer = match answer {
            Err(error) if !done.is_empty() => {
                let why = match error {
                    SubmitError::Unknown(why) => why,
                    other => other.to_string(),
                };
                let first = done.len();
                Err(SubmitError::Unknown(format!(
                    "of the part behind the first {first} records: {why}"
                )))
            }
            Ok(outcomes) if !done.is_empty() => {
                done.extend(outcomes);
                Ok(done)
            }
            answer => answer,
        };
        // A sender that has gone does not want its answer; the records stand all the same.
        drop(to.send(answer));
    }
}

impl Submission {
    /// Cuts a part off the front, to be committed before the rest: what a small commit takes, where every draft stands
    /// for itself and there are more.
    fn cut(&mut self) -> Option<Self> {
        if self.group {
            return None;
        }
        let (mut count, mut bytes) = (0, 0);
        for draft in self.drafts.iter().take(PROMPT_RECORDS_MAX) {
            if count > 0 && bytes + draft.bytes() > PROMPT_BYTES_MAX {
                break;
            }
            (count, bytes) = (count + 1, bytes + draft.bytes());
        }
        if count == self.drafts.len() {
            return None;
        }
        let drafts = self.drafts.drain(..count).collect();
        self.bytes = self.bytes.saturating_sub(bytes);
        let (reply, answer) = Reply::new();
        self.reply.part = Some(answer);
        Some(Self {
            tenant: Arc::clone(&self.tenant),
            drafts,
            at: self.at,
            group: false,
            reply,
            bytes,
            erasing: None,
        })
    }
}

/// Work for the sequencer besides submissions, done between batches.
pub(crate) type Task = Box<dyn FnOnce(&mut crate::sequencer::Sequencer) + Send>;

#[derive(Default)]
struct State {
    /// Committed by themselves before the others.
    ahead: VecDeque<Submission>,
    /// The batch taken last was one of those. Then it is the others' turn.
    was_ahead: bool,
    /// Until then commits are small: the next one that is ahead waits for the one under way.
    prompt_until: Option<Instant>,
    submissions: VecDeque<Submission>,
    tasks: VecDeque<Task>,
    records: usize,
    bytes: usize,
    /// The sequencer waits: it is woken once, and not by each that comes until it runs.
    waiting: bool,
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

    /// Adds a submission, or says why not. A submission larger than the queue is taken when nothing waits.
    pub(crate) fn push(&self, submission: Submission) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.closing {
            return Err(SubmitError::Closing);
        }
        let full = state.bytes + submission.bytes > QUEUE_BYTES_MAX
            || state.records + submission.drafts.len() > QUEUE_RECORDS_MAX;
        if full && state.records > 0 {
            return Err(SubmitError::Busy {
                queued: state.records,
            });
        }
        state.records += submission.drafts.len();
        state.bytes += submission.bytes;
        state.submissions.push_back(submission);
        self.wake(state);
        Ok(())
    }

    /// Adds submissions that are committed before all others and by themselves, however much waits: one caller at a
    /// time, who waits for them, so they are bounded by what he brings.
    ///
    /// With `hurry` commits are small from now on, for [`PROMPT_FOR`].
    pub(crate) fn push_ahead(&self, submissions: Vec<Submission>, hurry: bool) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.closing {
            return Err(SubmitError::Closing);
        }
        for submission in submissions {
            state.records += submission.drafts.len();
            state.bytes += submission.bytes;
            state.ahead.push_back(submission);
        }
        if hurry {
            state.prompt_until = Some(Instant::now() + PROMPT_FOR);
        }
        self.wake(state);
        Ok(())
    }

    pub(crate) fn push_task(&self, task: Task) -> bool {
        let mut state = self.lock();
        if state.closing {
            return false;
        }
        state.tasks.push_back(task);
        self.wake(state);
        true
    }

    /// Nothing more comes in; what waits is still done.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        self.wake(state);
    }

    /// Says that there is something to do, to a sequencer that waits for that: to tell one that works is a call of the
    /// kernel for nothing.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        if waiting {
            self.filled.notify_one();
        }
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
            state.waiting = true;
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
            // Woken by the time, or for nothing: whoever comes now finds it at work.
            state.waiting = false;
        }
    }

    /// Whether less than a quarter of what may wait does.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Records that wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().records
    }
}

impl State {
    const fn has_room(&self) -> bool {
        self.records < PROMPT_WAITING_MAX && self.bytes < PROMPT_WAITING_BYTES_MAX
    }

    /// Submissions, or a part of one, up to the limits of a commit; none: nothing waits.
    fn take_batch(&mut self, now: Instant) -> Vec<Submission> {
        while let Some(Err(error)) = self.submissions.front_mut().map(|first| first.reply.settle()) {
            if let Some(rest) = self.submissions.pop_front() {
                self.records -= rest.drafts.len();
                self.bytes -= rest.bytes;
                rest.reply.send(Err(error));
            }
        }
        let prompt = self.has_room() && self.prompt_until.is_some_and(|until| now < until);
        self.was_ahead = !self.ahead.is_empty() && (!self.was_ahead || self.submissions.is_empty());
        let (from, records_max, bytes_max) = if self.was_ahead {
            (&mut self.ahead, BATCH_RECORDS_MAX, BATCH_BYTES_MAX)
        } else if prompt {
            (&mut self.submissions, PROMPT_RECORDS_MAX, PROMPT_BYTES_MAX)
        } else {
            (&mut self.submissions, BATCH_RECORDS_MAX, BATCH_BYTES_MAX)
        };
        if prompt
            && !self.was_ahead
            && let Some(part) = from.front_mut().and_then(Submission::cut)
        {
            from.push_front(part);
        }
        let (mut records, mut bytes) = (0, 0);
        let mut batch = Vec::new();
        while let Some(next) = from.front() {
            let fits = records + next.drafts.len() <= records_max && bytes + next.bytes <= bytes_max;
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
