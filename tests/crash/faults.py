#!/usr/bin/env python3
"""Makes the writes of a server fail, one at a time, and holds it to what it said.

    python tests/crash/faults.py --binary target/ci/deponent [--only WORD] [--but WORD]

Needs strace, and `cryptography` as kill.py does. For each write, sync, rename and open
on the files that matter, and at several counts: strace lets the n-th such call fail with
EIO. While serving, the server must then refuse (503 `writes_stopped`), say so in /readyz
and on stderr, and go on reading; while starting, it must end with a reason. After a start
without strace everything acknowledged is there and `deponent verify` exits 0. Files that
a single act needs are in asides.py.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import asides
from strace import failing, injected
from witness import Broken, Client, Gone, Server, Witness, comes, demand, verified
import tlog_check

# How long a fault may take to come about under load.
FAULT_SECS_MAX = 120.0
# How long a server may take to say that it has stopped.
SAID_SECS_MAX = 60.0
# How long the load before the faults goes on at least, and how many acknowledgements there must be.
PREPARED_SECS = 0.7
PREPARED_MIN = 20
# Faults that are tried beside the others: they wait for a pass of retention, or post for long.
WAITING_MAX = 6
# The others, at once: a server that starts under strace keeps no processor busy.
TRIED_MAX = 2


@dataclass(frozen=True)
class Case:
    """One kind of call on one file, and at which counts it fails."""

    name: str
    syscalls: str
    path: str
    counts: tuple[int, ...]
    # The folder is new: the fault strikes while the server makes its files.
    starting: bool = False
    # No evidence depends on the file: the server goes on, and says that it could not be written.
    spared: bool = False


# SQLite writes with pwrite64 and syncs with fdatasync; the small files go through write, fsync and rename.
# strace counts per thread, so small counts come about in any of them.
CASES = [
    Case("write the log of the database", "pwrite64", "deponent.db-wal", (1, 2, 7, 40, 150)),
    Case("sync the log of the database", "fdatasync,fsync", "deponent.db-wal", (1, 2, 3, 10)),
    Case("write the database", "pwrite64", "deponent.db", (1, 5, 50)),
    Case("sync the database", "fdatasync,fsync", "deponent.db", (1, 2)),
    Case("open the new high-water mark", "openat", "high-water.json.new", (1, 2)),
    Case("write the new high-water mark", "write", "high-water.json.new", (1, 2)),
    Case("sync the new high-water mark", "fsync,fdatasync", "high-water.json.new", (1, 2)),
    Case("rename the high-water mark", "rename,renameat,renameat2", "high-water.json.new", (1, 2)),
    # The first sync of the folder while serving is SQLite's own, which it ignores; ours at the start came before it.
    Case("sync the folder", "fsync,fdatasync", "", (2, 3)),
    Case("write the log of the state", "pwrite64", "state.db-wal", (1, 2), spared=True),
    Case("make the database", "openat", "deponent.db", (1,), starting=True),
    Case("write the first log", "pwrite64", "deponent.db-wal", (1, 3), starting=True),
    Case("sync the first log", "fdatasync,fsync", "deponent.db-wal", (1, 2), starting=True),
    Case("make a key", "openat", "keys/default.0.key.new", (1,), starting=True),
    Case("write a key", "write", "keys/default.0.key.new", (1,), starting=True),
    Case("sync a key", "fsync,fdatasync", "keys/default.0.key.new", (1,), starting=True),
    Case("rename a key", "rename,renameat,renameat2", "keys/default.0.key.new", (1,), starting=True),
    Case("sync the folder of keys", "fsync,fdatasync", "keys", (1,), starting=True),
]


def run(binary: str, case: Case, count: int, folder: Path, prepared: Path) -> str:
    """One fault. Gives what the server did, for the report."""
    data, log = folder / "data", folder / "strace.log"
    if not case.starting:
        shutil.copytree(prepared, data, ignore=shutil.ignore_patterns("admin.sock"))
    else:
        # strace resolves -P when it starts.
        data.mkdir(mode=0o700)
        if "/" in case.path or case.path == "keys":
            (data / "keys").mkdir(mode=0o700)
    rng, witness = random.Random(count), Witness(count)
    path = data / case.path if case.path else data
    server = Server(binary, data, failing(case.syscalls, path, count, log))
    try:
        did = strike(server, case, witness, log, rng)
    finally:
        server.end(signal.SIGKILL)
    errors = server.errors()
    demand(injected(log) > 0, "the fault never came about")
    demand("ERROR" in errors or case.spared and "WARN" in errors or did.startswith("ended") and "deponent: " in errors, f"no reason on stderr:\n{errors}")
    # Without strace: all of it, and nothing twice.
    server = Server(binary, data)
    try:
        server.started()
        client = Client(server.port)
        witness.check(client, rng, everything=True)
        witness.send_again(client)
        witness.check(client, rng, everything=True)
        witness.check_whole(client)
    finally:
        server.end(signal.SIGTERM)
    verified(binary, data)
    return f"{did}; {len(witness.receipts)} receipts, {len(witness.traces)} traces kept"


def strike(server: Server, case: Case, witness: Witness, log: Path, rng: random.Random) -> str:
    port = server.listening()
    if port is None:
        demand(case.starting or injected(log), f"the server ended:\n{server.errors()}")
        code = server.process.returncode
        demand(code != 0, "the server ended at its start as if all were well")
        return f"ended at its start with {code}"
    load = witness.load(port, rng, runs=2, traces=1)
    client = Client(port)
    end = time.monotonic() + FAULT_SECS_MAX
    while not injected(log) and time.monotonic() < end and server.process.poll() is None:
        if case.spared:
            # How far verification is stands in that file.
            client.ask("POST", "/api/v1/verifications", {})
        time.sleep(0.02)
    if case.spared and injected(log):
        taken = len(witness.receipts)
        time.sleep(0.5)
        more = comes(lambda: len(witness.receipts) > taken, SAID_SECS_MAX)
        load.finish()
        demand(server.process.poll() is None, f"the server died of it:\n{server.errors()}")
        demand(more, "nothing is taken any more")
        demand(not witness.refused, f"writers were refused: {witness.refused}")
        return "went on"
    # What follows the fault is tried too: writers go on until the server has said that it stopped.
    end = time.monotonic() + SAID_SECS_MAX
    ready = 200
    while injected(log) and time.monotonic() < end:
        ready, why = client.ask("GET", "/readyz")
        if ready == 503 and b"writing has stopped" in why and witness.refused.get("writes_stopped"):
            break
        time.sleep(0.02)
    load.finish()
    if not injected(log):
        return "no fault"
    demand(server.process.poll() is None, f"the server died of it:\n{server.errors()}")
    demand(ready == 503, f"/readyz still says {ready} after the fault")
    demand(b"writing has stopped" in why, f"/readyz says another thing: {why!r}")
    demand(witness.refused.get("writes_stopped"), f"no answer was writes_stopped: {witness.refused}")
    # Reading goes on.
    demand(client.get("/api/v1/ledger/head")["tree_size"] >= witness.size, "the head is behind the receipts")
    return "stopped writing and said so"


def prepare(binary: str, folder: Path) -> tuple[Path, Path]:
    """A folder with a ledger in it, so that cases begin with a server that serves; and the same with more in it."""
    data, before = folder / "data", folder / "before"
    for turn in range(2):
        if data.exists():
            shutil.copytree(data, before, ignore=shutil.ignore_patterns("admin.sock"))
        server, witness = Server(binary, data), Witness(0)
        # Its runs are none of those that the faults are tried with.
        load = witness.load(server.started(), random.Random(f"prepared {turn}"))
        time.sleep(PREPARED_SECS)
        enough = comes(lambda: len(witness.receipts) >= PREPARED_MIN, SAID_SECS_MAX)
        load.finish()
        demand(server.end(signal.SIGTERM) == 0, "did not end well")
        demand(enough, f"{len(witness.receipts)} acknowledgements, and {witness.refused} refused")
    return before, data


@dataclass(frozen=True)
class Run:
    """One fault to be tried, and what to call it."""

    name: str
    tried: Callable[[Path, tuple[Path, Path]], str]
    # Mostly waiting: beside the others.
    waits: bool = False

    def passes(self, folder: Path, prepared: tuple[Path, Path]) -> bool:
        folder.mkdir()
        begun = time.monotonic()
        try:
            verdict, said = "ok    ", self.tried(folder, prepared)
        except (Broken, Gone, tlog_check.Refused, subprocess.SubprocessError) as broken:
            verdict, said = "FAILED", str(broken)
        print(f"{verdict} {self.name}: {said} ({time.monotonic() - begun:.1f} s)", flush=True)
        shutil.rmtree(folder)
        return verdict != "FAILED"


def runs(binary: str, only: str, but: str | None) -> list[Run]:
    """All faults whose name has the one word in it and not the other."""
    all_runs = [
        Run(f"{'starting' if case.starting else 'serving'}: {case.name}, call {count}",
            lambda folder, prepared, case=case, count=count: run(binary, case, count, folder, prepared[0]))
        for case in CASES for count in case.counts
    ] + [
        Run(f"{aside.name}: {fault.name}, call {count}",
            lambda folder, prepared, a=aside, f=fault, count=count: asides.run(binary, a, f, count, folder, prepared),
            waits=aside.act is asides.archive or fault.name == asides.CARRIED)
        for aside in asides.ASIDES for fault in aside.faults for count in fault.counts
    ]
    return [run for run in all_runs if only in run.name and (but is None or but not in run.name)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--only", default="", help="only cases whose name has this in it")
    parser.add_argument("--but", help="only cases whose name has not this in it")
    options = parser.parse_args()
    if not shutil.which("strace"):
        print("strace is not installed", file=sys.stderr)
        return 2
    # Whoever ends this ends its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    binary = str(Path(options.binary).resolve())
    with (tempfile.TemporaryDirectory(prefix="deponent-faults-") as temporary,
          ThreadPoolExecutor(WAITING_MAX) as beside, ThreadPoolExecutor(TRIED_MAX) as pool):
        (Path(temporary) / "prepared").mkdir()
        prepared = prepare(binary, Path(temporary) / "prepared")
        tried = [(run, Path(temporary) / str(number)) for number, run in enumerate(runs(binary, options.only, options.but))]
        waiting = [beside.submit(run.passes, folder, prepared) for run, folder in tried if run.waits]
        others = [pool.submit(run.passes, folder, prepared) for run, folder in tried if not run.waits]
        passes = [run.result() for run in others + waiting]
    passed, failed = passes.count(True), passes.count(False)
    print(f"faults: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
