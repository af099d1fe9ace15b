"""A job that a lane has leased: its lease, heartbeat and log, and how large a pack it may be trained in."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lorafleet_jobs.jobqueue.asha import Verdict
from lorafleet_jobs.jobqueue.job_queue import Lease
from lorafleet_jobs.lane.current_base import BaseKey
from lorafleet_jobs.lane.heartbeat import Heartbeat
from lorafleet_jobs.lane.job_log import JobLog
from lorafleet_jobs.train import InPieces, JobRun

PIECES_SECONDS = 0.1
"""Between two steps of a pack for the preparation of a job that is to join; a piece that is begun is ended."""
LOG_SECONDS = 10.0
"""Between two lines about a job's steps in its log."""


@dataclass
class LeasedJob:
    """A job between its lease and its end on one lane."""

    lease: Lease
    heartbeat: Heartbeat
    job_log: JobLog
    joining: InPieces[JobRun] | None = None
    """How it joins a pack that is under way."""
    run: JobRun | None = None
    """None until it has joined the pack."""
    step: int = 0
    _last_logged: float = field(default_factory=time.monotonic)

    @property
    def base_key(self) -> BaseKey:
        """The base that it is trained on."""
        return self.lease.spec.base, self.lease.spec.recipe.precision

    def log(self, *lines: str) -> None:
        """Appends to the job's log."""
        for line in lines:
            self.job_log.append(line)

    def prepared(self, under_way: bool) -> JobRun | None:
        """Goes on with its preparation: for a while, if a pack is under way that it is to join, else to the end.

        Returns its run at the end. Raises Cancelled once it is no longer this attempt's, and what preparing raises.
        """
        assert self.joining is not None  # it has begun
        self.heartbeat.check_lost()
        return self.joining.advance(PIECES_SECONDS) if under_way else self.joining.finish()

    def close(self) -> None:
        """Ends what is done for it beside the steps: its heartbeats, and its preparation if it has not joined yet."""
        self.heartbeat.stop()
        if self.joining is not None:
            self.joining.close()

    def max_pack_size(self, pack: int) -> int:
        """The largest pack that it may be trained in now, itself included, on a lane for packs of `pack`."""
        if self.step < self.lease.alone_until:
            return 1
        return min(pack, self.lease.pack_limit or pack)

    def started(self, run: JobRun) -> None:
        """Notes and reports that it has joined the pack, fresh or from a checkpoint."""
        self.run, self.step = run, run.step
        steps = self.lease.spec.steps
        self.log(f"goes on at step {run.step} of {steps}" if run.step else f"training, {steps} steps")
        self.heartbeat.on_start(run.step)

    def on_step(self, step: int, loss: float) -> None:
        """Reports a step to the queue now and then, and to the log less often.

        Raises Cancelled once the job is no longer this attempt's.
        """
        self.step = step
        self.heartbeat.on_step(step, loss)
        now = time.monotonic()
        if now - self._last_logged >= LOG_SECONDS or step == self.lease.spec.steps:
            self._last_logged = now
            self.log(f"step {step} of {self.lease.spec.steps}, loss {loss:.4f}")

    def compare(self, rung: int, score: float) -> Verdict:
        """Asks whether the job goes on beyond a rung, and logs the answer; raises Cancelled as `on_step` does."""
        verdict = self.heartbeat.compare(rung, score)
        bar = "the first to get this far" if verdict.bar is None else f"{verdict.bar:.4g} is needed to go on"
        self.log(f"rung at step {rung}: score {score:.4g}, {bar}" + ("" if verdict.goes_on else "; it ends here"))
        return verdict
