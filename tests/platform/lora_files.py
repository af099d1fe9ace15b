"""LoRA files as other programs write them, and the weight deltas that stock diffusers and an import read from them."""

from __future__ import annotations

import json
import re

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

from lorafleet.bases import find_base
from lorafleet.bundle.adapter import load_adapter
from lorafleet.bundle.bundle import read_bundle
from lorafleet.formats.importing import Import, make_bundle
from lorafleet.targets import PARTS, PRESETS, UNET, select

BASE = find_base("toy-sdxl")
CONVOLUTIONS = ("conv1", "conv_shortcut", "downsamplers.0.conv", "conv_in", "proj_in", "time_emb_proj")


def pairs(warm, targets=PRESETS["attn"], text=False, dora=False, ranks=(4,)):
    """Random factors under PEFT's names, the layers' ranks in turn."""
    draws, tensors, i = torch.Generator().manual_seed(5), {}, 0
    for part in PARTS if text else (UNET,):
        before, m = (f"{part}.", "lora_magnitude_vector")
        if part != UNET:
            before, m = f"{part}.text_model.", "lora_magnitude_vector.weight"
        layers = warm.lora[part].layers
        for name in select(layers, targets) if part == UNET else layers:
            W, r = layers[name].base.weight, ranks[i % len(ranks)]
            ones, i = [1] * (W.dim() - 2), i + 1
            tensors[f"{before}{name}.lora_A.weight"] = torch.randn(r, *W.shape[1:], generator=draws) * 0.1
            tensors[f"{before}{name}.lora_B.weight"] = torch.randn(W.shape[0], r, *ones, generator=draws) * 0.1
            if dora:
                tensors[f"{before}{name}.{m}"] = W.flatten(1).norm(dim=1).view(*ones[:1], -1, *ones) * 1.1
    return tensors


def written(folder, tensors, metadata=None, name="style.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    plain = None if metadata is None else {"lora_adapter_metadata": json.dumps(metadata)}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name, plain)
    return folder / name


def own(file, warm, folder, **more):
    """By part and layer, what the imported bundle adds to each weight; and the bundle."""
    bundle = make_bundle(Import(file=file, name="style", base="toy-sdxl", **more), folder / "bundles").write()
    return deltas_of(read_bundle(bundle.path), warm), bundle


def deltas_of(bundle, warm):
    """By part and layer, what a bundle adds to each weight."""
    adapter = load_adapter(bundle, warm)
    return {(part, name): f.B @ f.A for part, layers in adapter.parts.items() for name, f in layers.items()}


def stock(file):
    """The same as stock diffusers reads the file."""
    pipe = StableDiffusionXLPipeline.from_pretrained(BASE.path, dtype=torch.float32)
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    found = {}
    for part in PARTS:
        for name, module in getattr(pipe, part).named_modules():
            for adapter in getattr(module, "lora_A", {}):
                A, B = (getattr(module, f"lora_{k}")[adapter].weight.detach().flatten(1) for k in "AB")
                layer = name.removeprefix("text_model.").removesuffix(".base_layer")
                found[part, layer] = B @ A * module.scaling[adapter]
    return found


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for place, delta in ours.items():
        torch.testing.assert_close(theirs[place], delta, rtol=1e-5, atol=1e-6)
        assert delta.abs().max() > 0


def sgm_name(layer, per_block):
    """A UNet layer as the original implementation calls it, after kohya's conversion table."""
    fixed = {
        "conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }  # fmt: skip
    if layer in fixed:
        return fixed[layer]
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", layer):
        kind, j, rest = match.groups()
        head = f"middle_block.{2 * int(j) if kind == 'resnets' else 1}"
    else:
        way, i, kind, j, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", layer).groups()
        first = int(i) * (per_block + 1) + (way == "down")
        if kind == "downsamplers":
            return f"input_blocks.{first + per_block}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{first + per_block}.2.conv"
        head = f"{'in' if way == 'down' else 'out'}put_blocks.{first + int(j)}.{int(kind == 'attentions')}"
    inner = {
        "conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }  # fmt: skip
    return f"{head}.{inner.get(rest, rest)}"


def imported(file, folder, **more):
    return make_bundle(Import(file=file, name="style", base="toy-sdxl", **more), folder)
