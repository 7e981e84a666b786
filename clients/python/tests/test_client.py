"""The client against a real server: DEPONENT_BIN (starts one) or DEPONENT_URL names it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import deponent
import httpx
import pytest
import right

README = Path(__file__).parent.parent / "README.md"
# Against hanging for ever; a busy machine may take a good part of it.
PATIENCE_SECS = 90.0


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if given := os.environ.get("DEPONENT_URL"):
        yield given
        return
    folder = tmp_path_factory.mktemp("data")
    log = folder / "log"
    command = [
        os.environ["DEPONENT_BIN"], "serve", "--demo", "--listen", "127.0.0.1:0", "--grpc-listen", "off",
        "--data-dir", str(folder / "data"),
    ]
    with log.open("w") as out:
        # Variables that it does not know are refused.
        env = {name: value for name, value in os.environ.items() if not name.startswith("DEPONENT_")}
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
    try:
        until = time.monotonic() + PATIENCE_SECS
        while not (found := re.search(r"listening on (http://\S+)", log.read_text())):
            assert time.monotonic() < until and server.poll() is None, log.read_text()
            time.sleep(0.05)
        yield found[1]
    finally:
        server.terminate()
        server.wait(PATIENCE_SECS)


@pytest.fixture
def client(url: str) -> Iterator[deponent.Client]:
    with deponent.Client(url) as client:
        yield client


def test_the_readme_pays_once_and_stops_at_the_changed_tool(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block.replace("http://127.0.0.1:4318", url), names)  # noqa: S102 - our own README
    assert names["paid"] == ["A-17"]
    assert capsys.readouterr().out == "{'order': 'A-17', 'paid': 1999}\n" * 3 + "1\n"


def test_three_calls_are_three_steps_of_which_two_did_not_run(client: deponent.Client) -> None:
    run = client.run()

    @run.step(behavior="skip", key=f"three-{run.run_id}")
    def work() -> int:
        return 7

    assert [work(), work(), work()] == [7, 7, 7]
    report = run.report()
    assert (report["executed"], report["skipped"], report["total"]) == (1, 2, 3)
    steps = client.request("GET", f"/api/v1/traces/{run.run_id}")["steps"]
    assert [step["status"] for step in steps] == ["success", "skipped", "skipped"]
    assert {step["skill_name"] for step in steps} == {"work"}


def test_of_many_threads_one_pays(client: deponent.Client) -> None:
    paid: list[str] = []
    run = client.run()
    key = f"many-{run.run_id}"

    def pay() -> str:
        mine = client.attach(run.run_id)
        try:
            with mine.open_step("pay", behavior="skip", key=key, index=0) as step:
                if step.must_run:
                    paid.append("paid")
                    time.sleep(0.2)
                    step.output = "receipt"
            return str(step.output)
        except deponent.InProgress as error:
            return error.code
        except deponent.StepNotRecorded as error:
            # Another has recorded the step at this index; what came out is handed over all the same.
            assert isinstance(error.__cause__, deponent.ConflictError) and error.__cause__.code == "conflict"
            return str(error.output)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: pay(), range(16)))
    assert paid == ["paid"]
    assert set(answers) <= {"receipt", "replay_in_progress"}, answers


def test_another_input_under_the_same_key_runs_nothing(client: deponent.Client) -> None:
    run = client.run()
    calls: list[int] = []

    @run.step(behavior="skip", key=f"input-{run.run_id}")
    def double(n: int) -> int:
        calls.append(n)
        return 2 * n

    assert double(1) == 2
    with pytest.raises(deponent.IdempotencyViolation) as raised:
        double(2)
    assert raised.value.key == f"input-{run.run_id}"
    assert calls == [1]


def test_a_step_that_raises_may_be_tried_again(client: deponent.Client) -> None:
    run = client.run()
    tries: list[int] = []

    @run.step(behavior="skip", key=f"fail-{run.run_id}")
    def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("no money")
        return "done"

    with pytest.raises(ValueError, match="no money"):
        flaky()
    assert flaky() == "done" and len(tries) == 2
    steps = client.request("GET", f"/api/v1/traces/{run.run_id}")["steps"]
    assert [step["status"] for step in steps] == ["failure", "success"]


def test_a_mismatch_names_step_and_hashes_and_is_not_stored(client: deponent.Client) -> None:
    run = client.run()
    key = f"mismatch-{run.run_id}"
    with pytest.raises(deponent.ReplayMismatch) as raised:
        with run.open_step("tool", behavior="check", key=key, expected="0" * 64) as step:
            step.output = 1
    assert (raised.value.step_index, raised.value.expected_hash) == (0, "0" * 64)
    with run.open_step("tool", behavior="check", key=key, expected=raised.value.actual_hash) as step:
        assert step.must_run, "nothing was stored"
        step.output = 1
    assert step.result is not None and step.result.checked


def test_the_same_for_asyncio(url: str) -> None:
    async def main() -> None:
        async with deponent.AsyncClient(url) as client:
            run = await client.run()
            calls: list[int] = []

            @run.step(behavior="skip", key=lambda n: f"async-{run.run_id}-{n}")
            async def work(n: int) -> int:
                calls.append(n)
                return n + 1

            assert [await work(1), await work(1), await work(2)] == [2, 2, 3]
            assert calls == [1, 2]
            async with run.open_step("block", behavior="check", expected=None) as step:
                if step.must_run:
                    step.output = {"a": [1]}
            assert step.result is not None and step.result.executed
            with pytest.raises(RuntimeError):
                async with run.open_step("bad", behavior="skip", key=f"bad-{run.run_id}"):
                    raise RuntimeError("no")
            report = await run.report()
            assert (report["executed"], report["skipped"]) == (3, 1)
            await run.complete()

    asyncio.run(main())


def test_a_function_is_a_step_of_whichever_run_is_current(client: deponent.Client) -> None:
    calls: list[int] = []

    @deponent.step
    def plain(n: int) -> int:
        calls.append(n)
        return n

    @deponent.step("named", behavior="skip", key=lambda n, of: f"current-{of}-{n}")
    def once(n: int, of: str) -> int:
        calls.append(n)
        return -n

    with client.run() as first:
        assert (plain(1), once(2, first.run_id), once(2, first.run_id)) == (1, -2, -2)
        with client.run() as second:
            assert (plain(3), once(2, first.run_id)) == (3, -2)
            assert deponent.current_run() is second
        assert plain(4) == 4
        assert deponent.current_run() is first
    assert calls == [1, 2, 3, 4]

    def steps(run: deponent.Run) -> list[tuple[str, str]]:
        trace = client.request("GET", f"/api/v1/traces/{run.run_id}")
        assert trace["status"] == "completed", "a run ends with its block"
        return [(step["skill_name"], step["status"]) for step in trace["steps"]]

    assert steps(first) == [("plain", "success"), ("named", "success"), ("named", "skipped"), ("plain", "success")]
    assert steps(second) == [("plain", "success"), ("named", "skipped")]


def steps_of(client: deponent.Client, run_id: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = client.request("GET", f"/api/v1/traces/{segment(run_id)}")["steps"]
    return steps


def segment(run_id: str) -> str:
    return quote(run_id, safe="").replace(".", "%2E")


@pytest.mark.parametrize(
    ("run_id", "other"),
    [("mine/../v%s", "v%s"), ("p%%2Fq%s", "p/q%s"), ("a%s?b#c", "a%s"), ("é ü+%s", None), (".", None), ("..", None)],
)
def test_whatever_a_run_is_called_its_steps_are_its_own(
    client: deponent.Client, url: str, run_id: str, other: str | None
) -> None:
    # No digits: one in ten of that length may be a card number, which is redacted.
    mark = str(time.monotonic_ns()).translate(str.maketrans("0123456789", "abcdefghij"))
    if "%s" in run_id:
        run_id %= mark
    others = client.run(other % mark) if other else None
    run = client.run(run_id)
    assert run.run_id == run_id
    with run.open_step("sync") as step:
        step.output = mark
    with client.attach(run_id).open_step("attached") as step:
        step.output = mark
    assert run.report()["run_id"] == run_id

    async def main() -> None:
        async with deponent.AsyncClient(url) as asynchronous:
            attached = asynchronous.attach(run_id)
            async with attached.open_step("async") as step:
                step.output = mark
            assert (await attached.report())["run_id"] == run_id
            await attached.complete()

    asyncio.run(main())
    last = steps_of(client, run_id)[-3:]
    assert [(step["skill_name"], step["outcome_data"]) for step in last] == [
        ("sync", mark), ("attached", mark), ("async", mark),
    ]
    assert client.request("GET", f"/api/v1/traces/{segment(run_id)}")["status"] == "completed"
    assert others is None or steps_of(client, others.run_id) == []


def indexes_and_names(client: deponent.Client, run_id: str) -> list[tuple[int, str]]:
    return [(step["step_index"], step["skill_name"]) for step in steps_of(client, run_id)]


def test_steps_are_counted_on_from_those_on_record(client: deponent.Client, url: str) -> None:
    run = client.run(f"counted-{time.monotonic_ns()}")
    for name, index in [("a", None), ("b", 2), ("c", None), ("d", 1), ("e", None)]:
        with run.open_step(name, index=index):
            pass
    expected = [(0, "a"), (1, "d"), (2, "b"), (3, "c"), (4, "e")]
    assert indexes_and_names(client, run.run_id) == expected

    @deponent.step
    def work() -> None:
        pass

    with client.attach(run.run_id) as attached:
        work()
        with attached.open_step("g", index=9):
            pass
        work()
    expected += [(5, "work"), (9, "g"), (10, "work")]
    assert indexes_and_names(client, run.run_id) == expected

    # An index that is given needs no count, and the count that comes after goes past it too.
    given = client.attach(run.run_id)
    for name, index in [("h", 12), ("i", None)]:
        with given.open_step(name, index=index):
            pass
    # As after a crash: begun before, under the same id.
    with client.run(run.run_id).open_step("j"):
        pass
    expected += [(12, "h"), (13, "i"), (14, "j")]
    assert indexes_and_names(client, run.run_id) == expected

    async def main() -> None:
        async with deponent.AsyncClient(url) as asynchronous:
            for again in [asynchronous.attach(run.run_id), await asynchronous.run(run.run_id)]:
                for _ in range(2):
                    async with again.open_step("async"):
                        pass

    asyncio.run(main())
    expected += [(index, "async") for index in range(15, 19)]
    assert indexes_and_names(client, run.run_id) == expected


def test_steps_on_record_are_read_once_and_in_pages_and_before_anything_runs() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            asked.append(request.url.query.decode())
            if len(asked) == 1:
                return httpx.Response(200, json={"steps": [{"step_index": 41}], "next_cursor": "a+b="})
            return httpx.Response(200, json={"steps": [{"step_index": 7}], "next_cursor": None})
        if request.url.path.endswith("/replay/steps"):
            begun.append(json.loads(request.content)["step_index"])
            return httpx.Response(200, json={"action": "execute", "token": "t"})
        return right.answer(request)

    begun: list[int] = []
    run = deponent.Client("http://test", transport=httpx.MockTransport(answer)).attach("r")
    for _ in range(2):
        with run.open_step("step"):
            pass
    assert asked == ["", "cursor=a%2Bb%3D"]
    assert begun == [42, 43]

    refusing = httpx.MockTransport(lambda _: refusal(403, "forbidden"))
    with pytest.raises(deponent.DeponentError, match="forbidden"):
        with deponent.Client("http://test", transport=refusing).attach("r").open_step("step"):
            raise AssertionError("it runs")


@pytest.mark.parametrize(("output", "why"), [
    ({1, 2}, "not JSON serializable"), (float("nan"), "not JSON compliant"), (2**60, "2\\^53"), ("x" * (4 << 20), "4194304"),
], ids=["set", "nan", "integer", "length"])
def test_a_step_whose_output_cannot_be_kept_has_run_and_its_key_is_not_freed(
    client: deponent.Client, url: str, output: Any, why: str
) -> None:
    calls: list[str] = []
    run = client.run()

    @run.step(behavior="skip", key=f"unkept-{run.run_id}")
    def pay() -> Any:
        calls.append("paid")
        return output

    with pytest.raises(deponent.OutputNotKept, match=f"the step ran, .*{why}") as raised:
        pay()
    assert raised.value.output is output
    with pytest.raises(deponent.InProgress):
        pay()
    assert calls == ["paid"]
    codes = [(step["status"], step["outcome_code"]) for step in steps_of(client, run.run_id)]
    assert codes == [("failure", "OutputNotKept"), ("failure", "InProgress")]

    async def main() -> None:
        async with deponent.AsyncClient(url) as asynchronous:
            attached = asynchronous.attach(run.run_id)
            with pytest.raises(deponent.OutputNotKept, match=why):
                async with attached.open_step("async", behavior="skip", key=f"unkept-async-{run.run_id}") as step:
                    step.output = output
            with pytest.raises(deponent.InProgress):
                async with attached.open_step("async", behavior="skip", key=f"unkept-async-{run.run_id}"):
                    calls.append("async")

    asyncio.run(main())
    assert calls == ["paid"]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


REFUSED = [
    ({"a": [float("nan")]}, r"\['a'\]\[0\]: nan"), (float("-inf"), "-inf"), (2**53, r"2\^53"), (-(2**53), r"2\^53"),
    (1e16, r"2\^53"), (10**5000, r"2\^53"), ("\ud800", "surrogate"), ({"\ud800": 1}, "surrogate"), ({1: 2}, "the key 1"),
    ({(1, 2): 3}, r"the key \(1, 2\)"), (nested(127), "nested"),
]
NO_JSON = [({1, 2}, "set is no JSON"), (b"x", "bytes is no JSON"), (object(), "object is no JSON")]


@pytest.mark.parametrize(("value", "why"), REFUSED + NO_JSON, ids=range(len(REFUSED + NO_JSON)))
def test_parameters_that_cannot_be_on_record_are_refused_before_anything_is_asked(value: Any, why: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError("it is asked")

    calls: list[Any] = []
    run = deponent.Client("http://test", transport=httpx.MockTransport(answer)).attach("r")
    attached = deponent.AsyncClient("http://test", transport=httpx.MockTransport(answer)).attach("r")

    @run.step(behavior="skip", key="k")
    def pay(order: Any) -> None:
        calls.append(order)

    @attached.step(behavior="skip", key="k")
    async def pay_async(order: Any) -> None:
        calls.append(order)

    async def block_async(params: Any) -> None:
        async with attached.open_step("block", params=params):
            calls.append(params)

    for params, where in [({"order": value}, r"params\['order'\]"), ([value], r"params\[0\]")]:
        where = "params" if why == "nested" else where
        with pytest.raises(deponent.ParamsNotKept, match=f"^{where}.*{why}.*; nothing ran$"):
            with run.open_step("block", params=params):
                calls.append(params)
        with run, pytest.raises(deponent.ParamsNotKept, match=why):
            with deponent.step("block", params=params):
                calls.append(params)
        with pytest.raises(deponent.ParamsNotKept, match=f"^{where}.*{why}.*; nothing ran$"):
            asyncio.run(block_async(params))
    # What is no JSON stands as its repr where it is an argument, such as the `self` of a method.
    if (value, why) in REFUSED:
        with pytest.raises(deponent.ParamsNotKept, match=f"^argument order.*{why}.*; nothing ran$"):
            pay(value)
        with pytest.raises(deponent.ParamsNotKept, match=f"^argument order.*{why}.*; nothing ran$"):
            asyncio.run(pay_async(value))
    assert calls == []


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 257, "\ud800"], ids=["empty", "control", "long", "surrogate"])
def test_a_name_that_cannot_be_on_record_is_refused_before_anything_is_asked(name: str) -> None:
    run = deponent.Client("http://test", transport=httpx.MockTransport(lambda _: refusal(500, "asked"))).attach("r")
    with pytest.raises(deponent.ParamsNotKept, match="^name: .*; nothing ran$"):
        with run.open_step(name):
            raise AssertionError("it runs")


@pytest.mark.parametrize("key", ["", "a\nb", "a" * 257, "\ud800"], ids=["empty", "control", "long", "surrogate"])
def test_a_key_that_is_none_is_refused_before_anything_is_asked(key: str) -> None:
    run = deponent.Client("http://test", transport=httpx.MockTransport(lambda _: refusal(500, "asked"))).attach("r")
    paid: list[str] = []

    @run.step(behavior="skip", key=lambda order: order)
    def pay(order: str) -> None:
        paid.append(order)

    with pytest.raises(deponent.ParamsNotKept, match="^key: .*None is no key; nothing ran$"):
        with run.open_step("pay", behavior="skip", key=key):
            raise AssertionError("it runs")
    with pytest.raises(deponent.ParamsNotKept):
        pay(key)
    assert paid == []


def test_an_index_that_no_step_can_have_is_refused_and_not_counted_on_from(client: deponent.Client) -> None:
    with client.run() as run:
        for index in (-1, 2**31):
            with pytest.raises(deponent.ParamsNotKept, match="^index: .*; nothing ran$"):
                with run.open_step("s", index=index):
                    raise AssertionError("it runs")
        with run.open_step("s"):
            pass
    steps = client.request("GET", f"/api/v1/traces/{run.run_id}")["steps"]
    assert [step["step_index"] for step in steps] == [0]


def test_parameters_at_the_limit_are_on_record(client: deponent.Client) -> None:
    run = client.run()
    limit: dict[str, Any] = {
        "integers": [2**53 - 1, 1 - 2**53, 9007199254740991.0, -0.0, True], "floats": [1e21, 5e-324, 1.7e308],
        "texts": ["", "\0", "\ufffe", "\U0001f600"], "": None, "tuple": (1, 2),
    }
    for params in [limit, nested(127), [nested(125)], limit["texts"]]:
        with run.open_step("block", behavior="skip", key=f"limit-{run.run_id}-{id(params)}", params=params):
            pass

    @run.step(behavior="skip", key=f"limit-{run.run_id}")
    def work(deep: Any, other: Any) -> None:
        pass

    work(nested(126), {1})
    steps = [step["params"] for step in steps_of(client, run.run_id)]
    assert steps[0] == {**limit, "tuple": [1, 2]}
    assert steps[1:3] == [nested(127), {"input": [nested(125)]}]
    assert steps[4] == {"deep": nested(126), "other": "{1}"}


def test_parameters_are_on_record_as_they_were_asked_about(client: deponent.Client) -> None:
    run = client.run()
    params: dict[str, Any] = {"orders": ["A-17"]}
    with run.open_step("block", behavior="skip", key=f"mutable-{run.run_id}", params=params):
        params["orders"].append(float("nan"))
    [step] = steps_of(client, run.run_id)
    assert step["params"] == {"orders": ["A-17"]}
    with run.open_step("block", behavior="skip", key=f"mutable-{run.run_id}", params={"orders": ["A-17"]}) as again:
        assert not again.must_run


def test_an_answer_that_says_nothing_of_the_output_is_no_refusal_of_it() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/replay/steps"):
            return httpx.Response(200, json={"action": "execute", "token": "t"})
        return refusal(409, "lease_lost")

    client = deponent.Client("http://test", transport=httpx.MockTransport(answer))
    with pytest.raises(deponent.LeaseLost):
        with client.attach("r").open_step("step", index=0):
            pass


def test_without_a_run_nothing_runs_and_that_is_said() -> None:
    calls: list[str] = []

    @deponent.step(behavior="skip", key="nowhere")
    def pay() -> None:
        calls.append("paid")

    with pytest.raises(deponent.NoRun, match="no run is current"):
        pay()
    with pytest.raises(deponent.NoRun):
        with deponent.step("block"):
            calls.append("block")
    with pytest.raises(deponent.NoRun):
        deponent.current_run()

    async def main() -> None:
        with pytest.raises(deponent.NoRun):
            async with deponent.step("block"):
                calls.append("async block")

    asyncio.run(main())
    assert calls == []


def test_a_block_is_a_step_and_a_block_that_raises_fails_its_run(client: deponent.Client) -> None:
    with pytest.raises(ZeroDivisionError):
        with deponent.run(client, agent_id="blocks") as run:
            with deponent.step("fine", params={"n": 1}) as step:
                step.output = [1]
            assert step.result is not None and step.result.executed
            with deponent.step("broken", behavior="skip", key=f"broken-{run.run_id}"):
                raise ZeroDivisionError
    trace = client.request("GET", f"/api/v1/traces/{run.run_id}")
    assert trace["status"] == "failed"
    assert [step["status"] for step in trace["steps"]] == ["success", "failure"]
    assert trace["steps"][0]["params"] == {"n": 1}
    # Its key is free, and a run that was started elsewhere is not ended by who attaches to it.
    with client.run() as again:
        with client.attach(again.run_id):
            with deponent.step("broken", behavior="skip", key=f"broken-{run.run_id}") as step:
                assert step.must_run
        again.complete(termination_reason="said by hand")
    assert client.request("GET", f"/api/v1/traces/{again.run_id}")["status"] == "completed"


def test_a_thread_has_the_run_that_is_handed_to_it(client: deponent.Client) -> None:
    @deponent.step
    def work(n: int) -> int:
        return n * n

    with client.run() as run, ThreadPoolExecutor(4) as pool:
        with pytest.raises(deponent.NoRun):
            pool.submit(work, 1).result()
        contexts = [contextvars.copy_context() for _ in range(8)]
        squares = [pool.submit(context.run, work, n) for n, context in enumerate(contexts)]
        assert [square.result() for square in squares] == [n * n for n in range(8)]
    steps = client.request("GET", f"/api/v1/traces/{run.run_id}")["steps"]
    assert [step["step_index"] for step in steps] == list(range(8)), "each its own index"


def test_the_current_run_of_each_task_is_its_own(url: str) -> None:
    @deponent.step(behavior="skip", key=lambda of: f"task-{of}")
    async def work(of: str) -> str:
        await asyncio.sleep(0.05)
        return of

    async def one(client: deponent.AsyncClient) -> str:
        async with deponent.run(client) as run:
            assert await work(run.run_id) == await work(run.run_id) == run.run_id
            async with deponent.step("block") as step:
                step.output = run.run_id
            assert deponent.current_run().run_id == run.run_id
        return run.run_id

    async def main() -> None:
        async with deponent.AsyncClient(url) as client:
            runs = await asyncio.gather(*(one(client) for _ in range(8)))
            for run_id in runs:
                trace = await client.request("GET", f"/api/v1/traces/{run_id}")
                assert trace["status"] == "completed"
                assert [step["outcome_data"] for step in trace["steps"]] == [run_id] * 3
            with pytest.raises(deponent.NoRun):
                await work("nobody's")
            with pytest.raises(RuntimeError, match="no"):
                async with await client.run() as run:
                    raise RuntimeError("no")
            assert (await client.request("GET", f"/api/v1/traces/{run.run_id}"))["status"] == "failed"

    asyncio.run(main())


def test_what_does_not_go_together_is_said_before_anything_runs(client: deponent.Client, url: str) -> None:
    calls: list[str] = []

    @deponent.step
    def blocks() -> None:
        calls.append("blocks")

    @deponent.step
    async def awaits() -> None:
        calls.append("awaits")

    with client.run():
        with pytest.raises(TypeError, match="AsyncClient"):
            asyncio.run(awaits())
        with pytest.raises(TypeError, match="name"):
            with deponent.step():
                calls.append("nameless")
        with pytest.raises(TypeError, match="texts"):
            with deponent.step("block", key=lambda: "k"):
                calls.append("callable")
        with pytest.raises(TypeError, match="arguments"):
            deponent.step("function", params={})(print)

    async def main() -> None:
        async with deponent.AsyncClient(url) as asynchronous:
            async with deponent.run(asynchronous):
                with pytest.raises(TypeError, match="async with"):
                    blocks()
            with pytest.raises(TypeError, match="async with"):
                with deponent.run(asynchronous):
                    calls.append("run")
        with pytest.raises(TypeError, match="`with`"):
            async with deponent.run(client):
                calls.append("async run")

    asyncio.run(main())
    assert calls == []


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(url: str) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("idempotency-key", ""))
        if len(seen) < 3:
            return httpx.Response(503, headers={"retry-after": "0"}, json={"code": "busy"})
        return httpx.Response(201, json={"run_id": "r"})

    client = deponent.Client("http://test", transport=httpx.MockTransport(answer))
    assert client.run().run_id == "r"
    assert len(seen) == 3 and len(set(seen)) == 1 and seen[0], "the same key each time: one run"
    refusing = httpx.MockTransport(lambda _: httpx.Response(422, json={"code": "invalid", "detail": "run_id: no"}))
    with pytest.raises(deponent.DeponentError, match="run_id: no") as raised:
        deponent.Client("http://test", transport=refusing).run()
    assert (raised.value.code, raised.value.status) == ("invalid", 422)


def test_a_server_that_is_away_is_unavailable_and_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deponent.client.PAUSE_SECS", 0.001)
    ran: list[str] = []

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    run = deponent.Client("http://test", transport=httpx.MockTransport(away)).attach("r")

    @run.step(behavior="skip", key="pay")
    def pay() -> None:
        ran.append("paid")

    with pytest.raises(deponent.Unavailable, match="refused") as raised:
        pay()
    assert (raised.value.code, raised.value.status) == ("unreachable", 0)

    async def main() -> None:
        attached = deponent.AsyncClient("http://test", transport=httpx.MockTransport(away)).attach("r")
        async with attached.open_step("pay", key="pay", index=0):
            ran.append("paid")

    with pytest.raises(deponent.Unavailable, match="refused"):
        asyncio.run(main())
    for status in (502, 504):
        between = httpx.MockTransport(lambda _, status=status: httpx.Response(status, text="<html>"))
        with pytest.raises(deponent.Unavailable) as refused:
            deponent.Client("http://test", transport=between).run()
        assert refused.value.status == status
    assert ran == []


class Lossy(httpx.HTTPTransport):
    """Loses the first answer of each path that ends so."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end = end
        self.keys: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.url.path.endswith(self.end):
            self.keys.append(request.headers.get("idempotency-key", ""))
            if len(self.keys) == 1:
                response.read()
                response.close()
                raise httpx.ReadError("the answer was lost", request=request)
        return response


def test_a_decision_whose_answer_was_lost_is_answered_again(url: str) -> None:
    lossy = Lossy("/replay/steps")
    with deponent.Client(url, transport=lossy) as client:
        run = client.run()
        with run.open_step("pay", behavior="skip", key=f"lossy-{run.run_id}") as step:
            assert step.must_run, "the lease is held by this client, not by nobody"
            step.output = 1
        assert step.result is not None and step.result.executed
        assert len(lossy.keys) == 2 and lossy.keys[0] == lossy.keys[1] != ""
        assert run.report()["executed"] == 1
        with run.open_step("pay", behavior="skip", key=f"lossy-{run.run_id}") as step:
            assert not step.must_run
        assert len(set(lossy.keys)) == 2, "another decision, another key"


def test_what_is_being_answered_is_waited_for_and_what_was_not_kept_is_asked_anew() -> None:
    keys: list[str] = []
    codes = ["idempotency_in_progress", "earlier_outcome_unknown", "answer_not_kept"]

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        code = codes[len(keys) - 1]
        return httpx.Response(409, headers={"retry-after": "0"}, json={"code": code, "detail": code})

    client = deponent.Client("http://test", transport=httpx.MockTransport(answer))
    with pytest.raises(deponent.ConflictError, match="answer_not_kept"):
        client.decide({"run_id": "r", "step_index": 0})
    assert len(keys) == 3 and keys[0] == keys[1] != keys[2]


# Renewed three times in it, the first time before anything runs if the decision took so long: a busy machine must not.
LEASE_SECS = 3.0


class Leases:
    """A server that gives one lease, and refuses its first renewals."""

    def __init__(self, refusals: list[httpx.Response]) -> None:
        self.refusals = refusals
        self.renewals = 0
        self.at_result = 0
        self.wait_at_result = True

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.endswith("/trace"):
            return httpx.Response(200, json={"steps": [], "next_cursor": None})
        if path.endswith("/replay/steps"):
            return httpx.Response(200, json={"action": "execute", "token": "t", "lease_secs": LEASE_SECS})
        if path.endswith("/renew"):
            self.renewals += 1
            return self.refusals.pop(0) if self.refusals else httpx.Response(204)
        if path.endswith("/result"):
            self.at_result = self.renewals
            if self.wait_at_result:
                self.wait_for(self.at_result + 1)
        return right.answer(request)

    def wait_for(self, renewals: int) -> None:
        until = time.monotonic() + PATIENCE_SECS
        while self.renewals < renewals and time.monotonic() < until:
            time.sleep(0.01)

    async def answer_async(self, request: httpx.Request) -> httpx.Response:
        return await asyncio.to_thread(self.answer, request)


def refusal(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": code})


def test_a_lease_is_renewed_until_the_result_is_answered_whatever_fails_meanwhile() -> None:
    leases = Leases([refusal(500, "internal"), refusal(403, "forbidden")])
    client = deponent.Client("http://test", transport=httpx.MockTransport(leases.answer))
    with client.attach("r").open_step("slow", behavior="skip", key="k") as step:
        leases.wait_for(3)
        step.output = 1
    assert leases.at_result >= 3, "after refusals it goes on"
    assert leases.renewals > leases.at_result, "and while the result is on its way"
    ended = leases.renewals
    time.sleep(LEASE_SECS)
    assert leases.renewals <= ended + 1, "and not after"


def test_the_same_renewals_for_asyncio() -> None:
    leases = Leases([refusal(500, "internal"), refusal(403, "forbidden")])

    async def main() -> None:
        transport = httpx.MockTransport(leases.answer_async)
        async with deponent.AsyncClient("http://test", transport=transport) as client:
            async with client.attach("r").open_step("slow", behavior="skip", key="k") as step:
                await asyncio.to_thread(leases.wait_for, 3)
                step.output = 1

    asyncio.run(main())
    assert leases.at_result >= 3
    assert leases.renewals > leases.at_result


@pytest.mark.parametrize(("status", "code"), [(409, "lease_lost"), (404, "not_found")])
def test_a_lease_that_is_lost_is_not_asked_for_again(status: int, code: str) -> None:
    leases = Leases([refusal(status, code)])
    leases.wait_at_result = False
    client = deponent.Client("http://test", transport=httpx.MockTransport(leases.answer))
    with client.attach("r").open_step("slow", behavior="skip", key="k") as step:
        leases.wait_for(1)
        time.sleep(LEASE_SECS)
        step.output = 1
    assert leases.renewals == 1


@pytest.mark.parametrize("failing", ["away", "busy", "internal", "unauthorized"])
def test_an_output_that_is_not_known_to_be_stored_is_handed_out_and_nobody_takes_it_for_not_run(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deponent.client.PAUSE_SECS", 0.001)
    paths: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        end = request.url.path.rpartition("/")[2]
        # Renewals come on a thread of their own, at any moment.
        if end != "renew":
            paths.append(end)
        if end == "result":
            if failing == "away":
                raise httpx.ConnectError("refused", request=request)
            return refusal({"busy": 503, "internal": 500, "unauthorized": 401}[failing], failing)
        if request.url.path.endswith("/replay/steps"):
            return httpx.Response(200, json={"action": "execute", "token": "t", "lease_secs": 0.3})
        return right.answer(request)

    run = deponent.Client("http://test", transport=httpx.MockTransport(answer)).attach("r")
    with pytest.raises(deponent.OutputNotKept, match="the step ran") as raised:
        with run.open_step("pay", behavior="skip", key="k", index=0) as step:
            step.output = "receipt"
    assert raised.value.output == "receipt"
    assert "fail" not in paths and paths[-1] == "steps", "its key is not freed, and it is on record"


class Restarting(Leases):
    """Is away when the result is brought, longer than five tries take."""

    def __init__(self) -> None:
        super().__init__([])
        self.wait_at_result = False
        self.results: list[Any] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/result"):
            self.results.append(json.loads(request.content))
            if len(self.results) < 8:
                raise httpx.ConnectError("refused", request=request)
        answer = super().answer(request)
        if request.url.path.endswith("/replay/steps"):
            return httpx.Response(200, json={"action": "execute", "token": "t", "lease_secs": 20})
        return answer


def test_an_output_is_brought_again_while_its_lease_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deponent.client.PAUSE_SECS", 0.001)
    restarting = Restarting()
    client = deponent.Client("http://test", transport=httpx.MockTransport(restarting.answer))
    with client.attach("r").open_step("pay", behavior="skip", key="k") as step:
        step.output = "receipt"
    assert step.result is not None and restarting.results == [{"output": "receipt"}] * 8

    async def main() -> None:
        transport = httpx.MockTransport(again.answer_async)
        async with deponent.AsyncClient("http://test", transport=transport) as asynchronous:
            async with asynchronous.attach("r").open_step("pay", behavior="skip", key="k") as step:
                step.output = "receipt"

    again = Restarting()
    asyncio.run(main())
    assert again.results == [{"output": "receipt"}] * 8


def test_a_decision_that_comes_when_its_lease_may_be_over_is_asked_about_before_anything_runs() -> None:
    def late(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/replay/steps"):
            time.sleep(LEASE_SECS / 2)
        return leases.answer(request)

    async def late_async(request: httpx.Request) -> httpx.Response:
        return await asyncio.to_thread(late, request)

    async def main() -> None:
        transport = httpx.MockTransport(late_async)
        async with deponent.AsyncClient("http://test", transport=transport) as client:
            async with client.attach("r").open_step("pay", behavior="skip", key="k"):
                raise AssertionError("it runs")

    leases = Leases([refusal(409, "lease_lost")])
    with pytest.raises(deponent.LeaseLost):
        with deponent.Client("http://test", transport=httpx.MockTransport(late)).attach("r").open_step("pay", key="k"):
            raise AssertionError("it runs")
    leases = Leases([refusal(409, "lease_lost")])
    with pytest.raises(deponent.LeaseLost):
        asyncio.run(main())


class Slow(httpx.AsyncHTTPTransport):
    """Says when a request to a path that ends so is on its way, and sends it only some time later."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end = end
        self.asked = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith(self.end):
            self.asked.set()
            await asyncio.sleep(0.1)
        return await super().handle_async_request(request)


@pytest.mark.parametrize("end", ["/result", "/steps", "/complete"])
def test_what_was_done_is_brought_and_recorded_and_the_run_ended_though_its_task_is_cancelled(
    url: str, client: deponent.Client, end: str
) -> None:
    async def main() -> str:
        slow = Slow(end)
        run_id = ""

        async def pays() -> None:
            nonlocal run_id
            async with deponent.AsyncClient(url, transport=slow) as asynchronous:
                async with deponent.run(asynchronous) as run:
                    run_id = run.run_id
                    if end == "/steps":
                        # The decision's path ends so too, and is left to the cancellation.
                        slow.end = f"{run_id}/steps"
                    async with deponent.step("pay", behavior="skip", key=f"cancelled-{run_id}") as step:
                        step.output = "receipt"

        task = asyncio.create_task(pays())
        await slow.asked.wait()
        for _ in range(3):
            # More than once, as some frameworks do.
            task.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await task
        return run_id

    run_id = asyncio.run(main())
    trace = client.request("GET", f"/api/v1/traces/{run_id}")
    assert [(step["status"], step["outcome_data"]) for step in trace["steps"]] == [("success", "receipt")]
    assert trace["status"] == ("completed" if end == "/complete" else "failed")
    with client.run().open_step("pay", behavior="skip", key=f"cancelled-{run_id}") as step:
        assert not step.must_run and step.output == "receipt"


def test_a_step_that_is_cancelled_while_it_runs_leaves_its_key_free(url: str, client: deponent.Client) -> None:
    async def main() -> str:
        slow = Slow("/fail")
        async with deponent.AsyncClient(url, transport=slow) as asynchronous:
            run = await asynchronous.run()

            async def pays() -> None:
                async with run.open_step("pay", behavior="skip", key=f"cancel-{run.run_id}"):
                    await asyncio.sleep(60)

            task = asyncio.create_task(pays())
            while len(asyncio.all_tasks()) < 3:  # its renewal has begun
                await asyncio.sleep(0.01)
            task.cancel()
            await slow.asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return run.run_id

    run_id = asyncio.run(main())
    [step] = steps_of(client, run_id)
    assert (step["status"], step["outcome_code"]) == ("failure", "CancelledError")
    with client.attach(run_id).open_step("pay", behavior="skip", key=f"cancel-{run_id}") as again:
        assert again.must_run


def test_one_step_in_the_blocks_of_several_threads_and_tasks_is_several(client: deponent.Client, url: str) -> None:
    shared = deponent.step("shared")
    entered = [threading.Event(), threading.Event()]

    def work(n: int) -> str:
        # The first to enter is the first to leave.
        if n == 1:
            assert entered[0].wait(PATIENCE_SECS)
        with shared as step:
            entered[n].set()
            assert entered[1].wait(PATIENCE_SECS)
            if n == 1:
                time.sleep(0.3)
            step.output = n
        assert step.result is not None
        return f"{n} is {step.result.output}"

    with client.run() as run, ThreadPoolExecutor(2) as pool:
        contexts = [contextvars.copy_context() for _ in range(2)]
        done = [pool.submit(context.run, work, n) for n, context in enumerate(contexts)]
        assert [each.result(PATIENCE_SECS) for each in done] == ["0 is 0", "1 is 1"]
    assert [step["outcome_data"] for step in steps_of(client, run.run_id)] == [0, 1]

    async def main() -> None:
        async def one(n: int) -> None:
            await asyncio.sleep(0.05 * n)
            async with shared as step:
                await asyncio.sleep(0.2)
                step.output = n
            assert step.result is not None and step.result.output == n

        async with deponent.AsyncClient(url) as asynchronous:
            async with deponent.run(asynchronous):
                await asyncio.gather(*(one(n) for n in range(3)))

    asyncio.run(main())
