"""One job's numbers and pictures on their way to MLflow. An outage delays them; it never stops a training."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from lorafleet.tracking.client import REFUSED, knock

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 1000  # metrics in one call; MLflow's limit
PATIENCE = 10.0
"""A failed attempt that took t seconds is repeated after PATIENCE * t, so that a tenth of the time is lost at most."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Numbers:
    step: int
    values: Mapping[str, float]
    milliseconds: int

    def metrics(self) -> list[Any]:
        return [Metric(key, value, self.milliseconds, self.step) for key, value in self.values.items()]


@dataclass(frozen=True)
class _Picture:
    key: str
    step: int
    image: Image
    milliseconds: int


@dataclass
class MlflowJobTracker:
    """`lorafleet.ports.JobTracker` on one MLflow run; what could not be sent waits in memory, in order."""

    client: Any
    uri: str
    run_id: str
    clock: Callable[[], float] = time.monotonic
    _backlog: deque[_Numbers | _Picture] = field(default_factory=deque)
    _not_before: float = 0.0
    _failing: bool = False

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Sends one step's numbers in one `log_batch`."""
        self._backlog.append(_Numbers(step, dict(values), _now()))
        self.flush()

    def image(self, key: str, step: int, image: Image) -> None:
        """Sends a picture under `key`, so that MLflow's image grid compares runs by key and step."""
        self._backlog.append(_Picture(key, step, image, _now()))
        self.flush()

    @property
    def waiting(self) -> int:
        """Entries that are not with MLflow yet."""
        return len(self._backlog)

    def flush(self, now: bool = False) -> bool:
        """Sends what waits, oldest first; False if something still waits. `now` skips the pause after a failure."""
        started = self.clock()
        if started < self._not_before and not now:
            return False
        try:
            if self._failing:
                knock(self.uri)
            while self._backlog:
                self._send_front()
        except (MlflowException, OSError) as problem:
            if not self._failing:
                log.warning("MLflow at %s does not answer (%s); numbers and pictures wait", self.uri, problem)
            self._failing = True
            self._not_before = self.clock() + PATIENCE * (self.clock() - started)
            return False
        self._failing = False
        return True

    def _send_front(self) -> None:
        front = self._backlog[0]
        count = 1
        try:
            if isinstance(front, _Picture):
                self.client.log_image(
                    self.run_id, front.image, key=front.key, step=front.step,
                    timestamp=front.milliseconds, synchronous=True,
                )  # fmt: skip
            else:
                batch = self._leading_numbers()
                count = len(batch)
                self.client.log_batch(self.run_id, metrics=[one for entry in batch for one in entry.metrics()])
        except MlflowException as problem:
            if problem.error_code not in REFUSED:
                raise
            log.warning("MLflow refuses step %d of run %s, which is left out: %s", front.step, self.run_id, problem)
        for _ in range(count):
            self._backlog.popleft()

    def _leading_numbers(self) -> list[_Numbers]:
        batch: list[_Numbers] = []
        size = 0
        for entry in self._backlog:
            if isinstance(entry, _Picture) or (batch and size + len(entry.values) > BATCH):
                break
            batch.append(entry)
            size += len(entry.values)
        return batch


def _now() -> int:
    return int(time.time() * 1000)
