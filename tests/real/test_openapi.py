"""The server against its own OpenAPI document, by schemathesis: an administrator's key, made-up requests of all kinds.

No answer may be a 5xx, have a status, code, content type or header that the document does not name, or break its schema.
Some requests break the document's rules; whether those are refused is not asked here: a reader of this file could not
say which rule a JSON schema leaves out, and tests of the server do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from conftest import started

SEED = 20261121
EXAMPLES = 12
"""Requests of one kind and operation: all of them together take a minute on an idle machine."""
ANSWER_SECS_MAX = 60
RUN_SECS_MAX = 900
CHECKS = ("not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
          "response_schema_conformance,unsupported_method,ignored_auth,named_code")
NAMED_CODE = '''
import schemathesis

@schemathesis.check
def named_code(ctx, response, case):
    if response.headers.get("content-type", [""])[0] != "application/problem+json":
        return
    said = case.operation.definition.raw["responses"].get(str(response.status_code))
    if said is not None:
        code = response.json()["code"]
        assert f"`{code}`" in said["description"], f"{response.status_code} `{code}` is not in the document"
'''
"""A check of schemathesis, in a file of its own as it wants it."""


def command(folder: Path, *args: str) -> str:
    binary = os.environ.get("DEPONENT_BIN")
    assert binary, "set DEPONENT_BIN to the server's binary: this test makes a tenant and its key, in a folder of its own"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPONENT_")}
    done = subprocess.run([str(Path(binary).resolve()), *args, "--data-dir", str(folder / "data")],
                          capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_answered_is_what_the_document_says(tmp_path: Path) -> None:
    command(tmp_path, "tenant", "create", "acme")
    made = command(tmp_path, "key", "create", "--tenant", "acme", "--role", "admin", "--format", "json")
    admin = json.loads(made)["key"]
    with started(os.environ["DEPONENT_BIN"], tmp_path) as server:
        headers = {"authorization": f"Bearer {admin}"}
        with httpx.Client(base_url=server.base_url, headers=headers, timeout=ANSWER_SECS_MAX, trust_env=False) as client:
            made = client.post("/api/v1/runs", json={"run_id": "r-1"})
            assert made.status_code == 201, made.text
        (tmp_path / "named_code.py").write_text(NAMED_CODE)
        hooks = {**os.environ, "SCHEMATHESIS_HOOKS": "named_code", "PYTHONPATH": str(tmp_path)}
        # One worker: Python 3.11 loses count of its parser's depth when threads parse at once, and it did.
        ran = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{server.base_url}/api/openapi.json",
             "--header", f"Authorization: Bearer {admin}", "--checks", CHECKS, "--phases", "coverage,fuzzing",
             "--max-examples", str(EXAMPLES), "--seed", str(SEED), "--workers", "1", "--no-color",
             "--suppress-health-check", "all", "--request-timeout", str(ANSWER_SECS_MAX)],
            cwd=tmp_path, env=hooks, capture_output=True, text=True, timeout=RUN_SECS_MAX, check=False)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
