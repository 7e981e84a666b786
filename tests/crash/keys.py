#!/usr/bin/env python3
"""Kills a server that answers requests with keys; what was answered must be answered again, word for word.

    python tests/crash/keys.py --binary target/ci/deponent [--rounds 10] [--seed N]

With --lose it tests itself: before the last start the answers that wait to become rows are taken away. That must be
noticed here.

Each round, on one data folder: start, post with keys, SIGKILL at a random moment, start again, and
send again all that was answered in this round, and some of what was answered before.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from witness import Broken, Client, Gone, Server, demand

# Clients at once; more would wait for the one Python interpreter.
CLIENTS = 6
# How long the first answer may take.
ANSWERED_SECS_MAX = 60.0
# Answers of earlier rounds that are asked for again.
AGAIN_MAX = 200

Kept = dict[str, bytes]


def post(client: Client, key: str) -> tuple[int, bytes]:
    return client.ask("POST", "/api/v1/runs", {}, {"idempotency-key": key})


def load(port: int, names: str, kept: Kept, stop: threading.Event) -> None:
    client = Client(port)
    number = 0
    while not stop.is_set():
        key = f"{names}-{number}"
        number += 1
        try:
            status, answer = post(client, key)
        except Gone:
            return
        # No run has a name: done a second time it would be another.
        if status == 201:
            kept[key] = answer


def rounds(binary: str, data: Path, count: int, rng: random.Random, lose: bool) -> Kept:
    kept: Kept = {}
    for n in range(1, count + 1):
        server = Server(binary, data)
        fresh: list[Kept] = [{} for _ in range(CLIENTS)]
        stop = threading.Event()
        try:
            port = server.started()
            threads = [threading.Thread(target=load, args=(port, f"{n}-{c}", fresh[c], stop)) for c in range(CLIENTS)]
            for thread in threads:
                thread.start()
            end = time.monotonic() + ANSWERED_SECS_MAX
            while not any(fresh) and time.monotonic() < end:
                time.sleep(0.01)
            # From a few answers to several times as many as become rows together; few enough that they wait, to lose them.
            time.sleep(0.05 if lose and n == count else rng.uniform(0, 1))
        finally:
            server.end(signal.SIGKILL)
            stop.set()
        for thread in threads:
            thread.join()
        before = rng.sample(sorted(kept), min(len(kept), AGAIN_MAX))
        now = [key for one in fresh for key in one]
        for one in fresh:
            kept.update(one)
        demand(now, "nothing was answered")
        if lose and n == count:
            for file in ("state.db-answers", "state.db-answers-2"):
                (data / file).unlink()
        server = Server(binary, data)
        try:
            client = Client(server.started())
            for key in now + before:
                status, answer = post(client, key)
                demand((status, answer) == (201, kept[key]),
                       f"round {n}, {key} again: {status} {answer[:200]!r}, it was {kept[key][:200]!r}")
        finally:
            # What a clean end leaves is found as well.
            server.end(signal.SIGTERM if n % 2 else signal.SIGKILL)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--lose", action="store_true", help="test this test: lose what was answered")
    options = parser.parse_args()
    begun, why = time.monotonic(), None
    with tempfile.TemporaryDirectory(prefix="deponent-keys-") as folder:
        try:
            kept = rounds(str(Path(options.binary).resolve()), Path(folder) / "data", options.rounds,
                          random.Random(options.seed), options.lose)
        except Broken as broken:
            why = broken
    if options.lose:
        passed = why is not None and "again: 201" in str(why)
        print(f"what was lost was noticed: {why}" if passed else f"nobody noticed what was lost: {why}")
    elif why is not None:
        passed = False
        print(f"FAILED (seed {options.seed}): {why}", file=sys.stderr)
    else:
        passed = True
        print(f"{options.rounds} kills, {len(kept)} answers: each given again, word for word "
              f"({time.monotonic() - begun:.0f} s, seed {options.seed})")
    print(f"crash: {int(passed)} passed, {int(not passed)} failed")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
