#!/usr/bin/env python3
"""Measures lineage against its figures: drill-through of 100,000 ids in a CSV of 1,000,000 rows, the
verification of a log of a million lines, and a drill in a CSV that is larger than memory should be.
With --pandas the first drill by a pandas script too, in the same run.

    scripts/bench lineage [--pandas] [--rows N] [--ids N] [--lines N] [--stream-gb G (2; 0: none)] [--strict]

The files are made anew in a temporary folder (TMPDIR); the same arguments give the same bytes.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

PANDAS = """
import json, sys
import pandas as pd
audit, fn = sys.argv[1], sys.argv[2]
evidence, cited = {}, None
for line in open(audit, encoding="utf-8"):
    record = json.loads(line)
    if record["type"] == "evidence":
        evidence[record["id"]] = record
    elif record["type"] == "deterministic" and record["fn"] == fn:
        cited = record["evidence_id"]
record = evidence[cited]
frame = pd.read_csv(record["uri"], dtype=str, keep_default_na=False)
key = frame["period"] + "|" + frame["entity"] + "|" + frame["account"]
frame[key.isin(set(record["input_row_ids"]))].to_csv(sys.stdout, index=False)
"""


def rows(folder, count, cited):
    draw = random.Random(1)
    chosen = set(draw.sample(range(count), cited))
    names = ["Cash", "Receivables", "Inventory", '"Prepaid, other"', "Payables", "Accruals", "Revenue", "Travel"]
    path, ids = os.path.join(folder, "rows.csv"), []
    with open(path, "w", newline="") as out:
        out.write("period,entity,account,account_name,balance_usd,balance_local,local_currency\n")
        for i in range(count):
            period = "20%02d-%02d" % (20 + (i // 120000) % 8, 1 + (i // 10000) % 12)
            entity, account = "ENT%05d" % (i // 1000), "%06d" % (1000 + i)
            usd, local = draw.randrange(-10**8, 10**8), draw.randrange(-10**8, 10**8)
            out.write("%s,%s,%s,%s,%.2f,%.2f,EUR\n" % (period, entity, account, names[i % 8], usd / 100, local / 100))
            if i in chosen:
                ids.append("%s|%s|%s" % (period, entity, account))
    draw.shuffle(ids)
    audit = os.path.join(folder, "audit_drill.jsonl")
    with open(audit, "w") as out:
        out.write(json.dumps({"type": "evidence", "id": "ev-1", "evidence_type": "csv", "uri": path,
                              "input_row_ids": ids}) + "\n")
        out.write(json.dumps({"type": "deterministic", "fn": "tb_diagnostics", "evidence_id": "ev-1"}) + "\n")


# Rows that are made once and written again and again, each time of other entities.
BLOCK_ROWS = 100_000
STREAM_IDS = 1_000
# Memory of a drill, however large the file is.
STREAM_MIB_MAX = 64


def stream(folder, size):
    """A CSV of so many bytes, and a log that cites rows all over it. Gives both paths."""
    block = "".join("2026-01,ENT@@@@@@,%06d,Cash,%d.00,%d.00,EUR\n" % (1000 + i, i * 37 % 10**8, i * 41 % 10**8)
                    for i in range(BLOCK_ROWS)).encode()
    path, head = os.path.join(folder, "stream.csv"), b"period,entity,account,account_name,balance_usd,balance_local,local_currency\n"
    blocks = max(1, (size - len(head)) // len(block))
    with open(path, "wb") as out:
        out.write(head)
        for n in range(blocks):
            out.write(block.replace(b"@@@@@@", b"%06d" % n))
    draw = random.Random(2)
    places = sorted(draw.sample(range(blocks * BLOCK_ROWS), STREAM_IDS))
    ids = ["2026-01|ENT%06d|%06d" % (at // BLOCK_ROWS, 1000 + at % BLOCK_ROWS) for at in places]
    audit = os.path.join(folder, "audit_stream.jsonl")
    with open(audit, "w") as out:
        out.write(json.dumps({"type": "evidence", "id": "ev-1", "evidence_type": "csv", "uri": path,
                              "input_row_ids": ids}) + "\n")
        out.write(json.dumps({"type": "deterministic", "fn": "tb_diagnostics", "evidence_id": "ev-1"}) + "\n")
    return path, audit


def lines(folder, count):
    path = os.path.join(folder, "audit_verify.jsonl")
    with open(path, "w") as out:
        for i in range(count // 2):
            ids = ["2026-01|ENT%05d|%06d" % (i % 500, i + k) for k in range(3)]
            out.write(json.dumps({"ts": "2026-01-01T00:00:00Z", "type": "evidence", "id": "ev-%032x" % i,
                                  "evidence_type": "csv", "uri": None, "input_row_ids": ids,
                                  "timestamp": "2026-01-01T00:00:00Z"}) + "\n")
            out.write(json.dumps({"ts": "2026-01-01T00:00:00Z", "type": "deterministic", "fn": "fn%d" % (i % 20),
                                  "evidence_id": "ev-%032x" % i, "output_hash": "0" * 64,
                                  "params": {"period": "2026-01", "entity": "ALL"}, "artifact": None}) + "\n")


def make(folder, given):
    """In a process of its own: what a process ever held counts for the programs that it starts."""
    child = os.fork()
    if child == 0:
        rows(folder, given.rows, given.ids)
        lines(folder, given.lines)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, "the files were not made"
    return os.path.join(folder, "audit_drill.jsonl"), os.path.join(folder, "audit_verify.jsonl")


def run(command, out):
    """Wall time in seconds, greatest memory in MiB, and the exit code."""
    began = time.monotonic()
    with open(out, "wb") as stdout:
        child = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
    return time.monotonic() - began, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


def best(command, out, times=5):
    found = [run(command, out) for _ in range(times)]
    assert all(code == 0 for _, _, code in found), "%s: exit code %s" % (command, found[0][2])
    return min(wall for wall, _, _ in found), max(memory for _, memory, _ in found)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--binary", required=True)
    ask.add_argument("--rows", type=int, default=1_000_000)
    ask.add_argument("--ids", type=int, default=100_000)
    ask.add_argument("--lines", type=int, default=1_000_000)
    ask.add_argument("--stream-gb", type=float, default=2.0, help="size of the large CSV; 0: none")
    ask.add_argument("--pandas", action="store_true", help="in a virtual environment of its own, from the registry")
    ask.add_argument("--strict", action="store_true", help="a missed figure is exit code 1")
    given = ask.parse_args()
    missed = False
    with tempfile.TemporaryDirectory(prefix="deponent-bench-lineage-") as folder:
        audit, log = make(folder, given)
        out, other = os.path.join(folder, "out.csv"), os.path.join(folder, "pandas.csv")

        def show(name, wall, memory, wall_max=None, memory_max=None):
            nonlocal missed
            late = (wall_max and wall > wall_max) or (memory_max and memory > memory_max)
            missed |= bool(late)
            limits = [limit for limit, set_ in (("%s s" % wall_max, wall_max), ("%s MiB" % memory_max, memory_max)) if set_]
            figure = "  (%s)" % ", ".join(limits) if limits else ""
            print("%-44s %7.3f s %7.1f MiB%s%s" % (name, wall, memory, figure, "  MISSED" if late else ""))

        drill = [given.binary, "lineage", "drill", "--fn", "tb_diagnostics", "--audit", audit]
        show("drill %d ids in %d rows" % (given.ids, given.rows), *best(drill, out), 0.5, 64)
        verify = [given.binary, "lineage", "verify", "--audit", log, "--require", "fn0,fn1"]
        show("verify %d lines" % given.lines, *best(verify, os.devnull), 2.0)
        size = int(given.stream_gb * 10**9)
        # Room for the file, and a tenth of it to spare.
        if size and shutil.disk_usage(folder).free < size * 1.1:
            print("drill in a CSV of %.1f GB: SKIPPED, there is no room for it in %s" % (size / 10**9, folder))
        elif size:
            (path, log), found = stream(folder, size), os.path.join(folder, "found.csv")
            wall, memory, code = run([given.binary, "lineage", "drill", "--fn", "tb_diagnostics", "--audit", log], found)
            assert code == 0, "the drill in the large file: exit code %s" % code
            with open(found) as rows_found:
                assert len(rows_found.readlines()) == STREAM_IDS + 1, "rows are missing"
            show("drill %d ids in %.1f GB" % (STREAM_IDS, os.path.getsize(path) / 10**9), wall, memory, None, STREAM_MIB_MAX)
            os.remove(path)
        if given.pandas:
            venv = os.path.join(folder, "venv")
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([venv + "/bin/pip", "-q", "install", "--disable-pip-version-check", "pandas"], check=True)
            script = os.path.join(folder, "drill.py")
            with open(script, "w") as text:
                text.write(PANDAS)
            show("the same drill by pandas", *best([venv + "/bin/python", script, audit, "tb_diagnostics"], other, 2))
            with open(out) as ours, open(other) as theirs:
                assert ours.read() == theirs.read(), "pandas found other rows"
    return 1 if missed and given.strict else 0


if __name__ == "__main__":
    sys.exit(main())
