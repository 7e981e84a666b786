//! Lineage that pipelines post.

use serde_json::{Value, json};

use crate::server::TestServer;
use crate::support::refused;

fn evidence(run: Option<&str>) -> Value {
    json!({ "run_id": run, "id": "ev-00000000000000000000000000000001", "evidence_type": "csv", "uri": "tb.csv",
        "input_row_ids": ["2025-08|ENT100|1000"], "timestamp": "2025-08-22T15:03:09.871Z" })
}

#[test]
fn a_line_of_a_run_is_one_record_however_often_it_is_posted() {
    let server = TestServer::new();
    server.run("r");
    let first = server.created("/api/v1/lineage/evidence", &evidence(Some("r")));
    assert_eq!(first["id"], "ev-00000000000000000000000000000001");
    assert_eq!(first["redactions"], json!({ "count": 0, "patterns": [] }));
    let again = server.post("/api/v1/lineage/evidence", &evidence(Some("r")));
    assert_eq!(
        (again.status.as_u16(), &again.json()["receipt"]),
        (200, &first["receipt"])
    );
    let record = first["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{record}")).ok();
    assert_eq!(
        (&record["header"]["kind"], &record["header"]["run_id"]),
        (&json!("lineage.evidence"), &json!("r"))
    );
    assert_eq!(record["header"]["occurred_at"], "2025-08-22T15:03:09.871000Z");
    assert_eq!(record["body"]["input_row_ids"], json!(["2025-08|ENT100|1000"]));
    for (path, body) in [
        (
            "deterministic",
            json!({ "run_id": "r", "type": "deterministic", "fn": "tb_diagnostics", "evidence_id": "ev-1",
            "params": { "period": "2025-08", "entity": "ALL" }, "artifact": null }),
        ),
        (
            "deterministic",
            json!({ "run_id": "r", "function_name": "other" }),
        ),
        (
            "ai-output",
            json!({ "run_id": "r", "kind": "validation", "artifact": "a.json", "anything": [1.5, null] }),
        ),
        (
            "ai-metrics",
            json!({ "run_id": "r", "kind": "validation", "tokens": 812, "cost_usd": 0.0125 }),
        ),
    ] {
        server.created(&format!("/api/v1/lineage/{path}"), &body);
    }
    let listed = server.get("/api/v1/records?run_id=r&kind=lineage.ai_output").ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let verified = server.post("/api/v1/verifications", &json!({})).ok();
    assert_eq!(verified["status"], "verified", "{verified}");
}

#[test]
fn an_equal_line_that_says_how_many_stand_before_it_is_another_record() {
    let server = TestServer::new();
    server.run("r");
    let line =
        |copies: u32| json!({ "run_id": "r", "fn": "f", "evidence_id": "ev-1", "deponent.copy": copies });
    let path = "/api/v1/lineage/deterministic";
    let first = server.created(path, &line(0));
    let second = server.created(path, &line(1));
    assert_ne!(first["receipt"]["record_id"], second["receipt"]["record_id"]);
    let again = server.post(path, &line(1));
    assert_eq!(
        (again.status.as_u16(), &again.json()["receipt"]),
        (200, &second["receipt"])
    );
    let plain = server.post(path, &json!({ "run_id": "r", "fn": "f", "evidence_id": "ev-1" }));
    assert_eq!(
        (plain.status.as_u16(), &plain.json()["receipt"]),
        (200, &first["receipt"])
    );
    let mut wrong = line(0);
    wrong["deponent.copy"] = json!(-1);
    assert_eq!(server.post(path, &wrong).status.as_u16(), 422);
    let mut other = json!({ "run_id": "r", "kind": "x", "deponent.copy": 3 });
    let third = server.created("/api/v1/lineage/ai-output", &other);
    other["deponent.copy"] = json!("3");
    assert_eq!(
        server.post("/api/v1/lineage/ai-output", &other).status.as_u16(),
        422
    );
    let record = third["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{record}")).ok();
    assert_eq!(record["body"]["deponent.copy"], 3);
    let verified = server.post("/api/v1/verifications", &json!({})).ok();
    assert_eq!(verified["status"], "verified", "{verified}");
}

#[test]
fn what_is_no_lineage_is_refused() {
    let server = TestServer::new();
    let unknown = server.post("/api/v1/lineage/evidence", &evidence(Some("nowhere")));
    assert_eq!(unknown.status.as_u16(), 404);
    // Without a run, and without an id, which is made.
    let mut body = evidence(None);
    body.as_object_mut().unwrap().remove("id");
    body.as_object_mut().unwrap().remove("run_id");
    let made = server.created("/api/v1/lineage/evidence", &body);
    assert!(made["id"].as_str().unwrap().starts_with("ev-"), "{made}");
    let changed = |path: &str, change: &dyn Fn(&mut Value)| {
        let mut body = if path == "evidence" {
            evidence(None)
        } else {
            json!({ "fn": "f" })
        };
        body.as_object_mut().unwrap().remove("run_id");
        change(&mut body);
        server.post(&format!("/api/v1/lineage/{path}"), &body)
    };
    for (path, field, value) in [
        ("evidence", "evidence_type", json!("xls")),
        ("evidence", "type", json!("deterministic")),
        ("evidence", "hash", json!("00")),
        ("evidence", "id", json!("")),
        ("evidence", "input_row_ids", json!([1])),
        ("evidence", "input_row_ids", json!("a")),
        ("evidence", "colour", json!("red")),
        ("deterministic", "fn", json!(null)),
        ("deterministic", "output_hash", json!("z")),
        ("deterministic", "params", json!([])),
        ("ai-metrics", "tokens", json!(9_007_199_254_740_993_i64)),
        ("ai-output", "type", json!("ai_metrics")),
    ] {
        let answer = changed(path, &|body| body[field] = value.clone());
        assert_eq!(answer.status.as_u16(), 422, "{path} {field}");
    }
}

#[test]
fn a_line_as_it_was_written_keeps_its_fields_and_a_request_with_unknown_ones_is_refused() {
    let server = TestServer::new();
    server.run("r");
    let mut line = json!({ "type": "evidence", "id": "ev-1", "input_row_ids": [1, "a"], "ts": "yesterday",
        "colour": "red", "run_id": "its own", "deponent.run": "r" });
    let made = server.created("/api/v1/lineage/evidence", &line);
    assert_eq!(made["run_id"], "r");
    let record = made["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{record}")).ok();
    assert_eq!(record["header"]["run_id"], "r");
    assert_eq!(
        record["body"],
        json!({ "id": "ev-1", "input_row_ids": [1, "a"], "ts": "yesterday", "colour": "red", "run_id": "its own" })
    );
    // Without `deponent.run` its run_id names the run, and is no part of the line.
    line.as_object_mut().unwrap().remove("deponent.run");
    assert_eq!(
        server.post("/api/v1/lineage/evidence", &line).status.as_u16(),
        404
    );
    line["run_id"] = json!("r");
    let other = server.created("/api/v1/lineage/evidence", &line);
    let record = other["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{record}")).ok();
    assert_eq!(record["body"].get("run_id"), None);
    for (field, value) in [
        ("type", json!(null)),
        ("type", json!(7)),
        ("type", json!("ai_output")),
        ("id", json!(null)),
        ("deponent.run", json!(7)),
        ("deponent.copy", json!(-1)),
        ("deponent.copy", json!("1")),
    ] {
        let mut wrong = line.clone();
        wrong[field] = value;
        let answer = server.post("/api/v1/lineage/evidence", &wrong);
        assert_eq!(answer.status.as_u16(), 422, "{wrong}");
    }
}

#[test]
fn ids_of_rows_are_kept_and_what_else_looks_like_deponents_own_is_redacted() {
    let server = TestServer::new();
    let mail = "ada@example.com";
    for (path, body, kept) in [
        (
            "evidence",
            json!({ "evidence_type": "csv", "uri": null, "input_row_ids": [mail] }),
            "input_row_ids",
        ),
        (
            "deterministic",
            json!({ "fn": "f", "row_ids": [mail] }),
            "row_ids",
        ),
    ] {
        let made = server.created(&format!("/api/v1/lineage/{path}"), &body);
        assert_eq!(made["redactions"]["count"], 0, "{made}");
        let record = made["receipt"]["record_id"].as_str().unwrap();
        let record = server.get(&format!("/api/v1/records/{record}")).ok();
        assert_eq!(record["body"][kept], json!([mail]));
    }
    let made = server.created(
        "/api/v1/lineage/ai-output",
        &json!({ "reviewed_at": mail, "agent": mail, "timestamp": mail, "ts": "2026-01-01T00:00:00Z" }),
    );
    assert_eq!(made["redactions"], json!({ "count": 3, "patterns": ["email"] }));
    let record = made["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{record}")).ok();
    assert!(!record["body"].to_string().contains('@'), "{record}");
}

#[test]
fn a_request_names_the_run_of_a_line_that_has_a_run_id_of_its_own() {
    let server = TestServer::new();
    server.run("r");
    for (path, line) in [
        ("evidence", json!({ "evidence_type": "csv", "uri": "tb.csv" })),
        ("deterministic", json!({ "fn": "f" })),
        ("ai-output", json!({ "kind": "validation" })),
        ("ai-metrics", json!({ "kind": "validation" })),
    ] {
        let path = format!("/api/v1/lineage/{path}");
        let mut named = line;
        named["deponent.run"] = json!("r");
        named["run_id"] = json!("job-7 of another system");
        let first = server.created(&path, &named);
        assert_eq!(first["run_id"], "r");
        let id = first["receipt"]["record_id"].as_str().unwrap();
        let record = server.get(&format!("/api/v1/records/{id}")).ok();
        assert_eq!(record["header"]["run_id"], "r");
        assert_eq!(record["body"]["run_id"], "job-7 of another system");
        named["deponent.run"] = json!(7);
        refused(&server.post(&path, &named), "deponent.run");
    }
}

#[test]
fn a_null_of_a_request_is_an_absent_field_and_one_of_a_models_line_is_kept() {
    let server = TestServer::new();
    server.run("r");
    let plain = json!({ "run_id": "r", "evidence_type": "csv" });
    let first = server.created("/api/v1/lineage/evidence", &plain);
    let mut nulls = plain.clone();
    for name in [
        "id",
        "uri",
        "input_row_ids",
        "key_columns",
        "timestamp",
        "hash",
        "type",
    ] {
        nulls[name] = Value::Null;
    }
    let again = server.post("/api/v1/lineage/evidence", &nulls).ok();
    assert_eq!(
        (&again["receipt"], &again["id"]),
        (&first["receipt"], &first["id"])
    );
    let ai = json!({ "run_id": "r", "kind": "k", "note": null });
    let id = server.created("/api/v1/lineage/ai-output", &ai)["receipt"]["record_id"].clone();
    let record = server
        .get(&format!("/api/v1/records/{}", id.as_str().unwrap()))
        .ok();
    assert_eq!(record["body"]["note"], Value::Null);
    assert!(record["body"].as_object().unwrap().contains_key("note"));
}
