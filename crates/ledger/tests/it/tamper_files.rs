//! What is altered as a whole: the tail, marks and keys, the schema, the file.

use std::path::{Path, PathBuf};

use evidence::FindingCode;
use ledger::verify::{Question, Report, verify};
use ledger::{HighWater, KeyFolder, Options};
use rusqlite::Connection;
use store::sqlite::{Access, SqliteStore};

use crate::bed::{TestLedger, assert_clean, copy_folder, report, system, try_report};
use crate::tamper::{Copy, assert_found, base, lines};

#[test]
fn a_cut_tail_is_found_though_everything_that_is_left_agrees() {
    // The last block of acme with all that stems from it, taken out as if it had never come.
    let copy = Copy::new();
    copy.alter(|c| {
        c.execute_batch(
            "CREATE TEMP TABLE cut AS SELECT max(first_leaf) AS leaf FROM leaf_blocks WHERE first_leaf >> 40 = 1;
             DELETE FROM leaf_blocks WHERE first_leaf = (SELECT leaf FROM cut);
             DELETE FROM bodies WHERE leaf >= (SELECT leaf FROM cut) AND leaf >> 40 = 1;
             DELETE FROM checkpoints WHERE ledger_no = 1 AND tree_size > (SELECT leaf FROM cut) & ((1 << 40) - 1);",
        )
        .unwrap();
    });
    let store = SqliteStore::open(&Options::new(copy.path()).database(), Access::ReadWrite);
    ledger::rebuild(&store.unwrap(), &mut |_| {}).unwrap();
    let report = report(copy.path());
    assert_eq!(report.exit_code(None), 1);
    let codes: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.code, finding.place.as_str()))
        .collect();
    assert_eq!(
        codes,
        [(FindingCode::RolledBack, "high-water.json")],
        "{}",
        lines(&report)
    );
    let store = SqliteStore::open(&Options::new(copy.path()).database(), Access::ReadOnly);
    let alone = verify(&store.unwrap(), &Question::default()).unwrap();
    assert_eq!(
        alone.exit_code(None),
        0,
        "without anything from outside the database a cut tail cannot be seen"
    );
}

#[test]
fn checkpoints_keys_and_marks_altered_are_found() {
    let newest = "ledger_no = 1 AND tree_size = (SELECT max(tree_size) FROM checkpoints WHERE ledger_no = 1)";
    // The signature stripped: the note is none.
    let report = Copy::new().sql(&format!(
        "UPDATE checkpoints SET note = substr(note, 1, instr(note, char(10) || char(10)) + 1) WHERE {newest}"
    ));
    assert_eq!(
        assert_found(&report, "checkpoints.note").code,
        FindingCode::CheckpointInvalid
    );
    // The newest removed: a crash may have come before it was kept, so this is no contradiction, but it is said.
    let report = Copy::new().sql(&format!("DELETE FROM checkpoints WHERE {newest}"));
    assert_eq!(
        (report.errors, report.warnings, report.exit_code(None)),
        (0, 1, 0),
        "{}",
        lines(&report)
    );
    assert_eq!(report.findings[0].place, "checkpoints");
    // Nor all of them: a crash may have come before the first was kept.
    let report = Copy::new().sql("DELETE FROM checkpoints WHERE ledger_no = 1");
    assert_eq!(
        (report.errors, report.warnings, report.exit_code(None)),
        (0, 1, 0),
        "{}",
        lines(&report)
    );

    let marks = |change: fn(&mut serde_json::Value)| {
        let copy = Copy::new();
        let path = Options::new(copy.path()).high_water();
        let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut file["ledgers"]);
        std::fs::write(&path, file.to_string()).unwrap();
        report_of(&copy)
    };
    const ACME: &str = "deponent.local/acme";
    let changes: [fn(&mut serde_json::Value); 6] = [
        |file| file[ACME]["tree_size"] = (file[ACME]["tree_size"].as_u64().unwrap() + 1).into(),
        |file| file[ACME]["tree_size"] = (file[ACME]["tree_size"].as_u64().unwrap() - 1).into(),
        |file| file[ACME]["tree_root"] = tlog::leaf_hash(b"other").to_base64().into(),
        |file| drop(file.as_object_mut().unwrap().remove(ACME)),
        |file| file["deponent.local/gone"] = file[ACME].clone(),
        |file| file[ACME] = serde_json::json!({"tree_size": 0, "tree_root": tlog::empty_root().to_base64()}),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let report = marks(change);
        assert_eq!(report.exit_code(None), 1, "change {n}");
    }

    // The key file removed, and another key put in its place and into the row.
    let copy = Copy::new();
    let keys = Options::new(copy.path()).keys();
    std::fs::remove_file(keys.join("acme.0.key")).unwrap();
    let finding = assert_found(&report_of(&copy), keys.join("acme.0.key").to_str().unwrap());
    assert_eq!(finding.code, FindingCode::KeyMismatch);
    let other = KeyFolder::open(&keys)
        .unwrap()
        .read_or_create("acme", 0, ACME)
        .unwrap();
    assert_found(&report_of(&copy), "ledgers.vkey");
    let report = copy.sql(&format!(
        "UPDATE ledgers SET vkey = '{}' WHERE ledger_no = 1",
        other.verifier()
    ));
    assert_eq!(
        assert_found(&report, "checkpoints.note").code,
        FindingCode::CheckpointInvalid
    );
    // The swapped row's signatures, made anew with the other key: only a key that the verifier kept tells.
    let others_mode = Copy::new();
    let key = Options::new(others_mode.path()).keys().join("acme.0.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_found(&report_of(&others_mode), "ledgers.vkey");
}

fn report_of(copy: &Copy) -> Report {
    report(copy.path())
}

#[test]
fn a_line_below_the_signature_of_a_stored_checkpoint_is_found() {
    for more in [
        // No key that is known verifies it.
        "'— other.example AAAAAAA=' || char(10)",
        // The ledger's own once more.
        "substr(note, instr(note, char(10) || char(10)) + 2)",
    ] {
        let report = Copy::new().sql(&format!(
            "UPDATE checkpoints SET note = note || {more} WHERE ledger_no = 1
             AND tree_size = (SELECT max(tree_size) FROM checkpoints WHERE ledger_no = 1)"
        ));
        let finding = assert_found(&report, "checkpoints.note");
        assert_eq!(
            (finding.code, report.errors),
            (FindingCode::CheckpointInvalid, 1),
            "{more}: {}",
            lines(&report)
        );
    }
}

/// As `deponent verify --only ledger` does.
fn only_ledger(folder: &Path) -> Report {
    let options = Options::new(folder);
    let marks = HighWater::open(&options.high_water()).unwrap();
    let keys = KeyFolder::at(&options.keys());
    let store = SqliteStore::open(&options.database(), Access::ReadOnly).unwrap();
    let question = Question {
        only_ledger: true,
        marks: Some(&marks),
        keys: Some(&keys),
        ..Question::default()
    };
    verify(&store, &question).unwrap()
}

/// A ledger goes with its row and its mark, as if there had never been one.
fn without_ledger(ledger_no: u32, origin: &str) -> Copy {
    let copy = Copy::new();
    copy.alter(|c| {
        c.execute_batch(&format!(
            "DELETE FROM leaf_blocks WHERE first_leaf >> 40 = {ledger_no};
             DELETE FROM bodies WHERE leaf >> 40 = {ledger_no};
             DELETE FROM tree_nodes WHERE ledger_no = {ledger_no};
             DELETE FROM checkpoints WHERE ledger_no = {ledger_no};
             DELETE FROM ledgers WHERE ledger_no = {ledger_no};"
        ))
        .unwrap();
    });
    let path = Options::new(copy.path()).high_water();
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let removed = file["ledgers"].as_object_mut().unwrap().remove(origin);
    assert!(removed.is_some(), "{origin} has a mark");
    std::fs::write(&path, file.to_string()).unwrap();
    copy
}

#[test]
fn a_tenant_that_is_gone_is_missed_by_the_record_that_made_it() {
    assert_clean(&only_ledger(Copy::new().path()));
    let copy = without_ledger(1, "deponent.local/acme");
    // No projection is asked for it.
    copy.alter(|c| {
        c.execute("DELETE FROM tenants WHERE tenant_id = 'acme'", ())
            .unwrap()
    });
    let report = only_ledger(copy.path());
    let finding = assert_found(&report, "ledgers");
    assert_eq!(
        (finding.code, finding.tenant_id.as_deref()),
        (FindingCode::LeafMalformed, Some("acme")),
        "{}",
        lines(&report)
    );
    assert!(
        finding.detail.contains("was made, its ledger is not there"),
        "{finding}"
    );
    assert_eq!(report_of(&copy).exit_code(None), 1);
    // Nor does a projection that is not looked at accuse a ledger.
    let copy = Copy::new();
    copy.alter(|c| c.execute_batch("DELETE FROM tenants").unwrap());
    assert_clean(&only_ledger(copy.path()));
}

#[test]
fn the_ledger_that_makes_the_others_is_missed_itself() {
    let copy = without_ledger(0, "deponent.local/_instance");
    for report in [report_of(&copy), only_ledger(copy.path())] {
        let finding = assert_found(&report, "ledgers");
        assert_eq!(finding.tenant_id.as_deref(), Some("_instance"), "{finding}");
    }
}

#[test]
fn triggers_indexes_tables_and_dictionaries_that_differ_are_found() {
    let copy = Copy::new();
    let connection = Connection::open(Options::new(copy.path()).database()).unwrap();
    connection.execute_batch("DROP TRIGGER bodies_no_update").unwrap();
    drop(connection);
    let report = report_of(&copy);
    assert_eq!(
        (report.errors, report.warnings, report.exit_code(None)),
        (0, 1, 0)
    );
    assert_eq!(report.findings[0].code, FindingCode::TriggerMissing);
    for (place, sql) in [
        ("runs_by_created", "DROP INDEX runs_by_created"),
        ("extra", "CREATE TABLE extra (x)"),
        ("extra", "CREATE VIEW extra AS SELECT 1"),
        ("runs", "ALTER TABLE runs ADD COLUMN extra TEXT"),
    ] {
        assert_found(&Copy::new().sql(sql), place);
    }
}

#[test]
fn a_damaged_file_is_damage_not_an_open_question() {
    const PAGE: usize = 8_192;
    let pages = std::fs::metadata(Options::new(base()).database()).unwrap().len() / 8_192;
    let copy = Copy::new();
    let database = Options::new(copy.path()).database();
    let good = std::fs::read(Options::new(base()).database()).unwrap();
    let step = usize::try_from(pages / 24 + 1).unwrap();
    for page in (1..usize::try_from(pages).unwrap()).step_by(step) {
        let mut bytes = good.clone();
        bytes[page * PAGE..page * PAGE + 64].fill(0xff);
        std::fs::write(&database, bytes).unwrap();
        match try_report(copy.path()) {
            Ok(report) => assert_eq!(report.exit_code(None), 1, "page {page}"),
            // The schema itself: nothing can be asked of such a file.
            Err(store::StoreError::Damaged { .. }) => {}
            Err(error) => panic!("page {page}: {error}"),
        }
    }
}

#[test]
fn an_older_copy_is_found_alone_and_grown_again() {
    let older: PathBuf = base().to_owned();
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&older, folder.path());
    let open = |path: &Path| {
        ledger::Ledger::open(Options::new(path), crate::bed::time("2026-11-25T00:00:00Z")).unwrap()
    };
    let grow = |path: &Path, text: &str, count: usize| {
        let ledger = open(path);
        let tenant = ledger.tenant("acme").unwrap();
        let drafts = (0..count).map(|_| system(text)).collect();
        let outcomes =
            ledger.submit_blocking(&tenant, drafts, crate::bed::time("2026-11-25T00:00:01Z"), false);
        ledger.close();
        outcomes.unwrap();
    };
    grow(folder.path(), "truth", 3);
    assert_clean(&report(folder.path()));
    for count in [0, 1, 3, 5] {
        let other = Copy::new();
        if count > 0 {
            grow(other.path(), "lie", count);
        }
        let victim = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), victim.path());
        crate::bed::copy_database(other.path(), victim.path());
        let report = report(victim.path());
        let finding = assert_found(&report, "high-water.json");
        assert_eq!(finding.tenant_id.as_deref(), Some("acme"), "{count}");
    }
}

#[test]
fn what_a_search_for_a_body_would_meet_is_looked_at_and_not_only_what_a_scan_meets() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let drafts = (0..200).map(|n| system(&format!("{n} {}", "x".repeat(200))));
    bed.all(&tenant, drafts.collect());
    let bed = bed.reopen_after(|folder| {
        let path = Options::new(folder).database();
        let root: u32 = Connection::open(&path)
            .unwrap()
            .query_row(
                "SELECT rootpage FROM sqlite_schema WHERE name = 'bodies'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        let root = usize::try_from(root).unwrap();
        let mut file = std::fs::read(&path).unwrap();
        let number = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let page_size = number(&file[16..]);
        let page = &mut file[(root - 1) * page_size..root * page_size];
        assert_eq!(page[0], 5, "an inner page");
        // The key of its first child, a variable length integer behind four bytes: one less, and the child's last row is
        // looked for in the next.
        let mut at = number(&page[12..]) + 4;
        while page[at] & 0x80 != 0 {
            at += 1;
        }
        page[at] -= 1;
        std::fs::write(&path, file).unwrap();
    });
    let report = report(bed.path());
    let found = |code| report.findings.iter().any(|finding| finding.code == code);
    assert!(found(FindingCode::StoreDamaged), "{:?}", report.findings);
}

#[test]
fn no_name_hides_an_object_of_the_schema_and_no_block_is_empty() {
    for (sql, code) in [
        (
            "CREATE TABLE sqliteXstat_kept (body)",
            FindingCode::SchemaMismatch,
        ),
        (
            "CREATE TRIGGER sqliteXstat_t AFTER INSERT ON runs BEGIN SELECT 1; END",
            FindingCode::SchemaMismatch,
        ),
        (
            "INSERT INTO leaf_blocks SELECT first_leaf + leaf_count, 0, tree_root, x'00' FROM leaf_blocks
             ORDER BY first_leaf DESC LIMIT 1",
            FindingCode::LeafMalformed,
        ),
    ] {
        let copy = Copy::new();
        copy.alter(|c| c.execute_batch(sql).unwrap());
        let report = report(copy.path());
        let found = report.findings.iter().any(|finding| finding.code == code);
        assert!(found, "{sql}: {:?}", report.findings);
    }
}
