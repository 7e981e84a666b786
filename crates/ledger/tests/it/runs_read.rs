//! What reads a run: folded up to a leaf, record by record, by when it was recorded.

use std::ops::ControlFlow;

use evidence::Header;
use ledger::{Record, RecordError, RunAt, run_at, step_places, step_places_at};
use store::{Fault, LeafKey};

use crate::bed::{Span, TestLedger, run, step, step_of, system};

#[test]
fn a_run_folded_up_to_a_leaf_is_the_row_that_stood_there_then() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let of = |span: u8, start: u64, parent: Option<u8>| Span {
        span,
        start,
        parent,
        end: start + 5,
        ..Span::default()
    };
    let spans = [
        of(3, 30, Some(9)),
        of(2, 20, Some(9)),
        of(9, 1, None),
        of(4, 40, Some(9)),
    ];
    let run_id = spans[0].run_id();
    // Size, row and order of the steps after each record.
    let mut then = Vec::new();
    let mut look = || {
        let row = bed.run_row(&tenant, &run_id);
        let places = step_places(bed.ledger.store(), &row).unwrap();
        then.push((bed.size(&tenant), row, places));
    };
    for span in &spans {
        bed.one(&tenant, span.draft());
        look();
        bed.one(&tenant, system("in between"));
    }
    let row = bed.run_row(&tenant, &run_id);
    let ledger_no = tenant.ledger().row.ledger_no;
    let at = |size: u64| run_at(bed.ledger.store(), &row, LeafKey::new(ledger_no, size)).unwrap();
    let (last, before) = then.split_last().unwrap();
    assert!(matches!(at(last.0), RunAt::Now));
    for (size, stood, places) in before {
        let RunAt::Then(state, traces) = at(*size) else {
            panic!("it has changed since {size}")
        };
        assert_eq!(*state, stood.state, "at {size}");
        assert_eq!(traces, [spans[0].trace_hex()]);
        let seen = step_places_at(bed.ledger.store(), &row, Some(LeafKey::new(ledger_no, *size))).unwrap();
        assert_eq!(&seen, places, "at {size}");
    }
    bed.check();
}

#[test]
fn what_a_run_of_few_but_large_records_was_is_not_folded_anew() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let large = |index: u32| {
        step_of("r", index, |step| {
            step.step.params = format!(r#"{{"text":"{}"}}"#, "x".repeat(8 * 1024 * 1024)).into_bytes();
        })
    };
    let mut sizes = Vec::new();
    for index in 0..4 {
        bed.one(&tenant, large(index));
        sizes.push(bed.size(&tenant));
    }
    bed.one(&tenant, step("r", 4));
    let row = bed.run_row(&tenant, "r");
    let at = |size: u64| {
        let as_of = LeafKey::new(tenant.ledger().row.ledger_no, size);
        run_at(bed.ledger.store(), &row, as_of).unwrap()
    };
    let RunAt::Then(state, _) = at(sizes[2]) else {
        panic!("24 MiB are folded")
    };
    assert_eq!(state.total_steps, 3);
    assert!(matches!(at(sizes[3]), RunAt::Long), "32 MiB and more are not");
    bed.check();
}

#[test]
fn records_are_read_one_by_one_in_their_order_until_the_reader_breaks_off() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    for index in 0..3 {
        bed.one(&tenant, step("r", index));
    }
    let ledger_no = tenant.ledger().row.ledger_no;
    let leaves = [3, 1, 2, 0].map(|index| LeafKey::new(ledger_no, index));
    let records = bed.ledger.records(&tenant);
    let whole = records.read(&leaves).unwrap();
    let mut seen = Vec::new();
    records
        .each(&leaves, |record| {
            seen.push((record.leaf, record.header, record.body));
            let last = seen.len() == 3;
            Ok::<_, RecordError>(if last {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
        .unwrap();
    let first: Vec<_> = whole
        .into_iter()
        .take(3)
        .map(|record| (record.leaf, record.header, record.body))
        .collect();
    assert_eq!(seen, first);
}

#[test]
fn bodies_of_records_that_nobody_wants_are_not_read_and_leaves_read_lately_are_not_read_again() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    for index in 0..3 {
        bed.one(&tenant, step("r", index));
    }
    let ledger_no = tenant.ledger().row.ledger_no;
    let leaves = [0, 1, 2, 3].map(|index| LeafKey::new(ledger_no, index));
    let records = bed.ledger.records(&tenant);
    let read = |wanted: &[u64]| {
        let mut seen = Vec::new();
        let is_wanted = |leaf: LeafKey, header: &Header<'_>| {
            assert_eq!(header.id.leaf_index().as_u64(), leaf.leaf_index());
            wanted.contains(&leaf.leaf_index())
        };
        let each = |record: Record| {
            assert!(record.body.bytes().is_some());
            assert_eq!(
                record.header().unwrap().id.leaf_index().as_u64(),
                record.leaf.leaf_index()
            );
            seen.push(record.leaf.leaf_index());
            Ok::<_, RecordError>(ControlFlow::Continue(()))
        };
        records.each_of(&leaves, is_wanted, each).map(|()| seen)
    };
    // One read for all leaves: a second would fail.
    bed.fault.before("leaves_get", 2, || panic!("read again"));
    bed.fault.arm(Fault::ReadBy("bodies_page"));
    assert!(read(&[]).unwrap().is_empty());
    assert_eq!(
        bed.fault.armed(),
        [Fault::ReadBy("bodies_page")],
        "no body was read"
    );
    assert!(read(&[2]).is_err());
    assert_eq!(read(&[3, 1]).unwrap(), [1, 3], "in the order of the leaves");
}

#[test]
fn leaves_are_found_by_when_they_were_recorded() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let mut recorded = Vec::new();
    for _ in 0..5 {
        recorded.push((bed.size(&tenant), bed.later(60_000)));
        bed.one(&tenant, system("a minute later"));
    }
    let records = bed.ledger.records(&tenant);
    for (leaf, at) in recorded {
        let since = |micros: i64| {
            records
                .recorded_since(at.checked_add_micros(micros).unwrap())
                .unwrap()
                .leaf_index()
        };
        // It was recorded a millisecond later.
        assert_eq!((since(0), since(1_000), since(1_001)), (leaf, leaf, leaf + 1));
    }
    let end = records.recorded_since(evidence::Timestamp::MAX).unwrap();
    assert_eq!(end.leaf_index(), bed.size(&tenant));
    assert_eq!(
        records
            .recorded_since(evidence::Timestamp::MIN)
            .unwrap()
            .leaf_index(),
        0
    );
}
