"""The server as these tests see it: paths, lists with cursors, records by id.

Where the specification leaves the shape of an answer open, the one reading the
tests rely on stands here and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

PAGE = 200
# `runs.seal_after` is 30 s unless the server was started with less.
SETTLE_SECS_MAX = 120.0
CHECKPOINT_SECS_MAX = 60.0
"""A checkpoint is signed at latest one second after a commit; the rest is room for a busy machine."""
ANSWER_SECS_MAX = 60.0
POLL_SECS = 0.05


@dataclass
class Api:
    base_url: str
    key: str | None = None
    tenant: str = "default"
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        self.client = httpx.Client(base_url=self.base_url, headers=headers, timeout=ANSWER_SECS_MAX, trust_env=False)

    def get(self, path: str, **params: Any) -> Any:
        answer = self.client.get(path, params=params)
        assert answer.status_code == 200, f"GET {answer.url}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def read(self, path: str) -> bytes:
        answer = self.client.get(path)
        assert answer.status_code == 200, f"GET {answer.url}: {answer.status_code} {answer.text[:500]}"
        return answer.content

    def record_ids(self, **filters: Any) -> list[str]:
        return list(self._record_ids(filters))

    def _record_ids(self, filters: dict[str, Any]) -> Iterator[str]:
        cursor: dict[str, Any] = {}
        while True:
            page = self.get("/api/v1/records", limit=PAGE, **filters, **cursor)
            for item in page["items"]:
                yield item.get("header", item)["id"]
            if not page.get("next_cursor"):
                return
            cursor = {"cursor": page["next_cursor"]}

    def record(self, record_id: str) -> dict[str, Any]:
        """{header, body, receipt, …}"""
        return self.get(f"/api/v1/records/{record_id}")

    def records(self, **filters: Any) -> list[dict[str, Any]]:
        return [self.record(record_id) for record_id in self.record_ids(**filters)]

    def step_record(self, trace_id: str, span_id: str) -> dict[str, Any]:
        """The one record of a span."""
        found = self.records(trace_id=trace_id, span_id=span_id, kind="trace.step")
        assert len(found) == 1, f"span {span_id} has {len(found)} records"
        return found[0]

    def envelope(self, run_id: str) -> dict[str, Any]:
        return self.get(f"/api/v1/logs/llm-runs/{run_id}/envelope")

    def trace_read(self, run_id: str) -> dict[str, Any]:
        return self.get(f"/api/v1/logs/llm-runs/{run_id}/trace")

    def run_trace(self, run_id: str) -> dict[str, Any]:
        """The run with its steps in full."""
        return self.get(f"/api/v1/traces/{run_id}")

    def settled_root_hash(self, run_id: str) -> str:
        """The hash over a run's steps, which the server records a while after the root span."""
        deadline = time.monotonic() + SETTLE_SECS_MAX
        while (found := self.run_trace(run_id)["root_hash"]) is None:
            assert time.monotonic() < deadline, f"run {run_id} was not settled"
            time.sleep(0.1)
        return found

    def tlog(self, path: str) -> bytes:
        return self.read(f"/tlog/{self.tenant}/{path}")

    def checkpoint_covering(self, size: int) -> bytes:
        """A signed checkpoint of at least `size` leaves."""
        deadline = time.monotonic() + CHECKPOINT_SECS_MAX
        while True:
            note = self.tlog("checkpoint")
            if int(note.split(b"\n")[1]) >= size:
                return note
            assert time.monotonic() < deadline, f"no checkpoint of {size} leaves within {CHECKPOINT_SECS_MAX} s"
            time.sleep(POLL_SECS)

    def tree_size(self) -> int:
        return self.get("/api/v1/ledger/head")["tree_size"]
