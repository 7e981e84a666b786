//! Decisions of guardrails and policies: class D.
//!
//! Nothing of this vocabulary is released; the names are those of the proposals (docs/otel-mapping.md,
//! "Governance vocabulary in flight") and of the agent-audit events. What is read here is kept as sent too.

use std::borrow::Cow;
use std::collections::BTreeMap;

use evidence::IDENTIFIER_BYTES_MAX;
use evidence::canonical::Writer;
use evidence::record::PolicyDecision;

use super::super::any::{Any, Attr};
use super::super::span::Event;
use super::identifier;
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

const DENIED: &str = "DENIED";
const GRANTED: &str = "GRANTED";
const PENDING: &str = "PENDING_APPROVAL";

/// What words of decision mean. The interventions are those of Bedrock's guardrails, `NONE` is their pass. A
/// false flag is a denial; a true one may be the hit of a rule or its pass.
static WORDS: &[(&str, &[&str])] = &[
    (
        DENIED,
        &[
            "block",
            "blocked",
            "cancel",
            "denied",
            "deny",
            "disallow",
            "disallowed",
            "fail",
            "failed",
            "false",
            "flagged",
            "guardrail_intervened",
            "intervened",
            "refuse",
            "refused",
            "reject",
            "rejected",
            "forbidden",
            "terminate",
            "unsafe",
            "violation",
        ],
    ),
    (
        GRANTED,
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
        PENDING,
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

/// A value that can be a word, as text. Lists, maps and bytes are none, empty text says nothing.
fn word(value: Any<'_>) -> Option<Cow<'_, str>> {
    let word = match value {
        Any::Str(text) => Cow::Borrowed(text.trim()),
        Any::Bool(truth) => Cow::Borrowed(if truth { "true" } else { "false" }),
        Any::Int(number) => Cow::Owned(number.to_string()),
        Any::Double(number) => Cow::Owned(number.to_string()),
        Any::Empty | Any::Array(_) | Any::Map(_) | Any::Bytes(_) => return None,
    };
    (!word.is_empty()).then_some(word)
}

/// What a sender says of a decision.
#[derive(Debug)]
enum Said {
    Nothing,
    /// A word that is known, by its meaning.
    Meant(&'static str),
    /// Anything else, with a note for people that names it.
    Unread(String),
}

fn read(value: Any<'_>) -> Said {
    let Some(word) = word(value) else {
        return match value {
            Any::Array(_) | Any::Map(_) | Any::Bytes(_) => Said::Unread("the verdict is no word".to_owned()),
            _ => Said::Nothing,
        };
    };
    match meaning(&word) {
        Some(decision) => Said::Meant(decision),
        None if word.len() <= IDENTIFIER_BYTES_MAX => {
            Said::Unread(format!("the verdict \"{word}\" is not known"))
        }
        // Not a piece of it: a secret that is cut is not found any more.
        None => Said::Unread(format!("the verdict of {} bytes is not known", word.len())),
    }
}

/// What attributes say of a decision: the strictest of the words that are known, but no grant when a more telling
/// one is not known.
fn said(attrs: &[Attr<'_>]) -> Said {
    let (mut meant, mut unread): (Option<&'static str>, _) = (None, None);
    for value in DECISION.iter().filter_map(|key| find(attrs, key)) {
        match read(value) {
            Said::Nothing => {}
            Said::Meant(GRANTED) if unread.is_some() => {}
            Said::Meant(decision) => {
                if meant.is_none_or(|before| strictness(before) < strictness(decision)) {
                    meant = Some(decision);
                }
            }
            Said::Unread(note) => unread = unread.or(Some(note)),
        }
    }
    match meant {
        Some(decision) => Said::Meant(decision),
        None => unread.map_or(Said::Nothing, Said::Unread),
    }
}

/// Who says it: a span, or an event of the agent-audit proposal. Of an action a later stage tells more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Span,
    Proposed,
    Executed,
    Decided,
}

impl Stage {
    fn of(event: &Event<'_>) -> Option<Self> {
        match event.name {
            "agent_audit.proposed" => Some(Self::Proposed),
            "agent_audit.executed" => Some(Self::Executed),
            "agent_audit.decided" => Some(Self::Decided),
            _ => None,
        }
    }
}

/// Whether an event is of the agent-audit proposal.
pub(crate) fn is_audit(event: &Event<'_>) -> bool {
    event.name.starts_with("agent_audit.")
}

/// The decision, and a note for people when it is not what the sender said.
///
/// What is not understood is never a grant: somebody must look at it.
fn judged(said: Said, stage: Stage, failed: bool) -> (&'static str, Option<String>) {
    // What is only proposed may fail without having been denied.
    let failed = failed && stage != Stage::Proposed;
    match (said, stage) {
        (Said::Meant(decision), _) => (decision, None),
        (Said::Unread(note), _) => (if failed { DENIED } else { PENDING }, Some(note)),
        (Said::Nothing, _) if failed => (DENIED, None),
        (Said::Nothing, Stage::Proposed) => (PENDING, None),
        (Said::Nothing, Stage::Executed) => (GRANTED, None),
        (Said::Nothing, Stage::Decided) => (PENDING, Some("the event names no verdict".to_owned())),
        (Said::Nothing, Stage::Span) => (PENDING, Some("the span names no verdict".to_owned())),
    }
}

fn strictness(decision: &str) -> u8 {
    match decision {
        DENIED => 2,
        PENDING => 1,
        _ => 0,
    }
}

const ACTION: &str = "agent_audit.action.id";

/// What was said last of an action.
struct Action<'v, 'a> {
    event: &'v Event<'a>,
    /// Where the event stands.
    place: usize,
    id: Option<Any<'a>>,
    stage: Stage,
    said: Said,
}

impl Action<'_, '_> {
    /// The greater counts: who names a verdict before who does not, then the later stage, then the later event.
    fn weight(&self) -> (bool, Stage, usize) {
        (!matches!(self.said, Said::Nothing), self.stage, self.place)
    }
}

/// The actions that events tell of, each by what was said last of it.
///
/// That an action was executed is no answer to who denied it: it counts only where nobody decided.
fn actions<'v, 'a>(view: &View<'v, 'a>) -> Vec<Action<'v, 'a>> {
    // By their ids as JSON. Events that name none tell of the action of the span.
    let mut actions: BTreeMap<Vec<u8>, Action<'v, 'a>> = BTreeMap::new();
    for (place, event) in view.events.iter().enumerate() {
        let Some(stage) = Stage::of(event) else { continue };
        let id = find(&event.attributes, ACTION).or_else(|| find(view.attrs, ACTION));
        let mut key = Vec::new();
        if let Some(id) = id {
            id.write(&mut Writer::new(&mut key));
        }
        let action = Action {
            event,
            place,
            id,
            stage,
            said: said(&event.attributes),
        };
        if actions
            .get(&key)
            .is_none_or(|before| before.weight() < action.weight())
        {
            actions.insert(key, action);
        }
    }
    actions.into_values().collect()
}

/// The decision of a guardrail or policy span, or of one that carries a verdict.
///
/// What the sender says counts; a word that is not known leaves the decision pending, and the reason names it.
/// A guardrail that says nothing denied what failed, else its decision is pending too. Of several actions of
/// the agent-audit proposal the one that was judged most strictly counts.
pub(crate) fn decision(view: &View<'_, '_>, role: Role, name: &str, failed: bool) -> Option<PolicyDecision> {
    let actions = actions(view);
    if !actions.is_empty() {
        let several = actions.len() > 1;
        let (action, (decision, note)) = actions
            .into_iter()
            .map(|mut action| {
                let said = std::mem::replace(&mut action.said, Said::Nothing);
                let judged = judged(said, action.stage, failed);
                (action, judged)
            })
            .max_by_key(|(action, (decision, _))| (strictness(decision), action.place))?;
        let id = action.id.filter(|_| several).and_then(word);
        let about = id
            .as_deref()
            .and_then(identifier)
            .map(|id| format!("action {id}"));
        // What the span says of itself is no less a verdict.
        let own = said(view.attrs);
        if !matches!(own, Said::Nothing) {
            let (own, note) = judged(own, Stage::Span, failed);
            if strictness(own) > strictness(decision) {
                return Some(section("action", view.attrs, own, [None, note]));
            }
        }
        let attrs = action.event.attributes.as_slice();
        return Some(section("action", attrs, decision, [about, note]));
    }
    let policy = role == Role::Policy;
    if !policy && !view.found.security {
        return None;
    }
    let said = said(view.attrs);
    // A model call that names a risk or a policy and no verdict decided nothing.
    if !policy && !failed && matches!(said, Said::Nothing) {
        return None;
    }
    let operation = find(view.attrs, "gen_ai.operation.name")
        .and_then(Any::text)
        .unwrap_or(name);
    let policy_type =
        if operation.starts_with("execute_authorization") || name.starts_with("execute_authorization") {
            "authorization"
        } else {
            "guardrail"
        };
    let (decision, note) = judged(said, Stage::Span, failed);
    Some(section(policy_type, view.attrs, decision, [None, note]))
}

/// The section. The reason is what the sender gives, behind what is to be said before it.
fn section(
    policy_type: &str,
    attrs: &[Attr<'_>],
    decision: &str,
    before: [Option<String>; 2],
) -> PolicyDecision {
    let reason: Vec<String> = before
        .into_iter()
        .chain([first(attrs, &REASON)])
        .flatten()
        .collect();
    PolicyDecision {
        policy_type: policy_type.to_owned(),
        policy_rule_id: first(attrs, &RULE),
        policy_version: first(attrs, &VERSION),
        decision: decision.to_owned(),
        decision_reason: (!reason.is_empty()).then(|| reason.join(": ")),
    }
}
