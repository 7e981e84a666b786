use lineage::{ArtifactStatus, FindingKind, SourceStatus, VERIFY_REQUIRED};
use serde_json::json;

use crate::fixture::{Folder, deterministic_line, evidence_line};

fn kinds(found: &lineage::Verification) -> Vec<FindingKind> {
    found.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn the_first_line_is_what_other_programs_look_for() {
    let folder = Folder::new();
    let log: String = VERIFY_REQUIRED
        .iter()
        .map(|name| evidence_line(name, json!(["r"])) + &deterministic_line(name, name))
        .collect();
    let found = folder.verify_text(&log, &VERIFY_REQUIRED);
    assert_eq!(
        found.text().lines().next().unwrap(),
        "[DET] Provenance verification PASSED: input_row_ids present for tb_diagnostics, accruals_check, and email_evidence"
    );
    // One line a function about its files.
    assert_eq!(found.text().lines().count(), 4);
    let two = folder.verify_text(&log, &["accruals_check", "tb_diagnostics"]);
    assert!(
        two.headline()
            .ends_with("present for accruals_check and tb_diagnostics")
    );
    let one = folder.verify_text(&log, &["email_evidence"]);
    assert!(one.headline().ends_with("present for email_evidence"));
    let missing = folder.verify_text(&log, &["fx"]);
    let text = missing.text();
    assert_eq!(
        text.lines().next().unwrap(),
        "[DET] Provenance verification FAILED"
    );
    assert_eq!(text.lines().nth(1).unwrap(), " - fx: no deterministic record");
}

#[test]
fn the_last_records_count_and_earlier_ones_are_noted() {
    let folder = Folder::new();
    let log = evidence_line("e1", json!(["r"]))
        + &deterministic_line("f", "nowhere")
        + &deterministic_line("f", "e1");
    let found = folder.verify_text(&log, &["f"]);
    assert!(found.passed);
    assert_eq!(found.notes, ["f: 2 deterministic records, that of line 3 counts"]);
    let log = log + &evidence_line("e1", json!([]));
    let found = folder.verify_text(&log, &["f"]);
    assert_eq!(
        kinds(&found),
        [
            FindingKind::InvalidOrEmptyRowIds,
            FindingKind::EvidenceAfterDeterministic
        ]
    );
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("written 2 times, that of line 4 counts"))
    );
}

#[test]
fn other_functions_may_cite_nothing_but_not_rubbish() {
    let folder = Folder::new();
    let base = evidence_line("e", json!(["r"])) + &deterministic_line("f", "e");
    for (ids, kind) in [
        (json!(null), None),
        (json!([]), None),
        (json!([""]), None),
        (json!(["a"]), None),
        (json!([1]), Some(FindingKind::InvalidRowIds)),
        (json!("a"), Some(FindingKind::InvalidRowIds)),
        (json!({ "a": 1 }), Some(FindingKind::InvalidRowIds)),
    ] {
        let log = base.clone() + &evidence_line("o", ids.clone()) + &deterministic_line("other", "o");
        assert_eq!(
            kinds(&folder.verify_text(&log, &["f"])),
            kind.into_iter().collect::<Vec<_>>(),
            "{ids}"
        );
    }
    let log = base.clone() + &deterministic_line("other", "nowhere");
    assert_eq!(
        kinds(&folder.verify_text(&log, &["f"])),
        [FindingKind::MissingEvidence]
    );
    let log = base + "{\"type\":\"deterministic\",\"fn\":\"other\"}\n{\"type\":\"note\"}\n";
    let found = folder.verify_text(&log, &["f"]);
    assert!(found.passed);
    assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
}

#[test]
fn malformed_lines_are_findings_with_their_numbers() {
    let folder = Folder::new();
    let log =
        evidence_line("e", json!(["r"])) + "\n[1]\n" + &deterministic_line("f", "e") + "{\"type\":\"evi";
    let found = folder.verify_text(&log, &["f"]);
    let lines: Vec<Option<u64>> = found.findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [Some(3), Some(5)]);
    assert!(found.text().contains(" - audit log: line 3 is no JSON object\n"));
    assert_eq!(kinds(&folder.verify_text("", &["f"])), [FindingKind::EmptyLog]);
    assert!(!folder.verify_text("\n\n", &["f"]).passed);
}

#[test]
fn evidence_whose_hash_or_uri_is_no_text_does_not_pass_as_one_without() {
    let folder = Folder::new();
    folder.write("data/s.csv", "k\nr\n");
    for (uri, hash, reason) in [
        (
            json!("data/s.csv"),
            json!(12345),
            "hash is neither a text nor null",
        ),
        (json!(5), json!(null), "uri is neither a text nor null"),
    ] {
        let log = format!(
            "{}\n{}",
            json!({ "type": "evidence", "id": "e", "uri": uri, "input_row_ids": ["r"], "hash": hash }),
            deterministic_line("f", "e")
        );
        let found = folder.verify_text(&log, &["f"]);
        assert_eq!(
            kinds(&found),
            [FindingKind::MissingEvidence, FindingKind::MalformedLine],
            "{}",
            found.text()
        );
        assert!(
            found.text().contains(&format!("line 1 {reason}")),
            "{}",
            found.text()
        );
    }
}

#[test]
fn the_files_are_said_to_be_what_they_are() {
    let folder = Folder::new();
    let artifact = "{\"b\": 1.50,\n \"a\": \"\u{fc}\"}";
    folder.write("out/a.json", artifact);
    folder.write("data/s.csv", "k\nr\n");
    let hash = |text: &str| evidence::hex_string(&evidence::sha256(text.as_bytes()));
    let states = |output_hash: &str, artifact: Option<&str>, uri: Option<&str>, source: Option<&str>| {
        let log = format!(
            "{}\n{}\n",
            json!({ "type": "evidence", "id": "e", "uri": uri, "input_row_ids": ["r"], "hash": source }),
            json!({ "type": "deterministic", "fn": "f", "evidence_id": "e", "output_hash": output_hash, "artifact": artifact }),
        );
        let path = folder.write("out/audit_t.jsonl", log);
        let plain = folder.verify(&path, &["f"], false);
        assert!(plain.passed, "reported, not found");
        let strict = folder.verify(&path, &["f"], true);
        (plain.hashes[0].artifact, plain.hashes[0].source, kinds(&strict))
    };
    let good = hash("k\nr\n");
    let same = Some("data/s.csv");
    assert_eq!(
        states(&hash(artifact), Some("out/a.json"), same, Some(&good)),
        (ArtifactStatus::Bytes, SourceStatus::Same, vec![])
    );
    let canonical = hash("{\"a\":\"\u{fc}\",\"b\":1.5}");
    assert_eq!(
        states(&canonical, Some("out/a.json"), same, None),
        (ArtifactStatus::CanonicalJson, SourceStatus::WithoutHash, vec![])
    );
    let sorted = hash("{\"a\": \"\\u00fc\", \"b\": 1.50}");
    assert_eq!(
        states(&sorted, Some("out/a.json"), None, None),
        (
            ArtifactStatus::CanonicalJson,
            SourceStatus::Missing,
            vec![FindingKind::NoUri]
        )
    );
    assert_eq!(
        states("00", Some("out/a.json"), same, Some("00")),
        (
            ArtifactStatus::SomethingElse,
            SourceStatus::Changed,
            vec![FindingKind::ArtifactChanged, FindingKind::SourceChanged]
        )
    );
    assert_eq!(
        states("00", Some("gone.json"), Some("gone.csv"), Some("00")),
        (
            ArtifactStatus::Missing,
            SourceStatus::Missing,
            vec![FindingKind::ArtifactMissing, FindingKind::SourceMissing]
        )
    );
    // An empty name is no name.
    assert_eq!(
        states("00", Some(""), Some(""), Some("00")),
        (
            ArtifactStatus::Missing,
            SourceStatus::Missing,
            vec![FindingKind::ArtifactMissing, FindingKind::NoUri]
        )
    );
    assert_eq!(
        states("00", None, Some("/etc/passwd"), Some("00")).1,
        SourceStatus::Missing
    );
}

#[test]
fn a_line_of_what_is_gone_behind_the_one_that_counts_is_told_and_strictly_a_finding() {
    let gone = |of: &str, how: &str| {
        json!({ "type": "deponent.gone", "line_type": of, "record_id": "r", "ts": "2026-01-01T00:00:00Z", how: true })
            .to_string()
            + "\n"
    };
    let folder = Folder::new();
    let base = evidence_line("e", json!(["r"])) + &deterministic_line("f", "e");
    let notes = |log: &str| {
        let path = folder.write("out/audit_t.jsonl", log);
        let (plain, strict) = (
            folder.verify(&path, &["f"], false),
            folder.verify(&path, &["f"], true),
        );
        assert!(plain.passed, "{:?}", plain.findings);
        assert_eq!(plain.notes, strict.notes);
        let is_it = |kind: &&FindingKind| **kind == FindingKind::NewestMayBeGone;
        (plain.notes, kinds(&strict).iter().filter(is_it).count())
    };
    let count = |n: u64| format!("{n} lines stand for records whose bodies are gone");
    // Before it, and of models: counted, and nothing else.
    let before = gone("deterministic", "erased") + &gone("evidence", "erased") + &base;
    assert_eq!(
        notes(&(before.clone() + &gone("ai_output", "erased"))),
        (vec![count(3)], 0)
    );
    let function = "f: 1 later deterministic records are erased, of which functions nobody knows any more: \
        the newest of f may be among them";
    assert_eq!(
        notes(&(before + &gone("deterministic", "erased"))),
        (vec![function.to_owned(), count(3)], 1)
    );
    let evidence = "f: 2 later evidence records are erased, archived or missing, of which ids nobody knows any more: \
        the newest of e may be among them";
    assert_eq!(
        notes(&(base + &gone("evidence", "erased") + &gone("evidence", "archived"))),
        (vec![evidence.to_owned(), count(2)], 1)
    );
    // Of a function, and an id, of which nothing is left.
    let found = folder.verify_text(
        &(gone("evidence", "erased") + &deterministic_line("f", "e") + &gone("deterministic", "missing")),
        &["f", "g"],
    );
    assert_eq!(
        kinds(&found),
        [FindingKind::MissingEvidence, FindingKind::MissingDeterministic]
    );
    for of in ["the newest of f", "the newest of e", "the newest of g"] {
        assert!(
            found.notes.iter().any(|note| note.contains(of)),
            "{of}: {:?}",
            found.notes
        );
    }
}
