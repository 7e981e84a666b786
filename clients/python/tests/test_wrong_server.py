"""Each call against a server that answers it wrongly, over a socket: nothing runs twice for it, and no result is lost."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import deponent
import pytest
import right

# No content, as of what should have some.
NONE = object()
# What is no answer of any call.
WRONG: list[Any] = [{}, [], [{}], None, True, 7, "ok", NONE, {"status": "ok"}]
# Short, to be waited for; and so long that a busy machine has decided in a third of it.
SHORT_SECS = 0.3
LEASE_SECS = 1.5
# Against hanging for ever.
PATIENCE_SECS = 90.0


class Wrong:
    """A server that answers rightly, but for the calls of which `wrong` has answers."""

    def __init__(self) -> None:
        self.wrong: dict[str, Any] = {}
        # How often each wrong answer is given; more often than anybody asks, unless a test says less.
        self.times = 10**9
        self.asked: list[str] = []
        self.sent: dict[str, list[Any]] = {}
        self.lease_secs = 60.0
        self.decision_secs = 0.0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body of an answer are two writes, and the second would wait.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                sent = self.rfile.read(int(self.headers.get("content-length", "0")))
                status, content = owner.answer(self.command, self.path, sent)
                body = b"" if content is NONE else json.dumps(content).encode()
                self.send_response(204 if content is NONE else status)
                if content is not NONE:
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, method: str, path: str, sent: bytes) -> tuple[int, Any]:
        call = right.call_of(method, path)
        self.asked.append(call)
        self.sent.setdefault(call, []).append(json.loads(sent) if sent else None)
        if call == "decision":
            time.sleep(self.decision_secs)
        if call in self.wrong and self.times > 0:
            self.times -= 1
            return 200, self.wrong[call]
        if call == "decision":
            return 200, {"action": "execute", "token": "t", "lease_secs": self.lease_secs}
        status, content = right.said(method, path, sent)
        return status, NONE if content is None else content


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wrong]:
    monkeypatch.setattr("deponent.client.PAUSE_SECS", 0.001)
    wrong = Wrong()
    thread = threading.Thread(target=wrong.server.serve_forever, args=(0.01,))
    thread.start()
    yield wrong
    wrong.server.shutdown()
    thread.join()
    wrong.server.server_close()


class Blocking:
    """What a program does, and what it has of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.paid: list[str] = []
        self.outputs: list[Any] = []
        # What it waits for before it is done.
        self.until = lambda: True
        self.fails = False

    def pay(self) -> str:
        self.paid.append("paid")
        given_up = time.monotonic() + PATIENCE_SECS
        while not self.until() and time.monotonic() < given_up:
            time.sleep(0.01)
        if self.fails:
            raise ZeroDivisionError("no money")
        return "receipt"

    def steps(self, count: int = 1, key: str | None = "k", index: int | None = 0, attach: bool = False) -> None:
        with deponent.Client(self.url) as client:
            with client.attach("r") if attach else client.run("r") as run:
                for at in range(count):
                    with run.open_step("pay", behavior="skip", key=key, index=None if index is None else at) as step:
                        if step.must_run:
                            step.output = self.pay()
                    self.outputs.append(step.output)

    def report(self) -> dict[str, Any]:
        with deponent.Client(self.url) as client:
            return client.attach("r").report()

    def complete_twice(self) -> None:
        with deponent.Client(self.url) as client:
            with client.run("r") as run:
                with pytest.raises(deponent.BadAnswer):
                    run.complete()
                run.complete()


class Async(Blocking):
    """The same with coroutines."""

    def steps(self, count: int = 1, key: str | None = "k", index: int | None = 0, attach: bool = False) -> None:
        async def main() -> None:
            async with deponent.AsyncClient(self.url) as client:
                async with client.attach("r") if attach else await client.run("r") as run:
                    for at in range(count):
                        where = None if index is None else at
                        async with run.open_step("pay", behavior="skip", key=key, index=where) as step:
                            if step.must_run:
                                step.output = await asyncio.to_thread(self.pay)
                        self.outputs.append(step.output)

        asyncio.run(main())

    def report(self) -> dict[str, Any]:
        async def main() -> dict[str, Any]:
            async with deponent.AsyncClient(self.url) as client:
                return await client.attach("r").report()

        return asyncio.run(main())

    def complete_twice(self) -> None:
        async def main() -> None:
            async with deponent.AsyncClient(self.url) as client:
                async with await client.run("r") as run:
                    with pytest.raises(deponent.BadAnswer):
                        await run.complete()
                    await run.complete()

        asyncio.run(main())


@pytest.fixture(params=[Blocking, Async], ids=["blocking", "async"])
def program(request: pytest.FixtureRequest, server: Wrong) -> Blocking:
    made: Blocking = request.param(server.url)
    return made


def wrongly(*others: Any) -> Any:
    return pytest.mark.parametrize("wrong", [*WRONG, *others], ids=lambda wrong: "204" if wrong is NONE else repr(wrong)[:40])


def test_a_right_server_is_believed(server: Wrong, program: Blocking) -> None:
    program.steps(2)
    assert program.outputs == ["receipt"] * 2 and program.paid == ["paid"] * 2
    calls = [call for call in server.asked if call != "renew"]
    assert calls == ["start"] + ["decision", "result", "steps"] * 2 + ["complete"]
    assert program.report()["total"] == 0


@wrongly({"run_id": 7}, {"run_id": "another"}, {"run_id": ""})
def test_a_run_that_is_not_known_to_be_begun_has_no_steps(server: Wrong, program: Blocking, wrong: Any) -> None:
    server.wrong = {"start": wrong}
    with pytest.raises(deponent.BadAnswer):
        program.steps()
    assert server.asked == ["start"] * 5 and program.paid == []


@wrongly(
    {"steps": [], "next_cursor": "again"}, {"steps": [{"step_index": 1}]},
    {"steps": [{"step_index": -1}], "next_cursor": None}, {"steps": [{"step_index": True}], "next_cursor": None},
    {"steps": [{"step_index": 10**12}], "next_cursor": None}, {"steps": [{"step_index": 1}], "next_cursor": ["c"]},
)
def test_steps_that_cannot_be_counted_let_nothing_run(server: Wrong, program: Blocking, wrong: Any) -> None:
    server.wrong = {"page": wrong}
    with pytest.raises(deponent.BadAnswer):
        program.steps(index=None, attach=True)
    assert server.asked == ["page"] * 5 and program.paid == []


def test_pages_that_lead_to_themselves_are_not_read_for_ever(server: Wrong, program: Blocking) -> None:
    server.wrong = {"page": {"steps": [{"step_index": 1}], "next_cursor": "again"}}
    with pytest.raises(deponent.BadAnswer, match="leads nowhere"):
        program.steps(index=None, attach=True)
    assert server.asked == ["page"] * 6 and program.paid == []


@wrongly({"action": "execute", "token": ["t"]}, {"action": "execute", "token": {}}, {"action": True, "token": "t"},
         {"action": "use_stored", **right.STORED, "executed": 0}, {"action": "use_stored", **right.DONE})
def test_without_a_decision_nothing_runs(server: Wrong, program: Blocking, wrong: Any) -> None:
    server.wrong = {"decision": wrong}
    with pytest.raises(deponent.BadAnswer):
        program.steps()
    assert server.asked == ["start"] + ["decision"] * 5 + ["steps", "complete"] and program.paid == []
    assert server.sent["steps"][0]["outcome_code"] == "BadAnswer"
    assert server.sent["complete"][0]["status"] == "failed"


@pytest.mark.parametrize("wrong", [wrong for wrong in WRONG if wrong is not NONE], ids=repr)
def test_a_lease_that_is_not_known_to_hold_lets_nothing_run(server: Wrong, program: Blocking, wrong: Any) -> None:
    server.wrong, server.lease_secs, server.decision_secs = {"renew": wrong}, SHORT_SECS, SHORT_SECS / 2
    with pytest.raises(deponent.BadAnswer):
        program.steps()
    assert program.paid == [] and "fail" not in server.asked and "result" not in server.asked


@pytest.mark.parametrize("wrong", [{}, []], ids=repr)
def test_a_renewal_that_is_not_known_to_be_one_is_asked_for_again_and_the_step_goes_on(
    server: Wrong, program: Blocking, wrong: Any
) -> None:
    # The first renewal's five tries.
    server.wrong, server.times, server.lease_secs = {"renew": wrong}, 5, LEASE_SECS
    program.until = lambda: server.asked.count("renew") >= 6
    program.steps()
    assert program.outputs == ["receipt"] and program.paid == ["paid"]
    assert server.asked.count("renew") >= 6


@wrongly({**right.DONE, "executed": "yes"}, right.STORED, {**right.DONE, "output_hash": 7}, {**right.DONE, "output_hash": "h"})
def test_an_output_that_is_not_known_to_be_kept_is_handed_over_and_its_key_not_freed(
    server: Wrong, program: Blocking, wrong: Any
) -> None:
    server.wrong, server.lease_secs = {"result": wrong}, SHORT_SECS
    with pytest.raises(deponent.OutputNotKept) as raised:
        program.steps(2)
    assert raised.value.output == "receipt" and program.paid == ["paid"]
    assert isinstance(raised.value.__cause__, deponent.BadAnswer)
    assert "fail" not in server.asked and server.asked.count("result") >= 5
    assert server.sent["steps"][0]["outcome_code"] == "OutputNotKept"


@pytest.mark.parametrize("wrong", [{}, [], "ok"], ids=repr)
def test_what_the_function_raised_is_raised_though_its_key_is_not_known_to_be_free(
    server: Wrong, program: Blocking, wrong: Any
) -> None:
    server.wrong, program.fails = {"fail": wrong}, True
    with pytest.raises(ZeroDivisionError):
        program.steps()
    assert program.paid == ["paid"] and server.asked.count("fail") == 5
    assert server.sent["steps"][0]["outcome_code"] == "ZeroDivisionError"


@pytest.mark.parametrize("key", ["k", None])
@wrongly({"run_id": "r", "step_index": "0", "receipt": right.RECEIPT}, {"run_id": "r", "step_index": 0},
         {"run_id": "another", "step_index": 0, "receipt": right.RECEIPT})
def test_a_step_that_is_not_known_to_be_on_record_hands_its_output_over(
    server: Wrong, program: Blocking, wrong: Any, key: str | None
) -> None:
    server.wrong = {"steps": wrong}
    with pytest.raises(deponent.StepNotRecorded) as raised:
        program.steps(2, key=key)
    assert raised.value.output == "receipt" and program.paid == ["paid"]
    assert isinstance(raised.value.__cause__, deponent.BadAnswer)
    assert server.sent["steps"] == [server.sent["steps"][0]] * 5, "the same step again is no other"


def test_a_stored_output_whose_step_is_not_known_to_be_on_record_is_handed_over(server: Wrong, program: Blocking) -> None:
    server.wrong = {"decision": {"action": "use_stored", **right.STORED}, "steps": {}}
    server.times = 6
    with pytest.raises(deponent.StepNotRecorded) as raised:
        program.steps()
    assert raised.value.output == "receipt" and program.paid == []


@wrongly({"run_id": "another", "status": "completed", "receipt": right.RECEIPT}, {"run_id": "r", "receipt": right.RECEIPT},
         {"run_id": "r", "status": "completed", "receipt": None})
def test_an_end_that_is_not_known_to_be_one_takes_no_result_away(server: Wrong, program: Blocking, wrong: Any) -> None:
    server.wrong = {"complete": wrong}
    with pytest.raises(deponent.BadAnswer):
        program.steps(2)
    assert program.outputs == ["receipt"] * 2 and program.paid == ["paid"] * 2
    assert server.sent["complete"] == [{"status": "completed"}] * 5


def test_a_run_whose_end_is_not_known_may_be_ended_again(server: Wrong, program: Blocking) -> None:
    server.wrong, server.times = {"complete": {}}, 5
    program.complete_twice()
    assert server.sent["complete"] == [{"status": "completed"}] * 6, "and leaving the block ends it no third time"


@wrongly({"run_id": "r"}, {**right.COUNTS, "run_id": "r", "steps": []},
         {**right.COUNTS, "run_id": "r", "steps": {}, "first_divergence": None},
         {**right.COUNTS, "run_id": "r", "steps": [], "first_divergence": None, "executed": "3"})
def test_a_report_that_is_none_is_not_handed_out(server: Wrong, program: Blocking, wrong: Any) -> None:
    server.wrong = {"report": wrong}
    with pytest.raises(deponent.BadAnswer):
        program.report()
    assert server.asked == ["report"] * 5
