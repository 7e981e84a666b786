"""A model provider on this machine: answers chat completions like OpenAI's API.

Deterministic. Without a tool's answer among the messages it asks for the tool;
with one it answers in text. A system message containing `FAIL` gets a server
error. Usage counts words and always reports cached and reasoned tokens.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BODY_BYTES_MAX = 1 << 20


def completion(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    messages = request["messages"]
    said = " ".join(str(m.get("content") or "") for m in messages)
    if any(m["role"] == "system" and "FAIL" in str(m["content"]) for m in messages):
        return 500, {"error": {"message": "the model is overloaded", "type": "server_error",
                               "param": None, "code": None}}
    answered = [m for m in messages if m["role"] == "tool"]
    if request.get("tools") and not answered:
        function = request["tools"][0]["function"]["name"]
        message = {"role": "assistant", "content": None, "tool_calls": [{
            "id": "call_live1", "type": "function",
            "function": {"name": function, "arguments": json.dumps({"city": "Lisbon"})}}]}
        finish, output = "tool_calls", 11
    else:
        message = {"role": "assistant", "content": "It is warm in Lisbon."}
        finish, output = "stop", 9
    prompt = 40 + len(said.split())
    return 200, {
        "id": f"chatcmpl-live-{len(messages)}",
        "object": "chat.completion",
        "created": 1_795_000_000,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 0,
                                          "accepted_prediction_tokens": 0,
                                          "rejected_prediction_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_live",
    }


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        if not self.path.endswith("/chat/completions"):
            return self.answer(404, {"error": {"message": f"no {self.path}", "type": "not_found"}})
        if length > BODY_BYTES_MAX:
            return self.answer(413, {"error": {"message": "too large", "type": "invalid_request_error"}})
        status, body = completion(json.loads(self.rfile.read(length)))
        return self.answer(status, body)

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet: what it answered shows in the spans."""


class Provider:
    """Runs on a free loopback port until `close`."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.base_url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
