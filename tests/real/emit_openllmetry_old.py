"""OpenLLMetry up to 0.4: indexed prompts and completions, traceloop.* for the rest,
and the provider spelled "OpenAI" as its instrumentation spelled it."""

import json

import agent_run as a
from emitting import Dialect, SpanKind, Told, emit


def message(prefix: str, m: a.Message) -> dict:
    part = m.part
    flat = {f"{prefix}.role": m.role}
    if part.arguments is not None:
        call = f"{prefix}.tool_calls.0"
        flat |= {f"{call}.id": a.CALL_ID, f"{call}.name": a.TOOL,
                 f"{call}.arguments": json.dumps(part.arguments)}
    elif part.response is not None:
        flat |= {f"{prefix}.content": m.response_text, f"{prefix}.tool_call_id": a.CALL_ID}
    else:
        flat[f"{prefix}.content"] = part.text
    return flat


def usage(u: a.Usage) -> dict:
    return {
        "gen_ai.usage.prompt_tokens": u.input,
        "gen_ai.usage.completion_tokens": u.output,
        "llm.usage.total_tokens": u.total,
        "gen_ai.usage.cache_read_input_tokens": u.cache_read,
        "gen_ai.usage.cache_creation_input_tokens": u.cache_write,
        "llm.usage.reasoning_tokens": u.reasoning,
    }


def agent(run: a.Run) -> Told:
    return Told(f"{a.AGENT}.agent", {
        "traceloop.span.kind": "agent",
        "traceloop.entity.name": a.AGENT,
        "traceloop.association.properties.session_id": a.CONVERSATION,
        **usage(run.usage),
    })


def chat(c: a.Chat) -> Told:
    attributes = {
        "llm.request.type": "chat",
        "gen_ai.system": "OpenAI",
        "gen_ai.request.model": a.MODEL,
        "gen_ai.request.temperature": a.TEMPERATURE,
        "gen_ai.response.model": a.MODEL_SERVED,
        "gen_ai.response.id": c.response_id,
        "gen_ai.completion.0.finish_reason": c.finish,
        "llm.is_streaming": False,
        "traceloop.entity.path": a.AGENT,
        "traceloop.association.properties.session_id": a.CONVERSATION,
        **usage(c.usage),
    }
    for index, m in enumerate(c.input):
        attributes |= message(f"gen_ai.prompt.{index}", m)
    attributes |= message("gen_ai.completion.0", c.output)
    return Told("openai.chat", attributes, SpanKind.CLIENT)


def tool(t: a.Tool) -> Told:
    outcome = ({"error.type": a.ERROR_TYPE} if t.failed
               else {"traceloop.entity.output": json.dumps(a.RESULT)})
    return Told(f"{a.TOOL}.tool", {
        "traceloop.span.kind": "tool",
        "traceloop.entity.name": a.TOOL,
        "traceloop.entity.path": a.AGENT,
        "traceloop.entity.input": json.dumps(a.ARGUMENTS),
        **outcome,
    })


DIALECT = Dialect("opentelemetry.instrumentation.openai.v1", agent, chat, tool)

if __name__ == "__main__":
    emit(DIALECT)
