//! Field names: under which of them a value is secret, and which identify.

use std::collections::HashSet;

use crate::Kind;

/// The fixed list of SPEC 6.4, in lower case.
const SECRET: [&str; 24] = [
    "password",
    "passwd",
    "pwd",
    "secret",
    "api_key",
    "apikey",
    "api-key",
    "token",
    "access_token",
    "refresh_token",
    "auth_token",
    "authorization",
    "bearer",
    "private_key",
    "privatekey",
    "ssh_key",
    "credentials",
    "cred",
    "ssn",
    "social_security",
    "credit_card",
    "creditcard",
    "card_number",
    "cvv",
];
/// The last of the list, kept apart only because the list is long.
const CVC: &str = "cvc";

/// Of an id that a client gave, which is his text; one that was made here may have digits enough for a card.
pub(super) const REQUEST_ID: &str = "request_id";

/// Longest name that is looked up, the built-in ones and tenants' own.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// Names under which a value is replaced whole.
#[derive(Debug)]
pub(super) struct Names {
    all: HashSet<Box<str>>,
    /// By length: a bit for each first letter, so that most names are told apart without a look-up.
    starts: [u64; NAME_BYTES_MAX + 1],
}

impl Names {
    pub(super) fn standard() -> Self {
        Self::with(&[])
    }

    /// The list and a tenant's own names, which are in lower case and no longer than [`NAME_BYTES_MAX`].
    pub(super) fn with(own: &[String]) -> Self {
        let mut names = Self {
            all: HashSet::new(),
            starts: [0; NAME_BYTES_MAX + 1],
        };
        for name in SECRET
            .into_iter()
            .chain([CVC])
            .chain(own.iter().map(String::as_str))
        {
            let name = name.to_ascii_lowercase();
            if let (Some(first), Some(starts)) = (name.bytes().next(), names.starts.get_mut(name.len())) {
                *starts |= start_bit(first);
                names.all.insert(name.into());
            }
        }
        names
    }

    /// Whether the name, or its last dotted part, is on the list, in whatever case.
    pub(super) fn is_secret(&self, name: &str) -> bool {
        self.is_listed(name.as_bytes())
            || name
                .rsplit_once('.')
                .is_some_and(|(_, last)| self.is_listed(last.as_bytes()))
    }

    pub(super) fn is_listed(&self, name: &[u8]) -> bool {
        let Some(&first) = name.first() else { return false };
        if self
            .starts
            .get(name.len())
            .is_none_or(|starts| starts & start_bit(first.to_ascii_lowercase()) == 0)
        {
            return false;
        }
        let mut lower = [0; NAME_BYTES_MAX];
        let Some(lower) = lower.get_mut(..name.len()) else {
            return false;
        };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        std::str::from_utf8(lower).is_ok_and(|lower| self.all.contains(lower))
    }
}

const fn start_bit(first: u8) -> u64 {
    1 << (first & 63)
}

/// Whether a member of Deponent's own is one of those that SPEC 6.4 leaves alone: what Deponent finds records
/// by, hashes and times.
///
/// It counts only where Deponent defines the members: at the top of a body or request, in its `steps`, and in
/// the sections of a step. Under `params` or `metadata` anybody may call anything `run_id`; of the states of an audit
/// event see [`is_run_of_state`].
pub(super) fn is_exempt(name: &str) -> bool {
    matches!(
        name,
        "actor_id"
            | "agent"
            | "agent_id"
            | "contract_id"
            | "correlation_id"
            | "entity_id"
            | "event_id"
            | "evidence_id"
            | "export_id"
            | "frozen_timestamp"
            | "hash"
            | "id"
            | "idempotency_key"
            | "incident_id"
            | "input_row_ids"
            | "job_id"
            | "key_id"
            | "loop_trace_id"
            | "parent_run_id"
            | "parent_span_id"
            | "policy_id"
            | "policy_snapshot_id"
            | "record_id"
            | "replay_attempt_id"
            | "row_ids"
            | "run_id"
            | "run_ids"
            | "signal_id"
            | "source_pattern_id"
            | "source_recovery_id"
            | "source_run_id"
            | "span_id"
            | "subject_id"
            | "synthetic_scenario_id"
            | "tenant_id"
            | "timestamp"
            | "trace_id"
            | "trace_ids"
            | "uri"
    ) || ["_at", "_digest", "_fingerprint", "_hash", "_mac", "_unix_nano"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

/// Whether a member of Deponent's own is a time by another name than those of [`is_exempt`]: of a signal and a contract. It
/// is left alone where it is a time: a request may have anybody's text there.
pub(super) fn is_time(name: &str) -> bool {
    matches!(name, "activation_window_end" | "activation_window_start" | "at")
}

/// Of the kinds that say who called, what evidence is missing, or what somebody decided: the members that a caller writes
/// freely. All others are words and identifiers of Deponent's own, by which the records are found and known again, keys
/// known and gates opened; no rule touches them.
pub(super) const fn free_of(kind: Kind) -> Option<&'static [&'static str]> {
    match kind {
        Kind::AccessEvent => Some(&["filters", "resource"]),
        Kind::AuthorizationDecision => Some(&[]),
        Kind::EvidenceCaptureFailure => Some(&["error_message", REQUEST_ID]),
        Kind::GovernanceResolution => Some(&["reason", REQUEST_ID]),
        Kind::IdentityEvent => Some(&["name"]),
        Kind::IncidentEvent => Some(&[
            "policy_name",
            "reason",
            REQUEST_ID,
            "severity",
            "summary",
            "violation_type",
        ]),
        _ => None,
    }
}

/// A line of an audit log: its members are its writer's, but for those that other programs decide by.
#[derive(Debug)]
pub(super) struct Line {
    /// Left alone: by what rows, files and records are found again.
    kept: &'static [&'static str],
    /// Its members have names that are decided by, which a tenant's patterns do not rename.
    pub(super) is_named: bool,
}

/// Times of a line, left alone where they are times: what else stands there is anybody's text.
const LINE_TIMES: [&str; 2] = ["timestamp", "ts"];

impl Line {
    /// Whether a text of the line stays as it is.
    pub(super) fn is_exempt(&self, name: &str) -> bool {
        self.kept.contains(&name)
    }

    /// Whether it stays as it is where it is a time.
    pub(super) fn is_time(name: &str) -> bool {
        LINE_TIMES.contains(&name)
    }
}

/// The kinds whose bodies are lines of audit logs. [`is_exempt`] does not hold for them: whoever writes a line may
/// call anything `reviewed_at` or `agent`.
pub(super) const fn line_of(kind: Kind) -> Option<&'static Line> {
    match kind {
        Kind::LineageEvidence => Some(&Line {
            kept: &["hash", "id", "input_row_ids", "run_id", "uri"],
            is_named: true,
        }),
        // `row_ids` are the same ids as those of the evidence, and as little is found by redacted ones.
        Kind::LineageDeterministic => Some(&Line {
            kept: &[
                "code_hash",
                "evidence_id",
                "id",
                "output_hash",
                "row_ids",
                "run_id",
            ],
            is_named: true,
        }),
        Kind::LineageAiOutput | Kind::LineageAiMetrics => Some(&Line {
            kept: &["run_id"],
            is_named: false,
        }),
        _ => None,
    }
}

/// The members of an audit event that anybody fills, but for [`is_run_of_state`].
pub(super) fn is_state(name: &str) -> bool {
    matches!(name, "after_state" | "before_state")
}

/// What names a run directly in a state of an audit event, see [`crate::record::AuditEventFacts`].
pub(super) fn is_run_of_state(name: &str) -> bool {
    matches!(name, "run_id" | "source_run_id")
}

/// Members of Deponent's own that hold more such members.
pub(super) fn is_section(name: &str) -> bool {
    matches!(
        name,
        "activity" | "events" | "links" | "otel" | "policy" | "provider" | "step" | "steps" | "points"
    )
}
