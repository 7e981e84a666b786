//! Facets: lists, meetings, times.

use tlog::Frontier;

use super::{Claim, Grower, at, facet_row, leaves, ledger, one, with_facets};
use crate::{ExpectedRows, FACET_SEEKS_MAX, FacetPage, FacetQuery, FacetRow, LeafKey};

claims! {
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
}
