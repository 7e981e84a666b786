"""Steps that are done once, replayed exactly, and on record.

    import deponent

    client = deponent.Client("http://127.0.0.1:4318")
    run = client.run()

    @run.step(behavior="skip", key=lambda order: f"pay-{order}")
    def pay(order: str) -> dict[str, str]:
        ...

See the README for what each behaviour promises.
"""

from .client import AsyncClient, Client
from .errors import (
    ConflictError,
    DeponentError,
    IdempotencyViolation,
    InProgress,
    LeaseLost,
    ReplayMismatch,
    Unavailable,
)
from .run import AsyncOpenStep, AsyncRun, OpenStep, Run
from .types import Behavior, StepResult

__all__ = [
    "AsyncClient",
    "AsyncOpenStep",
    "AsyncRun",
    "Behavior",
    "Client",
    "ConflictError",
    "DeponentError",
    "IdempotencyViolation",
    "InProgress",
    "LeaseLost",
    "OpenStep",
    "ReplayMismatch",
    "Run",
    "StepResult",
    "Unavailable",
]
