//! Runs judged, and sealed once.

use serde_json::{Value, json};
use server::otlp::limits::PART_ITEMS_MAX;

use crate::erasure::{because, erase, record_id};
use crate::server::{TestServer, now, span};
use crate::support::refused;

fn put(server: &TestServer, path: &str, body: &Value) -> crate::server::Answer {
    let headers = [("content-type", "application/json")];
    server.request(axum::http::Method::PUT, path, &headers, body.to_string())
}

fn of(server: &TestServer, run: &str) -> Value {
    server.get(&format!("/api/v1/runs/{run}/integrity")).ok()
}

fn assert_verified(server: &TestServer) {
    let verified = server.post("/api/v1/verifications", &json!({})).ok();
    assert_eq!(verified["status"], "verified", "{verified}");
}

/// What was noted of an export that was refused in part is not noted again when it is sent again.
#[track_caller]
fn assert_noted_once(server: &TestServer, export: &Value) {
    let size = server.tree_size();
    server.post("/v1/traces", export).ok();
    assert_eq!(server.tree_size(), size, "sent again it is noted no second time");
    assert_verified(server);
}

/// A run with evidence of each class.
fn whole(server: &TestServer, run: &str) {
    server.run(run);
    server.step(run, 0, "success");
    let post =
        |class: &str, body: Value| server.created(&format!("/api/v1/runs/{run}/evidence/{class}"), &body);
    post("environment", json!({ "sdk_mode": "inline" }));
    post(
        "activity",
        json!({ "step_index": 0, "skill_id": "llm", "model_name": "m", "prompt_fingerprint": "ab".repeat(32),
            "prompt_token_length": 5, "response_fingerprint": "cd".repeat(32) }),
    );
    post(
        "provider",
        json!({ "step_index": 0, "provider_name": "p", "model_name": "m" }),
    );
    post(
        "policy-decision",
        json!({ "policy_type": "budget", "decision": "GRANTED" }),
    );
}

#[test]
fn a_run_is_judged_at_any_time_and_sealed_once() {
    let server = TestServer::new();
    whole(&server, "r");
    let pending = of(&server, "r");
    assert_eq!(
        (
            &pending["state"],
            &pending["grade"],
            &pending["score"],
            &pending["status"]
        ),
        (&json!("PENDING"), &json!("PASS"), &json!(1), &json!("VALID"))
    );
    assert_eq!(
        pending["evidence_counts"],
        json!({ "environment_evidence": 1, "activity_evidence": 1, "provider_evidence": 1, "policy_decisions": 1,
            "traces": 1, "trace_steps": 1 })
    );
    assert_eq!(pending["completeness"]["content_captured"], "pass");
    assert_eq!(pending["completeness"]["declared_steps_seen"], "unknown");
    assert_eq!(
        server.post("/api/v1/runs/r/seal", &json!({})).problem(409),
        "run_running"
    );
    server.created(
        "/api/v1/runs/r/complete",
        &json!({ "status": "completed", "declared_steps": 2 }),
    );
    let sealed = server.created("/api/v1/runs/r/seal", &json!({}));
    assert_eq!(
        (&sealed["state"], &sealed["grade"]),
        (&json!("SEALED"), &json!("PASS"))
    );
    assert_eq!(sealed["completeness"]["declared_steps_seen"], "fail");
    assert_eq!(sealed["records_count"], 8, "all records before it");
    let id = sealed["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{id}")).ok();
    assert_eq!(
        (&record["header"]["kind"], &record["header"]["run_seq"]),
        (&json!("evidence.integrity"), &json!(8))
    );
    assert_eq!(of(&server, "r"), sealed, "from then on it is what the seal says");
    let again = server.post("/api/v1/runs/r/seal", &json!({}));
    assert_eq!(again.problem(409), "run_sealed");
    assert_eq!(again.json()["receipt"], sealed["receipt"]);
    assert_eq!(
        server.post("/api/v1/runs/none/seal", &json!({})).problem(404),
        "not_found"
    );
    assert_eq!(
        server.get("/api/v1/runs/none/integrity").problem(404),
        "not_found"
    );
    assert_verified(&server);
}

#[test]
fn failures_bring_a_run_down_even_those_that_passed() {
    let server = TestServer::new();
    whole(&server, "r");
    let fail = |run: &str, class: &str, reason: &str| {
        let body = json!({ "evidence_class": class, "failure_reason": reason });
        server.created(&format!("/api/v1/runs/{run}/evidence/failures"), &body);
    };
    fail("r", "provider_evidence", "pre_attach");
    let judged = of(&server, "r");
    assert_eq!(judged["grade"], "WARN", "the class came after all");
    assert_eq!(judged["capture_failures"][0]["resolution"], "superseded");
    assert_eq!(
        (&judged["unresolved_failures"], &judged["has_capture_failures"]),
        (&json!([]), &json!(true))
    );
    server.run("bare");
    server.step("bare", 0, "success");
    fail("bare", "environment_evidence", "context_invalid");
    let judged = of(&server, "bare");
    assert_eq!(
        (&judged["grade"], &judged["status"]),
        (&json!("FAIL"), &json!("FAILED"))
    );
    assert_eq!(
        judged["missing_reasons"]["environment_evidence"],
        "context_invalid"
    );
    assert_eq!(judged["missing_reasons"]["provider_evidence"], "no_records_found");
}

#[test]
fn a_run_whose_exporter_dropped_attributes_says_so() {
    let server = TestServer::new();
    let mut root = span(1, 1);
    root["parentSpanId"] = json!("");
    root["droppedAttributesCount"] = json!(3);
    let mut orphan = span(1, 2);
    orphan["parentSpanId"] = json!("00000000000000aa");
    server.spans(&[root.clone(), orphan.clone()]);
    let run = "01".repeat(16);
    let judged = of(&server, &run);
    assert_eq!(judged["grade"], "WARN");
    let failures = judged["capture_failures"].as_array().unwrap();
    assert_eq!(
        (failures.len(), &failures[0]["evidence_class"]),
        (1, &json!("trace_steps"))
    );
    let facts = &judged["completeness"];
    assert_eq!(
        (
            &facts["nothing_dropped"],
            &facts["no_orphan_parents"],
            &facts["root_present"]
        ),
        (&json!("fail"), &json!("fail"), &json!("pass"))
    );
    let size = server.tree_size();
    server.spans(&[root, orphan]);
    assert_eq!(server.tree_size(), size, "sent again it is noted no second time");
    assert_verified(&server);
}

#[test]
fn what_a_sender_dropped_of_a_scope_an_event_or_a_link_counts_too() {
    let server = TestServer::new();
    let link =
        |trace: u8| json!({ "traceId": format!("{trace:02x}").repeat(16), "spanId": "00000000000000aa" });
    let dropping = |mut part: Value, drops: bool| {
        part["droppedAttributesCount"] = json!(u8::from(drops));
        part
    };
    // Nothing dropped, then of one thing each.
    for (trace, expected) in [(1_u8, "pass"), (2, "fail"), (3, "fail"), (4, "fail")] {
        let mut root = span(trace, 1);
        root["parentSpanId"] = json!("");
        root["events"] = json!([dropping(
            json!({ "name": "e", "timeUnixNano": root["startTimeUnixNano"] }),
            trace == 2
        )]);
        root["links"] = json!([dropping(link(trace), trace == 3)]);
        let mut export = crate::server::export(&[root]);
        export["resourceSpans"][0]["scopeSpans"][0]["scope"] = dropping(json!({ "name": "s" }), trace == 4);
        assert_eq!(server.post("/v1/traces", &export).ok(), json!({}));
        let judged = of(&server, &format!("{trace:02x}").repeat(16));
        assert_eq!(
            judged["completeness"]["nothing_dropped"], expected,
            "{trace}: {judged}"
        );
        let noted = judged["capture_failures"].as_array().unwrap().len();
        assert_eq!(noted, usize::from(expected == "fail"), "{trace}: {judged}");
    }
    assert_verified(&server);
}

#[test]
fn a_clock_that_contradicts_itself_or_the_servers_is_not_sane() {
    let server = TestServer::new();
    // A run with one step; its start, its step's time, when its provider was asked and answered, its end.
    let sane = json!({
        "start": "2026-01-02T03:03:00Z", "step": "2026-01-02T03:04:01Z", "asked": "2026-01-02T03:04:01Z",
        "answered": "2026-01-02T03:04:02Z", "end": "2026-01-02T03:04:03Z",
    });
    let clock = |run: &str, times: &Value| {
        server.created(
            "/api/v1/runs",
            &json!({ "run_id": run, "started_at": times["start"] }),
        );
        let mut step = crate::support::step(0, "success");
        step["timestamp"] = times["step"].clone();
        server.created(&format!("/api/v1/runs/{run}/steps"), &step);
        let provider = json!({ "step_index": 0, "provider_name": "p", "model_name": "m",
            "requested_at": times["asked"], "responded_at": times["answered"] });
        server.created(&format!("/api/v1/runs/{run}/evidence/provider"), &provider);
        let end = json!({ "status": "completed", "completed_at": times["end"] });
        server.created(&format!("/api/v1/runs/{run}/complete"), &end);
        of(&server, run)["completeness"]["clock_sane"].clone()
    };
    assert_eq!(clock("sane", &sane), "pass");
    // The server's clock shows 03:04:05.
    for (number, (name, time, expected)) in [
        // A start so long before its record is the sender's own.
        ("end", "2026-01-02T03:02:59Z", "fail"),
        ("step", "2026-01-02T03:02:59Z", "fail"),
        ("end", "2031-01-02T03:04:05Z", "fail"),
        ("end", "2026-01-02T03:05:00Z", "pass"),
        ("answered", "2026-01-02T03:04:00Z", "fail"),
        ("answered", "2026-01-02T03:04:01Z", "pass"),
        ("step", "2031-01-02T03:04:05Z", "fail"),
        ("step", "2026-01-02T03:05:06Z", "fail"),
        ("step", "2026-01-02T03:05:00Z", "pass"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut times = sane.clone();
        times[name] = json!(time);
        assert_eq!(clock(&format!("r{number}"), &times), expected, "{name} {time}");
    }
    // A start that may be by the server's clock, also where it lies a little before its record; a step and an end by one
    // that is behind: no fault of the sender's, up to a minute.
    for (run, start, end, expected) in [
        ("behind", None, "2026-01-02T03:03:30Z", "pass"),
        ("before", None, "2026-01-02T02:00:00Z", "fail"),
        (
            "overtaken",
            Some("2026-01-02T03:04:04Z"),
            "2026-01-02T03:03:30Z",
            "pass",
        ),
        (
            "overtaken-before",
            Some("2026-01-02T03:04:04Z"),
            "2026-01-02T03:03:03Z",
            "fail",
        ),
    ] {
        let mut begun = json!({ "run_id": run });
        if let Some(start) = start {
            begun["started_at"] = json!(start);
        }
        server.created("/api/v1/runs", &begun);
        let mut step = crate::support::step(0, "success");
        step["timestamp"] = json!("2026-01-02T03:03:31Z");
        server.created(&format!("/api/v1/runs/{run}/steps"), &step);
        let end = json!({ "status": "completed", "completed_at": end });
        server.created(&format!("/api/v1/runs/{run}/complete"), &end);
        assert_eq!(of(&server, run)["completeness"]["clock_sane"], expected, "{run}");
    }
    assert_verified(&server);
}

#[test]
fn a_span_that_is_refused_is_noted_once() {
    let server = TestServer::new();
    server.spans(&[span(2, 1)]);
    let mut other = span(2, 1);
    other["name"] = json!("another thing under the same ids");
    let mut bad = span(2, 7);
    bad["startTimeUnixNano"] = json!("0");
    let export = crate::server::export(&[other, bad]);
    assert_eq!(
        server.post("/v1/traces", &export).ok()["partialSuccess"]["rejectedSpans"],
        "2"
    );
    let judged = of(&server, &"02".repeat(16));
    let failures = judged["capture_failures"].as_array().unwrap();
    assert_eq!(failures.len(), 2, "{judged}");
    assert_noted_once(&server, &export);
}

#[test]
fn a_span_that_json_does_not_even_say_is_noted_too() {
    let server = TestServer::new();
    let mut bad = span(2, 7);
    bad["kind"] = json!("SPAN_KIND_CLIENT");
    let export = crate::server::export(&[span(2, 1), bad]);
    assert_eq!(
        server.post("/v1/traces", &export).ok()["partialSuccess"]["rejectedSpans"],
        "1"
    );
    let judged = of(&server, &"02".repeat(16));
    let failures = judged["capture_failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{judged}");
    assert_noted_once(&server, &export);
}

#[test]
fn every_run_whose_spans_were_refused_has_a_failure_and_the_rest_are_counted() {
    let server = TestServer::new();
    let (first, last) = (span(2, 1), span(3, 1));
    server.spans(&[first, last]);
    let bad = |trace: u8, id: u16| {
        let mut span = span(trace, 1);
        span["spanId"] = json!(format!("{id:016x}"));
        span["startTimeUnixNano"] = json!("0");
        span
    };
    let mut spans: Vec<Value> = (2..252).map(|id| bad(2, id)).collect();
    spans.extend([bad(3, 2), bad(3, 3), bad(3, 4)]);
    let export = crate::server::export(&spans);
    assert_eq!(
        server.post("/v1/traces", &export).ok()["partialSuccess"]["rejectedSpans"],
        "253"
    );
    let judged = of(&server, &"02".repeat(16));
    let failures = judged["capture_failures"].as_array().unwrap();
    assert_eq!(failures.len(), 102, "the first, 100 more, and the rest");
    let counted = |failures: &[Value]| {
        failures
            .iter()
            .filter_map(|failure| failure["error_message"].as_str())
            .filter(|message| message.contains(" more spans of the trace were refused"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let rest = counted(failures);
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert!(rest[0].starts_with("149 more spans"), "{rest:?}");
    // All of this run's came after those that are noted one by one.
    let judged = of(&server, &"03".repeat(16));
    let failures = judged["capture_failures"].as_array().unwrap();
    assert_eq!(failures.len(), 2, "{judged}");
    assert!(counted(failures)[0].starts_with("2 more spans"), "{judged}");
    assert_ne!(judged["grade"], "PASS", "{judged}");
    assert_noted_once(&server, &export);
}

#[test]
fn a_span_that_is_refused_is_noted_though_its_trace_comes_with_another_part() {
    let server = TestServer::new();
    let bad = |trace: u8, field: &str, value: &str| {
        let mut span = span(trace, 1);
        span["spanId"] = json!("00000000000000ff");
        span[field] = json!(value);
        span
    };
    // With the first part: one that JSON does not even say, and one that is no evidence.
    let mut spans = vec![
        bad(3, "kind", "SPAN_KIND_CLIENT"),
        bad(4, "startTimeUnixNano", "0"),
    ];
    spans.extend((0x100..).take(PART_ITEMS_MAX).map(|id| span(2, id)));
    // With the second: what these belong to, and one of a trace that the first has.
    spans.extend([span(3, 1), span(4, 1), bad(2, "startTimeUnixNano", "0")]);
    let export = crate::server::export(&spans);
    assert_eq!(
        server.post("/v1/traces", &export).ok()["partialSuccess"]["rejectedSpans"],
        "3"
    );
    for trace in ["02", "03", "04"] {
        let judged = of(&server, &trace.repeat(16));
        let failures = judged["capture_failures"].as_array().unwrap();
        assert_eq!(failures.len(), 1, "{judged}");
        assert_ne!(judged["grade"], "PASS", "{judged}");
    }
    assert_noted_once(&server, &export);
}

#[test]
fn spans_of_an_unreadable_resource_are_noted_too() {
    let server = TestServer::new();
    server.spans(&[span(2, 1)]);
    let mut export = crate::server::export(&[span(2, 5)]);
    // Nested deeper than a value may be.
    let mut deep = json!({ "stringValue": "x" });
    for _ in 0..40 {
        deep = json!({ "arrayValue": { "values": [deep] } });
    }
    export["resourceSpans"][0]["resource"]["attributes"] = json!([{ "key": "deep", "value": deep }]);
    assert_eq!(
        server.post("/v1/traces", &export).ok()["partialSuccess"]["rejectedSpans"],
        "1"
    );
    let judged = of(&server, &"02".repeat(16));
    assert_eq!(
        judged["capture_failures"].as_array().unwrap().len(),
        1,
        "{judged}"
    );
    assert_verified(&server);
}

#[test]
fn runs_seal_themselves_after_their_end() {
    let server = TestServer::new();
    let ledger = &server.app.ledger;
    whole(&server, "rest");
    server.complete("rest");
    let mut root = span(1, 1);
    root["parentSpanId"] = json!("");
    server.spans(&[root, span(1, 2)]);
    let later = |seconds: i64| now().checked_add_micros(seconds * 1_000_000).unwrap();
    assert_eq!(ledger.seal_due(later(29)), 0);
    assert_eq!(
        (ledger.settle_due(later(31)).unwrap(), ledger.seal_due(later(31))),
        (1, 2)
    );
    assert_eq!(ledger.seal_due(later(90)), 0, "once");
    let run = "01".repeat(16);
    let sealed = of(&server, &run);
    assert_eq!(sealed["state"], "SEALED");
    // What comes later is recorded, flagged, and counted on.
    server.spans(&[span(1, 3)]);
    let late = of(&server, &run);
    assert_eq!(
        (&late["late_count"], &late["records_count"]),
        (&json!(1), &sealed["records_count"])
    );
    assert_eq!(of(&server, "rest")["state"], "SEALED");
    assert_verified(&server);
}

#[test]
fn a_run_of_spans_that_its_root_ended_is_sealed_at_once() {
    let server = TestServer::new();
    let run = "01".repeat(16);
    let seal = |run: &str| server.post(&format!("/api/v1/runs/{run}/seal"), &json!({}));
    let cannot_be_ended = || {
        for (how, body) in [
            ("complete", json!({ "status": "completed" })),
            ("abort", json!({ "reason": "x" })),
        ] {
            let answer = server.post(&format!("/api/v1/runs/{run}/{how}"), &body);
            assert_eq!(answer.problem(409), "run_ended", "{how}");
        }
    };
    server.spans(&[span(1, 2)]);
    assert_eq!(seal(&run).problem(409), "run_running", "its root is not there");
    let mut root = span(1, 1);
    root["parentSpanId"] = json!("");
    server.spans(&[root]);
    cannot_be_ended();
    let sealed = server.created(&format!("/api/v1/runs/{run}/seal"), &json!({}));
    assert_eq!(
        (&sealed["state"], &sealed["evidence_counts"]["trace_steps"]),
        (&json!("SEALED"), &json!(2))
    );
    assert_eq!(of(&server, &run), sealed);
    assert_eq!(seal(&run).problem(409), "run_sealed");
    cannot_be_ended();
    server.spans(&[span(1, 3)]);
    let late = of(&server, &run);
    assert_eq!(
        (&late["late_count"], &late["records_count"]),
        (&json!(1), &sealed["records_count"])
    );
    assert_verified(&server);
}

#[test]
fn an_activity_is_counted_once_also_when_what_completed_it_is_erased() {
    let server = TestServer::new();
    server.run("r");
    let step = server.step("r", 0, "success");
    let post = |body: &Value| server.created("/api/v1/runs/r/evidence/activity", body);
    for index in [0, 7] {
        let print = "ab".repeat(32);
        post(
            &json!({ "step_index": index, "skill_id": "llm", "model_name": "m", "prompt_fingerprint": print,
            "prompt_token_length": 5 }),
        );
    }
    post(&json!({ "step_index": 0, "response_token_length": 1 }));
    let of_no_step = post(&json!({ "step_index": 7, "completion_type": "stop" }));
    let counted = || {
        let integrity = of(&server, "r");
        let content = integrity["completeness"]["content_captured"].clone();
        (integrity["evidence_counts"]["activity_evidence"].clone(), content)
    };
    assert_eq!(counted(), (json!(2), json!("fail")));
    erase(
        &server,
        &record_id(&of_no_step),
        &json!({ "reason": "asked", "only": true }),
    )
    .ok();
    assert_eq!(counted(), (json!(2), json!("unknown")));
    // With the step both parts of its activity go.
    let erased = erase(&server, &record_id(&step), &because()).ok();
    assert_eq!(erased["erased"].as_array().unwrap().len(), 3, "{erased}");
    assert_eq!(counted().0, 2);
}

#[test]
fn an_activity_of_a_span_is_counted_once_also_when_all_of_it_is_erased() {
    let server = TestServer::new();
    server.spans(&[span(1, 1)]);
    let run = "01".repeat(16);
    let path = format!("/api/v1/runs/{run}/evidence/activity");
    let first = json!({ "step_index": 0, "skill_id": "llm", "model_name": "m", "prompt_token_length": 5,
        "prompt_fingerprint": "ab".repeat(32) });
    let completion = json!({ "step_index": 0, "response_token_length": 1 });
    let parts = [first, completion].map(|part| server.created(&path, &part));
    let counted = || of(&server, &run)["evidence_counts"]["activity_evidence"].clone();
    let before = counted();
    for part in &parts {
        let asked = json!({ "reason": "asked", "only": true });
        erase(&server, &record_id(part), &asked).ok();
    }
    assert_eq!(counted(), before);
}

#[test]
fn a_tenant_says_what_it_expects_and_the_change_is_an_audit_event() {
    let server = TestServer::new();
    server.run("r");
    server.step("r", 0, "success");
    assert_eq!(of(&server, "r")["grade"], "FAIL");
    let before = server.get("/api/v1/integrity-policy").ok();
    assert_eq!(
        (&before["pass_at"], before["expected"].as_array().unwrap().len()),
        (&json!(0.8), 6)
    );
    for bad in [
        json!({ "expected": [] }),
        json!({ "expected": ["steps"] }),
        json!({ "pass_at": 0.4 }),
        json!({ "pass_at": 1.5 }),
    ] {
        refused(&put(&server, "/api/v1/integrity-policy", &bad), "policy");
    }
    let policy = json!({ "required": ["traces"], "expected": ["traces", "trace_steps"] });
    let set = put(&server, "/api/v1/integrity-policy", &policy).ok();
    assert_eq!(set["warn_at"], 0.5);
    let judged = of(&server, "r");
    assert_eq!(
        (&judged["grade"], &judged["expected"]),
        (&json!("PASS"), &json!(["traces", "trace_steps"]))
    );
    let events = server
        .get("/api/v1/logs/audit?event_type=PolicyRuleModified")
        .ok();
    let entry = events["items"][0].clone();
    assert_eq!(entry["entity_id"], "integrity_policy");
}
