"""What a lane spends its time on: a line of JSON for each span, so that one can see when its device trained.

    {"kind": "train", "start": 1732190000.1, "end": 1732190017.9}

The kinds: `load` a base; `start` a job, that is read its images and encode their latents; `train`; make `preview`
pictures; write a `checkpoint`; write a `bundle`; `publish` it; `wait` for work.
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
    """A time in which a lane did one thing; seconds since the epoch."""

    kind: str
    start: float
    end: float


class Timeline:
    """Records the spans of one lane to a file, or nowhere if `path` is None."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._kind: SpanKind | None = None
        self._since = 0.0

    def begin(self, kind: SpanKind | None) -> None:
        """Starts a span, which ends the current one; None only ends it. The current kind again changes nothing."""
        if kind == self._kind:
            return
        now = self._clock()
        if self._kind is not None and self._path is not None:
            self._write(self._path, {"kind": self._kind, "start": round(self._since, 3), "end": round(now, 3)})
        self._kind, self._since = kind, now

    def _write(self, path: Path, span: dict[str, object]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as stream:
                stream.write(json.dumps(span) + "\n")
        except OSError as problem:  # a full disk must not stop training
            log.warning("%s: %s", path, problem)


def read_spans(path: Path) -> list[Span]:
    """A lane's spans in order; a line that is cut short, because the lane's process died, is left out."""
    spans = []
    for line in path.read_text().splitlines():
        try:
            spans.append(Span(**json.loads(line)))
        except ValueError:
            continue
    return spans
