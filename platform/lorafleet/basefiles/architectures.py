"""The architectures that a checkpoint may have: folders of configurations that are shipped, and which one a file fits.

A checkpoint says its tensors' shapes, and not how many heads share a width: so its shapes choose an architecture, and
all of them are compared with it. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorafleet.basefiles.checkpoint import PREFIXES, Checkpoint
from lorafleet.bases import SHIPPED
from lorafleet.errors import BaseModelError

_FIRST = PREFIXES["unet"] + "input_blocks.0.0.weight"


@dataclass(frozen=True)
class Architecture:
    """A UNet, a VAE and two text encoders by their configurations."""

    name: str
    folder: Path
    """A folder for each part, with its `config.json`."""

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of one part, as its class takes it."""
        told: dict[str, Any] = json.loads((self.folder / part / "config.json").read_text())
        return {key: value for key, value in told.items() if not key.startswith("_")}

    @property
    def stem(self) -> tuple[int, int]:
        """Channels that the UNet's first layer makes, and takes."""
        config = self.config("unet")
        return config["block_out_channels"][0], config.get("in_channels", 4)


SDXL = Architecture("SDXL", Path(__file__).parent / "sdxl")
TOY = Architecture("the toy bases'", SHIPPED["toy-sdxl"])


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """The architecture whose UNet begins as this one does. Raises BaseModelError if there is none."""
    first = checkpoint.tensors.get(_FIRST)
    shape = first.shape[:2] if first is not None else ()
    for known in (SDXL, TOY):
        if shape == known.stem:
            return known
    what = f"{_FIRST} is {list(first.shape)}" if first is not None else f"{_FIRST} is not there"
    hint = ", an inpainting model" if first is not None and first.shape[1:2] == (9,) else ""
    raise BaseModelError(
        f"{checkpoint.path}: {what}{hint}; bases have SDXL's UNet, which begins with {[*SDXL.stem, 3, 3]}"
    )
