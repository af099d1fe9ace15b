"""WD14 taggers (SmilingWolf's, in ONNX): a list of booru tags for a picture, the likeliest first."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lorafleet.errors import CaptionerError
from lorafleet_jobs.captioning.local_weights import local_weights

KNOWN = ("SmilingWolf/wd-vit-tagger-v3", "SmilingWolf/wd-swinv2-tagger-v3")
FILES = ("model.onnx", "selected_tags.csv")
LIKELY = 0.35
"""The probability from which on a tag is said, the models' authors' own."""
_GENERAL = "0"
"""The category of tags about what is seen; others are of persons and of how explicit a picture is."""
_FACE = 3
"""Tags of so few characters are faces, `>_<`, whose underscore is no space."""


class Tagger:
    """An ONNX session and the names of what it gives, in order; "" for what is not to be said."""

    def __init__(self, session: Any, tags: Sequence[str]) -> None:
        self._session, self._tags = session, tags
        self._input = session.get_inputs()[0]

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """The tags of each RGB picture that are likely, joined by commas."""
        _, height, width, _ = self._input.shape
        found = []
        for image in images:  # one by one: the published files take any number, converted ones often but one
            pixels = as_input(image, width, height)
            [scores] = self._session.run(None, {self._input.name: pixels})[0]
            likely = sorted((-score, tag) for score, tag in zip(scores, self._tags, strict=True) if tag)
            found.append(", ".join(tag for score, tag in likely if -score >= LIKELY))
        return found


def as_input(image: Image.Image, width: int, height: int) -> NDArray[np.float32]:
    """A picture on a white square, resized: [1, height, width, 3] in BGR, levels of 255."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    resized = square.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32)[None, :, :, ::-1].copy()


def read_tags(path: Path) -> list[str]:
    """The names in a `selected_tags.csv`, one for each output; "" for those that are not of what is seen."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"name", "category"} <= set(rows[0]):
        raise CaptionerError(f"{path} is no list of tags with the columns name and category; fetch the model anew")
    return [_words(row["name"]) if row["category"] == _GENERAL else "" for row in rows]


def load(model: str | None) -> Tagger:
    """A tagger from a folder or the local cache. Raises CaptionerError, also where onnxruntime is not installed."""
    if find_spec("onnxruntime") is None:
        raise CaptionerError(f"it needs onnxruntime; run: pip install onnxruntime, then hf download {KNOWN[0]}")
    folder = local_weights(model, KNOWN, FILES)
    import onnxruntime

    tags = read_tags(folder / "selected_tags.csv")
    return Tagger(onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"]), tags)


def _words(tag: str) -> str:
    return tag if len(tag) <= _FACE else tag.replace("_", " ")
