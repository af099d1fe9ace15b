"""A VAE in place of a base's own: one of the same latents, such as SDXL's that was made to run in fp16.

Knows a VAE's folder in the diffusers layout and when two VAEs share a latent space. Imports no torch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from lorafleet.errors import BaseModelError
from lorafleet.weights import DIFFUSERS, part_files, tensors_of

_ONCE = {"query.": "to_q.", "key.": "to_k.", "value.": "to_v.", "proj_attn.": "to_out.0."}
"""What diffusers called attention's layers until 2023."""


@dataclass(frozen=True)
class OwnVae:
    """What is to be replaced: the VAE of a base."""

    of: str
    """How messages call the base."""
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]


def find_vae(asked: str) -> Path:
    """The folder of a VAE in the diffusers layout: a path, a pipeline's folder, or a hub id that was fetched.

    Raises BaseModelError.
    """
    for folder in (Path(asked).expanduser(), Path(asked).expanduser() / "vae"):
        if (folder / "config.json").is_file():
            return folder.resolve()
    try:
        cached = try_to_load_from_cache(asked, "config.json")
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        return Path(cached).parent
    raise BaseModelError(
        f"--vae {asked} is no folder with a VAE's config.json and {DIFFUSERS}.safetensors; fetch one, as in: "
        "hf download madebyollin/sdxl-vae-fp16-fix"
    )


def check_vae(folder: Path, own: OwnVae) -> None:
    """Raises BaseModelError unless the VAE in a folder can stand for a base's own: of the same latents and shapes."""
    config = _config(folder)
    if own.config.get("latents_mean") is not None or own.config.get("latents_std") is not None:
        raise BaseModelError(
            f"the VAE of {own.of} carries the mean and std of its latents (latents_mean, latents_std), as Playground "
            "v2.5's does: its UNet knows no other VAE's; leave --vae out"
        )
    kind, factor, wanted = config.get("_class_name"), config.get("scaling_factor"), own.config["scaling_factor"]
    if kind != "AutoencoderKL" or factor != wanted or config.get("latents_mean") is not None:
        raise BaseModelError(
            f"{folder} is {kind} with scaling_factor {factor}, and that of {own.of} is AutoencoderKL with {wanted}: "
            "its latents are another model's; give a VAE that was made for SDXL"
        )
    shapes = {_name(name): stored.shape for name, stored in tensors_of(part_files(folder, DIFFUSERS)).items()}
    odd = {name for name in shapes.keys() | own.shapes.keys() if shapes.get(name) != own.shapes.get(name)}
    # linear layers of attention were 1x1 convolutions once
    odd = {name for name in odd if _squeezed(shapes.get(name)) != _squeezed(own.shapes.get(name))}
    if odd:
        first = min(odd)
        raise BaseModelError(
            f"{folder} does not fit: its {first} is {shapes.get(first)}, and that of {own.of} is "
            f"{own.shapes.get(first)}; give a VAE of the same architecture"
        )


def put_vae(folder: Path, target: Path) -> None:
    """Makes `target` the VAE's folder: its configuration and the files that are loaded, linked where possible."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in (*folder.glob("*.json"), *part_files(folder, DIFFUSERS).paths):
        link(path, target / path.name)


def link(path: Path, target: Path) -> None:
    """A second name for a file's contents, or a copy on another file system."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def _config(folder: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as problem:
        raise BaseModelError(f"cannot read {folder / 'config.json'} ({problem}); fetch the VAE again") from None
    return told


def _name(name: str) -> str:
    for once, now in _ONCE.items():
        name = name.replace(f"attentions.0.{once}", f"attentions.0.{now}")
    return name


def _squeezed(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    return shape[:2] if shape is not None and shape[2:] == (1, 1) else shape
