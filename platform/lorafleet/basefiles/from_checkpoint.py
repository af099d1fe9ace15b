"""A checkpoint of one file becomes a base under the home, in the diffusers layout."""

from __future__ import annotations

from pathlib import Path

from diffusers import EDMDPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline

from lorafleet.basefiles.adding import Added, Facts, add_base
from lorafleet.basefiles.architectures import architecture_of
from lorafleet.basefiles.checkpoint import Checkpoint, read_checkpoint
from lorafleet.basefiles.convert import convert
from lorafleet.basefiles.family import Family, Kind, family_of
from lorafleet.basefiles.find_tokenizers import find_tokenizers
from lorafleet.home import Home

_CLASSES = {kind.__name__: kind for kind in (EulerDiscreteScheduler, EDMDPMSolverMultistepScheduler)}
UNKNOWN = "unknown"
"""What stands for the licence where nothing says it."""


def add_checkpoint(
    file: Path, name: str, home: Home, prediction: Kind | None = None, tokenizers: Path | None = None, licence: str = ""
) -> Added:
    """Converts a file once and adds it under a name. Raises BaseModelError.

    Numbers keep their dtypes. `prediction` says what the file does not; `tokenizers` is a folder of tokenizers, by
    default some that are on this machine; `licence` goes before the file's own.
    """
    checkpoint = read_checkpoint(file)
    family, architecture = family_of(checkpoint, prediction), architecture_of(checkpoint)
    found = find_tokenizers(tokenizers, architecture, home)

    def write(folder: Path) -> Facts:
        modules = convert(checkpoint, architecture, family)
        scheduler = {key: value for key, value in family.scheduler.items() if key != "_class_name"}
        StableDiffusionXLPipeline(
            vae=modules.vae, unet=modules.unet, text_encoder=modules.text_encoder,
            text_encoder_2=modules.text_encoder_2, tokenizer=found.one, tokenizer_2=found.two,
            scheduler=_CLASSES[family.scheduler["_class_name"]](**scheduler),
            force_zeros_for_empty_prompt=True, add_watermarker=False,
        ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
        return Facts(
            origin=str(file.resolve()),
            prediction=str(family),
            licence=licence or checkpoint.licence or UNKNOWN,
            attribution=checkpoint.attribution,
            tokenizers=found.origin,
        )

    return add_base(name, home, file.stat().st_size, write, lambda: _notes(checkpoint, family, found.origin, licence))


def _notes(checkpoint: Checkpoint, family: Family, tokenizers: str, licence: str) -> tuple[str, ...]:
    notes = [f"predicts {family}", f"tokenizers from {tokenizers}"]
    if left := checkpoint.left_out:
        more = ", ..." if len(left) > 3 else ""
        notes.append(f"left out {len(left)} tensors that belong to no part: {', '.join(left[:3])}{more}")
    if not licence and not checkpoint.licence:
        notes.append("nothing says the licence; its adapters will say unknown, unless you add it with --licence")
    return tuple(notes)
