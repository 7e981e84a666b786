//! OTLP/JSON: the same spans, whatever their encoding.

use serde_json::json;

use super::*;

fn wrap(spans: &str) -> String {
    format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[]}},"scopeSpans":[{{"scope":{{}},"spans":[{spans}]}}]}}]}}"#
    )
}

fn lower_json(text: &str) -> Lowered {
    lower_bytes(text.as_bytes(), Encoding::Json)
}

const IDS: &str = r#""traceId":"01010101010101010101010101010101","spanId":"0000000000000001","startTimeUnixNano":"1763717000123456789""#;

#[test]
fn a_span_is_the_same_in_json_and_protobuf() {
    let mut sent = span(
        1,
        "chat m",
        vec![
            kv("gen_ai.operation.name", text("chat")),
            kv("int", V::IntValue(-7)),
            kv("zero", V::IntValue(0)),
            kv("empty", text("")),
            kv("double", V::DoubleValue(0.1)),
            kv("bool", V::BoolValue(false)),
            kv("bytes", V::BytesValue(vec![1, 2, 255])),
            kv("list", list([text("a"), V::IntValue(1), list([])])),
            kv("map", map([("k", V::DoubleValue(2.0)), ("empty", map([]))])),
        ],
    );
    sent.events = vec![event("e", vec![kv("k", text("v"))])];
    sent.links = vec![opentelemetry_proto::tonic::trace::v1::span::Link {
        trace_id: vec![2; 16],
        span_id: vec![3; 8],
        trace_state: "a=b".into(),
        flags: 257,
        ..Default::default()
    }];
    sent.flags = 0x101;
    sent.dropped_attributes_count = 3;
    sent.status = Some(Status {
        code: 2,
        message: "no".into(),
    });
    let request = request(vec![sent]);
    let protobuf = lower(&request);
    let json = lower_json(&serde_json::to_string(&request).unwrap());
    assert_eq!(json.rejected.reasons, Vec::<String>::new());
    assert_eq!(steps(&json)[0].content, steps(&protobuf)[0].content);
    for (json, protobuf) in json.drafts.iter().zip(&protobuf.drafts) {
        let (mut json, mut protobuf) = (body(json), body(protobuf));
        // The MAC is under each record's own salt.
        json["content_mac"].take();
        protobuf["content_mac"].take();
        assert_eq!(json, protobuf);
    }
}

#[test]
fn numbers_may_be_text_unknown_names_are_passed_over_and_null_is_a_default() {
    let lowered = lower_json(&wrap(
        r#"{"traceId":"0101010101010101010101010101010A","spanId":"00000000000000fF","parentSpanId":null,
            "startTimeUnixNano":1763717000123456789,"endTimeUnixNano":"1763717001123456789","kind":99,"name":"s",
            "future":{"deep":[[[{}]]]},"flags":257,"attributes":[
                {"key":"a","value":{"intValue":"9007199254740993"}},{"key":"b","value":{"intValue":5}},
                {"key":"c","value":{"doubleValue":"NaN"}},{"key":"d","value":{"doubleValue":3}},
                {"key":"e","value":{"bytesValue":"_-8"}},{"key":"f","value":{"arrayValue":{}}},
                {"key":"g","value":{"kvlistValue":{"values":[{"key":"x","value":{"stringValue":"y"}}]}}},
                {"key":"h"},{"key":"i","value":null},{"key":"j","value":{}}]}"#,
    ));
    assert_eq!(lowered.rejected.reasons, Vec::<String>::new());
    let otel = body(steps(&lowered)[0])["otel"].clone();
    assert_eq!(otel["trace_id"], "0101010101010101010101010101010a");
    assert_eq!(otel["kind"], json!(99));
    assert_eq!(
        otel["attributes"],
        json!({"a": "9007199254740993", "b": 5, "c": "NaN", "d": 3, "e": "/+8=", "f": [], "g": {"x": "y"},
            "h": null, "i": null, "j": null})
    );
}

#[test]
fn a_bad_span_rejects_itself_alone() {
    let good = |id: u8| {
        format!(
            r#"{{{},"name":"good"}}"#,
            IDS.replace("0000000000000001", &format!("{id:016x}"))
        )
    };
    let deep = format!(
        "{}{}",
        r#"{"arrayValue":{"values":["#.repeat(1_000),
        "]}}".repeat(1_000)
    );
    for bad in [
        "3".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        r#"{"traceId":"xy"}"#.to_owned(),
        r#"{"traceId":"010"}"#.to_owned(),
        r#"{"traceId":"0101"}"#.to_owned(),
        format!(r#"{{{IDS},"name":5}}"#),
        format!(r#"{{{IDS},"kind":"SPAN_KIND_CLIENT"}}"#),
        format!(r#"{{{IDS},"kind":1e3}}"#),
        format!(r#"{{{IDS},"kind":4294967296}}"#),
        format!(r#"{{{IDS},"endTimeUnixNano":"-1"}}"#),
        format!(r#"{{{IDS},"name":"a","name":"b"}}"#),
        format!(r#"{{{IDS},"name":"\ud800"}}"#),
        format!(r#"{{{IDS},"attributes":[{{"key":"k","value":{{"bytesValue":"!"}}}}]}}"#),
        format!(r#"{{{IDS},"attributes":[{{"key":"k","value":{deep}}}]}}"#),
        format!(r#"{{{IDS},"attributes":{{}}}}"#),
    ] {
        let lowered = lower_json(&wrap(&format!("{},{bad},{}", good(7), good(8))));
        assert_eq!(
            (steps(&lowered).len(), lowered.rejected.count),
            (2, 1),
            "{bad:.80}"
        );
        assert!(!lowered.rejected.reasons[0].is_empty());
    }
}

#[test]
fn a_bad_span_that_names_its_trace_is_missed_there() {
    for bad in [
        r#""kind":"SPAN_KIND_CLIENT""#,
        r#""name":"\ud800""#,
        r#""attributes":[{"key":"k","value":{"bytesValue":"!"}}]"#,
        r#""attributes":[3]"#,
    ] {
        let lowered = lower_json(&wrap(&format!("{{{IDS},{bad}}}")));
        let refused: Vec<_> = lowered.refused.into_traces().collect();
        assert_eq!(refused.len(), 1, "{bad}");
        let (trace, of_trace) = &refused[0];
        assert_eq!((trace, of_trace.told.len()), (&[1; 16], 1), "{bad}");
        assert_eq!(of_trace.told[0].span_id, "0000000000000001", "{bad}");
    }
    let nameless = r#"3,null,{"traceId":7},{"traceId":"0101","kind":"x"},{"kind":"x"}"#;
    let lowered = lower_json(&wrap(nameless));
    assert_eq!((lowered.rejected.count, lowered.refused.is_empty()), (5, true));
}

#[test]
fn a_reason_quotes_nothing_that_was_sent() {
    let long = "secret ".repeat(10_000);
    let lowered = lower_json(&wrap(&format!(r#"{{{IDS},"attributes":["{long}"]}},"{long}""#)));
    assert_eq!(lowered.rejected.count, 2);
    for reason in &lowered.rejected.reasons {
        assert!(reason.len() < 200 && !reason.contains("secret"), "{reason:.200}");
    }
    let body = format!("\"{long}\"");
    let error = TraceRequest::decode(body.as_bytes(), Encoding::Json).unwrap_err();
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn bytes_that_are_no_utf8_reject_the_span_they_lie_in() {
    let text = wrap(&format!(
        r#"{{{IDS},"name":"good"}},{{{IDS},"name":"b@d"}},{{{IDS},"name":"\\@"}},{{{IDS},"name":"\@"}}"#
    ));
    let bytes: Vec<u8> = text
        .bytes()
        .map(|byte| if byte == b'@' { 0xff } else { byte })
        .collect();
    let lowered = lower_bytes(&bytes, Encoding::Json);
    assert_eq!(
        (steps(&lowered).len(), lowered.rejected.count),
        (1, 3),
        "{:?}",
        lowered.rejected
    );
}

#[test]
fn nesting_that_protobuf_keeps_json_keeps_too() {
    let array = format!(
        "{}{}{}",
        r#"{"arrayValue":{"values":["#.repeat(24),
        r#"{"intValue":1}"#,
        "]}}".repeat(24)
    );
    let map = format!(
        "{}{}{}",
        r#"{"kvlistValue":{"values":[{"key":"k","value":"#.repeat(24),
        r#"{"intValue":1}"#,
        "}]}}".repeat(24)
    );
    for value in [array, map] {
        let attribute = format!(r#"{{"key":"deep","value":{value}}}"#);
        let span =
            format!(r#"{{{IDS},"attributes":[{attribute}],"events":[{{"attributes":[{attribute}]}}]}}"#);
        assert_eq!(lower_json(&wrap(&span)).rejected.reasons, Vec::<String>::new());
    }
}

#[test]
fn an_unreadable_resource_rejects_its_spans() {
    let text = wrap(&format!("{{{IDS}}}")).replace(r#"{"attributes":[]}"#, r#"{"attributes":7}"#);
    let lowered = lower_json(&text);
    assert_eq!((lowered.drafts.len(), lowered.rejected.count), (0, 1));
}
