"""What a job row is and how it may change: pure functions from row to row, where None means "refused".

    queued --lease--> running --finish--> succeeded | stopped | failed | cancelled --forget--> forgotten
      ^                  |
      +---- fail, lose, give_back         what may still succeed comes back; each kind of failure has its own bound

`attempts` counts leases and is the fencing token: whoever writes says which attempt it is, and an older one is refused.
Knows no clock (times come in, seconds), no SQL and no cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from lorafleet_jobs.jobspec import JobSpec

State = Literal["queued", "running", "succeeded", "stopped", "failed", "cancelled", "forgotten"]
Ending = Literal["succeeded", "stopped", "failed", "cancelled"]
FailureKind = Literal[
    "data", "recipe", "memory", "non-finite", "lost", "stalled", "publish", "storage", "defect", "cancelled",
    "unchanged",
]  # fmt: skip
"""The class of how a job ended or last failed; None for one that succeeded, was stopped early, or has not failed.
`unchanged` is one that succeeded and has learned nothing visible."""
ENDED: frozenset[State] = frozenset({"succeeded", "stopped", "failed", "cancelled", "forgotten"})
LEASE_SECONDS = 60.0
"""How long a silent lane keeps its job; several heartbeats long."""
QUARANTINE_LANES = 5
"""A job on which so many lanes died one after another, none getting further than those before, is not tried again."""
SEEDS = 2
"""A job that turns non-finite is tried with so many seeds."""
WAITS = 8
"""So often a job waits, ever longer, for MLflow or a disk to come back: a quarter of an hour in all."""
BACKOFF_SECONDS, BACKOFF_MOST = 5.0, 300.0


@dataclass(frozen=True)
class JobRow:
    """One job of one submission, as it stands."""

    submission: str
    id: str
    position: int
    spec: JobSpec
    state: State = "queued"
    priority: int = 0
    """Higher ones first."""
    attempts: int = 0
    lane: str | None = None
    step: int = 0
    steps: int = 0
    loss: float | None = None
    version: int | None = None
    run_id: str | None = None
    """Of its MLflow run; None until the driver has opened one."""
    kind: FailureKind | None = None
    error: str | None = None
    not_before: float | None = None
    """When it may be leased again."""
    retries: int = 0
    """How often it waited for MLflow or a disk."""
    lanes_lost: int = 0
    """How many lanes died on it, one after another, since it last got further."""
    furthest: int = 0
    """The furthest step that any attempt that was lost had reached."""
    pack_limit: int | None = None
    """It trains among no more jobs than so many, itself included: memory did not suffice for more."""
    seed_shift: int = 0
    """Added to the recipe's seed; above 0 once it was non-finite."""
    lease_expires: float | None = None
    started: float | None = None
    """When the current attempt began."""
    stepping_since: float | None = None
    """When the current attempt first said which step it had reached,"""
    stepping_from: int = 0
    """and which it was."""
    created: float = 0.0
    updated: float = 0.0


def trained_spec(row: JobRow) -> JobSpec:
    """What is trained: the spec, with another seed once the first was non-finite."""
    if row.seed_shift == 0:
        return row.spec
    recipe = row.spec.recipe
    return row.spec.with_changes(recipe=recipe.with_changes(seed=recipe.seed + row.seed_shift))


def checkpoint_name(job: str, seed_shift: int) -> str:
    """The name of the folder of a job's checkpoints; another seed never resumes from those of the first."""
    return job if seed_shift == 0 else f"{job}-seed{seed_shift}"


def alone_until(row: JobRow) -> int:
    """The step up to which a job trains alone: some way past where a lane died on it. 0: no lane did.

    A job that kills its lane so dies without its neighbours, and theirs end with a clean record.
    """
    return min(row.steps, row.furthest + max(20, row.steps // 20)) if row.lanes_lost else 0


def is_free(row: JobRow, now: float) -> bool:
    """Whether a lane may have the job now: queued, its MLflow run opened, and not waiting for a better time."""
    wait = 0.0 if row.not_before is None else row.not_before - now
    return row.state == "queued" and row.run_id is not None and (wait <= 0 or wait > BACKOFF_MOST)  # a clock went back


def lease(row: JobRow, lane: str, now: float) -> JobRow | None:
    """The job in a lane's hands as a new attempt."""
    if not is_free(row, now):
        return None
    return replace(
        row, state="running", attempts=row.attempts + 1, lane=lane, step=0, loss=None, error=None, not_before=None,
        lease_expires=now + LEASE_SECONDS, started=now, stepping_since=None, stepping_from=0, updated=now,
    )  # fmt: skip


def held(row: JobRow, attempt: int) -> JobRow | None:
    """The job as it is, if the attempt holds it."""
    return row if _holds(row, attempt) else None


def heartbeat(row: JobRow, attempt: int, now: float) -> JobRow | None:
    """The lease, prolonged."""
    return replace(row, lease_expires=now + LEASE_SECONDS, updated=now) if _holds(row, attempt) else None


def progress(row: JobRow, attempt: int, step: int, loss: float | None, now: float) -> JobRow | None:
    """The step reached; prolongs the lease as well."""
    if not _holds(row, attempt):
        return None
    since, start = (now, step) if row.stepping_since is None else (row.stepping_since, row.stepping_from)
    return replace(
        row, step=step, loss=loss, lease_expires=now + LEASE_SECONDS, stepping_since=since, stepping_from=start,
        updated=now,
    )  # fmt: skip


def finish(
    row: JobRow, attempt: int, state: Ending, now: float,
    *, version: int | None = None, error: str | None = None, kind: FailureKind | None = None,
) -> JobRow | None:  # fmt: skip
    """The job ended by the attempt that holds it; the same said again changes nothing."""
    if (row.state, row.attempts) == (state, attempt):
        return row
    if not _holds(row, attempt):
        return None
    step = row.steps if state == "succeeded" else row.step
    return replace(
        row, state=state, version=version, error=error, kind=kind, step=step, lease_expires=None, updated=now
    )


def fail(row: JobRow, attempt: int, kind: FailureKind, reason: str, now: float, packed: int = 1) -> JobRow | None:
    """An attempt failed in a lane that lives: queued again where that may help, else failed.

    `packed` is how many jobs it was trained among, itself included.
    """
    if not _holds(row, attempt):
        return None
    if kind == "memory" and packed > 1:
        return _again(row, kind, reason, now, pack_limit=packed // 2)
    if kind == "non-finite" and (row.seed_shift + 1) % SEEDS:
        return _other_seed(row, reason, now)
    if kind in ("publish", "storage") and row.retries < WAITS:
        return _again(row, kind, reason, now, retries=row.retries + 1, not_before=now + backoff(row.retries + 1))
    if kind in ("lost", "stalled"):
        return _died(row, kind, reason, now)
    return finish(row, attempt, "failed", now, error=reason, kind=kind)


def lose(
    row: JobRow, lane: str | None, now: float, attempt: int | None = None, cause: str | None = None
) -> JobRow | None:  # fmt: skip
    """A job whose lane died: queued again after a while, alone; or in quarantine, if no lane survives it."""
    if row.state != "running" or lane not in (None, row.lane) or attempt not in (None, row.attempts):
        return None
    died = f"lane {row.lane} died at step {row.step}"
    return _died(row, "lost", died if cause is None else f"{died} of {cause}", now)


def expire(row: JobRow, now: float) -> JobRow | None:
    """A job whose lane has not been heard of for too long."""
    silent = row.lease_expires is not None and row.lease_expires <= now
    return lose(row, None, now) if silent else None


def give_back(row: JobRow, now: float, attempt: int | None = None) -> JobRow | None:
    """A job whose lane had to leave, through no fault of the job: queued again at once."""
    if row.state != "running" or attempt not in (None, row.attempts):
        return None
    return _again(row, row.kind, None, now)


def requeue(row: JobRow, now: float) -> JobRow | None:
    """A failed, cancelled or forgotten job, queued again with a clean record; its attempt number goes on counting.

    One that failed as non-finite takes a seed that was not tried yet.
    """
    if row.state not in ("failed", "cancelled", "forgotten"):
        return None
    if row.state == "failed" and row.kind == "non-finite":
        row = _other_seed(row, None, now)
    return replace(
        row, state="queued", kind=None, error=None, lane=None, step=0, loss=None, lease_expires=None, started=None,
        not_before=None, retries=0, lanes_lost=0, furthest=0, pack_limit=None, updated=now,
    )  # fmt: skip


def unpublish(row: JobRow, run_id: str | None, now: float) -> JobRow | None:
    """A job whose version is registered no longer, queued again: a lane publishes its bundle, or trains it anew.

    `run_id` is its run, or None if that was deleted too, so that another is opened.
    """
    if row.state != "succeeded":
        return None
    return replace(row, state="queued", version=None, run_id=run_id, kind=None, lane=None, loss=None, updated=now)


def end(row: JobRow, state: Ending, error: str | None, now: float, kind: FailureKind | None = None) -> JobRow | None:
    """A job ended from outside, whoever holds it: cancelled by its user, or left behind by its lanes."""
    if row.state in ENDED:
        return None
    return replace(row, state=state, error=error, kind=kind, lease_expires=None, updated=now)


def forget(row: JobRow, now: float) -> JobRow | None:
    """A job that has ended, of which only its name, its recipe and how far it came remain.

    Where its pictures lay, which they were and what they were called is gone, and so is what it made.
    """
    if row.state not in ENDED:
        return None
    spec = row.spec.with_changes(
        folder="", images=(), class_images=None, class_noun="", instance_prompt="", dataset_fingerprint=""
    )
    return replace(
        row, state="forgotten", spec=spec, lane=None, loss=None, version=None, run_id=None, kind=None, error=None,
        seed_shift=0, updated=now,
    )  # fmt: skip


def overall(states: Iterable[State]) -> State:
    """The state of a submission from its jobs': running while some have ended and some not, then the worst ending.

    A job that was stopped early has done what was asked of it; forgotten jobs count only where there is no other.
    """
    seen = set(states)
    if not seen <= ENDED:
        return "queued" if seen == {"queued"} else "running"
    endings: tuple[Ending, ...] = ("failed", "cancelled")
    rest: State = "forgotten" if seen == {"forgotten"} else "succeeded"
    return next((ending for ending in endings if ending in seen), rest)


def may_resume(row: JobRow) -> bool:
    """Whether what is kept of a job half-way may still be of use: it goes on, or would from there if asked to."""
    waits = row.state == "failed" and row.kind in ("lost", "stalled", "publish", "storage", "memory")
    return row.state not in ENDED or waits


def backoff(times: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return float(min(BACKOFF_MOST, BACKOFF_SECONDS * 2.0 ** (times - 1)))


def _holds(row: JobRow, attempt: int) -> bool:
    return row.state == "running" and row.attempts == attempt


def _again(
    row: JobRow, kind: FailureKind | None, reason: str | None, now: float,
    *, not_before: float | None = None, pack_limit: int | None = None, retries: int | None = None,
) -> JobRow:  # fmt: skip
    return replace(
        row, state="queued", kind=kind, error=reason, lane=None, lease_expires=None, not_before=not_before,
        pack_limit=pack_limit or row.pack_limit, retries=row.retries if retries is None else retries, updated=now,
    )  # fmt: skip


def _other_seed(row: JobRow, reason: str | None, now: float) -> JobRow:
    """What the first seed has learned is of no use to the next, and its curve is another one: a run of its own."""
    fresh = replace(row, seed_shift=row.seed_shift + 1, run_id=None, furthest=0, step=0, loss=None)
    return _again(fresh, "non-finite", reason, now)


def _died(row: JobRow, kind: FailureKind, reason: str, now: float) -> JobRow:
    got_further = row.step > row.furthest
    lost = 1 if got_further else row.lanes_lost + 1
    row = replace(row, lanes_lost=lost, furthest=max(row.furthest, row.step))
    if lost < QUARANTINE_LANES:
        return _again(row, kind, reason, now, not_before=now + backoff(lost))
    error = f"in quarantine: {lost} lanes died on it one after another, the last at step {row.step} ({reason})"
    return replace(row, state="failed", kind=kind, error=error, lease_expires=None, updated=now)
