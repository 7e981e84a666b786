//! A-003: what was proposed was done.

use super::{Check, Finding, names, spelled};
use crate::governance::AuditInput;

pub(super) const CHECK: Check = Check {
    id: "A-003",
    name: "Execution Fidelity",
    question: "Did the job do what was proposed?",
    rule: &[
        "Proposed targets are `capability_name`, else `scope`, of the one object or of each object of the list proposed_changes; what is no object proposes nothing.",
        "PASS if the job's status is not COMPLETED.",
        "FAIL if a proposed target is not the target of a step with status COMPLETED; evidence `missing`.",
        "Else PASS.",
    ],
    judge,
};

fn judge(input: &AuditInput) -> Finding {
    if !input.job_completed() {
        return Finding::pass("the job was not completed, so nothing had to be");
    }
    let done = input.completed_targets();
    let missing: Vec<&str> = input.proposed_targets().difference(&done).copied().collect();
    if missing.is_empty() {
        return Finding::pass("everything proposed was done");
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
    use crate::governance::CheckResult::{Fail, Pass};

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
}
