//! Projections as a whole: erased, expected, counted, replaced.

use evidence::{Kind, RunState, Timestamp};
use tlog::TreeSize;

use super::{
    Claim, Grower, at, facet_row, full_state, leaves, ledger, one, record, state, with_facets, with_runs,
};
use crate::{
    Batch, BodyRow, ErasedRow, ExpectedRows, FacetQuery, Gone, Head, LateRunRow, LeafKey, PrunedRow, RunKey,
    RunRecordRow, RunRow, Scrubbed, StoreError, TenantRow, TraceKey, TraceRow, codec,
};

claims! {
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
        // What stands there is said as people name it.
        let mut other = good.clone();
        other.traces[0].0.run = RunKey::new(1, 5);
        assert_eq!(store.rows_missing(&other).unwrap()[0].found, "run \"r\"");
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
