"""Steps that are done once, replayed exactly, and on record.

    import deponent

    @deponent.step(behavior="skip", key=lambda order: f"pay-{order}")
    def pay(order: str) -> dict[str, str]:
        ...

    with deponent.run(deponent.Client("http://127.0.0.1:4318")):
        pay("A-17")

See the README for what each behaviour promises.
"""

from .attempt import OpenStep
from .client import AsyncClient, Client
from .current import current_run
from .errors import (
    BadAnswer,
    ConflictError,
    DeponentError,
    IdempotencyViolation,
    InProgress,
    LeaseLost,
    NoRun,
    OutputNotKept,
    ParamsNotKept,
    ReplayMismatch,
    StepNotRecorded,
    Unavailable,
)
from .runs import AsyncOpenStep, AsyncRun, Run
from .steps import CurrentRun, Step, run, step
from .types import Behavior, StepResult

__all__ = [
    "AsyncClient",
    "AsyncOpenStep",
    "AsyncRun",
    "BadAnswer",
    "Behavior",
    "Client",
    "ConflictError",
    "CurrentRun",
    "DeponentError",
    "IdempotencyViolation",
    "InProgress",
    "LeaseLost",
    "NoRun",
    "OpenStep",
    "OutputNotKept",
    "ParamsNotKept",
    "ReplayMismatch",
    "Run",
    "Step",
    "StepNotRecorded",
    "StepResult",
    "Unavailable",
    "current_run",
    "run",
    "step",
]
