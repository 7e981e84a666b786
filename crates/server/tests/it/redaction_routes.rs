//! Secrets planted in the routes that `redaction` has none for: lineage, governance, replay, evidence, settings, gRPC.

use std::sync::LazyLock;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use serde_json::{Value, json};

use crate::redaction::{LOG, SECRETS, assert_all_clean, planted, planted_object};
use crate::request_ids::assert_all_named;
use crate::serve::Served;
use crate::server::TestServer;
use crate::support::{sha256, ticking_server};

/// The body with everything of `planted` beside what it has.
fn with(mut body: Value, planted: &Value) -> Value {
    let members = planted.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    body
}

#[test]
fn no_secret_sent_as_lineage_is_kept_anywhere() {
    LazyLock::force(&LOG);
    let server = TestServer::new();
    server.run("r");
    let (text, object) = (planted(), planted_object());
    let evidence = json!({ "type": "evidence", "run_id": "r", "id": "ev-1", "input_row_ids": ["a|b"], "agent": text,
        "reviewed_at": SECRETS[0], "key_columns": [SECRETS[3]], "x_hash": SECRETS[4], "timestamp": SECRETS[0],
        "steps": [{ "uri": SECRETS[0] }] });
    server.created("/api/v1/lineage/evidence", &with(evidence, &object));
    let deterministic = json!({ "type": "deterministic", "run_id": "r", "fn": "f", "row_ids": ["a"], "params": object,
        "artifact": text, "approved_at": text, "step": { "agent_id": SECRETS[0] } });
    server.created("/api/v1/lineage/deterministic", &with(deterministic, &object));
    let request = json!({ "run_id": "r", "fn": "g", "params": object, "artifact": SECRETS[5], "id": "d" });
    server.created("/api/v1/lineage/deterministic", &request);
    for path in ["ai-output", "ai-metrics"] {
        let body = json!({ "run_id": "r", "kind": text, "artifact": SECRETS[0], "id": SECRETS[1], "uri": SECRETS[0],
            "agent": SECRETS[0], "reviewed_at": SECRETS[0], "input_row_ids": [SECRETS[3]], "a_hash": SECRETS[4] });
        let path = format!("/api/v1/lineage/{path}");
        let body = with(body, &object);
        let made = server.created(&path, &body);
        assert!(made["redactions"]["count"].as_u64().unwrap() > 20, "{made}");
        assert_eq!(
            server.post(&path, &body).status,
            200,
            "the same again after redaction"
        );
    }
    // What is refused must not be kept either.
    let unknown = json!({ "evidence_type": "csv", "uri": null, "note": text });
    assert_eq!(server.post("/api/v1/lineage/evidence", &unknown).status, 422);
    let wrong = json!({ "type": "ai_output", "deponent.copy": text });
    assert_eq!(server.post("/api/v1/lineage/ai-output", &wrong).status, 422);
    assert_all_clean(&server);
    assert_all_named(&server);
}

#[test]
fn no_secret_said_of_a_job_its_contract_or_a_signal_is_kept_anywhere() {
    LazyLock::force(&LOG);
    let server = ticking_server();
    let (text, object) = (planted(), planted_object());
    let changes = with(json!({ "capability_name": "search" }), &object);
    let contract = |scope: &Value, changes: &Value| {
        server.post(
            "/api/v1/contracts",
            &json!({ "contract_id": "c", "scope": scope, "proposed_changes": changes }),
        )
    };
    // Names that are judged by are not redacted but refused.
    let scope = json!(["search", SECRETS[0]]);
    assert_eq!(contract(&scope, &changes).problem(422), "name_redacted");
    let proposed = json!([{ "scope": SECRETS[0] }]);
    assert_eq!(
        contract(&json!(["search"]), &proposed).problem(422),
        "name_redacted"
    );
    let made = contract(&json!(["search"]), &changes);
    assert_eq!(made.status, 201, "{}", made.text());
    for (signal_type, scope) in [("freeze", SECRETS[0]), (SECRETS[3], "search")] {
        let signal = json!({ "signal_type": signal_type, "scope": scope, "decision": "allow" });
        assert_eq!(
            server.post("/api/v1/signals", &signal).problem(422),
            "name_redacted"
        );
    }
    let act = |job: &str, what: &str, body: &Value| {
        server.created(&format!("/api/v1/jobs/{job}/{what}"), body);
    };
    for job in ["a", "b", "d"] {
        let new = json!({ "job_id": job, "handler": format!("mail {}", SECRETS[0]), "contract_id": "c",
            "payload": object, "retry": { "max_retries": 1, "retryable_errors": [SECRETS[4]] } });
        server.created("/api/v1/jobs", &new);
        act(job, "start", &json!({}));
        act(
            job,
            "progress",
            &json!({ "percentage": 1, "message": text, "metadata": object }),
        );
        let output = with(
            json!({ "target": SECRETS[0], "handler": SECRETS[3], "rollback_action": text }),
            &object,
        );
        act(
            job,
            "steps",
            &json!({ "step_index": 0, "status": "COMPLETED", "output": output }),
        );
        act(
            job,
            "health",
            &json!({ "before": { "search": "HEALTHY", (SECRETS[0]): "HEALTHY" }, "after": { "search": SECRETS[4] } }),
        );
    }
    act("a", "complete", &json!({ "result": object }));
    act("b", "fail", &json!({ "error": text }));
    act("d", "cancel", &json!({ "reason": text }));
    let verdict = server.get("/api/v1/audits/a").ok();
    let resolved = server.post(
        "/api/v1/audits/a/resolve",
        &json!({ "decision": "stop", "actor_id": "ada", "reason": text }),
    );
    assert!(
        [201, 409].contains(&resolved.status.as_u16()),
        "{verdict}: {}",
        resolved.text()
    );
    assert_all_clean(&server);
    assert_all_named(&server);
}

#[test]
fn no_secret_in_evidence_replay_or_what_only_answers_is_kept_anywhere() {
    LazyLock::force(&LOG);
    let server = TestServer::new();
    server.run("r");
    let (text, object) = (planted(), planted_object());
    let created = |path: &str, body: Value| server.created(&format!("/api/v1/{path}"), &body);
    let mail = format!("by {}", SECRETS[0]);
    created(
        "runs/r/evidence/environment",
        json!({ "sdk_mode": "inline", "sdk_version": mail, "environment": "prod" }),
    );
    let activity = json!({ "step_index": 0, "skill_id": SECRETS[6], "model_name": mail,
        "prompt_fingerprint": sha256("p"), "prompt_token_length": 5, "prompt_template_id": SECRETS[3],
        "prompt_template_version": SECRETS[4], "completion_type": SECRETS[5], "sensitivity_class": mail,
        "redaction_status": mail });
    created("runs/r/evidence/activity", activity);
    let provider = json!({ "step_index": 0, "provider_name": mail, "provider_request_id": SECRETS[3],
        "model_name": SECRETS[4], "model_version": SECRETS[5], "api_version": SECRETS[6],
        "provider_error_code": mail });
    created("runs/r/evidence/provider", provider);

    // Outputs are kept exact for replay, encrypted; what is on record of them is redacted.
    for (index, behavior) in ["skip", "check", "execute"].into_iter().enumerate() {
        let step = json!({ "run_id": "r", "step_index": index, "replay_behavior": behavior,
            "idempotency_key": format!("k{index}"), "input_hash": "in" });
        let begun = server.post("/api/v1/replay/steps", &step).ok();
        let token = begun["token"].as_str().unwrap();
        let result = json!({ "output": [object, text] });
        created(&format!("replay/steps/{token}/result"), result);
    }
    let key = "/api/v1/idempotency/k";
    let lease = server
        .post(&format!("{key}/check"), &json!({ "request": object }))
        .ok();
    let done = json!({ "lease": lease["lease"], "trace_id": "t", "response": object });
    assert_eq!(server.post(&format!("{key}/complete"), &done).status, 200);

    // What only answers.
    assert_eq!(
        server
            .post("/api/v1/fingerprint", &json!({ "text": text }))
            .status,
        200
    );
    let panel = json!({ "panel_id": mail, "slots": [{ "slot_id": mail, "signals": { "active_incidents": 1, "note": text } }] });
    let checked = server.post("/api/v1/panels/check", &panel);
    assert!(
        [200, 422].contains(&checked.status.as_u16()),
        "{}",
        checked.text()
    );

    // Settings are read as they are sent: those with a secret in them are refused.
    for (path, body) in [
        ("redaction", json!({ "fields": [SECRETS[0]] })),
        (
            "redaction",
            json!({ "patterns": [{ "name": "x", "pattern": SECRETS[4] }] }),
        ),
        ("integrity-policy", json!({ "required": [text] })),
    ] {
        let answer = server.request(
            axum::http::Method::PUT,
            &format!("/api/v1/{path}"),
            &[("content-type", "application/json")],
            body.to_string(),
        );
        assert_eq!(answer.status, 422, "{path}: {}", answer.text());
    }
    assert_all_clean(&server);
    assert_all_named(&server);
}

#[test]
fn no_secret_sent_by_grpc_is_kept_anywhere() {
    LazyLock::force(&LOG);
    let mut served = Served::new();
    let text = planted();
    let string = |key: &str, value: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    };
    let mut request = crate::otlp::request(false);
    let resource_spans = &mut request.resource_spans[0];
    resource_spans.resource = Some(opentelemetry_proto::tonic::resource::v1::Resource {
        attributes: vec![string("host.name", SECRETS[0]), string("x.token", SECRETS[7])],
        ..Default::default()
    });
    let span = &mut resource_spans.scope_spans[0].spans[0];
    span.name.clone_from(&text);
    span.attributes = vec![
        string("gen_ai.operation.name", "chat"),
        string("gen_ai.input.messages", &planted_object().to_string()),
        string(SECRETS[0], &text),
    ];
    served.server().runtime.block_on(async {
        let client = TraceServiceClient::connect(served.grpc_url()).await.unwrap();
        let answer = client.clone().export(request).await.unwrap().into_inner();
        assert_eq!(answer.partial_success, None);
    });
    assert_all_clean(served.server());
    served.stop();
}
