//! Damage to facets is damage to facets: erased and pruned evidence stays what it is.

use std::path::Path;

use evidence::FindingCode;
use ledger::verify::{Question, Report, verify};
use ledger::{EraseAsked, Options, Placed};
use store::LeafKey;
use store::sqlite::{Access, SqliteStore};

use crate::bed::{TestLedger, database, report, system, tamper};
use crate::erasure::erase;
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

/// Nobody signs the list that leads to what erased a record: a row of it says nothing by itself.
#[test]
fn a_record_is_erased_by_what_names_it_whatever_its_list_leads_to() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed: Vec<Placed> = (0..4)
        .map(|n| bed.one(&tenant, system(&format!("{n}"))))
        .collect();
    let by: Vec<u64> = placed[..3]
        .iter()
        .map(|placed| erase(&bed, &tenant, placed).unwrap().receipt.leaf_index)
        .collect();
    let id = |n: usize| placed[n].receipt.record_id;
    let forge = |facet: &str, index: u64| {
        let leaf = LeafKey::new(tenant.ledger().row.ledger_no, index).as_i64();
        let no = tenant.tenant_no;
        let insert = format!("INSERT INTO facets VALUES ({no}, '{facet}', {leaf}, 0)");
        tamper(bed.path(), &insert);
    };
    let erased_by = |n: usize| {
        let found = bed.ledger.erasure_of(&tenant, id(n)).unwrap();
        found.map(|(record, _)| record.leaf.leaf_index())
    };
    // Beside the true one: a body that is gone, one that is no erasure, an erasure of others, no leaf at all.
    let [gone, other] = [0, 3].map(|n: usize| placed[n].receipt.leaf_index);
    for index in [gone, other, by[0], by[2], 1_000] {
        forge(&format!("erasure={}", id(1)), index);
    }
    assert_eq!(erased_by(1), Some(by[1]));
    // A body that was taken away is erased by no erasure of another.
    let taken = LeafKey::new(tenant.ledger().row.ledger_no, placed[3].receipt.leaf_index).as_i64();
    tamper(bed.path(), &format!("DELETE FROM bodies WHERE leaf = {taken}"));
    forge("erased", placed[3].receipt.leaf_index);
    forge(&format!("erasure={}", id(3)), by[0]);
    assert_eq!(erased_by(3), None);
    // Without its row nothing says why a body is gone.
    let unlist = format!("DELETE FROM facets WHERE facet = 'erasure={}'", id(0));
    tamper(bed.path(), &unlist);
    assert_eq!((erased_by(0), erased_by(2)), (None, Some(by[2])));
}
