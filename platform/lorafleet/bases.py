"""Which bases there are, where they lie, and which family each belongs to.

A family is read from the base's own files (scheduler and VAE configuration), never guessed from its name; two bases are
the same if the values of their weights are. Imports no torch, because `plan` and `check` use it too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lorafleet.base_record import BaseRecord, read_record, readme_licence
from lorafleet.config.wording import NAME_PATTERN
from lorafleet.errors import BaseModelError
from lorafleet.home import Home
from lorafleet.weights import (
    DIFFUSERS,
    TRANSFORMERS,
    PartFiles,
    Stored,
    choice_of,
    headers_digest,
    part_files,
    tensors_of,
    values_digest,
)

Prediction = Literal["epsilon", "v_prediction", "edm"]

SHIPPED = {name: Path(__file__).parent / "toy" / "weights" / name for name in ("toy-sdxl", "toy-playground")}
HUB = {
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "playground-v2.5": "playgroundai/playground-v2.5-1024px-aesthetic",
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
WEIGHED = ("unet", *TEXT_ENCODERS)
"""The parts whose weights adapters depend on."""
VALUES = "v2-"
"""The beginning of fingerprints that are made of values; older ones were made of files."""
LICENCES = {
    "toy-sdxl": "apache-2.0",
    "toy-playground": "apache-2.0",
    "sdxl": "openrail++",
    "playground-v2.5": "playground-v2dot5-community",
}


@dataclass(frozen=True)
class Base:
    """A base pipeline on disk in the diffusers layout.

    `name` is its short name, its hub id, the name it was added under, or the whole path of its folder, by which it is
    found from anywhere; `path` is a folder with a `model_index.json`.
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

    @cached_property
    def record(self) -> BaseRecord | None:
        """What was noted when the base was added; None for one that lies elsewhere. Raises BaseModelError."""
        return read_record(self.path)

    @cached_property
    def licence(self) -> str:
        """The licence of the base's weights, which its adapters inherit: as known, recorded or in its README.

        "unknown" if nothing says it.
        """
        if self.record is not None:
            return self.record.licence
        return LICENCES.get(self.name) or readme_licence(self.path) or "unknown"

    @property
    def default_steps(self) -> int:
        """Denoising steps when a request names none."""
        return 25 if self.is_toy else 50

    @property
    def default_guidance(self) -> float:
        """Guidance scale with the base's own sampler."""
        return self.guidance_with("edm-euler" if self.scheduler["_class_name"] == "EDMEulerScheduler" else "")

    def guidance_with(self, sampler: str) -> float:
        """Guidance scale with a sampler, when a request names none.

        EDM bases 3, with edm-euler 5 (Playground's model card), toy-playground 4 (`docs/log.md`, 2026-11-20), others 5.
        """
        if self.prediction != "edm":
            return 5.0
        if self.is_toy:
            return 4.0
        return 5.0 if sampler == "edm-euler" else 3.0

    def files(self, part: str) -> PartFiles:
        """The files that a part (unet, vae, text_encoder, text_encoder_2) is loaded from. Raises BaseModelError."""
        return part_files(self.path / part, TRANSFORMERS if part in TEXT_ENCODERS else DIFFUSERS)

    def tensors(self, part: str) -> dict[str, Stored]:
        """The tensors of a part's files by name: their dtypes, shapes and positions in the files."""
        return tensors_of(self.files(part))

    @cached_property
    def files_choice(self) -> str:
        """Which variants it is loaded from, in words; "" if its files have none. Raises BaseModelError."""
        return choice_of({part: self.files(part) for part in (*WEIGHED, "vae")})

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the weights of the UNet and the text encoders that are loaded, by their values.

        Of every tensor the name, the shape and up to 192 values are hashed, rounded to fp16: some 2400 tensors and one
        MiB of SDXL's 7 GB. So fp32 and fp16 copies, shards and one file, and whatever else lies in the folder make no
        difference. Fine-tuning does, however small the step: it moves every tensor that it trains, and among the
        thousands of sampled values some cross a rounding boundary. What changes no more than a few rows of one tensor
        (one token's vector) may go unseen. A bf16 copy is another base: what its rounding took away cannot be had back.
        """
        digest = hashlib.sha256(b"".join(values_digest(self.tensors(part), as_fp16=True) for part in WEIGHED))
        return f"{VALUES}{digest.hexdigest()[:16]}"

    @cached_property
    def vae_fingerprint(self) -> str:
        """Identifies the VAE that makes latents, by its values as they are stored and its configuration."""
        config = json.dumps(self.config("vae"), sort_keys=True)
        digest = values_digest(self.tensors("vae"), as_fp16=False)
        return hashlib.sha256(f"{digest.hex()}/{config}".encode()).hexdigest()[:16]

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """What beside the weights was chosen by whoever added the base, and shapes what is made with it.

        Empty for a base that was not added: its publisher chose it.
        """
        if self.record is None:
            return {}
        scheduler = {key: value for key, value in self.scheduler.items() if key != "_diffusers_version"}
        return {"scheduler": scheduler, "vae": self.vae_fingerprint}

    def is_named(self, fingerprint: str) -> bool:
        """Whether an adapter's card with this fingerprint means this base.

        Cards from before fingerprints were of values name a hash of the files that lay in the folder then: accepted
        if it is that of the files that are loaded, or of all that lie there now.
        """
        return fingerprint == self.fingerprint if fingerprint.startswith(VALUES) else fingerprint in self._of_files

    @cached_property
    def _of_files(self) -> tuple[str, str]:
        loaded = {part: self.files(part).paths for part in WEIGHED}
        there = {part: tuple((self.path / part).glob("*.safetensors")) for part in WEIGHED}
        return headers_digest(loaded), headers_digest(there)


def find_base(name: str, beside: Path | None = None, home: Home | None = None) -> Base:
    """Finds a base by its short name, the name it was added under, a local folder, or a hub id in the local cache.

    A relative path starts at `beside`, by default at the current folder; names of added bases are those of a home, by
    default this process's. Nothing is downloaded. Raises BaseModelError, which says what to do, if there is no such
    base.
    """
    if name in SHIPPED:
        return Base(name, SHIPPED[name])
    home = home or Home.from_environment()
    if re.fullmatch(NAME_PATTERN, name) and os.path.isfile(home.bases / name / "model_index.json"):
        return Base(name, home.bases / name)
    path = _path(name, beside)
    if os.path.isfile(path / "model_index.json"):
        return Base(str(path.resolve()), path.resolve())
    if name not in HUB:  # a short name is a folder only where that is a base
        _refuse_what_is_there(name, path)
    hub_id = HUB.get(name, name)
    if fetchable(name, beside) and (cached := _in_hub_cache(hub_id)) is not None:
        return Base(name, cached)
    raise BaseModelError(_not_here(name, path, hub_id, fetchable(name, beside), home))


def added_bases(home: Home) -> tuple[Base, ...]:
    """The bases that were added to a home, by name."""
    found = sorted(home.bases.glob("*/model_index.json"))
    return tuple(Base(index.parent.name, index.parent) for index in found if not index.parent.name.startswith("."))


def cached_base(name: str) -> Base | None:
    """A base of the hub's that is in the local Hugging Face cache, by its short name or hub id."""
    path = _in_hub_cache(HUB.get(name, name))
    return None if path is None else Base(name, path)


def fetchable(name: str, beside: Path | None = None) -> bool:
    """Whether `hf download` can fetch it: a short name of a hub model, or a hub id that is no local file or folder."""
    from huggingface_hub.errors import HFValidationError

    if name in HUB:
        return True
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or os.path.exists(_path(name, beside)):
        return False
    try:
        _in_hub_cache(name)
    except HFValidationError:
        return False
    return True


def _path(name: str, beside: Path | None) -> Path:
    here, home = beside or Path.cwd(), os.path.expanduser(name)  # which leaves an unknown ~user alone
    return here / home if os.path.exists(here / home) else here / os.path.expandvars(home)


def _refuse_what_is_there(name: str, path: Path) -> None:
    """Raises BaseModelError if the path exists and is no base, saying what it is instead of "not found"."""
    if os.path.isdir(path):
        raise BaseModelError(f"base {name!r} is a folder without model_index.json; give one saved by diffusers")
    if os.path.exists(path):
        kept = "" if path.suffix == ".safetensors" else ", if it is a checkpoint in a .safetensors file"
        raise BaseModelError(
            f"base {name!r} is a file, and a base is a folder; make one of it once{kept}: "
            f"lorafleet bases add {shlex.quote(str(path))} --name NAME, and give NAME as the base"
        )


def _not_here(name: str, path: Path, hub_id: str, can_be_fetched: bool, home: Home) -> str:
    names = (*SHIPPED, *HUB, *(base.name for base in added_bases(home)))
    allowed = f"Allowed: {', '.join(names)}, a local diffusers folder, or a cached hub id"
    if "://" in name:
        there = re.match(r"https?://huggingface\.co/([\w.-]+/[\w.-]+)", name)
        hint = f"run hf download {there[1]} and give {there[1]}" if there else "download it and give the folder"
        return f"base {name!r} is a URL, and nothing is downloaded from one; {hint}"
    if can_be_fetched:
        folder = "" if name in HUB else f" (nor is there a folder {path})"
        return f"base {name!r} is not here{folder}; fetch it first: hf download {hub_id}. {allowed}"
    if "/" in name:
        hint = f"; {name.rstrip('/')!r} would be a hub id" if fetchable(name.rstrip("/")) else ""
        return f"base {name!r} is not here: there is no folder {path}{hint}. {allowed}"
    return f"base {name!r} is not here. {allowed}"


def _in_hub_cache(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub_id, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None
