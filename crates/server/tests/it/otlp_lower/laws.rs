//! Laws: lowering never panics, never loses count, and encoders do not matter.

use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use server::otlp::{LogsRequest, MetricsRequest, lower_logs, lower_metrics};

use super::*;

/// Names that mean something, so that arbitrary values meet every mapping.
const KEYS: &[&str] = &[
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.name",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.cost",
    "gen_ai.response.finish_reasons",
    "openinference.span.kind",
    "llm.model_name",
    "llm.input_messages.0.message.role",
    "llm.input_messages.1.message.content",
    "llm.input_messages.0.message.tool_calls.0.tool_call.function.name",
    "llm.output_messages.0.message.contents.0.message_content.text",
    "traceloop.span.kind",
    "traceloop.entity.name",
    "traceloop.entity.input",
    "gen_ai.prompt.0.content",
    "gen_ai.completion.0.role",
    "input.value",
    "output.value",
    "retrieval.documents.0.document.metadata",
    "embedding.embeddings.0.embedding.text",
    "error.type",
    "session.id",
    "deponent.run.id",
    "agent.name",
    "gen_ai.security.verdict.type",
    "tool.parameters",
    "llm.cost.total",
    "llm.cost.prompt",
    "llm.cost.completion",
    "deponent.scope",
    "deponent.duplicate_attributes",
    "content",
    "message",
    "gen_ai.event.content",
    "tool_calls",
];
const WORDS: &[&str] = &[
    "chat",
    "execute_tool",
    "invoke_agent",
    "embeddings",
    "retrieval",
    "LLM",
    "TOOL",
    "GUARDRAIL",
    "EMBEDDING",
    "agent",
    "tool",
    "user",
    "[]",
    "{}",
    "null",
    "1e999",
    r#"[{"role":"user","parts":[{"type":"text","content":"x"}]}]"#,
    r#"[{"role":"tool","content":[{"text":"1"}]}]"#,
    r#"{"messages":[{"content":"x"}]}"#,
    r#"[null,1,"x",[]]"#,
    r#"[{"function":{"name":1,"arguments":"[1"}}]"#,
    r#"{"message":{"message":{}},"finish_reason":1}"#,
    r#"[{"parts":[null,{"type":"tool_call"},{"type":"blob","id":1,"x":{}}]}]"#,
];
const EVENTS: &[&str] = &[
    "gen_ai.user.message",
    "gen_ai.tool.message",
    "gen_ai.choice",
    "gen_ai.content.prompt",
    "exception",
    "gen_ai.client.inference.operation.details",
    "agent_audit.decided",
    "other",
];

fn value() -> impl Strategy<Value = V> {
    let leaf = prop_oneof![
        proptest::sample::select(WORDS).prop_map(text),
        any::<String>().prop_map(V::StringValue),
        any::<bool>().prop_map(V::BoolValue),
        any::<i64>().prop_map(V::IntValue),
        any::<f64>().prop_map(V::DoubleValue),
        proptest::collection::vec(any::<u8>(), 0..6).prop_map(V::BytesValue),
        Just(V::StringValueStrindex(3)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(list),
            proptest::collection::vec((key(), inner), 0..4).prop_map(|members| V::KvlistValue(
                KeyValueList {
                    values: members.into_iter().map(|(key, value)| kv(&key, value)).collect()
                }
            )),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => proptest::sample::select(KEYS).prop_map(str::to_owned), 1 => any::<String>()]
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    proptest::collection::vec((key(), value()).prop_map(|(key, value)| kv(&key, value)), 0..12)
}

fn any_span() -> impl Strategy<Value = Span> {
    let events = proptest::collection::vec(
        (proptest::sample::select(EVENTS), attributes())
            .prop_map(|(name, attributes)| event(name, attributes)),
        0..4,
    );
    let time = || prop_oneof![any::<u64>(), START..START + SECOND, Just(0), 0..1_000_000_u64];
    (
        any::<u8>(),
        any::<String>(),
        attributes(),
        events,
        any::<i32>(),
        any::<i32>(),
        time(),
        time(),
    )
        .prop_map(|(n, name, attributes, events, kind, code, start, end)| Span {
            kind,
            events,
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            status: Some(Status {
                code,
                message: name.clone(),
            }),
            ..span(n, &name, attributes)
        })
}

proptest! {
    #[test]
    fn every_span_is_lowered_or_rejected_and_its_facts_are_those_of_its_body(
        spans in proptest::collection::vec(any_span(), 1..6)
    ) {
        let count = spans.len();
        let lowered = lower(&request(spans));
        prop_assert_eq!(steps(&lowered).len() as u64 + lowered.rejected.count, count as u64);
    }

    #[test]
    fn content_is_that_of_the_generated_encoder_whoever_encoded(
        sent in any_span(), shuffle in any::<u64>(), unknown in any::<bool>()
    ) {
        let bytes = sent.encode_to_vec();
        let mut fields = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let before = rest;
            let (number, wire) = prost::encoding::decode_key(&mut rest).unwrap();
            prost::encoding::skip_field(wire, number, &mut rest, prost::encoding::DecodeContext::default()).unwrap();
            fields.push((number, before[..before.len() - rest.len()].to_vec()));
        }
        // Another encoder: other order of fields, a field that nobody knows, defaults written.
        fields.sort_by_key(|(number, _)| (u64::from(*number).wrapping_mul(shuffle | 1)) >> 7);
        let mut other: Vec<u8> = fields.into_iter().flat_map(|(_, bytes)| bytes).collect();
        if unknown {
            other.extend_from_slice(&[0xf8, 0x07, 1, 0x50, 0]);
        }
        let content = |span: &[u8]| {
            let mut scope = vec![0x12];
            prost::encoding::encode_varint(span.len() as u64, &mut scope);
            scope.extend_from_slice(span);
            let mut resource = vec![0x12];
            prost::encoding::encode_varint(scope.len() as u64, &mut resource);
            resource.extend_from_slice(&scope);
            let mut body = vec![0x0a];
            prost::encoding::encode_varint(resource.len() as u64, &mut body);
            body.extend_from_slice(&resource);
            let lowered = lower_bytes(&body, Encoding::Protobuf);
            steps(&lowered).first().and_then(|draft| draft.content)
        };
        let expected = content(&bytes);
        if expected.is_some() {
            prop_assert_eq!(expected, Some(evidence::sha256(&bytes)));
        }
        prop_assert_eq!(content(&other), expected);
        let json = serde_json::to_string(&request(vec![sent])).unwrap();
        // The generated JSON writer has no form for doubles that JSON has not, and none for references.
        if !json.contains("doubleValue\":null") && !json.contains("Strindex") {
            let json = lower_bytes(json.as_bytes(), Encoding::Json);
            prop_assert_eq!(steps(&json).first().and_then(|draft| draft.content), expected, "{:?}", json.rejected);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_lowered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            if let Ok(request) = TraceRequest::decode(&bytes, encoding) {
                lower_traces(&request, now(), &mut Salts::default()).drafts.iter().for_each(check);
            }
            if let Ok(request) = LogsRequest::decode(&bytes, encoding) {
                lower_logs(&request, now(), &mut Salts::default()).drafts.iter().for_each(check);
            }
            if let Ok(request) = MetricsRequest::decode(&bytes, encoding) {
                lower_metrics(&request, now(), &mut Salts::default()).drafts.iter().for_each(check);
            }
        }
    }

    #[test]
    fn damaged_requests_are_refused_or_lowered(span in any_span(), at in any::<usize>(), bit in 0..8_u32) {
        let mut bytes = request(vec![span]).encode_to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1_u8 << bit;
        if let Ok(request) = TraceRequest::decode(&bytes, Encoding::Protobuf) {
            lower_traces(&request, now(), &mut Salts::default()).drafts.iter().for_each(check);
        }
    }
}
