//! The life of a run: started, stepped, ended once; what comes late; what falls silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use evidence::record::{BODY_BYTES_MAX, RunCompleted};
use evidence::redact::{RedactionSettings, Redactor};
use evidence::{ExecutionStatus, TraceStatus, hex_string, sha256};
use ledger::{Draft, Rejection, RunSeen, SealedBody, SettleError, step_places, step_places_at};
use store::{Fault, LeafKey, codec};

use crate::bed::{Span, TestLedger, aborted, completed, run, step, step_of, system, tamper, time};
use crate::erasure::erase;

const DAY_MILLIS: i64 = 24 * 3_600 * 1_000;

/// The step hash of SPEC 4.2, from a literal.
fn step_hash(index: u32, skill: &str) -> String {
    let jcs = format!(
        r#"{{"outcome_category":"SUCCESS","outcome_code":null,"outcome_data":{{"ok":true}},"params":{{"q":1}},"skill_name":"{skill}","status":"success","step_index":{index}}}"#
    );
    hex_string(&sha256(jcs.as_bytes()))
}

/// The root hash of SPEC 4.2, from a literal, of a run without plan and with the default seed.
fn root_hash(steps: &[String]) -> [u8; 32] {
    let plan = hex_string(&sha256(b"[]"));
    let steps: Vec<String> = steps.iter().map(|hash| format!("\"{hash}\"")).collect();
    sha256(
        format!(
            r#"{{"plan_hash":"{plan}","seed":42,"steps":[{}]}}"#,
            steps.join(",")
        )
        .as_bytes(),
    )
}

#[test]
fn a_completed_runs_root_hash_is_that_of_the_specification() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    // Sent out of order; the order is that of the index.
    let named = |index: u32, name: &str| {
        let name = name.to_owned();
        step_of("r", index, move |step| step.step.skill_name = name)
    };
    bed.all(
        &tenant,
        vec![run("r"), named(2, "c"), named(0, "a"), named(1, "b")],
    );
    bed.complete(&tenant, "r");
    let expected = root_hash(&[step_hash(0, "a"), step_hash(1, "b"), step_hash(2, "c")]);
    let state = bed.run_row(&tenant, "r").state;
    assert_eq!(state.root_hash, Some(expected));
    assert_eq!(
        (state.status, state.settled, state.record_count),
        (TraceStatus::Completed, true, 6)
    );
    bed.complete(&tenant, "r");
    bed.one(&tenant, run("empty"));
    bed.complete(&tenant, "empty");
    assert_eq!(
        bed.run_row(&tenant, "empty").state.root_hash,
        Some(root_hash(&[]))
    );
    bed.check();
}

/// Bodies of any length may stand behind a batch of short drafts.
#[test]
fn what_was_sent_before_is_read_one_body_at_a_time() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let steps = || (0..3).map(|index| step("r", index)).collect::<Vec<_>>();
    bed.one(&tenant, run("r"));
    bed.all(&tenant, steps());
    let third = Arc::new(AtomicBool::new(false));
    let read = Arc::clone(&third);
    bed.fault
        .before("bodies_page", 3, move || read.store(true, Ordering::Relaxed));
    assert!(bed.all(&tenant, steps()).iter().all(|placed| !placed.fresh));
    assert!(third.load(Ordering::Relaxed));
    bed.check();
}

/// Each request of spans brings the environment of its traces again.
#[test]
fn what_is_known_by_its_content_is_not_read_to_be_compared() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let environment = || Span::default().environment("shop");
    let first = bed.one(&tenant, environment());
    let read = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&read);
    bed.fault
        .before("bodies_page", 1, move || seen.store(true, Ordering::Relaxed));
    assert_eq!(bed.one(&tenant, environment()).receipt, first.receipt);
    assert!(!read.load(Ordering::Relaxed));
    bed.check();
}

#[test]
fn spans_stand_in_the_order_of_start_then_span_id_and_the_root_completes_the_run() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let span = |span: u8, start: u64| Span {
        span,
        start,
        parent: Some(9),
        ..Span::default()
    };
    let root = Span {
        span: 9,
        start: 1,
        end: 90,
        ..Span::default()
    };
    bed.all(
        &tenant,
        vec![
            span(3, 40).draft(),
            span(2, 20).draft(),
            span(1, 20).draft(),
            root.draft(),
        ],
    );
    let run_id = root.trace_hex();
    let before = bed.run_row(&tenant, &run_id).state;
    assert_eq!(
        (before.status, before.settled, before.root_hash),
        (TraceStatus::Completed, false, None)
    );
    assert_eq!(bed.ledger.settle_due(bed.later(29_000)).unwrap(), 0);
    assert_eq!(bed.ledger.settle_due(bed.later(2_000)).unwrap(), 1);
    assert_eq!(bed.ledger.settle_due(bed.later(60_000)).unwrap(), 0);
    let row = bed.run_row(&tenant, &run_id);
    let expected: Vec<String> = (0..4).map(|index| step_hash(index, "search")).collect();
    assert_eq!(row.state.root_hash, Some(root_hash(&expected)));
    let places = step_places(bed.ledger.store(), &row).unwrap();
    let mut spans = Vec::new();
    for place in &places {
        let record = bed.ledger.records(&tenant).read(&[place.leaf]).unwrap().remove(0);
        let body: serde_json::Value = serde_json::from_slice(record.body.bytes().unwrap()).unwrap();
        spans.push((
            place.step_index,
            body["otel"]["span_id"].as_str().unwrap()[..2].to_owned(),
        ));
    }
    assert_eq!(
        spans,
        [
            (0, "09".into()),
            (1, "01".into()),
            (2, "02".into()),
            (3, "03".into())
        ]
    );
    bed.check();
}

#[test]
fn an_erased_span_keeps_its_place_among_those_that_began_with_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let root = Span {
        span: 9,
        start: 1,
        end: 90,
        ..Span::default()
    };
    let together = |span: u8| Span {
        span,
        start: 20,
        parent: Some(9),
        ..Span::default()
    };
    // They come in another order than that of their ids.
    let placed = bed.all(
        &tenant,
        vec![
            together(4).draft(),
            together(2).draft(),
            together(3).draft(),
            together(1).draft(),
            root.draft(),
        ],
    );
    bed.ledger.settle_due(bed.later(31_000)).unwrap();
    let ledger_no = tenant.ledger().row.ledger_no;
    // Now, at the size that was, and before the last of them came.
    let sizes = [bed.size(&tenant), placed[3].receipt.leaf_index];
    let places = || {
        let row = bed.run_row(&tenant, &root.trace_hex());
        let store = bed.ledger.store();
        let then =
            sizes.map(|size| step_places_at(store, &row, Some(LeafKey::new(ledger_no, size))).unwrap());
        (step_places(store, &row).unwrap(), then)
    };
    let before = places();
    let leaves: Vec<u64> = before.0.iter().map(|place| place.leaf.leaf_index()).collect();
    let in_order = [4, 3, 1, 2, 0].map(|of: usize| placed[of].receipt.leaf_index);
    assert_eq!(leaves, in_order);
    for erased in [2, 3, 0, 1] {
        erase(&bed, &tenant, &placed[erased]).unwrap();
        assert_eq!(places(), before, "without that of {erased}");
    }
    bed.ledger.rebuild().unwrap();
    assert_eq!(places(), before);
    bed.check();
    // Of several erasures that are said to be of it the first counts, as where runs are added up.
    let named = placed[2].receipt.record_id;
    tamper(
        bed.path(),
        &format!(
            "INSERT INTO facets SELECT tenant_no, 'erasure={named}', max(leaf), 1 FROM facets
             WHERE facet = 'kind=erasure.performed'"
        ),
    );
    assert_eq!(places(), before);
}

#[test]
fn which_of_several_roots_came_first_does_not_matter() {
    let root = |trace: u8, end: u64, failed: bool| Span {
        trace,
        end,
        failed,
        run_id: Some("r".into()),
        ..Span::default()
    };
    let [one, other] = [root(1, 20, false), root(2, 30, true)];
    for order in [[&one, &other], [&other, &one]] {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        for span in order {
            bed.one(&tenant, span.draft());
        }
        let ends = || {
            let state = bed.run_row(&tenant, "r").state;
            (state.status, state.execution_status, state.completed_at)
        };
        let end = time("2026-11-21T09:00:00.030Z");
        let failed = (TraceStatus::Failed, ExecutionStatus::Failed, Some(end));
        assert_eq!(ends(), failed);
        assert_eq!(bed.ledger.settle_due(bed.later(31_000)).unwrap(), 1);
        assert_eq!(ends(), failed);
        bed.one(&tenant, root(3, 40, false).draft());
        assert_eq!(ends(), failed, "what is settled stays so");
        bed.check();
    }
}

#[test]
fn spans_after_the_settled_end_are_late_and_totals_stay() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let root = Span {
        span: 9,
        start: 1,
        inference: true,
        ..Span::default()
    };
    bed.one(&tenant, root.draft());
    bed.ledger.settle_due(bed.later(31_000)).unwrap();
    let before = bed.run_row(&tenant, &root.trace_hex()).state;
    let late = Span {
        span: 1,
        start: 2,
        parent: Some(9),
        inference: true,
        ..Span::default()
    };
    assert!(bed.one(&tenant, late.draft()).fresh);
    let after = bed.run_row(&tenant, &root.trace_hex());
    assert_eq!(
        (after.state.late_count, after.state.record_count),
        (1, before.record_count + 1)
    );
    assert_eq!(
        (
            after.state.total_steps,
            after.state.input_tokens,
            after.state.root_hash,
            after.state.cost
        ),
        (
            before.total_steps,
            before.input_tokens,
            before.root_hash,
            before.cost
        )
    );
    let places = step_places(bed.ledger.store(), &after).unwrap();
    assert_eq!(
        places.iter().map(|place| place.late).collect::<Vec<_>>(),
        [false, true]
    );
    bed.check();
}

#[test]
fn a_span_before_the_settled_end_still_counts() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let root = Span {
        span: 9,
        start: 5,
        ..Span::default()
    };
    bed.one(&tenant, root.draft());
    bed.later(20_000);
    // Each record pushes the end out by the waiting time.
    bed.one(
        &tenant,
        Span {
            span: 1,
            start: 2,
            parent: Some(9),
            ..Span::default()
        }
        .draft(),
    );
    assert_eq!(bed.ledger.settle_due(bed.later(20_000)).unwrap(), 0);
    assert_eq!(bed.ledger.settle_due(bed.later(11_000)).unwrap(), 1);
    let state = bed.run_row(&tenant, &root.trace_hex()).state;
    assert_eq!((state.total_steps, state.late_count), (2, 0));
    bed.check();
}

#[test]
fn a_run_ends_once() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("c"), run("a"), step("a", 0), run("f")]);
    let first = bed.complete(&tenant, "c");
    assert_eq!(bed.complete(&tenant, "c").receipt, first.receipt);
    let failed = completed(RunCompleted {
        failed: true,
        ..RunCompleted::default()
    });
    let conflict = |outcome: Result<_, SettleError>| match outcome {
        Err(SettleError::Rejected(rejection @ (Rejection::Conflict(_) | Rejection::RunEnded))) => rejection,
        other => panic!("{other:?}"),
    };
    conflict(bed.end(&tenant, "c", &failed));
    conflict(bed.end(&tenant, "c", &aborted("too late")));
    assert_eq!(
        bed.submit(&tenant, vec![step("c", 5)]),
        vec![Err(Rejection::RunEnded)]
    );
    let first = bed.end(&tenant, "a", &aborted("stop")).unwrap();
    assert_eq!(
        bed.end(&tenant, "a", &aborted("stop")).unwrap().receipt,
        first.receipt
    );
    conflict(bed.end(&tenant, "a", &aborted("other")));
    conflict(bed.end(&tenant, "a", &completed(RunCompleted::default())));
    assert_eq!(
        bed.submit(&tenant, vec![step("a", 1)]),
        vec![Err(Rejection::RunEnded)]
    );
    // A step that was there already is still a success.
    assert!(!bed.one(&tenant, step("a", 0)).fresh);
    let timeout = RunCompleted {
        failed: true,
        termination_reason: Some("timeout".into()),
        ..RunCompleted::default()
    };
    bed.end(&tenant, "f", &completed(timeout)).unwrap();
    let status = |run_id: &str| bed.run_row(&tenant, run_id).state.execution_status;
    assert_eq!(
        (status("c"), status("a"), status("f")),
        (
            ExecutionStatus::Succeeded,
            ExecutionStatus::Aborted,
            ExecutionStatus::Timeout
        )
    );
    assert!(matches!(
        bed.end(&tenant, "nobody", &aborted("x")),
        Err(SettleError::RunUnknown)
    ));
    bed.check();
}

#[test]
fn an_end_whose_acknowledgement_was_lost_is_written_once() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    bed.fault.arm(Fault::AppendUnacknowledged);
    let first = bed.complete(&tenant, "r");
    assert_eq!(bed.complete(&tenant, "r").receipt, first.receipt);
    assert_eq!(bed.run_row(&tenant, "r").state.record_count, 4);
    bed.check();
}

#[test]
fn a_group_is_all_or_none() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    let mut moved = step("r", 1);
    moved.expect_run_seq = Some(RunSeen {
        run_seq: 7,
        erasures: 0,
    });
    let group = vec![moved, step("r", 2), system("x")];
    let outcomes = bed
        .ledger
        .submit_blocking(&tenant, group, bed.now(), true)
        .unwrap();
    assert_eq!(
        outcomes,
        [
            Err(Rejection::RunMoved),
            Err(Rejection::Group),
            Err(Rejection::Group)
        ]
    );
    assert_eq!(bed.size(&tenant), 2);
    let mut good = step("r", 1);
    good.expect_run_seq = Some(RunSeen {
        run_seq: 2,
        erasures: 0,
    });
    let group = vec![good, step("r", 2)];
    let outcomes = bed
        .ledger
        .submit_blocking(&tenant, group, bed.now(), true)
        .unwrap();
    assert!(outcomes.iter().all(Result::is_ok));
    bed.check();
}

/// The draft as it is under rules by which nothing of its kind is left.
fn without_step(draft: Draft) -> Draft {
    let settings = RedactionSettings {
        fields: vec!["step".into()],
        ..RedactionSettings::default()
    };
    let rules = Redactor::new(&settings).unwrap();
    let body = codec::unpack(&draft.body.packed, BODY_BYTES_MAX).unwrap();
    let body = SealedBody::seal_by(&rules, draft.kind, draft.body.salt, &body).unwrap();
    assert!(body.redacted);
    Draft { body, ..draft }
}

#[test]
fn a_group_of_which_a_later_record_cannot_be_written_leaves_nothing_on_record() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let submit = |group: Vec<Draft>| {
        bed.ledger
            .submit_blocking(&tenant, group, bed.now(), true)
            .unwrap()
    };
    let mut long = step("r", 1);
    long.correlation_id = Some("x".repeat(70_000).into());
    for (last, rejection) in [
        (without_step(step("r", 1)), Rejection::Redacted),
        (long, Rejection::LeafTooLarge),
    ] {
        let outcomes = submit(vec![run("r"), step("r", 0), last]);
        assert_eq!(outcomes, vec![Err(rejection); 3]);
        assert_eq!(bed.size(&tenant), 0);
        let found = bed.ledger.store().run_find(tenant.tenant_no, "r").unwrap();
        assert!(found.is_none());
    }
    // What is on record already answers as ever, whatever rules came since: nothing of it is written.
    let first = submit(vec![run("r"), step("r", 0), step("r", 1)]);
    assert!(first.iter().all(|outcome| outcome.as_ref().unwrap().fresh));
    let again = submit(vec![run("r"), step("r", 0), without_step(step("r", 1))]);
    for (first, again) in first.iter().zip(&again) {
        let (first, again) = (first.as_ref().unwrap(), again.as_ref().unwrap());
        assert_eq!((again.receipt, again.fresh), (first.receipt, false));
    }
    let known = submit(vec![without_step(step("r", 0)), step("r", 2)]);
    assert!(known.iter().all(Result::is_ok));
    assert_eq!(bed.size(&tenant), 4);
    // A record that stands alone is refused alone.
    let alone = bed.submit(&tenant, vec![step("r", 3), without_step(step("r", 4))]);
    assert!(alone[0].is_ok());
    assert_eq!(alone[1], Err(Rejection::Redacted));
    bed.check();
}

#[test]
fn a_run_that_fell_silent_is_aborted_and_one_that_speaks_is_not() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("silent"), step("silent", 0), run("loud")]);
    bed.later(DAY_MILLIS - 5_000);
    bed.one(&tenant, step("loud", 0));
    assert_eq!(bed.ledger.settle_due(bed.now()).unwrap(), 0);
    assert_eq!(bed.ledger.settle_due(bed.later(10_000)).unwrap(), 1);
    let state = bed.run_row(&tenant, "silent").state;
    assert_eq!((state.status, state.settled), (TraceStatus::Aborted, true));
    assert_eq!(state.root_hash, Some(root_hash(&[step_hash(0, "search")])));
    assert_eq!(bed.run_row(&tenant, "loud").state.status, TraceStatus::Running);
    bed.check();
}

#[test]
fn a_run_whose_root_comes_while_it_is_held_to_be_silent_is_settled_when_it_is_due() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let child = Span {
        span: 2,
        parent: Some(1),
        ..Span::default()
    };
    bed.one(&tenant, child.draft());
    let at = bed.later(DAY_MILLIS + 1_000);
    let (ledger, of) = (bed.ledger.clone(), Arc::clone(&tenant));
    // Its row is read before, its records are after.
    bed.fault.before("run_records", 1, move || {
        let root = vec![Span::default().draft()];
        ledger.submit_blocking(&of, root, at, false).unwrap();
    });
    assert_eq!(bed.ledger.settle_due(at).unwrap(), 0);
    assert_eq!(bed.ledger.settle_due(bed.later(60_000)).unwrap(), 1);
    let state = bed.run_row(&tenant, &child.run_id()).state;
    assert_eq!((state.status, state.settled), (TraceStatus::Completed, true));
    bed.check();
}

#[test]
fn runs_of_a_refused_ledger_do_not_keep_others_from_being_settled() {
    let bed = TestLedger::new();
    let (bad, good) = (bed.tenant("bad"), bed.tenant("good"));
    bed.all(&bad, (0..600).map(|n| run(&format!("r{n}"))).collect());
    bed.later(1_000);
    bed.all(&good, vec![run("g")]);
    let bed = bed.reopen_after(|folder| {
        let marks = folder.join("high-water.json");
        let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&marks).unwrap()).unwrap();
        file["ledgers"]["deponent.local/bad"]["tree_size"] = 10_000.into();
        std::fs::write(&marks, file.to_string()).unwrap();
    });
    let (bad, good) = (
        bed.ledger.tenant("bad").unwrap(),
        bed.ledger.tenant("good").unwrap(),
    );
    assert!(bad.ledger().refusal().is_some());
    assert_eq!(bed.ledger.settle_due(bed.later(DAY_MILLIS + 1_000)).unwrap(), 1);
    assert_eq!(bed.run_row(&good, "g").state.status, TraceStatus::Aborted);
}

#[test]
fn settling_many_runs_of_many_tenants_takes_few_commits() {
    let bed = TestLedger::new();
    let tenants: Vec<_> = (0..4).map(|n| bed.tenant(&format!("t{n}"))).collect();
    for n in 0..20 {
        for tenant in &tenants {
            bed.one(tenant, run(&format!("r{n}")));
        }
    }
    let before = bed.ledger.counts().commits;
    assert_eq!(bed.ledger.settle_due(bed.later(DAY_MILLIS + 1_000)).unwrap(), 80);
    let commits = bed.ledger.counts().commits - before;
    assert!(commits <= 4, "{commits} commits for four tenants");
    bed.check();
}

#[test]
fn one_run_may_have_many_traces_and_each_finds_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    let of_run = |trace: u8| Span {
        trace,
        run_id: Some("r".into()),
        ..Span::default()
    };
    bed.all(
        &tenant,
        vec![of_run(1).draft(), of_run(2).draft(), of_run(2).environment("svc")],
    );
    // Kept for the whole trace, whatever later spans say.
    let other = Span {
        span: 5,
        run_id: Some("other".into()),
        trace: 1,
        ..Span::default()
    };
    bed.one(&tenant, other.draft());
    let records = bed.ledger.records(&tenant);
    for id in ["r", "trace_r", &of_run(1).trace_hex(), &of_run(2).trace_hex()] {
        assert_eq!(records.run(id).unwrap().unwrap().state.run_id, "r", "{id}");
    }
    assert!(records.run("other").unwrap().is_none());
    // A root span does not complete a run that REST started.
    assert_eq!(bed.run_row(&tenant, "r").state.status, TraceStatus::Running);
    bed.complete(&tenant, "r");
    bed.check();
}
