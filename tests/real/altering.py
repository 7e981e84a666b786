"""Single-bit changes, and the one kind of them that changes no evidence.

A signature line's base64 carries 68 bytes and so ends in two bits that stand for
nothing. RFC 4648, section 3.5, lets a decoder refuse them or not. tlog_check.py and
aics-tlog refuse. proofbundle lets them pass on purpose, as the reference decoder of
the note format does: what it then verifies is the same bytes. Nothing else may pass.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

BITS = 8


def altered(data: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def every_altered(data: bytes, end: int | None = None) -> Iterator[bytes]:
    """`data` with each of its bits, or those before byte `end`, turned over in turn."""
    for at in range(len(data) if end is None else end):
        for bit in range(BITS):
            yield altered(data, at, bit)


def only_padding_bits(original: bytes, changed: bytes) -> bool:
    """Whether the two differ in nothing but the padding bits of one signature line."""
    pairs = list(zip(original.split(b"\n"), changed.split(b"\n"), strict=False))
    differing = [(a, b) for a, b in pairs if a != b]
    if len(original) != len(changed) or original.count(b"\n") != changed.count(b"\n") or len(differing) != 1:
        return False
    (before, _, good), (after, _, other) = (line.rpartition(b" ") for line in differing[0])
    if before != after or not before.startswith("— ".encode()):
        return False
    try:
        return base64.b64decode(good, validate=True) == base64.b64decode(other, validate=True)
    except binascii.Error:
        return False
