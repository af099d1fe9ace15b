"""Asynchronous successive halving: which jobs of a sweep go on. Knows steps and scores; refuses to know where from.

Li et al. 2020 (1810.05934), algorithm 2, in the form that stops instead of promoting, as Ray Tune's ASHA scheduler:
nobody waits for others, so a job is measured against those that came before it, stopped ones among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorafleet_jobs.jobspec import JobSpec

SHARES = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 10: "tenth"}


@dataclass(frozen=True)
class Verdict:
    """What a job is told at a rung."""

    goes_on: bool
    bar: float | None
    """Where the best 1/eta of those before it begin; None if it is the first."""


@dataclass(frozen=True)
class Halving:
    """The rule for one job: `first` r, reduction factor `eta`, and `steps` R of the paper."""

    eta: int
    first: int
    steps: int
    """Who has come so far is never stopped."""

    @classmethod
    def of(cls, spec: JobSpec) -> Halving | None:
        """A job's own; None if it is never compared."""
        early = spec.early_stop
        return None if early is None else cls(early.eta, early.first, min(spec.steps, early.max or spec.steps))

    def rungs(self) -> list[int]:
        """The steps at which a job is compared: first * eta^k, below `steps`."""
        found, rung = [], self.first
        while rung < self.steps:
            found.append(rung)
            rung *= self.eta
        return found

    def bar(self, seen: Sequence[float]) -> float | None:
        """The 1 - 1/eta quantile of the scores that were there before, interpolated; None without any."""
        return float(np.percentile(seen, (1 - 1 / self.eta) * 100)) if seen else None

    def goes_on(self, rung: int, score: float, seen: Sequence[float]) -> bool:
        """Whether a job of this score trains on; `seen` are the scores at this rung before it. More is better."""
        bar = self.bar(seen)
        return bar is None or rung >= self.steps or score >= bar

    def verdict(self, rung: int, score: float, seen: Sequence[float]) -> Verdict:
        """`goes_on`, and what it was measured against."""
        return Verdict(self.goes_on(rung, score, seen), self.bar(seen))


def share(eta: int) -> str:
    """1/eta in words: third, quarter."""
    return SHARES.get(eta, f"1/{eta}")
