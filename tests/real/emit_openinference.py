"""OpenInference: span kinds of its own, messages flattened into indexed attributes.

It has no error.type; a failed tool shows in the span's status and exception event.
"""

import json

import agent_run as a
from emitting import Dialect, SpanKind, Told, emit


def message(prefix: str, m: a.Message) -> dict:
    part = m.part
    flat = {f"{prefix}.message.role": m.role}
    if part.arguments is not None:
        call = f"{prefix}.message.tool_calls.0.tool_call"
        flat |= {
            f"{call}.id": a.CALL_ID,
            f"{call}.function.name": a.TOOL,
            f"{call}.function.arguments": json.dumps(part.arguments),
        }
    elif part.response is not None:
        flat |= {f"{prefix}.message.content": m.response_text,
                 f"{prefix}.message.tool_call_id": a.CALL_ID}
    else:
        flat[f"{prefix}.message.content"] = part.text
    return flat


def usage(u: a.Usage) -> dict:
    return {
        "llm.token_count.prompt": u.input,
        "llm.token_count.completion": u.output,
        "llm.token_count.total": u.total,
        "llm.token_count.prompt_details.cache_read": u.cache_read,
        "llm.token_count.prompt_details.cache_write": u.cache_write,
        "llm.token_count.completion_details.reasoning": u.reasoning,
    }


def agent(run: a.Run) -> Told:
    return Told(a.AGENT, {
        "openinference.span.kind": "AGENT",
        "agent.name": a.AGENT,
        "session.id": a.CONVERSATION,
        **usage(run.usage),
    })


def chat(c: a.Chat) -> Told:
    attributes = {
        "openinference.span.kind": "LLM",
        "llm.system": a.PROVIDER,
        "llm.provider": a.PROVIDER,
        "llm.model_name": a.MODEL_SERVED,  # served if known, else requested
        "llm.request.model_name": a.MODEL,
        "llm.response.model_name": a.MODEL_SERVED,
        "llm.invocation_parameters": json.dumps({"model": a.MODEL, "temperature": a.TEMPERATURE}),
        "llm.finish_reason": c.finish,
        "session.id": a.CONVERSATION,
        # The whole request and response ride along; the messages below are the same, told better.
        "input.value": json.dumps({"model": a.MODEL, "messages": len(c.input)}),
        "input.mime_type": "application/json",
        "output.value": json.dumps({"id": c.response_id, "object": "chat.completion"}),
        "output.mime_type": "application/json",
        **usage(c.usage),
    }
    for index, m in enumerate(c.input):
        attributes |= message(f"llm.input_messages.{index}", m)
    attributes |= message("llm.output_messages.0", c.output)
    return Told("ChatCompletion", attributes, SpanKind.INTERNAL)


def tool(t: a.Tool) -> Told:
    attributes = {
        "openinference.span.kind": "TOOL",
        "tool.name": a.TOOL,
        "tool.id": a.CALL_ID,
        "input.value": json.dumps(a.ARGUMENTS),
        "input.mime_type": "application/json",
    }
    if not t.failed:
        attributes |= {"output.value": json.dumps(a.RESULT), "output.mime_type": "application/json"}
    return Told(a.TOOL, attributes)


DIALECT = Dialect("openinference.instrumentation.weather", agent, chat, tool)

if __name__ == "__main__":
    emit(DIALECT)
