"""Our from-the-spec verifier, and proofbundle, judged before they judge the server.

Needs no server: golden values that independent implementations agree on.
"""

from __future__ import annotations

import base64
import hashlib

import pytest
from proofbundle.tlogproof import verify_tlog_proof

import tlog_check as t
from altering import every_altered, only_padding_bits

VKEY = "log.example/acme+6a967d9a+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c"
WITNESS = "witness.example/w1+df1c0a35+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU"
SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
ENTRIES = [b"alpha", b"bravo", b"charlie"]
LOG_LINE = ("— log.example/acme apZ9miKCTtHNW5/ZuUWBo3UR6MRWV4aL1m4u9Xbh6Y+Rp/nmhHZC98QTHXVy8YNGUMVzds5GZYkU"
            "EoTRSGObU8MCUAI=\n")
WITNESS_LINE = ("— witness.example/w1 3xwKNQAAAABpVbkAxPwMytdrZ9CF9XjmOPBHykkfrvAGctjDUBdLvWseRbg9SXokoY2JEZ5s"
                "FM83hcjBZgC2epWynmiJZseR75D5CQ==\n")
CHECKPOINT = ("log.example/acme\n3\n1BhuPAWmIM5hOX6Di/vXbm8n5tfaoTxZ64Ko4JRgjhw=\n\n"
              + LOG_LINE + WITNESS_LINE).encode()
PROOF = (b"c2sp.org/tlog-proof@v1\nindex 1\nKhWNiv1I4/iMtBld/bKp5IF9lfpX/TREDZP5quXE+Cs=\n"
         b"+TGWLwkXw0bURyk8B7aHrhYJ9wA/ikSganXEFFseGSk=\n\n") + CHECKPOINT
SIGNED_END = CHECKPOINT.index("— witness".encode())
"""Bytes from here on are the witness's line, for which a log's key does not vouch."""


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def numbered(count: int) -> list[bytes]:
    return [t.leaf_hash(str(i).encode()) for i in range(count)]


@pytest.fixture(scope="module")
def big() -> list[bytes]:
    return numbered(70_000)


def test_leaf_hashes_are_the_published_ones() -> None:
    assert [encoded(t.leaf_hash(entry)) for entry in ENTRIES] == [
        "KhWNiv1I4/iMtBld/bKp5IF9lfpX/TREDZP5quXE+Cs=",
        "eY5qB3NCQctO6eMKUS06xyKl/ePL+TQHVTAdJxX9eBA=",
        "+TGWLwkXw0bURyk8B7aHrhYJ9wA/ikSganXEFFseGSk=",
    ]


@pytest.mark.parametrize(("size", "root"), [
    (1, "2zQm6HgGjSjSabbIcXIyLOU3K2V1bQeJAB00g19gHAM="),
    (2, "ywCYnZSlacCmeK4EK2Pc1GJduWRAUX83put5duok7Us="),
    (3, "cl1SMNto9VdHDcNfHYhlgTrNfrsHrRUndBQd7LrnEyc="),
    (7, "o+I7Msy2v5bQktFl2KpUbgmCnejwOw6JV1gdHha5K98="),
    (255, "Mvhbyqh9e80Fco8J6a66NQumovczgwCH8Fl2goSL5cs="),
    (256, "goUV0DPBnYyQHzfsy4rtkZZncDSG+NL/8c9wQDIcXbE="),
    (257, "HtoEmkNR2G92JSvX7At3Rq11t/oDFq1fVB29pFijEsQ="),
    (65_536, "8CXQbtgEhZ/SdKG9rK3W5I6odjSqkeHtsgFD+UmM0Cs="),
    (70_000, "Gkzfy2Y3SgwNy+9JrL1JdtE+6GT7PLJB/JQ8rQTwL34="),
])
def test_roots_are_the_published_ones(big: list[bytes], size: int, root: str) -> None:
    assert encoded(t.root_of(big[:size])) == root


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert encoded(t.root_of([])) == "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.mark.parametrize(("index", "lines", "digest"), [
    (69_999, 9, "06840adeb9aef6246e85c1dd08b547ca4a0b6f7c20da6a20ceed1be00bebfe4c"),
    (12_345, 17, "15e3537b4677d40e7f98553df49a1f00747bdfcd478b0592c64864516e6b1f91"),
])
def test_inclusion_proofs_are_the_published_ones(big: list[bytes], index: int, lines: int, digest: str) -> None:
    path = t.inclusion_path(index, big)
    assert (len(path), hashlib.sha256(b"".join(path)).hexdigest()) == (lines, digest)
    t.check_inclusion(big[index], index, len(big), path, t.root_of(big))


@pytest.mark.parametrize(("old", "new", "lines", "digest"), [
    (1, 70_000, 17, "834e90bf94e0793f400559c4912e0ea1e6265be0e53eb0ef946aceac71f62881"),
    (255, 257, 10, "9ac0efc5fea9ae47142082cbc6d6f4bbf26473e02b5b92a7c86db20bf77e49bc"),
    (256, 257, 1, "981d45e4e43aa88052c5977a60140d138c34616386a58afd1dd8c3045e7a5a50"),
    (65_537, 70_000, 15, "922bd62cffc6d2c4bba42c338b4d76f3fcf1cb8b8dd3114ff0d8dd9dc7847b4f"),
])
def test_consistency_proofs_are_the_published_ones(
    big: list[bytes], old: int, new: int, lines: int, digest: str
) -> None:
    path = t.consistency_path(old, big[:new])
    assert (len(path), hashlib.sha256(b"".join(path)).hexdigest()) == (lines, digest)
    t.check_consistency(old, new, path, t.root_of(big[:old]), t.root_of(big[:new]))


def test_every_inclusion_proof_of_small_trees_holds_and_no_other_index_does() -> None:
    for size in range(1, 18):
        hashes = numbered(size)
        root = t.root_of(hashes)
        for index in range(size):
            path = t.inclusion_path(index, hashes)
            t.check_inclusion(hashes[index], index, size, path, root)
            for other in range(size + 1):
                if other != index:
                    with pytest.raises(t.Refused):
                        t.check_inclusion(hashes[index], other, size, path, root)


def test_every_consistency_proof_of_small_trees_holds_and_no_altered_one_does() -> None:
    for new in range(1, 18):
        hashes = numbered(new)
        for old in range(1, new + 1):
            roots = t.root_of(hashes[:old]), t.root_of(hashes)
            path = t.consistency_path(old, hashes)
            t.check_consistency(old, new, path, *roots)
            for altered in ([*path, path[0]] if path else [roots[0]], path[:-1]):
                if altered != path:
                    with pytest.raises(t.Refused):
                        t.check_consistency(old, new, altered, *roots)


def test_tile_paths_are_the_published_ones() -> None:
    paths = [t.tile_path(*tile) for tile in t.tiles_of(70_000)]
    assert [p for p in paths if ".p/" in p] == ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]
    assert [t.tile_path(*tile) for tile in t.tiles_of(256)] == ["tile/0/000", "tile/1/000.p/1"]
    assert t.tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert t.tile_path("entries", 0, 3) == "tile/entries/000.p/3"


def published_tiles(hashes: list[bytes]) -> dict[str, bytes]:
    """Every tile of the numbered log, made from the top of the definition."""
    files = {}
    for level, n, width in t.tiles_of(len(hashes)):
        span = t.TILE_WIDTH ** level
        files[t.tile_path(level, n, width)] = b"".join(
            t.root_of(hashes[at * span:(at + 1) * span])
            for at in range(n * t.TILE_WIDTH, n * t.TILE_WIDTH + width))
    for level, n, width in t.tiles_of(len(hashes)):
        if level == 0:
            entries = (str(i).encode() for i in range(n * t.TILE_WIDTH, n * t.TILE_WIDTH + width))
            files[t.tile_path("entries", n, width)] = b"".join(
                len(entry).to_bytes(2, "big") + entry for entry in entries)
    return files


def test_tiles_are_the_published_ones_and_follow_from_the_entries(big: list[bytes]) -> None:
    files = published_tiles(big)
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    assert digests["tile/0/000"] == "b9704a8bfbee2c61185ceb38904a49f3f703c81e194b5b2ccdc254c2bdaaa62b"
    assert digests["tile/1/000"] == "ea7b038bc73489c89c31a27ac355aaca65a4ed73f0dd7484e68deb29d30f10a2"
    assert digests["tile/0/273.p/112"] == "4d21244557c976993a9a89bf928a46b5a876585228df279878239fd84489e5a5"
    assert digests["tile/1/001.p/17"] == "adfaca2731630fe7944a4b98a0f98ef3e98685eafda09e6f81070218fb759ce4"
    assert digests["tile/entries/000"] == "94693d5c6d6a0355ec07bac8214516c1ce6a5100b0588f226fd95f26571157d7"
    assert files["tile/2/000.p/1"].hex() == "f025d06ed804859fd274a1bdacadd6e48ea87634aa91e1edb20143f9498cd02b"
    assert len(t.check_tiles(files.__getitem__, len(big), t.root_of(big))) == len(big)


@pytest.mark.parametrize("path", ["tile/0/000", "tile/1/000.p/1", "tile/0/001.p/1", "tile/entries/000",
                                  "tile/entries/001.p/1"])
def test_a_changed_byte_in_any_tile_is_refused(path: str) -> None:
    hashes = numbered(257)
    files = published_tiles(hashes)
    for at in (0, len(files[path]) // 2, len(files[path]) - 1):
        altered = bytearray(files[path])
        altered[at] ^= 1
        changed = files | {path: bytes(altered)}
        with pytest.raises(t.Refused):
            t.check_tiles(changed.__getitem__, len(hashes), t.root_of(hashes))


def test_a_bundle_of_entries_is_read_as_published() -> None:
    data = bytes.fromhex("0005616c7068610005627261766f0007636861726c6965")
    assert t.parse_entries(data, 3) == ENTRIES


def test_the_published_checkpoint_is_accepted() -> None:
    key = t.parse_vkey(VKEY)
    checkpoint = t.open_checkpoint(CHECKPOINT, key)
    assert (checkpoint.origin, checkpoint.size) == ("log.example/acme", 3)
    assert checkpoint.root == t.root_of([t.leaf_hash(entry) for entry in ENTRIES])


def test_the_key_of_the_note_specification_is_read() -> None:
    assert t.parse_vkey(SPEC_VKEY).name == "example.com/foo"


def test_the_published_proof_is_accepted_by_both_verifiers() -> None:
    assert t.check_proof(PROOF, b"bravo", t.parse_vkey(VKEY)).size == 3
    judged = verify_tlog_proof(PROOF.decode(), b"bravo", VKEY, [WITNESS], threshold=1,
                               expected_origin="log.example/acme")
    assert judged["ok"], judged


def test_no_changed_bit_of_the_published_proof_passes_either_verifier() -> None:
    key = t.parse_vkey(VKEY)
    for changed in every_altered(PROOF, end=len(PROOF) - len(CHECKPOINT) + SIGNED_END):
        with pytest.raises(t.Refused):
            t.check_proof(changed, b"bravo", key)
        text = changed.decode(errors="surrogateescape")
        if verify_tlog_proof(text, b"bravo", VKEY, [WITNESS], threshold=1)["ok"]:
            assert only_padding_bits(PROOF, changed), changed


def test_padding_bits_of_a_signature_are_refused_by_ours_and_known_to_pass_proofbundle() -> None:
    """Pins the one difference between the two, so that it cannot widen unseen."""
    changed = PROOF.replace(b"8MCUAI=\n", b"8MCUAJ=\n")
    assert changed != PROOF and only_padding_bits(PROOF, changed)
    with pytest.raises(t.Refused, match="not canonical"):
        t.check_proof(changed, b"bravo", t.parse_vkey(VKEY))
    assert verify_tlog_proof(changed.decode(), b"bravo", VKEY)["ok"]


@pytest.mark.parametrize(("good", "bad"), [
    (b"8MCUAI=\n", b"8MCUAM=\n"),                 # a bit of the signature
    (b"apZ9miKC", b"bpZ9miKC"),                    # of the key id
    (b"\n3\n", b"\n2\n"),                          # of the size
    (b"1BhuPAWmIM5hOX6Di/vXbm8n5tfaoTxZ64Ko4JRgjhw=", b"1BhuPAWmIM5hOX6Di/vXbm8n5tfaoTxZ64Ko4JRgjhx="),
])
def test_a_change_of_anything_else_is_not_taken_for_padding(good: bytes, bad: bytes) -> None:
    assert good in PROOF
    assert not only_padding_bits(PROOF, PROOF.replace(good, bad))


def test_another_payload_is_refused_by_both_verifiers() -> None:
    with pytest.raises(t.Refused, match="another root"):
        t.check_proof(PROOF, b"brav0", t.parse_vkey(VKEY))
    assert not verify_tlog_proof(PROOF.decode(), b"brav0", VKEY)["ok"]


def test_a_log_key_of_another_name_is_refused() -> None:
    with pytest.raises(t.Refused, match="not exactly one signature"):
        t.open_checkpoint(CHECKPOINT, t.parse_vkey(SPEC_VKEY))
