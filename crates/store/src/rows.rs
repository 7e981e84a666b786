//! The rows that go into and come out of a store, the same for every backend.

use evidence::{Identity, Kind, RunState, Timestamp};
use tlog::{Hash, TreeSize};

use crate::{LeafKey, RunKey};

/// A ledger: one epoch of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    /// Its number; 0 is the first epoch of `_instance`.
    pub ledger_no: u32,
    /// Its tenant's number; 0 is `_instance`.
    pub tenant_no: u32,
    /// Its tenant.
    pub tenant_id: String,
    /// 0, then 1 after the first recovery, …
    pub epoch: u32,
    /// The checkpoint origin, which is the log's identity.
    pub origin: String,
    /// The verifier key, `name+hash+base64`.
    pub vkey: String,
}

/// Size and root of a tree, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of leaves.
    pub size: TreeSize,
    /// Root over them.
    pub root: Hash,
}

/// Consecutive leaves, packed ([`crate::codec`]). The last block of a ledger is its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafBlock {
    /// Index of the first leaf.
    pub first: u64,
    /// Leaves in it, 1 to [`crate::codec::BLOCK_LEAVES_MAX`].
    pub count: u32,
    /// Root of the tree that ends with this block.
    pub root: Hash,
    /// The packed leaves.
    pub leaves: Vec<u8>,
}

impl LeafBlock {
    /// One past the last leaf.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// The root of a complete subtree of 256^k leaves, kept so that proofs need not read all leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Tile level k, from 1.
    pub level: u8,
    /// Position at that level.
    pub index: u64,
    /// Root of leaves `[index·256^k, (index+1)·256^k)`.
    pub hash: Hash,
}

/// A body beside its leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyRow {
    /// Its leaf.
    pub leaf: LeafKey,
    /// Key of its commitment.
    pub salt: [u8; 32],
    /// The packed body ([`crate::codec`]).
    pub body: Vec<u8>,
}

impl BodyRow {
    /// The same, looked at.
    pub fn as_ref(&self) -> BodyRef<'_> {
        BodyRef {
            leaf: self.leaf,
            salt: self.salt,
            body: &self.body,
        }
    }
}

/// A body where it lies, see [`BodyRow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRef<'a> {
    /// Its leaf.
    pub leaf: LeafKey,
    /// Key of its commitment.
    pub salt: [u8; 32],
    /// The packed body ([`crate::codec`]).
    pub body: &'a [u8],
}

impl BodyRef<'_> {
    /// A copy to keep.
    pub fn to_row(&self) -> BodyRow {
        BodyRow {
            leaf: self.leaf,
            salt: self.salt,
            body: self.body.to_vec(),
        }
    }
}

/// A signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRow {
    /// The size it speaks of.
    pub size: TreeSize,
    /// The signed note.
    pub note: String,
}

/// A run as projected.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Its key.
    pub key: RunKey,
    /// The leaf of its run.started.
    pub started_leaf: LeafKey,
    /// What its records add up to.
    pub state: RunState,
}

/// What records that came after the end of a trace add to its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateRunRow {
    /// The run.
    pub key: RunKey,
    /// All its records.
    pub record_count: u64,
    /// Late steps.
    pub late_count: u32,
    /// Of the newest record.
    pub last_recorded_at: Timestamp,
}

/// A record of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRecordRow {
    /// The run.
    pub run: RunKey,
    /// Its place within the run.
    pub run_seq: u64,
    /// Its leaf.
    pub leaf: LeafKey,
    /// What it is.
    pub kind: Kind,
    /// By which it is known again.
    pub identity: Option<Identity>,
    /// Of a REST step, which is ordered by it.
    pub step_index: Option<u32>,
    /// When it happened: spans are ordered by it.
    pub occurred_at: Timestamp,
}

/// How a trace is named: a W3C id, or a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TraceKey {
    /// W3C trace id, 16 bytes.
    W3c([u8; 16]),
    /// Anything else, e.g. `trace_<run_id>`.
    Text(String),
}

impl TraceKey {
    /// 32 lower-case hex digits are a W3C id.
    pub fn parse(text: &str) -> Self {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut id = [0; 16];
        let bytes = text.as_bytes();
        let whole = bytes.len() == 32
            && id.iter_mut().zip(bytes.chunks_exact(2)).all(|(byte, pair)| {
                let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
                    return false;
                };
                *byte = (high << 4) | low;
                true
            });
        if whole {
            Self::W3c(id)
        } else {
            Self::Text(text.to_owned())
        }
    }

    /// The id as it was given.
    pub fn text(&self) -> String {
        match self {
            Self::W3c(id) => evidence::hex_string(id),
            Self::Text(id) => id.clone(),
        }
    }
}

/// Which run a trace belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceRow {
    /// The trace.
    pub trace: TraceKey,
    /// Its run.
    pub run: RunKey,
}

/// A record found by one of its facets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FacetRow {
    /// The facet ([`evidence::facet`]).
    pub facet: String,
    /// The record's leaf.
    pub leaf: LeafKey,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    /// Its number.
    pub tenant_no: u32,
    /// Its name.
    pub tenant_id: String,
    /// The leaf, in `_instance`, of the record that made it.
    pub leaf: LeafKey,
}

/// A stretch of leaves whose bodies were archived and pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrunedRow {
    /// Its first leaf.
    pub first: LeafKey,
    /// Its last leaf, of the same ledger.
    pub last: LeafKey,
    /// The record that says so.
    pub by: LeafKey,
}

/// A record whose body goes, and what is projected from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedRow {
    /// The record's leaf, in whichever of the tenant's ledgers.
    pub leaf: LeafKey,
    /// Lists it stands in from now on.
    pub facets_gained: Vec<String>,
    /// Lists it stands in no more.
    pub facets_lost: Vec<String>,
    /// Its row among those of its run, as it is from now on.
    pub run_record: Option<RunRecordRow>,
}

/// Everything one ledger gains in one commit.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The ledger.
    pub ledger_no: u32,
    /// Its tenant.
    pub tenant_no: u32,
    /// The head that this continues: compared, then moved.
    pub expected: Head,
    /// The leaves.
    pub blocks: Vec<LeafBlock>,
    /// Subtrees that became complete.
    pub nodes: Vec<NodeRow>,
    /// Bodies, one a leaf, ascending.
    pub bodies: Vec<BodyRow>,
    /// New and changed runs, ascending.
    pub runs: Vec<RunRow>,
    /// What late records add to runs (only in a rebuild).
    pub late_runs: Vec<LateRunRow>,
    /// Records of runs, ascending by run and run_seq.
    pub run_records: Vec<RunRecordRow>,
    /// New traces.
    pub traces: Vec<TraceRow>,
    /// Facets of the records, each of a record once. Within a facet leaves ascend; the store gives the ordinals.
    /// Sorted by facet a store writes side by side.
    pub facets: Vec<FacetRow>,
    /// New tenants (only in the ledger of `_instance`).
    pub tenants: Vec<TenantRow>,
    /// Stretches that the batch's record prunes; a rebuild only writes them down.
    pub pruned: Vec<PrunedRow>,
    /// What the batch's record erases.
    pub erased: Vec<ErasedRow>,
    /// Runs that add up to something else without what is erased: these rows take the place of theirs.
    pub refolded: Vec<RunRow>,
}

impl Batch {
    /// A batch that says nothing yet.
    pub fn new(ledger_no: u32, tenant_no: u32, expected: Head) -> Self {
        Self {
            ledger_no,
            tenant_no,
            expected,
            blocks: Vec::new(),
            nodes: Vec::new(),
            bodies: Vec::new(),
            runs: Vec::new(),
            late_runs: Vec::new(),
            run_records: Vec::new(),
            traces: Vec::new(),
            facets: Vec::new(),
            tenants: Vec::new(),
            pruned: Vec::new(),
            erased: Vec::new(),
            refolded: Vec::new(),
        }
    }
}

/// What the sequencer must know before it places a batch.
#[derive(Clone, Debug, Default)]
pub struct BatchQuery {
    /// Runs by id.
    pub run_ids: Vec<String>,
    /// Runs by trace.
    pub traces: Vec<TraceKey>,
    /// Identities by run id.
    pub by_run_id: Vec<(String, Identity)>,
    /// Identities by trace.
    pub by_trace: Vec<(TraceKey, Identity)>,
}

/// What is known of a [`BatchQuery`]; what is absent is not there.
#[derive(Clone, Debug, Default)]
pub struct BatchKnown {
    /// The runs found, each once.
    pub runs: Vec<RunRow>,
    /// The run of each trace found.
    pub traces: Vec<TraceRow>,
    /// The records found.
    pub records: Vec<(RunKey, Identity, LeafKey)>,
}

/// Filters and page of a list of runs. `None` filters nothing.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the columns of the same names
pub struct RunQuery {
    pub tenant_no: u32,
    pub run_id: Option<String>,
    pub provider: Option<String>,
    pub model: Option<String>,
    pub execution_status: Option<String>,
    pub status: Option<String>,
    pub is_synthetic: Option<bool>,
    pub agent_id: Option<String>,
    pub root_hash: Option<[u8; 32]>,
    pub plan_hash: Option<String>,
    pub seed: Option<i64>,
    /// Inclusive.
    pub created_after: Option<Timestamp>,
    /// Exclusive.
    pub created_before: Option<Timestamp>,
    /// Runs whose first leaf is before this one.
    pub as_of: Option<LeafKey>,
    /// Only what comes after this place in the list (newest first).
    pub after: Option<(Timestamp, RunKey)>,
    /// Rows passed over.
    pub offset: u32,
    /// Most rows.
    pub limit: u32,
}

/// A page of runs, newest first.
#[derive(Clone, Debug, Default)]
pub struct RunPage {
    /// The rows.
    pub rows: Vec<RunRow>,
    /// More follow.
    pub has_more: bool,
}

/// Which records, by facets, and which part of their list.
#[derive(Clone, Debug, Default)]
pub struct FacetQuery {
    /// All must hold; of none there is no list.
    pub facets: Vec<String>,
    /// Recorded at this moment or later.
    pub after: Option<Timestamp>,
    /// Recorded before this moment.
    pub before: Option<Timestamp>,
    /// Leaves before this one: the list as it was.
    pub as_of: Option<LeafKey>,
    /// The cursor, a leaf that was given already: only leaves below it, or, oldest first, only those above it.
    pub below: Option<LeafKey>,
    /// Records passed over.
    pub offset: u32,
    /// Most leaves.
    pub limit: u32,
    /// The other way round when false.
    pub newest_first: bool,
}

/// A page of leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FacetPage {
    /// In the order asked for.
    pub leaves: Vec<LeafKey>,
    /// More may follow, even after an empty page: the search was ended early.
    pub has_more: bool,
    /// With `has_more`, the cursor of the next page.
    pub next: Option<LeafKey>,
    /// The offset of the next page: what the search, when it was ended early, had not passed over yet. Else 0.
    pub offset: u32,
}
