use serde_json::{Value, json};

use crate::server::TestServer;
use crate::support::{assert_checksum, pages, step, ticking_server};

const LIST: &str = "/api/v1/logs/llm-runs";

fn span(trace: u8, span: u16, attributes: &[(&str, Value)]) -> Value {
    let mut made = crate::server::span(trace, span);
    let attributes: Vec<Value> = attributes
        .iter()
        .map(|(key, value)| json!({ "key": key, "value": value }))
        .collect();
    made["attributes"] = Value::from(attributes);
    made
}

fn text(value: &str) -> Value {
    json!({ "stringValue": value })
}

/// A model call.
pub(crate) fn model_call(trace: u8, number: u16) -> Value {
    span(
        trace,
        number,
        &[
            ("gen_ai.operation.name", text("chat")),
            ("gen_ai.provider.name", text("acme")),
            ("gen_ai.request.model", text("m1")),
            ("gen_ai.usage.input_tokens", json!({ "intValue": "11" })),
            ("gen_ai.usage.output_tokens", json!({ "intValue": "5" })),
        ],
    )
}

/// A guardrail's decision.
pub(crate) fn guardrail(trace: u8, number: u16) -> Value {
    span(
        trace,
        number,
        &[
            ("openinference.span.kind", text("GUARDRAIL")),
            ("guardrail.decision", text("block")),
            ("gen_ai.security.policy.rule.id", text("rule-1")),
        ],
    )
}

fn read(server: &TestServer, run: &str, read: &str) -> Value {
    let answer = server.get(&format!("{LIST}/{run}/{read}")).ok();
    assert_checksum(&answer);
    answer
}

fn filled() -> TestServer {
    let server = ticking_server();
    for (run_id, model) in [
        ("a", Some("m1")),
        ("b", Some("m2")),
        ("c", None),
        ("d", Some("m1")),
    ] {
        server.created("/api/v1/runs", &json!({ "run_id": run_id, "agent_id": "x" }));
        if model.is_some() {
            let body =
                json!({ "status": "completed", "provider": "acme", "model": model, "cost_cents": 0.5 });
            server.created(&format!("/api/v1/runs/{run_id}/complete"), &body);
        }
    }
    server.created(
        "/api/v1/runs",
        &json!({ "run_id": "s", "is_synthetic": true, "synthetic_scenario_id": "z" }),
    );
    server
}

#[test]
fn an_envelope_is_the_runs_canonical_record() {
    let server = ticking_server();
    let run = json!({ "run_id": "r", "agent_id": "planner", "incident_id": "inc", "correlation_id": "talk", "source": "WORKER" });
    let started = server.created("/api/v1/runs", &run);
    let before = read(&server, "r", "envelope");
    assert_eq!(
        (&before["execution_status"], &before["completed_at"]),
        (&json!("RUNNING"), &Value::Null)
    );
    assert_eq!(
        (&before["provider"], &before["model"]),
        (&json!("unknown"), &json!("unknown"))
    );
    let end = json!({ "status": "completed", "provider": "acme", "model": "m1", "input_tokens": 3, "output_tokens": 4,
        "cost_cents": 1.5, "completed_at": "2027-01-01T00:00:00Z" });
    server.created("/api/v1/runs/r/complete", &end);
    let envelope = read(&server, "r", "envelope");
    for (field, value) in [
        ("id", started["receipt"]["record_id"].clone()),
        ("run_id", json!("r")),
        ("trace_id", json!("trace_r")),
        ("provider", json!("acme")),
        ("model", json!("m1")),
        ("input_tokens", json!(3)),
        ("output_tokens", json!(4)),
        ("cost_cents", json!(2)),
        ("cost_usd", json!("0.015")),
        ("execution_status", json!("SUCCEEDED")),
        ("completed_at", json!("2027-01-01T00:00:00.000000Z")),
        ("source", json!("WORKER")),
        ("is_synthetic", json!(false)),
    ] {
        assert_eq!(envelope[field], value, "{field}");
    }
    assert_eq!(
        envelope["created_at"], before["created_at"],
        "recorded_at of the run's first record"
    );
    let metadata = &envelope["metadata"];
    for (field, value) in [
        ("run_id", json!("r")),
        ("agent_id", json!("planner")),
        ("human_actor_id", Value::Null),
        ("system_id", Value::Null),
        ("trace_id", json!("trace_r")),
        ("incident_ids", json!(["inc"])),
        ("policy_ids", json!([])),
        ("correlation_id", json!("talk")),
        ("source_domain", json!("ACTIVITY")),
        ("source_component", json!("LLMRunRecordStore")),
        ("origin", json!("AGENT")),
        ("recorded_at", envelope["created_at"].clone()),
        ("occurred_at", envelope["started_at"].clone()),
        ("ledger", json!({ "leaf_index": 0, "tree_size": 3 })),
    ] {
        assert_eq!(metadata[field], value, "{field}");
    }
    assert_eq!(
        read(&server, "trace_r", "envelope"),
        envelope,
        "found by its trace too"
    );
    let earlier = server.get(&format!("{LIST}/r/envelope?as_of=1")).ok();
    assert_eq!(earlier["metadata"]["ledger"]["tree_size"], 1);
}

#[test]
fn a_cent_is_rounded_half_up_and_the_dollars_are_exact() {
    let server = TestServer::new();
    for (index, (cents, rounded, usd)) in [
        (0.4, 0, "0.004"),
        (0.5, 1, "0.005"),
        (1.49, 1, "0.0149"),
        (0.000_000_001, 0, "0.00000000001"),
    ]
    .into_iter()
    .enumerate()
    {
        let run_id = format!("r{index}");
        server.run(&run_id);
        let mut body = step(0, "success");
        body["cost_cents"] = json!(cents);
        server.created(&format!("/api/v1/runs/{run_id}/steps"), &body);
        for shown in [
            &read(&server, &run_id, "envelope"),
            &read(&server, &run_id, "trace")["steps"][0],
        ] {
            assert_eq!(
                (&shown["cost_cents"], &shown["cost_usd"]),
                (&json!(rounded), &json!(usd))
            );
        }
    }
}

#[test]
fn a_list_is_filtered_and_says_by_what() {
    let server = filled();
    let ids = |query: &str| pages(&server, &format!("{LIST}{query}"), 50, "run_id");
    assert_eq!(ids(""), ["s", "d", "c", "b", "a"], "newest first");
    assert_eq!(ids("?model=m1"), ["d", "a"]);
    assert_eq!(ids("?provider=acme"), ["d", "b", "a"]);
    assert_eq!(ids("?provider=unknown"), ["s", "c"]);
    assert_eq!(ids("?execution_status=RUNNING"), ["s", "c"]);
    assert_eq!(ids("?execution_status=SUCCEEDED&model=m2"), ["b"]);
    assert_eq!(ids("?is_synthetic=true"), ["s"]);
    assert_eq!(ids("?is_synthetic=false"), ["d", "c", "b", "a"]);
    assert_eq!(ids("?run_id=b"), ["b"]);
    assert_eq!(ids("?run_id=nobody"), [""; 0]);
    let all = server.get(LIST).ok();
    assert_checksum(&all);
    assert_eq!((&all["total"], &all["total_exact"]), (&json!(5), &json!(true)));
    assert_eq!(all["filters_applied"], json!({ "tenant_id": "default" }));
    assert_eq!(all["metadata"]["occurred_at"], all["items"][0]["started_at"]);
    assert_eq!(
        all["metadata"]["run_id"],
        Value::Null,
        "ids only where all items share them"
    );
    assert_eq!(
        server.get(&format!("{LIST}?model=m1")).ok()["metadata"]["agent_id"],
        "x"
    );
    let created = |at: usize| all["items"][at]["created_at"].as_str().unwrap().to_owned();
    assert_eq!(
        ids(&format!("?created_after={}", created(1))),
        ["s", "d"],
        "inclusive"
    );
    assert_eq!(
        ids(&format!("?created_before={}", created(3))),
        ["a"],
        "exclusive"
    );
    let query = format!("{LIST}?model=m1&is_synthetic=false&created_after={}", created(4));
    let filtered = server.get(&query).ok();
    assert_eq!(filtered["total"], 2);
    assert_eq!(
        filtered["filters_applied"],
        json!({ "tenant_id": "default", "model": "m1", "is_synthetic": false, "created_after": created(4) })
    );
}

#[test]
fn a_malformed_list_query_is_refused() {
    let server = filled();
    for bad in [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=x",
        "offset=-1",
        "offset=x",
        "is_synthetic=maybe",
        "execution_status=DONE",
        "created_after=now",
        "created_before=2026-01-01",
        "as_of=99999",
        "as_of=-1",
        "colour=red",
        "run_id=a&run_id=b",
    ] {
        assert_eq!(
            server.get(&format!("{LIST}?{bad}")).problem(400),
            "bad_parameter",
            "{bad}"
        );
    }
    for bad in ["cursor=x", "cursor="] {
        assert_eq!(
            server.get(&format!("{LIST}?{bad}")).problem(400),
            "bad_cursor",
            "{bad}"
        );
    }
    assert_eq!(
        server.get(&format!("{LIST}?offset=10001")).problem(400),
        "use_cursor"
    );
    assert_eq!(
        server.get(&format!("{LIST}?offset=10000")).ok()["items"],
        json!([])
    );
    let page = server.get(&format!("{LIST}?limit=1")).ok();
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(
        server
            .get(&format!("{LIST}?model=m1&cursor={cursor}"))
            .problem(400),
        "bad_cursor",
        "of another query"
    );
    assert_eq!(
        server
            .get(&format!("/api/v1/traces?cursor={cursor}"))
            .problem(400),
        "bad_cursor",
        "of another list"
    );
    assert_eq!(
        server
            .get(&format!("{LIST}?offset=1&cursor={cursor}"))
            .problem(400),
        "bad_parameter"
    );
    assert_eq!(
        server
            .get(&format!("{LIST}?as_of=1&cursor={cursor}"))
            .problem(400),
        "bad_parameter"
    );
}

#[test]
fn pages_add_up_and_do_not_shift_under_writes() {
    let server = TestServer::new();
    // All in one microsecond, so that nothing but the order of the ledger tells them apart.
    let mut expected: Vec<String> = (0..7).map(|number| format!("r{number}")).collect();
    for run_id in &expected {
        server.run(run_id);
    }
    expected.reverse();
    for limit in 1..=8 {
        assert_eq!(pages(&server, LIST, limit, "run_id"), expected);
        assert_eq!(
            pages(
                &server,
                &format!("{LIST}?execution_status=RUNNING"),
                limit,
                "run_id"
            ),
            expected
        );
        assert_eq!(
            pages(&server, "/api/v1/traces?status=running", limit, "run_id"),
            expected
        );
    }
    let ids = |page: &Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["run_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = server.get(&format!("{LIST}?limit=3")).ok();
    server.run("later");
    server.complete("r0");
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = server.get(&format!("{LIST}?cursor={cursor}")).ok();
    assert_eq!([ids(&first), ids(&rest)].concat(), expected);
    assert_eq!((&rest["as_of"], &rest["total"]), (&first["as_of"], &json!(7)));
    let again = server.get(&format!("{LIST}?as_of={}", first["as_of"])).ok();
    assert_eq!((ids(&again), &again["total"]), (expected.clone(), &json!(7)));
    let by_offset = server
        .get(&format!("{LIST}?as_of={}&offset=5&limit=1", first["as_of"]))
        .ok();
    assert_eq!(
        (ids(&by_offset), &by_offset["has_more"]),
        (vec![expected[5].clone()], &json!(true))
    );
    let cursor = by_offset["next_cursor"].as_str().unwrap();
    assert_eq!(
        ids(&server.get(&format!("{LIST}?cursor={cursor}")).ok()),
        [expected[6].clone()],
        "a cursor goes on from there"
    );
    assert_eq!(server.get(LIST).ok()["total"], 8);
}

#[test]
fn an_unknown_run_is_404_in_every_read() {
    let server = TestServer::new();
    server.run("r");
    for read in ["envelope", "trace", "governance", "replay", "export"] {
        assert_eq!(
            server.get(&format!("{LIST}/nobody/{read}")).problem(404),
            "not_found",
            "{read}"
        );
        assert_eq!(
            server.get(&format!("{LIST}/r/{read}?colour=red")).problem(400),
            "bad_parameter",
            "{read}"
        );
        assert_eq!(
            server.get(&format!("{LIST}/r/{read}?as_of=0")).problem(404),
            "not_found",
            "{read}: not there yet"
        );
    }
}

#[test]
fn a_trace_shows_every_step_with_its_place() {
    let server = TestServer::new();
    server.run("r");
    let receipt = server.step("r", 2, "retry")["receipt"].clone();
    server.step("r", 0, "success");
    let trace = read(&server, "r", "trace");
    assert_eq!(
        (&trace["total_steps"], &trace["has_more"]),
        (&json!(2), &json!(false))
    );
    assert_eq!(trace["metadata"]["source_component"], "TraceStore");
    let shown = &trace["steps"][1];
    assert_eq!(
        (&shown["step_index"], &shown["level"], &shown["status"]),
        (&json!(2), &json!("WARN"), &json!("retry"))
    );
    assert_eq!(
        (&shown["record_id"], &shown["leaf_index"]),
        (&receipt["record_id"], &receipt["leaf_index"])
    );
}

#[test]
fn governance_shows_the_decisions_of_a_run() {
    let server = TestServer::new();
    server.spans(&[model_call(5, 1), guardrail(5, 2)]);
    let governance = read(&server, &"05".repeat(16), "governance");
    assert_eq!(governance["total_events"], 1, "{governance}");
    let event = &governance["events"][0];
    assert_eq!(
        (&event["entity_type"], &event["entity_id"]),
        (&json!("RUN"), &json!("05".repeat(16)))
    );
    assert_eq!(
        (&event["decision"], &event["rule_id"]),
        (&json!("DENIED"), &json!("rule-1"))
    );
    assert_eq!(governance["metadata"]["source_domain"], "POLICY");
    server.run("r");
    server.step("r", 0, "success");
    assert_eq!(read(&server, "r", "governance")["events"], json!([]));
}

#[test]
fn a_replay_shows_thirty_seconds_on_each_side() {
    let server = TestServer::new();
    server.created(
        "/api/v1/runs",
        &json!({ "run_id": "r", "started_at": "2026-01-01T00:00:00Z" }),
    );
    for (index, (second, status)) in [
        ("00:00:29.999999", "success"),
        ("00:00:30", "failure"),
        ("00:01:00", "success"),
        ("00:01:30", "retry"),
        ("00:01:30.000001", "success"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = step(u32::try_from(index).unwrap(), status);
        body["timestamp"] = json!(format!("2026-01-01T{second}Z"));
        server.created("/api/v1/runs/r/steps", &body);
    }
    let column = |replay: &Value, field: &str| -> Vec<Value> {
        replay["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event[field].clone())
            .collect()
    };
    let running = read(&server, "r", "replay");
    assert_eq!(
        running["inflection_timestamp"], "2026-01-01T00:00:00.000000Z",
        "the start of what has not ended"
    );
    assert_eq!(column(&running, "step_index"), [0, 1], "inclusive");
    server.created(
        "/api/v1/runs/r/complete",
        &json!({ "status": "failed", "completed_at": "2026-01-01T00:01:00Z" }),
    );
    let replay = read(&server, "r", "replay");
    assert_eq!(
        (&replay["window_start"], &replay["window_end"]),
        (
            &json!("2026-01-01T00:00:30.000000Z"),
            &json!("2026-01-01T00:01:30.000000Z")
        )
    );
    assert_eq!(column(&replay, "step_index"), [1, 2, 3]);
    assert_eq!(column(&replay, "outcome"), ["failure", "success", "retry"]);
    assert_eq!(
        (column(&replay, "source"), column(&replay, "action")),
        (vec![json!("llm"); 3], vec![json!("search"); 3])
    );
    let around = server.get(&format!("{LIST}/r/replay?around=failure")).ok();
    assert_eq!(around["inflection_timestamp"], "2026-01-01T00:00:30.000000Z");
    assert_eq!(column(&around, "step_index"), [0, 1, 2]);
    assert_eq!(
        server.get(&format!("{LIST}/r/replay?around=noon")).problem(400),
        "bad_parameter"
    );
    server.spans(&[model_call(6, 1), guardrail(6, 2)]);
    let spans = read(&server, &"06".repeat(16), "replay");
    assert_eq!(column(&spans, "source"), ["llm", "llm", "policy"]);
    assert_eq!(
        (&spans["events"][2]["outcome"], &spans["events"][2]["step_index"]),
        (&json!("DENIED"), &json!(1))
    );
}

#[test]
fn a_step_that_came_late_may_be_the_first_that_failed() {
    let server = TestServer::new();
    let run = "01".repeat(16);
    let mut root = span(1, 1, &[]);
    root["parentSpanId"] = json!("");
    server.spans(&[root]);
    server.created(&format!("/api/v1/runs/{run}/seal"), &json!({}));
    let around = || {
        let around = server.get(&format!("{LIST}/{run}/replay?around=failure")).ok();
        ["inflection_timestamp", "failure_known"].map(|name| around[name].clone())
    };
    let end = json!("2026-01-02T03:03:21.000000Z");
    assert_eq!(around(), [end.clone(), json!(true)]);
    let mut late = [span(1, 2, &[]), span(1, 3, &[])];
    late[1]["startTimeUnixNano"] = json!("1767323007000000000");
    late[1]["endTimeUnixNano"] = json!("1767323008000000000");
    late[1]["status"] = json!({ "code": 2 });
    server.spans(&late[..1]);
    assert_eq!(around(), [end, json!(true)]);
    server.spans(&late[1..]);
    assert_eq!(around(), [json!("2026-01-02T03:03:27.000000Z"), json!(true)]);
}

#[test]
fn an_export_names_the_profiles_that_the_records_serve() {
    let server = TestServer::new();
    let tags = |run: &str| read(&server, run, "export")["compliance_tags"].clone();
    server.run("r");
    assert_eq!(tags("r"), json!([]));
    server.step("r", 0, "success");
    assert_eq!(tags("r"), json!([]));
    server.complete("r");
    assert_eq!(tags("r"), json!(["SOC2"]));
    server.spans(&[model_call(8, 1)]);
    assert_eq!(tags(&"08".repeat(16)), json!(["ISO42001"]));
    // A model call that is posted as provider evidence alone is one too, from then on.
    server.run("p");
    server.step("p", 0, "success");
    let size = server.tree_size();
    let provider = json!({ "step_index": 0, "provider_name": "p", "model_name": "m" });
    server.created("/api/v1/runs/p/evidence/provider", &provider);
    assert_eq!(tags("p"), json!(["ISO42001"]));
    let before = format!("/api/v1/logs/llm-runs/p/export?as_of={size}");
    assert_eq!(server.get(&before).ok()["compliance_tags"], json!([]));
    server.complete("p");
    assert_eq!(tags("p"), json!(["SOC2", "ISO42001", "EU-AI-ACT"]));
    let export = read(&server, "r", "export");
    assert_eq!(
        (&export["available_formats"], &export["checksum"]),
        (&json!(["json", "csv", "pdf", "zip"]), &Value::Null)
    );
    assert_eq!(
        (
            &export["metadata"]["source_component"],
            &export["metadata"]["source_domain"]
        ),
        (&json!("LogExportService"), &json!("LOGS"))
    );
}

#[test]
fn long_names_of_spans_end_pages_early_and_name_no_agent() {
    let server = TestServer::new();
    let long = "x".repeat(4_500_000);
    for number in 1..4 {
        let mut span = crate::server::span(3, number);
        span["attributes"] = json!([
            { "key": "gen_ai.tool.name", "value": { "stringValue": long } },
            { "key": "gen_ai.agent.name", "value": { "stringValue": "a".repeat(10_000) } },
        ]);
        server.spans(&[span]);
    }
    let run = "03".repeat(16);
    for (read, list) in [("trace", "steps"), ("replay", "events")] {
        let path = format!("/api/v1/logs/llm-runs/{run}/{read}");
        let first = server.get(&path).ok();
        assert_eq!(
            (first[list].as_array().unwrap().len(), &first["has_more"]),
            (2, &json!(true)),
            "{read}"
        );
        let cursor = first["next_cursor"].as_str().unwrap();
        let second = server.get(&format!("{path}?cursor={cursor}")).ok();
        assert_eq!(
            (second[list].as_array().unwrap().len(), &second["has_more"]),
            (1, &json!(false)),
            "{read}"
        );
    }
    let envelope = server.get(&format!("/api/v1/logs/llm-runs/{run}/envelope")).ok();
    assert_eq!(envelope["metadata"]["agent_id"], Value::Null, "it can be no id");
    let verified = server.post("/api/v1/verifications", &json!({})).ok();
    assert_eq!(verified["status"], "verified", "{verified}");
}
