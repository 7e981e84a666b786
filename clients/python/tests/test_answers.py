"""Answers that are none of Deponent's: a proxy's page with status 200, JSON that is something else, fields that are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import deponent
import httpx
import pytest
import right
from right import DONE, STORED

Answer = Callable[[httpx.Request], httpx.Response]

PAGE = "<html>" + "please sign in " * 1_000


def page(status: int = 200) -> httpx.Response:
    return httpx.Response(status, html=PAGE)


def said(json: Any) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(200, json=json)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deponent.client.PAUSE_SECS", 0.001)


def pay_blocking(answer: Answer, paid: list[str], index: int | None) -> Any:
    run = deponent.Client("http://test", transport=httpx.MockTransport(answer)).attach("r")
    with run.open_step("pay", behavior="skip", key="k", index=index) as step:
        if step.must_run:
            paid.append("paid")
            step.output = "receipt"
    return step.output


def pay_async(answer: Answer, paid: list[str], index: int | None) -> Any:
    async def main() -> Any:
        run = deponent.AsyncClient("http://test", transport=httpx.MockTransport(answer)).attach("r")
        async with run.open_step("pay", behavior="skip", key="k", index=index) as step:
            if step.must_run:
                paid.append("paid")
                step.output = "receipt"
        return step.output

    return asyncio.run(main())


both = pytest.mark.parametrize("pay", [pay_blocking, pay_async], ids=["blocking", "async"])


def server(
    asked: list[str],
    decision: Callable[[], httpx.Response] = said({"action": "execute", "token": "t", "lease_secs": 0.2}),
    result: Callable[[], httpx.Response] = said(DONE),
) -> Answer:
    """A server that says so; what it is asked, but for renewals, which come at any moment."""

    def answer(request: httpx.Request) -> httpx.Response:
        call = right.call_of(request.method, request.url.path)
        if call != "renew":
            asked.append(call)
        return {"decision": decision, "result": result}.get(call, lambda: right.answer(request))()

    return answer


@both
@pytest.mark.parametrize("decision", [
    page,
    lambda: httpx.Response(200, text="ok"),
    lambda: httpx.Response(200),
    lambda: httpx.Response(200, text="[" * 100_000),
    lambda: httpx.Response(200, content=b"\xff\xfe{"),
    lambda: httpx.Response(200, content=b"no gzip", headers={"content-encoding": "gzip"}),
    said([{"action": "execute", "token": "t"}]),
    said(None),
    said({}),
    said({"action": "wait", "token": "t"}),
    said({"action": "execute"}),
    said({"action": "execute", "token": 7}),
    said({"action": "execute", "token": "../steps"}),
    said({"action": "execute", "token": "t", "lease_secs": 0}),
    said({"action": "execute", "token": "t", "lease_secs": "soon"}),
    said({"action": "execute", "token": "t", "lease_secs": 1e300}),
    said({"action": "execute", "token": "t", "lease_secs": 10**400}),
    said({"action": "use_stored"}),
    said({"action": "use_stored", **DONE}),
    said({"action": "use_stored", **STORED, "executed": "no"}),
    said({"action": "use_stored", **STORED, "output_hash": "none"}),
    said({"action": "use_stored", **{name: value for name, value in STORED.items() if name != "output"}}),
])
def test_a_decision_that_is_none_lets_nothing_run_and_nothing_count_as_done(
    pay: Any, decision: Callable[[], httpx.Response]
) -> None:
    paid: list[str] = []
    asked: list[str] = []
    with pytest.raises(deponent.DeponentError) as raised:
        pay(server(asked, decision=decision), paid, 0)
    assert raised.value.code in ("bad_answer", "unreachable")
    assert paid == []
    assert asked == ["decision"] * 5 + ["steps"], "asked again under the same key, and a failure on record"


@both
def test_what_an_error_tells_of_an_answer_is_bounded(pay: Any) -> None:
    with pytest.raises(deponent.BadAnswer) as raised:
        pay(server([], decision=page), [], 0)
    bad = raised.value
    assert (bad.status, bad.code, bad.problem) == (200, "bad_answer", {})
    assert bad.content_type.startswith("text/html") and bad.text == PAGE[:200]
    for part in ("200", "text/html", "please sign in"):
        assert part in str(bad)
    assert len(str(bad)) < 500


@both
def test_a_decision_is_believed_when_the_server_gives_it_after_all(pay: Any) -> None:
    answers = [page, said([]), said({"action": "use_stored", **STORED})]
    paid: list[str] = []
    assert pay(server([], decision=lambda: answers.pop(0)()), paid, 0) == "receipt"
    assert paid == [] and answers == []


@both
@pytest.mark.parametrize("result", [
    page, said([]), said({}), said({**DONE, "output_hash": None}), said(STORED), lambda: page(404), lambda: page(409), lambda: page(520),
])
def test_an_output_whose_answer_is_none_is_brought_until_there_is_one(
    pay: Any, result: Callable[[], httpx.Response]
) -> None:
    answers = [result] * 7 + [said(DONE)]
    paid: list[str] = []
    asked: list[str] = []
    decision = said({"action": "execute", "token": "t", "lease_secs": 20})
    assert pay(server(asked, decision, lambda: answers.pop(0)()), paid, 0) == "receipt"
    assert paid == ["paid"]
    assert asked == ["decision"] + ["result"] * 8 + ["steps"]


@both
@pytest.mark.parametrize("result", [page, said([]), said({}), lambda: page(409), lambda: page(404)])
def test_an_output_whose_answer_is_none_is_not_known_to_be_kept_and_its_key_is_not_freed(
    pay: Any, result: Callable[[], httpx.Response]
) -> None:
    paid: list[str] = []
    asked: list[str] = []
    with pytest.raises(deponent.OutputNotKept) as raised:
        pay(server(asked, result=result), paid, 0)
    assert raised.value.output == "receipt" and paid == ["paid"]
    assert "fail" not in asked


@both
def test_a_lease_goes_on_being_renewed_after_a_page_of_a_proxy(pay: Any) -> None:
    renewals: list[int] = []
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/renew"):
            renewals.append(1)
            return page(404)
        return inner(request)

    def result() -> httpx.Response:
        # Brought again and again, until it has been renewed twice.
        return said(DONE)() if len(renewals) >= 2 else httpx.Response(503)

    inner = server(asked, said({"action": "execute", "token": "t", "lease_secs": 3}), result)
    assert pay(answer, [], 0) == "receipt"
    assert len(renewals) >= 2


@both
@pytest.mark.parametrize("steps", [
    [], {}, {"steps": {}}, {"steps": [7]}, {"steps": [{}]}, {"steps": [{"step_index": "1"}]},
    {"steps": [], "next_cursor": 7},
])
def test_steps_that_cannot_be_counted_let_nothing_run(pay: Any, steps: Any) -> None:
    paid: list[str] = []
    with pytest.raises(deponent.BadAnswer):
        pay(lambda _: httpx.Response(200, json=steps), paid, None)
    assert paid == []


def test_a_run_that_has_no_name_is_none() -> None:
    for answer in (page, said({}), said({"run_id": None}), said(["r"])):
        transport = httpx.MockTransport(lambda _, answer=answer: answer())
        with pytest.raises(deponent.BadAnswer):
            deponent.Client("http://test", transport=transport).run()

        async def main(transport: httpx.MockTransport = transport) -> None:
            await deponent.AsyncClient("http://test", transport=transport).run()

        with pytest.raises(deponent.BadAnswer):
            asyncio.run(main())


@both
def test_a_refusal_that_lacks_what_it_is_about_is_a_bad_answer_and_nothing_runs(pay: Any) -> None:
    paid: list[str] = []
    refused = httpx.Response(409, json={"code": "idempotency_violation", "detail": "another input"})
    with pytest.raises(deponent.BadAnswer, match="idempotency_violation"):
        pay(server([], decision=lambda: refused), paid, 0)
    assert paid == []


def test_a_refusal_of_something_else_says_how_it_begins() -> None:
    transport = httpx.MockTransport(lambda _: page(403))
    with pytest.raises(deponent.DeponentError, match="status 403.*text/html.*please sign in") as raised:
        deponent.Client("http://test", transport=transport).run()
    assert (raised.value.status, raised.value.code) == (403, "unknown")
    assert len(str(raised.value)) < 500
