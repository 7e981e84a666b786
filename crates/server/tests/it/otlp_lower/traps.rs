//! The traps of docs/otel-mapping.md, one claim each.

use serde_json::json;

use super::*;

fn chat(more: Vec<KeyValue>) -> Json {
    let mut attributes = vec![
        kv("gen_ai.operation.name", text("chat")),
        kv("gen_ai.request.model", text("m")),
    ];
    attributes.extend(more);
    of("chat m", attributes)
}

#[test]
fn a_tool_response_is_read_as_the_schema_and_as_the_example_spell_it() {
    for key in ["response", "result"] {
        let message = json!([{"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", key: "{\"ok\":true}"}]}]);
        let body = chat(vec![kv("gen_ai.input.messages", text(&message.to_string()))]);
        assert_eq!(
            body["step"]["params"]["messages"][0]["parts"][0],
            json!({"type": "tool_call_response", "response": {"ok": true}})
        );
    }
}

#[test]
fn messages_from_which_ids_were_cut_stay_as_sent_too() {
    let message =
        r#"[{"role":"assistant","parts":[{"type":"tool_call","id":"1","name":"t","arguments":"{}"}]}]"#;
    let body = chat(vec![kv("gen_ai.output.messages", text(message))]);
    assert_eq!(body["otel"]["attributes"]["gen_ai.output.messages"], message);
    assert_eq!(
        body["step"]["outcome_data"]["messages"][0]["parts"][0],
        json!({"type": "tool_call", "name": "t", "arguments": {}})
    );
}

#[test]
fn messages_whose_parts_say_more_than_is_read_stay_as_sent_too() {
    let said_twice = |response: Json, result: Json| json!({ "parts": [{ "type": "tool_call_response", "response": response, "result": result }] });
    let more = [
        json!({ "role": "tool", "content": [{ "type": "text", "text": "x", "cache_control": "ephemeral" }] }),
        json!({ "role": "user", "contents": [{ "message_content": { "type": "text", "text": "x" }, "score": 1 }] }),
        json!({ "role": "assistant", "tool_calls": [{ "tool_call": { "function": { "name": "t" } }, "score": 1 }] }),
        json!({ "role": "assistant", "tool_calls": [{ "function": "t" }] }),
        json!({ "role": "assistant", "tool_calls": [{ "function": { "arguments": "{}" }, "name": "t" }] }),
        said_twice(json!("a"), json!("b")),
        json!({ "role": "user", "content": [{ "type": "text", "content": "a", "text": "b" }] }),
        json!({ "role": "assistant", "tool_calls": [{ "name": "t", "arguments": "{}", "input": { "a": 1 } }] }),
        json!({ "role": "assistant", "tool_calls": { "name": "t" } }),
        json!({ "role": "assistant", "reasoning_content": ["x"] }),
        json!({ "role": "user", "parts": "x" }),
    ];
    for message in more {
        let message = json!([message]).to_string();
        let body = chat(vec![kv("gen_ai.input.messages", text(&message))]);
        assert_eq!(body["otel"]["attributes"]["gen_ai.input.messages"], message);
    }
    let kept = json!([
        said_twice(json!("a"), json!("a")),
        said_twice(Json::Null, json!("a"))
    ]);
    let body = chat(vec![kv("gen_ai.input.messages", text(&kept.to_string()))]);
    assert_eq!(
        body["otel"]["attributes"],
        json!({"gen_ai.operation.name": "chat"})
    );
    for message in 0..2 {
        assert_eq!(
            body["step"]["params"]["messages"][message]["parts"][0]["response"],
            "a"
        );
    }
}

#[test]
fn messages_are_read_as_values_and_as_json_text() {
    let message = json!([{"role": "user", "parts": [{"type": "text", "content": "hi"}, {"type": "blob", "mime_type": "image/png", "content": "AA=="}]}]);
    let a = chat(vec![kv("gen_ai.input.messages", text(&message.to_string()))]);
    let b = chat(vec![kv("gen_ai.input.messages", structured(&message))]);
    assert_eq!(a["step"], b["step"]);
    assert_eq!(a["step"]["params"]["messages"], message);
    assert_eq!(a["otel"]["attributes"], json!({"gen_ai.operation.name": "chat"}));
}

#[test]
fn only_inference_spans_count_tokens_whatever_an_agent_span_repeats() {
    let agent = of(
        "invoke_agent a",
        vec![
            kv("gen_ai.operation.name", text("invoke_agent")),
            kv("gen_ai.agent.name", text("a")),
            kv("gen_ai.request.model", text("m")),
            kv("gen_ai.usage.input_tokens", V::IntValue(500)),
        ],
    );
    assert_eq!(agent["provider"], Json::Null);
    assert_eq!(agent["activity"], Json::Null);
    assert_eq!(agent["step"]["inference"], Json::Null);
    assert_eq!(agent["step"]["skill_name"], "a");
    assert_eq!(
        agent["otel"]["attributes"]["gen_ai.usage.input_tokens"],
        json!(500),
        "kept as sent"
    );
}

#[test]
fn cached_tokens_are_part_of_the_input_and_never_added_to_it() {
    let body = chat(vec![
        kv("gen_ai.usage.input_tokens", V::IntValue(100)),
        kv("gen_ai.usage.output_tokens", V::IntValue(10)),
        kv("gen_ai.usage.cache_read.input_tokens", V::IntValue(90)),
    ]);
    assert_eq!(body["provider"]["input_tokens"], json!(100));
    assert_eq!(body["provider"]["total_tokens"], json!(110));
}

#[test]
fn three_generations_in_one_trace_are_mapped_each_by_its_own() {
    let spans = vec![
        span(1, "a", vec![kv("gen_ai.system", text("openai"))]),
        span(2, "b", vec![kv("gen_ai.provider.name", text("openai"))]),
        span(
            3,
            "c",
            vec![kv("gen_ai.usage.cache_write.input_tokens", V::IntValue(1))],
        ),
    ];
    let lowered = lower(&request(spans));
    let mappings: Vec<_> = steps(&lowered)
        .iter()
        .map(|draft| body(draft)["otel"]["mapping"].clone())
        .collect();
    assert_eq!(
        mappings,
        [
            "otel-genai/pre-1.37;deponent/1",
            "otel-genai/1.41;deponent/1",
            "otel-genai/next;deponent/1"
        ]
    );
}

#[test]
fn an_entity_name_is_what_its_kind_says() {
    for (kind, skill, agent) in [
        ("agent", "x", json!("x")),
        ("tool", "x", Json::Null),
        ("task", "x.task", Json::Null),
        ("workflow", "x.task", Json::Null),
    ] {
        let body = of(
            "x.task",
            vec![
                kv("traceloop.span.kind", text(kind)),
                kv("traceloop.entity.name", text("x")),
            ],
        );
        assert_eq!(body["step"]["skill_name"], skill, "{kind}");
        assert_eq!(body["step"]["agent"], agent, "{kind}");
    }
}

#[test]
fn a_model_name_without_a_side_is_no_claim_of_the_model_served() {
    let body = of(
        "llm",
        vec![
            kv("openinference.span.kind", text("LLM")),
            kv("llm.model_name", text("gpt-4o-2024-08-06")),
        ],
    );
    assert_eq!(body["provider"]["model_name"], "gpt-4o-2024-08-06");
    assert_eq!(body["provider"]["model_version"], Json::Null);
    assert_eq!(body["otel"]["attributes"]["llm.model_name"], "gpt-4o-2024-08-06");
    let body = of(
        "llm",
        vec![
            kv("openinference.span.kind", text("LLM")),
            kv("llm.model_name", text("served")),
            kv("llm.request.model_name", text("asked")),
            kv("llm.response.model_name", text("served")),
        ],
    );
    assert_eq!(body["step"]["skill_name"], "asked");
    assert_eq!(body["provider"]["model_version"], "served");
}

#[test]
fn every_dropped_count_is_kept() {
    let mut dropping = span(1, "s", vec![]);
    dropping.dropped_attributes_count = 1;
    dropping.dropped_events_count = 2;
    dropping.dropped_links_count = 3;
    dropping.events = vec![Event {
        dropped_attributes_count: 4,
        ..event("e", vec![])
    }];
    dropping.links = vec![opentelemetry_proto::tonic::trace::v1::span::Link {
        trace_id: vec![2; 16],
        span_id: vec![3; 8],
        dropped_attributes_count: 5,
        ..Default::default()
    }];
    let mut request = request(vec![dropping]);
    let spans = &mut request.resource_spans[0];
    spans.resource.as_mut().unwrap().dropped_attributes_count = 6;
    spans.scope_spans[0]
        .scope
        .as_mut()
        .unwrap()
        .dropped_attributes_count = 7;
    let lowered = lower(&request);
    let otel = body(steps(&lowered)[0])["otel"].clone();
    assert_eq!(otel["dropped_attributes_count"], json!(1));
    assert_eq!(otel["dropped_events_count"], json!(2));
    assert_eq!(otel["dropped_links_count"], json!(3));
    assert_eq!(otel["events"][0]["dropped_attributes_count"], json!(4));
    assert_eq!(
        otel["links"],
        json!([{"attributes": {}, "dropped_attributes_count": 5, "span_id": "03".repeat(8), "trace_id": "02".repeat(16)}])
    );
    assert_eq!(
        otel["attributes"]["deponent.scope"],
        json!({"attributes": {}, "dropped_attributes_count": 7})
    );
    assert_eq!(body(&lowered.drafts[0])["dropped_attributes_count"], json!(6));
}

#[test]
fn an_event_whose_sender_dropped_some_of_it_stays_though_its_messages_are_taken() {
    let kept = |name: &str, key: &str, dropped: u32| {
        let mut chat = span(
            1,
            "chat m",
            vec![
                kv("gen_ai.operation.name", text("chat")),
                kv("gen_ai.request.model", text("m")),
            ],
        );
        chat.events = vec![Event {
            dropped_attributes_count: dropped,
            ..event(name, vec![kv(key, text("hi"))])
        }];
        let body = only(&request(vec![chat]));
        assert_eq!(
            body["step"]["params"]["messages"][0]["parts"][0]["content"], "hi",
            "{name}"
        );
        body["otel"]["events"].clone()
    };
    for (name, key) in [
        ("gen_ai.user.message", "content"),
        ("gen_ai.content.prompt", "gen_ai.prompt"),
        (
            "gen_ai.client.inference.operation.details",
            "gen_ai.input.messages",
        ),
    ] {
        assert_eq!(kept(name, key, 0), Json::Null, "{name}");
        assert_eq!(
            kept(name, key, 3)[0]["dropped_attributes_count"],
            json!(3),
            "{name}"
        );
    }
}

#[test]
fn an_error_has_its_type_and_never_its_free_text() {
    let failed = |attributes, events| {
        let mut failed = span(1, "execute_tool t", attributes);
        failed.status = Some(Status {
            code: 2,
            message: "secret words".into(),
        });
        failed.events = events;
        only(&request(vec![failed]))
    };
    let exception = || {
        event(
            "exception",
            vec![
                kv("exception.type", text("TimeoutError")),
                kv("exception.message", text("after 3 s")),
            ],
        )
    };
    let body = failed(vec![kv("error.type", text("timeout"))], vec![exception()]);
    assert_eq!(body["step"]["outcome_code"], "timeout");
    assert_eq!(
        (&body["step"]["status"], &body["step"]["outcome_category"]),
        (&json!("failure"), &json!("FAILURE"))
    );
    assert_eq!(body["otel"]["status_message"], "secret words");
    assert_eq!(
        failed(vec![], vec![exception()])["step"]["outcome_code"],
        "TimeoutError"
    );
    assert_eq!(failed(vec![], vec![])["step"]["outcome_code"], Json::Null);
}

#[test]
fn a_price_in_another_currency_or_beyond_reason_is_kept_and_not_counted() {
    let cost = |more| chat(more)["step"]["cost_cents"].clone();
    assert_eq!(cost(vec![kv("llm.cost.total", V::DoubleValue(0.1))]), json!(10));
    assert_eq!(cost(vec![kv("gen_ai.usage.cost", V::IntValue(2))]), json!(200));
    for refused in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
        let body = chat(vec![kv("gen_ai.usage.cost", V::DoubleValue(refused))]);
        assert_eq!(body["step"]["cost_cents"], json!(0));
        assert!(
            body["otel"]["attributes"]["gen_ai.usage.cost"] != Json::Null,
            "{refused}"
        );
    }
    let euros = vec![
        kv("gen_ai.usage.cost.amount", V::DoubleValue(0.1)),
        kv("gen_ai.usage.cost.currency", text("EUR")),
    ];
    assert_eq!(cost(euros), json!(0));
}

#[test]
fn a_price_told_in_parts_is_their_exact_sum_and_the_parts_stay_as_sent() {
    let part = |name: &str, price| kv(&format!("llm.cost.{name}"), price);
    let body = chat(vec![
        part("prompt", V::DoubleValue(0.1)),
        part("completion", V::DoubleValue(0.2)),
    ]);
    assert_eq!(
        body["step"]["cost_cents"],
        json!(30),
        "0.1 and 0.2 are no more than 0.3"
    );
    assert_eq!(body["otel"]["attributes"]["llm.cost.prompt"], json!(0.1));
    assert_eq!(body["otel"]["attributes"]["llm.cost.completion"], json!(0.2));
    let cost = |more| chat(more)["step"]["cost_cents"].clone();
    assert_eq!(cost(vec![part("prompt", V::DoubleValue(0.0042))]), json!(0.42));
    let with_total = vec![
        part("prompt", V::DoubleValue(0.1)),
        part("completion", V::DoubleValue(0.2)),
        part("total", V::DoubleValue(0.25)),
    ];
    assert_eq!(cost(with_total), json!(25), "a total counts before its parts");
    let unreadable = vec![
        part("prompt", V::DoubleValue(0.1)),
        part("completion", V::DoubleValue(-0.2)),
    ];
    assert_eq!(cost(unreadable), json!(0));
}

#[test]
fn what_the_messages_do_not_say_stays_as_sent_too() {
    let sent = r#"{"messages":[{"role":"user","content":"hi"}],"temperature":0.2}"#;
    let body = of(
        "llm",
        vec![
            kv("openinference.span.kind", text("LLM")),
            kv("input.value", text(sent)),
        ],
    );
    assert_eq!(body["step"]["params"]["messages"][0]["parts"][0]["content"], "hi");
    assert_eq!(body["otel"]["attributes"]["input.value"], sent);

    let none = chat(vec![kv("gen_ai.output.messages", text("[]"))]);
    assert_eq!(none["step"]["outcome_data"], Json::Null);
    assert_eq!(none["otel"]["attributes"]["gen_ai.output.messages"], "[]");

    let mut own = span(1, "chat", vec![kv("gen_ai.operation.name", text("chat"))]);
    let content = kv("gen_ai.event.content", text(r#"{"content":"hi"}"#));
    own.events = vec![event("gen_ai.user.message", vec![content, kv("mine", text("x"))])];
    let body = only(&request(vec![own]));
    assert_eq!(body["step"]["params"]["messages"][0]["parts"][0]["content"], "hi");
    assert_eq!(body["otel"]["events"][0]["attributes"]["mine"], "x");
}

#[test]
fn spans_of_one_shape_are_mapped_each_by_its_own_values() {
    let chat = |n: u8, model: &str, tokens: V| {
        span(
            n,
            "chat",
            vec![
                kv("gen_ai.operation.name", text("chat")),
                kv("gen_ai.request.model", text(model)),
                kv("gen_ai.usage.input_tokens", tokens),
            ],
        )
    };
    let lowered = lower(&request(vec![
        chat(1, "a", V::IntValue(1)),
        chat(2, "b", V::IntValue(-1)),
        chat(3, "c", V::IntValue(3)),
    ]));
    let seen: Vec<_> = steps(&lowered)
        .iter()
        .map(|draft| {
            let body = body(draft);
            let kept = body["otel"]["attributes"]["gen_ai.usage.input_tokens"].clone();
            (
                body["step"]["skill_name"].clone(),
                body["provider"]["input_tokens"].clone(),
                kept,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (json!("a"), json!(1), Json::Null),
            (json!("b"), Json::Null, json!(-1)),
            (json!("c"), json!(3), Json::Null),
        ]
    );
}
