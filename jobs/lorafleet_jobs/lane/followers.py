"""The workers of one job: the first is a lane, the others do as it says.

The first announces each job and, once it could start it itself, that it goes ahead; then all meet at every step
(`train.team`). A worker that cannot keep in step ends its process, and Ray Train starts them all again. Knows the
broadcasts of torch.distributed; refuses to know leases and Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lorafleet.bases import find_base
from lorafleet.errors import LorafleetError
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.jobqueue.job_queue import LaneConfig
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train import FAILURES, Follower
from lorafleet_jobs.train.data_parallel import ProcessGroup, SingleRank

LEAVE = "leave"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobStart:
    """A job, as the others are told of it."""

    spec: JobSpec
    half_way: Path
    """Where it is kept."""


class NoFollowers:
    """A lane that is one worker."""

    def __init__(self, team: SingleRank | None = None) -> None:
        self.team = team or SingleRank()

    @contextmanager
    def starting(self, spec: JobSpec, half_way: Path) -> Iterator[None]:
        """While it lasts, this worker and all others get ready for a job; if it raises here, none of them starts."""
        yield

    def waiting(self) -> None:
        """There is nothing to do for the moment."""

    def leaving(self) -> None:
        """The life of all of them ends."""

    def out_of_step(self, problem: Exception) -> bool:
        """Whether, after a problem in mid-job, the others may be at another step than this worker."""
        return False


class Followers(NoFollowers):
    """The others, as the first worker of the default process group sees them."""

    def __init__(self) -> None:
        super().__init__(ProcessGroup.here())

    @contextmanager
    def starting(self, spec: JobSpec, half_way: Path) -> Iterator[None]:
        """While it lasts, this worker and all others get ready for a job; if it raises here, none of them starts."""
        _tell(JobStart(spec, half_way))
        try:
            yield
        except Exception:
            _tell(False)
            raise
        _tell(True)

    def waiting(self) -> None:
        """Says so, since none listens for ever."""
        _tell(None)

    def leaving(self) -> None:
        """The life of all of them ends."""
        _tell(LEAVE)

    def out_of_step(self, problem: Exception) -> bool:
        """All know of our own errors at the same step; not of what torch raised in one of them."""
        return isinstance(problem, RuntimeError) and not isinstance(problem, LorafleetError)


def follow_lane(setup: LaneConfig) -> None:
    """A further worker's life: takes part in what the first announces until that one leaves.

    Raises what keeps this worker alone from a job.
    """
    mate = _FollowingLane(setup)
    while (told := _hear()) != LEAVE:
        if isinstance(told, JobStart):
            mate.take_part(told)


class _FollowingLane:
    def __init__(self, setup: LaneConfig) -> None:
        self._setup, self._home, self._team = setup, Home(setup.home), ProcessGroup.here()
        self._warm: tuple[tuple[str, str], LoadedBase] | None = None

    def take_part(self, part: JobStart) -> None:
        ready = self._ready(part)
        if _hear() is not True:
            return
        if isinstance(ready, Exception):
            raise ready  # the first worker goes ahead without us
        try:
            ready.run()
        except LorafleetError as problem:
            log.info("job %s: %s", part.spec.id, problem)  # which the first worker tells the desk

    def _ready(self, part: JobStart) -> Follower | Exception:
        try:
            return Follower(part.spec, self._warm_for(part.spec), self._team, part.half_way, self._home.cache)
        except FAILURES as problem:
            return problem

    def _warm_for(self, spec: JobSpec) -> LoadedBase:
        wants = spec.base, spec.recipe.precision
        if self._warm is None or self._warm[0] != wants:
            self._warm = None  # two bases need not fit in memory
            self._warm = wants, LoadedBase.load(find_base(spec.base), self._setup.device, spec.recipe.precision)
        return self._warm[1]


def _tell(what: object) -> None:
    dist.broadcast_object_list([what])


def _hear() -> Any:
    told: list[Any] = [None]
    dist.broadcast_object_list(told)
    return told[0]
