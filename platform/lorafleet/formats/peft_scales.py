"""What PEFT's configuration says of each layer's scale, in a file's metadata or in adapter_config.json beside it.

Refuses what would change the deltas and is not read here. Patterns are PEFT's regular expressions in a file of a
stranger: names are compared as text, in linear time, and whatever is more than a name is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from pydantic import ConfigDict, Field, field_validator, model_validator

from lorafleet.config.strict import Strict, parse
from lorafleet.errors import BundleError
from lorafleet.targets import UNET

CONFIG = "adapter_config.json"
MAX_CONFIG_BYTES = 2**20
TEXT_MODEL = "text_model."
"""What stands before a text encoder's layers in some versions of transformers and not in others."""
_NAME = re.compile(r"\^?[\w.-]+")
CHANGE_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Initialisations that change the base's own weights, without which the file is of no use."""


class PeftScale(Strict):
    """The keys of PEFT's configuration of one part that decide about scales; others are ignored."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str = "LORA"
    r: int = Field(ge=1)
    lora_alpha: float
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    use_rslora: bool = False
    init_lora_weights: bool | str | None = True
    fan_in_fan_out: bool = False
    layer_replication: object | None = None

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _patterns_are_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for pattern in value:
            if not _NAME.fullmatch(pattern):
                raise ValueError(
                    f"the pattern {pattern[:80]!r} is more than a layer's name; regular expressions of a file are not "
                    "run, so write out the names of the layers that it matches"
                )
        return value

    @model_validator(mode="after")
    def _only_scales_differ(self) -> PeftScale:
        if self.peft_type != "LORA":
            raise ValueError(f"peft_type is {self.peft_type!r}; only LORA is read")
        if str(self.init_lora_weights).startswith(CHANGE_THE_BASE):
            raise ValueError(
                f"init_lora_weights is {self.init_lora_weights!r}, which changed the base's own weights; save it with "
                "PEFT's path_initial_model_for_weight_conversion, as a plain LoRA"
            )
        if self.fan_in_fan_out or self.layer_replication:
            raise ValueError("fan_in_fan_out and layer_replication are not read; SDXL's layers have neither")
        return self

    def at(self, part: str, layer: str) -> tuple[int, float]:
        """A layer's rank and scale, resolved as PEFT does: by the first pattern that its name ends with."""
        name = layer if part == UNET else f"{TEXT_MODEL}{layer}"
        r = _first(self.rank_pattern, name, self.r)
        alpha = _first(self.alpha_pattern, name, self.lora_alpha)
        return r, alpha / (r**0.5 if self.use_rslora else r)


def scales_in_metadata(where: str, metadata: Mapping[str, str]) -> dict[str, PeftScale]:
    """PEFT's configurations by part, as diffusers writes them into a file's metadata; BundleError names `where`."""
    written = _json(where, LORA_ADAPTER_METADATA_KEY, metadata.get(LORA_ADAPTER_METADATA_KEY, "{}"))
    configs: dict[str, dict[str, Any]] = {}
    for key, value in written.items():
        part, _, name = key.partition(".")
        configs.setdefault(part, {})[name] = value
    return {
        part: parse(PeftScale, config, f"{where}: {LORA_ADAPTER_METADATA_KEY}, {part}", BundleError)
        for part, config in configs.items()
    }


def config_beside(file: Path) -> Path | None:
    """The adapter_config.json that PEFT's save_pretrained wrote beside a file, if it is there."""
    beside = file.with_name(CONFIG)
    return beside if beside.is_file() else None


def scale_beside(config: Path) -> PeftScale:
    """What adapter_config.json says; BundleError for what is not read."""
    with config.open("rb") as stream:
        data = stream.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise BundleError(f"{config}: larger than {MAX_CONFIG_BYTES} bytes; fetch it again")
    return parse(PeftScale, _json(str(config.parent), CONFIG, data), str(config), BundleError)


def _json(where: str, name: str, text: str | bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as problem:
        raise BundleError(f"{where}: {name!r} is no JSON object ({problem}); fetch it again") from None


def _first(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """PEFT's get_pattern_key for patterns that are names: the name itself, or unless it is anchored an end of it."""
    ends = {name[i:] for i in range(len(name)) if i == 0 or name[i - 1] == "."}
    matching = ends | {f"^{name}", f"^{name.removeprefix(TEXT_MODEL)}"}
    return next((value for pattern, value in patterns.items() if pattern in matching), default)
