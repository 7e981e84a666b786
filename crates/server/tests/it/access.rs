//! Keys, roles and what is left on record of them, through HTTP.

use axum::body::Body;
use axum::http::Method;
use evidence::record::Role;
use ledger::{Changer, INSTANCE, NewKey};
use serde_json::{Value, json};

use crate::server::{Answer, TestServer, now};

/// A server with tenants `acme` and `other` and a key of each role in both.
pub(crate) struct Keyed {
    pub(crate) server: TestServer,
    pub(crate) keys: Vec<(&'static str, String)>,
}

pub(crate) fn key(server: &TestServer, tenant_id: &str, role: Role) -> String {
    let new = NewKey {
        tenant_id: tenant_id.into(),
        role,
        name: None,
        expires_at: None,
    };
    server
        .app
        .ledger
        .key_create(&new, &Changer::local(), now())
        .unwrap()
        .text
}

impl Keyed {
    pub(crate) fn new() -> Self {
        let server = TestServer::new();
        let mut keys = Vec::new();
        for tenant in ["acme", "other"] {
            server.app.ledger.tenant_create(tenant, now()).unwrap();
        }
        for (name, tenant, role) in [
            ("reader", "acme", Role::Reader),
            ("writer", "acme", Role::Writer),
            ("auditor", "acme", Role::Auditor),
            ("admin", "acme", Role::Admin),
            ("operator", INSTANCE, Role::Operator),
            ("foreign", "other", Role::Admin),
        ] {
            keys.push((name, key(&server, tenant, role)));
        }
        Self { server, keys }
    }

    pub(crate) fn as_(&self, who: &str, method: Method, path: &str, body: &Value) -> Answer {
        let key = self
            .keys
            .iter()
            .find(|(name, _)| *name == who)
            .map(|(_, key)| key);
        let bearer = key.map(|key| format!("Bearer {key}")).unwrap_or_default();
        let mut headers = vec![("content-type", "application/json")];
        if !bearer.is_empty() {
            headers.push(("authorization", bearer.as_str()));
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            body.to_string().into()
        };
        self.server.request(method, path, &headers, body)
    }

    pub(crate) fn get_as(&self, who: &str, path: &str) -> Answer {
        self.as_(who, Method::GET, path, &Value::Null)
    }

    /// Bodies of records of a kind, as the tenant's admin finds them, newest first.
    pub(crate) fn noted(&self, who: &str, kind: &str) -> Vec<Value> {
        self.server
            .runtime
            .block_on(self.server.app.flush_access())
            .unwrap();
        let found = self
            .get_as(who, &format!("/api/v1/records?kind={kind}&limit=100"))
            .ok();
        found["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["body"].clone())
            .collect()
    }
}

#[test]
fn without_a_good_key_nothing_is_answered() {
    let keyed = Keyed::new();
    let good = keyed.keys[0].1.clone();
    for bad in [
        String::new(),
        good.clone(),
        format!("Basic {good}"),
        format!("Bearer {good}x"),
        format!("Bearer {}", &good[..good.len() - 1]),
        format!("Bearer dpn_nobody_{}", "a".repeat(52)),
        "Bearer ".into(),
        "Bearer eyJhbGciOiJub25lIn0.e30.".into(),
    ] {
        let headers = [("authorization", bad.as_str())];
        let answer = keyed
            .server
            .request(Method::GET, "/api/v1/me", &headers, Body::empty());
        assert_eq!(answer.problem(401), "unauthorized", "{bad}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let bearer = format!("Bearer {good}");
    let twice = [
        ("authorization", bearer.as_str()),
        ("authorization", bearer.as_str()),
    ];
    let answer = keyed
        .server
        .request(Method::GET, "/api/v1/me", &twice, Body::empty());
    assert_eq!(answer.problem(401), "unauthorized");
    assert_eq!(keyed.get_as("reader", "/api/v1/me").ok()["tenant_id"], "acme");
}

#[test]
fn the_tenant_is_the_keys_whatever_the_request_says() {
    let keyed = Keyed::new();
    let run = json!({ "run_id": "r-1" });
    assert_eq!(
        keyed.as_("writer", Method::POST, "/api/v1/runs", &run).status,
        201
    );
    let foreign = keyed.keys[5].1.clone();
    let bearer = format!("Bearer {foreign}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-tenant-id", "acme"),
        ("x-scope-orgid", "acme"),
        ("deponent-tenant", "acme"),
    ];
    let get = |path: &str| keyed.server.request(Method::GET, path, &headers, Body::empty());
    assert_eq!(get("/api/v1/me").ok()["tenant_id"], "other");
    let (present, absent) = (get("/api/v1/traces/r-1"), get("/api/v1/traces/r-2"));
    assert_eq!((present.status.as_u16(), &present.body), (404, &absent.body));
    assert_eq!(get("/api/v1/traces?tenant_id=acme").problem(400), "bad_parameter");
    let (present, absent) = (get("/tlog/acme/checkpoint"), get("/tlog/nobody/checkpoint"));
    assert_eq!((present.status.as_u16(), &present.body), (404, &absent.body));
    assert_eq!(get("/tlog/%61cme/checkpoint").status, 404);
    assert_eq!(keyed.get_as("reader", "/api/v1/traces/r-1").status, 200);
}

#[test]
fn a_rotated_and_a_revoked_key_let_nobody_in() {
    let keyed = Keyed::new();
    let id = |who: &str| {
        let key = &keyed.keys.iter().find(|(name, _)| *name == who).unwrap().1;
        key.split('_').nth(1).unwrap().to_owned()
    };
    let post = |who: &str, path: &str| keyed.as_(who, Method::POST, path, &Value::Null);
    let rotated = post("admin", &format!("/api/v1/keys/{}/rotate", id("reader"))).ok();
    assert_eq!(keyed.get_as("reader", "/api/v1/me").status, 401);
    let bearer = format!("Bearer {}", rotated["key"].as_str().unwrap());
    let get = || {
        let headers = [("authorization", bearer.as_str())];
        keyed
            .server
            .request(Method::GET, "/api/v1/me", &headers, Body::empty())
            .status
    };
    assert_eq!(get(), 200);
    post("admin", &format!("/api/v1/keys/{}/revoke", id("reader"))).ok();
    assert_eq!(get(), 401);
    // Another tenant's key is as absent as none; an operator reaches all.
    let foreign = post("foreign", &format!("/api/v1/keys/{}/revoke", id("writer")));
    let absent = post("foreign", "/api/v1/keys/nosuchkey/revoke");
    assert_eq!((foreign.status.as_u16(), foreign.body), (404, absent.body));
    assert_eq!(
        post("auditor", &format!("/api/v1/keys/{}/revoke", id("writer"))).problem(403),
        "forbidden"
    );
    post("operator", &format!("/api/v1/keys/{}/revoke", id("writer"))).ok();
    let events = keyed.noted("admin", "identity.event");
    let refused = events
        .iter()
        .find(|event| event["event_type"] == "signin.refused")
        .unwrap();
    assert_eq!(refused["subject_id"], id("reader"));
    let types: Vec<&str> = events
        .iter()
        .map(|event| event["event_type"].as_str().unwrap())
        .collect();
    assert!(types.contains(&"key.rotated") && types.contains(&"key.revoked"));
}

#[test]
fn a_key_that_has_ended_is_not_rotated() {
    let keyed = Keyed::new();
    let rotate = |id: &str| {
        let path = format!("/api/v1/keys/{id}/rotate");
        keyed.as_("admin", Method::POST, &path, &Value::Null)
    };
    // Made a second ago, to end now.
    let new = NewKey {
        tenant_id: "acme".into(),
        role: Role::Reader,
        name: None,
        expires_at: Some(now()),
    };
    let earlier = now().checked_add_micros(-1_000_000).unwrap();
    let ledger = &keyed.server.app.ledger;
    let given = ledger.key_create(&new, &Changer::local(), earlier).unwrap();
    let refused = rotate(&given.key.key_id);
    assert_eq!(refused.problem(409), "key_expired");
    assert!(refused.text().contains("make a new one"), "{}", refused.text());
    let revoke = format!("/api/v1/keys/{}/revoke", given.key.key_id);
    keyed.as_("admin", Method::POST, &revoke, &Value::Null).ok();
    assert_eq!(rotate(&given.key.key_id).problem(409), "key_revoked");
}

#[test]
fn keys_are_made_over_http_and_shown_once() {
    let keyed = Keyed::new();
    let body = json!({ "role": "reader", "name": "ci" });
    let made = keyed.as_("admin", Method::POST, "/api/v1/keys", &body);
    assert_eq!(
        (made.status.as_u16(), made.header("cache-control")),
        (201, "no-store")
    );
    let made = made.json();
    assert!(made["key"].as_str().unwrap().starts_with("dpn_"));
    assert!(made["receipt"]["leaf_index"].is_u64());
    let listed = keyed.get_as("admin", "/api/v1/keys");
    assert!(!listed.text().contains(made["key"].as_str().unwrap()));
    let listed = listed.ok();
    let tenants: Vec<&Value> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["tenant_id"])
        .collect();
    assert!(tenants.len() == 5 && tenants.iter().all(|tenant| *tenant == "acme"));
    let foreign = json!({ "role": "admin", "tenant_id": "other" });
    let refused = keyed.as_("admin", Method::POST, "/api/v1/keys", &foreign);
    let absent = json!({ "role": "admin", "tenant_id": "nobody" });
    let nobody = keyed.as_("admin", Method::POST, "/api/v1/keys", &absent);
    assert_eq!((refused.status.as_u16(), refused.body), (404, nobody.body));
    assert_eq!(
        keyed
            .as_("operator", Method::POST, "/api/v1/keys", &foreign)
            .status,
        201
    );
    for bad in [
        json!({ "role": "operator" }),
        json!({ "role": "god" }),
        json!({ "role": "reader", "colour": 1 }),
    ] {
        assert_eq!(
            keyed
                .as_("admin", Method::POST, "/api/v1/keys", &bad)
                .problem(422),
            "invalid"
        );
    }
}

#[test]
fn what_belongs_to_the_audit_topic_is_absent_for_a_reader() {
    let keyed = Keyed::new();
    let page = keyed
        .get_as("auditor", "/api/v1/records?kind=identity.event")
        .ok();
    let items = page["items"].as_array().unwrap();
    assert_eq!(items.len(), 4);
    let id = items[0]["record_id"]
        .as_str()
        .or(items[0]["header"]["id"].as_str())
        .unwrap();
    let path = format!("/api/v1/records/{id}");
    for path in [path.clone(), format!("{path}/proof")] {
        assert_eq!(keyed.get_as("auditor", &path).status, 200, "{path}");
        assert_eq!(keyed.get_as("reader", &path).problem(404), "not_found", "{path}");
    }
    let page = keyed.get_as("reader", "/api/v1/records?kind=identity.event").ok();
    assert_eq!(page["items"], json!([]));
}

#[test]
fn post_put_and_delete_take_no_query_parameters() {
    let keyed = Keyed::new();
    let send =
        |who: &str, method: Method, path: &str| keyed.as_(who, method, path, &json!({ "reason": "x" }));
    let made = keyed.as_("admin", Method::POST, "/api/v1/runs", &json!({ "run_id": "r" }));
    assert_eq!(made.status, 201);
    let id = made.json()["receipt"]["record_id"].as_str().unwrap().to_owned();
    let erase = format!("/api/v1/records/{id}/body?only=true");
    for (method, path) in [
        (Method::DELETE, erase.as_str()),
        (Method::POST, "/api/v1/runs/r/abort?dry_run"),
        (Method::POST, "/api/v1/keys/k/revoke?dry_run=true"),
        (Method::PUT, "/api/v1/redaction?dry_run=true"),
    ] {
        assert_eq!(
            send("admin", method, path).problem(400),
            "bad_parameter",
            "{path}"
        );
    }
    let record = keyed.get_as("admin", &format!("/api/v1/records/{id}")).ok();
    assert!(record["body"].is_object(), "{record}");
    let refused = send("reader", Method::POST, "/api/v1/runs/r/abort?dry_run");
    assert_eq!(
        refused.problem(403),
        "forbidden",
        "who may not is told that first"
    );
    assert_eq!(send("writer", Method::POST, "/api/v1/runs/r/abort?").status, 201);
}

#[test]
fn a_body_where_none_is_taken_is_refused_and_nothing_is_done() {
    let keyed = Keyed::new();
    let (_, key) = keyed.keys.iter().find(|(name, _)| *name == "reader").unwrap();
    let id = key.split('_').nth(1).unwrap().to_owned();
    let post = |path: &str, body: &Value| keyed.as_("admin", Method::POST, path, body);
    for what in ["rotate", "revoke"] {
        let path = format!("/api/v1/keys/{id}/{what}");
        for body in [
            json!({ "expires_at": "2027-01-01T00:00:00Z" }),
            json!([]),
            json!("x"),
        ] {
            let refused = post(&path, &body);
            assert_eq!(refused.problem(400), "malformed", "{path}");
            assert!(refused.text().contains("takes none"), "{}", refused.text());
        }
    }
    assert_eq!(
        keyed.get_as("reader", "/api/v1/me").status,
        200,
        "its key is as it was"
    );
    let renew = post("/api/v1/replay/steps/t/renew", &json!({ "lease_secs": 600 }));
    assert_eq!(renew.problem(400), "malformed");
    post(&format!("/api/v1/keys/{id}/revoke"), &json!({})).ok();
    assert_eq!(keyed.get_as("reader", "/api/v1/me").status, 401);
}

#[test]
fn local_mode_is_over_when_the_first_key_is_made() {
    let server = TestServer::new();
    assert_eq!(server.get("/api/v1/me").ok()["principal"], "local");
    let key = key(&server, "default", Role::Reader);
    assert_eq!(server.get("/api/v1/me").problem(401), "unauthorized");
    let id = key.split('_').nth(1).unwrap();
    server
        .app
        .ledger
        .key_revoke(None, id, &Changer::local(), now())
        .unwrap();
    assert_eq!(
        server.get("/api/v1/me").problem(401),
        "unauthorized",
        "and stays over"
    );
}

#[test]
fn a_key_that_calls_too_often_waits_and_no_other_does() {
    let mut keyed = Keyed::new();
    let rate = ::server::Rate {
        per_second: 1,
        burst: 2,
    };
    let policies = ::server::Policies::load(None).unwrap();
    keyed.server.app.access = ::server::Access::new(policies, ::server::Levels::default(), Some(rate));
    keyed.server.router = ::server::router(keyed.server.app.clone());
    for _ in 0..2 {
        assert_eq!(keyed.get_as("reader", "/api/v1/me").status, 200);
    }
    let refused = keyed.get_as("reader", "/api/v1/me");
    assert_eq!(
        (refused.problem(429).as_str(), refused.header("retry-after")),
        ("rate_limited", "1")
    );
    assert_eq!(keyed.get_as("admin", "/api/v1/me").status, 200);
    // Exporters send again what is unavailable, over gRPC too.
    let spans = crate::server::export(&[crate::server::span(1, 1)]);
    let sent: Vec<_> = (0..3)
        .map(|_| keyed.as_("writer", Method::POST, "/v1/traces", &spans))
        .collect();
    assert_eq!((sent[0].status.as_u16(), sent[1].status.as_u16()), (200, 200));
    assert_eq!(
        (sent[2].status.as_u16(), &sent[2].json()["code"]),
        (429, &json!(14))
    );
}

#[test]
fn otlp_takes_a_writers_key_and_refuses_in_its_own_form() {
    let keyed = Keyed::new();
    let spans = crate::server::export(&[crate::server::span(1, 1)]);
    assert_eq!(
        keyed.as_("writer", Method::POST, "/v1/traces", &spans).ok(),
        json!({})
    );
    let refused = keyed.as_("reader", Method::POST, "/v1/traces", &spans);
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["code"]),
        (403, &json!(7))
    );
    let refused = keyed.as_("nobody", Method::POST, "/v1/traces", &spans);
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["code"]),
        (401, &json!(16))
    );
}

#[test]
fn a_public_tlog_needs_no_key_and_nothing_else_is_public() {
    let mut keyed = Keyed::new();
    keyed.server.app.tlog_public = true;
    keyed.server.router = ::server::router(keyed.server.app.clone());
    let tenant = keyed.server.app.ledger.tenant("acme").unwrap();
    keyed.server.app.ledger.checkpoint_now(&tenant);
    for who in ["nobody", "foreign", "writer"] {
        assert_eq!(keyed.get_as(who, "/tlog/acme/checkpoint").status, 200, "{who}");
    }
    for path in ["/tlog/nobody/checkpoint", "/tlog/_instance/vkey"] {
        assert_eq!(keyed.get_as("nobody", path).problem(404), "not_found");
    }
    for path in ["/api/v1/ledger/head", "/api/v1/records", "/api/v1/me"] {
        assert_eq!(keyed.get_as("nobody", path).problem(401), "unauthorized");
    }
}

#[test]
fn a_tenants_rules_of_redaction_leave_its_access_trail_as_it_is() {
    let keyed = Keyed::new();
    let rules = json!({
        "fields": ["decision", "event_type", "principal", "count", "operation", "resource"],
        "patterns": [{ "name": "any", "pattern": "[a-z_]+" }],
    });
    for _ in 0..2 {
        keyed.as_("admin", Method::PUT, "/api/v1/redaction", &rules).ok();
    }
    keyed.get_as("auditor", "/api/v1/logs/llm-runs?limit=3").ok();
    keyed.get_as("reader", "/api/v1/logs/audit").problem(403);
    let denied = keyed
        .noted("admin", "authorization.decision")
        .into_iter()
        .find(|body| body["decision"] == "DENY")
        .unwrap();
    assert_eq!(
        (&denied["operation"], &denied["resource"]),
        (&json!("list_audit_entries"), &json!("acme/audit"))
    );
    let read = keyed
        .noted("admin", "access.event")
        .into_iter()
        .find(|body| body["operation"] == "list_llm_run_records")
        .unwrap();
    assert_eq!(
        (&read["event_type"], &read["resource"]),
        (&json!("evidence.read"), &json!("<REDACTED>"))
    );
    keyed
        .as_("admin", Method::PUT, "/api/v1/redaction", &json!({}))
        .ok();
}

#[test]
fn a_ledger_that_takes_nothing_stops_no_other_tenants_trail() {
    let keyed = Keyed::new();
    let Keyed { server, keys } = keyed;
    let server = server.reopen_after(|folder| {
        let path = folder.join("high-water.json");
        let mut marks: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let ledgers = marks["ledgers"].as_object_mut().unwrap();
        ledgers.retain(|origin, _| !origin.ends_with("/other"));
        std::fs::write(&path, marks.to_string()).unwrap();
    });
    let other = server.app.ledger.tenant("other").unwrap();
    assert!(other.ledger().refusal().is_some());
    let keyed = Keyed { server, keys };
    keyed.get_as("foreign", "/api/v1/logs/llm-runs").ok();
    keyed.get_as("auditor", "/api/v1/logs/llm-runs").ok();
    let refused = keyed.get_as("foreign", "/api/v1/logs/audit/access");
    assert_eq!(refused.problem(503), "ledger_refused");
    for _ in 0..3 {
        let page = keyed.get_as("auditor", "/api/v1/logs/audit/access").ok();
        assert!(page["total"].as_u64().unwrap() >= 1, "{page}");
    }
    // It is not asked again at once, and nobody hears of it.
    keyed
        .server
        .runtime
        .block_on(keyed.server.app.flush_access())
        .unwrap();
}

#[test]
fn what_an_operator_does_to_keys_is_decided_over_the_tenant_whose_they_are() {
    let mut keyed = Keyed::new();
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.cedar");
    std::fs::write(
        &own,
        r#"@id("not-other") forbid (principal, action, resource) when { resource.tenant == "other" };"#,
    )
    .unwrap();
    let policies = ::server::Policies::load(Some(&own)).unwrap();
    keyed.server.app.access = ::server::Access::new(policies, ::server::Levels::default(), None);
    keyed.server.router = ::server::router(keyed.server.app.clone());
    let id = |who: &str| {
        let (_, key) = keyed.keys.iter().find(|(name, _)| *name == who).unwrap();
        key.split('_').nth(1).unwrap().to_owned()
    };
    let post = |path: &str, body: &Value| keyed.as_("operator", Method::POST, path, body);
    let rotated = post(&format!("/api/v1/keys/{}/rotate", id("reader")), &Value::Null);
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    let of = |tenant: &str| json!({ "role": "reader", "tenant_id": tenant });
    assert_eq!(post("/api/v1/keys", &of("acme")).status, 201);
    let revoke = format!("/api/v1/keys/{}/revoke", id("foreign"));
    assert_eq!(post(&revoke, &Value::Null).problem(404), "not_found");
    assert_eq!(post("/api/v1/keys", &of("other")).problem(404), "not_found");
    let list = |query: &str| keyed.get_as("operator", &format!("/api/v1/keys{query}"));
    assert_eq!(list("?tenant_id=other").problem(404), "not_found");
    let listed = list("").ok();
    let listed = listed["items"].as_array().unwrap();
    assert!(
        listed.len() == 6 && listed.iter().all(|key| key["tenant_id"] != "other"),
        "{listed:?}"
    );
    let decisions = keyed.noted("operator", "authorization.decision");
    let about = |tenant: &str, decision: &str| {
        let of = json!(format!("{tenant}/keys"));
        let found = decisions
            .iter()
            .filter(|body| body["resource"] == of && body["decision"] == decision);
        let mut operations: Vec<_> = found.map(|body| body["operation"].as_str().unwrap()).collect();
        operations.sort_unstable();
        operations.join(" ")
    };
    assert_eq!(about("acme", "ALLOW"), "key_create key_list key_rotate");
    assert_eq!(about("acme", "DENY"), "");
    assert_eq!(about("other", "DENY"), "key_create key_list key_list key_revoke");
    assert_eq!(about("other", "ALLOW"), "");
}
