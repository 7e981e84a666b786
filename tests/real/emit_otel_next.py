"""OTel GenAI after 1.41: cache_write, messages as structured attribute values, and
the tool response under `result`, as the registry's own example writes it."""

import agent_run as a
from emitting import Dialect, SpanKind, Told, emit


def message(m: a.Message) -> dict:
    part = m.part
    if part.arguments is not None:
        body = {"type": "tool_call", "id": a.CALL_ID, "name": a.TOOL, "arguments": part.arguments}
    elif part.response is not None:
        body = {"type": "tool_call_response", "id": a.CALL_ID, "result": part.response}
    else:
        body = {"type": "text", "content": part.text}
    return {"role": m.role, "parts": [body]}


def agent(run: a.Run) -> Told:
    # No id, no version, no cache counts: removed from the internal agent span.
    return Told(f"invoke_agent {a.AGENT}", {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": a.PROVIDER,
        "gen_ai.agent.name": a.AGENT,
        "gen_ai.conversation.id": a.CONVERSATION,
        "gen_ai.usage.input_tokens": run.usage.input,
        "gen_ai.usage.output_tokens": run.usage.output,
    })


def chat(c: a.Chat) -> Told:
    return Told(f"chat {a.MODEL}", {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": a.PROVIDER,
        "gen_ai.request.model": a.MODEL,
        "gen_ai.request.temperature": a.TEMPERATURE,
        "gen_ai.response.model": a.MODEL_SERVED,
        "gen_ai.response.id": c.response_id,
        "gen_ai.response.finish_reasons": [c.finish],
        "gen_ai.conversation.id": a.CONVERSATION,
        "gen_ai.system_instructions": [
            {"type": "text", "content": m.part.text} for m in c.input if m.role == "system"],
        "gen_ai.input.messages": [message(m) for m in c.input if m.role != "system"],
        "gen_ai.output.messages": [message(c.output)],
        "gen_ai.usage.input_tokens": c.usage.input,
        "gen_ai.usage.output_tokens": c.usage.output,
        "gen_ai.usage.cache_read.input_tokens": c.usage.cache_read,
        "gen_ai.usage.cache_write.input_tokens": c.usage.cache_write,
        "gen_ai.usage.reasoning.output_tokens": c.usage.reasoning,
    }, SpanKind.CLIENT)


def tool(t: a.Tool) -> Told:
    outcome = {"error.type": a.ERROR_TYPE} if t.failed else {"gen_ai.tool.call.result": a.RESULT}
    return Told(f"execute_tool {a.TOOL}", {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": a.TOOL,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": a.CALL_ID,
        "gen_ai.tool.call.arguments": a.ARGUMENTS,
        **outcome,
    })


DIALECT = Dialect("opentelemetry.genai.next", agent, chat, tool)

if __name__ == "__main__":
    emit(DIALECT)
