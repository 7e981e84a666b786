//! What an older audit ledger and its policy bridge did, replayed: where it differs, SPEC decides, and the
//! line is marked or named here and in docs/decisions.md.
//!
//! Ignored unless asked for (`-- --ignored`); `DEPONENT_VECTORS` names the folder with `audit_ledger.jsonl`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::server::TestServer;
use crate::support::ticking_server;

/// Why an unmarked line may differ.
const CHANGES: &str = "5.2: events of change need their states (422)";
const HUMANS: &str = "5.2: HUMAN and AGENT need actor_id (422)";
const TENANTS: &str = "the tenant comes from the credential; an unknown one has none (401)";
const LENGTHS: &str = "1: identifiers have 1 to 256 bytes; one of 65 is kept exactly";
const WORDS: &str = "5.3: event types and components of system records are open words";
const CONFIDENCE: &str = "out of scope: confidence is given by the caller (5.5), not computed here";

/// What became of a line.
enum Outcome {
    Agrees,
    /// With the reason of SPEC.
    Decided(&'static str),
    Differs(String),
}

/// The event's name and entity by the older method's name.
fn event_of(method: &str) -> (String, &'static str) {
    let mut name = String::new();
    for word in method.split('_') {
        let (head, tail) = word.split_at(1);
        name.push_str(&head.to_uppercase());
        name.push_str(tail);
    }
    let entity = match method.split('_').next().unwrap() {
        "limit" => "LIMIT",
        "signal" => "SIGNAL",
        _ if method.starts_with("policy_rule") => "POLICY_RULE",
        _ => "POLICY_PROPOSAL",
    };
    (name, entity)
}

fn emit(line: &Value) -> Outcome {
    let (input, expected) = (&line["input"], &line["expected"]);
    if line["case"] == "unknown-tenant" {
        return Outcome::Decided(TENANTS);
    }
    let method = input["method"].as_str().unwrap();
    let (event_type, entity_type) = event_of(method);
    let args = input["args"].as_object().unwrap();
    let mut body = Map::from_iter([
        ("event_type".to_owned(), json!(event_type)),
        ("entity_type".to_owned(), json!(entity_type)),
        ("actor_type".to_owned(), expected["actor_type"].clone()),
    ]);
    for (name, value) in args {
        let field = match name.as_str() {
            "actor_id" | "actor_type" | "before_state" | "after_state" => name,
            "reason" => "action_reason",
            "limit_id" | "rule_id" | "proposal_id" | "signal_id" => "entity_id",
            "limit_id_len" => {
                let id = "x".repeat(usize::try_from(value.as_u64().unwrap()).unwrap());
                body.insert("entity_id".into(), json!(id));
                body.insert("actor_type".into(), json!("SYSTEM"));
                body.insert("after_state".into(), json!({}));
                continue;
            }
            // A single state: before of a rule that is retired, else after.
            _ if method.ends_with("retired") => "before_state",
            _ => "after_state",
        };
        body.insert(field.to_owned(), value.clone());
    }
    let server = TestServer::new();
    let answer = server.post("/api/v1/audit-events", &Value::Object(body));
    if line["case"] == "id-too-long" {
        assert_eq!(answer.status, 201, "{}", answer.text());
        return Outcome::Decided(LENGTHS);
    }
    if answer.status == 422 {
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        return match detail.split(':').next().unwrap() {
            "before_state" | "after_state" => Outcome::Decided(CHANGES),
            "actor_id" => Outcome::Decided(HUMANS),
            _ => Outcome::Differs(detail),
        };
    }
    assert_eq!(answer.status, 201, "{}", answer.text());
    let id = answer.json()["entry_id"].as_str().unwrap().to_owned();
    let record = server.get(&format!("/api/v1/records/{id}")).ok();
    // Who commits is not the caller's affair any more: what is answered is on disk, so `persisted` is always true.
    let differs = expected.as_object().unwrap().iter().find(|(field, theirs)| {
        let ours = match field.as_str() {
            "persisted" => return false,
            "actor_type" => &record["header"]["actor"]["type"],
            field => &record["body"][field],
        };
        ours != *theirs
    });
    match differs {
        None => Outcome::Agrees,
        Some((field, theirs)) => Outcome::Differs(format!("{field}: theirs {theirs}, ours {record}")),
    }
}

fn activate(line: &Value) -> Outcome {
    const PATH: &str = "/api/v1/policy-activations";
    let mut servers: BTreeMap<String, TestServer> = BTreeMap::new();
    let results = line["expected"]["results"].as_array().unwrap();
    for (call, result) in line["input"]["calls"].as_array().unwrap().iter().zip(results) {
        let mut body = call.clone();
        let tenant = body.as_object_mut().unwrap().remove("tenant_id").unwrap();
        let tenant = tenant.as_str().unwrap();
        let server = servers.entry(tenant.to_owned()).or_insert_with(ticking_server);
        let answer = server.post(PATH, &body);
        if answer.status != 201 {
            return Outcome::Differs(answer.text());
        }
        let same = |ours: &Value| {
            let theirs = result["returned"].as_object().unwrap();
            theirs
                .iter()
                .filter(|(field, _)| *field != "tenant_id")
                .all(|(field, theirs)| ours[field] == *theirs)
        };
        let policy = call["policy_id"].as_str().unwrap();
        let current = server.get(&format!("{PATH}?policy_id={policy}&limit=1")).ok();
        if !same(&answer.json()) || !same(&current["items"][0]) {
            return Outcome::Differs(format!("{} {current}", answer.text()));
        }
    }
    let kept: u64 = servers
        .values()
        .map(|server| server.get(PATH).ok()["total"].as_u64().unwrap())
        .sum();
    let rows = line["expected"]["rows"].as_array().unwrap().len();
    if kept == u64::try_from(rows).unwrap() {
        Outcome::Agrees
    } else {
        Outcome::Differs(format!("{kept} activations on record, theirs {rows}"))
    }
}

/// Nothing that is served changes or deletes a record.
fn immutable() -> Outcome {
    let paths = server::openapi().paths.paths;
    let writes = paths
        .iter()
        .filter(|(_, item)| item.put.is_some() || item.delete.is_some() || item.patch.is_some());
    let paths: Vec<_> = writes.map(|(path, _)| path.clone()).collect();
    let of_records =
        |path: &&String| path.contains("audit") || path.contains("llm-runs") || path.contains("system");
    match paths.iter().find(of_records) {
        None => Outcome::Differs("no record can be updated, deleted or truncated".into()),
        Some(path) => panic!("{path} changes records"),
    }
}

#[test]
#[ignore = "needs DEPONENT_VECTORS"]
fn vectors_audit_ledger() {
    let folder = std::env::var_os("DEPONENT_VECTORS").expect("DEPONENT_VECTORS names no folder");
    let text = std::fs::read_to_string(Path::new(&folder).join("audit_ledger.jsonl")).unwrap();
    let (mut agreed, mut explained, mut unexplained) =
        (0, BTreeMap::<String, Vec<String>>::new(), Vec::new());
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let (module, case) = (line["module"].as_str().unwrap(), line["case"].as_str().unwrap());
        let outcome = match module {
            "audit_ledger.emit" => emit(&line),
            "audit_ledger.immutability" => immutable(),
            "audit_ledger.constraints" => Outcome::Decided(WORDS),
            "bridges.policy_activation" => activate(&line),
            "bridges.confidence" => Outcome::Decided(CONFIDENCE),
            other => panic!("no replay of {other}"),
        };
        let name = format!("{module} {case}");
        let mark = line["original_bug"].as_str();
        match (outcome, mark) {
            (Outcome::Agrees, _) => agreed += 1,
            (Outcome::Decided(why), _) => explained.entry(why.to_owned()).or_default().push(name),
            (Outcome::Differs(_), Some(mark)) => explained.entry(mark.to_owned()).or_default().push(name),
            (Outcome::Differs(how), None) => unexplained.push(format!("{name}: {how}")),
        }
    }
    println!("{agreed} lines agree; the others by reason:");
    for (reason, lines) in &explained {
        println!("- {reason}: {}", lines.join(", "));
    }
    assert!(
        unexplained.is_empty(),
        "unmarked lines differ:\n{}",
        unexplained.join("\n")
    );
}
