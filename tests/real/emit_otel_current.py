"""OTel GenAI as of 1.41: messages as JSON text in attributes."""

import json

import agent_run as a
from emitting import Dialect, SpanKind, Told, emit


def message(m: a.Message) -> dict:
    part = m.part
    if part.arguments is not None:
        body = {"type": "tool_call", "id": a.CALL_ID, "name": a.TOOL, "arguments": part.arguments}
    elif part.response is not None:
        body = {"type": "tool_call_response", "id": a.CALL_ID, "response": m.response_text}
    else:
        body = {"type": "text", "content": part.text}
    return {"role": m.role, "parts": [body]}


def usage(u: a.Usage) -> dict:
    return {
        "gen_ai.usage.input_tokens": u.input,
        "gen_ai.usage.output_tokens": u.output,
        "gen_ai.usage.cache_read.input_tokens": u.cache_read,
        "gen_ai.usage.cache_creation.input_tokens": u.cache_write,
        "gen_ai.usage.reasoning.output_tokens": u.reasoning,
    }


def agent(run: a.Run) -> Told:
    return Told(f"invoke_agent {a.AGENT}", {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": a.PROVIDER,
        "gen_ai.agent.name": a.AGENT,
        "gen_ai.agent.id": "agent-1",
        "gen_ai.conversation.id": a.CONVERSATION,
        **usage(run.usage),  # repeats its children's sums: must not be counted again
    })


def chat(c: a.Chat) -> Told:
    system = [m for m in c.input if m.role == "system"]
    others = [m for m in c.input if m.role != "system"]
    return Told(f"chat {a.MODEL}", {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": a.PROVIDER,
        "gen_ai.request.model": a.MODEL,
        "gen_ai.request.temperature": a.TEMPERATURE,
        "gen_ai.response.model": a.MODEL_SERVED,
        "gen_ai.response.id": c.response_id,
        "gen_ai.response.finish_reasons": [c.finish],
        "gen_ai.conversation.id": a.CONVERSATION,
        "gen_ai.system_instructions": json.dumps(
            [{"type": "text", "content": m.part.text} for m in system]),
        "gen_ai.input.messages": json.dumps([message(m) for m in others]),
        "gen_ai.output.messages": json.dumps([{**message(c.output), "finish_reason": c.finish}]),
        **usage(c.usage),
    }, SpanKind.CLIENT)


def tool(t: a.Tool) -> Told:
    outcome = ({"error.type": a.ERROR_TYPE} if t.failed
               else {"gen_ai.tool.call.result": json.dumps(a.RESULT)})
    return Told(f"execute_tool {a.TOOL}", {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": a.TOOL,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": a.CALL_ID,
        "gen_ai.tool.call.arguments": json.dumps(a.ARGUMENTS),
        **outcome,
    })


DIALECT = Dialect("opentelemetry.genai.current", agent, chat, tool)

if __name__ == "__main__":
    emit(DIALECT)
