//! Signals, lists of jobs and contracts, panels; who may see them, and what is on record of it.

use axum::http::Method;
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::jobs::{contract, governed};
use crate::server::TestServer;
use crate::support::{pages, ticking_server};

/// Not one read an entry: a page has up to 500.
#[test]
fn entries_that_are_one_record_each_are_read_a_page_at_once() {
    let signal = json!({ "signal_type": "freeze", "scope": "search", "decision": "allow" });
    let activation = json!({ "policy_id": "p", "source_pattern_id": "pat", "source_recovery_id": "rec",
        "confidence": 0.5, "approval_path": "auto", "loop_trace_id": "lt" });
    for (path, body) in [
        ("/api/v1/signals", signal),
        ("/api/v1/policy-activations", activation),
        ("/api/v1/contracts", contract("")),
    ] {
        let (server, fault) = TestServer::failing();
        for n in 0..5 {
            let mut body = body.clone();
            if let Some(id) = body.get_mut("contract_id") {
                *id = json!(format!("c{n}"));
            }
            server.created(path, &body);
        }
        fault.before("bodies_page", 2, || panic!("read again"));
        let page = server.get(path).ok();
        assert_eq!(page["items"].as_array().unwrap().len(), 5, "{path}: {page}");
    }
}

#[test]
fn signals_are_recorded_listed_and_decide() {
    let server = governed();
    server.started("j1");
    server.job_step("j1", 0, "search");
    server.healthy("j1");
    let signal = |scope: &str, decision: &str| json!({ "signal_type": "freeze", "scope": scope, "decision": decision });
    let first = server.created("/api/v1/signals", &signal("search", "block"));
    server.created("/api/v1/signals", &signal("export", "allow"));
    let id = first["signal_id"].as_str().unwrap();
    let read = server.get(&format!("/api/v1/signals/{id}")).ok();
    assert_eq!(
        (&read["decision"], &read["scope"]),
        (&json!("block"), &json!("search"))
    );
    assert_eq!(
        pages(&server, "/api/v1/signals", 1, "scope"),
        ["export", "search"]
    );
    assert_eq!(
        pages(&server, "/api/v1/signals?scope=search", 5, "signal_id"),
        [id]
    );
    assert_eq!(
        pages(
            &server,
            "/api/v1/signals?signal_type=freeze&scope=export",
            5,
            "scope"
        ),
        ["export"]
    );
    assert_eq!(server.acted("j1", "complete", &json!({}))["verdict"], "FAIL");
    assert_eq!(server.get("/api/v1/signals/nobody").problem(404), "not_found");
}

#[test]
fn jobs_and_contracts_are_listed_newest_first_as_they_were() {
    let server = governed();
    for n in 0..5 {
        server.job(&format!("j{n}"));
    }
    server.created("/api/v1/jobs", &json!({ "job_id": "free", "handler": "sweep" }));
    let before = server.tree_size();
    server.acted("j1", "start", &json!({}));
    server.acted("j1", "complete", &json!({}));
    assert_eq!(
        pages(&server, "/api/v1/jobs", 2, "job_id"),
        ["free", "j4", "j3", "j2", "j1", "j0"]
    );
    assert_eq!(
        pages(&server, "/api/v1/jobs?handler=sweep", 2, "job_id"),
        ["free"]
    );
    assert_eq!(
        pages(
            &server,
            "/api/v1/jobs?contract_id=c1&handler=deploy",
            50,
            "job_id"
        )
        .len(),
        5
    );
    let stage = |query: &str| {
        let page = server.get(&format!("/api/v1/jobs?{query}")).ok();
        let items = page["items"].as_array().unwrap().clone();
        let job = items.iter().find(|item| item["job_id"] == "j1").unwrap();
        (job["stage"].clone(), job["verdict"].clone())
    };
    assert_eq!(stage("limit=50"), (json!("completed"), json!("FAIL")));
    assert_eq!(stage(&format!("as_of={before}")), (json!("queued"), Value::Null));
    server.created("/api/v1/contracts", &contract("c2"));
    assert_eq!(
        pages(&server, "/api/v1/contracts", 1, "contract_id"),
        ["c2", "c1"]
    );
    let read = server.get("/api/v1/contracts/c1").ok();
    assert_eq!(read["activation_window_end"], "2039-12-31T22:00:00.000000Z");
    assert_eq!(server.get("/api/v1/contracts/nobody").problem(404), "not_found");
    assert_eq!(
        server.get("/api/v1/jobs?colour=red").problem(400),
        "bad_parameter"
    );
    assert_eq!(
        server.get("/api/v1/jobs/j1/events?cursor=x").problem(400),
        "bad_cursor"
    );
    assert_eq!(server.get("/api/v1/jobs/nobody/events").problem(404), "not_found");
}

#[test]
fn a_panel_is_checked_and_what_cannot_be_evaluated_is_no_pass() {
    let server = ticking_server();
    let check = |body: &Value| server.post("/api/v1/panels/check", body);
    let slots = |signals: Value| json!([{ "slot_id": "s1", "signals": signals }]);
    let good = check(&json!({ "panel_id": "p", "slots": slots(json!({ "active_incidents": 0 })) })).ok();
    assert_eq!(
        (&good["is_consistent"], &good["panel_id"]),
        (&json!(true), &json!("p"))
    );
    let bad = check(
        &json!({ "panel_id": "p", "slots": slots(json!({ "active_incidents": 1, "attention_required": false })) }),
    )
    .ok();
    assert_eq!(bad["violations"][0]["rule_id"], "CONS-001");
    let rule = |condition: &str| {
        json!({ "panel_id": "p", "slots": slots(json!({ "a": 1, "b": 2 })),
            "rules": [{ "id": "R1", "name": "r", "signal_a": "a", "signal_b": "b", "condition": condition }] })
    };
    assert_eq!(check(&rule("signal_a < signal_b")).ok()["is_consistent"], true);
    for condition in [
        "signal_a <",
        "nobody > 1",
        "[1, 2].all(x, x > 0)",
        "",
        "signal_a + 'x' == 'y'",
    ] {
        assert_eq!(check(&rule(condition)).problem(422), "invalid", "{condition}");
    }
    assert_eq!(check(&json!([])).problem(422), "invalid");
    assert_eq!(check(&json!({ "slots": 7 })).problem(422), "invalid");
    assert_eq!(
        check(&json!({ "panel_id": "p", "slots": [["s1", { "a": 1 }]] })).problem(422),
        "invalid"
    );
    // Nothing of it is kept, so nothing is redacted: redacted they would be the same.
    let owners = json!([
        { "slot_id": "s1", "signals": { "owner": "bob@example.com" } },
        { "slot_id": "s2", "signals": { "owner": "eve@example.com" } },
    ]);
    let twice = check(&json!({ "panel_id": "p", "slots": owners })).ok();
    assert_eq!(twice["violations"][0]["rule_id"], "CONS-DUP");
}

#[test]
fn jobs_of_another_tenant_are_nobodys_and_only_an_admin_resolves() {
    let keyed = Keyed::new();
    let post = |who: &str, path: &str, body: &Value| keyed.as_(who, Method::POST, path, body);
    assert_eq!(post("writer", "/api/v1/contracts", &contract("c1")).status, 201);
    let new = json!({ "job_id": "j1", "handler": "x", "contract_id": "c1" });
    assert_eq!(post("writer", "/api/v1/jobs", &new).status, 201);
    assert_eq!(post("writer", "/api/v1/jobs/j1/start", &json!({})).status, 201);
    let step = json!({ "step_index": 0, "status": "COMPLETED", "output": { "target": "search" } });
    assert_eq!(post("writer", "/api/v1/jobs/j1/steps", &step).status, 201);
    assert_eq!(post("writer", "/api/v1/jobs/j1/complete", &json!({})).status, 201);
    for path in [
        "/api/v1/jobs/j1",
        "/api/v1/jobs/j1/events",
        "/api/v1/jobs/j1/progress",
        "/api/v1/audits/j1",
        "/api/v1/audits/j1/evidence",
        "/api/v1/rollout/j1",
        "/api/v1/contracts/c1",
    ] {
        assert_eq!(keyed.get_as("reader", path).status, 200, "{path}");
        assert_eq!(keyed.get_as("foreign", path).problem(404), "not_found", "{path}");
        assert_eq!(keyed.get_as("writer", path).problem(403), "forbidden", "{path}");
    }
    assert_eq!(
        post("foreign", "/api/v1/jobs/j1/cancel", &json!({ "reason": "x" })).problem(404),
        "not_found"
    );
    let decide = json!({ "decision": "proceed", "actor_id": "ada", "reason": "seen" });
    assert_eq!(
        post("writer", "/api/v1/audits/j1/resolve", &decide).problem(403),
        "forbidden"
    );
    assert_eq!(post("admin", "/api/v1/audits/j1/resolve", &decide).status, 201);
}

#[test]
fn every_read_that_lists_is_on_record_with_its_number_of_rows() {
    let server = governed();
    server.started("j1");
    server.job_step("j1", 0, "search");
    server.job_step("j1", 1, "export");
    server.acted("j1", "complete", &json!({}));
    server.run("r");
    server.step("r", 0, "success");
    server.step("r", 1, "failure");
    let ended = server.complete("r");
    server.run("other");
    for model in ["m-1", "m-2"] {
        let log = json!({ "input": { "q": 1 }, "output": { "a": model }, "model_version": model });
        server.created("/api/v1/provenance", &log);
    }
    let mut answers = std::collections::BTreeMap::new();
    for (operation, template) in ::server::operations_that_list() {
        let path = template
            .replace("{run_id}", "r")
            .replace("{job_id}", "j1")
            .replace("{hash}", ended["root_hash"].as_str().unwrap());
        let path = match operation {
            "job_events" | "job_retries" => path.replace("{id}", "j1"),
            "trace_diff" => format!("{path}?left=r&right=other"),
            "policy_activations_list" => format!("{path}?policy_id=p"),
            _ => path.replace("{id}", "r"),
        };
        // Those that take no run need one all the same.
        let answer = server.get(&path);
        assert_eq!(answer.status, 200, "{operation} {path}: {}", answer.text());
        // One answers lines, and no object.
        let answer = match operation {
            "lineage_log" => json!({ "items": answer.text().lines().collect::<Vec<_>>() }),
            _ => answer.json(),
        };
        answers.insert(operation, answer);
    }
    assert!(answers.len() > 25, "{} operations", answers.len());
    server.runtime.block_on(server.app.flush_access()).unwrap();
    let page = server.get("/api/v1/records?kind=access.event&limit=200").ok();
    let mut compared = 0;
    for (operation, answer) in &answers {
        let noted = page["items"].as_array().unwrap().iter().map(|item| &item["body"]);
        let noted = noted.rev().find(|body| body["operation"] == *operation).unwrap();
        let lists = [
            "items",
            "events",
            "decisions",
            "exports",
            "steps",
            "checks",
            "attempts",
            "history",
            "points",
        ];
        let Some(list) = lists.iter().find_map(|name| answer[name].as_array()) else {
            continue;
        };
        let rows = if *operation == "provenance_drift" {
            2
        } else {
            list.len()
        };
        assert_eq!(noted["row_count"], rows, "{operation}: {answer}");
        compared += 1;
    }
    assert!(compared > 20, "{compared} compared");
}
