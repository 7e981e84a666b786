//! Ledgers: leaves, bodies, nodes, checkpoints.

use std::ops::ControlFlow;

use tlog::TreeSize;

use super::{Claim, Grower, at, ledger, memory, query, state};
use crate::{
    AppendError, BodyRow, CheckpointRow, Head, LeafKey, LedgerRow, NodeRow, RunRow, StoreError, codec,
};

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

    leaves_read_back_in_the_order_asked_for(store) {
        let (mut grower, mut other) = (Grower::new(store, 1), Grower::new(store, 2));
        for count in [3_u32, 200, 1] {
            grower.grow(store, count);
            other.grow(store, 2);
        }
        let asked = [(1, 203), (1, 0), (2, 5), (1, 66), (1, 67), (1, 202), (2, 6), (1, 204), (3, 0), (1, 3)];
        let found = store.leaves_get(&asked.map(|(ledger_no, index)| LeafKey::new(ledger_no, index))).unwrap();
        let expected = asked.map(|(ledger_no, index)| {
            let end = if ledger_no == 1 { 204 } else { 6 };
            (ledger_no < 3 && index < end).then(|| format!("leaf {index} of {ledger_no}").into_bytes())
        });
        assert_eq!(found, expected);
        assert!(store.leaves_get(&[]).unwrap().is_empty());
    }

    a_moment_leads_to_the_first_leaf_that_was_recorded_then_or_later(store) {
        // Recorded at 0, 0, 0, 0, 10, 10 …; a run begins with each tenth leaf, of the middle third.
        let mut grower = Grower::new(store, 1);
        let time = |index: u64| i64::try_from(index / 4).unwrap() * 10;
        let mut ordinal = 0;
        for count in [1_u32, 130, 99, 70] {
            let first = grower.size();
            let mut batch = grower.batch_at(count, time);
            for index in (first..grower.size()).filter(|index| index % 10 == 0 && (100..200).contains(index)) {
                batch.runs.push(RunRow { key: grower.run(ordinal), started_leaf: grower.key(index), state: state(&format!("r{index}"), time(index)) });
                ordinal += 1;
            }
            store.batch_append(&[batch]).unwrap();
        }
        for micros in -1..760 {
            let first = (0..300).find(|index| time(*index) >= micros).unwrap_or(300);
            assert_eq!(store.leaf_since(1, at(micros)).unwrap(), first, "{micros}");
        }
        assert_eq!(store.leaf_since(1, at(1_000)).unwrap(), 300);
        store.ledger_create(&ledger(5, 1, 1)).unwrap();
        assert_eq!(store.leaf_since(5, at(0)).unwrap(), 0, "of an empty ledger, whatever runs the one before has");
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

    a_page_of_bodies_ends_with_the_one_that_passes_its_bytes(store) {
        let mut grower = Grower::new(store, 1);
        grower.grow(store, 3);
        let leaves = [0, 77, 1, 2].map(|index| LeafKey::new(1, index));
        let all = store.bodies_get(&leaves).unwrap();
        let page = |leaves: &[LeafKey], bytes_max| store.bodies_page(leaves, bytes_max).unwrap();
        assert_eq!(page(&leaves, usize::MAX), (all.clone(), 4));
        assert_eq!(page(&leaves, all[0].body.len()), (all[..2].to_vec(), 3), "the second passes it");
        assert_eq!(page(&leaves, 0), (all[..1].to_vec(), 1), "one at least");
        assert_eq!(page(&leaves[1..2], 0), (Vec::new(), 1), "of which there is none");
        assert_eq!(page(&[], 0), (Vec::new(), 0));
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
            store.checkpoints_append(&[(ledger_no, row(size, "note"))]).unwrap();
            store.checkpoints_append(&[(ledger_no, row(size, "note"))]).unwrap();
        }
        let forked = [(2, row(10, "note")), (1, row(5, "other")), (1, row(9, "note"))];
        assert!(matches!(store.checkpoints_append(&forked), Err(StoreError::Refused(_))), "all or none");
        assert!(!store.is_stopped());
        let sizes = |from, limit| -> Vec<u64> {
            let rows = store.checkpoints_read(1, TreeSize::new(from), limit).unwrap();
            rows.iter().map(|row| row.size.as_u64()).collect()
        };
        assert_eq!((sizes(0, 10), sizes(3, 10), sizes(5, 1), sizes(9, 10)), (vec![2, 5, 8], vec![5, 8], vec![5], vec![]));
        assert_eq!(store.checkpoint_newest(1).unwrap(), Some(row(8, "note")));
        assert_eq!(store.checkpoint_newest(2).unwrap(), Some(row(9, "note")));
        store.checkpoints_append(&[(1, row(11, "note")), (2, row(9, "note")), (2, row(12, "note"))]).unwrap();
        assert_eq!(store.checkpoint_newest(1).unwrap(), Some(row(11, "note")));
        assert_eq!(store.checkpoint_newest(2).unwrap(), Some(row(12, "note")));
        store.checkpoints_append(&[]).unwrap();
    }
}
