"""Imports LoRA files of other programs, which become bundles and registered versions like adapters trained here.

Knows what an imported adapter's bundle and card hold. Refuses to know how files are spelt, which is `lora_files`', and
to check tensors by itself: `lorafleet.bundle.adapter` checks a bundle before it is written, as it does for serving.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from pydantic import Field, model_validator
from safetensors.torch import load, save
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lorafleet import __version__
from lorafleet.base_record import licence_front_matter
from lorafleet.bases import HUB, Base, find_base
from lorafleet.bundle.adapter import check_adapter, factor_key
from lorafleet.bundle.bundle import (
    EMBEDDINGS,
    MAX_BYTES,
    README,
    WEIGHTS,
    AdapterCard,
    Bundle,
    Trigger,
    sha256_of,
    write_bundle,
)  # fmt: skip
from lorafleet.bundle.ports import AdapterVersion, RunEnd
from lorafleet.config.manifest import Name
from lorafleet.config.strict import Strict
from lorafleet.errors import BundleError
from lorafleet.formats.imported_tokens import embeddings_file, learned_tokens, token_notes, triggers_of
from lorafleet.formats.lora_files import ForeignLoRA, check_size, read_lora, scales_beside
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet.removal.forgotten import refuse_forgotten
from lorafleet.targets import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from lorafleet.tracking import MlflowTracking

TEXT_ENCODERS = (TEXT_ENCODER, TEXT_ENCODER_2)
BLOCKS = re.compile(r"^(.*\b(\w+_blocks|attentions|resnets)\.\d+\.|mid_block\.)?(attn\d\.)?")
"""What stands before the end of a UNet layer's name that tells its kind."""


class Import(Strict):
    """A file to import, and the adapter that it becomes."""

    file: Path
    name: Name
    base: str
    words: str = ""
    """What `<name>` stands for in a prompt; with neither words nor embeddings the adapter has no trigger."""
    embeddings: Path | None = None
    """A textual inversion's clip_l [n, w1] and clip_g [n, w2], which `<name>` stands for."""
    licence: Annotated[str, Field(min_length=1)] = "unknown"

    @model_validator(mode="after")
    def _one_meaning(self) -> Import:
        if self.words and self.embeddings is not None:
            raise ValueError("words and embeddings both say what the trigger stands for; give one of them")
        return self

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """sha256 of the file, of PEFT's configuration beside it and of the embeddings if there are.

        BundleError if one is not there or too large.
        """
        files = [self.file, *([self.embeddings] if self.embeddings is not None else [])]
        for file in files:
            check_size(file)
        beside = scales_beside(self.file)
        return tuple(map(sha256_of, [*files, *([beside] if beside is not None else [])]))


@dataclass(frozen=True)
class Unwritten(Bundle):
    """A bundle in memory, `path` being where it would lie."""

    files: Mapping[str, bytes]

    def weights(self) -> dict[str, Any]:
        """LoRA tensors, read back from the file's bytes."""
        return dict(load(self.files[WEIGHTS]))

    def embeddings(self) -> dict[str, Any]:
        """Learned tokens, read back from the file's bytes; empty without them."""
        return dict(load(self.files[EMBEDDINGS])) if EMBEDDINGS in self.files else {}

    def write(self, run_id: str | None = None) -> Bundle:
        """Writes the bundle, whole or not at all."""
        return write_bundle(self.path, self.card.with_changes(run_id=run_id), self.files)


@dataclass(frozen=True)
class Imported:
    """An adapter version, whether an earlier import made it, and what its user should know."""

    version: AdapterVersion
    known: bool
    notes: tuple[str, ...]


def import_adapter(wanted: Import, home: Home, forgotten_too: bool = False) -> Imported:
    """Registers a file as the newest version of an adapter, unless it was there already.

    The same contents under the same name are one version, however often imported. Raises BundleError, also for an
    adapter that was forgotten here unless `forgotten_too`, BaseModelError or UnreachableError; then nothing is
    registered.
    """
    if not forgotten_too:
        refuse_forgotten([wanted.file, *([wanted.embeddings] if wanted.embeddings is not None else [])], home)
    job_id = identity(wanted, find_base(wanted.base))
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    there = tracking.registered(wanted.name, job_id)
    if there is not None and there.run_id is not None:
        tracking.finish_if_open(there.run_id, RunEnd("FINISHED"))  # whoever imported it may have died before saying so
        return Imported(there, True, ())
    made = make_bundle(wanted, home.bundles)
    tags = {"adapter": wanted.name, "file": wanted.file.name, "sha256": wanted.digests[0]}
    run_id = tracking.start_import(wanted.name, job_id, tags)
    bundle = made.write(run_id)
    tracking.log_bundle(run_id, bundle.path)
    version = tracking.register(bundle, run_id, "always")
    tracking.finish(run_id, RunEnd("FINISHED"))
    return Imported(version, False, made.card.notes)


def make_bundle(wanted: Import, folder: Path) -> Unwritten:
    """The bundle that a file comes to, to lie in `folder`; checked as serving checks it, and not written yet.

    Raises BundleError that names what cannot be taken, BaseModelError.
    """
    base = find_base(wanted.base)
    job_id = identity(wanted, base)
    shape = shape_of(base)
    lora = read_lora(wanted.file, shape)
    learned = learned_tokens(wanted.file, lora, wanted.words, wanted.embeddings)
    triggers = triggers_of(wanted.name, wanted.words, learned)
    notes = (*lora.notes, *token_notes(lora, triggers))
    card = _card(wanted, base, lora, triggers, notes, job_id)
    files = {WEIGHTS: _weights_file(lora), README: _readme(card, base).encode()}
    if learned:
        files[EMBEDDINGS] = embeddings_file(learned)
    if len(files[WEIGHTS]) > MAX_BYTES:
        raise BundleError(
            f"{wanted.file.name}: {len(files[WEIGHTS])} bytes with all layers at rank {card.rank}; at most {MAX_BYTES} "
            "are read; resize it to a smaller rank"
        )
    made = Unwritten(folder / job_id, card, files)
    check_adapter(made, {part: lora_layers.shapes() for part, lora_layers in shape.lora.items()}, shape.prompts.widths)
    return made


def shape_of(base: Base) -> LoadedBase:
    """A base's layers without weights, on the meta device: enough to check a LoRA, in seconds and without memory."""
    clip_l, clip_g = (CLIPTextConfig.from_pretrained(base.path / part) for part in TEXT_ENCODERS)
    tokenizers = tuple(CLIPTokenizer.from_pretrained(base.path / name) for name in ("tokenizer", "tokenizer_2"))
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(base.config(UNET)), AutoencoderKL.from_config(base.config("vae"))
        encoders = CLIPTextModel(clip_l), CLIPTextModelWithProjection(clip_g)
    return LoadedBase.of_parts(base, unet, vae, encoders, (tokenizers[0], tokenizers[1]), "meta")


def identity(wanted: Import, base: Base) -> str:
    """The id of an import: a hash of everything that the bundle depends on, its words and licence included."""
    contents: list[Any] = [*wanted.digests, wanted.name, base.fingerprint, wanted.words, wanted.licence]
    contents += [base.chosen] if base.chosen else []
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def _weights_file(lora: ForeignLoRA) -> bytes:
    """A bundle's names at a scale of 1, with zeros up to the one rank that a part's layers have in a bundle."""
    tensors: dict[str, Tensor] = {}
    for (part, layer), pair in lora.layers.items():
        rank = lora.rank(UNET) if part == UNET else lora.rank(*TEXT_ENCODERS)
        tensors[f"{part}.{factor_key(part, layer, 'A')}"] = _padded(pair.A, 0, rank)
        tensors[f"{part}.{factor_key(part, layer, 'B')}"] = _padded(pair.B, 1, rank)
        if pair.m is not None:
            tensors[f"{part}.{factor_key(part, layer, 'm')}"] = pair.m.contiguous()
    return bytes(save(tensors))


def _padded(tensor: Tensor, dim: int, rank: int) -> Tensor:
    zeros = list(tensor.shape)
    zeros[dim] = rank - zeros[dim]
    return torch.cat([tensor, tensor.new_zeros(zeros)], dim)


def _card(
    wanted: Import, base: Base, lora: ForeignLoRA, triggers: tuple[Trigger, ...], notes: tuple[str, ...], job_id: str
) -> AdapterCard:  # fmt: skip
    unet, text = lora.rank(UNET), lora.rank(*TEXT_ENCODERS)
    ends = {BLOCKS.sub("", layer): None for part, layer in lora.layers if part == UNET}
    card = {
        "name": wanted.name,
        "base": base.name,
        "base_fingerprint": base.fingerprint,
        "prediction": base.prediction,
        "rank": unet or text,
        "alpha": unet or text,
        "dora": any(pair.m is not None for pair in lora.layers.values()),
        "targets": tuple(ends),
        "text_encoder_rank": text,
        "triggers": triggers,
        "class_noun": "",
        "instance_prompt": "",
        "recipe": {"imported_from": wanted.file.name, "format": lora.format, "sha256": wanted.digests[0]}
        | ({"notes": list(notes)} if notes else {}),
        "dataset_fingerprint": "",
        "images": 0,
        "steps": 0,
        "licence": wanted.licence,
        "job_id": job_id,
        "lorafleet_version": __version__,
    }
    return AdapterCard.model_validate(card)


def _readme(card: AdapterCard, base: Base) -> str:
    """Markdown with Hugging Face's front matter."""
    front = {
        **licence_front_matter(card.licence),
        "base_model": HUB.get(card.base, card.base),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "lora"],
    }
    trigger = card.triggers[0] if card.triggers else None
    meaning = "learned tokens" if trigger is not None and trigger.tokens else repr(trigger.text) if trigger else ""
    return README_TEMPLATE.format(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        card=card,
        base_licence=f"`{base.licence}`" + (f" ({base.record.made_of})" if base.record is not None else ""),
        kind="DoRA" if card.dora else "LoRA",
        prompt=f"{trigger.trigger}, a house by the sea" if trigger else "a house by the sea",
        how=f"`{trigger.trigger}` stands for {meaning}." if trigger else "It has no trigger: it changes every prompt.",
        notes="\n" * bool(card.notes) + "".join(f"\n* {note}" for note in card.notes),
    )


README_TEMPLATE = """---
{front}
---

# {card.name}

A {kind} (rank {card.rank}) for `{card.base}`, imported by lorafleet and not trained here. Every layer has the weight
delta of the file it came from: `{card.imported_from}`, {card.recipe[format]}'s format, sha256
`{card.recipe[sha256]}`.{notes}

## Use it

```
lorafleet generate "{prompt}" --adapter {card.name}
```

{how} An adapter for few steps (LCM, TCD) also wants
`--scheduler lcm --guidance-scale 1 --steps 4`.

## Licence

`{card.licence}`: the file's, as it was given at import. The base has its own: {base_licence}.
"""
