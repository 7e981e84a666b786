#!/usr/bin/env python3
"""Kills a loaded server again and again; everything acknowledged must be there.

    python tests/crash/kill.py --binary target/ci/deponent [--rounds 50] [--seed N]

With --lose it tests itself: before the last start an old copy of the folder is put back, marks and all, so that
what was acknowledged since is gone and the server cannot know. That must be noticed here.

Needs `cryptography` (tests/real/requirements.txt) for the signatures of checkpoints.
Each round, on one data folder: start, load, SIGKILL at a random moment, start again,
hold the server to every acknowledgement, send again what got no answer. Some rounds
are killed while starting. At the end every leaf is read and `deponent verify` runs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from witness import Broken, Client, Server, Witness, comes, verified
import tlog_check

# Share of rounds that are also killed before they listen.
KILLED_STARTING = 0.15

# Share of rounds that are loaded for more than half a second.
LONG = 0.15

# How long the first acknowledgement may take, where there must be one.
ACKNOWLEDGED_SECS_MAX = 60.0


def rounds(binary: str, data: Path, count: int, seed: int, lose: bool = False) -> Witness:
    old = data.with_name("old")
    rng, witness = random.Random(seed), Witness(seed)
    server = Server(binary, data)
    server.started()
    try:
        for n in range(1, count + 1):
            load, before = witness.load(server.port, rng), len(witness.receipts)
            # What is to be lost must have been acknowledged.
            assert not lose or comes(lambda: len(witness.receipts) > before, ACKNOWLEDGED_SECS_MAX), "nothing was"
            # Now and then long enough for checkpoints to be signed meanwhile.
            time.sleep(rng.uniform(0.5, 0.8) if rng.random() < LONG else rng.uniform(0.03, 0.25))
            server.end(signal.SIGKILL)
            load.finish()
            if lose and n == 1:
                shutil.copytree(data, old, ignore=shutil.ignore_patterns("*.sock"))
            if lose and n == count:
                shutil.rmtree(data)
                old.rename(data)
            while rng.random() < KILLED_STARTING:
                server = Server(binary, data)
                time.sleep(rng.uniform(0, 0.08))
                server.end(signal.SIGKILL)
            server = Server(binary, data)
            server.started()
            client = Client(server.port)
            witness.check(client, rng)
            witness.send_again(client)
            if n % 25 == 0 or n == count:
                print(f"round {n}: {len(witness.receipts)} receipts, {len(witness.traces)} traces "
                      f"and {len(witness.logs)} provenance logs acknowledged, "
                      f"{witness.size} leaves, {len(witness.checkpoints)} checkpoints kept", flush=True)
        client = Client(server.port)
        witness.check(client, rng, everything=True)
        witness.check_whole(client)
    except BaseException:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
        print(server.errors(), file=sys.stderr)
        raise
    if server.end(signal.SIGTERM) != 0:
        raise Broken(f"did not end well on SIGTERM:\n{server.errors()}")
    return witness


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--dir", help="keep the data folder here")
    parser.add_argument("--lose", action="store_true", help="test this test: lose what was acknowledged")
    options = parser.parse_args()
    if options.lose and options.rounds < 2:
        parser.error("--lose needs two rounds")
    binary = str(Path(options.binary).resolve())
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="deponent-crash-") as temporary:
        folder = Path(options.dir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            witness = rounds(binary, folder / "data", options.rounds, options.seed, options.lose)
            verified(binary, folder / "data")
        except (Broken, tlog_check.Refused) as broken:
            if options.lose:
                print(f"what was lost was noticed: {broken}")
                print("crash: 1 passed, 0 failed")
                return 0
            print(f"FAILED (seed {options.seed}): {broken}", file=sys.stderr)
            print("crash: 0 passed, 1 failed")
            return 1
    if options.lose:
        print(f"FAILED (seed {options.seed}): acknowledged records were lost, and nobody noticed", file=sys.stderr)
        print("crash: 0 passed, 1 failed")
        return 1
    print(f"{options.rounds} kills, {len(witness.receipts)} receipts, {len(witness.traces)} traces, "
          f"{len(witness.logs)} provenance logs, "
          f"{witness.size} leaves, {len(witness.checkpoints)} checkpoints: nothing lost, nothing twice "
          f"({time.monotonic() - begun:.0f} s, seed {options.seed})")
    print("crash: 1 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
