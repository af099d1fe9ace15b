"""A job in a lane's hands: its lease, its pulse, its log, and among how many others it may be trained."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from lorafleet_jobs.jobqueue.asha import Verdict
from lorafleet_jobs.jobqueue.job_queue import Lease
from lorafleet_jobs.lane.heartbeat import Heartbeat
from lorafleet_jobs.lane.job_log import JobLog
from lorafleet_jobs.train import JobRun

LOG_SECONDS = 10.0
logger = logging.getLogger(__name__)


@dataclass
class LeasedJob:
    """One of them."""

    lease: Lease
    pulse: Heartbeat
    log: JobLog
    run: JobRun | None = None
    """None until it has joined the crew."""
    step: int = 0
    _said: float = field(default_factory=time.monotonic)

    @property
    def wants(self) -> tuple[str, str]:
        """The base, and its precision."""
        return self.lease.spec.base, self.lease.spec.recipe.precision

    def say(self, *lines: str) -> None:
        """Into the job's log; a disk that is full stops no training."""
        try:
            for line in lines:
                self.log.say(line)
        except OSError as problem:
            logger.warning("%s: %s", self.log.path, problem)

    def limit(self, pack: int) -> int:
        """Among how many jobs it may be trained now, itself included, in a lane for `pack`."""
        if self.step < self.lease.alone_until:
            return 1
        return min(pack, self.lease.pack_limit or pack)

    def begins(self, run: JobRun) -> None:
        """It has joined the crew, fresh or from where it was."""
        self.run, self.step = run, run.step
        steps = self.lease.spec.steps
        self.say(f"goes on at step {run.step} of {steps}" if run.step else f"training, {steps} steps")
        self.pulse.on_start(run.step)

    def on_step(self, step: int, loss: float) -> None:
        """Tells the desk now and then, and the log less often; raises Cancelled once the job is no longer ours."""
        self.step = step
        self.pulse.on_step(step, loss)
        now = time.monotonic()
        if now - self._said >= LOG_SECONDS or step == self.lease.spec.steps:
            self._said = now
            self.say(f"step {step} of {self.lease.spec.steps}, loss {loss:.4f}")

    def compare(self, rung: int, score: float) -> Verdict:
        """Asks whether the job goes on beyond a rung, and notes why; raises Cancelled as `on_step`."""
        verdict = self.pulse.compare(rung, score)
        bar = "the first to come so far" if verdict.bar is None else f"the bar is {verdict.bar:.4g}"
        self.say(f"rung at step {rung}: score {score:.4g}, {bar}" + ("" if verdict.goes_on else "; it ends here"))
        return verdict
