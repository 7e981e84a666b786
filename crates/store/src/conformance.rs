//! The claims that every backend is held to, each on a fresh store.
//!
//! A backend is right when [`CLAIMS`] say so. A claim that does not hold panics.
//!
//! Out of scope: what only one backend has (files, pragmas, triggers); see its own tests.
#![allow(clippy::unwrap_used)] // a claim that does not hold panics, and that is its answer

use std::ops::ControlFlow;

use evidence::record::RunStartedFacts;
use evidence::{
    Actor, ActorType, Declared, ExecutionStatus, Header, Identity, Kind, NanoCents, Origin, RecordId,
    RunState, SourceDomain, Timestamp, TraceStatus,
};
use tlog::{Frontier, TreeSize};

use crate::{
    AppendError, Batch, BatchQuery, BodyRow, CheckpointRow, ErasedRow, ExpectedRows, FACET_SEEKS_MAX,
    FacetPage, FacetQuery, FacetRow, Gone, Head, LateRunRow, LeafBlock, LeafKey, LedgerRow, NodeRow,
    PrunedRow, RunKey, RunQuery, RunRecordRow, RunRow, Scrubbed, Store, StoreError, TenantRow, TraceKey,
    TraceRow, codec,
};

/// A claim and its name.
pub type Claim = (&'static str, fn(&dyn Store));

macro_rules! claims {
    ($($(#[$doc:meta])* $name:ident($store:ident) $body:block)*) => {
        /// Every claim.
        pub const CLAIMS: &[Claim] = &[$((stringify!($name), $name)),*];
        $($(#[$doc])* fn $name($store: &dyn Store) $body)*
    };
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

claims! {
    a_fresh_store_is_empty(store) {
        assert_eq!(store.head_read(1).unwrap(), Head { size: TreeSize::new(0), root: tlog::empty_root() });
        assert!(store.ledgers_list().unwrap().is_empty() && store.tenants_list().unwrap().is_empty());
        assert_eq!(store.checkpoint_newest(1).unwrap(), None);
        assert!(store.blocks_read(1, 0, 10).unwrap().is_empty());
        assert!(store.nodes_read(1, 1, 0, 10).unwrap().is_empty());
        assert_eq!(store.run_find(1, "r").unwrap(), None);
        assert_eq!(store.runs_total(1, None).unwrap(), 0);
        assert!(store.runs_list(&query()).unwrap().rows.is_empty());
        assert!(store.self_check(false).unwrap().is_empty());
        assert!(!store.is_stopped());
        assert!(store.disk_bytes() > 0);
    }

    the_same_ledger_again_is_a_success_and_another_in_its_place_is_refused(store) {
        store.ledger_create(&ledger(1, 1, 0)).unwrap();
        store.ledger_create(&ledger(1, 1, 0)).unwrap();
        store.ledger_create(&ledger(3, 1, 1)).unwrap();
        let taken = [
            LedgerRow { vkey: "other".into(), ..ledger(1, 1, 0) },
            LedgerRow { ledger_no: 2, ..ledger(1, 1, 0) },
            LedgerRow { origin: "log.example/new".into(), ..ledger(2, 1, 1) },
            LedgerRow { origin: ledger(1, 1, 0).origin, ..ledger(2, 2, 0) },
        ];
        for row in taken {
            assert!(matches!(store.ledger_create(&row), Err(StoreError::Refused(_))), "{row:?}");
        }
        assert_eq!(store.ledgers_list().unwrap(), [ledger(1, 1, 0), ledger(3, 1, 1)]);
        assert!(!store.is_stopped(), "a refusal is no failure of the disk");
    }

    an_append_moves_the_head_to_the_end_of_its_last_block(store) {
        let mut grower = Grower::new(store, 1);
        for count in [1, 3, 256, 7] {
            grower.grow(store, count);
            assert_eq!(store.head_read(1).unwrap(), grower.head());
        }
        assert_eq!(store.head_read(2).unwrap().size.as_u64(), 0);
    }

    another_head_than_expected_is_refused_and_nothing_is_written(store) {
        let mut grower = Grower::new(store, 1);
        grower.grow(store, 2);
        let head = grower.head();
        let mut batch = grower.batch(2);
        for expected in [
            Head { size: TreeSize::new(0), root: tlog::empty_root() },
            Head { root: tlog::leaf_hash(b"other"), ..head },
            Head { size: TreeSize::new(3), ..head },
        ] {
            batch.expected = expected;
            assert!(matches!(store.batch_append(&[batch.clone()]), Err(AppendError::HeadMoved(1))));
            assert_eq!(store.head_read(1).unwrap(), head);
            assert_eq!(store.bodies_read(1, 0, 10).unwrap().len(), 2);
        }
        batch.expected = head;
        store.batch_append(&[batch.clone()]).unwrap();
        assert!(matches!(store.batch_append(&[batch]), Err(AppendError::HeadMoved(1))), "twice is once");
        assert!(!store.is_stopped());
    }

    batches_of_many_ledgers_are_all_or_none(store) {
        let (mut one, mut two) = (Grower::new(store, 1), Grower::new(store, 2));
        let (heads, mut batches) = ((one.head(), two.head()), vec![one.batch(3), two.batch(2)]);
        batches[1].expected.size = TreeSize::new(9);
        assert!(matches!(store.batch_append(&batches), Err(AppendError::HeadMoved(2))));
        assert_eq!((store.head_read(1).unwrap(), store.head_read(2).unwrap()), heads);
        assert!(store.bodies_read(1, 0, 9).unwrap().is_empty());
        batches[1].expected = heads.1;
        store.batch_append(&batches).unwrap();
        assert_eq!((store.head_read(1).unwrap(), store.head_read(2).unwrap()), (one.head(), two.head()));
        store.batch_append(&[]).unwrap();
    }

    blocks_read_back_from_the_one_that_holds_the_first_leaf(store) {
        let (mut grower, mut other) = (Grower::new(store, 1), Grower::new(store, 2));
        let counts = [3_u32, 1, 5, 2];
        for count in counts {
            grower.grow(store, count);
            other.grow(store, 1);
        }
        let firsts = |first, limit| -> Vec<u64> {
            store.blocks_read(1, first, limit).unwrap().iter().map(|block| block.first).collect()
        };
        assert_eq!(firsts(0, 10), [0, 3, 4, 9]);
        assert_eq!(firsts(2, 10), [0, 3, 4, 9]);
        assert_eq!(firsts(3, 2), [3, 4]);
        assert_eq!(firsts(6, 10), [4, 9]);
        assert_eq!(firsts(10, 1), [9]);
        assert!(firsts(11, 10).is_empty());
        let block = store.blocks_read(1, 4, 1).unwrap().remove(0);
        let leaves = codec::Leaves::unpack(&block.leaves, block.count).unwrap();
        assert_eq!(leaves.get(2), Some(b"leaf 6 of 1".as_slice()));
        assert_eq!(block.root, tlog::root_at(TreeSize::new(9), &memory(11)).unwrap());
    }

    bodies_read_back_by_range_and_by_leaf(store) {
        let (mut grower, mut other) = (Grower::new(store, 1), Grower::new(store, 2));
        grower.grow(store, 5);
        other.grow(store, 5);
        let places = |rows: Vec<BodyRow>| rows.iter().map(|row| (row.leaf.ledger_no(), row.leaf.leaf_index())).collect::<Vec<_>>();
        assert_eq!(places(store.bodies_read(1, 1, 4).unwrap()), [(1, 1), (1, 2), (1, 3)]);
        assert_eq!(places(store.bodies_read(1, 3, 99).unwrap()), [(1, 3), (1, 4)]);
        assert!(store.bodies_read(1, 2, 2).unwrap().is_empty());
        let asked = [LeafKey::new(2, 4), LeafKey::new(1, 0), LeafKey::new(1, 77), LeafKey::new(2, 1)];
        assert_eq!(places(store.bodies_get(&asked).unwrap()), [(2, 4), (1, 0), (2, 1)]);
        let there = store.bodies_there(&asked).unwrap();
        let leaves: Vec<LeafKey> = store.bodies_get(&asked).unwrap().iter().map(|row| row.leaf).collect();
        assert_eq!(there, leaves);
        let row = store.bodies_get(&asked[1..2]).unwrap().remove(0);
        assert_eq!((row.salt, codec::unpack(&row.body, 100).unwrap()), ([3; 32], b"leaf 0 of 1".to_vec()));
    }

    a_visit_of_bodies_ends_where_the_visitor_breaks_off(store) {
        let mut grower = Grower::new(store, 1);
        grower.grow(store, 5);
        let mut seen = Vec::new();
        store
            .bodies_visit(1, 1, 5, &mut |body| {
                seen.push(body.to_row());
                if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(seen, store.bodies_read(1, 1, 3).unwrap());
        // The reader that it used is free again.
        assert_eq!(store.bodies_read(1, 0, 5).unwrap().len(), 5);
    }

    nodes_read_back_in_order_without_gap(store) {
        let mut grower = Grower::new(store, 1);
        for _ in 0..5 {
            grower.grow(store, 200);
        }
        let nodes = store.nodes_read(1, 1, 0, 10).unwrap();
        assert_eq!(nodes.len(), 3, "of a thousand leaves");
        assert_eq!(store.nodes_read(1, 1, 1, 1).unwrap(), nodes[1..2]);
        assert!(store.nodes_read(1, 1, 3, 10).unwrap().is_empty());
        assert!(store.nodes_read(1, 2, 0, 10).unwrap().is_empty());
        assert_eq!(nodes[0], tlog::root_at(TreeSize::new(256), &memory(256)).unwrap());
        let mut gap = grower.batch(1);
        gap.nodes.push(NodeRow { level: 1, index: 9, hash: nodes[0] });
        store.batch_append(&[gap]).unwrap();
        assert_eq!(store.nodes_read(1, 1, 0, 10).unwrap().len(), 3, "what stands beyond a gap is not given");
    }

    checkpoints_are_kept_once_and_read_by_size(store) {
        let row = |size: u64, note: &str| CheckpointRow { size: TreeSize::new(size), note: note.into() };
        for (ledger_no, size) in [(1, 5), (1, 2), (2, 9), (1, 8)] {
            store.checkpoint_append(ledger_no, &row(size, "note")).unwrap();
            store.checkpoint_append(ledger_no, &row(size, "note")).unwrap();
        }
        assert!(matches!(store.checkpoint_append(1, &row(5, "other")), Err(StoreError::Refused(_))));
        assert!(!store.is_stopped());
        let sizes = |from, limit| -> Vec<u64> {
            let rows = store.checkpoints_read(1, TreeSize::new(from), limit).unwrap();
            rows.iter().map(|row| row.size.as_u64()).collect()
        };
        assert_eq!((sizes(0, 10), sizes(3, 10), sizes(5, 1), sizes(9, 10)), (vec![2, 5, 8], vec![5, 8], vec![5], vec![]));
        assert_eq!(store.checkpoint_newest(1).unwrap(), Some(row(8, "note")));
        assert_eq!(store.checkpoint_newest(2).unwrap(), Some(row(9, "note")));
    }

    a_run_reads_back_as_it_was_written(store) {
        let grower = with_runs(store, vec![state("r", 10), full_state("full")]);
        let full = RunRow { key: grower.run(1), started_leaf: grower.key(1), state: full_state("full") };
        assert_eq!(store.run_find(1, "full").unwrap(), Some(full.clone()));
        assert_eq!(store.run_read(grower.run(1)).unwrap(), Some(full.clone()));
        assert_eq!(store.runs_read(grower.run(1), 10).unwrap(), [full]);
        assert_eq!(store.run_find(2, "full").unwrap(), None);
        assert_eq!(store.run_find(1, "FULL").unwrap(), None);
        assert_eq!(store.run_read(grower.run(2)).unwrap(), None);
        let runs = store.runs_get(&[grower.run(2), grower.run(1), grower.run(0), grower.run(1)]).unwrap();
        let ids: Vec<_> = runs.into_iter().map(|run| run.unwrap().map(|row| row.state.run_id)).collect();
        assert_eq!(ids, [None, Some("full".into()), Some("r".into()), Some("full".into())]);
    }

    a_changed_run_takes_the_place_of_what_was_known(store) {
        let mut grower = with_runs(store, vec![state("r", 10)]);
        let first = state("r", 10);
        // What the first record said stays, whatever is given later.
        let changed = RunState { trace_id: first.trace_id.clone(), parent_run_id: None, ..full_state("r") };
        let kept = RunState {
            source: first.source, is_synthetic: false, seed: 42, otlp: false, created_at: first.created_at, ..changed.clone()
        };
        let mut batch = grower.batch(1);
        batch.runs.push(RunRow { key: grower.run(0), started_leaf: grower.key(0), state: kept.clone() });
        store.batch_append(&[batch]).unwrap();
        assert_eq!(store.run_find(1, "r").unwrap().unwrap().state, kept);
        assert_eq!(store.runs_total(1, None).unwrap(), 1);
        // What a record only adds to is taken over too, and alone.
        let more = RunState {
            correlation_id: Some("another".into()),
            started_at: first.created_at,
            completed_at: Some(first.created_at),
            input_tokens: 41,
            output_tokens: 42,
            cost: NanoCents::new(43),
            total_steps: 44,
            success_count: 45,
            failure_count: 46,
            duration_micros: 47,
            late_count: 48,
            record_count: 49,
            last_recorded_at: first.created_at,
            first_inference_at: Some(first.created_at),
            declared: Declared::from_bits(5),
            ..kept
        };
        let mut batch = grower.batch(1);
        batch.runs.push(RunRow { key: grower.run(0), started_leaf: grower.key(0), state: more.clone() });
        store.batch_append(&[batch]).unwrap();
        assert_eq!(store.run_find(1, "r").unwrap().unwrap().state, more);
    }

    runs_are_found_by_each_of_their_traces(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        let w3c = "0af7651916cd43dd8448eb211c80319c";
        let mut batch = grower.batch(1);
        for (trace, ordinal) in [("trace_r", 0), (w3c, 0), ("trace_s", 1), ("0AF7651916CD43DD8448EB211C80319C", 1)] {
            batch.traces.push(TraceRow { trace: TraceKey::parse(trace), run: grower.run(ordinal) });
        }
        batch.traces.sort_by(|a, b| a.trace.cmp(&b.trace));
        store.batch_append(&[batch]).unwrap();
        let find = |trace: &str| store.run_find_by_trace(1, &TraceKey::parse(trace)).unwrap().map(|row| row.state.run_id);
        assert_eq!((find("trace_r").as_deref(), find(w3c).as_deref()), (Some("r"), Some("r")));
        assert_eq!(find(&w3c.to_uppercase()).as_deref(), Some("s"), "another spelling is another trace");
        assert_eq!(find("trace_x"), None);
        assert_eq!(store.run_find_by_trace(2, &TraceKey::parse(w3c)).unwrap(), None);
        let of = |ordinal, limit| store.run_traces(grower.run(ordinal), limit).unwrap();
        assert_eq!(of(0, 9), [TraceKey::parse("trace_r"), TraceKey::parse(w3c)], "ids as they were, text first");
        assert_eq!(of(0, 1).len(), 1);
        assert_eq!(of(1, 9).len(), 2);
        assert!(of(2, 9).is_empty());
        assert_eq!(of(0, 9).iter().map(TraceKey::text).collect::<Vec<_>>(), ["trace_r", w3c]);
    }

    what_a_run_ran_in_is_found_wherever_it_stands_in_it(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        let mut batch = grower.batch(60);
        let environment = |ordinal: u64, seq, leaf| RunRecordRow {
            kind: Kind::EvidenceEnvironment,
            ..record(grower.run(ordinal), seq, leaf)
        };
        for seq in 1..30 {
            let (leaf, other) = (grower.key(1 + seq), grower.key(30 + seq));
            batch.run_records.push(if [20, 29].contains(&seq) {
                environment(0, seq, leaf)
            } else {
                record(grower.run(0), seq, leaf)
            });
            batch.run_records.push(record(grower.run(1), seq, other));
        }
        batch.run_records.sort_by_key(|row| (row.run, row.run_seq));
        store.batch_append(&[batch]).unwrap();
        let seqs = |ordinal, limit| {
            let rows = store.run_environments(grower.run(ordinal), limit).unwrap();
            rows.iter().map(|row| row.run_seq).collect::<Vec<_>>()
        };
        assert_eq!((seqs(0, 9), seqs(0, 1), seqs(1, 9)), (vec![20, 29], vec![20], vec![]));
    }

    records_of_a_run_read_back_in_order_and_by_identity(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        let mut batch = grower.batch(6);
        for ordinal in 0..2 {
            for seq in 0..3 {
                let leaf = grower.key(2 + ordinal * 3 + seq);
                batch.run_records.push(record(grower.run(ordinal), seq, leaf));
            }
        }
        store.batch_append(&[batch]).unwrap();
        let row = |seq| record(grower.run(1), seq, grower.key(5 + seq));
        assert_eq!(store.run_records(grower.run(1), 0, 10).unwrap(), [row(0), row(1), row(2)]);
        assert_eq!(store.run_records(grower.run(1), 1, 1).unwrap(), [row(1)]);
        assert_eq!(store.run_record_find(grower.run(1), &Identity::step(2)).unwrap(), Some(row(2)));
        assert_eq!(store.run_record_find(grower.run(1), &Identity::step(9)).unwrap(), None);
        let (run, records) = store.run_snapshot(grower.run(1)).unwrap().unwrap();
        assert_eq!((run.state.run_id.as_str(), records.len()), ("s", 3));
        assert_eq!(store.run_snapshot(grower.run(9)).unwrap(), None);
        let keys = store.run_record_keys(1, Some((grower.run(0), 1)), 3).unwrap();
        let expected = [(0, 2), (1, 0), (1, 1)].map(|(n, seq)| (grower.run(n), seq, grower.key(2 + n * 3 + seq)));
        assert_eq!(keys, expected);
        assert_eq!(store.run_record_keys(1, None, 100).unwrap().len(), 6);
        assert!(store.run_record_keys(2, None, 100).unwrap().is_empty());
    }

    one_identity_stands_once_in_a_run(store) {
        let mut grower = with_runs(store, vec![state("r", 0)]);
        let mut batch = grower.batch(2);
        let one = record(grower.run(0), 1, grower.key(1));
        batch.run_records = vec![one, RunRecordRow { run_seq: 2, leaf: grower.key(2), ..one }];
        let head = store.head_read(1).unwrap();
        assert!(matches!(store.batch_append(&[batch]), Err(AppendError::Refused(_))));
        assert_eq!(store.head_read(1).unwrap(), head);
        assert!(store.is_stopped(), "what the sequencer should have seen must not go on");
    }

    a_lookup_finds_what_a_batch_is_about_and_nothing_else(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        let (trace, unknown) = (TraceKey::parse("0af7651916cd43dd8448eb211c80319c"), TraceKey::Text("unknown".into()));
        let mut batch = grower.batch(1);
        batch.run_records.push(record(grower.run(0), 1, grower.key(2)));
        batch.traces.push(TraceRow { trace: trace.clone(), run: grower.run(0) });
        store.batch_append(&[batch]).unwrap();
        let identities = [Identity::step(1), Identity::step(8)];
        let query = BatchQuery {
            run_ids: vec!["r".into(), "s".into(), "unknown".into()],
            traces: vec![trace.clone(), unknown.clone()],
            by_run_id: identities.iter().map(|identity| ("r".to_owned(), *identity)).collect(),
            by_trace: identities.iter().flat_map(|i| [(trace.clone(), *i), (unknown.clone(), *i)]).collect(),
        };
        let known = store.batch_lookup(1, &query).unwrap();
        assert_eq!(known.runs.iter().map(|row| row.state.run_id.as_str()).collect::<Vec<_>>(), ["r", "s"], "each once");
        assert_eq!(known.traces, [TraceRow { trace: trace.clone(), run: grower.run(0) }]);
        let found = (grower.run(0), identities[0], grower.key(2));
        assert!(!known.records.is_empty() && known.records.iter().all(|record| *record == found));
        let other = store.batch_lookup(2, &query).unwrap();
        assert!(other.runs.is_empty() && other.traces.is_empty() && other.records.is_empty());
        let by_trace_alone = BatchQuery { traces: vec![trace], ..BatchQuery::default() };
        assert_eq!(store.batch_lookup(1, &by_trace_alone).unwrap().runs.len(), 1);
    }

    lists_are_newest_first_and_each_filter_filters(store) {
        let with = |run_id: &str, created, change: fn(&mut RunState)| {
            let mut state = state(run_id, created);
            change(&mut state);
            state
        };
        with_runs(store, vec![
            state("plain", 0),
            with("provider", 10, |s| s.provider = Some("openai".into())),
            with("model", 20, |s| s.model = Some("gpt".into())),
            with("status", 30, |s| s.status = TraceStatus::Failed),
            with("execution", 40, |s| s.execution_status = ExecutionStatus::Timeout),
            with("synthetic", 50, |s| s.is_synthetic = true),
            with("agent", 60, |s| s.agent_id = Some("planner".into())),
            with("root", 70, |s| s.root_hash = Some([1; 32])),
            with("plan", 80, |s| s.plan_hash = "other".into()),
            with("seed", 90, |s| s.seed = 7),
            with("unknown", 100, |s| (s.provider, s.model) = (Some("unknown".into()), Some("unknown".into()))),
        ]);
        let all = ["unknown", "seed", "plan", "root", "agent", "synthetic", "execution", "status", "model", "provider", "plain"];
        assert_eq!(ids(store, &query()), all);
        let filters: [(RunQuery, &[&str]); 13] = [
            (RunQuery { run_id: Some("plain".into()), ..query() }, &["plain"]),
            (RunQuery { provider: Some("openai".into()), ..query() }, &["provider"]),
            (RunQuery { model: Some("gpt".into()), ..query() }, &["model"]),
            (RunQuery { status: Some("failed".into()), ..query() }, &["status"]),
            (RunQuery { execution_status: Some("TIMEOUT".into()), ..query() }, &["execution"]),
            (RunQuery { is_synthetic: Some(true), ..query() }, &["synthetic"]),
            (RunQuery { agent_id: Some("planner".into()), ..query() }, &["agent"]),
            (RunQuery { root_hash: Some([1; 32]), ..query() }, &["root"]),
            (RunQuery { plan_hash: Some("other".into()), ..query() }, &["plan"]),
            (RunQuery { seed: Some(7), ..query() }, &["seed"]),
            (RunQuery { created_after: Some(at(20)), created_before: Some(at(40)), ..query() }, &["status", "model"]),
            (RunQuery { as_of: Some(LeafKey::new(1, 2)), ..query() }, &["provider", "plain"]),
            (RunQuery { tenant_no: 2, ..query() }, &[]),
        ];
        for (query, expected) in filters {
            assert_eq!(ids(store, &query), expected, "{query:?}");
            assert_eq!(store.runs_count(&query, 100).unwrap(), u32::try_from(expected.len()).unwrap());
        }
        let without = |query: &RunQuery| ids(store, query).len();
        assert_eq!(without(&RunQuery { provider: Some("unknown".into()), ..query() }), 10, "absent is shown as unknown");
        assert_eq!(without(&RunQuery { model: Some("unknown".into()), ..query() }), 10);
        assert_eq!(without(&RunQuery { seed: Some(42), ..query() }), 10);
        assert_eq!(without(&RunQuery { is_synthetic: Some(false), ..query() }), 10);
        assert_eq!(store.runs_count(&query(), 3).unwrap(), 3, "counted no further than asked");
    }

    pages_follow_each_other_without_gap_or_double(store) {
        // Some share their moment: the key tells them apart.
        with_runs(store, (0..23).map(|n| state(&format!("r{n}"), i64::from(n / 4))).collect());
        let all = ids(store, &query());
        for limit in [1, 2, 5, 23, 24] {
            let mut seen = Vec::new();
            let mut next = RunQuery { limit, ..query() };
            loop {
                let page = store.runs_list(&next).unwrap();
                assert!(page.rows.len() <= limit as usize);
                let Some(last) = page.rows.last() else { break };
                next.after = Some((last.state.created_at, last.key));
                seen.extend(page.rows.iter().map(|row| row.state.run_id.clone()));
                assert_eq!(page.has_more, seen.len() < all.len());
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(seen, all, "limit {limit}");
        }
        let offset = store.runs_list(&RunQuery { offset: 20, limit: 5, ..query() }).unwrap();
        assert_eq!(offset.rows.iter().map(|row| row.state.run_id.clone()).collect::<Vec<_>>(), all[20..]);
        assert!(!offset.has_more);
    }

    totals_are_exact_at_every_size(store) {
        let mut grower = with_runs(store, vec![state("a", 0), state("b", 0)]);
        grower.grow(store, 10);
        let mut batch = grower.batch(1);
        batch.runs.push(RunRow { key: grower.run(2), started_leaf: grower.key(12), state: state("c", 1) });
        store.batch_append(&[batch]).unwrap();
        assert_eq!(store.runs_total(1, None).unwrap(), 3);
        let totals: Vec<u64> =
            [0, 1, 2, 12, 13].iter().map(|&size| store.runs_total(1, Some(grower.key(size))).unwrap()).collect();
        assert_eq!(totals, [0, 1, 2, 2, 3]);
        assert_eq!(store.runs_total(2, Some(grower.key(9))).unwrap(), 0);
    }

    runs_are_due_when_they_were_silent_long_enough(store) {
        let with = |run_id: &str, status, settled, last| RunState { status, settled, last_recorded_at: at(last), ..state(run_id, 0) };
        use TraceStatus::{Completed, Failed, Running};
        with_runs(store, vec![
            with("running", Running, false, 10),
            with("ended", Completed, false, 30),
            with("failed", Failed, false, 20),
            with("settled", Completed, true, 1),
            with("young", Completed, false, 50),
            with("busy", Running, false, 40),
        ]);
        let due = |ended, running, limit| -> Vec<String> {
            store.runs_due(at(ended), at(running), limit).unwrap().into_iter().map(|row| row.state.run_id).collect()
        };
        assert_eq!(due(50, 40, 10), ["running", "failed", "ended"]);
        assert_eq!(due(51, 41, 10), ["running", "failed", "ended", "busy", "young"]);
        assert_eq!(due(51, 41, 2), ["running", "failed"]);
        assert!(due(20, 10, 10).is_empty(), "at the very moment is not before it");
    }

    a_facet_is_listed_both_ways_page_by_page(store) {
        let grower = with_facets(store, 60);
        let mut other = Grower::new(store, 2);
        let mut batch = other.batch(3);
        batch.facets.extend([facet_row("every=7", other.key(0)), facet_row("other", other.key(1))]);
        store.batch_append(&[batch]).unwrap();
        for newest_first in [true, false] {
            let mut all: Vec<u64> = (0..60).step_by(7).collect();
            if newest_first {
                all.reverse();
            }
            let query = FacetQuery { newest_first, ..one("every=7") };
            assert_eq!(leaves(store, &query), all);
            let (mut paged, mut below) = (Vec::new(), None);
            loop {
                let page = store.facet_find(1, &FacetQuery { limit: 4, below, ..query.clone() }).unwrap();
                paged.extend(page.leaves.iter().map(|leaf| leaf.leaf_index()));
                assert_eq!((page.has_more, page.offset), (page.next.is_some(), 0));
                below = page.next;
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(paged, all);
            for offset in 0..11 {
                let found = leaves(store, &FacetQuery { offset, limit: 3, ..query.clone() });
                assert_eq!(found, all.iter().skip(offset as usize).take(3).copied().collect::<Vec<_>>(), "{offset}");
            }
            let exact = store.facet_find(1, &FacetQuery { limit: 9, ..query.clone() }).unwrap();
            assert!(!exact.has_more && exact.leaves.len() == 9);
        }
        assert_eq!(leaves(store, &FacetQuery { below: Some(grower.key(14)), ..one("every=7") }), [7, 0]);
        assert_eq!(leaves(store, &FacetQuery { below: Some(grower.key(42)), newest_first: false, ..one("every=7") }), [49, 56]);
        for nothing in [one("other"), one("every"), FacetQuery { limit: 0, ..one("every=1") }, FacetQuery { facets: vec![], ..one("") }] {
            assert_eq!(store.facet_find(1, &nothing).unwrap(), FacetPage::default());
        }
        assert_eq!(store.facet_find(2, &one("every=7")).unwrap().leaves, [other.key(0)]);
    }

    facets_meet_where_all_of_them_are(store) {
        let grower = with_facets(store, 200);
        let query = |facets: &[&str]| FacetQuery {
            facets: facets.iter().map(|&facet| facet.to_owned()).collect(),
            ..one("")
        };
        for facets in [&["every=2", "every=3"][..], &["every=3", "every=2"], &["every=1", "every=2", "every=3"], &["every=3", "every=2", "every=3"]] {
            let query = query(facets);
            assert_eq!(leaves(store, &FacetQuery { limit: 3, ..query.clone() }), [198, 192, 186], "{facets:?}");
            assert_eq!(leaves(store, &FacetQuery { limit: 3, newest_first: false, ..query.clone() }), [0, 6, 12]);
            assert_eq!(leaves(store, &FacetQuery { limit: 2, offset: 30, ..query.clone() }), [18, 12]);
            assert_eq!(leaves(store, &FacetQuery { below: Some(grower.key(13)), ..query.clone() }), [12, 6, 0]);
            assert_eq!(leaves(store, &FacetQuery { as_of: Some(grower.key(12)), ..query.clone() }), [6, 0]);
            let page = store.facet_find(1, &FacetQuery { limit: 34, ..query.clone() }).unwrap();
            assert_eq!((page.leaves.len(), page.has_more, page.next), (34, false, None));
            let page = store.facet_find(1, &FacetQuery { limit: 33, ..query.clone() }).unwrap();
            assert_eq!((page.leaves.len(), page.has_more, page.next), (33, true, Some(grower.key(6))));
            assert_eq!(store.facet_count(1, &query, 34).unwrap(), (34, true));
            assert_eq!(store.facet_count(1, &query, 33).unwrap(), (33, false));
        }
        assert_eq!(leaves(store, &query(&["every=2", "every=5"])), [0; 0]);
        assert_eq!(store.facet_count(1, &query(&["every=2", "every=5"]), 9).unwrap(), (0, true));
    }

    what_is_erased_leaves_no_gap_and_its_run_adds_up_to_something_else(store) {
        let mut grower = with_facets(store, 60);
        let run = grower.run(0);
        let mut batch = grower.batch(1);
        batch.runs = vec![RunRow { key: run, started_leaf: grower.key(0), state: full_state("r") }];
        batch.run_records = vec![record(run, 1, grower.key(21))];
        store.batch_append(&[batch]).unwrap();
        let rows = store.snapshot(1, false).unwrap().rows;
        // Leaf 21 is in every=1, every=3 and every=7; its record says so no more.
        let mut batch = grower.batch(1);
        let refolded = RunRow {
            key: run,
            started_leaf: grower.key(0),
            state: RunState { source: String::new(), seed: 0, plan_hash: String::new(), ..state("r", 10) },
        };
        let kept = RunRecordRow { identity: None, step_index: None, ..record(run, 1, grower.key(21)) };
        batch.erased = vec![ErasedRow {
            leaf: grower.key(21),
            facets_gained: vec!["erased".into()],
            facets_lost: vec!["every=3".into(), "every=7".into()],
            run_record: Some(kept),
        }];
        batch.refolded = vec![refolded.clone()];
        store.batch_append(&[batch]).unwrap();
        assert!(store.bodies_get(&[grower.key(21)]).unwrap().is_empty());
        assert_eq!(store.bodies_get(&[grower.key(20), grower.key(22)]).unwrap().len(), 2);
        assert_eq!(leaves(store, &one("every=7")), [56, 49, 42, 35, 28, 14, 7, 0]);
        assert_eq!(store.facet_count(1, &one("every=7"), 0).unwrap(), (8, true));
        assert_eq!(leaves(store, &FacetQuery { offset: 4, limit: 3, ..one("every=7") }), [28, 14, 7]);
        assert_eq!(leaves(store, &one("erased")), [21]);
        let gone = store.bodies_gone(&[grower.key(21), grower.key(20)]).unwrap();
        assert_eq!(gone, [Gone::Erased, Gone::Missing]);
        assert_eq!(store.run_find(1, "r").unwrap().unwrap(), refolded);
        assert_eq!(store.run_records(run, 0, 10).unwrap(), [kept]);
        // Ordinals are those of a list in which the record never was.
        let left = [0, 7, 14, 28, 35, 42, 49, 56].map(|index| facet_row("every=7", grower.key(index)));
        let expected = ExpectedRows { tenant_no: 1, facets: left.to_vec(), ..ExpectedRows::default() };
        assert_eq!(store.rows_missing(&expected).unwrap(), []);
        let after = store.snapshot(1, false).unwrap().rows;
        assert_eq!((after.facets, after.runs), (rows.facets - 1, rows.runs));
        // One before it joins its list.
        let mut batch = grower.batch(1);
        batch.erased = vec![ErasedRow {
            leaf: grower.key(7),
            facets_gained: vec!["erased".into()],
            facets_lost: vec![],
            run_record: None,
        }];
        store.batch_append(&[batch]).unwrap();
        let both = vec![facet_row("erased", grower.key(7)), facet_row("erased", grower.key(21))];
        let expected = ExpectedRows { tenant_no: 1, facets: both, ..ExpectedRows::default() };
        assert_eq!(store.rows_missing(&expected).unwrap(), []);
        assert_eq!(store.scrub().unwrap(), Scrubbed::Rewritten);
        assert_eq!(store.self_check(false).unwrap(), []);
        assert_eq!(store.head_read(1).unwrap(), grower.head());
    }

    facets_that_never_meet_are_not_followed_for_ever(store) {
        let mut grower = Grower::new(store, 1);
        let mut left = FACET_SEEKS_MAX + 500;
        while left > 0 {
            let first = grower.size();
            let mut batch = grower.batch(left.min(8_192));
            left -= left.min(8_192);
            for index in first..grower.size() {
                batch.facets.push(facet_row(if index % 2 == 0 { "even" } else { "odd" }, grower.key(index)));
            }
            batch.facets.extend([facet_row("both", grower.key(first))]);
            store.batch_append(&[batch]).unwrap();
        }
        let mut query = FacetQuery { facets: vec!["even".into(), "odd".into()], offset: 1, ..one("") };
        assert_eq!(store.facet_count(1, &query, 10_000).unwrap(), (0, false));
        let page = store.facet_find(1, &query).unwrap();
        assert_eq!((page.leaves.len(), page.has_more, page.offset), (0, true, 1));
        (query.below, query.offset) = (page.next, page.offset);
        assert_eq!(store.facet_find(1, &query).unwrap(), FacetPage::default());
    }

    a_list_of_a_facet_is_as_it_was(store) {
        let grower = with_facets(store, 60);
        for size in [0, 1, 7, 8, 29, 30, 31, 60, 99] {
            let query = FacetQuery { as_of: Some(grower.key(size)), limit: 100, ..one("every=7") };
            let there = (0..size.min(60)).filter(|index| index % 7 == 0).count();
            assert_eq!(leaves(store, &query).len(), there, "{size}");
            assert_eq!(store.facet_count(1, &query, 0).unwrap(), (there as u64, true), "counted whatever the maximum");
        }
        assert_eq!(store.facet_count(1, &FacetQuery { offset: 3, below: Some(grower.key(7)), ..one("every=7") }, 9).unwrap(), (9, true));
        assert_eq!(store.facet_count(1, &one("every=8"), 9).unwrap(), (0, true));
        assert_eq!(store.facet_count(1, &FacetQuery::default(), 9).unwrap(), (0, true));
    }

    times_bound_a_list_in_every_epoch(store) {
        // Leaves recorded at 10, 10, 20, 20, …; the second epoch's clock begins before the first's ended.
        let mut keys = Vec::new();
        for (ledger_no, epoch, start) in [(1, 0, 10), (5, 1, 35)] {
            store.ledger_create(&ledger(ledger_no, 1, epoch)).unwrap();
            let mut grower = Grower { ledger_no, frontier: Frontier::new() };
            for count in [1, 3, 4] {
                let first = grower.size();
                let mut batch = grower.batch_at(count, |index| start + i64::try_from(index / 2).unwrap() * 10);
                (batch.tenant_no, batch.ledger_no) = (1, ledger_no);
                for index in first..grower.size() {
                    let facets = if index % 2 == 0 { &["all", "even"][..] } else { &["all"] };
                    batch.facets.extend(facets.iter().map(|facet| facet_row(facet, grower.key(index))));
                    keys.push((grower.key(index), start + i64::try_from(index / 2).unwrap() * 10, index));
                }
                store.batch_append(&[batch]).unwrap();
            }
        }
        for after in [None, Some(0), Some(10), Some(11), Some(30), Some(41), Some(65), Some(66)] {
            for before in [None, Some(10), Some(20), Some(35), Some(36), Some(60), Some(99)] {
                for newest_first in [true, false] {
                    let query = FacetQuery { after: after.map(at), before: before.map(at), newest_first, limit: 99, ..one("all") };
                    let mut inside: Vec<_> = keys.iter()
                        .filter(|(_, time, _)| after.is_none_or(|after| *time >= after) && before.is_none_or(|before| *time < before))
                        .collect();
                    if newest_first {
                        inside.reverse();
                    }
                    let expected: Vec<LeafKey> = inside.iter().map(|(key, ..)| *key).collect();
                    let page = store.facet_find(1, &query).unwrap();
                    assert_eq!(page.leaves, expected, "{after:?} {before:?}");
                    assert_eq!(store.facet_count(1, &query, 0).unwrap(), (expected.len() as u64, true));
                    for offset in 0..5 {
                        let page = store.facet_find(1, &FacetQuery { offset, limit: 3, ..query.clone() }).unwrap();
                        let rest: Vec<LeafKey> = expected.iter().copied().skip(offset as usize).take(3).collect();
                        assert_eq!(page.leaves, rest, "{after:?} {before:?} {offset}");
                    }
                    let even: Vec<LeafKey> = inside.iter().filter(|(_, _, index)| index % 2 == 0).map(|(key, ..)| *key).collect();
                    let both = FacetQuery { facets: vec!["all".into(), "even".into()], ..query };
                    assert_eq!(store.facet_find(1, &both).unwrap().leaves, even);
                    assert_eq!(store.facet_count(1, &both, 99).unwrap(), (even.len() as u64, true));
                }
            }
        }
        let as_of = FacetQuery { after: Some(at(30)), as_of: Some(LeafKey::new(5, 1)), ..one("all") };
        assert_eq!(store.facet_find(1, &as_of).unwrap().leaves, [(5, 0), (1, 7), (1, 6), (1, 5), (1, 4)].map(|(no, index)| LeafKey::new(no, index)));
    }

    a_batch_may_bring_a_facets_rows_in_any_company(store) {
        let mut grower = Grower::new(store, 1);
        let rows: Vec<FacetRow> = [("b", 0), ("a", 0), ("b", 1), ("a", 2), ("b", 2)].map(|(facet, index)| facet_row(facet, LeafKey::new(1, index))).into();
        let mut batch = grower.batch(3);
        batch.facets.clone_from(&rows);
        store.batch_append(&[batch]).unwrap();
        let expected = ExpectedRows { tenant_no: 1, facets: rows, ..ExpectedRows::default() };
        assert!(store.rows_missing(&expected).unwrap().is_empty());
        assert_eq!(store.facet_count(1, &one("b"), 9).unwrap(), (3, true));
        let mut ordered = expected.facets;
        ordered.sort();
        assert_eq!(store.facets_read(1, None, 99).unwrap(), ordered);
        assert_eq!(store.facets_read(1, Some(&ordered[1]), 2).unwrap(), ordered[2..4]);
        assert!(store.facets_read(2, None, 99).unwrap().is_empty());
    }

    expected_rows_are_there_and_each_other_column_is_told(store) {
        let mut grower = with_runs(store, vec![state("r", 0)]);
        let leaf = grower.key(1);
        let good = ExpectedRows {
            tenant_no: 1,
            run_records: (1..4).map(|seq| record(grower.run(0), seq, grower.key(seq))).collect(),
            traces: vec![(TraceRow { trace: TraceKey::Text("t".into()), run: grower.run(0) }, leaf)],
            facets: vec![facet_row("k=1", leaf), facet_row("k=2", leaf), facet_row("k=2", grower.key(2))],
            tenants: vec![TenantRow { tenant_no: 1, tenant_id: "t1".into(), leaf }],
            pruned: vec![PrunedRow { first: grower.key(1), last: grower.key(2), by: leaf }],
        };
        let mut batch = grower.batch(3);
        batch.run_records.clone_from(&good.run_records);
        batch.traces = good.traces.iter().map(|(row, _)| row.clone()).collect();
        batch.facets.clone_from(&good.facets);
        batch.tenants.clone_from(&good.tenants);
        batch.pruned.clone_from(&good.pruned);
        store.batch_append(&[batch]).unwrap();
        assert!(store.bodies_get(&[leaf, grower.key(2)]).unwrap().is_empty());
        assert_eq!(store.snapshot(1, false).unwrap().rows.pruned, 1);
        let pruned: Vec<bool> = (0..4).map(|index| store.is_pruned(grower.key(index)).unwrap()).collect();
        assert_eq!(pruned, [false, true, true, false]);
        let gone = store.bodies_gone(&[2, 3, 1].map(|index| grower.key(index))).unwrap();
        assert_eq!(gone, [Gone::Archived, Gone::Missing, Gone::Archived]);
        assert_eq!(store.tenants_list().unwrap(), good.tenants);
        assert!(store.rows_missing(&good).unwrap().is_empty());
        assert!(store.rows_missing(&ExpectedRows::default()).unwrap().is_empty());
        let changes: [(&str, fn(&mut ExpectedRows)); 16] = [
            ("pruned", |rows| rows.pruned[0].first = LeafKey::new(1, 3)),
            ("pruned", |rows| rows.pruned[0].last = LeafKey::new(1, 3)),
            ("pruned", |rows| rows.pruned[0].by = LeafKey::new(1, 3)),
            ("run_records", |rows| rows.run_records[1].run = RunKey::new(1, 5)),
            ("run_records", |rows| rows.run_records[2].run_seq = 9),
            ("run_records.leaf", |rows| rows.run_records[1].leaf = LeafKey::new(1, 7)),
            ("run_records.kind", |rows| rows.run_records[1].kind = Kind::RunCompleted),
            ("run_records.identity", |rows| rows.run_records[1].identity = None),
            ("run_records.step_index", |rows| rows.run_records[1].step_index = Some(70)),
            ("run_records.occurred_at", |rows| rows.run_records[1].occurred_at = Timestamp::UNIX_EPOCH),
            ("traces.run", |rows| rows.traces[0].0.run = RunKey::new(1, 5)),
            ("traces.run", |rows| rows.traces[0].0.trace = TraceKey::Text("u".into())),
            ("facets", |rows| rows.facets[0].facet = "k=3".into()),
            ("facets", |rows| rows.facets[0].leaf = LeafKey::new(1, 2)),
            ("tenants", |rows| rows.tenants[0].tenant_id = "other".into()),
            ("tenants", |rows| rows.tenants[0].leaf = LeafKey::new(0, 9)),
        ];
        for (place, change) in changes {
            let mut other = good.clone();
            change(&mut other);
            let missing = store.rows_missing(&other).unwrap();
            assert_eq!(missing.iter().map(|row| row.place).collect::<Vec<_>>(), [place]);
        }
    }

    a_snapshot_counts_what_one_tenant_has(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        store.ledger_create(&ledger(5, 1, 1)).unwrap();
        let mut other = Grower::new(store, 2);
        other.grow(store, 300);
        let mut batch = grower.batch(300);
        batch.facets.push(facet_row("kind=audit.event", grower.key(3)));
        batch.run_records.push(record(grower.run(0), 1, grower.key(4)));
        batch.traces.push(TraceRow { trace: TraceKey::Text("t".into()), run: grower.run(0) });
        batch.facets.push(facet_row("step.key=k", grower.key(4)));
        batch.bodies.push(BodyRow { leaf: grower.key(999), salt: [0; 32], body: codec::pack(b"beyond") });
        store.batch_append(&[batch]).unwrap();
        let snapshot = store.snapshot(1, false).unwrap();
        let empty = Head { size: TreeSize::new(0), root: tlog::empty_root() };
        assert_eq!(snapshot.heads, [(1, grower.head()), (5, empty)]);
        assert_eq!(snapshot.bodies_beyond, [(1, 999)]);
        assert_eq!(snapshot.nodes, [(1, 1), (5, 0)]);
        let rows = snapshot.rows;
        assert_eq!((rows.runs, rows.run_records, rows.traces, rows.facets, rows.tenants), (2, 1, 1, 2, 0));
    }

    projections_are_replaced_whole_or_not_at_all(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        let mut batch = grower.batch(1);
        batch.facets.push(facet_row("f", grower.key(2)));
        batch.traces.push(TraceRow { trace: TraceKey::Text("t".into()), run: grower.run(0) });
        store.batch_append(&[batch]).unwrap();
        let fresh = || {
            let mut batch = Batch::new(0, 1, Head { size: TreeSize::new(0), root: tlog::empty_root() });
            batch.runs.push(RunRow { key: grower.run(0), started_leaf: grower.key(0), state: full_state("new") });
            let mut late = Batch::new(0, 1, batch.expected);
            late.late_runs.push(LateRunRow { key: grower.run(0), record_count: 70, late_count: 60, last_recorded_at: at(50) });
            vec![Ok(batch), Ok(late)]
        };
        let mut failing = fresh();
        failing.push(Err(StoreError::Unavailable("half way".into())));
        assert!(store.projections_replace(&mut failing.into_iter()).is_err());
        assert_eq!(store.runs_total(1, None).unwrap(), 2);
        store.projections_replace(&mut fresh().into_iter()).unwrap();
        let state = RunState { record_count: 70, late_count: 60, last_recorded_at: at(50), ..full_state("new") };
        assert_eq!(store.run_find(1, "new").unwrap().unwrap().state, state);
        assert_eq!(store.run_find(1, "r").unwrap(), None);
        assert_eq!(store.run_find_by_trace(1, &TraceKey::Text("t".into())).unwrap(), None);
        assert!(leaves(store, &one("f")).is_empty());
        assert_eq!(store.head_read(1).unwrap(), grower.head(), "leaves stay");
        assert_eq!(store.bodies_read(1, 0, 99).unwrap().len(), 3);
    }

    readers_see_whole_commits_beside_a_writer(store) {
        let mut grower = Grower::new(store, 1);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while last < 60 {
                    let snapshot = store.snapshot(1, false).unwrap();
                    let size = snapshot.heads[0].1.size.as_u64();
                    assert!(size >= last && size.is_multiple_of(3), "{size} after {last}");
                    assert!(snapshot.bodies_beyond.is_empty());
                    last = size;
                }
            });
            for _ in 0..20 {
                grower.grow(store, 3);
            }
            reader.join().unwrap();
        });
    }
}

/// The tree of the first leaves of ledger 1, held in memory.
fn memory(size: u64) -> tlog::MemoryTree {
    let mut tree = tlog::MemoryTree::new();
    for index in 0..size {
        tree.push(tlog::leaf_hash(format!("leaf {index} of 1").as_bytes()));
    }
    tree
}
