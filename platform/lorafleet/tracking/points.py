"""Which points and pictures a run has in MLflow, so that what is said again after an interruption is not sent again.

What another process may be sending at this moment cannot be asked for. It is sent as that process sends it, with its
time and name, for MLflow keeps one of two points that are the same in everything, and one of two files of one name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lorafleet.tracking.entries import Numbers, Picture

IMAGES = "images"
THUMBNAIL = "+compressed.webp"
_NAME = re.compile(
    r"(?P<name>(?P<key>.+)\+step\+(?P<step>\d+)\+timestamp\+[^+]+\+[^+]+?)(?P<end>\.png|\+compressed\.webp)"
)


@dataclass
class Points:
    """What a run has: the steps of each metric, and its pictures by key and step."""

    steps: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    pictures: dict[tuple[str, int], str] = field(default_factory=dict)
    """The names under which pictures were begun."""
    whole: set[tuple[str, int]] = field(default_factory=set)
    """Pictures that have arrived with their thumbnail, which is sent last."""
    said: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    """What others say: value and time by key and step."""

    @classmethod
    def asked(cls, client: Any, run_id: str) -> Points:
        """What MLflow says that a run has: a request a metric, one for the pictures. Raises MlflowException."""
        points = cls()
        for key in client.get_run(run_id).data.metrics:
            points.steps[key] = {metric.step for metric in client.get_metric_history(run_id, key)}
        for file in client.list_artifacts(run_id, IMAGES):
            points._see(file.path.rsplit("/", 1)[-1])
        return points

    def overhear(self, entries: Sequence[Numbers | Picture]) -> None:
        """Others say this too, who spoke first."""
        for entry in reversed(entries):  # what was said first is what stays
            if isinstance(entry, Numbers):
                self.said |= {(key, entry.step): (value, entry.milliseconds) for key, value in entry.values.items()}
            else:
                self.pictures[_key(entry), entry.step] = entry.name

    def missing(self, entry: Numbers | Picture) -> list[Numbers | Picture]:
        """The parts of an entry that the run does not have, each as it was said first."""
        if isinstance(entry, Picture):
            place = (_key(entry), entry.step)
            return [] if place in self.whole else [replace(entry, name=self.pictures.get(place, entry.name))]
        parts: dict[int, dict[str, float]] = {}
        for key, own in entry.values.items():
            if entry.step not in self.steps.get(key, ()):
                value, milliseconds = self.said.get((key, entry.step), (own, entry.milliseconds))
                parts.setdefault(milliseconds, {})[key] = value
        return [Numbers(entry.step, values, milliseconds) for milliseconds, values in parts.items()]

    def add(self, entry: Numbers | Picture) -> None:
        """An entry has arrived."""
        if isinstance(entry, Numbers):
            for key in entry.values:
                self.steps[key].add(entry.step)
        else:
            self.whole.add((_key(entry), entry.step))

    def _see(self, file: str) -> None:
        if (found := _NAME.fullmatch(file)) is not None:
            place = (found["key"], int(found["step"]))
            self.pictures[place] = found["name"]
            if found["end"] == THUMBNAIL:
                self.whole.add(place)


def _key(entry: Picture) -> str:
    return entry.name.split("+step+", 1)[0]  # as in the file's name
