"""LoRA files of other programs, read as one pair of factors for each layer of a base.

    kohya      lora_unet_*, lora_te1_*, lora_te2_*: layers by diffusers' or the original implementation's names (sgm);
               each layer's scale is its .alpha / rank, 1 without
    diffusers  unet.*, text_encoder.*, text_encoder_2.*: layers as its scripts have named them over the years, and PEFT;
               scales by PEFT's configuration in the file's metadata, 1 without

Every key is read by its own ending. diffusers' loader takes a whole file's spelling from its first key, and leaves out
what is spelt otherwise (`docs/log.md`, 2026-11-21). Knows names, scales and shapes; refuses to know bundles, to open
pickles, and to leave anything out: what it does not understand is a BundleError that names the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from peft.utils.other import get_pattern_key
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorafleet.adapters import ENDINGS, factor_shape
from lorafleet.bundle import MAX_BYTES
from lorafleet.config.strict import Strict, parse
from lorafleet.errors import BundleError
from lorafleet.export import PREFIXES
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.rowlora import LayerShape
from lorafleet.targets import PARTS, UNET

Format = Literal["kohya", "diffusers"]
Place = tuple[str, str]
"""A part of the base, and the layer's name in it."""
KEPT = (torch.float32, torch.float16, torch.bfloat16)
"""Types that stay as they are; others become fp32."""
ALPHA = "alpha"
KINDS: dict[str, str] = {**ENDINGS, ".lora_down.weight": "A", ".lora_up.weight": "B", ".alpha": ALPHA}
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
    r"^clip_[lg]$": "is a textual inversion; give the file as --embeddings beside a LoRA",
}
"""What is known and not read, by the key."""
UNKNOWN = "is no tensor of a LoRA for SDXL as kohya, PEFT and diffusers write it; import a file without it"


@dataclass(frozen=True, eq=False)
class Pair:
    """One layer's factors in PEFT's shapes, their scale folded into B; DoRA's magnitude `m` where there is one."""

    A: Tensor
    B: Tensor
    m: Tensor | None

    @property
    def rank(self) -> int:
        """Rows of A."""
        return len(self.A)


@dataclass(frozen=True, eq=False)
class ForeignLoRA:
    """What a file holds."""

    format: Format
    layers: Mapping[Place, Pair]

    def rank(self, *parts: str) -> int:
        """The largest of some parts; 0 if the file leaves them alone."""
        return max((pair.rank for (part, _), pair in self.layers.items() if part in parts), default=0)


class PeftScale(Strict):
    """What PEFT's configuration of one part says about scales; the rest of it does not matter here."""

    model_config = ConfigDict(extra="ignore")

    r: int
    lora_alpha: float
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    use_rslora: bool = False

    def at(self, layer: str) -> tuple[int, float]:
        """A layer's rank and scale, resolved as PEFT does."""
        r = self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), layer), self.r)
        alpha = self.alpha_pattern.get(get_pattern_key(list(self.alpha_pattern), layer), self.lora_alpha)
        return r, alpha / (r**0.5 if self.use_rslora else r)


@dataclass(frozen=True, eq=False)
class _Found:
    """A tensor and the key that it has in the file."""

    key: str
    tensor: Tensor


def read_lora(file: Path, loaded: LoadedBase) -> ForeignLoRA:
    """Reads a safetensors file for a base; its weights are not looked at, and may be on the meta device.

    Raises BundleError that names the file, the key and what to do.
    """
    tensors, metadata = read_safetensors(file)
    shapes = {part: lora.shapes() for part, lora in loaded.lora.items()}
    kohya = {PREFIXES[part] + layer.replace(".", "_"): (part, layer) for part in PARTS for layer in shapes[part]}
    found: dict[Place, dict[str, _Found]] = {}
    for key, tensor in tensors.items():
        place, kind = _bind(file, key, kohya, loaded.unet)
        tensor = tensor.float() if kind == ALPHA else tensor  # some write it as an integer
        if place[1] not in shapes.get(place[0], {}):
            raise BundleError(
                f"{file.name}: {key!r} is on no layer that adapters may change on base {loaded.base.name!r}; import a "
                "file made for SDXL, on the UNet or the text encoders' transformer layers"
            )
        if (before := found.setdefault(place, {}).setdefault(kind, _Found(key, tensor))).key != key:
            raise BundleError(f"{file.name}: {key!r} and {before.key!r} are the same factor; remove one of them")
    if not found:
        raise BundleError(f"{file.name}: it holds no LoRA; import a file that does")
    scales = _peft_scales(file, metadata)
    layers = {
        place: _pair(file, place, factors, shapes[place[0]][place[1]], scales.get(place[0]))
        for place, factors in found.items()
    }
    _all_or_none_dora(file, layers)
    return ForeignLoRA("kohya" if any(key.startswith("lora_") for key in tensors) else "diffusers", layers)


def check_size(file: Path) -> None:
    """Raises BundleError unless there is such a file, of a size that is read."""
    if not file.is_file():
        raise BundleError(f"{file}: there is no such file; give the path of a .safetensors file")
    if file.stat().st_size > MAX_BYTES:
        raise BundleError(f"{file}: {file.stat().st_size} bytes; at most {MAX_BYTES} are read")


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's tensors and metadata; BundleError if it is not there, too large, or no safetensors file."""
    check_size(file)
    try:
        with safe_open(file, "pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise BundleError(
            f"{file}: not a safetensors file ({problem}); nothing else is read, since a pickle can run programs"
        ) from None


def _bind(file: Path, key: str, kohya: Mapping[str, Place], unet: Any) -> tuple[Place, str]:
    """Where a key's tensor belongs, and what it is: a factor, DoRA's magnitude or alpha."""
    name = key if key.startswith("lora_") else _peft_name(key)
    for ending, kind in KINDS.items():
        if name.endswith(ending):
            module = name.removesuffix(ending)
            return kohya.get(module) or _place(_diffusers_name(module, unet) if name is key else module), kind
    why = next((why for pattern, why in UNREADABLE.items() if re.search(pattern, key)), UNKNOWN)
    raise BundleError(f"{file.name}: {key!r} {why}")


def _place(module: str) -> Place:
    part, _, layer = module.partition(".")
    return part, layer if part == UNET else layer.removeprefix("text_model.")


def _peft_name(key: str) -> str:
    """A key of diffusers' as PEFT spells it, whatever the file's other keys look like."""
    part, _, rest = key.partition(".")
    if part == UNET:
        (name,) = convert_unet_state_dict_to_peft({rest: None})
    else:
        spelling = StateDictType.DIFFUSERS_OLD if "_lora." in rest else StateDictType.DIFFUSERS
        (name,) = convert_state_dict_to_peft({rest: None}, original_type=spelling)
    return f"{part}.{name}"


def _diffusers_name(module: str, unet: Any) -> str:
    """The name in diffusers of a module that kohya named after the original implementation; as it is if there is none.

    Each is converted by itself: of a file with names of both kinds, diffusers drops the original implementation's.
    """
    pair = {f"{module}.lora_{way}.weight": torch.empty(0) for way in ("down", "up")}
    try:
        named, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(pair, unet_config=unet.config)
    except (ValueError, IndexError, KeyError):  # what it raises of a name that it does not know
        return module
    return _peft_name(next(iter(named))).removesuffix(".lora_A.weight")


def _pair(
    file: Path, place: Place, found: Mapping[str, _Found], shape: LayerShape, config: PeftScale | None
) -> Pair:  # fmt: skip
    """A layer's tensors in PEFT's shapes, with its scale in B."""
    part, layer = place
    missing = [name for kind, name in (("A", "down (A)"), ("B", "up (B)")) if kind not in found]
    if missing:
        key = next(iter(found.values())).key
        raise BundleError(f"{file.name}: {key!r} comes without its layer's {missing[0]}; fetch the file again")
    rank = found["A"].tensor.shape[0] if found["A"].tensor.dim() else 0
    A = _fitted(file, found["A"], factor_shape("A", rank, shape))
    B = _fitted(file, found["B"], factor_shape("B", rank, shape))
    m = _fitted(file, found["m"], factor_shape("m", rank, shape)) if "m" in found else None
    scale = 1.0
    if ALPHA in found:
        scale = float(_fitted(file, found[ALPHA], ())) / rank
    elif config is not None:
        r, scale = config.at(layer if part == UNET else f"text_model.{layer}")
        if r != rank:
            raise BundleError(
                f"{file.name}: {found['A'].key!r} has rank {rank}, its metadata {r}; fetch the file again"
            )
    return Pair(A, _scaled(B, scale), m)


def _fitted(file: Path, found: _Found, shape: tuple[int, ...]) -> Tensor:
    """A tensor in the shape of its layer's; factors of 1x1 kernels and of linear layers are written either way."""
    tensor, is_size = found.tensor, list(found.tensor.shape)
    if not tensor.is_floating_point() or not tensor.numel() or _bare(is_size) != _bare(shape):
        raise BundleError(
            f"{file.name}: {found.key!r} is {tensor.dtype} {is_size}, its layer takes floats {list(shape)}; import a "
            "file made for SDXL, not for Stable Diffusion 1 or 2"
        )
    if not torch.isfinite(tensor.float()).all():
        raise BundleError(f"{file.name}: {found.key!r} holds a value that is not finite; fetch the file again")
    return (tensor if tensor.dtype in KEPT else tensor.float()).reshape(shape)


def _bare(shape: Sequence[int]) -> list[int]:
    """A shape without the ones at its end."""
    return [size for i, size in enumerate(shape) if any(rest != 1 for rest in shape[i:])]


def _scaled(B: Tensor, scale: float) -> Tensor:
    """B * scale, in fp32 where its own type cannot hold that."""
    exact = B.float() * scale
    own = exact.to(B.dtype)
    return own if torch.equal(own.float(), exact) else exact


def _peft_scales(file: Path, metadata: Mapping[str, str]) -> dict[str, PeftScale]:
    """PEFT's configurations by part, as diffusers writes them into a file's metadata."""
    try:
        written: dict[str, Any] = dict(json.loads(metadata.get(LORA_ADAPTER_METADATA_KEY, "{}")))
    except (ValueError, TypeError) as problem:
        raise BundleError(
            f"{file.name}: {LORA_ADAPTER_METADATA_KEY!r} is no JSON ({problem}); fetch it again"
        ) from None
    found: dict[str, dict[str, Any]] = {}
    for key, value in written.items():
        part, _, name = key.partition(".")
        found.setdefault(part, {})[name] = value
    where = f"{file.name}: {LORA_ADAPTER_METADATA_KEY}"
    return {part: parse(PeftScale, config, f"{where}, {part}", BundleError) for part, config in found.items()}


def _all_or_none_dora(file: Path, layers: Mapping[Place, Pair]) -> None:
    plain = [layer for (_, layer), pair in layers.items() if pair.m is None]
    if 0 < len(plain) < len(layers):
        raise BundleError(
            f"{file.name}: layer {plain[0]!r} has no magnitude and others have; import a file that is DoRA throughout"
        )
