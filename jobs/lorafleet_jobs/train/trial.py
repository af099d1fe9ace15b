"""Early stopping as a training sees it: at some steps it reports its scores, and may be stopped.

Knows when a job reports and what; refuses to know whom it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lorafleet.bundle.ports import JobTracker

if TYPE_CHECKING:
    from PIL.Image import Image


class EarlyStopped(Exception):  # noqa: N818  a verdict, not an error
    """Raised by a trial to end a job between two steps; its message says why in one line."""


class Trial(Protocol):
    """Compares a job with others at some of its steps."""

    @property
    def wants_pictures(self) -> bool:
        """Whether `report` needs the validation pictures."""

    def is_due(self, step: int) -> bool:
        """Whether the job reports after this step."""

    def report(self, step: int, pictures: Sequence[Image], losses: Sequence[float], tracker: JobTracker) -> None:
        """Compares the job; `losses` are those of all steps so far.

        Raises EarlyStopped to end the job, or what `TrainJob.on_step` raises.
        """


class NoTrial:
    """A job that is compared with no other."""

    wants_pictures = False

    def is_due(self, step: int) -> bool:
        """No step is."""
        return False

    def report(self, step: int, pictures: Sequence[Image], losses: Sequence[float], tracker: JobTracker) -> None:
        """Lets the job go on."""
