//! The gate, over a server of its own: the walk of the README, and the action's script.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::commands::{deponent, stderr, stdout};
use crate::served::Served;

impl Served {
    /// A started job under a contract over `search`.
    fn job(&self, job_id: &str) {
        self.post(
            "/api/v1/contracts",
            &format!(
                r#"{{"contract_id":"c-{job_id}","scope":["search"],"proposed_changes":{{"capability_name":"search"}},
                "activation_window_start":"2020-01-01T00:00:00Z","activation_window_end":"2100-01-01T00:00:00Z"}}"#
            ),
        );
        self.post(
            "/api/v1/jobs",
            &format!(r#"{{"job_id":"{job_id}","handler":"deploy","contract_id":"c-{job_id}"}}"#),
        );
        self.act(job_id, "start", "{}");
    }

    fn act(&self, job_id: &str, what: &str, body: &str) {
        self.post(&format!("/api/v1/jobs/{job_id}/{what}"), body);
    }

    fn step(&self, job_id: &str, target: &str) {
        let step = format!(
            r#"{{"step_index":0,"status":"COMPLETED","output":{{"target":"{target}","rollback_action":"restore"}}}}"#
        );
        self.act(job_id, "steps", &step);
    }

    fn healthy(&self, job_id: &str) {
        let health = r#"{"before":{"search":"HEALTHY"},"after":{"search":"HEALTHY"}}"#;
        self.act(job_id, "health", health);
    }

    fn gate(&self, job_id: &str, more: &[&str]) -> Output {
        let url = self.url();
        let mut args = vec!["gate", "--job", job_id, "--server", &url];
        args.extend(more);
        deponent(&args)
    }

    /// The action's script, as the runner starts it.
    fn action(&self, job_id: &str, fail: &str) -> (Option<i32>, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../action/gate.sh");
        let output = self.folder().join(format!("output-{job_id}-{fail}"));
        let ended = Command::new("bash")
            .arg(script)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GATE_BINARY", env!("CARGO_BIN_EXE_deponent"))
            .env("GATE_JOB", job_id)
            .env("GATE_WAIT", "0s")
            .env("GATE_FAIL", fail)
            .env("DEPONENT_URL", self.url())
            .env("DEPONENT_API_KEY", "")
            .env("GITHUB_OUTPUT", &output)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        (ended.code(), std::fs::read_to_string(output).unwrap())
    }
}

#[test]
fn the_gate_answers_with_its_exit_code() {
    let server = Served::new();
    server.job("good");
    let waits = server.gate("good", &[]);
    assert_eq!(waits.status.code(), Some(3), "{}", stderr(&waits));
    assert_eq!(stdout(&waits), "wait (PENDING): the job has no verdict yet\n");
    server.step("good", "search");
    server.healthy("good");
    server.act("good", "complete", "{}");
    let proceeds = server.gate("good", &["--format", "json"]);
    assert_eq!(proceeds.status.code(), Some(0), "{}", stderr(&proceeds));
    let answer: serde_json::Value = serde_json::from_slice(&proceeds.stdout).unwrap();
    assert_eq!(
        (&answer["verdict"], &answer["authorized"]),
        (&"PASS".into(), &true.into())
    );

    server.job("bad");
    server.step("bad", "billing");
    server.healthy("bad");
    server.act("bad", "complete", "{}");
    let rolls_back = server.gate("bad", &[]);
    assert_eq!(rolls_back.status.code(), Some(1));
    assert!(stdout(&rolls_back).starts_with("rollback (FAIL)"));

    server.job("open");
    server.step("open", "search");
    server.act("open", "complete", "{}");
    assert_eq!(server.gate("open", &[]).status.code(), Some(2));
    let resolution =
        r#"{"decision":"proceed","actor_id":"ada","reason":"looked\u001b[2K at it\nrollback (FAIL)"}"#;
    server.post("/api/v1/audits/open/resolve", resolution);
    let resolved = server.gate("open", &[]);
    assert_eq!(resolved.status.code(), Some(0));
    // One line, and nothing in it that a terminal obeys.
    assert_eq!(
        stdout(&resolved),
        "proceed (INCONCLUSIVE): resolved by ada: looked [2K at it rollback (FAIL)\n"
    );

    let unknown = server.gate("no/bo dy", &[]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stdout(&unknown).is_empty() && stderr(&unknown).contains("no job"));

    // The same from the folder, beside the server.
    let data = server.folder().join("data");
    for (job, code) in [("good", 0), ("bad", 1), ("open", 0), ("nobody", 2)] {
        let local = deponent(&["gate", "--job", job, "--data-dir", data.to_str().unwrap()]);
        assert_eq!(local.status.code(), Some(code), "{job}: {}", stderr(&local));
    }

    for (job, code, action) in [("good", 0, "proceed"), ("bad", 1, "rollback"), ("nobody", 2, "")] {
        let (ended, output) = server.action(job, "true");
        assert_eq!(ended, Some(code), "{job}: {output}");
        assert!(output.contains(&format!("exit-code={code}\n")), "{output}");
        assert!(output.contains(&format!("action={action}\n")), "{output}");
        assert_eq!(server.action(job, "false").0, Some(0));
    }
}

#[test]
fn the_gate_waits_for_the_verdict() {
    let server = Served::new();
    server.job("late");
    server.step("late", "search");
    server.healthy("late");
    let waits = server.gate("late", &["--wait", "600ms"]);
    assert_eq!(waits.status.code(), Some(3));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.gate("late", &["--wait", "60s"]));
        std::thread::sleep(std::time::Duration::from_millis(500));
        server.act("late", "complete", "{}");
        assert_eq!(waiting.join().unwrap().status.code(), Some(0));
    });
}

#[test]
fn what_is_read_without_locks_of_a_ledger_that_is_written_to_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Served::over(&data, folder.path());
    server.job("late");
    drop(server);
    // Carries the log over, and takes it away.
    let made = deponent(&["tenant", "create", "acme", "--data-dir", data.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(!data.join("deponent.db-wal").exists());
    // Permissions do not hold root back; a link to nowhere does, as SQLite follows none.
    std::os::unix::fs::symlink("nowhere", data.join("deponent.db-shm")).unwrap();
    let gate = ["gate", "--job", "late", "--data-dir", data.to_str().unwrap()];
    let waits = deponent(&gate);
    assert_eq!((waits.status.code(), stderr(&waits)), (Some(3), String::new()));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| deponent(&[&gate[..], &["--wait", "60s"]].concat()));
        std::thread::sleep(std::time::Duration::from_secs(2));
        std::fs::write(data.join("deponent.db-wal"), "of a server that was started").unwrap();
        let ended = waiting.join().unwrap();
        assert_eq!(ended.status.code(), Some(69), "{}", stdout(&ended));
        let said = "was written to while it was read";
        assert!(stderr(&ended).contains(said), "{}", stderr(&ended));
    });
}

#[test]
fn who_asks_a_ledger_that_is_not_in_order_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let local = |args: &[&str]| deponent(&[args, &["--data-dir", data.to_str().unwrap()]].concat());
    let server = Served::over(&data, folder.path());
    server.job("good");
    server.step("good", "search");
    server.healthy("good");
    server.act("good", "complete", "{}");
    for said in [server.gate("good", &[]), local(&["gate", "--job", "good"])] {
        assert_eq!((said.status.code(), stderr(&said)), (Some(0), String::new()));
    }
    drop(server);
    // Nobody knows any more what was signed.
    std::fs::remove_file(data.join("high-water.json")).unwrap();
    let server = Served::over(&data, folder.path());
    let url = server.url();
    for (said, code) in [
        (server.gate("good", &[]), 0),
        (server.gate("lost", &["--format", "json"]), 2),
        (local(&["gate", "--job", "good"]), 0),
        (deponent(&["replay", "diff", "a", "b", "--server", &url]), 2),
        (local(&["replay", "diff", "a", "b"]), 2),
    ] {
        assert_eq!(said.status.code(), Some(code), "{}", stderr(&said));
        assert_eq!(stderr(&said).matches("rollback").count(), 1, "{}", stderr(&said));
    }
}

#[test]
fn a_server_that_is_not_there_is_69_and_nonsense_is_64() {
    let gone = deponent(&["gate", "--job", "j", "--server", "http://127.0.0.1:9"]);
    assert_eq!(gone.status.code(), Some(69));
    for args in [
        &["gate"][..],
        &["gate", "--job", "j", "--wait", "soon"],
        &["gate", "--job", "j", "--wait", "25h"],
        &["gate", "--job", "j", "--server", "ftp://x"],
        &["gate", "--job", "j", "--tenant", "acme"],
        &["gate", "--job", "j", "--config", "deponent.toml"],
        &["gate", "--job", "j", "--key-file", "key", "--data-dir", "d"],
        &["replay", "diff", "a", "b", "--config", "deponent.toml"],
        &["replay", "diff", "a", "b", "--key-file", "key", "--data-dir", "d"],
        &[
            "gate",
            "--job",
            "j",
            "--server",
            "http://127.0.0.1:9",
            "--data-dir",
            "d",
        ],
        &[
            "replay",
            "diff",
            "a",
            "b",
            "--server",
            "http://127.0.0.1:9",
            "--data-dir",
            "d",
        ],
    ] {
        assert_eq!(deponent(args).status.code(), Some(64), "{args:?}");
    }
}
