"""The ranks of a data-parallel job in a lane: rank 0 is the lane, the other ranks follow it.

Rank 0 announces each job and, once it could start the job itself, that it goes ahead; then all ranks meet at every
training step (`train.data_parallel`). A rank that cannot keep in step ends its process, and Ray Train starts them all
again. Knows the broadcasts of torch.distributed; refuses to know leases and Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from lorafleet.bases import find_base
from lorafleet.errors import LorafleetError
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.jobqueue.job_queue import LaneConfig
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.lane.current_base import CurrentBase
from lorafleet_jobs.train import FAILURES, Follower
from lorafleet_jobs.train.data_parallel import ProcessGroup, Ranks, SingleRank

LEAVE = "leave"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobStart:
    """The announcement of a job."""

    spec: JobSpec
    checkpoints: Path
    """The folder of its checkpoints."""


class Followers(Protocol):
    """The other ranks of a lane's jobs, as rank 0 sees them."""

    @property
    def process_group(self) -> Ranks:
        """All ranks, rank 0 included."""

    def starting(self, spec: JobSpec, checkpoints: Path) -> AbstractContextManager[None]:
        """While it lasts, all ranks prepare a job; if it raises on rank 0, no other rank starts the job."""

    def waiting(self) -> None:
        """Tells the other ranks that there is no job for the moment."""

    def leaving(self) -> None:
        """Tells the other ranks to end."""

    def out_of_step(self, problem: Exception) -> bool:
        """Whether, after a problem during a job, other ranks may be at another step than rank 0."""


class NoFollowers:
    """The lane is its jobs' only rank."""

    process_group: Ranks = SingleRank()

    def starting(self, spec: JobSpec, checkpoints: Path) -> AbstractContextManager[None]:
        """Prepares nothing."""
        return nullcontext()

    def waiting(self) -> None:
        """Tells nobody."""

    def leaving(self) -> None:
        """Tells nobody."""

    def out_of_step(self, problem: Exception) -> bool:
        """No other rank is."""
        return False


class RankFollowers:
    """The other ranks of torch.distributed's default process group."""

    def __init__(self) -> None:
        self.process_group: Ranks = ProcessGroup.current()

    @contextmanager
    def starting(self, spec: JobSpec, checkpoints: Path) -> Iterator[None]:
        """While it lasts, all ranks prepare a job; if it raises on rank 0, no other rank starts the job."""
        _broadcast(JobStart(spec, checkpoints))
        try:
            yield
        except Exception:
            _broadcast(False)
            raise
        _broadcast(True)

    def waiting(self) -> None:
        """Broadcasts that there is no job: the other ranks' `receive` times out if nothing comes for too long."""
        _broadcast(None)

    def leaving(self) -> None:
        """Tells the other ranks to end."""
        _broadcast(LEAVE)

    def out_of_step(self, problem: Exception) -> bool:
        """All ranks raise this project's own errors at the same step, but not what torch raises on one of them."""
        return isinstance(problem, RuntimeError) and not isinstance(problem, LorafleetError)


def follow_lane(setup: LaneConfig) -> None:
    """The life of a rank other than 0: takes part in the jobs that rank 0 announces, until rank 0 leaves.

    Raises what prevents this rank alone from starting a job.
    """
    lane = FollowingLane(setup)
    while (message := _receive()) != LEAVE:
        if isinstance(message, JobStart):
            lane.take_part(message)


class FollowingLane:
    """One rank other than 0 and the base that it holds."""

    def __init__(self, setup: LaneConfig) -> None:
        self._setup, self._home, self._process_group = setup, Home(setup.home), ProcessGroup.current()
        self._base: CurrentBase[LoadedBase] = CurrentBase()

    def take_part(self, start: JobStart) -> None:
        """Prepares an announced job, and trains it if rank 0 goes ahead."""
        follower = self._prepare(start)
        if _receive() is not True:
            return
        if isinstance(follower, Exception):
            raise follower  # rank 0 goes ahead without this rank
        try:
            follower.run()
        except LorafleetError as problem:
            log.info("job %s: %s", start.spec.id, problem)  # rank 0 reports it to the queue

    def _prepare(self, start: JobStart) -> Follower | Exception:
        try:
            base = self._base_for(start.spec)
            return Follower(start.spec, base, self._process_group, start.checkpoints, self._home.cache)
        except FAILURES as problem:
            return problem

    def _base_for(self, spec: JobSpec) -> LoadedBase:
        precision = spec.recipe.precision

        def load() -> LoadedBase:
            return LoadedBase.load(find_base(spec.base, home=self._home), self._setup.device, precision)

        return self._base.get((spec.base, precision), load)


def _broadcast(message: object) -> None:
    dist.broadcast_object_list([message])


def _receive() -> Any:
    messages: list[Any] = [None]
    dist.broadcast_object_list(messages)
    return messages[0]
