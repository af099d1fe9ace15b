"""Which bases there are, where they lie, and which family each belongs to.

A family is read from the base's own files (scheduler and VAE configuration), never guessed from its name. Imports no
torch: `plan` and `check` ask here too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lorafleet.errors import BaseModelError

Prediction = Literal["epsilon", "v_prediction", "edm"]

SHIPPED = {name: Path(__file__).parent / "toy" / "weights" / name for name in ("toy-sdxl", "toy-playground")}
HUB = {
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "playground-v2.5": "playgroundai/playground-v2.5-1024px-aesthetic",
}
LICENCES = {
    "toy-sdxl": "apache-2.0",
    "toy-playground": "apache-2.0",
    "sdxl": "openrail++",
    "playground-v2.5": "playground-v2dot5-community",
}


@dataclass(frozen=True)
class Base:
    """A base pipeline on disk in the diffusers layout.

    `name` is what the user wrote; `path` is a folder with a `model_index.json`.
    """

    name: str
    path: Path

    def config(self, part: str, file: str = "config.json") -> dict[str, Any]:
        """The JSON configuration of one part ("unet", "vae", "scheduler" ...)."""
        where = self.path / part / file
        try:
            data: dict[str, Any] = json.loads(where.read_text())
        except (OSError, ValueError) as problem:
            raise BaseModelError(
                f"base {self.name!r}: cannot read {where} ({problem}); give a diffusers folder"
            ) from None
        return data

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """The configuration of the base's own scheduler."""
        return self.config("scheduler", "scheduler_config.json")

    @cached_property
    def prediction(self) -> Prediction:
        """What the UNet predicts, by the scheduler's class and configuration."""
        if "EDM" in self.scheduler["_class_name"]:
            return "edm"
        kind = self.scheduler.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise BaseModelError(
                f"base {self.name!r}: prediction type {kind!r} is not one of epsilon, v_prediction, EDM"
            )
        return "epsilon" if kind == "epsilon" else "v_prediction"

    @cached_property
    def vae_factor(self) -> int:
        """Pixels of a side for each latent pixel."""
        return int(2 ** (len(self.config("vae")["block_out_channels"]) - 1))

    @cached_property
    def resolution(self) -> int:
        """The base's native side in pixels."""
        return int(self.config("unet")["sample_size"]) * self.vae_factor

    @property
    def is_toy(self) -> bool:
        """Whether this is one of the bases that lorafleet ships."""
        return self.path in SHIPPED.values()

    @property
    def licence(self) -> str:
        """The licence id of the base's weights, which its adapters inherit; "unknown" for a local folder."""
        return LICENCES.get(self.name, "unknown")

    @property
    def default_steps(self) -> int:
        """Denoising steps when a request names none."""
        return 25 if self.is_toy else 50

    @property
    def default_guidance(self) -> float:
        """Guidance scale when a request names none.

        3 for EDM bases (Playground's model card), 4 for toy-playground (`docs/log.md`, 2026-11-20), 5 for the others.
        """
        if self.prediction != "edm":
            return 5.0
        return 4.0 if self.is_toy else 3.0

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the weights: sha256 over the UNet's and text encoders' safetensors.

        Of each file the size and the first and last 64 KiB are hashed: the header with every name, shape and offset,
        and enough data that a fine-tuned copy differs, without reading gigabytes.
        """
        return self._hash_of("unet", "text_encoder", "text_encoder_2")

    @cached_property
    def vae_fingerprint(self) -> str:
        """Identifies what latents are made with: the VAE's safetensors as in `fingerprint`, and its configuration."""
        config = json.dumps(self.config("vae"), sort_keys=True)
        return hashlib.sha256(f"{self._hash_of('vae')}/{config}".encode()).hexdigest()[:16]

    def _hash_of(self, *parts: str) -> str:
        digest = hashlib.sha256()
        for part in parts:
            files = sorted((self.path / part).glob("*.safetensors"))
            if not files:
                raise BaseModelError(
                    f"base {self.name!r}: {self.path / part} holds no safetensors; give a diffusers folder"
                )
            for file in files:
                size = file.stat().st_size
                digest.update(f"{part}/{file.name}:{size}\n".encode())
                with file.open("rb") as stream:
                    digest.update(stream.read(65536))
                    stream.seek(max(0, size - 65536))
                    digest.update(stream.read(65536))
        return digest.hexdigest()[:16]


def find_base(name: str) -> Base:
    """Finds a base by its short name, a local folder, or a hub id already in the local Hugging Face cache.

    Nothing is downloaded. Raises BaseModelError with what to do if it is not there.
    """
    if name in SHIPPED:
        return Base(name, SHIPPED[name])
    folder = Path(name).expanduser()
    if (folder / "model_index.json").is_file():
        return Base(name, folder.resolve())
    if folder.is_dir():
        raise BaseModelError(f"base {name!r} is a folder without model_index.json; give one saved by diffusers")
    hub_id = HUB.get(name, name)
    if "/" in hub_id and not hub_id.startswith((".", "/", "~")) and (cached := _in_hub_cache(hub_id)) is not None:
        return Base(name, cached)
    known = ", ".join((*SHIPPED, *HUB))
    hint = f"; fetch it first: hf download {hub_id}" if "/" in hub_id and not hub_id.startswith(("/", ".", "~")) else ""
    raise BaseModelError(
        f"base {name!r} is not here{hint}. Allowed: {known}, a local diffusers folder, or a cached hub id"
    )


def _in_hub_cache(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub_id, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None
