"""What a step tells the world: the caller's callback, one batch of metrics every few steps, and the card's summary."""

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
    """What a job keeps of its steps, over all its lives."""

    step: int = 0
    """Steps taken."""
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """That it trained, those of lives that were cut short up to their last checkpoint."""


class Progress:
    """Side effects of a step."""

    def __init__(
        self, tracker: JobTracker, spec: JobSpec, on_step: Callable[[int, float], None], history: History
    ) -> None:
        """`history` is what came before this life."""
        self.tracker, self.spec, self.on_step = tracker, spec, on_step
        self.losses = list(history.losses)
        self._before, self._started, self._peak = history, time.monotonic(), 0.0

    def history(self, step: int) -> History:
        """Of the job up to now."""
        return History(step, self.losses, self._before.seconds + self._lived)

    @property
    def _lived(self) -> float:
        """Seconds of this life."""
        return time.monotonic() - self._started

    def after(self, step: int, loss: float, optimizer: Optimizer, peak: float | None = None) -> None:
        """Follows every step, counted from 1; `peak` is the device's memory at its height, MiB, if it is measured."""
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
        """What the card keeps."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return {"train/loss": sum(last) / len(last), "train/seconds": self._before.seconds + self._lived}

    def _performance(self, step: int) -> dict[str, float]:
        rate = (step - self._before.step) / self._lived  # of this life: what other machines did is no rate of this one
        return {"perf/steps_per_second": rate, "perf/peak_memory_mib": self._peak}


def resident_peak() -> float:
    """MiB that this process has had in memory at its height."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
