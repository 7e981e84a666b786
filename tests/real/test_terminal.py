"""Long work shows on a terminal how far it is, and nowhere else."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import termios
import threading
from pathlib import Path

import pytest

# 81 MB: of files below 64 MiB no bar is drawn.
ROWS = 2_200_000
DRILL_SECS_MAX = 180.0


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A drill for the last of many rows."""
    folder = tmp_path_factory.mktemp("terminal")
    table, audit = folder / "rows.csv", folder / "audit.jsonl"
    with table.open("w") as out:
        out.write("period,entity,account,balance_usd\n")
        out.writelines(f"2026-01,ENT{n // 1000:05},{n:07},{n}.00\n" for n in range(ROWS))
    last = f"2026-01|ENT{(ROWS - 1) // 1000:05}|{ROWS - 1:07}"
    evidence = {"type": "evidence", "id": "ev-1", "evidence_type": "csv", "uri": str(table), "input_row_ids": [last]}
    cited = {"type": "deterministic", "fn": "tb_diagnostics", "evidence_id": "ev-1"}
    audit.write_text(json.dumps(evidence) + "\n" + json.dumps(cited) + "\n")
    binary = str(Path(os.environ["DEPONENT_BIN"]).resolve())
    return [binary, "lineage", "drill", "--fn", "tb_diagnostics", "--audit", str(audit)]


def test_a_drill_draws_a_bar_on_a_terminal_and_keeps_it_out_of_the_rows(command: list[str]) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    drawn = bytearray()

    def read() -> None:
        try:
            while part := os.read(ours, 65536):
                drawn.extend(part)
        except OSError:
            pass  # Linux's word for the other side being closed.

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "TERM": "xterm"}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=DRILL_SECS_MAX, check=False,
                              env=environment)
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    said = drawn.decode(errors="replace")
    assert done.returncode == 0, said
    assert done.stdout.decode().splitlines()[1:] == [f"2026-01,ENT{(ROWS - 1) // 1000:05},{ROWS - 1:07},{ROWS - 1}.00"]
    # Drawn over and over in one line.
    assert "\r" in said and "MiB" in said, said
    shown = [part for part in said.split("\r") if "MiB" in part]
    assert len(set(shown)) > 1, said


def test_without_a_terminal_nothing_is_drawn(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, timeout=DRILL_SECS_MAX, check=False)
    assert done.returncode == 0
    assert b"\r" not in done.stderr and b"MiB" not in done.stderr
