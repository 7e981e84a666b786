//! Tenants: made once, apart from each other, whole after a crash at any step of their making.

use std::sync::Arc;

use evidence::record::{SystemRecord, TENANT_CREATED};
use ledger::verify::{Question, verify};
use ledger::{HighWater, INSTANCE, KeyFolder, Options, SubmitError, TenantError, origin_of};
use store::Fault;

use crate::bed::{Span, TestLedger, assert_clean, copy_folder, report, run, step, system, system_of, tamper};

#[test]
fn nothing_crosses_from_one_tenant_to_another() {
    let bed = TestLedger::new();
    let (a, b) = (bed.tenant("a"), bed.tenant("b"));
    let span = Span {
        trace: 5,
        ..Span::default()
    };
    let drafts = || {
        vec![
            run("same"),
            step("same", 0),
            span.environment("svc"),
            span.draft(),
        ]
    };
    let of_a = bed.all(&a, drafts());
    let of_b = bed.all(&b, drafts());
    assert!(
        of_b.iter().all(|placed| placed.fresh),
        "the same ids are other records of another tenant"
    );
    for (one, two) in of_a.iter().zip(&of_b) {
        assert_eq!(one.receipt.leaf_index, two.receipt.leaf_index);
        assert_ne!(one.receipt.leaf_hash, two.receipt.leaf_hash);
        assert!(
            bed.ledger
                .records(&b)
                .get(one.receipt.record_id)
                .unwrap()
                .is_none()
        );
    }
    bed.one(&a, run("only-a"));
    assert!(bed.ledger.records(&b).run("only-a").unwrap().is_none());
    assert!(bed.submit(&b, vec![step("only-a", 0)])[0].is_err());
    bed.check();
}

#[test]
fn a_tenant_is_made_once_however_many_ask() {
    let bed = TestLedger::new();
    let tenants: Vec<Arc<ledger::Tenant>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| bed.tenant("acme"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(tenants.iter().all(|tenant| Arc::ptr_eq(tenant, &tenants[0])));
    assert_eq!(bed.ledger.stopped(), None);
    let instance = bed.ledger.tenant(INSTANCE).unwrap();
    assert_eq!(bed.size(&instance), 1, "one record says that it was made");
    bed.check();
}

#[test]
fn names_that_are_no_tenants_are_refused() {
    let bed = TestLedger::new();
    for name in ["", "_instance", "Acme", "../x", "a b"] {
        assert!(
            matches!(bed.ledger.tenant_create(name, bed.now()), Err(TenantError::Name)),
            "{name}"
        );
    }
    bed.check();
}

#[test]
fn a_crash_between_key_mark_row_and_record_is_taken_up_by_the_next_attempt() {
    for fault in [
        Fault::LedgerLost,
        Fault::LedgerUnacknowledged,
        Fault::AppendRefused,
        Fault::AppendUnsynced,
    ] {
        let bed = TestLedger::new();
        bed.fault.arm(fault);
        assert!(bed.ledger.tenant_create("acme", bed.now()).is_err(), "{fault:?}");
        let bed = bed.reopen();
        let tenant = bed.tenant("acme");
        assert_eq!(tenant.tenant_no, 1);
        bed.one(&tenant, system("x"));
        let instance = bed.ledger.tenant(INSTANCE).unwrap();
        assert_eq!(bed.size(&instance), 1, "{fault:?}");
        bed.check();
    }
}

#[test]
fn a_key_with_its_mark_is_taken_up_and_a_key_alone_is_set_aside() {
    for with_mark in [false, true] {
        let bed = TestLedger::new();
        let origin = origin_of("deponent.local", "acme", 0);
        let mut vkey = String::new();
        let bed = bed.reopen_after(|folder| {
            let keys = KeyFolder::open(&Options::new(folder).keys()).unwrap();
            vkey = keys
                .read_or_create("acme", 0, &origin)
                .unwrap()
                .verifier()
                .to_string();
            if with_mark {
                let mut marks = HighWater::open(&Options::new(folder).high_water()).unwrap();
                let mark = ledger::Mark {
                    size: tlog::TreeSize::new(0),
                    root: tlog::empty_root(),
                };
                marks.raise(&[(origin.clone(), mark)]).unwrap();
            }
        });
        bed.check();
        let tenant = bed.tenant("acme");
        // Of one alone nobody knows what it has signed.
        assert_eq!(tenant.ledger().row.vkey == vkey, with_mark);
        bed.one(&tenant, system("x"));
        bed.check();
    }
}

#[test]
fn a_tenant_whose_record_a_crash_took_is_recorded_at_the_next_start() {
    let bed = TestLedger::new();
    bed.fault.arm(Fault::AppendRefused);
    assert!(bed.ledger.tenant_create("acme", bed.now()).is_err());
    let bed = bed.reopen();
    // Nobody asks for it to be made again; it is used as it was found.
    let Some(tenant) = bed.ledger.tenant("acme") else {
        panic!("its ledger was made")
    };
    bed.one(&tenant, system("x"));
    assert_eq!(bed.ledger.store().tenants_list().unwrap().len(), 1);
    bed.check();
}

#[test]
fn a_tenant_that_is_made_while_a_verification_begins_is_not_missed() {
    for only_ledger in [false, true] {
        let bed = TestLedger::new();
        bed.tenant("acme");
        let (ledger, at) = (bed.ledger.clone(), bed.now());
        // The ledgers are listed by then, and the instance's head is not fixed yet.
        bed.fault.before("snapshot", 1, move || {
            ledger.tenant_create("late", at).unwrap();
        });
        let question = Question {
            only_ledger,
            ..Question::default()
        };
        assert_clean(&verify(&*bed.fault, &question).unwrap());
        assert!(bed.ledger.tenant("late").is_some());
    }
}

#[test]
fn a_ledger_that_no_record_made_is_excused_only_where_a_crash_may_have_left_it() {
    let bed = TestLedger::new();
    bed.tenant("other");
    let options = Options::new(bed.path());
    let older = HighWater::open(&options.high_water()).unwrap();
    bed.fault.arm(Fault::AppendRefused);
    assert!(bed.ledger.tenant_create("acme", bed.now()).is_err());
    // Key, mark and row are there.
    assert_clean(&bed.report());
    // A verification that began before has read the marks of then.
    for only_ledger in [false, true] {
        let keys = KeyFolder::at(&options.keys());
        let question = Question {
            only_ledger,
            marks: Some(&older),
            keys: Some(&keys),
            ..Question::default()
        };
        assert_clean(&verify(&*bed.fault, &question).unwrap());
    }
    // A row without a mark was put there.
    let planted = tempfile::tempdir().unwrap();
    copy_folder(bed.path(), planted.path());
    let marks = Options::new(planted.path()).high_water();
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&marks).unwrap()).unwrap();
    let removed = file["ledgers"]
        .as_object_mut()
        .unwrap()
        .remove("deponent.local/acme");
    assert!(removed.is_some());
    std::fs::write(&marks, file.to_string()).unwrap();
    let report = report(planted.path());
    let found: Vec<(&str, &str)> = report
        .findings
        .iter()
        .map(|finding| (finding.place.as_str(), finding.detail.as_str()))
        .collect();
    let why =
        "no record made tenant acme of number 2, and its ledger has no mark, which is made before the row";
    assert_eq!(found, [("ledgers.tenant_no", why)]);
    // So was one whose origin is not its tenant's.
    tamper(
        planted.path(),
        "UPDATE ledgers SET origin = 'deponent.local/else' WHERE tenant_id = 'acme'",
    );
    let store = store::sqlite::SqliteStore::open(
        &crate::bed::database(planted.path()),
        store::sqlite::Access::ReadOnly,
    );
    let report = verify(&store.unwrap(), &Question::default()).unwrap();
    let found = report
        .findings
        .iter()
        .any(|finding| finding.detail.ends_with("such a name or origin"));
    assert!(found, "{:?}", report.findings);
}

#[test]
fn a_ledger_that_is_made_after_the_marks_were_read_has_not_lost_its_mark() {
    let bed = TestLedger::new();
    bed.tenant("other");
    let older = HighWater::open(&Options::new(bed.path()).high_water()).unwrap();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    bed.ledger.checkpoint_now(&tenant);
    for only_ledger in [false, true] {
        let question = Question {
            only_ledger,
            marks: Some(&older),
            ..Question::default()
        };
        assert_clean(&verify(&*bed.fault, &question).unwrap());
    }
}

#[test]
fn a_caller_cannot_pass_a_record_off_as_a_tenants_making() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let details = |name: &str| {
        let text = evidence::canonical::Value::String(name.into());
        Some(evidence::canonical::Value::Object(vec![
            ("tenant_id".into(), text),
            ("tenant_no".into(), evidence::canonical::Value::Int(77)),
        ]))
    };
    for details in [details("fake"), None] {
        let record = SystemRecord {
            component: "host".into(),
            event_type: TENANT_CREATED.into(),
            severity: "INFO".into(),
            summary: "x".into(),
            details,
            ..SystemRecord::default()
        };
        bed.one(&tenant, system_of(&record));
        bed.one(&bed.ledger.tenant(INSTANCE).unwrap(), system_of(&record));
    }
    assert_eq!(bed.ledger.store().tenants_list().unwrap().len(), 1);
    bed.check();
}

#[test]
fn a_refused_ledger_does_not_hold_up_the_others() {
    let bed = TestLedger::new();
    let (bad, good) = (bed.tenant("bad"), bed.tenant("good"));
    bed.one(&bad, system("x"));
    bed.one(&good, system("x"));
    let bed = bed.reopen_after(|folder| std::fs::remove_file(folder.join("keys/bad.0.key")).unwrap());
    let (bad, good) = (
        bed.ledger.tenant("bad").unwrap(),
        bed.ledger.tenant("good").unwrap(),
    );
    assert!(matches!(
        bed.try_submit(&bad, vec![system("y")]),
        Err(SubmitError::Refused(_))
    ));
    bed.one(&good, system("y"));
    assert!(
        bed.report()
            .findings
            .iter()
            .all(|finding| finding.tenant_id.as_deref() == Some("bad"))
    );
    let _ = good;
}
