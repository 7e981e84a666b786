//! A-004: it was done when it was allowed.

use super::{Check, Finding};
use crate::governance::AuditInput;

pub(super) const CHECK: Check = Check {
    id: "A-004",
    name: "Timing Compliance",
    question: "Did the job run inside its activation window?",
    rule: &[
        "INCONCLUSIVE if either end of the window is missing.",
        "FAIL if start or completion lies outside the window (bounds inclusive), or completion before start; evidence `started_in_window`, `completed_in_window`, and `completed_before_start` if so.",
        "Else PASS.",
    ],
    judge,
};

fn judge(input: &AuditInput) -> Finding {
    let (Some(start), Some(end)) = (input.window_start, input.window_end) else {
        return Finding::inconclusive("the contract has no whole activation window");
    };
    let inside = |at| start <= at && at <= end;
    let (started, completed) = (input.times.started_at, input.times.completed_at);
    let backwards = completed < started;
    if inside(started) && inside(completed) && !backwards {
        return Finding::pass("started and completed inside the window");
    }
    let reason = if backwards {
        "completed before it started"
    } else {
        "outside the activation window"
    };
    let finding = Finding::fail(reason)
        .with("started_in_window", inside(started))
        .with("completed_in_window", inside(completed));
    if backwards {
        finding.with("completed_before_start", true)
    } else {
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::CHECK;
    use crate::checks::tests::result;
    use crate::governance::CheckResult::{Fail, Inconclusive, Pass};

    #[test]
    fn the_bounds_are_inside_and_a_microsecond_later_is_not() {
        let ends = |end: &str| format!(r#"{{"job_completed_at":"{end}"}}"#);
        assert_eq!(result(&CHECK, &ends("2026-03-01T13:00:00Z")), Pass);
        assert_eq!(result(&CHECK, &ends("2026-03-01T13:00:00.000001Z")), Fail);
        assert_eq!(result(&CHECK, &ends("2026-03-01T15:00:00+02:00")), Pass);
        assert_eq!(result(&CHECK, &ends("2026-03-01T11:30:00Z")), Fail);
        assert_eq!(result(&CHECK, r#"{"activation_window_end":null}"#), Inconclusive);
    }
}
