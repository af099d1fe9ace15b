"""BLIP (Li et al. 2022): one short sentence for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from lorafleet_jobs.captioning.local_weights import local_weights, read_model

KNOWN = ("Salesforce/blip-image-captioning-large", "Salesforce/blip-image-captioning-base")
FILES = ("config.json", "*.safetensors", "*processor_config.json", "tokenizer_config.json")
MAX_TOKENS, BEAMS = 40, 3


class BlipCaptioner:
    """A BLIP model and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor

    @torch.no_grad()
    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """One sentence for each RGB picture, found by a beam search: the same for the same picture."""
        inputs = self._processor(images=list(images), return_tensors="pt").to(self._model.device)
        tokens = self._model.generate(**inputs, max_new_tokens=MAX_TOKENS, num_beams=BEAMS, do_sample=False)
        return list(self._processor.batch_decode(tokens, skip_special_tokens=True))


def load(model: str | None) -> BlipCaptioner:
    """BLIP from a folder or the local cache, on the accelerator if there is one. Raises CaptionerError."""
    return BlipCaptioner(*read_model(local_weights(model, KNOWN, FILES), "BlipForConditionalGeneration"))
