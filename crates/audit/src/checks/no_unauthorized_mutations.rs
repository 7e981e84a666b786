//! A-007: nothing outside the contract changed.

use std::collections::BTreeSet;

use super::{Check, Finding, names, redacted_of, spelled, undecided};
use crate::governance::AuditInput;

pub(super) const CHECK: Check = Check {
    id: "A-007",
    name: "No Unauthorized Mutations",
    question: "Did only capabilities of the contract change?",
    rule: &[
        "INCONCLUSIVE if a snapshot is missing (as in A-002); evidence `health_before_available`, `health_after_available`.",
        "FAIL if a capability outside contract_scope has another value after than before; absent and null are the same. Evidence `changed_capabilities` (all that changed) and `unauthorized_changes`.",
        "INCONCLUSIVE if an entry of contract_scope is redacted, or a capability, its name or its status in either snapshot; evidence also `changed_capabilities`.",
        "Else PASS; evidence `changed_capabilities`.",
    ],
    judge,
};

fn judge(input: &AuditInput) -> Finding {
    let Some((before, after)) = input.snapshots() else {
        let (before, after) = input.snapshots_taken();
        return Finding::inconclusive("a health snapshot is missing")
            .with("health_before_available", before)
            .with("health_after_available", after);
    };
    let all: BTreeSet<&str> = before
        .capabilities()
        .into_iter()
        .chain(after.capabilities())
        .collect();
    let is_redacted = |capability: &str| before.is_redacted(capability) || after.is_redacted(capability);
    let changed: Vec<&str> = all
        .iter()
        .copied()
        .filter(|capability| before.status(capability) != after.status(capability))
        .collect();
    let outside: Vec<&str> = changed
        .iter()
        .copied()
        .filter(|capability| !input.contract_scope.contains(*capability) && !is_redacted(capability))
        .collect();
    let finding = if outside.is_empty() {
        let mut redacted = redacted_of(input.contract_scope.iter().map(String::as_str));
        redacted.extend(all.iter().copied().filter(|capability| is_redacted(capability)));
        undecided(redacted)
            .unwrap_or_else(|| Finding::pass("only capabilities of the contract changed, or none"))
    } else {
        Finding::fail(format!(
            "changed outside the contract: {}",
            spelled(outside.iter().copied())
        ))
        .with_list("unauthorized_changes", names(outside))
    };
    finding.with_list("changed_capabilities", names(changed))
}

#[cfg(test)]
mod tests {
    use super::CHECK;
    use crate::checks::tests::result;
    use crate::governance::CheckResult::{Fail, Inconclusive, Pass};

    #[test]
    fn a_change_outside_fails_for_better_as_for_worse() {
        let changes = |before: &str, after: &str| {
            result(
                &CHECK,
                &format!(r#"{{"health_before":{before},"health_after":{after}}}"#),
            )
        };
        assert_eq!(
            changes(r#"{"billing":"DEGRADED"}"#, r#"{"billing":"HEALTHY"}"#),
            Fail
        );
        assert_eq!(changes("{}", r#"{"billing":"HEALTHY"}"#), Fail);
        assert_eq!(
            changes(r#"{"search":"DEGRADED"}"#, r#"{"search":"HEALTHY"}"#),
            Pass
        );
        assert_eq!(changes(r#"{"billing":null}"#, "{}"), Pass);
        assert_eq!(changes(r#"{"billing":1}"#, r#"{"billing":1.0}"#), Pass);
        assert_eq!(changes("null", "null"), Inconclusive);
    }
}
