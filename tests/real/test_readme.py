"""The README's walks, typed word for word.

Each block of shell in a section is run by one shell, in order, in an empty folder where `target/release/deponent`
is the program under test. Only what a terminal of one's own would not need is replaced: ports, the process that is
killed, and sleeps, which become waits for what they are there for. Packages come in the versions of requirements.txt.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
PACKAGES = Path(__file__).resolve().with_name("requirements.txt")
# Some install packages.
BLOCK_SECS_MAX = 600.0
START_SECS_MAX = 180.0
STOP_SECS_MAX = 90.0
END = "__the block has ended__"


def blocks(section: str) -> list[str]:
    """The shell of one section (`## …`), block by block."""
    text = README.read_text()
    assert f"\n## {section}\n" in text, f"the README has no section {section!r}"
    body = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^```sh\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    assert found, f"{section!r} has no shell in it"
    return found


def free_port() -> int:
    """Below those that the kernel gives out by itself: nobody else takes it while the server is down."""
    while True:
        with socket.socket() as one:
            port = random.randrange(20_000, 32_000)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(what: str, holds: str) -> str:
    """Shell that waits until what is fetched has a text in it. (Not `grep -q`: it leaves, and `curl` fails of that.)"""
    return f"until curl -s {what} | grep '{holds}' >/dev/null; do sleep 0.2; done"


class Shell:
    """One shell for all blocks, as a reader has."""

    def __init__(self, folder: Path, replace: dict[str, str]) -> None:
        (folder / "target/release").mkdir(parents=True)
        (folder / "target/release/deponent").symlink_to(Path(os.environ["DEPONENT_BIN"]).resolve())
        self.folder, self.replace = folder, replace
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("DEPONENT_", "OTEL_"))}
        self.process = subprocess.Popen(
            ["bash", "-o", "pipefail"], cwd=folder, env=self.environment | {"PYTHONUNBUFFERED": "1", "PIP_CONSTRAINT": str(PACKAGES)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def type(self, block: str) -> str:
        """Runs a block and gives what it printed."""
        for old, new in self.replace.items():
            block = block.replace(old, new)
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{block}\necho '{END}'\n")
        self.process.stdin.flush()
        late = threading.Timer(BLOCK_SECS_MAX, self.kill)
        late.start()
        said = []
        try:
            for line in self.process.stdout:
                if line.rstrip("\n").endswith(END):
                    said.append(line.replace(END, ""))
                    return "".join(said)
                said.append(line)
        finally:
            late.cancel()
        pytest.fail(f"the shell ended in:\n{block}\n{''.join(said)}")

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.fixture
def shell(tmp_path: Path):
    shell = Shell(tmp_path, {})
    yield shell
    shell.kill()


def demand(said: str, *patterns: str) -> None:
    """Every pattern is there, each after the one before."""
    at = 0
    for pattern in patterns:
        match = re.compile(pattern, re.DOTALL).search(said, at)
        assert match, f"{pattern!r} is not (or not in this order) in:\n{said}"
        at = match.end()


class FirstTerminal:
    """`serve --demo`, in the terminal that the reader leaves it in."""

    def __init__(self, shell: Shell, port: int) -> None:
        self.shell, self.port = shell, port
        environment = shell.environment | {"DEPONENT_RUNS_SEAL_AFTER": "500ms"}
        self.log = shell.folder / "serve.log"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                ["target/release/deponent", "serve", "--demo", "--listen", f"127.0.0.1:{port}", "--grpc-listen", "off"],
                cwd=shell.folder, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        end = time.monotonic() + START_SECS_MAX
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
                    if "demo: " in self.log.read_text() or (shell.folder / "deponent-data/demo-loaded").exists():
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.1)
        self.process.kill()
        pytest.fail(f"the server is not ready:\n{self.log.read_text()}")

    def ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(STOP_SECS_MAX) == 0, self.log.read_text()


def test_the_five_minute_tour(shell: Shell) -> None:
    port = free_port()
    shell.replace["127.0.0.1:4318"] = f"127.0.0.1:{port}"
    # The agent of step 5 has no setting of its own: its exporter sends to the default port.
    shell.replace["MINE=$("] = f"MINE=$(OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port} "
    shell.replace["sleep 35"] = until('"$A/api/v1/records?run_id=$MINE&kind=trace.completed"', '"trace.completed"')
    start, read, keep, proof, check, agent, ended, kill, after, verify, flip, cheaper, backup, rest, roll, recover, clean = \
        blocks("A five-minute tour")
    assert start.strip() == "cargo run --release -- serve --demo"
    server = FirstTerminal(shell, port)
    try:
        demand(shell.type(read), '"items"', '"run_id"', '"leaf_index"')
        demand(shell.type(keep), r"deponent\.local/default\n\d+\n\S{44}\n\n— deponent\.local/default ")
        demand(shell.type(proof), '"header"', "c2sp.org/tlog-proof@v1")
        demand(shell.type(check), "=> OK")
        spoilt = "sed -i 's/\"kind\":\"r/\"kind\":\"s/' record.leaf\n" + check.splitlines()[-1]
        demand(shell.type(spoilt), "=> FAILED")
        demand(shell.type(agent), "gpt-4o-mini")
        demand(shell.type(ended), r"trace\.completed")
        shell.replace["$(pgrep -f '[d]eponent serve --demo')"] = str(server.process.pid)
        shell.type(kill)
        server.process.wait(STOP_SECS_MAX)
        server = FirstTerminal(shell, port)
        demand(shell.type(after), "gpt-4o-mini", '"tree_size"')
        said = shell.type(verify)
        # What was recorded of the last reads may not be signed yet.
        demand(said, "VALID-SELF-SIGNED: 0 errors", r"VALID-SINCE-KEPT-CHECKPOINT( UNSIGNED \d+)?: 0 errors")
        server.ctrl_c()
        demand(shell.type(flip), "INVALID", "exit code 1")
        demand(shell.type(cheaper), r"runs\.cost_nano_cents", "INVALID", "exit code 1")
        shell.type(backup)
        server = FirstTerminal(shell, port)
        demand(shell.type(rest), '"run_id":"nightly-7"', '"leaf_index"', '"code":"conflict"',
               "67f9bb8d5747a02c31b71835ca55b4de7ad06a27b6cff8ab9a6ab75b2452eceb")
        server.ctrl_c()
        demand(shell.type(roll), "rolled_back", "INVALID", "exit code 1")
        demand(shell.type(recover), "goes on as deponent.local/default/1", "goes on as deponent.local/_instance/1",
               "declared lost", "VALID-SELF-SIGNED: 0 errors")
        demand(shell.type(clean + "ls"), r"^deponent-data\nserve\.log\ntarget\n")
    finally:
        server.process.kill()


def test_the_walk_of_keys(shell: Shell) -> None:
    port = free_port()
    shell.replace |= {"4328": str(port), "sleep 2": until(f"http://127.0.0.1:{port}/readyz", '"ready"')}
    (walk,) = blocks("Keys: who was let in, who was refused, who read what")
    demand(shell.type(walk), '"run_id":"r-1"', '"trace_id":"trace_r-1"', '"status":404', '"status":404', '"status":403',
           '"ALLOW"', "tenant-boundary", '"row_count"', "is revoked", '"status":401', r"signin\.refused", r"key\.revoked", r"key\.created")


def test_the_walk_of_jobs(shell: Shell) -> None:
    port = free_port()
    shell.replace |= {"4338": str(port), "sleep 2": until(f"http://127.0.0.1:{port}/readyz", '"ready"')}
    (walk,) = blocks("Jobs: did it stay inside its contract?")
    demand(shell.type(walk), "wait", "exit code 3", "'verdict': 'PASS'", "proceed", "exit code 0", "'verdict': 'FAIL'",
           "rollback", "exit code 1", "A-00", "open", "'verdict': 'INCONCLUSIVE'", "escalate", "exit code 2",
           "ada", "exit code 0", "FAIL")
