//! Projections: made again from leaves and bodies, byte for byte.

use std::collections::BTreeSet;

use evidence::record::RunCompleted;
use store::Fault;

use crate::bed::{Span, TestLedger, aborted, completed, projections, run, step, step_of, system, tamper};
use crate::tamper::Copy;

/// Two tenants with runs of all sorts.
pub fn fill(bed: &TestLedger) {
    for name in ["acme", "other"] {
        let tenant = bed.tenant(name);
        for n in 0..6_u32 {
            let run_id = format!("r{n}");
            let keyed = step_of(&run_id, 1, |step| {
                step.step.idempotency_key = Some(format!("key-{}", n % 2));
            });
            bed.all(&tenant, vec![run(&run_id), step(&run_id, 0), keyed]);
            match n {
                0 => _ = bed.complete(&tenant, &run_id),
                1 => _ = bed.end(&tenant, &run_id, &aborted("stop")).unwrap(),
                2 => {
                    let end = RunCompleted {
                        failed: true,
                        provider: Some("x".into()),
                        ..RunCompleted::default()
                    };
                    {
                        let _ = bed.end(&tenant, &run_id, &completed(end)).unwrap();
                    };
                }
                _ => {}
            }
        }
        for trace in 1..=6_u8 {
            let span = |span: u8, parent: Option<u8>| Span {
                trace,
                span,
                parent,
                start: u64::from(span) * 10,
                end: 100,
                inference: span.is_multiple_of(2),
                failed: span == 3,
                correlation_id: Some(format!("session {trace}")),
                ..Span::default()
            };
            let mut drafts = vec![span(1, None).environment("svc")];
            drafts.extend((2..5).map(|n| span(n, Some(1)).draft()));
            if trace > 1 {
                drafts.push(span(1, None).draft());
            }
            bed.all(&tenant, drafts);
        }
        bed.one(&tenant, system("something"));
        bed.ledger.checkpoint_now(&tenant);
        bed.ledger.settle_due(bed.later(31_000)).unwrap();
        // Late ones, with and without steps.
        for trace in 2..4 {
            let late = Span {
                trace,
                span: 99,
                parent: Some(1),
                start: 1,
                ..Span::default()
            };
            bed.all(&tenant, vec![late.draft(), late.environment("late")]);
        }
        bed.ledger.checkpoint_now(&tenant);
    }
}

#[test]
fn rebuilding_gives_the_same_rows_byte_for_byte() {
    let bed = TestLedger::new();
    fill(&bed);
    let before = projections(bed.path());
    assert!(before.len() > 100);
    let mut told = 0;
    let records = ledger::rebuild(bed.ledger.store(), &mut |done| told = done).unwrap();
    assert!(records > 50 && told >= records);
    assert_eq!(projections(bed.path()), before);
    bed.check();
    let bed = bed.reopen();
    // What follows joins what was rebuilt.
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.all(&tenant, vec![step("r4", 2), run("after")]);
    bed.check();
}

#[test]
fn rebuilding_mends_whatever_was_done_to_projections() {
    let bed = TestLedger::new();
    fill(&bed);
    let before = projections(bed.path());
    tamper(
        bed.path(),
        "DELETE FROM runs WHERE ordinal IS NULL OR run % 2 = 0; DELETE FROM traces; DELETE FROM tenants;
         UPDATE runs SET status = 'failed', late_count = 9; UPDATE run_records SET occurred_at = 0;
         INSERT INTO facets VALUES (1, 'system', 99, 7); DELETE FROM facets WHERE facet LIKE 'step.key=%';
         UPDATE facets SET n = n + 1 WHERE facet = 'kind=system.record'"
            .replace("ordinal IS NULL OR ", "")
            .as_str(),
    );
    assert_eq!(bed.report().exit_code(None), 1);
    ledger::rebuild(bed.ledger.store(), &mut |_| {}).unwrap();
    assert_eq!(projections(bed.path()), before);
    bed.check();
}

#[test]
fn damaged_evidence_is_not_rebuilt_from() {
    let bed = TestLedger::new();
    fill(&bed);
    tamper(
        bed.path(),
        "DELETE FROM bodies WHERE leaf = (SELECT max(leaf) - 3 FROM bodies)",
    );
    let before = projections(bed.path());
    assert!(ledger::rebuild(bed.ledger.store(), &mut |_| {}).is_err());
    assert_eq!(projections(bed.path()), before, "the old rows stand");
}

#[test]
fn a_failed_read_during_a_rebuild_leaves_the_old_rows() {
    let bed = TestLedger::new();
    fill(&bed);
    let before = projections(bed.path());
    // Who signs reads heads too.
    bed.sign();
    bed.fault.arm(Fault::HeadRead);
    assert!(ledger::rebuild(bed.ledger.store(), &mut |_| {}).is_err());
    assert_eq!(projections(bed.path()), before);
    bed.check();
}

#[test]
fn a_run_that_a_wrong_row_names_is_told_by_its_id_and_another_tenants_is_not() {
    let copy = Copy::new();
    let report = copy.sql(
        "UPDATE traces SET run = (SELECT run FROM runs WHERE tenant_no = 1 AND run_id = 'r10')
         WHERE tenant_no = 1 AND trace_id = 'trace_r12';
         UPDATE traces SET run = 2 << 40 WHERE tenant_no = 1 AND trace_id = 'trace_r14';
         INSERT INTO run_records SELECT run, run_seq + 100, leaf, kind, NULL, step_index, occurred_at
         FROM run_records WHERE run_seq = 0 AND run IN (SELECT run FROM runs WHERE tenant_no = 1 AND run_id = 'r16');
         INSERT INTO run_records SELECT run + 5000, 7, leaf, kind, NULL, step_index, occurred_at
         FROM run_records WHERE run = 1 << 40 AND run_seq = 0;",
    );
    let of = |place: &str| {
        let found = report.findings.iter().filter(|finding| finding.place == place);
        found
            .map(|finding| (finding.run_id.as_deref(), finding.detail.as_str()))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        of("traces.run"),
        BTreeSet::from([
            (None, "stored run \"r10\" is not what the record says"),
            (
                None,
                "stored a run that the tenant does not have is not what the record says"
            ),
        ])
    );
    assert_eq!(
        of("run_records"),
        BTreeSet::from([
            (Some("r16"), "row 100 has no record behind it"),
            (None, "row 7 of a run that is not there has no record behind it"),
        ])
    );
}
