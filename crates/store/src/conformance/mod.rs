//! The claims that every backend is held to, each on a fresh store.
//!
//! A backend is right when [`claims`] say so. A claim that does not hold panics.
//!
//! Out of scope: what only one backend has (files, pragmas, triggers); see its own tests.
#![allow(clippy::unwrap_used)] // a claim that does not hold panics, and that is its answer

macro_rules! claims {
    ($($(#[$doc:meta])* $name:ident($store:ident) $body:block)*) => {
        /// Every claim of this file.
        pub(super) const CLAIMS: &[Claim] = &[$((stringify!($name), $name)),*];
        $($(#[$doc])* fn $name($store: &dyn $crate::Store) $body)*
    };
}

mod facets;
mod ledgers;
mod rows;
mod runs;

use evidence::record::RunStartedFacts;
use evidence::{
    Actor, ActorType, Declared, ExecutionStatus, Header, Identity, Kind, NanoCents, Origin, RecordId,
    RunState, SourceDomain, Timestamp, TraceStatus,
};
use tlog::Frontier;

use crate::{
    Batch, BodyRow, FacetQuery, FacetRow, Head, LeafBlock, LeafKey, LedgerRow, NodeRow, RunKey, RunQuery,
    RunRecordRow, RunRow, Store, codec,
};

/// A claim and its name.
pub type Claim = (&'static str, fn(&dyn Store));

/// Every claim.
pub fn claims() -> impl Iterator<Item = &'static Claim> {
    [ledgers::CLAIMS, runs::CLAIMS, facets::CLAIMS, rows::CLAIMS]
        .into_iter()
        .flatten()
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

fn ledger(ledger_no: u32, tenant_no: u32, epoch: u32) -> LedgerRow {
    LedgerRow {
        ledger_no,
        tenant_no,
        tenant_id: format!("t{tenant_no}"),
        epoch,
        origin: format!("log.example/t{tenant_no}/{epoch}"),
        vkey: format!("key {ledger_no}"),
    }
}

/// A ledger that grows by batches.
struct Grower {
    ledger_no: u32,
    frontier: Frontier,
}

impl Grower {
    /// Of a ledger of the tenant with the same number.
    fn new(store: &dyn Store, ledger_no: u32) -> Self {
        store.ledger_create(&ledger(ledger_no, ledger_no, 0)).unwrap();
        Self {
            ledger_no,
            frontier: Frontier::new(),
        }
    }

    fn head(&self) -> Head {
        Head {
            size: self.frontier.size(),
            root: self.frontier.root(),
        }
    }

    fn size(&self) -> u64 {
        self.frontier.size().as_u64()
    }

    fn key(&self, index: u64) -> LeafKey {
        LeafKey::new(self.ledger_no, index)
    }

    fn run(&self, ordinal: u64) -> RunKey {
        RunKey::new(self.ledger_no, ordinal)
    }

    /// The next leaves, one block, a body each.
    fn batch(&mut self, count: u32) -> Batch {
        let ledger_no = self.ledger_no;
        self.batch_of(count, |index| format!("leaf {index} of {ledger_no}").into_bytes())
    }

    /// The next leaves, with headers that say when they were recorded.
    fn batch_at(&mut self, count: u32, recorded_at: impl Fn(u64) -> i64) -> Batch {
        self.batch_of(count, |index| {
            let at = at(recorded_at(index));
            let header = Header {
                id: RecordId::new(at, tlog::LeafIndex::new(index), 0).unwrap(),
                tenant_id: "t".into(),
                kind: Kind::SystemRecord,
                run: None,
                trace_id: None,
                correlation_id: None,
                actor: Actor {
                    kind: ActorType::System,
                    id: None,
                },
                occurred_at: at,
                recorded_at: at,
                source_domain: SourceDomain::System,
                source_component: "test".into(),
                origin: Origin::System,
                commitment: [0; 32],
            };
            let mut leaf = Vec::new();
            header.encode(&mut leaf);
            leaf
        })
    }

    fn batch_of(&mut self, count: u32, leaf: impl Fn(u64) -> Vec<u8>) -> Batch {
        let mut batch = Batch::new(self.ledger_no, self.ledger_no, self.head());
        let (first, mut entries) = (self.size(), Vec::new());
        for _ in 0..count {
            let leaf = leaf(self.size());
            assert!(codec::push_leaf(&mut entries, &leaf));
            batch.bodies.push(BodyRow {
                leaf: self.key(self.size()),
                salt: [3; 32],
                body: codec::pack(&leaf),
            });
            let nodes = &mut batch.nodes;
            self.frontier
                .push_with(tlog::leaf_hash(&leaf), |level, index, hash| {
                    if level.is_multiple_of(8) {
                        nodes.push(NodeRow {
                            level: level / 8,
                            index,
                            hash,
                        });
                    }
                });
        }
        let root = self.frontier.root();
        batch.blocks.push(LeafBlock {
            first,
            count,
            root,
            leaves: codec::pack_block(&entries),
        });
        batch
    }

    fn grow(&mut self, store: &dyn Store, count: u32) {
        let batch = self.batch(count);
        store.batch_append(&[batch]).unwrap();
    }
}

fn facet_row(facet: &str, leaf: LeafKey) -> FacetRow {
    FacetRow {
        facet: facet.into(),
        leaf,
    }
}

/// A list of one facet, newest first.
fn one(facet: &str) -> FacetQuery {
    FacetQuery {
        facets: vec![facet.into()],
        limit: 10,
        newest_first: true,
        ..FacetQuery::default()
    }
}

/// Leaf indexes of tenant 1.
fn leaves(store: &dyn Store, query: &FacetQuery) -> Vec<u64> {
    store
        .facet_find(1, query)
        .unwrap()
        .leaves
        .iter()
        .map(|leaf| leaf.leaf_index())
        .collect()
}

/// Ledger 1, whose leaf `i` has each facet `every=d` whose `d` divides `i`.
fn with_facets(store: &dyn Store, count: u32) -> Grower {
    let mut grower = Grower::new(store, 1);
    for _ in 0..2 {
        let first = grower.size();
        let mut batch = grower.batch(count / 2);
        for index in first..grower.size() {
            for every in [1, 2, 3, 7].into_iter().filter(|every| index % every == 0) {
                batch
                    .facets
                    .push(facet_row(&format!("every={every}"), grower.key(index)));
            }
        }
        store.batch_append(&[batch]).unwrap();
    }
    grower
}

fn state(run_id: &str, created: i64) -> RunState {
    let facts = RunStartedFacts {
        run_id: run_id.into(),
        trace_id: format!("trace_{run_id}"),
        correlation_id: None,
        agent_id: None,
        parent_run_id: None,
        source: "SDK".into(),
        is_synthetic: false,
        seed: 42,
        plan_hash: "plan".into(),
        started_at: at(created),
        otlp: false,
    };
    RunState::start(&facts, at(created))
}

/// A state with every column set to something of its own.
fn full_state(run_id: &str) -> RunState {
    RunState {
        correlation_id: Some("c".into()),
        agent_id: Some("a".into()),
        parent_run_id: Some("p".into()),
        source: "SYNTHETIC".into(),
        is_synthetic: true,
        seed: -7,
        otlp: true,
        started_at: at(-1),
        status: TraceStatus::Failed,
        execution_status: ExecutionStatus::Timeout,
        completed_at: Some(at(5)),
        provider: Some("openai".into()),
        model: Some("m".into()),
        input_tokens: 1,
        output_tokens: 2,
        cost: NanoCents::new(i64::MAX),
        total_steps: u32::MAX,
        success_count: 4,
        failure_count: 5,
        duration_micros: -6,
        root_hash: Some([9; 32]),
        late_count: 7,
        record_count: 8,
        last_recorded_at: at(99),
        first_inference_at: Some(at(3)),
        declared: Declared::from_bits(31),
        settled: true,
        ..state(run_id, 10)
    }
}

fn record(run: RunKey, run_seq: u64, leaf: LeafKey) -> RunRecordRow {
    let identity = (run_seq > 0).then(|| Identity::step(u32::try_from(run_seq).unwrap()));
    let step_index = (run_seq > 1).then(|| u32::try_from(run_seq).unwrap());
    let kind = if run_seq == 0 {
        Kind::RunStarted
    } else {
        Kind::TraceStep
    };
    RunRecordRow {
        run,
        run_seq,
        leaf,
        kind,
        identity,
        step_index,
        occurred_at: at(100),
    }
}

/// One ledger with runs of differing columns: created at 0, 10, 20 …
fn with_runs(store: &dyn Store, states: Vec<RunState>) -> Grower {
    let mut grower = Grower::new(store, 1);
    let mut batch = grower.batch(u32::try_from(states.len()).unwrap());
    for (ordinal, state) in (0..).zip(states) {
        batch.runs.push(RunRow {
            key: grower.run(ordinal),
            started_leaf: grower.key(ordinal),
            state,
        });
    }
    store.batch_append(&[batch]).unwrap();
    grower
}

fn query() -> RunQuery {
    RunQuery {
        tenant_no: 1,
        limit: 100,
        ..RunQuery::default()
    }
}

fn ids(store: &dyn Store, query: &RunQuery) -> Vec<String> {
    store
        .runs_list(query)
        .unwrap()
        .rows
        .into_iter()
        .map(|row| row.state.run_id)
        .collect()
}

/// The tree of the first leaves of ledger 1, held in memory.
fn memory(size: u64) -> tlog::MemoryTree {
    let mut tree = tlog::MemoryTree::new();
    for index in 0..size {
        tree.push(tlog::leaf_hash(format!("leaf {index} of 1").as_bytes()));
    }
    tree
}
