//! A-003: what was proposed was done.

use super::{Check, Finding, is_redacted, may_be_same, names, redacted_of, spelled, undecided};
use crate::governance::AuditInput;

pub(super) const CHECK: Check = Check {
    id: "A-003",
    name: "Execution Fidelity",
    question: "Did the job do what was proposed?",
    rule: &[
        "Proposed targets are `capability_name`, else `scope`, of the one object or of each object of the list proposed_changes; what is no object proposes nothing.",
        "PASS if the job's status is not COMPLETED.",
        "INCONCLUSIVE if one of them is not the target of a step with status COMPLETED, and the redacted target of such a step may be it, by what stands beside the markers.",
        "FAIL if a proposed target is not the target of a step with status COMPLETED; evidence `missing`.",
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
        return undecided(redacted_of(proposed))
            .unwrap_or_else(|| Finding::pass("everything proposed was done"));
    }
    // What is missing may have been done by a step whose target nobody can read any more.
    let redacted = redacted_of(done);
    let missing: Vec<&str> = missing
        .into_iter()
        .filter(|target| !redacted.iter().any(|done| may_be_same(done, target)))
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

#[cfg(test)]
mod tests {
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
    fn what_is_missing_may_be_what_a_redacted_step_did() {
        let step = r#"{"step_results":[{"status":"COMPLETED","output":{"target":"<REDACTED_TICKET>"}}]}"#;
        assert_eq!(result(&CHECK, step), Inconclusive);
    }
}
