"""What a step tells the world: the caller's callback, one batch of metrics every few steps, and the card's summary."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.optim import Optimizer

from lorafleet.ports import JobTracker
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.optimize import adaptive_rate


@dataclass
class Progress:
    """Side effects of a step."""

    tracker: JobTracker
    spec: JobSpec
    on_step: Callable[[int, float], None]
    started: float = field(default_factory=time.monotonic)
    losses: list[float] = field(default_factory=list)

    def after(self, step: int, loss: float, optimizer: Optimizer) -> None:
        """Follows every step, counted from 1."""
        self.losses.append(loss)
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
        return {"train/loss": sum(last) / len(last), "train/seconds": time.monotonic() - self.started}

    def _performance(self, step: int) -> dict[str, float]:
        peak = (
            torch.cuda.max_memory_allocated() / 2**20
            if torch.cuda.is_available()
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        )
        return {"perf/steps_per_second": step / (time.monotonic() - self.started), "perf/peak_memory_mib": peak}
