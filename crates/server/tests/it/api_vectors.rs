//! What an older implementation did, replayed: where it differs, SPEC decides, and the line is marked
//! or named here.
//!
//! Ignored unless asked for (`-- --ignored`); `DEPONENT_VECTORS` names the folder with `trace_store.jsonl`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::server::TestServer;
use crate::support::ticking_server;

/// Unmarked lines that SPEC decides otherwise, and why.
const DECIDED: [(&str, &str); 1] = [(
    "store-trace",
    "4.1: trace_id is trace_<run_id>, a root_hash or plan_hash that disagrees is 422, a step needs its skill_name",
)];

/// One server for each tenant of a line, as the API takes the tenant from the credential.
#[derive(Default)]
struct Replay {
    servers: BTreeMap<String, TestServer>,
    home: BTreeMap<String, String>,
}

impl Replay {
    fn server(&mut self, tenant: &str) {
        self.servers
            .entry(tenant.to_owned())
            .or_insert_with(ticking_server);
    }

    fn tenant(&self, args: &Value) -> String {
        let named = args["tenant_id"].as_str().map(str::to_owned);
        let home = || {
            args["run_id"]
                .as_str()
                .and_then(|run| self.home.get(run).cloned())
        };
        home()
            .or(named)
            .or_else(|| self.servers.keys().next().cloned())
            .unwrap_or_default()
    }

    /// What we answer, in the older form; `None`: not comparable.
    fn step(&mut self, op: &str, args: &Value) -> Option<Value> {
        let tenant = self.tenant(args);
        let run_id = args["run_id"].as_str().unwrap_or_default().to_owned();
        self.server(&tenant);
        let alone = self.servers.len() == 1;
        let server = &self.servers[&tenant];
        let outcome = |answer: crate::server::Answer| match answer.status.as_u16() {
            200 | 201 => json!("ok"),
            _ => json!({ "error": answer.json()["code"] }),
        };
        Some(match op {
            "start" => {
                let mut body = picked(args, &["run_id", "agent_id", "plan"]);
                body.insert("correlation_id".into(), json!("c"));
                let answer = outcome(server.post("/api/v1/runs", &Value::Object(body)));
                if answer == "ok" {
                    self.home.entry(run_id).or_insert(tenant);
                }
                answer
            }
            "record_step" => {
                let mut body =
                    json!({ "skill_name": "s", "status": "success", "outcome_category": "SUCCESS" });
                let given = picked(
                    args,
                    &[
                        "step_index",
                        "params",
                        "status",
                        "outcome_category",
                        "outcome_code",
                        "outcome_data",
                        "cost_cents",
                        "duration_ms",
                    ],
                );
                body.as_object_mut().unwrap().extend(given);
                outcome(server.post(&format!("/api/v1/runs/{run_id}/steps"), &body))
            }
            "complete" => {
                let body = Value::Object(picked(args, &["status", "metadata"]));
                outcome(server.post(&format!("/api/v1/runs/{run_id}/complete"), &body))
            }
            "abort" => outcome(server.post(
                &format!("/api/v1/runs/{run_id}/abort"),
                &Value::Object(picked(args, &["reason"])),
            )),
            "get" => match server.get(&format!("/api/v1/traces/{run_id}")) {
                answer if answer.status == 404 => Value::Null,
                answer => trace_form(&answer.ok()),
            },
            "list" | "search" if alone => {
                let mut query: Vec<String> = Vec::new();
                for (theirs, ours) in [
                    ("limit", "limit"),
                    ("offset", "offset"),
                    ("agent_id", "agent_id"),
                    ("seed", "seed"),
                    ("status", "status"),
                    ("plan_hash", "plan_hash"),
                ] {
                    match &args[theirs] {
                        Value::Null => {}
                        Value::String(text) => query.push(format!("{ours}={text}")),
                        value => query.push(format!("{ours}={value}")),
                    }
                }
                // Their clock is not ours: what is filtered by time is not comparable.
                if !args["from_date"].is_null() || !args["to_date"].is_null() {
                    return None;
                }
                let answer = server.get(&format!("/api/v1/traces?{}", query.join("&")));
                if answer.status != 200 {
                    return Some(json!({ "error": answer.json()["code"] }));
                }
                answer.json()["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(item_form)
                    .collect()
            }
            "count" if alone => server.get("/api/v1/traces").ok()["total"].clone(),
            "store" => {
                let answer = server.post("/api/v1/traces", &args["trace"]);
                if answer.status.is_success() {
                    json!({ "trace_id": answer.json()["trace_id"] })
                } else {
                    outcome(answer)
                }
            }
            "delete" => outcome(server.request(
                axum::http::Method::DELETE,
                &format!("/api/v1/traces/{run_id}"),
                &[],
                "",
            )),
            _ => return None,
        })
    }
}

fn picked(args: &Value, names: &[&str]) -> Map<String, Value> {
    names
        .iter()
        .filter(|name| !args[**name].is_null())
        .map(|name| ((*name).to_owned(), args[*name].clone()))
        .collect()
}

/// The parts of a trace that both have; root_hash is another thing here (SPEC 4.2).
fn trace_form(trace: &Value) -> Value {
    let steps: Vec<Value> = trace["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            Value::Object(
                [
                    "step_index",
                    "skill_name",
                    "status",
                    "params",
                    "outcome_category",
                    "outcome_code",
                    "outcome_data",
                    "cost_cents",
                    "duration_ms",
                    "retry_count",
                ]
                .iter()
                .map(|name| ((*name).to_owned(), step[*name].clone()))
                .collect(),
            )
        })
        .collect();
    json!({
        "run_id": trace["run_id"], "correlation_id": trace["correlation_id"], "agent_id": trace["agent_id"],
        "status": trace["status"], "completed": !trace["completed_at"].is_null(), "seed": trace["seed"], "plan": trace["plan"],
        "metadata": if trace["metadata"].is_null() { json!({}) } else { trace["metadata"].clone() }, "steps": steps,
    })
}

fn item_form(item: &Value) -> Value {
    json!({
        "run_id": item["run_id"], "status": item["status"], "total_steps": item["total_steps"],
        "success_count": item["success_count"], "failure_count": item["failure_count"],
        "total_cost_cents": item["total_cost_cents"], "total_duration_ms": item["total_duration_ms"],
        "completed": !item["completed_at"].is_null(),
    })
}

/// Numbers as numbers, and without what only the older form has.
fn comparable(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64().unwrap()),
        Value::Array(values) => values.iter().map(comparable).collect(),
        Value::Object(members) if members.contains_key("error") => json!({ "error": true }),
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| {
                !["tenant_id", "determinism_signature", "root_hash"].contains(&name.as_str())
            });
            Value::Object(
                kept.map(|(name, value)| (name.clone(), comparable(value)))
                    .collect(),
            )
        }
        other => other.clone(),
    }
}

#[test]
#[ignore = "needs DEPONENT_VECTORS"]
fn vectors_trace_store() {
    let folder = std::env::var_os("DEPONENT_VECTORS").expect("DEPONENT_VECTORS names no folder");
    let text = std::fs::read_to_string(Path::new(&folder).join("trace_store.jsonl")).unwrap();
    let (mut agreed, mut lines, mut unexplained) = (0, 0, Vec::new());
    let mut marked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut differences = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let Some(ops) = line["input"]["ops"].as_array() else {
            continue;
        };
        lines += 1;
        let case = format!(
            "{} {}",
            line["module"].as_str().unwrap(),
            line["case"].as_str().unwrap()
        );
        let mut replay = Replay::default();
        let mut differs = Vec::new();
        for (op, expected) in ops.iter().zip(line["expected"]["results"].as_array().unwrap()) {
            let name = op["op"].as_str().unwrap();
            let Some(ours) = replay.step(name, &op["args"]) else {
                continue;
            };
            if comparable(expected) == json!({ "error": true }) && expected["error"] == "not_supported" {
                continue;
            }
            let (ours, theirs) = (comparable(&ours), comparable(expected));
            if ours != theirs {
                differs.push(format!("{name}: ours {ours}, theirs {theirs}"));
            }
        }
        let is_marked =
            line["original_bug"].is_string() || line["tags"].as_array().is_some_and(|tags| !tags.is_empty());
        let decided = DECIDED.iter().find(|(name, _)| line["case"] == *name);
        if differs.is_empty() {
            agreed += 1;
        } else if is_marked {
            let mark = match line["original_bug"].as_str() {
                Some(bug) => bug.to_owned(),
                None => line["tags"].to_string(),
            };
            marked.entry(mark).or_default().insert(case.clone());
            differences.push(format!("{case}: {}", differs[0]));
        } else if let Some((_, why)) = decided {
            marked.entry((*why).to_owned()).or_default().insert(case.clone());
        } else {
            unexplained.push(format!("{case}\n  {}", differs.join("\n  ")));
        }
    }
    println!("{agreed} of {lines} lines agree; differences by mark:");
    for (mark, cases) in &marked {
        println!("- {mark}: {} lines", cases.len());
    }
    for difference in &differences {
        println!("  {}", difference.chars().take(300).collect::<String>());
    }
    assert!(
        unexplained.is_empty(),
        "unmarked lines differ:\n{}",
        unexplained.join("\n")
    );
}
