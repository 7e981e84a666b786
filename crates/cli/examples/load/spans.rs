//! Spans of agent runs in the shape that the figures are given for: about 1.1 KiB a span, ten a trace, the
//! root `invoke_agent` first, then `chat` and `execute_tool` in turn, three in a hundred failed.
//!
//! A million of them are over a gigabyte. So some hundred requests are encoded once ([`Body::encode`]) and
//! sent again and again with other ids and times written into them ([`Body::renew`]), which costs a few
//! dozen bytes a span and no encoding.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode,
};
use prost::Message;
use serde_json::json;

use crate::ids::{Random, hex, now_nanos};

/// Spans of a trace, the root included.
pub(crate) const TRACE_SPANS: usize = 10;

const MODELS: [(&str, &str, &str); 4] = [
    ("openai", "gpt-4o", "gpt-4o-2024-08-06"),
    ("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    ("anthropic", "claude-sonnet-4", "claude-sonnet-4-20250514"),
    ("gcp.gemini", "gemini-2.5-pro", "gemini-2.5-pro-001"),
];
const TOOLS: [&str; 6] = [
    "search_documents",
    "get_order",
    "issue_refund",
    "send_email",
    "run_sql",
    "read_file",
];
const AGENTS: [&str; 4] = ["support-agent", "billing-agent", "research-agent", "ops-agent"];
const ERRORS: [&str; 4] = [
    "timeout",
    "rate_limit_exceeded",
    "ToolExecutionError",
    "policy_denied",
];
const WORDS: &str = "the order was shipped on Monday and the customer asked for a refund because the package \
    arrived damaged please check the policy before you approve any amount over two hundred euros then write a \
    short summary for the ticket and attach the evidence that supports the decision including the tool results";

/// Makes traces.
#[derive(Debug)]
pub(crate) struct Factory {
    random: Random,
    base_nanos: u64,
    traces: u64,
    inputs: Vec<String>,
    outputs: Vec<String>,
    tool_texts: Vec<String>,
}

impl Factory {
    pub(crate) fn new(mut random: Random) -> Self {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let mut pool = |least, most| -> Vec<String> {
            let mut text = || {
                let length = random.between(least, most);
                let mut text = String::new();
                while text.len() < length {
                    text.push_str(words[random.below(words.len())]);
                    text.push(' ');
                }
                text.truncate(length);
                text
            };
            (0..512).map(|_| text()).collect()
        };
        let (inputs, outputs, tool_texts) = (pool(230, 520), pool(230, 520), pool(80, 200));
        let base_nanos = now_nanos() - 3_600_000_000_000;
        Self {
            random,
            base_nanos,
            traces: 0,
            inputs,
            outputs,
            tool_texts,
        }
    }

    fn trace(&mut self, into: &mut Vec<Span>) {
        let trace_id: [u8; 16] = self.random.bytes();
        let root_id: [u8; 8] = self.random.bytes();
        let (session, run) = (session_of(&trace_id), run_of(&trace_id));
        let common = || {
            vec![
                text("session.id", &session),
                text("gen_ai.conversation.id", &session),
                text("run.id", &run),
                text("tenant.id", "acme"),
            ]
        };
        let agent = *self.random.pick(&AGENTS);
        let (provider, model, served) = *self.random.pick(&MODELS);
        let start = self.base_nanos + self.traces * 1_000_000 + self.random.below(1_000_000) as u64;
        self.traces += 1;
        let root_at = into.len();
        into.push(Span::default());
        let mut total = 0;
        for step in 0..TRACE_SPANS - 1 {
            let random = &mut self.random;
            let begun = start + total + 1_000;
            total += random.between(2_000_000, 900_000_000) as u64;
            let failed = random.below(100) < 3;
            let mut attributes = common();
            let (name, kind) = if step % 2 == 0 {
                let input = json!([{"role": "user", "parts": [{"type": "text", "content": random.pick(&self.inputs)}]}]);
                let output = json!([{"role": "assistant", "finish_reason": "stop",
                    "parts": [{"type": "text", "content": random.pick(&self.outputs)}]}]);
                attributes.extend([
                    text("gen_ai.operation.name", "chat"),
                    text("gen_ai.provider.name", provider),
                    text("gen_ai.request.model", model),
                    text("gen_ai.response.model", served),
                    text(
                        "gen_ai.response.id",
                        &format!("chatcmpl-{}", hex(&random.bytes::<12>())),
                    ),
                    attribute(
                        "gen_ai.response.finish_reasons",
                        Value::ArrayValue(ArrayValue {
                            values: vec![AnyValue {
                                value: Some(Value::StringValue("stop".into())),
                            }],
                        }),
                    ),
                    attribute("gen_ai.request.temperature", Value::DoubleValue(0.2)),
                    attribute("gen_ai.request.max_tokens", Value::IntValue(1_024)),
                    attribute(
                        "gen_ai.usage.input_tokens",
                        Value::IntValue(random.between(200, 4_000) as i64),
                    ),
                    attribute(
                        "gen_ai.usage.output_tokens",
                        Value::IntValue(random.between(20, 900) as i64),
                    ),
                    text("gen_ai.input.messages", &input.to_string()),
                    text("gen_ai.output.messages", &output.to_string()),
                ]);
                (format!("chat {model}"), SpanKind::Client)
            } else {
                let tool = *random.pick(&TOOLS);
                let arguments = json!({"query": random.pick(&self.tool_texts), "limit": 10});
                let result = json!({"ok": !failed, "text": random.pick(&self.tool_texts)});
                attributes.extend([
                    text("gen_ai.operation.name", "execute_tool"),
                    text("gen_ai.tool.name", tool),
                    text("gen_ai.tool.type", "function"),
                    text(
                        "gen_ai.tool.call.id",
                        &format!("call_{}", hex(&random.bytes::<12>())),
                    ),
                    text("gen_ai.tool.call.arguments", &arguments.to_string()),
                    text("gen_ai.tool.call.result", &result.to_string()),
                ]);
                (format!("execute_tool {tool}"), SpanKind::Internal)
            };
            let status = if failed {
                let error = *random.pick(&ERRORS);
                attributes.push(text("error.type", error));
                Status {
                    code: StatusCode::Error.into(),
                    message: error.into(),
                }
            } else {
                Status {
                    code: StatusCode::Ok.into(),
                    message: String::new(),
                }
            };
            into.push(Span {
                trace_id: trace_id.to_vec(),
                span_id: random.bytes::<8>().to_vec(),
                parent_span_id: root_id.to_vec(),
                name,
                kind: kind.into(),
                start_time_unix_nano: begun,
                end_time_unix_nano: start + total,
                attributes,
                status: Some(status),
                ..Span::default()
            });
        }
        let mut attributes = common();
        attributes.extend([
            text("gen_ai.operation.name", "invoke_agent"),
            text("gen_ai.provider.name", provider),
            text("gen_ai.agent.name", agent),
            text("gen_ai.agent.id", &format!("asst_{agent}")),
            text("gen_ai.request.model", model),
            text("user.id", &format!("user-{:04}", self.random.below(5_000))),
        ]);
        into[root_at] = Span {
            trace_id: trace_id.to_vec(),
            span_id: root_id.to_vec(),
            name: format!("invoke_agent {agent}"),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: start + total + 5_000,
            attributes,
            status: Some(Status {
                code: StatusCode::Ok.into(),
                message: String::new(),
            }),
            ..Span::default()
        };
    }

    /// One request of so many spans.
    pub(crate) fn request(&mut self, spans: usize) -> ExportTraceServiceRequest {
        let mut all = Vec::with_capacity(spans + TRACE_SPANS);
        while all.len() < spans {
            self.trace(&mut all);
        }
        all.truncate(spans);
        let attributes = vec![
            text("service.name", "bench-agents"),
            text("service.version", "1.4.2"),
            text("service.instance.id", "inst-0"),
            text("deployment.environment.name", "bench"),
            text("telemetry.sdk.language", "python"),
            text("telemetry.sdk.name", "opentelemetry"),
            text("telemetry.sdk.version", "1.38.0"),
        ];
        let scope = InstrumentationScope {
            name: "bench.genai".into(),
            version: "1.0".into(),
            ..Default::default()
        };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes,
                    ..Resource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans: all,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        }
    }
}

fn session_of(trace_id: &[u8]) -> String {
    format!("sess_{}", hex(&trace_id[..8]))
}

fn run_of(trace_id: &[u8]) -> String {
    format!("run_{}", hex(trace_id))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// An encoded request whose ids and times can be made new in place.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) spans: usize,
    /// Where 8 bytes of a trace id's first half, or of a span's or parent's id stand.
    ids: Vec<usize>,
    /// Where a fixed64 time stands.
    times: Vec<usize>,
    /// Where the hex of a trace id's first bytes stands, how many of them, and where that trace id stands.
    hexes: Vec<(usize, usize, usize)>,
}

impl Body {
    pub(crate) fn encode(request: &ExportTraceServiceRequest) -> Self {
        let bytes = request.encode_to_vec();
        let mut body = Self {
            bytes: Vec::new(),
            spans: 0,
            ids: Vec::new(),
            times: Vec::new(),
            hexes: Vec::new(),
        };
        for resource in fields(&bytes, 0..bytes.len()).filter(|field| field.number == 1) {
            for scope in fields(&bytes, resource.range).filter(|field| field.number == 2) {
                for span in fields(&bytes, scope.range).filter(|field| field.number == 2) {
                    body.span(&bytes, span.range);
                }
            }
        }
        body.bytes = bytes;
        body
    }

    fn span(&mut self, bytes: &[u8], range: std::ops::Range<usize>) {
        self.spans += 1;
        let mut trace_at = 0;
        for field in fields(bytes, range) {
            match field.number {
                1 => {
                    trace_at = field.range.start;
                    self.ids.push(trace_at);
                }
                2 | 4 => self.ids.push(field.range.start),
                7 | 8 => self.times.push(field.range.start),
                9 => {
                    let inside = &bytes[field.range.clone()];
                    for (mark, count) in [(&b"sess_"[..], 8), (b"run_", 16)] {
                        if let Some(at) = inside.windows(mark.len()).position(|part| part == mark) {
                            let at = field.range.start + at + mark.len();
                            // Other texts may hold the mark too: a tool is called run_sql.
                            if bytes[at..].starts_with(hex(&bytes[trace_at..trace_at + count]).as_bytes()) {
                                self.hexes.push((at, count, trace_at));
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Other ids, and times so much later. Ids change by one pattern, so that children keep their parents
    /// and ids that differ go on to differ.
    pub(crate) fn renew(&mut self, random: &mut Random, later_nanos: u64) {
        let pattern = random.bytes::<8>();
        for &at in &self.ids {
            for (byte, change) in self.bytes[at..at + 8].iter_mut().zip(pattern) {
                *byte ^= change;
            }
        }
        for &at in &self.times {
            let field: &mut [u8; 8] = (&mut self.bytes[at..at + 8]).try_into().unwrap();
            *field = (u64::from_le_bytes(*field) + later_nanos).to_le_bytes();
        }
        for &(at, count, trace_at) in &self.hexes {
            for i in 0..count {
                let byte = self.bytes[trace_at + i];
                self.bytes[at + 2 * i] = b"0123456789abcdef"[usize::from(byte >> 4)];
                self.bytes[at + 2 * i + 1] = b"0123456789abcdef"[usize::from(byte & 15)];
            }
        }
    }

    /// The first trace's id in hex, which is its run's.
    pub(crate) fn run_id(&self) -> String {
        let at = self.ids[0];
        hex(&self.bytes[at..at + 16])
    }
}

struct Field {
    number: u64,
    /// Where its content stands; empty for a varint.
    range: std::ops::Range<usize>,
}

/// The fields of a protobuf message that was encoded here.
fn fields(bytes: &[u8], range: std::ops::Range<usize>) -> impl Iterator<Item = Field> + '_ {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let tag = varint(bytes, &mut at);
        let length = match tag & 7 {
            0 => {
                varint(bytes, &mut at);
                0
            }
            1 => 8,
            2 => varint(bytes, &mut at) as usize,
            5 => 4,
            other => unreachable!("wire type {other}"),
        };
        let field = Field {
            number: tag >> 3,
            range: at..at + length,
        };
        at += length;
        Some(field)
    })
}

fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            break;
        }
    }
    value
}
