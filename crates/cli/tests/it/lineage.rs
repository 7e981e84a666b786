//! Lineage: the walk of the example's README, and what a log that lies is told.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::commands::{stderr, stdout};
use crate::served::Served;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/close")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The example's files, in a folder of their own.
pub(crate) fn close() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&example().join("data"), &folder.path().join("data"));
    folder
}

pub(crate) fn deponent(folder: &Path, args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deponent"))
        .args(args.split(' '))
        .env_clear()
        .current_dir(folder)
        .output()
        .unwrap()
}

/// The commands of the README's `console` blocks, each with the lines that it says it prints.
fn walk() -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(example().join("README.md")).unwrap();
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match line.strip_prefix("$ ") {
                Some(command) => commands.push((command.to_owned(), Vec::new())),
                None => commands.last_mut().unwrap().1.push(line.to_owned()),
            },
            _ => {}
        }
    }
    commands
}

#[test]
fn the_readme_of_the_example_says_what_happens() {
    let folder = close();
    let commands = walk();
    assert!(commands.len() > 8, "{}", commands.len());
    let bin = Path::new(env!("CARGO_BIN_EXE_deponent")).parent().unwrap();
    for (command, expected) in commands {
        let output = Command::new("sh")
            .args(["-c", &format!("{{ {command}\n}} 2>&1")])
            .env_clear()
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = stdout(&output).replace(folder.path().canonicalize().unwrap().to_str().unwrap(), "…");
        let lines: Vec<&str> = text.lines().collect();
        // A line that ends in "…" is only begun with.
        let same = |(line, expected): (&&str, &String)| match expected.strip_suffix('…') {
            Some(start) => line.starts_with(start),
            None => line == expected,
        };
        assert!(
            lines.len() == expected.len() && lines.iter().zip(&expected).all(same),
            "$ {command}\n{text}\nis not\n{}",
            expected.join("\n")
        );
    }
}

#[test]
fn exit_codes_tell_findings_from_questions_that_cannot_be_answered() {
    let folder = close();
    let path = folder.path();
    let code = |args: &str| deponent(path, args).status.code();
    assert_eq!(code("lineage verify"), Some(69), "no log");
    assert_eq!(code("lineage drill --fn x"), Some(69));
    assert_eq!(code("lineage run nothing --data data --period 2026-01"), Some(64));
    assert_eq!(
        code("lineage run tb_diagnostics --data data --period 2026-13"),
        Some(64)
    );
    assert_eq!(
        code("lineage run tb_diagnostics --data data --period 2026-02"),
        Some(2),
        "no such file"
    );
    let ran = deponent(
        path,
        "lineage run accruals_check --data data --period 2026-01 --now 2026-02-04T08:00:00Z",
    );
    assert_eq!(ran.status.code(), Some(0), "{}", stderr(&ran));
    let newest = deponent(path, "lineage verify");
    assert_eq!(newest.status.code(), Some(1));
    assert!(
        stderr(&newest).starts_with("audit log: ./out/audit_20260204T080000Z.jsonl\n"),
        "{}",
        stderr(&newest)
    );
    assert_eq!(
        stdout(&newest).lines().next(),
        Some("[DET] Provenance verification FAILED")
    );
    assert_eq!(code("lineage verify --require accruals_check --strict"), Some(0));
    assert_eq!(code("lineage verify --require ,"), Some(64));
    assert_eq!(code("lineage verify --map nothing"), Some(64));
    assert_eq!(code("lineage verify --root nowhere"), Some(69));
    assert_eq!(code("lineage drill --fn tb_diagnostics"), Some(2));
    assert_eq!(code("lineage drill --fn accruals_check --format json"), Some(0));
    assert_eq!(
        code("lineage drill --fn accruals_check --key entity"),
        Some(1),
        "no row has such an id"
    );
    let no_column = deponent(path, "lineage drill --fn accruals_check --key nothing");
    assert_eq!(no_column.status.code(), Some(2));
    assert_eq!(stdout(&no_column), "", "no header before an error");
    let limited = deponent(path, "lineage drill --fn accruals_check --limit 1");
    assert_eq!(stdout(&limited).lines().count(), 2);
    assert!(
        stderr(&limited).contains("1 of 4 rows printed"),
        "{}",
        stderr(&limited)
    );
    std::fs::rename(
        path.join("data/supporting/accruals.csv"),
        path.join("data/supporting/accruals_old.csv"),
    )
    .unwrap();
    let gone = deponent(path, "lineage drill --fn accruals_check");
    assert_eq!(gone.status.code(), Some(2));
    assert!(
        stderr(&gone).contains("accruals_old.csv (the same bytes, 4 of 4 ids"),
        "{}",
        stderr(&gone)
    );
    assert_eq!(
        code("lineage verify --require accruals_check"),
        Some(0),
        "reported only"
    );
    assert_eq!(code("lineage verify --require accruals_check --strict"), Some(1));
}

#[test]
fn what_could_not_be_read_is_told_where_something_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("rows.csv"), "txn,amount\nT1,1\nT2,2,3\nT3,\"3\n").unwrap();
    let line = |function: &str, evidence: &str| {
        format!(
            "{{\"type\":\"deterministic\",\"fn\":\"{function}\",\"evidence_id\":\"{evidence}\",\"output_hash\":\"00\"}}\n"
        )
    };
    let evidence = |id: &str, rows: &str, key: &str| {
        format!(
            "{{\"type\":\"evidence\",\"id\":\"{id}\",\"evidence_type\":\"csv\",\"uri\":\"rows.csv\",\
             \"input_row_ids\":{rows}{key}}}\n"
        )
    };
    let log = [
        evidence("ev-1", "[\"T2\",\"T3\"]", ""),
        line("sought", "ev-1"),
        evidence("ev-2", "[\"T1\",\"T2\"]", ",\"key_columns\":[\"txn\"]"),
        line("keyed", "ev-2"),
        line("nowhere", "ev-3"),
        "{\n".repeat(12),
    ]
    .concat();
    std::fs::write(path.join("audit.jsonl"), log).unwrap();
    let drill = |function: &str, code: i32, said: &[&str]| {
        let output = deponent(
            path,
            &format!("lineage drill --audit audit.jsonl --fn {function}"),
        );
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(
            text.contains("2 more lines of the audit log are malformed"),
            "{text}"
        );
        for part in said {
            assert!(text.contains(part), "{part}: {text}");
        }
    };
    drill(
        "sought",
        2,
        &[
            "line 3 has 3 cells",
            "line 4 has a quote",
            "could not tell which columns",
        ],
    );
    drill(
        "keyed",
        1,
        &["no row: T2", "may be among the 2 that could not be read"],
    );
    drill("nowhere", 2, &["evidence ev-3", "12 of its lines cannot"]);
    drill(
        "nobody",
        2,
        &["no deterministic record of nobody", "12 of its lines cannot"],
    );
}

#[test]
fn the_map_that_is_suggested_works_as_it_is_typed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let log = "{\"type\":\"evidence\",\"id\":\"e\",\"evidence_type\":\"csv\",\"uri\":\"year=2026/it's $HOME.csv\",\"input_row_ids\":[\"E1|A1\"]}\n\
        {\"type\":\"deterministic\",\"fn\":\"accruals_check\",\"evidence_id\":\"e\"}\n";
    std::fs::create_dir_all(path.join("new=1")).unwrap();
    std::fs::write(path.join("audit.jsonl"), log).unwrap();
    std::fs::write(path.join("new=1/it's `here`.csv"), "entity,accrual_id\nE1,A1\n").unwrap();
    let gone = deponent(path, "lineage drill --fn accruals_check --audit audit.jsonl");
    let text = stderr(&gone);
    let (_, map) = text.split_once("): --map ").unwrap_or_else(|| panic!("{text}"));
    let typed = format!(
        "{} lineage drill --fn accruals_check --audit audit.jsonl --map {}",
        env!("CARGO_BIN_EXE_deponent"),
        map.lines().next().unwrap()
    );
    let found = Command::new("sh")
        .args(["-c", &typed])
        .env_clear()
        .current_dir(path)
        .output()
        .unwrap();
    assert_eq!(
        stdout(&found),
        "entity,accrual_id\nE1,A1\n",
        "{typed}: {}",
        stderr(&found)
    );
}

#[test]
fn models_are_listed_and_added_up_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let log = concat!(
        "{\"type\":\"ai_output\",\"kind\":\"flux\",\"artifact\":\"a.json\"}\n",
        "{\"type\":\"ai_metrics\",\"kind\":\"flux\",\"tokens\":100,\"cost_usd\":0.1}\n",
        "{\"type\":\"ai_metrics\",\"kind\":\"flux\",\"tokens\":200,\"cost_usd\":0.2}\n",
        "{\"type\":\"ai_metrics\",\"kind\":\"bank\",\"tokens\":\"many\",\"cost_usd\":1e-3}\n",
        "{\"type\":\"evidence\",\"id\":\"e\"}\n",
    );
    std::fs::write(folder.path().join("audit.jsonl"), log).unwrap();
    let sum = deponent(folder.path(), "lineage list-ai --audit audit.jsonl --sum");
    assert_eq!(
        stdout(&sum),
        "bank: 0 outputs, 1 metrics, 0 tokens, 0 USD, 1 without readable numbers\n\
         flux: 1 outputs, 2 metrics, 300 tokens, 0.3 USD\n\
         total: 1 outputs, 3 metrics, 300 tokens, 0.3 USD, 1 without readable numbers\n"
    );
    let list: serde_json::Value = serde_json::from_str(&stdout(&deponent(
        folder.path(),
        "lineage list-ai --audit audit.jsonl --json",
    )))
    .unwrap();
    assert_eq!(list.as_array().unwrap().len(), 4);
    for how in ["", " --sum"] {
        let listed = |format: &str| {
            let args = format!("lineage list-ai --audit audit.jsonl{how} {format}");
            let output = deponent(folder.path(), &args);
            (output.status.code(), stdout(&output))
        };
        assert_eq!(listed("--format json"), listed("--json"));
        assert_ne!(listed("--format text"), listed("--json"));
        assert_eq!(listed("--format text --json").0, Some(64), "one of them");
    }
    assert_eq!(
        (&list[1]["line"], &list[1]["record"]["tokens"]),
        (&2.into(), &100.into())
    );
    assert_eq!(
        stdout(&deponent(folder.path(), "lineage list-ai --audit audit.jsonl"))
            .lines()
            .count(),
        4
    );
}

/// What of a log is on record: every body, without what is new with each server.
fn bodies(server: &Served, run: &str) -> Vec<serde_json::Value> {
    let get = |path: String| -> serde_json::Value {
        let mut answer = ureq::get(format!("{}{path}", server.url())).call().unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    };
    let list = get(format!("/api/v1/records?run_id={run}&limit=100"));
    let items = list["items"].as_array().unwrap();
    let lines = items.iter().filter(|item| {
        let kind = item["header"]["kind"].as_str().unwrap();
        kind.starts_with("lineage.")
    });
    lines
        .map(|item| {
            let id = item["header"]["id"].as_str().unwrap();
            let record = get(format!("/api/v1/records/{id}"));
            serde_json::json!([record["header"]["kind"], record["body"]])
        })
        .collect()
}

/// Lines as people's programs write them.
pub(crate) const UNTIDY: &str = concat!(
    "{\"type\":\"evidence\",\"id\":\"ev-1\",\"input_row_ids\":[1,\"E1|A1\",\"ada@example.com\"],\"uri\":null,\"colour\":\"red\",\"ts\":\"yesterday\"}\n",
    "{\"type\":\"evidence\",\"id\":\"ev-2\",\"evidence_type\":null,\"input_row_ids\":\"all\",\"run_id\":\"its own\"}\n",
    "{\"type\":\"deterministic\",\"function_name\":\"f\",\"evidence_id\":\"ev-1\",\"params\":[1.50],\"row_ids\":7,\"reviewed_at\":\"ada@example.com\"}\n",
    "{\"type\":\"ai_metrics\",\"run_id\":\"its own\",\"tokens\":1e21,\"cost_usd\":0.1}\n",
    // Equal to one another once they are redacted, each a record.
    "{\"type\":\"ai_output\",\"by\":\"ada@example.com\"}\n{\"type\":\"ai_output\",\"by\":\"eve@example.com\"}\n",
    // None of these is a line: an integer that no reader keeps, a name twice, no id, the ledger's own members.
    "{\"type\":\"ai_metrics\",\"tokens\":1000000000000000000000}\n",
    "{\"type\":\"ai_metrics\",\"note\":1,\"note\":2}\n",
    "{\"type\":\"evidence\"}\n",
    "{\"type\":\"ai_output\",\"deponent.copy\":1}\n{\"type\":\"ai_output\",\"deponent.run\":\"r\"}\n",
);

#[test]
fn untidy_lines_make_the_same_records_through_a_server_and_through_a_folder() {
    let server = Served::new();
    let folder = server.folder();
    for (run, over) in [
        ("r1", format!("--server {}", server.url())),
        ("r2", "--data-dir data".to_owned()),
    ] {
        let name = format!("audit_{run}.jsonl");
        std::fs::write(folder.join(&name), UNTIDY).unwrap();
        for (written, known) in [(6, 0), (0, 6)] {
            let output = deponent(folder, &format!("lineage import {name} {over}"));
            assert_eq!(
                stdout(&output),
                format!(
                    "run {run}: {written} records written, {known} were there, 0 lines of other types, 5 are none, 0 were refused\n"
                ),
                "{}",
                stderr(&output)
            );
            assert_eq!(output.status.code(), Some(1));
        }
    }
    let (by_server, by_folder) = (bodies(&server, "r1"), bodies(&server, "r2"));
    assert_eq!(by_server.len(), 6);
    assert_eq!(by_server, by_folder);
    let all = serde_json::to_string(&by_server).unwrap();
    assert!(
        all.contains("its own") && all.contains("red") && all.contains("<REDACTED_EMAIL>"),
        "{all}"
    );
}

#[test]
fn a_log_is_imported_through_a_server_once_however_often() {
    let server = Served::new();
    let folder = server.folder();
    let log = concat!(
        "{\"ts\":\"2026-01-01T00:00:00Z\",\"type\":\"evidence\",\"id\":\"ev-1\",\"evidence_type\":\"csv\",\"uri\":\"a.csv\",\"input_row_ids\":[\"E1|A1\"],\"timestamp\":\"2026-01-01T00:00:00.5Z\"}\n",
        "{\"ts\":\"2026-01-01T00:00:00Z\",\"type\":\"deterministic\",\"fn\":\"accruals_check\",\"evidence_id\":\"ev-1\",\"params\":{}}\n",
        "{\"type\":\"ai_metrics\",\"kind\":\"x\",\"tokens\":5,\"more\":{\"a\":[1.5]}}\n{\"type\":\"note\"}\n[]\n",
        // Another accruals_check came between, then the first again: it is the last one, and counts.
        "{\"type\":\"deterministic\",\"fn\":\"accruals_check\",\"evidence_id\":\"nowhere\",\"params\":{}}\n",
        "{\"evidence_id\":\"ev-1\", \"ts\":\"2026-01-01T00:00:00Z\",\"type\":\"deterministic\",\"fn\":\"accruals_check\",\"params\":{}}\n",
    );
    std::fs::write(folder.join("audit_r1.jsonl"), log).unwrap();
    std::fs::write(folder.join("a.csv"), "entity,accrual_id\nE1,A1\n").unwrap();
    let by_server = format!("lineage import audit_r1.jsonl --server {}", server.url());
    let by_folder = "lineage import audit_r1.jsonl --data-dir data";
    for (command, line) in [
        (
            by_server.as_str(),
            "run r1: 5 records written, 0 were there, 1 lines of other types, 1 are none, 0 were refused\n",
        ),
        (
            &by_server,
            "run r1: 0 records written, 5 were there, 1 lines of other types, 1 are none, 0 were refused\n",
        ),
        // Through the folder of a serving process the same lines are the same records.
        (
            by_folder,
            "run r1: 0 records written, 5 were there, 1 lines of other types, 1 are none, 0 were refused\n",
        ),
    ] {
        let output = deponent(folder, command);
        assert_eq!(
            (stdout(&output).as_str(), output.status.code()),
            (line, Some(1)),
            "{}",
            stderr(&output)
        );
    }
    let drilled = deponent(
        folder,
        "lineage drill --fn accruals_check --data-dir data --run r1",
    );
    assert_eq!(
        stdout(&drilled),
        "entity,accrual_id\nE1,A1\n",
        "{}",
        stderr(&drilled)
    );
    assert_eq!(
        deponent(folder, "lineage drill --fn nobody --data-dir data")
            .status
            .code(),
        Some(2)
    );
    server.post("/api/v1/lineage/deterministic", r#"{"fn":"alone"}"#);
    let alone = deponent(folder, "lineage drill --fn alone --data-dir data");
    assert_eq!(alone.status.code(), Some(2));
    assert!(stderr(&alone).contains("names no evidence"), "{}", stderr(&alone));
    // The environment names the server as well, unless a folder is typed.
    std::fs::rename(folder.join("audit_r1.jsonl"), folder.join("audit_r2.jsonl")).unwrap();
    for (command, line) in [
        ("lineage import audit_r2.jsonl", "run r2: 5 records written"),
        (
            "lineage import audit_r2.jsonl --data-dir data",
            "run r2: 0 records written",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_deponent"))
            .args(command.split(' '))
            .env_clear()
            .env("DEPONENT_URL", server.url())
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(
            stdout(&output).starts_with(line),
            "{}{}",
            stdout(&output),
            stderr(&output)
        );
    }
    let both = format!("{by_server} --data-dir data");
    assert_eq!(deponent(folder, &both).status.code(), Some(64));
    let code = |command: &str| deponent(folder, command).status.code();
    assert_eq!(code("lineage import audit_none.jsonl --data-dir data"), Some(69));
    std::fs::write(folder.join("named.jsonl"), "{}\n").unwrap();
    assert_eq!(code("lineage import named.jsonl --data-dir data"), Some(64));
    let named = format!("lineage import named.jsonl --server {}", server.url());
    assert_eq!(code(&named), Some(64));
}

#[test]
fn an_import_waits_where_a_key_has_sent_too_much_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("deponent.toml"), "rate_limit = 5\n").unwrap();
    let server = Served::over(&folder.path().join("data"), folder.path());
    let lines: Vec<String> = (0..15)
        .map(|number| format!("{{\"type\":\"ai_output\",\"number\":{number}}}\n"))
        .collect();
    std::fs::write(folder.path().join("audit_r.jsonl"), lines.concat()).unwrap();
    let command = format!("lineage import audit_r.jsonl --server {}", server.url());
    let output = deponent(folder.path(), &command);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).starts_with("run r: 15 records written"),
        "{}",
        stdout(&output)
    );
}
