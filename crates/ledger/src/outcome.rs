//! What becomes of a draft: a receipt, or a rejection that says what the sender can do.

use evidence::RecordId;
use evidence::record::RuleBroken;
use serde::Serialize;
use tlog::Hash;

use crate::{BodyTooLarge, RecordError};

/// Proof-to-be that a record is in the ledger, on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The record.
    pub record_id: RecordId,
    /// Its leaf.
    pub leaf_index: u64,
    /// Hash of the leaf, lower-case hex.
    #[serde(serialize_with = "as_hex")]
    pub leaf_hash: Hash,
    /// Leaves in the ledger when the record was durable: at least `leaf_index` + 1.
    pub tree_size: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn as_hex<S: serde::Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hash.to_hex())
}

/// A draft that is in the ledger now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The (first) receipt.
    pub receipt: Receipt,
    /// Whether this submission wrote it, not an earlier one.
    pub fresh: bool,
}

/// Why a draft was not written. Nothing else of the same submission is touched by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The identity is taken by other content; the first stays.
    #[error("a record with this identity and other content is in the ledger at leaf {}", .0.leaf_index)]
    Conflict(Receipt),
    /// The identity is taken, and whether by the same content cannot be told: the body, and the salt that content is
    /// compared under, are in an archive, missing, or others than were recorded. The first stays.
    #[error(
        "a record with this identity is in the ledger at leaf {}; its body is archived, missing or damaged, so the \
         content cannot be compared",
        .0.leaf_index
    )]
    Archived(Receipt),
    /// No such run.
    #[error("the run does not exist")]
    RunUnknown,
    /// The run has ended.
    #[error("the run has ended")]
    RunEnded,
    /// Records of the run came in between: read again and retry.
    #[error("records of the run came in between")]
    RunMoved,
    /// The run is sealed: it takes no more evidence that is posted.
    #[error("the run is sealed")]
    RunSealed,
    /// Redaction has left no body of its kind.
    #[error("a value that the record needs as it is looks like a secret")]
    Redacted,
    /// The header would pass 65,535 bytes.
    #[error("the record's header is longer than a leaf may be")]
    LeafTooLarge,
    /// An earlier draft of the same group was rejected.
    #[error("an earlier record of the same group was refused")]
    Group,
}

/// Why nothing of a submission was written, as far as is known; after [`SubmitError::Unknown`] some of it may stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full: send again later.
    #[error("the ledger is busy; {queued} records are waiting")]
    Busy {
        /// Records that wait.
        queued: usize,
    },
    /// The tenant's ledger is refused for writing.
    #[error("the ledger is refused for writing: {0}")]
    Refused(String),
    /// Writing has stopped until an operator has looked.
    #[error("writing has stopped: {0}")]
    Stopped(String),
    /// The commit may or may not have happened; sending the same again is safe for records with an identity.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The server shuts down.
    #[error("the server is shutting down")]
    Closing,
}

/// What became of each draft of a submission, in order.
pub type Outcomes = Vec<Result<Placed, Rejection>>;

/// Why something said by a caller is not on record.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It breaks a rule of its kind.
    #[error(transparent)]
    Rule(#[from] RuleBroken),
    /// It is too large.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
    /// The ledger refused it, e.g. [`Rejection::RunUnknown`], [`Rejection::RunSealed`].
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// What is on record cannot be read; nothing was written.
    #[error(transparent)]
    Read(#[from] RecordError),
    /// Nothing was written, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

impl From<store::StoreError> for WriteError {
    fn from(error: store::StoreError) -> Self {
        Self::Read(error.into())
    }
}
