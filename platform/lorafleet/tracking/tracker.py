"""One job's numbers and pictures on their way to MLflow. An outage delays them; it never stops a training."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from lorafleet.tracking.delivery import BATCH, Delivery, leading
from lorafleet.tracking.entries import Begun, Entry, Numbers, Picture, numbers, picture
from lorafleet.tracking.journal import Journal, NoJournal, Turn
from lorafleet.tracking.points import Points
from lorafleet.tracking.sender import Sender

if TYPE_CHECKING:
    from PIL.Image import Image

FLUSH_SECONDS = 5.0
IN_MEMORY_AT_MOST = 1000
"""Entries of a run that wait without a journal; what is said beyond is left out. On disk there is room for all."""
log = logging.getLogger(__name__)


class MlflowJobTracker:
    """`lorafleet.bundle.ports.JobTracker` on one MLflow run; a sender's thread sends what was said, in order.

    A tracker that was told of an attempt, or keeps a journal, is a training's: each key has each step once, whoever
    says it how often.
    """

    def __init__(self, client: Any, run_id: str, sender: Sender) -> None:
        self.run_id = run_id
        self._client, self._sender = client, sender
        self._delivery = Delivery(client, run_id)
        self._lock = threading.Lock()
        self._queue: deque[Entry] = deque()
        self._journal: Journal | NoJournal = NoJournal()
        self._points: Points | None = None
        self._must_ask = self._must_adopt = self._closed = False
        self._warned: set[str] = set()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records one step's numbers; with a journal they are on disk when this returns, with MLflow a second later."""
        self._add(numbers(step, values))

    def image(self, key: str, step: int, image: Image) -> None:
        """Records a picture under `key`, so that MLflow's image grid compares runs by key and step."""
        self._add(picture(key, step, image))

    def begin(self, attempt: int) -> None:
        """The run's nth attempt is at work; one that is not the first says again what was said before."""
        self._points = self._points or Points()
        self._must_ask |= attempt > 1
        self._add(Begun(attempt))

    def keep_in(self, folder: Path) -> None:
        """Journals what is said from now on in the run's folder, and sends what dead processes left there."""
        if isinstance(self._journal, Journal):
            return
        try:
            journal = Journal(folder)
        except OSError as problem:
            log.warning("numbers and pictures of run %s are kept in memory only: %s", self.run_id, problem)
            return
        with self._lock:
            self._points, self._must_adopt = self._points or Points(), True
            self._journal = journal

    @property
    def waiting(self) -> int:
        """Entries that are not with MLflow yet."""
        return len(self._queue)

    @property
    def is_unknown(self) -> bool:
        """Whether MLflow has answered that there is no such run."""
        return self._delivery.is_unknown

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Sends at once what waits; False if something still waits after a failed attempt, or after `seconds`."""
        return not self.waiting or self._sender.flush(self, seconds)

    def close(self) -> None:
        """Sends nothing more; what still waits stays in the journal for whoever comes next."""
        self._sender.forget(self)
        with self._lock:
            self._closed = True
            self._journal.close()

    def deliver(self) -> bool:
        """Sends what waits, oldest first; False if another process is sending for this run. For one thread.

        Raises MlflowException or OSError when MLflow does not answer, or does not know the run.
        """
        journal = self._journal
        with journal.turn() as turn:
            if not turn.mine:
                return False
            self._look_around(journal, turn)
            while self._journal is journal and (batch := self._front()):
                self._send(batch)
                self._arrived(batch)
        return True

    def refuse(self, problem: Exception) -> None:
        """Leaves out what waits: MLflow will never take it."""
        while batch := self._front():
            self._delivery.leave_out(batch[0], problem)
            self._arrived(batch)

    def _add(self, entry: Entry) -> None:
        with self._lock:
            if isinstance(entry, Begun):
                self._queue.append(entry)
            elif (kept := self._kept(entry)) is not None:
                self._queue.append(kept)
        self._sender.wake(self)

    def _kept(self, entry: Numbers | Picture) -> Numbers | Picture | None:
        """The entry as it waits: on disk, or in memory while there is room."""
        durable = self._journal.durable
        try:
            entry = self._journal.keep(entry)
        except OSError as problem:
            durable = False
            self._warn("what MLflow does not take waits in memory only: %s", problem)
        if durable or len(self._queue) < IN_MEMORY_AT_MOST:
            return entry
        self._warn("memory is full; left out from step %d on", entry.step)
        return None

    def _warn(self, what: str, *values: object) -> None:
        """A warning of each kind once."""
        if what not in self._warned:
            log.warning(f"run %s: {what}", self.run_id, *values)
        self._warned.add(what)

    def _look_around(self, journal: Journal | NoJournal, turn: Turn) -> None:
        """What others left is sent first; what others may have sent is asked for."""
        if self._must_adopt and isinstance(journal, Journal):
            self._must_adopt = False
            left = journal.adopt()
            with self._lock:
                self._queue.extendleft(reversed(left))
            self._must_ask |= bool(left)
        if self._points is not None and (self._must_ask or turn.others_sent):
            self._must_ask = True  # until it has been answered
            self._points = Points.asked(self._client, self.run_id)
            self._must_ask = False
        if self._points is not None:
            self._points.overhear(journal.overheard())

    def _front(self) -> list[Entry]:
        with self._lock:
            return [] if self._closed else leading(list(islice(self._queue, BATCH)))

    def _send(self, batch: list[Entry]) -> None:
        """Sends what of a batch MLflow does not have, however often it was said."""
        missing = batch
        if (points := self._points) is not None:
            missing = [part for entry in batch for part in _missing(points, entry)]
        try:
            if missing:
                self._delivery.send(missing)
        except (MlflowException, OSError):
            self._must_ask = True  # it may have arrived all the same
            raise

    def _arrived(self, batch: list[Entry]) -> None:
        with self._lock:
            if self._closed:
                return  # the journal is somebody else's now, who will ask what has arrived
            for entry in batch:
                self._queue.popleft()
                if not isinstance(entry, Begun):
                    self._journal.sent(entry)
            if not self._queue:
                self._journal.clear()


def _missing(points: Points, entry: Entry) -> list[Entry]:
    """The parts of an entry that a run does not have, and from now on has."""
    if isinstance(entry, Begun):
        return [entry]
    parts = points.missing(entry)
    for part in parts:
        points.add(part)
    return [*parts]
