//! The same agent run in every vocabulary gives the same steps, and so the same root hash.

use evidence::record::{StepView, root_hash, step_hash};
use serde_json::json;
use serde_json::value::RawValue;

use super::*;

const MODEL: &str = "gpt-4o";
const SYSTEM: &str = "You are a clerk.";
const ASK: &str = "Refund order 7?";
const ARGUMENTS: &str = r#"{"order": 7}"#;
const RESULT: &str = r#"{"paid": 12.5, "ok": true}"#;
const ANSWER: &str = "Refunded.";

/// The four spans of the run: agent, chat, tool, chat.
struct Run {
    agent: Span,
    first: Span,
    tool: Span,
    second: Span,
}

fn run(agent: Vec<KeyValue>, first: Vec<KeyValue>, tool: Vec<KeyValue>, second: Vec<KeyValue>) -> Run {
    Run {
        agent: span(1, "agent span", agent),
        first: span(2, "a chat span", first),
        tool: span(3, "a tool span", tool),
        second: span(4, "another chat span", second),
    }
}

/// Bodies of the steps in the order of time.
fn bodies(run: &Run) -> Vec<Vec<u8>> {
    let spans = vec![
        run.first.clone(),
        run.tool.clone(),
        run.second.clone(),
        run.agent.clone(),
    ];
    let lowered = lower(&request(spans));
    assert_eq!(lowered.rejected.count, 0);
    let mut drafts = steps(&lowered);
    drafts.sort_by_key(|draft| draft.occurred_at);
    drafts.into_iter().map(body_bytes).collect()
}

fn root(run: &Run) -> String {
    let bodies = bodies(run);
    let hashes: Vec<_> = (0..)
        .zip(&bodies)
        .map(|(index, body)| step_hash(index, &StepView::read(body).unwrap().step))
        .collect();
    hex_string(&root_hash("plan", 42, &hashes))
}

fn otel(text_of: impl Fn(&Json) -> V) -> Run {
    let user = json!({"role": "user", "parts": [{"type": "text", "content": ASK}]});
    let call = json!({"role": "assistant", "parts": [
        {"type": "tool_call", "id": "call_1", "name": "refund", "arguments": {"order": 7}}]});
    let mut call_out = call.clone();
    call_out["finish_reason"] = json!("tool_call");
    let response = json!({"role": "tool", "parts": [
        {"type": "tool_call_response", "id": "call_1", "response": {"paid": 12.5, "ok": true}}]});
    let answer =
        json!({"role": "assistant", "finish_reason": "stop", "parts": [{"type": "text", "content": ANSWER}]});
    let chat = |input: Json, output: Json, id: &str| {
        vec![
            kv("gen_ai.operation.name", text("chat")),
            kv("gen_ai.provider.name", text("openai")),
            kv("gen_ai.request.model", text(MODEL)),
            kv("gen_ai.response.model", text("gpt-4o-2024-08-06")),
            kv("gen_ai.response.id", text(id)),
            kv(
                "gen_ai.system_instructions",
                text_of(&json!([{"type": "text", "content": SYSTEM}])),
            ),
            kv("gen_ai.input.messages", text_of(&input)),
            kv("gen_ai.output.messages", text_of(&output)),
            kv("gen_ai.usage.input_tokens", V::IntValue(100)),
            kv("gen_ai.usage.output_tokens", V::IntValue(20)),
        ]
    };
    run(
        vec![
            kv("gen_ai.operation.name", text("invoke_agent")),
            kv("gen_ai.agent.name", text("clerk")),
            kv("gen_ai.agent.id", text("asst_1")),
            kv("gen_ai.request.model", text(MODEL)),
            kv("gen_ai.usage.input_tokens", V::IntValue(200)),
            kv("gen_ai.input.messages", text_of(&json!([user]))),
        ],
        chat(json!([user]), json!([call_out]), "1"),
        vec![
            kv("gen_ai.operation.name", text("execute_tool")),
            kv("gen_ai.tool.name", text("refund")),
            kv("gen_ai.tool.call.id", text("call_1")),
            kv("gen_ai.tool.call.arguments", text(ARGUMENTS)),
            kv("gen_ai.tool.call.result", text(RESULT)),
        ],
        chat(json!([user, call, response]), json!([answer]), "2"),
    )
}

fn otel_text() -> Run {
    otel(|json| text(&json.to_string()))
}

fn otel_old() -> Run {
    let chat = |id: &str| {
        vec![
            kv("gen_ai.operation.name", text("chat")),
            kv("gen_ai.system", text("openai")),
            kv("gen_ai.request.model", text(MODEL)),
            kv("gen_ai.response.id", text(id)),
            kv("gen_ai.usage.prompt_tokens", V::IntValue(100)),
            kv("gen_ai.usage.completion_tokens", V::IntValue(20)),
        ]
    };
    let calls =
        json!([{"id": "call_1", "type": "function", "function": {"name": "refund", "arguments": ARGUMENTS}}]);
    let mut run = run(
        vec![
            kv("gen_ai.operation.name", text("invoke_agent")),
            kv("gen_ai.system", text("openai")),
            kv("gen_ai.agent.name", text("clerk")),
        ],
        chat("1"),
        vec![
            kv("gen_ai.operation.name", text("execute_tool")),
            kv("gen_ai.tool.name", text("refund")),
            kv("gen_ai.tool.call.arguments", text(ARGUMENTS)),
            kv("gen_ai.tool.call.result", text(RESULT)),
        ],
        chat("2"),
    );
    let said = |name: &str, content: &str| {
        event(
            name,
            vec![kv("gen_ai.system", text("openai")), kv("content", text(content))],
        )
    };
    run.first.events = vec![
        said("gen_ai.system.message", SYSTEM),
        said("gen_ai.user.message", ASK),
        event(
            "gen_ai.choice",
            vec![
                kv("index", V::IntValue(0)),
                kv("finish_reason", text("tool_calls")),
                kv(
                    "message",
                    text(&json!({"role": "assistant", "tool_calls": calls}).to_string()),
                ),
            ],
        ),
    ];
    run.second.events = vec![
        said("gen_ai.system.message", SYSTEM),
        said("gen_ai.user.message", ASK),
        event(
            "gen_ai.assistant.message",
            vec![kv("content", text("")), kv("tool_calls", text(&calls.to_string()))],
        ),
        event("gen_ai.tool.message", vec![kv("id", text("call_1")), kv("content", text(RESULT))]),
        event(
            "gen_ai.choice",
            vec![kv(
                "gen_ai.event.content",
                text(&json!({"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}).to_string()),
            )],
        ),
    ];
    run
}

fn openinference() -> Run {
    let llm = |mut more: Vec<KeyValue>| {
        more.extend([
            kv("openinference.span.kind", text("LLM")),
            kv("llm.model_name", text(MODEL)),
            kv("llm.provider", text("openai")),
            kv("llm.token_count.prompt", V::IntValue(100)),
            kv("llm.token_count.completion", V::IntValue(20)),
            kv("input.value", text("{\"raw\": \"request\"}")),
            kv("output.value", text("raw answer")),
            kv("llm.input_messages.0.message.role", text("system")),
            kv("llm.input_messages.0.message.content", text(SYSTEM)),
            kv("llm.input_messages.1.message.role", text("user")),
            kv(
                "llm.input_messages.1.message.contents.0.message_content.type",
                text("text"),
            ),
            kv(
                "llm.input_messages.1.message.contents.0.message_content.text",
                text(ASK),
            ),
            kv("llm.output_messages.0.message.role", text("assistant")),
        ]);
        more
    };
    let call = |message: &str| {
        let key = |rest: &str| format!("{message}.message.tool_calls.0.tool_call.{rest}");
        vec![
            kv(&key("id"), text("call_1")),
            kv(&key("function.name"), text("refund")),
            kv(&key("function.arguments"), text(ARGUMENTS)),
        ]
    };
    let mut second = call("llm.input_messages.2");
    second.extend([
        kv("llm.input_messages.2.message.role", text("assistant")),
        kv("llm.input_messages.3.message.role", text("tool")),
        kv("llm.input_messages.3.message.tool_call_id", text("call_1")),
        kv("llm.input_messages.3.message.content", text(RESULT)),
        kv("llm.output_messages.0.message.content", text(ANSWER)),
    ]);
    run(
        vec![
            kv("openinference.span.kind", text("AGENT")),
            kv("agent.name", text("clerk")),
            kv("input.value", text(ASK)),
            kv("output.value", text(ANSWER)),
        ],
        llm(call("llm.output_messages.0")),
        vec![
            kv("openinference.span.kind", text("TOOL")),
            kv("tool.name", text("refund")),
            kv("tool.json_schema", text("{\"type\": \"object\"}")),
            kv("input.value", text(ARGUMENTS)),
            kv("input.mime_type", text("application/json")),
            kv("output.value", text(RESULT)),
        ],
        llm(second),
    )
}

fn openllmetry(new: bool) -> Run {
    let source = otel_text();
    let llm = |source: Span, mut old: Vec<KeyValue>| {
        if new {
            let mut attributes = source.attributes;
            attributes.push(kv("traceloop.workflow.name", text("refunds")));
            return attributes;
        }
        old.extend([
            kv("llm.request.type", text("chat")),
            kv("gen_ai.system", text("OpenAI")),
            kv("gen_ai.request.model", text(MODEL)),
            kv("gen_ai.usage.prompt_tokens", V::IntValue(100)),
            kv("gen_ai.usage.completion_tokens", V::IntValue(20)),
            kv("llm.usage.total_tokens", V::IntValue(120)),
            kv("gen_ai.prompt.0.role", text("system")),
            kv("gen_ai.prompt.0.content", text(SYSTEM)),
            kv("gen_ai.prompt.1.role", text("user")),
            kv("gen_ai.prompt.1.content", text(ASK)),
            kv("gen_ai.completion.0.role", text("assistant")),
        ]);
        old
    };
    let call = |message: &str| {
        vec![
            kv(&format!("{message}.tool_calls.0.id"), text("call_1")),
            kv(&format!("{message}.tool_calls.0.name"), text("refund")),
            kv(&format!("{message}.tool_calls.0.arguments"), text(ARGUMENTS)),
        ]
    };
    let mut first = call("gen_ai.completion.0");
    first.push(kv("gen_ai.completion.0.finish_reason", text("tool_calls")));
    let mut second = call("gen_ai.prompt.2");
    second.extend([
        kv("gen_ai.prompt.2.role", text("assistant")),
        kv("gen_ai.prompt.3.role", text("tool")),
        kv("gen_ai.prompt.3.tool_call_id", text("call_1")),
        kv("gen_ai.prompt.3.content", text(RESULT)),
        kv("gen_ai.completion.0.content", text(ANSWER)),
        kv("gen_ai.completion.0.finish_reason", text("stop")),
    ]);
    let entity = |kind: &str, name: &str| {
        vec![
            kv("traceloop.span.kind", text(kind)),
            kv("traceloop.entity.name", text(name)),
        ]
    };
    let mut tool = entity("tool", "refund");
    tool.extend([
        kv(
            "traceloop.entity.input",
            text(&format!(r#"{{"args": [], "kwargs": {ARGUMENTS}}}"#)),
        ),
        kv("traceloop.entity.output", text(RESULT)),
    ]);
    let mut agent = entity("agent", "clerk");
    agent.push(kv("traceloop.entity.input", text("{}")));
    run(agent, llm(source.first, first), tool, llm(source.second, second))
}

#[test]
fn one_agent_run_has_one_root_hash_in_every_vocabulary() {
    let expected = root(&otel_text());
    for (name, run) in [
        ("OTel, structured", otel(structured)),
        ("OTel before 1.37", otel_old()),
        ("OpenInference", openinference()),
        ("OpenLLMetry 0.4", openllmetry(false)),
        ("OpenLLMetry 0.5", openllmetry(true)),
    ] {
        for (theirs, ours) in bodies(&run).iter().zip(bodies(&otel_text())) {
            let (theirs, ours) = (
                StepView::read(theirs).unwrap().step,
                StepView::read(&ours).unwrap().step,
            );
            assert_eq!(theirs.skill_name, ours.skill_name, "{name}");
            assert_eq!(theirs.params.get(), ours.params.get(), "{name}");
            assert_eq!(
                theirs.outcome_data.map(RawValue::get),
                ours.outcome_data.map(RawValue::get),
                "{name}"
            );
        }
        assert_eq!(root(&run), expected, "{name}");
    }
}

/// The contract that other writers of steps rely on, spelled out once.
#[test]
fn the_steps_are_these() {
    let bodies: Vec<Json> = bodies(&otel_text())
        .iter()
        .map(|body| serde_json::from_slice(body).unwrap())
        .collect();
    let seen: Vec<_> = bodies
        .iter()
        .map(|body| {
            (
                body["step"]["skill_name"].as_str().unwrap(),
                &body["step"]["params"],
                &body["step"]["outcome_data"],
            )
        })
        .collect();
    let system = json!({"role": "system", "parts": [{"type": "text", "content": SYSTEM}]});
    let user = json!({"role": "user", "parts": [{"type": "text", "content": ASK}]});
    let call = json!({"role": "assistant", "parts": [{"type": "tool_call", "name": "refund", "arguments": {"order": 7}}]});
    let response = json!({"role": "tool", "parts": [{"type": "tool_call_response", "response": {"paid": 12.5, "ok": true}}]});
    let answer = json!({"role": "assistant", "parts": [{"type": "text", "content": ANSWER}]});
    assert_eq!(
        seen,
        [
            ("clerk", &json!({}), &Json::Null),
            (
                MODEL,
                &json!({"messages": [system, user]}),
                &json!({"messages": [call]})
            ),
            ("refund", &json!({"order": 7}), &json!({"paid": 12.5, "ok": true})),
            (
                MODEL,
                &json!({"messages": [system, user, call, response]}),
                &json!({"messages": [answer]})
            ),
        ]
    );
    assert!(
        bodies
            .iter()
            .all(|body| body["step"]["outcome_category"] == "SUCCESS" && body["step"]["status"] == "success")
    );
}
