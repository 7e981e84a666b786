//! `deponent replay diff`, over a server and over its folder.

use std::process::Output;

use crate::commands::{deponent, stderr, stdout};
use crate::served::Served;

/// A run of three steps; the second says what its tool said.
fn run(served: &Served, run_id: &str, price: u32) {
    begin(served, run_id, price);
    served.post(
        &format!("/api/v1/runs/{run_id}/complete"),
        r#"{"status":"completed"}"#,
    );
}

/// The same before its end.
fn begin(served: &Served, run_id: &str, price: u32) {
    served.post("/api/v1/runs", &format!(r#"{{"run_id":"{run_id}"}}"#));
    for (index, said) in [(0, 1), (1, price), (2, 3)] {
        served.post(
            &format!("/api/v1/runs/{run_id}/steps"),
            &format!(
                r#"{{"step_index":{index},"skill_name":"tool","status":"success","outcome_data":{{"said":{said}}}}}"#
            ),
        );
    }
}

#[test]
fn a_run_that_has_not_ended_leaves_open_whether_it_did_the_same() {
    let served = Served::new();
    run(&served, "first", 10);
    begin(&served, "going", 10);
    begin(&served, "parted", 11);
    served.post("/api/v1/runs", r#"{"run_id":"behind"}"#);
    let step = r#"{"step_index":0,"skill_name":"tool","status":"success","outcome_data":{"said":1}}"#;
    served.post("/api/v1/runs/behind/steps", step);
    let url = served.url();
    let folder = served.folder().join("data");
    let folder = folder.to_str().unwrap();
    for place in [["--server", &url], ["--data-dir", folder]] {
        let diff = |right: &str, format: &str| {
            let args = ["replay", "diff", "first", right, "--format", format];
            deponent(&[&args[..], &place].concat())
        };
        let going = diff("going", "text");
        assert_eq!(going.status.code(), Some(2), "{}", stdout(&going));
        let said = stdout(&going);
        assert!(said.contains("cannot be told: going has not ended"), "{said}");
        assert!(said.contains("they did the same so far: 3 steps"), "{said}");
        let said: serde_json::Value = serde_json::from_str(&stdout(&diff("going", "json"))).unwrap();
        assert_eq!(
            (&said["equal"], &said["without_root_hash"]),
            (&serde_json::Value::Null, &serde_json::json!(["going"]))
        );
        assert_eq!(said["diff"]["equal"], serde_json::Value::Null);
        // It may do the steps that it has not.
        let behind = diff("behind", "text");
        assert_eq!(behind.status.code(), Some(2), "{}", stdout(&behind));
        let said = stdout(&behind);
        assert!(said.contains("they did the same so far: 1 step\n"), "{said}");
        assert!(!said.contains("part"), "{said}");
        // What has parted stays so.
        assert_eq!(diff("parted", "text").status.code(), Some(1));
    }
}

#[test]
fn two_runs_part_at_the_same_step_by_the_server_and_by_its_folder() {
    let served = Served::new();
    run(&served, "first", 10);
    run(&served, "same", 10);
    run(&served, "other", 11);
    let url = served.url();
    let folder = served.folder().join("data");
    let folder = folder.to_str().unwrap();
    let diff = |left: &str, right: &str, more: &[&str]| -> Output {
        let mut args = vec!["replay", "diff", left, right];
        args.extend(more);
        deponent(&args)
    };
    for format in ["text", "json"] {
        for (right, code) in [("same", 0), ("other", 1), ("nowhere", 2)] {
            let by_server = diff("first", right, &["--server", &url, "--format", format]);
            let by_folder = diff("first", right, &["--data-dir", folder, "--format", format]);
            assert_eq!(by_server.status.code(), Some(code), "{}", stderr(&by_server));
            assert_eq!(by_folder.status.code(), Some(code), "{}", stderr(&by_folder));
            assert_eq!(stdout(&by_server), stdout(&by_folder));
        }
    }
    let said = stdout(&diff("first", "other", &["--data-dir", folder]));
    assert!(
        said.contains("at step 1 (1 step before it is the same)"),
        "{said}"
    );
    assert!(said.contains("outcome_data"), "{said}");
}

#[test]
fn two_names_of_one_run_are_a_usage_error_by_the_server_and_by_its_folder() {
    let served = Served::new();
    run(&served, "first", 10);
    let url = served.url();
    let folder = served.folder().join("data");
    let folder = folder.to_str().unwrap();
    for place in [["--server", &url], ["--data-dir", folder]] {
        let args = ["replay", "diff", "first", "trace_first"];
        let output = deponent(&[&args[..], &place].concat());
        assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
        assert!(stdout(&output).is_empty() && stderr(&output).contains("first"));
    }
}

#[test]
fn a_tenant_that_is_not_there_and_a_tenant_without_a_folder_are_usage_errors() {
    let served = Served::new();
    let folder = served.folder().join("data");
    let folder = folder.to_str().unwrap();
    for args in [
        &[
            "replay",
            "diff",
            "a",
            "b",
            "--data-dir",
            folder,
            "--tenant",
            "nobody",
        ][..],
        &["replay", "diff", "a", "b", "--tenant", "default"],
    ] {
        let output = deponent(args);
        assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    }
}

#[test]
fn what_a_run_began_with_is_said_to_be_erased_by_the_server_and_by_its_folder() {
    let served = Served::new();
    run(&served, "first", 10);
    let begun = served.post("/api/v1/runs", r#"{"run_id":"bare"}"#);
    served.post("/api/v1/runs/bare/complete", r#"{"status":"completed"}"#);
    let path = format!("/api/v1/records/{}/body", member(&begun, "record_id"));
    served.send("DELETE", &path, r#"{"reason":"asked for","only":true}"#);
    let url = served.url();
    let folder = served.folder().join("data");
    let folder = folder.to_str().unwrap();
    for format in ["text", "json"] {
        let diff = |more: [&str; 2]| {
            let args = ["replay", "diff", "first", "bare", "--format", format];
            deponent(&[&args[..], &more[..]].concat())
        };
        let by_server = diff(["--server", &url]);
        let by_folder = diff(["--data-dir", folder]);
        assert_eq!(by_server.status.code(), Some(1), "{}", stderr(&by_server));
        assert_eq!(by_folder.status.code(), Some(1), "{}", stderr(&by_folder));
        let said = stdout(&by_server);
        assert_eq!(said, stdout(&by_folder));
        let erased = if format == "text" {
            "what a run began with is erased"
        } else {
            r#""seed": null"#
        };
        assert!(said.contains(erased), "{said}");
    }
}

/// The member of that name, which is a text, in the last line of an answer.
fn member(answer: &str, name: &str) -> String {
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    let found = value.get(name).or_else(|| value["receipt"].get(name));
    found.and_then(|found| found.as_str()).unwrap().to_owned()
}

#[test]
fn runs_of_which_an_enforcement_is_erased_are_not_said_to_have_done_the_same() {
    let served = Served::new();
    run(&served, "first", 10);
    served.post("/api/v1/runs", r#"{"run_id":"again"}"#);
    let mut records = Vec::new();
    for output in ["1", "2"] {
        let begun = served.send(
            "POST",
            "/api/v1/replay/steps",
            r#"{"run_id":"again","step_index":0,"idempotency_key":"k"}"#,
        );
        let token = member(&begun, "token");
        let done = served.post(
            &format!("/api/v1/replay/steps/{token}/result"),
            &format!(r#"{{"output":{output}}}"#),
        );
        records.push(member(&done, "record_id"));
    }
    for (index, said) in [(0, 1), (1, 10), (2, 3)] {
        served.post(
            "/api/v1/runs/again/steps",
            &format!(
                r#"{{"step_index":{index},"skill_name":"tool","status":"success","outcome_data":{{"said":{said}}}}}"#
            ),
        );
    }
    served.post("/api/v1/runs/again/complete", r#"{"status":"completed"}"#);
    let url = served.url();
    let folder = served.folder().join("data");
    let folder = folder.to_str().unwrap();
    let diff = |code: i32| {
        let by_server = deponent(&["replay", "diff", "first", "again", "--server", &url]);
        let by_folder = deponent(&["replay", "diff", "first", "again", "--data-dir", folder]);
        assert_eq!(by_server.status.code(), Some(code), "{}", stderr(&by_server));
        assert_eq!(by_folder.status.code(), Some(code), "{}", stderr(&by_folder));
        assert_eq!(stdout(&by_server), stdout(&by_folder));
        stdout(&by_server)
    };
    let said = diff(1);
    assert!(said.contains("the runs did the same: 3 steps"), "{said}");
    assert!(said.contains("0 skipped, 2 executed, 1 differed"), "{said}");
    assert!(
        said.contains("first divergence at step 0: its output differs from the stored one"),
        "{said}"
    );
    // Nobody can tell any more.
    for record in records {
        let path = format!("/api/v1/records/{record}/body");
        served.send("DELETE", &path, r#"{"reason":"asked for","only":true}"#);
    }
    let said = diff(2);
    assert!(
        said.contains("2 of 2 enforcements cannot be read (0 archived, 2 erased, 0 missing)"),
        "{said}"
    );
}
