//! Keys that are used once: who holds one, and what came of it.
//!
//! An entry belongs to a tenant and a space. It is pending while somebody holds
//! its lease, then completed or failed, and gone when its time is over. The lease
//! is a fence: who has lost it can neither complete nor fail the key. So a key has
//! at most one live holder and at most one completed result.
//!
//! In scope: entries, the decisions over them, limits. Out of scope: what a
//! request, an answer or an output is (ledger, server), waiting (ledger). It is
//! no evidence: losing all of it harms none.
//!
//! Start at [`OnceStore::apply`]. Source: SPEC 8.1.

use std::fs::File;
use std::io;
use std::sync::Arc;

use evidence::Timestamp;

/// How long a failed key is kept (SPEC 8.1).
pub const FAILED_SECS: u32 = 300;

/// Longest life of an entry: thirty days (SPEC 8.1).
pub const TTL_SECS_MAX: u32 = 2_592_000;

/// Life of an entry when nothing is said: a day (SPEC 8.1).
pub const TTL_SECS_DEFAULT: u32 = 86_400;

/// Entries of one tenant in one space: 58 requests a second for a day. Near 1 GiB on disk.
pub const ENTRIES_PER_TENANT_MAX: u64 = 5_000_000;

/// Bytes kept of one tenant's answers or outputs: what a tenant may take from the others' disk.
pub const PAYLOAD_BYTES_PER_TENANT_MAX: u64 = 1024 * 1024 * 1024;

/// Entries whose time is over that one act takes away: more than acts bring, so that none pile up.
pub const SWEPT_PER_ACT: u32 = 4;

/// Entries taken away at once, when nothing else is to be done.
pub const SWEPT_AT_ONCE: u32 = 1_000;

/// What keys are about: the same key in two spaces is two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnceSpace {
    /// Keys that callers check themselves (SPEC 8.1).
    Key,
    /// Answers to requests with an `Idempotency-Key` (SPEC 8.2). A process that dies loses none that was completed;
    /// power loss may take those of the last second ([`OnceStore::sync`]).
    Answer,
    /// Outputs of steps (SPEC 8.3).
    Output,
}

impl OnceSpace {
    /// Every space.
    pub const ALL: [Self; 3] = [Self::Key, Self::Answer, Self::Output];

    /// Its stored number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Key => 1,
            Self::Answer => 2,
            Self::Output => 3,
        }
    }
}

/// A key of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OnceKey {
    /// What it is about.
    pub space: OnceSpace,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// The key. Not empty.
    pub key: Arc<str>,
}

/// What a holder shows to act on its key: drawn at random by who checks.
pub type Lease = [u8; 16];

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnceStatus {
    /// Somebody holds it, or held it and died.
    Pending,
    /// There is a result.
    Completed,
    /// There is none; it may be tried again.
    Failed,
}

impl OnceStatus {
    /// The word in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Its stored letter.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Pending => "p",
            Self::Completed => "c",
            Self::Failed => "f",
        }
    }

    /// By its stored letter.
    pub fn of_letter(letter: &str) -> Option<Self> {
        [Self::Pending, Self::Completed, Self::Failed]
            .into_iter()
            .find(|status| status.letter() == letter)
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnceEntry {
    /// Where it stands.
    pub status: OnceStatus,
    /// Of the request; `None`: any request is the same.
    pub hash: Option<[u8; 32]>,
    /// A word of the caller's: the trace of a key, the input hash of an output.
    pub label: Option<String>,
    /// Of its holder, also when it is done.
    pub lease: Lease,
    /// Until when the holder is taken to live; never after `expires_at`.
    pub lease_until: Timestamp,
    /// When it was checked.
    pub created_at: Timestamp,
    /// When it is gone.
    pub expires_at: Timestamp,
    /// Of the result.
    pub response_hash: Option<[u8; 32]>,
    /// Why it failed.
    pub error: Option<String>,
    /// Of the result that is kept with it; 0: none is. [`OnceAct::Payload`] gives it.
    pub payload_bytes: u64,
}

/// What is asked of a key.
#[derive(Clone, Debug)]
pub enum OnceAct {
    /// Is it new? Then who asks holds it.
    Check {
        /// Of the request; `None` agrees with every other.
        hash: Option<[u8; 32]>,
        /// Kept with it.
        label: Option<String>,
        /// How long the entry lives.
        ttl_secs: u32,
        /// How long the holder is taken to live.
        lease_secs: u32,
        /// The holder's, if it is new.
        lease: Lease,
    },
    /// There is a result.
    Complete {
        /// The holder's.
        lease: Lease,
        /// Replaces the word given at the check.
        label: Option<String>,
        /// Of the result.
        response_hash: Option<[u8; 32]>,
        /// The result.
        payload: Option<Vec<u8>>,
    },
    /// There will be none.
    Fail {
        /// The holder's.
        lease: Lease,
        /// Why.
        error: String,
    },
    /// The holder lives.
    Renew {
        /// The holder's.
        lease: Lease,
        /// For how long from now.
        lease_secs: u32,
    },
    /// Where it stands.
    Read,
    /// The result that is kept with it.
    Payload,
    /// What came of it must not be told any more, if it is this result: result, hashes and word go. That it is done
    /// stays, so that it is not done again.
    Forget {
        /// Of the result.
        response_hash: [u8; 32],
    },
    /// It was never there.
    Delete,
}

/// What was there before, when a check answers "new".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    /// A holder that died.
    Expired,
    /// A holder that failed.
    Failed,
}

impl Previous {
    /// The word in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }
}

/// What is said to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnceSaid {
    /// Whoever asked holds it now.
    New {
        /// Who held it before.
        previous: Option<Previous>,
        /// Until when, unless renewed.
        lease_until: Timestamp,
        /// When the key is gone.
        expires_at: Timestamp,
    },
    /// Somebody else holds it, or there is a result; `conflict`: of another request.
    Known {
        /// What is there.
        entry: Box<OnceEntry>,
        /// The request is another one.
        conflict: bool,
    },
    /// Done; the entry as it is now.
    Done(Box<OnceEntry>),
    /// The entry, if there is one.
    Read(Option<Box<OnceEntry>>),
    /// The result, if there is one.
    Payload(Option<Vec<u8>>),
    /// Whoever asked does not hold it any more.
    LeaseLost,
    /// There is no such key.
    Unknown,
    /// The tenant has [`ENTRIES_PER_TENANT_MAX`] keys.
    Full,
    /// Too many are held at once.
    Busy,
    /// It is not there now.
    Deleted,
}

/// Something asked of a key, at a moment.
#[derive(Clone, Debug)]
pub struct OnceAsk {
    /// Which.
    pub key: OnceKey,
    /// What.
    pub act: OnceAct,
    /// When.
    pub at: Timestamp,
}

/// Why nothing can be said.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OnceError {
    /// The backend cannot answer now. What was asked may have been done.
    #[error("the idempotency store cannot answer: {0}")]
    Unavailable(String),
    /// The backend has lost data: what it says about keys is worth nothing until an operator resets it.
    #[error("the idempotency store has lost its data; `deponent idempotency reset` takes it up again")]
    Lost,
}

impl OnceAct {
    /// Bytes of the result that comes with it.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Complete {
                payload: Some(payload),
                ..
            } => payload.len(),
            _ => 0,
        }
    }
}

/// Keeps entries. Whoever has it is its only user: [`OnceStore::apply`] is one transaction or one round trip.
pub trait OnceStore: Send {
    /// Does what is asked, in order, each seeing what came before it. When this returns, all of it is as durable as
    /// the backend makes things; answers ([`OnceSpace::Answer`]) may be so after [`OnceStore::sync`] only. One that
    /// fails fails alone, where the backend can tell.
    fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>>;

    /// Does what is asked if that takes a fraction of a millisecond now, without a sync, a network or another process to
    /// wait for: so it may be asked on a thread that others need. `None`: it is to be asked by [`OnceStore::apply`].
    fn at_once(&mut self, _: &OnceAsk) -> Option<Result<OnceSaid, OnceError>> {
        None
    }

    /// Whether other processes have it too: they take a holder for dead when its lease is over, whatever kept it.
    fn is_shared(&self) -> bool {
        true
    }

    /// Takes away entries whose time is over, some [`SWEPT_AT_ONCE`], fewer when they are large; says how many, 0 when none
    /// is left.
    fn sweep(&mut self, at: Timestamp) -> Result<u32, OnceError>;

    /// Whether something is done that power loss would undo.
    fn is_behind(&self) -> bool {
        false
    }

    /// Makes durable what is not yet, or gives the file whose sync does: nobody need wait for that to ask something.
    /// What came of it is then told to [`OnceStore::synced`].
    fn sync(&mut self) -> Result<Option<File>, OnceError> {
        Ok(None)
    }

    /// What came of the sync of the file that [`OnceStore::sync`] gave.
    fn synced(&mut self, synced: io::Result<()>) -> Result<(), OnceError> {
        synced.map_err(|error| OnceError::Unavailable(error.to_string()))
    }
}

/// Whether two requests are others: both hashes are there and differ.
pub(crate) fn is_other(stored: Option<&[u8; 32]>, given: Option<&[u8; 32]>) -> bool {
    stored.zip(given).is_some_and(|(stored, given)| stored != given)
}

/// So many seconds later, as far as times go.
pub(crate) fn later(at: Timestamp, secs: u32) -> Timestamp {
    at.checked_add_micros(i64::from(secs) * 1_000_000)
        .unwrap_or(Timestamp::MAX)
}
