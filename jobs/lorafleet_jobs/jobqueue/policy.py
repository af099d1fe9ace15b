"""Who comes next: pure decisions over rows, within one submission and between those that share a cluster.

Within a submission: by priority, then first in, first out. A job that must train alone, or among few, is passed over by
a lane that holds too many. Between submissions lanes are what is shared: one gives up its place where another
submission that is driven now has waiting work and too few lanes. Knows no clock, no SQL and no cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorafleet_jobs.jobqueue.job_state import ENDED, QUARANTINE_LANES, JobRow, alone_until, is_free

TRIES = 2 * QUARANTINE_LANES
"""So often a lane may die, one life after another, without any job getting further: two jobs that kill it."""
IMPORT_TRIES = 2
"""The same of something that cannot be imported: it takes another node."""
ALIKE_TRIES = 3
"""The same of the same exception, before any job was leased."""
TENURE_SECONDS = 600.0
"""So long a lane keeps its place beside submissions of its own priority; giving it up costs a load of the base."""


def next_jobs(
    rows: Sequence[JobRow], now: float, held: int = 0, max_running: int | None = None, workers: int | None = None
) -> list[JobRow]:
    """The jobs that a lane that holds `held` others may have now, the first to try first; of `workers` workers."""
    running = sum(row.state == "running" for row in rows)
    if max_running is not None and running >= max_running:
        return []
    free = [row for row in rows if is_free(row, now) and fits(row, held)]
    free = [row for row in free if workers in (None, row.spec.recipe.workers)]
    return sorted(free, key=lambda row: (-row.priority, row.position))


def fits(row: JobRow, held: int) -> bool:
    """Whether a job may be trained beside `held` others."""
    limit = 1 if alone_until(row) else row.pack_limit
    return limit is None or held < limit


def workers_wanted(rows: Sequence[JobRow]) -> set[int]:
    """How many workers share each of the jobs that have not ended."""
    return {row.spec.recipe.workers for row in rows if row.state not in ENDED}


@dataclass(frozen=True)
class Claim:
    """What a submission has of a cluster, and what it waits for."""

    submission: str
    priority: int
    waiting: int
    """Jobs that could start now."""
    lanes: int
    """Lanes at work."""
    wanted: int
    """Lanes that it asked for."""

    @property
    def is_short(self) -> bool:
        """Whether another lane would have something to do."""
        return self.waiting > 0 and self.lanes < self.wanted


def should_yield(mine: Claim, others: Sequence[Claim], uptime: float) -> bool:
    """Whether a lane that has been up for `uptime` seconds should leave its place to another submission.

    To a higher priority at once; to an equal one that has no lane, or two fewer, after a while.
    """
    short = [other for other in others if other.is_short]
    if any(other.priority > mine.priority for other in short):
        return True
    equals = [other for other in short if other.priority == mine.priority]
    return uptime >= TENURE_SECONDS and any(other.lanes == 0 or other.lanes + 1 < mine.lanes for other in equals)


@dataclass(frozen=True)
class Death:
    """How a life of a lane ended."""

    cause: str
    """Class and message of what was raised."""
    recurs: bool
    """Every other life on this node would end so: something cannot be imported."""
    raised: bool
    """By what the lane does, not by whatever ended its process."""
    leased: bool
    """Some job was leased meanwhile, and so may be to blame."""
    further: bool
    """Some job got further meanwhile."""


class Deaths:
    """A lane's deaths one after another: how many of them are enough to give it up."""

    def __init__(self) -> None:
        self._count, self._alike, self._last = 0, 0, ""

    def are_enough(self, death: Death) -> bool:
        """Whether the lane is given up after one more.

        After fewer where the next is bound to be the same; what a job is to blame for, quarantine ends.
        """
        self._count = 0 if death.further else self._count + 1
        alike = death.raised and not death.leased and not death.further
        self._alike = 0 if not alike else self._alike + 1 if death.cause == self._last else 1
        self._last = death.cause
        return self._count >= (IMPORT_TRIES if death.recurs else TRIES) or self._alike >= ALIKE_TRIES


def advance(rows: Sequence[JobRow]) -> tuple[int, int]:
    """How far a submission has come: jobs that ended, and steps that stay done whatever dies."""
    return sum(row.state in ENDED for row in rows), sum(row.furthest for row in rows)
