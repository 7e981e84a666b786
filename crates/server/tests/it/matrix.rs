//! Every route of the OpenAPI document, with no key, each role, and another tenant's key, against a committed table.

use std::fmt::Write;
use std::path::Path;

use axum::http::Method;
use serde_json::{Value, json};

use crate::access::Keyed;

const WHO: [&str; 7] = [
    "nobody", "reader", "writer", "auditor", "admin", "operator", "foreign",
];

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
    let keyed = Keyed::new();
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
            let row: Vec<&str> = WHO
                .iter()
                .map(|who| judged(&keyed, who, &method, &concrete))
                .collect();
            assert!(!row.contains(&"5xx"), "{method} {concrete}: {row:?}");
            writeln!(table, "{method} {path}: {}", row.join(" ")).unwrap();
        }
    }
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
