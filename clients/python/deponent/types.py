"""What goes in and comes out of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

Behavior = Literal["execute", "skip", "check"]
Json = Any
# Of a step.
INDEX_MAX = 2**31 - 1


@dataclass(frozen=True)
class StepResult:
    """What became of a step."""

    output: Json
    output_hash: str
    executed: bool
    skipped: bool
    checked: bool
    from_cache: bool

    @classmethod
    def of(cls, answer: dict[str, Json]) -> StepResult:
        return cls(
            output=answer["output"],
            output_hash=cast(str, answer["output_hash"]),
            executed=bool(answer["executed"]),
            skipped=bool(answer["skipped"]),
            checked=bool(answer["checked"]),
            from_cache=bool(answer["from_cache"]),
        )
