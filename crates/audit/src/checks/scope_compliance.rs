//! A-001: everything that was touched lies inside the contract.

use super::{Among, Check, Finding, names, redacted_of, spelled, undecided};
use crate::governance::AuditInput;

pub(super) const CHECK: Check = Check {
    id: "A-001",
    name: "Scope Compliance",
    question: "Did the job touch only what its contract names?",
    rule: &[
        "Executed targets are `output.target` of every step result, whatever the step's status. A null output, a null or an empty target is none; a target that is no text counts as its JSON.",
        "FAIL if one of them is not in contract_scope (exactly, by bytes), and cannot be, by what stands beside the markers in it and in the entries; evidence `unauthorized`.",
        "INCONCLUSIVE if one of them, or an entry of contract_scope, is redacted.",
        "Else PASS.",
    ],
    judge,
};

fn judge(input: &AuditInput) -> Finding {
    let executed = input.executed_targets();
    let scope = || input.contract_scope.iter().map(String::as_str);
    let among = Among::new(scope());
    let outside: Vec<&str> = executed
        .iter()
        .copied()
        .filter(|target| !among.may_have(target))
        .collect();
    if outside.is_empty() {
        let redacted = redacted_of(executed.iter().copied().chain(scope()));
        return undecided(redacted)
            .unwrap_or_else(|| Finding::pass(format!("{} target(s), all in scope", executed.len())));
    }
    Finding::fail(format!(
        "outside the contract: {}",
        spelled(outside.iter().copied())
    ))
    .with_list("unauthorized", names(outside))
}

#[cfg(test)]
mod tests {
    use super::CHECK;
    use crate::checks::tests::result;
    use crate::governance::CheckResult::{Fail, Pass};

    #[test]
    fn a_target_outside_fails_even_of_a_failed_step_and_even_if_it_is_no_text() {
        let step = |output: &str| format!(r#"{{"step_results":[{{"status":"FAILED","output":{output}}}]}}"#);
        assert_eq!(result(&CHECK, &step(r#"{"target":"billing"}"#)), Fail);
        assert_eq!(result(&CHECK, &step(r#"{"target":["search"]}"#)), Fail);
        assert_eq!(result(&CHECK, &step(r#"{"target":"SEARCH"}"#)), Fail);
        assert_eq!(result(&CHECK, &step(r#"{"target":""}"#)), Pass);
        assert_eq!(result(&CHECK, &step("null")), Pass);
    }

    #[test]
    fn a_list_of_thousands_is_cut_and_says_how_many_there_are() {
        let steps: Vec<String> = (0..1_500)
            .map(|n| format!(r#"{{"status":"FAILED","output":{{"target":"t{n}"}}}}"#))
            .collect();
        let input = crate::checks::tests::input(&format!(r#"{{"step_results":[{}]}}"#, steps.join(",")));
        let evidence = CHECK.answer(&input).evidence;
        assert_eq!(
            evidence.get("unauthorized").unwrap().as_array().unwrap().len(),
            1_000
        );
        assert_eq!(evidence.get("unauthorized_total").unwrap().as_i64(), Some(1_500));
    }
}
