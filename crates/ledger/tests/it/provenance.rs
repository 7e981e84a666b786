//! Provenance logs: files read again, runs that take them, reports with a bound.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use evidence::ActorType;
use evidence::canonical::Value;
use evidence::record::ProvenanceLog;
use ledger::provenance::file::{Imported, count, export};
use ledger::provenance::{DRIFT_BYTES_MAX, ProvenanceQuery};
use ledger::{EraseAsked, Rejection, SubmitError, Tenant, WriteError};
use store::Fault;

use crate::bed::{TestLedger, run, step, tamper, time};

fn log(t: &TestLedger, tenant: &Arc<Tenant>, input: Value, run_id: Option<&str>) -> Result<(), WriteError> {
    let log = ProvenanceLog::new(input, Value::Null);
    t.ledger
        .provenance_log(tenant, log, run_id, t.now(), t.now())
        .map(drop)
}

/// The logs of a tenant as one file.
fn exported(t: &TestLedger, tenant: &Tenant) -> PathBuf {
    let out = t.path().join("out");
    let of = (tenant.tenant_no, &*tenant.tenant_id);
    let done = export(t.ledger.store(), of, &out, (None, None), &mut |_| {}).unwrap();
    assert_eq!(done.files.len(), 1);
    done.files[0].clone()
}

fn import(t: &TestLedger, tenant: &Arc<Tenant>, file: &Path) -> Imported {
    t.ledger.provenance_import(tenant, file, t.now()).unwrap()
}

#[test]
fn a_folder_that_cannot_be_written_into_is_named() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let out = t.path().join("out");
    std::fs::write(&out, "a file").unwrap();
    let of = (tenant.tenant_no, &*tenant.tenant_id);
    let error = export(t.ledger.store(), of, &out, (None, None), &mut |_| {}).unwrap_err();
    let error = error.to_string();
    assert!(error.contains(&*out.to_string_lossy()), "{error}");
}

#[test]
fn an_export_that_fails_leaves_the_files_of_before() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    log(&t, &tenant, Value::Int(1), None).unwrap();
    let file = exported(&t, &tenant);
    let before = std::fs::read(&file).unwrap();
    log(&t, &tenant, Value::Int(2), None).unwrap();
    tamper(
        t.path(),
        "UPDATE bodies SET body = x'00' WHERE leaf = (SELECT max(leaf) FROM facets WHERE facet = 'provenance')",
    );
    let out = t.path().join("out");
    let of = (tenant.tenant_no, &*tenant.tenant_id);
    export(t.ledger.store(), of, &out, (None, None), &mut |_| {}).unwrap_err();
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert_eq!(
        std::fs::read_dir(&out).unwrap().count(),
        1,
        "nothing is left beside"
    );
}

#[test]
fn a_file_that_is_read_again_makes_no_second_records() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    for number in 0..3 {
        log(&t, &tenant, Value::Int(number), None).unwrap();
    }
    let file = exported(&t, &tenant);
    let again = import(&t, &tenant, &file);
    assert_eq!((again.logs, again.on_record), (0, 3), "{again:?}");

    // Elsewhere they have ids that are no record's.
    let other = t.tenant("other");
    let first = import(&t, &other, &file);
    assert_eq!((first.logs, first.on_record), (3, 0), "{first:?}");
    let size = t.size(&other);
    let again = import(&t, &other, &file);
    assert_eq!((again.logs, again.on_record), (0, 3), "{again:?}");
    // A line twice in one file, and the same id with another input.
    let text = std::fs::read_to_string(&file).unwrap();
    let line = text.lines().next().unwrap();
    let new = line.replacen("\"id\":\"", "\"id\":\"ada@example.com ", 1);
    let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
    value["compressed"] = false.into();
    (value["input_json"], value["output_json"]) = ("7".into(), "null".into());
    std::fs::write(&file, format!("{new}\n{new}\n{value}\n")).unwrap();
    let more = import(&t, &other, &file);
    assert_eq!(
        (more.logs, more.on_record, more.disagreeing),
        (2, 1, 1),
        "{more:?}"
    );
    assert_eq!(import(&t, &other, &file).on_record, 3);
    assert_eq!(t.size(&other), size + 2);
    t.check();
}

/// A line with these payloads, and hashes of others if need be.
fn line((input, output): (&str, &str), (of_input, of_output): (&str, &str)) -> String {
    let hash = |text: &str| evidence::hex_string(&evidence::sha256(text.as_bytes()));
    let line = serde_json::json!({ "id": "x", "timestamp": "2026-05-11T10:00:00Z", "input_json": input,
        "output_json": output, "input_hash": hash(of_input), "output_hash": hash(of_output) });
    format!("{line}\n")
}

#[test]
fn another_output_and_a_wrong_hash_are_told_of_a_log_that_is_on_record() {
    const PAID: (&str, &str) = ("\"I\"", "\"PAID 10\"");
    const OTHER: (&str, &str) = ("\"I\"", "\"PAID 99\"");
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let file = t.path().join("logs.jsonl");
    let import_text = |text: String| {
        std::fs::write(&file, text).unwrap();
        let done = import(&t, &tenant, &file);
        let counts = (done.logs, done.on_record, done.refused, done.disagreeing);
        (counts, done.remarks)
    };
    // Also where both stand in one file, and neither is on record yet.
    let (counts, remarks) = import_text(line(PAID, PAID) + &line(OTHER, OTHER));
    assert_eq!(counts, (1, 0, 1, 0), "{remarks:?}");
    let size = t.size(&tenant);
    let (counts, again) = import_text(line(PAID, PAID) + &line(OTHER, OTHER));
    assert_eq!(counts, (0, 1, 1, 0), "{again:?}");
    assert_eq!(again, remarks);
    assert!(
        remarks[0].starts_with("line 2: not imported: its id and input are on record with another output"),
        "{remarks:?}"
    );
    // The same log with wrong hashes is on record, and its hashes are wrong all the same.
    for _ in 0..2 {
        let (counts, remarks) = import_text(line(PAID, ("1", "2")));
        assert_eq!(counts, (0, 1, 0, 1), "{remarks:?}");
        assert!(
            remarks[0].contains("input_hash is ") && remarks[0].contains("; output_hash is "),
            "{remarks:?}"
        );
    }
    // Another output under the hash of the first is both.
    assert_eq!(import_text(line(OTHER, PAID)).0, (0, 0, 1, 1));
    assert_eq!(t.size(&tenant), size);
    t.check();
}

#[test]
fn a_log_on_record_that_cannot_be_read_refuses_its_lines_and_no_others() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let (one, two, three) = (("1", "2"), ("3", "4"), ("5", "6"));
    let file = t.path().join("logs.jsonl");
    std::fs::write(&file, line(one, one) + &line(two, two)).unwrap();
    assert_eq!(import(&t, &tenant, &file).logs, 2);
    tamper(
        t.path(),
        "UPDATE bodies SET body = x'00' WHERE leaf = (SELECT min(leaf) FROM facets WHERE facet = 'provenance')",
    );
    std::fs::write(&file, line(one, one) + &line(two, two) + &line(three, three)).unwrap();
    let done = import(&t, &tenant, &file);
    assert_eq!(
        (done.logs, done.on_record, done.refused, done.complete),
        (1, 1, 1, true),
        "{done:?}"
    );
    let leaf = t.size(&tenant) - 3;
    let named = format!("line 1: not imported: what is on record of its id: the body of leaf {leaf}: ");
    assert!(done.remarks[0].starts_with(&named), "{done:?}");
}

#[test]
fn a_log_on_record_is_read_once_for_the_lines_that_are_it() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let paid = ("1", "2");
    let file = t.path().join("logs.jsonl");
    std::fs::write(&file, line(paid, paid)).unwrap();
    assert_eq!(import(&t, &tenant, &file).logs, 1);
    let again = Arc::new(AtomicBool::new(false));
    let read = Arc::clone(&again);
    t.fault
        .before("bodies_page", 2, move || read.store(true, Ordering::Relaxed));
    std::fs::write(&file, line(paid, paid).repeat(3)).unwrap();
    assert_eq!(import(&t, &tenant, &file).on_record, 3);
    assert!(!again.load(Ordering::Relaxed));
}

#[test]
fn an_import_counts_the_logs_out_of_which_something_was_taken() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let file = t.path().join("logs.jsonl");
    let (free, mail) = (("1", "2"), ("3", "\"to ada@example.com\""));
    std::fs::write(&file, line(free, free) + &line(mail, mail)).unwrap();
    let done = import(&t, &tenant, &file);
    assert_eq!(
        (done.logs, done.redacted, done.disagreeing),
        (2, 1, 0),
        "{done:?}"
    );
    let again = import(&t, &tenant, &file);
    assert_eq!(
        (again.on_record, again.redacted, again.refused),
        (2, 0, 0),
        "{again:?}"
    );
    // What was taken out before is not taken out again.
    let exported = exported(&t, &tenant);
    let done = import(&t, &t.tenant("other"), &exported);
    assert_eq!(
        (done.logs, done.redacted, done.disagreeing),
        (2, 0, 0),
        "{done:?}"
    );
}

#[test]
fn a_log_that_is_on_record_by_its_record_is_held_to_its_output_too() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    log(&t, &tenant, Value::Int(1), None).unwrap();
    let file = exported(&t, &tenant);
    let text = std::fs::read_to_string(&file).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["compressed"] = false.into();
    (value["input_json"], value["output_json"]) = ("1".into(), "7".into());
    std::fs::write(&file, format!("{value}\n")).unwrap();
    let done = import(&t, &tenant, &file);
    assert_eq!(
        (done.logs, done.on_record, done.refused, done.disagreeing),
        (0, 0, 1, 1),
        "{done:?}"
    );
}

#[test]
fn an_imported_log_keeps_its_time_as_given_where_that_says_more() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let file = t.path().join("logs.jsonl");
    let finer = "2026-05-11T10:00:00.123456789+00:00";
    let at = |id: &str, time: &str| {
        line(("1", "2"), ("1", "2"))
            .replace("\"x\"", &format!("{id:?}"))
            .replace("2026-05-11T10:00:00Z", time)
    };
    let long = format!("2026-05-11T10:00:00.{}Z", "1".repeat(44));
    let text = at("a", "2026-05-11T10:00:00.123456Z") + &at("b", finer) + &at("c", &long);
    std::fs::write(&file, text).unwrap();
    let done = import(&t, &tenant, &file);
    assert_eq!((done.logs, done.malformed), (2, 1), "{done:?}");
    assert!(done.remarks[0].contains("more than 64 bytes"), "{done:?}");
    let query = ProvenanceQuery {
        limit: 5,
        ..ProvenanceQuery::default()
    };
    let page = t.ledger.provenance_find(&tenant, &query).unwrap();
    let given: Vec<_> = page
        .records
        .iter()
        .map(|record| {
            assert_eq!(
                record.header().unwrap().occurred_at,
                time("2026-05-11T10:00:00.123456Z")
            );
            let body: serde_json::Value = serde_json::from_slice(record.body.bytes().unwrap()).unwrap();
            body["times_given"].clone()
        })
        .collect();
    assert_eq!(
        given,
        [serde_json::json!({ "timestamp": finer }), serde_json::Value::Null]
    );
    // And keeps it on the way into a file and out of that.
    let file = exported(&t, &tenant);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches(finer).count(), 1, "{text}");
    let other = t.tenant("other");
    assert_eq!(import(&t, &other, &file).logs, 2);
    let text = std::fs::read_to_string(exported(&t, &other)).unwrap();
    assert_eq!(text.matches(finer).count(), 1, "{text}");
    t.check();
}

#[test]
fn an_imported_log_that_is_erased_is_refused_when_its_file_is_imported_again() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let query = ProvenanceQuery {
        limit: 1,
        ..ProvenanceQuery::default()
    };
    let erased = |tenant: &Arc<Tenant>, what: &str| {
        let newest = t
            .ledger
            .provenance_find(tenant, &query)
            .unwrap()
            .records
            .remove(0);
        let asked = EraseAsked {
            record_id: newest.header().unwrap().id,
            reason: "asked for".into(),
            only: false,
            principal: "key:dpo".into(),
        };
        let erasure = t.ledger.erase(tenant, &asked, t.now()).unwrap();
        erasure.remains.iter().any(|left| left.what.contains(what))
    };
    let file = t.path().join("logs.jsonl");
    std::fs::write(&file, line(("1", "2"), ("1", "2"))).unwrap();
    assert_eq!(import(&t, &tenant, &file).logs, 1);
    assert!(erased(&tenant, "a keyed hash of it"));
    let size = t.size(&tenant);
    let again = import(&t, &tenant, &file);
    assert_eq!(
        (again.logs, again.on_record, again.refused),
        (0, 0, 1),
        "{again:?}"
    );
    assert!(again.remarks[0].contains("imported and erased"), "{again:?}");
    assert_eq!(t.size(&tenant), size);
    // With another input it is another log.
    std::fs::write(&file, line(("3", "2"), ("3", "2"))).unwrap();
    assert_eq!(import(&t, &tenant, &file).logs, 1);
    // By the id of its record one is known all the same.
    let other = t.tenant("other");
    log(&t, &other, Value::Int(7), None).unwrap();
    let file = exported(&t, &other);
    assert!(!erased(&other, "a keyed hash of it"));
    let again = import(&t, &other, &file);
    assert_eq!((again.logs, again.on_record), (0, 1), "{again:?}");
    t.check();
    rebuilt_and_without_the_key(t);
}

/// What tells an erased log again is made anew by a rebuild, and without the key it is a record again.
fn rebuilt_and_without_the_key(t: TestLedger) {
    let file = t.path().join("logs.jsonl");
    std::fs::write(&file, line(("1", "2"), ("1", "2"))).unwrap();
    t.ledger.rebuild().unwrap();
    let t = t.reopen();
    let tenant = t.ledger.tenant("acme").unwrap();
    assert_eq!(import(&t, &tenant, &file).refused, 1);
    t.check();
    let t = t.reopen_after(|folder| std::fs::remove_file(folder.join("keys/erased.key")).unwrap());
    let tenant = t.ledger.tenant("acme").unwrap();
    assert_eq!(import(&t, &tenant, &file).logs, 1);
    t.check();
}

#[test]
fn an_imported_log_of_a_run_that_is_erased_is_refused_too() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    t.all(&tenant, vec![run("r"), step("r", 0)]);
    let file = t.path().join("logs.jsonl");
    let line = line(("1", "2"), ("1", "2")).replace("\"id\"", "\"run_id\":\"r\",\"id\"");
    std::fs::write(&file, line).unwrap();
    assert_eq!(import(&t, &tenant, &file).without_run, 0);
    let query = ProvenanceQuery {
        run_id: Some("r".into()),
        limit: 1,
        ..ProvenanceQuery::default()
    };
    let log = t
        .ledger
        .provenance_find(&tenant, &query)
        .unwrap()
        .records
        .remove(0);
    let asked = EraseAsked {
        record_id: log.header().unwrap().id,
        reason: "asked for".into(),
        only: false,
        principal: "key:dpo".into(),
    };
    t.ledger.erase(&tenant, &asked, t.now()).unwrap();
    assert_eq!(import(&t, &tenant, &file).refused, 1);
    t.check();
}

#[test]
fn an_imported_log_stays_with_its_run_where_there_is_one() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    t.all(&tenant, vec![run("r"), step("r", 0)]);
    log(&t, &tenant, Value::Int(1), Some("r")).unwrap();
    let file = exported(&t, &tenant);

    let (with, without, sealed) = (t.tenant("with"), t.tenant("without"), t.tenant("sealed"));
    t.all(&with, vec![run("r"), step("r", 0)]);
    let done = import(&t, &with, &file);
    assert_eq!((done.logs, done.without_run), (1, 0), "{done:?}");
    let query = ProvenanceQuery {
        run_id: Some("r".into()),
        limit: 5,
        ..ProvenanceQuery::default()
    };
    let of_run = |tenant| t.ledger.provenance_find(tenant, &query).unwrap().records.len();
    assert_eq!(of_run(&with), 1);

    t.all(&sealed, vec![run("r"), step("r", 0)]);
    t.complete(&sealed, "r");
    let by = (ActorType::System, None);
    t.ledger.run_seal(&sealed, "r", by, t.now()).unwrap();
    for tenant in [&without, &sealed] {
        let done = import(&t, tenant, &file);
        assert_eq!((done.logs, done.without_run, done.refused), (1, 1, 0), "{done:?}");
        assert!(done.remarks[0].contains("its run r"), "{done:?}");
        assert_eq!(of_run(tenant), 0);
    }
    t.check();
}

#[test]
fn a_sealed_run_takes_no_log_and_a_failed_look_is_no_unknown_outcome() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    t.all(&tenant, vec![run("r"), step("r", 0)]);
    log(&t, &tenant, Value::Int(1), Some("r")).unwrap();
    t.complete(&tenant, "r");
    log(&t, &tenant, Value::Int(2), Some("r")).unwrap();
    let by = (ActorType::System, None);
    t.ledger.run_seal(&tenant, "r", by, t.now()).unwrap();
    let refused = log(&t, &tenant, Value::Int(3), Some("r")).unwrap_err();
    assert!(matches!(refused, WriteError::Rejected(Rejection::RunSealed)));
    let size = t.size(&tenant);
    t.fault.arm(Fault::ReadBy("run_find"));
    let failed = log(&t, &tenant, Value::Int(3), Some("r")).unwrap_err();
    assert!(
        !matches!(failed, WriteError::Submit(SubmitError::Unknown(_))),
        "{failed}"
    );
    assert_eq!(t.size(&tenant), size);
    t.check();
}

#[test]
fn a_log_that_is_erased_or_archived_is_told_and_neither_is_the_other() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    t.all(&tenant, vec![run("r"), step("r", 0)]);
    log(&t, &tenant, Value::from("archived"), Some("r")).unwrap();
    let all = ProvenanceQuery {
        limit: 5,
        ..ProvenanceQuery::default()
    };
    log(&t, &tenant, Value::from("erased"), None).unwrap();
    let newest = t.ledger.provenance_find(&tenant, &all).unwrap().records.remove(0);
    let asked = EraseAsked {
        record_id: newest.header().unwrap().id,
        reason: "asked for".into(),
        only: false,
        principal: "key:dpo".into(),
    };
    t.ledger.erase(&tenant, &asked, t.now()).unwrap();
    log(&t, &tenant, Value::from("there"), None).unwrap();
    t.complete(&tenant, "r");
    let by = (ActorType::System, None);
    t.ledger.run_seal(&tenant, "r", by, t.now()).unwrap();
    let year = 366 * 24 * 3_600 * 1_000;
    assert!(t.ledger.retain(t.later(year)).unwrap() > 0);

    let drift = t.ledger.provenance_drift(&tenant, &all, DRIFT_BYTES_MAX).unwrap();
    assert_eq!(
        (
            drift.logs,
            drift.erased,
            drift.archived,
            drift.missing,
            drift.complete
        ),
        (1, 1, 1, 0, false)
    );
    let out = t.path().join("out");
    let of = (tenant.tenant_no, &*tenant.tenant_id);
    let mut looked = 0;
    let done = export(t.ledger.store(), of, &out, (None, None), &mut |n| looked = n).unwrap();
    assert_eq!(
        (done.logs, done.erased, done.archived, done.missing),
        (1, 1, 1, 0)
    );
    assert_eq!(looked, count(t.ledger.store(), tenant.tenant_no).unwrap());
    let text = std::fs::read_to_string(&done.files[0]).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let said = |name: &str| lines.iter().filter(|line| line[name] == true).collect::<Vec<_>>();
    let (erased, archived) = (said("erased"), said("archived"));
    assert_eq!((erased.len(), archived.len(), lines.len()), (1, 1, 3));
    assert_eq!(erased[0]["id"], asked.record_id.to_string());
    assert_eq!(archived[0]["run_id"], "r");
    for line in [erased[0], archived[0]] {
        for field in [
            "input_hash",
            "output_hash",
            "input_json",
            "output_json",
            "plan_hash",
            "status",
        ] {
            assert_eq!(line[field], serde_json::Value::Null, "{field}");
        }
        // Of the fifteen fields none is away.
        assert_eq!(line.as_object().unwrap().len(), 16);
    }
    // Elsewhere such lines are no logs, and no fault.
    let other = t.tenant("other");
    let read = import(&t, &other, &done.files[0]);
    assert_eq!((read.logs, read.gone, read.malformed), (1, 2, 0), "{read:?}");
}

#[test]
fn a_drift_report_reads_so_many_bytes_and_says_that_there_is_more() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    for number in 0..5 {
        log(&t, &tenant, Value::from(format!("{number}").repeat(1_000)), None).unwrap();
    }
    let query = ProvenanceQuery {
        limit: 500,
        ..ProvenanceQuery::default()
    };
    let drift = |bytes_max| {
        let drift = t.ledger.provenance_drift(&tenant, &query, bytes_max).unwrap();
        (drift.logs, drift.complete)
    };
    assert_eq!(drift(2_500), (2, false));
    assert_eq!(drift(DRIFT_BYTES_MAX), (5, true));
}

#[test]
fn a_log_whose_body_is_gone_for_no_reason_on_record_is_counted_apart_in_drift() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    for text in ["kept", "gone"] {
        log(&t, &tenant, Value::from(text), None).unwrap();
    }
    tamper(
        t.path(),
        "DELETE FROM bodies WHERE leaf = (SELECT max(leaf) FROM facets WHERE facet = 'provenance')",
    );
    let all = ProvenanceQuery {
        limit: 5,
        ..ProvenanceQuery::default()
    };
    let drift = t.ledger.provenance_drift(&tenant, &all, DRIFT_BYTES_MAX).unwrap();
    assert_eq!(
        (
            drift.logs,
            drift.erased,
            drift.archived,
            drift.missing,
            drift.complete
        ),
        (1, 0, 0, 1, false)
    );
}

/// The list of what is erased is not signed.
#[test]
fn a_log_of_which_only_a_row_says_that_it_was_erased_is_missing() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    for text in ["kept", "gone"] {
        log(&t, &tenant, Value::from(text), None).unwrap();
    }
    tamper(
        t.path(),
        "DELETE FROM bodies WHERE leaf = (SELECT max(leaf) FROM facets WHERE facet = 'provenance');
         INSERT INTO facets SELECT tenant_no, 'erased', max(leaf), 0 FROM facets WHERE facet = 'provenance'",
    );
    let all = ProvenanceQuery {
        limit: 5,
        ..ProvenanceQuery::default()
    };
    let drift = t.ledger.provenance_drift(&tenant, &all, DRIFT_BYTES_MAX).unwrap();
    assert_eq!((drift.logs, drift.erased, drift.missing), (1, 0, 1));
    let page = t.ledger.provenance_find(&tenant, &all).unwrap();
    let damaged: Vec<bool> = page.records.iter().map(ledger::Record::is_damaged).collect();
    assert_eq!(damaged, [true, false]);
    let of = (tenant.tenant_no, &*tenant.tenant_id);
    let out = t.path().join("out");
    let done = export(t.ledger.store(), of, &out, (None, None), &mut |_| ()).unwrap();
    assert_eq!((done.logs, done.erased, done.missing), (1, 0, 1));
}
