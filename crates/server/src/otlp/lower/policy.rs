//! Decisions of guardrails and policies: class D.
//!
//! Nothing of this vocabulary is released; the names are those of the proposals (docs/otel-mapping.md,
//! "Governance vocabulary in flight") and of the agent-audit events. What is read here is kept as sent too.

use evidence::record::PolicyDecision;

use super::super::any::{Any, Attr};
use super::super::span::Event;
use super::role::Role;
use super::view::{View, find};

/// Where the decision may stand, most telling first.
const DECISION: [&str; 9] = [
    "agent_audit.decision",
    "agent_audit.decision.outcome",
    "agent_audit.decision.type",
    "gen_ai.security.decision",
    "gen_ai.security.verdict",
    "gen_ai.security.verdict.decision",
    "gen_ai.security.verdict.type",
    "gen_ai.security.action.type",
    "guardrail.decision",
];
const REASON: [&str; 4] = [
    "agent_audit.decision.reason",
    "agent_audit.reason",
    "gen_ai.security.verdict.reason",
    "guardrail.reason",
];
const RULE: [&str; 6] = [
    "agent_audit.policy.rule.id",
    "agent_audit.policy.id",
    "gen_ai.security.policy.rule.id",
    "gen_ai.security.policy.id",
    "gen_ai.security.guardrail.id",
    "gen_ai.security.guardrail.name",
];
const VERSION: [&str; 2] = ["agent_audit.policy.version", "gen_ai.security.policy.version"];

/// What words of decision mean.
static WORDS: &[(&str, &[&str])] = &[
    (
        "DENIED",
        &[
            "block",
            "blocked",
            "cancel",
            "denied",
            "deny",
            "fail",
            "failed",
            "refuse",
            "refused",
            "reject",
            "rejected",
            "forbidden",
            "terminate",
        ],
    ),
    (
        "GRANTED",
        &[
            "accept",
            "accepted",
            "allow",
            "allowed",
            "approve",
            "approved",
            "audit",
            "authorized",
            "grant",
            "granted",
            "log",
            "mask",
            "modify",
            "none",
            "ok",
            "pass",
            "passed",
            "permit",
            "permitted",
            "redact",
            "safe",
            "sanitize",
            "simulate",
            "warn",
        ],
    ),
    (
        "PENDING_APPROVAL",
        &[
            "ask",
            "deferred",
            "escalate",
            "escalated",
            "hold",
            "pending",
            "pending_approval",
            "quarantine",
            "require_approval",
            "review",
        ],
    ),
];

fn meaning(word: &str) -> Option<&'static str> {
    let known = |known: &&str| known.eq_ignore_ascii_case(word);
    WORDS
        .iter()
        .find(|(_, words)| words.iter().any(known))
        .map(|(decision, _)| *decision)
}

fn first(attrs: &[Attr<'_>], keys: &[&str]) -> Option<String> {
    keys.iter()
        .find_map(|key| find(attrs, key)?.text())
        .map(str::to_owned)
}

/// The events of the agent-audit proposal, latest stage first.
const AUDIT_DECIDED: [&str; 2] = ["agent_audit.decided", "agent_audit.executed"];
const AUDIT_PROPOSED: &str = "agent_audit.proposed";

/// Whether an event is of the agent-audit proposal.
pub(crate) fn is_audit(event: &Event<'_>) -> bool {
    event.name.starts_with("agent_audit.")
}

/// The decision of a guardrail or policy span, or of one that carries a verdict.
///
/// What the sender says counts. A guardrail that says nothing granted what ended well and denied what
/// failed; an action that was proposed and not decided is pending.
pub(crate) fn decision(view: &View<'_, '_>, role: Role, name: &str, failed: bool) -> Option<PolicyDecision> {
    let event = |name: &str| view.events.iter().rev().find(|event| event.name == name);
    let audit = AUDIT_DECIDED
        .iter()
        .find_map(|name| event(name))
        .or_else(|| event(AUDIT_PROPOSED));
    if role != Role::Policy && !view.found.security && audit.is_none() {
        return None;
    }
    let attrs = audit.map_or(view.attrs, |event| event.attributes.as_slice());
    let said = DECISION.iter().find_map(|key| meaning(find(attrs, key)?.text()?));
    let operation = find(view.attrs, "gen_ai.operation.name")
        .and_then(Any::text)
        .unwrap_or(name);
    let policy_type = if audit.is_some() {
        "action"
    } else if operation.starts_with("execute_authorization") || name.starts_with("execute_authorization") {
        "authorization"
    } else {
        "guardrail"
    };
    let unsaid = match audit {
        Some(event) if event.name == AUDIT_PROPOSED => "PENDING_APPROVAL",
        _ if failed => "DENIED",
        _ => "GRANTED",
    };
    Some(PolicyDecision {
        policy_type: policy_type.to_owned(),
        policy_rule_id: first(attrs, &RULE),
        policy_version: first(attrs, &VERSION),
        decision: said.unwrap_or(unsaid).to_owned(),
        decision_reason: first(attrs, &REASON),
    })
}
