"""What a client remembers, and how it holds a server to it.

A `Witness` writes down every acknowledgement and every checkpoint it was ever given.
After a crash it asks the server for all of it again, over the public API alone, and
checks the tree with the verifier of the real-input tests, which shares nothing with
the server. Anything else than everything is a `Broken`.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "real"))
import tlog_check  # noqa: E402

TENANT = "default"
# Against hanging for ever; a busy machine may take a good part of them.
START_SECS_MAX = 120.0
REQUEST_SECS_MAX = 60.0
END_SECS_MAX = 120.0
# A checkpoint is signed at latest one second after a commit; the rest is room for a busy machine.
CHECKPOINT_SECS_MAX = 60.0
SPANS_A_TRACE = 6
TRACES_A_REQUEST = 3
STEPS_A_RUN = 25
PROVENANCE = "/api/v1/provenance"


class Broken(Exception):
    """The server does not keep what it acknowledged."""


def demand(holds: object, why: str) -> None:
    if not holds:
        raise Broken(why)


def comes(holds: Callable[[], object], secs_max: float) -> bool:
    """Waits until it holds, for so long; whether it came to hold."""
    end = time.monotonic() + secs_max
    while not (came := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(came)


class Gone(Exception):
    """The server did not answer: it was killed, or is about to be."""


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_SECS_MAX)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        headers = dict(headers or {})
        if body is not None:
            headers["content-type"] = "application/json"
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        try:
            self.connection.request(method, path, data, headers)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            raise Gone(f"{method} {path}: {error!r}") from None

    def get(self, path: str) -> Any:
        status, body = self.ask("GET", path)
        demand(status == 200, f"GET {path}: {status} {body[:300]!r}")
        return json.loads(body)

    def get_bytes(self, path: str) -> bytes:
        status, body = self.ask("GET", path)
        demand(status == 200, f"GET {path}: {status} {body[:300]!r}")
        return body


class Server:
    """A serving process; `prefix` is put before its command (strace)."""

    def __init__(self, binary: str, data: Path, prefix: list[str] | None = None,
                 settings: dict[str, str] | None = None) -> None:
        self.log = data.parent / "serve.log"
        self.log_before = self.log.stat().st_size if self.log.exists() else 0
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DEPONENT_")}
        environment.update(settings or {})
        self.out = data.parent / "serve.out"
        with self.log.open("ab") as errors, self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [*(prefix or []), binary, "serve", "--listen", "127.0.0.1:0", "--grpc-listen", "off",
                 "--data-dir", str(data)],
                stdout=out, stderr=errors, stdin=subprocess.DEVNULL, env=environment)
        self.prefix = bool(prefix)
        self.port = 0

    def listening(self) -> int | None:
        """Waits for the port; None: the process ended first."""
        end = time.monotonic() + START_SECS_MAX
        while time.monotonic() < end:
            for line in self.out.read_text().splitlines():
                if line.startswith("listening on http://127.0.0.1:"):
                    self.port = int(line.rsplit(":", 1)[1])
                    return self.port
            if self.process.poll() is not None:
                return None
            time.sleep(0.005)
        raise Broken(f"did not listen within {START_SECS_MAX} s")

    def started(self) -> int:
        port = self.listening()
        demand(port, f"the server ended with {self.process.poll()} at its start:\n{self.errors()}")
        return self.port

    def errors(self) -> str:
        """The end of what this process said."""
        return self.log.read_bytes()[self.log_before:][-3000:].decode(errors="replace")

    def _pids(self) -> list[int]:
        if not self.prefix:
            return [self.process.pid]
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in children.split()]

    def end(self, by: signal.Signals) -> int:
        for pid in self._pids():
            try:
                os.kill(pid, by)
            except ProcessLookupError:
                pass
        try:
            return self.process.wait(END_SECS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Broken(f"did not end within {END_SECS_MAX} s of {by.name}") from None


@dataclass
class Receipt:
    index: int
    leaf_hash: str


@dataclass
class Witness:
    """Everything that was acknowledged. Shared by the writing threads."""

    seed: int
    receipts: list[Receipt] = field(default_factory=list)
    # Trace id -> the span ids that were acknowledged.
    traces: dict[str, set[str]] = field(default_factory=dict)
    # Requests whose answer never came, to be sent again as a client would.
    unanswered: list[tuple[str, Any]] = field(default_factory=list)
    # Provenance logs that were acknowledged: id -> what was sent.
    logs: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoints: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    vkey: tlog_check.Key | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    receipts_checked: int = 0
    traces_checked: int = 0
    logs_checked: int = 0

    # --- writing ---

    def send(self, client: Client, path: str, body: Any) -> Any:
        """Posts and writes down what was acknowledged; None: it was refused."""
        try:
            status, answer = client.ask("POST", path, body)
        except Gone:
            # A provenance log has no identity: sent again it would be another, so it is not.
            with self.lock:
                if path != PROVENANCE:
                    self.unanswered.append((path, body))
            raise
        if status == 503 or status == 429:
            with self.lock:
                try:
                    code = json.loads(answer).get("code")
                except ValueError:
                    code = "?"
                self.refused[code] = self.refused.get(code, 0) + 1
                if path != PROVENANCE:
                    self.unanswered.append((path, body))
            return None
        if path == "/v1/traces":
            demand(status == 200, f"{path}: {status} {answer[:300]!r}")
            demand(json.loads(answer or b"{}") == {}, f"{path}: {answer[:300]!r}")
            with self.lock:
                for resource in body["resourceSpans"]:
                    for span in resource["scopeSpans"][0]["spans"]:
                        self.traces.setdefault(span["traceId"], set()).add(span["spanId"])
            return {}
        demand(status in (200, 201), f"{path}: {status} {answer[:300]!r}")
        answer = json.loads(answer)
        receipt = answer["receipt"]
        with self.lock:
            self.receipts.append(Receipt(receipt["leaf_index"], receipt["leaf_hash"]))
            if path == PROVENANCE:
                self.logs[answer["id"]] = body
            self.size = max(self.size, receipt["tree_size"])
        return answer

    def write_runs(self, port: int, stop: threading.Event, rng: random.Random) -> None:
        client = Client(port)
        while not stop.is_set():
            # With a letter before it: sixteen digits may be the number of a card, and are redacted.
            run_id = f"run-r{rng.getrandbits(64):016x}"
            if self.send(client, "/api/v1/runs", {"run_id": run_id, "agent_id": "crash", "plan": ["a"]}) is None:
                stop.wait(0.02)
                continue
            for step in range(rng.randint(1, STEPS_A_RUN)):
                if stop.is_set():
                    return
                body = {"step_index": step, "skill_name": "search", "params": {"n": rng.getrandbits(32)},
                        "status": "success", "outcome_category": "SUCCESS", "cost_cents": 0.5, "duration_ms": 12,
                        "retry_count": 0}
                if self.send(client, f"/api/v1/runs/{run_id}/steps", body) is None:
                    stop.wait(0.02)
                    break
            else:
                self.send(client, f"/api/v1/runs/{run_id}/complete", {"status": "completed"})

    def write_spans(self, port: int, stop: threading.Event, rng: random.Random) -> None:
        client = Client(port)
        while not stop.is_set():
            if self.send(client, "/v1/traces", spans(rng)) is None:
                stop.wait(0.02)

    def write_logs(self, port: int, stop: threading.Event, rng: random.Random) -> None:
        """Provenance, as a program logs it that may be killed at any moment."""
        client = Client(port)
        while not stop.is_set():
            # Here too with a letter before it.
            body = {"input": {"prompt": f"p{rng.getrandbits(64):016x}"},
                    "output": {"text": "x" * rng.randint(0, 2_000), "n": rng.getrandbits(32)},
                    "runtime_ms": rng.randint(0, 9_000)}
            if self.send(client, PROVENANCE, body) is None:
                stop.wait(0.02)

    def watch(self, port: int, stop: threading.Event) -> None:
        """Keeps every checkpoint that can be had."""
        client = Client(port)
        while not stop.is_set():
            self.keep_checkpoint(client)
            stop.wait(0.03)

    def keep_checkpoint(self, client: Client) -> None:
        status, note = client.ask("GET", f"/tlog/{TENANT}/checkpoint")
        if status == 404:
            return
        demand(status == 200, f"checkpoint: {status} {note[:200]!r}")
        if self.vkey is None:
            self.vkey = tlog_check.parse_vkey(client.get_bytes(f"/tlog/{TENANT}/vkey").decode())
        checkpoint = tlog_check.open_checkpoint(note, self.vkey)
        with self.lock:
            known = self.checkpoints.setdefault(checkpoint.size, checkpoint.root)
        demand(known == checkpoint.root, f"two roots were signed at {checkpoint.size} leaves")

    def load(self, port: int, rng: random.Random, runs: int = 3, traces: int = 2, logs: int = 1) -> Load:
        return Load(self, port, rng, runs, traces, logs)

    # --- checking ---

    def send_again(self, client: Client) -> None:
        """What got no answer, once more: none of it may be in the ledger twice afterwards."""
        again, self.unanswered = self.unanswered, []
        for path, body in again:
            demand(self.send(client, path, body) is not None, f"{path} again: refused")

    def check(self, client: Client, rng: random.Random, everything: bool = False) -> None:
        head = client.get("/api/v1/ledger/head")
        demand(head["status"] == "ok", f"the ledger is {head['status']}: {head.get('status_detail')}")
        size = head["tree_size"]
        demand(size >= self.size, f"the tree shrank: it had {self.size} leaves, it has {size}")
        self.size = size
        receipts = self.receipts if everything else (
            self.receipts[self.receipts_checked:] + rng.sample(self.receipts, min(20, len(self.receipts))))
        for receipt in receipts:
            leaf = client.get(f"/api/v1/ledger/leaves/{receipt.index}")
            demand(leaf["leaf_hash"] == receipt.leaf_hash,
                   f"leaf {receipt.index} was acknowledged as {receipt.leaf_hash}, it is {leaf['leaf_hash']}")
        self.receipts_checked = len(self.receipts)
        traces = list(self.traces)
        new = traces if everything else (
            traces[self.traces_checked:] + rng.sample(traces, min(5, len(traces))))
        for trace in new:
            self.check_trace(client, trace)
        self.traces_checked = len(traces)
        logs = list(self.logs)
        new = logs if everything else logs[self.logs_checked:] + rng.sample(logs, min(10, len(logs)))
        for log in new:
            self.check_log(client, log)
        self.logs_checked = len(logs)
        self.keep_checkpoint(client)
        sizes = sorted(self.checkpoints)
        if not everything and len(sizes) > 24:
            sizes = sizes[-8:] + rng.sample(sizes, 16)
        root = bytes.fromhex(head["tree_root"])
        for old in sizes:
            if old > size:
                continue  # signed after the head was read
            proof = client.get(f"/api/v1/ledger/proofs/consistency?first={old}&second={size}")
            path = [base64.b64decode(h) for h in proof["hashes"]]
            tlog_check.check_consistency(old, size, path, self.checkpoints[old], root)

    def check_log(self, client: Client, log: str) -> None:
        sent = self.logs[log]
        record = client.get(f"/api/v1/records/{log}")
        for part in ("input", "output", "runtime_ms"):
            demand(record["body"][part] == sent[part], f"provenance log {log} has another {part}")
        found = client.get(f"{PROVENANCE}?input_hash={sha256_of(sent['input'])}")["items"]
        demand([item["id"] for item in found] == [log], f"provenance log {log} is found as {found!r}"[:300])
        demand(json.loads(found[0]["output_json"]) == sent["output"], f"provenance log {log} is not whole")

    def check_trace(self, client: Client, trace: str) -> None:
        page = client.get(f"/api/v1/records?trace_id={trace}&kind=trace.step&limit=500")
        demand(not page["has_more"], f"trace {trace} has more than 500 steps")
        found = [item["body"]["otel"]["span_id"] for item in page["items"]]
        demand(len(found) == len(set(found)), f"trace {trace} has a span twice")
        lost = self.traces[trace] - set(found)
        demand(not lost, f"trace {trace} lost the spans {sorted(lost)}")

    def check_whole(self, client: Client) -> None:
        """Reads every leaf and rebuilds the tree; none may say the same twice."""
        if self.size == 0:
            return
        end = time.monotonic() + CHECKPOINT_SECS_MAX
        while True:
            self.keep_checkpoint(client)
            if max(self.checkpoints, default=0) >= self.size:
                break
            demand(time.monotonic() < end, f"no checkpoint covers the head {CHECKPOINT_SECS_MAX} s after the last write")
            time.sleep(0.1)
        assert self.vkey
        log = tlog_check.check_log(lambda path: client.get_bytes(f"/tlog/{TENANT}/{path}"), self.vkey)
        hashes = log.hashes
        for receipt in self.receipts:
            demand(hashes[receipt.index].hex() == receipt.leaf_hash, f"leaf {receipt.index} is another one")
        ids: set[str] = set()
        places: set[tuple[str, int]] = set()
        for index, entry in enumerate(log.entries):
            header = json.loads(entry)
            demand(header["id"] not in ids, f"leaf {index} has an id that an earlier one has")
            ids.add(header["id"])
            if "run_seq" in header:
                place = (header["run_id"], header["run_seq"])
                demand(place not in places, f"leaf {index} has a place in its run that an earlier one has")
                places.add(place)
        for size, root in self.checkpoints.items():
            demand(tlog_check.root_of(hashes[:size]) == root, f"the checkpoint of {size} leaves is no prefix")


class Load:
    """Writers and a watcher, until the server goes or `finish` is called."""

    def __init__(self, witness: Witness, port: int, rng: random.Random, runs: int, traces: int, logs: int) -> None:
        self.stop = threading.Event()
        self.failures: queue.Queue[BaseException] = queue.Queue()
        work = [(witness.write_runs, random.Random(rng.getrandbits(64))) for _ in range(runs)]
        work += [(witness.write_spans, random.Random(rng.getrandbits(64))) for _ in range(traces)]
        work += [(witness.write_logs, random.Random(rng.getrandbits(64))) for _ in range(logs)]
        self.threads = [threading.Thread(target=self._run, args=(f, port, self.stop, r)) for f, r in work]
        self.threads.append(threading.Thread(target=self._run, args=(witness.watch, port, self.stop)))
        for thread in self.threads:
            thread.start()

    def _run(self, work: Any, *args: Any) -> None:
        try:
            work(*args)
        except Gone:
            pass
        except BaseException as error:  # noqa: BLE001 - told in finish()
            self.failures.put(error)

    def finish(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        if not self.failures.empty():
            raise self.failures.get()


def sha256_of(value: Any) -> str:
    """Of canonical JSON; for texts of ASCII under ASCII names Python writes it so."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def spans(rng: random.Random) -> dict[str, Any]:
    """A request of a few whole traces."""
    now = time.time_ns()
    made = []
    for _ in range(TRACES_A_REQUEST):
        trace, root = f"{rng.getrandbits(128):032x}", f"{rng.getrandbits(64):016x}"
        for n in range(SPANS_A_TRACE):
            name = ("gen_ai.operation.name", "chat" if n else "invoke_agent")
            span = {"traceId": trace, "spanId": f"{rng.getrandbits(64):016x}" if n else root, "name": f"{name[1]} x",
                    "kind": 3, "startTimeUnixNano": str(now + n), "endTimeUnixNano": str(now + 1000 - n),
                    "attributes": [{"key": name[0], "value": {"stringValue": name[1]}},
                                   {"key": "gen_ai.request.model", "value": {"stringValue": "gpt-4o"}}],
                    "status": {"code": 1}}
            if n:
                span["parentSpanId"] = root
            made.append(span)
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "crash"}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "c"}, "spans": made}]}]}


def verified(binary: str, data: Path) -> None:
    done = subprocess.run([binary, "verify", "--data-dir", str(data)], capture_output=True, text=True, timeout=600,
                          check=False)
    demand(done.returncode == 0, f"verify ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
