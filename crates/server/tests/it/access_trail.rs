//! What is left on record of who called, who was refused and who read what.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::server::now;

#[test]
fn decisions_and_reads_are_on_record_with_policies_and_requests() {
    let keyed = Keyed::new();
    keyed.as_(
        "writer",
        Method::POST,
        "/api/v1/runs",
        &json!({ "run_id": "r-1" }),
    );
    for _ in 0..5 {
        keyed.as_("writer", Method::POST, "/api/v1/runs", &json!({}));
    }
    keyed.get_as("auditor", "/api/v1/logs/llm-runs?limit=3").ok();
    assert_eq!(
        keyed
            .get_as("reader", "/api/v1/logs/audit/access")
            .status
            .as_u16()
            / 100,
        4
    );
    keyed.get_as("foreign", "/tlog/acme/checkpoint");
    keyed.get_as("reader", "/api/v1/ledger/head").ok();
    let decisions = keyed.noted("admin", "authorization.decision");
    let find = |action: &str, decision: &str| {
        decisions
            .iter()
            .filter(|body| body["action"] == action && body["decision"] == decision)
            .collect::<Vec<_>>()
    };
    let writes = find("write", "ALLOW");
    assert_eq!(writes.len(), 1, "the first of the minute; the rest when it ends");
    assert_eq!(
        (&writes[0]["policy_ids"], &writes[0]["count"]),
        (&json!(["writer"]), &json!(1))
    );
    let reads = find("read", "ALLOW");
    assert_eq!(
        (reads.len(), &reads[0]["policy_ids"]),
        (1, &json!(["auditor"])),
        "the head leaves no record"
    );
    assert_eq!(reads[0]["operation"], "list_llm_run_records");
    let access = keyed.noted("admin", "access.event");
    let read = access
        .iter()
        .find(|body| body["operation"] == "list_llm_run_records")
        .unwrap();
    assert_eq!(
        (&read["row_count"], &read["filters"]),
        (&json!(3), &json!({ "limit": "3" }))
    );
    assert!(read["request_id"].is_string());
    let denied = keyed.noted("foreign", "authorization.decision");
    let denied: Vec<_> = denied.iter().filter(|body| body["decision"] == "DENY").collect();
    assert_eq!(denied[0]["policy_ids"], json!(["tenant-boundary"]));
}

#[test]
fn a_flood_over_made_up_tenants_is_counted_not_listed() {
    let keyed = Keyed::new();
    for n in 0..700 {
        let path = format!("/tlog/t{n}/checkpoint");
        assert_eq!(keyed.get_as("reader", &path).status, 404);
    }
    let list = "/api/v1/logs/audit/authorization?limit=500";
    let page = keyed.get_as("auditor", list).ok();
    assert_eq!(page["total"], 600);
    let first = keyed.get_as("auditor", &format!("{list}&offset=590")).ok();
    let named = |n: usize| json!(format!("t{n}/receipts"));
    let decisions = first["decisions"].as_array().unwrap();
    assert!(decisions.iter().any(|one| one["entity_id"] == named(0)));
    assert!(
        decisions
            .iter()
            .all(|one| one["policy_ids"] == json!(["tenant-boundary"]))
    );
}

#[test]
fn what_was_counted_stands_there_when_the_minute_is_over() {
    fn later() -> evidence::Timestamp {
        evidence::Timestamp::from_micros(now().as_micros() + 60_000_000).unwrap()
    }
    let mut keyed = Keyed::new();
    for _ in 0..5 {
        keyed.as_("writer", Method::POST, "/api/v1/runs", &json!({}));
    }
    keyed.server.app.clock = later;
    let decisions = keyed.noted("admin", "authorization.decision");
    let writes: Vec<_> = decisions
        .iter()
        .filter(|body| body["action"] == "write")
        .map(|body| (&body["count"], body["since"].is_string()))
        .collect();
    assert_eq!(writes, [(&json!(4), true), (&json!(1), false)]);
}

#[test]
fn an_unknown_key_is_noted_with_the_instance_once_and_then_counted() {
    let keyed = Keyed::new();
    for n in 0..20 {
        let bearer = format!("Bearer dpn_nobody{n}_x");
        keyed.server.request(
            Method::GET,
            "/api/v1/me",
            &[("authorization", &bearer)],
            Body::empty(),
        );
    }
    let noted = keyed.noted("operator", "authorization.decision");
    let unknown: Vec<_> = noted.iter().filter(|body| body["reason"] == "unknown").collect();
    assert_eq!(unknown.len(), 1);
    assert_eq!(
        (&unknown[0]["principal"], &unknown[0]["decision"]),
        (&json!("anonymous"), &json!("DENY"))
    );
}

/// What is on record of allowed operations of each class, at these levels.
fn allowed_at(reads: ::server::Level, writes: ::server::Level) -> [usize; 4] {
    let mut keyed = Keyed::new();
    let policies = ::server::Policies::load(None).unwrap();
    keyed.server.app.access = ::server::Access::new(policies, ::server::Levels { reads, writes }, None);
    keyed.server.router = ::server::router(keyed.server.app.clone());
    keyed.as_(
        "writer",
        Method::POST,
        "/api/v1/runs",
        &json!({ "run_id": "r-1" }),
    );
    keyed.get_as("reader", "/api/v1/logs/llm-runs").ok();
    let hold = json!({ "scope": "run", "run_id": "r-1", "reason": "a dispute" });
    keyed.as_("admin", Method::POST, "/api/v1/holds", &hold);
    keyed.as_("auditor", Method::POST, "/api/v1/verifications", &json!({}));
    let decisions = keyed.noted("admin", "authorization.decision");
    ["read", "write", "manage", "verify"].map(|action| {
        let of = |body: &&Value| {
            body["action"] == action && body["decision"] == "ALLOW" && body["operation"] != "list_records"
        };
        decisions.iter().filter(of).count()
    })
}

#[test]
fn reads_are_left_on_record_by_the_level_of_reads_and_what_manages_or_verifies_always() {
    use ::server::Level::{Metadata, None};
    assert_eq!(allowed_at(Metadata, Metadata), [1, 1, 1, 1]);
    assert_eq!(
        allowed_at(None, Metadata),
        [0, 1, 1, 1],
        "reads are not, all else is"
    );
}

#[test]
fn writes_are_left_on_record_by_the_level_of_writes() {
    use ::server::Level::{Metadata, None};
    assert_eq!(allowed_at(Metadata, None), [1, 0, 1, 1]);
    assert_eq!(
        allowed_at(None, None),
        [0, 0, 1, 1],
        "what changes who may do what is never silent"
    );
}

#[test]
fn who_erased_a_body_and_why_is_for_who_reads_the_audit_topic() {
    let keyed = Keyed::new();
    let run = keyed
        .as_(
            "writer",
            Method::POST,
            "/api/v1/runs",
            &json!({ "run_id": "r-1" }),
        )
        .json();
    let id = run["receipt"]["record_id"].as_str().unwrap();
    let path = format!("/api/v1/records/{id}");
    let erased = keyed.as_(
        "admin",
        Method::DELETE,
        &format!("{path}/body"),
        &json!({ "reason": "asked to" }),
    );
    assert_eq!(erased.status, 200, "{}", erased.text());
    let by = erased.json()["receipt"]["record_id"].as_str().unwrap().to_owned();
    let seen = keyed.get_as("auditor", &path).ok();
    assert_eq!(
        (&seen["erasure"]["reason"], &seen["erasure"]["record_id"]),
        (&json!("asked to"), &json!(by))
    );
    let seen = keyed.get_as("reader", &path).ok();
    assert_eq!(seen["erased"], true);
    assert_eq!(
        seen["erasure"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["at"],
        "that it was erased, and when"
    );
    let list = "/api/v1/records?kind=erasure.performed";
    assert_eq!(keyed.get_as("reader", list).ok()["items"], json!([]));
    assert_eq!(
        keyed.get_as("auditor", list).ok()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let record = format!("/api/v1/records/{by}");
    assert_eq!(keyed.get_as("reader", &record).problem(404), "not_found");
}
