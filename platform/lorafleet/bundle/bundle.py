"""The adapter bundle: the one contract between training and serving.

    <bundle>/pytorch_lora_weights.safetensors   LoRA or DoRA under diffusers' names; rank and alpha in the metadata;
                                                not with learned tokens alone
             embeddings.safetensors             clip_l [n, w1], clip_g [n, w2]; only with learned tokens
             preview.png                        base | words only | adapter, fixed seeds
             README.md                          model card
             adapter.json                       the card

Knows the layout, the card, and what makes a bundle trustworthy. Refuses to know training, serving, MLflow and torch
modules: tensors go in and come out by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lorafleet.bases import VALUES, Base
from lorafleet.config.manifest import Name
from lorafleet.config.strict import Strict, parse
from lorafleet.errors import BundleError, WrongBaseError
from lorafleet.util.files import whole_folder

WEIGHTS, EMBEDDINGS, PREVIEW, README, CARD = (
    "pytorch_lora_weights.safetensors", "embeddings.safetensors", "preview.png", "README.md", "adapter.json",
)  # fmt: skip
MAX_BYTES = 2 * 2**30


class Trigger(Strict):
    """A word that names the subject in prompts: it stands for `tokens`, or for plain `text`."""

    trigger: str
    """As typed in a prompt: `<dog-rex>`."""
    abstraction: str
    """As typed where only one adapter is asked for: `TOK`."""
    tokens: tuple[int, ...] = ()
    """Rows of embeddings.safetensors that replace it; empty without pivotal tuning."""
    text: str = ""
    """What replaces it when there are no learned tokens."""


class AdapterCard(Strict):
    """adapter.json: everything a reader needs to decide whether and how to use the adapter."""

    format: str = "lorafleet/adapter/v1"
    name: Name
    base: str
    base_fingerprint: str
    prediction: str
    rank: Annotated[int, Field(ge=0)]
    """The rank of the UNet's LoRA, or of the text encoders' if the UNet has none; 0 for learned tokens alone."""
    alpha: float
    dora: bool = False
    targets: tuple[str, ...]
    """Ends of the adapted UNet layers' names; "all-linear" for all; empty where the UNet is left alone."""
    text_encoder_rank: int = 0
    """The rank of the text encoders' LoRA; 0 for none."""
    triggers: tuple[Trigger, ...]
    class_noun: str
    instance_prompt: str
    recipe: dict[str, Any]
    dataset_fingerprint: str
    images: int
    steps: int
    metrics: dict[str, float] = Field(default_factory=dict)
    licence: str
    job_id: str
    run_id: str | None = None
    lorafleet_version: str
    sha256: dict[str, str] = Field(default_factory=dict)
    """Digests of all other files of the bundle, by name."""

    @property
    def scale(self) -> float:
        """alpha / rank, the same for every part; 1 without a LoRA."""
        return self.alpha / self.rank if self.rank else 1.0

    @property
    def imported_from(self) -> str:
        """The name of the other program's file that it was imported from; empty for what was trained here."""
        return str(self.recipe.get("imported_from", ""))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the import left out of that file, or read in one of several possible ways."""
        return tuple(map(str, self.recipe.get("notes", ()))) if self.imported_from else ()


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    card: AdapterCard

    def weights(self) -> dict[str, Any]:
        """LoRA tensors by diffusers key; empty for learned tokens alone."""
        return _tensors(self.path / WEIGHTS) if WEIGHTS in self.card.sha256 else {}

    def embeddings(self) -> dict[str, Any]:
        """Learned token vectors `clip_l` [n, w1] and `clip_g` [n, w2]; empty without pivotal tuning."""
        return _tensors(self.path / EMBEDDINGS) if EMBEDDINGS in self.card.sha256 else {}


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as problem:
        raise BundleError(f"{path}: not a readable safetensors file ({problem}); train or fetch it again") from None


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bundle(target: Path, card: AdapterCard, files: Mapping[str, bytes]) -> Bundle:
    """Writes a bundle so that it is seen whole or not at all, and returns once it is on disk.

    `files` maps the bundle's file names to their bytes. A bundle that is already at `target` is replaced.
    """
    card = card.with_changes(sha256={name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    with whole_folder(target) as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        (folder / CARD).write_text(card.model_dump_json(indent=2) + "\n", "utf-8")
    return Bundle(target, card)


def read_bundle(path: Path, base: Base | None = None) -> Bundle:
    """Opens a bundle and verifies it; with a base, also that it was made for that one.

    Raises BundleError that says which file and why: no valid card, a missing or altered file, another base, no
    safetensors. Whether the tensors fit the base's layers is for whoever loads them to check.
    """
    where = path / CARD
    try:
        data = json.loads(where.read_text())
    except (OSError, ValueError) as problem:
        raise BundleError(
            f"{path}: no readable {CARD} ({problem}); the bundle is incomplete, train or fetch it again"
        ) from None
    card = parse(AdapterCard, data, str(where), BundleError)
    for name, digest in card.sha256.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise BundleError(f"{path}: {name!r} is listed in {CARD} but not there; fetch the bundle again")
        if file.stat().st_size > MAX_BYTES:
            raise BundleError(f"{file}: {file.stat().st_size} bytes; at most {MAX_BYTES} are read")
        if sha256_of(file) != digest:
            raise BundleError(f"{file}: contents do not match the sha256 in {CARD}; fetch the bundle again")
    if WEIGHTS not in card.sha256 and EMBEDDINGS not in card.sha256:
        raise BundleError(f"{path}: {CARD} lists neither {WEIGHTS} nor {EMBEDDINGS}; only safetensors are accepted")
    if base is not None and not base.is_named(card.base_fingerprint):
        raise WrongBaseError(
            f"adapter {card.name!r} was made for base {card.base!r} ({card.base_fingerprint}), not for this one "
            f"({base.fingerprint}); {_remedy(card)}"
        )
    if base is not None and card.prediction != base.prediction:
        raise WrongBaseError(
            f"adapter {card.name!r} was trained to predict {card.prediction}, and base {base.name!r}, of the same "
            f"weights, predicts {base.prediction}; serve it on a base that was added with its --prediction"
        )
    return Bundle(path, card)


def _remedy(card: AdapterCard) -> str:
    if card.base_fingerprint.startswith(VALUES):
        return "serve that base instead"
    return (
        "serve that base instead. Its card is from when files were compared, not values: if only other files lay "
        f"beside the same weights then, register its {WEIGHTS} again: lorafleet adapters import"
    )
