"""Whom to kill, and when: SIGKILL to lanes, dispatchers, drivers and nodes, at moments drawn from a seed.

Kills are spread over the work: as much of them is done as of it, so that they end together however slow the machine.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import psutil
from chaos_place import Place

from lorafleet_jobs.jobqueue.job_state import ENDED, QUARANTINE_LANES, JobRow

if TYPE_CHECKING:
    from chaos_nodes import Nodes

Kind = Literal["lane", "dispatcher", "driver", "node"]
TITLES: dict[Kind, str] = {"lane": "RayTrainWorker", "dispatcher": "JobQueue"}
SHARES: dict[Kind, float] = {"lane": 0.3, "dispatcher": 0.62, "driver": 0.08, "node": 0.0}
SHARES_WITH_NODES: dict[Kind, float] = {"lane": 0.1, "dispatcher": 0.15, "driver": 0.1, "node": 0.65}
LONGEST_PAUSE = 4.0  # seconds
AHEAD = 1.15  # kills end a little before the work does


def share_done(jobs: Sequence[JobRow]) -> float:
    """How much of all steps is done, from 0 to 1."""
    total = sum(job.steps for job in jobs)
    done = sum(job.steps if job.state in ENDED else max(job.step, job.furthest) for job in jobs)
    return done / total if total else 0.0


def allowed(jobs: Sequence[JobRow], kills: int) -> int:
    """How many of `kills` may have happened by now; a few before anything is done."""
    return min(kills, int(kills * (AHEAD * share_done(jobs) + 0.03)) + 1)


def endangered(jobs: Sequence[JobRow]) -> bool:
    """Whether another dead lane might put a job in quarantine, which is right, but not what is tried here."""
    return any(
        job.state == "running" and job.lanes_lost >= QUARANTINE_LANES - 2 and job.step <= job.furthest for job in jobs
    )


@dataclass
class Killer:
    """Kills in one place until it has done so often enough."""

    place: Place
    kills: int
    rng: random.Random
    nodes: Nodes | None = None
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.next = self._draw()

    @property
    def left(self) -> int:
        """Kills to come."""
        return self.kills - self.done.total()

    def pause(self, jobs: Sequence[JobRow]) -> float:
        """Seconds until the next kill; short when the work gets ahead of the kills."""
        behind = allowed(jobs, self.kills) - self.done.total()
        return self.rng.uniform(0.0, LONGEST_PAUSE if behind < 3 else 1.0)

    def kill(self, jobs: Sequence[JobRow], driver: subprocess.Popen[bytes]) -> Kind | None:
        """Kills one of the kind whose turn it is; None if none lives, or may be killed now."""
        if allowed(jobs, self.kills) <= self.done.total():
            return None
        kind, found = self.next, self._targets(endangered(jobs))
        if not found[kind]:
            return None  # it will live again
        if kind == "driver":
            driver.kill()
        elif kind == "node":
            assert self.nodes is not None
            self.nodes.kill(self.rng)
        else:
            try:
                os.kill(self.rng.choice(found[kind]), signal.SIGKILL)
            except ProcessLookupError:
                return None
        self.done[kind] += 1
        self.next = self._draw()
        return kind

    def _draw(self) -> Kind:
        shares = SHARES if self.nodes is None else SHARES_WITH_NODES
        return self.rng.choices(list(shares), list(shares.values()))[0]

    def _targets(self, careful: bool) -> dict[Kind, list[int]]:
        """Process ids by kind; of nodes and the driver, which are known, only that there are some."""
        found: dict[Kind, list[int]] = {
            "lane": [],
            "dispatcher": [],
            "driver": [0],
            "node": [0] * bool(self.nodes),
        }
        for process in self.place.processes():
            try:
                title = "".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            for kind, word in TITLES.items():
                if word in title:
                    found[kind].append(process.pid)
        return found | ({"lane": [], "node": []} if careful else {})
