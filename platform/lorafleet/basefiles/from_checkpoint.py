"""A checkpoint of one file becomes a base under the home, in the diffusers layout."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EDMDPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline

from lorafleet.basefiles.adding import Added, Facts, add_base
from lorafleet.basefiles.architectures import Architecture, architecture_of
from lorafleet.basefiles.checkpoint import Checkpoint, read_checkpoint
from lorafleet.basefiles.convert import convert
from lorafleet.basefiles.family import PLAYGROUND_MEAN, PLAYGROUND_STD, Family, Kind, family_of, vae_statistics
from lorafleet.basefiles.find_tokenizers import find_tokenizers
from lorafleet.basefiles.other_vae import OwnVae, check_vae, find_vae, put_vae
from lorafleet.home import Home

_CLASSES = {kind.__name__: kind for kind in (EulerDiscreteScheduler, EDMDPMSolverMultistepScheduler)}
UNKNOWN = "unknown"
"""What stands for the licence where nothing says it."""


def add_checkpoint(
    file: Path,
    name: str,
    home: Home,
    prediction: Kind | None = None,
    tokenizers: Path | None = None,
    licence: str = "",
    vae: str = "",
) -> Added:
    """Converts a file once and adds it under a name. Raises BaseModelError.

    Numbers keep their dtypes. `prediction` says what the file does not; `tokenizers` is a folder of tokenizers, by
    default some that are on this machine; `licence` goes before the file's own; `vae` is a VAE instead of the file's,
    which may then have none.
    """
    checkpoint = read_checkpoint(file, vae=not vae)
    family, architecture = family_of(checkpoint, prediction), architecture_of(checkpoint)
    found = find_tokenizers(tokenizers, architecture, home)
    other_vae = find_vae(vae) if vae else None
    if other_vae is not None:
        check_vae(other_vae, _own_vae(file, architecture, family))

    def write(folder: Path) -> Facts:
        modules = convert(checkpoint, architecture, family, vae=other_vae is None)
        scheduler = {key: value for key, value in family.scheduler.items() if key != "_class_name"}
        StableDiffusionXLPipeline(
            vae=modules.vae or AutoencoderKL.from_config(architecture.config("vae")),  # to be replaced below
            unet=modules.unet, text_encoder=modules.text_encoder, text_encoder_2=modules.text_encoder_2,
            tokenizer=found.one, tokenizer_2=found.two,
            scheduler=_CLASSES[family.scheduler["_class_name"]](**scheduler),
            force_zeros_for_empty_prompt=True, add_watermarker=False,
        ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
        if other_vae is not None:
            put_vae(other_vae, folder / "vae")  # its own files, in its own precision
        return Facts(
            origin=str(file.resolve()),
            prediction=str(family),
            licence=licence or checkpoint.licence or UNKNOWN,
            attribution=checkpoint.attribution,
            vae=str(other_vae or ""),
            tokenizers=found.origin,
        )

    return add_base(name, home, file.stat().st_size, write, lambda: _notes(checkpoint, family, found.origin, licence))


def _own_vae(file: Path, architecture: Architecture, family: Family) -> OwnVae:
    """What another VAE must be like."""
    config = architecture.config("vae")
    with torch.device("meta"):
        shapes = {name: tuple(w.shape) for name, w in AutoencoderKL.from_config(config).state_dict().items()}
    if family.kind == "edm":
        config |= vae_statistics(PLAYGROUND_MEAN, PLAYGROUND_STD)
    return OwnVae(str(file), config, shapes)


def _notes(checkpoint: Checkpoint, family: Family, tokenizers: str, licence: str) -> tuple[str, ...]:
    notes = [f"predicts {family}", f"tokenizers from {tokenizers}"]
    if left := checkpoint.left_out:
        more = ", ..." if len(left) > 3 else ""
        notes.append(f"left out {len(left)} tensors that belong to no part: {', '.join(left[:3])}{more}")
    if not licence and not checkpoint.licence:
        notes.append("nothing says the licence; its adapters will say unknown, unless you add it with --licence")
    return tuple(notes)
