//! OpenInference, the other vocabulary in wide use.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span, span::SpanKind};

use super::genai::{double, finished, int, resource_spans, text};
use super::run::{Run, Step, What};

pub(super) fn spans(run: &Run) -> ResourceSpans {
    let spans = run.steps.iter().map(|step| span(run, step)).collect();
    resource_spans(run, "openinference.instrumentation.langchain", "0.1.66", spans)
}

fn span(run: &Run, step: &Step) -> Span {
    let (name, mut attributes) = match &step.what {
        What::Agent { name, input, output } => {
            let mut attributes = vec![
                text("openinference.span.kind", "AGENT"),
                text("agent.name", *name),
                text("input.value", &**input),
                text("user.id", &*run.user),
            ];
            attributes.extend(output.as_deref().map(|output| text("output.value", output)));
            ((*name).to_owned(), attributes)
        }
        What::Chat(chat) => {
            let model = chat.model;
            let mut attributes = vec![
                text("openinference.span.kind", "LLM"),
                text("llm.provider", model.provider),
                text("llm.model_name", model.name),
                text(
                    "llm.invocation_parameters",
                    r#"{"temperature":0.2,"max_tokens":4096}"#,
                ),
                text("llm.input_messages.0.message.role", "system"),
                text("llm.input_messages.0.message.content", chat.system),
                text("llm.input_messages.1.message.role", "user"),
                text("llm.input_messages.1.message.content", &*chat.input),
            ];
            if let Some(output) = &chat.output {
                attributes.extend([
                    text("llm.output_messages.0.message.role", "assistant"),
                    text("llm.output_messages.0.message.content", &**output),
                    text("llm.finish_reason", chat.finish),
                    int("llm.token_count.prompt", chat.input_tokens),
                    int("llm.token_count.completion", chat.output_tokens),
                    int("llm.token_count.total", chat.input_tokens + chat.output_tokens),
                    int("llm.token_count.prompt_details.cache_read", chat.cached_tokens),
                    int(
                        "llm.token_count.completion_details.reasoning",
                        chat.reasoning_tokens,
                    ),
                    double("llm.cost.total", chat.cost()),
                ]);
            }
            ("ChatModel".to_owned(), attributes)
        }
        What::Embeddings { text: input, tokens } => (
            "Embeddings".to_owned(),
            vec![
                text("openinference.span.kind", "EMBEDDING"),
                text("llm.provider", "openai"),
                text("embedding.model_name", "text-embedding-3-small"),
                text("embedding.embeddings.0.embedding.text", &**input),
                int("llm.token_count.prompt", *tokens),
            ],
        ),
        What::Tool {
            name,
            call_id,
            arguments,
            result,
        } => {
            let mut attributes = vec![
                text("openinference.span.kind", "TOOL"),
                text("tool.name", *name),
                text("tool.id", &**call_id),
                text("input.value", &**arguments),
                text("input.mime_type", "application/json"),
            ];
            attributes.extend(result.as_deref().map(|result| text("output.value", result)));
            ((*name).to_owned(), attributes)
        }
        What::Guardrail {
            rule,
            decision,
            reason,
        } => (
            (*rule).to_owned(),
            vec![
                text("openinference.span.kind", "GUARDRAIL"),
                text("guardrail.decision", *decision),
                text("guardrail.reason", &**reason),
                text("gen_ai.security.policy.rule.id", *rule),
            ],
        ),
    };
    attributes.push(session(run));
    finished(run, step, name, SpanKind::Internal, attributes)
}

fn session(run: &Run) -> KeyValue {
    text("session.id", &*run.session)
}
