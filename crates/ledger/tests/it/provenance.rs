//! Provenance logs: files read again, runs that take them, reports with a bound.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use evidence::ActorType;
use evidence::canonical::Value;
use evidence::record::ProvenanceLog;
use ledger::provenance::file::{Imported, export};
use ledger::provenance::{DRIFT_BYTES_MAX, ProvenanceQuery};
use ledger::{Rejection, SubmitError, Tenant, WriteError};
use store::Fault;

use crate::bed::{TestLedger, run, step};

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
