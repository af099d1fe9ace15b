"""What is reported of a step: the caller's callback, metrics every few steps, the summary for the adapter's card."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch.optim import Optimizer

from lorafleet.bundle.ports import JobTracker
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.optimizers import adaptive_rate


@dataclass
class History:
    """What a job keeps of its steps over all its attempts."""

    step: int = 0
    """Steps taken."""
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """Of training; those of an interrupted attempt count up to its last checkpoint."""


class Progress:
    """Reports the steps of one attempt at a job."""

    def __init__(
        self, tracker: JobTracker, spec: JobSpec, on_step: Callable[[int, float], None], history: History
    ) -> None:
        """`history` is that of the attempts before."""
        self.tracker, self.spec, self.on_step = tracker, spec, on_step
        self.losses = list(history.losses)
        self._before, self._started, self._peak = history, time.monotonic(), 0.0

    def history(self, step: int) -> History:
        """The history of the job up to this step."""
        return History(step, self.losses, self._before.seconds + self._elapsed)

    @property
    def _elapsed(self) -> float:
        """Seconds of this attempt."""
        return time.monotonic() - self._started

    def after(self, step: int, loss: float, optimizer: Optimizer, peak: float | None = None) -> None:
        """Reports a step, counted from 1; `peak` is the device's peak memory in MiB, if it is measured."""
        self.losses.append(loss)
        self._peak = max(self._peak, resident_peak() if peak is None else peak)
        self.on_step(step, loss)
        every = max(1, self.spec.steps // 50)
        if step % every and step != self.spec.steps:
            return
        recent = self.losses[-every:]
        values = {"train/loss": sum(recent) / len(recent), "train/lr": float(optimizer.param_groups[0]["lr"])}
        if (d := adaptive_rate(optimizer)) is not None:
            values["train/d"] = d
        self.tracker.metrics(step, values | self._performance(step))

    def summary(self) -> dict[str, float]:
        """The metrics on the adapter's card."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return {"train/loss": sum(last) / len(last), "train/seconds": self._before.seconds + self._elapsed}

    def _performance(self, step: int) -> dict[str, float]:
        rate = (step - self._before.step) / self._elapsed  # of this attempt: earlier ones may have had other machines
        return {"perf/steps_per_second": rate, "perf/peak_memory_mib": self._peak}


def resident_peak() -> float:
    """Peak resident memory of this process in MiB; psutil has no peak outside Windows."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
