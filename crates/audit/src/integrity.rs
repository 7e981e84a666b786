//! Grades how much a run's evidence can carry.
//!
//! A grade follows from facts and policy alone: equal facts give equal grades, and a grade never stands
//! without the facts beside it.
//!
//! Out of scope: gathering the facts and sealing the judgement (ledger); whether the record of the run is
//! whole ([`crate::completeness`]). Start at [`judge`]. Rules: SPEC 6.3.

use std::collections::HashMap;

use evidence::canonical::{Finite, Value};

use crate::read::{self, InputError};

/// Most failures that a judgement tells one by one, beside the first of each class: each is told up to three times,
/// with a message of 500 characters, so that it takes 5 MB at most and a seal fits into a record. All of them count.
pub const FAILURES_TOLD_MAX: usize = 500;
/// Most failures in an input, as in a run whose evidence is lost.
const FAILURES_MAX: usize = 10_000;
/// Longest list of classes in an input: each class may be named once, repeated names are harmless.
const CLASSES_MAX: usize = 100;

pub use evidence::record::{
    ERROR_MESSAGE_CHARS_MAX, EvidenceClass as Class, FailureReason, FailureResolution as Resolution,
};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl $name {
            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The one of that name.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words! {
    /// How much the evidence can carry.
    Grade {
        /// VALID
        Pass = "PASS",
        /// DEGRADED
        Warn = "WARN",
        /// FAILED
        Fail = "FAIL",
    }
}

impl Grade {
    /// The status that goes with the grade.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Pass => "VALID",
            Self::Warn => "DEGRADED",
            Self::Fail => "FAILED",
        }
    }
}

/// Evidence that could not be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of which class.
    pub class: Class,
    /// Why.
    pub reason: FailureReason,
    /// What became of it.
    pub resolution: Resolution,
    /// In the sender's words, at most [`ERROR_MESSAGE_CHARS_MAX`].
    pub error_message: Option<String>,
}

impl Failure {
    fn to_value(&self) -> Value {
        let mut value = Value::object([
            ("evidence_class", self.class.as_str()),
            ("failure_reason", self.reason.as_str()),
            ("resolution", self.resolution.as_str()),
        ]);
        if let Some(message) = &self.error_message {
            value.insert("error_message", message.as_str());
        }
        value
    }
}

/// What is on record about a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Records of each class, in the order of [`Class::JUDGED`].
    pub counts: [u64; 6],
    /// Failures, in ledger order: the first [`FAILURES_TOLD_MAX`], and the first of each class.
    failures: Vec<Failure>,
    /// How many more there are.
    more: HashMap<(Class, Resolution), u64>,
    /// Whether the run has ended.
    pub terminal: bool,
}

impl Facts {
    /// Whether the class was observed.
    pub fn observed(&self, class: Class) -> bool {
        Class::JUDGED
            .iter()
            .zip(self.counts)
            .any(|(judged, count)| *judged == class && count > 0)
    }

    /// Takes the next failure, in ledger order.
    pub fn fail(&mut self, failure: Failure) {
        let first = self.failures.iter().all(|told| told.class != failure.class);
        if first || self.failures.len() < FAILURES_TOLD_MAX {
            self.failures.push(failure);
        } else {
            *self.more.entry((failure.class, failure.resolution)).or_insert(0) += 1;
        }
    }

    /// How many failures have such a resolution, those included that are not told.
    fn count(&self, of: impl Fn(Resolution) -> bool) -> u64 {
        let told = self
            .failures
            .iter()
            .filter(|failure| of(failure.resolution))
            .count();
        let more: u64 = self
            .more
            .iter()
            .filter(|((_, resolution), _)| of(*resolution))
            .map(|(_, count)| count)
            .sum();
        u64::try_from(told).unwrap_or(u64::MAX).saturating_add(more)
    }

    /// Marks failures as superseded whose class was observed after all.
    ///
    /// For facts gathered from records. Facts given by hand say it themselves.
    pub fn supersede_observed(&mut self) {
        let observed: Vec<Class> = Class::JUDGED
            .into_iter()
            .filter(|class| self.observed(*class))
            .collect();
        for failure in &mut self.failures {
            if observed.contains(&failure.class) {
                failure.resolution = Resolution::Superseded;
            }
        }
        for ((class, resolution), count) in std::mem::take(&mut self.more) {
            let resolution = if observed.contains(&class) {
                Resolution::Superseded
            } else {
                resolution
            };
            *self.more.entry((class, resolution)).or_insert(0) += count;
        }
    }
}

/// What a tenant demands.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Without these the grade is FAIL.
    pub required: Vec<Class>,
    /// The score is the observed part of these.
    pub expected: Vec<Class>,
    /// Least score of PASS.
    pub pass_at: f64,
    /// Least score of WARN.
    pub warn_at: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            required: vec![Class::Environment, Class::Traces, Class::TraceSteps],
            expected: Class::JUDGED.to_vec(),
            pass_at: 0.8,
            warn_at: 0.5,
        }
    }
}

impl Policy {
    /// Reads a policy; absent members have their defaults.
    ///
    /// # Errors
    /// An unknown class or member, nothing expected, thresholds outside 0 ≤ warn_at ≤ pass_at ≤ 1.
    pub fn read(value: &Value) -> Result<Self, InputError> {
        read::object(value, "policy", &["required", "expected", "pass_at", "warn_at"])?;
        let defaults = Self::default();
        let policy = Self {
            required: classes(value, "required")?.unwrap_or(defaults.required),
            expected: classes(value, "expected")?.unwrap_or(defaults.expected),
            pass_at: read::number(value, "pass_at")?.unwrap_or(defaults.pass_at),
            warn_at: read::number(value, "warn_at")?.unwrap_or(defaults.warn_at),
        };
        if policy.expected.is_empty() {
            return Err(InputError::new("expected is empty: there is nothing to score"));
        }
        if !(0.0 <= policy.warn_at && policy.warn_at <= policy.pass_at && policy.pass_at <= 1.0) {
            return Err(InputError::new("thresholds are not 0 <= warn_at <= pass_at <= 1"));
        }
        Ok(policy)
    }
}

/// The judgement, with everything it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// SEALED once the run has ended, else PENDING.
    pub sealed: bool,
    /// How much it carries.
    pub grade: Grade,
    /// Observed expected classes by expected classes.
    pub score: f64,
    /// The expected classes.
    pub expected: Vec<Class>,
    /// The observed ones of all six.
    pub observed: Vec<Class>,
    /// Expected or required, and not observed.
    pub missing: Vec<Class>,
    /// Whether every required class was observed.
    pub has_required_evidence: bool,
    /// Why this grade, for people.
    pub explanation: String,
    facts: Facts,
}

/// Judges facts under a policy.
pub fn judge(facts: &Facts, policy: &Policy) -> Judgement {
    let ordered = |wanted: &dyn Fn(Class) -> bool| -> Vec<Class> {
        Class::JUDGED.into_iter().filter(|class| wanted(*class)).collect()
    };
    let expected = ordered(&|class| policy.expected.contains(&class));
    let observed = ordered(&|class| facts.observed(class));
    let missing = ordered(&|class| {
        !facts.observed(class) && (policy.expected.contains(&class) || policy.required.contains(&class))
    });
    let required_missing = ordered(&|class| !facts.observed(class) && policy.required.contains(&class));
    let seen = expected.iter().filter(|class| facts.observed(**class)).count();
    #[allow(clippy::cast_precision_loss)] // at most six
    let score = seen as f64 / expected.len().max(1) as f64;
    let permanent = facts.count(|resolution| resolution == Resolution::Permanent);
    let failures = facts.count(|_| true);

    let (grade, explanation) = if !required_missing.is_empty() {
        let names: Vec<&str> = required_missing.iter().map(|class| class.as_str()).collect();
        (
            Grade::Fail,
            format!("required evidence is missing: {}", names.join(", ")),
        )
    } else if permanent > 0 {
        (
            Grade::Fail,
            format!("{permanent} capture failure(s) are permanent and unresolved"),
        )
    } else if failures > 0 {
        (Grade::Warn, format!("{failures} capture failure(s) on record"))
    } else if score >= policy.pass_at {
        (
            Grade::Pass,
            format!("{seen} of {} expected classes observed", expected.len()),
        )
    } else if score >= policy.warn_at {
        (
            Grade::Warn,
            format!("only {seen} of {} expected classes observed", expected.len()),
        )
    } else {
        (
            Grade::Fail,
            format!("only {seen} of {} expected classes observed", expected.len()),
        )
    };
    Judgement {
        sealed: facts.terminal,
        grade,
        score,
        expected,
        observed,
        missing,
        has_required_evidence: required_missing.is_empty(),
        explanation,
        facts: facts.clone(),
    }
}

impl Judgement {
    /// Failures that nothing superseded, of those that are told.
    pub fn unresolved(&self) -> impl Iterator<Item = &Failure> {
        self.facts
            .failures
            .iter()
            .filter(|failure| failure.resolution != Resolution::Superseded)
    }

    /// As HTTP, seal and command line answer it.
    pub fn to_value(&self) -> Value {
        let names = |classes: &[Class]| -> Value {
            Value::from(
                classes
                    .iter()
                    .map(|class| Value::from(class.as_str()))
                    .collect::<Vec<_>>(),
            )
        };
        let failures: Vec<Value> = self.facts.failures.iter().map(Failure::to_value).collect();
        let unresolved: Vec<Value> = self.unresolved().map(Failure::to_value).collect();
        let mut reasons = Value::object(self.missing.iter().map(|class| {
            let first = self.facts.failures.iter().find(|failure| failure.class == *class);
            let reason = first.map_or("no_records_found", |failure| failure.reason.as_str());
            (class.as_str(), reason)
        }));
        if !unresolved.is_empty() {
            reasons.insert("_capture_failures", unresolved.clone());
        }
        let counts = Class::JUDGED.iter().zip(self.facts.counts).map(|(class, count)| {
            (
                class.as_str(),
                Value::from(i64::try_from(count).unwrap_or(i64::MAX)),
            )
        });
        let mut value = Value::object([
            (
                "state",
                Value::from(if self.sealed { "SEALED" } else { "PENDING" }),
            ),
            ("grade", Value::from(self.grade.as_str())),
            ("score", Value::from(Finite::new(self.score).unwrap_or_default())),
            ("status", Value::from(self.grade.status())),
            ("expected", names(&self.expected)),
            ("observed", names(&self.observed)),
            ("missing", names(&self.missing)),
            ("missing_reasons", reasons),
            ("evidence_counts", Value::object(counts)),
            ("has_capture_failures", Value::from(!failures.is_empty())),
            ("capture_failures", Value::from(failures)),
            ("unresolved_failures", Value::from(unresolved)),
            ("has_required_evidence", Value::from(self.has_required_evidence)),
            ("explanation", Value::from(self.explanation.as_str())),
        ]);
        // Where lists are not whole they say of how many they are the first.
        if !self.facts.more.is_empty() {
            let total = |of: &dyn Fn(Resolution) -> bool| {
                Value::from(i64::try_from(self.facts.count(of)).unwrap_or(i64::MAX))
            };
            value.insert("capture_failures_total", total(&|_| true));
            let unresolved = |resolution| resolution != Resolution::Superseded;
            value.insert("unresolved_failures_total", total(&unresolved));
        }
        value
    }
}

/// Reads the facts and the policy of an input object: `present`, `failures?`, `policy?`, `terminal?`.
///
/// A resolution is taken as it stands; absent, it is the reason's default.
///
/// # Errors
/// An unknown class, reason, resolution or member.
pub fn read_input(input: &Value) -> Result<(Facts, Policy), InputError> {
    read::object(input, "the input", &["present", "failures", "policy", "terminal"])?;
    let present = classes(input, "present")?.ok_or_else(|| InputError::new("present is missing"))?;
    let mut facts = Facts {
        terminal: read::boolean(input, "terminal")?.unwrap_or(true),
        ..Facts::default()
    };
    for (class, count) in Class::JUDGED.iter().zip(&mut facts.counts) {
        *count = u64::from(present.contains(class));
    }
    for failure in read::list(input, "failures", FAILURES_MAX)?.unwrap_or_default() {
        facts.fail(read_failure(failure)?);
    }
    let policy = read::given(input, "policy").map_or_else(|| Ok(Policy::default()), Policy::read)?;
    Ok((facts, policy))
}

fn read_failure(value: &Value) -> Result<Failure, InputError> {
    let known = ["evidence_class", "failure_reason", "resolution", "error_message"];
    read::object(value, "a failure", &known)?;
    let class = read::required_text(value, "evidence_class")?;
    let reason = read::required_text(value, "failure_reason")?;
    let class =
        Class::parse(&class).ok_or_else(|| InputError::new(format!("unknown evidence class {class:?}")))?;
    let reason = FailureReason::parse(&reason)
        .ok_or_else(|| InputError::new(format!("unknown failure reason {reason:?}")))?;
    let resolution = match read::text(value, "resolution")? {
        None => reason.default_resolution(),
        Some(word) => {
            Resolution::parse(&word).ok_or_else(|| InputError::new(format!("unknown resolution {word:?}")))?
        }
    };
    Ok(Failure {
        class,
        reason,
        resolution,
        error_message: read::text(value, "error_message")?
            .map(|message| message.chars().take(ERROR_MESSAGE_CHARS_MAX).collect()),
    })
}

fn classes(value: &Value, name: &str) -> Result<Option<Vec<Class>>, InputError> {
    let Some(words) = read::texts(value, name, CLASSES_MAX)? else {
        return Ok(None);
    };
    words
        .iter()
        .map(|word| {
            Class::parse(word)
                .filter(|class| *class != Class::Integrity)
                .ok_or_else(|| InputError::new(format!("{name} names the unknown class {word:?}")))
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(json: &str) -> Result<Judgement, InputError> {
        let input =
            evidence::canonical::parse(json.as_bytes(), evidence::canonical::Limits::default()).unwrap();
        read_input(&input).map(|(facts, policy)| judge(&facts, &policy))
    }

    const ALL: &str = r#"["environment_evidence","activity_evidence","provider_evidence","policy_decisions","traces","trace_steps"]"#;

    #[test]
    fn everything_observed_passes_and_any_failure_warns_even_superseded() {
        assert_eq!(
            judged(&format!(r#"{{"present":{ALL}}}"#)).unwrap().grade,
            Grade::Pass
        );
        let superseded = format!(
            r#"{{"present":{ALL},"failures":[{{"evidence_class":"integrity_evidence","failure_reason":"pre_attach","resolution":"superseded"}}]}}"#
        );
        let judgement = judged(&superseded).unwrap();
        assert_eq!(
            (judgement.grade, judgement.unresolved().count()),
            (Grade::Warn, 0)
        );
    }

    fn failure(class: Class, resolution: Resolution, message: &str) -> Failure {
        Failure {
            class,
            reason: FailureReason::CaptureFailed,
            resolution,
            error_message: Some(message.to_owned()),
        }
    }

    #[test]
    fn every_failure_counts_and_what_is_told_of_them_fits_into_a_record() {
        let mut facts = Facts {
            counts: [1, 1, 0, 1, 1, 1],
            terminal: true,
            ..Facts::default()
        };
        let message = "\u{1}".repeat(ERROR_MESSAGE_CHARS_MAX);
        for _ in 0..20_000 {
            facts.fail(failure(Class::Traces, Resolution::Transient, &message));
        }
        facts.fail(failure(
            Class::Provider,
            Resolution::Transient,
            "the first of its class",
        ));
        for _ in 0..20_000 {
            facts.fail(failure(Class::Provider, Resolution::Transient, &message));
        }
        facts.supersede_observed();
        let warned = judge(&facts, &Policy::default());
        assert_eq!(
            (warned.grade, warned.explanation.as_str()),
            (Grade::Warn, "40001 capture failure(s) on record")
        );
        facts.fail(failure(Class::Provider, Resolution::Permanent, "the last of all"));
        let judgement = judge(&facts, &Policy::default());
        assert_eq!(
            (judgement.grade, judgement.explanation.as_str()),
            (Grade::Fail, "1 capture failure(s) are permanent and unresolved")
        );
        let value = judgement.to_value();
        let body = evidence::canonical::to_vec(&value);
        assert!(
            body.len() < evidence::record::BODY_BYTES_MAX / 2,
            "{}",
            body.len()
        );
        let list = |name: &str| value.get(name).and_then(Value::as_array).map_or(0, <[_]>::len);
        assert_eq!((list("capture_failures"), list("unresolved_failures")), (501, 1));
        assert_eq!(value.get("capture_failures_total"), Some(&Value::Int(40_002)));
        assert_eq!(value.get("unresolved_failures_total"), Some(&Value::Int(20_002)));
    }

    #[test]
    fn an_absent_resolution_is_that_of_the_reason() {
        let permanent = format!(
            r#"{{"present":{ALL},"failures":[{{"evidence_class":"traces","failure_reason":"context_invalid"}}]}}"#
        );
        assert_eq!(judged(&permanent).unwrap().grade, Grade::Fail);
    }

    #[test]
    fn a_required_class_that_is_not_expected_is_missing_all_the_same() {
        let judgement = judged(
            r#"{"present":["traces"],"policy":{"expected":["traces"],"required":["environment_evidence"]}}"#,
        )
        .unwrap();
        assert_eq!(
            (judgement.grade, judgement.missing),
            (Grade::Fail, vec![Class::Environment])
        );
    }

    #[test]
    fn words_that_nobody_knows_are_errors() {
        for bad in [
            r#"{"present":["integrity_evidence"]}"#,
            r#"{"present":["mystery"]}"#,
            r#"{"present":[],"failures":[{"evidence_class":"mystery","failure_reason":"pre_attach"}]}"#,
            r#"{"present":[],"failures":[{"evidence_class":"traces","failure_reason":"bored"}]}"#,
            r#"{"present":[],"policy":{"pass_at":0.2}}"#,
            r#"{"present":[],"policy":{"expected":[]}}"#,
            r#"{"present":[],"presnt":[]}"#,
            "[]",
        ] {
            assert!(judged(bad).is_err(), "{bad}");
        }
    }
}
