"""Turns a finished job into a bundle: diffusers' own file formats, the preview, the model card, the adapter's card."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig
from PIL import Image
from safetensors.torch import save

from lorafleet import __version__
from lorafleet.bundle.adapter import factor_key
from lorafleet.bundle.bundle import EMBEDDINGS, PREVIEW, README, WEIGHTS, AdapterCard, Bundle
from lorafleet.bundle.bundle import write_bundle as write_bundle_files
from lorafleet.loaded import LoadedBase
from lorafleet.targets import ALL_LINEAR, PRESETS, TEXT, TEXT_ENCODER, UNET
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.modelcard import model_card
from lorafleet_jobs.train.prompts import triggers_of
from lorafleet_jobs.train.trainable_state import LowRank, TrainableState


def write_bundle(
    spec: JobSpec,
    loaded: LoadedBase,
    trainable: TrainableState,
    preview: Image.Image,
    metrics: dict[str, float],
    run_id: str | None,
    out: Path,
) -> Bundle:
    """Writes the bundle of a finished job to `out`, whole or not at all."""
    card = _card(spec, loaded, trainable, metrics, run_id)
    files = {WEIGHTS: lora_file(trainable, card)} if trainable.low_rank else {}
    if trainable.vectors is not None:
        clip_l, clip_g = (vectors.detach().cpu().contiguous() for vectors in trainable.vectors)
        files[EMBEDDINGS] = save({"clip_l": clip_l, "clip_g": clip_g})
    png = io.BytesIO()
    preview.save(png, "PNG")
    files[PREVIEW] = png.getvalue()
    files[README] = model_card(card, loaded.base).encode()
    return write_bundle_files(out, card, files)


def _card(
    spec: JobSpec, loaded: LoadedBase, trainable: TrainableState, metrics: dict[str, float], run_id: str | None
) -> AdapterCard:
    rank = trainable.low_rank[UNET].layout.rank if UNET in trainable.low_rank else _text_rank(trainable)
    return AdapterCard(
        name=spec.adapter,
        base=loaded.base.name,
        base_fingerprint=loaded.base.fingerprint,
        prediction=loaded.base.prediction,
        rank=rank,
        alpha=trainable.scale * rank,
        dora=spec.recipe.dora,
        targets=_targets(spec) if UNET in trainable.low_rank else (),
        text_encoder_rank=_text_rank(trainable),
        triggers=triggers_of(spec),
        class_noun=spec.class_noun,
        instance_prompt=spec.instance_prompt,
        recipe=spec.recipe.model_dump(mode="json"),
        dataset_fingerprint=spec.dataset_fingerprint,
        images=len(spec.images),
        steps=spec.steps,
        metrics=metrics,
        licence=loaded.base.licence,
        job_id=spec.id,
        run_id=run_id,
        lorafleet_version=__version__,
    )


def lora_file(trainable: TrainableState, card: AdapterCard) -> bytes:
    """The factors as diffusers writes and reads them, each part's rank and alpha in the metadata.

    rslora's scale is written as the alpha that gives it, which every reader understands. The text encoders' layers are
    called as transformers did before 5.6, with `text_model.`, which old and new diffusers read.
    """
    parts = {part: _layers(part, low) for part, low in trainable.low_rank.items()}
    configs = {part: _plain(_config(part, low, trainable.scale, card)) for part, low in trainable.low_rank.items()}
    arguments: dict[str, object] = {f"{part}_lora_layers": layers for part, layers in parts.items()}
    arguments |= {f"{part}_lora_adapter_metadata": config for part, config in configs.items()}
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionXLPipeline.save_lora_weights(folder, **arguments)
        return in_order((Path(folder) / WEIGHTS).read_bytes())


def in_order(data: bytes) -> bytes:
    """A safetensors file with its header sorted, so that the same job gives the same bytes.

    safetensors writes metadata in no fixed order.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors start at a multiple of eight bytes
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _layers(part: str, low: LowRank) -> dict[str, torch.Tensor]:
    """The factors of one part of the base by diffusers' keys."""
    tensors: dict[str, torch.Tensor] = {}
    for name, factors in low.factors().items():
        tensors[factor_key(part, name, "A")] = factors.A
        tensors[factor_key(part, name, "B")] = factors.B
        if factors.m is not None:
            tensors[factor_key(part, name, "m")] = factors.m
    return {key: tensor.detach().cpu().clone() for key, tensor in tensors.items()}


def _config(part: str, low: LowRank, scale: float, card: AdapterCard) -> LoraConfig:
    layout = low.layout
    names = [name for name, *_ in layout.layers]
    modules = list(TEXT) if part != UNET else names if card.targets == (ALL_LINEAR,) else list(card.targets)
    return LoraConfig(
        r=layout.rank, lora_alpha=scale * layout.rank, target_modules=modules, use_dora=layout.dora, lora_dropout=0.0
    )


def _targets(spec: JobSpec) -> tuple[str, ...]:
    targets = spec.recipe.targets
    return PRESETS.get(targets, (targets,)) if isinstance(targets, str) else targets


def _text_rank(trainable: TrainableState) -> int:
    return trainable.low_rank[TEXT_ENCODER].layout.rank if TEXT_ENCODER in trainable.low_rank else 0


def _plain(config: LoraConfig) -> dict[str, object]:
    """PEFT's configuration in JSON's types, without the keys that are at their defaults."""
    keys = ("r", "lora_alpha", "target_modules", "lora_dropout", "use_rslora", "use_dora", "bias", "init_lora_weights")
    data = {key: value for key, value in config.to_dict().items() if key in keys}
    data["target_modules"] = sorted(data["target_modules"])
    json.dumps(data)  # fail here rather than inside a file
    return data
