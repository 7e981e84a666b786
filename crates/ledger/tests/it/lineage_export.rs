//! A run's audit log, given back: what was imported comes back by its value, in its order, and adds nothing when it is
//! imported again.

use std::path::Path;
use std::sync::Arc;

use evidence::Kind;
use evidence::canonical::{self, Limits, Value};
use evidence::record::LineageRecord;
use ledger::lineage::{LineageImported, LogTally, log_page};
use ledger::{EraseAsked, RecordError, Tenant};
use proptest::prelude::*;
use store::Store;

use crate::altered::alter;
use crate::bed::{TestLedger, run, step, tamper};

const RUN: &str = "20260101T000000Z";

fn import(bed: &TestLedger, tenant: &Arc<Tenant>, text: &[u8]) -> LineageImported {
    let path = bed.path().join(format!("audit_{RUN}.jsonl"));
    std::fs::write(&path, text).unwrap();
    bed.ledger.lineage_import(tenant, &path, bed.now()).unwrap()
}

/// The pages of a run's log.
fn pages(store: &dyn Store, tenant: &Tenant, run_id: &str) -> Result<Vec<Vec<u8>>, RecordError> {
    let run = store.run_find(tenant.tenant_no, run_id).unwrap().unwrap();
    let mut pages = Vec::new();
    let mut next = 0;
    while next < run.state.record_count {
        let page = log_page(store, run.key, next, run.state.record_count)?;
        assert!(page.next > next, "it goes on");
        next = page.next;
        pages.push(page.lines);
    }
    Ok(pages)
}

fn exported(bed: &TestLedger, tenant: &Tenant) -> Vec<u8> {
    pages(bed.ledger.store(), tenant, RUN).unwrap().concat()
}

fn lines(log: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(log).unwrap();
    text.lines().map(value).collect()
}

fn value(line: &str) -> Value {
    canonical::parse(line.as_bytes(), Limits::default()).unwrap()
}

fn tally(log: &[u8]) -> LogTally {
    let mut tally = LogTally::default();
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        tally.count(line.strip_suffix(b"\n").unwrap()).unwrap();
    }
    tally
}

/// Each type, as engines and other programs write it, and whether it is canonical JSON.
const LINES: [(&str, bool); 7] = [
    (
        r#"{"ts":"2026-01-01T00:00:00.000000Z","type":"evidence","id":"ev-00000000000000000000000000000001","evidence_type":"csv","uri":"data\\tb.csv","input_row_ids":["2025-08|ENT100|1000","a|ä"],"key_columns":["period","entity","account"],"timestamp":"2026-01-01T00:00:00Z","hash":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#,
        false,
    ),
    (
        r#"{"ts":"2026-01-01T00:00:01Z","type":"deterministic","fn":"tb_diagnostics","evidence_id":"ev-00000000000000000000000000000001","output_hash":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","params":{"period":"2025-08","entity":"ALL"},"artifact":"out/tb.json","id":"d1","row_ids":["a"],"code_hash":"c"}"#,
        false,
    ),
    (
        r#"{"artifact":null,"evidence_id":null,"fn":"f","function_name":"g","more":{"a":[1.5,true,null]},"type":"deterministic"}"#,
        true,
    ),
    (
        r#"{"type":"ai_output","kind":"flux","artifact":"a.json","generated_at":"2026-01-01T00:00:02Z","text":"a\u00e9\n"}"#,
        false,
    ),
    (
        r#"{"type":"ai_metrics","kind":"flux","tokens":1.20e2,"cost_usd":0.10}"#,
        false,
    ),
    (r#"{"tokens":120,"type":"ai_metrics"}"#, true),
    (r#"{"id":"e","type":"evidence"}"#, true),
];

#[test]
fn each_type_of_line_comes_back_by_its_value_and_a_canonical_one_byte_for_byte() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    // The same line twice, with another between: a log is a sequence.
    let written: Vec<&str> = LINES.iter().chain(&LINES[..3]).map(|(line, _)| *line).collect();
    let text = format!("\u{feff}{}\r\n\n", written.join("\r\n"));
    assert_eq!(import(&bed, &tenant, text.as_bytes()).written, 10);
    let log = exported(&bed, &tenant);
    assert_eq!(
        lines(&log),
        written.iter().map(|line| value(line)).collect::<Vec<_>>()
    );
    for (line, (written, is_canonical)) in log.split(|byte| *byte == b'\n').zip(&LINES) {
        assert!(canonical::is_canonical(line));
        assert_eq!(line == written.as_bytes(), *is_canonical, "{written}");
    }
    let tally = tally(&log);
    assert_eq!(
        (
            tally.evidence,
            tally.deterministic,
            tally.ai_output,
            tally.ai_metrics
        ),
        (3, 4, 1, 2)
    );
    assert_eq!((tally.gone(), tally.redacted), (0, 0));
    // Given back, it is known.
    let again = import(&bed, &tenant, &log);
    assert_eq!((again.written, again.known, again.malformed), (0, 10, 0));
    assert_eq!(exported(&bed, &tenant), log);
    bed.check();
}

#[test]
fn what_came_in_untidy_or_was_redacted_is_known_when_it_is_given_back() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let text = concat!(
        "{\"type\":\"evidence\",\"id\":\"ev-1\",\"input_row_ids\":[\"a|b\",\"ada@example.com\"],\"uri\":null,\"ts\":\"yesterday\"}\n",
        "{\"type\":\"deterministic\",\"function_name\":\"f\",\"params\":[1.50],\"run_id\":\"its own\"}\n",
        // Equal to one another once they are redacted.
        "{\"type\":\"ai_output\",\"by\":\"ada@example.com\"}\n{\"type\":\"ai_output\",\"by\":\"eve@example.com\"}\n",
        "{\"type\":\"ai_output\",\"password\":\"hunter2\",\"ada@example.com\":1,\"eve@example.com\":2,\"redactions\":7}\n",
        "{\"type\":\"note\"}\n[]\n",
    );
    assert_eq!(import(&bed, &tenant, text.as_bytes()).written, 5);
    let log = exported(&bed, &tenant);
    assert_eq!(tally(&log).redacted, 3);
    let given = lines(&log);
    assert_eq!(given.len(), 5, "without what is no line of a log");
    assert_eq!(
        given[0].get("input_row_ids"),
        value(text.lines().next().unwrap()).get("input_row_ids")
    );
    assert_eq!(
        given[1].get("fn").and_then(Value::as_str),
        Some("f"),
        "beside the other spelling"
    );
    assert_eq!(given[2], given[3]);
    let redactions = given[2].get("redactions").unwrap();
    assert_eq!(redactions.get("count").and_then(Value::as_u64), Some(1));
    let again = import(&bed, &tenant, &log);
    assert_eq!((again.written, again.known, again.malformed), (0, 5, 0));
    bed.check();
}

#[test]
fn what_is_gone_has_a_line_that_says_how_in_its_place_and_brings_nothing_back() {
    const DAYS_91: i64 = 91 * 24 * 3_600 * 1_000;
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let text = [LINES[0].0, LINES[1].0, LINES[0].0, LINES[5].0].join("\n");
    assert_eq!(import(&bed, &tenant, text.as_bytes()).written, 4);
    let key = bed.run_row(&tenant, RUN).key;
    let rows = bed.ledger.store().run_records(key, 0, 10).unwrap();
    let records = bed.ledger.records(&tenant);
    let id = |row: &store::RunRecordRow| records.read(&[row.leaf]).unwrap()[0].header().unwrap().id;
    let (first, metrics) = (&rows[1], &rows[4]);
    assert_eq!(
        (first.kind, metrics.kind),
        (Kind::LineageEvidence, Kind::LineageAiMetrics)
    );
    let erased = id(first);
    let asked = EraseAsked {
        record_id: erased,
        reason: "asked for".into(),
        only: true,
        principal: "key:a1".into(),
    };
    bed.ledger.erase(&tenant, &asked, bed.now()).unwrap();
    let log = exported(&bed, &tenant);
    let given = lines(&log);
    assert_eq!(
        canonical::to_vec(&given[0]),
        format!(
            r#"{{"erased":true,"line_type":"evidence","record_id":"{erased}","ts":"2026-01-01T00:00:00.000000Z","type":"deponent.gone"}}"#
        )
        .as_bytes()
    );
    assert_eq!(&given[1..], &lines(text.as_bytes())[1..]);
    assert_eq!(
        LineageRecord::of_line(log.split(|byte| *byte == b'\n').next().unwrap()),
        Ok(None)
    );
    // The second of the equal lines is now the first of its log; it is on record all the same.
    let again = import(&bed, &tenant, &log);
    assert_eq!((again.written, again.known, again.other), (0, 3, 1));
    bed.check();
    // Gone without a record that says so.
    tamper(
        bed.path(),
        &format!("DELETE FROM bodies WHERE leaf = {}", metrics.leaf.as_i64()),
    );
    let counted = tally(&exported(&bed, &tenant));
    assert_eq!((counted.lines(), counted.erased, counted.missing), (2, 1, 1));
    // Archived.
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    import(&bed, &tenant, text.as_bytes());
    bed.ledger.seal_due(bed.later(60_000));
    assert!(bed.ledger.retain(bed.later(DAYS_91)).unwrap() > 0);
    let log = exported(&bed, &tenant);
    let counted = tally(&log);
    assert_eq!((counted.lines(), counted.archived, counted.gone()), (0, 4, 4));
    assert_eq!(import(&bed, &tenant, &log).other, 4);
    bed.check();
}

#[test]
fn a_log_comes_in_pages_whose_size_is_bounded_and_a_run_without_lines_has_none() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let long = "x".repeat(300_000);
    let text: String = (0..600)
        .map(|n| match n % 100 {
            0 => format!("{{\"n\":{n},\"of\":\"{long}\",\"type\":\"ai_output\"}}\n"),
            _ => format!("{{\"n\":{n},\"type\":\"ai_output\"}}\n"),
        })
        .chain((0..9).map(|n| format!("{{\"long\":{n},\"of\":\"{long}\",\"type\":\"ai_output\"}}\n")))
        .collect();
    assert_eq!(import(&bed, &tenant, text.as_bytes()).written, 609);
    let got = pages(bed.ledger.store(), &tenant, RUN).unwrap();
    assert!(got.len() > 3 && got.len() < 10, "{} pages", got.len());
    assert!(got.iter().all(|page| page.len() < 1024 * 1024 + 301_000));
    assert!(got.concat() == text.as_bytes(), "whole, and in order");
    // What is recorded later is of another reading.
    let key = bed.run_row(&tenant, RUN).key;
    let part = log_page(bed.ledger.store(), key, 0, 3).unwrap();
    assert_eq!((lines(&part.lines).len(), part.next), (2, 3));
    bed.all(&tenant, vec![run("r"), step("r", 0), step("r", 1)]);
    assert_eq!(pages(bed.ledger.store(), &tenant, "r").unwrap().concat(), b"");
}

/// Any JSON that canonical JSON has, without anything that redaction knows.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Into::into),
        (-1.0e9..1.0e9_f64).prop_map(Into::into),
        "[ -~äß\u{1F600}\\n]{0,6}".prop_map(|text| text.replace(['@', '<'], "").into()),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[a-dä]{1,3}", inner, 0..4)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_log_comes_back_by_its_value_and_is_known(written in prop::collection::vec((0_usize..4, json()), 1..12)) {
        let bed = TestLedger::new();
        let tenant = bed.tenant("t");
        let written: Vec<String> = written
            .into_iter()
            .map(|(of, more)| {
                let mut line = serde_json::json!({ "more": more, "ts": "2026-01-01T00:00:00Z" });
                line["type"] = ["evidence", "deterministic", "ai_output", "ai_metrics"][of].into();
                match of {
                    0 => line["id"] = "ev-1".into(),
                    1 => line["fn"] = "f".into(),
                    _ => {}
                }
                line.to_string()
            })
            .collect();
        let count = written.len() as u64;
        prop_assert_eq!(import(&bed, &tenant, written.join("\n").as_bytes()).written, count);
        let log = exported(&bed, &tenant);
        prop_assert_eq!(lines(&log), written.iter().map(|line| value(line)).collect::<Vec<_>>());
        let again = import(&bed, &tenant, &log);
        prop_assert_eq!((again.written, again.known), (0, count));
    }
}

#[test]
fn a_record_that_cannot_be_read_is_no_shorter_log() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    import(
        &bed,
        &tenant,
        format!("{}\n{}\n", LINES[0].0, LINES[5].0).as_bytes(),
    );
    let leaf = bed
        .ledger
        .store()
        .run_records(bed.run_row(&tenant, RUN).key, 2, 1)
        .unwrap()[0]
        .leaf;
    // Another body than was recorded; and no packed body at all.
    let refused = || pages(bed.ledger.store(), &tenant, RUN).unwrap_err();
    alter(&bed, leaf, "120", "999");
    let altered = refused();
    assert!(altered.to_string().contains("commitment"), "{altered}");
    spoil(bed.path(), leaf.as_i64());
    let spoilt = refused();
    assert!(matches!(spoilt, RecordError::Body { .. }), "{spoilt}");
}

fn spoil(folder: &Path, leaf: i64) {
    tamper(
        folder,
        &format!("UPDATE bodies SET body = x'00ff' WHERE leaf = {leaf}"),
    );
}
