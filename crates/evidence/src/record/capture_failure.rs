//! `evidence.capture_failure`: evidence that could not be captured, and why.
//!
//! Posted, or noted by the server: a span refused, attributes that a sender dropped. One that the server notes is
//! about something (`about`) and stands once; what is posted has no identity.
//!
//! Source: SPEC 6.2; docs/formats.md, "evidence.capture_failure".

use serde::Deserialize;

use super::rule::RuleBroken;
use super::{put, text};
use crate::canonical::{self, Value};
use crate::header::words;
use crate::{Identity, Kind};

words! {
    /// A class of evidence. The first six are judged (SPEC 6.3).
    EvidenceClass {
        Environment = "environment_evidence",
        Activity = "activity_evidence",
        Provider = "provider_evidence",
        PolicyDecisions = "policy_decisions",
        Traces = "traces",
        TraceSteps = "trace_steps",
        Integrity = "integrity_evidence",
    }
}

impl EvidenceClass {
    /// The six classes that are judged, in their order.
    pub const JUDGED: [Self; 6] = [
        Self::Environment,
        Self::Activity,
        Self::Provider,
        Self::PolicyDecisions,
        Self::Traces,
        Self::TraceSteps,
    ];
}

words! {
    /// Why evidence could not be captured (SPEC 6.2).
    FailureReason {
        CaptureFailed = "capture_failed",
        ProviderTimeout = "provider_timeout",
        NetworkPartition = "network_partition",
        DatabaseError = "database_error",
        PreAttach = "pre_attach",
        ContextInvalid = "context_invalid",
    }
}

impl FailureReason {
    /// What a failure of this reason is unless its sender says otherwise.
    pub const fn default_resolution(self) -> FailureResolution {
        match self {
            Self::CaptureFailed | Self::ProviderTimeout | Self::NetworkPartition | Self::DatabaseError => {
                FailureResolution::Transient
            }
            Self::PreAttach | Self::ContextInvalid => FailureResolution::Permanent,
        }
    }
}

words! {
    /// What became of a failure.
    FailureResolution { Transient = "transient", Permanent = "permanent", Superseded = "superseded", }
}

/// Characters kept of a failure's message (SPEC 6.2).
pub const ERROR_MESSAGE_CHARS_MAX: usize = 500;

/// The body of an `evidence.capture_failure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureFailure {
    /// Of which class.
    pub evidence_class: EvidenceClass,
    /// Why.
    pub failure_reason: FailureReason,
    /// In the sender's words, cut to [`ERROR_MESSAGE_CHARS_MAX`].
    pub error_message: Option<String>,
    /// As given, else the reason's default.
    pub resolution: FailureResolution,
    /// What the server noted it about; it is noted once in a run.
    pub about: Option<String>,
}

impl CaptureFailure {
    /// A failure from its words.
    ///
    /// # Errors
    /// A word that is none of the list.
    pub fn of_words(
        evidence_class: &str,
        failure_reason: &str,
        resolution: Option<&str>,
        error_message: Option<&str>,
    ) -> Result<Self, RuleBroken> {
        fn of<T>(
            field: &'static str,
            word: &str,
            parse: fn(&str) -> Option<T>,
            words: &[&str],
        ) -> Result<T, RuleBroken> {
            parse(word).ok_or_else(|| RuleBroken::new(field, format!("must be one of {}", words.join(", "))))
        }
        let failure_reason = of(
            "failure_reason",
            failure_reason,
            FailureReason::parse,
            FailureReason::WORDS,
        )?;
        let resolution = match resolution {
            None => failure_reason.default_resolution(),
            Some(word) => of(
                "resolution",
                word,
                FailureResolution::parse,
                FailureResolution::WORDS,
            )?,
        };
        Ok(Self {
            evidence_class: of(
                "evidence_class",
                evidence_class,
                EvidenceClass::parse,
                EvidenceClass::WORDS,
            )?,
            failure_reason,
            error_message: error_message
                .map(|message| message.chars().take(ERROR_MESSAGE_CHARS_MAX).collect()),
            resolution,
            about: None,
        })
    }

    /// One that the server notes.
    pub fn noted(evidence_class: EvidenceClass, about: &str, message: &str) -> Self {
        Self {
            evidence_class,
            failure_reason: FailureReason::CaptureFailed,
            error_message: Some(message.chars().take(ERROR_MESSAGE_CHARS_MAX).collect()),
            resolution: FailureReason::CaptureFailed.default_resolution(),
            about: Some(about.to_owned()),
        }
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(5);
        put(&mut object, "about", self.about.as_deref().map(text));
        put(
            &mut object,
            "error_message",
            self.error_message.as_deref().map(text),
        );
        put(
            &mut object,
            "evidence_class",
            Some(text(self.evidence_class.as_str())),
        );
        put(
            &mut object,
            "failure_reason",
            Some(text(self.failure_reason.as_str())),
        );
        put(&mut object, "resolution", Some(text(self.resolution.as_str())));
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body; `None`: it is none.
    pub fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Wire {
            about: Option<String>,
            error_message: Option<String>,
            evidence_class: String,
            failure_reason: String,
            resolution: String,
        }
        let wire: Wire = serde_json::from_slice(body).ok()?;
        Some(Self {
            evidence_class: EvidenceClass::parse(&wire.evidence_class)?,
            failure_reason: FailureReason::parse(&wire.failure_reason)?,
            error_message: wire.error_message,
            resolution: FailureResolution::parse(&wire.resolution)?,
            about: wire.about,
        })
    }

    /// Its identity within its run, if the server noted it.
    pub fn identity(&self) -> Option<Identity> {
        let about = self.about.as_deref()?;
        Some(Identity::noted(
            Kind::EvidenceCaptureFailure,
            self.evidence_class.as_str(),
            about,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let posted = CaptureFailure::of_words("provider_evidence", "pre_attach", None, Some("no")).unwrap();
        assert_eq!(
            String::from_utf8(posted.encode()).unwrap(),
            r#"{"error_message":"no","evidence_class":"provider_evidence","failure_reason":"pre_attach","resolution":"permanent"}"#
        );
        assert_eq!(posted.identity(), None);
        let noted = CaptureFailure::noted(EvidenceClass::TraceSteps, "dropped", "2 attributes");
        assert_eq!(
            String::from_utf8(noted.encode()).unwrap(),
            r#"{"about":"dropped","error_message":"2 attributes","evidence_class":"trace_steps","failure_reason":"capture_failed","resolution":"transient"}"#
        );
        for one in [posted, noted] {
            assert_eq!(CaptureFailure::read(&one.encode()), Some(one));
        }
    }

    #[test]
    fn words_are_those_of_the_lists_and_messages_are_cut() {
        let of = CaptureFailure::of_words;
        assert_eq!(
            of("steps", "pre_attach", None, None).unwrap_err().field,
            "evidence_class"
        );
        assert_eq!(
            of("traces", "lost", None, None).unwrap_err().field,
            "failure_reason"
        );
        assert_eq!(
            of("traces", "pre_attach", Some("later"), None).unwrap_err().field,
            "resolution"
        );
        let long = "ä".repeat(ERROR_MESSAGE_CHARS_MAX + 9);
        let cut = of("traces", "database_error", Some("permanent"), Some(&long)).unwrap();
        assert_eq!(
            cut.error_message.unwrap().chars().count(),
            ERROR_MESSAGE_CHARS_MAX
        );
        assert_eq!(cut.resolution, FailureResolution::Permanent);
    }
}
