//! What arrives broken: refused with a reason, or kept; and never at its neighbours' expense.

use serde_json::json;
use server::otlp::limits::{ATTRIBUTES_MAX, BODIES_BYTES_MAX, ITEMS_MAX, PART_ITEMS_MAX, REQUEST_BYTES_MAX};
use server::otlp::{DecodeError, MetricsRequest};

use super::*;

/// A span named `bad` between two good ones: the good ones are taken and the reason is given.
fn between(bad: &Span) -> String {
    beside_bytes(&bad.encode_to_vec())
}

fn put(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A request of two good spans and, between them, the bytes of a bad one.
fn with_span_bytes(bad: &[u8]) -> Vec<u8> {
    let mut scope = Vec::new();
    put(2, &span(1, "good", vec![]).encode_to_vec(), &mut scope);
    put(2, bad, &mut scope);
    put(2, &span(9, "good", vec![]).encode_to_vec(), &mut scope);
    let (mut resource, mut request) = (Vec::new(), Vec::new());
    put(2, &scope, &mut resource);
    put(1, &resource, &mut request);
    request
}

fn beside_bytes(bad: &[u8]) -> String {
    let lowered = lower_bytes(&with_span_bytes(bad), Encoding::Protobuf);
    assert_eq!(steps(&lowered).len(), 2, "{:?}", lowered.rejected);
    assert_eq!(lowered.rejected.count, 1);
    lowered.rejected.reasons[0].clone()
}

fn decode_error(body: &[u8], encoding: Encoding) -> DecodeError {
    TraceRequest::decode(body, encoding).expect_err("no request")
}

#[test]
fn a_request_cut_off_anywhere_is_refused_or_is_a_shorter_request() {
    let whole = request(vec![span(1, "a", vec![kv("k", text("v"))]), span(2, "b", vec![])]).encode_to_vec();
    for end in 1..whole.len() {
        assert!(
            matches!(
                decode_error(&whole[..end], Encoding::Protobuf),
                DecodeError::Malformed(_)
            ),
            "{end}"
        );
    }
}

#[test]
fn what_is_no_otlp_is_refused_with_a_reason() {
    assert_eq!(
        decode_error(b"{\"resourceSpans\":[]}", Encoding::Protobuf).to_string(),
        "not an OTLP request: this is JSON, which needs the content type application/json"
    );
    for (body, encoding) in [
        (&b"hello, world"[..], Encoding::Protobuf),
        (b"<html>", Encoding::Protobuf),
        (b"\x0a\x05abcde", Encoding::Protobuf),
        (b"\x0d1234", Encoding::Protobuf),
        (b"", Encoding::Json),
        (b"[]", Encoding::Json),
        (b"{\"resourceSpans\":[", Encoding::Json),
        (b"{\"resourceSpans\":{}}", Encoding::Json),
        (
            b"{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":3}]}]}",
            Encoding::Json,
        ),
        (b"{} {}", Encoding::Json),
        (b"\xff", Encoding::Json),
    ] {
        assert!(
            matches!(decode_error(body, encoding), DecodeError::Malformed(_)),
            "{body:?}"
        );
    }
    assert_eq!(
        lower_bytes(b"", Encoding::Protobuf).drafts.len(),
        0,
        "an empty request is one"
    );
    assert_eq!(lower_bytes(b"{}", Encoding::Json).drafts.len(), 0);
}

#[test]
fn wrong_nesting_inside_a_span_rejects_that_span() {
    // An attribute that is a number, one whose value passes its end, a status that is text.
    assert!(beside_bytes(&[0x48, 1]).contains("another type"));
    assert!(beside_bytes(&[0x4a, 3, 0x12, 9, 1]).contains("cut off"));
    assert!(beside_bytes(&[0x7a, 2, 0x18]).contains("cut off"));
    assert!(beside_bytes(&[0x0b, 0x0c]).contains("group"));
}

#[test]
fn a_malformed_span_a_group_or_text_that_is_no_utf8_rejects_itself_alone() {
    let mut bad = span(5, "xyz", vec![kv("k", text("v"))]).encode_to_vec();
    let at = bad.windows(3).position(|window| window == b"xyz").unwrap();
    bad[at] = 0xff;
    assert!(beside_bytes(&bad).contains("not UTF-8"));
}

#[test]
fn ids_of_another_length_or_of_zeros_reject_the_span() {
    for (bad, reason) in [
        (
            Span {
                trace_id: vec![1; 15],
                ..span(5, "", vec![])
            },
            "trace_id has 15 bytes, 16 are needed",
        ),
        (
            Span {
                trace_id: vec![],
                ..span(5, "", vec![])
            },
            "trace_id has 0 bytes, 16 are needed",
        ),
        (
            Span {
                trace_id: vec![0; 16],
                ..span(5, "", vec![])
            },
            "trace_id is all zeros",
        ),
        (
            Span {
                span_id: vec![1; 9],
                ..span(5, "", vec![])
            },
            "span_id has 9 bytes, 8 are needed",
        ),
        (
            Span {
                span_id: vec![0; 8],
                ..span(5, "", vec![])
            },
            "span_id is all zeros",
        ),
        (
            Span {
                parent_span_id: vec![1; 3],
                ..span(5, "", vec![])
            },
            "parent_span_id has 3 bytes, 8 are needed",
        ),
    ] {
        assert!(between(&bad).ends_with(reason), "{reason}");
    }
    let root = Span {
        parent_span_id: vec![0; 8],
        ..span(5, "", vec![])
    };
    assert_eq!(
        only(&request(vec![root]))["otel"]["parent_span_id"],
        Json::Null,
        "a parent of zeros is none"
    );
}

#[test]
fn times_that_cannot_be_reject_the_span() {
    let day = 86_400 * SECOND;
    let before_1970 = (-5_i64).cast_unsigned();
    let last = 4_102_444_800 * SECOND;
    for (start, end, reason) in [
        (0, START, "start_time_unix_nano is missing"),
        (before_1970, before_1970, "lies before 1970 or after 2100"),
        (last + 1, last + day, "lies before 1970 or after 2100"),
        (START, u64::MAX, "lies before 1970 or after 2100"),
    ] {
        let bad = Span {
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            ..span(5, "", vec![])
        };
        assert!(between(&bad).contains(reason), "{start} {end}");
    }
    let at_last = Span {
        start_time_unix_nano: last,
        end_time_unix_nano: last,
        ..span(5, "", vec![])
    };
    assert_eq!(only(&request(vec![at_last]))["step"]["duration_ms"], json!(0));
    let longest = Span {
        start_time_unix_nano: 1,
        end_time_unix_nano: last,
        ..span(5, "", vec![])
    };
    only(&request(vec![longest]));
}

#[test]
fn an_end_before_the_start_and_no_end_at_all_are_kept_with_no_duration() {
    for end in [START - SECOND, 0] {
        let odd = Span {
            start_time_unix_nano: START,
            end_time_unix_nano: end,
            ..span(5, "", vec![])
        };
        let body = only(&request(vec![odd]));
        assert_eq!(body["step"]["duration_ms"], json!(0));
        assert_eq!(body["otel"]["end_unix_nano"], end.to_string());
    }
}

#[test]
fn unknown_numbers_of_enumerations_are_kept_as_numbers() {
    for number in [99, -1, i32::MIN, i32::MAX] {
        let odd = Span {
            kind: number,
            status: Some(Status {
                code: number,
                message: String::new(),
            }),
            ..span(5, "", vec![])
        };
        let body = only(&request(vec![odd]));
        assert_eq!(body["otel"]["kind"], json!(number));
        assert_eq!(body["otel"]["status_code"], json!(number));
        assert_eq!(body["step"]["status"], "success");
    }
}

#[test]
fn numbers_that_json_has_not_are_text() {
    let body = of(
        "s",
        vec![
            kv("nan", V::DoubleValue(f64::NAN)),
            kv("inf", V::DoubleValue(f64::INFINITY)),
            kv("minus", V::DoubleValue(f64::NEG_INFINITY)),
            kv("zero", V::DoubleValue(-0.0)),
            kv("big", V::IntValue(i64::MAX)),
            kv("edge", V::IntValue((1 << 53) - 1)),
            kv("bytes", V::BytesValue(vec![0xff, 0])),
            kv(
                "nested",
                map([("a", list([V::DoubleValue(f64::NAN), V::IntValue(i64::MIN)]))]),
            ),
        ],
    );
    assert_eq!(
        body["otel"]["attributes"],
        json!({"big": "9223372036854775807", "bytes": "/wA=", "edge": 9_007_199_254_740_991_i64, "inf": "Infinity",
            "minus": "-Infinity", "nan": "NaN", "nested": {"a": ["NaN", "-9223372036854775808"]}, "zero": 0})
    );
}

#[test]
fn token_counts_that_cannot_be_are_kept_as_sent() {
    for bad in [
        V::IntValue(-1),
        V::IntValue(i64::MAX),
        V::DoubleValue(1.5),
        V::DoubleValue(f64::NAN),
        text("many"),
    ] {
        let body = of(
            "chat",
            vec![
                kv("gen_ai.operation.name", text("chat")),
                kv("gen_ai.usage.input_tokens", bad),
            ],
        );
        assert_eq!(body["provider"]["input_tokens"], Json::Null);
        assert!(body["otel"]["attributes"]["gen_ai.usage.input_tokens"] != Json::Null);
    }
}

#[test]
fn ten_thousand_attributes_are_kept_and_too_many_are_refused() {
    let many = |count: usize| {
        (0..count)
            .map(|i| kv(&format!("key.{i:05}"), V::IntValue(1)))
            .collect()
    };
    let body = of("s", many(10_000));
    assert_eq!(body["otel"]["attributes"].as_object().unwrap().len(), 10_000);
    assert!(between(&span(5, "", many(ATTRIBUTES_MAX + 1))).contains("more than 16,384 attributes"));
}

#[test]
fn attributes_sent_twice_are_all_kept_and_the_last_counts() {
    let body = of(
        "s",
        vec![
            kv("k", text("first")),
            kv("error.type", text("one")),
            kv("k", text("second")),
            kv("error.type", text("two")),
            kv("k", text("third")),
            kv("deponent.duplicate_attributes", text("mine")),
            kv("deponent.scope", text("mine")),
            kv("", text("empty")),
            kv("", text("empty again")),
            kv("m", map([("x", V::IntValue(1)), ("x", V::IntValue(2))])),
        ],
    );
    assert_eq!(body["step"]["outcome_code"], "two");
    assert_eq!(
        body["otel"]["attributes"],
        json!({"": "empty again", "k": "third", "m": [["x", 1], ["x", 2]],
            "deponent.duplicate_attributes": {"": ["empty"], "deponent.duplicate_attributes": ["mine"],
                "deponent.scope": ["mine"], "error.type": ["one"], "k": ["first", "second"]}})
    );
}

#[test]
fn span_ids_twice_in_a_request_are_two_drafts_of_one_identity() {
    let lowered = lower(&request(vec![
        span(5, "a", vec![]),
        span(5, "b", vec![]),
        span(5, "a", vec![]),
    ]));
    let drafts = steps(&lowered);
    assert_eq!(drafts.len(), 3);
    assert!(drafts.iter().all(|draft| draft.identity == drafts[0].identity));
    assert_ne!(drafts[0].content, drafts[1].content);
    assert_eq!(drafts[0].content, drafts[2].content);
}

#[test]
fn a_parent_that_never_comes_makes_no_root() {
    let lowered = lower(&request(vec![Span {
        parent_span_id: vec![7; 8],
        ..span(5, "a", vec![])
    }]));
    let Facts::Step(facts) = &steps(&lowered)[0].facts else {
        panic!("a step")
    };
    assert!(!facts.root);
}

fn nested(levels: usize) -> V {
    (0..levels).fold(V::BoolValue(true), |inner, _| list([inner]))
}

#[test]
fn nesting_a_thousand_deep_rejects_the_span_and_twenty_four_is_kept() {
    assert!(between(&span(5, "", vec![kv("deep", nested(25))])).contains("nested more than 24 deep"));
    of("s", vec![kv("deep", nested(24))]);

    // Written by hand: the generated types recurse.
    let mut value = vec![0x10, 1];
    for _ in 0..100_000 {
        let mut array = Vec::with_capacity(value.len() + 8);
        put(1, &value, &mut array);
        value.clear();
        put(5, &array, &mut value);
        if value.len() > 4_000 {
            break;
        }
    }
    let mut attribute = Vec::new();
    put(1, b"deep", &mut attribute);
    put(2, &value, &mut attribute);
    let mut bad = span(5, "", vec![]).encode_to_vec();
    put(9, &attribute, &mut bad);
    assert!(beside_bytes(&bad).contains("nested more than 24 deep"));
}

#[test]
fn json_text_nested_a_thousand_deep_in_an_attribute_stays_text() {
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    let body = of(
        "t",
        vec![
            kv("gen_ai.operation.name", text("execute_tool")),
            kv("gen_ai.tool.call.result", text(&deep)),
        ],
    );
    assert_eq!(body["step"]["outcome_data"], deep);
    let near = format!("{}{}", "[".repeat(64), "]".repeat(64));
    of(
        "t",
        vec![
            kv("gen_ai.operation.name", text("execute_tool")),
            kv("gen_ai.tool.call.arguments", text(&near)),
        ],
    );
}

#[test]
fn what_is_more_than_a_part_is_lowered_part_by_part() {
    let of_place = |place: usize| {
        let mut span = span(2, "s", vec![]);
        span.span_id = (place as u64 + 1).to_be_bytes().to_vec();
        span
    };
    let mut spans: Vec<Span> = (0..PART_ITEMS_MAX + 2).map(of_place).collect();
    spans[PART_ITEMS_MAX].trace_id.clear();
    let mut whole = request(spans);
    let mut bad = of_place(0);
    bad.trace_id.clear();
    whole.resource_spans.extend(request(vec![bad]).resource_spans);
    let bytes = whole.encode_to_vec();
    let decoded = TraceRequest::decode(&bytes, Encoding::Protobuf).unwrap();
    assert_eq!(decoded.parts(), 2);
    let mut salts = Salts::default();
    let first = lower_traces(&decoded.part(0, BODIES_BYTES_MAX), now(), &mut salts);
    let second = lower_traces(&decoded.part(1, first.bodies_bytes_left), now(), &mut salts);
    assert_eq!((steps(&first).len(), steps(&second).len()), (PART_ITEMS_MAX, 1));
    assert_eq!((first.rejected.count, second.rejected.count), (0, 2));
    for (reason, place) in second
        .rejected
        .reasons
        .iter()
        .zip(["span 8192 of resource 0", "span 0 of resource 1"])
    {
        assert!(reason.starts_with(place), "{reason}");
    }
    assert!(second.bodies_bytes_left < first.bodies_bytes_left);

    let few = request((0..PART_ITEMS_MAX).map(of_place).collect()).encode_to_vec();
    assert_eq!(TraceRequest::decode(&few, Encoding::Protobuf).unwrap().parts(), 1);
}

#[test]
fn a_million_spans_are_refused_whole_without_being_decoded() {
    let mut scope = Vec::new();
    for _ in 0..1_000_000 {
        scope.extend_from_slice(&[0x12, 0]);
    }
    let (mut resource, mut request) = (Vec::new(), Vec::new());
    put(2, &scope, &mut resource);
    put(1, &resource, &mut request);
    assert_eq!(decode_error(&request, Encoding::Protobuf), DecodeError::TooMany);
    let json = format!(
        "{{\"resourceSpans\":[{{\"scopeSpans\":[{{\"spans\":[{}{{}}]}}]}}]}}",
        "{},".repeat(ITEMS_MAX)
    );
    assert_eq!(
        decode_error(json.as_bytes(), Encoding::Json),
        DecodeError::TooMany
    );
}

#[test]
fn a_request_over_the_limit_is_too_large() {
    let large = vec![0; REQUEST_BYTES_MAX + 1];
    assert_eq!(
        decode_error(&large, Encoding::Protobuf),
        DecodeError::TooLarge(REQUEST_BYTES_MAX + 1)
    );
}

/// Each part but the first is read from the protobuf: it must not be refused when the first has been written.
#[test]
fn json_that_is_too_large_as_protobuf_is_refused_before_its_first_part() {
    let bounds = "0,".repeat(REQUEST_BYTES_MAX / 8);
    let request = |points: usize| {
        let points = "{},".repeat(points);
        format!(
            r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[
            {{"name":"h","histogram":{{"dataPoints":[{{"explicitBounds":[{bounds}0]}}]}}}},
            {{"name":"g","gauge":{{"dataPoints":[{points}{{}}]}}}}]}}]}}]}}"#
        )
    };
    let (one, two) = (request(PART_ITEMS_MAX - 2), request(PART_ITEMS_MAX - 1));
    assert!(two.len() < REQUEST_BYTES_MAX / 2);
    let decode = |json: &str| MetricsRequest::decode(json.as_bytes(), Encoding::Json).map(|it| it.parts());
    assert_eq!(decode(&one), Ok(1));
    let refused = decode(&two);
    assert!(
        matches!(refused, Err(DecodeError::TooLarge(bytes)) if bytes > REQUEST_BYTES_MAX),
        "{refused:?}"
    );
}

#[test]
fn a_resource_or_scope_that_is_unreadable_rejects_what_stands_under_it_alone() {
    let mut good = request(vec![span(1, "good", vec![])]);
    let mut bad = request(vec![span(2, "bad", vec![]), span(3, "bad", vec![])])
        .resource_spans
        .remove(0);
    bad.resource
        .as_mut()
        .unwrap()
        .attributes
        .push(kv("deep", nested(30)));
    good.resource_spans.insert(0, bad);
    let lowered = lower(&good);
    assert_eq!((steps(&lowered).len(), lowered.rejected.count), (1, 2));
    assert!(lowered.rejected.reasons[0].contains("unreadable"));

    let mut bad = request(vec![span(2, "bad", vec![])]);
    let scope = &mut bad.resource_spans[0].scope_spans[0];
    scope
        .scope
        .as_mut()
        .unwrap()
        .attributes
        .push(kv("deep", nested(30)));
    assert!(refusal(&bad).contains("unreadable scope"));
}

#[test]
fn a_body_over_the_limit_rejects_its_span() {
    // Every byte needs an escape of six.
    let large = span(5, "", vec![kv("k", text(&"\u{1}".repeat(3_000_000)))]);
    assert!(between(&large).contains("a record holds at most"));
}

#[test]
fn a_large_resource_is_not_repeated_without_bound() {
    let mut spans: Vec<_> = (0..100).map(|n| span(n, "s", vec![])).collect();
    for (n, span) in (1_u8..).zip(&mut spans) {
        span.trace_id = vec![n; 16];
        span.span_id = vec![n; 8];
    }
    let mut large = resource();
    large.attributes.push(kv("k", text(&"x".repeat(4_000_000))));
    let lowered = lower(&request_of(large, spans));
    assert!(lowered.rejected.count > 50, "{}", lowered.rejected.count);
    assert!(lowered.rejected.reasons[0].contains("too many bytes in all"));
    assert_eq!(
        steps(&lowered).len() + usize::try_from(lowered.rejected.count).unwrap(),
        100
    );
}

#[test]
fn only_the_first_reasons_are_named_and_all_are_counted() {
    let bad: Vec<_> = (0..50)
        .map(|n| Span {
            span_id: vec![],
            ..span(n, "", vec![])
        })
        .collect();
    let lowered = lower(&request(bad));
    assert_eq!((lowered.rejected.count, lowered.rejected.reasons.len()), (50, 5));
}
