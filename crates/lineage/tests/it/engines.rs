use evidence::Timestamp;
use lineage::engine::{self, ENGINES, Period, Ran, Task};
use lineage::{ArtifactStatus, Evidence, Index, RowFormat, SourceFile, SourceStatus, VERIFY_REQUIRED};
use serde_json::{Value, json};

use crate::fixture::Folder;

const TRIAL_BALANCE: &str = "period,entity,account,balance_usd\n\
    2026-01,E1,1000,1000.10\n2026-01,E1,2000,-1000.10\n\
    2026-01,E2,1000,2500.05\n2026-01,E2,2000,-1000.00\n2026-01,E2,3000,-0.05\n\
    2026-01,E3,1000,1500.00\n2025-12,E2,1000,9999.00\n2026-01,E4,1000,1000\n";
const ENTITIES: &str = "entity,name,entity_size_usd\nE1,One,\nE2,Two,2000000\nE3,Three,50000000\nE4,Four,1\n";
const CHART: &str = "account,account_name,account_type\n1000,Cash,asset\n2000,Payables,liability\n";
const ACCRUALS: &str = "entity,accrual_id,description,amount_usd,currency,status,accrual_date,reversal_date,notes\n\
    E1,A1,Rent,100.10,USD,Should Reverse,2026-01-15,2026-02-01,\n\
    E1,A2,Audit,0.20,USD,Active,2026-01-20,,late\n\
    E2,A3,Power,5.00,EUR,Active,2026-01-31,2026-02-28,\n\
    E2,A4,Legal,7.00,USD,Active,2026-01-31,2026-03-01,\n\
    E2,A5,Old,9.00,USD,Should Reverse,2025-12-31,,\n\
    E2,A6,Done,9.00,USD,Reversed,2026-01-31,,\n";
const MAILS: &str = "{\"items\":[\
    {\"email_id\":\"M1\",\"timestamp\":\"2026-01-31T10:00:00Z\",\"category\":\"accrual\",\"requires_action\":false},\
    {\"email_id\":\"M2\",\"timestamp\":\"2026-02-01T23:00:00Z\",\"category\":\"accrual\"},\
    {\"email_id\":\"M3\",\"timestamp\":\"2026-02-02T00:00:00Z\",\"category\":\"bank\",\"requires_action\":false},\
    {\"email_id\":\"M4\",\"timestamp\":\"2025-06-01T00:00:00Z\",\"requires_action\":true,\"subject\":\"s\"}]}";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("data/trial_balance_2026-01.csv", TRIAL_BALANCE);
    folder.write("data/entities.csv", ENTITIES);
    folder.write("data/chart_of_accounts.csv", CHART);
    folder.write("data/supporting/accruals.csv", ACCRUALS);
    folder.write("data/supporting/emails.json", MAILS);
    folder
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn task(folder: &Folder, entity: &str) -> Task {
    Task {
        data: folder.path("data"),
        period: Period::parse("2026-01").unwrap(),
        entity: entity.into(),
    }
}

fn run(folder: &Folder, function: &str, entity: &str, now: &str) -> Ran {
    engine::run(function, &task(folder, entity), &folder.path("out"), at(now)).unwrap()
}

/// Why an engine does not run.
fn refusal(folder: &Folder, function: &str) -> String {
    engine::run(function, &task(folder, "ALL"), &folder.path("out"), at(NOW))
        .unwrap_err()
        .to_string()
}

/// One field of each of a list of objects.
fn column<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    let rows = list.as_array().unwrap().iter();
    rows.map(|row| row[field].as_str().unwrap()).collect()
}

fn artifact(ran: &Ran) -> Value {
    serde_json::from_slice(&std::fs::read(&ran.artifact).unwrap()).unwrap()
}

fn cited(ran: &Ran) -> Evidence {
    let log = SourceFile::open(&ran.audit_log).unwrap();
    let index: Index = lineage::scan(&log, &mut |_| {}).unwrap();
    let id = index
        .function(&ran.function)
        .unwrap()
        .evidence_id
        .clone()
        .unwrap();
    Evidence::load(&log, index.evidence(&id).unwrap()).unwrap()
}

const NOW: &str = "2026-02-03T04:05:06Z";

#[test]
fn a_trial_balance_that_does_not_balance_is_shown_with_its_rows() {
    let folder = folder();
    let ran = run(&folder, "tb_diagnostics", "ALL", NOW);
    assert!(ran.artifact.ends_with("tb_diagnostics_20260203T040506Z.json"));
    let text = std::fs::read_to_string(&ran.artifact).unwrap();
    let found = artifact(&ran);
    // E1 balances; E3 is within 0.01 % of its size; E4 is at its threshold of 1,000, not beyond it.
    assert_eq!(column(&found["diagnostics"], "entity"), ["E2"]);
    let e2 = &found["diagnostics"][0];
    assert_eq!(e2["imbalance_usd"], json!(1500.0));
    assert!(
        text.contains("\"imbalance_usd\": 1500.00,"),
        "decimal, digit by digit: {text}"
    );
    assert_eq!(
        (&e2["threshold_usd"], &e2["materiality_factor"]),
        (&json!(1000), &json!(0.5))
    );
    assert_eq!(column(&e2["top_accounts"], "account"), ["1000", "2000", "3000"]);
    assert_eq!(e2["top_accounts"][0]["account_name"], "Cash");
    let evidence = cited(&ran);
    assert_eq!(
        evidence.input_row_ids,
        ["2026-01|E2|1000", "2026-01|E2|2000", "2026-01|E2|3000"]
    );
    let rows = folder.drill("tb_diagnostics", &evidence, RowFormat::Csv).unwrap();
    assert_eq!((rows.numbers, rows.drilled.has_changed), (vec![2, 3, 4], false));
}

#[test]
fn a_trial_balance_without_a_row_of_the_entity_or_the_period_is_not_in_balance() {
    let folder = folder();
    let mistyped = engine::run(
        "tb_diagnostics",
        &task(&folder, "E9"),
        &folder.path("out"),
        at(NOW),
    );
    let said = mistyped.unwrap_err().to_string();
    assert!(
        said.ends_with("has no row of 2026-01 and entity \"E9\""),
        "{said}"
    );
    let older = TRIAL_BALANCE.replace("2026-01,", "2025-11,");
    folder.write("data/trial_balance_2026-01.csv", older);
    let said = refusal(&folder, "tb_diagnostics");
    assert!(
        said.ends_with("has no row of 2026-01 and entity \"ALL\""),
        "{said}"
    );
    // Nothing is left behind that a later check could take for a result.
    assert!(!folder.path("out").exists());
}

#[test]
fn a_day_of_the_month_is_of_the_period() {
    let folder = folder();
    let days = TRIAL_BALANCE.replace("2026-01,E2", "2026-01-31,E2");
    folder.write("data/trial_balance_2026-01.csv", days);
    let evidence = cited(&run(&folder, "tb_diagnostics", "ALL", NOW));
    assert_eq!(evidence.input_row_ids[0], "2026-01-31|E2|1000");
    let rows = folder.drill("tb_diagnostics", &evidence, RowFormat::Csv).unwrap();
    assert_eq!(rows.numbers, [2, 3, 4]);
}

#[test]
fn accruals_that_should_be_reversed_are_proposed_with_their_negated_amounts() {
    let folder = folder();
    let ran = run(&folder, "accruals_check", "ALL", NOW);
    let found = artifact(&ran);
    assert_eq!(column(&found["exceptions"], "accrual_id"), ["A1", "A2", "A4"]);
    assert_eq!(
        column(&found["exceptions"], "reason"),
        [
            "explicit_should_reverse",
            "missing_or_misaligned_reversal_date",
            "missing_or_misaligned_reversal_date"
        ]
    );
    assert_eq!(found["proposals"][0]["amount_usd"], json!(-100.1));
    let text = std::fs::read_to_string(&ran.artifact).unwrap();
    assert!(
        text.contains("\"amount_usd\": -100.10,") && text.contains("\"E1\": 100.30"),
        "{text}"
    );
    assert!(text.contains("\"total_usd\": 107.30"), "{text}");
    assert_eq!(cited(&ran).input_row_ids, ["E1|A1", "E1|A2", "E2|A4"]);
    assert_eq!(
        cited(&run(&folder, "accruals_check", "E2", NOW)).input_row_ids,
        ["E2|A4"]
    );
}

#[test]
fn mails_of_the_period_the_day_after_and_those_that_ask_for_something_are_evidence() {
    let folder = folder();
    let ran = run(&folder, "email_evidence", "ALL", NOW);
    let found = artifact(&ran);
    assert_eq!(cited(&ran).input_row_ids, ["M1", "M2", "M4"]);
    assert_eq!(
        found["summary"]["by_category"],
        json!({ "accrual": 2, "uncategorized": 1 })
    );
    assert_eq!(found["items"][2]["reasons"], json!(["requires_action"]));
    assert_eq!(found["items"][2]["subject"], "s");
    let rows = folder
        .drill("email_evidence", &cited(&ran), RowFormat::Json)
        .unwrap();
    assert_eq!(rows.numbers, [0, 1, 3]);
}

#[test]
fn the_same_input_gives_the_same_bytes_but_for_one_time() {
    let (one, two) = (folder(), folder());
    for function in ENGINES {
        let first = run(&one, function, "ALL", NOW);
        let again = run(&two, function, "ALL", NOW);
        assert_eq!(
            std::fs::read(&first.artifact).unwrap(),
            std::fs::read(&again.artifact).unwrap()
        );
        assert_eq!(first.output_hash, again.output_hash);
        let later = run(&two, function, "ALL", "2026-02-03T04:05:07.5Z");
        let text = |ran: &Ran| std::fs::read_to_string(&ran.artifact).unwrap();
        let moved = text(&later).replace("2026-02-03T04:05:07.500000Z", "2026-02-03T04:05:06.000000Z");
        assert_eq!(moved, text(&first));
        assert_ne!(text(&later), text(&first));
    }
}

#[test]
fn a_run_verifies_and_notices_changed_files() {
    let folder = folder();
    let [.., last] = ENGINES.map(|function| run(&folder, function, "ALL", NOW));
    let log = last.audit_log;
    let found = folder.verify(&log, &VERIFY_REQUIRED, true);
    assert!(found.passed, "{}", found.text());
    assert!(
        found
            .hashes
            .iter()
            .all(|one| one.artifact == ArtifactStatus::Bytes && one.source == SourceStatus::Same)
    );
    folder.write(
        "data/supporting/accruals.csv",
        ACCRUALS.replace("100.10", "100.11"),
    );
    let artifact = folder.path("out/email_evidence_20260203T040506Z.json");
    let text = std::fs::read_to_string(&artifact).unwrap();
    std::fs::write(&artifact, text.replace("M1", "M9")).unwrap();
    let found = folder.verify(&log, &VERIFY_REQUIRED, false);
    assert!(found.passed);
    assert_eq!(
        (found.hashes[1].source, found.hashes[2].artifact),
        (SourceStatus::Changed, ArtifactStatus::SomethingElse)
    );
    assert!(!folder.verify(&log, &VERIFY_REQUIRED, true).passed);
}

#[test]
fn an_engine_computes_nothing_from_what_it_would_have_to_guess() {
    for (name, text, function, reason) in [
        (
            "trial_balance_2026-01.csv",
            TRIAL_BALANCE.replace("2500.05", "2,500.05"),
            "tb_diagnostics",
            "has 5 cells",
        ),
        (
            "trial_balance_2026-01.csv",
            TRIAL_BALANCE.replace("2500.05", "2.5e3"),
            "tb_diagnostics",
            "row 3, balance_usd: \"2.5e3\" is no amount",
        ),
        (
            "trial_balance_2026-01.csv",
            TRIAL_BALANCE.replace("2500.05", ""),
            "tb_diagnostics",
            "is no amount",
        ),
        (
            "trial_balance_2026-01.csv",
            TRIAL_BALANCE.replace("balance_usd", "balance"),
            "tb_diagnostics",
            "no column balance_usd",
        ),
        (
            "entities.csv",
            ENTITIES.replace("2000000", "big"),
            "tb_diagnostics",
            "is no amount",
        ),
        (
            "supporting/accruals.csv",
            ACCRUALS.replace("100.10", "NaN"),
            "accruals_check",
            "is no amount",
        ),
        (
            "supporting/accruals.csv",
            ACCRUALS.replace("E1,A1", "E1,"),
            "accruals_check",
            "accrual_id: is empty",
        ),
        (
            "supporting/emails.json",
            MAILS.replace("\"M1\"", "7"),
            "email_evidence",
            "element 0: email_id is no text",
        ),
        (
            "supporting/accruals.csv",
            ACCRUALS.replace("2026-01-20", "01/20/2026"),
            "accruals_check",
            "row 2, accrual_date: \"01/20/2026\" is no date",
        ),
        (
            "trial_balance_2026-01.csv",
            TRIAL_BALANCE.replace("2026-01,E2,2000", "Jan 2026,E2,2000"),
            "tb_diagnostics",
            "row 4, period: \"Jan 2026\" is no date",
        ),
        (
            "entities.csv",
            format!("{ENTITIES}E2,Two,1\n"),
            "tb_diagnostics",
            "row 5, entity: stands there before",
        ),
        (
            "chart_of_accounts.csv",
            format!("{CHART}1000,Bank,asset\n"),
            "tb_diagnostics",
            "row 3, account: stands there before",
        ),
        (
            "supporting/emails.json",
            MAILS.replace("2026-02-01T23:00:00Z", "1 Feb 2026"),
            "email_evidence",
            "element 1: timestamp \"1 Feb 2026\" is no time",
        ),
        (
            "supporting/emails.json",
            MAILS.replace("\"2026-02-02T00:00:00Z\"", "null"),
            "email_evidence",
            "element 2: there is no timestamp",
        ),
        (
            "supporting/emails.json",
            MAILS.replace("true", "\"yes\""),
            "email_evidence",
            "requires_action",
        ),
        (
            "supporting/emails.json",
            "[5]".to_owned(),
            "email_evidence",
            "element 0 is no object",
        ),
    ] {
        let folder = folder();
        folder.write(&format!("data/{name}"), text);
        let error = refusal(&folder, function);
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(!folder.path("out").join("audit_20260203T040506Z.jsonl").exists());
    }
    let folder = folder();
    std::fs::rename(folder.path("data/entities.csv"), folder.path("data/e.csv")).unwrap();
    assert!(refusal(&folder, "tb_diagnostics").contains("there is no such file"));
    std::os::unix::fs::symlink(folder.path("data/e.csv"), folder.path("data/entities.csv")).unwrap();
    assert!(refusal(&folder, "tb_diagnostics").contains("symbolic link"));
    std::fs::remove_file(folder.path("data/entities.csv")).unwrap();
    // Without the column, every entity has the size of a million.
    folder.write("data/entities.csv", "entity\nE3\n");
    let ran = run(&folder, "tb_diagnostics", "E3", NOW);
    assert_eq!(artifact(&ran)["diagnostics"][0]["threshold_usd"], json!(1000));
}
