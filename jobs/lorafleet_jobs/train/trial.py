"""What a training asks of whoever compares it with others. Knows when and by what; refuses to know with whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lorafleet.bundle.ports import JobTracker

if TYPE_CHECKING:
    from PIL.Image import Image


class EarlyStopped(Exception):  # noqa: N818  a verdict, not an error
    """Raised by a contest to end a job between two steps; says why in one line."""


class Trial(Protocol):
    """Compares a job with others at some of its steps."""

    @property
    def looks(self) -> bool:
        """Whether it wants the validation pictures."""

    def is_due(self, step: int) -> bool:
        """Whether the job is compared after this step."""

    def judge(self, step: int, pictures: Sequence[Image], losses: Sequence[float], tracker: JobTracker) -> None:
        """Compares it; `losses` are those of all steps so far. Raises Stopped, or what `TrainJob.on_step` raises."""


class NoTrial:
    """Compares with nobody."""

    looks = False

    def is_due(self, step: int) -> bool:
        """Never."""
        return False

    def judge(self, step: int, pictures: Sequence[Image], losses: Sequence[float], tracker: JobTracker) -> None:
        """Lets it go on."""
