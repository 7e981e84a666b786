//! What an older idempotency store and replay enforcer did, replayed: where it differs, SPEC decides. Then the line is
//! marked as a bug, or named here, or has a tag that a paragraph of docs/decisions.md stands behind; what such a line
//! may answer instead is in [`crate::once_decided`], and nothing else.
//!
//! Ignored unless asked for (`-- --ignored`); `DEPONENT_VECTORS` names the folder with `idempotency.jsonl` and `replay.jsonl`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use evidence::Timestamp;
use evidence::canonical;
use serde_json::{Map, Value, json};

use crate::once_decided::{Allowed, Keys, Steps};
use crate::server::{Answer, TestServer, now};

/// Microseconds that `wait` has passed.
static WAITED: AtomicI64 = AtomicI64::new(0);

fn clock() -> Timestamp {
    now().checked_add_micros(WAITED.load(Ordering::Relaxed)).unwrap()
}

/// Why an unmarked line may differ.
const NUMBERS: &str = "1: hashes are those of RFC 8785, of I-JSON";
const EMPTY: &str = "an empty response is one, and has a hash";
const COMPARED: &str = "4.2: outcome_data and params are compared exactly, cost and time are not";
const CUT: &str = "8.1: an error is kept to 500 characters, in every backend";
const OBJECTS: &str = "4.1: the parameters of a step are an object";
const CHECKS: &str = "8.3: without an expected hash nothing is checked; a stored output is compared too";

/// What became of a line.
#[derive(Debug)]
enum Outcome {
    Agrees,
    /// With the reason of SPEC.
    Decided(&'static str),
    Differs(String),
    /// It is not asked for through the API.
    NotHere,
}

/// A server of each tenant: whose a key is comes from the credential.
struct Tenants(BTreeMap<String, TestServer>);

impl Tenants {
    fn of(&mut self, tenant: &str) -> &TestServer {
        self.0.entry(tenant.to_owned()).or_insert_with(|| {
            let mut server = TestServer::new();
            server.app.clock = clock;
            server.router = ::server::router(server.app.clone());
            server
        })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether RFC 8785 writes, or I-JSON has, another value than Python's `json` does.
fn is_another_json(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64().is_none_or(|number| number.abs() >= 1 << 53),
        Value::String(text) => !text.is_ascii(),
        Value::Array(all) => all.iter().any(is_another_json),
        Value::Object(all) => all
            .iter()
            .any(|(key, value)| !key.is_ascii() || is_another_json(value)),
        Value::Null | Value::Bool(_) => false,
    }
}

fn hash_of(value: &Value) -> Option<String> {
    Some(canonical::sha256_hex(&canonical::to_vec(
        &canonical::from_serde(value).ok()?,
    )))
}

fn operations(line: &Value) -> Outcome {
    WAITED.store(0, Ordering::Relaxed);
    let mut tenants = Tenants(BTreeMap::new());
    let mut leases: BTreeMap<(String, String), String> = BTreeMap::new();
    if let Some(parallel) = line["input"]["parallel"].as_u64() {
        let (server, body) = (tenants.of("default"), json!({ "request": 1 }));
        let asked =
            (0..parallel).map(|_| server.post("/api/v1/idempotency/k/check", &body).json()["result"].clone());
        let new = asked.filter(|result| result == "new").count();
        return if json!(new) == line["expected"]["new"] {
            Outcome::Agrees
        } else {
            Outcome::Differs(format!("{new} were new"))
        };
    }
    let results = line["expected"]["results"].as_array().unwrap();
    let (mut keys, mut allowed, mut decided) = (Keys::default(), Allowed::of(line), None);
    for (ask, theirs) in line["input"]["ops"].as_array().unwrap().iter().zip(results) {
        let args = &ask["args"];
        let (tenant, key) = (
            args["tenant_id"].as_str().unwrap_or("default"),
            text(&args["idempotency_key"]),
        );
        let path = format!("/api/v1/idempotency/{}", key.replace(':', "%3A"));
        let place = (tenant.to_owned(), key.to_owned());
        let lease = leases.get(&place).cloned().unwrap_or_else(|| "0".repeat(32));
        let server = tenants.of(tenant);
        let mut body = Map::new();
        let expected = keys.apply(&place, text(&ask["op"]), args, clock().as_micros());
        let (said, differs) = match text(&ask["op"]) {
            "check" => {
                body.insert("request".into(), args["request_data"].clone());
                if !text(&args["trace_id"]).is_empty() {
                    body.insert("trace_id".into(), args["trace_id"].clone());
                }
                if args["ttl"].is_i64() {
                    body.insert("ttl_seconds".into(), args["ttl"].clone());
                }
                let ours = server.post(&format!("{path}/check"), &Value::Object(body));
                if ours.status != 200 {
                    return Outcome::Differs(ours.text());
                }
                let ours = ours.json();
                if let Some(lease) = ours["lease"].as_str() {
                    leases.insert(place.clone(), lease.to_owned());
                }
                let differs = ours["result"] != theirs["result"]
                    || ours["stored_hash"] != theirs["stored_hash"]
                    || text(&ours["stored_trace_id"]) != text(&theirs["stored_trace_id"]);
                (ours["result"].clone(), differs)
            }
            "mark_completed" => {
                body.insert("lease".into(), json!(lease));
                if !text(&args["trace_id"]).is_empty() {
                    body.insert("trace_id".into(), args["trace_id"].clone());
                }
                if let Some(response) = args.get("response_data").filter(|response| !response.is_null()) {
                    body.insert("response".into(), response.clone());
                }
                let ours = server.post(&format!("{path}/complete"), &Value::Object(body));
                let said = json!(ours.status.as_u16());
                (said, (ours.status == 200) != (*theirs == json!(true)))
            }
            "mark_failed" => {
                body.insert("lease".into(), json!(lease));
                body.insert("error".into(), json!(text(&args["error"])));
                let ours = server.post(&format!("{path}/fail"), &Value::Object(body));
                let said = json!(ours.status.as_u16());
                (said, (ours.status == 200) != (*theirs == json!(true)))
            }
            "get_status" => {
                let ours = server.get(&path);
                if ours.status == 404 {
                    (json!("none"), !theirs.is_null())
                } else {
                    let (ours, theirs) = (ours.json(), &theirs["values"]);
                    let is_empty = theirs["response_hash"] == "" && !ours["response_hash"].is_null();
                    let is_cut = theirs["error"]["len"].as_u64() > Some(500);
                    if is_empty {
                        decided = Some(EMPTY);
                    } else if is_cut {
                        decided = Some(CUT);
                    }
                    let error = text(&ours["error"]);
                    let response_hash = text(&ours["response_hash"]);
                    let differs = ["hash", "status"]
                        .iter()
                        .any(|field| ours[field] != theirs[field])
                        || text(&ours["trace_id"]) != text(&theirs["trace_id"])
                        || !is_empty
                            && response_hash != theirs["response_hash"].as_str().unwrap_or(response_hash)
                        || !is_cut
                            && theirs["error"]["sha256"]
                                .as_str()
                                .is_some_and(|theirs| theirs != crate::support::sha256(error));
                    assert!(!is_cut || error.chars().count() <= 500, "{error}");
                    (ours["status"].clone(), differs)
                }
            }
            "ttl" => {
                let ours = server.get(&path).json();
                let expires = Timestamp::parse(text(&ours["expires_at"])).ok();
                let left = expires.map(|expires| (expires.as_micros() - clock().as_micros()) / 1_000_000);
                (Value::Null, left != theirs["ttl"].as_i64())
            }
            "delete" => {
                let ours = server.request(axum::http::Method::DELETE, &path, &[], axum::body::Body::empty());
                leases.remove(&place);
                let differs = (ours.status == 204) != (*theirs == json!(true));
                if !differs {
                    allowed.joined(&place);
                }
                (json!(ours.status.as_u16()), differs)
            }
            "wait" => {
                #[allow(clippy::cast_possible_truncation)] // a second or two
                let micros = (args["seconds"].as_f64().unwrap() * 1e6) as i64;
                WAITED.fetch_add(micros, Ordering::Relaxed);
                (Value::Null, false)
            }
            // What becomes of Redis itself: crates/store/tests/it/once_redis.rs.
            _ => return Outcome::NotHere,
        };
        if !differs {
            // Both say yes, and keep another trace.
            if said == 200 && !expected.situations.is_empty() {
                allowed.differs(&place, expected.situations);
            }
            continue;
        }
        match allowed.differs(&place, expected.situations) {
            Some(why) if said == expected.said => decided = Some(why),
            _ => {
                let expected = expected.said;
                return Outcome::Differs(format!(
                    "{ask}: theirs {theirs}, ours {said}, expected {expected}"
                ));
            }
        }
    }
    decided.map_or(Outcome::Agrees, Outcome::Decided)
}

/// The hash that the older implementation made of what it wrote with spaces; `None`: it wrote another form altogether.
fn spaced_hash(value: &Value) -> Option<String> {
    let text = value.to_string().replace(':', ": ").replace(',', ", ");
    (!is_another_json(value)).then(|| crate::support::sha256(&text))
}

fn hashed(line: &Value) -> Outcome {
    let data = &line["input"]["data"];
    let theirs = text(&line["expected"]["hash"]);
    if hash_of(data).is_some_and(|ours| ours.starts_with(theirs)) {
        return Outcome::Agrees;
    }
    if is_another_json(data) || spaced_hash(data).is_some_and(|hash| hash.starts_with(theirs)) {
        return Outcome::Decided(NUMBERS);
    }
    Outcome::Differs(data.to_string())
}

/// Expected hashes are the first 16 digits of another form there: the ones that ours are of outputs that the line knows.
fn our_hash(theirs: &str, outputs: &[Value]) -> String {
    let same = |output: &&Value| spaced_hash(output).is_some_and(|hash| hash.starts_with(theirs));
    let known = outputs.iter().find(same).and_then(hash_of);
    known.unwrap_or_else(|| {
        if theirs.len() == 64 {
            theirs.into()
        } else {
            theirs.repeat(4)
        }
    })
}

fn enforced(server: &TestServer, step: &Value, returns: &Value, outputs: &[Value]) -> (Answer, bool) {
    let mut body = step.as_object().unwrap().clone();
    body.insert("run_id".into(), json!("r"));
    body.entry("step_index").or_insert(json!(0));
    if let Some(short) = body.get("output_hash").and_then(Value::as_str) {
        let whole = our_hash(short, outputs);
        body.insert("output_hash".into(), json!(whole));
    }
    let begun = server.post("/api/v1/replay/steps", &Value::Object(body));
    if begun.status != 200 || begun.json()["action"] == "use_stored" {
        return (begun, false);
    }
    let path = format!("/api/v1/replay/steps/{}/result", text(&begun.json()["token"]));
    (server.post(&path, &json!({ "output": returns })), true)
}

fn sequence(line: &Value) -> Outcome {
    let mut tenants = Tenants(BTreeMap::new());
    let steps = line["input"]["steps"].as_array().unwrap();
    let outputs: Vec<Value> = steps
        .iter()
        .map(|step| step["execute_returns"].clone())
        .chain((0..9).map(|o| json!({ "o": o })))
        .collect();
    let (mut model, mut allowed, mut decided) = (Steps::default(), Allowed::of(line), None);
    for (step, theirs) in steps.iter().zip(line["expected"]["results"].as_array().unwrap()) {
        let tenant = text(&step["tenant_id"]);
        let server = tenants.of(tenant);
        server.post("/api/v1/runs", &json!({ "run_id": "r" }));
        if step["executor"] == "raise" {
            let mut body = step["step"].clone();
            body["run_id"] = json!("r");
            let begun = server.post("/api/v1/replay/steps", &body).ok();
            let path = format!("/api/v1/replay/steps/{}/fail", text(&begun["token"]));
            assert_eq!(server.post(&path, &json!({ "error": "raised" })).status, 204);
            assert_eq!(theirs["error"], "RuntimeError");
            continue;
        }
        let (answer, called) = enforced(server, &step["step"], &step["execute_returns"], &outputs);
        let ours = answer.json();
        let agrees = if theirs["error"] == "ReplayMismatchError" {
            answer.status == 409
                && ours["code"] == "replay_mismatch"
                && ours["step_index"] == theirs["step_index"]
                && text(&ours["actual_hash"]) == our_hash(text(&theirs["actual_hash"]), &outputs)
        } else if theirs["error"] == "ValueError" {
            answer.status == 422
        } else {
            answer.status.is_success()
                && ["executed", "skipped", "checked", "from_cache"]
                    .iter()
                    .all(|flag| ours[flag] == theirs[flag])
                && ours["output"] == theirs["output_data"]
                && text(&ours["output_hash"]) == our_hash(text(&theirs["output_hash"]), &outputs)
        };
        if theirs["error"] == "ValueError" {
            if agrees {
                continue;
            }
            return Outcome::Differs(format!("{step}: theirs {theirs}, ours {ours}"));
        }
        let key = text(&step["step"]["idempotency_key"]);
        let place = (tenant.to_owned(), key.to_owned());
        let hash = our_hash(text(&step["step"]["output_hash"]), &outputs);
        let returns = &step["execute_returns"];
        let expected = model.apply(&place, &step["step"], returns, |output| {
            hash_of(output).as_ref() == Some(&hash)
        });
        if agrees && json!(called) == theirs["executor_called"] {
            continue;
        }
        let as_decided = called == expected.called
            && match &expected.result {
                None => answer.status == 409 && ours["code"] == "replay_mismatch",
                Some((flags, output)) => {
                    let said =
                        ["executed", "skipped", "checked", "from_cache"].map(|flag| ours[flag].clone());
                    answer.status.is_success()
                        && said == flags.map(Value::from)
                        && ours["output"] == *output
                        && ours["output_hash"].as_str() == hash_of(output).as_deref()
                }
            };
        match allowed.differs(&place, &expected.situations) {
            Some(why) if as_decided => decided = Some(why),
            _ => return Outcome::Differs(format!("{step}: theirs {theirs}, ours {ours}")),
        }
    }
    decided.map_or(Outcome::Agrees, Outcome::Decided)
}

fn trace(line: &Value) -> Outcome {
    let server = TestServer::new();
    server.run("r");
    let steps = line["input"]["steps"].as_array().unwrap();
    let mut decided = None;
    for (place, step) in steps.iter().enumerate() {
        // What the executor returned is not on the line, only that it was the same at each place.
        let mut step = step.clone();
        let output = json!({ "place": place });
        let object = step.as_object_mut().unwrap();
        if object.contains_key("output_hash") {
            object.insert("output_hash".into(), json!(hash_of(&output)));
        }
        let (answer, called) = enforced(&server, &step, &output, &[]);
        let ours = answer.json();
        let theirs = &line["expected"]["flags"][place];
        let flags = json!([
            ours["executed"],
            ours["skipped"],
            ours["checked"],
            ours["from_cache"]
        ]);
        let calls = line["expected"]["calls"].as_array().unwrap();
        let is_check = step["replay_behavior"] == "check";
        if flags == *theirs && called == calls.contains(&json!(place)) {
            continue;
        }
        if !is_check {
            return Outcome::Differs(format!("{step}: theirs {theirs}, ours {ours}"));
        }
        decided = Some(CHECKS);
    }
    decided.map_or(Outcome::Agrees, Outcome::Decided)
}

fn compared(line: &Value) -> Outcome {
    let server = TestServer::new();
    for (run, side) in [("a", "original"), ("b", "replay")] {
        let body = json!({ "run_id": run, "steps": line["input"][side], "status": "completed" });
        let answer = server.post("/api/v1/traces", &body);
        if answer.text().contains("params: must be an object") {
            return Outcome::Decided(OBJECTS);
        }
        if !answer.status.is_success() {
            return Outcome::Differs(answer.text());
        }
    }
    let ours = server.get("/api/v1/traces/diff?left=a&right=b").ok();
    let theirs = &line["expected"];
    let same = ours["equal"] == theirs["is_parity"];
    let at = &ours["divergence"]["step_index"];
    // Of two lengths, theirs names the shorter one's last or first step.
    if same && (at == &theirs["divergence_step"] || ours["divergence"]["field"] == "length") {
        return Outcome::Agrees;
    }
    let case = text(&line["case"]);
    if ["float7", "cost", "time"].iter().any(|kind| case.ends_with(kind)) {
        return Outcome::Decided(COMPARED);
    }
    Outcome::Differs(format!("theirs {theirs}, ours {ours}"))
}

#[test]
#[ignore = "needs DEPONENT_VECTORS"]
fn the_vectors_agree_but_where_spec_decides() {
    let folder = std::env::var_os("DEPONENT_VECTORS").expect("DEPONENT_VECTORS names no folder");
    let (mut agree, mut marked, mut wrong) = (0, 0, Vec::new());
    let mut decided: BTreeMap<&str, u32> = BTreeMap::new();
    for file in ["idempotency.jsonl", "replay.jsonl"] {
        let lines = std::fs::read_to_string(Path::new(&folder).join(file)).unwrap();
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let outcome = match text(&line["module"]) {
                "idempotency.hash_request" | "replay.hash_output" => hashed(&line),
                "idempotency.redis" | "idempotency.memory" => operations(&line),
                "replay.sequence" => sequence(&line),
                "replay.trace" => trace(&line),
                "replay.compare_traces" => compared(&line),
                other => panic!("no such module: {other}"),
            };
            // A tagged line is held to the decision behind its tag, a bug or not.
            let is_marked = line.get("original_bug").is_some() && line.get("tags").is_none();
            match outcome {
                Outcome::Agrees => agree += 1,
                Outcome::Decided(why) => *decided.entry(why).or_default() += 1,
                Outcome::NotHere if line.get("original_bug").is_some() => marked += 1,
                Outcome::NotHere => wrong.push(format!("{} {}: not done here", line["module"], line["case"])),
                Outcome::Differs(_) if is_marked => marked += 1,
                Outcome::Differs(why) => wrong.push(format!("{} {}: {why}", line["module"], line["case"])),
            }
        }
    }
    println!("{agree} agree, {marked} marked; decided otherwise: {decided:#?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(agree > 130, "{agree} agree");
    assert!(marked < 10, "{marked} marked");
}
