//! An audit log out of the ledger again: it verifies and drills as the imported one did, and is there whole or not at all.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::commands::{stderr, stdout};
use crate::lineage::{UNTIDY, close, deponent};
use crate::served::Served;

fn ran(folder: &Path, args: &str) -> Output {
    let output = deponent(folder, args);
    assert_eq!(output.status.code(), Some(0), "{args}: {}", stderr(&output));
    output
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), stdout(output))
}

/// Files in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn values(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn who_has_only_the_ledger_gets_a_log_that_verifies_and_drills_as_the_imported_one() {
    const RUN: &str = "20260204T080000Z";
    let folder = close();
    let path = folder.path();
    ran(
        path,
        "lineage run tb_diagnostics accruals_check email_evidence --data data --period 2026-01 --now 2026-02-04T08:00:00Z",
    );
    let log = path.join(format!("out/audit_{RUN}.jsonl"));
    ran(path, "tenant create default --data-dir ledger");
    ran(
        path,
        &format!("lineage import out/audit_{RUN}.jsonl --data-dir ledger"),
    );
    let functions = ["tb_diagnostics", "accruals_check", "email_evidence"];
    let answers = || {
        let mut answers = vec![deponent(path, "lineage verify --strict")];
        answers.extend(functions.map(|name| deponent(path, &format!("lineage drill --fn {name}"))));
        answers
            .iter()
            .map(|output| (said(output), stderr(output)))
            .collect::<Vec<_>>()
    };
    let before = answers();
    assert!(before.iter().all(|((code, _), _)| *code == Some(0)), "{before:?}");
    let original = values(&log);
    std::fs::remove_file(&log).unwrap();
    let exported = ran(path, &format!("lineage export {RUN} --data-dir ledger"));
    assert_eq!(
        stdout(&exported),
        format!(
            "out/audit_{RUN}.jsonl\nrun {RUN}: 6 lines: 3 evidence, 3 deterministic, 0 ai_output, 0 ai_metrics\n"
        )
    );
    assert_eq!(answers(), before);
    assert_eq!(values(&log), original, "by value");
    let again = ran(
        path,
        &format!("lineage import out/audit_{RUN}.jsonl --data-dir ledger"),
    );
    assert_eq!(
        stdout(&again),
        format!(
            "run {RUN}: 0 records written, 6 were there, 0 lines of other types, 0 are none, 0 were refused\n"
        )
    );
    // What is there is not written over unasked, and whole when it is.
    std::fs::write(&log, "mine").unwrap();
    let refused = deponent(path, &format!("lineage export {RUN} --data-dir ledger"));
    assert_eq!(refused.status.code(), Some(69));
    assert!(
        stderr(&refused).contains("is there already; --replace"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "mine");
    let replaced = ran(
        path,
        &format!("lineage export {RUN} --data-dir ledger --replace --format json"),
    );
    let answer: Value = serde_json::from_str(&stdout(&replaced)).unwrap();
    assert_eq!(
        answer,
        serde_json::json!({ "ai_metrics": 0, "ai_output": 0, "archived": 0, "bytes": std::fs::metadata(&log).unwrap().len(),
            "deterministic": 3, "erased": 0, "evidence": 3, "file": format!("out/audit_{RUN}.jsonl"), "lines": 6,
            "missing": 0, "redacted": 0, "replaced": true, "run_id": RUN })
    );
    assert_eq!(values(&log), original);
}

#[test]
fn a_log_that_cannot_be_written_leaves_nothing_behind() {
    let server = Served::new();
    let folder = server.folder();
    std::fs::write(
        folder.join("audit_r1.jsonl"),
        "{\"type\":\"ai_output\",\"kind\":\"x\"}\n",
    )
    .unwrap();
    ran(folder, "lineage import audit_r1.jsonl --data-dir data");
    server.post("/api/v1/runs", "{\"run_id\":\"bare\"}");
    server.post("/api/v1/runs", "{\"run_id\":\"a/../b\"}");
    std::fs::write(folder.join("file"), "").unwrap();
    std::fs::create_dir_all(folder.join("taken/audit_r1.jsonl")).unwrap();
    let url = server.url();
    let long = format!("{} --out new", "x".repeat(244));
    for over in ["--data-dir data".to_owned(), format!("--server {url}")] {
        for (what, code, why) in [
            ("r1 --out file", 69, "cannot write into file"),
            ("r1 --out file/under", 69, "cannot write into file/under"),
            ("r1 --out taken", 69, "is there already"),
            (
                "r1 --out taken --replace",
                69,
                "cannot write taken/audit_r1.jsonl",
            ),
            ("r1 --out /proc/nowhere", 69, "cannot write into"),
            ("nosuch --out new", 2, "there is no such run"),
            (
                "bare --out new",
                2,
                "run bare has no lines of an audit log on record; no file is written",
            ),
            ("a/../b --out new", 64, "makes no file name"),
            (long.as_str(), 64, "makes no file name"),
            ("r1 --out new --tenant nobody", 64, "there is no tenant nobody"),
        ] {
            if what.contains("nobody") && over.starts_with("--server") {
                continue;
            }
            let output = deponent(folder, &format!("lineage export {what} {over}"));
            assert_eq!(
                output.status.code(),
                Some(code),
                "{what} {over}: {}",
                stderr(&output)
            );
            assert!(
                stderr(&output).contains(why) && !stderr(&output).contains("line 1"),
                "{what} {over}: {}",
                stderr(&output)
            );
            assert_eq!(stdout(&output), "");
        }
    }
    let both = format!("lineage export r1 --data-dir data --server {url}");
    assert_eq!(deponent(folder, &both).status.code(), Some(64));
    assert!(!folder.join("new").exists() && !folder.join("out").exists());
    assert_eq!(names(&folder.join("taken")), ["audit_r1.jsonl"]);
    assert_eq!(std::fs::read(folder.join("file")).unwrap(), b"");
}

#[test]
fn a_server_and_its_folder_give_back_the_same_log_which_says_what_was_taken_out_and_what_is_gone() {
    let server = Served::new();
    let folder = server.folder();
    std::fs::write(folder.join("audit_r1.jsonl"), UNTIDY).unwrap();
    let imported = deponent(folder, "lineage import audit_r1.jsonl --data-dir data");
    assert!(
        stdout(&imported).starts_with("run r1: 6 records written"),
        "{}",
        stderr(&imported)
    );
    let list = server.get("/api/v1/records?run_id=r1&kind=lineage.deterministic");
    let id = list["items"][0]["header"]["id"].as_str().unwrap();
    let path = format!("/api/v1/records/{id}/body");
    server.send("DELETE", &path, "{\"reason\":\"asked for\"}");
    let by_folder = ran(folder, "lineage export r1 --out folder --data-dir data");
    let by_server = ran(
        folder,
        &format!("lineage export r1 --out server --server {}", server.url()),
    );
    let printed = "/audit_r1.jsonl\n\
        run r1: 5 lines: 2 evidence, 0 deterministic, 2 ai_output, 1 ai_metrics\n\
        1 more are erased: their lines say so, without what they held\n\
        3 lines were redacted before they were recorded: where a marker stands, their text is not that of the log that was imported\n";
    assert_eq!(stdout(&by_folder), format!("folder{printed}"));
    assert_eq!(stdout(&by_server), format!("server{printed}"));
    let log = folder.join("folder/audit_r1.jsonl");
    assert_eq!(
        std::fs::read(&log).unwrap(),
        std::fs::read(folder.join("server/audit_r1.jsonl")).unwrap()
    );
    let types: Vec<Value> = values(&log).iter().map(|line| line["type"].clone()).collect();
    assert_eq!(
        types,
        [
            "evidence",
            "evidence",
            "deponent.gone",
            "ai_metrics",
            "ai_output",
            "ai_output"
        ]
    );
    // Readers of logs say what is gone; imported again, nothing comes back and nothing is new.
    let drilled = deponent(folder, "lineage drill --fn f --audit folder/audit_r1.jsonl");
    assert_eq!(drilled.status.code(), Some(2));
    assert!(
        stderr(&drilled).contains("no deterministic record of f")
            && stderr(&drilled).contains("note: 1 later deterministic records are erased, of which functions nobody knows any more: the newest of f may be among them"),
        "{}",
        stderr(&drilled)
    );
    let verified = deponent(
        folder,
        "lineage verify --audit folder/audit_r1.jsonl --require f --format json",
    );
    let findings: Value = serde_json::from_str(&stdout(&verified)).unwrap();
    assert_eq!(
        findings["findings"][0]["kind"], "missing_deterministic",
        "{findings}"
    );
    for over in ["--data-dir data".to_owned(), format!("--server {}", server.url())] {
        let again = ran(folder, &format!("lineage import folder/audit_r1.jsonl {over}"));
        assert_eq!(
            stdout(&again),
            "run r1: 0 records written, 5 were there, 1 lines of other types, 0 are none, 0 were refused\n"
        );
    }
}

/// A server that answers once, with these bytes.
fn answering(bytes: &'static [u8]) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        let _ = stream.write_all(bytes);
    });
    (url, served)
}

#[test]
fn an_answer_that_breaks_off_or_is_no_log_makes_no_file() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ndeponent-lines: 1\r\n";
    let folder = tempfile::tempdir().unwrap();
    let line = "{\"type\":\"ai_output\"}\n";
    for (body, why) in [
        (
            format!("{HEAD}transfer-encoding: chunked\r\n\r\n15\r\n{line}\r\n"),
            "broke off",
        ),
        (
            format!("{HEAD}transfer-encoding: chunked\r\n\r\n15\r\n{{\"type\":"),
            "broke off",
        ),
        (format!("{HEAD}content-length: 42\r\n\r\n{line}"), "broke off"),
        (
            format!("{HEAD}content-length: 5\r\n\r\n<a>b\n"),
            "line 1 of the server's answer",
        ),
        (
            format!("{HEAD}content-length: 16\r\n\r\n{{\"type\":\"note\"}}\n"),
            "no type of an audit log",
        ),
        (
            format!("HTTP/1.0 200 OK\r\ndeponent-lines: 2\r\n\r\n{line}"),
            "1 of 2 lines; no file is written",
        ),
        (
            "HTTP/1.0 200 OK\r\ndeponent-lines: 2\r\n\r\n".to_owned(),
            "0 of 2 lines; no file is written",
        ),
        (
            format!("HTTP/1.0 200 OK\r\n\r\n{line}"),
            "does not say how many lines it has (deponent-lines)",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "answers 302",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 24\r\n\r\n{\"detail\":\"not for you\"}\n".to_owned(),
            "answers 403: not for you",
        ),
    ] {
        let (url, served) = answering(body.clone().leak().as_bytes());
        let output = deponent(folder.path(), &format!("lineage export r1 --server {url}"));
        served.join().unwrap();
        assert_eq!(output.status.code(), Some(69), "{body}: {}", stderr(&output));
        assert!(stderr(&output).contains(why), "{body}: {}", stderr(&output));
        let out = folder.path().join("out");
        assert!(!out.exists() || names(&out).is_empty(), "{body}");
    }
}

#[test]
fn an_export_that_is_called_off_makes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_deponent"))
        .args(["lineage", "export", "r1", "--server", &url])
        .env_clear()
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).unwrap();
    let line = "15\r\n{\"type\":\"ai_output\"}\n\r\n";
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ndeponent-lines: 2\r\ntransfer-encoding: chunked\r\n\r\n{line}"
    )
    .unwrap();
    // The first line is in its file.
    let out = folder.path().join("out");
    let begun = || out.is_dir() && !names(&out).is_empty();
    let until = Instant::now() + Duration::from_mins(2);
    while !begun() {
        assert!(Instant::now() < until, "no file is begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    let told = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(told.success());
    // Said at once, though nothing comes.
    let mut said = String::new();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    errors.read_line(&mut said).unwrap();
    assert_eq!(
        said,
        "deponent: it stops at the next line; Ctrl-C again ends it at once\n"
    );
    write!(stream, "{line}").unwrap();
    let output = child.wait_with_output().unwrap();
    said.clear();
    errors.read_to_string(&mut said).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no file is written"), "{said}");
    assert_eq!(names(&out), Vec::<String>::new());
}

#[test]
fn the_long_help_says_what_comes_back_and_every_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    for (command, says) in [
        ("export", "by their value"),
        ("import", "so that an import may be done again"),
        ("drill", "64 usage"),
        ("verify", "69 the log cannot be read"),
    ] {
        let help = stdout(&ran(folder.path(), &format!("lineage {command} --help")));
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for says in [says, "Exit codes: 0 ", " 1 ", "64 usage", "69 the"] {
            assert!(help.contains(says), "{command}: {says}: {help}");
        }
    }
}
