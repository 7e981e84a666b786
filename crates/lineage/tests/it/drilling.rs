use lineage::drill::{DrillError, Key};
use lineage::source::Encoding;
use lineage::{Evidence, PlaceError, RowFormat};

use crate::fixture::{Folder, cites};

const TB: &str = "period,entity,account,name\n2026-01,E1,1000,\"Cash, bank\"\n2026-01,E1,2000,\"a \"\"q\"\"\"\n2026-01,E2,1000,\n";

#[test]
fn rows_are_printed_as_they_are() {
    let folder = Folder::new();
    folder.write("tb.csv", TB);
    let cited = cites(
        "tb.csv",
        &["2026-01|E1|2000", "2026-01|E1|1000", "2026-01|E9|1000"],
    );
    let csv = folder.drill("tb_diagnostics", &cited, RowFormat::Csv).unwrap();
    assert_eq!(
        csv.text,
        "period,entity,account,name\n2026-01,E1,1000,\"Cash, bank\"\n2026-01,E1,2000,\"a \"\"q\"\"\"\n"
    );
    assert_eq!(csv.drilled.unmatched, ["2026-01|E9|1000"]);
    assert_eq!(
        (csv.drilled.matched, csv.drilled.rows, csv.drilled.ids),
        (2, 3, 3)
    );
    let json = folder.drill("tb_diagnostics", &cited, RowFormat::Json).unwrap();
    let rows: serde_json::Value = serde_json::from_str(&json.text).unwrap();
    assert_eq!(rows[0]["name"], "Cash, bank");
    assert_eq!(rows[1]["account"], "2000");
    assert_eq!(rows.as_array().unwrap().len(), 2);
    let table = folder.drill("tb_diagnostics", &cited, RowFormat::Table).unwrap();
    assert_eq!(
        table.text.lines().nth(2).unwrap(),
        "2026-01  E1      1000     Cash, bank"
    );
    let none = folder
        .drill("tb_diagnostics", &cites("tb.csv", &["x"]), RowFormat::Json)
        .unwrap();
    assert_eq!(none.text, "[]\n");
}

#[test]
fn json_rows_come_wrapped_or_not_and_as_lines() {
    let folder = Folder::new();
    let items = "[{\"email_id\":\"E1\",\"n\":1.50},\n {\"email_id\": \"E2\", \"to\": [\"a\"]}]";
    folder.write("a.json", items);
    folder.write(
        "w.json",
        format!("{{\"period\":\"x\",\"items\":{items},\"more\":{{}}}}"),
    );
    folder.write(
        "l.jsonl",
        "{\"email_id\":\"E1\",\"n\":1.50}\n\n{\"email_id\": \"E2\", \"to\": [\"a\"]}\n",
    );
    for name in ["a.json", "w.json", "l.jsonl"] {
        let rows = folder
            .drill("email_evidence", &cites(name, &["E2", "E1"]), RowFormat::Json)
            .unwrap();
        let text = "[\n{\"email_id\":\"E1\",\"n\":1.50},\n{\"email_id\": \"E2\", \"to\": [\"a\"]}\n]\n";
        assert_eq!(rows.text, text, "{name}");
        let rows = folder
            .drill("email_evidence", &cites(name, &["E2", "E1"]), RowFormat::Csv)
            .unwrap();
        assert_eq!(rows.text, "email_id,n,to\nE1,1.50,\nE2,,\"[\"\"a\"\"]\"\n");
    }
    // Evidence that says json of a file that is called jsonl.
    let cited = Evidence {
        evidence_type: Some("json".into()),
        ..cites("l.jsonl", &["E1"])
    };
    assert_eq!(
        folder
            .drill("email_evidence", &cited, RowFormat::Csv)
            .unwrap()
            .numbers,
        [0]
    );
}

#[test]
fn the_key_is_said_recorded_known_or_found() {
    let folder = Folder::new();
    folder.write(
        "bank.csv",
        "entity,bank_txn_id,ref,amount\nE1,B1,X1,5\nE1,B2,B3,5\nE2,B3,B1,7\nE2,B4,B1,7\n",
    );
    let columns = |rows: &crate::fixture::Rows| rows.key.columns().join("|");
    let found = folder
        .drill(
            "bank_reconciliation",
            &cites("bank.csv", &["B1", "B2", "B4"]),
            RowFormat::Csv,
        )
        .unwrap();
    assert_eq!(
        (columns(&found), &*found.numbers),
        ("bank_txn_id".into(), &[0, 1, 3][..])
    );
    assert!(matches!(&found.key, Key::Found(found) if found.matched == 3 && !found.is_ambiguous));
    let two = folder
        .drill(
            "flux",
            &cites("bank.csv", &["E1|B1", "E2|B3", "E9|B9"]),
            RowFormat::Csv,
        )
        .unwrap();
    assert_eq!(
        (columns(&two), two.drilled.unmatched.len()),
        ("entity|bank_txn_id".into(), 1)
    );
    let given = folder.drill_as(
        "flux",
        &cites("bank.csv", &["B1"]),
        RowFormat::Csv,
        (Encoding::Utf8, b','),
        Some(&["ref"]),
    );
    assert_eq!(given.err().map(|error| error.to_string()), None);
    let recorded = Evidence {
        key_columns: Some(vec!["ref".into()]),
        ..cites("bank.csv", &["B1"])
    };
    assert_eq!(
        folder
            .drill("tb_diagnostics", &recorded, RowFormat::Csv)
            .unwrap()
            .numbers,
        [2, 3]
    );
    let nothing = folder.drill("flux", &cites("bank.csv", &["no", "such"]), RowFormat::Csv);
    assert!(nothing.err().unwrap().to_string().contains("--key"));
    let known = folder
        .drill("tb_diagnostics", &cites("bank.csv", &["B1"]), RowFormat::Csv)
        .err()
        .unwrap();
    assert!(
        known.to_string().contains("no column period; it has \"entity\""),
        "{known}"
    );
    // In JSON as well, where each object brings its own names.
    folder.write(
        "m.json",
        "{\"items\":[{\"x\":1,\"id\":\"B1\"},{\"id\":\"B2\",\"y\":\"B1\"}]}",
    );
    let mails = folder
        .drill("mails", &cites("m.json", &["B1", "B2"]), RowFormat::Csv)
        .unwrap();
    assert_eq!((columns(&mails), &*mails.numbers), ("id".into(), &[0, 1][..]));
}

#[test]
fn where_rows_cannot_be_read_nobody_says_that_no_columns_hold_the_ids() {
    let folder = Folder::new();
    folder.write("cut.csv", "entity,txn\nE1,T1\nE2,T2,more\nE3,\"T3\nE4,T4\n");
    folder.write("cut.jsonl", "{\"txn\":\"T1\"}\n[\"T2\"]\n{\"txn\":\"T3\",\n");
    for name in ["cut.csv", "cut.jsonl"] {
        let error = folder
            .drill("flux", &cites(name, &["T2", "T3"]), RowFormat::Csv)
            .err()
            .unwrap();
        let said = error.to_string();
        assert!(said.starts_with("could not tell"), "{name}: {said}");
        assert!(
            said.contains("2 could not") && said.contains("--key"),
            "{name}: {said}"
        );
        let DrillError::NoKey(remarks) = error else {
            panic!("{name}: {said}");
        };
        assert_eq!((remarks.bad_rows, remarks.kept.len()), (2, 2), "{name}");
    }
    // Where enough can be read the key is found, and what could not be read is told with the rows.
    let rows = folder
        .drill("flux", &cites("cut.csv", &["T1", "T2"]), RowFormat::Csv)
        .unwrap();
    assert_eq!((&*rows.numbers, rows.drilled.remarks.bad_rows), (&[0][..], 2));
}

#[test]
fn a_changed_file_is_noticed() {
    let folder = Folder::new();
    folder.write("tb.csv", TB);
    let hash = evidence::hex_string(&evidence::sha256(TB.as_bytes()));
    let cited = Evidence {
        hash: Some(hash),
        ..cites("tb.csv", &["2026-01|E1|1000"])
    };
    assert!(
        !folder
            .drill("tb_diagnostics", &cited, RowFormat::Csv)
            .unwrap()
            .drilled
            .has_changed
    );
    folder.write("tb.csv", TB.replace("bank", "bonk"));
    assert!(
        folder
            .drill("tb_diagnostics", &cited, RowFormat::Csv)
            .unwrap()
            .drilled
            .has_changed
    );
}

#[test]
fn a_renamed_file_is_suggested_by_its_bytes_its_name_or_its_rows() {
    let folder = Folder::new();
    folder.write("data/other/tb.csv", TB);
    folder.write("data/trial_balance_aug.csv", TB.replace("E2", "E7"));
    folder.write("data/unrelated.csv", "a,b\n1,2\n");
    let missing = |uri: &str, hash: Option<String>| {
        let evidence = Evidence {
            hash,
            evidence_type: Some("csv".into()),
            ..cites(uri, &["2026-01|E1|1000", "2026-01|E2|1000"])
        };
        let places = folder.places();
        assert!(matches!(places.open(Some(uri)), Err(PlaceError::Missing(_))));
        lineage::suggest(&places, "tb_diagnostics", &evidence)
    };
    let names = |suggestions: &[lineage::Suggestion]| -> Vec<String> {
        suggestions
            .iter()
            .map(|one| one.path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    let by_rows = missing("data/trial_balance_2026_01.csv", None);
    assert_eq!(names(&by_rows), ["tb.csv", "trial_balance_aug.csv"]);
    assert!(by_rows[0].why().starts_with("2 of 2 ids"), "{}", by_rows[0].why());
    let by_bytes = missing(
        "data/tb_old.csv",
        Some(evidence::hex_string(&evidence::sha256(
            TB.replace("E2", "E7").as_bytes(),
        ))),
    );
    assert_eq!(names(&by_bytes)[0], "trial_balance_aug.csv");
    assert!(missing("gone/tb.csv", None)[0].same_name);
}
