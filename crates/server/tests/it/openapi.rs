use std::path::Path;

use serde_json::Value;

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
    for code in ["archived", "run_sealed", "lease_lost"] {
        let said = conflict("/api/v1/runs/{run_id}/steps");
        assert!(said.contains(&format!("`{code}`")), "{said}");
    }
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
