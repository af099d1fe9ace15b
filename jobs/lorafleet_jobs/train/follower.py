"""A further rank of a data-parallel job: takes every training step with rank 0, and reports and writes nothing."""

from __future__ import annotations

from pathlib import Path

from lorafleet.loaded import LoadedBase
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.checkpoint import resume
from lorafleet_jobs.train.data_parallel import Ranks
from lorafleet_jobs.train.pack import train_step_alone
from lorafleet_jobs.train.training import Training


class Follower:
    """One rank other than 0 of one job."""

    def __init__(
        self,
        spec: JobSpec,
        base: LoadedBase,
        process_group: Ranks,
        checkpoints: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        """Begins with the state that rank 0 begins with: fresh, or from the newest checkpoint. Raises DataError."""
        self.training = Training.prepare(spec, base, cache, process_group)
        self.step = 0 if checkpoints is None else resume(checkpoints, self.training).step

    def run(self) -> None:
        """Takes all steps of the job. Raises DataError, or NonFiniteError if the job or another rank failed."""
        while self.step < self.training.spec.steps:
            self.step += 1
            train_step_alone(self.training, self.step)
