//! Checkpoints: signed in time, by the key, and never ahead of the mark.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::verify::{Level, Question, verify};
use ledger::{HighWater, KeyFolder, Options};
use store::Store;
use store::sqlite::{Access, SqliteStore};
use tlog::{Checkpoint, VerifierKey};

use store::{FaultStore, LeafKey};

use crate::bed::{TestLedger, copy_folder, database, report, run, step, system, tamper};

#[test]
fn a_checkpoint_follows_a_commit_within_a_second_and_the_mark_is_never_behind_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let row = tenant.ledger().row.clone();
    let key = VerifierKey::parse(&row.vkey).unwrap();
    // A busy machine may be late, at times; what waits for something else is late each time.
    let (mut size, mut in_time) = (0, 0);
    for index in 0..30 {
        bed.one(&tenant, system("x"));
        let committed = Instant::now();
        let note = loop {
            let newest = bed.ledger.store().checkpoint_newest(row.ledger_no).unwrap();
            // Read after the checkpoint: the mark was raised before it was signed.
            let mark = HighWater::open(&Options::new(bed.path()).high_water())
                .unwrap()
                .get(&row.origin)
                .unwrap();
            if let Some(newest) = newest.filter(|newest| newest.size.as_u64() > size) {
                assert!(mark.size >= newest.size);
                break newest;
            }
            assert!(committed.elapsed() < Duration::from_mins(2), "none follows");
            std::thread::sleep(Duration::from_millis(5));
        };
        in_time += u32::from(committed.elapsed() < Duration::from_secs(1));
        size = note.size.as_u64();
        assert_eq!(size, index + 1);
        let opened = Checkpoint::open(note.note.as_bytes(), std::slice::from_ref(&key), &row.origin).unwrap();
        assert_eq!(
            opened.checkpoint.root(),
            bed.ledger.store().head_read(row.ledger_no).unwrap().root
        );
        if in_time == 3 {
            break;
        }
    }
    assert_eq!(in_time, 3, "a second has passed");
    bed.check();
}

#[test]
fn an_idle_ledger_signs_nothing() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    bed.sign();
    let before = bed.ledger.counts().checkpoints;
    bed.ledger.checkpoint_now(&tenant);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(bed.ledger.counts().checkpoints, before);
    let bed = bed.reopen();
    assert_eq!(bed.ledger.counts().checkpoints, 0);
    bed.check();
}

#[test]
fn every_checkpoint_ever_signed_is_a_prefix() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    for index in 0..300 {
        bed.one(&tenant, step("r", index));
        if index % 60 == 0 {
            bed.ledger.checkpoint_now(&tenant);
        }
    }
    let row = tenant.ledger().row.clone();
    let head = bed.ledger.store().head_read(row.ledger_no).unwrap();
    let tree = ledger::StoredTree::new(bed.ledger.store(), row.ledger_no);
    let all = bed
        .ledger
        .store()
        .checkpoints_read(row.ledger_no, tlog::TreeSize::new(0), 100)
        .unwrap();
    assert!(all.len() >= 5);
    for checkpoint in all {
        let note = Checkpoint::parse(
            checkpoint
                .note
                .split("\n\n")
                .next()
                .map(|text| format!("{text}\n"))
                .unwrap()
                .as_str(),
        );
        let note = note.unwrap();
        let proof = tree.consistency(note.size(), head.size).unwrap();
        tlog::verify_consistency(note.size(), head.size, &proof, &note.root(), &head.root).unwrap();
    }
    bed.check();
}

/// What the verifier brought: its answer's level and exit code.
fn ask(bed: &TestLedger, vkey: bool, kept: Vec<Vec<u8>>, tenant: &str) -> (Option<Level>, u8) {
    let options = Options::new(bed.path());
    let store = SqliteStore::open(&options.database(), Access::ReadOnly).unwrap();
    let marks = HighWater::open(&options.high_water()).unwrap();
    let keys = KeyFolder::open(&options.keys()).unwrap();
    let vkeys = if vkey {
        store
            .ledgers_list()
            .unwrap()
            .iter()
            .map(|row| VerifierKey::parse(&row.vkey).unwrap())
            .collect()
    } else {
        Vec::new()
    };
    let tenant_id = Some(tenant.to_owned());
    let question = Question {
        tenant_id,
        vkeys,
        kept,
        marks: Some(&marks),
        keys: Some(&keys),
        ..Question::default()
    };
    let report = verify(&store, &question).unwrap();
    (report.level, report.exit_code(None))
}

#[test]
fn a_kept_checkpoint_may_have_the_signatures_of_others() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    bed.ledger.checkpoint_now(&tenant);
    let newest = bed
        .ledger
        .store()
        .checkpoint_newest(tenant.ledger().row.ledger_no)
        .unwrap()
        .unwrap();
    let cosigned = format!("{}— witness.example/w1 AAAAAAA=\n", newest.note);
    assert_eq!(
        ask(&bed, true, vec![cosigned.into_bytes()], "acme"),
        (Some(Level::ValidSinceKeptCheckpoint), 0)
    );
}

#[test]
fn the_level_says_what_the_verifier_brought() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let row = tenant.ledger().row.clone();
    bed.one(&tenant, system("x"));
    bed.ledger.checkpoint_now(&tenant);
    let kept = bed
        .ledger
        .store()
        .checkpoint_newest(row.ledger_no)
        .unwrap()
        .unwrap()
        .note
        .into_bytes();
    bed.one(&tenant, system("y"));
    assert_eq!(
        ask(&bed, false, Vec::new(), "acme"),
        (Some(Level::ValidSelfSigned), 0)
    );
    assert_eq!(
        ask(&bed, true, Vec::new(), "acme"),
        (Some(Level::ValidSinceKeptCheckpoint), 0)
    );
    assert_eq!(
        ask(&bed, true, vec![kept.clone()], "acme"),
        (Some(Level::ValidSinceKeptCheckpoint), 0)
    );
    // Without a key of the verifier's a kept checkpoint was opened with the key that came along.
    assert_eq!(
        ask(&bed, false, vec![kept.clone()], "acme"),
        (Some(Level::ValidSelfSigned), 0)
    );
    assert_eq!(ask(&bed, true, Vec::new(), "nobody"), (None, 2));
    // Another ledger's, and a damaged one, do not pass in silence.
    let instance = bed.ledger.tenant("_instance").unwrap();
    bed.ledger.checkpoint_now(&instance);
    let mut damaged = kept;
    let place = damaged.len() - 10;
    damaged[place] ^= 1;
    assert_eq!(ask(&bed, true, vec![damaged], "acme").1, 1);
}

#[test]
fn what_was_brought_for_a_ledger_that_is_not_looked_at_is_not_passed_over() {
    let bed = TestLedger::new();
    let (acme, other) = (bed.tenant("acme"), bed.tenant("other"));
    for tenant in [&acme, &other] {
        bed.one(tenant, system("x"));
        bed.ledger.checkpoint_now(tenant);
    }
    let row = other.ledger().row.clone();
    let newest = bed.ledger.store().checkpoint_newest(row.ledger_no).unwrap();
    let kept = newest.unwrap().note.into_bytes();
    assert_eq!(ask(&bed, true, vec![kept.clone()], "other").1, 0);
    let (level, exit_code) = ask(&bed, true, vec![kept], "acme");
    assert_eq!(
        (level, exit_code),
        (Some(Level::ValidSinceKeptCheckpoint), 2),
        "it was compared with nothing"
    );
    let store = SqliteStore::open(&database(bed.path()), Access::ReadOnly).unwrap();
    let keys_of = |names: &[&str]| {
        let all = [&acme, &other].map(|tenant| VerifierKey::parse(&tenant.ledger().row.vkey).unwrap());
        let is_named = |key: &VerifierKey| names.iter().any(|name| key.name().ends_with(name));
        all.into_iter().filter(is_named).collect::<Vec<_>>()
    };
    for (names, exit_code) in [(&["other"][..], 1), (&["acme"], 0), (&["acme", "other"], 0)] {
        let question = Question {
            tenant_id: Some("acme".into()),
            vkeys: keys_of(names),
            ..Question::default()
        };
        let report = verify(&store, &question).unwrap();
        assert_eq!(report.exit_code(None), exit_code, "{names:?}");
    }
}

#[test]
fn a_ledger_with_errors_is_invalid_whatever_it_was_held_against() {
    let bed = TestLedger::new();
    let (acme, other) = (bed.tenant("acme"), bed.tenant("other"));
    for tenant in [&acme, &other] {
        bed.all(tenant, vec![run("r"), step("r", 0)]);
        bed.ledger.checkpoint_now(tenant);
    }
    let leaf = LeafKey::new(acme.ledger().row.ledger_no, 1).as_i64();
    tamper(bed.path(), &format!("DELETE FROM bodies WHERE leaf = {leaf}"));
    let levels: Vec<_> = report(bed.path())
        .ledgers
        .into_iter()
        .filter(|ledger| ledger.tenant_id != "_instance")
        .map(|ledger| (ledger.tenant_id, ledger.level))
        .collect();
    let expected = [("acme", Level::Invalid), ("other", Level::ValidSelfSigned)];
    assert_eq!(levels, expected.map(|(name, level)| (name.to_owned(), level)));
}

/// Judged by its own keys, a folder that was made anew under another name would be good.
#[test]
fn a_brought_key_of_no_ledger_is_a_finding() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    let options = Options::new(bed.path());
    let store = SqliteStore::open(&options.database(), Access::ReadOnly).unwrap();
    let of = |name: &str| {
        VerifierKey::parse(
            &tlog::SignerKey::from_seed(name, &[7; 32])
                .unwrap()
                .verifier()
                .to_string(),
        )
    };
    let report = |name: &str| {
        let question = Question {
            vkeys: vec![of(name).unwrap()],
            ..Question::default()
        };
        verify(&store, &question).unwrap()
    };
    let foreign = report("deponent.local/emca");
    let finding = &foreign.findings[0];
    assert_eq!(
        (finding.code, finding.place.as_str(), foreign.exit_code(None)),
        (evidence::FindingCode::KeyMismatch, "--vkey", 1)
    );
    // Another key under the ledger's name is not the ledger's.
    let other = report(&tenant.ledger().row.origin);
    assert_eq!(other.findings[0].place, "ledgers.vkey");
    assert_eq!((other.errors, other.exit_code(None)), (1, 1));
}

#[test]
fn a_larger_kept_checkpoint_is_a_valid_prefix_and_one_with_another_root_a_contradiction() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let row = tenant.ledger().row.clone();
    bed.one(&tenant, system("x"));
    bed.ledger.checkpoint_now(&tenant);
    let signer = KeyFolder::open(&Options::new(bed.path()).keys())
        .unwrap()
        .read("acme", 0, &row.origin)
        .unwrap()
        .unwrap();
    let sign = |size: u64, root: tlog::Hash| {
        Checkpoint::new(&row.origin, tlog::TreeSize::new(size), root)
            .unwrap()
            .sign(&signer)
            .into_bytes()
    };
    let other = tlog::leaf_hash(b"other");
    assert_eq!(
        ask(&bed, true, vec![sign(5, other)], "acme"),
        (Some(Level::ValidPrefix), 3)
    );
    assert_eq!(
        ask(&bed, true, vec![sign(1, other)], "acme"),
        (Some(Level::Invalid), 1)
    );
    assert_eq!(
        ask(&bed, true, vec![sign(0, other)], "acme"),
        (Some(Level::Invalid), 1)
    );
    assert_eq!(ask(&bed, true, vec![sign(0, tlog::empty_root())], "acme").1, 0);
    assert_eq!(
        report(bed.path()).exit_code(Some(Level::ValidSinceKeptCheckpoint)),
        2
    );
    bed.check();
}

#[test]
fn another_ledger_that_has_grown_under_a_running_process_is_not_signed_on() {
    let (bed, other) = (TestLedger::new(), TestLedger::new());
    let (tenant, foreign) = (bed.tenant("acme"), other.tenant("acme"));
    bed.all(&tenant, vec![system("one"), system("two")]);
    other.all(&foreign, (0..5).map(|n| system(&format!("other {n}"))).collect());
    bed.ledger.checkpoint_now(&tenant);
    let ledger_no = tenant.ledger().row.ledger_no;
    assert_eq!(ledger_no, foreign.ledger().row.ledger_no);
    let (first, end) = (
        LeafKey::new(ledger_no, 0).as_i64(),
        LeafKey::new(ledger_no + 1, 0).as_i64(),
    );
    tamper(
        bed.path(),
        &format!(
            "ATTACH '{}' AS other;
             DELETE FROM leaf_blocks WHERE first_leaf >= {first} AND first_leaf < {end};
             DELETE FROM bodies WHERE leaf >= {first} AND leaf < {end};
             INSERT INTO leaf_blocks SELECT * FROM other.leaf_blocks WHERE first_leaf >= {first} AND first_leaf < {end};
             INSERT INTO bodies SELECT * FROM other.bodies WHERE leaf >= {first} AND leaf < {end};
             DETACH other;",
            database(other.path()).display()
        ),
    );
    let refused = bed.try_submit(&tenant, vec![system("three")]).unwrap_err();
    assert!(refused.to_string().contains("others than they were"), "{refused}");
    assert!(tenant.ledger().refusal().is_some());
    // The mark is still that of what this process signed.
    bed.ledger.checkpoint_now(&tenant);
    assert_eq!(bed.size(&tenant), 5);
    let marks = HighWater::open(&bed.ledger.options().high_water()).unwrap();
    assert_eq!(marks.get(&tenant.ledger().row.origin).unwrap().size.as_u64(), 2);
}

#[test]
fn what_is_signed_while_a_verification_begins_is_no_sign_of_leaves_that_are_gone() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    bed.ledger.checkpoint_now(&tenant);
    let options = Options::new(bed.path());
    let marks = HighWater::open(&options.high_water()).unwrap();
    let question = Question {
        marks: Some(&marks),
        ..Question::default()
    };
    // Those of `_instance` are read first. The head is fixed by then.
    let (ledger, of, at) = (bed.ledger.clone(), tenant.clone(), bed.now());
    bed.fault.before("checkpoints_read", 2, move || {
        let drafts = vec![system("y")];
        ledger.submit_blocking(&of, drafts, at, false).unwrap();
        ledger.checkpoint_now(&of);
    });
    let report = verify(&*bed.fault, &question).unwrap();
    crate::bed::assert_clean(&report);
    let seen = report
        .ledgers
        .iter()
        .find(|ledger| ledger.tenant_id == "acme")
        .unwrap();
    assert_eq!((seen.tree_size, seen.checkpoint_size), (1, Some(1)));
    assert_eq!(bed.size(&tenant), 2, "it came meanwhile");
    // Where the leaves are gone it is one.
    tamper(bed.path(), "DELETE FROM leaf_blocks WHERE first_leaf % 2 = 1");
    let report = crate::bed::report(bed.path());
    let found = report.findings.iter().any(|finding| {
        finding.place == "checkpoints.note" && finding.detail.contains("speaks of 2 leaves, 1 are there")
    });
    assert!(found, "{:?}", report.findings);
}

#[test]
fn a_checkpoint_that_a_serving_process_keeps_late_is_not_missing() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    bed.ledger.checkpoint_now(&tenant);
    let ledger_no = tenant.ledger().row.ledger_no;
    let store = bed.ledger.store();
    let newest = store.checkpoint_newest(ledger_no).unwrap().unwrap();
    let options = Options::new(bed.path());
    let marks = HighWater::open(&options.high_water()).unwrap();
    tamper(
        bed.path(),
        &format!("DELETE FROM checkpoints WHERE ledger_no = {ledger_no}"),
    );
    let database = options.database();
    let store = SqliteStore::open(&database, Access::ReadOnly).unwrap();
    let late = FaultStore::new(Arc::new(store));
    // By then nobody waits where nobody writes.
    late.before("checkpoint_newest", 12, move || {
        let connection = rusqlite::Connection::open(database).unwrap();
        let row = (
            ledger_no,
            i64::try_from(newest.size.as_u64()).unwrap(),
            newest.note,
        );
        connection
            .execute("INSERT OR IGNORE INTO checkpoints VALUES (?1, ?2, ?3)", row)
            .unwrap();
    });
    let question = Question {
        marks: Some(&marks),
        served: options.is_served(),
        tenant_id: Some("acme".into()),
        ..Question::default()
    };
    assert!(question.served, "by this process");
    let report = verify(&late, &question).unwrap();
    assert_eq!((report.errors, report.warnings), (0, 0), "{:?}", report.findings);
}

#[test]
fn what_the_brought_key_has_not_signed_is_not_held_to_be_its_own() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    for _ in 0..3 {
        bed.one(&tenant, system("x"));
    }
    bed.ledger.checkpoint_now(&tenant);
    bed.ledger
        .checkpoint_now(&bed.ledger.tenant("_instance").unwrap());
    let row = tenant.ledger().row.clone();
    let newest = bed
        .ledger
        .store()
        .checkpoint_newest(row.ledger_no)
        .unwrap()
        .unwrap();
    let bed = bed.reopen();
    let verified = |kept: bool| {
        let options = Options::new(bed.path());
        let marks = HighWater::open(&options.high_water()).unwrap();
        let store = SqliteStore::open(&options.database(), Access::ReadOnly).unwrap();
        let question = Question {
            marks: Some(&marks),
            tenant_id: Some("acme".into()),
            vkeys: vec![VerifierKey::parse(&row.vkey).unwrap()],
            kept: kept
                .then(|| newest.note.clone().into_bytes())
                .into_iter()
                .collect(),
            ..Question::default()
        };
        verify(&store, &question).unwrap()
    };
    let report = verified(false);
    assert_eq!(
        (report.level, report.exit_code(None)),
        (Some(Level::ValidSinceKeptCheckpoint), 0)
    );
    assert_eq!(report.flags, Vec::<String>::new());
    // Leaves and a mark are made by whoever has the folder, a signature is not.
    tamper(bed.path(), "DELETE FROM checkpoints");
    let report = verified(false);
    assert_eq!(
        (report.level, report.exit_code(None)),
        (Some(Level::ValidSelfSigned), 2)
    );
    assert!(
        report.undecided[0].contains("is signed by the key that was brought"),
        "{:?}",
        report.undecided
    );
    assert_eq!(report.flags, ["UNSIGNED 3"]);
    // What was kept outside is signed.
    let report = verified(true);
    assert_eq!(
        (report.level, report.exit_code(None)),
        (Some(Level::ValidSinceKeptCheckpoint), 0)
    );
    assert_eq!(report.flags, Vec::<String>::new());
}

#[test]
fn who_brings_the_key_need_not_have_the_one_that_signs() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("one"));
    bed.sign();
    let vkey = VerifierKey::parse(&tenant.ledger().row.vkey).unwrap();
    let folder = tempfile::tempdir().unwrap();
    copy_folder(bed.path(), folder.path());
    let options = Options::new(folder.path());
    std::fs::remove_file(options.keys().join("acme.0.key")).unwrap();
    let marks = HighWater::open(&options.high_water()).unwrap();
    let store = SqliteStore::open(&options.database(), Access::ReadOnly).unwrap();
    let verified = |vkeys: Vec<VerifierKey>| {
        let question = Question {
            marks: Some(&marks),
            keys: Some(&KeyFolder::at(&options.keys())),
            tenant_id: Some("acme".into()),
            vkeys,
            ..Question::default()
        };
        verify(&store, &question).unwrap().exit_code(None)
    };
    assert_eq!(verified(vec![vkey]), 0);
    assert_eq!(verified(Vec::new()), 1, "nothing else tells whose it is");
}
