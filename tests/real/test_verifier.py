"""What the server serves as proof, judged by verifiers that are not ours.

proofbundle (and aics-tlog, where Python is recent enough) read the same bytes as
tlog_check.py, which was written from the specifications alone. Each must accept what
is served, and refuse it after any one changed bit (for proofbundle see altering.py: two
bits of a signature line stand for nothing). The keys come from the server here
only because it is the test's own; a real verifier pins them.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from proofbundle.tlogproof import verify_tlog_proof

import otlp
import tlog_check as t
from altering import altered, every_altered, only_padding_bits
from api import Api

ROOT = 1
SPANS = 300
"""More than one full tile, so that the tree has a second level."""

Resources = dict[str, bytes]


@dataclass(frozen=True)
class Served:
    """A log as fetched: everything a verifier reads, kept so that it can be altered."""

    vkey: str
    resources: Resources
    log: t.Log
    trace_id: str

    @property
    def key(self) -> t.Key:
        return t.parse_vkey(self.vkey)


def fetcher(resources: Resources) -> t.Fetch:
    def fetch(path: str) -> bytes:
        t.demand(path in resources, f"{path} is missing")
        return resources[path]
    return fetch


def remembering(api: Api, resources: Resources) -> t.Fetch:
    def fetch(path: str) -> bytes:
        resources[path] = api.tlog(path)
        return resources[path]
    return fetch


@pytest.fixture(scope="module")
def served(api: Api) -> Served:
    trace = otlp.new_trace()
    root = otlp.span(trace, "invoke_agent many", ROOT)
    spans = [otlp.span(trace, f"step {n}", n, root.span_id) for n in range(ROOT + 1, ROOT + SPANS)]
    spans.append(root)
    assert otlp.rejected(otlp.send(api, otlp.request(*spans).SerializeToString())) == (0, "")
    resources = {"checkpoint": api.checkpoint_covering(api.tree_size())}
    vkey = api.tlog("vkey").decode().strip()
    key = t.parse_vkey(vkey)
    checkpoint = t.open_checkpoint(resources["checkpoint"], key)
    entries = t.check_tiles(remembering(api, resources), checkpoint.size, checkpoint.root)
    return Served(vkey, resources, t.Log(checkpoint, resources["checkpoint"], entries), trace.hex())


@dataclass(frozen=True)
class Proven:
    proof: bytes
    entry: bytes
    record: dict[str, Any]


@pytest.fixture(scope="module")
def proven(api: Api, served: Served) -> list[Proven]:
    """The proofs of three records: of the first span sent, of a middle one, of the root."""
    assert len(api.record_ids(trace_id=served.trace_id, kind="trace.step")) == SPANS
    found = []
    for number in (ROOT + 1, SPANS // 2, ROOT):
        record = api.step_record(served.trace_id, number.to_bytes(8, "big").hex())
        proof = api.read(f"/api/v1/records/{record['header']['id']}/proof")
        found.append(Proven(proof, served.log.entries[t.parse_proof(proof).index], record))
    return found


def positions(data: bytes) -> list[int]:
    """The ends, the middle, and sixteen others, the same in every run."""
    some = random.Random(len(data)).sample(range(len(data)), min(16, len(data)))
    return sorted({0, len(data) // 2, len(data) - 1, *some})


# --- the whole log ---------------------------------------------------------------------


def test_the_whole_log_follows_from_its_entries(served: Served) -> None:
    log = t.check_log(fetcher(served.resources), served.key)
    assert log.checkpoint.size > t.TILE_WIDTH
    assert "tile/0/000" in served.resources
    assert any(path.startswith("tile/1/000") for path in served.resources)


def test_the_origin_names_the_tenant(api: Api, served: Served) -> None:
    assert served.log.checkpoint.origin.endswith(f"/{api.tenant}")


def test_any_changed_byte_of_a_tile_or_bundle_is_refused(served: Served) -> None:
    for path, data in served.resources.items():
        for at in positions(data):
            with pytest.raises(t.Refused):
                t.check_log(fetcher(served.resources | {path: altered(data, at)}), served.key)


def test_every_changed_bit_of_the_checkpoint_is_refused(served: Served) -> None:
    for changed in every_altered(served.resources["checkpoint"]):
        with pytest.raises(t.Refused):
            t.open_checkpoint(changed, served.key)


def test_every_changed_character_of_the_key_is_refused(served: Served) -> None:
    note = served.resources["checkpoint"]
    for at in range(len(served.vkey)):
        with pytest.raises(t.Refused):
            t.open_checkpoint(note, t.parse_vkey(altered(served.vkey.encode(), at).decode()))


@pytest.mark.parametrize("width", [1, 2, 255])
def test_a_partial_tile_is_still_served_once_its_tile_is_full(api: Api, served: Served, width: int) -> None:
    full = served.resources["tile/0/000"]
    assert api.tlog(t.tile_path(0, 0, width)) == full[:width * t.HASH_BYTES]
    entries = t.parse_entries(api.tlog(t.tile_path("entries", 0, width)), width)
    assert entries == served.log.entries[:width]


@pytest.mark.parametrize("path", ["tile/0/x999/999", "tile/3/000", "tile/entries/x999/999", "tile/0/000.p/256",
                                  "tile/0/000.p/0", "tile/64/000", "tile/0/0"])
def test_a_tile_that_does_not_exist_is_not_made_up(api: Api, served: Served, path: str) -> None:
    assert api.client.get(f"/tlog/{api.tenant}/{path}").status_code in (400, 404)


# --- one record ------------------------------------------------------------------------


def test_the_leaf_is_the_canonical_header_of_the_record_and_of_its_receipt(proven: list[Proven]) -> None:
    for one in proven:
        assert rfc8785.dumps(one.record["header"]) == one.entry
        receipt = one.record["receipt"]
        assert receipt["leaf_hash"] == t.leaf_hash(one.entry).hex()
        assert receipt["leaf_index"] == t.parse_proof(one.proof).index
        assert receipt["record_id"] == json.loads(one.entry)["id"]
        assert receipt["leaf_index"] < receipt["tree_size"]


def test_both_verifiers_accept_the_proof_of_a_record(served: Served, proven: list[Proven]) -> None:
    for one in proven:
        t.check_proof(one.proof, one.entry, served.key)
        judged = verify_tlog_proof(one.proof.decode(), one.entry, served.vkey,
                                   expected_origin=served.log.checkpoint.origin)
        assert judged["ok"], judged


def test_both_verifiers_refuse_the_proof_after_any_one_changed_bit(served: Served, proven: list[Proven]) -> None:
    one = proven[1]
    for changed in every_altered(one.proof):
        with pytest.raises(t.Refused):
            t.check_proof(changed, one.entry, served.key)
        text = changed.decode(errors="surrogateescape")
        if verify_tlog_proof(text, one.entry, served.vkey)["ok"]:
            assert only_padding_bits(one.proof, changed), changed


def test_both_verifiers_refuse_the_record_after_any_one_changed_bit(served: Served, proven: list[Proven]) -> None:
    one = proven[1]
    for changed in every_altered(one.entry):
        with pytest.raises(t.Refused, match="another root"):
            t.check_proof(one.proof, changed, served.key)
        assert not verify_tlog_proof(one.proof.decode(), changed, served.vkey)["ok"], changed


def test_the_proof_of_one_record_is_not_that_of_another(served: Served, proven: list[Proven]) -> None:
    with pytest.raises(t.Refused, match="another root"):
        t.check_proof(proven[0].proof, proven[1].entry, served.key)


def test_proofbundle_on_the_command_line_accepts_and_refuses(
    served: Served, proven: list[Proven], tmp_path: Path
) -> None:
    one = proven[2]
    proof, entry = tmp_path / "record.tlog-proof", tmp_path / "entry"

    def verdict(proof_bytes: bytes, entry_bytes: bytes) -> int:
        proof.write_bytes(proof_bytes)
        entry.write_bytes(entry_bytes)
        return subprocess.run(
            [Path(sys.executable).with_name("proofbundle"), "verify-proof", proof, "--payload-file", entry,
             "--log-vkey", served.vkey, "--expected-origin", served.log.checkpoint.origin],
            capture_output=True, check=False, timeout=120).returncode

    assert verdict(one.proof, one.entry) == 0
    assert verdict(altered(one.proof, one.proof.rindex(b"=") - 2), one.entry) != 0
    assert verdict(one.proof, altered(one.entry, len(one.entry) // 2)) != 0


def test_the_inclusion_endpoint_answers_the_path_that_the_tiles_give(
    api: Api, served: Served, proven: list[Proven]
) -> None:
    size = served.log.checkpoint.size
    for one in proven:
        index = one.record["receipt"]["leaf_index"]
        answer = api.get("/api/v1/ledger/proofs/inclusion", leaf_index=index, tree_size=size)
        path = [t.b64(line) for line in answer["hashes"]]
        assert path == t.inclusion_path(index, served.log.hashes)
        t.check_inclusion(t.leaf_hash(one.entry), index, size, path, served.log.checkpoint.root)


# --- growth ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def later(api: Api, served: Served) -> t.Log:
    """The log again after it grew."""
    otlp.send(api, otlp.request(otlp.span(otlp.new_trace(), "one more", 1)).SerializeToString())
    note = api.checkpoint_covering(served.log.checkpoint.size + 1)
    checkpoint = t.open_checkpoint(note, served.key)
    return t.Log(checkpoint, note, t.check_tiles(api.tlog, checkpoint.size, checkpoint.root))


def test_the_log_only_grew(served: Served, later: t.Log) -> None:
    assert later.entries[:served.log.checkpoint.size] == served.log.entries


def test_the_consistency_proof_holds_and_is_what_the_tiles_give(api: Api, served: Served, later: t.Log) -> None:
    old, new = served.log.checkpoint, later.checkpoint
    answer = api.get("/api/v1/ledger/proofs/consistency", first=old.size, second=new.size)
    path = [t.b64(line) for line in answer["hashes"]]
    assert path == t.consistency_path(old.size, later.hashes)
    t.check_consistency(old.size, new.size, path, old.root, new.root)


def test_a_consistency_proof_with_one_changed_byte_is_refused(served: Served, later: t.Log) -> None:
    old, new = served.log.checkpoint, later.checkpoint
    path = t.consistency_path(old.size, later.hashes)
    for line, good in enumerate(path):
        for at in range(t.HASH_BYTES):
            with pytest.raises(t.Refused):
                t.check_consistency(old.size, new.size, [*path[:line], altered(good, at), *path[line + 1:]],
                                    old.root, new.root)


def test_an_earlier_prefix_of_every_size_is_consistent(api: Api, later: t.Log) -> None:
    for first in (1, 2, 255, 256, 257, later.checkpoint.size):
        answer = api.get("/api/v1/ledger/proofs/consistency", first=first, second=later.checkpoint.size)
        t.check_consistency(first, later.checkpoint.size, [t.b64(line) for line in answer["hashes"]],
                            t.root_of(later.hashes[:first]), later.checkpoint.root)


# --- aics-tlog, which needs Python 3.12 ---------------------------------------------------


@pytest.fixture(scope="module")
def aics() -> Any:
    if sys.version_info < (3, 12):
        pytest.skip("aics-tlog needs Python 3.12")
    import aics_tlog  # from 3.12 on its absence is a failure, not a reason to skip

    return aics_tlog


def aics_audit(aics: Any, served: Served, resources: Resources) -> Callable[[], Any]:
    def audit() -> Any:
        note = aics.parse_note(resources["checkpoint"])
        verdict = aics.verify_checkpoint(note, aics.parse_vkey(served.vkey),
                                         expected_origin=served.log.checkpoint.origin)
        if not verdict.ok:
            raise ValueError(verdict.error)
        tiles = {path: data for path, data in resources.items() if path != "checkpoint"}
        return aics.audit_tiles(aics.MemoryTileReader(tiles), verdict.size, verdict.root)
    return audit


def test_aics_tlog_accepts_the_whole_log(aics: Any, served: Served) -> None:
    assert aics_audit(aics, served, served.resources)().size == served.log.checkpoint.size


def test_aics_tlog_refuses_any_changed_byte(aics: Any, served: Served) -> None:
    for path, data in served.resources.items():
        for at in positions(data):
            with pytest.raises((ValueError, OSError)):
                aics_audit(aics, served, served.resources | {path: altered(data, at)})()
