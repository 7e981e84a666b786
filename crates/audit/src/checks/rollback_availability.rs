//! A-005: what was done can be undone.

use evidence::canonical::Value;

use super::{Check, Finding};
use crate::governance::{AuditInput, count};

pub(super) const CHECK: Check = Check {
    id: "A-005",
    name: "Rollback Availability",
    question: "Can every completed step be taken back?",
    rule: &[
        "Each step with status COMPLETED needs a non-empty `output.rollback_action` (not null, false, 0, an empty text, list or object), unless its `output.step_type` (else `output.handler`) is noop, configuration_change or unknown.",
        "INCONCLUSIVE if one lacks it, never FAIL; evidence `total_completed`, `with_rollback`, `without_rollback`, `non_rollbackable_steps` (places in step_results, from 0).",
        "Else PASS; evidence `total_completed`, `with_rollback`.",
    ],
    judge,
};

fn judge(input: &AuditInput) -> Finding {
    let completed = input
        .step_results
        .iter()
        .enumerate()
        .filter(|(_, step)| step.completed());
    let total = completed.clone().count();
    let lacking: Vec<Value> = completed
        .filter(|(_, step)| !step.can_be_undone)
        .map(|(place, _)| count(place))
        .collect();
    let finding = if lacking.is_empty() {
        Finding::pass("every completed step can be taken back")
    } else {
        Finding::inconclusive(format!("{} completed step(s) have no way back", lacking.len()))
            .with("without_rollback", count(lacking.len()))
    };
    let finding = finding
        .with("total_completed", count(total))
        .with("with_rollback", count(total - lacking.len()));
    if lacking.is_empty() {
        finding
    } else {
        finding.with_list("non_rollbackable_steps", lacking)
    }
}

#[cfg(test)]
mod tests {
    use super::CHECK;
    use crate::checks::tests::result;
    use crate::governance::CheckResult::{Inconclusive, Pass};

    #[test]
    fn an_empty_way_back_is_none() {
        let step =
            |output: &str| format!(r#"{{"step_results":[{{"status":"COMPLETED","output":{output}}}]}}"#);
        for empty in ["\"\"", "false", "0", "{}", "[]", "null"] {
            assert_eq!(
                result(&CHECK, &step(&format!(r#"{{"rollback_action":{empty}}}"#))),
                Inconclusive
            );
        }
        assert_eq!(result(&CHECK, &step(r#"{"rollback_action":"restore"}"#)), Pass);
        assert_eq!(
            result(&CHECK, &step(r#"{"step_type":"http","handler":"noop"}"#)),
            Inconclusive
        );
        assert_eq!(result(&CHECK, &step(r#"{"handler":"noop"}"#)), Pass);
        assert_eq!(result(&CHECK, r#"{"step_results":[]}"#), Pass);
    }
}
