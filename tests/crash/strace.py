"""Lets a call of a program on a file fail, by strace."""

from __future__ import annotations

from pathlib import Path


def failing(syscalls: str, path: Path, count: int, log: Path) -> list[str]:
    """What to put before a command: the call of that number in a thread fails with EIO."""
    return ["strace", "-f", "-qq", "-o", str(log), "-P", str(path), "-e", f"trace={syscalls}",
            "-e", f"inject={syscalls}:error=EIO:when={count}"]


def injected(log: Path) -> int:
    """How many calls failed so."""
    return log.read_text(errors="replace").count("(INJECTED)") if log.exists() else 0
