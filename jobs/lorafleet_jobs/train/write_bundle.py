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
from lorafleet.bundle.bundle import EMBEDDINGS, PREVIEW, README, WEIGHTS, AdapterCard, Bundle, write_bundle
from lorafleet.loaded import LoadedBase
from lorafleet.targets import ALL_LINEAR, PRESETS, TEXT, TEXT_ENCODER, UNET
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.learned import LowRank, TrainableState
from lorafleet_jobs.train.modelcard import model_card
from lorafleet_jobs.train.prompts import triggers_of


def publishable(
    spec: JobSpec,
    loaded: LoadedBase,
    learned: TrainableState,
    preview: Image.Image,
    metrics: dict[str, float],
    run_id: str | None,
    out: Path,
) -> Bundle:
    """Writes the bundle of a finished job to `out`, whole or not at all."""
    card = _card(spec, loaded, learned, metrics, run_id)
    files = {WEIGHTS: lora_file(learned, card)} if learned.low_rank else {}
    if learned.vectors is not None:
        one, two = (vectors.detach().cpu().contiguous() for vectors in learned.vectors)
        files[EMBEDDINGS] = save({"clip_l": one, "clip_g": two})
    png = io.BytesIO()
    preview.save(png, "PNG")
    files[PREVIEW] = png.getvalue()
    files[README] = model_card(card, loaded.base).encode()
    return write_bundle(out, card, files)


def _card(
    spec: JobSpec, loaded: LoadedBase, learned: TrainableState, metrics: dict[str, float], run_id: str | None
) -> AdapterCard:
    rank = learned.low_rank[UNET].rank if UNET in learned.low_rank else _text_rank(learned)
    return AdapterCard(
        name=spec.adapter,
        base=loaded.base.name,
        base_fingerprint=loaded.base.fingerprint,
        prediction=loaded.base.prediction,
        rank=rank,
        alpha=learned.scale * rank,
        dora=spec.recipe.dora,
        targets=_targets(spec) if UNET in learned.low_rank else (),
        text_encoder_rank=_text_rank(learned),
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


def lora_file(learned: TrainableState, card: AdapterCard) -> bytes:
    """The factors as diffusers writes and reads them, each part's rank and alpha in the metadata.

    rslora's scale is written as the alpha that gives it, which every reader understands. The text encoders' layers are
    called as transformers did before 5.6, with `text_model.`, which old and new diffusers read.
    """
    parts = {part: _layers(part, low) for part, low in learned.low_rank.items()}
    configs = {part: _plain(_config(part, low, learned.scale, card)) for part, low in learned.low_rank.items()}
    given: dict[str, object] = {f"{part}_lora_layers": layers for part, layers in parts.items()}
    given |= {f"{part}_lora_adapter_metadata": config for part, config in configs.items()}
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionXLPipeline.save_lora_weights(folder, **given)
        return in_order((Path(folder) / WEIGHTS).read_bytes())


def in_order(data: bytes) -> bytes:
    """A safetensors file with its header sorted, so that the same job gives the same bytes.

    The library writes metadata in an order of chance.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors start at a multiple of eight bytes
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _layers(part: str, low: LowRank) -> dict[str, torch.Tensor]:
    """Tensors by key."""
    found: dict[str, torch.Tensor] = {}
    for name, factors in low.factors().items():
        found[factor_key(part, name, "A")] = factors.A
        found[factor_key(part, name, "B")] = factors.B
        if factors.m is not None:
            found[factor_key(part, name, "m")] = factors.m
    return {key: tensor.detach().cpu().clone() for key, tensor in found.items()}


def _config(part: str, low: LowRank, scale: float, card: AdapterCard) -> LoraConfig:
    modules = list(TEXT) if part != UNET else list(low.layers) if card.targets == (ALL_LINEAR,) else list(card.targets)
    return LoraConfig(
        r=low.rank, lora_alpha=scale * low.rank, target_modules=modules, use_dora=low.dora, lora_dropout=0.0
    )


def _targets(spec: JobSpec) -> tuple[str, ...]:
    targets = spec.recipe.targets
    return PRESETS.get(targets, (targets,)) if isinstance(targets, str) else targets


def _text_rank(learned: TrainableState) -> int:
    return learned.low_rank[TEXT_ENCODER].rank if TEXT_ENCODER in learned.low_rank else 0


def _plain(config: LoraConfig) -> dict[str, object]:
    """PEFT's configuration in JSON's types, without what says nothing."""
    keys = ("r", "lora_alpha", "target_modules", "lora_dropout", "use_rslora", "use_dora", "bias", "init_lora_weights")
    data = {key: value for key, value in config.to_dict().items() if key in keys}
    data["target_modules"] = sorted(data["target_modules"])
    json.dumps(data)  # fail here rather than inside a file
    return data
