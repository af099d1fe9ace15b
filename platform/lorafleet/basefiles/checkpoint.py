"""A checkpoint of one file in the original key layout of SDXL (CompVis, Stability's generative-models), by its header.

Knows the prefixes of its parts and what else may lie in such a file. Refuses, by name, every file that is something
else. Reads no tensor and imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorafleet.errors import BaseModelError
from lorafleet.weights import PartFiles, Stored, metadata_of, tensors_of

PREFIXES = {
    "unet": "model.diffusion_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
    "vae": "first_stage_model.",
}
"""Where each part of the diffusers layout is in the file."""
UNUSED = ("position_ids", "logit_scale")
"""Ends of names that a part has in some files and its module never."""
DTYPES = ("F64", "F32", "F16", "BF16")
MARKERS = ("v_pred", "ztsnr", "edm_mean", "edm_std")
"""Tensors that say what the UNet predicts."""
_OTHERS = {
    "cond_stage_model.": "of Stable Diffusion 1 or 2",
    "model.diffusion_model.double_blocks.": "of Flux",
    "model.diffusion_model.joint_blocks.": "of Stable Diffusion 3",
    "edm_vpred.": "of CosXL, whose EDM predicts v",
    "conditioner.embedders.0.model.": "of SDXL's refiner",
    "down_blocks.": "of a UNet alone, in diffusers' layout",
    "lora_": "of a LoRA, which is imported so: lorafleet adapters import FILE --name NAME --base BASE",
    "unet.": "of a LoRA, which is imported so: lorafleet adapters import FILE --name NAME --base BASE",
}


@dataclass(frozen=True)
class Checkpoint:
    """What a file's header says."""

    path: Path
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]

    def of_part(self, part: str) -> dict[str, Stored]:
        """The tensors of one part by their names in the file, without those that its module does not have."""
        prefix = PREFIXES[part]
        return {name: t for name, t in self.tensors.items() if name.startswith(prefix) and not name.endswith(UNUSED)}

    @property
    def left_out(self) -> tuple[str, ...]:
        """What belongs to no part and says nothing: EMA weights, tables of the old code, and the like."""
        known = (*PREFIXES.values(), *MARKERS)
        return tuple(name for name in self.tensors if not name.startswith(known))

    @property
    def attribution(self) -> str:
        """Its title and author, as far as the file says them."""
        title, author = (self.metadata.get(f"modelspec.{key}", "").strip() for key in ("title", "author"))
        return " by ".join(filter(None, (title, author)))

    @property
    def licence(self) -> str:
        """The licence that the file says it has, else ""."""
        return self.metadata.get("modelspec.license", "").strip()

    @property
    def side(self) -> int | None:
        """The native side in pixels, if the file says it and is of squares."""
        sides = set(self.metadata.get("modelspec.resolution", "").lower().split("x"))
        side = sides.pop() if len(sides) == 1 else ""
        return int(side) if side.isdecimal() and int(side) % 8 == 0 and int(side) else None


def read_checkpoint(path: Path, vae: bool = True) -> Checkpoint:
    """Reads a file's header and makes sure that all parts are there; the VAE may be missing unless `vae`.

    Raises BaseModelError, which says what the file is instead.
    """
    if path.suffix != ".safetensors":
        raise BaseModelError(f"{path} is no .safetensors file, and nothing else is read; convert it, or fetch that one")
    checkpoint = Checkpoint(path, tensors_of(PartFiles(None, (path,))), metadata_of(path))
    for prefix, kind in _OTHERS.items():
        if any(name.startswith(prefix) for name in checkpoint.tensors):
            raise BaseModelError(f"{path} is {kind}; bases are SDXL and Playground v2.5 with all their parts")
    wanted = [part for part in PREFIXES if vae or part != "vae"]
    if missing := [part for part in wanted if not checkpoint.of_part(part)]:
        names = ", ".join(f"{part} ({PREFIXES[part]}*)" for part in missing)
        hint = "; give a VAE with --vae FOLDER" if missing == ["vae"] else ""
        raise BaseModelError(f"{path} lacks {names}; bases are SDXL and Playground v2.5 with all their parts{hint}")
    for part in wanted:
        for name, stored in checkpoint.of_part(part).items():
            if stored.dtype not in DTYPES:
                raise BaseModelError(
                    f"{path}: {name} is stored as {stored.dtype}; allowed are {', '.join(DTYPES)}; fetch an fp16 copy"
                )
    return checkpoint
