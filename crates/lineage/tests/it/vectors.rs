//! Verdicts and rows of the older implementation. Ignored unless asked for (`-- --ignored`); `DEPONENT_VECTORS` names the folder with
//! `r2r.jsonl`. Its lines about a real run name files that are not part of it. Every difference stands in
//! `docs/decisions.md`.

use std::path::Path;

use base64::Engine as _;
use lineage::{FindingKind, RowFormat, VERIFY_REQUIRED, shown};
use serde_json::{Value, json};

use crate::fixture::{Folder, cites};

/// Functions that the older verifier demanded besides the three of its document.
const ALSO_DEMANDED: [&str; 6] = [
    "bank_reconciliation",
    "intercompany_reconciliation",
    "flux_analysis",
    "ap_reconciliation",
    "ar_reconciliation",
    "je_lifecycle",
];

fn lines(module: &str) -> Vec<Value> {
    let folder = std::env::var_os("DEPONENT_VECTORS").expect("DEPONENT_VECTORS names no folder");
    let text = std::fs::read_to_string(Path::new(&folder).join("r2r.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["module"] == module)
        .collect()
}

fn word(kind: FindingKind) -> String {
    serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned()
}

fn base64(value: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(value.as_str().unwrap())
        .unwrap()
}

/// Whether the last evidence that a function's last record names stands after it: the older verifier did not look.
fn is_out_of_order(log: &Value) -> bool {
    let lines: Vec<Value> = log
        .as_str()
        .unwrap_or_default()
        .lines()
        .map(|line| serde_json::from_str(line.trim_start_matches('\u{feff}')).unwrap_or_default())
        .collect();
    let last = |field: &str, value: &Value| lines.iter().rposition(|line| line[field] == *value);
    lines.iter().enumerate().any(|(place, line)| {
        let id = &line["evidence_id"];
        line["type"] == "deterministic"
            && id.is_string()
            && last("fn", &line["fn"]) == Some(place)
            && last("id", id).is_some_and(|evidence| evidence > place)
    })
}

#[test]
#[ignore = "needs DEPONENT_VECTORS"]
fn verdicts_agree() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for line in lines("r2r.verify") {
        let (case, input, expected) = (line["case"].as_str().unwrap(), &line["input"], &line["expected"]);
        let log = match (input["audit_base64"].is_string(), &input["audit_jsonl"]) {
            (true, _) => base64(&input["audit_base64"]),
            (false, Value::String(text)) => text.clone().into_bytes(),
            _ => continue,
        };
        seen += 1;
        let folder = Folder::new();
        let path = folder.write("out/audit_t.jsonl", log);
        let found = folder.verify(&path, &VERIFY_REQUIRED, false);
        let (mut ours, mut malformed, mut order) = (Vec::new(), 0, false);
        for finding in &found.findings {
            match finding.kind {
                FindingKind::MalformedLine => malformed += 1,
                FindingKind::EvidenceAfterDeterministic => order = true,
                FindingKind::EmptyLog => {}
                kind => {
                    let mut failure = json!({ "kind": word(kind), "fn": finding.function });
                    if kind == FindingKind::MissingEvidence {
                        failure["evidence_id"] = json!(finding.evidence_id);
                    }
                    ours.push(failure);
                }
            }
        }
        assert_eq!(found.passed, found.findings.is_empty(), "{case}");
        // Where the older one crashed, this one names the line.
        if expected.get("error").is_some() {
            if found.passed || malformed == 0 {
                wrong.push(format!("{case}: no malformed line"));
            }
            continue;
        }
        let mut theirs: Vec<Value> = expected["failures"].as_array().unwrap().clone();
        // Three functions are required, as the document says.
        theirs.retain(|failure| {
            let function = failure["fn"].as_str().unwrap();
            failure["kind"] != "missing_deterministic" || !ALSO_DEMANDED.contains(&function)
        });
        let mut malformed_theirs = expected["malformed_lines_skipped"].as_u64().unwrap();
        if case == "bom" {
            // A log with a byte order mark is readable.
            theirs.clear();
            malformed_theirs = 0;
        }
        if case.starts_with("rows-emptystr") && VERIFY_REQUIRED.iter().any(|name| case.ends_with(name)) {
            let function = case.trim_start_matches("rows-emptystr-");
            theirs.push(json!({ "kind": "invalid_or_empty_row_ids", "fn": function }));
        }
        let empty = found.lines == 0;
        let must_order = is_out_of_order(&input["audit_jsonl"]);
        let passed = theirs.is_empty() && malformed_theirs == 0 && !empty && !must_order;
        let sorted = |mut failures: Vec<Value>| {
            failures.sort_by_key(ToString::to_string);
            failures
        };
        if (sorted(ours.clone()), malformed, found.passed, order)
            != (sorted(theirs.clone()), malformed_theirs, passed, must_order)
        {
            wrong.push(format!("{case}: {ours:?}, {malformed} malformed, not {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 150);
}

/// What this one does otherwise: the rows it finds, and how many rows it cannot read.
#[allow(clippy::match_same_arms)] // each with its reason
fn otherwise(case: &str) -> Option<(Vec<u64>, u64)> {
    Some(match case {
        // Cells are texts: empty is not nan, and no word is missing.
        "tb-empty-account" => (vec![0], 0),
        "tb-literal-NA" => (vec![0], 0),
        "tb-null-word" => (vec![0, 1], 0),
        "acc-missing-id" | "mail-none-id" => (vec![], 0),
        // A row of too many cells is told and passed over; the others are found.
        "tb-ragged-long" => (vec![0], 1),
        // Bytes that are no UTF-8 are no text of an id.
        "tb-latin1" => (vec![], 0),
        "mail-wrapped-items" | "mail-bom" => (vec![0], 0),
        "mail-non-object-items" => (vec![], 2),
        _ => return None,
    })
}

#[test]
#[ignore = "needs DEPONENT_VECTORS"]
fn rows_agree() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for line in lines("r2r.drill") {
        seen += 1;
        let (case, input, expected) = (line["case"].as_str().unwrap(), &line["input"], &line["expected"]);
        let folder = Folder::new();
        let name = input["file_name"].as_str().unwrap();
        folder.write(name, base64(&input["file_base64"]));
        let ids: Vec<&str> = input["input_row_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        let found = folder.drill(input["fn"].as_str().unwrap(), &cites(name, &ids), RowFormat::Csv);
        if let Some((rows, bad)) = otherwise(case) {
            let rows_found = found.unwrap();
            assert_eq!(
                (rows_found.numbers, rows_found.drilled.remarks.bad_rows),
                (rows, bad),
                "{case}"
            );
            continue;
        }
        match (found, expected.get("error")) {
            (Err(error), Some(_)) => assert!(!shown(&error.to_string()).is_empty()),
            (Err(error), None) => wrong.push(format!("{case}: {error}")),
            (Ok(rows), Some(error)) => wrong.push(format!("{case}: {:?}, not {error}", rows.numbers)),
            (Ok(rows), None) => {
                let same = if let Some(numbers) = expected.get("row_numbers") {
                    *numbers == json!(rows.numbers)
                } else {
                    let ids = expected["ids"].as_array().unwrap().len();
                    expected["rows"] == json!(rows.numbers.len()) && ids == rows.text.lines().skip(1).count()
                };
                if !same {
                    wrong.push(format!("{case}: {:?}, not {expected}", rows.numbers));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 50);
}
