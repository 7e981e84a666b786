"""Faults on files that a single act needs, while a server serves.

The keys of new tenants and new epochs, the mark of an erasure, the key of kept answers, the log of the state, archives.
Whoever does the act is told that it failed; others go on, or are told that writing has stopped. After a kill -9 and
a start without the fault the act succeeds, what was acknowledged is there, and `deponent verify` exits 0.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from strace import failing, injected
from witness import Client, Server, Witness, comes, demand, verified

# How long it may take until the server says that it has stopped writing.
SAID_SECS_MAX = 60.0
# How long it may take until a fault that strikes beside the act has come about, and is told of.
BESIDE_SECS_MAX = 30.0
# How long a command beside the server may take.
TOLD_SECS_MAX = 180.0
# The first pass of retention comes a minute after the start.
ARCHIVED_SECS_MAX = 240.0
# Requests with a key: what 1,000 of them wrote to its log is carried over into the state; on a busy machine somewhat later.
KEYED_MAX = 1_800
# The fault that they are for.
CARRIED = "sync the state"
KEYED_PAUSE_SECS = 0.004
# Of them after the fault.
KEYED_AGAIN_MAX = 20

RENAME = "rename,renameat,renameat2"
SYNC = "fsync,fdatasync"


@dataclass(frozen=True)
class Place:
    """Where an act is done. What was acknowledged before stands in `kept`."""

    binary: str
    data: Path
    server: Server
    client: Client
    kept: dict[str, bytes]
    # The fault is over.
    again: bool = False


@dataclass(frozen=True)
class Fault:
    name: str
    syscalls: str
    path: str
    counts: tuple[int, ...] = (1,)
    # What becomes of it: the act is `refused`; it is refused and writing has `stopped`; it is done and the log has a
    # `warning`; `either` it is refused or done with a warning, as the call belongs to its beginning or its end.
    then: str = "refused"


@dataclass(frozen=True)
class Aside:
    name: str
    # Does it; gives why not.
    act: Callable[[Place], str | None]
    faults: tuple[Fault, ...]
    settings: dict[str, str] = field(default_factory=dict)
    # Makes of two copies of the prepared folder, the second with more in it, what the act needs in the first.
    ready: Callable[[Path, Path], None] = lambda data, later: None
    # The ledger takes records before the act.
    writes: bool = True


def told(place: Place, *words: str) -> str | None:
    """A command beside the server; its last word when it failed."""
    done = subprocess.run([place.binary, *words, "--data-dir", str(place.data)], capture_output=True, text=True,
                          timeout=TOLD_SECS_MAX, check=False)
    if done.returncode == 0:
        return None
    demand(done.stderr.strip(), f"{words} ended with {done.returncode} and said nothing")
    return done.stderr.strip().splitlines()[-1]


def make_tenant(place: Place) -> str | None:
    why = told(place, "tenant", "create", "acme")
    done = subprocess.run([place.binary, "tenant", "list", "--data-dir", str(place.data)], capture_output=True,
                          text=True, timeout=TOLD_SECS_MAX, check=True)
    demand(("acme" in done.stdout) == (why is None), f"{why or 'made'}, and the list says:\n{done.stdout}")
    return why


def roll_back(data: Path, later: Path) -> None:
    """The mark is that of the later folder: the database is behind it."""
    shutil.copy(later / "high-water.json", data / "high-water.json")


def recover(place: Place) -> str | None:
    demand(place.client.get("/api/v1/ledger/head")["status"] == "rollback_detected", "the rollback is not told of")
    why = told(place, "ledger", "recover", "--tenant", "default", "--reason", "the disk was lost")
    if why:
        return why
    # The instance's own is behind too.
    demand(told(place, "ledger", "recover", "--tenant", "_instance", "--reason", "the same") is None, "_instance")
    write(Witness(0), place.client)
    return None


def erase(place: Place) -> str | None:
    if "record" not in place.kept:
        event = {"component": "c", "event_type": "HEALTH", "severity": "INFO", "summary": "to be erased"}
        status, answer = place.client.ask("POST", "/api/v1/system-records", event)
        demand(status == 201, f"{status} {answer[:300]!r}")
        place.kept["record"] = json.loads(answer)["receipt"]["record_id"].encode()
    path = f"/api/v1/records/{place.kept['record'].decode()}"
    status, answer = place.client.ask("DELETE", f"{path}/body", {"reason": "asked for"})
    body = place.client.get(path)["body"]
    if status == 200 or (status == 409 and b'"already_erased"' in answer):
        demand(body is None, "it is not erased")
        return None
    demand(body and body["summary"] == "to be erased", "refused, and erased all the same")
    return f"{status} {answer[:200]!r}"


def post_with_keys(place: Place) -> str | None:
    """Until one is refused. What was answered before is answered again, word for word."""
    for key, answered in place.kept.items():
        status, answer = place.client.ask("POST", "/api/v1/runs", {"run_id": key}, {"idempotency-key": key})
        demand((status, answer) == (201, answered), f"{key} again: {status} {answer[:200]!r}, it was {answered[:200]!r}")
    for number in range(KEYED_AGAIN_MAX if place.again else KEYED_MAX):
        # Answers are synced once a second: the server is at it long enough for two.
        time.sleep(KEYED_PAUSE_SECS)
        key = f"keyed-{len(place.kept)}-{number}"
        status, answer = place.client.ask("POST", "/api/v1/runs", {"run_id": key}, {"idempotency-key": key})
        if status != 201:
            demand(status == 503 and b'"idempotency_unavailable"' in answer, f"{status} {answer[:300]!r}")
            status, _ = place.client.ask("GET", f"/api/v1/traces/{key}")
            demand(status == 404, "refused, and done all the same")
            return "503 idempotency_unavailable"
        place.kept[key] = answer
    return None


def archive(place: Place) -> str | None:
    """Waits for the first pass of retention."""
    end = time.monotonic() + ARCHIVED_SECS_MAX
    while time.monotonic() < end:
        for line in place.server.errors().splitlines():
            if "retention of a tenant ended early" in line:
                return line
        if place.client.get("/api/v1/records?kind=retention.archived")["items"]:
            demand(list((place.data / "archive").glob("*.jsonl")), "archived, and there is no file")
            return None
        time.sleep(0.5)
    demand(False, f"nothing was archived within {ARCHIVED_SECS_MAX} s:\n{place.server.errors()}")


ASIDES = [
    Aside("make a tenant", make_tenant, (
        Fault("open its key", "openat", "keys/acme.0.key.new"),
        Fault("write its key", "write", "keys/acme.0.key.new"),
        Fault("sync its key", SYNC, "keys/acme.0.key.new"),
        Fault("rename its key", RENAME, "keys/acme.0.key.new"),
        Fault("sync the folder of keys", SYNC, "keys"),
    )),
    Aside("recover", recover, (
        Fault("open the new epoch's key", "openat", "keys/default.1.key.new"),
        Fault("write the new epoch's key", "write", "keys/default.1.key.new"),
        Fault("sync the new epoch's key", SYNC, "keys/default.1.key.new"),
        Fault("rename the new epoch's key", RENAME, "keys/default.1.key.new"),
        Fault("sync the folder of keys", SYNC, "keys"),
    ), ready=roll_back, writes=False),
    Aside("erase", erase, (
        Fault("make the mark", "openat", "deponent.db-scrub"),
        Fault("sync the mark", SYNC, "deponent.db-scrub", then="stopped"),
        Fault("take the mark away", "unlink,unlinkat", "deponent.db-scrub", then="warning"),
    )),
    Aside("post with a key", post_with_keys, (
        Fault("look for the key of kept answers", "statx,newfstatat", "keys/once.key"),
        Fault("link the key of kept answers", "link,linkat", "keys/once.key"),
        Fault("read the key of kept answers", "openat", "keys/once.key"),
        Fault("sync the folder of keys", SYNC, "keys"),
        Fault("write the answers", "pwrite64", "state.db-answers", (1, 2, 40), then="either"),
        Fault("sync the answers", SYNC, "state.db-answers", (1, 2), then="either"),
        Fault("begin the answers anew", "ftruncate", "state.db-answers", then="either"),
        Fault("write the answers behind them", "pwrite64", "state.db-answers-2", (1, 2, 40), then="either"),
        Fault("sync the answers behind them", SYNC, "state.db-answers-2", then="either"),
        Fault("begin the answers behind them anew", "ftruncate", "state.db-answers-2", then="either"),
        Fault("sync the log of the state", SYNC, "state.db-wal", (1, 2), then="either"),
        Fault(CARRIED, SYNC, "state.db", then="either"),
        Fault("write the log of the state", "pwrite64", "state.db-wal", (8, 40), then="either"),
    ), ready=lambda data, later: [(data / f"state.db-answers{end}").touch(mode=0o600) for end in ("", "-2")]),
    Aside("archive", archive, (
        Fault("open the archive", "openat", "archive/archive.new"),
        Fault("write the archive", "write", "archive/archive.new"),
        Fault("sync the archive", SYNC, "archive/archive.new"),
        Fault("rename the archive", RENAME, "archive/archive.new"),
        Fault("sync the folder of archives", SYNC, "archive"),
    ), settings={"DEPONENT_RETENTION_RUNS": "1s", "DEPONENT_RUNS_SEAL_AFTER": "1s"},
        # strace resolves the folder when it starts.
        ready=lambda data, later: (data / "archive").mkdir(mode=0o700)),
]


def write(witness: Witness, client: Client) -> None:
    """What others do meanwhile."""
    run_id = f"aside-{len(witness.receipts)}"
    for path, body in [
        ("/api/v1/runs", {"run_id": run_id}),
        (f"/api/v1/runs/{run_id}/complete", {"status": "completed"}),
    ]:
        demand(witness.send(client, path, body) is not None, f"refused: {witness.refused}")


def stopped(client: Client) -> bool:
    status, why = client.ask("GET", "/readyz")
    return status == 503 and b"writing has stopped" in why


def run(binary: str, aside: Aside, fault: Fault, count: int, folder: Path, prepared: tuple[Path, Path]) -> str:
    """One fault. Gives what became of it, for the report."""
    data, log = folder / "data", folder / "strace.log"
    shutil.copytree(prepared[0], data, ignore=shutil.ignore_patterns("admin.sock"))
    aside.ready(data, prepared[1])
    witness, rng, kept = Witness(count), random.Random(count), {}
    prefix = failing(fault.syscalls, data / fault.path, count, log)
    server = Server(binary, data, prefix, aside.settings)
    try:
        client = Client(server.started())
        if aside.writes:
            write(witness, client)
        why = aside.act(Place(binary, data, server, client, kept))
        demand(comes(lambda: injected(log), BESIDE_SECS_MAX), "the fault never came about")
        demand(fault.then == "either" or bool(why) == (fault.then in ("refused", "stopped")), f"the act says {why!r}")
        demand(why or comes(lambda: "WARN" in server.errors(), BESIDE_SECS_MAX), "nothing is said of the fault")
        demand(server.process.poll() is None, f"the server died of it:\n{server.errors()}")
        if fault.then == "stopped":
            demand(comes(lambda: stopped(client), SAID_SECS_MAX), "/readyz does not say that writing has stopped")
            demand(witness.send(client, "/api/v1/runs", {"run_id": "late"}) is None, "a record was taken")
            demand(witness.refused.get("writes_stopped"), f"refused otherwise: {witness.refused}")
        elif aside.writes:
            demand(not stopped(client), "others are kept from writing")
            write(witness, client)
    finally:
        server.end(signal.SIGKILL)
    server = Server(binary, data, settings=aside.settings)
    try:
        client = Client(server.started())
        if aside.writes:
            witness.send_again(client)
            witness.check(client, rng, everything=True)
        again = aside.act(Place(binary, data, server, client, kept, again=True))
        demand(again is None, f"without the fault: {again}")
        if aside.writes:
            write(witness, client)
            witness.check(client, rng, everything=True)
    finally:
        demand(server.end(signal.SIGTERM) == 0, "did not end well")
    verified(binary, data)
    return why or "done, with a warning"
