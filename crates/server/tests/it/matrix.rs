//! Every route of the OpenAPI document, with no key, each role, and another tenant's key, against a committed table.
//!
//! Of an id that is there, another tenant is shown the status that its admin is answered with. What the answers
//! say is compared in `attacks`. An idempotency key of another tenant is asked for with the lease that he holds.

use std::fmt::Write;
use std::path::Path;

use axum::http::Method;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

use crate::access::Keyed;
use crate::attacks::{Filled, IDS};
use crate::serve::Served;

const WHO: [&str; 7] = [
    "nobody", "reader", "writer", "auditor", "admin", "operator", "foreign",
];

/// Of an id of `acme` that is there: what another tenant's admin is answered with.
fn answered(filled: &Filled, document: &Value, method: &Method, path: &str) -> String {
    let mut there = path.to_owned();
    let names: Vec<&str> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .collect();
    for name in &names {
        there = there.replace(&format!("{{{name}}}"), &filled.present(path, name));
    }
    if names.contains(&"key") {
        return answered_for_key(filled, document, method, path);
    }
    // What a hash names is each tenant's own, so another finds his own: none.
    let own = ["hash"];
    if !names.iter().any(|name| IDS.contains(name) || own.contains(name)) {
        return judged(&filled.keyed, "foreign", method, &there).to_owned();
    }
    let body = meant(document, method, path);
    let body = if *method == Method::GET { Value::Null } else { body };
    let answer = filled.keyed.as_("foreign", method.clone(), &there, &body);
    let text = answer.text();
    if answer.status.is_success() {
        assert!(
            names.iter().any(|name| own.contains(name)),
            "{method} {there}: {text}"
        );
        assert!(
            text.is_empty() || answer.json()["items"] == json!([]),
            "{method} {there}: {text}"
        );
        filled.keyed.get_as("admin", &there).ok();
    } else {
        assert!(answer.status.is_client_error(), "{method} {there}: {text}");
    }
    answer.status.as_str().to_owned()
}

/// Of an idempotency key that `acme` holds, with the lease that it holds it by: another tenant is answered as for a key
/// that nobody has, and the holder's stays as it was.
fn answered_for_key(filled: &Filled, document: &Value, method: &Method, path: &str) -> String {
    const HELD: &str = "/api/v1/idempotency/k-1";
    let mut body = meant(document, method, path);
    if body.get("lease").is_some() {
        body["lease"] = json!(filled.lease);
    }
    let body = if *method == Method::GET { Value::Null } else { body };
    let before = filled.keyed.get_as("admin", HELD).ok();
    let ask = |key: &str| {
        let there = path.replace("{key}", key);
        let answer = filled.keyed.as_("foreign", method.clone(), &there, &body);
        let said = if answer.body.is_empty() {
            Value::Null
        } else {
            answer.json()
        };
        (answer.status, said["result"].clone(), said["code"].clone())
    };
    let (held, absent) = (ask("k-1"), ask("k-nobody"));
    assert_eq!(held, absent, "{method} {path}");
    assert!(held.1.is_null() || held.1 == "new", "{method} {path}: {held:?}");
    assert_ne!(held.2, "invalid", "{method} {path}: the key is tried");
    for key in ["k-1", "k-nobody"] {
        // What he has made of it is his own, and gone for the next row.
        let own = format!("/api/v1/idempotency/{key}");
        filled.keyed.as_("foreign", Method::DELETE, &own, &Value::Null);
    }
    assert_eq!(filled.keyed.get_as("admin", HELD).ok(), before, "{method} {path}");
    held.0.as_str().to_owned()
}

/// A body that has all that is demanded, so that a refusal is not about the body.
fn meant(document: &Value, method: &Method, path: &str) -> Value {
    let operation = &document["paths"][path][method.as_str().to_lowercase()];
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    let Some(name) = schema.as_str().and_then(|name| name.rsplit('/').next()) else {
        return json!({});
    };
    let required = document["components"]["schemas"][name]["required"].as_array();
    let members = required.into_iter().flatten().map(|member| {
        let member = member.as_str().unwrap();
        let value = match member {
            "actor_type" => json!("SYSTEM"),
            "decision" if path.starts_with("/api/v1/audits/") => json!("proceed"),
            "decision" => json!("GRANTED"),
            "evidence_class" => json!("traces"),
            "failure_reason" => json!("capture_failed"),
            "output" => json!({}),
            "sdk_mode" => json!("inline"),
            "status" if path.starts_with("/api/v1/jobs/") => json!("COMPLETED"),
            "status" if path.ends_with("/complete") => json!("completed"),
            "status" => json!("success"),
            "step_index" => json!(0),
            _ => json!("some"),
        };
        (member.to_owned(), value)
    });
    let mut body = Value::Object(members.collect());
    match path.rsplit('/').next() {
        // Before or after is demanded.
        Some("health") => body["before"] = json!({ "search": "HEALTHY" }),
        Some("activity") => {
            let fingerprint = "ab".repeat(32);
            body = json!({ "step_index": 0, "skill_id": "llm", "model_name": "m", "prompt_fingerprint": fingerprint,
                "prompt_token_length": 5 });
        }
        _ => {}
    }
    body
}

/// The words of the table for an answer over gRPC.
fn judged_rpc<T>(answer: Result<T, Status>) -> &'static str {
    match answer.map_err(|status| status.code()).err() {
        Some(Code::Unauthenticated) => "401",
        Some(Code::PermissionDenied) => "403",
        Some(Code::NotFound) => "404",
        None => "ok",
        Some(other) => panic!("{other:?}"),
    }
}

/// Rows of the gRPC port's three methods, which no document lists.
fn rpc_rows(keyed: Keyed) -> String {
    let Keyed { server, keys } = keyed;
    let mut served = Served::of(server);
    let url = format!("http://{}", served.grpc);
    let mut rows = ["logs.v1.Logs", "metrics.v1.Metrics", "trace.v1.Trace"]
        .map(|name| format!("GRPC opentelemetry.proto.collector.{name}Service/Export:"));
    served.server.runtime.block_on(async {
        let mut logs = LogsServiceClient::connect(url.clone()).await.unwrap();
        let mut metrics = MetricsServiceClient::connect(url.clone()).await.unwrap();
        let mut traces = TraceServiceClient::connect(url).await.unwrap();
        for who in WHO {
            let key = keys.iter().find(|(name, _)| *name == who).map(|(_, key)| key);
            let judged = [
                judged_rpc(logs.export(with_key(key)).await),
                judged_rpc(metrics.export(with_key(key)).await),
                judged_rpc(traces.export(with_key(key)).await),
            ];
            for (row, judged) in rows.iter_mut().zip(judged) {
                row.push(' ');
                row.push_str(judged);
            }
        }
    });
    served.stop();
    rows.join("\n") + "\n"
}

/// An export of nothing.
fn with_key<T: Default>(key: Option<&String>) -> Request<T> {
    let mut request = Request::new(T::default());
    if let Some(key) = key {
        let value = format!("Bearer {key}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// Authorization alone: `401`, `403`, `404` for another tenant's, `ok` when the request got past it.
fn judged(keyed: &Keyed, who: &str, method: &Method, path: &str) -> &'static str {
    let body = if *method == Method::GET {
        Value::Null
    } else {
        json!({})
    };
    let answer = keyed.as_(who, method.clone(), path, &body);
    let text = answer.text();
    match answer.status.as_u16() {
        401 => "401",
        403 => "403",
        // A resource of the caller's own tenant that is not there is past authorization.
        404 if path.starts_with("/tlog/") && text.contains("no such resource") => "404",
        500 => "5xx",
        _ => "ok",
    }
}

#[test]
fn every_route_decides_as_the_table_says() {
    let (keyed, filled) = (Keyed::new(), Filled::new());
    keyed.as_(
        "writer",
        Method::POST,
        "/api/v1/runs",
        &json!({ "run_id": "r-1" }),
    );
    let tenant = keyed.server.app.ledger.tenant("acme").unwrap();
    keyed.server.app.ledger.checkpoint_now(&tenant);
    let document = serde_json::to_value(::server::openapi()).unwrap();
    let mut table = String::from("# method path: ");
    table.push_str(&WHO.join(" "));
    table.push('\n');
    for (path, item) in document["paths"].as_object().unwrap() {
        for name in item.as_object().unwrap().keys() {
            let Ok(method) = name.to_uppercase().parse::<Method>() else {
                continue;
            };
            let concrete = path
                .replace("{tenant}", "acme")
                .replace("{path}", "0/000.p/1")
                .replace("{epoch}", "0")
                .replace("{index}", "0")
                .replace("{run_id}", "r-1")
                // Not one of ours: a key must not be revoked on the way.
                .replace("{id}", "nosuch")
                .replace(['{', '}'], "");
            let row: Vec<String> = WHO
                .iter()
                .map(|who| match *who {
                    "foreign" => answered(&filled, &document, &method, path),
                    who => judged(&keyed, who, &method, &concrete).to_owned(),
                })
                .collect();
            assert!(!row.iter().any(|is| is == "5xx"), "{method} {concrete}: {row:?}");
            writeln!(table, "{method} {path}: {}", row.join(" ")).unwrap();
        }
    }
    table.push_str(&rpc_rows(keyed));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/route_matrix.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &table).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == table,
        "the route matrix differs: run with UPDATE_GOLDEN=1 and review the difference\n{table}"
    );
}
