//! What has been kept long enough is archived, then pruned; and what verification makes of it.

use std::sync::Arc;

use evidence::record::{HoldScope, RetentionArchived, RunStarted};
use evidence::{ActorType, FindingCode};
use ledger::verify::{Question, Report, verify};
use ledger::{EraseAsked, EraseError, HighWater, KeyFolder, Options, Tenant};
use store::Fault;
use store::sqlite::{Access, SqliteStore};

use crate::bed::{TestLedger, projections, run, run_of, step, system, tamper};

const SYSTEM: (ActorType, Option<&str>) = (ActorType::System, None);

const DAY: i64 = 24 * 3_600 * 1_000;

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

fn report(bed: &TestLedger, with_archive: bool) -> Report {
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
fn assert_good(report: &Report, flags: &[&str]) {
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(
        (report.flags.as_slice(), report.exit_code(None)),
        (
            &flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>()[..],
            0
        )
    );
}

fn archived(bed: &TestLedger, tenant: &Arc<Tenant>) -> Vec<RetentionArchived> {
    let query = store::FacetQuery {
        facets: vec!["kind=retention.archived".into()],
        limit: 100,
        ..store::FacetQuery::default()
    };
    let found = bed.ledger.records(tenant).find(&query).unwrap();
    found
        .records
        .iter()
        .map(|record| RetentionArchived::read(record.body.as_ref().unwrap()).unwrap())
        .collect()
}

#[test]
fn each_class_goes_in_its_time_into_a_file_that_verification_reads() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    let before = bodies(&bed, &tenant);
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    // The made up run: its start, step, end, the end of its trace, its seal.
    assert_eq!(bed.ledger.retain(bed.later(8 * DAY)).unwrap(), 5);
    assert_good(&report(&bed, false), &["PRUNED 5"]);
    assert_eq!(bed.ledger.retain(bed.later(23 * DAY)).unwrap(), 2);
    assert_eq!(bed.ledger.retain(bed.later(60 * DAY)).unwrap(), 6);
    // Only what goes on is left, and the three records that say where the rest is.
    assert_eq!(bodies(&bed, &tenant), before - 13 + 3);
    let kept = projections(bed.path());
    assert_good(&report(&bed, false), &["PRUNED 13"]);
    assert_good(&report(&bed, true), &[]);
    let archived = archived(&bed, &tenant);
    assert_eq!(
        archived.iter().map(|one| one.count).collect::<Vec<_>>(),
        [5, 2, 6]
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
    // The same sent again is the first receipt.
    assert!(!bed.one(&tenant, step("r", 0)).fresh);
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
fn what_is_held_stays_until_it_is_released() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    let who = ("local", "case 9");
    bed.ledger
        .hold_place(&tenant, "h", HoldScope::Run("r".into()), who, bed.now())
        .unwrap();
    assert_eq!(bed.ledger.retain(bed.later(200 * DAY)).unwrap(), 5 + 2);
    bed.ledger
        .hold_place(&tenant, "t", HoldScope::Tenant, who, bed.now())
        .unwrap();
    bed.ledger.hold_release(&tenant, "h", who, bed.now()).unwrap();
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 0);
    bed.ledger.hold_release(&tenant, "t", who, bed.now()).unwrap();
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 6);
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
    assert_eq!(bed.ledger.retain(bed.now()).unwrap(), 5);
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
        assert_eq!(bed.ledger.retain(bed.later(8 * DAY)).unwrap(), 5);
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
