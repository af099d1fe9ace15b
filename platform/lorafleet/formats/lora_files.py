"""LoRA files of other programs, read as one pair of factors for each layer of a base.

Each layer's scale is its .alpha / rank, or else what PEFT's configuration says (in the file's metadata, or beside a
file of PEFT's own), or else 1. OneTrainer's bundled embeddings become learned tokens.

Every key is read by its own ending. diffusers' loader takes a whole file's spelling from its first key, and leaves out
what is spelt otherwise (`docs/log.md`, 2026-11-21). Knows scales and shapes; how layers are spelt is `spellings`'.
Refuses to know bundles, to open pickles, and to leave anything out silently: a key that it does not understand is a
BundleError that names it, and a key that belongs to no layer becomes a note that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorafleet.bundle.adapter import factor_shape
from lorafleet.bundle.bundle import MAX_BYTES
from lorafleet.errors import BundleError
from lorafleet.formats.peft_scales import CONFIG, PeftScale, config_beside, scale_beside, scales_in_metadata
from lorafleet.formats.spellings import BUNDLED, Format, Kind, PartLayer, Spellings, format_of
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.rowlora import LayerShape
from lorafleet.numerics.text import Vectors
from lorafleet.targets import UNET

KEPT = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes that stay as they are; others become fp32."""
NUMBERS: tuple[Kind, ...] = ("alpha", "scale")
PEFT_KEY = "base_model.model."
MAX_LEFT_OUT = 16
"""Keys that belong to no layer and are left out; a file with more of them is refused."""


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
    """The contents of a LoRA file."""

    format: Format
    layers: Mapping[PartLayer, Pair]
    embeddings: Mapping[str, Vectors] = field(default_factory=dict)
    """Learned tokens that are bundled with it, [n, w1] and [n, w2] by the name that they were trained as."""
    notes: tuple[str, ...] = ()
    """What its user should know: keys that were left out, and scales that programs read in more than one way."""

    def rank(self, *parts: str) -> int:
        """The largest of some parts; 0 if the file leaves them alone."""
        return max((pair.rank for (part, _), pair in self.layers.items() if part in parts), default=0)


@dataclass(frozen=True, eq=False)
class _KeyedTensor:
    """A tensor and the key that it has in the file."""

    key: str
    tensor: Tensor


def read_lora(file: Path, loaded: LoadedBase) -> ForeignLoRA:
    """Reads a safetensors file for a base, whose weights are not read and may be on the meta device.

    Raises BundleError that names the file, the key and what to do.
    """
    tensors, metadata = read_safetensors(file)
    bundled = {key: tensors.pop(key) for key in list(tensors) if BUNDLED.fullmatch(key)}
    by_layer, left_out = _by_layer(file, tensors, loaded)
    if not by_layer:
        raise BundleError(f"{file.name}: it holds no LoRA; import a file that does")
    scales, missing_scale_notes = _scales(file, tensors, metadata)
    shapes = {part: lora.shapes() for part, lora in loaded.lora.items()}
    layers = {
        (part, layer): _pair(file, (part, layer), factors, shapes[part][layer], scales.get(part))
        for (part, layer), factors in by_layer.items()
    }
    _all_or_none_dora(file, layers)
    formats = {format_of(key) for key in tensors}
    left_out_notes = [f"{key!r} belongs to no layer and is left out" for key in left_out]
    notes = (*left_out_notes, *missing_scale_notes, *_scale_notes(by_layer))
    named = next(name for name in get_args(Format) if name in formats)
    return ForeignLoRA(named, layers, _embeddings(file, bundled, loaded.prompts.widths), notes)


def scales_beside(file: Path) -> Path | None:
    """The adapter_config.json that says a file's scales: PEFT's own files have theirs there, others do not."""
    config = config_beside(file)
    if config is None:
        return None
    with _opened(file) as opened:
        return config if any(key.startswith(PEFT_KEY) for key in opened.keys()) else None  # noqa: SIM118


def check_size(file: Path) -> None:
    """Raises BundleError unless there is such a file, of a size that is read."""
    if not file.is_file():
        raise BundleError(f"{file}: there is no such file; give the path of a .safetensors file")
    if file.stat().st_size > MAX_BYTES:
        raise BundleError(f"{file}: {file.stat().st_size} bytes; at most {MAX_BYTES} are read")


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's tensors and metadata; BundleError if it is not there, too large, or no safetensors file."""
    with _opened(file) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    check_size(file)
    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except (SafetensorError, OSError) as problem:
        raise BundleError(
            f"{file}: not a safetensors file ({problem}); nothing else is read, since a pickle can run programs"
        ) from None


def _by_layer(
    file: Path, tensors: Mapping[str, Tensor], loaded: LoadedBase
) -> tuple[dict[PartLayer, dict[Kind, _KeyedTensor]], list[str]]:  # fmt: skip
    """Tensors by layer and kind, and the keys that belong to no layer."""
    spellings, left_out = Spellings(loaded, file.name), []
    by_layer: dict[PartLayer, dict[Kind, _KeyedTensor]] = {}
    for key, tensor in tensors.items():
        named = spellings.read(key)
        if named is None:
            left_out.append(key)
            continue
        keyed = _KeyedTensor(key, tensor.float() if named.kind in NUMBERS else tensor)  # some write them as integers
        if (before := by_layer.setdefault(named.part_layer, {}).setdefault(named.kind, keyed)) is not keyed:
            raise BundleError(f"{file.name}: {key!r} and {before.key!r} are the same factor; remove one of them")
    if len(left_out) > MAX_LEFT_OUT:
        raise BundleError(
            f"{file.name}: {len(left_out)} keys belong to no layer, {left_out[0]!r} and {left_out[1]!r} among them; "
            "import a file without them"
        )
    return by_layer, left_out


def _scales(
    file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, PeftScale], list[str]]:  # fmt: skip
    """PEFT's scales by part, and a note where a file of its own lacks them."""
    scales = scales_in_metadata(file.name, metadata)
    if not any(key.startswith(PEFT_KEY) for key in tensors) or UNET in scales:
        return scales, []
    config = config_beside(file)
    if config is None:
        note = f"no {CONFIG} lies beside {file.name}, so that lora_alpha / r is taken to be 1; put PEFT's there and"
        return scales, [f"{note} import again if it is not"]
    return scales | {UNET: scale_beside(config)}, []


def _scale_notes(by_layer: Mapping[PartLayer, Mapping[Kind, _KeyedTensor]]) -> list[str]:
    """Where a layer's .scale says something else than its alpha."""
    differing = []
    for tensors in by_layer.values():
        usual = float(tensors["alpha"].tensor) / len(tensors["A"].tensor) if "alpha" in tensors else 1.0
        if "scale" in tensors and float(tensors["scale"].tensor) != usual:
            differing.append(tensors["scale"].key)
    more = f" and {len(differing) - 1} more stand" if len(differing) > 1 else " stands"
    reading = "in place of alpha / rank, as A1111 reads it; other programs do not"
    return [f"{differing[0]!r}{more} {reading}"] if differing else []


def _embeddings(file: Path, bundled: Mapping[str, Tensor], widths: tuple[int, int]) -> dict[str, Vectors]:
    """OneTrainer's bundled embeddings by name, each for both text encoders."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in bundled.items():
        if match := BUNDLED.fullmatch(key):
            by_name.setdefault(match["name"], {})[match["key"]] = tensor
    vectors: dict[str, Vectors] = {}
    for name, pair in by_name.items():
        sizes = {key: list(tensor.shape) for key, tensor in sorted(pair.items())}
        rows = next(iter(sizes.values()))[:1]
        if not rows or sizes != {"clip_g": [*rows, widths[1]], "clip_l": [*rows, widths[0]]}:
            raise BundleError(
                f"{file.name}: the embedding {name!r} bundled with it is {sizes}; SDXL takes clip_l [n, {widths[0]}] "
                f"and clip_g [n, {widths[1]}]; export it with both, or import a file without it"
            )
        vectors[name] = pair["clip_l"], pair["clip_g"]
    return vectors


def _pair(
    file: Path, part_layer: PartLayer, tensors: Mapping[Kind, _KeyedTensor], shape: LayerShape, config: PeftScale | None
) -> Pair:  # fmt: skip
    """A layer's tensors in PEFT's shapes, with its scale in B."""
    factors: tuple[tuple[Kind, str], ...] = (("A", "down (A)"), ("B", "up (B)"))
    missing = [name for kind, name in factors if kind not in tensors]
    if missing:
        key = next(iter(tensors.values())).key
        raise BundleError(f"{file.name}: {key!r} comes without its layer's {missing[0]}; fetch the file again")
    rank = tensors["A"].tensor.shape[0] if tensors["A"].tensor.dim() else 0
    A = _fitted(file, tensors["A"], factor_shape("A", rank, shape))
    B = _fitted(file, tensors["B"], factor_shape("B", rank, shape))
    m = _fitted(file, tensors["m"], factor_shape("m", rank, shape)) if "m" in tensors else None
    return Pair(A, _scaled(B, _scale(file, part_layer, tensors, config)), m)


def _scale(file: Path, part_layer: PartLayer, tensors: Mapping[Kind, _KeyedTensor], config: PeftScale | None) -> float:
    """A layer's scale: its own `.scale`, or its alpha / rank, or PEFT's configuration, or 1."""
    rank = len(tensors["A"].tensor)
    written = {kind: float(_fitted(file, tensors[kind], ())) for kind in NUMBERS if kind in tensors}
    if written:
        return written.get("scale", written.get("alpha", 0.0) / rank)
    if config is None:
        return 1.0
    r, scale = config.at(*part_layer)
    if r != rank:
        key = tensors["A"].key
        raise BundleError(f"{file.name}: {key!r} has rank {rank}, PEFT's configuration {r}; fetch it again")
    return scale


def _fitted(file: Path, keyed: _KeyedTensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor in the shape of its layer's; factors of 1x1 kernels and of linear layers are written either way."""
    tensor, is_size = keyed.tensor, list(keyed.tensor.shape)
    if not tensor.is_floating_point() or not tensor.numel() or _bare(is_size) != _bare(shape):
        raise BundleError(
            f"{file.name}: {keyed.key!r} is {tensor.dtype} {is_size}, its layer takes floats {list(shape)}; import a "
            "file made for SDXL, not for Stable Diffusion 1 or 2"
        )
    if not torch.isfinite(tensor.float()).all():
        raise BundleError(f"{file.name}: {keyed.key!r} holds a value that is not finite; fetch the file again")
    return (tensor if tensor.dtype in KEPT else tensor.float()).reshape(shape)


def _bare(shape: Sequence[int]) -> list[int]:
    """A shape without the ones at its end."""
    return [size for i, size in enumerate(shape) if any(rest != 1 for rest in shape[i:])]


def _scaled(B: Tensor, scale: float) -> Tensor:
    """B * scale, in fp32 where its own type cannot hold that."""
    exact = B.float() * scale
    own = exact.to(B.dtype)
    return own if torch.equal(own.float(), exact) else exact


def _all_or_none_dora(file: Path, layers: Mapping[PartLayer, Pair]) -> None:
    plain = [layer for (_, layer), pair in layers.items() if pair.m is None]
    if 0 < len(plain) < len(layers):
        raise BundleError(
            f"{file.name}: layer {plain[0]!r} has no magnitude and others have; import a file that is DoRA throughout"
        )
