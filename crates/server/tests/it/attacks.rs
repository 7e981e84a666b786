//! What somebody with a good key and bad intentions sends: held against every operation of the OpenAPI document, so
//! that a new one is attacked without anybody's doing.

use axum::http::Method;
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::server::Answer;

/// What databases, paths, shells, templates and parsers take for theirs, and what is only odd.
const METACHARACTERS: [&str; 20] = [
    "' OR 1=1 --",
    "'; DROP TABLE runs; --",
    "\" OR \"\"=\"",
    "%",
    "_",
    "*",
    "../../../../etc/passwd",
    "..\\..\\",
    "/etc/passwd",
    "file:///etc/passwd",
    "a/../b",
    "\0",
    "\r\nx-injected: 1",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "$(id)",
    "\u{202e}\u{0}\u{feff}",
    "ａ́🦀",
    "kind=audit.event",
    "-9223372036854775809",
];

/// Every byte that is not plain, percent-encoded.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// An operation of the document: method, path, and its parameters as (name, in).
struct Operation {
    method: Method,
    path: String,
    parameters: Vec<(String, String)>,
    statuses: Vec<String>,
}

fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(::server::openapi()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            operations.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                parameters: parameters
                    .iter()
                    .map(|parameter| (text(&parameter["name"]), text(&parameter["in"])))
                    .collect(),
                statuses: operation["responses"]
                    .as_object()
                    .unwrap()
                    .keys()
                    .cloned()
                    .collect(),
            });
        }
    }
    operations
}

/// Parameters of paths that name something of a tenant: places in a ledger are everybody's own.
pub(crate) const IDS: [&str; 7] = [
    "run_id",
    "job_id",
    "id",
    "entry_id",
    "verification_id",
    "tenant",
    "token",
];

/// Two of everything in tenant `acme`; the ids of one of each by the name of the path's parameter.
pub(crate) struct Filled {
    pub(crate) keyed: Keyed,
    incident: String,
    entry: String,
    verification: String,
    key: String,
    hold: String,
    signal: String,
    token: String,
    /// By which `acme` holds the idempotency key `k-1`.
    pub(crate) lease: String,
    root_hash: String,
}

impl Filled {
    pub(crate) fn new() -> Self {
        let keyed = Keyed::new();
        let post = |path: &str, body: Value| {
            let answer = keyed.as_("admin", Method::POST, path, &body);
            assert!(answer.status.is_success(), "{path}: {}", answer.text());
            answer.json()
        };
        let mut last = Value::Null;
        for run in ["r-1", "r-2"] {
            post("/api/v1/runs", json!({ "run_id": run }));
            let step = json!({ "step_index": 0, "skill_name": "s", "status": "success", "duration_ms": 1,
                "outcome_category": "ok", "idempotency_key": format!("k-{run}") });
            post(&format!("/api/v1/runs/{run}/steps"), step);
            last = post(
                "/api/v1/incidents",
                json!({ "source_run_id": run, "severity": "HIGH", "summary": "s" }),
            );
            post(
                "/api/v1/policy-activations",
                json!({ "policy_id": "p", "source_pattern_id": "x",
                "source_recovery_id": "y", "confidence": 0.5, "approval_path": "auto", "loop_trace_id": "t" }),
            );
            post(
                "/api/v1/system-records",
                json!({ "component": "c", "event_type": "HEALTH", "severity": "INFO", "summary": "s" }),
            );
            post(
                "/api/v1/audit-events",
                json!({ "event_type": "LimitCreated", "entity_type": "LIMIT",
                "entity_id": "l", "actor_type": "SYSTEM", "after_state": { "max": 1 } }),
            );
            keyed.get_as("auditor", "/api/v1/logs/llm-runs").ok();
        }
        post(
            "/api/v1/contracts",
            json!({ "contract_id": "c-1", "scope": ["search"] }),
        );
        let job = json!({ "job_id": "j-1", "handler": "h", "contract_id": "c-1" });
        post("/api/v1/jobs", job);
        post("/api/v1/jobs/j-1/start", json!({}));
        post("/api/v1/jobs/j-1/complete", json!({}));
        let signal = json!({ "signal_type": "freeze", "scope": "search", "decision": "allow" });
        let signal = post("/api/v1/signals", signal);
        let hold = post("/api/v1/holds", json!({ "scope": "tenant", "reason": "case 7" }));
        let step =
            json!({ "run_id": "r-1", "step_index": 7, "replay_behavior": "skip", "idempotency_key": "k-7" });
        let step = post("/api/v1/replay/steps", step);
        let claim = post(
            "/api/v1/idempotency/k-1/check",
            json!({ "request": { "order": 17 } }),
        );
        post("/api/v1/runs", json!({ "run_id": "r-3" }));
        let ended = post("/api/v1/runs/r-3/complete", json!({ "status": "completed" }));
        let incident = last["incident_id"].as_str().unwrap().to_owned();
        let entries = keyed.get_as("admin", "/api/v1/logs/audit").ok();
        let entry = entries["items"][0]["id"].as_str().unwrap().to_owned();
        let verification = post("/api/v1/verifications", json!({}));
        let tenant = keyed.server.app.ledger.tenant("acme").unwrap();
        keyed.server.app.ledger.checkpoint_now(&tenant);
        Self {
            incident,
            entry,
            hold: hold["hold_id"].as_str().unwrap().to_owned(),
            signal: signal["signal_id"].as_str().unwrap().to_owned(),
            verification: verification["verification_id"].as_str().unwrap().to_owned(),
            lease: claim["lease"].as_str().unwrap().to_owned(),
            token: step["token"].as_str().unwrap().to_owned(),
            root_hash: ended["root_hash"].as_str().unwrap().to_owned(),
            key: keyed.keys[0].1.split('_').nth(1).unwrap().to_owned(),
            keyed,
        }
    }

    /// What is present in `acme` under that parameter.
    pub(crate) fn present(&self, path: &str, name: &str) -> String {
        match name {
            "run_id" => "r-1".into(),
            "id" if path.contains("/incidents/") => self.incident.clone(),
            "job_id" => "j-1".into(),
            "id" if path.contains("/jobs/") => "j-1".into(),
            "id" if path.contains("/contracts/") => "c-1".into(),
            "id" if path.contains("/holds/") => self.hold.clone(),
            "id" if path.contains("/signals/") => self.signal.clone(),
            "id" if path.contains("/keys/") => self.key.clone(),
            "id" if path.contains("/traces/") => "r-1".into(),
            "id" | "entry_id" => self.entry.clone(),
            "verification_id" => self.verification.clone(),
            "tenant" => "acme".into(),
            "epoch" | "index" => "0".into(),
            "path" => "0/000.p/1".into(),
            "hash" => self.root_hash.clone(),
            "key" => "k-1".into(),
            "token" => self.token.clone(),
            other => panic!("{path}: say what {other} is"),
        }
    }

    pub(crate) fn ask(&self, who: &str, method: &Method, path: &str) -> Answer {
        let body = if *method == Method::GET {
            Value::Null
        } else {
            json!({})
        };
        self.keyed.as_(who, method.clone(), path, &body)
    }
}

/// The path with each parameter replaced by what `value` says.
fn concrete(operation: &Operation, mut value: impl FnMut(&str) -> String) -> String {
    let mut path = operation.path.clone();
    for (name, _) in operation.parameters.iter().filter(|(_, place)| place == "path") {
        path = path.replace(&format!("{{{name}}}"), &value(name));
    }
    path
}

#[test]
fn what_is_another_tenants_is_as_absent_as_what_does_not_exist() {
    let filled = Filled::new();
    let mut compared = 0;
    for operation in operations() {
        let foreign = concrete(&operation, |name| filled.present(&operation.path, name));
        let of_path: Vec<&str> = operation
            .parameters
            .iter()
            .filter(|(_, place)| place == "path")
            .map(|(name, _)| name.as_str())
            .filter(|name| IDS.contains(name))
            .collect();
        if of_path.is_empty() {
            continue;
        }
        let own = filled.ask("admin", &operation.method, &foreign);
        assert_ne!(own.status, 404, "{foreign} is there: {}", own.text());
        let absent = concrete(&operation, |name| match name {
            "tenant" => "nobody".into(),
            "id" | "entry_id" if operation.path.contains("/records/") || name == "entry_id" => {
                "01900000-0000-7000-8000-000000000000".into()
            }
            "verification_id" => "01900000-0000-7000-8000-000000000000".into(),
            name if IDS.contains(&name) => "nosuch".into(),
            name => filled.present(&operation.path, name),
        });
        let (foreign_answer, absent_answer) = (
            filled.ask("foreign", &operation.method, &foreign),
            filled.ask("foreign", &operation.method, &absent),
        );
        assert_eq!(
            (foreign_answer.status, foreign_answer.text()),
            (absent_answer.status, absent_answer.text()),
            "{} {foreign} and {absent}",
            operation.method
        );
        assert!(foreign_answer.status.is_client_error(), "{foreign}");
        compared += 1;
    }
    assert!(compared > 25, "{compared}");
    for (present, absent) in [
        (
            "/api/v1/steps?idempotency_key=k-r-1",
            "/api/v1/steps?idempotency_key=nosuch",
        ),
        (
            "/api/v1/traces/diff?left=r-1&right=r-2",
            "/api/v1/traces/diff?left=nosuch&right=nosuch",
        ),
    ] {
        filled.keyed.get_as("admin", present).ok();
        let (present, absent) = (
            filled.keyed.get_as("foreign", present),
            filled.keyed.get_as("foreign", absent),
        );
        assert_eq!((present.status.as_u16(), present.text()), (404, absent.text()));
    }
    for list in [
        "/api/v1/records?run_id=r-1",
        "/api/v1/logs/llm-runs?run_id=r-1",
        "/api/v1/incidents?source_run_id=r-1",
        "/api/v1/policy-activations?policy_id=p",
        "/api/v1/logs/audit",
    ] {
        assert_eq!(
            filled.keyed.get_as("foreign", list).ok()["items"],
            json!([]),
            "{list}"
        );
        assert_ne!(
            filled.keyed.get_as("admin", list).ok()["items"],
            json!([]),
            "{list}"
        );
    }
}

#[test]
fn metacharacters_in_any_parameter_are_a_clear_answer_and_find_nothing() {
    let filled = Filled::new();
    for operation in operations() {
        // Headers are attacked where they are read.
        for (attacked, place) in operation.parameters.iter().filter(|(_, place)| place != "header") {
            for text in METACHARACTERS {
                let given = encoded(text);
                let path = concrete(&operation, |name| {
                    if name == attacked && place == "path" {
                        given.clone()
                    } else {
                        filled.present(&operation.path, name)
                    }
                });
                let path = if place == "query" {
                    format!("{path}?{attacked}={given}")
                } else {
                    path
                };
                let answer = filled.ask("admin", &operation.method, &path);
                let status = answer.status.as_u16();
                let what = format!("{} {path}: {status} {}", operation.method, answer.text());
                assert!(status < 500 && status != 401 && status != 403, "{what}");
                assert!(
                    operation.statuses.contains(&status.to_string()),
                    "undocumented: {what}"
                );
                assert!(!answer.headers.contains_key("x-injected"), "{what}");
                if operation.path == "/api/v1/idempotency/{key}" && operation.method == Method::DELETE {
                    // Any text may be a key, and none of these is one.
                    assert_eq!(status, 204, "{what}");
                } else if !answer.status.is_success() {
                    answer.problem(status);
                } else if place == "query" && operation.method == Method::GET {
                    let found = answer.json();
                    let rows = found["items"].as_array().map_or(0, Vec::len);
                    assert_eq!(rows, 0, "{what}");
                } else {
                    panic!("{what}");
                }
            }
        }
    }
}

#[test]
fn a_parameter_given_twice_or_unknown_is_refused_and_none_names_the_tenant() {
    let filled = Filled::new();
    for operation in operations().iter().filter(|one| one.method == Method::GET) {
        if !operation.path.starts_with("/api/v1/") || operation.path == "/api/v1/keys" {
            continue;
        }
        let path = concrete(operation, |name| filled.present(&operation.path, name));
        for smuggled in ["tenant_id=other", "tenant=other", "x=1"] {
            let answer = filled.ask("admin", &Method::GET, &format!("{path}?{smuggled}"));
            assert_eq!(answer.problem(400), "bad_parameter", "{path}?{smuggled}");
        }
        for (name, _) in operation.parameters.iter().filter(|(_, place)| place == "query") {
            let answer = filled.ask("admin", &Method::GET, &format!("{path}?{name}=1&{name}=2"));
            assert_eq!(answer.status, 400, "{path}?{name} twice: {}", answer.text());
        }
    }
}

#[test]
fn limits_and_offsets_that_are_none_are_refused_by_every_list() {
    let filled = Filled::new();
    let mut lists = 0;
    for operation in operations() {
        let path = concrete(&operation, |name| filled.present(&operation.path, name));
        let takes = |name: &str| {
            operation
                .parameters
                .iter()
                .any(|(parameter, _)| parameter == name)
        };
        if takes("limit") {
            lists += 1;
            for bad in [
                "0",
                "-1",
                "501",
                "1000000000",
                "18446744073709551616",
                "x",
                "1.0",
                "1e2",
                "",
                "%20",
                "0x10",
                "NaN",
            ] {
                let answer = filled.ask("admin", &Method::GET, &format!("{path}?limit={bad}"));
                assert_eq!(answer.problem(400), "bad_parameter", "{path}?limit={bad}");
            }
            filled
                .ask("admin", &Method::GET, &format!("{path}?limit=500"))
                .ok();
        }
        if takes("offset") {
            for (bad, code) in [
                ("-1", "bad_parameter"),
                ("x", "bad_parameter"),
                ("10001", "use_cursor"),
                ("99999999999", "use_cursor"),
            ] {
                let answer = filled.ask("admin", &Method::GET, &format!("{path}?offset={bad}"));
                assert_eq!(answer.problem(400), code, "{path}?offset={bad}");
            }
        }
        if takes("as_of") {
            for bad in ["-1", "x", "99999999"] {
                let answer = filled.ask("admin", &Method::GET, &format!("{path}?as_of={bad}"));
                assert_eq!(answer.status, 400, "{path}?as_of={bad}");
            }
        }
    }
    assert!(lists >= 10, "{lists}");
}

#[test]
fn a_cursor_that_was_cut_changed_or_given_to_another_query_is_refused() {
    let filled = Filled::new();
    let mut cursors: Vec<(String, String)> = Vec::new();
    let lists: Vec<String> = operations()
        .iter()
        .filter(|one| one.parameters.iter().any(|(name, _)| name == "cursor"))
        .map(|one| concrete(one, |name| filled.present(&one.path, name)))
        .collect();
    for path in &lists {
        let page = filled.ask("admin", &Method::GET, &format!("{path}?limit=1"));
        if let Some(cursor) = page
            .status
            .is_success()
            .then(|| page.json()["next_cursor"].clone())
            && let Some(cursor) = cursor.as_str()
        {
            cursors.push((path.clone(), cursor.to_owned()));
        }
    }
    assert!(cursors.len() >= 9, "{cursors:?}");
    let bad = |who: &str, path: &str, cursor: &str| {
        let answer = filled.ask(who, &Method::GET, &format!("{path}?cursor={}", encoded(cursor)));
        assert_eq!(answer.status, 400, "{who} {path} {cursor}: {}", answer.text());
        let code = answer.problem(400);
        assert!(
            ["bad_cursor", "bad_parameter"].contains(&code.as_str()),
            "{path}: {code}"
        );
    };
    for (path, cursor) in &cursors {
        let again = format!("{path}?cursor={}&limit=1", encoded(cursor));
        filled.ask("admin", &Method::GET, &again).ok();
        bad("admin", path, &cursor[..cursor.len() - 1]);
        bad("admin", path, &cursor[..cursor.len() / 2]);
        bad("admin", path, &format!("{cursor}A"));
        for place in [0, cursor.len() / 2, cursor.len() - 1] {
            let mut changed = cursor.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            bad("admin", path, std::str::from_utf8(&changed).unwrap());
        }
        // Another tenant's, and another list's.
        bad("foreign", path, cursor);
        for other in lists.iter().filter(|other| *other != path) {
            bad("admin", other, cursor);
        }
    }
    for (path, filter) in [
        ("/api/v1/logs/llm-runs", "provider=x"),
        ("/api/v1/logs/audit", "actor_type=SYSTEM"),
        ("/api/v1/records", "kind=run.started"),
        ("/api/v1/incidents", "source_run_id=r-1"),
        ("/api/v1/logs/system", "component=c"),
        ("/api/v1/traces", "agent_id=x"),
    ] {
        let cursor = &cursors.iter().find(|(list, _)| list == path).unwrap().1;
        let path = format!("{path}?{filter}&cursor={}", encoded(cursor));
        assert_eq!(
            filled.ask("admin", &Method::GET, &path).problem(400),
            "bad_cursor",
            "{path}"
        );
    }
}

#[test]
fn no_answer_lets_a_page_of_another_origin_read_it() {
    let keyed = Keyed::new();
    let bearer = format!("Bearer {}", keyed.keys[3].1);
    for method in [Method::OPTIONS, Method::GET] {
        for path in ["/api/v1/me", "/api/v1/runs", "/v1/traces", "/healthz", "/nosuch"] {
            let headers = [
                ("origin", "https://evil.example"),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "authorization"),
                ("authorization", bearer.as_str()),
            ];
            let answer = keyed
                .server
                .request(method.clone(), path, &headers, axum::body::Body::empty());
            let allows = answer
                .headers
                .keys()
                .any(|name| name.as_str().starts_with("access-control-"));
            assert!(!allows, "{method} {path}");
            assert!(
                method == Method::GET || !answer.status.is_success(),
                "{method} {path}: {}",
                answer.status
            );
        }
    }
}
