"""The first truth wins: sending again changes nothing, sending otherwise is refused and told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import otlp
from api import Api

SENDERS = 8


@pytest.fixture
def trace() -> bytes:
    return otlp.new_trace()


def spans(trace: bytes) -> list[Any]:
    root = otlp.span(trace, "invoke_agent resend", 1)
    return [otlp.span(trace, f"step {n}", n, root.span_id, attempt=n) for n in (2, 3)] + [root]


def receipts(api: Api, trace: bytes) -> dict[str, Any]:
    return {r["header"]["id"]: r["receipt"] for r in api.records(trace_id=trace.hex(), kind="trace.step")}


def made(api: Api, trace: bytes) -> list[str]:
    """The records that came of a trace's spans. That of its end is the server's own, and comes a while after the root."""
    found = api.records(trace_id=trace.hex())
    return [r["header"]["id"] for r in found if r["header"]["kind"] != "trace.completed"]


def test_the_same_request_twice_gives_the_first_receipts(api: Api, trace: bytes) -> None:
    body = otlp.request(*spans(trace)).SerializeToString()
    assert otlp.rejected(otlp.send(api, body)) == (0, "")
    first = receipts(api, trace)
    records = made(api, trace)
    assert otlp.rejected(otlp.send(api, body)) == (0, "")
    assert len(first) == 3
    assert receipts(api, trace) == first
    assert made(api, trace) == records


def test_the_same_spans_in_another_encoding_are_the_same_spans(api: Api, trace: bytes) -> None:
    message = otlp.request(*spans(trace))
    assert otlp.rejected(otlp.send(api, message.SerializeToString(), gzipped=True)) == (0, "")
    first = receipts(api, trace)
    assert otlp.rejected(otlp.send(api, otlp.as_json(message), otlp.JSON)) == (0, "")
    assert receipts(api, trace) == first


def test_the_same_spans_in_other_batches_are_the_same_spans(api: Api, trace: bytes) -> None:
    one, two, three = spans(trace)
    for batch in ((one,), (two, one), (three, two), (one, two, three)):
        assert otlp.rejected(otlp.send(api, otlp.request(*batch).SerializeToString())) == (0, "")
    assert len(receipts(api, trace)) == 3


def test_a_span_twice_in_one_request_is_one_record(api: Api, trace: bytes) -> None:
    one = spans(trace)[0]
    assert otlp.rejected(otlp.send(api, otlp.request(one, one).SerializeToString())) == (0, "")
    assert len(receipts(api, trace)) == 1


def test_senders_that_race_with_one_request_make_one_record_per_span(api: Api, trace: bytes) -> None:
    body = otlp.request(*spans(trace)).SerializeToString()
    with ThreadPoolExecutor(SENDERS) as pool:
        answers = list(pool.map(lambda _: otlp.send(api, body), range(SENDERS)))
    assert [otlp.rejected(answer) for answer in answers] == [(0, "")] * SENDERS
    assert len(receipts(api, trace)) == 3


@pytest.mark.parametrize("media_type", [otlp.PROTOBUF, otlp.JSON])
def test_another_content_under_a_known_span_id_is_refused_and_the_first_stays(
    api: Api, trace: bytes, media_type: str
) -> None:
    one, two, _ = spans(trace)
    assert otlp.rejected(otlp.send(api, otlp.request(one).SerializeToString())) == (0, "")
    first = api.step_record(trace.hex(), one.span_id.hex())

    changed = type(one).FromString(one.SerializeToString())
    changed.attributes[0].value.int_value = 99
    message = otlp.request(changed, two)
    body = otlp.as_json(message) if media_type == otlp.JSON else message.SerializeToString()
    count, why = otlp.rejected(otlp.send(api, body, media_type))

    assert count == 1
    assert one.span_id.hex() in why, f"the reason does not name the span: {why!r}"
    assert api.step_record(trace.hex(), one.span_id.hex()) == first
    assert len(receipts(api, trace)) == 2, "the neighbour of a refused span is kept"
