//! What runs beside: full verifications of all tenants, and what they leave behind.

use evidence::FindingCode;
use ledger::{OnRecord, Verifier};
use store::sqlite::StateDb;

use crate::bed::{TestLedger, run, step, system, tamper};
use crate::recovery::rolled_back;

#[test]
fn one_tenants_damage_does_not_hide_anothers() {
    let bed = TestLedger::new();
    let (loud, quiet) = (bed.tenant("loud"), bed.tenant("quiet"));
    bed.one(&loud, run("r"));
    for first in (0..10_100).step_by(1_010) {
        bed.all(
            &loud,
            (first..first + 1_010).map(|index| step("r", index)).collect(),
        );
    }
    let kept = bed.one(&quiet, system("kept"));
    let verifier = Verifier::open(&bed.ledger).unwrap();
    let origin = |tenant: &ledger::Tenant| tenant.ledger().row.origin.clone();
    verifier.scrub(bed.now());
    assert_eq!(verifier.progress(&origin(&quiet)).findings, 0);
    let verified = verifier.progress(&origin(&quiet)).verified_at;
    assert!(verified.is_some());

    let leaf = store::LeafKey::new(quiet.ledger().row.ledger_no, kept.receipt.leaf_index).as_i64();
    tamper(
        bed.path(),
        &format!(
            "UPDATE run_records SET occurred_at = occurred_at + 1;
             UPDATE bodies SET salt = zeroblob(32) WHERE leaf = {leaf};"
        ),
    );
    verifier.scrub(bed.now());
    assert!(verifier.progress(&origin(&loud)).findings > 10_000);
    let of_quiet = verifier.progress(&origin(&quiet));
    assert_eq!(of_quiet.findings, 1);
    assert_eq!(of_quiet.verified_at, verified);
    assert_eq!(
        verifier.findings(&origin(&quiet))[0].leaf_index,
        Some(kept.receipt.leaf_index)
    );

    // New leaves that are in order do not make the old ones so.
    bed.one(&quiet, system("new"));
    verifier.incremental(bed.now());
    assert_eq!(verifier.progress(&origin(&quiet)).findings, 1);
}

#[test]
fn marks_that_cannot_be_read_are_found() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("one"));
    // Who signs later writes the marks anew.
    bed.sign();
    std::fs::write(bed.ledger.options().high_water(), "{").unwrap();
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.scrub(bed.now());
    assert_eq!(verifier.progress(&tenant.ledger().row.origin).findings, 1);
}

#[test]
fn what_was_found_before_a_recovery_was_finished_is_not_held_against_the_epoch_that_it_began() {
    let bed = rolled_back(|_| {});
    bed.fault.arm(store::Fault::AppendRefused);
    assert!(bed.ledger.recover("acme", "first try", bed.now()).is_err());
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    let row = tenant.ledger().row.clone();
    let verifier = Verifier::open(&bed.ledger).unwrap();
    let at = bed.now();
    verifier.scrub(at);
    // It is refused, which says enough.
    assert!(tenant.refusal().is_some());
    assert_eq!(verifier.progress(&row.origin).findings, 0);
    assert!(!verifier.scrub_due(at));
    bed.ledger.recover("acme", "second try", bed.now()).unwrap();
    assert_eq!(tenant.ledger().row.origin, row.origin);
    assert!(verifier.scrub_due(at), "nobody has looked at it yet");
    verifier.scrub(at);
    assert_eq!(verifier.progress(&row.origin).findings, 0);
    assert!(!verifier.scrub_due(at));
}

#[test]
fn what_was_found_is_told_until_it_is_on_record_and_again_when_it_comes_back() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let row = tenant.ledger().row.clone();
    let told = |verifier: &Verifier, durable: bool| {
        let mut told = None;
        verifier.record_found(&row, bed.now(), |count, found_at| {
            told = Some((count, found_at));
            durable
        });
        told
    };
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.scrub(bed.now());
    assert_eq!(told(&verifier, true), None);
    tamper(bed.path(), "UPDATE runs SET model = 'another'");
    let found_at = bed.now();
    verifier.scrub(found_at);
    assert_eq!(told(&verifier, false), Some((1, found_at)));
    // A process that dies before the record is durable leaves it to the next, and one that dies after it does not.
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.scrub(bed.now());
    assert_eq!(told(&verifier, true), Some((1, found_at)));
    assert_eq!(told(&verifier, true), None);
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.scrub(bed.now());
    assert_eq!(told(&verifier, true), None);
    // Mended, which is told in the same way.
    tamper(bed.path(), "UPDATE runs SET model = NULL");
    let mended_at = bed.now();
    verifier.scrub(mended_at);
    assert_eq!(verifier.progress(&row.origin).findings, 0);
    assert_eq!(told(&verifier, false), Some((0, mended_at)));
    let verifier = Verifier::open(&bed.ledger).unwrap();
    assert_eq!(told(&verifier, true), Some((0, mended_at)));
    assert_eq!(told(&verifier, true), None);
    // Broken anew; mended, and broken anew before it was told.
    for _ in 0..2 {
        tamper(bed.path(), "UPDATE runs SET model = 'another'");
        let found_at = bed.now();
        verifier.scrub(found_at);
        assert_eq!(told(&verifier, true), Some((1, found_at)));
        assert_eq!(told(&verifier, true), None);
        tamper(bed.path(), "UPDATE runs SET model = NULL");
        verifier.scrub(bed.now());
    }
}

#[test]
fn findings_on_record_stand_until_everything_was_verified_whatever_was_kept() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let row = tenant.ledger().row.clone();
    let verifier = Verifier::open(&bed.ledger).unwrap();
    let at = bed.now();
    verifier.scrub(at);
    let kept = verifier.progress(&row.origin);
    assert!(kept.findings == 0 && kept.verified_size == 1 && !verifier.scrub_due(at));
    verifier.hold_to_record(&row, OnRecord::Clean);
    assert_eq!(verifier.progress(&row.origin), kept);
    // What cannot be read may be anything.
    verifier.hold_to_record(&row, OnRecord::Unknown);
    let held = verifier.progress(&row.origin);
    assert_eq!((held.findings, held.last_full_scrub_at), (0, None));
    assert!(verifier.scrub_due(at));

    let found_at = bed.now();
    verifier.hold_to_record(&row, OnRecord::Findings { count: 3, found_at });
    let held = verifier.progress(&row.origin);
    assert_eq!(
        (held.findings, held.verified_size, held.verified_at),
        (3, 0, None)
    );
    assert!(verifier.knows(&row.origin) && verifier.scrub_due(at));
    // Leaves that are in order do not make the rest so.
    verifier.incremental(bed.now());
    let held = verifier.progress(&row.origin);
    assert_eq!((held.findings, held.verified_size), (3, 1));
    let scrubbed = bed.now();
    verifier.scrub(scrubbed);
    assert_eq!(verifier.progress(&row.origin).findings, 0);
    assert!(!verifier.scrub_due(scrubbed));
    let mut told = None;
    verifier.record_found(&row, bed.now(), |count, since| {
        told = Some((count, since));
        true
    });
    assert_eq!(told, Some((0, scrubbed)));
}

#[test]
fn what_is_new_is_verified_step_by_step_and_is_not_said_to_be_verified_before() {
    let bed = TestLedger::new();
    let (busy, quiet) = (bed.tenant("busy"), bed.tenant("quiet"));
    bed.one(&busy, run("r"));
    for first in (0..5_050).step_by(1_010) {
        bed.all(
            &busy,
            (first..first + 1_010).map(|index| step("r", index)).collect(),
        );
    }
    // A block each: more than are read at once.
    for _ in 0..70 {
        bed.one(&busy, system("one"));
    }
    let verifier = Verifier::open(&bed.ledger).unwrap();
    let progress = |tenant: &ledger::Tenant| verifier.progress(&tenant.ledger().row.origin);
    let at = bed.now();
    let behind = verifier.behind(at);
    assert_eq!(behind.len(), 3, "with the instance's");
    // It is left to the next time.
    let late = bed.one(&busy, system("late"));
    let mut left = 0;
    for behind in &behind {
        while verifier.step(behind, at) {
            left += 1;
            let so_far = progress(&busy);
            assert!((1..bed.size(&busy)).contains(&so_far.verified_size), "{so_far:?}");
            assert_eq!(so_far.verified_at, None);
        }
    }
    assert_eq!(left, 1);
    let verified = progress(&busy).verified_size;
    assert!(verified >= late.receipt.leaf_index, "{verified}");
    assert_eq!(progress(&busy).verified_at, Some(at));
    assert_eq!(progress(&quiet).verified_at, Some(at));

    // One that is new is not kept waiting by what came in meanwhile.
    for _ in 0..3 {
        bed.one(&busy, system("more"));
    }
    let new = bed.tenant("new");
    bed.one(&new, system("first"));
    let behind = verifier.behind(at);
    assert!(!verifier.step(&behind[0], at));
    assert_eq!(progress(&new).verified_at, Some(at));
    assert_eq!(progress(&busy).verified_size, verified);

    // What is altered among them is found, and the step does not go past it.
    let row = busy.ledger().row.clone();
    let leaf = store::LeafKey::new(row.ledger_no, verified + 1).as_i64();
    tamper(
        bed.path(),
        &format!("UPDATE bodies SET salt = zeroblob(32) WHERE leaf = {leaf};"),
    );
    verifier.incremental(bed.later(20_000));
    let found = progress(&busy);
    assert_eq!((found.findings, found.verified_size), (1, verified));
    assert_eq!(found.verified_at, Some(at), "nothing is verified since");
    assert_eq!(verifier.findings(&row.origin)[0].leaf_index, Some(verified + 1));
}

#[test]
fn a_step_is_of_leaves_and_not_of_blocks_and_what_is_new_comes_first() {
    let bed = TestLedger::new();
    let known = bed.tenant("a");
    bed.one(&known, system("one"));
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.incremental(bed.now());
    bed.one(&known, system("two"));
    let new = bed.tenant("new");
    // Each in a commit of its own, and so in a block.
    for _ in 0..100 {
        bed.one(&new, system("one"));
    }
    let at = bed.now();
    let behind = verifier.behind(at);
    assert_eq!(behind.iter().filter(|behind| behind.is_new()).count(), 1);
    assert!(behind[0].is_new());
    assert!(!verifier.step(&behind[0], at), "one step is enough");
    let progress = verifier.progress(&new.ledger().row.origin);
    assert_eq!(
        (progress.verified_size, progress.verified_at),
        (bed.size(&new), Some(at))
    );
    // It was looked at, and is behind no more.
    assert!(verifier.behind(at).iter().all(|behind| !behind.is_new()));
}

#[test]
fn a_ledger_that_loses_leaves_while_a_pass_is_under_way_ends_the_pass_and_is_found() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("one"));
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.incremental(bed.now());
    let last = bed.one(&tenant, system("two")).receipt.leaf_index;
    let row = tenant.ledger().row.clone();
    let behind = verifier.behind(bed.now()).pop().unwrap();
    let leaf = store::LeafKey::new(row.ledger_no, last).as_i64();
    tamper(
        bed.path(),
        &format!("DELETE FROM leaf_blocks WHERE first_leaf = {leaf}"),
    );
    // All that is there was verified before: a step that is left would be left for ever.
    assert!(!verifier.step(&behind, bed.now()));
    let found = verifier.findings(&row.origin);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].code, FindingCode::RolledBack);
}

#[test]
fn what_state_db_says_of_leaves_or_times_that_are_not_there_does_not_stay() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("one"));
    let row = tenant.ledger().row.clone();
    Verifier::open(&bed.ledger).unwrap().scrub(bed.now());
    let state = StateDb::open(&bed.path().join("state.db")).unwrap();
    let kept = state.progress(&row.origin).unwrap();
    let mut beyond = kept;
    beyond.verified_size = 1_000_000_000;
    state.progress_set(&row.origin, &beyond).unwrap();
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.incremental(bed.now());
    assert_eq!(verifier.findings(&row.origin)[0].code, FindingCode::RolledBack);
    // A full verification finds nothing, and neither does what follows it.
    verifier.scrub(bed.now());
    let told = |verifier: &Verifier| {
        let progress = verifier.progress(&row.origin);
        (progress.findings, progress.verified_size)
    };
    assert_eq!(told(&verifier), (0, bed.size(&tenant)));
    bed.one(&tenant, system("two"));
    verifier.incremental(bed.now());
    assert_eq!(told(&verifier), (0, bed.size(&tenant)));

    let mut to_come = state.progress(&row.origin).unwrap();
    to_come.verified_at = Some(crate::bed::time("2099-01-01T00:00:00Z"));
    state.progress_set(&row.origin, &to_come).unwrap();
    let verifier = Verifier::open(&bed.ledger).unwrap();
    let at = bed.now();
    verifier.incremental(at);
    assert_eq!(verifier.progress(&row.origin).verified_at, Some(at));
}

#[test]
fn the_findings_of_a_full_verification_are_told_beside_a_later_one() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let row = tenant.ledger().row.clone();
    let altered = |summary: &str| {
        let index = bed.one(&tenant, system(summary)).receipt.leaf_index;
        let leaf = store::LeafKey::new(row.ledger_no, index).as_i64();
        let alter = format!("UPDATE bodies SET salt = zeroblob(32) WHERE leaf = {leaf}");
        tamper(bed.path(), &alter);
    };
    altered("one");
    altered("two");
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.scrub(bed.now());
    let found = verifier.findings(&row.origin);
    assert_eq!(found.len(), 2);
    // Findings keep a pass from going on, so it begins behind them.
    let state = StateDb::open(&bed.path().join("state.db")).unwrap();
    let mut kept = state.progress(&row.origin).unwrap();
    kept.verified_size = bed.size(&tenant);
    state.progress_set(&row.origin, &kept).unwrap();
    altered("three");
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.incremental(bed.now());
    assert_eq!(verifier.progress(&row.origin).findings, 2);
    assert_eq!(verifier.findings(&row.origin), found);
}

#[test]
fn a_pass_that_finds_something_says_of_no_leaf_that_it_is_verified() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let row = tenant.ledger().row.clone();
    let index = bed.one(&tenant, system("one")).receipt.leaf_index;
    let leaf = store::LeafKey::new(row.ledger_no, index).as_i64();
    let alter = format!("UPDATE bodies SET salt = zeroblob(32) WHERE leaf = {leaf}");
    tamper(bed.path(), &alter);
    // The first, and one behind a time that is still to come.
    for verified_at in [None, Some(crate::bed::time("2099-01-01T00:00:00Z"))] {
        let state = StateDb::open(&bed.path().join("state.db")).unwrap();
        let mut kept = state.progress(&row.origin).unwrap();
        kept.verified_at = verified_at;
        state.progress_set(&row.origin, &kept).unwrap();
        let verifier = Verifier::open(&bed.ledger).unwrap();
        verifier.incremental(bed.later(20_000));
        let found = verifier.progress(&row.origin);
        assert_eq!(
            (found.findings, found.verified_size, found.verified_at),
            (1, 0, None)
        );
        assert!(verifier.knows(&row.origin));
    }
}

#[test]
fn a_missing_body_is_found_when_the_store_can_say_that_no_record_erased_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("one"));
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.incremental(bed.now());
    bed.one(&tenant, system("two"));
    bed.sign();
    let row = tenant.ledger().row.clone();
    let leaf = store::LeafKey::new(row.ledger_no, 1).as_i64();
    tamper(bed.path(), &format!("DELETE FROM bodies WHERE leaf = {leaf}"));
    let told = || {
        let progress = verifier.progress(&row.origin);
        (progress.findings, progress.verified_size)
    };
    let behind = &verifier.behind(bed.now())[0];
    bed.fault.arm(store::Fault::ReadBy("facet_count"));
    assert!(!verifier.step(behind, bed.now()));
    assert_eq!((bed.fault.armed(), told()), (vec![], (0, 1)));
    assert!(!verifier.step(behind, bed.now()));
    assert_eq!(
        (told(), verifier.findings(&row.origin)[0].code),
        ((1, 1), FindingCode::BodyMissing)
    );
}

#[test]
fn a_right_edge_that_cannot_be_read_is_found_and_a_store_that_cannot_answer_is_not() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("one"));
    let verifier = Verifier::open(&bed.ledger).unwrap();
    verifier.incremental(bed.now());
    bed.one(&tenant, system("two"));
    bed.sign();
    let row = tenant.ledger().row.clone();
    let told = || {
        let progress = verifier.progress(&row.origin);
        (progress.findings, progress.verified_size)
    };
    // The instance's is not.
    let behind = &verifier.behind(bed.now())[0];
    bed.fault.arm(store::Fault::ReadBy("blocks_read"));
    assert!(!verifier.step(behind, bed.now()));
    assert_eq!((bed.fault.armed(), told()), (vec![], (0, 1)));

    let first = store::LeafKey::new(row.ledger_no, 0).as_i64();
    tamper(
        bed.path(),
        &format!("UPDATE leaf_blocks SET leaves = x'ff' WHERE first_leaf = {first}"),
    );
    assert!(!verifier.step(behind, bed.now()));
    assert_eq!(told(), (1, 1));
    let found = verifier.findings(&row.origin);
    assert_eq!(
        (found[0].code, found[0].leaf_index),
        (FindingCode::Unreadable, Some(0))
    );
}
