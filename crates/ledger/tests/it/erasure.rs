//! Bodies that are erased: what is left of them, what verification says, and what keeps them from being erased.

use std::sync::Arc;

use evidence::record::{
    Facts, ReplayBehavior, ReplayEnforced, ReplayOutcome, RunCompleted, StepStatus, StepView, root_hash,
    step_hash,
};
use evidence::{ExecutionStatus, FindingCode, Kind, RecordId, TraceStatus, canonical, hex_string, sha256};
use ledger::verify::{Question, verify};
use ledger::{
    Bind, Draft, EraseAsked, EraseError, Erasure, Ledger, Placed, RunAt, SealedBody, StoredTree, Tenant,
    run_at,
};
use store::{Fault, LeafKey, Scrubbed, codec};

use crate::bed::{
    Span, TestLedger, completed, database, draft, projections, report, run, salt, step, step_of, system,
    tamper,
};

/// What is asked for to erase a record.
pub fn asked(placed: &Placed) -> EraseAsked {
    EraseAsked {
        record_id: placed.receipt.record_id,
        reason: "asked for by the person".into(),
        only: false,
        principal: "key:dpo".into(),
    }
}

pub fn erase(bed: &TestLedger, tenant: &Arc<Tenant>, placed: &Placed) -> Result<Erasure, EraseError> {
    bed.ledger.erase(tenant, &asked(placed), bed.now())
}

/// Everything that is on disk of the database.
fn bytes_on_disk(bed: &TestLedger) -> Vec<u8> {
    let path = database(bed.path());
    ["", "-wal", "-shm", "-journal"]
        .iter()
        .flat_map(|suffix| std::fs::read(format!("{}{suffix}", path.display())).unwrap_or_default())
        .collect()
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

pub fn body_of(ledger: &Ledger, tenant: &Arc<Tenant>, id: RecordId) -> Option<Vec<u8>> {
    ledger.records(tenant).get(id).unwrap().unwrap().body.into_bytes()
}

/// The auditor finds nothing, and says how much is erased.
#[track_caller]
pub fn check_erased(bed: &TestLedger, erased: u64) {
    bed.check();
    let report = bed.report();
    assert_eq!(report.flags, [format!("ERASED {erased}")]);
    assert_eq!(report.exit_code(None), 0);
}

/// The answer of a step, yes or no, in all that its body says.
pub fn answer(yes: bool) -> Draft {
    step_of("r", 0, |step| {
        step.step.outcome_data = Some(format!("{{\"approved\":{yes}}}").into_bytes());
        step.step.status = if yes {
            StepStatus::Success
        } else {
            StepStatus::Failure
        };
        step.step.outcome_category = if yes { "SUCCESS" } else { "DENIED" }.into();
        step.step.idempotency_key = Some(format!("key-{yes}"));
    })
}

/// What a replay says of a step: what came out, and its hash as given, stored and expected.
pub fn enforced(step_index: u32, output: &str) -> Draft {
    let hash = Some(hex_string(&sha256(output.as_bytes())));
    let output = canonical::parse(output.as_bytes(), canonical::Limits::default()).unwrap();
    let record = ReplayEnforced {
        event_id: format!("{step_index:032x}"),
        step_index,
        behavior: ReplayBehavior::Check,
        outcome: ReplayOutcome::Mismatch,
        checked: true,
        idempotency_key: None,
        input_hash: None,
        known_input_hash: None,
        expected_hash: hash.clone(),
        output_hash: hash.clone(),
        stored_hash: hash,
        output: Some(output),
    };
    let body = SealedBody::seal(Kind::ReplayEnforced, salt(), &record.encode()).unwrap();
    Draft {
        identity: Some(record.identity()),
        ..draft(Kind::ReplayEnforced, Bind::Run("r".into()), Facts::Other, body)
    }
}

/// A ledger in which the answer was given, erased, and everything else is the same.
fn answered(yes: bool) -> (TestLedger, Arc<Tenant>, Placed, [Vec<u8>; 2]) {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let placed = bed.one(&tenant, answer(yes));
    bed.one(&tenant, enforced(0, &format!("{{\"approved\":{yes}}}")));
    bed.one(&tenant, step("r", 1));
    bed.complete(&tenant, "r");
    let leaf = LeafKey::new(tenant.ledger().row.ledger_no, placed.receipt.leaf_index);
    let stored = bed.ledger.store().bodies_get(&[leaf]).unwrap().remove(0);
    erase(&bed, &tenant, &placed).unwrap();
    bed.one(&tenant, system("life goes on"));
    let body = codec::unpack(&stored.body, 1 << 20).unwrap();
    (bed, tenant, placed, [stored.salt.to_vec(), body])
}

#[test]
fn an_erased_yes_or_no_cannot_be_guessed_from_anything_that_is_left() {
    let (yes, tenant, placed, _) = answered(true);
    let (no, ..) = answered(false);
    // All that is projected is the same whichever it was; only ids of records are drawn.
    let shown = |bed: &TestLedger| -> Vec<String> {
        projections(bed.path())
            .iter()
            .map(|row| without_ids(row))
            .collect()
    };
    assert_eq!(shown(&yes), shown(&no));
    // A guesser knows everything but the answer, and tries both against every byte.
    let left = bytes_on_disk(&yes);
    let header = yes
        .ledger
        .records(&tenant)
        .get(placed.receipt.record_id)
        .unwrap()
        .unwrap();
    let commitment = header.header().unwrap().commitment;
    for (bed_of, guess) in [(answered(true), true), (answered(false), false)] {
        let [salt, body] = &bed_of.3;
        let outcome = format!("{{\"approved\":{guess}}}");
        let view = StepView::read(body).unwrap();
        let steps = [step_hash(0, &view.step)];
        let root = root_hash(&yes.run_row(&tenant, "r").state.plan_hash, 42, &steps);
        for hash in [sha256(body), sha256(outcome.as_bytes()), steps[0], root] {
            assert!(!holds(&left, &hash), "a hash of {guess} is left");
            assert!(
                !holds(&left, hex_string(&hash).as_bytes()),
                "a hash of {guess} is left"
            );
        }
        assert!(!holds(&left, outcome.as_bytes()));
        assert!(!holds(&left, format!("key-{guess}").as_bytes()));
        // The commitment opens under the salt alone, which is gone.
        assert!(!holds(&left, salt));
        assert_ne!(evidence::commitment(&[0; 32], Kind::TraceStep, body), commitment);
    }
    // The step, what its replay says, the end with its root hash.
    check_erased(&yes, 3);
    check_erased(&no, 3);
}

#[test]
fn what_a_replay_says_goes_with_its_step_and_steps_with_the_same_output_are_named() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let output = r#"{"approved":true}"#;
    let same = |index| {
        step_of("r", index, |step| {
            step.step.outcome_data = Some(output.as_bytes().to_vec());
        })
    };
    let placed = bed.one(&tenant, answer(true));
    let twin = bed.one(&tenant, same(1));
    let other = step_of("r", 2, |step| {
        step.step.params = br#"{"q":2}"#.to_vec();
        step.step.outcome_data = Some(b"{}".to_vec());
    });
    let other = bed.one(&tenant, other);
    let of_step = bed.one(&tenant, enforced(0, "\"redacted\""));
    let of_hash = bed.one(&tenant, enforced(7, output));
    let of_other = bed.one(&tenant, enforced(8, r#"{"approved":false}"#));
    let erasure = erase(&bed, &tenant, &placed).unwrap();
    let gone: Vec<RecordId> = erasure.erased.iter().map(|(id, _)| *id).collect();
    assert_eq!(
        gone,
        [
            placed.receipt.record_id,
            of_step.receipt.record_id,
            of_hash.receipt.record_id
        ]
    );
    let named: Vec<RecordId> = erasure
        .remains
        .iter()
        .filter_map(|left| Some(left.record?.0))
        .collect();
    assert!(named.contains(&twin.receipt.record_id), "{named:?}");
    assert!(!named.contains(&other.receipt.record_id), "{named:?}");
    assert!(body_of(&bed.ledger, &tenant, of_other.receipt.record_id).is_some());
    check_erased(&bed, 3);
}

/// A row without the ids of records, which are drawn.
fn without_ids(row: &str) -> String {
    let mut out = String::new();
    let mut rest = row;
    while let Some(at) = rest.find("erasure=") {
        let (before, after) = rest.split_at(at + "erasure=".len());
        out.push_str(before);
        rest = after.get(36..).unwrap_or_default();
    }
    out + rest
}

#[test]
fn every_proof_holds_and_rebuilt_projections_are_the_same_after_an_erasure() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let placed = bed.one(&tenant, answer(true));
    bed.complete(&tenant, "r");
    let span = Span::default();
    let root = bed.all(&tenant, vec![span.environment("shop"), span.draft()]);
    bed.ledger.checkpoint_now(&tenant);
    let tree = StoredTree::new(bed.ledger.store(), tenant.ledger().row.ledger_no);
    let head = bed
        .ledger
        .store()
        .head_read(tenant.ledger().row.ledger_no)
        .unwrap();
    let index = tlog::LeafIndex::new(placed.receipt.leaf_index);
    let before = tree.inclusion(index, head.size).unwrap();
    for placed in [&placed, &root[0], &root[1]] {
        erase(&bed, &tenant, placed).unwrap();
    }
    assert_eq!(tree.inclusion(index, head.size).unwrap(), before);
    tlog::verify_inclusion(&placed.receipt.leaf_hash, index, head.size, &before, &head.root).unwrap();
    // The step, the end with its root hash, an environment, a span.
    check_erased(&bed, 4);
    let kept = projections(bed.path());
    assert_ne!(bed.ledger.rebuild().unwrap(), 0);
    assert_eq!(projections(bed.path()), kept);
    check_erased(&bed, 4);
    let bed = bed.reopen();
    check_erased(&bed, 4);
}

#[test]
fn a_run_adds_up_without_what_is_erased_and_says_so_where_it_cannot_know() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let placed = bed.one(&tenant, answer(false));
    bed.one(&tenant, step("r", 1));
    let end = completed(RunCompleted {
        failed: true,
        ..RunCompleted::default()
    });
    let end = bed.end(&tenant, "r", &end).unwrap();
    let erasure = erase(&bed, &tenant, &placed).unwrap();
    let kinds: Vec<Kind> = erasure.erased.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(kinds, [Kind::TraceStep, Kind::TraceCompleted]);
    let state = bed.run_row(&tenant, "r").state;
    assert_eq!(
        (state.total_steps, state.success_count, state.failure_count),
        (2, 1, 0)
    );
    assert_eq!((state.root_hash, state.settled), (None, true));
    // The caller's own word on the end is another record.
    assert_eq!(state.status, TraceStatus::Failed);
    erase(&bed, &tenant, &end).unwrap();
    let state = bed.run_row(&tenant, "r").state;
    assert_eq!(
        (state.status.as_str(), state.execution_status.as_str()),
        ("ended", "ENDED")
    );
    // A start takes the plan's hash with it.
    bed.one(&tenant, run("s"));
    let s = bed.run_row(&tenant, "s");
    let started = bed
        .ledger
        .records(&tenant)
        .read(&[s.started_leaf])
        .unwrap()
        .remove(0);
    let started = Placed {
        receipt: started.receipt().unwrap(),
        fresh: false,
    };
    erase(&bed, &tenant, &started).unwrap();
    let state = bed.run_row(&tenant, "s").state;
    assert_eq!(
        (state.plan_hash.as_str(), state.source.as_str(), state.agent_id),
        ("", "", None)
    );
    // It goes on, and ends without a root hash, which covers the plan.
    bed.one(&tenant, step("s", 0));
    bed.complete(&tenant, "s");
    let state = bed.run_row(&tenant, "s").state;
    assert_eq!(
        (state.status, state.root_hash, state.total_steps),
        (TraceStatus::Completed, None, 1)
    );
    check_erased(&bed, 4);
}

#[test]
fn a_run_of_spans_whose_root_is_erased_has_ended_and_is_not_abandoned() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let [root, child] = [(1, None), (2, Some(1))].map(|(span, parent)| Span {
        span,
        parent,
        ..Span::default()
    });
    let placed = bed.all(&tenant, vec![root.draft(), child.draft()]);
    erase(&bed, &tenant, &placed[0]).unwrap();
    let run_id = root.run_id();
    let ends = |bed: &TestLedger| {
        let state = bed.run_row(&tenant, &run_id).state;
        (state.execution_status, state.completed_at, state.settled)
    };
    assert_eq!(ends(&bed), (ExecutionStatus::Ended, None, false));
    let (size, before) = (bed.size(&tenant), bed.run_row(&tenant, &run_id));
    let more = Span {
        span: 3,
        ..child.clone()
    };
    let more = bed.one(&tenant, more.draft());
    assert_eq!(ends(&bed), (ExecutionStatus::Ended, None, false));
    // Read as of then it is what it was then, and erasing another body does not make it run again.
    let row = bed.run_row(&tenant, &run_id);
    let as_of = LeafKey::new(tenant.ledger().row.ledger_no, size);
    match run_at(bed.ledger.store(), &row, as_of).unwrap() {
        RunAt::Then(state, _) => assert_eq!(*state, before.state),
        other => panic!("{other:?}"),
    }
    erase(&bed, &tenant, &more).unwrap();
    assert_eq!(ends(&bed), (ExecutionStatus::Ended, None, false));
    check_erased(&bed, 2);
    assert_eq!(bed.ledger.settle_due(bed.later(31_000)).unwrap(), 1);
    assert_eq!(bed.ledger.settle_due(bed.later(48 * 3_600_000)).unwrap(), 0);
    assert_eq!(ends(&bed), (ExecutionStatus::Ended, None, true));
    check_erased(&bed, 2);

    // Erased when it is settled, a root takes the time of its run's end with it.
    let later = Span {
        trace: 2,
        ..root.clone()
    };
    let placed = bed.one(&tenant, later.draft());
    assert_eq!(bed.ledger.settle_due(bed.later(31_000)).unwrap(), 1);
    let before = bed.run_row(&tenant, &later.run_id()).state;
    assert!(before.settled && before.completed_at.is_some());
    erase(&bed, &tenant, &placed).unwrap();
    let state = bed.run_row(&tenant, &later.run_id()).state;
    assert_eq!(
        (state.execution_status, state.completed_at),
        (ExecutionStatus::Ended, None)
    );
    check_erased(&bed, 4);
    check_erased(&bed.reopen(), 4);
}

#[test]
fn with_only_the_rest_stays_and_is_named() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let placed = bed.one(&tenant, answer(true));
    bed.complete(&tenant, "r");
    let only = EraseAsked {
        only: true,
        ..asked(&placed)
    };
    let erasure = bed.ledger.erase(&tenant, &only, bed.now()).unwrap();
    assert_eq!(erasure.erased, [(placed.receipt.record_id, Kind::TraceStep)]);
    let named: Vec<Kind> = erasure
        .remains
        .iter()
        .filter_map(|left| Some(left.record?.1))
        .collect();
    assert_eq!(named, [Kind::RunCompleted, Kind::TraceCompleted]);
    assert!(erasure.remains.iter().any(|left| left.what.contains("backups")));
    assert_eq!(erasure.scrubbed, Some(Scrubbed::Rewritten));
    assert!(bed.run_row(&tenant, "r").state.root_hash.is_some());
    let (_, said) = bed
        .ledger
        .erasure_of(&tenant, placed.receipt.record_id)
        .unwrap()
        .unwrap();
    assert_eq!(
        (said.principal.as_str(), said.reason.as_str()),
        ("key:dpo", "asked for by the person")
    );
    check_erased(&bed, 1);
}

#[test]
fn what_was_erased_and_is_sent_again_gets_the_first_receipt() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let first = bed.one(&tenant, answer(true));
    let span = Span::default();
    let spans = bed.all(&tenant, vec![span.environment("shop"), span.draft()]);
    for placed in [&first, &spans[0], &spans[1]] {
        erase(&bed, &tenant, placed).unwrap();
    }
    for (again, before) in [
        (answer(true), first),
        (answer(false), first),
        (span.draft(), spans[1]),
    ] {
        let again = bed.one(&tenant, again);
        assert_eq!((again.receipt, again.fresh), (before.receipt, false));
    }
    assert!(body_of(&bed.ledger, &tenant, first.receipt.record_id).is_none());
    // What names an environment is a hash of it: that went with it, and it is known by what is kept under a key.
    assert!(!bed.one(&tenant, span.environment("shop")).fresh);
    assert!(bed.one(&tenant, span.environment("other shop")).fresh);
    check_erased(&bed, 3);
}

#[test]
fn a_body_that_went_otherwise_is_damage_and_one_that_came_back_too() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed: Vec<Placed> = (0..4)
        .map(|n| bed.one(&tenant, system(&format!("{n}"))))
        .collect();
    let leaf = LeafKey::new(tenant.ledger().row.ledger_no, placed[1].receipt.leaf_index);
    let row = bed.ledger.store().bodies_get(&[leaf]).unwrap().remove(0);
    erase(&bed, &tenant, &placed[1]).unwrap();
    check_erased(&bed, 1);
    // Straight at the database, the trigger lets go only what a record erased.
    let connection = rusqlite::Connection::open(database(bed.path())).unwrap();
    let gone = i64::try_from(placed[2].receipt.leaf_index).unwrap() | (leaf.as_i64() & !0xff);
    assert!(
        connection
            .execute("DELETE FROM bodies WHERE leaf = ?1", [gone])
            .is_err()
    );
    drop(connection);
    let bed = bed.reopen_after(|folder| {
        tamper(folder, &format!("DELETE FROM bodies WHERE leaf = {gone}"));
        let connection = rusqlite::Connection::open(database(folder)).unwrap();
        connection
            .execute(
                "INSERT INTO bodies VALUES (?1, ?2, ?3)",
                (leaf.as_i64(), row.salt.as_slice(), &row.body),
            )
            .unwrap();
    });
    let found = report(bed.path());
    let codes: Vec<_> = found
        .findings
        .iter()
        .map(|finding| (finding.code, finding.record_id))
        .collect();
    assert!(
        codes.contains(&(FindingCode::BodyMissing, Some(placed[2].receipt.record_id))),
        "{codes:?}"
    );
    assert!(
        codes.contains(&(FindingCode::ErasureIncomplete, Some(placed[1].receipt.record_id))),
        "{codes:?}"
    );
    assert_eq!(found.exit_code(None), 1);
}

#[test]
fn a_column_that_still_says_what_was_erased_is_found() {
    for (sql, place) in [
        ("UPDATE runs SET success_count = 1", "runs.success_count"),
        ("UPDATE runs SET root_hash = zeroblob(32)", "runs.root_hash"),
        (
            "INSERT INTO facets SELECT tenant_no, 'step.key=key-true', leaf, 0 FROM facets WHERE facet = 'erased' LIMIT 1",
            "facets",
        ),
        ("DELETE FROM facets WHERE facet = 'erased'", "facets"),
        (
            "UPDATE run_records SET step_index = 7 WHERE run_seq = 1",
            "run_records.step_index",
        ),
    ] {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        bed.one(&tenant, run("r"));
        let placed = bed.one(&tenant, answer(true));
        bed.complete(&tenant, "r");
        erase(&bed, &tenant, &placed).unwrap();
        check_erased(&bed, 2);
        let bed = bed.reopen_after(|folder| tamper(folder, sql));
        let found = report(bed.path());
        assert!(
            found.findings.iter().any(|finding| finding.place == place),
            "{sql}: {:?}",
            found.findings
        );
    }
}

#[test]
fn an_erasure_that_fails_erases_nothing_and_one_whose_answer_is_lost_is_done_once() {
    for fault in [Fault::AppendLost, Fault::AppendUnacknowledged, Fault::HeadMoved] {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        let placed = bed.one(&tenant, system("personal"));
        let size = bed.size(&tenant);
        bed.fault.arm(fault);
        erase(&bed, &tenant, &placed).unwrap();
        assert_eq!(bed.size(&tenant), size + 1, "{fault:?}");
        check_erased(&bed, 1);
    }
    for (fault, done) in [(Fault::AppendRefused, false), (Fault::AppendUnsynced, true)] {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        let placed = bed.one(&tenant, system("personal"));
        let salt = bed
            .ledger
            .store()
            .bodies_read(tenant.ledger().row.ledger_no, 0, 1)
            .unwrap()[0]
            .salt;
        bed.fault.arm(fault);
        assert!(matches!(
            erase(&bed, &tenant, &placed),
            Err(EraseError::Submit(_))
        ));
        // Nothing is written after that; a restart takes up what was, and finishes what was begun.
        let bed = bed.reopen();
        let tenant = bed.ledger.tenant("acme").unwrap();
        assert_eq!(
            body_of(&bed.ledger, &tenant, placed.receipt.record_id).is_none(),
            done,
            "{fault:?}"
        );
        assert_eq!(holds(&bytes_on_disk(&bed), &salt), !done, "{fault:?}");
        if done {
            check_erased(&bed, 1);
        } else {
            bed.check();
            erase(&bed, &tenant, &placed).unwrap();
            check_erased(&bed, 1);
        }
    }
}

#[test]
fn who_erases_all_the_while_hides_nothing_from_a_verification() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let tampered = bed.one(&tenant, system("tampered with"));
    let others: Vec<Placed> = (0..3)
        .map(|n| bed.one(&tenant, system(&format!("other {n}"))))
        .collect();
    let leaf = LeafKey::new(tenant.ledger().row.ledger_no, tampered.receipt.leaf_index).as_i64();
    tamper(
        bed.path(),
        &format!("UPDATE bodies SET salt = zeroblob(32) WHERE leaf = {leaf}"),
    );
    // Each time that the tenant is looked at, one more body goes after the look began.
    for (place, other) in (1..).zip(&others) {
        let (ledger, of, what, at) = (bed.ledger.clone(), Arc::clone(&tenant), asked(other), bed.now());
        bed.fault.before("snapshot", place, move || {
            ledger.erase(&of, &what, at).unwrap();
        });
    }
    let question = Question {
        tenant_id: Some("acme".into()),
        ..Question::default()
    };
    let report = verify(bed.fault.as_ref(), &question).unwrap();
    assert!(
        others
            .iter()
            .all(|other| body_of(&bed.ledger, &tenant, other.receipt.record_id).is_none())
    );
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.code, finding.leaf_index))
        .collect();
    assert!(
        found.contains(&(FindingCode::CommitmentMismatch, Some(tampered.receipt.leaf_index))),
        "{found:?}"
    );
    assert_eq!(report.exit_code(None), 1);
    let row = tenant.ledger().row.clone();
    assert!(!report.is_decided("acme", &row.origin), "{:?}", report.undecided);
}
