//! Damage to facets is damage to facets: erased and pruned evidence stays what it is.

use std::path::Path;

use evidence::FindingCode;
use ledger::verify::{Question, Report, verify};
use ledger::{EraseAsked, Options};
use store::sqlite::{Access, SqliteStore};

use crate::bed::{TestLedger, database, report, tamper};
use crate::retention::filled;

const DAY: i64 = 24 * 3_600 * 1_000;

/// A folder with an erased record and seven pruned ones.
fn folder() -> TestLedger {
    let bed = TestLedger::new();
    let tenant = filled(&bed);
    bed.ledger.retain(bed.later(40 * DAY)).unwrap();
    let records = bed
        .ledger
        .store()
        .runs_read(store::RunKey::new(tenant.tenant_no, 0), 10)
        .unwrap();
    let run = records.iter().find(|run| run.state.run_id == "goes-on").unwrap();
    let record = bed
        .ledger
        .records(&tenant)
        .read(&[run.started_leaf])
        .unwrap()
        .remove(0);
    let asked = EraseAsked {
        record_id: record.header().unwrap().id,
        reason: "asked for".into(),
        only: false,
        principal: "key:dpo".into(),
    };
    bed.ledger.erase(&tenant, &asked, bed.now()).unwrap();
    bed
}

fn only_ledger(folder: &Path) -> Report {
    let options = Options::new(folder);
    let store = SqliteStore::open(&options.database(), Access::ReadOnly).unwrap();
    let question = Question {
        only_ledger: true,
        ..Question::default()
    };
    verify(&store, &question).unwrap()
}

#[test]
fn facets_that_are_gone_make_no_erased_record_look_tampered_with() {
    for sql in [
        "DELETE FROM facets",
        "DELETE FROM facets WHERE facet = 'kind=erasure.performed'",
        "UPDATE facets SET leaf = leaf + 1000 WHERE facet = 'kind=retention.archived'",
    ] {
        let bed = folder();
        let before = only_ledger(bed.path());
        assert_eq!((before.errors, before.flags.len()), (0, 2), "{before:?}");
        let bed = bed.reopen_after(|folder| tamper(folder, sql));
        let after = only_ledger(bed.path());
        assert!(after.findings.is_empty(), "{sql}: {:?}", after.findings);
        assert_eq!(after.flags, before.flags, "{sql}");
        // The whole look finds what is wrong, and nothing else.
        let whole = report(bed.path());
        assert!(whole.errors > 0, "{sql}");
        for finding in &whole.findings {
            assert_eq!(finding.place, "facets", "{sql}: {finding}");
            assert_ne!(finding.code, FindingCode::BodyMissing, "{sql}");
        }
    }
}

#[test]
fn facets_that_cannot_be_read_are_a_finding_and_the_tenant_is_verified_all_the_same() {
    let bed = folder();
    let before = only_ledger(bed.path());
    let path = database(bed.path());
    let bed = bed.reopen_after(|_| {
        let connection = rusqlite::Connection::open(&path).unwrap();
        let root = |table: &str| -> u32 {
            let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
            connection.query_row(sql, [table], |row| row.get(0)).unwrap()
        };
        let size: u32 = connection
            .query_row("PRAGMA page_size", [], |row| row.get(0))
            .unwrap();
        let (page, size) = (
            usize::try_from(root("facets")).unwrap(),
            usize::try_from(size).unwrap(),
        );
        connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        drop(connection);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[(page - 1) * size..(page - 1) * size + 64].fill(0xff);
        std::fs::write(&path, bytes).unwrap();
    });
    for report in [only_ledger(bed.path()), report(bed.path())] {
        assert_eq!(report.exit_code(None), 1);
        assert!(
            report
                .findings
                .iter()
                .any(|finding| finding.code == FindingCode::Unreadable
                    && finding.tenant_id.as_deref() == Some("acme")),
            "{:?}",
            report.findings
        );
        let missing = |finding: &&evidence::Finding| finding.code == FindingCode::BodyMissing;
        assert!(
            report.findings.iter().find(missing).is_none(),
            "{:?}",
            report.findings
        );
        // Its leaves were looked at to the end.
        let sizes =
            |report: &Report| -> Vec<u64> { report.ledgers.iter().map(|ledger| ledger.tree_size).collect() };
        assert_eq!((sizes(&report), &report.flags), (sizes(&before), &before.flags));
    }
}
