//! What a span is about, and which vocabulary says so.

use super::names::{Slot, dialect};
use super::view::View;
use super::{policy, sources};

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A model was asked for an answer. Its tokens and cost count.
    Chat,
    /// A model was asked for vectors. Its tokens and cost count.
    Embeddings,
    /// Something was looked up.
    Retrieval,
    /// A tool was called.
    Tool,
    /// An agent worked; its tokens repeat those of the spans below it.
    Agent,
    /// A workflow, chain or task; likewise.
    Workflow,
    /// A guardrail or an authorization.
    Policy,
    /// Anything else.
    Other,
}

impl Role {
    /// Whether tokens and cost count for the run.
    pub(crate) const fn is_inference(self) -> bool {
        matches!(self, Self::Chat | Self::Embeddings)
    }
}

/// Operations and kinds, by vocabulary, with what they mean.
static OPERATIONS: &[(&str, Role)] = &[
    ("apply_guardrail", Role::Policy),
    ("chat", Role::Chat),
    ("create_agent", Role::Agent),
    ("embeddings", Role::Embeddings),
    ("execute_authorization", Role::Policy),
    ("execute_task", Role::Workflow),
    ("execute_tool", Role::Tool),
    ("generate_content", Role::Chat),
    ("invoke_agent", Role::Agent),
    ("invoke_workflow", Role::Workflow),
    ("llm_request", Role::Chat),
    ("plan", Role::Workflow),
    ("retrieval", Role::Retrieval),
    ("run_guardrail", Role::Policy),
    ("text_completion", Role::Chat),
    ("vector_db_retrieve", Role::Retrieval),
];
static INFERENCE_KINDS: &[(&str, Role)] = &[
    ("AGENT", Role::Agent),
    ("CHAIN", Role::Workflow),
    ("EMBEDDING", Role::Embeddings),
    ("EVALUATOR", Role::Other),
    ("GUARDRAIL", Role::Policy),
    ("LLM", Role::Chat),
    ("PROMPT", Role::Other),
    ("RERANKER", Role::Retrieval),
    ("RETRIEVER", Role::Retrieval),
    ("TOOL", Role::Tool),
];
static LOOP_KINDS: &[(&str, Role)] = &[
    ("agent", Role::Agent),
    ("task", Role::Workflow),
    ("tool", Role::Tool),
    ("workflow", Role::Workflow),
];
static REQUEST_TYPES: &[(&str, Role)] = &[
    ("chat", Role::Chat),
    ("completion", Role::Chat),
    ("embedding", Role::Embeddings),
    ("rerank", Role::Retrieval),
];

/// Span names that stand for an operation of the governance proposals, which their emitters send without one.
const POLICY_SPANS: [&str; 4] = [
    "gen_ai.run_guardrail",
    "run_guardrail",
    "apply_guardrail",
    "execute_authorization",
];

/// What a span is about.
///
/// The operation counts before the kind: a span of OpenLLMetry 0.5 has both. A span that names neither is
/// no inference, whatever model it names.
pub(crate) fn role(view: &View<'_, '_>, name: &str) -> Role {
    if POLICY_SPANS.iter().any(|prefix| name.starts_with(prefix)) {
        return Role::Policy;
    }
    let said = [
        (Slot::Operation, OPERATIONS),
        (Slot::InferenceKind, INFERENCE_KINDS),
        (Slot::LoopKind, LOOP_KINDS),
        (Slot::RequestType, REQUEST_TYPES),
    ];
    let known = said.iter().find_map(|&(slot, table)| {
        let word = view.text(slot)?;
        // OpenInference writes its kinds in capitals, some of its emitters do not.
        table
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(word))
            .map(|&(_, role)| role)
    });
    match known {
        Some(role) => role,
        None if said.iter().all(|&(slot, _)| view.text(slot).is_none())
            && view.text(Slot::ToolName).is_some() =>
        {
            Role::Tool
        }
        None => Role::Other,
    }
}

/// Operations that no released version has.
fn is_next(operation: &str) -> bool {
    operation == "plan" || operation.ends_with("_memory") || operation.ends_with("_memory_store")
}

/// The vocabulary and its version, and the version of the mapping here: stored with the record.
///
/// A mapping that gives another step for the same span is another version.
pub(crate) fn mapping(view: &View<'_, '_>) -> &'static str {
    let dialects = view.found.dialects;
    let met = |bit: u8| dialects & bit != 0;
    if met(dialect::INFERENCE) {
        "openinference/0.1;deponent/1"
    } else if met(dialect::LOOP) && met(dialect::CURRENT) {
        "openllmetry/0.5;deponent/1"
    } else if met(dialect::LOOP) {
        "openllmetry/0.4;deponent/1"
    } else if met(dialect::NEXT) || view.text(Slot::Operation).is_some_and(is_next) {
        "otel-genai/next;deponent/1"
    } else if met(dialect::CURRENT) {
        "otel-genai/1.41;deponent/1"
    } else if met(dialect::OLD) || view.events.iter().any(sources::is_old) {
        "otel-genai/pre-1.37;deponent/1"
    } else if met(dialect::OTEL) {
        "otel-genai/1.41;deponent/1"
    } else if view.events.iter().any(policy::is_audit) {
        "agent-audit/proposed;deponent/1"
    } else {
        "none;deponent/1"
    }
}
