"""The toy world's own captioner: its judge says what a toy picture shows, in the words that the toy bases know."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from lorafleet.errors import CaptionerError
from lorafleet.toy.judges import Judge, as_tensor, load_judge
from lorafleet.toy.world import BACKGROUNDS


class ToyCaptioner:
    """The judge and the world's grammar."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """`a red dog on the beach`: colour, class and background of each picture, the likeliest of each."""
        return [
            f"{'an' if seen['colour'][0] in 'aeiou' else 'a'} {seen['colour']} {seen['class']} "
            f"{BACKGROUNDS[seen['background']]}"
            for seen in self._judge.read(as_tensor(images))
        ]


def load(model: str | None) -> ToyCaptioner:
    """The judge that lorafleet ships. Raises CaptionerError for any other."""
    if model is not None:
        raise CaptionerError(f"the toy captioner has weights of its own, not {model!r}; leave --model out")
    return ToyCaptioner(load_judge())
