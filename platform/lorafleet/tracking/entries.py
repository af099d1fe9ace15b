"""What a job tells MLflow: numbers, a picture, that an attempt has begun; and how these lie on disk."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Begun:
    """The run's nth attempt is at work."""

    attempt: int


@dataclass(frozen=True)
class Numbers:
    """One step's numbers; their time is part of what they are, so that sending them twice adds nothing."""

    step: int
    values: Mapping[str, float]
    milliseconds: int


@dataclass(frozen=True)
class Picture:
    """One picture, in memory or in a file."""

    key: str
    step: int
    name: str
    """Its file's name in MLflow without the ending."""
    pixels: Image | Path

    def load(self) -> Image:
        """The picture in memory."""
        from PIL import Image

        if not isinstance(self.pixels, Path):
            return self.pixels
        with Image.open(self.pixels) as image:
            image.load()
            return image


Entry = Begun | Numbers | Picture


def numbers(step: int, values: Mapping[str, float]) -> Numbers:
    """Numbers of this moment."""
    return Numbers(step, {key: float(value) for key, value in values.items()}, _now())


def picture(key: str, step: int, image: Image) -> Picture:
    """A picture of this moment, named as MLflow's own `log_image` names it, which its image grid reads."""
    name = f"{key.replace('/', '~')}+step+{step}+timestamp+{_now()}+{uuid.uuid4()}"
    return Picture(key, step, name, image)


def to_line(entry: Numbers | Picture) -> str:
    """An entry as one line of JSON; of a picture the line has the name of its file."""
    if isinstance(entry, Numbers):
        return json.dumps({"step": entry.step, "values": dict(entry.values), "milliseconds": entry.milliseconds})
    return json.dumps({"step": entry.step, "key": entry.key, "name": entry.name})


def from_line(line: str, folder: Path) -> Numbers | Picture | None:
    """The entry of a line in `folder`; None for a line that was torn, or a picture that is not there any more."""
    try:
        said = json.loads(line)
    except json.JSONDecodeError:
        return None
    if "values" in said:
        return Numbers(said["step"], said["values"], said["milliseconds"])
    file = folder / f"{said['name']}.png"
    return Picture(said["key"], said["step"], said["name"], file) if file.exists() else None


def _now() -> int:
    return int(time.time() * 1000)
