//! What reads of a run say after retention took its bodies into an archive: never that they were erased, and never
//! that there were none.

use evidence::Timestamp;
use serde_json::{Value, json};

use crate::erasure::{self, because, record_id};
use crate::schema::Schema;
use crate::server::{TestServer, export, now, span};

const DAY: i64 = 24 * 3_600 * 1_000_000;

/// A run with two steps, the second of them erased if so asked, that has ended.
fn run(server: &TestServer, run_id: &str, with_erased: bool) {
    server.created(
        "/api/v1/runs",
        &json!({ "run_id": run_id, "goal": "g", "plan": [{ "do": "it" }] }),
    );
    server.created(
        &format!("/api/v1/runs/{run_id}/evidence/environment"),
        &json!({ "sdk_mode": "inline", "telemetry_enabled": true, "debug_mode": false, "dry_run": false }),
    );
    let step = |index: u32| {
        server.created(
            &format!("/api/v1/runs/{run_id}/steps"),
            &json!({ "step_index": index, "skill_name": "pay", "status": "success", "idempotency_key": format!("{run_id}-{index}"),
                "params": { "of": run_id }, "timestamp": now().to_string() }),
        )
    };
    step(0);
    let second = step(1);
    server.created(
        &format!("/api/v1/runs/{run_id}/evidence/policy-decision"),
        &json!({ "policy_type": "budget", "decision": "GRANTED", "policies_evaluated": [] }),
    );
    if with_erased {
        erase(server, &second);
    }
    server.complete(run_id);
}

fn erase(server: &TestServer, created: &Value) {
    let erased = erasure::erase(server, &record_id(created), &because());
    assert_eq!(erased.status, 200, "{}", erased.text());
}

fn archive(server: &TestServer) {
    let later = now().checked_add_micros(200 * DAY).unwrap();
    assert!(server.app.ledger.retain(later).unwrap() > 0);
}

fn seal(server: &TestServer, run_id: &str) {
    server.created(&format!("/api/v1/runs/{run_id}/seal"), &json!({}));
}

#[test]
fn a_trace_tells_an_archived_step_from_an_erased_one() {
    let server = TestServer::new();
    run(&server, "r", true);
    let before = server.get("/api/v1/traces/r").ok();
    assert_eq!(
        (&before["archived"], &before["erased"]),
        (&json!(false), &json!(false))
    );
    seal(&server, "r");
    archive(&server);
    let trace = server.get("/api/v1/traces/r").ok();
    let said =
        |step: &Value| ["archived", "erased", "status", "skill_name", "level"].map(|name| step[name].clone());
    assert_eq!(
        said(&trace["steps"][0]),
        [
            json!(true),
            json!(false),
            json!("archived"),
            json!("archived"),
            json!("archived")
        ]
    );
    assert_eq!(
        said(&trace["steps"][1]),
        [
            json!(false),
            json!(true),
            json!("erased"),
            json!("erased"),
            json!("erased")
        ]
    );
    assert_eq!(
        [&trace["archived"], &trace["erased"], &trace["plan"]],
        [&json!(true), &json!(false), &Value::Null]
    );
    assert_eq!(trace["total_steps"], 2, "what is projected stays");
}

#[test]
fn the_logs_of_an_archived_run_say_that_it_is_archived() {
    let server = TestServer::new();
    run(&server, "r", true);
    let metrics = json!({ "resourceMetrics": [{
        "resource": { "attributes": [{ "key": "deponent.run.id", "value": { "stringValue": "r" } }] },
        "scopeMetrics": [{ "scope": { "name": "meter" }, "metrics": [{ "name": "m", "unit": "s", "gauge": {
            "dataPoints": [{ "timeUnixNano": "1767323045000000000", "asDouble": 1.5 }] } }] }],
    }] });
    assert_eq!(server.post("/v1/metrics", &metrics).ok(), json!({}));
    server.created(
        "/api/v1/system-records",
        &json!({ "component": "db", "event_type": "SLOW", "severity": "WARN", "summary": "s", "correlation_id": "r" }),
    );
    seal(&server, "r");
    let read = |path: &str| server.get(&format!("/api/v1/logs/{path}")).ok();
    let none = json!({ "archived": 0, "erased": 1, "missing": 0 });
    assert_eq!(read("llm-runs/r/governance")["gone"], none);
    archive(&server);
    let steps = read("llm-runs/r/trace")["steps"].clone();
    for name in ["status", "level"] {
        assert_eq!([&steps[0][name], &steps[1][name]], ["archived", "erased"]);
    }
    let replay = read("llm-runs/r/replay");
    let shown: Vec<[&str; 3]> = replay["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| ["source", "action", "outcome"].map(|name| event[name].as_str().unwrap()))
        .collect();
    for event in [["llm", "archived", "archived"], ["llm", "erased", "erased"]] {
        assert!(shown.contains(&event), "{shown:?}");
    }
    // A decision that cannot be read is not "no decision".
    let gone = json!({ "archived": 2, "erased": 1, "missing": 0 });
    assert_eq!(replay["gone"], gone);
    let governance = read("llm-runs/r/governance");
    assert_eq!((&governance["events"], &governance["gone"]), (&json!([]), &gone));
    let telemetry = read("system/r/telemetry");
    assert_eq!(
        (&telemetry["total"], &telemetry["gone"]["archived"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(
        read("system/r/snapshot")["details"]["note"],
        "the environment evidence is archived"
    );
    let record = &read("system?component=db")["items"][0];
    assert_eq!(
        (&record["component"], &record["severity"]),
        (&json!("archived"), &json!("archived"))
    );
}

#[test]
fn a_replay_says_that_the_first_failure_may_have_been_a_step_that_is_gone() {
    let server = TestServer::new();
    let failed = |run_id: &str, index: u32, at: &str| {
        server.created(
            &format!("/api/v1/runs/{run_id}/steps"),
            &json!({ "step_index": index, "skill_name": "pay", "status": "failure", "timestamp": at }),
        )
    };
    let replay = |run_id: &str, query: &str| {
        let answer = server
            .get(&format!("/api/v1/logs/llm-runs/{run_id}/replay{query}"))
            .ok();
        Schema::committed().assert("LLMRunReplayResult", &answer);
        answer
    };
    let known = |run_id: &str| {
        let replay = replay(run_id, "?around=failure");
        let gone = ["archived", "erased"].map(|name| replay["gone"][name].as_u64().unwrap());
        (
            replay["inflection_timestamp"].clone(),
            replay["failure_known"].clone(),
            gone,
        )
    };
    let (first_at, second_at) = ("2025-12-01T00:00:00.000000Z", "2025-12-01T00:10:00.000000Z");
    let started_at = "2025-12-01T00:20:00.000000Z";
    server.created(
        "/api/v1/runs",
        &json!({ "run_id": "r", "started_at": started_at }),
    );
    let first = failed("r", 0, first_at);
    let second = failed("r", 1, second_at);
    assert_eq!(known("r"), (json!(first_at), json!(true), [0, 0]));
    assert_eq!(replay("r", "")["failure_known"], Value::Null, "not asked for");
    erase(&server, &first);
    assert_eq!(known("r"), (json!(second_at), json!(false), [0, 1]));
    // No failure is counted any more.
    erase(&server, &second);
    assert_eq!(known("r"), (json!(started_at), json!(false), [0, 2]));
    server.created("/api/v1/runs", &json!({ "run_id": "s" }));
    failed("s", 0, first_at);
    server.complete("s");
    seal(&server, "s");
    archive(&server);
    let (_, is_known, gone) = known("s");
    assert_eq!((is_known, gone), (json!(false), [1, 0]));
}

#[test]
fn measurements_of_its_instance_that_are_gone_are_a_runs_when_they_were_taken_while_it_lasted() {
    let server = TestServer::new();
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let resource = json!({ "attributes": [attribute("service.instance.id", "agent-1")] });
    let mut spans = export(&[span(3, 1)]);
    spans["resourceSpans"][0]["resource"] = resource.clone();
    assert_eq!(server.post("/v1/traces", &spans).ok(), json!({}));
    // While it ran, long after, and long after but by its name.
    let run = "03".repeat(16);
    for (second, name) in [(2, None), (3_600, None), (3_600, Some(&run))] {
        let mut resource = resource.clone();
        let attributes = resource["attributes"].as_array_mut().unwrap();
        attributes.extend(name.map(|name| attribute("deponent.run.id", name)));
        let at = 1_767_323_000_u64 + second;
        let points = json!([{ "timeUnixNano": format!("{at}000000000"), "asInt": "1" }]);
        let metric = json!({ "name": "m", "gauge": { "dataPoints": points } });
        let sent = json!({ "resourceMetrics": [{ "resource": resource, "scopeMetrics": [{ "metrics": [metric] }] }] });
        assert_eq!(server.post("/v1/metrics", &sent).ok(), json!({}));
    }
    let read = || server.get(&format!("/api/v1/logs/system/{run}/telemetry")).ok();
    let gone = |archived: u32| json!({ "archived": archived, "erased": 0, "missing": 0 });
    assert_eq!((&read()["total"], &read()["gone"]), (&json!(2), &gone(0)));
    archive(&server);
    assert_eq!((&read()["total"], &read()["gone"]), (&json!(0), &gone(2)));
}

/// A run 03… of the host h1 and the instance agent-1, and what happened there meanwhile; gives its resource.
fn on_a_host(server: &TestServer) -> Value {
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let resource =
        json!({ "attributes": [attribute("service.instance.id", "agent-1"), attribute("host.name", "h1")] });
    let mut spans = export(&[span(3, 1)]);
    spans["resourceSpans"][0]["resource"] = resource.clone();
    assert_eq!(server.post("/v1/traces", &spans).ok(), json!({}));
    let at = Timestamp::from_micros(1_767_323_000_500_000).unwrap();
    let record = json!({ "component": "c", "event_type": "E", "severity": "INFO", "summary": "s", "host": "h1",
        "occurred_at": at.to_string() });
    server.created("/api/v1/system-records", &record);
    resource
}

#[test]
fn what_happened_on_a_runs_host_is_among_its_events_also_when_it_is_archived() {
    let server = TestServer::new();
    on_a_host(&server);
    let path = format!("/api/v1/logs/system/{}/events", "03".repeat(16));
    let shown = || {
        let events = server.get(&path).ok();
        assert_eq!(
            (&events["total_events"], &events["complete"]),
            (&json!(1), &json!(true))
        );
        ["event_type", "host"].map(|name| events["events"][0][name].clone())
    };
    assert_eq!(shown(), [json!("E"), json!("h1")]);
    archive(&server);
    assert_eq!(shown(), [json!("archived"), Value::Null]);
}

#[test]
fn where_a_run_ran_that_is_gone_leaves_open_what_was_measured_and_happened_there() {
    let server = TestServer::new();
    let resource = on_a_host(&server);
    let points = json!([{ "timeUnixNano": "1767323000500000000", "asInt": "1" }]);
    let metric = json!({ "name": "m", "gauge": { "dataPoints": points } });
    let sent =
        json!({ "resourceMetrics": [{ "resource": resource, "scopeMetrics": [{ "metrics": [metric] }] }] });
    assert_eq!(server.post("/v1/metrics", &sent).ok(), json!({}));
    let read = |run: &str, of: &str| server.get(&format!("/api/v1/logs/system/{run}/{of}")).ok();
    let run_id = "03".repeat(16);
    let telemetry = || {
        let telemetry = read(&run_id, "telemetry");
        ["status", "total", "complete"].map(|name| telemetry[name].clone())
    };
    let events = || {
        let events = read(&run_id, "events");
        ["total_events", "complete"].map(|name| events[name].clone())
    };
    assert_eq!(telemetry(), [json!("collected"), json!(1), json!(true)]);
    assert_eq!(events(), [json!(1), json!(true)]);
    let environment = |run: &str| read(run, "snapshot")["environment_ids"][0].clone();
    let erase = |id: &Value| {
        let erased = erasure::erase(&server, id.as_str().unwrap(), &because());
        assert_eq!(erased.status, 200, "{}", erased.text());
    };
    erase(&environment(&run_id));
    assert_eq!(telemetry(), [json!("collected"), json!(0), json!(false)]);
    assert_eq!(events(), [json!(0), json!(false)]);
    // One that was posted names no place.
    run(&server, "r", false);
    erase(&environment("r"));
    assert_eq!(read("r", "telemetry")["status"], "telemetry_not_collected");
    assert_eq!(read("r", "events")["complete"], true);
}

#[test]
fn a_step_that_is_archived_was_done_and_is_found_by_its_key() {
    let server = TestServer::new();
    run(&server, "r", true);
    seal(&server, "r");
    archive(&server);
    let found = server.get("/api/v1/steps?idempotency_key=r-0").ok();
    assert_eq!(
        (
            &found["status"],
            &found["archived"],
            &found["step_index"],
            &found["outcome_data"]
        ),
        (&json!("archived"), &json!(true), &json!(0), &Value::Null)
    );
    let erased = server.get("/api/v1/steps?idempotency_key=r-1");
    assert_eq!(erased.problem(404), "not_found");
}

#[test]
fn other_content_of_what_is_archived_is_refused_and_not_dropped() {
    let server = TestServer::new();
    run(&server, "r", false);
    let activity = |model: &str| {
        json!({ "step_index": 0, "skill_id": "llm", "model_name": model, "prompt_fingerprint": "ab".repeat(32),
            "prompt_token_length": 5 })
    };
    server.created("/api/v1/runs/r/evidence/activity", &activity("m"));
    let mut spans = export(&[span(4, 1)]);
    let of_run = json!({ "key": "deponent.run.id", "value": { "stringValue": "r" } });
    let attributes = spans["resourceSpans"][0]["resource"]["attributes"].as_array_mut();
    attributes.unwrap().push(of_run);
    assert_eq!(server.post("/v1/traces", &spans).ok(), json!({}));
    seal(&server, "r");
    archive(&server);
    for (path, other) in [
        ("runs", json!({ "run_id": "r", "agent_id": "evil" })),
        (
            "runs/r/steps",
            json!({ "step_index": 0, "skill_name": "other", "status": "success" }),
        ),
        (
            "runs/r/evidence/environment",
            json!({ "sdk_mode": "async", "telemetry_enabled": false, "debug_mode": true, "dry_run": true }),
        ),
        ("runs/r/evidence/activity", activity("other")),
        ("runs/r/complete", json!({ "status": "failed" })),
    ] {
        let answer = server.post(&format!("/api/v1/{path}"), &other);
        assert_eq!(answer.problem(409), "archived", "{path}");
        assert!(answer.json()["receipt"]["record_id"].is_string(), "{path}");
    }
    spans["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] = json!("changed");
    let partial = server.post("/v1/traces", &spans).ok()["partialSuccess"].clone();
    assert_eq!(partial["rejectedSpans"], "1");
    assert!(
        partial["errorMessage"].as_str().unwrap().contains("archived"),
        "{partial}"
    );
}

#[test]
fn traces_that_cannot_be_compared_name_the_step_and_how_it_went() {
    let server = TestServer::new();
    // Erased before its end, a run has no root hash: steps must be compared.
    run(&server, "a", false);
    run(&server, "b", true);
    let field = || server.get("/api/v1/traces/diff?left=a&right=b").ok()["divergence"]["field"].clone();
    assert_eq!(field(), "params");
    seal(&server, "a");
    seal(&server, "b");
    archive(&server);
    assert_eq!(field(), "archived");
}

#[test]
fn a_list_of_provenance_tells_an_archived_log_from_an_erased_one_and_drift_counts_both() {
    let server = TestServer::new();
    server.run("r");
    let log = |input: &str, run: Option<&str>| {
        let mut body = json!({ "input": input, "output": 1 });
        if let Some(run) = run {
            body["run_id"] = json!(run);
        }
        server.created("/api/v1/provenance", &body)
    };
    log("archived", Some("r"));
    erase(&server, &log("erased", None));
    log("there", None);
    server.complete("r");
    seal(&server, "r");
    archive(&server);
    let items = server.get("/api/v1/provenance").ok()["items"].clone();
    let said: Vec<Value> = items
        .as_array()
        .unwrap()
        .iter()
        .map(|item| json!([item.get("erased"), item.get("archived"), item["input_json"]]))
        .collect();
    assert_eq!(
        said,
        [
            json!([null, null, "\"there\""]),
            json!([true, null, null]),
            json!([null, true, null])
        ]
    );
    let drift = server.get("/api/v1/provenance/drift").ok();
    let told = ["logs", "erased", "archived", "complete"].map(|name| drift[name].clone());
    assert_eq!(told, [json!(1), json!(1), json!(1), json!(false)]);
}
