//! The kinds of records, each with its name on the wire and its number in stores.

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What a record is about. Names and numbers are eternal: never changed, never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* #[doc = concat!("`", $text, "`")] $name = $code,)* }

        impl Kind {
            /// Every kind, by rising number.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The name on the wire, e.g. `trace.step`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Kind::$name => $text,)* }
            }

            /// The kind of that name.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Kind::$name),)* _ => None }
            }

            /// The kind of that number in stores.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Kind::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    RunStarted = 1, "run.started";
    RunCompleted = 2, "run.completed";
    TraceStep = 3, "trace.step";
    TraceCompleted = 4, "trace.completed";
    TraceAborted = 5, "trace.aborted";
    EvidenceEnvironment = 6, "evidence.environment";
    EvidenceActivity = 7, "evidence.activity";
    EvidenceProvider = 8, "evidence.provider";
    EvidencePolicyDecision = 9, "evidence.policy_decision";
    EvidenceIntegrity = 10, "evidence.integrity";
    EvidenceCaptureFailure = 11, "evidence.capture_failure";
    SystemRecord = 12, "system.record";
    SystemTelemetry = 13, "system.telemetry";
    AuditEvent = 14, "audit.event";
    PolicyActivation = 15, "policy.activation";
    IdentityEvent = 16, "identity.event";
    AuthorizationDecision = 17, "authorization.decision";
    AccessEvent = 18, "access.event";
    IncidentEvent = 19, "incident.event";
    JobEvent = 20, "job.event";
    GovernanceContract = 21, "governance.contract";
    GovernanceSignal = 22, "governance.signal";
    GovernanceAudit = 23, "governance.audit";
    GovernanceResolution = 24, "governance.resolution";
    ProvenanceLog = 25, "provenance.log";
    LineageEvidence = 26, "lineage.evidence";
    LineageDeterministic = 27, "lineage.deterministic";
    LineageAiOutput = 28, "lineage.ai_output";
    LineageAiMetrics = 29, "lineage.ai_metrics";
    ExportRequested = 30, "export.requested";
    ExportCompleted = 31, "export.completed";
    ReplayEnforced = 32, "replay.enforced";
    ErasurePerformed = 33, "erasure.performed";
    RetentionArchived = 34, "retention.archived";
    HoldPlaced = 35, "hold.placed";
    HoldReleased = 36, "hold.released";
    LedgerRecovered = 37, "ledger.recovered";
    KeyRotated = 38, "key.rotated";
}

impl Kind {
    /// The number in stores.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether a header of this kind may carry `run_id` and `run_seq`; other kinds name a run in the body.
    pub const fn is_of_run(self) -> bool {
        matches!(
            self,
            Kind::RunStarted
                | Kind::RunCompleted
                | Kind::TraceStep
                | Kind::TraceCompleted
                | Kind::TraceAborted
                | Kind::EvidenceEnvironment
                | Kind::EvidenceActivity
                | Kind::EvidenceProvider
                | Kind::EvidencePolicyDecision
                | Kind::EvidenceIntegrity
                | Kind::EvidenceCaptureFailure
                | Kind::ProvenanceLog
                | Kind::LineageEvidence
                | Kind::LineageDeterministic
                | Kind::LineageAiOutput
                | Kind::LineageAiMetrics
                | Kind::ReplayEnforced
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name_and_its_number() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(Kind::ALL.len(), 38);
        assert_eq!(Kind::parse("trace.stepp"), None);
        assert_eq!(Kind::from_code(0), None);
    }
}
