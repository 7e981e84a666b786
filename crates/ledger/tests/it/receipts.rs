//! A receipt is a promise: the leaf is there, once, for ever.

use evidence::Header;
use ledger::{Rejection, StoredTree};
use tlog::{LeafIndex, TreeSize};

use crate::bed::{Span, TestLedger, run, step, step_of, system};

#[test]
fn a_receipts_leaf_is_at_its_index_with_that_hash() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let mut drafts = vec![run("r")];
    drafts.extend((0..600).map(|index| step("r", index)));
    let placed = bed.all(&tenant, drafts);
    let records = bed.ledger.records(&tenant);
    let tree = StoredTree::new(bed.ledger.store(), tenant.ledger().row.ledger_no);
    let size = TreeSize::new(601);
    let root = bed
        .ledger
        .store()
        .head_read(tenant.ledger().row.ledger_no)
        .unwrap()
        .root;
    for (place, placed) in (0_u64..).zip(placed) {
        let receipt = placed.receipt;
        assert!(placed.fresh);
        assert_eq!((receipt.leaf_index, receipt.tree_size), (place, place + 1));
        let record = records.get(receipt.record_id).unwrap().unwrap();
        assert_eq!(record.leaf_hash(), receipt.leaf_hash);
        assert_eq!(record.receipt().unwrap(), receipt);
        let header = Header::decode(&record.header).unwrap();
        assert_eq!(header.run.unwrap().run_seq, place);
        assert_eq!(header.tenant_id, "acme");
        if place % 50 == 0 {
            let index = LeafIndex::new(place);
            let proof = tree.inclusion(index, size).unwrap();
            tlog::verify_inclusion(&receipt.leaf_hash, index, size, &proof, &root).unwrap();
        }
    }
    bed.check();
}

#[test]
fn the_same_again_is_the_first_receipt_in_the_same_batch_a_later_one_and_after_reopening() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let span = Span {
        trace: 7,
        ..Span::default()
    };
    let make = || vec![run("r"), step("r", 0), span.environment("svc"), span.draft()];
    let mut twice = make();
    twice.extend(make());
    let first = bed.all(&tenant, twice);
    for (one, two) in first[..4].iter().zip(&first[4..]) {
        assert!(one.fresh && !two.fresh);
        assert_eq!(one.receipt, two.receipt);
    }
    let again = bed.all(&tenant, make());
    let receipts = |placed: &[ledger::Placed]| placed.iter().map(|p| p.receipt).collect::<Vec<_>>();
    assert_eq!(receipts(&again), receipts(&first[..4]));
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    let again = bed.all(&tenant, make());
    assert_eq!(receipts(&again), receipts(&first[..4]));
    assert!(again.iter().all(|placed| !placed.fresh));
    // run, step, the trace's run, environment, span.
    assert_eq!(bed.size(&tenant), 5);
    bed.check();
}

#[test]
fn other_content_under_the_same_identity_is_a_conflict_and_the_first_stays() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let other = || step_of("r", 0, |step| step.step.skill_name = "other".into());
    let span = Span {
        trace: 7,
        ..Span::default()
    };
    let other_span = Span {
        note: "changed".into(),
        ..span.clone()
    };
    let first = bed.submit(
        &tenant,
        vec![run("r"), step("r", 0), other(), span.draft(), other_span.draft()],
    );
    let receipt = first[1].as_ref().unwrap().receipt;
    assert_eq!(first[2], Err(Rejection::Conflict(receipt)));
    let of_span = first[3].as_ref().unwrap().receipt;
    assert_eq!(first[4], Err(Rejection::Conflict(of_span)));
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_eq!(
        bed.submit(&tenant, vec![other()]),
        vec![Err(Rejection::Conflict(receipt))]
    );
    assert_eq!(
        bed.submit(&tenant, vec![other_span.draft()]),
        vec![Err(Rejection::Conflict(of_span))]
    );
    // Twice in one batch: each is compared.
    assert_eq!(
        bed.submit(
            &tenant,
            vec![other(), other(), other_span.draft(), other_span.draft()]
        ),
        [receipt, receipt, of_span, of_span].map(|first| Err(Rejection::Conflict(first)))
    );
    let goal = evidence::record::RunStarted {
        goal: Some("x".into()),
        source: "SDK".into(),
        ..Default::default()
    };
    let rejected = bed.submit(&tenant, vec![crate::bed::run_of("r", goal)]).remove(0);
    assert!(matches!(rejected, Err(Rejection::Conflict(receipt)) if receipt.leaf_index == 0));
    bed.check();
}

#[test]
fn records_without_identity_are_each_a_record() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.all(&tenant, vec![system("same"), system("same")]);
    assert!(placed.iter().all(|placed| placed.fresh));
    assert_eq!(bed.size(&tenant), 2);
    bed.check();
}

#[test]
fn a_bad_draft_refuses_itself_and_not_its_neighbours() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let mut long = step("r", 1);
    long.correlation_id = Some("x".repeat(70_000).into());
    let outcomes = bed.submit(&tenant, vec![step("nobody", 0), run("r"), long, step("r", 2)]);
    assert_eq!(outcomes[0], Err(Rejection::RunUnknown));
    assert!(outcomes[1].is_ok());
    assert_eq!(outcomes[2], Err(Rejection::LeafTooLarge));
    assert!(outcomes[3].is_ok());
    assert_eq!(bed.run_row(&tenant, "r").state.record_count, 2);
    bed.check();
}

#[test]
fn a_span_too_large_for_a_leaf_leaves_nothing_that_verification_cannot_explain() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let mut long = Span {
        trace: 9,
        ..Span::default()
    }
    .draft();
    long.correlation_id = Some("x".repeat(70_000).into());
    assert_eq!(
        bed.submit(&tenant, vec![long]),
        vec![Err(Rejection::LeafTooLarge)]
    );
    bed.check();
    // The trace still finds its run afterwards.
    let span = Span {
        trace: 9,
        span: 2,
        ..Span::default()
    };
    assert!(bed.one(&tenant, span.draft()).fresh);
    assert!(
        bed.ledger
            .records(&tenant)
            .run(&span.trace_hex())
            .unwrap()
            .is_some()
    );
    bed.check();
}

#[test]
fn an_environment_known_to_a_run_is_known_whichever_trace_brings_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let of_run = |trace: u8, span: u8, run: &str| Span {
        trace,
        span,
        run_id: Some(run.into()),
        ..Span::default()
    };
    // The run x has the environment of `svc`, by its first trace.
    let first = bed.all(
        &tenant,
        vec![of_run(1, 1, "x").environment("svc"), of_run(1, 1, "x").draft()],
    );
    // In one batch a second trace joins x, and the same trace brings the environment under another run's name.
    let again = bed.all(
        &tenant,
        vec![of_run(2, 2, "x").draft(), of_run(2, 3, "y").environment("svc")],
    );
    assert_eq!(again[1].receipt, first[0].receipt);
    assert_eq!(bed.ledger.stopped(), None);
    bed.check();
}

#[test]
fn an_environment_alone_of_a_known_run_binds_no_trace_that_no_record_names() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let of_run = |trace: u8| Span {
        trace,
        span: trace,
        run_id: Some("x".into()),
        ..Span::default()
    };
    bed.all(&tenant, vec![of_run(1).environment("svc"), of_run(1).draft()]);
    // Known already, so no leaf is written for it, and none names trace 2.
    let placed = bed.all(&tenant, vec![of_run(2).environment("svc"), system("beside it")]);
    assert!(!placed[0].fresh && placed[1].fresh);
    bed.check();
}

#[test]
fn two_runs_that_name_one_trace_do_not_stop_the_ledger() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let with_trace = |run_id: &str, trace: &str| {
        let mut draft = run(run_id);
        draft.trace_id = Some(trace.into());
        if let evidence::record::Facts::RunStarted(facts) = &mut draft.facts {
            facts.trace_id = trace.into();
        }
        draft
    };
    for trace in ["0af7651916cd43dd8448eb211c80319c", "by-name"] {
        bed.one(&tenant, with_trace(&format!("a{trace}"), trace));
        drop(bed.submit(
            &tenant,
            vec![
                with_trace(&format!("b{trace}"), trace),
                with_trace(&format!("c{trace}"), trace),
            ],
        ));
        assert_eq!(bed.ledger.stopped(), None);
        let found = bed.ledger.records(&tenant).run(trace).unwrap().unwrap();
        assert_eq!(found.state.run_id, format!("a{trace}"));
    }
    bed.check();
}
