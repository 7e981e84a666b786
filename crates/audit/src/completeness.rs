//! The second axis beside the grade: is the record of a run whole?
//!
//! Facts of pass, fail or unknown. They are never added up, never mixed with the grade, and unknown never
//! counts as pass. Source: SPEC 6.3, "completeness facts".

use evidence::canonical::Value;

/// The answer to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// Nothing on record decides it.
    Unknown,
}

impl Fact {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }

    fn of(holds: Option<bool>) -> Self {
        match holds {
            Some(true) => Self::Pass,
            Some(false) => Self::Fail,
            None => Self::Unknown,
        }
    }
}

/// What was counted in a run's records; `None` where its source does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Whether the root (the run's start, the root span) is there.
    pub root_present: Option<bool>,
    /// Steps whose parent is not on record.
    pub orphan_parents: Option<u64>,
    /// Tool calls without a result, and results without a call.
    pub unpaired_tool_calls: Option<u64>,
    /// Attributes, events and links that the sender dropped.
    pub dropped: Option<u64>,
    /// Steps that the sender says he made.
    pub declared_steps: Option<u64>,
    /// Steps on record.
    pub seen_steps: u64,
    /// Boundaries (calls to models and tools) in all.
    pub boundaries: u64,
    /// Those whose content is on record; `None` if it is not known which should be.
    pub boundaries_with_content: Option<u64>,
    /// Steps, calls and runs that end before they start; steps before their run's start; what a sender's clock says is
    /// still to come when it is recorded.
    pub clock_faults: Option<u64>,
    /// Records that came after the end was judged.
    pub late: Option<u64>,
}

/// The facts, in their order, with their names on the wire.
pub fn facts(counted: &Counted) -> [(&'static str, Fact); 8] {
    let none = |count: Option<u64>| Fact::of(count.map(|count| count == 0));
    [
        ("root_present", Fact::of(counted.root_present)),
        ("no_orphan_parents", none(counted.orphan_parents)),
        ("tool_calls_paired", none(counted.unpaired_tool_calls)),
        ("nothing_dropped", none(counted.dropped)),
        (
            "declared_steps_seen",
            Fact::of(
                counted
                    .declared_steps
                    .map(|declared| declared == counted.seen_steps),
            ),
        ),
        (
            "content_captured",
            Fact::of(
                counted
                    .boundaries_with_content
                    .map(|captured| captured >= counted.boundaries),
            ),
        ),
        ("clock_sane", none(counted.clock_faults)),
        ("nothing_late", none(counted.late)),
    ]
}

/// The facts as an object.
pub fn to_value(counted: &Counted) -> Value {
    Value::object(facts(counted).map(|(name, fact)| (name, Value::from(fact.as_str()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_told_is_unknown_and_not_a_pass() {
        assert!(
            facts(&Counted::default())
                .iter()
                .all(|(_, fact)| *fact == Fact::Unknown)
        );
        let told = Counted {
            declared_steps: Some(3),
            seen_steps: 2,
            dropped: Some(0),
            ..Counted::default()
        };
        let value = to_value(&told);
        assert_eq!(value.get("declared_steps_seen"), Some(&Value::from("fail")));
        assert_eq!(value.get("nothing_dropped"), Some(&Value::from("pass")));
    }
}
