//! The files of archives: unreadable, missing, many, and such that no record names.

use std::sync::Arc;

use evidence::{ActorType, FindingCode, Header};
use ledger::verify::{Question, verify};
use ledger::{Bind, Draft, EraseAsked, EraseError, Options, StoredTree, Tenant};
use store::sqlite::{Access, SqliteStore};
use store::{Fault, codec};

use crate::bed::{TestLedger, aborted, run, system, tamper};
use crate::erasure::enforced;
use crate::retention::{DAY, archived, assert_good, filled, many, report};

#[test]
fn an_archive_that_cannot_be_read_is_no_damage_and_one_that_is_missing_is_said_by_name() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    bed.ledger.retain(bed.later(200 * DAY)).unwrap();
    let one = archived(&bed, &tenant).remove(0);
    let path = Options::new(bed.path()).archive().join(&one.archive);
    let text = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let missing = report(&bed, true);
    assert_eq!(missing.findings[0].code, FindingCode::ArchiveMismatch);
    assert!(missing.findings[0].place.ends_with(&one.archive));
    let rebuilt = || {
        let store = SqliteStore::open(&Options::new(bed.path()).database(), Access::ReadWrite).unwrap();
        ledger::rebuild_with(&store, Some(path.parent().unwrap()), &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
    };
    let error = rebuilt().unwrap_err();
    assert!(
        matches!(error, store::StoreError::Damaged { place: "archive", .. }),
        "{error}"
    );
    assert!(error.to_string().contains(&one.archive), "{error}");
    // What is there opens, and cannot be read: as when no more files may be open.
    std::fs::create_dir(&path).unwrap();
    let unread = report(&bed, true);
    assert!(unread.findings.is_empty(), "{:?}", unread.findings);
    assert_eq!(unread.exit_code(None), 2);
    assert!(
        unread.undecided[0].contains(&one.archive),
        "{:?}",
        unread.undecided
    );
    let error = rebuilt().unwrap_err();
    assert!(matches!(error, store::StoreError::Unavailable(_)), "{error}");
    std::fs::remove_dir(&path).unwrap();
    // Nor is a device read: some have no end.
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    let unread = report(&bed, true);
    assert!(unread.findings.is_empty(), "{:?}", unread.findings);
    assert!(
        unread.undecided[0].contains("no regular file"),
        "{:?}",
        unread.undecided
    );
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, text).unwrap();
    assert_good(&report(&bed, true), &[]);
    rebuilt().unwrap();
}

#[test]
fn more_archives_than_a_process_may_open_are_read() {
    const RUNS: usize = 60;
    let bed = TestLedger::new();
    let tenant = many(&bed, RUNS);
    let bed = bed.reopen_with(|options| options.retention.looked_max = 1);
    for _ in 0..3 {
        bed.ledger.retain(bed.later(200 * DAY)).unwrap();
    }
    let folder = Options::new(bed.path()).archive();
    let files = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, 2 * RUNS, "{tenant:?}");
    // Before the first record is looked at, and when all have been.
    let most = Arc::new(std::sync::Mutex::new(Vec::new()));
    for (method, first) in [("snapshot", 1), ("rows_missing", 1)] {
        let (folder, most) = (folder.canonicalize().unwrap(), Arc::clone(&most));
        bed.fault.before(method, first, move || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap();
            let of_archive = links.filter(|link| {
                let target = std::fs::read_link(link.as_ref().unwrap().path());
                target.is_ok_and(|target| target.starts_with(&folder))
            });
            most.lock().unwrap().push(of_archive.count());
        });
    }
    let question = Question {
        archive: Some(folder),
        tenant_id: Some("acme".into()),
        ..Question::default()
    };
    let report = verify(bed.fault.as_ref(), &question).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(report.flags.is_empty(), "{:?}", report.flags);
    let most = most.lock().unwrap();
    assert!(most.len() == 2 && most[0] == 0 && most[1] <= 16, "{most:?}");
}

/// An archive as a crash leaves it behind: written, and named by no record.
fn orphan(bed: &TestLedger, tenant: &Tenant, leaves: std::ops::Range<u64>) -> std::path::PathBuf {
    let no = tenant.ledger().row.ledger_no;
    let tree = StoredTree::new(bed.ledger.store(), no);
    let mut text = String::new();
    for row in bed
        .ledger
        .store()
        .bodies_read(no, leaves.start, leaves.end)
        .unwrap()
    {
        let index = row.leaf.leaf_index();
        let body = String::from_utf8(codec::unpack(&row.body, 1 << 20).unwrap()).unwrap();
        let header = String::from_utf8(tree.leaf(index).unwrap()).unwrap();
        let salt = evidence::hex_string(&row.salt);
        let header = format!("\"header\":{header},\"leaf_index\":{index},\"salt\":\"{salt}\"");
        text.extend(["{\"body\":", &body, ",", &header, "}\n"]);
    }
    let folder = Options::new(bed.path()).archive();
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("acme.0.system.{}-{}.jsonl", leaves.start, leaves.end - 1));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn what_is_erased_does_not_live_on_in_a_file_that_no_record_names() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let secret = bed.one(&tenant, system("her secret"));
    bed.one(&tenant, system("another"));
    let left = orphan(&bed, &tenant, 0..2);
    let begun = left.with_file_name("archive.new");
    std::fs::write(&begun, "her secr").unwrap();
    let notes = left.with_file_name("notes.txt");
    std::fs::write(&notes, "of the operator").unwrap();
    let asked = EraseAsked {
        record_id: secret.receipt.record_id,
        reason: "r".into(),
        only: false,
        principal: "p".into(),
    };
    let erasure = bed.ledger.erase(&tenant, &asked, bed.now()).unwrap();
    assert!(erasure.scrubbed.is_some());
    assert!(!left.exists() && !begun.exists());
    assert!(notes.exists());
    bed.check();
}

#[test]
fn a_pass_takes_away_what_no_record_names_but_nothing_that_is_nowhere_else() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    bed.ledger.retain(bed.later(8 * DAY)).unwrap();
    let named = archived(&bed, &tenant).remove(0).archive;
    let named = Options::new(bed.path()).archive().join(named);
    // The same records once more, as when a pass of one size was followed by one of another.
    let again = named.with_file_name("acme.0.synthetic.0-99.jsonl");
    std::fs::copy(&named, &again).unwrap();
    let left = orphan(&bed, &tenant, 0..2);
    let bed = bed.reopen();
    bed.ledger.retain(bed.now()).unwrap();
    assert!(named.exists() && !again.exists() && !left.exists());
    // Bodies went otherwise: the file is what is left of them.
    let tenant = bed.ledger.tenant("acme").unwrap();
    let left = orphan(&bed, &tenant, 0..1);
    let leaf = store::LeafKey::new(tenant.ledger().row.ledger_no, 0).as_i64();
    drop(tenant);
    let bed = bed.reopen_after(|folder| {
        tamper(folder, &format!("DELETE FROM bodies WHERE leaf = {leaf}"));
    });
    bed.ledger.retain(bed.now()).unwrap();
    assert!(left.exists());
}

#[test]
fn an_archive_under_another_name_stays_while_its_own_is_away() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    bed.ledger.retain(bed.later(8 * DAY)).unwrap();
    let named = archived(&bed, &tenant).remove(0).archive;
    let named = Options::new(bed.path()).archive().join(named);
    let other = named.with_file_name("acme.0.synthetic.0-99.jsonl");
    std::fs::rename(&named, &other).unwrap();
    drop(tenant);
    let bed = bed.reopen();
    bed.ledger.retain(bed.now()).unwrap();
    assert!(other.exists());
    // Nor is what bears the name, and is another file, the archive.
    std::fs::write(&named, "{}\n").unwrap();
    bed.ledger.retain(bed.now()).unwrap();
    assert!(other.exists());
    std::fs::copy(&other, &named).unwrap();
    bed.ledger.retain(bed.now()).unwrap();
    assert!(named.exists() && !other.exists());
    assert_good(&report(&bed, true), &[]);
}

#[test]
fn an_archive_of_another_data_folder_is_not_taken_for_ours() {
    let bed = TestLedger::new();
    filled(&bed);
    let theirs = TestLedger::new();
    let tenant = theirs.tenant("acme");
    theirs.all(&tenant, vec![system("of another"), system("and one more")]);
    let path = orphan(&theirs, &tenant, 0..2);
    let folder = Options::new(bed.path()).archive();
    std::fs::create_dir_all(&folder).unwrap();
    let path = {
        let here = folder.join(path.file_name().unwrap());
        std::fs::copy(path, &here).unwrap();
        here
    };
    bed.ledger.retain(bed.now()).unwrap();
    assert!(path.exists());
}

#[test]
fn an_archive_whose_record_was_refused_is_taken_away() {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    bed.fault.arm(Fault::AppendRefused);
    assert!(bed.ledger.retain(bed.later(8 * DAY)).is_err());
    let folder = Options::new(bed.path()).archive();
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "{tenant:?}");
}

#[test]
fn what_came_after_the_seal_is_counted_although_its_archive_is_not_at_hand() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r0"));
    bed.end(&tenant, "r0", &aborted("stop")).unwrap();
    let size = bed.size(&tenant);
    let by = (ActorType::System, None);
    bed.ledger.run_seal(&tenant, "r0", by, bed.now()).unwrap();
    // What is erased is known without its body, so that the run is judged.
    for index in 0..size {
        let tree = StoredTree::new(bed.ledger.store(), tenant.ledger().row.ledger_no);
        let asked = EraseAsked {
            record_id: Header::decode(&tree.leaf(index).unwrap()).unwrap().id,
            reason: "asked for by the person".into(),
            only: false,
            principal: "key:dpo".into(),
        };
        match bed.ledger.erase(&tenant, &asked, bed.now()) {
            // It went with one before.
            Ok(_) | Err(EraseError::Already(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let late = Draft {
        bind: Bind::Run("r0".into()),
        ..enforced(0, "{\"a\":1}")
    };
    bed.one(&tenant, late);
    assert_eq!(bed.ledger.retain(bed.later(400 * DAY)).unwrap(), 1);
    assert_good(&report(&bed, false), &["ERASED 2", "PRUNED 1"]);
    assert_good(&report(&bed, true), &["ERASED 2"]);
}
