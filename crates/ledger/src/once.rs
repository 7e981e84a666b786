//! Once: keys that are checked before something is done, so that it is done once.
//!
//! One thread asks the backend. What comes while it is at work is its next batch,
//! so many callers share a commit or a round trip. A caller waits without holding
//! a thread. What the backend answers from memory or the system's cache is asked by
//! the caller itself while the backend is idle: two changes of threads cost more.
//!
//! In scope: the queue, leases, what is kept with a key and how it is encrypted.
//! Out of scope: backends (store), requests and answers (server), steps ([`crate::replay`]).
//!
//! Start at [`Once::check`]. Source: SPEC 8.1.

mod thread;
mod vault;

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use evidence::Timestamp;
use store::once::{OnceAct, OnceAsk, OnceStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

pub use store::once::{
    ENTRIES_PER_TENANT_MAX, Lease, OnceEntry, OnceError, OnceKey, OnceSaid, OnceSpace, OnceStatus, Previous,
    TTL_SECS_DEFAULT, TTL_SECS_MAX,
};
pub use vault::Vault;

use self::thread::{Desk, Task, Waiting, work};

/// How long a holder is taken to live when it does not renew its lease (SPEC 8.1).
pub const LEASE_SECS_DEFAULT: u32 = 60;

/// Longest lease that may be set: whoever dies blocks its key that long.
pub const LEASE_SECS_MAX: u32 = 3_600;

/// Longest reason of a failure that is kept, in characters (SPEC 8.1).
pub const ERROR_CHARS_MAX: usize = 500;

/// Asks that wait, at most: a fifth of a second's work of the slower backend.
const ASKS_WAITING_MAX: usize = 4_096;

/// Payload bytes that wait, at most, as many as bodies in flight.
const BYTES_WAITING_MAX: usize = 64 * 1024 * 1024;

/// Kept results that are read and held at once, as many bytes as bodies in flight: who repeats a request asks with
/// a few bytes for up to 4 MiB.
const RESULTS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long the way down waits for what was asked.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// How soon it asks again while the queue is full.
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

/// First pause before a holder tries again to end its key; each is twice the one before.
const TRY_PAUSE: Duration = Duration::from_millis(100);

/// Longest such pause: an outage that has ended is noticed that soon.
const TRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a check does when the backend cannot answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutage {
    /// It is refused: nothing is done twice.
    #[default]
    Refuse,
    /// It passes, and that is put on record.
    Allow,
}

/// How it runs.
#[derive(Clone, Debug)]
pub struct OnceOptions {
    /// File with the key that answers and outputs are encrypted under.
    pub key_file: PathBuf,
    /// Somebody named that file, so that it must be there. Otherwise it is made when it is needed.
    pub key_is_named: bool,
    /// How long a holder is taken to live.
    pub lease_secs: u32,
    /// What a check does when the backend cannot answer.
    pub on_outage: OnOutage,
}

struct Inner {
    options: OnceOptions,
    vault: Vault,
    shared: bool,
    desk: Arc<Desk>,
    queue: OnceLock<SyncSender<Task>>,
    starting: Mutex<()>,
    bytes: Arc<AtomicUsize>,
    /// Of [`RESULTS_BYTES_MAX`], what is free.
    results: Arc<Semaphore>,
}

/// A kept result. While it lives it takes its part of [`RESULTS_BYTES_MAX`].
#[derive(Debug)]
pub struct Kept {
    /// As it was given to [`Once::complete`].
    pub payload: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// Keys that are used once. Cheap to clone. The backend is first touched when something is asked.
#[derive(Clone)]
pub struct Once {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Once")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

/// What a check said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Whoever asked holds the key now.
    New {
        /// Shown to act on it.
        lease: Lease,
        /// Who held it before.
        previous: Option<Previous>,
        /// Until when, unless renewed.
        lease_until: Timestamp,
        /// When the key is gone.
        expires_at: Timestamp,
    },
    /// The same request holds it, or has its result.
    Duplicate(Box<OnceEntry>),
    /// Another request does.
    Conflict(Box<OnceEntry>),
}

impl Checked {
    /// Whether it is to be done now.
    pub const fn is_new(&self) -> bool {
        matches!(self, Self::New { .. })
    }

    /// Whether it was asked before.
    pub const fn is_duplicate(&self) -> bool {
        matches!(self, Self::Duplicate(_))
    }

    /// Whether the key belongs to another request.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }
}

/// Why a key was not checked, or not acted on.
#[derive(Debug, thiserror::Error)]
pub enum KeyRefusal {
    /// There is no such key.
    #[error("there is no such key, or its time is over")]
    Unknown,
    /// Whoever asks does not hold it, or it is done.
    #[error(
        "the lease is not the key's any more: another holds it, or it is done, with this result or another"
    )]
    LeaseLost,
    /// The tenant has too many.
    #[error("the tenant has {ENTRIES_PER_TENANT_MAX} keys")]
    Full,
    /// Too many are held at once; some soon are not any more.
    #[error("too many requests with a key are being answered")]
    Busy,
    /// Nothing can be said.
    #[error(transparent)]
    Backend(#[from] OnceError),
}

/// Tries of a holder to end its key while the backend is away, for as long as its lease may hold: after that another
/// may have begun the same.
#[derive(Debug)]
pub struct Tries {
    until: Instant,
    pause: Duration,
}

impl Tries {
    /// Waits until the next is due; `false`: there is none.
    pub async fn next(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.until {
            return false;
        }
        sleep_until((now + self.pause).min(self.until)).await;
        self.pause = (self.pause * 2).min(TRY_PAUSE_MAX);
        true
    }
}

/// A check.
#[derive(Clone, Debug)]
pub struct Check {
    /// Of the request; `None` agrees with every other.
    pub hash: Option<[u8; 32]>,
    /// A word kept with the key.
    pub label: Option<String>,
    /// How long the key lives.
    pub ttl_secs: u32,
}

impl Once {
    /// Over a backend.
    pub fn new(backend: Box<dyn OnceStore>, options: OnceOptions) -> Self {
        let desk = Arc::new(Desk::new(backend));
        Self {
            inner: Arc::new(Inner {
                vault: if options.key_is_named {
                    Vault::named(&options.key_file)
                } else {
                    Vault::new(&options.key_file)
                },
                options,
                shared: desk.is_shared(),
                desk,
                queue: OnceLock::new(),
                starting: Mutex::new(()),
                bytes: Arc::default(),
                results: Arc::new(Semaphore::new(RESULTS_BYTES_MAX)),
            }),
        }
    }

    /// How it runs.
    pub fn options(&self) -> &OnceOptions {
        &self.inner.options
    }

    /// What encrypts what is kept.
    pub fn vault(&self) -> &Vault {
        &self.inner.vault
    }

    /// Whether other processes have the backend too, so that a holder must renew its lease whatever it is at.
    pub fn is_shared(&self) -> bool {
        self.inner.shared
    }

    /// Is the key new? Then whoever asks holds it.
    ///
    /// # Errors
    /// [`KeyRefusal::Full`] or [`KeyRefusal::Backend`].
    pub async fn check(&self, key: &OnceKey, check: Check, at: Timestamp) -> Result<Checked, KeyRefusal> {
        let mut lease = [0; 16];
        getrandom::fill(&mut lease).map_err(|error| OnceError::Unavailable(error.to_string()))?;
        let act = OnceAct::Check {
            hash: check.hash,
            label: check.label,
            ttl_secs: check.ttl_secs,
            lease_secs: self.inner.options.lease_secs,
            lease,
        };
        match self.ask(key, act, at).await? {
            OnceSaid::New {
                previous,
                lease_until,
                expires_at,
            } => Ok(Checked::New {
                lease,
                previous,
                lease_until,
                expires_at,
            }),
            OnceSaid::Known {
                entry,
                conflict: false,
            } => Ok(Checked::Duplicate(entry)),
            OnceSaid::Known { entry, .. } => Ok(Checked::Conflict(entry)),
            other => Err(refused(&other)),
        }
    }

    /// The result that is kept with an entry; `None`: none is, or not any more. Waits for room.
    ///
    /// # Errors
    /// The backend cannot answer.
    pub async fn kept(
        &self,
        key: &OnceKey,
        entry: &OnceEntry,
        at: Timestamp,
    ) -> Result<Option<Kept>, OnceError> {
        if entry.payload_bytes == 0 {
            return Ok(None);
        }
        let bytes = usize::try_from(entry.payload_bytes).unwrap_or(usize::MAX);
        let permits = u32::try_from(bytes.min(RESULTS_BYTES_MAX)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.inner.results).acquire_many_owned(permits).await;
        let room = room.map_err(|_| OnceError::Unavailable("it is closed".into()))?;
        Ok(match self.ask(key, OnceAct::Payload, at).await? {
            OnceSaid::Payload(payload) => payload.map(|payload| Kept { payload, _room: room }),
            _ => None,
        })
    }

    /// There is a result. The same again by the same holder is a success.
    ///
    /// # Errors
    /// [`KeyRefusal::Unknown`], [`KeyRefusal::LeaseLost`] or [`KeyRefusal::Backend`].
    pub async fn complete(
        &self,
        key: &OnceKey,
        lease: Lease,
        label: Option<String>,
        response_hash: Option<[u8; 32]>,
        payload: Option<Vec<u8>>,
        at: Timestamp,
    ) -> Result<OnceEntry, KeyRefusal> {
        let act = OnceAct::Complete {
            lease,
            label,
            response_hash,
            payload,
        };
        done(self.ask(key, act, at).await?)
    }

    /// There will be no result; the key may be tried again. The reason is kept, cut to [`ERROR_CHARS_MAX`].
    ///
    /// # Errors
    /// As [`Once::complete`].
    pub async fn fail(
        &self,
        key: &OnceKey,
        lease: Lease,
        error: &str,
        at: Timestamp,
    ) -> Result<OnceEntry, KeyRefusal> {
        let error = error.chars().take(ERROR_CHARS_MAX).collect();
        done(self.ask(key, OnceAct::Fail { lease, error }, at).await?)
    }

    /// The holder lives.
    ///
    /// # Errors
    /// As [`Once::complete`].
    pub async fn renew(&self, key: &OnceKey, lease: Lease, at: Timestamp) -> Result<OnceEntry, KeyRefusal> {
        let lease_secs = self.inner.options.lease_secs;
        done(self.ask(key, OnceAct::Renew { lease, lease_secs }, at).await?)
    }

    /// How often a holder renews: two renewals may be lost before its lease ends.
    pub fn renew_every(&self) -> Duration {
        Duration::from_secs(u64::from(self.inner.options.lease_secs)) / 3
    }

    /// Tries to end a key, from now on.
    pub fn tries(&self) -> Tries {
        let lease = Duration::from_secs(self.inner.options.lease_secs.into());
        Tries {
            until: Instant::now() + lease,
            pause: TRY_PAUSE,
        }
    }

    /// Does something and renews the lease meanwhile. Work that is at it longer than a lease holds must not block the
    /// thread it is polled on. A lease that is lost all the same does not stop the work: it is half done then.
    pub async fn holding<T>(
        &self,
        key: &OnceKey,
        lease: Lease,
        clock: fn() -> Timestamp,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::select! {
            done = work => done,
            never = self.renewals(key, lease, clock) => match never {},
        }
    }

    async fn renewals(&self, key: &OnceKey, lease: Lease, clock: fn() -> Timestamp) -> Infallible {
        loop {
            tokio::time::sleep(self.renew_every()).await;
            match self.renew(key, lease, clock()).await {
                Ok(_) => {}
                // It may be back before the lease ends.
                Err(KeyRefusal::Backend(error)) => tracing::warn!(%error, "a lease could not be renewed"),
                Err(refusal) => {
                    tracing::debug!(%refusal, "a lease is not renewed any more");
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Whether the backend can answer now.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn answers(&self, at: Timestamp) -> Result<(), OnceError> {
        // No caller's key: none is of an empty tenant.
        let nobody = OnceKey {
            space: OnceSpace::Key,
            tenant: "".into(),
            key: "answers".into(),
        };
        self.ask(&nobody, OnceAct::Read, at).await.map(drop)
    }

    /// Where a key stands.
    ///
    /// # Errors
    /// The backend cannot answer.
    pub async fn read(&self, key: &OnceKey, at: Timestamp) -> Result<Option<OnceEntry>, OnceError> {
        Ok(match self.ask(key, OnceAct::Read, at).await? {
            OnceSaid::Read(entry) => entry.map(|entry| *entry),
            _ => None,
        })
    }

    /// What came of a key must not be told any more, if it is this; that it was done stays. Says whether it was.
    ///
    /// # Errors
    /// The backend cannot answer.
    pub async fn forget(
        &self,
        key: &OnceKey,
        response_hash: [u8; 32],
        at: Timestamp,
    ) -> Result<bool, OnceError> {
        let said = self.ask(key, OnceAct::Forget { response_hash }, at).await?;
        Ok(matches!(said, OnceSaid::Done(_)))
    }

    /// The key was never there; who holds it has lost it.
    ///
    /// # Errors
    /// The backend cannot answer.
    pub async fn delete(&self, key: &OnceKey, at: Timestamp) -> Result<(), OnceError> {
        self.ask(key, OnceAct::Delete, at).await.map(drop)
    }

    /// Takes away what is over, some time soon. Does nothing as long as nothing was ever asked.
    pub fn sweep(&self, at: Timestamp) {
        if let Some(queue) = self.inner.queue.get() {
            // A full queue sweeps with its own asks.
            let _ = queue.try_send(Task::Sweep(at));
        }
    }

    /// Waits until all that was asked is done and on disk, on the way down. Blocks; `false`: it took too long, or some of it
    /// is not on disk.
    pub fn settle(&self) -> bool {
        let Some(queue) = self.inner.queue.get() else {
            return true;
        };
        let began = std::time::Instant::now();
        let (reply, settled) = sync_channel(1);
        let mut task = Task::Settle(reply);
        while let Err(refused) = queue.try_send(task) {
            let TrySendError::Full(again) = refused else {
                return false;
            };
            if began.elapsed() >= SETTLE_MAX {
                return false;
            }
            std::thread::sleep(SETTLE_PAUSE);
            task = again;
        }
        settled.recv_timeout(SETTLE_MAX) == Ok(true)
    }

    async fn ask(&self, key: &OnceKey, act: OnceAct, at: Timestamp) -> Result<OnceSaid, OnceError> {
        let busy = || OnceError::Unavailable("too many wait for it".into());
        let ask = OnceAsk {
            key: key.clone(),
            act,
            at,
        };
        let queue = self.queue()?;
        if let Some(said) = self.inner.desk.at_once(&ask, queue) {
            return said;
        }
        let bytes = ask.act.payload_bytes();
        let waiting = &self.inner.bytes;
        if waiting.fetch_add(bytes, Ordering::AcqRel) + bytes > BYTES_WAITING_MAX {
            waiting.fetch_sub(bytes, Ordering::AcqRel);
            return Err(busy());
        }
        let (reply, answer) = oneshot::channel();
        let task = Task::Ask(Waiting { ask, bytes, reply });
        if let Err(refused) = queue.try_send(task) {
            waiting.fetch_sub(bytes, Ordering::AcqRel);
            return Err(match refused {
                TrySendError::Full(_) => busy(),
                TrySendError::Disconnected(_) => OnceError::Unavailable("its thread has ended".into()),
            });
        }
        answer
            .await
            .unwrap_or_else(|_| Err(OnceError::Unavailable("its thread has ended".into())))
    }

    /// Where asks go; the thread is started with the first.
    fn queue(&self) -> Result<&SyncSender<Task>, OnceError> {
        if let Some(queue) = self.inner.queue.get() {
            return Ok(queue);
        }
        let starting = self.inner.starting.lock();
        let _starting = starting.unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = self.inner.queue.get() {
            return Ok(queue);
        }
        let (queue, asks) = sync_channel(ASKS_WAITING_MAX);
        let (desk, bytes) = (Arc::clone(&self.inner.desk), Arc::clone(&self.inner.bytes));
        std::thread::Builder::new()
            .name("once".into())
            .spawn(move || work(&asks, &desk, &bytes))
            .map_err(|error| OnceError::Unavailable(error.to_string()))?;
        Ok(self.inner.queue.get_or_init(|| queue))
    }
}

fn done(said: OnceSaid) -> Result<OnceEntry, KeyRefusal> {
    match said {
        OnceSaid::Done(entry) => Ok(*entry),
        other => Err(refused(&other)),
    }
}

fn refused(said: &OnceSaid) -> KeyRefusal {
    match said {
        OnceSaid::Unknown => KeyRefusal::Unknown,
        OnceSaid::LeaseLost => KeyRefusal::LeaseLost,
        OnceSaid::Full => KeyRefusal::Full,
        OnceSaid::Busy => KeyRefusal::Busy,
        other => KeyRefusal::Backend(OnceError::Unavailable(format!(
            "an answer to something else: {other:?}"
        ))),
    }
}
