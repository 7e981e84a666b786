//! Replay over HTTP and around closures, its records, and the report over a run.

use evidence::canonical::Value as Canonical;
use evidence::record::ReplayBehavior;
use ledger::replay::{ReplayEnforcer, ReplayError, ReplayStep, StepError};
use serde_json::{Value, json};

use crate::erasure::{because, erase, record_id};
use crate::server::{Answer, TestServer, now, span};
use crate::support::{refused, running, sha256};

const STEPS: &str = "/api/v1/replay/steps";

impl TestServer {
    fn begin(&self, run_id: &str, index: u32, behavior: &str, more: &Value) -> Answer {
        let mut body = json!({ "run_id": run_id, "step_index": index, "replay_behavior": behavior });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.post(STEPS, &body)
    }

    fn bring(&self, begun: &Value, output: &Value) -> Answer {
        assert_eq!(begun["action"], "execute", "{begun}");
        let token = begun["token"].as_str().unwrap();
        self.post(&format!("{STEPS}/{token}/result"), &json!({ "output": output }))
    }

    fn give_up(&self, begun: &Value) -> Answer {
        let token = begun["token"].as_str().unwrap();
        self.post(&format!("{STEPS}/{token}/fail"), &json!({ "error": "no money" }))
    }

    /// Bodies of a run's enforcements, oldest first.
    fn enforced(&self, run_id: &str) -> Vec<Value> {
        let path = format!("/api/v1/records?run_id={run_id}&kind=replay.enforced");
        let found = self.get(&path).ok();
        let items = found["items"].as_array().unwrap();
        items.iter().map(|item| item["body"].clone()).collect()
    }
}

#[test]
fn a_step_that_could_not_be_put_on_record_is_not_begun() {
    let server = TestServer::new();
    server.run("r");
    let key = json!({ "idempotency_key": "pay" });
    let server = server.without_mark();
    for behavior in ["execute", "skip", "check"] {
        let keyed = server.begin("r", 0, behavior, &key);
        assert_eq!(keyed.problem(503), "ledger_refused");
        let free = server.begin("r", 0, behavior, &json!({}));
        assert_eq!(free.problem(503), "ledger_refused");
    }
}

#[test]
fn a_skipped_step_runs_once_and_its_output_stands_for_it() {
    let server = TestServer::new();
    server.run("r");
    let key = json!({ "idempotency_key": "pay", "input_hash": "in" });
    let begun = server.begin("r", 0, "skip", &key).ok();
    assert_eq!(begun["lease_secs"], 60);
    let free = server.begin("r", 9, "skip", &json!({})).ok();
    assert_eq!(free.get("lease_secs"), None, "without a key nothing is held");
    assert_eq!(
        server.begin("r", 0, "skip", &key).problem(409),
        "replay_in_progress"
    );
    let output = json!({ "charged": 1.0, "to": "ada@example.com" });
    let result = server.bring(&begun, &output);
    assert_eq!(result.status, 201, "{}", result.text());
    let result = result.json();
    let hash = sha256(r#"{"charged":1,"to":"ada@example.com"}"#);
    assert_eq!(result["output_hash"], hash);
    let flags = |result: &Value| {
        ["executed", "skipped", "checked", "from_cache"].map(|flag| result[flag].as_bool().unwrap())
    };
    assert_eq!(flags(&result), [true, false, false, false]);
    assert_eq!(server.bring(&begun, &output).status, 200, "an answer was lost");
    let size = server.tree_size();
    let stored = server.begin("r", 1, "skip", &key).ok();
    assert_eq!(stored["action"], "use_stored");
    assert_eq!(flags(&stored), [false, true, false, true]);
    assert_eq!(
        (&stored["output"]["to"], &stored["output_hash"]),
        (&json!("ada@example.com"), &json!(hash)),
        "exact"
    );
    assert_eq!(server.tree_size(), size + 1);
    let records = server.enforced("r");
    assert_eq!(records.len(), 2, "the result that was sent twice is one record");
    assert_eq!(
        (&records[0]["outcome"], &records[1]["outcome"]),
        (&json!("executed"), &json!("used_stored"))
    );
    assert_eq!(
        records[0]["output"]["to"], "<REDACTED_EMAIL>",
        "records are redacted"
    );
    assert_eq!(records[1]["output_hash"], hash);
    // At rest it is encrypted.
    let folder = &server.app.ledger.options().data_dir;
    for file in ["state.db", "state.db-wal"] {
        let bytes = std::fs::read(folder.join(file)).unwrap_or_default();
        assert!(
            !bytes.windows(15).any(|part| part == b"ada@example.com"),
            "{file}"
        );
    }
}

#[test]
fn an_executed_step_always_runs_and_both_outputs_are_on_record() {
    let server = TestServer::new();
    server.run("r");
    let key = json!({ "idempotency_key": "k" });
    for (index, output) in [(0, json!({ "v": 1 })), (1, json!({ "v": 2 }))] {
        let begun = server.begin("r", index, "execute", &key).ok();
        assert_eq!(server.bring(&begun, &output).status, 201);
    }
    let records = server.enforced("r");
    assert_eq!(
        (&records[0]["output"], &records[1]["output"]),
        (&json!({ "v": 1 }), &json!({ "v": 2 }))
    );
    assert_eq!(records[1]["stored_hash"], sha256(r#"{"v":1}"#));
    let stored = server.begin("r", 2, "skip", &key).ok();
    assert_eq!(stored["output"], json!({ "v": 1 }), "the first truth stays");
    let report = server.get("/api/v1/replay/runs/r").ok();
    let counts =
        ["total", "executed", "differed", "skipped", "mismatched"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(counts, [3, 2, 1, 1, 0]);
    let first = &report["first_divergence"];
    assert_eq!(
        (&first["step_index"], &first["outcome"]),
        (&json!(1), &json!("executed"))
    );
    assert_eq!(first["stored_hash"], sha256(r#"{"v":1}"#));
    assert_eq!(first["output_hash"], sha256(r#"{"v":2}"#));
}

#[test]
fn a_checked_step_is_compared_and_a_mismatch_is_never_stored() {
    let server = TestServer::new();
    server.run("r");
    let good = sha256(r#"{"v":1}"#);
    let key = json!({ "idempotency_key": "k", "output_hash": good });
    let begun = server.begin("r", 3, "check", &key).ok();
    let answer = server.bring(&begun, &json!({ "v": 2 }));
    assert_eq!(answer.problem(409), "replay_mismatch");
    let problem = answer.json();
    assert_eq!(
        (&problem["step_index"], &problem["expected_hash"]),
        (&json!(3), &json!(good))
    );
    assert_eq!(problem["actual_hash"], sha256(r#"{"v":2}"#));
    let begun = server.begin("r", 3, "check", &key).ok();
    assert_eq!(begun["action"], "execute", "nothing was stored");
    assert_eq!(server.bring(&begun, &json!({ "v": 1 })).json()["checked"], true);
    let stored = server.begin("r", 4, "check", &key).ok();
    assert_eq!(
        (&stored["action"], &stored["checked"], &stored["skipped"]),
        (&json!("use_stored"), &json!(true), &json!(false))
    );
    let other = json!({ "idempotency_key": "k", "output_hash": sha256("1") });
    assert_eq!(
        server.begin("r", 5, "check", &other).problem(409),
        "replay_mismatch",
        "the stored one is compared too"
    );
    let stored = server
        .begin("r", 6, "check", &json!({ "idempotency_key": "k" }))
        .ok();
    assert_eq!(
        (&stored["action"], &stored["checked"]),
        (&json!("use_stored"), &json!(false)),
        "nothing to compare with"
    );
    let report = server.get("/api/v1/replay/runs/r").ok();
    let counts = [
        "total",
        "matched",
        "skipped",
        "executed",
        "mismatched",
        "violated",
        "erased",
    ]
    .map(|name| report[name].as_u64().unwrap());
    assert_eq!(counts, [5, 2, 0, 1, 2, 0, 0]);
    assert_eq!(report["first_divergence"]["step_index"], 3);
    assert_eq!(report["first_divergence"]["outcome"], "mismatch");
    assert_eq!(report["steps"].as_array().unwrap().len(), 5);
}

#[test]
fn a_known_key_with_another_input_runs_nothing() {
    let server = TestServer::new();
    server.run("r");
    let first = json!({ "idempotency_key": "k", "input_hash": "one" });
    let begun = server.begin("r", 0, "execute", &first).ok();
    server.bring(&begun, &json!(null));
    for behavior in ["execute", "skip", "check"] {
        let other = json!({ "idempotency_key": "k", "input_hash": "two" });
        let answer = server.begin("r", 1, behavior, &other);
        assert_eq!(answer.problem(409), "idempotency_violation");
        let problem = answer.json();
        assert_eq!(
            (
                &problem["key"],
                &problem["expected_hash"],
                &problem["actual_hash"]
            ),
            (&json!("k"), &json!("one"), &json!("two"))
        );
    }
    let unsaid = server
        .begin("r", 2, "skip", &json!({ "idempotency_key": "k" }))
        .ok();
    assert_eq!(
        (&unsaid["action"], &unsaid["output"]),
        (&json!("use_stored"), &Value::Null)
    );
    let report = server.get("/api/v1/replay/runs/r").ok();
    assert_eq!(
        (&report["violated"], &report["first_divergence"]["outcome"]),
        (&json!(3), &json!("violation"))
    );
    let first = &report["first_divergence"];
    assert_eq!(
        (&first["input_hash"], &first["known_input_hash"]),
        (&json!("two"), &json!("one"))
    );
}

#[test]
fn without_a_key_a_step_runs_and_says_so() {
    let server = TestServer::new();
    server.run("r");
    for (behavior, more) in [
        ("skip", json!({})),
        ("skip", json!({ "idempotency_key": "" })),
        ("check", json!({})),
    ] {
        let begun = server.begin("r", 0, behavior, &more).ok();
        let result = server.bring(&begun, &json!([1])).json();
        assert_eq!(
            (&result["executed"], &result["skipped"], &result["checked"]),
            (&json!(true), &json!(false), &json!(false))
        );
    }
}

#[test]
fn a_failed_step_may_be_tried_again_and_a_long_one_renews() {
    let server = TestServer::new();
    server.run("r");
    let key = json!({ "idempotency_key": "k" });
    let begun = server.begin("r", 0, "skip", &key).ok();
    let token = begun["token"].as_str().unwrap();
    let renewed = server.request(
        axum::http::Method::POST,
        &format!("{STEPS}/{token}/renew"),
        &[],
        axum::body::Body::empty(),
    );
    assert_eq!(renewed.status, 204, "{}", renewed.text());
    let failed = server.post(&format!("{STEPS}/{token}/fail"), &json!({ "error": "no money" }));
    assert_eq!(failed.status, 204, "{}", failed.text());
    let again = server.begin("r", 0, "skip", &key).ok();
    assert_eq!(again["action"], "execute");
    assert_eq!(
        server.bring(&begun, &json!(1)).problem(409),
        "lease_lost",
        "the first one's time is over"
    );
    assert_eq!(server.bring(&again, &json!(1)).status, 201);
}

#[test]
fn another_result_under_the_same_token_is_a_conflict() {
    let server = TestServer::new();
    server.run("r");
    let (right, wrong) = (json!({ "ok": true }), json!({ "ok": false }));
    let begin = |key: &str| {
        let more = json!({ "idempotency_key": key, "output_hash": sha256(r#"{"ok":true}"#) });
        server.begin("r", 0, "check", &more).ok()
    };
    for key in ["", "a"] {
        let begun = begin(key);
        assert_eq!(server.bring(&begun, &wrong).problem(409), "replay_mismatch");
        let refused = server.bring(&begun, &right);
        assert_eq!(refused.problem(409), "conflict", "the record says something else");
        assert!(refused.json()["receipt"]["record_id"].is_string());
        assert_eq!(server.bring(&begun, &wrong).problem(409), "replay_mismatch");
        assert_eq!(server.give_up(&begun).problem(409), "conflict");
    }
    assert_eq!(begin("a")["action"], "execute", "nothing was stored");
    for key in ["", "b"] {
        let begun = begin(key);
        let first = server.bring(&begun, &right);
        assert_eq!(first.status, 201, "{}", first.text());
        assert_eq!(server.bring(&begun, &wrong).problem(409), "conflict");
        assert_eq!(server.give_up(&begun).problem(409), "conflict");
        let again = server.bring(&begun, &right);
        assert_eq!(again.status, 200, "{}", again.text());
        assert_eq!(record_id(&again.json()), record_id(&first.json()));
    }
    // Over a known key, without a lease.
    let begun = server
        .begin("r", 1, "execute", &json!({ "idempotency_key": "b" }))
        .ok();
    let first = server.bring(&begun, &json!(3));
    assert_eq!(first.status, 201, "{}", first.text());
    assert_eq!(server.bring(&begun, &json!(4)).problem(409), "conflict");
    let first = first.json();
    assert_eq!(server.enforced("r").len(), 5);
    // Of what is erased nobody can tell.
    assert_eq!(erase(&server, &record_id(&first), &because()).status, 200);
    let again = server.bring(&begun, &json!(4));
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(record_id(&again.json()), record_id(&first));
}

#[test]
fn a_result_whose_record_was_erased_is_the_first_again_and_its_output_is_not_kept_again() {
    let server = TestServer::new();
    server.run("r");
    let key = json!({ "idempotency_key": "k" });
    let begun = server.begin("r", 0, "skip", &key).ok();
    let output = json!({ "paid": true });
    let first = server.bring(&begun, &output);
    assert_eq!(first.status, 201, "{}", first.text());
    let first = first.json();
    assert_eq!(erase(&server, &record_id(&first), &because()).status, 200);
    for brought in [&output, &json!({ "paid": false })] {
        let again = server.bring(&begun, brought);
        assert_eq!(again.status, 200, "{}", again.text());
        assert_eq!(record_id(&again.json()), record_id(&first));
    }
    assert_eq!(server.enforced("r"), [Value::Null], "nothing is recorded again");
    // The step is not done a second time, and what came out of it is gone.
    assert_eq!(server.begin("r", 0, "skip", &key).problem(409), "output_not_kept");
    assert_eq!(server.give_up(&begun).problem(409), "conflict");
    // Whose lease another has is told so as ever.
    let other = json!({ "idempotency_key": "l" });
    let begun = server.begin("r", 1, "skip", &other).ok();
    assert_eq!(server.give_up(&begun).status, 204);
    server.begin("r", 1, "skip", &other).ok();
    assert_eq!(server.bring(&begun, &output).problem(409), "lease_lost");
}

#[test]
fn a_run_that_has_ended_begins_no_step() {
    let server = TestServer::new();
    server.run("r");
    let (early, late) = (
        json!({ "idempotency_key": "k" }),
        json!({ "idempotency_key": "l" }),
    );
    let begun = server.begin("r", 0, "skip", &early).ok();
    let other = server.begin("r", 1, "skip", &late).ok();
    let refuses = |code: &str| {
        let size = server.tree_size();
        for behavior in ["execute", "skip", "check"] {
            for key in [&early, &late, &json!({})] {
                assert_eq!(server.begin("r", 2, behavior, key).problem(409), code);
            }
        }
        assert_eq!(server.tree_size(), size);
    };
    server.complete("r");
    assert_eq!(
        server
            .post("/api/v1/runs/r/steps", &crate::support::step(2, "success"))
            .problem(409),
        "run_ended"
    );
    refuses("run_ended");
    assert_eq!(server.bring(&begun, &json!(1)).status, 201, "it was begun before");
    server.created("/api/v1/runs/r/seal", &json!({}));
    refuses("run_sealed");
    let counted = || server.get("/api/v1/replay/runs/r").ok()["late"].clone();
    assert_eq!(counted(), 0);
    assert_eq!(server.bring(&other, &json!(1)).status, 201, "it was begun before");
    assert_eq!(counted(), 1);
}

#[test]
fn a_run_of_spans_begins_steps_until_its_seal() {
    let server = TestServer::new();
    let mut root = span(1, 1);
    root["parentSpanId"] = json!("");
    server.spans(&[root]);
    let run = "01".repeat(16);
    let begun = server.begin(&run, 0, "skip", &json!({})).ok();
    assert_eq!(server.bring(&begun, &json!(1)).status, 201, "spans still come");
    server.created(&format!("/api/v1/runs/{run}/seal"), &json!({}));
    assert_eq!(
        server.begin(&run, 1, "skip", &json!({})).problem(409),
        "run_sealed"
    );
}

#[test]
fn tokens_are_of_their_tenant_and_end() {
    let keyed = crate::access::Keyed::new();
    let post = |who: &str, path: &str, body: &Value| keyed.as_(who, axum::http::Method::POST, path, body);
    for who in ["writer", "foreign"] {
        assert_eq!(post(who, "/api/v1/runs", &json!({ "run_id": "r" })).status, 201);
    }
    let begun = post("writer", STEPS, &json!({ "run_id": "r", "step_index": 0 })).ok();
    let path = format!("{STEPS}/{}/result", begun["token"].as_str().unwrap());
    assert_eq!(
        post("foreign", &path, &json!({ "output": 1 })).problem(404),
        "not_found"
    );
    assert_eq!(
        post("writer", &format!("{STEPS}/bm8/result"), &json!({ "output": 1 })).problem(404),
        "not_found"
    );
    assert_eq!(post("writer", &path, &json!({ "output": 1 })).status, 201);
}

#[test]
fn what_is_wrong_with_a_step_is_said() {
    let server = TestServer::new();
    assert_eq!(
        server.begin("nowhere", 0, "skip", &json!({})).problem(404),
        "not_found"
    );
    server.run("r");
    refused(&server.begin("r", 0, "maybe", &json!({})), "replay_behavior");
    refused(
        &server.begin("r", 0, "check", &json!({ "output_hash": "abc" })),
        "output_hash",
    );
    refused(
        &server.begin("r", 0, "skip", &json!({ "idempotency_key": "a\nb" })),
        "idempotency_key",
    );
    let begun = server
        .begin("r", 0, "skip", &json!({ "idempotency_key": "k" }))
        .ok();
    let large = json!("x".repeat(4 * 1024 * 1024));
    assert_eq!(server.bring(&begun, &large).problem(413), "output_too_large");
    assert_eq!(
        server.get("/api/v1/replay/runs/nowhere").problem(404),
        "not_found"
    );
}

#[test]
fn closures_are_called_when_they_must_run_and_a_trace_stops_where_it_diverges() {
    let server = TestServer::new();
    server.run("first");
    server.run("again");
    let app = &server.app;
    let tenant = app.ledger.tenant("default").unwrap();
    let enforcer = ReplayEnforcer::new(&app.ledger, &app.once, &tenant, now);
    let step = |run: &str, index: u32, behavior, expected: Option<i64>| ReplayStep {
        run_id: run.into(),
        step_index: index,
        behavior,
        idempotency_key: Some(format!("k-{index}")),
        input_hash: None,
        output_hash: expected.map(|output| sha256(&output.to_string())),
    };
    let calls = std::cell::RefCell::new(Vec::new());
    let run = |step: &ReplayStep| {
        calls.borrow_mut().push(step.step_index);
        let output = i64::from(step.step_index) * 10;
        async move { Ok::<_, String>(Canonical::Int(output)) }
    };
    let steps = (0..3)
        .map(|index| step("first", index, ReplayBehavior::Skip, None))
        .collect();
    let report = server.runtime.block_on(enforcer.enforce_trace(steps, run));
    assert_eq!((report.executed, report.skipped, report.results.len()), (3, 0, 3));
    assert!(report.diverged.is_none());
    let again = vec![
        step("again", 0, ReplayBehavior::Skip, None),
        step("again", 1, ReplayBehavior::Check, Some(10)),
        step("again", 2, ReplayBehavior::Check, Some(21)),
        step("again", 3, ReplayBehavior::Execute, None),
    ];
    let report = server.runtime.block_on(enforcer.enforce_trace(again, run));
    assert_eq!((report.executed, report.skipped, report.matched), (0, 1, 1));
    let (index, error) = report.diverged.unwrap();
    assert_eq!(index, 2);
    assert!(
        matches!(&error, StepError::Replay(ReplayError::ReplayMismatch { step_index: 2, actual_hash, .. }) if *actual_hash == sha256("20")),
        "{error}"
    );
    assert_eq!(*calls.borrow(), [0, 1, 2], "step 3 was not reached");
    let failed = server.runtime.block_on(
        enforcer.enforce_step(step("again", 9, ReplayBehavior::Skip, None), || async {
            Err::<Canonical, _>("boom")
        }),
    );
    assert!(matches!(failed, Err(StepError::Step("boom"))));
    let tried = server.runtime.block_on(
        enforcer.enforce_step(step("again", 9, ReplayBehavior::Skip, None), || async {
            Ok::<_, String>(Canonical::Null)
        }),
    );
    assert!(tried.unwrap().executed, "a failed step may be tried again");
}

#[test]
fn a_step_that_runs_longer_than_its_lease_stays_its_own() {
    let mut server = TestServer::new();
    server.run("r");
    let options = ledger::once::OnceOptions {
        lease_secs: 4,
        ..server.app.once.options().clone()
    };
    let state = server.app.ledger.options().data_dir.join("state.db");
    let backend = Box::new(store::sqlite::SqliteOnce::new(&state));
    server.app.once = ledger::once::Once::new(backend, options);
    let app = &server.app;
    let tenant = app.ledger.tenant("default").unwrap();
    let enforcer = ReplayEnforcer::new(&app.ledger, &app.once, &tenant, running);
    let step = |index| ReplayStep {
        run_id: "r".into(),
        step_index: index,
        behavior: ReplayBehavior::Skip,
        idempotency_key: Some("slow".into()),
        ..ReplayStep::default()
    };
    let result = server.runtime.block_on(enforcer.enforce_step(step(0), || async {
        // Longer than the lease, which is long enough to be renewed in time on a slow machine.
        for _ in 0..10 {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            let other = enforcer.enforce_step(step(1), || async { Ok::<_, String>(Canonical::Int(2)) });
            let refused = other.await.map(|result| result.executed);
            assert!(
                matches!(refused, Err(StepError::Replay(ReplayError::InProgress))),
                "{refused:?}"
            );
        }
        Ok::<_, String>(Canonical::Int(1))
    }));
    assert_eq!(result.unwrap().output, Canonical::Int(1));
    let stored = enforcer.enforce_step(step(2), || async { Err::<Canonical, _>("must not run") });
    assert!(server.runtime.block_on(stored).unwrap().from_cache);
}
