//! Secrets that are sent wherever text can be sent, and looked for wherever text is kept.

use std::io::{Read, Write};
use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::server::{TestServer, export, span};
use crate::support::sha256;

/// Each is found by another rule.
pub(crate) const SECRETS: [&str; 9] = [
    "ada.lovelace@example.com",
    "4111 1111 1111 1111",
    "5500-0000-0000-0004",
    "123-45-6789",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "xoxb-123456789012-abcdefABCDEF",
    "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0.x1",
    "MIIEpAIBAAKCAQEA",
];

/// Stands under secret names only.
const PASSWORD: &str = "hunter2hunter2";

/// A text that holds all of them.
pub(crate) fn planted() -> String {
    format!(
        "mail {}, cards {} and {}, ssn {}, keys {} {} {}\nAuthorization: Bearer {}\n\
         -----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\nend",
        SECRETS[0],
        SECRETS[1],
        SECRETS[2],
        SECRETS[3],
        SECRETS[4],
        SECRETS[5],
        SECRETS[6],
        SECRETS[7],
        SECRETS[8]
    )
}

/// An object that holds them at several depths: as text, as names, under secret names, as JSON within text.
pub(crate) fn planted_object() -> Value {
    let inner = json!({ "api_key": PASSWORD, "note": planted(), "arguments": json!({ "token": PASSWORD }).to_string() });
    json!({
        "text": planted(),
        "deep": [[{ "x": { "y": [planted()] } }]],
        "Password": PASSWORD,
        "http.request.header.Authorization": PASSWORD,
        "credentials": { "user": PASSWORD, "list": [PASSWORD] },
        SECRETS[0]: 1,
        "json": inner.to_string(),
        "cut": format!("{{\"a\":1,\"secret\":\"{PASSWORD}"),
    })
}

/// What the tests of this process log.
pub(crate) static LOG: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(|| {
    let log = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&log);
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || Sink(Arc::clone(&to)))
        .try_init();
    log
});

struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The first secret in base64, as bodies hold bytes.
const IN_BYTES: &str = "YWRhLmxvdmVsYWNlQGV4YW1wbGUuY29t";

fn assert_clean(place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for secret in SECRETS.into_iter().chain([PASSWORD, IN_BYTES]) {
        assert!(!text.contains(secret), "{secret} stands in {place}");
    }
}

/// Every line that was logged, at every level, by whatever is linked in.
pub(crate) fn assert_log_clean() {
    // Otherwise somebody else may have the log, and this one is empty.
    tracing::trace!("the log is looked at");
    let log = LOG.lock().unwrap();
    let text = String::from_utf8_lossy(&log);
    assert!(
        text.contains("the log is looked at"),
        "what is logged is not seen"
    );
    assert_clean("the log", &log);
}

/// Every leaf and body, unpacked, and every file as it lies.
pub(crate) fn assert_all_clean(server: &TestServer) {
    let tenant = server.app.ledger.tenant("default").unwrap();
    let ledger_no = tenant.ledger().row.ledger_no;
    let size = server.tree_size();
    let records = server.app.ledger.records(&tenant);
    for leaf in 0..size {
        let record = records
            .read(&[store::LeafKey::new(ledger_no, leaf)])
            .unwrap()
            .pop()
            .unwrap();
        assert_clean(&format!("leaf {leaf}"), &record.header);
        assert_clean(
            &format!("the body of leaf {leaf}"),
            &record.body.into_bytes().unwrap(),
        );
    }
    let folder = &server.app.ledger.options().data_dir;
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = file.path();
        // What is called `.new` is about to be renamed into its place by who signs, and may be gone.
        let is_new = path.extension().is_some_and(|end| end == "new");
        if !is_new && file.file_type().unwrap().is_file() {
            assert_clean(&path.display().to_string(), &std::fs::read(&path).unwrap());
            files += 1;
        }
    }
    assert!(files >= 2, "database and log are there");
    assert_log_clean();
    let verified = server.post("/api/v1/verifications", &json!({})).ok();
    assert_eq!(verified["status"], "verified", "{verified}");
}

#[test]
fn no_secret_sent_by_rest_is_kept_anywhere() {
    LazyLock::force(&LOG);
    let server = TestServer::new();
    let (text, object) = (planted(), planted_object());
    server.created(
        "/api/v1/runs",
        &json!({ "run_id": "r", "goal": text, "plan": [object, text], "agent_id": "planner" }),
    );
    let step = |index: u32| {
        json!({ "step_index": index, "skill_name": "mail ada.lovelace@example.com", "status": "failure", "params": object,
            "outcome_code": "for 123-45-6789", "outcome_category": "x AKIAIOSFODNN7EXAMPLE", "skill_id": SECRETS[6],
            "outcome_data": [object, text], "rng_state_before": object })
    };
    server.created("/api/v1/runs/r/steps", &step(0));
    let again = server.post("/api/v1/runs/r/steps", &step(0));
    assert_eq!(
        again.status,
        200,
        "the same again is the same after redaction: {}",
        again.text()
    );
    server.created(
        "/api/v1/runs/r/evidence/policy-decision",
        &json!({ "policy_type": "budget", "decision": "DENIED", "decision_reason": text, "thresholds_used": object,
            "customer_guardrail_result": object, "provider_moderation_result": text,
            "decision_reason_codes": ["for 123-45-6789"] }),
    );
    server.created(
        "/api/v1/runs/r/complete",
        &json!({ "status": "failed", "metadata": object, "termination_reason": text,
            "provider": "ada.lovelace@example.com", "model": "ghp_0123456789abcdefghijABCDEFGHIJ012345" }),
    );
    server.run("aborted");
    server.created("/api/v1/runs/aborted/abort", &json!({ "reason": text }));
    server.created(
        "/api/v1/traces",
        &json!({ "run_id": "whole", "goal": text, "plan": [object], "steps": [step(0), step(1)],
            "status": "completed", "metadata": object }),
    );
    server.created(
        "/api/v1/audit-events",
        &json!({ "event_type": "LimitUpdated", "entity_type": "LIMIT", "entity_id": "l", "actor_type": "HUMAN",
            "actor_id": "ada", "action_reason": text, "before_state": object, "after_state": object }),
    );
    server.created(
        "/api/v1/system-records",
        &json!({ "component": "c 123-45-6789", "event_type": "e AKIAIOSFODNN7EXAMPLE", "severity": "INFO", "summary": text,
            "details": object, "host": "ada.lovelace@example.com" }),
    );
    server.created(
        "/api/v1/policy-activations",
        &json!({ "policy_id": "p", "source_pattern_id": "s", "source_recovery_id": "r", "confidence": 0.5,
            "confidence_version": "v 123-45-6789", "approval_path": "by ada.lovelace@example.com", "loop_trace_id": "l" }),
    );
    let incident = server.created(
        "/api/v1/incidents",
        &json!({ "severity": "HIGH 123-45-6789", "summary": text, "policy_name": "ada.lovelace@example.com",
            "violation_type": "xoxb-123456789012-abcdefABCDEF" }),
    );
    let id = incident["incident_id"].as_str().unwrap();
    server.created(
        &format!("/api/v1/incidents/{id}/resolve"),
        &json!({ "actor_type": "HUMAN", "actor_id": "ada", "reason": text }),
    );
    // What is refused must not be kept either.
    server.post("/api/v1/runs/none/steps", &step(0));
    server.post("/api/v1/runs/r/steps", &json!({ "unknown": text }));
    assert_all_clean(&server);
}

#[test]
fn no_secret_is_kept_in_an_archive_or_an_export_or_by_whoever_erases_and_holds() {
    LazyLock::force(&LOG);
    let server = TestServer::new();
    let (text, object) = (planted(), planted_object());
    server.run("r");
    let log = json!({ "run_id": "r", "input": object, "output": [text, object] });
    server.created("/api/v1/provenance", &log);
    server.created("/api/v1/provenance", &json!({ "input": text, "output": object }));
    server.created(
        "/api/v1/runs/r/evidence/failures",
        &json!({ "evidence_class": "policy_decisions", "failure_reason": "capture_failed", "error_message": text }),
    );
    let system = json!({ "component": "c", "event_type": "e", "severity": "INFO", "summary": text, "details": object });
    let erased = server.created("/api/v1/system-records", &system);
    server.created("/api/v1/system-records", &system);
    let hold = server.created(
        "/api/v1/holds",
        &json!({ "scope": "run", "run_id": "r", "reason": text }),
    );
    let hold = hold["hold_id"].as_str().unwrap();
    server.created(
        &format!("/api/v1/holds/{hold}/release"),
        &json!({ "reason": text }),
    );
    let key = "/api/v1/idempotency/k";
    let lease = server
        .post(&format!("{key}/check"), &json!({ "request": object }))
        .ok();
    let failed = json!({ "lease": lease["lease"], "error": text });
    assert_eq!(server.post(&format!("{key}/fail"), &failed).status, 200);
    server.complete("r");
    server.created("/api/v1/runs/r/seal", &json!({}));
    assert_all_clean(&server);
    crate::request_ids::assert_all_named(&server);

    // Payloads leave as gzip in base64.
    let tenant = server.app.ledger.tenant("default").unwrap();
    let out = tempfile::tempdir().unwrap();
    let names = (tenant.tenant_no, &*tenant.tenant_id);
    let store = server.app.ledger.store();
    let exported =
        ledger::provenance::file::export(store, names, out.path(), (None, None), &mut |_| {}).unwrap();
    let mut lines = 0;
    for file in std::fs::read_dir(out.path()).unwrap().map(Result::unwrap) {
        let file = std::fs::read_to_string(file.path()).unwrap();
        assert_clean("the export", file.as_bytes());
        for line in file.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            for payload in ["input_json", "output_json"] {
                let packed = STANDARD.decode(line[payload].as_str().unwrap()).unwrap();
                let mut payload = Vec::new();
                flate2::read::GzDecoder::new(&packed[..])
                    .read_to_end(&mut payload)
                    .unwrap();
                assert!(payload.windows(10).any(|window| window == b"<REDACTED_"));
                assert_clean("a payload of the export", &payload);
                lines += 1;
            }
        }
    }
    assert_eq!(lines, 4, "{exported:?}");

    let id = erased["receipt"]["record_id"].as_str().unwrap();
    let erased = server.request(
        axum::http::Method::DELETE,
        &format!("/api/v1/records/{id}/body"),
        &[("content-type", "application/json")],
        json!({ "reason": text }).to_string(),
    );
    assert_eq!(erased.status, 200, "{}", erased.text());
    assert_clean("the answer to an erasure", erased.text().as_bytes());

    // A year on, all of that is in archives.
    let year = 366 * 24 * 3_600 * 1_000_000;
    let later = (server.app.clock)().checked_add_micros(year).unwrap();
    assert!(server.app.ledger.retain(later).unwrap() > 2);
    let mut archives = 0;
    let folder = server.app.ledger.options().archive();
    for file in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let file = std::fs::read(file.path()).unwrap();
        assert_clean("an archive", &file);
        archives += u32::from(file.windows(10).any(|window| window == b"<REDACTED_"));
    }
    assert_eq!(archives, 2, "one of runs, one of system records");
    assert_log_clean();
}

#[test]
fn no_line_of_the_log_holds_what_came_over_the_wire() {
    LazyLock::force(&LOG);
    let mut served = crate::serve::Served::new();
    let (text, object) = (planted(), planted_object());
    let post = |path: &str, body: &str| {
        served.exchange(
            format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\nCookie: {}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                SECRETS[7],
                SECRETS[5],
                body.len()
            )
            .as_bytes(),
        )
    };
    let run = json!({ "run_id": "wire", "goal": text, "plan": [object] }).to_string();
    assert!(post("/api/v1/runs", &run).starts_with("HTTP/1.1 201"));
    assert!(post("/v1/logs", &json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": [{ "body": { "stringValue": text } }] }] }] }).to_string()).starts_with("HTTP/1.1 200"));
    // What cannot be understood is not quoted either.
    let unknown = json!({ "unknown": text, "planted": { (text.as_str()): 1 } }).to_string();
    for body in [&run[..run.len() - 1], text.as_str(), unknown.as_str()] {
        for path in [
            "/api/v1/runs",
            "/api/v1/provenance",
            "/v1/traces",
            "/v1/logs",
            "/api/v1/nothing",
        ] {
            let answer = post(path, body);
            // OTLP passes over what it does not know.
            assert!(
                answer.starts_with("HTTP/1.1 4") || path.starts_with("/v1/"),
                "{path}: {answer}"
            );
        }
    }
    served.exchange(format!("GET /{} HTTP/1.1\r\nX: {text}\r\n\r\n", SECRETS[0]).as_bytes());
    served.stop();
    assert_log_clean();
}

#[test]
fn no_secret_sent_by_otlp_is_kept_anywhere() {
    LazyLock::force(&LOG);
    let server = TestServer::new();
    let text = planted();
    let string = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let object = planted_object().to_string();
    let attributes = json!([
        string("gen_ai.operation.name", "chat"),
        string("gen_ai.request.model", "m ada.lovelace@example.com"),
        string("gen_ai.provider.name", "p 123-45-6789"),
        string("gen_ai.input.messages",
            &json!([{ "role": "user", "parts": [{ "type": "text", "content": text }, { "type": "tool_call", "arguments": planted_object() }] }]).to_string()),
        string("gen_ai.output.messages",
            &json!([{ "role": "assistant", "parts": [{ "type": "text", "content": text }], "finish_reason": "stop" }]).to_string()),
        string("gen_ai.agent.name", "ada.lovelace@example.com"),
        string("error.type", "e AKIAIOSFODNN7EXAMPLE"),
        string("http.request.header.authorization", PASSWORD),
        string("custom", &object),
        string("ada.lovelace@example.com", "x"),
        { "key": "bytes", "value": { "bytesValue": IN_BYTES } },
        { "key": "map", "value": { "kvlistValue": { "values": [string("password", PASSWORD), string("t", &text)] } } },
        { "key": "list", "value": { "arrayValue": { "values": [{ "stringValue": text }] } } },
    ]);
    let mut chat = span(1, 1);
    chat["attributes"] = attributes.clone();
    chat["name"] = json!(text);
    chat["traceState"] = json!("k=123-45-6789");
    chat["status"] = json!({ "code": 2, "message": text });
    chat["events"] = json!([{ "name": text, "timeUnixNano": "1", "attributes": attributes }]);
    chat["links"] = json!([{ "traceId": "01".repeat(16), "spanId": "02".repeat(8), "traceState": text, "attributes": attributes }]);
    let mut tool = span(1, 2);
    tool["attributes"] = json!([
        string("gen_ai.operation.name", "execute_tool"),
        string("gen_ai.tool.name", "ada.lovelace@example.com"),
        string("gen_ai.tool.call.arguments", &object),
        string("gen_ai.tool.call.result", &object),
    ]);
    let mut request = export(&[chat.clone(), tool]);
    let resource = &mut request["resourceSpans"][0];
    resource["resource"]["attributes"] = attributes.clone();
    resource["scopeSpans"][0]["scope"] =
        json!({ "name": text, "version": "123-45-6789", "attributes": attributes });
    assert_eq!(server.post("/v1/traces", &request).ok(), json!({}));
    let before = server.tree_size();
    assert_eq!(
        server.post("/v1/traces", &request).ok(),
        json!({}),
        "the same again is the same after redaction"
    );
    assert_eq!(server.tree_size(), before);

    let logs = json!({ "resourceLogs": [{ "resource": { "attributes": attributes }, "scopeLogs": [{
        "scope": { "name": text, "attributes": attributes },
        "logRecords": [
            { "timeUnixNano": "1767323000000000000", "body": { "stringValue": text }, "attributes": attributes, "severityText": text },
            { "body": { "kvlistValue": { "values": [string("token", PASSWORD), string("t", &text)] } }, "eventName": text },
        ],
    }] }] });
    assert_eq!(server.post("/v1/logs", &logs).ok(), json!({}));
    let metrics = json!({ "resourceMetrics": [{ "resource": { "attributes": attributes }, "scopeMetrics": [{
        "scope": { "name": text },
        "metrics": [{ "name": text, "unit": "123-45-6789", "gauge": { "dataPoints": [
            { "timeUnixNano": "1767323000000000000", "asInt": "1", "attributes": attributes },
        ] } }],
    }] }] });
    assert_eq!(server.post("/v1/metrics", &metrics).ok(), json!({}));
    assert_all_clean(&server);

    // What the record says of it.
    let run = "01".repeat(16);
    let records = server
        .get(&format!("/api/v1/records?run_id={run}&kind=trace.step"))
        .ok();
    let record = &records["items"][0];
    assert!(
        record["redactions"]["count"].as_u64().unwrap() > 20,
        "{}",
        record["redactions"]
    );
    assert_eq!(record["redactions"], record["body"]["redactions"]);
    let patterns = record["redactions"]["patterns"].as_array().unwrap();
    for pattern in [
        "email",
        "field",
        "card_number",
        "us_ssn",
        "private_key",
        "bearer_token",
        "aws_key",
    ] {
        assert!(patterns.contains(&json!(pattern)), "{pattern}");
    }
    let activity = &record["body"]["activity"];
    assert_eq!(activity["fingerprint_of"], "redacted");
    let said = "mail <REDACTED_EMAIL>, cards <REDACTED_CARD_NUMBER> and <REDACTED_CARD_NUMBER>, ssn <REDACTED_US_SSN>, \
        keys <REDACTED_AWS_KEY> <REDACTED_GITHUB_TOKEN> <REDACTED_SLACK_TOKEN>\nAuthorization: <REDACTED_BEARER_TOKEN>\n\
        <REDACTED_PRIVATE_KEY>\nend";
    assert_eq!(
        activity["response_fingerprint"],
        sha256(said),
        "over the text that is stored"
    );
}

#[test]
fn a_secret_that_stands_in_bytes_alone_is_kept_nowhere() {
    LazyLock::force(&LOG);
    let server = TestServer::new();
    let bytes = json!({ "bytesValue": IN_BYTES });
    let attributes = json!([
        { "key": "b", "value": { "arrayValue": { "values": [{ "kvlistValue": { "values": [{ "key": "k", "value": bytes }] } }] } } },
        { "key": "deponent.run.id", "value": bytes },
        { "key": "image", "value": { "bytesValue": "/9j/4A==" } },
        { "key": "plain", "value": { "bytesValue": "cGxhaW4=" } },
    ]);
    let mut chat = span(1, 1);
    chat["attributes"] = attributes.clone();
    let mut event = span(1, 2);
    event["events"] = json!([{ "name": "e", "timeUnixNano": "1", "attributes": attributes }]);
    let mut plain = span(1, 3);
    plain["attributes"] = json!([{ "key": "plain", "value": { "bytesValue": "cGxhaW4=" } }]);
    let mut request = export(&[chat, event, plain]);
    request["resourceSpans"][0]["resource"]["attributes"] = attributes.clone();
    request["resourceSpans"][0]["scopeSpans"][0]["scope"] = json!({ "name": "s", "attributes": attributes });
    assert_eq!(server.post("/v1/traces", &request).ok(), json!({}));
    let before = server.tree_size();
    assert_eq!(server.post("/v1/traces", &request).ok(), json!({}));
    assert_eq!(server.tree_size(), before, "the same again is the same");
    let scoped = json!({ "attributes": attributes });
    let logs = json!({ "resourceLogs": [{ "resource": scoped, "scopeLogs": [{ "scope": scoped, "logRecords": [
        { "timeUnixNano": "1767323000000000000", "body": { "stringValue": "t" }, "attributes": attributes },
        { "timeUnixNano": "1767323000000000000", "body": bytes },
    ] }] }] });
    assert_eq!(server.post("/v1/logs", &logs).ok(), json!({}));
    let point = json!({ "timeUnixNano": "1767323000000000000", "asInt": "1", "attributes": attributes });
    let metrics = json!({ "resourceMetrics": [{ "resource": scoped, "scopeMetrics": [{ "scope": scoped,
        "metrics": [{ "name": "m", "gauge": { "dataPoints": [point] } }] }] }] });
    assert_eq!(server.post("/v1/metrics", &metrics).ok(), json!({}));
    assert_all_clean(&server);
    // Other bytes stay what they are.
    let run = "01".repeat(16);
    let records = server
        .get(&format!("/api/v1/records?run_id={run}&kind=trace.step"))
        .ok();
    let kept = &records["items"][0]["body"]["otel"]["attributes"];
    assert_eq!(
        (&kept["image"], &kept["plain"]),
        (&json!("/9j/4A=="), &json!("cGxhaW4=")),
        "{kept}"
    );
    assert_eq!(kept["b"][0]["k"], "<REDACTED_EMAIL>");
}
