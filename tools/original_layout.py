"""Writes a base of the diffusers layout as one file in the original key layout, as checkpoints of SDXL are passed on.

    python tools/original_layout.py FOLDER FILE [--prediction v-zero-snr]

The inverse of what `lorafleet bases add` does, for tests and for taking a base to other programs. Knows the names of
both layouts; refuses to know what the numbers are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorafleet.bases import Base

RESNET = {
    "norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.", "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection.",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.", "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
}  # fmt: skip
VAE = {
    "conv_shortcut.": "nin_shortcut.", "conv_norm_out.": "norm_out.", "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.", "mid_block.attentions.0.": "mid.attn_1.", "group_norm.": "norm.",
    "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out.",
    "downsamplers.0.conv.": "downsample.conv.", "upsamplers.0.conv.": "upsample.conv.",
}  # fmt: skip
OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.", "layer_norm1.": "ln_1.", "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.", "mlp.fc2.": "mlp.c_proj.", "self_attn.out_proj.": "attn.out_proj.",
    "embeddings.token_embedding.": "token_embedding.", "final_layer_norm.": "ln_final.",
}  # fmt: skip


def original_tensors(base: Base, prediction: str | None = None) -> dict[str, Tensor]:
    """All of a base's weights under the original names; with the markers of what the UNet predicts.

    `prediction` is v, v-zero-snr or edm; by default edm for a base of that family, else none is marked.
    """
    read = {part: _read(base, part) for part in ("unet", "text_encoder", "text_encoder_2", "vae")}
    return {**renamed(read, base), **_markers(base, prediction)}


def renamed(read: Mapping[str, Mapping[str, Tensor]], base: Base) -> dict[str, Tensor]:
    """The tensors of the four parts under the original names."""
    unet = {"model.diffusion_model." + _unet_name(name, base): w for name, w in read["unet"].items()}
    vae = {"first_stage_model." + k: w for k, w in _vae(read["vae"], len(base.config("vae")["block_out_channels"]))}
    small = {f"conditioner.embedders.0.transformer.text_model.{_bare(k)}": w for k, w in read["text_encoder"].items()}
    large = {f"conditioner.embedders.1.model.{k}": w for k, w in _open_clip(read["text_encoder_2"])}
    return {**unet, **small, **large, **vae}


def write_original(base: Base, file: Path, prediction: str | None = None, **metadata: str) -> Path:
    """Writes them to a file with some metadata, and returns the file."""
    tensors = {name: tensor.contiguous() for name, tensor in original_tensors(base, prediction).items()}
    save_file(tensors, file, {"format": "pt", **metadata})
    return file


def _read(base: Base, part: str) -> dict[str, Tensor]:
    return {name: tensor for path in base.files(part).paths for name, tensor in load_file(path).items()}


def _bare(name: str) -> str:
    return name.removeprefix("text_model.")


def _markers(base: Base, prediction: str | None) -> dict[str, Tensor]:
    prediction = prediction or ("edm" if base.prediction == "edm" else None)
    if prediction == "edm":
        vae = base.config("vae")
        column = {"edm_mean": vae["latents_mean"], "edm_std": vae["latents_std"]}
        return {name: torch.tensor(values).view(1, -1, 1, 1) for name, values in column.items()}
    names = {None: [], "v": ["v_pred"], "v-zero-snr": ["v_pred", "ztsnr"]}[prediction]
    return {name: torch.zeros(0) for name in names}


def _unet_name(name: str, base: Base) -> str:
    for new, old in UNET.items():
        if name.startswith(new):
            return old + name.removeprefix(new)
    each = base.config("unet")["layers_per_block"] + 1
    block, *rest = name.split(".")
    if block == "mid_block":
        kind, i, *rest = rest
        where = f"middle_block.{1 if kind == 'attentions' else 2 * int(i)}"
        return f"{where}.{_inside(kind, '.'.join(rest))}"
    i, kind, j, *rest = rest
    end = ".".join(rest)
    if block == "down_blocks":
        at = each * int(i) + int(j) + 1
        if kind == "downsamplers":
            return f"input_blocks.{each * (int(i) + 1)}.0.op.{end.removeprefix('conv.')}"
        return f"input_blocks.{at}.{int(kind == 'attentions')}.{_inside(kind, end)}"
    if kind == "upsamplers":
        attends = base.config("unet")["up_block_types"][int(i)].startswith("CrossAttn")
        return f"output_blocks.{each * (int(i) + 1) - 1}.{1 + attends}.{end}"
    return f"output_blocks.{each * int(i) + int(j)}.{int(kind == 'attentions')}.{_inside(kind, end)}"


def _inside(kind: str, name: str) -> str:
    return _translated(name, RESNET) if kind == "resnets" else name


def _translated(name: str, words: Mapping[str, str]) -> str:
    for new, old in words.items():
        name = name.replace(new, old)
    return name


def _vae(tensors: Mapping[str, Tensor], levels: int) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        side, _, rest = name.partition(".")
        word, _, tail = rest.partition(".")
        if word in ("down_blocks", "up_blocks"):
            level, _, tail = tail.partition(".")
            at = int(level) if word == "down_blocks" else levels - 1 - int(level)
            rest = f"{word.removesuffix('_blocks')}.{at}.{tail.replace('resnets.', 'block.')}"
        old = f"{side}.{_translated(rest, VAE)}"
        linear = ".mid.attn_1." in old and tensor.ndim == 2  # 1x1 convolutions in the original
        yield old, tensor[:, :, None, None] if linear else tensor


def _open_clip(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        bare = _bare(name)
        if bare == "text_projection.weight":
            yield "text_projection", tensor.T
        elif bare == "embeddings.position_embedding.weight":
            yield "positional_embedding", tensor
        elif ".self_attn.q_proj." in bare:
            fused = torch.cat([tensors[name.replace("q_proj", kind)] for kind in ("q_proj", "k_proj", "v_proj")])
            yield _translated(bare, OPEN_CLIP).replace("self_attn.q_proj.", "attn.in_proj_"), fused
        elif ".self_attn.k_proj." not in bare and ".self_attn.v_proj." not in bare:
            yield _translated(bare, OPEN_CLIP), tensor


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--prediction", choices=("v", "v-zero-snr", "edm"))
    asked = parser.parse_args()
    write_original(Base(str(asked.folder), asked.folder), asked.file, asked.prediction)


if __name__ == "__main__":
    main()
