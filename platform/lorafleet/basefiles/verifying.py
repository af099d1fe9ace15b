"""Whether a base's weights can be trusted: every tensor read, finite and of its module's shape, every file as recorded.

Knows a base's folder, its record and diffusers' classes. Refuses to repair anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorafleet.bases import WEIGHED, Base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.errors import BaseModelError


@dataclass(frozen=True)
class Verified:
    """What was found."""

    tensors: int
    problems: tuple[str, ...]
    hashed: bool
    """Whether there was a record to compare the files with."""


def verify_base(base: Base) -> Verified:
    """Reads every tensor of a base; what is wrong is listed, one line each.

    Raises BaseModelError if its record cannot be read.
    """
    record, count, problems = base.record, 0, []
    if record is not None:
        problems += list(_altered(base, record.sha256))
    for part in (*WEIGHED, "vae"):
        try:
            wanted = _shapes(_module(part, base.config(part)))
            found = {_plain(name): stored for name, stored in base.tensors(part).items() if not _is_ignored(name)}
        except BaseModelError as problem:
            problems.append(str(problem))
            continue
        for name in sorted(wanted.keys() | found.keys()):
            shape = found[name].shape if name in found else None
            if shape != wanted.get(name):
                must = _said(wanted.get(name))
                problems.append(f"{part}: {name} is {_said(shape)}; by its configuration it is {must}")
        count += len(found)
        problems += list(_not_finite(base, part))
    return Verified(count, tuple(problems), record is not None)


def _altered(base: Base, hashes: Mapping[str, str]) -> Iterator[str]:
    for name, digest in hashes.items():
        path = base.path / name
        if not path.is_file():
            yield f"{name} is not there any more"
        elif sha256_of(path) != digest:
            yield f"{name} is not what it was when the base was added"


def _not_finite(base: Base, part: str) -> Iterator[str]:
    for path in base.files(part).paths:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 a safetensors file is no mapping
                    tensor = file.get_tensor(name)
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        yield f"{part}: {name} holds a value that is not finite"
        except (OSError, SafetensorError) as problem:
            yield f"{part}: cannot read {path} ({problem})"


def _module(part: str, config: dict[str, Any]) -> nn.Module:
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    encoders = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    module: nn.Module
    with torch.device("meta"):
        if part in encoders:
            module = encoders[part](CLIPTextConfig.from_dict(own))
        else:
            module = (UNet2DConditionModel if part == "unet" else AutoencoderKL).from_config(own)
    return module


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {_plain(name): tuple(w.shape) for name, w in module.state_dict().items() if not _is_ignored(name)}


def _plain(name: str) -> str:
    return name.removeprefix("text_model.")


def _is_ignored(name: str) -> bool:
    return name.endswith("position_ids")  # which some versions of transformers save


def _said(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))
