"""Florence-2 (Xiao et al. 2023): a sentence or two about a picture, from the layout that transformers reads itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from lorafleet_jobs.captioning.local_weights import local_weights, read_model

KNOWN = ("florence-community/Florence-2-large", "florence-community/Florence-2-base")
FILES = ("config.json", "*.safetensors", "*processor_config.json", "tokenizer_config.json")
TASK = "<DETAILED_CAPTION>"
MAX_TOKENS, BEAMS = 70, 3
"""CLIP reads 75 tokens of a caption at once, of which the prefix takes some."""


class FlorenceCaptioner:
    """A Florence-2 model and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor

    @torch.no_grad()
    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """One text for each RGB picture, found by a beam search: the same for the same picture."""
        inputs = self._processor(images=list(images), text=[TASK] * len(images), return_tensors="pt")
        inputs = inputs.to(self._model.device)
        tokens = self._model.generate(**inputs, max_new_tokens=MAX_TOKENS, num_beams=BEAMS, do_sample=False)
        return [_plain(text) for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]


def load(model: str | None) -> FlorenceCaptioner:
    """Florence-2 from a folder or the local cache, on the accelerator if there is one. Raises CaptionerError."""
    return FlorenceCaptioner(*read_model(local_weights(model, KNOWN, FILES), "Florence2ForConditionalGeneration"))


def _plain(text: str) -> str:
    """Without the words in which Florence-2 begins most texts.

    >>> _plain("The image shows a dog on a beach. ")
    'a dog on a beach'
    """
    text = text.strip().rstrip(".")
    for opening in ("The image shows ", "In this image we can see ", "The image is of "):
        text = text.removeprefix(opening)
    return text
