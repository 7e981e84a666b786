//! Erasures beside one another, and beside what is made of runs: each comes to its end, and none disturbs what it does
//! not touch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ledger::{EraseError, Ledger, SubmitError, Tenant};

use crate::bed::{Span, TestLedger, run, step, step_of, system};
use crate::erasure::{asked, check_erased, erase};
use crate::erasure_attacks::{erase_before, growing, started};

/// A month, after which system records are archived, in milliseconds.
const MONTH: i64 = 31 * 24 * 3_600 * 1_000;

/// A ledger in which no run is small enough to be planned for on the sequencer's thread.
fn all_large() -> TestLedger {
    TestLedger::new().reopen_with(|options| options.planned_there.records_max = 0)
}

/// Whether anything reads by that method from the `read`th time on.
fn read_again(bed: &TestLedger, method: &'static str, read: u32) -> Arc<AtomicBool> {
    let again = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&again);
    bed.fault
        .before(method, read, move || seen.store(true, Ordering::Relaxed));
    again
}

/// Archives what is due before the next read by that method.
fn retain_before(bed: &TestLedger, method: &'static str) {
    let (ledger, at): (Ledger, _) = (bed.ledger.clone(), bed.later(MONTH));
    bed.fault
        .before(method, 1, move || assert_eq!(ledger.retain(at).unwrap(), 1));
}

/// Runs of one span each, which is their root and has ended.
fn of_spans(bed: &TestLedger, tenant: &Arc<Tenant>, runs: &[(u8, &str)]) {
    for &(trace, run_id) in runs {
        let span = Span {
            trace,
            run_id: Some(run_id.into()),
            ..Span::default()
        };
        bed.one(tenant, span.draft());
    }
}

#[test]
fn of_many_erasures_from_one_large_run_at_once_each_is_done() {
    let bed = all_large();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let steps = bed.all(&tenant, (0..8).map(|index| step("r", index)).collect());
    // While one is written all others could read.
    bed.fault.slow_appends(Duration::from_millis(20));
    std::thread::scope(|scope| {
        for step in &steps {
            let (bed, tenant) = (&bed, &tenant);
            scope.spawn(move || erase(bed, tenant, step).unwrap());
        }
    });
    check_erased(&bed, 8);
}

#[test]
fn what_goes_elsewhere_does_not_make_an_erasure_begin_anew() {
    let bed = all_large();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let step = bed.one(&tenant, step("r", 0));
    bed.one(&tenant, system("is archived meanwhile"));
    retain_before(&bed, "run_records");
    let again = read_again(&bed, "run_records", 2);
    erase(&bed, &tenant, &step).unwrap();
    assert!(!again.load(Ordering::Relaxed));
}

#[test]
fn what_is_archived_while_it_is_to_be_erased_is_told_as_archived() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.one(&tenant, system("is archived meanwhile"));
    // When its body was read, holds over it are counted.
    retain_before(&bed, "facet_count");
    assert!(matches!(erase(&bed, &tenant, &placed), Err(EraseError::Archived)));
}

#[test]
fn a_run_of_many_bytes_that_keeps_changing_is_not_read_on_the_writers_thread() {
    let bed = TestLedger::new().reopen_with(|options| options.planned_there.bytes_max = 10_000);
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("few"), run("many")]);
    let few = bed.one(&tenant, step("few", 0));
    let many = step_of("many", 0, |step| {
        step.step.outcome_data = Some(format!("\"{}\"", "x".repeat(10_000)).into_bytes());
    });
    let many = bed.one(&tenant, many);
    growing(&bed, &tenant, "many", [1, 2, 3]);
    let again = read_again(&bed, "run_records", 4);
    match erase(&bed, &tenant, &many) {
        Err(EraseError::Submit(SubmitError::Unknown(reason))) => {
            assert!(reason.contains("keeps changing"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!again.load(Ordering::Relaxed), "three plans, and none there");
    erase(&bed, &tenant, &many).unwrap();
    assert!(again.load(Ordering::Relaxed));
    // One of few bytes is read there.
    growing(&bed, &tenant, "few", [1, 2, 3]);
    let there = read_again(&bed, "run_records", 4);
    erase(&bed, &tenant, &few).unwrap();
    assert!(there.load(Ordering::Relaxed));
    check_erased(&bed, 2);
}

#[test]
fn an_erasure_from_one_run_throws_back_the_end_of_that_one_alone() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let record = bed.one(&tenant, system("of no run"));
    of_spans(&bed, &tenant, &[(1, "a"), (2, "b"), (3, "c")]);
    let erased_from = started(&bed, &tenant, "b");
    let due = bed.later(60_000);
    erase_before(&bed, &tenant, &erased_from, "run_records");
    erase_before(&bed, &tenant, &record, "run_records");
    assert_eq!(bed.ledger.settle_due(due).unwrap(), 2);
    let settled = |run_id| bed.run_row(&tenant, run_id).state.settled;
    assert_eq!(["a", "b", "c"].map(settled), [true, false, true]);
    assert_eq!(bed.ledger.settle_due(bed.later(60_000)).unwrap(), 1);
    // Of seals too: each run is read twice, and before the last is begun, something goes from the first.
    let erased = asked(&started(&bed, &tenant, "a"));
    let (ledger, of, at) = (bed.ledger.clone(), Arc::clone(&tenant), bed.now());
    bed.fault.before("run_records", 5, move || {
        drop(ledger.erase(&of, &erased, at).unwrap());
    });
    assert_eq!(bed.ledger.seal_due(bed.later(60_000)), 2);
    assert_eq!(bed.ledger.seal_due(bed.later(60_000)), 1);
    // With the plan of a run that had ended goes its end.
    check_erased(&bed, 4);
}

#[test]
fn what_is_archived_throws_back_no_end() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("is archived meanwhile"));
    of_spans(&bed, &tenant, &[(1, "a"), (2, "b")]);
    retain_before(&bed, "run_records");
    assert_eq!(bed.ledger.settle_due(bed.later(60_000)).unwrap(), 2);
    let erased = asked(&started(&bed, &tenant, "a"));
    bed.ledger.erase(&tenant, &erased, bed.now()).unwrap();
}
