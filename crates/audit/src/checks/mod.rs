//! The seven checks of a governance audit, one file each: words, rule, tests.
//!
//! A check reads the frozen input and nothing else. Register a new one in [`CHECKS`]; `docs/checks.md` is
//! made of this list, and [`crate::governance::AUDITOR_VERSION`] changes with any rule. Source: SPEC 7.2.

mod among;
mod execution_fidelity;
mod health_preservation;
mod no_unauthorized_mutations;
mod rollback_availability;
mod scope_compliance;
mod signal_consistency;
mod timing_compliance;

use std::collections::BTreeSet;

use evidence::canonical::Value;
pub(crate) use evidence::redact::is_redacted;

pub(crate) use self::among::Among;
use crate::governance::{AuditCheck, AuditInput, CheckResult, count};

/// A check: its words and its rule.
#[derive(Debug)]
pub struct Check {
    /// `A-001` …
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// What it asks.
    pub question: &'static str,
    /// The rule in words, first match first; the lines of `docs/checks.md`.
    pub rule: &'static [&'static str],
    judge: fn(&AuditInput) -> Finding,
}

/// What a check found, why, and what shows it.
struct Finding {
    result: CheckResult,
    reason: String,
    evidence: Value,
}

impl Finding {
    fn pass(reason: impl Into<String>) -> Self {
        Self::new(CheckResult::Pass, reason)
    }

    fn fail(reason: impl Into<String>) -> Self {
        Self::new(CheckResult::Fail, reason)
    }

    fn inconclusive(reason: impl Into<String>) -> Self {
        Self::new(CheckResult::Inconclusive, reason)
    }

    fn new(result: CheckResult, reason: impl Into<String>) -> Self {
        Self {
            result,
            reason: reason.into(),
            evidence: Value::Object(Vec::new()),
        }
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.evidence.insert(name, value);
        self
    }

    /// A list, as [`listed`] shows it.
    fn with_list(mut self, name: &str, entries: Vec<Value>) -> Self {
        for (name, value) in listed(name, entries) {
            self.evidence.insert(name, value);
        }
        self
    }
}

/// All of them, in their order.
pub const CHECKS: [Check; 7] = [
    scope_compliance::CHECK,
    health_preservation::CHECK,
    execution_fidelity::CHECK,
    timing_compliance::CHECK,
    rollback_availability::CHECK,
    signal_consistency::CHECK,
    no_unauthorized_mutations::CHECK,
];

impl Check {
    /// Its answer for an input.
    pub fn answer(&self, input: &AuditInput) -> AuditCheck {
        let found = (self.judge)(input);
        AuditCheck {
            check_id: self.id,
            name: self.name,
            question: self.question,
            result: found.result,
            reason: found.reason,
            evidence: found.evidence,
        }
    }
}

/// Most entries of a list in what a check shows. A verdict is one record: ten lists of entries of 256 bytes and two
/// snapshots stay well below the 16 MiB of a body.
pub(crate) const LISTED_MAX: usize = 1_000;

/// A list cut to its first [`LISTED_MAX`] entries; then beside it, as `<name>_total`, how many there are.
pub(crate) fn listed(name: &str, mut entries: Vec<Value>) -> Vec<(String, Value)> {
    let total = entries.len();
    entries.truncate(LISTED_MAX);
    let mut shown = vec![(name.to_owned(), Value::from(entries))];
    if total > LISTED_MAX {
        shown.push((format!("{name}_total"), count(total)));
    }
    shown
}

/// A list of texts.
pub(crate) fn names<'t>(texts: impl IntoIterator<Item = &'t str>) -> Vec<Value> {
    texts.into_iter().map(Value::from).collect()
}

/// Whether two texts may have been the same before redaction.
pub(crate) fn may_be_same(a: &str, b: &str) -> bool {
    Among::new([a]).may_have(b)
}

/// Those of the names that hold a marker.
fn redacted_of<'t>(names: impl IntoIterator<Item = &'t str>) -> BTreeSet<&'t str> {
    names.into_iter().filter(|name| is_redacted(name)).collect()
}

/// What a check found that had to compare what is redacted; `None`: there was nothing of the kind.
fn undecided(redacted: BTreeSet<&str>) -> Option<Finding> {
    if redacted.is_empty() {
        return None;
    }
    let reason = format!(
        "redacted, so that nobody can compare it: {}",
        spelled(redacted.iter().copied())
    );
    Some(Finding::inconclusive(reason).with_list("redacted_names", names(redacted)))
}

/// `a, b and 3 more`: a reason stays short, the evidence lists more.
fn spelled<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    const SPELLED_MAX: usize = 5;
    let texts: Vec<&str> = texts.into_iter().collect();
    let mut spelled = texts
        .iter()
        .take(SPELLED_MAX)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if texts.len() > SPELLED_MAX {
        spelled.push_str(" and ");
        spelled.push_str(&(texts.len() - SPELLED_MAX).to_string());
        spelled.push_str(" more");
    }
    spelled
}

/// `docs/checks.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Checks of a governance audit\n\n\
         Made from `crates/audit/src/checks/`; a test compares. `UPDATE_GOLDEN=1 cargo test -p audit` writes it anew.\n\n",
    );
    text.push_str("All seven run, always, in this order. Verdict: any FAIL, else any INCONCLUSIVE, else PASS. Auditor version ");
    text.push_str(crate::governance::AUDITOR_VERSION);
    text.push_str(". A list in evidence holds its first ");
    text.push_str(&LISTED_MAX.to_string());
    text.push_str(" entries, in order; if there are more, `<name>_total` beside it says how many.\n\n");
    text.push_str(
        "What holds a marker of redaction (`<REDACTED>`, `<REDACTED_EMAIL>` …) is equal to nothing, not even to the same \
         marker: what stood there may have been another name. A check that compares it is INCONCLUSIVE unless it FAILs \
         by other names, with `redacted_names` as its evidence.\n",
    );
    for check in &CHECKS {
        text.push_str("\n## ");
        text.push_str(check.id);
        text.push(' ');
        text.push_str(check.name);
        text.push_str("\n\n*");
        text.push_str(check.question);
        text.push_str("*\n\n");
        for line in check.rule {
            text.push_str("- ");
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use evidence::canonical::{Limits, parse};

    /// A job that passes every check, with members replaced.
    pub(crate) fn input(changes: &str) -> AuditInput {
        let parsed = |text: &str| parse(text.as_bytes(), Limits::default()).unwrap();
        let mut value = parsed(
            r#"{"job_id":"j","contract_id":"c","job_status":"COMPLETED","contract_scope":["search","export"],
            "proposed_changes":{"capability_name":"search"},
            "step_results":[{"status":"COMPLETED","output":{"target":"search","rollback_action":"restore"}}],
            "health_before":{"search":"HEALTHY"},"health_after":{"search":"HEALTHY"},
            "activation_window_start":"2026-03-01T11:00:00Z","activation_window_end":"2026-03-01T13:00:00Z",
            "job_started_at":"2026-03-01T12:00:00Z","job_completed_at":"2026-03-01T12:05:00Z",
            "execution_duration_seconds":300,"signals":[]}"#,
        );
        for (key, member) in parsed(changes).as_object().unwrap() {
            value.insert(key.clone(), member.clone());
        }
        AuditInput::read(&value).unwrap()
    }

    pub(crate) fn result(check: &Check, changes: &str) -> CheckResult {
        check.answer(&input(changes)).result
    }

    #[test]
    fn a_job_inside_its_contract_passes_every_check() {
        for check in &CHECKS {
            assert_eq!(result(check, "{}"), CheckResult::Pass, "{}", check.id);
        }
    }

    /// The marker in the contract and those in what was done may have been two addresses.
    #[test]
    fn a_marker_is_not_equal_to_itself() {
        let redacted = r#"{"contract_scope":["mailbox/<REDACTED_EMAIL>"],
            "proposed_changes":{"scope":"mailbox/<REDACTED_EMAIL>"},
            "step_results":[{"status":"COMPLETED",
                "output":{"target":"mailbox/<REDACTED_EMAIL>","rollback_action":"restore"}}],
            "health_before":{"mailbox/<REDACTED_EMAIL>":"HEALTHY"},
            "health_after":{"mailbox/<REDACTED_EMAIL>":"HEALTHY"},
            "signals":[{"signal_type":"t","scope":"mailbox/<REDACTED_EMAIL>","decision":"block",
                "at":"2026-03-01T12:01:00Z"}]}"#;
        for check in &CHECKS {
            let answer = check.answer(&input(redacted));
            if ["A-004", "A-005"].contains(&check.id) {
                assert_eq!(answer.result, CheckResult::Pass, "{}", check.id);
                continue;
            }
            assert_eq!(answer.result, CheckResult::Inconclusive, "{}", check.id);
            assert!(answer.reason.contains("redacted"), "{}", answer.reason);
            let listed = answer.evidence.get("redacted_names").unwrap();
            assert_eq!(listed, &Value::from(names(["mailbox/<REDACTED_EMAIL>"])));
        }
    }

    #[test]
    fn what_stands_beside_a_marker_tells_names_apart() {
        for (redacted, name, same) in [
            ("mailbox/<REDACTED_EMAIL>", "mailbox/bob@example.com", true),
            ("mailbox/<REDACTED_EMAIL>", "search", false),
            ("<REDACTED>", "anything", true),
            (
                "a/<REDACTED_EMAIL>/b/<REDACTED_EMAIL>/c",
                "a/x@y.z/b/v@w.x/c",
                true,
            ),
            ("a/<REDACTED_EMAIL>/b/<REDACTED_EMAIL>/c", "a/x@y.z/c", false),
            ("<REDACTED_EMAIL>/b", "x@y.z/c", false),
            // Of two names that became the same the second has a number.
            ("mailbox/<REDACTED_EMAIL> 2", "mailbox/bob@example.com", true),
            ("<REDACTED_EMAIL>/b 2", "x@y.z/b", true),
            ("<REDACTED_EMAIL>/b 2", "x@y.z/c", false),
        ] {
            assert_eq!(may_be_same(redacted, name), same, "{redacted} {name}");
            assert_eq!(may_be_same(name, redacted), same, "{redacted} {name}");
        }
        assert!(may_be_same("<REDACTED>", "x<REDACTED_EMAIL>"));
    }

    /// None of them is any of the others: whoever compares each with each is busy for a minute.
    #[test]
    fn thousands_of_redacted_names_are_judged_at_once() {
        let named = |name: fn(u32) -> String| -> Vec<String> { (0..10_000).map(name).collect() };
        let snapshot = |names: Vec<String>| {
            let statuses: Vec<String> = names
                .iter()
                .map(|name| format!(r#""{name}":"HEALTHY""#))
                .collect();
            format!("{{{}}}", statuses.join(","))
        };
        let input = input(&format!(
            r#"{{"contract_scope":["{}"],"health_before":{},"health_after":{}}}"#,
            named(|n| format!("s{n}")).join(r#"",""#),
            snapshot(named(|n| format!("m{n}/<REDACTED_EMAIL>"))),
            snapshot(named(|n| format!("k{n}"))),
        ));
        // What stands before the marker shows that all of the first are gone, and all of the second are new.
        for id in ["A-002", "A-007"] {
            let check = CHECKS.iter().find(|check| check.id == id).unwrap();
            assert_eq!(check.answer(&input).result, CheckResult::Fail, "{id}");
        }
    }

    /// An address in it makes no target out of scope one that may be in it.
    #[test]
    fn a_redacted_target_that_no_name_can_have_been_is_outside() {
        let outside = r#"{"contract_scope":["search"],"proposed_changes":{"scope":"search"},
            "step_results":[{"status":"COMPLETED","output":{"target":"mailbox/<REDACTED_EMAIL>"}}]}"#;
        for check in &CHECKS {
            if ["A-001", "A-003"].contains(&check.id) {
                assert_eq!(result(check, outside), CheckResult::Fail, "{}", check.id);
            }
        }
    }

    #[test]
    fn what_fails_by_other_names_fails_beside_a_marker() {
        let beside = r#"{"contract_scope":["search","mail/<REDACTED>"],
            "proposed_changes":[{"scope":"export"},{"scope":"<REDACTED>"}],
            "step_results":[{"status":"COMPLETED","output":{"target":"billing"}}],
            "health_before":{"billing":"HEALTHY","<REDACTED>":"HEALTHY"},
            "health_after":{"billing":"DEGRADED","<REDACTED>":"HEALTHY"},
            "signals":[{"signal_type":"t","scope":"billing","decision":"block","at":"2026-03-01T12:01:00Z"}]}"#;
        for check in &CHECKS {
            if ["A-004", "A-005"].contains(&check.id) {
                continue;
            }
            assert_eq!(result(check, beside), CheckResult::Fail, "{}", check.id);
        }
    }

    #[test]
    fn the_document_is_made_of_the_checks() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/checks.md");
        #[allow(clippy::disallowed_methods)] // the switch of every golden test
        if std::env::var("UPDATE_GOLDEN").is_ok() {
            std::fs::write(path, document()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), document());
    }
}
