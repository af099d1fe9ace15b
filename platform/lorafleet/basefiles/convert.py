"""A checkpoint's tensors as the modules of a diffusers pipeline, in the dtypes that they have in the file.

The names are translated by diffusers' own functions. Refuses to fill a gap: every tensor of every part must be in the
file with its shape, and every tensor of a part in the file must be one of the module's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorafleet.basefiles.architectures import Architecture
from lorafleet.basefiles.checkpoint import PREFIXES, Checkpoint
from lorafleet.basefiles.family import PLAYGROUND_MEAN, PLAYGROUND_STD, Family, vae_statistics
from lorafleet.errors import BaseModelError


@dataclass(frozen=True, eq=False)
class Modules:
    """The parts of a pipeline that have weights."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    vae: AutoencoderKL | None


def convert(checkpoint: Checkpoint, architecture: Architecture, family: Family, vae: bool = True) -> Modules:
    """The modules of a checkpoint; without `vae` all but that. Their tensors stay in the file until they are used.

    Raises BaseModelError that names the first tensor that does not fit.
    """
    unet_config = architecture.config("unet")
    vae_config = architecture.config("vae")
    if checkpoint.side is not None:
        unet_config["sample_size"] = checkpoint.side // 2 ** (len(vae_config["block_out_channels"]) - 1)
    if family.kind == "edm":
        vae_config |= vae_statistics(*_latent_statistics(checkpoint, vae_config["latent_channels"]))
    one, two = (CLIPTextConfig(**architecture.config(part)) for part in ("text_encoder", "text_encoder_2"))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config)
        encoders = CLIPTextModel(one), CLIPTextModelWithProjection(two)
        autoencoder = AutoencoderKL.from_config(vae_config) if vae else None
    modules = {"unet": unet, "text_encoder": encoders[0], "text_encoder_2": encoders[1], "vae": autoencoder}
    for part, module in modules.items():
        if module is not None:
            held = _tensors(checkpoint, checkpoint.of_part(part))
            module.load_state_dict(fitted(part, held, module, checkpoint.path), assign=True)
    return Modules(unet, *encoders, autoencoder)


def _latent_statistics(checkpoint: Checkpoint, channels: int) -> tuple[list[float], list[float]]:
    if "edm_mean" not in checkpoint.tensors:
        return list(PLAYGROUND_MEAN), list(PLAYGROUND_STD)
    mean, std = (w.double().flatten() for w in _tensors(checkpoint, ("edm_mean", "edm_std")).values())
    if len(mean) != channels or len(std) != channels or not mean.isfinite().all() or not (std > 0).all():
        raise BaseModelError(
            f"{checkpoint.path}: edm_mean {mean.tolist()} and edm_std {std.tolist()} are not a mean and a standard "
            f"deviation above 0 of {channels} latent channels each; fetch it again"
        )
    return mean.tolist(), std.tolist()


def _tensors(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, Tensor]:
    try:
        with safe_open(checkpoint.path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as problem:
        raise BaseModelError(f"cannot read {checkpoint.path} ({problem}); fetch it again") from None


def fitted(part: str, held: Mapping[str, Tensor], module: nn.Module, path: Path) -> dict[str, Tensor]:
    """A part's tensors, by their names in the file `path`, as its module names them; nothing is read or copied twice.

    Raises BaseModelError that names the first tensor that is missing, of another shape, or one too many.
    """
    count = len(held)
    try:
        found = _named_as(module, _renamed(part, held, module))
    except KeyError as problem:
        raise BaseModelError(f"{path}: its {part} lacks {problem}; fetch it again") from None
    if part == "text_encoder_2":  # each fused projection is three
        count += 2 * sum(name.endswith((".in_proj_weight", ".in_proj_bias")) for name in held)
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in found:
            raise BaseModelError(f"{path}: its {part} has no {name}, in diffusers' words; fetch it again")
        if found[name].shape != tensor.shape:
            raise BaseModelError(
                f"{path}: {name} of its {part}, in diffusers' words, is {list(found[name].shape)}; SDXL's is "
                f"{list(tensor.shape)}; only SDXL's own architecture is a base"
            )
    if len(found) != count or len(wanted) != count:
        raise BaseModelError(
            f"{path}: its {part} has {count} tensors ({PREFIXES[part]}*), SDXL's has {len(wanted)}; only SDXL's own "
            "architecture is a base"
        )
    return found


def _renamed(part: str, held: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    converted: dict[str, Tensor]
    match part:
        case "unet":
            converted = convert_ldm_unet_checkpoint(held, module.config)
        case "vae":
            converted = convert_ldm_vae_checkpoint(held, module.config)
        case "text_encoder":
            converted = convert_ldm_clip_checkpoint(held)
        case _:
            converted = convert_open_clip_checkpoint(module, held, prefix=PREFIXES[part])
    return converted


def _named_as(module: nn.Module, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the module's names: versions of transformers differ in `text_model.` at the beginning."""
    bare = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    names = {name.removeprefix("text_model."): name for name in module.state_dict()}
    return {names.get(name, name): tensor for name, tensor in bare.items()}
