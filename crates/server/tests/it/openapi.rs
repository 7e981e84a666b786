use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::server::TestServer;

#[test]
fn the_document_is_the_committed_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let mut document = ::server::openapi().to_pretty_json().unwrap();
    document.push('\n');
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &document).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == document,
        "docs/openapi.json differs: run with UPDATE_GOLDEN=1 and review the difference"
    );
}

#[test]
fn the_document_and_its_page_are_served() {
    let server = TestServer::new();
    let document = server.get("/api/openapi.json").ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(document["paths"]["/api/v1/records/{id}"].is_object());
    let page = server.get("/api/docs");
    assert!(page.header("content-type").starts_with("text/html"));
    let text = page.text();
    assert!(
        !text.contains("src=") && !text.contains("//cdn") && !text.contains("https://"),
        "nothing foreign"
    );
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let document = serde_json::to_value(::server::openapi()).unwrap();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_list_documents_its_parameters() {
    let document = serde_json::to_value(::server::openapi()).unwrap();
    let names = |path: &str| -> Vec<String> {
        let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        let of_query = parameters.iter().filter(|parameter| parameter["in"] == "query");
        of_query
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect()
    };
    for path in ["/api/v1/records", "/api/v1/traces", "/api/v1/logs/llm-runs"] {
        let names = names(path);
        for name in ["limit", "cursor", "as_of"] {
            assert!(names.iter().any(|found| found == name), "{path}: {name}");
        }
    }
    assert_eq!(names("/api/v1/traces/diff"), ["left", "right"]);
    assert_eq!(names("/api/v1/steps"), ["idempotency_key"]);
}

#[test]
fn where_any_json_is_taken_the_document_names_no_type() {
    let document = serde_json::to_value(::server::openapi()).unwrap();
    for (schema, member) in [
        ("ReplayOutput", "output"),
        ("ReplayDecision", "output"),
        ("ReplayResult", "output"),
        ("IdempotencyCheck", "request"),
        ("IdempotencyComplete", "response"),
        ("ProvenanceLog", "input"),
        ("ProvenanceLog", "output"),
        ("JobCreate", "payload"),
        ("JobComplete", "result"),
        ("ContractRecord", "proposed_changes"),
        ("Contract", "proposed_changes"),
        ("Divergence", "left"),
        ("Divergence", "right"),
    ] {
        let member = &document["components"]["schemas"][schema]["properties"][member];
        assert!(
            member.is_object() && member["type"].is_null(),
            "{schema}: {member}"
        );
    }
}

#[test]
fn filters_by_status_name_every_word() {
    let document = serde_json::to_value(::server::openapi()).unwrap();
    for (path, name, word) in [
        ("/api/v1/traces", "status", "`ended`"),
        ("/api/v1/logs/llm-runs", "execution_status", "`ENDED`"),
    ] {
        let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        let found = parameters.iter().find(|parameter| parameter["name"] == name);
        let description = found.unwrap()["description"].as_str().unwrap();
        assert!(description.contains(word), "{path}: {description}");
    }
}

#[test]
fn what_a_replayed_step_is_refused_with_is_named() {
    let document = serde_json::to_value(::server::openapi()).unwrap();
    let conflict = |path: &str| {
        let said = &document["paths"][path]["post"]["responses"]["409"];
        assert!(
            said["content"]["application/problem+json"].is_object(),
            "{path}: {said}"
        );
        said["description"].as_str().unwrap().to_owned()
    };
    let step = "/api/v1/replay/steps";
    for path in [
        step.to_owned(),
        format!("{step}/{{token}}/result"),
        format!("{step}/{{token}}/fail"),
    ] {
        let said = conflict(&path);
        for code in [
            "replay_mismatch",
            "idempotency_violation",
            "lease_lost",
            "run_sealed",
            "conflict",
        ] {
            assert!(said.contains(&format!("`{code}`")), "{path}: {said}");
        }
    }
    let said = conflict("/api/v1/runs/{run_id}/steps");
    for code in ["conflict", "archived", "run_ended"] {
        assert!(said.contains(&format!("`{code}`")), "{said}");
    }
    for code in ["run_sealed", "lease_lost"] {
        assert!(!said.contains(&format!("`{code}`")), "{said}");
    }
}

#[test]
fn the_document_names_the_codes_of_each_operation() {
    let document = serde_json::to_value(::server::openapi()).unwrap();
    for (method, path, status, code, is_there) in [
        ("get", "/api/v1/traces", "400", "bad_cursor", true),
        ("get", "/api/v1/traces", "400", "use_cursor", true),
        ("get", "/api/v1/records", "400", "use_cursor", false),
        ("get", "/api/v1/traces/{id}", "400", "as_of_too_far", true),
        ("get", "/api/v1/traces/diff", "422", "same_run", true),
        ("get", "/api/v1/runs/{run_id}/integrity", "410", "seal_gone", true),
        (
            "get",
            "/api/v1/runs/{run_id}/integrity",
            "503",
            "writes_stopped",
            false,
        ),
        ("get", "/api/v1/logs/audit/access", "503", "writes_stopped", true),
        ("get", "/tlog/{tenant}/checkpoint", "404", "no_checkpoint", true),
        ("post", "/api/v1/runs", "413", "header_too_large", true),
        ("post", "/api/v1/fingerprint", "413", "header_too_large", false),
        ("post", "/api/v1/runs/{run_id}/seal", "409", "run_running", true),
        ("post", "/api/v1/jobs/{id}/start", "409", "job_stage", true),
        ("post", "/api/v1/jobs", "409", "job_stage", false),
        ("post", "/api/v1/jobs/{id}/health", "409", "conflict", true),
        ("post", "/api/v1/jobs/{id}/health", "409", "job_full", true),
        ("post", "/api/v1/jobs/{id}/complete", "409", "conflict", false),
        ("post", "/api/v1/jobs/{id}/complete", "409", "job_full", false),
        ("post", "/api/v1/signals", "409", "conflict", false),
        ("delete", "/api/v1/records/{id}/body", "409", "legal_hold", true),
        (
            "delete",
            "/api/v1/idempotency/{key}",
            "503",
            "idempotency_unavailable",
            true,
        ),
    ] {
        let said = &document["paths"][path][method]["responses"][status];
        let named = said["description"]
            .as_str()
            .is_some_and(|text| text.contains(&format!("`{code}`:")));
        assert_eq!(named, is_there, "{method} {path} {status} {code}: {said}");
    }
    let settings = &document["paths"]["/api/v1/redaction"]["put"]["responses"];
    assert!(
        settings["409"].is_null(),
        "nothing on record contradicts them: {settings}"
    );
}

#[test]
fn the_document_says_which_bodies_need_not_be_sent() {
    let document = serde_json::to_value(::server::openapi()).unwrap();
    for (path, required) in [
        ("/api/v1/jobs/{id}/start", false),
        ("/api/v1/jobs/{id}/complete", false),
        ("/api/v1/jobs/{id}/fail", true),
    ] {
        let body = &document["paths"][path]["post"]["requestBody"];
        assert_eq!(body["required"], required, "{path}: {body}");
    }
}

#[test]
fn every_example_is_taken() {
    let server = TestServer::new();
    let document = serde_json::to_value(::server::openapi()).unwrap();
    let mut examples: BTreeMap<&str, (&str, &Value)> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let example = &item["post"]["requestBody"]["content"]["application/json"]["example"];
        if example.is_object() {
            let operation = item["post"]["operationId"].as_str().unwrap();
            examples.insert(operation, (path.as_str(), example));
        }
    }
    let (mut lease, mut token) = (Value::Null, String::new());
    // What is named in a path comes before what is said of it.
    for operation in [
        "run_start",
        "step_record",
        "evidence_environment",
        "evidence_provider",
        "evidence_policy_decision",
        "replay_step",
        "replay_result",
        "run_complete",
        "trace_store",
        "audit_event_record",
        "system_record_record",
        "incident_open",
        "idempotency_check",
        "idempotency_complete",
        "contract_record",
        "job_create",
        "job_start",
        "job_health",
        "job_step",
        "job_progress",
        "job_complete",
        "panel_check",
        "signal_record",
        "provenance_log",
        "hold_place",
    ] {
        let (path, example) = examples.remove(operation).unwrap();
        let path = path
            .replace("{run_id}", "nightly-7")
            .replace("{key}", "pay-17")
            .replace("{id}", "j-1")
            .replace("{token}", &token);
        let mut body = example.clone();
        if operation == "idempotency_complete" {
            body["lease"] = lease.clone();
        }
        let answer = server.post(&path, &body);
        assert!(answer.status.is_success(), "{operation}: {}", answer.text());
        match operation {
            "replay_step" => answer.json()["token"].as_str().unwrap().clone_into(&mut token),
            "idempotency_check" => lease = answer.json()["lease"].clone(),
            _ => {}
        }
    }
    // The run has ended already; another one can be aborted.
    let (_, example) = examples.remove("run_abort").unwrap();
    assert!(
        server
            .post("/api/v1/runs", &json!({ "run_id": "r" }))
            .status
            .is_success()
    );
    let aborted = server.post("/api/v1/runs/r/abort", example);
    assert!(aborted.status.is_success(), "{}", aborted.text());
    assert!(examples.is_empty(), "not sent: {examples:?}");
}

#[test]
fn every_post_that_honours_an_idempotency_key_says_so() {
    let document = serde_json::to_value(::server::openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let none = Vec::new();
            let parameters = operation["parameters"].as_array().unwrap_or(&none);
            let named = parameters
                .iter()
                .any(|parameter| parameter["in"] == "header" && parameter["name"] == "Idempotency-Key");
            let honours = method == "post" && path.starts_with("/api/v1/");
            assert_eq!(named, honours, "{method} {path}");
            for status in ["400", "409", "422"] {
                let said = operation["responses"][status]["description"]
                    .as_str()
                    .is_some_and(|text| text.contains("`Idempotency-Key`"));
                assert_eq!(said, honours, "{method} {path} {status}");
            }
        }
    }
}

#[test]
fn every_operation_is_answered_by_the_router() {
    let server = TestServer::new();
    let document = serde_json::to_value(::server::openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{path}", "0/000")
            .replace("{tenant}", "default")
            .replace(['{', '}'], "");
        for method in item.as_object().unwrap().keys() {
            let Ok(method) = method.to_uppercase().parse() else {
                continue;
            };
            let answer = server.request(method, &path, &[], "");
            assert!(
                answer.status != 405 && answer.status.as_u16() != 500,
                "{path}: {}",
                answer.text()
            );
        }
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(text) if key == "$ref" => references.push(text.clone()),
                    member => collect(member, references),
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| collect(element, references)),
        _ => {}
    }
}
