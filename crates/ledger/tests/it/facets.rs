//! Records found by facets, and times that never run backwards.

use std::sync::Arc;

use evidence::facet::facet;
use evidence::record::{RunCompleted, SystemRecord};
use ledger::{FOUND_BYTES_MAX, FoundRecords, Records, Tenant};
use store::FacetQuery;

use crate::bed::{TestLedger, completed, run, step, step_of, system, system_of, tamper};

fn query(facets: &[&str]) -> FacetQuery {
    FacetQuery {
        facets: facets.iter().map(|&facet| facet.to_owned()).collect(),
        limit: 100,
        newest_first: true,
        ..FacetQuery::default()
    }
}

fn summaries(found: &FoundRecords) -> Vec<String> {
    found
        .records
        .iter()
        .map(|record| {
            let body: serde_json::Value = serde_json::from_slice(record.body.bytes().unwrap()).unwrap();
            body["summary"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn told(component: &str, severity: &str, summary: &str) -> SystemRecord {
    SystemRecord {
        component: component.into(),
        event_type: "LOG".into(),
        severity: severity.into(),
        summary: summary.into(),
        ..SystemRecord::default()
    }
}

fn times(bed: &TestLedger, tenant: &Arc<Tenant>) -> Vec<evidence::Timestamp> {
    let records: Records = bed.ledger.records(tenant);
    let found = records
        .find(&FacetQuery {
            newest_first: false,
            ..query(&["system"])
        })
        .unwrap();
    found
        .records
        .iter()
        .map(|record| record.header().unwrap().recorded_at)
        .collect()
}

#[test]
fn a_record_is_found_by_what_it_says_with_header_and_body() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let other = bed.tenant("other");
    for (component, severity, summary) in [
        ("api", "INFO", "a"),
        ("api", "ERROR", "b"),
        ("worker", "ERROR", "c"),
        ("api", "ERROR", "d"),
    ] {
        bed.one(&tenant, system_of(&told(component, severity, summary)));
    }
    bed.one(&other, system_of(&told("api", "ERROR", "theirs")));
    let records = bed.ledger.records(&tenant);
    let both = query(&["system.component=api", "system.severity=ERROR"]);
    let found = records.find(&both).unwrap();
    assert_eq!(summaries(&found), ["d", "b"]);
    assert_eq!(records.count(&both, 100).unwrap(), (2, true));
    assert_eq!(
        records.count(&query(&["kind=system.record"]), 1).unwrap(),
        (4, true)
    );
    let newest = records
        .newest(facet("system.component", "worker"), None)
        .unwrap()
        .unwrap();
    assert_eq!(newest.header().unwrap().kind, evidence::Kind::SystemRecord);
    let as_it_was = records
        .newest("system".into(), Some(found.records[0].leaf))
        .unwrap()
        .unwrap();
    assert_eq!(as_it_was.leaf.leaf_index(), 2);
    bed.check();
}

#[test]
fn steps_are_found_by_key_and_only_records_of_no_run_by_kind() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let keyed = |index| {
        step_of("r", index, |step| {
            step.step.idempotency_key = Some("key-1".into());
        })
    };
    bed.all(
        &tenant,
        vec![run("r"), keyed(0), keyed(1), step("r", 2), system("x")],
    );
    bed.end(&tenant, "r", &completed(RunCompleted::default()))
        .unwrap();
    let records = bed.ledger.records(&tenant);
    let newest = records.newest(facet("step.key", "key-1"), None).unwrap().unwrap();
    assert_eq!(newest.header().unwrap().run.unwrap().run_seq, 2);
    for kind in evidence::Kind::ALL {
        let (count, _) = records
            .count(&query(&[&facet("kind", kind.as_str())]), 9)
            .unwrap();
        assert_eq!(
            count,
            u64::from(*kind == evidence::Kind::SystemRecord),
            "{kind:?}"
        );
    }
    bed.check();
}

#[test]
fn a_page_ends_when_it_is_full_by_bytes_and_the_next_goes_on() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    for n in 0..4 {
        let mut record = told("api", "INFO", &n.to_string());
        record.details = Some(evidence::canonical::Value::String(
            "x".repeat(FOUND_BYTES_MAX / 2 + 1),
        ));
        bed.one(&tenant, system_of(&record));
    }
    let records = bed.ledger.records(&tenant);
    let mut query = query(&["system"]);
    let first = records.find(&query).unwrap();
    assert_eq!(summaries(&first), ["3", "2"]);
    assert!(first.has_more);
    query.below = first.next;
    let second = records.find(&query).unwrap();
    assert_eq!(summaries(&second), ["1", "0"]);
    assert!(!second.has_more && second.next.is_none());
}

#[test]
fn a_clock_set_back_does_not_turn_the_order_of_leaves_round() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let early = bed.now();
    let late = bed.later(3_600_000);
    let submit = |bed: &TestLedger, draft, at| {
        let tenant = bed.ledger.tenant("acme").unwrap();
        bed.ledger
            .submit_blocking(&tenant, vec![draft], at, false)
            .unwrap()
            .remove(0)
            .unwrap()
    };
    submit(&bed, system("a"), late);
    submit(&bed, system("b"), early);
    submit(&bed, run("r"), early);
    assert_eq!(times(&bed, &tenant), [late, late]);
    assert_eq!(
        bed.run_row(&tenant, "r").state.created_at,
        late,
        "ledger order is the order of created_at"
    );
    // After a restart the last leaf still says it.
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    submit(&bed, system("c"), early);
    let caught_up = bed.now();
    submit(&bed, system("d"), caught_up);
    assert_eq!(times(&bed, &tenant), [late, late, late, caught_up]);
    let since = FacetQuery {
        after: Some(caught_up),
        ..query(&["system"])
    };
    assert_eq!(
        summaries(&bed.ledger.records(&tenant).find(&since).unwrap()),
        ["d"]
    );
    bed.check();
}

#[test]
fn a_refused_draft_moves_no_time() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let early = bed.now();
    let late = bed.later(3_600_000);
    assert!(
        bed.ledger
            .submit_blocking(&tenant, vec![step("nobody", 0)], late, false)
            .unwrap()[0]
            .is_err()
    );
    bed.ledger
        .submit_blocking(&tenant, vec![system("a")], early, false)
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!(times(&bed, &tenant), [early]);
    bed.check();
}

#[test]
fn an_ordinal_that_does_not_follow_is_named() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    for n in 0..5 {
        bed.one(&tenant, system(&n.to_string()));
    }
    tamper(
        bed.path(),
        "UPDATE facets SET n = n + 3 WHERE facet = 'system' AND n >= 2",
    );
    let report = bed.report();
    let places: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.place.as_str(), finding.leaf_index))
        .collect();
    assert_eq!(places, [("facets.n", Some(2))]);
}
