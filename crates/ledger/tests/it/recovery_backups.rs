//! Recovery beside what a backup brought back: databases, marks and keys of other ages.

use std::path::Path;

use ledger::{HighWater, Mark, Options, RecoverError};

use crate::bed::{TestLedger, copy_database, copy_folder, system, tamper};
use crate::recovery::{assert_refused, rolled_back};

#[test]
fn a_declared_loss_stays_declared_when_the_marks_are_those_of_a_backup() {
    let bed = rolled_back(|_| {});
    bed.ledger.recover("acme", "first", bed.now()).unwrap();
    let old = bed.ledger.tenant("acme").unwrap().epochs()[0].row.clone();
    let head = bed.ledger.store().head_read(old.ledger_no).unwrap();
    let bed = bed.reopen_after(|folder| {
        let marks = Options::new(folder).high_water();
        std::fs::remove_file(&marks).unwrap();
        let mark = Mark {
            size: head.size,
            root: head.root,
        };
        HighWater::open(&marks)
            .unwrap()
            .raise(&[(old.origin.clone(), mark)])
            .unwrap();
    });
    assert_refused(&bed);
    bed.ledger.recover("acme", "second", bed.now()).unwrap();
    let lost: Vec<_> = bed
        .report()
        .ledgers
        .iter()
        .filter_map(|ledger| ledger.declared_lost)
        .collect();
    assert_eq!(lost, [(2, 5)]);
}

#[test]
fn a_backup_from_before_a_recovery_is_recovered_under_a_number_and_key_of_its_own() {
    let bed = rolled_back(|_| {});
    let older = tempfile::tempdir().unwrap();
    let bed = bed.reopen_after(|folder| copy_folder(folder, older.path()));
    bed.ledger.recover("acme", "first", bed.now()).unwrap();
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.all(&tenant, vec![system("lost too")]);
    bed.ledger.checkpoint_now(&tenant);
    let first = tenant.ledger().row.vkey.clone();
    let bed = bed.reopen_after(|folder| copy_database(older.path(), folder));
    assert_refused(&bed);
    let (_, origin) = bed.ledger.recover("acme", "second", bed.now()).unwrap();
    assert_eq!(origin, "deponent.local/acme/2", "epoch 1 has signed another tree");
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_ne!(tenant.ledger().row.vkey, first);
    bed.one(&tenant, system("now"));
    let bed = bed.reopen();
    let report = bed.report();
    crate::bed::assert_clean(&report);
    assert_eq!(
        report.flags,
        ["LOST 2"],
        "the epoch that the database does not know"
    );
    // Without the marks too: the key file alone says that there was one.
    let bed = bed.reopen_after(|folder| {
        copy_database(older.path(), folder);
        std::fs::remove_file(Options::new(folder).high_water()).unwrap();
    });
    let (_, origin) = bed.ledger.recover("acme", "third", bed.now()).unwrap();
    assert_eq!(origin, "deponent.local/acme/3");
}

/// Two recoveries, and a copy of the folder from between them.
fn recovered_twice(between: &Path) -> TestLedger {
    let bed = rolled_back(|_| {});
    bed.ledger.recover("acme", "first", bed.now()).unwrap();
    let bed = bed.reopen_after(|folder| copy_folder(folder, between));
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.all(&tenant, vec![system("lost")]);
    bed.ledger.checkpoint_now(&tenant);
    let bed = bed.reopen_after(|folder| copy_database(between, folder));
    bed.ledger.recover("acme", "second", bed.now()).unwrap();
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.all(&tenant, vec![system("acknowledged")]);
    bed.ledger.checkpoint_now(&tenant);
    bed
}

#[test]
fn database_and_marks_of_one_backup_are_refused_beside_the_key_of_a_later_epoch() {
    let backup = tempfile::tempdir().unwrap();
    let bed = recovered_twice(backup.path());
    let bed = bed.reopen_after(|folder| {
        copy_database(backup.path(), folder);
        let marks = [backup.path(), folder].map(|of| Options::new(of).high_water());
        std::fs::copy(&marks[0], &marks[1]).unwrap();
    });
    assert_refused(&bed);
    let found: Vec<String> = bed.report().findings.iter().map(ToString::to_string).collect();
    let why = "there is a key of deponent.local/acme/2, the database has no such ledger";
    assert!(found.iter().any(|finding| finding.contains(why)), "{found:?}");
    let (_, origin) = bed.ledger.recover("acme", "third", bed.now()).unwrap();
    assert_eq!(origin, "deponent.local/acme/3");
    // The key is spoken of from now on.
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.one(&tenant, system("now"));
    crate::bed::assert_clean(&bed.report());
    let origin = tenant.ledger().row.origin.clone();
    tamper(
        bed.path(),
        &format!("DELETE FROM ledgers WHERE origin = '{origin}'"),
    );
    let found: Vec<String> = bed.report().findings.iter().map(ToString::to_string).collect();
    assert!(found.iter().any(|finding| finding.contains(why)), "{found:?}");
}

#[test]
fn a_tenant_that_only_marks_know_is_made_anew_refused_and_recovered() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    bed.ledger.checkpoint_now(&tenant);
    bed.ledger
        .checkpoint_now(&bed.ledger.tenant("_instance").unwrap());
    let nothing = tempfile::tempdir().unwrap();
    let bed = bed.reopen_after(|folder| copy_database(nothing.path(), folder));
    let lost = bed.ledger.recover("acme", "why", bed.now()).unwrap_err();
    assert!(
        matches!(&lost, RecoverError::TenantLost { leaves: 1, .. }),
        "{lost:?}"
    );
    assert!(lost.to_string().contains("deponent tenant create acme"), "{lost}");
    assert!(matches!(
        bed.ledger.recover("nobody", "why", bed.now()),
        Err(RecoverError::TenantUnknown(_))
    ));
    bed.tenant("acme");
    assert_refused(&bed);
    let (_, origin) = bed.ledger.recover("acme", "disk lost", bed.now()).unwrap();
    assert_eq!(origin, "deponent.local/acme/1");
    // Its record could not be written, and is with the recovery of the ledger that it belongs in.
    assert!(bed.ledger.store().tenants_list().unwrap().is_empty());
    bed.ledger.recover("_instance", "disk lost", bed.now()).unwrap();
    assert_eq!(bed.ledger.store().tenants_list().unwrap().len(), 1);
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.one(&tenant, system("now"));
    crate::bed::assert_clean(&bed.report());
}

#[test]
fn a_key_whose_ledger_and_mark_are_gone_signs_no_other() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    bed.ledger.checkpoint_now(&tenant);
    let before = tenant.ledger().row.vkey.clone();
    let nothing = tempfile::tempdir().unwrap();
    let bed = bed.reopen_after(|folder| {
        copy_database(nothing.path(), folder);
        std::fs::remove_file(Options::new(folder).high_water()).unwrap();
    });
    let tenant = bed.tenant("acme");
    assert_eq!(bed.size(&tenant), 0);
    assert_ne!(tenant.ledger().row.vkey, before);
    let aside = Options::new(bed.path()).keys().join("acme.0.key.1.old");
    assert!(aside.exists(), "it opens what it signed");
    bed.one(&tenant, system("y"));
    bed.check();
}

/// All is lost but a backup: its old marks would let its old keys sign once more what they have signed otherwise.
#[test]
fn a_whole_backup_without_its_marks_is_refused_and_goes_on_under_other_keys() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("kept"));
    bed.ledger.checkpoint_now(&tenant);
    let before = tenant.ledger().row.vkey.clone();
    let backup = tempfile::tempdir().unwrap();
    let bed = bed.reopen_after(|folder| copy_folder(folder, backup.path()));
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.one(&tenant, system("lost"));
    bed.ledger.checkpoint_now(&tenant);
    let bed = bed.reopen_after(|folder| {
        copy_folder(backup.path(), folder);
        copy_database(backup.path(), folder);
        std::fs::remove_file(Options::new(folder).high_water()).unwrap();
    });
    assert_refused(&bed);
    for tenant_id in ["acme", "_instance"] {
        bed.ledger.recover(tenant_id, "disk lost", bed.now()).unwrap();
    }
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_eq!(tenant.ledger().row.origin, "deponent.local/acme/1");
    assert_ne!(tenant.ledger().row.vkey, before);
    bed.one(&tenant, system("now"));
    let report = bed.report();
    crate::bed::assert_clean(&report);
    assert!(report.flags.is_empty(), "{:?}", report.flags);
}
