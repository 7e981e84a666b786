//! A-002: nothing is worse than before.

use std::collections::BTreeSet;

use super::{Check, Finding, names, spelled, undecided};
use crate::governance::{AuditInput, Health};

pub(super) const CHECK: Check = Check {
    id: "A-002",
    name: "Health Preservation",
    question: "Is every capability at least as healthy as before?",
    rule: &[
        "INCONCLUSIVE if a snapshot is missing (null, or on record in a form that is not taken any more; `{}` is a snapshot); evidence `health_before_available`, `health_after_available`.",
        "FAIL if a capability of the first snapshot is absent or null in the second, or ranks lower (HEALTHY > DEGRADED > UNHEALTHY); evidence `degraded_capabilities`, in order of names.",
        "INCONCLUSIVE if a capability of the first snapshot is redacted, its name or its status in either, or can be one of the second whose name is, unless it is gone: absent under every name that it can have been by what stands beside the markers.",
        "INCONCLUSIVE if a status changed from or to a word without rank; evidence `unranked_capabilities`. The same word before and after is fine.",
        "Else PASS. New capabilities are fine.",
        "A snapshot is {capability: status}, {capability: {status, …}} or {captured_at, system_health, capability_health: [{capability, status}]}; with `capability_health`, which is a list, it is the last, with no other members; so it is with a time as `captured_at`, and `capability_health` is then not left out.",
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
    let mut degraded = Vec::new();
    let mut unranked = Vec::new();
    let mut redacted = BTreeSet::new();
    let among = after.among();
    for capability in before.capabilities() {
        if !among.may_have(capability) {
            degraded.push(capability);
            continue;
        }
        let is = after.status(capability);
        let Some(is) = is.filter(|_| !before.is_redacted(capability) && !after.is_redacted(capability))
        else {
            redacted.insert(capability);
            continue;
        };
        let was = before.status(capability);
        if was == Some(is) {
            continue;
        }
        match (was.and_then(Health::rank), Health::rank(is)) {
            (Some(was), Some(is)) if is < was => degraded.push(capability),
            (Some(_), Some(_)) => {}
            _ => unranked.push(capability),
        }
    }
    if !degraded.is_empty() {
        return Finding::fail(format!(
            "worse than before: {}",
            spelled(degraded.iter().copied())
        ))
        .with_list("degraded_capabilities", names(degraded));
    }
    if let Some(finding) = undecided(redacted) {
        return finding;
    }
    if !unranked.is_empty() {
        return Finding::inconclusive(format!(
            "changed, and nobody knows for better or worse: {}",
            spelled(unranked.iter().copied())
        ))
        .with_list("unranked_capabilities", names(unranked));
    }
    Finding::pass("nothing is worse than before")
}

#[cfg(test)]
mod tests {
    use evidence::canonical::{Limits, parse};

    use super::CHECK;
    use crate::checks::tests::{input, result};
    use crate::governance::CheckResult::{self, Fail, Inconclusive, Pass};
    use crate::governance::{AuditInput, Health};

    fn change(before: &str, after: &str) -> CheckResult {
        result(
            &CHECK,
            &format!(r#"{{"health_before":{before},"health_after":{after}}}"#),
        )
    }

    #[test]
    fn worse_or_gone_fails_and_better_or_new_passes() {
        assert_eq!(change(r#"{"a":"HEALTHY"}"#, r#"{"a":"DEGRADED"}"#), Fail);
        assert_eq!(change(r#"{"a":"UNHEALTHY"}"#, r#"{"a":null}"#), Fail);
        assert_eq!(change(r#"{"a":null}"#, "{}"), Fail);
        assert_eq!(change("{}", r#"{"a":"UNHEALTHY"}"#), Pass);
        assert_eq!(change(r#"{"a":"DEGRADED"}"#, r#"{"a":"HEALTHY"}"#), Pass);
    }

    #[test]
    fn a_word_without_rank_decides_nothing_unless_it_stayed() {
        assert_eq!(change(r#"{"a":"odd"}"#, r#"{"a":"odd"}"#), Pass);
        assert_eq!(change(r#"{"a":"odd"}"#, r#"{"a":"HEALTHY"}"#), Inconclusive);
        assert_eq!(change(r#"{"a":2}"#, r#"{"a":0}"#), Inconclusive);
        assert_eq!(change("null", "{}"), Inconclusive);
    }

    /// `token` is a secret name: what stands under it is replaced whole.
    #[test]
    fn a_status_that_is_redacted_is_not_the_same_as_before() {
        let redacted = r#"{"auth.token":"<REDACTED>"}"#;
        assert_eq!(change(redacted, redacted), Inconclusive);
        assert_eq!(
            change(r#"{"a":"HEALTHY"}"#, r#"{"a":"<REDACTED>"}"#),
            Inconclusive
        );
    }

    /// What is gone was there, whatever its name or its status was.
    #[test]
    fn what_is_redacted_and_gone_is_gone_for_certain() {
        assert_eq!(change(r#"{"token":"<REDACTED>"}"#, "{}"), Fail);
        assert_eq!(change(r#"{"token":"<REDACTED>"}"#, r#"{"token":null}"#), Fail);
        let name = r#"{"mail/<REDACTED_EMAIL>":"HEALTHY"}"#;
        assert_eq!(change(name, r#"{"search":"HEALTHY"}"#), Fail);
        assert_eq!(change(name, r#"{"mail/bob":"HEALTHY"}"#), Inconclusive);
        assert_eq!(change(name, r#"{"<REDACTED>":"HEALTHY"}"#), Inconclusive);
        // A pattern may be younger than the first snapshot.
        assert_eq!(change(r#"{"mail/bob":"HEALTHY"}"#, name), Inconclusive);
        assert_eq!(change(r#"{"search":"HEALTHY"}"#, name), Fail);
    }

    #[test]
    fn the_structured_forms_are_read() {
        let structured = |status: &str| {
            format!(
                r#"{{"captured_at":"t","system_health":"x","capability_health":[{{"capability":"a","status":"{status}"}}]}}"#
            )
        };
        assert_eq!(change(&structured("HEALTHY"), &structured("DEGRADED")), Fail);
        assert_eq!(
            change(&structured("DEGRADED"), r#"{"a":{"status":"UNHEALTHY"}}"#),
            Fail
        );
        assert_eq!(change(&structured("DEGRADED"), &structured("HEALTHY")), Pass);
    }

    /// Its words about itself are no capabilities, and no capability stands beside the list unseen.
    #[test]
    fn a_structured_form_that_is_none_is_refused_and_on_record_decides_nothing() {
        let job = input("{}").to_json();
        let mut job = parse(&job, Limits::default()).unwrap();
        for odd in [
            r#"{"captured_at":"t","system_health":"x","capability_health":null}"#,
            r#"{"captured_at":"t","capability_health":{"a":"HEALTHY"}}"#,
            r#"{"capability_health":"HEALTHY"}"#,
            r#"{"capability_health":[],"billing":"HEALTHY"}"#,
            r#"{"captured_at":"2026-11-23T09:30:00Z","system_health":"HEALTHY"}"#,
            r#"{"captured_at":"2026-11-23T09:30:00.5","system_health":"HEALTHY"}"#,
        ] {
            let snapshot = parse(odd.as_bytes(), Limits::default()).unwrap();
            assert!(Health::read(&snapshot, "before").is_err(), "{odd}");
            job.insert("health_before", snapshot);
            assert!(AuditInput::read(&job).is_err(), "{odd}");
            let mut recorded = job.clone();
            recorded.remove("step_results");
            let recorded = AuditInput::read_with_steps(&recorded, std::iter::empty()).unwrap();
            let found = CHECK.answer(&recorded);
            assert_eq!(found.result, Inconclusive, "{odd}");
            let taken = |name: &str| found.evidence.get(name).unwrap().as_bool();
            assert_eq!(
                (taken("health_before_available"), taken("health_after_available")),
                (Some(false), Some(true))
            );
        }
        // Capabilities may have those names.
        let named = r#"{"captured_at":"HEALTHY","system_health":"HEALTHY"}"#;
        assert_eq!(change(named, named), Pass);
        let empty = r#"{"captured_at":"t","system_health":null,"capability_health":[]}"#;
        assert_eq!(change(empty, "{}"), Pass);
    }
}
