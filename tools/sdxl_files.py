"""SDXL as a folder in the diffusers layout whose weights are holes: for what reads sizes and configurations only.

The files have the names, shapes and sizes of the real ones and take no room on a disk; every weight is zero.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lorafleet.bases import Base, find_base
from sdxl_random import UNET, VAE, text_configs


def sdxl_folder(folder: Path) -> Base:
    """Writes the folder, with the toy base's scheduler and tokenizers, and returns it as a base."""
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(find_base("toy-sdxl").path, folder, ignore=weights, dirs_exist_ok=True)
    small, large = text_configs()
    with torch.device("meta"):
        _write(folder / "unet", UNet2DConditionModel(**UNET), dict(UNET), "diffusion_pytorch_model")
        _write(folder / "vae", AutoencoderKL(**VAE), dict(VAE), "diffusion_pytorch_model")
        _write(folder / "text_encoder", CLIPTextModel(small), small.to_dict(), "model")
        _write(folder / "text_encoder_2", CLIPTextModelWithProjection(large), large.to_dict(), "model")
    return Base(str(folder), folder)


def _write(part: Path, module: Any, config: dict[str, Any], stem: str) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in module.state_dict().items():
        start, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (part / f"{stem}.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (part / "config.json").write_text(json.dumps(config, default=str))
