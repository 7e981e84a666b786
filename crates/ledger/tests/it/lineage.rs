//! Audit logs as records: imported once however often, found by function, and seen whole by the auditor.

use std::path::PathBuf;
use std::sync::Arc;

use evidence::canonical::{self, Value};
use evidence::record::LineageRecord;
use evidence::{ActorType, ExecutionStatus, Kind};
use ledger::lineage::{LineageFound, LineageImportError, LineageImported, cited};
use ledger::{Body, EraseAsked, Rejection, Tenant, WriteError};
use store::Gone;

use crate::bed::{TestLedger, run};

const EVIDENCE: &str = r#"{"ts":"2026-01-01T00:00:00Z","type":"evidence","id":"ev-1","evidence_type":"csv","uri":"a.csv","input_row_ids":["2025-08|ENT100|1000"],"timestamp":"2026-01-01T00:00:00Z"}"#;
const DETERMINISTIC: &str = r#"{"ts":"2026-01-01T00:00:01Z","type":"deterministic","fn":"tb_diagnostics","evidence_id":"ev-1","params":{"period":"2025-08"},"artifact":null}"#;

fn log(bed: &TestLedger, text: &str) -> PathBuf {
    let path = bed.path().join("audit_20260101T000000Z.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

fn import(bed: &TestLedger, tenant: &Arc<Tenant>, text: &str) -> LineageImported {
    bed.ledger
        .lineage_import(tenant, &log(bed, text), bed.now())
        .unwrap()
}

fn counts(imported: &LineageImported) -> (u64, u64, u64, u64) {
    (
        imported.written,
        imported.known,
        imported.other,
        imported.malformed,
    )
}

#[test]
fn a_log_is_imported_once_however_often() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let text = format!(
        "\u{feff}{EVIDENCE}\r\n\n{DETERMINISTIC}\n{EVIDENCE}\n{{\"type\":\"ai_metrics\",\"tokens\":5}}\n[1]\n{{\"type\":\"note\"}}\n{{\"type\":\"evidence\"}}\n{{\"ty"
    );
    let first = import(&bed, &tenant, &text);
    assert_eq!(counts(&first), (4, 0, 1, 3));
    assert_eq!(first.run_id, "20260101T000000Z");
    let places: Vec<&str> = first
        .remarks
        .iter()
        .map(|remark| remark.split(':').next().unwrap())
        .collect();
    assert_eq!(places, ["line 6", "line 8", "line 9"]);
    assert_eq!(counts(&import(&bed, &tenant, &text)), (0, 4, 1, 3));
    // What was appended since comes to the same run, though it has ended.
    let longer = format!("{text}pe\":\"note\"}}\n{{\"type\":\"ai_output\",\"kind\":\"x\"}}\n");
    assert_eq!(counts(&import(&bed, &tenant, &longer)), (1, 4, 2, 2));
    let run = bed
        .ledger
        .store()
        .run_find(tenant.tenant_no, "20260101T000000Z")
        .unwrap()
        .unwrap();
    assert_eq!(run.state.execution_status, ExecutionStatus::Succeeded);
    bed.check();
}

#[test]
fn lines_that_a_sealed_run_refuses_are_counted_apart_from_lines_that_are_none() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let text = format!("{EVIDENCE}\n[1]\n");
    let first = import(&bed, &tenant, &text);
    assert_eq!((counts(&first), first.refused), ((1, 0, 0, 1), 0));
    // Until the seal a log that has grown is imported again.
    let grown = format!("{text}{DETERMINISTIC}\n");
    assert_eq!(counts(&import(&bed, &tenant, &grown)), (1, 1, 0, 1));
    bed.ledger
        .run_seal(&tenant, &first.run_id, (ActorType::System, None), bed.now())
        .unwrap();
    let late = import(
        &bed,
        &tenant,
        &format!("{grown}{{\"type\":\"ai_output\",\"kind\":\"x\"}}\n"),
    );
    assert_eq!(
        (counts(&late), late.refused, late.complete),
        ((0, 2, 0, 1), 1, true)
    );
    assert_eq!(late.remarks.len(), 2, "{:?}", late.remarks);
    assert!(
        late.remarks[1].starts_with("line 4: ") && late.remarks[1].contains("seal"),
        "{:?}",
        late.remarks
    );
    bed.check();
}

/// The last deterministic record counts, also when an equal one stood before: A, B, A is not A, B.
#[test]
fn the_last_of_equal_lines_is_the_last_on_record() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let later = EVIDENCE.replace("1000", "2000");
    let other = DETERMINISTIC.replace("ev-1", "ev-2");
    let text = format!("{EVIDENCE}\n{DETERMINISTIC}\n{later}\n{other}\n{EVIDENCE}\n{DETERMINISTIC}\n");
    assert_eq!(counts(&import(&bed, &tenant, &text)), (6, 0, 0, 0));
    let found = || {
        let store = bed.ledger.store();
        cited(store, tenant.tenant_no, "tb_diagnostics", None)
            .unwrap()
            .cited
            .unwrap()
    };
    let line = |bytes: &[u8]| canonical::parse(bytes, canonical::Limits::default()).unwrap();
    assert_eq!(
        line(found().deterministic.bytes().unwrap()),
        line(DETERMINISTIC.as_bytes())
    );
    assert_eq!(
        line(found().evidence.unwrap().bytes().unwrap()),
        line(EVIDENCE.as_bytes())
    );
    // Done again, nothing is new; a log that grows by an equal line is longer by a record.
    assert_eq!(counts(&import(&bed, &tenant, &text)), (0, 6, 0, 0));
    assert_eq!(
        counts(&import(&bed, &tenant, &format!("{text}{other}\n{other}\n"))),
        (2, 6, 0, 0)
    );
    assert_eq!(
        line(found().deterministic.bytes().unwrap()),
        line(other.as_bytes())
    );
    bed.check();
}

#[test]
fn evidence_is_found_by_its_function() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    import(&bed, &tenant, &format!("{EVIDENCE}\n{DETERMINISTIC}\n"));
    let other = EVIDENCE.replace("1000", "2000");
    bed.one(&tenant, run("r2"));
    for (kind, line) in [
        (Kind::LineageEvidence, other.as_str()),
        (Kind::LineageDeterministic, DETERMINISTIC),
    ] {
        let written = write(&bed, &tenant, kind, line, Some("r2")).unwrap();
        assert!(written, "{line}");
        assert!(
            !write(&bed, &tenant, kind, line, Some("r2")).unwrap(),
            "the same line of the same run"
        );
    }
    let find = |run: Option<&str>| {
        let found = cited(bed.ledger.store(), tenant.tenant_no, "tb_diagnostics", run).unwrap();
        let evidence = found.cited?.evidence.and_then(Body::into_bytes);
        evidence.map(|line| String::from_utf8(line).unwrap())
    };
    assert!(find(Some("20260101T000000Z")).unwrap().contains("ENT100|1000"));
    assert!(find(Some("r2")).unwrap().contains("ENT100|2000"));
    assert_eq!(find(None), find(Some("r2")), "the last one");
    assert_eq!(find(Some("r3")), None);
    assert!(
        cited(bed.ledger.store(), tenant.tenant_no, "nobody", None)
            .unwrap()
            .cited
            .is_none()
    );
    bed.check();
}

fn write(
    bed: &TestLedger,
    tenant: &Arc<Tenant>,
    kind: Kind,
    line: &str,
    run: Option<&str>,
) -> Result<bool, WriteError> {
    let fields: Value = canonical::parse(line.as_bytes(), canonical::Limits::default()).unwrap();
    let record = LineageRecord::new(kind, fields)?;
    let written = bed.ledger.lineage_write(tenant, &record, run, 0, bed.now())?;
    Ok(written.placed.fresh)
}

#[test]
fn lineage_needs_the_run_it_names_and_none_else() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let refused = write(&bed, &tenant, Kind::LineageEvidence, EVIDENCE, Some("nowhere"));
    assert!(matches!(
        refused,
        Err(WriteError::Rejected(Rejection::RunUnknown))
    ));
    assert!(write(&bed, &tenant, Kind::LineageEvidence, EVIDENCE, None).unwrap());
    assert!(
        write(&bed, &tenant, Kind::LineageEvidence, EVIDENCE, None).unwrap(),
        "without a run each is a record"
    );
    let secret = EVIDENCE.replace("a.csv", "mailto:ada@example.com");
    bed.one(&tenant, run("r"));
    assert!(write(&bed, &tenant, Kind::LineageEvidence, &secret, Some("r")).unwrap());
    assert!(!write(&bed, &tenant, Kind::LineageEvidence, &secret, Some("r")).unwrap());
    bed.check();
}

#[test]
fn a_file_that_is_no_log_makes_no_run() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let path = bed.path().join("log.jsonl");
    std::fs::write(&path, EVIDENCE).unwrap();
    let named = bed.ledger.lineage_import(&tenant, &path, bed.now());
    assert!(matches!(named, Err(LineageImportError::Name(_))));
    assert_eq!(counts(&import(&bed, &tenant, "\n{}\n[]\n")), (0, 0, 0, 2));
    assert!(
        bed.ledger
            .store()
            .run_find(tenant.tenant_no, "20260101T000000Z")
            .unwrap()
            .is_none()
    );
    bed.check();
}

#[test]
fn an_erased_line_is_known_again_by_nothing_that_is_in_the_ledger() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    import(&bed, &tenant, &format!("{EVIDENCE}\n{DETERMINISTIC}\n"));
    let find = || {
        cited(bed.ledger.store(), tenant.tenant_no, "tb_diagnostics", None)
            .unwrap()
            .cited
            .unwrap()
    };
    let record = find().evidence_record.unwrap();
    let asked = EraseAsked {
        record_id: evidence::RecordId::parse(&record).unwrap(),
        reason: "asked for".into(),
        only: false,
        principal: "key:a1".into(),
    };
    let identity = |bed: &TestLedger| {
        let run = bed.run_row(&tenant, "20260101T000000Z").key;
        let rows = bed.ledger.store().run_records(run, 0, 10).unwrap();
        rows.into_iter()
            .find(|row| row.kind == Kind::LineageEvidence)
            .unwrap()
            .identity
    };
    let content = identity(&bed).unwrap();
    let erasure = bed.ledger.erase(&tenant, &asked, bed.now()).unwrap();
    assert!(
        erasure
            .remains
            .iter()
            .any(|remains| remains.what.contains("keys/erased.key")),
        "{:?}",
        erasure.remains
    );
    assert_eq!(find().evidence, None);
    assert_ne!(identity(&bed), Some(content), "a hash of what was erased");
    let report = bed.report();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    // The same again is the first record, and brings nothing back (SPEC 3), also after a restart.
    assert_eq!(counts(&import(&bed, &tenant, EVIDENCE)), (0, 1, 0, 0));
    let bed = bed.reopen();
    let tenant = bed.tenant("t");
    assert_eq!(counts(&import(&bed, &tenant, EVIDENCE)), (0, 1, 0, 0));
    assert!(
        !write(
            &bed,
            &tenant,
            Kind::LineageEvidence,
            EVIDENCE,
            Some("20260101T000000Z")
        )
        .unwrap()
    );
    // Another line is another, and of another run it is a record.
    let other = EVIDENCE.replace("1000", "2000");
    assert_eq!(
        counts(&import(&bed, &tenant, &format!("{EVIDENCE}\n{other}\n"))),
        (1, 1, 0, 0)
    );
    bed.one(&tenant, run("r2"));
    assert!(write(&bed, &tenant, Kind::LineageEvidence, EVIDENCE, Some("r2")).unwrap());
    let report = bed.report();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    // Without the key nothing is left to know it by, so it is a record again.
    let bed = bed.reopen_after(|folder| std::fs::remove_file(folder.join("keys/erased.key")).unwrap());
    let tenant = bed.tenant("t");
    assert_eq!(counts(&import(&bed, &tenant, EVIDENCE)), (1, 0, 0, 0));
}

#[test]
fn a_function_whose_newest_record_is_archived_is_not_said_to_have_none() {
    const DAYS_91: i64 = 91 * 24 * 3_600 * 1_000;
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    import(&bed, &tenant, &format!("{EVIDENCE}\n{DETERMINISTIC}\n"));
    let find = || cited(bed.ledger.store(), tenant.tenant_no, "tb_diagnostics", None).unwrap();
    let before = find().cited.unwrap();
    assert!(before.deterministic.bytes().is_some());
    bed.ledger.seal_due(bed.later(60_000));
    assert!(bed.ledger.retain(bed.later(DAYS_91)).unwrap() > 0);
    let found = find();
    let after = found.cited.unwrap();
    assert_eq!(after.deterministic, Body::Gone(Gone::Archived));
    assert_eq!(after.deterministic_record, before.deterministic_record);
    assert_eq!(found.erased_later, 0);
    // Evidence that went before the record that names it, which is of no run and may name that of any.
    write(&bed, &tenant, Kind::LineageDeterministic, DETERMINISTIC, None).unwrap();
    let later = find().cited.unwrap();
    assert!(later.deterministic.bytes().is_some());
    assert_ne!(later.deterministic_record, before.deterministic_record);
    assert_eq!(later.evidence, Some(Body::Gone(Gone::Archived)));
    assert_eq!(later.evidence_record, before.evidence_record);
    bed.check();
}

#[test]
fn an_older_record_of_a_function_does_not_pass_for_its_newest_when_later_ones_are_erased() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let find =
        |run: Option<&str>| cited(bed.ledger.store(), tenant.tenant_no, "tb_diagnostics", run).unwrap();
    let newest = |run_id: &str| {
        bed.one(&tenant, run(run_id));
        write(&bed, &tenant, Kind::LineageEvidence, EVIDENCE, Some(run_id)).unwrap();
        write(
            &bed,
            &tenant,
            Kind::LineageDeterministic,
            DETERMINISTIC,
            Some(run_id),
        )
        .unwrap();
        find(None).cited.unwrap().deterministic_record
    };
    let erase = |record: &str| {
        let asked = EraseAsked {
            record_id: evidence::RecordId::parse(record).unwrap(),
            reason: "asked for".into(),
            only: false,
            principal: "key:a1".into(),
        };
        bed.ledger.erase(&tenant, &asked, bed.now()).unwrap();
    };
    let (first, second, third) = (newest("first"), newest("second"), newest("third"));
    erase(&first);
    assert_eq!(find(None).erased_later, 0, "it stands before the newest");
    erase(&third);
    let found = find(None);
    assert_eq!(
        (found.cited.unwrap().deterministic_record, found.erased_later),
        (second.clone(), 1)
    );
    assert_eq!(
        find(Some("second")).erased_later,
        0,
        "the erased ones are of other runs"
    );
    erase(&second);
    let found = find(None);
    assert_eq!(
        (found.cited, found.erased_later, found.erased_more),
        (None, 3, false)
    );
    bed.check();
}

#[test]
fn an_older_line_of_an_evidence_id_does_not_pass_for_its_newest_when_later_evidence_is_erased() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let other = EVIDENCE.replace("1000", "2000");
    import(&bed, &tenant, &format!("{EVIDENCE}\n{DETERMINISTIC}\n{other}\n"));
    let find = || cited(bed.ledger.store(), tenant.tenant_no, "tb_diagnostics", None).unwrap();
    let erased = |found: &LineageFound| (found.erased_later, found.evidence_erased_later);
    let before = find();
    assert_eq!(erased(&before), (0, 0));
    let newest = before.cited.unwrap().evidence_record.unwrap();
    let asked = EraseAsked {
        record_id: evidence::RecordId::parse(&newest).unwrap(),
        reason: "asked for".into(),
        only: false,
        principal: "key:a1".into(),
    };
    bed.ledger.erase(&tenant, &asked, bed.now()).unwrap();
    let after = find();
    assert_eq!((erased(&after), after.evidence_erased_more), ((0, 1), false));
    assert_ne!(after.cited.unwrap().evidence_record, Some(newest));
}
