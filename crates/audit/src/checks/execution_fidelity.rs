//! A-003: what was proposed was done.

use evidence::canonical::Value;

use super::{Among, Check, Finding, is_redacted, names, redacted_of, spelled, undecided};
use crate::governance::{AuditInput, count};

pub(super) const CHECK: Check = Check {
    id: "A-003",
    name: "Execution Fidelity",
    question: "Did the job do what was proposed?",
    rule: &[
        "Proposed targets are `capability_name`, else `scope`, of the one object or of each object of the list proposed_changes; what is no object, or has neither, proposes nothing. Null and an empty text are as absent.",
        "PASS if the job's status is not COMPLETED.",
        "INCONCLUSIVE if one of them is not the target of a step with status COMPLETED, and the redacted target of such a step may be it, by what stands beside the markers.",
        "FAIL if a proposed target is not the target of a step with status COMPLETED; evidence `missing`.",
        "INCONCLUSIVE if a proposed target is there and no text; evidence `without_text` (places in proposed_changes, from 0).",
        "INCONCLUSIVE if a proposed target is redacted.",
        "Else PASS.",
    ],
    judge,
};

fn judge(input: &AuditInput) -> Finding {
    if !input.job_completed() {
        return Finding::pass("the job was not completed, so nothing had to be");
    }
    let done = input.completed_targets();
    let proposed = input.proposed_targets();
    let missing: Vec<&str> = proposed
        .difference(&done)
        .copied()
        .filter(|target| !is_redacted(target))
        .collect();
    if missing.is_empty() {
        return without_text(input)
            .or_else(|| undecided(redacted_of(proposed)))
            .unwrap_or_else(|| Finding::pass("everything proposed was done"));
    }
    // What is missing may have been done by a step whose target nobody can read any more.
    let redacted = redacted_of(done);
    let among = Among::new(redacted.iter().copied());
    let missing: Vec<&str> = missing
        .into_iter()
        .filter(|target| !among.may_have(target))
        .collect();
    if missing.is_empty() {
        return undecided(redacted).unwrap_or_else(|| Finding::pass("everything proposed was done"));
    }
    Finding::fail(format!(
        "proposed and not done: {}",
        spelled(missing.iter().copied())
    ))
    .with_list("missing", names(missing))
}

/// What was found that had to compare a target that is no text; `None`: there was none. A contract is not taken with one.
fn without_text(input: &AuditInput) -> Option<Finding> {
    let places: Vec<Value> = input.proposals_without_text().into_iter().map(count).collect();
    if places.is_empty() {
        return None;
    }
    let finding = Finding::inconclusive("a proposed target is no text, so that no step can be it");
    Some(finding.with_list("without_text", places))
}

#[cfg(test)]
mod tests {
    use evidence::canonical::Value;

    use super::CHECK;
    use crate::checks::tests::result;
    use crate::governance::CheckResult::{Fail, Inconclusive, Pass};

    #[test]
    fn a_proposal_that_no_completed_step_did_fails_a_completed_job() {
        let list =
            r#"{"proposed_changes":[{"scope":"search"},{"capability_name":"export","scope":"x"},null,"y"]}"#;
        assert_eq!(result(&CHECK, list), Fail);
        let failed_step = r#"{"step_results":[{"status":"FAILED","output":{"target":"search"}}]}"#;
        assert_eq!(result(&CHECK, failed_step), Fail);
        assert_eq!(
            result(&CHECK, r#"{"job_status":"FAILED","step_results":[]}"#),
            Pass
        );
        assert_eq!(result(&CHECK, r#"{"proposed_changes":"search"}"#), Pass);
    }

    #[test]
    fn a_target_that_is_no_text_is_not_passed_over() {
        let proposed = |changes: &str| result(&CHECK, &format!(r#"{{"proposed_changes":{changes}}}"#));
        for changes in [
            r#"{"scope":["billing"]}"#,
            r#"{"scope":7}"#,
            r#"{"capability_name":7,"scope":"search"}"#,
            r#"{"capability_name":7,"scope":"billing"}"#,
            r#"{"capability_name":"","scope":false}"#,
            r#"[{"scope":"search"},{"capability_name":null,"scope":{}}]"#,
        ] {
            assert_eq!(proposed(changes), Inconclusive, "{changes}");
        }
        // By `capability_name` it is judged, whatever stands beside it.
        assert_eq!(proposed(r#"{"capability_name":"search","scope":7}"#), Pass);
        assert_eq!(proposed(r#"{"capability_name":null,"scope":""}"#), Pass);
        assert_eq!(proposed(r#"[{"scope":7},{"scope":"export"}]"#), Fail);
        let failed = r#"{"job_status":"FAILED","proposed_changes":{"scope":7}}"#;
        assert_eq!(result(&CHECK, failed), Pass);
        let input = crate::checks::tests::input(r#"{"proposed_changes":[{"scope":"search"},{"scope":7}]}"#);
        let evidence = CHECK.answer(&input).evidence;
        assert_eq!(
            evidence.get("without_text"),
            Some(&Value::from(vec![Value::Int(1)]))
        );
    }

    #[test]
    fn what_is_missing_may_be_what_a_redacted_step_did() {
        let step = r#"{"step_results":[{"status":"COMPLETED","output":{"target":"<REDACTED_TICKET>"}}]}"#;
        assert_eq!(result(&CHECK, step), Inconclusive);
    }
}
