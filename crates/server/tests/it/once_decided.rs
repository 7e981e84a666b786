//! What docs/decisions.md has keys and replayed steps do, told apart from what the older implementation did: models of
//! both decisions, and which tag of a line allows which difference.
//!
//! An answer must be theirs. Where it is not, it must be the model's, and either its own situation is one that a tag of
//! the line names, or it is about a key whose state parted from theirs in such a situation before.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// Tenant and key.
pub(crate) type Place = (String, String);

const UNKNOWN: &str = "An unknown key cannot be completed or failed";
const COMPLETED: &str = "Completed is completed";
const AGAIN: &str = "A failed key is new at the next check";
const COMPARED: &str = "What is checked was compared";
const FIRST: &str = "A known key that is executed again keeps its first output";

/// Which decision a tag allows.
pub(crate) fn decision(tag: &str) -> &'static str {
    match tag {
        "complete_unknown_key" | "fail_unknown_key" | "check_after_marking_unknown_key" => UNKNOWN,
        "complete_twice" | "complete_after_failed" | "fail_after_completed" => COMPLETED,
        "check_after_failed" => AGAIN,
        "check_without_expected_hash"
        | "check_from_cache_not_compared"
        | "check_from_cache_would_mismatch"
        | "mismatch_output_was_stored" => COMPARED,
        "execute_reruns_known_key" => FIRST,
        other => panic!("no decision allows what is tagged {other}"),
    }
}

/// Which differences a line allows, and the keys whose states have parted.
pub(crate) struct Allowed {
    tags: Vec<String>,
    parted: BTreeSet<Place>,
}

impl Allowed {
    pub(crate) fn of(line: &Value) -> Self {
        let tags = line["tags"].as_array().into_iter().flatten();
        Self {
            tags: tags.map(|tag| tag.as_str().unwrap().to_owned()).collect(),
            parted: BTreeSet::new(),
        }
    }

    /// Whether an answer about a key may be another than theirs, in one of these situations; the decision that says so.
    pub(crate) fn differs(&mut self, place: &Place, situations: &[&str]) -> Option<&'static str> {
        let tag = situations
            .iter()
            .find(|tag| self.tags.iter().any(|has| has == *tag));
        if let Some(tag) = tag {
            self.parted.insert(place.clone());
            return Some(decision(tag));
        }
        // Every line with a parted key has a tag.
        let first = self.tags.first().filter(|_| self.parted.contains(place));
        first.map(|tag| decision(tag))
    }

    /// Both have forgotten the key.
    pub(crate) fn joined(&mut self, place: &Place) {
        self.parted.remove(place);
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Status {
    Pending,
    /// Trace and response.
    Completed(Value, Value),
    Failed,
}

struct Entry {
    request: Value,
    status: Status,
    /// Microseconds.
    expires_at: i64,
}

/// Keys as SPEC 8.1 has them, of callers who keep the lease that a check gave them.
#[derive(Default)]
pub(crate) struct Keys(BTreeMap<Place, Entry>);

/// What is to be answered, and the situations in which that is not what the older implementation did.
pub(crate) struct Expected {
    /// The word of a check, the status of the HTTP answer of a write, that of a key read; null: nothing to hold it to.
    pub(crate) said: Value,
    pub(crate) situations: &'static [&'static str],
}

const SECOND: i64 = 1_000_000;

impl Keys {
    pub(crate) fn apply(&mut self, place: &Place, op: &str, args: &Value, at: i64) -> Expected {
        self.0.retain(|_, entry| entry.expires_at > at);
        let entry = self.0.get_mut(place);
        let expected = |said: Value, situations| Expected { said, situations };
        match (op, entry) {
            ("check", Some(entry)) if entry.status != Status::Failed => {
                let same = entry.request == args["request_data"];
                expected(json!(if same { "duplicate" } else { "conflict" }), &[])
            }
            ("check", entry) => {
                let situations: &[&str] = if entry.is_some() {
                    &["check_after_failed"]
                } else {
                    &["check_after_marking_unknown_key"]
                };
                let entry = Entry {
                    request: args["request_data"].clone(),
                    status: Status::Pending,
                    expires_at: at + args["ttl"].as_i64().unwrap_or(86_400) * SECOND,
                };
                self.0.insert(place.clone(), entry);
                expected(json!("new"), situations)
            }
            ("mark_completed", None) => expected(json!(404), &["complete_unknown_key"]),
            ("mark_completed", Some(entry)) => {
                let completed = Status::Completed(args["trace_id"].clone(), args["response_data"].clone());
                match &entry.status {
                    Status::Pending => {
                        entry.status = completed;
                        expected(json!(200), &[])
                    }
                    status if *status == completed => expected(json!(200), &[]),
                    // The same result is the same completion; of two traces the first stays.
                    Status::Completed(_, response) if *response == args["response_data"] => {
                        expected(json!(200), &["complete_twice"])
                    }
                    Status::Completed(..) => expected(json!(409), &["complete_twice"]),
                    Status::Failed => expected(json!(409), &["complete_after_failed"]),
                }
            }
            ("mark_failed", None) => expected(json!(404), &["fail_unknown_key"]),
            ("mark_failed", Some(entry)) => match entry.status {
                Status::Pending => {
                    entry.status = Status::Failed;
                    entry.expires_at = at + 300 * SECOND;
                    expected(json!(200), &[])
                }
                Status::Completed(..) => expected(json!(409), &["fail_after_completed"]),
                Status::Failed => expected(json!(409), &[]),
            },
            ("get_status", entry) => expected(
                json!(entry.map_or("none", |entry| match entry.status {
                    Status::Pending => "pending",
                    Status::Completed(..) => "completed",
                    Status::Failed => "failed",
                })),
                &[],
            ),
            ("delete", _) => {
                self.0.remove(place);
                expected(json!(204), &[])
            }
            _ => expected(Value::Null, &[]),
        }
    }
}

/// Replayed steps as SPEC 8.3 has them: what is stored under each key, and what happened to it.
#[derive(Default)]
pub(crate) struct Steps {
    stored: BTreeMap<Place, Value>,
    mismatched: BTreeSet<Place>,
    again: BTreeSet<Place>,
}

/// What is to be answered to a step.
pub(crate) struct ExpectedStep {
    /// executed, skipped, checked, from_cache, and the output; `None`: a mismatch.
    pub(crate) result: Option<([bool; 4], Value)>,
    pub(crate) called: bool,
    pub(crate) situations: Vec<&'static str>,
}

impl Steps {
    /// `agrees`: whether an output has the hash that the step expects; of a step without one it is not asked.
    pub(crate) fn apply(
        &mut self,
        place: &Place,
        step: &Value,
        returns: &Value,
        agrees: impl Fn(&Value) -> bool,
    ) -> ExpectedStep {
        let behavior = step["replay_behavior"].as_str().unwrap_or("execute");
        let has_hash = step["output_hash"].is_string();
        let known = self.stored.get(place).filter(|_| !place.1.is_empty()).cloned();
        let mut situations = Vec::new();
        if self.mismatched.contains(place) {
            situations.push("mismatch_output_was_stored");
        }
        if self.again.contains(place) {
            situations.push("execute_reruns_known_key");
        }
        if behavior == "check" && !has_hash {
            situations.push("check_without_expected_hash");
        }
        let checked = behavior == "check" && has_hash;
        match known {
            Some(stored) if behavior != "execute" => {
                if behavior == "check" {
                    situations.push("check_from_cache_not_compared");
                }
                let result = (!checked || agrees(&stored))
                    .then(|| ([false, behavior == "skip", checked, true], stored));
                ExpectedStep {
                    result,
                    called: false,
                    situations,
                }
            }
            known => {
                let result = !checked || agrees(returns);
                if !result {
                    self.mismatched.insert(place.clone());
                } else if known.is_some() {
                    self.again.insert(place.clone());
                } else {
                    self.stored.insert(place.clone(), returns.clone());
                }
                ExpectedStep {
                    result: result.then(|| ([true, false, checked, false], returns.clone())),
                    called: true,
                    situations,
                }
            }
        }
    }
}
