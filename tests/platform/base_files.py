"""What tests of checkpoints share: the toy bases as one file each, changed files, and pictures of a base."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorafleet.basefiles.from_checkpoint import add_checkpoint
from lorafleet.bases import Base, find_base
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet.pictures import sample_pictures
from original_layout import original_tensors, write_original

TOYS = ("toy-sdxl", "toy-playground")


def add_toy(name: str, home: Home, prediction: str | None = None, toy: str = "toy-sdxl", **metadata: str) -> Base:
    """A toy base that was passed on as one file, added under a name and found again."""
    file = write_original(find_base(toy), home.root.parent / f"{name}.safetensors", prediction, **metadata)
    add_checkpoint(file, name, home)
    return find_base(name, home=home)


def altered(folder: Path, change: dict[str, Tensor | None], metadata: dict[str, str] | None = None) -> Path:
    """toy-sdxl as one file with some tensors replaced, added or, where None, removed."""
    tensors = original_tensors(find_base("toy-sdxl")) | change
    file = folder / "altered.safetensors"
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, file, {"format": "pt", **(metadata or {})})
    return file


def with_variants(folder: Path, plain: bool, fp16: bool) -> Base:
    """toy-sdxl's own weights as files without a variant, and others, of another base, as the variant fp16."""
    for part in filter(Path.is_file, find_base("toy-sdxl").path.rglob("*")):
        copy = folder / part.relative_to(find_base("toy-sdxl").path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if part.suffix != ".safetensors" or plain:
            copy.write_bytes(part.read_bytes())
        if part.suffix == ".safetensors" and fp16:
            moved = {name: tensor * 1.03 for name, tensor in load_file(part).items()}
            save_file(moved, copy.with_name(f"{part.stem}.fp16.safetensors"))
    return find_base(str(folder))


def other_vae(folder: Path, toy: str = "toy-sdxl", **config: object) -> Path:
    """A VAE like a toy base's, fine-tuned a little, with some of its configuration changed."""
    source, folder = find_base(toy), folder / "other vae"
    folder.mkdir()
    moved = {name: tensor * 1.02 for name, tensor in load_file(source.files("vae").paths[0]).items()}
    save_file(moved, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps({**source.config("vae"), **config}))
    return folder


@torch.no_grad()
def pictures(base: Base, seeds: tuple[int, ...] = (1, 2), steps: int = 6, guidance: float = 4.0) -> Tensor:
    """Pictures of a prompt, by the base's own sampler."""
    loaded = LoadedBase.load(base)
    positive = loaded.prompts.encode(loaded.prompts.token_ids(["a photo of a red dog on the beach!"]))
    negative = loaded.unconditional(1)
    rows = [sample_pictures(loaded, positive, negative, [seed], steps=steps, guidance=guidance) for seed in seeds]
    return torch.cat(rows)
