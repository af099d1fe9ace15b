"""What a lane spends its time on: a line of JSON for each stretch of it, so that one can see when its device trained.

    {"kind": "train", "start": 1732190000.1, "end": 1732190017.9}

The kinds: `load` a base; `start` a job: its images and their latents; `train`; `preview` pictures, of the base at first
and of the adapter on the way and at the end; `checkpoint`; `bundle`; `publish`; `wait` for work.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SpanKind = Literal["load", "start", "train", "preview", "checkpoint", "bundle", "publish", "wait"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Span:
    """One stretch; seconds since the epoch."""

    kind: str
    start: float
    end: float


class Timeline:
    """Records one lane, to `path` or nowhere; the lane says what comes next, and the last span ends with that."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._kind: SpanKind | None = None
        self._since = 0.0

    def now(self, kind: SpanKind | None) -> None:
        """The next stretch begins; None: there is none. The same kind again goes on with the last."""
        if kind == self._kind:
            return
        at = self._clock()
        if self._kind is not None and self._path is not None:
            self._write(self._path, {"kind": self._kind, "start": round(self._since, 3), "end": round(at, 3)})
        self._kind, self._since = kind, at

    def _write(self, path: Path, span: dict[str, object]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as stream:
                stream.write(json.dumps(span) + "\n")
        except OSError as problem:  # a disk that is full stops no training
            log.warning("%s: %s", path, problem)


def read_spans(path: Path) -> list[Span]:
    """A lane's spans in order; the line that its death cut short is left out."""
    spans = []
    for line in path.read_text().splitlines():
        try:
            spans.append(Span(**json.loads(line)))
        except ValueError:
            continue
    return spans
