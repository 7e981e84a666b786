"""The one agent run that every dialect tells.

An agent is asked for the weather, its model calls a tool, the tool answers (or
times out), the model answers the user. Written once, in words of no dialect;
each emit_<dialect>.py translates it. What the server must make of it is written
out by hand in test_dialects.py and shares nothing with this file.

Times are constants with digits below the microsecond, which a store that
rounds early would lose.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

BASE_NS = 1_795_000_000_123_456_789
MS = 1_000_000

AGENT = "weather-agent"
CONVERSATION = "conversation-7"
PROVIDER = "openai"
MODEL = "gpt-4o-mini"
MODEL_SERVED = "gpt-4o-mini-2024-07-18"
TEMPERATURE = 0.25

SYSTEM = "You answer questions about the weather."
QUESTION = "How warm is it in Lisbon?"
TOOL = "get_weather"
CALL_ID = "call_7Qx1"
ARGUMENTS = {"city": "Lisbon", "days": 1, "unit": "celsius"}
RESULT = {"temperature": 21.5, "sky": "clear"}
ANSWER = "It is 21.5 °C in Lisbon, under a clear sky."
ERROR_TYPE = "TimeoutError"
ERROR_TEXT = "the weather service did not answer"
APOLOGY = "I could not reach the weather service."

VARIANTS = ("ok", "failing")


@dataclass(frozen=True)
class Part:
    """One part of a message: exactly one of text, call or response is set."""

    text: str | None = None
    arguments: dict[str, Any] | None = None
    response: Any = None


@dataclass(frozen=True)
class Message:
    role: str
    part: Part

    @property
    def response_text(self) -> str:
        """A tool's result as a chat API carries it: always text."""
        response = self.part.response
        return response if isinstance(response, str) else json.dumps(response)


@dataclass(frozen=True)
class Usage:
    """Input includes what was cached, output includes what was reasoned."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int

    @property
    def total(self) -> int:
        return self.input + self.output


@dataclass(frozen=True)
class Chat:
    start_ms: int
    end_ms: int
    response_id: str
    input: tuple[Message, ...]
    output: Message
    finish: str
    usage: Usage


@dataclass(frozen=True)
class Tool:
    start_ms: int
    end_ms: int
    failed: bool


@dataclass(frozen=True)
class Run:
    end_ms: int
    first: Chat
    tool: Tool
    second: Chat

    @property
    def usage(self) -> Usage:
        """What an agent span repeats: the sum over its model calls."""
        a, b = self.first.usage, self.second.usage
        return Usage(a.input + b.input, a.output + b.output, a.cache_read + b.cache_read,
                     a.cache_write + b.cache_write, a.reasoning + b.reasoning)


def run(variant: str) -> Run:
    failed = variant == "failing"
    assert variant in VARIANTS, variant
    system = Message("system", Part(text=SYSTEM))
    question = Message("user", Part(text=QUESTION))
    call = Message("assistant", Part(arguments=ARGUMENTS))
    returned = Message("tool", Part(response=ERROR_TEXT if failed else RESULT))
    answer = Message("assistant", Part(text=APOLOGY if failed else ANSWER))
    return Run(
        end_ms=4_000,
        first=Chat(100, 1_100, "chatcmpl-1", (system, question), call, "tool_calls",
                   Usage(input=82, output=17, cache_read=32, cache_write=16, reasoning=0)),
        tool=Tool(1_200, 1_700, failed),
        second=Chat(1_800, 2_800, "chatcmpl-2", (system, question, call, returned), answer, "stop",
                    Usage(input=120, output=24, cache_read=64, cache_write=0, reasoning=8)),
    )
