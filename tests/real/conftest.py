"""Real emitters against a running server.

    pip install -r tests/real/requirements.txt
    DEPONENT_BIN=target/release/deponent pytest tests/real     # starts one, stops it
    DEPONENT_URL=http://127.0.0.1:4318 pytest tests/real       # uses a running one

With DEPONENT_URL also DEPONENT_GRPC (host:port, default port 4317 of the same host),
DEPONENT_API_KEY and DEPONENT_TENANT (default `default`). Without either variable the
tests that need a server fail; they never skip.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api import Api
from provider import Provider

HERE = Path(__file__).parent
# Against hanging for ever; a busy machine may take a good part of them.
START_SECS_MAX = 90.0
STOP_SECS_MAX = 90.0
EMIT_SECS_MAX = 180.0
POLL_SECS = 0.05
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LOOPBACK = r"(?:127\.0\.0\.1|localhost|\[::1\])"
GRPC_LINE = re.compile(rf"grpc[^0-9\n]*?({LOOPBACK}:[1-9][0-9]*)", re.IGNORECASE)
HTTP_LINE = re.compile(rf"https?://({LOOPBACK}:[1-9][0-9]*)")


@dataclass(frozen=True)
class Server:
    base_url: str
    grpc: str


def addresses(log: str) -> Server | None:
    """Both addresses, once the server has printed both."""
    text = ANSI.sub("", log)
    grpc = GRPC_LINE.search(text)
    http = [host for host in HTTP_LINE.findall(text) if not grpc or host != grpc[1]]
    return Server(f"http://{http[0]}", grpc[1]) if grpc and http else None


@contextmanager
def started(binary: str, folder: Path) -> Iterator[Server]:
    """A server on free ports over an empty ledger, ended by SIGTERM."""
    log = folder / "serve.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DEPONENT_", "OTEL_"))}
    environment["DEPONENT_RUNS_SEAL_AFTER"] = "500ms"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(Path(binary).resolve()), "serve", "--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0",
             "--data-dir", str(folder / "data")],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder, env=environment)
    try:
        yield ready(process, log)
        assert process.poll() is None, f"the server ended by itself:\n{log.read_text()[-4000:]}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the server did not drain within {STOP_SECS_MAX} s") from None


def ready(process: subprocess.Popen[bytes], log: Path) -> Server:
    deadline = time.monotonic() + START_SECS_MAX
    while True:
        printed = log.read_text(errors="replace")
        if (server := addresses(printed)) and is_ready(server):
            return server
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{printed[-4000:]}"
        assert time.monotonic() < deadline, f"not ready within {START_SECS_MAX} s:\n{printed[-4000:]}"
        time.sleep(POLL_SECS)


def is_ready(server: Server) -> bool:
    try:
        return httpx.get(f"{server.base_url}/readyz", timeout=10, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if url := os.environ.get("DEPONENT_URL"):
        grpc = os.environ.get("DEPONENT_GRPC", f"{urlsplit(url).hostname}:4317")
        yield Server(url.rstrip("/"), grpc)
        return
    binary = os.environ.get("DEPONENT_BIN")
    assert binary, "set DEPONENT_BIN to the server's binary, or DEPONENT_URL to a running server"
    folder = tmp_path_factory.mktemp("deponent")
    with started(binary, folder) as running:
        yield running


@pytest.fixture(scope="session")
def base_url(server: Server) -> str:
    return server.base_url


@pytest.fixture(scope="session")
def api(server: Server) -> Iterator[Api]:
    api = Api(server.base_url, os.environ.get("DEPONENT_API_KEY"), os.environ.get("DEPONENT_TENANT", "default"))
    with api.client:
        yield api


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


Emit = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def emit(server: Server) -> Emit:
    """Runs an emitter to its end in a process of its own; answers what it says it sent."""

    def run(script: str, *args: str, protocol: str = "http/protobuf", gzip: bool = False) -> dict[str, Any]:
        endpoint = f"http://{server.grpc}" if protocol == "grpc" else server.base_url
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "TRACELOOP_"))}
        environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                        "NO_PROXY": "*"}
        if gzip:
            environment["OTEL_EXPORTER_OTLP_COMPRESSION"] = "gzip"
        if key := os.environ.get("DEPONENT_API_KEY"):
            environment["OTEL_EXPORTER_OTLP_HEADERS"] = f"authorization=Bearer%20{key}"
        done = subprocess.run([sys.executable, str(HERE / script), *args], env=environment, cwd=HERE,
                              capture_output=True, text=True, timeout=EMIT_SECS_MAX, check=False)
        assert done.returncode == 0, f"{script} ended with {done.returncode}:\n{done.stderr[-4000:]}"
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run
