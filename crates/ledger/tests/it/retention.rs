//! What has been kept long enough is archived, then pruned; and what verification makes of it.

use std::sync::Arc;

use evidence::record::{CaptureFailure, HoldScope, RetentionArchived, RunCompleted, RunStarted};
use evidence::{ActorType, FindingCode, Kind};
use ledger::verify::{Question, Report, verify};
use ledger::{
    Bind, Draft, EraseAsked, EraseError, HighWater, IntegrityError, KeyFolder, Options, Placed, Rejection,
    SettleError, Tenant,
};
use store::sqlite::{Access, SqliteStore};
use store::{Fault, Gone};

use crate::bed::{Span, TestLedger, completed, projections, run, run_of, step, step_of, system, tamper};
use crate::erasure::{enforced, erase};

const SYSTEM: (ActorType, Option<&str>) = (ActorType::System, None);

pub(crate) const DAY: i64 = 24 * 3_600 * 1_000;

/// A sealed run, one that goes on, one that is made up, and two system records.
pub fn filled(bed: &TestLedger) -> Arc<Tenant> {
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0), system("a"), step("r", 1)]);
    bed.complete(&tenant, "r");
    bed.ledger.run_seal(&tenant, "r", SYSTEM, bed.now()).unwrap();
    bed.all(&tenant, vec![run("goes-on"), system("b")]);
    let made_up = RunStarted {
        source: "SYNTHETIC".into(),
        is_synthetic: true,
        synthetic_scenario_id: Some("s".into()),
        ..RunStarted::default()
    };
    bed.all(&tenant, vec![run_of("made-up", made_up), step("made-up", 0)]);
    bed.complete(&tenant, "made-up");
    bed.ledger
        .run_seal(&tenant, "made-up", SYSTEM, bed.now())
        .unwrap();
    tenant
}

fn bodies(bed: &TestLedger, tenant: &Tenant) -> usize {
    let no = tenant.ledger().row.ledger_no;
    bed.ledger
        .store()
        .bodies_read(no, 0, bed.size(tenant))
        .unwrap()
        .len()
}

pub fn report(bed: &TestLedger, with_archive: bool) -> Report {
    let options = Options::new(bed.path());
    let marks = HighWater::open(&options.high_water()).unwrap();
    let keys = KeyFolder::open(&options.keys()).unwrap();
    let store = SqliteStore::open(&options.database(), Access::ReadOnly).unwrap();
    let question = Question {
        marks: Some(&marks),
        keys: Some(&keys),
        archive: with_archive.then(|| options.archive()),
        ..Question::default()
    };
    verify(&store, &question).unwrap()
}

#[track_caller]
pub fn assert_good(report: &Report, flags: &[&str]) {
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(
        (report.flags.as_slice(), report.exit_code(None)),
        (
            &flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>()[..],
            0
        )
    );
}

pub fn archived(bed: &TestLedger, tenant: &Arc<Tenant>) -> Vec<RetentionArchived> {
    let query = store::FacetQuery {
        facets: vec!["kind=retention.archived".into()],
        limit: 100,
        ..store::FacetQuery::default()
    };
    let found = bed.ledger.records(tenant).find(&query).unwrap();
    found
        .records
        .iter()
        .map(|record| RetentionArchived::read(record.body.bytes().unwrap()).unwrap())
        .collect()
}

#[test]
fn each_class_goes_in_its_time_into_a_file_that_verification_reads() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    let before = bodies(&bed, &tenant);
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    // The made up run: its start, step, end, the end of its trace. Its seal stays.
    assert_eq!(bed.ledger.retain(bed.later(8 * DAY)).unwrap(), 4);
    assert_good(&report(&bed, false), &["PRUNED 4"]);
    assert_eq!(bed.ledger.retain(bed.later(23 * DAY)).unwrap(), 2);
    assert_eq!(bed.ledger.retain(bed.later(60 * DAY)).unwrap(), 5);
    // Only what goes on is left, two seals, and the three records that say where the rest is.
    assert_eq!(bodies(&bed, &tenant), before - 11 + 3);
    let kept = projections(bed.path());
    assert_good(&report(&bed, false), &["PRUNED 11"]);
    assert_good(&report(&bed, true), &[]);
    let archived = archived(&bed, &tenant);
    assert_eq!(
        archived.iter().map(|one| one.count).collect::<Vec<_>>(),
        [4, 2, 5]
    );
    // What is projected stays, and can be made again from the archives.
    assert_eq!(bed.run_row(&tenant, "r").state.total_steps, 2);
    bed.ledger.rebuild().unwrap();
    assert_eq!(projections(bed.path()), kept);
    // Nothing is due a second time, nor after a restart.
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    // It is not erased piece by piece.
    let asked = EraseAsked {
        record_id: bed
            .ledger
            .records(&tenant)
            .read(&[bed.run_row(&tenant, "r").started_leaf])
            .unwrap()[0]
            .header()
            .unwrap()
            .id,
        reason: "r".into(),
        only: false,
        principal: "p".into(),
    };
    assert!(matches!(
        bed.ledger.erase(&tenant, &asked, bed.now()),
        Err(EraseError::Archived)
    ));
    assert_good(&report(&bed, true), &[]);
}

#[test]
fn what_is_archived_is_not_taken_for_the_same_when_it_is_sent_again() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let span = Span::default();
    let drafts = vec![
        run("r"),
        step("r", 0),
        step("r", 1),
        span.environment("shop"),
        span.draft(),
    ];
    let placed = bed.all(&tenant, drafts);
    erase(&bed, &tenant, &placed[2]).unwrap();
    bed.complete(&tenant, "r");
    bed.ledger.settle_due(bed.later(31_000)).unwrap();
    for run_id in ["r", span.run_id().as_str()] {
        bed.ledger.run_seal(&tenant, run_id, SYSTEM, bed.now()).unwrap();
    }
    bed.ledger.retain(bed.later(200 * DAY)).unwrap();
    let size = bed.size(&tenant);
    let renamed = |index: u32| step_of("r", index, |step| step.step.skill_name = "other".into());
    let other_run = RunStarted {
        agent_id: Some("evil".into()),
        source: "SDK".into(),
        ..RunStarted::default()
    };
    let other_span = Span {
        note: "changed".into(),
        ..span.clone()
    };
    let again = vec![
        step("r", 0),
        renamed(0),
        run_of("r", other_run),
        other_span.draft(),
    ];
    let refused: Vec<Result<Placed, Rejection>> = [1, 1, 0, 4]
        .map(|of: usize| Err(Rejection::Archived(placed[of].receipt)))
        .into();
    assert_eq!(bed.submit(&tenant, again), refused);
    let failed = completed(RunCompleted {
        failed: true,
        ..RunCompleted::default()
    });
    assert!(matches!(
        bed.end(&tenant, "r", &failed),
        Err(SettleError::Rejected(Rejection::Archived(_)))
    ));
    // After an erasure nothing is compared, and what is named by its content need not be.
    for (again, first) in [(renamed(1), placed[2]), (span.environment("shop"), placed[3])] {
        let again = bed.one(&tenant, again);
        assert_eq!((again.receipt, again.fresh), (first.receipt, false));
    }
    assert_eq!(bed.size(&tenant), size);
    bed.check();
}

#[test]
fn what_comes_late_to_an_archived_run_is_archived_by_the_same_process() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    assert!(bed.ledger.retain(bed.later(200 * DAY)).unwrap() > 0);
    // The walk passes what it archived.
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    for run_id in ["r", "made-up"] {
        let late = Draft {
            bind: Bind::Run(run_id.into()),
            ..enforced(0, "{\"a\":1}")
        };
        bed.one(&tenant, late);
    }
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    assert_eq!(bed.ledger.retain(bed.later(200 * DAY)).unwrap(), 2);
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    bed.check();
}

#[test]
fn a_made_up_run_of_which_that_word_was_erased_goes_with_the_others() {
    let bed = TestLedger::new().reopen_with(|options| {
        options.retention.runs_micros = 0;
        options.retention.synthetic_micros = 1_000 * DAY * 1_000;
    });
    let tenant = bed.tenant("acme");
    let made_up = RunStarted {
        is_synthetic: true,
        synthetic_scenario_id: Some("s".into()),
        ..RunStarted::default()
    };
    let started = bed.one(&tenant, run_of("made-up", made_up));
    bed.one(&tenant, step("made-up", 0));
    bed.complete(&tenant, "made-up");
    bed.ledger
        .run_seal(&tenant, "made-up", SYSTEM, bed.now())
        .unwrap();
    // It is none of the class `runs`, which passes it.
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    erase(&bed, &tenant, &started).unwrap();
    assert!(!bed.run_row(&tenant, "made-up").state.is_synthetic);
    assert!(bed.ledger.retain(bed.now()).unwrap() > 0);
    bed.check();
}

#[test]
fn what_is_held_stays_until_it_is_released() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    let who = ("local", "case 9");
    bed.ledger
        .hold_place(&tenant, "h", HoldScope::Run("r".into()), who, bed.now())
        .unwrap();
    assert_eq!(bed.ledger.retain(bed.later(200 * DAY)).unwrap(), 4 + 2);
    bed.ledger
        .hold_place(&tenant, "t", HoldScope::Tenant, who, bed.now())
        .unwrap();
    bed.ledger.hold_release(&tenant, "h", who, bed.now()).unwrap();
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    bed.ledger.hold_release(&tenant, "t", who, bed.now()).unwrap();
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 5);
    assert_good(&report(&bed, true), &[]);
}

#[test]
fn a_body_that_no_archive_has_and_an_archive_that_was_changed_are_found() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    bed.ledger.retain(bed.later(200 * DAY)).unwrap();
    let one = archived(&bed, &tenant).remove(0);
    let path = Options::new(bed.path()).archive().join(&one.archive);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("SYNTHETIC", "SYNTHETIK", 1)).unwrap();
    let found = report(&bed, true);
    assert!(
        found
            .findings
            .iter()
            .any(|finding| finding.code == FindingCode::ArchiveMismatch),
        "{:?}",
        found.findings
    );
    std::fs::write(&path, text).unwrap();
    assert_good(&report(&bed, true), &[]);
    // A stretch that no record stands behind lets no body go unseen.
    let bed = bed.reopen_after(|folder| {
        tamper(
            folder,
            "INSERT INTO pruned SELECT max(leaf), max(leaf), 0 FROM bodies; \
             DELETE FROM bodies WHERE leaf = (SELECT max(leaf) FROM bodies)",
        );
    });
    let found = report(&bed, true);
    let codes: Vec<_> = found.findings.iter().map(|finding| finding.code).collect();
    assert!(codes.contains(&FindingCode::BodyMissing), "{codes:?}");
    assert!(codes.contains(&FindingCode::ProjectionUnexpected), "{codes:?}");
}

#[test]
fn a_crash_between_archive_and_commit_prunes_nothing_and_the_next_pass_goes_on() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    let before = bodies(&bed, &tenant);
    bed.fault.arm(Fault::AppendRefused);
    assert!(bed.ledger.retain(bed.later(8 * DAY)).is_err());
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_eq!(bodies(&bed, &tenant), before);
    bed.check();
    bed.fault.arm(Fault::AppendUnacknowledged);
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 4);
    assert_good(&report(&bed, true), &[]);
}

#[test]
fn a_stretch_of_pruned_leaves_that_was_altered_is_found() {
    for sql in [
        "UPDATE pruned SET last_leaf = last_leaf + 1 WHERE first_leaf = (SELECT max(first_leaf) FROM pruned)",
        "UPDATE pruned SET by_leaf = by_leaf - 1",
        "UPDATE pruned SET first_leaf = first_leaf - 1 WHERE first_leaf = (SELECT min(first_leaf) FROM pruned)",
        "DELETE FROM pruned WHERE first_leaf = (SELECT min(first_leaf) FROM pruned)",
    ] {
        let bed = TestLedger::new();
        let tenant = filled(&bed);
        assert_eq!(bed.ledger.retain(bed.later(8 * DAY)).unwrap(), 4);
        drop(tenant);
        let bed = bed.reopen_after(|folder| tamper(folder, sql));
        for with_archive in [false, true] {
            let found = report(&bed, with_archive);
            assert!(
                found.findings.iter().any(|finding| finding.place == "pruned"),
                "{sql}: {:?}",
                found.findings
            );
        }
    }
}

/// Runs of one step each, sealed, and records of the system.
pub fn many(bed: &TestLedger, count: usize) -> Arc<Tenant> {
    let tenant = bed.tenant("acme");
    for n in 0..count {
        let run_id = format!("r{n}");
        bed.all(&tenant, vec![run(&run_id), step(&run_id, 0), system(&run_id)]);
        bed.complete(&tenant, &run_id);
        bed.ledger.run_seal(&tenant, &run_id, SYSTEM, bed.now()).unwrap();
    }
    tenant
}

/// Which runs still have the body that they begin with.
fn not_archived(bed: &TestLedger, tenant: &Tenant, count: usize) -> Vec<usize> {
    let there = |n: &usize| {
        let started = bed.run_row(tenant, &format!("r{n}")).started_leaf;
        !bed.ledger.store().bodies_there(&[started]).unwrap().is_empty()
    };
    (0..count).filter(there).collect()
}

#[test]
fn what_is_held_keeps_nothing_behind_it_however_little_is_looked_at_at_once() {
    const RUNS: usize = 9;
    let bed = TestLedger::new();
    let tenant = many(&bed, RUNS);
    let who = ("local", "case 9");
    let held = bed.run_row(&tenant, "r1").started_leaf;
    let held = bed.ledger.records(&tenant).read(&[held]).unwrap()[0]
        .header()
        .unwrap()
        .id;
    bed.ledger
        .hold_place(&tenant, "h", HoldScope::Record(held), who, bed.now())
        .unwrap();
    bed.ledger
        .hold_place(&tenant, "h5", HoldScope::Run("r5".into()), who, bed.now())
        .unwrap();
    // Two at once: the held ones alone could fill that.
    let bed = bed.reopen_with(|options| options.retention.looked_max = 2);
    let tenant = bed.ledger.tenant(&tenant.tenant_id).unwrap();
    let pruned = bed.ledger.retain(bed.later(200 * DAY)).unwrap();
    assert_eq!(not_archived(&bed, &tenant, RUNS), [1, 5]);
    // Start, step, end, end of the trace; and a system record each.
    assert_eq!(pruned, (RUNS as u64 - 2) * 4 + RUNS as u64);
    // After a restart the walk begins anew, over what is archived already.
    let bed = bed.reopen_with(|options| options.retention.looked_max = 2);
    let tenant = bed.ledger.tenant(&tenant.tenant_id).unwrap();
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    bed.ledger.hold_release(&tenant, "h5", who, bed.now()).unwrap();
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 4);
    assert_eq!(not_archived(&bed, &tenant, RUNS), [1]);
    bed.ledger.hold_release(&tenant, "h", who, bed.now()).unwrap();
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 4);
    assert_good(&report(&bed, true), &[]);
}

#[test]
fn a_pass_ends_within_its_bounds_and_the_next_goes_on_where_it_ended() {
    const RUNS: usize = 50;
    let bed = TestLedger::new();
    let tenant = many(&bed, RUNS);
    let bed = bed.reopen_with(|options| options.retention.looked_max = 2);
    let tenant = bed.ledger.tenant(&tenant.tenant_id).unwrap();
    // Twenty archives of two each.
    assert_eq!(bed.ledger.retain(bed.later(200 * DAY)).unwrap(), 40 * 4 + 40);
    assert_eq!(not_archived(&bed, &tenant, RUNS), (40..50).collect::<Vec<_>>());
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 10 * 4 + 10);
    assert_good(&report(&bed, true), &[]);
}

#[test]
fn a_record_that_cannot_be_unpacked_keeps_no_other_from_the_archive() {
    let bed = TestLedger::new();
    let tenant = many(&bed, 3);
    let leaf = bed.run_row(&tenant, "r0").started_leaf.as_i64();
    drop(tenant);
    let bed = bed.reopen_after(|folder| {
        tamper(
            folder,
            &format!("UPDATE bodies SET body = x'ff' WHERE leaf = {leaf}"),
        );
    });
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_eq!(bed.ledger.retain(bed.later(200 * DAY)).unwrap(), 3 * 4 - 1 + 3);
    assert_eq!(not_archived(&bed, &tenant, 3), [0]);
}

/// A run of spans, sealed, beside the others.
fn with_spans(bed: &TestLedger) -> Arc<Tenant> {
    let tenant = filled(bed);
    let span = Span::default();
    bed.all(&tenant, vec![span.environment("shop"), span.draft()]);
    let later = bed.later(3_600_000);
    assert_eq!(bed.ledger.settle_due(later).unwrap(), 1);
    bed.ledger.seal_due(bed.later(3_600_000));
    tenant
}

#[test]
fn after_a_pruning_a_row_that_no_record_stands_behind_is_still_found() {
    let facet = |facet: &str, leaf: &str| {
        format!(
            "INSERT INTO facets SELECT (SELECT max(tenant_no) FROM facets), '{facet}', {leaf}, 0 \
             FROM pruned ORDER BY first_leaf DESC LIMIT 1"
        )
    };
    for (sql, place) in [
        // A hold that nobody released, on behalf of a record that nobody can look at.
        (facet("hold.off.run=goes-on", "first_leaf"), "facets"),
        (facet("hold.off.run=goes-on", "last_leaf + 1"), "facets"),
        (facet("erased", "first_leaf"), "facets"),
        (facet("kind=hold.released", "first_leaf"), "facets"),
        (facet("system.host=h", "last_leaf + 1"), "facets"),
        (
            "INSERT INTO traces SELECT tenant_no, 'invented', run FROM traces LIMIT 1".into(),
            "traces",
        ),
        (
            "UPDATE traces SET run = run + 1 WHERE typeof(trace_id) = 'blob'".into(),
            "traces.run",
        ),
        (
            "INSERT INTO run_records SELECT run, run_seq + 100, leaf, kind, NULL, step_index, occurred_at \
             FROM run_records LIMIT 1"
                .into(),
            "run_records",
        ),
    ] {
        let bed = TestLedger::new();
        let tenant = with_spans(&bed);
        assert_ne!(bed.ledger.retain(bed.later(200 * DAY)).unwrap(), 0);
        let pruned = report(&bed, false);
        assert!(pruned.findings.is_empty(), "{:?}", pruned.findings);
        assert!(pruned.flags[0].starts_with("PRUNED"));
        drop(tenant);
        let bed = bed.reopen_after(|folder| tamper(folder, &sql));
        for with_archive in [false, true] {
            let found = report(&bed, with_archive);
            assert!(
                found.findings.iter().any(|finding| finding.place == place),
                "{sql}, with archive {with_archive}: {:?}",
                found.findings
            );
        }
    }
}

#[test]
fn the_daily_look_reads_archives_and_takes_one_that_is_elsewhere_for_pruned() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    bed.ledger.retain(bed.later(200 * DAY)).unwrap();
    let one = archived(&bed, &tenant).remove(0);
    let path = Options::new(bed.path()).archive().join(&one.archive);
    let text = std::fs::read_to_string(&path).unwrap();
    let verifier = ledger::Verifier::open(&bed.ledger).unwrap();
    let origin = tenant.ledger().row.origin.clone();
    let found = || {
        verifier.scrub(bed.now());
        verifier.findings(&origin)
    };
    assert!(found().is_empty());
    std::fs::write(&path, text.replacen("SYNTHETIC", "SYNTHETIK", 1)).unwrap();
    assert_eq!(found()[0].code, FindingCode::ArchiveMismatch);
    std::fs::remove_file(&path).unwrap();
    assert!(found().is_empty());
    assert_eq!(verifier.progress(&origin).findings, 0);
}

#[test]
fn a_sealed_run_says_what_it_was_judged_to_be_after_its_bodies_are_archived() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    bed.all(&tenant, vec![run("failed")]);
    let failure = CaptureFailure::of_words("traces", "capture_failed", None, None).unwrap();
    let failure = bed
        .ledger
        .capture_failure(&tenant, "failed", &failure, bed.now())
        .unwrap();
    bed.complete(&tenant, "failed");
    bed.ledger.run_seal(&tenant, "failed", SYSTEM, bed.now()).unwrap();
    let answers = |bed: &TestLedger, tenant: &Arc<Tenant>| {
        ["r", "made-up", "failed"].map(|run_id| bed.ledger.run_integrity(tenant, run_id).unwrap().answer)
    };
    let before = answers(&bed, &tenant);
    assert!(bed.ledger.retain(bed.later(200 * DAY)).unwrap() > 0);
    assert_eq!(answers(&bed, &tenant), before);
    assert!(before.iter().all(|answer| answer.get("grade").is_some()));
    let records = bed.ledger.records(&tenant);
    let started = bed.run_row(&tenant, "failed").started_leaf;
    let started = &records.read(&[started]).unwrap()[0];
    assert_eq!(started.body.gone(), Some(Gone::Archived));
    let failure = records.get(failure.receipt.record_id).unwrap().unwrap();
    assert!(failure.body.bytes().is_some(), "what it was judged by stays too");
    assert_good(&report(&bed, true), &[]);
    bed.ledger.rebuild().unwrap();
    assert_eq!(answers(&bed, &tenant), before);

    drop((records, tenant));
    // A seal that is not at hand is said to be so; a run is never judged anew in its place.
    let bed = bed.reopen_after(|folder| {
        let kind = Kind::EvidenceIntegrity as u8;
        tamper(
            folder,
            &format!(
                "INSERT INTO pruned SELECT min(leaf), min(leaf), 0 FROM run_records WHERE kind = {kind}; \
                 DELETE FROM bodies WHERE leaf = (SELECT min(leaf) FROM run_records WHERE kind = {kind})"
            ),
        );
    });
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert!(matches!(
        bed.ledger.run_integrity(&tenant, "r"),
        Err(IntegrityError::SealGone(Gone::Archived))
    ));
}
