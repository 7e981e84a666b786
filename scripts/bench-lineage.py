#!/usr/bin/env python3
"""Measures lineage against its figures: drill-through of 100,000 ids in a CSV of 1,000,000 rows, and the
verification of a log of a million lines. With --pandas the same drill by a pandas script, in the same run.

    scripts/bench lineage [--pandas] [--rows N] [--ids N] [--strict]

The files are made anew in a temporary folder (TMPDIR); the same arguments give the same bytes.
"""
import argparse
import json
import os
import random
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
            figure = "  (%s s%s)" % (wall_max, ", %s MiB" % memory_max if memory_max else "") if wall_max else ""
            print("%-44s %7.3f s %7.1f MiB%s%s" % (name, wall, memory, figure, "  MISSED" if late else ""))

        drill = [given.binary, "lineage", "drill", "--fn", "tb_diagnostics", "--audit", audit]
        show("drill %d ids in %d rows" % (given.ids, given.rows), *best(drill, out), 0.5, 64)
        verify = [given.binary, "lineage", "verify", "--audit", log, "--require", "fn0,fn1"]
        show("verify %d lines" % given.lines, *best(verify, os.devnull), 2.0)
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
