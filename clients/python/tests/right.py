"""What the server says when all is well, as far as the client reads it: for tests that have something else in its place."""

from __future__ import annotations

import json
from typing import Any

import httpx

DONE: dict[str, Any] = {
    "output": "receipt", "output_hash": "0" * 64, "executed": True, "skipped": False, "checked": False,
    "from_cache": False,
}
STORED: dict[str, Any] = {**DONE, "executed": False, "skipped": True, "from_cache": True}
RECEIPT = {"record_id": "0198", "leaf_index": 7, "leaf_hash": "1" * 64, "tree_size": 8}
COUNTS = dict.fromkeys(("total", "executed", "skipped", "matched", "mismatched", "violated", "differed"), 0)


def call_of(method: str, path: str) -> str:
    """Which call it is: `start`, `page`, `decision`, `renew`, `result`, `fail`, `steps`, `complete` or `report`."""
    end = path.partition("?")[0].rpartition("/")[2]
    if path.startswith("/api/v1/replay/runs/"):
        return "report"
    if path == "/api/v1/replay/steps":
        return "decision"
    return {"runs": "start", "trace": "page"}.get(end, end) if method in ("GET", "POST") else end


def said(method: str, path: str, sent: bytes) -> tuple[int, dict[str, Any] | None]:
    """Status and content of a right answer; `None`: no content."""
    call = call_of(method, path)
    if call in ("renew", "fail"):
        return 204, None
    body = json.loads(sent) if sent else {}
    of_run = {"run_id": path.split("/")[4], "trace_id": "trace_r", "receipt": RECEIPT} if call != "start" else {}
    return {
        "start": lambda: (201, {"run_id": body.get("run_id", "made"), "trace_id": "t", "receipt": RECEIPT}),
        "page": lambda: (200, {"steps": [], "next_cursor": None}),
        "decision": lambda: (200, {"action": "execute", "token": "t", "lease_secs": 60}),
        "result": lambda: (201, {**DONE, "output": body["output"], "receipt": RECEIPT}),
        "steps": lambda: (201, {**of_run, "step_index": body["step_index"]}),
        "complete": lambda: (201, {**of_run, "status": body["status"], "execution_status": "SUCCEEDED"}),
        "report": lambda: (200, {**COUNTS, "run_id": path.split("/")[5], "steps": [], "first_divergence": None}),
    }[call]()


def answer(request: httpx.Request) -> httpx.Response:
    """The same for a transport."""
    status, content = said(request.method, request.url.path, request.content)
    return httpx.Response(status) if content is None else httpx.Response(status, json=content)
