use axum::http::Method;
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::schema::Schema;
use crate::server::TestServer;
use crate::support::{assert_checksum, pages};

const SYSTEM: &str = "/api/v1/logs/system";
const AUDIT: &str = "/api/v1/logs/audit";

fn read(server: &TestServer, path: &str, form: &str) -> Value {
    let answer = server.get(path).ok();
    assert_checksum(&answer);
    Schema::committed().assert(form, &answer);
    answer
}

/// An OTLP log of a run, at the second of its end.
fn log(server: &TestServer, run_id: &str, text: &str, severity: u8) {
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let logs = json!({ "resourceLogs": [{
        "resource": { "attributes": [attribute("deponent.run.id", run_id), attribute("host.name", "h1")] },
        "scopeLogs": [{ "scope": { "name": "worker" }, "logRecords": [{
            "timeUnixNano": "1767323045000000000", "severityNumber": severity, "body": { "stringValue": text } }] }],
    }] });
    assert_eq!(server.post("/v1/logs", &logs).ok(), json!({}));
}

#[test]
fn system_records_are_filtered_paged_and_counted() {
    let server = TestServer::new();
    for (text, severity) in [("a", 9), ("b", 17), ("c", 9), ("d", 17), ("e", 9)] {
        log(&server, "r", text, severity);
    }
    let all = read(&server, SYSTEM, "SystemRecordsResult");
    assert_eq!((&all["total"], &all["total_exact"]), (&json!(5), &json!(true)));
    let summaries = |query: &str, limit| pages(&server, &format!("{SYSTEM}{query}"), limit, "summary");
    assert_eq!(summaries("", 2), ["e", "d", "c", "b", "a"], "newest first");
    assert_eq!(summaries("?severity=ERROR", 1), ["d", "b"]);
    assert_eq!(summaries("?component=worker&severity=INFO", 2), ["e", "c", "a"]);
    assert_eq!(summaries("?component=%27%20OR%201%3D1--", 2), [""; 0]);
    assert_eq!(summaries("?offset=3", 50), ["b", "a"]);
    assert_eq!(
        read(&server, &format!("{SYSTEM}/audit"), "SystemAuditResult")["total"],
        5
    );
    let cursor = server.get(&format!("{SYSTEM}?limit=1")).ok()["next_cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    log(&server, "r", "f", 9);
    let next = server.get(&format!("{SYSTEM}?limit=1&cursor={cursor}")).ok();
    assert_eq!(
        (&next["items"][0]["summary"], &next["total"]),
        (&json!("d"), &json!(5)),
        "a list does not shift while it is paged"
    );
    for other in ["severity=ERROR&", "component=worker&"] {
        let refused = server.get(&format!("{SYSTEM}?{other}cursor={cursor}"));
        assert_eq!(refused.problem(400), "bad_cursor");
    }
    assert_eq!(
        server
            .get(&format!("{SYSTEM}?cursor={}", &cursor[..cursor.len() - 3]))
            .problem(400),
        "bad_cursor"
    );
}

#[test]
fn records_of_the_instance_are_of_no_tenant_whoever_reads_them() {
    let keyed = Keyed::new();
    let record = json!({ "component": "c", "event_type": "E", "severity": "INFO", "summary": "s" });
    let made = keyed.as_("operator", Method::POST, "/api/v1/system-records", &record);
    assert_eq!(made.status, 201, "{}", made.text());
    for who in ["admin", "operator"] {
        for list in ["?event_type=E", "/audit?limit=1"] {
            let page = keyed.get_as(who, &format!("/api/v1/logs/system{list}")).ok();
            let item = &page["items"][0];
            assert_eq!(
                (&item["event_type"], &item["tenant_id"]),
                (&json!("E"), &Value::Null),
                "{who}: {list}"
            );
        }
    }
}

#[test]
fn bad_parameters_of_the_lists_are_refused() {
    let server = TestServer::new();
    for list in [
        SYSTEM.to_owned(),
        format!("{SYSTEM}/audit"),
        AUDIT.to_owned(),
        format!("{AUDIT}/identity"),
        format!("{AUDIT}/authorization"),
        format!("{AUDIT}/access"),
    ] {
        for bad in [
            "limit=0",
            "limit=-1",
            "limit=1000000000",
            "limit=x",
            "offset=-1",
            "cursor=x",
            "colour=red",
            "as_of=99",
        ] {
            server.get(&format!("{list}?{bad}")).problem(400);
        }
        assert_eq!(
            server.get(&format!("{list}?offset=10001")).problem(400),
            "use_cursor"
        );
    }
    server.run("r");
    for read in ["", "/audit", "/r/events", "/r/replay"] {
        let answer = server.get(&format!("{SYSTEM}{read}?instance_as_of=99"));
        assert_eq!(answer.problem(400), "bad_parameter");
        let detail = answer.json()["detail"].clone();
        assert!(
            detail.as_str().unwrap().contains("query: instance_as_of: "),
            "{detail}"
        );
    }
}

#[test]
fn a_word_that_no_entry_can_have_is_refused_with_those_that_it_can() {
    let server = TestServer::new();
    log(&server, "r", "a", 9);
    for (list, name, known) in [
        (AUDIT, "event_type", "SignalEscalated"),
        (AUDIT, "entity_type", "POLICY_RULE"),
        (AUDIT, "actor_type", "HUMAN"),
        (SYSTEM, "severity", "CRITICAL"),
    ] {
        for bad in ["nope", "", &known.to_lowercase()] {
            let refused = server.get(&format!("{list}?{name}={bad}"));
            assert_eq!(refused.problem(400), "bad_parameter", "{name}={bad}");
            let detail = refused.json()["detail"].to_string();
            assert!(detail.contains(name) && detail.contains(known), "{detail}");
        }
        let found = server.get(&format!("{list}?{name}={known}")).ok();
        assert_eq!(
            (&found["total"], &found["filters_applied"][name]),
            (&json!(0), &json!(known))
        );
    }
    // Open words.
    for name in ["component", "event_type"] {
        assert_eq!(
            server.get(&format!("{SYSTEM}?{name}=nope")).ok()["total"],
            0,
            "{name}"
        );
    }
}

#[test]
fn what_came_with_a_run_is_read_by_the_run() {
    let server = TestServer::new();
    server.run("r");
    server.run("other");
    server.complete("r");
    log(&server, "r", "mine", 17);
    log(&server, "other", "not mine", 9);
    let events = read(&server, &format!("{SYSTEM}/r/events"), "SystemEventsResult");
    assert_eq!(events["total_events"], 1);
    assert_eq!(events["events"][0]["summary"], "mine");
    let replay = read(&server, &format!("{SYSTEM}/r/replay"), "SystemReplayResult");
    assert_eq!(
        replay["events"].as_array().unwrap().len(),
        2,
        "all of the window, whosever they are"
    );
    assert_eq!(
        (&replay["events"][0]["source"], &replay["events"][0]["outcome"]),
        (&json!("system"), &json!("ERROR"))
    );
    let whole = read(&server, "/api/v1/logs/llm-runs/r/replay", "LLMRunReplayResult");
    let system = whole["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["source"] == "system");
    assert_eq!(system.count(), 2);
    let snapshot = read(&server, &format!("{SYSTEM}/r/snapshot"), "SystemSnapshotResult");
    assert!(snapshot["details"]["note"].is_string());
    for read in ["events", "replay", "snapshot", "telemetry"] {
        assert_eq!(
            server.get(&format!("{SYSTEM}/nobody/{read}")).problem(404),
            "not_found"
        );
        server.get(&format!("{SYSTEM}/r/{read}?x=1")).problem(400);
    }
}

#[test]
fn telemetry_is_a_stub_until_there_is_some() {
    let server = TestServer::new();
    server.run("r");
    let path = format!("{SYSTEM}/r/telemetry");
    let stub = read(&server, &path, "TelemetryStubResult");
    assert_eq!(
        (
            &stub["status"],
            &stub["available_data"],
            &stub["future_milestone"]
        ),
        (
            &json!("telemetry_not_collected"),
            &json!(["events", "snapshot", "replay"]),
            &json!("none")
        )
    );
    let metrics = json!({ "resourceMetrics": [{
        "resource": { "attributes": [{ "key": "deponent.run.id", "value": { "stringValue": "r" } }] },
        "scopeMetrics": [{ "scope": { "name": "meter" }, "metrics": [{ "name": "m", "unit": "s", "gauge": {
            "dataPoints": [{ "timeUnixNano": "1767323045000000000", "asDouble": 1.5 }] } }] }],
    }] });
    assert_eq!(server.post("/v1/metrics", &metrics).ok(), json!({}));
    let collected = read(&server, &path, "TelemetryResult");
    assert_eq!(
        (&collected["status"], &collected["total"]),
        (&json!("collected"), &json!(1))
    );
    let point = &collected["points"][0];
    assert_eq!(
        (&point["name"], &point["value"], &point["source"], &point["unit"]),
        (&json!("m"), &json!(1.5), &json!("meter"), &json!("s"))
    );
}

#[test]
fn more_than_ten_thousand_records_of_a_run_are_read_in_pages() {
    let server = TestServer::new();
    server.run("r");
    server.complete("r");
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let records: Vec<Value> = (0..10_007_u64)
        .map(|n| {
            // Recorded in another order than they happened.
            let at = 1_767_323_045_000_001_000 + 1_000 * (n * 7 % 10_007);
            json!({ "timeUnixNano": at.to_string(), "severityNumber": 9, "body": { "stringValue": format!("n{n}") } })
        })
        .collect();
    let logs = json!({ "resourceLogs": [{
        "resource": { "attributes": [attribute("deponent.run.id", "r")] },
        "scopeLogs": [{ "scope": { "name": "worker" }, "logRecords": records }],
    }] });
    assert_eq!(server.post("/v1/logs", &logs).ok(), json!({}));
    for (what, name, member) in [
        ("events", "SystemEventsResult", "summary"),
        ("replay", "SystemReplayResult", "timestamp"),
    ] {
        let path = format!("{SYSTEM}/r/{what}");
        let first = read(&server, &path, name);
        let cursor = first["next_cursor"].as_str().unwrap();
        assert_eq!(first["has_more"], true);
        log(&server, "r", "came meanwhile", 9);
        let second = read(&server, &format!("{path}?cursor={cursor}"), name);
        assert_eq!(
            (&second["has_more"], &second["next_cursor"]),
            (&json!(false), &Value::Null)
        );
        let of = |page: &Value| -> Vec<String> {
            let events = page["events"].as_array().unwrap();
            events.iter().map(|event| event[member].to_string()).collect()
        };
        let (first, second) = (of(&first), of(&second));
        let shown: std::collections::BTreeSet<&String> = first.iter().chain(&second).collect();
        assert_eq!(
            (first.len(), shown.len()),
            (10_000, first.len() + second.len()),
            "{what}"
        );
        assert!(shown.len() >= 10_007, "{what}: {}", shown.len());
        if what == "replay" {
            assert!(first.is_sorted() && second.is_sorted());
        }
    }
}

#[test]
fn a_snapshot_is_the_environment_evidence() {
    let server = TestServer::new();
    server.spans(&[crate::server::span(3, 1)]);
    let run = "03".repeat(16);
    let snapshot = read(
        &server,
        &format!("{SYSTEM}/{run}/snapshot"),
        "SystemSnapshotResult",
    );
    assert_eq!(snapshot["details"]["resource"]["service.name"], "agent");
    assert_eq!(snapshot["environment_ids"].as_array().unwrap().len(), 1);
    assert!(snapshot["metadata"]["ledger"]["leaf_index"].is_u64());
}

#[test]
fn lists_of_the_audit_topic_begin_empty_but_for_earlier_reads_of_them() {
    let server = TestServer::new();
    for (list, form, name, total) in [
        ("", "AuditLedgerListResult", "items", 0),
        ("/identity", "AuditIdentityResult", "events", 0),
        ("/authorization", "AuditAuthorizationResult", "decisions", 2),
        ("/access", "AuditAccessResult", "events", 3),
        ("/exports", "AuditExportsResult", "exports", 0),
    ] {
        let page = read(&server, &format!("{AUDIT}{list}"), form);
        assert_eq!(
            (
                page[name].as_array().unwrap().len(),
                &page["total"],
                &page["has_more"]
            ),
            (total, &json!(total), &json!(false)),
            "{list}"
        );
    }
    for id in ["x", "01900000-0000-7000-8000-000000000000", "%27"] {
        server.get(&format!("{AUDIT}/entries/{id}")).problem(404);
    }
}

#[test]
fn audit_events_are_listed_filtered_and_shown_in_full() {
    let server = TestServer::new();
    server.run("r");
    let limit = |event_type: &str, actor: &str| {
        server.created(
            "/api/v1/audit-events",
            &json!({ "event_type": event_type, "entity_type": "LIMIT", "entity_id": "l1", "actor_type": actor,
                "actor_id": "ada", "action_reason": "why", "before_state": { "max": 1 },
                "after_state": { "max": 2, "run_id": "r", "policy_id": "p" }, "correlation_id": "c" }),
        )
    };
    limit("LimitUpdated", "HUMAN");
    let made = limit("LimitOverrideGranted", "AGENT");
    let all = read(&server, AUDIT, "AuditLedgerListResult");
    assert_eq!(
        (&all["total"], &all["items"][1]["actor_id"]),
        (&json!(2), &json!("ada"))
    );
    for (query, total) in [
        ("?event_type=LimitUpdated", 1),
        ("?entity_type=LIMIT&actor_type=AGENT", 1),
        ("?entity_type=POLICY_RULE", 0),
    ] {
        assert_eq!(
            server.get(&format!("{AUDIT}{query}")).ok()["total"],
            total,
            "{query}"
        );
    }
    let hostile = format!("{AUDIT}?event_type=%27%20OR%20%271%27=%271");
    assert_eq!(server.get(&hostile).problem(400), "bad_parameter");
    let id = all["items"][0]["id"].as_str().unwrap();
    let entry = read(
        &server,
        &format!("{AUDIT}/entries/{id}"),
        "AuditLedgerDetailResult",
    );
    assert_eq!(made["receipt"]["record_id"], id);
    assert_eq!(
        (
            &entry["before_state"],
            &entry["after_state"]["max"],
            &entry["correlation_id"]
        ),
        (&json!({ "max": 1 }), &json!(2), &json!("c"))
    );
    assert_eq!(
        (
            &entry["metadata"]["agent_id"],
            &entry["metadata"]["human_actor_id"]
        ),
        (&json!("ada"), &Value::Null)
    );
    let run = server.get("/api/v1/logs/llm-runs/r/envelope").ok()["id"].clone();
    server
        .get(&format!("{AUDIT}/entries/{}", run.as_str().unwrap()))
        .problem(404);
    let governance = read(
        &server,
        "/api/v1/logs/llm-runs/r/governance",
        "LLMRunGovernanceResult",
    );
    assert_eq!(governance["total_events"], 2);
    let granted = &governance["events"][1];
    assert_eq!(
        (&granted["decision"], &granted["entity_id"], &granted["policy_id"]),
        (&json!("GRANTED"), &json!("l1"), &json!("p"))
    );
}
