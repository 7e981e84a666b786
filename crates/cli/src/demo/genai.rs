//! The OpenTelemetry GenAI conventions, version 1.41.

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode,
};
use serde_json::json;

use super::run::{Run, Step, What};

pub(super) fn spans(run: &Run) -> ResourceSpans {
    let spans = run.steps.iter().map(|step| span(run, step)).collect();
    resource_spans(run, "opentelemetry.instrumentation.genai", "1.3b0", spans)
}

fn span(run: &Run, step: &Step) -> Span {
    let (name, kind, mut attributes) = match &step.what {
        What::Agent { name, input, output } => (
            format!("invoke_agent {name}"),
            SpanKind::Internal,
            vec![
                text("gen_ai.operation.name", "invoke_agent"),
                text("gen_ai.agent.name", *name),
                text("gen_ai.agent.id", format!("asst_{name}")),
                text("gen_ai.agent.version", run.agent.version),
                text("gen_ai.input.messages", message("user", input, None)),
                text(
                    "gen_ai.output.messages",
                    output
                        .as_deref()
                        .map_or("[]".into(), |o| message("assistant", o, Some("stop"))),
                ),
                text("user.id", &*run.user),
            ],
        ),
        What::Chat(chat) => {
            let model = chat.model;
            let mut attributes = vec![
                text("gen_ai.operation.name", "chat"),
                text("gen_ai.provider.name", model.provider),
                text("gen_ai.request.model", model.name),
                double("gen_ai.request.temperature", 0.2),
                int("gen_ai.request.max_tokens", 4_096),
                text(
                    "gen_ai.system_instructions",
                    json!([{"type": "text", "content": chat.system}]).to_string(),
                ),
                text("gen_ai.input.messages", message("user", &chat.input, None)),
            ];
            if let Some(output) = &chat.output {
                attributes.extend([
                    text("gen_ai.response.model", model.served),
                    text("gen_ai.response.id", &*chat.response_id),
                    texts("gen_ai.response.finish_reasons", &[chat.finish]),
                    int("gen_ai.usage.input_tokens", chat.input_tokens),
                    int("gen_ai.usage.output_tokens", chat.output_tokens),
                    int("gen_ai.usage.cache_read.input_tokens", chat.cached_tokens),
                    double("gen_ai.usage.cost", chat.cost()),
                    text(
                        "gen_ai.output.messages",
                        message("assistant", output, Some(chat.finish)),
                    ),
                ]);
                if chat.reasoning_tokens > 0 {
                    attributes.push(int("gen_ai.usage.reasoning.output_tokens", chat.reasoning_tokens));
                }
            }
            (format!("chat {}", model.name), SpanKind::Client, attributes)
        }
        What::Embeddings { text: input, tokens } => (
            "embeddings text-embedding-3-small".to_owned(),
            SpanKind::Client,
            vec![
                text("gen_ai.operation.name", "embeddings"),
                text("gen_ai.provider.name", "openai"),
                text("gen_ai.request.model", "text-embedding-3-small"),
                int("gen_ai.usage.input_tokens", *tokens),
                text("gen_ai.input.messages", message("user", input, None)),
            ],
        ),
        What::Tool {
            name,
            call_id,
            arguments,
            result,
        } => {
            let mut attributes = vec![
                text("gen_ai.operation.name", "execute_tool"),
                text("gen_ai.tool.name", *name),
                text("gen_ai.tool.type", "function"),
                text("gen_ai.tool.call.id", &**call_id),
                text("gen_ai.tool.call.arguments", &**arguments),
            ];
            attributes.extend(
                result
                    .as_deref()
                    .map(|result| text("gen_ai.tool.call.result", result)),
            );
            (format!("execute_tool {name}"), SpanKind::Internal, attributes)
        }
        What::Guardrail {
            rule,
            decision,
            reason,
        } => (
            format!("run_guardrail {rule}"),
            SpanKind::Internal,
            vec![
                text("gen_ai.operation.name", "run_guardrail"),
                text("gen_ai.security.decision", *decision),
                text("gen_ai.security.verdict.reason", &**reason),
                text("gen_ai.security.policy.rule.id", *rule),
                text("gen_ai.security.policy.version", "2026-10"),
            ],
        ),
    };
    attributes.push(text("gen_ai.conversation.id", &*run.session));
    finished(run, step, name, kind, attributes)
}

/// Messages in the schema of the conventions, as the JSON text that spans carry.
fn message(role: &str, content: &str, finish: Option<&str>) -> String {
    let mut message = json!({"role": role, "parts": [{"type": "text", "content": content}]});
    if let Some(finish) = finish {
        message["finish_reason"] = finish.into();
    }
    json!([message]).to_string()
}

/// What both vocabularies share: times, ids, error.
pub(super) fn finished(
    run: &Run,
    step: &Step,
    name: String,
    kind: SpanKind,
    mut attributes: Vec<KeyValue>,
) -> Span {
    let status = match &step.error {
        Some((kind, message)) => {
            attributes.push(text("error.type", *kind));
            Status {
                code: StatusCode::Error.into(),
                message: message.clone(),
            }
        }
        None => Status {
            code: StatusCode::Ok.into(),
            message: String::new(),
        },
    };
    Span {
        trace_id: run.trace_id.to_vec(),
        span_id: step.span_id.to_vec(),
        parent_span_id: step.parent.map(|id| id.to_vec()).unwrap_or_default(),
        name,
        kind: kind.into(),
        start_time_unix_nano: step.start,
        end_time_unix_nano: step.end,
        attributes,
        status: Some(status),
        ..Span::default()
    }
}

pub(super) fn resource_spans(run: &Run, scope: &str, scope_version: &str, spans: Vec<Span>) -> ResourceSpans {
    let attributes = vec![
        text("service.name", run.agent.service),
        text("service.version", run.agent.version),
        text("service.instance.id", &*run.instance),
        text("deployment.environment.name", "production"),
        text(
            "host.name",
            format!("node-{}", run.instance.len() + run.agent.name.len()),
        ),
        text("telemetry.sdk.language", "python"),
        text("telemetry.sdk.name", "opentelemetry"),
        text("telemetry.sdk.version", "1.45.2"),
    ];
    let scope = InstrumentationScope {
        name: scope.to_owned(),
        version: scope_version.to_owned(),
        ..Default::default()
    };
    ResourceSpans {
        resource: Some(Resource {
            attributes,
            ..Default::default()
        }),
        scope_spans: vec![ScopeSpans {
            scope: Some(scope),
            spans,
            schema_url: String::new(),
        }],
        schema_url: String::new(),
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(super) fn int(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

pub(super) fn double(key: &str, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

fn texts(key: &str, values: &[&str]) -> KeyValue {
    let values = values
        .iter()
        .map(|v| AnyValue {
            value: Some(Value::StringValue((*v).to_owned())),
        })
        .collect();
    attribute(key, Value::ArrayValue(ArrayValue { values }))
}
