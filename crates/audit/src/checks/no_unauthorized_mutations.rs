//! A-007: nothing outside the contract changed.

use std::collections::BTreeSet;

use super::{Among, Check, Finding, is_redacted, names, spelled, undecided};
use crate::governance::{AuditInput, Health};

pub(super) const CHECK: Check = Check {
    id: "A-007",
    name: "No Unauthorized Mutations",
    question: "Did only capabilities of the contract change?",
    rule: &[
        "INCONCLUSIVE if a snapshot is missing (as in A-002); evidence `health_before_available`, `health_after_available`.",
        "FAIL if a capability outside contract_scope has another value after than before; absent and null are the same. What is redacted is another value if it cannot have been the same, by what stands beside the markers, and a capability is outside if it can have been no entry. Evidence `changed_capabilities` (all that changed) and `unauthorized_changes`.",
        "INCONCLUSIVE if a capability that is no entry of contract_scope is redacted, its name or its status in either snapshot, or has another value and can have been a redacted entry, or one with a redacted name; evidence also `changed_capabilities`.",
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
    let scope = &input.contract_scope;
    let among_scope = Among::new(scope.iter().map(String::as_str));
    let (among_before, among_after) = (before.among(), after.among());
    let may_be_outside = |capability: &str| is_redacted(capability) || !scope.contains(capability);
    let is_another = |capability: &str| before.status(capability) != after.status(capability);
    let is_another_for_certain =
        |capability: &str| match (before.status(capability), after.status(capability)) {
            (None, None) => false,
            (Some(_), None) => !among_after.may_have(capability),
            (None, Some(_)) => !among_before.may_have(capability),
            // Of two capabilities the same marker may be left.
            (Some(_), Some(_)) if is_redacted(capability) => false,
            (Some(was), Some(is)) => !Health::may_be_same(was, is),
        };
    let changed: Vec<&str> = all
        .iter()
        .copied()
        .filter(|capability| is_another(capability))
        .collect();
    let outside: Vec<&str> = changed
        .iter()
        .copied()
        .filter(|capability| !among_scope.may_have(capability) && is_another_for_certain(capability))
        .collect();
    let finding = if outside.is_empty() {
        let doubtful = all.iter().copied().filter(|capability| {
            may_be_outside(capability)
                && (before.is_redacted(capability) || after.is_redacted(capability) || is_another(capability))
        });
        undecided(doubtful.collect())
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

    /// `token` is a secret name: what stands under it is replaced whole.
    #[test]
    fn what_is_redacted_is_judged_where_it_is_certain() {
        let judged = |scope: &str, before: &str, after: &str| {
            result(
                &CHECK,
                &format!(r#"{{"contract_scope":{scope},"health_before":{before},"health_after":{after}}}"#),
            )
        };
        let token = r#"{"token":"<REDACTED>"}"#;
        let mail = r#"{"mail/<REDACTED_EMAIL>":"HEALTHY"}"#;
        // What the contract names may change.
        assert_eq!(judged(r#"["token"]"#, token, token), Pass);
        assert_eq!(judged(r#"["token"]"#, token, "{}"), Pass);
        assert_eq!(judged(r#"["search"]"#, token, token), Inconclusive);
        // What came or went has changed.
        assert_eq!(judged(r#"["search"]"#, token, "{}"), Fail);
        assert_eq!(judged(r#"["search"]"#, "{}", mail), Fail);
        assert_eq!(judged(r#"["mail/<REDACTED_EMAIL>"]"#, "{}", mail), Inconclusive);
        assert_eq!(
            judged(r#"["search"]"#, mail, r#"{"mail/<REDACTED>":"HEALTHY"}"#),
            Inconclusive
        );
        // As has what cannot have been the same.
        let status = |status: &str| format!(r#"{{"billing":"{status}"}}"#);
        let asked = status("ask <REDACTED_EMAIL>");
        assert_eq!(judged(r#"["search"]"#, &status("HEALTHY"), &asked), Fail);
        assert_eq!(judged(r#"["search"]"#, &asked, &asked), Inconclusive);
        // A pattern may be younger than the first snapshot, or than the contract.
        let bob = r#"{"mail/bob":"HEALTHY"}"#;
        assert_eq!(judged(r#"["search"]"#, bob, mail), Inconclusive);
        assert_eq!(judged(r#"["mail/<REDACTED>"]"#, bob, "{}"), Inconclusive);
        assert_eq!(judged(r#"["<REDACTED> 2"]"#, bob, "{}"), Inconclusive);
        assert_eq!(judged(r#"["sms/<REDACTED>"]"#, bob, "{}"), Fail);
        let names = |names: &str| format!(r#"{{"billing":{{{names}}}}}"#);
        assert_eq!(
            judged(
                r#"["search"]"#,
                &names(r#""b":2,"z@example.com":1"#),
                &names(r#""<REDACTED_EMAIL>":1,"b":2"#)
            ),
            Inconclusive
        );
        // Nothing changed, so it does not matter what an entry was.
        assert_eq!(
            judged(r#"["<REDACTED>"]"#, &status("HEALTHY"), &status("HEALTHY")),
            Pass
        );
    }
}
