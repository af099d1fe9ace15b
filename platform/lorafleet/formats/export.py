"""A bundle in the file formats of other programs, written straight from its tensors.

kohya's names are read by sd-scripts' relatives: A1111, Forge, ComfyUI, and by diffusers. Knows names, alphas and where
each program looks for its files; refuses to know training. Nothing is resampled or rounded: what is written has the
bundle's own weight deltas.

    <out>/loras/<adapter>.safetensors             lora_unet_*, lora_te1_*, lora_te2_*
          embeddings/<adapter>.safetensors        clip_l, clip_g of TOK, one file for each abstraction, since these
                     <adapter>-TOK2.safetensors   programs read one trigger a file and insert all of its rows

DoRA's magnitude is written as `dora_scale` [out, 1] ([out, 1, 1, 1] of a convolution), one value for each output, as
PEFT and LyCORIS (`wd_on_output`) take it. Not every reader does (`DORA_READERS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from lorafleet.bundle.adapter import ENDINGS, Kind
from lorafleet.bundle.bundle import EMBEDDINGS, PREVIEW, README, WEIGHTS, Bundle
from lorafleet.errors import BundleError
from lorafleet.targets import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from lorafleet.util.files import write_whole

PREFIXES = {UNET: "lora_unet_", TEXT_ENCODER: "lora_te1_text_model_", TEXT_ENCODER_2: "lora_te2_text_model_"}
KOHYA_ENDINGS: dict[Kind, str] = {"A": "lora_down.weight", "B": "lora_up.weight", "m": "dora_scale"}
RENAMED = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
"""UNet layers that no reader knows by diffusers' name, by that of the original implementation."""
DORA_READERS = (
    "DoRA: diffusers leaves dora_scale out of kohya files (export --format diffusers for it); A1111 and ComfyUI as of "
    "August 2026 norm it in ways of their own, so compare a picture there with preview.png"
)


def export_kohya(bundle: Bundle, out: Path) -> list[Path]:
    """Writes the LoRA and each abstraction's embedding under kohya's names; returns the files. Raises BundleError."""
    written = []
    weights = bundle.weights()
    if weights:
        tensors = kohya_tensors(weights, bundle.card.scale)
        written.append(_save(tensors, out / "loras" / f"{bundle.card.name}.safetensors", _metadata(bundle)))
    for name, vectors in embedding_files(bundle).items():
        written.append(_save(vectors, out / "embeddings" / f"{name}.safetensors"))
    return written


def export_diffusers(bundle: Bundle, out: Path) -> list[Path]:
    """Copies the files that diffusers reads, and the model card that says how; returns them."""
    wanted = [name for name in (WEIGHTS, EMBEDDINGS, README, PREVIEW) if name in bundle.card.sha256]
    for name in wanted:
        write_whole(out / name, (bundle.path / name).read_bytes())
    return [out / name for name in wanted]


FORMATS = {"kohya": export_kohya, "diffusers": export_diffusers}


def kohya_tensors(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A bundle's tensors under kohya's names, with the alpha [] that gives `scale` at each layer's own rank."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        module, kind = kohya_name(key)
        tensors[f"{module}.{KOHYA_ENDINGS[kind]}"] = _by_output(tensor) if kind == "m" else tensor
        if kind == "A":
            tensors[f"{module}.alpha"] = torch.tensor(scale * tensor.shape[0], dtype=torch.float32)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _by_output(m: Tensor) -> Tensor:
    """A magnitude with its outputs first, from PEFT's [out] or [1, out, 1, 1]."""
    return m[:, None] if m.dim() == 1 else m.transpose(0, 1)


def kohya_name(key: str) -> tuple[str, Kind]:
    """A diffusers key's module as kohya writes it, and what the tensor is; BundleError if it is no LoRA."""
    part, _, rest = key.partition(".")
    for ending, kind in ENDINGS.items():
        if part in PREFIXES and rest.endswith(ending):
            layer = rest.removesuffix(ending).removeprefix("text_model.")  # versions of transformers differ in it
            return PREFIXES[part] + RENAMED.get(layer, layer).replace(".", "_"), kind
    raise BundleError(f"{key!r} has no name in kohya's format; LoRA and DoRA of UNet and text encoders are exported")


def embedding_files(bundle: Bundle) -> dict[str, dict[str, Tensor]]:
    """`clip_l` and `clip_g` by file name without ending: the first abstraction has the adapter's, others add theirs."""
    vectors = bundle.embeddings()
    files: dict[str, dict[str, Tensor]] = {}
    for trigger in bundle.card.triggers:
        if trigger.tokens:
            name = bundle.card.name if not files else f"{bundle.card.name}-{trigger.abstraction}"
            files[name] = {key: rows[list(trigger.tokens)].contiguous() for key, rows in vectors.items()}
    return files


def _metadata(bundle: Bundle) -> dict[str, str]:
    """What A1111 needs to know an SDXL file by, and kohya's own facts; diffusers' would contradict the alphas."""
    card = bundle.card
    return {
        "ss_base_model_version": "sdxl_base_v1-0",  # the architecture; every base has it
        "ss_sd_model_name": card.base,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(card.rank),
        "ss_network_alpha": f"{card.alpha:g}",
        "ss_output_name": card.name,
    }


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Writes a safetensors file whole or not at all: other programs may be watching the folder."""
    write_whole(path, save(dict(tensors), metadata))
    return path
