//! Erasures that somebody works against: what ends meanwhile, what is there a thousand times, what cannot be written.

use std::sync::Arc;

use evidence::canonical::Value;
use evidence::record::{
    ERASED_RECORDS_MAX, Facts, GovernanceSignal, HoldScope, ProvenanceLog, SignalDecision,
};
use evidence::{Kind, Timestamp};
use ledger::{Draft, EraseAsked, EraseError, Placed, SubmitError, Tenant, provenance};

use crate::bed::{Span, TestLedger, run, step, system};
use crate::erasure::{asked, check_erased, enforced, erase};

/// The record that began a run.
pub fn started(bed: &TestLedger, tenant: &Arc<Tenant>, run_id: &str) -> Placed {
    let leaf = bed.run_row(tenant, run_id).started_leaf;
    let record = bed.ledger.records(tenant).read(&[leaf]).unwrap().remove(0);
    Placed {
        receipt: record.receipt().unwrap(),
        fresh: false,
    }
}

/// The newest end of a run, as it stands there.
pub fn end(bed: &TestLedger, tenant: &Arc<Tenant>) -> serde_json::Value {
    let ended = bed.ledger.records(tenant).newest("ended".into(), None);
    serde_json::from_slice(ended.unwrap().unwrap().body.bytes().unwrap()).unwrap()
}

/// Erases it before the next read by that method.
pub fn erase_before(bed: &TestLedger, tenant: &Arc<Tenant>, placed: &Placed, method: &'static str) {
    let (ledger, of, what, at) = (bed.ledger.clone(), Arc::clone(tenant), asked(placed), bed.now());
    bed.fault.before(method, 1, move || {
        ledger.erase(&of, &what, at).unwrap();
    });
}

/// Another step comes each time that a plan begins to read the run.
pub fn growing(bed: &TestLedger, tenant: &Arc<Tenant>, run_id: &'static str, reads: [u32; 3]) {
    for (index, read) in (50_000..).zip(reads) {
        let (ledger, of, at) = (bed.ledger.clone(), Arc::clone(tenant), bed.now());
        bed.fault.before("run_records", read, move || {
            let outcomes = ledger.submit_blocking(&of, vec![step(run_id, index)], at, false);
            assert!(outcomes.unwrap()[0].is_ok());
        });
    }
}

#[test]
fn a_run_that_ends_while_its_plan_is_erased_keeps_no_hash_of_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    bed.all(&tenant, (0..64).map(|index| step("r", index)).collect());
    let started = asked(&started(&bed, &tenant, "r"));
    // Who ends the run has read its start, with the plan, and 63 of its steps; the last is still to come.
    let (ledger, of, at) = (bed.ledger.clone(), Arc::clone(&tenant), bed.now());
    bed.fault.before("bodies_page", 2, move || {
        ledger.erase(&of, &started, at).unwrap();
    });
    bed.complete(&tenant, "r");
    assert_eq!(bed.run_row(&tenant, "r").state.root_hash, None);
    let end = end(&bed, &tenant);
    assert_eq!(
        (&end["plan_hash"], &end["root_hash"]),
        (&"".into(), &serde_json::Value::Null)
    );
    check_erased(&bed, 1);
}

#[test]
fn a_plan_that_is_erased_while_its_run_is_settled_leaves_no_hash_of_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let span = Span {
        run_id: Some("r".into()),
        ..Span::default()
    };
    bed.one(&tenant, span.draft());
    let started = started(&bed, &tenant, "r");
    let due = bed.later(60_000);
    // The row, with the plan's hash, is read before.
    erase_before(&bed, &tenant, &started, "run_records");
    assert_eq!(bed.ledger.settle_due(due).unwrap(), 0, "it moved");
    assert_eq!(bed.ledger.settle_due(bed.later(60_000)).unwrap(), 1);
    let end = end(&bed, &tenant);
    assert_eq!(
        (&end["plan_hash"], &end["root_hash"]),
        (&"".into(), &serde_json::Value::Null)
    );
    check_erased(&bed, 1);
}

#[test]
fn a_signal_is_not_erased_to_better_a_verdict() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let at = bed.now();
    let signal = GovernanceSignal {
        signal_id: "s".into(),
        signal_type: "change_freeze".into(),
        scope: "search".into(),
        decision: SignalDecision::Block,
        at,
    };
    let body = signal.encode();
    let draft = Draft::alone(
        Kind::GovernanceSignal,
        Facts::Signal(signal),
        &body,
        at,
        &mut tenant.salts(),
    );
    let placed = bed.one(&tenant, draft.unwrap());
    assert!(matches!(
        erase(&bed, &tenant, &placed),
        Err(EraseError::Kept("governance.signal"))
    ));
    bed.check();
}

#[test]
fn who_wrote_the_same_a_thousand_times_keeps_nobody_from_erasing_it_alone() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let logs = ERASED_RECORDS_MAX + 5;
    let mut salts = tenant.salts();
    let drafts = (0..logs)
        .map(|_| {
            let log = ProvenanceLog::new(Value::from("personal"), Value::from("out"));
            let (draft, _) =
                provenance::draft(log, Some(("r", "trace_r")), Timestamp::MIN, &mut salts).unwrap();
            draft
        })
        .collect();
    let placed = bed.all(&tenant, drafts);
    match erase(&bed, &tenant, &placed[0]) {
        Err(EraseError::Rule(rule)) => assert_eq!(rule.field, "only"),
        other => panic!("{other:?}"),
    }
    let only = EraseAsked {
        only: true,
        ..asked(&placed[0])
    };
    let erasure = bed.ledger.erase(&tenant, &only, bed.now()).unwrap();
    let named = erasure
        .remains
        .iter()
        .filter(|left| left.record.is_some())
        .count();
    assert!((1_000..logs).contains(&named), "{named}");
    assert!(
        erasure
            .remains
            .iter()
            .any(|left| left.record.is_none() && left.what.starts_with("more records of the run"))
    );
    check_erased(&bed, 1);
}

#[test]
fn a_hold_on_a_run_keeps_what_names_it_in_its_header_alone() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let span = Span {
        run_id: Some("r".into()),
        ..Span::default()
    };
    bed.all(&tenant, vec![span.draft(), run("posted")]);
    // As reads find what is of a run: by its id or by a trace of its.
    let named = |trace: Option<&str>, correlation: Option<&str>| Draft {
        trace_id: trace.map(Into::into),
        correlation_id: correlation.map(Into::into),
        ..system("of a run")
    };
    let trace = span.trace_hex();
    let kept = bed.all(
        &tenant,
        vec![
            named(Some(&trace), None),
            named(None, Some("r")),
            named(None, Some(&trace)),
            named(None, Some("posted")),
            named(None, Some("trace_posted")),
        ],
    );
    let other = bed.all(&tenant, vec![system("of nothing"), named(None, Some("another"))]);
    let who = ("key:counsel", "case 9");
    for run_id in ["r", "posted"] {
        bed.ledger
            .hold_place(&tenant, run_id, HoldScope::Run(run_id.into()), who, bed.now())
            .unwrap();
    }
    for placed in &kept {
        assert!(matches!(
            erase(&bed, &tenant, placed),
            Err(EraseError::Held { what: "run", .. })
        ));
    }
    // Nor are they archived: of all two are pruned.
    let month = 31 * 24 * 3_600 * 1_000;
    assert_eq!(bed.ledger.retain(bed.later(month)).unwrap(), 2);
    let gone = |placed: &Placed| {
        let record = bed.ledger.records(&tenant).get(placed.receipt.record_id).unwrap();
        record.unwrap().body.bytes().is_none()
    };
    assert!(!kept.iter().any(gone));
    assert!(other.iter().all(gone));
}

#[test]
fn a_hold_on_a_run_that_came_while_the_erasure_was_planned_keeps_what_names_its_trace() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let span = Span {
        run_id: Some("r".into()),
        ..Span::default()
    };
    let named = Draft {
        trace_id: Some(span.trace_hex().into()),
        ..system("of a trace that is of no run yet")
    };
    let placed = bed.one(&tenant, named);
    let (ledger, of, at) = (bed.ledger.clone(), Arc::clone(&tenant), bed.now());
    // What it names was read, and no hold is found.
    bed.fault.before("facet_count", 1, move || {
        let outcomes = ledger.submit_blocking(&of, vec![span.draft()], at, false);
        assert!(outcomes.unwrap()[0].is_ok());
        let over = HoldScope::Run("r".into());
        ledger
            .hold_place(&of, "h", over, ("key:counsel", "case 9"), at)
            .unwrap();
    });
    assert!(matches!(
        erase(&bed, &tenant, &placed),
        Err(EraseError::Held { what: "run", .. })
    ));
    bed.check();
}

#[test]
fn an_erasure_that_cannot_be_marked_erases_nothing_and_stops_nothing() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.one(&tenant, system("personal"));
    let mark = bed.path().join("deponent.db-scrub");
    std::fs::create_dir(&mark).unwrap();
    match erase(&bed, &tenant, &placed) {
        Err(EraseError::Submit(SubmitError::Unknown(reason))) => {
            assert!(reason.starts_with("nothing was written"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    bed.one(&tenant, system("life goes on"));
    bed.check();
    std::fs::remove_dir(&mark).unwrap();
    erase(&bed, &tenant, &placed).unwrap();
    check_erased(&bed, 1);
}

#[test]
fn what_a_replay_gave_out_goes_with_the_log_of_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let log = ProvenanceLog::new(
        Value::from("asked"),
        Value::object([("approved", Value::Bool(true))]),
    );
    let (draft, _) =
        provenance::draft(log, Some(("r", "trace_r")), Timestamp::MIN, &mut tenant.salts()).unwrap();
    let logged = bed.one(&tenant, draft);
    bed.one(&tenant, enforced(7, r#"{"approved":true}"#));
    let erasure = erase(&bed, &tenant, &logged).unwrap();
    let kinds: Vec<Kind> = erasure.erased.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(kinds, [Kind::ProvenanceLog, Kind::ReplayEnforced]);
    check_erased(&bed, 2);
}

#[test]
fn a_large_run_that_keeps_changing_holds_nobody_up_and_a_small_one_is_erased_from_all_the_same() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("small"), run("large")]);
    let small = bed.one(&tenant, step("small", 0));
    growing(&bed, &tenant, "small", [1, 2, 3]);
    erase(&bed, &tenant, &small).unwrap();
    let large = bed.one(&tenant, step("large", 0));
    for first in (1..10_100).step_by(1_010) {
        bed.all(
            &tenant,
            (first..first + 1_010).map(|index| step("large", index)).collect(),
        );
    }
    // Each time it is read in two pages.
    growing(&bed, &tenant, "large", [1, 3, 5]);
    match erase(&bed, &tenant, &large) {
        Err(EraseError::Submit(SubmitError::Unknown(reason))) => {
            assert!(reason.contains("keeps changing"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    erase(&bed, &tenant, &large).unwrap();
    check_erased(&bed, 2);
}
