//! A-006: nobody said no.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Finding, is_redacted, names, redacted_of, spelled, undecided};
use crate::governance::{AuditInput, Signal};

pub(super) const CHECK: Check = Check {
    id: "A-006",
    name: "Signal Consistency",
    question: "Did the recorded signals agree with each other, and with what was done?",
    rule: &[
        "Signals that count: those about a capability of contract_scope or about a target of a completed step, given between the job's start and completion (inclusive).",
        "FAIL if allow and block were both given for one type and scope; evidence `conflicts`.",
        "FAIL if a block is about the target of a step with status COMPLETED; evidence `blocked_targets`.",
        "INCONCLUSIVE if an entry of contract_scope, the target of a step with status COMPLETED, or scope or type of a signal given in that time is redacted.",
        "INCONCLUSIVE if the job's status is not COMPLETED, or signals were not supplied.",
        "Else PASS.",
    ],
    judge,
};

fn judge(input: &AuditInput) -> Finding {
    let done = input.completed_targets();
    let in_time =
        |signal: &&Signal| input.times.started_at <= signal.at && signal.at <= input.times.completed_at;
    // A redacted scope is that of no signal, so nothing is found to contradict it.
    let counts = |signal: &&Signal| {
        (input.contract_scope.contains(&signal.scope) || done.contains(signal.scope.as_str()))
            && !is_redacted(&signal.scope)
            && in_time(signal)
    };
    let mut decisions: BTreeMap<(&str, &str), (bool, bool)> = BTreeMap::new();
    let mut blocked = BTreeSet::new();
    for signal in input.signals.iter().flatten().filter(counts) {
        if !is_redacted(&signal.signal_type) {
            let (allow, block) = decisions
                .entry((signal.scope.as_str(), signal.signal_type.as_str()))
                .or_default();
            *allow |= !signal.block;
            *block |= signal.block;
        }
        if signal.block && done.contains(signal.scope.as_str()) {
            blocked.insert(signal.scope.as_str());
        }
    }
    let conflicts: Vec<String> = decisions
        .iter()
        .filter(|(_, (allow, block))| *allow && *block)
        .map(|((scope, signal_type), _)| format!("{signal_type} of {scope}"))
        .collect();
    if !conflicts.is_empty() {
        let conflicts = || conflicts.iter().map(String::as_str);
        return Finding::fail(format!("allowed and blocked at once: {}", spelled(conflicts())))
            .with_list("conflicts", names(conflicts()));
    }
    if !blocked.is_empty() {
        return Finding::fail(format!(
            "blocked, and done all the same: {}",
            spelled(blocked.iter().copied())
        ))
        .with_list("blocked_targets", names(blocked));
    }
    let given = input.signals.iter().flatten().filter(in_time);
    let given = given.flat_map(|signal| [signal.scope.as_str(), signal.signal_type.as_str()]);
    let scope = input.contract_scope.iter().map(String::as_str);
    if let Some(finding) = undecided(redacted_of(scope.chain(done).chain(given))) {
        return finding;
    }
    if input.signals.is_none() {
        return Finding::inconclusive("no signals were supplied");
    }
    if !input.job_completed() {
        return Finding::inconclusive("the job was not completed");
    }
    Finding::pass("no signal contradicts another or what was done")
}

#[cfg(test)]
mod tests {
    use evidence::canonical::{Limits, parse};

    use super::CHECK;
    use crate::checks::tests::result;
    use crate::governance::AuditInput;
    use crate::governance::CheckResult::{Fail, Inconclusive, Pass};

    fn signal(scope: &str, decision: &str, at: &str) -> String {
        format!(r#"{{"signal_type":"t","scope":"{scope}","decision":"{decision}","at":"2026-03-01T{at}Z"}}"#)
    }

    #[test]
    fn a_block_of_what_was_done_fails_and_one_from_before_the_start_does_not() {
        let during = format!(r#"{{"signals":[{}]}}"#, signal("search", "block", "12:01:00"));
        assert_eq!(result(&CHECK, &during), Fail);
        let before = format!(r#"{{"signals":[{}]}}"#, signal("search", "block", "11:59:00"));
        assert_eq!(result(&CHECK, &before), Pass);
        let other = format!(r#"{{"signals":[{}]}}"#, signal("export", "block", "12:01:00"));
        assert_eq!(result(&CHECK, &other), Pass);
    }

    #[test]
    fn a_signal_is_taken_as_it_was_answered_when_it_was_recorded() {
        let with = |name: &str| {
            let more = format!(r#""{name}":{{"leaf_index":1}},"signal_id":"s","signal_type""#);
            let signal = signal("search", "block", "12:01:00").replace(r#""signal_type""#, &more);
            format!(
                r#"{{"job_id":"j","contract_id":"c","contract_scope":["search"],"step_results":[],"signals":[{signal}],
                "job_started_at":"2026-03-01T12:00:00Z","job_completed_at":"2026-03-01T12:05:00Z"}}"#
            )
        };
        let read = |input: &str| AuditInput::read(&parse(input.as_bytes(), Limits::default()).unwrap());
        let input = read(&with("receipt")).unwrap();
        let signals = input.signals.as_deref().unwrap();
        assert!(signals.len() == 1 && signals[0].block);
        assert!(read(&with("receipts")).is_err());
    }

    #[test]
    fn allow_and_block_of_one_thing_fail_even_an_unfinished_job() {
        let both = format!(
            r#"{{"job_status":"FAILED","signals":[{},{}]}}"#,
            signal("export", "block", "12:01:00"),
            signal("export", "allow", "12:02:00")
        );
        assert_eq!(result(&CHECK, &both), Fail);
    }

    #[test]
    fn without_signals_or_without_completion_nothing_is_decided() {
        assert_eq!(result(&CHECK, r#"{"signals":null}"#), Inconclusive);
        assert_eq!(result(&CHECK, r#"{"job_status":"completed"}"#), Inconclusive);
    }
}
