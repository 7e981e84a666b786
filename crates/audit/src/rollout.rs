//! Whether a change may go on: the one question a deployment pipeline asks.
//!
//! Source: SPEC 7.3.

use evidence::canonical::Value;

use crate::governance::Verdict;

/// What a pipeline is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on.
    Proceed,
    /// Take it back.
    Rollback,
    /// Ask a human.
    Escalate,
    /// Ask again later.
    Wait,
}

impl Action {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proceed => "proceed",
            Self::Rollback => "rollback",
            Self::Escalate => "escalate",
            Self::Wait => "wait",
        }
    }
}

/// What a named human decided about an INCONCLUSIVE verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution<'r> {
    /// Proceed, or stop.
    pub proceed: bool,
    /// Who.
    pub actor_id: &'r str,
    /// Why.
    pub reason: &'r str,
}

/// The gate's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Whether the change may go on.
    pub authorized: bool,
    /// What to do.
    pub action: Action,
    /// Why, for people.
    pub reason: String,
}

impl Rollout {
    /// As it stands in answers.
    pub fn to_value(&self) -> Value {
        Value::object([
            ("authorized", Value::from(self.authorized)),
            ("action", Value::from(self.action.as_str())),
            ("reason", Value::from(self.reason.as_str())),
        ])
    }
}

/// Decides from a verdict, `None` while there is none, and a resolution, if one was given.
///
/// A resolution counts for INCONCLUSIVE alone: nobody overturns FAIL.
pub fn decide(verdict: Option<Verdict>, resolution: Option<Resolution<'_>>) -> Rollout {
    let (authorized, action, reason) = match (verdict, resolution) {
        (None, _) => (false, Action::Wait, "the job has no verdict yet".to_owned()),
        (Some(Verdict::Pass), _) => (true, Action::Proceed, "every check passed".to_owned()),
        (Some(Verdict::Fail), _) => (false, Action::Rollback, "a check failed".to_owned()),
        (Some(Verdict::Inconclusive), None) => (
            false,
            Action::Escalate,
            "a check could not be decided; a human must resolve it".to_owned(),
        ),
        (Some(Verdict::Inconclusive), Some(resolution)) if resolution.proceed => (
            true,
            Action::Proceed,
            format!("resolved by {}: {}", resolution.actor_id, resolution.reason),
        ),
        (Some(Verdict::Inconclusive), Some(resolution)) => (
            false,
            Action::Escalate,
            format!("stopped by {}: {}", resolution.actor_id, resolution.reason),
        ),
    };
    Rollout {
        authorized,
        action,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolution_opens_inconclusive_and_never_fail() {
        let yes = Resolution {
            proceed: true,
            actor_id: "ada",
            reason: "seen",
        };
        let opened = decide(Some(Verdict::Inconclusive), Some(yes));
        assert!(opened.authorized && opened.reason.contains("ada"));
        assert_eq!(decide(Some(Verdict::Fail), Some(yes)).action, Action::Rollback);
        let no = Resolution {
            proceed: false,
            ..yes
        };
        let stopped = decide(Some(Verdict::Inconclusive), Some(no));
        assert!(!stopped.authorized);
    }
}
