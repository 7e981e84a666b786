//! Each vocabulary by itself: what is taken, what is kept, and what is said about it.

use serde_json::json;

use super::*;

fn mapping(body: &Json) -> &str {
    body["otel"]["mapping"].as_str().unwrap()
}

fn attributes(body: &Json) -> Vec<&str> {
    body["otel"]["attributes"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn otel_1_41_is_taken_whole_and_the_rest_is_kept() {
    let body = of(
        "chat gpt-4o",
        vec![
            kv("gen_ai.operation.name", text("chat")),
            kv("gen_ai.provider.name", text("openai")),
            kv("gen_ai.request.model", text("gpt-4o")),
            kv("gen_ai.response.model", text("gpt-4o-2024-08-06")),
            kv("gen_ai.response.id", text("resp_1")),
            kv("gen_ai.response.finish_reasons", list([text("stop")])),
            kv("gen_ai.request.temperature", V::DoubleValue(0.2)),
            kv("gen_ai.usage.input_tokens", V::IntValue(100)),
            kv("gen_ai.usage.output_tokens", V::IntValue(20)),
            kv("gen_ai.usage.cache_read.input_tokens", V::IntValue(40)),
            kv("gen_ai.usage.cache_creation.input_tokens", V::IntValue(5)),
            kv("gen_ai.usage.reasoning.output_tokens", V::IntValue(7)),
            kv("gen_ai.usage.cost", V::DoubleValue(0.0042)),
            kv(
                "gen_ai.input.messages",
                text(r#"[{"role":"user","parts":[{"type":"text","content":"hi"}]}]"#),
            ),
            kv(
                "gen_ai.output.messages",
                text(r#"[{"role":"assistant","parts":[{"type":"text","content":"ho"}]}]"#),
            ),
            kv("app.own", V::BoolValue(true)),
        ],
    );
    assert_eq!(mapping(&body), "otel-genai/1.41;deponent/1");
    assert_eq!(
        attributes(&body),
        ["app.own", "gen_ai.operation.name", "gen_ai.request.temperature"]
    );
    let provider = &body["provider"];
    assert_eq!(provider["provider_name"], "openai");
    assert_eq!(provider["model_name"], "gpt-4o");
    assert_eq!(provider["model_version"], "gpt-4o-2024-08-06");
    assert_eq!(provider["provider_request_id"], "resp_1");
    assert_eq!(
        [
            &provider["input_tokens"],
            &provider["output_tokens"],
            &provider["total_tokens"]
        ],
        [&json!(100), &json!(20), &json!(120)]
    );
    assert_eq!(
        [
            &provider["cache_read_tokens"],
            &provider["cache_creation_tokens"],
            &provider["reasoning_tokens"]
        ],
        [&json!(40), &json!(5), &json!(7)]
    );
    assert_eq!(provider["provider_latency_ms"], json!(1000));
    assert_eq!(provider["requested_at"], "2025-11-21T09:23:21.123456Z");
    assert_eq!(provider["responded_at"], "2025-11-21T09:23:22.123456Z");
    assert_eq!(body["activity"]["completion_type"], "stop");
    assert_eq!(body["activity"]["prompt_token_length"], json!(100));
    assert_eq!(
        body["activity"]["prompt_fingerprint"],
        hex_string(&evidence::sha256(b"hi"))
    );
    assert_eq!(
        body["activity"]["response_fingerprint"],
        hex_string(&evidence::sha256(b"ho"))
    );
    assert_eq!(body["step"]["cost_cents"], json!(0.42));
    assert_eq!(body["step"]["inference"], json!(true));
    assert_eq!(body["step"]["source"], "otlp");
}

#[test]
fn each_generation_and_vocabulary_is_named() {
    let model = || kv("gen_ai.request.model", text("m"));
    for (attributes, expected) in [
        (
            vec![kv("gen_ai.system", text("openai")), model()],
            "otel-genai/pre-1.37;deponent/1",
        ),
        (
            vec![kv("gen_ai.provider.name", text("openai")), model()],
            "otel-genai/1.41;deponent/1",
        ),
        (
            vec![
                kv("gen_ai.provider.name", text("x")),
                kv("gen_ai.usage.cache_write.input_tokens", V::IntValue(1)),
            ],
            "otel-genai/next;deponent/1",
        ),
        (
            vec![kv("gen_ai.operation.name", text("search_memory"))],
            "otel-genai/next;deponent/1",
        ),
        (
            vec![kv("openinference.span.kind", text("LLM"))],
            "openinference/0.1;deponent/1",
        ),
        (
            vec![
                kv("llm.request.type", text("chat")),
                kv("gen_ai.system", text("x")),
            ],
            "openllmetry/0.4;deponent/1",
        ),
        (
            vec![
                kv("traceloop.span.kind", text("agent")),
                kv("gen_ai.provider.name", text("x")),
            ],
            "openllmetry/0.5;deponent/1",
        ),
        (vec![kv("http.request.method", text("GET"))], "none;deponent/1"),
        (vec![], "none;deponent/1"),
    ] {
        assert_eq!(mapping(&of("span", attributes)), expected);
    }
}

#[test]
fn old_events_are_used_up_and_events_of_others_are_kept() {
    let mut chat = span(
        1,
        "chat m",
        vec![
            kv("gen_ai.operation.name", text("chat")),
            kv("gen_ai.request.model", text("m")),
        ],
    );
    chat.events = vec![
        event("gen_ai.user.message", vec![kv("content", text("hi"))]),
        event("cache.miss", vec![kv("key", text("k"))]),
        event(
            "gen_ai.choice",
            vec![
                kv("message", text("plain answer")),
                kv("finish_reason", text("length")),
            ],
        ),
    ];
    chat.dropped_events_count = 3;
    let body = only(&request(vec![chat]));
    assert_eq!(mapping(&body), "otel-genai/pre-1.37;deponent/1");
    assert_eq!(
        body["step"]["params"],
        json!({"messages": [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]})
    );
    assert_eq!(
        body["step"]["outcome_data"],
        json!({"messages": [{"role": "assistant", "parts": [{"type": "text", "content": "plain answer"}]}]})
    );
    assert_eq!(body["activity"]["completion_type"], "length");
    assert_eq!(
        body["otel"]["events"],
        json!([{"attributes": {"key": "k"}, "name": "cache.miss", "time_unix_nano": START.to_string()}])
    );
    assert_eq!(body["otel"]["dropped_events_count"], json!(3));
}

#[test]
fn the_details_event_carries_messages_as_well_as_attributes_do() {
    let mut chat = span(
        1,
        "chat m",
        vec![
            kv("gen_ai.operation.name", text("chat")),
            kv("gen_ai.request.model", text("m")),
        ],
    );
    let message = |role: &str, content: &str| {
        structured(&json!([{"role": role, "parts": [{"type": "text", "content": content}]}]))
    };
    chat.events = vec![event(
        "gen_ai.client.inference.operation.details",
        vec![
            kv("gen_ai.operation.name", text("chat")),
            kv("gen_ai.input.messages", message("user", "hi")),
            kv("gen_ai.output.messages", message("assistant", "ho")),
        ],
    )];
    let body = only(&request(vec![chat]));
    assert_eq!(body["step"]["params"]["messages"][0]["parts"][0]["content"], "hi");
    assert_eq!(
        body["step"]["outcome_data"]["messages"][0]["parts"][0]["content"],
        "ho"
    );
    assert_eq!(body["otel"]["events"], Json::Null);
}

#[test]
fn a_plain_prompt_of_before_1_28_is_a_message() {
    let body = of(
        "chat m",
        vec![
            kv("gen_ai.operation.name", text("text_completion")),
            kv("gen_ai.request.model", text("m")),
            kv("gen_ai.prompt", text("Once upon")),
            kv("gen_ai.completion", text("a time")),
        ],
    );
    assert_eq!(
        body["step"]["params"]["messages"][0],
        json!({"role": "user", "parts": [{"type": "text", "content": "Once upon"}]})
    );
    assert_eq!(body["step"]["outcome_data"]["messages"][0]["role"], "assistant");
}

#[test]
fn lookups_have_their_query_and_documents_in_both_vocabularies() {
    let documents = json!([{"id": "1", "score": 0.5, "content": "a"}, {"id": "2", "content": "b"}]);
    let otel = of(
        "retrieval x",
        vec![
            kv("gen_ai.operation.name", text("retrieval")),
            kv("gen_ai.retrieval.query.text", text("refunds")),
            kv("gen_ai.retrieval.documents", text(&documents.to_string())),
        ],
    );
    let inference = of(
        "retrieval x",
        vec![
            kv("openinference.span.kind", text("RETRIEVER")),
            kv("input.value", text("refunds")),
            kv("retrieval.documents.0.document.id", text("1")),
            kv("retrieval.documents.0.document.content", text("a")),
            kv("retrieval.documents.0.document.score", V::DoubleValue(0.5)),
            kv("retrieval.documents.1.document.id", text("2")),
            kv("retrieval.documents.1.document.content", text("b")),
        ],
    );
    for body in [otel, inference] {
        assert_eq!(body["step"]["params"], json!({"input": "refunds"}));
        assert_eq!(body["step"]["outcome_data"], documents);
        assert_eq!(body["step"]["inference"], Json::Null);
    }
}

#[test]
fn embeddings_count_as_inference_and_keep_their_vectors_as_sent() {
    let body = of(
        "embeddings",
        vec![
            kv("openinference.span.kind", text("EMBEDDING")),
            kv("embedding.model_name", text("e-3")),
            kv("embedding.embeddings.0.embedding.text", text("refund")),
            kv(
                "embedding.embeddings.0.embedding.vector",
                list([V::DoubleValue(0.5)]),
            ),
            kv("llm.token_count.prompt", V::IntValue(3)),
        ],
    );
    assert_eq!(body["step"]["params"], json!({"input": "refund"}));
    assert_eq!(body["step"]["skill_name"], "e-3");
    assert_eq!(body["step"]["inference"], json!(true));
    assert_eq!(body["provider"]["input_tokens"], json!(3));
    assert_eq!(
        body["otel"]["attributes"]["embedding.embeddings.0.embedding.vector"],
        json!([0.5])
    );
}

/// What a span with that status decided: the word, and the section.
fn decision(name: &str, status: i32, attributes: Vec<KeyValue>) -> (Option<String>, Json) {
    let mut guard = span(1, name, attributes);
    guard.status = Some(Status {
        code: status,
        message: String::new(),
    });
    let policy = only(&request(vec![guard]))["policy"].clone();
    (policy["decision"].as_str().map(str::to_owned), policy)
}

#[test]
fn a_guardrail_decides_by_its_word_and_without_one_grants_nothing() {
    let (said, policy) = decision(
        "gen_ai.run_guardrail pii",
        1,
        vec![
            kv("gen_ai.security.verdict.type", text("deny")),
            kv("gen_ai.security.verdict.reason", text("card number")),
            kv("gen_ai.security.policy.id", text("pii-1")),
            kv("gen_ai.security.policy.version", text("3")),
        ],
    );
    assert_eq!(said.as_deref(), Some("DENIED"));
    assert_eq!(
        policy,
        json!({"decision": "DENIED", "decision_reason": "card number", "policy_rule_id": "pii-1", "policy_type": "guardrail", "policy_version": "3"})
    );
    let kind = || vec![kv("openinference.span.kind", text("GUARDRAIL"))];
    let (said, policy) = decision("guard", 1, kind());
    assert_eq!(said.as_deref(), Some("PENDING_APPROVAL"));
    assert_eq!(policy["decision_reason"], "the span names no verdict");
    assert_eq!(decision("guard", 2, kind()).0.as_deref(), Some("DENIED"));
    let (said, policy) = decision(
        "execute_authorization",
        0,
        vec![kv("gen_ai.security.verdict.type", text("require_approval"))],
    );
    assert_eq!(
        (said.as_deref(), &policy["policy_type"]),
        (Some("PENDING_APPROVAL"), &json!("authorization"))
    );
    assert_eq!(decision("chat", 1, vec![]).0, None);
    let risk = || vec![kv("gen_ai.security.risk.level", text("low"))];
    assert_eq!(decision("chat", 1, risk()).0, None);
}

#[test]
fn words_of_a_verdict_are_known_in_any_case_and_in_flags() {
    for (word, meant) in [
        (text("unsafe"), "DENIED"),
        (text("GUARDRAIL_INTERVENED"), "DENIED"),
        (text("Flagged"), "DENIED"),
        (text("violation"), "DENIED"),
        (text(" Rejected "), "DENIED"),
        (V::BoolValue(false), "DENIED"),
        (text("False"), "DENIED"),
        (text("NONE"), "GRANTED"),
        (text("safe"), "GRANTED"),
        (text("PASSED"), "GRANTED"),
        (text("require_approval"), "PENDING_APPROVAL"),
    ] {
        for key in ["gen_ai.security.verdict", "guardrail.decision"] {
            let (said, policy) = decision("run_guardrail", 1, vec![kv(key, word.clone())]);
            assert_eq!(said.as_deref(), Some(meant), "{word:?}");
            assert!(policy.get("decision_reason").is_none(), "{policy}");
        }
    }
}

#[test]
fn a_word_that_is_not_known_grants_nothing_and_is_named() {
    let key = "gen_ai.security.verdict";
    for (word, reason) in [
        (text("purple"), r#"the verdict "purple" is not known"#.to_owned()),
        (V::IntValue(1), r#"the verdict "1" is not known"#.to_owned()),
        // The hit of a rule, or its pass.
        (
            V::BoolValue(true),
            r#"the verdict "true" is not known"#.to_owned(),
        ),
        (list([text("allow")]), "the verdict is no word".to_owned()),
        (
            text(&"x".repeat(257)),
            "the verdict of 257 bytes is not known".to_owned(),
        ),
    ] {
        let (said, policy) = decision("run_guardrail", 1, vec![kv(key, word.clone())]);
        assert_eq!(said.as_deref(), Some("PENDING_APPROVAL"), "{policy}");
        assert_eq!(policy["decision_reason"], reason);
        let (said, policy) = decision("run_guardrail", 2, vec![kv(key, word)]);
        assert_eq!(said.as_deref(), Some("DENIED"), "{policy}");
        assert_eq!(policy["decision_reason"], reason);
    }
    let beside = |other: &str| {
        let attributes = vec![
            kv(key, text("purple")),
            kv("guardrail.decision", text(other)),
            kv("guardrail.reason", text("card number")),
        ];
        decision("run_guardrail", 1, attributes).1
    };
    assert_eq!(beside("deny")["decision"], "DENIED");
    let two = vec![
        kv("gen_ai.security.verdict.type", text("pass")),
        kv("gen_ai.security.action.type", text("block")),
    ];
    let (said, _) = decision("run_guardrail", 1, two);
    assert_eq!(said.as_deref(), Some("DENIED"), "the strictest of what is said");
    let granted = beside("allow");
    assert_eq!(granted["decision"], "PENDING_APPROVAL");
    assert_eq!(
        granted["decision_reason"],
        r#"the verdict "purple" is not known: card number"#
    );
}

#[test]
fn agent_audit_events_decide_by_their_latest_stage() {
    let staged = |events: Vec<Event>| {
        let mut action = span(1, "send_email", vec![]);
        action.events = events;
        only(&request(vec![action]))
    };
    let id = || kv("agent_audit.action.id", text("a1"));
    let proposed = || event("agent_audit.proposed", vec![id()]);
    let decided = |word: &str| {
        event(
            "agent_audit.decided",
            vec![id(), kv("agent_audit.decision", text(word))],
        )
    };
    let body = staged(vec![proposed()]);
    assert_eq!(body["policy"]["decision"], "PENDING_APPROVAL");
    assert_eq!(mapping(&body), "agent-audit/proposed;deponent/1");
    assert_eq!(body["otel"]["events"][0]["name"], "agent_audit.proposed");
    assert_eq!(
        staged(vec![proposed(), decided("denied")])["policy"]["decision"],
        "DENIED"
    );
    assert_eq!(
        staged(vec![proposed(), decided("approve")])["policy"]["decision"],
        "GRANTED"
    );
}

#[test]
fn of_several_agent_audit_actions_the_most_strictly_judged_counts() {
    let policy = |events: &[(&str, &str, Option<&str>)]| {
        let mut span = span(1, "send_email", vec![]);
        for (stage, id, word) in events {
            let mut attributes = vec![kv("agent_audit.action.id", text(id))];
            attributes.extend(word.map(|word| kv("agent_audit.decision", text(word))));
            span.events
                .push(event(&format!("agent_audit.{stage}"), attributes));
        }
        only(&request(vec![span]))["policy"].clone()
    };
    let denied = policy(&[
        ("proposed", "a1", None),
        ("proposed", "a2", None),
        ("decided", "a1", Some("deny")),
        ("decided", "a2", Some("allow")),
        ("executed", "a2", None),
    ]);
    assert_eq!(
        denied,
        json!({"decision": "DENIED", "decision_reason": "action a1", "policy_type": "action"})
    );
    let repeated = policy(&[("decided", "a1", Some("deny")), ("executed", "a1", Some("allow"))]);
    assert_eq!(
        repeated["decision"], "DENIED",
        "an execution decides nothing again"
    );
    let mut own = span(1, "send_email", vec![kv("agent_audit.decision", text("deny"))]);
    own.events.push(event("agent_audit.executed", vec![]));
    assert_eq!(only(&request(vec![own]))["policy"]["decision"], "DENIED");
    let pending = policy(&[
        ("proposed", "a1", None),
        ("proposed", "a2", None),
        ("decided", "a2", Some("allow")),
    ]);
    assert_eq!(
        (&pending["decision"], &pending["decision_reason"]),
        (&json!("PENDING_APPROVAL"), &json!("action a1"))
    );
    for (events, meant) in [
        // Of one action what was said last.
        (
            vec![
                ("decided", "a1", Some("deny")),
                ("decided", "a1", Some("approve")),
            ],
            "GRANTED",
        ),
        (
            vec![("proposed", "a1", None), ("executed", "a1", None)],
            "GRANTED",
        ),
        // That it was done does not make it allowed.
        (
            vec![("decided", "a1", Some("deny")), ("executed", "a1", None)],
            "DENIED",
        ),
        (
            vec![("decided", "a1", Some("purple")), ("executed", "a1", None)],
            "PENDING_APPROVAL",
        ),
        (vec![("decided", "a1", None)], "PENDING_APPROVAL"),
        (
            vec![
                ("decided", "a1", Some("approve")),
                ("decided", "a2", Some("approve")),
            ],
            "GRANTED",
        ),
    ] {
        assert_eq!(policy(&events)["decision"], meant, "{events:?}");
    }
}

#[test]
fn a_tool_argument_that_is_no_object_is_an_input() {
    for (sent, kept) in [
        (text("[1,2]"), json!({"input": [1, 2]})),
        (text("plain words"), json!({"input": "plain words"})),
        (text("{\"a\": {\"b\": 1}}"), json!({"a": {"b": 1}})),
        (map([("a", V::IntValue(1))]), json!({"a": 1})),
    ] {
        let tool = of(
            "t",
            vec![
                kv("gen_ai.operation.name", text("execute_tool")),
                kv("gen_ai.tool.call.arguments", sent),
            ],
        );
        assert_eq!(tool["step"]["params"], kept);
    }
}

#[test]
fn a_schema_is_not_taken_for_arguments() {
    let body = of(
        "t",
        vec![
            kv("openinference.span.kind", text("TOOL")),
            kv(
                "tool.parameters",
                text(r#"{"type": "object", "properties": {"a": {"type": "integer"}}}"#),
            ),
            kv("input.value", text(r#"{"a": 1}"#)),
        ],
    );
    assert_eq!(body["step"]["params"], json!({"a": 1}));
    assert!(attributes(&body).contains(&"tool.parameters"));
}
