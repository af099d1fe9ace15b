"""How programs spell a LoRA's keys: which layer of a base a key names, and which of the layer's tensors it is.

    kohya        lora_unet_*, lora_te1_*, lora_te2_*, and what diffusers' advanced script writes for A1111
    OneTrainer   kohya's, unet.*, clip_l.*, clip_g.*; embeddings as bundle_emb.NAME.clip_l
    ComfyUI      diffusion_model.*, text_encoders.clip_l.transformer.*, text_encoders.clip_g.transformer.*
    diffusers    unet.*, text_encoder.*, text_encoder_2.*, with the endings of every version of its scripts
    cog-sdxl     the UNet's attention processors, without a part
    PEFT         base_model.model.*, of one model alone; an adapter's name may stand in the ending

A key is read in three pieces, each by itself and dotted or underscored: what programs put in front, the layer by
diffusers' or the original implementation's name (sgm), and the ending. Refuses to know tensors and scales.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

from lorafleet.errors import BundleError
from lorafleet.loaded import LoadedBase
from lorafleet.targets import TEXT_ENCODER, TEXT_ENCODER_2, UNET

Format = Literal["kohya", "diffusers", "PEFT", "ComfyUI"]
Kind = Literal["A", "B", "m", "alpha", "scale"]
PartLayer = tuple[str, str]
"""A part of the base, and the layer's name in it."""
ENDINGS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("A", re.compile(r"(\.lora_A(\.[^.]+)?|\.lora_down|[._]lora\.down|\.lora_linear_layer\.down)\.weight$")),
    ("B", re.compile(r"(\.lora_B(\.[^.]+)?|\.lora_up|[._]lora\.up|\.lora_linear_layer\.up)\.weight$")),
    ("m", re.compile(r"\.lora_magnitude_vector(\.[^.]+)?(\.weight)?$")),
    ("alpha", re.compile(r"\.alpha$")),
    ("scale", re.compile(r"\.scale$")),
)
_FRONT = "(?:base_model_model_|model_|module_|_orig_mod_|lora_|lycoris_)*"
_PARTS = {
    UNET: "unet|diffusion_model",
    TEXT_ENCODER_2: "te2|text_encoder_2|(?:text_encoders_)?clip_g(?:_transformer)?",
    TEXT_ENCODER: "te1|text_encoder|(?:text_encoders_)?clip_l(?:_transformer)?",
}
_PREFIX = re.compile(f"{_FRONT}(?:(?:{'|'.join(f'(?P<{p}>{names})' for p, names in _PARTS.items())})_)?{_FRONT}")
ORIGINAL = ("input_blocks_", "middle_block_", "output_blocks_", "time_embed_", "label_emb_", "out_")
"""How a UNet layer's name begins in the original implementation."""
BUNDLED = re.compile(r"bundle_emb\.(?P<name>.+)\.(?P<key>clip_[lg])", re.DOTALL)
PLAIN = "save it as a plain LoRA with the program that made it"
UNREADABLE = {
    r"\.dora_scale$": "is DoRA as kohya's relatives write it, which every program norms in its own way and diffusers "
    "leaves out; import PEFT's or diffusers' file of it (lora_magnitude_vector)",
    r"\.hada_": f"is a LoHa; {PLAIN}",
    r"\.lokr_": f"is a LoKr; {PLAIN}",
    r"\.oft_": f"is an OFT; {PLAIN}",
    r"\.lora_mid\b": f"is a Tucker decomposition; {PLAIN}",
    r"\.diff(_b)?$": f"is the difference of a whole weight or bias; {PLAIN}",
    r"\.[wb]_norm$": f"changes a norm, and adapters change linear layers and convolutions; {PLAIN}",
    r"\.bias$": f"is a bias, and adapters have none; {PLAIN}",
    r"^bundle_emb\..*_out$": "is added behind the text encoder, where nothing is added here; train it in "
    "OneTrainer without output embeddings",
    r"^(clip_[lg]|text_encoders_[01]|emb_params)$": "is a textual inversion; give the file as --embeddings beside a "
    "LoRA",
}
"""Tensors that other programs write and that are not read: a pattern of the key, and what is wrong with it."""
UNKNOWN = (
    "is no tensor of a LoRA for SDXL as kohya, OneTrainer, ComfyUI, PEFT and diffusers write it; import a file without "
    "it"
)


@dataclass(frozen=True)
class Named:
    """The layer and the kind of tensor that a key names."""

    part_layer: PartLayer
    kind: Kind


class Spellings:
    """Reads keys for one base; `where` names the file in errors."""

    def __init__(self, loaded: LoadedBase, where: str) -> None:
        self._where, self._base, self._unet = where, loaded.base.name, loaded.unet
        self._layers = {
            part: {name: layer for layer in lora.shapes() for name in _names(layer)}
            for part, lora in loaded.lora.items()
        }
        self._part_layers: dict[str, PartLayer] = {}

    def read(self, key: str) -> Named | None:
        """What a key names; None for one that no program would apply.

        Raises BundleError that names the key if its kind of tensor is not read, if it is unknown, or on no layer.
        """
        for kind, ending in ENDINGS:
            if match := ending.search(key):
                return Named(self._part_layer(key, key[: match.start()]), kind)
        why = next((why for pattern, why in UNREADABLE.items() if re.search(pattern, key)), None)
        nowhere = "." not in key and _part_of(key)[0] is None  # it names neither a part nor a layer's tensor
        if why is None and (nowhere or key.endswith(".position_ids")):  # those are counted, not learned
            return None
        raise BundleError(f"{self._where}: {key!r} {why or UNKNOWN}")

    def _part_layer(self, key: str, module: str) -> PartLayer:
        part_layer = self._part_layers.get(module) or self._find(module)
        if part_layer is None:
            raise BundleError(f"{self._where}: {key!r} {self._why_not(module)}")
        self._part_layers[module] = part_layer
        return part_layer

    def _find(self, module: str) -> PartLayer | None:
        part, rest = _part_of(_flat(module))
        layer = self._layers[part or UNET].get(rest)
        if layer is None and part in (None, UNET) and rest.startswith(ORIGINAL):
            layer = self._layers[UNET].get(_diffusers_name(rest, self._unet))
        return None if layer is None else (part or UNET, layer)

    def _why_not(self, module: str) -> str:
        part, rest = _part_of(_flat(module))
        if part is None and any(rest in self._layers[text] for text in (TEXT_ENCODER, TEXT_ENCODER_2)):
            return (
                "does not say which of SDXL's two text encoders it is for; save it with diffusers' save_lora_weights, "
                "which writes text_encoder. or text_encoder_2. in front"
            )
        return (
            f"is on no layer that adapters may change on base {self._base!r}; import a file made for SDXL, on the UNet "
            "or the text encoders' transformer layers"
        )


def format_of(key: str) -> Format:
    """The program whose way of writing files a key shows."""
    if key.startswith("lora_"):
        return "kohya"
    if key.startswith("base_model."):
        return "PEFT"
    return "ComfyUI" if key.startswith(("diffusion_model.", "text_encoders.")) else "diffusers"


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _part_of(name: str) -> tuple[str | None, str]:
    """The part that a flat name says, None if it says none; and the rest of it."""
    match = _PREFIX.match(name)
    assert match is not None  # every piece of it may be empty
    return match.lastgroup, name[match.end() :].removeprefix("text_model_")


def _names(layer: str) -> set[str]:
    """A layer's flat names in diffusers over the years: attention had processors, whose names were the UNet's."""
    end = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", layer)  # of the text encoders
    old = {layer, end, end.removesuffix(".0") if end.endswith(".to_out.0") else end}
    return {_flat(name) for spelling in old for name in (spelling, re.sub(r"\.(to_\w+)", r".processor.\1", spelling))}


def _diffusers_name(name: str, unet: Any) -> str:
    """The flat name in diffusers of a flat name of the original implementation; as it is if there is none.

    Each is converted by itself: of a file with names of both kinds, diffusers drops the original implementation's.
    """
    pair = {f"lora_unet_{name}.lora_{way}.weight": torch.empty(0) for way in ("down", "up")}
    try:
        named, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(pair, unet_config=unet.config)
    except (ValueError, IndexError, KeyError):  # what it raises of a name that it does not know
        return name
    converted = next(iter(named)).removeprefix(f"{UNET}.")
    return _flat(re.sub(r"(\.lora_A|[._]lora\.down)\.weight$", "", converted))
