//! Keeps ledgers and their projections: one trait, its backends, one list of
//! claims that every backend is held to.
//!
//! In scope: rows, how they are packed, transactions, schema and migrations.
//! Out of scope: what records mean (evidence), in which order they come and
//! whether they may (ledger). No SQL leaves this crate and no transaction handle:
//! one method is one transaction.
//!
//! Methods block; callers on an async runtime call them from blocking threads.
//!
//! Start at [`Store`].

pub mod codec;
pub mod conformance;
mod fault;
mod keys;
pub mod once;
pub mod once_conformance;
pub mod redis;
mod rows;
pub mod sqlite;

use std::ops::ControlFlow;

use evidence::{Finding, Identity};
use tlog::{Hash, TreeSize};

pub use fault::{Fault, FaultStore, Hold};
pub use keys::{LeafKey, OWNERS_MAX, RunKey};
pub use rows::{
    Batch, BatchKnown, BatchQuery, BodyRef, BodyRow, CheckpointRow, ErasedRow, FacetPage, FacetQuery,
    FacetRow, Head, LateRunRow, LeafBlock, LedgerRow, NodeRow, PrunedRow, RunPage, RunQuery, RunRecordRow,
    RunRow, TenantRow, TraceKey, TraceRow,
};

/// Most seeks for one page or count of records that share several facets: near 0.1 s. Facets that hardly
/// meet could otherwise be followed through all of a tenant's records.
pub const FACET_SEEKS_MAX: u32 = 65_536;

/// Why a read or a small write failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot answer now; the same call may succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored cannot be understood.
    #[error("stored {place} is damaged: {reason}")]
    Damaged {
        /// Table and column.
        place: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// This program may not use this database: too new, not durable, not a database.
    #[error("{0}")]
    Refused(String),
}

/// Why a batch was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The ledger's head is another than expected: reload and place the batch anew.
    #[error("the head of ledger {0} moved")]
    HeadMoved(u32),
    /// Nothing was written, and nothing may be written until an operator has looked: the store refused to.
    #[error("the store refused to write: {0}")]
    Refused(String),
    /// Nothing was written, and the database is as it was: it may be tried again.
    #[error("nothing was written: {0}")]
    Unavailable(String),
    /// The commit may or may not have happened: re-read before anything else is written.
    #[error("the outcome of the commit is unknown: {0}")]
    Unknown(String),
}

/// A database of ledgers and their projections.
pub trait Store: Send + Sync + 'static {
    /// Every ledger, by number.
    fn ledgers_list(&self) -> Result<Vec<LedgerRow>, StoreError>;

    /// Adds a ledger. The same row again is a success.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when number, origin or (tenant, epoch) is taken by another.
    fn ledger_create(&self, row: &LedgerRow) -> Result<(), StoreError>;

    /// Every tenant, by number.
    fn tenants_list(&self) -> Result<Vec<TenantRow>, StoreError>;

    /// The head of a ledger: its last block's end and root; the empty tree without blocks.
    fn head_read(&self, ledger_no: u32) -> Result<Head, StoreError>;

    /// What is known of the runs, traces and identities that a batch is about.
    fn batch_lookup(&self, tenant_no: u32, query: &BatchQuery) -> Result<BatchKnown, StoreError>;

    /// Appends batches of any ledgers, all or none, durably: when this returns `Ok` they survive power loss.
    fn batch_append(&self, batches: &[Batch]) -> Result<(), AppendError>;

    /// Keeps signed checkpoints of any ledgers, by number, all or none, durably. The same again is a success.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when another note over the size of one is kept.
    fn checkpoints_append(&self, checkpoints: &[(u32, CheckpointRow)]) -> Result<(), StoreError>;

    /// The newest checkpoint.
    fn checkpoint_newest(&self, ledger_no: u32) -> Result<Option<CheckpointRow>, StoreError>;

    /// Checkpoints of at least that size, smallest first.
    fn checkpoints_read(
        &self,
        ledger_no: u32,
        from: TreeSize,
        limit: u32,
    ) -> Result<Vec<CheckpointRow>, StoreError>;

    /// Blocks from the one that holds leaf `first` on, at most `limit`.
    fn blocks_read(&self, ledger_no: u32, first: u64, limit: u32) -> Result<Vec<LeafBlock>, StoreError>;

    /// The given leaves as they were hashed, in their order; `None` where there is none. What is read and unpacked for
    /// one is some neighbours of it, and not its whole block.
    fn leaves_get(&self, leaves: &[LeafKey]) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// The index of a ledger's first leaf that was recorded at that moment or later; of none, the ledger's size.
    fn leaf_since(&self, ledger_no: u32, at: evidence::Timestamp) -> Result<u64, StoreError>;

    /// Node roots of a tile level from `first` on, in order without gap, at most `limit`.
    fn nodes_read(&self, ledger_no: u32, level: u8, first: u64, limit: u32) -> Result<Vec<Hash>, StoreError>;

    /// Shows the bodies of leaves `first..end` where they lie, ascending, until `visit` breaks off; erased ones
    /// are absent. It is one read: whoever looks long breaks off in between and comes again.
    fn bodies_visit(
        &self,
        ledger_no: u32,
        first: u64,
        end: u64,
        visit: &mut dyn FnMut(BodyRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Bodies of leaves `first..end`, ascending; erased ones are absent.
    fn bodies_read(&self, ledger_no: u32, first: u64, end: u64) -> Result<Vec<BodyRow>, StoreError> {
        let mut bodies = Vec::new();
        self.bodies_visit(ledger_no, first, end, &mut |body| {
            bodies.push(body.to_row());
            ControlFlow::Continue(())
        })?;
        Ok(bodies)
    }

    /// Bodies of the given leaves, in their order; erased ones are absent.
    fn bodies_get(&self, leaves: &[LeafKey]) -> Result<Vec<BodyRow>, StoreError> {
        Ok(self.bodies_page(leaves, usize::MAX)?.0)
    }

    /// The same of the first of these leaves: as many as come to that many bytes as stored, and the one that passes
    /// it. And how many leaves were looked at, at least one of those given.
    fn bodies_page(&self, leaves: &[LeafKey], bytes_max: usize) -> Result<(Vec<BodyRow>, usize), StoreError>;

    /// Which of the given leaves have a body, in their order; none is read for it.
    fn bodies_there(&self, leaves: &[LeafKey]) -> Result<Vec<LeafKey>, StoreError>;

    /// Why the bodies of these leaves are not there, in their order. Of a leaf whose body is there it says nothing
    /// that means anything.
    fn bodies_gone(&self, leaves: &[LeafKey]) -> Result<Vec<Gone>, StoreError>;

    /// A run by its id.
    fn run_find(&self, tenant_no: u32, run_id: &str) -> Result<Option<RunRow>, StoreError>;

    /// A run by one of its traces.
    fn run_find_by_trace(&self, tenant_no: u32, trace: &TraceKey) -> Result<Option<RunRow>, StoreError>;

    /// Records of a run from `from_seq` on, in order, at most `limit`.
    fn run_records(&self, run: RunKey, from_seq: u64, limit: u32) -> Result<Vec<RunRecordRow>, StoreError>;

    /// Records of a run that say what it ran in (`evidence.environment`), in order, at most `limit`. No other is read.
    fn run_environments(&self, run: RunKey, limit: u32) -> Result<Vec<RunRecordRow>, StoreError>;

    /// The traces of a run, in the order of their ids, at most `limit`.
    fn run_traces(&self, run: RunKey, limit: u32) -> Result<Vec<TraceKey>, StoreError>;

    /// A record of a run by its identity.
    fn run_record_find(&self, run: RunKey, identity: &Identity) -> Result<Option<RunRecordRow>, StoreError>;

    /// Runs, newest first, filtered and paged.
    fn runs_list(&self, query: &RunQuery) -> Result<RunPage, StoreError>;

    /// How many runs a query finds, counted up to `max` (the page fields do not matter).
    fn runs_count(&self, query: &RunQuery, max: u32) -> Result<u32, StoreError>;

    /// How many runs a tenant has whose first leaf is before `as_of`, exactly.
    fn runs_total(&self, tenant_no: u32, as_of: Option<LeafKey>) -> Result<u64, StoreError>;

    /// Runs, by key from `from` on: for rebuilds and verification.
    fn runs_read(&self, from: RunKey, limit: u32) -> Result<Vec<RunRow>, StoreError>;

    /// Runs whose trace has ended but is not settled, silent since before `ended_before`; and runs
    /// still running, silent since before `running_before`. At most `limit`, of those that began first.
    fn runs_due(
        &self,
        ended_before: evidence::Timestamp,
        running_before: evidence::Timestamp,
        limit: u32,
    ) -> Result<Vec<RunRow>, StoreError>;

    /// Records that have all facets of a query, page by page.
    ///
    /// Cost follows the page, not the tenant: one seek a row for a single facet, and for several at most
    /// [`FACET_SEEKS_MAX`] seeks a page, after which it ends early and says where to go on.
    fn facet_find(&self, tenant_no: u32, query: &FacetQuery) -> Result<FacetPage, StoreError>;

    /// Rows of facets of a tenant, in their order after `after`: for verification.
    fn facets_read(
        &self,
        tenant_no: u32,
        after: Option<&FacetRow>,
        limit: u32,
    ) -> Result<Vec<FacetRow>, StoreError>;

    /// How many records a query finds (its page does not matter), and whether that is exact.
    ///
    /// A single facet is counted exactly whatever its size, from ordinals. Several are counted up to `max`, and
    /// for [`FACET_SEEKS_MAX`] seeks.
    fn facet_count(&self, tenant_no: u32, query: &FacetQuery, max: u32) -> Result<(u64, bool), StoreError>;

    /// Looks at what verification of records cannot see: the database's own structure, schema, triggers, dictionaries.
    ///
    /// `only_ledger` leaves out the structure of what is projected.
    fn self_check(&self, only_ledger: bool) -> Result<Vec<Finding>, StoreError>;

    /// Whether the body of a leaf is in a stretch that was archived and pruned.
    fn is_pruned(&self, leaf: LeafKey) -> Result<bool, StoreError>;

    /// The heads of a tenant's ledgers and, unless only those are wanted, the rows of its projections at one moment.
    fn snapshot(&self, tenant_no: u32, only_ledger: bool) -> Result<Snapshot, StoreError>;

    /// Runs by their keys, in that order: each by itself, so that one that cannot be read hides no other.
    fn runs_get(&self, keys: &[RunKey]) -> Result<Vec<Result<Option<RunRow>, StoreError>>, StoreError>;

    /// A run by its key.
    fn run_read(&self, run: RunKey) -> Result<Option<RunRow>, StoreError> {
        self.runs_get(&[run])?.pop().unwrap_or(Ok(None))
    }

    /// A run and all its record rows at one moment.
    fn run_snapshot(&self, run: RunKey) -> Result<Option<(RunRow, Vec<RunRecordRow>)>, StoreError>;

    /// Which of these rows are not there, or say something else: places and details, ascending by place in the lists.
    fn rows_missing(&self, expected: &ExpectedRows) -> Result<Vec<RowMissing>, StoreError>;

    /// Keys of run_records rows of a tenant, in key order after `after`: run, run_seq and leaf.
    fn run_record_keys(
        &self,
        tenant_no: u32,
        after: Option<(RunKey, u64)>,
        limit: u32,
    ) -> Result<Vec<(RunKey, u64, LeafKey)>, StoreError>;

    /// Empties all projections and writes them anew from `batches` (only their projected rows are used), in one transaction.
    fn projections_replace(
        &self,
        batches: &mut dyn Iterator<Item = Result<Batch, StoreError>>,
    ) -> Result<(), StoreError>;

    /// Whether a write failed in a way after which nothing may be written any more.
    fn is_stopped(&self) -> bool;

    /// Tidies up at a clean stop: what stands in logs goes into the files proper. Nothing depends on it.
    fn tidy(&self);

    /// Takes out of files and logs what erased rows left behind, after a batch that erased something.
    ///
    /// # Errors
    /// A reader keeps some of it for now. It is tried again at the next erasure, opening or clean stop.
    fn scrub(&self) -> Result<Scrubbed, StoreError>;

    /// Bytes on disk, everything included.
    fn disk_bytes(&self) -> u64;
}

/// How thoroughly what erased rows left behind is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// The database was written anew from what it holds.
    Rewritten,
    /// The rows were overwritten where they stood. The database is too large to be rewritten at once: copies that
    /// it made of a row when it moved rows from page to page may stand in unused space until it uses that.
    Overwritten,
}

/// Why a body is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gone {
    /// A record says who erased it, and why.
    Erased,
    /// It went into an archive, and a record says into which.
    Archived,
    /// No record says so: the database is damaged, and verification finds it.
    Missing,
}

impl Gone {
    /// The word that stands where the body said something.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Erased => "erased",
            Self::Archived => "archived",
            Self::Missing => "missing",
        }
    }
}

/// A tenant's ledgers and projections at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Number and head of each ledger.
    pub heads: Vec<(u32, Head)>,
    /// Of each ledger, leaf index of a body at or beyond the head, if there is one.
    pub bodies_beyond: Vec<(u32, u64)>,
    /// Of each ledger, nodes stored.
    pub nodes: Vec<(u32, u64)>,
    /// Rows of the tenant in each projection.
    pub rows: ProjectionCounts,
}

/// Rows of a tenant in each projection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the tables' names
pub struct ProjectionCounts {
    pub runs: u64,
    pub run_records: u64,
    pub traces: u64,
    pub facets: u64,
    pub tenants: u64,
    pub pruned: u64,
}

/// Rows that leaves say must be there.
#[derive(Clone, Debug, Default)]
pub struct ExpectedRows {
    /// The tenant.
    pub tenant_no: u32,
    /// Of a run's records, by run and run_seq.
    pub run_records: Vec<RunRecordRow>,
    /// With the leaf that says so.
    pub traces: Vec<(TraceRow, LeafKey)>,
    /// Facets of records, ascending by leaf. Each row's ordinal must follow its predecessor's.
    pub facets: Vec<FacetRow>,
    /// Tenants.
    pub tenants: Vec<TenantRow>,
    /// Stretches that were pruned.
    pub pruned: Vec<PrunedRow>,
}

/// An expected row that is not there, or says something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowMissing {
    /// Table, and column when one disagrees.
    pub place: &'static str,
    /// The leaf that says so.
    pub leaf: LeafKey,
    /// What is there instead; empty: nothing.
    pub found: String,
}
