"""Checks a transparency log from its public specifications alone.

Written from RFC 6962 section 2.1, C2SP signed-note, tlog-checkpoint, tlog-tiles and
tlog-proof by someone who did not look at the server's code; it shares nothing with
it. Everything not exactly as the specifications say is a `Refused`.

Only Ed25519 log keys (type 01) are known; signature lines of other keys are ignored
and vouch for nothing.

    python tlog_check.py http://127.0.0.1:4318/tlog/default VKEY
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TILE_WIDTH = 256
HASH_BYTES = 32
SIGNATURES_MAX = 64
PROOF_LINES_MAX = 63
ED25519 = b"\x01"
PROOF_MAGIC = "c2sp.org/tlog-proof@v1"

Fetch = Callable[[str], bytes]


class Refused(Exception):
    """The evidence does not show what it claims."""


def demand(holds: object, why: str) -> None:
    if not holds:
        raise Refused(why)


# --- RFC 6962, section 2.1 -------------------------------------------------------


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two strictly below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The tree hash over leaf hashes."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    stack: list[tuple[int, bytes]] = []  # (height, hash): the complete subtrees, left to right
    for item in hashes:
        height = 0
        while stack and stack[-1][0] == height:
            item = node_hash(stack.pop()[1], item)
            height += 1
        stack.append((height, item))
    root = stack.pop()[1]
    while stack:
        root = node_hash(stack.pop()[1], root)
    return root


def inclusion_path(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    if index < k:
        return [*inclusion_path(index, hashes[:k]), root_of(hashes[k:])]
    return [*inclusion_path(index - k, hashes[k:]), root_of(hashes[:k])]


def consistency_path(old: int, hashes: Sequence[bytes]) -> list[bytes]:
    if old in (0, len(hashes)):
        return []
    return _subproof(old, hashes, True)


def _subproof(old: int, hashes: Sequence[bytes], known: bool) -> list[bytes]:
    if old == len(hashes):
        return [] if known else [root_of(hashes)]
    k = split(len(hashes))
    if old <= k:
        return [*_subproof(old, hashes[:k], known), root_of(hashes[k:])]
    return [*_subproof(old - k, hashes[k:], False), root_of(hashes[:k])]


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """RFC 9162, section 2.1.3.2."""
    demand(0 <= index < size, f"index {index} is outside a tree of {size}")
    fn, sn, r = index, size - 1, leaf
    for p in path:
        demand(sn != 0, "the inclusion path is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    demand(sn == 0, "the inclusion path is too short")
    demand(r == root, "the inclusion path leads to another root")


def check_consistency(old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """RFC 9162, section 2.1.4.2."""
    demand(0 <= old <= new, f"a tree of {new} cannot extend one of {old}")
    if old in (0, new):
        demand(not path, "a proof where none is needed")
        demand(old != new or old_root == new_root, "two roots at one size")
        return
    path = list(path)
    demand(path, "the consistency proof is empty")
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        demand(sn != 0, "the consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    demand(sn == 0, "the consistency proof is too short")
    demand(fr == old_root, "the consistency proof leads to another old root")
    demand(sr == new_root, "the consistency proof leads to another new root")


# --- C2SP signed-note and tlog-checkpoint -----------------------------------------


def b64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"not base64: {error}") from None
    demand(base64.b64encode(data).decode() == text, "base64 that is not canonical")
    return data


def utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Refused(f"not UTF-8: {error}") from None


@dataclass(frozen=True)
class Key:
    name: str
    id: bytes
    public: bytes


def parse_vkey(text: str) -> Key:
    """`name+<8 hex>+base64(type ‖ key)`; only the first two `+` separate."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    demand(name and re.fullmatch(r"[0-9a-f]{8}", key_id), "not a verifier key")
    material = b64(encoded)
    demand(material[:1] == ED25519 and len(material) == 33, "not an Ed25519 key")
    expected = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]
    demand(bytes.fromhex(key_id) == expected, "the key id is not that of the key")
    return Key(name, expected, material[1:])


def open_note(note: bytes, key: Key) -> str:
    """The text of a note that `key` signed."""
    text = utf8(note)
    demand(all(c >= " " or c == "\n" for c in text), "a control character in the note")
    body, separator, lines = text.rpartition("\n\n")
    demand(separator and lines.endswith("\n"), "not a signed note")
    body += "\n"
    signatures = lines[:-1].split("\n")
    demand(len(signatures) <= SIGNATURES_MAX, "too many signatures")
    good = 0
    for line in signatures:
        match = re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)", line)
        demand(match, "a malformed signature line")
        blob = b64(match[2])
        demand(len(blob) > 4, "a signature without bytes")
        if match[1] != key.name or blob[:4] != key.id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(blob[4:], body.encode())
        except InvalidSignature:
            raise Refused("the log's signature is bad") from None
        good += 1
    demand(good == 1, "not exactly one signature of the log")
    return body


@dataclass(frozen=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes


def number(text: str) -> int:
    demand(re.fullmatch(r"0|[1-9][0-9]{0,18}", text), f"not a decimal number: {text[:30]!r}")
    return int(text)


def open_checkpoint(note: bytes, key: Key) -> Checkpoint:
    lines = open_note(note, key).split("\n")
    demand(len(lines) >= 4 and lines[-1] == "", "a checkpoint has at least three lines")
    root = b64(lines[2])
    demand(len(root) == HASH_BYTES, "a root of another length")
    demand(lines[0] == key.name, "the origin is not the key's name")
    return Checkpoint(lines[0], number(lines[1]), root)


# --- C2SP tlog-proof ----------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    index: int
    path: list[bytes]
    checkpoint: bytes


def parse_proof(data: bytes) -> Proof:
    """An `extra` line is allowed and not looked at: nothing vouches for it."""
    head, separator, checkpoint = data.partition(b"\n\n")
    demand(separator, "no checkpoint in the proof")
    lines = utf8(head).split("\n")
    demand(lines.pop(0) == PROOF_MAGIC, "not a tlog-proof")
    if lines and lines[0].startswith("extra "):
        b64(lines.pop(0)[6:])
    demand(lines and lines[0].startswith("index "), "no index in the proof")
    index = number(lines.pop(0)[6:])
    demand(len(lines) <= PROOF_LINES_MAX, "too many hashes in the proof")
    path = [b64(line) for line in lines]
    demand(all(len(h) == HASH_BYTES for h in path), "a hash of another length")
    return Proof(index, path, checkpoint)


def check_proof(data: bytes, entry: bytes, key: Key) -> Checkpoint:
    """That `entry` stands in the log `key` signed for, where the proof says."""
    proof = parse_proof(data)
    checkpoint = open_checkpoint(proof.checkpoint, key)
    check_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.path, checkpoint.root)
    return checkpoint


# --- C2SP tlog-tiles ------------------------------------------------------------------


def tile_index(n: int) -> str:
    groups = [f"{n % 1000:03d}"]
    while n := n // 1000:
        groups.insert(0, f"x{n % 1000:03d}")
    return "/".join(groups)


def tile_path(level: int | str, n: int, width: int = TILE_WIDTH) -> str:
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{tile_index(n)}{partial}"


def tiles_of(size: int) -> list[tuple[int, int, int]]:
    """(level, n, width) of every hash tile of a tree, none of them empty."""
    tiles, level, count = [], 0, size
    while count:
        full, rest = divmod(count, TILE_WIDTH)
        tiles += [(level, n, TILE_WIDTH) for n in range(full)]
        tiles += [(level, full, rest)] if rest else []
        level, count = level + 1, full
    return tiles


def parse_entries(data: bytes, width: int) -> list[bytes]:
    entries, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at:at + 2], "big")
        demand(at + 2 + length <= len(data), "an entry bundle that is cut off")
        entries.append(data[at + 2:at + 2 + length])
        at += 2 + length
    demand(len(entries) == width, f"{len(entries)} entries in a bundle of {width}")
    return entries


@dataclass(frozen=True)
class Log:
    """A log that was read whole and found to be what its checkpoint says."""

    checkpoint: Checkpoint
    note: bytes
    entries: list[bytes]

    @property
    def hashes(self) -> list[bytes]:
        return [leaf_hash(entry) for entry in self.entries]


def check_tiles(fetch: Fetch, size: int, root: bytes) -> list[bytes]:
    """Recomputes every tile and the root from the entries. Returns the entries."""
    entries: list[bytes] = []
    for level, n, width in tiles_of(size):
        if level == 0:
            entries += parse_entries(fetch(tile_path("entries", n, width)), width)
    hashes = [leaf_hash(entry) for entry in entries]
    demand(root_of(hashes) == root, "the entries have another root than the checkpoint")
    levels = {0: hashes}
    for level, n, width in tiles_of(size):
        if level not in levels:
            below = levels[level - 1]
            levels[level] = [root_of(below[at:at + TILE_WIDTH])
                             for at in range(0, len(below) - TILE_WIDTH + 1, TILE_WIDTH)]
        expected = b"".join(levels[level][n * TILE_WIDTH:n * TILE_WIDTH + width])
        path = tile_path(level, n, width)
        demand(fetch(path) == expected, f"{path} does not follow from the entries")
    return entries


def check_log(fetch: Fetch, key: Key) -> Log:
    note = fetch("checkpoint")
    checkpoint = open_checkpoint(note, key)
    return Log(checkpoint, note, check_tiles(fetch, checkpoint.size, checkpoint.root))


def main() -> int:
    base, vkey = sys.argv[1:]

    def fetch(path: str) -> bytes:
        with urllib.request.urlopen(f"{base.rstrip('/')}/{path}", timeout=10) as answer:
            return answer.read()

    try:
        log = check_log(fetch, parse_vkey(vkey))
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 1
    print(f"{log.checkpoint.origin}: {log.checkpoint.size} entries, root {log.checkpoint.root.hex()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
