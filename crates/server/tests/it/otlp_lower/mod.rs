//! OTLP from bytes to drafts.
//!
//! Every lowering in these tests goes through [`lower`], which holds each draft to the laws of drafts.

mod agreement;
mod bad_input;
mod corpus;
mod dialects;
mod json;
mod laws;
mod logs;
mod metrics;
mod runs;
mod traps;

use evidence::record::Facts;
use evidence::{Actor, Header, Identity, RecordId, RunPlace, Timestamp, commitment, content_mac, hex_string};
use ledger::{Draft, Salts};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as V;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use serde_json::Value as Json;
use server::otlp::{Encoding, Lowered, TraceRequest, lower_traces};

const START: u64 = 1_763_717_000_123_456_789;
const SECOND: u64 = 1_000_000_000;

fn now() -> Timestamp {
    Timestamp::parse("2026-11-21T10:00:00Z").unwrap()
}

fn any_value(value: V) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn text(text: &str) -> V {
    V::StringValue(text.to_owned())
}

fn kv(key: &str, value: V) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(any_value(value)),
        ..KeyValue::default()
    }
}

fn list(values: impl IntoIterator<Item = V>) -> V {
    V::ArrayValue(ArrayValue {
        values: values.into_iter().map(any_value).collect(),
    })
}

fn map<'k>(members: impl IntoIterator<Item = (&'k str, V)>) -> V {
    V::KvlistValue(KeyValueList {
        values: members.into_iter().map(|(key, value)| kv(key, value)).collect(),
    })
}

/// JSON as structured attribute values.
fn structured(json: &Json) -> V {
    match json {
        Json::Bool(truth) => V::BoolValue(*truth),
        Json::Number(number) => number
            .as_i64()
            .map_or_else(|| V::DoubleValue(number.as_f64().unwrap()), V::IntValue),
        Json::String(string) => text(string),
        Json::Array(values) => list(values.iter().map(structured)),
        Json::Object(members) => map(members
            .iter()
            .map(|(key, value)| (key.as_str(), structured(value)))),
        Json::Null => panic!("OTLP attributes have no null"),
    }
}

/// A span of trace 1 that lasts a second; `n` is its id and its place in time.
fn span(n: u8, name: &str, attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: [1; 16].to_vec(),
        span_id: [0, 0, 0, 0, 0, 0, 0, n].to_vec(),
        parent_span_id: if n == 1 {
            Vec::new()
        } else {
            vec![0, 0, 0, 0, 0, 0, 0, 1]
        },
        name: name.to_owned(),
        kind: 3,
        start_time_unix_nano: START + u64::from(n) * SECOND,
        end_time_unix_nano: START + u64::from(n) * SECOND + SECOND,
        attributes,
        status: Some(Status {
            code: 1,
            message: String::new(),
        }),
        ..Span::default()
    }
}

fn event(name: &str, attributes: Vec<KeyValue>) -> Event {
    Event {
        time_unix_nano: START,
        name: name.to_owned(),
        attributes,
        dropped_attributes_count: 0,
    }
}

fn resource() -> Resource {
    Resource {
        attributes: vec![
            kv("service.name", text("agents")),
            kv("deployment.environment.name", text("staging")),
            kv("telemetry.sdk.name", text("opentelemetry")),
            kv("telemetry.sdk.language", text("python")),
            kv("telemetry.sdk.version", text("1.38.0")),
        ],
        ..Resource::default()
    }
}

fn request_of(resource: Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "tests".into(),
        version: "1".into(),
        ..InstrumentationScope::default()
    };
    let scope_spans = vec![ScopeSpans {
        scope: Some(scope),
        spans,
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        resource: Some(resource),
        scope_spans,
        ..ResourceSpans::default()
    }];
    ExportTraceServiceRequest { resource_spans }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    request_of(resource(), spans)
}

/// Lowers a request and holds every draft to its laws.
fn lower(request: &ExportTraceServiceRequest) -> Lowered {
    lower_bytes(&request.encode_to_vec(), Encoding::Protobuf)
}

fn lower_bytes(body: &[u8], encoding: Encoding) -> Lowered {
    let request = TraceRequest::decode(body, encoding).unwrap();
    let lowered = lower_traces(&request, now(), &mut Salts::default());
    lowered.drafts.iter().for_each(check);
    lowered
}

/// The body of a draft, unpacked.
fn body_bytes(draft: &Draft) -> Vec<u8> {
    store::codec::unpack(&draft.body.packed, evidence::record::BODY_BYTES_MAX).unwrap()
}

fn body(draft: &Draft) -> Json {
    serde_json::from_slice(&body_bytes(draft)).unwrap()
}

/// A draft is canonical and committed to, its header can be written and read, and the facts and the identity
/// given with it are those that are found in it.
fn check(draft: &Draft) {
    let bytes = body_bytes(draft);
    assert!(
        evidence::canonical::is_canonical(&bytes),
        "{}",
        String::from_utf8_lossy(&bytes)
    );
    assert_eq!(
        draft.body.commitment,
        commitment(&draft.body.salt, draft.kind, &bytes)
    );
    if draft.kind == evidence::Kind::TraceStep {
        let mac = content_mac(&draft.body.salt, &draft.content.unwrap());
        assert_eq!(body(draft)["content_mac"], hex_string(&mac));
    }
    let header = Header {
        id: RecordId::new(now(), tlog::LeafIndex::new(7), 1).unwrap(),
        tenant_id: "default".into(),
        kind: draft.kind,
        run: draft.kind.is_of_run().then(|| RunPlace {
            run_id: "run".into(),
            run_seq: 1,
        }),
        trace_id: draft.trace_id.as_deref().map(Into::into),
        correlation_id: draft.correlation_id.as_deref().map(Into::into),
        actor: Actor {
            kind: draft.actor.0,
            id: draft.actor.1.as_deref().map(Into::into),
        },
        occurred_at: draft.occurred_at,
        recorded_at: now(),
        source_domain: draft.source_domain,
        source_component: draft.source_component.into(),
        origin: draft.origin,
        commitment: draft.body.commitment,
    };
    let mut leaf = Vec::new();
    header.encode(&mut leaf);
    assert!(leaf.len() <= evidence::LEAF_BYTES_MAX);
    let header = Header::decode(&leaf).unwrap();
    let facts = Facts::read(&header, &bytes).unwrap();
    assert_eq!(facts, draft.facts);
    assert_eq!(Identity::of_record(&header, &facts, &bytes), draft.identity);
}

/// The drafts of spans.
fn steps(lowered: &Lowered) -> Vec<&Draft> {
    lowered
        .drafts
        .iter()
        .filter(|draft| draft.kind == evidence::Kind::TraceStep)
        .collect()
}

/// The body of the one span of a request.
fn only(request: &ExportTraceServiceRequest) -> Json {
    let lowered = lower(request);
    assert_eq!(lowered.rejected.reasons, Vec::<String>::new());
    let [draft] = steps(&lowered)[..] else {
        panic!("{} steps", steps(&lowered).len())
    };
    body(draft)
}

/// The body of a span with those attributes.
fn of(name: &str, attributes: Vec<KeyValue>) -> Json {
    only(&request(vec![span(1, name, attributes)]))
}

/// Why the one span of a request is rejected.
fn refusal(request: &ExportTraceServiceRequest) -> String {
    let lowered = lower(request);
    assert_eq!(lowered.rejected.count, 1);
    assert_eq!(steps(&lowered).len(), 0);
    assert_eq!(lowered.drafts.len(), 0, "no environment without a span");
    lowered.rejected.reasons[0].clone()
}
