//! The names of attributes in every vocabulary in use, each with what it says.
//!
//! One line a name: where several say the same, the lowest rank counts and the others are kept as they are.
//! Source: docs/otel-mapping.md, "Mapping table".

use super::super::any::{Any, Attr};
use super::super::ordered::Ordered;

macro_rules! slots {
    ($($name:ident)*) => {
        /// What an attribute says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Slot { $($name),* }
        const SLOTS: usize = [$(Slot::$name),*].len();
    };
}

slots! {
    Operation InferenceKind LoopKind RequestType
    Provider RequestModel EitherModel ResponseModel ResponseId
    InputTokens OutputTokens TotalTokens CacheRead CacheWrite Reasoning Cost PromptCost CompletionCost Currency
    AgentId AgentName EntityName ToolName ToolArguments ToolParameters ToolResult EntityInput EntityOutput
    InputValue OutputValue InputMessages OutputMessages Instructions Prompt Completion
    FinishReasons Conversation RunId ErrorType RetrievalQuery RetrievalDocuments
    Marker
}

/// The vocabularies, as bits: a span may mix them.
pub(crate) mod dialect {
    /// Names of every generation of OTel GenAI.
    pub(crate) const OTEL: u8 = 1;
    /// Names that came with 1.37.
    pub(crate) const CURRENT: u8 = 1 << 1;
    /// Names that went with 1.37.
    pub(crate) const OLD: u8 = 1 << 2;
    /// Names that are not released yet.
    pub(crate) const NEXT: u8 = 1 << 3;
    /// OpenInference.
    pub(crate) const INFERENCE: u8 = 1 << 4;
    /// OpenLLMetry.
    pub(crate) const LOOP: u8 = 1 << 5;
    /// Names that tell nothing about the vocabulary.
    pub(crate) const NONE: u8 = 0;
}
use dialect::{CURRENT, INFERENCE, LOOP, NEXT, NONE, OLD, OTEL};

/// Name, meaning, rank, vocabulary; in order of names.
static NAMES: &[(&str, Slot, u8, u8)] = &[
    ("agent.name", Slot::AgentName, 1, INFERENCE),
    ("deponent.run.id", Slot::RunId, 0, NONE),
    ("embedding.model_name", Slot::EitherModel, 1, INFERENCE),
    ("error.type", Slot::ErrorType, 0, NONE),
    ("gen_ai.agent.id", Slot::AgentId, 0, OTEL),
    ("gen_ai.agent.name", Slot::AgentName, 0, OTEL),
    ("gen_ai.completion", Slot::Completion, 0, OLD),
    ("gen_ai.conversation.id", Slot::Conversation, 0, OTEL),
    ("gen_ai.input.messages", Slot::InputMessages, 0, CURRENT),
    ("gen_ai.operation.name", Slot::Operation, 0, OTEL),
    ("gen_ai.output.messages", Slot::OutputMessages, 0, CURRENT),
    ("gen_ai.prompt", Slot::Prompt, 0, OLD),
    ("gen_ai.provider.name", Slot::Provider, 0, CURRENT),
    ("gen_ai.request.model", Slot::RequestModel, 0, OTEL),
    ("gen_ai.response.finish_reason", Slot::FinishReasons, 2, LOOP),
    ("gen_ai.response.finish_reasons", Slot::FinishReasons, 0, OTEL),
    ("gen_ai.response.id", Slot::ResponseId, 0, OTEL),
    ("gen_ai.response.model", Slot::ResponseModel, 0, OTEL),
    ("gen_ai.response.stop_reason", Slot::FinishReasons, 3, LOOP),
    ("gen_ai.retrieval.documents", Slot::RetrievalDocuments, 0, OTEL),
    ("gen_ai.retrieval.query.text", Slot::RetrievalQuery, 0, OTEL),
    ("gen_ai.system", Slot::Provider, 1, OLD),
    ("gen_ai.system_instructions", Slot::Instructions, 0, CURRENT),
    ("gen_ai.tool.call.arguments", Slot::ToolArguments, 0, OTEL),
    ("gen_ai.tool.call.result", Slot::ToolResult, 0, OTEL),
    ("gen_ai.tool.name", Slot::ToolName, 0, OTEL),
    (
        "gen_ai.usage.cache_creation.input_tokens",
        Slot::CacheWrite,
        0,
        OTEL,
    ),
    (
        "gen_ai.usage.cache_creation_input_tokens",
        Slot::CacheWrite,
        3,
        LOOP,
    ),
    ("gen_ai.usage.cache_read.input_tokens", Slot::CacheRead, 0, OTEL),
    ("gen_ai.usage.cache_read_input_tokens", Slot::CacheRead, 2, LOOP),
    ("gen_ai.usage.cache_write.input_tokens", Slot::CacheWrite, 1, NEXT),
    ("gen_ai.usage.completion_tokens", Slot::OutputTokens, 1, OLD),
    ("gen_ai.usage.cost", Slot::Cost, 1, OTEL),
    ("gen_ai.usage.cost.amount", Slot::Cost, 0, OTEL),
    ("gen_ai.usage.cost.currency", Slot::Currency, 0, OTEL),
    ("gen_ai.usage.input_tokens", Slot::InputTokens, 0, OTEL),
    ("gen_ai.usage.output_tokens", Slot::OutputTokens, 0, OTEL),
    ("gen_ai.usage.prompt_tokens", Slot::InputTokens, 1, OLD),
    ("gen_ai.usage.reasoning.output_tokens", Slot::Reasoning, 0, OTEL),
    ("gen_ai.usage.reasoning_tokens", Slot::Reasoning, 2, LOOP),
    ("gen_ai.usage.total_tokens", Slot::TotalTokens, 1, NONE),
    ("gen_ai.workflow.name", Slot::Marker, 0, OTEL),
    ("input.value", Slot::InputValue, 0, INFERENCE),
    ("llm.cost.completion", Slot::CompletionCost, 0, INFERENCE),
    ("llm.cost.prompt", Slot::PromptCost, 0, INFERENCE),
    ("llm.cost.total", Slot::Cost, 2, INFERENCE),
    ("llm.finish_reason", Slot::FinishReasons, 1, INFERENCE),
    ("llm.model_name", Slot::EitherModel, 0, INFERENCE),
    ("llm.provider", Slot::Provider, 2, INFERENCE),
    ("llm.request.model", Slot::RequestModel, 2, LOOP),
    ("llm.request.model_name", Slot::RequestModel, 1, INFERENCE),
    ("llm.request.type", Slot::RequestType, 0, LOOP),
    ("llm.response.finish_reason", Slot::FinishReasons, 4, LOOP),
    ("llm.response.model", Slot::ResponseModel, 2, LOOP),
    ("llm.response.model_name", Slot::ResponseModel, 1, INFERENCE),
    ("llm.response.stop_reason", Slot::FinishReasons, 5, LOOP),
    ("llm.system", Slot::Provider, 3, INFERENCE),
    ("llm.token_count.completion", Slot::OutputTokens, 2, INFERENCE),
    (
        "llm.token_count.completion_details.reasoning",
        Slot::Reasoning,
        1,
        INFERENCE,
    ),
    ("llm.token_count.prompt", Slot::InputTokens, 2, INFERENCE),
    (
        "llm.token_count.prompt_details.cache_read",
        Slot::CacheRead,
        1,
        INFERENCE,
    ),
    (
        "llm.token_count.prompt_details.cache_write",
        Slot::CacheWrite,
        2,
        INFERENCE,
    ),
    ("llm.token_count.total", Slot::TotalTokens, 0, INFERENCE),
    ("llm.usage.completion_tokens", Slot::OutputTokens, 3, LOOP),
    ("llm.usage.prompt_tokens", Slot::InputTokens, 3, LOOP),
    ("llm.usage.reasoning_tokens", Slot::Reasoning, 3, LOOP),
    ("llm.usage.total_tokens", Slot::TotalTokens, 2, LOOP),
    ("mcp.request.argument", Slot::ToolArguments, 2, LOOP),
    ("mcp.response.value", Slot::ToolResult, 1, LOOP),
    ("openinference.span.kind", Slot::InferenceKind, 0, INFERENCE),
    ("output.value", Slot::OutputValue, 0, INFERENCE),
    ("reranker.model_name", Slot::EitherModel, 2, INFERENCE),
    ("session.id", Slot::Conversation, 1, NONE),
    ("tool.name", Slot::ToolName, 1, INFERENCE),
    ("tool.parameters", Slot::ToolParameters, 0, INFERENCE),
    ("tool_call.function.arguments", Slot::ToolArguments, 1, INFERENCE),
    (
        "traceloop.association.properties.conversation_id",
        Slot::Conversation,
        2,
        LOOP,
    ),
    (
        "traceloop.association.properties.session_id",
        Slot::Conversation,
        3,
        LOOP,
    ),
    (
        "traceloop.association.properties.thread_id",
        Slot::Conversation,
        4,
        LOOP,
    ),
    ("traceloop.entity.input", Slot::EntityInput, 0, LOOP),
    ("traceloop.entity.name", Slot::EntityName, 0, LOOP),
    ("traceloop.entity.output", Slot::EntityOutput, 0, LOOP),
    ("traceloop.entity.path", Slot::Marker, 0, LOOP),
    ("traceloop.span.kind", Slot::LoopKind, 0, LOOP),
    ("traceloop.workflow.name", Slot::Marker, 0, LOOP),
];

/// Lists and maps that a vocabulary flattens into attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flat {
    InputMessages,
    OutputMessages,
    Prompt,
    Completion,
    Documents,
    Embeddings,
}

/// Prefix, what it flattens, vocabulary.
static FLAT: &[(&str, Flat, u8)] = &[
    ("embedding.embeddings.", Flat::Embeddings, INFERENCE),
    ("gen_ai.completion.", Flat::Completion, LOOP),
    ("gen_ai.prompt.", Flat::Prompt, LOOP),
    ("llm.input_messages.", Flat::InputMessages, INFERENCE),
    ("llm.output_messages.", Flat::OutputMessages, INFERENCE),
    ("retrieval.documents.", Flat::Documents, INFERENCE),
];

/// What the attributes of one span say: for each meaning the place of the attribute that says it.
#[derive(Debug)]
pub(crate) struct Found {
    slots: [Option<(usize, u8)>; SLOTS],
    flat: Vec<(Flat, &'static str, usize)>,
    /// The vocabularies met, see [`dialect`].
    pub(crate) dialects: u8,
    /// Whether an attribute is about a policy (`gen_ai.security.*`).
    pub(crate) security: bool,
}

impl Found {
    pub(crate) const fn new() -> Self {
        Self {
            slots: [None; SLOTS],
            flat: Vec::new(),
            dialects: 0,
            security: false,
        }
    }

    /// Looks up all attributes.
    pub(crate) fn read(&mut self, attrs: &[Attr<'_>], ordered: &Ordered) {
        self.slots = [None; SLOTS];
        self.flat.clear();
        self.dialects = 0;
        self.security = false;
        for place in ordered.places() {
            let Some(attr) = attrs.get(place) else { continue };
            match NAMES.binary_search_by(|(name, ..)| (*name).cmp(attr.key)) {
                Ok(at) => {
                    let (_, slot, rank, dialect) = NAMES[at];
                    self.dialects |= dialect;
                    let slot = &mut self.slots[slot as usize];
                    if slot.is_none_or(|(_, before)| rank < before) {
                        *slot = Some((place, rank));
                    }
                }
                Err(_) => self.read_prefix(attr.key, place),
            }
        }
    }

    fn read_prefix(&mut self, key: &str, place: usize) {
        for &(prefix, flat, dialect) in FLAT {
            let rest = key.strip_prefix(prefix);
            if rest.is_some_and(|rest| rest.as_bytes().first().is_some_and(u8::is_ascii_digit)) {
                self.dialects |= dialect;
                self.flat.push((flat, prefix, place));
                return;
            }
        }
        if let Some(rest) = key.strip_prefix("gen_ai.") {
            self.dialects |= OTEL;
            self.security |= rest.starts_with("security.");
        } else if key.starts_with("traceloop.") {
            self.dialects |= LOOP;
        } else if key.starts_with("openinference.")
            || key.starts_with("llm.token_count.")
            || key.starts_with("llm.cost.")
        {
            self.dialects |= INFERENCE;
        }
    }

    /// The place of the attribute with that meaning.
    pub(crate) fn place(&self, slot: Slot) -> Option<usize> {
        self.slots[slot as usize].map(|(place, _)| place)
    }

    /// The flattened attributes of that kind, in order of keys: place, and key behind the prefix.
    pub(crate) fn flat<'f, 'a>(
        &'f self,
        flat: Flat,
        attrs: &'f [Attr<'a>],
    ) -> impl Iterator<Item = (usize, &'a str, Any<'a>)> + use<'f, 'a> {
        let of_kind = self.flat.iter().filter(move |(found, ..)| *found == flat);
        of_kind.filter_map(move |&(_, prefix, place)| {
            let attr = attrs.get(place)?;
            Some((place, attr.key.strip_prefix(prefix)?, attr.value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_order_and_no_two_of_one_meaning_have_one_rank() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        for (i, a) in NAMES.iter().enumerate().filter(|(_, a)| a.1 != Slot::Marker) {
            assert!(!NAMES[..i].iter().any(|b| b.1 == a.1 && b.2 == a.2), "{}", a.0);
        }
    }
}
