"""Turns a finished job into a bundle: diffusers' own file formats, the preview, the model card, the adapter's card."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig
from safetensors.torch import save

from lorafleet import __version__
from lorafleet.bundle import EMBEDDINGS, PREVIEW, README, WEIGHTS, AdapterCard, Bundle, write_bundle
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.rowlora import TARGETS
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.learned import Learned
from lorafleet_jobs.train.modelcard import model_card
from lorafleet_jobs.train.prompts import triggers_of
from lorafleet_jobs.train.validate import Validator


def publishable(
    spec: JobSpec,
    loaded: LoadedBase,
    learned: Learned,
    validator: Validator,
    metrics: dict[str, float],
    run_id: str | None,
    out: Path,
) -> Bundle:
    """Writes the bundle of a finished job to `out`, whole or not at all."""
    card = AdapterCard(
        name=spec.adapter,
        base=loaded.base.name,
        base_fingerprint=loaded.base.fingerprint,
        prediction=loaded.base.prediction,
        rank=spec.recipe.rank,
        alpha=spec.recipe.scale() * spec.recipe.rank,
        targets=TARGETS[spec.recipe.targets],
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
    files = {WEIGHTS: lora_file(learned, card)}
    if learned.vectors is not None:
        one, two = (vectors.detach().cpu().contiguous() for vectors in learned.vectors)
        files[EMBEDDINGS] = save({"clip_l": one, "clip_g": two})
    preview = io.BytesIO()
    validator.preview().save(preview, "PNG")
    files[PREVIEW] = preview.getvalue()
    files[README] = model_card(card, loaded.base).encode()
    return write_bundle(out, card, files)


def lora_file(learned: Learned, card: AdapterCard) -> bytes:
    """The factors as diffusers writes and reads them, rank and alpha in the metadata."""
    config = LoraConfig(r=card.rank, lora_alpha=card.alpha, target_modules=list(card.targets), lora_dropout=0.0)
    layers: dict[str, torch.Tensor] = {}
    for name, factors in learned.factors().items():
        layers[f"{name}.lora_A.weight"] = factors.A.detach().cpu().contiguous()
        layers[f"{name}.lora_B.weight"] = factors.B.detach().cpu().contiguous()
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionXLPipeline.save_lora_weights(
            folder, unet_lora_layers=layers, unet_lora_adapter_metadata=_plain(config)
        )
        return (Path(folder) / WEIGHTS).read_bytes()


def _plain(config: LoraConfig) -> dict[str, object]:
    """PEFT's configuration in JSON's types, without what says nothing."""
    keys = ("r", "lora_alpha", "target_modules", "lora_dropout", "use_rslora", "use_dora", "bias", "init_lora_weights")
    data = {key: value for key, value in config.to_dict().items() if key in keys}
    data["target_modules"] = sorted(data["target_modules"])
    json.dumps(data)  # fail here rather than inside a file
    return data
