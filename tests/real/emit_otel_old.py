"""OTel GenAI before 1.37: gen_ai.system, prompt and completion tokens, messages
as span events whose body is JSON in gen_ai.event.content."""

import json

import agent_run as a
from emitting import Dialect, SpanKind, Told, emit


def body(m: a.Message) -> dict:
    """A message as the chat API and these events have it."""
    part = m.part
    if part.arguments is not None:
        function = {"name": a.TOOL, "arguments": json.dumps(part.arguments)}
        return {"role": m.role, "tool_calls": [{"id": a.CALL_ID, "type": "function", "function": function}]}
    if part.response is not None:
        return {"role": m.role, "content": m.response_text, "id": a.CALL_ID}
    return {"role": m.role, "content": part.text}


def event(name: str, content: dict) -> tuple[str, dict]:
    return name, {"gen_ai.system": a.PROVIDER, "gen_ai.event.content": json.dumps(content)}


def usage(u: a.Usage) -> dict:
    return {
        "gen_ai.usage.prompt_tokens": u.input,
        "gen_ai.usage.completion_tokens": u.output,
        "gen_ai.usage.cache_read.input_tokens": u.cache_read,
        "gen_ai.usage.cache_creation.input_tokens": u.cache_write,
    }


def agent(run: a.Run) -> Told:
    return Told(f"invoke_agent {a.AGENT}", {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.system": a.PROVIDER,
        "gen_ai.agent.name": a.AGENT,
        "session.id": a.CONVERSATION,
        **usage(run.usage),
    })


def chat(c: a.Chat) -> Told:
    choice = {"index": 0, "finish_reason": c.finish, "message": body(c.output)}
    events = [event(f"gen_ai.{m.role}.message", body(m)) for m in c.input]
    return Told(f"chat {a.MODEL}", {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": a.PROVIDER,
        "gen_ai.request.model": a.MODEL,
        "gen_ai.request.temperature": a.TEMPERATURE,
        "gen_ai.response.model": a.MODEL_SERVED,
        "gen_ai.response.id": c.response_id,
        "gen_ai.response.finish_reasons": [c.finish],
        "session.id": a.CONVERSATION,
        **usage(c.usage),
    }, SpanKind.CLIENT, [*events, event("gen_ai.choice", choice)])


def tool(t: a.Tool) -> Told:
    outcome = ({"error.type": a.ERROR_TYPE} if t.failed
               else {"gen_ai.tool.call.result": json.dumps(a.RESULT)})
    return Told(f"execute_tool {a.TOOL}", {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.system": a.PROVIDER,
        "gen_ai.tool.name": a.TOOL,
        "gen_ai.tool.call.id": a.CALL_ID,
        "gen_ai.tool.call.arguments": json.dumps(a.ARGUMENTS),
        **outcome,
    })


DIALECT = Dialect("opentelemetry.genai.old", agent, chat, tool)

if __name__ == "__main__":
    emit(DIALECT)
