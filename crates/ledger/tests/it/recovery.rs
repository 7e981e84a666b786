//! Rollback: seen at the start and before signing, refused, and declared by the next epoch.

use std::path::Path;

use evidence::FindingCode;
use ledger::verify::{Level, Question, Report, verify};
use ledger::{HighWater, KeyFolder, Mark, Options, RecoverError, Refusal, SubmitError};
use store::sqlite::{Access, SqliteStore};
use store::{LeafKey, LedgerRow};
use tlog::{TreeSize, VerifierKey};

use crate::bed::{Span, TestLedger, assert_clean, copy_database, copy_folder, run, step, system, tamper};

/// A ledger whose database was replaced by an older copy; the copy had `kept` leaves more than the run's start.
pub fn rolled_back(then: impl FnOnce(&Path)) -> TestLedger {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    bed.ledger.checkpoint_now(&tenant);
    let older = tempfile::tempdir().unwrap();
    let bed = bed.reopen_after(|folder| copy_folder(folder, older.path()));
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.all(&tenant, vec![step("r", 1), step("r", 2), system("lost")]);
    bed.ledger.checkpoint_now(&tenant);
    bed.reopen_after(|folder| {
        copy_database(older.path(), folder);
        then(folder);
    })
}

pub fn assert_refused(bed: &TestLedger) {
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert!(
        matches!(tenant.ledger().refusal(), Some(Refusal::RolledBack(_))),
        "{:?}",
        tenant.ledger().refusal()
    );
    let refused = bed.try_submit(&tenant, vec![system("x")]);
    assert!(
        matches!(&refused, Err(SubmitError::Refused(why)) if why.starts_with("rollback detected")),
        "{refused:?}"
    );
    assert_eq!(bed.report().exit_code(None), 1);
}

#[test]
fn an_older_copy_of_the_database_is_refused() {
    let bed = rolled_back(|_| {});
    assert_refused(&bed);
    let report = bed.report();
    let finding = report
        .findings
        .iter()
        .find(|finding| finding.tenant_id.as_deref() == Some("acme"))
        .unwrap();
    assert_eq!(finding.code, FindingCode::RolledBack);
    // The instance's own ledger was not touched in between.
    assert!(
        bed.ledger
            .tenant("_instance")
            .unwrap()
            .ledger()
            .refusal()
            .is_none()
    );
}

#[test]
fn a_missing_mark_beside_leaves_is_refused_and_a_broken_one_does_not_open() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    let bed = bed.reopen_after(|folder| std::fs::remove_file(folder.join("high-water.json")).unwrap());
    assert_refused(&bed);
    let folder = tempfile::tempdir().unwrap();
    copy_folder(bed.path(), folder.path());
    std::fs::write(folder.path().join("high-water.json"), b"{").unwrap();
    assert!(ledger::Ledger::open(Options::new(folder.path()), bed.now()).is_err());
}

#[test]
fn regrowth_beyond_the_mark_is_refused() {
    // An older copy on which somebody wrote again, with the key, until it was larger than the mark.
    let regrown = tempfile::tempdir().unwrap();
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    let bed = bed.reopen_after(|folder| copy_folder(folder, regrown.path()));
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.all(&tenant, vec![step("r", 1), step("r", 2)]);
    let options = Options::new(regrown.path());
    let other = ledger::Ledger::open(options, bed.now()).unwrap();
    let tenant = other.tenant("acme").unwrap();
    for same_size in [true, false] {
        let drafts = if same_size {
            vec![system("a"), system("b")]
        } else {
            vec![system("c"), system("d")]
        };
        other.submit_blocking(&tenant, drafts, bed.now(), false).unwrap();
        other.checkpoint_now(&tenant);
        let folder = tempfile::tempdir().unwrap();
        let bed_copy = TestCopy::of(&bed, folder.path());
        copy_database(regrown.path(), folder.path());
        bed_copy.assert_refused();
    }
    other.close();
    bed.check();
}

/// A folder's copy, opened.
struct TestCopy<'a>(&'a Path);

impl<'a> TestCopy<'a> {
    fn of(bed: &TestLedger, to: &'a Path) -> Self {
        bed.ledger.checkpoint_now(&bed.ledger.tenant("acme").unwrap());
        copy_folder(bed.path(), to);
        Self(to)
    }

    fn assert_refused(&self) {
        let opened =
            ledger::Ledger::open(Options::new(self.0), crate::bed::time("2026-11-22T00:00:00Z")).unwrap();
        let refusal = opened.tenant("acme").unwrap().ledger().refusal();
        assert!(matches!(refusal, Some(Refusal::RolledBack(_))), "{refusal:?}");
        opened.close();
        assert_eq!(crate::bed::report(self.0).exit_code(None), 1);
    }
}

#[test]
fn a_database_rolled_back_under_a_running_server_is_seen_before_signing() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    bed.sign();
    // It goes when somebody is about to sign, which is now or half a second after the commit.
    let folder = bed.path().to_owned();
    bed.fault.before("head_read", 1, move || {
        let newest = "first_leaf = (SELECT max(first_leaf) FROM leaf_blocks)";
        tamper(&folder, &format!("DELETE FROM leaf_blocks WHERE {newest}"));
    });
    let signed = bed.ledger.counts().checkpoints;
    bed.one(&tenant, step("r", 1));
    bed.ledger.checkpoint_now(&tenant);
    assert_eq!(bed.ledger.counts().checkpoints, signed);
    assert_refused(&bed);
}

#[test]
fn a_checkpoint_that_would_be_a_fork_refuses_its_ledger_and_no_other() {
    let bed = TestLedger::new();
    let (acme, other) = (bed.tenant("acme"), bed.tenant("other"));
    bed.sign();
    let (ledger_no, size) = (acme.ledger().row.ledger_no, bed.size(&acme) + 1);
    tamper(
        bed.path(),
        &format!("INSERT INTO checkpoints VALUES ({ledger_no}, {size}, 'another')"),
    );
    bed.one(&acme, system("x"));
    bed.ledger.checkpoint_now(&acme);
    assert_refused(&bed);
    let signed = bed.ledger.counts().checkpoints;
    bed.one(&other, system("x"));
    bed.ledger.checkpoint_now(&other);
    assert!(other.ledger().refusal().is_none());
    assert_eq!(bed.ledger.counts().checkpoints, signed + 1);
}

#[test]
fn recovery_starts_the_next_epoch_and_declares_the_loss() {
    let bed = rolled_back(|_| {});
    assert!(matches!(
        bed.ledger.recover("nobody", "why", bed.now()),
        Err(RecoverError::TenantUnknown(_))
    ));
    assert!(matches!(
        bed.ledger.recover("acme", " ", bed.now()),
        Err(RecoverError::Reason)
    ));
    let (receipt, origin) = bed
        .ledger
        .recover("acme", "restored last night's backup", bed.now())
        .unwrap();
    assert_eq!(
        (receipt.leaf_index, origin.as_str()),
        (0, "deponent.local/acme/1")
    );
    assert!(matches!(
        bed.ledger.recover("acme", "again", bed.now()),
        Err(RecoverError::InOrder)
    ));
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_eq!(tenant.epochs().len(), 2);
    assert_ne!(tenant.epochs()[0].row.vkey, tenant.epochs()[1].row.vkey);
    // The run goes on where the older copy left it.
    let placed = bed.all(&tenant, vec![step("r", 1), step("r", 9), run("new")]);
    assert!(placed[0].fresh && placed[0].receipt.leaf_index == 1);
    bed.complete(&tenant, "r");
    let verify = |bed: &TestLedger| {
        let report = bed.report();
        assert_clean(&report);
        assert_eq!(report.level, Some(Level::ValidSelfSigned));
        let lost: Vec<_> = report
            .ledgers
            .iter()
            .filter_map(|ledger| ledger.declared_lost)
            .collect();
        assert_eq!(lost, [(2, 5)], "shown, not hidden");
    };
    verify(&bed);
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.one(&tenant, step("new", 0));
    assert!(
        !bed.one(&tenant, step("r", 0)).fresh,
        "known from the epoch before"
    );
    verify(&bed);
    let before = crate::bed::projections(bed.path());
    ledger::rebuild(bed.ledger.store(), &mut |_| {}).unwrap();
    assert_eq!(crate::bed::projections(bed.path()), before);
}

#[test]
fn a_second_recovery_is_a_third_epoch() {
    let bed = rolled_back(|_| {});
    bed.ledger.recover("acme", "first", bed.now()).unwrap();
    let older = tempfile::tempdir().unwrap();
    let bed = bed.reopen_after(|folder| copy_folder(folder, older.path()));
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.all(&tenant, vec![system("lost"), Span::default().draft()]);
    bed.ledger.checkpoint_now(&tenant);
    let bed = bed.reopen_after(|folder| copy_database(older.path(), folder));
    assert_refused(&bed);
    let (_, origin) = bed.ledger.recover("acme", "second", bed.now()).unwrap();
    assert_eq!(origin, "deponent.local/acme/2");
    assert_clean(&bed.report());
}

/// Everything of a ledger goes but its row, and projections are made anew: whoever does this needs no key.
fn empty_ledger(folder: &Path, ledger_no: u32) {
    let (from, to) = (LeafKey::new(ledger_no, 0), LeafKey::new(ledger_no + 1, 0));
    let (from, to) = (from.as_i64(), to.as_i64() - 1);
    tamper(
        folder,
        &format!(
            "DELETE FROM leaf_blocks WHERE first_leaf BETWEEN {from} AND {to};
             DELETE FROM bodies WHERE leaf BETWEEN {from} AND {to};
             DELETE FROM checkpoints WHERE ledger_no = {ledger_no};
             DELETE FROM tree_nodes WHERE ledger_no = {ledger_no}"
        ),
    );
    let database = SqliteStore::open(&crate::bed::database(folder), Access::ReadWrite).unwrap();
    ledger::rebuild(&database, &mut |_| {}).unwrap();
}

#[test]
fn an_epoch_that_has_ended_can_be_cut_no_more() {
    let bed = rolled_back(|_| {});
    bed.ledger.recover("acme", "old backup", bed.now()).unwrap();
    let old = bed.ledger.tenant("acme").unwrap().epochs()[0].row.clone();
    let bed = bed.reopen_after(|folder| empty_ledger(folder, old.ledger_no));
    let report = bed.report();
    let found: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    let why = format!("{}: it ended with 2 leaves, 0 are there", old.origin);
    assert!(found.iter().any(|finding| finding.contains(&why)), "{found:?}");
    assert_refused(&bed);
    let refused = |bed: &TestLedger| {
        let epochs = bed.ledger.tenant("acme").unwrap().epochs();
        epochs
            .iter()
            .map(|epoch| epoch.refusal().is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(refused(&bed), [true, true], "who reads the old one is told too");
    // What is gone can be declared, and then no more than that may be gone.
    bed.ledger.recover("acme", "it was cut", bed.now()).unwrap();
    assert_eq!(refused(&bed), [false; 3], "each is as it was declared");
    let bed = bed.reopen();
    assert_eq!(refused(&bed), [false; 3], "also after the next start");
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.one(&tenant, system("now"));
    let report = bed.report();
    assert_clean(&report);
    let lost: Vec<_> = report
        .ledgers
        .iter()
        .filter_map(|ledger| ledger.declared_lost)
        .collect();
    assert_eq!(lost, [(0, 5)]);
    let middle = tenant.epochs()[1].row.ledger_no;
    let bed = bed.reopen_after(|folder| empty_ledger(folder, middle));
    assert_refused(&bed);
}

#[test]
fn who_cuts_an_epoch_cannot_have_the_next_one_say_so() {
    for body in [
        "DELETE FROM bodies WHERE leaf = ",
        "UPDATE bodies SET salt = zeroblob(32) WHERE leaf = ",
    ] {
        let bed = rolled_back(|_| {});
        bed.ledger.recover("acme", "old backup", bed.now()).unwrap();
        let epochs = bed.ledger.tenant("acme").unwrap().epochs();
        let [old, new] = [0, 1].map(|epoch: usize| epochs[epoch].row.ledger_no);
        let bed = bed.reopen_after(|folder| {
            empty_ledger(folder, old);
            tamper(folder, &format!("{body}{}", LeafKey::new(new, 0).as_i64()));
        });
        assert_refused(&bed);
    }
}

#[test]
fn a_database_from_before_a_recovery_is_refused_though_it_is_as_its_own_mark_says() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    bed.ledger.checkpoint_now(&tenant);
    let backup = tempfile::tempdir().unwrap();
    let bed = bed.reopen_after(|folder| copy_folder(folder, backup.path()));
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.all(&tenant, vec![step("r", 1)]);
    bed.ledger.checkpoint_now(&tenant);
    let newest = tempfile::tempdir().unwrap();
    let bed = bed.reopen_after(|folder| {
        copy_folder(folder, newest.path());
        copy_database(backup.path(), folder);
    });
    bed.ledger.recover("acme", "backup", bed.now()).unwrap();
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.one(&tenant, system("acknowledged"));
    bed.ledger.checkpoint_now(&tenant);
    let vkey = VerifierKey::parse(&tenant.ledger().row.vkey).unwrap();
    let of_epoch = bed
        .ledger
        .store()
        .checkpoint_newest(tenant.ledger().row.ledger_no);
    let kept = of_epoch.unwrap().unwrap().note.into_bytes();
    // The database that was thought lost is found: it lacks what was acknowledged since.
    let bed = bed.reopen_after(|folder| copy_database(newest.path(), folder));
    assert_refused(&bed);
    let (_, origin) = bed.ledger.recover("acme", "found", bed.now()).unwrap();
    assert_eq!(origin, "deponent.local/acme/2");
    let bed = bed.reopen();
    let report = bed.report();
    assert_clean(&report);
    assert_eq!(report.flags, ["LOST 2"]);
    // Who kept something of the lost epoch is told so, and not that the ledger is invalid.
    let store = SqliteStore::open(&crate::bed::database(bed.path()), Access::ReadOnly).unwrap();
    let question = Question {
        vkeys: vec![vkey],
        kept: vec![kept],
        ..Question::default()
    };
    let report = verify(&store, &question).unwrap();
    assert_eq!(
        (report.errors, report.exit_code(None)),
        (0, 2),
        "{:?}",
        report.findings
    );
}

#[test]
fn an_epoch_that_is_not_there_any_more_is_missed() {
    let bed = rolled_back(|_| {});
    bed.ledger.recover("acme", "first", bed.now()).unwrap();
    let bed = bed.reopen();
    tamper(
        bed.path(),
        "DELETE FROM ledgers WHERE tenant_id = 'acme' AND epoch = 0",
    );
    let found: Vec<String> = bed.report().findings.iter().map(ToString::to_string).collect();
    let why = "deponent.local/acme: it ended with 2 leaves, 0 are there";
    assert!(found.iter().any(|finding| finding.contains(why)), "{found:?}");
}

#[test]
fn a_crash_between_the_key_and_the_row_of_an_epoch_passes_its_number_over() {
    let bed = rolled_back(|_| {});
    bed.fault.arm(store::Fault::LedgerLost);
    assert!(bed.ledger.recover("acme", "first try", bed.now()).is_err());
    let bed = bed.reopen();
    assert!(Options::new(bed.path()).keys().join("acme.1.key").exists());
    assert_eq!(bed.ledger.tenant("acme").unwrap().epochs().len(), 1);
    assert_refused(&bed);
    let (_, origin) = bed.ledger.recover("acme", "second try", bed.now()).unwrap();
    assert_eq!(origin, "deponent.local/acme/2");
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_eq!(tenant.ledger().refusal(), None);
    bed.one(&tenant, system("now"));
    assert_clean(&bed.report());
}

#[test]
fn the_lost_key_of_an_epoch_that_has_ended_is_no_finding() {
    let bed = rolled_back(|_| {});
    bed.ledger.recover("acme", "old backup", bed.now()).unwrap();
    let key = |folder: &Path, epoch: u32| Options::new(folder).keys().join(format!("acme.{epoch}.key"));
    let bed = bed.reopen_after(|folder| std::fs::remove_file(key(folder, 0)).unwrap());
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.one(&tenant, system("now"));
    assert_clean(&bed.report());
    std::fs::remove_file(key(bed.path(), 1)).unwrap();
    let codes: Vec<_> = bed.report().findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [FindingCode::KeyMismatch]);
}

#[test]
fn a_crash_before_the_declaration_leaves_an_epoch_that_takes_nothing_else_first() {
    let bed = rolled_back(|_| {});
    bed.fault.arm(store::Fault::AppendRefused);
    assert!(bed.ledger.recover("acme", "first try", bed.now()).is_err());
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_eq!(tenant.epochs().len(), 2);
    let refused = bed.try_submit(&tenant, vec![system("sneaks in")]);
    assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}");
    let (receipt, _) = bed.ledger.recover("acme", "second try", bed.now()).unwrap();
    assert_eq!(receipt.leaf_index, 0);
    bed.one(&tenant, system("now"));
    assert_clean(&bed.report());
    assert_eq!(
        bed.report()
            .ledgers
            .iter()
            .filter_map(|ledger| ledger.declared_lost)
            .count(),
        1
    );
}

/// Whether each finding is about an epoch without its first leaf.
fn undeclared(report: &Report) -> Vec<(FindingCode, bool)> {
    let findings = report.findings.iter();
    findings
        .map(|finding| (finding.code, finding.detail.contains("has no first leaf")))
        .collect()
}

const NOTHING_SIGNED: Mark = Mark {
    size: TreeSize::new(0),
    root: tlog::empty_root(),
};

#[test]
fn an_epoch_without_its_first_leaf_is_found_as_it_is_refused() {
    let bed = rolled_back(|_| {});
    bed.ledger.recover("acme", "old backup", bed.now()).unwrap();
    let epochs = bed.ledger.tenant("acme").unwrap().epochs();
    let rows: Vec<LedgerRow> = epochs.iter().map(|epoch| epoch.row.clone()).collect();
    let head = bed.ledger.store().head_read(rows[0].ledger_no).unwrap();
    // Its leaves go, and the marks are made those of ledgers in which nothing is missing.
    let bed = bed.reopen_after(|folder| {
        empty_ledger(folder, rows[1].ledger_no);
        let ended = Mark {
            size: head.size,
            root: head.root,
        };
        let marks = [
            (rows[0].origin.clone(), ended),
            (rows[1].origin.clone(), NOTHING_SIGNED),
        ];
        HighWater::open(&Options::new(folder).high_water())
            .unwrap()
            .raise(&marks)
            .unwrap();
    });
    assert_refused(&bed);
    assert_eq!(undeclared(&bed.report()), [(FindingCode::RolledBack, true)]);
    let options = Options::new(bed.path());
    let marks = HighWater::open(&options.high_water()).unwrap();
    let keys = KeyFolder::at(&options.keys());
    let offline = ledger::offline_refusal(bed.ledger.store(), &rows, &rows[1], &marks, &keys).unwrap();
    assert!(matches!(offline, Some(Refusal::RolledBack(_))), "{offline:?}");
    bed.ledger.recover("acme", "it was emptied", bed.now()).unwrap();
    assert_clean(&bed.report());
}

#[test]
fn an_epoch_that_nobody_began_is_found_as_it_is_refused() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    let bed = bed.reopen_after(|folder| {
        let (options, origin) = (Options::new(folder), "deponent.local/acme/1");
        let keys = KeyFolder::at(&options.keys());
        let key = keys.read_or_create("acme", 1, origin).unwrap();
        HighWater::open(&options.high_water())
            .unwrap()
            .raise(&[(origin.to_owned(), NOTHING_SIGNED)])
            .unwrap();
        tamper(
            folder,
            &format!(
                "INSERT INTO ledgers VALUES (9, 1, 'acme', 1, '{origin}', '{}')",
                key.verifier()
            ),
        );
    });
    assert_refused(&bed);
    assert_eq!(undeclared(&bed.report()), [(FindingCode::RolledBack, true)]);
}

#[test]
fn an_epoch_whose_first_leaf_comes_while_it_is_looked_at_is_not_held_to_be_empty() {
    let bed = rolled_back(|_| {});
    bed.fault.arm(store::Fault::AppendRefused);
    assert!(bed.ledger.recover("acme", "first try", bed.now()).is_err());
    let bed = bed.reopen();
    // What was set back, and what a crash left of its recovery: nothing else is said.
    let rolled_back = FindingCode::RolledBack;
    assert_eq!(
        undeclared(&bed.report()),
        [(rolled_back, false), (rolled_back, true)]
    );
    let marks = HighWater::open(&Options::new(bed.path()).high_water()).unwrap();
    let question = Question {
        marks: Some(&marks),
        ..Question::default()
    };
    // Of the instance, of the epoch that was set back, and of the one that is begun: its head is fixed by then.
    let (ledger, at) = (bed.ledger.clone(), bed.now());
    bed.fault.before("checkpoints_read", 3, move || {
        ledger.recover("acme", "second try", at).unwrap();
    });
    // So it is looked at once more, and declares what the one before it lost.
    assert_clean(&verify(&*bed.fault, &question).unwrap());
    assert!(bed.ledger.tenant("acme").unwrap().refusal().is_none());
    assert_clean(&bed.report());
}

#[test]
fn a_ledger_in_order_is_not_recovered() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    assert!(matches!(
        bed.ledger.recover("acme", "why not", bed.now()),
        Err(RecoverError::InOrder)
    ));
    bed.check();
}

#[test]
fn a_crash_between_mark_and_checkpoint_is_no_tampering_and_is_signed_at_the_next_start() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    bed.sign();
    bed.fault.arm(store::Fault::CheckpointLost);
    bed.one(&tenant, system("y"));
    bed.ledger.checkpoint_now(&tenant);
    assert!(bed.ledger.stopped().is_some());
    let report = bed.report();
    assert_eq!((report.errors, report.exit_code(None)), (0, 0));
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    bed.ledger.checkpoint_now(&tenant);
    bed.check();
}
