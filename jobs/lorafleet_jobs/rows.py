"""What a job row is and how it may change: pure functions from row to row, where None means "refused".

    queued --lease--> running --finish--> succeeded | failed | cancelled
      ^                  |
      +-- requeue/lease -+      a lease that ran out is taken over; after MAX_ATTEMPTS the job has failed

`attempts` counts leases and is the fencing token: whoever writes says which attempt it is, and an older one is refused.
Knows no clock (times come in, seconds), no SQL and no cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from lorafleet_jobs.jobspec import JobSpec

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Ending = Literal["succeeded", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
MAX_ATTEMPTS = 3
LEASE_SECONDS = 60.0
"""How long a silent lane keeps its job; several heartbeats long."""


@dataclass(frozen=True)
class JobRow:
    """One job of one submission, as it stands."""

    submission: str
    id: str
    position: int
    spec: JobSpec
    state: State = "queued"
    attempts: int = 0
    limit: int = MAX_ATTEMPTS
    """Attempts allowed so far; submitting again after a failure allows more."""
    lane: str | None = None
    step: int = 0
    steps: int = 0
    loss: float | None = None
    version: int | None = None
    run_id: str | None = None
    error: str | None = None
    lease_expires: float | None = None
    started: float | None = None
    """When the current attempt began."""
    created: float = 0.0
    updated: float = 0.0


def is_free(row: JobRow, now: float) -> bool:
    """Whether a lane may have the job: queued, or running on a lease that ran out."""
    expired = row.state == "running" and row.lease_expires is not None and row.lease_expires <= now
    return row.state == "queued" or expired


def lease(row: JobRow, lane: str, now: float) -> JobRow | None:
    """The job in a lane's hands as a new attempt; failed instead when every attempt is used up."""
    if not is_free(row, now):
        return None
    if row.attempts >= row.limit:
        return _given_up(row, now)
    return replace(
        row, state="running", attempts=row.attempts + 1, lane=lane, step=0, loss=None, error=None,
        lease_expires=now + LEASE_SECONDS, started=now, updated=now,
    )  # fmt: skip


def heartbeat(row: JobRow, attempt: int, now: float) -> JobRow | None:
    """The lease, prolonged."""
    return replace(row, lease_expires=now + LEASE_SECONDS, updated=now) if _holds(row, attempt) else None


def progress(row: JobRow, attempt: int, step: int, loss: float | None, now: float) -> JobRow | None:
    """The step reached; prolongs the lease as well."""
    if not _holds(row, attempt):
        return None
    return replace(row, step=step, loss=loss, lease_expires=now + LEASE_SECONDS, updated=now)


def finish(
    row: JobRow, attempt: int, state: Ending, now: float, *, version: int | None = None, error: str | None = None
) -> JobRow | None:
    """The job ended by the attempt that holds it."""
    if not _holds(row, attempt):
        return None
    step = row.steps if state == "succeeded" else row.step
    return replace(row, state=state, version=version, error=error, step=step, lease_expires=None, updated=now)


def release(row: JobRow, lane: str | None, now: float) -> JobRow | None:
    """A job whose lane (None: any) is known to be gone: queued again, or failed when its attempts are used up."""
    if row.state != "running" or lane not in (None, row.lane):
        return None
    if row.attempts >= row.limit:
        return _given_up(row, now)
    return replace(row, state="queued", lane=None, lease_expires=None, updated=now)


def requeue(row: JobRow, now: float) -> JobRow | None:
    """A failed or cancelled job, queued again with fresh attempts; its attempt number goes on counting."""
    if row.state not in ("failed", "cancelled"):
        return None
    return replace(
        row, state="queued", limit=row.attempts + MAX_ATTEMPTS, lane=None, step=0, loss=None, error=None,
        lease_expires=None, started=None, updated=now,
    )  # fmt: skip


def end(row: JobRow, state: Ending, error: str | None, now: float) -> JobRow | None:
    """A job ended from outside, whoever holds it: cancelled by its user, or left behind by its lanes."""
    if row.state in ENDED:
        return None
    return replace(row, state=state, error=error, lease_expires=None, updated=now)


def overall(states: Iterable[State]) -> State:
    """The state of a submission from its jobs': running while some have ended and some not, then the worst ending."""
    seen = set(states)
    if not seen <= ENDED:
        return "queued" if seen == {"queued"} else "running"
    endings: tuple[Ending, ...] = ("failed", "cancelled", "succeeded")
    return next((ending for ending in endings if ending in seen), "succeeded")


def _holds(row: JobRow, attempt: int) -> bool:
    return row.state == "running" and row.attempts == attempt


def _given_up(row: JobRow, now: float) -> JobRow:
    error = f"its lane was lost in each of {row.attempts} attempts; see the driver's log, then submit again"
    return replace(row, state="failed", error=error, lease_expires=None, updated=now)
