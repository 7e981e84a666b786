//! Long work of the binary: killed, told to stop, met over HTTP.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::commands::{deponent, stderr, stdout};
use crate::served::Served;

/// Logs of a file: enough that an import is met on its way.
const LOGS: u64 = 40_000;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_mins(2);

/// A folder with a tenant, and a file of logs.
struct Folder {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("provenance_2026-05-11.jsonl");
        let hash = |text: &str| {
            Sha256::digest(text.as_bytes())
                .iter()
                .fold(String::new(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                })
        };
        let output = hash("{}");
        let mut text = String::new();
        for number in 0..LOGS {
            let input = hash(&number.to_string());
            let _ = writeln!(
                text,
                r#"{{"id":"p-{number}","timestamp":"2026-05-11T10:00:00Z","input_hash":"{input}","output_hash":"{output}","input_json":"{number}","output_json":"{{}}"}}"#
            );
        }
        std::fs::write(&file, text).unwrap();
        let folder = Self { folder, file };
        let made = deponent(&["tenant", "create", "default", "--data-dir", folder.data()]);
        assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
        folder
    }

    fn data(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    fn served(&self) -> Served {
        Served::over(self.folder.path(), self.folder.path())
    }

    fn import(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_deponent"))
            .args([
                "provenance",
                "import",
                "--format",
                "json",
                "--data-dir",
                self.data(),
            ])
            .arg(&self.file)
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Waits until a part of the file is in the ledger.
    fn wait_for_a_part(&self) {
        wait_until(|| {
            let head = deponent(&["ledger", "head", "--format", "json", "--data-dir", self.data()]);
            let head: Value = serde_json::from_str(&stdout(&head)).unwrap_or_default();
            head["tree_size"].as_u64().is_some_and(|size| size > 600)
        });
    }

    fn assert_verified(&self) {
        let verified = deponent(&["verify", "--data-dir", self.data()]);
        assert_eq!(verified.status.code(), Some(0), "{}", stdout(&verified));
    }
}

#[track_caller]
fn wait_until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "nothing happened");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

fn answer(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap_or_else(|error| panic!("{error}: {}", stderr(output)))
}

impl Served {
    /// The import's job, once a part of the file is in.
    fn import_under_way(&self) -> String {
        let mut job_id = String::new();
        wait_until(|| {
            let jobs = self.get("/api/v1/jobs?handler=deponent.provenance-import");
            let Some(id) = jobs["items"][0]["job_id"].as_str() else {
                return false;
            };
            id.clone_into(&mut job_id);
            let progress = self.get(&format!("/api/v1/jobs/{id}/progress"));
            progress["percentage"].as_f64().unwrap() > 0.0
        });
        job_id
    }
}

#[test]
fn an_import_that_is_killed_is_gone_on_with_when_it_is_asked_for_again() {
    let folder = Folder::new();
    let mut first = folder.import();
    folder.wait_for_a_part();
    first.kill().unwrap();
    first.wait().unwrap();
    folder.assert_verified();
    let again = folder.import().wait_with_output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    let again = answer(&again);
    let (logs, known) = (
        again["logs"].as_u64().unwrap(),
        again["on_record"].as_u64().unwrap(),
    );
    assert_eq!((logs + known, &again["complete"]), (LOGS, &json!(true)));
    assert!(known > 0 && logs > 0, "{again}");
    folder.assert_verified();
    // The same job, its second attempt.
    let served = folder.served();
    let job = served.get(&format!("/api/v1/jobs/{}", again["job_id"].as_str().unwrap()));
    assert_eq!(
        (&job["attempt_number"], &job["stage"]),
        (&json!(2), &json!("completed"))
    );
}

#[test]
fn an_import_that_is_told_to_stop_says_what_it_did_and_again_completes_it() {
    let folder = Folder::new();
    let first = folder.import();
    folder.wait_for_a_part();
    signal(&first, "-INT");
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(2), "{}", stderr(&first));
    assert!(stderr(&first).contains("called off"), "{}", stderr(&first));
    let stopped = answer(&first);
    assert_eq!(stopped["complete"], false);
    let again = answer(&folder.import().wait_with_output().unwrap());
    assert_eq!(again["on_record"], stopped["logs"]);
    assert_ne!(again["job_id"], stopped["job_id"]);
    folder.assert_verified();
}

#[test]
fn an_import_whose_server_is_killed_goes_on_at_the_next_start_and_is_called_off_over_http() {
    let folder = Folder::new();
    let served = folder.served();
    let asking = folder.import();
    let job_id = served.import_under_way();
    // A second one is told which runs.
    let second = folder.import().wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(69), "{}", stdout(&second));
    assert!(stderr(&second).contains(&job_id), "{}", stderr(&second));
    drop(served);
    let asking = asking.wait_with_output().unwrap();
    assert_eq!(asking.status.code(), Some(69), "{}", stdout(&asking));

    let served = folder.served();
    let job = format!("/api/v1/jobs/{job_id}");
    wait_until(|| served.get(&job)["stage"] == "completed");
    assert_eq!(served.get(&job)["attempt_number"], 2);
    let whole = answer(&folder.import().wait_with_output().unwrap());
    assert_eq!((&whole["logs"], &whole["on_record"]), (&json!(0), &json!(LOGS)));

    // Of another tenant's, on its way: it is the instance's to call off a rebuild, and an admin's an import.
    let asking = folder.import();
    let job_id = served_next(&served, &job_id);
    let (status, called_off) = served.ask(
        &format!("/api/v1/jobs/{job_id}/cancel"),
        &json!({ "reason": "wrong file" }),
    );
    assert_eq!(
        (status, &called_off["stage"]),
        (200, &json!("cancelled")),
        "{called_off}"
    );
    let asking = asking.wait_with_output().unwrap();
    assert_eq!(asking.status.code(), Some(2), "{}", stderr(&asking));
    drop(served);
    folder.assert_verified();
}

/// The import after that one.
fn served_next(served: &Served, before: &str) -> String {
    let mut next = String::new();
    wait_until(|| {
        let jobs = served.get("/api/v1/jobs?handler=deponent.provenance-import");
        let ids = jobs["items"].as_array().unwrap().iter();
        let mut running = ids.filter(|job| job["stage"] == "running" && job["job_id"] != before);
        let id = running.next().and_then(|job| job["job_id"].as_str());
        id.unwrap_or_default().clone_into(&mut next);
        !next.is_empty()
    });
    next
}

#[test]
fn a_rebuild_beside_a_server_is_a_job_of_the_instance() {
    let folder = Folder::new();
    let imported = folder.import().wait_with_output().unwrap();
    assert_eq!(imported.status.code(), Some(0), "{}", stderr(&imported));
    let served = folder.served();
    let rebuild = || {
        let rebuilt = deponent(&[
            "ledger",
            "rebuild",
            "--format",
            "json",
            "--data-dir",
            folder.data(),
        ]);
        assert_eq!(rebuilt.status.code(), Some(0), "{}", stderr(&rebuilt));
        answer(&rebuilt)
    };
    let rebuilt = rebuild();
    assert!(rebuilt["records"].as_u64().unwrap() > LOGS, "{rebuilt}");
    // It stands where the operator reads, not with the tenant.
    let jobs = served.get("/api/v1/jobs?handler=deponent.rebuild");
    assert_eq!(jobs["items"], json!([]));
    drop(served);
    assert_ne!(rebuild()["job_id"], rebuilt["job_id"]);
    folder.assert_verified();
}
