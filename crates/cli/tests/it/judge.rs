//! The offline engines: one JSON object in, one out, and an exit code.

use serde_json::Value;

use crate::commands::{deponent, run, stderr, stdout};

const JOB: &str = r#"{"job_id":"j","contract_id":"c","job_status":"COMPLETED","contract_scope":["search"],
  "proposed_changes":{"capability_name":"search"},"activation_window_start":"2026-03-01T11:00:00Z",
  "activation_window_end":"2026-03-01T13:00:00Z","signals":[],"#;
const STEPS: &str = r#"[{"status":"COMPLETED","output":{"target":"search","rollback_action":"restore"}}]"#;

fn flat(changes: &str) -> String {
    format!(
        r#"{JOB}"step_results":{STEPS},"health_before":{{}},"health_after":{{}},
        "job_started_at":"2026-03-01T12:00:00Z","job_completed_at":"2026-03-01T12:05:00Z",
        "execution_duration_seconds":300{changes}}}"#
    )
}

fn answer(command: &str, input: &str) -> (Option<i32>, Value) {
    let output = run(&[command, "-"], input.as_bytes());
    let text = stdout(&output);
    let value = serde_json::from_str(&text).unwrap_or(Value::Null);
    (output.status.code(), value)
}

#[test]
fn audit_exits_by_its_verdict_and_both_forms_have_one_hash() {
    let (code, passed) = answer("audit", &flat(""));
    assert_eq!(code, Some(0), "{passed}");
    assert_eq!(passed["verdict"], "PASS");
    assert_eq!(passed["rollout"]["action"], "proceed");
    assert_eq!(passed["checks"].as_array().unwrap().len(), 7);

    let execution = format!(
        r#"{JOB}"execution_result":{{"step_results":{STEPS},"health_observations":{{"before":{{}},"after":{{}}}},
        "timing":{{"started_at":"2026-03-01T13:00:00+01:00","completed_at":"2026-03-01T12:05:00Z","duration_seconds":300}}}}}}"#
    );
    let (code, same) = answer("audit", &execution);
    assert_eq!(
        (code, &same["evidence_hash"]),
        (Some(0), &passed["evidence_hash"])
    );
    assert_ne!(same["audit_id"], passed["audit_id"]);

    let outside = flat("").replace("\"target\":\"search\"", "\"target\":\"billing\"");
    let (code, failed) = answer("audit", &outside);
    assert_eq!(
        (code, &failed["rollout"]["action"]),
        (Some(1), &Value::from("rollback"))
    );
    let open = flat("").replace("\"health_after\":{}", "\"health_after\":null");
    let (code, open) = answer("audit", &open);
    assert_eq!((code, &open["verdict"]), (Some(2), &Value::from("INCONCLUSIVE")));
}

#[test]
fn what_cannot_be_judged_is_2_with_one_line_and_no_answer() {
    let naive = flat("").replace("12:05:00Z", "12:05:00");
    let no_steps = format!("{JOB}\"job_started_at\":\"2026-03-01T12:00:00Z\"}}");
    for (command, input) in [
        ("audit", naive.as_str()),
        ("audit", no_steps.as_str()),
        ("audit", "{"),
        ("audit", r#"{"a":1,"a":2}"#),
        ("integrity", r#"{"present":["mystery"]}"#),
        ("panel", r#"{"slots":[],"rules":[{"id":"x","condition":"1 +"}]}"#),
        ("retry-plan", r#"{"attempts":[0]}"#),
        ("retry-plan", r#"{"attempts":[1],"strategy":"random"}"#),
    ] {
        let output = run(&[command, "-"], input.as_bytes());
        assert_eq!(output.status.code(), Some(2), "{command} {input}");
        assert_eq!(
            (stdout(&output).as_str(), stderr(&output).lines().count()),
            ("", 1)
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input.json");
    std::fs::write(&file, "{\"a\": \"ä\",\n  \"b\": }").unwrap();
    for command in ["audit", "integrity", "panel", "retry-plan", "hash"] {
        let said = stderr(&deponent(&[command, file.to_str().unwrap()]));
        let place = format!("deponent: {}: line 2, column 8: ", file.display());
        assert!(said.starts_with(&place) && said.ends_with(" in /b\n"), "{said}");
    }
    let piped = stderr(&run(&["hash"], b"{"));
    assert!(
        piped.starts_with("deponent: stdin: line 1, column 2: "),
        "{piped}"
    );
    assert_eq!(deponent(&["audit", "/nowhere/at/all"]).status.code(), Some(69));
    assert_eq!(deponent(&["audit"]).status.code(), Some(64));
}

#[test]
fn execution_evidence_without_steps_or_with_another_name_is_not_judged() {
    let times =
        r#""started_at":"2026-03-01T12:00:00Z","completed_at":"2026-03-01T12:05:00Z","duration_seconds":300"#;
    let health = r#""before":{},"after":{}"#;
    let execution =
        |steps: &str, health: &str, times: &str| {
            format!(
            r#"{JOB}"execution_result":{{{steps}"health_observations":{{{health}}},"timing":{{{times}}}}}}}"#
        )
        .replace(r#""proposed_changes":{"capability_name":"search"}"#, r#""proposed_changes":{}"#)
        };
    let none = r#""step_results":[],"#;
    assert_eq!(answer("audit", &execution(none, health, times)).0, Some(0));
    let signal = r#"{"signal_type":"t","scope":"x","decision":"allow","at":"2026-03-01T12:01:00Z","step":1}"#;
    for (input, said) in [
        (execution("", health, times), "step_results"),
        (
            execution(r#""step_results":null,"#, health, times),
            "step_results",
        ),
        (
            execution(r#""step_result":[],"#, health, times),
            "\"step_result\"",
        ),
        (
            execution(&format!(r#"{none}"outcome":1,"#), health, times),
            "\"outcome\"",
        ),
        (execution(none, r#""befor":{}"#, times), "\"befor\""),
        (
            execution(none, health, &format!(r#"{times},"zone":"UTC""#)),
            "\"zone\"",
        ),
        (
            flat("").replace(r#""signals":[]"#, &format!(r#""signals":[{signal}]"#)),
            "\"step\"",
        ),
    ] {
        let output = run(&["audit", "-"], input.as_bytes());
        assert_eq!(output.status.code(), Some(2), "{input}");
        assert_eq!(stdout(&output), "");
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
}

#[test]
fn a_step_whose_status_is_none_is_not_judged() {
    let with = |status: &str| flat("").replace("\"status\":\"COMPLETED\",", status);
    for status in [
        r#""status":"DONE","#,
        r#""status":"COMPLETED ","#,
        r#""status":"Completed","#,
        r#""status":"","#,
        r#""status":null,"#,
        "",
    ] {
        let output = run(&["audit", "-"], with(status).as_bytes());
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (Some(2), String::new()),
            "{status}"
        );
        assert!(
            stderr(&output).contains("step 0 of step_results"),
            "{}",
            stderr(&output)
        );
    }
    // The older implementation's inputs have the first.
    for status in ["completed", "FAILED", "SKIPPED"] {
        let (_, judged) = answer("audit", &with(&format!("\"status\":{status:?},")));
        assert_eq!(
            judged["checks"][4]["evidence"]["total_completed"], 0,
            "{status}: {judged}"
        );
    }
}

#[test]
fn a_proposed_target_that_is_no_text_is_no_pass() {
    let proposed = flat("").replace(r#"{"capability_name":"search"}"#, r#"{"scope":7}"#);
    let (code, open) = answer("audit", &proposed);
    assert_eq!((code, &open["verdict"]), (Some(2), &Value::from("INCONCLUSIVE")));
    assert_eq!(
        open["checks"][2]["evidence"]["without_text"],
        serde_json::json!([0])
    );
}

#[test]
fn integrity_answers_the_grade_and_fails_without_what_is_required() {
    let all = r#"["environment_evidence","activity_evidence","provider_evidence","policy_decisions","traces","trace_steps"]"#;
    let (code, answer_all) = answer("integrity", &format!(r#"{{"present":{all},"terminal":false}}"#));
    assert_eq!(code, Some(0));
    assert_eq!(
        (&answer_all["state"], &answer_all["score"]),
        (&"PENDING".into(), &1.into())
    );
    let (code, missing) = answer("integrity", r#"{"present":["traces"]}"#);
    assert_eq!((code, &missing["status"]), (Some(1), &"FAILED".into()));
    assert_eq!(missing["missing_reasons"]["trace_steps"], "no_records_found");
}

#[test]
fn panel_exits_0_1_or_2() {
    let panel = |required: &str| {
        format!(
            r#"{{"panel_id":"p","slots":[{{"slot_id":"s","signals":{{"active_incidents":1,"attention_required":{required}}}}}]}}"#
        )
    };
    assert_eq!(answer("panel", &panel("true")).0, Some(0));
    let (code, found) = answer("panel", &panel("false"));
    assert_eq!(
        (code, &found["violations"][0]["rule_id"]),
        (Some(1), &"CONS-001".into())
    );
    let text = panel("true").replace(":1,", ":\"1\",");
    assert_eq!(run(&["panel", "-"], text.as_bytes()).status.code(), Some(2));
    let hidden = r#"{"slots":[{"slot_id":"s","signals":{"a":"0"}}],
        "rules":[{"id":"R","signal_a":"a","condition":"(signal_a > 0 || true) == true"}]}"#;
    assert_eq!(run(&["panel", "-"], hidden.as_bytes()).status.code(), Some(2));
}

#[test]
fn retry_plan_gives_the_bounds_of_each_wait() {
    let (code, plan) = answer("retry-plan", r#"{"base_delay_seconds":60,"attempts":[1,2,3]}"#);
    assert_eq!(code, Some(0));
    assert_eq!(
        plan["plan"][1],
        serde_json::json!({"attempt": 2, "min_delay_seconds": 120, "max_delay_seconds": 144, "will_retry": true})
    );
    assert_eq!(plan["plan"][2]["will_retry"], false);
    let text = run(&["retry-plan", "--format", "text", "-"], br#"{"attempts":[1,3]}"#);
    insta::assert_snapshot!(stdout(&text), @r"
    attempt 1: again after 60 to 72 s
    attempt 3: not again
    ");
}

#[test]
fn help_ends_with_the_exit_codes() {
    for command in [
        "serve",
        "verify",
        "ledger head",
        "ledger proof",
        "ledger rebuild",
        "ledger recover",
        "tenant create",
        "tenant list",
        "key create",
        "key list",
        "key rotate",
        "key revoke",
        "provenance export",
        "provenance import",
        "lineage verify",
        "lineage drill",
        "lineage list-ai",
        "lineage import",
        "lineage export",
        "lineage run",
        "idempotency reset",
        "replay diff",
        "audit",
        "gate",
        "integrity",
        "panel",
        "retry-plan",
        "hash",
    ] {
        for flag in ["-h", "--help"] {
            let asked: Vec<&str> = command.split(' ').chain([flag]).collect();
            let help = stdout(&deponent(&asked));
            let end = help.trim_end().rsplit("\n\n").next().unwrap();
            let end = end.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                end.starts_with("Exit codes: 0 ") && end.contains(" 64 "),
                "{help}"
            );
            assert_eq!(help.matches("Exit codes").count(), 1, "{help}");
        }
    }
}
